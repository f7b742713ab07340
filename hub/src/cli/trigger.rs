//! `fieldpost trigger`: run a job on nodes, and with `--wait` see it through.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use fieldpost_wire::RunId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::connect::{Session, origin, patiently};
use super::human::{count, safe, span};
use super::output;
use super::runs::{self, NodeRow};
use super::stream::{self, Heard, Interrupt, Prefixed, Progress};
use super::{Exit, Failure, MOST_TTL, TriggerArgs};
use crate::client::{Events, Reply, new_run_id};

/// How long one request for the run's end is left with the hub.
const LONG_POLL: Duration = Duration::from_secs(20);
/// How long the first one is; each is twice as long as the one before.
const FIRST_POLL: Duration = Duration::from_millis(250);
/// How often output that is there may be asked for.
const FETCH: Duration = Duration::from_millis(100);
/// Silence of the hub until it is said to be away.
const SILENCE: Duration = Duration::from_secs(5);
/// Nodes whose standard error is shown where the run failed.
const SHOWN_ERRORS: usize = 5;
/// How long a hub that is stopping is left alone.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
struct Submitted {
    run_id: String,
    count: u64,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    repeated: bool,
    #[serde(default)]
    skipped: Vec<String>,
}

pub fn trigger(args: TriggerArgs) -> Result<(), Failure> {
    if args.ttl.0 > MOST_TTL || args.ttl.0.is_zero() {
        return Err(Failure::new(Exit::Usage, "--ttl: expected more than 0 and at most 24h"));
    }
    let twice = |(at, (name, _)): (usize, &(String, String))| {
        args.args[..at].iter().any(|(other, _)| other == name).then(|| name.clone())
    };
    if let Some(name) = args.args.iter().enumerate().find_map(twice) {
        return Err(Failure::new(Exit::Usage, format!("the argument {name} is given twice")));
    }
    let run = match args.run_id {
        Some(run) => run,
        None => new_run_id()?,
    };
    let mut session = args.connection.open()?;
    // Subscribed before the trigger, so that its first event is not missed.
    let events = match args.wait {
        true => Some(session.client.events(&[&format!("run/{run}/")])?),
        false => None,
    };
    let submitted: Submitted =
        session.call_as("submit", submit(&args, run)).map_err(|failure| match failure.exit() {
            // It may have been heard all the same.
            Exit::Unavailable => failure.hint(format!(
                "whether the run was triggered is not known; the same command with --run-id {run} \
                 asks again, and runs nothing twice"
            )),
            _ => failure,
        })?;
    if !submitted.skipped.is_empty() {
        let names: Vec<String> = submitted.skipped.iter().map(|name| safe(name)).collect();
        eprintln!("passed over, since revoked or quarantined: {}", names.join(", "));
    }
    if !args.wait {
        return told(&args, &submitted);
    }
    let interrupt = Interrupt::listen()?;
    let mut watch = Watch::new(&args, run, &submitted);
    watch.say(&format!(
        "{} on {}: run {}{}",
        &*args.job,
        whom(&submitted),
        submitted.run_id,
        if submitted.repeated { " (was triggered before)" } else { "" }
    ))?;
    watch.until_final(&mut session, events.as_ref(), &interrupt)
}

fn submit(args: &TriggerArgs, run: RunId) -> Value {
    let pairs: Map<String, Value> =
        args.args.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "run_id": run,
        "job": &*args.job,
        "args": pairs,
        "select": args.select.json(),
        "ttl_ms": args.ttl.as_ms(),
        "origin": args.origin.clone().unwrap_or_else(origin),
    })
}

fn whom(submitted: &Submitted) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = submitted.nodes.iter().take(SHOWN).map(|node| safe(node)).collect();
    match submitted.count {
        1 if names.len() == 1 => names[0].clone(),
        n if n as usize <= SHOWN => names.join(", "),
        n => format!("{} ({}, …)", count(n, "node"), names.join(", ")),
    }
}

