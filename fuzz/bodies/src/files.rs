//! The files that an agent starts from: whatever is in them, it starts.

use std::time::Duration;

use fieldpost_agent::agent::Restored;

use crate::agent::Bench;

/// The schedule's file.
pub fn schedule_file(data: &[u8]) {
    lives(Restored { schedule: Some(data), ..Restored::default() });
}

/// The journal's file.
pub fn journal_file(data: &[u8]) {
    lives(Restored { journal: data, ..Restored::default() });
}

/// The agent starts, lives, and starts again from what it wrote in place of what was damaged.
fn lives(restored: Restored<'_>) {
    let mut bench = Bench::start(restored);
    bench.pass(Duration::from_secs(86_400), 500);
    bench.kill();
    bench.pass(Duration::from_secs(600), 500);
    bench.settle();
}
