//! The operator's command line: what people type, and what they are told.
//!
//! The definitions here are the only ones: `--help`, man pages and completions all come from
//! [`command`]. Each subcommand lives in a module of its own and returns a [`Failure`] or nothing;
//! [`main`] maps failures to exit codes.
//!
//! Output for people goes to a terminal as tables and sentences, for programs as one JSON object
//! a line with `--json`. What a command was asked for goes to stdout, everything else to stderr.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use fieldpost_settings::units::Span;
use fieldpost_wire::{Name, RunId, limits};

/// A line for stdout. A reader that has left is a failure like any other, not a panic.
macro_rules! out {
    ($($words:tt)*) => {
        std::io::Write::write_fmt(
            &mut std::io::stdout(),
            format_args!("{}\n", format_args!($($words)*)),
        )?
    };
}

mod audit;
mod backup;
mod connect;
mod exit;
mod human;
mod key;
mod nodes;
mod output;
mod results;
mod runs;
mod schedule;
mod serve;
mod status;
mod stream;
mod table;
mod trigger;

pub use exit::{Exit, Failure};

const ABOUT: &str = "Collect from devices in the field: the hub, and the tool to operate it";

const TOP_EXAMPLES: &str = "\
Examples:
  fieldpost hub --config /etc/fieldpost/hub.toml     run the hub
  fieldpost nodes                                    who is there, who waits to be accepted
  fieldpost nodes accept KEY --node gw-017           let a device in
  fieldpost trigger vitals --all --wait              run a job everywhere, see what it prints
  fieldpost runs --follow                            watch results come in

On the hub's own host no options are needed. From elsewhere: FIELDPOST_HUB, FIELDPOST_SERVER_KEY
and FIELDPOST_KEY_FILE, or ~/.config/fieldpost/client.toml, say where the hub is and who you are.

Exit codes: 0 ok, 1 the work failed, 64 usage, 69 hub unreachable, 70 internal error,
            75 timed out, 77 not allowed, 78 configuration";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "fieldpost",
    version,
    about = ABOUT,
    after_help = TOP_EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = false,
    disable_help_subcommand = false,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub: the central worker
    ///
    /// Runs in the foreground, logs to stderr, and ends cleanly on SIGTERM. SIGHUP reads the
    /// clients in the configuration anew. The first start makes the server key and prints its
    /// public half, which the agents' configuration names.
    #[command(after_help = "Example:\n  fieldpost hub --config /etc/fieldpost/hub.toml")]
    Hub(ConfigArgs),
    /// Say whether a hub's configuration is right
    #[command(after_help = "Example:\n  fieldpost check --config /etc/fieldpost/hub.toml")]
    Check(ConfigArgs),
    /// Make keys for clients, and show public keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Run a job on nodes
    ///
    /// The job must be defined on the nodes: a trigger names it and gives it arguments, never a
    /// command line. Prints the run's id; with --wait shows progress, streams what the nodes
    /// print, and ends when every result is stored, with 0 only if all of them are ok.
    #[command(after_help = "\
Examples:
  fieldpost trigger vitals --all                          ask every node, don't wait
  fieldpost trigger read-meter bus=2 --node gw-017 --wait one node, its output as it comes
  fieldpost trigger ping --group berlin --wait --json     one result a line, for programs
  id=$(fieldpost trigger vitals --all)                    stdout holds the run's id alone")]
    Trigger(TriggerArgs),
    /// Stop a run, or keep it from starting
    #[command(after_help = "\
Examples:
  fieldpost cancel 01890a5d-ac96-774b-bcce-b302099a8057
  fieldpost cancel 01890a5d-ac96-774b-bcce-b302099a8057 --node gw-017")]
    Cancel(CancelArgs),
    /// Show runs: the latest, or one with all its nodes
    ///
    /// With --follow: one run until its end, or, without an id, every result as it is stored.
    #[command(after_help = "\
Examples:
  fieldpost runs                                            the latest runs
  fieldpost runs 01890a5d-ac96-774b-bcce-b302099a8057       one run, node by node
  fieldpost runs 01890a5d-ac96-774b-bcce-b302099a8057 --follow
  fieldpost runs --follow --job vitals                      results of a job as they come")]
    Runs(RunsArgs),
    /// Print what a run wrote to its standard output, byte for byte
    #[command(after_help = "\
