//! `fieldpost runs` and `fieldpost cancel`.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use fieldpost_wire::RunId;
use serde_json::{Value, json};

use super::connect::{Session, patiently};
use super::human::{ago, count, note, safe, size, started, time, took};
use super::stream::{self, Heard, Interrupt, Progress};
use super::table::Table;
use super::{CancelArgs, Exit, Failure, RunsArgs, results, schedule, status};

/// Silence until the request is made again.
const SILENCE: Duration = Duration::from_secs(7);
/// How long a hub that is stopping is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// Runs or nodes asked for in one page.
const PAGE: u64 = 200;

/// A run on one node.
pub struct NodeRow {
    /// Which node.
    pub node: String,
    /// Its state, or its result's status.
    pub status: String,
    /// Whether nothing more will come.
    pub is_final: bool,
    /// Which execution.
    pub attempt: u64,
    /// Bytes of output stored.
    pub bytes: u64,
    /// All of it, as the hub said it.
    pub json: Value,
}

impl NodeRow {
    fn read(row: Value) -> Self {
        let result = if row["result"].is_object() { &row["result"] } else { &row };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let status = text(&result["status"]).or_else(|| text(&row["state"]));
        let is_final = match row["final"].as_bool() {
            Some(is_final) => is_final,
            None => result["status"].is_string(),
        };
        Self {
            node: text(&row["node"]).unwrap_or_default(),
            // Retention may have taken the result of a run that ended.
            status: status
                .unwrap_or_else(|| if is_final { "no longer kept" } else { "waiting" }.to_owned()),
            is_final,
            attempt: row["attempt"].as_u64().or_else(|| result["attempt"].as_u64()).unwrap_or(0),
            bytes: result["bytes"].as_u64().unwrap_or(0),
            json: if row["result"].is_object() { row["result"].clone() } else { row.clone() },
        }
    }
}

/// What the hub says of one run.
pub struct RunAnswer {
    /// The run as a whole.
    pub run: Value,
    /// Whether every node is final, and stored.
    pub is_final: bool,
    /// Its nodes, or a page of them.
    pub nodes: Vec<NodeRow>,
    /// Where the next page starts.
    pub next: Value,
}

impl RunAnswer {
    /// From the protocol's answer.
    pub fn read(mut answer: Value) -> Result<Self, Failure> {
        let Value::Array(rows) = answer["nodes"].take() else {
            return Err(Failure::new(Exit::Internal, "the hub's answer holds no nodes"));
        };
        let is_final = answer["final"].as_bool().unwrap_or(false);
        let next = answer["next"].take();
        let nodes = rows.into_iter().map(NodeRow::read).collect();
        Ok(Self { run: answer, is_final, nodes, next })
    }
}

pub fn runs(args: &RunsArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    match (args.run, args.follow) {
        (Some(run), false) => one(&mut session, run, args),
        (Some(run), true) => follow_one(&mut session, run, args),
        (None, false) => list(&mut session, args),
        (None, true) => {
            results::follow(&mut session, args.job.as_ref(), args.node.as_ref(), args.json)
        }
    }
}

pub fn cancel(args: &CancelArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let mut fields = json!({ "run_id": args.run });
    if !args.node.is_empty() {
        fields["nodes"] = args.node.iter().map(|node| Value::from(&**node)).collect();
    }
    let answer = session.act("cancel", fields)?;
    if args.json {
        out!("{answer}");
        return Ok(());
    }
    match answer["count"].as_u64() {
        Some(0) => out!("nothing left to cancel: it has ended on every node"),
        Some(nodes) => {
            out!("told to stop on {}", count(nodes, "node"));
            eprintln!("`fieldpost runs {} --follow` shows it end", args.run);
        }
        None => out!("told to stop"),
    }
    Ok(())
}

/// All nodes of a run.
pub fn nodes_of(session: &mut Session, run: RunId) -> Result<Vec<NodeRow>, Failure> {
    Ok(whole(session, run)?.nodes)
}

