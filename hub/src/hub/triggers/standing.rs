//! Triggers that are over everywhere, but stand on what the hub inferred: the node may still say
//! otherwise.
//!
//! Of such a trigger only its inferred nodes are kept, and of all of them a bounded number: what a
//! node says of an older one is stored and told like any result, only its trigger's tally stays.

use std::collections::VecDeque;

use fieldpost_wire::RunId;

use super::Trigger;
use crate::hub::Pipe;
use crate::hub::fast::FastMap;
use crate::store::{Change, NodeId, Outcome, STANDING_RUNS, Source, Tally};

/// Inferred nodes of all triggers that are kept: 12 B each, so some 6 MB; beyond it the oldest trigger goes.
const MOST_NODES: usize = 500_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    runs: FastMap<RunId, Stood>,
    /// Oldest first. What was revised everywhere is still in it.
    order: VecDeque<RunId>,
    nodes: usize,
}

#[derive(Debug)]
struct Stood {
    tally: Tally,
    /// Node, attempt and what was inferred, by node.
    inferred: Vec<(NodeId, u32, Outcome)>,
}

impl Standing {
    /// A trigger is over everywhere.
    pub fn add(&mut self, trigger: &Trigger) {
        let inferred: Vec<_> = trigger
            .targets
            .iter()
            .filter_map(|target| match target.state {
                super::State::Final(outcome, source) if super::is_inferred(source) => {
                    Some((target.node, target.attempt, outcome))
                }
                _ => None,
            })
            .collect();
        if inferred.is_empty() {
            return;
        }
        let run = trigger.record.run;
        self.nodes += inferred.len();
        self.runs.insert(run, Stood { tally: trigger.tally, inferred });
        self.order.push_back(run);
        while self.runs.len() > STANDING_RUNS
            || self.order.len() > 2 * STANDING_RUNS
            || (self.nodes > MOST_NODES && self.runs.len() > 1)
        {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(gone) = self.runs.remove(&oldest) {
                self.nodes -= gone.inferred.len();
            }
        }
    }

    /// A node's own word: says whether it revises what was inferred, or `None` if nothing is known
    /// of it here.
    pub fn revise(
        &mut self,
        pipeline: &mut Pipe,
        (run, node, attempt): (RunId, NodeId, u32),
        outcome: Outcome,
    ) -> Option<bool> {
        let stood = self.runs.get_mut(&run)?;
        let at = stood.inferred.binary_search_by_key(&node, |(node, ..)| *node).ok()?;
        let (_, inferred, before) = stood.inferred[at];
        if attempt < inferred {
            return Some(false);
        }
        stood.inferred.remove(at);
        self.nodes -= 1;
        stood.tally.remove(before, Source::Hub);
        stood.tally.add(outcome, Source::Node);
        pipeline.change(Change::Closed { run, tally: stood.tally });
        if stood.inferred.is_empty() {
            self.runs.remove(&run);
        }
        Some(true)
    }
}
