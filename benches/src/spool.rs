//! The spool: how fast it is written, found again and sent, what it costs in memory, and that it
//! costs nothing while the hub is there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fieldpost_agent::agent::{
    Agent, Identity, Input, Now, Output, Restored, Settings, Slot, Vitals, WhenFull,
};
use fieldpost_agent::io::spool::{Files, Outcome as FilesOutcome};
use fieldpost_agent::job::{Job, Kind, OnRestart, Program, Template};
use fieldpost_agent::spool::{self, Done, Durability, Work};
use fieldpost_sockets::zmq::{Context, DONTWAIT, SocketType};
use fieldpost_sockets::{KeyPair, Socket};
use fieldpost_wire::{
    Ack, Attempt, CatchUp, Command as Order, Entry, HubId, List, OutboxId, Overlap, Report,
    Schedule, ScheduleVersion, Seq, SeqRange, StartId, Tag, Trigger, UnixMillis, Welcome, When,
    node_topic,
};

use crate::child::Process;
use crate::figures::{Figure, Target, median};
use crate::rig::{self, Hub, Place};
use crate::{Bench, Outcome, hops, machine};

const MIB: usize = 1 << 20;
/// What a full spool of the default size holds: less than its bound by the room kept for results.
const FULL: usize = 55 * MIB;
const EPOCH: u64 = 1_795_600_000_000;
const PIECE: usize = 16 * 1024;

/// All rows of the spool.
pub fn run(bench: &Bench) -> Outcome<()> {
    output(bench)?;
    results(bench)?;
    let place = Place::make(&bench.dir)?;
    let directory = place.path().join("spool");
    Writer::fill(&directory, FULL)?;
    recovery(bench, &directory)?;
    full(bench, &place)?;
    healthy(bench)
}

/// What the agent did to its files, to be done to a plain file.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize),
    Sync,
}

/// The agent's core and its files, on a clock that only we move; no hub, but at the start.
struct Writer {
    agent: Agent,
    files: Files,
    boot: Duration,
    slot: Option<Slot>,
    steps: Vec<Step>,
}

impl Writer {
    fn new(directory: &Path) -> Outcome<Self> {
        let (start, outbox) = (StartId(rig::run_id().0), OutboxId(rig::run_id().0));
        let mut files = Files::new(directory);
        let recovered = files.recover(&[]);
        let boot = Duration::from_secs(100);
        let restored = Restored { spool: Some(&recovered), ..Restored::default() };
        let identity = Identity::new(start, outbox, 1);
        let agent = Agent::new(settings()?, restored, identity, now(boot));
        let mut writer = Self { agent, files, boot, slot: None, steps: Vec::new() };
        writer.drain()?;
        writer.hear(&Order::Welcome(Welcome {
            hub: HubId([1; 16]),
            start: StartId([1; 16]),
            agent_start: start,
            time: now(boot).wall,
            wire: 1,
            schedule: ScheduleVersion::default(),
        }))?;
        Ok(writer)
    }

    fn give(&mut self, input: Input<'_>) -> Outcome<()> {
        self.agent.handle(now(self.boot), input);
        self.drain()
    }

    fn hear(&mut self, order: &Order<'_>) -> Outcome<()> {
        let mut body = vec![0; 60 * 1024];
        let body = order.encode(&mut body).map_err(|error| error.to_string())?;
        self.give(Input::Command(body))
    }

