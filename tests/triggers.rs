//! Triggers over the real thing: a hub and agents as processes, CURVE in between.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod site;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use site::{PROGRAMS, Site, eventually, field};

/// The processes whose command line holds `text`.
fn processes(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn one_trigger_gives_one_result() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let run = site.submit("say", json!({"word": "good morning"}), json!({"nodes": ["gw-1"]}));
    let nodes = site.finished(&run);
    assert_eq!(nodes.len(), 1);
    assert_eq!(field(&nodes[0], "status"), "ok");
    assert_eq!(site.output(&run, "gw-1"), b"good morning\n");
    let results = site.results();
    assert_eq!(results.len(), 1, "{results:?}");
    assert_eq!(results[0]["chunks"], 1);
    assert_eq!(results[0]["bytes"], 13);
    // By the hub's clock, which is the node's here, give or take what the hub's may be off.
    let [started, corrected, received] = ["started_ms", "started_corrected_ms", "received_ms"]
        .map(|name| results[0][name].as_u64().unwrap());
    assert!((started - 100..=received).contains(&corrected), "{results:?}");
}

#[test]
fn a_group_and_all_nodes_each_answer_once() {
    let mut site = Site::new();
    for name in ["gw-1", "gw-2", "gw-3"] {
        site.node(name, PROGRAMS);
    }
    let group = site.submit("ping", json!({}), json!({"groups": ["field"]}));
    assert_eq!(site.finished(&group).len(), 3);
    let all = site.submit("vitals", json!({}), json!({"all": true}));
    assert_eq!(site.finished(&all).len(), 3);
    let vitals: serde_json::Value =
        serde_json::from_slice(&site.output(&all, "gw-2")).expect("vitals are JSON");
    assert!(vitals.is_object());
    assert_eq!(site.results().len(), 6);
}

#[test]
fn a_failing_program_says_how_it_failed() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let run = site.submit("fail", json!({}), json!({"nodes": ["gw-1"]}));
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "failed");
    let result = &site.results()[0];
    assert_eq!(result["exit_code"], 3);
    assert_eq!(field(result, "stderr"), "broken\n");
    assert_eq!(site.output(&run, "gw-1"), b"partial\n");
}

#[test]
fn what_the_node_does_not_allow_is_rejected_with_the_reason() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let run = site.submit("say", json!({"word": "$(reboot)"}), json!({"nodes": ["gw-1"]}));
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "rejected");
    let (code, message) = site.refused(
        "submit",
        json!({"job": "no-such-job", "select": {"nodes": ["gw-1"]}, "ttl_ms": 5000}),
    );
    assert_eq!(code, "unknown_job", "{message}");
    assert!(message.contains("no-such-job"), "{message}");
    let (code, message) = site
        .refused("submit", json!({"job": "say", "select": {"nodes": ["gw-9"]}, "ttl_ms": 5000}));
    assert_eq!(code, "unknown_node", "{message}");
}

#[test]
fn a_repeated_submit_is_the_same_run() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let run = "01890a5d-ac96-774b-bcce-b302099a8057";
    let id = fieldpost_hub::client::new_run_id().unwrap().to_string();
    assert_ne!(id, run);
    let ask = json!({"run_id": id, "job": "say", "select": {"all": true}, "ttl_ms": 30_000});
    assert_eq!(site.ask("submit", ask.clone())["repeated"], false);
    assert_eq!(site.ask("submit", ask)["repeated"], true);
    site.finished(&id);
    let other = json!({"run_id": id, "job": "ping", "select": {"all": true}, "ttl_ms": 30_000});
    assert_eq!(site.refused("submit", other).0, "conflict");
    assert_eq!(site.results().len(), 1);
}

#[test]
fn a_cancelled_run_ends_with_its_whole_process_group() {
    let mut site = Site::new();
    site.node("gw-1", &PROGRAMS.replace("sleep 600", "sleep 7353"));
    let run = site.submit("hang", json!({}), json!({"nodes": ["gw-1"]}));
    eventually("the program runs", || (processes("sleep 7353").len() >= 2).then_some(()));
    site.ask("cancel", json!({"run_id": run}));
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "cancelled");
    assert_eq!(processes("sleep 7353"), Vec::<i32>::new());
}

