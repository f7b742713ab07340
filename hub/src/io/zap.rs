//! Who may connect: the ZAP handler (RFC 27) that libzmq asks at each CURVE handshake.
//!
//! ```text
//! request   ["1.0"] [request id] [domain] [address] [routing id] ["CURVE"] [key: 32 B]
//! reply     ["1.0"] [request id] [status] [text] [user id] [metadata]
//! ```
//!
//! libzmq lets everybody in where there is no handler: so it is bound before the servers, and
//! each of them has a domain that libzmq enforces. One domain a socket: a node's key opens the
//! nodes' sockets only, a client's the clients'. The user id is the peer's public key in Z85.

use fieldpost_sockets::zmq::{self, SocketType};
use fieldpost_sockets::{Errno, Frame, PublicKey, Socket};

use crate::hub::{Door, Verdict};

/// Where libzmq asks.
const ENDPOINT: &str = "inproc://zeromq.zap.01";

/// The ZAP domain of a door's socket.
#[must_use]
pub fn domain(door: Door) -> &'static str {
    match door {
        Door::Triggers => "triggers",
        Door::Results => "results",
        Door::Clients => "clients",
        Door::Events => "events",
    }
}

fn door(domain_asked: &[u8]) -> Option<Door> {
    [Door::Triggers, Door::Results, Door::Clients, Door::Events]
        .into_iter()
        .find(|&door| domain(door).as_bytes() == domain_asked)
}

/// The handler's socket.
pub struct Zap {
    socket: Socket,
    frame: Frame,
}

impl Zap {
    /// Binds it.
    ///
    /// # Errors
    /// libzmq's, such as EADDRINUSE for a second one in this process.
    pub fn bind(context: &zmq::Context) -> Result<Self, Errno> {
        let socket = Socket::new(context, SocketType::REP)?;
        socket.bind(ENDPOINT)?;
        Ok(Self { socket, frame: Frame::new() })
    }

    /// The socket, to wait for.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Answers one request, if there is one. `judge` is asked for well-formed ones.
    ///
    /// # Errors
    /// libzmq's.
    pub fn answer(&mut self, judge: impl FnOnce(Door, &str) -> Verdict) -> Result<bool, Errno> {
        let mut request = Vec::with_capacity(7);
        loop {
            match self.socket.receive(&mut self.frame) {
                Ok(()) => request.push(self.frame.bytes().to_vec()),
                Err(Errno::EAGAIN) if request.is_empty() => return Ok(false),
                Err(error) => return Err(error),
            }
            if !self.frame.more() {
                break;
            }
        }
        let id = request.get(1).map_or(&[][..], Vec::as_slice);
        let (status, text, user) = match parse(&request) {
            Some((door, key)) => match judge(door, &key.to_string()) {
                Verdict::Welcome => ("200", "", Some(key.text())),
                Verdict::Later => ("300", "not yet accepted", None),
                Verdict::No => ("400", "this key is not known here", None),
            },
            None => ("400", "expected a CURVE key", None),
        };
        let user = user.as_ref().map_or(&[][..], |text| &text[..]);
        for part in [b"1.0", id, status.as_bytes(), text.as_bytes(), user] {
            self.socket.transmit_more(part)?;
        }
        self.socket.transmit(b"")?;
        Ok(true)
    }
}

fn parse(request: &[Vec<u8>]) -> Option<(Door, PublicKey)> {
    let [version, _id, domain, _address, _routing_id, mechanism, key] = request else {
        return None;
    };
    if version != b"1.0" || mechanism != b"CURVE" {
        return None;
    }
    Some((door(domain)?, PublicKey(key.as_slice().try_into().ok()?)))
}
