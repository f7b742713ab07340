//! Requests of clients: read, checked against rights, handed to what they ask for.

use fieldpost_wire::RunId;
use serde::Serialize;

use super::assembly::Execution;
use super::clients::Rights;
use super::pipeline::{Ready, ReplyTo};
use super::waiters::Reader;
use super::{Answer, Hub, Side, Who};
use crate::config::Role;
use crate::protocol::{self, Envelope, REQUEST_ID, Refusal, Submit, write_ok, write_refusal};
use crate::store::{AuditRecord, Change, NodeId};

/// What to do with an answer of the store.
#[derive(Debug)]
pub enum Ask {
    /// Complete a `Finished` that waits.
    Held(Execution),
    /// Reply to `runs` with a run id.
    Run(ReplyTo, Box<Rights>, Option<NodeId>),
    /// Reply to `runs` without one.
    Runs(ReplyTo, Box<Rights>, u32),
    /// Reply to `output`.
    Chunks(ReplyTo, Box<Rights>, RunId, u32),
    /// Go on with an `output` that names no node.
    OutputOf(ReplyTo, Box<Rights>, Box<protocol::Output>),
    /// Reply to `results`, or wait on.
    Results(Reader),
    /// Reply to `schedule.missed`.
    Missed(ReplyTo, Box<Rights>),
    /// Reply to `audit`.
    Audit(ReplyTo),
    /// Go on with a `submit` whose run may have been triggered before.
    Submit(ReplyTo, Box<Rights>, Box<Submit>),
}

impl Ask {
    /// Who waits for the answer.
    pub fn into_reply_to(self) -> Option<ReplyTo> {
        match self {
            Self::Held(_) => None,
            Self::Run(to, ..)
            | Self::Runs(to, ..)
            | Self::Chunks(to, ..)
            | Self::OutputOf(to, ..)
            | Self::Missed(to, ..)
            | Self::Audit(to)
            | Self::Submit(to, ..) => Some(to),
            Self::Results(reader) => Some(reader.to),
        }
    }
}

