//! A power cut at every write: what an agent does to its files is recorded, and an agent is started
//! on what every prefix of that may leave: with what was not synced there, missing, torn, zeroed
//! or in another order.
//!
//! It always starts; everything that was synced reaches the hub, as it was; nothing else does; and
//! with `always` nothing runs twice. The journal lies in RAM: there a killed agent is what can cut a write.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fieldpost_agent::agent::{
    Agent, Identity, Input, Now, Output, Restored, Settings, Slot, Usage, Vitals, WhenFull,
};
use fieldpost_agent::job::{Job, Kind, OnRestart, Program, Template};
use fieldpost_agent::spool::{self, Done, Durability, Recovered, Work};
use fieldpost_wire::{
    Ack, Attempt, Beacon, CatchUp, Command, Entry, Exit, HubId, List, OutboxId, Overlap, Report,
    RunId, Schedule, ScheduleVersion, SeqRange, StartId, Tag, Trigger, UnixMillis, Welcome, When,
};

const SECTOR: usize = 512;
const EPOCH: u64 = 1_700_000_000_000;

/// What was done to the files.
#[derive(Debug, Clone)]
enum Op {
    Append {
        segment: u32,
        at: usize,
        bytes: Vec<u8>,
    },
    Sync {
        segment: u32,
    },
    Delete {
        segment: u32,
    },
    /// The schedule is replaced: a draft is written and synced, renamed, and the directory synced.
    Draft(Vec<u8>),
    Rename,
    SyncDirectory,
    Journal {
        replaces: bool,
        bytes: Vec<u8>,
    },
    Started(RunId),
    /// The hub has its end, and will not ask for it again.
    Settled(RunId),
}

/// The files, and what of them is safe.
#[derive(Debug, Clone, Default)]
struct Files {
    segments: BTreeMap<u32, (Vec<u8>, usize)>,
    schedule: Option<Vec<u8>>,
    /// What the name may still stand for after a power cut.
    former: Option<Option<Vec<u8>>>,
    draft: Vec<u8>,
    journal: Vec<u8>,
    started: Vec<RunId>,
}

impl Files {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append { segment, at, bytes } => {
                let file = &mut self.segments.entry(*segment).or_default().0;
                file.truncate(*at);
                file.extend_from_slice(bytes);
            }
            Op::Sync { segment } => {
                let file = self.segments.get_mut(segment).unwrap();
                file.1 = file.0.len();
            }
            Op::Delete { segment } => {
                self.segments.remove(segment);
            }
            Op::Draft(bytes) => self.draft.clone_from(bytes),
            Op::Rename => self.former = Some(self.schedule.replace(self.draft.clone())),
            Op::SyncDirectory => self.former = None,
            Op::Journal { replaces: true, bytes } => self.journal.clone_from(bytes),
            Op::Journal { replaces: false, bytes } => self.journal.extend_from_slice(bytes),
            Op::Started(run) => self.started.push(*run),
            Op::Settled(run) => self.started.retain(|started| started != run),
        }
    }

    /// What a power cut may leave.
    fn after_a_cut(&self, fate: Fate, rng: &mut fastrand::Rng) -> Self {
        let mut left = Self { journal: Vec::new(), ..self.clone() };
        if let Some(former) = &self.former
            && rng.bool()
        {
            left.schedule.clone_from(former);
        }
        left.segments.retain(|_, (bytes, synced)| {
            let unsynced = bytes.len() - *synced;
            match fate {
                Fate::Gone => bytes.truncate(*synced),
                Fate::There => {}
                Fate::Torn => bytes.truncate(*synced + rng.usize(0..=unsynced)),
                Fate::Zeroed => bytes[*synced..].fill(0),
                Fate::Reordered => {
                    for sector in bytes[*synced..].chunks_mut(SECTOR) {
                        match rng.u32(0..3) {
                            0 => sector.fill(0),
                            1 => rng.fill(sector),
                            _ => {}
                        }
                    }
                }
            }
            // A file whose name was never synced may be gone, or empty.
            *synced > 0 || (fate != Fate::Gone && rng.bool())
        });
        left
    }
}

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Gone,
    There,
    Torn,
    Zeroed,
    Reordered,
}

