//! What the spool knows of its segments without reading them: which of their records live, and
//! which of those have no copy in memory.
//!
//! Two bits a record: 64 MiB of spooled chunks are 0.1 MiB of index.

use std::collections::VecDeque;

use super::segment::{HEAD, Kind, RECORD_HEAD};
use crate::limits::{SEGMENT, SEGMENT_RECORDS};

/// Where a record is: which segment, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub(crate) segment: u32,
    pub(crate) index: u16,
}

impl Spot {
    /// Nowhere: segments are counted from 1.
    pub(crate) const NONE: Self = Self { segment: 0, index: 0 };

    pub(crate) fn known(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) salt: u64,
    /// Bytes of its file.
    pub(crate) bytes: u32,
    /// The next record's place.
    pub(crate) records: u16,
    /// An earlier start of the agent wrote it.
    pub(crate) recovered: bool,
    /// It is in the window, or being emptied: not to be read now.
    pub(crate) busy: bool,
    /// It is not deleted: see [`Segment::stay`].
    stays: bool,
    /// Not acked.
    live: Bits,
    /// Not acked, and in memory too.
    resident: Bits,
    living: u16,
    /// Of those, how many are not in memory.
    away: u16,
    /// Living chunks.
    chunks: u16,
    /// Living reports, chunks among them.
    reports: u16,
    /// Runs that it says were accepted, and whose end was written since, or needs not be.
    outdated: u16,
}

#[derive(Debug, Clone, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, at: u16) -> bool {
        self.0.get(usize::from(at / 64)).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn set(&mut self, at: u16) {
        let word = usize::from(at / 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (at % 64);
    }

    fn clear(&mut self, at: u16) {
        if let Some(word) = self.0.get_mut(usize::from(at / 64)) {
            *word &= !(1 << (at % 64));
        }
    }
}

impl Segment {
    pub(crate) fn new(number: u32, salt: u64) -> Self {
        Self {
            number,
            salt,
            bytes: HEAD as u32,
            records: 0,
            recovered: false,
            busy: false,
            stays: false,
            live: Bits::default(),
            resident: Bits::default(),
            living: 0,
            away: 0,
            chunks: 0,
            reports: 0,
            outdated: 0,
        }
    }

    /// Whether a record with such a body still fits behind `more` bytes in `batch` records.
    pub(crate) fn has_room(&self, more: usize, batch: usize, body: usize) -> bool {
        self.bytes as usize + more + RECORD_HEAD + body <= SEGMENT
            && usize::from(self.records) + batch < SEGMENT_RECORDS
    }

    /// A record stands in the file.
    pub(crate) fn add(&mut self, index: u16, kind: Kind, in_memory: bool) {
        self.records = self.records.max(index.saturating_add(1));
        if self.live.has(index) {
            return;
        }
        self.live.set(index);
        self.living += 1;
        self.chunks += u16::from(kind == Kind::Chunk);
        self.reports += u16::from(kind.is_report());
        if in_memory {
            self.resident.set(index);
        } else {
            self.away += 1;
        }
    }

    pub(crate) fn is_live(&self, index: u16) -> bool {
        self.live.has(index)
    }

    /// Whether the record lives on disk only.
    pub(crate) fn is_away(&self, index: u16) -> bool {
        self.live.has(index) && !self.resident.has(index)
    }

    pub(crate) fn living(&self) -> u16 {
        self.living
    }

    /// Whether some report in it is not acked.
    pub(crate) fn has_reports(&self) -> bool {
        self.reports > 0
    }

    /// It can't be deleted, or not before a restart, as what moved out of it may not be on disk
    /// elsewhere. No other waits for it to go.
    pub(crate) fn stay(&mut self) {
        self.stays = true;
        self.outdated = 0;
    }

    /// None of its living records is output, whatever was counted. Says whether that is news.
    pub(crate) fn forget_chunks(&mut self) -> bool {
        std::mem::take(&mut self.chunks) > 0
    }

    /// What is left of it can't be read, and is forgotten. Gives how much that is.
    pub(crate) fn abandon(&mut self) -> u16 {
        (self.live, self.resident) = (Bits::default(), Bits::default());
        (self.away, self.chunks, self.reports) = (0, 0, 0);
        std::mem::take(&mut self.living)
    }

    pub(crate) fn stays(&self) -> bool {
        self.stays
    }

