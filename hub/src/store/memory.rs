//! A store in memory: the model that says what a store does, for the simulated world and for
//! tests. Everything committed survives as long as the value lives; a world that kills the hub
//! keeps the store and drops the batch under way.

use std::collections::{BTreeMap, BTreeSet};

use fieldpost_wire::{Name, OutboxId, RunId, Seq, UnixMillis};

use super::{
    Answer, AuditRecord, AwaitingRecord, Batch, Change, Committed, ConsumerRecord, Extent,
    Identity, Key, LATE_MS, MissedRecord, NodeId, NodeRecord, ProgressRecord, Query, Record,
    Restored, RestoredTrigger, ResultRecord, ScheduleRecord, Scope, Source, Store, StoreError,
    Sweep, TriggerRecord, insert_index,
};

type Execution = (RunId, NodeId, u32);

/// The store.
#[derive(Debug, Clone)]
pub struct Memory {
    identity: Identity,
    nodes: BTreeMap<NodeId, NodeRecord>,
    revoked: BTreeSet<Key>,
    schedules: BTreeMap<Scope, ScheduleRecord>,
    triggers: BTreeMap<RunId, TriggerRecord>,
    progress: BTreeMap<(RunId, NodeId), ProgressRecord>,
    results: BTreeMap<u64, (ResultRecord, String)>,
    keys: BTreeMap<(RunId, NodeId, u32, Source), u64>,
    awaiting: BTreeMap<Execution, (UnixMillis, Vec<u8>)>,
    chunks: Chunks,
    missed: Vec<MissedRecord>,
    last_missed: u64,
    unreadable: BTreeMap<(NodeId, OutboxId, Seq), Vec<u8>>,
    consumers: BTreeMap<Name, ConsumerRecord>,
    audit: Vec<AuditRecord>,
    last_audit: u64,
    newest: u64,
    failing: Option<String>,
}

