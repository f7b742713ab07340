//! Hostile peers on real sockets. Whatever they do, the hub stays up, its memory stays within the
//! bound that docs/OPERATING.md states, the honest node's runs all end well, and it keeps most of its
//! throughput: that is measured against peers that burn as much of this machine's cores without a word to
//! the hub.
//!
//! `HOSTILE_SECONDS=60 cargo test --workspace --test hostile -- --nocapture` goes on for longer.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod garble;
mod site;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fieldpost_sockets::{Errno, KeyPair, Socket, zmq};
use fieldpost_wire::{
    Attempt, BootId, Cause, Clock, Exit, Finished, OutboxId, Output, Report, RunId, Seq, Status,
    Tag, UnixMillis, limits,
};
use garble::Between;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use site::{PROGRAMS, Site, eventually, field};

/// What all peers together may make the hub hold beyond what it holds at rest: docs/OPERATING.md.
const MOST_MIB: u64 = 256;

/// What of its throughput the honest node keeps at least.
const LEAST_KEPT: f64 = 0.8;

/// One at a time: they are measured by what this process burns.
static ONE: Mutex<()> = Mutex::new(());

/// A ZMTP 3.1 greeting for CURVE, of a client.
const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[11] = 1;
    let mechanism = b"CURVE";
    let mut at = 0;
    while at < mechanism.len() {
        greeting[12 + at] = mechanism[at];
        at += 1;
    }
    greeting
};

fn lasting() -> Duration {
    let seconds = std::env::var("HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// How an honest node fares: it has a schedule with fifty runs a second.
struct Honest<'s> {
    site: &'s Site,
    /// Results that were counted already.
    offset: u64,
}

/// Its schedule's results stored in a second, and how long a run takes that a client triggers meanwhile, from
/// the request until the result is durable.
struct Fare {
    stored: f64,
    median: Duration,
}

impl<'s> Honest<'s> {
    fn new(site: &'s Site) -> Self {
        let entry = |number| {
            json!({
                "id": format!("often-{number}"), "job": "ping", "every_ms": 100,
                "catch_up": "skip", "overlap": "queue",
            })
        };
        let entries: Vec<_> = (0..5).map(entry).collect();
        site.ask("schedule.set", json!({"select": {"nodes": ["gw-1"]}, "entries": entries}));
        eventually("it runs", || (site.results().len() > 5).then_some(()));
        let mut honest = Self { site, offset: 0 };
        honest.count();
        honest
    }

    /// The schedule's results since the last count. Those that come while it asks are of the next one:
    /// where asking takes as long as a result, there would be no end.
    fn count(&mut self) -> u32 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let mut count = 0;
        loop {
            let page = self.site.ask("results", json!({"after": self.offset, "limit": 500}));
            let rows = page["results"].as_array().unwrap();
            let Some(last) = rows.last() else { return count };
            self.offset = last["offset"].as_u64().unwrap();
            let scheduled = rows.iter().filter(|row| row["cause"]["due_ms"].is_u64());
            count += u32::try_from(scheduled.count()).unwrap();
            if u128::from(last["received_ms"].as_u64().unwrap()) >= now {
                return count;
            }
        }
    }

    fn fare(&mut self, time: Duration) -> Fare {
        let began = Instant::now();
        let mut took = Vec::new();
        while began.elapsed() < time || took.is_empty() {
            let asked = Instant::now();
            let run = self.site.submit("ping", json!({}), json!({"nodes": ["gw-1"]}));
            assert_eq!(field(&self.site.finished(&run)[0], "status"), "ok");
            took.push(asked.elapsed());
        }
        let stored = f64::from(self.count()) / began.elapsed().as_secs_f64();
        took.sort_unstable();
        Fare { stored, median: took[took.len() / 2] }
    }
}

impl std::fmt::Display for Fare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, {:.0} ms", self.stored, self.median.as_secs_f64() * 1e3)
    }
}

fn peak_mib(site: &Site) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", site.hub.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// What a peer does until it is told to stop; it counts its deeds.
type Attacker<'a> = &'a (dyn Fn(&Site, &AtomicBool, &AtomicU64) + Sync);

