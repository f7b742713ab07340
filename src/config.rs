//! `agent.toml`: text becomes a typed [`Config`] once; afterwards nothing in it can be wrong.
//!
//! An unknown key, a bad value or a missing file is a [`Problem`] that names file, line, key,
//! value, what was expected and what may help. `examples/agent.toml` shows every key and is
//! tested to parse.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fieldpost_settings::Problem;
use fieldpost_settings::units::{SIZE, SPAN, Size, Span};
use fieldpost_settings::{Document, Entry, Section, section};
use fieldpost_sockets::PublicKey;
use fieldpost_wire::Name;

use crate::agent::{Reload, Settings, WhenFull};
use crate::io::sockets::HubAddress;
use crate::limits;
use crate::spool::{self, Durability};

mod jobs;

/// Where the agent's configuration is, unless told otherwise.
pub const FILE: &str = "/etc/fieldpost/agent.toml";

const NAME: &str = "a name: 1 to 63 of a-z, 0-9, '.', '_' and '-'";
const PATH: &str = "an absolute path";
const KEY: &str = "a public key: 40 characters of Z85";
const ENDPOINT: &str = "an address such as \"tcp://hub.example:4510\"";

/// An agent's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the core decides by.
    pub agent: Settings,
    /// The hubs, in order of preference.
    pub hubs: Vec<HubAddress>,
    /// The node's secret key.
    pub key_file: PathBuf,
    /// What survives a restart of the agent, not of the machine. In RAM.
    pub runtime_dir: PathBuf,
    /// What survives both.
    pub state_dir: PathBuf,
    /// Where results wait while the hub is away, beyond the outbox' memory.
    pub spool: Option<Spool>,
}

/// Where results wait while the hub is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// Its directory.
    pub path: PathBuf,
    /// Its bounds.
    pub settings: spool::Settings,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let mut text = section::read(path);
        if let Err(problem) = &mut text
            && problem.hint.is_none()
        {
            problem.hint = Some("name the file with --config FILE".to_owned());
        }
        Self::parse(path, &text?)
    }

    /// Checks a file's text; `path` is only named in problems.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let mut place = None;
        let mut top = Document::parse(path, text, &mut place)?;
        let Node { id, groups, key_file, time_zone, runtime_dir, state_dir } =
            Node::read(top.section("node")?)?;
        let hubs = hubs(top.sections("hub")?)?;
        if hubs.is_empty() {
            return Err(top.problem(
                "no [[hub]]: expected at least one, with triggers, results and server_keys",
            ));
        }
        let Outbox { memory, spool, when_full } = Outbox::read(top.section("outbox")?)?;
        let Limits { running, grace, drain } = Limits::read(top.section("limits")?, memory)?;
        let jobs = jobs::jobs(top.sections("job")?)?;
        top.finish()?;
        let agent = Settings {
            node: id,
            groups,
            jobs,
            hubs: hubs.iter().map(|hub| hub.server_keys.len()).collect(),
            version: env!("CARGO_PKG_VERSION"),
            concurrency: running,
            outbox_bytes: memory,
            when_full,
            spool: spool.as_ref().map(|spool| spool.settings),
            time_zone,
            grace,
            drain,
        };
        Ok(Self { agent, hubs, key_file, runtime_dir, state_dir, spool })
    }

    /// What a running agent can take over.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload { groups: self.agent.groups.clone(), jobs: self.agent.jobs.clone() }
    }

    /// What differs in `new` that a running agent can't take over.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let (old, now) = (&self.agent, &new.agent);
        [
            ("node.id", old.node != now.node),
            ("node.key_file", self.key_file != new.key_file),
            ("node.time_zone", old.time_zone != now.time_zone),
            ("node.runtime_dir", self.runtime_dir != new.runtime_dir),
            ("node.state_dir", self.state_dir != new.state_dir),
            ("[[hub]]", self.hubs != new.hubs),
            (
                "[outbox]",
                self.spool != new.spool
                    || old.outbox_bytes != now.outbox_bytes
                    || old.when_full != now.when_full,
            ),
            (
                "[limits]",
                (old.concurrency, old.grace, old.drain) != (now.concurrency, now.grace, now.drain),
            ),
        ]
        .into_iter()
        .filter_map(|(what, differs)| differs.then_some(what))
        .collect()
    }
}

struct Node {
    id: Name,
    groups: Vec<Name>,
    key_file: PathBuf,
    time_zone: tz::TimeZone,
    runtime_dir: PathBuf,
    state_dir: PathBuf,
}

