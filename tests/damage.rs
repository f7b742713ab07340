//! The hub's store: copied while it is in use, damaged, and on a disk that is full. And a device's
//! card that was cloned, with the documented way out.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod site;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fieldpost_sockets::SecretKey;
use serde_json::json;
use site::{PROGRAMS, Place, Site, eventually, field, read_secret};

/// `EX_CONFIG`: what the configuration names can't be used.
const CONFIGURATION: Option<i32> = Some(78);

fn filled() -> Site {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    for _ in 0..5 {
        let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
        site.finished(&run);
    }
    site
}

/// Starts the hub on a store that it must refuse, and gives what it says.
fn refusal(site: &mut Site) -> String {
    let before = site.hub.log().len();
    site.start_hub_unwatched();
    assert_eq!(site.hub.wait(), CONFIGURATION);
    site.hub.log()[before..].to_owned()
}

#[test]
fn a_backup_of_a_busy_hub_is_a_store_to_go_on_from() {
    let mut site = Site::new();
    site.node("gw-1", PROGRAMS);
    let entry = json!({
        "id": "often", "job": "ping", "every_ms": 100, "catch_up": "skip", "overlap": "skip",
    });
    site.ask("schedule.set", json!({"select": {"all": true}, "entries": [entry]}));
    eventually("results come in", || (site.results().len() > 20).then_some(()));
    let copy = site.path("copy.sqlite");
    let before = site.results();
    let out = site.cli(&["backup", copy.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let again = site.cli(&["backup", copy.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    assert!(site.ask("audit", json!({})).to_string().contains("backup"));

    // The way back that `fieldpost help backup` and docs/OPERATING.md describe.
    site.hub.kill();
    let store = site.path("store");
    for name in ["hub.sqlite", "hub.sqlite-wal", "hub.sqlite-shm"] {
        fs::remove_file(store.join(name)).ok();
    }
    fs::copy(&copy, store.join("hub.sqlite")).unwrap();
    site.start_hub();
    let after = site.results();
    assert_eq!(after[..before.len()], before, "what was there before the copy is there");
    // A schedule of the restored store counts, although the node has had a newer one.
    site.ask("schedule.clear", json!({"select": {"all": true}}));
    eventually("the node takes the restored hub's word", || {
        let count = site.results().len();
        std::thread::park_timeout(Duration::from_millis(300));
        (site.results().len() == count).then_some(())
    });
    let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}

#[test]
fn a_damaged_store_is_refused_with_a_way_out() {
    let mut site = filled();
    let copy = site.path("copy.sqlite");
    assert!(site.cli(&["backup", copy.to_str().unwrap()]).status.success());
    site.hub.signal(nix::sys::signal::Signal::SIGTERM);
    site.hub.wait();
    let file = site.path("store/hub.sqlite");
    let length = fs::metadata(&file).unwrap().len();
    let mut damaged = fs::OpenOptions::new().write(true).open(&file).unwrap();
    // All but the header: tables and indexes.
    damaged.seek(SeekFrom::Start(4_096)).unwrap();
    damaged.write_all(&vec![0x5a; usize::try_from(length).unwrap() - 4_096]).unwrap();
    drop(damaged);
    let said = refusal(&mut site);
    assert!(said.contains("hub.sqlite is damaged"), "{said}");
    assert!(said.contains(".recover") && said.contains("backup"), "{said}");
    fs::write(&file, "no database at all").unwrap();
    let said = refusal(&mut site);
    assert!(said.contains("is not a database"), "{said}");
    // The way out.
    fs::remove_file(&file).unwrap();
    fs::copy(&copy, &file).unwrap();
    site.start_hub();
    assert_eq!(site.results().len(), 5);
}

#[test]
fn a_torn_wal_costs_its_torn_end_and_nothing_else() {
    let mut site = filled();
    // Killed, so that the WAL is not copied into the file.
    site.hub.kill();
    let wal = site.path("store/hub.sqlite-wal");
    let length = fs::metadata(&wal).unwrap().len();
    assert!(length > 1_000, "{length}");
    let file = fs::OpenOptions::new().write(true).open(&wal).unwrap();
    file.set_len(length - 100).unwrap();
    drop(file);
    site.start_hub();
    let kept = site.results().len();
    assert!((1..=5).contains(&kept), "{kept}");
    let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}

/// The hub's state directory is a tmpfs of 4 MiB, in a mount namespace of the hub's own.
fn small_disk() -> Place {
    let script = r#"d=$(dirname "$4")/store; mkdir -p "$d"
        mount -t tmpfs -o size=4m,mode=0700 tmpfs "$d" && exec "$@""#;
    let through = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"];
    // As root no user namespace is needed, and some hosts allow none.
    let is_root = nix::unistd::geteuid().is_root();
    let through = through.into_iter().filter(|word| !(is_root && *word == "--map-root-user"));
    Place { hub_through: through.map(str::to_owned).collect(), ..Place::default() }
}

/// Runs a command where the hub sees its disk.
fn beside_hub(site: &Site, script: &str, dir: &Path) {
    let mut command = Command::new("nsenter");
    command.args(["--target", &site.hub.pid().to_string(), "--mount"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    let status = command.args(["sh", "-c", script, "sh"]).arg(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

#[test]
fn a_full_disk_at_the_hub_is_said_and_loses_nothing() {
    let mut site = Site::at(small_disk(), "");
    site.node("gw-1", PROGRAMS);
    let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    site.finished(&run);
    let store = site.path("store");
    // dd ends with an error, as it is to fill the disk.
    beside_hub(&site, r#"dd if=/dev/zero of="$1/filler" bs=64k 2>/dev/null || true"#, &store);
    let entry = json!({
        "id": "often", "job": "say", "every_ms": 100, "catch_up": "skip", "overlap": "queue",
    });
    let set = json!({"select": {"all": true}, "entries": [entry]});
    // The last free page may still have taken some.
    site.client().call("schedule.set", set.clone(), Duration::from_secs(5)).ok();
    eventually("the disk is full, and that is said", || {
        let sent = json!({"job": "say", "select": {"all": true}, "ttl_ms": 1000});
        site.client().call("submit", sent, Duration::from_secs(5)).ok();
        let status = site.ask("status", json!({}));
        let problem = field(&status["store"], "problem").to_owned();
        problem.contains("no space is left").then_some(())
    });
    let (code, message) = site.refused("schedule.set", set.clone());
    assert_eq!(code, "store_unavailable");
    assert!(message.contains("no space is left"), "{message}");
    assert!(site.hub.is_running());
    beside_hub(&site, r#"rm "$1/filler""#, &store);
    let stored = site.results().len();
    eventually("it is taken again", || {
        site.client().call("schedule.set", set.clone(), Duration::from_secs(5)).ok()
    });
    eventually("results come in again", || (site.results().len() > stored + 10).then_some(()));
    site.ask("schedule.clear", json!({"select": {"all": true}}));
    let run = site.submit("say", json!({}), json!({"nodes": ["gw-1"]}));
    assert_eq!(field(&site.finished(&run)[0], "status"), "ok");
}

#[test]
fn a_cloned_card_is_quarantined_and_the_way_out_works() {
    let mut site = Site::new();
    let gw = site.node("gw-1", PROGRAMS);
    let mut twin = site.agent_of("gw-1", PROGRAMS, site.server, Some(&site.agents[gw]));
    eventually("the node is quarantined", || {
        let listed = site.cli(&["nodes"]);
        String::from_utf8_lossy(&listed.stdout).contains("quarantined").then_some(())
    });
    let (code, message) = site.refused(
        "submit",
        json!({"job": "say", "args": {}, "select": {"nodes": ["gw-1"]}, "ttl_ms": 1000}),
    );
    assert_eq!(code, "node_quarantined", "{message}");
    // docs/OPERATING.md: one of them gets a key and a name of its own, and the other is accepted again.
    twin.process.kill();
    let config = fs::read_to_string(twin.config()).unwrap();
    fs::write(twin.config(), config.replace("id = \"gw-1\"", "id = \"gw-2\"")).unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_fieldpost-agent"))
        .args(["key", "new", "--force", "--config"])
        .arg(twin.config())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let fresh: SecretKey = read_secret(&twin.dir.join("agent.key"));
    let (old, new) = (site.agents[gw].key.to_string(), fresh.public().to_string());
    for (key, node) in [(new.as_str(), "gw-2"), (old.as_str(), "gw-1")] {
        let out = site.cli(&["nodes", "accept", key, "--node", node]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    twin.restart();
    let after = site.submit("say", json!({}), json!({"nodes": ["gw-1", "gw-2"]}));
    for result in site.finished(&after) {
        assert_eq!(field(&result, "status"), "ok");
    }
    let listed = site.cli(&["nodes"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("quarantined"));
}
