//! The world: one queue of things to come, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use fieldpost_agent::agent::{
    Input as AgentInput, Output as AgentOutput, Signal, Slot, Usage, Vitals,
};
use fieldpost_agent::spool::Durability;
use fieldpost_hub::hub::{Door, Input as HubInput, Output as HubOutput, Verdict, Who};
use fieldpost_hub::store::Store as _;
use fieldpost_wire::{
    ALL_TOPIC, Attempt, Command, Exit, Report, RunId, RunState, UnixMillis, node_topic,
};
use serde_json::{Value, json};

use crate::history::History;
use crate::hub::Centre;
use crate::ledger::{Broken, Ledger};
use crate::link::Connection;
use crate::node::{JOBS, Node, Pretence};
use crate::plan::{Fault, Plan, Wish};

/// Microseconds since the world began.
pub type Time = u64;

/// A second.
pub const SECOND: Time = 1_000_000;

/// The wall clock when the world began: 2026-11-25, in milliseconds since 1970.
pub const BIRTH: u64 = 1_795_600_000_000;

/// What ended so long before its agent was killed is not lost: two seconds, and a tenth for the age
/// of reports.
const KEPT_AT_A_KILL: Time = 2_100_000;

/// And so long before a power cut: five seconds more.
const KEPT_AT_A_CUT: Time = KEPT_AT_A_KILL + 5 * SECOND;

/// How long the world may take to come to rest after the calm began.
const REST: Time = 1_500 * SECOND;

/// How long after the calm began two devices with one key are told apart, the documented way: by then
/// both are connected, whatever was cut before.
const WAY_OUT: Time = 400 * SECOND;

/// More than so many events in one history: something runs in circles.
const MOST_EVENTS: u64 = 2_000_000;

/// What a history held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// A hash of all that happened.
    pub hash: u64,
    /// How many things happened.
    pub lines: u64,
    /// Runs executed on nodes.
    pub executions: usize,
    /// Results in the stores.
    pub results: usize,
    /// Of these, those of which a hub knows when they started.
    pub corrected: usize,
    /// How often a node took another hub.
    pub moves: u64,
    /// Cards that were copied.
    pub clones: usize,
}

/// Something to come.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Fault(usize),
    Wish(usize),
    AgentTick { node: usize, start: u64 },
    HubTick { hub: usize, start: u64 },
    Connect { node: usize, attempt: u64 },
    Up { node: usize, connection: u64, body: Vec<u8> },
    Down { node: usize, connection: u64, body: Vec<u8> },
    Commit { hub: usize, start: u64 },
    Step { node: usize, slot: usize, generation: u64 },
    StartAgent(usize),
    EmptyDisk(usize),
    StartHub(usize),
    CopyCard,
    TellApart,
    TriggerBoth,
}

/// A request that the hub has not said yes to.
#[derive(Debug, Clone)]
struct Request {
    hub: usize,
    body: Value,
    run: Option<(RunId, Vec<usize>)>,
}

/// The world.
pub struct World<'p> {
    plan: &'p Plan,
    rng: Rng,
    time: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    count: u64,
    next_connection: u64,
    next_generation: u64,
    nodes: Vec<Node>,
    centres: Vec<Centre>,
    ledger: Ledger,
    history: History,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    runs: Vec<(usize, RunId)>,
    moves: u64,
}

impl<'p> World<'p> {
    /// Plays a plan to its end.
    ///
    /// # Errors
    /// [`Broken`]: something that must hold does not.
    pub fn run(plan: &'p Plan) -> Result<Summary, Broken> {
        let mut world = Self::new(plan);
        world.play();
        let stores: Vec<_> = world.centres.iter().map(|centre| &centre.store).collect();
        let (results, corrected) = world.ledger.settle(&stores, plan);
        match world.ledger.broken() {
            None => Ok(Summary {
                hash: world.history.hash(),
                lines: world.history.len(),
                executions: world.ledger.executions(),
                results,
                corrected,
                moves: world.moves,
                clones: usize::from(plan.clone.is_some()),
            }),
            Some(what) => Err(Broken {
                seed: plan.seed,
                what: what.to_owned(),
                history: world.history.tail(),
            }),
        }
    }

