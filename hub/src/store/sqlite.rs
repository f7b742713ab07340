//! The store in one SQLite file: WAL, `synchronous=FULL`, one transaction a batch.
//!
//! Keys are ordered by time: run ids start with it, so the unique indexes grow at their right
//! edge, however many nodes report. A result's rowid is its offset for cursors: rows are only
//! added, and the newest one is never removed, so that no offset is given twice.
//!
//! The file is locked for this process alone: two hubs on one file would give out the same
//! numbers. `fieldpost backup` copies it meanwhile ([`backup`]).

use std::path::{Path, PathBuf};
use std::sync::Once;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Answer, Batch, Between, Committed, Extent, Identity, Restored, Store, StoreError};

mod backup;
mod read;
mod restore;
mod sweep;
mod write;

/// `PRAGMA application_id` of our files: "FPST".
const APPLICATION: i32 = 0x4650_5354;
/// The schema's version: `PRAGMA user_version`. Each step of [`MIGRATIONS`] raises it by one.
const VERSION: i32 = 3;

/// What makes version n+1 out of version n.
const MIGRATIONS: [&str; VERSION as usize] = [
    include_str!("sqlite/schema_1.sql"),
    include_str!("sqlite/schema_2.sql"),
    include_str!("sqlite/schema_3.sql"),
];

/// Bytes of a page. Rows are added at the right edge of few trees, so large pages are written
/// full: a fifth less CPU a result than with 4 KiB, most of it the kernel's.
const PAGE: i32 = 16 * 1024;
/// Pages of WAL until they are copied into the file: 32 MiB, some 100,000 results.
const CHECKPOINT_PAGES: i32 = 2_000;
/// Memory for pages, in KiB: the right edges of all indexes and what is read back.
const CACHE_KIB: i32 = 32 * 1024;

/// The store.
pub struct Sqlite {
    db: Connection,
    path: PathBuf,
    extent: Extent,
}

impl Sqlite {
    /// Opens a file, or makes it; `fresh` is who a new store is.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for what is not a store of this version, with what to do;
    /// [`StoreError::Failing`] for the disk's errors.
    pub fn open(path: &Path, fresh: Identity) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let explain = |error| explain(path, &error);
        count_no_memory();
        let db = Connection::open_with_flags(path, flags).map_err(explain)?;
        db.set_prepared_statement_cache_capacity(64);
        let mut store = Self { db, path: path.to_owned(), extent: Extent::default() };
        store.check_kind()?;
        store.prepare().map_err(explain)?;
        store.migrate(fresh)?;
        store.extent = measure(&store.db).map_err(explain)?;
        Ok(store)
    }

    /// Whether the file is ours, before anything in it is changed.
    fn check_kind(&self) -> Result<(), StoreError> {
        let number = |pragma: &str| -> Result<i32, StoreError> {
            self.db
                .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
                .map_err(|error| explain(&self.path, &error))
        };
        let shown = self.path.display();
        let (application, version) = (number("application_id")?, number("user_version")?);
        let tables: i32 = self
            .db
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|error| explain(&self.path, &error))?;
        if tables == 0 && application == 0 {
            return Ok(());
        }
        if application != APPLICATION {
            return Err(StoreError::Unusable(format!(
                "{shown} is a database of another program; name another state_dir in [hub], or \
                 move that file away"
            )));
        }
        if version > VERSION {
            return Err(StoreError::Unusable(format!(
                "{shown} was written by a newer version of fieldpost (schema {version}, this one \
                 knows up to {VERSION}); install that version again, or restore a copy from \
                 before the upgrade"
            )));
        }
        Ok(())
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        self.db.execute_batch(&format!(
            "PRAGMA page_size = {PAGE};
             PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
             PRAGMA journal_size_limit = 67108864;
             PRAGMA cache_size = -{CACHE_KIB};
             PRAGMA temp_store = MEMORY;"
        ))
    }

    fn migrate(&mut self, fresh: Identity) -> Result<(), StoreError> {
        let path = self.path.clone();
        let explain = |error| explain(&path, &error);
        let version: i32 =
            self.db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(explain)?;
        let from = usize::try_from(version).unwrap_or(0);
        for (step, sql) in MIGRATIONS.iter().enumerate().skip(from) {
            let change = self.db.transaction().map_err(explain)?;
            change.execute_batch(sql).map_err(explain)?;
            if step == 0 {
                change
                    .execute(
                        "INSERT INTO identity (hub, epoch) VALUES (?1, ?2)",
                        (fresh.hub.0, fresh.epoch.cast_signed()),
                    )
                    .map_err(explain)?;
            }
            change
                .execute_batch(&format!(
                    "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}",
                    step + 1
                ))
                .map_err(explain)?;
            change.commit().map_err(explain)?;
        }
        Ok(())
    }
}

