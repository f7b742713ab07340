//! The running agent as a process, without a hub: threads, signals, a second one.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An agent in a directory of its own; both are gone afterwards.
struct Agent {
    dir: PathBuf,
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Agent {
    fn start(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("fieldpost-process-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let at = dir.display();
        // Nothing listens at port 1.
        let text = format!(
            "[node]\nid = \"gw-1\"\nkey_file = \"{at}/agent.key\"\nruntime_dir = \"{at}/run\"\n\
             state_dir = \"{at}/state\"\n[[hub]]\ntriggers = \"tcp://127.0.0.1:1\"\n\
             results = \"tcp://127.0.0.1:1\"\n\
             server_keys = [\"rq:rM>}}U?@Lns47E1%kR.o@n%FcmmsL/@{{H8]yf7\"]\n"
        );
        std::fs::write(dir.join("agent.toml"), text).unwrap();
        let file = dir.join("agent.toml");
        assert!(command(&file).args(["key", "new"]).output().unwrap().status.success());
        let mut child = command(&file).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut agent = Self { dir, child, log };
        agent.await_line("node gw-1");
        agent
    }

    /// Reads the log up to a line with this text in it, and gives that line.
    fn await_line(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "it ended before {text:?}");
        }
        line
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn command(file: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fieldpost-agent"));
    command.arg("--config").arg(file).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.env_remove("JOURNAL_STREAM");
    command
}

#[test]
fn it_has_three_threads_and_ends_when_it_is_told_to() {
    let mut agent = Agent::start("threads");
    // The context's threads start with its first socket, which is before the first line.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap();
    assert_eq!(tasks.count(), 3, "ours, libzmq's reaper, and its I/O thread");
    agent.signal(Signal::SIGTERM);
    agent.await_line("stopping");
    assert!(agent.child.wait().unwrap().success());
}

#[test]
fn a_second_agent_is_told_who_has_its_directory() {
    let agent = Agent::start("second");
    let second = command(&agent.dir.join("agent.toml")).output().unwrap();
    assert_eq!(
        second.status.code(),
        Some(69),
        "systemd tries again: the first may be about to end"
    );
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("another agent (process {})", agent.child.id())), "{said}");
}

#[test]
fn a_reload_takes_what_is_good_and_keeps_the_old_otherwise() {
    let mut agent = Agent::start("reload");
    let file = agent.dir.join("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[[job]]\nname = \"p\"\nbuiltin = \"ping\"\n")).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.await_line("read again: 1 jobs");
    std::fs::write(&file, format!("{text}[[jub]]\nname = \"p\"\n")).unwrap();
    agent.signal(Signal::SIGHUP);
    assert!(agent.await_line("the old configuration stays").contains("unknown key \"jub\""));
    std::fs::write(&file, text.replace("gw-1", "gw-2")).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.await_line("node.id changed");
}
