//! A hub and agents as real processes, on loopback, with keys of their own.
//!
//! ```text
//! let mut site = Site::new();
//! let gw = site.node("gw-1", PROGRAMS);
//! let run = site.trigger("say", &["word=hi"], &["--node", "gw-1"]);
//! ```
//!
//! Everything lives in one temporary directory. Whatever was started is ended when its owner is
//! dropped, by process id.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use fieldpost_hub::client::{Address, Client};
use fieldpost_sockets::{KeyPair, PublicKey, SecretKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for something that is sure to come.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Jobs that most tests need.
pub const PROGRAMS: &str = r#"
[[job]]
name = "say"
command = ["/bin/echo", "{word}"]
args.word = { pattern = "[a-z0-9 -]+", default = "hello" }

[[job]]
name = "fail"
command = ["/bin/sh", "-c", "echo partial; echo broken >&2; exit 3"]

[[job]]
name = "hang"
command = ["/bin/sh", "-c", "echo started; sleep 600 & sleep 600"]
timeout = "600s"

[[job]]
name = "brief"
command = ["/bin/sh", "-c", "trap '' TERM; setsid sleep 601 & sleep 601 & wait"]
timeout = "1s"

[[job]]
name = "big"
command = ["/bin/sh", "-c", "head -c 10485760 /dev/zero | tr '\\0' 'x'"]
timeout = "120s"
max_output = "16 MiB"

[[job]]
name = "vitals"
builtin = "system"

[[job]]
name = "ping"
builtin = "ping"
"#;

/// A running process, ended with its owner.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0);
        let child = command.spawn().unwrap();
        Self { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end and gives the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the process ends", || child.try_wait().unwrap()).code()
    }

    /// As a power cut for the process: nothing gets a chance to be written.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many threads it has, without the one of the emulator's own where there is an emulator.
    pub fn threads(&self) -> usize {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap();
        let emulated = program.file_name().unwrap().to_string_lossy().starts_with("qemu-");
        let all = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count();
        all - usize::from(emulated)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::SIGKILL);
            self.child.wait().unwrap();
        }
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Looks again and again until there is something, for [`PATIENCE`] at most.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A port that nothing listens on, outside the range from which the kernel picks.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(std::process::id() % 1_100).unwrap() * 20;
    for _ in 0..2_000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 700;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// The hub's program, beside the agent's.
fn hub_program() -> PathBuf {
    let agent = Path::new(env!("CARGO_BIN_EXE_fieldpost-agent"));
    let hub = agent.with_file_name("fieldpost");
    assert!(
        hub.exists(),
        "{} is not built; run the tests with `cargo test --workspace`",
        hub.display()
    );
    hub
}

/// The ports of one hub.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub triggers: u16,
    pub results: u16,
    pub clients: u16,
    pub events: u16,
}

impl Ports {
    pub fn free() -> Self {
        Self {
            triggers: free_port(),
            results: free_port(),
            clients: free_port(),
            events: free_port(),
        }
    }
}

/// Where the processes run, and how the agents reach the hub.
#[derive(Debug, Clone)]
pub struct Place {
    /// What the hub's ports are bound to.
    pub listen: String,
    /// The hub's address, as the agents know it.
    pub hub: String,
    /// What the hub's command line begins with (a network namespace to enter).
    pub hub_through: Vec<String>,
    /// What the agents' command lines begin with.
    pub agents_through: Vec<String>,
    /// `RUST_LOG` of all.
    pub log: String,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1".to_owned(),
            hub: "127.0.0.1".to_owned(),
            hub_through: Vec::new(),
            agents_through: Vec::new(),
            log: "debug".to_owned(),
        }
    }
}

