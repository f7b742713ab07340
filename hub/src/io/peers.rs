//! Whose connection each descriptor is: so that a revoked key's connections can be cut, and a
//! peer whose bytes never become messages is found.
//!
//! libzmq owns the descriptors and may close one, and the kernel hand its number out again, at
//! any time. So an entry is only believed while the far end's address is the one that was seen
//! with the key; and a connection is shut down, never closed. Cutting is a courtesy: each
//! message is authorised by its key anyway.

use std::os::fd::RawFd;

use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, shutdown};

use super::process::tcp_received;

/// Length of a public key in Z85.
pub const KEY: usize = 40;

/// Bytes that a peer may have sent that did not come out of libzmq as messages yet: what its
/// pipe holds at its high-water mark, and the system's buffers.
pub const MOST_UNSEEN: u64 = 48 << 20;

/// What a message takes on the wire besides its bytes, at most: ZMTP's frame header and CURVE.
const OVERHEAD: u64 = 9 + 33;

#[derive(Clone)]
struct Peer {
    key: [u8; KEY],
    address: SockaddrStorage,
    checked_ms: u64,
    delivered: u64,
    refused: u32,
}

/// How long an address is believed to be that of the descriptor's key, in milliseconds.
const FRESH_MS: u64 = 10_000;

/// Slots that spare asking libzmq for a message's descriptor: a power of two, a few times what a
/// busy hub has of busy connections.
const SLOTS: usize = 8_192;

/// The table, by descriptor.
pub struct Peers {
    by_fd: Vec<Option<Peer>>,
    /// By where libzmq keeps the key's text, which is one place for each connection.
    slots: Box<[(usize, RawFd)]>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { by_fd: Vec::new(), slots: vec![(0, -1); SLOTS].into_boxed_slice() }
    }
}

impl Peers {
    /// A message of `bytes` bytes came from `key`; `fd` says over which descriptor, and is only
    /// asked when the key's text is not where it was: that costs more than the rest.
    pub fn heard(
        &mut self,
        key: &str,
        fd: impl FnOnce() -> Option<RawFd>,
        bytes: usize,
        now_ms: u64,
    ) {
        let place = key.as_ptr() as usize;
        let slot = (place >> 4).wrapping_mul(0x9e37_79b9) >> 7 & (SLOTS - 1);
        let (seen, known) = self.slots[slot];
        if seen == place
            && let Ok(index) = usize::try_from(known)
            && let Some(Some(peer)) = self.by_fd.get_mut(index)
            && peer.key == key.as_bytes()
            && now_ms.wrapping_sub(peer.checked_ms) < FRESH_MS
        {
            peer.delivered += bytes as u64 + OVERHEAD;
            return;
        }
        if let Some(fd) = fd() {
            self.slots[slot] = (place, fd);
            self.learn(fd, key.as_bytes(), bytes, now_ms);
        }
    }

    /// A subscription of this descriptor's peer was refused. Cuts it when that went on for too
    /// long: libzmq keeps refused ones too. Says whether it did.
    pub fn refused(&mut self, fd: RawFd) -> bool {
        const MOST_REFUSED: u32 = 64;
        let Ok(index) = usize::try_from(fd) else { return false };
        let Some(Some(peer)) = self.by_fd.get_mut(index) else { return false };
        peer.refused += 1;
        peer.refused > MOST_REFUSED && self.cut_one(index)
    }

    /// Cuts one peer that a message just came from, whoever it is.
    pub fn cut_source(&mut self, fd: Option<RawFd>) -> bool {
        let Some(fd) = fd else { return false };
        if let Ok(index) = usize::try_from(fd)
            && let Some(slot) = self.by_fd.get_mut(index)
        {
            *slot = None;
        }
        // The message was received in this turn; its connection may have ended since, and its
        // number been given out again, only to be cut once without need.
        shutdown(fd, Shutdown::Both).is_ok()
    }

