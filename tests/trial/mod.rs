//! A site under load, and the reckoning at the end: what was asked for, what was executed, what
//! stands in the store.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fieldpost_hub::client::{Client, Error};
use fieldpost_wire::{RunId, UnixMillis};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::net::{HUB, Net};
use crate::site::{Place, Running, Site, eventually, field};

/// How long a site may take to come to rest once all is well: an agent takes up to 90 s to find
/// that its hub is silent, and then waits up to as long again.
const REST: Duration = Duration::from_secs(300);

/// How long nodes may take to start what they are asked for.
const TTL_MS: u64 = 20_000;

/// Waits without looking at anything: the pace of the load.
pub fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

/// The largest a process became, and what it wrote to disk.
#[derive(Debug, Default, Clone, Copy)]
struct Footprint {
    peak_kib: u64,
    written: u64,
}

impl Footprint {
    fn of(process: &Running) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap_or_default()
        };
        let number = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Self {
            peak_kib: number(&read("status"), "VmHWM:").unwrap_or(0),
            written: number(&read("io"), "write_bytes:").unwrap_or(0),
        }
    }

    /// Another life of the same program.
    fn add(&mut self, other: Self) {
        self.peak_kib = self.peak_kib.max(other.peak_kib);
        self.written += other.written;
    }
}

/// Where the agents' spools are.
#[derive(Debug, Clone, Copy)]
enum Spools {
    /// The first agent has none, the second has one on this machine's disk.
    OnDisk,
    /// Both have one on a file system of its own.
    OnCards,
}

/// A hub and two agents with a schedule, and triggers on top.
pub struct Trial {
    pub site: Site,
    name: &'static str,
    net: Option<Net>,
    /// What is not to count as written to disk: logs, runtime directories, the marks.
    ram: TempDir,
    /// Runs that the hub said yes to.
    asked: Vec<String>,
    /// Runs that it has not answered yet.
    unanswered: Vec<RunId>,
    /// How many it refused, as it came back after their time to live.
    too_late: usize,
    /// Earlier lives.
    hubs: Footprint,
    agents: Footprint,
}

impl Trial {
    const NODES: [&str; 2] = ["gw-1", "gw-2"];

    /// Hub and agents on hosts of their own.
    pub fn over_a_wire(name: &'static str) -> Self {
        let net = Net::new();
        let ram = tempfile::tempdir_in("/dev/shm").unwrap();
        let hosts = ram.path().join("hosts");
        let place = Place {
            listen: "*".to_owned(),
            hub: "hub.field".to_owned(),
            hub_through: net.on_hub(),
            agents_through: net.on_device(&hosts),
            log: "info".to_owned(),
        };
        fs::write(&hosts, format!("{HUB} hub.field\n")).unwrap();
        Self::new(name, Some(net), ram, place, Spools::OnDisk)
    }

    /// Hub and agents on this host.
    pub fn on_loopback(name: &'static str) -> Self {
        let ram = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = Place { log: "info".to_owned(), ..Place::default() };
        Self::new(name, None, ram, place, Spools::OnDisk)
    }

    /// As [`Trial::on_loopback`], and each agent's spool is on a file system of so many KiB that only it
    /// sees.
    pub fn on_small_cards(name: &'static str, kib: u32) -> Self {
        let ram = tempfile::tempdir_in("/dev/shm").unwrap();
        let card = ram.path().join("card");
        fs::create_dir(&card).unwrap();
        let script = format!("mount -t tmpfs -o size={kib}k tmpfs \"$0\" && exec \"$@\"");
        let card = card.display().to_string();
        let through = ["unshare", "--mount", "--map-root-user", "sh", "-c", &script, &card];
        // As root no user namespace is needed, and some hosts allow none.
        let is_root = nix::unistd::geteuid().is_root();
        let through = through.into_iter().filter(|word| !(is_root && *word == "--map-root-user"));
        let agents_through = through.map(str::to_owned).collect();
        let place = Place { log: "info".to_owned(), agents_through, ..Place::default() };
        Self::new(name, None, ram, place, Spools::OnCards)
    }

    fn new(
        name: &'static str,
        net: Option<Net>,
        ram: TempDir,
        place: Place,
        spools: Spools,
    ) -> Self {
        let mut site = Site::at(place, "");
        for node in Self::NODES {
            let (disk, own) = (site.path(node), ram.path().join(node));
            fs::create_dir_all(&disk).unwrap();
            fs::create_dir_all(own.join("run")).unwrap();
            symlink(own.join("run"), disk.join("run")).unwrap();
            symlink(own.join("log"), disk.join("log")).unwrap();
            let spool = match spools {
                Spools::OnDisk => (node == Self::NODES[1]).then(|| disk.join("spool")),
                Spools::OnCards => Some(ram.path().join("card/spool")),
            };
            let jobs = jobs(&own.join("marks").display().to_string());
            site.node(node, &format!("{}{jobs}", spool.map(in_outbox).unwrap_or_default()));
        }
        let entry = json!({
            "id": "often", "job": "mark", "every_ms": 250, "catch_up": "skip", "overlap": "queue",
        });
        site.ask("schedule.set", json!({"select": {"all": true}, "entries": [entry]}));
        let (asked, unanswered) = (Vec::new(), Vec::new());
        let (hubs, agents) = (Footprint::default(), Footprint::default());
        Self { site, name, net, ram, asked, unanswered, too_late: 0, hubs, agents }
    }

