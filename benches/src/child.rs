//! Processes that the benchmark starts and ends.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// A process of ours; ended when dropped.
pub struct Process(Child);

impl Process {
    /// Starts it. It ends when this thread does, whatever ends that: nothing stays behind.
    #[expect(unsafe_code, reason = "what is done between fork and exec")]
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // SAFETY: both are system calls and touch no memory but the stack's.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // What this process waits for by itself (see `rig::clean_up_when_told_to_end`).
                SigSet::empty().thread_set_mask()?;
                Ok(())
            });
        }
        command.stdin(Stdio::null()).spawn().map(Self).map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            io::Error::new(error.kind(), format!("{program}: {error}"))
        })
    }

    /// This program again, in another role.
    pub fn role<S: AsRef<OsStr>>(
        role: &str,
        args: impl IntoIterator<Item = S>,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("role").arg(role).args(args).stdout(Stdio::piped());
        Self::start(&mut command)
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if let Some(out) = self.0.stdout.as_mut() {
            BufReader::with_capacity(1, out).read_line(&mut line)?;
        }
        if line.is_empty() {
            return Err(io::Error::other("a process of the benchmark ended early"));
        }
        Ok(line.trim_end().to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        if self.has_ended() {
            return;
        }
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process id is an i32"));
        if kill(pid, signal).is_ok() {
            let latest = Instant::now() + Duration::from_secs(20);
            while Instant::now() < latest {
                if self.has_ended() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("process {} stays: {error}", self.0.id());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}
