//! The outbox with its files.

use std::collections::{BTreeSet, HashMap, VecDeque};

use fieldpost_wire::{Entry, When};

use super::*;
use crate::limits::SEGMENT;
use crate::spool::{self, Durability};

const MIB: u64 = 1 << 20;

fn spooling(durability: Durability, max: u64) -> Settings {
    let mut all = jobs();
    all[1].max_output = u64::MAX;
    all[1].timeout = Duration::from_secs(100_000);
    all[1].concurrency = 2;
    let spool = Some(spool::Settings { max, durability, write_budget: None });
    Settings { spool, ..settings(all) }
}

/// So many bytes may be written in a day.
fn budgeted(bytes: u64) -> Settings {
    let mut settings = spooling(Durability::Spill, 4 * MIB);
    if let Some(spool) = &mut settings.spool {
        spool.write_budget = Some(bytes);
    }
    settings
}

fn spill() -> World {
    World::welcomed(spooling(Durability::Spill, 4 * MIB))
}

impl World {
    fn feed(&mut self, slot: Slot, bytes: usize) {
        feed(self, slot, bytes);
    }

    /// The hub is gone for so long that the agent knows.
    fn lose_hub(&mut self) {
        self.pass(95, false);
        self.forget();
    }

    /// The hub is back, takes all there is and acks it as it comes.
    fn meet_hub(&mut self) {
        self.pass_until_connected();
        self.welcome();
        for _ in 0..10_000 {
            let tags = std::mem::take(&mut self.tags);
            if tags.is_empty() {
                return;
            }
            self.ack(&tags);
        }
        panic!("it never comes to an end");
    }

    fn ack(&mut self, tags: &[Tag]) {
        for tag in tags {
            let mut list = [0; 64];
            let range = SeqRange { first: tag.seq, last: tag.seq };
            let ranges = List::encode(&mut list, [range]).unwrap();
            self.hear(&Command::Ack(Ack { outbox: tag.outbox, ranges }));
        }
    }

    fn outputs(&self, n: u8) -> BTreeSet<u32> {
        let index = |said: &Said| match said {
            Said::Output(of, index, _) if *of == run(n) => Some(*index),
            _ => None,
        };
        self.said.iter().filter_map(index).collect()
    }

    fn power_cut(mut self, id: u8) -> Self {
        self.disk.cut_power();
        self.journal.clear();
        self.killed(identity(id))
    }

    fn written(&self) -> usize {
        self.disk.written
    }
}

#[test]
fn while_the_hub_acks_nothing_is_written() {
    let mut world = spill();
    for n in 1..40 {
        world.trigger(n, "noop");
        world.pass(1, true);
        world.ack_all();
        world.pass(30, true);
    }
    assert_eq!(world.written(), 0);
}

#[test]
fn what_is_unacked_for_two_seconds_is_on_disk_and_synced_within_five_more() {
    let mut world = spill();
    world.trigger(1, "noop");
    world.pass(1, true);
    assert_eq!(world.written(), 0);
    world.pass(1, true);
    assert!(world.written() > 0);
    world.pass(5, true);
    let bytes = world.disk.bytes();
    assert_eq!(world.disk.synced.values().sum::<usize>(), bytes);
    world.ack_all();
    world.pass(60, true);
    assert_eq!(world.disk.bytes(), 0, "an idle spool is an empty directory");
}

#[test]
fn a_spooled_result_survives_a_power_cut_and_keeps_its_outbox_and_seq() {
    let mut world = spill();
    world.trigger(1, "noop");
    world.pass(8, true);
    let tag = world.tags[0];
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
    world.query(1);
    assert_eq!(world.states(), [(1, "unknown")], "it is acked, and its deadline long over");
    assert_eq!(world.agent.spool.as_ref().unwrap().bytes(), 0);
    let mut world = spill();
    world.trigger(1, "noop");
    world.pass(8, true);
    let mut world = world.power_cut(8);
    world.forget();
    world.pass_until_connected();
    world.welcome();
    assert_eq!(world.tags, [tag]);
}

#[test]
fn a_restart_does_not_call_lost_what_is_in_the_spool() {
    let mut world = spill();
    world.trigger(1, "noop");
    world.trigger(2, "meter");
    world.pass(8, true);
    let mut world = world.killed(identity(8));
    world.forget();
    world.meet_hub();
    let statuses: BTreeSet<_> =
        world.statuses().into_iter().map(|(n, status)| (n, status == Status::Ok)).collect();
    assert_eq!(statuses, BTreeSet::from([(1, true), (2, false)]));
    world.trigger(1, "noop");
    assert_eq!(world.statuses().len(), 2, "it is not run again");
}

#[test]
fn an_end_that_a_damaged_spool_lost_is_told_with_its_job() {
    let mut world = spill();
    world.trigger(1, "noop");
    world.pass(8, true);
    // What the journal remembers of it now is what the spool left to be remembered.
    let mut world = world.killed(identity(8));
    world.disk.files.clear();
    let mut world = world.killed(identity(9));
    world.forget();
    world.meet_hub();
    let ends: Vec<_> = world.finished().into_iter().map(|end| (end.status, end.job)).collect();
    assert_eq!(ends, [(Status::Lost, "noop".to_owned())]);
}

