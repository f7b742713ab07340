//! `results`, `results.commit`, `audit`.

use fieldpost_wire::Name;
use serde_json::json;

use super::clients::Rights;
use super::pipeline::ReplyTo;
use super::requests::{Ask, how_many_fit, stopping};
use super::runs::parse_name;
use super::waiters::Reader;
use super::{Hub, NodeId, Query};
use crate::config::Role;
use crate::protocol::{
    Audit, LONGEST_WAIT_MS, MOST_ROWS, Refusal, Results, ResultsCommit, result_row,
};
use crate::store::{AuditRecord, Change, ConsumerRecord, ResultRecord};

/// Consumers that are remembered: each may hold retention back, and a person looks at the list.
const MOST_CONSUMERS: usize = 1_000;
/// Of those, made by one client that is no admin: it is not to take up the others' room.
const MOST_OF_ONE: usize = 100;
/// A node id that no node has: a filter that lets nothing through.
const NOBODY: NodeId = NodeId(0);

impl Hub {
    pub(super) fn results(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: Results,
    ) -> Result<(), Refusal> {
        let consumer = request.consumer.as_deref().map(parse_name).transpose()?;
        let committed = consumer.as_ref().and_then(|name| self.consumers.get(name));
        let after = request.after.or(committed.map(|record| record.offset)).unwrap_or(0);
        if let Some(name) = &consumer {
            self.seen(name, rights);
        }
        let mut jobs =
            request.jobs.iter().map(|job| parse_name(job)).collect::<Result<Vec<_>, _>>()?;
        if let Some(job) = jobs.iter().find(|job| !rights.job(job)) {
            return Err(super::runs::job_not_allowed(rights, job));
        }
        if let Some(own) = rights.jobs()
            && jobs.is_empty()
        {
            jobs = own.to_vec();
        }
        let mut nodes =
            request.nodes.iter().map(|n| self.node_named(n)).collect::<Result<Vec<_>, _>>()?;
        if let Some(id) = nodes.iter().find(|id| !rights.node(self.nodes.get(**id))) {
            return Err(self.node_hidden(rights, *id));
        }
        let mut limited = None;
        if nodes.is_empty() && !rights.all_nodes() {
            nodes = self.seen_by(rights);
            limited = Some((Box::new(rights.clone()), self.nodes.version()));
        }
        if request.wait_ms > 0 && !self.waiters.has_room() {
            return Err(Refusal::new("busy", "too many requests wait; ask again later"));
        }
        let until = self.time.moment().plus_ms(request.wait_ms.min(LONGEST_WAIT_MS));
        let limit = request.limit.clamp(1, MOST_ROWS);
        let reader = Reader { to: to.clone(), after, limit, jobs, nodes, limited, until };
        self.pipeline.ask(reader.query(), Ask::Results(reader));
        Ok(())
    }

    /// A consumer reads, also where there is nothing to commit: it is not idle. Written down once an hour.
    fn seen(&mut self, name: &Name, rights: &Rights) {
        const HOUR_MS: u64 = 60 * 60 * 1000;
        let time = self.time.time();
        if self.owner_of(name, rights, false).is_err() || self.pipeline.failing.is_some() {
            return;
        }
        if let Some(record) = self.consumers.get_mut(name)
            && time.ms_since(record.seen) >= HOUR_MS
        {
            record.seen = time;
            self.pipeline.change(Change::Consumer(record.clone()));
        }
    }

    fn seen_by(&self, rights: &Rights) -> Vec<NodeId> {
        let seen = self.nodes.iter().filter(|node| rights.node(node));
        seen.map(|node| node.record.id).chain([NOBODY]).collect()
    }

