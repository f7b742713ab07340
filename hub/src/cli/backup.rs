//! `fieldpost backup`: a copy of the store, made by the running hub.

use std::time::Duration;

use serde_json::json;

use super::{BackupArgs, Exit, Failure};

/// A large store on a slow disk takes its time.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

pub fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let file = std::path::absolute(&args.file)
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", args.file.display())))?;
    let Some(text) = file.to_str() else {
        return Err(Failure::new(Exit::Usage, format!("{} is not UTF-8", file.display())));
    };
    let mut session = args.connection.open()?;
    session.patience = session.patience.max(PATIENCE);
    let answer = session.act("backup", json!({ "file": text }))?;
    if args.json {
        println!("{}", json!({ "file": text, "bytes": answer["bytes"] }));
    } else {
        println!("{text}: {} bytes", answer["bytes"]);
    }
    Ok(())
}
