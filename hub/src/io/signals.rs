//! Signals as readable events: SIGTERM and SIGINT end the hub, SIGHUP reloads its clients.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What somebody outside wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// End, cleanly.
    Stop,
    /// Read the configuration anew.
    Reload,
}

/// The signals the hub listens to, blocked in every thread and readable here.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals. To be called before any thread starts: they inherit the mask.
    ///
    /// # Errors
    /// The errno of sigprocmask(2) or signalfd(2).
    pub fn listen() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// The next wish, if there is one.
    ///
    /// # Errors
    /// The errno of read(2).
    pub fn next(&self) -> nix::Result<Option<Wish>> {
        match self.0.read_signal() {
            Ok(Some(info)) if info.ssi_signo == Signal::SIGHUP as u32 => Ok(Some(Wish::Reload)),
            Ok(Some(_)) => Ok(Some(Wish::Stop)),
            Ok(None) | Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
