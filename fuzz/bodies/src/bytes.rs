//! Bytes that are read as choices. At their end every choice is zero.

/// What is left of the input.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'d>(pub &'d [u8]);

impl<'d> Bytes<'d> {
    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// A number below `most`.
    pub fn below(&mut self, most: usize) -> usize {
        usize::from(self.byte()) % most
    }

    /// True once in so many bytes.
    pub fn one_in(&mut self, many: u8) -> bool {
        self.byte().is_multiple_of(many)
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
