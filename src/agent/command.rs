//! Commands of the hub.

use std::sync::Arc;

use fieldpost_wire::{
    Ack, Attempt, Cancel, Command, Overlap, Query, Reason, RunId, Status as RunStatus, Trigger,
    Welcome,
};

use super::{Agent, Save, Stage, Status};
use crate::job::Kind;
use crate::journal::Record;
use crate::limits::{ACCEPTED_LATER, HEARTBEAT, RESERVED_WAITING, TEXT, WAITING};
use crate::link::Welcomed;
use crate::outbox;
use crate::push::{Answer, What};
use crate::result::cut;
use crate::run::{Origin, Run, Why};
use crate::spool::flow::of_outbox;
use crate::trigger::{Place, State};

impl Agent {
    /// Takes a command as it came.
    pub(super) fn command(&mut self, body: &[u8]) {
        let command = match Command::decode(body) {
            Ok(command) => command,
            Err(error) => {
                self.bad_commands += 1;
                log::debug!("a command of {} bytes: {error}", body.len());
                return;
            }
        };
        let boot = self.now.boot;
        match command {
            Command::Trigger(trigger) => {
                self.link.heard(boot);
                self.trigger(&trigger);
            }
            Command::Cancel(cancel) => {
                self.link.heard(boot);
                self.cancel(&cancel);
            }
            Command::Query(query) => {
                self.link.heard(boot);
                self.query(&query);
            }
            Command::Schedule(_) => {
                self.link.heard(boot);
                self.take_schedule(body);
            }
            Command::Ack(ack) => {
                self.link.heard(boot);
                self.ack(&ack);
            }
            Command::Welcome(welcome) => self.welcome(&welcome),
            Command::Beacon(beacon) => {
                self.hub_time.learn(boot, beacon.time);
                let was_up = self.link.is_up();
                self.link.beacon(boot, beacon.start);
                if was_up && !self.link.is_up() {
                    log::info!("the hub was started anew");
                    self.push.forget_answers();
                }
            }
        }
    }

    fn welcome(&mut self, welcome: &Welcome) {
        self.hub_time.learn(self.now.boot, welcome.time);
        if welcome.agent_start != self.identity.start {
            log::debug!("a welcome for another start of this node's agent");
            return;
        }
        match self.link.welcome(self.now.boot, welcome.start, self.partial_hello) {
            Welcomed::Known => {}
            Welcomed::Anew => {
                log::info!("welcomed by hub {}", welcome.hub);
                let former = self.hub.replace(welcome.hub);
                if former.is_some_and(|former| former != welcome.hub) {
                    self.leave_hub();
                }
                self.status = Some(Status::Welcomed);
                self.push.forget_answers();
                // Before what waits in the outbox: from a heartbeat the hub knows when that started. The
                // next one comes when it comes, and not from a whole fleet at once.
                self.wants_vitals = true;
                self.heartbeat_at = self.now.boot + HEARTBEAT.mul_f64(self.rng.f64());
                #[cfg(feature = "planted-bugs")]
                if self.identity.bugs.no_resend {
                    return;
                }
                self.outbox.send_all_again();
                if let Some(spool) = &mut self.spool {
                    spool.window.send_all_again();
                }
            }
        }
    }

    /// Another hub is there. Output that the one before has acked some of will be whole at neither: the
    /// rest is dropped, and its run's end says so.
    fn leave_hub(&mut self) {
        #[cfg(feature = "planted-bugs")]
        if self.identity.bugs.split_output {
            if let Some(spool) = &mut self.spool {
                spool.window.never_gives_up = true;
            }
            return;
        }
        while let Some(entry) = self.known.take_split() {
            log::warn!("the output of {} is in part at another hub; its end says so", entry.run);
            self.evict(Some(entry.serial));
            if let Some(spool) = &mut self.spool
                && spool.bytes() > 0
            {
                spool.drop_output(entry.run, entry.attempt);
                spool.look_at_all();
            }
        }
    }

