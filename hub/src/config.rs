//! `hub.toml`: text becomes a typed [`Config`] once; afterwards nothing in it can be wrong.
//!
//! An unknown key, a bad value or a missing file is a [`Problem`] that names file, line, key,
//! value and what was expected. `examples/hub.toml` shows every key and is tested to parse.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use fieldpost_settings::Problem;
use fieldpost_settings::units::{SIZE, SPAN, Size, Span};
use fieldpost_settings::{Document, Entry, Section, nearest, section};
use fieldpost_sockets::PublicKey;
use fieldpost_wire::Name;

/// Where the hub's own host finds the local socket, unless told otherwise.
pub const LOCAL_SOCKET: &str = "/run/fieldpost/hub.sock";
/// Where the hub's own host finds the events, unless told otherwise.
pub const LOCAL_EVENTS: &str = "/run/fieldpost/events.sock";

/// A hub's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the hub calls itself in answers and logs.
    pub name: Name,
    /// Where its store is.
    pub state_dir: PathBuf,
    /// Its secret key; made at the first start.
    pub key_file: PathBuf,
    /// The four TCP sockets.
    pub listen: Listen,
    /// A second server key on ports of its own, while the key is being replaced.
    pub second_key: Option<SecondKey>,
    /// The sockets for this host, which need no key.
    pub local: Local,
    /// How long results are kept.
    pub retention: Retention,
    /// Who may ask.
    pub clients: Vec<Client>,
    /// Bounds that depend on the fleet.
    pub limits: Limits,
}

/// Where the hub listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Commands to nodes (XPUB).
    pub triggers: Endpoint,
    /// Reports from nodes (PULL).
    pub results: Endpoint,
    /// Requests of clients (ROUTER).
    pub clients: Endpoint,
    /// Live events for clients (XPUB).
    pub events: Endpoint,
}

/// A second server key and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondKey {
    /// The secret key.
    pub key_file: PathBuf,
    /// Its sockets.
    pub listen: Listen,
}

/// The sockets for this host: who can open them is admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Requests.
    pub socket: PathBuf,
    /// Live events.
    pub events: PathBuf,
}

/// How long results are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// No longer than this.
    pub age: Duration,
    /// The oldest go when the store grows beyond this many bytes.
    pub size: u64,
}

/// Bounds that depend on the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Node keys that wait to be accepted; one more pushes the oldest out.
    pub pending_nodes: usize,
}

/// A client that has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name in the audit trail.
    pub name: Name,
    /// Its public key.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
    /// The jobs it may trigger and see; `None`: all.
    pub jobs: Option<Vec<Name>>,
    /// The nodes it may trigger and see; `None`: all.
    pub selectors: Option<Vec<Selector>>,
}

/// What a client may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at runs, output, nodes, results and events.
    Read,
    /// Trigger and cancel.
    Trigger,
    /// Accept, rekey and revoke nodes, set schedules, read the audit trail.
    Admin,
}

/// Which nodes a client is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Every node.
    All,
    /// The nodes of a group.
    Group(Name),
    /// One node.
    Node(Name),
}

/// An address to listen at: `tcp://*:4510`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

const NAME: &str = "a name: 1 to 63 of a-z, 0-9, '.', '_' and '-'";
const PATH: &str = "an absolute path";
const ENDPOINT: &str = "an address such as \"tcp://*:4510\"";
const KEY: &str = "a public key: 40 characters of Z85";
const ROLE: &str = "\"read\", \"trigger\" or \"admin\"";
const SELECTOR: &str = "\"all\", \"group:NAME\" or \"node:NAME\"";

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = section::read(path)?;
        Self::parse(path, &text)
    }

    /// Checks a file's text; `path` is only named in problems.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let mut place = None;
        let mut top = Document::parse(path, text, &mut place)?;

        let mut hub = top.section("hub")?;
        let name = match hub.take("name") {
            Some(entry) => entry.parse(NAME)?,
            None => "hub".parse().expect("\"hub\" is a name"),
        };
        let state_dir = match hub.take("state_dir") {
            Some(entry) => absolute(entry)?,
            None => PathBuf::from("/var/lib/fieldpost-hub"),
        };
        let key_file = match hub.take("key_file") {
            Some(entry) => absolute(entry)?,
            None => state_dir.join("hub.key"),
        };
        hub.finish()?;

        let listen = Listen::read(top.section("listen")?, 4510, None)?;
        let second_key = match top.take("second_key") {
            Some(entry) => Some(SecondKey::read(entry.section()?, &listen)?),
            None => None,
        };
        let local = Local::read(top.section("local")?)?;
        let retention = Retention::read(top.section("retention")?)?;
        let limits = Limits::read(top.section("limits")?)?;
        let clients = clients(top.sections("client")?)?;
        top.finish()?;
        Ok(Self {
            name,
            state_dir,
            key_file,
            listen,
            second_key,
            local,
            retention,
            clients,
            limits,
        })
    }
}