/// When each chunk came, and its bytes.
type Chunks = BTreeMap<(RunId, NodeId, u32, u32), (UnixMillis, Vec<u8>)>;

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            nodes: BTreeMap::new(),
            revoked: BTreeSet::new(),
            schedules: BTreeMap::new(),
            triggers: BTreeMap::new(),
            progress: BTreeMap::new(),
            results: BTreeMap::new(),
            keys: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            chunks: BTreeMap::new(),
            missed: Vec::new(),
            last_missed: 0,
            unreadable: BTreeMap::new(),
            consumers: BTreeMap::new(),
            audit: Vec::new(),
            last_audit: 0,
            newest: 0,
            failing: None,
        }
    }

    /// From now on commits fail, as a full disk's do; or work again.
    pub fn fail(&mut self, why: Option<&str>) {
        self.failing = why.map(str::to_owned);
    }

    /// All results, in order, with their job.
    pub fn results(&self) -> impl Iterator<Item = (&ResultRecord, &str)> {
        self.results.values().map(|(record, job)| (record, job.as_str()))
    }

    /// The bytes of an execution's output that are there, in order, without a gap.
    #[must_use]
    pub fn output(&self, run: RunId, node: NodeId, attempt: u32) -> Vec<u8> {
        self.chunks_from(run, node, attempt, 0).flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// All triggers.
    pub fn triggers(&self) -> impl Iterator<Item = &TriggerRecord> {
        self.triggers.values()
    }

    fn chunks_from(
        &self,
        run: RunId,
        node: NodeId,
        attempt: u32,
        from: u32,
    ) -> impl Iterator<Item = (u32, &Vec<u8>)> {
        self.chunks
            .range((run, node, attempt, from)..=(run, node, attempt, u32::MAX))
            .zip(from..)
            .take_while(|((key, _), expected)| key.3 == *expected)
            .map(|((key, (_, bytes)), _)| (key.3, bytes))
    }

    fn held(&self, run: RunId, node: NodeId, attempt: u32) -> Vec<(u32, u32)> {
        let mut held = Vec::new();
        for (key, _) in self.chunks.range((run, node, attempt, 0)..=(run, node, attempt, u32::MAX))
        {
            insert_index(&mut held, key.3);
        }
        held
    }

    fn extent(&self) -> Extent {
        let size = |(record, _): &(ResultRecord, String)| record.body.len() as u64 + 64;
        Extent {
            newest: self.newest,
            oldest: self.results.keys().next().copied().unwrap_or(0),
            bytes: self.results.values().map(size).sum::<u64>()
                + self.chunks.values().map(|(_, bytes)| bytes.len() as u64).sum::<u64>(),
        }
    }

    fn record(&mut self, batch: &Batch, record: &Record) -> u64 {
        match record {
            Record::Result {
                run,
                node,
                attempt,
                source,
                outcome,
                received,
                corrected,
                job,
                body,
                chunked,
            } => {
                if *chunked {
                    self.awaiting.remove(&(*run, *node, *attempt));
                }
                let key = (*run, *node, *attempt, *source);
                if self.keys.contains_key(&key) {
                    return 0;
                }
                self.newest += 1;
                self.keys.insert(key, self.newest);
                let record = ResultRecord {
                    offset: self.newest,
                    run: *run,
                    node: *node,
                    attempt: *attempt,
                    source: *source,
                    outcome: *outcome,
                    received: *received,
                    corrected: *corrected,
                    body: batch.slice(body).to_vec(),
                    revised: false,
                };
                self.results.insert(self.newest, (record, batch.text(job).to_owned()));
                return 1;
            }
            Record::Awaiting { run, node, attempt, received, body } => {
                let waiting = (*received, batch.slice(body).to_vec());
                self.awaiting.entry((*run, *node, *attempt)).or_insert(waiting);
            }
            Record::Chunk { run, node, attempt, received, index, bytes } => {
                self.chunks
                    .entry((*run, *node, *attempt, *index))
                    .or_insert_with(|| (*received, batch.slice(bytes).to_vec()));
            }
            Record::Missed { node, received, entry, from, to, count } => {
                let entry = batch.text(entry).to_owned();
                let is_same = |known: &MissedRecord| {
                    (known.from, known.node, &known.entry, known.to) == (*from, *node, &entry, *to)
                };
                if !self.missed.iter().any(is_same) {
                    self.last_missed += 1;
                    self.missed.push(MissedRecord {
                        offset: self.last_missed,
                        node: *node,
                        received: *received,
                        entry,
                        from: *from,
                        to: *to,
                        count: *count,
                    });
                }
            }
            Record::Unreadable { node, tag, body, .. } => {
                let body = batch.slice(body).to_vec();
                self.unreadable.entry((*node, tag.outbox, tag.seq)).or_insert(body);
            }
        }
        0
    }

    fn change(&mut self, change: &Change) -> u64 {
        match change {
            Change::Node(record) => {
                for other in self.nodes.values_mut() {
                    other.keys.retain(|held| record.keys.iter().all(|key| key.key != held.key));
                }
                self.nodes.insert(record.id, record.clone());
            }
            Change::Revoked(key) => {
                self.revoked.insert(*key);
            }
            Change::Pardoned(key) => {
                self.revoked.remove(key);
            }
            Change::Schedule(record) => {
                self.schedules.insert(record.scope.clone(), record.clone());
            }
            Change::Trigger(record) => {
                self.triggers.entry(record.run).or_insert_with(|| record.clone());
            }
            Change::Cancelled { run, time, nodes } => {
                if let Some(trigger) = self.triggers.get_mut(run) {
                    trigger.cancelled = Some(*time);
                    trigger.cancelled_nodes.clone_from(nodes);
                }
            }
            Change::Closed { run, tally } => {
                if let Some(trigger) = self.triggers.get_mut(run) {
                    trigger.closed = Some(*tally);
                }
                self.progress.retain(|(of, _), _| of != run);
            }
            Change::Progress(record) => {
                self.progress.insert((record.run, record.node), *record);
            }
            Change::Consumer(record) => {
                self.consumers.insert(record.name.clone(), record.clone());
            }
            Change::NoConsumer(name) => {
                self.consumers.remove(name);
            }
            Change::Audit(record) => {
                self.last_audit += 1;
                self.audit.push(AuditRecord { offset: self.last_audit, ..record.clone() });
            }
            Change::Sweep(what) => return self.sweep(what),
        }
        0
    }

    fn sweep(&mut self, what: &Sweep) -> u64 {
        let Sweep { before, bytes, keep_after, open_since, rows } = *what;
        let mut swept = 0;
        let oversize = self.extent().bytes.saturating_sub(self.partial()) > bytes;
        while swept < u64::from(rows) {
            let Some((&offset, (record, _))) = self.results.first_key_value() else { break };
            let old = oversize || record.received < before;
            let trigger = self.triggers.get(&record.run);
            let open = trigger.is_some_and(|t| t.closed.is_none() && t.submitted > open_since);
            if offset > keep_after || offset == self.newest || !old || open {
                break;
            }
            let (run, node, attempt) = (record.run, record.node, record.attempt);
            self.keys.remove(&(run, node, attempt, record.source));
            self.chunks.retain(|key, _| (key.0, key.1, key.2) != (run, node, attempt));
            self.results.remove(&offset);
            swept += 1;
        }
        self.audit.retain(|record| record.time >= before);
        self.missed.retain(|record| record.received >= before);
        self.triggers.retain(|_, trigger| trigger.submitted >= before || trigger.closed.is_none());
        self.awaiting.retain(|_, (received, _)| *received >= before);
        let stale = UnixMillis(before.0.saturating_sub(LATE_MS));
        let Self { chunks, keys, awaiting, .. } = self;
        chunks.retain(|(run, node, attempt, _), (received, _)| {
            let told = [Source::Node, Source::Hub].map(|by| (*run, *node, *attempt, by));
            *received >= stale
                || told.iter().any(|key| keys.contains_key(key))
                || awaiting.contains_key(&(*run, *node, *attempt))
        });
        swept
    }

    /// Bytes of output whose run has no result.
    fn partial(&self) -> u64 {
        let told = |(run, node, attempt, _): &(RunId, NodeId, u32, u32)| {
            self.keys.contains_key(&(*run, *node, *attempt, Source::Node))
        };
        let unclaimed = self.chunks.iter().filter(|(key, _)| !told(key));
        unclaimed.map(|(_, (_, bytes))| bytes.len() as u64).sum()
    }

    fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Results { after, limit, jobs, nodes, scan } => {
                self.page(*after, *limit, jobs, nodes, *scan)
            }
            Query::Run { run, after, limit } => self.run(*run, *after, *limit as usize),
            Query::Triggers { before, limit, job, node } => {
                let before = before.unwrap_or(RunId([0xff; 16]));
                let wanted = |trigger: &&TriggerRecord| {
                    job.as_ref().is_none_or(|job| trigger.job == *job)
                        && node.is_none_or(|node| trigger.nodes.contains(&node))
                };
                let rows = self.triggers.range(..before).rev().map(|(_, trigger)| trigger);
                Answer::Triggers(rows.filter(wanted).take(*limit as usize).cloned().collect())
            }
            Query::Chunks { run, node, attempt, from, bytes } => {
                self.output_page(*run, *node, *attempt, *from, *bytes as usize)
            }
            Query::Held { run, node, attempt } => Answer::Held {
                run: *run,
                node: *node,
                attempt: *attempt,
                held: self.held(*run, *node, *attempt),
            },
            Query::Missed { before, limit, node } => {
                let before = before.unwrap_or(u64::MAX);
                let rows = self.missed.iter().rev().filter(|record| {
                    record.offset < before && node.is_none_or(|node| record.node == node)
                });
                Answer::Missed(rows.take(*limit as usize).cloned().collect())
            }
            Query::Audit { before, limit } => {
                let before = before.unwrap_or(u64::MAX);
                let rows = self.audit.iter().rev().filter(|record| record.offset < before);
                Answer::Audit(rows.take(*limit as usize).cloned().collect())
            }
        }
    }

    fn page(&self, after: u64, limit: u32, jobs: &[Name], nodes: &[NodeId], scan: u32) -> Answer {
        let (mut rows, mut scanned) = (Vec::new(), after);
        let from = after.saturating_add(1);
        for (offset, (record, job)) in self.results.range(from..).take(scan as usize) {
            scanned = *offset;
            let wanted = (jobs.is_empty() || jobs.iter().any(|name| **name == **job))
                && (nodes.is_empty() || nodes.contains(&record.node));
            if wanted {
                rows.push(self.shown(record));
                if rows.len() >= limit as usize {
                    break;
                }
            }
        }
        Answer::Results { rows, scanned }
    }

    fn run(&self, run: RunId, after: Option<NodeId>, limit: usize) -> Answer {
        let trigger = self.triggers.get(&run).cloned();
        let own: BTreeSet<NodeId> = match &trigger {
            Some(trigger) => trigger.nodes.iter().copied().collect(),
            None => self.keys.keys().filter(|key| key.0 == run).map(|key| key.1).collect(),
        };
        let mut nodes: Vec<NodeId> =
            own.into_iter().filter(|node| after.is_none_or(|after| *node > after)).collect();
        let more = nodes.len() > limit;
        nodes.truncate(limit);
        let rows = self.keys.iter().filter(|(key, _)| key.0 == run && nodes.contains(&key.1));
        let rows = rows.map(|(_, offset)| self.shown(&self.results[offset].0)).collect();
        let next = if more { nodes.last().copied() } else { None };
        Answer::Run { trigger, rows, next }
    }

    fn output_page(
        &self,
        run: RunId,
        node: NodeId,
        attempt: Option<u32>,
        from: u32,
        bytes: usize,
    ) -> Answer {
        let of = |key: (RunId, NodeId)| key == (run, node);
        let attempt = attempt.unwrap_or_else(|| {
            let results = self.keys.keys().filter(|key| of((key.0, key.1))).map(|key| key.2);
            let chunks = self.chunks.keys().filter(|key| of((key.0, key.1))).map(|key| key.2);
            results.chain(chunks).max().unwrap_or(0)
        });
        let (mut chunks, mut size) = (Vec::new(), 0);
        for (index, chunk) in self.chunks_from(run, node, attempt, from) {
            size += chunk.len();
            if !chunks.is_empty() && size > bytes {
                break;
            }
            chunks.push((index, chunk.clone()));
        }
        let key = |source| self.keys.get(&(run, node, attempt, source));
        let result = key(Source::Node).or_else(|| key(Source::Hub));
        let result = result.map(|offset| self.shown(&self.results[offset].0));
        Answer::Chunks { attempt, chunks, result }
    }

    fn shown(&self, record: &ResultRecord) -> ResultRecord {
        let inferred = (record.run, record.node, record.attempt, Source::Hub);
        let revised = record.source == Source::Node && self.keys.contains_key(&inferred);
        ResultRecord { revised, ..record.clone() }
    }
}

