//! Gives memory back that was needed once, such as the code of the start and of the handshake.
#![allow(unsafe_code, reason = "madvise(2) and sysconf(3) have no safe wrapper")]

use std::fs;

/// Below a thread's stack pointer nothing is in use but what a call from here needs, and the 128
/// bytes that x86-64's functions may use without saying so.
const STACK_IN_USE: usize = 8 * 1024;

/// Lets the kernel have back what only the start needed: our program's code, and the stack that
/// lies below this call. To be called by the main thread, where it waits at rest.
///
/// Code that is needed again comes back from the page cache by itself, a few pages at a time; on a
/// small device several hundred KiB of it never are. The stack's pages come back as zeros.
pub fn forget_start() {
    // Without /proc they stay: nothing depends on this.
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let here = 0u8;
    let below = (&raw const here as usize).saturating_sub(STACK_IN_USE);
    // SAFETY: sysconf(3) reads a constant. A part of a page would be taken as a whole one.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    for line in maps.lines() {
        let unused = match code(line) {
            Some(range) => range,
            None => match stack(line) {
                Some((start, len)) if (start..start + len).contains(&below) => {
                    (start, (below - start) / page * page)
                }
                _ => continue,
            },
        };
        let (address, len) = (unused.0 as *mut libc::c_void, unused.1);
        // SAFETY: the range is of one mapping of this process, as the kernel just listed it. Code
        // is of a file, private, and not writable, so its pages are the file's: what is dropped is
        // read again, the same, at the next access. Nothing unmaps programs or libraries
        // meanwhile. Of the stack it is what lies below this thread's frames, where nothing lives;
        // no signal handler runs there, since all signals come by signalfd(2).
        let done = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
        if done != 0 {
            log::debug!("pages stay in memory: {}", std::io::Error::last_os_error());
        }
    }
}

/// Where a mapping is, if it is executable code of a file, mapped as it is in the file: a line of
/// proc_pid_maps(5), `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let range = words.next()?;
    // Read-only ones without `x` are left alone: what was relocated at start is among them.
    (words.next()? == "r-xp").then_some(())?;
    (words.nth(2)? != "0").then_some(())?;
    words.next()?.starts_with('/').then_some(())?;
    extent(range)
}

/// Where the main thread's stack is.
fn stack(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let range = words.next()?;
    (words.nth(4)? == "[stack]").then_some(())?;
    extent(range)
}

/// The start and the length of `START-END`.
fn extent(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.split_once('-')?;
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
    fn the_stack_is_the_main_threads() {
        assert_eq!(
            stack("7fff2154d000-7fff2156e000 rw-p 00000000 00:00 0    [stack]"),
            Some((0x7fff_2154_d000, 0x2_1000))
        );
        for other in ["7fff2154d000-7fff2156e000 rw-p 00000000 00:00 0", "", "a b c d e [stack]"] {
            assert_eq!(stack(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_its_code() {
        for _ in 0..3 {
            forget_start();
        }
    }
}
