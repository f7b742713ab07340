//! CURVE keys: 32 bytes, in text 40 characters of Z85 (ZeroMQ RFC 32).

use std::fmt;
use std::str::FromStr;

/// The 85 digits of Z85.
const DIGITS: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// The length of a key in Z85, in characters.
const TEXT: usize = 40;

/// A public key: who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A secret key. It is not printed by `Debug`, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

/// A pair of keys.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// What others may know.
    pub public: PublicKey,
    /// What they may not.
    pub secret: SecretKey,
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadKey {
    /// Not 40 characters; how many.
    Length(usize),
    /// A character that Z85 does not have, and where, from 1.
    Character(char, usize),
    /// Five characters from here, from 1, stand for more than 32 bits.
    Range(usize),
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "a key has 40 characters, this has {n}"),
            Self::Character(c, at) => write!(f, "{c:?} at place {at} is not a character of Z85"),
            Self::Range(at) => write!(f, "the characters {at} to {} are no Z85 group", at + 4),
        }
    }
}

impl std::error::Error for BadKey {}

impl PublicKey {
    /// The key in Z85, without allocating.
    #[must_use]
    pub fn text(&self) -> [u8; TEXT] {
        encode(&self.0)
    }
}

impl SecretKey {
    /// The key itself, for libzmq and for the key file.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A secret key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key in Z85, for its file. Mind where it goes.
    #[must_use]
    pub fn reveal(&self) -> String {
        encode(&self.0).iter().copied().map(char::from).collect()
    }

    /// The public key that belongs to it.
    #[expect(unsafe_code, reason = "the curve's arithmetic is libsodium's")]
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        // SAFETY: both point to 32 bytes; crypto_scalarmult_base never fails.
        unsafe {
            libsodium_sys::crypto_scalarmult_base(public.as_mut_ptr(), self.0.as_ptr());
        }
        PublicKey(public)
    }
}

impl KeyPair {
    /// A new pair, from the kernel's randomness.
    ///
    /// # Panics
    /// Where the kernel gives no randomness, as libsodium does.
    #[expect(unsafe_code, reason = "the curve's arithmetic is libsodium's")]
    #[must_use]
    pub fn generate() -> Self {
        let (mut public, mut secret) = ([0; 32], [0; 32]);
        // SAFETY: both point to 32 bytes; initialising twice is allowed.
        unsafe {
            assert!(libsodium_sys::sodium_init() >= 0, "libsodium starts");
            libsodium_sys::crypto_box_keypair(public.as_mut_ptr(), secret.as_mut_ptr());
        }
        Self { public: PublicKey(public), secret: SecretKey(secret) }
    }
}

impl From<SecretKey> for KeyPair {
    fn from(secret: SecretKey) -> Self {
        Self { public: secret.public(), secret }
    }
}

impl Drop for SecretKey {
    #[expect(unsafe_code, reason = "an ordinary write could be optimised away")]
    fn drop(&mut self) {
        for byte in &mut self.0 {
            // SAFETY: writes a byte that we own.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).expect("Z85 is ASCII"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

impl FromStr for SecretKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

fn encode(key: &[u8; 32]) -> [u8; TEXT] {
    let mut text = [0; TEXT];
    for (group, out) in key.chunks_exact(4).zip(text.chunks_exact_mut(5)) {
        let mut value = group.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        for digit in out.iter_mut().rev() {
            *digit = DIGITS[(value % 85) as usize];
            value /= 85;
        }
    }
    text
}

fn decode(text: &str) -> Result<[u8; 32], BadKey> {
    let count = text.chars().count();
    if count != TEXT {
        return Err(BadKey::Length(count));
    }
    if let Some((at, c)) =
        text.chars().enumerate().find(|(_, c)| !u8::try_from(*c).is_ok_and(|c| DIGITS.contains(&c)))
    {
        return Err(BadKey::Character(c, at + 1));
    }
    let mut key = [0; 32];
    for (i, (group, out)) in
        text.as_bytes().chunks_exact(5).zip(key.chunks_exact_mut(4)).enumerate()
    {
        let value = group.iter().fold(0u64, |value, c| {
            let digit = DIGITS.iter().position(|d| d == c).expect("checked above");
            value * 85 + digit as u64
        });
        let value = u32::try_from(value).map_err(|_| BadKey::Range(i * 5 + 1))?;
        out.copy_from_slice(&value.to_be_bytes());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_was_printed() {
        let pair = KeyPair::generate();
        assert_eq!(pair.public.to_string().parse(), Ok(pair.public));
        assert_eq!(pair.secret.reveal().parse::<SecretKey>().unwrap(), pair.secret);
        assert_eq!(pair.secret.public(), pair.public);
    }

    #[test]
    fn the_text_is_that_of_libzmq() {
        let pair = KeyPair::generate();
        let theirs = zmq::z85_encode(&pair.public.0).unwrap();
        assert_eq!(pair.public.to_string(), theirs);
    }

    #[test]
    fn a_bad_key_says_what_is_wrong() {
        let key = KeyPair::generate().public.to_string();
        assert_eq!("abc".parse::<PublicKey>(), Err(BadKey::Length(3)));
        let bad = format!("{}~{}", &key[..7], &key[8..]);
        assert_eq!(bad.parse::<PublicKey>(), Err(BadKey::Character('~', 8)));
        let bad = format!("#####{}", &key[5..]);
        assert_eq!(bad.parse::<PublicKey>(), Err(BadKey::Range(1)));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = KeyPair::generate().secret;
        assert!(!format!("{secret:?}").contains(&secret.reveal()));
    }
}
