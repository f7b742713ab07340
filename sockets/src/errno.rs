//! The error of a libzmq call.

use std::fmt;

/// An errno, libzmq's own ones included. Unlike `zmq::Error` any number is allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The call would have to wait.
    pub const EAGAIN: Self = Self(libc::EAGAIN);
    /// A signal came in between: call again.
    pub const EINTR: Self = Self(libc::EINTR);
    /// The peer that a ROUTER was to send to is gone.
    pub const EHOSTUNREACH: Self = Self(libc::EHOSTUNREACH);
    /// The context was ended: close the socket.
    pub const ETERM: Self = Self(zmq_sys::errno::ETERM);

    #[expect(unsafe_code, reason = "libzmq keeps its errno for itself")]
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local of libzmq.
        Self(unsafe { zmq_sys::zmq_errno() })
    }

    /// The result of a call that returns -1 on failure.
    pub(crate) fn check(result: i32) -> Result<i32, Self> {
        if result == -1 { Err(Self::last()) } else { Ok(result) }
    }
}

impl From<zmq::Error> for Errno {
    fn from(error: zmq::Error) -> Self {
        Self(error.to_raw())
    }
}

impl fmt::Display for Errno {
    #[expect(unsafe_code, reason = "libzmq names its own errors")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: zmq_strerror gives a NUL-terminated text that lives for ever.
        let text = unsafe { std::ffi::CStr::from_ptr(zmq_sys::zmq_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}
