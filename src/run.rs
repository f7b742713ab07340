//! Runs: those that wait for their turn, and those in progress, each in its slot.
//!
//! ```text
//! waiting ─▶ Starting ─▶ Going ─▶ (free)
//!                          │ time over, cancelled, agent stopping
//!                          ▼
//!                     Terminating ─ grace ─▶ Killing ─▶ (free)
//! ```
//!
//! How long a run may take does not count the time in which its output was stopped by
//! back-pressure: then the program waited for us.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fieldpost_wire::{Attempt, BootId, Cause, Clock, Name, RunId, UnixMillis};

use crate::door::{Output, Signal, Slot};
use crate::job::{Args, Job};
use crate::limits::WAITING;
use crate::result::{Stream, Tail};
use crate::trigger::Place;

/// A run that was accepted.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) place: Place,
    pub(crate) serial: u32,
    pub(crate) job: Arc<Job>,
    pub(crate) args: Args,
    pub(crate) origin: Origin,
    /// Not to be started after this, in hub time.
    pub(crate) deadline: Option<UnixMillis>,
    pub(crate) timeout: Duration,
}

/// What caused a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Trigger,
    Entry { entry: Name, due: UnixMillis },
}

impl Origin {
    pub(crate) fn cause(&self) -> Cause<'_> {
        match self {
            Self::Trigger => Cause::Trigger,
            Self::Entry { entry, due } => Cause::Entry { entry, due: *due },
        }
    }
}

/// A run in progress.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) run: Run,
    pub(crate) started: Started,
    pub(crate) process: Option<(u32, u64)>,
    phase: Phase,
    /// Why we stop it, if we do.
    pub(crate) why: Option<Why>,
    reading: Reading,
    /// For how long its output was stopped, up to now or to when that began.
    stopped: Duration,
}

/// When a run started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) boot: Duration,
    pub(crate) boot_id: BootId,
    pub(crate) wall: UnixMillis,
    pub(crate) clock: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Going,
    Terminating { kill_at: Duration },
    Killing { again_at: Duration },
}

/// Why a run is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    TimedOut,
    Cancelled,
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Off { since: Duration },
}

/// One slot: what is used again by each of its runs, and the run in it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) active: Option<Active>,
    pub(crate) stream: Stream,
    pub(crate) tail: Tail,
    to_do: ToDo,
}

#[derive(Debug, Default, Clone, Copy)]
struct ToDo {
    start: bool,
    reading: bool,
    signal: Option<Signal>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(crate) waiting: VecDeque<Run>,
    rooms: Vec<Room>,
    grace: Duration,
    /// Whether any room has something to do.
    stirred: bool,
}

impl Runs {
    /// No runs, and so many slots.
    pub(crate) fn new(slots: usize, grace: Duration) -> Self {
        Self {
            waiting: VecDeque::with_capacity(WAITING),
            rooms: (0..slots).map(|_| Room::default()).collect(),
            grace,
            stirred: false,
        }
    }

    /// The first waiting run whose job may start another, if there is a free slot.
    pub(crate) fn next_startable(&self) -> Option<usize> {
        self.free_slot()?;
        self.waiting.iter().position(|run| !self.is_at_limit(&run.job))
    }

    /// Moves a waiting run into a slot. The caller has seen that there is one.
    pub(crate) fn start(&mut self, index: usize, started: Started) -> Option<Slot> {
        let slot = self.free_slot()?;
        let run = self.waiting.remove(index)?;
        let room = &mut self.rooms[slot.index()];
        room.stream.reset();
        room.tail.reset();
        room.to_do = ToDo { start: true, ..ToDo::default() };
        room.active = Some(Active {
            run,
            started,
            process: None,
            phase: Phase::Starting,
            why: None,
            reading: Reading::On,
            stopped: Duration::ZERO,
        });
        self.stirred = true;
        Some(slot)
    }

    /// Begins to stop a run. The first reason stays.
    pub(crate) fn stop(&mut self, slot: Slot, why: Why, now: Duration) {
        let grace = self.grace;
        let room = &mut self.rooms[slot.index()];
        let Some(active) = &mut room.active else { return };
        match active.phase {
            Phase::Starting | Phase::Going => {
                active.why = Some(why);
                active.phase = Phase::Terminating { kill_at: now + grace };
                room.to_do.signal = Some(Signal::Terminate);
                self.stirred = true;
            }
            Phase::Terminating { .. } | Phase::Killing { .. } => {}
        }
    }

    /// Stops or resumes the reading of a run's output.
    pub(crate) fn read(&mut self, slot: Slot, read: bool, now: Duration) {
        let room = &mut self.rooms[slot.index()];
        let Some(active) = &mut room.active else { return };
        active.reading = match (active.reading, read) {
            (Reading::On, false) => Reading::Off { since: now },
            (Reading::Off { since }, true) => {
                active.stopped += now.saturating_sub(since);
                Reading::On
            }
            (Reading::On, true) | (Reading::Off { .. }, false) => return,
        };
        room.to_do.reading = true;
        self.stirred = true;
    }

