//! The core through its door, with the store's model behind it.

use std::time::Duration;

use fieldpost_wire::{
    Attempt, BootId, Cause, Clock, Command, Exit, Finished, Heartbeat, Hello, HubId, JobOffer,
    List, Missed, OutboxId, Output as OutputReport, Report, RunState, ScheduleVersion, Seq, State,
    Status, Tag,
};
use serde_json::{Value, json};

use super::*;
use crate::config::{Client, Limits, Retention, Role, Selector};
use crate::store::memory::Memory;
use crate::store::{Outcome, Store};

const A: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
const B: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
const WALL: u64 = 1_800_000_000_000;

/// What was sent.
#[derive(Debug, Default)]
struct Sent {
    commands: Vec<(String, Vec<u8>)>,
    events: Vec<(String, Value)>,
    replies: Vec<Value>,
    cuts: Vec<String>,
    backups: Vec<String>,
}

impl Sent {
    fn kinds(&self) -> Vec<&'static str> {
        self.commands
            .iter()
            .map(|(_, body)| match Command::decode(body).unwrap() {
                Command::Trigger(_) => "trigger",
                Command::Cancel(_) => "cancel",
                Command::Query(_) => "query",
                Command::Schedule(_) => "schedule",
                Command::Ack(_) => "ack",
                Command::Welcome(_) => "welcome",
                Command::Beacon(_) => "beacon",
            })
            .collect()
    }

    fn reply(&self) -> &Value {
        assert_eq!(self.replies.len(), 1, "{self:?}");
        &self.replies[0]
    }

    fn code(&self) -> &str {
        self.reply()["error"]["code"].as_str().unwrap_or("ok")
    }
}

struct World {
    hub: Hub,
    store: Memory,
    moment: u64,
    /// Commits are done by hand.
    held: bool,
    /// The wall clock was set back by so much since the start.
    back: u64,
}

fn settings() -> Settings {
    Settings {
        name: "hub".parse().unwrap(),
        version: "0",
        start: StartId([1; 16]),
        seed: 7,
        retention: Retention { age: Duration::from_secs(86_400), size: 1 << 40 },
        limits: Limits { pending_nodes: 2 },
        clients: Vec::new(),
        #[cfg(feature = "planted-bugs")]
        bugs: Bugs::default(),
    }
}

impl World {
    fn new() -> Self {
        Self::with(settings(), Memory::new(Identity { hub: HubId([9; 16]), epoch: 5 }), 1_000)
    }

    fn with(settings: Settings, mut store: Memory, moment: u64) -> Self {
        let restored = store.restore().unwrap();
        let hub = Hub::new(settings, restored, Self::at(moment));
        Self { hub, store, moment, held: false, back: 0 }
    }

    /// A world with the node `gw` (key A), which said Hello and offers `job` and `ping`.
    fn with_node() -> Self {
        let mut world = Self::new();
        world.ask(json!({ "op": "nodes.accept", "key": A, "node": "gw", "groups": ["berlin"] }));
        world.report(A, None, &hello(&mut [0; 256], 1));
        world
    }

    fn restart(self) -> Self {
        Self::with(settings(), self.store, self.moment)
    }

    fn at(moment: u64) -> Now {
        Now { moment: Moment(moment), wall: UnixMillis(WALL + moment) }
    }

    fn now(&self) -> Now {
        let Now { moment, wall } = Self::at(self.moment);
        Now { moment, wall: UnixMillis(wall.0 - self.back) }
    }

    fn handle(&mut self, input: Input<'_>) -> Sent {
        self.hub.handle(self.now(), input);
        self.drain()
    }

    fn drain(&mut self) -> Sent {
        let mut sent = Sent::default();
        loop {
            while let Some(output) = self.hub.poll_output() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
                match output {
                    Output::Publish { topic, body } => {
                        sent.commands.push((text(topic), body.to_vec()));
                    }
                    Output::Event { topic, json: body, .. } => {
                        sent.events.push((text(topic), json(body)));
                    }
                    Output::Reply { json: body, .. } => sent.replies.push(json(body)),
                    Output::Cut { key } => sent.cuts.push(key.to_owned()),
                    Output::BackUp { file } => sent.backups.push(file.to_owned()),
                }
            }
            if self.held {
                return sent;
            }
            let mut batch = self.hub.take_batch();
            if batch.is_none()
                && let Some(at) = self.hub.pipeline.next_deadline()
                && self.hub.pipeline.failing.is_none()
            {
                self.moment = self.moment.max(at.0);
                self.hub.handle(self.now(), Input::Tick);
                batch = self.hub.take_batch();
            }
            let Some(batch) = batch else { return sent };
            let outcome = self.store.commit(&batch);
            self.hub.handle(self.now(), Input::Committed { batch, outcome });
        }
    }

    fn commit(&mut self) -> Sent {
        self.held = false;
        let sent = self.drain();
        self.held = true;
        sent
    }

    fn ask(&mut self, request: Value) -> Sent {
        self.ask_as(Who::Local, request)
    }

    fn ask_as(&mut self, who: Who<'_>, mut request: Value) -> Sent {
        request["id"] = 1.into();
        let frame = request.to_string();
        self.handle(Input::Request { who, peer: b"p", frame: frame.as_bytes() })
    }

    fn report(&mut self, key: &str, seq: Option<u64>, report: &Report<'_>) -> Sent {
        let tag = seq.map(|seq| Tag { outbox: OutboxId([3; 16]), seq: Seq(seq) });
        let mut room = [0; 4096];
        let body = report.encode(tag, &mut room).unwrap();
        self.handle(Input::Report { key, body })
    }

    /// Lets time pass, tick by tick.
    fn pass(&mut self, ms: u64) -> Sent {
        let end = self.moment + ms;
        let mut all = Sent::default();
        while let Some(Moment(at)) = self.hub.next_deadline().filter(|at| at.0 <= end) {
            self.moment = self.moment.max(at);
            let mut sent = self.handle(Input::Tick);
            all.commands.append(&mut sent.commands);
            all.replies.append(&mut sent.replies);
            all.events.append(&mut sent.events);
        }
        self.moment = end;
        all
    }

    fn submit(&mut self) -> (RunId, Sent) {
        let sent = self.ask(json!({
            "op": "submit", "job": "job", "select": { "all": true }, "ttl_ms": 60_000,
        }));
        (self.run(), sent)
    }

    fn run(&self) -> RunId {
        self.hub.nodes.get(NodeId(1)).open[0]
    }

    fn state(&mut self, run: RunId, state: RunState<'_>) -> Sent {
        self.report(A, None, &Report::State(State { run, attempt: Attempt(1), state }))
    }

    fn outcomes(&self) -> Vec<(Outcome, Source)> {
        self.store.results().map(|(record, _)| (record.outcome, record.source)).collect()
    }

    fn watch(&mut self, topic: &str) {
        assert!(self.hub.may_watch(self.now(), Who::Local, topic.as_bytes()));
    }
}

use crate::store::Source;

fn hello(room: &mut [u8], start: u8) -> Report<'_> {
    let jobs = ["job", "ping"].map(|name| JobOffer { name, rerun: false });
    Report::Hello(Hello {
        start: StartId([start; 16]),
        node: "gw",
        agent: "0.1",
        groups: List::empty(),
        jobs: List::encode(room, jobs).unwrap(),
        partial: false,
        schedule: ScheduleVersion::default(),
        outboxes: List::empty(),
    })
}

fn finished(run: RunId, status: Status, chunks: u32) -> Report<'static> {
    Report::Finished(Finished {
        run,
        attempt: Attempt(1),
        job: "job",
        cause: Cause::Trigger,
        status,
        exit: Exit::Code(0),
        started: UnixMillis(WALL),
        boot: BootId::UNKNOWN,
        started_boot_ms: 1,
        clock: Clock::Trusted,
        duration_us: 2,
        chunks,
        bytes: 0,
        crc32c: 0,
        stderr: &[],
        note: "",
        peak_rss_kib: 3,
        cpu_us: 4,
        truncated: false,
        output_dropped: false,
    })
}

