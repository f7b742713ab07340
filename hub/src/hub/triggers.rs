//! The life of a trigger on each of its nodes.
//!
//! ```text
//! published ──accepted──▶ running ──▶ coming ──▶ final (node's word)
//!     │ deadline             │ time over and the node silent
//!     ▼                      ▼
//!  expired                 lost           (inferred: the node's own Finished revises it)
//! ```
//!
//! It is published at once, again with backoff until the node answers, and when the node says
//! `Hello`. A cancel is repeated until the run is final. What a node's silence means is decided
//! late: `lost` only when the longest time it named is over and nothing was heard of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use fieldpost_wire::{
    Arg, Attempt, Cancel, Command, List, Query, RunId, StartId, Trigger as TriggerCommand,
    UnixMillis, limits,
};
use serde::Serialize;

use super::events::{About, emit};
use super::fast::FastMap;
use super::{Context, Moment};
use crate::protocol::State as Word;
use crate::store::{
    Change, NodeId, Outcome, RECENT_RUNS, ResultRecord, Source, Tally, TriggerRecord,
};
use standing::Standing;

mod answers;
mod due;
mod end;
mod restore;
mod standing;

/// The first pause between two copies of a trigger, a cancel or a query.
const BACKOFF_MS: u64 = 1_000;
/// The longest one.
const BACKOFF_MOST_MS: u64 = 30_000;
/// How long after its deadline a node that is up is waited for.
const EXPIRY_GRACE_MS: u64 = 3_000;
/// How long after its longest time a run is waited for.
const LOST_GRACE_MS: u64 = 5_000;
/// A run that is accepted for longer than this is written down.
const PERSIST_AFTER_MS: u64 = 1_000;
/// How long a node may be silent while a result is on its way until the run counts as lost.
const COMING_PATIENCE_MS: u64 = limits::DEADLINE_AHEAD_MS;

/// A trigger that is open.
#[derive(Debug)]
pub struct Trigger {
    /// What is stored of it.
    pub record: TriggerRecord,
    /// Its arguments.
    pub args: Vec<(String, String)>,
    /// Who asked.
    pub origin: String,
    /// Each of its nodes, in the record's order.
    pub targets: Vec<Target>,
    /// Nodes that are not final.
    pub open: u32,
    /// How the others stand.
    pub tally: Tally,
    due: Moment,
}

/// A trigger on one node.
#[derive(Debug)]
pub struct Target {
    /// The node.
    pub node: NodeId,
    /// Which execution.
    pub attempt: u32,
    /// How it stands.
    pub state: State,
    due: Moment,
    backoff: u64,
    cancelling: bool,
    asked: bool,
    persisted: bool,
    /// The start of the agent that said so.
    start: Option<StartId>,
}

/// How a trigger stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The node did not answer yet.
    Published,
    /// It waits for its turn there, until then at most.
    Accepted(UnixMillis),
    /// It is in progress, until then at most.
    Running(UnixMillis),
    /// It has ended; its result is on its way.
    Coming,
    /// It is over.
    Final(Outcome, Source),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Triggers {
    map: FastMap<RunId, Trigger>,
    due: BinaryHeap<Reverse<(Moment, RunId)>>,
    /// Every run that was ever triggered and whose id is above `horizon`.
    known: BTreeSet<RunId>,
    horizon: Option<RunId>,
    standing: Standing,
    open: usize,
}

impl Target {
    fn new(node: NodeId, attempt: u32, due: Moment) -> Self {
        Self {
            node,
            attempt,
            state: State::Published,
            due,
            backoff: BACKOFF_MS,
            cancelling: false,
            asked: false,
            persisted: false,
            start: None,
        }
    }

    /// The state in a word.
    pub fn word(&self) -> Word {
        match self.state {
            State::Published if self.cancelling => Word::Cancelling,
            State::Accepted(_) | State::Running(_) if self.cancelling => Word::Cancelling,
            State::Published => Word::Waiting,
            State::Accepted(_) => Word::Accepted,
            State::Running(_) => Word::Running,
            State::Coming | State::Final(..) => Word::Coming,
        }
    }

    /// Whether it is over.
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Final(..))
    }

    fn pause(&mut self, now: Moment) -> Moment {
        let at = now.plus_ms(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MOST_MS);
        at
    }
}

impl Triggers {
    /// The trigger of a run, while it is open.
    pub fn get(&self, run: &RunId) -> Option<&Trigger> {
        self.map.get(run)
    }

    /// Triggers with open nodes.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether this run was never triggered. `None`: only the store knows.
    pub fn is_new(&self, run: &RunId) -> Option<bool> {
        if self.known.contains(run) {
            return Some(false);
        }
        match self.horizon {
            Some(horizon) if *run <= horizon => None,
            _ => Some(true),
        }
    }