#[test]
fn a_stop_leaves_everything_on_disk() {
    let mut world = spill();
    world.lose_hub();
    world.pass_until_connected();
    world.welcome();
    world.take_up(1, [entry("e", "noop", 1000)]);
    world.pass(100, false);
    world.ack_all();
    world.pass(3, false);
    world.forget();
    let held = world.agent.outbox.len();
    assert!(held > 0);
    world.give(Input::Stop);
    world.pass(1, false);
    assert!(world.exited, "it does not wait for a hub that is away");
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    assert!(world.finished().len() >= held, "{} of {held}", world.finished().len());
}

#[test]
fn output_beyond_the_memory_goes_to_disk_and_comes_back_whole_and_in_bounds() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    let most = world.agent.outbox.size();
    world.feed(slot, 2 << 20);
    world.end(slot, Exit::Code(0));
    assert!(world.agent.outbox.bytes() <= most);
    assert!(world.disk.bytes() > 1 << 20);
    world.trigger(2, "noop");
    world.meet_hub();
    let end = &world.finished().into_iter().find(|end| end.run == run(1)).unwrap();
    assert_eq!((end.bytes, end.dropped), (2 << 20, false));
    assert_eq!(world.outputs(1).len() as u32, end.chunks);
    world.pass(60, true);
    assert_eq!(world.disk.bytes(), 0);
    assert_eq!(world.drops(), Some(0));
}

#[test]
fn what_is_live_goes_before_what_waited_on_disk() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 2 << 20);
    world.pass_until_connected();
    world.room = false;
    world.welcome();
    world.trigger(2, "noop");
    world.room = true;
    world.forget();
    world.give(Input::Writable);
    let first_from_disk = world.tags.windows(2).position(|pair| pair[1].seq < pair[0].seq);
    let end = world.said.iter().position(|said| matches!(said, Said::Finished(_))).unwrap();
    let newest = world.said.iter().rposition(|said| matches!(said, Said::Output(..))).unwrap();
    assert!(first_from_disk.is_some() && end < newest);
}

/// Two runs leave more than the disk holds; then the hub is back: the output of one is `dropped`,
/// whole, and the other's is `kept`.
fn two_large_outputs(world: &mut World, dropped: u8, kept: u8) {
    for n in 0..2 {
        let slot = world.started[n];
        world.feed(slot, 700 * 1024);
        world.end(slot, Exit::Code(0));
    }
    assert!(world.disk.most as u64 <= MIB, "{}", world.disk.most);
    world.meet_hub();
    let ends = world.finished();
    let gone: Vec<_> = ends.iter().filter(|end| end.dropped).map(|end| end.run.0[0]).collect();
    assert_eq!(gone, [dropped], "{ends:?}");
    assert_eq!(
        world.outputs(kept).len() as u32,
        ends.iter().find(|e| e.run == run(kept)).unwrap().chunks
    );
}

#[test]
fn a_full_spool_drops_the_oldest_output_whole_and_its_end_says_so() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    for n in 1..=4 {
        world.trigger(n, "meter");
        if n == 1 {
            world.lose_hub();
        }
    }
    // Two at once: a run starts when one has ended.
    two_large_outputs(&mut world, 1, 2);
    world.pass(61, true);
    assert!(world.drops().unwrap() > 0);
}

#[test]
fn refuse_new_keeps_what_is_on_disk() {
    let when_full = WhenFull::RefuseNew;
    let mut world = World::welcomed(Settings { when_full, ..spooling(Durability::Spill, MIB) });
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    world.lose_hub();
    two_large_outputs(&mut world, 2, 1);
}

#[test]
fn always_keeps_a_result_from_a_power_cut_before_it_is_sent() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    world.trigger(1, "noop");
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    assert_eq!(world.statuses(), [(1, Status::Ok)]);
}

#[test]
fn always_keeps_a_run_from_starting_twice_across_a_power_cut() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    world.trigger(1, "meter");
    assert_eq!(world.started.len(), 1);
    let mut world = world.power_cut(8);
    world.forget();
    world.pass_until_connected();
    world.welcome();
    world.trigger(1, "meter");
    assert_eq!(world.started.len(), 0);
    assert_eq!(world.statuses(), [(1, Status::Lost)]);
    world.meet_hub();
    world.pass(60, true);
    assert_eq!(world.disk.bytes(), 0, "nothing is left of it");
}

#[test]
fn what_is_lost_in_a_power_cut_is_told_with_the_boot_that_it_was_in() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    let started = world.boot.as_millis() as u64;
    world.trigger(1, "meter");
    let told = |world: &World| {
        let end = &world.finished()[0];
        (end.status, end.boot, end.started_boot_ms)
    };
    let lost = (Status::Lost, BootId(0x0707_0707), started);
    let mut world = world.power_cut(8);
    world.pass_until_connected();
    world.welcome();
    assert_eq!(told(&world), lost);
    // The journal of the next boot tells of it too.
    let mut world = world.killed(identity(9));
    world.pass_until_connected();
    world.welcome();
    assert_eq!(told(&world), lost);
    let beat = |said: &Said| matches!(said, Said::Heartbeat { boot: BootId(0x0808_0808), .. });
    assert!(world.said.iter().any(beat));
}

/// Two runs, of which the second ends and is acked: its end is in another segment than the words
/// that the two were accepted.
fn end_the_second_of_two(world: &mut World) {
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let second = world.started[1];
    while world.disk.files.len() < 2 {
        world.feed(second, 16 * 1024);
        world.ack_all();
    }
    world.end(second, Exit::Code(0));
    world.ack_all();
}

