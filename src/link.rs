//! The link to the hub: which hub, whether it is there, and when to say `Hello`.
//!
//! ```text
//!          connect            Welcome
//!  Apart ──────────▶ Greeting ───────▶ Welcomed
//!    ▲  no Welcome,     │ ▲  other start  │
//!    └──────────────────┘ └───────────────┤
//!    └────────────────────────────────────┘ silence
//! ```
//!
//! libzmq's word that it is connected is never trusted: what counts is what the hub says. After
//! repeated silence the next server key of the hub is tried, then the next hub.

use std::time::Duration;

use fieldpost_wire::StartId;

use crate::limits::{BACKOFF_MOST, HELLO_FIRST, NO_WELCOME, SILENCE, TRIES};

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    /// How many server keys each hub has.
    hubs: Vec<usize>,
    hub: usize,
    key: usize,
    /// Connections in a row that got no `Welcome`.
    failures: u32,
    /// Attempts with this key, for moving on.
    tries: u32,
    state: State,
    to_do: ToDo,
    welcomed_once: bool,
    away: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Not connected; connects then.
    Apart { until: Duration },
    /// Connected, and says `Hello` until it hears `Welcome`.
    Greeting { since: Duration, hello_at: Duration, said: Option<Duration>, hellos: u32 },
    /// Both directions work.
    Welcomed { start: StartId, heard: Duration, hello: Hello },
}

impl State {
    const fn greeting(now: Duration) -> Self {
        Self::Greeting { since: now, hello_at: now, said: None, hellos: 0 }
    }
}

/// Whether a welcomed agent still has to say a whole `Hello`.
#[derive(Debug, Clone, Copy)]
enum Hello {
    Said,
    /// Then, and until another `Welcome` comes.
    At(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToDo {
    Nothing,
    Connect,
    Disconnect,
}

/// What the link wants done with the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sockets {
    Connect { hub: usize, key: usize },
    Disconnect,
}

/// What a `Welcome` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Welcomed {
    /// The hub, or this life of it, is new to us: everything unacked goes again.
    Anew,
    /// Nothing new.
    Known,
}

impl Link {
    /// A link that connects to the first hub at once.
    pub(crate) fn new(hubs: Vec<usize>, now: Duration) -> Self {
        Self {
            hubs,
            hub: 0,
            key: 0,
            failures: 0,
            tries: 0,
            state: State::Apart { until: now },
            to_do: ToDo::Nothing,
            welcomed_once: false,
            away: true,
        }
    }

    /// What time brings about.
    pub(crate) fn advance(&mut self, now: Duration, rng: &mut fastrand::Rng) {
        match self.state {
            State::Apart { until } if now >= until => {
                self.to_do = ToDo::Connect;
                self.state = State::greeting(now);
            }
            State::Greeting { since, .. } if now >= since + NO_WELCOME => {
                // Once a try, and tries come ever more rarely.
                log::warn!(
                    "no answer from hub {}: is its address right, and its server key, and is this \
                     node accepted there? trying again",
                    self.hub + 1
                );
                self.part(now, rng);
            }
            State::Welcomed { heard, .. } if now >= heard + SILENCE => {
                log::warn!("the hub has been silent for {} s", SILENCE.as_secs());
                self.part(now, rng);
            }
            State::Apart { .. } | State::Greeting { .. } | State::Welcomed { .. } => {}
        }
    }

    fn part(&mut self, now: Duration, rng: &mut fastrand::Rng) {
        self.to_do = ToDo::Disconnect;
        self.away = true;
        let wait = backoff(self.failures, rng);
        self.failures = self.failures.saturating_add(1);
        self.tries += 1;
        if self.tries >= TRIES {
            self.tries = 0;
            self.key += 1;
            if self.hubs.get(self.hub).is_none_or(|&keys| self.key >= keys) {
                self.key = 0;
                self.hub = (self.hub + 1) % self.hubs.len().max(1);
            }
        }
        self.state = State::Apart { until: now + wait };
    }

    /// The hub answered this start's `Hello`.
    pub(crate) fn welcome(&mut self, now: Duration, start: StartId, partial: bool) -> Welcomed {
        self.failures = 0;
        self.tries = 0;
        self.welcomed_once = true;
        let whole = if partial { Hello::At(now) } else { Hello::Said };
        let (welcomed, hello) = match self.state {
            State::Welcomed { start: known, .. } if known == start => {
                (Welcomed::Known, Hello::Said)
            }
            // It may have been on its way when we parted; the sockets are not connected.
            State::Apart { .. } => return Welcomed::Known,
            State::Welcomed { .. } | State::Greeting { .. } => (Welcomed::Anew, whole),
        };
        self.state = State::Welcomed { start, heard: now, hello };
        self.away = false;
        welcomed
    }

