//! How fast the core and its store take in results, without sockets.
//!
//! ```text
//! cargo run --release -p fieldpost-hub --example ingest -- DIRECTORY [REPORTS] [ROWS BEFORE]
//! ```
//!
//! 2,000 nodes' `Finished` reports of 256 B, each node's in its own order, are fed as the event
//! loop would; the figures are of committed and acked ones.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fieldpost_hub::config::{Limits, Retention};
use fieldpost_hub::hub::{Hub, Input, Moment, Now, Output, Settings};
use fieldpost_hub::store::sqlite::Sqlite;
use fieldpost_hub::store::{
    Batch, Change, Identity, Key, NodeId, NodeKey, NodeRecord, Store, StoreThread,
};
use fieldpost_wire::{
    Attempt, BootId, Cause, Clock, Exit, Finished, HubId, OutboxId, Report, RunId, Seq, StartId,
    Status, Tag, UnixMillis,
};

const NODES: u32 = 2_000;
/// Reports pre-encoded at once.
const PORTION: usize = 250_000;
const START_MS: u64 = 1_800_000_000_000;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    env_logger_off();
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().ok_or("a directory for the store is missing")?);
    let reports: usize = args.next().as_deref().unwrap_or("1000000").parse()?;
    let before: usize = args.next().as_deref().unwrap_or("0").parse()?;
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("ingest.db");
    let identity = Identity { hub: HubId([1; 16]), epoch: 1 };
    let mut store = Sqlite::open(&path, identity)?;
    store.commit(&fleet())?;
    let restored = store.restore()?;
    let (bell, rung) = channel();
    // A receiver that is gone means that the measurement is over.
    let thread = StoreThread::start(Box::new(store), move || bell.send(()).unwrap_or(()))?;
    let settings = Settings {
        name: "bench".parse().map_err(|_| "a name")?,
        version: "bench",
        start: StartId([2; 16]),
        seed: 1,
        retention: Retention { age: Duration::from_secs(86_400), size: 1 << 40 },
        limits: Limits { pending_nodes: 10 },
        clients: Vec::new(),
        #[cfg(feature = "planted-bugs")]
        bugs: fieldpost_hub::hub::Bugs::default(),
    };
    let clock = Instant::now();
    let hub = Hub::new(settings, restored, now(clock));
    let mut feed = Feed { hub, thread, rung, clock, acked: 0, seqs: vec![1 << 21; NODES as usize] };
    if before > 0 {
        feed.run(before, "before")?;
    }
    feed.run(reports, "measured")?;
    drop(feed);
    std::fs::remove_file(&path)?;
    Ok(())
}

fn env_logger_off() {
    log::set_max_level(log::LevelFilter::Warn);
}

fn now(clock: Instant) -> Now {
    let ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(0);
    Now { moment: Moment(ms), wall: UnixMillis(START_MS + ms) }
}

fn key(node: u32) -> Key {
    let text = format!("{node:0>8}abcdefghijklmnopqrstuvwxyz012345");
    Key::read(&text).expect("it has 40 characters")
}

fn fleet() -> Batch {
    let mut batch = Batch::default();
    for node in 1..=NODES {
        batch.change(Change::Node(NodeRecord {
            id: NodeId(node),
            name: format!("node-{node}").parse().expect("a name"),
            groups: Vec::new(),
            keys: vec![NodeKey { key: key(node), until: None }],
            accepted: UnixMillis(START_MS),
            quarantined: None,
            regrouped: 1,
        }));
    }
    batch
}

struct Feed {
    hub: Hub,
    thread: StoreThread,
    rung: Receiver<()>,
    clock: Instant,
    acked: u64,
    seqs: Vec<u64>,
}

