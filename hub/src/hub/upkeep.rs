//! What happens by itself: beacons, probes, retention, expiring keys.

use std::collections::VecDeque;

use fieldpost_wire::{ALL_TOPIC, StartId, UnixMillis};

use super::nodes::PROBE_MS;
use super::{Hub, Moment, Now, context};
use crate::config;
use crate::store::{Batch, Change, NodeId, Restored, Sweep};

/// How often every node hears that the hub is there.
const BEACON_MS: u64 = 30_000;
/// How often old rows are looked for.
const SWEEP_MS: u64 = 60_000;
/// Rows that go in one commit: some 20 ms of the store.
const SWEEP_ROWS: u32 = 5_000;
/// How often numbers are measured and keys expire.
const HOUSEKEEPING_MS: u64 = 5_000;
/// A trigger that is open for longer holds nothing back, 9 days: its deadline is a day ahead at the
/// most, a job's timeout 7 days, and a result that was announced is waited for a day.
const OPEN_MS: u64 = 9 * 24 * 60 * 60 * 1000;
/// A start so long after the newest that the store knows is doubted, a day: the hub was off, or its clock is
/// ahead, and then everything would look old.
const LEAP_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a clock that is doubted has to be set, an hour.
const DOUBT_MS: u64 = 60 * 60 * 1000;
/// A consumer that was not seen for this long holds nothing back: 7 days.
pub const IDLE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Probes that wait; beyond it, in a storm of restarts, the newest are left out.
const MOST_PROBES: usize = 10_000;

/// When what is due.
#[derive(Debug)]
pub struct Upkeep {
    beacon: Moment,
    sweep: Moment,
    housekeeping: Moment,
    probes: VecDeque<(Moment, NodeId)>,
    sweeping: bool,
    /// Until then nothing goes for its age.
    ages_from: Moment,
}

impl Upkeep {
    /// From the start on. The first beacon goes out at once: agents that reconnected before the
    /// hub looked hear of its new start.
    pub fn new(now: Moment) -> Self {
        Self {
            beacon: now.plus_ms(1_000),
            sweep: now.plus_ms(SWEEP_MS),
            housekeeping: now.plus_ms(HOUSEKEEPING_MS),
            probes: VecDeque::new(),
            sweeping: false,
            ages_from: now,
        }
    }

    /// How long ago the newest is that the store knows, in milliseconds. If that is long, the clock may be
    /// wrong: nothing goes for its age until it had time to be set.
    pub fn look_back(&mut self, restored: &Restored, now: Now) -> u64 {
        let seen = restored.consumers.iter().map(|consumer| consumer.seen);
        let Some(newest) = seen.chain([restored.newest]).max().filter(|newest| newest.0 > 0) else {
            return 0;
        };
        let ago = now.wall.ms_since(newest);
        if ago > LEAP_MS {
            log::warn!(
                "the newest that the store knows is {} days old: was the hub off for so long, or is \
                 this clock ahead? Nothing is removed for its age within the next hour",
                ago / LEAP_MS
            );
            self.ages_from = now.moment.plus_ms(DOUBT_MS);
        }
        ago
    }

    /// Whether this clock is doubted.
    pub fn doubts(&self, now: Moment) -> bool {
        self.ages_from > now
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Moment {
        let probe = self.probes.front().map_or(self.beacon, |(at, _)| *at);
        self.beacon.min(self.sweep).min(self.housekeeping).min(probe)
    }

    /// Whether an older start of a node's agent is still alive is to be asked.
    pub fn probe_later(&mut self, node: NodeId, now: Moment) {
        if self.probes.len() < MOST_PROBES {
            self.probes.push_back((now.plus_ms(PROBE_MS), node));
        }
    }
}

impl Hub {
    pub(super) fn tick(&mut self) {
        let now = self.time.moment();
        let mut cx = context!(self);
        self.triggers.tick(&mut cx);
        self.let_waiters_go(now);
        if self.upkeep.beacon <= now {
            self.upkeep.beacon = now.plus_ms(BEACON_MS);
            let (body, length) = self.beacon(self.settings.start);
            self.outputs.publish(ALL_TOPIC, &body[..length]);
        }
        while let Some((at, node)) = self.upkeep.probes.front().copied()
            && at <= now
        {
            self.upkeep.probes.pop_front();
            self.probe(node);
        }
        if self.upkeep.housekeeping <= now {
            self.upkeep.housekeeping = now.plus_ms(HOUSEKEEPING_MS);
            self.counters.measure(now);
            self.expire_keys();
        }
        if self.upkeep.sweep <= now {
            self.upkeep.sweep = now.plus_ms(SWEEP_MS);
            self.sweep();
        }
    }

    /// A beacon of another start makes whoever is alive there say `Hello`: if the older start
    /// answers too, two agents have one key.
    fn probe(&mut self, node: NodeId) {
        let mut other = StartId([0; 16]);
        self.rng.fill(&mut other.0);
        self.beacon_to(node, other);
    }

    fn let_waiters_go(&mut self, now: Moment) {
        if self.waiters.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let (readers, runs) = self.waiters.take_overdue(now);
        for reader in readers {
            let after = reader.after;
            self.answer_results(reader, &[], after);
        }
        for waiter in runs {
            self.ask_run(waiter);
        }
    }

    fn sweep(&mut self) {
        if self.pipeline.failing.is_some() || self.upkeep.sweeping {
            return;
        }
        self.upkeep.sweeping = true;
        let retention = self.settings.retention;
        let time = self.time.for_ages();
        let age = if self.upkeep.ages_from > self.time.moment() {
            u64::MAX
        } else {
            u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX)
        };
        let held = self
            .consumers
            .values()
            .filter(|consumer| time.ms_since(consumer.seen) <= IDLE_MS)
            .map(|consumer| consumer.offset)
            .min();
        self.pipeline.change(Change::Sweep(Sweep {
            before: UnixMillis(time.0.saturating_sub(age)),
            bytes: retention.size,
            keep_after: held.unwrap_or(u64::MAX),
            open_since: UnixMillis(time.0.saturating_sub(OPEN_MS)),
            rows: SWEEP_ROWS,
        }));
    }

    /// A batch was committed that may have swept.
    pub(super) fn swept(&mut self, batch: &Batch, rows: u64) {
        let swept = batch.changes().iter().any(|change| matches!(change, Change::Sweep(_)));
        if !swept {
            return;
        }
        self.upkeep.sweeping = false;
        self.counters.swept += rows;
        if rows >= u64::from(SWEEP_ROWS) {
            // There is more: with the next batch, but not in this one's way.
            self.upkeep.sweep = self.time.moment().plus_ms(100);
        }
    }

    pub(super) fn reload(&mut self, clients: Vec<config::Client>, retention: config::Retention) {
        self.settings.retention = retention;
        for key in self.clients.replace(clients) {
            self.outputs.cut(&key);
        }
        let (readers, runs) = self.waiters.take_all();
        // Their rights may be others now: each asks again.
        let refusal = crate::protocol::Refusal::new(
            "reloaded",
            "the hub's configuration was read anew while this request waited; ask again",
        );
        let asks = readers.into_iter().map(|reader| reader.to);
        for to in asks.chain(runs.into_iter().map(|waiter| waiter.to)) {
            self.refuse(&to, &refusal);
        }
    }
}
