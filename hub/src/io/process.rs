//! What the hub asks of its process: descriptors for the fleet, memory given back after storms.
#![allow(unsafe_code, reason = "malloc_trim and the raw TCP_INFO have no safe wrapper")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors the hub needs besides one or two a node.
const OWN_DESCRIPTORS: u64 = 256;

/// Raises the limit of open descriptors to the hard one, and says how many nodes that allows.
///
/// # Errors
/// The errno of getrlimit(2) or setrlimit(2).
pub fn raise_descriptors() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    // A node holds two: commands and reports.
    Ok(hard.saturating_sub(OWN_DESCRIPTORS) / 2)
}

/// Resident memory, in bytes; 0 where /proc is not there.
#[must_use]
pub fn resident() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else {
        return 0;
    };
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Gives memory that was freed back to the system: glibc keeps what thousands of connections
/// used after they left.
pub fn trim_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes no pointer and may be called at any time by any thread.
    let _released = unsafe { libc::malloc_trim(0) };
}

/// Bytes that a connected TCP socket has received so far; `None` for anything else.
#[must_use]
pub fn tcp_received(fd: std::os::fd::RawFd) -> Option<u64> {
    /// `tcpi_state`, the first byte of `struct tcp_info`.
    const ESTABLISHED: u8 = 1;
    /// Where `tcpi_bytes_received` stands in it since Linux 4.1 (linux/tcp.h).
    const RECEIVED: usize = 128;
    let mut info = [0u8; RECEIVED + 8];
    let mut length = libc::socklen_t::try_from(info.len()).ok()?;
    // SAFETY: `info` has `length` bytes, and getsockopt(2) writes no more than that. `fd` need
    // not be a socket, nor open: the call then fails.
    let failed = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if failed != 0 || (length as usize) < info.len() || info[0] != ESTABLISHED {
        return None;
    }
    let bytes = info[RECEIVED..].try_into().ok()?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_bytes_a_connection_received_are_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut here, _) = listener.accept().unwrap();
        there.write_all(&[7; 1000]).unwrap();
        let mut bytes = [0; 1000];
        here.read_exact(&mut bytes).unwrap();
        assert_eq!(tcp_received(here.as_raw_fd()), Some(1000));
        assert_eq!(tcp_received(listener.as_raw_fd()), None);
        assert_eq!(tcp_received(-1), None);
        assert!(resident() > 100_000);
    }
}
