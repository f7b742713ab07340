//! What every store must do. Run against each of them.

use std::path::PathBuf;

use fieldpost_wire::{HubId, Name, OutboxId, RunId, Seq, Tag, UnixMillis};

use super::*;

/// A directory for one test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fieldpost-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub fn identity() -> Identity {
    Identity { hub: HubId([7; 16]), epoch: u64::MAX - 5 }
}

/// A store that is opened anew for each step.
pub fn passes<S: Store>(open: impl Fn() -> S) {
    for step in STEPS {
        step(&mut open());
    }
}

/// A store that lives on.
pub fn passes_kept(store: &mut dyn Store) {
    for step in STEPS {
        step(store);
    }
}

const STEPS: [fn(&mut dyn Store); 7] =
    [is_empty, keeps_nodes, keeps_triggers, keeps_results_once, keeps_output, pages, sweeps];

fn commit(store: &mut dyn Store, fill: impl FnOnce(&mut Batch)) -> Committed {
    let mut batch = Batch::default();
    fill(&mut batch);
    store.commit(&batch).unwrap()
}

fn ask(store: &mut dyn Store, query: Query) -> Answer {
    let mut committed = commit(store, |batch| {
        batch.ask(query);
    });
    committed.answers.pop().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn run(n: u8) -> RunId {
    RunId::v7(UnixMillis(1_000_000 + u64::from(n)), [n; 10])
}

fn result(batch: &mut Batch, n: u8, node: u32, source: Source, received: u64) {
    let job = batch.put(&[b"job"]);
    let body = batch.put(&[&[n; 40]]);
    batch.record(Record::Result {
        run: run(n),
        node: NodeId(node),
        attempt: 1,
        source,
        outcome: Outcome::Ok,
        received: UnixMillis(received),
        corrected: (n % 2 == 1).then_some(UnixMillis(received - u64::from(n))),
        job,
        body,
        chunked: true,
    });
}

fn is_empty(store: &mut dyn Store) {
    let restored = store.restore().unwrap();
    assert_eq!(restored.identity, identity());
    assert!(restored.nodes.is_empty() && restored.triggers.is_empty());
    assert_eq!(restored.extent.newest, 0);
}

fn keeps_nodes(store: &mut dyn Store) {
    let key = |c| NodeKey { key: Key([c; 40]), until: None };
    let record = |keys| NodeRecord {
        id: NodeId(1),
        name: name("gw-1"),
        groups: vec![name("berlin"), name("pi4")],
        keys,
        accepted: UnixMillis(5),
        quarantined: Some(UnixMillis(9)),
        regrouped: 3,
    };
    commit(store, |batch| {
        batch.change(Change::Node(record(vec![key(b'a')])));
        batch.change(Change::Node(record(vec![key(b'b'), key(b'c')])));
        batch.change(Change::Revoked(Key([b'a'; 40])));
        batch.change(Change::Revoked(Key([b'z'; 40])));
        batch.change(Change::Pardoned(Key([b'z'; 40])));
        for (scope, entries) in [(Scope::All, "[1]"), (Scope::All, "[]")] {
            let (counter, changed) = (4, UnixMillis(7));
            let entries = entries.to_owned();
            batch.change(Change::Schedule(ScheduleRecord { scope, counter, changed, entries }));
        }
        let consumer = |offset| ConsumerRecord {
            name: name("etl"),
            owner: "loader".to_owned(),
            offset,
            seen: UnixMillis(8),
        };
        batch.change(Change::Consumer(consumer(1)));
        batch.change(Change::Consumer(consumer(2)));
    });
    let restored = store.restore().unwrap();
    assert_eq!(restored.nodes, [record(vec![key(b'b'), key(b'c')])]);
    assert_eq!(restored.revoked, [Key([b'a'; 40])]);
    assert_eq!(restored.schedules.len(), 1);
    assert_eq!(restored.schedules[0].entries, "[]");
    assert_eq!(restored.consumers[0].offset, 2);
    assert_eq!(restored.consumers[0].owner, "loader");
}

fn trigger(n: u8, nodes: &[u32]) -> TriggerRecord {
    TriggerRecord {
        run: run(n),
        submitted: UnixMillis(1_000_000),
        deadline: UnixMillis(2_000_000),
        client: "airflow".to_owned(),
        request: "{}".to_owned(),
        job: name("job"),
        nodes: nodes.iter().copied().map(NodeId).collect(),
        cancelled: None,
        cancelled_nodes: Vec::new(),
        closed: None,
    }
}

fn keeps_triggers(store: &mut dyn Store) {
    let progress =
        ProgressRecord { run: run(1), node: NodeId(2), attempt: 2, until: Some(UnixMillis(3)) };
    commit(store, |batch| {
        batch.change(Change::Trigger(trigger(1, &[1, 2])));
        batch.change(Change::Trigger(trigger(1, &[9])));
        batch.change(Change::Trigger(trigger(2, &[1])));
        batch.change(Change::Progress(progress));
        let time = UnixMillis(4);
        batch.change(Change::Cancelled { run: run(1), time, nodes: vec![NodeId(2)] });
        let tally = Tally { ok: 1, ..Tally::default() };
        batch.change(Change::Closed { run: run(2), tally });
    });
    let restored = store.restore().unwrap();
    assert_eq!(restored.triggers.len(), 1, "the closed one is done with");
    assert_eq!(restored.recent, [run(2), run(1)]);
    let alive = &restored.triggers[0];
    assert_eq!(alive.trigger.nodes, [NodeId(1), NodeId(2)]);
    assert_eq!(alive.trigger.cancelled, Some(UnixMillis(4)));
    assert_eq!(alive.trigger.cancelled_nodes, [NodeId(2)]);
    assert_eq!(alive.progress, [progress]);
    let all = Query::Triggers { before: None, limit: 9, job: None, node: None };
    let Answer::Triggers(rows) = ask(store, all) else { panic!() };
    assert_eq!(rows.iter().map(|row| row.run).collect::<Vec<_>>(), [run(2), run(1)]);
    let of_node =
        Query::Triggers { before: Some(run(2)), limit: 9, job: None, node: Some(NodeId(2)) };
    let Answer::Triggers(rows) = ask(store, of_node) else { panic!() };
    assert_eq!(rows.len(), 1);
}

fn keeps_results_once(store: &mut dyn Store) {
    let committed = commit(store, |batch| {
        for n in 1..=40 {
            result(batch, n, 1, Source::Node, 1_000);
        }
        result(batch, 1, 2, Source::Hub, 1_000);
    });
    assert_eq!(committed.fresh, 41);
    let committed = commit(store, |batch| {
        result(batch, 1, 1, Source::Node, 2_000);
        result(batch, 1, 2, Source::Node, 2_000);
    });
    assert_eq!(committed.fresh, 1, "one was there");
    assert_eq!(committed.extent.newest, 42);
    let query = Query::Run { run: run(1), after: None, limit: 9 };
    let Answer::Run { trigger: Some(_), rows, next: None } = ask(store, query) else { panic!() };
    let seen: Vec<_> =
        rows.iter().map(|row| (row.node.0, row.source, row.received.0, row.revised)).collect();
    assert_eq!(
        seen,
        [
            (1, Source::Node, 1_000, false),
            (2, Source::Node, 2_000, true),
            (2, Source::Hub, 1_000, false)
        ]
    );
    assert_eq!(rows[0].body, [1; 40]);
    assert_eq!(rows[0].corrected, Some(UnixMillis(999)));
    let query = Query::Run { run: run(1), after: None, limit: 1 };
    let Answer::Run { rows, next: Some(NodeId(1)), .. } = ask(store, query) else { panic!() };
    assert_eq!(rows.len(), 1);
    let query = Query::Run { run: run(7), after: None, limit: 1 };
    let Answer::Run { trigger: None, rows, next: None } = ask(store, query) else { panic!() };
    assert_eq!(rows.len(), 1);
    assert_eq!(store.restore().unwrap().triggers[0].results.len(), 3);
}

fn keeps_output(store: &mut dyn Store) {
    let (of, node, attempt) = (run(50), NodeId(1), 1);
    let chunk = |batch: &mut Batch, index: u32| {
        let bytes = batch.put(&[&[b'a' + index as u8; 10]]);
        let received = UnixMillis(1_000);
        batch.record(Record::Chunk { run: of, node, attempt, received, index, bytes });
    };
    commit(store, |batch| {
        for index in [0, 2, 2] {
            chunk(batch, index);
        }
        let body = batch.put(&[b"finished"]);
        let received = UnixMillis(1_000);
        batch.record(Record::Awaiting { run: of, node, attempt, received, body });
        let (tag, body) = (Tag { outbox: OutboxId([1; 16]), seq: Seq(4) }, batch.put(&[b"?"]));
        batch.record(Record::Unreadable { node, tag, received, body });
        let entry = batch.put(&[b"night"]);
        let (from, to, count) = (UnixMillis(1), UnixMillis(2), 2);
        for _ in 0..2 {
            let entry = entry.clone();
            batch.record(Record::Missed { node, received, entry, from, to, count });
        }
        let (from, to, count) = (UnixMillis(3), UnixMillis(3), 1);
        batch.record(Record::Missed { node, received, entry, from, to, count });
    });
    let missed = |before, limit, node| Query::Missed { before, limit, node };
    let Answer::Missed(newest) = ask(store, missed(None, 1, None)) else { panic!() };
    assert_eq!((&*newest[0].entry, newest[0].from, newest[0].count), ("night", UnixMillis(3), 1));
    let older = missed(Some(newest[0].offset), 9, Some(node));
    let Answer::Missed(older) = ask(store, older) else { panic!() };
    assert_eq!(older.len(), 1, "told twice, it stands once");
    assert_eq!((older[0].to, older[0].count), (UnixMillis(2), 2));
    let elsewhere = missed(None, 9, Some(NodeId(99)));
    assert_eq!(ask(store, elsewhere), Answer::Missed(Vec::new()));
    let restored = store.restore().unwrap();
    assert_eq!(restored.awaiting.len(), 1);
    assert_eq!(restored.awaiting[0].held, [(0, 0), (2, 2)]);
    assert_eq!(restored.awaiting[0].body, b"finished");
    let page = |attempt, from| Query::Chunks { run: of, node, attempt, from, bytes: 15 };
    let Answer::Chunks { attempt: 1, chunks, result: None } = ask(store, page(None, 0)) else {
        panic!()
    };
    assert_eq!(chunks, [(0, vec![b'a'; 10])], "up to the gap");
    let committed = commit(store, |batch| {
        chunk(batch, 1);
        result(batch, 50, 1, Source::Node, 1_000);
        batch.ask(Query::Held { run: of, node, attempt });
        batch.ask(page(Some(1), 1));
    });
    let [Answer::Held { held, .. }, Answer::Chunks { chunks, result: Some(_), .. }] =
        &committed.answers[..]
    else {
        panic!()
    };
    assert_eq!(*held, [(0, 2)]);
    assert_eq!(chunks.len(), 1, "within the bytes asked for");
    assert!(store.restore().unwrap().awaiting.is_empty());
}

fn pages(store: &mut dyn Store) {
    let page = |after, limit, nodes: &[u32], scan| Query::Results {
        after,
        limit,
        jobs: vec![name("job")],
        nodes: nodes.iter().copied().map(NodeId).collect(),
        scan,
    };
    let Answer::Results { rows, scanned: 2 } = ask(store, page(0, 2, &[], 99)) else { panic!() };
    assert_eq!(rows.iter().map(|row| row.offset).collect::<Vec<_>>(), [1, 2]);
    let corrected = [Some(UnixMillis(999)), None];
    assert_eq!(rows.iter().map(|row| row.corrected).collect::<Vec<_>>(), corrected);
    let Answer::Results { rows, scanned: 41 } = ask(store, page(1, 1, &[2], 99)) else { panic!() };
    assert_eq!(rows[0].offset, 41);
    let Answer::Results { rows, scanned: 11 } = ask(store, page(1, 1, &[2], 10)) else { panic!() };
    assert!(rows.is_empty());
    let Answer::Results { scanned, .. } = ask(store, page(i64::MAX as u64, 1, &[], 10)) else {
        panic!()
    };
    assert_eq!(scanned, i64::MAX as u64);
    let line = |what: &str| AuditRecord {
        offset: 0,
        time: UnixMillis(1_000),
        who: "local".to_owned(),
        what: what.to_owned(),
        place: "gw-1".to_owned(),
        outcome: "ok".to_owned(),
        origin: String::new(),
    };
    let committed = commit(store, |batch| {
        batch.change(Change::Audit(line("one")));
        batch.change(Change::Audit(line("two")));
        batch.ask(Query::Audit { before: None, limit: 1 });
        batch.ask(Query::Audit { before: Some(2), limit: 9 });
    });
    let [Answer::Audit(first), Answer::Audit(second)] = &committed.answers[..] else { panic!() };
    assert_eq!((first[0].what.as_str(), first[0].offset), ("two", 2));
    assert_eq!((second[0].what.as_str(), second.len()), ("one", 1));
}

fn sweeps(store: &mut dyn Store) {
    let sweep = |before, bytes, keep_after, rows| {
        let (before, open_since) = (UnixMillis(before), UnixMillis(0));
        Change::Sweep(Sweep { before, bytes, keep_after, open_since, rows })
    };
    let swept = |store: &mut dyn Store, change| commit(store, |batch| batch.change(change)).swept;
    assert_eq!(swept(store, sweep(500, u64::MAX, u64::MAX, 99)), 0);
    assert_eq!(swept(store, sweep(1_500, u64::MAX, 3, 99)), 0, "its trigger is open");
    let tally = Tally { ok: 2, ..Tally::default() };
    commit(store, |batch| batch.change(Change::Closed { run: run(1), tally }));
    assert_eq!(swept(store, sweep(1_500, u64::MAX, 3, 99)), 3, "a consumer holds the rest");
    assert_eq!(swept(store, sweep(1_500, u64::MAX, u64::MAX, 10)), 10);
    let committed = commit(store, |batch| batch.change(sweep(5_000, u64::MAX, u64::MAX, 1_000)));
    assert_eq!(committed.extent.oldest, committed.extent.newest, "the newest one stays");
    let newest = committed.extent.newest;
    let committed = commit(store, |batch| result(batch, 1, 1, Source::Node, 9_000));
    assert_eq!(committed.extent.newest, newest + 1, "no offset is given twice");
    assert_eq!(swept(store, sweep(0, 0, u64::MAX, 1_000)), 1, "too large: the oldest go");
    spares_results_for_what_they_do_not_pay_for(store);
    sweeps_output_that_nobody_claims(store);
}

/// Output without a result is not made room for, and results of an open trigger stay, for a while.
fn spares_results_for_what_they_do_not_pay_for(store: &mut dyn Store) {
    let sweep = |before, bytes, open_since| {
        let (before, open_since) = (UnixMillis(before), UnixMillis(open_since));
        Change::Sweep(Sweep { before, bytes, keep_after: u64::MAX, open_since, rows: 1_000 })
    };
    let (node, received, attempt) = (NodeId(1), UnixMillis(9_000), 1);
    commit(store, |batch| {
        result(batch, 100, 1, Source::Node, 9_000);
        result(batch, 101, 1, Source::Node, 9_000);
        for index in 0..4 {
            let bytes = batch.put(&[&[b'x'; 1 << 19]]);
            batch.record(Record::Chunk { run: run(102), node, attempt, received, index, bytes });
        }
    });
    let swept = |store: &mut dyn Store, change| commit(store, |batch| batch.change(change)).swept;
    assert_eq!(swept(store, sweep(0, 1 << 20, 0)), 0, "twice as much without a result");
    commit(store, |batch| result(batch, 102, 1, Source::Node, 9_000));
    commit(store, |batch| result(batch, 103, 1, Source::Node, 9_000));
    assert!(swept(store, sweep(0, 1 << 20, 0)) > 0, "now it has one");
    commit(store, |batch| {
        batch.change(Change::Trigger(trigger(104, &[1, 2])));
        result(batch, 104, 1, Source::Node, 9_000);
        result(batch, 105, 1, Source::Node, 9_000);
    });
    let committed = commit(store, |batch| batch.change(sweep(99_000, 0, 0)));
    let (oldest, newest) = (committed.extent.oldest, committed.extent.newest);
    assert_eq!(oldest, newest - 1, "the open trigger's stays");
    assert_eq!(swept(store, sweep(99_000, 0, 1_000_000)), 1, "not for ever");
}

/// By when it came: the run id may be of a device without a clock.
fn sweeps_output_that_nobody_claims(store: &mut dyn Store) {
    let (of, node, attempt) = (RunId([0; 16]), NodeId(1), 1);
    let chunks = |store: &mut dyn Store, before| {
        let committed = commit(store, |batch| {
            batch.change(Change::Sweep(Sweep {
                before: UnixMillis(before),
                bytes: u64::MAX,
                keep_after: u64::MAX,
                open_since: UnixMillis(0),
                rows: 1_000,
            }));
            batch.ask(Query::Held { run: of, node, attempt });
        });
        let [Answer::Held { held, .. }] = &committed.answers[..] else { panic!() };
        held.len()
    };
    let received = UnixMillis(LATE_MS);
    commit(store, |batch| {
        let bytes = batch.put(&[b"half of it"]);
        batch.record(Record::Chunk { run: of, node, attempt, received, index: 0, bytes });
    });
    assert_eq!(chunks(store, 2 * LATE_MS), 1, "it may still be in progress");
    assert_eq!(chunks(store, 2 * LATE_MS + 1), 0);
}
