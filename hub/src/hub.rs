//! The core: a state machine without I/O. It never opens, sleeps, spawns or reads a clock.
//!
//! ```text
//! loop {
//!     hub.handle(now, input);                       // whatever happened
//!     while let Some(output) = hub.poll_output() {} // send it
//!     if the store is idle, let Some(batch) = hub.take_batch() // commit it, then
//!     // hub.handle(now, Input::Committed { batch, outcome })
//!     wait for something, until hub.next_deadline() at most // then Input::Tick
//! }
//! ```
//!
//! Reports are read while [`Hub::may_read_reports`] says so: beyond that the store lags, and TCP
//! holds the nodes back. Commands and live events leave before the commit of what they tell;
//! acks and replies follow it.

use fieldpost_wire::{RunId, StartId, UnixMillis};

use crate::config;
use crate::store::{
    AckRange, Answer, Batch, Committed, ConsumerRecord, Extent, Identity, NodeId, Query, Restored,
    StoreError,
};

mod assembly;
mod backup;
mod boots;
mod clients;
mod door;
mod events;
mod fast;
mod fleet;
mod ingest;
mod nodes;
mod outputs;
mod pipeline;
mod plans;
mod reading;
mod requests;
mod runs;
mod schedules;
mod status;
#[cfg(test)]
mod tests;
mod time;
mod triggers;
mod upkeep;
mod waiters;
mod watches;

pub use outputs::Output;

/// Milliseconds of a clock that is never set (CLOCK_BOOTTIME).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

/// What the clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The clock that is never set.
    pub moment: Moment,
    /// The wall clock. The hub's time follows it slowly, so that deadlines hold when it is set.
    pub wall: UnixMillis,
}

/// Which socket somebody wants to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// Commands to nodes.
    Triggers,
    /// Reports of nodes.
    Results,
    /// Requests of clients.
    Clients,
    /// Events for clients.
    Events,
}

/// What is said to somebody at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Come in (200).
    Welcome,
    /// Not yet: try again (300). libzmq's client does.
    Later,
    /// No (400). libzmq's client never tries again by itself.
    No,
}

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// On the hub's own host: admin.
    Local,
    /// Over TCP, with this key (Z85).
    Key(&'a str),
}

/// Which of two sockets of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one for this host.
    Local,
    /// The one for the world.
    Remote,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A report came.
    Report {
        /// The ZAP User-Id: the peer's key in Z85.
        key: &'a str,
        /// The frame.
        body: &'a [u8],
    },
    /// A message came that the protocol has no place for (several frames, none, too long).
    BadMessage {
        /// Over which socket.
        door: Door,
        /// The peer's key, if it is known.
        key: Option<&'a str>,
    },
    /// A client asks.
    Request {
        /// Who.
        who: Who<'a>,
        /// Its routing id, to reply to.
        peer: &'a [u8],
        /// The JSON.
        frame: &'a [u8],
    },
    /// A subscription to events is no more: a client took it back, or its connection ended.
    Unwatched {
        /// On which socket.
        side: Side,
        /// The topic.
        topic: &'a [u8],
    },
    /// The store is done with a batch.
    Committed {
        /// The batch, as [`Hub::take_batch`] gave it.
        batch: Box<Batch>,
        /// What came of it.
        outcome: Result<Committed, StoreError>,
    },
    /// What came of [`Output::BackUp`]: the copy's size in bytes.
    BackedUp(Result<u64, StoreError>),
    /// The configuration was read anew.
    Reloaded {
        /// Who may ask now.
        clients: Vec<config::Client>,
        /// How long results are kept now.
        retention: config::Retention,
    },
    /// What the event loop knows of the process, for `status`.
    Process {
        /// Resident memory, in bytes.
        resident: u64,
        /// Connections of nodes and clients that were cut.
        cut: u64,
    },
    /// Time passed.
    Tick,
    /// The hub is to end: waiting requests are answered, no new one is taken.
    Stop,
}

/// What a hub is set up with.
#[derive(Debug)]
pub struct Settings {
    /// What it calls itself.
    pub name: fieldpost_wire::Name,
    /// Its version, for `status`.
    pub version: &'static str,
    /// This start of it: random.
    pub start: StartId,
    /// Where its random numbers start: random, but the same seed replays the same history.
    pub seed: u64,
    /// How long results are kept.
    pub retention: config::Retention,
    /// Bounds that depend on the fleet.
    pub limits: config::Limits,
    /// Who may ask.
    pub clients: Vec<config::Client>,
    /// Faults for the simulated world to find.
    #[cfg(feature = "planted-bugs")]
    pub bugs: Bugs,
}

/// Faults for the simulated world to find.
#[cfg(feature = "planted-bugs")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bugs {
    /// Reports are acked when they come.
    pub ack_before_commit: bool,
    /// A report whose seq is not above the node's highest is taken for a duplicate.
    pub dedupe_by_seq: bool,
    /// A run is `lost` when its time is over, even while its result is on its way.
    pub lost_while_coming: bool,
    /// Two agents with one key are not told apart.
    pub no_quarantine: bool,
}

