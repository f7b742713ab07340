//! The built-in job `file`: the lines that a file got since the last time.
//!
//! A [`Cursor`] remembers device, inode and offset. Only whole lines are given. Rotation: when
//! the path has another inode, the rest of the old file is given first if it is still there as
//! `PATH.1` (as logrotate names it), then the new one from its start. Truncation: a file shorter
//! than the offset is read from its start. The first time begins at the start, too.
//!
//! Files are opened with `O_NONBLOCK | O_NOFOLLOW` and read only if they are regular: a FIFO or
//! a link that somebody put there neither hangs the agent nor shows another file.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fieldpost_wire::limits::{CHUNK, TEXT};

/// Up to where a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The file system it is on.
    pub device: u64,
    /// The file.
    pub inode: u64,
    /// The next byte to be read.
    pub offset: u64,
}

/// One reading of a file: from its cursor up to the end it had when the reading began.
#[derive(Debug)]
pub struct Reading {
    /// What is still to be read: the rest of a rotated file, then the file.
    parts: heapless::Deque<Part, 2>,
    cursor: Cursor,
    budget: u64,
    /// Nothing was read yet.
    untouched: bool,
    truncated: bool,
    note: heapless::String<TEXT>,
}

#[derive(Debug)]
struct Part {
    file: File,
    from: Cursor,
    at: u64,
    end: u64,
}

impl Reading {
    /// Opens the file. At most `budget` bytes are read; the rest is left for the next time.
    ///
    /// # Errors
    /// It is not there, may not be read, or is no regular file.
    pub fn begin(path: &Path, last: Option<Cursor>, budget: u64) -> io::Result<Self> {
        let (file, now) = open(path)?;
        let length = file.metadata()?.len();
        let mut parts = heapless::Deque::new();
        let mut truncated = false;
        let mut offset = 0;
        match last {
            Some(last) if (last.device, last.inode) == (now.device, now.inode) => {
                truncated = length < last.offset;
                offset = if truncated { 0 } else { last.offset };
            }
            Some(last) => {
                if let Some(part) = rotated(path, last) {
                    push(&mut parts, part);
                }
            }
            None => {}
        }
        let cursor = Cursor { offset, ..now };
        let first = parts.front().map_or(cursor, |part| part.from);
        push(&mut parts, Part { file, from: cursor, at: offset, end: length });
        let note = heapless::String::new();
        Ok(Self { parts, cursor: first, budget, untouched: true, truncated, note })
    }

    /// Reads the next lines into `buffer`, as many as fit, and says how many bytes they have.
    /// `None`: that was all.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn next(&mut self, buffer: &mut [u8; CHUNK]) -> io::Result<Option<usize>> {
        while let Some(part) = self.parts.front_mut() {
            let most = (buffer.len() as u64).min(part.end - part.at).min(self.budget);
            let most = usize::try_from(most).unwrap_or(buffer.len());
            let n = part.file.read_at(&mut buffer[..most], part.at)?;
            let mut lines = whole_lines(&buffer[..n]);
            if lines == 0 && n > 0 && n as u64 == self.budget {
                // The bound ends within a line: the rest of this file waits, a rotated one too. A line
                // longer than all of the bound comes in pieces.
                if self.untouched {
                    lines = n;
                } else {
                    self.budget = 0;
                }
            }
            if lines == 0 {
                self.leave();
                continue;
            }
            self.untouched = false;
            part.at += lines as u64;
            self.budget -= lines as u64;
            self.cursor = Cursor { offset: part.at, ..part.from };
            return Ok(Some(lines));
        }
        Ok(None)
    }

    /// Where the next reading is to begin.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What was read, for the result: files by device and inode, and offsets in them.
    pub fn note(&mut self) -> &str {
        while !self.parts.is_empty() {
            self.leave();
        }
        &self.note
    }

    /// Goes on to the next part, unless the budget is used up: then the rest waits.
    fn leave(&mut self) {
        let Some(part) = self.parts.pop_front() else { return };
        let separator = if self.note.is_empty() { "" } else { "; " };
        let said = write!(
            self.note,
            "{separator}{}:{} bytes {}-{}",
            part.from.device, part.from.inode, part.from.offset, part.at
        );
        if said.is_ok() && self.truncated && part.from.offset == 0 {
            self.note.push_str(" (truncated before)").expect("two parts are far shorter than TEXT");
        }
        if self.budget == 0 {
            self.parts.clear();
            return;
        }
        if let Some(next) = self.parts.front() {
            self.cursor = next.from;
        }
    }
}

/// How many of these bytes are whole lines. A line that fills the whole buffer alone is given in
/// pieces: it must not stop the file for ever.
fn whole_lines(bytes: &[u8]) -> usize {
    match bytes.iter().rposition(|&b| b == b'\n') {
        Some(last) => last + 1,
        None if bytes.len() == CHUNK => CHUNK,
        None => 0,
    }
}