const FATES: [Fate; 5] = [Fate::Gone, Fate::There, Fate::Torn, Fate::Zeroed, Fate::Reordered];

fn job(name: &str, kind: Kind) -> Job {
    Job {
        name: name.parse().unwrap(),
        kind,
        args: Vec::new(),
        timeout: Duration::from_secs(100_000),
        max_output: 1 << 30,
        concurrency: 2,
        overlap: Overlap::Queue,
        on_restart: OnRestart::Lost,
        durable: false,
    }
}

fn settings(durability: Durability) -> Settings {
    let program = Program {
        argv: vec![Template::parse("/bin/pretend", &[]).unwrap()],
        env: Vec::new(),
        cwd: None,
        memory: None,
    };
    Settings {
        node: "gw".parse().unwrap(),
        groups: Vec::new(),
        jobs: vec![job("ping", Kind::Ping), job("read", Kind::Command(program))],
        hubs: vec![1],
        version: "0.1.0",
        concurrency: 2,
        outbox_bytes: 256 * 1024,
        when_full: WhenFull::DropOldest,
        spool: Some(spool::Settings { max: 1 << 20, durability, write_budget: None }),
        time_zone: tz::TimeZone::utc(),
        grace: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    }
}

/// An agent, its files, and a hub that may be there.
struct Rig {
    agent: Agent,
    start: StartId,
    boot: Duration,
    files: Files,
    ops: Vec<Op>,
    /// Reports that came, by tag.
    came: BTreeMap<(OutboxId, u64), Vec<u8>>,
    to_ack: Vec<Tag>,
    slots: Vec<(Slot, RunId)>,
    /// How many runs were started here.
    starts: usize,
}

impl Rig {
    fn on(files: Files, durability: Durability, id: u8, boot_id: u8) -> Self {
        let mut recovered = Recovered::new(&files.journal);
        let mut files = files;
        files.started.clear();
        files.segments.retain(|number, (bytes, synced)| {
            let verdict = recovered.add(*number, bytes);
            bytes.truncate(verdict.keep);
            *synced = bytes.len();
            verdict.useful
        });
        let boot = Duration::from_secs(10_000 * u64::from(boot_id));
        let restored = Restored {
            journal: &files.journal,
            schedule: files.schedule.as_deref(),
            spool: Some(&recovered),
            boot_id: [boot_id; 16],
        };
        let start = StartId([id; 16]);
        let identity = Identity::new(start, OutboxId([id; 16]), id.into());
        let now = Self::now(boot);
        let agent = Agent::new(settings(durability), restored, identity, now);
        let mut rig = Self {
            agent,
            start,
            boot,
            files,
            ops: Vec::new(),
            came: BTreeMap::new(),
            to_ack: Vec::new(),
            slots: Vec::new(),
            starts: 0,
        };
        rig.drain();
        rig
    }

    fn now(boot: Duration) -> Now {
        let wall = UnixMillis(EPOCH + boot.as_millis() as u64);
        Now { boot, wall, synchronised: true }
    }

    fn give(&mut self, input: Input<'_>) {
        self.agent.handle(Self::now(self.boot), input);
        self.drain();
    }

    fn hear(&mut self, command: &Command<'_>) {
        let mut body = vec![0; 60 * 1024];
        let body = command.encode(&mut body).unwrap().to_vec();
        self.give(Input::Command(&body));
    }

    fn time(&self) -> UnixMillis {
        Self::now(self.boot).wall
    }

    fn welcome(&mut self) {
        let (hub, start) = (HubId([9; 16]), StartId([1; 16]));
        let (agent_start, time) = (self.start, self.time());
        let schedule = ScheduleVersion::default();
        self.hear(&Command::Welcome(Welcome { hub, start, agent_start, time, wire: 1, schedule }));
    }

