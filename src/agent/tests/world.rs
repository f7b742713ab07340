//! An agent's core and the little of the world that it needs: what is tried in it is its parent's.

use std::time::Duration;

use fieldpost_wire::{
    Ack, Arg, Attempt, Beacon, BootId, Cancel, CatchUp, Command, Entry, Exit, Finished, HubId,
    List, OutboxId, Overlap, Query, Reason, Report, RunId, RunState, Schedule, ScheduleVersion,
    Seq, SeqRange, StartId, Status, Tag, Trigger, UnixMillis, Welcome, When,
};

use super::super::*;
use crate::job::tests::{job, program};
use crate::job::{ArgSpec, Kind, Pattern};
use crate::limits::ACCEPTED_LATER;
use crate::spool::{Done, Recovered, Work};

pub(super) const HUB: StartId = StartId([1; 16]);
pub(super) const EPOCH: u64 = 1_700_000_000_000;

/// What the agent reported, owned.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Hello { partial: bool, jobs: usize },
    Heartbeat { boot: BootId, boot_ms: u64, drops: u64, errors: usize },
    State(RunId, u32, &'static str),
    Output(RunId, u32, Vec<u8>),
    Finished(Box<End>),
    Missed(String, u64),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    pub(super) run: RunId,
    pub(super) attempt: u32,
    pub(super) job: String,
    pub(super) status: Status,
    pub(super) chunks: u32,
    pub(super) bytes: u64,
    pub(super) stderr: Vec<u8>,
    pub(super) note: String,
    pub(super) dropped: bool,
    pub(super) duration_us: u64,
    pub(super) boot: BootId,
    pub(super) started_boot_ms: u64,
}

/// An agent and the little of the world it needs.
pub(super) struct World {
    pub(super) agent: Agent,
    pub(super) boot: Duration,
    pub(super) skew_ms: i64,
    pub(super) synchronised: bool,
    /// Whether the socket takes reports.
    pub(super) room: bool,
    pub(super) most: usize,
    /// Everything done, but for what is below.
    pub(super) done: Vec<String>,
    pub(super) said: Vec<Said>,
    pub(super) tags: Vec<Tag>,
    pub(super) journal: Vec<u8>,
    pub(super) schedule: Option<Vec<u8>>,
    pub(super) started: Vec<Slot>,
    pub(super) exited: bool,
    pub(super) disk: Disk,
}

/// The spool's directory.
#[derive(Default, Clone)]
pub(super) struct Disk {
    pub(super) files: std::collections::BTreeMap<u32, Vec<u8>>,
    /// What of each file a power cut can't take.
    pub(super) synced: std::collections::BTreeMap<u32, usize>,
    pub(super) written: usize,
    pub(super) most: usize,
    pub(super) fails: bool,
    /// Appends find no space beyond so many bytes.
    pub(super) space: Option<usize>,
    /// There will be none once a segment is read.
    pub(super) full_after_read: bool,
    /// The next so many reads fail.
    pub(super) bad_reads: usize,
    /// The next so many syncs fail.
    pub(super) bad_syncs: usize,
    /// Those that failed once. A later sync says that all is well, as Linux does, and it is not.
    pub(super) spoilt: std::collections::BTreeSet<u32>,
}

