//! The core by its door: inputs in, outputs out.

use std::time::Duration;

use fieldpost_wire::{
    Ack, Attempt, Beacon, BootId, Command, Exit, HubId, List, OutboxId, Overlap, RunId, Seq,
    SeqRange, StartId, Status, Tag, Trigger,
};

use super::*;
use crate::job::Kind;
use crate::job::tests::job;
use crate::limits::ACCEPTED_LATER;

mod spooling;
mod world;

use world::*;

#[test]
fn it_connects_and_greets_at_once() {
    let world = World::fresh(settings(jobs()));
    assert_eq!(world.done, ["connect 0/0", "ready"]);
    assert_eq!(world.said, [Said::Hello { partial: false, jobs: 2 }]);
}

#[test]
fn a_long_hello_is_partial_until_the_welcome() {
    let many = (0..60).map(|n| job(&format!("a-job-with-a-name-{n}"), Kind::Ping)).collect();
    let mut world = World::fresh(settings(many));
    assert_eq!(world.said, [Said::Hello { partial: true, jobs: 0 }]);
    world.welcome();
    assert_eq!(world.said[1], Said::Hello { partial: false, jobs: 60 });
    world.welcome();
    world.forget();
    world.pass(30, true);
    assert!(!world.said.iter().any(|said| matches!(said, Said::Hello { .. })));
}

#[test]
fn a_ping_is_answered_by_its_result_alone() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "noop");
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
    assert_eq!(world.said.len(), 1);
    world.trigger(1, "noop");
    assert_eq!(world.states(), [(1, "coming")]);
    world.ack_all();
    world.trigger(1, "noop");
    world.query(1);
    assert_eq!(world.states(), [(1, "coming"); 3]);
    assert_eq!(world.statuses().len(), 1);
}

#[test]
fn no_triggered_run_starts_before_the_first_welcome() {
    let mut world = World::fresh(settings(jobs()));
    world.trigger(1, "noop");
    assert!(world.finished().is_empty() && world.states().is_empty());
    world.welcome();
    world.trigger(1, "noop");
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
}

#[test]
fn a_program_streams_its_output_and_tells_its_end() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger_with(1, "meter", &[("bus", "3")], 60);
    world.boot += ACCEPTED_LATER;
    world.give(Input::Tick);
    assert_eq!(world.states(), [(1, "running")]);
    let slot = world.started[0];
    let launch = world.agent.launch(slot).unwrap();
    assert_eq!(launch.argv().collect::<Vec<_>>(), ["/bin/meter"]);
    assert!(launch.environment().any(|pair| pair == ("FIELDPOST_ARG_BUS".into(), "3".into())));
    world.give(Input::Started { slot, pid: 42, start_ticks: 7 });
    world.give(Input::Stdout { slot, bytes: b"12.5 " });
    world.give(Input::Stdout { slot, bytes: b"kWh" });
    world.give(Input::Stderr { slot, bytes: b"warming up" });
    world.pass(1, true);
    assert!(world.said.contains(&Said::Output(run(1), 0, b"12.5 kWh".into())));
    world.give(Input::Stdout { slot, bytes: b"!" });
    world.end(slot, Exit::Code(0));
    assert!(world.said.contains(&Said::Output(run(1), 1, b"!".into())));
    let end = world.finished().remove(0);
    assert_eq!((end.status, end.chunks, end.bytes), (Status::Ok, 2, 9));
    assert_eq!((end.stderr, end.duration_us), (b"warming up".to_vec(), 1_010_000));
    assert!(world.agent.launch(slot).is_none());
}

#[test]
fn of_a_short_program_its_result_is_word_enough() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger_with(1, "meter", &[], 60);
    world.end(world.started[0], Exit::Code(0));
    world.pass(1, true);
    assert_eq!(world.states(), []);
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
}

#[test]
fn exits_become_statuses() {
    for (exit, status) in [
        (Exit::Code(0), Status::Ok),
        (Exit::Code(3), Status::Failed),
        (Exit::Signal(11), Status::Signalled),
    ] {
        let mut world = World::welcomed(settings(jobs()));
        world.trigger(1, "meter");
        let slot = world.started[0];
        world.end(slot, exit);
        assert_eq!(world.statuses(), [(1, status)]);
        world.end(slot, exit);
        assert_eq!(world.statuses().len(), 1, "an end comes once");
    }
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.give(Input::NotStarted { slot, error: "No such file" });
    assert_eq!(world.finished()[0].note, "No such file");
    assert_eq!(world.statuses(), [(1, Status::Failed)]);
}

