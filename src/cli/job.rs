//! `fieldpost-agent job`: runs one job here and now, without a hub.
//!
//! The program gets what a triggered run gets: checked arguments, its own group, a cleared
//! environment. Its output goes to stdout as it comes, its errors to stderr. A `file` job shows
//! what the next run will give, and does not move on.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use fieldpost_wire::limits::{CHUNK, STDERR_TAIL};
use fieldpost_wire::{Attempt, Cause, Exit as Code, RunId};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::{Exit, Failure, say};
use crate::agent::Launch;
use crate::config::Config;
use crate::event_loop::program_of;
use crate::io::cursors::Cursors;
use crate::io::program::{self, Children, Ended, Spawner, Started};
use crate::io::system::{self, Json};
use crate::io::{clock::Clock, orphans, storage, tail};
use crate::job::{Job, Kind};

/// How long somebody may hold the output open after the program has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a run gives.
struct Outcome {
    ended: Ended,
    timed_out: bool,
    duration: Duration,
    output: Output,
    stderr: Vec<u8>,
    note: String,
}

/// The output: shown as it comes, or kept for the JSON.
struct Output {
    kept: Option<Vec<u8>>,
    room: u64,
    bytes: u64,
    truncated: bool,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        let fits = &bytes[..bytes.len().min(room)];
        self.truncated |= fits.len() < bytes.len();
        self.room -= fits.len() as u64;
        self.bytes += fits.len() as u64;
        match &mut self.kept {
            Some(kept) => kept.extend_from_slice(fits),
            None => std::io::stdout().write_all(fits).map_err(|error| internal(&error))?,
        }
        Ok(())
    }
}

pub(super) fn run(
    file: &Path,
    name: &str,
    args: &[(String, String)],
    json: bool,
) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let job = config.agent.jobs.iter().find(|job| &*job.name == name).ok_or_else(|| {
        let known: Vec<&str> = config.agent.jobs.iter().map(|job| &*job.name).collect();
        let hint = match fieldpost_settings::nearest(name, &known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the jobs are {}", known.join(", ")),
        };
        Failure::new(Exit::Usage, format!("there is no job {name:?}\n  hint: {hint}"))
    })?;
    let pairs = args.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let args = job.check(pairs).map_err(|bad| Failure::new(Exit::Usage, bad))?;
    let now = Clock::default().now();
    let mut random = [0; 10];
    random.fill_with(|| fastrand::u8(..));
    let launch = Launch {
        job,
        args: &args,
        run: RunId::v7(now.wall, random),
        attempt: Attempt::FIRST,
        cause: Cause::Trigger,
        node: &config.agent.node,
    };
    let output =
        Output { kept: json.then(Vec::new), room: job.max_output, bytes: 0, truncated: false };
    let outcome = match &job.kind {
        Kind::Command(_) => run_program(&launch, config.agent.grace, output)?,
        Kind::System | Kind::File { .. } | Kind::Ping => run_builtin(job, &config, output)?,
    };
    if json {
        say(&outcome.json(&launch))?
    } else {
        outcome.tell(name)
    }
    let exit = match outcome.ended.exit {
        _ if outcome.timed_out => Exit::TimedOut,
        Code::None | Code::Code(0) => return Ok(()),
        Code::Code(_) | Code::Signal(_) => Exit::Failed,
    };
    Err(Failure::new(exit, ""))
}

fn run_builtin(job: &Job, config: &Config, mut output: Output) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let mut note = String::new();
    match &job.kind {
        Kind::Command(_) | Kind::Ping => {}
        Kind::System => {
            let mut json = Json::new();
            system::describe(&mut json);
            output.take(json.as_bytes())?;
        }
        Kind::File { path } => {
            let failed = |error| {
                Failure::new(Exit::Failed, format!("can't read {}: {error}", path.display()))
            };
            let text = storage::look_at_cursors(&config.runtime_dir, &config.state_dir);
            let last = Cursors::parse(&text).next(&job.name);
            let mut reading = tail::Reading::begin(path, last, job.max_output).map_err(failed)?;
            let mut buffer = [0; CHUNK];
            while let Some(length) = reading.next(&mut buffer).map_err(failed)? {
                output.take(&buffer[..length])?;
            }
            reading.note().clone_into(&mut note);
        }
    }
    let ended = Ended { exit: Code::None, peak_rss_kib: 0, cpu_us: 0 };
    let duration = start.elapsed();
    Ok(Outcome { ended, timed_out: false, duration, output, stderr: Vec::new(), note })
}

