//! The spool: the outbox' files. What the hub has not acked for a while waits on disk, so that a
//! restart or a power cut does not take it, and memory stays bounded while the hub is away.
//!
//! It is pure, as all of the core: it decides which bytes go where, when a file is synced, read or
//! deleted ([`Work`]), and is told what came of it ([`Done`]). `io/spool.rs` does it.
//!
//! # The files
//!
//! A directory of segments, `00000001.seg` and so on, each of at most 128 KiB, appended to and
//! never changed. All numbers are little-endian.
//!
//! ```text
//! segment   magic "FPSPOOL\1"   8
//!           number              4   the file's own
//!           salt                8   random: every checksum in the file begins with it
//!           CRC-32C             4   of the 20 bytes before
//!           records
//!
//! record  0 mark f5 5f          2
//!         2 length              2   of the body
//!         4 CRC-32C             4   of the salt, bytes 0 to 3, and byte 8 to the record's end
//!         8 kind                1   1 output, 2 finished, 3 missed: reports, as they go over the wire
//!                                   4 dropped: the output of this run was dropped, its end says so
//!                                   5 accepted: the run was accepted (a record of the journal)
//!         9 flags               1   bit 0: of a durable job; bit 1: its delivery moves a cursor
//!        10 index               2   the record's place in the segment, from 0
//!        12 job                 4   CRC-32C of the job's name, for counting what is dropped
//!        16 attempt             4
//!        20 run                16   zeros: no run's
//!        36 seq                 8   with the outbox what the hub acks; both are in the body too
//!        44 outbox             16
//!        60 body
//! ```
//!
//! Which records are acked is known in memory only. A segment is deleted when none of its records
//! is needed any more; until then a restart sends the acked ones again, and the hub, which knows
//! what it has by (node, run, attempt, index), stores none of them twice. A record's bytes are
//! those that went over the wire: it keeps its outbox id and seq.
//!
//! A segment that says that a run was accepted goes before the one that holds the run's end: what
//! else lives in it moves to the last segment. Otherwise a start after a power cut would find the
//! first without the second, and call lost what the hub has. Only when the spool is full nothing
//! waits for that.
//!
//! Only the last segment is written. Segments are synced oldest first, and all of them once
//! [`UNSYNCED_SEGMENTS`] wait: what a power cut can tear is the end of all.
//!
//! # What is written when
//!
//! - `spill`: what is unacked for [`SPILL_AFTER`], or finds the memory full while the hub is away,
//!   or is left when the agent stops; synced within [`crate::limits::SYNC_AFTER`]. While the hub acks, nothing.
//! - `always`: every report before it is sent, and every accepted run before it starts; synced at once.
//!
//! What is on disk is sent from memory as long as its copy is there. When memory is needed the
//! oldest copies go, and what is on disk only is read back through the [`window`], oldest first,
//! after what is live.
//!
//! # When it is full
//!
//! Output may fill all but [`reserve`] of the bound. Beyond it `drop_oldest` empties the oldest
//! segment: its output goes, with the rest of the same runs' output wherever it is, and is counted;
//! what else is in it (the ends of runs) moves to the last segment, and says that the output was dropped. With
//! `refuse_new` nothing on disk goes, and new output finds no room. That runs were accepted is kept as far
//! as there is room, and budget.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use fieldpost_wire::{Attempt, OutboxId, RunId, Seq, Tag};

use crate::heartbeat::DropCounts;
use crate::limits::{
    CHUNK_RECORD, DROPPED_RUNS, SEGMENT, SPILL_AFTER, SPOOL_RETRY, UNSYNCED_SEGMENTS,
};
use crate::outbox::Outbox;
use crate::resend::Acks;

pub(crate) mod flow;
pub(crate) mod index;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod window;

pub use index::Spot;
pub use recovery::{Recovered, Verdict};

use index::Index;
use segment::{Kind, RECORD_HEAD};
use window::Window;

/// How the spool is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of all its files.
    pub max: u64,
    /// What a power cut may take.
    pub durability: Durability,
    /// Bytes it may write in a day; beyond that only durable jobs are spooled.
    pub write_budget: Option<u64>,
}

