//! Real faults: a hub and agents as real processes on hosts of their own, the wire between them
//! bad, and they themselves stopped and killed, under load. What DESIGN calls its promises is
//! counted at the end of each.
//!
//! `cargo test --workspace --test faults` plays a short form of each; `make faults` the long one
//! (`FAULTS=long`), and prints what was counted.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod net;
mod site;
mod trial;

use std::net::Ipv4Addr;
use std::time::Duration;

use net::{HUB, HUB_MOVED, is_done_elsewhere};
use nix::sys::signal::Signal;
use trial::{Trial, pause};

/// How long something lasts, in the short form and in the long one.
fn lasting(short: u64, long: u64) -> Duration {
    let is_long = std::env::var("FAULTS").is_ok_and(|form| form == "long");
    Duration::from_secs(if is_long { long } else { short })
}

#[test]
fn thirty_percent_loss_with_reordering_loses_nothing() {
    if is_done_elsewhere("thirty_percent_loss_with_reordering_loses_nothing") {
        return;
    }
    let mut trial = Trial::over_a_wire("30 % loss, reordered");
    trial.net().set(|rules| {
        rules.loss_percent = 30;
        rules.delay = Duration::from_millis(20);
        rules.jitter = Duration::from_millis(40);
    });
    trial.load(lasting(20, 120));
    trial.net().set(|rules| rules.loss_percent = 0);
    trial.settle();
}

#[test]
fn jobs_and_schedules_go_on_through_a_partition() {
    if is_done_elsewhere("jobs_and_schedules_go_on_through_a_partition") {
        return;
    }
    let mut trial = Trial::over_a_wire("partition");
    trial.load(Duration::from_secs(2));
    let before = trial.executions();
    trial.net().set(|rules| rules.cut = true);
    trial.load(lasting(15, 300));
    let after = trial.executions();
    assert!(after > before + 20, "the schedule did not go on: {before}, {after}");
    trial.net().set(|rules| rules.cut = false);
    trial.settle();
}

#[test]
fn connections_that_die_in_silence_are_made_anew() {
    if is_done_elsewhere("connections_that_die_in_silence_are_made_anew") {
        return;
    }
    let mut trial = Trial::over_a_wire("half-open link");
    trial.load(Duration::from_secs(2));
    trial.net().forget_connections();
    trial.load(lasting(5, 60));
    trial.settle();
}

#[test]
fn devices_whose_address_changes_come_back() {
    if is_done_elsewhere("devices_whose_address_changes_come_back") {
        return;
    }
    let mut trial = Trial::over_a_wire("NAT address change");
    trial.load(Duration::from_secs(2));
    for last in 2..4 {
        trial.net().set(|rules| rules.public = Ipv4Addr::new(10, 79, 0, last));
        trial.load(lasting(5, 30));
    }
    trial.settle();
}

#[test]
fn a_hub_that_moves_behind_its_name_is_found() {
    if is_done_elsewhere("a_hub_that_moves_behind_its_name_is_found") {
        return;
    }
    let mut trial = Trial::over_a_wire("hub moved behind its name");
    trial.load(Duration::from_secs(2));
    trial.site.hub.kill();
    trial.net().set(|rules| rules.gone = Some(HUB));
    trial.name_leads_to(HUB_MOVED);
    trial.load(lasting(5, 30));
    trial.site.start_hub();
    trial.load(lasting(5, 30));
    trial.settle();
}

#[test]
fn a_hub_and_agents_that_are_stopped_for_a_while_go_on() {
    if is_done_elsewhere("a_hub_and_agents_that_are_stopped_for_a_while_go_on") {
        return;
    }
    let mut trial = Trial::over_a_wire("SIGSTOP of hub and agents");
    trial.load(Duration::from_secs(2));
    trial.site.hub.signal(Signal::SIGSTOP);
    trial.load(lasting(8, 100));
    trial.site.hub.signal(Signal::SIGCONT);
    trial.load(lasting(3, 10));
    for agent in &trial.site.agents {
        agent.process.signal(Signal::SIGSTOP);
    }
    trial.load(lasting(8, 100));
    for agent in &trial.site.agents {
        agent.process.signal(Signal::SIGCONT);
    }
    trial.load(lasting(3, 10));
    trial.settle();
}

#[test]
fn full_cards_lose_nothing() {
    // What waits does not fit on it, but in memory.
    let mut trial = Trial::on_small_cards("ENOSPC on a card of 16 KiB", 16);
    trial.load(Duration::from_secs(2));
    trial.site.hub.kill();
    trial.load(lasting(20, 120));
    assert_eq!(trial.complaints(), 2, "the spools are full, and nobody says so");
    trial.site.start_hub();
    trial.settle();
}

#[test]
fn cards_that_turn_read_only_lose_nothing() {
    let mut trial = Trial::on_small_cards("read-only remount", 4096);
    trial.load(Duration::from_secs(2));
    // While nothing is written: nobody can turn a file system that is being written to.
    trial.remount_cards("ro");
    trial.site.hub.kill();
    trial.load(lasting(8, 60));
    assert_eq!(trial.complaints(), 2, "the spools are read-only, and nobody says so");
    trial.remount_cards("rw");
    trial.load(lasting(2, 90));
    trial.site.start_hub();
    trial.settle();
}

#[test]
fn a_damaged_spool_costs_the_damaged_records_only() {
    let mut trial = Trial::on_loopback("spool damaged while stopped");
    trial.load(Duration::from_secs(2));
    trial.site.hub.kill();
    let mut damaged = 0;
    for _ in 0..2 {
        trial.load(lasting(5, 60));
        damaged += trial.damage_spool(1, 5);
    }
    assert!(damaged > 0, "there was nothing to damage");
    trial.site.start_hub();
    trial.settle_without(damaged);
}

#[test]
fn kill_9_of_each_every_second_under_load() {
    let mut trial = Trial::on_loopback("kill -9 of each every second");
    trial.load(Duration::from_secs(2));
    let end = std::time::Instant::now() + lasting(10, 120);
    let mut round = 0;
    while std::time::Instant::now() < end {
        trial.kill_hub();
        trial.load(Duration::from_millis(500));
        trial.kill_agent(round % 2);
        trial.load(Duration::from_millis(500));
        round += 1;
    }
    pause(Duration::from_secs(1));
    trial.settle();
}