    fn drain(&mut self) -> Outcome<()> {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Spool(work) => {
                    match work {
                        Work::Append { bytes, .. } => self.steps.push(Step::Write(bytes.len())),
                        Work::Sync { .. } => self.steps.push(Step::Sync),
                        Work::Delete { .. } | Work::Read { .. } | Work::SetAside { .. } => {}
                    }
                    let done = match self.files.perform(work)? {
                        FilesOutcome::Well => Done::Well,
                        FilesOutcome::Read(bytes) => Done::Read(bytes),
                    };
                    self.agent.handle(now(self.boot), Input::Spooled(done));
                }
                Output::Send(_) => self.agent.handle(now(self.boot), Input::Sent),
                Output::WantVitals => {
                    self.agent.handle(now(self.boot), Input::Vitals(Vitals::default()));
                }
                Output::Start { slot } => self.slot = Some(slot),
                _ => {}
            }
        }
        Ok(())
    }

    /// Time passes in which nobody is heard.
    fn pass(&mut self, seconds: u64) -> Outcome<()> {
        let end = self.boot + Duration::from_secs(seconds);
        while self.boot < end {
            let next = self.agent.next_deadline().unwrap_or(end);
            self.boot = next.min(end).max(self.boot + Duration::from_millis(1));
            self.give(Input::Tick)?;
        }
        Ok(())
    }

    /// Starts a program, and loses the hub.
    fn begin(&mut self) -> Outcome<Slot> {
        let deadline = now(self.boot).wall.plus_ms(60_000);
        let (run, attempt) = (rig::run_id(), Attempt(1));
        let (job, origin, args) = ("read", "", List::empty());
        self.hear(&Order::Trigger(Trigger { run, attempt, job, args, deadline, origin }))?;
        self.pass(100)?;
        self.slot.ok_or_else(|| "the run does not start".into())
    }

    /// The program writes so much.
    fn write(&mut self, slot: Slot, bytes: usize) -> Outcome<()> {
        let piece = [7u8; PIECE];
        for _ in 0..bytes / PIECE {
            self.give(Input::Stdout { slot, bytes: &piece })?;
        }
        Ok(())
    }

    /// A spool that holds so much.
    fn fill(directory: &Path, bytes: usize) -> Outcome<()> {
        let mut writer = Self::new(directory)?;
        let slot = writer.begin()?;
        writer.write(slot, bytes)?;
        let usage = fieldpost_agent::agent::Usage::default();
        let exit = fieldpost_wire::Exit::Code(0);
        writer.give(Input::Ended { slot, exit, usage, note: "" })?;
        writer.give(Input::Stop)?;
        writer.pass(60)
    }

    /// Every second a result.
    fn schedule(&mut self) -> Outcome<()> {
        let mut list = [0; 256];
        let entry = Entry {
            id: "often",
            job: "ping",
            args: List::empty(),
            when: When::EveryMs(1000),
            splay_ms: 0,
            catch_up: CatchUp::Skip,
            overlap: Overlap::Skip,
            timeout_ms: None,
        };
        let entries = List::encode(&mut list, [entry]).map_err(|error| error.to_string())?;
        let version = ScheduleVersion { epoch: 1, counter: 1 };
        self.hear(&Order::Schedule(Schedule { version, entries }))?;
        self.pass(100)
    }
}

fn now(boot: Duration) -> Now {
    let ms = u64::try_from(boot.as_millis()).unwrap_or(0);
    Now { boot, wall: UnixMillis(EPOCH + ms), synchronised: true }
}

fn settings() -> Outcome<Settings> {
    let argv = vec![Template::parse("/bin/pretend", &[]).map_err(|error| error.to_string())?];
    let program = Program { argv, env: Vec::new(), cwd: None, memory: None };
    let job = |name: &str, kind| -> Outcome<Job> {
        Ok(Job {
            name: name.parse().map_err(|_| "a name")?,
            kind,
            args: Vec::new(),
            timeout: Duration::from_secs(1_000_000),
            max_output: 1 << 40,
            concurrency: 1,
            overlap: Overlap::Queue,
            on_restart: OnRestart::Lost,
            durable: false,
        })
    };
    Ok(Settings {
        node: "bench".parse().map_err(|_| "a name")?,
        groups: Vec::new(),
        jobs: vec![job("ping", Kind::Ping)?, job("read", Kind::Command(program))?],
        hubs: vec![1],
        version: "bench",
        concurrency: 4,
        outbox_bytes: MIB,
        when_full: WhenFull::DropOldest,
        spool: Some(spool::Settings {
            max: 1 << 30,
            durability: Durability::Spill,
            write_budget: None,
        }),
        time_zone: tz::TimeZone::utc(),
        grace: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    })
}

