//! When cron expressions are due in a time zone.
//!
//! When the clocks change, an expression whose hour field is every hour follows the clock on the wall:
//! an hour that is skipped has no runs, one that comes twice has them twice. Any other expression
//! means times of the day: what falls into a skipped hour runs when that hour is over, what falls
//! into a doubled one runs the first time only.

use fieldpost_wire::UnixMillis;
use fieldpost_wire::cron::Cron;
use tz::TimeZoneRef;

const DAY: i64 = 86_400;

/// The first due time after `after`; `None` only where time zones end.
pub(crate) fn next_after(
    cron: &Cron,
    after: UnixMillis,
    zone: TimeZoneRef<'_>,
) -> Option<UnixMillis> {
    let after = i64::try_from(after.0 / 1000).ok()?;
    let next = if cron.is_hourly() {
        next_on_the_wall(cron, after, zone)?
    } else {
        next_of_day(cron, after, zone)?
    };
    u64::try_from(next).ok()?.checked_mul(1000).map(UnixMillis)
}

/// For expressions of every hour: each time the clock on the wall shows a match.
fn next_on_the_wall(cron: &Cron, after: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
    let mut from = after;
    loop {
        let offset = offset_at(from, zone)?;
        let due = cron.next_local(from + offset)? - offset;
        if due - from > DAY {
            // Nothing matches until a day before, in whatever offset; go there, so that at
            // most one change of the clocks lies ahead.
            from = due - DAY;
            continue;
        }
        if offset_at(due, zone)? == offset {
            return Some(due);
        }
        let change = change_between(from, due, zone)?;
        let offset = offset_at(change, zone)?;
        let due = cron.next_local(change + offset - 1)? - offset;
        if offset_at(due, zone)? == offset {
            return Some(due);
        }
        from = change;
    }
}

/// For expressions that mean times of the day: each of them once.
fn next_of_day(cron: &Cron, after: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
    let offset = offset_at(after, zone)?;
    // Around a change the clock on the wall may have shown times already, or may skip some.
    let near_change = offset_at(after - DAY, zone)? != offset;
    let mut local = after + offset - if near_change { 4 * 3600 } else { 0 };
    loop {
        local = cron.next_local(local)?;
        let due = first_instant(local, zone)?;
        if due > after {
            return Some(due);
        }
    }
}

fn offset_at(instant: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
    zone.find_local_time_type(instant).ok().map(|kind| i64::from(kind.ut_offset()))
}

/// The first instant at which the clock on the wall shows `local` or, if it never does, the one
/// at which it is set past it.
fn first_instant(local: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
    let before = offset_at(local - DAY, zone)?;
    let after = offset_at(local + DAY, zone)?;
    let by_before = local - before;
    if offset_at(by_before, zone)? == before {
        return Some(by_before);
    }
    let by_after = local - after;
    if offset_at(by_after, zone)? == after {
        return Some(by_after);
    }
    change_between(by_before.min(by_after) - 1, by_before.max(by_after) + 1, zone)
}