    fn trigger(&mut self, n: u8) {
        let (run, attempt) = (RunId::v7(UnixMillis(EPOCH), [n; 10]), Attempt(1));
        let deadline = UnixMillis(EPOCH + 86_400_000);
        let args = List::empty();
        let (job, origin) = ("read", "");
        self.hear(&Command::Trigger(Trigger { run, attempt, job, args, deadline, origin }));
    }

    fn set_schedule(&mut self, counter: u64) {
        let mut list = [0; 256];
        let entry = Entry {
            id: "often",
            job: "ping",
            args: List::empty(),
            when: When::EveryMs(1000),
            splay_ms: 0,
            catch_up: CatchUp::Skip,
            overlap: Overlap::Skip,
            timeout_ms: None,
        };
        let entries = List::encode(&mut list, [entry]).unwrap();
        let version = ScheduleVersion { epoch: 1, counter };
        self.hear(&Command::Schedule(Schedule { version, entries }));
    }

    fn pass(&mut self, seconds: u64, hub: bool) {
        let end = self.boot + Duration::from_secs(seconds);
        while self.boot < end {
            let next = self.agent.next_deadline().unwrap_or(end);
            self.boot = next.min(end).max(self.boot + Duration::from_millis(1));
            self.give(Input::Tick);
            if hub {
                let (hub, start, time) = (HubId([9; 16]), StartId([1; 16]), self.time());
                self.hear(&Command::Beacon(Beacon { hub, start, time }));
                self.ack();
            }
        }
    }

    fn ack(&mut self) {
        while !self.to_ack.is_empty() {
            for Tag { outbox, seq } in std::mem::take(&mut self.to_ack) {
                let report = Report::decode(&self.came[&(outbox, seq.0)]);
                let end = report.ok().and_then(|(_, report)| match report {
                    Report::Finished(end) => Some(end.run),
                    _ => None,
                });
                if let Some(run) = end {
                    self.record(Op::Settled(run));
                }
                let mut list = [0; 64];
                let ranges = List::encode(&mut list, [SeqRange { first: seq, last: seq }]).unwrap();
                self.hear(&Command::Ack(Ack { outbox, ranges }));
            }
        }
    }

    fn record(&mut self, op: Op) {
        self.files.apply(&op);
        self.ops.push(op);
    }

    fn drain(&mut self) {
        loop {
            let Some(output) = self.agent.poll_output() else { return };
            match output {
                Output::Send(body) => {
                    if let (Some(tag), _) = Report::decode(body).unwrap() {
                        self.came.insert((tag.outbox, tag.seq.0), body.to_vec());
                        self.to_ack.push(tag);
                    }
                    self.agent.handle(Self::now(self.boot), Input::Sent);
                }
                Output::Spool(work) => {
                    let op = match work {
                        Work::Append { segment, at, bytes } => {
                            Op::Append { segment, at: at as usize, bytes: bytes.to_vec() }
                        }
                        Work::Sync { segment } => Op::Sync { segment },
                        Work::Delete { segment } | Work::SetAside { segment } => {
                            Op::Delete { segment }
                        }
                        Work::Read { segment } => {
                            let bytes = self.files.segments[&segment].0.clone();
                            let done = Input::Spooled(Done::Read(&bytes));
                            self.agent.handle(Self::now(self.boot), done);
                            continue;
                        }
                    };
                    self.record(op);
                    self.agent.handle(Self::now(self.boot), Input::Spooled(Done::Well));
                }
                Output::SaveSchedule(bytes) => {
                    let bytes = bytes.to_vec();
                    self.record(Op::Draft(bytes));
                    self.record(Op::Rename);
                    self.record(Op::SyncDirectory);
                }
                Output::AppendJournal(bytes) => {
                    let bytes = bytes.to_vec();
                    self.record(Op::Journal { replaces: false, bytes });
                }
                Output::ReplaceJournal(bytes) => {
                    let bytes = bytes.to_vec();
                    self.record(Op::Journal { replaces: true, bytes });
                }
                Output::Start { slot } => {
                    let run = self.agent.launch(slot).unwrap().run;
                    self.slots.push((slot, run));
                    self.starts += 1;
                    self.record(Op::Started(run));
                }
                Output::WantVitals => {
                    let vitals = Input::Vitals(Vitals::default());
                    self.agent.handle(Self::now(self.boot), vitals);
                }
                _ => {}
            }
        }
    }

