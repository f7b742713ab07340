//! The core and everything it acts on.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use fieldpost_sockets::Errno;
use fieldpost_wire::{Exit, OutboxId, StartId};
use nix::sys::signal::Signal as UnixSignal;
use nix::unistd::Pid;
use smol::LocalExecutor;

use super::builtin::{Builtin, Piece};
use super::supervise;
use super::troubles::Troubles;
use crate::agent::{Agent, Identity, Input, Launch, Output, Restored, Signal, Slot, Usage, Vitals};
use crate::config::Config;
use crate::io::clock::{self, Clock};
use crate::io::cursors::Cursors;
use crate::io::memory;
use crate::io::notify::Manager;
use crate::io::program::{self, Children, Program, Spawner};
use crate::io::reactor::{Pulse, Pulses};
use crate::io::sockets::{HubAddress, Link};
use crate::io::spool::{Files, Outcome};
use crate::io::storage::{self, Left, Storage};
use crate::io::system::{self, Json};
use crate::io::{orphans, tail};
use crate::job::Kind;
use crate::limits::{READ, RUNNING, TEXT};
use crate::spool::Done;

/// A short text for people, cut where its room ends.
pub(super) type Text = heapless::String<TEXT>;

/// The core and everything it acts on. Every input goes through [`World::give`].
pub(super) struct World {
    agent: Agent,
    pub(super) link: Link,
    pub(super) clock: Clock,
    pub(super) manager: Manager,
    /// What programs write is read into this one: `give` may use the other meanwhile.
    pub(super) pipe_buffer: Rc<RefCell<[u8; READ]>>,
    buffer: Box<[u8; READ]>,
    json: Box<Json>,
    cursors: Cursors,
    storage: Storage,
    spool: Option<Files>,
    troubles: Troubles,
    spawner: Spawner,
    executor: Weak<LocalExecutor<'static>>,
    me: Weak<RefCell<Self>>,
    hubs: Vec<HubAddress>,
    pulses: Pulses,
    builtins: [Builtin; RUNNING],
    /// Built-in runs that can go on.
    waiting: heapless::Deque<Slot, RUNNING>,
    /// A report was refused: say when there is room again.
    refused: bool,
    finished: bool,
    failed: Option<Errno>,
}

/// What the core is told when an output was done.
enum Answer {
    Nothing,
    Sent,
    Refused,
    Start(Slot),
    Stored(&'static str, io::Result<()>),
    Vitals,
}

impl World {
    pub(super) fn new(
        config: &Config,
        link: Link,
        storage: Storage,
        spawner: Spawner,
        manager: Manager,
        executor: &Rc<LocalExecutor<'static>>,
    ) -> io::Result<Rc<RefCell<Self>>> {
        let identity =
            Identity::new(StartId(random()?), OutboxId(random()?), u64::from_ne_bytes(random()?));
        let Left { journal, schedule, cursors } = storage.left();
        let mut spool = config.spool.as_ref().map(|spool| Files::new(&spool.path));
        let recovered = spool.as_mut().map(|spool| spool.recover(&journal));
        let restored = Restored {
            journal: &journal,
            schedule: schedule.as_deref(),
            spool: recovered.as_ref(),
            boot_id: storage::boot_id(),
        };
        let clock = Clock::default();
        let agent = Agent::new(config.agent.clone(), restored, identity, clock.now());
        Ok(Rc::new_cyclic(|me| {
            RefCell::new(Self {
                agent,
                link,
                clock,
                manager,
                pipe_buffer: Rc::new(RefCell::new([0; READ])),
                buffer: Box::new([0; READ]),
                json: Box::default(),
                cursors: Cursors::parse(&cursors),
                storage,
                spool,
                troubles: Troubles::default(),
                spawner,
                executor: Rc::downgrade(executor),
                me: me.clone(),
                hubs: config.hubs.clone(),
                pulses: [const { None }; RUNNING],
                builtins: [const { Builtin::None }; RUNNING],
                waiting: heapless::Deque::new(),
                refused: false,
                finished: false,
                failed: None,
            })
        }))
    }

    /// Does what the core wants from the start.
    pub(super) fn begin(&mut self) {
        self.perform();
    }

    /// Gives the core one input, and does all that it wants then.
    pub(super) fn give(&mut self, input: Input<'_>) {
        self.agent.handle(self.clock.now(), input);
        self.perform();
    }