/// What a power cut may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Some seconds of results that the hub has not seen.
    #[default]
    Spill,
    /// Nothing.
    Always,
}

/// Something to be done with the spool's files, and answered with [`Done`] before the next output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<'a> {
    /// Write these bytes behind the first `at` of a segment. At 0 the segment is new.
    Append {
        /// Which segment.
        segment: u32,
        /// How long it is.
        at: u32,
        /// What comes behind.
        bytes: &'a [u8],
    },
    /// What was written to this segment must be on disk (and its name, if it is new).
    Sync {
        /// Which segment.
        segment: u32,
    },
    /// It is not needed any more. One that is not there is deleted.
    Delete {
        /// Which segment.
        segment: u32,
    },
    /// Read it; answered with [`Done::Read`].
    Read {
        /// Which segment.
        segment: u32,
    },
    /// It can't be used: put it aside for people to look at.
    SetAside {
        /// Which segment.
        segment: u32,
    },
}

/// What came of a [`Work`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<'a> {
    /// It is done.
    Well,
    /// What the segment holds.
    Read(&'a [u8]),
    /// It failed, and for this reason.
    Failed(&'a str),
}

/// A run whose output was dropped while it was on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DroppedRun {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    /// Where that is written.
    pub(crate) spot: Option<Spot>,
}

/// Something of a run that was lost for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) kind: Kind,
    /// CRC-32C of its job's name.
    pub(crate) job: u32,
    pub(crate) tracked: bool,
    pub(crate) count: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Spool {
    settings: Settings,
    index: Index,
    pub(crate) window: Window,
    /// The segment that is being written.
    active: Option<u32>,
    next_number: u32,
    /// Segments before it that are not synced, oldest first.
    unsynced: VecDeque<u32>,
    /// When these and the active segment have to be synced.
    sync_at: Option<Duration>,
    /// When something was appended last.
    appended_at: Duration,
    errand: Errand,
    draft: Vec<u8>,
    batch: Vec<Placed>,
    takes: VecDeque<(RunId, Attempt, Box<[u8]>)>,
    taken: Vec<(RunId, Attempt, Spot)>,
    dropped: Vec<DroppedRun>,
    /// What a segment that is being emptied for room still holds.
    moving: Option<Moving>,
    /// To be deleted when what was moved out of it is synced.
    retiring: Vec<u32>,
    doomed: VecDeque<u32>,
    /// What the last emptied segment cost.
    pub(crate) losses: Vec<Lost>,
    health: Health,
    /// What is wrong, for people; empty: nothing.
    trouble: String,
    /// Records and places of the files that are damaged, since the start.
    damaged: u64,
    /// That, for people.
    damage: String,
    /// When reports were appended to the outbox: (then, the last of them).
    ages: VecDeque<(Duration, Seq)>,
    /// Reports up to here are old enough to be written.
    aged: Seq,
    /// Reports up to here have been looked at for writing.
    spooled: Seq,
    /// Reports up to here are on disk for good, as far as there is room.
    synced: Seq,
    /// What found no room when it was last tried.
    wants_room: Option<Kind>,
    /// Reports were passed by for want of room or budget.
    skipped: bool,
    budget: Budget,
    /// Segments that can't be read, to be set aside.
    aside: Vec<u32>,
    /// Of the draft: where it begins, the last report looked at, and whether it holds the last of
    /// what moves.
    at: u32,
    reached: Seq,
    moved_all: bool,
    /// All that wait have to be synced before the next begins.
    must_sync: bool,
    /// Records that were on disk only are damaged; ends of runs may be among them.
    lost_some: bool,
    /// The first report that found no room while the draft was filled.
    passed_by: Option<Seq>,
    /// Segments that could not be deleted, and when that is tried again.
    undeleted: Vec<u32>,
    delete_at: Duration,
    outboxes: Vec<OutboxId>,
}