#[test]
fn always_does_not_forget_that_a_run_ended_while_it_knows_that_it_began() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    end_the_second_of_two(&mut world);
    world.pass(60, true);
    let left = world.disk.bytes();
    assert!(left < 2048, "of the first that it was accepted, and no more: {left}");
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    assert_eq!(world.statuses(), [(1, Status::Lost)]);
}

#[test]
fn what_could_not_be_moved_keeps_nothing_else_from_going() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    end_the_second_of_two(&mut world);
    let first = world.started[0];
    // That the first was accepted moves to another segment, which can't be synced.
    world.disk.bad_syncs = 1;
    world.pass(190, true);
    assert_eq!(world.disk.bad_syncs, 0);
    for _ in 0..400 {
        world.feed(first, 16 * 1024);
        world.ack_all();
    }
    world.end(first, Exit::Code(0));
    world.ack_all();
    world.pass(200, true);
    assert!(world.disk.files.len() < 3, "{} files", world.disk.files.len());
}

#[test]
fn of_many_ended_runs_on_disk_none_is_called_lost_after_a_power_cut() {
    let mut world = World::welcomed(spooling(Durability::Always, 64 * MIB));
    world.take_up(1, [entry("e", "noop", 1_000)]);
    world.lose_hub();
    world.pass(crate::limits::SPOOLED_RUNS as u64 + 500, false);
    world.take_up(2, [entry("m", "meter", 5_000)]);
    world.pass(6, false);
    assert_eq!(world.started.len(), 1);
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    let ends = world.finished();
    let lost: Vec<_> = ends.iter().filter(|end| end.status == Status::Lost).collect();
    assert!(ends.len() > crate::limits::SPOOLED_RUNS);
    assert_eq!((lost.len(), lost[0].job.as_str()), (1, "meter"));
    world.take_up(3, []);
    for slot in std::mem::take(&mut world.started) {
        world.end(slot, Exit::Code(0));
    }
    world.ack_all();
    world.pass(60, true);
    assert_eq!(world.disk.bytes(), 0, "nothing is left of them");
}

#[test]
fn what_was_acked_from_disk_alone_is_not_called_lost() {
    let mut world = spill();
    world.take_up(1, [entry("e", "noop", 1_000)]);
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    // Their copies in memory have to go, and they are known no more.
    world.feed(slot, 512 * 1024);
    world.pass(200, false);
    world.take_up(2, []);
    world.meet_hub();
    let ends = world.finished().len();
    assert!(ends > 250, "{ends}");
    world.end(slot, Exit::Code(0));
    world.ack_all();
    world.pass(60, true);
    assert_eq!(world.disk.bytes(), 0);
    let mut world = world.killed(identity(8));
    world.forget();
    world.meet_hub();
    assert_eq!(world.finished(), []);
}

#[test]
fn a_failing_disk_means_memory_only_and_is_said_and_tried_again() {
    let mut world = spill();
    world.disk.fails = true;
    world.trigger(1, "noop");
    world.pass(10, true);
    assert_eq!(world.disk.bytes(), 0);
    assert!(world.agent.spool.as_ref().unwrap().trouble().contains("No space left"));
    world.disk.fails = false;
    world.pass(61, true);
    assert!(world.disk.bytes() > 0);
    assert_eq!(world.agent.spool.as_ref().unwrap().trouble(), "");
}

#[test]
fn with_a_full_disk_the_drop_policy_acts_in_memory() {
    let mut world = spill();
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    world.lose_hub();
    world.disk.fails = true;
    for n in 0..2 {
        let slot = world.started[n];
        world.feed(slot, 200 * 1024);
        world.end(slot, Exit::Code(0));
    }
    world.meet_hub();
    let ends = world.finished();
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().any(|end| end.dropped));
}

#[test]
fn beyond_the_daily_budget_only_durable_jobs_are_spooled() {
    let mut settings = budgeted(600);
    settings.jobs[0].durable = true;
    let mut world = World::welcomed(settings);
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.feed(slot, 900);
    world.end(slot, Exit::Code(0));
    world.pass(8, true);
    let before = world.written();
    world.trigger(2, "noop");
    world.pass(8, true);
    assert!(world.written() > before);
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    let runs: Vec<u8> = world.finished().iter().map(|end| end.run.0[0]).collect();
    assert!(runs.contains(&2) && world.outputs(1).is_empty(), "{runs:?}");
}

#[test]
fn a_restart_does_not_begin_the_daily_budget_anew() {
    let settings = budgeted(20 * 1024);
    let mut world = World::welcomed(settings);
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.feed(slot, 16 * 1024);
    world.end(slot, Exit::Code(0));
    world.pass(8, true);
    assert!(world.written() > 16 * 1024);
    // Twice: the second start knows it from what the first wrote anew.
    let mut world = world.killed(identity(8)).killed(identity(9));
    world.pass_until_connected();
    world.welcome();
    let at_start = world.written();
    world.trigger(2, "meter");
    let slot = *world.started.last().unwrap();
    world.feed(slot, 16 * 1024);
    world.end(slot, Exit::Code(0));
    world.pass(8, true);
    assert!(world.written() < at_start + 1_000, "{} {at_start}", world.written());
    world.pass(24 * 60 * 60, true);
    assert!(world.written() > at_start + 16 * 1024);
}