impl Hub {
    pub(super) fn request(&mut self, who: Who<'_>, peer: &[u8], frame: &[u8]) {
        self.counters.requests += 1;
        let side = match who {
            Who::Local => Side::Local,
            Who::Key(_) => Side::Remote,
        };
        let mut to = ReplyTo { side, peer: peer.into(), id: "null".into() };
        if frame.len() > protocol::FRAME {
            let what = format!(
                "the request has {} bytes: a frame holds at most {}",
                frame.len(),
                protocol::FRAME
            );
            return self.refuse(&to, &Refusal::new("too_large", what));
        }
        let is_object = frame.trim_ascii_start().first() == Some(&b'{');
        let envelope: Envelope<'_> = match serde_json::from_slice(frame) {
            // serde takes an array for an object's values in order.
            Ok(_) if !is_object => {
                self.counters.bad_requests += 1;
                let what = "a request is one JSON object with \"id\" and \"op\"";
                return self.refuse(&to, &Refusal::new("bad_request", what));
            }
            Ok(envelope) => envelope,
            Err(error) => {
                self.counters.bad_requests += 1;
                let what = format!("a request is one JSON object with \"id\" and \"op\": {error}");
                return self.refuse(&to, &Refusal::new("bad_request", what));
            }
        };
        match envelope.id.map(serde_json::value::RawValue::get) {
            Some(id) if id.len() <= REQUEST_ID => to.id = id.into(),
            Some(_) => {
                let refusal = Refusal::new("bad_request", "the id is longer than 64 bytes");
                return self.refuse(&to, &refusal);
            }
            None => {}
        }
        let Some(rights) = self.clients.rights(who) else {
            let what = "this key is no client's any more; the hub's configuration says who is one";
            return self.refuse(&to, &Refusal::new("not_allowed", what));
        };
        if self.stopping {
            return self.refuse(&to, &stopping());
        }
        self.dispatch(&envelope.op, &to, &rights, frame);
    }

    fn dispatch(&mut self, op: &str, to: &ReplyTo, rights: &Rights, frame: &[u8]) {
        let (role, changes) = match op {
            "runs" | "output" | "nodes" | "nodes.show" | "schedule.get" | "schedule.missed"
            | "results" | "results.commit" | "status" => (Role::Read, false),
            "submit" | "cancel" => (Role::Trigger, true),
            "audit" => (Role::Admin, false),
            "nodes.accept" | "nodes.import" | "nodes.rekey" | "nodes.revoke" | "schedule.set"
            | "schedule.clear" | "backup" => (Role::Admin, true),
            _ => {
                self.counters.bad_requests += 1;
                let what = format!("unknown op {op:?}; docs/CLIENT_PROTOCOL.md lists them");
                return self.refuse(to, &Refusal::new("unknown_op", what));
            }
        };
        let done = rights.need(role, op).and_then(|()| match op {
            "submit" => self.submit(to, rights, protocol::read(frame)?),
            "cancel" => self.cancel(to, rights, protocol::read(frame)?),
            "runs" => self.runs(to, rights, protocol::read(frame)?),
            "output" => self.output_page(to, rights, protocol::read(frame)?),
            "nodes" => self.nodes_list(to, rights, protocol::read(frame)?),
            "nodes.show" => self.nodes_show(to, rights, protocol::read(frame)?),
            "nodes.accept" => self.nodes_accept(to, rights, protocol::read(frame)?),
            "nodes.import" => self.nodes_import(to, rights, protocol::read(frame)?),
            "nodes.rekey" => self.nodes_rekey(to, rights, protocol::read(frame)?),
            "nodes.revoke" => self.nodes_revoke(to, rights, protocol::read(frame)?),
            "schedule.get" => self.schedule_get(to, rights, protocol::read(frame)?),
            "schedule.set" => self.schedule_set(to, rights, protocol::read(frame)?),
            "schedule.clear" => self.schedule_clear(to, rights, protocol::read(frame)?),
            "schedule.missed" => self.missed_page(to, rights, &protocol::read(frame)?),
            "results" => self.results(to, rights, protocol::read(frame)?),
            "results.commit" => self.results_commit(to, rights, protocol::read(frame)?),
            "status" => self.status(to, protocol::read(frame)?),
            "backup" => self.back_up(to, rights, &protocol::read(frame)?),
            _ => self.audit_page(to, protocol::read(frame)?),
        });
        if let Err(refusal) = done {
            self.counters.refused += 1;
            if changes && self.counters.may_audit_refusal(self.time.moment()) {
                let (place, origin) = subject(frame);
                self.audit(rights, op, &place, refusal.code, &origin);
            }
            self.refuse(to, &refusal);
        }
    }

    pub(super) fn answered(&mut self, ask: Ask, answer: Answer) {
        match (ask, answer) {
            (Ask::Held(execution), Answer::Held { held, .. }) => {
                if let Some(waiting) = self.assembly.held(execution, &held) {
                    self.complete_waiting(execution.node, &waiting);
                }
            }
            (Ask::Run(to, rights, after), Answer::Run { trigger, rows, next }) => {
                self.answer_run((&to, &rights, after), trigger, &rows, next);
            }
            (Ask::Runs(to, rights, limit), Answer::Triggers(rows)) => {
                self.answer_runs(&to, &rights, &rows, limit);
            }
            (Ask::Chunks(to, rights, run, from), Answer::Chunks { attempt, chunks, result }) => {
                let whose = (&to, &*rights, run, from);
                self.answer_output(whose, attempt, &chunks, result.as_ref());
            }
            (Ask::Results(reader), Answer::Results { rows, scanned }) => {
                self.answer_results(reader, &rows, scanned);
            }
            (Ask::Missed(to, rights), Answer::Missed(rows)) => {
                self.answer_missed(&to, &rights, &rows);
            }
            (Ask::Audit(to), Answer::Audit(rows)) => self.answer_audit(&to, &rows),
            (Ask::Submit(to, rights, submit), Answer::Run { trigger, rows, .. }) => {
                let done = self.submit_known(&to, &rights, *submit, trigger.as_ref(), &rows);
                if let Err(refusal) = done {
                    self.refuse(&to, &refusal);
                }
            }
            (Ask::OutputOf(to, rights, output), Answer::Run { trigger, rows, .. }) => {
                let known = (trigger.as_ref(), &rows[..]);
                if let Err(refusal) = self.output_of_only(&to, &rights, &output, known) {
                    self.refuse(&to, &refusal);
                }
            }
            (ask, _) => {
                log::error!("the store answered something else than it was asked");
                if let Some(to) = ask.into_reply_to() {
                    self.refuse(&to, &Refusal::new("internal", "the store's answer is not right"));
                }
            }
        }
    }

    pub(super) fn reply(&mut self, to: &ReplyTo, fields: &impl Serialize) {
        let json = self.outputs.write(|out| write_ok(out, &to.id, fields));
        self.outputs.reply(to.side, &to.peer, &json);
    }

    /// A reply that follows the commit of what was just changed.
    pub(super) fn reply_durably(&mut self, to: &ReplyTo, fields: &impl Serialize) {
        let mut json = Vec::with_capacity(256);
        write_ok(&mut json, &to.id, fields);
        self.pipeline.reply_after(Ready { to: to.clone(), json });
    }

    pub(super) fn refuse(&mut self, to: &ReplyTo, refusal: &Refusal) {
        let json = self.outputs.write(|out| write_refusal(out, &to.id, refusal));
        self.outputs.reply(to.side, &to.peer, &json);
    }

    pub(super) fn audit(
        &mut self,
        rights: &Rights,
        what: &str,
        place: &str,
        outcome: &str,
        origin: &str,
    ) {
        self.pipeline.change(Change::Audit(AuditRecord {
            offset: 0,
            time: self.time.time(),
            who: rights.name.clone(),
            what: what.to_owned(),
            place: place.to_owned(),
            outcome: outcome.to_owned(),
            origin: origin.to_owned(),
        }));
    }

    pub(super) fn store_refusal(&self) -> Refusal {
        let why = self.pipeline.failing.as_deref().unwrap_or("it does not answer");
        Refusal::new(
            "store_unavailable",
            format!("the hub can't make this durable now: {why}; ask again with the same run_id"),
        )
    }

    /// Whether changes can be made durable.
    pub(super) fn need_store(&self) -> Result<(), Refusal> {
        if self.pipeline.failing.is_some() { Err(self.store_refusal()) } else { Ok(()) }
    }
}