    fn trigger(&mut self, trigger: &Trigger<'_>) {
        let (run, attempt, at) = (trigger.run, trigger.attempt, self.now.boot);
        if !self.link.was_ever_up() {
            return; // the hub repeats it
        }
        if self.known.find(run, attempt).is_some() {
            return self.push.answer(Answer { run, attempt, what: What::AsItIs, at });
        }
        let (what, at) = match self.accept(trigger) {
            Ok(Accepted::Waits) => (What::Accepted, at + ACCEPTED_LATER),
            Ok(Accepted::Ended) => return,
            Err((reason, detail)) => {
                log::debug!("run {run} of {} rejected: {reason:?} {detail}", trigger.job);
                // If even this finds no room, a copy finds none either, but for a moment.
                if reason == Reason::Busy
                    && self.remember(run, attempt, trigger.deadline, State::Busy).is_none()
                {
                    log::debug!("and it can't be remembered");
                }
                (What::Rejected(reason, detail), at)
            }
        };
        self.push.answer(Answer { run, attempt, what, at });
    }

    fn accept(&mut self, trigger: &Trigger<'_>) -> Result<Accepted, (Reason, Box<str>)> {
        let no = |reason, detail: &str| (reason, cut(detail, TEXT).into());
        if self.stage != Stage::Working {
            return Err(no(Reason::Stopping, ""));
        }
        if self.hub_time.is_over(self.now.boot, trigger.deadline) {
            return Err(no(Reason::Expired, ""));
        }
        let Some(job) = self.job(trigger.job).map(Arc::clone) else {
            return Err(no(Reason::UnknownJob, ""));
        };
        let pairs = trigger.args.iter().map(|arg| (arg.name, arg.value));
        let args = job.check(pairs).map_err(|bad| no(Reason::BadArgument, &bad.to_string()))?;
        if self.runs.waiting.len() >= WAITING {
            return Err(no(Reason::Busy, "too many runs wait"));
        }
        if !self.make_room(RESERVED_WAITING) || self.outbox.reserve(RESERVED_WAITING).is_err() {
            return Err(no(Reason::Busy, "the outbox is full"));
        }
        let known = self.remember(trigger.run, trigger.attempt, trigger.deadline, State::Waiting);
        let Some((place, serial)) = known else {
            self.outbox.unreserve(RESERVED_WAITING);
            return Err(no(Reason::Busy, "too many runs are known"));
        };
        self.known.set_job(place, serial, self.drops.number(&job.name));
        let run = Run {
            id: trigger.run,
            attempt: trigger.attempt,
            place,
            serial,
            timeout: job.timeout,
            job,
            args,
            origin: Origin::Trigger,
            deadline: Some(trigger.deadline),
        };
        if !trigger.origin.is_empty() {
            log::debug!("run {} of {} for {}", run.id, run.job.name, trigger.origin);
        }
        let overlap = run.job.overlap;
        Ok(self.admit(run, overlap, RESERVED_WAITING))
    }

    /// Takes a run in: it waits for its turn, or it ends at once. `reserved` is set aside for it.
    pub(super) fn admit(&mut self, run: Run, overlap: Overlap, reserved: usize) -> Accepted {
        self.journal_took(&run);
        if matches!(run.job.kind, Kind::Ping) {
            self.outbox.unreserve(reserved);
            self.end_unstarted(&run, RunStatus::Ok, "");
            return Accepted::Ended;
        }
        if overlap == Overlap::Skip && !self.runs.would_start(&run.job) {
            self.outbox.unreserve(reserved);
            self.end_unstarted(&run, RunStatus::Skipped, "another run of the job is in progress");
            return Accepted::Ended;
        }
        self.runs.waiting.push_back(run);
        Accepted::Waits
    }

    fn cancel(&mut self, cancel: &Cancel) {
        let (run, attempt, at) = (cancel.run, cancel.attempt, self.now.boot);
        let what = match self.known.find(run, attempt) {
            Some(place) => {
                self.cancel_known(place);
                What::AsItIs
            }
            None if self.hub_time.is_over(self.now.boot, cancel.deadline) => What::Cancelled,
            None => match self.remember(run, attempt, cancel.deadline, State::Tombstone) {
                Some(_) => {
                    let deadline = cancel.deadline;
                    self.journal.push(&Record::Tombstone { run, attempt, deadline });
                    What::AsItIs
                }
                // It can't be kept from starting for ever; but while the table is full it can't
                // start either. The hub asks again.
                None => return,
            },
        };
        self.push.answer(Answer { run, attempt, what, at });
    }

    fn cancel_known(&mut self, place: Place) {
        let Some(state) = self.known.get(place).map(|entry| entry.state) else { return };
        match state {
            State::Waiting => {
                let waits = self.runs.waiting.iter().position(|run| run.place == place);
                if let Some(run) = waits.and_then(|index| self.runs.waiting.remove(index)) {
                    self.outbox.unreserve(RESERVED_WAITING);
                    self.end_unstarted(&run, RunStatus::Cancelled, "cancelled before it started");
                }
            }
            State::Running(slot) => self.runs.stop(slot, Why::Cancelled, self.now.boot),
            State::Free | State::Coming | State::Settled | State::Tombstone | State::Busy => {}
        }
    }

