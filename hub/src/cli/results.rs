//! `fieldpost results`: stored results in order, from a cursor.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use fieldpost_wire::Name;
use serde_json::{Value, json};

use super::connect::{Session, patiently};
use super::human::{note, safe, size, time, took};
use super::stream::{self, Heard, Interrupt};
use super::{Failure, ResultsArgs};

/// How long one request is left with the hub.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Silence beyond that until the request is made again.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a hub that is stopping is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// Results asked for in one page.
const PAGE: u64 = 200;

pub fn results(args: &ResultsArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let mut fields = json!({});
    if let Some(consumer) = &args.consumer {
        fields["consumer"] = Value::from(&**consumer);
    }
    filter(&mut fields, &args.job, &args.node);
    let mut cursor = Cursor {
        fields,
        after: args.after,
        left: args.limit,
        consumer: args.consumer.as_ref().filter(|_| args.commit),
        json: args.json,
    };
    if args.follow {
        if cursor.after.is_none() && args.consumer.is_none() {
            cursor.after = Some(newest(&mut session)?);
        }
        return cursor.follow(&mut session);
    }
    while cursor.page(&mut session)? {}
    Ok(())
}

/// Results from now on, until Ctrl-C.
pub fn follow(
    session: &mut Session,
    job: Option<&Name>,
    node: Option<&Name>,
    json: bool,
) -> Result<(), Failure> {
    let mut fields = json!({});
    filter(
        &mut fields,
        job.map(std::slice::from_ref).unwrap_or_default(),
        node.map(std::slice::from_ref).unwrap_or_default(),
    );
    let after = Some(newest(session)?);
    Cursor { fields, after, left: None, consumer: None, json }.follow(session)
}

fn filter(fields: &mut Value, jobs: &[Name], nodes: &[Name]) {
    for (key, names) in [("jobs", jobs), ("nodes", nodes)] {
        if !names.is_empty() {
            fields[key] = names.iter().map(|name| Value::from(&**name)).collect();
        }
    }
}

/// The offset of the newest result.
fn newest(session: &mut Session) -> Result<u64, Failure> {
    let answer = session.call("results", json!({ "after": i64::MAX, "limit": 1 }))?;
    Ok(answer["newest"].as_u64().unwrap_or(0))
}

/// Where the reading stands.
struct Cursor<'a> {
    fields: Value,
    after: Option<u64>,
    left: Option<u64>,
    consumer: Option<&'a Name>,
    json: bool,
}

impl Cursor<'_> {
    fn request(&self, wait: Duration) -> Value {
        let mut fields = self.fields.clone();
        if let Some(after) = self.after {
            fields["after"] = after.into();
        }
        fields["limit"] = self.left.unwrap_or(PAGE).min(PAGE).into();
        if !wait.is_zero() {
            fields["wait_ms"] = u64::try_from(wait.as_millis()).unwrap_or(0).into();
        }
        fields
    }

    /// Reads and prints one page; says whether there may be another.
    fn page(&mut self, session: &mut Session) -> Result<bool, Failure> {
        let answer = session.call("results", self.request(Duration::ZERO))?;
        let before = self.after;
        self.print(session, &answer)?;
        // A filtered page may show nothing and have looked at many.
        Ok(self.after > before && self.after < answer["newest"].as_u64() && self.left != Some(0))
    }

    fn follow(&mut self, session: &mut Session) -> Result<(), Failure> {
        let interrupt = Interrupt::listen()?;
        let mut asked = session.client.send("results", self.request(LONG_POLL))?;
        let mut asked_at = Instant::now();
        let mut asked_on = session.client.connections();
        loop {
            match stream::next(session, None, &interrupt, Duration::from_secs(1))? {
                Heard::Interrupted => return Ok(()),
                Heard::Reply(reply) if reply.id == asked => match patiently(reply.result)? {
                    Some(answer) => {
                        self.print(session, &answer)?;
                        if self.left == Some(0) {
                            return Ok(());
                        }
                    }
                    None => stream::pause(session, &interrupt, AGAIN)?,
                },
                // The hub came back: nobody there remembers what was asked.
                _ if session.client.connections() > asked_on => {}
                _ if asked_at.elapsed() > LONG_POLL + SILENCE => {
                    eprintln!("the hub does not answer; still trying");
                }
                _ => continue,
            }
            asked = session.client.send("results", self.request(LONG_POLL))?;
            asked_at = Instant::now();
            asked_on = session.client.connections();
        }
    }

    /// Prints an answer's results and moves on.
    fn print(&mut self, session: &mut Session, answer: &Value) -> Result<(), Failure> {
        let rows = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut out = io::stdout().lock();
        for row in rows {
            if self.json { writeln!(out, "{row}")? } else { writeln!(out, "{}", line(row))? }
        }
        out.flush()?;
        let last = rows.last().and_then(|row| row["offset"].as_u64());
        // Filtered pages move on beyond what they show.
        let next = answer["next"].as_u64().or(last);
        let moved = next.is_some() && next > self.after;
        if moved {
            self.after = next;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(rows.len() as u64);
        }
        if let (Some(consumer), Some(offset), true) = (self.consumer, self.after, moved) {
            session.call("results.commit", json!({ "consumer": &**consumer, "offset": offset }))?;
        }
        Ok(())
    }
}

/// A result in one line.
fn line(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().map(safe).unwrap_or_default();
    let received = row["received_ms"].as_u64().map_or_else(String::new, time);
    let mut line = format!("{received}  {}  {}  {}", text("node"), text("job"), text("status"));
    let bytes = match row["bytes"].as_u64() {
        None | Some(0) => String::new(),
        Some(bytes) => size(bytes),
    };
    for more in [took(row), bytes, text("run_id"), note(row)] {
        if !more.is_empty() {
            line.push_str("  ");
            line.push_str(&more);
        }
    }
    line
}