fn heartbeat(boot: BootId, boot_ms: u64, sent_bytes: u64) -> Report<'static> {
    Report::Heartbeat(Heartbeat {
        boot,
        boot_ms,
        load_milli: 0,
        memory_kib: 1,
        temperature_milli: None,
        schedule: ScheduleVersion::default(),
        entry_errors: List::empty(),
        running: 0,
        queued: 0,
        outbox_records: 0,
        outbox_bytes: 0,
        spool_bytes: 0,
        drops: List::empty(),
        sent_bytes,
        written_bytes: 0,
        bad_commands: 0,
        storage: "",
        clock: Clock::Untrusted,
    })
}

#[test]
fn a_trigger_leaves_at_once_and_its_reply_follows_the_commit() {
    let mut world = World::with_node();
    world.held = true;
    let (run, sent) = world.submit();
    assert_eq!(sent.kinds(), ["trigger"]);
    assert_eq!(sent.commands[0].0, "n/gw/");
    assert!(sent.replies.is_empty());
    let sent = world.commit();
    assert_eq!(sent.reply()["ok"], true);
    assert_eq!(sent.reply()["run_id"], run.to_string());
    assert_eq!(sent.reply()["nodes"], json!(["gw"]));
}

#[test]
fn a_result_is_told_at_once_and_acked_after_its_commit() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.watch(&format!("run/{run}/"));
    world.watch("job/job/");
    world.held = true;
    let sent = world.report(A, Some(1), &finished(run, Status::Ok, 0));
    assert_eq!(sent.events.len(), 2);
    assert_eq!(sent.events[0].1["status"], "ok");
    assert_eq!(sent.events[0].1["durable"], false);
    assert!(sent.commands.is_empty(), "no ack yet");
    assert_eq!(world.commit().kinds(), ["ack"]);
    assert_eq!(world.outcomes(), [(Outcome::Ok, Source::Node)]);
    let sent = world.report(A, Some(1), &finished(run, Status::Ok, 0));
    assert!(sent.commands.is_empty());
    assert_eq!(world.commit().kinds(), ["ack"], "each copy is acked");
    assert_eq!(world.outcomes().len(), 1, "and stored once");
}

#[test]
fn acks_of_a_batch_are_ranges() {
    let mut world = World::with_node();
    world.held = true;
    for seq in [1, 2, 3, 7, 5, 3] {
        let run = RunId::v7(UnixMillis(WALL), [u8::try_from(seq).unwrap(); 10]);
        world.report(A, Some(seq), &finished(run, Status::Ok, 0));
    }
    let sent = world.commit();
    let Command::Ack(ack) = Command::decode(&sent.commands[0].1).unwrap() else { panic!() };
    let ranges: Vec<_> = ack.ranges.iter().map(|r| (r.first.0, r.last.0)).collect();
    assert_eq!(ranges, [(1, 3), (5, 5), (7, 7)]);
}

#[test]
fn a_submit_repeated_is_one_run_and_another_content_a_conflict() {
    let mut world = World::with_node();
    let run = RunId::v7(UnixMillis(WALL), [4; 10]);
    let submit = |job: &str| {
        json!({
            "op": "submit", "run_id": run, "job": job, "select": { "nodes": ["gw"] },
        })
    };
    assert_eq!(world.ask(submit("job")).reply()["repeated"], false);
    let sent = world.ask(submit("job"));
    assert_eq!(sent.reply()["repeated"], true);
    assert!(sent.commands.is_empty());
    assert_eq!(world.ask(submit("ping")).code(), "conflict");
    let mut world = world.restart();
    assert_eq!(world.ask(submit("job")).reply()["repeated"], true);
    let old = RunId::v7(UnixMillis(WALL - 90_000_000), [4; 10]);
    let mut late = submit("job");
    late["run_id"] = old.to_string().into();
    assert_eq!(world.ask(late).code(), "too_old");
}

#[test]
fn what_can_not_be_triggered_is_said_with_a_hint() {
    let mut world = World::with_node();
    let submit = |job: &str, select: Value| json!({ "op": "submit", "job": job, "select": select });
    let sent = world.ask(submit("jbo", json!({ "all": true })));
    assert_eq!(sent.code(), "unknown_job");
    assert!(sent.reply()["error"]["message"].as_str().unwrap().contains("offered: job, ping"));
    let sent = world.ask(submit("job", json!({ "nodes": ["gwx"] })));
    assert_eq!(sent.code(), "unknown_node");
    let sent = world.ask(submit("job", json!({ "groups": ["paris"] })));
    assert_eq!(sent.code(), "unknown_group");
    assert!(sent.reply()["error"]["message"].as_str().unwrap().contains("berlin"));
    assert_eq!(world.ask(submit("job", json!({ "nodes": [] }))).code(), "bad_request");
    assert_eq!(world.ask(json!({ "op": "sbumit" })).code(), "unknown_op");
    let sent = world.handle(Input::Request { who: Who::Local, peer: b"p", frame: b"{" });
    assert_eq!(sent.reply()["id"], Value::Null);
}

#[test]
fn a_trigger_is_published_again_until_it_is_answered() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    let sent = world.pass(10_000);
    assert_eq!(sent.kinds().iter().filter(|kind| **kind == "trigger").count(), 3);
    world.state(run, RunState::Accepted { longest_ms: 60_000 });
    let sent = world.pass(10_000);
    assert!(!sent.kinds().contains(&"trigger"));
    assert_eq!(world.store.restore().unwrap().triggers[0].progress.len(), 1, "written down");
}

#[test]
fn nobody_took_it_by_the_deadline_so_it_expired() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    let sent = world.pass(64_000);
    assert!(sent.kinds().contains(&"query"), "the node is up: it is asked");
    assert_eq!(world.outcomes(), [(Outcome::Expired, Source::Hub)]);
    world.watch(&format!("run/{run}/"));
    let sent = world.report(A, Some(1), &finished(run, Status::Ok, 0));
    assert_eq!(sent.events[0].1["revised"], true);
    let sent = world.ask(json!({ "op": "runs", "run_id": run }));
    let row = &sent.reply()["nodes"][0]["result"];
    assert_eq!((&row["status"], &row["revised"]), (&json!("ok"), &json!(true)));
    assert_eq!((&sent.reply()["ok"], &sent.reply()["final"]), (&json!(true), &json!(true)));
}

#[test]
fn a_run_is_lost_only_when_its_time_is_over_and_its_node_silent() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.state(run, RunState::Running { longest_ms: 20_000 });
    let sent = world.pass(40_000);
    assert!(sent.kinds().contains(&"query"), "its time is over, but the node was heard");
    assert!(world.outcomes().is_empty());
    world.pass(200_000);
    assert_eq!(world.outcomes(), [(Outcome::Lost, Source::Hub)]);
}

#[test]
fn a_run_whose_result_is_on_its_way_is_not_lost() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.state(run, RunState::Running { longest_ms: 20_000 });
    world.state(run, RunState::Coming);
    world.pass(3_600_000);
    assert!(world.outcomes().is_empty());
    let mut world = world.restart();
    world.pass(3_600_000);
    assert!(world.outcomes().is_empty(), "a hub that is started anew knows it too");
    world.report(A, Some(1), &finished(run, Status::Failed, 0));
    assert_eq!(world.outcomes(), [(Outcome::Failed, Source::Node)]);
}

#[test]
fn a_node_that_comes_back_with_another_start_is_asked() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.state(run, RunState::Running { longest_ms: 60_000 });
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome"], "the same start");
    let sent = world.report(A, None, &hello(&mut [0; 256], 2));
    assert_eq!(sent.kinds(), ["welcome", "query"]);
    assert!(world.pass(3_000).kinds().contains(&"query"), "until it answers");
    world.state(run, RunState::Unknown);
    assert_eq!(world.outcomes(), [(Outcome::Lost, Source::Hub)]);
}

#[test]
fn a_hello_brings_what_is_open_at_once() {
    let mut world = World::with_node();
    world.submit();
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome", "trigger"]);
}

