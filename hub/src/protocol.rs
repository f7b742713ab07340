//! The client protocol: one JSON object a frame. `docs/CLIENT_PROTOCOL.md` describes it.
//!
//! Here are its words: requests as they are read, answers as they are written. What they do is
//! the core's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use fieldpost_wire::{Name, RunId};
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

mod rows;

pub use rows::{ResultRow, State, result_row};

/// The longest frame, either way.
pub const FRAME: usize = 60 * 1024;
/// The longest id of a request, in bytes of JSON.
pub const REQUEST_ID: usize = 64;
/// The longest time a request may wait, in milliseconds.
pub const LONGEST_WAIT_MS: u64 = 10 * 60 * 1000;
/// Most rows in one answer.
pub const MOST_ROWS: u32 = 1_000;

/// What a request says before its fields are looked at.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// Its id; the reply carries it.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// What is wanted.
    #[serde(borrow, default)]
    pub op: Cow<'a, str>,
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            #[serde(default, rename = "id")]
            _id: IgnoredAny,
            #[serde(rename = "op")]
            _op: IgnoredAny,
            $($(#[$field_doc])* pub $field: $kind,)*
        }
    )*};
}

requests! {
    /// `submit`
    Submit {
        /// The client's own id for the run.
        #[serde(default, deserialize_with = "maybe_run")]
        run_id: Option<RunId>,
        /// The job.
        #[serde(deserialize_with = "name")]
        job: Name,
        /// Its arguments.
        #[serde(default)]
        args: BTreeMap<String, String>,
        /// On which nodes.
        select: Select,
        /// How long it may take until it starts, in milliseconds.
        #[serde(default = "one_minute")]
        ttl_ms: u64,
        /// Who asks, for the device's log.
        #[serde(default)]
        origin: String,
    }
    /// `cancel`
    Cancel {
        /// The run.
        #[serde(deserialize_with = "run")]
        run_id: RunId,
        /// Only on these nodes.
        #[serde(default)]
        nodes: Vec<String>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `runs`
    Runs {
        /// Only this one, with its nodes.
        #[serde(default, deserialize_with = "maybe_run")]
        run_id: Option<RunId>,
        /// At most so many runs, or nodes of one.
        #[serde(default = "fifty")]
        limit: u32,
        /// Runs older than this one.
        #[serde(default, deserialize_with = "maybe_run")]
        before: Option<RunId>,
        /// Nodes after this one.
        #[serde(default)]
        after: Option<String>,
        /// Only of this job.
        #[serde(default)]
        job: Option<String>,
        /// Only on this node.
        #[serde(default)]
        node: Option<String>,
        /// How long to wait.
        #[serde(default)]
        wait_ms: u64,
        /// For what.
        #[serde(default)]
        until: Option<Until>,
    }
    /// `output`
    Output {
        /// The run.
        #[serde(deserialize_with = "run")]
        run_id: RunId,
        /// The node; may be left out where there is only one.
        #[serde(default)]
        node: Option<String>,
        /// Which execution; the last one if left out.
        #[serde(default)]
        attempt: Option<u32>,
        /// The first chunk wanted.
        #[serde(default)]
        from: u32,
    }
    /// `nodes`
    Nodes {
        /// After this cursor.
        #[serde(default)]
        after: Option<String>,
        /// At most so many.
        #[serde(default = "fifty")]
        limit: u32,
    }
    /// `nodes.show`
    NodesShow {
        /// Which.
        node: String,
    }
    /// `nodes.accept`
    NodesAccept {
        /// Its key.
        key: String,
        /// Its name.
        #[serde(deserialize_with = "name")]
        node: Name,
        /// Its groups; what it proposes if left out.
        #[serde(default)]
        groups: Option<Vec<String>>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `nodes.import`
    NodesImport {
        /// All of them, or none.
        nodes: Vec<ImportedNode>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `nodes.rekey`
    NodesRekey {
        /// Which.
        node: String,
        /// Its new key.
        key: String,
        /// How long the old one stays good.
        #[serde(default)]
        overlap_ms: u64,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `nodes.revoke`
    NodesRevoke {
        /// All keys of this node.
        #[serde(default)]
        node: Option<String>,
        /// This key.
        #[serde(default)]
        key: Option<String>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `schedule.get` and `schedule.clear`
    ScheduleOf {
        /// Whose; all schedules if left out.
        #[serde(default)]
        select: Option<Select>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `schedule.set`
    ScheduleSet {
        /// Whose.
        select: Select,
        /// The whole schedule.
        entries: Vec<EntryJson>,
        /// Who asks.
        #[serde(default)]
        origin: String,
    }
    /// `results`
    Results {
        /// Results after this offset; what the consumer committed if left out.
        #[serde(default)]
        after: Option<u64>,
        /// Who reads.
        #[serde(default)]
        consumer: Option<String>,
        /// At most so many.
        #[serde(default = "fifty")]
        limit: u32,
        /// How long to wait for the first one.
        #[serde(default)]
        wait_ms: u64,
        /// Only of these jobs.
        #[serde(default)]
        jobs: Vec<String>,
        /// Only on these nodes.
        #[serde(default)]
        nodes: Vec<String>,
    }
    /// `results.commit`
    ResultsCommit {
        /// Who read.
        #[serde(deserialize_with = "name")]
        consumer: Name,
        /// Everything up to here is done with; `null`: the consumer is no more.
        offset: Option<u64>,
    }
    /// `status`
    Status {}
    /// `backup`
    Backup {
        /// An absolute path on the hub's host, where nothing is yet.
        file: String,
        /// Who asks, for the audit trail.
        #[serde(default)]
        origin: String,
    }
    /// `schedule.missed`
    Missed {
        /// Older than this place.
        #[serde(default)]
        before: Option<u64>,
        /// At most so many.
        #[serde(default = "fifty")]
        limit: u32,
        /// Only on this node.
        #[serde(default)]
        node: Option<String>,
    }
    /// `audit`
    Audit {
        /// Older than this place.
        #[serde(default)]
        before: Option<u64>,
        /// At most so many.
        #[serde(default = "fifty")]
        limit: u32,
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Every node is final, and stored.
    Final,
}

/// Which nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Select {
    /// These.
    Nodes(Vec<String>),
    /// Those in one of these groups.
    Groups(Vec<String>),
    /// Every node.
    All(bool),
}

impl Select {
    /// With its first hundred names only: what is shown of a run must fit a frame with room for more.
    #[must_use]
    pub fn cut(mut self) -> Self {
        if let Self::Nodes(names) | Self::Groups(names) = &mut self {
            names.truncate(100);
        }
        self
    }
}

/// One node of an import.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedNode {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub node: Name,
    /// Its key.
    pub key: String,
    /// Its groups; what it proposes if left out.
    #[serde(default)]
    pub groups: Option<Vec<String>>,
}

/// One entry of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryJson {
    /// Its name.
    #[serde(deserialize_with = "name", serialize_with = "name_text")]
    pub id: Name,
    /// The job.
    #[serde(deserialize_with = "name", serialize_with = "name_text")]
    pub job: Name,
    /// Its arguments.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// Five cron fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Or every so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Each node's own delay is a share of this.
    #[serde(default)]
    pub splay_ms: u64,
    /// What happens to due times that passed unattended.
    #[serde(default)]
    pub catch_up: CatchUpJson,
    /// What happens when the job is busy.
    #[serde(default)]
    pub overlap: OverlapJson,
    /// Replaces the job's timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// `skip`, `once` or `{"all": n}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUpJson {
    /// Not run.
    #[default]
    Skip,
    /// The last one is run.
    Once,
    /// The last so many are run.
    All(u16),
}

/// `skip` or `queue`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapJson {
    /// The run is skipped.
    #[default]
    Skip,
    /// The run waits.
    Queue,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: &'static str,
    /// For people: what is wrong; and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Reads a request's fields.
///
/// # Errors
/// `bad_request`, with what serde says.
pub fn read<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(frame)
        .map_err(|error| Refusal::new("bad_request", format!("the request is not right: {error}")))
}

/// Writes a reply that grants what was asked; `fields` serializes to an object.
pub fn write_ok(out: &mut Vec<u8>, id: &str, fields: &impl Serialize) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b",\"ok\":true");
    let start = out.len();
    serde_json::to_writer(&mut *out, fields).expect("our own types serialize");
    match out.get(start + 1) {
        Some(b'}') => out.truncate(start),
        _ => out[start] = b',',
    }
    if out.last() != Some(&b'}') || out.len() == start {
        out.push(b'}');
    }
}

/// Writes a reply that refuses.
pub fn write_refusal(out: &mut Vec<u8>, id: &str, refusal: &Refusal) {
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
    }
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b",\"ok\":false,\"error\":");
    let error = Error { code: refusal.code, message: &refusal.message };
    serde_json::to_writer(&mut *out, &error).expect("our own types serialize");
    out.push(b'}');
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(|bad| D::Error::custom(format!("the name {text:?} {bad}")))
}

