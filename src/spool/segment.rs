//! The bytes of a segment: how records are written, and found again whatever became of the file.
//!
//! The layout is in [`super`]. A record that is torn or damaged is passed by, byte for byte, until
//! one is whole again. The checksum begins with the segment's salt: what a program wrote can't
//! pose as a record when the one that held it is damaged.

use std::ops::Range;

use fieldpost_wire::{Attempt, OutboxId, RunId, Seq, Tag};

/// What a segment begins with.
pub(crate) const MAGIC: [u8; 8] = *b"FPSPOOL\x01";
/// Bytes before the first record.
pub(crate) const HEAD: usize = 24;
/// Bytes of a record before its body.
pub(crate) const RECORD_HEAD: usize = 60;
const MARK: [u8; 2] = [0xf5, 0x5f];

const DURABLE: u8 = 1;
const TRACKED: u8 = 2;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A report with a piece of a run's output.
    Chunk,
    /// A report of a run's end.
    Finished,
    /// A report of due times that were missed.
    Missed,
    /// No report: the output of this run was dropped, its `Finished` has to say so.
    Dropped,
    /// No report: this run was accepted (the body is a record of the journal).
    Took,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Finished => 2,
            Self::Missed => 3,
            Self::Dropped => 4,
            Self::Took => 5,
        }
    }

    fn numbered(number: u8) -> Option<Self> {
        [Self::Chunk, Self::Finished, Self::Missed, Self::Dropped, Self::Took]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// As people are told.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Chunk => "output",
            Self::Finished => "finished",
            Self::Missed => "missed",
            Self::Dropped => "dropped",
            Self::Took => "accepted",
        }
    }

    /// Whether it is something that goes to the hub.
    pub(crate) fn is_report(self) -> bool {
        match self {
            Self::Chunk | Self::Finished | Self::Missed => true,
            Self::Dropped | Self::Took => false,
        }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    /// Of a job that is spooled even beyond the daily budget.
    pub(crate) durable: bool,
    /// Of a run whose delivery moves a cursor.
    pub(crate) tracked: bool,
    /// Its place in the segment, counted from 0.
    pub(crate) index: u16,
    /// The CRC-32C of its job's name.
    pub(crate) job: u32,
    /// Zeros where there is none.
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    /// What the hub acks.
    pub(crate) tag: Tag,
    pub(crate) body: &'a [u8],
}

/// The start of a segment.
pub(crate) fn write_head(number: u32, salt: u64, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&number.to_le_bytes());
    to.extend_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&to[start..]);
    to.extend_from_slice(&crc.to_le_bytes());
}

/// The salt of a segment; `None` if its start is damaged, or it is another's.
pub(crate) fn read_head(bytes: &[u8]) -> Option<(u32, u64)> {
    let head = bytes.get(..HEAD)?;
    let whole = head[..8] == MAGIC && crc32c::crc32c(&head[..20]) == u32_at(head, 20);
    whole.then(|| (u32_at(head, 8), u64_at(head, 12)))
}

/// Appends one record.
pub(crate) fn write(entry: &Entry<'_>, salt: u64, to: &mut Vec<u8>) {
    let start = to.len();
    let flags = if entry.durable { DURABLE } else { 0 } | if entry.tracked { TRACKED } else { 0 };
    let len = u16::try_from(entry.body.len()).expect("a body has at most 60 KiB");
    to.extend_from_slice(&MARK);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&[entry.kind.number(), flags]);
    to.extend_from_slice(&entry.index.to_le_bytes());
    to.extend_from_slice(&entry.job.to_le_bytes());
    to.extend_from_slice(&entry.attempt.0.to_le_bytes());
    to.extend_from_slice(&entry.run.0);
    to.extend_from_slice(&entry.tag.seq.0.to_le_bytes());
    to.extend_from_slice(&entry.tag.outbox.0);
    to.extend_from_slice(entry.body);
    let crc = checksum(&to[start..], salt);
    to[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Of everything in a record but the checksum itself.
fn checksum(record: &[u8], salt: u64) -> u32 {
    let begun = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &record[..4]);
    crc32c::crc32c_append(begun, &record[8..])
}

/// What is found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole record, and where it begins.
    Record(usize, Entry<'a>),
    /// Bytes that are none. At the end of the file: a torn tail.
    Bad(Range<usize>),
}

