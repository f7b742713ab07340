//! From the connection options to a hub that answers.
//!
//! Each value comes from the first place that has it: the option, its environment variable,
//! `client.toml`. Where none says where the hub is, it is this host's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldpost_settings::{Document, Problem, key_file, section};
use fieldpost_sockets::PublicKey;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Connection, Exit, Failure, OptionalSelector, Selector};
use crate::client::{Address, Client, Error};
use crate::config::{LOCAL_EVENTS, LOCAL_SOCKET};

/// What `client.toml` says.
#[derive(Debug, Default)]
struct Stored {
    hub: Option<String>,
    events: Option<String>,
    server_key: Option<String>,
    key_file: Option<PathBuf>,
}

/// A hub that was found, and how long to wait for its answers.
pub struct Session {
    /// The connection.
    pub client: Client,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Connection {
    /// Connects.
    pub fn open(&self) -> Result<Session, Failure> {
        let address = self.address()?;
        Ok(Session { client: Client::open(&address)?, patience: self.patience.0 })
    }

    fn address(&self) -> Result<Address, Failure> {
        let stored = self.stored()?;
        let hub = self.hub.clone().or(stored.hub);
        let events = self.events.clone().or(stored.events);
        let Some(hub) = hub else {
            return Ok(local(LOCAL_SOCKET, events.as_deref().unwrap_or(LOCAL_EVENTS)));
        };
        let path = hub.strip_prefix("ipc://").unwrap_or(&hub);
        if path.starts_with('/') || path.starts_with("./") {
            let events = match events {
                Some(events) => events,
                None => beside(path),
            };
            return Ok(local(path, &events));
        }
        let events = match events {
            Some(events) => events,
            None => next_port(&hub)?,
        };
        let server_key = self.server_key.clone().or(stored.server_key).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("the public key of the hub at {hub} is not given"))
                .hint("--server-key KEY, FIELDPOST_SERVER_KEY, or server_key in client.toml")
        })?;
        let server: PublicKey = server_key.parse().map_err(|bad| {
            Failure::new(Exit::Usage, format!("--server-key {server_key}: {bad}"))
                .hint("the hub prints its public key at its start; quote it for the shell")
        })?;
        let key_file = self.key_file.clone().or(stored.key_file).ok_or_else(|| {
            Failure::new(Exit::Usage, "your secret key is not given").hint(
                "--key-file FILE, FIELDPOST_KEY_FILE, or key_file in client.toml; \
                       `fieldpost key new --out FILE` makes one",
            )
        })?;
        let keys = key_file::read(&key_file, super::key::HOW_TO_MAKE)?;
        Ok(Address::Remote { hub, events, server, keys })
    }

    fn stored(&self) -> Result<Stored, Problem> {
        if let Some(path) = &self.client_config {
            return Stored::read(path);
        }
        match default_config() {
            Some(path) if path.exists() => Stored::read(&path),
            _ => Ok(Stored::default()),
        }
    }
}

impl Stored {
    fn read(path: &Path) -> Result<Self, Problem> {
        let text = section::read(path)?;
        let mut place = None;
        let mut top = Document::parse(path, &text, &mut place)?;
        let mut client = top.section("client")?;
        let mut text =
            |key, expected| client.take(key).map(|entry| entry.text(expected)).transpose();
        let stored = Self {
            hub: text("hub", "an address such as \"tcp://hub.example:4512\"")?,
            events: text("events", "an address such as \"tcp://hub.example:4513\"")?,
            server_key: text("server_key", "the hub's public key")?,
            key_file: text("key_file", "the path of your secret key")?.map(|file| {
                // Relative to the file that names it: the two lie together.
                path.parent().unwrap_or(Path::new(".")).join(home(&file))
            }),
        };
        client.finish()?;
        top.finish()?;
        Ok(stored)
    }
}

impl Session {
    /// Asks and waits for the answer.
    pub fn call(&mut self, op: &str, fields: Value) -> Result<Value, Failure> {
        Ok(self.client.call(op, fields, self.patience)?)
    }

    /// The latest so many rows of an op that gives them in pages, newest first; here the newest is
    /// the last, as people read.
    pub fn latest(
        &mut self,
        op: &str,
        mut fields: Value,
        rows: &str,
        limit: u32,
    ) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        while all.len() < limit as usize {
            fields["limit"] = (limit as usize - all.len()).into();
            let mut page = self.call(op, fields.clone())?;
            let Value::Array(rows) = page[rows].take() else { break };
            all.extend(rows);
            fields["before"] = page["next"].take();
            if fields["before"].is_null() {
                break;
            }
        }
        all.truncate(limit as usize);
        all.reverse();
        Ok(all)
    }

    /// Asks for something that the audit trail records, and says who asks.
    pub fn act(&mut self, op: &str, mut fields: Value) -> Result<Value, Failure> {
        fields["origin"] = origin().into();
        self.call(op, fields)
    }

    /// Asks and waits for an answer of a known shape.
    pub fn call_as<T: DeserializeOwned>(&mut self, op: &str, fields: Value) -> Result<T, Failure> {
        Ok(self.client.call_as(op, fields, self.patience)?)
    }
}

