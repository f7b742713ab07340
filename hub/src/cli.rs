//! The operator's command line: what people type, and what they are told.
//!
//! The definitions here and in `args` are the only ones: `--help`, man pages and completions all come from
//! [`command`]. Each subcommand lives in a module of its own and returns a [`Failure`] or nothing;
//! [`main`] maps failures to exit codes.
//!
//! Output for people goes to a terminal as tables and sentences, for programs as one JSON object
//! a line with `--json`. What a command was asked for goes to stdout, everything else to stderr.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// A line for stdout. A reader that has left is a failure like any other, not a panic.
macro_rules! out {
    ($($words:tt)*) => {
        std::io::Write::write_fmt(
            &mut std::io::stdout(),
            format_args!("{}\n", format_args!($($words)*)),
        )?
    };
}

mod args;
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

use args::{
    AuditArgs, BackupArgs, CancelArgs, ConfigArgs, Connection, KeyCommand, KeyNewArgs, MOST_TTL,
    MissedArgs, NodesArgs, NodesCommand, NodesListArgs, OptionalSelector, OutputArgs, ResultsArgs,
    RoleName, RunsArgs, ScheduleCommand, ScheduleSetArgs, Selector, StatusArgs, TriggerArgs,
};
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

Exit codes: 0 ok, 1 the work failed, 64 usage, 69 not available, 70 internal error,
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