    fn query(&mut self, query: &Query<'_>) {
        let at = self.now.boot;
        for run in query.runs.iter() {
            let latest = self.known.find_latest(run).and_then(|place| self.known.get(place));
            let answer = match latest {
                Some(entry) => Answer { run, attempt: entry.attempt, what: What::AsItIs, at },
                None => Answer { run, attempt: Attempt(0), what: What::Unknown, at },
            };
            self.push.answer(answer);
        }
    }

    fn take_schedule(&mut self, body: &[u8]) {
        if !self.schedule.replace(body, self.now, self.is_trusted()) {
            return;
        }
        log::info!("schedule {} taken up", self.schedule.version().counter);
        self.check_schedule();
        self.journal_schedule();
        self.save = Save::Running;
        // The heartbeat tells the hub.
        self.heartbeat_at = self.now.boot;
    }

    fn ack(&mut self, ack: &Ack<'_>) {
        self.acked_at = self.now.boot;
        self.acks.came(self.now.boot);
        self.ack_spooled(ack);
        if ack.outbox != self.outbox.id() {
            return;
        }
        let Self { outbox, known, journal, delivered, spool, acks, .. } = self;
        let mut tracked = Vec::<outbox::Owner>::new();
        for range in ack.ranges.iter() {
            outbox.release(range, acks, |kind, owner, spot| {
                if let (Some(spool), Some(spot)) = (spool.as_mut(), spot) {
                    spool.release(spot, of_outbox(kind));
                }
                if kind == outbox::Kind::Chunk {
                    known.output_acked(Place(owner.known), owner.serial);
                }
                if kind == outbox::Kind::Finished
                    && let Some(entry) = known.get(Place(owner.known)).copied()
                    && entry.serial == owner.serial
                {
                    known.set(Place(owner.known), owner.serial, State::Settled);
                    journal.push(&Record::Settled { run: entry.run, attempt: entry.attempt });
                    if let Some(spool) = spool {
                        spool.settle(entry.run, entry.attempt);
                        spool.forget_dropped(entry.run, entry.attempt);
                    }
                }
                if owner.tracked && !tracked.contains(&owner) {
                    tracked.push(owner);
                }
            });
        }
        for owner in tracked {
            if !outbox.holds(owner.serial)
                && let Some(entry) = known.get(Place(owner.known))
                && entry.serial == owner.serial
                && entry.state == State::Settled
            {
                delivered.push_back((entry.run, entry.attempt));
            }
        }
    }

    /// Acks of what was read back from the spool.
    fn ack_spooled(&mut self, ack: &Ack<'_>) {
        let Self { spool: Some(spool), known, journal, delivered, acks, .. } = self else { return };
        for range in ack.ranges.iter() {
            spool.acked(ack.outbox, range, acks, |acked| {
                let (run, attempt) = (acked.run, acked.attempt);
                let place = known.find(run, attempt);
                let serial = place.and_then(|place| known.get(place)).map(|entry| entry.serial);
                if acked.kind == crate::spool::segment::Kind::Chunk
                    && let (Some(place), Some(serial)) = (place, serial)
                {
                    known.output_acked(place, serial);
                }
                if acked.kind != crate::spool::segment::Kind::Finished {
                    return;
                }
                if let (Some(place), Some(serial)) = (place, serial) {
                    known.set(place, serial, State::Settled);
                }
                // The journal may still tell of a run that is not known any more, and whose only
                // copy on disk goes now: the next start would call it lost.
                journal.push(&Record::Settled { run, attempt });
                // The hub acks the end of a run only when it has all of its output.
                if acked.tracked {
                    delivered.push_back((run, attempt));
                }
            });
        }
    }

    /// Adds a run to the known ones; `None` if there is no room.
    pub(super) fn remember(
        &mut self,
        run: RunId,
        attempt: Attempt,
        deadline: fieldpost_wire::UnixMillis,
        state: State,
    ) -> Option<(Place, u32)> {
        let (hub_time, boot) = (self.hub_time, self.now.boot);
        let is_over = |deadline| hub_time.is_out_of_reach(boot, deadline);
        self.known.insert(run, attempt, deadline, state, is_over).ok()
    }
}

/// What became of a run that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    Waits,
    Ended,
}