fn name_text<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

fn run<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RunId, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(|bad| D::Error::custom(format!("the run id {text:?} is {bad}")))
}

fn maybe_run<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RunId>, D::Error> {
    let text = Option::<Cow<'_, str>>::deserialize(deserializer)?;
    text.map(|text| {
        text.parse().map_err(|bad| D::Error::custom(format!("the run id {text:?} is {bad}")))
    })
    .transpose()
}

fn one_minute() -> u64 {
    60_000
}

fn fifty() -> u32 {
    50
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_carries_the_requests_id_as_it_came() {
        let envelope: Envelope = serde_json::from_str(r#"{"op":"x","id":"a b"}"#).unwrap();
        assert_eq!(envelope.id.unwrap().get(), "\"a b\"");
        let mut out = Vec::new();
        write_ok(&mut out, "7", &serde_json::json!({ "count": 3 }));
        assert_eq!(out, br#"{"id":7,"ok":true,"count":3}"#);
        out.clear();
        write_ok(&mut out, "7", &serde_json::json!({}));
        assert_eq!(out, br#"{"id":7,"ok":true}"#);
        out.clear();
        write_refusal(&mut out, "null", &Refusal::new("x", "y \"z\""));
        assert_eq!(out, br#"{"id":null,"ok":false,"error":{"code":"x","message":"y \"z\""}}"#);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let said = |text: &str| read::<Submit>(text.as_bytes()).unwrap_err().message;
        let submit =
            |more: &str| format!(r#"{{"op":"submit","job":"a","select":{{"all":true}}{more}}}"#);
        assert!(read::<Submit>(submit("").as_bytes()).is_ok());
        assert!(said(&submit(r#","tll_ms":3"#)).contains("unknown field `tll_ms`"));
        assert!(said(&submit(r#","run_id":"x""#)).contains("not an id"));
        assert!(said(r#"{"op":"submit","job":"A B","select":{"all":true}}"#).contains("\"A B\""));
    }
}
