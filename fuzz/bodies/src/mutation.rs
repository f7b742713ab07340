//! Changing inputs at random, for the tests: no coverage guides it, but it runs everywhere.

use fastrand::Rng;

/// Longest input made: the longest frame with room to be too long.
const LONGEST: usize = 70_000;

/// Bytes at which decoders change their mind.
const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'{', b'}', b'[', b']', b'='];

/// An input made from those in the corpus.
pub fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus.get(rng.usize(0..corpus.len().max(1))).cloned().unwrap_or_default();
    for _ in 0..=rng.usize(0..6) {
        change(rng, &mut data, corpus);
    }
    data.truncate(LONGEST);
    data
}

fn change(rng: &mut Rng, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = rng.usize(0..=data.len());
    match rng.u32(0..8) {
        0 => data.truncate(at),
        1 => data.insert(at, rng.u8(..)),
        2 => data.insert(at, TELLING[rng.usize(0..TELLING.len())]),
        3 if at < data.len() => data[at] ^= 1 << rng.u32(0..8),
        4 if at < data.len() => data[at] = rng.u8(..),
        5 if at < data.len() => {
            let end = (at + rng.usize(1..32)).min(data.len());
            data.drain(at..end);
        }
        6 if at < data.len() => {
            let end = (at + rng.usize(1..64)).min(data.len());
            let piece = data[at..end].to_vec();
            let to = rng.usize(0..=data.len());
            data.splice(to..to, piece);
        }
        _ => {
            let Some(other) = corpus.get(rng.usize(0..corpus.len().max(1))) else { return };
            let from = rng.usize(0..=other.len());
            let to = (from + rng.usize(0..256)).min(other.len());
            data.splice(at..at, other[from..to].iter().copied());
        }
    }
}