impl Store for Sqlite {
    fn restore(&mut self) -> Result<Restored, StoreError> {
        restore::restore(&self.db, self.extent).map_err(|error| explain(&self.path, &error))
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        commit(&self.db, &mut self.extent, batch).map_err(|error| explain(&self.path, &error))
    }

    fn back_up(&mut self, to: &Path, between: &mut Between<'_>) -> Result<u64, StoreError> {
        let Self { db, path, extent } = self;
        let mut commit =
            |batch: &Batch| commit(db, extent, batch).map_err(|error| explain(path, &error));
        backup::back_up(db, to, &mut || between(&mut commit))
    }
}

fn commit(db: &Connection, extent: &mut Extent, batch: &Batch) -> rusqlite::Result<Committed> {
    let (fresh, swept) = write(db, batch)?;
    extent.newest += fresh;
    if extent.oldest == 0 && fresh > 0 {
        extent.oldest = 1;
    }
    if batch.changes().iter().any(|change| matches!(change, super::Change::Sweep(_))) {
        *extent = measure(db)?;
    }
    let answers = batch.queries().iter().map(|query| read::answer(db, query));
    let answers = answers.collect::<rusqlite::Result<Vec<Answer>>>()?;
    Ok(Committed { extent: *extent, answers, fresh, swept })
}

fn write(db: &Connection, batch: &Batch) -> rusqlite::Result<(u64, u64)> {
    if batch.records().is_empty() && batch.changes().is_empty() {
        return Ok((0, 0));
    }
    // Dropped unfinished, a transaction is rolled back. None is ever begun within another.
    let transaction = db.unchecked_transaction()?;
    let swept = write::changes(&transaction, batch)?;
    let fresh = write::records(&transaction, batch)?;
    transaction.commit()?;
    Ok((fresh, swept))
}

fn measure(db: &Connection) -> rusqlite::Result<Extent> {
    let number = |sql: &str| -> rusqlite::Result<u64> {
        let value: Option<i64> = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(value.unwrap_or(0).cast_unsigned())
    };
    let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
    Ok(Extent {
        newest: number("SELECT max(id) FROM results")?,
        oldest: number("SELECT min(id) FROM results")?,
        bytes: pages * number("PRAGMA page_size")?,
    })
}

/// Turns SQLite's memory statistics off: each allocation would take a lock for them.
#[expect(unsafe_code, reason = "sqlite3_config has no safe wrapper")]
fn count_no_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: this option takes one int. Called after SQLite's start it changes nothing and
        // says so; `Once` keeps two threads from calling it at the same time.
        let code =
            unsafe { rusqlite::ffi::sqlite3_config(rusqlite::ffi::SQLITE_CONFIG_MEMSTATUS, 0) };
        if code != rusqlite::ffi::SQLITE_OK {
            log::debug!("SQLite counts its memory: it had started already");
        }
    });
}

