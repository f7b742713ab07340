//! The two clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use fieldpost_wire::UnixMillis;
use nix::time::{ClockId, clock_gettime};

use crate::hub::{Moment, Now};

/// What they say.
#[must_use]
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
        seconds * 1_000 + nanos / 1_000_000
    });
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        moment: Moment(boot),
        wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
    }
}
