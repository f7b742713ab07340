//! What the world knows to be true, and the checks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fieldpost_hub::store::memory::Memory;
use fieldpost_hub::store::{Batch, Change, NodeId, Outcome, Record, ResultRecord, Source};

use fieldpost_wire::{Ack, Attempt, OutboxId, Report, RunId, Tag};

use crate::world::{SECOND, Time};

/// Which execution of which run on which node.
pub type Execution = (usize, RunId, Attempt);

/// How long a hub takes to write down that a result is coming: it waits a second, then for the commit
/// under way, then for its own.
const UNWRITTEN: Time = 4 * SECOND;

/// Something that must hold does not.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The seed that shows it.
    pub seed: u64,
    /// What.
    pub what: String,
    /// The last things that happened.
    pub history: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.history)
    }
}

impl std::error::Error for Broken {}

/// A reliable report, as it was first sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Chunk(RunId, Attempt, u32),
    Finished(RunId, Attempt),
    Missed,
}

/// The truth.
#[derive(Default)]
pub struct Ledger {
    executed: BTreeMap<Execution, u32>,
    sent: BTreeMap<(OutboxId, u64), (usize, Sent)>,
    /// Results that an agent gave: what must be in the store at the end.
    given: BTreeMap<Execution, Given>,
    /// Programs that ended, and when: their result must be in the store at the end.
    ended: BTreeMap<Execution, Time>,
    /// What a power cut took, or may have: it leaves no trace, and may run again.
    taken: BTreeSet<Execution>,
    /// Nodes whose disk did not take what it was given.
    disk_failed: BTreeSet<usize>,
    /// Executions whose node said that the result is coming.
    coming: BTreeMap<Execution, Time>,
    /// What was committed.
    chunks: BTreeSet<(NodeId, RunId, u32, u32)>,
    finished: BTreeSet<(NodeId, RunId, u32)>,
    missed: u64,
    nodes: BTreeMap<NodeId, usize>,
    /// Runs that the hub said yes to.
    submitted: Vec<(RunId, Vec<usize>)>,
    broken: Option<String>,
}

/// A result that an agent gave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    bytes: u64,
    chunks: u32,
    dropped: bool,
    /// The agent was killed while it held this unacked: it may be lost.
    excused: bool,
}

impl Ledger {
    /// The first thing that is broken.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn complain(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A program, or a built-in job, was started.
    pub fn executed(&mut self, execution: Execution) {
        let count = self.executed.entry(execution).or_default();
        *count += 1;
        let count = *count;
        if count > 1 && !self.taken.contains(&execution) {
            self.complain(format!("{execution:?} is executed {count} times"));
        }
    }

    /// A node sent a report.
    pub fn sent(&mut self, node: usize, tag: Option<Tag>, report: &Report<'_>) {
        let sent = match report {
            Report::Output(o) => Sent::Chunk(o.run, o.attempt, o.index),
            Report::Finished(f) => {
                let given = Given {
                    bytes: f.bytes,
                    chunks: f.chunks,
                    dropped: f.output_dropped,
                    excused: false,
                };
                self.given.insert((node, f.run, f.attempt), given);
                Sent::Finished(f.run, f.attempt)
            }
            Report::Missed(_) => Sent::Missed,
            Report::Hello(_) | Report::Heartbeat(_) | Report::State(_) => return,
        };
        let Some(tag) = tag else {
            return self.complain(format!("{sent:?} has no tag"));
        };
        self.sent.insert((tag.outbox, tag.seq.0), (node, sent));
    }

    /// The hub heard that a result is coming.
    pub fn coming(&mut self, execution: Execution, time: Time) {
        self.coming.entry(execution).or_insert(time);
    }

    /// The hub is killed: what it heard in the last moments, it had not written down.
    pub fn hub_killed(&mut self, time: Time) {
        self.coming.retain(|_, at| *at + UNWRITTEN <= time);
    }

    /// A program ended, and its agent heard of it.
    pub fn ended(&mut self, execution: Execution, time: Time) {
        self.ended.insert(execution, time);
    }

    /// A node's disk does not take everything: what it holds unacked may be lost with it.
    pub fn disk_fails(&mut self, node: usize) {
        self.disk_failed.insert(node);
    }

    /// The power of a node was cut, and its agent was [`Ledger::killed`].
    pub fn power_cut(&mut self, node: usize, always: bool) {
        let Self { ended, taken, executed, disk_failed, coming, .. } = self;
        if always && !disk_failed.contains(&node) {
            return;
        }
        taken.extend(executed.keys().filter(|e| e.0 == node && !ended.contains_key(e)));
        // What was safe may run again too: that it was accepted is known from its end only, and
        // that may have been acked, with the trigger still under way.
        coming.retain(|execution, _| execution.0 != node || ended.contains_key(execution));
    }

    /// An agent is killed: what it holds unacked may be lost, if it came in the last `kept`.
    pub fn killed(&mut self, node: usize, time: Time, kept: Time) {
        let failed = self.disk_failed.contains(&node);
        self.ended.retain(|execution, at| execution.0 != node || (!failed && *at + kept <= time));
        let unacked: BTreeSet<(RunId, Attempt)> = self
            .sent
            .values()
            .filter(|(owner, _)| *owner == node)
            .filter_map(|(_, sent)| match sent {
                Sent::Finished(run, attempt) | Sent::Chunk(run, attempt, _) => {
                    Some((*run, *attempt))
                }
                Sent::Missed => None,
            })
            .collect();
        for ((owner, run, attempt), given) in &mut self.given {
            if *owner == node && unacked.contains(&(*run, *attempt)) {
                given.excused = true;
            }
        }
        self.sent.retain(|_, (owner, _)| *owner != node);
    }

