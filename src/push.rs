//! What goes over the wire next.
//!
//! A `Hello` where one is to be said; then, once the hub has welcomed us, answers, the heartbeat,
//! and the outbox. One report is offered to the socket at a time; if that has no room, nothing is
//! offered until it says it has.

use std::collections::VecDeque;
use std::time::Duration;

use fieldpost_wire::{Attempt, Reason, RunId, Seq};

use crate::door::Vitals;
use crate::limits::ANSWERS;
use crate::spool::Spot;

/// Where lists are encoded, and where the report that holds them is: the largest is a heartbeat
/// with an error of 256 B for each of 64 entries, and drops of 64 jobs.
const SCRATCH: usize = 28 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Push {
    answers: VecDeque<Answer>,
    /// Which of them is being given.
    giving: usize,
    /// What was offered and not answered.
    offered: Option<Offered>,
    room: Room,
    /// For the next heartbeat.
    pub(crate) vitals: Option<Vitals>,
    pub(crate) sent_bytes: u64,
    scratch: Vec<u8>,
}

/// An answer to a copy of a `Trigger`, `Cancel` or `Query`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) what: What,
    /// Not before this, on the boot clock.
    pub(crate) at: Duration,
}

/// What an answer says.
#[derive(Debug)]
pub(crate) enum What {
    /// The run's state as it is when the answer goes.
    AsItIs,
    /// The same, for a run that was accepted, or that started after it had waited, just now: if it has ended when the answer goes, its
    /// `Finished` is answer enough.
    Accepted,
    Rejected(Reason, Box<str>),
    Unknown,
    Cancelled,
}

/// What was offered to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Hello,
    Answer,
    Heartbeat,
    Record(Seq),
    /// A record that was read back from the spool.
    Spooled(Spot),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    MayBe,
    None,
    /// None, and it was a `Hello` that found none.
    NoneForHello,
}

impl Push {
    pub(crate) fn new() -> Self {
        Self {
            answers: VecDeque::with_capacity(ANSWERS),
            giving: 0,
            offered: None,
            room: Room::MayBe,
            vitals: None,
            sent_bytes: 0,
            scratch: vec![0; 2 * SCRATCH],
        }
    }

    /// Adds an answer. When there are too many it is not given: the hub asks again.
    pub(crate) fn answer(&mut self, answer: Answer) {
        if self.answers.len() < ANSWERS {
            self.answers.push_back(answer);
        }
    }

    /// Whether an answer about this run waits to be given: it will tell how the run stands then.
    pub(crate) fn is_to_answer(&self, run: RunId, attempt: Attempt) -> bool {
        self.answers.iter().any(|answer| (answer.run, answer.attempt) == (run, attempt))
    }

    /// Turns to the next answer to give now, if there is one.
    pub(crate) fn turn_to_answer(&mut self, now: Duration) -> bool {
        let next = self.answers.iter().position(|answer| answer.at <= now);
        self.giving = next.unwrap_or(0);
        next.is_some()
    }

    /// The answer that is being given.
    pub(crate) fn next_answer(&self) -> Option<&Answer> {
        self.answers.get(self.giving)
    }

    /// When there will be an answer to give.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.answers.iter().map(|answer| answer.at).min()
    }

    /// That answer is given, or needs not be.
    pub(crate) fn drop_answer(&mut self) {
        self.answers.remove(self.giving);
    }

    /// The hub is another, or none: it will ask itself.
    pub(crate) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// Whether something may be offered.
    pub(crate) fn is_free(&self) -> bool {
        self.offered.is_none()
    }

    /// Whether the socket may have room.
    pub(crate) fn has_room(&self) -> bool {
        self.room == Room::MayBe
    }

    /// Something was offered.
    pub(crate) fn offer(&mut self, offered: Offered, bytes: usize) {
        self.offered = Some(offered);
        self.sent_bytes += bytes as u64;
    }

    /// The socket took what was offered.
    pub(crate) fn sent(&mut self) -> Option<Offered> {
        self.room = Room::MayBe;
        self.offered.take()
    }

    /// The socket did not take what was offered.
    pub(crate) fn refused(&mut self, bytes: usize) -> Option<Offered> {
        let offered = self.offered.take();
        self.sent_bytes -= bytes as u64;
        self.room = match offered {
            Some(Offered::Hello) => Room::NoneForHello,
            _ => Room::None,
        };
        offered
    }

    /// The socket may have room again. Says whether a `Hello` waited for it.
    pub(crate) fn writable(&mut self) -> bool {
        std::mem::replace(&mut self.room, Room::MayBe) == Room::NoneForHello
    }

    /// Room for lists, and for the report that holds them.
    pub(crate) fn scratch(&mut self) -> (&mut [u8], &mut [u8]) {
        self.scratch.split_at_mut(SCRATCH)
    }

    /// The first bytes of the report last encoded.
    pub(crate) fn encoded(&self, len: usize) -> &[u8] {
        &self.scratch[SCRATCH..SCRATCH + len]
    }
}