impl Node {
    fn read(mut node: Section<'_, '_>) -> Result<Self, Problem> {
        let id = node_id(node.require("id", NAME)?)?;
        let groups = match node.take("groups") {
            Some(entry) => {
                let many = entry.wrong(&format!("at most {} groups", limits::GROUPS));
                let groups = names(entry)?;
                if groups.len() > limits::GROUPS {
                    return Err(many);
                }
                groups
            }
            None => Vec::new(),
        };
        let mut path = |key, default: &str| match node.take(key) {
            Some(entry) => absolute(entry),
            None => Ok(PathBuf::from(default)),
        };
        let runtime_dir = path("runtime_dir", "/run/fieldpost-agent")?;
        let state_dir = path("state_dir", "/var/lib/fieldpost")?;
        let key_file = match node.take("key_file") {
            Some(entry) => absolute(entry)?,
            None => state_dir.join("agent.key"),
        };
        let time_zone = match node.take("time_zone") {
            Some(entry) => time_zone(entry)?,
            None => tz::TimeZone::utc(),
        };
        node.finish()?;
        Ok(Self { id, groups, key_file, time_zone, runtime_dir, state_dir })
    }
}

fn hubs(sections: Vec<Section<'_, '_>>) -> Result<Vec<HubAddress>, Problem> {
    sections
        .into_iter()
        .map(|mut section| {
            let triggers = endpoint(section.require("triggers", ENDPOINT)?)?;
            let results = endpoint(section.require("results", ENDPOINT)?)?;
            let keys = section.require("server_keys", "an array of public keys")?;
            let none = keys.wrong("at least one public key");
            let server_keys = keys
                .list("public keys")?
                .into_iter()
                .map(|entry| entry.parse::<PublicKey>(KEY))
                .collect::<Result<Vec<_>, _>>()?;
            let proxy = section.take("proxy").map(proxy).transpose()?;
            section.finish()?;
            if server_keys.is_empty() {
                Err(none)
            } else {
                Ok(HubAddress { triggers, results, server_keys, proxy })
            }
        })
        .collect()
}

struct Outbox {
    memory: usize,
    spool: Option<Spool>,
    when_full: WhenFull,
}

impl Outbox {
    fn read(mut outbox: Section<'_, '_>) -> Result<Self, Problem> {
        let memory = match outbox.take("memory") {
            Some(entry) => {
                let (least, most) = (limits::OUTBOX_LEAST, limits::OUTBOX_MOST);
                let wrong = entry.wrong(&format!(
                    "a size from \"{} KiB\" to \"{} MiB\"",
                    least >> 10,
                    most >> 20
                ));
                let Size(size) = entry.parse(SIZE)?;
                usize::try_from(size)
                    .ok()
                    .filter(|size| (least..=most).contains(size))
                    .ok_or(wrong)?
            }
            None => 1 << 20,
        };
        let (spool, when_full) = match outbox.take("spool") {
            Some(entry) => {
                let (spool, when_full) = Spool::read(entry.section()?)?;
                (Some(spool), when_full)
            }
            None => (None, WhenFull::default()),
        };
        outbox.finish()?;
        Ok(Self { memory, spool, when_full })
    }
}

impl Spool {
    fn read(mut spool: Section<'_, '_>) -> Result<(Self, WhenFull), Problem> {
        let path = absolute(spool.require("path", PATH)?)?;
        let max = match spool.take("max") {
            Some(entry) => {
                let wrong = entry.wrong("a size of at least \"1 MiB\"");
                let Size(size) = entry.parse(SIZE)?;
                if size < 1 << 20 {
                    return Err(wrong);
                }
                size
            }
            None => 64 << 20,
        };
        let durability = match spool.take("durability") {
            Some(entry) => {
                word(entry, &[("spill", Durability::Spill), ("always", Durability::Always)])?
            }
            None => Durability::Spill,
        };
        let when_full = match spool.take("when_full") {
            Some(entry) => word(
                entry,
                &[("drop_oldest", WhenFull::DropOldest), ("refuse_new", WhenFull::RefuseNew)],
            )?,
            None => WhenFull::default(),
        };
        let write_budget = match spool.take("write_budget") {
            Some(entry) => {
                let Size(size) = entry.parse(SIZE)?;
                Some(size)
            }
            None => None,
        };
        spool.finish()?;
        let settings = spool::Settings { max, durability, write_budget };
        Ok((Self { path, settings }, when_full))
    }
}

struct Limits {
    running: usize,
    grace: Duration,
    drain: Duration,
}

impl Limits {
    fn read(mut section: Section<'_, '_>, outbox: usize) -> Result<Self, Problem> {
        let most = limits::most_running(outbox);
        let running = match section.take("running") {
            Some(entry) => {
                let wrong = entry.wrong(&format!(
                    "at most {most}: each run keeps room in the outbox, and outbox.memory is {} KiB",
                    outbox >> 10
                ));
                let running = entry.number(1..=limits::RUNNING as u64)?;
                usize::try_from(running).ok().filter(|&n| n <= most).ok_or(wrong)?
            }
            None => most.min(4),
        };
        let grace = span(&mut section, "grace", 5, "100ms", "5m")?;
        let drain = span(&mut section, "drain", 20, "0s", "1h")?;
        section.finish()?;
        Ok(Self { running, grace, drain })
    }
}

