//! What the world knows to be true, and the checks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fieldpost_hub::store::memory::Memory;
use fieldpost_hub::store::{Batch, Change, NodeId, Outcome, Record, ResultRecord, Source};

use fieldpost_wire::{Ack, Attempt, OutboxId, Report, RunId, Tag};

use crate::plan::{Fault, Plan};
use crate::world::{BIRTH, SECOND, Time};

/// Which execution of which run on which node.
pub type Execution = (usize, RunId, Attempt);

/// A node as a hub numbers it: which hub, and its number there.
type At = (usize, NodeId);

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
    /// When each was started: more than once, if a power cut made it run again.
    executed: BTreeMap<Execution, Vec<Time>>,
    sent: BTreeMap<(OutboxId, u64), (usize, Sent)>,
    /// Results that an agent gave: what must be in the store at the end.
    given: BTreeMap<Execution, Given>,
    /// Programs that ended, and when: their result must be in the store at the end.
    ended: BTreeMap<Execution, Time>,
    /// What a power cut took, or may have: it leaves no trace, and may run again.
    taken: BTreeSet<Execution>,
    /// Nodes whose disk did not take what it was given.
    disk_failed: BTreeSet<usize>,
    /// Executions whose node said to that hub that the result is coming.
    coming: BTreeMap<(usize, Execution), Time>,
    /// What was committed, and at which hub.
    chunks: BTreeSet<(At, RunId, u32, u32)>,
    finished: BTreeSet<(At, RunId, u32)>,
    missed: u64,
    nodes: BTreeMap<At, usize>,
    quarantined: BTreeSet<At>,
    /// A device, and the one whose name and key it had.
    clone: Option<(usize, usize)>,
    /// Runs that a hub said yes to.
    submitted: Vec<(usize, RunId, Vec<usize>)>,
    /// Runs of which every node has to make something.
    wanted: BTreeSet<RunId>,
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
    pub fn executed(&mut self, execution: Execution, time: Time) {
        let starts = self.executed.entry(execution).or_default();
        starts.push(time);
        let count = starts.len();
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

    /// A hub heard that a result is coming.
    pub fn coming(&mut self, hub: usize, execution: Execution, time: Time) {
        self.coming.entry((hub, execution)).or_insert(time);
    }

    /// A hub is killed: what it heard in the last moments, it had not written down.
    pub fn hub_killed(&mut self, hub: usize, time: Time) {
        self.coming.retain(|(at_hub, _), at| *at_hub != hub || *at + UNWRITTEN <= time);
    }

    /// From now on a second device has the name and the key of that one. What the hub makes of what
    /// the two say of one run is anybody's guess, but for what they executed.
    pub fn cloned(&mut self, device: usize, of: usize) {
        self.clone = Some((device, of));
        self.coming.retain(|(_, execution), _| execution.0 != of);
    }

    /// Whether two devices go by this one's name.
    fn is_cloned(&self, node: usize) -> bool {
        self.clone.is_some_and(|(device, of)| [device, of].contains(&node))
    }

    /// Nothing fails any more, and both devices reach the hub.
    pub fn must_be_quarantined(&mut self, node: usize) {
        let at: Vec<At> = self.at(node).collect();
        if !at.iter().any(|at| self.quarantined.contains(at)) {
            self.complain(format!("two devices are node {node}, and it is not quarantined"));
        }
    }

    /// A node, as the hubs number it.
    fn at(&self, node: usize) -> impl Iterator<Item = At> {
        self.nodes.iter().filter(move |(_, index)| **index == node).map(|(at, _)| *at)
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
        coming.retain(|(_, execution), _| execution.0 != node || ended.contains_key(execution));
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

    /// An agent takes an ack: what it names must be in that hub's store.
    pub fn acked(&mut self, hub: usize, ack: &Ack<'_>) {
        for range in ack.ranges.iter() {
            for seq in range.first.0..=range.last.0 {
                let Some((node, sent)) = self.sent.remove(&(ack.outbox, seq)) else {
                    continue; // acked before, or of an earlier start
                };
                if !self.is_stored(hub, node, sent) {
                    self.complain(format!("{sent:?} of node {node} is acked but not stored"));
                }
            }
        }
    }

    fn is_stored(&self, hub: usize, node: usize, sent: Sent) -> bool {
        // What was copied with a card may have gone under the name it had then.
        let former = self.clone.filter(|(device, _)| *device == node).map(|(_, of)| of);
        let mut names = self.at(node).chain(former.into_iter().flat_map(|of| self.at(of)));
        names.any(|at| {
            at.0 == hub
                && match sent {
                    Sent::Chunk(run, attempt, index) => {
                        self.chunks.contains(&(at, run, attempt.0, index))
                    }
                    Sent::Finished(run, attempt) => self.finished.contains(&(at, run, attempt.0)),
                    Sent::Missed => self.missed > 0,
                }
        })
    }

    /// A batch was committed.
    pub fn committed(
        &mut self,
        hub: usize,
        batch: &Batch,
        name_of: impl Fn(&str) -> Option<usize>,
    ) {
        for change in batch.changes() {
            let Change::Node(record) = change else { continue };
            let at = (hub, record.id);
            if let Some(index) = name_of(&record.name) {
                self.nodes.insert(at, index);
            }
            if record.quarantined.is_none() {
                self.quarantined.remove(&at);
            } else if self.quarantined.insert(at)
                && !self.nodes.get(&at).is_some_and(|&node| self.is_cloned(node))
            {
                self.complain(format!("{} is quarantined, and is one device", record.name));
            }
        }
        for record in batch.records() {
            match record {
                Record::Result { run, node, attempt, source, outcome, .. } => {
                    if *source == Source::Node {
                        self.finished.insert(((hub, *node), *run, *attempt));
                    } else if *outcome == Outcome::Lost
                        && let Some(&index) = self.nodes.get(&(hub, *node))
                        && !self.is_cloned(index)
                        && !self.at(index).any(|at| {
                            // Announced here, and then delivered to the other hub.
                            self.finished.contains(&(at, *run, *attempt))
                        })
                        && self.coming.contains_key(&(hub, (index, *run, Attempt(*attempt))))
                    {
                        self.complain(format!("{run} is lost though its result was coming"));
                    }
                }
                Record::Awaiting { run, node, attempt, .. } => {
                    self.finished.insert(((hub, *node), *run, *attempt));
                }
                Record::Chunk { run, node, attempt, index, .. } => {
                    self.chunks.insert(((hub, *node), *run, *attempt, *index));
                }
                Record::Missed { .. } => self.missed += 1,
                Record::Unreadable { .. } => {
                    self.complain("a report of our own agent is unreadable".to_owned());
                }
            }
        }
    }

    /// A hub said yes to a run on these nodes.
    pub fn submitted(&mut self, hub: usize, run: RunId, nodes: Vec<usize>) {
        if !self.submitted.iter().any(|(_, known, _)| *known == run) {
            self.submitted.push((hub, run, nodes));
        }
    }

    /// All is well when this run is asked for: it ends well on each of its nodes.
    pub fn must_end_well(&mut self, run: RunId) {
        self.wanted.insert(run);
    }

    /// How many executions there were.
    pub fn executions(&self) -> usize {
        self.executed.len()
    }

    /// The world has come to rest: everything that must be in a store is there. Gives how many
    /// results there are, and of how many a hub knows when they started.
    pub fn settle(&mut self, stores: &[&Memory], plan: &Plan) -> (usize, usize) {
        let rows = Rows::of(stores, &self.nodes, self.clone);
        let mut complaints = rows.repeated();
        complaints.extend(self.wrong_times(&rows, plan));
        for (&execution, given) in &self.given {
            let (node, run, _) = execution;
            let mut found = rows.of_execution(execution).peekable();
            if found.peek().is_none() {
                if !given.excused {
                    complaints.push(format!("the result of {run} on node {node} is missing"));
                }
                continue;
            }
            // Pieces of both executions, if a power cut made it run again, or a clone ran it too: its
            // checksum tells.
            let again = self.executed.get(&execution).is_some_and(|starts| starts.len() > 1)
                || self.is_cloned(node);
            if given.excused || given.dropped || given.chunks == 0 || again {
                continue;
            }
            let bytes =
                |row: &Row| stores[row.hub].output(run, row.record.node, row.record.attempt);
            let most = found.map(|row| bytes(row).len() as u64).max().unwrap_or(0);
            if most != given.bytes {
                complaints.push(format!(
                    "{run} on node {node}: {most} of {} bytes are stored",
                    given.bytes
                ));
            }
        }
        for &execution in self.ended.keys() {
            let (node, run, _) = execution;
            match rows.of_execution(execution).next().map(|row| row.record.outcome) {
                // A clone finds on its card that a run was in progress, and says that it is lost.
                Some(Outcome::Lost) if !self.is_cloned(node) => {
                    complaints.push(format!("{run} ended on node {node} and is lost"));
                }
                Some(_) => {}
                None => complaints.push(format!("the end of {run} on node {node} is missing")),
            }
        }
        for (hub, run, nodes) in &self.submitted {
            for &node in nodes {
                let told = rows.of_run(node, *run).filter(|row| {
                    // What was coming when the node took another hub goes there; this one waits a
                    // day for it.
                    row.hub == *hub || row.record.source == Source::Node
                });
                let mut told = told.peekable();
                if told.peek().is_none() {
                    complaints.push(format!("{run} has no status on node {node}"));
                } else if self.wanted.contains(run)
                    && !told.any(|row| row.record.outcome == Outcome::Ok)
                {
                    complaints.push(format!("{run} does not end well on node {node}"));
                }
            }
        }
        for &(node, run, attempt) in self.executed.keys() {
            let mut told = rows.of_run(node, run).filter(|row| row.record.attempt == attempt.0);
            if !self.taken.contains(&(node, run, attempt)) && told.next().is_none() {
                complaints.push(format!("{run} ran on node {node} and left no trace"));
            }
        }
        for complaint in complaints {
            self.complain(complaint);
        }
        let corrected = rows.0.iter().filter(|row| row.record.corrected.is_some());
        (rows.0.len(), corrected.count())
    }

    /// Complaints of corrected times that are not when the program started, and of those that are
    /// missing although nothing kept the hub from hearing a heartbeat first.
    fn wrong_times(&self, rows: &Rows, plan: &Plan) -> Vec<String> {
        if plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::SetHubClock(_))) {
            return Vec::new(); // its time is not the world's
        }
        let harmless = |fault: &Fault| {
            matches!(fault, Fault::KillAgent(..) | Fault::FillDisk(..) | Fault::SetClock(..))
        };
        let undisturbed = plan.hubs == 1
            && plan.clone.is_none()
            && plan.faults.iter().all(|(_, fault)| harmless(fault));
        // A heartbeat that was long under way makes it late. That is one that came twice, if the hub
        // had forgotten the boot in between: it knows the last two.
        let slack = (plan.delay + SECOND) / 1000;
        let boots = |node: usize| {
            let of_it = |fault: &Fault| matches!(fault, Fault::CutPower(of, _) if *of == node);
            plan.faults.iter().filter(|(_, fault)| of_it(fault)).count()
        };
        let forgets = plan.clone.is_some() || (0..plan.nodes.len()).any(|node| boots(node) >= 2);
        let late = if forgets { plan.latest_repeat / 1000 } else { 0 };
        let mut complaints = Vec::new();
        for Row { nodes, record, .. } in &rows.0 {
            let execution = |node: &usize| (*node, record.run, Attempt(record.attempt));
            let starts = nodes.iter().flatten();
            let starts = starts.filter_map(|node| self.executed.get(&execution(node))).flatten();
            let starts: Vec<u64> = starts.map(|time| BIRTH + time / 1000).collect();
            let run = record.run;
            let is_lost = match record.outcome {
                Outcome::Ok | Outcome::Failed | Outcome::Signalled | Outcome::TimedOut => false,
                Outcome::Lost if nodes[1].is_none() => true,
                // It may have been told by another device or start of the agent than ran it.
                _ => continue,
            };
            if starts.is_empty() || record.source == Source::Hub {
                continue;
            }
            let is_right = |said: u64, start: u64| {
                // Of what is lost it is known when it was accepted.
                said <= start + slack + late && (is_lost || start <= said + slack)
            };
            match record.corrected {
                Some(said) if starts.iter().any(|&start| is_right(said.0, start)) => {}
                Some(said) => complaints
                    .push(format!("{run} started at {starts:?}, and the hub says {}", said.0)),
                None if undisturbed && !is_lost => {
                    complaints.push(format!("the hub does not know when {run} started"));
                }
                None => {}
            }
        }
        complaints
    }
}

