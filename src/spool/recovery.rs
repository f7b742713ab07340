//! What an earlier start left in the spool's directory. Any bytes will do: whole records are
//! taken over, the rest is said.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use fieldpost_wire::{Attempt, OutboxId, RunId};

use super::DroppedRun;
use super::index::{Segment, Spot};
use super::segment::{self, Found, Kind};
use crate::journal;
use crate::limits::{DROPPED_RUNS, SEGMENT, SPOOLED_RUNS};

/// A file that is no segment, and whose number is so far above all others, is none of ours: numbers go on
/// below it.
const FAR: u32 = 1 << 16;

/// What the segments hold, as they are read one after the other.
///
/// ```ignore
/// let mut recovered = Recovered::new(&journal);
/// for (number, bytes) in segments_in_order {
///     let verdict = recovered.add(number, &bytes);
///     // cut the file to `verdict.keep`, set `verdict.bad` aside
/// }
/// let agent = Agent::new(settings, Restored { spool: Some(&recovered), .. }, identity, now);
/// ```
#[derive(Debug, Default)]
pub struct Recovered {
    /// Runs that the journal knows, so that no `Finished` of theirs is overlooked.
    journalled: BTreeSet<(RunId, Attempt)>,
    pub(crate) segments: Vec<Segment>,
    /// Runs whose end is here: the journal's, and the newest of all.
    pub(crate) finished: BTreeSet<(RunId, Attempt)>,
    newest: VecDeque<(RunId, Attempt)>,
    /// Runs that were accepted and whose end is not here, as records of the journal.
    pub(crate) took: Vec<(RunId, Attempt, Spot, Box<[u8]>)>,
    /// Records of runs that were accepted and whose end is here.
    pub(crate) over: Vec<Spot>,
    pub(crate) dropped: Vec<DroppedRun>,
    /// Whose records are here; as many as a `Hello` can name.
    pub(crate) outboxes: Vec<OutboxId>,
    /// Damaged places.
    pub(crate) bad: u64,
    /// The highest number that is used.
    pub(crate) highest: u32,
    /// Why the directory can't be used.
    pub(crate) trouble: String,
}

/// What is to become of a segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its length without a torn tail.
    pub keep: usize,
    /// Damaged bytes before that: to be set aside.
    pub bad: Vec<Range<usize>>,
    /// Whether any record is whole. If not, the file is of no use.
    pub useful: bool,
}

impl Recovered {
    /// Nothing yet. `journal` is the file in the runtime directory.
    #[must_use]
    pub fn new(journal: &[u8]) -> Self {
        let journalled = journal::read(journal).filter_map(|record| match record {
            journal::Record::Took(took) => Some((took.run, took.attempt)),
            _ => None,
        });
        Self { journalled: journalled.collect(), ..Self::default() }
    }

    /// The directory can't be used, or not by this agent.
    pub fn unusable(&mut self, why: &str) {
        self.trouble = why.to_owned();
    }

    /// A file with this number is there, whatever is in it: the number is not used again.
    pub fn saw(&mut self, number: u32) {
        self.highest = self.highest.max(number);
    }

    /// Takes in a segment. They are given in the order of their numbers.
    pub fn add(&mut self, number: u32, bytes: &[u8]) -> Verdict {
        let verdict = self.take_in(number, bytes);
        if verdict.useful || number <= self.highest.saturating_add(FAR) {
            self.saw(number);
        }
        verdict
    }

    fn take_in(&mut self, number: u32, bytes: &[u8]) -> Verdict {
        let mut verdict = Verdict { keep: bytes.len(), bad: Vec::new(), useful: false };
        let salt = segment::read_head(bytes).map_or(0, |(_, salt)| salt);
        let mut segment = Segment::new(number, salt);
        segment.recovered = true;
        if bytes.len() > SEGMENT {
            verdict.bad.push(0..bytes.len());
            self.bad += 1;
            return verdict;
        }
        for found in segment::read(bytes) {
            let entry = match found {
                Found::Record(_, entry) => entry,
                Found::Bad(range) if range.end == bytes.len() && range.start >= segment::HEAD => {
                    verdict.keep = range.start;
                    continue;
                }
                Found::Bad(range) => {
                    self.bad += 1;
                    verdict.bad.push(range);
                    continue;
                }
            };
            verdict.useful = true;
            segment.add(entry.index, entry.kind, !entry.kind.is_report());
            let spot = Spot { segment: number, index: entry.index };
            let (run, attempt) = (entry.run, entry.attempt);
            match entry.kind {
                Kind::Chunk | Kind::Missed => {}
                Kind::Finished => self.finished(run, attempt),
                Kind::Dropped => {
                    if self.dropped.len() == DROPPED_RUNS {
                        self.dropped.remove(0);
                    }
                    self.dropped.push(DroppedRun { run, attempt, spot: Some(spot) });
                }
                Kind::Took => {
                    if self.took.len() < SPOOLED_RUNS {
                        self.took.push((run, attempt, spot, entry.body.into()));
                    }
                }
            }
            let outbox = entry.tag.outbox;
            if entry.kind.is_report()
                && !self.outboxes.contains(&outbox)
                && self.outboxes.len() < fieldpost_wire::limits::OUTBOXES - 1
            {
                self.outboxes.push(outbox);
            }
        }
        segment.bytes = verdict.keep as u32; // not longer than SEGMENT
        if verdict.useful {
            self.segments.push(segment);
        }
        verdict
    }

    fn finished(&mut self, run: RunId, attempt: Attempt) {
        // What is left are the runs that were in progress: a few, even if the spool is large.
        while let Some(at) = self.took.iter().position(|t| (t.0, t.1) == (run, attempt)) {
            self.over.push(self.took.swap_remove(at).2);
        }
        if self.journalled.contains(&(run, attempt)) {
            self.finished.insert((run, attempt));
            return;
        }
        if self.newest.len() == SPOOLED_RUNS
            && let Some(oldest) = self.newest.pop_front()
        {
            self.finished.remove(&oldest);
        }
        if self.finished.insert((run, attempt)) {
            self.newest.push_back((run, attempt));
        }
    }

    /// How many records there are, and how many damaged places.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.segments.iter().map(|segment| u64::from(segment.living())).sum(), self.bad)
    }
}
