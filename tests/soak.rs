//! Load with random faults, for as long as one likes: memory and descriptors stay flat, and the
//! counts are even at the end. `make soak HOURS=n`; without it some seconds, to see that it runs.
//!
//! The seed is printed; `SOAK_SEED=7` plays the same faults again.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod net;
mod site;
mod trial;

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use net::{Rules, is_done_elsewhere};
use nix::sys::signal::Signal;
use site::Running;
use trial::Trial;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
struct Holdings {
    rss_kib: u64,
    descriptors: u64,
}

impl Holdings {
    fn of(process: &Running) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count();
        Self { rss_kib: process.rss_kib(), descriptors: descriptors as u64 }
    }

    fn most(samples: &[Self]) -> Self {
        Self {
            rss_kib: samples.iter().map(|sample| sample.rss_kib).max().unwrap_or(0),
            descriptors: samples.iter().map(|sample| sample.descriptors).max().unwrap_or(0),
        }
    }
}

/// The second half of the time must not hold noticeably more than the first.
fn assert_flat(who: &str, samples: &[Holdings]) {
    let (first, second) = samples.split_at(samples.len() / 2);
    let (first, second) = (Holdings::most(first), Holdings::most(second));
    println!(
        "{who}: {:.1} MiB and {} descriptors at the most in the first half, {:.1} MiB and {} in \
         the second",
        first.rss_kib as f64 / 1024.0,
        first.descriptors,
        second.rss_kib as f64 / 1024.0,
        second.descriptors,
    );
    assert!(second.rss_kib <= first.rss_kib * 5 / 4 + 4 * 1024, "the memory of {who} grows");
    // A connection that is being made anew has two for a moment.
    assert!(second.descriptors <= first.descriptors + 16, "the descriptors of {who} grow");
}

/// One random fault, and its end.
fn fault(trial: &mut Trial, rng: &mut Rng, time: Duration) {
    match rng.u32(0..9) {
        0 | 1 => trial.net().set(|rules| {
            rules.loss_percent = 30;
            rules.jitter = Duration::from_millis(60);
        }),
        2 => trial.net().set(|rules| rules.cut = true),
        3 => trial.net().forget_connections(),
        4 => {
            let last = rng.u8(..);
            trial.net().set(|rules| rules.public = Ipv4Addr::new(10, 79, 1, last));
        }
        5 => {
            trial.site.hub.signal(Signal::SIGSTOP);
            trial.load(time);
            trial.site.hub.signal(Signal::SIGCONT);
        }
        6 => {
            let index = rng.usize(0..2);
            trial.site.agents[index].process.signal(Signal::SIGSTOP);
            trial.load(time);
            trial.site.agents[index].process.signal(Signal::SIGCONT);
        }
        7 => trial.kill_hub(),
        _ => trial.kill_agent(rng.usize(0..2)),
    }
    trial.load(time);
    trial.net().set(|rules| {
        let (public, forgotten) = (rules.public, std::mem::take(&mut rules.forgotten));
        *rules = Rules { public, forgotten, ..Rules::default() };
    });
}

#[test]
fn memory_and_descriptors_stay_flat_under_random_faults() {
    if is_done_elsewhere("memory_and_descriptors_stay_flat_under_random_faults") {
        return;
    }
    let seed = from_environment("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(from_environment("SOAK_SECONDS").unwrap_or(10));
    // A fault and the good time after it are some hundredth of the whole, within reason.
    let pace = (time / 100).clamp(Duration::from_secs(1), Duration::from_secs(20));
    println!("soak: {} s, seed {seed}", time.as_secs());
    let mut rng = Rng::with_seed(seed);
    let mut trial = Trial::over_a_wire("soak");
    let (mut hub, mut agents) = (Vec::new(), Vec::new());
    let began = Instant::now();
    trial.load(pace);
    while began.elapsed() < time {
        fault(&mut trial, &mut rng, pace);
        trial.load(pace);
        hub.push(Holdings::of(&trial.site.hub));
        let both = trial.site.agents.iter().map(|agent| Holdings::of(&agent.process));
        agents.push(Holdings::most(&both.collect::<Vec<_>>()));
    }
    trial.settle();
    assert_flat("the hub", &hub);
    assert_flat("an agent", &agents);
}
