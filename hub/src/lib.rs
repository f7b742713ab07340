//! The central worker of Fieldpost: it hands triggers to nodes and keeps what comes back.
//!
//! Decisions are in [`hub`], a state machine without I/O; what is durable is behind
//! [`store::Store`]. Only the event loop waits, and only `io` touches the world.

pub mod config;
pub mod hub;
pub mod protocol;
pub mod store;