#[test]
fn a_trigger_that_can_not_be_run_is_rejected_and_nothing_kept() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "nothing");
    world.trigger_with(2, "meter", &[("bus", "9")], 60);
    world.trigger_with(3, "meter", &[], 0);
    assert_eq!(world.states(), [(1, "unknown job"), (2, "bad argument"), (3, "expired")]);
    world.forget();
    world.query(1);
    assert_eq!(world.states(), [(1, "unknown")]);
}

#[test]
fn concurrency_makes_runs_wait_and_a_deadline_ends_the_wait() {
    let mut world = World::welcomed(settings(jobs()));
    for n in 1..=3 {
        world.trigger_with(n, "meter", &[], 30);
    }
    world.boot += ACCEPTED_LATER;
    world.give(Input::Tick);
    assert_eq!(world.states(), [(1, "running"), (2, "accepted"), (3, "accepted")]);
    world.end(world.started[0], Exit::Code(0));
    assert_eq!(world.started.len(), 2);
    world.pass(31, true);
    let expired = world.finished().into_iter().find(|end| end.run == run(3)).unwrap();
    assert_eq!(expired.status, Status::Rejected);
    assert!(expired.note.contains("deadline"));
}

#[test]
fn overlap_skip_skips_and_the_queue_is_bounded() {
    let mut all = jobs();
    all[1].overlap = Overlap::Skip;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    assert_eq!(world.statuses(), [(2, Status::Skipped)]);

    let mut world = World::welcomed(settings(jobs()));
    for n in 0..=65 {
        world.trigger(n, "meter");
    }
    let states = world.states();
    assert_eq!(states[64], (64, "accepted"));
    assert_eq!(states[65], (65, "busy"));
    world.forget();
    world.end(world.started[0], Exit::Code(0));
    world.trigger(65, "meter");
    assert_eq!(world.states()[0], (65, "busy"), "a copy that finds room is told the same");
    assert_eq!(world.states()[1], (1, "running"), "who waited is said to run");
    world.trigger(66, "meter");
    assert_eq!(world.states()[2], (66, "accepted"));
}

#[test]
fn a_timeout_terminates_then_kills() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "meter");
    world.forget();
    world.pass(26, true);
    assert_eq!(world.done, ["Terminate 0", "Kill 0"]);
    world.end(world.started[0], Exit::Signal(9));
    assert_eq!(world.statuses(), [(1, Status::TimedOut)]);
}

#[test]
fn cancel_stops_what_runs_what_waits_and_what_has_not_come() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    world.forget();
    for n in 1..=3 {
        world.cancel(n);
    }
    assert_eq!(world.done, ["Terminate 0"]);
    assert_eq!(world.states(), [(1, "running"), (2, "coming"), (3, "cancelled")]);
    world.end(world.started[0], Exit::Signal(15));
    assert_eq!(world.statuses(), [(2, Status::Cancelled), (1, Status::Cancelled)]);
    world.trigger(3, "meter");
    assert_eq!(*world.states().last().unwrap(), (3, "cancelled"));
    assert_eq!(world.started.len(), 1);
}

#[test]
fn a_run_is_executed_once_even_across_a_restart() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "noop");
    world.ack_all();
    world.trigger(2, "noop");
    world.trigger(3, "meter");
    let slot = world.started[0];
    world.give(Input::Started { slot, pid: 42, start_ticks: 7 });
    world.trigger(4, "meter");
    world.cancel(5);
    let mut world = world.killed(identity(8));
    assert_eq!(world.done[0], "kill 42");
    world.welcome();
    let mut lost = world.statuses();
    lost.sort_unstable_by_key(|(run, _)| *run);
    assert_eq!(lost, [(2, Status::Lost), (3, Status::Lost), (4, Status::Lost)]);
    assert!(world.finished().iter().all(|end| end.job != "-"));
    world.forget();
    for n in 1..=5 {
        world.trigger(n, "noop");
    }
    let coming: Vec<_> = (1..=4).map(|n| (n, "coming")).collect();
    assert_eq!(world.states()[..4], coming);
    assert_eq!(world.states()[4], (5, "cancelled"));
    assert!(world.finished().is_empty());
    // Not acked yet, so the next start says it again; and the process is not looked for twice.
    let mut world = world.killed(identity(9));
    world.welcome();
    assert_eq!(world.statuses().len(), 3);
    assert!(!world.done.iter().any(|done| done.starts_with("kill")));
}

