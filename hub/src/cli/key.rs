//! `fieldpost key`: keys for clients.

use std::path::Path;

use fieldpost_settings::key_file;
use fieldpost_sockets::KeyPair;

use super::{Exit, Failure, KeyNewArgs, RoleName};

/// What is said where a key file is missing.
pub const HOW_TO_MAKE: &str = "`fieldpost key new --out FILE` makes one";

pub fn new(args: &KeyNewArgs) -> Result<(), Failure> {
    let keys = match &args.out {
        Some(path) => {
            let keys = key_file::create(path)
                .map_err(|problem| Failure::new(Exit::Failed, problem.to_string()))?;
            eprintln!("the secret key is in {}; it never leaves this machine", path.display());
            keys
        }
        None => {
            let keys = KeyPair::generate();
            out!("# The secret key: put it into a file with mode 0600, and nowhere else.");
            out!("# {}", keys.secret.reveal());
            out!("");
            keys
        }
    };
    let role = match args.role {
        RoleName::Read => "read",
        RoleName::Trigger => "trigger",
        RoleName::Admin => "admin",
    };
    eprintln!("paste this into the hub's configuration, then reload it (SIGHUP):\n");
    out!("[[client]]");
    out!("name = \"{}\"", args.name);
    out!("key = \"{}\"", keys.public);
    out!("role = \"{role}\"");
    Ok(())
}

pub fn show(file: &Path) -> Result<(), Failure> {
    out!("{}", key_file::read(file, HOW_TO_MAKE)?.public);
    Ok(())
}
