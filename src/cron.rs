//! Cron expressions: five fields, as `crontab(5)` has them.
//!
//! `minute hour day-of-month month day-of-week`, each `*`, a number, a name (`jan`, `mon`), a range
//! `a-b`, a step `*/n`, `a-b/n` or `a/n` (from `a` on), or a list of these; or `@hourly`, `@daily`,
//! `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. Sunday is 0 and 7. As in Vixie's
//! cron a day must match both day fields if one of them begins with `*`, and else either.
//!
//! When the clocks change, an expression whose hour field is every hour follows the clock on the wall:
//! an hour that is skipped has no runs, one that comes twice has them twice. Any other expression
//! means times of the day: what falls into a skipped hour runs when that hour is over, what falls
//! into a doubled one runs the first time only.

use std::fmt;

use fieldpost_wire::UnixMillis;
use tz::TimeZoneRef;

const DAY: i64 = 86_400;
const ALL_HOURS: u32 = 0xff_ffff;

/// A parsed expression: which minutes, hours, days, months and weekdays, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: u64,
    hours: u32,
    days: u32,
    months: u16,
    weekdays: u8,
    /// One of the day fields begins with `*`, so both must match.
    both_days: bool,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadCron {
    /// It does not have five fields; how many it has.
    Fields(usize),
    /// An `@` word that is not known.
    Word(String),
    /// This field does not read.
    Field(&'static str, String),
    /// No day of any year matches.
    Never,
}

impl fmt::Display for BadCron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(n) => write!(f, "has {n} fields; expected five, or a word like @hourly"),
            Self::Word(word) => write!(f, "{word} is not known; expected @hourly, @daily, …"),
            Self::Field(field, text) => write!(f, "the {field} field is {text:?}"),
            Self::Never => f.write_str("is never due: no day matches"),
        }
    }
}

struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const MONTH: Field = Field { name: "month", first: 1, last: 12, names: &MONTHS };
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DAY_OF_WEEK: Field = Field { name: "day of week", first: 0, last: 7, names: &WEEKDAYS };

impl Cron {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, BadCron> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            word if word.starts_with('@') => return Err(BadCron::Word(word.into())),
            fields => fields,
        };
        let mut fields = [""; 5];
        let mut count = 0;
        for field in text.split_ascii_whitespace() {
            if let Some(place) = fields.get_mut(count) {
                *place = field;
            }
            count += 1;
        }
        if count != 5 {
            return Err(BadCron::Fields(count));
        }
        let [minute, hour, day, month, weekday] = fields;
        let sundays = DAY_OF_WEEK.bits(weekday)?;
        // The masks hold no bit beyond their field's last value.
        let cron = Self {
            minutes: MINUTE.bits(minute)?,
            hours: HOUR.bits(hour)? as u32,
            days: DAY_OF_MONTH.bits(day)? as u32,
            months: MONTH.bits(month)? as u16,
            weekdays: (sundays & 0x7f | sundays >> 7) as u8,
            both_days: day.starts_with('*') || weekday.starts_with('*'),
        };
        // Within any 12 years there is a 29 February.
        cron.next_local(0).map(|_| cron).ok_or(BadCron::Never)
    }

    /// The first due time after `after`; `None` only where time zones end.
    pub(crate) fn next_after(
        &self,
        after: UnixMillis,
        zone: TimeZoneRef<'_>,
    ) -> Option<UnixMillis> {
        let after = i64::try_from(after.0 / 1000).ok()?;
        let next = if self.hours == ALL_HOURS {
            self.next_on_the_wall(after, zone)?
        } else {
            self.next_of_day(after, zone)?
        };
        u64::try_from(next).ok()?.checked_mul(1000).map(UnixMillis)
    }

    /// For expressions of every hour: each time the clock on the wall shows a match.
    fn next_on_the_wall(&self, after: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
        let mut from = after;
        loop {
            let offset = offset_at(from, zone)?;
            let due = self.next_local(from + offset)? - offset;
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
            let due = self.next_local(change + offset - 1)? - offset;
            if offset_at(due, zone)? == offset {
                return Some(due);
            }
            from = change;
        }
    }

    /// For expressions that mean times of the day: each of them once.
    fn next_of_day(&self, after: i64, zone: TimeZoneRef<'_>) -> Option<i64> {
        let offset = offset_at(after, zone)?;
        // Around a change the clock on the wall may have shown times already, or may skip some.
        let near_change = offset_at(after - DAY, zone)? != offset;
        let mut local = after + offset - if near_change { 4 * 3600 } else { 0 };
        loop {
            local = self.next_local(local)?;
            let due = first_instant(local, zone)?;
            if due > after {
                return Some(due);
            }
        }
    }

    /// The first match after `after`, both in seconds as the clock on the wall shows them.
    fn next_local(&self, after: i64) -> Option<i64> {
        let mut minute_of_day = after.rem_euclid(DAY) / 60 + 1;
        let mut day = after.div_euclid(DAY);
        let last = day + 12 * 366;
        while day <= last {
            let date = Date::of(day);
            if self.months >> date.month & 1 == 0 {
                day = date.first_of_next_month();
                minute_of_day = 0;
                continue;
            }
            if self.matches_day(&date, day)
                && let Some(minute) = self.minute_from(minute_of_day)
            {
                return Some(day * DAY + minute * 60);
            }
            day += 1;
            minute_of_day = 0;
        }
        None
    }

    fn matches_day(&self, date: &Date, day: i64) -> bool {
        // 1970-01-01 was a Thursday.
        let weekday = (day + 4).rem_euclid(7);
        let by_weekday = self.weekdays >> weekday & 1 == 1;
        let by_day = self.days >> date.day & 1 == 1;
        if self.both_days { by_weekday && by_day } else { by_weekday || by_day }
    }

    /// The first matching minute of the day at or after `from`.
    fn minute_from(&self, from: i64) -> Option<i64> {
        let (hour, minute) = (from / 60, from % 60);
        if hour < 24 && self.hours >> hour & 1 == 1 {
            let rest = self.minutes >> minute << minute;
            if rest != 0 {
                return Some(hour * 60 + i64::from(rest.trailing_zeros()));
            }
        }
        let later = if hour < 24 { u64::from(self.hours) >> (hour + 1) << (hour + 1) } else { 0 };
        (later != 0).then(|| {
            i64::from(later.trailing_zeros()) * 60 + i64::from(self.minutes.trailing_zeros())
        })
    }
}

