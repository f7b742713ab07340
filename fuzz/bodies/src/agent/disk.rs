//! The spool's directory, as far as a bench needs one.

use std::collections::BTreeMap;

use fieldpost_agent::spool::{Done, Recovered, Work};

/// The bound of the bench's spool, and a segment that moves before it goes.
const MOST: usize = (1024 + 2 * 128) * 1024;

/// Its files, by their number.
#[derive(Debug, Default)]
pub struct Disk {
    /// What is in them.
    pub files: BTreeMap<u32, Vec<u8>>,
    /// Nothing more is written.
    pub full: bool,
}

impl Disk {
    /// Does it; `answer` is told what came of it.
    pub fn perform(&mut self, work: Work<'_>, answer: impl FnOnce(Done<'_>)) {
        match work {
            Work::Append { .. } | Work::Sync { .. } if self.full => {
                return answer(Done::Failed("no space is left"));
            }
            Work::Append { segment, at, bytes } => {
                let file = self.files.entry(segment).or_default();
                file.truncate(usize::try_from(at).expect("32 bits"));
                file.extend_from_slice(bytes);
                let all: usize = self.files.values().map(Vec::len).sum();
                assert!(all <= MOST, "{all} bytes are in a spool of 1 MiB");
            }
            Work::Sync { .. } => {}
            Work::Delete { segment } | Work::SetAside { segment } => {
                self.files.remove(&segment);
            }
            Work::Read { segment } => {
                let file = self.files.get(&segment).map_or(&[][..], Vec::as_slice);
                return answer(Done::Read(file));
            }
        }
        answer(Done::Well);
    }

    /// What a starting agent finds; torn ends are cut off.
    pub fn recover(&mut self, journal: &[u8]) -> Recovered {
        let mut recovered = Recovered::new(journal);
        self.files.retain(|&number, bytes| {
            let verdict = recovered.add(number, bytes);
            let mut end = 0;
            for bad in &verdict.bad {
                assert!(end <= bad.start && bad.start <= bad.end, "{verdict:?}");
                end = bad.end;
            }
            assert!(end <= verdict.keep && verdict.keep <= bytes.len(), "{verdict:?}");
            bytes.truncate(verdict.keep);
            let again = Recovered::new(journal).add(number, bytes);
            assert_eq!(again, verdict, "what is kept is read as it was");
            verdict.useful
        });
        recovered
    }
}
