//! Free ports that no outgoing connection takes meanwhile.

use std::cell::Cell;
use std::net::TcpListener;

/// Hands out ports of the loopback interface below the kernel's ephemeral ones.
pub struct Ports(Cell<u16>);

impl Ports {
    const FIRST: u16 = 20_000;
    const LAST: u16 = 32_000;

    pub fn new() -> Self {
        Self(Cell::new(fastrand::u16(Self::FIRST..Self::LAST)))
    }

    /// Four endpoints at which nobody listens.
    pub fn take_endpoints(&self) -> [String; 4] {
        std::array::from_fn(|_| self.take())
    }

    fn take(&self) -> String {
        loop {
            let port = self.0.get();
            self.0.set(if port < Self::LAST { port + 1 } else { Self::FIRST });
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return format!("tcp://127.0.0.1:{port}");
            }
        }
    }
}
