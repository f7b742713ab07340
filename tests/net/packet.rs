//! IPv4 packets, as far as a wire with a NAT has to know them.

use std::net::Ipv4Addr;

/// One packet.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet(pub Vec<u8>);

/// Which address.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// The sender's.
    Source,
    /// The receiver's.
    Destination,
}

impl End {
    fn address_at(self) -> usize {
        match self {
            Self::Source => 12,
            Self::Destination => 16,
        }
    }
}

impl Packet {
    /// Whether it is TCP over IPv4; nothing else is carried.
    pub fn is_tcp(&self) -> bool {
        self.0.len() >= self.header() + 20 && self.0[0] >> 4 == 4 && self.0[9] == 6
    }

    /// An address.
    pub fn address(&self, end: End) -> Ipv4Addr {
        let at = end.address_at();
        Ipv4Addr::new(self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3])
    }

    /// A port.
    pub fn port(&self, end: End) -> u16 {
        let at = self.header()
            + match end {
                End::Source => 0,
                End::Destination => 2,
            };
        self.word(at)
    }

    /// Puts another address in, and mends the checksums of IP and TCP (RFC 1624).
    pub fn set_address(&mut self, end: End, address: Ipv4Addr) {
        let at = end.address_at();
        let sums = [10, self.header() + 16];
        for (half, new) in address.octets().chunks(2).enumerate() {
            let new = u16::from_be_bytes([new[0], new[1]]);
            let place = at + 2 * half;
            let old = self.word(place);
            self.set_word(place, new);
            for sum in sums {
                let mended = mended(self.word(sum), old, new);
                self.set_word(sum, mended);
            }
        }
    }

    fn header(&self) -> usize {
        usize::from(self.0.first().copied().unwrap_or(0) & 15) * 4
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, word: u16) {
        self.0[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
}

/// HC' = ~(~HC + ~m + m')
fn mended(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap()
}
