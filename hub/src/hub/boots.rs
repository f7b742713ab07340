//! When a node booted, by the hub's time: so the hub knows when a run started, whatever the node's wall
//! clock said.
//!
//! A heartbeat says how long ago the node booted. One that was under way puts that too late, never too
//! early, so the earliest of several is the best; but no two clocks run alike, and the hub's may be
//! set, so only those of the last hour or two count.

use fieldpost_wire::{BootId, UnixMillis};

use super::Moment;

/// What was heard longer ago than this, and up to twice as long, counts no more. By then clocks that
/// differ by 50 ppm, as poor crystals do, are a third of a second apart.
const WINDOW_MS: u64 = 60 * 60 * 1000;

/// The last boots of a node, the newest first. Two, as what it did before it was booted comes after that;
/// and of two devices with one key each has its own.
#[derive(Debug, Default)]
pub struct Boots([Option<Boot>; 2]);

#[derive(Debug, Clone, Copy)]
struct Boot {
    id: BootId,
    /// When the window began.
    since: Moment,
    /// The earliest heard in it, in hub time; negative if the node is up for longer than since 1970.
    earliest: i64,
    /// And in the one before.
    before: Option<i64>,
}

impl Boots {
    /// A heartbeat came, written `boot_ms` after that boot.
    pub fn learn(&mut self, id: BootId, boot_ms: u64, moment: Moment, time: UnixMillis) {
        if id == BootId::UNKNOWN {
            return;
        }
        let at = signed(time.0).saturating_sub(signed(boot_ms));
        match self.0.iter_mut().flatten().find(|boot| boot.id == id) {
            Some(boot) => boot.learn(at, moment),
            None => {
                let boot = Boot { id, since: moment, earliest: at, before: None };
                self.0 = [Some(boot), self.0[0]];
            }
        }
    }

    /// The hub's time so long after that boot; `None`: no heartbeat of it was heard.
    pub fn time(&self, id: BootId, boot_ms: u64) -> Option<UnixMillis> {
        let boot = self.0.iter().flatten().find(|boot| boot.id == id)?;
        let at = boot.before.map_or(boot.earliest, |before| before.min(boot.earliest));
        let time = at.checked_add(i64::try_from(boot_ms).ok()?)?;
        u64::try_from(time).ok().map(UnixMillis)
    }
}

impl Boot {
    fn learn(&mut self, at: i64, moment: Moment) {
        let passed = moment.ms_since(self.since);
        if passed < WINDOW_MS {
            self.earliest = self.earliest.min(at);
            return;
        }
        self.before = (passed < 2 * WINDOW_MS).then_some(self.earliest);
        self.earliest = at;
        self.since = moment;
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId(7);
    const NOW: u64 = 1_800_000_000_000;

    fn learn(boots: &mut Boots, id: BootId, boot_ms: u64, late_ms: u64) {
        let heard = boot_ms + late_ms;
        boots.learn(id, boot_ms, Moment(heard), UnixMillis(NOW + heard));
    }

    #[test]
    fn a_late_heartbeat_spoils_nothing_and_an_early_one_mends() {
        let mut boots = Boots::default();
        assert_eq!(boots.time(BOOT, 5), None);
        learn(&mut boots, BOOT, 10_000, 3_000);
        assert_eq!(boots.time(BOOT, 5), Some(UnixMillis(NOW + 3_005)));
        learn(&mut boots, BOOT, 70_000, 20);
        learn(&mut boots, BOOT, 130_000, 90_000);
        assert_eq!(boots.time(BOOT, 5), Some(UnixMillis(NOW + 25)));
    }

    #[test]
    fn clocks_that_drift_apart_are_followed() {
        let mut boots = Boots::default();
        // The hub's gains a second in an hour.
        for minute in 0..=600 {
            learn(&mut boots, BOOT, minute * 60_000, minute * 1_000 / 60);
        }
        let off = boots.time(BOOT, 0).unwrap().0 - NOW;
        assert!((8_000..=10_000).contains(&off), "{off}");
        // After a long silence what was known is of no use.
        learn(&mut boots, BOOT, 100 * WINDOW_MS, 100_000);
        assert_eq!(boots.time(BOOT, 0), Some(UnixMillis(NOW + 100_000)));
    }

    #[test]
    fn the_last_two_boots_are_known() {
        let mut boots = Boots::default();
        for boot in 1..=3 {
            learn(&mut boots, BootId(boot), u64::from(boot), 0);
        }
        learn(&mut boots, BootId::UNKNOWN, 1, 0);
        let known = [0, 1, 2, 3].map(|boot| boots.time(BootId(boot), 0).is_some());
        assert_eq!(known, [false, false, true, true]);
    }

    #[test]
    fn mad_numbers_give_no_time() {
        let mut boots = Boots::default();
        learn(&mut boots, BOOT, 1_000, 0);
        assert_eq!(boots.time(BOOT, u64::MAX), None);
        assert_eq!(boots.time(BOOT, i64::MAX as u64), None);
        boots.learn(BootId(8), u64::MAX, Moment(0), UnixMillis(NOW));
        assert_eq!(boots.time(BootId(8), 5), None);
    }
}
