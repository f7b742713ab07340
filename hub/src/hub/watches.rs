//! Which live events somebody listens to: others are not even written.

use std::collections::HashMap;

use super::Side;

/// Topics that are counted; beyond it every event is written and libzmq sorts them out.
const MOST_TOPICS: usize = 100_000;

/// Subscriptions by topic.
#[derive(Debug, Default)]
pub struct Watches {
    topics: HashMap<Box<[u8]>, [u32; 2]>,
    too_many: bool,
}

fn index(side: Side) -> usize {
    match side {
        Side::Local => 0,
        Side::Remote => 1,
    }
}

impl Watches {
    /// One more.
    pub fn add(&mut self, side: Side, topic: &[u8]) {
        if let Some(counts) = self.topics.get_mut(topic) {
            counts[index(side)] += 1;
        } else if self.topics.len() < MOST_TOPICS {
            let mut counts = [0; 2];
            counts[index(side)] = 1;
            self.topics.insert(topic.into(), counts);
        } else {
            self.too_many = true;
        }
    }

    /// One less.
    pub fn remove(&mut self, side: Side, topic: &[u8]) {
        if let Some(counts) = self.topics.get_mut(topic) {
            let count = &mut counts[index(side)];
            *count = count.saturating_sub(1);
            if *counts == [0; 2] {
                self.topics.remove(topic);
            }
        }
        if self.topics.is_empty() {
            self.too_many = false;
        }
    }

    /// Whether anybody listens to anything.
    pub fn any(&self) -> bool {
        !self.topics.is_empty()
    }

    /// Whether somebody listens to this on that side.
    pub fn has(&self, side: Side, topic: &[u8]) -> bool {
        self.too_many || self.topics.get(topic).is_some_and(|counts| counts[index(side)] > 0)
    }

    /// How many topics are listened to.
    pub fn len(&self) -> usize {
        self.topics.len()
    }
}
