//! The built-in job `system`: the machine's state as one JSON object, and the vitals that a
//! heartbeat carries.
//!
//! Everything is read from /proc and /sys into fixed buffers: no allocation. Network mounts are
//! skipped, for a dead server would hang statvfs(3).
//!
//! ```text
//! {"uptime_s":86400,"load":[0.10,0.05,0.01],
//!  "cpu":{"cores":4,"user_ms":…,"nice_ms":…,"system_ms":…,"idle_ms":…,"iowait_ms":…,"irq_ms":…,"steal_ms":…},
//!  "memory":{"total_kib":…,"available_kib":…,"swap_total_kib":…,"swap_free_kib":…},
//!  "disks":[{"mount":"/","type":"ext4","total_kib":…,"available_kib":…,"files":…,"files_free":…,"read_only":false}],
//!  "temperatures":[{"zone":"cpu-thermal","celsius":48.312}],
//!  "network":[{"interface":"eth0","rx_bytes":…,"rx_packets":…,"rx_errors":…,"rx_dropped":…,
//!              "tx_bytes":…,"tx_packets":…,"tx_errors":…,"tx_dropped":…}],"complete":true}
//! ```
//!
//! `complete` is false where a list was cut because the buffer was full.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read as _;

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::agent::Vitals;
use crate::limits::READ;

/// Longest object: one chunk, so that the core takes it at once.
pub const SYSTEM_JSON: usize = READ;

/// What the object is written into.
pub type Json = heapless::String<SYSTEM_JSON>;

/// File systems that live on this machine. Others may hang, or hold nothing worth counting.
const LOCAL: [&str; 16] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "exfat", "ntfs3", "jffs2", "ubifs",
    "overlay", "zfs", "bcachefs", "jfs", "nilfs2",
];
/// Most mounts that are looked at: a bind mount shows its file system again.
const MOUNTS: usize = 32;
/// Thermal zones and network interfaces beyond this are not looked at.
const ZONES: usize = 32;
/// Room that closes the object, whatever came before.
const CLOSING: usize = 64;

/// Reads how the machine is doing. What can't be read is 0; bytes written are not its to know.
#[must_use]
pub fn vitals() -> Vitals {
    let mut vitals = Vitals::default();
    let mut buffer = [0; 128];
    if let Some(text) = read("/proc/loadavg", &mut buffer) {
        vitals.load_milli = text.split(' ').next().and_then(milli).unwrap_or(0);
    }
    lines("/proc/meminfo", |line| {
        if let Some(kib) = kib(line, "MemAvailable:") {
            vitals.memory_kib = kib;
        }
    });
    zones(|_, milli| {
        vitals.temperature_milli = Some(vitals.temperature_milli.map_or(milli, |t| t.max(milli)));
    });
    vitals
}

/// Writes the machine's state.
pub fn describe(json: &mut Json) {
    json.clear();
    let mut complete = true;
    for part in [head, cpu, memory] {
        complete &= attempt(json, part).is_ok();
    }
    for (name, list) in [
        ("disks", disks as fn(&mut List<'_>)),
        ("temperatures", temperatures),
        ("network", network),
    ] {
        complete &= attempt(json, |json| write!(json, ",\"{name}\":[")).is_ok();
        let mut items = List { json, count: 0, full: false };
        list(&mut items);
        complete &= !items.full;
        close(json, "]");
    }
    close(json, if complete { ",\"complete\":true}" } else { ",\"complete\":false}" });
    close(json, "\n");
}

/// Writes what `part` writes, or nothing if it does not fit.
fn attempt(json: &mut Json, part: impl FnOnce(&mut Json) -> fmt::Result) -> fmt::Result {
    let before = json.len();
    let written = part(json);
    if written.is_ok() && json.len() + CLOSING <= SYSTEM_JSON {
        return Ok(());
    }
    json.truncate(before);
    Err(fmt::Error)
}

fn close(json: &mut Json, text: &str) {
    json.push_str(text).expect("room was kept for it: CLOSING");
}

/// An array being written.
struct List<'j> {
    json: &'j mut Json,
    count: usize,
    full: bool,
}

impl List<'_> {
    fn item(&mut self, part: impl FnOnce(&mut Json) -> fmt::Result) {
        let comma = if self.count == 0 { "" } else { "," };
        let written = attempt(self.json, |json| {
            json.write_str(comma)?;
            part(json)
        });
        match written {
            Ok(()) => self.count += 1,
            Err(fmt::Error) => self.full = true,
        }
    }
}

fn head(json: &mut Json) -> fmt::Result {
    let uptime_s = super::clock::boot().as_secs();
    write!(json, "{{\"uptime_s\":{uptime_s}")?;
    let mut buffer = [0; 128];
    let Some(text) = read("/proc/loadavg", &mut buffer) else { return Ok(()) };
    let mut loads = text.split(' ').filter_map(milli).map(|m| f64::from(m) / 1000.0);
    let mut next = || loads.next().unwrap_or(0.0);
    write!(json, ",\"load\":[{:.2},{:.2},{:.2}]", next(), next(), next())
}

