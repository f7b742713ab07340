//! `submit` and `cancel`.

use fieldpost_wire::{Report, RunId, limits};
use serde::Serialize;

use super::{Content, job_not_allowed, select_in_words, unknown_run};
use crate::hub::clients::Rights;
use crate::hub::events::{About, emit_durable};
use crate::hub::pipeline::{Ready, ReplyTo};
use crate::hub::requests::{Ask, check_origin};
use crate::hub::{Hub, context, nodes, schedules};
use crate::protocol::{self, Cancel, Refusal, Select, Submit};
use crate::store::{Batch, Change, NodeId, Query, ResultRecord, TriggerRecord};

/// Names of nodes in a reply.
const MOST_NAMES: usize = 100;
/// How far ahead of the hub's time a client's run id may lie, in milliseconds.
const AHEAD_MS: u64 = 60 * 60 * 1000;
/// How far a client's clock may be ahead and its run ids still be told from those of an earlier start of
/// the hub, in milliseconds.
const SKEW_MS: u64 = 5_000;
/// More nodes than a hub has.
const MOST_NODES: u32 = 1 << 24;

#[derive(Serialize)]
struct Submitted<'a> {
    run_id: RunId,
    count: usize,
    nodes: Vec<&'a str>,
    deadline_ms: u64,
    repeated: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<&'a str>,
}

impl Hub {
    pub(in crate::hub) fn submit(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        submit: Submit,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_submit(&submit)?;
        let Some(run) = submit.run_id else {
            return self.submit_new(to, rights, submit, &[]);
        };
        self.check_run_id(run)?;
        let is_new = self.triggers.is_new(&run);
        if is_new == Some(true) && !self.may_be_of_earlier_start(run) {
            return self.submit_new(to, rights, submit, &[]);
        }
        // Of a run that is known the trigger is all that is needed. Answered after whatever is being
        // written now.
        let limit = if is_new == Some(false) { 1 } else { MOST_NODES };
        let query = Query::Run { run, after: None, limit };
        let ask = Ask::Submit(to.clone(), Box::new(rights.clone()), Box::new(submit));
        self.pipeline.ask(query, ask);
        Ok(())
    }

    /// Whether a run id may have been handed to an earlier start of this hub. If that died before it had
    /// stored the trigger, the nodes may have run it: then results are all that tells of it.
    fn may_be_of_earlier_start(&self, run: RunId) -> bool {
        let up = self.time.moment().ms_since(self.started);
        made_ms(run) < self.time.time().0.saturating_sub(up).saturating_add(SKEW_MS)
    }

    /// Whether nodes may have run this and forgotten it since: they know a run until its first deadline.
    fn may_have_run(&self, run: RunId, ttl_ms: u64) -> bool {
        made_ms(run).saturating_add(ttl_ms) < self.time.time().0
    }

    /// The store says what it knows of a run that was to be triggered.
    pub(in crate::hub) fn submit_known(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        submit: Submit,
        trigger: Option<&TriggerRecord>,
        results: &[ResultRecord],
    ) -> Result<(), Refusal> {
        if let Some(before) = trigger {
            return self.repeated(to, &submit, before);
        }
        // Another client was faster, or a result came meanwhile.
        if submit.run_id.is_some_and(|run| self.pipeline.batch.tells_of(run)) {
            return self.submit(to, rights, submit);
        }
        if submit.run_id.is_some_and(|run| self.may_have_run(run, submit.ttl_ms)) {
            return Err(Refusal::new(
                "too_old",
                "the run id is from before what this hub remembers, and its time to live is over: \
                 whether it ran can't be told; `fieldpost runs ID` shows what came of it, or submit \
                 with a new run_id (if this one is new, this client's clock is behind)"
                    .to_owned(),
            ));
        }
        let job = |row: &ResultRecord| match Report::decode(&row.body) {
            Ok((_, Report::Finished(finished))) => finished.job == &*submit.job,
            Ok(_) | Err(_) => false,
        };
        if !results.iter().all(job) {
            let text = "a run of this id was of another job; use a new run_id".to_owned();
            return Err(Refusal::new("conflict", text));
        }
        self.submit_new(to, rights, submit, results)
    }

    fn check_run_id(&self, run: RunId) -> Result<(), Refusal> {
        if run.0[6] >> 4 != 7 {
            return Err(Refusal::new(
                "bad_run_id",
                format!("{run} is no UUIDv7; leave run_id out, or make one of this moment"),
            ));
        }
        let ms = made_ms(run);
        let now = self.time.time().0;
        let age = u64::try_from(self.settings.retention.age.as_millis()).unwrap_or(u64::MAX);
        if ms.saturating_add(age) < now {
            return Err(Refusal::new(
                "too_old",
                format!(
                    "the run id {run} is older than what is kept: whether it ran can't be told; \
                     submit with a new one"
                ),
            ));
        }
        if ms > now.saturating_add(AHEAD_MS) {
            return Err(Refusal::new(
                "bad_run_id",
                format!("the run id {run} is of a time ahead; is this client's clock right?"),
            ));
        }
        Ok(())
    }

