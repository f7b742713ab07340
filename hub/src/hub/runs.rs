//! `submit`, `cancel`, `runs`, `output`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fieldpost_wire::{Name, RunId, limits};
use serde::{Deserialize, Serialize};

use super::clients::Rights;
use super::events::{About, emit_durable};
use super::pipeline::ReplyTo;
use super::requests::{Ask, check_origin, how_many_fit};
use super::waiters::RunWaiter;
use super::{Hub, context, schedules};
use crate::protocol::{
    self, Cancel, LONGEST_WAIT_MS, MOST_ROWS, Refusal, ResultRow, Runs, Select, State, Submit,
    Until, result_row,
};
use crate::store::{Batch, Change, NodeId, Query, ResultRecord, Source, Tally, TriggerRecord};

/// Names of nodes in a reply.
const MOST_NAMES: usize = 100;
/// How far ahead of the hub's time a client's run id may lie, in milliseconds.
const AHEAD_MS: u64 = 60 * 60 * 1000;
/// Output in one page, before base64.
const OUTPUT_BYTES: u32 = 32 * 1024;

/// What a submit says; kept as JSON with the trigger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The job.
    pub job: String,
    /// Its arguments.
    pub args: BTreeMap<String, String>,
    /// On which nodes.
    pub select: Option<Select>,
    /// How long it may take until it starts.
    pub ttl_ms: u64,
    /// Who asked.
    pub origin: String,
}

impl Content {
    fn of(submit: &Submit) -> Self {
        Self {
            job: submit.job.to_string(),
            args: submit.args.clone(),
            select: Some(submit.select.clone()),
            ttl_ms: submit.ttl_ms,
            origin: submit.origin.clone(),
        }
    }

    /// Whether it asks for the same run. A repeated submit may come from elsewhere, and later.
    fn is_same(&self, other: &Self) -> bool {
        (&self.job, &self.args, &self.select) == (&other.job, &other.args, &other.select)
    }
}

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

/// A node's row of a run.
#[derive(Serialize)]
struct NodeRow<'a> {
    node: &'a str,
    #[serde(rename = "final")]
    is_final: bool,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultRow<'a>>,
}

impl Hub {
    pub(super) fn submit(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        submit: Submit,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_submit(&submit)?;
        let Some(run) = submit.run_id else {
            return self.submit_new(to, rights, submit);
        };
        self.check_run_id(run)?;
        match self.triggers.is_new(&run) {
            Some(true) => self.submit_new(to, rights, submit),
            _ => {
                // Answered after whatever is being written now.
                let query = Query::Run { run, after: None, limit: 1 };
                let ask = Ask::Submit(to.clone(), Box::new(rights.clone()), Box::new(submit));
                self.pipeline.ask(query, ask);
                Ok(())
            }
        }
    }

