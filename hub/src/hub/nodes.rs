//! The nodes: their records, their keys, whether they are there; and keys that wait.

use std::collections::{BTreeMap, HashMap, VecDeque};

use fieldpost_wire::{
    Heartbeat, Hello, Name, RunId, ScheduleVersion, StartId, UnixMillis, node_topic,
};

use super::Moment;
use super::boots::Boots;
use super::fast::FastMap;
use crate::store::{Key, NodeId, NodeKey, NodeRecord};

/// A node that was not heard for this long is silent: two heartbeats and a half.
pub const SILENT_MS: u64 = 150_000;
/// How long after a new start id the hub asks whether the one before is still alive: by then
/// whatever a dead agent had sent has come.
pub const PROBE_MS: u64 = 5_000;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// What is stored of it.
    pub record: NodeRecord,
    /// Its commands' topic.
    pub topic: Box<[u8]>,
    /// When it was heard last, in this hub's life.
    pub heard: Option<(Moment, UnixMillis)>,
    /// What it said of itself, in this hub's life.
    pub greeting: Option<Greeting>,
    /// The start before that, and when this one began.
    pub before: Option<(StartId, Moment)>,
    /// What this start had sent with its last heartbeat: the next one can't say less.
    pub sent_bytes: u64,
    /// How it does.
    pub vitals: Option<Vitals>,
    /// When it booted.
    pub boots: Boots,
    /// Runs that are not final here.
    pub open: Vec<RunId>,
    /// The batch in which it has something to ack, and where.
    pub ack_slot: (u64, usize),
    /// Batches in a row whose acks were left for the next one.
    pub acks_put_off: u8,
    /// The highest seq seen of an outbox.
    #[cfg(feature = "planted-bugs")]
    pub highest: (fieldpost_wire::OutboxId, u64),
}

/// What a `Hello` said.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Which start of the agent.
    pub start: StartId,
    /// Its version.
    pub agent: String,
    /// What its configuration calls it.
    pub claims: String,
    /// The groups it proposes.
    pub groups: Vec<Name>,
    /// The jobs it offers, and whether they are to be run again; `None`: not said yet.
    pub jobs: Option<Vec<(Name, bool)>>,
    /// The schedule it has.
    pub schedule: ScheduleVersion,
}

/// What a `Heartbeat` said.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// As it is shown.
    pub json: serde_json::Value,
    /// Reports not yet acked.
    pub outbox_records: u64,
    /// The schedule it has.
    pub schedule: ScheduleVersion,
    /// What is wrong with its storage.
    pub storage: String,
}

/// A key that waits to be accepted.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The name it claims.
    pub claims: String,
    /// The agent's version.
    pub agent: String,
    /// When it came first.
    pub first: UnixMillis,
    /// When it was heard last.
    pub heard: UnixMillis,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Nodes {
    list: Vec<Node>,
    by_name: BTreeMap<Name, NodeId>,
    by_key: FastMap<Key, (NodeId, Option<UnixMillis>)>,
    revoked: HashMap<Key, ()>,
    pending: BTreeMap<Key, Pending>,
    pending_order: VecDeque<Key>,
    version: u64,
}

impl Node {
    fn new(record: NodeRecord) -> Self {
        Self {
            topic: node_topic(&record.name).to_vec().into_boxed_slice(),
            record,
            heard: None,
            greeting: None,
            before: None,
            sent_bytes: 0,
            vitals: None,
            boots: Boots::default(),
            open: Vec::new(),
            ack_slot: (0, 0),
            acks_put_off: 0,
            #[cfg(feature = "planted-bugs")]
            highest: (fieldpost_wire::OutboxId([0; 16]), 0),
        }
    }