/// The first instant of another offset than the one at `from`, where `to` has another.
fn change_between(from: i64, to: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
    let offset = offset_at(from, zone)?;
    let (mut from, mut to) = (from, to);
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        if offset_at(middle, zone)? == offset { from = middle } else { to = middle }
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use tz::{DateTime, TimeZone};

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::from_posix_tz("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> UnixMillis {
        let n = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap();
        let (month, day) = (n(5..7) as u8, n(8..10) as u8);
        let (hour, minute) = (n(11..13) as u8, n(14..16) as u8);
        let time = tz::UtcDateTime::new(n(0..4) as i32, month, day, hour, minute, 0, 0).unwrap();
        UnixMillis(time.unix_time() as u64 * 1000)
    }

    fn text(time: UnixMillis, zone: TimeZoneRef<'_>) -> String {
        let t = DateTime::from_timespec((time.0 / 1000) as i64, 0, zone).unwrap();
        let (y, mo, d, h, mi) = (t.year(), t.month(), t.month_day(), t.hour(), t.minute());
        format!("{y}-{mo:02}-{d:02} {h:02}:{mi:02}")
    }

    /// The next `n` due times after `from` (UTC), as the clock on the wall shows them.
    fn dues(cron: &str, from: &str, n: usize, zone: &TimeZone) -> Vec<String> {
        let cron = Cron::parse(cron).unwrap();
        let mut time = at(from);
        (0..n)
            .map(|_| {
                time = next_after(&cron, time, zone.as_ref()).unwrap();
                text(time, zone.as_ref())
            })
            .collect()
    }

    #[test]
    fn the_usual_expressions_are_due_when_one_expects() {
        let utc = TimeZone::utc();
        let next = |cron: &str| dues(cron, "2024-02-28 23:59", 2, &utc);
        assert_eq!(next("* * * * *"), ["2024-02-29 00:00", "2024-02-29 00:01"]);
        assert_eq!(next("*/20 1,3-4 * * *"), ["2024-02-29 01:00", "2024-02-29 01:20"]);
        assert_eq!(next("30 6 * * mon-fri"), ["2024-02-29 06:30", "2024-03-01 06:30"]);
        assert_eq!(next("0 0 29 2 *"), ["2024-02-29 00:00", "2028-02-29 00:00"]);
        assert_eq!(next("5/25 0 1 * *"), ["2024-03-01 00:05", "2024-03-01 00:30"]);
        assert_eq!(next("0 12 * Jan,DEC 7"), ["2024-12-01 12:00", "2024-12-08 12:00"]);
        assert_eq!(next("@weekly"), ["2024-03-03 00:00", "2024-03-10 00:00"]);
        assert_eq!(next("@yearly"), ["2025-01-01 00:00", "2026-01-01 00:00"]);
        assert_eq!(next("@hourly"), ["2024-02-29 00:00", "2024-02-29 01:00"]);
    }

    #[test]
    fn two_day_fields_match_either_unless_one_begins_with_a_star() {
        let utc = TimeZone::utc();
        let next = |cron: &str| dues(cron, "2024-01-01 00:00", 3, &utc);
        assert_eq!(
            next("0 0 10 * fri"),
            ["2024-01-05 00:00", "2024-01-10 00:00", "2024-01-12 00:00"]
        );
        assert_eq!(
            next("0 0 */2 * fri"),
            ["2024-01-05 00:00", "2024-01-19 00:00", "2024-02-09 00:00"]
        );
    }

    #[test]
    fn a_time_in_a_skipped_hour_runs_when_the_hour_is_over() {
        let zone = berlin(); // 2024-03-31 02:00 → 03:00, at 01:00 UTC
        assert_eq!(
            dues("30 2 * * *", "2024-03-30 12:00", 2, &zone),
            ["2024-03-31 03:00", "2024-04-01 02:30"]
        );
        assert_eq!(
            dues("0,30 2,3 * * *", "2024-03-31 00:00", 3, &zone),
            ["2024-03-31 03:00", "2024-03-31 03:30", "2024-04-01 02:00"]
        );
    }

    #[test]
    fn a_time_in_a_doubled_hour_runs_once() {
        let zone = berlin(); // 2024-10-27 03:00 → 02:00, at 01:00 UTC
        let cron = Cron::parse("30 2 * * *").unwrap();
        let first = next_after(&cron, at("2024-10-26 12:00"), zone.as_ref()).unwrap();
        assert_eq!(first, at("2024-10-27 00:30"));
        let second = next_after(&cron, first, zone.as_ref()).unwrap();
        assert_eq!(second, at("2024-10-28 01:30"));
    }

    #[test]
    fn an_expression_of_every_hour_follows_the_clock_on_the_wall() {
        let zone = berlin();
        assert_eq!(
            dues("30 * * * *", "2024-03-31 00:00", 3, &zone),
            ["2024-03-31 01:30", "2024-03-31 03:30", "2024-03-31 04:30"]
        );
        assert_eq!(
            dues("30 * * * *", "2024-10-26 23:59", 4, &zone),
            ["2024-10-27 02:30", "2024-10-27 02:30", "2024-10-27 03:30", "2024-10-27 04:30"]
        );
        assert_eq!(
            dues("*/15 * 1 1 *", "2024-01-01 22:50", 2, &zone),
            ["2025-01-01 00:00", "2025-01-01 00:15"]
        );
    }

    #[test]
    fn skipping_ahead_agrees_with_looking_at_every_minute() {
        let zone = berlin();
        let crons = ["7 * * * *", "*/7 3-9/2 * * *", "0 0 * * 6", "59 23 31 * *", "1 1 1 * tue"];
        for text in crons {
            let cron = Cron::parse(text).unwrap();
            // Spring 2025, across the change of the clocks, away from the skipped hour's rule.
            let mut minute = at("2025-03-20 00:00").0 / 60_000;
            let end = minute + 60 * 24 * 40;
            let mut due =
                next_after(&cron, UnixMillis(minute * 60_000 - 1), zone.as_ref()).unwrap();
            while minute < end {
                let time = UnixMillis(minute * 60_000);
                let t = DateTime::from_timespec((time.0 / 1000) as i64, 0, zone.as_ref()).unwrap();
                let matches =
                    cron.matches(t.minute(), t.hour(), t.month_day(), t.month(), t.week_day());
                assert_eq!(matches, due == time, "{text} at {time:?}");
                if matches {
                    due = next_after(&cron, time, zone.as_ref()).unwrap();
                }
                minute += 1;
            }
        }
    }
}