    /// The hub with this start said something. One that is not the start that welcomed us has
    /// forgotten what was not durable, or is another: it gets a `Hello`.
    pub(crate) fn beacon(&mut self, now: Duration, from: StartId) {
        match &mut self.state {
            State::Welcomed { start, heard, .. } if *start == from => *heard = now,
            State::Welcomed { .. } => {
                self.state = State::greeting(now);
            }
            // The subscription works now: don't let a long wait pass. But if a `Hello` is under
            // way, give its answer a moment.
            State::Greeting { hello_at, said, .. } => {
                let soon = said.map_or(now, |said| now.max(said + HELLO_FIRST));
                *hello_at = soon.min(*hello_at);
            }
            State::Apart { .. } => {}
        }
    }

    /// A command that only this node gets: the hub is there.
    pub(crate) fn heard(&mut self, now: Duration) {
        if let State::Welcomed { heard, .. } = &mut self.state {
            *heard = now;
        }
    }

    /// Whether a `Hello` is to be said now.
    pub(crate) fn wants_hello(&self, now: Duration) -> bool {
        match self.state {
            State::Apart { .. } => false,
            State::Greeting { hello_at, .. } => now >= hello_at,
            State::Welcomed { hello: Hello::At(at), .. } => now >= at,
            State::Welcomed { hello: Hello::Said, .. } => false,
        }
    }

    /// A `Hello` was said.
    pub(crate) fn said_hello(&mut self, now: Duration, rng: &mut fastrand::Rng) {
        match &mut self.state {
            State::Apart { .. } => {}
            State::Greeting { hello_at, said, hellos, .. } => {
                *said = Some(now);
                *hello_at = now + backoff(*hellos, rng);
                *hellos = hellos.saturating_add(1);
            }
            State::Welcomed { hello, .. } => *hello = Hello::At(now + 5 * HELLO_FIRST),
        }
    }

    /// The socket has room for the `Hello` that found none.
    pub(crate) fn hello_now(&mut self, now: Duration) {
        match &mut self.state {
            State::Greeting { hello_at: at, hellos, .. } => {
                *at = now;
                *hellos = hellos.saturating_sub(1);
            }
            State::Welcomed { hello: Hello::At(at), .. } => *at = now,
            State::Welcomed { hello: Hello::Said, .. } | State::Apart { .. } => {}
        }
    }

    /// What the node offers has changed: the hub is to hear of it.
    pub(crate) fn say_hello_again(&mut self, now: Duration) {
        if let State::Welcomed { hello, .. } = &mut self.state {
            *hello = Hello::At(now);
        }
    }

    /// What is to be done with the sockets next.
    pub(crate) fn poll_sockets(&mut self) -> Option<Sockets> {
        match std::mem::replace(&mut self.to_do, ToDo::Nothing) {
            ToDo::Nothing => None,
            ToDo::Connect => Some(Sockets::Connect { hub: self.hub, key: self.key }),
            ToDo::Disconnect => Some(Sockets::Disconnect),
        }
    }

    /// When time will bring something about.
    pub(crate) fn next_deadline(&self) -> Duration {
        match self.state {
            State::Apart { until } => until,
            State::Greeting { since, hello_at, .. } => hello_at.min(since + NO_WELCOME),
            State::Welcomed { heard, hello: Hello::Said, .. } => heard + SILENCE,
            State::Welcomed { heard, hello: Hello::At(at), .. } => at.min(heard + SILENCE),
        }
    }

    /// Whether the sockets are connected to something that may be a hub.
    pub(crate) fn is_connected(&self) -> bool {
        !matches!(self.state, State::Apart { .. })
    }

    /// Whether both directions work, as far as we know.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Welcomed { .. })
    }

    /// Whether no hub takes reports, and none has for a while. A hub that was just started anew
    /// and has not answered our `Hello` yet is not away: it will take them in a moment.
    pub(crate) fn is_away(&self) -> bool {
        self.away
    }

    /// Whether any hub welcomed this start of the agent.
    pub(crate) fn was_ever_up(&self) -> bool {
        self.welcomed_once
    }
}

