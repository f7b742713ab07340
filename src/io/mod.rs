//! Everything that touches the world: sockets, programs, files, clocks. Nothing here decides.

pub mod clock;
pub mod cursors;
pub mod logger;
pub mod memory;
pub mod notify;
pub mod orphans;
pub mod program;
pub mod reactor;
pub mod signals;
pub mod sockets;
pub mod spool;
pub mod storage;
pub mod system;
pub mod tail;
