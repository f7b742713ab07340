//! What happened, in short: the last lines are printed with what is broken, and a hash of all
//! lines tells whether one seed replays one history.

use std::collections::VecDeque;
use std::fmt::Arguments;

use crate::world::{SECOND, Time};

const LINES: usize = 60;

/// The history of a world.
pub struct History {
    last: VecDeque<String>,
    hash: u64,
    lines: u64,
    /// Every line is printed as it comes: `TELL=1` in the environment.
    told: bool,
}

impl Default for History {
    fn default() -> Self {
        let told = std::env::var_os("TELL").is_some();
        Self { last: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325, lines: 0, told }
    }
}

impl History {
    /// Adds a line.
    pub fn add(&mut self, time: Time, line: Arguments<'_>) {
        let line = format!("{:>5}.{:06} {line}", time / SECOND, time % SECOND);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.told {
            eprintln!("{line}");
        }
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// A hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub fn len(&self) -> u64 {
        self.lines
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}
