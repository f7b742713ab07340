//! Signals as readable events.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Somebody wants the agent to end (SIGTERM, SIGINT).
    Stop,
    /// Somebody wants the configuration to be read again (SIGHUP).
    Reload,
    /// A child, of ours or reparented to us, has ended (SIGCHLD).
    Child,
}

/// The signals the agent listens to, blocked in every thread and readable here.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals. To be called before any thread starts: they inherit the mask.
    ///
    /// # Errors
    /// The errno of sigprocmask(2) or signalfd(2).
    pub fn listen() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
            set.add(signal);
        }
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// The next signal, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<News> {
        loop {
            return match self.0.read_signal() {
                Ok(Some(info)) if info.ssi_signo == Signal::SIGCHLD as u32 => Some(News::Child),
                Ok(Some(info)) if info.ssi_signo == Signal::SIGHUP as u32 => Some(News::Reload),
                Ok(Some(_)) => Some(News::Stop),
                Err(Errno::EINTR) => continue,
                Ok(None) => None,
                Err(errno) => {
                    log::error!("signals can't be read: {errno}");
                    None
                }
            };
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