#[test]
fn two_agents_with_one_key_are_quarantined() {
    let mut world = World::with_node();
    world.report(A, None, &hello(&mut [0; 256], 2));
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome"], "a late copy of the older Hello means nothing");
    let sent = world.pass(6_000);
    let probe = sent.commands.iter().any(|(topic, body)| {
        topic == "n/gw/" && matches!(Command::decode(body), Ok(Command::Beacon(_)))
    });
    assert!(probe, "is the older one still alive?");
    world.report(A, None, &hello(&mut [0; 256], 1));
    let sent = world.ask(json!({ "op": "nodes.show", "node": "gw" }));
    assert_eq!(sent.reply()["node"]["state"], "quarantined");
    let submit = json!({ "op": "submit", "job": "job", "select": { "nodes": ["gw"] } });
    assert_eq!(world.ask(submit.clone()).code(), "node_quarantined");
    let mut world = world.restart();
    assert_eq!(world.ask(submit.clone()).code(), "node_quarantined");
    world.ask(json!({ "op": "nodes.accept", "key": A, "node": "gw" }));
    assert_eq!(world.ask(submit).code(), "ok");
}

#[test]
fn heartbeats_that_do_not_fit_together_make_the_hub_look_for_a_second_agent() {
    let mut world = World::with_node();
    let mut beat = |sent_bytes| {
        world.report(A, None, &heartbeat(BootId(1), 1_000, sent_bytes));
        let sent = world.pass(6_000);
        sent.commands.iter().any(|(topic, body)| {
            topic == "n/gw/" && matches!(Command::decode(body), Ok(Command::Beacon(_)))
        })
    };
    assert!(!beat(1_000) && !beat(1_500), "one agent's only grow");
    assert!(beat(1_510), "the heartbeat before was longer than that: this is another agent's");
    assert!(beat(200), "and this one was started later");
}

/// A world whose node booted 100 s ago, and said so; and when that was, by the hub's clock.
fn booted() -> (World, u64) {
    let mut world = World::with_node();
    world.report(A, None, &heartbeat(BootId(7), 100_000, 1_000));
    let at = WALL + world.moment - 100_000;
    (world, at)
}

/// A result of a node without a clock, started so long after a boot.
fn at_boot(seq: u8, boot: u32, ms: u64, chunks: u32) -> Report<'static> {
    let run = RunId::v7(UnixMillis(ms), [seq; 10]);
    let Report::Finished(finished) = finished(run, Status::Ok, chunks) else { panic!() };
    let (started, clock) = (UnixMillis(ms), Clock::Untrusted);
    let (boot, started_boot_ms) = (BootId(boot), ms);
    Report::Finished(Finished { started, clock, boot, started_boot_ms, ..finished })
}

/// When the results started, by the hub's clock.
fn corrected(world: &mut World) -> Value {
    let sent = world.ask(json!({ "op": "results", "after": 0 }));
    let rows = sent.reply()["results"].as_array().unwrap();
    rows.iter().map(|row| row["started_corrected_ms"].clone()).collect()
}

#[test]
fn results_of_a_node_whose_clock_says_1970_have_a_corrected_time_beside_that() {
    let (mut world, at) = booted();
    world.watch("job/job/");
    // What waited comes after the heartbeat, whenever it started.
    let sent = world.report(A, Some(1), &at_boot(1, 7, 40_000, 0));
    assert_eq!(sent.events[0].1["started_corrected_ms"], at + 40_000);
    world.pass(30_000);
    world.report(A, Some(2), &at_boot(2, 7, 110_000, 0));
    assert_eq!(corrected(&mut world), json!([at + 40_000, at + 110_000]));
    let sent = world.ask(json!({ "op": "results", "after": 0 }));
    assert_eq!(sent.reply()["results"][0]["started_ms"], 40_000, "as the node has it");
}

#[test]
fn a_result_of_a_boot_that_the_hub_has_not_heard_of_has_no_corrected_time() {
    let (mut world, at) = booted();
    world.report(A, Some(1), &at_boot(1, 6, 40_000, 0));
    world.report(A, Some(2), &at_boot(2, 0, 40_000, 0));
    // The next boot: what is left of the one before still is told in its time.
    world.pass(60_000);
    world.report(A, None, &heartbeat(BootId(8), 20_000, 0));
    let again = WALL + world.moment - 20_000;
    world.report(A, Some(3), &at_boot(3, 7, 50_000, 0));
    world.report(A, Some(4), &at_boot(4, 8, 10_000, 0));
    assert_eq!(corrected(&mut world), json!([null, null, at + 50_000, again + 10_000]));
    let mut world = world.restart();
    world.report(A, Some(5), &at_boot(5, 8, 10_000, 0));
    let after_restart = corrected(&mut world);
    assert_eq!(after_restart[4], Value::Null, "a hub that is started anew has not heard of it");
    assert_eq!(after_restart[3], again + 10_000, "what is stored stays");
}

#[test]
fn a_late_heartbeat_does_not_spoil_corrected_times() {
    let (mut world, at) = booted();
    world.pass(90_000);
    world.report(A, None, &heartbeat(BootId(7), 160_000, 2_000));
    world.report(A, Some(1), &at_boot(1, 7, 150_000, 0));
    assert_eq!(corrected(&mut world), json!([at + 150_000]));
    // Of a node whose first one was late.
    let (mut world, at) = (World::with_node(), WALL + 1_000);
    world.pass(10_000);
    world.report(A, None, &heartbeat(BootId(7), world.moment - 1_000 - 9_000, 1_000));
    world.report(A, Some(1), &at_boot(1, 7, 5_000, 0));
    world.report(A, None, &heartbeat(BootId(7), world.moment - 1_000 - 5, 1_500));
    world.report(A, Some(2), &at_boot(2, 7, 5_000, 0));
    let early = corrected(&mut world)[0].as_u64().unwrap();
    assert!(early > at + 5_000 && early <= WALL + world.moment, "not after it came: {early}");
    assert_eq!(corrected(&mut world)[1], at + 5_005);
}

#[test]
fn what_waits_for_its_output_is_corrected_when_it_is_stored() {
    let (mut world, _) = booted();
    let report = at_boot(1, 8, 5_000, 1);
    let Report::Finished(Finished { run, attempt, .. }) = report else { panic!() };
    world.report(A, Some(2), &report);
    world.report(A, None, &heartbeat(BootId(8), 6_000, 0));
    let at = WALL + world.moment - 6_000;
    let output = OutputReport { run, attempt, index: 0, bytes: b"x" };
    world.report(A, Some(1), &Report::Output(output));
    assert_eq!(corrected(&mut world), json!([at + 5_000]));
}

#[test]
fn a_cancel_is_repeated_until_the_run_is_final() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.state(run, RunState::Running { longest_ms: 60_000 });
    let sent = world.ask(json!({ "op": "cancel", "run_id": run }));
    assert_eq!(sent.kinds(), ["cancel"]);
    assert_eq!(sent.reply()["count"], 1);
    assert!(world.pass(10_000).kinds().contains(&"cancel"));
    world.report(A, Some(1), &finished(run, Status::Cancelled, 0));
    assert!(!world.pass(10_000).kinds().contains(&"cancel"));
    let sent = world.ask(json!({ "op": "cancel", "run_id": run }));
    assert_eq!(sent.reply()["count"], 0);
}

#[test]
fn who_waits_for_a_run_is_answered_when_it_is_final_and_stored() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    let wait = json!({ "op": "runs", "run_id": run, "until": "final", "wait_ms": 5_000 });
    assert!(world.ask(wait.clone()).replies.is_empty());
    world.held = true;
    assert!(world.report(A, Some(1), &finished(run, Status::Ok, 0)).replies.is_empty());
    let sent = world.commit();
    assert_eq!(sent.reply()["final"], true);
    assert_eq!(sent.reply()["nodes"][0]["result"]["status"], "ok");
    world.held = false;
    assert_eq!(world.ask(wait).reply()["final"], true, "it is over: no waiting");
    let (run, _) = world.submit();
    let wait = json!({ "op": "runs", "run_id": run, "until": "final", "wait_ms": 5_000 });
    world.ask(wait);
    let sent = world.pass(5_000);
    assert_eq!(sent.reply()["final"], false);
    assert_eq!(sent.reply()["nodes"][0]["state"], "waiting");
}

fn chunk(run: RunId, index: u32) -> Report<'static> {
    Report::Output(OutputReport { run, attempt: Attempt(1), index, bytes: b"some output" })
}