/// Some threads of these peers for a while, beside an honest node.
fn beset(name: &str, attackers: &[Attacker<'_>]) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let site = site;
    let mut honest = Honest::new(&site);
    let began = Burnt::now();
    let before = honest.fare(Duration::from_secs(2));
    let asking = began.cores_since();
    let rest = site.hub.rss_kib() / 1024;
    let began = Burnt::now();
    let (stop, deeds) = (AtomicBool::new(false), AtomicU64::new(0));
    let meanwhile = std::thread::scope(|scope| {
        for attacker in attackers {
            scope.spawn(|| attacker(&site, &stop, &deeds));
        }
        let fare = honest.fare(lasting());
        stop.store(true, Ordering::Relaxed);
        fare
    });
    let burnt = (began.cores_since() - asking).max(0.0);
    let after = honest.fare(Duration::from_secs(1));
    let beside_burners = std::thread::scope(|scope| {
        stop.store(false, Ordering::Relaxed);
        for _ in 0..burnt.ceil() as usize {
            scope.spawn(|| burn(burnt / burnt.ceil(), &stop));
        }
        let fare = honest.fare(lasting());
        stop.store(true, Ordering::Relaxed);
        fare
    });
    assert!(deeds.load(Ordering::Relaxed) > 0, "{name}: nothing was done");
    let kept = meanwhile.stored / beside_burners.stored;
    let peak = peak_mib(&site);
    println!(
        "{name}: {} deeds; the honest node's schedule's results and a trigger's time: before {before}; \
         meanwhile {meanwhile}; after {after}; beside peers that only burn {burnt:.2} cores \
         {beside_burners}: {:.0} % kept; the hub {rest} MiB before, {peak} MiB at the most",
        deeds.load(Ordering::Relaxed),
        100.0 * kept,
    );
    assert!(kept >= LEAST_KEPT, "the honest node keeps {kept:.2} of its throughput");
    assert!(peak < rest + MOST_MIB, "the hub grew from {rest} to {peak} MiB");
}

/// The processor time of this process, and when that was.
struct Burnt {
    time: Duration,
    at: Instant,
}

impl Burnt {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let time = usage.user_time() + usage.system_time();
        let micros = u64::try_from(time.num_microseconds()).unwrap();
        Self { time: Duration::from_micros(micros), at: Instant::now() }
    }

    /// How many cores it took since then.
    fn cores_since(&self) -> f64 {
        let now = Self::now();
        (now.time - self.time).as_secs_f64() / (now.at - self.at).as_secs_f64()
    }
}