    /// Whether it is in this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.record.groups.iter().any(|name| **name == *group)
    }

    /// Whether it was heard lately. A hub that just started counts from its start.
    pub fn is_silent(&self, now: Moment, hub_start: Moment, after_ms: u64) -> bool {
        let heard = self.heard.map_or(hub_start, |(moment, _)| moment);
        now.ms_since(heard) > after_ms
    }

    /// Whether it may be triggered.
    pub fn is_usable(&self) -> bool {
        self.record.quarantined.is_none() && !self.record.keys.is_empty()
    }

    /// Whether it offers a job: unknown before its first whole `Hello`.
    pub fn offers(&self, job: &str) -> Option<bool> {
        let jobs = self.greeting.as_ref()?.jobs.as_ref()?;
        Some(jobs.iter().any(|(name, _)| **name == *job))
    }

    /// Whether a run of this job that was cut short is run again.
    pub fn reruns(&self, job: &str) -> bool {
        let jobs = self.greeting.as_ref().and_then(|greeting| greeting.jobs.as_ref());
        jobs.is_some_and(|jobs| jobs.iter().any(|(name, rerun)| **name == *job && *rerun))
    }

    /// In one word.
    pub fn state(&self, now: Moment) -> &'static str {
        if self.record.keys.is_empty() {
            "revoked"
        } else if self.record.quarantined.is_some() {
            "quarantined"
        } else {
            match self.heard {
                Some((heard, _)) if now.ms_since(heard) <= SILENT_MS => "up",
                Some(_) => "silent",
                None => "unheard",
            }
        }
    }

    /// Takes in a `Hello`. Says whether two agents alternate, and whether this start is new.
    pub fn greet(&mut self, hello: &Hello<'_>, now: Moment) -> Greeted {
        let before = self.greeting.as_ref().map(|greeting| greeting.start);
        let mut greeting = Greeting::read(hello);
        if let Some(old) = &self.greeting
            && old.start == greeting.start
            && hello.partial
        {
            greeting.jobs.clone_from(&old.jobs);
            greeting.groups.clone_from(&old.groups);
        }
        self.greeting = Some(greeting);
        match before {
            Some(start) if start == hello.start => Greeted::Again,
            Some(start) => {
                let returned = self.before.is_some_and(|(older, since)| {
                    older == hello.start && now.ms_since(since) >= PROBE_MS
                });
                // A late copy of the older start's Hello says nothing of who is alive.
                if !returned && self.before.is_some_and(|(older, _)| older == hello.start) {
                    self.greeting.as_mut().expect("set above").start = start;
                    return Greeted::Again;
                }
                self.before = Some((start, now));
                self.sent_bytes = 0;
                if returned { Greeted::Alternates } else { Greeted::New }
            }
            None => Greeted::New,
        }
    }
}

/// What a `Hello` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeted {
    /// The same start as before.
    Again,
    /// Another one.
    New,
    /// One that was gone is back: two agents have this key.
    Alternates,
}

impl Greeting {
    fn read(hello: &Hello<'_>) -> Self {
        let name = |text: &str| text.parse::<Name>().ok();
        let jobs = hello.jobs.iter().filter_map(|job| Some((name(job.name)?, job.rerun)));
        Self {
            start: hello.start,
            agent: hello.agent.to_owned(),
            claims: hello.node.to_owned(),
            groups: hello.groups.iter().filter_map(name).collect(),
            jobs: (!hello.partial).then(|| jobs.collect()),
            schedule: hello.schedule,
        }
    }
}

impl Vitals {
    /// From a report.
    pub fn read(heartbeat: &Heartbeat<'_>, time: UnixMillis) -> Self {
        let errors: Vec<_> = heartbeat
            .entry_errors
            .iter()
            .map(|e| serde_json::json!({ "entry": e.entry, "error": e.error }))
            .collect();
        let drops: Vec<_> = heartbeat
            .drops
            .iter()
            .map(|d| serde_json::json!({ "job": d.job, "count": d.count }))
            .collect();
        let json = serde_json::json!({
            "time_ms": time.0,
            "uptime_s": heartbeat.boot_ms / 1_000,
            "load": f64::from(heartbeat.load_milli) / 1000.0,
            "memory_kib": heartbeat.memory_kib,
            "temperature_c": heartbeat.temperature_milli.map(|t| f64::from(t) / 1000.0),
            "entry_errors": errors,
            "running": heartbeat.running,
            "queued": heartbeat.queued,
            "outbox_records": heartbeat.outbox_records,
            "outbox_bytes": heartbeat.outbox_bytes,
            "spool_bytes": heartbeat.spool_bytes,
            "drops": drops,
            "sent_bytes": heartbeat.sent_bytes,
            "written_bytes": heartbeat.written_bytes,
            "bad_commands": heartbeat.bad_commands,
            "storage": heartbeat.storage,
            "clock": match heartbeat.clock {
                fieldpost_wire::Clock::Trusted => "trusted",
                fieldpost_wire::Clock::Untrusted => "untrusted",
            },
        });
        Self {
            json,
            outbox_records: heartbeat.outbox_records,
            schedule: heartbeat.schedule,
            storage: heartbeat.storage.to_owned(),
        }
    }
}

impl Nodes {
    /// What a store knows.
    pub fn restore(records: Vec<NodeRecord>, revoked: Vec<Key>) -> Self {
        let mut nodes =
            Self { revoked: revoked.into_iter().map(|key| (key, ())).collect(), ..Self::default() };
        for record in records {
            nodes.insert(record);
        }
        nodes
    }

    /// Another one whenever a node is new or its groups are different.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A node's groups are different.
    pub fn regrouped(&mut self) {
        self.version += 1;
    }