    fn check_run_id(&self, run: RunId) -> Result<(), Refusal> {
        if run.0[6] >> 4 != 7 {
            return Err(Refusal::new(
                "bad_run_id",
                format!("{run} is no UUIDv7; leave run_id out, or make one of this moment"),
            ));
        }
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&run.0[..6]);
        let ms = u64::from_be_bytes(ms);
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
    pub(super) fn repeated(
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

    /// A run that was never triggered: on its way to the nodes before it is stored, and told to
    /// the client after.
    pub(super) fn submit_new(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        submit: Submit,
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
        self.triggers.submit(&mut cx, record, args, submit.origin.clone());
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
        self.pipeline.reply_after(super::pipeline::Ready { to: to.clone(), json });
        Ok(())
    }

    /// Tells of the triggers of a committed batch. Not before: a client that waits for a result
    /// would be woken on its way there.
    pub(super) fn tell_submitted(&mut self, batch: &Batch) {
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

    pub(super) fn cancel(
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

    pub(super) fn runs(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        runs: Runs,
    ) -> Result<(), Refusal> {
        let limit = runs.limit.clamp(1, MOST_ROWS);
        let node = runs.node.as_deref().map(|name| self.node_named(name)).transpose()?;
        let Some(run) = runs.run_id else {
            let job = runs.job.as_deref().map(parse_name).transpose()?;
            let query = Query::Triggers { before: runs.before, limit, job, node };
            self.pipeline.ask(query, Ask::Runs(to.clone(), Box::new(rights.clone()), limit));
            return Ok(());
        };
        let after = runs.after.as_deref().map(|name| self.node_named(name)).transpose()?;
        let query = Query::Run { run, after, limit };
        let open = self.triggers.get(&run).is_some_and(|trigger| trigger.open > 0);
        if runs.until == Some(Until::Final) && runs.wait_ms > 0 && open {
            if !self.waiters.has_room() {
                return Err(Refusal::new("busy", "too many requests wait; ask again later"));
            }
            let until = self.time.moment().plus_ms(runs.wait_ms.min(LONGEST_WAIT_MS));
            let rights = Box::new(rights.clone());
            self.waiters.add_run(RunWaiter { to: to.clone(), rights, run, after, limit, until });
            return Ok(());
        }
        self.pipeline.ask(query, Ask::Run(to.clone(), Box::new(rights.clone()), after));
        Ok(())
    }

    /// Runs that ended: who waits for them asks the store, in the batch that holds their end.
    pub(super) fn answer_closed(&mut self) {
        while let Some(run) = self.closed.pop() {
            for waiter in self.waiters.take_run(run) {
                self.ask_run(waiter);
            }
        }
    }

    /// Who waited long enough is told how the run stands.
    pub(super) fn ask_run(&mut self, waiter: RunWaiter) {
        let query = Query::Run { run: waiter.run, after: waiter.after, limit: waiter.limit };
        self.pipeline.ask(query, Ask::Run(waiter.to, waiter.rights, waiter.after));
    }

    /// Whether a limited client may see a run.
    pub(super) fn sees_run(&self, rights: &Rights, run: &RunId) -> bool {
        self.triggers.get(run).is_some_and(|trigger| self.sees(rights, &trigger.record, true))
    }

    /// Whether it may see the job and some node of it; or every node.
    fn sees(&self, rights: &Rights, record: &TriggerRecord, every: bool) -> bool {
        let sees = |id: &NodeId| rights.node(self.nodes.get(*id));
        rights.job(&record.job)
            && match every {
                true => record.nodes.iter().all(sees),
                false => rights.all_nodes() || record.nodes.iter().any(sees),
            }
    }

    pub(super) fn answer_run(
        &mut self,
        (to, rights, after): (&ReplyTo, &Rights, Option<NodeId>),
        trigger: Option<TriggerRecord>,
        results: &[ResultRecord],
        next: Option<NodeId>,
    ) {
        let Some(first) = trigger.as_ref().map(|t| t.run).or(results.first().map(|r| r.run)) else {
            let refusal = Refusal::new(
                "unknown_run",
                "this run is not known: it was never triggered, or is older than what is kept; \
                 `fieldpost runs` lists them",
            );
            return self.refuse(to, &refusal);
        };
        if let Some(trigger) = &trigger
            && !self.sees(rights, trigger, false)
        {
            let refusal = job_not_allowed(rights, &trigger.job);
            return self.refuse(to, &refusal);
        }
        let page = page_nodes(trigger.as_ref(), results, after, next);
        let open = self.triggers.get(&first);
        let rows: Vec<NodeRow<'_>> = page
            .iter()
            .filter_map(|id| {
                let node = self.nodes.find(*id).filter(|node| rights.node(node))?;
                let of_node = results.iter().filter(|row| row.node == *id);
                // The last attempt, and of it the node's own word.
                let best = of_node.max_by_key(|row| (row.attempt, row.source == Source::Node));
                let target = open.and_then(|trigger| trigger.target_ref(*id));
                let is_open = target.is_some_and(|target| {
                    !target.is_final() || best.is_none_or(|row| row.attempt < target.attempt)
                });
                let result = best.filter(|_| !is_open);
                let result = result.and_then(|row| result_row(row, &node.record.name));
                if result.as_ref().is_some_and(|row| !rights.job(row.job)) {
                    return None;
                }
                Some(NodeRow {
                    node: &node.record.name,
                    is_final: result.is_some() || !is_open && trigger_closed(trigger.as_ref()),
                    attempt: match (&result, target) {
                        (Some(row), _) => row.attempt,
                        (None, Some(target)) => target.attempt,
                        (None, None) => 0,
                    },
                    state: match &result {
                        Some(_) => None,
                        None => Some(target.map_or(State::Waiting, |target| target.word())),
                    },
                    result,
                })
            })
            .collect();
        let fit = how_many_fit(&rows);
        let rows = &rows[..fit.max(1).min(rows.len())];
        let cut = rows.last().filter(|_| fit < page.len()).map(|row| row.node);
        let next = cut.or_else(|| next.map(|id| &*self.nodes.get(id).record.name));
        let mut fields = match &trigger {
            Some(record) => self.head(record),
            None => serde_json::json!({ "run_id": first }),
        };
        // At the top `ok` is the envelope's.
        if let Some(fields) = fields.as_object_mut() {
            let tally = ["ok", "failed", "open"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), fields.remove(name)?)))
                .collect::<serde_json::Map<_, _>>();
            fields.insert("tally".to_owned(), tally.into());
        }
        fields["final"] = trigger.as_ref().is_none_or(|t| t.closed.is_some()).into();
        fields["nodes"] = serde_json::to_value(rows).unwrap_or_default();
        fields["next"] = next.into();
        self.reply(to, &fields);
    }

