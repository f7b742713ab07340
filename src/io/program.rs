//! Starts programs, signals them and reaps them.
//!
//! A program leads a session and a process group of its own, reads /dev/null, writes into two
//! pipes of ours, and gets the environment we give it and nothing else: no descriptor, no signal
//! mask, no terminal.
//!
//! It is cloned like vfork(2) does, on a stack of its own: nothing of the agent is copied, and
//! we go on when it has called execve(2), or failed to.
#![allow(
    unsafe_code,
    reason = "clone(2), waitid(2) and wait4(2) have no safe wrapper that will do"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use fieldpost_wire::Exit;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};

/// What the child needs between clone and exec: a few system calls and their wrappers.
const STACK: usize = 32 * 1024;

/// What to start.
#[derive(Debug)]
pub struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    memory: Option<libc::rlim_t>,
}

/// A program that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process id, which is its group's too.
    pub pid: Pid,
    /// The reading end of its standard output; does not wait.
    pub stdout: OwnedFd,
    /// The reading end of its standard error; does not wait.
    pub stderr: OwnedFd,
}

/// How a program ended, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code or signal.
    pub exit: Exit,
    /// Its largest resident set, in KiB.
    pub peak_rss_kib: u64,
    /// Its CPU time, user and system, in microseconds.
    pub cpu_us: u64,
}

/// Why a program was not started.
#[derive(Debug)]
pub enum Failure {
    /// No descriptor or no memory for it.
    Resources(io::Error),
    /// Its working directory.
    Directory(io::Error),
    /// The program itself.
    Program(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resources(error) => write!(f, "can't start a program: {error}"),
            Self::Directory(error) => write!(f, "can't enter its directory: {error}"),
            Self::Program(error) => write!(f, "can't execute it: {error}"),
        }
    }
}

impl Program {
    /// A program that starts in `/` with nothing in its environment.
    ///
    /// # Errors
    /// An argument with a NUL, or no argument at all.
    pub fn new<A: AsRef<str>>(argv: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let argv: Vec<CString> =
            argv.into_iter().map(|a| c_string(a.as_ref())).collect::<Result<_, _>>()?;
        if argv.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { argv, env: Vec::new(), cwd: c"/".to_owned(), memory: None })
    }

    /// Sets a variable.
    ///
    /// # Errors
    /// A NUL in it.
    pub fn variable(&mut self, name: &str, value: &str) -> io::Result<()> {
        let mut text = String::with_capacity(name.len() + value.len() + 2);
        text.push_str(name);
        text.push('=');
        text.push_str(value);
        let variable = c_string(&text)?;
        let key = &text.as_bytes()[..=name.len()];
        match self.env.iter_mut().find(|known| known.as_bytes().starts_with(key)) {
            Some(known) => *known = variable,
            None => self.env.push(variable),
        }
        Ok(())
    }

    /// Sets its working directory.
    ///
    /// # Errors
    /// A NUL in it.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.cwd = c_string(path)?;
        Ok(())
    }

    /// Bounds the memory for data of each of its processes, in bytes (`RLIMIT_DATA`).
    pub fn memory(&mut self, most: Option<u64>) {
        // More than the platform can count bounds nothing.
        self.memory = most.and_then(|most| libc::rlim_t::try_from(most).ok());
    }
}

/// Starts programs.
#[derive(Debug)]
pub struct Spawner {
    stack: Vec<u8>,
    null: File,
}

impl Spawner {
    /// Opens what every program needs.
    ///
    /// # Errors
    /// /dev/null can't be opened.
    pub fn new() -> io::Result<Self> {
        Ok(Self { stack: vec![0; STACK], null: File::open("/dev/null")? })
    }