    /// A run that may have been triggered before was.
    fn repeated(
        &mut self,
        to: &ReplyTo,
        submit: &Submit,
        before: &TriggerRecord,
    ) -> Result<(), Refusal> {
        let content: Content = serde_json::from_str(&before.request).unwrap_or_default();
        if !content.is_same(&Content::of(submit)) {
            return Err(Refusal::new(
                "conflict",
                format!(
                    "the run {} was triggered before with another job, arguments or nodes (job \
                     {}); use a new run_id",
                    before.run, before.job
                ),
            ));
        }
        let names = before.nodes.iter().take(MOST_NAMES);
        let names = names.map(|id| &*self.nodes.get(*id).record.name).collect();
        let fields = Submitted {
            run_id: before.run,
            count: before.nodes.len(),
            nodes: names,
            deadline_ms: before.deadline.0,
            repeated: true,
            skipped: Vec::new(),
        };
        let json = self.outputs.write(|out| protocol::write_ok(out, &to.id, &fields));
        self.outputs.reply(to.side, &to.peer, &json);
        Ok(())
    }

    /// A run that was never triggered, or of which `results` are all that is known: on its way to the
    /// other nodes before it is stored, and told to the client after.
    fn submit_new(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        submit: Submit,
        results: &[ResultRecord],
    ) -> Result<(), Refusal> {
        if !rights.job(&submit.job) {
            return Err(job_not_allowed(rights, &submit.job));
        }
        let (nodes, skipped) = self.select(rights, &submit.select)?;
        self.check_offers(&nodes, &submit.job)?;
        let time = self.time.time();
        let run = submit.run_id.unwrap_or_else(|| {
            let mut random = [0; 10];
            self.rng.fill(&mut random);
            RunId::v7(time, random)
        });
        let deadline = time.plus_ms(submit.ttl_ms);
        let request =
            serde_json::to_string(&Content::of(&submit)).expect("our own types serialize");
        let record = TriggerRecord {
            run,
            submitted: time,
            deadline,
            client: rights.name.clone(),
            request,
            job: submit.job.clone(),
            nodes: nodes.clone(),
            cancelled: None,
            cancelled_nodes: Vec::new(),
            closed: None,
        };
        self.pipeline.change(Change::Trigger(record.clone()));
        let args = submit.args.into_iter().collect();
        let mut cx = context!(self);
        self.triggers.submit(&mut cx, record, args, submit.origin.clone(), results);
        self.counters.submitted += 1;
        let place = format!("{} {}", submit.job, select_in_words(&submit.select));
        self.audit(rights, "submit", &place, "ok", &submit.origin);
        let name = |id: &NodeId| &*self.nodes.get(*id).record.name;
        let fields = Submitted {
            run_id: run,
            count: nodes.len(),
            nodes: nodes.iter().take(MOST_NAMES).map(name).collect(),
            deadline_ms: deadline.0,
            repeated: false,
            skipped: skipped.iter().take(MOST_NAMES).map(name).collect(),
        };
        let mut json = Vec::with_capacity(256);
        protocol::write_ok(&mut json, &to.id, &fields);
        self.pipeline.reply_after(Ready { to: to.clone(), json });
        Ok(())
    }

    /// Tells of the triggers of a committed batch. Not before: a client that waits for a result
    /// would be woken on its way there.
    pub(in crate::hub) fn tell_submitted(&mut self, batch: &Batch) {
        if !self.watches.any() {
            return;
        }
        for change in batch.changes() {
            let Change::Trigger(record) = change else { continue };
            let content: Content = serde_json::from_str(&record.request).unwrap_or_default();
            let event = serde_json::json!({
                "run_id": record.run, "job": &*record.job, "count": record.nodes.len(),
                "deadline_ms": record.deadline.0, "client": record.client,
                "origin": content.origin,
            });
            let about = About { run: Some(record.run), node: None, job: Some(&record.job) };
            emit_durable(&mut self.outputs, &self.watches, about, "submitted", &event);
        }
    }