#[test]
fn known_runs_are_forgotten_after_their_deadline() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "noop");
    world.ack_all();
    world.pass(61, true);
    world.trigger(2, "noop");
    world.query(1);
    assert_eq!(*world.states().last().unwrap(), (1, "unknown"));
}

#[test]
fn a_heartbeat_goes_before_what_waits_and_both_say_the_boot() {
    let mut world = World::welcomed(settings(jobs()));
    world.pass(5, true);
    let start = world.boot.as_millis() as u64;
    world.trigger(1, "noop");
    world.pass(2, true);
    let beacon = Beacon { hub: HubId([9; 16]), start: StartId([2; 16]), time: world.hub_time() };
    world.hear(&Command::Beacon(beacon));
    world.forget();
    world.welcome();
    let boot = BootId(0x0707_0707);
    let boot_ms = world.boot.as_millis() as u64;
    assert_eq!(world.said[0], Said::Heartbeat { boot, boot_ms, drops: 0, errors: 0 });
    let Said::Finished(end) = &world.said[1] else { panic!("{:?}", world.said) };
    assert_eq!((end.boot, end.started_boot_ms), (boot, start));
    world.forget();
    world.pass(61, true);
    assert!(world.drops().is_some(), "and the next one within a minute");
}

#[test]
fn unacked_reports_go_again_after_a_while_and_after_a_welcome() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "noop");
    world.pass(9, true);
    assert_eq!(world.finished().len(), 1);
    world.pass(2, true);
    assert_eq!(world.finished().len(), 2);
    let beacon = Beacon { hub: HubId([9; 16]), start: StartId([2; 16]), time: world.hub_time() };
    world.forget();
    world.hear(&Command::Beacon(beacon));
    assert!(matches!(world.said[..], [Said::Hello { .. }]), "another start gets a Hello");
    world.trigger(2, "noop");
    assert_eq!(world.said.len(), 1, "and nothing else before its welcome");
    world.welcome();
    assert_eq!(world.statuses(), [(1, Status::Ok), (2, Status::Ok)]);
    world.ack_all();
    world.pass(60, true);
    assert_eq!(world.finished().len(), 2);
}

#[test]
fn a_silent_hub_is_connected_to_anew() {
    let mut world = World::welcomed(settings(jobs()));
    world.pass(95, false);
    assert_eq!(world.done, ["disconnect", "connect 0/0"]);
    world.pass(600, false);
    world.forget();
    world.pass(100, false);
    let connects = world.done.iter().filter(|done| done.starts_with("connect")).count();
    assert!((1..=3).contains(&connects), "{connects} connections in 100 s");
}

#[test]
fn a_refused_report_comes_again_when_there_is_room() {
    let mut world = World::fresh(settings(jobs()));
    world.room = false;
    world.welcome();
    world.trigger(1, "noop");
    world.pass(5, true);
    assert!(world.finished().is_empty());
    world.room = true;
    world.give(Input::Writable);
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
}

#[test]
fn a_refused_hello_comes_again_as_soon_as_there_is_room() {
    let mut world = World::fresh(settings(jobs()));
    world.pass(95, false);
    world.forget();
    world.room = false;
    world.pass(200, false);
    world.room = true;
    while !world.agent.link.is_connected() {
        world.pass(1, false);
    }
    world.forget();
    world.agent.link.hello_now(world.boot);
    world.room = false;
    world.give(Input::Tick);
    world.room = true;
    world.give(Input::Writable);
    assert!(matches!(world.said[..], [Said::Hello { .. }]));
}

/// Feeds a run as long as its output is read; gives how many bytes it took.
fn feed(world: &mut World, slot: Slot, total: usize) -> usize {
    let mut fed = 0;
    while fed < total && world.agent.runs.active(slot).unwrap().is_read() {
        world.give(Input::Stdout { slot, bytes: &[7; 16 * 1024] });
        fed += 16 * 1024;
    }
    fed
}

