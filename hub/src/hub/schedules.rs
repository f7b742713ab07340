//! Schedules: kept per scope, merged per node.
//!
//! A node's schedule is what is set for all, for its groups and for itself; of entries with one
//! id the narrower scope's counts, and of two groups' the first one's by name. Its version is the
//! highest counter of whatever it depends on: cleared scopes keep theirs, and so does a change of
//! the node's groups.
//!
//! A node is handed its schedule when the change is durable: a version that a dying hub took back
//! would stand for another schedule later, and the node would keep the first.

use std::collections::BTreeMap;

use fieldpost_wire::cron::Cron;
use fieldpost_wire::{
    Arg, CatchUp, Command, Entry, List, Name, Overlap, Schedule, ScheduleVersion, UnixMillis, When,
    limits,
};

use super::nodes::Node;
use crate::protocol::{CatchUpJson, EntryJson, OverlapJson, Refusal};
use crate::store::{NodeId, ScheduleRecord, Scope};

/// All schedules.
#[derive(Debug)]
pub struct Schedules {
    epoch: u64,
    counter: u64,
    sets: BTreeMap<Scope, Set>,
    /// Nodes whose schedule changed, and the number of the batch that makes it durable.
    unsettled: BTreeMap<NodeId, u64>,
}

#[derive(Debug, Clone)]
struct Set {
    counter: u64,
    changed: UnixMillis,
    entries: Vec<EntryJson>,
}

impl Schedules {
    /// What a store knows; `counter` is the highest one in use elsewhere.
    pub fn restore(epoch: u64, counter: u64, records: Vec<ScheduleRecord>) -> Self {
        let mut schedules =
            Self { epoch, counter, sets: BTreeMap::new(), unsettled: BTreeMap::new() };
        for record in records {
            schedules.counter = schedules.counter.max(record.counter);
            // What this version can't read any more is as good as cleared; it is kept.
            let entries = serde_json::from_str(&record.entries).unwrap_or_default();
            let set = Set { counter: record.counter, changed: record.changed, entries };
            schedules.sets.insert(record.scope, set);
        }
        schedules
    }