/// What to do next about a program whose time is over.
#[derive(Clone, Copy)]
enum Deadline {
    Terminate(Instant),
    Kill(Instant),
    Passed,
}

impl Deadline {
    fn left(self) -> Option<Duration> {
        match self {
            Self::Terminate(at) | Self::Kill(at) => {
                Some(at.saturating_duration_since(Instant::now()))
            }
            Self::Passed => None,
        }
    }
}

fn run_program(
    launch: &Launch<'_>,
    grace: Duration,
    mut output: Output,
) -> Result<Outcome, Failure> {
    program::adopt_orphans().map_err(|error| internal(&error))?;
    let program = program_of(launch).map_err(|error| internal(&error))?;
    let mut spawner = Spawner::new().map_err(|error| internal(&error))?;
    let start = Instant::now();
    let Started { pid, stdout, stderr } =
        spawner.start(&program).map_err(|failure| Failure::new(Exit::Failed, failure))?;
    let process = program::pidfd(pid).map_err(|error| internal(&error))?;
    let mut pipes = [Some(stdout), Some(stderr)];
    let mut errors = Vec::new();
    let mut deadline = Deadline::Terminate(start + launch.job.timeout);
    let mut timed_out = false;
    let ended = loop {
        let ready = wait(&pipes, Some(&process), deadline.left())?;
        read(&mut pipes, ready, &mut output, &mut errors)?;
        if ready[2] {
            program::signal_group(pid, Signal::SIGKILL);
            break program::reap(pid);
        }
        if deadline.left().is_some_and(|left| left.is_zero()) {
            timed_out = true;
            deadline = match deadline {
                Deadline::Terminate(_) => {
                    program::signal_group(pid, Signal::SIGTERM);
                    Deadline::Kill(Instant::now() + grace)
                }
                Deadline::Kill(_) | Deadline::Passed => {
                    program::signal_group(pid, Signal::SIGKILL);
                    Deadline::Passed
                }
            };
        }
    };
    let duration = start.elapsed();
    let until = Instant::now() + PATIENCE;
    kill_descendants(until);
    while pipes.iter().any(Option::is_some) && Instant::now() < until {
        let ready = wait(&pipes, None, Some(until.saturating_duration_since(Instant::now())))?;
        read(&mut pipes, ready, &mut output, &mut errors)?;
    }
    let ended =
        ended.ok_or_else(|| Failure::new(Exit::Internal, "the program was reaped by another"))?;
    let note = String::new();
    Ok(Outcome { ended, timed_out, duration, output, stderr: errors, note })
}

/// Every child is left over now: nothing else was started.
fn kill_descendants(until: Instant) {
    while Instant::now() < until {
        match program::children() {
            Children::None => return,
            Children::Ended(pid) => drop(program::reap(pid)),
            Children::Alive => {
                for pid in orphans::children() {
                    if let Err(errno) = kill(pid, Signal::SIGKILL) {
                        eprintln!("process {pid} is left over and can't be killed: {errno}");
                    }
                    if let Ok(process) = program::pidfd(pid)
                        && wait(&[None, None], Some(&process), Some(PATIENCE)).is_err()
                    {
                        return;
                    }
                }
            }
        }
    }
}

