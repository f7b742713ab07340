//! What can be typed, as clap reads it; `--help`, man pages and completions come from here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fieldpost_settings::units::Span;
use fieldpost_wire::{Name, RunId, limits};

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The hub's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/fieldpost/hub.toml")]
    pub config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key pair for a client and print the block to paste into hub.toml
    #[command(after_help = "\
Examples:
  fieldpost key new --out ~/.config/fieldpost/client.key --name alice --role admin
  fieldpost key new                        prints the secret key too, keeps nothing")]
    New(KeyNewArgs),
    /// Print the public key of a key file
    #[command(after_help = "Example:\n  fieldpost key show /var/lib/fieldpost-hub/hub.key")]
    Show {
        /// The file with the secret key
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct KeyNewArgs {
    /// Where the secret key goes: a new file with mode 0600
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The client's name in the block
    #[arg(long, default_value = "new-client")]
    pub name: Name,
    /// The client's role in the block
    #[arg(long, value_enum, default_value_t = RoleName::Trigger)]
    pub role: RoleName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleName {
    Read,
    Trigger,
    Admin,
}

/// Where the hub is and who asks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The hub: tcp://HOST:4512, or the path of its local socket
    #[arg(long, env = "FIELDPOST_HUB", value_name = "ADDRESS", hide_env_values = true)]
    pub hub: Option<String>,
    /// Its events: tcp://HOST:4513, or a path; usually found from --hub
    #[arg(long, env = "FIELDPOST_EVENTS", value_name = "ADDRESS", hide_env_values = true)]
    pub events: Option<String>,
    /// The hub's public key
    #[arg(long, env = "FIELDPOST_SERVER_KEY", value_name = "KEY", hide_env_values = true)]
    pub server_key: Option<String>,
    /// Your secret key
    #[arg(long, env = "FIELDPOST_KEY_FILE", value_name = "FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// Where these are kept [default: ~/.config/fieldpost/client.toml]
    #[arg(long, env = "FIELDPOST_CLIENT_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub client_config: Option<PathBuf>,
    /// How long to wait for the hub to answer
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub patience: Span,
}

/// Which nodes.
#[derive(Debug, Args)]
#[group(id = "selector", required = true, multiple = false)]
pub struct Selector {
    /// These nodes
    #[arg(long, short = 'n', value_name = "NODE", num_args = 1..)]
    pub node: Vec<Name>,
    /// The nodes of these groups
    #[arg(long, short = 'g', value_name = "GROUP", num_args = 1..)]
    pub group: Vec<Name>,
    /// Every node
    #[arg(long, short = 'a')]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct TriggerArgs {
    /// The job, as the nodes' configuration names it
    pub job: Name,
    /// Its arguments
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    pub args: Vec<(String, String)>,
    #[command(flatten)]
    pub select: Selector,
    /// How long nodes may take to start it; then it has expired (at most 24h)
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub ttl: Span,
    /// Wait until every result is stored; show progress and output
    #[arg(long, short = 'w')]
    pub wait: bool,
    /// Wait no longer than this, then end with 75; the run goes on
    #[arg(long, value_name = "DURATION", requires = "wait")]
    pub wait_timeout: Option<Span>,
    /// Don't print what the nodes print
    #[arg(long, requires = "wait")]
    pub no_output: bool,
    /// The run's id: a UUIDv7 of your own, so that a repeated trigger is still one run
    #[arg(long, value_name = "UUID")]
    pub run_id: Option<RunId>,
    /// Who asks, for the audit trail and the devices' logs
    #[arg(long, value_name = "TEXT", value_parser = origin)]
    pub origin: Option<String>,
    /// JSON, one object a line: the submission, or with --wait each result
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The run
    #[arg(value_name = "RUN_ID")]
    pub run: RunId,
    /// Only on these nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Vec<Name>,
    /// JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct RunsArgs {
    /// One run
    #[arg(value_name = "RUN_ID")]
    pub run: Option<RunId>,
    /// Go on until the run ends; without an id, until Ctrl-C
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only this job
    #[arg(long, value_name = "JOB", conflicts_with = "run")]
    pub job: Option<Name>,
    /// Only this node
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Option<Name>,
    /// How many of the latest runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// The run
    #[arg(value_name = "RUN_ID")]
    pub run: RunId,
    /// The node; needed when the run was on several
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Option<Name>,
    /// Which attempt [default: the last]
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// Only results with a larger offset [default: the consumer's, or 0; with --follow: now]
    #[arg(long, value_name = "OFFSET")]
    pub after: Option<u64>,
    /// A consumer whose offset the hub keeps
    #[arg(long, value_name = "NAME")]
    pub consumer: Option<Name>,
    /// Store the offset of what was printed
    #[arg(long, requires = "consumer")]
    pub commit: bool,
    /// Wait for more, until Ctrl-C
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Only these jobs
    #[arg(long, value_name = "JOB")]
    pub job: Vec<Name>,
    /// Only these nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Vec<Name>,
    /// JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
    #[command(flatten)]
    pub list: NodesListArgs,
}

#[derive(Debug, Args)]
pub struct NodesListArgs {
    /// Only those that wait to be accepted
    #[arg(long)]
    pub pending: bool,
    /// Only nodes of this group
    #[arg(long, short = 'g', value_name = "GROUP")]
    pub group: Option<Name>,
    /// JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// List nodes, and the keys that wait to be accepted
    List(NodesListArgs),
    /// Show all about one node
    Show {
        /// The node
        node: Name,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Let a device in, under a name
    ///
    /// Compare the key with what `fieldpost-agent key show` prints on the device: the name that
    /// a pending device claims is not verified.
    #[command(after_help = "\
Example:
  fieldpost nodes accept 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7' --node gw-017 --group berlin pi4
Quote the key: the shell would read some of its characters.")]
    Accept {
        /// The device's public key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// The name it gets
        #[arg(long, value_name = "NODE")]
        node: Name,
        /// Its groups [default: what it proposes]
        #[arg(long, short = 'g', value_name = "GROUP", num_args = 1..)]
        group: Vec<Name>,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Let a fleet in, from a file
    ///
    /// One node a line: its name, its key and its groups, separated by blanks. Empty lines and
    /// lines that start with # are skipped. A line that is already true changes nothing, so a
    /// file can be imported again. Nothing is imported when a line is wrong.
    #[command(after_help = "\
Example:
  $ cat fleet.txt
  gw-001 rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7 berlin pi4
  gw-002 Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID
  $ fieldpost nodes import fleet.txt")]
    Import {
        /// The file; - reads standard input
        file: PathBuf,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Give a node another key; the old one stays good for a while
    #[command(after_help = "\
Example:
  fieldpost nodes rekey gw-017 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID' --overlap 7d")]
    Rekey {
        /// The node
        node: Name,
        /// Its new public key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// How long the old key stays good
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        overlap: Span,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Put a node out, at once
    ///
    /// Its connections are cut and its key is refused from now on. Its results stay.
    #[command(after_help = "\
Examples:
  fieldpost nodes revoke gw-017
  fieldpost nodes revoke --key 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID'   one key, or a pending one")]
    Revoke {
        /// The node
        #[arg(required_unless_present = "key", conflicts_with = "key")]
        node: Option<Name>,
        /// One public key instead
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Set the entries of a selector, from a file or one by one
    ///
    /// With --file the selector's entries become those of the file. With --id one entry is added
    /// or replaced and the others stay. A node gets the entries of all selectors it falls under.
    #[command(after_help = "\
Examples:
  fieldpost schedule set --all --id vitals --job vitals --every 5m --splay 30s
  fieldpost schedule set --group berlin --id night --job read-meter --cron '0 3 * * *' --arg bus=2
  fieldpost schedule set --node gw-017 --file entries.toml

A file has the same words:
  [[entry]]
  id = \"night\"
  job = \"read-meter\"
  args = { bus = \"2\" }
  cron = \"0 3 * * *\"          # five fields, in the node's time zone; or: every = \"5m\"
  splay = \"30s\"               # each node's own share of this is added
  catch_up = \"once\"           # \"skip\", \"once\" or \"all:10\"
  overlap = \"skip\"            # or \"queue\"
  timeout = \"20s\"             # instead of the job's")]
    Set(Box<ScheduleSetArgs>),
    /// Show entries: of a selector, or of all
    Show {
        #[command(flatten)]
        select: OptionalSelector,
        /// JSON, one object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show what was due and not run: the node was off, or did not know the time
    #[command(after_help = "\
Examples:
  fieldpost schedule missed
  fieldpost schedule missed --node gw-017 --limit 10 --json

An entry's catch_up says whether a node runs what it missed later; `once` and `all` do.")]
    Missed(MissedArgs),
    /// Take a selector's entries away, or one of them
    Clear {
        #[command(flatten)]
        select: Selector,
        /// Only this entry
        #[arg(long, value_name = "ID")]
        id: Option<Name>,
        /// JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct MissedArgs {
    /// Only of this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<Name>,
    /// How many of the latest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// Which nodes, or everything that is there.
#[derive(Debug, Args)]
#[group(id = "optional_selector", required = false, multiple = false)]
pub struct OptionalSelector {
    /// These nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Vec<Name>,
    /// These groups
    #[arg(long, short = 'g', value_name = "GROUP")]
    pub group: Vec<Name>,
    /// What is set for all nodes
    #[arg(long, short = 'a')]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct ScheduleSetArgs {
    #[command(flatten)]
    pub select: Selector,
    /// The entries, in TOML or JSON; - reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "id", conflicts_with = "id")]
    pub file: Option<PathBuf>,
    /// One entry: its id
    #[arg(long, value_name = "ID", requires = "job", requires = "when")]
    pub id: Option<Name>,
    /// The job it runs
    #[arg(long, value_name = "JOB", requires = "id")]
    pub job: Option<Name>,
    /// When: five cron fields, in the node's time zone
    #[arg(long, value_name = "EXPRESSION", group = "when", requires = "id")]
    pub cron: Option<String>,
    /// When: every so often
    #[arg(long, value_name = "DURATION", group = "when", requires = "id")]
    pub every: Option<Span>,
    /// An argument of the job
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, requires = "id")]
    pub arg: Vec<(String, String)>,
    /// Spread the nodes over this long
    #[arg(long, value_name = "DURATION", requires = "id")]
    pub splay: Option<Span>,
    /// Due times that passed unattended: skip, once, or all:N
    #[arg(long, value_name = "RULE", requires = "id")]
    pub catch_up: Option<String>,
    /// When the job is still busy: skip or queue
    #[arg(long, value_name = "RULE", requires = "id")]
    pub overlap: Option<String>,
    /// Stop a run after this long, instead of the job's own timeout
    #[arg(long, value_name = "DURATION", requires = "id")]
    pub timeout: Option<Span>,
    /// JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How many of the latest entries
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    name.parse::<Name>().map_err(|bad| format!("the name {name:?} {bad}"))?;
    if value.len() > limits::ARG_VALUE {
        return Err(format!("the value has {} bytes, at most {}", value.len(), limits::ARG_VALUE));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn origin(text: &str) -> Result<String, String> {
    if text.len() > limits::ORIGIN {
        return Err(format!("it has {} bytes, at most {}", text.len(), limits::ORIGIN));
    }
    Ok(text.to_owned())
}

/// The longest time ahead that a deadline may lie.
pub const MOST_TTL: Duration = Duration::from_millis(limits::DEADLINE_AHEAD_MS);
