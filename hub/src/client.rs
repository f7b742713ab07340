//! A small synchronous client of the hub's JSON protocol (`docs/CLIENT_PROTOCOL.md`): what the
//! CLI, the tests and the benchmarks use.
//!
//! One request is one JSON frame, so is its reply; replies carry the request's id, so several
//! requests may be under way. A hub that is away is found out in bounded time, and said why.
//!
//! ```no_run
//! # use std::time::Duration;
//! use fieldpost_hub::client::{Address, Client};
//! use serde_json::json;
//! let mut client = Client::open(&Address::local_default())?;
//! let status = client.call("status", json!({}), Duration::from_secs(5))?;
//! println!("{status}");
//! # Ok::<(), fieldpost_hub::client::Error>(())
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{self, PollEvents, SocketType};
use fieldpost_sockets::{Errno, Frame, Keepalive, KeyPair, PublicKey, Socket};
use fieldpost_wire::{RunId, UnixMillis};
use nix::errno::Errno as Sys;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::{LOCAL_EVENTS, LOCAL_SOCKET};

mod events;
mod monitor;

pub use events::{Event, Events};
use monitor::{Monitor, Sight};

/// The longest frame either side sends.
const MOST_FRAME: i64 = 65_600;
/// Replies kept for later while another is waited for.
const MOST_ASIDE: usize = 64;

const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    unacknowledged: Duration::from_secs(60),
};

/// Where a hub is, and who asks.
#[derive(Debug, Clone)]
pub enum Address {
    /// On this host: no key, admin.
    Local {
        /// Its socket for requests.
        socket: PathBuf,
        /// Its socket for events.
        events: PathBuf,
    },
    /// Anywhere.
    Remote {
        /// `tcp://host:4512`
        hub: String,
        /// `tcp://host:4513`
        events: String,
        /// The hub's public key.
        server: PublicKey,
        /// The client's own.
        keys: KeyPair,
    },
}

impl Address {
    /// Where a hub on this host listens unless its configuration says otherwise.
    #[must_use]
    pub fn local_default() -> Self {
        Self::Local { socket: LOCAL_SOCKET.into(), events: LOCAL_EVENTS.into() }
    }

    fn hub(&self) -> String {
        match self {
            Self::Local { socket, .. } => format!("ipc://{}", socket.display()),
            Self::Remote { hub, .. } => hub.clone(),
        }
    }

    fn events(&self) -> String {
        match self {
            Self::Local { events, .. } => format!("ipc://{}", events.display()),
            Self::Remote { events, .. } => events.clone(),
        }
    }

    /// A socket set up for this address, not yet connected.
    fn socket(&self, context: &zmq::Context, kind: SocketType) -> Result<Socket, Error> {
        let socket = Socket::new(context, kind)?;
        socket.set_maxmsgsize(MOST_FRAME)?;
        socket.set_reconnect_ivl(50)?;
        socket.set_reconnect_ivl_max(2_000)?;
        if let Self::Remote { server, keys, .. } = self {
            socket.join_curve(server, &keys.public, &keys.secret)?;
            socket.keep_alive(KEEPALIVE)?;
        }
        Ok(socket)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { socket, .. } => write!(f, "{}", socket.display()),
            Self::Remote { hub, .. } => f.write_str(hub),
        }
    }
}

/// Why a request got no answer, or not the one hoped for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No hub answers.
    Away {
        /// Where it was looked for, and what was seen there.
        what: String,
        /// What may help.
        hint: String,
    },
    /// The hub, or this host, does not let this client in.
    NotAllowed {
        /// What was seen.
        what: String,
        /// What may help.
        hint: String,
    },
    /// The hub answered with an error.
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The hub answered something that is not the protocol.
    Odd(String),
    /// libzmq failed.
    Socket(Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { what, .. } | Self::NotAllowed { what, .. } => f.write_str(what),
            Self::Refused { message, .. } => f.write_str(message),
            Self::Odd(what) => write!(f, "the hub's answer is not understood: {what}"),
            Self::Socket(error) => write!(f, "socket: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno)
    }
}

