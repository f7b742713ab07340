//! The course of a run: its turn comes, it leaves output, it ends.

use std::sync::Arc;
use std::time::Duration;

use fieldpost_wire::{
    Attempt, BootId, Exit, Finished, Missed, Output as OutputReport, Overlap, Report, RunId,
    Status as RunStatus, UnixMillis, limits::STDERR_TAIL,
};

use super::{Agent, Save, Slot, Stage, Usage, WhenFull};
use crate::job::{Args, Job, Kind};
use crate::journal::{Record, Took, Upto};
use crate::limits::{
    ACCEPTED_LATER, ACK_PATIENCE, CHUNK_RECORD, RESERVED_RUNNING, RESERVED_WAITING, TEXT, WAITING,
};
use crate::outbox::{self, Full, Owner};
use crate::push::{Answer, What};
use crate::resend::millis;
use crate::result::cut;
use crate::run::{Origin, Run, Started, Why};
use crate::schedule::{Due, Orders};
use crate::spool::Spool;
use crate::spool::flow::of_outbox;
use crate::trigger::{Place, State};

/// How a run ended.
struct End<'a> {
    status: RunStatus,
    exit: Exit,
    usage: Usage,
    note: &'a str,
}

impl Agent {
    /// Starts what waits, as far as there are slots and room.
    pub(super) fn start_waiting(&mut self) {
        while let Some(index) = self.runs.next_startable() {
            let more = RESERVED_RUNNING - RESERVED_WAITING;
            if !self.make_room(more) || self.outbox.reserve(more).is_err() {
                return; // acks will make room
            }
            let started = self.started_now();
            let Some(slot) = self.runs.start(index, started) else { return };
            if let Some(active) = self.runs.active(slot) {
                let run = &active.run;
                log::debug!("run {} of {} starts", run.id, run.job.name);
                self.known.set(run.place, run.serial, State::Running(slot));
                let (run, attempt) = (run.id, run.attempt);
                let is_triggered = matches!(active.run.origin, Origin::Trigger);
                if is_triggered && !self.push.is_to_answer(run, attempt) {
                    // The hub was told that it waits.
                    let at = self.now.boot + ACCEPTED_LATER;
                    self.push.answer(Answer { run, attempt, what: What::Accepted, at });
                }
            }
        }
    }

