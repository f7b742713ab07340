//! Runs that clients ask for, and ask about: `submit`, `cancel`, `runs`, `output`.

use std::collections::BTreeMap;

use fieldpost_wire::{Name, RunId};
use serde::{Deserialize, Serialize};

use super::Hub;
use super::clients::Rights;
use crate::protocol::{Refusal, Select, Submit};
use crate::store::{NodeId, ResultRecord, TriggerRecord};

mod output;
mod read;
mod submit;

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

impl Hub {
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
