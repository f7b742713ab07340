//! Reports: from bytes to what they change. The hot path allocates nothing for a report.

use fieldpost_wire::{
    Beacon, Command, Finished, Hello, Missed, Output as OutputReport, Report, Tag, UnixMillis,
    VERSION, Welcome, limits, peek_tag,
};
use serde::Serialize;

use super::assembly::{Execution, Waiting};
use super::events::{About, emit};
use super::nodes::{Greeted, Vitals};
use super::{Door, Hub, context};
use crate::protocol::ResultRow;
use crate::store::{
    AuditRecord, AwaitingRecord, Change, Key, NodeId, Outcome, Query, Record, Source,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Hub {
    pub(super) fn report(&mut self, key: &str, body: &[u8]) {
        self.counters.report_bytes += body.len() as u64;
        let Some(key) = Key::read(key) else { return self.bad_bytes(None, "no key") };
        let Some(id) = self.nodes.by_key(&key, self.time.for_ages()) else {
            return self.unknown_key(key, body);
        };
        self.nodes.get_mut(id).heard = Some((self.time.moment(), self.time.time()));
        match Report::decode(body) {
            Ok((tag, report)) => {
                self.counters.reports += 1;
                let stored = tag.is_some()
                    || matches!(
                        report,
                        Report::Output(_) | Report::Finished(_) | Report::Missed(_)
                    );
                if stored && self.pipeline.failing.is_some() {
                    // Not acked: it comes again.
                    self.counters.unstored += 1;
                    return;
                }
                #[cfg(feature = "planted-bugs")]
                if self.is_taken_for_a_duplicate(id, tag) {
                    return;
                }
                let waits = self.take_in(id, &report, tag, body);
                if let Some(tag) = tag.filter(|_| !waits) {
                    self.ack_later(id, tag);
                }
            }
            Err(error) => match peek_tag(body) {
                Ok(Some(_)) if self.pipeline.failing.is_some() => self.counters.unstored += 1,
                // It would come back for ever: kept as it is, for a version that reads it.
                Ok(Some(tag)) => {
                    self.counters.unreadable += 1;
                    let received = self.time.time();
                    let body = self.pipeline.batch.put(&[body]);
                    self.pipeline.batch.record(Record::Unreadable {
                        node: id,
                        tag,
                        received,
                        body,
                    });
                    self.ack_later(id, tag);
                }
                _ => self.bad_bytes(Some(key), &error.to_string()),
            },
        }
    }

    fn ack_later(&mut self, id: NodeId, tag: Tag) {
        #[cfg(feature = "planted-bugs")]
        if self.settings.bugs.ack_before_commit {
            let mut early = crate::store::Batch::default();
            early.ack(id, tag, None);
            let acks = early.take_acks();
            self.ack(&acks);
            return;
        }
        self.pipeline.ack_after(id, &mut self.nodes.get_mut(id).ack_slot, tag);
    }

    #[cfg(feature = "planted-bugs")]
    fn is_taken_for_a_duplicate(&mut self, id: NodeId, tag: Option<Tag>) -> bool {
        let Some(tag) = tag.filter(|_| self.settings.bugs.dedupe_by_seq) else { return false };
        let highest = &mut self.nodes.get_mut(id).highest;
        // Whose seq it is, is not looked at: that is the fault.
        let duplicate = tag.seq.0 <= highest.1;
        *highest = (tag.outbox, highest.1.max(tag.seq.0));
        if duplicate {
            self.ack_later(id, tag);
        }
        duplicate
    }

    /// Says whether the report waits for others, and is acked with the last of them.
    fn take_in(&mut self, id: NodeId, report: &Report<'_>, tag: Option<Tag>, body: &[u8]) -> bool {
        match report {
            Report::Finished(finished) => {
                return self.finished(id, finished, tag, whole(tag, body));
            }
            Report::Output(output) => self.output(id, output),
            Report::State(state) => {
                let mut cx = context!(self);
                self.triggers.state(&mut cx, id, state);
            }
            Report::Hello(hello) => self.hello(id, hello),
            Report::Heartbeat(heartbeat) => {
                let (moment, time) = (self.time.moment(), self.time.time());
                let boots = &mut self.nodes.get_mut(id).boots;
                boots.learn(heartbeat.boot, heartbeat.boot_ms, moment, time);
                let vitals = Vitals::read(heartbeat, time);
                let held = vitals.schedule;
                self.compare_sent(id, heartbeat.sent_bytes, body.len());
                self.tell_vitals(id, &vitals);
                self.nodes.get_mut(id).vitals = Some(vitals);
                self.hand_over_schedule(id, held);
            }
            Report::Missed(missed) => self.missed(id, missed),
        }
        false
    }

    /// Says whether it waits for its chunks.
    fn finished(
        &mut self,
        id: NodeId,
        finished: &Finished<'_>,
        tag: Option<Tag>,
        body: [&[u8]; 2],
    ) -> bool {
        let execution = Execution { run: finished.run, node: id, attempt: finished.attempt.0 };
        let chunks = if finished.output_dropped { 0 } else { finished.chunks };
        if chunks > 0 && !self.assembly.is_whole(execution, chunks) {
            if !self.assembly.may_wait(execution) {
                return true; // not acked: it comes again, behind its chunks
            }
            self.wait_for_chunks(execution, chunks, tag, body);
            return true;
        }
        let received = self.time.time();
        self.complete(id, finished, body, received);
        false
    }

    fn wait_for_chunks(
        &mut self,
        execution: Execution,
        chunks: u32,
        tag: Option<Tag>,
        body: [&[u8]; 2],
    ) {
        let received = self.time.time();
        let Execution { run, node, attempt } = execution;
        let kept = body.concat().into_boxed_slice();
        let range = self.pipeline.batch.put(&body);
        self.pipeline.batch.record(Record::Awaiting { run, node, attempt, received, body: range });
        self.assembly.wait(execution, Waiting { chunks, received, tag, body: kept });
        // What came before a restart, or was forgotten here, is known there.
        let query = Query::Held { run, node, attempt };
        self.pipeline.ask(query, super::requests::Ask::Held(execution));
        let mut cx = context!(self);
        self.triggers.coming(&mut cx, node, run, attempt);
    }

    /// A result is whole: stored, and told.
    fn complete(
        &mut self,
        id: NodeId,
        finished: &Finished<'_>,
        body: [&[u8]; 2],
        received: UnixMillis,
    ) {
        let outcome = Outcome::from(finished.status);
        let source = Source::Node;
        let boots = &self.nodes.get(id).boots;
        // It did not start after its end came: what is known of the boot may be a little late.
        let corrected = boots.time(finished.boot, finished.started_boot_ms);
        let corrected = corrected.map(|started| started.min(received));
        // An earlier `Finished` of it may wait for chunks that will not come any more.
        let run = finished.run;
        let waited = self.assembly.forget(Execution { run, node: id, attempt: finished.attempt.0 });
        let batch = &mut self.pipeline.batch;
        let job = batch.put(&[finished.job.as_bytes()]);
        let body = batch.put(&body);
        batch.record(Record::Result {
            run: finished.run,
            node: id,
            attempt: finished.attempt.0,
            source,
            outcome,
            received,
            corrected,
            job,
            body,
            chunked: finished.chunks > 0 || waited,
        });
        self.fresh_results = true;
        let mut cx = context!(self);
        let revised = self.triggers.finished(&mut cx, id, finished).unwrap_or(false);
        if self.watches.any() {
            let name = &self.nodes.get(id).record.name;
            let mut row = ResultRow::new(name, finished, outcome, source, received);
            row.revised = revised;
            row.started_corrected_ms = corrected.map(|time| time.0);
            let about =
                About { run: Some(finished.run), node: Some(name), job: Some(finished.job) };
            emit(&mut self.outputs, &self.watches, about, "result", &row);
        }
    }

    /// A `Finished` that waited has all its chunks.
    pub(super) fn complete_waiting(&mut self, id: NodeId, waiting: &Waiting) {
        if let Ok((_, Report::Finished(finished))) = Report::decode(&waiting.body) {
            self.complete(id, &finished, [&waiting.body, &[]], waiting.received);
            if let Some(tag) = waiting.tag {
                self.ack_later(id, tag);
            }
        }
    }

    fn output(&mut self, id: NodeId, output: &OutputReport<'_>) {
        let execution = Execution { run: output.run, node: id, attempt: output.attempt.0 };
        let received = self.time.time();
        let batch = &mut self.pipeline.batch;
        let bytes = batch.put(&[output.bytes]);
        batch.record(Record::Chunk {
            run: output.run,
            node: id,
            attempt: output.attempt.0,
            received,
            index: output.index,
            bytes,
        });
        self.counters.chunks += 1;
        if self.watches.any() {
            self.tell_output(id, output);
        }
        if let Some(waiting) = self.assembly.chunk(execution, output.index) {
            self.complete_waiting(id, &waiting);
        }
    }

    fn tell_output(&mut self, id: NodeId, output: &OutputReport<'_>) {
        #[derive(Serialize)]
        struct Told<'a> {
            run_id: fieldpost_wire::RunId,
            node: &'a str,
            attempt: u32,
            index: u32,
            bytes: usize,
        }
        let node = &*self.nodes.get(id).record.name;
        let told = Told {
            run_id: output.run,
            node,
            attempt: output.attempt.0,
            index: output.index,
            bytes: output.bytes.len(),
        };
        let about = About { run: Some(output.run), node: Some(node), job: None };
        emit(&mut self.outputs, &self.watches, about, "output", &told);
    }

    fn missed(&mut self, id: NodeId, missed: &Missed<'_>) {
        let received = self.time.time();
        let batch = &mut self.pipeline.batch;
        let entry = batch.put(&[missed.entry.as_bytes()]);
        let (from, to, count) = (missed.from, missed.to, missed.count);
        batch.record(Record::Missed { node: id, received, entry, from, to, count });
        let json = serde_json::json!({
            "entry": missed.entry, "from_ms": from.0, "to_ms": to.0, "count": count,
        });
        self.tell_node(id, "missed", json);
    }

    fn hello(&mut self, id: NodeId, hello: &Hello<'_>) {
        let moment = self.time.moment();
        let node = self.nodes.get_mut(id);
        let greeted = node.greet(hello, moment);
        let start = node.greeting.as_ref().map_or(hello.start, |greeting| greeting.start);
        if greeted == Greeted::New && node.before.is_some() {
            self.upkeep.probe_later(id, moment);
        }
        if greeted == Greeted::Alternates && node.record.quarantined.is_none() {
            self.quarantine(id);
        }
        if !hello.partial && self.nodes.get(id).record.regrouped == 0 {
            self.adopt_groups(id);
        }
        self.welcome(id);
        self.hand_over_schedule(id, hello.schedule);
        let mut cx = context!(self);
        self.triggers.greeted(&mut cx, id, start);
        if greeted != Greeted::Again {
            let json = serde_json::json!({ "start": start, "agent": hello.agent });
            self.tell_node(id, "hello", json);
        }
    }

    /// Two agents that stay connected don't say `Hello`, and the probe may be lost on the way to one of
    /// them: but what their heartbeats say does not fit together.
    fn compare_sent(&mut self, id: NodeId, sent_before: u64, bytes: usize) {
        let moment = self.time.moment();
        let node = self.nodes.get_mut(id);
        let sent = sent_before.saturating_add(bytes as u64);
        if std::mem::replace(&mut node.sent_bytes, sent) > sent_before
            && node.record.quarantined.is_none()
        {
            self.upkeep.probe_later(id, moment);
        }
    }

    fn quarantine(&mut self, id: NodeId) {
        #[cfg(feature = "planted-bugs")]
        if self.settings.bugs.no_quarantine {
            return;
        }
        let time = self.time.time();
        let node = self.nodes.get_mut(id);
        node.record.quarantined = Some(time);
        let record = node.record.clone();
        let name = record.name.clone();
        log::warn!(
            "{name}: two agents use its key; it gets no triggers until one of them has a key of \
             its own (`fieldpost nodes rekey`, or `nodes accept` again)"
        );
        self.pipeline.change(Change::Node(record));
        self.pipeline.change(Change::Audit(AuditRecord {
            offset: 0,
            time,
            who: name.to_string(),
            what: "quarantine".to_owned(),
            place: name.to_string(),
            outcome: "two agents use its key".to_owned(),
            origin: String::new(),
        }));
        self.tell_node(id, "quarantined", serde_json::json!({}));
    }

    /// The hub's record of its groups starts as what the node proposes.
    fn adopt_groups(&mut self, id: NodeId) {
        let counter = self.schedules.next_counter();
        let node = self.nodes.get_mut(id);
        let Some(greeting) = &node.greeting else { return };
        node.record.groups.clone_from(&greeting.groups);
        node.record.groups.sort();
        node.record.groups.dedup();
        node.record.regrouped = counter;
        let record = node.record.clone();
        self.nodes.regrouped();
        self.pipeline.change(Change::Node(record));
        self.schedules_changed(&[id]);
    }

    pub(super) fn welcome(&mut self, id: NodeId) {
        let node = self.nodes.get(id);
        let Some(greeting) = &node.greeting else { return };
        let welcome = Command::Welcome(Welcome {
            hub: self.identity.hub,
            start: self.settings.start,
            agent_start: greeting.start,
            time: self.time.time(),
            wire: VERSION,
            schedule: self.schedules.version(node),
        });
        let mut body = [0; 128];
        let body = welcome.encode(&mut body).expect("a welcome has some 80 bytes");
        self.outputs.publish(&node.topic, body);
    }

    pub(super) fn beacon(&self, start: fieldpost_wire::StartId) -> ([u8; 64], usize) {
        let beacon =
            Command::Beacon(Beacon { hub: self.identity.hub, start, time: self.time.time() });
        let mut body = [0; 64];
        let length = beacon.encode(&mut body).expect("a beacon has some 50 bytes").len();
        (body, length)
    }

    pub(super) fn beacon_to(&mut self, id: NodeId, start: fieldpost_wire::StartId) {
        let (body, length) = self.beacon(start);
        self.outputs.publish(&self.nodes.get(id).topic, &body[..length]);
    }

    pub(super) fn hand_over_schedule(&mut self, id: NodeId, held: fieldpost_wire::ScheduleVersion) {
        let node = self.nodes.get(id);
        if !self.schedules.is_due(node, held) {
            return;
        }
        let version = self.schedules.version(node);
        // No counter is much later than the clock, whatever a node says.
        let possible = self.time.time().0.saturating_add(DAY_MS);
        if held.epoch == version.epoch
            && (version.counter + 1..possible).contains(&held.counter)
            && self.pipeline.failing.is_none()
        {
            log::warn!("{} has a later schedule than this store: it is replaced", node.record.name);
            let (counter, schedule) = self.schedules.rise_above(held);
            if let Some(record) = schedule {
                self.pipeline.change(Change::Schedule(record));
            }
            let node = self.nodes.get_mut(id);
            node.record.regrouped = counter;
            let record = node.record.clone();
            self.pipeline.change(Change::Node(record));
            return self.schedules_changed(&[id]);
        }
        let mut body = vec![0; limits::BODY];
        match self.schedules.encode(node, &mut body) {
            Ok(body) => self.outputs.publish(&node.topic, body),
            // Each schedule was checked when it was set; a later change of groups may add up.
            Err(refusal) => log::warn!("{refusal}"),
        }
    }

    fn tell_vitals(&mut self, id: NodeId, vitals: &Vitals) {
        if self.watches.any() {
            self.tell_node(id, "heartbeat", vitals.json.clone());
        }
    }

    pub(super) fn tell_node(&mut self, id: NodeId, event: &str, mut json: serde_json::Value) {
        if !self.watches.any() {
            return;
        }
        let node = &*self.nodes.get(id).record.name;
        json["node"] = node.into();
        let about = About { run: None, node: Some(node), job: None };
        emit(&mut self.outputs, &self.watches, about, event, &json);
    }

    fn unknown_key(&mut self, key: Key, body: &[u8]) {
        if self.nodes.is_revoked(&key) || self.nodes.holder(&key).is_some() {
            self.counters.unauthorised += 1;
            return;
        }
        if body.len() > limits::FIRST_HELLO {
            return self.bad_bytes(Some(key), "an unknown key may only say Hello, in 512 B");
        }
        match Report::decode(body) {
            Ok((None, Report::Hello(hello))) => {
                let most = self.settings.limits.pending_nodes;
                if self.nodes.wait(key, &hello, self.time.time(), most) {
                    log::info!("a node claims to be {:?} and waits to be accepted", hello.node);
                }
            }
            Ok(_) => self.counters.unauthorised += 1,
            Err(error) => self.bad_bytes(Some(key), &error.to_string()),
        }
    }

    pub(super) fn bad_message(&mut self, door: Door, key: Option<&str>) {
        let what = match door {
            Door::Triggers => "a message for the commands' socket that is no subscription",
            Door::Results => "a report that is not one frame",
            Door::Clients => "a request that is not one frame",
            Door::Events => "a message for the events' socket that is no subscription",
        };
        self.bad_bytes(key.and_then(Key::read), what);
    }

    fn bad_bytes(&mut self, key: Option<Key>, what: &str) {
        self.counters.bad_bytes += 1;
        if self.counters.may_log(key, self.time.moment()) {
            let who = match key {
                Some(key) => match self.nodes.holder(&key) {
                    Some(id) => self.nodes.get(id).record.name.to_string(),
                    None => key.as_str().to_owned(),
                },
                None => "somebody".to_owned(),
            };
            log::warn!("{who} sent bytes that are no message: {what}");
        }
    }

    pub(super) fn restore_awaiting(&mut self, record: AwaitingRecord) {
        let Ok((_, Report::Finished(finished))) = Report::decode(&record.body) else { return };
        let (chunks, id) = (finished.chunks, record.node);
        let execution = Execution { run: record.run, node: record.node, attempt: record.attempt };
        let (run, attempt) = (record.run, record.attempt);
        self.assembly.restore(record, chunks);
        let mut cx = context!(self);
        self.triggers.coming(&mut cx, id, run, attempt);
        // All of it may have been there before the result was written.
        if let Some(waiting) = self.assembly.held(execution, &[]) {
            self.complete_waiting(id, &waiting);
        }
    }
}

/// A report's body as it is stored: without its tag, so that two copies are the same.
fn whole(tag: Option<Tag>, body: &[u8]) -> [&[u8]; 2] {
    const HEADER: [u8; 2] = [VERSION, 0];
    let skipped = match tag {
        None => 2,
        Some(tag) => 2 + 16 + varint_length(tag.seq.0),
    };
    [&HEADER, body.get(skipped..).unwrap_or_default()]
}

fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldpost_wire::{OutboxId, Seq};

    #[test]
    fn a_body_is_stored_without_its_tag() {
        for seq in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let missed = Missed {
                entry: "a",
                from: fieldpost_wire::UnixMillis(1),
                to: fieldpost_wire::UnixMillis(2),
                count: 2,
            };
            let tag = Tag { outbox: OutboxId([9; 16]), seq: Seq(seq) };
            let mut room = [0; 128];
            let body = Report::Missed(missed).encode(Some(tag), &mut room).unwrap();
            let stored = whole(Some(tag), body).concat();
            assert_eq!(Report::decode(&stored).unwrap(), (None, Report::Missed(missed)));
        }
    }
}
