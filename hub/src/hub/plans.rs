//! `schedule.get`, `schedule.set`, `schedule.clear`, `schedule.missed`.

use fieldpost_wire::limits;
use serde_json::{Value, json};

use super::clients::Rights;
use super::pipeline::ReplyTo;
use super::requests::{Ask, check_origin, how_many_fit};
use super::runs::{parse_name, select_in_words};
use super::{Hub, schedules};
use crate::protocol::{EntryJson, MOST_ROWS, Missed, Refusal, ScheduleOf, ScheduleSet, Select};
use crate::store::{Change, MissedRecord, NodeId, Query, Scope};

impl Hub {
    pub(super) fn schedule_get(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: ScheduleOf,
    ) -> Result<(), Refusal> {
        let row = |scope: &Scope, entries: &[EntryJson], changed_ms: u64| json!({ "select": select_of(scope), "entries": entries, "changed_ms": changed_ms });
        let rows: Vec<Value> = match &request.select {
            Some(select) => self
                .scopes(select)?
                .iter()
                .map(|scope| {
                    let (entries, changed) = self.schedules.of_scope(scope);
                    row(scope, entries, changed.0)
                })
                .collect(),
            None => self
                .schedules
                .list()
                .filter(|(scope, ..)| self.sees_scope(rights, scope))
                .map(|(scope, entries, changed)| row(scope, entries, changed.0))
                .collect(),
        };
        if let Some(select) = &request.select
            && self.scopes(select)?.iter().any(|scope| !self.sees_scope(rights, scope))
        {
            return Err(rights.limited());
        }
        let fit = how_many_fit(&rows);
        if fit < rows.len() {
            return Err(Refusal::new(
                "too_large",
                "the schedules are more than one answer holds; ask with a select",
            ));
        }
        self.reply(to, &json!({ "schedules": rows }));
        Ok(())
    }

    pub(super) fn missed_page(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: &Missed,
    ) -> Result<(), Refusal> {
        let node = match &request.node {
            None => None,
            Some(name) => {
                let id = self.node_named(name)?;
                if !rights.node(self.nodes.get(id)) {
                    return Err(self.node_hidden(rights, id));
                }
                Some(id)
            }
        };
        let limit = request.limit.clamp(1, MOST_ROWS);
        let query = Query::Missed { before: request.before, limit, node };
        self.pipeline.ask(query, Ask::Missed(to.clone(), Box::new(rights.clone())));
        Ok(())
    }

    pub(super) fn answer_missed(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        records: &[MissedRecord],
    ) {
        let seen = records.iter().filter(|record| rights.node(self.nodes.get(record.node)));
        let rows: Vec<Value> = seen
            .map(|record| {
                json!({
                    "offset": record.offset, "node": &*self.nodes.get(record.node).record.name,
                    "entry": record.entry, "from_ms": record.from.0, "to_ms": record.to.0,
                    "count": record.count, "received_ms": record.received.0,
                })
            })
            .collect();
        let fit = how_many_fit(&rows);
        let next = match rows[..fit].last() {
            Some(row) if fit < rows.len() => row["offset"].as_u64(),
            // Those that this client may not see were looked at, too.
            _ => records.last().map(|record| record.offset),
        };
        self.reply(to, &json!({ "missed": &rows[..fit], "next": next }));
    }

    fn sees_scope(&self, rights: &Rights, scope: &Scope) -> bool {
        match scope {
            _ if rights.all_nodes() => true,
            Scope::All => false,
            Scope::Group(group) => {
                self.nodes.iter().filter(|node| node.is_in(group)).all(|node| rights.node(node))
            }
            Scope::Node(name) => {
                self.nodes.by_name(name).is_some_and(|id| rights.node(self.nodes.get(id)))
            }
        }
    }

    pub(super) fn schedule_set(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: ScheduleSet,
    ) -> Result<(), Refusal> {
        check_origin(&request.origin)?;
        let entries = schedules::check(request.entries)?;
        self.set_schedule(to, rights, "schedule.set", &request.select, &entries, &request.origin)
    }

    pub(super) fn schedule_clear(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: ScheduleOf,
    ) -> Result<(), Refusal> {
        check_origin(&request.origin)?;
        let Some(select) = &request.select else {
            let what = "select says whose schedule is cleared";
            return Err(Refusal::new("bad_request", what));
        };
        self.set_schedule(to, rights, "schedule.clear", select, &[], &request.origin)
    }

