//! The schedule: entries that the hub handed over, run with or without a link.
//!
//! Intervals run on the boot clock, from when the node took the entry up. Cron runs on the wall
//! clock, and only while that is trusted. Each entry remembers up to where it was dealt with; what
//! was due since then and was not run is caught up with, or reported as missed, as the entry
//! says. A due time that is a little late still counts as run on time.
//!
//! What is stored: the schedule itself on disk, when it changes; how far each entry was dealt with
//! in the journal, at each run. At an orderly stop the latter goes to disk too. After a power cut it
//! is not known which of the due times since the last such stop were run: then entries that catch
//! up run the last of them, once, and nothing is reported as missed.
//!
//! ```text
//! file   "fieldpost schedule 1\n" [CRC-32C of the rest: u32 LE] [postcard: Saved]
//! ```

use std::time::Duration;

use fieldpost_wire::cron::Cron;
use fieldpost_wire::{
    CatchUp, Command, Entry, EntryError, List, Name, Overlap, ScheduleVersion, UnixMillis, When,
};
use serde::{Deserialize, Serialize};
use tz::TimeZone;

use crate::cron::next_after;
use crate::door::Now;
use crate::job::Job;
use crate::journal::Upto;
use crate::limits::{CATCH_UP_MS, ON_TIME_MS, TEXT, WAITING};
use crate::result::cut;

const MAGIC: &[u8] = b"fieldpost schedule 1\n";

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule {
    node: Name,
    zone: TimeZone,
    version: ScheduleVersion,
    /// The command that brought it, as it came.
    body: Vec<u8>,
    entries: Vec<Planned>,
    /// What the wall clock is taken to be when the boot clock stands at 0, for naming the due times
    /// of intervals.
    at_boot: AtBoot,
}

#[derive(Debug, Clone, Copy)]
struct AtBoot {
    ms: u64,
    trusted: bool,
}

/// An entry and where it stands.
#[derive(Debug)]
struct Planned {
    id: Name,
    job: Name,
    plan: Plan,
    /// This node's own share of the splay.
    share_ms: u64,
    catch_up: CatchUp,
    error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    Cron {
        cron: Cron,
        handled: Handled,
    },
    Every {
        period_ms: u64,
        anchor_ms: u64,
        count: u64,
        due: UnixMillis,
    },
    /// The cron expression does not read.
    Never,
}

/// Up to which due time a cron entry was dealt with.
#[derive(Debug, Clone, Copy)]
enum Handled {
    /// The clock was not trusted yet.
    Unknown,
    /// Up to this at least; what came after may have been run.
    AtLeast(UnixMillis),
    Upto {
        time: UnixMillis,
        /// The first due time after it.
        next: Option<UnixMillis>,
    },
}

impl Handled {
    fn time(&self) -> Option<UnixMillis> {
        match *self {
            Self::Unknown => None,
            Self::AtLeast(time) | Self::Upto { time, .. } => Some(time),
        }
    }
}

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// An entry is to be run.
    Run {
        index: usize,
        due: UnixMillis,
        /// Of an interval: when that is on the boot clock, in milliseconds.
        boot_ms: Option<u64>,
        /// It is being caught up with.
        late: bool,
    },
    /// Due times of an entry went by.
    Missed { index: usize, from: UnixMillis, to: UnixMillis, count: u64 },
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Saved<'a> {
    body: &'a [u8],
    /// Whether it was written at an orderly stop.
    clean: bool,
    #[serde(borrow)]
    handled: List<'a, SavedEntry<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry<'a> {
    entry: &'a str,
    handled: UnixMillis,
}

impl Schedule {
    /// No schedule.
    pub(crate) fn new(node: Name, zone: TimeZone, now: Now) -> Self {
        let at_boot = AtBoot { ms: now.wall.0.saturating_sub(millis(now.boot)), trusted: false };
        let version = ScheduleVersion::default();
        Self { node, zone, version, body: Vec::new(), entries: Vec::new(), at_boot }
    }

