//! A network of two hosts, the hub's and the devices', and a wire between them that does what it
//! is told: lose, delay and reorder, cut, forget connections, give the devices another address.
//!
//! Each host is a network namespace with one TUN device; the wire is a thread of the test that
//! carries IP packets from one to the other. So it needs no queueing discipline of the kernel's,
//! and nothing of the machine's own network is touched.
//!
//! ```text
//! hub 10.77.0.1, 10.77.0.9 ── tun ── wire (NAT: 10.79.0.n) ── tun ── devices 10.78.0.2
//! ```
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

mod io;
mod packet;
mod wire;

use io::Host;

/// The hub's first address.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The hub's other address.
pub const HUB_MOVED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// The devices' own address, behind the NAT.
const DEVICES: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// What the wire does to what it carries.
#[derive(Debug, Clone)]
pub struct Rules {
    /// One packet in a hundred so often, each way.
    pub loss_percent: u32,
    /// Each packet takes this long and up to as long again as `jitter`: what is jittered is
    /// reordered.
    pub delay: Duration,
    /// See `delay`.
    pub jitter: Duration,
    /// Nothing passes, and nobody is told.
    pub cut: bool,
    /// Connections (by the devices' port) of which nothing passes any more, and nobody is told: as
    /// a NAT does that was restarted.
    pub forgotten: HashSet<u16>,
    /// The address that the devices have for the hub.
    pub public: Ipv4Addr,
    /// Nothing comes to or from this address of the hub.
    pub gone: Option<Ipv4Addr>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            loss_percent: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            cut: false,
            forgotten: HashSet::new(),
            public: Ipv4Addr::new(10, 79, 0, 1),
            gone: None,
        }
    }
}

/// What the wire did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    /// Packets that arrived.
    pub passed: u64,
    /// Packets that did not.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Rules,
    carried: Carried,
    /// The devices' ports that were seen.
    ports: HashSet<u16>,
}

/// The network. It is gone with its owner.
pub struct Net {
    hub: Host,
    devices: Host,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    wire: Option<JoinHandle<()>>,
}

impl Net {
    /// Two hosts and a good wire.
    pub fn new() -> Self {
        let (hub, hub_end) = Host::new(&[HUB, HUB_MOVED]);
        let (devices, devices_end) = Host::new(&[DEVICES]);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let wire = wire::carry(hub_end, devices_end, Arc::clone(&shared), Arc::clone(&stop));
        Self { hub, devices, shared, stop, wire: Some(wire) }
    }

    /// From now on the wire does this.
    pub fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.lock().unwrap().rules);
    }

    /// All connections of the devices are forgotten; new ones pass.
    pub fn forget_connections(&self) {
        let mut shared = self.shared.lock().unwrap();
        let ports = std::mem::take(&mut shared.ports);
        shared.rules.forgotten.extend(ports);
    }

    /// What was carried so far.
    pub fn carried(&self) -> Carried {
        self.shared.lock().unwrap().carried
    }

    /// What a command line begins with, to be the hub's host's.
    pub fn on_hub(&self) -> Vec<String> {
        self.hub.enter()
    }

    /// What a command line begins with, to be a device's: `hosts` is its /etc/hosts.
    pub fn on_device(&self, hosts: &Path) -> Vec<String> {
        let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        let hosts = hosts.display().to_string();
        let then = ["unshare", "--mount", "sh", "-c", mount, &hosts];
        self.devices.enter().into_iter().chain(then.map(str::to_owned)).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(wire) = self.wire.take() {
            wire.join().ok();
        }
    }
}

/// Runs this test again as root of a user namespace, where it was not started by root; then
/// nothing is left to be done here. Nor is there on a host without TUN devices, unless the long
/// form was asked for.
pub fn is_done_elsewhere(test: &str) -> bool {
    if let Err(error) = std::fs::File::open("/dev/net/tun")
        && std::env::var_os("FAULTS").is_none()
    {
        eprintln!("{test} is left out: /dev/net/tun: {error}");
        return true;
    }
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{test} fails as root of a user namespace");
    true
}
