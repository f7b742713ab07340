//! `fieldpost audit`: who did what, when, and what came of it.

use std::io;

use serde_json::{Value, json};

use super::human::{safe, time};
use super::table::Table;
use super::{AuditArgs, Failure};

pub fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let mut entries = Vec::new();
    let mut before = Value::Null;
    while entries.len() < args.limit as usize {
        let mut fields = json!({ "limit": args.limit as usize - entries.len() });
        if !before.is_null() {
            fields["before"] = before.clone();
        }
        let mut page = session.call("audit", fields)?;
        let Value::Array(rows) = page["entries"].take() else { break };
        if rows.is_empty() {
            break;
        }
        entries.extend(rows);
        before = page["next"].take();
        if before.is_null() {
            break;
        }
    }
    entries.truncate(args.limit as usize);
    // Pages come newest first; people read downwards to the newest.
    entries.reverse();
    if args.json {
        for entry in entries {
            out!("{entry}");
        }
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "WHO", "WHAT", "WHERE", "CAME OF IT", "ORIGIN"]);
    for entry in &entries {
        let text = |name: &str| match &entry[name] {
            Value::String(text) => safe(text),
            Value::Null => String::new(),
            other => safe(&other.to_string()),
        };
        let when = entry["time_ms"].as_u64().map_or_else(String::new, time);
        table.row([
            when,
            text("who"),
            text("what"),
            text("where"),
            text("outcome"),
            text("origin"),
        ]);
    }
    table.write(&mut io::stdout().lock())?;
    Ok(())
}
