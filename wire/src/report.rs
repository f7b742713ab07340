//! Reports: agent → hub. No report names its node: the hub knows it by the connection's key.

use serde::{Deserialize, Serialize};

use crate::command::{at_most, name};
use crate::{
    Attempt, BootId, Clock, Error, List, OutboxId, RunId, ScheduleVersion, StartId, Tag,
    UnixMillis, header, limits,
};

/// Any message agent → hub. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report<'a> {
    /// The agent is here. Repeated until `Welcome`.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// How the node is doing. Every 60 s.
    #[serde(borrow)]
    Heartbeat(Heartbeat<'a>),
    /// A run's state as it is: the answer to each copy of a `Trigger`, `Cancel` or `Query`.
    #[serde(borrow)]
    State(State<'a>),
    /// A chunk of a run's standard output. Reliable.
    #[serde(borrow)]
    Output(Output<'a>),
    /// A run's end. Reliable.
    #[serde(borrow)]
    Finished(Finished<'a>),
    /// Due times of a schedule entry that were not run. Reliable.
    #[serde(borrow)]
    Missed(Missed<'a>),
}

/// "The agent is here."
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// Which start of the agent.
    pub start: StartId,
    /// The node id in its configuration: what an unknown key claims to be, shown as unverified.
    pub node: &'a str,
    /// The agent's version.
    pub agent: &'a str,
    /// Groups it proposes; at most 16.
    #[serde(borrow)]
    pub groups: List<'a, &'a str>,
    /// Jobs it offers; at most 64.
    #[serde(borrow)]
    pub jobs: List<'a, JobOffer<'a>>,
    /// Whether groups or jobs were left out, to stay within the 512 B that a hub reads from an
    /// unknown key. After the `Welcome` a whole `Hello` follows.
    pub partial: bool,
    /// The schedule it has.
    pub schedule: ScheduleVersion,
    /// Outboxes it still holds records of; at most 64.
    #[serde(borrow)]
    pub outboxes: List<'a, OutboxId>,
}

/// A job that a node offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOffer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether a run that an agent's restart cut short is to be run again, as the next attempt.
    pub rerun: bool,
}

/// How the node is doing. Counters count from the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat<'a> {
    /// Which boot of the machine this is.
    pub boot: BootId,
    /// The time since then, in milliseconds (`CLOCK_BOOTTIME`), as this was written.
    pub boot_ms: u64,
    /// The one-minute load average, times 1000.
    pub load_milli: u32,
    /// Memory available, in KiB.
    pub memory_kib: u64,
    /// The hottest thermal zone, in thousandths of a degree Celsius.
    pub temperature_milli: Option<i32>,
    /// The schedule it has.
    pub schedule: ScheduleVersion,
    /// Entries of it that can't run (unknown job, bad argument, bad cron).
    #[serde(borrow)]
    pub entry_errors: List<'a, EntryError<'a>>,
    /// Runs in progress.
    pub running: u32,
    /// Runs waiting for their turn.
    pub queued: u32,
    /// Reports not yet acked.
    pub outbox_records: u64,
    /// Their size, in bytes.
    pub outbox_bytes: u64,
    /// Bytes in the spool on disk.
    pub spool_bytes: u64,
    /// Reports dropped, by job.
    #[serde(borrow)]
    pub drops: List<'a, Drops<'a>>,
    /// Bytes of reports handed to the network.
    pub sent_bytes: u64,
    /// Bytes written to disk.
    pub written_bytes: u64,
    /// Commands that did not decode.
    pub bad_commands: u64,
    /// What is wrong with the node's storage; empty: nothing.
    pub storage: &'a str,
    /// Whether the wall clock is trusted.
    pub clock: Clock,
}

/// A schedule entry that can't run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryError<'a> {
    /// The entry.
    pub entry: &'a str,
    /// Why; at most 256 B.
    pub error: &'a str,
}

/// How many reports of a job were dropped since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops<'a> {
    /// The job.
    pub job: &'a str,
    /// Reports dropped.
    pub count: u64,
}

/// A run's state as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct State<'a> {
    /// Which run.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// Its state.
    #[serde(borrow)]
    pub state: RunState<'a>,
}

/// The state of a run on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState<'a> {
    /// It waits for its turn.
    Accepted {
        /// The longest time it can still take, in milliseconds.
        longest_ms: u64,
    },
    /// It will not be run here. Nothing is kept of it: each copy is judged afresh.
    Rejected {
        /// Why.
        reason: Reason,
        /// Why, for people; at most 256 B.
        detail: &'a str,
    },
    /// It is in progress.
    Running {
        /// The longest time it can still take, in milliseconds.
        longest_ms: u64,
    },
    /// It has ended; its `Finished` is on its way.
    Coming,
    /// The node knows nothing of it.
    Unknown,
    /// It was cancelled before it came; a tombstone keeps it from starting.
    Cancelled,
}

/// Why a trigger is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The node has no such job.
    UnknownJob,
    /// An argument is missing, unknown, or does not match its pattern.
    BadArgument,
    /// The queue, or the table of known runs, is full.
    Busy,
    /// Its deadline has passed.
    Expired,
    /// The agent is shutting down.
    Stopping,
}

/// A chunk of a run's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output<'a> {
    /// Which run.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// Its place among the run's chunks, from 0.
    pub index: u32,
    /// At most 16 KiB.
    #[serde(with = "serde_bytes")]
    pub bytes: &'a [u8],
}

