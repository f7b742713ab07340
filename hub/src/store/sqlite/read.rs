//! Rows become answers.

use fieldpost_wire::{Name, RunId, UnixMillis};
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};

use crate::store::{
    Answer, AuditRecord, MissedRecord, NodeId, Outcome, Query, ResultRecord, Source, Tally,
    TriggerRecord, insert_index,
};

/// Columns of a result; whether a node's word replaced the hub's is looked up.
const RESULT: &str = "r.id, r.run, r.node, r.attempt, r.source, r.outcome, r.received, r.body, \
    r.source = 0 AND EXISTS (SELECT 1 FROM results h WHERE h.run = r.run AND h.node = r.node \
    AND h.attempt = r.attempt AND h.source = 1), r.job, r.corrected";
const TRIGGER: &str = "run, submitted, deadline, client, request, job, nodes, cancelled, \
    cancelled_nodes, ok, failed, inferred";
/// Triggers looked at for one page of a filtered list.
const MOST_TRIGGERS: usize = 10_000;

pub fn answer(db: &Connection, query: &Query) -> Result<Answer> {
    match query {
        Query::Results { after, limit, jobs, nodes, scan } => {
            results(db, *after, *limit, jobs, nodes, *scan)
        }
        Query::Run { run, after, limit } => one_run(db, *run, *after, *limit),
        Query::Triggers { before, limit, job, node } => {
            triggers(db, *before, *limit, job.as_ref(), *node)
        }
        Query::Chunks { run, node, attempt, from, bytes } => {
            chunks(db, *run, *node, *attempt, *from, *bytes)
        }
        Query::Held { run, node, attempt } => {
            let held = held(db, *run, *node, *attempt)?;
            Ok(Answer::Held { run: *run, node: *node, attempt: *attempt, held })
        }
        Query::Missed { before, limit, node } => missed(db, *before, *limit, *node),
        Query::Audit { before, limit } => audit(db, *before, *limit),
    }
}

