//! Old rows go, a bounded number in one commit.

use fieldpost_wire::{RunId, UnixMillis};
use rusqlite::{Connection, Result, params};

use crate::store::{LATE_MS, Sweep};

/// Removes what goes; gives how many results that were.
pub fn sweep(db: &Connection, sweep: &Sweep) -> Result<u64> {
    let swept = match last_victim(db, sweep)? {
        Some(last) => results(db, last)?,
        None => 0,
    };
    by_time(db, sweep.before, sweep.rows)?;
    orphans(db, sweep.before, sweep.rows)?;
    Ok(swept)
}

/// The newest result that goes: all up to it go. The newest of all stays, so that its offset is
/// never given twice.
fn last_victim(db: &Connection, sweep: &Sweep) -> Result<Option<i64>> {
    // The size to get rid of: no more goes for size than that, however many rows that is.
    let mut over = used(db)?.saturating_sub(sweep.bytes).saturating_sub(partial(db)?);
    let mut statement = db.prepare_cached(
        "SELECT id, received, length(body) + CASE WHEN chunked THEN \
         (SELECT ifnull(sum(length(c.bytes)), 0) FROM chunks c \
          WHERE c.run = r.run AND c.node = r.node AND c.attempt = r.attempt) ELSE 0 END, \
         EXISTS (SELECT 1 FROM triggers t WHERE t.run = r.run AND t.ok IS NULL \
                 AND t.submitted > ?3) \
         FROM results r \
         WHERE id <= ?1 AND id < (SELECT max(id) FROM results) ORDER BY id LIMIT ?2",
    )?;
    let keep_after = i64::try_from(sweep.keep_after).unwrap_or(i64::MAX);
    let mut found =
        statement.query(params![keep_after, sweep.rows, sweep.open_since.0.cast_signed()])?;
    let mut last = None;
    while let Some(row) = found.next()? {
        let received: i64 = row.get(1)?;
        let is_due = over > 0 || received.cast_unsigned() < sweep.before.0;
        if !is_due || row.get(3)? {
            break;
        }
        over = over.saturating_sub(row.get::<_, i64>(2)?.cast_unsigned());
        last = Some(row.get(0)?);
    }
    Ok(last)
}

fn used(db: &Connection) -> Result<u64> {
    let number = |sql: &str| -> Result<u64> {
        db.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
    Ok(pages * number("PRAGMA page_size")?)
}

/// Bytes of output whose run has no result.
fn partial(db: &Connection) -> Result<u64> {
    db.prepare_cached("SELECT ifnull(sum(bytes), 0) FROM partial")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

fn results(db: &Connection, last: i64) -> Result<u64> {
    db.prepare_cached(
        "DELETE FROM chunks WHERE id IN (SELECT c.id FROM results r \
         JOIN chunks c ON c.run = r.run AND c.node = r.node AND c.attempt = r.attempt \
         WHERE r.id <= ?1 AND r.chunked)",
    )?
    .execute([last])?;
    Ok(db.prepare_cached("DELETE FROM results WHERE id <= ?1")?.execute([last])? as u64)
}

fn by_time(db: &Connection, before: UnixMillis, rows: u32) -> Result<()> {
    let before_ms = before.0.cast_signed();
    for sql in [
        "DELETE FROM audit WHERE id IN (SELECT id FROM \
         (SELECT id, time FROM audit ORDER BY id LIMIT ?2) WHERE time < ?1)",
        "DELETE FROM missed WHERE id IN (SELECT id FROM \
         (SELECT id, received FROM missed ORDER BY id LIMIT ?2) WHERE received < ?1)",
        "DELETE FROM unreadable WHERE id IN (SELECT id FROM \
         (SELECT id, received FROM unreadable ORDER BY id LIMIT ?2) WHERE received < ?1)",
        "DELETE FROM awaiting WHERE (run, node, attempt) IN \
         (SELECT run, node, attempt FROM awaiting WHERE received < ?1 LIMIT ?2)",
    ] {
        // Ids ascend with time: only the oldest rows are looked at, not the whole table.
        db.prepare_cached(sql)?.execute(params![before_ms, rows])?;
    }
    db.prepare_cached(
        "DELETE FROM triggers WHERE run IN (SELECT run FROM triggers WHERE run < ?1 \
         AND submitted < ?2 AND ok IS NOT NULL ORDER BY run LIMIT ?3)",
    )?
    .execute(params![&time_floor(before).0, before_ms, rows])?;
    Ok(())
}

/// Chunks of runs that never got a `Finished`. Ids ascend with time: only the oldest are looked at.
fn orphans(db: &Connection, before: UnixMillis, rows: u32) -> Result<()> {
    db.prepare_cached(
        "DELETE FROM chunks WHERE id IN (SELECT c.id FROM \
         (SELECT id, run, node, attempt, received FROM chunks ORDER BY id LIMIT ?2) c \
         WHERE c.received < ?1 \
         AND NOT EXISTS (SELECT 1 FROM results r \
             WHERE r.run = c.run AND r.node = c.node AND r.attempt = c.attempt) \
         AND NOT EXISTS (SELECT 1 FROM awaiting a \
             WHERE a.run = c.run AND a.node = c.node AND a.attempt = c.attempt))",
    )?
    .execute(params![before.0.saturating_sub(LATE_MS).cast_signed(), rows])?;
    db.prepare_cached(
        "DELETE FROM partial WHERE received < ?1 AND NOT EXISTS (SELECT 1 FROM chunks c \
         WHERE c.run = partial.run AND c.node = partial.node AND c.attempt = partial.attempt)",
    )?
    .execute([before.0.saturating_sub(LATE_MS).cast_signed()])?;
    Ok(())
}

/// The smallest run id of this time.
fn time_floor(time: UnixMillis) -> RunId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&time.0.to_be_bytes()[2..]);
    RunId(id)
}
