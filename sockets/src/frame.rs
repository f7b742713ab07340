//! A received frame, reused from one receive to the next.

use std::ffi::{CStr, c_char};
use std::os::fd::RawFd;

use zmq_sys::zmq_msg_t;

/// One frame of a message, and what libzmq knows of its sender.
///
/// Reuse it: receiving into a frame lets go of what it held before.
pub struct Frame {
    message: zmq_msg_t,
}

#[expect(unsafe_code, reason = "libzmq's messages are C structures")]
impl Frame {
    /// A frame without bytes.
    #[must_use]
    pub fn new() -> Self {
        let mut message = zmq_msg_t::default();
        // SAFETY: zmq_msg_init writes the structure that it is given, and never fails.
        unsafe { zmq_sys::zmq_msg_init(&raw mut message) };
        Self { message }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let message = (&raw const self.message).cast_mut();
        // SAFETY: the message is initialised; libzmq only reads it here; the bytes live as long
        // as the message, and a frame of no bytes has a pointer that is not null.
        unsafe {
            let size = zmq_sys::zmq_msg_size(message);
            if size == 0 {
                return &[];
            }
            std::slice::from_raw_parts(zmq_sys::zmq_msg_data(message).cast::<u8>(), size)
        }
    }

    /// Whether another frame of the same message follows.
    #[must_use]
    pub fn more(&self) -> bool {
        // SAFETY: reads an initialised message.
        unsafe { zmq_sys::zmq_msg_more((&raw const self.message).cast_mut()) != 0 }
    }

    /// The ZAP User-Id of the connection it came over; none where no handler was asked.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        // SAFETY: the property's name is NUL-terminated; the text belongs to the message's
        // metadata, which lives as long as the message.
        unsafe {
            let text = zmq_sys::zmq_msg_gets(
                (&raw const self.message).cast_mut(),
                c"User-Id".as_ptr().cast::<c_char>(),
            );
            if text.is_null() {
                return None;
            }
            CStr::from_ptr(text).to_str().ok()
        }
    }

    /// The descriptor of the connection it came over. It belongs to libzmq and may be closed or
    /// reused at any time: good for `shutdown(2)` at once, never for `close(2)`.
    #[must_use]
    pub fn source_fd(&self) -> Option<RawFd> {
        // Marked deprecated in zmq.h, for being dangerous; see above.
        const SRCFD: i32 = 2;
        let message = (&raw const self.message).cast_mut();
        // SAFETY: reads an initialised message.
        let fd = unsafe { zmq_sys::zmq_msg_get(message, SRCFD) };
        (fd >= 0).then_some(fd)
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut zmq_msg_t {
        &raw mut self.message
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(unsafe_code, reason = "libzmq's messages are C structures")]
impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: the message is initialised, and is not used after this.
        unsafe { zmq_sys::zmq_msg_close(&raw mut self.message) };
    }
}
