//! The hub's sockets, bound: four with CURVE for the world, two with a file mode for this host.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldpost_sockets::zmq::{self, SocketType};
use fieldpost_sockets::{Errno, Keepalive, KeyPair, Socket};
use fieldpost_wire::limits::MAX_MESSAGE_SIZE;
use nix::sys::stat::{Mode, umask};

use super::zap::{Zap, domain};
use crate::config::{self, Config, Endpoint, Listen};
use crate::hub::Door;

/// What a subscriber may send: topics are short.
const SUBSCRIPTION_SIZE: i64 = 512;
/// A peer that connected and does not get through its handshake is dropped after this long. A key
/// that is not accepted yet waits for just that, and comes again.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that the kernel holds while a fleet comes back at once; net.core.somaxconn caps it.
const BACKLOG: i32 = 4_096;
/// Messages from one peer that wait to be read: a fleet that floods us makes us hold so many of
/// each node. What is beyond waits in the kernel, and then at the peer.
const RECEIVE_HIGH_WATER: i32 = 64;
/// Messages for one peer that wait to be sent, where it does not read: beyond it commands are
/// dropped, and the core sends again.
const SEND_HIGH_WATER: i32 = 1_000;
/// Events for one client that does not keep up; beyond it they are dropped, and the client has
/// the results' cursor.
const EVENTS_HIGH_WATER: i32 = 10_000;
/// How soon a dead connection is noticed: no ZMTP heartbeats, whose timers cost the hub the
/// square of its connections.
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    unacknowledged: Duration::from_secs(120),
};

/// All sockets.
pub struct Ports {
    /// Who may connect. First, since libzmq lets everybody in where nobody answers.
    pub zap: Zap,
    /// XPUB: commands to nodes.
    pub triggers: Socket,
    /// PULL: reports from nodes.
    pub results: Socket,
    /// ROUTER: requests of clients.
    pub clients: Socket,
    /// ROUTER: requests from this host.
    pub local: Socket,
    /// XPUB: events for clients.
    pub events: Socket,
    /// XPUB: events for this host.
    pub local_events: Socket,
    /// Where the two for this host are.
    paths: [PathBuf; 2],
}

/// A place that can't be used: an address, a file.
#[derive(Debug)]
pub struct BadPlace {
    /// Which, and why.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
    /// Whether it may be had later: another has it, the network is not up yet, the disk is full.
    pub passing: bool,
}

impl Ports {
    /// Binds all of them.
    ///
    /// # Errors
    /// The first address that can't be listened at.
    pub fn bind(
        context: &zmq::Context,
        config: &Config,
        keys: &KeyPair,
        second: Option<&KeyPair>,
    ) -> Result<Self, BadPlace> {
        let ports = Self::make(context, &config.local).map_err(|errno| BadPlace {
            message: format!("libzmq gives no sockets: {errno}"),
            hint: Some("is the limit of open files too low? (ulimit -n)".to_owned()),
            passing: false,
        })?;
        ports.listen(&config.listen, keys)?;
        if let (Some(second), Some(keys)) = (&config.second_key, second) {
            // libzmq copies a socket's options at each bind: so both keys are live.
            ports.listen(&second.listen, keys)?;
        }
        bind_local(&ports.local, &config.local.socket)?;
        bind_local(&ports.local_events, &config.local.events)?;
        Ok(ports)
    }

