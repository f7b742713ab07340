//! What a starting hub reads.

use fieldpost_wire::{HubId, Name, RunId, UnixMillis};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Result, Row};

use super::read::{held, maybe_time, name, source, time, trigger_row, wrong};
use crate::store::{
    AwaitingRecord, ConsumerRecord, Extent, Identity, Key, NodeId, NodeKey, NodeRecord, Outcome,
    ProgressRecord, RECENT_RUNS, Restored, RestoredTrigger, STANDING_RUNS, ScheduleRecord, Scope,
};

pub fn restore(db: &Connection, extent: Extent) -> Result<Restored> {
    let identity = db.query_row("SELECT hub, epoch FROM identity", [], |row| {
        let epoch: i64 = row.get(1)?;
        Ok(Identity { hub: HubId(row.get(0)?), epoch: epoch.cast_unsigned() })
    })?;
    Ok(Restored {
        identity,
        nodes: nodes(db)?,
        revoked: all(db, "SELECT key FROM revoked_keys ORDER BY key", |row| key(row, 0))?,
        schedules: all(
            db,
            "SELECT scope, counter, changed, entries FROM schedules ORDER BY scope",
            |row| {
                Ok(ScheduleRecord {
                    scope: scope(row, 0)?,
                    counter: row.get::<_, i64>(1)?.cast_unsigned(),
                    changed: time(row, 2)?,
                    entries: row.get(3)?,
                })
            },
        )?,
        triggers: triggers(db)?,
        recent: all(
            db,
            &format!("SELECT run FROM triggers ORDER BY run DESC LIMIT {RECENT_RUNS}"),
            |row| row.get(0).map(RunId),
        )?,
        awaiting: awaiting(db)?,
        newest: db
            .query_row("SELECT received FROM results ORDER BY id DESC LIMIT 1", [], |row| {
                time(row, 0)
            })
            .optional()?
            .unwrap_or(UnixMillis(0)),
        consumers: all(
            db,
            "SELECT name, owner, offset, seen FROM consumers ORDER BY name",
            |row| {
                Ok(ConsumerRecord {
                    name: name(row, 0)?,
                    owner: row.get(1)?,
                    offset: row.get::<_, i64>(2)?.cast_unsigned(),
                    seen: time(row, 3)?,
                })
            },
        )?,
        extent,
    })
}

fn all<T>(db: &Connection, sql: &str, each: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
    db.prepare(sql)?.query_map([], each)?.collect()
}

fn nodes(db: &Connection) -> Result<Vec<NodeRecord>> {
    let mut nodes = all(
        db,
        "SELECT id, name, groups, accepted, quarantined, regrouped FROM nodes ORDER BY id",
        |row| {
            let groups: String = row.get(2)?;
            let groups = groups
                .split_whitespace()
                .map(|group| group.parse::<Name>().map_err(|_| wrong(2, Type::Text, "not a name")))
                .collect::<Result<_>>()?;
            Ok(NodeRecord {
                id: NodeId(row.get(0)?),
                name: name(row, 1)?,
                groups,
                keys: Vec::new(),
                accepted: time(row, 3)?,
                quarantined: maybe_time(row, 4)?,
                regrouped: row.get::<_, i64>(5)?.cast_unsigned(),
            })
        },
    )?;
    let keys = all(db, "SELECT node, key, until FROM node_keys ORDER BY node, key", |row| {
        Ok((NodeId(row.get(0)?), NodeKey { key: key(row, 1)?, until: maybe_time(row, 2)? }))
    })?;
    for (node, key) in keys {
        if let Ok(at) = nodes.binary_search_by_key(&node, |record| record.id) {
            nodes[at].keys.push(key);
        }
    }
    Ok(nodes)
}

fn triggers(db: &Connection) -> Result<Vec<RestoredTrigger>> {
    let mut records = Vec::new();
    let mut standing = 0;
    let mut alive = db.prepare(
        "SELECT run, submitted, deadline, client, request, job, nodes, cancelled, \
         cancelled_nodes, ok, failed, inferred FROM triggers \
         WHERE ok IS NULL OR inferred > 0 ORDER BY run DESC",
    )?;
    let mut rows = alive.query([])?;
    while let Some(row) = rows.next()? {
        let record = trigger_row(row)?;
        standing += usize::from(record.closed.is_some());
        if record.closed.is_none() || standing <= STANDING_RUNS {
            records.push(record);
        }
    }
    records.reverse();
    let mut progress =
        db.prepare("SELECT node, attempt, until FROM progress WHERE run = ?1 ORDER BY node")?;
    let mut results = db.prepare(
        "SELECT node, attempt, source, outcome FROM results WHERE run = ?1 \
         ORDER BY node, attempt, source",
    )?;
    records
        .into_iter()
        .map(|trigger| {
            let run = trigger.run;
            let progress = progress
                .query_map([&run.0], |row| {
                    Ok(ProgressRecord {
                        run,
                        node: NodeId(row.get(0)?),
                        attempt: row.get(1)?,
                        until: maybe_time(row, 2)?,
                    })
                })?
                .collect::<Result<_>>()?;
            let results = results
                .query_map([&run.0], |row| {
                    let outcome = Outcome::from_code(row.get(3)?)
                        .ok_or_else(|| wrong(3, Type::Integer, "an unknown outcome"))?;
                    Ok((NodeId(row.get(0)?), row.get(1)?, source(row, 2)?, outcome))
                })?
                .collect::<Result<_>>()?;
            Ok(RestoredTrigger { trigger, progress, results })
        })
        .collect()
}

fn awaiting(db: &Connection) -> Result<Vec<AwaitingRecord>> {
    let mut records = all(
        db,
        "SELECT run, node, attempt, received, body FROM awaiting ORDER BY run, node, attempt",
        |row| {
            Ok(AwaitingRecord {
                run: RunId(row.get(0)?),
                node: NodeId(row.get(1)?),
                attempt: row.get(2)?,
                received: time(row, 3)?,
                body: row.get(4)?,
                held: Vec::new(),
            })
        },
    )?;
    for record in &mut records {
        record.held = held(db, record.run, record.node, record.attempt)?;
    }
    Ok(records)
}

fn key(row: &Row<'_>, column: usize) -> Result<Key> {
    Key::read(row.get_ref(column)?.as_str()?).ok_or_else(|| wrong(column, Type::Text, "not a key"))
}

fn scope(row: &Row<'_>, column: usize) -> Result<Scope> {
    let text = row.get_ref(column)?.as_str()?;
    let bad = || wrong(column, Type::Text, "not a scope");
    match text.split_once(':') {
        None if text == "all" => Ok(Scope::All),
        Some(("group", group)) => group.parse().map(Scope::Group).map_err(|_| bad()),
        Some(("node", node)) => node.parse().map(Scope::Node).map_err(|_| bad()),
        _ => Err(bad()),
    }
}
