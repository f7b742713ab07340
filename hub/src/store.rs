//! What is durable: runs, results, nodes, schedules, the audit trail.
//!
//! The core writes into a [`Batch`] and reads through [`Query`]s that travel in it; a [`Store`]
//! commits the whole batch at once and then answers its queries, so that an answer never shows
//! less than what was asked for before it. Nothing is acked before its batch is committed.
//!
//! [`sqlite`] is the store; [`memory`] is its model for the simulated world; both pass one test.

use std::fmt;
use std::path::Path;

use fieldpost_wire::{Name, OutboxId, RunId, UnixMillis};

mod batch;
#[cfg(test)]
mod conformance;
pub mod memory;
pub mod sqlite;
mod thread;

pub use batch::{AckRange, Batch, Change, Record, Sweep};
pub use thread::{Done, StoreThread};

/// A node's number in one store: given out once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A public key in Z85, as ZAP gives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; 40]);

/// Where a result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The node's own `Finished`.
    Node,
    /// The hub's inference, or a rejection that it wrote down.
    Hub,
}

/// How a run ended on a node: what a node says, and what only the hub can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Exit code 0.
    Ok,
    /// Another exit code, or the job could not be run.
    Failed,
    /// Ended by a signal.
    Signalled,
    /// Stopped because its time was over.
    TimedOut,
    /// Stopped because it was cancelled.
    Cancelled,
    /// Not run: its job was still busy.
    Skipped,
    /// Not run: the node does not allow it.
    Rejected,
    /// Nobody knows what became of it.
    Lost,
    /// Nobody took it by the deadline.
    Expired,
}

/// How many triggered runs a hub knows by heart, to tell a repeated submit from a new one.
pub const RECENT_RUNS: usize = 50_000;
/// Closed triggers that stand on what was inferred and are restored, the newest of them.
pub const STANDING_RUNS: usize = 10_000;

/// Who this store is, for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The hub's id.
    pub hub: fieldpost_wire::HubId,
    /// The epoch of its schedules; never 0.
    pub epoch: u64,
}

/// A key of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeKey {
    /// The key.
    pub key: Key,
    /// Good until then; `None`: until it is replaced or revoked.
    pub until: Option<UnixMillis>,
}

/// A node as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// The hub's word on its groups, sorted.
    pub groups: Vec<Name>,
    /// Its keys; none: revoked.
    pub keys: Vec<NodeKey>,
    /// When it was accepted.
    pub accepted: UnixMillis,
    /// Since when two devices with its key were seen.
    pub quarantined: Option<UnixMillis>,
    /// The schedules' counter when its groups changed last, or it held a later schedule than this store.
    pub regrouped: u64,
}

/// Whom a schedule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every node.
    All,
    /// The nodes of a group.
    Group(Name),
    /// One node.
    Node(Name),
}

/// A schedule as it is stored. One without entries was cleared; its counter still counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    /// Whom it is for.
    pub scope: Scope,
    /// The schedules' counter when it changed.
    pub counter: u64,
    /// When it changed.
    pub changed: UnixMillis,
    /// The entries, as JSON of the client protocol.
    pub entries: String,
}

/// A trigger as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerRecord {
    /// Its run.
    pub run: RunId,
    /// When it was submitted.
    pub submitted: UnixMillis,
    /// Not to be started after this.
    pub deadline: UnixMillis,
    /// The client's name.
    pub client: String,
    /// What the submit said: job, args, select, ttl, origin, as JSON.
    pub request: String,
    /// The job, for lists.
    pub job: Name,
    /// The nodes, frozen, in ascending order.
    pub nodes: Vec<NodeId>,
    /// When it was cancelled.
    pub cancelled: Option<UnixMillis>,
    /// Which nodes were told to cancel; empty: all.
    pub cancelled_nodes: Vec<NodeId>,
    /// How it stands, once no node is open; `None`: some are.
    pub closed: Option<Tally>,
}

/// How a closed run stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nodes whose run ended `ok`.
    pub ok: u32,
    /// Nodes whose run ended otherwise.
    pub failed: u32,
    /// Of these, those that the hub only infers.
    pub inferred: u32,
}

/// How far a run had come on a node: only what a restarted hub must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressRecord {
    /// The run.
    pub run: RunId,
    /// The node.
    pub node: NodeId,
    /// Which execution.
    pub attempt: u32,
    /// Until when the node said it may take; `None`: it was not accepted yet.
    pub until: Option<UnixMillis>,
}

/// A `Finished` whose chunks are not all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitingRecord {
    /// The run.
    pub run: RunId,
    /// The node.
    pub node: NodeId,
    /// Which execution.
    pub attempt: u32,
    /// When the `Finished` came.
    pub received: UnixMillis,
    /// It, as [`fieldpost_wire::Report::decode`] reads it.
    pub body: Vec<u8>,
    /// The indexes of the chunks that are there, as ascending ranges, ends included.
    pub held: Vec<(u32, u32)>,
}

