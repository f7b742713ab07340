//! `fieldpost audit`: who did what, when, and what came of it.

use std::io;

use serde_json::{Value, json};

use super::human::{safe, time};
use super::table::Table;
use super::{AuditArgs, Failure};

pub fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let entries = session.latest("audit", json!({}), "entries", args.limit)?;
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