    /// What time brings about: runs whose time is over are stopped, those that don't stop killed.
    pub(crate) fn advance(&mut self, now: Duration) {
        for index in 0..self.rooms.len() {
            let grace = self.grace;
            let room = &mut self.rooms[index];
            let Some(active) = &mut room.active else { continue };
            match active.phase {
                Phase::Starting | Phase::Going => {
                    if active.over_at().is_some_and(|at| now >= at) {
                        self.stop(Slot(index as u8), Why::TimedOut, now); // RUNNING fits
                    }
                }
                Phase::Terminating { kill_at: at } | Phase::Killing { again_at: at } => {
                    if now >= at {
                        active.phase = Phase::Killing { again_at: now + grace };
                        room.to_do.signal = Some(Signal::Kill);
                        self.stirred = true;
                    }
                }
            }
        }
    }

    /// When time will bring something about.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let deadline = |active: &Active| match active.phase {
            Phase::Starting | Phase::Going => active.over_at(),
            Phase::Terminating { kill_at: at } | Phase::Killing { again_at: at } => Some(at),
        };
        self.rooms.iter().filter_map(|room| room.active.as_ref().and_then(deadline)).min()
    }

    /// What is to be done about a run next.
    pub(crate) fn poll(&mut self) -> Option<Output<'static>> {
        if !self.stirred {
            return None;
        }
        for (index, room) in self.rooms.iter_mut().enumerate() {
            let slot = Slot(index as u8); // RUNNING fits
            let Some(active) = &mut room.active else { continue };
            if std::mem::take(&mut room.to_do.start) {
                if active.phase == Phase::Starting {
                    active.phase = Phase::Going;
                }
                return Some(Output::Start { slot });
            }
            if let Some(signal) = room.to_do.signal.take() {
                return Some(Output::Signal { slot, signal });
            }
            if std::mem::take(&mut room.to_do.reading) {
                let read = active.reading == Reading::On;
                return Some(Output::ReadOutput { slot, read });
            }
        }
        self.stirred = false;
        None
    }

    /// Empties a slot, and gives the run that was in it. What the run left stays in the room until
    /// the next one.
    pub(crate) fn end(&mut self, slot: Slot) -> Option<(Active, &mut Room)> {
        let room = self.rooms.get_mut(slot.index())?;
        let active = room.active.take()?;
        room.to_do = ToDo::default();
        Some((active, room))
    }

    /// What is in a slot.
    pub(crate) fn room(&mut self, slot: Slot) -> Option<&mut Room> {
        self.rooms.get_mut(slot.index())
    }

    /// The run in a slot.
    pub(crate) fn active(&self, slot: Slot) -> Option<&Active> {
        self.rooms.get(slot.index())?.active.as_ref()
    }

    /// All runs in progress.
    pub(crate) fn in_progress(&self) -> impl Iterator<Item = (Slot, &Active)> {
        let slots = (0..).map(Slot).zip(&self.rooms);
        slots.filter_map(|(slot, room)| Some((slot, room.active.as_ref()?)))
    }

    /// When the chunk in the making of a slot's run has to go.
    pub(crate) fn flush_at(&self, slot: Slot) -> Option<Duration> {
        self.rooms.get(slot.index())?.stream.flush_at()
    }

    /// All slots, in use or not.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.rooms.len() as u8).map(Slot) // RUNNING fits
    }

    /// Whether a job has as many runs in progress as it may.
    pub(crate) fn is_at_limit(&self, job: &Job) -> bool {
        let same = |(_, active): &(Slot, &Active)| active.run.job.name == job.name;
        self.in_progress().filter(same).count() >= job.concurrency
    }

    /// Whether a run of this job would start at once.
    pub(crate) fn would_start(&self, job: &Job) -> bool {
        let waits = self.waiting.iter().any(|run| run.job.name == job.name);
        !waits && !self.is_at_limit(job)
    }

    /// The longest time that a run in progress can still take.
    pub(crate) fn longest(&self, slot: Slot, now: Duration) -> Duration {
        let Some(active) = self.active(slot) else { return Duration::ZERO };
        match active.phase {
            Phase::Starting | Phase::Going => {
                let over = active.started.boot + active.run.timeout + active.stopped_until(now);
                over.saturating_sub(now) + 2 * self.grace
            }
            Phase::Terminating { kill_at } => kill_at.saturating_sub(now) + self.grace,
            Phase::Killing { .. } => self.grace,
        }
    }

    /// The longest time that a run takes which starts now.
    pub(crate) fn longest_from_start(&self, run: &Run) -> Duration {
        run.timeout + 2 * self.grace
    }

    fn free_slot(&self) -> Option<Slot> {
        let free = self.rooms.iter().position(|room| room.active.is_none())?;
        u8::try_from(free).ok().map(Slot)
    }
}

