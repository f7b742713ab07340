//! Man pages and shell completions of both programs, from the definitions that their `--help`
//! prints.
//!
//! ```text
//! cargo run -p docgen -- OUT_DIR      OUT_DIR/man1/*.1, OUT_DIR/completions/{bash,zsh,fish}/*
//! ```

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, Command};
use clap_complete::{Shell, generate_to};
use fieldpost_agent::cli::{AGENT_CLI, Cli, Command as Row, Opt};

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1) else {
        eprintln!("usage: docgen OUT_DIR");
        return ExitCode::from(64);
    };
    match write(Path::new(&out)) {
        Ok(files) => {
            println!("{files} files in {}", Path::new(&out).display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("docgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Both programs.
fn programs() -> [Command; 2] {
    [fieldpost_hub::cli::command(), agent(&AGENT_CLI)]
}

/// Writes everything and says how many files that are.
fn write(out: &Path) -> Result<usize, Box<dyn Error>> {
    let man = out.join("man1");
    fs::create_dir_all(&man)?;
    for program in programs() {
        clap_mangen::generate_to(program, &man)?;
    }
    let mut files = fs::read_dir(&man)?.count();
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let directory = out.join("completions").join(name);
        fs::create_dir_all(&directory)?;
        for mut program in programs() {
            let name = program.get_name().to_owned();
            generate_to(shell, &mut program, name, &directory)?;
            files += 1;
        }
    }
    Ok(files)
}

/// The agent's table as a [`Command`]: the agent itself is built without clap, which is as large
/// as the rest of it.
fn agent(cli: &Cli) -> Command {
    let mut program = Command::new(cli.name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(cli.about)
        .disable_help_subcommand(true)
        .after_help(after_help(cli));
    for row in cli.commands {
        program = match row.name.split_once(' ') {
            None => program.subcommand(subcommand(row.name, row)),
            Some((group, name)) => {
                let inner = subcommand(name, row);
                if program.find_subcommand(group).is_some() {
                    program.mut_subcommand(group, |outer| outer.subcommand(inner))
                } else {
                    program.subcommand(
                        Command::new(group)
                            .about(heading(cli, group))
                            .subcommand_required(true)
                            .disable_help_subcommand(true)
                            .subcommand(inner),
                    )
                }
            }
        };
    }
    // `run` is also what happens without a command: its options stand at the top too.
    if let Some(run) = cli.commands.iter().find(|row| row.name == "run") {
        program = program.args(run.options.iter().map(option));
    }
    program
}

/// What a group of commands is about: what they are about.
fn heading(cli: &Cli, group: &str) -> String {
    let of_group = |row: &&Row| row.name.split_once(' ').is_some_and(|(first, _)| first == group);
    let abouts: Vec<_> = cli.commands.iter().filter(of_group).map(|row| row.about).collect();
    abouts.join("; ")
}

fn subcommand(name: &'static str, row: &Row) -> Command {
    let mut command = Command::new(name).about(row.about).args(row.options.iter().map(option));
    // "NAME [KEY=VALUE…]": a word each; brackets: optional, an ellipsis: as many as you like.
    for word in row.arguments.split_whitespace() {
        let plain = word.trim_matches(['[', ']', '…', '.']);
        let mut arg = Arg::new(plain).value_name(plain).required(!word.starts_with('['));
        if word.contains('…') {
            arg = arg.action(ArgAction::Append).num_args(0..);
        }
        command = command.arg(arg);
    }
    command
}

fn option(opt: &Opt) -> Arg {
    let mut arg = Arg::new(opt.long).long(opt.long).help(opt.about);
    if let Some(short) = opt.short {
        arg = arg.short(short);
    }
    match opt.value {
        None => arg.action(ArgAction::SetTrue),
        Some(value) => arg.value_name(value).value_hint(match value {
            "FILE" => ValueHint::FilePath,
            "DIR" => ValueHint::DirPath,
            _ => ValueHint::Unknown,
        }),
    }
}

/// The rest of the table, as text with indented lines: roff breaks before those.
fn after_help(cli: &Cli) -> String {
    let mut text = String::new();
    let mut part = |title: &str, rows: &[(String, &str)]| {
        let gap = if text.is_empty() { "" } else { "\n" };
        writeln!(text, "{gap}{title}:").expect("a String takes everything");
        let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
        for (left, right) in rows {
            writeln!(text, "  {left:width$}  {right}").expect("a String takes everything");
        }
    };
    let owned = |rows: &[(&str, &'static str)]| -> Vec<(String, &'static str)> {
        rows.iter().map(|(left, right)| ((*left).to_owned(), *right)).collect()
    };
    part("Examples", &owned(cli.examples));
    part("Files", &owned(cli.files));
    part("Environment", &owned(cli.environment));
    let codes: Vec<_> =
        cli.exit_codes.iter().map(|(code, what)| (code.to_string(), *what)).collect();
    part("Exit codes", &codes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page's text, without roff's escapes.
    fn page(command: &Command) -> String {
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page).unwrap();
        String::from_utf8(page).unwrap().replace("\\*(Aq", "'").replace('\\', "")
    }

    /// Each command with its own page, from the top down.
    fn each(command: &Command, look: &mut impl FnMut(&Command)) {
        look(command);
        for inner in command.get_subcommands() {
            each(inner, look);
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        for program in programs() {
            program.debug_assert();
        }
    }

    #[test]
    fn every_option_that_help_names_is_in_the_page() {
        let mut seen = 0;
        for mut program in programs() {
            program.build();
            each(&program, &mut |command| {
                let page = page(command);
                let help = command.clone().render_long_help().to_string();
                let words = help.split(|c: char| c.is_whitespace() || ",[]=".contains(c));
                for long in words.filter(|word| word.len() > 2 && word.starts_with("--")) {
                    assert!(page.contains(long), "{}: {long}", command.get_name());
                    seen += 1;
                }
            });
        }
        assert!(seen > 50, "help named {seen} options");
    }

    /// What the agent prints for `--help` is its own table's; nothing of it may be lost here.
    #[test]
    fn every_word_of_the_agents_table_is_in_its_pages() {
        let mut program = agent(&AGENT_CLI);
        program.build();
        let mut pages = String::new();
        each(&program, &mut |command| pages += &page(command));
        for row in AGENT_CLI.commands {
            assert!(pages.contains(row.about), "{}", row.name);
            for opt in row.options {
                assert!(pages.contains(&format!("--{}", opt.long)), "{}", opt.long);
            }
        }
        let tables = [AGENT_CLI.examples, AGENT_CLI.files, AGENT_CLI.environment];
        for (left, right) in tables.iter().copied().flatten() {
            assert!(pages.contains(left) && pages.contains(right), "{left}: {right}");
        }
    }

    #[test]
    fn completions_know_every_command() {
        for mut program in programs() {
            program.build();
            let names: Vec<_> =
                program.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let mut script = Vec::new();
                let name = program.get_name().to_owned();
                clap_complete::generate(shell, &mut program.clone(), name, &mut script);
                let script = String::from_utf8(script).unwrap();
                for name in &names {
                    assert!(script.contains(name.as_str()), "{shell}: {name}");
                }
            }
        }
    }
}
