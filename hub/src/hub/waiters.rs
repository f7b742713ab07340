//! Requests that wait: for a run's end, for results.

use fieldpost_wire::{Name, RunId};

use super::Moment;
use super::clients::Rights;
use super::pipeline::ReplyTo;
use crate::store::{NodeId, Query};

/// Requests that may wait at once.
pub const MOST_WAITING: usize = 10_000;
/// Results looked at for one page.
const SCAN: u32 = 20_000;

/// Somebody waits for results.
#[derive(Debug)]
pub struct Reader {
    /// Who.
    pub to: ReplyTo,
    /// After this offset.
    pub after: u64,
    /// At most so many.
    pub limit: u32,
    /// Of these jobs.
    pub jobs: Vec<Name>,
    /// On these nodes.
    pub nodes: Vec<NodeId>,
    /// Whose nodes these are, where they are all that it may see; and as of which [`super::nodes::Nodes::version`].
    pub limited: Option<(Box<Rights>, u64)>,
    /// Until then.
    pub until: Moment,
}

/// Somebody waits for a run's end.
#[derive(Debug)]
pub struct RunWaiter {
    /// Who.
    pub to: ReplyTo,
    /// What it may see.
    pub rights: Box<Rights>,
    /// Which run.
    pub run: RunId,
    /// After this node.
    pub after: Option<NodeId>,
    /// At most so many.
    pub limit: u32,
    /// Until then.
    pub until: Moment,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Waiters {
    readers: Vec<Reader>,
    runs: Vec<RunWaiter>,
}

impl Reader {
    /// What it asks the store.
    pub fn query(&self) -> Query {
        Query::Results {
            after: self.after,
            limit: self.limit,
            jobs: self.jobs.clone(),
            nodes: self.nodes.clone(),
            scan: SCAN,
        }
    }
}

impl Waiters {
    /// Whether one more may wait.
    pub fn has_room(&self) -> bool {
        self.readers.len() + self.runs.len() < MOST_WAITING
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.readers.len() + self.runs.len()
    }

    /// One more waits for results.
    pub fn add_reader(&mut self, reader: Reader) {
        self.readers.push(reader);
    }

    /// One more waits for a run.
    pub fn add_run(&mut self, waiter: RunWaiter) {
        self.runs.push(waiter);
    }

    /// All who wait for results.
    pub fn take_readers(&mut self) -> Vec<Reader> {
        std::mem::take(&mut self.readers)
    }

    /// All who wait for this run.
    pub fn take_run(&mut self, run: RunId) -> Vec<RunWaiter> {
        self.runs.extract_if(.., |waiter| waiter.run == run).collect()
    }

    /// Whose time is over.
    pub fn take_overdue(&mut self, now: Moment) -> (Vec<Reader>, Vec<RunWaiter>) {
        (
            self.readers.extract_if(.., |reader| reader.until <= now).collect(),
            self.runs.extract_if(.., |waiter| waiter.until <= now).collect(),
        )
    }

    /// All, when the hub stops.
    pub fn take_all(&mut self) -> (Vec<Reader>, Vec<RunWaiter>) {
        (std::mem::take(&mut self.readers), std::mem::take(&mut self.runs))
    }

    /// When the first one's time is over.
    pub fn next_deadline(&self) -> Option<Moment> {
        let readers = self.readers.iter().map(|reader| reader.until);
        readers.chain(self.runs.iter().map(|waiter| waiter.until)).min()
    }
}
