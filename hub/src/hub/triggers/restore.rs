//! What a starting hub knows of earlier triggers.

use std::cmp::Reverse;

use fieldpost_wire::{Attempt, RunId};

use super::{BACKOFF_MS, State, Target, Trigger, Triggers};
use crate::hub::Context;
use crate::hub::runs::Content;
use crate::store::{Change, RECENT_RUNS, RestoredTrigger, Source, Tally};

impl Triggers {
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
        let content: Content = serde_json::from_str(&record.request).unwrap_or_default();
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
        if let Some(closed) = trigger.record.closed {
            // It is over, also where its results were swept away for their size.
            trigger.tally = closed;
            self.remember(run);
            self.standing.add(&trigger);
            return;
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
            // The last result was stored, the closing was not.
            cx.pipeline.change(Change::Closed { run, tally: trigger.tally });
            self.standing.add(&trigger);
            return;
        }
        self.open += 1;
        self.due.push(Reverse((due, run)));
        self.map.insert(run, trigger);
    }
}
