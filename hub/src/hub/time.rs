//! The hub's time: what deadlines are measured in.
//!
//! It starts at the wall clock's time and then runs with the clock that is never set. Nodes never
//! step their idea of it back, so it must not jump ahead either: where the wall clock is set, it
//! follows by a tenth of the time that passes. A restart takes the wall clock as it is.

use fieldpost_wire::UnixMillis;

use super::{Moment, Now};

/// Differences up to this are left alone, in milliseconds.
const SLACK_MS: u64 = 20;

/// The hub's clock.
#[derive(Debug)]
pub struct Time {
    moment: Moment,
    time: UnixMillis,
    wall: UnixMillis,
}

impl Time {
    /// Starts at the wall clock's time.
    pub fn new(now: Now) -> Self {
        Self { moment: now.moment, time: now.wall, wall: now.wall }
    }

    /// Moves on.
    pub fn advance(&mut self, now: Now) {
        let passed = now.moment.0.saturating_sub(self.moment.0);
        self.wall = now.wall;
        if passed == 0 {
            return;
        }
        self.moment = now.moment;
        let time = self.time.plus_ms(passed);
        let (ahead, behind) = (time.ms_since(now.wall), now.wall.ms_since(time));
        // Rounded up: the clock is looked at every few milliseconds.
        let step = passed.div_ceil(10);
        self.time = if behind > SLACK_MS {
            time.plus_ms(step.min(behind))
        } else if ahead > SLACK_MS {
            UnixMillis(time.0 - step.min(ahead).min(passed))
        } else {
            time
        };
    }

    /// The time now.
    pub fn time(&self) -> UnixMillis {
        self.time
    }

    /// What ages are measured by: the earlier of the two clocks. Where the wall clock was set back, the hub's
    /// time is ahead for long.
    pub fn for_ages(&self) -> UnixMillis {
        self.time.min(self.wall)
    }

    /// The moment now.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// How far the wall clock is ahead, in milliseconds.
    pub fn off_ms(&self) -> i64 {
        self.wall.0.cast_signed().wrapping_sub(self.time.0.cast_signed())
    }

    /// The moment when it will be `time`; now if that has passed.
    pub fn when(&self, time: UnixMillis) -> Moment {
        Moment(self.moment.0.saturating_add(time.ms_since(self.time)))
    }
}

impl Moment {
    /// So many milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(moment: u64, wall: u64) -> Now {
        Now { moment: Moment(moment), wall: UnixMillis(wall) }
    }

    #[test]
    fn a_clock_that_is_set_is_followed_slowly() {
        let mut time = Time::new(now(0, 1_000_000));
        time.advance(now(1_000, 1_001_000));
        assert_eq!(time.time(), UnixMillis(1_001_000));
        time.advance(now(2_000, 4_602_000));
        assert_eq!(time.time(), UnixMillis(1_002_100));
        assert_eq!(time.off_ms(), 3_599_900);
        time.advance(now(3_000, 1_003_000));
        assert_eq!(time.time(), UnixMillis(1_003_000), "it never goes back, only slower");
    }
}
