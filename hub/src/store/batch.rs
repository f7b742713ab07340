//! A batch: what becomes durable together. Reused, so that filling one allocates nothing.

use std::ops::Range;

use fieldpost_wire::{Name, OutboxId, RunId, Tag, UnixMillis};

use super::{
    AuditRecord, ConsumerRecord, Key, NodeId, NodeRecord, Outcome, ProgressRecord, Query,
    ScheduleRecord, Source, Tally, TriggerRecord,
};

/// Records in a batch before the reading of reports stops: some 60 ms of the fastest stream.
pub const MOST_RECORDS: usize = 16_384;
/// Bytes in a batch before the reading of reports stops: two chunks of each of 256 runs.
pub const MOST_BYTES: usize = 8 << 20;

/// What becomes durable together, then the questions that are answered after it.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) bytes: Vec<u8>,
    pub(super) changes: Vec<Change>,
    pub(super) queries: Vec<Query>,
    acks: Vec<AckRange>,
    number: u64,
}

/// Something a node reported; texts and bytes are ranges of the batch's arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A complete result.
    Result {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution.
        attempt: u32,
        /// Who says so.
        source: Source,
        /// How it ended.
        outcome: Outcome,
        /// When it came.
        received: UnixMillis,
        /// When it started, by the hub's clock; `None`: not known.
        corrected: Option<UnixMillis>,
        /// The job's name.
        job: Range<u32>,
        /// A body of [`fieldpost_wire::Report::decode`].
        body: Range<u32>,
        /// Whether the run has chunks, and so may have waited for them.
        chunked: bool,
    },
    /// A `Finished` that waits for chunks.
    Awaiting {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution.
        attempt: u32,
        /// When it came.
        received: UnixMillis,
        /// A body of [`fieldpost_wire::Report::decode`].
        body: Range<u32>,
    },
    /// A chunk of output.
    Chunk {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
        /// Which execution.
        attempt: u32,
        /// When it came.
        received: UnixMillis,
        /// Its place.
        index: u32,
        /// Its bytes.
        bytes: Range<u32>,
    },
    /// Due times that were not run.
    Missed {
        /// The node.
        node: NodeId,
        /// When the report came.
        received: UnixMillis,
        /// The entry's name.
        entry: Range<u32>,
        /// The first due time.
        from: UnixMillis,
        /// The last one.
        to: UnixMillis,
        /// How many.
        count: u64,
    },
    /// A reliable report that this version can't read.
    Unreadable {
        /// The node.
        node: NodeId,
        /// Its record.
        tag: Tag,
        /// When it came.
        received: UnixMillis,
        /// The report as it came.
        body: Range<u32>,
    },
}

/// A change that a person or the hub made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node is new or different.
    Node(NodeRecord),
    /// A key may not come back.
    Revoked(Key),
    /// A key may come back.
    Pardoned(Key),
    /// A schedule is new or different.
    Schedule(ScheduleRecord),
    /// A trigger was submitted. One that is there stays as it is.
    Trigger(TriggerRecord),
    /// A trigger was cancelled, on these nodes only unless empty.
    Cancelled {
        /// The run.
        run: RunId,
        /// When.
        time: UnixMillis,
        /// Where.
        nodes: Vec<NodeId>,
    },
    /// A trigger is final everywhere.
    Closed {
        /// The run.
        run: RunId,
        /// How it stands.
        tally: Tally,
    },
    /// How far a run came.
    Progress(ProgressRecord),
    /// A consumer committed an offset.
    Consumer(ConsumerRecord),
    /// A consumer is no more.
    NoConsumer(Name),
    /// Somebody did something.
    Audit(AuditRecord),
    /// Old things go.
    Sweep(Sweep),
}