    #[cold]
    fn learn(&mut self, fd: RawFd, key: &[u8], bytes: usize, now_ms: u64) {
        let Ok(index) = usize::try_from(fd) else { return };
        // Gone already, or not an internet address: nothing to cut.
        let (Ok(address), Ok(key)) = (getpeername::<SockaddrStorage>(fd), key.try_into()) else {
            return;
        };
        if index >= self.by_fd.len() {
            self.by_fd.resize_with(index + 1, || None);
        }
        let slot = &mut self.by_fd[index];
        let (before, refused) = match slot {
            Some(peer) if peer.key == key && peer.address == address => {
                (peer.delivered, peer.refused)
            }
            _ => (0, 0),
        };
        let delivered = before + bytes as u64 + OVERHEAD;
        *slot = Some(Peer { key, address, checked_ms: now_ms, delivered, refused });
    }

    /// Cuts every connection that is still `key`'s, and says how many.
    pub fn cut(&mut self, key: &[u8]) -> usize {
        let mut cut = 0;
        for index in 0..self.by_fd.len() {
            let Some(peer) = &self.by_fd[index] else { continue };
            if peer.key == key {
                cut += usize::from(self.cut_one(index));
            }
        }
        cut
    }

    /// Cuts the connection behind one descriptor, if it is still the one known.
    fn cut_one(&mut self, index: usize) -> bool {
        let Some(peer) = self.by_fd[index].take() else { return false };
        let Ok(fd) = RawFd::try_from(index) else { return false };
        match getpeername::<SockaddrStorage>(fd) {
            Ok(address) if address == peer.address => shutdown(fd, Shutdown::Both).is_ok(),
            _ => false,
        }
    }

    /// Cuts every TCP connection that has sent far more than came out of it as messages: a
    /// message of endless frames, which libzmq gathers without a bound. Gives the keys, where
    /// known.
    pub fn cut_hoarders(&mut self) -> Vec<Option<String>> {
        let mut found = Vec::new();
        // The kernel hands out the lowest free number: beyond a long gap there is none.
        let mut absent = 0;
        for fd in 3.. {
            if absent > 4_096 {
                break;
            }
            let Some(received) = tcp_received(fd) else {
                absent += 1;
                continue;
            };
            absent = 0;
            let peer = usize::try_from(fd).ok().and_then(|i| self.by_fd.get(i)?.as_ref());
            let delivered = peer.map_or(0, |peer| peer.delivered);
            if received.saturating_sub(delivered) <= MOST_UNSEEN {
                continue;
            }
            let key = peer.map(|peer| String::from_utf8_lossy(&peer.key).into_owned());
            if shutdown(fd, Shutdown::Both).is_ok() {
                found.push(key);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn only_the_connections_of_the_key_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, there)
        };
        let (one, mut one_there) = connect();
        let (two, two_there) = connect();
        let mut peers = Peers::default();
        let (a, b) = ("a".repeat(KEY), "b".repeat(KEY));
        peers.heard(&a, || Some(one.as_raw_fd()), 10, 0);
        peers.heard(&a, || panic!("it is known"), 10, 1);
        peers.heard(&b, || Some(two.as_raw_fd()), 10, 0);
        assert_eq!(peers.cut(a.as_bytes()), 1);
        assert_eq!(one_there.read(&mut [0]).unwrap(), 0);
        two_there.set_nonblocking(true).unwrap();
        assert!((&two_there).read(&mut [0]).is_err(), "it is still open");
    }

    #[test]
    fn a_descriptor_that_changed_hands_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut here = std::os::fd::OwnedFd::from(listener.accept().unwrap().0);
        let fd = here.as_raw_fd();
        let mut peers = Peers::default();
        let a = "a".repeat(KEY);
        peers.heard(&a, || Some(fd), 10, 0);
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other_here, _) = listener.accept().unwrap();
        nix::unistd::dup2(&other_here, &mut here).unwrap();
        assert_eq!(peers.cut(a.as_bytes()), 0);
        drop((there, other));
    }
}