/// Takes so much of a core until it is told to stop.
fn burn(share: f64, stop: &AtomicBool) {
    let burnt = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let (began, before) = (Instant::now(), burnt());
    while !stop.load(Ordering::Relaxed) {
        if burnt() - before < began.elapsed().mul_f64(share) {
            std::hint::black_box(RunId::v7(UnixMillis(0), [0; 10]));
        } else {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn ports(site: &Site) -> [u16; 4] {
    [site.ports.triggers, site.ports.results, site.ports.clients, site.ports.events]
}

/// A socket of a node that was accepted, and whose key somebody else has.
fn accepted(site: &Site, context: &zmq::Context, kind: zmq::SocketType) -> Socket {
    let port = if kind == zmq::PUSH { site.ports.results } else { site.ports.triggers };
    accepted_at(port, site, context, kind)
}

/// The same, that takes the hub to be at this port.
fn accepted_at(port: u16, site: &Site, context: &zmq::Context, kind: zmq::SocketType) -> Socket {
    let keys = KeyPair::generate();
    let name = format!("bad-{}", fastrand::u32(..));
    site.ask("nodes.accept", json!({"key": keys.public.to_string(), "node": name}));
    let socket = Socket::new(context, kind).unwrap();
    socket.join_curve(&site.server, &keys.public, &keys.secret).unwrap();
    socket.set_reconnect_ivl(50).unwrap();
    socket.set_sndhwm(1_000).unwrap();
    socket.connect(&format!("tcp://127.0.0.1:{port}")).unwrap();
    socket
}

/// Sends, and waits while there is no room; says whether it was taken before the end.
fn pressed(stop: &AtomicBool, mut send: impl FnMut() -> Result<(), Errno>) -> bool {
    while !stop.load(Ordering::Relaxed) {
        match send() {
            Ok(()) => return true,
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    false
}

/// Keeps `count` connections open, each of which sends these bytes so many at a time.
fn dribble(
    site: &Site,
    stop: &AtomicBool,
    deeds: &AtomicU64,
    count: usize,
    bytes: &[u8],
    step: usize,
) {
    let connect = |index: usize| {
        let stream = TcpStream::connect(("127.0.0.1", ports(site)[index % 4])).ok()?;
        stream.set_nonblocking(true).ok()?;
        deeds.fetch_add(1, Ordering::Relaxed);
        Some((stream, 0))
    };
    let mut streams: Vec<Option<(TcpStream, usize)>> = (0..count).map(connect).collect();
    while !stop.load(Ordering::Relaxed) {
        for (index, slot) in streams.iter_mut().enumerate() {
            let Some((stream, sent)) = slot else {
                *slot = connect(index);
                continue;
            };
            let end = (*sent + step).min(bytes.len());
            let over = match stream.write(&bytes[*sent..end]) {
                Ok(written) => {
                    *sent += written;
                    false
                }
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            let closed = matches!(stream.read(&mut [0; 256]), Ok(0));
            if over || closed {
                *slot = None;
            }
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn slow_handshakes_and_garbage_hold_nobody_up() {
    let slow = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        dribble(site, stop, deeds, 400, &GREETING, 1);
    };
    // Within the greeting's promise of CURVE: a HELLO that is none, and then more of it.
    let wrong = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let hello = [GREETING.as_slice(), b"\x04\xc8\x05HELLO\x01\0", &[0xaa; 4_000]].concat();
        dribble(site, stop, deeds, 100, &hello, 500);
    };
    let noise = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let mut bytes = vec![0; 65_536];
        bytes.fill_with(|| fastrand::u8(..));
        dribble(site, stop, deeds, 100, &bytes, 8_192);
    };
    beset("slow handshakes and garbage", &[&slow, &wrong, &noise]);
}

#[test]
fn garbage_inside_the_encrypted_channel_holds_nobody_up() {
    let peers = |kind: zmq::SocketType| {
        move |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
            let is_push = kind == zmq::PUSH;
            let between =
                Between::new(if is_push { site.ports.results } else { site.ports.triggers });
            std::thread::scope(|scope| {
                scope.spawn(|| between.serve(stop, deeds));
                let context = zmq::Context::new();
                let socket = accepted_at(between.port(), site, &context, kind);
                let message = [b"\x01n/bad/".as_slice(), &[7; 300]].concat();
                let length = if is_push { message.len() } else { 8 };
                while pressed(stop, || socket.transmit(&message[..length])) {
                    std::thread::park_timeout(Duration::from_micros(100));
                }
            });
        }
    };
    let (reporter, subscriber) = (peers(zmq::PUSH), peers(zmq::XSUB));
    beset("garbage inside of CURVE", &[&reporter, &reporter, &subscriber]);
}

#[test]
fn frames_that_claim_four_gib_take_no_memory() {
    // As a command and as a message, then as many bytes as the hub takes.
    let claims = |header: u8| {
        move |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
            let header = [header, 0, 0, 0, 1, 0, 0, 0, 0];
            let bytes = [GREETING.as_slice(), &header, &vec![0x55; 1 << 20]].concat();
            dribble(site, stop, deeds, 60, &bytes, 1 << 16);
        }
    };
    let (command, message) = (claims(6), claims(2));
    beset("frames of 4 GiB", &[&command, &message]);
}

#[test]
fn a_million_subscriptions_are_refused() {
    let subscriber = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let context = zmq::Context::new();
        // An XSUB's subscriptions are messages: it keeps none itself.
        let socket = accepted(site, &context, zmq::XSUB);
        for number in 0..1_000_000_u32 {
            let topic = [b"\x01n/gw-1/".as_slice(), &number.to_be_bytes()].concat();
            if !pressed(stop, || socket.transmit(&topic)) {
                return;
            }
            deeds.fetch_add(1, Ordering::Relaxed);
        }
    };
    beset("a million subscriptions", &[&subscriber]);
}

#[test]
fn a_message_of_200_000_frames_is_cut() {
    let talker = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let context = zmq::Context::new();
        let socket = accepted(site, &context, zmq::PUSH);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..200_000 {
                if !pressed(stop, || socket.transmit_more(b"x")) {
                    return;
                }
            }
            pressed(stop, || socket.transmit(b"x"));
            deeds.fetch_add(1, Ordering::Relaxed);
        }
    };
    beset("messages of 200,000 frames", &[&talker]);
}

#[test]
fn a_message_that_never_ends_is_cut() {
    let talker = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let context = zmq::Context::new();
        let socket = accepted(site, &context, zmq::PUSH);
        let frame = vec![7; 60_000];
        while pressed(stop, || socket.transmit_more(&frame)) {
            deeds.fetch_add(1, Ordering::Relaxed);
        }
    };
    beset("a message that never ends", &[&talker]);
}