    fn make(context: &zmq::Context, at: &config::Local) -> Result<Self, Errno> {
        let zap = Zap::bind(context)?;
        let triggers = Socket::new(context, SocketType::XPUB)?;
        triggers.subscribe_by_hand()?;
        triggers.set_maxmsgsize(SUBSCRIPTION_SIZE)?;
        let results = Socket::new(context, SocketType::PULL)?;
        results.set_maxmsgsize(MAX_MESSAGE_SIZE)?;
        let clients = Socket::new(context, SocketType::ROUTER)?;
        let local = Socket::new(context, SocketType::ROUTER)?;
        for socket in [&clients, &local] {
            socket.set_maxmsgsize(MAX_MESSAGE_SIZE)?;
        }
        let events = Socket::new(context, SocketType::XPUB)?;
        let local_events = Socket::new(context, SocketType::XPUB)?;
        for socket in [&events, &local_events] {
            socket.subscribe_by_hand()?;
            socket.set_maxmsgsize(SUBSCRIPTION_SIZE)?;
        }
        for socket in [&triggers, &results, &clients, &local, &events, &local_events] {
            socket.set_rcvhwm(RECEIVE_HIGH_WATER)?;
            socket.set_sndhwm(SEND_HIGH_WATER)?;
        }
        for socket in [&events, &local_events] {
            socket.set_sndhwm(EVENTS_HIGH_WATER)?;
        }
        for (socket, door) in [
            (&triggers, Door::Triggers),
            (&results, Door::Results),
            (&clients, Door::Clients),
            (&events, Door::Events),
        ] {
            socket.set_backlog(BACKLOG)?;
            socket.set_handshake_ivl(i32::try_from(HANDSHAKE.as_millis()).unwrap_or(i32::MAX))?;
            socket.keep_alive(KEEPALIVE)?;
            socket.set_zap_domain(domain(door))?;
        }
        let paths = [at.socket.clone(), at.events.clone()];
        Ok(Self { zap, triggers, results, clients, local, events, local_events, paths })
    }

    /// Takes the local sockets' names away: a hub that stopped is then known to be away.
    pub fn forget_local(&self) {
        for path in &self.paths {
            if let Err(error) = fs::remove_file(path) {
                log::debug!("{} stays: {error}", path.display());
            }
        }
    }

    fn listen(&self, listen: &Listen, keys: &KeyPair) -> Result<(), BadPlace> {
        for (socket, door, endpoint) in [
            (&self.triggers, Door::Triggers, &listen.triggers),
            (&self.results, Door::Results, &listen.results),
            (&self.clients, Door::Clients, &listen.clients),
            (&self.events, Door::Events, &listen.events),
        ] {
            let place = |errno: Errno| BadPlace {
                message: format!("{endpoint} can't be listened at: {errno}"),
                hint: Some(hint(errno)),
                passing: matches!(errno.0, libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::ENODEV),
            };
            socket.serve_curve(&keys.secret, domain(door)).map_err(place)?;
            socket.set_ipv6(!endpoint.is_ipv4()).map_err(|error| place(error.into()))?;
            socket.bind(endpoint.as_str()).map_err(|error| place(error.into()))?;
            // With port * or 0 the system chose.
            let bound = match socket.get_last_endpoint() {
                Ok(Ok(bound)) => bound,
                _ => endpoint.to_string(),
            };
            log::info!("listening for {} at {bound}", domain(door));
            warn_of_ephemeral(endpoint);
        }
        Ok(())
    }
}

fn hint(errno: Errno) -> String {
    match errno.0 {
        libc::EADDRINUSE => "does another hub run here? `ss -ltnp` shows who has the port",
        libc::EADDRNOTAVAIL | libc::ENODEV => {
            "this host has no such address yet; * is all that it ever has"
        }
        libc::EACCES => "ports below 1024 need privileges; the defaults do not",
        _ => "",
    }
    .to_owned()
}

/// Ports that the kernel gives to outgoing connections may be taken when the hub comes back.
fn warn_of_ephemeral(endpoint: &Endpoint) {
    let port = endpoint.as_str().rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    if port.is_some_and(|port| (32_768..61_000).contains(&port)) {
        log::warn!("{endpoint} is among the ports of outgoing connections: one may take it");
    }
}

fn bind_local(socket: &Socket, path: &Path) -> Result<(), BadPlace> {
    let shown = path.display();
    let bad = |message: String| BadPlace { message, hint: None, passing: false };
    if UnixStream::connect(path).is_ok() {
        return Err(BadPlace {
            message: format!("somebody listens at {shown} already"),
            hint: Some("does another hub run here? Two need two [local] sections".to_owned()),
            passing: true,
        });
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|error| bad(format!("{} can't be made: {error}", parent.display())))?;
    }
    // From its first moment on nobody else may open it.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = socket.bind(&format!("ipc://{shown}"));
    umask(before);
    bound.map_err(|error| bad(format!("{shown} can't be listened at: {error}")))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|error| bad(format!("{shown} can't be closed to others: {error}")))?;
    log::info!("listening for this host at {shown}");
    Ok(())
}
