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

use std::time::Duration;

pub use crate::door::*;

/// The agent's core.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    now: Now,
}

impl Agent {
    /// An agent that starts `now`, with what an earlier start left.
    #[must_use]
    pub fn new(settings: Settings, restored: Restored<'_>, identity: Identity, now: Now) -> Self {
        log::debug!("{identity:?} {}", restored.journal.len());
        Self { settings, now }
    }

    /// Takes one input. Outputs may follow.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.now = now;
        drop(input);
    }

    /// The next thing to be done, until `None`.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        None
    }

    /// When to give the next [`Input::Tick`] at the latest, on the boot clock; `None`: no need.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }

    /// The run in a slot, from its [`Output::Start`] on; `None` for a free slot.
    #[must_use]
    pub fn launch(&self, slot: Slot) -> Option<Launch<'_>> {
        log::trace!("{slot:?} of {}", self.settings.node);
        None
    }
}
