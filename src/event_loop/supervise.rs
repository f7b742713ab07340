//! One task a program: reads its pipes as the core has room, and sees it off with all that it
//! started.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use fieldpost_wire::Exit;
use nix::errno::Errno;

use super::world::World;
use crate::agent::{Input, Slot, Usage};
use crate::io::clock;
use crate::io::program::Ended;
use crate::io::reactor::{Beat, Pulse};

/// How long killed descendants may take to die, and then a pipe to end that one of them holds
/// open where we can't see it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads in a row from one pipe, before others get their turn: what a pipe holds.
const READS: usize = 4;

/// One of a program's two pipes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pipe {
    Stdout,
    Stderr,
}

/// Where a pipe stands after it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// There may be more.
    More,
    /// The core has no room: the program waits.
    Paused,
    /// It is at its end.
    Closed,
}

/// Supervises the program in a slot until nothing of it is left.
pub(super) async fn supervise(world: Rc<RefCell<World>>, slot: Slot, pulse: Rc<Pulse>) {
    let ended = loop {
        if let Some(ended) = pulse.ended.get() {
            break ended;
        }
        match pulse.next().await {
            Beat::Stdout => _ = read(&world, slot, &pulse, Pipe::Stdout),
            Beat::Stderr => _ = read(&world, slot, &pulse, Pipe::Stderr),
            Beat::Child | Beat::Due => {}
        }
    };
    kill_descendants(&world, slot, &pulse).await;
    read_the_rest(&world, slot, &pulse).await;

    let mut world = world.borrow_mut();
    world.forget(slot);
    let Ended { exit, peak_rss_kib, cpu_us } = ended;
    log::debug!("{slot:?}: {}", Words(exit));
    let usage = Usage { peak_rss_kib, cpu_us };
    world.give(Input::Ended { slot, exit, usage, note: "" });
}

/// Kills what left the group, and what that leaves in turn, until nothing is found.
async fn kill_descendants(world: &RefCell<World>, slot: Slot, pulse: &Pulse) {
    let until = clock::boot() + PATIENCE;
    while world.borrow_mut().sweep(slot) > 0 {
        if clock::boot() >= until {
            log::warn!("{slot:?}: what its program started can't be killed");
            return;
        }
        pulse.due.set(Some(until));
        // Output that waits is read later; here only deaths count.
        while !matches!(pulse.next().await, Beat::Child | Beat::Due) {}
    }
}

/// Reads both pipes to their end, as far as there is room, but does not wait for ever for
/// somebody who holds one open.
async fn read_the_rest(world: &RefCell<World>, slot: Slot, pulse: &Pulse) {
    let mut until = None;
    loop {
        let stdout = read(world, slot, pulse, Pipe::Stdout);
        let stderr = read(world, slot, pulse, Pipe::Stderr);
        if stdout == Flow::Closed && stderr == Flow::Closed {
            return;
        }
        if stdout == Flow::Paused {
            // That is our own slowness, not another's.
            until = None;
            pulse.due.set(None);
        } else {
            let until = *until.get_or_insert_with(|| clock::boot() + PATIENCE);
            if clock::boot() >= until {
                log::warn!("{slot:?}: somebody holds the program's output open; it is cut here");
                return;
            }
            pulse.due.set(Some(until));
        }
        pulse.next().await;
    }
}

fn read(world: &RefCell<World>, slot: Slot, pulse: &Pulse, which: Pipe) -> Flow {
    let mut world = world.borrow_mut();
    let buffer = Rc::clone(&world.pipe_buffer);
    let mut buffer = buffer.borrow_mut();
    for _ in 0..READS {
        // Asked again each time: what is read may have been all that the core has room for.
        if which == Pipe::Stdout && !pulse.reading.get() {
            return if pulse.stdout.borrow().is_some() { Flow::Paused } else { Flow::Closed };
        }
        let place = match which {
            Pipe::Stdout => &pulse.stdout,
            Pipe::Stderr => &pulse.stderr,
        };
        let got =
            place.borrow().as_ref().map(|pipe: &OwnedFd| nix::unistd::read(pipe, &mut buffer[..]));
        match got {
            None => return Flow::Closed,
            Some(Err(Errno::EAGAIN)) => return Flow::More,
            Some(Err(Errno::EINTR)) => {}
            Some(Ok(0) | Err(_)) => {
                place.replace(None);
                return Flow::Closed;
            }
            Some(Ok(length)) => {
                let bytes = &buffer[..length];
                world.give(match which {
                    Pipe::Stdout => Input::Stdout { slot, bytes },
                    Pipe::Stderr => Input::Stderr { slot, bytes },
                });
            }
        }
    }
    Flow::More
}

/// How a program ended, in words.
struct Words(Exit);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Exit::None => f.write_str("ended"),
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