#[test]
fn a_run_is_complete_with_its_last_chunk_across_a_restart() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.report(A, Some(1), &chunk(run, 0));
    let mut world = world.restart();
    world.report(A, Some(3), &finished(run, Status::Ok, 2));
    assert!(world.outcomes().is_empty());
    let sent = world.ask(json!({ "op": "output", "run_id": run, "node": "gw" }));
    assert_eq!(sent.reply()["complete"], false);
    assert_eq!(sent.reply()["next"], 1);
    let mut world = world.restart();
    world.report(A, Some(2), &chunk(run, 1));
    assert_eq!(world.outcomes(), [(Outcome::Ok, Source::Node)]);
    let sent = world.ask(json!({ "op": "output", "run_id": run, "node": "gw", "from": 1 }));
    assert_eq!(sent.reply()["complete"], true);
    assert_eq!(sent.reply()["next"], Value::Null);
    let sent = world.ask(json!({ "op": "runs", "run_id": run }));
    assert_eq!(sent.reply()["final"], true);
    // A late copy changes nothing.
    assert_eq!(world.report(A, Some(3), &finished(run, Status::Ok, 2)).kinds(), ["ack"]);
    assert_eq!(world.outcomes().len(), 1);
}

#[test]
fn a_reliable_report_that_can_not_be_read_is_kept_and_acked() {
    let mut world = World::with_node();
    let mut body = vec![1, 1];
    body.extend([3; 16]);
    body.extend([9, 250, 1, 2]);
    let sent = world.handle(Input::Report { key: A, body: &body });
    assert_eq!(sent.kinds(), ["ack"]);
    assert_eq!(world.handle(Input::Report { key: A, body: b"\x01\x00\xff" }).kinds().len(), 0);
    let sent = world.ask(json!({ "op": "status" }));
    assert_eq!(sent.reply()["reports"]["unreadable"], 1);
    assert_eq!(sent.reply()["reports"]["bad"], 1);
}

#[test]
fn while_the_disk_is_full_nothing_is_acked_and_then_all_of_it() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.store.fail(Some("no space"));
    assert!(world.report(A, Some(1), &finished(run, Status::Ok, 0)).commands.is_empty());
    let submit = json!({ "op": "submit", "job": "job", "select": { "all": true } });
    let sent = world.ask(submit.clone());
    assert_eq!(sent.code(), "store_unavailable");
    assert!(sent.commands.is_empty());
    assert_eq!(world.ask(json!({ "op": "status" })).reply()["store"]["state"], "failing");
    assert!(world.pass(3_000).commands.iter().all(|(topic, _)| topic == "all/"));
    assert!(world.hub.may_read_reports());
    let other = RunId::v7(UnixMillis(WALL), [9; 10]);
    assert!(world.report(A, Some(2), &finished(other, Status::Ok, 0)).commands.is_empty());
    assert_eq!(world.ask(json!({ "op": "status" })).reply()["reports"]["unstored"], 1);
    world.store.fail(None);
    assert!(world.pass(2_000).kinds().contains(&"ack"));
    assert_eq!(world.outcomes(), [(Outcome::Ok, Source::Node)]);
    assert_eq!(world.ask(submit).code(), "ok");
}

#[test]
fn what_was_asked_of_a_store_that_then_fails_is_answered() {
    let mut world = World::with_node();
    world.held = true;
    world.submit();
    world.store.fail(Some("no space"));
    assert_eq!(world.commit().code(), "store_unavailable");
    assert!(world.hub.is_idle() || world.hub.next_deadline().is_some());
}