    /// Takes up what a file holds. Gives whether it was written at an orderly stop, or `None` if
    /// it holds no schedule.
    pub(crate) fn restore(&mut self, file: &[u8], now: Now) -> Option<bool> {
        let rest = file.strip_prefix(MAGIC)?;
        let (crc, rest) = rest.split_at_checked(4)?;
        if crc != crc32c::crc32c(rest).to_le_bytes() {
            return None;
        }
        let saved = postcard::from_bytes::<Saved<'_>>(rest).ok()?;
        let Ok(Command::Schedule(schedule)) = Command::decode(saved.body) else { return None };
        self.version = schedule.version;
        self.take_up(saved.body, now, false);
        for SavedEntry { entry, handled } in saved.handled.iter() {
            if let Some(Plan::Cron { handled: known, .. }) = self.plan(entry) {
                *known = if saved.clean {
                    Handled::Upto { time: handled, next: None }
                } else {
                    Handled::AtLeast(handled)
                };
            }
        }
        self.look_ahead();
        Some(saved.clean)
    }

    /// Takes up what the journal says of an entry. `same_boot`: it was written since the boot
    /// clock began.
    pub(crate) fn recall(
        &mut self,
        version: ScheduleVersion,
        entry: &str,
        upto: Upto,
        same_boot: bool,
    ) {
        let same = version == self.version;
        match (self.plan(entry), upto) {
            // Of a version whose file could not be written, too: what ran does not run again.
            (Some(Plan::Cron { handled, .. }), Upto::Cron { handled: time })
                if same || handled.time().is_none_or(|known| known < time) =>
            {
                *handled = Handled::Upto { time, next: None };
            }
            (Some(Plan::Every { anchor_ms, count, due, .. }), Upto::Every { .. })
                if same && same_boot =>
            {
                if let Upto::Every { anchor_ms: a, count: c, due: d } = upto {
                    (*anchor_ms, *count, *due) = (a, c, d);
                }
            }
            _ => return,
        }
        self.look_ahead();
    }

    /// Takes up the schedule that the command `body` brings, unless it is an old one. Gives
    /// whether it did.
    pub(crate) fn replace(&mut self, body: &[u8], now: Now, trusted: bool) -> bool {
        let Ok(Command::Schedule(schedule)) = Command::decode(body) else { return false };
        let (new, old) = (schedule.version, self.version);
        if new.epoch == old.epoch && new.counter <= old.counter {
            return false;
        }
        self.version = new;
        self.take_up(body, now, trusted);
        true
    }

    fn take_up(&mut self, body: &[u8], now: Now, trusted: bool) {
        let old_body = std::mem::replace(&mut self.body, body.to_vec());
        let old = std::mem::take(&mut self.entries);
        let Ok(Command::Schedule(schedule)) = Command::decode(&self.body) else { return };
        for entry in schedule.entries.iter() {
            let (Ok(id), Ok(job)) = (entry.id.parse::<Name>(), entry.job.parse()) else {
                continue; // the decoder has checked them
            };
            if self.entries.iter().any(|known| known.id == id) {
                log::warn!("the schedule has entry {id} twice; the second is left out");
                continue;
            }
            // An entry that is due as it was keeps its phase.
            let kept = old.iter().find(|known| known.id == id).filter(|known| {
                let was = entry_of(&old_body, &known.id).map(|was| (was.when, was.splay_ms));
                was == Some((entry.when, entry.splay_ms))
            });
            let (plan, error) = match (kept, entry.when) {
                (Some(known), _) => (known.plan, None),
                (None, When::EveryMs(period_ms)) => (
                    Plan::Every { period_ms, anchor_ms: millis(now.boot), count: 0, due: now.wall },
                    None,
                ),
                (None, When::Cron(text)) => match Cron::parse(text) {
                    Ok(cron) if trusted => {
                        let handled = Handled::Upto { time: now.wall, next: None };
                        (Plan::Cron { cron, handled }, None)
                    }
                    Ok(cron) => (Plan::Cron { cron, handled: Handled::Unknown }, None),
                    Err(bad) => (Plan::Never, Some(format!("cron {bad}"))),
                },
            };
            let error = error.or_else(|| match (&plan, kept) {
                (Plan::Never, Some(known)) => known.error.clone(),
                _ => None,
            });
            let share_ms = share(&self.node, &id, entry.splay_ms);
            let catch_up = entry.catch_up;
            self.entries.push(Planned { id, job, plan, share_ms, catch_up, error });
        }
        self.look_ahead();
    }

