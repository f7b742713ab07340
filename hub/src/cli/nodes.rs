//! `fieldpost nodes`: who is there, who may be.

use std::io;
use std::path::Path;

use fieldpost_sockets::PublicKey;
use fieldpost_wire::Name;
use serde_json::{Value, json};

use super::connect::Session;
use super::human::{ago, count, safe, span, time};
use super::table::{Table, facts};
use super::{Exit, Failure, NodesCommand, NodesListArgs, status};

/// Nodes asked for in one page.
const PAGE: u64 = 200;

pub fn run(command: NodesCommand) -> Result<(), Failure> {
    match command {
        NodesCommand::List(args) => list(&args),
        NodesCommand::Show { node, json, connection } => show(&mut connection.open()?, &node, json),
        NodesCommand::Accept { key, node, group, json, connection } => {
            let key = public(&key)?;
            accept(&mut connection.open()?, &key, &node, &group, json)
        }
        NodesCommand::Import { file, json, connection } => {
            let fleet = read_fleet(&file)?;
            import(&mut connection.open()?, &fleet, json)
        }
        NodesCommand::Rekey { node, key, overlap, json, connection } => {
            let key = public(&key)?;
            let mut session = connection.open()?;
            let fields = json!({
                "node": &*node, "key": key.to_string(), "overlap_ms": overlap.as_ms(),
            });
            let answer = session.act("nodes.rekey", fields)?;
            if json {
                out!("{answer}");
            } else {
                out!("{node} has a new key; the old one stays good for {}", span(overlap.0));
            }
            Ok(())
        }
        NodesCommand::Revoke { node, key, json, connection } => {
            revoke(&mut connection.open()?, node.as_ref(), key.as_deref(), json)
        }
    }
}

fn public(text: &str) -> Result<PublicKey, Failure> {
    text.parse().map_err(|bad| {
        Failure::new(Exit::Usage, format!("{text:?} is no public key: {bad}"))
            .hint("quote it with '…': the shell reads some of its characters")
    })
}

pub fn list(args: &NodesListArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let mut rows = all(&mut session)?;
    if let Some(group) = &args.group
        && !rows.iter().any(|row| {
            row["groups"].as_array().is_some_and(|groups| groups.iter().any(|g| *g == **group))
        })
    {
        return Err(Failure::new(Exit::Failed, format!("no node is in the group {group}"))
            .hint("`fieldpost nodes` lists them with their groups"));
    }
    rows.retain(|row| {
        let pending = is_pending(row);
        let in_group = args.group.as_ref().is_none_or(|group| {
            row["groups"].as_array().is_some_and(|groups| groups.iter().any(|g| *g == **group))
        });
        (pending || !args.pending) && in_group
    });
    if args.json {
        for row in rows {
            out!("{row}");
        }
        return Ok(());
    }
    let mut out = io::stdout().lock();
    let (pending, known): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_pending);
    let mut table = Table::new(&["NODE", "STATE", "HEARD", "AGENT", "GROUPS", ">OUTBOX", "NOTE"]);
    for row in &known {
        table.row([
            text(row, "node"),
            text(row, "state"),
            row["heard_ms"].as_u64().map_or_else(|| "never".to_owned(), ago),
            text(row, "agent"),
            names(&row["groups"]),
            match row["outbox_records"].as_u64() {
                None | Some(0) => String::new(),
                Some(records) => records.to_string(),
            },
            text(row, "note"),
        ]);
    }
    if !table.is_empty() {
        table.write(&mut out)?;
    } else if pending.is_empty() {
        eprintln!(
            "no nodes yet: start an agent that names this hub, and it appears here as pending"
        );
        return Ok(());
    }
    if !pending.is_empty() {
        waiting(&pending, !table.is_empty(), &mut out)?;
    }
    Ok(())
}

fn waiting(pending: &[Value], gap: bool, out: &mut impl io::Write) -> Result<(), Failure> {
    if gap {
        writeln!(out)?;
    }
    writeln!(out, "Waiting to be accepted (the name is what the device claims, not verified):")?;
    let mut table = Table::new(&["KEY", "CLAIMS TO BE", "HEARD"]);
    for row in pending {
        let claims = row["claims"].as_str().or_else(|| row["node"].as_str());
        table.row([
            text(row, "key"),
            claims.map(safe).unwrap_or_default(),
            row["heard_ms"].as_u64().map_or_else(String::new, ago),
        ]);
    }
    table.write(out)?;
    if let Some(row) = pending.first() {
        let claims = row["claims"].as_str().or_else(|| row["node"].as_str()).unwrap_or("NAME");
        eprintln!(
            "\nlet one in: fieldpost nodes accept '{}' --node {}",
            text(row, "key"),
            safe(claims)
        );
    }
    Ok(())
}

fn is_pending(row: &Value) -> bool {
    row["state"] == "pending"
}

fn all(session: &mut Session) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    let mut fields = json!({ "limit": PAGE });
    loop {
        let mut page = session.call("nodes", fields.clone())?;
        for key in ["nodes", "pending"] {
            if let Value::Array(more) = page[key].take() {
                rows.extend(more);
            }
        }
        let next = page["next"].take();
        if next.is_null() {
            return Ok(rows);
        }
        fields["after"] = next;
    }
}

fn show(session: &mut Session, node: &Name, json: bool) -> Result<(), Failure> {
    let mut answer = session.call("nodes.show", json!({ "node": &**node }))?;
    if json {
        out!("{answer}");
        return Ok(());
    }
    let row = if answer["node"].is_object() { answer["node"].take() } else { answer };
    let mut lines = Vec::new();
    for (name, value) in row.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::Object(_) => continue,
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let items: Vec<String> = items.iter().map(item).collect();
                (name.as_str(), items.join(", "))
            }
            value => status::word(name, value),
        };
        lines.push((shown.0.replace('_', " "), shown.1));
    }
    let nested = row.as_object().into_iter().flatten();
    let nested = nested.filter_map(|(name, value)| Some((name, value.as_object()?)));
    for (group, fields) in nested {
        lines.push((group.replace('_', " "), status::words(fields)));
    }
    let lines: Vec<(&str, String)> =
        lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts(&mut io::stdout().lock(), &lines)?;
    Ok(())
}