#[test]
fn a_program_over_its_time_is_stopped_with_its_grandchildren() {
    let mut site = Site::new();
    let gw = site.node("gw-1", &PROGRAMS.replace("sleep 601", "sleep 7354"));
    let run = site.submit("brief", json!({}), json!({"nodes": ["gw-1"]}));
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "timed_out");
    // Also the one that left the group by setsid.
    eventually("no grandchild is left", || processes("sleep 7354").is_empty().then_some(()));
    let zombies = std::fs::read_to_string(format!(
        "/proc/{0}/task/{0}/children",
        site.agents[gw].process.pid()
    ));
    assert_eq!(zombies.unwrap_or_default().trim(), "", "all children are reaped");
}

#[test]
fn ten_mebibytes_pass_through_an_outbox_of_one() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let before = site.agents[gw].process.rss_kib();
    let run = site.submit("big", json!({}), json!({"nodes": ["gw-1"]}));
    let nodes = site.finished(&run);
    assert_eq!(field(&nodes[0], "status"), "ok");
    let output = site.output(&run, "gw-1");
    assert_eq!(output.len(), 10 << 20);
    assert!(output.iter().all(|&byte| byte == b'x'));
    let grown = site.agents[gw].process.rss_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "the agent grew by {grown} KiB");
}

#[test]
fn the_agent_has_three_threads_while_it_works() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let run = site.submit("hang", json!({}), json!({"nodes": ["gw-1"]}));
    eventually("the run is in progress", || {
        let answer = site.ask("runs", json!({"run_id": run}));
        answer.to_string().contains("running").then_some(())
    });
    assert_eq!(site.agents[gw].process.threads(), 3);
    site.ask("cancel", json!({"run_id": run}));
    site.finished(&run);
}

#[test]
fn a_trigger_waits_for_a_node_that_is_away_and_expires_without_it() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    site.agents[gw].process.kill();
    let late = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    let soon =
        site.ask("submit", json!({"job": "say", "select": {"nodes": ["gw-1"]}, "ttl_ms": 500}));
    let nodes = site.finished(field(&soon, "run_id"));
    assert_eq!(field(&nodes[0], "status"), "expired");
    site.agents[gw].restart();
    assert_eq!(field(&site.finished(&late)[0], "status"), "ok");
}

#[test]
fn the_command_line_waits_streams_and_tells_by_its_exit_code() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let out = site.cli(&["trigger", "say", "word=hi there", "--node", "gw-1", "--wait"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("hi there"));
    let out = site.cli(&["trigger", "fail", "--all", "--wait"]);
    assert_eq!(out.status.code(), Some(1));
    let out = site.cli(&["trigger", "hang", "--all", "--wait", "--wait-timeout", "1s"]);
    assert_eq!(out.status.code(), Some(75));
    let out = site.cli(&["trigger", "say"]);
    assert_eq!(out.status.code(), Some(64));
    for args in [&["nodes"][..], &["runs"], &["status"], &["audit"]] {
        let out = site.cli(args);
        assert_eq!(out.status.code(), Some(0), "{args:?}");
        assert!(!out.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_agent_that_is_told_to_stop_ends_its_programs_and_hands_over_their_results() {
    let mut site = Site::new();
    let gw = site.node("gw-1", &PROGRAMS.replace("sleep 600", "sleep 7355"));
    let run = site.submit("hang", json!({}), json!({"nodes": ["gw-1"]}));
    eventually("the program runs", || (processes("sleep 7355").len() >= 2).then_some(()));
    site.agents[gw].process.signal(Signal::SIGTERM);
    assert_eq!(site.agents[gw].process.wait(), Some(0));
    assert_eq!(processes("sleep 7355"), Vec::<i32>::new());
    let nodes = site.finished(&run);
    assert!(["cancelled", "lost"].contains(&field(&nodes[0], "status")), "{nodes:?}");
}

#[test]
fn jobs_are_reloaded_without_dropping_the_link() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let config = site.agents[gw].config();
    let text = std::fs::read_to_string(&config).unwrap();
    let more = "\n[[job]]\nname = \"new\"\ncommand = [\"/bin/echo\", \"fresh\"]\n";
    std::fs::write(&config, format!("{text}{more}")).unwrap();
    site.agents[gw].process.signal(Signal::SIGHUP);
    let run = eventually("the new job is offered", || {
        site.client()
            .call(
                "submit",
                json!({"job": "new", "select": {"all": true}, "ttl_ms": 20_000}),
                Duration::from_secs(5),
            )
            .ok()
    });
    let run = field(&run, "run_id").to_owned();
    site.finished(&run);
    assert_eq!(site.output(&run, "gw-1"), b"fresh\n");
}
