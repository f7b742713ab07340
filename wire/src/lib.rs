//! The messages between a Fieldpost hub and its agents, wire version 1.
//!
//! A **command** goes hub → agent as two frames, `[topic][body]`; a **report** goes agent → hub
//! as one frame, `[body]`. A body is a frozen header and then one postcard value:
//!
//! ```text
//! byte 0     version, 1
//! byte 1     flags; bit 0: reliable (only reports may set it; other bits are 0)
//! if reliable:
//!   16 B     outbox id
//!   varint   seq
//! rest       postcard: one `Command` or one `Report`
//! ```
//!
//! Everything decodes without allocating: fields borrow from the received bytes. What decodes is
//! within the bounds of [`limits`]; whatever does not is an [`Error`], never a panic.
//! `wire/README.md` specifies the same for other languages; `wire/vectors/` holds golden bytes.
//!
//! ```
//! use fieldpost_wire::{Command, Query, RunId, List};
//! let mut ids = [0; 64];
//! let runs = List::encode(&mut ids, [RunId([7; 16])]).unwrap();
//! let mut body = [0; 128];
//! let body = Command::Query(Query { runs }).encode(&mut body).unwrap();
//! let Command::Query(query) = Command::decode(body).unwrap() else { panic!() };
//! assert_eq!(query.runs.iter().next(), Some(RunId([7; 16])));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod command;
pub mod cron;
mod error;
mod header;
mod ids;
pub mod limits;
mod list;
mod name;
mod report;
mod time;
mod topic;

pub use command::{
    Ack, Arg, Beacon, Cancel, CatchUp, Command, Entry, Overlap, Query, Schedule, SeqRange, Trigger,
    Welcome, When,
};
pub use error::Error;
pub use header::{Tag, VERSION, peek_tag};
pub use ids::{Attempt, BootId, HubId, OutboxId, RunId, ScheduleVersion, Seq, StartId};
pub use list::{List, ListIter};
pub use name::{BadName, Name, check_name};
pub use report::{
    Cause, Drops, EntryError, Exit, Finished, Heartbeat, Hello, JobOffer, Missed, Output, Reason,
    Report, RunState, State, Status,
};
pub use time::{Clock, UnixMillis};
pub use topic::{ALL_TOPIC, NodeTopic, node_topic};