    pub(super) fn answer_results(
        &mut self,
        mut reader: Reader,
        records: &[ResultRecord],
        scanned: u64,
    ) {
        // Nodes have come or changed their groups since it asked: what these said may have been passed over.
        if let Some((rights, version)) = &mut reader.limited
            && *version != self.nodes.version()
        {
            *version = self.nodes.version();
            let rights = rights.clone();
            reader.nodes = self.seen_by(&rights);
            return self.pipeline.ask(reader.query(), Ask::Results(reader));
        }
        let waits = reader.until > self.time.moment() && !self.stopping;
        if records.is_empty() && waits {
            reader.after = reader.after.max(scanned);
            // More may have been passed over than one look takes, or have come meanwhile.
            if scanned < self.extent.newest {
                return self.pipeline.ask(reader.query(), Ask::Results(reader));
            }
            return self.waiters.add_reader(reader);
        }
        let rows: Vec<_> = records
            .iter()
            .filter_map(|record| {
                let node = self.nodes.find(record.node)?;
                result_row(record, &node.record.name)
            })
            .collect();
        let fit = how_many_fit(&rows).max(1).min(rows.len());
        let next = match rows.get(fit) {
            Some(_) => rows[fit - 1].offset.unwrap_or(scanned),
            None => scanned,
        };
        let fields = json!({
            "results": &rows[..fit],
            "next": next,
            "newest": self.extent.newest,
            "oldest": self.extent.oldest,
        });
        self.reply(&reader.to, &fields);
    }

    pub(super) fn results_commit(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: ResultsCommit,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        let name = request.consumer;
        let owner = self.owner_of(&name, rights, request.offset.is_some())?;
        let Some(offset) = request.offset else {
            let known = self.consumers.remove(&name).is_some();
            self.pipeline.change(Change::NoConsumer(name.clone()));
            self.audit(rights, "results.commit", &name, "consumer removed", "");
            self.reply_durably(to, &json!({ "consumer": &*name, "known": known }));
            return Ok(());
        };
        if offset > self.extent.newest {
            return Err(Refusal::new(
                "bad_request",
                format!(
                    "offset {offset} is beyond the newest result, which is {}",
                    self.extent.newest
                ),
            ));
        }
        if !self.consumers.contains_key(&name) && self.consumers.len() >= MOST_CONSUMERS {
            let what = "there are 1000 consumers already; commit offset null to remove one";
            return Err(Refusal::new("busy", what));
        }
        let seen = self.time.time();
        let record = ConsumerRecord { name: name.clone(), owner, offset, seen };
        self.consumers.insert(name.clone(), record.clone());
        self.pipeline.change(Change::Consumer(record));
        self.reply_durably(to, &json!({ "consumer": &*name, "offset": offset }));
        Ok(())
    }

    /// Whose consumer this is, or becomes; refused where it is not this client's to move.
    fn owner_of(&self, name: &Name, rights: &Rights, new: bool) -> Result<String, Refusal> {
        let admin = rights.need(Role::Admin, "results.commit").is_ok();
        if let Some(known) = self.consumers.get(name) {
            if admin || known.owner == rights.name {
                return Ok(known.owner.clone());
            }
            let what = format!(
                "the consumer {name} is {}'s: only that client or an admin may move or remove it",
                known.owner
            );
            return Err(Refusal::new("not_allowed", what));
        }
        let own = self.consumers.values().filter(|known| known.owner == rights.name).count();
        if new && !admin && own >= MOST_OF_ONE {
            let what = format!(
                "{} has {MOST_OF_ONE} consumers already; commit offset null to remove one",
                rights.name
            );
            return Err(Refusal::new("busy", what));
        }
        Ok(rights.name.clone())
    }

    pub(super) fn audit_page(&mut self, to: &ReplyTo, request: Audit) -> Result<(), Refusal> {
        let limit = request.limit.clamp(1, MOST_ROWS);
        self.pipeline.ask(Query::Audit { before: request.before, limit }, Ask::Audit(to.clone()));
        Ok(())
    }

    pub(super) fn answer_audit(&mut self, to: &ReplyTo, records: &[AuditRecord]) {
        let rows: Vec<_> = records
            .iter()
            .map(|record| {
                json!({
                    "offset": record.offset, "time_ms": record.time.0, "who": record.who,
                    "what": record.what, "where": record.place, "outcome": record.outcome,
                    "origin": record.origin,
                })
            })
            .collect();
        let fit = how_many_fit(&rows);
        let next = rows[..fit].last().map(|row| row["offset"].clone());
        self.reply(to, &json!({ "entries": &rows[..fit], "next": next }));
    }

    /// The hub ends: who waits is told how things stand.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        let (readers, runs) = self.waiters.take_all();
        for reader in readers {
            self.refuse(&reader.to, &stopping());
        }
        for waiter in runs {
            self.refuse(&waiter.to, &stopping());
        }
        if let Some(to) = self.backup.take() {
            self.refuse(&to, &stopping());
        }
    }
}