/// Appends to a plain file as the agent did to its own, each write in pieces of `piece` bytes.
/// Gives how long it took.
fn plain(place: &Place, steps: &[Step], piece: usize) -> Outcome<f64> {
    let path = place.path().join("plain");
    let bytes = vec![7u8; 256 * 1024];
    let mut file = File::create(&path)?;
    let begin = Instant::now();
    for step in steps {
        match step {
            Step::Write(length) => {
                let mut left = *length;
                while left > 0 {
                    let now = left.min(piece);
                    file.write_all(&bytes[..now])?;
                    left -= now;
                }
            }
            Step::Sync => file.sync_data()?,
        }
    }
    let took = begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(took)
}

fn written(steps: &[Step]) -> usize {
    let length = |step: &Step| if let Step::Write(length) = step { *length } else { 0 };
    steps.iter().map(length).sum()
}

/// Output of a program, from the core's door to the disk.
fn output(bench: &Bench) -> Outcome<()> {
    let bytes = bench.depth.pick(16, 64, 256) * MIB;
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        let place = Place::make(&bench.dir)?;
        let mut writer = Writer::new(&place.path().join("spool"))?;
        let slot = writer.begin()?;
        writer.steps.clear();
        let begin = Instant::now();
        writer.write(slot, bytes)?;
        let ours = begin.elapsed().as_secs_f64() / written(&writer.steps) as f64;
        let floor = plain(&place, &writer.steps, usize::MAX)? / written(&writer.steps) as f64;
        best = (best.0.min(ours), best.1.min(floor));
    }
    let rate = |seconds: f64| 1.0 / seconds / MIB as f64;
    let figure = Figure::ratio(
        "spool, output appended (floor: a plain file)",
        rate(best.0),
        "MiB/s",
        rate(best.1),
        Target::AtLeast(0.8),
    );
    bench.table.add("spool", &figure);
    Ok(())
}

/// Results of a scheduled job that does nothing: made, kept and written.
fn results(bench: &Bench) -> Outcome<()> {
    let count = bench.depth.pick(5_000, 40_000, 200_000);
    let place = Place::make(&bench.dir)?;
    let mut writer = Writer::new(&place.path().join("spool"))?;
    writer.schedule()?;
    writer.steps.clear();
    let begin = Instant::now();
    writer.pass(count)?;
    let ours = count as f64 / begin.elapsed().as_secs_f64();
    let each = written(&writer.steps) / usize::try_from(count)?;
    let floor = count as f64 / plain(&place, &writer.steps, each.max(1))?;
    let figure = Figure::ratio(
        "spool, results made and appended (floor: write(2))",
        ours,
        "1/s",
        floor,
        Target::AtLeast(0.8),
    );
    bench.table.add("spool", &figure);
    Ok(())
}

/// A full spool is found again.
fn recovery(bench: &Bench, directory: &Path) -> Outcome<()> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let mut files = Files::new(directory);
        let begin = Instant::now();
        let recovered = files.recover(&[]);
        best = best.min(begin.elapsed().as_secs_f64());
        if recovered.counts().0 == 0 {
            return Err("nothing was found again".into());
        }
    }
    let figure =
        Figure::new("spool, recovery of a full 64 MiB", best * 1e3, "ms", Target::AtMost(2_000.0));
    bench.table.add("spool", &figure);
    Ok(())
}

/// An agent with a full spool: its memory while no hub is there, and how fast it empties then.
fn full(bench: &Bench, place: &Place) -> Outcome<()> {
    let ends = Ends::new(bench, place)?;
    let empty = Place::make(&bench.dir)?;
    let _unheard = Ends::new(bench, &empty)?;
    let with = resting(bench, place)?;
    let without = resting(bench, &empty)?;
    let figure = Figure::new("agent with a full spool, RSS", with, "KB", Target::None);
    bench.table.add("spool", &figure.beside(without));

    let spool = place.path().join("spool");
    let aside = Place::make(&bench.dir)?;
    copy(&spool, &aside.path().join("spool"))?;
    let mut rounds = Vec::new();
    for _ in 0..bench.depth.pick(1, 5, 9) {
        copy(&aside.path().join("spool"), &spool)?;
        let (records, _) = Files::new(&spool).recover(&[]).counts();
        let agent = start(bench, place)?;
        let (seconds, bytes, most) = ends.take_all(records, agent.pid())?;
        agent.stop();
        let (floor, _) = hops::stream(&bench.ports, PIECE + 64, 8_000)?;
        rounds.push((bytes as f64 / seconds, floor * (PIECE + 64) as f64, most));
    }
    let ours = median(rounds.iter().map(|round| round.0));
    let floor = median(rounds.iter().map(|round| round.1));
    let most = rounds.iter().map(|round| round.2).fold(0.0, f64::max);
    let mib = MIB as f64;
    let figure = Figure::ratio(
        "spool, a full one drained (floor: raw PUSH to PULL)",
        ours / mib,
        "MiB/s",
        floor / mib,
        Target::AtLeast(0.5),
    );
    bench.table.add("spool", &figure);
    let figure = Figure::new("agent that drains a full spool, RSS", most, "KB", Target::None);
    bench.table.add("spool", &figure.beside(without));
    Ok(())
}