    fn release(&mut self, index: u16, kind: Kind) {
        if !self.live.has(index) {
            return;
        }
        self.away -= u16::from(self.is_away(index));
        self.living -= 1;
        self.chunks = self.chunks.saturating_sub(u16::from(kind == Kind::Chunk));
        self.reports -= u16::from(kind.is_report());
        self.outdated += u16::from(kind == Kind::Took);
        self.live.clear(index);
        self.resident.clear(index);
    }

    /// Forgets whatever should be on disk only and was not found there. Gives how much that was.
    pub(crate) fn keep_away_only(&mut self, found: impl Fn(u16) -> bool) -> u64 {
        let mut lost = 0;
        for index in 0..self.records {
            if self.is_away(index) && !found(index) {
                // Of which kind it was nobody knows; the count of chunks is corrected at zero.
                self.release(index, Kind::Missed);
                lost += 1;
            }
        }
        lost
    }
}

/// All segments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Index {
    segments: VecDeque<Segment>,
    bytes: u64,
}

impl Index {
    pub(crate) fn push(&mut self, segment: Segment) {
        self.bytes += u64::from(segment.bytes);
        self.segments.push_back(segment);
    }

    pub(crate) fn remove(&mut self, number: u32) {
        if let Ok(at) = self.find(number)
            && let Some(segment) = self.segments.remove(at)
        {
            self.bytes -= u64::from(segment.bytes);
        }
    }

    /// The file has grown.
    pub(crate) fn grow(&mut self, number: u32, bytes: usize) {
        if let Ok(at) = self.find(number) {
            self.segments[at].bytes += bytes as u32; // a segment has at most SEGMENT
            self.bytes += bytes as u64;
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Segment> {
        self.find(number).ok().map(|at| &self.segments[at])
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Segment> {
        self.find(number).ok().map(|at| &mut self.segments[at])
    }

    fn find(&self, number: u32) -> Result<usize, usize> {
        self.segments.binary_search_by_key(&number, |segment| segment.number)
    }

    /// The record needs not be kept any more. Gives its segment's number if nothing in it does.
    pub(crate) fn release(&mut self, spot: Spot, kind: Kind) -> Option<u32> {
        let segment = self.get_mut(spot.segment)?;
        segment.release(spot.index, kind);
        (segment.living == 0).then_some(spot.segment)
    }

    /// The record's copy in memory is gone.
    pub(crate) fn let_go(&mut self, spot: Spot) {
        if let Some(segment) = self.get_mut(spot.segment)
            && segment.resident.has(spot.index)
        {
            segment.resident.clear(spot.index);
            segment.away += 1;
        }
    }

    /// The oldest segment that holds what is not in memory, and may be read now.
    pub(crate) fn oldest_away(&self) -> Option<u32> {
        let wanted = |segment: &&Segment| segment.away > 0 && !segment.busy;
        self.segments.iter().find(wanted).map(|segment| segment.number)
    }

    /// The segment to be emptied for room: the oldest with output, or else the oldest that is smaller
    /// without what can go.
    pub(crate) fn oldest_to_drop(&self) -> Option<u32> {
        let with_output = self.droppable().find(|segment| segment.chunks > 0);
        let shrinks = |segment: &&Segment| segment.reports > 0 || segment.living < segment.records;
        with_output.or_else(|| self.droppable().find(shrinks)).map(|segment| segment.number)
    }

    /// Whether output could be dropped for room.
    pub(crate) fn has_output(&self) -> bool {
        self.droppable().any(|segment| segment.chunks > 0)
    }

    /// All but the last, which is being written, and those that can't be deleted.
    fn droppable(&self) -> impl Iterator<Item = &Segment> {
        let most = self.segments.len().saturating_sub(1);
        self.segments.iter().take(most).filter(|segment| !segment.busy && !segment.stays)
    }

    /// The oldest segment, if that has to go before `number` does: it says that runs were accepted
    /// whose ends are in a later one. Without these a start after a power cut would call the runs
    /// lost.
    pub(crate) fn to_go_before(&self, number: u32) -> Option<&Segment> {
        self.segments.iter().take_while(|s| s.number < number).find(|s| s.outdated > 0 && !s.stays)
    }

    /// How many segments are not deleted before a restart.
    #[cfg(test)]
    pub(crate) fn staying(&self) -> usize {
        self.segments.iter().filter(|segment| segment.stays).count()
    }

    /// Nothing is busy any more.
    pub(crate) fn free_all(&mut self) {
        self.segments.iter_mut().for_each(|segment| segment.busy = false);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