#[test]
fn a_run_whose_output_was_lost_on_disk_ends_all_the_same() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.feed(slot, 40 * 1024);
    world.end(slot, Exit::Code(0));
    world.pass(8, true);
    // A sector in the middle of the first chunk goes bad.
    let file = world.disk.files.values_mut().next().unwrap();
    file[5000] ^= 1;
    let mut world = world.power_cut(8);
    world.forget();
    world.pass_until_connected();
    world.welcome();
    assert_eq!(world.outputs(1), BTreeSet::from([1, 2]));
    // The hub acks what it has; the end waits for the rest.
    let ends: Vec<_> = world.tags.clone();
    world.ack(&ends[..2]);
    for _ in 0..10 {
        world.pass(30, true);
    }
    assert!(
        !world.finished().last().unwrap().dropped,
        "a hub that acks nothing may have a full disk"
    );
    for number in 2..7 {
        let before = world.tags.len();
        world.trigger(number, "noop");
        let of_this = world.tags[before..].to_vec();
        world.ack(&of_this);
        world.pass(100, true);
    }
    let ends = world.finished();
    assert!(ends.iter().rev().find(|end| end.run.0[0] == 1).unwrap().dropped);
}

#[test]
fn one_segment_that_can_not_be_synced_does_not_keep_the_others_from_it() {
    let mut settings = spooling(Durability::Spill, 4 * MIB);
    // All of it stays in memory too, to be written again.
    settings.outbox_bytes = 1024 * 1024;
    let mut world = World::welcomed(settings);
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 200 * 1024);
    world.end(slot, Exit::Code(0));
    world.pass(3, false);
    assert!(world.disk.files.len() >= 2, "{}", world.disk.files.len());
    world.disk.bad_syncs = 1;
    world.pass(80, false);
    assert_eq!(world.disk.bad_syncs, 0, "one failed");
    let disk = &world.disk;
    let torn: Vec<_> = disk
        .files
        .iter()
        .filter(|(number, bytes)| {
            !disk.spoilt.contains(number) && disk.synced.get(number) != Some(&bytes.len())
        })
        .map(|(number, _)| *number)
        .collect();
    assert!(torn.is_empty(), "never synced: {torn:?}");
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    assert_eq!(world.outputs(1), (0..13).collect::<BTreeSet<_>>());
}

type Outputs = HashMap<RunId, BTreeSet<u32>>;

impl World {
    /// A hub that acks as the real one does, for so long: output at once, an end when it has all of its
    /// output or that says it lost some. Gives whose ends it did not take.
    fn strict_hub(&mut self, minutes: u64) -> BTreeSet<RunId> {
        let (mut have, mut refused) = (Outputs::new(), BTreeSet::new());
        for _ in 0..minutes * 6 {
            while self.strict_acks(&mut have, &mut refused) {}
            self.pass(10, true);
        }
        refused
    }

    fn strict_acks(&mut self, have: &mut Outputs, refused: &mut BTreeSet<RunId>) -> bool {
        let tags = std::mem::take(&mut self.tags);
        let said = std::mem::take(&mut self.said);
        let reports = said.into_iter().filter(Said::is_kept);
        let mut taken = Vec::new();
        for (report, tag) in reports.zip(tags) {
            match report {
                Said::Output(run, index, _) => {
                    have.entry(run).or_default().insert(index);
                }
                Said::Finished(end) => {
                    let chunks = have.get(&end.run).map_or(0, BTreeSet::len) as u32;
                    if !end.dropped && chunks < end.chunks {
                        refused.insert(end.run);
                        continue;
                    }
                    refused.remove(&end.run);
                }
                _ => {}
            }
            taken.push(tag);
        }
        self.ack(&taken);
        !taken.is_empty()
    }

    /// A hub comes after a long time.
    fn find_hub(&mut self) {
        self.forget();
        self.pass_until_connected();
        self.welcome();
    }

    fn spool_bytes(&self) -> u64 {
        self.agent.spool.as_ref().unwrap().bytes()
    }
}

impl Said {
    /// Whether it is acked.
    fn is_kept(&self) -> bool {
        matches!(self, Self::Output(..) | Self::Finished(_) | Self::Missed(..))
    }
}

#[test]
fn the_ends_of_many_runs_whose_output_a_full_spool_dropped_are_taken() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.take_up(1, [entry("e", "meter", 1000)]);
    world.lose_hub();
    for _ in 0..5_000 {
        world.boot += Duration::from_secs(1);
        world.give(Input::Tick);
        while let Some(slot) = world.started.pop() {
            if world.agent.runs.active(slot).is_some() {
                world.give(Input::Stdout { slot, bytes: &[7; 20] });
                world.end(slot, Exit::Code(0));
            }
        }
    }
    world.take_up(2, []);
    world.find_hub();
    let refused = world.strict_hub(60);
    assert!(refused.is_empty(), "{} ends are not taken", refused.len());
    assert_eq!(world.spool_bytes(), 0);
}

