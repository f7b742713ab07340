//! What is looked at once a second: memory, who hoards it, the watchdog.

use sd_notify::NotifyState;

use super::notify;
use super::reach::Reach;
use crate::hub::Now;
use crate::io::process;

/// How often memory is looked at and the watchdog fed, in milliseconds.
const HOUSEKEEPING_MS: u64 = 1_000;
/// How often the core hears of the process, in milliseconds.
const PROCESS_MS: u64 = 5_000;
/// Memory may grow by so much between two looks before it is asked who hoards.
const GROWTH: u64 = 64 << 20;
/// Connections that must have gone before memory is given back to the system.
const STORM: u64 = 200;

/// When what is due, and what was seen last.
pub struct Housekeeping {
    due: u64,
    process_due: u64,
    resident: u64,
    gone: u64,
    gone_before: u64,
    watchdog: bool,
}

impl Housekeeping {
    pub fn new(now: Now) -> Self {
        let ms = now.moment.0;
        Self {
            due: ms,
            process_due: ms,
            resident: process::resident(),
            gone: 0,
            gone_before: 0,
            watchdog: sd_notify::watchdog_enabled().is_some(),
        }
    }

    /// When it is due again, in milliseconds of [`Now::moment`].
    pub fn due(&self) -> u64 {
        self.due
    }

    /// A connection has gone.
    pub fn count_gone(&mut self) {
        self.gone += 1;
    }

    /// Looks, where it is due. Gives the resident memory in bytes, where the core is to hear of
    /// the process.
    pub fn look(&mut self, now: Now, reach: &mut Reach) -> Option<u64> {
        let now = now.moment.0;
        if now < self.due {
            return None;
        }
        self.due = now + HOUSEKEEPING_MS;
        if self.watchdog {
            notify(&[NotifyState::Watchdog]);
        }
        if process::resident() > self.resident + GROWTH {
            for key in reach.peers.cut_hoarders() {
                let key = key.as_deref().unwrap_or("of a key that said nothing yet");
                log::warn!("a connection was cut that sends messages without an end: {key}");
                reach.cut += 1;
                self.gone += STORM;
            }
        }
        // After thousands of connections have gone glibc keeps their memory; once it is quiet
        // again, it goes back.
        if self.gone >= STORM && self.gone == self.gone_before {
            process::trim_memory();
            self.gone = 0;
        }
        self.gone_before = self.gone;
        self.resident = process::resident();
        if now < self.process_due {
            return None;
        }
        self.process_due = now + PROCESS_MS;
        Some(self.resident)
    }
}
