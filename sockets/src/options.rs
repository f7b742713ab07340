//! Socket options that rust-zmq does not wrap, named after what they are for.

use std::time::Duration;

use crate::{Errno, PublicKey, SecretKey, Socket};

const XPUB_NODROP: i32 = 69;
const XPUB_MANUAL: i32 = 71;
const XPUB_VERBOSER: i32 = 78;
const TCP_MAXRT: i32 = 80;
const ZAP_ENFORCE_DOMAIN: i32 = 93;

/// How soon a dead TCP connection is noticed (tcp(7): `TCP_KEEPIDLE`, `TCP_KEEPINTVL`,
/// `TCP_KEEPCNT`, `TCP_USER_TIMEOUT`).
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds.
    pub idle: Duration,
    /// Time between probes; whole seconds.
    pub interval: Duration,
    /// Unanswered probes until the connection is dead.
    pub count: u16,
    /// Longest time that sent data may stay unacknowledged.
    pub unacknowledged: Duration,
}

/// ZMTP heartbeats: PINGs that this end sends.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    /// Between two PINGs.
    pub interval: Duration,
    /// How long to wait for the answer; at most the interval.
    pub timeout: Duration,
    /// What the peer is told to use as its own timeout; below 65.5 s, libzmq's counter overflows
    /// above.
    pub ttl: Duration,
}

impl Socket {
    /// Makes this a CURVE server whose peers are judged by the ZAP handler under `domain`, and
    /// refuses them where there is no handler (libzmq's own default admits everybody then).
    ///
    /// # Errors
    /// The library was built without CURVE.
    pub fn serve_curve(&self, secret: &SecretKey, domain: &str) -> Result<(), Errno> {
        self.set_zap_domain(domain)?;
        self.set_int(ZAP_ENFORCE_DOMAIN, 1)?;
        self.set_curve_server(true)?;
        self.set_curve_secretkey(secret.bytes())?;
        Ok(())
    }

    /// Makes this a CURVE client of the server with that key. Counts from the next connect.
    ///
    /// # Errors
    /// The library was built without CURVE.
    pub fn join_curve(
        &self,
        server: &PublicKey,
        public: &PublicKey,
        secret: &SecretKey,
    ) -> Result<(), Errno> {
        self.set_curve_serverkey(&server.0)?;
        self.set_curve_publickey(&public.0)?;
        self.set_curve_secretkey(secret.bytes())?;
        Ok(())
    }

    /// An XPUB that hands each subscription to us and subscribes nobody by itself: every
    /// subscription and cancellation is received, then [`Self::admit`]ted or not.
    ///
    /// # Errors
    /// Not an XPUB.
    pub fn subscribe_by_hand(&self) -> Result<(), Errno> {
        self.set_int(XPUB_MANUAL, 1)?;
        self.set_int(XPUB_VERBOSER, 1)
    }

    /// Subscribes the peer whose subscription was received last.
    ///
    /// # Errors
    /// Not a manual XPUB.
    pub fn admit(&self, topic: &[u8]) -> Result<(), Errno> {
        self.set_bytes(zmq_sys::ZMQ_SUBSCRIBE as i32, topic)
    }

    /// Unsubscribes the peer whose cancellation was received last.
    ///
    /// # Errors
    /// Not a manual XPUB.
    pub fn dismiss(&self, topic: &[u8]) -> Result<(), Errno> {
        self.set_bytes(zmq_sys::ZMQ_UNSUBSCRIBE as i32, topic)
    }

    /// An XPUB that says [`Errno::EAGAIN`] at the high-water mark instead of dropping.
    ///
    /// # Errors
    /// Not an XPUB.
    pub fn never_drop(&self) -> Result<(), Errno> {
        self.set_int(XPUB_NODROP, 1)
    }

    /// TCP keepalive on every connection made or accepted from now on.
    ///
    /// # Errors
    /// None on Linux.
    pub fn keep_alive(&self, keepalive: Keepalive) -> Result<(), Errno> {
        self.set_tcp_keepalive(1)?;
        self.set_tcp_keepalive_idle(seconds(keepalive.idle))?;
        self.set_tcp_keepalive_intvl(seconds(keepalive.interval))?;
        self.set_tcp_keepalive_cnt(i32::from(keepalive.count))?;
        self.set_int(TCP_MAXRT, millis(keepalive.unacknowledged))
    }

    /// Heartbeats from this end.
    ///
    /// # Errors
    /// A TTL that libzmq does not take.
    pub fn heartbeat(&self, liveness: Liveness) -> Result<(), Errno> {
        self.set_heartbeat_ivl(millis(liveness.interval))?;
        self.set_heartbeat_timeout(millis(liveness.timeout))?;
        self.set_heartbeat_ttl(millis(liveness.ttl))?;
        Ok(())
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