#[test]
fn a_restart_on_the_second_day_does_not_begin_the_daily_budget_anew_either() {
    let settings = budgeted(20 * 1024);
    let mut world = World::welcomed(settings);
    let write = |world: &mut World, number| {
        world.trigger(number, "meter");
        let slot = *world.started.last().unwrap();
        world.feed(slot, 16 * 1024);
        world.end(slot, Exit::Code(0));
        world.pass(8, true);
        world.ack_all();
        world.written()
    };
    write(&mut world, 1);
    world.pass(25 * 60 * 60, true);
    let second_day = write(&mut world, 2);
    assert!(second_day > 32 * 1024, "{second_day}");
    let mut world = world.killed(identity(8));
    world.pass_until_connected();
    world.welcome();
    let written = write(&mut world, 3);
    assert!(written < second_day + 1_000, "{written}, {second_day}");
}

#[test]
fn a_disk_that_fills_up_while_room_is_made_keeps_nothing_that_is_acked() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.take_up(1, [entry("e", "noop", 500)]);
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    for second in 0..110 {
        // Others fill the rest of the card when the first segment was read to be emptied.
        world.disk.full_after_read = second >= 50;
        world.give(Input::Stdout { slot, bytes: &[7; 16 * 1024] });
        world.pass(1, false);
    }
    assert!(world.disk.space.is_some(), "it came to that");
    world.end(slot, Exit::Code(0));
    world.take_up(2, []);
    world.find_hub();
    world.strict_hub(60);
    assert_eq!(world.disk.bytes(), 0);
}

#[test]
fn failed_syncs_leave_no_segments_behind() {
    let mut world = spill();
    world.take_up(1, [entry("e", "noop", 10_000)]);
    for _ in 0..20 {
        world.disk.bad_syncs = 1;
        world.pass(70, false);
        world.pass_until_connected();
        world.welcome();
    }
    world.disk.bad_syncs = 0;
    world.take_up(2, []);
    world.strict_hub(30);
    assert_eq!(world.disk.bytes(), 0);
}

#[test]
fn an_end_whose_output_the_hub_lost_is_taken_at_last() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.feed(slot, 32 * 1024);
    world.ack_all();
    world.forget();
    world.end(slot, Exit::Code(0));
    // The hub went back to a backup: it goes by the same id, and is another start of it.
    world.welcome_by(HubId([9; 16]), HUB);
    let refused = world.strict_hub(60);
    assert!(refused.is_empty(), "its end is not taken");
}

#[test]
fn output_that_is_damaged_under_a_running_agent_does_not_keep_its_end() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 2 << 20);
    world.end(slot, Exit::Code(0));
    world.pass(10, false);
    let first = world.disk.files.values_mut().next().unwrap();
    first[40_000] ^= 1;
    world.find_hub();
    let refused = world.strict_hub(60);
    assert!(refused.is_empty(), "its end is not taken");
}

/// A socket that holds 64 reports, over a link of 20 KiB a second.
#[test]
fn over_a_slow_link_a_backlog_goes_about_once() {
    const RATE: usize = 20 * 1024;
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 3 << 20);
    world.end(slot, Exit::Code(0));
    world.pass(10, false);
    world.pass_until_connected();
    let mut queue = VecDeque::<(Tag, usize)>::new();
    let (mut sent, mut needed, mut credit) = (0, 0, 0);
    let mut seen = BTreeSet::new();
    world.most = 64;
    world.welcome();
    for step in 0..20_000 {
        let said = std::mem::take(&mut world.said).into_iter();
        let sizes = said.filter(Said::is_kept).map(|report| match report {
            Said::Output(_, _, bytes) => bytes.len() + 60,
            _ => 150,
        });
        queue.extend(std::mem::take(&mut world.tags).into_iter().zip(sizes));
        credit += RATE / 10;
        while let Some(&(tag, size)) = queue.front()
            && credit >= size
        {
            credit -= size;
            queue.pop_front();
            sent += size;
            needed += if seen.insert((tag.outbox.0, tag.seq)) { size } else { 0 };
            world.ack(&[tag]);
        }
        if queue.is_empty() {
            credit = 0;
        }
        world.boot += Duration::from_millis(100);
        if step % 300 == 0 {
            let (hub, time) = (HubId([9; 16]), world.hub_time());
            world.hear(&Command::Beacon(Beacon { hub, start: HUB, time }));
        }
        world.most = 64 - queue.len();
        world.give(if world.most > 0 { Input::Writable } else { Input::Tick });
    }
    assert!(needed > 3 << 20 && world.spool_bytes() == 0, "{needed}");
    assert!(sent < needed + needed / 10, "{sent} bytes for {needed}");
}

#[test]
fn a_disk_that_fails_syncs_while_room_is_made_stops_nothing() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.take_up(1, [entry("e", "noop", 200)]);
    world.lose_hub();
    world.pass(900, false);
    for _ in 0..240 {
        world.disk.bad_syncs = 1;
        world.pass(5, false);
    }
    world.disk.bad_syncs = 0;
    world.pass(120, false);
    assert!(world.agent.spool.as_ref().unwrap().staying() < 300, "it came to that");
    let kept = world.spool_bytes();
    assert!(kept > MIB / 2, "{kept}");
    world.take_up(2, []);
    world.find_hub();
    world.strict_hub(60);
    assert_eq!(world.agent.outbox.len(), 0);
}