    /// A counter that no change had yet.
    pub fn next_counter(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A node holds a later version of this epoch than this store gave it, which went back to a snapshot.
    /// Gives a counter that is later than that one, and, where there is no schedule at all, an empty one
    /// to be stored: beside none a node's own counter does not count.
    pub fn rise_above(&mut self, held: ScheduleVersion) -> (u64, Option<ScheduleRecord>) {
        self.counter = self.counter.max(held.counter);
        let counter = self.next_counter();
        let record = self.sets.is_empty().then(|| {
            let (changed, entries) = (UnixMillis(0), Vec::new());
            self.sets.insert(Scope::All, Set { counter, changed, entries });
            ScheduleRecord { scope: Scope::All, counter, changed, entries: "[]".to_owned() }
        });
        (counter, record)
    }

    /// Replaces the schedule of a scope; gives what to store, or nothing if it is the same.
    pub fn set(
        &mut self,
        scope: &Scope,
        entries: Vec<EntryJson>,
        time: UnixMillis,
    ) -> Option<ScheduleRecord> {
        let same = match self.sets.get(scope) {
            Some(set) => set.entries == entries,
            None => entries.is_empty(),
        };
        if same {
            return None;
        }
        let counter = self.next_counter();
        let text = serde_json::to_string(&entries).expect("our own types serialize");
        self.sets.insert(scope.clone(), Set { counter, changed: time, entries });
        Some(ScheduleRecord { scope: scope.clone(), counter, changed: time, entries: text })
    }

    /// The scopes that have entries, and these.
    pub fn list(&self) -> impl Iterator<Item = (&Scope, &[EntryJson], UnixMillis)> {
        let filled = self.sets.iter().filter(|(_, set)| !set.entries.is_empty());
        filled.map(|(scope, set)| (scope, set.entries.as_slice(), set.changed))
    }

    /// The entries of a scope.
    pub fn of_scope(&self, scope: &Scope) -> (&[EntryJson], UnixMillis) {
        self.sets
            .get(scope)
            .map_or((&[], UnixMillis(0)), |set| (set.entries.as_slice(), set.changed))
    }

    /// The version of a node's schedule.
    pub fn version(&self, node: &Node) -> ScheduleVersion {
        let sets = self.sets_of(node).map(|set| set.counter).max().unwrap_or(0);
        // Groups that were never changed since the node was accepted took part in no schedule.
        let counter = if self.sets.is_empty() { 0 } else { sets.max(node.record.regrouped) };
        ScheduleVersion { epoch: self.epoch, counter }
    }

    /// The entries of a node's schedule.
    pub fn merged(&self, node: &Node) -> Vec<&EntryJson> {
        let mut entries = BTreeMap::<&str, &EntryJson>::new();
        for set in self.sets_of(node) {
            for entry in &set.entries {
                entries.insert(&entry.id, entry);
            }
        }
        entries.into_values().collect()
    }

    /// From the widest scope to the narrowest; of groups the last one first, so that the first
    /// one's entries come out on top.
    fn sets_of(&self, node: &Node) -> impl Iterator<Item = &Set> {
        let groups = node.record.groups.iter().rev().map(|group| Scope::Group(group.clone()));
        std::iter::once(Scope::All)
            .chain(groups)
            .chain(std::iter::once(Scope::Node(node.record.name.clone())))
            .filter_map(|scope| self.sets.get(&scope))
    }

    /// The schedule of this node changed; the batch with this number holds the change.
    pub fn changed(&mut self, node: NodeId, batch: u64) {
        self.unsettled.insert(node, batch);
    }

    /// The batch with this number is durable. Gives the nodes that may now be told what changed.
    pub fn settle(&mut self, batch: u64) -> Vec<NodeId> {
        let mut settled = Vec::new();
        self.unsettled.retain(|&node, &mut waits_for| {
            let waits = waits_for > batch;
            if !waits {
                settled.push(node);
            }
            waits
        });
        settled
    }

    /// Whether a node that has `held` is to be told its schedule now.
    pub fn is_due(&self, node: &Node, held: ScheduleVersion) -> bool {
        !self.unsettled.contains_key(&node.record.id) && !self.is_held(node, held)
    }

    /// Whether a node that has `held` has its schedule.
    pub fn is_held(&self, node: &Node, held: ScheduleVersion) -> bool {
        let version = self.version(node);
        (version.counter == 0 && held.epoch == 0) || held == version
    }

    /// A node's schedule as a command.
    ///
    /// # Errors
    /// When it is more than a command holds.
    pub fn encode<'b>(&self, node: &Node, buffer: &'b mut [u8]) -> Result<&'b [u8], Refusal> {
        encode(self.version(node), &self.merged(node), buffer).map_err(|error| {
            Refusal::new(
                "too_large",
                format!(
                    "the schedule of {} would be too large ({error}); a node holds {} entries in \
                     60 KiB",
                    node.record.name,
                    limits::ENTRIES
                ),
            )
        })
    }
}

fn encode<'b>(
    version: ScheduleVersion,
    entries: &[&EntryJson],
    buffer: &'b mut [u8],
) -> Result<&'b [u8], fieldpost_wire::Error> {
    let mut args_room = vec![0; limits::BODY];
    let mut free = args_room.as_mut_slice();
    let mut wire = Vec::with_capacity(entries.len());
    for entry in entries {
        let args = entry.args.iter().map(|(name, value)| Arg { name, value });
        let used = List::encode(&mut *free, args)?.encoded_len();
        let (own, rest) = free.split_at_mut(used);
        free = rest;
        let args = entry.args.iter().map(|(name, value)| Arg { name, value });
        wire.push(to_wire(entry, List::encode(own, args)?));
    }
    let mut room = vec![0; limits::BODY];
    let entries = List::encode(&mut room, wire)?;
    Command::Schedule(Schedule { version, entries }).encode(buffer)
}