/// What was handed out and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    None,
    Append { segment: u32 },
    Sync { segment: u32 },
    Delete { segment: u32 },
    Load { segment: u32 },
    Empty { segment: u32 },
    Move { segment: u32 },
    SetAside { segment: u32 },
}

/// What a record in the draft is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    Report { seq: Seq, kind: Kind, run: RunId, attempt: Attempt, spot: Spot },
    Moved { kind: Kind, run: RunId, attempt: Attempt, tag: Tag, from: Spot, spot: Spot },
    Took { run: RunId, attempt: Attempt, spot: Spot },
    Dropped { run: RunId, attempt: Attempt, spot: Spot },
}

/// The records of a segment that is being emptied.
#[derive(Debug)]
struct Moving {
    from: u32,
    bytes: Vec<u8>,
    /// The place of the next record that may be needed.
    at: usize,
    /// The runs that end in it and lost their output there: their ends say so.
    cut: HashSet<(RunId, Attempt)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// Memory only; then it is tried again.
    Failing {
        until: Duration,
    },
}

/// Bytes written in a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// When the day began, on the boot clock.
    pub(crate) began: Duration,
    pub(crate) used: u64,
}

/// What the spool goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs<'a> {
    pub(crate) now: Duration,
    pub(crate) outbox: &'a Outbox,
    pub(crate) drops: &'a DropCounts,
    /// The hub takes reports.
    pub(crate) up: bool,
    /// No hub does, and none has for a while.
    pub(crate) away: bool,
    /// Memory is needed: what is not old enough goes to disk too.
    pub(crate) pressed: bool,
    /// The agent ends: everything goes to disk.
    pub(crate) ending: bool,
    /// When it is full the oldest output goes.
    pub(crate) drops_oldest: bool,
}

