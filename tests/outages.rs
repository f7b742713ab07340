//! What survives what: hubs and agents that die, links that are cut.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod site;

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use site::{PROGRAMS, Site, eventually, field};

#[test]
fn unacked_results_survive_a_hub_that_is_killed() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let before = site.submit("say", json!({}), json!({"all": true}));
    site.finished(&before);
    let schedule = json!({"select": {"all": true}, "entries": [
        {"id": "often", "job": "ping", "every_ms": 100, "catch_up": "skip", "overlap": "skip"}
    ]});
    site.ask("schedule.set", schedule);
    eventually("the schedule runs", || (site.results().len() > 5).then_some(()));
    for _ in 0..3 {
        site.hub.kill();
        let stored = {
            site.start_hub();
            site.results().len()
        };
        eventually("results come in again", || (site.results().len() > stored + 5).then_some(()));
    }
    // What was on its way to a dead hub comes again, maybe behind what came later.
    let due = eventually("no due time between the first and the last is missing", || {
        let results = site.results();
        let mut due: Vec<u64> =
            results.iter().filter_map(|r| r["cause"]["due_ms"].as_u64()).collect();
        due.sort_unstable();
        due.dedup();
        due.windows(2).all(|pair| pair[1] - pair[0] <= 150).then_some(due)
    });
    assert!(due.len() > 20, "{}", due.len());
    let results = site.results();
    let ids: HashSet<_> =
        results.iter().map(|r| (field(r, "run_id").to_owned(), r["attempt"].as_u64())).collect();
    assert_eq!(ids.len(), results.len(), "each result stands once");
}

#[test]
fn a_schedule_runs_while_the_hub_is_away_and_every_result_arrives() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let marks = site.agents[gw].dir.join("marks");
    let config = site.agents[gw].config();
    let mut text = fs::read_to_string(&config).unwrap();
    text.push_str(&format!(
        "\n[[job]]\nname = \"mark\"\ncommand = [\"/bin/sh\", \"-c\", \"echo $FIELDPOST_RUN_ID | tee -a {}\"]\n",
        marks.display()
    ));
    fs::write(&config, text).unwrap();
    site.agents[gw].process.signal(Signal::SIGHUP);
    let count = || fs::read_to_string(&marks).unwrap_or_default().lines().count();
    eventually("the job is offered", || {
        site.node_record("gw-1").to_string().contains("\"mark\"").then_some(())
    });
    site.ask(
        "schedule.set",
        json!({"select": {"nodes": ["gw-1"]}, "entries": [
            {"id": "marks", "job": "mark", "every_ms": 200, "catch_up": "skip", "overlap": "queue"}
        ]}),
    );
    eventually("it runs", || (count() > 2).then_some(()));
    site.hub.kill();
    let then = count();
    eventually("it runs on without a hub", || (count() > then + 10).then_some(()));
    site.start_hub();
    site.ask("schedule.clear", json!({"select": {"nodes": ["gw-1"]}}));
    let ran = eventually("every run has its result", || {
        let ran: HashSet<String> =
            fs::read_to_string(&marks).unwrap().lines().map(str::to_owned).collect();
        let stored: HashSet<String> =
            site.results().iter().map(|r| field(r, "run_id").to_owned()).collect();
        ran.is_subset(&stored).then_some(ran)
    });
    assert!(ran.len() > 12);
}

#[test]
fn a_killed_agent_loses_no_run_silently_and_runs_none_twice() {
    let mut site = Site::new();
    let gw = site.node("gw-1", &PROGRAMS.replace("sleep 600", "sleep 7356"));
    let run = site.submit("hang", json!({}), json!({"nodes": ["gw-1"]}));
    eventually("the run is in progress", || {
        site.ask("runs", json!({"run_id": run})).to_string().contains("running").then_some(())
    });
    site.agents[gw].process.kill();
    site.agents[gw].restart();
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "lost");
    eventually("what was left of it is killed", || {
        let left = std::process::Command::new("pgrep").args(["-f", "sleep 7356"]).output().unwrap();
        left.stdout.is_empty().then_some(())
    });
    let next = site.submit("say", json!({}), json!({"all": true}));
    assert_eq!(field(&site.finished(&next)[0], "status"), "ok");
}

#[test]
fn a_schedule_survives_a_restart_of_the_agent() {
    let mut site = Site::new();
    let marks = site.path("marks");
    let mark = format!(
        "[[job]]\nname = \"mark\"\ncommand = [\"/bin/sh\", \"-c\", \"echo x >> {}\"]\n",
        marks.display()
    );
    let gw = site.node("gw-1", &mark);
    site.ask(
        "schedule.set",
        json!({"select": {"all": true}, "entries": [
            {"id": "often", "job": "mark", "every_ms": 200, "catch_up": "skip", "overlap": "skip"}
        ]}),
    );
    eventually("it runs", || (site.results().len() > 2).then_some(()));
    site.hub.kill();
    site.agents[gw].process.signal(Signal::SIGTERM);
    site.agents[gw].process.wait();
    let count = || fs::read_to_string(&marks).unwrap_or_default().lines().count();
    let before = count();
    // Long enough that it is due.
    std::thread::sleep(Duration::from_millis(600));
    site.agents[gw].restart();
    eventually("it runs again with no hub to ask", || (count() > before + 3).then_some(()));
    site.start_hub();
    let stored = site.results().len();
    eventually("results come in", || (site.results().len() > stored + 3).then_some(()));
    let missed = eventually("what it missed is told", || {
        let told = site.cli(&["schedule", "missed", "--node", "gw-1", "--json"]).stdout;
        String::from_utf8(told).unwrap().lines().next().map(str::to_owned)
    });
    let missed: Value = serde_json::from_str(&missed).unwrap();
    assert_eq!((&missed["node"], &missed["entry"]), (&json!("gw-1"), &json!("often")));
    assert!(missed["count"].as_u64() > Some(0), "{missed}");
}

#[test]
fn a_hub_that_stops_answering_is_noticed_and_rejoined() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    site.hub.signal(Signal::SIGSTOP);
    site.hub.signal(Signal::SIGCONT);
    let run = site.submit("say", json!({}), json!({"all": true}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}