    /// The network between them.
    pub fn net(&self) -> &Net {
        self.net.as_ref().unwrap()
    }

    /// The name by which the agents know the hub leads there.
    pub fn name_leads_to(&self, address: Ipv4Addr) {
        // Written in place: the agents see this file as their /etc/hosts.
        fs::write(self.ram.path().join("hosts"), format!("{address} hub.field\n")).unwrap();
    }

    /// For so long, every node is asked for a run every quarter of a second, whether or not the
    /// hub is there to be asked.
    pub fn load(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let mut random = [0; 10];
            random.fill_with(|| fastrand::u8(..));
            self.unanswered.push(RunId::v7(wall(), random));
            self.ask();
            pause(Duration::from_millis(250).min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Asks for what was not answered yet, as any client does: with the run's own id.
    fn ask(&mut self) {
        let Ok(mut client) = Client::open(&self.site.local()) else { return };
        while let Some(run) = self.unanswered.last().copied() {
            let request = json!({
                "run_id": run.to_string(), "job": "mark", "args": {}, "select": {"all": true}, "ttl_ms": TTL_MS,
            });
            match client.call("submit", request, Duration::from_millis(500)) {
                Ok(_) => {
                    self.unanswered.pop();
                    self.asked.push(run.to_string());
                }
                // If nodes ran it before the hub died, their results come all the same.
                Err(Error::Refused { code, .. }) if code == "too_old" && is_over(run) => {
                    self.unanswered.pop();
                    self.too_late += 1;
                }
                Err(Error::Refused { code, message }) => panic!("{code}: {message}"),
                Err(_) => return,
            }
        }
    }

    /// The hub is killed, and started again.
    pub fn kill_hub(&mut self) {
        self.hubs.add(Footprint::of(&self.site.hub));
        self.site.hub.kill();
        self.site.start_hub();
    }

    /// An agent is killed, and started again.
    pub fn kill_agent(&mut self, index: usize) {
        let agent = &mut self.site.agents[index];
        self.agents.add(Footprint::of(&agent.process));
        agent.process.kill();
        agent.restart();
    }

    /// Each agent's file system is one that takes no writes, or takes them again.
    pub fn remount_cards(&self, option: &str) {
        for agent in &self.site.agents {
            let mut command = Command::new("nsenter");
            command.args(["--target", &agent.process.pid().to_string(), "--mount"]);
            if !nix::unistd::geteuid().is_root() {
                command.args(["--user", "--preserve-credentials"]);
            }
            command.args(["mount", "-o", &format!("remount,{option}")]);
            command.arg(self.ram.path().join("card"));
            // Busy as long as a segment is open.
            eventually(&format!("remount,{option}"), || {
                command.status().unwrap().success().then_some(())
            });
        }
    }

    /// How many agents said that their spool can't be used.
    pub fn complaints(&self) -> usize {
        let said = |text: String| usize::from(text.contains("the spool can't be used"));
        self.site.agents.iter().map(|agent| said(agent.process.log())).sum()
    }

    /// While the hub is away an agent is stopped, so that all is on its disk; a bit of so many records
    /// there is flipped; and it is started again. Gives how many were.
    pub fn damage_spool(&mut self, index: usize, most: usize) -> usize {
        let agent = &mut self.site.agents[index];
        self.agents.add(Footprint::of(&agent.process));
        agent.process.signal(Signal::SIGTERM);
        assert_eq!(agent.process.wait(), Some(0));
        let mut files: Vec<PathBuf> = fs::read_dir(agent.dir.join("spool"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        files.sort();
        let damaged = files.iter().map(|file| flip_bits(file, most.div_ceil(files.len()))).sum();
        agent.restart();
        damaged
    }

    /// How many programs have run.
    pub fn executions(&self) -> usize {
        self.marks().len()
    }

    /// What was executed, by the programs' own word: node, run and attempt.
    fn marks(&self) -> Vec<(String, String, u64)> {
        let of = |node: &str| {
            let text = fs::read_to_string(self.ram.path().join(node).join("marks"));
            let text = text.unwrap_or_default();
            text.lines()
                .filter_map(|line| {
                    let (run, attempt) = line.split_once(' ')?;
                    Some((node.to_owned(), run.to_owned(), attempt.parse().ok()?))
                })
                .collect::<Vec<_>>()
        };
        Self::NODES.into_iter().flat_map(of).collect()
    }

    /// All is well again: waits until nothing is missing, and counts.
    pub fn settle(self) {
        self.settle_without(0);
    }

    /// The same, where so many results may be lost by what was promised.
    pub fn settle_without(mut self, losses: usize) {
        let began = Instant::now();
        while !self.unanswered.is_empty() {
            assert!(began.elapsed() < REST, "{}: the hub does not answer", self.name);
            self.ask();
            pause(Duration::from_millis(100));
        }
        self.site.ask("schedule.clear", json!({"select": {"all": true}}));
        let mut reckoning = Reckoning::of(&self);
        while !reckoning.is_even(losses) && began.elapsed() < REST {
            pause(Duration::from_millis(500));
            reckoning = Reckoning::of(&self);
        }
        self.hubs.add(Footprint::of(&self.site.hub));
        for agent in &self.site.agents {
            self.agents.add(Footprint::of(&agent.process));
        }
        println!(
            "{}: {reckoning}, {losses} may be; {} asked for too late; hub {:.1} MiB, an agent {:.1} MiB at the most; the agents wrote {} \
             bytes to disk; at rest after {:.0} s",
            self.name,
            self.too_late,
            self.hubs.peak_kib as f64 / 1024.0,
            self.agents.peak_kib as f64 / 1024.0,
            self.agents.written,
            began.elapsed().as_secs_f64(),
        );
        if let Some(net) = &self.net {
            let carried = net.carried();
            println!(
                "{}: {} packets arrived, {} did not",
                self.name, carried.passed, carried.dropped
            );
        }
        assert!(reckoning.is_even(losses), "{}: {reckoning}", self.name);
    }
}

/// What is to be even at the end.
struct Reckoning {
    asked: usize,
    executed: usize,
    executed_twice: usize,
    stored: usize,
    stored_twice: usize,
    lost: usize,
    statuses: BTreeMap<String, usize>,
}

impl Reckoning {
    fn of(trial: &Trial) -> Self {
        let results = trial.site.results();
        let mut rows: HashMap<(&str, &str, u64), usize> = HashMap::new();
        let mut statuses = BTreeMap::new();
        for row in &results {
            let attempt = row["attempt"].as_u64().unwrap_or(0);
            *rows.entry((field(row, "node"), field(row, "run_id"), attempt)).or_default() += 1;
            *statuses.entry(field(row, "status").to_owned()).or_default() += 1;
        }
        // What the hub inferred may stand beside what the node then said: that is no duplicate.
        let inferred: HashSet<(&str, &str, u64)> = results
            .iter()
            .filter(|row| row["inferred"] == json!(true))
            .map(|row| {
                (field(row, "node"), field(row, "run_id"), row["attempt"].as_u64().unwrap_or(0))
            })
            .collect();
        let twice = |(key, count): &(&(&str, &str, u64), &usize)| {
            **count > 1 + usize::from(inferred.contains(*key))
        };
        let stored_twice = rows.iter().filter(twice).count();
        let marks = trial.marks();
        let mut executions: HashMap<(&str, &str, u64), usize> = HashMap::new();
        for (node, run, attempt) in &marks {
            *executions.entry((node, run, *attempt)).or_default() += 1;
        }
        let unstored = executions.keys().filter(|mark| !rows.contains_key(*mark)).count();
        let told: HashSet<(&str, &str)> = rows.keys().map(|(node, run, _)| (*node, *run)).collect();
        let without_status = trial
            .asked
            .iter()
            .flat_map(|run| Trial::NODES.map(|node| (node, run.as_str())))
            .filter(|pair| !told.contains(pair))
            .count();
        Self {
            asked: trial.asked.len() * Trial::NODES.len(),
            executed: executions.len(),
            executed_twice: executions.values().filter(|count| **count > 1).count(),
            stored: results.len(),
            stored_twice,
            lost: unstored + without_status,
            statuses,
        }
    }

    fn is_even(&self, losses: usize) -> bool {
        self.lost <= losses && self.stored_twice == 0 && self.executed_twice == 0
    }
}

impl std::fmt::Display for Reckoning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} runs triggered, {} executed with the schedule's, {} of them twice; {} results \
             stored {:?}, {} of them twice; {} lost",
            self.asked,
            self.executed,
            self.executed_twice,
            self.stored,
            self.statuses,
            self.stored_twice,
            self.lost
        )
    }
}

/// What makes the `[outbox]` one with this spool.
fn in_outbox(spool: PathBuf) -> String {
    format!("spool = {{ path = \"{}\" }}\n", spool.display())
}

/// Flips a bit of so many records of a segment at the most, evenly spread; gives of how many.
fn flip_bits(file: &Path, most: usize) -> usize {
    let length = fs::metadata(file).unwrap().len();
    let disk = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    // A record of these runs has some 200 bytes.
    let apart = (length / (most as u64 + 1)).max(400);
    let mut flipped = 0;
    for at in (apart..length).step_by(usize::try_from(apart).unwrap()) {
        let mut byte = [0];
        disk.read_exact_at(&mut byte, at).unwrap();
        disk.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        flipped += 1;
    }
    flipped
}

fn jobs(marks: &str) -> String {
    format!(
        r#"
[[job]]
name = "mark"
command = ["/bin/sh", "-c", "echo $FIELDPOST_RUN_ID $FIELDPOST_ATTEMPT >> {marks}; echo done"]
concurrency = 4
overlap = "queue"
"#
    )
}

/// Whether the time to live of this run is over.
fn is_over(run: RunId) -> bool {
    let made = run.0[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte));
    made + TTL_MS < wall().0
}

fn wall() -> UnixMillis {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}
