//! The clocks, and the news that somebody set the wall clock.
#![allow(unsafe_code, reason = "adjtimex(2) and timerfd's cancel-on-set have no safe wrapper")]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use fieldpost_wire::UnixMillis;
use nix::time::{ClockId, clock_gettime};

use crate::agent::Now;

/// How old the kernel's word on synchronisation may be: it changes at most once in minutes.
const SYNCHRONISED_AGE: Duration = Duration::from_secs(10);

/// The clocks of this machine.
#[derive(Debug, Default)]
pub struct Clock {
    synchronised: Cell<bool>,
    asked: Cell<Option<Duration>>,
}

impl Clock {
    /// Reads the clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let boot = boot();
        if self.asked.get().is_none_or(|asked| boot >= asked + SYNCHRONISED_AGE) {
            self.asked.set(Some(boot));
            self.synchronised.set(synchronised());
        }
        let wall = read(ClockId::CLOCK_REALTIME);
        let wall = UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        Now { boot, wall, synchronised: self.synchronised.get() }
    }

    /// The wall clock was set: whether it is synchronised is asked anew.
    pub fn was_set(&self) {
        self.asked.set(None);
    }
}

/// Time since boot, sleep included.
#[must_use]
pub fn boot() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> Duration {
    // A wall clock before 1970 counts as 1970.
    clock_gettime(clock).map_or(Duration::ZERO, |time| {
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_nsec()).unwrap_or(0),
        )
    })
}

/// Whether the kernel says that the wall clock is synchronised (adjtimex(2)).
fn synchronised() -> bool {
    // SAFETY: a `timex` of zeros asks only; the kernel fills it.
    unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
    }
}

/// Becomes readable when the wall clock is set (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub struct ClockSet(OwnedFd);

impl ClockSet {
    /// Starts to listen.
    ///
    /// # Errors
    /// No descriptor for it.
    pub fn listen() -> io::Result<Self> {
        // SAFETY: takes plain numbers; the descriptor it returns is ours alone.
        let fd = unsafe {
            let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
            let fd = libc::timerfd_create(libc::CLOCK_REALTIME, flags);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let clock_set = Self(fd);
        clock_set.arm()?;
        Ok(clock_set)
    }

    /// Whether the clock was set since the last call.
    #[must_use]
    pub fn happened(&self) -> bool {
        let mut count = [0; 8];
        let set = nix::unistd::read(&self.0, &mut count) == Err(nix::errno::Errno::ECANCELED);
        if set && let Err(error) = self.arm() {
            log::warn!("the wall clock is no longer watched: {error}");
        }
        set
    }

    #[allow(deprecated, reason = "libc's word on musl's wider `time_t`, which is what we want")]
    fn arm(&self) -> io::Result<()> {
        // SAFETY: reads a structure of ours, which starts as zeros.
        let done = unsafe {
            let mut never: libc::itimerspec = std::mem::zeroed();
            never.it_value.tv_sec = libc::time_t::MAX;
            let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
            libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const never, std::ptr::null_mut())
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for ClockSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
