//! Batches become rows.

use std::sync::LazyLock;

use rusqlite::{Connection, Result, Statement, params};

use super::sweep::sweep;
use crate::store::{Batch, Change, NodeId, NodeRecord, Record, Source, TriggerRecord};

/// Results in one INSERT: beyond this a larger statement saves nothing.
const AT_ONCE: usize = 32;
/// Columns of a result that are bound.
const COLUMNS: usize = 10;

static INSERT_MANY: LazyLock<String> = LazyLock::new(|| insert(AT_ONCE));
static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert(1));

fn insert(rows: usize) -> String {
    let values = vec!["(?,?,?,?,?,?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT OR IGNORE INTO results \
         (run, node, attempt, source, outcome, received, chunked, job, body, corrected) \
         VALUES {values}"
    )
}

/// Writes what nodes reported; gives how many results are new.
pub fn records(db: &Connection, batch: &Batch) -> Result<u64> {
    let mut fresh = 0;
    let mut run = Vec::with_capacity(AT_ONCE);
    for record in batch.records() {
        if let Record::Result { .. } = record {
            run.push(record);
            if run.len() == AT_ONCE {
                fresh += results(db, batch, &INSERT_MANY, &run)?;
                run.clear();
            }
            continue;
        }
        other(db, batch, record)?;
    }
    for record in &run {
        fresh += results(db, batch, &INSERT_ONE, std::slice::from_ref(record))?;
    }
    for record in batch.records() {
        if let Record::Result { run, node, attempt, chunked: true, .. } = record {
            for sql in [
                "DELETE FROM awaiting WHERE run = ?1 AND node = ?2 AND attempt = ?3",
                "DELETE FROM partial WHERE run = ?1 AND node = ?2 AND attempt = ?3",
            ] {
                db.prepare_cached(sql)?.execute((&run.0, node.0, attempt))?;
            }
        }
    }
    Ok(fresh)
}

fn results(db: &Connection, batch: &Batch, sql: &str, rows: &[&Record]) -> Result<u64> {
    let mut statement = db.prepare_cached(sql)?;
    for (i, record) in rows.iter().enumerate() {
        bind(&mut statement, i * COLUMNS, batch, record)?;
    }
    let changed = statement.raw_execute()?;
    Ok(changed as u64)
}

fn bind(statement: &mut Statement<'_>, at: usize, batch: &Batch, record: &Record) -> Result<()> {
    let Record::Result {
        run,
        node,
        attempt,
        source,
        outcome,
        received,
        corrected,
        job,
        body,
        chunked,
    } = record
    else {
        return Ok(());
    };
    statement.raw_bind_parameter(at + 1, &run.0[..])?;
    statement.raw_bind_parameter(at + 2, node.0)?;
    statement.raw_bind_parameter(at + 3, *attempt)?;
    statement.raw_bind_parameter(at + 4, source_code(*source))?;
    statement.raw_bind_parameter(at + 5, outcome.code())?;
    statement.raw_bind_parameter(at + 6, received.0.cast_signed())?;
    statement.raw_bind_parameter(at + 7, *chunked)?;
    statement.raw_bind_parameter(at + 8, batch.text(job))?;
    statement.raw_bind_parameter(at + 9, batch.slice(body))?;
    statement.raw_bind_parameter(at + 10, corrected.map(|time| time.0.cast_signed()))
}

fn other(db: &Connection, batch: &Batch, record: &Record) -> Result<()> {
    match record {
        Record::Result { .. } => {}
        Record::Awaiting { run, node, attempt, received, body } => {
            db.prepare_cached(
                "INSERT OR IGNORE INTO awaiting (run, node, attempt, received, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                &run.0,
                node.0,
                attempt,
                received.0.cast_signed(),
                batch.slice(body),
            ))?;
        }
        Record::Chunk { run, node, attempt, received, index, bytes } => {
            let (bytes, received) = (batch.slice(bytes), received.0.cast_signed());
            let fresh = db
                .prepare_cached(
                    "INSERT OR IGNORE INTO chunks (run, node, attempt, idx, received, bytes) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute((&run.0, node.0, attempt, index, received, bytes))?;
            if fresh > 0 {
                db.prepare_cached(
                    "INSERT INTO partial (run, node, attempt, received, bytes) \
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET bytes = bytes + ?5",
                )?
                .execute((
                    &run.0,
                    node.0,
                    attempt,
                    received,
                    bytes.len() as i64,
                ))?;
            }
        }
        Record::Missed { node, received, entry, from, to, count } => {
            db.prepare_cached(
                "INSERT OR IGNORE INTO missed (node, received, entry, first, last, count) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                node.0,
                received.0.cast_signed(),
                batch.text(entry),
                from.0.cast_signed(),
                to.0.cast_signed(),
                count.cast_signed(),
            ))?;
        }
        Record::Unreadable { node, tag, received, body } => {
            db.prepare_cached(
                "INSERT OR IGNORE INTO unreadable (node, outbox, seq, received, body) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                node.0,
                &tag.outbox.0,
                tag.seq.0.cast_signed(),
                received.0.cast_signed(),
                batch.slice(body),
            ))?;
        }
    }
    Ok(())
}

