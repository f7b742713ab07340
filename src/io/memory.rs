//! Gives memory back that was needed once, such as the code of the start and of the handshake.
#![allow(unsafe_code, reason = "madvise(2) has no safe wrapper")]

use std::fs;

/// Lets the kernel forget our program's code. What is needed again comes back from the page cache
/// by itself, a few pages at a time; on a small device several hundred KiB of it never are.
pub fn forget_code() {
    // Without /proc the code stays: nothing depends on this.
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for (start, len) in maps.lines().filter_map(code) {
        let address = start as *mut libc::c_void;
        // SAFETY: the range is one mapping of this process, as the kernel just listed it. It is of
        // a file, private, and not writable, so its pages are the file's: what is dropped is read
        // again, the same, at the next access. Nothing unmaps programs or libraries meanwhile.
        let done = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
        if done != 0 {
            log::debug!("the code stays in memory: {}", std::io::Error::last_os_error());
        }
    }
}

/// Where a mapping is, if it is executable code of a file, mapped as it is in the file: a line of
/// proc_pid_maps(5), `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    // Read-only ones without `x` are left alone: what was relocated at start is among them.
    (words.next()? == "r-xp").then_some(())?;
    (words.nth(2)? != "0").then_some(())?;
    words.next()?.starts_with('/').then_some(())?;
    let at = |hex| usize::from_str_radix(hex, 16).ok();
    let (start, end) = (at(start)?, at(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_is_in_a_file_counts() {
        assert_eq!(
            code("00401000-00503000 r-xp 00001000 fe:01 1234    /usr/bin/fieldpost-agent"),
            Some((0x0040_1000, 0x0010_2000))
        );
        for other in [
            "00400000-00401000 r--p 00000000 fe:01 1234 /usr/bin/fieldpost-agent",
            "00400000-00401000 rwxp 00000000 fe:01 1234 /usr/bin/fieldpost-agent",
            "7ffd0000-7ffd2000 r-xp 00000000 00:00 0    [vdso]",
            "7ffd0000-7ffd2000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_its_code() {
        for _ in 0..3 {
            forget_code();
        }
    }
}