/// What a refused request was about, for the audit trail: as the client says it, cut short.
fn subject(frame: &[u8]) -> (String, String) {
    const MOST: usize = 128;
    let request: serde_json::Value = serde_json::from_slice(frame).unwrap_or_default();
    let text = |name: &str| match &request[name] {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let cut = |text: String| text.chars().filter(|c| !c.is_control()).take(MOST).collect();
    let place: Vec<String> =
        ["run_id", "job", "node", "key", "select"].into_iter().filter_map(text).collect();
    (cut(place.join(" ")), cut(text("origin").unwrap_or_default()))
}

/// The hub is ending.
pub fn stopping() -> Refusal {
    Refusal::new("stopping", "the hub is stopping; ask again in a moment")
}

/// Whether an origin can go to a device's log.
pub fn check_origin(origin: &str) -> Result<(), Refusal> {
    let most = fieldpost_wire::limits::ORIGIN;
    if origin.len() > most {
        let what = format!("the origin has {} bytes: at most {most} are allowed", origin.len());
        return Err(Refusal::new("bad_request", what));
    }
    if origin.chars().any(char::is_control) {
        return Err(Refusal::new("bad_request", "the origin contains a control character"));
    }
    Ok(())
}

/// How many of these rows fit a frame, serialized.
pub fn how_many_fit<T: Serialize>(rows: &[T]) -> usize {
    how_many_fit_beside(0, rows)
}

/// How many of these rows fit a frame beside so many bytes, serialized.
pub fn how_many_fit_beside<T: Serialize>(taken: usize, rows: &[T]) -> usize {
    /// What is left for the rest of the answer.
    const REST: usize = 4 * 1024;
    let mut room = (protocol::FRAME - REST).saturating_sub(taken);
    rows.iter()
        .take_while(|row| {
            let length = serde_json::to_string(row).map_or(usize::MAX, |text| text.len() + 1);
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        })
        .count()
}
