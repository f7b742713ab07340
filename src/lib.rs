//! The agent: a pure core ([`agent`]), and the event loop and the I/O around it.

pub mod agent;
pub mod cli;
pub mod config;
mod cron;
mod door;
pub mod event_loop;
mod heartbeat;
mod hub_time;
pub mod io;
pub mod job;
mod journal;
pub mod limits;
mod link;
mod outbox;
mod push;
mod resend;
mod result;
mod run;
mod schedule;
pub mod spool;
mod trigger;
