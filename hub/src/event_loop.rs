//! The one place where the hub waits: sockets, the store's bell, signals, the core's deadline.
//!
//! ```text
//! loop {
//!     each socket that is ready, for a bounded while; what the core wants sent leaves at once
//!     give the store a batch if it is idle
//!     ask the sockets that were touched for their events
//!     poll(2): not waiting if one is ready, else until the next deadline
//! }
//! ```
//!
//! A socket's descriptor is edge-triggered: sending and receiving on it eat the edge, so each
//! socket that was touched is asked for its events before a sleep; the others are not, since
//! poll(2) tells. A receive that found nothing is such a question too. Reports are read in bounded
//! bursts so that a flood of them holds nobody up.

use std::fmt;
use std::fs::DirBuilder;
use std::os::fd::{AsFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fieldpost_settings::{Problem, key_file};
use fieldpost_sockets::{Errno, Frame, KeyPair, Socket, check_library, zmq};
use fieldpost_wire::{HubId, StartId};
use nix::errno::Errno as Sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;

use crate::config::Config;
use crate::hub::{Door, Hub, Input, Moment, Now, Output, Settings, Side, Who};
use crate::io::listeners::Listeners;
use crate::io::peers::Peers;
use crate::io::ports::Ports;
use crate::io::signals::{Signals, Wish};
use crate::io::wake::{self, Bell};
use crate::io::{clock, process};
use crate::store::sqlite::Sqlite;
use crate::store::{Identity, Store as _, StoreThread};

/// Reports read in one pass: some 200 µs, which is how long they may hold up anything else.
const REPORTS: usize = 128;
/// The clocks are read again after so many of them.
const REPORTS_A_CLOCK: usize = 32;
/// Handshakes judged in one pass.
const HANDSHAKES: usize = 32;
/// Requests of clients taken in one pass, from each socket.
const REQUESTS: usize = 16;
/// Subscriptions taken in one pass, from each socket.
const SUBSCRIPTIONS: usize = 64;
/// Frames of a message that the protocol has no place for, until its sender is cut.
const FRAMES: usize = 4;
/// How often memory is looked at and the watchdog fed, in milliseconds.
const HOUSEKEEPING_MS: u64 = 1_000;
/// How often the core hears of the process, in milliseconds.
const PROCESS_MS: u64 = 5_000;
/// Memory may grow by so much between two looks before it is asked who hoards.
const GROWTH: u64 = 64 << 20;
/// Connections that must have gone before memory is given back to the system.
const STORM: u64 = 200;
/// How long a stopping hub waits for its store and its clients, in milliseconds.
const STOP_MS: u64 = 10_000;
/// How long the last replies and acks may take to leave, in milliseconds.
const LINGER_MS: i32 = 500;

/// Why the hub could not start, or had to end.
#[derive(Debug)]
pub enum Error {
    /// A file is wrong.
    Configuration(Problem),
    /// Something the configuration names can't be used.
    Place {
        /// What, and why.
        message: String,
        /// What may help.
        hint: Option<String>,
    },
    /// The machine or the library does not do its part.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(problem) => problem.fmt(f),
            Self::Place { message, .. } | Self::Internal(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Configuration(problem)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Internal(format!("libzmq: {errno}"))
    }
}

impl From<Sys> for Error {
    fn from(errno: Sys) -> Self {
        Self::Internal(format!("the system: {errno}"))
    }
}

/// Runs a hub until somebody wants it to stop. `path` is read again on SIGHUP.
///
/// # Errors
/// See [`Error`].
pub fn run(path: &Path, config: Config) -> Result<(), Error> {
    check_library().map_err(|bad| Error::Internal(bad.to_string()))?;
    // Before any thread starts: they inherit the mask.
    let signals = Signals::listen()?;
    let room = process::raise_descriptors()?;
    log::info!(
        "fieldpost {} hub {}: room for {room} nodes",
        env!("CARGO_PKG_VERSION"),
        config.name
    );
    let mut event_loop = EventLoop::start(path, config, signals)?;
    notify(&[NotifyState::Ready, NotifyState::Status("running")]);
    let ended = event_loop.turn_until_stopped();
    notify(&[NotifyState::Stopping]);
    event_loop.close();
    log::info!("stopped");
    ended
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager does not listen: {error}");
    }
}

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
enum Port {
    Zap,
    Clients,
    Local,
    Triggers,
    Events,
    LocalEvents,
    Results,
}