/// How much older than what is kept the output of a run without a `Finished` may be, in
/// milliseconds: the run may still be in progress.
const LATE_MS: u64 = 2 * 24 * 60 * 60 * 1000;

/// Who reads the results, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Its name.
    pub name: Name,
    /// The client that made it: nobody else may move it, but an admin.
    pub owner: String,
    /// Everything up to here is done with.
    pub offset: u64,
    /// When it committed last.
    pub seen: UnixMillis,
}

/// A result as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// Its place in the order of results; grows.
    pub offset: u64,
    /// The run.
    pub run: RunId,
    /// The node.
    pub node: NodeId,
    /// Which execution.
    pub attempt: u32,
    /// Who says so.
    pub source: Source,
    /// How it ended.
    pub outcome: Outcome,
    /// When it came.
    pub received: UnixMillis,
    /// When it started, by the hub's clock; `None`: not known.
    pub corrected: Option<UnixMillis>,
    /// It, as [`fieldpost_wire::Report::decode`] reads it.
    pub body: Vec<u8>,
    /// It replaces an inference of the hub.
    pub revised: bool,
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its place; grows. 0 where it is not stored yet.
    pub offset: u64,
    /// When.
    pub time: UnixMillis,
    /// The client's name; `local` on the hub's host; a node's key where a node did it.
    pub who: String,
    /// The op.
    pub what: String,
    /// What it was done to.
    pub place: String,
    /// What came of it: `ok`, or an error's code.
    pub outcome: String,
    /// The origin it claims.
    pub origin: String,
}

/// Due times of a schedule's entry at which a node did not run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedRecord {
    /// Its place; grows. 0 where it is not stored yet.
    pub offset: u64,
    /// The node.
    pub node: NodeId,
    /// When the node said so.
    pub received: UnixMillis,
    /// The entry's id.
    pub entry: String,
    /// The first of the due times.
    pub from: UnixMillis,
    /// The last of them.
    pub to: UnixMillis,
    /// How many.
    pub count: u64,
}

/// Everything that a starting hub must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Who the store is.
    pub identity: Identity,
    /// All nodes, revoked ones too, by id.
    pub nodes: Vec<NodeRecord>,
    /// Keys that may not come back.
    pub revoked: Vec<Key>,
    /// All schedules.
    pub schedules: Vec<ScheduleRecord>,
    /// Triggers that are open, or that stand on an inference.
    pub triggers: Vec<RestoredTrigger>,
    /// The newest runs that were triggered, newest first; at most [`RECENT_RUNS`].
    pub recent: Vec<RunId>,
    /// Reports that wait for chunks.
    pub awaiting: Vec<AwaitingRecord>,
    /// All consumers.
    pub consumers: Vec<ConsumerRecord>,
    /// When the newest result was stored; 0: there is none.
    pub newest: UnixMillis,
    /// Offsets and size.
    pub extent: Extent,
}

/// A trigger, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredTrigger {
    /// The trigger.
    pub trigger: TriggerRecord,
    /// How far it had come.
    pub progress: Vec<ProgressRecord>,
    /// Its results: node, attempt, source, outcome.
    pub results: Vec<(NodeId, u32, Source, Outcome)>,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The offset of the newest result; 0: none was ever stored.
    pub newest: u64,
    /// The offset of the oldest result that is kept.
    pub oldest: u64,
    /// Bytes used.
    pub bytes: u64,
}

/// What the core asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Results after an offset.
    Results {
        /// Not this one nor those before it.
        after: u64,
        /// At most so many.
        limit: u32,
        /// Only these jobs; empty: all.
        jobs: Vec<Name>,
        /// Only these nodes; empty: all.
        nodes: Vec<NodeId>,
        /// Rows that are not wanted are passed over, but at most so many.
        scan: u32,
    },
    /// One trigger, and its results on these nodes.
    Run {
        /// Which.
        run: RunId,
        /// Not this node nor those before it.
        after: Option<NodeId>,
        /// At most so many nodes.
        limit: u32,
    },
    /// Triggers, newest first.
    Triggers {
        /// Older than this run.
        before: Option<RunId>,
        /// At most so many.
        limit: u32,
        /// Only this job.
        job: Option<Name>,
        /// Only those for this node.
        node: Option<NodeId>,
    },
    /// Chunks of a run's output.
    Chunks {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution; `None`: the last one that left output or a result.
        attempt: Option<u32>,
        /// From this index.
        from: u32,
        /// At most so many bytes, but at least one chunk.
        bytes: u32,
    },
    /// Which chunks of a run are there.
    Held {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution.
        attempt: u32,
    },
    /// What schedules missed, newest first.
    Missed {
        /// Older than this place.
        before: Option<u64>,
        /// At most so many.
        limit: u32,
        /// Only on this node.
        node: Option<NodeId>,
    },
    /// The audit trail, newest first.
    Audit {
        /// Older than this place.
        before: Option<u64>,
        /// At most so many.
        limit: u32,
    },
}

