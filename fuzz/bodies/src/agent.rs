//! The agent's core, fed with any sequence of inputs that its door allows.
//!
//! What must hold is checked by [`Bench`] at each output, and at the end, when the hub acks
//! everything: every run that was started and not killed with its agent has ended, and nothing
//! is left.

use std::time::Duration;

use fieldpost_agent::agent::{Input, Restored};
use fieldpost_wire::{
    Ack, Arg, Attempt, Beacon, Cancel, CatchUp, Command, Entry, Exit, HubId, List, OutboxId,
    Overlap, Query, RunId, Schedule, ScheduleVersion, Seq, SeqRange, StartId, Trigger, UnixMillis,
    Welcome, When,
};

use crate::bytes::Bytes;

mod bench;
mod disk;

pub use bench::Bench;
pub use disk::Disk;

/// Most inputs of one sequence.
const MOST: usize = 2_000;

/// The jobs of the bench, and one that it does not have.
const JOBS: [&str; 5] = ["ping", "read", "again", "vitals", "nothing"];

/// Any sequence of inputs.
pub fn agent_core(data: &[u8]) {
    lead(Bench::start(Restored::default()), data);
}

/// Any sequence of inputs, for an agent with a spool.
pub fn agent_spool(data: &[u8]) {
    lead(Bench::spooling(Disk::default()), data);
}

fn lead(mut bench: Bench, data: &[u8]) {
    let mut bytes = Bytes(data);
    for _ in 0..MOST {
        if bytes.is_empty() || bench.has_exited() {
            break;
        }
        step(&mut bench, &mut bytes);
    }
    bench.settle();
}

fn step(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 24 {
        0 => raw(bench, bytes),
        1..4 => trigger(bench, bytes),
        4 => cancel(bench, bytes),
        5 => query(bench, bytes),
        6 => schedule(bench, bytes),
        7 => ack(bench, bytes),
        8 => bench.welcome(),
        9 => beacon(bench, bytes),
        10 => bench.pass(Duration::from_millis(1 << bytes.below(22)), 300),
        11 => {
            bench.set_clock(i64::from(bytes.short().cast_signed()) * 10_000, bytes.one_in(2));
        }
        12..15 => {
            let fill = bytes.byte();
            bench.write(bytes.below(16), &vec![fill; usize::from(bytes.short()) % 16_385]);
        }
        15 => {
            let text = bytes.take(64);
            bench.complain(bytes.below(16), text);
        }
        16 | 17 => bench.end(bytes.below(16), exit(bytes)),
        18 => bench.handle(Input::Writable),
        19 => bench.refuse(bytes.below(20)),
        20 => bench.fail_starts(bytes.below(4)),
        21 => {
            let wrong = String::from_utf8_lossy(bytes.take(8)).into_owned();
            bench.handle(Input::Storage(&wrong));
        }
        22 => match bytes.byte() {
            full @ 0..40 => bench.fill_disk(full % 2 == 0),
            40..200 => bench.reload(bytes.one_in(2)),
            _ => bench.stop(),
        },
        _ => bench.kill(),
    }
}

fn exit(bytes: &mut Bytes<'_>) -> Exit {
    match bytes.byte() {
        0 => Exit::None,
        signal @ 1..40 => Exit::Signal(signal.into()),
        code => Exit::Code((code % 4).into()),
    }
}

/// Whatever comes from the hub, but for what would be another hub's word on the time or on a
/// deadline: the promises rest on one hub time, and on a run's one deadline.
fn raw(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let length = usize::from(bytes.short() % 2_048);
    let body = bytes.take(length);
    match Command::decode(body) {
        Ok(Command::Trigger(_) | Command::Cancel(_) | Command::Welcome(_) | Command::Beacon(_)) => {
        }
        Ok(_) | Err(_) => bench.handle(Input::Command(body)),
    }
}

/// One of some runs, each with one deadline.
fn run(bytes: &mut Bytes<'_>) -> (RunId, Attempt, UnixMillis) {
    let number = bytes.byte() % 64;
    let after = u64::from(number) * 7_000;
    let id = RunId([number; 16]);
    (id, Attempt(1 + u32::from(bytes.byte() % 3)), bench::HUB_START.plus_ms(after))
}

fn trigger(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let (run, attempt, deadline) = run(bytes);
    let job = JOBS[bytes.below(JOBS.len())];
    let mut room = [0; 64];
    let value = ["0", "1", "7", ""][bytes.below(4)];
    let args = bytes.one_in(2).then_some(Arg { name: "bus", value });
    let args = List::encode(&mut room, args).expect("it fits");
    bench.hear(&Command::Trigger(Trigger { run, attempt, job, args, deadline, origin: "" }));
}

fn cancel(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let (run, attempt, deadline) = run(bytes);
    bench.hear(&Command::Cancel(Cancel { run, attempt, deadline }));
}

fn query(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let runs: Vec<RunId> = (0..bytes.below(8)).map(|_| run(bytes).0).collect();
    let mut room = [0; 256];
    let runs = List::encode(&mut room, runs).expect("they fit");
    bench.hear(&Command::Query(Query { runs }));
}

fn schedule(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let counter = bytes.byte().into();
    let ids = ["a", "b", "c", "d"];
    let entries: Vec<Entry<'_>> = (0..bytes.below(5))
        .filter_map(|index| {
            Some(Entry {
                id: ids.get(index)?,
                job: JOBS[bytes.below(JOBS.len())],
                args: List::empty(),
                when: match bytes.byte() {
                    0..150 => When::EveryMs(1 + u64::from(bytes.short()) * 10),
                    150..200 => When::Cron("* * * * *"),
                    200..230 => When::Cron("*/7 3 * * 1-5"),
                    _ => When::Cron("61 nonsense"),
                },
                splay_ms: u64::from(bytes.byte()) * 100,
                catch_up: match bytes.below(3) {
                    0 => CatchUp::Skip,
                    1 => CatchUp::Once,
                    _ => CatchUp::All { max: bytes.byte().into() },
                },
                overlap: if bytes.one_in(2) { Overlap::Skip } else { Overlap::Queue },
                timeout_ms: bytes.one_in(4).then_some(1 + u64::from(bytes.short())),
            })
        })
        .collect();
    let mut room = [0; 1024];
    let entries = List::encode(&mut room, entries).expect("four entries fit");
    let version = ScheduleVersion { epoch: 7, counter };
    bench.hear(&Command::Schedule(Schedule { version, entries }));
}

fn ack(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    match bytes.byte() {
        // What never was, and what is of another outbox.
        0..30 => {
            let first = Seq((1 << 40) + u64::from(bytes.byte()));
            let last = Seq(first.0.saturating_add(1 << bytes.below(64)));
            let outbox = if bytes.one_in(2) { bench.outbox() } else { OutboxId([0xee; 16]) };
            let mut room = [0; 32];
            let ranges = List::encode(&mut room, [SeqRange { first, last }]).expect("it fits");
            bench.hear(&Command::Ack(Ack { outbox, ranges }));
        }
        many => bench.ack(usize::from(many)),
    }
}

fn beacon(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let start = StartId([bytes.byte() % 2; 16]);
    let time = bench.hub_time();
    bench.hear(&Command::Beacon(Beacon { hub: HubId([9; 16]), start, time }));
}

/// What answers a `Hello`.
fn welcome(agent_start: StartId, time: UnixMillis) -> Command<'static> {
    Command::Welcome(Welcome {
        hub: HubId([9; 16]),
        start: StartId([0; 16]),
        agent_start,
        time,
        wire: 1,
        schedule: ScheduleVersion::default(),
    })
}
