//! `fieldpost schedule`: what nodes run by themselves.

use std::io;
use std::path::Path;

use fieldpost_settings::units::{SPAN, Span};
use fieldpost_settings::{Document, Problem, Section, section};
use fieldpost_wire::Name;
use serde_json::{Map, Value, json};

use super::human::{count, safe, span, time};
use super::table::Table;
use super::{Exit, Failure, MissedArgs, ScheduleCommand, ScheduleSetArgs};

pub fn run(command: ScheduleCommand) -> Result<(), Failure> {
    match command {
        ScheduleCommand::Set(args) => set(&args),
        ScheduleCommand::Show { select, json, connection } => {
            let mut session = connection.open()?;
            let fields = match select.json() {
                Some(select) => json!({ "select": select }),
                None => json!({}),
            };
            let mut answer = session.call("schedule.get", fields)?;
            let schedules = sets(&mut answer);
            show(&schedules, json)
        }
        ScheduleCommand::Missed(args) => missed(&args),
        ScheduleCommand::Clear { select, id, json, connection } => {
            let mut session = connection.open()?;
            let select = select.json();
            let answer = match id {
                None => session.act("schedule.clear", json!({ "select": select }))?,
                Some(id) => {
                    let mut entries = entries_of(&mut session, &select)?;
                    let before = entries.len();
                    entries.retain(|entry| entry["id"] != *id);
                    if entries.len() == before {
                        return Err(Failure::new(
                            Exit::Failed,
                            format!("no entry {id:?} is set there"),
                        )
                        .hint("`fieldpost schedule show` lists them"));
                    }
                    let fields = json!({ "select": select, "entries": entries });
                    session.act("schedule.set", fields)?
                }
            };
            said(&answer, "cleared", json)
        }
    }
}

fn set(args: &ScheduleSetArgs) -> Result<(), Failure> {
    let fresh = match &args.file {
        Some(file) => from_file(file)?,
        None => vec![from_flags(args)?],
    };
    if fresh.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no entry in it")
            .hint("`fieldpost schedule clear` takes a schedule away"));
    }
    let select = args.select.json();
    let mut session = args.connection.open()?;
    let entries = if args.file.is_some() {
        fresh
    } else {
        let mut entries = entries_of(&mut session, &select)?;
        entries.retain(|entry| entry["id"] != fresh[0]["id"]);
        entries.extend(fresh);
        entries
    };
    let number = entries.len() as u64;
    let answer = session.act("schedule.set", json!({ "select": select, "entries": entries }))?;
    said(&answer, &format!("set: {} there now", entries_word(number)), args.json)
}

fn missed(args: &MissedArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let fields = json!({ "node": args.node.as_deref() });
    let rows = session.latest("schedule.missed", fields, "missed", args.limit)?;
    if args.json {
        for row in rows {
            out!("{row}");
        }
        return Ok(());
    }
    if rows.is_empty() {
        out!("nothing was missed");
        return Ok(());
    }
    let mut table = Table::new(&["NODE", "ENTRY", "TIMES", "FIRST DUE", "LAST DUE"]);
    for row in &rows {
        let text = |name: &str| row[name].as_str().map_or_else(String::new, safe);
        let when = |name: &str| row[name].as_u64().map_or_else(String::new, time);
        let times = row["count"].to_string();
        table.row([text("node"), text("entry"), times, when("from_ms"), when("to_ms")]);
    }
    table.write(&mut io::stdout().lock())?;
    Ok(())
}

fn entries_word(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

fn said(answer: &Value, what: &str, json: bool) -> Result<(), Failure> {
    for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("note: {}", safe(note));
    }
    if json {
        out!("{answer}");
        return Ok(());
    }
    match answer["nodes"].as_u64().or_else(|| answer["count"].as_u64()) {
        Some(nodes) => out!("{what}; {} to tell", count(nodes, "node")),
        None => out!("{what}"),
    }
    Ok(())
}

/// The schedules of an answer, each with its selector.
fn sets(answer: &mut Value) -> Vec<Value> {
    match answer["schedules"].take() {
        Value::Array(schedules) => schedules,
        _ => vec![answer.take()],
    }
}

fn entries_of(
    session: &mut super::connect::Session,
    select: &Value,
) -> Result<Vec<Value>, Failure> {
    let mut answer = session.call("schedule.get", json!({ "select": select }))?;
    let mut entries = Vec::new();
    for mut schedule in sets(&mut answer) {
        if let Value::Array(more) = schedule["entries"].take() {
            entries.extend(more);
        }
    }
    Ok(entries)
}

