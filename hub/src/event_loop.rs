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
//! Reports are read in bounded bursts so that a flood of them holds nobody up.

use std::fmt;
use std::fs::DirBuilder;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fieldpost_settings::{Problem, key_file};
use fieldpost_sockets::{Errno, Frame, KeyPair, check_library, zmq};
use fieldpost_wire::{HubId, StartId};
use nix::errno::Errno as Sys;
use sd_notify::NotifyState;

use crate::config::Config;
use crate::hub::{Door, Hub, Input, Moment, Now, Settings, Side, Who};
use crate::io::ports::{BadPlace, Ports};
use crate::io::signals::{Signals, Wish};
use crate::io::wake::{self, Bell};
use crate::io::{clock, process};
use crate::store::sqlite::Sqlite;
use crate::store::{Identity, Store as _, StoreError, StoreThread};

mod housekeeping;
mod reach;

use housekeeping::Housekeeping;
use reach::{Port, Reach};

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
    Place(BadPlace),
    /// The machine or the library does not do its part.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(problem) => problem.fmt(f),
            Self::Place(BadPlace { message, .. }) | Self::Internal(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Configuration(problem)
    }
}

impl From<BadPlace> for Error {
    fn from(bad: BadPlace) -> Self {
        Self::Place(bad)
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

impl EventLoop {
    fn start(path: &Path, config: Config, signals: Signals) -> Result<Self, Error> {
        make_state_dir(&config.state_dir)?;
        let keys = server_key(&config.key_file)?;
        let second = match &config.second_key {
            Some(second) => Some(server_key(&second.key_file)?),
            None => None,
        };
        let mut store = open_store(&config.state_dir)?;
        let restored = store.restore().map_err(|error| bad_store(&config.state_dir, &error))?;
        let (bell, rope) =
            wake::pair().map_err(|error| Error::Internal(format!("no socket pair: {error}")))?;

        let context = zmq::Context::new();
        let ports = Ports::bind(&context, &config, &keys, second.as_ref()).map_err(Error::from)?;
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
            if let Some(resident) = self.housekeeping.look(now, &mut self.reach) {
                self.tell_of_process(now, resident);
            }
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
                        None => self.housekeeping.count_gone(),
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
        let woken = self.reach.wait(ms, reports, self.bell.as_fd(), self.signals.as_fd())?;
        if woken.bell {
            self.bell.silence();
        }
        if woken.signals {
            self.wishes()?;
        }
        Ok(())
    }

    /// How long nothing is due, in milliseconds.
    fn rest(&self) -> u16 {
        let now = clock::now().moment.0;
        let mut due = self.housekeeping.due();
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

    fn tell_of_process(&mut self, now: Now, resident: u64) {
        self.tell(now, Input::Process { resident, cut: self.reach.cut });
        for (side, topic) in self.reach.listeners.sweep() {
            self.tell(now, Input::Unwatched { side, topic: &topic });
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

fn make_state_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Error::Place(BadPlace {
            message: format!("state_dir {} can't be made: {error}", path.display()),
            hint: Some("the hub's user must be able to write there".to_owned()),
            passing: false,
        })
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
    Sqlite::open(&path, Identity { hub: HubId(hub), epoch: epoch | 1 })
        .map_err(|error| bad_store(state_dir, &error))
}

fn bad_store(state_dir: &Path, error: &StoreError) -> Error {
    let message = format!("the store in {}: {error}", state_dir.display());
    let passing = matches!(error, StoreError::Failing(_));
    BadPlace { message, hint: None, passing }.into()
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
