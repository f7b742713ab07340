//! What a run leaves while it goes: chunks of output, a checksum, the tail of its standard error.

use std::time::Duration;

use crate::limits::{CHUNK, CHUNK_AGE, STDERR_TAIL};

/// The output of one run, being cut into chunks.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The chunk in the making. Its memory is used again by the next run.
    chunk: Vec<u8>,
    /// When the first byte of it came.
    since: Option<Duration>,
    /// Chunks that are in the outbox, or were.
    pub(crate) chunks: u32,
    /// Bytes in these.
    pub(crate) bytes: u64,
    /// CRC-32C of these.
    pub(crate) crc32c: u32,
    /// Bytes taken, with those in the making.
    taken: u64,
    /// Beyond the job's bound something was thrown away.
    pub(crate) truncated: bool,
    /// The output was dropped; what comes is thrown away.
    pub(crate) dropped: bool,
}

impl Stream {
    /// Takes what fits of `bytes` into the chunk in the making, and gives the rest: then the chunk
    /// is full and has to be [`Stream::flushed`] first. Bytes beyond `max_output` are thrown away.
    pub(crate) fn take<'b>(&mut self, now: Duration, bytes: &'b [u8], max_output: u64) -> &'b [u8] {
        if self.dropped {
            return &[];
        }
        let left = usize::try_from(max_output.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let wanted = if bytes.len() > left {
            self.truncated = true;
            &bytes[..left]
        } else {
            bytes
        };
        let (now_in, rest) = wanted.split_at(wanted.len().min(CHUNK - self.chunk.len()));
        if !now_in.is_empty() {
            self.since.get_or_insert(now);
            self.chunk.reserve_exact(if self.chunk.capacity() == 0 { CHUNK } else { 0 });
            self.chunk.extend_from_slice(now_in);
            self.taken += now_in.len() as u64;
        }
        rest
    }

    /// The chunk in the making; its index is [`Stream::chunks`].
    pub(crate) fn chunk(&self) -> &[u8] {
        &self.chunk
    }

    /// Whether the chunk can't take more.
    pub(crate) fn is_full(&self) -> bool {
        self.chunk.len() == CHUNK
    }

    /// When the chunk has to go as it is.
    pub(crate) fn flush_at(&self) -> Option<Duration> {
        self.since.map(|since| since + CHUNK_AGE)
    }

    /// The chunk is in the outbox.
    pub(crate) fn flushed(&mut self) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.chunk);
        self.bytes += self.chunk.len() as u64;
        self.chunks += 1;
        self.chunk.clear();
        self.since = None;
    }

    /// The outbox dropped the output, and no more of it is wanted. The counts stay what they
    /// were: they say how much there would be.
    pub(crate) fn drop_all(&mut self) {
        self.dropped = true;
        self.chunk.clear();
        self.since = None;
    }

    /// Begins anew, for the slot's next run.
    pub(crate) fn reset(&mut self) {
        self.chunk.clear();
        *self = Self { chunk: std::mem::take(&mut self.chunk), ..Self::default() };
    }
}

/// The last bytes of a run's standard error.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// A ring once it is full; `start` is its oldest byte.
    ring: Vec<u8>,
    start: usize,
}

impl Tail {
    /// Adds `bytes`; the oldest go where there is no room.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.ring.capacity() == 0 {
            self.ring.reserve_exact(STDERR_TAIL);
        }
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_TAIL)..];
        let (fits, over) = bytes.split_at(bytes.len().min(STDERR_TAIL - self.ring.len()));
        self.ring.extend_from_slice(fits);
        let (to_end, to_start) = over.split_at(over.len().min(STDERR_TAIL - self.start));
        self.ring[self.start..self.start + to_end.len()].copy_from_slice(to_end);
        self.ring[..to_start.len()].copy_from_slice(to_start);
        self.start = (self.start + over.len()) % STDERR_TAIL;
    }

    /// The bytes in order.
    pub(crate) fn bytes(&mut self) -> &[u8] {
        self.ring.rotate_left(self.start);
        self.start = 0;
        &self.ring
    }

    /// Begins anew, for the slot's next run.
    pub(crate) fn reset(&mut self) {
        self.ring.clear();
        self.start = 0;
    }
}

/// The start of `text` that has at most `most` bytes and ends at a character.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1);

    /// Feeds `bytes` and flushes whenever a chunk is full; gives the chunks' lengths.
    fn feed(stream: &mut Stream, mut bytes: &[u8], max: u64) -> Vec<usize> {
        let mut chunks = Vec::new();
        loop {
            bytes = stream.take(T, bytes, max);
            if stream.is_full() {
                chunks.push(stream.chunk().len());
                stream.flushed();
            }
            if bytes.is_empty() {
                return chunks;
            }
        }
    }

    #[test]
    fn output_is_cut_into_full_chunks_with_one_checksum() {
        let bytes: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
        let mut stream = Stream::default();
        let chunks: Vec<usize> =
            bytes.chunks(1000).flat_map(|piece| feed(&mut stream, piece, u64::MAX)).collect();
        assert_eq!(chunks, [CHUNK, CHUNK]);
        assert_eq!(stream.flush_at(), Some(T + CHUNK_AGE));
        stream.flushed();
        assert_eq!((stream.chunks, stream.bytes), (3, 40_000));
        assert_eq!(stream.crc32c, crc32c::crc32c(&bytes));
        assert_eq!(stream.flush_at(), None);
    }

    #[test]
    fn beyond_max_output_it_is_thrown_away_and_said() {
        let mut stream = Stream::default();
        feed(&mut stream, &[0; 10], 10);
        assert!(!stream.truncated);
        feed(&mut stream, &[0; 1], 10);
        assert!(stream.truncated);
        assert_eq!(stream.chunk().len(), 10);
        let mut stream = Stream::default();
        assert_eq!(feed(&mut stream, &[0; CHUNK + 5], CHUNK as u64), [CHUNK]);
        assert!(stream.truncated && stream.chunk().is_empty());
    }

    #[test]
    fn dropped_output_takes_no_more() {
        let mut stream = Stream::default();
        feed(&mut stream, &[0; 10], 100);
        stream.drop_all();
        assert!(feed(&mut stream, &[0; CHUNK], 1 << 20).is_empty());
        assert!(stream.chunk().is_empty() && stream.dropped);
        stream.reset();
        assert!(!stream.dropped);
    }

    #[test]
    fn the_tail_holds_the_last_bytes_in_order() {
        let all: Vec<u8> = (0..20_000u32).map(|n| (n / 7) as u8).collect();
        for piece in [1, 7, 1000, STDERR_TAIL, STDERR_TAIL + 1, 9000] {
            for len in [0, 1, STDERR_TAIL - 1, STDERR_TAIL, STDERR_TAIL + 1, 20_000] {
                let mut tail = Tail::default();
                all[..len].chunks(piece).for_each(|bytes| tail.push(bytes));
                assert_eq!(tail.bytes(), &all[len.saturating_sub(STDERR_TAIL)..len]);
                tail.push(b"!");
                assert_eq!(tail.bytes().last(), Some(&b'!'));
            }
        }
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("aß", 2), "a");
        assert_eq!(cut("aß", 3), "aß");
        assert_eq!(cut("", 0), "");
    }
}
