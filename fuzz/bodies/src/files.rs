//! The files that an agent starts from: whatever is in them, it starts.

use std::time::Duration;

use fieldpost_agent::agent::Restored;

use crate::agent::{Bench, Disk};
use crate::bytes::Bytes;

/// The schedule's file.
pub fn schedule_file(data: &[u8]) {
    lives(Restored { schedule: Some(data), ..Restored::default() });
}

/// The journal's file.
pub fn journal_file(data: &[u8]) {
    lives(Restored { journal: data, ..Restored::default() });
}

/// Up to four segments of a spool, each behind two bytes that say how long it is.
pub fn spool_segment(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut disk = Disk::default();
    for number in 1..5 {
        let length = usize::from(bytes.short());
        disk.files.insert(number, bytes.take(length).to_vec());
    }
    live(Bench::spooling(disk));
}

/// The agent starts, lives, and starts again from what it wrote in place of what was damaged.
fn lives(restored: Restored<'_>) {
    live(Bench::start(restored));
}

fn live(mut bench: Bench) {
    bench.pass(Duration::from_secs(86_400), 500);
    bench.kill();
    bench.pass(Duration::from_secs(600), 500);
    bench.settle();
}