fn told(args: &TriggerArgs, submitted: &Submitted) -> Result<(), Failure> {
    if args.json {
        out!(
            "{}",
            json!({
                "run_id": submitted.run_id, "count": submitted.count, "nodes": submitted.nodes,
                "repeated": submitted.repeated,
            })
        );
        return Ok(());
    }
    let run = &submitted.run_id;
    out!("{run}");
    eprintln!(
        "{} is to start on {} within {}; `fieldpost runs {run} --follow` shows how it goes",
        &*args.job,
        whom(submitted),
        span(args.ttl.0)
    );
    Ok(())
}

/// One run, watched to its end.
struct Watch {
    run: RunId,
    count: u64,
    json: bool,
    output: bool,
    prefixed: bool,
    widest: usize,
    deadline: Option<Instant>,
    started: Instant,
    next_poll: Duration,
    progress: Progress,
    nodes: BTreeMap<String, Node>,
}

/// What is known of the run on one node.
#[derive(Default)]
struct Node {
    status: String,
    is_final: bool,
    attempt: u64,
    next_chunk: u64,
    dirty: bool,
    lines: Option<Prefixed>,
}

impl Node {
    /// A later execution has output of its own.
    fn learn_attempt(&mut self, attempt: u64) {
        if attempt > self.attempt {
            self.attempt = attempt;
            self.next_chunk = 0;
        }
    }
}

impl Watch {
    fn new(args: &TriggerArgs, run: RunId, submitted: &Submitted) -> Self {
        let widest = submitted.nodes.iter().map(String::len).max().unwrap_or(0);
        let nodes = submitted.nodes.iter().map(|name| (name.clone(), Node::default())).collect();
        Self {
            run,
            count: submitted.count,
            json: args.json,
            output: !args.no_output && !args.json,
            prefixed: submitted.count > 1,
            widest,
            deadline: args.wait_timeout.map(|span| Instant::now() + span.0),
            started: Instant::now(),
            next_poll: FIRST_POLL,
            progress: Progress::new(true),
            nodes,
        }
    }

    fn until_final(
        &mut self,
        session: &mut Session,
        events: Option<&Events>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let mut asked = self.ask(session)?;
        let mut asked_at = Instant::now();
        let mut fetched_at = Instant::now();
        let mut asked_on = session.client.connections();
        let mut away = false;
        let mut ask_again: Option<Instant> = None;
        loop {
            self.draw(away)?;
            let mut wait = self.pause(fetched_at);
            if let Some(at) = ask_again {
                wait = wait.min(at.saturating_duration_since(Instant::now()));
            }
            match stream::next(session, events, interrupt, wait)? {
                Heard::Event(event) => self.event(&event.body)?,
                Heard::Reply(Reply { id, result }) if id == asked => {
                    if let Some(answer) = patiently(result)? {
                        away = false;
                        let answer = runs::RunAnswer::read(answer)?;
                        if answer.is_final {
                            return self.end(session);
                        }
                        self.take_in(&answer.nodes)?;
                        asked = self.ask(session)?;
                        asked_at = Instant::now();
                    } else {
                        ask_again = Some(Instant::now() + AGAIN);
                    }
                }
                Heard::Reply(_) | Heard::Nothing => {}
                Heard::Interrupted => return self.interrupted(),
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.timed_out();
            }
            let again = ask_again.is_some_and(|at| at <= Instant::now())
                || session.client.connections() > asked_on;
            if again || asked_at.elapsed() > LONG_POLL + SILENCE {
                ask_again = None;
                asked_on = session.client.connections();
                // It restarts, or the link is cut: the run goes on meanwhile, and asking again is
                // harmless.
                if !again && !away {
                    away = true;
                    self.say("the hub does not answer; the run goes on, still trying")?;
                }
                asked = self.ask(session)?;
                asked_at = Instant::now();
            }
            if self.output && fetched_at.elapsed() >= FETCH && !away {
                self.fetch(session)?;
                fetched_at = Instant::now();
            }
        }
    }

