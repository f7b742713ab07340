//! What the spool does next, and what it makes of the answer.

use std::collections::HashSet;
use std::time::Duration;

use fieldpost_wire::{Attempt, Report, RunId, Tag};

use super::index::{Segment, Spot};
use super::segment::{self, Entry, Found, Kind, RECORD_HEAD};
use super::window::Wanted;
use super::{
    DAY, Done, Durability, Errand, Health, IDLE, Lost, Moving, Needs, Placed, Spool, Work,
};
use crate::limits::{SPOOL_RETRY, SYNC_AFTER, UNSYNCED_SEGMENTS};
use crate::outbox::{self, Outbox};
use crate::resend::say_dropped;
use fieldpost_wire::Seq;

/// Most bytes of one write: a slow card must not hold the loop up for long.
const WRITE: usize = 64 * 1024;

/// What filling the draft came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    Nothing,
    /// The draft goes behind the first [`Spool::at`] bytes of the active segment.
    Draft,
    /// Too many segments wait to be synced for another to begin.
    SyncFirst,
}

impl Spool {
    /// Decides what is done next. If there is something, [`Spool::work`] says what; it is answered
    /// with [`Spool::done`] before this is called again.
    pub(crate) fn prepare(&mut self, needs: &Needs<'_>, rng: &mut fastrand::Rng) -> bool {
        if self.errand != Errand::None {
            log::debug!("{:?} was not answered", self.errand);
            return false;
        }
        self.errand = self.plan(needs, rng).unwrap_or(Errand::None);
        self.errand != Errand::None
    }

