//! Logs to stderr: with the time for people, with priorities for the journal (sd-daemon(3)).

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter};

/// Starts logging. `RUST_LOG` says how much (`info` without it).
pub fn start() {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    builder.parse_default_env();
    builder.format(move |out, record| {
        if journal {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            return writeln!(out, "<{priority}>{}", record.args());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (s, ms) = (since.as_secs(), since.subsec_millis());
        let (hours, minutes, seconds) = (s / 3600 % 24, s / 60 % 60, s % 60);
        let level = record.level();
        writeln!(out, "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z {level:5} {}", record.args())
    });
    // A second start, in tests, changes nothing.
    if builder.try_init().is_err() {
        log::debug!("logging had started already");
    }
}
