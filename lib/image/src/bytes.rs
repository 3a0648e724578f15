//! Numbers at their offsets in a table.

/// Bytes with numbers in them. Of a number that is too large its low bits are written.
pub(crate) trait Fields {
    /// Puts bytes at an offset.
    fn put(&mut self, at: usize, bytes: &[u8]);

    /// Puts a little-endian number of 16 bits at an offset.
    fn le16(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes()[..2]);
    }

    /// Puts a little-endian number of 32 bits at an offset.
    fn le32(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes()[..4]);
    }

    /// Puts a big-endian number of 32 bits at an offset.
    fn be32(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes()[4..]);
    }
}

impl Fields for [u8] {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
