//! A link between a node and one hub at a time: connections that are made, delay what they carry, and break.
//!
//! Within a connection messages keep their order and none is lost, as over TCP, except where the
//! plan says that the hub's queue was full or that a report comes again. When a connection
//! breaks, whatever it still carried is gone, and both ends find out by themselves.

use crate::world::Time;

/// One connection, told apart from those before it. 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection(pub u64);

/// A node's link.
#[derive(Debug, Default)]
pub struct Link {
    /// What is connected now.
    pub connection: Connection,
    /// The agent wants a connection: libzmq makes it again and again.
    pub wanted: bool,
    /// Which hub.
    pub hub: usize,
    /// A try that is under way; an older one counts no more.
    pub attempt: u64,
    /// Nothing passes before this time.
    pub cut_until: Time,
    /// Nothing passes to or from this hub before that time.
    pub divided: (usize, Time),
    /// Reports under way on this connection.
    pub under_way: u32,
    /// When the last message to the hub comes: the next comes later.
    pub last_up: Time,
    /// When the last message to the agent comes.
    pub last_down: Time,
}

impl Link {
    /// Whether a message of that connection still arrives.
    pub fn carries(&self, connection: Connection) -> bool {
        connection != Connection(0) && self.connection == connection
    }

    /// Whether nothing passes.
    pub fn is_cut(&self, time: Time) -> bool {
        time < self.cut_until || (self.hub == self.divided.0 && time < self.divided.1)
    }

    /// The connection breaks.
    pub fn disconnect(&mut self) {
        self.connection = Connection(0);
        self.under_way = 0;
        self.attempt += 1;
    }
}
