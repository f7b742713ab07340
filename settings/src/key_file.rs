//! Secret keys on disk: 40 characters of Z85 and a newline, mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use fieldpost_sockets::{KeyPair, SecretKey};

use crate::Problem;

/// Reads a key file.
///
/// # Errors
/// A [`Problem`]: not there (then with `hint`, how to make one), readable by others, not a key.
/// The key itself is never shown.
pub fn read(path: &Path, hint: &str) -> Result<KeyPair, Problem> {
    let problem = |message: String, hint: Option<String>| Problem {
        file: path.display().to_string(),
        line: None,
        message,
        hint,
    };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            problem("there is no such key file".to_owned(), Some(hint.to_owned()))
        }
        _ => problem(format!("the key file can't be read: {error}"), None),
    })?;
    let unreadable = |error| problem(format!("the key file can't be read: {error}"), None);
    let mode = file.metadata().map_err(unreadable)?.mode();
    if is_open(path, mode) {
        return Err(problem(
            format!("others can read this secret key (mode {:03o})", mode & 0o777),
            Some(format!("chmod 600 {}", path.display())),
        ));
    }
    let text = io::read_to_string(file).map_err(unreadable)?;
    let secret: SecretKey = text.trim_end().parse().map_err(|bad| {
        problem(format!("not a secret key: {bad}"), Some("expected 40 characters of Z85".into()))
    })?;
    Ok(secret.into())
}

/// Whether systemd hands this key over when it starts a unit (`LoadCredential`).
#[must_use]
pub fn is_credential(path: &Path) -> bool {
    path.starts_with("/run/credentials")
}

/// Whether others can read it. A credential is guarded by its directory, and its group's bits may be the
/// mask of an access list.
fn is_open(path: &Path, mode: u32) -> bool {
    let others = if is_credential(path) { 0o037 } else { 0o077 };
    mode & others != 0
}

/// Makes a key pair and writes the secret one to a new file: never over another, never half.
///
/// # Errors
/// A [`Problem`] that says what the file system said.
pub fn create(path: &Path) -> Result<KeyPair, Problem> {
    let keys = KeyPair::generate();
    write(path, &keys.secret, |draft, path| {
        fs::hard_link(draft, path).and_then(|()| fs::remove_file(draft))
    })
    .map_err(|error| Problem {
        file: path.display().to_string(),
        line: None,
        message: match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "this file is there already; a key is never overwritten".to_owned()
            }
            io::ErrorKind::NotFound => "its directory is not there".to_owned(),
            _ => format!("the key can't be written: {error}"),
        },
        hint: None,
    })?;
    Ok(keys)
}

/// Makes a key pair and puts the secret one in place of whatever the file held.
///
/// # Errors
/// A [`Problem`] that says what the file system said.
pub fn replace(path: &Path) -> Result<KeyPair, Problem> {
    let keys = KeyPair::generate();
    write(path, &keys.secret, |draft, path| fs::rename(draft, path)).map_err(|error| Problem {
        file: path.display().to_string(),
        line: None,
        message: format!("the key can't be written: {error}"),
        hint: None,
    })?;
    Ok(keys)
}

/// Reads a key file, or makes it where there is none. Says which.
///
/// # Errors
/// See [`read`] and [`create`].
pub fn read_or_create(path: &Path) -> Result<(KeyPair, bool), Problem> {
    if path.exists() {
        read(path, "").map(|keys| (keys, false))
    } else {
        create(path).map(|keys| (keys, true))
    }
}

/// Writes the whole key beside `path`, lets `place` put it there, and makes both durable. It belongs
/// to whom its directory belongs to: a daemon could not read what root made for it.
fn write(
    path: &Path,
    secret: &SecretKey,
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft = PathBuf::from(path);
    draft.as_mut_os_string().push(format!(".{}.new", std::process::id()));
    // One that is there was left by a power cut: the process id is ours now.
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = belong_to_the_owner_of(parent, &file)
        .and_then(|()| file.write_all(format!("{}\n", secret.reveal()).as_bytes()))
        .and_then(|()| file.sync_all())
        // A link fails where there is a file already; a rename replaces it.
        .and_then(|()| place(&draft, path));
    if written.is_err() {
        fs::remove_file(&draft)?;
    }
    written?;
    File::open(parent)?.sync_all()
}

fn belong_to_the_owner_of(directory: &Path, file: &File) -> io::Result<()> {
    let (owner, maker) = (fs::metadata(directory)?, file.metadata()?);
    if owner.uid() == maker.uid() {
        return Ok(());
    }
    match fchown(file, Some(owner.uid()), Some(owner.gid())) {
        // Only root may give files away; anybody else's key stays their own.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("fieldpost-key-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_key_is_made_once_and_reads_back() {
        let dir = place("once");
        let path = dir.join("hub.key");
        let (made, new) = read_or_create(&path).unwrap();
        assert!(new);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (read, new) = read_or_create(&path).unwrap();
        assert!(!new && read.public == made.public);
        assert!(create(&path).unwrap_err().message.contains("never overwritten"));
        let replaced = replace(&path).unwrap();
        assert_ne!(replaced.public, made.public);
        assert_eq!(super::read(&path, "").unwrap().public, replaced.public);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft is left");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_key_that_root_makes_belongs_to_the_owner_of_its_directory() {
        let dir = place("owner");
        // Who may not give a directory away can't be root, and has nothing to try here.
        if std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).is_ok() {
            let path = dir.join("k");
            for made in [create(&path), replace(&path)] {
                made.unwrap();
                let key = fs::metadata(&path).unwrap();
                assert_eq!((key.uid(), key.gid(), key.mode() & 0o777), (65534, 65534, 0o600));
            }
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = place("open");
        let path = dir.join("k");
        create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            read(&path, "").unwrap_err().hint.unwrap(),
            format!("chmod 600 {}", path.display())
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_draft_that_a_power_cut_left_is_in_nobodys_way() {
        let dir = place("draft");
        let path = dir.join("k");
        fs::write(dir.join(format!("k.{}.new", std::process::id())), "half").unwrap();
        create(&path).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_credential_of_systemd_may_have_an_access_list() {
        let credential = Path::new("/run/credentials/fieldpost-agent.service/agent.key");
        assert!(!is_open(credential, 0o440) && is_open(credential, 0o444));
        assert!(is_open(Path::new("/var/lib/fieldpost/agent.key"), 0o440));
    }
}
