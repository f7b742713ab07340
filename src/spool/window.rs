//! The window: segments that were read back, to be sent. What is on disk goes to the hub through
//! here, so much at a time that memory stays what it is, however much there is: a segment that is
//! acked makes place for the next.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use fieldpost_wire::{Attempt, OutboxId, RunId, Seq, SeqRange};

use super::index::Spot;
use super::segment::{self, Entry, Found, Kind, RECORD_HEAD};
use crate::limits::WINDOW_SEGMENTS;
use crate::resend::{Acks, in_vain, millis, say_dropped};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Oldest first.
    loaded: VecDeque<Loaded>,
    /// What the last ones were read into.
    spare: Vec<Loaded>,
    /// When something is to be sent again, in milliseconds of the boot clock.
    again_at: Option<u64>,
    /// A fault for the simulated world to find: an end whose output is elsewhere goes for ever.
    #[cfg(feature = "planted-bugs")]
    pub(crate) never_gives_up: bool,
}

#[derive(Debug, Default)]
struct Loaded {
    segment: u32,
    bytes: Vec<u8>,
    records: Vec<Waiting>,
    /// All before it were sent.
    cursor: usize,
    left: usize,
}

/// A record that is to be acked.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// Where its body is.
    at: u32,
    len: u16,
    index: u16,
    seq: Seq,
    kind: Kind,
    tracked: bool,
    life: Life,
    /// Times that it was sent and the hub acked what was sent later, but not it.
    passed_over: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unsent { again: u8 },
    Sent { at_ms: u64, again: u8 },
    Gone,
}

/// A record that was acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) spot: Spot,
    pub(crate) kind: Kind,
    pub(crate) tracked: bool,
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
}

impl Waiting {
    fn body(&self) -> Range<usize> {
        let at = self.at as usize;
        at..at + usize::from(self.len)
    }
}

impl Loaded {
    /// Whose record it is.
    fn run(&self, record: &Waiting) -> (RunId, Attempt) {
        let owner = segment::owner(&self.bytes[record.at as usize - RECORD_HEAD..]);
        (owner.run, owner.attempt)
    }

    fn find(&self, index: u16) -> Option<usize> {
        self.records.binary_search_by_key(&index, |record| record.index).ok()
    }

    /// Whether the hub takes nothing of what is left.
    fn is_vain(&self) -> bool {
        let mut left = self.records.iter().filter(|record| record.life != Life::Gone);
        left.all(|record| self.is_vain_end(record))
    }

    fn is_vain_end(&self, record: &Waiting) -> bool {
        let again = match record.life {
            Life::Unsent { again } | Life::Sent { again, .. } => again,
            Life::Gone => return false,
        };
        record.kind == Kind::Finished
            && in_vain(&self.bytes[record.body()], again, record.passed_over)
    }
}

