//! Tells the service manager how the agent is doing (sd_notify(3)). Without one nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Manager {
    present: bool,
    /// Between two signs of life; half of what the manager waits for.
    watchdog: Option<Duration>,
    fed: Duration,
}

impl Manager {
    /// Finds the service manager in the environment.
    #[must_use]
    pub fn find() -> Self {
        Self {
            present: std::env::var_os("NOTIFY_SOCKET").is_some(),
            watchdog: sd_notify::watchdog_enabled().map(|most| most / 2),
            fed: Duration::ZERO,
        }
    }

    /// The agent does its work.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// What it is doing, in a line.
    pub fn status(&self, text: &str) {
        self.tell(&[NotifyState::Status(text)]);
    }

    /// It reads its configuration again; [`Self::ready`] ends that.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => log::warn!("the service manager is not told of the reload: {error}"),
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A turn of the loop was completed: a sign of life, if one is due.
    pub fn turned(&mut self) {
        let Some(due) = self.deadline() else { return };
        let boot = super::clock::boot();
        if boot >= due {
            self.fed = boot;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// When the next sign of life is due, on the boot clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.watchdog.map(|interval| self.fed + interval)
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.present
            && let Err(error) = sd_notify::notify(state)
        {
            log::debug!("the service manager does not listen: {error}");
        }
    }
}
