//! The outbox and the spool together: what goes to disk, what memory is given back, what is lost
//! when both are full.

use fieldpost_wire::Seq;

use super::{Agent, Stage};
use crate::door::WhenFull;
use crate::journal::Record;
use crate::outbox::{self, Owner};
use crate::resend::millis;
use crate::spool::flow::of_outbox;
use crate::spool::segment::Kind;
use crate::spool::{Budget, Done, Lost, Needs, Spool};
use crate::trigger::{Place, State};

impl Agent {
    /// Whether the spool has something to be done, which [`Spool::work`] then tells.
    pub(super) fn prepare_spool(&mut self) -> bool {
        let away = self.is_away();
        let Self { spool: Some(spool), outbox, drops, link, settings, rng, .. } = self else {
            return false;
        };
        let needs = Needs {
            now: self.now.boot,
            outbox,
            drops,
            up: link.is_up(),
            away,
            pressed: away && outbox.free() < outbox.size() / 2,
            ending: self.stage == Stage::Exiting,
            drops_oldest: settings.when_full == WhenFull::DropOldest,
        };
        spool.prepare(&needs, rng)
    }

    /// What came of it.
    pub(super) fn spooled(&mut self, done: Done<'_>) {
        let Some(spool) = &mut self.spool else { return };
        let before = spool.budget();
        spool.done(self.now.boot, done, &mut self.outbox);
        if let Some(budget) = spool.budget()
            && before != Some(budget)
        {
            self.journal.push(&wrote(budget));
        }
        let losses = std::mem::take(&mut spool.losses);
        for lost in &losses {
            self.lost(lost);
        }
    }

    /// Something was dropped from the disk.
    fn lost(&mut self, lost: &Lost) {
        let Lost { run, attempt, kind, job, count, .. } = *lost;
        let job = self.drops.hashed_number(job);
        self.drops.add(job, count);
        let place = self.known.find(run, attempt);
        let serial = place.and_then(|place| self.known.get(place)).map(|entry| entry.serial);
        match kind {
            Kind::Chunk => {
                if let Some(serial) = serial {
                    self.evict(Some(serial));
                }
            }
            Kind::Finished => {
                if let (Some(place), Some(serial)) = (place, serial) {
                    self.known.set(place, serial, State::Settled);
                    self.journal.push(&Record::Settled { run, attempt });
                }
            }
            Kind::Missed | Kind::Dropped | Kind::Took => {}
        }
    }

    /// Drops the output of one run from memory, and what of it is on disk. Says whether there was
    /// any.
    pub(super) fn evict(&mut self, serial: Option<u32>) -> bool {
        let Self { outbox, spool, .. } = self;
        let evicted = outbox.evict_output(serial, |spot, kind| {
            if let Some(spool) = spool {
                spool.release(spot, of_outbox(kind));
            }
        });
        if let Some((owner, count)) = evicted {
            if count > 0 {
                self.drops.add(owner.job, count);
            }
            self.mark_dropped(owner);
            self.stop_output(owner.serial);
        } else if let Some(serial) = serial {
            self.stop_output(serial);
        }
        evicted.is_some()
    }

    /// If the hub does not take this end of a run because it waits for output that is nowhere any more,
    /// the end says so from now on.
    pub(super) fn give_up_output(&mut self, seq: Seq) {
        #[cfg(feature = "planted-bugs")]
        if self.identity.bugs.split_output {
            return;
        }
        let Some(owner) = self.outbox.vain_end(seq) else { return };
        if self.spool.as_ref().is_some_and(Spool::holds_unread) {
            return; // some of it may be there
        }
        if let Some(entry) = self.known.get(Place(owner.known)) {
            log::warn!("output of {} is lost at the hub; its end says so", entry.run);
        }
        self.evict(Some(owner.serial));
    }

    /// What of a run's output is on disk is not sent, and its end there says so.
    pub(super) fn mark_dropped(&mut self, owner: Owner) {
        if let Some(spool) = &mut self.spool
            && spool.bytes() > 0
            && let Some(entry) = self.known.get(Place(owner.known))
            && entry.serial == owner.serial
        {
            spool.drop_output(entry.run, entry.attempt);
            // Its end in memory is not what is on disk any more.
            spool.look_at_all();
        }
    }

    /// Whether output that finds the memory full will find room on disk: then it waits for that.
    pub(super) fn spool_takes_output(&self) -> bool {
        let drops_oldest = self.settings.when_full == WhenFull::DropOldest;
        self.spool.as_ref().is_some_and(|spool| spool.takes_output(drops_oldest))
    }

    /// While no hub takes reports, memory that is needed is that of what is on disk.
    pub(super) fn relieve(&mut self) {
        let size = self.outbox.size();
        if self.is_away() && self.outbox.free() < size / 2 {
            self.let_go(size / 2 + size / 8);
        }
    }

    /// Forgets what is on disk, oldest first, until so many bytes are free.
    pub(super) fn let_go(&mut self, bytes: usize) {
        let Self { spool: Some(spool), outbox, known, .. } = self else { return };
        outbox.let_go(bytes, |kind, owner, spot| {
            spool.let_go(spot);
            // Nobody triggers a scheduled run again: it needs not be known for that.
            if kind == outbox::Kind::Finished
                && let Some(entry) = known.get(Place(owner.known)).copied()
                && entry.serial == owner.serial
                && entry.deadline.0 == 0
            {
                known.set(Place(owner.known), owner.serial, State::Settled);
            }
        });
    }
}

/// What the journal says of the bytes written today.
pub(super) fn wrote(budget: Budget) -> Record<'static> {
    Record::Wrote { since_ms: millis(budget.began), bytes: budget.used }
}

/// What is wrong with the node's disk, for people.
pub(super) fn storage_trouble<'a>(storage: &'a str, spool: Option<&'a Spool>) -> &'a str {
    let spool = spool.map_or("", Spool::trouble);
    if storage.is_empty() { spool } else { storage }
}