/// Which of the pipes can be read, and whether the process has ended.
fn wait(
    pipes: &[Option<OwnedFd>; 2],
    process: Option<&OwnedFd>,
    left: Option<Duration>,
) -> Result<[bool; 3], Failure> {
    let watched = [pipes[0].as_ref(), pipes[1].as_ref(), process];
    let mut fds = heapless::Vec::<PollFd<'_>, 3>::new();
    for fd in watched.into_iter().flatten() {
        if fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN)).is_err() {
            unreachable!("three at the most");
        }
    }
    let timeout = match left {
        Some(left) => {
            // Rounded up, or the last millisecond would be spent in a spin.
            let left = left + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(internal(&errno.into())),
    }
    let mut polled = fds.iter();
    Ok(watched.map(|fd| fd.is_some() && polled.next().is_some_and(|fd| fd.any() == Some(true))))
}

fn read(
    pipes: &mut [Option<OwnedFd>; 2],
    ready: [bool; 3],
    output: &mut Output,
    errors: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut buffer = [0; CHUNK];
    for (index, pipe) in pipes.iter_mut().enumerate().filter(|(index, _)| ready[*index]) {
        let Some(fd) = pipe else { continue };
        match nix::unistd::read(&*fd, &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => *pipe = None,
            Ok(length) if index == 0 => output.take(&buffer[..length])?,
            Ok(length) => {
                let bytes = &buffer[..length];
                if output.kept.is_none() {
                    std::io::stderr().write_all(bytes).map_err(|error| internal(&error))?;
                }
                errors.extend_from_slice(bytes);
                let old = errors.len().saturating_sub(STDERR_TAIL);
                errors.drain(..old);
            }
        }
    }
    Ok(())
}

impl Outcome {
    fn status(&self) -> &'static str {
        match self.ended.exit {
            _ if self.timed_out => "timed_out",
            Code::None | Code::Code(0) => "ok",
            Code::Code(_) => "failed",
            Code::Signal(_) => "signalled",
        }
    }

    /// A line for people, on stderr: stdout is the output's.
    fn tell(&self, name: &str) {
        let exit = match self.ended.exit {
            Code::None => String::new(),
            Code::Code(code) => format!(", exit code {code}"),
            Code::Signal(signal) => format!(", signal {signal}"),
        };
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        let truncated = if self.output.truncated { ", truncated" } else { "" };
        eprintln!(
            "{name}: {}{exit}, {} bytes{truncated}, {:.3} s, {} KiB at most, {:.3} s of CPU{note}",
            self.status(),
            self.output.bytes,
            self.duration.as_secs_f64(),
            self.ended.peak_rss_kib,
            Duration::from_micros(self.ended.cpu_us).as_secs_f64(),
        );
    }

    fn json(&self, launch: &Launch<'_>) -> String {
        let (code, signal) = match self.ended.exit {
            Code::None => ("null".to_owned(), "null".to_owned()),
            Code::Code(code) => (code.to_string(), "null".to_owned()),
            Code::Signal(signal) => ("null".to_owned(), signal.to_string()),
        };
        let kept = self.output.kept.as_deref().unwrap_or_default();
        format!(
            "{{\"job\":\"{}\",\"run_id\":\"{}\",\"status\":\"{}\",\"exit_code\":{code},\
             \"signal\":{signal},\"duration_us\":{},\"bytes\":{},\"truncated\":{},\
             \"peak_rss_kib\":{},\"cpu_us\":{},\"note\":{},\"output\":{},\"stderr\":{}}}\n",
            launch.job.name,
            launch.run,
            self.status(),
            self.duration.as_micros(),
            self.output.bytes,
            self.output.truncated,
            self.ended.peak_rss_kib,
            self.ended.cpu_us,
            quoted(&self.note),
            quoted(&String::from_utf8_lossy(kept)),
            quoted(&String::from_utf8_lossy(&self.stderr)),
        )
    }
}

pub(super) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    system::quoted(&mut json, text).expect("a String takes everything");
    json
}

fn internal(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::new(Exit::Ok, "");
    }
    Failure::new(Exit::Internal, error)
}
