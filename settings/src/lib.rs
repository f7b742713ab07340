//! What both daemons do with the files that people write for them: the configuration in TOML,
//! durations and sizes as people write them, secret keys.
//!
//! Whatever is wrong is a [`Problem`] that names file, line, key, value, what was expected and
//! what may help.

pub mod key_file;
pub mod section;
pub mod units;

pub use section::{Document, Entry, Problem, Section, nearest};
