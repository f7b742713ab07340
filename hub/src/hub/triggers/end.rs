//! How a run ends on a node: by its own word, or by what the hub writes down.

use fieldpost_wire::{
    Attempt, BootId, Clock, Exit, Finished, Report, RunId, Status, UnixMillis, limits,
};

use super::{State, Triggers};
use crate::hub::Context;
use crate::hub::events::{About, emit};
use crate::protocol::ResultRow;
use crate::store::{Change, NodeId, Outcome, Record, Source};

impl Triggers {
    /// The hub writes down what became of a run.
    pub(super) fn conclude(
        &mut self,
        cx: &mut Context<'_>,
        run: RunId,
        node: NodeId,
        outcome: Outcome,
        note: &str,
    ) {
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let Some(target) = trigger.target(node) else { return };
        let attempt = target.attempt;
        let note = clip(note, limits::TEXT);
        let finished = hub_word(run, attempt, &trigger.record.job, outcome, note);
        let received = cx.time.time();
        let mut room = [0; 1024];
        let body = Report::Finished(finished)
            .encode(None, &mut room)
            .expect("a name and a short note fit");
        let batch = &mut cx.pipeline.batch;
        let (job, body) = (batch.put(&[trigger.record.job.as_bytes()]), batch.put(&[body]));
        let source = Source::Hub;
        batch.record(Record::Result {
            run,
            node,
            attempt,
            source,
            outcome,
            received,
            corrected: None,
            job,
            body,
            chunked: false,
        });
        let name = &cx.nodes.get(node).record.name;
        let about = About { run: Some(run), node: Some(name), job: Some(&trigger.record.job) };
        let row = ResultRow::new(name, &finished, outcome, source, received);
        emit(cx.outputs, cx.watches, about, "result", &row);
        cx.counters.inferred += 1;
        *cx.fresh_results = true;
        self.settle(cx, run, node, outcome, source);
    }

    /// A run is over on a node.
    pub(super) fn settle(
        &mut self,
        cx: &mut Context<'_>,
        run: RunId,
        node: NodeId,
        outcome: Outcome,
        source: Source,
    ) {
        let Some(trigger) = self.map.get_mut(&run) else { return };
        let Some(target) = trigger.target(node) else { return };
        target.state = State::Final(outcome, source);
        trigger.tally.add(outcome, source);
        trigger.open -= 1;
        let open = &mut cx.nodes.get_mut(node).open;
        if let Some(at) = open.iter().rposition(|other| *other == run) {
            open.swap_remove(at);
        }
        if trigger.open > 0 {
            return;
        }
        cx.pipeline.change(Change::Closed { run, tally: trigger.tally });
        cx.closed.push(run);
        self.open -= 1;
        if let Some(trigger) = self.map.remove(&run) {
            self.standing.add(&trigger);
        }
    }
}

/// A result that the hub writes down.
fn hub_word<'a>(
    run: RunId,
    attempt: u32,
    job: &'a str,
    outcome: Outcome,
    note: &'a str,
) -> Finished<'a> {
    Finished {
        run,
        attempt: Attempt(attempt),
        job,
        cause: fieldpost_wire::Cause::Trigger,
        // The store's own word counts; the wire has none for `expired`.
        status: match outcome {
            Outcome::Rejected => Status::Rejected,
            Outcome::Cancelled => Status::Cancelled,
            _ => Status::Lost,
        },
        exit: Exit::None,
        started: UnixMillis(0),
        boot: BootId::UNKNOWN,
        started_boot_ms: 0,
        clock: Clock::Trusted,
        duration_us: 0,
        chunks: 0,
        bytes: 0,
        crc32c: 0,
        stderr: &[],
        note,
        peak_rss_kib: 0,
        cpu_us: 0,
        truncated: false,
        output_dropped: false,
    }
}

fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(super) fn reason_word(reason: fieldpost_wire::Reason) -> &'static str {
    use fieldpost_wire::Reason;
    match reason {
        Reason::UnknownJob => "unknown job",
        Reason::BadArgument => "bad argument",
        Reason::Busy => "busy",
        Reason::Expired => "past its deadline",
        Reason::Stopping => "the agent was stopping",
    }
}