impl Port {
    const ALL: [Self; 7] = [
        Self::Zap,
        Self::Clients,
        Self::Local,
        Self::Triggers,
        Self::Events,
        Self::LocalEvents,
        Self::Results,
    ];
}

struct EventLoop {
    hub: Hub,
    reach: Reach,
    store: StoreThread,
    bell: Bell,
    signals: Signals,
    config_path: PathBuf,
    frame: Frame,
    payload: Frame,
    /// Subscriptions of a socket can't be told apart until it is drained; see `subscriptions`.
    distrust: [bool; 3],
    housekeeping: Housekeeping,
    stopping: Option<Moment>,
}

/// What sending needs: apart from the core, whose memory the outputs borrow.
struct Reach {
    ports: Ports,
    watches: [Watch; 7],
    peers: Peers,
    listeners: Listeners,
    cut: u64,
    /// Where the store is to be copied to.
    backup: Option<PathBuf>,
}

struct Housekeeping {
    due: u64,
    process_due: u64,
    resident: u64,
    gone: u64,
    gone_before: u64,
    watchdog: bool,
}

impl EventLoop {
    fn start(path: &Path, config: Config, signals: Signals) -> Result<Self, Error> {
        make_state_dir(&config.state_dir)?;
        let keys = server_key(&config.key_file)?;
        let second = match &config.second_key {
            Some(second) => Some(server_key(&second.key_file)?),
            None => None,
        };
        let mut store = open_store(&config.state_dir)?;
        let restored = store.restore().map_err(|error| Error::Place {
            message: format!("the store in {}: {error}", config.state_dir.display()),
            hint: None,
        })?;
        let (bell, rope) =
            wake::pair().map_err(|error| Error::Internal(format!("no socket pair: {error}")))?;

        let context = zmq::Context::new();
        let ports = Ports::bind(&context, &config, &keys, second.as_ref())
            .map_err(|bad| Error::Place { message: bad.message, hint: bad.hint })?;
        let store = StoreThread::start(Box::new(store), move || rope.ring())
            .map_err(|error| Error::Internal(format!("no thread for the store: {error}")))?;
        let random = random()?;
        let settings = Settings {
            name: config.name,
            version: env!("CARGO_PKG_VERSION"),
            start: StartId(random.0),
            seed: random.1,
            retention: config.retention,
            limits: config.limits,
            clients: config.clients,
            #[cfg(feature = "planted-bugs")]
            bugs: crate::hub::Bugs::default(),
        };
        let now = clock::now();
        let hub = Hub::new(settings, restored, now);
        Ok(Self {
            hub,
            reach: Reach::new(ports)?,
            store,
            bell,
            signals,
            config_path: path.to_owned(),
            frame: Frame::new(),
            payload: Frame::new(),
            distrust: [false; 3],
            housekeeping: Housekeeping::new(now),
            stopping: None,
        })
    }

