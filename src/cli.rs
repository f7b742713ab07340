//! The command line of `fieldpost-agent`.
//!
//! [`AGENT_CLI`] describes it once: `--help` prints it, and so do the man page and the shell
//! completions.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::Arg;

use crate::config;

mod job;
mod key;
mod spool;

pub use key::{Over, read as device_key};

/// A program's command line, for people who ask it and for what is generated from it.
#[derive(Debug)]
pub struct Cli {
    /// The program.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Its commands.
    pub commands: &'static [Command],
    /// Options without a command.
    pub options: &'static [Opt],
    /// Each with what it shows.
    pub examples: &'static [(&'static str, &'static str)],
    /// Each with what it means.
    pub exit_codes: &'static [(u8, &'static str)],
    /// Each with what it holds.
    pub files: &'static [(&'static str, &'static str)],
    /// Each with what it does.
    pub environment: &'static [(&'static str, &'static str)],
}

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its words: `"key new"`.
    pub name: &'static str,
    /// What stands after it, as in `"NAME [KEY=VALUE…]"`; empty: nothing.
    pub arguments: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [Opt],
}

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// Without its dashes.
    pub long: &'static str,
    /// Its short form.
    pub short: Option<char>,
    /// What its value is called; `None`: it has none.
    pub value: Option<&'static str>,
    /// What it does, in a line.
    pub about: &'static str,
}

const CONFIG: Opt = Opt {
    long: "config",
    short: Some('c'),
    value: Some("FILE"),
    about: "The configuration (default: /etc/fieldpost/agent.toml)",
};
const HELP: Opt = Opt { long: "help", short: Some('h'), value: None, about: "Say what there is" };
const VERSION: Opt =
    Opt { long: "version", short: Some('V'), value: None, about: "Say which version this is" };
const FORCE: Opt =
    Opt { long: "force", short: None, value: None, about: "Replace the key that is there" };
const IF_MISSING: Opt = Opt {
    long: "if-missing",
    short: None,
    value: None,
    about: "Leave a key that is there, or that systemd hands over, as it is",
};
const JSON: Opt =
    Opt { long: "json", short: None, value: None, about: "One JSON object, for programs" };

/// The command line of `fieldpost-agent`.
pub const AGENT_CLI: Cli = Cli {
    name: "fieldpost-agent",
    about: "Runs collection jobs on this device when Airflow says so, and sends the results home.",
    commands: &[
        Command {
            name: "run",
            arguments: "",
            about: "Connect to the hub and do what it asks for. This is also what happens without a command",
            options: &[CONFIG],
        },
        Command {
            name: "check",
            arguments: "",
            about: "Say whether the configuration is right, without connecting to anything",
            options: &[CONFIG],
        },
        Command {
            name: "key new",
            arguments: "",
            about: "Make this device's key, and say how the hub comes to accept it",
            options: &[CONFIG, FORCE, IF_MISSING],
        },
        Command {
            name: "key show",
            arguments: "",
            about: "Show the public half of this device's key",
            options: &[CONFIG],
        },
        Command {
            name: "spool check",
            arguments: "",
            about: "Say what the spool's files hold, and what in them is damaged",
            options: &[CONFIG, JSON],
        },
        Command {
            name: "spool dump",
            arguments: "",
            about: "Show every record of the spool, a line each",
            options: &[CONFIG, JSON],
        },
        Command {
            name: "spool export",
            arguments: "DIRECTORY",
            about: "Write what the spool holds of each run into a directory: its output, and how it ended",
            options: &[CONFIG],
        },
        Command {
            name: "job",
            arguments: "NAME [KEY=VALUE…]",
            about: "Run one job here and now, without a hub, and print its result",
            options: &[CONFIG, JSON],
        },
    ],
    options: &[HELP, VERSION],
    examples: &[
        ("fieldpost-agent key new", "make the key; then accept it at the hub"),
        ("fieldpost-agent check", "before starting: is everything in its place?"),
        ("fieldpost-agent job read-meter bus=2", "try a job by hand"),
        ("fieldpost-agent spool check", "what waits on disk for the hub, and is it whole?"),
        ("fieldpost-agent spool export /mnt/stick", "carry results home by hand"),
        ("fieldpost-agent run --config ./agent.toml", "start with another configuration"),
    ],
    exit_codes: &[
        (0, "done"),
        (1, "the job was run and failed, or the spool is damaged"),
        (64, "the command line makes no sense"),
        (69, "another agent uses its directories"),
        (70, "a bug, or a machine in trouble"),
        (75, "the job took longer than it may"),
        (78, "the configuration is wrong"),
    ],
    files: &[
        ("/etc/fieldpost/agent.toml", "the configuration"),
        ("/var/lib/fieldpost/agent.key", "the secret key, mode 0600"),
        ("/var/lib/fieldpost/", "the schedule, and where `file` jobs go on"),
        (
            "/var/lib/fieldpost/spool/",
            "results that wait for the hub, if the configuration says so",
        ),
        ("/run/fieldpost-agent/", "what a restart of the agent must not forget"),
    ],
    environment: &[
        (
            "RUST_LOG",
            "how much is logged to stderr: error, warn, info (the default), debug or trace",
        ),
        ("JOURNAL_STREAM", "set by systemd: lines then begin with their priority"),
        ("NOTIFY_SOCKET, WATCHDOG_USEC", "set by systemd: it is told how the agent is doing"),
    ],
};