#[test]
fn a_full_outbox_stops_the_reading_and_acks_resume_it() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    let slot = world.started[0];
    let mut fed = 0;
    for _ in 0..40 {
        fed += feed(&mut world, slot, 1 << 20);
        assert!(world.done.ends_with(&["read 0 false".into()]));
        world.forget();
        world.pass(20, true);
        assert!(world.done.is_empty(), "the program waits, and that does not count");
        world.ack_all_of(7);
        assert_eq!(world.done, ["read 0 true"]);
    }
    world.end(slot, Exit::Code(0));
    let end = world.finished().remove(0);
    assert_eq!((end.status, end.bytes, end.dropped), (Status::Ok, fed as u64, false));
}

#[test]
fn a_hub_that_is_there_but_never_acks_does_not_hold_a_program_for_ever() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    let slot = world.started[0];
    feed(&mut world, slot, 1 << 20);
    world.forget();
    world.pass(100, true);
    assert!(world.done.is_empty(), "it may only be slow");
    world.pass(30, true);
    assert_eq!(world.done, ["read 0 true"]);
    assert_eq!(feed(&mut world, slot, 1 << 20), 1 << 20, "the drop policy makes room");
    world.end(slot, Exit::Code(0));
    let end = world.finished().remove(0);
    assert_eq!((end.status, end.dropped), (Status::Ok, true));
}

#[test]
fn a_stopping_agent_does_not_wait_for_room_in_the_outbox() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    let slot = world.started[0];
    feed(&mut world, slot, 1 << 20);
    world.give(Input::Stop);
    world.forget();
    world.pass(11, true);
    assert_eq!(world.done, ["Terminate 0"]);
    world.pass(8, true);
    assert!(world.done.contains(&"read 0 true".into()), "{:?}", world.done);
    world.end(slot, Exit::Signal(15));
    world.pass(11, true);
    assert!(world.exited);
}

impl World {
    /// Acks everything of the outbox of identity `n`.
    fn ack_all_of(&mut self, n: u8) {
        self.tags.push(Tag { outbox: OutboxId([n; 16]), seq: Seq(1) });
        self.ack_all();
    }
}

#[test]
fn while_the_hub_is_away_whole_outputs_go_oldest_first() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    all[1].concurrency = 2;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (first, second) = (world.started[0], world.started[1]);
    feed(&mut world, first, 64 * 1024);
    world.end(first, Exit::Code(0));
    world.pass(95, false);
    assert!(!world.agent.link.is_up());
    world.forget();
    assert_eq!(feed(&mut world, second, 176 * 1024), 176 * 1024);
    world.end(second, Exit::Code(0));
    assert!(world.done.iter().all(|done| !done.starts_with("read")));
    world.forget();
    world.pass_until_connected();
    world.welcome();
    let ends = world.finished();
    assert_eq!((ends[0].run, ends[0].dropped), (run(1), true));
    assert_eq!((ends[1].run, ends[1].dropped), (run(2), false));
    let chunks = world.said.iter().filter(|said| matches!(said, Said::Output(..))).count();
    assert_eq!(chunks as u32, ends[1].chunks, "only the second's");
    world.pass(61, true);
    assert_eq!(world.drops(), Some(4));
}

#[test]
fn output_that_one_hub_has_in_part_is_dropped_at_the_next_and_its_end_says_so() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    all[1].concurrency = 2;
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (first, second) = (world.started[0], world.started[1]);
    feed(&mut world, first, 32 * 1024);
    world.ack_all();
    feed(&mut world, first, 32 * 1024);
    feed(&mut world, second, 32 * 1024);
    for slot in [first, second] {
        world.end(slot, Exit::Code(0));
    }
    world.forget();
    // Another life of the same hub gets all.
    world.welcome_by(HubId([9; 16]), StartId([2; 16]));
    assert!(world.finished().iter().all(|end| !end.dropped));
    world.forget();
    world.welcome_by(HubId([8; 16]), StartId([3; 16]));
    let ends: Vec<_> = world.finished().iter().map(|end| (end.run, end.dropped)).collect();
    assert_eq!(ends, [(run(1), true), (run(2), false)]);
    let runs = world.said.iter().filter_map(|said| match said {
        Said::Output(run, ..) => Some(*run),
        _ => None,
    });
    assert!(
        runs.clone().count() > 0 && runs.clone().all(|of| of == run(2)),
        "what is whole goes whole"
    );
}