    /// The program in the oldest slot writes so much, and ends.
    fn run_to_end(&mut self, bytes: usize, byte: u8) {
        let (slot, _) = self.slots.remove(0);
        for _ in 0..bytes / 4096 {
            self.give(Input::Stdout { slot, bytes: &[byte; 4096] });
        }
        let usage = Usage::default();
        self.give(Input::Ended { slot, exit: Exit::Code(0), usage, note: "" });
    }

    /// Welcomes the agent, and acks until nothing more comes.
    fn meet_hub(&mut self) {
        self.welcome();
        self.ack();
        self.pass(3, true);
    }

    /// What came of the outbox that is told apart by `id`: seqs and bodies.
    fn came_of(&self, id: u8) -> BTreeMap<u64, Vec<u8>> {
        let of = self.came.iter().filter(|((outbox, _), _)| *outbox == OutboxId([id; 16]));
        of.map(|((_, seq), body)| (*seq, body.clone())).collect()
    }
}

/// An agent's life: hub there, hub away with output and a schedule until the spool is full and the
/// oldest is dropped, hub back. Gives what was done to its files, and all reports it ever made.
fn life(durability: Durability) -> (Vec<Op>, BTreeMap<u64, Vec<u8>>) {
    let mut rig = Rig::on(Files::default(), durability, 7, 1);
    rig.meet_hub();
    rig.set_schedule(1);
    rig.pass(3, true);
    for n in 1..=8 {
        rig.trigger(n);
    }
    rig.pass(1, true);
    // Nobody acks from here on.
    rig.run_to_end(20_000, 1);
    rig.pass(3, false);
    rig.run_to_end(40_000, 2);
    rig.pass(95, false);
    for n in 3..=6 {
        rig.run_to_end(400_000, n);
        rig.pass(4, false);
    }
    rig.set_schedule(2);
    while rig.agent.next_deadline().is_some() && rig.came.is_empty() {
        rig.pass(1, false);
    }
    rig.meet_hub();
    rig.run_to_end(20_000, 7);
    rig.pass(10, false);
    rig.ack();
    rig.pass(60, true);
    let came = rig.came_of(7);
    (rig.ops, came)
}

/// As it was, but for the word that its output was dropped.
fn same_report(one: &[u8], other: &[u8]) -> bool {
    let (one_last, one) = one.split_last().unwrap();
    let (other_last, other) = other.split_last().unwrap();
    one == other
        && (one_last == other_last
            || matches!(Report::decode(&[one, &[1]].concat()), Ok((_, Report::Finished(_)))))
}

/// Whose output this is; for another report nobody's.
fn output_of(body: &[u8]) -> Option<RunId> {
    match Report::decode(body) {
        Ok((_, Report::Output(output))) => Some(output.run),
        _ => None,
    }
}

/// Whose output was dropped, as this report says.
fn dropped(body: &[u8]) -> Option<Option<RunId>> {
    match Report::decode(body) {
        Ok((_, Report::Finished(end))) if end.output_dropped => Some(Some(end.run)),
        _ => None,
    }
}

