//! Which runs are known: what makes the second copy of a trigger do nothing.
//!
//! A run (id and attempt) is known from its trigger on, until its deadline has passed in hub time
//! and its end is acked. A run that was cancelled before it came is known too: its tombstone
//! keeps a late trigger from starting it. When the table is full a trigger is `rejected(busy)`;
//! nothing that is known is ever forgotten early.
//!
//! The table is a slab with an index by hash. Entries whose time has come are collected a few at
//! a time, with each insertion.

use fieldpost_wire::{Attempt, RunId, UnixMillis};

use crate::door::Slot;
use crate::limits::KNOWN_RUNS;

/// How many entries each insertion looks at to collect the dead: more than one, so that all
/// are seen before as many new ones have come.
const SWEEP: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct KnownRuns {
    entries: Vec<Entry>,
    /// Freed places, the last freed first: low addresses are used again.
    free: Vec<u16>,
    /// Open addressing by hash of the run id: a place plus one; 0 is empty.
    index: Vec<u16>,
    seed: u64,
    hand: usize,
    serial: u32,
    len: usize,
}

/// One known run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    /// In hub time; scheduled runs have none and are forgotten once they are settled.
    pub(crate) deadline: UnixMillis,
    pub(crate) state: State,
    /// A hub has acked some of its output.
    pub(crate) output_acked: bool,
    /// The job's number among those whose drops are counted.
    pub(crate) job: u8,
    /// Tells this use of the place from others. Never 0.
    pub(crate) serial: u32,
}

/// How it stands with a known run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The place is free.
    Free,
    /// It waits for its turn.
    Waiting,
    /// It is in progress.
    Running(Slot),
    /// It has ended; its `Finished` is not acked.
    Coming,
    /// Its `Finished` is acked, or was dropped.
    Settled,
    /// It was cancelled before it came.
    Tombstone,
    /// There was no room for it: a copy of its trigger is not to find room, for the hub has told that it
    /// is rejected.
    Busy,
}

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) u16);

