//! A node's disk: the spool's files, and what a power cut leaves of them.
//!
//! What was synced stays. Of the rest any sector may be there, be zeros, or be missing with all
//! behind it; a file whose name was never synced may be gone.

use std::collections::BTreeMap;

use fastrand::Rng;
use fieldpost_agent::spool::{Done, Recovered, Work};

const SECTOR: usize = 512;

/// The spool's directory.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    files: BTreeMap<u32, File>,
    /// It takes nothing more.
    pub full: bool,
}

#[derive(Debug, Default, Clone)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
    named: bool,
}

impl Disk {
    /// Does what the agent's core wants, and gives the answer.
    pub fn perform(&mut self, work: Work<'_>) -> Outcome {
        if self.full && matches!(work, Work::Append { .. } | Work::Sync { .. }) {
            return Outcome::Full;
        }
        match work {
            Work::Append { segment, at, bytes } => {
                let file = self.files.entry(segment).or_default();
                file.bytes.truncate(usize::try_from(at).unwrap_or(0));
                file.bytes.extend_from_slice(bytes);
            }
            Work::Sync { segment } => {
                if let Some(file) = self.files.get_mut(&segment) {
                    file.synced = file.bytes.len();
                    file.named = true;
                }
            }
            Work::Delete { segment } | Work::SetAside { segment } => {
                self.files.remove(&segment);
            }
            Work::Read { segment } => {
                let file = self.files.get(&segment);
                return Outcome::Read(file.map(|file| file.bytes.clone()).unwrap_or_default());
            }
        }
        Outcome::Well
    }

    /// The power goes.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        self.files.retain(|_, file| file.named || rng.bool());
        for file in self.files.values_mut() {
            let unsynced = file.bytes.len() - file.synced;
            match rng.u32(0..4) {
                0 => {}
                1 => file.bytes.truncate(file.synced),
                2 => file.bytes.truncate(file.synced + rng.usize(0..=unsynced)),
                _ => {
                    let File { bytes, synced, .. } = file;
                    for sector in bytes[*synced..].chunks_mut(SECTOR) {
                        if rng.bool() {
                            sector.fill(0);
                        }
                    }
                }
            }
            file.synced = file.bytes.len();
            file.named = true;
        }
    }

    /// What a starting agent finds.
    pub fn recover(&mut self, journal: &[u8]) -> Recovered {
        let mut recovered = Recovered::new(journal);
        self.files.retain(|&number, file| {
            let verdict = recovered.add(number, &file.bytes);
            file.bytes.truncate(verdict.keep);
            // As the real one does that.
            file.synced = verdict.keep;
            file.named = true;
            verdict.useful
        });
        recovered
    }
}

/// What came of a [`Work`].
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Well,
    /// The disk is full.
    Full,
    /// What was read.
    Read(Vec<u8>),
}

impl Outcome {
    /// As the core is told.
    pub fn done(&self) -> Done<'_> {
        match self {
            Self::Well => Done::Well,
            Self::Full => Done::Failed("No space left on device"),
            Self::Read(bytes) => Done::Read(bytes),
        }
    }
}