    /// Ends triggered runs whose deadline passed while they waited.
    pub(super) fn expire_waiting(&mut self) {
        let (hub_time, boot) = (self.hub_time, self.now.boot);
        let is_over =
            move |run: &Run| run.deadline.is_some_and(|deadline| hub_time.is_over(boot, deadline));
        while let Some(index) = self.runs.waiting.iter().position(is_over) {
            let Some(run) = self.runs.waiting.remove(index) else { return };
            self.outbox.unreserve(RESERVED_WAITING);
            self.end_unstarted(&run, RunStatus::Rejected, "its deadline passed while it waited");
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let expiry = |run: &Run| self.hub_time.boot_of(run.deadline?);
        self.runs.waiting.iter().filter_map(expiry).min()
    }

    /// Ends what waits: the agent stops.
    pub(super) fn reject_waiting(&mut self) {
        while let Some(run) = self.runs.waiting.pop_front() {
            self.outbox.unreserve(RESERVED_WAITING);
            self.end_unstarted(&run, RunStatus::Rejected, "the agent was stopped while it waited");
        }
    }

    /// Runs what the schedule says is due.
    pub(super) fn run_schedule(&mut self) {
        let trusted = self.is_trusted();
        let time = if self.now.synchronised {
            Some(self.now.wall)
        } else {
            self.hub_time.at(self.now.boot)
        };
        self.schedule.learn_time(self.now, time);
        let mut ran_cron = false;
        while let Some(due) = self.schedule.next_due(self.now, trusted) {
            match due {
                Due::Run { index, due, boot_ms, late } => {
                    self.run_entry(index, due, boot_ms, late);
                }
                Due::Missed { index, from, to, count } => {
                    self.report_missed(index, from, to, count)
                }
            }
            let (Due::Run { index, .. } | Due::Missed { index, .. }) = due;
            if let Some((entry, upto)) = self.schedule.upto(index) {
                let schedule = self.schedule.version();
                ran_cron |= matches!(upto, Upto::Cron { .. });
                self.journal.push(&Record::Done { schedule, entry, upto });
            }
        }
        // With `always` a power cut must not make the last due time run again.
        if ran_cron && self.spool.as_ref().is_some_and(Spool::keeps_accepted) {
            self.save = Save::Running;
        }
    }

    fn run_entry(&mut self, index: usize, due: UnixMillis, boot_ms: Option<u64>, late: bool) {
        let Some(entry) = self.schedule.entry(index) else { return };
        let orders = Orders::of(&entry);
        let Ok(name) = entry.id.parse() else { return };
        let Ok(job_name) = entry.job.parse::<fieldpost_wire::Name>() else { return };
        let node = &self.settings.node;
        let id = match boot_ms {
            Some(boot_ms) => RunId::of_interval(due, node, &name, &self.boot_id, boot_ms),
            None => RunId::scheduled(due, node, &name),
        };
        let attempt = Attempt::FIRST;
        let job = self.job(entry.job).map(Arc::clone);
        let pairs = entry.args.iter().map(|arg| (arg.name, arg.value));
        let (job, args, wrong) = match job {
            None => (no_job(job_name), Args::default(), Some("the node has no such job".into())),
            Some(job) => match job.check(pairs) {
                Ok(args) => (job, args, None),
                Err(bad) => (job, Args::default(), Some(bad.to_string())),
            },
        };
        if self.known.find(id, attempt).is_some() {
            return;
        }
        let place = self.remember(id, attempt, UnixMillis(0), State::Waiting);
        let (place, serial) = place.unwrap_or_else(|| (Place::NONE, self.known.next_serial()));
        let timeout = orders.timeout.unwrap_or(job.timeout);
        let origin = Origin::Entry { entry: name, due };
        let run = Run { id, attempt, place, serial, job, args, origin, deadline: None, timeout };
        if let Some(wrong) = wrong {
            self.drops.number(&run.job.name);
            self.journal_took(&run);
            return self.end_unstarted(&run, RunStatus::Rejected, &wrong);
        }
        let full = self.runs.waiting.len() >= WAITING;
        let has_room = !full && self.make_room(RESERVED_WAITING);
        if !has_room || self.outbox.reserve(RESERVED_WAITING).is_err() {
            self.journal_took(&run);
            let note = if full { "too many runs wait" } else { "the outbox is full" };
            return self.end_unstarted(&run, RunStatus::Skipped, note);
        }
        // What is caught up with comes one after the other, whatever the entry says of overlaps.
        let overlap = if late { Overlap::Queue } else { orders.overlap };
        self.admit(run, overlap, RESERVED_WAITING);
    }

    fn report_missed(&mut self, index: usize, from: UnixMillis, to: UnixMillis, count: u64) {
        let Some(entry) = self.schedule.entry(index) else { return };
        let job = self.drops.known_number(entry.job);
        let missed = Missed { entry: entry.id, from, to, count };
        let owner = Owner { serial: 0, known: Place::NONE.0, job, tracked: false, durable: false };
        let mut appended = self.outbox.append(&Report::Missed(missed), owner, outbox::Kind::Missed);
        if appended == Err(Full) && self.make_room(RESERVED_WAITING) {
            let Some(entry) = self.schedule.entry(index) else { return };
            let missed = Missed { entry: entry.id, from, to, count };
            appended = self.outbox.append(&Report::Missed(missed), owner, outbox::Kind::Missed);
        }
        if appended == Err(Full) {
            self.drops.add(job, 1);
        }
    }

    pub(super) fn started(&mut self, slot: Slot, pid: u32, start_ticks: u64) {
        let Some(active) = self.runs.room(slot).and_then(|room| room.active.as_mut()) else {
            return;
        };
        active.process = Some((pid, start_ticks));
        let (run, attempt) = (active.run.id, active.run.attempt);
        self.journal.push(&Record::Started { run, attempt, pid, start_ticks });
    }

    pub(super) fn not_started(&mut self, slot: Slot, error: &str) {
        let end = End {
            status: RunStatus::Failed,
            exit: Exit::None,
            usage: Usage::default(),
            note: error,
        };
        self.end(slot, end);
    }

    pub(super) fn ended(&mut self, slot: Slot, exit: Exit, usage: Usage, note: &str) {
        let Some(active) = self.runs.active(slot) else { return };
        let status = match (active.why, exit) {
            (Some(Why::TimedOut), _) => RunStatus::TimedOut,
            (Some(Why::Cancelled | Why::Stopping), _) => RunStatus::Cancelled,
            (None, Exit::None | Exit::Code(0)) => RunStatus::Ok,
            (None, Exit::Code(_)) => RunStatus::Failed,
            (None, Exit::Signal(_)) => RunStatus::Signalled,
        };
        let stopped = active.why == Some(Why::Stopping) && note.is_empty();
        let note = if stopped { "the agent was stopped" } else { note };
        self.end(slot, End { status, exit, usage, note });
    }

    /// Output of a run.
    pub(super) fn stdout(&mut self, slot: Slot, mut bytes: &[u8]) {
        loop {
            let now = self.now.boot;
            let Some(room) = self.runs.room(slot) else { return };
            let Some(active) = &room.active else { return };
            bytes = room.stream.take(now, bytes, active.run.job.max_output);
            if room.stream.is_full() && !self.flush(slot) {
                // Only if more was read than we asked for: nothing else keeps the bound.
                self.drop_output_of(slot);
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Sends the chunk in the making as it is. `false`: there is no room, and it is to wait.
    fn flush(&mut self, slot: Slot) -> bool {
        loop {
            let Some(room) = self.runs.room(slot) else { return true };
            let Some(active) = &room.active else { return true };
            if room.stream.chunk().is_empty() {
                return true;
            }
            let owner = owner(&active.run, &self.drops);
            let report = Report::Output(OutputReport {
                run: active.run.id,
                attempt: active.run.attempt,
                index: room.stream.chunks,
                bytes: room.stream.chunk(),
            });
            if self.outbox.append(&report, owner, outbox::Kind::Chunk).is_ok() {
                room.stream.flushed();
                return true;
            }
            if self.is_away() && self.spool_takes_output() {
                self.let_go(CHUNK_RECORD);
                if self.outbox.free() < CHUNK_RECORD {
                    return false; // the spool will make room
                }
                continue;
            }
            // If that drops this very output, the chunk is gone and the loop ends.
            if !self.make_room(CHUNK_RECORD) {
                if !self.is_away() {
                    return false;
                }
                self.drop_output_of(slot);
                return true;
            }
        }
    }

    /// Chunks that waited long enough to be filled go.
    pub(super) fn flush_aged(&mut self) {
        for slot in self.runs.slots() {
            let Some(room) = self.runs.room(slot) else { continue };
            let is_read = room.active.as_ref().is_some_and(|active| active.is_read());
            if is_read && room.stream.flush_at().is_some_and(|at| self.now.boot >= at) {
                self.flush(slot);
            }
        }
        self.balance();
    }

    pub(super) fn next_flush(&self) -> Option<Duration> {
        let reading = self.runs.in_progress().filter(|(_, active)| active.is_read());
        reading.filter_map(|(slot, _)| self.runs.flush_at(slot)).min()
    }

    /// Keeps room for a chunk of each run whose output is read: where there is none, reading
    /// stops, and goes on when a good part of the outbox is free again. While the hub is away the
    /// spool makes room; where that can't, nothing stops, and the drop policy makes room.
    pub(super) fn balance(&mut self) {
        let now = self.now.boot;
        let up = !self.is_away() || self.spool_takes_output();
        let mut reading = self.runs.in_progress().filter(|(_, active)| active.is_read()).count();
        for slot in self.runs.slots() {
            let Some(active) = self.runs.active(slot) else { continue };
            if active.is_read() {
                if up && self.outbox.free() < reading * CHUNK_RECORD {
                    self.runs.read(slot, false, now);
                    reading -= 1;
                }
            } else {
                let wanted = (reading + 1) * CHUNK_RECORD + self.outbox.size() / 4;
                if !up || self.outbox.len() == 0 || self.outbox.free() >= wanted {
                    self.runs.read(slot, true, now);
                    reading += 1;
                }
            }
        }
    }

    fn end(&mut self, slot: Slot, end: End<'_>) {
        let Some(active) = self.runs.active(slot) else { return };
        let has_process = active.process.is_some();
        let (id, attempt) = (active.run.id, active.run.attempt);
        self.outbox.unreserve(RESERVED_RUNNING);
        self.flush(slot);
        let now = self.now.boot;
        let Some((active, room)) = self.runs.end(slot) else { return };
        let (run, started) = (&active.run, active.started);
        log::debug!("run {} of {} ended: {:?}", run.id, run.job.name, end.status);
        let owner = owner(run, &self.drops);
        let duration = now.saturating_sub(started.boot);
        let stream = &room.stream;
        let mut stderr = [0; STDERR_TAIL];
        let tail = room.tail.bytes();
        stderr[..tail.len()].copy_from_slice(tail);
        let finished = Finished {
            run: run.id,
            attempt: run.attempt,
            job: &run.job.name,
            cause: run.origin.cause(),
            status: end.status,
            exit: end.exit,
            started: started.wall,
            boot: started.boot_id,
            started_boot_ms: millis(started.boot),
            clock: started.clock,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            chunks: stream.chunks,
            bytes: stream.bytes,
            crc32c: stream.crc32c,
            stderr: &stderr[..tail.len()],
            note: cut(end.note, TEXT),
            peak_rss_kib: end.usage.peak_rss_kib,
            cpu_us: end.usage.cpu_us,
            truncated: stream.truncated,
            output_dropped: stream.dropped
                || self.spool.as_ref().is_some_and(|spool| spool.is_dropped(id, attempt)),
        };
        if has_process {
            self.journal.push(&Record::Ended { run: id, attempt });
        }
        self.append_finished(&finished, owner);
    }

    /// Reports the end of a run that never started, or that a built-in job did in no time.
    pub(super) fn end_unstarted(&mut self, run: &Run, status: RunStatus, note: &str) {
        let started = self.started_now();
        let finished = unstarted(run, status, note, started);
        self.append_finished(&finished, owner(run, &self.drops));
    }

    pub(super) fn append_finished(&mut self, finished: &Finished<'_>, owner: Owner) {
        let report = Report::Finished(*finished);
        let place = Place(owner.known);
        self.known.set(place, owner.serial, State::Coming);
        let mut appended = self.outbox.append(&report, owner, outbox::Kind::Finished);
        while appended == Err(Full) && self.make_room(self.outbox.free() + RESERVED_WAITING) {
            appended = self.outbox.append(&report, owner, outbox::Kind::Finished);
        }
        if appended == Err(Full) {
            self.drops.add(owner.job, 1);
            self.forget_end(owner);
        }
    }

    /// The end of this run is dropped from memory, and is not on disk.
    fn forget_end(&mut self, owner: Owner) {
        let place = Place(owner.known);
        self.known.set(place, owner.serial, State::Settled);
        let Some(entry) = self.known.get(place).filter(|entry| entry.serial == owner.serial) else {
            return;
        };
        // As long as it may be triggered again the disk knows it, too.
        let boot = self.now.boot;
        if self.hub_time.is_out_of_reach(boot, entry.deadline)
            && let Some(spool) = &mut self.spool
        {
            spool.settle(entry.run, entry.attempt);
        }
    }

    /// Whether nobody can be expected to make room in the outbox: no hub is there, or one that
    /// does not ack (its store fails), or this agent has to end.
    pub(super) fn is_away(&self) -> bool {
        let boot = self.now.boot;
        self.link.is_away()
            || boot >= self.acked_at + ACK_PATIENCE
            || matches!(self.stage, Stage::Stopping { until } if boot >= until)
    }

    /// When a run whose output waits for acks is not to wait any longer.
    pub(super) fn next_impatience(&self) -> Option<Duration> {
        let waits = self.runs.in_progress().any(|(_, active)| !active.is_read());
        (waits && !self.is_away()).then_some(self.acked_at + ACK_PATIENCE)
    }

    /// Makes room in the outbox for so many bytes, while the hub is away, as the drop policy says.
    /// While it is there acks make room. Says whether there is room.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        while self.outbox.free() < bytes {
            if !self.is_away() {
                return false;
            }
            self.let_go(bytes);
            if self.outbox.free() >= bytes {
                return true;
            }
            if self.settings.when_full == WhenFull::RefuseNew {
                return false;
            }
            if self.outbox.has_output() {
                self.evict(None);
            } else if let Some((kind, owner, spot)) = self.outbox.evict_oldest() {
                self.drops.add(owner.job, 1);
                if let (Some(spool), Some(spot)) = (&mut self.spool, spot) {
                    spool.release(spot, of_outbox(kind));
                }
                if kind == outbox::Kind::Finished {
                    self.forget_end(owner);
                }
            } else {
                return false;
            }
        }
        true
    }

    fn drop_output_of(&mut self, slot: Slot) {
        let Some(active) = self.runs.active(slot) else { return };
        let owner = owner(&active.run, &self.drops);
        self.drops.add(owner.job, 1);
        if !self.evict(Some(owner.serial)) {
            self.mark_dropped(owner);
        }
    }

    /// No more output of this run is wanted.
    pub(super) fn stop_output(&mut self, serial: u32) {
        let slot = self.runs.in_progress().find(|(_, active)| active.run.serial == serial);
        if let Some(slot) = slot.map(|(slot, _)| slot)
            && let Some(room) = self.runs.room(slot)
        {
            room.stream.drop_all();
        }
    }

    pub(super) fn journal_took(&mut self, run: &Run) {
        let took = took(run, self.started_now());
        self.journal.push(&Record::Took(took));
        if let Some(spool) = self.spool.as_mut().filter(|spool| spool.keeps_accepted()) {
            let record = crate::journal::written(&Record::Took(took));
            spool.take(run.id, run.attempt, run.job.durable, record);
        }
    }

    pub(super) fn started_now(&self) -> Started {
        Started {
            boot: self.now.boot,
            boot_id: BootId::of(self.boot_id),
            wall: self.now.wall,
            clock: self.clock(),
        }
    }
}

/// What stands in for a job that the node does not have, in the report that says so.
fn no_job(name: fieldpost_wire::Name) -> Arc<Job> {
    Arc::new(Job {
        name,
        kind: Kind::Ping,
        args: Vec::new(),
        timeout: Duration::ZERO,
        max_output: 0,
        concurrency: 1,
        overlap: Overlap::Queue,
        on_restart: crate::job::OnRestart::Lost,
        durable: false,
    })
}

pub(super) fn unstarted<'a>(
    run: &'a Run,
    status: RunStatus,
    note: &'a str,
    started: Started,
) -> Finished<'a> {
    Finished {
        run: run.id,
        attempt: run.attempt,
        job: &run.job.name,
        cause: run.origin.cause(),
        status,
        exit: Exit::None,
        started: started.wall,
        boot: started.boot_id,
        started_boot_ms: millis(started.boot),
        clock: started.clock,
        duration_us: 0,
        chunks: 0,
        bytes: 0,
        crc32c: 0,
        stderr: b"",
        note: cut(note, TEXT),
        peak_rss_kib: 0,
        cpu_us: 0,
        truncated: false,
        output_dropped: false,
    }
}

pub(super) fn took(run: &Run, at: Started) -> Took<'_> {
    Took {
        run: run.id,
        attempt: run.attempt,
        deadline: run.deadline.unwrap_or(UnixMillis(0)),
        job: &run.job.name,
        cause: run.origin.cause(),
        wall: at.wall,
        boot_ms: millis(at.boot),
        boot: at.boot_id,
    }
}

fn owner(run: &Run, drops: &crate::heartbeat::DropCounts) -> Owner {
    Owner {
        serial: run.serial,
        known: run.place.0,
        job: drops.known_number(&run.job.name),
        tracked: matches!(run.job.kind, Kind::File { .. }),
        durable: run.job.durable,
    }
}