/// An element in one word: its name, or its fields.
fn item(value: &Value) -> String {
    match (value["name"].as_str(), value["key"].as_str(), value["until_ms"].as_u64()) {
        (Some(name), ..) => safe(name),
        (None, Some(key), Some(until)) => format!("{} (until {})", safe(key), time(until)),
        (None, Some(key), None) => safe(key),
        _ => value.to_string(),
    }
}

fn accept(
    session: &mut Session,
    key: &PublicKey,
    node: &Name,
    groups: &[Name],
    json: bool,
) -> Result<(), Failure> {
    let mut fields = json!({ "key": key.to_string(), "node": &**node });
    if !groups.is_empty() {
        fields["groups"] = groups.iter().map(|group| Value::from(&**group)).collect();
    }
    let answer = session.act("nodes.accept", fields)?;
    if json {
        out!("{answer}");
        return Ok(());
    }
    out!("{node} is accepted");
    eprintln!(
        "its agent is let in at its next try, within seconds if it runs; `fieldpost nodes show \
         {node}` says when it was heard,\nand `fieldpost trigger ping --node {node} --wait` tries \
         the way there and back, if its configuration has a job named ping"
    );
    Ok(())
}

fn import(session: &mut Session, fleet: &[Value], json: bool) -> Result<(), Failure> {
    /// Nodes in one request: they fit a frame with all their groups.
    const AT_ONCE: usize = 40;
    let mut imported = 0;
    for some in fleet.chunks(AT_ONCE) {
        let answer = session.act("nodes.import", json!({ "nodes": some }))?;
        imported += some.len();
        if json {
            out!("{answer}");
        }
    }
    if !json {
        out!("{} imported", count(imported as u64, "node"));
    }
    Ok(())
}

fn revoke(
    session: &mut Session,
    node: Option<&Name>,
    key: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let (fields, what) = match (node, key) {
        (Some(node), _) => (json!({ "node": &**node }), node.to_string()),
        (None, Some(key)) => (json!({ "key": public(key)?.to_string() }), format!("the key {key}")),
        (None, None) => return Err(Failure::new(Exit::Usage, "a node or --key says which")),
    };
    let answer = session.act("nodes.revoke", fields)?;
    if json {
        out!("{answer}");
    } else {
        out!("{what} is revoked: its connections are cut, its results stay");
    }
    Ok(())
}

/// One node a line: name, key, groups.
fn read_fleet(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin())?
    } else {
        fieldpost_settings::section::read(path)?
    };
    parse_fleet(&path.display().to_string(), &text)
}

fn parse_fleet(file: &str, text: &str) -> Result<Vec<Value>, Failure> {
    let mut fleet = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |what: String| {
            Failure::new(Exit::Configuration, format!("{file}:{number}: {what}"))
                .hint("expected NODE KEY [GROUP…]; nothing was imported")
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(node), Some(key)) = (words.next(), words.next()) else {
            return Err(wrong(format!("{line:?} has no key")));
        };
        let name = |text: &str| {
            text.parse::<Name>().map_err(|bad| wrong(format!("the name {text:?} {bad}")))
        };
        let node = name(node)?;
        let key: PublicKey = key.parse().map_err(|bad| wrong(format!("{key:?}: {bad}")))?;
        let groups = words.map(name).collect::<Result<Vec<_>, _>>()?;
        for what in [format!("the name {node}"), format!("the key {key}")] {
            if let Some(before) = seen.insert(what.clone(), number) {
                return Err(wrong(format!("{what} is on line {before} already")));
            }
        }
        let mut row = json!({ "node": &*node, "key": key.to_string() });
        if !groups.is_empty() {
            row["groups"] = groups.iter().map(|group| Value::from(&**group)).collect();
        }
        fleet.push(row);
    }
    if fleet.is_empty() {
        return Err(Failure::new(Exit::Configuration, format!("{file}: holds no node")));
    }
    Ok(fleet)
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().map(safe).unwrap_or_default()
}

fn names(list: &Value) -> String {
    let names: Vec<String> =
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(safe).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
    const B: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

    #[test]
    fn a_fleet_is_read_line_by_line() {
        let text = format!("# two\ngw-1 {A} berlin pi4\n\ngw-2 {B}\n");
        let fleet = parse_fleet("f", &text).unwrap();
        assert_eq!(fleet[0], json!({ "node": "gw-1", "key": A, "groups": ["berlin", "pi4"] }));
        assert_eq!(fleet[1], json!({ "node": "gw-2", "key": B }));
    }

    #[test]
    fn a_wrong_line_is_named_and_nothing_is_imported() {
        for (text, said) in [
            ("gw-1".to_owned(), "f:1: \"gw-1\" has no key"),
            (format!("\nGW-1 {A}"), "f:2: the name \"GW-1\""),
            ("gw-1 short".to_owned(), "40 characters"),
            (format!("gw-1 {A}\ngw-1 {B}"), "f:2: the name gw-1 is on line 1 already"),
            (format!("gw-1 {A}\ngw-2 {A}"), "is on line 1 already"),
            ("# nobody".to_owned(), "holds no node"),
        ] {
            let failure = parse_fleet("f", &text).unwrap_err().to_string();
            assert!(failure.contains(said), "{text}: {failure}");
        }
    }
}
