//! An agent's core on a bench: the little of the world that it needs, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use fieldpost_agent::agent::{
    Agent, Identity, Input, Now, Output, Restored, Settings, Slot, Usage, Vitals,
};
use fieldpost_agent::config::Config;
use fieldpost_agent::spool::Done;
use fieldpost_wire::{
    Ack, Attempt, Command, Exit, List, OutboxId, Report, RunId, Schedule, ScheduleVersion, Seq,
    SeqRange, StartId, Tag, UnixMillis, limits,
};

use super::disk::Disk;

/// The hub's time when the bench was built.
pub const HUB_START: UnixMillis = UnixMillis(1_795_600_000_000);

const BOOT: Duration = Duration::from_secs(100);

/// Outputs that one input may cause: more, and the agent runs in circles.
const MOST_OUTPUTS: usize = 20_000;

const CONFIG: &str = r#"
node.id = "gw-1"
[[hub]]
triggers = "tcp://hub.example:4510"
results = "tcp://hub.example:4511"
server_keys = ["rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"]
[outbox]
memory = "512 KiB"
[limits]
running = 4
[[job]]
name = "ping"
builtin = "ping"
[[job]]
name = "vitals"
builtin = "system"
[[job]]
name = "read"
command = ["/bin/read", "{bus}"]
args.bus = { pattern = "[0-3]", default = "0" }
concurrency = 2
max_output = "100 KiB"
[[job]]
name = "again"
command = ["/bin/again"]
on_restart = "rerun"
overlap = "queue"
"#;

fn config(spools: bool) -> Config {
    let spool = if spools {
        "[outbox]\nspool = { path = \"/spool\", max = \"1 MiB\", durability = \"always\" }"
    } else {
        "[outbox]"
    };
    let text = CONFIG.replace("[outbox]", spool);
    Config::parse(Path::new("agent.toml"), &text).expect("it is right")
}

fn settings(spools: bool) -> Settings {
    config(spools).agent
}

type Execution = (RunId, Attempt);

/// A run in progress.
#[derive(Debug, Clone, Copy)]
struct Busy {
    slot: Slot,
    program: bool,
    read: bool,
    killed: bool,
}

/// An agent, and what the world knows of it.
pub struct Bench {
    agent: Agent,
    at: Duration,
    skew_ms: i64,
    synchronised: bool,
    starts: u8,
    journal: Vec<u8>,
    schedule: Option<Vec<u8>>,
    disk: Option<Disk>,
    busy: BTreeMap<usize, Busy>,
    /// Every execution ever, over all starts of the agent.
    executed: BTreeSet<Execution>,
    /// Those of this start: each must end, and be told.
    owed: BTreeSet<Execution>,
    /// Reliable reports by their place, as they were first sent.
    reliable: BTreeMap<(OutboxId, u64), Vec<u8>>,
    unacked: BTreeSet<(OutboxId, u64)>,
    refusals: usize,
    failures: usize,
    ready: bool,
    /// Reports that it says it dropped, its memory being full.
    dropped: u64,
    /// A `Hello` was said and is not answered.
    hello: bool,
    stopped: bool,
    exited: bool,
}

impl Bench {
    /// An agent that starts with these files.
    pub fn start(restored: Restored<'_>) -> Self {
        Self::with(restored, None)
    }

    /// An agent that starts with these files, and with a spool.
    pub fn spooling(mut disk: Disk) -> Self {
        let recovered = disk.recover(&[]);
        let restored = Restored { spool: Some(&recovered), ..Restored::default() };
        Self::with(restored, Some(disk))
    }

    fn with(restored: Restored<'_>, disk: Option<Disk>) -> Self {
        let settings = settings(disk.is_some());
        let mut bench = Self {
            agent: Agent::new(settings, restored, identity(1), now(BOOT, 0, true)),
            disk,
            at: BOOT,
            skew_ms: 0,
            synchronised: true,
            starts: 1,
            journal: restored.journal.to_vec(),
            schedule: restored.schedule.map(<[u8]>::to_vec),
            busy: BTreeMap::new(),
            executed: BTreeSet::new(),
            owed: BTreeSet::new(),
            reliable: BTreeMap::new(),
            unacked: BTreeSet::new(),
            dropped: 0,
            refusals: 0,
            failures: 0,
            ready: false,
            hello: false,
            stopped: false,
            exited: false,
        };
        bench.drain();
        assert!(bench.ready, "the agent did not start");
        bench
    }

