//! `fieldpost output`: what a run wrote, byte for byte.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::Session;
use super::{Exit, Failure, OutputArgs};

/// One page of output.
#[derive(Debug, Deserialize)]
struct Page {
    chunks: Vec<Chunk>,
    #[serde(default)]
    next: Option<u64>,
    #[serde(default)]
    complete: bool,
}

#[derive(Debug, Deserialize)]
struct Chunk {
    data: String,
}

/// What was written of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The chunk to go on from.
    pub next: u64,
    /// Whether that is all of it.
    pub complete: bool,
}

pub fn output(args: &OutputArgs) -> Result<(), Failure> {
    let mut session = args.connection.open()?;
    let mut fields = json!({ "run_id": args.run });
    if let Some(node) = &args.node {
        fields["node"] = Value::from(&**node);
    }
    if let Some(attempt) = args.attempt {
        fields["attempt"] = attempt.into();
    }
    let mut out = io::stdout().lock();
    let written = copy(&mut session, fields, 0, &mut |bytes| out.write_all(bytes))?;
    out.flush()?;
    if written.complete {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "the output is not complete: the run goes on, or some was lost")
        .hint(format!("`fieldpost runs {}` says which", args.run)))
}

/// Hands on the stored chunks of one output from index `from`.
pub fn copy(
    session: &mut Session,
    mut fields: Value,
    from: u64,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<Written, Failure> {
    let mut at = from;
    loop {
        fields["from"] = at.into();
        let page: Page = session.call_as("output", fields.clone())?;
        for chunk in &page.chunks {
            let bytes = STANDARD.decode(&chunk.data).map_err(|error| {
                Failure::new(Exit::Internal, format!("the hub's answer is not base64: {error}"))
            })?;
            write(&bytes)?;
        }
        match page.next {
            Some(next) if next > at => at = next,
            // The last page: what was on it is done with too.
            _ => {
                let next = at + page.chunks.len() as u64;
                return Ok(Written { next, complete: page.complete });
            }
        }
    }
}