fn results(
    db: &Connection,
    after: u64,
    limit: u32,
    jobs: &[Name],
    nodes: &[NodeId],
    scan: u32,
) -> Result<Answer> {
    let sql = format!("SELECT {RESULT} FROM results r WHERE r.id > ?1 ORDER BY r.id LIMIT ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let after_id = i64::try_from(after).unwrap_or(i64::MAX);
    let mut found = statement.query(params![after_id, scan])?;
    let (mut rows, mut scanned) = (Vec::new(), after);
    while let Some(row) = found.next()? {
        let id: i64 = row.get(0)?;
        let job = row.get_ref(9)?.as_str()?;
        let node = NodeId(row.get(2)?);
        scanned = id.cast_unsigned();
        let wanted = (jobs.is_empty() || jobs.iter().any(|name| &**name == job))
            && (nodes.is_empty() || nodes.contains(&node));
        if wanted {
            rows.push(result(row)?);
            if rows.len() >= limit as usize {
                break;
            }
        }
    }
    Ok(Answer::Results { rows, scanned })
}

fn one_run(db: &Connection, run: RunId, after: Option<NodeId>, limit: u32) -> Result<Answer> {
    let limit = limit as usize;
    let trigger = db
        .prepare_cached(&format!("SELECT {TRIGGER} FROM triggers WHERE run = ?1"))?
        .query_row([&run.0], trigger_row)
        .optional()?;
    let floor = after.map_or(-1, |node| i64::from(node.0));
    // The last node of this page, and whether there are more.
    let page = trigger.as_ref().map(|trigger| {
        let start = trigger.nodes.partition_point(|node| i64::from(node.0) <= floor);
        let page = &trigger.nodes[start..(start + limit).min(trigger.nodes.len())];
        (page.last().copied(), start + page.len() < trigger.nodes.len())
    });
    let ceiling = match page {
        Some((last, _)) => last.map_or(-1, |node| i64::from(node.0)),
        None => i64::MAX,
    };
    let sql = format!(
        "SELECT {RESULT} FROM results r WHERE r.run = ?1 AND r.node > ?2 AND r.node <= ?3 \
         ORDER BY r.node, r.attempt, r.source"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut found = statement.query(params![&run.0, floor, ceiling])?;
    let mut rows: Vec<ResultRecord> = Vec::new();
    let (mut seen, mut next) = (0, None);
    while let Some(row) = found.next()? {
        let row = result(row)?;
        if rows.last().is_none_or(|last| last.node != row.node) {
            if page.is_none() && seen == limit {
                next = rows.last().map(|last| last.node);
                break;
            }
            seen += 1;
        }
        rows.push(row);
    }
    if let Some((last, true)) = page {
        next = last;
    }
    Ok(Answer::Run { trigger, rows, next })
}

fn triggers(
    db: &Connection,
    before: Option<RunId>,
    limit: u32,
    job: Option<&Name>,
    node: Option<NodeId>,
) -> Result<Answer> {
    let sql = format!(
        "SELECT {TRIGGER} FROM triggers WHERE run < ?1 ORDER BY run DESC LIMIT {MOST_TRIGGERS}"
    );
    let before = before.unwrap_or(RunId([0xff; 16]));
    let mut statement = db.prepare_cached(&sql)?;
    let mut found = statement.query([&before.0])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let row = trigger_row(row)?;
        let wanted = job.is_none_or(|job| row.job == *job)
            && node.is_none_or(|node| row.nodes.binary_search(&node).is_ok());
        if wanted {
            rows.push(row);
            if rows.len() >= limit as usize {
                break;
            }
        }
    }
    Ok(Answer::Triggers(rows))
}

fn chunks(
    db: &Connection,
    run: RunId,
    node: NodeId,
    attempt: Option<u32>,
    from: u32,
    bytes: u32,
) -> Result<Answer> {
    let attempt = match attempt {
        Some(attempt) => attempt,
        None => last_attempt(db, run, node)?,
    };
    let mut statement = db.prepare_cached(
        "SELECT idx, bytes FROM chunks WHERE run = ?1 AND node = ?2 AND attempt = ?3 \
         AND idx >= ?4 ORDER BY idx",
    )?;
    let mut found = statement.query(params![&run.0, node.0, attempt, from])?;
    let (mut chunks, mut size, mut expected) = (Vec::<(u32, Vec<u8>)>::new(), 0, from);
    while let Some(row) = found.next()? {
        let (index, chunk): (u32, Vec<u8>) = (row.get(0)?, row.get(1)?);
        size += chunk.len();
        if index != expected || (!chunks.is_empty() && size > bytes as usize) {
            break;
        }
        expected = index.saturating_add(1);
        chunks.push((index, chunk));
    }
    let sql = format!(
        "SELECT {RESULT} FROM results r WHERE r.run = ?1 AND r.node = ?2 AND r.attempt = ?3 \
         ORDER BY r.source LIMIT 1"
    );
    let result =
        db.prepare_cached(&sql)?.query_row(params![&run.0, node.0, attempt], result).optional()?;
    Ok(Answer::Chunks { attempt, chunks, result })
}

fn last_attempt(db: &Connection, run: RunId, node: NodeId) -> Result<u32> {
    let last: Option<u32> = db
        .prepare_cached(
            "SELECT max(attempt) FROM (SELECT attempt FROM results WHERE run = ?1 AND node = ?2 \
             UNION ALL SELECT attempt FROM chunks WHERE run = ?1 AND node = ?2)",
        )?
        .query_row(params![&run.0, node.0], |row| row.get(0))?;
    Ok(last.unwrap_or(0))
}

pub fn held(db: &Connection, run: RunId, node: NodeId, attempt: u32) -> Result<Vec<(u32, u32)>> {
    let mut statement = db.prepare_cached(
        "SELECT idx FROM chunks WHERE run = ?1 AND node = ?2 AND attempt = ?3 ORDER BY idx",
    )?;
    let mut found = statement.query(params![&run.0, node.0, attempt])?;
    let mut held = Vec::new();
    while let Some(row) = found.next()? {
        insert_index(&mut held, row.get(0)?);
    }
    Ok(held)
}

fn missed(
    db: &Connection,
    before: Option<u64>,
    limit: u32,
    node: Option<NodeId>,
) -> Result<Answer> {
    let before = before.map_or(i64::MAX, |place| i64::try_from(place).unwrap_or(i64::MAX));
    let mut statement = db.prepare_cached(
        "SELECT id, node, received, entry, first, last, count FROM missed \
         WHERE id < ?1 AND (?3 IS NULL OR node = ?3) ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![before, limit, node.map(|node| node.0)], |row| {
        Ok(MissedRecord {
            offset: row.get::<_, i64>(0)?.cast_unsigned(),
            node: NodeId(row.get(1)?),
            received: time(row, 2)?,
            entry: row.get(3)?,
            from: time(row, 4)?,
            to: time(row, 5)?,
            count: row.get::<_, i64>(6)?.cast_unsigned(),
        })
    })?;
    rows.collect::<Result<_>>().map(Answer::Missed)
}

