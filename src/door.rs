//! What goes into the agent's core and what comes out of it. See [`crate::agent`].

use std::time::Duration;

use fieldpost_wire::{Attempt, Cause, Exit, Name, OutboxId, RunId, StartId, UnixMillis};

use crate::job::{Args, Job, Kind};
use crate::spool;

/// The clocks, read together just before the input they come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: every deadline of the core is on this clock.
    pub boot: Duration,
    /// The wall clock. It decides nothing but cron.
    pub wall: UnixMillis,
    /// Whether the kernel says that the wall clock is synchronised (`adjtimex`). An answer that
    /// is some seconds old will do.
    pub synchronised: bool,
}

/// The node, as its configuration describes it. Only what is in [`Reload`] can change later.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node id: what it claims to be.
    pub node: Name,
    /// Groups it proposes; at most 16.
    pub groups: Vec<Name>,
    /// Its jobs; at most 64.
    pub jobs: Vec<Job>,
    /// The hubs in order of preference: how many server keys each has. At least one hub, each
    /// with at least one key.
    pub hubs: Vec<usize>,
    /// The agent's version, ≤ 32 B.
    pub version: &'static str,
    /// How many runs may be in progress at once, over all jobs; at least 1 and at most
    /// [`crate::limits::most_running`] of the outbox' size.
    pub concurrency: usize,
    /// The outbox' memory, in bytes; at least [`crate::limits::OUTBOX_LEAST`].
    pub outbox_bytes: usize,
    /// What happens when the outbox (with its spool) is full while the hub is away.
    pub when_full: WhenFull,
    /// Where results wait on disk; `None`: in memory only.
    pub spool: Option<spool::Settings>,
    /// The time zone of cron entries.
    pub time_zone: tz::TimeZone,
    /// From SIGTERM to SIGKILL, for a program whose time is over.
    pub grace: Duration,
    /// How long a stopping agent waits for its runs to end, and then as long again at the most
    /// for its outbox to empty.
    pub drain: Duration,
}

/// What happens when the outbox is full while the hub is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Whole outputs are dropped, oldest first; their `Finished` stays and says so.
    #[default]
    DropOldest,
    /// The output that finds no room is dropped; what is there stays.
    RefuseNew,
}

/// What SIGHUP can change.
#[derive(Debug, Clone)]
pub struct Reload {
    /// See [`Settings::groups`].
    pub groups: Vec<Name>,
    /// See [`Settings::jobs`]. Runs in progress keep the job they started with.
    pub jobs: Vec<Job>,
}

/// What this start of the agent is told apart by. All of it random.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// This start.
    pub start: StartId,
    /// This start's outbox.
    pub outbox: OutboxId,
    /// The seed of every random choice of the core (jitter).
    pub seed: u64,
    /// Faults to be found by the simulated world.
    #[cfg(feature = "planted-bugs")]
    pub bugs: Bugs,
}

impl Identity {
    /// This start's identity.
    #[must_use]
    pub fn new(start: StartId, outbox: OutboxId, seed: u64) -> Self {
        Self {
            start,
            outbox,
            seed,
            #[cfg(feature = "planted-bugs")]
            bugs: Bugs::default(),
        }
    }
}

/// Faults to be found by the simulated world.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Bugs {
    /// Unacked reports are never sent again.
    pub no_resend: bool,
    /// The journal is not read at start: a run that was known may run again.
    pub forget_runs_at_restart: bool,
    /// Output that one hub has in part is sent to the next in part.
    pub split_output: bool,
}

/// What an earlier start of the agent left. Any bytes will do: what is torn, damaged or foreign is
/// left out, and said in the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restored<'a> {
    /// The journal's file in the runtime directory, as it is; empty if there is none.
    pub journal: &'a [u8],
    /// The schedule's file; `None` if there is none.
    pub schedule: Option<&'a [u8]>,
    /// What the spool's directory holds; `None` if there is no spool.
    pub spool: Option<&'a spool::Recovered>,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): what the journal says of
    /// processes and of the boot clock counts only within the same boot.
    pub boot_id: [u8; 16],
}

