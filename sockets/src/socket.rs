//! A socket that sends and receives without allocating.

use std::ffi::c_void;
use std::ops::Deref;
use std::os::fd::RawFd;

use crate::{Errno, Frame};

/// A `zmq::Socket` with the calls that rust-zmq lacks; it derefs to the `zmq::Socket`.
///
/// It never waits in a call: sending and receiving say [`Errno::EAGAIN`] instead.
pub struct Socket {
    inner: zmq::Socket,
    raw: *mut c_void,
}

/// What a socket is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// A message can be received.
    pub readable: bool,
    /// A message can be sent.
    pub writable: bool,
}

impl Socket {
    /// A new socket that does not wait for unsent messages when it is closed.
    ///
    /// # Errors
    /// Too many sockets or descriptors.
    pub fn new(context: &zmq::Context, kind: zmq::SocketType) -> Result<Self, Errno> {
        let mut inner = context.socket(kind)?;
        inner.set_linger(0)?;
        let raw = inner.as_mut_ptr();
        Ok(Self { inner, raw })
    }

    /// Receives one frame.
    ///
    /// # Errors
    /// [`Errno::EAGAIN`] if there is none; [`Errno::EINTR`].
    #[expect(unsafe_code, reason = "rust-zmq's receive panics on an errno it does not know")]
    pub fn receive(&self, frame: &mut Frame) -> Result<(), Errno> {
        // SAFETY: the socket lives as long as `inner`, the frame is initialised, and libzmq's
        // sockets are not `Sync`, so that this is the only thread that uses it.
        let received =
            unsafe { zmq_sys::zmq_msg_recv(frame.as_mut_ptr(), self.raw, zmq::DONTWAIT) };
        Errno::check(received).map(drop)
    }

    /// Sends a frame that ends its message.
    ///
    /// # Errors
    /// [`Errno::EAGAIN`] if it can't be taken now; [`Errno::EHOSTUNREACH`] from a ROUTER.
    pub fn transmit(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.send_flags(bytes, zmq::DONTWAIT)
    }

    /// Sends a frame that another of the same message follows.
    ///
    /// # Errors
    /// As [`Self::transmit`].
    pub fn transmit_more(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.send_flags(bytes, zmq::DONTWAIT | zmq::SNDMORE)
    }

    #[expect(unsafe_code, reason = "rust-zmq's send panics on an errno it does not know")]
    fn send_flags(&self, bytes: &[u8], flags: i32) -> Result<(), Errno> {
        // SAFETY: as for `receive`; libzmq copies the bytes.
        let sent =
            unsafe { zmq_sys::zmq_send(self.raw, bytes.as_ptr().cast(), bytes.len(), flags) };
        Errno::check(sent).map(drop)
    }

    /// The descriptor that becomes readable when [`Self::events`] may have changed. Edge
    /// triggered: ask for the events after every send and receive, and before every sleep.
    ///
    /// # Errors
    /// The context was ended.
    pub fn descriptor(&self) -> Result<RawFd, Errno> {
        self.inner.get_fd().map_err(Errno::from)
    }

    /// What the socket is ready for; also lets libzmq do what it has to do in our thread.
    ///
    /// # Errors
    /// [`Errno::EINTR`], or the context was ended.
    #[expect(unsafe_code, reason = "rust-zmq's getter panics on an errno it does not know")]
    pub fn events(&self) -> Result<Events, Errno> {
        let mut events: i32 = 0;
        let mut size = size_of::<i32>();
        // SAFETY: as for `receive`; option ZMQ_EVENTS is an int of `size` bytes.
        let result = unsafe {
            zmq_sys::zmq_getsockopt(
                self.raw,
                zmq_sys::ZMQ_EVENTS as i32,
                (&raw mut events).cast(),
                &raw mut size,
            )
        };
        Errno::check(result)?;
        Ok(Events {
            readable: events & i32::from(zmq::POLLIN.bits()) != 0,
            writable: events & i32::from(zmq::POLLOUT.bits()) != 0,
        })
    }

    /// Sets an option that is an int.
    pub(crate) fn set_int(&self, option: i32, value: i32) -> Result<(), Errno> {
        self.set_bytes(option, &value.to_ne_bytes())
    }

    /// Sets an option that is bytes.
    #[expect(unsafe_code, reason = "rust-zmq does not wrap these options")]
    pub(crate) fn set_bytes(&self, option: i32, value: &[u8]) -> Result<(), Errno> {
        // SAFETY: as for `receive`; libzmq copies the value and checks its length.
        let result = unsafe {
            zmq_sys::zmq_setsockopt(self.raw, option, value.as_ptr().cast(), value.len())
        };
        Errno::check(result).map(drop)
    }
}

impl Deref for Socket {
    type Target = zmq::Socket;

    fn deref(&self) -> &zmq::Socket {
        &self.inner
    }
}