    /// Starts a program.
    ///
    /// # Errors
    /// What was in the way.
    pub fn start(&mut self, program: &Program) -> Result<Started, Failure> {
        let resources = |errno: nix::errno::Errno| Failure::Resources(errno.into());
        let (stdout, stdout_there) = pipe2(OFlag::O_CLOEXEC).map_err(resources)?;
        let (stderr, stderr_there) = pipe2(OFlag::O_CLOEXEC).map_err(resources)?;
        for ours in [&stdout, &stderr] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(resources)?;
        }
        let argv = pointers(&program.argv);
        let env = pointers(&program.env);
        let mut birth = Birth {
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            cwd: program.cwd.as_ptr(),
            memory: program.memory.unwrap_or(libc::RLIM_INFINITY),
            fds: [self.null.as_raw_fd(), stdout_there.as_raw_fd(), stderr_there.as_raw_fd()],
            failed: Stage::Cloned,
            errno: 0,
        };
        let pid = self.clone_and_exec(&mut birth).map_err(Failure::Resources)?;
        if birth.errno == 0 {
            return Ok(Started { pid, stdout, stderr });
        }
        let _ended = reap(pid);
        let error = io::Error::from_raw_os_error(birth.errno);
        Err(match birth.failed {
            Stage::Cloned => Failure::Resources(error),
            Stage::Directory => Failure::Directory(error),
            Stage::Exec => Failure::Program(error),
        })
    }

    fn clone_and_exec(&mut self, birth: &mut Birth) -> io::Result<Pid> {
        // The stack grows down, from an aligned end (16 bytes suit every architecture).
        let top = self.stack.as_mut_ptr_range().end;
        let top = top.wrapping_sub(top as usize % 16).cast::<c_void>();
        // SAFETY: as vfork(2): we are suspended until the child has exec'd or exited, so that it
        // alone uses `stack` and `birth`, which both outlive it. All signals are blocked around
        // it, so that no handler of ours runs in the child.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            let pid = libc::clone(be_born, top, flags, ptr::from_mut(birth).cast());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            if pid < 0 { Err(error) } else { Ok(Pid::from_raw(pid)) }
        }
    }
}

/// What the child reads, and where it leaves what went wrong.
#[repr(C)]
struct Birth {
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    memory: libc::rlim_t,
    fds: [RawFd; 3],
    failed: Stage,
    errno: c_int,
}

#[repr(C)]
enum Stage {
    Cloned,
    Directory,
    Exec,
}

/// Runs in the child, in our memory: system calls only, no allocation, no lock, no return.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: the parent gave a `Birth` that lives until we exec or exit. Only functions that
    // signal-safety(7) lists, close_range(2) and setrlimit(2) are called.
    unsafe {
        let birth = birth.cast::<Birth>();
        let fail = |stage: Stage| -> c_int {
            (*birth).failed = stage;
            (*birth).errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            libc::_exit(127)
        };
        if libc::setsid() < 0 {
            return fail(Stage::Cloned);
        }
        for (to, from) in (0..).zip((*birth).fds) {
            if libc::dup2(from, to) < 0 {
                return fail(Stage::Cloned);
            }
        }
        // Everything of ours is close-on-exec; this holds for what others opened. Kernels
        // before 5.11 don't know it, and do without.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // When memory is short it is a job that goes, and never the agent for it.
        let first =
            libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if first >= 0 {
            libc::write(first, c"1000".as_ptr().cast(), 4);
        }
        if (*birth).memory != libc::RLIM_INFINITY {
            let most = libc::rlimit { rlim_cur: (*birth).memory, rlim_max: (*birth).memory };
            if libc::setrlimit(libc::RLIMIT_DATA, &raw const most) < 0 {
                return fail(Stage::Cloned);
            }
        }
        if libc::chdir((*birth).cwd) < 0 {
            return fail(Stage::Directory);
        }
        // Rust ignores SIGPIPE, and an ignored signal stays so through exec.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(*(*birth).argv, (*birth).argv, (*birth).env);
        fail(Stage::Exec)
    }
}

/// Sends a signal to a program's whole group. One that is gone already is no error.
pub fn signal_group(pid: Pid, signal: nix::sys::signal::Signal) {
    match nix::sys::signal::killpg(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => log::warn!("{signal} to the program group {pid}: {errno}"),
    }
}

/// What our children are up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// There are none.
    None,
    /// There are some, and none of them has ended.
    Alive,
    /// This one has ended and waits to be reaped; until then its id, and its group's, stay its
    /// own.
    Ended(Pid),
}

/// Looks for a child that has ended, and leaves it as it is.
#[must_use]
pub fn children() -> Children {
    // SAFETY: waitid(2) fills the structure that it is given, which starts as zeros.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
            return Children::None;
        }
        match info.si_pid() {
            0 => Children::Alive,
            pid => Children::Ended(Pid::from_raw(pid)),
        }
    }
}

