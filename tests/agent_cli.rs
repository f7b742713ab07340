//! The agent's binary: what it says and how it exits, without a hub.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A directory of its own with a configuration in it, gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str, jobs: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("fieldpost-agent-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let at = dir.display();
        // Nothing listens at port 1.
        let text = format!(
            "[node]\nid = \"gw-1\"\nkey_file = \"{at}/agent.key\"\nruntime_dir = \"{at}/run\"\n\
             state_dir = \"{at}/state\"\n[[hub]]\ntriggers = \"tcp://127.0.0.1:1\"\n\
             results = \"tcp://127.0.0.1:1\"\n\
             server_keys = [\"rq:rM>}}U?@Lns47E1%kR.o@n%FcmmsL/@{{H8]yf7\"]\n{jobs}"
        );
        std::fs::write(dir.join("agent.toml"), text).unwrap();
        Self(dir)
    }

    fn agent(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fieldpost-agent"));
        command.args(line.split(' ')).arg("--config").arg(self.0.join("agent.toml"));
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_bad_configuration_ends_with_78_and_says_where() {
    let place = Place::new("bad", "[[job]]\nname = \"a\"\nbuiltin = \"ping\"\ntimout = \"1s\"\n");
    for command in ["check", "run"] {
        let out = place.agent(command);
        assert_eq!(out.status.code(), Some(78));
        let said = text(&out.stderr);
        assert!(said.contains("agent.toml:13: unknown key \"timout\" in [[job]]"), "{said}");
        assert!(said.contains("did you mean \"timeout\"?"), "{said}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_64() {
    let place = Place::new("usage", "");
    assert_eq!(place.agent("chek").status.code(), Some(64));
    assert_eq!(place.agent("job nothing").status.code(), Some(64));
}

#[test]
fn a_key_is_made_once_and_fits_the_configuration() {
    let place = Place::new("key", "");
    let missing = place.agent("check");
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("key new"));
    let made = place.agent("key new");
    assert!(made.status.success());
    let line = text(&made.stdout);
    assert!(line.starts_with("fieldpost nodes accept '") && line.ends_with("' --node gw-1\n"));
    assert_eq!(text(&place.agent("key show").stdout), line);
    assert_eq!(place.agent("key new").status.code(), Some(1));
    assert!(place.agent("key new --if-missing").status.success(), "as a unit asks at each boot");
    assert_eq!(text(&place.agent("key show").stdout), line);
    assert!(place.agent("check").status.success());
    assert_ne!(text(&place.agent("key new --force").stdout), line);
}

#[test]
fn a_job_runs_by_hand_and_leaves_nothing_behind() {
    // The grandchild leaves the group and holds the output open.
    let place = Place::new(
        "job",
        "[[job]]\nname = \"a\"\ncommand = [\"/bin/sh\", \"-c\", \"echo hi $1; setsid sleep 1000 & \
         exit 3\", \"sh\", \"{x}\"]\nargs.x = { pattern = \"[a-z]+\" }\n\
         [[job]]\nname = \"slow\"\ncommand = [\"/bin/sleep\", \"1000\"]\ntimeout = \"1s\"\n",
    );
    let out = place.agent("job a x=you --json");
    assert_eq!(out.status.code(), Some(1));
    let json = text(&out.stdout);
    assert!(json.contains("\"status\":\"failed\",\"exit_code\":3"), "{json}");
    assert!(json.contains("\"output\":\"hi you\\n\""), "{json}");
    assert_eq!(place.agent("job a x=1").status.code(), Some(64));
    assert_eq!(place.agent("job slow").status.code(), Some(75));
}

#[test]
fn help_and_version_need_no_configuration() {
    let agent =
        |option| Command::new(env!("CARGO_BIN_EXE_fieldpost-agent")).arg(option).output().unwrap();
    assert!(text(&agent("--help").stdout).contains("fieldpost-agent job NAME"));
    assert!(text(&agent("--version").stdout).starts_with("fieldpost-agent "));
}