#[test]
fn an_unknown_key_waits_is_accepted_and_revoked() {
    let mut world = World::new();
    let door = |world: &mut World, door| world.hub.admit(world.now(), door, B);
    assert_eq!(door(&mut world, Door::Triggers), Verdict::Later);
    assert_eq!(door(&mut world, Door::Results), Verdict::Welcome);
    assert_eq!(door(&mut world, Door::Clients), Verdict::No);
    let sent = world.report(B, None, &hello(&mut [0; 256], 1));
    assert!(sent.commands.is_empty(), "it hears nothing");
    let sent = world.ask(json!({ "op": "nodes" }));
    assert_eq!(sent.reply()["pending"][0]["key"], B);
    assert_eq!(sent.reply()["pending"][0]["claims"], "gw");
    let accept = json!({ "op": "nodes.accept", "key": B, "node": "gw" });
    assert_eq!(world.ask(accept).code(), "ok");
    assert_eq!(door(&mut world, Door::Triggers), Verdict::Welcome);
    assert!(!world.hub.may_subscribe(world.now(), B, b"n/other/"));
    assert!(!world.hub.may_subscribe(world.now(), B, b"n/"));
    assert!(world.hub.may_subscribe(world.now(), B, b"all/"));
    assert!(world.hub.may_subscribe(world.now(), B, b"n/gw/"));
    assert_eq!(world.drain().kinds(), ["beacon"]);
    let sent = world.report(B, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome"]);
    let sent = world.ask(json!({ "op": "nodes.revoke", "node": "gw" }));
    assert_eq!(sent.cuts, [B]);
    assert_eq!(door(&mut world, Door::Results), Verdict::No);
    assert!(world.report(B, None, &hello(&mut [0; 256], 1)).commands.is_empty());
    let mut world = world.restart();
    assert_eq!(door(&mut world, Door::Results), Verdict::No);
    let sent = world.ask(json!({ "op": "audit" }));
    assert_eq!(sent.reply()["entries"][0]["what"], "nodes.revoke");
    assert_eq!(sent.reply()["entries"][1]["who"], "local");
}

#[test]
fn an_old_key_is_good_until_its_overlap_is_over() {
    let mut world = World::with_node();
    let rekey = json!({ "op": "nodes.rekey", "node": "gw", "key": B, "overlap_ms": 60_000 });
    assert_eq!(world.ask(rekey).code(), "ok");
    assert_eq!(world.report(A, None, &hello(&mut [0; 256], 1)).kinds(), ["welcome"]);
    assert_eq!(world.report(B, None, &hello(&mut [0; 256], 1)).kinds(), ["welcome"]);
    world.pass(70_000);
    assert!(world.report(A, None, &hello(&mut [0; 256], 1)).commands.is_empty());
    assert_eq!(world.report(B, None, &hello(&mut [0; 256], 1)).kinds(), ["welcome"]);
}

#[test]
fn what_was_missed_can_be_read() {
    let mut world = World::with_node();
    for (seq, from) in [(1, 1_000), (2, 5_000)] {
        let (from, to) = (UnixMillis(from), UnixMillis(from + 2_000));
        let missed = Report::Missed(Missed { entry: "night", from, to, count: 3 });
        world.report(A, Some(seq), &missed);
    }
    let sent = world.ask(json!({ "op": "schedule.missed", "limit": 1 }));
    let reply = sent.reply();
    assert_eq!(reply["missed"].as_array().unwrap().len(), 1);
    assert_eq!(reply["missed"][0]["from_ms"], 5_000);
    assert_eq!(reply["missed"][0]["node"], "gw");
    let older = json!({ "op": "schedule.missed", "node": "gw", "before": reply["next"] });
    let sent = world.ask(older);
    assert_eq!(sent.reply()["missed"][0]["count"], 3);
    assert_eq!(sent.reply()["missed"][0]["from_ms"], 1_000);
    let sent = world.ask(json!({ "op": "schedule.missed", "before": sent.reply()["next"] }));
    assert_eq!((&sent.reply()["missed"], &sent.reply()["next"]), (&json!([]), &Value::Null));
    assert_eq!(world.ask(json!({ "op": "schedule.missed", "node": "gx" })).code(), "unknown_node");
}

#[test]
fn a_schedule_goes_out_when_it_is_durable() {
    let mut world = World::with_node();
    let set = |every: u64| {
        json!({
            "op": "schedule.set", "select": { "all": true },
            "entries": [{ "id": "a", "job": "job", "every_ms": every }],
        })
    };
    let version = |sent: &Sent| {
        let body = &sent.commands.last().unwrap().1;
        let Command::Schedule(schedule) = Command::decode(body).unwrap() else { panic!() };
        schedule.version.counter
    };
    world.held = true;
    assert!(world.ask(set(1_000)).commands.is_empty());
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome"], "not in answer to a Hello either");
    let sent = world.ask(json!({ "op": "nodes.show", "node": "gw" }));
    assert_eq!(sent.reply()["node"]["schedule"]["up_to_date"], false);
    let sent = world.commit();
    assert_eq!(sent.kinds(), ["schedule"]);
    let told = version(&sent);
    // This change dies with the hub, and its version is the next change's.
    assert!(world.ask(set(2_000)).commands.is_empty());
    let mut world = world.restart();
    let sent = world.report(A, None, &hello(&mut [0; 256], 2));
    assert_eq!(version(&sent), told);
    assert!(version(&world.ask(set(3_000))) > told);
}

#[test]
fn schedules_are_merged_and_handed_over() {
    let mut world = World::with_node();
    let entry = |id: &str, every: u64| json!({ "id": id, "job": "job", "every_ms": every });
    let set = |select: Value, entries: Value| {
        json!({
            "op": "schedule.set", "select": select, "entries": entries,
        })
    };
    let sent =
        world.ask(set(json!({ "all": true }), json!([entry("a", 1_000), entry("b", 1_000)])));
    assert_eq!(sent.kinds(), ["schedule"]);
    let sent = world.ask(set(json!({ "nodes": ["gw"] }), json!([entry("a", 5_000)])));
    let Command::Schedule(schedule) = Command::decode(&sent.commands[0].1).unwrap() else {
        panic!()
    };
    let every: Vec<_> = schedule.entries.iter().map(|e| (e.id, e.when)).collect();
    use fieldpost_wire::When;
    assert_eq!(every, [("a", When::EveryMs(5_000)), ("b", When::EveryMs(1_000))]);
    assert_eq!(schedule.version, ScheduleVersion { epoch: 5, counter: schedule.version.counter });
    let sent = world.ask(set(json!({ "groups": ["nobody"] }), json!([entry("c", 1_000)])));
    assert!(sent.commands.is_empty(), "it is none of this node's");
    let bad = set(json!({ "all": true }), json!([{ "id": "a", "job": "job" }]));
    assert_eq!(world.ask(bad).code(), "bad_request");
    let cron = |cron: &str| json!([{ "id": "n", "job": "none", "cron": cron }]);
    let sent = world.ask(set(json!({ "groups": ["nobody"] }), cron("0 0 30 2 *")));
    assert_eq!(sent.code(), "bad_request");
    let sent = world.ask(set(json!({ "nodes": ["gw"] }), cron("@daily")));
    let note = sent.reply()["notes"][0].as_str().unwrap();
    assert!(note.contains("gw has no job none"), "{note}");
    world.ask(set(json!({ "nodes": ["gw"] }), json!([entry("a", 5_000)])));
    let mut world = world.restart();
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome", "schedule"]);
    world.ask(json!({ "op": "schedule.clear", "select": { "nodes": ["gw"] } }));
    let sent = world.ask(json!({ "op": "schedule.get" }));
    assert_eq!(sent.reply()["schedules"].as_array().unwrap().len(), 2);
}

fn client(role: Role, jobs: Option<&str>, selectors: Option<Selector>) -> Client {
    Client {
        name: "airflow".parse().unwrap(),
        key: B.parse().unwrap(),
        role,
        jobs: jobs.map(|job| vec![job.parse().unwrap()]),
        selectors: selectors.map(|selector| vec![selector]),
    }
}

fn reload(world: &mut World, client: Client) -> Sent {
    let retention = world.hub.settings.retention;
    world.handle(Input::Reloaded { clients: vec![client], retention })
}

#[test]
fn a_client_does_what_its_role_jobs_and_selectors_allow() {
    let mut world = World::with_node();
    let who = Who::Key(B);
    let submit = |job: &str| json!({ "op": "submit", "job": job, "select": { "all": true } });
    assert_eq!(world.ask_as(who, submit("job")).code(), "not_allowed", "nobody knows it");
    reload(&mut world, client(Role::Read, None, None));
    assert_eq!(world.ask_as(who, submit("job")).code(), "not_allowed");
    let sent = reload(&mut world, client(Role::Trigger, Some("ping"), None));
    assert_eq!(sent.cuts, [B], "its rights are others now");
    assert_eq!(world.ask_as(who, submit("job")).code(), "not_allowed");
    assert_eq!(world.ask_as(who, submit("ping")).code(), "ok");
    assert_eq!(
        world.ask_as(who, json!({ "op": "nodes.revoke", "node": "gw" })).code(),
        "not_allowed"
    );
    assert!(world.hub.may_watch(world.now(), who, b"job/ping/"));
    assert!(!world.hub.may_watch(world.now(), who, b"job/job/"));
    assert!(!world.hub.may_watch(world.now(), who, b"job/"));
    assert!(!world.hub.may_watch(world.now(), who, b"node/gw/"));
    let elsewhere = Selector::Group("paris".parse().unwrap());
    reload(&mut world, client(Role::Trigger, None, Some(elsewhere)));
    assert_eq!(world.ask_as(who, submit("ping")).code(), "not_allowed");
    let sent = world.ask_as(who, json!({ "op": "nodes" }));
    assert_eq!(sent.reply()["nodes"], json!([]));
    for op in ["runs", "schedule.missed", "nodes.show"] {
        let of_node = json!({ "op": op, "node": "gw" });
        assert_eq!(world.ask_as(who, of_node).code(), "not_allowed", "{op}");
    }
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let sent = world.ask_as(who, json!({ "op": "results" }));
    assert_eq!(sent.reply()["results"], json!([]));
    assert_eq!(world.ask_as(who, json!({ "op": "runs", "run_id": run })).code(), "not_allowed");
}

#[test]
fn results_are_read_from_a_cursor_and_waited_for() {
    let mut world = World::with_node();
    let poll = |after: u64| json!({ "op": "results", "after": after, "wait_ms": 5_000 });
    assert!(world.ask(poll(0)).replies.is_empty());
    let (run, _) = world.submit();
    let sent = world.report(A, Some(1), &finished(run, Status::Ok, 0));
    assert_eq!(sent.reply()["results"][0]["run_id"], run.to_string());
    assert_eq!(sent.reply()["next"], 1);
    assert!(world.ask(poll(1)).replies.is_empty());
    let sent = world.pass(5_000);
    assert_eq!(sent.reply()["results"], json!([]));
    let commit = json!({ "op": "results.commit", "consumer": "etl", "offset": 1 });
    assert_eq!(world.ask(commit).code(), "ok");
    let mut world = world.restart();
    let sent = world.ask(json!({ "op": "results", "consumer": "etl" }));
    assert_eq!(sent.reply()["results"], json!([]));
    assert_eq!(sent.reply()["newest"], 1);
    let ahead = json!({ "op": "results.commit", "consumer": "etl", "offset": 9 });
    assert_eq!(world.ask(ahead).code(), "bad_request");
}

#[test]
fn a_hub_whose_clock_is_ahead_at_its_start_removes_nothing_until_it_had_time_to_be_set() {
    let mut world = World::with_node();
    for seq in 1..=5 {
        let (run, _) = world.submit();
        world.report(A, Some(seq), &finished(run, Status::Ok, 0));
    }
    let commit = json!({ "op": "results.commit", "consumer": "etl", "offset": 3 });
    assert_eq!(world.ask(commit).code(), "ok");
    let sixty_days = 60 * 24 * 60 * 60 * 1000;
    let mut world = World::with(settings(), world.store, world.moment + sixty_days);
    let kept = |world: &mut World| {
        let sent = world.ask(json!({ "op": "results", "after": 0 }));
        sent.reply()["results"].as_array().unwrap().len()
    };
    world.pass(50 * 60 * 1000);
    assert_eq!(kept(&mut world), 5);
    // It was off for so long after all. What the consumer has not read stays.
    world.pass(20 * 60 * 1000);
    assert_eq!(kept(&mut world), 2);
}

#[test]
fn a_consumer_is_moved_by_who_made_it_or_by_an_admin() {
    let mut world = World::with_node();
    reload(&mut world, client(Role::Read, None, None));
    let key = Who::Key(B);
    let commit =
        |name: &str, offset| json!({ "op": "results.commit", "consumer": name, "offset": offset });
    assert_eq!(world.ask(commit("etl", Some(0))).code(), "ok");
    assert_eq!(world.ask_as(key, commit("etl", Some(0))).code(), "not_allowed");
    assert_eq!(world.ask_as(key, commit("etl", None)).code(), "not_allowed");
    assert_eq!(world.ask_as(key, commit("own", Some(0))).code(), "ok");
    let mut world = world.restart();
    let sent = world.ask(json!({ "op": "status" }));
    assert_eq!(sent.reply()["consumers"][1]["owner"], "airflow");
    assert_eq!(world.ask(commit("own", None)).code(), "ok");
}

#[test]
fn a_closed_trigger_that_stood_on_an_inference_is_revised_also_after_a_restart() {
    for restarts in [false, true] {
        let mut world = World::with_node();
        let (run, _) = world.submit();
        world.pass(120_000);
        assert_eq!(world.outcomes(), [(Outcome::Expired, Source::Hub)]);
        if restarts {
            world = world.restart();
        }
        world.report(A, Some(1), &finished(run, Status::Ok, 0));
        let sent = world.ask(json!({ "op": "runs" }));
        assert_eq!(sent.reply()["runs"][0]["ok"], 1);
        assert_eq!(sent.reply()["runs"][0]["failed"], 0);
        let sent = world.ask(json!({ "op": "runs", "run_id": run }));
        assert_eq!(sent.reply()["nodes"][0]["result"]["revised"], true);
    }
}

#[test]
fn an_open_trigger_goes_on_after_a_restart_of_the_hub() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    let mut world = world.restart();
    assert_eq!(world.run(), run);
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome", "trigger"]);
    world.state(run, RunState::Running { longest_ms: 60_000 });
    world.pass(2_000);
    let mut world = world.restart();
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert_eq!(sent.kinds(), ["welcome", "query"], "it was taken: it is asked about");
    world.state(run, RunState::Coming);
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let mut world = world.restart();
    assert!(world.hub.nodes.get(NodeId(1)).open.is_empty());
    let sent = world.ask(json!({ "op": "runs" }));
    assert_eq!(sent.reply()["runs"][0]["ok"], 1);
    assert_eq!(sent.reply()["runs"][0]["open"], 0);
}

