//! The two sockets to the hub: SUB for commands, PUSH for reports, both with CURVE.
//!
//! They never wait. Delivery rests on the outbox and its acks, not on the queues in here, so
//! those are kept short. After each send and receive, and before each sleep, [`Link::events`] must
//! be asked: libzmq's descriptors are edge triggered.

use std::os::fd::RawFd;
use std::time::Duration;

use fieldpost_sockets::{
    Errno, Events, Frame, Keepalive, KeyPair, Liveness, PublicKey, Socket, zmq,
};
use fieldpost_wire::{ALL_TOPIC, Name, limits::MAX_MESSAGE_SIZE, node_topic};

/// Reports that libzmq queues for the hub: what is lost when the connection dies comes again
/// from the outbox, so little of it saves more than much.
const SEND_QUEUE: i32 = 64;
/// Commands that libzmq queues for us.
const RECEIVE_QUEUE: i32 = 256;
/// The kernel's buffers of each connection, in bytes: as the queues.
const KERNEL_BUFFER: i32 = 16 * 1024;
/// The one that reports leave through: a connection sends no more than this in a round trip, and a
/// backlog shall not take longer for that. Only a backlog fills it.
const REPORT_BUFFER: i32 = 64 * 1024;
/// How long the last reports may take when the agent ends.
const LINGER: i32 = 500;
/// libzmq's own reconnects: this, and up to as much again by the node. It adds jitter of its own
/// only while it does not grow; the growing is the core's.
const RECONNECT: i32 = 1_000;
/// How long a handshake may take on a poor link; then libzmq tries again.
const HANDSHAKE: i32 = 15_000;

/// Where a hub is, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// Its XPUB.
    pub triggers: String,
    /// Its PULL.
    pub results: String,
    /// Its public keys, in order of preference.
    pub server_keys: Vec<PublicKey>,
    /// A SOCKS5 proxy on the way there, `host:port`.
    pub proxy: Option<String>,
}

/// The two sockets.
pub struct Link {
    commands: Socket,
    reports: Socket,
    keys: KeyPair,
    connected: Option<(String, String)>,
    topic: Frame,
    // Dropped last: it waits for the sockets to be closed.
    _context: zmq::Context,
}

impl Link {
    /// Makes the sockets and subscribes, without connecting.
    ///
    /// # Errors
    /// libzmq has no descriptors or no memory.
    pub fn new(node: &Name, keys: KeyPair) -> Result<Self, Errno> {
        let context = zmq::Context::new();
        let commands = Socket::new(&context, zmq::SUB)?;
        let reports = Socket::new(&context, zmq::PUSH)?;
        let spread = RECONNECT + fastrand::i32(0..RECONNECT);
        for socket in [&commands, &reports] {
            socket.set_reconnect_ivl(spread)?;
            socket.set_reconnect_ivl_max(0)?;
            socket.set_handshake_ivl(HANDSHAKE)?;
            socket.set_sndbuf(KERNEL_BUFFER)?;
            socket.set_rcvbuf(KERNEL_BUFFER)?;
            socket.heartbeat(Liveness {
                interval: Duration::from_secs(25),
                timeout: Duration::from_secs(25),
                ttl: Duration::from_secs(60),
            })?;
            socket.keep_alive(Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(15),
                count: 4,
                unacknowledged: Duration::from_secs(60),
            })?;
        }
        reports.set_sndbuf(REPORT_BUFFER)?;
        reports.set_sndhwm(SEND_QUEUE)?;
        reports.set_linger(LINGER)?;
        // The hub sends nothing on this one.
        reports.set_maxmsgsize(512)?;
        commands.set_rcvhwm(RECEIVE_QUEUE)?;
        commands.set_maxmsgsize(MAX_MESSAGE_SIZE)?;
        // In this order: a Welcome, which comes on the second, then proves both.
        commands.set_subscribe(ALL_TOPIC)?;
        commands.set_subscribe(&node_topic(node))?;
        let topic = Frame::new();
        Ok(Self { commands, reports, keys, connected: None, topic, _context: context })
    }

    /// Connects both sockets, expecting this key of the hub.
    ///
    /// # Errors
    /// An address that libzmq does not understand.
    pub fn connect(&mut self, hub: &HubAddress, key: &PublicKey) -> Result<(), Errno> {
        self.disconnect();
        for (socket, address) in [(&self.commands, &hub.triggers), (&self.reports, &hub.results)] {
            // With it on, a name that has both kinds of address resolves to IPv6 only: where
            // that is not routed, the hub would never be reached.
            socket.set_ipv6(address.contains('['))?;
            socket.set_socks_proxy(hub.proxy.as_deref())?;
            socket.join_curve(key, &self.keys.public, &self.keys.secret)?;
        }
        self.commands.connect(&hub.triggers)?;
        self.connected = Some((hub.triggers.clone(), hub.results.clone()));
        self.reports.connect(&hub.results)?;
        Ok(())
    }

    /// Disconnects both sockets, whatever state they are in.
    pub fn disconnect(&mut self) {
        let Some((triggers, results)) = self.connected.take() else { return };
        for (socket, address) in [(&self.commands, triggers), (&self.reports, results)] {
            if let Err(error) = socket.disconnect(&address) {
                log::debug!("disconnecting from {address}: {error}");
            }
        }
    }

    /// Receives the next command's body into `body`; `false`: there is none.
    ///
    /// # Errors
    /// libzmq is in trouble.
    pub fn receive(&mut self, body: &mut Frame) -> Result<bool, Errno> {
        loop {
            if !received(self.commands.receive(&mut self.topic))? {
                return Ok(false);
            }
            let mut frames = 1;
            let mut more = self.topic.more();
            while more && received(self.commands.receive(body))? {
                frames += 1;
                more = body.more();
            }
            if frames == 2 {
                return Ok(true);
            }
            log::debug!("a command of {frames} frames instead of 2 was thrown away");
        }
    }

    /// Offers a report; `false`: there is no room now.
    ///
    /// # Errors
    /// libzmq is in trouble.
    pub fn send(&self, body: &[u8]) -> Result<bool, Errno> {
        received(self.reports.transmit(body))
    }

    /// Whether a command can be received, and whether a report can be sent. Also lets libzmq do
    /// what it has to do in our thread.
    ///
    /// # Errors
    /// libzmq is in trouble.
    pub fn events(&self) -> Result<Events, Errno> {
        let commands = retried(|| self.commands.events())?;
        let reports = retried(|| self.reports.events())?;
        Ok(Events { readable: commands.readable, writable: reports.writable })
    }

    /// The descriptors that become readable when [`Self::events`] may have changed.
    ///
    /// # Errors
    /// libzmq is in trouble.
    pub fn descriptors(&self) -> Result<[RawFd; 2], Errno> {
        Ok([self.commands.descriptor()?, self.reports.descriptor()?])
    }
}

/// Whether it happened, or would have had to wait.
fn received(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn retried<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