/// How the program ends; each of these has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// The job was run and failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Another agent uses its directories; later they may be free.
    Unavailable,
    /// A bug, or a machine in trouble.
    Internal,
    /// The job took longer than it may.
    TimedOut,
    /// The configuration is wrong.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::TimedOut => 75,
            Exit::Configuration => 78,
        })
    }
}

/// Why the program ends without success.
#[derive(Debug)]
pub struct Failure {
    /// With which code.
    pub exit: Exit,
    /// What to say; empty: all was said.
    pub message: String,
}

impl Failure {
    /// A failure with something to say.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    fn usage(message: impl fmt::Display) -> Self {
        Self::new(
            Exit::Usage,
            format!("{message}\n  hint: `fieldpost-agent --help` says what there is"),
        )
    }
}

impl From<config::Problem> for Failure {
    fn from(problem: config::Problem) -> Self {
        Self::new(Exit::Configuration, problem)
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// `run`.
    Run(PathBuf),
    /// `check`.
    Check(PathBuf),
    /// `key new`.
    KeyNew {
        /// The configuration.
        config: PathBuf,
        /// What becomes of a key that is there.
        over: Over,
    },
    /// `key show`.
    KeyShow(PathBuf),
    /// `job`.
    Job {
        /// The configuration.
        config: PathBuf,
        /// The job's name.
        name: String,
        /// Its arguments.
        args: Vec<(String, String)>,
        /// Whether the result is for programs.
        json: bool,
    },
    /// `spool check`.
    SpoolCheck {
        /// The configuration.
        config: PathBuf,
        /// Whether the result is for programs.
        json: bool,
    },
    /// `spool dump`.
    SpoolDump {
        /// The configuration.
        config: PathBuf,
        /// Whether the result is for programs.
        json: bool,
    },
    /// `spool export`.
    SpoolExport {
        /// The configuration.
        config: PathBuf,
        /// Where to.
        directory: PathBuf,
    },
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

impl Asked {
    /// Reads a command line, without the program's own name.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Failure> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut config = PathBuf::from(config::FILE);
        let (mut force, mut if_missing, mut json) = (false, false, false);
        let mut words = Vec::new();
        while let Some(argument) = parser.next().map_err(Failure::usage)? {
            match argument {
                Arg::Short('h') | Arg::Long("help") => return Ok(Self::Help),
                Arg::Short('V') | Arg::Long("version") => return Ok(Self::Version),
                Arg::Short('c') | Arg::Long("config") => {
                    config = parser.value().map_err(Failure::usage)?.into();
                }
                Arg::Long("force") => force = true,
                Arg::Long("if-missing") => if_missing = true,
                Arg::Long("json") => json = true,
                Arg::Value(word) => {
                    words.push(word.into_string().map_err(|word| {
                        Failure::usage(format!("{} is not UTF-8", word.display()))
                    })?)
                }
                other => return Err(Failure::usage(other.unexpected())),
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let only = |allowed: &[(&str, bool)]| match [
            ("force", force),
            ("if-missing", if_missing),
            ("json", json),
        ]
        .into_iter()
        .find(|o| o.1 && !allowed.contains(o))
        {
            Some((option, _)) => {
                Err(Failure::usage(format!("--{option} does not go with this command")))
            }
            None => Ok(()),
        };
        match words.as_slice() {
            [] | ["run"] => only(&[]).map(|()| Self::Run(config)),
            ["check"] => only(&[]).map(|()| Self::Check(config)),
            ["key", "new"] => only(&[("force", true), ("if-missing", true)]).and_then(|()| {
                let over = match (force, if_missing) {
                    (true, true) => {
                        return Err(Failure::usage("--force or --if-missing, not both"));
                    }
                    (true, false) => Over::Replace,
                    (false, true) => Over::Keep,
                    (false, false) => Over::Refuse,
                };
                Ok(Self::KeyNew { config, over })
            }),
            ["key", "show"] => only(&[]).map(|()| Self::KeyShow(config)),
            ["key", ..] => Err(Failure::usage("expected `key new` or `key show`")),
            ["spool", "check"] => {
                only(&[("json", true)]).map(|()| Self::SpoolCheck { config, json })
            }
            ["spool", "dump"] => only(&[("json", true)]).map(|()| Self::SpoolDump { config, json }),
            ["spool", "export", directory] => {
                let directory = PathBuf::from(directory);
                only(&[]).map(|()| Self::SpoolExport { config, directory })
            }
            ["spool", ..] => Err(Failure::usage(
                "expected `spool check`, `spool dump` or `spool export DIRECTORY`",
            )),
            ["job"] => Err(Failure::usage("expected a job's name: `job NAME [KEY=VALUE…]`")),
            ["job", name, args @ ..] => {
                only(&[("json", true)])?;
                let args = args.iter().map(|&arg| match arg.split_once('=') {
                    Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                    None => Err(Failure::usage(format!("{arg:?}: expected KEY=VALUE"))),
                });
                let args = args.collect::<Result<_, _>>()?;
                Ok(Self::Job { config, name: (*name).to_owned(), args, json })
            }
            [word, ..] => Err(Failure::usage(unknown(word))),
        }
    }

    /// Does it; `run` is left to the caller.
    ///
    /// # Errors
    /// What went wrong.
    pub fn perform(self, run: impl FnOnce(PathBuf) -> Result<(), Failure>) -> Result<(), Failure> {
        match self {
            Self::Run(config) => run(config),
            Self::Check(config) => check(&config),
            Self::KeyNew { config, over } => key::new(&config, over),
            Self::KeyShow(config) => key::show(&config),
            Self::Job { config, name, args, json } => job::run(&config, &name, &args, json),
            Self::SpoolCheck { config, json } => spool::check(&config, json),
            Self::SpoolDump { config, json } => spool::dump(&config, json),
            Self::SpoolExport { config, directory } => spool::export(&config, &directory),
            Self::Help => say(&AGENT_CLI.to_string()),
            Self::Version => say(&format!("fieldpost-agent {}\n", env!("CARGO_PKG_VERSION"))),
        }
    }
}

impl fmt::Display for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\nUsage:", self.about)?;
        for Command { name, arguments, options, .. } in self.commands {
            let mut line = format!("{} {name}", self.name);
            for part in [*arguments].into_iter().filter(|part| !part.is_empty()) {
                write!(line, " {part}")?;
            }
            for option in *options {
                let value = option.value.map_or_else(String::new, |value| format!(" {value}"));
                write!(line, " [--{}{value}]", option.long)?;
            }
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "\nCommands:")?;
        for Command { name, about, .. } in self.commands {
            writeln!(f, "  {name:<10} {about}")?;
        }
        writeln!(f, "\nOptions:")?;
        let mut options = Vec::<&Opt>::new();
        for option in self.commands.iter().flat_map(|c| c.options).chain(self.options) {
            if !options.iter().any(|known| known.long == option.long) {
                options.push(option);
            }
        }
        for Opt { long, short, value, about } in options {
            let short = short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
            let value = value.map_or_else(String::new, |value| format!(" {value}"));
            writeln!(f, "  {:<20} {about}", format!("{short}--{long}{value}"))?;
        }
        for (title, list) in
            [("Examples", self.examples), ("Files", self.files), ("Environment", self.environment)]
        {
            writeln!(f, "\n{title}:")?;
            let width = list.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
            for (what, about) in list {
                writeln!(f, "  {what:<width$}  {about}")?;
            }
        }
        writeln!(f, "\nExit codes:")?;
        self.exit_codes.iter().try_for_each(|(code, about)| writeln!(f, "  {code:>2}  {about}"))
    }
}

fn unknown(word: &str) -> String {
    let known: Vec<&str> =
        AGENT_CLI.commands.iter().filter_map(|command| command.name.split(' ').next()).collect();
    match fieldpost_settings::nearest(word, &known) {
        Some(near) => format!("{word:?} is no command; did you mean {near:?}?"),
        None => format!("{word:?} is no command"),
    }
}

/// Prints to stdout. A reader that has gone away is no failure.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Internal, format!("can't write: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn check(path: &std::path::Path) -> Result<(), Failure> {
    let config = config::Config::load(path)?;
    let key = key::read(&config)?;
    for job in &config.agent.jobs {
        if let crate::job::Kind::Command(program) = &job.kind
            && let Some(file) = program.argv.first().and_then(|template| template.fixed())
            && !std::path::Path::new(file).is_file()
        {
            eprintln!("warning: job {}: there is no {file} on this machine", job.name);
        }
    }
    match &config.spool {
        Some(spool) => check_spool(&spool.path),
        None => eprintln!(
            "note: no [outbox] spool: what the hub has not confirmed is lost with the agent"
        ),
    }
    say(&format!(
        "{}: good: node {}, {} jobs, {} hubs, key {}\n",
        path.display(),
        config.agent.node,
        config.agent.jobs.len(),
        config.hubs.len(),
        key.public
    ))
}