impl Feed {
    fn run(&mut self, reports: usize, what: &str) -> Result<(), Error> {
        let (mut wall, mut own, mut all) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut left = reports;
        while left > 0 {
            let portion = self.encode(left.min(PORTION))?;
            left -= portion.len();
            let (began, own_before, all_before) = (Instant::now(), cpu(true)?, cpu(false)?);
            self.portion(&portion)?;
            wall += began.elapsed();
            own += cpu(true)? - own_before;
            all += cpu(false)? - all_before;
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / reports as f64;
        println!(
            "{what}: {reports} reports, {:.0} k/s; CPU a report: {:.2} µs (core {:.2}, store \
             {:.2}); {} acks",
            reports as f64 / wall.as_secs_f64() / 1e3,
            each(all),
            each(own),
            each(all - own),
            self.acked
        );
        Ok(())
    }

    fn encode(&mut self, count: usize) -> Result<Vec<(u32, Vec<u8>)>, Error> {
        let mut room = [0; 512];
        let stderr = [b'x'; 132];
        (0..count)
            .map(|i| {
                let node = u32::try_from(i)? % NODES;
                let seq = &mut self.seqs[node as usize];
                *seq += 1;
                let mut random = [0; 10];
                random[..4].copy_from_slice(&node.wrapping_mul(2_654_435_761).to_be_bytes());
                random[4..].copy_from_slice(&seq.to_be_bytes()[2..]);
                let finished = Finished {
                    run: RunId::v7(UnixMillis(START_MS + *seq), random),
                    attempt: Attempt::FIRST,
                    job: "read-meter",
                    cause: Cause::Trigger,
                    status: Status::Ok,
                    exit: Exit::Code(0),
                    started: UnixMillis(START_MS),
                    boot: BootId(1),
                    started_boot_ms: 1_000_000,
                    clock: Clock::Trusted,
                    duration_us: 12_345,
                    chunks: 0,
                    bytes: 0,
                    crc32c: 0,
                    stderr: &stderr,
                    note: "",
                    peak_rss_kib: 1_234,
                    cpu_us: 5_678,
                    truncated: false,
                    output_dropped: false,
                };
                let mut outbox = [0; 16];
                outbox[..4].copy_from_slice(&node.to_be_bytes());
                let tag = Tag { outbox: OutboxId(outbox), seq: Seq(*seq) };
                let body = Report::Finished(finished).encode(Some(tag), &mut room)?;
                Ok((node + 1, body.to_vec()))
            })
            .collect()
    }

    fn portion(&mut self, portion: &[(u32, Vec<u8>)]) -> Result<(), Error> {
        let keys: Vec<Key> = (0..=NODES).map(key).collect();
        for (i, (node, body)) in portion.iter().enumerate() {
            while !self.hub.may_read_reports() {
                self.turn();
                if !self.hub.may_read_reports() {
                    self.rung.recv()?;
                }
            }
            // The event loop reads the clocks and looks at the store once in a burst.
            if i % 32 == 0 {
                self.turn();
            }
            let input = Input::Report { key: keys[*node as usize].as_str(), body };
            self.hub.handle(now(self.clock), input);
            self.drain();
        }
        while !self.hub.is_idle() {
            self.turn();
            if self.thread.is_busy() {
                self.rung.recv()?;
            }
        }
        Ok(())
    }

    fn turn(&mut self) {
        if let Some(done) = self.thread.take_done() {
            let input = Input::Committed { batch: done.batch, outcome: done.outcome };
            self.hub.handle(now(self.clock), input);
            self.drain();
        }
        if !self.thread.is_busy()
            && let Some(batch) = self.hub.take_batch()
        {
            self.thread.commit(batch);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            if let Output::Publish { .. } = output {
                self.acked += 1;
            }
        }
    }
}

/// CPU time so far, of this thread or of all.
fn cpu(own: bool) -> Result<Duration, Error> {
    use nix::sys::resource::{UsageWho, getrusage};
    let who = if own { UsageWho::RUSAGE_THREAD } else { UsageWho::RUSAGE_SELF };
    let usage = getrusage(who)?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0)
    };
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}
