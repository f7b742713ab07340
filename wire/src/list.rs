//! Lists that need no allocation on either end.
//!
//! On the wire a list is a postcard byte string (a varint length in bytes) whose content is the
//! elements' encodings back to back. So a message with a list of 64 entries is still a few words
//! in memory, and the elements are decoded one at a time, when they are looked at.

use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::Error;

/// A borrowed, encoded list of `T`.
pub struct List<'a, T> {
    bytes: &'a [u8],
    element: PhantomData<T>,
}

impl<'a, T> List<'a, T> {
    /// The list without elements.
    #[must_use]
    pub const fn empty() -> Self {
        Self { bytes: &[], element: PhantomData }
    }

    /// Whether there is no element.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The length of the encoded elements, in bytes.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a, T: Deserialize<'a>> List<'a, T> {
    /// The elements, in order. Of a list that came out of a decoder all of them decode.
    #[must_use]
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter { rest: self.bytes, element: PhantomData }
    }

    /// Decodes each element once: all must be whole, pass `each`, and be `most` at the most.
    pub(crate) fn check(
        &self,
        what: &'static str,
        most: usize,
        mut each: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rest = self.bytes;
        let mut count = 0;
        while !rest.is_empty() {
            let (element, after) =
                postcard::take_from_bytes::<T>(rest).map_err(|_| Error::Malformed)?;
            if after.len() == rest.len() {
                return Err(Error::Malformed); // an element of no bytes would never end
            }
            count += 1;
            if count > most {
                return Err(Error::Bound(what));
            }
            each(element)?;
            rest = after;
        }
        Ok(())
    }
}

impl<'a, T: Serialize> List<'a, T> {
    /// Encodes `elements` into `buffer` and gives the list that borrows it.
    ///
    /// # Errors
    /// [`Error::Room`] if `buffer` is too small.
    pub fn encode<I>(buffer: &'a mut [u8], elements: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item = T>,
    {
        let mut used = 0;
        for element in elements {
            let rest = buffer.get_mut(used..).ok_or(Error::Room)?;
            used += postcard::to_slice(&element, rest).map_err(|_| Error::Room)?.len();
        }
        Ok(Self { bytes: &buffer[..used], element: PhantomData })
    }
}

/// The elements of a [`List`], decoded one by one.
pub struct ListIter<'a, T> {
    rest: &'a [u8],
    element: PhantomData<T>,
}

impl<'a, T: Deserialize<'a>> Iterator for ListIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let (element, rest) = postcard::take_from_bytes(self.rest).ok()?;
        self.rest = rest;
        Some(element)
    }
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<'a, T: Deserialize<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Deserialize<'a> + Serialize> Serialize for List<'a, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let mut elements = serializer.serialize_seq(None)?;
            for element in self.iter() {
                elements.serialize_element(&element)?;
            }
            return elements.end();
        }
        serializer.serialize_bytes(self.bytes)
    }
}

impl<'de: 'a, 'a, T> Deserialize<'de> for List<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed<T>(PhantomData<T>);
        impl<'de, T> Visitor<'de> for Borrowed<T> {
            type Value = List<'de, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an encoded list")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<List<'de, T>, E> {
                Ok(List { bytes, element: PhantomData })
            }
        }
        deserializer.deserialize_bytes(Borrowed(PhantomData))
    }
}
