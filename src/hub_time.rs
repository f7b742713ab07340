//! The hub's time, as the node knows it: what deadlines are measured in.
//!
//! `max(hub time − boot clock)` over all that the hub said. A message that was long under way makes
//! the difference smaller than it is, never larger, so the largest is the best; and the time
//! never steps back, whatever the node's wall clock does.

use std::time::Duration;

use fieldpost_wire::UnixMillis;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HubTime {
    /// Hub time at boot, in milliseconds since 1970. Negative if the hub's clock stands before
    /// the time the node is up.
    at_boot: Option<i64>,
}

impl HubTime {
    /// The hub said that it is `time`, and that arrived at `boot`.
    pub(crate) fn learn(&mut self, boot: Duration, time: UnixMillis) {
        let at_boot = signed(time.0).saturating_sub(millis(boot));
        self.at_boot = Some(self.at_boot.map_or(at_boot, |known| known.max(at_boot)));
    }

    /// The hub's time at `boot`; `None` before it said any.
    pub(crate) fn at(&self, boot: Duration) -> Option<UnixMillis> {
        let time = self.at_boot?.saturating_add(millis(boot));
        Some(UnixMillis(u64::try_from(time).unwrap_or(0)))
    }

    /// Whether nobody triggers a run with this deadline again: a scheduled run has none, which is 0.
    pub(crate) fn is_out_of_reach(&self, boot: Duration, deadline: UnixMillis) -> bool {
        deadline.0 == 0 || self.is_over(boot, deadline)
    }

    /// Whether `deadline` has passed at `boot`. Before the hub said its time nothing has.
    pub(crate) fn is_over(&self, boot: Duration, deadline: UnixMillis) -> bool {
        self.at(boot).is_some_and(|time| time >= deadline)
    }

    /// When, on the boot clock, `deadline` passes.
    pub(crate) fn boot_of(&self, deadline: UnixMillis) -> Option<Duration> {
        let boot = signed(deadline.0).saturating_sub(self.at_boot?);
        Some(Duration::from_millis(u64::try_from(boot).unwrap_or(0)))
    }
}

fn millis(boot: Duration) -> i64 {
    i64::try_from(boot.as_millis()).unwrap_or(i64::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_unknown_until_the_hub_says_it() {
        let mut time = HubTime::default();
        assert_eq!(time.at(s(5)), None);
        assert!(!time.is_over(s(5), UnixMillis(0)));
        time.learn(s(5), UnixMillis(1_000_000));
        assert_eq!(time.at(s(6)), Some(UnixMillis(1_001_000)));
        assert_eq!(time.boot_of(UnixMillis(1_001_000)), Some(s(6)));
    }

    #[test]
    fn a_late_message_does_not_set_it_back() {
        let mut time = HubTime::default();
        time.learn(s(10), UnixMillis(1_000_000));
        time.learn(s(20), UnixMillis(1_001_000)); // nine seconds under way
        assert_eq!(time.at(s(20)), Some(UnixMillis(1_010_000)));
        time.learn(s(20), UnixMillis(1_010_500));
        assert_eq!(time.at(s(20)), Some(UnixMillis(1_010_500)));
    }

    #[test]
    fn a_deadline_is_over_when_it_is_reached() {
        let mut time = HubTime::default();
        time.learn(s(0), UnixMillis(1_000));
        assert!(!time.is_over(Duration::from_millis(999), UnixMillis(2_000)));
        assert!(time.is_over(s(1), UnixMillis(2_000)));
        time.learn(s(0), UnixMillis(u64::MAX)); // a mad hub is not a panic
        assert!(time.is_over(s(1), UnixMillis(2_000)));
    }
}
