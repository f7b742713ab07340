//! What a connection went through, as libzmq's socket monitor tells it: the difference between
//! "nobody there", "wrong server key" and "this key is not let in".

use fieldpost_sockets::zmq::{self, SocketType};
use fieldpost_sockets::{Errno, Frame, Socket};

use super::Error;

// zmq.h of 4.3: what rust-zmq does not name.
const CONNECTED: u16 = 0x0001;
const HANDSHAKE_FAILED_NO_DETAIL: u16 = 0x0800;
const HANDSHAKE_SUCCEEDED: u16 = 0x1000;
const HANDSHAKE_FAILED_PROTOCOL: u16 = 0x2000;
const HANDSHAKE_FAILED_AUTH: u16 = 0x4000;

/// The most telling thing seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// No TCP connection.
    Nothing,
    /// A TCP connection, nothing more.
    Connected,
    /// The handshake failed: not a hub, or not the key it was thought to have.
    Broken,
    /// The hub said that it does not let this key in.
    Refused,
    /// The handshake succeeded.
    Welcome,
}

/// A socket's monitor. It is read at each wait: an unread one would stop libzmq's I/O thread.
pub struct Monitor {
    socket: Socket,
    sight: Sight,
    welcomes: u64,
}

impl Monitor {
    pub fn of(context: &zmq::Context, watched: &Socket) -> Result<Self, Error> {
        const NAME: &str = "inproc://fieldpost-client-monitor";
        let wanted = CONNECTED
            | HANDSHAKE_FAILED_NO_DETAIL
            | HANDSHAKE_SUCCEEDED
            | HANDSHAKE_FAILED_PROTOCOL
            | HANDSHAKE_FAILED_AUTH;
        watched.monitor(NAME, i32::from(wanted))?;
        let socket = Socket::new(context, SocketType::PAIR)?;
        socket.connect(NAME)?;
        Ok(Self { socket, sight: Sight::Nothing, welcomes: 0 })
    }

    /// Takes in what happened since the last look.
    pub fn look(&mut self) -> Result<(), Error> {
        let mut frame = Frame::new();
        loop {
            match self.socket.receive(&mut frame) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            // Two frames: the event's number and value; its address, which is the last.
            let ([low, high, ..], true) = (frame.bytes(), frame.more()) else { continue };
            let event = u16::from_ne_bytes([*low, *high]);
            self.welcomes += u64::from(event == HANDSHAKE_SUCCEEDED);
            self.sight = match event {
                HANDSHAKE_SUCCEEDED => Sight::Welcome,
                HANDSHAKE_FAILED_AUTH => Sight::Refused,
                HANDSHAKE_FAILED_NO_DETAIL | HANDSHAKE_FAILED_PROTOCOL => Sight::Broken,
                CONNECTED if self.sight == Sight::Nothing => Sight::Connected,
                _ => self.sight,
            };
        }
    }

    pub fn sight(&self) -> Sight {
        self.sight
    }

    pub fn welcomes(&self) -> u64 {
        self.welcomes
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}