Examples:
  fieldpost output 01890a5d-ac96-774b-bcce-b302099a8057 > meter.csv
  fieldpost output 01890a5d-ac96-774b-bcce-b302099a8057 --node gw-017")]
    Output(OutputArgs),
    /// Read stored results in order, from a cursor
    ///
    /// Each result has an offset; `--after N` gives those with larger ones. A named consumer's
    /// offset is kept by the hub: `--consumer NAME --commit` goes on where it last stopped.
    #[command(after_help = "\
Examples:
  fieldpost results --after 0 --json                       everything the store holds
  fieldpost results --consumer billing --commit --json     what is new since the last time
  fieldpost results --follow --job read-meter              wait for more, until Ctrl-C")]
    Results(ResultsArgs),
    /// List nodes, let them in, put them out
    ///
    /// Without a subcommand: the list. A device that nobody accepted yet stands there as
    /// pending; the name it claims is not verified, so compare its key with what
    /// `fieldpost-agent key show` prints on the device.
    #[command(args_conflicts_with_subcommands = true)]
    Nodes(NodesArgs),
    /// Keep schedules: what nodes run by themselves, with or without a link
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Say how the hub is doing
    Status(StatusArgs),
    /// Show who did what, when, and what came of it
    #[command(after_help = "\
Examples:
  fieldpost audit                     the latest entries
  fieldpost audit --limit 1000 --json")]
    Audit(AuditArgs),
    /// Copy the hub's store into a file, while the hub goes on
    ///
    /// On the hub's own host only. The file is made by the hub, with its user's rights, and must
    /// not be there yet. To go back to it: stop the hub, move `hub.sqlite`, `hub.sqlite-wal` and
    /// `hub.sqlite-shm` out of its `state_dir`, put the copy there as `hub.sqlite` for the hub's
    /// user, start it. The hub's key (`key_file`) is not in it.
    #[command(after_help = "\