fn cpu(json: &mut Json) -> fmt::Result {
    let mut cores = 0;
    let mut ticks = [0u64; 8];
    lines("/proc/stat", |line| {
        let Some(rest) = line.strip_prefix("cpu") else { return };
        let Some(total) = rest.strip_prefix(' ') else {
            cores += 1;
            return;
        };
        for (field, place) in total.split_whitespace().zip(&mut ticks) {
            *place = field.parse().unwrap_or(0);
        }
    });
    // /proc/stat counts in USER_HZ, which is 100 on every Linux there is.
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks.map(|ticks| ticks * 10);
    let irq = irq + softirq;
    write!(
        json,
        ",\"cpu\":{{\"cores\":{cores},\"user_ms\":{user},\"nice_ms\":{nice},\"system_ms\":{system},\
         \"idle_ms\":{idle},\"iowait_ms\":{iowait},\"irq_ms\":{irq},\"steal_ms\":{steal}}}"
    )
}

fn memory(json: &mut Json) -> fmt::Result {
    let names = ["MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:"];
    let mut values = [0; 4];
    lines("/proc/meminfo", |line| {
        for (name, value) in names.iter().zip(&mut values) {
            if let Some(kib) = kib(line, name) {
                *value = kib;
            }
        }
    });
    let [total, available, swap, swap_free] = values;
    write!(
        json,
        ",\"memory\":{{\"total_kib\":{total},\"available_kib\":{available},\
         \"swap_total_kib\":{swap},\"swap_free_kib\":{swap_free}}}"
    )
}

fn disks(list: &mut List<'_>) {
    let mut seen = heapless::Vec::<heapless::String<16>, MOUNTS>::new();
    // proc(5): id parent major:minor root mount options [optional…] - type source options
    lines("/proc/self/mountinfo", |line| {
        let Some((left, right)) = line.split_once(" - ") else { return };
        let Some(kind) = right.split(' ').next().filter(|kind| LOCAL.contains(kind)) else {
            return;
        };
        let mut fields = left.split(' ').skip(2);
        let (Some(device), Some(_root), Some(mount)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let Ok(device) = heapless::String::try_from(device) else { return };
        let mut path = heapless::String::<512>::new();
        if seen.contains(&device) || unescape(mount, &mut path).is_err() {
            return;
        }
        let Ok(stat) = statvfs(path.as_str()) else { return };
        if stat.blocks() == 0 {
            return;
        }
        // In a container files are mounted one by one; a directory is what people look for.
        if !std::fs::metadata(path.as_str()).is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        if seen.push(device).is_err() {
            list.full = true;
            return;
        }
        #[allow(clippy::useless_conversion, reason = "these are u32 on 32-bit machines")]
        let kib = |blocks| {
            u128::from(u64::from(stat.fragment_size())) * u128::from(u64::from(blocks)) / 1024
        };
        let (total, available) = (kib(stat.blocks()), kib(stat.blocks_available()));
        let (files, files_free) = (stat.files(), stat.files_available());
        let read_only = stat.flags().contains(FsFlags::ST_RDONLY);
        list.item(|json| {
            json.write_str("{\"mount\":")?;
            quoted(json, &path)?;
            write!(
                json,
                ",\"type\":\"{kind}\",\"total_kib\":{total},\"available_kib\":{available},\
                 \"files\":{files},\"files_free\":{files_free},\"read_only\":{read_only}}}"
            )
        });
    });
}

fn temperatures(list: &mut List<'_>) {
    zones(|zone, milli| {
        list.item(|json| {
            json.write_str("{\"zone\":")?;
            quoted(json, zone)?;
            let sign = if milli < 0 { "-" } else { "" };
            let milli = milli.unsigned_abs();
            write!(json, ",\"celsius\":{sign}{}.{:03}}}", milli / 1000, milli % 1000)
        });
    });
}

fn network(list: &mut List<'_>) {
    lines("/proc/net/dev", |line| {
        let Some((interface, counters)) = line.split_once(':') else { return };
        let mut fields = counters.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        let mut values = [0; 16];
        for (place, value) in values.iter_mut().zip(&mut fields) {
            *place = value;
        }
        list.item(|json| {
            json.write_str("{\"interface\":")?;
            quoted(json, interface.trim())?;
            for (direction, first) in [("rx", 0), ("tx", 8)] {
                for (what, value) in
                    ["bytes", "packets", "errors", "dropped"].iter().zip(&values[first..])
                {
                    write!(json, ",\"{direction}_{what}\":{value}")?;
                }
            }
            json.write_char('}')
        });
    });
}

/// Calls with the name and the temperature of each thermal zone.
fn zones(mut each: impl FnMut(&str, i32)) {
    let mut path = heapless::String::<64>::new();
    for zone in 0..ZONES {
        let (mut value, mut name) = ([0; 32], [0; 64]);
        let mut file = |file: &str, buffer| {
            path.clear();
            write!(path, "/sys/class/thermal/thermal_zone{zone}/{file}").ok()?;
            read(&path, buffer)
        };
        let Some(milli) = file("temp", &mut value) else {
            // Zones count up without gaps, but one may be unreadable while its sensor sleeps.
            if zone >= 8 { return } else { continue }
        };
        let Ok(milli) = milli.trim().parse() else { continue };
        each(file("type", &mut name).map_or("", str::trim), milli);
    }
}

/// Writes a text as JSON does, with its quotes.
pub(crate) fn quoted(json: &mut impl Write, text: &str) -> fmt::Result {
    json.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(json, "\\{c}")?,
            '\n' => json.write_str("\\n")?,
            c if c < ' ' => write!(json, "\\u{:04x}", u32::from(c))?,
            c => json.write_char(c)?,
        }
    }
    json.write_char('"')
}

