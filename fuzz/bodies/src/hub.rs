//! The hub's core with a store in memory, for reports and requests of any bytes.

use std::ops::RangeInclusive;
use std::time::Duration;

use fieldpost_hub::config::{Limits, Retention};
use fieldpost_hub::hub::{Hub, Input, Moment, Now, Output, Settings, Who};
use fieldpost_hub::protocol::FRAME;
use fieldpost_hub::store::memory::Memory;
use fieldpost_hub::store::{Identity, Store as _};
use fieldpost_wire::{Command, HubId, OutboxId, Seq, StartId, Tag, UnixMillis};
use serde_json::Value;

/// Lines, each of them a client's request. `\n` never stands within a frame of JSON.
pub fn client_json(data: &[u8]) {
    let mut centre = Centre::new();
    for frame in data.split(|byte| *byte == b'\n').take(64) {
        centre.request(frame);
    }
    centre.pass(Duration::from_secs(60));
}

/// Longer than the hub puts anything off while there is room.
const SOON: Duration = Duration::from_millis(20);

/// A hub that knows one node.
pub struct Centre {
    hub: Hub,
    store: Memory,
    at: u64,
    acked: Vec<(OutboxId, RangeInclusive<Seq>)>,
}

impl Centre {
    /// The node's key.
    pub const NODE_KEY: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    /// A key that nobody has accepted.
    pub const STRANGER_KEY: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    /// The hub, started, with its node accepted.
    pub fn new() -> Self {
        let settings = Settings {
            name: "hub".parse().expect("a name"),
            version: "0.1.0",
            start: StartId([1; 16]),
            seed: 1,
            retention: Retention { age: Duration::from_secs(86_400), size: 1 << 30 },
            limits: Limits { pending_nodes: 4 },
            clients: Vec::new(),
        };
        let mut store = Memory::new(Identity { hub: HubId([1; 16]), epoch: 1 });
        let restored = store.restore().expect("the model always opens");
        let hub = Hub::new(settings, restored, now(0));
        let mut centre = Self { hub, store, at: 0, acked: Vec::new() };
        let accept =
            format!(r#"{{"id":1,"op":"nodes.accept","key":"{}","node":"gw-1"}}"#, Self::NODE_KEY);
        centre.request(accept.as_bytes());
        centre
    }

    /// A node's report.
    pub fn report(&mut self, key: &str, body: &[u8]) {
        self.hub.handle(now(self.at), Input::Report { key, body });
        self.settle();
        // A batch may wait a little for more.
        self.pass(SOON);
    }

    /// A local client's request.
    pub fn request(&mut self, frame: &[u8]) {
        self.at += 1;
        self.hub.handle(now(self.at), Input::Request { who: Who::Local, peer: b"me", frame });
        self.settle();
        self.pass(SOON);
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        let end = self.at + u64::try_from(time.as_millis()).expect("a short time");
        let mut steps = 0;
        while let Some(Moment(due)) = self.hub.next_deadline().filter(|due| due.0 <= end) {
            self.at = self.at.max(due);
            self.hub.handle(now(self.at), Input::Tick);
            self.settle();
            steps += 1;
            assert!(steps < 100_000, "the hub runs in circles");
        }
        self.at = end;
    }

    /// Whether the node was told that this report is durable.
    pub fn has_acked(&self, tag: Tag) -> bool {
        self.acked.iter().any(|(outbox, seqs)| *outbox == tag.outbox && seqs.contains(&tag.seq))
    }

    /// Sends everything and makes everything durable.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            while let Some(output) = self.hub.poll_output() {
                match output {
                    Output::Reply { json, .. } => {
                        assert!(json.len() <= FRAME, "a reply of {} bytes", json.len());
                        let reply: Value = serde_json::from_slice(json).expect("replies are JSON");
                        assert!(reply["ok"].is_boolean(), "{reply}");
                    }
                    Output::Publish { body, .. } => {
                        let command = Command::decode(body).expect("the hub encodes what decodes");
                        if let Command::Ack(ack) = command {
                            let ranges = ack.ranges.iter();
                            self.acked.extend(ranges.map(|r| (ack.outbox, r.first..=r.last)));
                        }
                    }
                    Output::Event { json, .. } => {
                        serde_json::from_slice::<Value>(json).expect("events are JSON");
                    }
                    Output::Cut { .. } | Output::BackUp { .. } => {}
                }
            }
            let Some(batch) = self.hub.take_batch() else { return };
            let outcome = self.store.commit(&batch);
            self.hub.handle(now(self.at), Input::Committed { batch, outcome });
        }
        panic!("the hub commits without end");
    }
}

fn now(at: u64) -> Now {
    Now { moment: Moment(1_000 + at), wall: UnixMillis(1_795_600_000_000 + at) }
}