fn show(schedules: &[Value], json: bool) -> Result<(), Failure> {
    if json {
        for schedule in schedules {
            out!("{schedule}");
        }
        return Ok(());
    }
    let mut table = Table::new(&[
        "FOR", "ENTRY", "WHEN", "JOB", "ARGS", "SPLAY", "CATCH UP", "OVERLAP", "TIMEOUT",
    ]);
    for schedule in schedules {
        let whom = selector(&schedule["select"]);
        for entry in schedule["entries"].as_array().into_iter().flatten() {
            let text = |name: &str| entry[name].as_str().map(safe).unwrap_or_default();
            let when = match entry["every_ms"].as_u64() {
                Some(ms) => format!("every {}", duration(ms)),
                None => text("cron"),
            };
            let time = |name: &str| match entry[name].as_u64() {
                None | Some(0) => String::new(),
                Some(ms) => duration(ms),
            };
            let catch_up = match entry["catch_up"]["all"].as_u64() {
                Some(most) => format!("all:{most}"),
                None => text("catch_up"),
            };
            table.row([
                whom.clone(),
                text("id"),
                when,
                text("job"),
                args(&entry["args"]),
                time("splay_ms"),
                catch_up,
                text("overlap"),
                time("timeout_ms"),
            ]);
        }
    }
    if table.is_empty() {
        eprintln!("nothing is scheduled there; `fieldpost schedule set --help` shows how");
        return Ok(());
    }
    table.write(&mut io::stdout().lock())?;
    Ok(())
}

fn duration(ms: u64) -> String {
    span(std::time::Duration::from_millis(ms))
}

/// A selector in words.
pub fn selector(select: &Value) -> String {
    let list = |what: &str, names: &Value| {
        let names: Vec<String> =
            names.as_array().into_iter().flatten().filter_map(Value::as_str).map(safe).collect();
        format!("{what} {}", names.join(", "))
    };
    if select["all"] == true {
        "all".to_owned()
    } else if select["groups"].is_array() {
        list("group", &select["groups"])
    } else if select["nodes"].is_array() {
        list("node", &select["nodes"])
    } else {
        String::new()
    }
}

/// Arguments in words: `bus=2 rate=9600`.
pub fn args(args: &Value) -> String {
    let pairs = args.as_object().into_iter().flatten();
    let shown: Vec<String> = pairs
        .map(|(name, value)| format!("{name}={}", safe(value.as_str().unwrap_or("?"))))
        .collect();
    shown.join(" ")
}

fn from_flags(args: &ScheduleSetArgs) -> Result<Value, Failure> {
    let usage = |message: &str| Failure::new(Exit::Usage, message);
    let (Some(id), Some(job)) = (&args.id, &args.job) else {
        return Err(usage("--id and --job say which entry"));
    };
    let mut entry = json!({ "id": &**id, "job": &**job, "args": object(&args.arg) });
    match (&args.cron, args.every) {
        (Some(cron), _) => entry["cron"] = cron.as_str().into(),
        (None, Some(every)) => entry["every_ms"] = every.as_ms().into(),
        (None, None) => return Err(usage("--cron or --every says when")),
    }
    entry["splay_ms"] = args.splay.map_or(0, Span::as_ms).into();
    let rule = |problem: String| Failure::new(Exit::Usage, problem);
    entry["catch_up"] = catch_up(args.catch_up.as_deref().unwrap_or("skip")).map_err(rule)?;
    entry["overlap"] = overlap(args.overlap.as_deref().unwrap_or("skip")).map_err(rule)?;
    if let Some(timeout) = args.timeout {
        entry["timeout_ms"] = timeout.as_ms().into();
    }
    Ok(entry)
}

fn object(pairs: &[(String, String)]) -> Value {
    let fields: Map<String, Value> =
        pairs.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    Value::Object(fields)
}

fn catch_up(text: &str) -> Result<Value, String> {
    match text.split_once(':') {
        None if matches!(text, "skip" | "once") => Ok(text.into()),
        Some(("all", most)) => match most.parse::<u16>() {
            Ok(most) if most > 0 => Ok(json!({ "all": most })),
            _ => {
                Err(format!("catch_up {text:?}: expected a number from 1 to 65535 after \"all:\""))
            }
        },
        _ => Err(format!("catch_up {text:?}: expected \"skip\", \"once\" or \"all:N\"")),
    }
}

