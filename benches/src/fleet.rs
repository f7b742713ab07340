//! Thousands of nodes at the level of the wire: each has its own key, its own two connections, its
//! own outbox. They do nothing but say what a real agent would say.

use std::time::{Duration, Instant};

use fieldpost_sockets::zmq::{Context, SocketType};
use fieldpost_sockets::{Errno, Frame, KeyPair, PublicKey, Socket};
use fieldpost_wire::{
    ALL_TOPIC, Attempt, BootId, Cause, Clock, Command, Exit, Finished, Hello, JobOffer, List, Name,
    OutboxId, Report, RunId, ScheduleVersion, Seq, StartId, Status, Tag, Trigger, UnixMillis,
    node_topic,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use crate::Outcome;
use crate::machine::watch;
use crate::rig::{Hub, now};

/// libzmq makes 1,023 sockets in a context.
const NODES_A_CONTEXT: usize = 500;
const JOB: &str = "ping";
const ENTRY: &str = "every-second";

/// The nodes, connected and welcomed.
pub struct Fleet {
    nodes: Vec<Node>,
    epoll: Epoll,
    frame: Frame,
    _contexts: Vec<Context>,
}

struct Node {
    name: Name,
    start: StartId,
    sub: Socket,
    push: Socket,
    outbox: OutboxId,
    seq: u64,
    acked: u64,
    welcome: bool,
    due: UnixMillis,
}

/// What a while of load came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Load {
    /// Reports that were acked.
    pub acked: u64,
    /// `Ack` commands that said so.
    pub acks: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Fleet {
    /// Makes `count` nodes known to the hub, connects them and waits for all to be welcomed.
    pub fn join(hub: &Hub, prefix: &str, count: usize) -> Outcome<Self> {
        let keys: Vec<(String, KeyPair)> =
            (0..count).map(|i| (format!("{prefix}-{i:05}"), KeyPair::generate())).collect();
        let known: Vec<(String, PublicKey)> =
            keys.iter().map(|(name, keys)| (name.clone(), keys.public)).collect();
        hub.import(&known)?;
        let contexts: Vec<Context> =
            (0..count.div_ceil(NODES_A_CONTEXT)).map(|_| Context::new()).collect();
        let mut fleet = Self {
            nodes: Vec::with_capacity(count),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            frame: Frame::new(),
            _contexts: contexts,
        };
        for (i, (name, keys)) in keys.iter().enumerate() {
            let node = Node::connect(&fleet._contexts[i / NODES_A_CONTEXT], hub, name, keys)?;
            watch(&fleet.epoll, &node.sub, i as u64)?;
            fleet.nodes.push(node);
            // A handshake costs both ends half a millisecond: a storm would only time out.
            if i % 50 == 49 {
                fleet.listen(Duration::from_millis(5), |_, _| Ok(()))?;
            }
        }
        let latest = Instant::now() + Duration::from_secs(120);
        while fleet.nodes.iter().any(|node| !node.welcome) {
            if Instant::now() > latest {
                let missing = fleet.nodes.iter().filter(|node| !node.welcome).count();
                return Err(format!("{missing} of {count} nodes were not welcomed").into());
            }
            for node in &fleet.nodes {
                if !node.welcome {
                    node.hello()?;
                }
            }
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until && fleet.nodes.iter().any(|node| !node.welcome) {
                fleet.listen(Duration::from_millis(50), |_, _| Ok(()))?;
            }
        }
        Ok(fleet)
    }

    /// Takes what came, for `most` at the longest, and hands each trigger to `each`.
    fn listen(
        &mut self,
        most: Duration,
        mut each: impl FnMut(&mut Node, &Trigger<'_>) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut load = Load::default();
        self.ready(most, |node, frame| node.drain(frame, &mut load, &mut each))
    }

    /// Waits for commands, for `most` at the longest, and hands over each node that has some.
    fn ready(
        &mut self,
        most: Duration,
        mut each: impl FnMut(&mut Node, &mut Frame) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut events = [EpollEvent::empty(); 256];
        let timeout = EpollTimeout::try_from(most).unwrap_or(EpollTimeout::ZERO);
        let ready = match self.epoll.wait(&mut events, timeout) {
            Ok(ready) => ready,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for event in &events[..ready] {
            let Some(node) = self.nodes.get_mut(event.data() as usize) else { continue };
            each(node, &mut self.frame)?;
        }
        Ok(())
    }

    /// Every node sends results of scheduled runs, `window` of them unacked at the most, until
    /// that many were acked or that much time is over.
    pub fn flood(
        &mut self,
        wanted: u64,
        most: Duration,
        window: u64,
        bytes: usize,
    ) -> Outcome<Load> {
        let mut load = Load::default();
        let begin = Instant::now();
        let mut heard = Instant::now();
        for node in &mut self.nodes {
            node.fill(window, bytes)?;
        }
        while load.acked < wanted && begin.elapsed() < most {
            let before = load.acked;
            self.ready(Duration::from_millis(10), |node, frame| {
                node.drain(frame, &mut load, &mut |_, _| Ok(()))?;
                node.fill(window, bytes)
            })?;
            if load.acked > before {
                heard = Instant::now();
            } else if heard.elapsed() > Duration::from_secs(30) {
                return Err("the hub stopped acking".into());
            }
        }
        load.seconds = begin.elapsed().as_secs_f64();
        Ok(load)
    }

    /// Waits until everything that was sent is acked.
    pub fn settle(&mut self) -> Outcome<()> {
        let latest = Instant::now() + Duration::from_secs(30);
        while self.nodes.iter().any(|node| node.acked < node.seq) {
            if Instant::now() > latest {
                return Err("reports were never acked".into());
            }
            self.listen(Duration::from_millis(10), |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Answers triggers at once, until `wanted` of them were answered and acked.
    pub fn serve(&mut self, wanted: usize) -> Outcome<()> {
        let mut answered = 0;
        let latest = Instant::now() + Duration::from_secs(30);
        while answered < wanted || self.nodes.iter().any(|node| node.acked < node.seq) {
            if Instant::now() > latest {
                return Err(format!("{answered} of {wanted} nodes were triggered").into());
            }
            self.listen(Duration::from_millis(10), |node, trigger| {
                answered += 1;
                node.report_triggered(trigger)
            })?;
        }
        Ok(())
    }
}

impl Node {
    fn connect(context: &Context, hub: &Hub, name: &str, keys: &KeyPair) -> Outcome<Self> {
        let name: Name = name.parse()?;
        let make = |kind| -> Outcome<Socket> {
            let socket = Socket::new(context, kind)?;
            socket.join_curve(&hub.public, &keys.public, &keys.secret)?;
            socket.set_handshake_ivl(0)?;
            Ok(socket)
        };
        let sub = make(SocketType::SUB)?;
        sub.set_subscribe(ALL_TOPIC)?;
        sub.set_subscribe(&node_topic(&name))?;
        sub.connect(&hub.triggers)?;
        let push = make(SocketType::PUSH)?;
        push.connect(&hub.results)?;
        Ok(Self {
            name,
            start: StartId(random()),
            sub,
            push,
            outbox: OutboxId(random()),
            seq: 0,
            acked: 0,
            welcome: false,
            due: now(),
        })
    }

    fn hello(&self) -> Outcome<()> {
        let mut room = [0; 128];
        let offer = JobOffer { name: JOB, rerun: false };
        let hello = Hello {
            start: self.start,
            node: &self.name,
            agent: env!("CARGO_PKG_VERSION"),
            groups: List::empty(),
            jobs: List::encode(&mut room, [offer])?,
            partial: false,
            schedule: ScheduleVersion::default(),
            outboxes: List::empty(),
        };
        let mut body = [0; 512];
        match self.push.transmit(Report::Hello(hello).encode(None, &mut body)?) {
            Ok(()) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes every command that waits.
    fn drain(
        &mut self,
        frame: &mut Frame,
        load: &mut Load,
        each: &mut impl FnMut(&mut Self, &Trigger<'_>) -> Outcome<()>,
    ) -> Outcome<()> {
        loop {
            for _ in 0..2 {
                match self.sub.receive(frame) {
                    Ok(()) => {}
                    Err(Errno::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(errno.into()),
                }
            }
            match Command::decode(frame.bytes())? {
                Command::Ack(ack) if ack.outbox == self.outbox => {
                    load.acks += 1;
                    for range in ack.ranges.iter() {
                        let fresh = range.last.0.saturating_sub(self.acked.max(range.first.0 - 1));
                        load.acked += fresh;
                        self.acked = self.acked.max(range.last.0);
                    }
                }
                Command::Welcome(_) => self.welcome = true,
                Command::Trigger(trigger) => each(self, &trigger)?,
                _ => {}
            }
        }
    }

    fn report_triggered(&mut self, trigger: &Trigger<'_>) -> Outcome<()> {
        self.report(trigger.run, trigger.attempt, Cause::Trigger, 0).map(drop)
    }

    /// Sends results until `window` of them are unacked; once half of them are acked, not sooner,
    /// as a backlog goes out in one write.
    fn fill(&mut self, window: u64, bytes: usize) -> Outcome<()> {
        if self.seq - self.acked > window / 2 {
            return Ok(());
        }
        while self.seq - self.acked < window && self.report_scheduled(bytes)? {}
        Ok(())
    }

    /// The result of the next run of a schedule; `false` if it can't be sent now.
    fn report_scheduled(&mut self, bytes: usize) -> Outcome<bool> {
        let entry: Name = ENTRY.parse()?;
        let due = self.due.plus_ms(1);
        let run = RunId::scheduled(due, &self.name, &entry);
        let cause = Cause::Entry { entry: ENTRY, due };
        let sent = self.report(run, Attempt::FIRST, cause, bytes)?;
        if sent {
            self.due = due;
        }
        Ok(sent)
    }

    /// A result; padded to so many bytes on the wire.
    fn report(
        &mut self,
        run: RunId,
        attempt: Attempt,
        cause: Cause<'_>,
        bytes: usize,
    ) -> Outcome<bool> {
        // The header, the ids, the numbers and the names, with a seq of three bytes.
        const BARE: usize = 107;
        let padding = [b'x'; 1024];
        let finished = Finished {
            run,
            attempt,
            job: JOB,
            cause,
            status: Status::Ok,
            exit: Exit::Code(0),
            started: self.due,
            boot: BootId(1),
            started_boot_ms: 1_000_000,
            clock: Clock::Trusted,
            duration_us: 20_000,
            chunks: 0,
            bytes: 0,
            crc32c: 0,
            stderr: &padding[..bytes.saturating_sub(BARE)],
            note: "",
            peak_rss_kib: 2_000,
            cpu_us: 1_500,
            truncated: false,
            output_dropped: false,
        };
        let tag = Tag { outbox: self.outbox, seq: Seq(self.seq + 1) };
        let mut room = [0; 1_536];
        let body = Report::Finished(finished).encode(Some(tag), &mut room)?;
        match self.push.transmit(body) {
            Ok(()) => {
                self.seq += 1;
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn random() -> [u8; 16] {
    std::array::from_fn(|_| fastrand::u8(..))
}
