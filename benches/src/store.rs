//! The floor of the store: SQLite by itself, with the hub's schema, its rows and its batches.

use std::path::Path;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::Outcome;
use crate::machine;

/// How the hub opens its file.
const PRAGMAS: &str = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -32768;";

/// Rows in one INSERT, as the hub writes them.
const ROWS: usize = 32;

/// A file for single commits.
pub struct Commits(Connection);

impl Commits {
    pub fn open(path: &Path) -> Outcome<Self> {
        let db = Connection::open(path)?;
        db.execute_batch(PRAGMAS)?;
        db.execute_batch("CREATE TABLE results (id INTEGER PRIMARY KEY, run BLOB, body BLOB)")?;
        Ok(Self(db))
    }

    /// Two transactions of a row each, one after the other, in microseconds.
    pub fn two(&self) -> Outcome<f64> {
        let begin = Instant::now();
        for _ in 0..2 {
            self.0.execute_batch("BEGIN IMMEDIATE")?;
            self.0
                .prepare_cached("INSERT INTO results (run, body) VALUES (?1, ?2)")?
                .execute(([7u8; 16], [7u8; 200]))?;
            self.0.execute_batch("COMMIT")?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6)
    }
}

/// Rows a second, and CPU microseconds a row, of inserting the rows of a stopped hub's file into
/// an empty file beside it, `batch` of them in a transaction.
pub fn inserts(hub: &Path, beside: &Path, most: usize, batch: usize) -> Outcome<(f64, f64)> {
    let Rows { schema, page_size, columns, values: rows } = rows_of(hub, most)?;
    let db = Connection::open(beside)?;
    db.execute_batch(&format!("PRAGMA page_size = {page_size};"))?;
    db.execute_batch(PRAGMAS)?;
    // As many bytes of WAL as the hub lets grow, whatever the pages' size.
    db.execute_batch(&format!("PRAGMA wal_autocheckpoint = {}", (16 << 20) / page_size))?;
    for sql in schema {
        db.execute_batch(&sql)?;
    }
    let one = format!("({})", vec!["?"; columns].join(","));
    let many = format!("INSERT INTO results VALUES {}", vec![one.as_str(); ROWS].join(","));
    let single = format!("INSERT INTO results VALUES {one}");
    let me = std::process::id();
    let (begin, cpu) = (Instant::now(), machine::cpu_us(me));
    for batch in rows.chunks(batch.max(1) * columns) {
        db.execute_batch("BEGIN IMMEDIATE")?;
        let (whole, rest) = batch.split_at(batch.len() / (ROWS * columns) * (ROWS * columns));
        for some in whole.chunks(ROWS * columns) {
            insert(&db, &many, some)?;
        }
        for row in rest.chunks(columns) {
            insert(&db, &single, row)?;
        }
        db.execute_batch("COMMIT")?;
    }
    let count = (rows.len() / columns) as f64;
    let rate = count / begin.elapsed().as_secs_f64();
    Ok((rate, (machine::cpu_us(me) - cpu) / count))
}

fn insert(db: &Connection, sql: &str, values: &[Value]) -> Outcome<()> {
    let mut statement = db.prepare_cached(sql)?;
    for (at, value) in (1..).zip(values) {
        statement.raw_bind_parameter(at, value)?;
    }
    statement.raw_execute()?;
    Ok(())
}

/// The results of a hub.
struct Rows {
    schema: Vec<String>,
    page_size: i64,
    columns: usize,
    values: Vec<Value>,
}

/// The table's definitions, and the values of its first rows, one after the other.
fn rows_of(hub: &Path, most: usize) -> Outcome<Rows> {
    let db = Connection::open(hub)?;
    let mut schema = db.prepare(
        "SELECT sql FROM sqlite_schema WHERE tbl_name = 'results' AND sql IS NOT NULL
         ORDER BY type = 'index'",
    )?;
    let schema = schema.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut select = db.prepare("SELECT * FROM results ORDER BY id LIMIT ?1")?;
    let columns = select.column_count();
    let mut values = Vec::new();
    let mut rows = select.query([most as i64])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            values.push(row.get(column)?);
        }
    }
    let page_size = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok(Rows { schema, page_size, columns, values })
}