impl Listen {
    /// All of them, and what they are called.
    fn named(&self) -> [(&'static str, &Endpoint); 4] {
        [
            ("triggers", &self.triggers),
            ("results", &self.results),
            ("clients", &self.clients),
            ("events", &self.events),
        ]
    }

    /// `other`: who else listens on this host.
    fn read(
        mut section: Section<'_, '_>,
        first_port: u16,
        other: Option<&Self>,
    ) -> Result<Self, Problem> {
        let mut endpoint = |key, offset| match section.take(key) {
            Some(entry) => entry.parse(ENDPOINT),
            None => Ok(Endpoint(format!("tcp://*:{}", first_port + offset))),
        };
        let listen = Self {
            triggers: endpoint("triggers", 0)?,
            results: endpoint("results", 1)?,
            clients: endpoint("clients", 2)?,
            events: endpoint("events", 3)?,
        };
        let mut taken: Vec<_> = other.iter().flat_map(|other| other.named()).collect();
        for (key, address) in listen.named() {
            let is_same = |known: &&Endpoint| *known == address && !address.is_of_any_port();
            if let Some((before, _)) = taken.iter().find(|(_, known)| is_same(known)) {
                let what = format!("{key} is {:?}, as {before} is: two addresses", address.0);
                return Err(section.problem(&what));
            }
            taken.push((key, address));
        }
        section.finish()?;
        Ok(listen)
    }
}

impl SecondKey {
    fn read(mut section: Section<'_, '_>, first: &Listen) -> Result<Self, Problem> {
        let key_file = absolute(section.require("key_file", PATH)?)?;
        let listen = Listen::read(section, 4520, Some(first))?;
        Ok(Self { key_file, listen })
    }
}

impl Local {
    fn read(mut section: Section<'_, '_>) -> Result<Self, Problem> {
        let mut socket = |key, default: &str| match section.take(key) {
            Some(entry) => socket_path(entry),
            None => Ok(PathBuf::from(default)),
        };
        let local = Self {
            socket: socket("socket", LOCAL_SOCKET)?,
            events: socket("events", LOCAL_EVENTS)?,
        };
        if local.socket == local.events {
            return Err(section.problem("socket and events must be two paths"));
        }
        section.finish()?;
        Ok(local)
    }
}

impl Retention {
    fn read(mut section: Section<'_, '_>) -> Result<Self, Problem> {
        let age = match section.take("age") {
            Some(entry) => {
                let wrong = entry.wrong("a duration of at least \"1h\"");
                let Span(age) = entry.parse(SPAN)?;
                if age < Duration::from_secs(3600) {
                    return Err(wrong);
                }
                age
            }
            None => Duration::from_secs(30 * 86_400),
        };
        let size = match section.take("size") {
            Some(entry) => {
                let wrong = entry.wrong("a size of at least \"16 MiB\"");
                let Size(size) = entry.parse(SIZE)?;
                if size < 16 << 20 {
                    return Err(wrong);
                }
                size
            }
            None => 10 << 30,
        };
        section.finish()?;
        Ok(Self { age, size })
    }
}

impl Limits {
    fn read(mut section: Section<'_, '_>) -> Result<Self, Problem> {
        let pending_nodes = match section.take("pending_nodes") {
            Some(entry) => usize::try_from(entry.number(1..=100_000)?).unwrap_or(usize::MAX),
            None => 1_000,
        };
        section.finish()?;
        Ok(Self { pending_nodes })
    }
}

fn clients(sections: Vec<Section<'_, '_>>) -> Result<Vec<Client>, Problem> {
    let mut clients = Vec::<Client>::with_capacity(sections.len());
    for mut section in sections {
        let name: Name = section.require("name", NAME)?.parse(NAME)?;
        let key_entry = section.require("key", KEY)?;
        let twice = key_entry.wrong("a key that no other client has");
        let key: PublicKey = key_entry.parse(KEY)?;
        let role = section.require("role", ROLE)?.parse(ROLE)?;
        let jobs = match section.take("jobs") {
            Some(entry) => Some(each(entry, "job names", NAME)?),
            None => None,
        };
        let selectors = match section.take("selectors") {
            Some(entry) => Some(each(entry, "selectors", SELECTOR)?),
            None => None,
        };
        if clients.iter().any(|other| other.key == key) {
            return Err(twice);
        }
        if clients.iter().any(|other| other.name == name) {
            return Err(section.problem(&format!("a second client named {:?}", &*name)));
        }
        section.finish()?;
        clients.push(Client { name, key, role, jobs, selectors });
    }
    Ok(clients)
}

fn each<T>(entry: Entry<'_, '_>, what: &str, expected: &str) -> Result<Vec<T>, Problem>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    entry.list(what)?.into_iter().map(|element| element.parse(expected)).collect()
}

fn absolute(entry: Entry<'_, '_>) -> Result<PathBuf, Problem> {
    let wrong = entry.wrong(PATH);
    let path = PathBuf::from(entry.text(PATH)?);
    if path.is_absolute() { Ok(path) } else { Err(wrong) }
}