impl Store for Memory {
    fn back_up(
        &mut self,
        _: &std::path::Path,
        _: &mut super::Between<'_>,
    ) -> Result<u64, StoreError> {
        Err(StoreError::Failing("a store in memory has no file to copy".to_owned()))
    }

    fn restore(&mut self) -> Result<Restored, StoreError> {
        let alive =
            |trigger: &&TriggerRecord| trigger.closed.is_none_or(|tally| tally.inferred > 0);
        let triggers = self.triggers.values().filter(alive).map(|trigger| {
            let run = trigger.run;
            let results = self.keys.iter().filter(|(key, _)| key.0 == run);
            RestoredTrigger {
                trigger: trigger.clone(),
                progress: self.progress.values().filter(|p| p.run == run).copied().collect(),
                results: results
                    .map(|(key, offset)| (key.1, key.2, key.3, self.results[offset].0.outcome))
                    .collect(),
            }
        });
        let awaiting = self.awaiting.iter().map(|(key, (received, body))| AwaitingRecord {
            run: key.0,
            node: key.1,
            attempt: key.2,
            received: *received,
            body: body.clone(),
            held: self.held(key.0, key.1, key.2),
        });
        Ok(Restored {
            identity: self.identity,
            nodes: self.nodes.values().cloned().collect(),
            revoked: self.revoked.iter().copied().collect(),
            schedules: self.schedules.values().cloned().collect(),
            triggers: triggers.collect(),
            recent: self.triggers.keys().rev().take(super::RECENT_RUNS).copied().collect(),
            awaiting: awaiting.collect(),
            consumers: self.consumers.values().cloned().collect(),
            newest: self
                .results
                .values()
                .next_back()
                .map_or(UnixMillis(0), |(result, _)| result.received),
            extent: self.extent(),
        })
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if let Some(why) = &self.failing {
            return Err(StoreError::Failing(why.clone()));
        }
        let swept = batch.changes().iter().map(|change| self.change(change)).sum();
        let fresh = batch.records().iter().map(|record| self.record(batch, record)).sum();
        let answers = batch.queries().iter().map(|query| self.answer(query)).collect();
        Ok(Committed { extent: self.extent(), answers, fresh, swept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn the_model_does_what_the_conformance_test_asks_for() {
        let mut kept = Memory::new(conformance::identity());
        conformance::passes_kept(&mut kept);
    }
}
