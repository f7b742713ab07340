//! `backup`: the store is copied while the hub goes on.

use serde_json::json;

use super::clients::Rights;
use super::pipeline::ReplyTo;
use super::{Hub, Side};
use crate::protocol::{Backup, Refusal};
use crate::store::StoreError;

impl Hub {
    pub(super) fn back_up(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: &Backup,
    ) -> Result<(), Refusal> {
        if to.side == Side::Remote {
            let what = "backup writes a file on the hub's own host: ask there, over [local] socket";
            return Err(Refusal::new("not_allowed", what));
        }
        let file = request.file.as_str();
        if !file.starts_with('/') || file.ends_with('/') || file.chars().any(char::is_control) {
            let what = format!("{file:?} is no file: expected an absolute path");
            return Err(Refusal::new("bad_request", what));
        }
        if self.backup.is_some() {
            return Err(Refusal::new("busy", "another backup is being made; wait for its end"));
        }
        self.need_store()?;
        self.audit(rights, "backup", file, "ok", &request.origin);
        self.backup = Some(to.clone());
        self.outputs.back_up(file);
        Ok(())
    }

    pub(super) fn backed_up(&mut self, outcome: Result<u64, StoreError>) {
        let Some(to) = self.backup.take() else { return };
        match outcome {
            Ok(bytes) => self.reply(&to, &json!({ "bytes": bytes })),
            Err(error) => {
                log::error!("no backup was made: {error}");
                self.refuse(&to, &Refusal::new("backup_failed", error.to_string()));
            }
        }
    }
}