/// The place of a run in progress, from 0 up to [`Settings::concurrency`]. It is taken from
/// [`Output::Start`] until [`Input::Ended`] or [`Input::NotStarted`], and then used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub(crate) u8);

impl Slot {
    /// As an index into a table of slots.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The body frame of a command arrived (its topic was one of ours: the subscription sees to
    /// that).
    Command(&'a [u8]),
    /// What [`Output::Send`] gave is in the socket's queue.
    Sent,
    /// The socket has no room (`EAGAIN`); the same report comes out again after
    /// [`Input::Writable`].
    Refused,
    /// The socket may have room again. Harmless when it was not asked for.
    Writable,
    /// The program runs. With its pid the time at which it began to start names the process.
    Started {
        /// Which run.
        slot: Slot,
        /// Its process, the leader of its own group.
        pid: u32,
        /// The boot clock just before that process was started, in ticks as field 22 of
        /// `/proc/<pid>/stat` has them.
        start_ticks: u64,
    },
    /// The run could not be started, or (built-in jobs) could not do its work. The slot is free.
    NotStarted {
        /// Which run.
        slot: Slot,
        /// Why, for people.
        error: &'a str,
    },
    /// Standard output of a run, at most [`crate::limits::READ`] bytes; more is cut into pieces
    /// with [`crate::agent::Agent::poll_output`] in between.
    Stdout {
        /// Which run.
        slot: Slot,
        /// What it wrote.
        bytes: &'a [u8],
    },
    /// Standard error of a run.
    Stderr {
        /// Which run.
        slot: Slot,
        /// What it wrote.
        bytes: &'a [u8],
    },
    /// The run ended, its pipes are at their end, and nothing of its process group is left. For
    /// built-in jobs: the last of their output was given. The slot is free.
    Ended {
        /// Which run.
        slot: Slot,
        /// How. Built-in jobs: [`Exit::None`].
        exit: Exit,
        /// What it used.
        usage: Usage,
        /// What the run has to say for itself, ≤ 256 B (`file`: inode and offsets).
        note: &'a str,
    },
    /// Answers [`Output::WantVitals`].
    Vitals(Vitals),
    /// The configuration was read again (SIGHUP) and is good.
    Reloaded(Box<Reload>),
    /// SIGTERM: finish, within the bound. A second one changes nothing.
    Stop,
    /// What is wrong with the node's storage, ≤ 256 B; empty: nothing any more.
    Storage(&'a str),
    /// Answers [`Output::Spool`].
    Spooled(spool::Done<'a>),
    /// Time has passed: [`crate::agent::Agent::next_deadline`] came, or the wall clock was set.
    /// Early and repeated ones do nothing.
    Tick,
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its largest resident set, in KiB.
    pub peak_rss_kib: u64,
    /// Its CPU time, user and system, in microseconds.
    pub cpu_us: u64,
}

/// How the machine is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vitals {
    /// The one-minute load average, times 1000.
    pub load_milli: u32,
    /// Memory available, in KiB.
    pub memory_kib: u64,
    /// The hottest thermal zone, in thousandths of a degree Celsius.
    pub temperature_milli: Option<i32>,
    /// Bytes this agent has written to disk (not to the runtime directory).
    pub written_bytes: u64,
}

/// Something to be done, in this order, before the next wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// Connect both sockets to this hub, expecting this one of its server keys.
    Connect {
        /// Index into the configuration's hubs.
        hub: usize,
        /// Index into that hub's server keys.
        key: usize,
    },
    /// Disconnect both sockets, whatever state they are in. What the PUSH socket still queues is
    /// lost or not: unacked reports come again.
    Disconnect,
    /// Offer this body to the PUSH socket without waiting, and answer [`Input::Sent`] or
    /// [`Input::Refused`] before the next [`crate::agent::Agent::poll_output`].
    Send(&'a [u8]),
    /// Start the run that [`crate::agent::Agent::launch`] describes; answer [`Input::Started`]
    /// (programs only) or [`Input::NotStarted`].
    Start {
        /// Which run.
        slot: Slot,
    },
    /// Send this signal to the run's whole process group. The run may have ended meanwhile.
    Signal {
        /// Which run.
        slot: Slot,
        /// Which signal.
        signal: Signal,
    },
    /// Stop or go on reading the run's standard output: while it is not read, the program waits.
    /// Every run starts with `read: true`.
    ReadOutput {
        /// Which run.
        slot: Slot,
        /// Whether to read.
        read: bool,
    },
    /// A process of an earlier start of the agent may be left: kill its group, if the process
    /// still is the one that started then.
    KillLeftover {
        /// The process, leader of its own group.
        pid: u32,
        /// As in [`Input::Started`].
        start_ticks: u64,
    },
    /// Append to the journal's file, before anything that comes out after this is done.
    AppendJournal(&'a [u8]),
    /// Replace the journal's file: write another one, then rename.
    ReplaceJournal(&'a [u8]),
    /// Replace the schedule's file on disk: write another one, fsync, rename, fsync the directory.
    SaveSchedule(&'a [u8]),
    /// Do this with the spool's files, and answer [`Input::Spooled`] before the next
    /// [`crate::agent::Agent::poll_output`].
    Spool(spool::Work<'a>),
    /// Everything that a `file` run reported is durable at the hub: its cursor may move.
    Delivered {
        /// Which run.
        run: RunId,
        /// Which execution of it.
        attempt: Attempt,
    },
    /// A heartbeat is due: answer [`Input::Vitals`].
    WantVitals,
    /// The agent does its work (`sd_notify` `READY=1`). Once, whether or not a hub answers.
    Ready,
    /// What it is doing, in a line (`sd_notify` `STATUS=`).
    Status(&'a str),
    /// The agent has finished: end the process. Once, and the last.
    Exit,
}

/// A signal to a process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// A run that is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// What it does.
    pub job: &'a Job,
    /// Its checked arguments, in the order of the job's.
    pub args: &'a Args,
    /// Which run.
    pub run: RunId,
    /// Which execution of it.
    pub attempt: Attempt,
    /// What caused it.
    pub cause: Cause<'a>,
    /// The node.
    pub node: &'a Name,
}

impl Launch<'_> {
    /// The program's argv; empty for built-in jobs.
    pub fn argv(&self) -> impl Iterator<Item = String> {
        let argv = match &self.job.kind {
            Kind::Command(program) => program.argv.as_slice(),
            Kind::System | Kind::File { .. } | Kind::Ping => &[],
        };
        argv.iter().map(|template| template.fill(self.args))
    }

    /// The program's whole environment: a default `PATH`, the job's own, then `FIELDPOST_*`. A
    /// later one of the same name replaces an earlier one.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let own = match &self.job.kind {
            Kind::Command(program) => program.env.as_slice(),
            Kind::System | Kind::File { .. } | Kind::Ping => &[],
        };
        let path = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        let run = [
            ("FIELDPOST_RUN_ID", self.run.to_string()),
            ("FIELDPOST_ATTEMPT", self.attempt.0.to_string()),
            ("FIELDPOST_JOB", self.job.name.to_string()),
            ("FIELDPOST_NODE", self.node.to_string()),
        ];
        let args = self.job.args.iter().zip(self.args.values()).map(|(spec, value)| {
            let name = spec.name.to_uppercase().replace(['.', '-'], "_");
            (format!("FIELDPOST_ARG_{name}"), value.to_owned())
        });
        std::iter::once(path)
            .map(|(name, value): (&str, String)| (name.to_owned(), value))
            .chain(own.iter().cloned())
            .chain(run.into_iter().map(|(name, value)| (name.to_owned(), value)))
            .chain(args)
    }
}