    /// What is to be done.
    pub(crate) fn work(&self) -> Option<Work<'_>> {
        Some(match self.errand {
            Errand::None => return None,
            Errand::Append { segment } => Work::Append { segment, at: self.at, bytes: &self.draft },
            Errand::Sync { segment } => Work::Sync { segment },
            Errand::Delete { segment } => Work::Delete { segment },
            Errand::Load { segment } | Errand::Empty { segment } | Errand::Move { segment } => {
                Work::Read { segment }
            }
            Errand::SetAside { segment } => Work::SetAside { segment },
        })
    }

    fn plan(&mut self, needs: &Needs<'_>, rng: &mut fastrand::Rng) -> Option<Errand> {
        let now = needs.now;
        if let Some(segment) = self.aside.pop() {
            return Some(Errand::SetAside { segment });
        }
        if let Health::Failing { until } = self.health {
            if now < until || needs.ending {
                let due = self.sync_at.is_some_and(|at| now >= at || needs.ending);
                let segment = self.unsynced.front().copied().filter(|_| due);
                return match segment {
                    Some(segment) => Some(Errand::Sync { segment }),
                    None => self.load(needs),
                };
            }
            // What is deleted may be the room that was missing.
            if !self.doomed.is_empty() {
                let unsynced = self.sync_at.and_then(|_| self.unsynced.front().copied());
                if let Some(segment) = unsynced {
                    return Some(Errand::Sync { segment });
                }
                if let Some(delete @ Errand::Delete { .. }) = self.clear_away() {
                    return Some(delete);
                }
            }
            self.health = Health::Well;
        }
        if now >= self.delete_at {
            self.doomed.extend(self.undeleted.drain(..));
        }
        if now >= self.budget.began + DAY {
            self.budget = super::Budget { began: now, used: 0 };
            self.look_again();
        }
        let unsynced = self.unsynced.front().copied().or(self.active);
        let sync = self.sync_at.and(unsynced).map(|segment| Errand::Sync { segment });
        if self.sync_at.is_some_and(|at| now >= at) && sync.is_some() {
            return sync;
        }
        // Once there are too many, all of them: their names are then synced once, not each alone.
        self.must_sync &= !self.unsynced.is_empty();
        if self.must_sync && sync.is_some() {
            return sync;
        }
        match self.fill(needs, rng) {
            Filled::Draft => return self.active.map(|segment| Errand::Append { segment }),
            Filled::SyncFirst => return sync,
            Filled::Nothing => {}
        }
        if let Some(segment) = self
            .active
            .filter(|_| self.idle_active() && (needs.ending || now >= self.appended_at + IDLE))
        {
            self.active = None;
            self.bury(segment);
        }
        let at_once = needs.ending
            || self.settings.durability == Durability::Always
            || !self.retiring.is_empty()
            || !self.doomed.is_empty();
        if at_once && self.sync_at.is_some() && sync.is_some() {
            return sync;
        }
        if let Some(errand) = self.clear_away() {
            return Some(errand);
        }
        if needs.away && needs.drops_oldest && self.moving.is_none() {
            let chunk = self.wants_room == Some(Kind::Chunk);
            let can_drop = !chunk || self.index.has_output();
            if self.wants_room.is_some()
                && can_drop
                && let Some(segment) = self.index.oldest_to_drop()
            {
                return Some(Errand::Empty { segment });
            }
        }
        // There is no room for these; their runs have to start.
        self.takes.clear();
        self.load(needs)
    }

    /// Deletes the oldest segment that is not needed, as long as no older one says that a run was
    /// accepted whose end is in it: that one is emptied first, or waits for acks itself. If the spool is
    /// full, or the disk fails, nothing waits.
    fn clear_away(&mut self) -> Option<Errand> {
        let segment = self.doomed.iter().copied().min()?;
        let is_full = self.wants_room.is_some() || self.room_for(Kind::Took) == 0;
        let before = self.index.to_go_before(segment).filter(|_| !is_full && self.is_well());
        let Some(older) = before else { return Some(Errand::Delete { segment }) };
        let free = self.moving.is_none() && self.retiring.is_empty() && !older.busy;
        (free && !older.has_reports() && self.active != Some(older.number))
            .then_some(Errand::Move { segment: older.number })
    }

    /// Reads the oldest of what is on disk only, if the hub is there to take it.
    fn load(&mut self, needs: &Needs<'_>) -> Option<Errand> {
        if !needs.up || needs.ending || !self.window.has_room() {
            return None;
        }
        let segment = self.index.oldest_away()?;
        if self.active == Some(segment) {
            if self.sync_at.is_some() {
                let segment = self.unsynced.front().copied().unwrap_or(segment);
                return Some(Errand::Sync { segment });
            }
            self.active = None;
        }
        Some(Errand::Load { segment })
    }

    // ---- writing -----------------------------------------------------------------------------

    /// Fills the draft with what is to be written.
    fn fill(&mut self, needs: &Needs<'_>, rng: &mut fastrand::Rng) -> Filled {
        self.draft.clear();
        self.batch.clear();
        self.at = 0;
        self.reached = self.spooled;
        self.moved_all = false;
        self.wants_room = None;
        self.passed_by = None;
        self.fill_moved(rng)
            .and_then(|()| self.fill_marks(rng))
            .and_then(|()| self.fill_takes(rng))
            .and_then(|()| self.fill_reports(needs, rng))
            .ok();
        if !self.batch.is_empty() {
            return Filled::Draft;
        }
        if self.moved_all {
            self.retire();
        }
        if self.must_sync { Filled::SyncFirst } else { Filled::Nothing }
    }

    fn fill_moved(&mut self, rng: &mut fastrand::Rng) -> Result<(), Filled> {
        let Some(moving) = self.moving.take() else { return Ok(()) };
        let mut outcome = Ok(());
        for found in segment::read(&moving.bytes) {
            let Found::Record(_, entry) = found else { continue };
            let from = Spot { segment: moving.from, index: entry.index };
            let lives = self.index.get(from.segment).is_some_and(|s| s.is_live(from.index));
            if usize::from(entry.index) < moving.at || !lives || entry.kind == Kind::Chunk {
                continue;
            }
            let mut patched = Vec::new();
            let mut entry = entry;
            let run = (entry.run, entry.attempt);
            let is_cut = moving.cut.contains(&run) || self.is_dropped(entry.run, entry.attempt);
            if entry.kind == Kind::Finished && is_cut {
                patched.extend_from_slice(entry.body);
                say_dropped(&mut patched);
                entry.body = &patched;
            }
            let Entry { kind, run, attempt, tag, .. } = entry;
            outcome = self.place(entry, rng, |spot| Placed::Moved {
                kind,
                run,
                attempt,
                tag,
                from,
                spot,
            });
            if outcome.is_err() {
                break;
            }
        }
        self.moved_all = outcome.is_ok();
        self.moving = Some(moving);
        outcome
    }

    fn fill_marks(&mut self, rng: &mut fastrand::Rng) -> Result<(), Filled> {
        for at in 0..self.dropped.len() {
            let super::DroppedRun { run, attempt, spot: None } = self.dropped[at] else { continue };
            let entry = plain(Kind::Dropped, run, attempt, &[]);
            self.place(entry, rng, |spot| Placed::Dropped { run, attempt, spot })?;
        }
        Ok(())
    }

    fn fill_takes(&mut self, rng: &mut fastrand::Rng) -> Result<(), Filled> {
        let takes = std::mem::take(&mut self.takes);
        let outcome = takes.iter().try_for_each(|(run, attempt, record)| {
            let (run, attempt) = (*run, *attempt);
            let need = self.draft.len() + RECORD_HEAD + record.len() + segment::HEAD;
            if self.room_for(Kind::Took) < need as u64 {
                self.want_room(Kind::Took);
                return Err(Filled::Nothing);
            }
            let entry = plain(Kind::Took, run, attempt, record);
            self.place(entry, rng, |spot| Placed::Took { run, attempt, spot })
        });
        self.takes = takes;
        outcome
    }

    fn fill_reports(&mut self, needs: &Needs<'_>, rng: &mut fastrand::Rng) -> Result<(), Filled> {
        let all = needs.pressed || needs.ending || self.settings.durability == Durability::Always;
        let upto = if all { needs.outbox.last() } else { self.aged };
        for (seq, kind, owner, body) in needs.outbox.unspooled(self.spooled, upto) {
            let kind = of_outbox(kind);
            let need = RECORD_HEAD + body.len() + segment::HEAD;
            if !owner.durable && !self.has_budget(self.draft.len() + need) {
                self.reached = seq;
                self.skipped = true;
                continue;
            }
            if self.room_for(kind) < (self.draft.len() + need) as u64 {
                self.reached = seq;
                self.skipped = true;
                self.passed_by.get_or_insert(seq);
                self.want_room(kind);
                continue;
            }
            let (run, attempt) = whose(body);
            let entry = Entry {
                durable: owner.durable,
                tracked: owner.tracked,
                job: needs.drops.hash(owner.job),
                tag: Tag { outbox: needs.outbox.id(), seq },
                ..plain(kind, run, attempt, body)
            };
            self.place(entry, rng, |spot| Placed::Report { seq, kind, run, attempt, spot })?;
            self.reached = seq;
            if self.draft.len() >= WRITE {
                return Ok(());
            }
        }
        self.reached = upto.max(self.spooled);
        if self.batch.is_empty() {
            self.spooled = self.reached;
            if self.sync_at.is_none() {
                self.synced = self.spooled;
            }
        }
        Ok(())
    }

    /// Something finds no room; that output does not is no news beside all else.
    fn want_room(&mut self, kind: Kind) {
        if self.wants_room.is_none_or(|wanted| wanted == Kind::Chunk) {
            self.wants_room = Some(kind);
        }
    }

    /// Puts a record behind the draft; `Err`: it has to wait for the next write.
    fn place(
        &mut self,
        entry: Entry<'_>,
        rng: &mut fastrand::Rng,
        placed: impl FnOnce(Spot) -> Placed,
    ) -> Result<(), Filled> {
        let fits = |segment: &Segment, draft: usize, batch: usize| {
            segment.has_room(draft, batch, entry.body.len())
        };
        let written =
            self.draft.len() - if self.at == 0 { segment::HEAD.min(self.draft.len()) } else { 0 };
        let active = self.active.and_then(|number| self.index.get(number));
        if !active.is_some_and(|segment| fits(segment, written, self.batch.len())) {
            if !self.batch.is_empty() {
                return Err(Filled::Nothing);
            }
            if let Some(full) = self.active {
                if self.sync_at.is_some() {
                    if self.unsynced.len() == UNSYNCED_SEGMENTS {
                        self.must_sync = true;
                        return Err(Filled::SyncFirst);
                    }
                    self.unsynced.push_back(full);
                }
                self.active = None;
                if self.index.get(full).is_some_and(|segment| segment.living() == 0) {
                    self.bury(full);
                }
            }
            let segment = Segment::new(self.next_number, rng.u64(..));
            self.draft.clear();
            segment::write_head(segment.number, segment.salt, &mut self.draft);
            self.active = Some(segment.number);
            self.next_number = self.next_number.saturating_add(1);
            self.index.push(segment);
        }
        let Some(segment) = self.active.and_then(|number| self.index.get(number)) else {
            return Err(Filled::Nothing);
        };
        if self.batch.is_empty() {
            self.at = if self.draft.is_empty() { segment.bytes } else { 0 };
        }
        let index = segment.records + self.batch.len() as u16; // has_room saw to it
        segment::write(&Entry { index, ..entry }, segment.salt, &mut self.draft);
        self.batch.push(placed(Spot { segment: segment.number, index }));
        Ok(())
    }

    /// What was skipped for want of room or budget may have it now.
    fn look_again(&mut self) {
        if std::mem::take(&mut self.skipped) {
            self.spooled = Seq(0);
        }
    }

    // ---- answers -----------------------------------------------------------------------------

    /// What came of the last need that was handed out.
    pub(crate) fn done(&mut self, now: Duration, done: Done<'_>, outbox: &mut Outbox) {
        let errand = std::mem::replace(&mut self.errand, Errand::None);
        match (errand, done) {
            (Errand::None | Errand::SetAside { .. }, _) => {}
            (Errand::Append { segment }, Done::Failed(why)) => {
                if self.index.get(segment).is_some_and(|segment| segment.records == 0) {
                    self.index.remove(segment);
                    self.active = None;
                }
                self.stop_moving();
                self.fail(now, why);
            }
            (Errand::Append { segment }, _) => self.appended(now, segment, outbox),
            (Errand::Sync { segment }, Done::Failed(why)) => {
                // What moved into it may not be on disk.
                self.stop_moving();
                for from in std::mem::take(&mut self.retiring) {
                    if let Some(from) = self.index.get_mut(from) {
                        from.stay();
                    }
                }
                self.unsynced.retain(|&number| number != segment);
                self.active = self.active.filter(|&active| active != segment);
                // The others may still be synced, and each is tried.
                self.fail(now, why);
                if self.unsynced.is_empty() {
                    self.sync_at = None;
                }
                // Whether it is on disk nobody knows; what is in memory is written again.
                outbox.unspool(segment, |spot, kind| {
                    self.index.release(spot, of_outbox(kind));
                });
                if self.index.get(segment).is_some_and(|segment| segment.living() == 0) {
                    self.bury(segment);
                }
            }
            (Errand::Sync { segment }, _) => {
                self.recover();
                self.unsynced.retain(|&number| number != segment);
                let more = self.active.is_some_and(|active| active != segment);
                if more || !self.unsynced.is_empty() {
                    return;
                }
                self.all_synced();
            }
            (Errand::Delete { segment }, done) => {
                if let Done::Failed(why) = done {
                    // What is in it may come again after a restart. The hub knows it.
                    log::warn!("a segment of the spool can't be deleted: {why}");
                    self.doomed.retain(|&number| number != segment);
                    if let Some(segment) = self.index.get_mut(segment) {
                        segment.stay();
                    }
                    self.undeleted.push(segment);
                    self.delete_at = now + SPOOL_RETRY;
                    return;
                }
                self.doomed.retain(|&number| number != segment);
                self.index.remove(segment);
                self.recover();
                self.look_again();
            }
            (Errand::Load { segment }, Done::Read(bytes)) => self.loaded(segment, bytes),
            (Errand::Empty { segment }, Done::Read(bytes)) => {
                self.rescue(segment, bytes, outbox);
                self.empty(segment, bytes);
            }
            (Errand::Move { segment }, Done::Read(bytes)) => {
                self.rescue(segment, bytes, outbox);
                self.begin_moving(segment, bytes, HashSet::new());
            }
            (
                Errand::Load { segment } | Errand::Empty { segment } | Errand::Move { segment },
                Done::Failed(why),
            ) => {
                log::error!("a segment of the spool can't be read, and is set aside: {why}");
                self.lose(segment, outbox);
            }
            (Errand::Load { .. } | Errand::Empty { .. } | Errand::Move { .. }, Done::Well) => {}
        }
    }

    fn appended(&mut self, now: Duration, number: u32, outbox: &mut Outbox) {
        let head = if self.at == 0 { segment::HEAD } else { 0 };
        self.index.grow(number, self.draft.len() - head);
        self.budget.used += self.draft.len() as u64;
        self.appended_at = now;
        self.sync_at.get_or_insert(now + SYNC_AFTER);
        // What found no room beside this is looked at again, to have room made for it.
        self.spooled =
            self.passed_by.take().map_or(self.reached, |seq| Seq(seq.0.saturating_sub(1)));
        self.recover();
        let batch = std::mem::take(&mut self.batch);
        for placed in &batch {
            match *placed {
                Placed::Report { seq, kind, run, attempt, spot } => {
                    self.add(spot, kind, true);
                    outbox.spooled(seq, spot);
                    if kind == Kind::Finished {
                        self.settle(run, attempt);
                    }
                }
                Placed::Moved { kind, run, attempt, tag, from, spot } => {
                    self.moved(kind, run, attempt, from, spot);
                    let in_memory = tag.outbox == outbox.id() && outbox.moved(tag.seq, from, spot);
                    self.add(spot, kind, in_memory || !kind.is_report());
                }
                Placed::Took { run, attempt, spot } => {
                    self.takes.pop_front();
                    self.add(spot, Kind::Took, true);
                    self.taken.push((run, attempt, spot));
                }
                Placed::Dropped { run, attempt, spot } => {
                    self.add(spot, Kind::Dropped, true);
                    let dropped = &mut self.dropped;
                    if let Some(known) =
                        dropped.iter_mut().find(|d| (d.run, d.attempt) == (run, attempt))
                    {
                        known.spot = Some(spot);
                    }
                }
            }
        }
        self.batch = batch;
        self.batch.clear();
        if std::mem::take(&mut self.moved_all) {
            self.retire();
        }
    }

    fn add(&mut self, spot: Spot, kind: Kind, in_memory: bool) {
        if let Some(segment) = self.index.get_mut(spot.segment) {
            segment.add(spot.index, kind, in_memory);
        }
    }

    /// A record stands in another segment now.
    fn moved(&mut self, kind: Kind, run: RunId, attempt: Attempt, from: Spot, spot: Spot) {
        self.index.release(from, kind);
        if let Some(moving) = &mut self.moving {
            moving.at = usize::from(from.index) + 1;
        }
        match kind {
            Kind::Took => {
                for taken in self.taken.iter_mut().filter(|taken| taken.2 == from) {
                    taken.2 = spot;
                }
            }
            Kind::Dropped => {
                for dropped in self.dropped.iter_mut().filter(|d| d.spot == Some(from)) {
                    dropped.spot = Some(spot);
                }
            }
            // It says itself now that the output was dropped, and all output of the run stood
            // before it.
            Kind::Finished => {
                self.forget_dropped(run, attempt);
                if let Some(moving) = &mut self.moving {
                    moving.cut.remove(&(run, attempt));
                }
            }
            Kind::Chunk | Kind::Missed => {}
        }
    }

    /// All that is needed of a segment stands elsewhere: it goes once that is synced.
    fn retire(&mut self) {
        let Some(moving) = self.moving.take() else { return };
        // All that is whole has moved.
        let lost = self.index.get_mut(moving.from).map_or(0, Segment::abandon);
        self.count_damaged(u64::from(lost));
        self.lost_some |= lost > 0;
        if self.sync_at.is_some() {
            self.retiring.push(moving.from);
        } else {
            self.bury(moving.from);
        }
    }

    // ---- reading -----------------------------------------------------------------------------

    fn loaded(&mut self, number: u32, bytes: &[u8]) {
        let Self { index, window, dropped, losses, .. } = self;
        let Some(known) = index.get(number) else { return };
        let mut found = Vec::<u16>::new();
        let mut unwanted = Vec::<(Spot, Kind)>::new();
        let count = window.load(number, bytes, |entry| {
            if !known.is_away(entry.index) || !entry.kind.is_report() {
                return Wanted::No;
            }
            let is_dropped =
                dropped.iter().any(|d| (d.run, d.attempt) == (entry.run, entry.attempt));
            match (entry.kind, is_dropped) {
                (Kind::Chunk, true) => {
                    unwanted.push((Spot { segment: number, index: entry.index }, entry.kind));
                    lose(losses, entry);
                    Wanted::No
                }
                (Kind::Finished, true) => {
                    found.push(entry.index);
                    Wanted::Dropped
                }
                _ => {
                    found.push(entry.index);
                    Wanted::Yes
                }
            }
        });
        for (spot, kind) in unwanted {
            self.index.release(spot, kind);
        }
        let Some(known) = self.index.get_mut(number) else { return };
        let lost = known.keep_away_only(|index| found.binary_search(&index).is_ok());
        known.busy = count > 0;
        let living = known.living();
        if lost > 0 {
            self.lost_some = true;
            self.count_damaged(lost);
            log::error!("{lost} records of the spool are damaged");
        }
        if living == 0 {
            self.bury(number);
        }
    }

    /// Before a segment goes: if something in it is damaged, what of it is in memory is written again.
    fn rescue(&mut self, number: u32, bytes: &[u8], outbox: &mut Outbox) {
        let Some(known) = self.index.get(number) else { return };
        if living(known, bytes).count() < usize::from(known.living()) {
            outbox.unspool(number, |spot, kind| {
                self.index.release(spot, of_outbox(kind));
            });
            self.look_at_all();
        }
    }

    /// Drops the output in a segment, or, if there is none, all else; the rest moves.
    fn empty(&mut self, number: u32, bytes: &[u8]) {
        let Some(known) = self.index.get_mut(number) else { return };
        let live: Vec<Entry<'_>> = living(known, bytes).collect();
        let output = live.iter().any(|entry| entry.kind == Kind::Chunk);
        if !output && known.forget_chunks() {
            // The output that it was to be emptied of is damaged: there may be some elsewhere.
            self.look_at_all();
            return;
        }
        let ends = live.iter().filter(|entry| entry.kind == Kind::Finished);
        let ends: HashSet<_> = ends.map(|entry| (entry.run, entry.attempt)).collect();
        let mut cut = HashSet::new();
        for entry in &live {
            let goes = match entry.kind {
                Kind::Chunk => true,
                Kind::Finished | Kind::Missed => !output,
                Kind::Dropped | Kind::Took => false,
            };
            if !goes {
                continue;
            }
            if entry.kind == Kind::Chunk {
                let run = (entry.run, entry.attempt);
                // Hundreds of runs may end here; of those that end elsewhere there are few.
                if ends.contains(&run) {
                    cut.insert(run);
                } else {
                    self.drop_output(entry.run, entry.attempt);
                }
            }
            lose(&mut self.losses, entry);
            let spot = Spot { segment: number, index: entry.index };
            self.index.release(spot, entry.kind);
            if entry.kind == Kind::Finished {
                self.forget_dropped(entry.run, entry.attempt);
            }
        }
        self.begin_moving(number, bytes, cut);
    }

    /// What lives in a segment moves to the last one.
    fn begin_moving(&mut self, number: u32, bytes: &[u8], cut: HashSet<(RunId, Attempt)>) {
        if let Some(known) = self.index.get_mut(number) {
            known.busy = true;
        }
        self.moving = Some(Moving { from: number, bytes: bytes.to_vec(), at: 0, cut });
    }

    /// Moving goes no further: what is left of the segment goes to the hub from there. It is not deleted
    /// before what has moved is synced.
    fn stop_moving(&mut self) {
        let Some(Moving { from, at, cut, .. }) = self.moving.take() else { return };
        for (run, attempt) in cut {
            self.drop_output(run, attempt);
        }
        let Some(known) = self.index.get_mut(from) else { return };
        known.busy = false;
        if at > 0 && self.sync_at.is_some() {
            self.retiring.push(from);
        } else if known.living() == 0 {
            self.bury(from);
        }
    }

    /// A segment can't be read.
    fn lose(&mut self, number: u32, outbox: &mut Outbox) {
        outbox.unspool(number, |spot, kind| {
            self.index.release(spot, of_outbox(kind));
        });
        let living = self.index.get(number).map_or(0, Segment::living);
        self.count_damaged(u64::from(living));
        self.lost_some |= living > 0;
        self.unsynced.retain(|&other| other != number);
        self.look_at_all();
        if self.unsynced.is_empty() && self.active.is_none() {
            self.all_synced();
        }
        self.taken.retain(|taken| taken.2.segment != number);
        for dropped in &mut self.dropped {
            dropped.spot = dropped.spot.filter(|spot| spot.segment != number);
        }
        self.index.remove(number);
        self.aside.push(number);
    }
}