fn socket_path(entry: Entry<'_, '_>) -> Result<PathBuf, Problem> {
    // `sun_path` of sockaddr_un(7) has 108 bytes with its final zero; libzmq fails on more.
    let wrong = entry.wrong("a path of at most 107 bytes: a Unix socket's name can't be longer");
    let path = absolute(entry)?;
    if path.as_os_str().len() < 108 { Ok(path) } else { Err(wrong) }
}

impl Endpoint {
    /// As libzmq takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names an IPv4 address.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        let host = self.0.trim_start_matches("tcp://").rsplit_once(':').map(|(host, _)| host);
        host.is_some_and(|host| host.parse::<std::net::Ipv4Addr>().is_ok())
    }

    /// Whether the system chooses the port, each time another one.
    fn is_of_any_port(&self) -> bool {
        self.0.ends_with(":*") || self.0.ends_with(":0")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("tcp://").ok_or("it must start with tcp://")?;
        let (host, port) = rest.rsplit_once(':').ok_or("a port is missing: tcp://HOST:PORT")?;
        if host.is_empty() {
            return Err("a host is missing; tcp://*:PORT listens everywhere".to_owned());
        }
        // 0 or * let the system choose: of use in tests only, but harmless.
        if port != "*" && port.parse::<u16>().is_err() {
            return Err(format!("{port:?} is no port"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "trigger" => Ok(Self::Trigger),
            "admin" => Ok(Self::Admin),
            other => Err(nearest(other, &["read", "trigger", "admin"])
                .map_or_else(String::new, |near| format!("did you mean {near:?}?"))),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |name: &str| name.parse::<Name>().map_err(|bad| format!("{name:?} {bad}"));
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("group", group)) => Ok(Self::Group(name(group)?)),
            Some(("node", node)) => Ok(Self::Node(name(node)?)),
            _ => Err(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Problem> {
        Config::parse(Path::new("hub.toml"), text)
    }

    fn said(text: &str) -> String {
        parse(text).expect_err("it should be refused").to_string()
    }

    #[test]
    fn an_empty_file_is_a_hub_with_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.listen.triggers.as_str(), "tcp://*:4510");
        assert_eq!(config.listen.events.as_str(), "tcp://*:4513");
        assert_eq!(config.key_file, Path::new("/var/lib/fieldpost-hub/hub.key"));
        assert_eq!(config.retention.age, Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn each_port_has_an_address_of_its_own() {
        let said_of = |text| said(&format!("[listen]\n{text}"));
        let one = said_of("triggers = \"tcp://*:4600\"\nresults = \"tcp://*:4600\"\n");
        assert!(one.contains("listen: results is \"tcp://*:4600\", as triggers is"), "{one}");
        let default = said_of("events = \"tcp://*:4510\"\n");
        assert!(default.contains("events is \"tcp://*:4510\", as triggers is"), "{default}");
        let second = said("[second_key]\nkey_file = \"/k\"\nclients = \"tcp://*:4511\"\n");
        assert!(second.contains("second_key: clients is"), "{second}");
        let any = "[listen]\ntriggers = \"tcp://127.0.0.1:*\"\nresults = \"tcp://127.0.0.1:*\"\n";
        Config::parse(Path::new("hub.toml"), any).unwrap();
    }

    #[test]
    fn the_shipped_example_parses() {
        let text = include_str!("../../examples/hub.toml");
        let config = Config::parse(Path::new("examples/hub.toml"), text).unwrap();
        assert_eq!(config.clients.len(), 2);
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest() {
        let said = said("[hub]\nname = \"a\"\nstate_dri = \"/x\"\n");
        assert!(said.starts_with("hub.toml:3: unknown key \"state_dri\" in hub"), "{said}");
        assert!(said.contains("did you mean \"state_dir\"?"), "{said}");
    }

    #[test]
    fn a_bad_value_names_file_line_key_value_and_what_was_expected() {
        let key = "0123456789012345678901234567890123456789";
        let text = format!("\n[[client]]\nname = \"a\"\nkey = \"{key}\"\nrole = \"admn\"\n");
        let said = said(&text);
        assert!(said.starts_with("hub.toml:5: [[client]] role = \"admn\": expected"), "{said}");
        assert!(said.contains("did you mean \"admin\"?"), "{said}");
    }

    #[test]
    fn what_can_not_work_is_refused() {
        for (text, expected) in [
            ("[hub]\nstate_dir = \"relative\"", "an absolute path"),
            ("[hub]\nstate_dir = 7", "an absolute path"),
            ("[listen]\ntriggers = \"udp://*:1\"", "it must start with tcp://"),
            ("[listen]\ntriggers = \"tcp://*\"", "a port is missing"),
            ("[retention]\nage = \"1 fortnight\"", "a duration such as"),
            ("[retention]\nage = \"1s\"", "at least \"1h\""),
            ("[limits]\npending_nodes = 0", "a whole number from 1"),
            ("[[client]]\nkey = \"x\"", "[[client]] name is missing"),
            ("[[client]]\nname = \"a\"\nkey = \"x\"", "40 characters"),
            ("hub = 3", "expected a table"),
            ("[hub", "not TOML"),
        ] {
            let said = said(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
