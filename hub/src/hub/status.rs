//! `status`: how the hub does, in numbers.

use std::collections::HashMap;

use serde_json::json;

use super::nodes::SILENT_MS;
use super::pipeline::ReplyTo;
use super::upkeep::IDLE_MS;
use super::{Hub, Moment};
use crate::protocol::{Refusal, Status};
use crate::store::Key;

/// Peers whose bad bytes are remembered, to log each once a minute.
const MOST_PEERS: usize = 1_000;
/// Refusals that the audit trail takes up in a minute.
const REFUSALS_A_MINUTE: u32 = 60;
const MINUTE_MS: u64 = 60_000;

/// Counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reports that decoded.
    pub reports: u64,
    /// Bytes of reports.
    pub report_bytes: u64,
    /// Chunks of output.
    pub chunks: u64,
    /// Results stored.
    pub results: u64,
    /// Results that the hub wrote down.
    pub inferred: u64,
    /// Reliable reports that this version can't read.
    pub unreadable: u64,
    /// Reports that came while nothing could be stored: not acked, they come again.
    pub unstored: u64,
    /// Bytes that are no message.
    pub bad_bytes: u64,
    /// Messages of keys that may not say them.
    pub unauthorised: u64,
    /// Requests.
    pub requests: u64,
    /// Requests that are none.
    pub bad_requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Triggers.
    pub submitted: u64,
    /// Handshakes let through.
    pub admitted: u64,
    /// Handshakes told to come later.
    pub delayed: u64,
    /// Handshakes turned away.
    pub turned_away: u64,
    /// Subscriptions refused.
    pub refused_subscriptions: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Rows swept away.
    pub swept: u64,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Connections cut.
    pub cut: u64,
    /// Reports a second, lately.
    pub rate: u64,
    rated: (Moment, u64),
    logged: HashMap<Option<Key>, Moment>,
    audited: (Moment, u32),
}

impl Counters {
    /// Whether bad bytes of this peer are worth a line: once a minute.
    pub fn may_log(&mut self, key: Option<Key>, now: Moment) -> bool {
        if self.logged.len() >= MOST_PEERS {
            self.logged.retain(|_, at| now.ms_since(*at) < MINUTE_MS);
        }
        if self.logged.len() >= MOST_PEERS && !self.logged.contains_key(&key) {
            return false;
        }
        match self.logged.get(&key) {
            Some(at) if now.ms_since(*at) < MINUTE_MS => false,
            _ => {
                self.logged.insert(key, now);
                true
            }
        }
    }

    /// Whether a refusal still goes into the audit trail: a flood of them must not fill it.
    pub fn may_audit_refusal(&mut self, now: Moment) -> bool {
        if now.ms_since(self.audited.0) >= MINUTE_MS {
            self.audited = (now, 0);
        }
        self.audited.1 += 1;
        self.audited.1 <= REFUSALS_A_MINUTE
    }

    /// Measures the rate of reports, every few seconds.
    pub fn measure(&mut self, now: Moment) {
        let passed = now.ms_since(self.rated.0).max(1);
        self.rate = (self.reports - self.rated.1) * 1_000 / passed;
        self.rated = (now, self.reports);
    }
}

impl Hub {
    pub(super) fn status(&mut self, to: &ReplyTo, _request: Status) -> Result<(), Refusal> {
        let now = self.time.moment();
        let mut states = HashMap::<&str, u64>::new();
        for node in self.nodes.iter() {
            *states.entry(node.state(now)).or_default() += 1;
        }
        let of = |state: &str| states.get(state).copied().unwrap_or(0);
        let lag = self.consumers.values().map(|consumer| {
            let idle_ms = self.time.time().ms_since(consumer.seen);
            json!({
                "name": &*consumer.name,
                "owner": consumer.owner,
                "offset": consumer.offset,
                "behind": self.extent.newest.saturating_sub(consumer.offset),
                "seen_ms": consumer.seen.0,
                "idle": idle_ms > IDLE_MS,
            })
        });
        let consumers: Vec<_> = lag.take(100).collect();
        let c = &self.counters;
        let fields = json!({
            "hub": &*self.settings.name,
            "hub_id": self.identity.hub,
            "version": self.settings.version,
            "start": self.settings.start,
            "time_ms": self.time.time().0,
            "uptime_s": now.ms_since(self.started) / 1_000,
            "wall_clock_off_ms": self.time.off_ms(),
            "resident_bytes": c.resident,
            "nodes": {
                "known": self.nodes.len(),
                "up": of("up"),
                "silent": of("silent") + of("unheard"),
                "quarantined": of("quarantined"),
                "revoked": of("revoked"),
                "pending": self.nodes.pending_len(),
                "silent_after_ms": SILENT_MS,
            },
            "runs": {
                "open": self.triggers.open(),
                "submitted": c.submitted,
                "awaiting_chunks": self.assembly.waiting(),
            },
            "reports": {
                "received": c.reports,
                "per_second": c.rate,
                "received_bytes": c.report_bytes,
                "chunks": c.chunks,
                "unreadable": c.unreadable,
                "unstored": c.unstored,
                "bad": c.bad_bytes,
                "unauthorised": c.unauthorised,
            },
            "results": {
                "stored": c.results,
                "inferred": c.inferred,
                "newest": self.extent.newest,
                "oldest": self.extent.oldest,
            },
            "store": {
                "state": if self.pipeline.failing.is_some() { "failing" } else { "ok" },
                "problem": self.pipeline.failing,
                "bytes": self.extent.bytes,
                "commits": self.pipeline.commits,
                "failed_commits": c.failed_commits,
                "waiting_records": self.pipeline.batch.records().len(),
                "swept": c.swept,
            },
            "consumers": consumers,
            "clients": {
                "known": self.clients.len(),
                "requests": c.requests,
                "bad_requests": c.bad_requests,
                "refused": c.refused,
                "waiting": self.waiters.len(),
                "watched_topics": self.watches.len(),
            },
            "connections": {
                "admitted": c.admitted,
                "delayed": c.delayed,
                "turned_away": c.turned_away,
                "refused_subscriptions": c.refused_subscriptions,
                "cut": c.cut,
            },
        });
        self.reply(to, &fields);
        Ok(())
    }
}
