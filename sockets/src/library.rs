//! The library that was really linked.

use std::fmt;

/// Why the linked libzmq will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLibrary {
    /// Another version.
    Version(i32, i32, i32),
    /// Built without CURVE: there would be no encryption.
    NoCurve,
}

impl fmt::Display for BadLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(major, minor, patch) => {
                write!(f, "libzmq {major}.{minor}.{patch} is linked; expected 4.3.5")?;
            }
            Self::NoCurve => f.write_str("libzmq was built without CURVE")?,
        }
        f.write_str(" (build in the repository, whose .cargo/config.toml turns zmq-sys' build off)")
    }
}

impl std::error::Error for BadLibrary {}

/// Checks that the linked libzmq is 4.3.5 and has CURVE. Both daemons call it when they start.
///
/// # Errors
/// What is wrong with it.
pub fn check_library() -> Result<(), BadLibrary> {
    match zmq::version() {
        (4, 3, 5) => {}
        (major, minor, patch) => return Err(BadLibrary::Version(major, minor, patch)),
    }
    if zmq::has("curve") == Some(true) { Ok(()) } else { Err(BadLibrary::NoCurve) }
}
