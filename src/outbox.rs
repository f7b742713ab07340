//! The outbox: reports that the hub has not acked yet, in memory.
//!
//! Records stand one after the other in an arena, encoded as they go over the wire, so that
//! sending again is sending the same bytes. New ones go to the end; when all are gone it begins at
//! the start again, and when the end is reached what is left moves to the start. So memory is
//! touched from the lowest address on, and only as much as is needed.
//!
//! ```text
//! arena    |dead|rec 7|dead|rec 9|rec 10|      free       |
//! records       first        ...  cursor (not sent yet) ^
//! ```
//!
//! A record costs what it is long, but [`OUTBOX_RECORD`] at least: so the table of records can't be full
//! before the arena is. Room can be set aside: for the end of each run that was accepted.
//!
//! A record that was written to the spool knows where; when memory is needed such records go first
//! ([`Outbox::let_go`]), and are read back by the spool.

use std::ops::Range;
use std::time::Duration;

use fieldpost_wire::{Error, OutboxId, Report, Seq, SeqRange, Tag};

use crate::limits::OUTBOX_RECORD;
use crate::resend::{Acks, in_vain, millis, say_dropped};
use crate::spool::Spot;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: OutboxId,
    arena: Vec<u8>,
    /// Bytes of the arena in use, dead ones included.
    tail: usize,
    records: Vec<Record>,
    /// The first record that lives; all before it are dead.
    first: usize,
    /// The first record that was not sent since the last [`Outbox::send_all_again`].
    cursor: usize,
    /// How many records live.
    live: usize,
    /// The bytes of those.
    bytes: usize,
    /// What they cost: [`OUTBOX_RECORD`] each at least.
    cost: usize,
    reserved: usize,
    last: Seq,
    again: Again,
}

/// What one record is.
#[derive(Debug, Clone, Copy)]
struct Record {
    seq: Seq,
    at: u32,
    len: u16,
    kind: Kind,
    /// Times that it was sent and the hub acked what was sent later, but not it.
    passed_over: u8,
    life: Life,
    owner: Owner,
    /// Where it is on disk; [`Spot::NONE`]: nowhere.
    spot: Spot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unsent,
    Sent {
        /// When, in milliseconds of the boot clock.
        at_ms: u64,
        /// How many times it was sent again.
        again: u8,
    },
    Dead,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chunk,
    Finished,
    Missed,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Tells the runs of this start of the agent apart; 0: no run's.
    pub(crate) serial: u32,
    /// The run's place in the table of known runs.
    pub(crate) known: u16,
    /// The job, for counting what is dropped.
    pub(crate) job: u8,
    /// Whether it matters when all of the run's records are acked.
    pub(crate) tracked: bool,
    /// Whether it is spooled even beyond the daily budget.
    pub(crate) durable: bool,
}