fn audit(db: &Connection, before: Option<u64>, limit: u32) -> Result<Answer> {
    let before = before.map_or(i64::MAX, |place| i64::try_from(place).unwrap_or(i64::MAX));
    let mut statement = db.prepare_cached(
        "SELECT id, time, who, what, place, outcome, origin FROM audit WHERE id < ?1 \
         ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![before, limit], |row| {
        Ok(AuditRecord {
            offset: row.get::<_, i64>(0)?.cast_unsigned(),
            time: time(row, 1)?,
            who: row.get(2)?,
            what: row.get(3)?,
            place: row.get(4)?,
            outcome: row.get(5)?,
            origin: row.get(6)?,
        })
    })?;
    rows.collect::<Result<_>>().map(Answer::Audit)
}

fn result(row: &Row<'_>) -> Result<ResultRecord> {
    let outcome = Outcome::from_code(row.get(5)?)
        .ok_or_else(|| wrong(5, Type::Integer, "an outcome that this version does not know"))?;
    Ok(ResultRecord {
        offset: row.get::<_, i64>(0)?.cast_unsigned(),
        run: RunId(row.get(1)?),
        node: NodeId(row.get(2)?),
        attempt: row.get(3)?,
        source: source(row, 4)?,
        outcome,
        received: time(row, 6)?,
        body: row.get(7)?,
        revised: row.get(8)?,
        corrected: maybe_time(row, 10)?,
    })
}

pub fn source(row: &Row<'_>, column: usize) -> Result<Source> {
    Ok(if row.get::<_, u8>(column)? == 0 { Source::Node } else { Source::Hub })
}

pub fn trigger_row(row: &Row<'_>) -> Result<TriggerRecord> {
    let closed: Option<u32> = row.get(9)?;
    let closed = match closed {
        Some(ok) => Some(Tally { ok, failed: row.get(10)?, inferred: row.get(11)? }),
        None => None,
    };
    Ok(TriggerRecord {
        run: RunId(row.get(0)?),
        submitted: time(row, 1)?,
        deadline: time(row, 2)?,
        client: row.get(3)?,
        request: row.get(4)?,
        job: name(row, 5)?,
        nodes: node_list(row, 6)?,
        cancelled: maybe_time(row, 7)?,
        cancelled_nodes: node_list(row, 8)?,
        closed,
    })
}

pub fn time(row: &Row<'_>, column: usize) -> Result<UnixMillis> {
    row.get::<_, i64>(column).map(|ms| UnixMillis(ms.cast_unsigned()))
}

pub fn maybe_time(row: &Row<'_>, column: usize) -> Result<Option<UnixMillis>> {
    let ms: Option<i64> = row.get(column)?;
    Ok(ms.map(|ms| UnixMillis(ms.cast_unsigned())))
}

pub fn name(row: &Row<'_>, column: usize) -> Result<Name> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|_| wrong(column, Type::Text, "not a name"))
}

fn node_list(row: &Row<'_>, column: usize) -> Result<Vec<NodeId>> {
    let blob = row.get_ref(column)?.as_blob()?;
    let (words, _) = blob.as_chunks::<4>();
    Ok(words.iter().map(|word| NodeId(u32::from_le_bytes(*word))).collect())
}

pub fn wrong(column: usize, kind: Type, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        kind,
        Box::new(FromSqlError::Other(what.into())),
    )
}
