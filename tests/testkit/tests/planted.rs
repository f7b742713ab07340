//! The world finds faults that are planted on purpose: a world that finds nothing proves nothing.
#![cfg(feature = "planted-bugs")]

use fieldpost_testkit::{Plan, World};

/// The first of 1,000 histories that shows the fault.
fn caught(plant: impl Fn(&mut Plan)) -> String {
    for seed in 0..1_000 {
        let mut plan = Plan::of_seed(seed);
        plant(&mut plan);
        if let Err(broken) = World::run(&plan) {
            println!("seed {seed}: {}", broken.what);
            return broken.what;
        }
    }
    panic!("not caught within 1,000 seeds");
}

#[test]
fn an_ack_before_the_commit_is_caught() {
    caught(|plan| plan.hub_bugs.ack_before_commit = true);
}

#[test]
fn taking_a_low_seq_for_a_duplicate_is_caught() {
    caught(|plan| plan.hub_bugs.dedupe_by_seq = true);
}

#[test]
fn never_sending_again_is_caught() {
    caught(|plan| plan.agent_bugs.no_resend = true);
}

#[test]
fn forgetting_runs_at_a_restart_is_caught() {
    caught(|plan| plan.agent_bugs.forget_runs_at_restart = true);
}

#[test]
fn output_in_part_at_one_hub_and_in_part_at_another_is_caught() {
    caught(|plan| plan.agent_bugs.split_output = true);
}

#[test]
fn two_devices_with_one_key_that_are_not_quarantined_are_caught() {
    caught(|plan| plan.hub_bugs.no_quarantine = true);
}

#[test]
fn inferring_lost_while_the_result_is_coming_is_caught() {
    caught(|plan| plan.hub_bugs.lost_while_coming = true);
}