/// A run with all its nodes.
fn whole(session: &mut Session, run: RunId) -> Result<RunAnswer, Failure> {
    let mut fields = json!({ "run_id": run, "limit": PAGE });
    let mut all = RunAnswer::read(session.call("runs", fields.clone())?)?;
    let mut next = all.next.take();
    while !next.is_null() {
        fields["after"] = next;
        let mut page = RunAnswer::read(session.call("runs", fields.clone())?)?;
        if page.nodes.is_empty() {
            break;
        }
        all.nodes.append(&mut page.nodes);
        next = page.next;
    }
    Ok(all)
}

fn one(session: &mut Session, run: RunId, args: &RunsArgs) -> Result<(), Failure> {
    let mut answer = whole(session, run)?;
    if let Some(wanted) = &args.node {
        answer.nodes.retain(|row| row.node == **wanted);
    }
    show_one(&answer, args.json)
}

fn show_one(answer: &RunAnswer, json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if json {
        for row in &answer.nodes {
            writeln!(out, "{}", row.json)?;
        }
        return Ok(());
    }
    head(&answer.run, &mut out)?;
    table(&answer.nodes).write(&mut out)?;
    tails(&answer.nodes, &mut out)?;
    Ok(())
}

/// What was asked, when and by whom.
fn head(run: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let text = |name: &str| run[name].as_str().map(safe).unwrap_or_default();
    let mut line = text("job");
    for more in [schedule::args(&run["args"]), schedule::selector(&run["select"])] {
        if !more.is_empty() {
            line = format!("{line} {more}");
        }
    }
    if let Some(at) = run["submitted_ms"].as_u64() {
        line = format!("{line}, triggered {} ({})", time(at), ago(at));
    }
    for (word, name) in [("by", "client"), ("for", "origin")] {
        let value = text(name);
        if !value.is_empty() {
            line = format!("{line} {word} {value}");
        }
    }
    if line.is_empty() { Ok(()) } else { writeln!(out, "{line}\n") }
}

/// Nodes and what came of the run on each.
pub fn table(rows: &[NodeRow]) -> Table {
    let mut table =
        Table::new(&["NODE", "STATUS", ">EXIT", "STARTED", ">TOOK", ">OUTPUT", ">ATTEMPT", "NOTE"]);
    for row in rows {
        let r = &row.json;
        let exit = match (r["exit_code"].as_i64(), r["signal"].as_i64()) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("SIG{signal}"),
            (None, None) => String::new(),
        };
        let attempt = if row.attempt > 1 { row.attempt.to_string() } else { String::new() };
        table.row([
            safe(&row.node),
            safe(&row.status),
            exit,
            started(r),
            took(r),
            if row.bytes > 0 { size(row.bytes) } else { String::new() },
            attempt,
            note(r),
        ]);
    }
    table
}

/// The last lines of stderr of those that failed.
fn tails(rows: &[NodeRow], out: &mut impl io::Write) -> io::Result<()> {
    for row in rows {
        let Some(stderr) = row.json["stderr"].as_str() else { continue };
        let stderr = stderr.trim_end();
        if stderr.is_empty() || row.status == "ok" {
            continue;
        }
        writeln!(out, "\n{} wrote to stderr:", safe(&row.node))?;
        let lines: Vec<&str> = stderr.lines().collect();
        for line in &lines[lines.len().saturating_sub(20)..] {
            writeln!(out, "  {}", safe(line))?;
        }
    }
    Ok(())
}

