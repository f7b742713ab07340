//! The real thing: hub, agent and client as processes of their own, with their own keys, in a
//! directory of their own.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{self, Context, PollEvents, SocketType};
use fieldpost_sockets::{Errno, Frame, KeyPair, PublicKey, Socket};
use fieldpost_wire::{RunId, UnixMillis};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

use crate::Outcome;
use crate::child::Process;
use crate::ports::Ports;

/// The programs that are measured.
#[derive(Debug, Clone)]
pub struct Programs {
    pub agent: PathBuf,
    pub hub: PathBuf,
    pub skeleton: PathBuf,
}

/// A directory that goes when it is dropped.
pub struct Place(PathBuf);

/// All of them, for when somebody ends us.
static PLACES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

impl Place {
    pub fn make(within: &Path) -> Outcome<Self> {
        let path = within.join(format!("fp-bench-{:08x}", fastrand::u32(..)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Ok(mut places) = PLACES.lock() {
            places.push(path.clone());
        }
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
        if let Ok(mut places) = PLACES.lock() {
            places.retain(|place| *place != self.0);
        }
    }
}

/// On Ctrl-C and the like, stores of gigabytes are not left behind. To be called before any
/// thread starts.
pub fn clean_up_when_told_to_end() -> Outcome<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            let places = PLACES.lock().map(|places| places.clone()).unwrap_or_default();
            for place in places {
                if let Err(error) = fs::remove_dir_all(&place) {
                    eprintln!("{} stays: {error}", place.display());
                }
            }
            // The processes that were started go with this one.
            std::process::exit(130);
        }
    });
    Ok(())
}

/// A hub that runs.
pub struct Hub {
    process: Process,
    pub public: PublicKey,
    pub triggers: String,
    pub results: String,
    clients: String,
    events: String,
    client_keys: KeyPair,
}

impl Hub {
    /// Starts one with an empty store in `place`.
    pub fn start(programs: &Programs, place: &Place, ports: &Ports) -> Outcome<Self> {
        let keys = KeyPair::generate();
        let client_keys = KeyPair::generate();
        let [triggers, results, clients, events] = ports.take_endpoints();
        let dir = place.path();
        let shown = dir.display();
        write_key(&dir.join("hub.key"), &keys)?;
        let config = dir.join("hub.toml");
        fs::write(
            &config,
            format!(
                r#"[hub]
state_dir = "{shown}/hub"
key_file = "{shown}/hub.key"
[listen]
triggers = "{triggers}"
results = "{results}"
clients = "{clients}"
events = "{events}"
[local]
socket = "{shown}/run/hub.sock"
events = "{shown}/run/events.sock"
[retention]
size = "100 GiB"
[[client]]
name = "bench"
key = '{}'
role = "admin"
"#,
                client_keys.public
            ),
        )?;
        let mut command = Command::new(&programs.hub);
        command.arg("hub").arg("--config").arg(&config).env("RUST_LOG", "warn");
        let process = Process::start(command.stdout(Stdio::null()))?;
        let hub =
            Self { process, public: keys.public, triggers, results, clients, events, client_keys };
        hub.client()?.call("status", json!({}))?;
        Ok(hub)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client that may do everything, and sees the events of these topics.
    pub fn client(&self) -> Outcome<Client> {
        self.client_with(&[])
    }

    pub fn client_with(&self, topics: &[&str]) -> Outcome<Client> {
        let context = Context::new();
        let make = |kind| -> Outcome<Socket> {
            let socket = Socket::new(&context, kind)?;
            socket.join_curve(&self.public, &self.client_keys.public, &self.client_keys.secret)?;
            Ok(socket)
        };
        let dealer = make(SocketType::DEALER)?;
        dealer.connect(&self.clients)?;
        let events = make(SocketType::SUB)?;
        for topic in topics {
            events.set_subscribe(topic.as_bytes())?;
        }
        events.connect(&self.events)?;
        Ok(Client { dealer, events, frame: Frame::new(), next: 1 })
    }

    /// Makes nodes known.
    pub fn import(&self, nodes: &[(String, PublicKey)]) -> Outcome<()> {
        let mut client = self.client()?;
        for some in nodes.chunks(40) {
            let nodes: Vec<Value> = some
                .iter()
                .map(|(node, key)| json!({ "node": node, "key": key.to_string() }))
                .collect();
            client.call("nodes.import", json!({ "nodes": nodes }))?;
        }
        Ok(())
    }

    pub fn stop(self) {
        self.process.stop();
    }
}

/// An agent that runs.
pub struct Agent {
    process: Process,
    status: UnixDatagram,
}

/// Jobs that the agent of the benchmark offers: nothing, a program that does nothing, and one that
/// writes a megabyte.
const JOBS: &str = r#"
[[job]]
name = "ping"
builtin = "ping"
concurrency = 8
[[job]]
name = "true"
command = ["/bin/true"]
[[job]]
name = "megabyte"
command = ["/usr/bin/head", "-c", "1000000", "/dev/zero"]
max_output = "2 MiB"
concurrency = 2
[[job]]
name = "vitals"
builtin = "system"
"#;

impl Agent {
    /// Writes its files, and says what its public key is.
    pub fn prepare(hub: &Hub, place: &Place, node: &str) -> Outcome<PublicKey> {
        let keys = KeyPair::generate();
        let dir = place.path();
        let shown = dir.display();
        write_key(&dir.join("agent.key"), &keys)?;
        fs::write(
            dir.join("agent.toml"),
            format!(
                r#"[node]
id = "{node}"
key_file = "{shown}/agent.key"
runtime_dir = "{shown}/agent-run"
state_dir = "{shown}/agent-state"
[[hub]]
triggers = "{}"
results = "{}"
server_keys = ['{}']
{JOBS}"#,
                hub.triggers, hub.results, hub.public
            ),
        )?;
        for name in ["agent-run", "agent-state"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(name))?;
        }
        Ok(keys.public)
    }