    /// A trigger as lists show it.
    fn head(&self, record: &TriggerRecord) -> serde_json::Value {
        let content: Content = serde_json::from_str(&record.request).unwrap_or_default();
        let count = u32::try_from(record.nodes.len()).unwrap_or(u32::MAX);
        let (tally, open) = match (record.closed, self.triggers.get(&record.run)) {
            (Some(tally), _) => (tally, 0),
            (None, Some(trigger)) => (trigger.tally, trigger.open),
            (None, None) => (Tally::default(), count),
        };
        serde_json::json!({
            "run_id": record.run,
            "job": &*record.job,
            "args": content.args,
            "select": content.select,
            "client": record.client,
            "origin": content.origin,
            "submitted_ms": record.submitted.0,
            "deadline_ms": record.deadline.0,
            "cancelled_ms": record.cancelled.map(|time| time.0),
            "count": count,
            "ok": tally.ok,
            "failed": tally.failed,
            "open": open,
        })
    }

    pub(super) fn answer_runs(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        records: &[TriggerRecord],
        limit: u32,
    ) {
        let seen: Vec<_> = records
            .iter()
            .filter(|record| self.sees(rights, record, false))
            .map(|record| self.head(record))
            .collect();
        let fit = how_many_fit(&seen);
        let more = fit < seen.len() || records.len() >= limit as usize;
        let last = match fit < seen.len() {
            true => fit.checked_sub(1).map(|at| seen[at]["run_id"].clone()),
            false => records.last().map(|record| record.run.to_string().into()),
        };
        let next = last.filter(|_| more);
        self.reply(to, &serde_json::json!({ "runs": seen[..fit], "next": next }));
    }

    pub(super) fn output_page(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        output: protocol::Output,
    ) -> Result<(), Refusal> {
        let Some(name) = &output.node else {
            // If the run was on one node only, it is that one.
            let query = Query::Run { run: output.run_id, after: None, limit: 2 };
            let ask = Ask::OutputOf(to.clone(), Box::new(rights.clone()), Box::new(output));
            self.pipeline.ask(query, ask);
            return Ok(());
        };
        let node = self.node_named(name)?;
        self.output_of(to, rights, &output, node)
    }

    /// Output was asked for of a run that is on these nodes.
    pub(super) fn output_of_only(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        output: &protocol::Output,
        (trigger, results): (Option<&TriggerRecord>, &[ResultRecord]),
    ) -> Result<(), Refusal> {
        match page_nodes(trigger, results, None, None)[..] {
            [] => Err(unknown_run(output.run_id)),
            [node] => self.output_of(to, rights, output, node),
            _ => Err(Refusal::new(
                "bad_request",
                "node is missing: the run is on several; `fieldpost runs RUN_ID` shows which",
            )),
        }
    }

    fn output_of(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        output: &protocol::Output,
        node: NodeId,
    ) -> Result<(), Refusal> {
        let run = output.run_id;
        if !rights.node(self.nodes.get(node)) {
            return Err(Refusal::new(
                "not_allowed",
                format!(
                    "the client {:?} may not see {}; it is limited to {}",
                    rights.name,
                    self.nodes.get(node).record.name,
                    rights.selectors_in_words()
                ),
            ));
        }
        let query = Query::Chunks {
            run,
            node,
            attempt: output.attempt,
            from: output.from,
            bytes: OUTPUT_BYTES,
        };
        let ask = Ask::Chunks(to.clone(), Box::new(rights.clone()), run, output.from);
        self.pipeline.ask(query, ask);
        Ok(())
    }

