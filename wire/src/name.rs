//! Names: node ids, groups, jobs, schedule entries. `[a-z0-9._-]{1,63}`.

use core::fmt;
use core::ops::Deref;

use crate::limits::NAME;

/// A checked name: 1 to 63 bytes of `a`-`z`, `0`-`9`, `.`, `_` and `-`.
///
/// ```
/// use fieldpost_wire::Name;
/// assert_eq!(&*"gw-017".parse::<Name>().unwrap(), "gw-017");
/// assert!("Gw 17".parse::<Name>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(heapless::String<NAME>);

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    /// No character at all.
    Empty,
    /// More than 63 bytes; how many.
    Long(usize),
    /// A character outside the allowed set.
    Character(char),
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty")?,
            Self::Long(n) => write!(f, "has {n} bytes")?,
            Self::Character(c) => write!(f, "contains {c:?}")?,
        }
        f.write_str("; expected 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    }
}

impl core::error::Error for BadName {}

/// Says whether `text` is a name, and if not, why.
///
/// # Errors
/// [`BadName`] with the first thing wrong.
pub fn check_name(text: &str) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        return Err(BadName::Character(c));
    }
    if text.len() > NAME {
        return Err(BadName::Long(text.len()));
    }
    Ok(())
}

impl core::str::FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check_name(text)?;
        heapless::String::try_from(text).map(Self).map_err(|_| BadName::Long(text.len()))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl core::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