impl Place {
    /// No place: for runs that are not in the table.
    pub(crate) const NONE: Self = Self(u16::MAX);

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The table has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFull;

impl KnownRuns {
    /// An empty table. `seed` makes collisions unpredictable.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: Vec::with_capacity(KNOWN_RUNS),
            free: Vec::with_capacity(KNOWN_RUNS),
            index: vec![0; 2 * KNOWN_RUNS],
            seed,
            hand: 0,
            serial: 0,
            len: 0,
        }
    }

    /// Where this execution of a run is, if it is known.
    pub(crate) fn find(&self, run: RunId, attempt: Attempt) -> Option<Place> {
        self.probe(run).find(|&place| self.entries[place.index()].attempt == attempt)
    }

    /// The latest attempt of a run that is known.
    pub(crate) fn find_latest(&self, run: RunId) -> Option<Place> {
        self.probe(run).max_by_key(|&place| self.entries[place.index()].attempt)
    }

    /// What stands at a place; `None` for a free one and for [`Place::NONE`].
    pub(crate) fn get(&self, place: Place) -> Option<&Entry> {
        self.entries.get(place.index()).filter(|entry| entry.state != State::Free)
    }

    /// The run that has stood at `place` since it got `serial`.
    pub(crate) fn set(&mut self, place: Place, serial: u32, state: State) {
        if let Some(entry) = self.entries.get_mut(place.index())
            && entry.state != State::Free
            && entry.serial == serial
        {
            entry.state = state;
        }
    }

    /// The run that has stood at `place` since it got `serial` is of this job.
    pub(crate) fn set_job(&mut self, place: Place, serial: u32, job: u8) {
        if let Some(entry) = self.entries.get_mut(place.index())
            && entry.serial == serial
        {
            entry.job = job;
        }
    }

    /// A hub has acked some output of the run that has stood at `place` since it got `serial`.
    pub(crate) fn output_acked(&mut self, place: Place, serial: u32) {
        if let Some(entry) = self.entries.get_mut(place.index())
            && entry.serial == serial
        {
            entry.output_acked = true;
        }
    }

    /// A run that has not settled and of whose output a hub has acked some: it is asked of once.
    pub(crate) fn take_split(&mut self) -> Option<Entry> {
        let entry = self.entries.iter_mut().find(|entry| {
            entry.output_acked && matches!(entry.state, State::Running(_) | State::Coming)
        })?;
        entry.output_acked = false;
        Some(*entry)
    }

    /// Adds a run that is not known yet. `is_over` says whether a deadline has passed.
    pub(crate) fn insert(
        &mut self,
        run: RunId,
        attempt: Attempt,
        deadline: UnixMillis,
        state: State,
        is_over: impl Fn(UnixMillis) -> bool,
    ) -> Result<(Place, u32), TableFull> {
        debug_assert!(self.find(run, attempt).is_none(), "a run is inserted once");
        self.sweep(SWEEP, &is_over);
        if self.len == KNOWN_RUNS {
            self.sweep(KNOWN_RUNS, &is_over);
        }
        if self.len == KNOWN_RUNS {
            return Err(TableFull);
        }
        self.serial = self.serial.wrapping_add(1).max(1);
        let (output_acked, job) = (false, u8::MAX);
        let entry = Entry { run, attempt, deadline, state, output_acked, job, serial: self.serial };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[usize::from(place)] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u16 // KNOWN_RUNS fits
            }
        };
        self.len += 1;
        let mut at = self.home(run);
        while self.index[at] != 0 {
            at = (at + 1) % self.index.len();
        }
        self.index[at] = place + 1;
        Ok((Place(place), self.serial))
    }

    /// All that is known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, &Entry)> {
        let places = (0..).map(Place).zip(&self.entries);
        places.filter(|(_, entry)| entry.state != State::Free)
    }

    /// A serial for a run that is not in the table.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1).max(1);
        self.serial
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Looks at the next `count` entries and forgets those whose time has come.
    fn sweep(&mut self, count: usize, is_over: impl Fn(UnixMillis) -> bool) {
        for _ in 0..count.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = self.entries[self.hand];
            let done = matches!(entry.state, State::Settled | State::Tombstone | State::Busy);
            if done && is_over(entry.deadline) {
                self.remove(self.hand);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let mut hole = self.home(self.entries[place].run);
        while usize::from(self.index[hole]) != place + 1 {
            hole = (hole + 1) % self.index.len();
        }
        // Shift back what only stands further on because of this one.
        let mut at = hole;
        loop {
            at = (at + 1) % self.index.len();
            let Some(moved) = self.index[at].checked_sub(1) else { break };
            let home = self.home(self.entries[usize::from(moved)].run);
            let len = self.index.len();
            if (at + len - home) % len >= (at + len - hole) % len {
                self.index[hole] = self.index[at];
                hole = at;
            }
        }
        self.index[hole] = 0;
        self.entries[place].state = State::Free;
        self.free.push(place as u16); // KNOWN_RUNS fits
        self.len -= 1;
    }

    /// The places of all attempts of a run.
    fn probe(&self, run: RunId) -> impl Iterator<Item = Place> {
        let home = self.home(run);
        (0..self.index.len())
            .map(move |step| self.index[(home + step) % self.index.len()])
            .take_while(|&place| place != 0)
            .map(|place| Place(place - 1))
            .filter(move |place| self.entries[place.index()].run == run)
    }

    fn home(&self, run: RunId) -> usize {
        let half = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&run.0[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let mixed = (half(0) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ half(8);
        let hash = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (hash >> 40) as usize % self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u32) -> RunId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        RunId(id)
    }

    fn never(_: UnixMillis) -> bool {
        false
    }

    fn add(known: &mut KnownRuns, n: u32, state: State) -> Result<(Place, u32), TableFull> {
        known.insert(run(n), Attempt(1), UnixMillis(n.into()), state, never)
    }

    #[test]
    fn a_run_is_known_by_id_and_attempt() {
        let mut known = KnownRuns::new(1);
        let (first, _) = add(&mut known, 7, State::Settled).unwrap();
        let second = known.insert(run(7), Attempt(2), UnixMillis(0), State::Waiting, never);
        let (second, _) = second.unwrap();
        assert_eq!(known.find(run(7), Attempt(1)), Some(first));
        assert_eq!(known.find(run(7), Attempt(3)), None);
        assert_eq!(known.find_latest(run(7)), Some(second));
        assert_eq!(known.find_latest(run(8)), None);
    }

    #[test]
    fn a_place_used_again_does_not_answer_for_its_former_run() {
        let mut known = KnownRuns::new(1);
        let (place, old) = add(&mut known, 1, State::Settled).unwrap();
        let over = |deadline: UnixMillis| deadline.0 == 1;
        let (again, new) =
            known.insert(run(2), Attempt(1), UnixMillis(2), State::Waiting, over).unwrap();
        assert_eq!(place, again);
        known.set(place, old, State::Settled);
        assert_eq!(known.get(place).unwrap().state, State::Waiting);
        known.set(place, new, State::Coming);
        assert_eq!(known.get(place).unwrap().state, State::Coming);
        assert!(known.get(Place::NONE).is_none());
    }

    #[test]
    fn it_is_full_until_deadlines_pass_and_nothing_is_forgotten_early() {
        let mut known = KnownRuns::new(2);
        let most = KNOWN_RUNS as u32;
        for n in 0..most {
            let state = if n % 2 == 0 { State::Settled } else { State::Waiting };
            add(&mut known, n, state).unwrap();
        }
        assert_eq!(add(&mut known, most, State::Waiting), Err(TableFull));
        assert!((0..most).all(|n| known.find(run(n), Attempt(1)).is_some()));
        // Of those before 1000 only the settled ones go.
        let over = |deadline: UnixMillis| deadline.0 < 1000;
        known.insert(run(most), Attempt(1), UnixMillis(0), State::Waiting, over).unwrap();
        assert_eq!(known.len(), KNOWN_RUNS - 500 + 1);
        for n in 0..=most {
            let expected = n >= 1000 || n % 2 == 1;
            assert_eq!(known.find(run(n), Attempt(1)).is_some(), expected, "{n}");
        }
        for n in 0..499 {
            add(&mut known, most + 1 + n, State::Tombstone).unwrap();
        }
        assert_eq!(add(&mut known, u32::MAX, State::Waiting), Err(TableFull));
    }

    #[test]
    fn a_long_life_of_comings_and_goings_keeps_the_index_right() {
        let mut known = KnownRuns::new(3);
        for n in 0..200_000_u32 {
            let over = |deadline: UnixMillis| deadline.0 + 300 < u64::from(n);
            known.insert(run(n), Attempt(1), UnixMillis(n.into()), State::Settled, over).unwrap();
            if n > 300 {
                assert!(known.find(run(n - 300), Attempt(1)).is_some());
            }
        }
        assert!(known.len() <= 1000, "{}", known.len());
        assert!(known.entries.len() <= 1000, "low places are used again");
        assert_eq!(known.index.iter().filter(|&&at| at != 0).count(), known.len());
    }
}
