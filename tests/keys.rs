//! Keys that are replaced, and nodes that come in by a list: with real processes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

mod site;
use site::{Agent, PROGRAMS, Ports, Site, eventually, read_secret};

/// A trigger on one node comes back.
fn works(site: &Site, node: &str) {
    let run = site.submit("say", json!({}), json!({"nodes": [node]}));
    let rows = site.finished(&run);
    assert_eq!(rows[0]["status"], "ok", "{rows:?}");
}

fn becomes(site: &Site, node: &str, state: &str) {
    let word = format!("\"state\":\"{state}\"");
    eventually(state, || site.node_record(node).to_string().contains(&word).then_some(()));
}

/// Ends an agent, and gives it another key of its own.
fn give_another_key(agent: &mut Agent) -> String {
    agent.process.signal(Signal::SIGTERM);
    agent.process.wait();
    fs::remove_file(agent.dir.join("agent.key")).unwrap();
    let made = std::process::Command::new(site::agent_program())
        .args(["key", "new", "--config"])
        .arg(agent.config())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    read_secret(&agent.dir.join("agent.key")).public().to_string()
}

#[test]
fn a_node_gets_another_key_while_the_old_one_is_still_good() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let mut agent = site.agents.remove(gw);
    let old = fs::read(agent.dir.join("agent.key")).unwrap();
    let new = give_another_key(&mut agent);
    let told = site.cli(&["nodes", "rekey", "gw-1", &new, "--overlap", "1h"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    agent.restart();
    becomes(&site, "gw-1", "up");
    works(&site, "gw-1");
    // The change on the device went wrong: it is set back, within the overlap.
    agent.process.signal(Signal::SIGTERM);
    agent.process.wait();
    fs::write(agent.dir.join("agent.key"), old).unwrap();
    agent.restart();
    agent.wait_until_welcome();
    works(&site, "gw-1");
    // And a third one, at once: the others are good no more.
    let third = give_another_key(&mut agent);
    let told = site.cli(&["nodes", "rekey", "gw-1", &third, "--overlap", "0s"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    agent.restart();
    agent.wait_until_welcome();
    works(&site, "gw-1");
    let record = site.node_record("gw-1").to_string();
    assert!(record.contains(&third) && !record.contains(&new), "{record}");
    site.agents.push(agent);
}

#[test]
fn quarantine_ends_when_one_of_the_two_has_a_key_of_its_own() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let mut twin = site.agent_of("gw-1", PROGRAMS, site.server, Some(&site.agents[gw]));
    becomes(&site, "gw-1", "quarantined");
    let submit = json!({"job": "say", "select": {"nodes": ["gw-1"]}, "ttl_ms": 1000});
    assert_eq!(site.refused("submit", submit).0, "node_quarantined");

    // The way out of docs/OPERATING.md: the clone makes its own key and is a node of its own.
    let own = give_another_key(&mut twin);
    let config = fs::read_to_string(twin.config()).unwrap();
    fs::write(twin.config(), config.replace("id = \"gw-1\"", "id = \"gw-2\"")).unwrap();
    let key = site.agents[gw].key.to_string();
    let accept = |key: &str, node: &str| {
        let told = site.cli(&["nodes", "accept", key, "--node", node]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    };
    accept(&key, "gw-1");
    accept(&own, "gw-2");
    twin.restart();
    becomes(&site, "gw-1", "up");
    becomes(&site, "gw-2", "up");
    works(&site, "gw-1");
    works(&site, "gw-2");
    site.agents.push(twin);
}

#[test]
fn a_fleet_is_let_in_by_a_list_that_may_be_read_twice() {
    let mut site = Site::new();
    let agents: Vec<Agent> =
        ["gw-1", "gw-2"].map(|name| site.stranger(name, PROGRAMS)).into_iter().collect();
    let list: String =
        agents.iter().map(|agent| format!("{} {} berlin pi4\n", agent.name, agent.key)).collect();
    let file = site.path("fleet.txt");
    fs::write(&file, format!("# name key groups\n{list}")).unwrap();
    for _ in 0..2 {
        let told = site.cli(&["nodes", "import", file.to_str().unwrap()]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    for agent in agents {
        becomes(&site, &agent.name, "up");
        works(&site, &agent.name);
        let record = site.node_record(&agent.name).to_string();
        assert!(record.contains(r#""groups":["berlin","pi4"]"#), "{record}");
        site.agents.push(agent);
    }
    fs::write(&file, "gw-3 not-a-key berlin\n").unwrap();
    let told = site.cli(&["nodes", "import", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && said.contains("fleet.txt:1"), "{said}");
}

#[test]
fn the_hubs_key_is_replaced_while_devices_move_one_by_one() {
    let second = Ports::free();
    let [triggers, results, clients, events] =
        [second.triggers, second.results, second.clients, second.events]
            .map(|port| format!("tcp://127.0.0.1:{port}"));
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("second.key");
    let mut site = Site::with(&format!(
        "[second_key]\nkey_file = \"{}\"\ntriggers = \"{triggers}\"\n\
         results = \"{results}\"\nclients = \"{clients}\"\nevents = \"{events}\"\n",
        key.display()
    ));
    let server = read_secret(&key).public();
    assert_ne!(server, site.server);
    let (stays, moves) = (site.node("gw-1", PROGRAMS), site.node("gw-2", PROGRAMS));
    let mut moved = site.agents.remove(moves);
    assert_eq!(site.agents[stays].name, "gw-1");
    moved.process.signal(Signal::SIGTERM);
    moved.process.wait();
    let config = fs::read_to_string(moved.config()).unwrap();
    let config = config
        .replace(&format!(":{}\"", site.ports.triggers), &format!(":{}\"", second.triggers))
        .replace(&format!(":{}\"", site.ports.results), &format!(":{}\"", second.results))
        // Both keys: the first one that answers is it.
        .replace(&format!("\"{}\"]", site.server), &format!("\"{server}\"]"));
    fs::write(moved.config(), config).unwrap();
    moved.restart();
    moved.wait_until_welcome();
    for node in ["gw-1", "gw-2"] {
        works(&site, node);
    }
    site.agents.push(moved);
}
