//! `output`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fieldpost_wire::RunId;

use super::{job_not_allowed, page_nodes, unknown_run};
use crate::hub::Hub;
use crate::hub::clients::Rights;
use crate::hub::pipeline::ReplyTo;
use crate::hub::requests::{Ask, how_many_fit};
use crate::protocol::{self, Refusal, result_row};
use crate::store::{NodeId, Query, ResultRecord, TriggerRecord};

/// Output in one page, before base64.
const OUTPUT_BYTES: u32 = 32 * 1024;

impl Hub {
    pub(in crate::hub) fn output_page(
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
    pub(in crate::hub) fn output_of_only(
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
            return Err(self.node_hidden(rights, node));
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

    pub(in crate::hub) fn answer_output(
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
        let rows: Vec<_> = chunks
            .iter()
            .map(|(index, bytes)| {
                serde_json::json!({ "index": index, "data": BASE64_STANDARD.encode(bytes) })
            })
            .collect();
        // Of short chunks there are many, and each costs more than its bytes.
        let rows = &rows[..how_many_fit(&rows)];
        let chunks = &chunks[..rows.len()];
        let reached = chunks.last().map_or(Some(from), |(index, _)| index.checked_add(1));
        let total = result.and_then(|record| {
            let row = result_row(record, "")?;
            Some(row.chunk_count())
        });
        let complete = total.is_some();
        let next = match total {
            // Nothing more will come.
            Some(_) if chunks.is_empty() => None,
            // Of a run that was lost there may be more than its end says.
            Some(total) if reached == Some(total) => None,
            _ => reached,
        };
        let fields = serde_json::json!({
            "attempt": attempt, "chunks": rows, "next": next, "complete": complete,
        });
        self.reply(to, &fields);
    }
}