/// Sending unacked records again when their time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Nothing was sent.
    Never,
    /// None is due before this, in milliseconds.
    At(u64),
    /// Looking at each that was sent.
    Walking {
        /// The next to look at.
        next: usize,
        /// When the earliest of those passed by will be due.
        earliest_ms: Option<u64>,
    },
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Outbox {
    /// An empty outbox of so many bytes.
    pub(crate) fn new(id: OutboxId, bytes: usize) -> Self {
        Self {
            id,
            // Zeroed by the kernel, page by page, when it is touched.
            arena: vec![0; bytes],
            tail: 0,
            records: Vec::with_capacity(bytes / OUTBOX_RECORD),
            first: 0,
            cursor: 0,
            live: 0,
            bytes: 0,
            cost: 0,
            reserved: 0,
            last: Seq(0),
            again: Again::Never,
        }
    }

    /// Sets `bytes` aside.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Full> {
        if self.free() < bytes {
            return Err(Full);
        }
        self.reserved += bytes;
        Ok(())
    }

    /// Gives back what was set aside.
    pub(crate) fn unreserve(&mut self, bytes: usize) {
        debug_assert!(self.reserved >= bytes, "more given back than was set aside");
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Appends a report, if there is room beyond what is set aside.
    pub(crate) fn append(
        &mut self,
        report: &Report<'_>,
        owner: Owner,
        kind: Kind,
    ) -> Result<(), Full> {
        let tag = Tag { outbox: self.id, seq: Seq(self.last.0 + 1) };
        let mut encoded = self.encode(report, tag);
        if encoded == Err(Error::Room) && self.tail > self.bytes {
            self.compact();
            encoded = self.encode(report, tag);
        }
        let len = match encoded {
            Ok(len) => len,
            Err(Error::Room) => return Err(Full),
            Err(error) => {
                // A bound of the wire that we did not keep: our fault, and nobody's report.
                log::error!("a report could not be encoded: {error}");
                debug_assert!(false, "a report could not be encoded: {error}");
                return Err(Full);
            }
        };
        let cost = len.max(OUTBOX_RECORD);
        if self.free() < cost {
            return Err(Full);
        }
        if self.records.len() == self.records.capacity() {
            let from = self.tail;
            self.compact();
            // The new record stood behind what moved.
            self.arena.copy_within(from..from + len, self.tail);
        }
        // Offsets and lengths fit: an arena has at most 256 MiB, a body at most 60 KiB.
        self.records.push(Record {
            seq: tag.seq,
            at: self.tail as u32,
            len: len as u16,
            kind,
            passed_over: 0,
            life: Life::Unsent,
            owner,
            spot: Spot::NONE,
        });
        self.last = tag.seq;
        self.tail += len;
        self.live += 1;
        self.cost += cost;
        self.bytes += len;
        Ok(())
    }

    /// Writes the report behind the last record, and gives its length.
    fn encode(&mut self, report: &Report<'_>, tag: Tag) -> Result<usize, Error> {
        report.encode(Some(tag), &mut self.arena[self.tail..]).map(<[u8]>::len)
    }

    /// Forgets the records of these numbers; `gone` is told of each that lived, and where it is on
    /// disk. An ack may come twice, and in any order.
    pub(crate) fn release(
        &mut self,
        range: SeqRange,
        acks: &mut Acks,
        mut gone: impl FnMut(Kind, Owner, Option<Spot>),
    ) {
        let from = self.first + self.records[self.first..].partition_point(|r| r.seq < range.first);
        let mut index = from;
        while let Some(record) = self.records.get(index).copied()
            && record.seq <= range.last
        {
            if record.life != Life::Dead {
                if let Life::Sent { at_ms, again } = record.life {
                    acks.reached(at_ms, again);
                }
                self.bury(index);
                gone(record.kind, record.owner, record.spot.known());
            }
            index += 1;
        }
        self.tidy();
    }

    /// All that is unacked goes again, in order: another hub, or another life of it, is there.
    pub(crate) fn send_all_again(&mut self) {
        for record in &mut self.records[self.first..] {
            if record.life != Life::Dead {
                record.life = Life::Unsent;
                record.passed_over = 0;
            }
        }
        self.cursor = self.first;
        self.again = Again::Never;
    }

    /// The number of the next record to send now, if any.
    pub(crate) fn next(&mut self, now: Duration, acks: &Acks) -> Option<Seq> {
        while let Some(record) = self.records.get(self.cursor) {
            if record.life == Life::Unsent {
                return Some(record.seq);
            }
            self.cursor += 1;
        }
        self.next_again(millis(now), acks)
    }

    /// A fault for the simulated world to find: what was sent once is never sent again.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn give_up_resending(&mut self) {
        self.again = Again::Never;
    }

    fn next_again(&mut self, now_ms: u64, acks: &Acks) -> Option<Seq> {
        let (mut next, mut earliest_ms) = match self.again {
            Again::Never => return None,
            Again::At(ms) if ms > now_ms => return None,
            Again::At(_) => (self.first, None),
            Again::Walking { next, earliest_ms } => (next, earliest_ms),
        };
        while let Some(record) = self.records.get(next) {
            if let Life::Sent { at_ms, again } = record.life {
                let due = acks.due_ms(at_ms, again);
                if due <= now_ms {
                    self.again = Again::Walking { next, earliest_ms };
                    return Some(record.seq);
                }
                earliest_ms = Some(earliest_ms.map_or(due, |ms: u64| ms.min(due)));
            }
            next += 1;
        }
        self.again = earliest_ms.map_or(Again::Never, Again::At);
        None
    }

    /// A record as it goes over the wire.
    pub(crate) fn body(&self, seq: Seq) -> Option<&[u8]> {
        let record = &self.records[self.index(seq)?];
        Some(&self.arena[record.bytes()])
    }

    /// The record is in the socket's queue.
    pub(crate) fn sent(&mut self, seq: Seq, now: Duration, acks: &Acks) {
        let Some(index) = self.index(seq) else {
            return; // acked meanwhile
        };
        let at_ms = millis(now);
        let record = &mut self.records[index];
        let again = match record.life {
            Life::Unsent | Life::Dead => 0,
            Life::Sent { at_ms: before, again } => {
                record.passed_over = record.passed_over.saturating_add(acks.passed(before).into());
                again.saturating_add(1)
            }
        };
        record.life = Life::Sent { at_ms, again };
        let due = acks.due_ms(at_ms, again);
        self.again = match self.again {
            Again::Never => Again::At(due),
            Again::At(ms) => Again::At(ms.min(due)),
            Again::Walking { next, earliest_ms } => Again::Walking {
                next,
                earliest_ms: Some(earliest_ms.map_or(due, |ms| ms.min(due))),
            },
        };
    }

    /// Whose end this is, if the hub does not take it and none of its output is here any more: it
    /// waits for some that is lost.
    pub(crate) fn vain_end(&self, seq: Seq) -> Option<Owner> {
        let record = self.records[self.index(seq)?];
        let Life::Sent { again, .. } = record.life else { return None };
        let owner = record.owner;
        let is_output = |other: &Record| {
            (other.kind, other.owner.serial) == (Kind::Chunk, owner.serial)
                && other.life != Life::Dead
        };
        let vain = record.kind == Kind::Finished
            && in_vain(&self.arena[record.bytes()], again, record.passed_over)
            && !self.records[self.first..].iter().any(is_output);
        vain.then_some(owner)
    }

    /// When a record has to be sent again at the earliest.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match self.again {
            Again::Never => None,
            Again::At(ms) => Some(Duration::from_millis(ms)),
            Again::Walking { .. } => Some(Duration::ZERO),
        }
    }

    /// Drops the whole output of one run: the oldest, or the one of `serial`. Gives whose it was
    /// and how many records. Its `Finished`, if it is here, then says so. `freed` is told what on
    /// disk is not true any more.
    pub(crate) fn evict_output(
        &mut self,
        serial: Option<u32>,
        mut freed: impl FnMut(Spot, Kind),
    ) -> Option<(Owner, u64)> {
        let oldest = self.records[self.first..].iter().find(|record| {
            record.life != Life::Dead
                && match serial {
                    Some(serial) => record.owner.serial == serial,
                    None => record.kind == Kind::Chunk,
                }
        });
        let owner = oldest?.owner;
        let mut dropped = 0;
        for index in self.first..self.records.len() {
            let record = self.records[index];
            if record.life == Life::Dead || record.owner.serial != owner.serial {
                continue;
            }
            match record.kind {
                Kind::Chunk => {
                    self.bury(index);
                    dropped += 1;
                }
                Kind::Finished => {
                    say_dropped(&mut self.arena[record.bytes()]);
                    self.records[index].spot = Spot::NONE;
                }
                Kind::Missed => continue,
            }
            if let Some(spot) = record.spot.known() {
                freed(spot, record.kind);
            }
        }
        self.tidy();
        Some((owner, dropped))
    }

    /// Drops the oldest record that is not a chunk: the last resort.
    pub(crate) fn evict_oldest(&mut self) -> Option<(Kind, Owner, Option<Spot>)> {
        let index = (self.first..self.records.len()).find(|&index| {
            let record = &self.records[index];
            record.life != Life::Dead && record.kind != Kind::Chunk
        })?;
        let record = self.records[index];
        self.bury(index);
        self.tidy();
        Some((record.kind, record.owner, record.spot.known()))
    }

    // ---- the spool ---------------------------------------------------------------------------

    /// What lives and is not on disk, of the numbers beyond `after` up to `upto`.
    pub(crate) fn unspooled(
        &self,
        after: Seq,
        upto: Seq,
    ) -> impl Iterator<Item = (Seq, Kind, Owner, &[u8])> {
        let live = &self.records[self.first..];
        let from = live.partition_point(|record| record.seq <= after);
        live[from..]
            .iter()
            .take_while(move |record| record.seq <= upto)
            .filter(|record| record.life != Life::Dead && record.spot == Spot::NONE)
            .map(|record| (record.seq, record.kind, record.owner, &self.arena[record.bytes()]))
    }

    /// The record is on disk.
    pub(crate) fn spooled(&mut self, seq: Seq, spot: Spot) {
        if let Some(index) = self.index(seq) {
            self.records[index].spot = spot;
        }
    }

    /// The record is elsewhere on disk. Says whether it is here at all.
    pub(crate) fn moved(&mut self, seq: Seq, from: Spot, to: Spot) -> bool {
        match self.index(seq) {
            Some(index) if self.records[index].spot == from => {
                self.records[index].spot = to;
                true
            }
            Some(_) | None => false,
        }
    }

    /// What was written to this segment may not be on disk: it counts as not written.
    pub(crate) fn unspool(&mut self, segment: u32, mut freed: impl FnMut(Spot, Kind)) {
        for record in &mut self.records[self.first..] {
            if record.life != Life::Dead && record.spot.segment == segment {
                freed(std::mem::replace(&mut record.spot, Spot::NONE), record.kind);
            }
        }
    }

    /// Forgets the oldest records that are on disk, until so many bytes are free. `gone` is told of
    /// each.
    pub(crate) fn let_go(&mut self, bytes: usize, mut gone: impl FnMut(Kind, Owner, Spot)) {
        let mut index = self.first;
        while self.free() < bytes
            && let Some(record) = self.records.get(index).copied()
        {
            if record.life != Life::Dead
                && let Some(spot) = record.spot.known()
            {
                self.bury(index);
                gone(record.kind, record.owner, spot);
            }
            index += 1;
        }
        self.tidy();
    }

    /// The number of the last record that was appended.
    pub(crate) fn last(&self) -> Seq {
        self.last
    }

    /// This outbox.
    pub(crate) fn id(&self) -> OutboxId {
        self.id
    }

    /// Bytes that can be appended beyond what is set aside.
    pub(crate) fn free(&self) -> usize {
        self.arena.len().saturating_sub(self.cost + self.reserved)
    }

    /// Whether output could be dropped.
    pub(crate) fn has_output(&self) -> bool {
        let live = &self.records[self.first..];
        live.iter().any(|record| record.life != Life::Dead && record.kind == Kind::Chunk)
    }

    /// How many bytes it can hold.
    pub(crate) fn size(&self) -> usize {
        self.arena.len()
    }

    /// How many records are not acked.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Whether a record of this run is left.
    pub(crate) fn holds(&self, serial: u32) -> bool {
        self.records[self.first..]
            .iter()
            .any(|record| record.life != Life::Dead && record.owner.serial == serial)
    }

    /// The unacked `Finished` that belong to known runs, as they were encoded.
    pub(crate) fn finished(&self) -> impl Iterator<Item = (Owner, &[u8])> {
        self.records[self.first..]
            .iter()
            .filter(|record| record.life != Life::Dead && record.kind == Kind::Finished)
            .map(|record| (record.owner, &self.arena[record.bytes()]))
    }

    /// The bytes of unacked reports.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        let live = &self.records[self.first..];
        let at = live.binary_search_by_key(&seq, |record| record.seq).ok()?;
        (live[at].life != Life::Dead).then_some(self.first + at)
    }

    fn bury(&mut self, index: usize) {
        let record = &mut self.records[index];
        record.life = Life::Dead;
        self.live -= 1;
        self.bytes -= usize::from(record.len);
        self.cost -= usize::from(record.len).max(OUTBOX_RECORD);
    }

    /// Passes the dead at the front by, and begins anew where nothing lives.
    fn tidy(&mut self) {
        if self.live == 0 {
            self.records.clear();
            self.tail = 0;
            self.first = 0;
            self.cursor = 0;
            self.again = Again::Never;
            return;
        }
        while self.records.get(self.first).is_some_and(|record| record.life == Life::Dead) {
            self.first += 1;
        }
        self.cursor = self.cursor.max(self.first);
        if let Again::Walking { next, .. } = &mut self.again {
            *next = (*next).max(self.first);
        }
    }

    /// Moves what lives to the start.
    fn compact(&mut self) {
        let (mut kept, mut tail) = (0, 0);
        let (mut cursor, mut walked) = (0, 0);
        let walk = match self.again {
            Again::Walking { next, .. } => next,
            Again::Never | Again::At(_) => 0,
        };
        for index in self.first..self.records.len() {
            let mut record = self.records[index];
            if record.life == Life::Dead {
                continue;
            }
            self.arena.copy_within(record.bytes(), tail);
            record.at = tail as u32; // not larger than it was
            tail += usize::from(record.len);
            self.records[kept] = record;
            kept += 1;
            cursor += usize::from(index < self.cursor);
            walked += usize::from(index < walk);
        }
        self.records.truncate(kept);
        self.first = 0;
        self.tail = tail;
        self.cursor = cursor;
        if let Again::Walking { next, .. } = &mut self.again {
            *next = walked;
        }
    }
}

