//! Every bound of the agent, with its reason, and what happens when it is reached.
//!
//! RAM at the bounds, with the default outbox of 1 MiB and 4 runs at once:
//!
//! | what | bytes |
//! |---|---|
//! | outbox: arena 1 MiB, records 8,192 × 48 B | 1,408 KiB |
//! | known runs: 16,384 × 40 B, index 64 KiB | 704 KiB |
//! | runs in progress: 4 × (chunk 16 KiB + stderr 4 KiB + arguments 2 KiB) | 88 KiB |
//! | runs waiting: 64 × (0.2 KiB + arguments 2 KiB) | 141 KiB |
//! | schedule: body 60 KiB, 64 entries × 0.5 KiB | 92 KiB |
//! | journal: being written 64 KiB | 64 KiB |
//! | answers 128 × (64 B + detail 256 B), scratch 2 × 60 KiB | 160 KiB |
//! | spool: a write 128 KiB, the window 6 × 128 KiB, the index 2 bits a record, a segment being read 128 KiB | 1.3 MiB |
//! | I/O: what programs write, what built-in jobs write, their JSON (16 KiB each), a stack for starting programs | 80 KiB |
//!
//! All of it is untouched, and so takes no memory, until there is that much to hold; what was
//! used once is used again from its lowest address on.

use std::time::Duration;

pub use fieldpost_wire::limits::{ARGS, BODY, CHUNK, ENTRIES, GROUPS, JOBS, STDERR_TAIL, TEXT};

/// Most runs in progress at once: a small device has few cores, and each run holds a chunk.
/// Further ones wait.
pub const RUNNING: usize = 16;

/// Most runs that wait for their turn. Further triggers are `rejected(busy)`, further scheduled
/// runs are `skipped`.
pub const WAITING: usize = 64;

/// Most runs whose ids are known: those in progress, and those whose deadline has not passed.
/// At a time to live of 60 s that is 270 triggers a second. Further ones are `rejected(busy)`.
pub const KNOWN_RUNS: usize = 16_384;

/// Longest piece of standard output the core takes at once: a chunk. Longer ones are the caller's
/// mistake; what is beyond is cut into pieces, whether or not there is room.
pub const READ: usize = CHUNK;

/// How long a chunk in the making waits to be filled before it goes as it is: live enough for a
/// person who watches, rare enough for a program that writes a line at a time.
pub const CHUNK_AGE: Duration = Duration::from_millis(200);

/// Least memory of an outbox: two chunks and a result.
pub const OUTBOX_LEAST: usize = 64 * 1024;

/// Most memory of an outbox: offsets are 32 bits wide, and a device has little more.
pub const OUTBOX_MOST: usize = 256 * 1024 * 1024;

/// Bytes an outbox has for each record it can hold: the smallest reports (a `Finished` of a
/// built-in job) are a little shorter, so that bytes run out before records do or soon after.
pub const OUTBOX_RECORD: usize = 128;

/// Longest record of a chunk: header 28 B, run 20 B, index and lengths 8 B, and the chunk.
pub const CHUNK_RECORD: usize = CHUNK + 64;

/// Longest `Finished` of a run without standard error: header 28 B, ids 20 B, three names of
/// 63 B, a note of 256 B, numbers.
pub const FINISHED_RECORD: usize = 640;

/// Room that is kept for a run from its acceptance on, so that its end is always told.
pub const RESERVED_WAITING: usize = FINISHED_RECORD;

/// Room that is kept for a run in progress: its last chunk and its end with the tail of stderr.
pub const RESERVED_RUNNING: usize = CHUNK_RECORD + FINISHED_RECORD + STDERR_TAIL;

/// How long the word that a run was accepted waits: of a short program its result is word enough,
/// and is not held up by another message. The hub repeats a trigger after a second.
pub const ACCEPTED_LATER: Duration = Duration::from_millis(10);

/// Most answers (`State`) that wait for the socket. Further ones are not given: the hub asks
/// again.
pub const ANSWERS: usize = 128;

/// The journal is written anew when it has grown by this much, and to more than twice what is
/// needed.
pub const JOURNAL_GROWTH: usize = 64 * 1024;

