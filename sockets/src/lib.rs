//! libzmq 4.3.5 with CURVE for both daemons, and what rust-zmq does not wrap.
//!
//! This crate builds the library (see `build.rs`) and adds, over the `zmq` crate that it
//! re-exports: a [`Socket`] that sends and receives without allocating and never panics on an
//! unknown errno, [`Frame`]s that tell who sent them and over which descriptor, the missing socket
//! options, and [CURVE keys](PublicKey). All of the `unsafe` that libzmq needs is in here.

mod curve;
mod errno;
mod frame;
mod library;
mod options;
mod socket;

pub use curve::{BadKey, KeyPair, PublicKey, SecretKey};
pub use errno::Errno;
pub use frame::Frame;
pub use library::{BadLibrary, check_library};
pub use options::{Keepalive, Liveness};
pub use socket::{Events, Socket};
pub use zmq;
