//! Which chunks of a run are there, and `Finished` reports that wait for the rest.
//!
//! It is a cache of what the store holds: what is not in it is asked there
//! ([`crate::store::Query::Held`]) when a `Finished` comes. So it may forget what has no
//! `Finished` yet.

use fieldpost_wire::{RunId, Tag, UnixMillis};

use super::fast::FastMap;
use crate::store::{AwaitingRecord, NodeId, insert_index};

/// Executions whose chunks are remembered; beyond it all that can be asked for again is forgotten.
pub const MOST_EXECUTIONS: usize = 65_536;

/// `Finished` reports of one node that wait: far more than an honest one has, whose chunks come
/// before them. Each holds up to 5 KiB. A further one is neither kept nor acked, and comes again.
pub const MOST_WAITING: u32 = 1_024;

/// One execution of a run on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Execution {
    /// The run.
    pub run: RunId,
    /// The node.
    pub node: NodeId,
    /// Which execution.
    pub attempt: u32,
}

/// A `Finished` that waits.
#[derive(Debug)]
pub struct Waiting {
    /// How many chunks it says.
    pub chunks: u32,
    /// When it came.
    pub received: UnixMillis,
    /// What to ack once it is complete. Until then the node keeps it, and so can still say that
    /// its output was dropped, or that the run was lost.
    pub tag: Option<Tag>,
    /// It.
    pub body: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Parts {
    held: Vec<(u32, u32)>,
    finished: Option<Waiting>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Assembly {
    parts: FastMap<Execution, Parts>,
    /// How many `Finished` reports of each node wait; of those that have some.
    waiting: FastMap<NodeId, u32>,
}

impl Assembly {
    /// What a store knew.
    pub fn restore(&mut self, record: AwaitingRecord, chunks: u32) {
        let execution = Execution { run: record.run, node: record.node, attempt: record.attempt };
        let finished =
            Waiting { chunks, received: record.received, tag: None, body: record.body.into() };
        self.parts.insert(execution, Parts { held: record.held, finished: Some(finished) });
        *self.waiting.entry(execution.node).or_default() += 1;
    }

    /// A chunk came. Gives the `Finished` that is complete with it.
    pub fn chunk(&mut self, execution: Execution, index: u32) -> Option<Waiting> {
        if self.parts.len() >= MOST_EXECUTIONS {
            self.parts.retain(|_, parts| parts.finished.is_some());
        }
        let parts = self.parts.entry(execution).or_default();
        insert_index(&mut parts.held, index);
        self.take_if_whole(execution)
    }

    /// Whether all chunks of an execution are there, as far as is known here; then it is
    /// forgotten.
    pub fn is_whole(&mut self, execution: Execution, chunks: u32) -> bool {
        let whole = self.parts.get(&execution).is_some_and(|parts| covers(&parts.held, chunks));
        if whole {
            self.remove(execution);
        }
        whole
    }

    /// Forgets an execution that was completed without its chunks. Says whether it was known.
    pub fn forget(&mut self, execution: Execution) -> bool {
        !self.parts.is_empty() && self.remove(execution).is_some()
    }

    /// Whether another `Finished` of this execution's node may wait.
    pub fn may_wait(&self, execution: Execution) -> bool {
        self.waiting.get(&execution.node).is_none_or(|&count| count < MOST_WAITING)
            || self.parts.get(&execution).is_some_and(|parts| parts.finished.is_some())
    }

    /// A `Finished` has to wait. Gives whether it is the first one of this execution.
    pub fn wait(&mut self, execution: Execution, waiting: Waiting) -> bool {
        let parts = self.parts.entry(execution).or_default();
        let first = parts.finished.is_none();
        parts.finished = Some(waiting);
        if first {
            *self.waiting.entry(execution.node).or_default() += 1;
        }
        first
    }

    /// The store says what it holds. Gives the `Finished` that is complete with it.
    pub fn held(&mut self, execution: Execution, held: &[(u32, u32)]) -> Option<Waiting> {
        let parts = self.parts.get_mut(&execution)?;
        for &(first, last) in held {
            for index in first..=last {
                insert_index(&mut parts.held, index);
            }
        }
        self.take_if_whole(execution)
    }

    /// `Finished` reports that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(|&count| count as usize).sum()
    }

    fn take_if_whole(&mut self, execution: Execution) -> Option<Waiting> {
        let parts = self.parts.get(&execution)?;
        let chunks = parts.finished.as_ref()?.chunks;
        if !covers(&parts.held, chunks) {
            return None;
        }
        self.remove(execution)?.finished
    }

    fn remove(&mut self, execution: Execution) -> Option<Parts> {
        let parts = self.parts.remove(&execution)?;
        if parts.finished.is_some()
            && let Some(count) = self.waiting.get_mut(&execution.node)
        {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&execution.node);
            }
        }
        Some(parts)
    }
}

fn covers(held: &[(u32, u32)], chunks: u32) -> bool {
    chunks == 0 || held.first().is_some_and(|&(first, last)| first == 0 && last + 1 >= chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution() -> Execution {
        Execution { run: RunId([1; 16]), node: NodeId(1), attempt: 1 }
    }

    fn waiting(chunks: u32) -> Waiting {
        Waiting { chunks, received: UnixMillis(0), tag: None, body: Box::new([]) }
    }

    #[test]
    fn a_run_is_whole_with_its_last_chunk_in_any_order() {
        let mut assembly = Assembly::default();
        assert!(assembly.chunk(execution(), 2).is_none());
        assert!(assembly.chunk(execution(), 0).is_none());
        assert!(!assembly.is_whole(execution(), 3));
        assert!(assembly.wait(execution(), waiting(3)));
        assert!(assembly.chunk(execution(), 0).is_none(), "a duplicate completes nothing");
        assert!(assembly.chunk(execution(), 1).is_some());
        assert_eq!(assembly.waiting(), 0);
    }

    #[test]
    fn what_the_store_holds_counts() {
        let mut assembly = Assembly::default();
        assembly.wait(execution(), waiting(4));
        assert!(assembly.chunk(execution(), 3).is_none());
        assert!(assembly.held(execution(), &[(0, 1)]).is_none());
        assert!(assembly.held(execution(), &[(0, 2)]).is_some());
    }

    #[test]
    fn what_waits_is_bounded_for_each_node() {
        let mut assembly = Assembly::default();
        let of = |number: u32, node: u32| Execution {
            run: RunId([1; 16]),
            node: NodeId(node),
            attempt: number,
        };
        for number in 0..MOST_WAITING {
            assert!(assembly.may_wait(of(number, 1)));
            assembly.wait(of(number, 1), waiting(1));
        }
        assert!(!assembly.may_wait(of(MOST_WAITING, 1)));
        assert!(assembly.may_wait(of(0, 1)), "the same one comes again");
        assert!(assembly.may_wait(of(0, 2)), "another node is not to suffer");
        assert!(assembly.chunk(of(7, 1), 0).is_some());
        assert!(assembly.may_wait(of(MOST_WAITING, 1)));
        assert_eq!(assembly.waiting(), MOST_WAITING as usize - 1);
    }
}