/// What goes, and what stays nevertheless.
///
/// From the oldest on, results go that came before `before`, and more while the store holds more
/// than `bytes`; output whose run has no result does not count, for no result
/// that goes makes it less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// What came before this goes.
    pub before: UnixMillis,
    /// The store's size to reach.
    pub bytes: u64,
    /// Results after this offset stay.
    pub keep_after: u64,
    /// Results of open triggers that were submitted after this stay, and what came after them: a
    /// hub that starts anew would take their nodes for ones that have not answered.
    pub open_since: UnixMillis,
    /// At most so many rows in one commit.
    pub rows: u32,
}

/// A stretch of an outbox that is acked once this batch is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckRange {
    /// Whose outbox.
    pub node: NodeId,
    /// Which.
    pub(super) outbox: OutboxId,
    /// The first record.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl Batch {
    /// Whether there is nothing to commit and nothing to answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.changes.is_empty()
            && self.queries.is_empty()
            && self.acks.is_empty()
    }

    /// Whether no more reports should be read into it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.records.len() >= MOST_RECORDS || self.bytes.len() >= MOST_BYTES
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether it holds something that [`Query::Run`] will tell of this run.
    #[must_use]
    pub fn tells_of(&self, run: RunId) -> bool {
        let result =
            |record: &Record| matches!(record, Record::Result { run: of, .. } if *of == run);
        let trigger =
            |change: &Change| matches!(change, Change::Trigger(record) if record.run == run);
        self.records.iter().any(result) || self.changes.iter().any(trigger)
    }

    /// The changes.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The questions.
    #[must_use]
    pub fn queries(&self) -> &[Query] {
        &self.queries
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Text of the arena.
    #[must_use]
    pub fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(self.slice(range)).unwrap_or_default()
    }

    /// Which batch this is; counts up from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Empties it, keeping its memory, and makes it the batch of this number.
    pub fn reuse(&mut self, number: u64) {
        self.records.clear();
        self.bytes.clear();
        self.changes.clear();
        self.queries.clear();
        self.acks.clear();
        self.number = number;
    }

    /// Adds bytes to the arena.
    pub fn put(&mut self, parts: &[&[u8]]) -> Range<u32> {
        let start = self.place();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        start..self.place()
    }

    fn place(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a batch is full long before 4 GiB")
    }

    /// Adds a record.
    pub fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Adds a change.
    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Adds a question and gives its place among them.
    pub fn ask(&mut self, query: Query) -> usize {
        self.queries.push(query);
        self.queries.len() - 1
    }

    /// Takes the questions out: nobody waits for their answers any more.
    pub fn drop_queries(&mut self) {
        self.queries.clear();
    }

    /// Notes a report to ack after the commit. `slot` is where the node's last note is, if it
    /// is in this batch; the new place is given.
    pub fn ack(&mut self, node: NodeId, tag: Tag, slot: Option<usize>) -> usize {
        let seq = tag.seq.0;
        if let Some(slot) = slot
            && let Some(range) = self.acks.get_mut(slot)
            && range.outbox == tag.outbox
            && range.node == node
        {
            if range.last.checked_add(1) == Some(seq) {
                range.last = seq;
                return slot;
            }
            if (range.first..=range.last).contains(&seq) {
                return slot;
            }
        }
        self.acks.push(AckRange { node, outbox: tag.outbox, first: seq, last: seq });
        self.acks.len() - 1
    }

    /// Acks an earlier batch's reports with this one's.
    pub fn put_off(&mut self, range: AckRange) {
        self.acks.push(range);
    }

    /// What to ack, by node, outbox and place.
    pub fn take_acks(&mut self) -> Vec<AckRange> {
        let mut acks = std::mem::take(&mut self.acks);
        acks.sort_unstable();
        acks.dedup_by(|next, range| {
            let same = (next.node, next.outbox) == (range.node, range.outbox);
            let follows = same && next.first <= range.last.saturating_add(1);
            if follows {
                range.last = range.last.max(next.last);
            }
            follows
        });
        acks
    }

    /// Gives the list of acks its memory back.
    pub fn return_acks(&mut self, mut acks: Vec<AckRange>) {
        acks.clear();
        self.acks = acks;
    }
}
