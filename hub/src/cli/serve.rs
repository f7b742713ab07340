//! `fieldpost hub` and `fieldpost check`.

use std::path::Path;

use fieldpost_settings::key_file;

use super::{Exit, Failure};
use crate::config::Config;
use crate::event_loop;
use crate::io::log;

pub fn hub(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path)?;
    log::start();
    Ok(event_loop::run(path, config)?)
}

pub fn check(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path)?;
    let clients = super::human::count(config.clients.len() as u64, "client");
    out!("{}: right; hub {:?}, {clients}", path.display(), &*config.name);
    if config.key_file.exists() {
        out!("the hub's public key: {}", key_file::read(&config.key_file, "")?.public);
    } else {
        out!("the hub's key is not there yet; the first start makes {}", config.key_file.display());
    }
    if config.clients.is_empty() {
        out!("no [[client]] has a key: only this host can ask the hub");
    }
    if let Some(second) = &config.second_key {
        out!(
            "its second public key: {}",
            key_file::read(&second.key_file, super::key::HOW_TO_MAKE)?.public
        );
    }
    Ok(())
}

impl From<event_loop::Error> for Failure {
    fn from(error: event_loop::Error) -> Self {
        let (exit, hint) = match &error {
            event_loop::Error::Configuration(_) => (Exit::Configuration, None),
            event_loop::Error::Place(bad) => {
                let exit = if bad.passing { Exit::Unavailable } else { Exit::Configuration };
                (exit, bad.hint.clone())
            }
            event_loop::Error::Internal(_) => (Exit::Internal, None),
        };
        Self::new(exit, error.to_string()).hint(hint.unwrap_or_default())
    }
}
