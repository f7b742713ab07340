//! Whatever fails, the promises hold. `SEEDS=100000 cargo test -p fieldpost-testkit --test world`
//! plays more histories on all cores (`FIRST=300000`: others), `SEED=7` one of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fieldpost_testkit::{Broken, Plan, Summary, World};

/// So many broken histories are enough for one core.
const MOST_BROKEN: usize = 5;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_promises_hold_whatever_fails() {
    if let Some(seed) = from_environment("SEED") {
        let plan = Plan::of_seed(seed);
        println!("{plan:#?}");
        println!("{:?}", World::run(&plan).unwrap_or_else(|broken| panic!("{broken}")));
        return;
    }
    let seeds = from_environment("SEEDS").unwrap_or(300);
    let first = from_environment("FIRST").unwrap_or(0);
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut total = Total::default();
    let mut broken = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..cores).map(|_| scope.spawn(|| play(&next, first + seeds))).collect();
        for worker in workers {
            let (part, found) = worker.join().expect("a world that panics has failed");
            total.add(&part);
            broken.extend(found);
        }
    });
    println!(
        "{seeds} histories, {} programs run, {} results, {} with a corrected time, {} events told, {} moves to another hub, {} \
         cloned cards; {:.0} histories a second",
        total.executions,
        total.results,
        total.corrected,
        total.lines,
        total.moves,
        total.clones,
        seeds as f64 / began.elapsed().as_secs_f64()
    );
    for broken in &broken {
        println!("{broken}");
    }
    assert!(broken.is_empty(), "what is broken is printed above");
    assert!(total.corrected > 0, "nothing happened in these worlds");
}

/// What all histories held.
#[derive(Default)]
struct Total {
    executions: usize,
    results: usize,
    corrected: usize,
    lines: u64,
    moves: u64,
    clones: usize,
}

impl Total {
    fn add(&mut self, other: &Self) {
        self.executions += other.executions;
        self.results += other.results;
        self.corrected += other.corrected;
        self.lines += other.lines;
        self.moves += other.moves;
        self.clones += other.clones;
    }
}

/// Plays the next history, until there is none or some are broken.
fn play(next: &AtomicU64, end: u64) -> (Total, Vec<Broken>) {
    let (mut total, mut broken) = (Total::default(), Vec::new());
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || broken.len() >= MOST_BROKEN {
            return (total, broken);
        }
        match World::run(&Plan::of_seed(seed)) {
            Ok(Summary { executions, results, corrected, lines, moves, clones, .. }) => {
                total.add(&Total { executions, results, corrected, lines, moves, clones });
            }
            Err(found) => broken.push(found),
        }
    }
}

#[test]
fn one_seed_replays_one_history() {
    for seed in [1, 2, 3, 5, 8, 13] {
        let plan = Plan::of_seed(seed);
        let first = World::run(&plan).unwrap_or_else(|broken| panic!("{broken}"));
        let second = World::run(&plan).unwrap_or_else(|broken| panic!("{broken}"));
        assert_eq!(first, second, "seed {seed}");
    }
}