impl From<zmq::Error> for Error {
    fn from(error: zmq::Error) -> Self {
        Self::Socket(error.into())
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The request it answers.
    pub id: u64,
    /// Its fields, or what was refused.
    pub result: Result<Value, Error>,
}

/// A connection to a hub.
pub struct Client {
    socket: Socket,
    frame: Frame,
    monitor: Monitor,
    context: zmq::Context,
    address: Address,
    next_id: u64,
    aside: VecDeque<Reply>,
}

impl Client {
    /// Sets up the connection. A local hub that is not there is found out at once, a remote one
    /// at the first call.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::NotAllowed`] or [`Error::Socket`].
    pub fn open(address: &Address) -> Result<Self, Error> {
        if let Address::Local { socket, .. } = address {
            knock(socket)?;
        }
        let context = zmq::Context::new();
        let socket = address.socket(&context, SocketType::DEALER)?;
        let monitor = Monitor::of(&context, &socket)?;
        socket.connect(&address.hub()).map_err(|error| Error::Away {
            what: format!("{address} is no address to connect to: {error}"),
            hint: "expected tcp://HOST:PORT".to_owned(),
        })?;
        Ok(Self {
            socket,
            frame: Frame::new(),
            monitor,
            context,
            address: address.clone(),
            next_id: 1,
            aside: VecDeque::new(),
        })
    }

    /// Subscribes to live events with these topics (`run/<id>/`, `node/<id>/`, `job/<name>/`).
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn events(&self, topics: &[&str]) -> Result<Events, Error> {
        let socket = self.address.socket(&self.context, SocketType::SUB)?;
        for topic in topics {
            socket.set_subscribe(topic.as_bytes())?;
        }
        socket.connect(&self.address.events())?;
        Ok(Events::new(socket))
    }

    /// Sends a request and waits for its reply, `wait` at most.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn call(&mut self, op: &str, fields: Value, wait: Duration) -> Result<Value, Error> {
        let until = Instant::now() + wait;
        let id = self.send(op, fields)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.receive_fresh(left)? {
                Some(reply) if reply.id == id => return reply.result,
                Some(reply) => self.set_aside(reply),
                None => return Err(self.away(wait)),
            }
        }
    }

    /// Like [`Self::call`], with the answer's fields in a type.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn call_as<T>(&mut self, op: &str, fields: Value, wait: Duration) -> Result<T, Error>
    where
        T: DeserializeOwned,
    {
        let answer = self.call(op, fields, wait)?;
        serde_json::from_value(answer).map_err(|error| Error::Odd(error.to_string()))
    }

    /// Sends a request, gives its id and does not wait.
    ///
    /// # Errors
    /// [`Error::Away`] when too many requests wait for a hub that is not there.
    pub fn send(&mut self, op: &str, fields: Value) -> Result<u64, Error> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = Map::new();
        request.insert("id".to_owned(), id.into());
        request.insert("op".to_owned(), op.into());
        if let Value::Object(fields) = fields {
            request.extend(fields);
        }
        match self.socket.transmit(Value::Object(request).to_string().as_bytes()) {
            Ok(()) => Ok(id),
            Err(Errno::EAGAIN) => Err(self.away(Duration::ZERO)),
            Err(error) => Err(error.into()),
        }
    }

    /// The next reply, whichever it answers; `None` when none came within `wait`.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] as soon as the hub refuses the key; [`Error::Odd`].
    pub fn receive(&mut self, wait: Duration) -> Result<Option<Reply>, Error> {
        match self.aside.pop_front() {
            Some(reply) => Ok(Some(reply)),
            None => self.receive_fresh(wait),
        }
    }

    /// Keeps a reply that came while another was waited for. The oldest of too many are those of
    /// requests that were given up.
    fn set_aside(&mut self, reply: Reply) {
        if self.aside.len() >= MOST_ASIDE {
            self.aside.pop_front();
        }
        self.aside.push_back(reply);
    }

    fn receive_fresh(&mut self, wait: Duration) -> Result<Option<Reply>, Error> {
        let until = Instant::now() + wait;
        loop {
            match self.socket.receive(&mut self.frame) {
                Ok(()) => return reply(self.frame.bytes()).map(Some),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.monitor.look()?;
            if let Sight::Refused = self.monitor.sight() {
                return Err(self.away(wait));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut items = [
                self.socket.as_poll_item(PollEvents::POLLIN),
                self.monitor.socket().as_poll_item(PollEvents::POLLIN),
            ];
            let ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
            match zmq::poll(&mut items, ms) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The socket, for a caller that waits on several things; it then calls [`Self::receive`]
    /// with a zero wait.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// How many connections there were so far. A request made on an earlier one is not answered
    /// any more, where the hub restarted in between.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.monitor.welcomes()
    }

    /// Where it is connected to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What the lack of an answer means, by what the connection went through.
    #[must_use]
    pub fn away(&self, waited: Duration) -> Error {
        let address = &self.address;
        let seconds = waited.as_secs_f64();
        match self.monitor.sight() {
            Sight::Nothing => Error::Away {
                what: format!("no hub answers at {address}"),
                hint: "is `fieldpost hub` running there, and the port open? Is the address right?"
                    .to_owned(),
            },
            Sight::Connected => Error::Away {
                what: format!("something listens at {address}, but it does not speak as a hub"),
                hint: "is this the hub's clients' port (4512)? Is --server-key the hub's key?"
                    .to_owned(),
            },
            Sight::Broken => Error::Away {
                what: format!("{address} breaks the handshake off"),
                hint: "is --server-key the hub's key? `fieldpost key show` on the hub's key file \
                       prints it; is the port the clients' one (4512)?"
                    .to_owned(),
            },
            Sight::Refused => Error::NotAllowed {
                what: format!("the hub at {address} does not let this key in"),
                hint: "the hub's configuration needs a [[client]] block with its public key \
                       (`fieldpost key show FILE` prints it), and a reload (SIGHUP)"
                    .to_owned(),
            },
            Sight::Welcome => Error::Away {
                what: format!("the hub at {address} did not answer within {seconds:.1} s"),
                hint: "it may be busy or stopped; --patience waits longer".to_owned(),
            },
        }
    }
}

/// Connects without waiting for a hub that hangs: its queue of connections may be full.
fn connect_at_once(path: &std::path::Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        // It is there; whether it answers is seen later.
        Err(Sys::EAGAIN) => Ok(()),
        connected => connected,
    }
}

/// Whether something listens at a local socket: libzmq would only try again, silently.
fn knock(path: &std::path::Path) -> Result<(), Error> {
    let shown = path.display();
    let error = match connect_at_once(path) {
        Ok(()) => return Ok(()),
        Err(errno) => io::Error::from(errno),
    };
    Err(match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotAllowed {
            what: format!("this user may not open the hub's local socket {shown}"),
            hint: "use sudo, or a client key with --hub tcp://HOST:4512".to_owned(),
        },
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Away {
            what: format!("no hub runs on this host: nothing listens at {shown}"),
            hint: "start it with `fieldpost hub`, or say where it is: --hub tcp://HOST:4512 \
                   (or FIELDPOST_HUB)"
                .to_owned(),
        },
        _ => Error::Away {
            what: format!("the hub's local socket {shown} can't be opened: {error}"),
            hint: String::new(),
        },
    })
}

