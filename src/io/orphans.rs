//! Finds processes by the run that they belong to.
//!
//! Two kinds: children that were reparented to us because the program that made them has ended
//! (we are a subreaper, prctl(2)), and leftovers of a former agent. Both carry `FIELDPOST_RUN_ID`
//! and `FIELDPOST_ATTEMPT` in their environment, which proc(5) shows as it was at execve(2).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use fieldpost_wire::{Attempt, RunId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::program::{kill, pidfd};

/// How much of an environment is searched. Ours stands first in it unless a shell reordered it.
const ENVIRONMENT: usize = 16 * 1024;

/// The run that a process was started for, as its environment tells; `None` for any other.
#[must_use]
pub fn run_of(pid: Pid) -> Option<(RunId, Attempt)> {
    let mut buffer = [0; ENVIRONMENT];
    let environment = read(&format!("/proc/{pid}/environ"), &mut buffer).ok()?;
    let value = |name: &str| {
        environment.split(|&b| b == 0).find_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            std::str::from_utf8(value).ok()
        })
    };
    Some((
        value("FIELDPOST_RUN_ID")?.parse().ok()?,
        Attempt(value("FIELDPOST_ATTEMPT")?.parse().ok()?),
    ))
}

/// Our own children, reparented ones included.
#[must_use]
pub fn children() -> Vec<Pid> {
    // One file a thread, where the kernel has it (CONFIG_PROC_CHILDREN).
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: io::Result<Vec<String>> =
        tasks.map(|task| std::fs::read_to_string(task.path().join("children"))).collect();
    match lists {
        Ok(lists) => lists
            .iter()
            .flat_map(|list| list.split_whitespace())
            .filter_map(|pid| pid.parse().ok())
            .map(Pid::from_raw)
            .collect(),
        Err(_) => {
            let mine = |pid: &Pid| stat(*pid).is_some_and(|stat| stat.parent == Pid::this());
            processes().filter(mine).collect()
        }
    }
}

/// Ticks of proc(5)'s times in a second: on Linux 100, whatever the kernel's own are.
const TICKS: u64 = 100;

/// What is to be remembered of a process that is about to start: no process that started earlier,
/// or much later, can be it. Spares a look at /proc for each program.
#[must_use]
pub fn start_time() -> u64 {
    let boot = super::clock::boot();
    boot.as_secs() * TICKS + u64::from(boot.subsec_millis()) * TICKS / 1000
}

/// A busy machine may take so long, in ticks, between the look at the clock and the start. Process
/// ids come round in longer.
const LATER: u64 = 10 * TICKS;

/// Whether a process that started then can be the one of which that was remembered.
fn is_it(start: u64, remembered: u64) -> bool {
    (remembered..=remembered + LATER).contains(&start)
}

/// Kills what is left of a program that a former agent started, and waits, but not for long,
/// until it is gone. Gives how many processes there were.
///
/// That is the program itself, if the process still is the one that started then; what is in its
/// process group; and what carries the same run in its environment.
pub fn kill_leftovers(leader: Pid, start: u64) -> usize {
    // Another process with that id has another group; without any, the group is the old one.
    let group_is_old = stat(leader).is_none_or(|stat| is_it(stat.start, start));
    let mut runs = Vec::new();
    let mut killed = 0;
    // What is killed may just have forked: look again until nothing is found.
    for _ in 0..16 {
        let dying: Vec<OwnedFd> = processes()
            .filter(|&pid| pid != Pid::this())
            .filter_map(|pid| {
                // First the descriptor, then the proof: the process can't change in between.
                let process = pidfd(pid).ok()?;
                let stat = stat(pid).filter(|stat| stat.state != b'Z')?;
                let run = run_of(pid);
                let in_group = group_is_old && stat.group == leader;
                let is_leader = pid == leader && is_it(stat.start, start);
                if !is_leader && !run.is_some_and(|run| in_group || runs.contains(&run)) {
                    return None;
                }
                runs.extend(run);
                kill(&process);
                Some(process)
            })
            .collect();
        if dying.is_empty() {
            return killed;
        }
        killed += dying.len();
        await_end(&dying);
    }
    log::warn!("programs of the former agent multiply faster than they can be killed");
    killed
}

fn await_end(dying: &[OwnedFd]) {
    for process in dying {
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        let most = PollTimeout::try_from(Duration::from_secs(2)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, most) {
            Ok(0) => log::warn!("a program of the former agent does not die"),
            Ok(_) => {}
            Err(errno) => log::warn!("waiting for a program of the former agent: {errno}"),
        }
    }
}

struct Stat {
    state: u8,
    parent: Pid,
    group: Pid,
    start: u64,
}

/// Four fields of /proc/PID/stat (proc(5)).
fn stat(pid: Pid) -> Option<Stat> {
    let mut buffer = [0; 1024];
    let text = read(&format!("/proc/{pid}/stat"), &mut buffer).ok()?;
    // The command's name stands in brackets and may hold anything, brackets too.
    let after = text.iter().rposition(|&b| b == b')')? + 2;
    let mut fields = std::str::from_utf8(text.get(after..)?).ok()?.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let group = Pid::from_raw(fields.next()?.parse().ok()?);
    // Field 22; these were 3, 4 and 5.
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, start })
}

fn processes() -> impl Iterator<Item = Pid> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
}

fn read<'b>(path: &str, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut file = File::open(path)?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(&buffer[..length])
}

#[cfg(test)]
mod tests {
    use super::super::program::{Program, Spawner, reap};
    use super::*;

    #[test]
    fn a_process_tells_its_run() {
        // Its own, so that a run of this test that failed leaves nothing to this one.
        let run = RunId(u128::from(std::process::id()).to_be_bytes());
        // A member of the group, and one that leaves it.
        let script = "sleep 100 & setsid sleep 100 & exec sleep 100";
        let mut program = Program::new(["/bin/sh", "-c", script]).unwrap();
        program.variable("FIELDPOST_RUN_ID", &run.to_string()).unwrap();
        program.variable("FIELDPOST_ATTEMPT", "2").unwrap();
        let start = start_time();
        let started = Spawner::new().unwrap().start(&program).unwrap();
        assert!(children().contains(&started.pid));
        assert_eq!(kill_leftovers(started.pid, start + LATER + 1), 0, "it is another process");
        let mine = || processes().filter(|&pid| run_of(pid).is_some_and(|r| r.0 == run)).count();
        while mine() < 3 {
            std::thread::yield_now();
        }
        // While it calls execve(2) a process has no environment.
        while run_of(started.pid) != Some((run, Attempt(2))) {
            std::thread::yield_now();
        }
        assert_eq!(run_of(Pid::this()), None);
        assert_eq!(kill_leftovers(started.pid, start), 3);
        assert_eq!(mine(), 0);
        assert_eq!(reap(started.pid).unwrap().exit, fieldpost_wire::Exit::Signal(9));
    }
}
