//! A hash for keys that are random already: run ids and public keys. Who knows none of our keys
//! can't choose them to collide: a node's keys are accepted one by one, and run ids of others
//! only ever meet in tables that are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by random keys.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// Folds 8 bytes at a time with a multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fold(u64);

const MULTIPLIER: u128 = 0x9e37_79b9_7f4a_7c15;

impl Fold {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word | 1).wrapping_mul(MULTIPLIER) ^ u128::from(word);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