impl Disk {
    pub(super) fn perform(&mut self, work: Work<'_>, answer: impl FnOnce(Done<'_>)) {
        let writes = !matches!(work, Work::Read { .. });
        if self.fails && writes {
            return answer(Done::Failed("No space left on device"));
        }
        if let (Work::Append { bytes, .. }, Some(space)) = (&work, self.space)
            && self.bytes() + bytes.len() > space
        {
            return answer(Done::Failed("No space left on device"));
        }
        match work {
            Work::Append { segment, at, bytes } => {
                let file = self.files.entry(segment).or_default();
                assert_eq!(file.len(), at as usize, "segments are appended to");
                file.extend_from_slice(bytes);
                self.written += bytes.len();
            }
            Work::Sync { segment } if self.bad_syncs > 0 => {
                self.bad_syncs -= 1;
                self.spoilt.insert(segment);
                return answer(Done::Failed("Input/output error"));
            }
            Work::Sync { segment } if self.spoilt.contains(&segment) => {}
            Work::Sync { segment } => {
                self.synced.insert(segment, self.files[&segment].len());
            }
            Work::Delete { segment } | Work::SetAside { segment } => {
                self.files.remove(&segment).unwrap();
                self.synced.remove(&segment);
            }
            Work::Read { .. } if self.bad_reads > 0 => {
                self.bad_reads -= 1;
                return answer(Done::Failed("Input/output error"));
            }
            Work::Read { segment } if std::mem::take(&mut self.full_after_read) => {
                self.space = Some(self.bytes());
                return answer(Done::Read(&self.files[&segment]));
            }
            Work::Read { segment } => return answer(Done::Read(&self.files[&segment])),
        }
        self.most = self.most.max(self.bytes());
        answer(Done::Well);
    }

    pub(super) fn bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    pub(super) fn recover(&mut self, journal: &[u8]) -> Recovered {
        let mut recovered = Recovered::new(journal);
        for (number, bytes) in &mut self.files {
            let verdict = recovered.add(*number, bytes);
            bytes.truncate(verdict.keep);
        }
        recovered
    }

    /// What was not synced is gone.
    pub(super) fn cut_power(&mut self) {
        let synced = &self.synced;
        self.files.retain(|number, bytes| {
            bytes.truncate(synced.get(number).copied().unwrap_or(0));
            !bytes.is_empty()
        });
    }
}

pub(super) fn settings(jobs: Vec<Job>) -> Settings {
    Settings {
        node: "gw".parse().unwrap(),
        groups: Vec::new(),
        jobs,
        hubs: vec![1],
        version: "0.1.0",
        concurrency: 2,
        outbox_bytes: 256 * 1024,
        when_full: WhenFull::DropOldest,
        spool: None,
        time_zone: tz::TimeZone::utc(),
        grace: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    }
}

pub(super) fn jobs() -> Vec<Job> {
    let mut meter = program("meter");
    let (name, pattern) = ("bus".parse().unwrap(), Pattern::new("[0-3]").unwrap());
    meter.args = vec![ArgSpec { name, pattern, default: Some("0".into()) }];
    vec![job("noop", Kind::Ping), meter]
}

pub(super) fn identity(n: u8) -> Identity {
    Identity::new(StartId([n; 16]), OutboxId([n; 16]), n.into())
}

pub(super) fn run(n: u8) -> RunId {
    RunId([n; 16])
}

impl World {
    /// An agent that was just started.
    pub(super) fn fresh(settings: Settings) -> Self {
        let boot = Duration::from_secs(100);
        Self::restarted(settings, identity(7), &[], None, boot, Disk::default())
    }

    pub(super) fn restarted(
        settings: Settings,
        identity: Identity,
        journal: &[u8],
        schedule: Option<&[u8]>,
        boot: Duration,
        disk: Disk,
    ) -> Self {
        Self::started(settings, identity, journal, schedule, boot, disk, 0)
    }

