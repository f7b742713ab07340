//! What the core wants sent, in order, in memory that is used again.

use std::ops::Range;

use super::Side;

/// Something to send.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A command: two frames on the commands' XPUB.
    Publish {
        /// The first frame.
        topic: &'a [u8],
        /// The second frame.
        body: &'a [u8],
    },
    /// A live event: two frames on an events' XPUB.
    Event {
        /// On which.
        side: Side,
        /// The first frame.
        topic: &'a [u8],
        /// The second frame.
        json: &'a [u8],
    },
    /// A reply: on a ROUTER, to a client.
    Reply {
        /// On which.
        side: Side,
        /// The client's routing id.
        peer: &'a [u8],
        /// The JSON.
        json: &'a [u8],
    },
    /// Every connection of this key is to be cut. A courtesy: its messages are refused anyway.
    Cut {
        /// The key, in Z85.
        key: &'a str,
    },
    /// The store is to be copied there; answer [`super::Input::BackedUp`].
    BackUp {
        /// An absolute path on the hub's host.
        file: &'a str,
    },
}

#[derive(Debug, Clone)]
enum Kind {
    Publish,
    Event(Side),
    Reply(Side),
    Cut,
    BackUp,
}

#[derive(Debug, Clone)]
struct Item {
    kind: Kind,
    first: Range<u32>,
    second: Range<u32>,
}

/// The queue. It is drained after each input, so it holds what one input causes.
#[derive(Debug, Default)]
pub struct Outputs {
    bytes: Vec<u8>,
    items: Vec<Item>,
    next: usize,
}

/// Bytes in the queue that can be sent several times.
#[derive(Debug, Clone)]
pub struct Stored(Range<u32>);

impl Outputs {
    /// The next one.
    pub fn next(&mut self) -> Option<Output<'_>> {
        let Some(item) = self.items.get(self.next) else {
            self.clear();
            return None;
        };
        self.next += 1;
        let of = |range: &Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        let (first, second) = (of(&item.first), of(&item.second));
        Some(match item.kind {
            Kind::Publish => Output::Publish { topic: first, body: second },
            Kind::Event(side) => Output::Event { side, topic: first, json: second },
            Kind::Reply(side) => Output::Reply { side, peer: first, json: second },
            Kind::Cut => Output::Cut { key: std::str::from_utf8(first).unwrap_or_default() },
            Kind::BackUp => Output::BackUp { file: std::str::from_utf8(first).unwrap_or_default() },
        })
    }

    fn clear(&mut self) {
        /// Memory kept for the next input; a fan-out to thousands of nodes may need more once.
        const KEEP: usize = 1 << 20;
        self.items.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.next = 0;
    }

    /// Keeps bytes to be sent.
    pub fn store(&mut self, bytes: &[u8]) -> Stored {
        let start = self.place();
        self.bytes.extend_from_slice(bytes);
        Stored(start..self.place())
    }

    /// Keeps what `write` writes.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Stored {
        let start = self.place();
        write(&mut self.bytes);
        Stored(start..self.place())
    }

    fn place(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("one input causes less than 4 GiB")
    }

    /// Sends a command.
    pub fn publish(&mut self, topic: &[u8], body: &[u8]) {
        let body = self.store(body);
        self.publish_stored(topic, &body);
    }

    /// Sends a command that is kept already.
    pub fn publish_stored(&mut self, topic: &[u8], body: &Stored) {
        let topic = self.store(topic);
        self.push(Kind::Publish, topic, body.clone());
    }

    /// Sends an event.
    pub fn event(&mut self, side: Side, topic: &[u8], json: &Stored) {
        let topic = self.store(topic);
        self.push(Kind::Event(side), topic, json.clone());
    }

    /// Sends a reply.
    pub fn reply(&mut self, side: Side, peer: &[u8], json: &Stored) {
        let peer = self.store(peer);
        self.push(Kind::Reply(side), peer, json.clone());
    }

    /// Asks for a cut.
    pub fn cut(&mut self, key: &str) {
        let key = self.store(key.as_bytes());
        self.push(Kind::Cut, key, Stored(0..0));
    }

    /// Asks for a copy of the store.
    pub fn back_up(&mut self, file: &str) {
        let file = self.store(file.as_bytes());
        self.push(Kind::BackUp, file, Stored(0..0));
    }

    fn push(&mut self, kind: Kind, first: Stored, second: Stored) {
        self.items.push(Item { kind, first: first.0, second: second.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_come_in_order_and_their_memory_is_used_again() {
        let mut outputs = Outputs::default();
        let json = outputs.store(b"{}");
        outputs.publish(b"n/a/", b"body");
        outputs.reply(Side::Local, b"peer", &json);
        outputs.cut("key");
        assert_eq!(outputs.next(), Some(Output::Publish { topic: b"n/a/", body: b"body" }));
        let reply = Output::Reply { side: Side::Local, peer: b"peer", json: b"{}" };
        assert_eq!(outputs.next(), Some(reply));
        assert_eq!(outputs.next(), Some(Output::Cut { key: "key" }));
        assert_eq!(outputs.next(), None);
        assert_eq!(outputs.bytes.len(), 0);
    }
}