    pub(super) fn answer_output(
        &mut self,
        (to, rights, run, from): (&ReplyTo, &Rights, RunId, u32),
        attempt: u32,
        chunks: &[(u32, Vec<u8>)],
        result: Option<&ResultRecord>,
    ) {
        if rights.jobs().is_some() {
            let of_result = result.and_then(|record| result_row(record, ""));
            let of_trigger = self.triggers.get(&run).map(|trigger| &*trigger.record.job);
            let job = of_result.as_ref().map(|row| row.job).or(of_trigger);
            if !job.is_some_and(|job| rights.job(job)) {
                let refusal = job_not_allowed(rights, job.unwrap_or("of this run"));
                return self.refuse(to, &refusal);
            }
        }
        let reached = chunks.last().map_or(from, |(index, _)| index + 1);
        let total = result.and_then(|record| {
            let row = result_row(record, "")?;
            Some((row.chunk_count(), row.output_dropped()))
        });
        let complete = total.is_some();
        let next = match total {
            // Nothing more will come.
            Some((_, true)) if chunks.is_empty() => None,
            Some((total, _)) if reached >= total => None,
            Some(_) if chunks.is_empty() => None,
            _ => Some(reached),
        };
        let rows: Vec<_> = chunks
            .iter()
            .map(|(index, bytes)| {
                serde_json::json!({ "index": index, "data": BASE64_STANDARD.encode(bytes) })
            })
            .collect();
        let fields = serde_json::json!({
            "attempt": attempt, "chunks": rows, "next": next, "complete": complete,
        });
        self.reply(to, &fields);
    }

    /// The node of this name.
    pub(super) fn node_named(&self, name: &str) -> Result<NodeId, Refusal> {
        self.nodes.by_name(name).ok_or_else(|| {
            let near = self.nodes.similar(name);
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let hint = "`fieldpost nodes` lists them";
            Refusal::new("unknown_node", format!("no node is named {name:?}{near}; {hint}"))
        })
    }

    pub(super) fn unknown_group(&self, group: &str) -> Refusal {
        let mut groups: Vec<&str> =
            self.nodes.iter().flat_map(|n| n.record.groups.iter().map(|g| &**g)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(20);
        let there = if groups.is_empty() { "there is none".to_owned() } else { groups.join(", ") };
        Refusal::new("unknown_group", format!("no node is in the group {group:?}; groups: {there}"))
    }
}

/// The nodes of a page of a run.
fn page_nodes(
    trigger: Option<&TriggerRecord>,
    results: &[ResultRecord],
    after: Option<NodeId>,
    next: Option<NodeId>,
) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = results.iter().map(|row| row.node).collect();
    if let Some(trigger) = trigger {
        nodes.extend(&trigger.nodes);
    }
    nodes.sort_unstable();
    nodes.dedup();
    if let Some(after) = after {
        nodes.retain(|node| *node > after);
    }
    if let Some(next) = next {
        nodes.retain(|node| *node <= next);
    }
    nodes
}

fn trigger_closed(trigger: Option<&TriggerRecord>) -> bool {
    trigger.is_some_and(|trigger| trigger.closed.is_some())
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

fn unusable(node: &super::nodes::Node) -> Refusal {
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

pub(super) fn job_not_allowed(rights: &Rights, job: &str) -> Refusal {
    let jobs: Vec<&str> = rights.jobs().unwrap_or_default().iter().map(|job| &**job).collect();
    Refusal::new(
        "not_allowed",
        format!(
            "the client {:?} may not use the job {job}; it is limited to {}",
            rights.name,
            if jobs.is_empty() { rights.selectors_in_words() } else { jobs.join(", ") }
        ),
    )
}

fn unknown_run(run: RunId) -> Refusal {
    Refusal::new("unknown_run", format!("the run {run} was never triggered here"))
}

pub(super) fn parse_name(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(|bad| Refusal::new("bad_request", format!("the name {text:?} {bad}")))
}

pub(super) fn select_in_words(select: &Select) -> String {
    let list = |what: &str, names: &[String]| {
        let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(",");
        let more = if names.len() > 5 { ",…" } else { "" };
        format!("{what}:{shown}{more}")
    };
    match select {
        Select::All(_) => "all".to_owned(),
        Select::Groups(names) => list("group", names),
        Select::Nodes(names) => list("node", names),
    }
}
