//! What the node says of itself: `Hello` and `Heartbeat`.

use std::sync::Arc;

use fieldpost_wire::{
    BootId, Clock, Drops, Error, Heartbeat, Hello, JobOffer, List, Name, OutboxId, Report,
    ScheduleVersion, StartId, limits,
};

use crate::door::{Settings, Vitals};
use crate::job::{Job, OnRestart};
use crate::schedule::Schedule;

/// How many reports of each job were dropped since the agent started.
#[derive(Debug, Default)]
pub(crate) struct DropCounts {
    counts: Vec<(Name, u64)>,
}

impl DropCounts {
    /// A job's number, for [`DropCounts::add`]. Jobs keep theirs when the configuration is read
    /// again; beyond 255 jobs they share one.
    pub(crate) fn number(&mut self, job: &Name) -> u8 {
        let known = self.counts.iter().position(|(name, _)| name == job);
        let index = known.unwrap_or_else(|| {
            if self.counts.len() < usize::from(u8::MAX) {
                self.counts.push((job.clone(), 0));
            }
            self.counts.len() - 1
        });
        u8::try_from(index).unwrap_or(u8::MAX)
    }

    /// The number a job already has; for one that has none, a number that counts nothing.
    pub(crate) fn known_number(&self, job: &str) -> u8 {
        let known = self.counts.iter().position(|(name, _)| &**name == job);
        known.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX)
    }

    /// The job of this number; `-` for one that counts nothing.
    pub(crate) fn name(&self, job: u8) -> &str {
        self.counts.get(usize::from(job)).map_or("-", |(name, _)| name)
    }

    /// A job's name in four bytes, as the spool keeps it; 0: no job's.
    pub(crate) fn hash(&self, job: u8) -> u32 {
        let name = self.counts.get(usize::from(job));
        name.map_or(0, |(name, _)| crc32c::crc32c(name.as_bytes()))
    }

    /// The number of the job whose name has this hash; if there is none, one that counts nothing.
    pub(crate) fn hashed_number(&self, hash: u32) -> u8 {
        let is_it = |(name, _): &(Name, u64)| crc32c::crc32c(name.as_bytes()) == hash;
        let known = self.counts.iter().position(is_it);
        known.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX)
    }

    /// Counts reports of a job that were dropped.
    pub(crate) fn add(&mut self, job: u8, count: u64) {
        if let Some((name, total)) = self.counts.get_mut(usize::from(job)) {
            *total += count;
            log::warn!("{count} reports of {name} were dropped: the outbox is full");
        }
    }

    fn iter(&self) -> impl Iterator<Item = Drops<'_>> {
        let dropped = self.counts.iter().filter(|(_, count)| *count > 0);
        dropped.map(|(job, count)| Drops { job, count: *count }).take(limits::JOBS)
    }
}

/// What a `Hello` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Introduction<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) jobs: &'a [Arc<Job>],
    pub(crate) start: StartId,
    pub(crate) outbox: OutboxId,
    /// Those of earlier starts whose records may be in the spool.
    pub(crate) spooled: &'a [OutboxId],
    pub(crate) schedule: ScheduleVersion,
}

impl Introduction<'_> {
    /// Writes it, and gives its length and whether it is partial: until a hub has welcomed us it
    /// must be as short as what a hub reads of an unknown key.
    pub(crate) fn encode(
        &self,
        welcomed: bool,
        lists: &mut [u8],
        body: &mut [u8],
    ) -> Result<(usize, bool), Error> {
        let whole = self.write(false, lists, body)?;
        if welcomed || whole <= limits::FIRST_HELLO {
            return Ok((whole, false));
        }
        Ok((self.write(true, lists, body)?, true))
    }

    fn write(&self, partial: bool, lists: &mut [u8], body: &mut [u8]) -> Result<usize, Error> {
        let most = if partial { 0 } else { usize::MAX };
        let (groups_room, lists) = lists.split_at_mut(limits::GROUPS * (limits::NAME + 1));
        let (outboxes_room, jobs_room) = lists.split_at_mut(limits::OUTBOXES * 16);
        let spooled = self.spooled.iter().copied().take(limits::OUTBOXES - 1);
        let outboxes = std::iter::once(self.outbox).chain(spooled.take(most));
        let groups = self.settings.groups.iter().map(|group| &**group);
        let jobs = self
            .jobs
            .iter()
            .map(|job| JobOffer { name: &job.name, rerun: job.on_restart == OnRestart::Rerun });
        let hello = Hello {
            start: self.start,
            node: &self.settings.node,
            agent: self.settings.version,
            groups: List::encode(groups_room, groups.take(most))?,
            jobs: List::encode(jobs_room, jobs.take(most))?,
            partial,
            schedule: self.schedule,
            outboxes: List::encode(outboxes_room, outboxes)?,
        };
        Report::Hello(hello).encode(None, body).map(<[u8]>::len)
    }
}

/// What a `Heartbeat` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse<'a> {
    pub(crate) boot: BootId,
    pub(crate) boot_ms: u64,
    pub(crate) vitals: Vitals,
    pub(crate) schedule: &'a Schedule,
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) outbox_records: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) spool_bytes: u64,
    pub(crate) drops: &'a DropCounts,
    pub(crate) sent_bytes: u64,
    pub(crate) bad_commands: u64,
    pub(crate) storage: &'a str,
    pub(crate) clock: Clock,
}

impl Pulse<'_> {
    /// Writes it, and gives its length.
    pub(crate) fn encode(&self, lists: &mut [u8], body: &mut [u8]) -> Result<usize, Error> {
        let (drops_room, errors_room) = lists.split_at_mut(limits::JOBS * (limits::NAME + 11));
        let heartbeat = Heartbeat {
            boot: self.boot,
            boot_ms: self.boot_ms,
            load_milli: self.vitals.load_milli,
            memory_kib: self.vitals.memory_kib,
            temperature_milli: self.vitals.temperature_milli,
            schedule: self.schedule.version(),
            entry_errors: List::encode(errors_room, self.schedule.errors())?,
            running: u32::try_from(self.running).unwrap_or(u32::MAX),
            queued: u32::try_from(self.queued).unwrap_or(u32::MAX),
            outbox_records: self.outbox_records as u64,
            outbox_bytes: self.outbox_bytes as u64,
            spool_bytes: self.spool_bytes,
            drops: List::encode(drops_room, self.drops.iter())?,
            sent_bytes: self.sent_bytes,
            written_bytes: self.vitals.written_bytes,
            bad_commands: self.bad_commands,
            storage: self.storage,
            clock: self.clock,
        };
        Report::Heartbeat(heartbeat).encode(None, body).map(<[u8]>::len)
    }
}