impl Record {
    fn bytes(&self) -> Range<usize> {
        let at = self.at as usize;
        at..at + usize::from(self.len)
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_wire::{Attempt, Missed, Output, RunId, UnixMillis};

    use super::*;
    use crate::limits::{OUTBOX_LEAST, RESEND};

    const fn owner(serial: u32) -> Owner {
        Owner { serial, known: 0, job: 0, tracked: false, durable: false }
    }

    fn missed(count: u64) -> Report<'static> {
        Report::Missed(Missed { entry: "e", from: UnixMillis(0), to: UnixMillis(0), count })
    }

    fn chunk(index: u32, bytes: &[u8]) -> Report<'_> {
        Report::Output(Output { run: RunId([1; 16]), attempt: Attempt(1), index, bytes })
    }

    fn count_of(body: &[u8]) -> u64 {
        match Report::decode(body).unwrap().1 {
            Report::Missed(missed) => missed.count,
            Report::Output(output) => output.index.into(),
            other => panic!("{other:?}"),
        }
    }

    /// Sends all that is due at `now`, and gives their counts.
    fn drain(outbox: &mut Outbox, now: Duration) -> Vec<u64> {
        std::iter::from_fn(|| {
            let seq = outbox.next(now, &Acks::default())?;
            let count = count_of(outbox.body(seq).unwrap());
            outbox.sent(seq, now, &Acks::default());
            Some(count)
        })
        .collect()
    }

    fn ack(outbox: &mut Outbox, first: u64, last: u64) -> usize {
        let mut gone = 0;
        outbox.release(
            SeqRange { first: Seq(first), last: Seq(last) },
            &mut Acks::default(),
            |_, _, _| gone += 1,
        );
        gone
    }

    fn filled(count: u64) -> Outbox {
        let mut outbox = Outbox::new(OutboxId([7; 16]), OUTBOX_LEAST);
        for n in 1..=count {
            outbox.append(&missed(n), owner(0), Kind::Missed).unwrap();
        }
        outbox
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn records_go_once_and_in_order_until_their_time_comes_again() {
        let mut outbox = filled(3);
        assert_eq!(drain(&mut outbox, s(0)), [1, 2, 3]);
        assert_eq!(outbox.next_deadline(), Some(RESEND));
        outbox.append(&missed(4), owner(0), Kind::Missed).unwrap();
        assert_eq!(drain(&mut outbox, s(4)), [4]);
        assert_eq!(drain(&mut outbox, s(9)), [0_u64; 0]);
        assert_eq!(drain(&mut outbox, s(10)), [1, 2, 3]);
        assert_eq!(drain(&mut outbox, s(14)), [4]);
        assert_eq!(outbox.next_deadline(), Some(s(30)), "twice as long the second time");
    }

    #[test]
    fn after_a_welcome_all_go_again_in_order() {
        let mut outbox = filled(3);
        drain(&mut outbox, s(0));
        ack(&mut outbox, 2, 2);
        outbox.send_all_again();
        assert_eq!(drain(&mut outbox, s(1)), [1, 3]);
    }

    #[test]
    fn acks_come_in_any_order_and_twice() {
        let mut outbox = filled(5);
        drain(&mut outbox, s(0));
        assert_eq!(ack(&mut outbox, 4, 9), 2);
        assert_eq!(ack(&mut outbox, 1, 2), 2);
        assert_eq!(ack(&mut outbox, 1, 4), 1);
        assert_eq!(ack(&mut outbox, 1, u64::MAX), 0);
        assert_eq!(outbox.len(), 0);
        assert_eq!(outbox.free(), OUTBOX_LEAST);
        assert_eq!(outbox.next_deadline(), None);
        assert_eq!(outbox.tail, 0, "it begins at its lowest address again");
        outbox.append(&missed(6), owner(0), Kind::Missed).unwrap();
        assert_eq!(outbox.next(s(1), &Acks::default()), Some(Seq(6)), "numbers go on");
    }

    #[test]
    fn it_is_full_by_records_and_by_bytes_and_works_again_after_an_ack() {
        let most = (OUTBOX_LEAST / OUTBOX_RECORD) as u64;
        let mut outbox = filled(most);
        assert_eq!(outbox.append(&missed(0), owner(0), Kind::Missed), Err(Full));
        ack(&mut outbox, 100, 100);
        outbox.append(&missed(9), owner(0), Kind::Missed).unwrap();
        assert_eq!(drain(&mut outbox, s(0)).len() as u64, most);

        let big = [5; 16 * 1024];
        let mut outbox = Outbox::new(OutboxId([7; 16]), OUTBOX_LEAST);
        for index in 0..3 {
            outbox.append(&chunk(index, &big), owner(1), Kind::Chunk).unwrap();
        }
        assert_eq!(outbox.append(&chunk(3, &big), owner(1), Kind::Chunk), Err(Full));
        for n in 4..100 {
            ack(&mut outbox, n - 3, n - 3);
            outbox.append(&chunk(n as u32, &big), owner(1), Kind::Chunk).unwrap();
            assert_eq!(count_of(outbox.body(Seq(n)).unwrap()), n);
        }
    }

    #[test]
    fn compaction_keeps_what_was_and_was_not_sent() {
        let mut outbox = filled(10);
        for _ in 0..4 {
            let seq = outbox.next(s(0), &Acks::default()).unwrap();
            outbox.sent(seq, s(0), &Acks::default());
        }
        for seq in [1, 3, 6] {
            ack(&mut outbox, seq, seq);
        }
        outbox.compact();
        assert_eq!(drain(&mut outbox, s(1)), [5, 7, 8, 9, 10]);
        assert_eq!(drain(&mut outbox, s(10)), [2, 4]);
    }

    #[test]
    fn what_is_set_aside_is_there_when_it_is_needed() {
        let mut outbox = Outbox::new(OutboxId([7; 16]), OUTBOX_LEAST);
        outbox.reserve(OUTBOX_LEAST - 1000).unwrap();
        assert_eq!(outbox.append(&chunk(0, &[0; 1000]), owner(1), Kind::Chunk), Err(Full));
        assert_eq!(outbox.reserve(1001), Err(Full));
        outbox.unreserve(1000);
        outbox.append(&chunk(0, &[0; 1000]), owner(1), Kind::Chunk).unwrap();
    }

    #[test]
    fn what_is_on_disk_goes_from_memory_oldest_first_and_keeps_its_number() {
        let mut outbox = filled(4);
        let spot = |index| Spot { segment: 3, index };
        outbox.spooled(Seq(1), spot(0));
        outbox.spooled(Seq(3), spot(1));
        let left: Vec<u64> = outbox.unspooled(Seq(1), Seq(3)).map(|(seq, ..)| seq.0).collect();
        assert_eq!(left, [2]);
        let free = outbox.free();
        let mut gone = Vec::new();
        outbox.let_go(free + 1, |_, _, spot| gone.push(spot));
        assert_eq!(gone, [spot(0)]);
        outbox.unspool(3, |spot, _| gone.push(spot));
        assert_eq!(gone, [spot(0), spot(1)]);
        outbox.let_go(usize::MAX, |_, _, _| panic!("nothing is on disk"));
        assert_eq!(drain(&mut outbox, s(0)), [2, 3, 4]);
    }

    #[test]
    fn the_oldest_output_goes_whole_and_its_result_says_so() {
        use fieldpost_wire::{BootId, Cause, Clock, Exit, Finished, Status};
        let finished = |output_dropped| {
            Report::Finished(Finished {
                run: RunId([1; 16]),
                attempt: Attempt(1),
                job: "j",
                cause: Cause::Trigger,
                status: Status::Ok,
                exit: Exit::Code(0),
                started: UnixMillis(1),
                boot: BootId(9),
                started_boot_ms: 2,
                clock: Clock::Trusted,
                duration_us: 3,
                chunks: 2,
                bytes: 2,
                crc32c: 4,
                stderr: b"",
                note: "",
                peak_rss_kib: 5,
                cpu_us: 6,
                truncated: false,
                output_dropped,
            })
        };
        let mut outbox = filled(1);
        for (serial, index) in [(1, 0), (2, 0), (1, 1)] {
            outbox.append(&chunk(index, b"x"), owner(serial), Kind::Chunk).unwrap();
        }
        outbox.append(&finished(false), owner(1), Kind::Finished).unwrap();
        outbox.spooled(Seq(5), Spot { segment: 1, index: 0 });
        let mut freed = 0;
        assert_eq!(outbox.evict_output(None, |_, _| freed += 1), Some((owner(1), 2)));
        assert_eq!(freed, 1, "what is on disk says that the output is there");
        assert_eq!(outbox.len(), 3);
        let body = outbox.body(Seq(5)).unwrap();
        assert_eq!(Report::decode(body).unwrap().1, finished(true));
        assert_eq!(outbox.evict_output(Some(1), |_, _| {}), Some((owner(1), 0)));
        assert_eq!(outbox.evict_output(None, |_, _| {}), Some((owner(2), 1)));
        assert_eq!(outbox.evict_output(Some(2), |_, _| {}), None);
        assert_eq!(outbox.evict_oldest(), Some((Kind::Missed, owner(0), None)));
        assert_eq!(outbox.evict_oldest(), Some((Kind::Finished, owner(1), None)));
        assert_eq!(outbox.evict_oldest(), None);
    }
}
