//! Where each `file` job goes on reading.
//!
//! A job has two positions: what was read, which the next run goes on from, and what is durable
//! at the hub, which survives a restart. So a restart gives lines again rather than losing them;
//! the result's note says which bytes of which file it holds.

use std::fmt::Write as _;
use std::time::Duration;

use fieldpost_wire::{Attempt, Name, RunId};

use super::tail::Cursor;

/// Most runs whose delivery is waited for. Beyond that the oldest is forgotten: its lines may
/// come again after a restart.
const PENDING: usize = 64;
/// The cursors go to disk at most this often: cards wear out.
const SAVE_EVERY: Duration = Duration::from_secs(3600);

/// The cursors of all `file` jobs.
#[derive(Debug, Default)]
pub struct Cursors {
    jobs: Vec<Positions>,
    pending: heapless::Deque<Pending, PENDING>,
    saved: Option<Duration>,
    unsaved: bool,
}

#[derive(Debug)]
struct Positions {
    job: Name,
    read: Cursor,
    durable: Option<Cursor>,
}

#[derive(Debug)]
struct Pending {
    run: RunId,
    attempt: Attempt,
    job: Name,
    cursor: Cursor,
    delivered: bool,
}

impl Cursors {
    /// The cursors that were written down. Lines that are none are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let jobs = text.lines().filter_map(|line| {
            let (job, cursor) = line.split_once(' ')?;
            let cursor = cursor.parse().ok()?;
            Some(Positions { job: job.parse().ok()?, read: cursor, durable: Some(cursor) })
        });
        Self { jobs: jobs.collect(), ..Self::default() }
    }

    /// The durable positions, to be written down: a line a job.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Positions { job, durable, .. } in &self.jobs {
            if let Some(cursor) = durable {
                writeln!(text, "{job} {cursor}").expect("a String takes everything");
            }
        }
        text
    }

    /// Where the job's next run begins; `None`: it never read anything.
    #[must_use]
    pub fn next(&self, job: &str) -> Option<Cursor> {
        self.jobs.iter().find(|positions| &*positions.job == job).map(|positions| positions.read)
    }

    /// A run of the job has read up to here.
    pub fn was_read(&mut self, job: &Name, run: RunId, attempt: Attempt, cursor: Cursor) {
        match self.jobs.iter_mut().find(|positions| positions.job == *job) {
            Some(positions) => positions.read = cursor,
            None => self.jobs.push(Positions { job: job.clone(), read: cursor, durable: None }),
        }
        if self.pending.is_full() {
            self.pending.pop_front();
        }
        let pending = Pending { run, attempt, job: job.clone(), cursor, delivered: false };
        self.pending.push_back(pending).expect("room was made");
    }

    /// What the run reported is durable at the hub. Says whether a position has moved: it waits
    /// for the job's earlier runs.
    pub fn was_delivered(&mut self, run: RunId, attempt: Attempt) -> bool {
        let Some(pending) = self
            .pending
            .iter_mut()
            .find(|pending| pending.run == run && pending.attempt == attempt)
        else {
            return false;
        };
        pending.delivered = true;
        let job = pending.job.clone();
        let mut waits = false;
        let mut moved = None;
        for _ in 0..self.pending.len() {
            let Some(pending) = self.pending.pop_front() else { break };
            if pending.job == job && pending.delivered && !waits {
                moved = Some(pending.cursor);
                continue;
            }
            waits |= pending.job == job;
            self.pending.push_back(pending).expect("one was just taken out");
        }
        let (Some(cursor), Some(positions)) =
            (moved, self.jobs.iter_mut().find(|positions| positions.job == job))
        else {
            return false;
        };
        positions.durable = Some(cursor);
        self.unsaved = true;
        true
    }

    /// Whether they are to go to disk now; then they count as saved.
    pub fn due(&mut self, boot: Duration) -> bool {
        let since = *self.saved.get_or_insert(boot);
        let due = self.unsaved && boot >= since + SAVE_EVERY;
        if due {
            self.saved = Some(boot);
            self.unsaved = false;
        }
        due
    }

    /// Whether something is not on disk yet.
    #[must_use]
    pub fn unsaved(&self) -> bool {
        self.unsaved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_durable_is_written_down() {
        let job: Name = "log".parse().unwrap();
        let mut cursors = Cursors::parse("log 1 2 3\nnonsense\n");
        assert_eq!(cursors.next("log"), Some(Cursor { device: 1, inode: 2, offset: 3 }));
        let (run, attempt) = (RunId([1; 16]), Attempt::FIRST);
        cursors.was_read(&job, run, attempt, Cursor { device: 1, inode: 2, offset: 9 });
        assert_eq!(cursors.next("log").unwrap().offset, 9);
        assert_eq!(cursors.text(), "log 1 2 3\n");
        assert!(!cursors.was_delivered(RunId([2; 16]), attempt));
        let (later, end) = (RunId([3; 16]), Cursor { device: 1, inode: 2, offset: 20 });
        cursors.was_read(&job, later, attempt, end);
        assert!(!cursors.was_delivered(later, attempt), "the earlier one is still to come");
        assert!(cursors.was_delivered(run, attempt));
        assert_eq!(cursors.text(), "log 1 2 20\n");
        let hour = Duration::from_secs(3600);
        assert!(!cursors.due(hour) && cursors.due(hour * 2) && !cursors.due(hour * 4));
    }
}
