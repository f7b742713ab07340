//! The start of an agent: what an earlier start left, and what the journal must hold for the next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use fieldpost_wire::limits::DEADLINE_AHEAD_MS;
use fieldpost_wire::{
    Attempt, BootId, Cause, Clock, Exit, Finished, Report, RunId, Status as RunStatus, UnixMillis,
};

use super::spooling::wrote;
use super::{Agent, Identity, Now, Restored, Save, Settings, Stage, Status};
use crate::heartbeat::DropCounts;
use crate::hub_time::HubTime;
use crate::journal::{self, Journal, Record, Took};
use crate::limits::{KNOWN_RUNS, LEFTOVERS, OUTBOX_LEAST, OUTBOX_MOST, most_running};
use crate::link::Link;
use crate::outbox::{Outbox, Owner};
use crate::push::Push;
use crate::resend::Acks;
use crate::run::Runs;
use crate::schedule::Schedule;
use crate::spool::{Budget, Spool};
use crate::trigger::{Entry, KnownRuns, Place, State};

/// What the journal says of one run.
enum Past<'a> {
    Took(Took<'a>),
    /// Its end is in the spool. The job is `-` if nothing else tells of it.
    Coming {
        deadline: UnixMillis,
        job: &'a str,
    },
    Settled(Took<'a>),
    Tombstone(UnixMillis),
}

impl Agent {
    /// An agent that starts `now`, with what an earlier start left.
    #[must_use]
    pub fn new(settings: Settings, restored: Restored<'_>, identity: Identity, now: Now) -> Self {
        let outbox_bytes = settings.outbox_bytes.clamp(OUTBOX_LEAST, OUTBOX_MOST);
        let slots = settings.concurrency.clamp(1, most_running(outbox_bytes));
        let mut rng = fastrand::Rng::with_seed(identity.seed);
        let mut agent = Self {
            identity,
            jobs: Vec::new(),
            now,
            hub_time: HubTime::default(),
            link: Link::new(settings.hubs.clone(), now.boot),
            known: KnownRuns::new(rng.u64(..)),
            runs: Runs::new(slots, settings.grace),
            outbox: Outbox::new(identity.outbox, outbox_bytes),
            spool: settings.spool.map(|settings| Spool::new(settings, restored.spool, now.boot)),
            push: Push::new(),
            journal: Journal::new(),
            schedule: Schedule::new(settings.node.clone(), settings.time_zone.clone(), now),
            save: Save::No,
            boot_id: restored.boot_id,
            file: Vec::new(),
            heartbeat_at: now.boot,
            hub: None,
            acked_at: now.boot,
            acks: Acks::default(),
            wants_vitals: false,
            drops: DropCounts::default(),
            bad_commands: 0,
            storage: String::with_capacity(crate::limits::TEXT),
            leftovers: Vec::new(),
            delivered: VecDeque::new(),
            stage: Stage::Working,
            status: Some(Status::Connecting),
            ready: false,
            offered_len: 0,
            partial_hello: false,
            rng,
            settings,
        };
        agent.restore_schedule(&restored);
        let jobs = std::mem::take(&mut agent.settings.jobs);
        agent.take_jobs(jobs);
        agent.restore_runs(&restored);
        agent.rewrite_journal();
        agent.turn();
        agent
    }

    fn restore_schedule(&mut self, restored: &Restored<'_>) {
        let Some(file) = restored.schedule else { return };
        match self.schedule.restore(file, self.now) {
            // From now on it is not known any more what was run, if the power goes.
            Some(true) => self.save = Save::Running,
            Some(false) => {}
            None => log::warn!("the schedule's file is damaged: the hub will send it again"),
        }
    }

    fn restore_runs(&mut self, restored: &Restored<'_>) {
        let mut past: HashMap<(RunId, Attempt), Past<'_>> = HashMap::new();
        let mut order = Vec::new();
        let mut processes: HashMap<(RunId, Attempt), (u32, u64)> = HashMap::new();
        let mut same_boot = false;
        let mut records = journal::read(restored.journal);
        for record in records.by_ref() {
            match record {
                Record::Boot { id } => same_boot = id == restored.boot_id,
                Record::Took(took) => {
                    order.push((took.run, took.attempt));
                    past.insert((took.run, took.attempt), Past::Took(took));
                }
                Record::Started { run, attempt, pid, start_ticks } if same_boot => {
                    processes.insert((run, attempt), (pid, start_ticks));
                }
                Record::Started { .. } => {}
                Record::Ended { run, attempt } => {
                    processes.remove(&(run, attempt));
                }
                Record::Settled { run, attempt } => {
                    if let Some(past) = past.get_mut(&(run, attempt))
                        && let Past::Took(took) = *past
                    {
                        *past = Past::Settled(took);
                    }
                }
                Record::Tombstone { run, attempt, deadline } => {
                    order.push((run, attempt));
                    past.insert((run, attempt), Past::Tombstone(deadline));
                }
                Record::Done { schedule, entry, upto } => {
                    self.schedule.recall(schedule, entry, upto, same_boot);
                }
                Record::Wrote { since_ms, bytes } if same_boot => {
                    if let Some(spool) = &mut self.spool {
                        let began = Duration::from_millis(since_ms);
                        spool.recall_budget(Budget { began, used: bytes }, self.now.boot);
                    }
                }
                Record::Wrote { .. } => {}
            }
        }
        if records.lost > 0 {
            log::warn!("{} bytes of the journal are damaged", records.lost);
        }
        self.restore_spooled(restored, &mut past, &mut order);
        self.leftovers = processes.into_values().take(LEFTOVERS).collect();
        self.leftovers.sort_unstable();
        #[cfg(feature = "planted-bugs")]
        if self.identity.bugs.forget_runs_at_restart {
            return;
        }
        for key in order {
            if self.known.len() < KNOWN_RUNS
                && let Some(past) = past.remove(&key)
            {
                self.recall_run(key.0, key.1, &past);
            }
        }
    }

    /// What the spool says of runs: which were accepted, and whose end is on its way.
    fn restore_spooled<'a>(
        &mut self,
        restored: &Restored<'a>,
        past: &mut HashMap<(RunId, Attempt), Past<'a>>,
        order: &mut Vec<(RunId, Attempt)>,
    ) {
        let (Some(spool), Some(files)) = (restored.spool, &mut self.spool) else { return };
        for (run, attempt, _, record) in &spool.took {
            let key = (*run, *attempt);
            let settled = matches!(past.get(&key), Some(Past::Settled(_) | Past::Tombstone(_)));
            if settled || spool.finished.contains(&key) {
                files.settle(*run, *attempt);
                continue;
            }
            if let Some(Record::Took(took)) = journal::read(record).next() {
                past.entry((*run, *attempt)).or_insert_with(|| {
                    order.push((*run, *attempt));
                    Past::Took(took)
                });
            }
        }
        for &key in &spool.finished {
            let (deadline, job) = match past.get(&key) {
                // The journal's word is the later one.
                Some(Past::Settled(_) | Past::Tombstone(_) | Past::Coming { .. }) => continue,
                Some(Past::Took(took)) => (took.deadline, took.job),
                None => {
                    order.push(key);
                    // Its deadline is not in the spool; the hub allows no later one than this.
                    (key.0.time().plus_ms(DEADLINE_AHEAD_MS), "-")
                }
            };
            past.insert(key, Past::Coming { deadline, job });
        }
    }

    fn recall_run(&mut self, run: RunId, attempt: Attempt, past: &Past<'_>) {
        let (deadline, state) = match past {
            Past::Took(took) => (took.deadline, State::Coming),
            Past::Coming { deadline, .. } => (*deadline, State::Coming),
            // Nobody triggers a scheduled run again.
            Past::Settled(took) if took.deadline.0 == 0 => return,
            Past::Settled(took) => (took.deadline, State::Settled),
            Past::Tombstone(deadline) => (*deadline, State::Tombstone),
        };
        let Some((place, serial)) = self.remember(run, attempt, deadline, state) else { return };
        let job = match past {
            Past::Took(took) | Past::Settled(took) => took.job,
            Past::Coming { job, .. } => job,
            Past::Tombstone(_) => "-",
        };
        let job = match job.parse() {
            Ok(name) if job != "-" => self.drops.number(&name),
            _ => u8::MAX,
        };
        self.known.set_job(place, serial, job);
        let Past::Took(took) = past else { return };
        let finished = lost(took, "the agent was restarted before its result was safe");
        self.append_finished(
            &finished,
            Owner { serial, known: place.0, job, tracked: false, durable: true },
        );
    }

    /// The ends of runs that should be on their way, and are neither in memory nor on disk, were lost
    /// there.
    pub(super) fn tell_lost_ends(&mut self) {
        let here: HashSet<u32> = self.outbox.finished().map(|(owner, _)| owner.serial).collect();
        let is_gone = |entry: &Entry| entry.state == State::Coming && !here.contains(&entry.serial);
        let known = self.known.iter().filter(|(_, entry)| is_gone(entry));
        let gone: Vec<(Place, Entry)> = known.map(|(place, entry)| (place, *entry)).collect();
        for (place, entry) in gone {
            let job = self.drops.name(entry.job).to_owned();
            let finished = lost(&took_before(&entry, &job), "its result was damaged on disk");
            let (serial, known, job) = (entry.serial, place.0, entry.job);
            self.append_finished(
                &finished,
                Owner { serial, known, job, tracked: false, durable: true },
            );
        }
    }

    /// Writes down how far the schedule's entries were dealt with.
    pub(super) fn journal_schedule(&mut self) {
        let schedule = self.schedule.version();
        for (entry, upto) in self.schedule.all_upto() {
            self.journal.push(&Record::Done { schedule, entry, upto });
        }
    }

    /// The journal begins anew with all that must be remembered.
    pub(super) fn rewrite_journal(&mut self) {
        let at = self.started_now();
        let Self { journal, known, runs, outbox, schedule, boot_id, drops, spool, .. } = self;
        let boot = std::iter::once(Record::Boot { id: *boot_id });
        let settled = known.iter().flat_map(|(_, entry)| {
            let (run, attempt, deadline) = (entry.run, entry.attempt, entry.deadline);
            let took = took_before(entry, drops.name(entry.job));
            let records = match entry.state {
                State::Tombstone => [Some(Record::Tombstone { run, attempt, deadline }), None],
                State::Settled if deadline.0 != 0 => {
                    [Some(Record::Took(took)), Some(Record::Settled { run, attempt })]
                }
                // Its end may be in the spool alone, and go from there once it is acked. If it is
                // in memory, what follows says more of it.
                State::Coming if deadline.0 != 0 => [Some(Record::Took(took)), None],
                State::Settled
                | State::Free
                | State::Waiting
                | State::Running(_)
                | State::Busy
                | State::Coming => [None, None],
            };
            records.into_iter().flatten()
        });
        let waiting = runs.waiting.iter().map(|run| Record::Took(super::course::took(run, at)));
        let running = runs.in_progress().flat_map(|(_, active)| {
            let (run, attempt) = (active.run.id, active.run.attempt);
            let took = Record::Took(super::course::took(&active.run, active.started));
            let started = active.process.map(|(pid, start_ticks)| Record::Started {
                run,
                attempt,
                pid,
                start_ticks,
            });
            std::iter::once(took).chain(started)
        });
        let coming = outbox.finished().filter_map(|(owner, body)| {
            let Ok((_, Report::Finished(finished))) = Report::decode(body) else { return None };
            let entry = known.get(crate::trigger::Place(owner.known))?;
            Some(Record::Took(Took {
                run: finished.run,
                attempt: finished.attempt,
                deadline: entry.deadline,
                job: finished.job,
                cause: finished.cause,
                wall: finished.started,
                boot_ms: finished.started_boot_ms,
                boot: finished.boot,
            }))
        });
        let version = schedule.version();
        let done = schedule.all_upto().map(|(entry, upto)| Record::Done {
            schedule: version,
            entry,
            upto,
        });
        let wrote = spool.as_ref().and_then(Spool::budget).map(wrote);
        let runs = settled.chain(waiting).chain(running).chain(coming);
        journal.replace(boot.chain(runs).chain(done).chain(wrote));
    }
}

/// Of a run that was accepted some time ago: when and why is not known any more.
fn took_before<'a>(entry: &Entry, job: &'a str) -> Took<'a> {
    Took {
        run: entry.run,
        attempt: entry.attempt,
        deadline: entry.deadline,
        job,
        cause: Cause::Trigger,
        wall: UnixMillis(0),
        boot_ms: 0,
        boot: BootId::UNKNOWN,
    }
}

/// The end of a run whose result is nowhere.
fn lost<'a>(took: &Took<'a>, note: &'a str) -> Finished<'a> {
    Finished {
        run: took.run,
        attempt: took.attempt,
        job: took.job,
        cause: took.cause,
        status: RunStatus::Lost,
        exit: Exit::None,
        started: took.wall,
        boot: took.boot,
        started_boot_ms: took.boot_ms,
        clock: Clock::Untrusted,
        duration_us: 0,
        chunks: 0,
        bytes: 0,
        crc32c: 0,
        stderr: b"",
        note,
        peak_rss_kib: 0,
        cpu_us: 0,
        truncated: false,
        output_dropped: false,
    }
}
