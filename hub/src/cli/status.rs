//! `fieldpost status`: how the hub is doing.

use std::io;

use serde_json::{Value, json};

use super::human::{count, safe, size, span, time};
use super::table::facts;
use super::{Failure, StatusArgs};

pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let status = session.call("status", json!({}))?;
    if args.json {
        println!("{status}");
        return Ok(());
    }
    let mut lines = Vec::new();
    flatten("", &status, &mut lines);
    let lines: Vec<(&str, String)> =
        lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts(&mut io::stdout().lock(), &lines)?;
    Ok(())
}

/// Facts by name, in words; the names' endings say the units.
fn flatten(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
                flatten(&path, value, lines);
            }
        }
        Value::Null => {}
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                let path =
                    format!("{path} {}", item["name"].as_str().map(safe).unwrap_or_default());
                flatten(&path, item, lines);
            }
        }
        _ => {
            let (name, shown) = word(path, value);
            lines.push((name.replace('_', " "), shown));
        }
    }
}

/// A value in words, and its name without the unit.
pub fn word<'n>(name: &'n str, value: &Value) -> (&'n str, String) {
    use std::time::Duration;
    let Some(number) = value.as_u64() else {
        let shown = match value {
            Value::String(text) => safe(text),
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), safe))
                    .collect();
                items.join(", ")
            }
            other => other.to_string(),
        };
        return (name, shown);
    };
    // A number of milliseconds this large is a date after 2001, not a duration.
    const DATES: u64 = 1_000_000_000_000;
    if let Some(name) = name.strip_suffix("_ms") {
        if number >= DATES {
            return (name, time(number));
        }
        return (name, span(Duration::from_millis(number)));
    }
    if let Some(name) = name.strip_suffix("_us") {
        return (name, span(Duration::from_micros(number)));
    }
    if let Some(name) = name.strip_suffix("_s") {
        return (name, span(Duration::from_secs(number)));
    }
    if name.ends_with("bytes") {
        return (name, size(number));
    }
    if let Some(name) = name.strip_suffix("_kib") {
        return (name, size(number * 1024));
    }
    (name, number.to_string())
}

/// `3 of 5 nodes`, as far as the numbers are there.
pub fn of(part: u64, whole: u64, what: &str) -> String {
    if part == whole { count(whole, what) } else { format!("{part} of {}", count(whole, what)) }
}
