//! The agent: a pure core ([`agent`]), and the event loop and the I/O around it.

pub mod agent;
mod door;
pub mod job;
pub mod limits;
