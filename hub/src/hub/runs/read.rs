//! `runs`.

use fieldpost_wire::RunId;
use serde::Serialize;

use super::{Content, job_not_allowed, page_nodes, parse_name};
use crate::hub::Hub;
use crate::hub::clients::Rights;
use crate::hub::pipeline::ReplyTo;
use crate::hub::requests::{Ask, how_many_fit, how_many_fit_beside};
use crate::hub::waiters::RunWaiter;
use crate::protocol::{
    LONGEST_WAIT_MS, MOST_ROWS, Refusal, ResultRow, Runs, Select, State, Until, result_row,
};
use crate::store::{NodeId, Query, ResultRecord, Source, Tally, TriggerRecord};

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
    pub(in crate::hub) fn runs(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        runs: Runs,
    ) -> Result<(), Refusal> {
        let limit = runs.limit.clamp(1, MOST_ROWS);
        let node = runs.node.as_deref().map(|name| self.node_named(name)).transpose()?;
        if let Some(hidden) = node.filter(|id| !rights.node(self.nodes.get(*id))) {
            return Err(self.node_hidden(rights, hidden));
        }
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
    pub(in crate::hub) fn answer_closed(&mut self) {
        while let Some(run) = self.closed.pop() {
            for waiter in self.waiters.take_run(run) {
                self.ask_run(waiter);
            }
        }
    }

    /// Who waited long enough is told how the run stands.
    pub(in crate::hub) fn ask_run(&mut self, waiter: RunWaiter) {
        let query = Query::Run { run: waiter.run, after: waiter.after, limit: waiter.limit };
        self.pipeline.ask(query, Ask::Run(waiter.to, waiter.rights, waiter.after));
    }

    /// Whether a limited client may see a run.
    pub(in crate::hub) fn sees_run(&self, rights: &Rights, run: &RunId) -> bool {
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

    pub(in crate::hub) fn answer_run(
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
                        // It is over, and being stored.
                        None => Some(target.map_or(State::Coming, |target| target.word())),
                    },
                    result,
                })
            })
            .collect();
        let mut fields = match &trigger {
            Some(record) => self.head(record),
            None => serde_json::json!({ "run_id": first }),
        };
        let fit = how_many_fit_beside(fields.to_string().len(), &rows);
        let rows = &rows[..fit.max(1).min(rows.len())];
        let cut = rows.last().filter(|_| fit < page.len()).map(|row| row.node);
        let next = cut.or_else(|| next.map(|id| &*self.nodes.get(id).record.name));
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
            "select": content.select.map(Select::cut),
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

    pub(in crate::hub) fn answer_runs(
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
}

fn trigger_closed(trigger: Option<&TriggerRecord>) -> bool {
    trigger.is_some_and(|trigger| trigger.closed.is_some())
}