#[test]
fn what_moved_to_where_it_can_not_be_synced_is_kept_where_it_was() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.lose_hub();
    // From the sixtieth on the spool is full, and the ends in it move to make room.
    for number in 1..=150 {
        world.trigger(number, "meter");
        let slot = *world.started.last().unwrap();
        world.feed(slot, 16 * 1024);
        world.end(slot, Exit::Code(0));
        world.disk.bad_syncs = usize::from(number > 60 && number % 5 == 0);
        world.pass(20, false);
    }
    assert!(world.agent.spool.as_ref().unwrap().staying() > 3, "it came to that");
    world.disk.bad_syncs = 0;
    world.pass(120, false);
    let mut world = world.power_cut(8);
    world.forget();
    world.meet_hub();
    let told: BTreeSet<_> = world.finished().iter().map(|end| end.run).collect();
    let missing: Vec<_> = (1..=150).filter(|number| !told.contains(&run(*number))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_segment_that_can_not_be_read_costs_what_is_in_it_alone() {
    for durability in [Durability::Spill, Durability::Always] {
        let mut world = World::welcomed(spooling(durability, 4 * MIB));
        world.lose_hub();
        for number in 1..=40 {
            world.trigger(number, "meter");
            let slot = *world.started.last().unwrap();
            world.feed(slot, 16 * 1024);
            world.end(slot, Exit::Code(0));
            world.pass(1, false);
        }
        world.pass(20, false);
        let segments = world.disk.files.len();
        assert!(segments > 4, "{segments}");
        world.disk.bad_reads = 1;
        world.forget();
        world.meet_hub();
        assert_eq!(world.disk.bad_reads, 0, "it came to that");
        let told: BTreeSet<_> = world.finished().iter().map(|end| end.run).collect();
        let in_one = (40usize).div_ceil(segments) + 2;
        assert!(told.len() >= 40 - in_one, "{durability:?}: {} of 40 are told", told.len());
        world.strict_hub(30);
        assert_eq!((world.agent.outbox.len(), world.disk.bytes()), (0, 0), "{durability:?}");
    }
}

#[test]
fn a_full_spool_is_no_fuller_for_the_runs_that_are_accepted() {
    let mut world = World::welcomed(spooling(Durability::Always, MIB));
    world.take_up(1, [entry("e", "noop", 200)]);
    // The hub is there, and its store fails: it acks nothing.
    world.pass(2_000, true);
    assert!(world.disk.most as u64 <= MIB + 2 * SEGMENT as u64, "{}", world.disk.most);
    world.take_up(2, []);
    world.find_hub();
    world.strict_hub(30);
    assert_eq!((world.agent.outbox.len(), world.spool_bytes()), (0, 0));
}

#[test]
fn that_a_run_was_accepted_is_not_kept_longer_than_its_dropped_end() {
    let mut world = World::welcomed(spooling(Durability::Always, MIB));
    world.take_up(1, [entry("e", "meter", 5_000)]);
    world.pass(6, true);
    let slot = world.started[0];
    assert!(world.disk.bytes() > 0, "it is on disk");
    world.disk.fails = true;
    world.take_up(2, [entry("e", "noop", 200)]);
    world.lose_hub();
    world.end(slot, Exit::Code(0));
    world.pass(3_000, false);
    world.disk.fails = false;
    world.take_up(3, []);
    world.find_hub();
    assert!(world.finished().iter().all(|end| end.job != "meter"), "it was dropped");
    world.strict_hub(30);
    assert_eq!((world.agent.outbox.len(), world.spool_bytes()), (0, 0));
}

#[test]
fn a_full_spool_that_is_damaged_is_empty_in_the_end() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.take_up(1, [entry("e", "noop", 200)]);
    world.lose_hub();
    world.pass(600, false);
    for file in world.disk.files.values_mut() {
        for at in (1_000..file.len()).step_by(10_000) {
            file[at] ^= 1;
        }
    }
    world.pass(600, false);
    world.take_up(2, []);
    world.find_hub();
    world.strict_hub(30);
    assert_eq!((world.agent.outbox.len(), world.spool_bytes()), (0, 0));
}

#[test]
fn a_hub_whose_store_fails_for_long_makes_no_end_say_that_it_lost_output() {
    let mut world = spill();
    world.trigger(1, "noop");
    world.pass(3_600, true);
    let ends = world.finished();
    assert!(ends.len() > 12, "{}", ends.len());
    assert!(ends.iter().all(|end| !end.dropped));
}

#[test]
fn after_a_stall_of_a_slow_link_what_is_under_way_does_not_go_again() {
    let mut world = spill();
    let mut tags = Vec::new();
    for number in 1..=9 {
        world.trigger(number, "noop");
        tags.append(&mut world.tags);
        world.pass(1, true);
    }
    assert_eq!(tags.len(), 9);
    // The first went again, and is acked for its first copy; the others' are still under way.
    world.pass(2, true);
    assert_eq!(std::mem::take(&mut world.tags).len(), 2);
    world.ack(&tags[..2]);
    for tag in &tags[2..] {
        world.pass(8, true);
        assert!(world.tags.is_empty(), "{:?}", world.tags);
        world.ack(&[*tag]);
    }
}

// ---- a third reader ----