impl Active {
    /// When its time is over; `None` while its output is stopped.
    fn over_at(&self) -> Option<Duration> {
        match self.reading {
            Reading::On => Some(self.started.boot + self.run.timeout + self.stopped),
            Reading::Off { .. } => None,
        }
    }

    fn stopped_until(&self, now: Duration) -> Duration {
        match self.reading {
            Reading::On => self.stopped,
            Reading::Off { since } => self.stopped + now.saturating_sub(since),
        }
    }

    /// Whether its output is being read.
    pub(crate) fn is_read(&self) -> bool {
        self.reading == Reading::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::program;

    const GRACE: Duration = Duration::from_secs(5);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn run(n: u8, job: &Arc<Job>) -> Run {
        Run {
            id: RunId([n; 16]),
            attempt: Attempt(1),
            place: Place(n.into()),
            serial: n.into(),
            job: Arc::clone(job),
            args: Args::default(),
            origin: Origin::Trigger,
            deadline: None,
            timeout: job.timeout,
        }
    }

    const fn at(boot: Duration) -> Started {
        let boot_id = BootId::UNKNOWN;
        Started { boot, boot_id, wall: UnixMillis(0), clock: Clock::Trusted }
    }

    fn started(runs: &mut Runs) -> Slot {
        let job = Arc::new(program("a"));
        runs.waiting.push_back(run(1, &job));
        let slot = runs.start(0, at(s(0))).unwrap();
        assert_eq!(runs.poll(), Some(Output::Start { slot }));
        assert_eq!(runs.poll(), None);
        slot
    }

    #[test]
    fn a_job_at_its_limit_lets_others_pass() {
        let (a, b) = (Arc::new(program("a")), Arc::new(program("b")));
        let mut runs = Runs::new(2, GRACE);
        for (n, job) in [(1, &a), (2, &a), (3, &b), (4, &b)] {
            runs.waiting.push_back(run(n, job));
        }
        let mut order = Vec::new();
        while let Some(index) = runs.next_startable() {
            let slot = runs.start(index, at(s(0))).unwrap();
            order.push(runs.active(slot).unwrap().run.id.0[0]);
        }
        assert_eq!(order, [1, 3]);
        runs.end(Slot(0)).unwrap();
        assert_eq!(runs.next_startable(), Some(0), "the second of a");
    }

    #[test]
    fn a_run_whose_time_is_over_is_terminated_then_killed_again_and_again() {
        let mut runs = Runs::new(1, GRACE);
        let slot = started(&mut runs);
        assert_eq!(runs.next_deadline(), Some(s(20)));
        runs.advance(s(19));
        assert_eq!(runs.poll(), None);
        runs.advance(s(20));
        assert_eq!(runs.poll(), Some(Output::Signal { slot, signal: Signal::Terminate }));
        runs.advance(s(20));
        assert_eq!(runs.poll(), None, "a repeated call does nothing");
        for at in [25, 30] {
            assert_eq!(runs.next_deadline(), Some(s(at)));
            runs.advance(s(at));
            assert_eq!(runs.poll(), Some(Output::Signal { slot, signal: Signal::Kill }));
        }
        let (active, _) = runs.end(slot).unwrap();
        assert_eq!(active.why, Some(Why::TimedOut));
        assert!(runs.end(slot).is_none());
        assert_eq!(runs.next_deadline(), None);
    }

    #[test]
    fn time_in_which_output_is_stopped_does_not_count() {
        let mut runs = Runs::new(1, GRACE);
        let slot = started(&mut runs);
        runs.read(slot, false, s(5));
        assert_eq!(runs.poll(), Some(Output::ReadOutput { slot, read: false }));
        assert_eq!(runs.next_deadline(), None);
        runs.advance(s(1000));
        assert_eq!(runs.poll(), None);
        assert_eq!(runs.longest(slot, s(1000)), s(15) + 2 * GRACE);
        runs.read(slot, true, s(1000));
        assert_eq!(runs.poll(), Some(Output::ReadOutput { slot, read: true }));
        assert_eq!(runs.next_deadline(), Some(s(1015)));
    }

    #[test]
    fn the_first_reason_to_stop_stays() {
        let mut runs = Runs::new(1, GRACE);
        let slot = started(&mut runs);
        runs.stop(slot, Why::Cancelled, s(1));
        runs.stop(slot, Why::Stopping, s(2));
        assert_eq!(runs.poll(), Some(Output::Signal { slot, signal: Signal::Terminate }));
        assert_eq!(runs.next_deadline(), Some(s(6)));
        assert_eq!(runs.longest(slot, s(3)), s(3) + GRACE);
        assert_eq!(runs.end(slot).unwrap().0.why, Some(Why::Cancelled));
    }
}
