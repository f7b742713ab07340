//! The only place that waits: turns what happens into inputs of the core, and its outputs into
//! effects.
//!
//! ```text
//! loop {
//!     tasks run (one supervises each program), commands are received and handled, what the core
//!     wants is done at once; until nothing is left to do
//!     poll(2) over sockets, signals, the clock and pipes, until the next deadline
//! }
//! ```

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use fieldpost_sockets::{Errno, Frame, KeyPair};
use smol::LocalExecutor;

use crate::agent::Input;
use crate::config::Config;
use crate::io::clock::{self, ClockSet};
use crate::io::notify::Manager;
use crate::io::program::{self, Spawner};
use crate::io::reactor::{self, Watched};
use crate::io::signals::{News, Signals};
use crate::io::sockets::Link;
use crate::io::storage::{self, Storage};

mod builtin;
mod supervise;
mod troubles;
mod world;

use world::World;
pub(crate) use world::program_of;

/// Commands that are handled before programs get their turn.
const COMMANDS: usize = 64;
/// Turns without a wait, after which everything else is looked at anyhow: a flood of commands
/// must not keep out signals and programs.
const TURNS: usize = 8;

/// A running agent.
pub struct EventLoop {
    world: Rc<RefCell<World>>,
    // Its tasks hold the world: when it is dropped, the sockets are closed and send what is left.
    executor: Rc<LocalExecutor<'static>>,
    signals: Signals,
    clock_set: ClockSet,
    command: Frame,
    config: Config,
    file: PathBuf,
}

/// Why an agent can't start or go on.
#[derive(Debug)]
pub enum Failure {
    /// Its files can't be used: another agent has them, or a directory can't be written.
    Storage(storage::Failure),
    /// Its sockets.
    Sockets(Errno),
    /// Anything else that the kernel refuses.
    System(&'static str, std::io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(failure) => failure.fmt(f),
            Self::Sockets(errno) => write!(f, "libzmq: {errno}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Sockets(errno)
    }
}

fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::System(what, error.into())
}

impl EventLoop {
    /// Makes everything ready. To be called before any thread exists: they inherit the signal
    /// mask.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn new(file: PathBuf, config: Config, keys: KeyPair) -> Result<Self, Failure> {
        let signals = Signals::listen().map_err(system("signals"))?;
        let storage =
            Storage::open(&config.runtime_dir, &config.state_dir).map_err(Failure::Storage)?;
        if let Err(error) = program::adopt_orphans() {
            // An emulator may not know of it. Most of what a run starts is found all the same.
            log::warn!("programs that leave their run's process group may go on: {error}");
        }
        let spawner = Spawner::new().map_err(system("/dev/null"))?;
        let clock_set = ClockSet::listen().map_err(system("watching the clock"))?;
        let link = Link::new(&config.agent.node, keys)?;
        let executor = Rc::new(LocalExecutor::new());
        let world = World::new(&config, link, storage, spawner, Manager::find(), &executor)
            .map_err(system("/dev/urandom"))?;
        let command = Frame::new();
        Ok(Self { world, executor, signals, clock_set, command, config, file })
    }

    /// Runs until the core says that it has finished.
    ///
    /// # Errors
    /// libzmq or the kernel refuse to go on.
    pub fn run(mut self) -> Result<(), Failure> {
        let Config { agent, hubs, .. } = &self.config;
        log::info!(
            "fieldpost-agent {}: node {}, {} jobs, {} hubs, the first at {}",
            agent.version,
            agent.node,
            agent.jobs.len(),
            hubs.len(),
            hubs[0].triggers
        );
        self.world.borrow_mut().begin();
        let mut turns = 0;
        loop {
            let mut busy = false;
            while self.executor.try_tick() {
                busy = true;
            }
            busy |= self.turn()?;
            if self.world.borrow().finished() {
                break;
            }
            self.world.borrow_mut().manager.turned();
            turns += 1;
            if !busy || turns >= TURNS {
                turns = 0;
                self.wait(busy)?;
            }
        }
        self.world.borrow_mut().end();
        Ok(())
    }

    /// Handles what is there now. Says whether there was anything.
    fn turn(&mut self) -> Result<bool, Failure> {
        let mut world = self.world.borrow_mut();
        let events = world.link.events()?;
        let mut busy = false;
        if events.readable {
            for _ in 0..COMMANDS {
                if !world.link.receive(&mut self.command)? {
                    break;
                }
                world.give(Input::Command(self.command.bytes()));
                busy = true;
            }
        }
        if events.writable && world.wants_room() {
            world.give(Input::Writable);
            busy = true;
        }
        if world.core_deadline().is_some_and(|due| clock::boot() >= due) {
            world.give(Input::Tick);
            busy = true;
        }
        world.check()?;
        Ok(busy)
    }

    /// Waits until something happens; if `busy`, only looks whether something has.
    fn wait(&mut self, busy: bool) -> Result<(), Failure> {
        let ready = {
            let world = self.world.borrow();
            let deadlines = [world.core_deadline(), world.manager.deadline()];
            let now = busy.then_some(Duration::ZERO);
            let deadline = deadlines.into_iter().flatten().chain(now).min();
            let watched = Watched {
                signals: self.signals.as_fd(),
                clock_set: self.clock_set.as_fd(),
                sockets: world.link.descriptors()?.map(borrow),
            };
            reactor::wait(watched, world.pulses(), deadline).map_err(system("poll"))?
        };
        if ready.clock_set && self.clock_set.happened() {
            let mut world = self.world.borrow_mut();
            world.clock.was_set();
            world.give(Input::Tick);
        }
        while ready.signals
            && let Some(news) = self.signals.next()
        {
            match news {
                News::Child => self.world.borrow_mut().reap(),
                News::Reload => self.reload(),
                News::Stop => {
                    log::info!("stopping: runs in progress may end, results are sent");
                    let mut world = self.world.borrow_mut();
                    world.manager.stopping();
                    world.give(Input::Stop);
                }
            }
        }
        Ok(())
    }

    /// Reads the configuration again. A bad one changes nothing.
    fn reload(&mut self) {
        let mut world = self.world.borrow_mut();
        world.manager.reloading();
        match Config::load(&self.file) {
            Ok(new) => {
                for what in self.config.needs_restart(&new) {
                    log::warn!("{what} changed in {}: restart the agent", self.file.display());
                }
                log::info!("{} read again: {} jobs", self.file.display(), new.agent.jobs.len());
                world.give(Input::Reloaded(Box::new(new.reload())));
            }
            Err(problem) => log::error!("the old configuration stays: {problem}"),
        }
        world.manager.ready();
    }
}

#[allow(unsafe_code, reason = "libzmq gives a descriptor as a number")]
fn borrow<'a>(fd: std::os::fd::RawFd) -> BorrowedFd<'a> {
    // SAFETY: libzmq keeps a socket's descriptor open as long as the socket, and `world` holds
    // the socket while poll(2) uses it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
