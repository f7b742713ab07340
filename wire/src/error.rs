//! What can be wrong with a body.

use core::fmt;

/// Why a body did not decode, or a value did not encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than a header has.
    Truncated,
    /// The version byte is not one that this build speaks.
    Version(u8),
    /// Flag bits that this version does not know, or a reliable command.
    Flags(u8),
    /// The postcard value is malformed, unknown to this build, or followed by more bytes.
    Malformed,
    /// A list, text or byte string is longer than [`crate::limits`] allows.
    Bound(&'static str),
    /// The buffer given to an encoder is too small, or the body would exceed
    /// [`crate::limits::BODY`].
    Room,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the body ends within its header"),
            Self::Version(v) => write!(f, "wire version {v} is not spoken here"),
            Self::Flags(b) => write!(f, "flags {b:#04x} are not known to this version"),
            Self::Malformed => f.write_str("the body is not a message of this version"),
            Self::Bound(what) => write!(f, "{what}: longer than the protocol allows"),
            Self::Room => f.write_str("the message does not fit its buffer"),
        }
    }
}

impl core::error::Error for Error {}