/// An error of SQLite, in words that say what to do.
fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    let shown = path.display();
    let code = error.sqlite_error_code();
    match code {
        Some(ErrorCode::NotADatabase) => StoreError::Unusable(format!(
            "{shown} is not a database; move it away, or name another state_dir in [hub]"
        )),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Unusable(format!(
            "{shown} is damaged ({error}); stop the hub, keep a copy, and try `sqlite3 {shown} \
             .recover | sqlite3 new.db`, or restore a backup"
        )),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Failing(format!(
            "{shown} is held by another process; does another hub run on it?"
        )),
        Some(ErrorCode::DiskFull) => {
            StoreError::Failing(format!("no space is left for {shown}; free some"))
        }
        Some(ErrorCode::CannotOpen) => StoreError::Failing(format!(
            "{shown} can't be opened; is its directory there, and may this user write in it?"
        )),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::Failing(format!(
            "{shown} can't be written; who owns it, and its directory?"
        )),
        _ => StoreError::Failing(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, Scratch, identity};

    #[test]
    fn the_file_keeps_what_the_conformance_test_asks_for() {
        let scratch = Scratch::new("conformance");
        let path = scratch.path("store.db");
        conformance::passes(|| Sqlite::open(&path, identity()).unwrap());
    }

    #[test]
    fn a_file_of_another_program_is_refused_and_left_alone() {
        let scratch = Scratch::new("foreign");
        let path = scratch.path("store.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        let said = Sqlite::open(&path, identity()).err().unwrap().to_string();
        assert!(said.contains("another program"), "{said}");
        std::fs::write(&path, [7; 8192]).unwrap();
        let said = Sqlite::open(&path, identity()).err().unwrap().to_string();
        assert!(said.contains("not a database"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), [7; 8192]);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let scratch = Scratch::new("newer");
        let path = scratch.path("store.db");
        drop(Sqlite::open(&path, identity()).unwrap());
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        let said = Sqlite::open(&path, identity()).err().unwrap().to_string();
        assert!(said.contains("newer version"), "{said}");
    }

    #[test]
    fn a_file_of_an_older_version_is_brought_up_to_date() {
        let scratch = Scratch::new("older");
        let path = scratch.path("store.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        let identity = identity();
        let known = (identity.hub.0, identity.epoch.cast_signed());
        old.execute("INSERT INTO identity (hub, epoch) VALUES (?1, ?2)", known).unwrap();
        old.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 1;
             INSERT INTO chunks (run, node, attempt, idx, received, bytes) VALUES
                 (x'01', 1, 1, 0, 7, x'0000'), (x'01', 1, 1, 1, 9, x'000000'),
                 (x'02', 1, 1, 0, 8, x'00');
             INSERT INTO results (run, node, attempt, source, outcome, received, chunked, job, body)
                 VALUES (x'02', 1, 1, 0, 0, 8, true, 'job', x'00');"
        ))
        .unwrap();
        drop(old);
        drop(Sqlite::open(&path, identity).unwrap());
        let new = Connection::open(&path).unwrap();
        let row = |sql: &str| -> (i64, i64, i64) {
            new.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
        };
        let partial = row("SELECT count(*), sum(bytes), min(received) FROM partial");
        assert_eq!(partial, (1, 5, 7), "output without a result");
        let corrected = row("SELECT count(*), count(corrected), 0 FROM results");
        assert_eq!(corrected, (1, 0, 0), "of an older result it is not known");
        let version = i64::from(VERSION);
        assert_eq!(row("SELECT user_version, 0, 0 FROM pragma_user_version"), (version, 0, 0));
    }

    #[test]
    fn a_second_hub_on_one_file_is_refused() {
        let scratch = Scratch::new("second");
        let path = scratch.path("store.db");
        let _first = Sqlite::open(&path, identity()).unwrap();
        let said = Sqlite::open(&path, identity()).err().unwrap().to_string();
        assert!(said.contains("another process"), "{said}");
    }
}
