//! The journal: what must survive a restart of the agent, but not of the machine.
//!
//! It lies in the runtime directory (RAM), so writing it wears nothing out. A run's record is in it
//! before the run starts; that is what keeps a run from being executed twice.
//!
//! ```text
//! record   [0xf5] [length: u16 LE] [CRC-32C of the rest: u32 LE] [postcard: Record]
//! ```
//!
//! A record that is torn or damaged is passed by, byte for byte, until one is whole again.

use std::ops::Range;

use fieldpost_wire::{Attempt, BootId, Cause, RunId, ScheduleVersion, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::limits::JOURNAL_GROWTH;

const MARK: u8 = 0xf5;
const HEAD: usize = 7;
/// The longest record: three names, ids and numbers.
const RECORD: usize = 320;

/// One thing to remember.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Record<'a> {
    /// What follows was written in this boot of the machine.
    Boot { id: [u8; 16] },
    /// A run was accepted.
    #[serde(borrow)]
    Took(Took<'a>),
    /// Its program was started.
    Started { run: RunId, attempt: Attempt, pid: u32, start_ticks: u64 },
    /// Its program has ended; nothing of it is left.
    Ended { run: RunId, attempt: Attempt },
    /// Its `Finished` is durable at the hub.
    Settled { run: RunId, attempt: Attempt },
    /// A run was cancelled before it came.
    Tombstone { run: RunId, attempt: Attempt, deadline: UnixMillis },
    /// A schedule entry was dealt with up to here.
    Done { schedule: ScheduleVersion, entry: &'a str, upto: Upto },
    /// So many bytes were written to the spool since then, on the boot clock.
    Wrote { since_ms: u64, bytes: u64 },
}

/// A run that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Took<'a> {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    /// In hub time.
    pub(crate) deadline: UnixMillis,
    pub(crate) job: &'a str,
    #[serde(borrow)]
    pub(crate) cause: Cause<'a>,
    /// When, by the wall clock and the boot clock, and in which boot that was: a record may be told
    /// of in a later one.
    pub(crate) wall: UnixMillis,
    pub(crate) boot_ms: u64,
    pub(crate) boot: BootId,
}

/// How far a schedule entry was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Upto {
    /// Due times of the wall clock up to this, without the splay.
    Cron { handled: UnixMillis },
    /// The `count`th due time since `anchor_ms` on the boot clock, and what the wall clock
    /// was taken to be then.
    Every { anchor_ms: u64, count: u64, due: UnixMillis },
}

/// What is to be appended, and how much was.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Records that were not handed out, or the last that were.
    pending: Vec<u8>,
    handed_out: bool,
    replace: bool,
    /// Bytes appended since it was last written anew.
    grown: usize,
    /// Its size then.
    base: usize,
}

impl Journal {
    /// A journal whose file is to be replaced first.
    pub(crate) fn new() -> Self {
        let pending = Vec::with_capacity(JOURNAL_GROWTH);
        Self { pending, handed_out: false, replace: true, grown: 0, base: 0 }
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        self.take_back();
        let before = self.pending.len();
        write(record, &mut self.pending);
        self.grown += self.pending.len() - before;
    }

    /// Whether it has grown so much that it is to be written anew.
    pub(crate) fn wants_replacing(&self) -> bool {
        self.grown > JOURNAL_GROWTH.max(self.base)
    }

    /// Begins anew with `records`: all that must be remembered. What was not handed out yet is
    /// among them.
    pub(crate) fn replace<'r>(&mut self, records: impl Iterator<Item = Record<'r>>) {
        self.pending.clear();
        self.handed_out = false;
        for record in records {
            write(&record, &mut self.pending);
        }
        self.replace = true;
        self.base = self.pending.len();
        self.grown = 0;
    }

    /// Whether there is something to write.
    pub(crate) fn has_output(&self) -> bool {
        self.replace || (!self.handed_out && !self.pending.is_empty())
    }

    /// The bytes to write next, and whether they replace the file.
    pub(crate) fn poll(&mut self) -> Option<(bool, &[u8])> {
        self.take_back();
        if self.pending.is_empty() && !self.replace {
            return None;
        }
        self.handed_out = true;
        Some((std::mem::take(&mut self.replace), &self.pending))
    }

    /// Drops what was handed out: the caller is back, so it is written.
    fn take_back(&mut self) {
        if std::mem::take(&mut self.handed_out) {
            self.pending.clear();
            self.pending.shrink_to(JOURNAL_GROWTH);
        }
    }
}