/// Takes a duration within bounds.
fn span(
    section: &mut Section<'_, '_>,
    key: &'static str,
    default_s: u64,
    least: &str,
    most: &str,
) -> Result<Duration, Problem> {
    let Some(entry) = section.take(key) else { return Ok(Duration::from_secs(default_s)) };
    let bound = |text: &str| text.parse::<Span>().map_or(Duration::ZERO, |Span(bound)| bound);
    let wrong = entry.wrong(&format!("a duration from {least:?} to {most:?}"));
    let Span(span) = entry.parse(SPAN)?;
    if (bound(least)..=bound(most)).contains(&span) { Ok(span) } else { Err(wrong) }
}

/// The value that one of a few words stands for.
fn word<T: Copy>(entry: Entry<'_, '_>, words: &[(&str, T)]) -> Result<T, Problem> {
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let mut wrong = entry.wrong(&format!("\"{}\"", known.join("\" or \"")));
    let text = match entry.text("") {
        Ok(text) => text,
        Err(_) => return Err(wrong),
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    wrong.hint = section::nearest(&text, &known).map(|near| format!("did you mean {near:?}?"));
    Err(wrong)
}

fn names(entry: Entry<'_, '_>) -> Result<Vec<Name>, Problem> {
    entry.list("names")?.into_iter().map(|element| element.parse(NAME)).collect()
}

fn absolute(entry: Entry<'_, '_>) -> Result<PathBuf, Problem> {
    let wrong = entry.wrong(PATH);
    let path = PathBuf::from(entry.text(PATH)?);
    if path.is_absolute() { Ok(path) } else { Err(wrong) }
}

fn endpoint(entry: Entry<'_, '_>) -> Result<String, Problem> {
    let mut wrong = entry.wrong(ENDPOINT);
    let text = entry.text(ENDPOINT)?;
    let hint = match text.strip_prefix("tcp://").map(|rest| rest.rsplit_once(':')) {
        None => "it must start with tcp://",
        Some(None) => "a port is missing: tcp://HOST:PORT",
        Some(Some(("" | "*", _))) => "a host is missing: tcp://HOST:PORT",
        Some(Some((_, port))) if port.parse::<u16>().is_ok_and(|port| port > 0) => return Ok(text),
        Some(Some(_)) => "the port must be a number from 1 to 65535",
    };
    wrong.hint = Some(hint.to_owned());
    Err(wrong)
}

/// A SOCKS5 proxy, as `host:port`.
fn proxy(entry: Entry<'_, '_>) -> Result<String, Problem> {
    let expected = "a proxy such as \"socks5://10.0.0.1:1080\"";
    let wrong = entry.wrong(expected);
    let text = entry.text(expected)?;
    text.strip_prefix("socks5://")
        .filter(|rest| {
            rest.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        })
        .map(str::to_owned)
        .ok_or(wrong)
}

/// The machine's own id (machine-id(5)), or the name that is written there.
fn node_id(entry: Entry<'_, '_>) -> Result<Name, Problem> {
    let mut wrong = entry.wrong("\"machine-id\" on a machine that has /etc/machine-id");
    let text = entry.text(NAME)?;
    let id = if text == "machine-id" {
        match std::fs::read_to_string("/etc/machine-id") {
            Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
            Ok(_) => return Err(wrong),
            Err(error) => {
                wrong.hint = Some(format!("/etc/machine-id: {error}"));
                return Err(wrong);
            }
        }
    } else {
        text
    };
    id.parse().map_err(|bad| {
        wrong.message = format!("node.id = {id:?}: {bad}");
        wrong
    })
}

/// A time zone by its name in the system's database.
fn time_zone(entry: Entry<'_, '_>) -> Result<tz::TimeZone, Problem> {
    let expected = "a time zone such as \"Europe/Berlin\" or \"UTC\"";
    let mut wrong = entry.wrong(expected);
    let name = entry.text(expected)?;
    if name == "UTC" {
        return Ok(tz::TimeZone::utc());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    if name.is_empty() || name.starts_with('/') || !name.chars().all(plain) {
        return Err(wrong);
    }
    let file = Path::new("/usr/share/zoneinfo").join(&name);
    let bytes = std::fs::read(&file).map_err(|error| {
        wrong.hint = Some(format!("{}: {error}; is tzdata installed?", file.display()));
        wrong.clone()
    })?;
    tz::TimeZone::from_tz_data(&bytes).map_err(|error| {
        wrong.hint = Some(format!("{}: {error}", file.display()));
        wrong
    })
}

#[cfg(test)]
mod tests;
