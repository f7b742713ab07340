//! The agent's core: everything it decides, and nothing that touches the world.
//!
//! One input in, outputs drained until none, then wait until the deadline. The core opens no file,
//! starts no program, reads no clock; the same inputs at the same times give the same outputs. Who
//! drives it (the event loop, or the simulated world) only moves bytes:
//!
//! ```ignore
//! let mut agent = Agent::new(settings, restored, identity, now);
//! loop {
//!     while let Some(output) = agent.poll_output() {
//!         // Send: answer `Sent` or `Refused` before the next `poll_output`.
//!         perform(output);
//!     }
//!     wait_until(agent.next_deadline());
//!     agent.handle(now(), input);
//! }
//! ```
//!
//! Outputs come in the order in which they have to be done: what must be in the journal is
//! appended before the run that it tells of starts.
//!
//! The walk of a run through the core: `command` takes a trigger, `course` makes a run of it and
//! takes what it leaves, `output` sends that home. `restore` picks up what an earlier start left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fieldpost_wire::{Attempt, Clock, HubId, RunId, UnixMillis};

pub use crate::door::*;
use crate::heartbeat::DropCounts;
use crate::hub_time::HubTime;
use crate::job::Job;
use crate::journal::Journal;
use crate::limits::{CLOCK_AGREES_MS, HEARTBEAT, JOBS, STOP_PATIENCE, TEXT};
use crate::link::Link;
use crate::outbox::Outbox;
use crate::push::{Offered, Push};
use crate::resend::Acks;
use crate::result::cut;
use crate::run::{Runs, Why};
use crate::schedule::Schedule;
use crate::spool::Spool;
use crate::trigger::KnownRuns;

mod command;
mod course;
mod output;
mod restore;
mod spooling;
#[cfg(test)]
mod tests;

/// The agent's core.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    identity: Identity,
    jobs: Vec<Arc<Job>>,
    now: Now,
    rng: fastrand::Rng,
    hub_time: HubTime,
    link: Link,
    known: KnownRuns,
    runs: Runs,
    outbox: Outbox,
    spool: Option<Spool>,
    push: Push,
    journal: Journal,
    schedule: Schedule,
    save: Save,
    boot_id: [u8; 16],
    /// The bytes of the schedule's file, while they are handed out.
    file: Vec<u8>,
    heartbeat_at: Duration,
    /// The hub that welcomed us last.
    hub: Option<HubId>,
    /// When the hub acked last, or nothing was there to ack.
    acked_at: Duration,
    acks: Acks,
    wants_vitals: bool,
    drops: DropCounts,
    bad_commands: u64,
    storage: String,
    /// Processes of an earlier start, to be killed.
    leftovers: Vec<(u32, u64)>,
    /// Runs whose cursors may move.
    delivered: VecDeque<(RunId, Attempt)>,
    stage: Stage,
    status: Option<Status>,
    ready: bool,
    /// How long the report is that was offered last.
    offered_len: usize,
    /// Whether the last `Hello` said was partial.
    partial_hello: bool,
}

/// How far the agent is with stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// Runs in progress may end until then.
    Draining {
        until: Duration,
    },
    /// They are being stopped, and from then on don't wait for room in the outbox.
    Stopping {
        until: Duration,
    },
    /// What is in the outbox may be acked until then.
    Emptying {
        until: Duration,
    },
    /// It is to end.
    Exiting,
    Gone,
}

/// Whether the schedule's file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    No,
    Running,
    Clean,
}

/// What is told to the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Connecting,
    Welcomed,
    Silent,
    Stopping,
}

