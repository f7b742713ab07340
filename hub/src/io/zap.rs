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

/// Where libzmq asks.
const ENDPOINT: &str = "inproc://zeromq.zap.01";

/// Which socket somebody wants to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// Commands to nodes.
    Triggers,
    /// Reports of nodes.
    Results,
    /// Requests of clients.
    Clients,
    /// Events for clients.
    Events,
}

impl Door {
    /// The ZAP domain of its socket.
    #[must_use]
    pub fn domain(self) -> &'static str {
        match self {
            Self::Triggers => "triggers",
            Self::Results => "results",
            Self::Clients => "clients",
            Self::Events => "events",
        }
    }

    fn of(domain: &[u8]) -> Option<Self> {
        [Self::Triggers, Self::Results, Self::Clients, Self::Events]
            .into_iter()
            .find(|door| door.domain().as_bytes() == domain)
    }
}

/// What is said to somebody at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Come in.
    Welcome,
    /// Not yet: try again. libzmq's client does.
    Later,
    /// No. libzmq's client never tries again by itself.
    No,
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
    pub fn answer(
        &mut self,
        judge: impl FnOnce(Door, &PublicKey) -> Verdict,
    ) -> Result<bool, Errno> {
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
            Some((door, key)) => match judge(door, &key) {
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
    Some((Door::of(domain)?, PublicKey(key.as_slice().try_into().ok()?)))
}