    /// Checks each entry's job and arguments against what the node can do, for
    /// [`Schedule::errors`].
    pub(crate) fn check<'j>(&mut self, job_named: impl Fn(&str) -> Option<&'j Job>) {
        for planned in &mut self.entries {
            if matches!(planned.plan, Plan::Never) {
                continue;
            }
            let entry = entry_of(&self.body, &planned.id);
            planned.error = match (job_named(&planned.job), entry) {
                (None, _) => Some(format!("the node has no job {}", planned.job)),
                (Some(job), Some(entry)) => {
                    let args = entry.args.iter().map(|arg| (arg.name, arg.value));
                    job.check(args).err().map(|bad| bad.to_string())
                }
                (Some(_), None) => None,
            };
        }
    }

    /// The trusted time at boot got better known.
    pub(crate) fn learn_time(&mut self, now: Now, trusted: Option<UnixMillis>) {
        let Some(time) = trusted else { return };
        let ms = time.0.saturating_sub(millis(now.boot));
        if !self.at_boot.trusted || ms > self.at_boot.ms {
            self.at_boot = AtBoot { ms, trusted: true };
        }
    }

    /// What is due next; to be asked until none. It then counts as dealt with.
    pub(crate) fn next_due(&mut self, now: Now, trusted: bool) -> Option<Due> {
        (0..self.entries.len()).find_map(|index| match self.entries[index].plan {
            Plan::Every { .. } => self.next_interval(index, now),
            Plan::Cron { .. } if trusted => self.next_cron(index, now),
            Plan::Cron { .. } | Plan::Never => None,
        })
    }

    fn next_interval(&mut self, index: usize, now: Now) -> Option<Due> {
        let at_boot = self.at_boot.ms;
        let entry = &mut self.entries[index];
        let Plan::Every { period_ms, anchor_ms, count, due } = &mut entry.plan else { return None };
        let origin = *anchor_ms + entry.share_ms;
        let passed = millis(now.boot).checked_sub(origin)? / *period_ms;
        let total = passed.saturating_sub(*count);
        if total == 0 {
            return None;
        }
        let named = |n: u64| UnixMillis(at_boot + origin + n * *period_ms);
        let late_ms = millis(now.boot) - (origin + passed * *period_ms);
        let (first, before) = (*count + 1, *count);
        let missed = missed(total, late_ms, entry.catch_up);
        *count += missed.max(1);
        *due = named(*count);
        Some(match missed {
            0 => Due::Run {
                index,
                due: *due,
                boot_ms: Some(origin + *count * *period_ms),
                late: total > 1 || late_ms > ON_TIME_MS,
            },
            count => Due::Missed { index, from: named(first), to: named(before + count), count },
        })
    }

    fn next_cron(&mut self, index: usize, now: Now) -> Option<Due> {
        let zone = self.zone.as_ref();
        let entry = &mut self.entries[index];
        let Plan::Cron { cron, handled } = &mut entry.plan else { return None };
        let cron = *cron;
        let share = entry.share_ms;
        // Due times are looked at without the splay: those up to here have come.
        let until = UnixMillis(now.wall.0.saturating_sub(share));
        let dues_after = |from: UnixMillis| {
            let from = from.max(UnixMillis(until.0.saturating_sub(CATCH_UP_MS)));
            let step = move |&due: &UnixMillis| next_after(&cron, due, zone);
            std::iter::successors(next_after(&cron, from, zone), step)
                .take_while(move |&due| due <= until)
        };
        let upto = |time| Handled::Upto { time, next: next_after(&cron, time, zone) };
        let time = match *handled {
            Handled::Upto { time, next: Some(next) } if next <= until => time,
            Handled::Upto { .. } => return None,
            Handled::Unknown => {
                *handled = upto(now.wall);
                return None;
            }
            Handled::AtLeast(time) => {
                let last = dues_after(time).last();
                *handled = upto(last.unwrap_or(until).max(time));
                let last = last.filter(|last| {
                    entry.catch_up != CatchUp::Skip || until.ms_since(*last) <= ON_TIME_MS
                })?;
                return Some(Due::Run {
                    index,
                    due: last.plus_ms(share),
                    boot_ms: None,
                    late: true,
                });
            }
        };
        let first = dues_after(time).next()?;
        let (total, last) = dues_after(time).fold((0, first), |(n, _), due| (n + 1, due));
        let late_ms = until.ms_since(last);
        let missed = missed(total, late_ms, entry.catch_up);
        if missed == 0 {
            *handled = upto(first);
            let late = total > 1 || late_ms > ON_TIME_MS;
            return Some(Due::Run { index, due: first.plus_ms(share), boot_ms: None, late });
        }
        let to = usize::try_from(missed - 1).ok().and_then(|n| dues_after(time).nth(n))?;
        *handled = upto(to);
        let (from, to) = (first.plus_ms(share), to.plus_ms(share));
        Some(Due::Missed { index, from, to, count: missed })
    }

    /// When something is due next, on the boot clock.
    pub(crate) fn next_deadline(&self, now: Now, trusted: bool) -> Option<Duration> {
        let deadline = |entry: &Planned| match entry.plan {
            Plan::Every { period_ms, anchor_ms, count, .. } => {
                let ms = (count + 1).checked_mul(period_ms)?;
                Some(Duration::from_millis(ms.checked_add(anchor_ms + entry.share_ms)?))
            }
            Plan::Cron { handled, .. } if trusted => match handled {
                Handled::Unknown | Handled::AtLeast(_) => Some(Duration::ZERO),
                Handled::Upto { next, .. } => {
                    let wait = next?.plus_ms(entry.share_ms).ms_since(now.wall);
                    Some(now.boot + Duration::from_millis(wait))
                }
            },
            Plan::Cron { .. } | Plan::Never => None,
        };
        self.entries.iter().filter_map(deadline).min()
    }

    /// How far an entry was dealt with, for the journal.
    pub(crate) fn upto(&self, index: usize) -> Option<(&Name, Upto)> {
        let entry = self.entries.get(index)?;
        let upto = match entry.plan {
            Plan::Cron { handled: Handled::Upto { time, .. }, .. } => Upto::Cron { handled: time },
            Plan::Every { anchor_ms, count, due, .. } => Upto::Every { anchor_ms, count, due },
            Plan::Cron { .. } | Plan::Never => return None,
        };
        Some((&entry.id, upto))
    }

    /// How far each entry was dealt with.
    pub(crate) fn all_upto(&self) -> impl Iterator<Item = (&Name, Upto)> {
        (0..self.entries.len()).filter_map(|index| self.upto(index))
    }

    /// What an entry says, as it came.
    pub(crate) fn entry(&self, index: usize) -> Option<Entry<'_>> {
        entry_of(&self.body, &self.entries.get(index)?.id)
    }

    /// The entries that can't run, and why.
    pub(crate) fn errors(&self) -> impl Iterator<Item = EntryError<'_>> {
        self.entries.iter().filter_map(|entry| {
            let error = cut(entry.error.as_deref()?, TEXT);
            Some(EntryError { entry: &entry.id, error })
        })
    }

    /// Which schedule this is.
    pub(crate) fn version(&self) -> ScheduleVersion {
        self.version
    }

    /// Writes the file's bytes. `clean`: this is an orderly stop.
    pub(crate) fn save(&self, clean: bool, file: &mut Vec<u8>) {
        file.clear();
        if self.body.is_empty() {
            return;
        }
        let handled = self.entries.iter().filter_map(|entry| match entry.plan {
            Plan::Cron { handled: Handled::Upto { time, .. } | Handled::AtLeast(time), .. } => {
                Some(SavedEntry { entry: &entry.id, handled: time })
            }
            Plan::Cron { handled: Handled::Unknown, .. } | Plan::Every { .. } | Plan::Never => None,
        });
        let mut list = vec![0; self.entries.len() * 80];
        let handled = List::encode(&mut list, handled).expect("an entry has at most 74 B");
        let saved = Saved { body: &self.body, clean, handled };
        file.resize(MAGIC.len() + 4 + self.body.len() + handled.encoded_len() + 16, 0);
        let (head, rest) = file.split_at_mut(MAGIC.len() + 4);
        let used = postcard::to_slice(&saved, rest).expect("16 B hold the lengths").len();
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[MAGIC.len()..].copy_from_slice(&crc32c::crc32c(&rest[..used]).to_le_bytes());
        file.truncate(MAGIC.len() + 4 + used);
    }

    fn plan(&mut self, entry: &str) -> Option<&mut Plan> {
        self.entries.iter_mut().find(|known| &*known.id == entry).map(|known| &mut known.plan)
    }

    /// Finds the next due time where it is not known.
    fn look_ahead(&mut self) {
        for entry in &mut self.entries {
            if let Plan::Cron { cron, handled: Handled::Upto { time, next: next @ None } } =
                &mut entry.plan
            {
                *next = next_after(cron, *time, self.zone.as_ref());
            }
        }
    }
}

