//! The spool with real processes and files: what survives a killed agent, a damaged directory, a
//! disk that takes no more.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod site;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use site::{PROGRAMS, Running, Site, eventually, field};

/// A node with a spool. `more` stands in the spool's table.
fn spooling(site: &mut Site, more: &str, jobs: &str) -> usize {
    let spool = site.path("gw-1").join("spool");
    let table = format!("spool = {{ path = \"{}\"{more} }}\n{PROGRAMS}{jobs}", spool.display());
    site.node("gw-1", &table)
}

fn directory(site: &Site) -> PathBuf {
    site.path("gw-1").join("spool")
}

fn segments(site: &Site) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory(site)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

/// `fieldpost-agent spool dump --json`.
fn dump(site: &Site) -> Vec<Value> {
    let out = Command::new(site::agent_program())
        .args(["spool", "dump", "--json", "--config"])
        .arg(site.path("gw-1").join("agent.toml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs whose end is in the spool.
fn spooled(site: &Site) -> HashSet<String> {
    let records = dump(site);
    let ends = records.iter().filter(|record| field(record, "kind") == "finished");
    ends.map(|record| field(record, "run_id").to_owned()).collect()
}

fn every_200_ms(site: &Site, job: &str) {
    let entry = json!({
        "id": "often", "job": job, "every_ms": 200, "catch_up": "skip", "overlap": "skip",
    });
    site.ask("schedule.set", json!({"select": {"all": true}, "entries": [entry]}));
}

/// How often each run stands in the store.
fn stored(site: &Site) -> BTreeMap<(String, u64), usize> {
    let mut counts = BTreeMap::new();
    for result in site.results() {
        let attempt = result["attempt"].as_u64().unwrap();
        *counts.entry((field(&result, "run_id").to_owned(), attempt)).or_default() += 1;
    }
    counts
}

/// Every one of these runs is in the store, and nothing is there twice.
fn all_there_once(site: &Site, runs: &HashSet<String>) {
    eventually("all that was spooled is stored", || {
        let there: HashSet<String> = stored(site).into_keys().map(|(run, _)| run).collect();
        runs.is_subset(&there).then_some(())
    });
    let twice: Vec<_> = stored(site).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn while_the_hub_is_there_nothing_is_written() {
    let mut site = Site::new();
    let gw = spooling(&mut site, "", "");
    for _ in 0..3 {
        let run = site.submit("say", json!({}), json!({"all": true}));
        site.finished(&run);
    }
    assert!(segments(&site).is_empty());
    site.agents[gw].process.signal(Signal::SIGTERM);
    assert_eq!(site.agents[gw].process.wait(), Some(0));
    assert!(segments(&site).is_empty());
}

#[test]
fn results_survive_a_killed_agent_while_the_hub_is_away() {
    let mut site = Site::new();
    let gw = spooling(&mut site, "", "");
    every_200_ms(&site, "say");
    eventually("it runs", || (site.results().len() > 2).then_some(()));
    site.hub.kill();
    let mut safe = HashSet::new();
    for _ in 0..3 {
        let before = safe.len();
        eventually("more is spooled", || {
            safe.extend(spooled(&site));
            (safe.len() > before + 5).then_some(())
        });
        site.agents[gw].process.kill();
        site.agents[gw].restart();
    }
    site.start_hub();
    all_there_once(&site, &safe);
    site.ask("schedule.clear", json!({"select": {"all": true}}));
    eventually("the spool empties", || segments(&site).is_empty().then_some(()));
}

#[test]
fn results_survive_a_stop_and_a_damaged_directory() {
    let mut site = Site::new();
    let gw = spooling(&mut site, "", "");
    every_200_ms(&site, "say");
    eventually("it runs", || (site.results().len() > 2).then_some(()));
    site.hub.kill();
    eventually("much is spooled", || (spooled(&site).len() > 20).then_some(()));
    site.agents[gw].process.signal(Signal::SIGTERM);
    assert_eq!(site.agents[gw].process.wait(), Some(0));

    let before = spooled(&site);
    let file = segments(&site).remove(0);
    // A flipped byte in the middle, a torn record at the end, and files that are none of ours.
    let damaged = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let mut byte = [0];
    damaged.read_exact_at(&mut byte, 700).unwrap();
    damaged.write_all_at(&[byte[0] ^ 0x40], 700).unwrap();
    let length = damaged.metadata().unwrap().len();
    damaged.write_all_at(&[0xf5, 0x5f, 9, 9, 9], length).unwrap();
    let directory = directory(&site);
    fs::create_dir(directory.join("0000aaaa.seg")).unwrap();
    fs::write(directory.join("0000bbbb.seg"), b"not a segment").unwrap();
    fs::write(directory.join("ffffffff.seg"), b"FPSPOOL\x01").unwrap();
    fs::write(directory.join("readme"), b"hands off").unwrap();
    let whole = spooled(&site);
    assert!(before.len() - whole.len() <= 1, "{} of {}", whole.len(), before.len());

    site.agents[gw].restart();
    site.start_hub();
    all_there_once(&site, &whole);
    let bad = fs::read_dir(&directory).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|extension| extension == "bad")
    });
    assert_eq!(bad.count(), 4, "what is damaged is set aside");
    assert!(directory.join("readme").exists());
    let run = site.submit("say", json!({}), json!({"all": true}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}

#[test]
fn with_always_a_result_survives_a_kill_as_soon_as_it_is_there() {
    let mut site = Site::new();
    let go = site.path("go");
    let job = format!(
        "[[job]]\nname = \"wait\"\ncommand = [\"/bin/sh\", \"-c\", \
         \"until [ -e {} ]; do sleep 0.1; done; head -c 100000 /dev/zero\"]\n",
        go.display()
    );
    let gw = spooling(&mut site, ", durability = \"always\"", &job);
    let run = site.submit("wait", json!({}), json!({"all": true}));
    eventually("its acceptance is on disk before it ends", || {
        let records = dump(&site);
        let is_it = |record: &&Value| field(record, "run_id") == run;
        records.iter().find(is_it).map(|record| assert_eq!(field(record, "kind"), "accepted"))
    });
    site.hub.kill();
    fs::write(&go, "").unwrap();
    eventually("its end is on disk", || spooled(&site).contains(&run).then_some(()));
    site.agents[gw].process.kill();
    site.agents[gw].restart();
    site.start_hub();
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
    assert_eq!(site.output(&run, "gw-1"), vec![0; 100_000]);
}

/// The agent, on a disk where no file can be longer than 50 KiB.
fn on_a_small_disk(site: &Site) -> Running {
    let dir = site.path("gw-1");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" run --config \"$1\""])
        .arg(site::agent_program())
        .arg(dir.join("agent.toml"))
        .env("RUST_LOG", "info");
    Running::start(&mut command, dir.join("small.log"))
}

#[test]
fn on_a_full_disk_results_wait_in_memory_and_it_is_said_once() {
    let mut site = Site::new();
    let go = site.path("go");
    let job = format!(
        "[[job]]\nname = \"wait\"\ncommand = [\"/bin/sh\", \"-c\", \
         \"until [ -e {} ]; do sleep 0.1; done; head -c 400000 /dev/zero\"]\n",
        go.display()
    );
    let gw = spooling(&mut site, "", &job);
    site.agents[gw].process.kill();
    site.agents[gw].process = on_a_small_disk(&site);
    let run = site.submit("wait", json!({}), json!({"all": true}));
    eventually("the run is in progress", || {
        site.ask("runs", json!({"run_id": run})).to_string().contains("running").then_some(())
    });
    site.hub.kill();
    fs::write(&go, "").unwrap();
    let complaints =
        |site: &Site| site.agents[gw].process.log().matches("the spool can't be used").count();
    eventually("it is said", || (complaints(&site) > 0).then_some(()));
    site.start_hub();
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
    assert_eq!(site.output(&run, "gw-1"), vec![0; 400_000]);
    assert_eq!(complaints(&site), 1, "{}", site.agents[gw].process.log());
}

#[test]
fn what_waits_can_be_looked_at_and_carried_home() {
    let mut site = Site::new();
    let gw = spooling(&mut site, "", "");
    every_200_ms(&site, "say");
    eventually("it runs", || (site.results().len() > 2).then_some(()));
    site.hub.kill();
    eventually("some is spooled", || (spooled(&site).len() > 5).then_some(()));
    site.agents[gw].process.signal(Signal::SIGTERM);
    site.agents[gw].process.wait();
    let agent = |words: &[&str]| {
        Command::new(site::agent_program())
            .args(words)
            .arg("--config")
            .arg(site.path("gw-1").join("agent.toml"))
            .output()
            .unwrap()
    };
    let check = agent(&["spool", "check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(0), "{said}");
    assert!(said.contains("no agent uses it") && said.contains("finished"), "{said}");
    let home = site.path("home");
    let export = agent(&["spool", "export", home.to_str().unwrap()]);
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let run = spooled(&site).into_iter().next().unwrap();
    let end = fs::read_to_string(home.join(format!("{run}.1.json"))).unwrap();
    let end: Value = serde_json::from_str(&end).unwrap();
    assert_eq!(end["job"], "say");
    assert_eq!(fs::read_to_string(home.join(format!("{run}.1.out"))).unwrap(), "hello\n");
    // One byte more or less, and `check` says so.
    let file = segments(&site).remove(0);
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(b"?", 100).unwrap();
    let check = agent(&["spool", "check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&check.stderr).contains("1 damaged places"));
}