/// A cron entry that is due at each tenth minute.
fn tenth_minute(job: &'static str) -> Entry<'static> {
    Entry { when: When::Cron("*/10 * * * *"), ..entry("e", job, 1) }
}

fn started_runs(world: &World) -> Vec<RunId> {
    world.agent.runs.in_progress().map(|(_, active)| active.run.id).collect()
}

#[test]
fn with_always_a_cron_entry_does_not_run_twice_across_a_power_cut() {
    let mut world = World::welcomed(spooling(Durability::Always, 4 * MIB));
    world.take_up(1, [tenth_minute("meter")]);
    world.pass(360, true);
    let first = started_runs(&world);
    assert_eq!(first.len(), 1);
    let slot = world.started[0];
    world.end(slot, Exit::Code(0));
    world.ack_all();
    world.pass(60, true);
    let mut world = world.power_cut(8);
    world.meet_hub();
    world.pass(60, true);
    let second = started_runs(&world);
    assert!(second.iter().all(|run| !first.contains(run)), "{first:?} {second:?}");
}

impl World {
    /// A hub that takes all there is for so many times ten seconds. Gives whose ends it got.
    fn hand_over(&mut self, times: usize) -> BTreeSet<RunId> {
        let mut told = BTreeSet::new();
        for _ in 0..times {
            self.pass(10, true);
            told.extend(self.finished().iter().map(|end| end.run));
            let tags = std::mem::take(&mut self.tags);
            self.said.clear();
            self.ack(&tags);
        }
        told.extend(self.finished().iter().map(|end| end.run));
        self.forget();
        told
    }
}

/// The end of a run is on disk only when something happens to the disk.
fn an_end_is_told_although(happens: impl FnOnce(&mut World)) {
    let mut world = spill();
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (one, two) = (world.started[0], world.started[1]);
    world.lose_hub();
    world.end(one, Exit::Code(0));
    world.pass(10, false);
    world.feed(two, 2 << 20);
    world.end(two, Exit::Code(0));
    world.pass(10, false);
    happens(&mut world);
    world.find_hub();
    let told = world.hand_over(300);
    assert_eq!(world.spool_bytes(), 0);
    world.query(1);
    assert!(told.contains(&run(1)), "of {told:?}; the hub is told {:?}", world.states());
}

#[test]
fn an_end_that_is_damaged_under_a_running_agent_is_told_all_the_same() {
    an_end_is_told_although(|world| {
        let first = world.disk.files.values_mut().next().unwrap();
        first[24 + 60 + 40] ^= 1;
    });
}

#[test]
fn an_end_in_a_segment_that_can_not_be_read_is_told_all_the_same() {
    an_end_is_told_although(|world| world.disk.bad_reads = 1);
}

#[test]
fn always_keeps_to_its_bound_when_all_is_full() {
    let when_full = WhenFull::RefuseNew;
    let mut world = World::welcomed(Settings { when_full, ..spooling(Durability::Always, MIB) });
    world.take_up(1, [entry("e", "noop", 1000)]);
    world.lose_hub();
    world.pass(30_000, false);
    assert!(world.disk.bytes() as u64 <= MIB + 512 * 1024, "{}", world.disk.bytes());
}

#[test]
fn beyond_the_daily_budget_a_program_does_not_wait_for_the_next_day() {
    let mut world = World::welcomed(budgeted(100 * 1024));
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 1 << 20);
    world.pass(3_600, false);
    assert!(world.agent.runs.active(slot).unwrap().is_read(), "it waits for the next day");
}

fn ends_told(damaged: bool) -> usize {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.give(Input::Stdout { slot, bytes: &[7; 20] });
    world.end(slot, Exit::Code(0));
    world.trigger(2, "meter");
    let two = world.started[1];
    world.take_up(1, [entry("e", "noop", 1_000)]);
    world.lose_hub();
    world.pass(1_500, false);
    if damaged {
        let first = world.disk.files.values_mut().next().unwrap();
        first[24 + 60 + 40] ^= 1;
    }
    world.take_up(2, []);
    world.pass_until_connected();
    world.welcome();
    world.pass(5, true);
    world.lose_hub();
    world.feed(two, 2 << 20);
    world.end(two, Exit::Code(0));
    world.pass(10, false);
    world.find_hub();
    world.hand_over(300).len()
}

#[test]
fn a_damaged_piece_of_output_costs_no_ends_when_the_spool_is_full() {
    let (whole, damaged) = (ends_told(false), ends_told(true));
    assert!(damaged + 1 >= whole, "{damaged} of {whole} ends are told");
}

#[test]
fn a_segment_with_a_damaged_record_that_is_emptied_for_room_goes() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (one, two) = (world.started[0], world.started[1]);
    world.lose_hub();
    world.feed(one, 200 * 1024);
    world.end(one, Exit::Code(0));
    world.pass(10, false);
    world.feed(two, 512 * 1024);
    world.pass(10, false);
    let first = world.disk.files.values_mut().next().unwrap();
    first[40_000] ^= 1;
    world.feed(two, 1 << 20);
    world.end(two, Exit::Code(0));
    world.pass(10, false);
    world.find_hub();
    let refused = world.strict_hub(60);
    assert!(refused.is_empty());
    assert_eq!((world.disk.bytes(), world.spool_bytes()), (0, 0));
}

#[test]
fn what_could_not_be_deleted_is_deleted_when_the_disk_is_well_again() {
    let mut world = spill();
    world.trigger(1, "meter");
    let slot = world.started[0];
    world.lose_hub();
    world.feed(slot, 2 << 20);
    world.end(slot, Exit::Code(0));
    world.pass(10, false);
    world.disk.fails = true;
    world.find_hub();
    world.strict_hub(10);
    world.disk.fails = false;
    world.strict_hub(60);
    assert_eq!((world.disk.bytes() as u64, world.agent.outbox.len()), (world.spool_bytes(), 0));
    assert_eq!(world.disk.bytes(), 0);
}