    fn new(plan: &'p Plan) -> Self {
        let mut world = Self {
            plan,
            rng: Rng::with_seed(plan.seed),
            time: 0,
            events: BinaryHeap::new(),
            count: 0,
            next_connection: 1,
            next_generation: 1,
            nodes: (0..).zip(&plan.nodes).map(|(index, hubs)| Node::new(index, hubs)).collect(),
            centres: (0..plan.hubs).map(|index| Centre::new(index, plan.seed)).collect(),
            ledger: Ledger::default(),
            history: History::default(),
            requests: BTreeMap::new(),
            next_request: 1,
            runs: Vec::new(),
            moves: 0,
        };
        for (node, hubs) in plan.nodes.iter().enumerate() {
            for &hub in hubs {
                world.accept(hub, node);
            }
            world.later(world.time, Event::StartAgent(node));
        }
        for hub in 0..plan.hubs {
            world.later(0, Event::StartHub(hub));
        }
        if let Some((of, at)) = plan.clone {
            let device = Node {
                name: world.nodes[of].name.clone(),
                key: world.nodes[of].key.clone(),
                ..Node::new(world.nodes.len(), &plan.nodes[of])
            };
            world.nodes.push(device);
            world.later(SECOND + at, Event::CopyCard);
            world.later(plan.calm + WAY_OUT, Event::TellApart);
        }
        for (index, (time, _)) in plan.wishes.iter().enumerate() {
            world.later(SECOND + *time, Event::Wish(index));
        }
        for (index, (time, _)) in plan.faults.iter().enumerate() {
            world.later(SECOND + *time, Event::Fault(index));
        }
        world
    }