impl World {
    fn pass_until_connected(&mut self) {
        while !self.agent.link.is_connected() {
            self.pass(1, false);
        }
    }
}

#[test]
fn refuse_new_keeps_what_is_there() {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    all[1].concurrency = 2;
    all[1].timeout = Duration::from_secs(10_000);
    let when_full = WhenFull::RefuseNew;
    let mut world = World::welcomed(Settings { when_full, ..settings(all) });
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (first, second) = (world.started[0], world.started[1]);
    feed(&mut world, first, 64 * 1024);
    world.end(first, Exit::Code(0));
    world.pass(95, false);
    feed(&mut world, second, 512 * 1024);
    world.end(second, Exit::Code(0));
    world.forget();
    world.pass_until_connected();
    world.welcome();
    let dropped: Vec<_> = world.finished().iter().map(|end| (end.run.0[0], end.dropped)).collect();
    assert_eq!(dropped, [(1, false), (2, true)]);
}

#[test]
fn memory_stays_bounded_and_every_end_is_told_or_counted_when_the_hub_is_away_for_long() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "noop", 1000)]);
    world.forget();
    world.pass(5000, false);
    assert!(world.agent.outbox.len() <= 2048);
    world.pass_until_connected();
    world.forget();
    world.welcome();
    let told = world.finished().len() as u64;
    world.pass(10, true);
    let dropped = world.drops().unwrap();
    assert!(told > 1000, "{told}");
    assert!(told + dropped >= 4990, "{told} + {dropped}");
}

#[test]
fn a_schedule_runs_with_and_without_a_link_and_survives_a_restart() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "noop", 10_000)]);
    assert_eq!(world.done, ["save"]);
    world.pass(300, false);
    world.pass_until_connected();
    world.welcome();
    let ids: std::collections::HashSet<_> = world.finished().iter().map(|end| end.run).collect();
    assert!(ids.len() >= 30, "{}", ids.len());
    world.ack_all_of(7);
    let before = world.boot;
    let mut world = world.killed(identity(8));
    world.welcome();
    world.forget();
    world.pass(10, true);
    assert_eq!(world.finished().len(), 1, "its phase is kept across {before:?}");
    assert!(!world.done.contains(&"save".into()), "nothing is written to disk");
}

#[test]
fn a_clock_that_is_set_back_names_no_two_runs_of_an_interval_alike() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "noop", 1_000)]);
    world.pass(60, true);
    world.ack_all_of(7);
    let before: std::collections::HashSet<_> = world.finished().iter().map(|end| end.run).collect();
    // Set back while the agent was away; nobody says that it is wrong.
    let mut world = world.killed_with_clock(identity(8), -30_000);
    world.welcome();
    world.pass(60, true);
    let after: Vec<_> = world.finished().iter().map(|end| end.run).collect();
    assert!(before.len() > 50 && after.len() > 50);
    assert!(after.iter().all(|run| !before.contains(run)));
}

#[test]
fn an_entry_that_can_not_run_is_told_by_heartbeat_and_result() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "nothing", 10_000)]);
    let is_it = |said: &Said| matches!(said, Said::Heartbeat { drops: 0, errors: 1, .. });
    assert!(world.said.iter().any(is_it));
    world.pass(11, true);
    let end = world.finished().remove(0);
    assert_eq!((end.status, end.job.as_str()), (Status::Rejected, "nothing"));
    // A reload that brings the job heals it, on the same link.
    let mut all = jobs();
    all.push(job("nothing", Kind::Ping));
    world.forget();
    world.give(Input::Reloaded(Box::new(Reload { groups: Vec::new(), jobs: all })));
    assert_eq!(world.said, [Said::Hello { partial: false, jobs: 3 }]);
    world.welcome();
    world.pass(10, true);
    assert_eq!(world.finished()[0].status, Status::Ok);
}

