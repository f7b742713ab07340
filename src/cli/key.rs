//! `fieldpost-agent key`: this device's key.

use std::path::Path;

use fieldpost_settings::key_file;
use fieldpost_sockets::KeyPair;

use super::{Exit, Failure, say};
use crate::config::Config;

/// Reads the device's key.
///
/// # Errors
/// It is not there, others can read it, or it is none.
pub fn read(config: &Config) -> Result<KeyPair, Failure> {
    let hint = "`fieldpost-agent key new --config FILE` makes one";
    key_file::read(&config.key_file, hint).map_err(Failure::from)
}

/// What becomes of a key that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It stays, and that is an error.
    Refuse,
    /// It stays, and all is well.
    Keep,
    /// A new one takes its place.
    Replace,
}

pub(super) fn new(file: &Path, over: Over) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let path = &config.key_file;
    if over == Over::Keep && (path.exists() || key_file::is_credential(path)) {
        eprintln!("the secret key is in {}", path.display());
        return Ok(());
    }
    let made = match over {
        Over::Replace => key_file::replace(path),
        Over::Keep | Over::Refuse => key_file::create(path),
    };
    let keys = made.map_err(|mut problem| {
        if over != Over::Replace && path.exists() {
            problem.hint = Some(
                "`key show` shows its public half; --force replaces it, and the hub then has to \
                 accept the new one"
                    .to_owned(),
            );
        }
        Failure::new(Exit::Failed, problem)
    })?;
    eprintln!("the secret key is in {}; it never leaves this device", path.display());
    eprintln!("at the hub, once the agent has connected, type:\n");
    accept(&config, &keys)
}

pub(super) fn show(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let keys = read(&config)?;
    eprintln!("the line to type at the hub:\n");
    accept(&config, &keys)
}

/// The public key, as the line that lets it in.
fn accept(config: &Config, keys: &KeyPair) -> Result<(), Failure> {
    // In quotes: Z85 has characters that a shell would take for itself, but no apostrophe.
    say(&format!("fieldpost nodes accept '{}' --node {}\n", keys.public, config.agent.node))
}