/// Writes what people and the hub changed; gives how many rows were swept away.
pub fn changes(db: &Connection, batch: &Batch) -> Result<u64> {
    let mut swept = 0;
    for change in batch.changes() {
        match change {
            Change::Sweep(what) => swept += sweep(db, what)?,
            other => one(db, other)?,
        }
    }
    Ok(swept)
}

fn one(db: &Connection, change: &Change) -> Result<()> {
    match change {
        Change::Sweep(_) => Ok(()),
        Change::Node(record) => node(db, record),
        Change::Revoked(key) => {
            execute(db, "INSERT OR IGNORE INTO revoked_keys VALUES (?1)", params![key.as_str()])
        }
        Change::Pardoned(key) => {
            execute(db, "DELETE FROM revoked_keys WHERE key = ?1", params![key.as_str()])
        }
        Change::Schedule(record) => execute(
            db,
            "INSERT OR REPLACE INTO schedules (scope, counter, changed, entries) \
             VALUES (?1, ?2, ?3, ?4)",
            params![
                record.scope.to_string(),
                record.counter.cast_signed(),
                record.changed.0.cast_signed(),
                record.entries
            ],
        ),
        Change::Trigger(record) => trigger(db, record),
        Change::Cancelled { run, time, nodes } => execute(
            db,
            "UPDATE triggers SET cancelled = ?2, cancelled_nodes = ?3 WHERE run = ?1",
            params![&run.0, time.0.cast_signed(), blob(nodes)],
        ),
        Change::Closed { run, tally } => {
            execute(
                db,
                "UPDATE triggers SET ok = ?2, failed = ?3, inferred = ?4 WHERE run = ?1",
                params![&run.0, tally.ok, tally.failed, tally.inferred],
            )?;
            execute(db, "DELETE FROM progress WHERE run = ?1", params![&run.0])
        }
        Change::Progress(record) => execute(
            db,
            "INSERT OR REPLACE INTO progress (run, node, attempt, until) VALUES (?1, ?2, ?3, ?4)",
            params![
                &record.run.0,
                record.node.0,
                record.attempt,
                record.until.map(|until| until.0.cast_signed())
            ],
        ),
        Change::Consumer(record) => execute(
            db,
            "INSERT OR REPLACE INTO consumers (name, owner, offset, seen) VALUES (?1, ?2, ?3, ?4)",
            params![
                &*record.name,
                &*record.owner,
                record.offset.cast_signed(),
                record.seen.0.cast_signed()
            ],
        ),
        Change::NoConsumer(name) => {
            execute(db, "DELETE FROM consumers WHERE name = ?1", params![&**name])
        }
        Change::Audit(record) => execute(
            db,
            "INSERT INTO audit (time, who, what, place, outcome, origin) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                record.time.0.cast_signed(),
                record.who,
                record.what,
                record.place,
                record.outcome,
                record.origin
            ],
        ),
    }
}

fn node(db: &Connection, record: &NodeRecord) -> Result<()> {
    let groups: Vec<&str> = record.groups.iter().map(|group| &**group).collect();
    execute(
        db,
        "INSERT OR REPLACE INTO nodes (id, name, groups, accepted, quarantined, regrouped) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            record.id.0,
            &*record.name,
            groups.join(" "),
            record.accepted.0.cast_signed(),
            record.quarantined.map(|time| time.0.cast_signed()),
            record.regrouped.cast_signed()
        ],
    )?;
    execute(db, "DELETE FROM node_keys WHERE node = ?1", params![record.id.0])?;
    for key in &record.keys {
        execute(
            db,
            "INSERT OR REPLACE INTO node_keys (key, node, until) VALUES (?1, ?2, ?3)",
            params![key.key.as_str(), record.id.0, key.until.map(|until| until.0.cast_signed())],
        )?;
    }
    Ok(())
}

fn trigger(db: &Connection, record: &TriggerRecord) -> Result<()> {
    execute(
        db,
        "INSERT OR IGNORE INTO triggers (run, submitted, deadline, client, request, job, nodes, \
         cancelled, cancelled_nodes, ok, failed, inferred) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            &record.run.0,
            record.submitted.0.cast_signed(),
            record.deadline.0.cast_signed(),
            record.client,
            record.request,
            &*record.job,
            blob(&record.nodes),
            record.cancelled.map(|time| time.0.cast_signed()),
            blob(&record.cancelled_nodes),
            record.closed.map(|tally| tally.ok),
            record.closed.map(|tally| tally.failed),
            record.closed.map(|tally| tally.inferred)
        ],
    )
}

fn execute(db: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

fn blob(nodes: &[NodeId]) -> Vec<u8> {
    nodes.iter().flat_map(|node| node.0.to_le_bytes()).collect()
}

pub fn source_code(source: Source) -> u8 {
    match source {
        Source::Node => 0,
        Source::Hub => 1,
    }
}
