//! The hub's hands: sockets, signals, limits, logs. No decision is made here; those are the
//! core's.

pub mod clock;
pub mod listeners;
pub mod log;
pub mod peers;
pub mod ports;
pub mod process;
pub mod signals;
pub mod wake;
pub mod zap;