    /// The nodes of a selector that can be triggered, ascending; and those that are passed over.
    fn select(
        &self,
        rights: &Rights,
        select: &Select,
    ) -> Result<(Vec<NodeId>, Vec<NodeId>), Refusal> {
        let (mut nodes, mut skipped) = (Vec::new(), Vec::new());
        match select {
            Select::Nodes(names) => {
                for name in names {
                    let id = self.node_named(name)?;
                    let node = self.nodes.get(id);
                    if !node.is_usable() {
                        return Err(unusable(node));
                    }
                    nodes.push(id);
                }
            }
            Select::Groups(groups) => {
                for group in groups {
                    if !self.nodes.has_group(group) {
                        return Err(self.unknown_group(group));
                    }
                }
                for node in self.nodes.iter().filter(|n| groups.iter().any(|g| n.is_in(g))) {
                    if node.is_usable() { &mut nodes } else { &mut skipped }.push(node.record.id);
                }
            }
            Select::All(true) => {
                for node in self.nodes.iter() {
                    if node.is_usable() { &mut nodes } else { &mut skipped }.push(node.record.id);
                }
            }
            Select::All(false) => {
                return Err(Refusal::new("bad_request", "select: expected {\"all\": true}"));
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        skipped.retain(|id| !self.nodes.get(*id).record.keys.is_empty());
        if nodes.is_empty() {
            return Err(Refusal::new(
                "no_nodes",
                "no node can take it: none is accepted there yet, or all are revoked or \
                 quarantined; `fieldpost nodes` shows them",
            ));
        }
        if let Some(outside) = nodes.iter().find(|id| !rights.node(self.nodes.get(**id))) {
            return Err(Refusal::new(
                "not_allowed",
                format!(
                    "the client {:?} may not trigger {}; it is limited to {}",
                    rights.name,
                    self.nodes.get(*outside).record.name,
                    rights.selectors_in_words()
                ),
            ));
        }
        Ok((nodes, skipped))
    }

    /// Some node must offer the job, or not have said yet what it offers.
    fn check_offers(&self, nodes: &[NodeId], job: &str) -> Result<(), Refusal> {
        if nodes.iter().any(|id| self.nodes.get(*id).offers(job) != Some(false)) {
            return Ok(());
        }
        let mut offered: Vec<&str> = nodes
            .iter()
            .filter_map(|id| self.nodes.get(*id).greeting.as_ref()?.jobs.as_ref())
            .flatten()
            .map(|(name, _)| &**name)
            .collect();
        offered.sort_unstable();
        offered.dedup();
        offered.truncate(20);
        let offered = match offered.is_empty() {
            true => "no job at all".to_owned(),
            false => offered.join(", "),
        };
        let whom = match nodes {
            [one] => format!("{} has", self.nodes.get(*one).record.name),
            _ => "none of the nodes has".to_owned(),
        };
        let no = if nodes.len() == 1 { "no job" } else { "the job" };
        Err(Refusal::new("unknown_job", format!("{whom} {no} {job:?}; offered: {offered}")))
    }

    pub(in crate::hub) fn cancel(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        cancel: Cancel,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_origin(&cancel.origin)?;
        let run = cancel.run_id;
        let nodes =
            cancel.nodes.iter().map(|name| self.node_named(name)).collect::<Result<Vec<_>, _>>()?;
        match self.triggers.get(&run) {
            Some(trigger) => {
                if !rights.job(&trigger.record.job) {
                    return Err(job_not_allowed(rights, &trigger.record.job));
                }
                let all = &trigger.record.nodes;
                let of_run = nodes.iter().find(|id| all.binary_search(id).is_err());
                if let Some(other) = of_run {
                    return Err(Refusal::new(
                        "unknown_node",
                        format!("{run} is not on {}", self.nodes.get(*other).record.name),
                    ));
                }
                let told = if nodes.is_empty() { all } else { &nodes };
                if told.iter().any(|id| !rights.node(self.nodes.get(*id))) {
                    return Err(Refusal::new(
                        "not_allowed",
                        format!("the client {:?} may not cancel {run} everywhere", rights.name),
                    ));
                }
            }
            None if self.triggers.is_new(&run) == Some(true) => return Err(unknown_run(run)),
            None => {}
        }
        let mut cx = context!(self);
        let count = self.triggers.cancel(&mut cx, run, &nodes);
        self.audit(rights, "cancel", &run.to_string(), "ok", &cancel.origin);
        self.reply_durably(to, &serde_json::json!({ "run_id": run, "count": count }));
        Ok(())
    }
}

fn check_submit(submit: &Submit) -> Result<(), Refusal> {
    check_origin(&submit.origin)?;
    schedules::check_args(&submit.args).map_err(|what| Refusal::new("bad_request", what))?;
    if submit.ttl_ms == 0 || submit.ttl_ms > limits::DEADLINE_AHEAD_MS {
        return Err(Refusal::new(
            "bad_request",
            format!(
                "ttl_ms is {}: expected more than 0 and at most {} (24 h)",
                submit.ttl_ms,
                limits::DEADLINE_AHEAD_MS
            ),
        ));
    }
    match &submit.select {
        Select::Nodes(names) | Select::Groups(names) if names.is_empty() => {
            Err(Refusal::new("bad_request", "select names nobody; {\"all\": true} is every node"))
        }
        _ => Ok(()),
    }
}

fn unusable(node: &nodes::Node) -> Refusal {
    let name = &node.record.name;
    if node.record.keys.is_empty() {
        let what = format!("{name} is revoked; `fieldpost nodes accept` lets it in again");
        return Refusal::new("node_revoked", what);
    }
    Refusal::new(
        "node_quarantined",
        format!(
            "{name} is quarantined: two agents use its key; give one a new key (`fieldpost nodes \
             rekey`), or accept it again once only one is left"
        ),
    )
}

/// When a run id was made, by the clock of whoever made it: a UUIDv7 says so.
fn made_ms(run: RunId) -> u64 {
    let mut ms = [0; 8];
    ms[2..].copy_from_slice(&run.0[..6]);
    u64::from_be_bytes(ms)
}
