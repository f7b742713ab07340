//! A copy of the file while it is in use.
//!
//! SQLite's own backup, over the connection that also writes: what is committed between two steps
//! goes into both, so that the copy is the store as it is at the end, and no step is done again.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::{StoreError, explain};

/// Pages of a step: 2 MiB, which hold a commit up for some milliseconds.
const PAGES: i32 = 128;

/// Copies into `to`, which must not be there. `between` is called after each step, and says
/// whether to go on. Gives the copy's size.
pub fn back_up(
    db: &Connection,
    to: &Path,
    between: &mut dyn FnMut() -> bool,
) -> Result<u64, StoreError> {
    if to.exists() {
        return Err(StoreError::Failing(format!("{} is there already", to.display())));
    }
    // Under another name until it is whole.
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let copied = make(&part).and_then(|()| copy(db, &part, between)).and_then(|()| {
        let size = settle(&part, to).map_err(|error| failing(to, &error))?;
        Ok(size)
    });
    if copied.is_err()
        && let Err(error) = fs::remove_file(&part)
    {
        log::debug!("{} stays: {error}", part.display());
    }
    copied
}

/// Nobody else is to read what nodes have sent.
fn make(part: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
    made.map(drop).map_err(|error| failing(part, &error))
}

fn copy(db: &Connection, part: &Path, between: &mut dyn FnMut() -> bool) -> Result<(), StoreError> {
    let explain = |error| explain(part, &error);
    let mut target = Connection::open(part).map_err(explain)?;
    // It is synced once, at its end.
    target.execute_batch("PRAGMA synchronous = OFF").map_err(explain)?;
    let backup = Backup::new(db, &mut target).map_err(explain)?;
    loop {
        match backup.step(PAGES).map_err(explain)? {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has either file open.
            _ => return Err(StoreError::Failing("the store is busy; try again".to_owned())),
        }
        if !between() {
            return Err(StoreError::Failing("the hub is stopping".to_owned()));
        }
    }
    drop(backup);
    // A store that comes back from a copy is another one: of a lower schedule version of the same
    // epoch, nodes would take no notice.
    let epoch = fastrand::i64(..) | 1;
    target
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE")
        .and_then(|()| target.execute("UPDATE identity SET epoch = ?1", [epoch]))
        .map_err(explain)?;
    target.close().map_err(|(_, error)| explain(error))
}

fn settle(part: &Path, to: &Path) -> std::io::Result<u64> {
    let file = File::open(part)?;
    file.sync_all()?;
    let size = file.metadata()?.len();
    // Unlike a rename, it does not replace what somebody else has put there meanwhile.
    fs::hard_link(part, to)?;
    fs::remove_file(part)?;
    if let Some(parent) = to.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(size)
}

fn failing(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Failing(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use crate::store::conformance::{Scratch, identity};
    use crate::store::sqlite::Sqlite;
    use crate::store::{AuditRecord, Batch, Change, Query, Store as _};
    use fieldpost_wire::UnixMillis;

    fn line(number: u64) -> Batch {
        let mut batch = Batch::default();
        batch.change(Change::Audit(AuditRecord {
            offset: 0,
            time: UnixMillis(number),
            who: "w".repeat(3_000),
            what: number.to_string(),
            place: String::new(),
            outcome: String::new(),
            origin: String::new(),
        }));
        batch
    }

    #[test]
    fn a_copy_holds_what_was_committed_while_it_was_made() {
        let scratch = Scratch::new("backup");
        let mut store = Sqlite::open(&scratch.path("store.db"), identity()).unwrap();
        for number in 0..2_000 {
            store.commit(&line(number)).unwrap();
        }
        let copy = scratch.path("copy.db");
        let mut number = 2_000;
        let size = store
            .back_up(&copy, &mut |commit| {
                commit(&line(number)).unwrap();
                number += 1;
                true
            })
            .unwrap();
        assert!(number > 2_002 && size > 6_000_000, "{number} {size}");
        let mut copied = Sqlite::open(&copy, identity()).unwrap();
        let mut batch = Batch::default();
        batch.ask(Query::Audit { before: None, limit: 1 });
        let newest = format!("{:?}", copied.commit(&batch).unwrap().answers);
        assert!(
            newest.contains(&format!("{:?}", (number - 1).to_string())),
            "{number}: {newest:.80}"
        );
        let (ours, theirs) = (store.restore().unwrap(), copied.restore().unwrap());
        assert_eq!(ours.identity.hub, theirs.identity.hub);
        assert_ne!(ours.identity.epoch, theirs.identity.epoch);
    }

    #[test]
    fn a_copy_that_is_given_up_or_has_no_place_leaves_nothing() {
        let scratch = Scratch::new("backup-not");
        let mut store = Sqlite::open(&scratch.path("store.db"), identity()).unwrap();
        for number in 0..1_000 {
            store.commit(&line(number)).unwrap();
        }
        let copy = scratch.path("copy.db");
        store.back_up(&copy, &mut |_| false).unwrap_err();
        assert!(!copy.exists() && !scratch.path("copy.db.part").exists());
        store.back_up(&scratch.path("none/copy.db"), &mut |_| true).unwrap_err();
        std::fs::write(&copy, "mine").unwrap();
        store.back_up(&copy, &mut |_| true).unwrap_err();
        assert_eq!(std::fs::read(&copy).unwrap(), b"mine");
        store.commit(&line(0)).unwrap();
    }
}
