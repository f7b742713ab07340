//! Rows of answers and events.

use std::borrow::Cow;

use fieldpost_wire::{Cause, Clock, Exit, Finished, Report, RunId, UnixMillis};
use serde::Serialize;

use crate::store::{Outcome, ResultRecord, Source};

/// A result, for answers and for events.
#[derive(Debug, Serialize)]
pub struct ResultRow<'a> {
    /// Its place in the order of results; not in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The run.
    pub run_id: RunId,
    /// The node.
    pub node: &'a str,
    /// Which execution.
    pub attempt: u32,
    /// The job.
    pub job: &'a str,
    /// How it ended.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    started_ms: u64,
    /// When it started, by the hub's clock.
    pub started_corrected_ms: Option<u64>,
    duration_us: u64,
    chunks: u32,
    bytes: u64,
    crc32c: u32,
    stderr: Cow<'a, str>,
    note: &'a str,
    peak_rss_kib: u64,
    cpu_us: u64,
    truncated: bool,
    output_dropped: bool,
    clock: &'static str,
    cause: CauseRow<'a>,
    received_ms: u64,
    inferred: bool,
    /// It replaces an inference of the hub.
    pub revised: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum CauseRow<'a> {
    Trigger { trigger: RunId },
    Entry { entry: &'a str, due_ms: u64 },
}

impl<'a> ResultRow<'a> {
    /// From a node's report, or the hub's own.
    #[must_use]
    pub fn new(
        node: &'a str,
        finished: &Finished<'a>,
        outcome: Outcome,
        source: Source,
        received: UnixMillis,
    ) -> Self {
        let (exit_code, signal) = match finished.exit {
            Exit::None => (None, None),
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        Self {
            offset: None,
            run_id: finished.run,
            node,
            attempt: finished.attempt.0,
            job: finished.job,
            status: outcome.word(),
            exit_code,
            signal,
            started_ms: finished.started.0,
            started_corrected_ms: None,
            duration_us: finished.duration_us,
            chunks: finished.chunks,
            bytes: finished.bytes,
            crc32c: finished.crc32c,
            stderr: String::from_utf8_lossy(finished.stderr),
            note: finished.note,
            peak_rss_kib: finished.peak_rss_kib,
            cpu_us: finished.cpu_us,
            truncated: finished.truncated,
            output_dropped: finished.output_dropped,
            clock: match finished.clock {
                Clock::Trusted => "trusted",
                Clock::Untrusted => "untrusted",
            },
            cause: match finished.cause {
                Cause::Trigger => CauseRow::Trigger { trigger: finished.run },
                Cause::Entry { entry, due } => CauseRow::Entry { entry, due_ms: due.0 },
            },
            received_ms: received.0,
            inferred: source == Source::Hub
                && matches!(outcome, Outcome::Lost | Outcome::Expired | Outcome::Cancelled),
            revised: false,
        }
    }
}

impl ResultRow<'_> {
    /// How many chunks of output it has.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        self.chunks
    }

    /// Whether its output was dropped on the node.
    #[must_use]
    pub fn output_dropped(&self) -> bool {
        self.output_dropped
    }
}

/// A stored result; `None` where its body is of a version that this one can't read.
#[must_use]
pub fn result_row<'a>(record: &'a ResultRecord, node: &'a str) -> Option<ResultRow<'a>> {
    let Ok((_, Report::Finished(finished))) = Report::decode(&record.body) else {
        return None;
    };
    let mut row = ResultRow::new(node, &finished, record.outcome, record.source, record.received);
    row.offset = Some(record.offset);
    row.revised = record.revised;
    row.started_corrected_ms = record.corrected.map(|time| time.0);
    Some(row)
}

/// How a run stands on a node without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The node did not answer yet.
    Waiting,
    /// It waits for its turn there.
    Accepted,
    /// It is in progress.
    Running,
    /// It has ended; its result is on its way.
    Coming,
    /// It is told to stop.
    Cancelling,
}