    /// An agent takes an ack: what it names must be in the store.
    pub fn acked(&mut self, ack: &Ack<'_>) {
        for range in ack.ranges.iter() {
            for seq in range.first.0..=range.last.0 {
                let Some((node, sent)) = self.sent.remove(&(ack.outbox, seq)) else {
                    continue; // acked before, or of an earlier start
                };
                if !self.is_stored(node, sent) {
                    self.complain(format!("{sent:?} of node {node} is acked but not stored"));
                }
            }
        }
    }

    fn is_stored(&self, node: usize, sent: Sent) -> bool {
        let id = self.nodes.iter().find(|(_, index)| **index == node).map(|(id, _)| *id);
        let Some(id) = id else { return false };
        match sent {
            Sent::Chunk(run, attempt, index) => self.chunks.contains(&(id, run, attempt.0, index)),
            Sent::Finished(run, attempt) => self.finished.contains(&(id, run, attempt.0)),
            Sent::Missed => self.missed > 0,
        }
    }

    /// A batch was committed.
    pub fn committed(&mut self, batch: &Batch, name_of: impl Fn(&str) -> Option<usize>) {
        for change in batch.changes() {
            if let Change::Node(record) = change
                && let Some(index) = name_of(&record.name)
            {
                self.nodes.insert(record.id, index);
            }
        }
        for record in batch.records() {
            match record {
                Record::Result { run, node, attempt, source, outcome, .. } => {
                    if *source == Source::Node {
                        self.finished.insert((*node, *run, *attempt));
                    } else if *outcome == Outcome::Lost
                        && let Some(&index) = self.nodes.get(node)
                        && self.coming.contains_key(&(index, *run, Attempt(*attempt)))
                    {
                        self.complain(format!("{run} is lost though its result was coming"));
                    }
                }
                Record::Awaiting { run, node, attempt, .. } => {
                    self.finished.insert((*node, *run, *attempt));
                }
                Record::Chunk { run, node, attempt, index, .. } => {
                    self.chunks.insert((*node, *run, *attempt, *index));
                }
                Record::Missed { .. } => self.missed += 1,
                Record::Unreadable { .. } => {
                    self.complain("a report of our own agent is unreadable".to_owned());
                }
            }
        }
    }

    /// The hub said yes to a run on these nodes.
    pub fn submitted(&mut self, run: RunId, nodes: Vec<usize>) {
        if !self.submitted.iter().any(|(known, _)| *known == run) {
            self.submitted.push((run, nodes));
        }
    }

    /// How many executions there were.
    pub fn executions(&self) -> usize {
        self.executed.len()
    }

    /// The world has come to rest: everything that must be in the store is there. Gives how many
    /// results there are.
    pub fn settle(&mut self, store: &Memory) -> usize {
        let rows: Vec<ResultRecord> = store.results().map(|(row, _)| row.clone()).collect();
        let mut seen = BTreeSet::new();
        for row in &rows {
            if !seen.insert((row.node, row.run, row.attempt, row.source as u8)) {
                self.complain(format!("{} of {:?} stands twice in the store", row.run, row.node));
            }
        }
        let stored = |node: usize, run: RunId, attempt: Option<Attempt>, source: Option<Source>| {
            rows.iter().find(|row| {
                self.nodes.get(&row.node) == Some(&node)
                    && row.run == run
                    && attempt.is_none_or(|attempt| row.attempt == attempt.0)
                    && source.is_none_or(|source| row.source == source)
            })
        };
        let mut complaints = Vec::new();
        for (&(node, run, attempt), given) in &self.given {
            let row = stored(node, run, Some(attempt), Some(Source::Node));
            match row {
                None if given.excused => {}
                None => complaints.push(format!("the result of {run} on node {node} is missing")),
                Some(row) if !given.excused && !given.dropped && given.chunks > 0 => {
                    let bytes = store.output(run, row.node, row.attempt).len() as u64;
                    // Pieces of both executions, if a power cut made it run again: its checksum
                    // tells.
                    let again = self.executed.get(&(node, run, attempt)) > Some(&1);
                    if bytes != given.bytes && !again {
                        complaints.push(format!(
                            "{run} on node {node}: {bytes} of {} bytes are stored",
                            given.bytes
                        ));
                    }
                }
                Some(_) => {}
            }
        }
        for &(node, run, attempt) in self.ended.keys() {
            match stored(node, run, Some(attempt), Some(Source::Node)) {
                Some(row) if row.outcome != Outcome::Lost => {}
                Some(_) => complaints.push(format!("{run} ended on node {node} and is lost")),
                None => complaints.push(format!("the end of {run} on node {node} is missing")),
            }
        }
        for (run, nodes) in &self.submitted {
            for &node in nodes {
                if stored(node, *run, None, None).is_none() {
                    complaints.push(format!("{run} has no status on node {node}"));
                }
            }
        }
        for &(node, run, attempt) in self.executed.keys() {
            let taken = self.taken.contains(&(node, run, attempt));
            if !taken && stored(node, run, Some(attempt), None).is_none() {
                complaints.push(format!("{run} ran on node {node} and left no trace"));
            }
        }
        for complaint in complaints {
            self.complain(complaint);
        }
        rows.len()
    }
}