/// The rest of the file that `path` was, where logrotate leaves it.
fn rotated(path: &Path, last: Cursor) -> Option<Part> {
    let mut old = PathBuf::from(path);
    old.as_mut_os_string().push(".1");
    let (file, found) = open(&old).ok()?;
    let end = file.metadata().ok()?.len();
    ((found.device, found.inode) == (last.device, last.inode) && end > last.offset)
        .then_some(Part { file, from: last, at: last.offset, end })
}

fn open(path: &Path) -> io::Result<(File, Cursor)> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, Cursor { device: meta.dev(), inode: meta.ino(), offset: 0 }))
}

fn push(parts: &mut heapless::Deque<Part, 2>, part: Part) {
    if parts.push_back(part).is_err() {
        unreachable!("there are only the file and what it was before");
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.device, self.inode, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split(' ').map(|n| n.parse().map_err(|_| ()));
        let mut next = || numbers.next().unwrap_or(Err(()));
        Ok(Self { device: next()?, inode: next()?, offset: next()? })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("fieldpost-tail-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir.join("log")
    }

    fn read(path: &Path, cursor: &mut Option<Cursor>, budget: u64) -> (String, String) {
        let mut reading = Reading::begin(path, *cursor, budget).unwrap();
        let mut text = Vec::new();
        let mut buffer = [0; CHUNK];
        while let Some(lines) = reading.next(&mut buffer).unwrap() {
            text.extend_from_slice(&buffer[..lines]);
        }
        *cursor = Some(reading.cursor());
        (String::from_utf8(text).unwrap(), reading.note().to_owned())
    }

    fn append(path: &Path, text: &str) {
        use std::io::Write as _;
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[test]
    fn only_new_whole_lines_are_given() {
        let path = place("lines");
        let mut cursor = None;
        append(&path, "one\ntw");
        assert_eq!(read(&path, &mut cursor, 1000).0, "one\n");
        assert_eq!(read(&path, &mut cursor, 1000).0, "");
        append(&path, "o\nthree\n");
        let (text, note) = read(&path, &mut cursor, 1000);
        assert_eq!(text, "two\nthree\n");
        assert!(note.ends_with(" bytes 4-14"), "{note}");
        // The bound leaves the rest for the next time.
        append(&path, "four\nfive\n");
        assert_eq!(read(&path, &mut cursor, 7).0, "four\n");
        assert_eq!(read(&path, &mut cursor, 1000).0, "five\n");
        assert_eq!(cursor.unwrap().to_string().parse(), Ok(cursor.unwrap()));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn rotation_and_truncation_lose_nothing() {
        let path = place("rotation");
        let mut cursor = None;
        append(&path, "one\n");
        read(&path, &mut cursor, 1000);
        append(&path, "two\n");
        fs::rename(&path, path.with_extension("1")).unwrap();
        append(&path, "three\n");
        let (text, note) = read(&path, &mut cursor, 1000);
        assert_eq!(text, "two\nthree\n");
        assert!(note.contains("bytes 4-8; ") && note.ends_with(" bytes 0-6"), "{note}");
        fs::write(&path, "four\n").unwrap();
        let (text, note) = read(&path, &mut cursor, 1000);
        assert_eq!(text, "four\n");
        assert!(note.ends_with("(truncated before)"), "{note}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_rest_of_a_rotated_file_waits_when_the_bound_ends_within_a_line() {
        let path = place("rotated-bound");
        let mut cursor = None;
        append(&path, "one\n");
        read(&path, &mut cursor, 1000);
        append(&path, "two\nthree\nfour\n");
        fs::rename(&path, path.with_extension("1")).unwrap();
        append(&path, "five\n");
        let mut all = String::new();
        for _ in 0..5 {
            // Room for one line and a piece of the next.
            all += &read(&path, &mut cursor, 7).0;
        }
        assert_eq!(all, "two\nthree\nfour\nfive\n");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_line_longer_than_the_bound_does_not_stop_the_file() {
        let path = place("over-bound");
        let mut cursor = None;
        append(&path, &("x".repeat(5000) + "\nend\n"));
        let mut all = 0;
        for _ in 0..10 {
            all += read(&path, &mut cursor, 4096).0.len();
        }
        assert_eq!(all, 5005);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn links_and_fifos_are_refused() {
        let path = place("links");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Reading::begin(&path, None, 1000).is_err());
        let fifo = path.with_extension("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Reading::begin(&fifo, None, 1000).is_err());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_line_longer_than_the_buffer_comes_in_pieces() {
        let path = place("long");
        let mut cursor = None;
        append(&path, &("x".repeat(CHUNK + 10) + "\nend\n"));
        assert_eq!(read(&path, &mut cursor, 1 << 20).0.len(), CHUNK + 15);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