    fn turn_until_stopped(&mut self) -> Result<(), Error> {
        loop {
            let now = clock::now();
            self.store_done(now);
            for port in Port::ALL {
                if self.reach.is_ready(port) {
                    self.serve(now, port)?;
                }
            }
            if self.hub.next_deadline().is_some_and(|due| due <= now.moment) {
                self.tell(now, Input::Tick);
            }
            self.keep_house(now);
            self.give_to_store();
            if self.may_end(now) {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Takes what a socket has, for a bounded while.
    fn serve(&mut self, now: Now, port: Port) -> Result<(), Error> {
        match port {
            Port::Zap => self.handshakes(now),
            Port::Clients | Port::Local => self.requests(now, port),
            Port::Triggers | Port::Events | Port::LocalEvents => self.subscriptions(now, port),
            Port::Results => self.reports(now),
        }
    }

    /// Tells the core, and sends what it wants sent.
    fn tell(&mut self, now: Now, input: Input<'_>) {
        self.hub.handle(now, input);
        self.reach.deliver(&mut self.hub);
    }

    fn store_done(&mut self, now: Now) {
        if let Some(outcome) = self.store.take_backed_up() {
            self.tell(now, Input::BackedUp(outcome));
        }
        let Some(done) = self.store.take_done() else { return };
        if let Err(error) = &done.outcome {
            log::error!("the store: {error}");
        }
        self.tell(now, Input::Committed { batch: done.batch, outcome: done.outcome });
    }

    fn give_to_store(&mut self) {
        if let Some(file) = self.reach.backup.take() {
            self.store.back_up(file);
        }
        if !self.store.is_busy()
            && let Some(batch) = self.hub.take_batch()
        {
            self.store.commit(batch);
        }
    }

    fn handshakes(&mut self, now: Now) -> Result<(), Error> {
        for _ in 0..HANDSHAKES {
            let hub = &mut self.hub;
            if !self.reach.ports.zap.answer(|door, key| hub.admit(now, door, key))? {
                self.reach.settled(Port::Zap);
                return Ok(());
            }
            self.reach.deliver(&mut self.hub);
        }
        Ok(())
    }

    fn requests(&mut self, now: Now, port: Port) -> Result<(), Error> {
        for _ in 0..REQUESTS {
            if !self.reach.receive(port, &mut self.frame)? {
                return Ok(());
            }
            if !self.frame.more() || !self.reach.receive(port, &mut self.payload)? {
                continue;
            }
            let more = self.payload.more();
            let bytes = self.payload.bytes();
            let who = match (port, self.payload.user_id()) {
                (Port::Local, _) => Who::Local,
                // libzmq enforces the domain, so there is a key; without one nobody is believed.
                (_, None) => continue,
                (_, Some(key)) => {
                    let fd = || self.payload.source_fd();
                    self.reach.peers.heard(key, fd, bytes.len(), now.moment.0);
                    Who::Key(key)
                }
            };
            if more {
                let key = match who {
                    Who::Local => None,
                    Who::Key(key) => Some(key),
                };
                self.hub.handle(now, Input::BadMessage { door: Door::Clients, key });
                self.reach.deliver(&mut self.hub);
                self.reach.skip_message(port, &mut self.payload)?;
                continue;
            }
            self.hub.handle(now, Input::Request { who, peer: self.frame.bytes(), frame: bytes });
            self.reach.deliver(&mut self.hub);
        }
        Ok(())
    }

    /// Takes subscriptions of an XPUB, each allowed or not by its peer's key.
    ///
    /// libzmq 4.3.5 keeps whose subscription is next in a queue of its own (`_pending_pipes`), and
    /// a message that is no subscription is missing from it: from there on until the queue is
    /// drained a subscription could be made for another peer than the one that sent it
    /// (xpub.cpp:66). So none is; whoever sent the message is cut, and so are those whose
    /// subscriptions came behind it: they come again.
    fn subscriptions(&mut self, now: Now, port: Port) -> Result<(), Error> {
        let (index, door) = match port {
            Port::Triggers => (0, Door::Triggers),
            Port::Events => (1, Door::Events),
            _ => (2, Door::Events),
        };
        let side = if port == Port::LocalEvents { Side::Local } else { Side::Remote };
        for _ in 0..SUBSCRIPTIONS {
            if !self.reach.receive(port, &mut self.frame)? {
                self.distrust[index] = false;
                return Ok(());
            }
            let key = self.frame.user_id();
            let fd = self.frame.source_fd();
            let bytes = self.frame.bytes();
            if let Some(key) = key {
                self.reach.peers.heard(key, || fd, bytes.len(), now.moment.0);
            }
            match bytes {
                [1, topic @ ..] if !self.distrust[index] => {
                    if door == Door::Events && !self.reach.listeners.add(side, topic, fd) {
                        continue;
                    }
                    let allowed = match (port, key) {
                        (Port::Triggers, Some(key)) => self.hub.may_subscribe(now, key, topic),
                        (Port::Events, Some(key)) => self.hub.may_watch(now, Who::Key(key), topic),
                        (Port::LocalEvents, _) => self.hub.may_watch(now, Who::Local, topic),
                        _ => false,
                    };
                    let socket = self.reach.socket(port);
                    if allowed {
                        socket.admit(topic)?;
                    } else if fd.is_some_and(|fd| self.reach.peers.refused(fd)) {
                        self.reach.cut += 1;
                    }
                }
                [0, topic @ ..] => {
                    // Without a sender its connection has ended, and libzmq has done the rest.
                    match fd {
                        None => self.housekeeping.gone += 1,
                        Some(_) if self.distrust[index] => {}
                        Some(_) => self.reach.socket(port).dismiss(topic)?,
                    }
                    let had = match fd {
                        _ if door == Door::Triggers => false,
                        None => self.reach.listeners.ended(side, topic),
                        Some(fd) => self.reach.listeners.remove(side, topic, fd),
                    };
                    if had {
                        self.hub.handle(now, Input::Unwatched { side, topic });
                    }
                }
                _ => {
                    self.distrust[index] = true;
                    if self.reach.peers.cut_source(fd) {
                        self.reach.cut += 1;
                    }
                    self.hub.handle(now, Input::BadMessage { door, key });
                }
            }
            self.reach.deliver(&mut self.hub);
        }
        Ok(())
    }

    fn reports(&mut self, now: Now) -> Result<(), Error> {
        let mut now = now;
        for done in 0..REPORTS {
            if !self.hub.may_read_reports()
                || !self.reach.receive(Port::Results, &mut self.frame)?
            {
                return Ok(());
            }
            if done % REPORTS_A_CLOCK == REPORTS_A_CLOCK - 1 {
                now = clock::now();
            }
            let body = self.frame.bytes();
            let key = self.frame.user_id();
            if let Some(key) = key {
                let fd = || self.frame.source_fd();
                self.reach.peers.heard(key, fd, body.len(), now.moment.0);
            }
            match (key, self.frame.more()) {
                (Some(key), false) => {
                    self.hub.handle(now, Input::Report { key, body });
                    self.reach.deliver(&mut self.hub);
                }
                (key, more) => {
                    self.hub.handle(now, Input::BadMessage { door: Door::Results, key });
                    self.reach.deliver(&mut self.hub);
                    if more {
                        self.reach.skip_message(Port::Results, &mut self.frame)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until something happens, or only looks when something has already.
    fn wait(&mut self) -> Result<(), Error> {
        let reports = self.hub.may_read_reports();
        let ms = if self.reach.any_ready(reports)? { 0 } else { self.rest() };
        let wanted = |port| match port {
            Port::Results if !reports => PollFlags::empty(),
            _ => PollFlags::POLLIN,
        };
        let socket = |port| PollFd::new(self.reach.fd(port), wanted(port));
        let [a, b, c, d, e, f, g] = Port::ALL.map(socket);
        let bell = PollFd::new(self.bell.as_fd(), PollFlags::POLLIN);
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        let mut fds = [a, b, c, d, e, f, g, bell, signals];
        match poll(&mut fds, PollTimeout::from(ms)) {
            Ok(0) | Err(Sys::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [sockets @ .., bell, signals] = fds.map(|fd| fd.any().unwrap_or(false));
        for (port, ready) in Port::ALL.into_iter().zip(sockets) {
            if ready {
                self.reach.watches[port as usize].ready = true;
            }
        }
        if bell {
            self.bell.silence();
        }
        if signals {
            self.wishes()?;
        }
        Ok(())
    }

    /// How long nothing is due, in milliseconds.
    fn rest(&self) -> u16 {
        let now = clock::now().moment.0;
        let mut due = self.housekeeping.due;
        if let Some(deadline) = self.hub.next_deadline() {
            due = due.min(deadline.0);
        }
        u16::try_from(due.saturating_sub(now)).unwrap_or(u16::MAX)
    }

    fn wishes(&mut self) -> Result<(), Error> {
        while let Some(wish) = self.signals.next()? {
            let now = clock::now();
            match wish {
                Wish::Reload => self.reload(now),
                Wish::Stop if self.stopping.is_none() => {
                    log::info!("stopping");
                    notify(&[NotifyState::Stopping]);
                    self.stopping = Some(Moment(now.moment.0 + STOP_MS));
                    self.tell(now, Input::Stop);
                }
                // Twice means at once.
                Wish::Stop => self.stopping = Some(now.moment),
            }
        }
        Ok(())
    }

    fn reload(&mut self, now: Now) {
        match Config::load(&self.config_path) {
            Ok(config) => {
                log::info!("configuration read anew: {} clients", config.clients.len());
                let (clients, retention) = (config.clients, config.retention);
                self.tell(now, Input::Reloaded { clients, retention });
            }
            Err(problem) => log::error!("the configuration stays as it was: {problem}"),
        }
    }

    fn may_end(&self, now: Now) -> bool {
        let Some(latest) = self.stopping else { return false };
        if self.hub.is_idle() && !self.store.is_busy() {
            return true;
        }
        if now.moment >= latest {
            log::warn!("stopping before everything was answered");
            return true;
        }
        false
    }

    fn keep_house(&mut self, now: Now) {
        let house = &mut self.housekeeping;
        if now.moment.0 < house.due {
            return;
        }
        house.due = now.moment.0 + HOUSEKEEPING_MS;
        if house.watchdog {
            notify(&[NotifyState::Watchdog]);
        }
        let resident = process::resident();
        if resident > house.resident + GROWTH {
            for key in self.reach.peers.cut_hoarders() {
                let key = key.as_deref().unwrap_or("of a key that said nothing yet");
                log::warn!("a connection was cut that sends messages without an end: {key}");
                self.reach.cut += 1;
                self.housekeeping.gone += STORM;
            }
        }
        // After thousands of connections have gone glibc keeps their memory; once it is quiet
        // again, it goes back.
        let house = &mut self.housekeeping;
        if house.gone >= STORM && house.gone == house.gone_before {
            process::trim_memory();
            house.gone = 0;
        }
        house.gone_before = house.gone;
        house.resident = process::resident();
        if now.moment.0 >= house.process_due {
            house.process_due = now.moment.0 + PROCESS_MS;
            let (resident, cut) = (house.resident, self.reach.cut);
            self.tell(now, Input::Process { resident, cut });
            for (side, topic) in self.reach.listeners.sweep() {
                self.tell(now, Input::Unwatched { side, topic: &topic });
            }
        }
    }

    /// Lets the last replies and acks leave, and waits for the store.
    fn close(self) {
        self.reach.ports.forget_local();
        for port in [Port::Clients, Port::Local, Port::Triggers, Port::Events, Port::LocalEvents] {
            if let Err(error) = self.reach.socket(port).set_linger(LINGER_MS) {
                log::debug!("a socket does not linger: {error}");
            }
        }
        drop(self.store);
    }
}

impl Reach {
    fn new(ports: Ports) -> Result<Self, Error> {
        let mut reach = Self {
            ports,
            watches: [Watch { fd: -1, ready: true, touched: true }; 7],
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

    fn socket(&self, port: Port) -> &Socket {
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

    fn touch(&mut self, port: Port) {
        self.watches[port as usize].touched = true;
    }

    /// A receive found nothing: whatever comes now shows at the descriptor.
    fn settled(&mut self, port: Port) {
        let watch = &mut self.watches[port as usize];
        watch.ready = false;
        watch.touched = false;
    }

    fn is_ready(&self, port: Port) -> bool {
        self.watches[port as usize].ready
    }

    #[expect(unsafe_code, reason = "a BorrowedFd for poll(2)")]
    fn fd(&self, port: Port) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's mailbox, open as long as the socket is, which
        // `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.watches[port as usize].fd) }
    }

    /// Receives a frame; says whether there was one.
    fn receive(&mut self, port: Port, frame: &mut Frame) -> Result<bool, Error> {
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
    fn skip_message(&mut self, port: Port, frame: &mut Frame) -> Result<(), Error> {
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
    fn deliver(&mut self, hub: &mut Hub) {
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
    fn any_ready(&mut self, reports: bool) -> Result<bool, Error> {
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

impl Housekeeping {
    fn new(now: Now) -> Self {
        let ms = now.moment.0;
        Self {
            due: ms,
            process_due: ms,
            resident: process::resident(),
            gone: 0,
            gone_before: 0,
            watchdog: sd_notify::watchdog_enabled().is_some(),
        }
    }
}

fn make_state_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| Error::Place {
        message: format!("state_dir {} can't be made: {error}", path.display()),
        hint: Some("the hub's user must be able to write there".to_owned()),
    })
}

/// The hub's key; made, and its public half printed, where there is none.
fn server_key(path: &Path) -> Result<KeyPair, Error> {
    let (keys, made) = key_file::read_or_create(path)?;
    if made {
        println!(
            "a server key was made; agents and clients need its public half:\n{}",
            keys.public
        );
    }
    log::info!("the public key of {} is {}", path.display(), keys.public);
    Ok(keys)
}

fn open_store(state_dir: &Path) -> Result<Sqlite, Error> {
    let (hub, epoch) = random()?;
    let path = state_dir.join("hub.sqlite");
    Sqlite::open(&path, Identity { hub: HubId(hub), epoch: epoch | 1 }).map_err(|error| {
        Error::Place { message: format!("the store {}: {error}", path.display()), hint: None }
    })
}

/// Random numbers: an id and a seed.
fn random() -> Result<([u8; 16], u64), Error> {
    use std::io::Read as _;
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::Internal(format!("no randomness: {error}")))?;
    let (mut start, mut seed) = ([0; 16], [0; 8]);
    start.copy_from_slice(&bytes[..16]);
    seed.copy_from_slice(&bytes[16..]);
    Ok((start, u64::from_ne_bytes(seed)))
}