    /// Leaves nothing running, and writes down what has to survive.
    pub(super) fn end(&mut self) {
        for pulse in self.pulses.iter().flatten().filter(|pulse| pulse.ended.get().is_none()) {
            program::signal_group(pulse.pid, UnixSignal::SIGKILL);
        }
        if self.cursors.unsaved()
            && let Err(error) = self.storage.save_cursors(&self.cursors.text())
        {
            log::warn!("the positions in files are not saved, lines may come again: {error}");
        }
    }

    /// Reaps what has ended. A program's group ends with it.
    pub(super) fn reap(&mut self) {
        let mut orphans = false;
        while let Children::Ended(pid) = program::children() {
            let is_it = |pulse: &&Rc<Pulse>| pulse.pid == pid && pulse.ended.get().is_none();
            let Some(pulse) = self.pulses.iter().flatten().find(is_it) else {
                orphans |= program::reap(pid).is_some();
                continue;
            };
            // Before it is reaped: until then the group's id can't become another's.
            program::signal_group(pid, UnixSignal::SIGKILL);
            pulse.ended.set(program::reap(pid));
            pulse.child_ended();
        }
        if orphans {
            for pulse in self.pulses.iter().flatten().filter(|p| p.ended.get().is_some()) {
                pulse.child_ended();
            }
        }
    }

    /// Kills what a program that has ended left outside of its group. Gives how much there was.
    pub(super) fn sweep(&mut self, slot: Slot) -> usize {
        if program::children() == Children::None {
            return 0;
        }
        let leaders = || self.pulses.iter().flatten().filter(|pulse| pulse.ended.get().is_none());
        let run = self.agent.launch(slot).map(|launch| (launch.run, launch.attempt));
        // While nothing else runs, every child is left over, whatever its environment says.
        let alone = leaders().next().is_none();
        let mut killed = 0;
        for pid in orphans::children() {
            let is_leader = leaders().any(|pulse| pulse.pid == pid);
            if is_leader || !(alone || orphans::run_of(pid) == run) {
                continue;
            }
            killed += 1;
            // A child keeps its id until we reap it.
            if let Err(errno) = nix::sys::signal::kill(pid, UnixSignal::SIGKILL) {
                log::warn!("process {pid} is left over and can't be killed: {errno}");
            }
        }
        killed
    }

    /// The slot's program is gone for good.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.pulses[slot.index()] = None;
    }