Examples:
  fieldpost backup /var/lib/fieldpost-hub/backup/$(date +%F).sqlite")]
    Backup(BackupArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The hub's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/fieldpost/hub.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
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
struct KeyNewArgs {
    /// Where the secret key goes: a new file with mode 0600
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The client's name in the block
    #[arg(long, default_value = "new-client")]
    name: Name,
    /// The client's role in the block
    #[arg(long, value_enum, default_value_t = RoleName::Trigger)]
    role: RoleName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Read,
    Trigger,
    Admin,
}

/// Where the hub is and who asks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
struct Connection {
    /// The hub: tcp://HOST:4512, or the path of its local socket
    #[arg(long, env = "FIELDPOST_HUB", value_name = "ADDRESS", hide_env_values = true)]
    hub: Option<String>,
    /// Its events: tcp://HOST:4513, or a path; usually found from --hub
    #[arg(long, env = "FIELDPOST_EVENTS", value_name = "ADDRESS", hide_env_values = true)]
    events: Option<String>,
    /// The hub's public key
    #[arg(long, env = "FIELDPOST_SERVER_KEY", value_name = "KEY", hide_env_values = true)]
    server_key: Option<String>,
    /// Your secret key
    #[arg(long, env = "FIELDPOST_KEY_FILE", value_name = "FILE", hide_env_values = true)]
    key_file: Option<PathBuf>,
    /// Where these are kept [default: ~/.config/fieldpost/client.toml]
    #[arg(long, env = "FIELDPOST_CLIENT_CONFIG", value_name = "FILE", hide_env_values = true)]
    client_config: Option<PathBuf>,
    /// How long to wait for the hub to answer
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    patience: Span,
}

/// Which nodes.
#[derive(Debug, Args)]
#[group(id = "selector", required = true, multiple = false)]
struct Selector {
    /// These nodes
    #[arg(long, short = 'n', value_name = "NODE", num_args = 1..)]
    node: Vec<Name>,
    /// The nodes of these groups
    #[arg(long, short = 'g', value_name = "GROUP", num_args = 1..)]
    group: Vec<Name>,
    /// Every node
    #[arg(long, short = 'a')]
    all: bool,
}

#[derive(Debug, Args)]
struct TriggerArgs {
    /// The job, as the nodes' configuration names it
    job: Name,
    /// Its arguments
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    #[command(flatten)]
    select: Selector,
    /// How long nodes may take to start it; then it has expired (at most 24h)
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    ttl: Span,
    /// Wait until every result is stored; show progress and output
    #[arg(long, short = 'w')]
    wait: bool,
    /// Wait no longer than this, then end with 75; the run goes on
    #[arg(long, value_name = "DURATION", requires = "wait")]
    wait_timeout: Option<Span>,
    /// Don't print what the nodes print
    #[arg(long, requires = "wait")]
    no_output: bool,
    /// The run's id: a UUIDv7 of your own, so that a repeated trigger is still one run
    #[arg(long, value_name = "UUID")]
    run_id: Option<RunId>,
    /// Who asks, for the audit trail and the devices' logs
    #[arg(long, value_name = "TEXT", value_parser = origin)]
    origin: Option<String>,
    /// JSON, one object a line: the submission, or with --wait each result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct CancelArgs {
    /// The run
    #[arg(value_name = "RUN_ID")]
    run: RunId,
    /// Only on these nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    node: Vec<Name>,
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct RunsArgs {
    /// One run
    #[arg(value_name = "RUN_ID")]
    run: Option<RunId>,
    /// Go on until the run ends; without an id, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only this job
    #[arg(long, value_name = "JOB", conflicts_with = "run")]
    job: Option<Name>,
    /// Only this node
    #[arg(long, short = 'n', value_name = "NODE")]
    node: Option<Name>,
    /// How many of the latest runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// The run
    #[arg(value_name = "RUN_ID")]
    run: RunId,
    /// The node; needed when the run was on several
    #[arg(long, short = 'n', value_name = "NODE")]
    node: Option<Name>,
    /// Which attempt [default: the last]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct ResultsArgs {
    /// Only results with a larger offset [default: the consumer's, or 0; with --follow: now]
    #[arg(long, value_name = "OFFSET")]
    after: Option<u64>,
    /// A consumer whose offset the hub keeps
    #[arg(long, value_name = "NAME")]
    consumer: Option<Name>,
    /// Store the offset of what was printed
    #[arg(long, requires = "consumer")]
    commit: bool,
    /// Wait for more, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only these jobs
    #[arg(long, value_name = "JOB")]
    job: Vec<Name>,
    /// Only these nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    node: Vec<Name>,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    list: NodesListArgs,
}

#[derive(Debug, Args)]
struct NodesListArgs {
    /// Only those that wait to be accepted
    #[arg(long)]
    pending: bool,
    /// Only nodes of this group
    #[arg(long, short = 'g', value_name = "GROUP")]
    group: Option<Name>,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
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
enum ScheduleCommand {
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

/// Which nodes, or everything that is there.
#[derive(Debug, Args)]
#[group(id = "optional_selector", required = false, multiple = false)]
struct OptionalSelector {
    /// These nodes
    #[arg(long, short = 'n', value_name = "NODE")]
    node: Vec<Name>,
    /// These groups
    #[arg(long, short = 'g', value_name = "GROUP")]
    group: Vec<Name>,
    /// What is set for all nodes
    #[arg(long, short = 'a')]
    all: bool,
}

#[derive(Debug, Args)]
struct ScheduleSetArgs {
    #[command(flatten)]
    select: Selector,
    /// The entries, in TOML or JSON; - reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "id", conflicts_with = "id")]
    file: Option<PathBuf>,
    /// One entry: its id
    #[arg(long, value_name = "ID", requires = "job", requires = "when")]
    id: Option<Name>,
    /// The job it runs
    #[arg(long, value_name = "JOB", requires = "id")]
    job: Option<Name>,
    /// When: five cron fields, in the node's time zone
    #[arg(long, value_name = "EXPRESSION", group = "when", requires = "id")]
    cron: Option<String>,
    /// When: every so often
    #[arg(long, value_name = "DURATION", group = "when", requires = "id")]
    every: Option<Span>,
    /// An argument of the job
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, requires = "id")]
    arg: Vec<(String, String)>,
    /// Spread the nodes over this long
    #[arg(long, value_name = "DURATION", requires = "id")]
    splay: Option<Span>,
    /// Due times that passed unattended: skip, once, or all:N
    #[arg(long, value_name = "RULE", requires = "id")]
    catch_up: Option<String>,
    /// When the job is still busy: skip or queue
    #[arg(long, value_name = "RULE", requires = "id")]
    overlap: Option<String>,
    /// Stop a run after this long, instead of the job's own timeout
    #[arg(long, value_name = "DURATION", requires = "id")]
    timeout: Option<Span>,
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct AuditArgs {
    /// How many of the latest entries
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The definitions, for `--help`, man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the arguments ask for and gives the program's exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed =
        command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            // A reader that left (`fieldpost output … | head`) is no news to anybody.
            if !failure.is_silent() {
                eprintln!("fieldpost: {failure}");
            }
            failure.exit().into()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Hub(args) => serve::hub(&args.config),
        Command::Check(args) => serve::check(&args.config),
        Command::Key(KeyCommand::New(args)) => key::new(&args),
        Command::Key(KeyCommand::Show { file }) => key::show(&file),
        Command::Trigger(args) => trigger::trigger(args),
        Command::Cancel(args) => runs::cancel(&args),
        Command::Runs(args) => runs::runs(&args),
        Command::Output(args) => output::output(&args),
        Command::Results(args) => results::results(&args),
        Command::Nodes(NodesArgs { command: None, list }) => nodes::list(&list),
        Command::Nodes(NodesArgs { command: Some(command), .. }) => nodes::run(command),
        Command::Schedule(command) => schedule::run(command),
        Command::Status(args) => status::status(&args),
        Command::Audit(args) => audit::audit(&args),
        Command::Backup(args) => backup::backup(&args),
    }
}

/// What clap says of the arguments: help and version are no failure, the rest is usage.
fn usage(error: &clap::Error) -> ExitCode {
    let to_stdout = !error.use_stderr();
    if error.print().is_err() || std::io::stdout().flush().is_err() {
        return Exit::Internal.into();
    }
    if to_stdout { Exit::Ok.into() } else { Exit::Usage.into() }
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
const MOST_TTL: Duration = Duration::from_millis(limits::DEADLINE_AHEAD_MS);

#[cfg(test)]
mod tests {
    use super::*;

    fn parses(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definitions_are_sound() {
        command().debug_assert();
    }

    #[test]
    fn what_the_contract_lists_is_understood() {
        for line in [
            "fieldpost hub --config F",
            "fieldpost check --config F",
            "fieldpost key new",
            "fieldpost trigger vitals --all",
            "fieldpost trigger read a=1 b=2 --node x --node y --ttl 60s --wait --json",
            "fieldpost trigger read --node x y",
            "fieldpost trigger read --group g",
            "fieldpost cancel 01890a5d-ac96-774b-bcce-b302099a8057",
            "fieldpost runs",
            "fieldpost runs 01890a5d-ac96-774b-bcce-b302099a8057 --follow --json",
            "fieldpost output 01890a5d-ac96-774b-bcce-b302099a8057 --node n",
            "fieldpost nodes",
            "fieldpost nodes --json",
            "fieldpost nodes list",
            "fieldpost nodes show gw-1",
            "fieldpost nodes accept KEY --node gw-1 --group a b",
            "fieldpost nodes accept -KEY --node gw-1",
            "fieldpost nodes import F",
            "fieldpost nodes rekey gw-1 KEY",
            "fieldpost nodes revoke gw-1",
            "fieldpost nodes revoke --key KEY",
            "fieldpost schedule set --all --file F",
            "fieldpost schedule set --all --id a --job b --every 5m --arg a=1",
            "fieldpost schedule show",
            "fieldpost schedule show --group a",
            "fieldpost schedule clear --node a",
            "fieldpost results --after 7 --follow",
            "fieldpost status",
            "fieldpost audit --json",
        ] {
            if let Err(error) = parses(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "fieldpost",
            "fieldpost trigger",
            "fieldpost trigger vitals",
            "fieldpost trigger vitals --all --node a",
            "fieldpost trigger Vitals --all",
            "fieldpost trigger vitals --all --ttl soon",
            "fieldpost trigger vitals novalue --all",
            "fieldpost trigger vitals --all --no-output",
            "fieldpost cancel 7",
            "fieldpost nodes accept KEY",
            "fieldpost nodes revoke",
            "fieldpost schedule set --all",
            "fieldpost schedule set --all --id a --job b",
            "fieldpost schedule set --all --id a --job b --every 5m --cron x",
            "fieldpost frobnicate",
        ] {
            assert!(parses(line).is_err(), "{line}");
        }
    }
}