#[test]
fn a_rejected_copy_is_final_until_the_node_says_otherwise() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    let detail = "bus: \"x\"";
    world.state(run, RunState::Rejected { reason: fieldpost_wire::Reason::BadArgument, detail });
    assert_eq!(world.outcomes(), [(Outcome::Rejected, Source::Hub)]);
    let sent = world.ask(json!({ "op": "runs", "run_id": run }));
    let row = &sent.reply()["nodes"][0]["result"];
    assert_eq!(row["note"], "bad argument: bus: \"x\"");
    assert_eq!(row["inferred"], false);
}

#[test]
fn reports_are_not_read_while_a_batch_is_full() {
    let mut world = World::with_node();
    world.held = true;
    let mut n = 0u64;
    while world.hub.may_read_reports() {
        n += 1;
        let mut random = [0; 10];
        random[..8].copy_from_slice(&n.to_be_bytes());
        let run = RunId::v7(UnixMillis(WALL + n), random);
        world.report(A, Some(n), &finished(run, Status::Ok, 0));
    }
    assert_eq!(n, 16_384);
    world.commit();
    assert!(world.hub.may_read_reports());
    assert_eq!(world.store.results().count(), 16_384);
}

#[test]
fn under_load_acks_of_several_batches_go_together_and_soon() {
    let mut world = World::with_node();
    world.held = true;
    let mut seq = 0;
    let mut report = |world: &mut World| {
        seq += 1;
        let run = RunId::v7(UnixMillis(WALL), [seq as u8; 10]);
        world.report(A, Some(seq), &finished(run, Status::Ok, 0));
    };
    report(&mut world);
    let mut acked = Vec::new();
    for _ in 0..8 {
        let batch = world.hub.take_batch().unwrap();
        report(&mut world);
        let outcome = world.store.commit(&batch);
        let sent = world.handle(Input::Committed { batch, outcome });
        for (_, body) in sent.commands {
            let Command::Ack(ack) = Command::decode(&body).unwrap() else { panic!() };
            acked.push(ack.ranges.iter().map(|r| (r.first.0, r.last.0)).collect::<Vec<_>>());
        }
    }
    assert_eq!(acked, [[(1, 4)], [(5, 8)]]);
    assert_eq!(world.commit().kinds(), ["ack"], "and at rest at once");
}

#[test]
fn a_backup_is_made_for_the_hubs_own_host_one_at_a_time() {
    let mut world = World::with_node();
    let ask = |world: &mut World, file: &str| world.ask(json!({ "op": "backup", "file": file }));
    assert_eq!(ask(&mut world, "here").code(), "bad_request");
    let sent = ask(&mut world, "/backup/hub.sqlite");
    assert_eq!(sent.backups, ["/backup/hub.sqlite"]);
    assert!(sent.replies.is_empty(), "it is not there yet");
    assert_eq!(ask(&mut world, "/backup/other").code(), "busy");
    let sent = world.handle(Input::BackedUp(Ok(7)));
    assert_eq!(sent.reply()["bytes"], 7);
    ask(&mut world, "/backup/other");
    let full = StoreError::Failing("no space is left".to_owned());
    assert_eq!(world.handle(Input::BackedUp(Err(full))).code(), "backup_failed");
}

#[test]
fn a_closed_trigger_whose_results_were_swept_away_stays_closed_after_a_restart() {
    let mut world = World::with_node();
    world.submit();
    world.pass(120_000);
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let mut batch = crate::store::Batch::default();
    batch.change(crate::store::Change::Sweep(crate::store::Sweep {
        before: UnixMillis(0),
        bytes: 0,
        keep_after: u64::MAX,
        open_since: UnixMillis(0),
        rows: 100,
    }));
    assert_eq!(world.store.commit(&batch).unwrap().swept, 1);
    let mut world = world.restart();
    world.report(A, None, &hello(&mut [0; 256], 1));
    world.pass(120_000);
    assert_eq!(world.outcomes(), [(Outcome::Ok, Source::Node)]);
    let sent = world.ask(json!({ "op": "runs" }));
    assert_eq!(sent.reply()["runs"][1]["failed"], 1);
    assert_eq!(sent.reply()["runs"][1]["open"], 0);
}

/// A run that left for its node, and the hub died before it had stored it: another start of the hub, and
/// the submit.
fn forgotten() -> (World, RunId, Value) {
    let mut world = World::with_node();
    world.pass(60_000);
    let run = RunId::v7(UnixMillis(WALL + 60_000), [4; 10]);
    let submit = json!({
        "op": "submit", "run_id": run, "job": "job", "select": { "nodes": ["gw"] }, "ttl_ms": 600_000,
    });
    world.held = true;
    assert_eq!(world.ask(submit.clone()).kinds(), ["trigger"]);
    let mut world = world.restart();
    world.report(A, None, &hello(&mut [0; 256], 1));
    (world, run, submit)
}

#[test]
fn a_submit_made_again_after_the_hub_forgot_it_takes_the_result_that_came() {
    let (mut world, run, submit) = forgotten();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let sent = world.ask(submit);
    assert_eq!(
        (sent.kinds(), &sent.reply()["repeated"]),
        (vec![], &json!(false)),
        "the node has run it"
    );
    let shown = world.ask(json!({ "op": "runs", "run_id": run }));
    assert_eq!(shown.reply()["final"], true, "{}", shown.reply());
    let sent = world.pass(3_600_000);
    assert!(
        sent.kinds().iter().all(|kind| *kind == "beacon"),
        "nobody is asked: {:?}",
        sent.kinds()
    );
    let mut world = world.restart();
    let shown = world.ask(json!({ "op": "runs", "run_id": run }));
    assert_eq!(shown.reply()["final"], true, "{}", shown.reply());
}

#[test]
fn a_submit_of_a_forgotten_run_is_refused_if_what_came_is_of_another_job() {
    let (mut world, run, mut submit) = forgotten();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    submit["job"] = json!("ping");
    let sent = world.ask(submit);
    assert_eq!((sent.kinds(), &sent.reply()["error"]["code"]), (vec![], &json!("conflict")));
}