/// Copies the files of a directory into another.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

fn resting(bench: &Bench, place: &Place) -> Outcome<f64> {
    let agent = start(bench, place)?;
    // As much as it takes to settle; nothing is waited for that could be seen.
    std::thread::sleep(Duration::from_secs(3));
    let rss = machine::memory(agent.pid()).rss;
    agent.stop();
    Ok(rss)
}

fn start(bench: &Bench, place: &Place) -> Outcome<Process> {
    let mut command = Command::new(&bench.programs.agent);
    command.args(["run", "--config"]).arg(place.path().join("agent.toml")).env("RUST_LOG", "error");
    Ok(Process::start(&mut command)?)
}

/// The hub's ends of the sockets, and nothing behind them: every report is acked as it comes.
struct Ends {
    keys: KeyPair,
    triggers: String,
    results: String,
}

impl Ends {
    /// Writes the configuration of an agent that knows them.
    fn new(bench: &Bench, place: &Place) -> Outcome<Self> {
        let keys = KeyPair::generate();
        let [triggers, results, ..] = bench.ports.take_endpoints();
        let shown = place.path().display();
        let config = place.path().join("agent.toml");
        fs::write(
            &config,
            format!(
                r#"[node]
id = "bench"
key_file = "{shown}/agent.key"
runtime_dir = "{shown}/run"
state_dir = "{shown}/state"
[[hub]]
triggers = "{triggers}"
results = "{results}"
server_keys = ['{}']
[outbox]
spool = {{ path = "{shown}/spool" }}
[[job]]
name = "ping"
builtin = "ping"
"#,
                keys.public
            ),
        )?;
        let made = Command::new(&bench.programs.agent)
            .args(["key", "new", "--config"])
            .arg(&config)
            .output()?;
        if !made.status.success() {
            return Err("the agent makes no key".into());
        }
        Ok(Self { keys, triggers, results })
    }

    fn bind(&self, context: &Context, kind: SocketType, at: &str) -> Outcome<Socket> {
        let socket = Socket::new(context, kind)?;
        socket.set_curve_server(true)?;
        socket.set_curve_secretkey(self.keys.secret.bytes())?;
        socket.bind(at)?;
        Ok(socket)
    }