#[test]
fn what_the_journal_could_not_take_is_in_it_once_it_can() {
    let mut world = World::welcomed(settings(jobs()));
    let before = world.journal.len();
    world.trigger_with(1, "meter", &[], 3_600);
    assert_eq!(world.started.len(), 1);
    // The runtime directory was full.
    world.journal.truncate(before);
    world.give(Input::Storage("the journal can't be written: No space left on device"));
    world.pass(10, true);
    // The next record found room.
    world.give(Input::Storage(""));
    world.pass(600, true);
    let mut world = world.killed(identity(8));
    world.pass_until_connected();
    world.welcome();
    world.trigger_with(1, "meter", &[], 3_600);
    assert_eq!(world.started.len(), 0, "it is executed twice");
}

#[test]
fn a_schedule_that_could_not_be_saved_runs_nothing_twice_after_a_kill() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [tenth_minute("noop")]);
    let file = world.schedule.clone();
    world.take_up(2, [tenth_minute("noop"), entry("other", "noop", 3_600_000)]);
    // The card was full, or read-only.
    world.schedule = file;
    world.pass(360, true);
    let first: BTreeSet<_> = world.finished().iter().map(|end| end.run).collect();
    assert_eq!(first.len(), 1);
    world.ack_all();
    world.pass(60, true);
    let mut world = world.killed(identity(8));
    world.forget();
    world.pass_until_connected();
    world.welcome();
    world.pass(60, true);
    let second: Vec<_> = world.finished().iter().map(|end| end.run).collect();
    assert!(second.iter().all(|run| !first.contains(run)), "{first:?} {second:?}");
}

#[test]
fn many_file_runs_that_are_acked_at_once_are_all_delivered() {
    let mut all = jobs();
    all.push(crate::job::tests::job("log", Kind::File { path: "/var/log/x".into() }));
    let mut world = World::welcomed(settings(all));
    for n in 1..=20 {
        world.trigger(n, "log");
        let slot = *world.started.last().unwrap();
        world.give(Input::Stdout { slot, bytes: b"line\n" });
        world.end(slot, Exit::None);
    }
    world.ack_all();
    let delivered = world.done.iter().filter(|done| done.starts_with("delivered")).count();
    assert_eq!(delivered, 20);
}

#[test]
fn the_daily_budget_bounds_what_always_writes() {
    let mut settings = spooling(Durability::Always, 4 * MIB);
    settings.spool.as_mut().unwrap().write_budget = Some(20 * 1024);
    let mut world = World::welcomed(settings);
    world.take_up(1, [entry("e", "noop", 1000)]);
    for _ in 0..600 {
        world.pass(10, true);
        world.ack_all();
    }
    assert!(world.written() < 25 * 1024, "{}", world.written());
}

#[test]
fn output_that_finds_no_room_beside_an_end_that_does_gets_room_all_the_same() {
    let mut world = World::welcomed(spooling(Durability::Spill, MIB));
    world.trigger(1, "meter");
    world.trigger(2, "meter");
    let (one, two) = (world.started[0], world.started[1]);
    world.lose_hub();
    world.feed(one, 700 * 1024);
    world.end(one, Exit::Code(0));
    world.take_up(1, [entry("e", "noop", 1_000)]);
    let anchor = world.boot;
    let mut fed = Vec::new();
    for second in 1..1_000 {
        // A piece is due to go at the same moment as the end of a scheduled run.
        world.boot = anchor + Duration::from_millis(second * 1_000 - 200);
        world.give(Input::Tick);
        let reads = world.agent.runs.active(two).unwrap().is_read();
        if reads && second < 90 {
            world.give(Input::Stdout { slot: two, bytes: &[7; 10_000] });
        }
        fed.push(reads);
        world.boot = anchor + Duration::from_millis(second * 1_000);
        world.give(Input::Tick);
        world.boot += Duration::from_millis(100);
        world.give(Input::Tick);
    }
    let stalls = fed.iter().filter(|fed| !**fed).count();
    let unspooled = world.agent.outbox.unspooled(Seq(0), Seq(u64::MAX)).count();
    assert!(
        stalls < 10 && unspooled < 10,
        "it waits for {stalls} of 1000 s, {unspooled} not on disk"
    );
}

#[test]
fn a_file_that_is_no_segment_takes_no_numbers() {
    let mut world = spill();
    world.disk.files.insert(0xefff_ffff, b"not a segment".to_vec());
    let mut world = world.killed(identity(8));
    world.pass_until_connected();
    world.welcome();
    world.lose_hub();
    world.trigger(1, "noop");
    world.pass(8, false);
    assert!(world.disk.files.keys().any(|number| *number < 100), "{:?}", world.disk.files.keys());
}

#[test]
fn a_schedule_that_could_not_be_saved_is_saved_once_it_can_be() {
    let mut world = World::welcomed(settings(jobs()));
    world.take_up(1, [entry("e", "noop", 60_000)]);
    let first = world.schedule.clone();
    world.take_up(2, [entry("other", "noop", 60_000)]);
    let second = std::mem::replace(&mut world.schedule, first); // the card was read-only
    world.give(Input::Storage("the schedule can't be written: Read-only file system"));
    world.pass(130, true);
    assert_eq!(world.schedule.map(|file| file.len()), second.map(|file| file.len()));
}
