//! Commands: hub → agent.

use serde::{Deserialize, Serialize};

use crate::{
    Attempt, Error, HubId, List, OutboxId, RunId, ScheduleVersion, Seq, StartId, UnixMillis,
    check_name, header, limits,
};

/// Any message hub → agent. Variants are only ever added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command<'a> {
    /// Run this, if not past its deadline.
    #[serde(borrow)]
    Trigger(Trigger<'a>),
    /// Stop this run, or never start it.
    Cancel(Cancel),
    /// Say each one's state.
    #[serde(borrow)]
    Query(Query<'a>),
    /// Replaces the node's schedule.
    #[serde(borrow)]
    Schedule(Schedule<'a>),
    /// These reports are durable: forget them.
    #[serde(borrow)]
    Ack(Ack<'a>),
    /// Answers a `Hello`: both directions work.
    Welcome(Welcome),
    /// The hub is there. Every 30 s on `all/`, and on a node's topic when it subscribes.
    Beacon(Beacon),
}

/// "Run this job, before that deadline."
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trigger<'a> {
    /// Which run this causes.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// The job's name in the node's configuration.
    pub job: &'a str,
    /// At most 8 name/value pairs.
    #[serde(borrow)]
    pub args: List<'a, Arg<'a>>,
    /// Not to be started after this, in hub time.
    pub deadline: UnixMillis,
    /// Who asked (dag/task/run), for the device's log; at most 128 B.
    pub origin: &'a str,
}

/// One argument of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arg<'a> {
    /// Its name in the job's configuration.
    pub name: &'a str,
    /// Its value; at most 256 B.
    pub value: &'a str,
}

/// "Stop this run." Repeated until the run has a final status. For a run the node does not know
/// it keeps a tombstone until `deadline`, so that a late trigger can't start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which run.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// The trigger's deadline, in hub time.
    pub deadline: UnixMillis,
}

/// "Say the state of each of these runs."
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Query<'a> {
    /// At most 64.
    #[serde(borrow)]
    pub runs: List<'a, RunId>,
}

/// The node's whole schedule. An entry that did not change keeps its phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule<'a> {
    /// Which version this is.
    pub version: ScheduleVersion,
    /// At most 64.
    #[serde(borrow)]
    pub entries: List<'a, Entry<'a>>,
}

/// One entry of a schedule: "run this job then, with or without a link".
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// Its name, unique in the schedule.
    pub id: &'a str,
    /// The job's name in the node's configuration.
    pub job: &'a str,
    /// At most 8 name/value pairs.
    #[serde(borrow)]
    pub args: List<'a, Arg<'a>>,
    /// When it is due.
    pub when: When<'a>,
    /// Each node delays its runs by its own share of this, in milliseconds: a stable hash of
    /// node and entry decides.
    pub splay_ms: u64,
    /// What happens to due times that passed while the agent was not running or had no clock.
    pub catch_up: CatchUp,
    /// What happens when the job is still at its limit.
    pub overlap: Overlap,
    /// Replaces the job's own timeout, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// When an entry is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When<'a> {
    /// Five cron fields, in the time zone of the node's configuration.
    Cron(&'a str),
    /// Every so many milliseconds of the monotonic clock, from when the node took the entry up.
    EveryMs(u64),
}

/// What happens to due times that passed unattended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are reported as `Missed` and not run.
    Skip,
    /// The last of them is run, the others are reported as `Missed`.
    Once,
    /// The last `max` of them are run, the others are reported as `Missed`.
    All {
        /// At most so many.
        max: u16,
    },
}

/// What happens when a scheduled run finds its job at its concurrency limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The new run is `skipped`.
    Skip,
    /// The new run waits, within the queue's bound.
    Queue,
}

/// "These records of that outbox are durable."
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ack<'a> {
    /// Whose records.
    pub outbox: OutboxId,
    /// At most 64 ranges.
    #[serde(borrow)]
    pub ranges: List<'a, SeqRange>,
}

/// The sequence numbers `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

/// Answers a `Hello`: both directions work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Which hub.
    pub hub: HubId,
    /// Which start of it: another one means that it may have forgotten what was not durable.
    pub start: StartId,
    /// The `Hello` this answers: its agent start id.
    pub agent_start: StartId,
    /// The hub's time now.
    pub time: UnixMillis,
    /// The wire version the hub speaks with this agent.
    pub wire: u8,
    /// The schedule the hub holds for this node.
    pub schedule: ScheduleVersion,
}

/// "The hub is there, and this is its time."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// Which hub.
    pub hub: HubId,
    /// Which start of it. An agent welcomed by another start says `Hello` again.
    pub start: StartId,
    /// The hub's time now.
    pub time: UnixMillis,
}

impl<'a> Command<'a> {
    /// Writes the body into `buffer` and gives what it wrote.
    ///
    /// # Errors
    /// [`Error::Room`] if it does not fit, [`Error::Bound`] if a field is over its limit.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Error> {
        self.check()?;
        header::join(None, self, buffer)
    }

    /// Reads a body. What it gives is within every bound of [`limits`].
    ///
    /// # Errors
    /// See [`Error`]; hostile bytes are just another error.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let (tag, rest) = header::split(body)?;
        if tag.is_some() {
            return Err(Error::Flags(body[1]));
        }
        let (command, rest) =
            postcard::take_from_bytes::<Self>(rest).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() {
            return Err(Error::Malformed);
        }
        command.check()?;
        Ok(command)
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Trigger(t) => {
                name("job", t.job)?;
                at_most("origin", t.origin, limits::ORIGIN)?;
                args(&t.args)
            }
            Self::Query(q) => q.runs.check("runs", limits::QUERY_RUNS, |_| Ok(())),
            Self::Schedule(s) => s.entries.check("entries", limits::ENTRIES, |e| e.check()),
            Self::Ack(a) => a.ranges.check("ranges", limits::ACK_RANGES, |r| {
                if r.first <= r.last { Ok(()) } else { Err(Error::Malformed) }
            }),
            Self::Cancel(_) | Self::Welcome(_) | Self::Beacon(_) => Ok(()),
        }
    }
}

impl Entry<'_> {
    fn check(&self) -> Result<(), Error> {
        name("entry", self.id)?;
        name("job", self.job)?;
        args(&self.args)?;
        match self.when {
            When::Cron(expression) => at_most("cron", expression, limits::CRON),
            When::EveryMs(0) => Err(Error::Malformed),
            When::EveryMs(_) => Ok(()),
        }
    }
}

fn args(list: &List<'_, Arg<'_>>) -> Result<(), Error> {
    list.check("args", limits::ARGS, |arg| {
        name("argument name", arg.name)?;
        at_most("argument value", arg.value, limits::ARG_VALUE)
    })
}

pub(crate) fn name(what: &'static str, text: &str) -> Result<(), Error> {
    check_name(text).map_err(|_| Error::Bound(what))
}

pub(crate) fn at_most(what: &'static str, text: &str, most: usize) -> Result<(), Error> {
    if text.len() <= most { Ok(()) } else { Err(Error::Bound(what)) }
}