    /// Asks for the end; the first times for a short while only, since events may have been
    /// missed and the answer says how each node stands.
    fn ask(&mut self, session: &mut Session) -> Result<u64, Failure> {
        let poll = self.next_poll;
        self.next_poll = (2 * poll).min(LONG_POLL);
        let left = match self.deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()).min(poll),
            None => poll,
        };
        let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let fields = json!({ "run_id": self.run, "wait_ms": wait_ms, "until": "final" });
        Ok(session.client.send("runs", fields)?)
    }

    /// How long nothing needs to be done.
    fn pause(&self, fetched_at: Instant) -> Duration {
        let mut wait = if self.progress.is_live() { FETCH } else { Duration::from_secs(1) };
        if self.nodes.values().any(|node| node.dirty) {
            wait = wait.min(FETCH.saturating_sub(fetched_at.elapsed()));
        }
        if let Some(deadline) = self.deadline {
            wait = wait.min(deadline.saturating_duration_since(Instant::now()));
        }
        wait
    }

    fn event(&mut self, event: &Value) -> Result<(), Failure> {
        let Some(name) = event["node"].as_str() else { return Ok(()) };
        let node = self.nodes.entry(name.to_owned()).or_default();
        if let Some(attempt) = event["attempt"].as_u64() {
            node.learn_attempt(attempt);
        }
        match event["event"].as_str() {
            Some("output") => node.dirty = true,
            Some("state") => {
                if let Some(state) = event["state"].as_str()
                    && !node.is_final
                {
                    node.status = state.to_owned();
                }
            }
            Some("result") => {
                let status = event["status"].as_str().or(event["result"]["status"].as_str());
                let status = status.unwrap_or("?").to_owned();
                let us = event["duration_us"].as_u64().or(event["result"]["duration_us"].as_u64());
                node.dirty = true;
                let told = std::mem::replace(&mut node.is_final, true) && node.status == status;
                node.status.clone_from(&status);
                if !told && !self.json && !self.progress.is_live() {
                    let took = us
                        .filter(|&us| us > 0)
                        .map(|us| format!(" {}", span(Duration::from_micros(us))));
                    self.say(&format!("{} {status}{}", safe(name), took.unwrap_or_default()))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_in(&mut self, rows: &[NodeRow]) -> Result<(), Failure> {
        for row in rows {
            let node = self.nodes.entry(row.node.clone()).or_default();
            if !node.is_final {
                node.status.clone_from(&row.status);
                node.is_final = row.is_final;
            }
            node.learn_attempt(row.attempt);
            node.dirty |= row.bytes > 0;
        }
        Ok(())
    }

    /// Prints the output that has come meanwhile.
    fn fetch(&mut self, session: &mut Session) -> Result<(), Failure> {
        let names: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.dirty)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.fetch_one(session, &name)?;
        }
        Ok(())
    }

    fn fetch_one(&mut self, session: &mut Session, name: &str) -> Result<(), Failure> {
        let (prefixed, widest) = (self.prefixed, self.widest);
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        let mut fields = json!({ "run_id": self.run, "node": name });
        if node.attempt > 0 {
            fields["attempt"] = node.attempt.into();
        }
        let (progress, lines) = (&mut self.progress, &mut node.lines);
        let mut out = io::stdout().lock();
        let copied = output::copy(session, fields, node.next_chunk, &mut |bytes| {
            progress.clear()?;
            match prefixed {
                true => lines
                    .get_or_insert_with(|| Prefixed::new(&safe(name), widest))
                    .write(bytes, &mut out),
                false => out.write_all(bytes),
            }
        });
        match copied {
            Ok(written) => {
                out.flush()?;
                node.next_chunk = written.next;
                node.dirty = false;
                Ok(())
            }
            // Nothing is stored yet, or the hub is away for a moment: the end asks again.
            Err(failure) if matches!(failure.exit(), Exit::Failed | Exit::Unavailable) => {
                node.dirty = false;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// All results are stored: the rest of the output, a summary, the exit code.
    fn end(&mut self, session: &mut Session) -> Result<(), Failure> {
        let rows = runs::nodes_of(session, self.run)?;
        self.progress.clear()?;
        if self.output {
            for row in &rows {
                let node = self.nodes.entry(row.node.clone()).or_default();
                node.learn_attempt(row.attempt);
                if row.bytes > 0 {
                    self.fetch_one(session, &row.node)?;
                }
            }
            let mut out = io::stdout().lock();
            for node in self.nodes.values_mut() {
                if let Some(lines) = &mut node.lines {
                    lines.end(&mut out)?;
                }
            }
            out.flush()?;
        }
        if self.json {
            let mut out = io::stdout().lock();
            for row in &rows {
                writeln!(out, "{}", row.json)?;
            }
            out.flush()?;
        } else {
            self.summary(&rows)?;
        }
        match rows.iter().all(|row| row.status == "ok") && !rows.is_empty() {
            true => Ok(()),
            false => Err(Failure::said(Exit::Failed)),
        }
    }

    fn summary(&self, rows: &[NodeRow]) -> Result<(), Failure> {
        let mut err = io::stderr().lock();
        if rows.len() > 1 || rows.iter().any(|row| row.status != "ok") {
            runs::table(rows).write(&mut err)?;
        }
        for row in rows.iter().filter(|row| row.status != "ok").take(SHOWN_ERRORS) {
            let stderr = row.json["stderr"].as_str().unwrap_or_default();
            for line in stderr.lines() {
                writeln!(err, "{} stderr: {}", safe(&row.node), safe(line))?;
            }
        }
        let ok = rows.iter().filter(|row| row.status == "ok").count() as u64;
        let took = span(self.started.elapsed());
        let whole = rows.len() as u64;
        writeln!(err, "{} ok, after {took}", super::status::of(ok, whole, "node"))?;
        Ok(())
    }

    fn draw(&mut self, away: bool) -> Result<(), Failure> {
        if !self.progress.is_live() {
            return Ok(());
        }
        let mut by_status = BTreeMap::<&str, u64>::new();
        let mut done = 0;
        for node in self.nodes.values() {
            done += u64::from(node.is_final);
            let status = if node.status.is_empty() { "waiting" } else { &node.status };
            *by_status.entry(status).or_default() += 1;
        }
        let parts: Vec<String> =
            by_status.iter().map(|(status, n)| format!("{n} {}", safe(status))).collect();
        let hub = if away { "  (the hub is away)" } else { "" };
        let line = format!(
            "{done}/{} done · {} · {}{hub}",
            self.count,
            parts.join(" · "),
            // Whole seconds: the line changes only when there is news.
            span(Duration::from_secs(self.started.elapsed().as_secs().max(1)))
        );
        Ok(self.progress.draw(&line)?)
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.progress.clear()?;
        writeln!(io::stderr().lock(), "{line}")?;
        Ok(())
    }

    fn interrupted(&mut self) -> Result<(), Failure> {
        let run = self.run;
        self.progress.clear()?;
        Err(Failure::new(Exit::Failed, format!("no longer waiting; the run goes on: {run}")).hint(
            format!("`fieldpost runs {run} --follow` shows it, `fieldpost cancel {run}` stops it"),
        ))
    }

    fn timed_out(&mut self) -> Result<(), Failure> {
        let run = self.run;
        self.progress.clear()?;
        let open: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.is_final)
            .map(|(name, node)| match node.status.as_str() {
                "" => format!("{} (no answer)", safe(name)),
                status => format!("{} ({})", safe(name), safe(status)),
            })
            .take(10)
            .collect();
        let message = format!("not all nodes are done: {}", open.join(", "));
        Err(Failure::new(Exit::TimedOut, message).hint(format!(
            "the run goes on; `fieldpost runs {run} --follow` shows it, `fieldpost cancel {run}` \
             stops it"
        )))
    }
}