    /// Starts one that was prepared.
    pub fn start(programs: &Programs, place: &Place) -> Outcome<Self> {
        let dir = place.path();
        let path = dir.join("notify.sock");
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let status = UnixDatagram::bind(&path)?;
        status.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut command = Command::new(&programs.agent);
        command
            .args(["run", "--config"])
            .arg(dir.join("agent.toml"))
            .env("RUST_LOG", "warn")
            .env("NOTIFY_SOCKET", &path);
        let process = Process::start(&mut command)?;
        Ok(Self { process, status })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the agent tells its service manager that a hub answered.
    pub fn welcomed(&self) -> Outcome<()> {
        let mut room = [0; 4_096];
        loop {
            let length = self.status.recv(&mut room)?;
            let text = String::from_utf8_lossy(&room[..length]);
            if text.lines().any(|line| line.starts_with("STATUS=connected")) {
                return Ok(());
            }
        }
    }

    pub fn stop(self) {
        self.process.stop();
    }
}

/// Who asks the hub.
pub struct Client {
    dealer: Socket,
    events: Socket,
    frame: Frame,
    next: u64,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Client {
    /// Sends a request and gives its id.
    pub fn send(&mut self, op: &str, mut fields: Value) -> Outcome<u64> {
        let id = self.next;
        self.next += 1;
        fields["id"] = id.into();
        fields["op"] = op.into();
        self.dealer.transmit(fields.to_string().as_bytes())?;
        Ok(id)
    }

    /// The reply to a request.
    pub fn reply(&mut self, id: u64) -> Outcome<Value> {
        loop {
            receive(&self.dealer, &mut self.frame)?;
            let reply: Value = serde_json::from_slice(self.frame.bytes())?;
            if reply["id"] != id {
                continue;
            }
            if reply["ok"] == true {
                return Ok(reply);
            }
            return Err(format!("the hub refuses: {}", reply["error"]).into());
        }
    }

    pub fn call(&mut self, op: &str, fields: Value) -> Outcome<Value> {
        let id = self.send(op, fields)?;
        self.reply(id)
    }

    /// Waits for an event that contains both texts.
    pub fn event(&mut self, one: &str, other: &str) -> Outcome<()> {
        loop {
            receive(&self.events, &mut self.frame)?;
            receive(&self.events, &mut self.frame)?;
            let event = self.frame.bytes();
            if contains(event, one.as_bytes()) && contains(event, other.as_bytes()) {
                return Ok(());
            }
        }
    }

    /// Triggers a job and waits for its result twice: as an event, and stored. Gives both times
    /// in microseconds from the moment of sending.
    pub fn trigger(&mut self, job: &str, node: &str) -> Outcome<(f64, f64)> {
        // As `fieldpost trigger --wait` asks: the trigger, its reply, then for the end of it.
        let run = run_id().to_string();
        let (begin, id, live) = self.submit(&run, job, node)?;
        self.reply(id)?;
        let fields = json!({ "run_id": run, "wait_ms": 20_000, "until": "final" });
        let asked = self.send("runs", fields)?;
        self.reply(asked)?;
        Ok((live, begin.elapsed().as_secs_f64() * 1e6))
    }

    /// Triggers a job and waits for its result's event only; in microseconds.
    pub fn trigger_live(&mut self, job: &str, node: &str) -> Outcome<f64> {
        let (_, _, live) = self.submit(&run_id().to_string(), job, node)?;
        // The replies follow the commits, which go on meanwhile.
        loop {
            match self.dealer.receive(&mut self.frame) {
                Ok(()) => {}
                Err(Errno::EAGAIN) => return Ok(live),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn submit(&mut self, run: &str, job: &str, node: &str) -> Outcome<(Instant, u64, f64)> {
        let id = self.next;
        self.next += 1;
        let submit = json!({
            "id": id, "op": "submit", "run_id": run, "job": job,
            "select": { "nodes": [node] }, "ttl_ms": 60_000,
        })
        .to_string();
        let begin = Instant::now();
        self.dealer.transmit(submit.as_bytes())?;
        self.event(run, "\"event\":\"result\"")?;
        Ok((begin, id, begin.elapsed().as_secs_f64() * 1e6))
    }
}

/// Receives a frame, and waits for it.
fn receive(socket: &Socket, frame: &mut Frame) -> Outcome<()> {
    let latest = Instant::now() + PATIENCE;
    loop {
        match socket.receive(frame) {
            Ok(()) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if Instant::now() > latest {
            return Err("the hub does not answer".into());
        }
        match socket.poll(PollEvents::POLLIN, 1_000) {
            Ok(_) | Err(zmq::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A run id of now.
pub fn run_id() -> RunId {
    RunId::v7(now(), std::array::from_fn(|_| fastrand::u8(..)))
}

/// The time.
pub fn now() -> UnixMillis {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn write_key(path: &Path, keys: &KeyPair) -> Outcome<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{}", keys.secret.reveal())?;
    Ok(())
}