/// A command line that begins with another one.
fn command_through(through: &[String], program: &Path) -> Command {
    match through.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

/// One hub, and the agents that know it.
pub struct Site {
    pub hub: Running,
    pub ports: Ports,
    pub server: PublicKey,
    pub agents: Vec<Agent>,
    pub place: Place,
    dir: TempDir,
}

/// One agent.
pub struct Agent {
    pub name: String,
    pub process: Running,
    pub key: PublicKey,
    pub dir: PathBuf,
    place: Place,
}

impl Agent {
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    pub fn secret(&self) -> SecretKey {
        read_secret(&self.dir.join("agent.key"))
    }

    pub fn restart(&mut self) {
        let mut command = agent_command(&self.config(), &self.place);
        self.process = Running::start(&mut command, self.dir.join("log"));
    }

    /// Waits until the hub has answered its `Hello`: both directions work.
    pub fn wait_until_welcome(&self) {
        eventually(&format!("{} is welcomed", self.name), || {
            self.process.log().contains("welcomed by hub").then_some(())
        });
    }
}

fn start_agent(name: &str, dir: PathBuf, key: PublicKey, place: &Place) -> Agent {
    let mut command = agent_command(&dir.join("agent.toml"), place);
    let process = Running::start(&mut command, dir.join("log"));
    Agent { name: name.to_owned(), process, key, dir, place: place.clone() }
}

fn agent_command(config: &Path, place: &Place) -> Command {
    let mut command = command_through(&place.agents_through, &agent_program());
    command.arg("run").arg("--config").arg(config).env("RUST_LOG", &place.log);
    command
}

/// The agent to test: the one just built, or another, such as an ARM binary behind an emulator.
pub fn agent_program() -> PathBuf {
    std::env::var_os("FIELDPOST_AGENT")
        .map_or_else(|| env!("CARGO_BIN_EXE_fieldpost-agent").into(), PathBuf::from)
}

/// The secret key in a key file.
pub fn read_secret(file: &Path) -> SecretKey {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.trim_matches('"').parse().ok())
        .next()
        .unwrap_or_else(|| panic!("no secret key in {}", file.display()))
}

impl Site {
    /// A hub that is ready, without nodes.
    pub fn new() -> Self {
        Self::with("")
    }

    /// A hub whose configuration ends with `extra`.
    pub fn with(extra: &str) -> Self {
        Self::at(Place::default(), extra)
    }

