//! How the store's thread wakes the event loop: a byte in a socket pair.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The end that the event loop waits on.
#[derive(Debug)]
pub struct Bell(UnixStream);

/// The end that rings it.
#[derive(Debug)]
pub struct Rope(UnixStream);

/// Makes both ends.
///
/// # Errors
/// Too many descriptors.
pub fn pair() -> io::Result<(Bell, Rope)> {
    let (bell, rope) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    rope.set_nonblocking(true)?;
    Ok((Bell(bell), Rope(rope)))
}

impl Bell {
    /// Makes it silent, until it is rung again.
    pub fn silence(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Rope {
    /// Rings. A bell that was rung so often that it is full rings anyway.
    pub fn ring(&self) {
        let _full = (&self.0).write(&[1]);
    }
}
