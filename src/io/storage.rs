//! The agent's files: a journal in the runtime directory (RAM), the schedule and the cursors in
//! the state directory (disk), and the lock that keeps a second agent out.
//!
//! Whole files are replaced atomically: written beside, then renamed; on disk with fsync(2) of
//! the file and of the directory. Bytes written to disk are counted: cards wear out.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The journal, in the runtime directory.
const JOURNAL: &str = "agent.journal";
/// The cursors of `file` jobs, in both directories.
const CURSORS: &str = "cursors";
/// The schedule, in the state directory.
const SCHEDULE: &str = "schedule";
/// Held by the agent that uses the runtime directory.
const LOCK: &str = "agent.lock";

/// The agent's files.
#[derive(Debug)]
pub struct Storage {
    runtime: PathBuf,
    state: PathBuf,
    journal: File,
    written: u64,
    _lock: Flock<File>,
}

/// Why the files can't be used.
#[derive(Debug)]
pub enum Failure {
    /// Another agent uses them.
    Taken {
        /// The runtime directory.
        directory: PathBuf,
        /// Which process it is, as it wrote itself.
        owner: String,
    },
    /// A directory can't be made or written.
    Directory(PathBuf, io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken { directory, owner } => write!(
                f,
                "another agent (process {owner}) uses the runtime directory {}\n  \
                 hint: stop it, or give this one its own runtime_dir and state_dir",
                directory.display()
            ),
            Self::Directory(path, error) => write!(
                f,
                "{}: {error}\n  hint: run as the user who owns it, or change runtime_dir or \
                 state_dir in the configuration",
                path.display()
            ),
        }
    }
}

/// What an earlier start left.
#[derive(Debug, Default)]
pub struct Left {
    /// The journal.
    pub journal: Vec<u8>,
    /// The schedule.
    pub schedule: Option<Vec<u8>>,
    /// The cursors: those in RAM, or else those on disk.
    pub cursors: String,
}

impl Storage {
    /// Makes the directories and takes the lock.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open(runtime: &Path, state: &Path) -> Result<Self, Failure> {
        for directory in [runtime, state] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(directory)
                .map_err(|error| Failure::Directory(directory.into(), error))?;
        }
        let lock = lock(runtime)?;
        let path = runtime.join(JOURNAL);
        let journal = append(&path).map_err(|error| Failure::Directory(path, error))?;
        Ok(Self { runtime: runtime.into(), state: state.into(), journal, written: 0, _lock: lock })
    }

    /// Reads what an earlier start left. What can't be read is said and left out.
    #[must_use]
    pub fn left(&self) -> Left {
        let text = |path: PathBuf| read(&path).and_then(|bytes| String::from_utf8(bytes).ok());
        Left {
            journal: read(&self.runtime.join(JOURNAL)).unwrap_or_default(),
            schedule: read(&self.state.join(SCHEDULE)),
            cursors: text(self.runtime.join(CURSORS))
                .or_else(|| text(self.state.join(CURSORS)))
                .unwrap_or_default(),
        }
    }

    /// Appends to the journal.
    ///
    /// # Errors
    /// The runtime directory is full, or worse.
    pub fn append_journal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.write_all(bytes)
    }

    /// Replaces the journal.
    ///
    /// # Errors
    /// As [`Self::append_journal`]; the old one stays then.
    pub fn replace_journal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let path = self.runtime.join(JOURNAL);
        replace(&path, bytes, Durability::Memory)?;
        self.journal = append(&path)?;
        Ok(())
    }

    /// Replaces the schedule, on disk.
    ///
    /// # Errors
    /// The disk is full, read-only or failing; the old one stays then.
    pub fn save_schedule(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        replace(&self.state.join(SCHEDULE), bytes, Durability::Disk)
    }

    /// Replaces the cursors in RAM, where they survive an agent's restart.
    ///
    /// # Errors
    /// As [`Self::append_journal`].
    pub fn keep_cursors(&mut self, text: &str) -> io::Result<()> {
        replace(&self.runtime.join(CURSORS), text.as_bytes(), Durability::Memory)
    }

    /// Replaces the cursors on disk, where they survive the machine's.
    ///
    /// # Errors
    /// As [`Self::save_schedule`].
    pub fn save_cursors(&mut self, text: &str) -> io::Result<()> {
        self.written += text.len() as u64;
        replace(&self.state.join(CURSORS), text.as_bytes(), Durability::Disk)
    }

    /// Bytes written to disk since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }
}

/// Reads the cursors without taking the lock: to look, not to move them.
#[must_use]
pub fn look_at_cursors(runtime: &Path, state: &Path) -> String {
    [runtime, state]
        .iter()
        .find_map(|directory| fs::read_to_string(directory.join(CURSORS)).ok())
        .unwrap_or_default()
}

/// The kernel's id of this boot; zeros where there is none.
#[must_use]
pub fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().map_or([0; 16], |id: fieldpost_wire::RunId| id.0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Memory,
    Disk,
}

fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut draft = PathBuf::from(path);
    draft.as_mut_os_string().push(".new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    if durability == Durability::Disk {
        file.sync_all()?;
    }
    fs::rename(&draft, path)?;
    if let (Durability::Disk, Some(parent)) = (durability, path.parent()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warn!("{} can't be read and is left out: {error}", path.display());
            None
        }
    }
}

fn lock(runtime: &Path) -> Result<Flock<File>, Failure> {
    let path = runtime.join(LOCK);
    let failure = |error| Failure::Directory(path.clone(), error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failure)?;
    let mut lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
            let mut owner = String::new();
            if file.read_to_string(&mut owner).is_err() || owner.trim().is_empty() {
                owner = "unknown".to_owned();
            }
            Failure::Taken { directory: runtime.into(), owner: owner.trim().to_owned() }
        })?;
    lock.set_len(0).map_err(failure)?;
    writeln!(lock, "{}", std::process::id()).map_err(failure)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_there_at_the_next_start() {
        let dir = std::env::temp_dir().join(format!("fieldpost-storage-{}", std::process::id()));
        let (run, state) = (dir.join("run"), dir.join("state"));
        let mut storage = Storage::open(&run, &state).unwrap();
        storage.append_journal(b"one").unwrap();
        storage.replace_journal(b"two").unwrap();
        storage.append_journal(b"three").unwrap();
        storage.save_schedule(b"schedule").unwrap();
        assert_eq!(storage.written(), 8, "the journal is not on disk");
        let taken = Storage::open(&run, &state).unwrap_err().to_string();
        assert!(taken.contains(&format!("process {}", std::process::id())), "{taken}");
        drop(storage);
        let left = Storage::open(&run, &state).unwrap().left();
        assert_eq!(left.journal, b"twothree");
        assert_eq!(left.schedule.unwrap(), b"schedule");
        assert_ne!(boot_id(), [0; 16]);
        fs::remove_dir_all(dir).unwrap();
    }
}
