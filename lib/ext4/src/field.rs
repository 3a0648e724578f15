//! Numbers at their places in a table.

/// Bytes with little-endian numbers in them; with `be32` for the journal, which is big-endian.
pub(crate) trait Fields {
    /// Puts bytes at an offset.
    fn put(&mut self, at: usize, bytes: &[u8]);

    /// Puts a number of 16 bits at an offset.
    fn le16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    /// Puts a number of 32 bits at an offset.
    fn le32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// Puts a big-endian number of 32 bits at an offset.
    fn be32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }
}

impl Fields for [u8] {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Returns the low 32 bits of a number.
pub(crate) fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

/// Returns the low 16 bits of a number.
pub(crate) fn low16(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or_default()
}