/// What a store says to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Results`].
    Results {
        /// In ascending order.
        rows: Vec<ResultRecord>,
        /// Everything up to here was looked at.
        scanned: u64,
    },
    /// To [`Query::Run`].
    Run {
        /// The trigger; `None`: the run is a scheduled one, or unknown.
        trigger: Option<TriggerRecord>,
        /// All attempts on the nodes of this page, by node, attempt and source.
        rows: Vec<ResultRecord>,
        /// The last node of this page, if there are more.
        next: Option<NodeId>,
    },
    /// To [`Query::Triggers`].
    Triggers(Vec<TriggerRecord>),
    /// To [`Query::Chunks`].
    Chunks {
        /// Which execution they are of; 0: there is none.
        attempt: u32,
        /// Index and bytes, ascending, without a gap.
        chunks: Vec<(u32, Vec<u8>)>,
        /// The result of that execution, if it is complete.
        result: Option<ResultRecord>,
    },
    /// To [`Query::Held`]: ascending ranges, ends included.
    Held {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution.
        attempt: u32,
        /// The indexes.
        held: Vec<(u32, u32)>,
    },
    /// To [`Query::Missed`].
    Missed(Vec<MissedRecord>),
    /// To [`Query::Audit`].
    Audit(Vec<AuditRecord>),
}

/// What a commit did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Offsets and size now.
    pub extent: Extent,
    /// The answers, in the order of the queries.
    pub answers: Vec<Answer>,
    /// Results that were stored, not counting those that were there already.
    pub fresh: u64,
    /// Rows that a [`Change::Sweep`] removed.
    pub swept: u64,
}

/// Why a store could not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// It may work again: no space, an I/O error, somebody else holds the file.
    Failing(String),
    /// It can not be used: damaged, of another program, of a newer version. Says what to do.
    Unusable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failing(what) | Self::Unusable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StoreError {}

/// Where everything durable goes.
pub trait Store {
    /// Reads what a starting hub must know.
    ///
    /// # Errors
    /// [`StoreError`].
    fn restore(&mut self) -> Result<Restored, StoreError>;

    /// Makes a batch durable, all of it or nothing, and then answers its queries. A batch given
    /// again after a failure that it survived changes nothing the second time.
    ///
    /// # Errors
    /// [`StoreError`]; the batch is untouched and may be given again.
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError>;

    /// Copies itself, as it is at the end of it, into a new file, in small steps. After each step
    /// `between` is called with what commits a batch; when it says `false` the copy is given up.
    /// Gives the copy's size in bytes.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no such file, or it is what was there before.
    fn back_up(&mut self, to: &Path, between: &mut Between<'_>) -> Result<u64, StoreError>;
}

/// Commits a batch in the middle of something else.
pub type Commit<'c> = dyn FnMut(&Batch) -> Result<Committed, StoreError> + 'c;
/// What is done between two steps of something long; says whether to go on.
pub type Between<'b> = dyn FnMut(&mut Commit<'_>) -> bool + 'b;

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Key {
    /// From text of the right length. Whether it is a curve's key the handshake has shown.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("(not text)")
    }
}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Outcome {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Ok, "ok"),
        (Self::Failed, "failed"),
        (Self::Signalled, "signalled"),
        (Self::TimedOut, "timed_out"),
        (Self::Cancelled, "cancelled"),
        (Self::Skipped, "skipped"),
        (Self::Rejected, "rejected"),
        (Self::Lost, "lost"),
        (Self::Expired, "expired"),
    ];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Its number in a store.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// From its number in a store.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).map(|(outcome, _)| *outcome)
    }
}

impl From<fieldpost_wire::Status> for Outcome {
    fn from(status: fieldpost_wire::Status) -> Self {
        use fieldpost_wire::Status;
        match status {
            Status::Ok => Self::Ok,
            Status::Failed => Self::Failed,
            Status::Signalled => Self::Signalled,
            Status::TimedOut => Self::TimedOut,
            Status::Cancelled => Self::Cancelled,
            Status::Skipped => Self::Skipped,
            Status::Rejected => Self::Rejected,
            Status::Lost => Self::Lost,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Node(name) => write!(f, "node:{name}"),
        }
    }
}

/// Appends an index to ascending ranges, wherever it belongs.
pub fn insert_index(ranges: &mut Vec<(u32, u32)>, index: u32) {
    let at = ranges.partition_point(|&(_, last)| last < index);
    if let Some(&(first, _)) = ranges.get(at)
        && first <= index
    {
        return;
    }
    let joins_before = at > 0 && ranges[at - 1].1 + 1 == index;
    let joins_after = ranges.get(at).is_some_and(|&(first, _)| index + 1 == first);
    match (joins_before, joins_after) {
        (true, true) => {
            ranges[at - 1].1 = ranges[at].1;
            ranges.remove(at);
        }
        (true, false) => ranges[at - 1].1 = index,
        (false, true) => ranges[at].0 = index,
        (false, false) => ranges.insert(at, (index, index)),
    }
}

/// An outbox's place that is acked once its batch is committed.
impl AckRange {
    /// Which outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxId {
        self.outbox
    }
}
