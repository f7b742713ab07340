//! Durations and sizes as people write them: `"90s"`, `"30d"`, `"64 KiB"`, `"10 GiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration in a file or on a command line: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A size in a file: a whole number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// What a [`Span`] looks like.
pub const SPAN: &str = "a duration such as \"20s\", \"5m\", \"12h\" or \"30d\"";
/// What a [`Size`] looks like.
pub const SIZE: &str = "a size such as \"64 KiB\", \"1 MiB\" or \"10 GiB\"";

/// A text that is no duration or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadUnit(&'static str);

impl fmt::Display for BadUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for BadUnit {}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let (number, unit) = split(text).ok_or(BadUnit(SPAN))?;
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(BadUnit(SPAN)),
        };
        let ms = number.checked_mul(ms).ok_or(BadUnit(SPAN))?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl Span {
    /// In milliseconds.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Size {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let (number, unit) = split(text).ok_or(BadUnit(SIZE))?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(BadUnit(SIZE)),
        };
        number.checked_mul(1 << shift).map(Self).ok_or(BadUnit(SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_written() {
        assert_eq!("90s".parse(), Ok(Span(Duration::from_secs(90))));
        assert_eq!("2 d".parse(), Ok(Span(Duration::from_secs(172_800))));
        assert_eq!("64 KiB".parse(), Ok(Size(65_536)));
        assert_eq!("10GiB".parse(), Ok(Size(10 << 30)));
        for bad in ["", "s", "1", "1.5h", "-1s", "1 parsec", "99999999999999999999s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert!("1 MB".parse::<Size>().is_err());
        assert!("99999999999 TiB".parse::<Size>().is_err());
    }
}