fn play(durability: Durability) {
    let (ops, made) = life(durability);
    let mut rng = fastrand::Rng::with_seed(4);
    let mut files = Files::default();
    let mut cuts = 0;
    let (mut least_safe, mut most_safe) = (usize::MAX, 0);
    let before = std::iter::once(None).chain(ops.iter().map(Some));
    for (at, op) in before.enumerate() {
        if let Some(op) = op {
            files.apply(op);
            if matches!(op, Op::Settled(_) | Op::Started(_)) {
                continue; // no write
            }
        }
        // What is safe: what comes if all that was not synced is gone.
        let mut safe = BTreeSet::new();
        for fate in FATES {
            let left = files.after_a_cut(fate, &mut rng);
            let started = left.started.clone();
            let found: BTreeSet<u32> = left.segments.keys().copied().collect();
            let mut rig = Rig::on(left, durability, 8, 2);
            rig.meet_hub();
            if durability == Durability::Always {
                for run in &started {
                    rig.trigger(run.0[15]);
                }
                assert_eq!(rig.starts, 0, "op {at}, {fate:?}: a run starts twice");
            }
            let came = rig.came_of(7);
            let seqs: BTreeSet<u64> = came.keys().copied().collect();
            if fate == Fate::Gone {
                // The drop policy may have taken its output, a moment before the power went.
                safe = came.iter().map(|(seq, body)| (*seq, output_of(body))).collect();
                least_safe = least_safe.min(safe.len());
                most_safe = most_safe.max(safe.len());
            } else {
                let dropped: BTreeSet<_> =
                    came.values().chain(made.values()).filter_map(|body| dropped(body)).collect();
                let lost: Vec<_> = safe
                    .iter()
                    .filter(|(seq, run)| !seqs.contains(seq) && !dropped.contains(run))
                    .collect();
                assert!(lost.is_empty(), "op {at}, {fate:?}: {lost:?} were synced and are lost");
            }
            for (seq, body) in &came {
                // What was dropped or acked without ever being sent again is not among those
                // that came in the first life.
                if let Some(made) = made.get(seq) {
                    assert!(same_report(body, made), "op {at}, {fate:?}: {seq} is another report");
                }
            }
            cuts += 1;
            // Now and then: it takes its time.
            if at % 7 != 0 {
                continue;
            }
            rig.pass(400, true);
            // The schedule may go on, in segments of its own.
            let kept: Vec<_> = rig.files.segments.keys().filter(|n| found.contains(n)).collect();
            assert!(kept.is_empty(), "op {at}, {fate:?}: {kept:?} are acked and not deleted");
        }
    }
    println!("{durability:?}: {cuts} power cuts, {most_safe} reports at most safe");
    assert!(ops.len() > 50 && most_safe > 60, "{} {most_safe} {least_safe}", ops.len());
    let has = |wanted: fn(&Op) -> bool| assert!(ops.iter().any(wanted));
    has(|op| matches!(op, Op::Delete { .. }));
    has(|op| matches!(op, Op::Append { .. }));
    has(|op| matches!(op, Op::Rename));
}

#[test]
fn with_spill_nothing_that_was_synced_is_lost_whenever_the_power_goes() {
    play(Durability::Spill);
}

#[test]
fn with_always_nothing_is_lost_and_nothing_runs_twice_whenever_the_power_goes() {
    play(Durability::Always);
}

#[test]
fn a_write_to_the_journal_that_a_kill_cuts_makes_nothing_run_twice() {
    let (ops, _) = life(Durability::Spill);
    let mut files = Files::default();
    let mut kills = 0;
    for op in &ops {
        if let Op::Journal { replaces: false, bytes } = op {
            for cut in (0..bytes.len()).step_by(7) {
                let mut left = files.clone();
                left.journal.extend_from_slice(&bytes[..cut]);
                let started = left.started.clone();
                let mut rig = Rig::on(left, Durability::Spill, 8, 1);
                rig.meet_hub();
                for run in started {
                    rig.trigger(run.0[15]);
                }
                assert_eq!(rig.starts, 0);
                kills += 1;
            }
        }
        files.apply(op);
    }
    println!("{kills} kills");
    assert!(kills > 20);
}
