//! Every target replays its corpus, and then runs on for a bounded time with what it makes of it.
//!
//! `FUZZ_SECONDS=600 cargo test --workspace --test corpus` runs longer, `FUZZ_SEED=7` repeats a
//! run. An input that fails is written to `target/fuzz-failures/` and named; put it into the
//! corpus with its fix.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use fieldpost_fuzz_bodies::mutation::mutated;
use fieldpost_fuzz_bodies::{TARGETS, Target};

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// Runs the body; an input that fails is kept.
fn tried(target: &Target, data: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.body)(data))) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(target.name);
        fs::write(&file, data).unwrap();
        eprintln!("{}: {what} fails; the input is in {}", target.name, file.display());
        std::panic::resume_unwind(panic);
    }
}

fn fuzzed(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let files = corpus(target);
    assert!(!files.is_empty(), "{name} has no corpus");
    for (file, data) in &files {
        tried(target, data, &file.display().to_string());
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, data)| data).collect();
    let seed = from_environment("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(from_environment("FUZZ_SECONDS").unwrap_or(10));
    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();
    let mut count: u64 = 0;
    println!("{name}: {} in the corpus, seed {seed}", inputs.len());
    while began.elapsed() < time {
        let data = mutated(&mut rng, &inputs);
        tried(target, &data, &format!("input {count} of seed {seed}"));
        count += 1;
    }
    println!("{name}: {count} inputs in {} s", began.elapsed().as_secs());
}

#[test]
fn any_command_is_read_or_refused() {
    fuzzed("command");
}

#[test]
fn any_report_is_read_or_refused_and_a_reliable_one_is_acked() {
    fuzzed("report");
}

#[test]
fn an_agent_starts_with_any_schedule_file() {
    fuzzed("schedule_file");
}

#[test]
fn an_agent_starts_with_any_journal_file() {
    fuzzed("journal_file");
}

#[test]
fn any_request_of_a_client_is_answered_in_json() {
    fuzzed("client_json");
}

#[test]
fn any_agent_config_is_taken_or_refused() {
    fuzzed("agent_config");
}

#[test]
fn any_hub_config_is_taken_or_refused() {
    fuzzed("hub_config");
}

#[test]
fn the_agents_core_keeps_its_promises_whatever_comes() {
    fuzzed("agent_core");
}

#[test]
fn an_agent_with_a_spool_keeps_its_promises_whatever_comes() {
    fuzzed("agent_spool");
}

#[test]
fn an_agent_starts_with_any_spool() {
    fuzzed("spool_segment");
}