/// Says what would keep the agent from using the spool's directory.
fn check_spool(path: &std::path::Path) {
    let there = path.ancestors().find(|ancestor| ancestor.exists());
    let wrong = match there {
        Some(there) if !there.is_dir() => format!("{} is no directory", there.display()),
        Some(there) => match nix::unistd::access(there, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => return,
            Err(errno) => format!("{}: {}", there.display(), errno.desc()),
        },
        None => format!("{}: no such directory", path.display()),
    };
    eprintln!("warning: [outbox] spool: {wrong}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, String> {
        Asked::parse(line.split_whitespace().map(OsString::from)).map_err(|f| f.message)
    }

    #[test]
    fn commands_are_read() {
        let file = || PathBuf::from("x.toml");
        assert_eq!(asked("").unwrap(), Asked::Run(config::FILE.into()));
        assert_eq!(asked("--config x.toml").unwrap(), Asked::Run(file()));
        assert_eq!(asked("run -c x.toml").unwrap(), Asked::Run(file()));
        assert_eq!(
            asked("key new --config=x.toml").unwrap(),
            Asked::KeyNew { config: file(), over: Over::Refuse }
        );
        assert_eq!(
            asked("key new --if-missing -c x.toml").unwrap(),
            Asked::KeyNew { config: file(), over: Over::Keep }
        );
        let job = asked("job a k=v=w --json -c x.toml").unwrap();
        let args = vec![("k".into(), "v=w".into())];
        assert_eq!(job, Asked::Job { config: file(), name: "a".into(), args, json: true });
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, expected) in [
            ("chek", "did you mean \"check\"?"),
            ("--colour", "--colour"),
            ("key", "`key new` or `key show`"),
            ("spool", "`spool dump`"),
            ("job", "a job's name"),
            ("job a b", "expected KEY=VALUE"),
            ("check --force", "--force does not go with"),
            ("key new --force --if-missing", "not both"),
        ] {
            assert!(asked(line).unwrap_err().contains(expected), "{line}");
        }
    }

    #[test]
    fn help_names_every_command_and_option() {
        let help = AGENT_CLI.to_string();
        for command in AGENT_CLI.commands {
            assert!(help.contains(command.name) && help.contains(command.about));
        }
        assert!(help.contains("  -c, --config FILE"), "{help}");
    }
}
