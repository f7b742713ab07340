//! The frozen header before each body.
//!
//! ```text
//! [version: 1] [flags] ( [outbox id: 16] [seq: varint] if flags bit 0 )
//! ```

use serde::{Deserialize, Serialize};

use crate::{Error, OutboxId, Seq, limits};

/// The wire version of this build.
pub const VERSION: u8 = 1;

const RELIABLE: u8 = 1;

/// What an ack names: which record of which outbox. Only reliable reports have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The outbox that holds the record until it is acked.
    pub outbox: OutboxId,
    /// The record's place in it.
    pub seq: Seq,
}

/// Reads only the header of a body: the tag to ack even where the rest does not decode.
///
/// # Errors
/// As [`crate::Report::decode`], for the header alone.
pub fn peek_tag(body: &[u8]) -> Result<Option<Tag>, Error> {
    split(body).map(|(tag, _)| tag)
}

/// The tag and the bytes after the header.
pub(crate) fn split(body: &[u8]) -> Result<(Option<Tag>, &[u8]), Error> {
    let [version, flags, rest @ ..] = body else {
        return Err(Error::Truncated);
    };
    if *version != VERSION {
        return Err(Error::Version(*version));
    }
    if body.len() > limits::BODY {
        return Err(Error::Bound("body"));
    }
    match *flags {
        0 => Ok((None, rest)),
        RELIABLE => postcard::take_from_bytes::<Tag>(rest)
            .map(|(tag, rest)| (Some(tag), rest))
            .map_err(|_| Error::Truncated),
        other => Err(Error::Flags(other)),
    }
}

/// Writes header and message into `buffer`, and gives what it wrote.
pub(crate) fn join<'b, T: Serialize>(
    tag: Option<Tag>,
    message: &T,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], Error> {
    let room = buffer.len().min(limits::BODY);
    let [version, flags, rest @ ..] = &mut buffer[..room] else {
        return Err(Error::Room);
    };
    *version = VERSION;
    *flags = if tag.is_some() { RELIABLE } else { 0 };
    let mut used = 2;
    let mut rest = rest;
    if let Some(tag) = tag {
        let written = postcard::to_slice(&tag, rest).map_err(|_| Error::Room)?.len();
        rest = &mut rest[written..];
        used += written;
    }
    used += postcard::to_slice(message, rest).map_err(|_| Error::Room)?.len();
    Ok(&buffer[..used])
}
