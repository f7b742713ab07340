//! The binary's contract with whoever starts it: exit codes, and what is said.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A directory that goes with its test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fieldpost-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn fieldpost(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fieldpost"))
        .args(args)
        // Nobody's own settings decide a test.
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_bad_configuration_ends_with_78_and_says_where() {
    let place = Place::new("bad-config");
    let file = place.file("hub.toml", "[hub]\nname = \"x\"\n\n[retention]\nage = \"1 year\"\n");
    for command in ["hub", "check"] {
        let output = fieldpost(&[command, "--config", &file]);
        assert_eq!(code(&output), 78, "{}", err(&output));
        let said = err(&output);
        assert!(
            said.contains(&format!("{file}:5: retention.age = \"1 year\": expected")),
            "{said}"
        );
    }
}

#[test]
fn a_missing_configuration_ends_with_78() {
    let output = fieldpost(&["hub", "--config", "/nonexistent/hub.toml"]);
    assert_eq!(code(&output), 78);
    assert!(err(&output).contains("there is no such file"), "{}", err(&output));
}

#[test]
fn a_place_the_hub_can_not_use_ends_with_78() {
    let place = Place::new("bad-place");
    let file = place.file("hub.toml", "[hub]\nstate_dir = \"/proc/nowhere\"\n");
    let output = fieldpost(&["hub", "--config", &file]);
    assert_eq!(code(&output), 78, "{}", err(&output));
    assert!(err(&output).contains("/proc/nowhere"), "{}", err(&output));
}

#[test]
fn an_address_that_is_not_to_be_had_ends_with_69_so_that_systemd_tries_again() {
    let place = Place::new("taken");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    // 192.0.2.0/24 is for documentation: no host has it.
    for (at, why) in
        [(taken.to_string(), "already in use"), ("192.0.2.1:4510".to_owned(), "no such address")]
    {
        let directory = place.path("");
        let file = place.file(
            "hub.toml",
            &format!(
                "[hub]\nstate_dir = \"{directory}\"\nkey_file = \"{directory}/hub.key\"\n\
                 [listen]\ntriggers = \"tcp://{at}\"\nresults = \"tcp://127.0.0.1:*\"\n\
                 clients = \"tcp://127.0.0.1:*\"\nevents = \"tcp://127.0.0.1:*\"\n\
                 [local]\nsocket = \"{directory}/h\"\nevents = \"{directory}/e\"\n"
            ),
        );
        let output = fieldpost(&["hub", "--config", &file]);
        assert_eq!(code(&output), 69, "{}", err(&output));
        assert!(err(&output).contains(&at) && err(&output).contains(why), "{}", err(&output));
    }
}

#[test]
fn usage_ends_with_64_and_help_with_0() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["trigger", "vitals"],
        &["trigger", "vitals", "--all", "--ttl", "25h"],
        &["nodes", "accept", "no-key", "--node", "a"],
        &["status", "--hub", "nonsense"],
        &["status", "--hub", "tcp://127.0.0.1:4512"],
    ] {
        let output = fieldpost(args);
        assert_eq!(code(&output), 64, "{args:?}: {}", err(&output));
        assert!(output.stdout.is_empty());
    }
    for args in [&["--help"][..], &["--version"], &["trigger", "--help"]] {
        let output = fieldpost(args);
        assert_eq!(code(&output), 0);
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_local_hub_that_is_away_ends_with_69_at_once() {
    let place = Place::new("away");
    let started = Instant::now();
    let output = fieldpost(&["status", "--hub", &place.path("hub.sock")]);
    assert_eq!(code(&output), 69);
    assert!(started.elapsed() < Duration::from_secs(3));
    let said = err(&output);
    assert!(said.contains("nothing listens at") && said.contains("hint:"), "{said}");
}

#[test]
fn a_remote_hub_that_is_away_ends_with_69_within_its_patience() {
    let place = Place::new("away-remote");
    let key = place.path("client.key");
    let made = fieldpost(&["key", "new", "--out", &key, "--name", "me", "--role", "read"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    let block = out(&made);
    assert!(block.starts_with("[[client]]\nname = \"me\"\nkey = \""), "{block}");
    let public = out(&fieldpost(&["key", "show", &key]));
    assert!(block.contains(public.trim_end()), "{block} {public}");

    let started = Instant::now();
    let output = fieldpost(&[
        "status",
        "--hub",
        // The discard port: nobody listens there.
        "tcp://127.0.0.1:9",
        "--server-key",
        public.trim_end(),
        "--key-file",
        &key,
        "--patience",
        "500ms",
    ]);
    assert_eq!(code(&output), 69, "{}", err(&output));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(err(&output).contains("no hub answers at tcp://127.0.0.1:9"), "{}", err(&output));
}

#[test]
fn a_key_is_never_overwritten() {
    let place = Place::new("key");
    let key = place.file("k", "precious");
    let output = fieldpost(&["key", "new", "--out", &key]);
    assert_eq!(code(&output), 1);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "precious");
}

#[test]
fn check_says_that_the_shipped_example_is_right() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hub.toml");
    let output = fieldpost(&["check", "--config", example]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("2 clients"), "{}", out(&output));
}