/// mountinfo writes space, tab, newline and backslash as `\040` and so on.
fn unescape<const N: usize>(text: &str, out: &mut heapless::String<N>) -> Result<(), fmt::Error> {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]).map_err(|_| fmt::Error)?;
        let code = rest.get(at + 1..at + 4).ok_or(fmt::Error)?;
        let byte = u8::from_str_radix(code, 8).map_err(|_| fmt::Error)?;
        out.push(char::from(byte)).map_err(|_| fmt::Error)?;
        rest = &rest[at + 4..];
    }
    out.push_str(rest).map_err(|_| fmt::Error)
}

fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()
}

/// "0.25" → 250; finer digits are cut off.
fn milli(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = fraction.bytes().chain(*b"000").take(3);
    let fraction = digits
        .map(|d| u32::from(d.wrapping_sub(b'0')))
        .try_fold(0, |n, d| (d < 10).then_some(n * 10 + d))?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

/// The beginning of a file, as far as the buffer goes.
fn read<'b>(path: &str, buffer: &'b mut [u8]) -> Option<&'b str> {
    let n = File::open(path).ok()?.read(buffer).ok()?;
    std::str::from_utf8(&buffer[..n]).ok()
}

/// Calls with each line of a file, without its newline. Lines beyond 4 KiB are skipped.
fn lines(path: &str, mut each: impl FnMut(&str)) {
    let Ok(mut file) = File::open(path) else { return };
    let mut buffer = [0; 4096];
    let mut held = 0;
    let mut skipping = false;
    loop {
        let n = match file.read(&mut buffer[held..]) {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        held += n;
        let mut start = 0;
        while let Some(length) = buffer[start..held].iter().position(|&b| b == b'\n') {
            if let Ok(line) = std::str::from_utf8(&buffer[start..start + length])
                && !skipping
            {
                each(line);
            }
            skipping = false;
            start += length + 1;
        }
        buffer.copy_within(start..held, 0);
        held -= start;
        if held == buffer.len() {
            skipping = true;
            held = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_describes_itself() {
        let mut json = Json::new();
        describe(&mut json);
        for key in ["uptime_s", "load", "cpu", "memory", "disks", "temperatures", "network"] {
            assert!(json.contains(&format!("\"{key}\":")), "{key} in {json}");
        }
        assert!(json.ends_with("\"complete\":true}\n"), "{json}");
        assert_eq!(json.matches('{').count(), json.matches('}').count());
        assert!(json.contains("{\"interface\":\"lo\",\"rx_bytes\":"), "{json}");
        assert!(vitals().memory_kib > 0);
    }

    #[test]
    fn a_full_buffer_still_closes_the_object() {
        let mut json = Json::new();
        let mut list = List { json: &mut json, count: 0, full: false };
        while !list.full {
            list.item(|json| json.write_str("{\"a\":1}"));
        }
        assert!(json.len() + CLOSING <= SYSTEM_JSON && json.ends_with("{\"a\":1}"));
    }

    #[test]
    fn texts_are_read_and_quoted() {
        assert_eq!(milli("1.25"), Some(1250));
        assert_eq!(milli("0.1"), Some(100));
        assert_eq!(milli("x"), None);
        let mut out = heapless::String::<32>::new();
        unescape("/mnt/a\\040b", &mut out).unwrap();
        assert_eq!(out, "/mnt/a b");
        let mut json = String::new();
        quoted(&mut json, "a\"\\\u{1}").unwrap();
        assert_eq!(json, "\"a\\\"\\\\\\u0001\"");
    }
}
