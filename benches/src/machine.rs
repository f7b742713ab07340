//! The machine: its name, its cores, and what it tells of a process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use fieldpost_sockets::Socket;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::unistd::Pid;

use crate::Outcome;

/// What the figures were measured on.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name").or(line.strip_prefix("Hardware")))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown CPU", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&memory, "MemTotal:").unwrap_or(0) >> 20;
    let virtual_machine = if cpu.contains(" hypervisor") { ", virtual" } else { "" };
    format!(
        "{model}{virtual_machine}, {cores} cores, {memory} GiB, Linux {}, {}",
        kernel.trim(),
        std::env::consts::ARCH
    )
}

/// Cores to run on; given back when dropped.
pub struct Pinned(CpuSet);

impl Pinned {
    /// Pins this thread, and whatever it starts from now on, to one core: the last it may use.
    pub fn to_one_core() -> io::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let last = (0..CpuSet::count())
            .rev()
            .find(|core| before.is_set(*core).unwrap_or(false))
            .unwrap_or(0);
        let mut one = CpuSet::new();
        one.set(last)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(errno) = sched_setaffinity(Pid::from_raw(0), &self.0) {
            eprintln!("this thread stays on one core: {errno}");
        }
    }
}

/// Spins for ever in whatever time nobody else wants, so that the core never sleeps: waking a
/// virtual core costs more than what is measured, sometimes.
#[expect(unsafe_code, reason = "nix has no sched_setscheduler")]
pub fn keep_core_awake() -> ! {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is initialised and outlives the call; 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    if set == 0 {
        // Whoever started us is our parent; once it is gone, so are we.
        let parent = std::os::unix::process::parent_id();
        while std::os::unix::process::parent_id() == parent {
            for _ in 0..1_000_000 {
                std::hint::black_box(());
            }
        }
    }
    std::process::exit(0)
}

/// CPU time of a process, all threads that live, in microseconds.
pub fn cpu_us(pid: u32) -> f64 {
    cpu_by_thread(pid).values().sum()
}

/// CPU time of each thread of a process, in microseconds, by name.
pub fn cpu_by_thread(pid: u32) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for thread in threads(pid) {
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let ns = text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        *all.entry(name.trim().to_owned()).or_default() += ns as f64 / 1_000.0;
    }
    all
}

/// How often a process went to sleep by itself.
pub fn sleeps(pid: u32) -> u64 {
    threads(pid)
        .iter()
        .map(|thread| {
            let text = fs::read_to_string(thread.join("status")).unwrap_or_default();
            field(&text, "voluntary_ctxt_switches:").unwrap_or(0)
        })
        .sum()
}

/// The directories of a process' threads.
pub fn threads(pid: u32) -> Vec<std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// The memory of a process, in KB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss: f64,
    pub pss: f64,
    pub anonymous: f64,
}

/// What a process has in memory.
pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kb = |name| field(&text, name).unwrap_or(0) as f64;
    Memory { rss: kb("Rss:"), pss: kb("Pss:"), anonymous: kb("Anonymous:") }
}

/// Whether a program has no interpreter: fully static.
pub fn is_static(program: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(bytes) = fs::read(program) else { return false };
    let word = |at: usize, size: usize| -> u64 {
        let mut word = [0; 8];
        if let Some(bytes) = bytes.get(at..at + size) {
            word[..size].copy_from_slice(bytes);
        }
        u64::from_le_bytes(word)
    };
    let wide = bytes.get(4) == Some(&2);
    let (offset, size, count) = if wide {
        (word(32, 8), word(54, 2), word(56, 2))
    } else {
        (word(28, 4), word(42, 2), word(44, 2))
    };
    !(0..count).any(|i| word((offset + i * size) as usize, 4) == u64::from(PT_INTERP))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Watches a socket for messages; `index` says which it is.
#[expect(unsafe_code, reason = "a BorrowedFd for epoll")]
pub fn watch(epoll: &Epoll, socket: &Socket, index: u64) -> Outcome<()> {
    // SAFETY: the descriptor is the socket's, which lives as long as whoever waits.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.descriptor()?) };
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
    Ok(())
}