    pub(super) fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// Whether the core waits for room in the socket. Asked once: the answer is then taken.
    pub(super) fn wants_room(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    pub(super) fn core_deadline(&self) -> Option<Duration> {
        self.agent.next_deadline()
    }

    pub(super) fn finished(&self) -> bool {
        self.finished
    }

    /// Whether libzmq still works.
    pub(super) fn check(&self) -> Result<(), Errno> {
        self.failed.map_or(Ok(()), Err)
    }

    fn perform(&mut self) {
        loop {
            while let Some(output) = self.agent.poll_output() {
                // The link, the storage and the rest are other fields than the core, which
                // `output` borrows from.
                let answer = match output {
                    Output::Send(body) => match self.link.send(body) {
                        Ok(true) => Answer::Sent,
                        Ok(false) => Answer::Refused,
                        Err(errno) => {
                            self.failed = Some(errno);
                            Answer::Refused
                        }
                    },
                    Output::Start { slot } => Answer::Start(slot),
                    Output::Signal { slot, signal } => {
                        if end_run(&self.pulses, &mut self.builtins, slot, signal) {
                            queue(&mut self.waiting, slot);
                        }
                        Answer::Nothing
                    }
                    Output::ReadOutput { slot, read } => {
                        if let Some(pulse) = &self.pulses[slot.index()] {
                            pulse.reading.set(read);
                        } else if self.builtins[slot.index()].pause(!read) {
                            queue(&mut self.waiting, slot);
                        }
                        Answer::Nothing
                    }
                    Output::Connect { hub, key } => {
                        connect(&mut self.link, &self.hubs, hub, key);
                        Answer::Nothing
                    }
                    Output::Disconnect => {
                        self.link.disconnect();
                        Answer::Nothing
                    }
                    Output::KillLeftover { pid, start_ticks } => {
                        kill_leftover(pid, start_ticks);
                        Answer::Nothing
                    }
                    Output::AppendJournal(bytes) => {
                        Answer::Stored("the journal", self.storage.append_journal(bytes))
                    }
                    Output::ReplaceJournal(bytes) => {
                        Answer::Stored("the journal", self.storage.replace_journal(bytes))
                    }
                    Output::SaveSchedule(bytes) => {
                        Answer::Stored("the schedule", self.storage.save_schedule(bytes))
                    }
                    Output::Spool(work) => {
                        // The core asks for nothing of a spool that there isn't.
                        let Some(files) = &mut self.spool else { continue };
                        let outcome = files.perform(work);
                        let why = outcome.as_ref().err().map(|error| text(format_args!("{error}")));
                        let done = match (&outcome, &why) {
                            (Ok(Outcome::Read(bytes)), _) => Done::Read(bytes),
                            (_, Some(why)) => Done::Failed(why),
                            (Ok(Outcome::Well) | Err(_), None) => Done::Well,
                        };
                        self.agent.handle(self.clock.now(), Input::Spooled(done));
                        Answer::Nothing
                    }
                    Output::Delivered { run, attempt } => {
                        if self.cursors.was_delivered(run, attempt) {
                            let stored = keep_cursors(&mut self.storage, &mut self.cursors);
                            Answer::Stored("the positions in files", stored)
                        } else {
                            Answer::Nothing
                        }
                    }
                    Output::WantVitals => Answer::Vitals,
                    Output::Ready => {
                        self.manager.ready();
                        Answer::Nothing
                    }
                    Output::Status(text) => {
                        self.manager.status(text);
                        // What the way here needed is not needed again soon.
                        memory::forget_start();
                        Answer::Nothing
                    }
                    Output::Exit => {
                        self.finished = true;
                        Answer::Nothing
                    }
                };
                self.answer(answer);
            }
            let Some(slot) = self.waiting.pop_front() else { return };
            self.carry_on(slot);
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Sent => self.agent.handle(self.clock.now(), Input::Sent),
            Answer::Refused => {
                self.refused = true;
                self.agent.handle(self.clock.now(), Input::Refused);
            }
            Answer::Start(slot) => self.start(slot),
            Answer::Stored(what, result) => self.stored(what, result),
            Answer::Vitals => {
                let spooled = self.spool.as_ref().map_or(0, Files::written);
                let written_bytes = self.storage.written() + spooled;
                let vitals = Vitals { written_bytes, ..system::vitals() };
                self.agent.handle(self.clock.now(), Input::Vitals(vitals));
            }
        }
    }

    fn start(&mut self, slot: Slot) {
        let Some(launch) = self.agent.launch(slot) else {
            log::error!("the core starts {slot:?}, which is free");
            return;
        };
        let builtin = match &launch.job.kind {
            Kind::Command(_) => return self.start_program(slot),
            Kind::Ping => Builtin::Ended(Text::new()),
            Kind::System => Builtin::System,
            Kind::File { path } => {
                let last = self.cursors.next(&launch.job.name);
                match tail::Reading::begin(path, last, launch.job.max_output) {
                    Ok(reading) => Builtin::file(reading),
                    Err(error) => {
                        let error = text(format_args!("can't read {}: {error}", path.display()));
                        self.agent
                            .handle(self.clock.now(), Input::NotStarted { slot, error: &error });
                        return;
                    }
                }
            }
        };
        self.builtins[slot.index()] = builtin;
        queue(&mut self.waiting, slot);
    }

    fn start_program(&mut self, slot: Slot) {
        let Some(launch) = self.agent.launch(slot) else { return };
        let start_ticks = orphans::start_time();
        let started = program_of(&launch)
            .map_err(program::Failure::Resources)
            .and_then(|program| self.spawner.start(&program));
        let started = match started {
            Ok(started) => started,
            Err(failure) => {
                let error = text(format_args!("{failure}"));
                self.agent.handle(self.clock.now(), Input::NotStarted { slot, error: &error });
                return;
            }
        };
        let pid = started.pid;
        let pulse = Rc::new(Pulse::new(pid, started.stdout, started.stderr));
        self.pulses[slot.index()] = Some(Rc::clone(&pulse));
        if let (Some(world), Some(executor)) = (self.me.upgrade(), self.executor.upgrade()) {
            executor.spawn(supervise::supervise(world, slot, pulse)).detach();
        }
        let pid = pid.as_raw().cast_unsigned();
        self.agent.handle(self.clock.now(), Input::Started { slot, pid, start_ticks });
    }

    /// Does the next piece of a built-in run. The core takes one piece at a time.
    fn carry_on(&mut self, slot: Slot) {
        let piece = self.builtins[slot.index()].step(&mut self.buffer, &mut self.json);
        if let Piece::Output(_) | Piece::Json = piece {
            queue(&mut self.waiting, slot);
        }
        if let (Piece::Ended(_, Some(cursor)), Some(launch)) = (&piece, self.agent.launch(slot)) {
            self.cursors.was_read(&launch.job.name, launch.run, launch.attempt, *cursor);
        }
        let (exit, usage) = (Exit::None, Usage::default());
        let input = match &piece {
            Piece::Nothing => return,
            Piece::Output(length) => Input::Stdout { slot, bytes: &self.buffer[..*length] },
            Piece::Json => Input::Stdout { slot, bytes: self.json.as_bytes() },
            Piece::Ended(note, _) => Input::Ended { slot, exit, usage, note },
            Piece::Failed(error) => Input::NotStarted { slot, error },
        };
        self.agent.handle(self.clock.now(), input);
    }

    fn stored(&mut self, what: &'static str, result: io::Result<()>) {
        if self.troubles.learn(what, result) {
            self.agent.handle(self.clock.now(), Input::Storage(self.troubles.told()));
        }
    }
}

/// The program that a run starts.
///
/// # Errors
/// A NUL where none may be.
pub(crate) fn program_of(launch: &Launch<'_>) -> io::Result<Program> {
    let mut program = Program::new(launch.argv())?;
    for (name, value) in launch.environment() {
        program.variable(&name, &value)?;
    }
    if let Kind::Command(command) = &launch.job.kind {
        if let Some(cwd) = command.cwd.as_deref().and_then(Path::to_str) {
            program.directory(cwd)?;
        }
        program.memory(command.memory);
    }
    Ok(program)
}

/// As much of a text as there is room for.
pub(super) fn text(arguments: fmt::Arguments<'_>) -> Text {
    struct Cut(Text);
    impl fmt::Write for Cut {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            part.chars().try_for_each(|c| self.0.push(c).map_err(|_| fmt::Error))
        }
    }
    let mut cut = Cut(Text::new());
    if cut.write_fmt(arguments).is_err() {
        log::debug!("cut at {TEXT} bytes: {}", cut.0);
    }
    cut.0
}