    /// The agent's process is killed, its programs with it, and started again.
    pub fn kill(&mut self) {
        self.starts = self.starts.wrapping_add(1);
        let recovered = self.disk.as_mut().map(|disk| disk.recover(&self.journal));
        let restored = Restored {
            journal: &self.journal,
            schedule: self.schedule.as_deref(),
            spool: recovered.as_ref(),
            ..Restored::default()
        };
        let settings = settings(self.disk.is_some());
        self.agent = Agent::new(settings, restored, identity(self.starts), self.now());
        self.busy.clear();
        self.owed.clear();
        self.reliable.clear();
        self.unacked.clear();
        self.dropped = 0;
        (self.refusals, self.failures) = (0, 0);
        (self.ready, self.hello) = (false, false);
        (self.stopped, self.exited) = (false, false);
        self.drain();
        assert!(self.ready, "the agent did not start again");
    }

    /// One input, and all that it causes.
    pub fn handle(&mut self, input: Input<'_>) {
        if self.exited {
            return;
        }
        self.agent.handle(self.now(), input);
        self.drain();
    }

    /// A command of the hub.
    pub fn hear(&mut self, command: &Command<'_>) {
        let mut body = vec![0; limits::BODY];
        let body = command.encode(&mut body).expect("it is within its bounds");
        self.handle(Input::Command(body));
    }

    /// The hub answers a `Hello`.
    pub fn welcome(&mut self) {
        let command = super::welcome(identity(self.starts).start, self.hub_time());
        self.hear(&command);
    }

    /// Time passes, with at most so many ticks on the way.
    pub fn pass(&mut self, time: Duration, most: usize) {
        let end = self.at + time;
        for _ in 0..most {
            let Some(due) = self.agent.next_deadline().filter(|due| *due <= end) else { break };
            self.at = self.at.max(due);
            self.handle(Input::Tick);
            self.is_at_rest();
        }
        self.at = end;
        self.handle(Input::Tick);
        self.is_at_rest();
    }

    /// The wall clock is set.
    pub fn set_clock(&mut self, skew_ms: i64, synchronised: bool) {
        self.skew_ms = skew_ms;
        self.synchronised = synchronised;
        self.handle(Input::Tick);
    }

    /// The next so many reports find no room in the socket.
    pub fn refuse(&mut self, count: usize) {
        self.refusals = count;
    }

    /// The next so many programs can't be started.
    pub fn fail_starts(&mut self, count: usize) {
        self.failures = count;
    }

    /// A run writes.
    pub fn write(&mut self, choice: usize, bytes: &[u8]) {
        if let Some(run) = self.choose(choice).filter(|run| run.read) {
            self.handle(Input::Stdout { slot: run.slot, bytes });
        }
    }

    /// A run writes to standard error.
    pub fn complain(&mut self, choice: usize, bytes: &[u8]) {
        if let Some(run) = self.choose(choice) {
            self.handle(Input::Stderr { slot: run.slot, bytes });
        }
    }

    /// A run ends.
    pub fn end(&mut self, choice: usize, exit: Exit) {
        let Some(run) = self.choose(choice) else { return };
        // A program's pipe is at its end only when it was read to its end.
        if !run.read && !run.killed {
            return;
        }
        let exit = if run.program { exit } else { Exit::None };
        self.busy.remove(&run.slot.index());
        self.handle(Input::Ended { slot: run.slot, exit, usage: Usage::default(), note: "" });
    }

    /// The configuration is read again, with all jobs or without any.
    pub fn reload(&mut self, all: bool) {
        let mut config = config(self.disk.is_some());
        if !all {
            config.agent.jobs.clear();
        }
        self.handle(Input::Reloaded(Box::new(config.reload())));
    }

