//! A node: the real agent core, the files that outlive it, and programs that only pretend.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use fieldpost_agent::agent::{Agent, Identity, Now, Restored, Settings, Slot, WhenFull};
use fieldpost_agent::job::{Job, Kind, OnRestart, Program, Template};
use fieldpost_agent::spool::{self, Durability};
use fieldpost_wire::{Attempt, Name, OutboxId, Overlap, RunId, StartId, UnixMillis};

use crate::disk::Disk;
use crate::link::Link;
use crate::world::{BIRTH, SECOND, Time};

/// The jobs of every node: name, chunks of output, longest duration, queue or skip, run again.
pub const JOBS: [Sketch; 5] = [
    Sketch { name: "ping", chunks: 0, longest: 0, overlap: Overlap::Queue, rerun: false },
    Sketch { name: "read", chunks: 2, longest: 2 * SECOND, overlap: Overlap::Queue, rerun: false },
    Sketch { name: "long", chunks: 40, longest: 90 * SECOND, overlap: Overlap::Skip, rerun: false },
    Sketch { name: "again", chunks: 3, longest: 9 * SECOND, overlap: Overlap::Queue, rerun: true },
    Sketch {
        name: "slow",
        chunks: 1,
        longest: 200 * SECOND,
        overlap: Overlap::Queue,
        rerun: false,
    },
];

/// What a job of the simulated nodes is like.
#[derive(Debug, Clone, Copy)]
pub struct Sketch {
    /// Its name.
    pub name: &'static str,
    /// Its most chunks.
    pub chunks: u32,
    /// Its longest duration.
    pub longest: Time,
    /// What happens when it is busy.
    pub overlap: Overlap,
    /// Whether it is run again after a restart.
    pub rerun: bool,
}

/// A program that pretends to run.
#[derive(Debug)]
pub struct Pretence {
    /// Where the agent keeps it.
    pub slot: Slot,
    /// Which run.
    pub run: RunId,
    /// Which execution.
    pub attempt: Attempt,
    /// Pieces of output yet to come.
    pub left: u32,
    /// Whether the agent reads.
    pub read: bool,
    /// It was told to end.
    pub doomed: bool,
    /// Between two pieces.
    pub pace: Time,
    /// Steps of earlier programs in the same slot count no more.
    pub generation: u64,
}

/// A node.
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its key, as text of a key's length.
    pub key: String,
    /// The agent, while it runs.
    pub agent: Option<Agent>,
    /// Which start of the agent this is.
    pub start: u64,
    /// Its hubs, in order of preference.
    pub hubs: Vec<usize>,
    /// The link to one of them.
    pub link: Link,
    /// The file in the runtime directory.
    pub journal: Vec<u8>,
    /// The file on disk.
    pub schedule: Option<Vec<u8>>,
    /// The spool's files.
    pub disk: Disk,
    /// Which boot of which machine this is.
    pub boot_id: u32,
    /// The programs in progress.
    pub programs: BTreeMap<usize, Pretence>,
    /// By how much the wall clock is off, in milliseconds.
    pub skew_ms: i64,
    /// When the agent was killed last.
    pub killed_at: Time,
    /// When the world was already that old as the machine booted.
    pub booted: Time,
    /// The tick that was asked for.
    pub tick_at: Option<Time>,
    /// The socket refused, and is to say when it takes again.
    pub blocked: bool,
}

impl Node {
    /// A node whose agent was never started.
    pub fn new(index: usize, hubs: &[usize]) -> Self {
        let name: Name = format!("node-{index}").parse().expect("a name");
        Self {
            key: format!("{:a<40}", &*name),
            name,
            agent: None,
            start: 0,
            hubs: hubs.to_vec(),
            link: Link { hub: hubs[0], ..Link::default() },
            journal: Vec::new(),
            schedule: None,
            disk: Disk::default(),
            boot_id: 1 + 1_000 * u32::try_from(index).unwrap_or(0),
            programs: BTreeMap::new(),
            skew_ms: 0,
            killed_at: 0,
            booted: 0,
            tick_at: None,
            blocked: false,
        }
    }

    /// A second device starts with a copy of that one's card.
    pub fn copy_card(&mut self, of: &Self) {
        self.schedule.clone_from(&of.schedule);
        self.disk = of.disk.clone();
        self.skew_ms = of.skew_ms;
    }

    /// It gets a name and a key of its own.
    pub fn rename(&mut self, name: &str) {
        self.name = name.parse().expect("a name");
        self.key = format!("{name:a<40}");
    }

    /// The node's clocks.
    pub fn now(&self, time: Time) -> Now {
        let wall = i128::from(BIRTH + time / 1000) + i128::from(self.skew_ms);
        Now {
            boot: Duration::from_micros(time - self.booted) + Duration::from_secs(100),
            wall: UnixMillis(u64::try_from(wall).unwrap_or(0)),
            synchronised: self.skew_ms == 0,
        }
    }

    /// When the node's boot clock shows this.
    pub fn time_of(&self, boot: Duration) -> Time {
        let since = boot.saturating_sub(Duration::from_secs(100));
        self.booted.saturating_add(u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2))
    }

    /// Starts the agent with what is left of its files.
    pub fn boot(&mut self, time: Time, rng: &mut Rng, plan: &crate::Plan) {
        self.start += 1;
        let mut start = [0; 16];
        rng.fill(&mut start);
        let mut outbox = [0; 16];
        rng.fill(&mut outbox);
        let identity = Identity {
            start: StartId(start),
            outbox: OutboxId(outbox),
            seed: rng.u64(..),
            #[cfg(feature = "planted-bugs")]
            bugs: plan.agent_bugs,
        };
        let recovered = self.disk.recover(&self.journal);
        let mut boot_id = [7; 16];
        boot_id[..4].copy_from_slice(&self.boot_id.to_be_bytes());
        let restored = Restored {
            journal: &self.journal,
            schedule: self.schedule.as_deref(),
            spool: Some(&recovered),
            boot_id,
        };
        let settings = settings(self.name.clone(), self.hubs.len(), plan.durability);
        self.agent = Some(Agent::new(settings, restored, identity, self.now(time)));
        self.tick_at = None;
        self.blocked = false;
    }
}

fn settings(node: Name, hubs: usize, durability: Durability) -> Settings {
    Settings {
        node,
        groups: vec!["field".parse().expect("a name")],
        jobs: JOBS.iter().map(job).collect(),
        hubs: vec![1; hubs],
        version: "0.1.0",
        concurrency: 4,
        outbox_bytes: 512 * 1024,
        when_full: WhenFull::DropOldest,
        spool: Some(spool::Settings { max: 1 << 20, durability, write_budget: None }),
        time_zone: tz::TimeZone::utc(),
        grace: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    }
}

fn job(sketch: &Sketch) -> Job {
    let program = Program {
        argv: vec![Template::parse("/bin/pretend", &[]).expect("a template")],
        env: Vec::new(),
        cwd: None,
        memory: None,
    };
    Job {
        name: sketch.name.parse().expect("a name"),
        kind: if sketch.longest == 0 { Kind::Ping } else { Kind::Command(program) },
        args: Vec::new(),
        timeout: Duration::from_secs(120),
        max_output: 1 << 20,
        concurrency: 1,
        overlap: sketch.overlap,
        on_restart: if sketch.rerun { OnRestart::Rerun } else { OnRestart::Lost },
        durable: false,
    }
}
