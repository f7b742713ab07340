//! What of the agent's own files can't be written.

use std::io;

use super::world::{Text, text};

/// Each file that the last write to failed for, oldest trouble first. The first is told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    list: Vec<(&'static str, Text)>,
    told: Text,
}

impl Troubles {
    /// A write has ended. Says whether the core is to be told, with [`Troubles::told`]: what is wrong
    /// is another thing now, or a file can be written again, which may have missed something.
    pub(super) fn learn(&mut self, what: &'static str, result: io::Result<()>) -> bool {
        let known = self.list.iter().position(|(of, _)| *of == what);
        let again = result.is_ok() && known.is_some();
        match (result, known) {
            (Ok(()), None) => {}
            (Ok(()), Some(at)) => drop(self.list.remove(at)),
            (Err(error), known) => {
                let trouble = text(format_args!("{what} can't be written: {error}"));
                match known {
                    Some(at) => self.list[at].1 = trouble,
                    None => self.list.push((what, trouble)),
                }
            }
        }
        let first = self.list.first().map_or_else(Text::new, |(_, trouble)| trouble.clone());
        if first == self.told {
            return again;
        }
        if first.is_empty() {
            log::info!("storage works again");
        } else {
            log::error!("{first}");
        }
        self.told = first;
        true
    }

    /// What is wrong, for people; empty: nothing.
    pub(super) fn told(&self) -> &str {
        &self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn a_journal_that_works_again_is_told_beside_a_card_that_does_not() {
        let mut troubles = Troubles::default();
        assert!(troubles.learn("the schedule", full()));
        troubles.learn("the journal", full());
        assert!(troubles.learn("the journal", Ok(())), "what it did not take is never written");
        assert!(!troubles.learn("the journal", Ok(())), "once");
        assert!(troubles.learn("the schedule", Ok(())) && troubles.told().is_empty());
    }

    #[test]
    fn two_troubles_that_last_are_not_told_in_turns() {
        let mut troubles = Troubles::default();
        troubles.learn("the journal", full());
        troubles.learn("the schedule", full());
        for _ in 0..100 {
            assert!(!troubles.learn("the journal", full()));
            assert!(!troubles.learn("the schedule", full()));
        }
    }
}