    fn started(
        settings: Settings,
        identity: Identity,
        journal: &[u8],
        schedule: Option<&[u8]>,
        boot: Duration,
        mut disk: Disk,
        skew_ms: i64,
    ) -> Self {
        let recovered = disk.recover(journal);
        let spool = settings.spool.map(|_| &recovered);
        let wall = (EPOCH + boot.as_millis() as u64).saturating_add_signed(skew_ms);
        let now = Now { boot, wall: UnixMillis(wall), synchronised: true };
        // A journal is of this boot: its directory is empty after each.
        let boot_id = crate::journal::read(journal).find_map(|record| match record {
            crate::journal::Record::Boot { id } => Some(id),
            _ => None,
        });
        let boot_id = boot_id.unwrap_or(identity.start.0);
        let restored = Restored { journal, schedule, spool, boot_id };
        let mut world = Self {
            agent: Agent::new(settings, restored, identity, now),
            boot,
            skew_ms,
            synchronised: true,
            room: true,
            most: usize::MAX,
            done: Vec::new(),
            said: Vec::new(),
            tags: Vec::new(),
            journal: journal.to_vec(),
            schedule: schedule.map(<[u8]>::to_vec),
            started: Vec::new(),
            exited: false,
            disk,
        };
        world.drain();
        world
    }

    /// One that a hub has welcomed.
    pub(super) fn welcomed(settings: Settings) -> Self {
        let mut world = Self::fresh(settings);
        world.welcome();
        world.forget();
        world
    }

    pub(super) fn forget(&mut self) {
        self.said.clear();
        self.done.clear();
        self.tags.clear();
    }

    pub(super) fn now(&self) -> Now {
        let wall = (EPOCH + self.boot.as_millis() as u64).saturating_add_signed(self.skew_ms);
        Now { boot: self.boot, wall: UnixMillis(wall), synchronised: self.synchronised }
    }

    pub(super) fn hub_time(&self) -> UnixMillis {
        UnixMillis(EPOCH + self.boot.as_millis() as u64)
    }

    pub(super) fn give(&mut self, input: Input<'_>) {
        self.agent.handle(self.now(), input);
        self.drain();
    }

    pub(super) fn hear(&mut self, command: &Command<'_>) {
        let mut body = vec![0; 60 * 1024];
        let body = command.encode(&mut body).unwrap();
        self.give(Input::Command(body));
    }

    pub(super) fn welcome(&mut self) {
        self.welcome_by(HubId([9; 16]), HUB);
    }

    pub(super) fn welcome_by(&mut self, hub: HubId, start: StartId) {
        let welcome = Welcome {
            hub,
            start,
            agent_start: self.agent.identity.start,
            time: self.hub_time(),
            wire: 1,
            schedule: ScheduleVersion::default(),
        };
        self.hear(&Command::Welcome(welcome));
    }

    pub(super) fn trigger_with(&mut self, n: u8, job: &str, args: &[(&str, &str)], ttl_s: u64) {
        let mut list = [0; 512];
        let args = args.iter().map(|&(name, value)| Arg { name, value });
        let args = List::encode(&mut list, args).unwrap();
        let deadline = self.hub_time().plus_ms(ttl_s * 1000);
        let (run, attempt) = (run(n), Attempt(1));
        self.hear(&Command::Trigger(Trigger { run, attempt, job, args, deadline, origin: "t" }));
    }

    /// A trigger, and the moment after which its acceptance is told.
    pub(super) fn trigger(&mut self, n: u8, job: &str) {
        self.trigger_with(n, job, &[], 60);
        self.boot += ACCEPTED_LATER;
        self.give(Input::Tick);
    }