/// All that is in a segment, in order. Without a whole head everything is bad.
pub(crate) fn read(bytes: &[u8]) -> Reader<'_> {
    match read_head(bytes) {
        Some((_, salt)) => Reader { bytes, at: HEAD, salt, found: None },
        None => Reader { bytes: &[], at: 0, salt: 0, found: Some(Found::Bad(0..bytes.len())) },
    }
}

/// See [`read`].
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    salt: u64,
    /// What comes next.
    found: Option<Found<'a>>,
}

impl<'a> Iterator for Reader<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if let Some(found) = self.found.take() {
            return Some(found);
        }
        let start = self.at;
        while self.at < self.bytes.len() {
            let Some(entry) = self.entry() else {
                self.at += 1;
                continue;
            };
            let at = self.at;
            self.at += RECORD_HEAD + entry.body.len();
            let record = Found::Record(at, entry);
            if at == start {
                return Some(record);
            }
            self.found = Some(record);
            return Some(Found::Bad(start..at));
        }
        (start < self.at).then_some(Found::Bad(start..self.at))
    }
}

impl<'a> Reader<'a> {
    fn entry(&self) -> Option<Entry<'a>> {
        let rest = &self.bytes[self.at..];
        if !rest.starts_with(&MARK) {
            return None;
        }
        let head = rest.get(..RECORD_HEAD)?;
        let record = rest.get(..RECORD_HEAD + usize::from(u16_at(head, 2)))?;
        let kind = Kind::numbered(head[8])?;
        if checksum(record, self.salt) != u32_at(head, 4) {
            return None;
        }
        Some(Entry {
            kind,
            durable: head[9] & DURABLE != 0,
            tracked: head[9] & TRACKED != 0,
            index: u16_at(head, 10),
            job: u32_at(head, 12),
            attempt: Attempt(u32_at(head, 16)),
            run: RunId(id_at(head, 20)),
            tag: Tag { seq: Seq(u64_at(head, 36)), outbox: OutboxId(id_at(head, 44)) },
            body: &record[RECORD_HEAD..],
        })
    }
}

/// Whose record begins at the start of `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) outbox: OutboxId,
}

/// Of a record that was found whole before.
pub(crate) fn owner(record: &[u8]) -> Owner {
    Owner {
        run: RunId(id_at(record, 20)),
        attempt: Attempt(u32_at(record, 16)),
        outbox: OutboxId(id_at(record, 44)),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u16, body: &[u8]) -> Entry<'_> {
        Entry {
            kind: Kind::Chunk,
            durable: true,
            tracked: false,
            index,
            job: 0xdead_beef,
            run: RunId([3; 16]),
            attempt: Attempt(2),
            tag: Tag { outbox: OutboxId([9; 16]), seq: Seq(1 << 40) },
            body,
        }
    }

    fn written(bodies: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_head(7, 42, &mut bytes);
        for (index, body) in (0..).zip(bodies) {
            write(&entry(index, body), 42, &mut bytes);
        }
        bytes
    }

    fn indexes(bytes: &[u8]) -> Vec<u16> {
        read(bytes)
            .filter_map(|found| match found {
                Found::Record(_, entry) => Some(entry.index),
                Found::Bad(_) => None,
            })
            .collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = written(&[b"one", b"", b"three"]);
        assert_eq!(read_head(&bytes), Some((7, 42)));
        let all: Vec<_> = read(&bytes).collect();
        assert_eq!(all[0], Found::Record(HEAD, entry(0, b"one")));
        assert_eq!(all[2], Found::Record(HEAD + 2 * RECORD_HEAD + 3, entry(2, b"three")));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_torn_tail_costs_the_last_record_only() {
        let bytes = written(&[b"one", b"two"]);
        for cut in HEAD..bytes.len() {
            let whole = (cut - HEAD) / (RECORD_HEAD + 3);
            assert_eq!(indexes(&bytes[..cut]).len(), whole, "cut at {cut}");
        }
        assert_eq!(read(&bytes[..HEAD - 1]).collect::<Vec<_>>(), [Found::Bad(0..HEAD - 1)]);
    }

    #[test]
    fn a_flipped_bit_costs_one_record_only() {
        let bytes = written(&[b"one", b"two", b"six"]);
        for bit in HEAD * 8..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(indexes(&bytes).len(), 2, "bit {bit}");
        }
    }

    #[test]
    fn a_record_inside_of_a_damaged_one_is_not_believed() {
        let mut forged = Vec::new();
        write(&entry(0, b"forged"), 41, &mut forged);
        let mut bytes = written(&[&forged, b"two"]);
        bytes[HEAD] ^= 1;
        assert_eq!(indexes(&bytes), [1]);
    }
}