fn reply(bytes: &[u8]) -> Result<Reply, Error> {
    let odd = |what: &str| Error::Odd(what.to_owned());
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Error::Odd(error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(odd("no object"));
    };
    // A request whose id the hub could not read is answered with id null; it is not one of ours.
    let id = fields.remove("id").and_then(|id| id.as_u64()).unwrap_or(0);
    if fields.remove("ok") == Some(Value::Bool(true)) {
        return Ok(Reply { id, result: Ok(Value::Object(fields)) });
    }
    let error = fields.remove("error").ok_or_else(|| odd("neither ok nor error"))?;
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let refused = Error::Refused { code: text("code"), message: text("message") };
    Ok(Reply { id, result: Err(refused) })
}

/// A run id of this moment, to submit with: a repeated submit is then still one run.
///
/// # Errors
/// Whatever reading `/dev/urandom` gives.
pub fn new_run_id() -> io::Result<RunId> {
    use io::Read as _;
    let mut random = [0; 10];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Ok(RunId::v7(UnixMillis(ms), random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_as_the_protocol_says() {
        let ok = reply(br#"{"id":7,"ok":true,"run_id":"x"}"#).unwrap();
        assert_eq!(ok.id, 7);
        assert_eq!(ok.result.unwrap()["run_id"], "x");
        let no = reply(br#"{"id":8,"ok":false,"error":{"code":"c","message":"m"}}"#).unwrap();
        let refused = Error::Refused { code: "c".to_owned(), message: "m".to_owned() };
        assert_eq!(no.result, Err(refused));
        for odd in [&b"\xff"[..], b"[]", b"{}", b"{\"id\":1}"] {
            assert!(matches!(reply(odd), Err(Error::Odd(_))));
        }
    }

    #[test]
    fn a_local_hub_that_is_not_there_is_away_at_once() {
        let dir = std::env::temp_dir();
        let address = Address::Local {
            socket: dir.join("fieldpost-no-such.sock"),
            events: dir.join("fieldpost-no-such-events.sock"),
        };
        assert!(matches!(Client::open(&address), Err(Error::Away { .. })));
    }

    #[test]
    fn a_local_hub_that_hangs_holds_nobody_at_the_door() {
        use nix::sys::socket::{Backlog, bind, listen};
        let path = std::env::temp_dir().join(format!("fieldpost-hangs-{}", std::process::id()));
        std::fs::remove_file(&path).ok();
        let flags = SockFlag::SOCK_CLOEXEC;
        let door = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(door.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&door, Backlog::new(0).unwrap()).unwrap();
        for _ in 0..10 {
            knock(&path).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
    }
}
