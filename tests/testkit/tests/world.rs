//! Whatever fails, the promises hold. `SEEDS=100000 cargo test -p fieldpost-testkit --test world`
//! plays more histories, `SEED=7` one of them.

use std::time::Instant;

use fieldpost_testkit::{Plan, World};

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
    let began = Instant::now();
    let (mut executions, mut results, mut lines) = (0, 0, 0);
    for seed in 0..seeds {
        let summary = World::run(&Plan::of_seed(seed)).unwrap_or_else(|broken| panic!("{broken}"));
        executions += summary.executions;
        results += summary.results;
        lines += summary.lines;
    }
    println!(
        "{seeds} histories, {executions} programs run, {results} results, {lines} events told, \
         {:.0} histories a second",
        seeds as f64 / began.elapsed().as_secs_f64()
    );
    assert!(results > 0, "nothing happened in these worlds");
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