    /// Takes so many reports: the seconds from the first to the last, their bytes, and the most
    /// memory that the agent had then.
    fn take_all(&self, records: u64, pid: u32) -> Outcome<(f64, u64, f64)> {
        let context = Context::new();
        let commands = self.bind(&context, SocketType::XPUB, &self.triggers)?;
        let reports = self.bind(&context, SocketType::PULL, &self.results)?;
        let topic = node_topic(&"bench".parse().map_err(|_| "a name")?);
        let mut message = fieldpost_sockets::zmq::Message::new();
        let mut acks = Vec::<(OutboxId, SeqRange)>::new();
        let (mut begin, mut count, mut bytes, mut most) = (None::<Instant>, 0, 0, 0.0f64);
        let latest = Instant::now() + Duration::from_secs(120);
        while count < records {
            if Instant::now() > latest {
                return Err(format!("{count} of {records} reports came").into());
            }
            while commands.recv(&mut message, DONTWAIT).is_ok() {}
            if reports.recv(&mut message, DONTWAIT).is_err() {
                ack(&commands, &topic, &mut acks)?;
                reports.poll(fieldpost_sockets::zmq::PollEvents::POLLIN, 10)?;
                continue;
            }
            let (tag, report) = Report::decode(&message).map_err(|error| error.to_string())?;
            if let Report::Hello(hello) = report {
                let welcome = Welcome {
                    hub: HubId([1; 16]),
                    start: StartId([1; 16]),
                    agent_start: hello.start,
                    time: rig::now(),
                    wire: 1,
                    schedule: ScheduleVersion::default(),
                };
                send(&commands, &topic, &Order::Welcome(welcome))?;
            }
            let Some(Tag { outbox, seq }) = tag else { continue };
            begin.get_or_insert_with(Instant::now);
            count += 1;
            bytes += message.len() as u64;
            if count % 256 == 0 {
                most = most.max(machine::memory(pid).rss);
            }
            match acks.last_mut() {
                Some((of, range)) if *of == outbox && range.last == Seq(seq.0 - 1) => {
                    range.last = seq;
                }
                _ => acks.push((outbox, SeqRange { first: seq, last: seq })),
            }
            if acks.len() >= 16 || count % 8 == 0 {
                ack(&commands, &topic, &mut acks)?;
            }
        }
        let seconds = begin.map_or(0.0, |begin| begin.elapsed().as_secs_f64());
        ack(&commands, &topic, &mut acks)?;
        Ok((seconds, bytes, most))
    }
}

fn ack(commands: &Socket, topic: &[u8], acks: &mut Vec<(OutboxId, SeqRange)>) -> Outcome<()> {
    for (outbox, range) in acks.drain(..) {
        let mut list = [0; 64];
        let ranges = List::encode(&mut list, [range]).map_err(|error| error.to_string())?;
        send(commands, topic, &Order::Ack(Ack { outbox, ranges }))?;
    }
    Ok(())
}

fn send(commands: &Socket, topic: &[u8], order: &Order<'_>) -> Outcome<()> {
    let mut body = [0; 1024];
    let body = order.encode(&mut body).map_err(|error| error.to_string())?;
    commands.transmit_more(topic)?;
    commands.transmit(body)?;
    Ok(())
}

/// Work as every day, with the hub there: what the agent writes to disk.
fn healthy(bench: &Bench) -> Outcome<()> {
    let seconds = bench.depth.pick(10, 60, 600);
    let (place, memory) = (Place::make(&bench.dir)?, Place::make(Path::new("/dev/shm"))?);
    let hub = Hub::start(&bench.programs, &place, &bench.ports)?;
    let key = rig::Agent::prepare(&hub, &place, "bench")?;
    let config = place.path().join("agent.toml");
    let (disk, ram) = (place.path().display(), memory.path().display());
    let text = fs::read_to_string(&config)?
        .replace(&format!("{disk}/agent-run"), &format!("{ram}/agent-run"));
    fs::write(&config, format!("{text}\n[outbox]\nspool = {{ path = \"{disk}/spool\" }}\n"))?;
    hub.import(&[("bench".to_owned(), key)])?;
    let agent = rig::Agent::start(&bench.programs, &place)?;
    agent.welcomed()?;
    let mut client = hub.client_with(&["job/ping/", "job/true/", "job/vitals/"])?;
    // The first events may come before the subscription.
    if client.trigger("ping", "bench").is_err() {
        client.trigger("ping", "bench")?;
    }
    let before = written_to_disk(agent.pid());
    let (begin, mut runs) = (Instant::now(), 0u32);
    while begin.elapsed() < Duration::from_secs(seconds) {
        for job in ["ping", "true", "vitals"] {
            client.trigger(job, "bench")?;
            runs += 1;
        }
    }
    let wrote = written_to_disk(agent.pid()) - before;
    agent.stop();
    hub.stop();
    let what = format!("written to disk in {seconds} s, {runs} runs, the hub there");
    bench.table.add("spool", &Figure::new(what, wrote, "B", Target::Exactly(0.0)));
    Ok(())
}

/// Bytes that a process caused to be written, as the kernel counts.
fn written_to_disk(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(f64::NAN)
}
