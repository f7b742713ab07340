//! Waits: one poll(2) over everything that can happen, until the next deadline.
//!
//! Each running program has a [`Pulse`]: what happened to it, and who supervises it. The
//! reactor's tasks run on a `LocalExecutor`; nothing here makes a thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::program::Ended;
use crate::limits::RUNNING;

/// Descriptors that are not a program's: signals, the clock, two sockets.
const OWN: usize = 4;

/// What happens to one program.
#[derive(Debug)]
pub struct Pulse {
    /// The program, and its group.
    pub pid: Pid,
    /// Its pipes; `None` once they are at their end.
    pub stdout: RefCell<Option<OwnedFd>>,
    /// See above.
    pub stderr: RefCell<Option<OwnedFd>>,
    /// Whether its standard output is to be read.
    pub reading: Cell<bool>,
    /// How it ended, once it did.
    pub ended: Cell<Option<Ended>>,
    /// When to look after it at the latest, on the boot clock.
    pub due: Cell<Option<Duration>>,
    stdout_ready: Cell<bool>,
    stderr_ready: Cell<bool>,
    child_ended: Cell<bool>,
    supervisor: RefCell<Option<Waker>>,
}

/// Why a program's supervisor was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Its standard error can be read.
    Stderr,
    /// Its standard output can be read, and is to be.
    Stdout,
    /// It has ended, or something else that may be its descendant.
    Child,
    /// The time that it asked for has come.
    Due,
}

impl Pulse {
    /// The pulse of a program that just started.
    #[must_use]
    pub fn new(pid: Pid, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self {
            pid,
            stdout: RefCell::new(Some(stdout)),
            stderr: RefCell::new(Some(stderr)),
            reading: Cell::new(true),
            ended: Cell::new(None),
            due: Cell::new(None),
            stdout_ready: Cell::new(false),
            stderr_ready: Cell::new(false),
            child_ended: Cell::new(false),
            supervisor: RefCell::new(None),
        }
    }

    /// Waits for the next thing to happen.
    pub async fn next(&self) -> Beat {
        poll_fn(|context| match self.beat() {
            Some(beat) => Poll::Ready(beat),
            None => {
                *self.supervisor.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Says that a child has ended.
    pub fn child_ended(&self) {
        self.child_ended.set(true);
        self.wake();
    }

    fn beat(&self) -> Option<Beat> {
        if self.stderr_ready.take() {
            return Some(Beat::Stderr);
        }
        if self.reading.get() && self.stdout_ready.take() {
            return Some(Beat::Stdout);
        }
        if self.child_ended.take() {
            return Some(Beat::Child);
        }
        if self.due.get().is_some_and(|due| super::clock::boot() >= due) {
            self.due.set(None);
            return Some(Beat::Due);
        }
        None
    }

    fn wake(&self) {
        if let Some(waker) = self.supervisor.take() {
            waker.wake();
        }
    }
}

/// The programs in progress, by slot.
pub type Pulses = [Option<Rc<Pulse>>; RUNNING];

/// What can be ready besides programs.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// Signals.
    pub signals: BorrowedFd<'a>,
    /// The wall clock was set.
    pub clock_set: BorrowedFd<'a>,
    /// libzmq's two descriptors.
    pub sockets: [BorrowedFd<'a>; 2],
}

/// What is ready besides programs, whose pulses beat by themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// Signals can be read.
    pub signals: bool,
    /// The wall clock was set.
    pub clock_set: bool,
}

/// Waits until something happens, or until `deadline` on the boot clock.
///
/// # Errors
/// The errno of poll(2), but for `EINTR`, which counts as nothing ready.
pub fn wait(
    watched: Watched<'_>,
    pulses: &Pulses,
    deadline: Option<Duration>,
) -> nix::Result<Ready> {
    enum Pipe {
        Stdout,
        Stderr,
    }
    let mut fds = heapless::Vec::<PollFd<'_>, { OWN + 2 * RUNNING }>::new();
    let mut pipes = heapless::Vec::<(&Pulse, Pipe), { 2 * RUNNING }>::new();
    let due = pulses.iter().flatten().filter_map(|pulse| pulse.due.get()).min();
    let deadline = deadline.into_iter().chain(due).min();
    let full = "OWN and two pipes a program";
    let [commands, reports] = watched.sockets;
    for fd in [watched.signals, watched.clock_set, commands, reports] {
        assert!(fds.push(PollFd::new(fd, PollFlags::POLLIN)).is_ok(), "{full}");
    }
    for pulse in pulses.iter().flatten() {
        // One that is not to be read must be left out: its end would be reported all the time.
        let stdout = pulse.reading.get().then(|| raw(&pulse.stdout)).flatten();
        for (fd, pipe) in [(stdout, Pipe::Stdout), (raw(&pulse.stderr), Pipe::Stderr)] {
            let Some(fd) = fd else { continue };
            assert!(fds.push(PollFd::new(borrow(fd), PollFlags::POLLIN)).is_ok(), "{full}");
            assert!(pipes.push((pulse, pipe)).is_ok(), "{full}");
        }
    }
    match poll(&mut fds, timeout(deadline)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Ready::default()),
        Err(errno) => return Err(errno),
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    for ((pulse, pipe), fd) in pipes.iter().zip(&fds[OWN..]) {
        if ready(fd) {
            match pipe {
                Pipe::Stdout => pulse.stdout_ready.set(true),
                Pipe::Stderr => pulse.stderr_ready.set(true),
            }
            pulse.wake();
        }
    }
    let now = super::clock::boot();
    for pulse in pulses.iter().flatten().filter(|p| p.due.get().is_some_and(|due| now >= due)) {
        pulse.wake();
    }
    Ok(Ready { signals: ready(&fds[0]), clock_set: ready(&fds[1]) })
}

fn timeout(deadline: Option<Duration>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_sub(super::clock::boot());
    // Rounded up: a wait that ends too early would spin until the deadline.
    let ms = left.as_micros().div_ceil(1000);
    i32::try_from(ms).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

fn raw(pipe: &RefCell<Option<OwnedFd>>) -> Option<RawFd> {
    pipe.borrow().as_ref().map(std::os::fd::AsRawFd::as_raw_fd)
}

#[allow(
    unsafe_code,
    reason = "a descriptor behind a RefCell can't be borrowed for as long as poll"
)]
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the pipe belongs to a pulse that the caller of `wait` holds, and only a supervisor
    // closes it: none runs before `wait` returns.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