fn to_wire<'a>(entry: &'a EntryJson, args: List<'a, Arg<'a>>) -> Entry<'a> {
    Entry {
        id: &entry.id,
        job: &entry.job,
        args,
        when: match (&entry.cron, entry.every_ms) {
            (Some(cron), _) => When::Cron(cron),
            (None, every) => When::EveryMs(every.unwrap_or(0)),
        },
        splay_ms: entry.splay_ms,
        catch_up: match entry.catch_up {
            CatchUpJson::Skip => CatchUp::Skip,
            CatchUpJson::Once => CatchUp::Once,
            CatchUpJson::All(max) => CatchUp::All { max },
        },
        overlap: match entry.overlap {
            OverlapJson::Skip => Overlap::Skip,
            OverlapJson::Queue => Overlap::Queue,
        },
        timeout_ms: entry.timeout_ms,
    }
}

/// Whether entries can be a schedule. Identical ones are one.
///
/// # Errors
/// What is wrong with which.
pub fn check(entries: Vec<EntryJson>) -> Result<Vec<EntryJson>, Refusal> {
    let mut checked = Vec::<EntryJson>::with_capacity(entries.len());
    for entry in entries {
        check_entry(&entry)?;
        match checked.iter().find(|other| other.id == entry.id) {
            Some(other) if *other == entry => {}
            Some(_) => {
                return Err(bad(&entry.id, "is there twice; each entry needs an id of its own"));
            }
            None => checked.push(entry),
        }
    }
    if checked.len() > limits::ENTRIES {
        return Err(Refusal::new(
            "too_large",
            format!("{} entries: a node holds at most {}", checked.len(), limits::ENTRIES),
        ));
    }
    Ok(checked)
}

fn check_entry(entry: &EntryJson) -> Result<(), Refusal> {
    match (&entry.cron, entry.every_ms) {
        (Some(cron), None) => check_cron(&entry.id, cron)?,
        (None, Some(every)) if every >= 100 => {}
        (None, Some(_)) => return Err(bad(&entry.id, "every_ms must be at least 100")),
        _ => return Err(bad(&entry.id, "needs either cron or every_ms")),
    }
    if entry.catch_up == CatchUpJson::All(0) {
        return Err(bad(&entry.id, "catch_up all needs a number from 1"));
    }
    if entry.timeout_ms == Some(0) {
        return Err(bad(&entry.id, "timeout_ms must be more than 0"));
    }
    check_args(&entry.args).map_err(|what| bad(&entry.id, &what))
}

fn check_cron(id: &Name, cron: &str) -> Result<(), Refusal> {
    if cron.len() > limits::CRON {
        return Err(bad(id, "cron is longer than 128 bytes"));
    }
    match Cron::parse(cron) {
        Ok(_) => Ok(()),
        Err(wrong) => Err(bad(id, &format!("cron {cron:?}: {wrong}"))),
    }
}

/// Whether arguments can go over the wire.
///
/// # Errors
/// What is wrong.
pub fn check_args(args: &BTreeMap<String, String>) -> Result<(), String> {
    if args.len() > limits::ARGS {
        return Err(format!("{} arguments: a run has at most {}", args.len(), limits::ARGS));
    }
    for (name, value) in args {
        fieldpost_wire::check_name(name).map_err(|e| format!("the argument name {name:?} {e}"))?;
        if value.len() > limits::ARG_VALUE {
            return Err(format!(
                "the argument {name} has {} bytes: at most {} are allowed",
                value.len(),
                limits::ARG_VALUE
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("the argument {name} contains a control character"));
        }
    }
    Ok(())
}

fn bad(id: &Name, what: &str) -> Refusal {
    Refusal::new("bad_request", format!("the entry {id}: {what}"))
}