impl Agent {
    /// Takes one input. Outputs may follow.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.now = now;
        if self.outbox.len() == 0 || !self.link.is_up() {
            self.acked_at = now.boot;
        }
        match input {
            Input::Command(body) => self.command(body),
            Input::Sent => self.sent(),
            Input::Refused => self.refused(),
            Input::Writable => {
                if self.push.writable() {
                    self.link.hello_now(now.boot);
                }
            }
            Input::Started { slot, pid, start_ticks } => self.started(slot, pid, start_ticks),
            Input::NotStarted { slot, error } => self.not_started(slot, error),
            Input::Stdout { slot, bytes } => self.stdout(slot, bytes),
            Input::Stderr { slot, bytes } => {
                if let Some(room) = self.runs.room(slot) {
                    room.tail.push(bytes);
                }
            }
            Input::Ended { slot, exit, usage, note } => self.ended(slot, exit, usage, note),
            Input::Vitals(vitals) => self.push.vitals = Some(vitals),
            Input::Reloaded(reload) => self.reload(*reload),
            Input::Stop => self.stop(),
            Input::Storage(wrong) => {
                if !self.storage.is_empty() {
                    // If it was the journal: what it did not take is in it from now on.
                    self.rewrite_journal();
                }
                self.storage.clear();
                self.storage.push_str(cut(wrong, TEXT));
            }
            Input::Spooled(done) => self.spooled(done),
            Input::Tick => {}
        }
        self.turn();
    }

    /// When to give the next [`Input::Tick`] at the latest, on the boot clock; `None`: no need.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let up = self.link.is_up();
        let stage = match self.stage {
            Stage::Working => None,
            Stage::Stopping { until } => (self.now.boot < until).then_some(until),
            Stage::Draining { until } | Stage::Emptying { until } => Some(until),
            Stage::Exiting | Stage::Gone => return None,
        };
        let working = self.stage == Stage::Working;
        [
            Some(self.link.next_deadline()),
            stage,
            self.runs.next_deadline(),
            self.next_flush(),
            self.next_impatience(),
            self.push.next_deadline().filter(|_| up && self.push.has_room()),
            self.next_expiry(),
            self.schedule.next_deadline(self.now, self.is_trusted()).filter(|_| working),
            self.outbox.next_deadline().filter(|_| up && self.push.has_room()),
            self.spool.as_ref().and_then(|spool| spool.next_deadline(&self.outbox)),
            self.spool
                .as_ref()
                .and_then(|spool| spool.window.next_deadline())
                .filter(|_| up && self.push.has_room()),
            up.then_some(self.heartbeat_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The run in a slot, from its [`Output::Start`] on; `None` for a free slot.
    #[must_use]
    pub fn launch(&self, slot: Slot) -> Option<Launch<'_>> {
        let run = &self.runs.active(slot)?.run;
        Some(Launch {
            job: &run.job,
            args: &run.args,
            run: run.id,
            attempt: run.attempt,
            cause: run.origin.cause(),
            node: &self.settings.node,
        })
    }

    /// What has come about, by time or by the last input.
    fn turn(&mut self) {
        let boot = self.now.boot;
        let was_up = self.link.is_up();
        self.link.advance(boot, &mut self.rng);
        if was_up && !self.link.is_up() {
            self.status = Some(Status::Silent);
            self.push.forget_answers();
        }
        self.runs.advance(boot);
        if self.stage == Stage::Working {
            self.expire_waiting();
            self.run_schedule();
            self.start_waiting();
        }
        if let Some(spool) = &mut self.spool {
            spool.learn_age(boot, &self.outbox);
            if self.link.is_away() {
                spool.close_window();
            }
        }
        if self.spool.as_mut().is_some_and(Spool::lost_ends) {
            self.tell_lost_ends();
        }
        self.relieve();
        self.flush_aged();
        self.balance();
        self.advance_stage();
        if self.link.is_up() && boot >= self.heartbeat_at {
            self.wants_vitals = true;
            self.heartbeat_at = boot + HEARTBEAT;
            if self.stage == Stage::Working && self.storage.starts_with("the schedule") {
                self.save = Save::Running;
            }
        }
        if self.journal.wants_replacing() {
            self.rewrite_journal();
        }
    }

    fn sent(&mut self) {
        match self.push.sent() {
            None => log::debug!("a Sent without a Send"),
            Some(Offered::Hello) => self.link.said_hello(self.now.boot, &mut self.rng),
            Some(Offered::Answer) => self.push.drop_answer(),
            Some(Offered::Heartbeat) => self.push.vitals = None,
            Some(Offered::Record(seq)) => self.outbox.sent(seq, self.now.boot, &self.acks),
            Some(Offered::Spooled(spot)) => {
                if let Some(spool) = &mut self.spool {
                    spool.window.sent(spot, self.now.boot, &self.acks);
                }
            }
        }
    }

    fn refused(&mut self) {
        if self.push.refused(self.offered_len) == Some(Offered::Hello) {
            // It comes again when there is room, or when its time has come.
            self.link.said_hello(self.now.boot, &mut self.rng);
        }
    }

    fn reload(&mut self, reload: Reload) {
        self.settings.groups = reload.groups;
        self.take_jobs(reload.jobs);
        self.link.say_hello_again(self.now.boot);
    }

    fn take_jobs(&mut self, jobs: Vec<Job>) {
        self.jobs = jobs.into_iter().take(JOBS).map(Arc::new).collect();
        for job in &self.jobs {
            self.drops.number(&job.name);
        }
        self.check_schedule();
    }

    fn check_schedule(&mut self) {
        let jobs = &self.jobs;
        self.schedule.check(|name| jobs.iter().find(|job| &*job.name == name).map(Arc::as_ref));
    }

    fn job(&self, name: &str) -> Option<&Arc<Job>> {
        self.jobs.iter().find(|job| &*job.name == name)
    }

    fn stop(&mut self) {
        if self.stage != Stage::Working {
            return;
        }
        self.stage = Stage::Draining { until: self.now.boot + self.settings.drain };
        self.status = Some(Status::Stopping);
        self.reject_waiting();
    }

    fn advance_stage(&mut self) {
        let boot = self.now.boot;
        let idle = self.runs.in_progress().next().is_none();
        match self.stage {
            Stage::Working | Stage::Exiting | Stage::Gone => {}
            Stage::Draining { .. } | Stage::Stopping { .. } if idle => {
                self.stage = Stage::Emptying { until: boot + self.settings.drain };
                self.advance_stage();
            }
            Stage::Draining { until } if boot >= until => {
                for slot in self.runs.slots() {
                    self.runs.stop(slot, Why::Stopping, boot);
                }
                self.stage = Stage::Stopping { until: boot + self.settings.grace + STOP_PATIENCE };
            }
            Stage::Draining { .. } | Stage::Stopping { .. } => {}
            Stage::Emptying { until } => {
                // With a spool nothing is gained by waiting for a hub that is away.
                let kept = self.is_away() && self.spool.as_ref().is_some_and(Spool::is_well);
                if self.outbox.len() == 0 || kept || boot >= until {
                    self.save = Save::Clean;
                    self.stage = Stage::Exiting;
                }
            }
        }
    }

    /// Whether the wall clock is believed: the kernel says so, or the hub's time agrees.
    fn is_trusted(&self) -> bool {
        let agrees = |hub: UnixMillis| hub.0.abs_diff(self.now.wall.0) <= CLOCK_AGREES_MS;
        self.now.synchronised || self.hub_time.at(self.now.boot).is_some_and(agrees)
    }

    fn clock(&self) -> Clock {
        if self.is_trusted() { Clock::Trusted } else { Clock::Untrusted }
    }
}