    fn set_schedule(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        op: &str,
        select: &Select,
        entries: &[EntryJson],
        origin: &str,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        let scopes = self.scopes(select)?;
        if let Some(entry) = entries.iter().find(|entry| !rights.job(&entry.job)) {
            return Err(super::runs::job_not_allowed(rights, &entry.job));
        }
        if scopes.iter().any(|scope| !self.sees_scope(rights, scope)) {
            return Err(rights.limited());
        }
        let affected = self.affected(&scopes);
        let before: Vec<_> = scopes
            .iter()
            .map(|scope| (scope.clone(), self.schedules.of_scope(scope).0.to_vec()))
            .collect();
        let time = self.time.time();
        let mut records = Vec::new();
        for scope in &scopes {
            records.extend(self.schedules.set(scope, entries.to_vec(), time));
        }
        let mut room = vec![0; limits::BODY];
        for id in &affected {
            if let Err(refusal) = self.schedules.encode(self.nodes.get(*id), &mut room) {
                // As it was; the counters have moved on, which harms nobody.
                for (scope, entries) in before {
                    if let Some(record) = self.schedules.set(&scope, entries, time) {
                        self.pipeline.change(Change::Schedule(record));
                    }
                }
                self.schedules_changed(&affected);
                return Err(refusal);
            }
        }
        let changed = !records.is_empty();
        for record in records {
            self.pipeline.change(Change::Schedule(record));
        }
        if changed {
            self.schedules_changed(&affected);
        }
        self.audit(rights, op, &select_in_words(select), "ok", origin);
        let count = affected.len();
        let notes = self.doubts(&scopes, &affected, entries);
        self.reply_durably(to, &json!({ "count": count, "changed": changed, "notes": notes }));
        Ok(())
    }

    /// What is right as it is, and yet may be a slip: a group without nodes, a job that a node
    /// does not offer.
    fn doubts(&self, scopes: &[Scope], affected: &[NodeId], entries: &[EntryJson]) -> Vec<String> {
        let mut notes = Vec::new();
        for scope in scopes {
            if let Scope::Group(group) = scope
                && !self.nodes.has_group(group)
            {
                notes.push(format!("no node is in the group {group} yet"));
            }
        }
        for entry in entries {
            let lacking: Vec<&str> = affected
                .iter()
                .map(|id| self.nodes.get(*id))
                .filter(|node| node.offers(&entry.job) == Some(false))
                .map(|node| &*node.record.name)
                .collect();
            if let [first, ..] = lacking[..] {
                let more = match lacking.len() - 1 {
                    0 => String::new(),
                    n => format!(" and {n} more"),
                };
                notes.push(format!(
                    "the entry {}: {first}{more} has no job {}; each due run there is rejected",
                    entry.id, entry.job
                ));
            }
        }
        notes
    }

    /// The schedules of these nodes changed: they are told once the batch that is being filled is
    /// durable.
    pub(super) fn schedules_changed(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            self.schedules.changed(*id, self.pipeline.batch.number());
        }
    }

    /// What changed up to this batch is durable. Nodes that are there are told at once; the others
    /// after their `Hello`.
    pub(super) fn hand_over_settled(&mut self, batch: u64) {
        for id in self.schedules.settle(batch) {
            let node = self.nodes.get(id);
            if let Some(greeting) = &node.greeting {
                let held = node.vitals.as_ref().map_or(greeting.schedule, |v| v.schedule);
                self.hand_over_schedule(id, held);
            }
        }
    }

    fn affected(&self, scopes: &[Scope]) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| {
                scopes.iter().any(|scope| match scope {
                    Scope::All => true,
                    Scope::Group(group) => node.is_in(group),
                    Scope::Node(name) => *name == node.record.name,
                })
            })
            .map(|node| node.record.id)
            .collect()
    }

    /// A selector's scopes. A group may still be empty: its schedule waits for its nodes.
    fn scopes(&self, select: &Select) -> Result<Vec<Scope>, Refusal> {
        let mut scopes = match select {
            Select::All(true) => vec![Scope::All],
            Select::All(false) => {
                return Err(Refusal::new("bad_request", "select: expected {\"all\": true}"));
            }
            Select::Groups(groups) => groups
                .iter()
                .map(|group| parse_name(group).map(Scope::Group))
                .collect::<Result<Vec<_>, _>>()?,
            Select::Nodes(names) => names
                .iter()
                .map(|name| {
                    let id = self.node_named(name)?;
                    Ok(Scope::Node(self.nodes.get(id).record.name.clone()))
                })
                .collect::<Result<Vec<_>, _>>()?,
        };
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(Refusal::new("bad_request", "select names nobody"));
        }
        Ok(scopes)
    }
}

fn select_of(scope: &Scope) -> Select {
    match scope {
        Scope::All => Select::All(true),
        Scope::Group(name) => Select::Groups(vec![name.to_string()]),
        Scope::Node(name) => Select::Nodes(vec![name.to_string()]),
    }
}
