//! The thread that carries packets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::packet::{End, Packet};
use super::{DEVICES, Rules, Shared};

/// Packets under way; beyond it they are lost, as in any queue.
const MOST: usize = 4_096;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToHub,
    ToDevices,
}

type UnderWay = BinaryHeap<Reverse<(Instant, u64, Way, Packet)>>;

/// Carries packets until it is told to stop.
pub fn carry(
    hub: File,
    devices: File,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    for end in [&hub, &devices] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }
    std::thread::spawn(move || {
        let mut under_way = UnderWay::new();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let next = under_way.peek().map_or(Duration::from_millis(20), |Reverse((due, ..))| {
                due.saturating_duration_since(Instant::now()).min(Duration::from_millis(20))
            });
            let mut ends = [
                PollFd::new(hub.as_fd(), PollFlags::POLLIN),
                PollFd::new(devices.as_fd(), PollFlags::POLLIN),
            ];
            let wait = u16::try_from(next.as_micros().div_ceil(1000)).unwrap();
            poll(&mut ends, PollTimeout::from(wait)).ok();
            take(&hub, Way::ToDevices, &shared, &mut under_way, &mut count);
            take(&devices, Way::ToHub, &shared, &mut under_way, &mut count);
            while let Some(Reverse((due, ..))) = under_way.peek()
                && *due <= Instant::now()
                && let Some(Reverse((_, _, way, packet))) = under_way.pop()
            {
                let mut to = match way {
                    Way::ToHub => &hub,
                    Way::ToDevices => &devices,
                };
                to.write_all(&packet.0).ok();
            }
        }
    })
}

/// Takes what one host has sent.
fn take(
    mut end: &File,
    way: Way,
    shared: &Mutex<Shared>,
    under_way: &mut UnderWay,
    count: &mut u64,
) {
    let mut buffer = [0; 2_048];
    for _ in 0..256 {
        let Ok(length) = end.read(&mut buffer) else { return };
        let mut packet = Packet(buffer[..length].to_vec());
        let mut shared = shared.lock().unwrap();
        let passes = packet.is_tcp() && {
            if way == Way::ToHub {
                let port = packet.port(End::Source);
                shared.ports.insert(port);
            }
            passes(&mut packet, way, &shared.rules) && under_way.len() < MOST
        };
        if !passes {
            shared.carried.dropped += 1;
            continue;
        }
        shared.carried.passed += 1;
        let Rules { delay, jitter, .. } = shared.rules;
        let late = delay + jitter.mul_f64(fastrand::f64());
        *count += 1;
        under_way.push(Reverse((Instant::now() + late, *count, way, packet)));
    }
}

/// Whether the packet gets through; then it has the right addresses.
fn passes(packet: &mut Packet, way: Way, rules: &Rules) -> bool {
    let (device, hub) = match way {
        Way::ToHub => (End::Source, End::Destination),
        Way::ToDevices => (End::Destination, End::Source),
    };
    if rules.cut
        || rules.gone == Some(packet.address(hub))
        || rules.forgotten.contains(&packet.port(device))
        || fastrand::u32(0..100) < rules.loss_percent
    {
        return false;
    }
    match way {
        Way::ToHub => packet.set_address(device, rules.public),
        // To an address that the devices had before.
        Way::ToDevices if packet.address(device) != rules.public => return false,
        Way::ToDevices => packet.set_address(device, DEVICES),
    }
    true
}
