//! `fieldpost status`: how the hub is doing.

use std::io;

use serde_json::{Map, Value, json};

use super::human::{count, safe, size, span, time};
use super::table::facts;
use super::{Failure, StatusArgs};

pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let status = session.call("status", json!({}))?;
    if args.json {
        out!("{status}");
        return Ok(());
    }
    let mut lines = Vec::new();
    let fields = status.as_object().into_iter().flatten();
    let (groups, single): (Vec<_>, Vec<_>) =
        fields.filter(|(_, value)| !value.is_null()).partition(|(_, value)| value.is_object());
    for (name, value) in single {
        if let Some(items) = value.as_array().filter(|items| items.iter().any(Value::is_object)) {
            for item in items.iter().filter_map(Value::as_object) {
                lines.push((name.clone(), words(item)));
            }
            continue;
        }
        let (name, shown) = word(name, value);
        lines.push((name.replace('_', " "), shown));
    }
    for (name, value) in groups {
        lines.push((name.clone(), value.as_object().map_or_else(String::new, words)));
    }
    let lines: Vec<(&str, String)> =
        lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts(&mut io::stdout().lock(), &lines)?;
    Ok(())
}

/// Fields in one line: `known 3, up 2`. What is zero or not there is left out.
pub fn words(fields: &Map<String, Value>) -> String {
    let told = fields.iter().filter(|(_, value)| !value.is_null() && value.as_u64() != Some(0));
    let words: Vec<String> = told
        .map(|(name, value)| {
            let (name, shown) = word(name, value);
            format!("{} {shown}", name.replace('_', " "))
        })
        .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
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