/// One record, as it stands in the file.
pub(crate) fn written(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD);
    write(record, &mut bytes);
    bytes
}

fn write(record: &Record<'_>, to: &mut Vec<u8>) {
    let mut buffer = [0; RECORD];
    let payload = postcard::to_slice(record, &mut buffer).expect("RECORD holds the longest");
    let len = u16::try_from(payload.len()).expect("RECORD fits");
    to.push(MARK);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    to.extend_from_slice(payload);
}

/// The whole records of `bytes`, in order.
pub(crate) fn read(bytes: &[u8]) -> Reader<'_> {
    Reader { bytes, at: 0, lost: 0 }
}

/// See [`read`].
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes passed by.
    pub(crate) lost: usize,
}

impl<'a> Iterator for Reader<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while self.at < self.bytes.len() {
            if let Some((payload, record)) = self.record() {
                self.at = payload.end;
                return Some(record);
            }
            self.at += 1;
            self.lost += 1;
        }
        None
    }
}

impl<'a> Reader<'a> {
    fn record(&self) -> Option<(Range<usize>, Record<'a>)> {
        let [MARK, len @ ..] = self.bytes.get(self.at..self.at + HEAD)? else {
            return None;
        };
        let [a, b, crc @ ..] = len else { return None };
        let start = self.at + HEAD;
        let payload = start..start + usize::from(u16::from_le_bytes([*a, *b]));
        let bytes = self.bytes.get(payload.clone())?;
        if crc != crc32c::crc32c(bytes).to_le_bytes() {
            return None;
        }
        postcard::from_bytes(bytes).ok().map(|record| (payload, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(n: u8) -> Record<'static> {
        Record::Settled { run: RunId([n; 16]), attempt: Attempt(1) }
    }

    fn written(n: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        (1..=n).for_each(|n| write(&settled(n), &mut bytes));
        bytes
    }

    #[test]
    fn the_longest_record_fits() {
        let name = "n".repeat(63);
        let big = u64::MAX;
        let run = RunId([255; 16]);
        let attempt = Attempt(u32::MAX);
        let cause = Cause::Entry { entry: &name, due: UnixMillis(big) };
        let deadline = UnixMillis(big);
        let boot = BootId(u32::MAX);
        let (job, wall, boot_ms) = (&*name, deadline, big);
        let took = Took { run, attempt, deadline, job, cause, wall, boot_ms, boot };
        let schedule = ScheduleVersion { epoch: big, counter: big };
        let upto = Upto::Every { anchor_ms: big, count: big, due: deadline };
        for record in [Record::Took(took), Record::Done { schedule, entry: &name, upto }] {
            let mut bytes = Vec::new();
            write(&record, &mut bytes);
            assert_eq!(read(&bytes).next(), Some(record));
        }
    }

    #[test]
    fn a_torn_tail_costs_the_last_record_only() {
        let bytes = written(3);
        let whole = bytes.len() / 3;
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]).count(), cut / whole);
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_record_only() {
        let bytes = written(3);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes).count(), 2, "bit {bit}");
        }
    }

    #[test]
    fn garbage_is_passed_by_and_counted() {
        let mut bytes = vec![MARK; 40];
        bytes.extend(written(2));
        bytes.extend([0; 9]);
        let mut reader = read(&bytes);
        assert_eq!(reader.by_ref().collect::<Vec<_>>(), [settled(1), settled(2)]);
        assert_eq!(reader.lost, 49);
    }

    #[test]
    fn records_are_handed_out_once_and_the_file_is_replaced_when_it_has_grown() {
        let mut journal = Journal::new();
        journal.replace([settled(1)].into_iter());
        let (replaces, bytes) = journal.poll().unwrap();
        assert!(replaces && read(bytes).eq([settled(1)]));
        assert!(journal.poll().is_none());
        journal.push(&settled(2));
        journal.push(&settled(3));
        let (replaces, bytes) = journal.poll().unwrap();
        assert!(!replaces && read(bytes).eq([settled(2), settled(3)]));
        while !journal.wants_replacing() {
            journal.push(&settled(4));
        }
        journal.replace([settled(5)].into_iter());
        let (replaces, bytes) = journal.poll().unwrap();
        assert!(replaces && read(bytes).eq([settled(5)]));
        assert!(journal.poll().is_none());
    }
}
