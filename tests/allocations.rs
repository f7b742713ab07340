//! In steady state a built-in job's trigger → result makes no heap allocation.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fieldpost_agent::agent::{
    Agent, Identity, Input, Now, Output, Restored, Settings, Vitals, WhenFull,
};
use fieldpost_agent::job::{Job, Kind, OnRestart};
use fieldpost_wire::{
    Ack, Attempt, Command, HubId, List, OutboxId, Overlap, Report, RunId, ScheduleVersion,
    SeqRange, StartId, Trigger, UnixMillis, Welcome,
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }
}

const START: StartId = StartId([1; 16]);
const OUTBOX: OutboxId = OutboxId([2; 16]);

fn settings() -> Settings {
    let ping = Job {
        name: "noop".parse().unwrap(),
        kind: Kind::Ping,
        args: Vec::new(),
        timeout: Duration::from_secs(20),
        max_output: 1 << 20,
        concurrency: 1,
        overlap: Overlap::Queue,
        on_restart: OnRestart::Lost,
        durable: false,
    };
    Settings {
        node: "gw-017".parse().unwrap(),
        groups: Vec::new(),
        jobs: vec![ping],
        hubs: vec![1],
        version: "0.1.0",
        concurrency: 4,
        outbox_bytes: 1 << 20,
        when_full: WhenFull::DropOldest,
        spool: None,
        time_zone: tz::TimeZone::utc(),
        grace: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    }
}

fn at(ms: u64) -> Now {
    let wall = UnixMillis(1_700_000_000_000 + ms);
    Now { boot: Duration::from_millis(ms), wall, synchronised: true }
}

/// Does what the agent wants, and acks each reliable report. Gives how many there were.
fn drain(agent: &mut Agent, now: Now) -> usize {
    let mut finished = 0;
    let (mut list, mut body) = ([0; 32], [0; 128]);
    loop {
        let acked = match agent.poll_output() {
            None => return finished,
            Some(Output::Send(body)) => {
                let (tag, report) = Report::decode(body).unwrap();
                finished += usize::from(matches!(report, Report::Finished(_)));
                tag.map(|tag| tag.seq)
            }
            Some(Output::WantVitals) => {
                agent.handle(now, Input::Vitals(Vitals::default()));
                continue;
            }
            Some(_) => continue,
        };
        agent.handle(now, Input::Sent);
        if let Some(seq) = acked {
            let ranges = List::encode(&mut list, [SeqRange { first: seq, last: seq }]).unwrap();
            let ack = Command::Ack(Ack { outbox: OUTBOX, ranges }).encode(&mut body).unwrap();
            agent.handle(now, Input::Command(ack));
        }
    }
}

fn trigger(agent: &mut Agent, n: u32, now: Now) -> usize {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let command = Command::Trigger(Trigger {
        run: RunId(id),
        attempt: Attempt(1),
        job: "noop",
        args: List::empty(),
        deadline: now.wall.plus_ms(5_000),
        origin: "dag/task/run",
    });
    let mut body = [0; 256];
    let body = command.encode(&mut body).unwrap();
    agent.handle(now, Input::Command(body));
    drain(agent, now)
}

#[test]
fn a_ping_from_trigger_to_ack_allocates_nothing() {
    let identity = Identity::new(START, OUTBOX, 7);
    let mut agent = Agent::new(settings(), Restored::default(), identity, at(0));
    drain(&mut agent, at(0));
    let welcome = Command::Welcome(Welcome {
        hub: HubId([9; 16]),
        start: StartId([8; 16]),
        agent_start: START,
        time: at(0).wall,
        wire: 1,
        schedule: ScheduleVersion::default(),
    });
    let mut body = [0; 128];
    let body = welcome.encode(&mut body).unwrap();
    agent.handle(at(0), Input::Command(body));
    drain(&mut agent, at(0));
    // Long enough for deadlines to pass, heartbeats to go, the journal to be written anew.
    for n in 0..10_000 {
        assert_eq!(trigger(&mut agent, n, at(u64::from(n) * 10)), 1);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for n in 10_000..20_000 {
        assert_eq!(trigger(&mut agent, n, at(u64::from(n) * 10)), 1);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
