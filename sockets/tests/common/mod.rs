//! Waiting for a thing instead of sleeping, and a small ZAP handler.

#![allow(dead_code, reason = "each test file uses its part")]

use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{self, Context, POLLIN, REP, SocketType};
use fieldpost_sockets::{Errno, Frame, KeyPair, PublicKey, Socket};

/// Where every test listens: a free port of the loopback interface.
pub const ANYWHERE: &str = "tcp://127.0.0.1:*";

/// Repeats `step` whenever one of the sockets has something, until it gives a value.
///
/// # Panics
/// After ten seconds.
pub fn within<T>(sockets: &[&Socket], mut step: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = step() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain");
        let mut items: Vec<_> = sockets.iter().map(|socket| socket.as_poll_item(POLLIN)).collect();
        zmq::poll(&mut items, 50).unwrap();
    }
}

/// Receives into the frame; whether there was one.
pub fn took(socket: &Socket, frame: &mut Frame) -> bool {
    match socket.receive(frame) {
        Ok(()) => true,
        Err(Errno::EAGAIN) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// The frames of one message, if there is one.
pub fn message(socket: &Socket) -> Option<Vec<Vec<u8>>> {
    let mut frame = Frame::new();
    let mut frames = Vec::new();
    while took(socket, &mut frame) {
        frames.push(frame.bytes().to_vec());
        if !frame.more() {
            return Some(frames);
        }
    }
    None
}

/// Binds to a free port and says which.
pub fn bound(socket: &Socket) -> String {
    socket.bind(ANYWHERE).unwrap();
    socket.get_last_endpoint().unwrap().unwrap()
}

/// A CURVE server with enforced domain, and the key that its clients need.
pub fn server(context: &Context, kind: SocketType) -> (Socket, PublicKey) {
    let keys = KeyPair::generate();
    let socket = Socket::new(context, kind).unwrap();
    socket.serve_curve(&keys.secret, "tests").unwrap();
    (socket, keys.public)
}

/// A CURVE client of that server, connected.
pub fn client(
    context: &Context,
    kind: SocketType,
    keys: &KeyPair,
    server: &PublicKey,
    to: &str,
) -> Socket {
    let socket = Socket::new(context, kind).unwrap();
    socket.join_curve(server, &keys.public, &keys.secret).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// A ZAP handler that knows one peer. To be made before the servers.
pub struct Handler {
    pub socket: Socket,
    known: (PublicKey, &'static str),
}

impl Handler {
    pub fn new(context: &Context, key: PublicKey, name: &'static str) -> Self {
        let socket = Socket::new(context, REP).unwrap();
        socket.bind("inproc://zeromq.zap.01").unwrap();
        Self { socket, known: (key, name) }
    }

    /// Answers what waits: ZMQ RFC 27.
    pub fn answer(&self) {
        while let Some(request) = message(&self.socket) {
            assert_eq!(request[2], b"tests", "the domain");
            let admitted = request[6] == self.known.0.0;
            let (code, name) = if admitted { ("200", self.known.1) } else { ("400", "") };
            for part in [b"1.0", request[1].as_slice(), code.as_bytes(), b"", name.as_bytes()] {
                self.socket.transmit_more(part).unwrap();
            }
            self.socket.transmit(b"").unwrap();
        }
    }
}

/// Which of these events a monitored socket reports first.
pub struct Monitor(pub Socket);

impl Monitor {
    pub fn of(context: &Context, socket: &Socket, events: u32) -> Self {
        socket.monitor("inproc://monitor", events.try_into().unwrap()).unwrap();
        let monitor = Socket::new(context, zmq::PAIR).unwrap();
        monitor.connect("inproc://monitor").unwrap();
        Self(monitor)
    }

    pub fn event(&self) -> Option<u32> {
        let frames = message(&self.0)?;
        Some(u16::from_ne_bytes(frames[0][..2].try_into().unwrap()).into())
    }
}