    fn play(&mut self) {
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time > self.plan.calm + REST || self.ledger.broken().is_some() {
                return;
            }
            if self.count > MOST_EVENTS {
                self.history.add(self.time, format_args!("too much happens"));
                return;
            }
            self.time = time;
            self.happen(event);
        }
    }

    fn later(&mut self, time: Time, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.history.add(self.time, line);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(index) => self.fault(self.plan.faults[index].1),
            Event::Wish(index) => self.wish(self.plan.wishes[index].1),
            Event::StartAgent(node) => {
                if self.nodes[node].agent.is_none() {
                    self.note(format_args!("agent {node} starts"));
                    self.nodes[node].boot(self.time, &mut self.rng, self.plan);
                    self.drive_agent(node);
                }
            }
            Event::StartHub(hub) => {
                if self.centres[hub].hub.is_none() {
                    self.note(format_args!("hub {hub} starts"));
                    self.centres[hub].boot(self.time, &mut self.rng, self.plan);
                    self.drive_hub(hub);
                    self.send_requests(hub);
                }
            }
            Event::AgentTick { node, start } => {
                if self.nodes[node].start == start && self.nodes[node].tick_at == Some(self.time) {
                    self.nodes[node].tick_at = None;
                    self.tell_agent(node, AgentInput::Tick);
                }
            }
            Event::HubTick { hub, start } => {
                let centre = &mut self.centres[hub];
                if centre.start == start && centre.tick_at == Some(self.time) {
                    centre.tick_at = None;
                    self.tell_hub(hub, HubInput::Tick);
                    self.send_requests(hub);
                }
            }
            Event::Connect { node, attempt } => self.connect(node, attempt),
            Event::Up { node, connection, body } => self.arrive_up(node, connection, &body),
            Event::Down { node, connection, body } => self.arrive_down(node, connection, &body),
            Event::EmptyDisk(node) => self.nodes[node].disk.full = false,
            Event::Commit { hub, start } => self.commit(hub, start),
            Event::CopyCard => self.copy_card(),
            Event::TellApart => self.tell_apart(),
            Event::TriggerBoth => self.trigger_both(),
            Event::Step { node, slot, generation } => self.step(node, slot, generation),
        }
    }

    // ---- what fails, and what is asked ----------------------------------------------------

    fn fault(&mut self, fault: Fault) {
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::KillHub(hub, time) => {
                self.kill_hub(hub);
                self.later(self.time + time, Event::StartHub(hub));
            }
            Fault::Divide(node, hub, time) => {
                self.nodes[node].link.divided = (hub, self.time + time);
                if self.nodes[node].link.hub == hub {
                    self.break_link(node);
                }
            }
            Fault::KillAgent(node, time) => {
                self.kill_agent(node, KEPT_AT_A_KILL);
                self.later(self.time + time, Event::StartAgent(node));
            }
            Fault::CutPower(node, time) => {
                self.cut_power(node);
                self.later(self.time + time, Event::StartAgent(node));
            }
            Fault::FillDisk(node, time) => {
                self.nodes[node].disk.full = true;
                self.ledger.disk_fails(node);
                self.later(self.time + time, Event::EmptyDisk(node));
            }
            Fault::Cut(node, time) => {
                self.nodes[node].link.cut_until = self.time + time;
                self.break_link(node);
            }
            Fault::Break(node) => self.break_link(node),
            Fault::SetHubClock(seconds) => {
                self.centres[0].skew_ms += seconds * 1000;
                self.tell_hub(0, HubInput::Tick);
            }
            Fault::SetClock(node, seconds) => {
                self.nodes[node].skew_ms += seconds * 1000;
                self.tell_agent(node, AgentInput::Tick);
            }
        }
    }

    fn kill_hub(&mut self, hub: usize) {
        if self.centres[hub].hub.take().is_none() {
            return;
        }
        self.ledger.hub_killed(hub, self.time);
        if let Some(batch) = self.centres[hub].committing.take()
            && self.rng.bool()
        {
            // The commit came through, and nobody was left to hear of it.
            if self.centres[hub].store.commit(&batch).is_ok() {
                self.book(hub, &batch);
            }
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].link.hub == hub {
                self.break_link(node);
            }
        }
    }

    /// A second device starts with a copy of a node's card: its key, its schedule, its spool.
    fn copy_card(&mut self) {
        let Some((of, _)) = self.plan.clone else { return };
        let device = self.plan.nodes.len();
        self.note(format_args!("{device} starts with a copy of {of}'s card"));
        let (nodes, copy) = self.nodes.split_at_mut(device);
        copy[0].copy_card(&nodes[of]);
        self.ledger.cloned(device, of);
        self.later(self.time, Event::StartAgent(device));
    }

    /// What docs/OPERATING.md says: one of the two gets a key and a name of its own, and both are
    /// accepted.
    fn tell_apart(&mut self) {
        let Some((of, _)) = self.plan.clone else { return };
        let device = self.plan.nodes.len();
        self.note(format_args!("{device} and {of} are told apart"));
        self.ledger.must_be_quarantined(of);
        self.kill_agent(device, KEPT_AT_A_KILL);
        self.nodes[device].rename("the-other");
        self.later(self.time + SECOND, Event::StartAgent(device));
        self.accept(0, device);
        self.accept(0, of);
        self.later(self.time + 60 * SECOND, Event::TriggerBoth);
    }

    /// And the world goes on.
    fn trigger_both(&mut self) {
        let Some((of, _)) = self.plan.clone else { return };
        let run = self.trigger(0, 0, vec![of, self.plan.nodes.len()], 60 * SECOND);
        self.ledger.must_end_well(run);
    }

    fn accept(&mut self, hub: usize, node: usize) {
        let Node { key, name, .. } = &self.nodes[node];
        let body = json!({"op": "nodes.accept", "key": key, "node": name.to_string()});
        self.request(hub, body, None);
    }

    /// What ended in the last `kept` may be lost.
    fn kill_agent(&mut self, node: usize, kept: Time) {
        if self.nodes[node].agent.take().is_some() {
            self.nodes[node].killed_at = self.time;
            self.ledger.killed(node, self.time, self.kept(kept));
            self.nodes[node].programs.clear();
            self.nodes[node].link.wanted = false;
            self.nodes[node].link.disconnect();
        }
    }

    fn kept(&self, kept: Time) -> Time {
        match self.plan.durability {
            Durability::Spill => kept,
            Durability::Always => 0,
        }
    }

    fn cut_power(&mut self, node: usize) {
        if self.nodes[node].agent.is_none() {
            // What it had written and not synced when it was killed, nobody has synced since.
            let at = self.nodes[node].killed_at;
            self.ledger.killed(node, at, self.kept(KEPT_AT_A_CUT));
        }
        self.kill_agent(node, KEPT_AT_A_CUT);
        let always = self.plan.durability == Durability::Always;
        self.ledger.power_cut(node, always);
        let state = &mut self.nodes[node];
        state.disk.cut_power(&mut self.rng);
        state.journal.clear();
        state.boot_id += 1;
        state.booted = self.time;
    }

    fn break_link(&mut self, node: usize) {
        self.nodes[node].link.disconnect();
        if self.nodes[node].link.wanted {
            self.try_later(node);
        }
    }

    fn try_later(&mut self, node: usize) {
        self.nodes[node].link.attempt += 1;
        let attempt = self.nodes[node].link.attempt;
        let time = self.time + self.rng.u64(SECOND / 100..SECOND);
        self.later(time, Event::Connect { node, attempt });
    }

    fn wish(&mut self, wish: Wish) {
        self.note(format_args!("{wish:?}"));
        match wish {
            Wish::Trigger { hub, job, node, ttl } => {
                let of_hub = |node: &usize| self.plan.nodes[*node].contains(&hub);
                let nodes: Vec<usize> = match node {
                    Some(node) => vec![node],
                    None => (0..self.plan.nodes.len()).filter(of_hub).collect(),
                };
                if !nodes.is_empty() {
                    self.trigger(hub, job, nodes, ttl);
                }
            }
            Wish::Cancel { back } => {
                if let Some(at) = self.runs.len().checked_sub(back) {
                    let (hub, run) = self.runs[at];
                    let body = json!({"op": "cancel", "run_id": run.to_string()});
                    self.request(hub, body, None);
                }
            }
            Wish::Schedule { job, every } => {
                let entries = json!([{
                    "id": "entry", "job": JOBS[job].name, "args": {}, "every_ms": every / 1000,
                    "splay_ms": 0, "catch_up": "skip", "overlap": "skip",
                }]);
                let body =
                    json!({"op": "schedule.set", "select": {"all": true}, "entries": entries});
                for hub in 0..self.centres.len() {
                    self.request(hub, body.clone(), None);
                }
            }
            Wish::NoSchedule => {
                for hub in 0..self.centres.len() {
                    let body = json!({"op": "schedule.clear", "select": {"all": true}});
                    self.request(hub, body, None);
                }
            }
        }
    }

    fn trigger(&mut self, hub: usize, job: usize, nodes: Vec<usize>, ttl: Time) -> RunId {
        let mut random = [0; 10];
        self.rng.fill(&mut random);
        let run = RunId::v7(UnixMillis(BIRTH + self.time / 1000), random);
        let names: Vec<String> =
            nodes.iter().map(|&node| self.nodes[node].name.to_string()).collect();
        let origin = format!("run {}", self.runs.len());
        let body = json!({
            "op": "submit", "run_id": run.to_string(), "job": JOBS[job].name, "args": {},
            "select": {"nodes": names}, "ttl_ms": ttl / 1000, "origin": origin,
        });
        self.runs.push((hub, run));
        self.request(hub, body, Some((run, nodes)));
        run
    }

    /// Asks until the hub answers: a request that dies with it is made again.
    fn request(&mut self, hub: usize, mut body: Value, run: Option<(RunId, Vec<usize>)>) {
        let id = self.next_request;
        self.next_request += 1;
        body["id"] = json!(id);
        self.requests.insert(id, Request { hub, body, run });
        self.send_requests(hub);
    }

    fn send_requests(&mut self, hub: usize) {
        if self.centres[hub].hub.is_none() {
            return;
        }
        let its = self.requests.values().filter(|request| request.hub == hub);
        let frames: Vec<String> = its.map(|request| request.body.to_string()).collect();
        for frame in frames {
            let (who, peer) = (Who::Local, b"client".as_slice());
            self.tell_hub(hub, HubInput::Request { who, peer, frame: frame.as_bytes() });
        }
    }

    fn replied(&mut self, json: &[u8]) {
        let reply: Value = serde_json::from_slice(json).expect("replies are JSON");
        let Some(request) = reply["id"].as_u64().and_then(|id| self.requests.remove(&id)) else {
            return; // an answer to a request that was made twice
        };
        let ok = reply["ok"] == json!(true);
        match reply["error"]["message"].as_str() {
            Some(message) => self.note(format_args!("{} -> {message}", request.body["op"])),
            None => self.note(format_args!("{} -> ok", request.body["op"])),
        }
        if let (true, Some((run, nodes))) = (ok, request.run) {
            self.ledger.submitted(request.hub, run, nodes);
        }
    }

    // ---- the hub --------------------------------------------------------------------------

    fn tell_hub(&mut self, hub: usize, input: HubInput<'_>) {
        let now = self.centres[hub].now(self.time);
        if let Some(core) = &mut self.centres[hub].hub {
            core.handle(now, input);
            self.drive_hub(hub);
        }
    }

    fn drive_hub(&mut self, index: usize) {
        enum Todo {
            Down(Vec<u8>, Vec<u8>),
            Reply(Vec<u8>),
        }
        let centre = &mut self.centres[index];
        let Some(hub) = &mut centre.hub else { return };
        let mut todo = Vec::new();
        while let Some(output) = hub.poll_output() {
            match output {
                HubOutput::Publish { topic, body } => {
                    todo.push(Todo::Down(topic.to_vec(), body.to_vec()));
                }
                HubOutput::Reply { json, .. } => todo.push(Todo::Reply(json.to_vec())),
                HubOutput::Event { .. } | HubOutput::Cut { .. } | HubOutput::BackUp { .. } => {}
            }
        }
        let batch = if centre.committing.is_none() { hub.take_batch() } else { None };
        let deadline = hub.next_deadline();
        let start = centre.start;
        if let Some(batch) = batch {
            centre.committing = Some(batch);
            let time = self.time + 1 + self.rng.u64(0..=self.plan.commit);
            self.later(time, Event::Commit { hub: index, start });
        }
        if let Some(deadline) = deadline {
            let at = (deadline.0 * 1000).max(self.time + 1);
            let tick_at = &mut self.centres[index].tick_at;
            if tick_at.is_none_or(|known| at < known || known <= self.time) {
                *tick_at = Some(at);
                self.later(at, Event::HubTick { hub: index, start });
            }
        }
        for item in todo {
            match item {
                Todo::Down(topic, body) => self.publish(index, &topic, &body),
                Todo::Reply(json) => self.replied(&json),
            }
        }
    }

    fn publish(&mut self, hub: usize, topic: &[u8], body: &[u8]) {
        for node in 0..self.nodes.len() {
            let own = node_topic(&self.nodes[node].name);
            let is_its = self.nodes[node].link.hub == hub;
            if !is_its || (topic != ALL_TOPIC && topic != &*own) {
                continue;
            }
            if self.is_one_in(self.plan.lose_one_in) {
                self.note(format_args!("a command to {node} is lost"));
                continue;
            }
            let delay = 1 + self.rng.u64(0..=self.plan.delay);
            let link = &mut self.nodes[node].link;
            let Connection(connection) = link.connection;
            link.last_down = link.last_down.max(self.time + delay) + 1;
            let at = link.last_down;
            self.later(at, Event::Down { node, connection, body: body.to_vec() });
        }
    }

    fn commit(&mut self, hub: usize, start: u64) {
        let centre = &mut self.centres[hub];
        if centre.start != start {
            return;
        }
        let Some(batch) = centre.committing.take() else { return };
        let outcome = centre.store.commit(&batch);
        if outcome.is_ok() {
            self.book(hub, &batch);
        }
        self.tell_hub(hub, HubInput::Committed { batch, outcome });
    }

    fn book(&mut self, hub: usize, batch: &fieldpost_hub::store::Batch) {
        let nodes = &self.nodes;
        self.ledger.committed(hub, batch, |name| nodes.iter().position(|node| &*node.name == name));
    }

    // ---- the link -------------------------------------------------------------------------

    fn is_one_in(&mut self, n: u32) -> bool {
        n > 0 && self.time < self.plan.calm && self.rng.u32(0..n) == 0
    }

    fn connect(&mut self, node: usize, attempt: u64) {
        let link = &self.nodes[node].link;
        if link.attempt != attempt || !link.wanted || self.nodes[node].agent.is_none() {
            return;
        }
        let (index, cut) = (link.hub, link.is_cut(self.time));
        let now = self.centres[index].now(self.time);
        let key = self.nodes[node].key.clone();
        let welcome = match &mut self.centres[index].hub {
            Some(hub) if !cut => hub.admit(now, Door::Triggers, &key) == Verdict::Welcome,
            Some(_) | None => false,
        };
        if !welcome {
            return self.try_later(node);
        }
        let link = &mut self.nodes[node].link;
        link.connection = Connection(self.next_connection);
        self.next_connection += 1;
        self.note(format_args!("{node} is connected to hub {index}"));
        let own = node_topic(&self.nodes[node].name);
        for topic in [ALL_TOPIC, &*own] {
            if let Some(hub) = &mut self.centres[index].hub {
                hub.may_subscribe(now, &key, topic);
                self.drive_hub(index);
            }
        }
        self.nodes[node].blocked = false;
        self.tell_agent(node, AgentInput::Writable);
    }

    fn arrive_up(&mut self, node: usize, connection: u64, body: &[u8]) {
        if !self.nodes[node].link.carries(Connection(connection)) {
            return;
        }
        let link = &mut self.nodes[node].link;
        link.under_way = link.under_way.saturating_sub(1);
        let hub = link.hub;
        if let Ok((_, Report::State(state))) = Report::decode(body)
            && state.state == RunState::Coming
        {
            self.ledger.coming(hub, (node, state.run, state.attempt), self.time);
        }
        let key = self.nodes[node].key.clone();
        self.tell_hub(hub, HubInput::Report { key: &key, body });
        if std::mem::take(&mut self.nodes[node].blocked) {
            self.tell_agent(node, AgentInput::Writable);
        }
    }

    fn arrive_down(&mut self, node: usize, connection: u64, body: &[u8]) {
        if !self.nodes[node].link.carries(Connection(connection)) {
            return;
        }
        if let Ok(Command::Ack(ack)) = Command::decode(body) {
            self.ledger.acked(self.nodes[node].link.hub, &ack);
        }
        self.tell_agent(node, AgentInput::Command(body));
    }

    // ---- the agents -----------------------------------------------------------------------

    fn tell_agent(&mut self, node: usize, input: AgentInput<'_>) {
        let now = self.nodes[node].now(self.time);
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.handle(now, input);
            self.drive_agent(node);
        }
    }

    fn drive_agent(&mut self, node: usize) {
        loop {
            let now = self.nodes[node].now(self.time);
            let Node { agent, journal, schedule, disk, programs, link, blocked, .. } =
                &mut self.nodes[node];
            let Some(agent) = agent else { return };
            let Some(output) = agent.poll_output() else { break };
            match output {
                AgentOutput::Send(body) => {
                    let body = body.to_vec();
                    let taken = link.connection != Connection(0) && link.under_way < self.plan.room;
                    *blocked |= !taken;
                    let answer = if taken { AgentInput::Sent } else { AgentInput::Refused };
                    agent.handle(now, answer);
                    if taken {
                        self.send_up(node, body);
                    }
                }
                AgentOutput::Connect { hub, .. } => {
                    let hub = self.nodes[node].hubs[hub];
                    let link = &mut self.nodes[node].link;
                    self.moves += u64::from(link.hub != hub);
                    link.hub = hub;
                    link.wanted = true;
                    self.try_later(node);
                }
                AgentOutput::Disconnect => {
                    link.wanted = false;
                    link.disconnect();
                }
                AgentOutput::AppendJournal(bytes) => journal.extend_from_slice(bytes),
                AgentOutput::ReplaceJournal(bytes) => *journal = bytes.to_vec(),
                AgentOutput::SaveSchedule(bytes) => *schedule = Some(bytes.to_vec()),
                AgentOutput::Start { slot } => {
                    let launch = agent.launch(slot).expect("a run that is to start");
                    let (run, attempt) = (launch.run, launch.attempt);
                    let job = launch.job.name.to_string();
                    self.start(node, slot, run, attempt, &job);
                }
                AgentOutput::Signal { slot, signal } => {
                    let stubborn = signal == Signal::Terminate && self.rng.u32(0..4) == 0;
                    if let Some(program) = programs.get_mut(&slot.index())
                        && !stubborn
                        && !program.doomed
                    {
                        program.doomed = true;
                        let generation = program.generation;
                        let slot = slot.index();
                        self.later(self.time + 1000, Event::Step { node, slot, generation });
                    }
                }
                AgentOutput::ReadOutput { slot, read } => {
                    if let Some(program) = programs.get_mut(&slot.index()) {
                        program.read = read;
                        let generation = program.generation;
                        let slot = slot.index();
                        self.later(self.time + 1000, Event::Step { node, slot, generation });
                    }
                }
                AgentOutput::Spool(work) => {
                    let outcome = disk.perform(work);
                    agent.handle(now, AgentInput::Spooled(outcome.done()));
                }
                AgentOutput::WantVitals => {
                    agent.handle(now, AgentInput::Vitals(Vitals::default()));
                }
                AgentOutput::KillLeftover { .. }
                | AgentOutput::Delivered { .. }
                | AgentOutput::Ready
                | AgentOutput::Status(_)
                | AgentOutput::Exit => {}
            }
        }
        self.plan_tick(node);
    }

    fn plan_tick(&mut self, node: usize) {
        let state = &self.nodes[node];
        let Some(deadline) = state.agent.as_ref().and_then(|agent| agent.next_deadline()) else {
            return;
        };
        let at = state.time_of(deadline).max(self.time + 1);
        if state.tick_at.is_none_or(|known| at < known || known <= self.time) {
            let start = state.start;
            self.nodes[node].tick_at = Some(at);
            self.later(at, Event::AgentTick { node, start });
        }
    }

    fn send_up(&mut self, node: usize, body: Vec<u8>) {
        let (tag, report) = Report::decode(&body).expect("our own agent encodes what it decodes");
        self.ledger.sent(node, tag, &report);
        let delay = 1 + self.rng.u64(0..=self.plan.delay);
        let link = &mut self.nodes[node].link;
        link.under_way += 1;
        let Connection(connection) = link.connection;
        link.last_up = link.last_up.max(self.time + delay) + 1;
        let at = link.last_up;
        if self.is_one_in(self.plan.repeat_one_in) {
            let late = at + self.rng.u64(0..self.plan.latest_repeat);
            self.later(late, Event::Up { node, connection, body: body.clone() });
        }
        self.later(at, Event::Up { node, connection, body });
    }

    // ---- programs -------------------------------------------------------------------------

    fn start(&mut self, node: usize, slot: Slot, run: RunId, attempt: Attempt, job: &str) {
        self.note(format_args!("{run} {} starts on {node}: {job}", attempt.0));
        self.ledger.executed((node, run, attempt), self.time);
        let sketch = JOBS.iter().find(|sketch| sketch.name == job).expect("a known job");
        let left = self.rng.u32(0..=sketch.chunks);
        let pace = self.rng.u64(1..=sketch.longest.max(1)) / u64::from(left + 1) + 1;
        self.next_generation += 1;
        let generation = self.next_generation;
        let program =
            Pretence { slot, run, attempt, left, read: true, doomed: false, pace, generation };
        let slot = slot.index();
        self.nodes[node].programs.insert(slot, program);
        self.later(self.time + pace, Event::Step { node, slot, generation });
    }

    fn step(&mut self, node: usize, slot: usize, generation: u64) {
        let Some(program) = self.nodes[node].programs.get_mut(&slot) else { return };
        if program.generation != generation || (!program.read && !program.doomed) {
            return;
        }
        let (slot, pace) = (program.slot, program.pace);
        if program.doomed || program.left == 0 {
            let exit = if program.doomed { Exit::Signal(15) } else { Exit::Code(0) };
            let (run, attempt) = (program.run, program.attempt);
            self.nodes[node].programs.remove(&slot.index());
            self.note(format_args!("{run} {} ends on {node}: {exit:?}", attempt.0));
            self.ledger.ended((node, run, attempt), self.time);
            let usage = Usage::default();
            self.tell_agent(node, AgentInput::Ended { slot, exit, usage, note: "" });
            return;
        }
        program.left -= 1;
        let byte = u8::try_from(program.left % 251).unwrap_or(0);
        let bytes = vec![byte; 1 + usize::try_from(program.left * 997 % 12_000).unwrap_or(0)];
        let at = self.time + pace;
        let slot_index = slot.index();
        self.later(at, Event::Step { node, slot: slot_index, generation });
        self.tell_agent(node, AgentInput::Stdout { slot, bytes: &bytes });
    }
}