/// 1, 2, 4 … 60 s, of which a random half is left out: a fleet must not come back as one.
fn backoff(failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let most = HELLO_FIRST.saturating_mul(1 << failures.min(16)).min(BACKOFF_MOST);
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.u64(most / 2..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StartId = StartId([1; 16]);
    const B: StartId = StartId([2; 16]);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn connected(hubs: &[usize]) -> (Link, fastrand::Rng) {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut link = Link::new(hubs.to_vec(), s(0));
        link.advance(s(0), &mut rng);
        assert_eq!(link.poll_sockets(), Some(Sockets::Connect { hub: 0, key: 0 }));
        assert_eq!(link.poll_sockets(), None);
        (link, rng)
    }

    #[test]
    fn hello_is_said_at_once_and_again_with_growing_waits_until_welcome() {
        let (mut link, mut rng) = connected(&[1]);
        let mut now = s(0);
        let mut waits = Vec::new();
        for _ in 0..4 {
            assert!(link.wants_hello(now));
            link.said_hello(now, &mut rng);
            assert!(!link.wants_hello(now));
            let next = link.next_deadline();
            waits.push(next - now);
            now = next;
        }
        assert!(waits.iter().zip([1, 2, 4, 8]).all(|(w, most)| *w <= s(most) && *w * 2 >= s(most)));
        assert_eq!(link.welcome(now, A, false), Welcomed::Anew);
        assert!(link.is_up() && !link.wants_hello(s(1000)));
        assert_eq!(link.welcome(now, A, false), Welcomed::Known);
    }

    #[test]
    fn a_partial_hello_is_followed_by_a_whole_one() {
        let (mut link, mut rng) = connected(&[1]);
        link.said_hello(s(0), &mut rng);
        link.welcome(s(1), A, true);
        assert!(link.is_up() && link.wants_hello(s(1)));
        link.said_hello(s(1), &mut rng);
        assert!(!link.wants_hello(s(2)) && link.wants_hello(s(6)), "until it is answered");
        link.welcome(s(6), A, false);
        assert!(!link.wants_hello(s(60)));
    }

    #[test]
    fn ninety_seconds_without_a_word_are_silence() {
        let (mut link, mut rng) = connected(&[1]);
        link.welcome(s(1), A, false);
        link.beacon(s(30), A);
        link.advance(s(119), &mut rng);
        assert!(link.is_up());
        link.advance(s(120), &mut rng);
        assert!(!link.is_up());
        assert_eq!(link.poll_sockets(), Some(Sockets::Disconnect));
        let again = link.next_deadline();
        assert!(again > s(120) && again <= s(121));
        link.advance(again, &mut rng);
        assert_eq!(link.poll_sockets(), Some(Sockets::Connect { hub: 0, key: 0 }));
    }

    #[test]
    fn after_repeated_silence_the_next_key_and_then_the_next_hub_is_tried() {
        let (mut link, mut rng) = connected(&[2, 1]);
        let mut seen = vec![(0, 0)];
        let mut longest = Duration::ZERO;
        while seen.len() < 30 {
            let now = link.next_deadline();
            if link.wants_hello(now) {
                link.said_hello(now, &mut rng);
            }
            link.advance(now, &mut rng);
            if let Some(Sockets::Connect { hub, key }) = link.poll_sockets() {
                seen.push((hub, key));
            } else if !link.is_connected() {
                longest = longest.max(link.next_deadline() - now);
            }
        }
        let expected = [(0, 0), (0, 1), (1, 0)].into_iter().cycle();
        let expected = expected.flat_map(|at| std::iter::repeat_n(at, 3)).take(30);
        assert_eq!(seen, expected.collect::<Vec<_>>());
        assert!(longest <= BACKOFF_MOST && longest >= BACKOFF_MOST / 2);
    }

    #[test]
    fn another_start_of_the_hub_gets_a_hello_and_its_welcome_is_new() {
        let (mut link, mut rng) = connected(&[1]);
        link.said_hello(s(0), &mut rng);
        link.welcome(s(1), A, false);
        link.beacon(s(2), B);
        assert!(!link.is_up() && link.wants_hello(s(2)));
        assert_eq!(link.poll_sockets(), None, "the connection stays");
        assert_eq!(link.welcome(s(3), B, false), Welcomed::Anew);
    }

    #[test]
    fn a_beacon_cuts_the_wait_for_the_next_hello_short() {
        let (mut link, mut rng) = connected(&[1]);
        for at in [0, 1, 3, 7] {
            link.said_hello(s(at), &mut rng);
        }
        link.beacon(s(7), A);
        assert!(!link.wants_hello(s(7)) && link.wants_hello(s(8)));
    }

    #[test]
    fn a_welcome_by_another_start_counts_even_without_its_beacon() {
        let (mut link, _) = connected(&[1]);
        assert_eq!(link.welcome(s(1), A, false), Welcomed::Anew);
        assert_eq!(link.welcome(s(2), B, false), Welcomed::Anew);
    }
}