/// How many of `total` due times are missed, the last of which is `late_ms` late; the others are
/// run.
fn missed(total: u64, late_ms: u64, catch_up: CatchUp) -> u64 {
    let on_time = u64::from(late_ms <= ON_TIME_MS);
    let run = match catch_up {
        CatchUp::Skip => on_time,
        CatchUp::Once => 1,
        CatchUp::All { max } => u64::from(max).min(WAITING as u64).max(on_time),
    };
    total.saturating_sub(run)
}

/// A node's own share of an entry's splay: a stable hash of both (FNV-1a, 64 bit).
fn share(node: &Name, entry: &Name, splay_ms: u64) -> u64 {
    let bytes = node.bytes().chain([0]).chain(entry.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // FNV's low bits are poor: names that differ in their last letter differ little.
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32) % splay_ms.saturating_add(1)
}

fn entry_of<'b>(body: &'b [u8], id: &str) -> Option<Entry<'b>> {
    match Command::decode(body) {
        Ok(Command::Schedule(schedule)) => schedule.entries.iter().find(|entry| entry.id == id),
        _ => None,
    }
}

fn millis(boot: Duration) -> u64 {
    u64::try_from(boot.as_millis()).unwrap_or(u64::MAX)
}

/// What a run of an entry is told by the entry.
pub(crate) struct Orders {
    pub(crate) overlap: Overlap,
    pub(crate) timeout: Option<Duration>,
}