/// Ends a run, and says whether it is a built-in one that has to go on for that.
fn end_run(pulses: &Pulses, builtins: &mut [Builtin; RUNNING], slot: Slot, signal: Signal) -> bool {
    let signal = match signal {
        Signal::Terminate => UnixSignal::SIGTERM,
        Signal::Kill => UnixSignal::SIGKILL,
    };
    match &pulses[slot.index()] {
        // Once the leader is reaped the group's id may be another's.
        Some(pulse) if pulse.ended.get().is_none() => program::signal_group(pulse.pid, signal),
        Some(_) => {}
        None => builtins[slot.index()].stop(),
    }
    pulses[slot.index()].is_none()
}

fn connect(link: &mut Link, hubs: &[HubAddress], hub: usize, key: usize) {
    let Some((hub, key)) = hubs.get(hub).and_then(|hub| Some((hub, hub.server_keys.get(key)?)))
    else {
        log::error!("the core connects to hub {hub}, key {key}: there is none");
        return;
    };
    log::debug!("connecting to {} and {}", hub.triggers, hub.results);
    if let Err(errno) = link.connect(hub, key) {
        log::error!("can't connect to {} and {}: {errno}", hub.triggers, hub.results);
    }
}

fn kill_leftover(pid: u32, start_ticks: u64) {
    let killed = orphans::kill_leftovers(Pid::from_raw(pid.cast_signed()), start_ticks);
    if killed > 0 {
        log::warn!("killed {killed} processes that the former agent left (group {pid})");
    }
}

fn keep_cursors(storage: &mut Storage, cursors: &mut Cursors) -> io::Result<()> {
    let text = cursors.text();
    storage.keep_cursors(&text)?;
    if cursors.due(clock::boot()) {
        storage.save_cursors(&text)?;
    }
    Ok(())
}

fn queue(waiting: &mut heapless::Deque<Slot, RUNNING>, slot: Slot) {
    if !waiting.iter().any(|&other| other == slot) {
        waiting.push_back(slot).expect("each of the RUNNING slots is in it once");
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
