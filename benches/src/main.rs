//! How fast and how small Fieldpost is: every figure beside its floor, in one run.
//!
//! `make bench` runs it. It starts the release build's programs by itself, each with keys, ports
//! and a directory of its own, and ends them again. It prints; it never asserts a time.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;

mod child;
mod fan;
mod figures;
mod fleet;
mod footprint;
mod hops;
mod ingest;
mod latency;
mod machine;
mod ports;
mod rig;
mod spool;
mod store;

use figures::Table;
use ports::Ports;
use rig::Programs;

/// What a step of the benchmark comes to.
type Outcome<T> = Result<T, Box<dyn Error>>;

const HELP: &str = "\
Measures Fieldpost, each figure beside its floor.

usage: fieldpost-bench [--only ROW]… [--quick | --full] [--json]
                       [--agent FILE] [--hub FILE] [--skeleton FILE]
                       [--nodes N] [--dir DIR]

rows:
  latency    submit → result of a built-in no-op, live and stored; of /bin/true; on one core
  ingest     results of 2,000 nodes a second, stored and acked; the same with 5 M in the store
  fanout     one trigger to 1,000 nodes, all results stored
  rest       an agent that has nothing to do: memory, threads, wake-ups, CPU
  load       an agent under full load: does its memory stay
  size       the agent's binary
  start      exec → Welcome
  spool      append, recovery, drain and memory of a full spool; what is written while all is well

  --quick    fewer samples, and no 5 M results
  --full     ten minutes each for rest and load
  --json     one object a line
  --agent, --hub, --skeleton
             programs to measure instead of the ones beside this one (a static build, say)
  --nodes    how many nodes report in ingest (default: 2000)
  --dir      where stores are made: a real disk (default: /var/tmp)
";

/// How thorough to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Quick,
    Usual,
    Full,
}

impl Depth {
    /// One of three.
    fn pick<T>(self, quick: T, usual: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Usual => usual,
            Self::Full => full,
        }
    }
}

/// What every row needs.
struct Bench {
    table: Table,
    depth: Depth,
    programs: Programs,
    ports: Ports,
    dir: PathBuf,
    nodes: usize,
}

type Row = fn(&Bench) -> Outcome<()>;
const ROWS: [(&str, Row); 8] = [
    ("latency", latency::run),
    ("ingest", ingest::reports),
    ("fanout", ingest::fan_out),
    ("rest", footprint::at_rest),
    ("load", footprint::under_load),
    ("size", footprint::size),
    ("start", footprint::start),
    ("spool", spool::run),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = args.as_slice()
        && role == "role"
    {
        return end(play(rest));
    }
    match options() {
        Ok(Some((bench, only))) => end(measure(&bench, &only)),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fieldpost-bench: {error}; --help says what there is");
            ExitCode::from(64)
        }
    }
}

fn end(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fieldpost-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the processes that this one starts do.
fn play(args: &[String]) -> Outcome<()> {
    let [role, args @ ..] = args else { return Err("no role".into()) };
    match role.as_str() {
        "hops-hub" => hops::hub(args),
        "hops-agent" => hops::agent(args),
        "fan-hub" => fan::hub(args),
        "pull" => hops::pull(args),
        "awake" => machine::keep_core_awake(),
        other => Err(format!("no such role: {other}").into()),
    }
}

fn options() -> Result<Option<(Bench, Vec<String>)>, lexopt::Error> {
    let mut only = Vec::new();
    let (mut json, mut depth) = (false, Depth::Usual);
    let beside = std::env::current_exe().unwrap_or_default();
    let mut programs = Programs {
        agent: beside.with_file_name("fieldpost-agent"),
        hub: beside.with_file_name("fieldpost"),
        skeleton: beside.with_file_name("fieldpost-skeleton"),
    };
    let mut dir = PathBuf::from("/var/tmp");
    let mut nodes = 2_000;
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("only") => {
                let row = parser.value()?.string()?;
                if !ROWS.iter().any(|(name, _)| *name == row) {
                    return Err(format!("no such row: {row}").into());
                }
                only.push(row);
            }
            Long("quick") => depth = Depth::Quick,
            Long("full") => depth = Depth::Full,
            Long("json") => json = true,
            Long("agent") => programs.agent = parser.value()?.into(),
            Long("hub") => programs.hub = parser.value()?.into(),
            Long("skeleton") => programs.skeleton = parser.value()?.into(),
            Long("nodes") => nodes = parser.value()?.parse()?,
            Long("dir") => dir = parser.value()?.into(),
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(None);
            }
            _ => return Err(arg.unexpected()),
        }
    }
    if !json {
        println!("{}\n", machine::describe());
    }
    let bench =
        Bench { table: Table::begin(json), depth, programs, ports: Ports::new(), dir, nodes };
    Ok(Some((bench, only)))
}

fn measure(bench: &Bench, only: &[String]) -> Outcome<()> {
    rig::clean_up_when_told_to_end()?;
    for program in [&bench.programs.agent, &bench.programs.hub, &bench.programs.skeleton] {
        if !program.exists() {
            let shown = program.display();
            bench.table.note("all", &format!("{shown} is not there: what needs it is left out"));
        }
    }
    for (name, row) in ROWS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        // A row that fails leaves the others to be seen.
        if let Err(error) = row(bench) {
            bench.table.note(name, &format!("{name}: not measured: {error}"));
        }
    }
    Ok(())
}
