//! A simulated world: the real cores of the agents and of one or two hubs, the model of the store, and
//! links, processes and programs that fail in every way that a seed thinks of. Time is virtual, and one
//! seed replays one history.
//!
//! ```no_run
//! use fieldpost_testkit::{Plan, World};
//! for seed in 0..1_000 {
//!     World::run(&Plan::of_seed(seed)).unwrap_or_else(|broken| panic!("{broken}"));
//! }
//! ```
//!
//! What must hold, whatever fails ([`Broken`] says what did not):
//!
//! - nothing is acked that is not in the store of the hub that acks it;
//! - no (run, attempt) is executed twice on a node, agents that are killed included (after a power
//!   cut only with `always`: otherwise a run whose acceptance was lost may run again);
//! - what ended two seconds before its agent was killed, or seven before a power cut, is in the store
//!   at the end, if the node's disk took it (with `always`: whatever ended);
//! - every submitted run ends with a status on every node;
//! - every result that an agent gave, and was not killed with, stands in the store, once, with
//!   all bytes of its output;
//! - no run is inferred lost after its node said that the result is coming;
//! - with two hubs, of which a node may use the one or the other, every result stands at one of them;
//! - two devices with one key (a card that was copied) are quarantined, and no other node is; what they
//!   executed is in the store; and once they are told apart as documented, both are triggered;
//! - a corrected time in the store is when the program started, but for what a message may be under way;
//!   and where only agents die, every result has one;
//! - every due time of a schedule is a result or missed, unless its agent was killed.

mod disk;
mod history;
mod hub;
mod ledger;
mod link;
mod node;
mod plan;
mod world;

pub use ledger::Broken;
pub use plan::{Fault, Plan};
pub use world::{Summary, World};
