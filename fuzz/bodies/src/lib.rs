//! What is done with fuzzed bytes, one function a target.
//!
//! cargo-fuzz (`make fuzz`) and the test that replays the corpus call the same functions. They
//! panic when something that must hold does not; any bytes at all are fine.
//!
//! ```
//! for target in fieldpost_fuzz_bodies::TARGETS {
//!     (target.body)(b"any bytes at all");
//! }
//! ```

mod agent;
mod bytes;
mod config;
mod files;
mod hub;
pub mod mutation;
mod wire;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the file in `fuzz_targets/`, and of the folder in `corpus/`.
    pub name: &'static str,
    /// What is done with the bytes.
    pub body: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "command", body: command },
    Target { name: "report", body: report },
    Target { name: "schedule_file", body: schedule_file },
    Target { name: "journal_file", body: journal_file },
    Target { name: "client_json", body: client_json },
    Target { name: "agent_config", body: agent_config },
    Target { name: "hub_config", body: hub_config },
    Target { name: "agent_core", body: agent_core },
    Target { name: "agent_spool", body: agent_spool },
    Target { name: "spool_segment", body: spool_segment },
];

pub use agent::{agent_core, agent_spool};
pub use config::{agent_config, hub_config};
pub use files::{journal_file, schedule_file, spool_segment};
pub use hub::client_json;
pub use wire::{command, report};