fn follow_one(session: &mut Session, run: RunId, args: &RunsArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let mut progress = Progress::new(true);
    let mut told = BTreeSet::new();
    let mut out = io::stdout();
    'ask: loop {
        let fields = json!({ "run_id": run, "wait_ms": 2_000, "until": "final" });
        let asked = session.client.send("runs", fields)?;
        let sent = Instant::now();
        let answer = loop {
            match stream::next(session, None, &interrupt, Duration::from_secs(1))? {
                Heard::Reply(reply) if reply.id == asked => match patiently(reply.result)? {
                    Some(answer) => break RunAnswer::read(answer)?,
                    None => {
                        stream::pause(session, &interrupt, AGAIN)?;
                        continue 'ask;
                    }
                },
                Heard::Interrupted => {
                    progress.clear()?;
                    return Ok(());
                }
                // It restarts, or the link is cut; asking again is harmless.
                _ if sent.elapsed() > SILENCE => {
                    progress.draw("the hub does not answer; still trying")?;
                    continue 'ask;
                }
                _ => {}
            }
        };
        // The answer holds the first page only; a large run is read whole.
        let answer = if answer.next.is_null() { answer } else { whole(session, run)? };
        if answer.is_final && !args.json && told.is_empty() {
            progress.clear()?;
            return finish(&answer, args);
        }
        for row in answer.nodes.iter().filter(|row| row.is_final) {
            if told.insert(row.node.clone()) {
                progress.clear()?;
                if args.json {
                    writeln!(out, "{}", row.json)?;
                } else {
                    writeln!(out, "{}", line(row))?;
                }
            }
        }
        if answer.is_final {
            progress.clear()?;
            return verdict(&answer);
        }
        let done = answer.nodes.iter().filter(|row| row.is_final).count() as u64;
        let whole = answer.nodes.len() as u64;
        progress.draw(&format!("{} done", status::of(done, whole, "node")))?;
    }
}

fn finish(answer: &RunAnswer, args: &RunsArgs) -> Result<(), Failure> {
    show_one(answer, args.json)?;
    verdict(answer)
}

fn verdict(answer: &RunAnswer) -> Result<(), Failure> {
    match answer.nodes.iter().all(|row| row.status == "ok") {
        true => Ok(()),
        false => Err(Failure::said(Exit::Failed)),
    }
}

fn line(row: &NodeRow) -> String {
    let mut line = format!("{} {}", safe(&row.node), safe(&row.status));
    for more in [took(&row.json), note(&row.json)] {
        if !more.is_empty() {
            line = format!("{line}  {more}");
        }
    }
    line
}

fn list(session: &mut Session, args: &RunsArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut fields = json!({});
    for (name, value) in [("job", &args.job), ("node", &args.node)] {
        if let Some(value) = value {
            fields[name] = Value::from(&**value);
        }
    }
    let wanted = args.limit as usize;
    while rows.len() < wanted {
        fields["limit"] = (wanted - rows.len()).min(PAGE as usize).into();
        let mut page = session.call("runs", fields.clone())?;
        let Value::Array(more) = page["runs"].take() else { break };
        if more.is_empty() {
            break;
        }
        rows.extend(more);
        let next = page["next"].take();
        if next.is_null() {
            break;
        }
        fields["before"] = next;
    }
    // Pages come newest first; people read downwards to the newest.
    rows.reverse();
    let mut out = io::stdout().lock();
    if args.json {
        for row in rows {
            writeln!(out, "{row}")?;
        }
        return Ok(());
    }
    let mut table = Table::new(&[
        "RUN",
        "JOB",
        "TRIGGERED",
        ">NODES",
        ">OK",
        ">NOT OK",
        ">OPEN",
        "BY",
        "ORIGIN",
    ]);
    for row in &rows {
        let text = |name: &str| row[name].as_str().map(safe).unwrap_or_default();
        let number = |name: &str| row[name].as_u64().map_or_else(String::new, |n| n.to_string());
        table.row([
            text("run_id"),
            text("job"),
            row["submitted_ms"].as_u64().map_or_else(String::new, ago),
            number("count"),
            number("ok"),
            number("failed"),
            number("open"),
            text("client"),
            text("origin"),
        ]);
    }
    if table.is_empty() {
        eprintln!("no runs yet; `fieldpost trigger --help` shows how to start one");
        return Ok(());
    }
    table.write(&mut out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_result_waits_or_has_none_any_more() {
        let of = |is_final| NodeRow::read(json!({ "node": "gw", "final": is_final })).status;
        assert_eq!((&*of(false), &*of(true)), ("waiting", "no longer kept"));
        let open = json!({ "node": "gw", "final": false, "state": "running" });
        assert_eq!(NodeRow::read(open).status, "running");
    }
}