    /// A hub at a place of its own.
    pub fn at(place: Place, extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::free();
        let config = hub_config(dir.path(), &place.listen, ports, extra);
        fs::write(dir.path().join("hub.toml"), config).unwrap();
        let hub = start_hub(dir.path(), &place);
        let (server, agents) = (PublicKey([0; 32]), Vec::new());
        let mut site = Self { hub, ports, server, agents, place, dir };
        site.wait_for_hub();
        site.server = read_secret(&site.path("hub.key")).public();
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn wait_for_hub(&mut self) {
        eventually("the hub answers", || {
            assert!(self.hub.is_running(), "the hub ended:\n{}", self.hub.log());
            let mut client = Client::open(&self.local()).ok()?;
            client.call("status", json!({}), Duration::from_secs(2)).ok()
        });
    }

    /// Starts the hub again after it was ended.
    pub fn start_hub(&mut self) {
        self.hub = start_hub(self.dir.path(), &self.place);
        self.wait_for_hub();
    }

    /// Starts the hub without waiting for it to answer.
    pub fn start_hub_unwatched(&mut self) {
        self.hub = start_hub(self.dir.path(), &self.place);
    }

    pub fn local(&self) -> Address {
        Address::Local { socket: self.path("hub.sock"), events: self.path("events.sock") }
    }

    pub fn client(&self) -> Client {
        Client::open(&self.local()).unwrap()
    }

    pub fn remote(&self, keys: &KeyPair) -> Address {
        Address::Remote {
            hub: format!("tcp://127.0.0.1:{}", self.ports.clients),
            events: format!("tcp://127.0.0.1:{}", self.ports.events),
            server: self.server,
            keys: keys.clone(),
        }
    }

    /// One request as the local operator.
    pub fn ask(&self, op: &str, fields: Value) -> Value {
        self.client().call(op, fields, PATIENCE).unwrap_or_else(|error| panic!("{op}: {error}"))
    }

    /// One request that the hub refuses: the code and the message.
    pub fn refused(&self, op: &str, fields: Value) -> (String, String) {
        match self.client().call(op, fields, PATIENCE) {
            Err(fieldpost_hub::client::Error::Refused { code, message }) => (code, message),
            other => panic!("{op} was not refused: {other:?}"),
        }
    }

    /// `fieldpost …`, as typed on the hub's host.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(hub_program())
            .args(args)
            .env("FIELDPOST_HUB", self.path("hub.sock"))
            .env("FIELDPOST_EVENTS", self.path("events.sock"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Makes an agent with a key of its own and starts it; nobody has accepted it yet.
    pub fn stranger(&self, name: &str, jobs: &str) -> Agent {
        self.agent_of(name, jobs, self.server, None)
    }

    /// Makes an agent, starts it, accepts it, and waits until it is connected.
    pub fn node(&mut self, name: &str, jobs: &str) -> usize {
        // Accepted before it starts: a stranger that is let in later has to come again first.
        let (dir, key) = self.prepare(name, jobs, self.server, None);
        self.ask("nodes.accept", json!({"key": key.to_string(), "node": name}));
        let agent = start_agent(name, dir, key, &self.place);
        agent.wait_until_welcome();
        self.agents.push(agent);
        self.agents.len() - 1
    }

    /// An agent that believes in this server key, and may share another one's own key.
    pub fn agent_of(
        &self,
        name: &str,
        jobs: &str,
        server: PublicKey,
        key_of: Option<&Agent>,
    ) -> Agent {
        let (dir, key) = self.prepare(name, jobs, server, key_of);
        start_agent(name, dir, key, &self.place)
    }

    /// A directory with a configuration and a key.
    fn prepare(
        &self,
        name: &str,
        jobs: &str,
        server: PublicKey,
        key_of: Option<&Agent>,
    ) -> (PathBuf, PublicKey) {
        let twin = if key_of.is_some() { "-twin" } else { "" };
        let dir = self.path(&format!("{name}{twin}"));
        fs::create_dir_all(dir.join("run")).unwrap();
        let config = agent_config(name, &dir, &self.place.hub, self.ports, server, jobs);
        fs::write(dir.join("agent.toml"), config).unwrap();
        match key_of {
            Some(other) => {
                fs::copy(other.dir.join("agent.key"), dir.join("agent.key")).unwrap();
            }
            None => {
                let made = Command::new(agent_program())
                    .args(["key", "new", "--config"])
                    .arg(dir.join("agent.toml"))
                    .output()
                    .unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            }
        }
        let key = read_secret(&dir.join("agent.key")).public();
        (dir, key)
    }

    /// What the hub knows of a node.
    pub fn node_record(&self, name: &str) -> Value {
        self.ask("nodes.show", json!({"node": name}))
    }

    /// Submits a trigger and gives the run's id.
    pub fn submit(&self, job: &str, args: Value, select: Value) -> String {
        let answer = self
            .ask("submit", json!({"job": job, "args": args, "select": select, "ttl_ms": 30_000}));
        answer["run_id"].as_str().unwrap().to_owned()
    }

    /// Waits until a run is final and durable on all nodes, and gives its result on each.
    pub fn finished(&self, run: &str) -> Vec<Value> {
        eventually(&format!("run {run} is final"), || {
            let answer =
                self.ask("runs", json!({"run_id": run, "until": "final", "wait_ms": 10_000}));
            let run = answer["runs"].get(0).cloned().unwrap_or_else(|| answer.clone());
            let nodes = run["nodes"].as_array().cloned().unwrap_or_default();
            let results = nodes.iter().map(|node| node["result"].clone()).collect();
            (!nodes.is_empty() && run["final"] == json!(true)).then_some(results)
        })
    }

    /// The bytes that a run wrote on a node.
    pub fn output(&self, run: &str, node: &str) -> Vec<u8> {
        let out = self.cli(&["output", run, "--node", node]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// Every result in the store, in the cursor's order.
    pub fn results(&self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or(0, |r: &Value| r["offset"].as_u64().unwrap());
            let page = self.ask("results", json!({"after": after, "limit": 500}));
            let page = page["results"].as_array().unwrap().clone();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}

/// A text field of a JSON object, empty where there is none.
pub fn field<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or("")
}

fn start_hub(dir: &Path, place: &Place) -> Running {
    let mut command = command_through(&place.hub_through, &hub_program());
    command.arg("hub").arg("--config").arg(dir.join("hub.toml")).env("RUST_LOG", &place.log);
    Running::start(&mut command, dir.join("hub.log"))
}

fn hub_config(dir: &Path, listen: &str, ports: Ports, extra: &str) -> String {
    let d = dir.display();
    let Ports { triggers, results, clients, events } = ports;
    format!(
        r#"[hub]
state_dir = "{d}/store"
key_file = "{d}/hub.key"
[listen]
triggers = "tcp://{listen}:{triggers}"
results = "tcp://{listen}:{results}"
clients = "tcp://{listen}:{clients}"
events = "tcp://{listen}:{events}"
[local]
socket = "{d}/hub.sock"
events = "{d}/events.sock"
{extra}"#
    )
}

fn agent_config(
    name: &str,
    dir: &Path,
    hub: &str,
    ports: Ports,
    server: PublicKey,
    jobs: &str,
) -> String {
    let d = dir.display();
    let Ports { triggers, results, .. } = ports;
    format!(
        r#"[node]
id = "{name}"
groups = ["field"]
key_file = "{d}/agent.key"
state_dir = "{d}"
runtime_dir = "{d}/run"
[[hub]]
triggers = "tcp://{hub}:{triggers}"
results = "tcp://{hub}:{results}"
server_keys = ["{server}"]
[outbox]
memory = "1 MiB"
{jobs}"#
    )
}