    /// The id that the next new node gets.
    pub fn next_id(&self) -> NodeId {
        NodeId(u32::try_from(self.list.len()).unwrap_or(u32::MAX) + 1)
    }

    /// A node is new, or its record is different.
    pub fn insert(&mut self, record: NodeRecord) {
        self.version += 1;
        self.by_key.retain(|_, (node, _)| *node != record.id);
        for key in &record.keys {
            self.by_key.insert(key.key, (record.id, key.until));
            self.forget_pending(&key.key);
        }
        self.by_name.insert(record.name.clone(), record.id);
        let at = (record.id.0 as usize).saturating_sub(1);
        match self.list.get_mut(at) {
            Some(node) => node.record = record,
            None => self.list.push(Node::new(record)),
        }
    }

    /// Whose key this is, while it is good.
    pub fn by_key(&self, key: &Key, time: UnixMillis) -> Option<NodeId> {
        let (node, until) = self.by_key.get(key)?;
        until.is_none_or(|until| time < until).then_some(*node)
    }

    /// Whose key this is or was to be.
    pub fn holder(&self, key: &Key) -> Option<NodeId> {
        self.by_key.get(key).map(|(node, _)| *node)
    }

    /// The node of this name.
    pub fn by_name(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// The node of this id.
    pub fn get(&self, id: NodeId) -> &Node {
        &self.list[id.0 as usize - 1]
    }

    /// The node of this id, if there is one.
    pub fn find(&self, id: NodeId) -> Option<&Node> {
        self.list.get((id.0 as usize).checked_sub(1)?)
    }

    /// The node of this id.
    pub fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.list[id.0 as usize - 1]
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.iter()
    }

    /// All after this name, by name.
    pub fn after(&self, name: Option<&str>) -> impl Iterator<Item = &Node> {
        use std::ops::Bound;
        let from = match name {
            Some(name) => Bound::Excluded(name),
            None => Bound::Unbounded,
        };
        self.by_name.range::<str, _>((from, Bound::Unbounded)).map(|(_, id)| self.get(*id))
    }

    /// Whether some node is in this group.
    pub fn has_group(&self, group: &str) -> bool {
        self.list.iter().any(|node| node.is_in(group))
    }

    /// Names like this one, for a hint.
    pub fn similar(&self, name: &str) -> Option<&Name> {
        let start: String = name.chars().take(3).collect();
        use std::ops::Bound;
        let from = (Bound::Included(start.as_str()), Bound::Unbounded);
        let near = self.by_name.range::<str, _>(from).map(|(known, _)| known).next();
        near.filter(|known| !start.is_empty() && known.starts_with(&start))
    }

    /// Whether this key may not come back.
    pub fn is_revoked(&self, key: &Key) -> bool {
        self.revoked.contains_key(key)
    }

    /// It may not come back.
    pub fn revoke(&mut self, key: Key) {
        self.revoked.insert(key, ());
        self.forget_pending(&key);
    }

    /// It may come back. Says whether it could not.
    pub fn pardon(&mut self, key: &Key) -> bool {
        self.revoked.remove(key).is_some()
    }

    /// An unknown key said `Hello`. Beyond `most` the oldest is pushed out. Says whether it is
    /// new.
    pub fn wait(&mut self, key: Key, hello: &Hello<'_>, time: UnixMillis, most: usize) -> bool {
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.heard = time;
            hello.node.clone_into(&mut pending.claims);
            hello.agent.clone_into(&mut pending.agent);
            return false;
        }
        while self.pending.len() >= most.max(1) {
            let Some(oldest) = self.pending_order.pop_front() else { break };
            self.pending.remove(&oldest);
        }
        let (claims, agent) = (hello.node.to_owned(), hello.agent.to_owned());
        self.pending.insert(key, Pending { claims, agent, first: time, heard: time });
        self.pending_order.push_back(key);
        true
    }

    /// Keys that wait, after this one.
    pub fn pending(&self, after: Option<&Key>) -> impl Iterator<Item = (&Key, &Pending)> {
        use std::ops::Bound;
        let from = match after {
            Some(key) => Bound::Excluded(*key),
            None => Bound::Unbounded,
        };
        self.pending.range((from, Bound::Unbounded))
    }

    fn forget_pending(&mut self, key: &Key) {
        if self.pending.remove(key).is_some() {
            self.pending_order.retain(|other| other != key);
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many keys wait.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Keys whose time is over, with their node's id.
    pub fn overdue_keys(&self, time: UnixMillis) -> Vec<(NodeId, NodeKey)> {
        self.by_key
            .iter()
            .filter(|(_, (_, until))| until.is_some_and(|until| until <= time))
            .map(|(key, (node, until))| (*node, NodeKey { key: *key, until: *until }))
            .collect()
    }
}
