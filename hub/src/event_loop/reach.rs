//! The sockets as the event loop sees them: what may be received, what was touched, and sending.
//!
//! A socket's descriptor is edge-triggered: sending and receiving on it eat the edge, so each
//! socket that was touched is asked for its events before a sleep; the others are not, since
//! poll(2) tells. A receive that found nothing is such a question too.

use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;

use fieldpost_sockets::{Errno, Frame, Socket};
use nix::errno::Errno as Sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Error;
use crate::hub::{Hub, Output, Side};
use crate::io::listeners::Listeners;
use crate::io::peers::Peers;
use crate::io::ports::Ports;

/// Frames of a message that the protocol has no place for, until its sender is cut.
const FRAMES: usize = 4;

/// What is known of a socket.
#[derive(Clone, Copy)]
struct Watch {
    fd: RawFd,
    /// There may be something to receive.
    ready: bool,
    /// The edge of its descriptor may have been eaten.
    touched: bool,
}

/// The sockets, in the order in which a pass goes over them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Zap,
    Clients,
    Local,
    Triggers,
    Events,
    LocalEvents,
    Results,
}

impl Port {
    pub const ALL: [Self; 7] = [
        Self::Zap,
        Self::Clients,
        Self::Local,
        Self::Triggers,
        Self::Events,
        Self::LocalEvents,
        Self::Results,
    ];
}

/// What ended a wait, beside the sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Woken {
    /// The store is done with something.
    pub bell: bool,
    /// There are signals.
    pub signals: bool,
}

/// What sending needs: apart from the core, whose memory the outputs borrow.
pub struct Reach {
    /// All of them.
    pub ports: Ports,
    watches: [Watch; Port::ALL.len()],
    /// Who is connected.
    pub peers: Peers,
    /// Who listens to events.
    pub listeners: Listeners,
    /// Connections that were cut.
    pub cut: u64,
    /// Where the store is to be copied to.
    pub backup: Option<PathBuf>,
}

impl Reach {
    pub fn new(ports: Ports) -> Result<Self, Error> {
        let mut reach = Self {
            ports,
            watches: [Watch { fd: -1, ready: true, touched: true }; Port::ALL.len()],
            peers: Peers::default(),
            listeners: Listeners::default(),
            cut: 0,
            backup: None,
        };
        for port in Port::ALL {
            reach.watches[port as usize].fd = reach.socket(port).descriptor()?;
        }
        Ok(reach)
    }

    /// Waits for at most so many milliseconds until something happens; `reports` says whether
    /// reports count.
    pub fn wait(
        &mut self,
        ms: u16,
        reports: bool,
        bell: BorrowedFd<'_>,
        signals: BorrowedFd<'_>,
    ) -> Result<Woken, Error> {
        let wanted = |port| match port {
            Port::Results if !reports => PollFlags::empty(),
            _ => PollFlags::POLLIN,
        };
        let socket = |port| PollFd::new(self.fd(port), wanted(port));
        let [a, b, c, d, e, f, g] = Port::ALL.map(socket);
        let [bell, signals] = [bell, signals].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut fds = [a, b, c, d, e, f, g, bell, signals];
        match poll(&mut fds, PollTimeout::from(ms)) {
            Ok(0) | Err(Sys::EINTR) => return Ok(Woken::default()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [sockets @ .., bell, signals] = fds.map(|fd| fd.any().unwrap_or(false));
        for (watch, ready) in self.watches.iter_mut().zip(sockets) {
            watch.ready |= ready;
        }
        Ok(Woken { bell, signals })
    }

    pub fn socket(&self, port: Port) -> &Socket {
        match port {
            Port::Zap => self.ports.zap.socket(),
            Port::Clients => &self.ports.clients,
            Port::Local => &self.ports.local,
            Port::Triggers => &self.ports.triggers,
            Port::Events => &self.ports.events,
            Port::LocalEvents => &self.ports.local_events,
            Port::Results => &self.ports.results,
        }
    }

    pub fn touch(&mut self, port: Port) {
        self.watches[port as usize].touched = true;
    }

    /// A receive found nothing: whatever comes now shows at the descriptor.
    pub fn settled(&mut self, port: Port) {
        let watch = &mut self.watches[port as usize];
        watch.ready = false;
        watch.touched = false;
    }

    pub fn is_ready(&self, port: Port) -> bool {
        self.watches[port as usize].ready
    }

    #[expect(unsafe_code, reason = "a BorrowedFd for poll(2)")]
    fn fd(&self, port: Port) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's mailbox, open as long as the socket is, which
        // `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.watches[port as usize].fd) }
    }

    /// Receives a frame; says whether there was one.
    pub fn receive(&mut self, port: Port, frame: &mut Frame) -> Result<bool, Error> {
        self.touch(port);
        loop {
            match self.socket(port).receive(frame) {
                Ok(()) => return Ok(true),
                Err(Errno::EAGAIN) => {
                    self.settled(port);
                    return Ok(false);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Throws the rest of a message away, of which one frame was received, and cuts a sender
    /// that tries to fill our memory with them.
    pub fn skip_message(&mut self, port: Port, frame: &mut Frame) -> Result<(), Error> {
        let mut frames = 1;
        while frame.more() && self.receive(port, frame)? {
            frames += 1;
        }
        if frames > FRAMES && self.peers.cut_source(frame.source_fd()) {
            self.cut += 1;
        }
        Ok(())
    }

    /// Sends everything that the core wants sent.
    pub fn deliver(&mut self, hub: &mut Hub) {
        while let Some(output) = hub.poll_output() {
            let (port, first, second) = match output {
                Output::Publish { topic, body } => (Port::Triggers, topic, body),
                Output::Event { side: Side::Remote, topic, json } => (Port::Events, topic, json),
                Output::Event { side: Side::Local, topic, json } => {
                    (Port::LocalEvents, topic, json)
                }
                Output::Reply { side: Side::Remote, peer, json } => (Port::Clients, peer, json),
                Output::Reply { side: Side::Local, peer, json } => (Port::Local, peer, json),
                Output::BackUp { file } => {
                    self.backup = Some(PathBuf::from(file));
                    continue;
                }
                Output::Cut { key } => {
                    let cut = self.peers.cut(key.as_bytes());
                    log::info!("cut {cut} connections of {key}");
                    self.cut += cut as u64;
                    continue;
                }
            };
            self.touch(port);
            let socket = self.socket(port);
            // A peer that is gone or does not read loses it: the core sends what must arrive
            // again, and a client asks again.
            if let Err(errno) = socket.transmit_more(first).and_then(|()| socket.transmit(second)) {
                log::debug!("not sent: {errno}");
            }
        }
    }

    /// Whether something can be received now, with the touched sockets asked.
    pub fn any_ready(&mut self, reports: bool) -> Result<bool, Error> {
        let mut any = false;
        for port in Port::ALL {
            let index = port as usize;
            if self.watches[index].touched && !self.watches[index].ready {
                match self.socket(port).events() {
                    Ok(events) => self.watches[index].ready = events.readable,
                    Err(Errno::EINTR) => self.watches[index].ready = true,
                    Err(errno) => return Err(errno.into()),
                }
                self.watches[index].touched = false;
            }
            // Reports that are not read now wait, ready.
            any |= self.watches[index].ready && (port != Port::Results || reports);
        }
        Ok(any)
    }
}