/// The core.
pub struct Hub {
    settings: Settings,
    identity: Identity,
    started: Moment,
    time: time::Time,
    rng: fastrand::Rng,
    nodes: nodes::Nodes,
    triggers: triggers::Triggers,
    schedules: schedules::Schedules,
    clients: clients::Clients,
    watches: watches::Watches,
    assembly: assembly::Assembly,
    pipeline: Pipe,
    outputs: outputs::Outputs,
    waiters: waiters::Waiters,
    /// Who waits for the copy that is being made.
    backup: Option<pipeline::ReplyTo>,
    consumers: std::collections::BTreeMap<fieldpost_wire::Name, ConsumerRecord>,
    extent: Extent,
    counters: status::Counters,
    doors: door::Doors,
    upkeep: upkeep::Upkeep,
    /// Runs that ended everywhere with this input.
    closed: Vec<RunId>,
    /// Whether the batch being filled holds a result.
    fresh_results: bool,
    stopping: bool,
}

type Pipe = pipeline::Pipeline<requests::Ask, pipeline::Ready>;

/// What the life of a trigger touches.
struct Context<'a> {
    time: &'a time::Time,
    started: Moment,
    nodes: &'a mut nodes::Nodes,
    outputs: &'a mut outputs::Outputs,
    pipeline: &'a mut Pipe,
    watches: &'a watches::Watches,
    counters: &'a mut status::Counters,
    closed: &'a mut Vec<RunId>,
    fresh_results: &'a mut bool,
    #[cfg(feature = "planted-bugs")]
    bugs: Bugs,
}

/// The hub's fields as a [`Context`], while its triggers are borrowed apart.
macro_rules! context {
    ($hub:ident) => {
        $crate::hub::Context {
            time: &$hub.time,
            started: $hub.started,
            nodes: &mut $hub.nodes,
            outputs: &mut $hub.outputs,
            pipeline: &mut $hub.pipeline,
            watches: &$hub.watches,
            counters: &mut $hub.counters,
            closed: &mut $hub.closed,
            fresh_results: &mut $hub.fresh_results,
            #[cfg(feature = "planted-bugs")]
            bugs: $hub.settings.bugs,
        }
    };
}
use context;

impl Hub {
    /// A hub that knows what its store knows.
    #[must_use]
    pub fn new(settings: Settings, restored: Restored, now: Now) -> Self {
        let counter = restored.nodes.iter().map(|node| node.regrouped).max().unwrap_or(0);
        // A store that went back to a snapshot is of the same epoch: what is set from now on is to be later
        // than what it had set after that.
        let counter = counter.max(now.wall.0);
        let epoch = restored.identity.epoch;
        let mut clients = clients::Clients::default();
        clients.replace(settings.clients.clone());
        let mut upkeep = upkeep::Upkeep::new(now.moment);
        let away = upkeep.look_back(&restored, now);
        let consumers = restored
            .consumers
            .into_iter()
            .map(|mut record| {
                // While no hub was there nobody could read: that is no consumer's absence.
                record.seen = record.seen.plus_ms(away);
                (record.name.clone(), record)
            })
            .collect();
        let mut hub = Self {
            identity: restored.identity,
            started: now.moment,
            time: time::Time::new(now),
            rng: fastrand::Rng::with_seed(settings.seed),
            nodes: nodes::Nodes::restore(restored.nodes, restored.revoked),
            triggers: triggers::Triggers::default(),
            schedules: schedules::Schedules::restore(epoch, counter, restored.schedules),
            clients,
            watches: watches::Watches::default(),
            assembly: assembly::Assembly::default(),
            pipeline: Pipe::new(),
            outputs: outputs::Outputs::default(),
            waiters: waiters::Waiters::default(),
            backup: None,
            consumers,
            extent: restored.extent,
            counters: status::Counters::default(),
            doors: door::Doors::new(now.moment),
            upkeep,
            closed: Vec::new(),
            fresh_results: false,
            stopping: false,
            settings,
        };
        let mut cx = context!(hub);
        hub.triggers.restore(&mut cx, restored.triggers, restored.recent);
        for record in restored.awaiting {
            hub.restore_awaiting(record);
        }
        hub
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.time.advance(now);
        match input {
            Input::Report { key, body } => self.report(key, body),
            Input::BadMessage { door, key } => self.bad_message(door, key),
            Input::Request { who, peer, frame } => self.request(who, peer, frame),
            Input::Unwatched { side, topic } => self.watches.remove(side, topic),
            Input::Committed { batch, outcome: Ok(committed) } => self.committed(batch, committed),
            Input::Committed { batch, outcome: Err(error) } => self.not_committed(batch, &error),
            Input::BackedUp(outcome) => self.backed_up(outcome),
            Input::Reloaded { clients, retention } => self.reload(clients, retention),
            Input::Process { resident, cut } => {
                self.counters.resident = resident;
                self.counters.cut = cut;
            }
            Input::Tick => self.tick(),
            Input::Stop => self.stop(),
        }
        self.answer_closed();
    }