#[test]
fn two_submits_of_a_run_that_the_hub_forgot_trigger_it_once() {
    let (mut world, _, submit) = forgotten();
    world.held = true;
    for _ in 0..2 {
        assert_eq!(world.ask(submit.clone()).kinds(), [""; 0], "the store is asked first");
    }
    let sent = world.commit();
    assert_eq!(sent.kinds(), ["trigger"]);
    let repeated: Vec<&Value> = sent.replies.iter().map(|reply| &reply["repeated"]).collect();
    assert_eq!(repeated, [false, true]);
}

#[test]
fn a_result_that_comes_while_the_store_is_asked_is_not_overlooked() {
    let (mut world, run, submit) = forgotten();
    world.held = true;
    world.ask(submit);
    let batch = world.hub.take_batch().unwrap();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let outcome = world.store.commit(&batch);
    world.hub.handle(world.now(), Input::Committed { batch, outcome });
    let sent = world.commit();
    assert_eq!((sent.kinds(), &sent.reply()["repeated"]), (vec!["ack"], &json!(false)));
    world.held = false;
    let shown = world.ask(json!({ "op": "runs", "run_id": run }));
    assert_eq!(shown.reply()["final"], true, "{}", shown.reply());
}

#[test]
fn a_submit_that_the_hub_forgot_is_refused_once_its_nodes_may_have_forgotten_it_too() {
    let (mut world, _, submit) = forgotten();
    let new = json!({
        "op": "submit", "run_id": RunId::v7(world.now().wall, [5; 10]), "job": "job",
        "select": { "nodes": ["gw"] }, "ttl_ms": 1_000,
    });
    let sent = world.ask(new);
    assert_eq!(sent.kinds(), ["trigger"], "however short its time to live: {}", sent.reply());
    world.pass(600_001);
    let sent = world.ask(submit);
    assert_eq!((sent.kinds(), &sent.reply()["error"]["code"]), (vec![], &json!("too_old")));
}

// ---- review ----

/// Another key than A and B.
fn key_of(number: u16) -> String {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    fieldpost_sockets::PublicKey(bytes).to_string()
}

#[test]
fn a_page_of_a_run_on_nodes_that_were_named_fits_a_frame() {
    let mut world = World::new();
    let name = |n: u16| format!("gateway-berlin-nord-{n:04}");
    for block in 0..4 {
        let nodes: Vec<_> = (block * 100..(block + 1) * 100)
            .map(|n| json!({ "node": name(n), "key": key_of(n), "groups": [] }))
            .collect();
        let import = json!({ "op": "nodes.import", "nodes": nodes });
        assert_eq!(world.ask(import).code(), "ok");
    }
    let names: Vec<_> = (0..400).map(name).collect();
    let submit = json!({ "op": "submit", "job": "job", "select": { "nodes": names } });
    assert_eq!(world.ask(submit).code(), "ok");
    let run = world.run();
    for n in 0..400 {
        world.report(&key_of(n), Some(1), &finished(run, Status::Ok, 0));
    }
    let mut after = Value::Null;
    let mut seen = 0;
    loop {
        let sent = world.ask(json!({ "op": "runs", "run_id": run, "limit": 200, "after": after }));
        let reply = sent.reply();
        let length = reply.to_string().len();
        assert!(length <= crate::protocol::FRAME, "the reply has {length} bytes");
        seen += reply["nodes"].as_array().unwrap().len();
        after = reply["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(seen, 400);
}

#[test]
fn a_long_selector_does_not_end_the_list_of_runs() {
    let mut world = World::with_node();
    let (oldest, _) = world.submit();
    world.pass(1_000);
    let names = vec!["gw"; 11_700];
    let long = json!({ "op": "submit", "job": "job", "select": { "nodes": names } });
    assert_eq!(world.ask(long).code(), "ok");
    world.pass(1_000);
    world.submit();
    let (mut listed, mut before) = (Vec::new(), Value::Null);
    loop {
        let sent = world.ask(json!({ "op": "runs", "before": before }));
        let reply = sent.reply();
        listed.extend(reply["runs"].as_array().unwrap().iter().map(|row| row["run_id"].clone()));
        before = reply["next"].clone();
        if before.is_null() {
            break;
        }
    }
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[2], oldest.to_string());
}

#[test]
fn who_is_limited_to_a_group_reads_what_a_node_says_that_joined_it_meanwhile() {
    let mut world = World::with_node();
    let berlin = Selector::Group("berlin".parse().unwrap());
    reload(&mut world, client(Role::Read, None, Some(berlin)));
    let who = Who::Key(B);
    let poll = |after: u64| json!({ "op": "results", "after": after, "wait_ms": 20_000 });
    assert!(world.ask_as(who, poll(0)).replies.is_empty(), "it waits");
    let key = key_of(1);
    world.ask(json!({ "op": "nodes.accept", "key": key, "node": "gw-2", "groups": ["berlin"] }));
    let run = RunId::v7(UnixMillis(WALL), [4; 10]);
    let mut sent = world.report(&key, Some(1), &finished(run, Status::Ok, 0));
    sent.replies.extend(world.pass(20_000).replies);
    let told = sent.reply();
    if told["results"] == json!([]) {
        let next = told["next"].as_u64().unwrap();
        let sent = world.ask_as(who, json!({ "op": "results", "after": next }));
        assert_eq!(sent.reply()["results"][0]["node"], "gw-2", "passed over: {told}");
    } else {
        assert_eq!(told["results"][0]["node"], "gw-2");
    }
}

#[test]
fn a_clock_that_was_set_right_within_the_hour_removes_nothing() {
    let mut world = World::with_node();
    for seq in 1..=5 {
        let (run, _) = world.submit();
        world.report(A, Some(seq), &finished(run, Status::Ok, 0));
    }
    let sixty_days = 60 * 24 * 60 * 60 * 1000;
    let mut world = World::with(settings(), world.store, world.moment + sixty_days);
    world.pass(60_000);
    world.back = sixty_days; // NTP
    world.pass(3 * 60 * 60 * 1000);
    assert_eq!(world.store.results().count(), 5, "they are three hours old, and a day is kept");
}

#[test]
fn without_an_overlap_the_old_key_is_gone_at_once() {
    let mut world = World::with_node();
    world.pass(10_000);
    world.back = 3; // the wall clock is a little behind the hub's time
    let rekey = json!({ "op": "nodes.rekey", "node": "gw", "key": B, "overlap_ms": 0 });
    assert_eq!(world.ask(rekey).code(), "ok");
    let shown = world.ask(json!({ "op": "nodes.show", "node": "gw" })).reply().to_string();
    assert!(shown.contains(B) && !shown.contains(A), "{shown}");
}

#[test]
fn a_rekey_without_overlap_cuts_the_old_key_while_the_clock_is_doubted() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let sixty_days = 60 * 24 * 60 * 60 * 1000;
    let mut world = World::with(settings(), world.store, world.moment + sixty_days);
    assert!(world.hub.may_subscribe(world.now(), A, b"n/gw/"));
    world.drain();
    let sent = world.ask(json!({ "op": "nodes.rekey", "node": "gw", "key": B, "overlap_ms": 0 }));
    assert_eq!(sent.code(), "ok");
    assert_eq!(sent.cuts, [A]);
}

#[test]
fn a_device_in_its_overlap_is_let_in_once_the_clock_was_set_right() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let week = 7 * 24 * 60 * 60 * 1000;
    world.ask(json!({ "op": "nodes.rekey", "node": "gw", "key": B, "overlap_ms": week }));
    let sixty_days = 60 * 24 * 60 * 60 * 1000;
    let mut world = World::with(settings(), world.store, world.moment + sixty_days);
    world.pass(60_000);
    world.back = sixty_days; // NTP
    world.pass(60 * 60 * 1000);
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert!(sent.kinds().contains(&"welcome"));
}

#[test]
fn a_clock_that_was_set_right_ends_no_overlap_of_keys() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let week = 7 * 24 * 60 * 60 * 1000;
    let rekey = json!({ "op": "nodes.rekey", "node": "gw", "key": B, "overlap_ms": week });
    assert_eq!(world.ask(rekey).code(), "ok");
    let sixty_days = 60 * 24 * 60 * 60 * 1000;
    let mut world = World::with(settings(), world.store, world.moment + sixty_days);
    world.pass(60_000);
    world.back = sixty_days; // NTP
    world.pass(60_000);
    // An operator starts the hub anew, with its clock right.
    let mut world = World::with(settings(), world.store, world.moment - sixty_days);
    let sent = world.report(A, None, &hello(&mut [0; 256], 1));
    assert!(sent.kinds().contains(&"welcome"), "the device does not have its new key yet");
}