/// A run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished<'a> {
    /// Which run.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// The job's name.
    pub job: &'a str,
    /// What caused it.
    #[serde(borrow)]
    pub cause: Cause<'a>,
    /// How it ended.
    pub status: Status,
    /// The program's exit code or signal.
    pub exit: Exit,
    /// When it started, by the node's wall clock.
    pub started: UnixMillis,
    /// In which boot of the machine it started.
    pub boot: BootId,
    /// When it started, in milliseconds since that boot (`CLOCK_BOOTTIME`).
    pub started_boot_ms: u64,
    /// Whether the wall clock was trusted then.
    pub clock: Clock,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// How many `Output` chunks it has.
    pub chunks: u32,
    /// How many bytes they hold.
    pub bytes: u64,
    /// CRC-32C (Castagnoli) of those bytes.
    pub crc32c: u32,
    /// The last of its standard error; at most 4 KiB.
    #[serde(with = "serde_bytes")]
    pub stderr: &'a [u8],
    /// What happened, for people, where the status does not say all; at most 256 B.
    pub note: &'a str,
    /// Its largest resident set, in KiB; 0 for built-in jobs.
    pub peak_rss_kib: u64,
    /// Its CPU time, user and system, in microseconds.
    pub cpu_us: u64,
    /// Output beyond the job's `max_output` was thrown away.
    pub truncated: bool,
    /// Its output was dropped because the outbox was full: no chunk will come.
    pub output_dropped: bool,
}

/// What caused a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause<'a> {
    /// A trigger.
    Trigger,
    /// A schedule entry.
    Entry {
        /// Which.
        entry: &'a str,
        /// The due time (with the node's splay).
        due: UnixMillis,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Exit code 0.
    Ok,
    /// Another exit code, or the job could not be run.
    Failed,
    /// Ended by a signal that we did not send.
    Signalled,
    /// Stopped because its time was over.
    TimedOut,
    /// Stopped because it was cancelled.
    Cancelled,
    /// Not run: its job was still busy.
    Skipped,
    /// Not run: a scheduled run whose job or arguments the configuration does not allow.
    Rejected,
    /// The agent was restarted while it ran; what was left of it was killed.
    Lost,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// No program ran, or it never started.
    None,
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
}

/// Due times of a schedule entry that were not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed<'a> {
    /// The entry.
    pub entry: &'a str,
    /// The first due time missed.
    pub from: UnixMillis,
    /// The last one.
    pub to: UnixMillis,
    /// How many.
    pub count: u64,
}

impl<'a> Report<'a> {
    /// Writes the body into `buffer` and gives what it wrote. A reliable report has a tag.
    ///
    /// # Errors
    /// [`Error::Room`] if it does not fit, [`Error::Bound`] if a field is over its limit.
    pub fn encode<'b>(&self, tag: Option<Tag>, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        self.check()?;
        header::join(tag, self, buffer)
    }

    /// Reads a body. What it gives is within every bound of [`limits`].
    ///
    /// # Errors
    /// See [`Error`]; hostile bytes are just another error. Of a reliable report that does not
    /// decode, [`crate::peek_tag`] still gives the tag to ack.
    pub fn decode(body: &'a [u8]) -> Result<(Option<Tag>, Self), Error> {
        let (tag, rest) = header::split(body)?;
        let (report, rest) =
            postcard::take_from_bytes::<Self>(rest).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() {
            return Err(Error::Malformed);
        }
        report.check()?;
        Ok((tag, report))
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Hello(h) => {
                name("node", h.node)?;
                at_most("agent version", h.agent, limits::AGENT_VERSION)?;
                h.groups.check("groups", limits::GROUPS, |g| name("group", g))?;
                h.jobs.check("jobs", limits::JOBS, |j| name("job", j.name))?;
                h.outboxes.check("outboxes", limits::OUTBOXES, |_| Ok(()))
            }
            Self::Heartbeat(h) => {
                at_most("storage", h.storage, limits::TEXT)?;
                h.entry_errors.check("entry errors", limits::ENTRIES, |e| {
                    name("entry", e.entry)?;
                    at_most("entry error", e.error, limits::TEXT)
                })?;
                h.drops.check("drops", limits::JOBS, |d| name("job", d.job))
            }
            Self::State(s) => match s.state {
                RunState::Rejected { detail, .. } => at_most("detail", detail, limits::TEXT),
                RunState::Accepted { .. }
                | RunState::Running { .. }
                | RunState::Coming
                | RunState::Unknown
                | RunState::Cancelled => Ok(()),
            },
            Self::Output(o) => {
                if o.bytes.len() > limits::CHUNK {
                    return Err(Error::Bound("chunk"));
                }
                Ok(())
            }
            Self::Finished(f) => f.check(),
            Self::Missed(m) => name("entry", m.entry),
        }
    }
}

impl Finished<'_> {
    fn check(&self) -> Result<(), Error> {
        name("job", self.job)?;
        if let Cause::Entry { entry, .. } = self.cause {
            name("entry", entry)?;
        }
        if self.stderr.len() > limits::STDERR_TAIL {
            return Err(Error::Bound("stderr"));
        }
        at_most("note", self.note, limits::TEXT)
    }
}
