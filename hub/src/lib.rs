//! The central worker of Fieldpost: it hands triggers to nodes and keeps what comes back.
//!
//! Decisions are in [`hub`], a state machine without I/O; what is durable is behind
//! [`store::Store`]. Only the event loop waits, and only `io` touches the world.

pub mod cli;
pub mod client;
pub mod config;
pub mod event_loop;
pub mod hub;
pub mod io;
pub mod protocol;
pub mod store;