impl Field {
    /// The values that `text` lists, as bits.
    fn bits(&self, text: &str) -> Result<u64, BadCron> {
        let bad = || BadCron::Field(self.name, text.into());
        let mut bits = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => {
                    (range, Some(number(step).filter(|&n| n > 0).ok_or_else(bad)?))
                }
                None => (item, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.first, self.last - u8::from(self.last == 7)),
                Some((first, last)) => {
                    (self.value(first).ok_or_else(bad)?, self.value(last).ok_or_else(bad)?)
                }
                None => {
                    let first = self.value(range).ok_or_else(bad)?;
                    (first, if step.is_some() { self.last } else { first })
                }
            };
            if first > last {
                return Err(bad());
            }
            for value in (first..=last).step_by(step.unwrap_or(1).into()) {
                bits |= 1 << value;
            }
        }
        Ok(bits)
    }

    fn value(&self, text: &str) -> Option<u8> {
        let by_name = || {
            let at = self.names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
            u8::try_from(at).ok().map(|at| at + self.first)
        };
        number(text).or_else(by_name).filter(|v| (self.first..=self.last).contains(v))
    }
}

fn number(text: &str) -> Option<u8> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A day of the Gregorian calendar.
struct Date {
    day_number: i64,
    month: u8,
    day: u8,
}

impl Date {
    /// The date `day_number` days after 1970-01-01 (Howard Hinnant's `civil_from_days`).
    fn of(day_number: i64) -> Self {
        let z = day_number + 719_468;
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        // 1..=31 and 1..=12 by construction.
        Self { day_number, month: month as u8, day: day as u8 }
    }

    fn first_of_next_month(&self) -> i64 {
        // Every month has 28 days at least, and 31 at most.
        let mut day = self.day_number + i64::from(29_u8.saturating_sub(self.day)).max(1);
        while Self::of(day).month == self.month {
            day += 1;
        }
        day
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
                time = cron.next_after(time, zone.as_ref()).unwrap();
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
    fn what_is_no_expression_is_refused_with_its_field() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "* * * foo *",
            "1, * * * *",
            "-1 * * * *",
            "1-2-3 * * * *",
            "*/ * * * *",
            "@reboot",
            "+1 * * * *",
            "256 * * * *",
            "0 0 30 2 *",
            "0 0 31 4,6,9,11 *",
        ] {
            assert!(Cron::parse(bad).is_err(), "{bad}");
        }
        let message = Cron::parse("* 25 * * *").unwrap_err().to_string();
        assert_eq!(message, "the hour field is \"25\"");
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
        let first = cron.next_after(at("2024-10-26 12:00"), zone.as_ref()).unwrap();
        assert_eq!(first, at("2024-10-27 00:30"));
        let second = cron.next_after(first, zone.as_ref()).unwrap();
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
            let mut due = cron.next_after(UnixMillis(minute * 60_000 - 1), zone.as_ref()).unwrap();
            while minute < end {
                let time = UnixMillis(minute * 60_000);
                let t = DateTime::from_timespec((time.0 / 1000) as i64, 0, zone.as_ref()).unwrap();
                let by_day = cron.days >> t.month_day() & 1 == 1;
                let by_weekday = cron.weekdays >> t.week_day() & 1 == 1;
                let day = if cron.both_days { by_day && by_weekday } else { by_day || by_weekday };
                let matches = day
                    && cron.months >> t.month() & 1 == 1
                    && cron.hours >> t.hour() & 1 == 1
                    && cron.minutes >> t.minute() & 1 == 1;
                assert_eq!(matches, due == time, "{text} at {time:?}");
                if matches {
                    due = cron.next_after(time, zone.as_ref()).unwrap();
                }
                minute += 1;
            }
        }
    }
}
