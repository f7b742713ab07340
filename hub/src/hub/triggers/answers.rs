//! What nodes say of their runs: `State` answers and `Finished`.

use fieldpost_wire::{Attempt, Finished, RunId, RunState, State as StateReport, Status};

use super::end::reason_word;
use super::{
    BACKOFF_MS, CANCELLED_BEFORE, EXPIRED, MOST_LONGEST_MS, PERSIST_AFTER_MS, State, Target,
    Triggers, is_inferred,
};
use crate::hub::Context;
use crate::store::{Change, NodeId, Outcome, ProgressRecord, Source};

impl Triggers {
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
                // A hub that is started anew is to know of it.
                target.persisted &= !changed;
                let wait = if target.persisted { 60_000 } else { PERSIST_AFTER_MS };
                target.due = now.plus_ms(wait);
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
                self.conclude(cx, run, node, Outcome::Cancelled, CANCELLED_BEFORE);
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
        let attempt = target.attempt.saturating_add(1);
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
}
