//! The hub: the real core, and the model of a store that outlives it.

use std::time::Duration;

use fastrand::Rng;
use fieldpost_hub::config::{Limits, Retention};
use fieldpost_hub::hub::{Hub, Moment, Now, Settings};
use fieldpost_hub::store::memory::Memory;
use fieldpost_hub::store::{Batch, Identity, Store as _};
use fieldpost_wire::{HubId, StartId, UnixMillis};

use crate::world::{BIRTH, Time};

/// The hub's process and its disk.
pub struct Centre {
    /// The core, while it runs.
    pub hub: Option<Hub>,
    /// Which start of it this is.
    pub start: u64,
    /// Which of several.
    index: usize,
    /// The disk.
    pub store: Memory,
    /// The batch that is being committed.
    pub committing: Option<Box<Batch>>,
    /// The tick that was asked for.
    pub tick_at: Option<Time>,
    /// By how much the wall clock is off, in milliseconds.
    pub skew_ms: i64,
}

impl Centre {
    /// A hub that was never started.
    pub fn new(index: usize, seed: u64) -> Self {
        let number = u8::try_from(index).unwrap_or(u8::MAX);
        let identity = Identity { hub: HubId([1 + number; 16]), epoch: (seed | 1) + index as u64 };
        Self {
            hub: None,
            start: 0,
            index,
            store: Memory::new(identity),
            committing: None,
            tick_at: None,
            skew_ms: 0,
        }
    }

    /// The hub's clocks.
    pub fn now(&self, time: Time) -> Now {
        let wall = (BIRTH + time / 1000).saturating_add_signed(self.skew_ms);
        Now { moment: Moment(time / 1000), wall: UnixMillis(wall) }
    }

    /// Starts the hub with what its store holds.
    pub fn boot(&mut self, time: Time, rng: &mut Rng, plan: &crate::Plan) {
        self.start += 1;
        let mut start = [0; 16];
        rng.fill(&mut start);
        #[cfg(not(feature = "planted-bugs"))]
        let _: &crate::Plan = plan;
        let settings = Settings {
            name: format!("hub-{}", self.index).parse().expect("a name"),
            version: "0.1.0",
            start: StartId(start),
            seed: rng.u64(..),
            retention: Retention { age: Duration::from_secs(30 * 86_400), size: 1 << 40 },
            limits: Limits { pending_nodes: 100 },
            clients: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            bugs: plan.hub_bugs,
        };
        let restored = self.store.restore().expect("the model always opens");
        self.hub = Some(Hub::new(settings, restored, self.now(time)));
        self.tick_at = None;
    }
}