    /// The hub acks the oldest so many reports.
    pub fn ack(&mut self, count: usize) {
        let places: Vec<_> = self.unacked.iter().copied().take(count).collect();
        for of_one in places.chunk_by(|a, b| a.0 == b.0) {
            for places in of_one.chunks(limits::ACK_RANGES) {
                let mut room = [0; 20 * limits::ACK_RANGES];
                let ranges =
                    places.iter().map(|&(_, seq)| SeqRange { first: Seq(seq), last: Seq(seq) });
                let ranges = List::encode(&mut room, ranges).expect("two varints have 20 bytes");
                for place in places {
                    self.unacked.remove(place);
                }
                self.hear(&Command::Ack(Ack { outbox: of_one[0].0, ranges }));
            }
        }
    }

    /// All is well for as long as it takes: nothing may be owed at the end.
    pub fn settle(&mut self) {
        self.reload(true);
        (self.refusals, self.failures) = (0, 0);
        self.fill_disk(false);
        let stopped = self.stopped;
        for _ in 0..200 {
            self.set_clock(0, true);
            if std::mem::take(&mut self.hello) {
                self.welcome();
            }
            self.handle(Input::Writable);
            self.without_schedule();
            self.ack(usize::MAX);
            for index in 0..self.busy.len() {
                self.end(index, Exit::Code(0));
            }
            if self.busy.is_empty() && self.all_told() && self.unacked.is_empty() {
                self.stop();
            }
            if self.exited {
                // One that was told to stop while all was wrong had its time bounded.
                assert!(stopped || self.all_told(), "no result of {:?}", self.owed);
                return;
            }
            self.pass(Duration::from_secs(20), 1_000);
        }
        panic!(
            "it does not come to rest: {} in progress, {} dropped, without a result {:?}, unacked {:?}",
            self.busy.len(),
            self.dropped,
            self.owed,
            self.unacked
        );
    }

    /// Every run that ended was told, but for results that were dropped, and counted, when memory was full.
    fn all_told(&self) -> bool {
        self.owed.len() as u64 <= self.dropped
    }

