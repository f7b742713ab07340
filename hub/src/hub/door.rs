//! Who may connect, and subscribe to what.

use fieldpost_wire::ALL_TOPIC;

use super::{Door, Hub, Moment, Now, Side, Verdict, Who};
use crate::store::Key;

/// Handshakes of known peers a second: each costs some 0.4 ms of libzmq's one I/O thread.
const KNOWN_A_SECOND: u64 = 1_000;
/// Handshakes of unknown keys a second: they must not keep the known ones out.
const UNKNOWN_A_SECOND: u64 = 100;

/// The handshakes' budgets.
#[derive(Debug)]
pub struct Doors {
    known: Bucket,
    unknown: Bucket,
}

/// Holds one second's worth.
#[derive(Debug)]
struct Bucket {
    a_second: u64,
    /// Thousandths of a handshake.
    level: u64,
    filled: Moment,
}

impl Bucket {
    fn new(a_second: u64, now: Moment) -> Self {
        Self { a_second, level: a_second * 1_000, filled: now }
    }

    fn take(&mut self, now: Moment) -> bool {
        let more = now.ms_since(self.filled).saturating_mul(self.a_second);
        self.filled = now;
        self.level = self.level.saturating_add(more).min(self.a_second * 1_000);
        if self.level < 1_000 {
            return false;
        }
        self.level -= 1_000;
        true
    }
}

impl Doors {
    /// Full budgets.
    pub fn new(now: Moment) -> Self {
        Self {
            known: Bucket::new(KNOWN_A_SECOND, now),
            unknown: Bucket::new(UNKNOWN_A_SECOND, now),
        }
    }
}

impl Hub {
    /// Whether somebody may connect. Bounds the handshakes a second.
    pub fn admit(&mut self, now: Now, door: Door, key: &str) -> Verdict {
        self.time.advance(now);
        let verdict = self.judge(door, key);
        match verdict {
            Verdict::Welcome => self.counters.admitted += 1,
            Verdict::Later => self.counters.delayed += 1,
            Verdict::No => self.counters.turned_away += 1,
        }
        verdict
    }

    fn judge(&mut self, door: Door, key: &str) -> Verdict {
        let moment = self.time.moment();
        let client = self.clients.knows(key);
        match door {
            Door::Clients | Door::Events if client => {
                if self.doors.known.take(moment) {
                    Verdict::Welcome
                } else {
                    Verdict::Later
                }
            }
            Door::Clients | Door::Events => Verdict::No,
            Door::Triggers | Door::Results if client => Verdict::No,
            Door::Triggers | Door::Results => {
                let Some(key) = Key::read(key) else { return Verdict::No };
                if self.nodes.by_key(&key, self.time.for_ages()).is_some() {
                    let free = self.doors.known.take(moment);
                    return if free { Verdict::Welcome } else { Verdict::Later };
                }
                if self.nodes.is_revoked(&key) {
                    return Verdict::No;
                }
                // It may say who it is, and hears nothing.
                if door == Door::Results && self.doors.unknown.take(moment) {
                    return Verdict::Welcome;
                }
                Verdict::Later
            }
        }
    }

    /// Whether a node may have this subscription to commands. What the hub says to it follows as
    /// outputs: so make the subscription before they are polled.
    pub fn may_subscribe(&mut self, now: Now, key: &str, topic: &[u8]) -> bool {
        self.time.advance(now);
        let node = Key::read(key).and_then(|key| self.nodes.by_key(&key, self.time.for_ages()));
        let allowed =
            node.is_some_and(|id| topic == ALL_TOPIC || *topic == *self.nodes.get(id).topic);
        if !allowed {
            self.counters.refused_subscriptions += 1;
            log::debug!("{key}: the subscription {} is refused", topic.escape_ascii());
            return false;
        }
        if let Some(id) = node
            && topic != ALL_TOPIC
        {
            self.beacon_to(id, self.settings.start);
            if self.nodes.get(id).greeting.is_some() {
                self.welcome(id);
            }
        }
        true
    }

    /// Whether a client may have this subscription to events. Allowed or not, say
    /// [`super::Input::Unwatched`] when libzmq says that it is gone.
    pub fn may_watch(&mut self, now: Now, who: Who<'_>, topic: &[u8]) -> bool {
        self.time.advance(now);
        let side = match who {
            Who::Local => Side::Local,
            Who::Key(_) => Side::Remote,
        };
        self.watches.add(side, topic);
        let allowed = self.may_see(who, topic);
        if !allowed {
            self.counters.refused_subscriptions += 1;
        }
        allowed
    }

    fn may_see(&self, who: Who<'_>, topic: &[u8]) -> bool {
        let Some(rights) = self.clients.rights(who) else { return false };
        let Ok(topic) = std::str::from_utf8(topic) else { return false };
        // Whole topics only: a shorter one would match what is not allowed.
        let Some((kind, name)) = topic.strip_suffix('/').and_then(|t| t.split_once('/')) else {
            return false;
        };
        match kind {
            // The events of a job come from every node, those of a node from every job: each is
            // open only to whom the other does not limit.
            "job" if fieldpost_wire::check_name(name).is_ok() => {
                rights.job(name) && rights.all_nodes()
            }
            "node" => match self.nodes.by_name(name) {
                Some(id) => rights.node(self.nodes.get(id)) && rights.jobs().is_none(),
                None => fieldpost_wire::check_name(name).is_ok() && !rights.is_limited(),
            },
            "run" => match name.parse() {
                Ok(run) => !rights.is_limited() || self.sees_run(&rights, &run),
                Err(_) => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_is_let_in_at_the_rate_of_the_budget() {
        let mut bucket = Bucket::new(100, Moment(0));
        assert_eq!((0..500).filter(|_| bucket.take(Moment(0))).count(), 100);
        assert_eq!((0..500).filter(|_| bucket.take(Moment(50))).count(), 5);
        assert_eq!((0..500).filter(|_| bucket.take(Moment(10_000))).count(), 100);
    }
}