impl Selector {
    /// As the protocol writes it.
    pub fn json(&self) -> Value {
        select(&self.node, &self.group)
    }
}

impl OptionalSelector {
    /// As the protocol writes it; `None`: nothing was chosen.
    pub fn json(&self) -> Option<Value> {
        let chosen = self.all || !self.node.is_empty() || !self.group.is_empty();
        chosen.then(|| select(&self.node, &self.group))
    }
}

fn select(nodes: &[fieldpost_wire::Name], groups: &[fieldpost_wire::Name]) -> Value {
    let list = |names: &[fieldpost_wire::Name]| -> Value {
        names.iter().map(|name| Value::from(&**name)).collect()
    };
    if !nodes.is_empty() {
        serde_json::json!({ "nodes": list(nodes) })
    } else if !groups.is_empty() {
        serde_json::json!({ "groups": list(groups) })
    } else {
        serde_json::json!({ "all": true })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Away { hint, .. } => Self::new(Exit::Unavailable, message).hint(hint),
            Error::NotAllowed { hint, .. } => Self::new(Exit::NotAllowed, message).hint(hint),
            Error::Refused { code, .. } => Self::new(refused(&code), message),
            Error::Odd(_) => Self::new(Exit::Internal, message)
                .hint("hub and CLI may be of different versions: compare `fieldpost --version`"),
            Error::Socket(_) => Self::new(Exit::Internal, message),
        }
    }
}

/// Who asks, where nobody says so: `cli:alice@host`.
pub fn origin() -> String {
    let user = std::env::var("SUDO_USER").ok().or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
        Some(user.name)
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("cli:{}@{}", user.as_deref().unwrap_or("?"), host.trim_end());
    name.chars().filter(char::is_ascii_graphic).take(fieldpost_wire::limits::ORIGIN).collect()
}

/// Whether the hub refuses for now only: asked again in a moment it may not.
fn is_passing(code: &str) -> bool {
    matches!(code, "stopping" | "busy" | "store_unavailable")
}

/// An answer to somebody who waits: `None` where it is to be asked again in a moment.
pub fn patiently(result: Result<Value, Error>) -> Result<Option<Value>, Failure> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Refused { code, .. }) if is_passing(&code) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The exit code for a code of the protocol.
fn refused(code: &str) -> Exit {
    match code {
        "not_allowed" => Exit::NotAllowed,
        "bad_request" | "bad_run_id" | "too_old" | "unknown_op" | "too_large" => Exit::Usage,
        "internal" => Exit::Internal,
        _ if is_passing(code) => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

fn local(socket: &str, events: &str) -> Address {
    let path = |text: &str| PathBuf::from(text.strip_prefix("ipc://").unwrap_or(text));
    Address::Local { socket: path(socket), events: path(events) }
}

/// The events' socket that stands beside a local one, as by default.
fn beside(socket: &str) -> String {
    let parent = Path::new(socket).parent().unwrap_or(Path::new("/"));
    parent.join("events.sock").to_string_lossy().into_owned()
}

/// The events' port is the one after the clients', as by default.
fn next_port(hub: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::new(Exit::Usage, format!("--hub {hub}: not an address"))
            .hint("expected tcp://HOST:PORT, or the path of a local socket")
    };
    let rest = hub.strip_prefix("tcp://").ok_or_else(wrong)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let next = port.checked_add(1).ok_or_else(wrong)?;
    Ok(format!("tcp://{host}:{next}"))
}

fn default_config() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME") {
        Some(base) if Path::new(&base).is_absolute() => PathBuf::from(base),
        _ => PathBuf::from(std::env::var_os("HOME")?).join(".config"),
    };
    Some(base.join("fieldpost/client.toml"))
}

fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_are_found_from_the_hub() {
        assert_eq!(next_port("tcp://h:4512").unwrap(), "tcp://h:4513");
        assert_eq!(next_port("tcp://[::1]:4512").unwrap(), "tcp://[::1]:4513");
        assert_eq!(beside("/run/fieldpost/hub.sock"), "/run/fieldpost/events.sock");
        for bad in ["h:4512", "tcp://h", "tcp://h:x", "tcp://h:65535"] {
            assert_eq!(next_port(bad).unwrap_err().exit(), Exit::Usage);
        }
    }
}