    /// The agent is told to end.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.handle(Input::Stop);
    }

    fn without_schedule(&mut self) {
        let version = ScheduleVersion { epoch: 9, counter: 1 };
        self.hear(&Command::Schedule(Schedule { version, entries: List::empty() }));
    }

    /// The disk is full, or takes something again.
    pub fn fill_disk(&mut self, full: bool) {
        if let Some(disk) = &mut self.disk {
            disk.full = full;
        }
    }

    /// Whether the agent has come to its end.
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// The hub's time.
    pub fn hub_time(&self) -> UnixMillis {
        let since = u64::try_from((self.at - BOOT).as_millis()).expect("not that long");
        HUB_START.plus_ms(since)
    }

    /// This start's outbox.
    pub fn outbox(&self) -> OutboxId {
        identity(self.starts).outbox
    }

    fn choose(&self, choice: usize) -> Option<Busy> {
        self.busy.values().nth(choice % self.busy.len().max(1)).copied()
    }

    fn now(&self) -> Now {
        now(self.at, self.skew_ms, self.synchronised)
    }

    /// A tick that came in time leaves no deadline behind.
    fn is_at_rest(&mut self) {
        for _ in 0..64 {
            if self.agent.next_deadline().is_none_or(|due| due > self.at) {
                return;
            }
            self.handle(Input::Tick);
        }
        let due = self.agent.next_deadline();
        panic!("at {:?} the next deadline stays {due:?}: the loop would never wait", self.at);
    }

    fn drain(&mut self) {
        for _ in 0..MOST_OUTPUTS {
            let Some(output) = self.agent.poll_output() else { return };
            assert!(!self.exited, "something comes after the end: {output:?}");
            let answer = match output {
                Output::Send(_) if self.refusals > 0 => {
                    self.refusals -= 1;
                    Some(Input::Refused)
                }
                Output::Send(body) => {
                    if let Ok((_, Report::Heartbeat(heartbeat))) = Report::decode(body) {
                        self.dropped = heartbeat.drops.iter().map(|drops| drops.count).sum();
                    }
                    let sent = (&mut self.reliable, &mut self.unacked, &mut self.owed);
                    self.hello |= book(body, sent);
                    Some(Input::Sent)
                }
                Output::Start { slot } => {
                    let launch = self.agent.launch(slot).expect("a run that is to start");
                    let execution = (launch.run, launch.attempt);
                    let program = launch.job.is_program();
                    launch.environment().for_each(drop);
                    launch.argv().for_each(drop);
                    assert!(!self.busy.contains_key(&slot.index()), "the slot is taken");
                    assert!(self.executed.insert(execution), "{execution:?} is executed twice");
                    self.owed.insert(execution);
                    if self.failures > 0 {
                        self.failures -= 1;
                        Some(Input::NotStarted { slot, error: "no" })
                    } else {
                        let busy = Busy { slot, program, read: true, killed: false };
                        self.busy.insert(slot.index(), busy);
                        let start_ticks = u64::from(self.starts);
                        program.then_some(Input::Started { slot, pid: 7, start_ticks })
                    }
                }
                Output::Signal { slot, .. } => {
                    if let Some(run) = self.busy.get_mut(&slot.index()) {
                        run.killed = true;
                    }
                    None
                }
                Output::ReadOutput { slot, read } => {
                    if let Some(run) = self.busy.get_mut(&slot.index()) {
                        run.read = read;
                    }
                    None
                }
                Output::AppendJournal(bytes) => {
                    self.journal.extend_from_slice(bytes);
                    None
                }
                Output::ReplaceJournal(bytes) => {
                    self.journal = bytes.to_vec();
                    None
                }
                Output::SaveSchedule(bytes) => {
                    self.schedule = Some(bytes.to_vec());
                    None
                }
                Output::Spool(work) => {
                    let disk = self.disk.as_mut().expect("a spool has a disk");
                    // `work` borrows the agent that is to be told: its bytes are done with before.
                    let mut read = Vec::new();
                    let mut failed = None;
                    let mut was_read = false;
                    disk.perform(work, |done| match done {
                        Done::Read(bytes) => {
                            read.extend_from_slice(bytes);
                            was_read = true;
                        }
                        Done::Failed(why) => failed = Some(why.to_owned()),
                        Done::Well => {}
                    });
                    let done = match (&failed, was_read) {
                        (Some(why), _) => Done::Failed(why),
                        (None, true) => Done::Read(&read),
                        (None, false) => Done::Well,
                    };
                    let now = self.now();
                    self.agent.handle(now, Input::Spooled(done));
                    None
                }
                Output::WantVitals => Some(Input::Vitals(Vitals::default())),
                Output::Ready => {
                    self.ready = true;
                    None
                }
                Output::Exit => {
                    self.exited = true;
                    None
                }
                _ => None,
            };
            assert!(self.busy.len() <= 4, "more runs at once than were allowed");
            if let Some(answer) = answer {
                self.agent.handle(self.now(), answer);
            }
        }
        panic!("outputs without end");
    }
}

type Books<'b> = (
    &'b mut BTreeMap<(OutboxId, u64), Vec<u8>>,
    &'b mut BTreeSet<(OutboxId, u64)>,
    &'b mut BTreeSet<Execution>,
);

/// A report left: what is reliable is always the same bytes under the same seq. Says whether it
/// was a `Hello`.
fn book(body: &[u8], (reliable, unacked, owed): Books<'_>) -> bool {
    assert!(body.len() <= limits::BODY, "a report of {} bytes", body.len());
    let (tag, report) = Report::decode(body).expect("an agent encodes what decodes");
    if let Report::Finished(finished) = report {
        owed.remove(&(finished.run, finished.attempt));
    }
    let Some(Tag { outbox, seq }) = tag else { return matches!(report, Report::Hello(_)) };
    unacked.insert((outbox, seq.0));
    let first = reliable.entry((outbox, seq.0)).or_insert_with(|| body.to_vec());
    // A result may have been sent before its output was dropped, which it then says.
    if !matches!(report, Report::Finished(_)) {
        assert_eq!(first, body, "two reports under one seq");
    }
    false
}

fn identity(start: u8) -> Identity {
    Identity::new(StartId([start; 16]), OutboxId([start; 16]), start.into())
}

fn now(boot: Duration, skew_ms: i64, synchronised: bool) -> Now {
    let since = u64::try_from((boot - BOOT).as_millis()).expect("not that long");
    let wall = HUB_START.plus_ms(since).0.saturating_add_signed(skew_ms);
    Now { boot, wall: UnixMillis(wall), synchronised }
}