/// Processes of an earlier start that are looked for at start: as many as can have run.
pub const LEFTOVERS: usize = RUNNING;

/// First wait for a `Welcome`, doubled (with jitter) up to [`BACKOFF_MOST`].
pub const HELLO_FIRST: Duration = Duration::from_secs(1);

/// Longest wait between attempts to reach a hub, before jitter.
pub const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// Without a word for so long a hub that was there is silent: three beacons missed.
pub const SILENCE: Duration = Duration::from_secs(90);

/// Without a `Welcome` for so long after connecting, the connection is made anew. Longer than a
/// handshake on a poor link.
pub const NO_WELCOME: Duration = Duration::from_secs(20);

/// So many connections in a row without a `Welcome`, and the next server key or hub is tried.
pub const TRIES: u32 = 3;

/// How often a heartbeat goes.
pub const HEARTBEAT: Duration = Duration::from_secs(60);

/// An unacked report goes again after this long; twice, four, eight times as long the next times.
pub const RESEND: Duration = Duration::from_secs(10);

/// Most doublings of [`RESEND`].
pub const RESEND_DOUBLINGS: u8 = 3;

/// A hub that is there and acks nothing for so long does not make room in the outbox: its store
/// fails. Long enough for one that is only slow, short enough for a program that waits to write.
pub const ACK_PATIENCE: Duration = Duration::from_secs(120);

/// So much longer than their grace runs that are being stopped may wait for room in the outbox.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How far the wall clock may be from the hub's time to be trusted: more than a slow link's
/// delay, less than what cron would notice.
pub const CLOCK_AGREES_MS: u64 = 5_000;

/// A due time that is handled so late still counts as run on time: a busy machine, or a clock
/// that was set by a little.
pub const ON_TIME_MS: u64 = 30_000;

/// Due times further back are not looked for: a year and a day.
pub const CATCH_UP_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// Most bytes of one of the spool's segments: what is freed at once, and what a damaged file costs
/// at most.
pub const SEGMENT: usize = 128 * 1024;

/// Most records of a segment: as many as small reports fill it with.
pub const SEGMENT_RECORDS: usize = 1024;

/// Segments that are read back at once: enough that the next are under way while the hub commits
/// the last.
pub const WINDOW_SEGMENTS: usize = 6;

/// Segments that wait to be synced, besides the one that is written: 2 MiB, which a slow card takes in
/// a fifth of a second.
pub const UNSYNCED_SEGMENTS: usize = 15;

/// A report that is unacked for so long goes to disk (`spill`): what it promises is 2 s, and
/// reports of a tenth of a second count as of one age.
pub const SPILL_AFTER: Duration = Duration::from_millis(1_900);

/// What was written to the spool is synced within this time (`spill`): the promise is 5 s.
pub const SYNC_AFTER: Duration = Duration::from_millis(4_500);

/// A disk that failed is tried again after this long.
pub const SPOOL_RETRY: Duration = Duration::from_secs(60);

/// Runs whose output was dropped while their end is to come: four times as many as can be in
/// progress. Beyond it the oldest is forgotten.
pub const DROPPED_RUNS: usize = 4 * RUNNING;

/// Runs that are known from the spool at start: the newest, besides those in the journal. Half of
/// the table of known runs; the other half is for new ones.
pub const SPOOLED_RUNS: usize = KNOWN_RUNS / 2;

/// How many runs at once an outbox of so many bytes has room for: each needs its reserve and a
/// chunk being written, in half of the outbox; the other half is for what is not acked yet.
#[must_use]
pub const fn most_running(outbox_bytes: usize) -> usize {
    let most = outbox_bytes / 2 / (RESERVED_RUNNING + CHUNK_RECORD);
    match most {
        0 => 1,
        1..=RUNNING => most,
        _ => RUNNING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outbox_has_room_for_a_run() {
        const { assert!(OUTBOX_LEAST >= RESERVED_RUNNING + CHUNK_RECORD) };
        assert_eq!(most_running(OUTBOX_LEAST), 1);
        assert_eq!(most_running(1024 * 1024), 13);
        assert_eq!(most_running(OUTBOX_MOST), RUNNING);
    }
}