    /// The next thing to send; `None`: wait. Send each before the next call.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        self.outputs.next()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        [
            self.triggers.next_deadline(),
            self.waiters.next_deadline(),
            self.pipeline.next_deadline(),
            Some(self.upkeep.next_deadline()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What is to be made durable next, if anything. One batch at a time: give it to the store
    /// when that is idle, and say [`Input::Committed`].
    pub fn take_batch(&mut self) -> Option<Box<Batch>> {
        if std::mem::take(&mut self.fresh_results) {
            for waiter in self.waiters.take_readers() {
                self.pipeline.ask(waiter.query(), requests::Ask::Results(waiter));
            }
        }
        self.pipeline.take(self.time.moment())
    }

    /// Whether reports are to be read now.
    #[must_use]
    pub fn may_read_reports(&self) -> bool {
        // While nothing can be stored they are read and dropped: waiting in the sockets, those of
        // a whole fleet would fill the memory.
        self.pipeline.has_room() || self.pipeline.failing.is_some()
    }

    /// Whether everything is durable and answered: a stopping hub may end.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pipeline.is_idle()
    }

    fn committed(&mut self, batch: Box<Batch>, committed: Committed) {
        if self.pipeline.failing.is_some() {
            log::info!("the store works again");
        }
        let mut landed = self.pipeline.landed(batch);
        self.extent = committed.extent;
        self.counters.results += committed.fresh;
        self.put_off_acks(&mut landed.acks);
        self.ack(&landed.acks);
        for reply in landed.replies.drain(..) {
            reply.send(&mut self.outputs);
        }
        let asks = std::mem::take(&mut landed.asks);
        self.swept(landed.batch(), committed.swept);
        self.tell_submitted(landed.batch());
        self.hand_over_settled(landed.batch().number());
        self.pipeline.recycle(landed);
        for (ask, answer) in asks.into_iter().zip(committed.answers) {
            self.answered(ask, answer);
        }
    }

    fn not_committed(&mut self, batch: Box<Batch>, error: &StoreError) {
        if self.pipeline.failing.is_none() {
            log::error!("nothing can be stored: {error}");
        }
        self.counters.failed_commits += 1;
        let waiting = self.pipeline.failed(batch, error, self.time.moment());
        self.tell_failing(waiting);
        let waiting = self.pipeline.give_up_waiting();
        self.tell_failing(waiting);
    }

    fn tell_failing(&mut self, (asks, replies): (Vec<requests::Ask>, Vec<pipeline::Ready>)) {
        let refusal = self.store_refusal();
        let replies = replies.into_iter().map(|reply| reply.to);
        let asks = asks.into_iter().filter_map(requests::Ask::into_reply_to);
        for to in replies.chain(asks) {
            self.refuse(&to, &refusal);
        }
    }

    /// Leaves acks for the next batch to nodes that have reports in it: one message for several
    /// batches is what a flood is cheaper with. Not for ever: a node's outbox waits for them.
    fn put_off_acks(&mut self, acks: &mut Vec<AckRange>) {
        const MOST: u8 = 3;
        let filling = self.pipeline.batch.number();
        let mut last = None;
        acks.retain(|range| {
            let node = self.nodes.get_mut(range.node);
            let waits = if last.is_some_and(|(id, _)| id == range.node) {
                last.is_some_and(|(_, waits)| waits)
            } else {
                let waits = node.ack_slot.0 == filling && node.acks_put_off < MOST;
                node.acks_put_off = if waits { node.acks_put_off + 1 } else { 0 };
                waits
            };
            last = Some((range.node, waits));
            if waits {
                self.pipeline.batch.put_off(*range);
            }
            !waits
        });
    }

    /// Sends the acks of a committed batch.
    fn ack(&mut self, acks: &[AckRange]) {
        use fieldpost_wire::{Ack, Command, List, Seq, SeqRange, limits};
        let mut rest = acks;
        while let Some(first) = rest.first() {
            let of_one =
                |range: &&AckRange| range.node == first.node && range.outbox() == first.outbox();
            let count = rest.iter().take(limits::ACK_RANGES).take_while(of_one).count();
            let (some, after) = rest.split_at(count);
            rest = after;
            let mut room = [0; 20 * limits::ACK_RANGES];
            let ranges = some
                .iter()
                .map(|range| SeqRange { first: Seq(range.first), last: Seq(range.last) });
            let ranges = List::encode(&mut room, ranges).expect("two varints have 20 bytes");
            let mut body = [0; 20 * limits::ACK_RANGES + 32];
            let command = Command::Ack(Ack { outbox: first.outbox(), ranges });
            let body = command.encode(&mut body).expect("64 ranges fit");
            self.outputs.publish(&self.nodes.get(first.node).topic, body);
        }
    }
}