impl Orders {
    pub(crate) fn of(entry: &Entry<'_>) -> Self {
        Self { overlap: entry.overlap, timeout: entry.timeout_ms.map(Duration::from_millis) }
    }
}

#[cfg(test)]
mod tests {
    use fieldpost_wire::Arg;

    use super::*;
    use crate::job::tests::program;

    /// 2024-01-01 00:00:00 UTC, a Monday.
    const MONDAY: u64 = 1_704_067_200_000;
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    /// A world whose boot clock stood at 0 on Monday.
    fn at(ms: u64) -> Now {
        Now { boot: Duration::from_millis(ms), wall: UnixMillis(MONDAY + ms), synchronised: true }
    }

    fn entry<'a>(id: &'a str, when: When<'a>, catch_up: CatchUp) -> Entry<'a> {
        Entry {
            id,
            job: "j",
            args: List::empty(),
            when,
            splay_ms: 0,
            catch_up,
            overlap: Overlap::Skip,
            timeout_ms: None,
        }
    }

    fn body(counter: u64, entries: &[Entry<'_>]) -> Vec<u8> {
        let (mut list, mut body) = (vec![0; 8192], vec![0; 8192]);
        let entries = List::encode(&mut list, entries.iter().copied()).unwrap();
        let version = ScheduleVersion { epoch: 9, counter };
        let schedule = fieldpost_wire::Schedule { version, entries };
        Command::Schedule(schedule).encode(&mut body).unwrap().to_vec()
    }

    fn empty() -> Schedule {
        Schedule::new("gw".parse().unwrap(), TimeZone::utc(), at(0))
    }

    fn with(entries: &[Entry<'_>]) -> Schedule {
        let mut schedule = empty();
        assert!(schedule.replace(&body(1, entries), at(0), true));
        schedule
    }

    /// All that is due at `ms`: due times (ms since Monday) of runs, and (from, to, count) missed.
    fn due(schedule: &mut Schedule, ms: u64) -> (Vec<u64>, Vec<(u64, u64, u64)>) {
        let (mut runs, mut missed) = (Vec::new(), Vec::new());
        while let Some(due) = schedule.next_due(at(ms), true) {
            match due {
                Due::Run { due, .. } => runs.push(due.0 - MONDAY),
                Due::Missed { from, to, count, .. } => {
                    missed.push((from.0 - MONDAY, to.0 - MONDAY, count));
                }
            }
        }
        (runs, missed)
    }

    const HOURLY: When<'static> = When::Cron("0 * * * *");

    #[test]
    fn an_interval_runs_on_the_boot_clock_from_when_it_was_taken_up() {
        let mut s = with(&[entry("e", When::EveryMs(1000), CatchUp::Skip)]);
        assert_eq!(s.next_deadline(at(0), true), Some(Duration::from_secs(1)));
        assert_eq!(due(&mut s, 999), (vec![], vec![]));
        assert_eq!(due(&mut s, 1000), (vec![1000], vec![]));
        assert_eq!(due(&mut s, 1001), (vec![], vec![]));
        assert_eq!(due(&mut s, 2500), (vec![2000], vec![]));
        assert_eq!(s.next_deadline(at(2500), true), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_touch_an_interval() {
        let mut s = with(&[entry("e", When::EveryMs(1000), CatchUp::Skip)]);
        s.learn_time(at(0), Some(UnixMillis(MONDAY)));
        let mut now = at(1000);
        now.wall = UnixMillis(MONDAY - HOUR);
        s.learn_time(now, Some(now.wall));
        let Some(Due::Run { due, .. }) = s.next_due(now, true) else { panic!() };
        assert_eq!(due, UnixMillis(MONDAY + 1000), "nor the names of its due times");
    }

    #[test]
    fn cron_waits_until_the_clock_is_trusted() {
        let mut s = empty();
        s.replace(&body(1, &[entry("e", HOURLY, CatchUp::All { max: 9 })]), at(0), false);
        assert_eq!(s.next_due(at(5 * HOUR), false), None);
        assert_eq!(s.next_deadline(at(5 * HOUR), false), None);
        assert_eq!(due(&mut s, 5 * HOUR + 1), (vec![], vec![]), "what was before is not known");
        assert_eq!(due(&mut s, 6 * HOUR), (vec![6 * HOUR], vec![]));
    }

    #[test]
    fn catch_up_skips_or_runs_the_last_or_the_last_few() {
        let run = |catch_up| due(&mut with(&[entry("e", HOURLY, catch_up)]), 5 * HOUR + 2 * MINUTE);
        let h = HOUR;
        assert_eq!(run(CatchUp::Skip), (vec![], vec![(h, 5 * h, 5)]));
        assert_eq!(run(CatchUp::Once), (vec![5 * h], vec![(h, 4 * h, 4)]));
        assert_eq!(run(CatchUp::All { max: 2 }), (vec![4 * h, 5 * h], vec![(h, 3 * h, 3)]));
        assert_eq!(run(CatchUp::All { max: 5 }).0.len(), 5);
        assert_eq!(run(CatchUp::All { max: 0 }), run(CatchUp::Skip));
        let interval = |catch_up| {
            let entries = [entry("e", When::EveryMs(HOUR), catch_up)];
            due(&mut with(&entries), 5 * HOUR + 2 * MINUTE)
        };
        assert_eq!(interval(CatchUp::Skip), (vec![], vec![(h, 5 * h, 5)]));
        assert_eq!(interval(CatchUp::Once), (vec![5 * h], vec![(h, 4 * h, 4)]));
        assert_eq!(interval(CatchUp::All { max: 2 }), (vec![4 * h, 5 * h], vec![(h, 3 * h, 3)]));
    }

    #[test]
    fn a_little_late_is_on_time() {
        let mut s = with(&[entry("e", HOURLY, CatchUp::Skip)]);
        assert_eq!(due(&mut s, HOUR + ON_TIME_MS), (vec![HOUR], vec![]));
        assert_eq!(
            due(&mut s, 3 * HOUR + ON_TIME_MS),
            (vec![3 * HOUR], vec![(2 * HOUR, 2 * HOUR, 1)])
        );
        let late = 4 * HOUR + ON_TIME_MS + 1;
        assert_eq!(due(&mut s, late), (vec![], vec![(4 * HOUR, 4 * HOUR, 1)]));
    }

    #[test]
    fn a_year_of_minutes_is_counted() {
        let mut s = with(&[entry("e", When::Cron("* * * * *"), CatchUp::Once)]);
        let (runs, missed) = due(&mut s, 2 * 366 * 24 * HOUR);
        assert_eq!(runs, [2 * 366 * 24 * HOUR]);
        assert_eq!(missed[0].2, 366 * 24 * 60 - 1, "and no more than a year");
    }

    #[test]
    fn splay_is_a_stable_share_of_its_own() {
        let mut splayed = entry("e", HOURLY, CatchUp::Skip);
        splayed.splay_ms = 10 * MINUTE;
        let mut s = with(&[splayed]);
        let Some(wake) = s.next_deadline(at(0), true) else { panic!() };
        let share = millis(wake) - HOUR;
        assert!(share <= 10 * MINUTE);
        assert_eq!(due(&mut s, millis(wake) - 1), (vec![], vec![]));
        assert_eq!(due(&mut s, millis(wake)), (vec![HOUR + share], vec![]));
        let shares: Vec<u64> = (0..100)
            .map(|n| super::share(&format!("gw-{n}").parse().unwrap(), &"e".parse().unwrap(), 999))
            .collect();
        let low = shares.iter().filter(|&&share| share < 500).count();
        assert!((35..=65).contains(&low), "{low} of 100 in the lower half");
    }

    #[test]
    fn an_entry_that_did_not_change_keeps_its_phase() {
        let (a, b) = (When::EveryMs(10_000), When::EveryMs(20_000));
        let mut s = with(&[entry("a", a, CatchUp::Skip), entry("b", a, CatchUp::Skip)]);
        let new = [entry("a", a, CatchUp::Skip), entry("b", b, CatchUp::Skip)];
        assert!(s.replace(&body(2, &new), at(5_000), true));
        assert_eq!(due(&mut s, 10_000).0, [10_000]);
        assert_eq!(due(&mut s, 25_000).0, [20_000, 25_000]);
        assert!(!s.replace(&body(2, &[]), at(0), true), "an old counter is ignored");
        assert!(!s.replace(&body(1, &[]), at(0), true));
    }

    #[test]
    fn a_schedule_survives_an_orderly_stop_and_knows_what_it_missed() {
        let mut s = with(&[entry("e", HOURLY, CatchUp::Once)]);
        assert_eq!(due(&mut s, HOUR).0, [HOUR]);
        let mut file = Vec::new();
        s.save(true, &mut file);
        let mut s = empty();
        assert_eq!(s.restore(&file, at(4 * HOUR + MINUTE)), Some(true));
        assert_eq!(due(&mut s, 4 * HOUR + MINUTE), (vec![4 * HOUR], vec![(2 * HOUR, 3 * HOUR, 2)]));
        for cut in 0..file.len() {
            assert_eq!(empty().restore(&file[..cut], at(0)), None);
        }
    }

    #[test]
    fn after_a_power_cut_only_the_last_is_run_and_nothing_said_to_be_missed() {
        let again = |catch_up, later| {
            let s = with(&[entry("e", HOURLY, catch_up)]);
            let mut file = Vec::new();
            s.save(false, &mut file);
            let mut s = empty();
            assert_eq!(s.restore(&file, at(later)), Some(false));
            let first = due(&mut s, later);
            assert_eq!(due(&mut s, later), (vec![], vec![]));
            let next = later / HOUR * HOUR + HOUR;
            assert_eq!(due(&mut s, next), (vec![next], vec![]));
            first
        };
        let late = 4 * HOUR + MINUTE;
        assert_eq!(again(CatchUp::Skip, late), (vec![], vec![]));
        assert_eq!(again(CatchUp::Skip, 4 * HOUR), (vec![4 * HOUR], vec![]));
        assert_eq!(again(CatchUp::Once, late), (vec![4 * HOUR], vec![]));
        assert_eq!(again(CatchUp::All { max: 9 }, late), (vec![4 * HOUR], vec![]));
        assert_eq!(again(CatchUp::Once, MINUTE), (vec![], vec![]));
    }

    #[test]
    fn the_journal_says_it_better_than_the_file() {
        let entries =
            [entry("c", HOURLY, CatchUp::Once), entry("i", When::EveryMs(HOUR), CatchUp::Skip)];
        let mut s = with(&entries);
        let mut file = Vec::new();
        s.save(false, &mut file);
        assert_eq!(due(&mut s, 3 * HOUR).0.len(), 2);
        let upto: Vec<_> = s.all_upto().map(|(id, upto)| (id.clone(), upto)).collect();
        for same_boot in [true, false] {
            let mut again = empty();
            let restart = 3 * HOUR + 1;
            again.restore(&file, at(restart));
            for (id, upto) in &upto {
                again.recall(s.version(), id, *upto, same_boot);
            }
            assert_eq!(due(&mut again, restart), (vec![], vec![]));
            let interval = if same_boot { 4 * HOUR } else { restart + HOUR };
            assert_eq!(due(&mut again, restart + HOUR).0, [4 * HOUR, interval]);
        }
    }

    #[test]
    fn entries_that_can_not_run_are_told() {
        let mut list = [0; 64];
        let mut bad_args = entry("a", HOURLY, CatchUp::Skip);
        bad_args.args = List::encode(&mut list, [Arg { name: "x", value: "1" }]).unwrap();
        let mut s = with(&[
            entry("ok", HOURLY, CatchUp::Skip),
            entry("cron", When::Cron("* * * *"), CatchUp::Skip),
            bad_args,
        ]);
        let job = program("j");
        let errors = |s: &Schedule| -> Vec<_> {
            s.errors().map(|e| (e.entry.to_owned(), e.error.to_owned())).collect()
        };
        s.check(|_| Some(&job));
        assert_eq!(errors(&s).len(), 2);
        assert_eq!(errors(&s)[0].0, "cron");
        assert!(errors(&s)[1].1.contains("argument \"x\""));
        s.check(|_| None);
        assert_eq!(errors(&s).len(), 3);
        assert!(errors(&s)[0].1.contains("no job j"));
    }
}
