//! Identities: of runs, outboxes, agent starts, hubs and schedules.

use core::fmt;
use core::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::{Name, UnixMillis};

/// 16 bytes, on the wire as they are, in text as a UUID (RFC 9562 §4).
macro_rules! id_16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(UuidText::of(&self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_uuid(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.serialize_str(UuidText::of(&self.0).as_str());
                }
                self.0.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <&str>::deserialize(deserializer)?;
                    return text.parse().map_err(serde::de::Error::custom);
                }
                <[u8; 16]>::deserialize(deserializer).map(Self)
            }
        }
    };
}

id_16! {
    /// One run. Ids sort by time: a triggered run's is a UUIDv7, a scheduled one's is
    /// [`RunId::scheduled`] or, for an interval, [`RunId::of_interval`].
    RunId
}
id_16! {
    /// One outbox: random, new at each start of an agent; spooled records keep theirs.
    OutboxId
}
id_16! {
    /// One start of an agent or of a hub: random.
    StartId
}
id_16! {
    /// One hub's store, for its whole life: random.
    HubId
}

/// A text that is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadId;

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id; expected a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
    }
}

impl core::error::Error for BadId {}

/// A UUID as text. By a table and in one piece: a hub writes several of them a message, and
/// formatting byte by byte was a quarter of its instructions.
struct UuidText([u8; 36]);

impl UuidText {
    fn of(id: &[u8; 16]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (i, byte) in id.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn parse_uuid(text: &str) -> Result<[u8; 16], BadId> {
    let text = text.as_bytes();
    if text.len() != 36 {
        return Err(BadId);
    }
    let mut id = [0u8; 16];
    let mut digits = 0;
    for (i, &c) in text.iter().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return Err(BadId);
            }
            continue;
        }
        let value = char::from(c).to_digit(16).ok_or(BadId)?;
        let nibble = u8::try_from(value).map_err(|_| BadId)?;
        id[digits / 2] = id[digits / 2] << 4 | nibble;
        digits += 1;
    }
    Ok(id)
}

impl RunId {
    /// A UUIDv7 (RFC 9562 §5.7) of this time and these random bytes.
    #[must_use]
    pub fn v7(time: UnixMillis, random: [u8; 10]) -> Self {
        Self::timed(time, random, 7)
    }

    /// The id of the run that entry `entry` causes on `node` at `due`: a UUIDv8 (RFC 9562 §5.8)
    /// whose first 48 bits are `due` in milliseconds and whose rest is the FNV-1a hash (128 bit,
    /// its last 10 bytes) of `due` as 8 big-endian bytes, the node, a zero byte and the entry.
    ///
    /// The same run has the same id whoever computes it, and ids sort by time.
    #[must_use]
    pub fn scheduled(due: UnixMillis, node: &Name, entry: &Name) -> Self {
        Self::of_entry(due, node, entry, &[])
    }

    /// The id of a run of an entry that counts intervals since the machine's boot `boot`, due
    /// `boot_ms` milliseconds after it. It is [`RunId::scheduled`], with a zero byte, the 16 bytes of
    /// `boot` and `boot_ms` as 8 big-endian bytes behind what is hashed: `due` may be told by a
    /// clock that is wrong, or is set back, and then names two runs.
    #[must_use]
    pub fn of_interval(
        due: UnixMillis,
        node: &Name,
        entry: &Name,
        boot: &[u8; 16],
        boot_ms: u64,
    ) -> Self {
        let mut since = [0; 25];
        since[1..17].copy_from_slice(boot);
        since[17..].copy_from_slice(&boot_ms.to_be_bytes());
        Self::of_entry(due, node, entry, &since)
    }

    fn of_entry(due: UnixMillis, node: &Name, entry: &Name, more: &[u8]) -> Self {
        let mut hash = Fnv1a::new();
        hash.write(&due.0.to_be_bytes());
        hash.write(node.as_bytes());
        hash.write(&[0]);
        hash.write(entry.as_bytes());
        hash.write(more);
        let hash = hash.0.to_be_bytes();
        let mut rest = [0; 10];
        rest.copy_from_slice(&hash[6..]);
        Self::timed(due, rest, 8)
    }

    /// The time in the id's first 48 bits.
    #[must_use]
    pub fn time(&self) -> UnixMillis {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        UnixMillis(u64::from_be_bytes(ms))
    }

    fn timed(time: UnixMillis, rest: [u8; 10], version: u8) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&time.0.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&rest);
        id[6] = id[6] & 0x0f | version << 4;
        id[8] = id[8] & 0x3f | 0x80;
        Self(id)
    }
}

/// FNV-1a, 128 bit: small, stable, without a table. Not for hostile input.
struct Fnv1a(u128);

impl Fnv1a {
    const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 ^= u128::from(byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

/// Counts the reliable reports of one outbox, from 1. For acks only: it says nothing about what
/// is unique in a store.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// Which execution of a run this is, from 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first execution.
    pub const FIRST: Self = Self(1);
}

/// Which boot of a machine: the first 4 bytes, big-endian, of the kernel's boot id. Two boots of one
/// node differ but by a chance of one in four billion.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct BootId(pub u32);

impl BootId {
    /// Nobody knows which.
    pub const UNKNOWN: Self = Self(0);

    /// From the kernel's boot id.
    #[must_use]
    pub const fn of([a, b, c, d, ..]: [u8; 16]) -> Self {
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// Which schedule a node has. Another epoch replaces what a node holds; within one epoch a
/// higher counter does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct ScheduleVersion {
    /// Random, made with the hub's store; 0: a node that never got a schedule.
    pub epoch: u64,
    /// Counts the changes of this node's schedule in that store.
    pub counter: u64,
}