#[test]
fn a_cancel_repeated_is_one_cancel() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    for _ in 0..100 {
        world.ask(json!({ "op": "cancel", "run_id": run, "nodes": ["gw", "gw"] }));
    }
    assert_eq!(world.store.triggers().next().unwrap().cancelled_nodes, [NodeId(1)]);
}

#[test]
fn a_node_that_left_the_group_is_watched_no_more_by_who_is_limited_to_it() {
    let mut world = World::with_node();
    let berlin = Selector::Group("berlin".parse().unwrap());
    reload(&mut world, client(Role::Read, None, Some(berlin)));
    let who = Who::Key(B);
    assert!(world.hub.may_watch(world.now(), who, b"node/gw/"));
    let mut sent =
        world.ask(json!({ "op": "nodes.accept", "key": A, "node": "gw", "groups": ["paris"] }));
    assert!(!world.hub.may_watch(world.now(), who, b"node/gw/"));
    world.handle(Input::Unwatched { side: Side::Remote, topic: b"node/gw/" });
    let (run, _) = world.submit();
    let told = world.report(A, Some(1), &finished(run, Status::Ok, 0)).events;
    sent.events.extend(told);
    let cut = sent.cuts.contains(&B.to_owned());
    assert!(cut || sent.events.is_empty(), "{:?}", sent.events);
}

#[test]
fn a_consumer_that_reads_is_seen() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    world.ask(json!({ "op": "results.commit", "consumer": "etl", "offset": 1 }));
    for _ in 0..8 {
        world.pass(24 * 60 * 60 * 1000);
        let sent = world.ask(json!({ "op": "results", "consumer": "etl" }));
        assert_eq!(sent.reply()["results"], json!([]), "there is nothing to commit");
    }
    let sent = world.ask(json!({ "op": "status" }));
    assert_eq!(sent.reply()["consumers"][0]["idle"], false);
    for seq in 2..=3 {
        let (run, _) = world.submit();
        world.report(A, Some(seq), &finished(run, Status::Ok, 0));
    }
    world.pass(2 * 24 * 60 * 60 * 1000); // a weekend
    let sent = world.ask(json!({ "op": "results", "consumer": "etl" }));
    assert_eq!(sent.reply()["results"].as_array().unwrap().len(), 2);
}

#[test]
fn a_run_that_closes_while_it_is_asked_about_is_not_told_as_waiting() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    world.state(run, RunState::Running { longest_ms: 60_000 });
    world.held = true;
    world.ask(json!({ "op": "runs", "run_id": run }));
    let batch = world.hub.take_batch().unwrap();
    world.report(A, Some(1), &finished(run, Status::Ok, 0));
    let outcome = world.store.commit(&batch);
    world.hub.handle(world.now(), Input::Committed { batch, outcome });
    let sent = world.commit();
    let row = &sent.reply()["nodes"][0];
    assert_ne!(row["state"], "waiting", "it was running before: {}", sent.reply());
}

#[test]
fn output_in_many_short_chunks_comes_in_pages_that_fit_a_frame() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    // A line each second for half an hour: the agent sends a chunk when it is 200 ms old.
    let line = "temperature 21.4 C\n";
    for index in 0..1_800 {
        let attempt = Attempt(1);
        let output = OutputReport { run, attempt, index, bytes: line.as_bytes() };
        world.report(A, Some(u64::from(index) + 1), &Report::Output(output));
    }
    world.report(A, Some(1_801), &finished(run, Status::Ok, 1_800));
    let (mut from, mut chunks) = (json!(0), 0);
    while !from.is_null() {
        let ask = json!({ "op": "output", "run_id": run, "node": "gw", "from": from });
        let sent = world.ask(ask);
        let reply = sent.reply();
        let length = reply.to_string().len();
        assert!(length <= crate::protocol::FRAME, "the reply has {length} bytes");
        chunks += reply["chunks"].as_array().unwrap().len();
        from = reply["next"].clone();
    }
    assert_eq!(chunks, 1_800);
}

#[test]
fn all_output_of_a_run_that_was_lost_can_be_read() {
    let mut world = World::with_node();
    let (run, _) = world.submit();
    for index in 0..5 {
        let attempt = Attempt(1);
        let output = OutputReport { run, attempt, index, bytes: &[b'x'; 16_384] };
        let tag = Tag { outbox: OutboxId([3; 16]), seq: Seq(u64::from(index) + 1) };
        let mut room = [0; 20_000];
        let body = Report::Output(output).encode(Some(tag), &mut room).unwrap();
        world.handle(Input::Report { key: A, body });
    }
    // The agent was killed; its next start tells of the run.
    world.report(A, Some(6), &finished(run, Status::Lost, 0));
    let (mut from, mut chunks) = (json!(0), 0);
    while !from.is_null() {
        let ask = json!({ "op": "output", "run_id": run, "node": "gw", "from": from });
        let sent = world.ask(ask);
        chunks += sent.reply()["chunks"].as_array().unwrap().len();
        from = sent.reply()["next"].clone();
    }
    assert_eq!(chunks, 5);
}

/// The schedule that was sent last, and its version.
fn schedule_in(sent: &Sent) -> Option<(ScheduleVersion, Vec<String>)> {
    sent.commands.iter().rev().find_map(|(_, body)| match Command::decode(body).unwrap() {
        Command::Schedule(schedule) => {
            let ids = schedule.entries.iter().map(|entry| entry.id.to_owned()).collect();
            Some((schedule.version, ids))
        }
        _ => None,
    })
}

/// A `Hello` of a node that holds this schedule.
fn hello_with(schedule: ScheduleVersion) -> Report<'static> {
    Report::Hello(Hello {
        start: StartId([1; 16]),
        node: "gw",
        agent: "0.1",
        groups: List::empty(),
        jobs: List::empty(),
        partial: false,
        schedule,
        outboxes: List::empty(),
    })
}

#[test]
fn a_node_that_claims_an_impossible_schedule_spoils_none() {
    let mut world = World::with_node();
    let set = |id: &str| {
        json!({ "op": "schedule.set", "select": { "all": true },
                "entries": [{ "id": id, "job": "job", "every_ms": 5_000 }] })
    };
    let (held, _) = schedule_in(&world.ask(set("one"))).unwrap();
    let claim = hello_with(ScheduleVersion { counter: u64::MAX, ..held });
    world.report(A, None, &claim);
    let (later, entries) = schedule_in(&world.ask(set("two"))).unwrap();
    assert_eq!((later.counter, entries), (held.counter + 1, vec!["two".to_owned()]));
}

#[test]
fn a_hub_that_went_back_to_a_snapshot_gets_its_schedule_to_a_node_that_had_a_later_one() {
    for sets_another in [false, true] {
        let mut world = World::with_node();
        let set = |id: &str| {
            json!({ "op": "schedule.set", "select": { "all": true },
                    "entries": [{ "id": id, "job": "job", "every_ms": 5_000 }] })
        };
        world.ask(set("one"));
        // A snapshot of the file system: as good as `fieldpost backup`, says OPERATING.md.
        let snapshot = world.store.clone();
        let (mut held, mut entries) = schedule_in(&world.ask(set("two"))).unwrap();
        assert_eq!(entries, ["two"]);
        let mut world = World::with(settings(), snapshot, world.moment + 60_000);
        let mut wanted = "one";
        if sets_another {
            world.ask(set("three"));
            wanted = "three";
        }
        for _ in 0..5 {
            let sent = world.report(A, None, &hello_with(held));
            // As the agent does: "within an epoch a higher counter does; an older one is ignored".
            if let Some((version, ids)) = schedule_in(&sent)
                && (version.epoch != held.epoch || version.counter > held.counter)
            {
                (held, entries) = (version, ids);
            }
        }
        let shown = world.ask(json!({ "op": "nodes.show", "node": "gw" }));
        let shown = &shown.reply()["node"]["schedule"];
        assert_eq!(entries, [wanted], "the hub says {shown}");
        assert_eq!(shown["up_to_date"], true);
    }
}