/// Bytes of a spool of so many that output may not take: the ends of runs have room then.
pub(crate) fn reserve(max: u64) -> u64 {
    (max / 8).max(SEGMENT as u64)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Reports appended within so little time count as of one age.
const AGE_STEP: Duration = Duration::from_millis(100);
/// An active segment in which nothing lives is deleted after so long without a write.
const IDLE: Duration = Duration::from_secs(30);

impl Spool {
    pub(crate) fn new(settings: Settings, recovered: Option<&Recovered>, now: Duration) -> Self {
        let mut spool = Self {
            settings,
            index: Index::default(),
            window: Window::default(),
            active: None,
            next_number: 1,
            unsynced: VecDeque::with_capacity(UNSYNCED_SEGMENTS),
            sync_at: None,
            appended_at: now,
            errand: Errand::None,
            draft: Vec::new(),
            batch: Vec::new(),
            takes: VecDeque::new(),
            taken: Vec::new(),
            dropped: Vec::with_capacity(DROPPED_RUNS),
            moving: None,
            retiring: Vec::new(),
            doomed: VecDeque::new(),
            losses: Vec::new(),
            health: Health::Well,
            trouble: String::new(),
            damaged: 0,
            damage: String::new(),
            ages: VecDeque::with_capacity(32),
            aged: Seq(0),
            spooled: Seq(0),
            synced: Seq(0),
            wants_room: None,
            skipped: false,
            budget: Budget { began: now, used: 0 },
            aside: Vec::new(),
            at: 0,
            reached: Seq(0),
            moved_all: false,
            must_sync: false,
            lost_some: false,
            passed_by: None,
            undeleted: Vec::new(),
            delete_at: now,
            outboxes: Vec::new(),
        };
        if let Some(recovered) = recovered {
            spool.take_over(recovered, now);
        }
        spool
    }

    fn take_over(&mut self, recovered: &Recovered, now: Duration) {
        for segment in &recovered.segments {
            self.index.push(segment.clone());
        }
        self.next_number = recovered.highest.saturating_add(1);
        for dropped in &recovered.dropped {
            if recovered.finished.contains(&(dropped.run, dropped.attempt)) {
                self.dropped.push(*dropped);
            } else if let Some(spot) = dropped.spot {
                // No end of its run waits here to be told.
                self.release(spot, Kind::Dropped);
            }
        }
        for spot in &recovered.over {
            self.release(*spot, Kind::Took);
        }
        let taken = recovered.took.iter();
        self.taken.extend(taken.map(|(run, attempt, spot, _)| (*run, *attempt, *spot)));
        self.outboxes.clone_from(&recovered.outboxes);
        self.count_damaged(recovered.bad);
        if !recovered.trouble.is_empty() {
            self.fail(now, &recovered.trouble);
        }
        let (records, bad) = recovered.counts();
        if records > 0 || bad > 0 {
            log::info!("the spool holds {records} records; {bad} damaged places are set aside");
        }
    }

    // ---- what it is told -----------------------------------------------------------------

    /// What an earlier start wrote in a day, oldest first; a day that is yet to come is none.
    pub(crate) fn recall_budget(&mut self, budget: Budget, now: Duration) {
        if budget.began <= now {
            self.budget = budget;
        }
    }

    /// A run was accepted; the record of the journal says so. Only `always` keeps it.
    pub(crate) fn take(&mut self, run: RunId, attempt: Attempt, durable: bool, record: Vec<u8>) {
        let within = durable || self.has_budget(RECORD_HEAD + record.len() + segment::HEAD);
        if self.settings.durability == Durability::Always && self.is_well() && within {
            self.takes.push_back((run, attempt, record.into()));
        }
    }

    /// The run's end is safe, or lost for good: that it was accepted needs not be kept.
    pub(crate) fn settle(&mut self, run: RunId, attempt: Attempt) {
        if let Some(at) = self.taken.iter().position(|t| (t.0, t.1) == (run, attempt)) {
            let (_, _, spot) = self.taken.swap_remove(at);
            self.release(spot, Kind::Took);
        }
        if self.errand == Errand::None {
            self.takes.retain(|take| (take.0, take.1) != (run, attempt));
        }
    }

    /// The hub has the run's end: whether its output was dropped matters no more.
    pub(crate) fn forget_dropped(&mut self, run: RunId, attempt: Attempt) {
        let known = self.dropped.iter().position(|d| (d.run, d.attempt) == (run, attempt));
        if let Some(spot) = known.and_then(|at| self.dropped.remove(at).spot) {
            self.release(spot, Kind::Dropped);
        }
    }

    /// Output of this run is dropped: what of it is on disk is not sent, and its end says so.
    pub(crate) fn drop_output(&mut self, run: RunId, attempt: Attempt) {
        if self.is_dropped(run, attempt) {
            return;
        }
        if self.dropped.len() == DROPPED_RUNS {
            // As many runs can't be in progress at once. Its end waits at the hub for output
            // that does not come, until this agent gives up.
            let DroppedRun { run, attempt, .. } = self.dropped[0];
            log::warn!("more runs than are followed lose their output; forgetting {run}");
            self.forget_dropped(run, attempt);
        }
        self.dropped.push(DroppedRun { run, attempt, spot: None });
    }

    pub(crate) fn is_dropped(&self, run: RunId, attempt: Attempt) -> bool {
        self.dropped.iter().any(|dropped| (dropped.run, dropped.attempt) == (run, attempt))
    }

    /// The record is acked, or dropped.
    pub(crate) fn release(&mut self, spot: Spot, kind: Kind) {
        if let Some(empty) = self.index.release(spot, kind) {
            self.bury(empty);
        }
    }

    /// The record's copy in memory goes: it is to be read back.
    pub(crate) fn let_go(&mut self, spot: Spot) {
        self.index.let_go(spot);
    }

    /// A segment in which nothing lives goes, unless it is being written or moved out of.
    fn bury(&mut self, number: u32) {
        let moving = self.moving.as_ref().map(|moving| moving.from);
        let in_use =
            [self.active, moving].contains(&Some(number)) || self.retiring.contains(&number);
        let stays = self.index.get(number).is_some_and(index::Segment::stays);
        if in_use || stays || self.doomed.contains(&number) {
            return;
        }
        self.doomed.push_back(number);
        let waited = self.unsynced.len();
        self.unsynced.retain(|&unsynced| unsynced != number);
        if self.unsynced.is_empty()
            && self.active.is_none()
            && (waited > 0 || self.sync_at.is_some())
        {
            self.all_synced();
        }
    }

    /// Nothing that was written waits to be synced.
    fn all_synced(&mut self) {
        self.sync_at = None;
        self.synced = self.spooled;
        for from in std::mem::take(&mut self.retiring) {
            if self.index.get(from).is_some_and(|segment| segment.living() == 0) {
                self.bury(from);
            }
        }
    }

    /// The hub's acks, for what was read back. `settled` is told of each report.
    pub(crate) fn acked(
        &mut self,
        outbox: OutboxId,
        range: fieldpost_wire::SeqRange,
        acks: &mut Acks,
        mut settled: impl FnMut(window::Acked),
    ) {
        if self.window.is_empty() {
            return;
        }
        let mut ends = Vec::new();
        let mut empty = heapless::Vec::<u32, { crate::limits::WINDOW_SEGMENTS }>::new();
        let Self { window, index, .. } = self;
        window.release(
            outbox,
            range,
            acks,
            |acked| {
                index.release(acked.spot, acked.kind);
                settled(acked);
                if acked.kind == Kind::Finished {
                    ends.push((acked.run, acked.attempt));
                }
            },
            |segment| empty.push(segment).expect("as many as the window holds"),
        );
        for (run, attempt) in ends {
            self.settle(run, attempt);
            self.forget_dropped(run, attempt);
        }
        for number in empty {
            let Some(segment) = self.index.get_mut(number) else { continue };
            segment.busy = false;
            if segment.living() == 0 {
                self.bury(number);
            }
        }
    }

    /// What is read back is forgotten: it is on disk, and no hub takes it.
    pub(crate) fn close_window(&mut self) {
        if self.window.is_empty() {
            return;
        }
        self.window.clear();
        self.index.free_all();
        if let Some(moving) = &self.moving
            && let Some(segment) = self.index.get_mut(moving.from)
        {
            segment.busy = true;
        }
    }

    /// Notes how old the outbox' reports are. To be called when some were appended, and then again
    /// when [`Spool::next_deadline`] says so.
    pub(crate) fn learn_age(&mut self, now: Duration, outbox: &Outbox) {
        let last = outbox.last();
        if outbox.len() == 0 {
            self.ages.clear();
            self.aged = last;
            return;
        }
        while let Some(&(at, seq)) = self.ages.front()
            && now >= at + SPILL_AFTER
        {
            self.aged = seq;
            self.ages.pop_front();
        }
        let is_new = self.ages.back().map_or(self.aged, |&(_, seq)| seq) < last;
        let step = self.ages.back().is_none_or(|&(at, _)| now >= at + AGE_STEP);
        if is_new && step {
            self.ages.push_back((now, last));
        }
    }

    // ---- what it says ----------------------------------------------------------------------

    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// Outboxes of earlier starts whose records may be here.
    pub(crate) fn outboxes(&self) -> &[OutboxId] {
        if self.index.iter().any(|segment| segment.recovered) { &self.outboxes } else { &[] }
    }

    /// What is wrong, for people; empty: nothing.
    pub(crate) fn trouble(&self) -> &str {
        if self.trouble.is_empty() { &self.damage } else { &self.trouble }
    }

    /// Whether the disk takes what is given to it.
    pub(crate) fn is_well(&self) -> bool {
        self.health == Health::Well
    }

    /// Whether more output finds room, now or when older output has gone.
    pub(crate) fn takes_output(&self, drops_oldest: bool) -> bool {
        let chunk = RECORD_HEAD + CHUNK_RECORD + segment::HEAD;
        let room = self.room_for(Kind::Chunk) >= (SEGMENT / 2) as u64;
        self.is_well()
            && self.has_budget(chunk)
            && (room || drops_oldest && self.index.has_output())
    }

    /// Whether a report may be sent: with `always` it is on disk first, if that is possible.
    pub(crate) fn may_send(&self, seq: Seq) -> bool {
        match self.settings.durability {
            Durability::Spill => true,
            Durability::Always => seq <= self.synced || !self.is_well(),
        }
    }

    /// Whether accepted runs are kept on disk.
    pub(crate) fn keeps_accepted(&self) -> bool {
        self.settings.durability == Durability::Always
    }

    /// When there will be something to do.
    pub(crate) fn next_deadline(&self, outbox: &Outbox) -> Option<Duration> {
        if let Health::Failing { until } = self.health {
            return Some(self.sync_at.map_or(until, |at| at.min(until)));
        }
        let last_age = self.ages.back().map_or(self.aged, |&(_, seq)| seq);
        let unaged = (outbox.len() > 0 && last_age < outbox.last())
            .then(|| self.ages.back().map_or(Duration::ZERO, |&(at, _)| at + AGE_STEP));
        let aged = self.ages.front().map(|&(at, _)| at + SPILL_AFTER);
        let idle = self.idle_active().then_some(self.appended_at + IDLE);
        let delete = (!self.undeleted.is_empty()).then_some(self.delete_at);
        [self.sync_at, unaged, aged, idle, delete].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(crate) fn staying(&self) -> usize {
        self.index.staying()
    }

    /// The next record to send of what was read back.
    pub(crate) fn next(&mut self, now: Duration, acks: &Acks) -> Option<Spot> {
        let unread = self.index.oldest_away().is_some();
        self.window.next(now, acks, unread)
    }

    /// Whether there is something on disk only that the hub has not acked.
    pub(crate) fn holds_unread(&self) -> bool {
        !self.window.is_empty() || self.index.oldest_away().is_some()
    }

    /// Whether ends of runs may have been lost on disk, and what is not lost has been acked.
    /// Asked once: the answer is then taken.
    pub(crate) fn lost_ends(&mut self) -> bool {
        let told = self.lost_some && self.moving.is_none() && !self.holds_unread();
        self.lost_some &= !told;
        told
    }

    /// Whether the active segment holds nothing that is needed.
    fn idle_active(&self) -> bool {
        let active = self.active.and_then(|number| self.index.get(number));
        active.is_some_and(|segment| segment.living() == 0)
    }

    /// Bytes that records of this kind may still take.
    fn room_for(&self, kind: Kind) -> u64 {
        let max = match kind {
            Kind::Chunk => self.settings.max - reserve(self.settings.max).min(self.settings.max),
            Kind::Finished | Kind::Missed | Kind::Dropped | Kind::Took => self.settings.max,
        };
        max.saturating_sub(self.index.bytes())
    }

    /// What was written today, if that is bounded.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.settings.write_budget.map(|_| self.budget)
    }

    fn has_budget(&self, bytes: usize) -> bool {
        let most = self.settings.write_budget.unwrap_or(u64::MAX);
        self.budget.used + bytes as u64 <= most
    }

    // ---- trouble -----------------------------------------------------------------------------

    fn fail(&mut self, now: Duration, why: &str) {
        if self.trouble.is_empty() {
            log::error!("the spool can't be used, results are kept in memory only: {why}");
        }
        self.trouble.clear();
        self.trouble.push_str("the spool can't be used: ");
        self.trouble.push_str(why);
        self.health = Health::Failing { until: now + SPOOL_RETRY };
        self.look_at_all();
        // Whatever became of its end: it is not written on. What was written before is synced.
        if let Some(active) = self.active.take() {
            if self.sync_at.is_some() {
                self.unsynced.push_back(active);
            }
            if self.index.get(active).is_some_and(|segment| segment.living() == 0) {
                self.bury(active);
            }
        }
        self.takes.clear();
    }

    fn count_damaged(&mut self, places: u64) {
        if places > 0 {
            self.damaged += places;
            self.damage = format!("the spool was damaged in {} places", self.damaged);
        }
    }

    /// Everything in the outbox that is not on disk is looked at again.
    pub(crate) fn look_at_all(&mut self) {
        self.spooled = Seq(0);
    }

    fn recover(&mut self) {
        if !self.trouble.is_empty() {
            log::info!("the spool can be used again");
            self.trouble.clear();
        }
    }
}
