//! Live events: `[topic][JSON]`, nothing kept.

use std::time::Duration;

use fieldpost_sockets::zmq::{self, PollEvents};
use fieldpost_sockets::{Errno, Frame, Socket};
use serde_json::Value;

use super::Error;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `run/<id>/`, `node/<id>/` or `job/<name>/`.
    pub topic: String,
    /// What happened.
    pub body: Value,
}

/// A subscription.
pub struct Events {
    socket: Socket,
}

impl Events {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket }
    }

    /// The next event, if one came within `wait`.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Odd`].
    pub fn next(&self, wait: Duration) -> Result<Option<Event>, Error> {
        if !wait.is_zero() {
            let ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1);
            match self.socket.poll(PollEvents::POLLIN, ms) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut frame = Frame::new();
        match self.socket.receive(&mut frame) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let topic = String::from_utf8_lossy(frame.bytes()).into_owned();
        if !frame.more() {
            return Err(Error::Odd("an event has two frames".to_owned()));
        }
        // All frames of a message are there once the first one is.
        self.socket.receive(&mut frame)?;
        if frame.more() {
            return Err(Error::Odd("an event has two frames".to_owned()));
        }
        let body =
            serde_json::from_slice(frame.bytes()).map_err(|error| Error::Odd(error.to_string()))?;
        Ok(Some(Event { topic, body }))
    }

    /// The socket, for a caller that waits on several things; it then calls [`Self::next`] with
    /// a zero wait until there is none.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}