fn overlap(text: &str) -> Result<Value, String> {
    match text {
        "skip" | "queue" => Ok(text.into()),
        _ => Err(format!("overlap {text:?}: expected \"skip\" or \"queue\"")),
    }
}

fn from_file(path: &Path) -> Result<Vec<Value>, Failure> {
    let stdin = path == Path::new("-");
    let text = if stdin { io::read_to_string(io::stdin())? } else { section::read(path)? };
    // The protocol's own JSON passes as it is; the hub checks it.
    if text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[") {
        let value: Value = serde_json::from_str(&text).map_err(|error| Problem {
            file: path.display().to_string(),
            line: Some(error.line()),
            message: format!("not JSON: {error}"),
            hint: None,
        })?;
        return match value {
            Value::Array(entries) => Ok(entries),
            Value::Object(mut fields) => match fields.remove("entries") {
                Some(Value::Array(entries)) => Ok(entries),
                _ => Err(wrong_json(path)),
            },
            _ => Err(wrong_json(path)),
        };
    }
    Ok(parse(path, &text)?)
}

fn wrong_json(path: &Path) -> Failure {
    Failure::new(Exit::Configuration, format!("{}: expected an array of entries", path.display()))
        .hint("`fieldpost schedule show --json` prints what a file may hold")
}

fn parse(path: &Path, text: &str) -> Result<Vec<Value>, Problem> {
    let mut place = None;
    let mut top = Document::parse(path, text, &mut place)?;
    let entries = top.sections("entry")?.into_iter().map(entry).collect::<Result<_, _>>()?;
    top.finish()?;
    Ok(entries)
}

fn entry(mut section: Section<'_, '_>) -> Result<Value, Problem> {
    const NAME: &str = "a name: 1 to 63 of a-z, 0-9, '.', '_' and '-'";
    let id: Name = section.require("id", NAME)?.parse(NAME)?;
    let job: Name = section.require("job", NAME)?.parse(NAME)?;
    let args = section.section("args")?.texts()?;
    let mut entry = json!({ "id": &*id, "job": &*job, "args": object(&args) });
    let cron = section.take("cron").map(|cron| cron.text("five cron fields")).transpose()?;
    let mut time = |key| section.take(key).map(|entry| entry.parse::<Span>(SPAN)).transpose();
    let (every, splay, timeout) = (time("every")?, time("splay")?, time("timeout")?);
    match (cron, every) {
        (Some(cron), None) => entry["cron"] = cron.into(),
        (None, Some(every)) => entry["every_ms"] = every.as_ms().into(),
        _ => return Err(section.problem(&format!("entry {id:?} needs either cron or every"))),
    }
    entry["splay_ms"] = splay.map_or(0, Span::as_ms).into();
    if let Some(timeout) = timeout {
        entry["timeout_ms"] = timeout.as_ms().into();
    }
    for (key, rule, expected) in [
        ("catch_up", catch_up as fn(&str) -> _, "\"skip\", \"once\" or \"all:N\""),
        ("overlap", overlap, "\"skip\" or \"queue\""),
    ] {
        entry[key] = match section.take(key) {
            Some(value) => {
                let wrong = value.wrong(expected);
                rule(&value.text(expected)?).map_err(|_| wrong)?
            }
            None => "skip".into(),
        };
    }
    section.finish()?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_the_protocols_entries() {
        let text = "[[entry]]\nid = \"night\"\njob = \"read-meter\"\nargs = { bus = \"2\" }\n\
                    cron = \"0 3 * * *\"\nsplay = \"30s\"\ncatch_up = \"all:10\"\n";
        let entries = parse(Path::new("f"), text).unwrap();
        assert_eq!(
            entries,
            [json!({
                "id": "night", "job": "read-meter", "args": { "bus": "2" }, "cron": "0 3 * * *",
                "splay_ms": 30_000, "catch_up": { "all": 10 }, "overlap": "skip",
            })]
        );
    }

    #[test]
    fn a_wrong_entry_names_its_line() {
        let text = "[[entry]]\nid = \"a\"\njob = \"b\"\nevery = \"5m\"\noverlap = \"wait\"\n";
        let problem = parse(Path::new("f"), text).unwrap_err();
        assert_eq!(problem.line, Some(5));
        let text = "[[entry]]\nid = \"a\"\njob = \"b\"\n";
        let said = parse(Path::new("f"), text).unwrap_err().to_string();
        assert!(said.contains("either cron or every"), "{said}");
    }
}