    fn remember(&mut self, run: RunId) {
        self.known.insert(run);
        while self.known.len() > RECENT_RUNS {
            self.horizon = self.known.pop_first().max(self.horizon);
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// A trigger is new: it is published to each node at once, but to those of which there are `results`
    /// already, in the order of their nodes and attempts.
    pub fn submit(
        &mut self,
        cx: &mut Context<'_>,
        record: TriggerRecord,
        args: Vec<(String, String)>,
        origin: String,
        results: &[ResultRecord],
    ) {
        let now = cx.time.moment();
        let due = now.plus_ms(BACKOFF_MS);
        let targets: Vec<Target> = record
            .nodes
            .iter()
            .map(|node| {
                let mut target = Target::new(*node, Attempt::FIRST.0, due);
                target.backoff = 2 * BACKOFF_MS;
                target
            })
            .collect();
        let run = record.run;
        let open = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let trigger = Trigger { record, args, origin, targets, open, tally: Tally::default(), due };
        if let Some(body) = trigger.command(Attempt::FIRST.0) {
            let body = cx.outputs.store(&body);
            for node in &trigger.record.nodes {
                if results.binary_search_by_key(node, |row| row.node).is_err() {
                    cx.outputs.publish_stored(&cx.nodes.get(*node).topic, &body);
                }
            }
        }
        for node in &trigger.record.nodes {
            cx.nodes.get_mut(*node).open.push(run);
        }
        self.open += 1;
        self.remember(run);
        self.due.push(Reverse((due, run)));
        self.map.insert(run, trigger);
        for of_node in results.chunk_by(|one, next| one.node == next.node) {
            // The last attempt, and of it the node's own word.
            let last = of_node.iter().max_by_key(|row| (row.attempt, row.source == Source::Node));
            let Some(row) = last else { continue };
            let target = self.map.get_mut(&run).and_then(|trigger| trigger.target(row.node));
            if let Some(target) = target {
                target.attempt = row.attempt;
                self.settle(cx, run, row.node, row.outcome, row.source);
            }
        }
    }

    /// Stops a run on these nodes, on all if there are none; gives on how many it was open.
    pub fn cancel(&mut self, cx: &mut Context<'_>, run: RunId, nodes: &[NodeId]) -> u32 {
        let Some(trigger) = self.map.get_mut(&run) else { return 0 };
        let mut told = 0;
        let now = cx.time.moment();
        let all = nodes.is_empty();
        for i in 0..trigger.targets.len() {
            let target = &mut trigger.targets[i];
            if target.is_final() || !(all || nodes.contains(&target.node)) {
                continue;
            }
            told += 1;
            target.cancelling = true;
            target.backoff = BACKOFF_MS;
            target.due = target.pause(now);
            let attempt = target.attempt;
            let node = target.node;
            trigger.publish_cancel(cx, node, attempt);
        }
        if told > 0 {
            let earlier = trigger.record.cancelled.is_some();
            let record = &mut trigger.record;
            record.cancelled.get_or_insert(cx.time.time());
            if all {
                record.cancelled_nodes.clear();
            } else if !earlier {
                record.cancelled_nodes = nodes.to_vec();
            } else if !record.cancelled_nodes.is_empty() {
                record.cancelled_nodes.extend_from_slice(nodes);
            }
            record.cancelled_nodes.sort_unstable();
            record.cancelled_nodes.dedup();
            cx.pipeline.change(Change::Cancelled {
                run,
                time: cx.time.time(),
                nodes: trigger.record.cancelled_nodes.clone(),
            });
            trigger.due = now.plus_ms(BACKOFF_MS).min(trigger.due);
            self.due.push(Reverse((trigger.due, run)));
        }
        told
    }

    /// A node said `Hello`: it is told what is open for it, and asked about what an earlier
    /// start of it had taken on.
    pub fn greeted(&mut self, cx: &mut Context<'_>, node: NodeId, start: StartId) {
        let open = cx.nodes.get(node).open.clone();
        let mut to_ask = Vec::new();
        let now = cx.time.moment();
        let usable = cx.nodes.get(node).is_usable();
        for run in open {
            let Some(trigger) = self.map.get_mut(&run) else { continue };
            let deadline = trigger.record.deadline;
            let Some(target) = trigger.target(node) else { continue };
            match target.state {
                State::Published if !usable || cx.time.time() >= deadline => {}
                State::Published => {
                    target.backoff = BACKOFF_MS;
                    target.due = target.pause(now);
                    let (attempt, cancelling) = (target.attempt, target.cancelling);
                    if cancelling {
                        trigger.publish_cancel(cx, node, attempt);
                    } else {
                        trigger.publish(cx, node, attempt);
                    }
                }
                State::Accepted(_) | State::Running(_) | State::Coming => {
                    if target.start != Some(start) {
                        // And again until it answers: a command may be lost on a full queue.
                        target.asked = true;
                        target.backoff = BACKOFF_MS;
                        target.due = target.pause(now);
                        let at = target.due;
                        trigger.hasten(&mut self.due, at);
                        to_ask.push(run);
                    }
                }
                State::Final(..) => {}
            }
        }
        for runs in to_ask.chunks(limits::QUERY_RUNS) {
            query(cx, node, runs);
        }
    }
}

/// The longest time of a run that is believed: a year.
const MOST_LONGEST_MS: u64 = 366 * 24 * 60 * 60 * 1000;
const EXPIRED: &str = "nobody took it by the deadline";
const CANCELLED_UNSEEN: &str = "cancelled, and nobody had taken it by the deadline";
const CANCELLED_BEFORE: &str = "cancelled before it started";

impl Trigger {
    /// The target of a node.
    pub fn target(&mut self, node: NodeId) -> Option<&mut Target> {
        let at = self.targets.binary_search_by_key(&node, |target| target.node).ok()?;
        Some(&mut self.targets[at])
    }

    /// The target of a node.
    pub fn target_ref(&self, node: NodeId) -> Option<&Target> {
        let at = self.targets.binary_search_by_key(&node, |target| target.node).ok()?;
        Some(&self.targets[at])
    }

    fn hasten(&mut self, heap: &mut BinaryHeap<Reverse<(Moment, RunId)>>, at: Moment) {
        if at < self.due {
            self.due = at;
            heap.push(Reverse((at, self.record.run)));
        }
    }

    /// The command that triggers an execution.
    fn command(&self, attempt: u32) -> Option<Vec<u8>> {
        let mut room = [0; limits::ARGS * (limits::NAME + limits::ARG_VALUE + 4)];
        let args = self.args.iter().map(|(name, value)| Arg { name, value });
        let command = Command::Trigger(TriggerCommand {
            run: self.record.run,
            attempt: Attempt(attempt),
            job: &self.record.job,
            args: List::encode(&mut room, args).ok()?,
            deadline: self.record.deadline,
            origin: &self.origin,
        });
        let mut body = [0; 4096];
        // The submit was checked against the same bounds.
        command.encode(&mut body).ok().map(<[u8]>::to_vec)
    }

    fn publish(&self, cx: &mut Context<'_>, node: NodeId, attempt: u32) {
        if let Some(body) = self.command(attempt) {
            cx.outputs.publish(&cx.nodes.get(node).topic, &body);
        }
    }

    fn publish_cancel(&self, cx: &mut Context<'_>, node: NodeId, attempt: u32) {
        let command = Command::Cancel(Cancel {
            run: self.record.run,
            attempt: Attempt(attempt),
            deadline: self.record.deadline,
        });
        let mut body = [0; 64];
        let body = command.encode(&mut body).expect("a cancel is a few bytes");
        cx.outputs.publish(&cx.nodes.get(node).topic, body);
    }

    fn tell_state(
        &self,
        cx: &mut Context<'_>,
        node: NodeId,
        attempt: u32,
        state: &str,
        detail: &str,
    ) {
        #[derive(Serialize)]
        struct Told<'a> {
            run_id: RunId,
            node: &'a str,
            job: &'a str,
            attempt: u32,
            state: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            detail: &'a str,
            time_ms: u64,
        }
        let name = &cx.nodes.get(node).record.name;
        let (run_id, job) = (self.record.run, &*self.record.job);
        let about = About { run: Some(run_id), node: Some(name), job: Some(job) };
        let time_ms = cx.time.time().0;
        let told = Told { run_id, node: name, job, attempt, state, detail, time_ms };
        emit(cx.outputs, cx.watches, about, "state", &told);
    }
}

impl Tally {
    fn add(&mut self, outcome: Outcome, source: Source) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            _ => self.failed += 1,
        }
        self.inferred += u32::from(is_inferred(source));
    }

    fn remove(&mut self, outcome: Outcome, source: Source) {
        match outcome {
            Outcome::Ok => self.ok = self.ok.saturating_sub(1),
            _ => self.failed = self.failed.saturating_sub(1),
        }
        let inferred = u32::from(is_inferred(source));
        self.inferred = self.inferred.saturating_sub(inferred);
    }
}

/// Whether the node may still say otherwise. A rejected copy of a trigger may have been followed
/// by an accepted one.
fn is_inferred(source: Source) -> bool {
    source == Source::Hub
}

fn query(cx: &mut Context<'_>, node: NodeId, runs: &[RunId]) {
    let mut room = [0; 16 * limits::QUERY_RUNS];
    let runs = List::encode(&mut room, runs.iter().copied()).expect("64 ids of 16 bytes fit");
    let mut body = [0; 16 * limits::QUERY_RUNS + 16];
    let body = Command::Query(Query { runs }).encode(&mut body).expect("64 ids fit");
    cx.outputs.publish(&cx.nodes.get(node).topic, body);
}