    /// The hub hands a schedule over.
    pub(super) fn take_up<const N: usize>(&mut self, counter: u64, entries: [Entry<'_>; N]) {
        let mut list = [0; 512];
        let entries = List::encode(&mut list, entries).unwrap();
        let version = ScheduleVersion { epoch: 3, counter };
        self.hear(&Command::Schedule(Schedule { version, entries }));
    }

    pub(super) fn cancel(&mut self, n: u8) {
        let deadline = self.hub_time().plus_ms(60_000);
        self.hear(&Command::Cancel(Cancel { run: run(n), attempt: Attempt(1), deadline }));
    }

    pub(super) fn query(&mut self, n: u8) {
        let mut list = [0; 64];
        let runs = List::encode(&mut list, [run(n)]).unwrap();
        self.hear(&Command::Query(Query { runs }));
    }

    pub(super) fn ack_all(&mut self) {
        let mut list = [0; 64];
        let Some(outbox) = self.tags.last().map(|tag| tag.outbox) else { return };
        let all = SeqRange { first: Seq(1), last: Seq(u64::MAX) };
        let ranges = List::encode(&mut list, [all]).unwrap();
        self.hear(&Command::Ack(Ack { outbox, ranges }));
    }

    /// Lets time pass, with ticks when the agent wants them, and beacons if the hub is there.
    pub(super) fn pass(&mut self, seconds: u64, hub: bool) {
        let end = self.boot + Duration::from_secs(seconds);
        let mut beacon = self.boot;
        while self.boot < end {
            if hub && self.boot >= beacon {
                beacon += Duration::from_secs(30);
                let (hub, time) = (HubId([9; 16]), self.hub_time());
                self.hear(&Command::Beacon(Beacon { hub, start: HUB, time }));
            }
            let next = self.agent.next_deadline().unwrap_or(end);
            let to = next.min(end).min(if hub { beacon } else { end });
            assert!(next >= self.boot, "a deadline in the past: the loop would spin");
            self.boot = to.max(self.boot + Duration::from_millis(1));
            self.give(Input::Tick);
        }
    }

    pub(super) fn drain(&mut self) {
        loop {
            let note = match self.agent.poll_output() {
                None => return,
                Some(Output::Send(body)) => {
                    if !self.room || self.tags.len() >= self.most {
                        self.agent.handle(self.now(), Input::Refused);
                        continue;
                    }
                    let (tag, report) = Report::decode(body).unwrap();
                    self.tags.extend(tag);
                    self.said.push(said(&report));
                    self.agent.handle(self.now(), Input::Sent);
                    continue;
                }
                Some(Output::AppendJournal(bytes)) => {
                    self.journal.extend_from_slice(bytes);
                    continue;
                }
                Some(Output::ReplaceJournal(bytes)) => {
                    self.journal = bytes.to_vec();
                    continue;
                }
                Some(Output::Spool(work)) => {
                    let mut answer = Vec::new();
                    let mut failed = false;
                    let mut read = false;
                    self.disk.perform(work, |done| match done {
                        Done::Well => {}
                        Done::Failed(_) => failed = true,
                        Done::Read(bytes) => {
                            read = true;
                            answer.extend_from_slice(bytes);
                        }
                    });
                    let done = match (failed, read) {
                        (true, _) => Done::Failed("No space left on device"),
                        (_, true) => Done::Read(&answer),
                        (false, false) => Done::Well,
                    };
                    self.agent.handle(self.now(), Input::Spooled(done));
                    continue;
                }
                Some(Output::SaveSchedule(bytes)) => {
                    self.schedule = Some(bytes.to_vec());
                    "save".into()
                }
                Some(Output::Start { slot }) => {
                    self.started.push(slot);
                    format!("start {}", slot.0)
                }
                Some(Output::WantVitals) => {
                    self.agent.handle(self.now(), Input::Vitals(Vitals::default()));
                    continue;
                }
                Some(Output::Exit) => {
                    self.exited = true;
                    continue;
                }
                Some(Output::Signal { slot, signal }) => format!("{signal:?} {}", slot.0),
                Some(Output::ReadOutput { slot, read }) => format!("read {} {read}", slot.0),
                Some(Output::Connect { hub, key }) => format!("connect {hub}/{key}"),
                Some(Output::KillLeftover { pid, .. }) => format!("kill {pid}"),
                Some(Output::Delivered { run, .. }) => format!("delivered {}", run.0[0]),
                Some(Output::Disconnect) => "disconnect".into(),
                Some(Output::Ready) => "ready".into(),
                Some(Output::Status(_)) => continue,
            };
            self.done.push(note);
        }
    }

    pub(super) fn end(&mut self, slot: Slot, exit: Exit) {
        self.give(Input::Ended { slot, exit, usage: Usage::default(), note: "" });
    }

    /// The agent is killed and started again.
    pub(super) fn killed(self, identity: Identity) -> Self {
        self.killed_with_clock(identity, 0)
    }

    /// The agent is killed and started again, with the clock off by so much.
    pub(super) fn killed_with_clock(self, identity: Identity, skew_ms: i64) -> Self {
        let settings = Settings { jobs: jobs(), ..self.agent.settings.clone() };
        let boot = self.boot + Duration::from_secs(1);
        let (journal, schedule) = (&self.journal, self.schedule.as_deref());
        Self::started(settings, identity, journal, schedule, boot, self.disk, skew_ms)
    }

    pub(super) fn finished(&self) -> Vec<End> {
        let end = |said: &Said| match said {
            Said::Finished(end) => Some((**end).clone()),
            _ => None,
        };
        self.said.iter().filter_map(end).collect()
    }

    /// What the last heartbeat said of drops.
    pub(super) fn drops(&self) -> Option<u64> {
        self.said.iter().rev().find_map(|said| match said {
            Said::Heartbeat { drops, .. } => Some(*drops),
            _ => None,
        })
    }

    pub(super) fn statuses(&self) -> Vec<(u8, Status)> {
        self.finished().iter().map(|end| (end.run.0[0], end.status)).collect()
    }

    pub(super) fn states(&self) -> Vec<(u8, &'static str)> {
        let state = |said: &Said| match said {
            Said::State(run, _, state) => Some((run.0[0], *state)),
            _ => None,
        };
        self.said.iter().filter_map(state).collect()
    }
}

pub(super) fn said(report: &Report<'_>) -> Said {
    match report {
        Report::Hello(hello) => {
            Said::Hello { partial: hello.partial, jobs: hello.jobs.iter().count() }
        }
        Report::Heartbeat(beat) => Said::Heartbeat {
            boot: beat.boot,
            boot_ms: beat.boot_ms,
            drops: beat.drops.iter().map(|drops| drops.count).sum(),
            errors: beat.entry_errors.iter().count(),
        },
        Report::State(state) => {
            let word = match state.state {
                RunState::Accepted { .. } => "accepted",
                RunState::Rejected { reason: Reason::UnknownJob, .. } => "unknown job",
                RunState::Rejected { reason: Reason::BadArgument, .. } => "bad argument",
                RunState::Rejected { reason: Reason::Busy, .. } => "busy",
                RunState::Rejected { reason: Reason::Expired, .. } => "expired",
                RunState::Rejected { reason: Reason::Stopping, .. } => "stopping",
                RunState::Running { .. } => "running",
                RunState::Coming => "coming",
                RunState::Unknown => "unknown",
                RunState::Cancelled => "cancelled",
            };
            Said::State(state.run, state.attempt.0, word)
        }
        Report::Output(output) => Said::Output(output.run, output.index, output.bytes.to_vec()),
        Report::Finished(f) => Said::Finished(Box::new(end_of(f))),
        Report::Missed(missed) => Said::Missed(missed.entry.into(), missed.count),
    }
}

pub(super) fn end_of(f: &Finished<'_>) -> End {
    End {
        run: f.run,
        attempt: f.attempt.0,
        job: f.job.into(),
        status: f.status,
        chunks: f.chunks,
        bytes: f.bytes,
        stderr: f.stderr.to_vec(),
        note: f.note.into(),
        dropped: f.output_dropped,
        duration_us: f.duration_us,
        boot: f.boot,
        started_boot_ms: f.started_boot_ms,
    }
}

pub(super) fn entry(id: &'static str, job: &'static str, every_ms: u64) -> Entry<'static> {
    Entry {
        id,
        job,
        args: List::empty(),
        when: When::EveryMs(every_ms),
        splay_ms: 0,
        catch_up: CatchUp::Once,
        overlap: Overlap::Skip,
        timeout_ms: None,
    }
}