impl Window {
    /// Whether another segment may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.loaded.len() < WINDOW_SEGMENTS
    }

    /// Takes in a segment that was read: its reports that `wanted` names. Says how many there are.
    pub(crate) fn load(
        &mut self,
        number: u32,
        bytes: &[u8],
        mut wanted: impl FnMut(&Entry<'_>) -> Wanted,
    ) -> usize {
        let mut loaded = self.spare.pop().unwrap_or_default();
        loaded.segment = number;
        loaded.bytes.clear();
        loaded.bytes.extend_from_slice(bytes);
        loaded.records.clear();
        loaded.cursor = 0;
        for found in segment::read(bytes) {
            let Found::Record(at, entry) = found else { continue };
            let at = at + RECORD_HEAD;
            match wanted(&entry) {
                Wanted::No => continue,
                _ if entry.body.is_empty() => continue,
                Wanted::Yes => {}
                Wanted::Dropped => say_dropped(&mut loaded.bytes[at..at + entry.body.len()]),
            }
            loaded.records.push(Waiting {
                at: at as u32, // a segment has 128 KiB
                len: entry.body.len() as u16,
                index: entry.index,
                seq: entry.tag.seq,
                kind: entry.kind,
                tracked: entry.tracked,
                life: Life::Unsent { again: 0 },
                passed_over: 0,
            });
        }
        // They are in order, unless somebody made the file by hand.
        loaded.records.sort_by_key(|record| record.index);
        loaded.records.dedup_by_key(|record| record.index);
        loaded.left = loaded.records.len();
        let count = loaded.left;
        if count == 0 {
            self.spare.push(loaded);
        } else {
            self.loaded.push_back(loaded);
        }
        count
    }

    /// The next record to send, if any: what was not sent, oldest first, and then what was not
    /// acked in its time. `unread`: there is more on disk.
    pub(crate) fn next(&mut self, now: Duration, acks: &Acks, unread: bool) -> Option<Spot> {
        let now_ms = millis(now);
        if self.again_at.is_some_and(|at| at <= now_ms) {
            self.mark_due(now_ms, acks, unread);
        }
        for loaded in &mut self.loaded {
            while let Some(record) = loaded.records.get(loaded.cursor) {
                if let Life::Unsent { .. } = record.life {
                    return Some(Spot { segment: loaded.segment, index: record.index });
                }
                loaded.cursor += 1;
            }
        }
        None
    }

    fn mark_due(&mut self, now_ms: u64, acks: &Acks, unread: bool) {
        self.again_at = None;
        let mut next = None::<u64>;
        let mut due_again = Vec::<Spot>::new();
        for loaded in &mut self.loaded {
            for (at, record) in loaded.records.iter_mut().enumerate() {
                let Life::Sent { at_ms, again } = record.life else { continue };
                let due = acks.due_ms(at_ms, again);
                if due > now_ms {
                    next = Some(next.map_or(due, |ms| ms.min(due)));
                    continue;
                }
                record.life = Life::Unsent { again: again.saturating_add(1) };
                loaded.cursor = loaded.cursor.min(at);
                record.passed_over = record.passed_over.saturating_add(acks.passed(at_ms).into());
                due_again.push(Spot { segment: loaded.segment, index: record.index });
            }
        }
        self.again_at = next;
        #[cfg(feature = "planted-bugs")]
        if self.never_gives_up {
            return;
        }
        // Output may be in what was not read yet, unless that can't be read before these are acked.
        if !unread || self.loaded.iter().all(Loaded::is_vain) {
            for spot in due_again {
                self.give_up(spot);
            }
        }
    }

    /// If the hub does not take this end of a run because it waits for output that is not here any more,
    /// the end says so from now on.
    fn give_up(&mut self, spot: Spot) {
        let Some(place) = self.loaded.iter().position(|l| l.segment == spot.segment) else {
            return;
        };
        let loaded = &self.loaded[place];
        let Some(at) = loaded.find(spot.index) else { return };
        let record = &loaded.records[at];
        if !loaded.is_vain_end(record) {
            return;
        }
        let (run, body) = (loaded.run(record), record.body());
        let is_output = |record: &Waiting| record.kind == Kind::Chunk && record.life != Life::Gone;
        let waits = self.loaded.iter().any(|loaded| {
            loaded.records.iter().any(|record| is_output(record) && loaded.run(record) == run)
        });
        if !waits {
            log::warn!("output of {} that was on disk is lost; its end says so", run.0);
            say_dropped(&mut self.loaded[place].bytes[body]);
        }
    }

    pub(crate) fn body(&self, spot: Spot) -> Option<&[u8]> {
        let loaded = self.loaded.iter().find(|loaded| loaded.segment == spot.segment)?;
        let at = loaded.find(spot.index)?;
        Some(&loaded.bytes[loaded.records[at].body()])
    }

    /// The record is in the socket's queue.
    pub(crate) fn sent(&mut self, spot: Spot, now: Duration, acks: &Acks) {
        let Some(loaded) = self.loaded.iter_mut().find(|l| l.segment == spot.segment) else {
            return;
        };
        let Some(at) = loaded.find(spot.index) else { return };
        let record = &mut loaded.records[at];
        let Life::Unsent { again } = record.life else { return };
        let at_ms = millis(now);
        record.life = Life::Sent { at_ms, again };
        let due = acks.due_ms(at_ms, again);
        self.again_at = Some(self.again_at.map_or(due, |ms| ms.min(due)));
    }

    /// The hub has these records of that outbox. An ack may come twice, and in any order. `gone`
    /// is told of each that waited for it; `emptied` of each segment that is done with.
    pub(crate) fn release(
        &mut self,
        outbox: OutboxId,
        range: SeqRange,
        acks: &mut Acks,
        mut gone: impl FnMut(Acked),
        mut emptied: impl FnMut(u32),
    ) {
        for loaded in &mut self.loaded {
            for record in &mut loaded.records {
                if record.life == Life::Gone || record.seq < range.first || record.seq > range.last
                {
                    continue;
                }
                let head = record.at as usize - RECORD_HEAD;
                let owner = segment::owner(&loaded.bytes[head..]);
                if owner.outbox != outbox {
                    continue;
                }
                if let Life::Sent { at_ms, again } = record.life {
                    acks.reached(at_ms, again);
                }
                record.life = Life::Gone;
                loaded.left -= 1;
                gone(Acked {
                    spot: Spot { segment: loaded.segment, index: record.index },
                    kind: record.kind,
                    tracked: record.tracked,
                    run: owner.run,
                    attempt: owner.attempt,
                });
            }
        }
        while let Some(at) = self.loaded.iter().position(|loaded| loaded.left == 0)
            && let Some(loaded) = self.loaded.remove(at)
        {
            emptied(loaded.segment);
            self.spare.push(loaded);
        }
        if self.loaded.is_empty() {
            self.again_at = None;
        }
    }

    /// All that is unacked goes again: another hub, or another life of it, is there.
    pub(crate) fn send_all_again(&mut self) {
        for loaded in &mut self.loaded {
            for record in &mut loaded.records {
                if record.life != Life::Gone {
                    record.life = Life::Unsent { again: 0 };
                    record.passed_over = 0;
                }
            }
            loaded.cursor = 0;
        }
        self.again_at = None;
    }

    /// Forgets what was read: it is on disk.
    pub(crate) fn clear(&mut self) {
        self.spare.extend(self.loaded.drain(..));
        self.again_at = None;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// When a record has to be sent again at the earliest.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.again_at.map(Duration::from_millis)
    }
}

/// Whether a record that was read goes to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    No,
    Yes,
    /// It does, and says that its run's output was dropped.
    Dropped,
}
