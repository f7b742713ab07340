//! What time brings about: copies, cancels and questions again, and the verdict on silence.

use std::cmp::Reverse;

use fieldpost_wire::RunId;

use super::{
    CANCELLED_UNSEEN, COMING_PATIENCE_MS, EXPIRED, EXPIRY_GRACE_MS, LOST_GRACE_MS, State, Triggers,
    query,
};
use crate::hub::Context;
use crate::hub::nodes::SILENT_MS;
use crate::store::{Change, NodeId, Outcome, ProgressRecord};

impl Triggers {
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
                    } else if target.asked && !silent {
                        target.due = target.pause(now).min(target.due);
                        query(cx, node, &[run]);
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
                if !target.persisted {
                    target.persisted = true;
                    let until = Some(time.plus_ms(COMING_PATIENCE_MS));
                    cx.pipeline.change(Change::Progress(ProgressRecord {
                        run,
                        node,
                        attempt,
                        until,
                    }));
                    target.due = now.plus_ms(60_000);
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

fn known_silent_for_long(cx: &Context<'_>, node: NodeId) -> bool {
    cx.nodes.get(node).is_silent(cx.time.moment(), cx.started, COMING_PATIENCE_MS)
}