/// A node that sends these reports as fast as they are taken.
fn flood(
    site: &Site,
    stop: &AtomicBool,
    deeds: &AtomicU64,
    make: impl Fn(u64, &mut [u8]) -> usize,
) {
    let context = zmq::Context::new();
    let socket = accepted(site, &context, zmq::PUSH);
    let mut body = vec![0; limits::BODY];
    for number in 1.. {
        let length = make(number, &mut body);
        if !pressed(stop, || socket.transmit(&body[..length])) {
            return;
        }
        deeds.fetch_add(1, Ordering::Relaxed);
    }
}

fn run_of(number: u64) -> RunId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&number.to_be_bytes());
    RunId::v7(UnixMillis(1_795_600_000_000 + number), random)
}

fn tag_of(number: u64) -> Option<Tag> {
    Some(Tag { outbox: OutboxId([7; 16]), seq: Seq(number) })
}

#[test]
fn a_flood_of_garbage_leaves_room_for_others() {
    let flooder = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        flood(site, stop, deeds, |number, body| {
            body[..60_000].fill(number.to_le_bytes()[0]);
            60_000
        });
    };
    beset("a flood of garbage", &[&flooder]);
}

#[test]
fn a_flood_of_chunks_leaves_room_for_others() {
    let flooder = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let bytes = [9; limits::CHUNK];
        flood(site, stop, deeds, |number, body| {
            let output =
                Output { run: run_of(number), attempt: Attempt(1), index: 0, bytes: &bytes };
            Report::Output(output).encode(tag_of(number), body).unwrap().len()
        });
    };
    beset("a flood of chunks", &[&flooder]);
}

#[test]
fn a_flood_of_results_whose_chunks_never_come_leaves_room_for_others() {
    let flooder = |site: &Site, stop: &AtomicBool, deeds: &AtomicU64| {
        let stderr = [b'e'; limits::STDERR_TAIL];
        flood(site, stop, deeds, |number, body| {
            let finished = Finished {
                run: run_of(number),
                attempt: Attempt(1),
                job: "ping",
                cause: Cause::Trigger,
                status: Status::Ok,
                exit: Exit::None,
                started: UnixMillis(1_795_600_000_000),
                boot: BootId::UNKNOWN,
                started_boot_ms: 0,
                clock: Clock::Trusted,
                duration_us: 1,
                chunks: 3,
                bytes: 3,
                crc32c: 0,
                stderr: &stderr,
                note: "",
                peak_rss_kib: 0,
                cpu_us: 0,
                truncated: false,
                output_dropped: false,
            };
            Report::Finished(finished).encode(tag_of(number), body).unwrap().len()
        });
    };
    beset("a flood of results without their chunks", &[&flooder]);
}

#[test]
fn the_hub_still_takes_new_nodes_after_all_that() {
    let mut site = Site::new();
    let stop = AtomicBool::new(false);
    let deeds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| dribble(&site, &stop, &deeds, 400, &GREETING, 1));
        eventually("they have come", || (deeds.load(Ordering::Relaxed) >= 400).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    site.node("gw-1", PROGRAMS);
    Honest::new(&site).fare(Duration::ZERO);
}
