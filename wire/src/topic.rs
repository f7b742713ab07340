//! The topics of commands. A subscription must equal one of them byte for byte.

use core::fmt;
use core::ops::Deref;

use crate::Name;
use crate::limits::NAME;

/// The topic of beacons, to everyone.
pub const ALL_TOPIC: &[u8] = b"all/";

/// The topic `n/<node>/`: everything for one node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeTopic(heapless::Vec<u8, { NAME + 3 }>);

/// The topic of one node's commands.
///
/// ```
/// let topic = fieldpost_wire::node_topic(&"gw-017".parse().unwrap());
/// assert_eq!(&*topic, b"n/gw-017/");
/// ```
#[must_use]
pub fn node_topic(node: &Name) -> NodeTopic {
    let mut topic = heapless::Vec::new();
    for part in [b"n/".as_slice(), node.as_bytes(), b"/"] {
        topic.extend_from_slice(part).expect("a name has at most NAME bytes");
    }
    NodeTopic(topic)
}

impl Deref for NodeTopic {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for NodeTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
