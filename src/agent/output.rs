//! What comes out of the core, in its order.

use fieldpost_wire::{BootId, Reason, Report, RunState, State as StateReport};

use super::spooling::storage_trouble;
use super::{Agent, Output, Save, Stage, Status};
use crate::heartbeat::{Introduction, Pulse};
use crate::link::Sockets;
use crate::push::{Answer, Offered, What};
use crate::resend::millis;
use crate::spool::Spool;
use crate::trigger::State;

impl Agent {
    /// The next thing to be done, until `None`.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        if self.stage == Stage::Gone {
            return None;
        }
        // Before the journal forgets them.
        if let Some((pid, start_ticks)) = self.leftovers.pop() {
            return Some(Output::KillLeftover { pid, start_ticks });
        }
        if self.journal.has_output() {
            return self.journal.poll().map(|(replaces, bytes)| {
                if replaces { Output::ReplaceJournal(bytes) } else { Output::AppendJournal(bytes) }
            });
        }
        // Before anything that must not happen unless it is on disk.
        if self.prepare_spool() {
            return self.spool.as_ref().and_then(Spool::work).map(Output::Spool);
        }
        if self.save != Save::No {
            self.schedule.save(self.save == Save::Clean, &mut self.file);
            self.save = Save::No;
            if !self.file.is_empty() {
                return Some(Output::SaveSchedule(&self.file));
            }
        }
        self.file = Vec::new();
        if let Some(sockets) = self.link.poll_sockets() {
            self.push.writable();
            return Some(match sockets {
                Sockets::Connect { hub, key } => Output::Connect { hub, key },
                Sockets::Disconnect => Output::Disconnect,
            });
        }
        if let Some(output) = self.runs.poll() {
            return Some(output);
        }
        if let Some((run, attempt)) = self.delivered.pop_front() {
            return Some(Output::Delivered { run, attempt });
        }
        if !std::mem::replace(&mut self.ready, true) {
            return Some(Output::Ready);
        }
        if let Some(status) = self.status.take() {
            return Some(Output::Status(match status {
                Status::Connecting => "connecting to the hub",
                Status::Welcomed => "connected to the hub",
                Status::Silent => "the hub is silent; trying again",
                Status::Stopping => "stopping: runs may end, results are sent",
            }));
        }
        if std::mem::take(&mut self.wants_vitals) {
            return Some(Output::WantVitals);
        }
        if let Some((offered, len)) = self.next_report() {
            self.offered_len = len;
            self.push.offer(offered, len);
            return match offered {
                Offered::Record(seq) => self.outbox.body(seq).map(Output::Send),
                Offered::Spooled(spot) => {
                    self.spool.as_ref().and_then(|spool| spool.window.body(spot)).map(Output::Send)
                }
                Offered::Hello | Offered::Answer | Offered::Heartbeat => {
                    Some(Output::Send(self.push.encoded(len)))
                }
            };
        }
        if self.stage == Stage::Exiting {
            self.stage = Stage::Gone;
            return Some(Output::Exit);
        }
        None
    }

    /// Prepares the next report, and gives its length.
    fn next_report(&mut self) -> Option<(Offered, usize)> {
        if !self.push.is_free() || !self.link.is_connected() {
            return None;
        }
        if self.link.wants_hello(self.now.boot) {
            return self.prepare_hello();
        }
        if !self.link.is_up() || !self.push.has_room() {
            return None;
        }
        if let Some(len) = self.prepare_answer() {
            return Some((Offered::Answer, len));
        }
        if let Some(len) = self.prepare_heartbeat() {
            return Some((Offered::Heartbeat, len));
        }
        #[cfg(feature = "planted-bugs")]
        if self.identity.bugs.no_resend && self.outbox.next_deadline() <= Some(self.now.boot) {
            self.outbox.give_up_resending();
        }
        // What is live first, then what waited on disk.
        if let Some(seq) = self.outbox.next(self.now.boot, &self.acks)
            && self.spool.as_ref().is_none_or(|spool| spool.may_send(seq))
        {
            self.give_up_output(seq);
            let len = self.outbox.body(seq)?.len();
            return Some((Offered::Record(seq), len));
        }
        let spool = self.spool.as_mut()?;
        let spot = spool.next(self.now.boot, &self.acks)?;
        let len = spool.window.body(spot)?.len();
        Some((Offered::Spooled(spot), len))
    }

    fn prepare_hello(&mut self) -> Option<(Offered, usize)> {
        let introduction = Introduction {
            settings: &self.settings,
            jobs: &self.jobs,
            start: self.identity.start,
            outbox: self.identity.outbox,
            spooled: self.spool.as_ref().map_or(&[], Spool::outboxes),
            schedule: self.schedule.version(),
        };
        let (lists, body) = self.push.scratch();
        match introduction.encode(self.link.is_up(), lists, body) {
            Ok((len, partial)) => {
                self.partial_hello = partial;
                Some((Offered::Hello, len))
            }
            Err(error) => {
                log::error!("no Hello can be said: {error}");
                self.link.said_hello(self.now.boot, &mut self.rng);
                None
            }
        }
    }

    /// Writes the next answer that is worth giving.
    fn prepare_answer(&mut self) -> Option<usize> {
        loop {
            if !self.push.turn_to_answer(self.now.boot) {
                return None;
            }
            let answer = self.push.next_answer()?;
            let (run, attempt) = (answer.run, answer.attempt);
            let Some(state) = self.state_for(answer) else {
                self.push.drop_answer();
                continue;
            };
            // Of an answer that holds a text, the text is in the queue while we encode: so it is
            // encoded from a copy.
            let mut detail = heapless::String::<256>::new();
            let state = match state {
                RunState::Rejected { reason, detail: text } => {
                    // Cut to 256 B when it was made.
                    if detail.push_str(text).is_err() {
                        detail.clear();
                    }
                    RunState::Rejected { reason, detail: &detail }
                }
                RunState::Accepted { longest_ms } => RunState::Accepted { longest_ms },
                RunState::Running { longest_ms } => RunState::Running { longest_ms },
                RunState::Coming => RunState::Coming,
                RunState::Unknown => RunState::Unknown,
                RunState::Cancelled => RunState::Cancelled,
            };
            let report = Report::State(StateReport { run, attempt, state });
            match report.encode(None, self.push.scratch().1) {
                Ok(body) => return Some(body.len()),
                Err(error) => {
                    log::error!("a State can't be encoded: {error}");
                    self.push.drop_answer();
                }
            }
        }
    }

    /// What an answer says now; `None` if it needs not be given any more.
    fn state_for<'a>(&'a self, answer: &'a Answer) -> Option<RunState<'a>> {
        let first = match &answer.what {
            What::Rejected(reason, detail) => {
                return Some(RunState::Rejected { reason: *reason, detail });
            }
            What::Unknown => return Some(RunState::Unknown),
            What::Cancelled => return Some(RunState::Cancelled),
            What::Accepted => true,
            What::AsItIs => false,
        };
        let place = self.known.find(answer.run, answer.attempt);
        let Some(entry) = place.and_then(|place| self.known.get(place)) else {
            return (!first).then_some(RunState::Unknown);
        };
        match entry.state {
            State::Free => None,
            State::Waiting => Some(RunState::Accepted { longest_ms: self.longest_waiting(answer) }),
            State::Running(slot) => {
                let longest = self.runs.longest(slot, self.now.boot);
                Some(RunState::Running { longest_ms: millis(longest) })
            }
            // What is acked is not on its way any more. A hub that asks for it after its deadline went back
            // to a backup, and would wait for ever.
            State::Settled if !first && self.hub_time.is_over(self.now.boot, entry.deadline) => {
                Some(RunState::Unknown)
            }
            State::Coming | State::Settled => (!first).then_some(RunState::Coming),
            State::Tombstone => Some(RunState::Cancelled),
            State::Busy => {
                Some(RunState::Rejected { reason: Reason::Busy, detail: "it had no room for it" })
            }
        }
    }

    /// The longest time that a waiting run can still take: it starts before its deadline, or not.
    fn longest_waiting(&self, answer: &Answer) -> u64 {
        let is_it = |run: &&crate::run::Run| run.id == answer.run && run.attempt == answer.attempt;
        let Some(run) = self.runs.waiting.iter().find(is_it) else { return 0 };
        let wait = run.deadline.and_then(|deadline| self.hub_time.boot_of(deadline));
        let wait = wait.map_or(std::time::Duration::ZERO, |at| at.saturating_sub(self.now.boot));
        millis(wait + self.runs.longest_from_start(run))
    }

    fn prepare_heartbeat(&mut self) -> Option<usize> {
        let vitals = self.push.vitals?;
        let pulse = Pulse {
            boot: BootId::of(self.boot_id),
            boot_ms: millis(self.now.boot),
            vitals,
            schedule: &self.schedule,
            running: self.runs.in_progress().count(),
            queued: self.runs.waiting.len(),
            outbox_records: self.outbox.len(),
            outbox_bytes: self.outbox.bytes(),
            spool_bytes: self.spool.as_ref().map_or(0, Spool::bytes),
            drops: &self.drops,
            sent_bytes: self.push.sent_bytes,
            bad_commands: self.bad_commands,
            storage: storage_trouble(&self.storage, self.spool.as_ref()),
            clock: self.clock(),
        };
        let (lists, body) = self.push.scratch();
        match pulse.encode(lists, body) {
            Ok(len) => Some(len),
            Err(error) => {
                log::error!("a Heartbeat can't be encoded: {error}");
                self.push.vitals = None;
                None
            }
        }
    }
}
