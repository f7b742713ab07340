//! Old rows go, a bounded number in one commit.

use fieldpost_wire::{RunId, UnixMillis};
use rusqlite::{Connection, OptionalExtension as _, Result, params};

use crate::store::{LATE_MS, Sweep};

/// Removes what goes; gives how many results that were, or, where as many as may go in one commit went
/// before any result, how many of these.
pub fn sweep(db: &Connection, sweep: &Sweep) -> Result<u64> {
    by_time(db, sweep.before, sweep.rows)?;
    orphans(db, sweep.before, sweep.rows)?;
    // For the size, what is told of times of which no result is kept goes before any result does. Triggers
    // only once nobody can submit them again.
    if over(db, sweep)? > 0
        && let Some(oldest) = oldest(db)?
    {
        let audit = told(db, oldest, sweep.rows)?;
        let triggers = triggers(db, oldest.min(sweep.open_since), sweep.rows)?;
        if audit.max(triggers) >= u64::from(sweep.rows) {
            return Ok(audit.max(triggers));
        }
    }
    match last_victim(db, sweep)? {
        Some(last) => results(db, last),
        None => Ok(0),
    }
}

/// The size to get rid of.
fn over(db: &Connection, sweep: &Sweep) -> Result<u64> {
    Ok(used(db)?.saturating_sub(sweep.bytes).saturating_sub(partial(db)?))
}

/// When the oldest result came that is kept.
fn oldest(db: &Connection) -> Result<Option<UnixMillis>> {
    db.prepare_cached("SELECT received FROM results ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0).map(|ms: i64| UnixMillis(ms.cast_unsigned())))
        .optional()
}

/// The newest result that goes: all up to it go. The newest of all stays, so that its offset is
/// never given twice.
fn last_victim(db: &Connection, sweep: &Sweep) -> Result<Option<i64>> {
    // No more goes for size than that, however many rows that is.
    let mut over = over(db, sweep)?;
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
    told(db, before, rows)?;
    db.prepare_cached(
        "DELETE FROM awaiting WHERE (run, node, attempt) IN \
         (SELECT run, node, attempt FROM awaiting WHERE received < ?1 LIMIT ?2)",
    )?
    .execute(params![before.0.cast_signed(), rows])?;
    triggers(db, before, rows).map(drop)
}

/// What was told of that time, but results; gives the most rows of one kind.
fn told(db: &Connection, before: UnixMillis, rows: u32) -> Result<u64> {
    let mut most = 0;
    for sql in [
        "DELETE FROM audit WHERE id IN (SELECT id FROM \
         (SELECT id, time FROM audit ORDER BY id LIMIT ?2) WHERE time < ?1)",
        "DELETE FROM missed WHERE id IN (SELECT id FROM \
         (SELECT id, received FROM missed ORDER BY id LIMIT ?2) WHERE received < ?1)",
        "DELETE FROM unreadable WHERE id IN (SELECT id FROM \
         (SELECT id, received FROM unreadable ORDER BY id LIMIT ?2) WHERE received < ?1)",
    ] {
        // Ids ascend with time: only the oldest rows are looked at, not the whole table.
        most = most.max(db.prepare_cached(sql)?.execute(params![before.0.cast_signed(), rows])?);
    }
    Ok(most as u64)
}

/// Triggers of that time that are over.
fn triggers(db: &Connection, before: UnixMillis, rows: u32) -> Result<u64> {
    db.prepare_cached(
        "DELETE FROM triggers WHERE run IN (SELECT run FROM triggers WHERE run < ?1 \
         AND submitted < ?2 AND ok IS NOT NULL ORDER BY run LIMIT ?3)",
    )?
    .execute(params![&time_floor(before).0, before.0.cast_signed(), rows])
    .map(|gone| gone as u64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{Scratch, identity};
    use crate::store::sqlite::Sqlite;
    use crate::store::{
        AuditRecord, Batch, Change, NodeId, Outcome, Record, Source, Store as _, Tally,
        TriggerRecord,
    };

    /// A trigger that is over, a line about it, and its result.
    fn life(batch: &mut Batch, ms: u64) {
        let run = RunId::v7(UnixMillis(ms), [7; 10]);
        batch.change(Change::Trigger(TriggerRecord {
            run,
            submitted: UnixMillis(ms),
            deadline: UnixMillis(ms + 60_000),
            client: "airflow".to_owned(),
            request: "x".repeat(300),
            job: "job".parse().unwrap(),
            nodes: vec![NodeId(1)],
            cancelled: None,
            cancelled_nodes: Vec::new(),
            closed: Some(Tally { ok: 1, failed: 0, inferred: 0 }),
        }));
        batch.change(Change::Audit(AuditRecord {
            offset: 0,
            time: UnixMillis(ms),
            who: "airflow".to_owned(),
            what: "submit".to_owned(),
            place: "job node:gw".to_owned(),
            outcome: "ok".to_owned(),
            origin: "x".repeat(100),
        }));
        let job = batch.put(&[b"job"]);
        let body = batch.put(&[&[7; 100]]);
        batch.record(Record::Result {
            run,
            node: NodeId(1),
            attempt: 1,
            source: Source::Node,
            outcome: Outcome::Ok,
            received: UnixMillis(ms),
            corrected: None,
            job,
            body,
            chunked: false,
        });
    }

    #[test]
    fn a_small_size_and_a_great_age_leave_the_newest_results() {
        let scratch = Scratch::new("size");
        let mut store = Sqlite::open(&scratch.path("store.db"), identity()).unwrap();
        let most = 16 << 20;
        let mut ms = 1_800_000_000_000;
        let mut kept = 0;
        for day in 0..60 {
            let mut batch = Batch::default();
            for _ in 0..1_000 {
                ms += 86_400;
                life(&mut batch, ms);
            }
            store.commit(&batch).unwrap();
            // Like the hub: again while there is more.
            for _ in 0..10 {
                let mut batch = Batch::default();
                batch.change(Change::Sweep(Sweep {
                    before: UnixMillis(0), // age: for ever
                    bytes: most,
                    keep_after: u64::MAX,
                    open_since: UnixMillis(ms - 9 * 24 * 60 * 60 * 1_000),
                    rows: 5_000,
                }));
                let committed = store.commit(&batch).unwrap();
                assert!(committed.extent.bytes < 2 * most, "day {day}: {committed:?}");
                kept = committed.extent.newest + 1 - committed.extent.oldest;
                if committed.swept < 5_000 {
                    break;
                }
            }
            assert!(kept >= 1_000, "day {day}: of the last day's 1000 results {kept} stay");
        }
    }
}
