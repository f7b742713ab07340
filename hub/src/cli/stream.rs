//! Waiting for events, replies and Ctrl-C at once, and showing progress meanwhile.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{self, PollEvents, PollItem};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::connect::Session;
use super::{Exit, Failure};
use crate::client::{Event, Events, Reply};

/// Ctrl-C (SIGINT) or SIGTERM, as something to wait for.
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// From now on these signals no longer end the program: they are heard here.
    pub fn listen() -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            })
            .map(Self)
            .map_err(|errno| Failure::new(Exit::Internal, format!("signals: {errno}")))
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

/// What was heard.
pub enum Heard {
    /// A live event.
    Event(Event),
    /// An answer.
    Reply(Reply),
    /// Ctrl-C.
    Interrupted,
    /// Nothing, within the time given.
    Nothing,
}

/// Waits for whatever comes first.
pub fn next(
    session: &mut Session,
    events: Option<&Events>,
    interrupt: &Interrupt,
    wait: Duration,
) -> Result<Heard, Failure> {
    let until = Instant::now() + wait;
    loop {
        if interrupt.came() {
            return Ok(Heard::Interrupted);
        }
        if let Some(events) = events
            && let Some(event) = events.next(Duration::ZERO)?
        {
            return Ok(Heard::Event(event));
        }
        if let Some(reply) = session.client.receive(Duration::ZERO)? {
            return Ok(Heard::Reply(reply));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Heard::Nothing);
        }
        let mut items = vec![
            session.client.socket().as_poll_item(PollEvents::POLLIN),
            PollItem::from_fd(interrupt.0.as_raw_fd(), PollEvents::POLLIN),
        ];
        if let Some(events) = events {
            items.push(events.socket().as_poll_item(PollEvents::POLLIN));
        }
        // The connection's monitor is looked at in `receive`, so at least once a second.
        let ms = i64::try_from(left.as_millis()).unwrap_or(1_000).clamp(1, 1_000);
        match zmq::poll(&mut items, ms) {
            Ok(_) | Err(zmq::Error::EINTR) => {}
            Err(error) => return Err(Failure::new(Exit::Internal, error.to_string())),
        }
    }
}

/// Lets time pass, unless Ctrl-C comes; what is heard meanwhile is of no interest.
pub fn pause(session: &mut Session, interrupt: &Interrupt, span: Duration) -> Result<(), Failure> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        if let Heard::Interrupted = next(session, None, interrupt, left)? {
            return Err(Failure::said(Exit::Ok));
        }
    }
    Ok(())
}

/// A line on stderr that is drawn over itself on a terminal; elsewhere nothing.
pub struct Progress {
    terminal: bool,
    drawn: Option<(Instant, String)>,
}

/// How often the line is drawn again at most.
const REDRAW: Duration = Duration::from_millis(80);

impl Progress {
    /// Nothing is drawn yet.
    pub fn new(wanted: bool) -> Self {
        Self { terminal: wanted && io::stderr().is_terminal(), drawn: None }
    }

    /// Whether there is a terminal to draw on.
    pub fn is_live(&self) -> bool {
        self.terminal
    }

    /// Shows this line, unless it was drawn a moment ago.
    pub fn draw(&mut self, line: &str) -> io::Result<()> {
        if !self.terminal {
            return Ok(());
        }
        if let Some((at, before)) = &self.drawn
            && (at.elapsed() < REDRAW || before == line)
        {
            return Ok(());
        }
        self.drawn = Some((Instant::now(), line.to_owned()));
        let mut out = io::stderr().lock();
        // Return, the line, erase to its end (ECMA-48 EL).
        write!(out, "\r{line}\x1b[K")?;
        out.flush()
    }

    /// Takes the line away, to let other output through.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.drawn.take().is_some() {
            let mut out = io::stderr().lock();
            write!(out, "\r\x1b[K")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Output of several nodes on one stream: whole lines, each after its node's name.
#[derive(Debug)]
pub struct Prefixed {
    prefix: String,
    line: Vec<u8>,
}

/// The longest line held back until its end comes.
const LONGEST_LINE: usize = 64 * 1024;

impl Prefixed {
    /// Lines of this node; `widest` is the longest name's length.
    pub fn new(node: &str, widest: usize) -> Self {
        Self { prefix: format!("{node:widest$} | "), line: Vec::new() }
    }

    /// Takes bytes in and writes the lines that are whole.
    pub fn write(&mut self, bytes: &[u8], out: &mut impl io::Write) -> io::Result<()> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LONGEST_LINE {
                self.end(out)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, ended.
    pub fn end(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        out.write_all(self.prefix.as_bytes())?;
        out.write_all(&self.line)?;
        if !self.line.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_nodes_do_not_mix() {
        let (mut a, mut b, mut out) = (Prefixed::new("a", 2), Prefixed::new("bb", 2), Vec::new());
        a.write(b"one\ntw", &mut out).unwrap();
        b.write(b"three\n", &mut out).unwrap();
        a.write(b"o", &mut out).unwrap();
        a.end(&mut out).unwrap();
        b.end(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a  | one\nbb | three\na  | two\n");
    }
}
