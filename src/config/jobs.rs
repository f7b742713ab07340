//! The `[[job]]` tables.

use std::path::PathBuf;

use fieldpost_settings::units::{SIZE, Size};
use fieldpost_settings::{Entry, Problem, Section};
use fieldpost_wire::{Name, Overlap};

use super::{NAME, PATH, absolute, span, word};
use crate::job::{ArgSpec, Job, Kind, OnRestart, Pattern, Program, Template};
use crate::limits;

const COMMAND: &str = "an array of texts: the program's absolute path, then its arguments";
const PATTERN: &str = "a regular expression";
/// With less no program starts.
const LEAST_MEMORY: u64 = 1 << 20;

#[derive(Clone, Copy)]
enum Builtin {
    System,
    File,
    Ping,
}

/// Reads all jobs.
pub(super) fn jobs(sections: Vec<Section<'_, '_>>) -> Result<Vec<Job>, Problem> {
    let mut jobs = Vec::<Job>::with_capacity(sections.len());
    for mut section in sections {
        if jobs.len() == limits::JOBS {
            return Err(section.problem(&format!("more than {} jobs", limits::JOBS)));
        }
        let name: Name = section.require("name", NAME)?.parse(NAME)?;
        if jobs.iter().any(|job| job.name == name) {
            return Err(section.problem(&format!("a second job named \"{name}\"")));
        }
        jobs.push(job(name, section)?);
    }
    Ok(jobs)
}

fn job(name: Name, mut section: Section<'_, '_>) -> Result<Job, Problem> {
    let args = match section.take("args") {
        Some(entry) => args(entry)?,
        None => Vec::new(),
    };
    let command = section.take("command");
    let builtin = section.take("builtin");
    let kind = match (command, builtin) {
        (Some(command), None) => Kind::Command(program(&mut section, command, &args)?),
        (None, Some(builtin)) => built_in(&mut section, builtin)?,
        (Some(_), Some(builtin)) => {
            return Err(builtin.wrong("either command or builtin, not both"));
        }
        (None, None) => {
            return Err(section.problem(
                "expected command = [\"/path/to/program\", …] or builtin = \"system\", \"file\" or \"ping\"",
            ));
        }
    };
    let timeout = span(&mut section, "timeout", 60, "1s", "7d")?;
    let max_output = match section.take("max_output") {
        Some(entry) => {
            let wrong = entry.wrong("a size of at most \"1 GiB\"");
            let Size(size) = entry.parse(SIZE)?;
            if size > 1 << 30 {
                return Err(wrong);
            }
            size
        }
        None => 1 << 20,
    };
    let concurrency = match section.take("concurrency") {
        Some(entry) => {
            // Two readings of one file at once would give its lines twice.
            let most = if matches!(kind, Kind::File { .. }) { 1 } else { limits::RUNNING as u64 };
            usize::try_from(entry.number(1..=most)?).unwrap_or(limits::RUNNING)
        }
        None => 1,
    };
    let overlap = match section.take("overlap") {
        Some(entry) => word(entry, &[("skip", Overlap::Skip), ("queue", Overlap::Queue)])?,
        None => Overlap::Queue,
    };
    let on_restart = match section.take("on_restart") {
        Some(entry) => word(entry, &[("lost", OnRestart::Lost), ("rerun", OnRestart::Rerun)])?,
        None => OnRestart::default(),
    };
    let durable = match section.take("durable") {
        Some(entry) => entry.flag()?,
        None => false,
    };
    section.finish()?;
    Ok(Job { name, kind, args, timeout, max_output, concurrency, overlap, on_restart, durable })
}