/// The records of a segment that are needed, as far as they are whole.
fn living<'a>(known: &Segment, bytes: &'a [u8]) -> impl Iterator<Item = Entry<'a>> {
    segment::read(bytes).filter_map(|found| match found {
        Found::Record(_, entry) if known.is_live(entry.index) => Some(entry),
        Found::Record(..) | Found::Bad(_) => None,
    })
}

/// Adds a record to what was lost.
fn lose(losses: &mut Vec<Lost>, entry: &Entry<'_>) {
    let Entry { run, attempt, kind, job, tracked, .. } = *entry;
    let same = |lost: &&mut Lost| (lost.run, lost.attempt, lost.kind) == (run, attempt, kind);
    match losses.iter_mut().find(same) {
        Some(lost) => lost.count += 1,
        None => losses.push(Lost { run, attempt, kind, job, tracked, count: 1 }),
    }
}

fn plain(kind: Kind, run: RunId, attempt: Attempt, body: &[u8]) -> Entry<'_> {
    let tag = Tag { outbox: fieldpost_wire::OutboxId([0; 16]), seq: Seq(0) };
    Entry { kind, durable: false, tracked: false, index: 0, job: 0, run, attempt, tag, body }
}

/// Whose report this is.
fn whose(body: &[u8]) -> (RunId, Attempt) {
    match Report::decode(body) {
        Ok((_, Report::Output(output))) => (output.run, output.attempt),
        Ok((_, Report::Finished(finished))) => (finished.run, finished.attempt),
        Ok(_) | Err(_) => (RunId([0; 16]), Attempt(0)),
    }
}

pub(crate) fn of_outbox(kind: outbox::Kind) -> Kind {
    match kind {
        outbox::Kind::Chunk => Kind::Chunk,
        outbox::Kind::Finished => Kind::Finished,
        outbox::Kind::Missed => Kind::Missed,
    }
}
