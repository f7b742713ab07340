//! The agent: a pure core ([`agent`]), and the event loop and the I/O around it.

pub mod agent;
pub mod cli;
pub mod config;
mod cron;
mod door;
pub mod event_loop;
mod hub_time;
mod link;
mod outbox;
mod result;
pub mod io;
pub mod job;
pub mod limits;
mod journal;
mod trigger;
mod run;
mod schedule;
mod push;
mod heartbeat;
