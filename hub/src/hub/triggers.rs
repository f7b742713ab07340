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
    Arg, Attempt, Cancel, Clock, Command, Exit, Finished, List, Query, Report, RunId, RunState,
    StartId, State as StateReport, Status, Trigger as TriggerCommand, UnixMillis, limits,
};
use serde::Serialize;

use super::events::{About, emit};
use super::fast::FastMap;
use super::nodes::SILENT_MS;
use super::{Context, Moment};
use crate::protocol::{ResultRow, State as Word};
use crate::store::{
    Change, NodeId, Outcome, ProgressRecord, RECENT_RUNS, Record, RestoredTrigger, Source, Tally,
    TriggerRecord,
};
use standing::Standing;

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

    /// A trigger is new: it is published to each node at once.
    pub fn submit(
        &mut self,
        cx: &mut Context<'_>,
        record: TriggerRecord,
        args: Vec<(String, String)>,
        origin: String,
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
                cx.outputs.publish_stored(&cx.nodes.get(*node).topic, &body);
            }
        }
        for node in &trigger.record.nodes {
            cx.nodes.get_mut(*node).open.push(run);
        }
        self.open += 1;
        self.remember(run);
        self.due.push(Reverse((due, run)));
        self.map.insert(run, trigger);
    }

    /// What the store knows.
    pub fn restore(
        &mut self,
        cx: &mut Context<'_>,
        triggers: Vec<RestoredTrigger>,
        recent: Vec<RunId>,
    ) {
        if recent.len() >= RECENT_RUNS {
            self.horizon = recent.last().copied();
        }
        self.known.extend(recent);
        for restored in triggers {
            self.restore_one(cx, restored);
        }
    }

    fn restore_one(&mut self, cx: &mut Context<'_>, restored: RestoredTrigger) {
        let RestoredTrigger { trigger: record, progress, results } = restored;
        let due = cx.time.moment().plus_ms(BACKOFF_MS);
        let content: crate::hub::runs::Content =
            serde_json::from_str(&record.request).unwrap_or_default();
        let targets: Vec<Target> =
            record.nodes.iter().map(|node| Target::new(*node, Attempt::FIRST.0, due)).collect();
        let run = record.run;
        let mut trigger = Trigger {
            args: content.args.into_iter().collect(),
            origin: content.origin,
            targets,
            open: 0,
            tally: Tally::default(),
            due,
            record,
        };
        for (node, attempt, source, outcome) in results {
            let Some(target) = trigger.target(node) else { continue };
            let replaces = match target.state {
                State::Final(_, Source::Node) => attempt > target.attempt,
                State::Final(_, Source::Hub) => attempt >= target.attempt,
                _ => true,
            };
            if replaces {
                target.attempt = attempt;
                target.state = State::Final(outcome, source);
            }
        }
        for step in progress {
            let Some(target) = trigger.target(step.node) else { continue };
            if target.is_final() && step.attempt <= target.attempt {
                continue;
            }
            target.attempt = step.attempt;
            target.persisted = true;
            target.state = step.until.map_or(State::Published, State::Accepted);
        }
        let cancelled = trigger.record.cancelled.is_some();
        for i in 0..trigger.targets.len() {
            let target = &mut trigger.targets[i];
            let nodes = &trigger.record.cancelled_nodes;
            target.cancelling = cancelled && (nodes.is_empty() || nodes.contains(&target.node));
            if let State::Final(outcome, source) = target.state {
                trigger.tally.add(outcome, source);
            } else {
                trigger.open += 1;
                cx.nodes.get_mut(target.node).open.push(run);
            }
        }
        self.remember(run);
        if trigger.open == 0 {
            // The last result was stored, the closing was not: or it stands on an inference.
            if trigger.record.closed != Some(trigger.tally) {
                cx.pipeline.change(Change::Closed { run, tally: trigger.tally });
                trigger.record.closed = Some(trigger.tally);
            }
            self.standing.add(&trigger);
            return;
        }
        self.open += 1;
        self.due.push(Reverse((due, run)));
        self.map.insert(run, trigger);
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
                        target.asked = true;
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

    /// A node says how a run stands.
    pub fn state(&mut self, cx: &mut Context<'_>, node: NodeId, report: &StateReport<'_>) {
        let run = report.run;
        let now = cx.time.moment();
        let start = cx.nodes.get(node).greeting.as_ref().map(|greeting| greeting.start);
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let time = cx.time.time();
        let deadline = trigger.record.deadline;
        let reruns = cx.nodes.get(node).reruns(&trigger.record.job);
        let Some(target) = trigger.target(node) else { return };
        if target.is_final() {
            return;
        }
        // Of a run that it does not know, a node can't know the attempt either.
        let unknown = report.state == RunState::Unknown;
        if !unknown && report.attempt.0 != target.attempt {
            return;
        }
        match report.state {
            RunState::Accepted { longest_ms } | RunState::Running { longest_ms } => {
                let until = time.plus_ms(longest_ms.min(MOST_LONGEST_MS));
                let running = matches!(report.state, RunState::Running { .. });
                let state = if running { State::Running(until) } else { State::Accepted(until) };
                // A copy that comes late does not take a run back.
                if matches!(target.state, State::Coming) {
                    return;
                }
                if matches!(target.state, State::Running(_)) && !running {
                    return;
                }
                let changed =
                    std::mem::discriminant(&target.state) != std::mem::discriminant(&state);
                target.state = state;
                target.start = start;
                target.asked = false;
                if changed {
                    target.backoff = BACKOFF_MS;
                }
                if !target.cancelling || changed {
                    target.due = now.plus_ms(PERSIST_AFTER_MS);
                }
                let (at, attempt) = (target.due, target.attempt);
                trigger.hasten(&mut self.due, at);
                if changed {
                    trigger.tell_state(
                        cx,
                        node,
                        attempt,
                        if running { "running" } else { "accepted" },
                        "",
                    );
                }
            }
            RunState::Coming => {
                let changed = target.state != State::Coming;
                target.state = State::Coming;
                target.start = start;
                target.asked = false;
                target.due = now.plus_ms(60_000);
                #[cfg(feature = "planted-bugs")]
                if cx.bugs.lost_while_coming {
                    target.due = now.plus_ms(BACKOFF_MS);
                }
                let (at, attempt) = (target.due, target.attempt);
                trigger.hasten(&mut self.due, at);
                if changed {
                    trigger.tell_state(cx, node, attempt, "coming", "");
                }
            }
            RunState::Rejected { reason, detail } => {
                let mut note = reason_word(reason).to_owned();
                if !detail.is_empty() {
                    note = format!("{note}: {detail}");
                }
                self.conclude(cx, run, node, Outcome::Rejected, &note);
            }
            RunState::Cancelled => {
                self.conclude(cx, run, node, Outcome::Cancelled, "cancelled before it started");
            }
            RunState::Unknown => match target.state {
                State::Published if target.asked && time >= deadline => {
                    self.conclude(cx, run, node, Outcome::Expired, EXPIRED);
                }
                State::Accepted(_) | State::Running(_) | State::Coming if target.asked => {
                    target.asked = false;
                    if reruns && time < deadline && !target.cancelling {
                        self.again(cx, run, node);
                    } else {
                        let note = "the agent was restarted and knows nothing of it";
                        self.conclude(cx, run, node, Outcome::Lost, note);
                    }
                }
                _ => {}
            },
        }
    }

    /// The next execution.
    fn again(&mut self, cx: &mut Context<'_>, run: RunId, node: NodeId) {
        let now = cx.time.moment();
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let Some(target) = trigger.target(node) else { return };
        let attempt = target.attempt + 1;
        *target = Target::new(node, attempt, now);
        target.persisted = true;
        target.due = target.pause(now);
        let at = target.due;
        let step = ProgressRecord { run, node, attempt, until: None };
        cx.pipeline.change(Change::Progress(step));
        trigger.publish(cx, node, attempt);
        trigger.hasten(&mut self.due, at);
        trigger.tell_state(cx, node, attempt, "waiting", "to be run again");
    }

    /// A node's own `Finished`, complete. Says whether it revises an inference, or `None` if the
    /// run is not one of ours.
    pub fn finished(
        &mut self,
        cx: &mut Context<'_>,
        node: NodeId,
        report: &Finished<'_>,
    ) -> Option<bool> {
        let run = report.run;
        let Some(trigger) = self.map.get_mut(&run) else {
            let (attempt, outcome) = (report.attempt.0, Outcome::from(report.status));
            return self.standing.revise(cx.pipeline, (run, node, attempt), outcome);
        };
        let deadline = trigger.record.deadline;
        let reruns =
            report.status == Status::Lost && cx.nodes.get(node).reruns(&trigger.record.job);
        let target = trigger.target(node)?;
        if report.attempt.0 < target.attempt {
            return Some(false);
        }
        let outcome = Outcome::from(report.status);
        match target.state {
            State::Final(_, Source::Node) if report.attempt.0 == target.attempt => Some(false),
            State::Final(before, source) => {
                target.attempt = report.attempt.0;
                target.state = State::Final(outcome, Source::Node);
                trigger.tally.remove(before, source);
                trigger.tally.add(outcome, Source::Node);
                Some(is_inferred(source))
            }
            State::Published | State::Accepted(_) | State::Running(_) | State::Coming => {
                target.attempt = report.attempt.0;
                let again = reruns && cx.time.time() < deadline && !target.cancelling;
                if again {
                    self.again(cx, run, node);
                } else {
                    self.settle(cx, run, node, outcome, Source::Node);
                }
                Some(false)
            }
        }
    }

    /// A `Finished` came, its chunks did not all: it is on its way.
    pub fn coming(&mut self, cx: &mut Context<'_>, node: NodeId, run: RunId, attempt: u32) {
        let report = StateReport { run, attempt: Attempt(attempt), state: RunState::Coming };
        self.state(cx, node, &report);
    }

    /// The hub writes down what became of a run.
    fn conclude(
        &mut self,
        cx: &mut Context<'_>,
        run: RunId,
        node: NodeId,
        outcome: Outcome,
        note: &str,
    ) {
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let Some(target) = trigger.target(node) else { return };
        let attempt = target.attempt;
        let note = clip(note, limits::TEXT);
        let finished = hub_word(run, attempt, &trigger.record.job, outcome, note);
        let received = cx.time.time();
        let mut room = [0; 1024];
        let body = Report::Finished(finished)
            .encode(None, &mut room)
            .expect("a name and a short note fit");
        let batch = &mut cx.pipeline.batch;
        let (job, body) = (batch.put(&[trigger.record.job.as_bytes()]), batch.put(&[body]));
        let source = Source::Hub;
        batch.record(Record::Result {
            run,
            node,
            attempt,
            source,
            outcome,
            received,
            job,
            body,
            chunked: false,
        });
        let name = &cx.nodes.get(node).record.name;
        let about = About { run: Some(run), node: Some(name), job: Some(&trigger.record.job) };
        let row = ResultRow::new(name, &finished, outcome, source, received);
        emit(cx.outputs, cx.watches, about, "result", &row);
        cx.counters.inferred += 1;
        *cx.fresh_results = true;
        self.settle(cx, run, node, outcome, source);
    }

    /// A run is over on a node.
    fn settle(
        &mut self,
        cx: &mut Context<'_>,
        run: RunId,
        node: NodeId,
        outcome: Outcome,
        source: Source,
    ) {
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let Some(target) = trigger.target(node) else { return };
        target.state = State::Final(outcome, source);
        trigger.tally.add(outcome, source);
        trigger.open -= 1;
        let open = &mut cx.nodes.get_mut(node).open;
        if let Some(at) = open.iter().rposition(|other| *other == run) {
            open.swap_remove(at);
        }
        if trigger.open > 0 {
            return;
        }
        cx.pipeline.change(Change::Closed { run, tally: trigger.tally });
        cx.closed.push(run);
        self.open -= 1;
        if let Some(trigger) = self.map.remove(&run) {
            self.standing.add(&trigger);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        let now = cx.time.moment();
        while let Some(Reverse((at, run))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            let Some(trigger) = self.map.get(&run) else { continue };
            // Superseded by an earlier or a later entry.
            if trigger.due != at || trigger.open == 0 {
                continue;
            }
            self.tick_one(cx, run);
        }
    }

    fn tick_one(&mut self, cx: &mut Context<'_>, run: RunId) {
        let now = cx.time.moment();
        let mut i = 0;
        loop {
            let Some(trigger) = self.map.get(&run) else { return };
            let Some(target) = trigger.targets.get(i) else { break };
            i += 1;
            if target.is_final() || target.due > now {
                continue;
            }
            let node = target.node;
            self.tick_target(cx, run, node);
        }
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let open = trigger.targets.iter().filter(|target| !target.is_final());
        let Some(next) = open.map(|target| target.due).min() else { return };
        trigger.due = next.max(now.plus_ms(1));
        self.due.push(Reverse((trigger.due, run)));
    }

    fn tick_target(&mut self, cx: &mut Context<'_>, run: RunId, node: NodeId) {
        let (now, time) = (cx.time.moment(), cx.time.time());
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let deadline = trigger.record.deadline;
        let known = cx.nodes.get(node);
        let silent = known.is_silent(now, cx.started, SILENT_MS);
        let (usable, reachable) = (known.is_usable(), known.heard.is_some() && !silent);
        let Some(target) = trigger.target(node) else { return };
        let attempt = target.attempt;
        match target.state {
            State::Final(..) => {}
            State::Published if time >= deadline => {
                if reachable && !target.asked {
                    target.asked = true;
                    target.due = now.plus_ms(EXPIRY_GRACE_MS);
                    query(cx, node, &[run]);
                    return;
                }
                let cancelling = target.cancelling;
                let note = if cancelling { CANCELLED_UNSEEN } else { EXPIRED };
                self.conclude(cx, run, node, Outcome::Expired, note);
            }
            State::Published => {
                target.due = target.pause(now).min(cx.time.when(deadline)).max(now.plus_ms(1));
                let cancelling = target.cancelling;
                if !usable {
                    return;
                }
                if cancelling {
                    trigger.publish_cancel(cx, node, attempt);
                } else {
                    trigger.publish(cx, node, attempt);
                }
            }
            State::Accepted(until) | State::Running(until) => {
                if !target.persisted {
                    target.persisted = true;
                    let step = ProgressRecord { run, node, attempt, until: Some(until) };
                    cx.pipeline.change(Change::Progress(step));
                }
                let over = cx.time.when(until).plus_ms(LOST_GRACE_MS);
                if time < until || now < over.min(cx.time.when(until.plus_ms(LOST_GRACE_MS))) {
                    target.due = over.max(now.plus_ms(1));
                    if target.cancelling {
                        target.due = target.pause(now).min(target.due);
                        trigger.publish_cancel(cx, node, attempt);
                    }
                    return;
                }
                if silent {
                    let note = "its longest time is over, and the node is silent";
                    self.conclude(cx, run, node, Outcome::Lost, note);
                    return;
                }
                target.asked = true;
                target.due = target.pause(now);
                query(cx, node, &[run]);
            }
            State::Coming => {
                #[cfg(feature = "planted-bugs")]
                if cx.bugs.lost_while_coming {
                    self.conclude(cx, run, node, Outcome::Lost, "its time is over");
                    return;
                }
                if known_silent_for_long(cx, node) {
                    let note = "its result was on its way, and the node is silent since a day";
                    self.conclude(cx, run, node, Outcome::Lost, note);
                    return;
                }
                target.due = now.plus_ms(60_000);
                if reachable {
                    target.asked = true;
                    query(cx, node, &[run]);
                }
            }
        }
    }
}

/// The longest time of a run that is believed: a year.
const MOST_LONGEST_MS: u64 = 366 * 24 * 60 * 60 * 1000;
const EXPIRED: &str = "nobody took it by the deadline";
const CANCELLED_UNSEEN: &str = "cancelled, and nobody had taken it by the deadline";

fn known_silent_for_long(cx: &Context<'_>, node: NodeId) -> bool {
    cx.nodes.get(node).is_silent(cx.time.moment(), cx.started, COMING_PATIENCE_MS)
}

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

/// A result that the hub writes down.
fn hub_word<'a>(
    run: RunId,
    attempt: u32,
    job: &'a str,
    outcome: Outcome,
    note: &'a str,
) -> Finished<'a> {
    Finished {
        run,
        attempt: Attempt(attempt),
        job,
        cause: fieldpost_wire::Cause::Trigger,
        // The store's own word counts; the wire has none for `expired`.
        status: match outcome {
            Outcome::Rejected => Status::Rejected,
            Outcome::Cancelled => Status::Cancelled,
            _ => Status::Lost,
        },
        exit: Exit::None,
        started: UnixMillis(0),
        started_boot_ms: 0,
        clock: Clock::Trusted,
        duration_us: 0,
        chunks: 0,
        bytes: 0,
        crc32c: 0,
        stderr: &[],
        note,
        peak_rss_kib: 0,
        cpu_us: 0,
        truncated: false,
        output_dropped: false,
    }
}

fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn reason_word(reason: fieldpost_wire::Reason) -> &'static str {
    use fieldpost_wire::Reason;
    match reason {
        Reason::UnknownJob => "unknown job",
        Reason::BadArgument => "bad argument",
        Reason::Busy => "busy",
        Reason::Expired => "past its deadline",
        Reason::Stopping => "the agent was stopping",
    }
}
