//! The spool's files: what the core decides about them is done here, one thing at a time.
//!
//! The directory is locked (flock(2) on the directory itself: no file is written for that). Whatever
//! is in it, the agent starts: what can't be used is put aside as `NAME.bad`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag, PosixFadviseAdvice, posix_fadvise};

use crate::limits::SEGMENT;
use crate::spool::{Recovered, Verdict, Work};

/// Higher numbers are not ours: a count of segments does not get there.
const MOST_NUMBER: u32 = 0xf000_0000;
/// Damaged bytes that are put aside at one start, at most; the rest is only counted.
const MOST_BAD: usize = 1024 * 1024;

/// The spool's directory.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    lock: Option<Flock<File>>,
    /// The segment that was written last.
    open: Option<(u32, File)>,
    /// Its name may not be on disk.
    is_new: bool,
    /// Segments that were written since one was synced last.
    unsynced: Vec<u32>,
    buffer: Vec<u8>,
    written: u64,
}

/// What was done.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It is done.
    Well,
    /// What was read.
    Read(&'a [u8]),
}

/// A segment in a directory.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its number.
    pub number: u32,
    /// Its file.
    pub path: PathBuf,
}

impl Files {
    /// The files in a directory, which is made when it is first needed.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
            lock: None,
            open: None,
            is_new: false,
            unsynced: Vec::new(),
            buffer: Vec::new(),
            written: 0,
        }
    }

    /// Reads what an earlier start left, cuts torn ends and puts aside what is damaged.
    #[must_use]
    pub fn recover(&mut self, journal: &[u8]) -> Recovered {
        let mut recovered = Recovered::new(journal);
        if let Err(error) = self.prepare() {
            recovered.unusable(&format!("{}: {error}", self.directory.display()));
            return recovered;
        }
        let mut bad = 0;
        for Found { number, path } in segments(&self.directory) {
            if number >= MOST_NUMBER {
                put_aside(&path);
                continue;
            }
            if let Err(error) = read(&path, &mut self.buffer) {
                log::error!("{} can't be read, and is set aside: {error}", path.display());
                recovered.saw(number);
                put_aside(&path);
                continue;
            }
            let verdict = recovered.add(number, &self.buffer);
            self.mend(&path, &verdict, &mut bad);
            // An agent that was killed may have written this and not synced it; nobody will look at it
            // again before it is acked.
            if verdict.useful
                && let Err(error) = File::open(&path).and_then(|file| file.sync_data())
            {
                log::warn!("{} can't be synced: {error}", path.display());
            }
        }
        if let Err(error) = File::open(&self.directory).and_then(|names| names.sync_all()) {
            log::warn!("{} can't be synced: {error}", self.directory.display());
        }
        recovered
    }

    fn mend(&mut self, path: &Path, verdict: &Verdict, bad: &mut usize) {
        if !verdict.useful {
            // A new segment whose first write did not come through is no loss.
            let lost = verdict
                .bad
                .iter()
                .any(|range| self.buffer[range.clone()].iter().any(|byte| *byte != 0));
            if lost {
                put_aside(path);
            } else {
                remove(path);
            }
            return;
        }
        if verdict.keep < self.buffer.len() {
            let cut = OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.set_len(verdict.keep as u64));
            if let Err(error) = cut {
                log::warn!("{}: its torn end can't be cut: {error}", path.display());
            }
        }
        let damaged: Vec<u8> =
            verdict.bad.iter().flat_map(|range| &self.buffer[range.clone()]).copied().collect();
        *bad += damaged.len();
        if damaged.is_empty() || *bad > MOST_BAD {
            return;
        }
        let aside = with_bad(path);
        if let Err(error) = fs::write(&aside, &damaged) {
            log::warn!("{}: {error}", aside.display());
        }
    }

    /// Makes the directory and takes the lock, if that is not done yet.
    fn prepare(&mut self) -> io::Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let directory = File::open(&self.directory)?;
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, _)| io::Error::other("another agent uses this directory"))?;
        self.lock = Some(lock);
        Ok(())
    }

    /// Does what the core wants.
    ///
    /// # Errors
    /// The disk is full, read-only or failing. What an append that failed left is cut off again.
    pub fn perform(&mut self, work: Work<'_>) -> io::Result<Outcome<'_>> {
        match work {
            Work::Append { segment, at, bytes } => self.append(segment, at, bytes)?,
            Work::Sync { segment } => self.sync(segment)?,
            Work::Delete { segment } => {
                self.close(segment);
                match fs::remove_file(self.path(segment)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            Work::SetAside { segment } => {
                self.close(segment);
                put_aside(&self.path(segment));
            }
            Work::Read { segment } => {
                read(&self.path(segment), &mut self.buffer)?;
                return Ok(Outcome::Read(&self.buffer));
            }
        }
        Ok(Outcome::Well)
    }

    fn append(&mut self, segment: u32, at: u32, bytes: &[u8]) -> io::Result<()> {
        self.prepare()?;
        let path = self.path(segment);
        if at == 0 {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            self.open = Some((segment, options.custom_flags(NO_FOLLOW).open(&path)?));
            self.is_new = true;
        } else if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.open = Some((segment, OpenOptions::new().write(true).open(&path)?));
        }
        if self.unsynced.last() != Some(&segment) {
            self.unsynced.push(segment);
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        let outcome = file.write_all_at(bytes, u64::from(at));
        match &outcome {
            Ok(()) => self.written += bytes.len() as u64,
            // Nothing is written behind it; recovery would cut it as well.
            Err(_) if at == 0 => {
                remove(&path);
                self.close(segment);
            }
            Err(_) => {
                if let Err(error) = file.set_len(u64::from(at)) {
                    log::debug!("{}: {error}", path.display());
                }
            }
        }
        outcome
    }

    /// Lets the kernel begin to write all that waits, before the first of it is synced: one commit
    /// of the file system's journal then does for all of it, instead of one for each segment.
    fn begin_writing(&mut self) {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // The last one is still written to, and its end is not to be read back for that.
        self.unsynced.pop();
        for segment in self.unsynced.drain(..) {
            // It is but a hint: whether it comes to the disk is what syncing it says.
            if let Ok(file) = File::open(path_of(&self.directory, segment))
                && let Err(error) = posix_fadvise(file, 0, 0, advice)
            {
                log::debug!("segment {segment} can't be written ahead: {error}");
            }
        }
    }

    fn sync(&mut self, segment: u32) -> io::Result<()> {
        self.begin_writing();
        match &self.open {
            Some((open, file)) if *open == segment => file.sync_data()?,
            Some(_) | None => File::open(self.path(segment))?.sync_data()?,
        }
        if self.is_new
            && let Some(directory) = &self.lock
        {
            directory.sync_all()?;
        }
        self.is_new = false;
        Ok(())
    }

    fn close(&mut self, segment: u32) {
        self.unsynced.retain(|&unsynced| unsynced != segment);
        if self.open.as_ref().is_some_and(|(open, _)| *open == segment) {
            self.open = None;
        }
    }

    fn path(&self, segment: u32) -> PathBuf {
        path_of(&self.directory, segment)
    }

    /// Bytes written since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }
}

fn path_of(directory: &Path, segment: u32) -> PathBuf {
    directory.join(format!("{segment:08x}.seg"))
}

const NO_FOLLOW: i32 = OFlag::O_NOFOLLOW.bits();

/// The segments in a directory, in the order of their numbers. What is no segment is left alone.
#[must_use]
pub fn segments(directory: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<Found> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let number = name.to_str()?.strip_suffix(".seg").filter(|hex| hex.len() == 8)?;
            let number = u32::from_str_radix(number, 16).ok().filter(|number| *number > 0)?;
            Some(Found { number, path: entry.path() })
        })
        .collect();
    found.sort_by_key(|found| found.number);
    found
}

/// Whether an agent uses the directory now.
#[must_use]
pub fn is_used(directory: &Path) -> bool {
    File::open(directory).is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}

/// Reads a segment; of what is longer than one, a byte more than a segment has.
///
/// # Errors
/// It is no regular file, or the disk fails.
pub fn read(path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    buffer.clear();
    buffer.reserve_exact(SEGMENT + 1);
    file.take(SEGMENT as u64 + 1).read_to_end(buffer)?;
    Ok(())
}

fn put_aside(path: &Path) {
    if let Err(error) = fs::rename(path, with_bad(path)) {
        log::warn!("{} can't be set aside: {error}", path.display());
    }
}

fn with_bad(path: &Path) -> PathBuf {
    let mut bad = PathBuf::from(path);
    bad.as_mut_os_string().push(".bad");
    bad
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("{} can't be deleted: {error}", path.display());
    }
}
