//! Cron expressions: five fields, as `crontab(5)` has them.
//!
//! `minute hour day-of-month month day-of-week`, each `*`, a number, a name (`jan`, `mon`), a range
//! `a-b`, a step `*/n`, `a-b/n` or `a/n` (from `a` on), or a list of these; or `@hourly`, `@daily`,
//! `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. Sunday is 0 and 7. As in Vixie's
//! cron a day must match both day fields if one of them begins with `*`, and else either.
//!
//! Here is what an expression says of the clock on the wall; the node knows the time zone.

use core::fmt;

/// Seconds of a day.
const DAY: i64 = 86_400;
const ALL_HOURS: u32 = 0xff_ffff;

/// A parsed expression: which minutes, hours, days, months and weekdays, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u32,
    days: u32,
    months: u16,
    weekdays: u8,
    /// One of the day fields begins with `*`, so both must match.
    both_days: bool,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCron<'a> {
    /// It does not have five fields; how many it has.
    Fields(usize),
    /// An `@` word that is not known.
    Word(&'a str),
    /// This field does not read.
    Field(&'static str, &'a str),
    /// No day of any year matches.
    Never,
}

impl fmt::Display for BadCron<'_> {
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
    ///
    /// # Errors
    /// What is wrong with it; also one that no day matches is wrong.
    pub fn parse(text: &str) -> Result<Self, BadCron<'_>> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            word if word.starts_with('@') => return Err(BadCron::Word(word)),
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

    /// Whether it is due in every hour of its days.
    #[must_use]
    pub fn is_hourly(&self) -> bool {
        self.hours == ALL_HOURS
    }

    /// Whether it is due in a minute of the clock on the wall; Sunday is 0.
    #[must_use]
    pub fn matches(&self, minute: u8, hour: u8, day: u8, month: u8, weekday: u8) -> bool {
        self.minutes >> minute & 1 == 1
            && self.hours >> hour & 1 == 1
            && self.months >> month & 1 == 1
            && self.matches_day(day, weekday)
    }

    /// The first match after `after`, both in seconds since 1970 as the clock on the wall shows
    /// them; `None` if there is none in 12 years.
    #[must_use]
    pub fn next_local(&self, after: i64) -> Option<i64> {
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
            // 1970-01-01 was a Thursday.
            let weekday = (day + 4).rem_euclid(7) as u8;
            if self.matches_day(date.day, weekday)
                && let Some(minute) = self.minute_from(minute_of_day)
            {
                return Some(day * DAY + minute * 60);
            }
            day += 1;
            minute_of_day = 0;
        }
        None
    }

    fn matches_day(&self, day: u8, weekday: u8) -> bool {
        let by_weekday = self.weekdays >> weekday & 1 == 1;
        let by_day = self.days >> day & 1 == 1;
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
    fn bits<'a>(&self, text: &'a str) -> Result<u64, BadCron<'a>> {
        let bad = || BadCron::Field(self.name, text);
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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString as _;

    use super::*;

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
}