fn program(
    section: &mut Section<'_, '_>,
    command: Entry<'_, '_>,
    args: &[ArgSpec],
) -> Result<Program, Problem> {
    let empty = command.wrong(COMMAND);
    let mut argv = Vec::new();
    for (index, element) in command.list("texts")?.into_iter().enumerate() {
        let mut wrong = element.wrong(COMMAND);
        let text = element.text(COMMAND)?;
        if text.contains('\0') {
            return Err(wrong);
        }
        let template = Template::parse(&text, args).map_err(|bad| {
            let known: Vec<_> = args.iter().map(|arg| &*arg.name).collect();
            wrong.hint = Some(match known.as_slice() {
                [] => format!("it {bad}; add args.NAME = {{ pattern = \"…\" }}"),
                known => format!("it {bad}; args defines {}", known.join(", ")),
            });
            wrong.clone()
        })?;
        if index == 0 && !template.fixed().is_some_and(|path| path.starts_with('/')) {
            wrong.hint = Some(
                "the program is an absolute path without arguments in it; no shell looks it up"
                    .to_owned(),
            );
            return Err(wrong);
        }
        argv.push(template);
    }
    if argv.is_empty() {
        return Err(empty);
    }
    let env = match section.take("env") {
        Some(entry) => environment(entry)?,
        None => Vec::new(),
    };
    let cwd: Option<PathBuf> = section.take("cwd").map(absolute).transpose()?;
    let memory = match section.take("memory") {
        Some(entry) => {
            let wrong = entry.wrong("a size of at least \"1 MiB\"");
            let Size(size) = entry.parse(SIZE)?;
            if size < LEAST_MEMORY {
                return Err(wrong);
            }
            Some(size)
        }
        None => None,
    };
    Ok(Program { argv, env, cwd, memory })
}

fn environment(entry: Entry<'_, '_>) -> Result<Vec<(String, String)>, Problem> {
    entry
        .section()?
        .entries()
        .into_iter()
        .map(|(name, entry)| {
            let wrong = entry.wrong("a text, for a variable's name of A-Z, a-z, 0-9 and '_' that does not start with FIELDPOST_");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) || name.starts_with("FIELDPOST_") {
                return Err(wrong);
            }
            let value = entry.text("a text")?;
            if value.contains('\0') { Err(wrong) } else { Ok((name, value)) }
        })
        .collect()
}

fn built_in(section: &mut Section<'_, '_>, builtin: Entry<'_, '_>) -> Result<Kind, Problem> {
    let words = [("system", Builtin::System), ("file", Builtin::File), ("ping", Builtin::Ping)];
    match word(builtin, &words)? {
        Builtin::System => Ok(Kind::System),
        Builtin::Ping => Ok(Kind::Ping),
        Builtin::File => Ok(Kind::File { path: absolute(section.require("path", PATH)?)? }),
    }
}

fn args(entry: Entry<'_, '_>) -> Result<Vec<ArgSpec>, Problem> {
    let many = entry.wrong(&format!("at most {} arguments", limits::ARGS));
    let mut args = Vec::new();
    for (name, entry) in entry.section()?.entries() {
        let wrong = entry.wrong("a table such as { pattern = \"[0-9]+\", default = \"0\" }");
        let name = name.parse().map_err(|bad| {
            let mut problem = wrong.clone();
            problem.message = format!("the argument's name {name:?} {bad}");
            problem
        })?;
        let Ok(mut section) = entry.section() else { return Err(wrong) };
        let pattern = section.require("pattern", PATTERN)?;
        let mut bad_pattern = pattern.wrong(PATTERN);
        let pattern = Pattern::new(&pattern.text(PATTERN)?).map_err(|error| {
            bad_pattern.hint = Some(error.to_string());
            bad_pattern
        })?;
        let default = section.take("default");
        section.finish()?;
        let mut spec = ArgSpec { name, pattern, default: None };
        if let Some(entry) = default {
            let mut unfit = entry.wrong("a text that the pattern allows");
            let value = entry.text("a text")?;
            if let Err(wrong) = spec.check(&value) {
                unfit.hint = Some(format!("it {wrong}"));
                return Err(unfit);
            }
            spec.default = Some(value);
        }
        if args.len() == limits::ARGS {
            return Err(many);
        }
        args.push(spec);
    }
    Ok(args)
}
