//! Times, durations, sizes and results as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time, to the second, in this machine's time zone.
pub fn time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let zone = tz::TimeZone::local().unwrap_or_else(|_| tz::TimeZone::utc());
    let Ok(t) = tz::DateTime::from_timespec(seconds, 0, zone.as_ref()) else {
        return ms.to_string();
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        t.year(),
        t.month(),
        t.month_day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// How long ago a point in time was: `12s ago`.
pub fn ago(ms: u64) -> String {
    let now = now_ms();
    if ms > now {
        return format!("in {}", span(Duration::from_millis(ms - now)));
    }
    format!("{} ago", span(Duration::from_millis(now - ms)))
}

/// A duration, in its two largest units: `3.2ms`, `1.5s`, `2m 5s`, `4d 3h`.
pub fn span(span: Duration) -> String {
    let us = span.as_micros();
    let s = span.as_secs();
    match s {
        0 if us < 1_000 => format!("{us}µs"),
        0 if us < 10_000 => format!("{:.1}ms", us as f64 / 1_000.0),
        0 => format!("{}ms", us / 1_000),
        1..=9 => format!("{:.1}s", span.as_secs_f64()),
        10..=59 => format!("{s}s"),
        60..=3_599 => two(s / 60, "m", s % 60, "s"),
        3_600..=86_399 => two(s / 3_600, "h", s % 3_600 / 60, "m"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{small_unit}") }
}

/// A size: `512 B`, `1.5 KiB`, `12 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `1 node`, `3 nodes`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Text from elsewhere, safe for a terminal: control characters are shown, not obeyed.
pub fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// When it started: by the hub's clock where the node's was not to be trusted, if the hub knows.
pub fn started(result: &Value) -> String {
    let started = corrected(result).or_else(|| result["started_ms"].as_u64());
    started.filter(|&ms| ms > 0).map_or_else(String::new, time)
}

fn corrected(result: &Value) -> Option<u64> {
    if result["clock"] == "untrusted" { result["started_corrected_ms"].as_u64() } else { None }
}

/// How long it took, where it ran.
pub fn took(result: &Value) -> String {
    match result["duration_us"].as_u64() {
        None | Some(0) => String::new(),
        Some(us) => span(Duration::from_micros(us)),
    }
}

/// What else is to be said of a result.
pub fn note(result: &Value) -> String {
    let mut notes = Vec::new();
    if let Some(text) = result["note"].as_str().or_else(|| result["detail"].as_str())
        && !text.is_empty()
    {
        notes.push(safe(text));
    }
    for (flag, words) in [
        ("truncated", "output cut at the job's max_output"),
        ("output_dropped", "output dropped on the node"),
        ("inferred", "inferred by the hub"),
        ("revised", "revised by the node"),
    ] {
        if result[flag] == true {
            notes.push(words.to_owned());
        }
    }
    if result["clock"] == "untrusted" {
        let known = if corrected(result).is_some() { ", start corrected by the hub" } else { "" };
        notes.push(format!("node's clock untrusted{known}"));
    }
    notes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_the_hubs_word_where_the_nodes_is_not_to_be_trusted() {
        let result = |clock: &str, corrected: Option<u64>| {
            serde_json::json!({
                "started_ms": 5_000, "started_corrected_ms": corrected, "clock": clock,
            })
        };
        let corrected = Some(1_800_000_000_000);
        assert_eq!(started(&result("trusted", corrected)), time(5_000));
        assert_eq!(started(&result("untrusted", corrected)), time(1_800_000_000_000));
        assert_eq!(started(&result("untrusted", None)), time(5_000));
        assert!(note(&result("untrusted", corrected)).contains("corrected"));
        assert!(!note(&result("untrusted", None)).contains("corrected"));
        assert_eq!(started(&serde_json::json!({ "started_ms": 0 })), "");
    }

    #[test]
    fn durations_and_sizes_are_short() {
        for (us, expected) in [
            (0, "0µs"),
            (999, "999µs"),
            (3_200, "3.2ms"),
            (45_000, "45ms"),
            (1_500_000, "1.5s"),
            (59_000_000, "59s"),
            (125_000_000, "2m 5s"),
            (7_200_000_000, "2h"),
            (356_400_000_000, "4d 3h"),
        ] {
            assert_eq!(span(Duration::from_micros(us)), expected);
        }
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(12 << 20), "12 MiB");
        assert_eq!(safe("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
