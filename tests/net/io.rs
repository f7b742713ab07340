//! Network namespaces and TUN devices.

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, RawFd};
use std::process::Command;

/// `_IOW('T', 202, int)`, from linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// A network namespace, kept alive by the descriptor.
pub struct Host {
    namespace: File,
}

impl Host {
    /// A host with these addresses, and the end of its TUN device: what it sends is read there,
    /// what it is to receive is written.
    pub fn new(addresses: &[Ipv4Addr]) -> (Self, File) {
        std::thread::scope(|scope| {
            // A thread of its own: it leaves the process' network for good.
            scope.spawn(|| Self::made(addresses)).join().unwrap()
        })
    }

    fn made(addresses: &[Ipv4Addr]) -> (Self, File) {
        leave_network();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let end = tun("field0");
        ip(&["link", "set", "lo", "up"]);
        for address in addresses {
            ip(&["address", "add", &format!("{address}/32"), "dev", "field0"]);
        }
        ip(&["link", "set", "field0", "up"]);
        ip(&["route", "add", "default", "dev", "field0"]);
        (Self { namespace }, end)
    }

    /// What a command line begins with, to be this host's.
    pub fn enter(&self) -> Vec<String> {
        let (pid, descriptor): (u32, RawFd) = (std::process::id(), self.namespace.as_raw_fd());
        vec!["nsenter".to_owned(), format!("--net=/proc/{pid}/fd/{descriptor}")]
    }
}

/// Runs ip(8) in this thread's namespace.
fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(unsafe_code, reason = "there is no safe call for it without another crate")]
fn leave_network() {
    // SAFETY: unshare(2) takes no pointer; it changes this thread's network and nothing else.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// A TUN device in this thread's namespace.
#[expect(unsafe_code, reason = "an ioctl")]
fn tun(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40]; // struct ifreq: the name, then the flags
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags: c_short = 0x0001 | 0x1000; // IFF_TUN | IFF_NO_PI
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, of 40 bytes, which `request` is as long as.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    file
}
