//! Which connection listens to which events: so that a peer can only take back what it asked for.
//!
//! libzmq hands on every unsubscription, also of a topic that its sender never had. When a
//! connection ends it hands on one for each topic that the connection had, without saying whose.
//!
//! A descriptor's number is given out again: an entry stands for a connection only while the
//! socket's inode is the one that was seen.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};

use nix::sys::stat::fstat;

use crate::hub::Side;

/// Most subscriptions: some 20 MB of them. One beyond it is not made.
const MOST: usize = 200_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Listeners {
    topics: HashMap<(Side, Box<[u8]>), Vec<Connection>>,
    count: usize,
    /// Connections have ended that still looked open.
    stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    fd: RawFd,
    inode: u64,
}

impl Connection {
    #[expect(unsafe_code, reason = "libzmq gives a descriptor as a number")]
    fn of(fd: RawFd) -> Option<Self> {
        // SAFETY: fstat(2) only looks, and a number that is closed by now is an error of it.
        let stat = fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
        Some(Self { fd, inode: stat.st_ino })
    }

    fn is_open(&self) -> bool {
        Self::of(self.fd) == Some(*self)
    }
}

impl Listeners {
    /// A connection asks for a topic. Says whether it is to have it: not if it has it already, has
    /// ended meanwhile, or there are too many.
    pub fn add(&mut self, side: Side, topic: &[u8], fd: Option<RawFd>) -> bool {
        let Some(connection) = fd.and_then(Connection::of) else { return false };
        if self.count >= MOST {
            return false;
        }
        let listeners = self.topics.entry((side, topic.into())).or_default();
        if listeners.contains(&connection) {
            return false;
        }
        listeners.push(connection);
        self.count += 1;
        true
    }

    /// A connection takes a topic back. Says whether it had it.
    pub fn remove(&mut self, side: Side, topic: &[u8], fd: RawFd) -> bool {
        let connection = Connection::of(fd);
        let had = self.take(side, topic, |listener| Some(*listener) == connection);
        // It may have ended right behind this.
        self.stale |= !had;
        had
    }

    /// Some connection that asked for a topic has ended. Says whether it had it.
    pub fn ended(&mut self, side: Side, topic: &[u8]) -> bool {
        let had = self.take(side, topic, |listener| !listener.is_open());
        // libzmq may tell it a moment before it closes the socket.
        self.stale |= !had;
        had
    }

    /// What connections had that have ended unseen.
    pub fn sweep(&mut self) -> Vec<(Side, Box<[u8]>)> {
        let mut gone = Vec::new();
        if std::mem::take(&mut self.stale) {
            self.topics.retain(|key, listeners| {
                let before = listeners.len();
                listeners.retain(Connection::is_open);
                let dead = before - listeners.len();
                gone.extend(std::iter::repeat_n(key.clone(), dead));
                !listeners.is_empty()
            });
            self.count -= gone.len();
        }
        gone
    }

    fn take(&mut self, side: Side, topic: &[u8], is_it: impl Fn(&Connection) -> bool) -> bool {
        let key = (side, Box::from(topic));
        let Some(listeners) = self.topics.get_mut(&key) else { return false };
        let Some(at) = listeners.iter().position(is_it) else { return false };
        listeners.swap_remove(at);
        self.count -= 1;
        if listeners.is_empty() {
            self.topics.remove(&key);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_who_asked_for_a_topic_takes_it_back() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut listeners = Listeners::default();
        let side = Side::Remote;
        assert!(listeners.add(side, b"job/a/", Some(one.as_raw_fd())));
        assert!(!listeners.add(side, b"job/a/", Some(one.as_raw_fd())), "it has it already");
        assert!(!listeners.remove(side, b"job/a/", other.as_raw_fd()));
        assert!(listeners.remove(side, b"job/a/", one.as_raw_fd()));
        assert!(!listeners.remove(side, b"job/a/", one.as_raw_fd()));
        assert_eq!(listeners.count, 0);
    }

    #[test]
    fn a_number_that_is_given_out_again_is_another_connection() {
        let mut listeners = Listeners::default();
        let (one, other) = UnixStream::pair().unwrap();
        let side = Side::Local;
        for stream in [&one, &other] {
            assert!(listeners.add(side, b"t/", Some(stream.as_raw_fd())));
        }
        let number = one.as_raw_fd();
        assert!(!listeners.ended(side, b"t/"), "both are open");
        assert!(listeners.sweep().is_empty());
        drop(one);
        let (again, _its_peer) = UnixStream::pair().unwrap();
        if again.as_raw_fd() == number {
            assert!(listeners.add(side, b"t/", Some(number)));
            assert!(listeners.ended(side, b"t/"));
            assert!(listeners.remove(side, b"t/", number), "the dead one went");
        } else {
            assert!(!listeners.ended(side, b"other/"));
            assert_eq!(listeners.sweep(), [(side, Box::from(&b"t/"[..]))]);
        }
        assert!(listeners.remove(side, b"t/", other.as_raw_fd()));
        assert_eq!(listeners.count, 0);
    }
}