/// Reaps a child that has ended. `None` if there is no such child.
#[must_use]
pub fn reap(pid: Pid) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: wait4(2) fills the two places that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) != pid.as_raw() {
            return None;
        }
        usage
    };
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    let cpu_us = micros(usage.ru_utime).saturating_add(micros(usage.ru_stime));
    Some(Ended { exit, peak_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0), cpu_us })
}

/// Makes us the parent of every descendant whose own parent ends (prctl(2)).
///
/// # Errors
/// The kernel does not know it.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: takes plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor for a process that does not change its meaning when the process ends.
///
/// # Errors
/// There is no such process.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers; the descriptor it returns is ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Kills the process that a pidfd stands for. One that is gone already is no error.
pub fn kill(pidfd: &OwnedFd) {
    // SAFETY: takes plain numbers and a null pointer, which it allows.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            ptr::null::<c_void>(),
            0,
        )
    };
    if done != 0 {
        log::debug!("a leftover was gone before it was killed: {}", io::Error::last_os_error());
    }
}

fn micros(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| CStr::as_ptr(text)).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn run(program: &Program) -> (String, Ended) {
        let started = Spawner::new().unwrap().start(program).unwrap();
        fcntl(&started.stdout, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let mut text = String::new();
        File::from(started.stdout).read_to_string(&mut text).unwrap();
        (text, reap(started.pid).unwrap())
    }

    #[test]
    fn a_program_gets_what_it_is_given_and_nothing_else() {
        let script = "echo \"$1\"; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=; pwd; ls /proc/self/fd | wc -l; \
                      grep SigIgn /proc/self/status; grep SigBlk /proc/self/status";
        let mut program = Program::new(["/bin/sh", "-c", script, "sh", "a b;c"]).unwrap();
        program.variable("FIELDPOST_JOB", "x").unwrap();
        program.directory("/tmp").unwrap();
        let (text, ended) = run(&program);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["a b;c", "FIELDPOST_JOB=x", "/tmp"], "{text}");
        assert_eq!(lines[3].trim(), "4", "0, 1, 2 and ls' own");
        // What ran this test may ignore signals of its own; Rust ignores SIGPIPE, number 13.
        let mask = |line: &str| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        assert_eq!(mask(lines[4]) >> 12 & 1, 0, "{text}");
        assert_eq!(mask(lines[5]), 0, "{text}");
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(ended.peak_rss_kib > 0);
    }

    #[test]
    fn a_program_is_the_first_to_go_and_bounded_in_memory_while_we_are_not() {
        let script = "cat /proc/self/oom_score_adj; ulimit -d; x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo whole";
        let mut program = Program::new(["/bin/sh", "-c", script]).unwrap();
        let (text, _) = run(&program);
        assert_eq!(text.lines().collect::<Vec<_>>(), ["1000", "unlimited", "whole"]);
        program.memory(Some(8 << 20));
        let (text, ended) = run(&program);
        assert_eq!(text.lines().collect::<Vec<_>>(), ["1000", "8192"], "{ended:?}");
        assert_ne!(ended.exit, Exit::Code(0));
        let ours = std::fs::read_to_string("/proc/self/limits").unwrap();
        let data = ours.lines().find(|line| line.starts_with("Max data size")).unwrap();
        assert!(data.contains("unlimited"), "{data}");
    }

    #[test]
    fn what_can_not_be_started_says_why() {
        let mut spawner = Spawner::new().unwrap();
        let missing = Program::new(["/nonexistent"]).unwrap();
        assert!(matches!(spawner.start(&missing), Err(Failure::Program(_))));
        let mut nowhere = Program::new(["/bin/true"]).unwrap();
        nowhere.directory("/nonexistent").unwrap();
        assert!(matches!(spawner.start(&nowhere), Err(Failure::Directory(_))));
        assert!(Program::new(["a\0b"]).is_err());
    }

    #[test]
    fn a_signal_ends_the_whole_group() {
        let program = Program::new(["/bin/sh", "-c", "sleep 100 & wait"]).unwrap();
        let started = Spawner::new().unwrap().start(&program).unwrap();
        signal_group(started.pid, nix::sys::signal::Signal::SIGKILL);
        assert_eq!(reap(started.pid).unwrap().exit, Exit::Signal(9));
        // Both writers of the pipe are gone, so that it ends.
        fcntl(&started.stdout, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let mut rest = Vec::new();
        File::from(started.stdout).read_to_end(&mut rest).unwrap();
    }
}