#[test]
fn a_missed_due_time_is_reported_and_caught_up_with() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "noop", 60_000)]);
    world.forget();
    world.boot += Duration::from_secs(270); // suspended
    world.give(Input::Tick);
    world.pass_until_connected();
    world.welcome();
    assert!(world.said.contains(&Said::Missed("e".into(), 3)));
    assert_eq!(world.finished().len(), 1);
}

#[test]
fn a_file_run_is_delivered_when_all_of_it_is_acked() {
    let mut all = jobs();
    all.push(job("log", Kind::File { path: "/var/log/x".into() }));
    let mut world = World::welcomed(settings(all));
    world.trigger(1, "log");
    let slot = world.started[0];
    world.give(Input::Stdout { slot, bytes: b"line\n" });
    world.end(slot, Exit::None);
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
    assert!(!world.done.contains(&"delivered 1".into()));
    let (mut list, outbox) = ([0; 64], OutboxId([7; 16]));
    for seq in [2, 1] {
        assert!(!world.done.contains(&"delivered 1".into()));
        let range = SeqRange { first: Seq(seq), last: Seq(seq) };
        let ranges = List::encode(&mut list, [range]).unwrap();
        world.hear(&Command::Ack(Ack { outbox, ranges }));
    }
    assert!(world.done.contains(&"delivered 1".into()));
}

#[test]
fn a_stop_drains_and_then_exits() {
    let mut world = World::welcomed(settings(jobs()));
    for n in 1..=2 {
        world.trigger(n, "meter");
    }
    world.give(Input::Stop);
    assert_eq!(world.statuses(), [(2, Status::Rejected)]);
    world.trigger(3, "noop");
    assert_eq!(*world.states().last().unwrap(), (3, "stopping"));
    world.forget();
    world.pass(11, true);
    assert_eq!(world.done, ["Terminate 0"]);
    world.end(world.started[0], Exit::Signal(15));
    assert_eq!(world.statuses().last(), Some(&(1, Status::Cancelled)));
    assert!(!world.exited, "the result is not acked");
    world.ack_all();
    assert!(world.exited);
    assert_eq!(world.agent.poll_output(), None);
    assert_eq!(world.agent.next_deadline(), None);
}

#[test]
fn a_stop_without_a_hub_ends_too() {
    let mut world = World::fresh(settings(jobs()));
    world.give(Input::Stop);
    assert!(world.exited, "there is nothing to wait for");
    let mut world = World::welcomed(settings(jobs()));
    world.trigger(1, "noop");
    world.give(Input::Stop);
    assert!(!world.exited);
    world.pass(11, false);
    assert!(world.exited);
}

#[test]
fn garbage_is_counted_and_changes_nothing() {
    let mut world = World::welcomed(settings(jobs()));
    let mut rng = fastrand::Rng::with_seed(3);
    for len in 0..200 {
        let bytes: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        world.give(Input::Command(&bytes));
    }
    assert_eq!(world.agent.bad_commands, 200);
    let journal: Vec<u8> = (0..5000).map(|_| rng.u8(..)).collect();
    let boot = Duration::from_secs(5);
    World::restarted(
        settings(jobs()),
        identity(1),
        &journal,
        Some(&journal),
        boot,
        Disk::default(),
    );
}

#[test]
fn the_journal_stays_small() {
    let mut world = World::welcomed(settings(jobs()));
    let mut most = 0;
    for n in 0..20_000_u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let (run, attempt) = (RunId(id), Attempt(1));
        let deadline = world.hub_time().plus_ms(10_000);
        let (job, args) = ("noop", List::empty());
        world.hear(&Command::Trigger(Trigger { run, attempt, job, args, deadline, origin: "" }));
        world.ack_all();
        world.boot += Duration::from_millis(20);
        most = most.max(world.journal.len());
    }
    assert_eq!(world.finished().len(), 20_000);
    assert!(most < 300_000, "{most}");
}

#[test]
fn a_run_that_is_settled_is_coming_no_more_once_its_deadline_is_over() {
    let mut world = World::welcomed(settings(jobs()));
    world.trigger_with(1, "noop", &[], 60);
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
    world.ack_all();
    world.pass(3_600, true);
    world.forget();
    // The hub went back to a backup from before the result: it waits for what it had acked.
    world.query(1);
    assert_eq!(world.states(), [(1, "unknown")]);
}