/// A row of a store.
struct Row {
    hub: usize,
    /// The device that went by this name, and the one that may have before it had its own.
    nodes: [Option<usize>; 2],
    record: ResultRecord,
}

/// All rows of all stores.
struct Rows(Vec<Row>);

impl Rows {
    fn of(stores: &[&Memory], nodes: &BTreeMap<At, usize>, clone: Option<(usize, usize)>) -> Self {
        let row = |hub: usize, record: &ResultRecord| {
            let node = nodes.get(&(hub, record.node)).copied();
            let other = clone.filter(|(_, of)| node == Some(*of)).map(|(device, _)| device);
            Row { hub, nodes: [node, other], record: record.clone() }
        };
        let all = stores.iter().enumerate();
        Self(all.flat_map(|(hub, store)| store.results().map(move |(r, _)| row(hub, r))).collect())
    }

    /// Complaints of what stands twice at one hub.
    fn repeated(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let key =
            |Row { hub, record: r, .. }: &Row| (*hub, r.node, r.run, r.attempt, r.source as u8);
        let again = self.0.iter().filter(|row| !seen.insert(key(row)));
        again
            .map(|Row { record: r, .. }| {
                format!("{} of {:?} stands twice in the store", r.run, r.node)
            })
            .collect()
    }

    fn of_run(&self, node: usize, run: RunId) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| row.nodes.contains(&Some(node)) && row.record.run == run)
    }

    /// What the node itself said of it.
    fn of_execution(&self, (node, run, attempt): Execution) -> impl Iterator<Item = &Row> {
        self.of_run(node, run)
            .filter(move |row| row.record.attempt == attempt.0 && row.record.source == Source::Node)
    }
}
