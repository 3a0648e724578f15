//! A swap partition: the header that mkswap(8) writes, and nothing else.

use crate::filesystem::{FileSystem, Options, Region, STEP};
use crate::tree::Tree;
use stage::Failure;

/// Bytes in a page: the header is the first one. A kernel with larger pages does not take it.
const PAGE: u64 = 4096;

/// Where in it are the version, the last page, how many are bad, the UUID and the label (`union swap_header` of Linux).
const INFO: usize = 1024;
const MAGIC: &[u8; 10] = b"SWAPSPACE2";

/// A swap partition.
#[derive(Debug)]
pub(crate) struct Swap {
    uuid: u128,
    label: String,
}

impl Swap {
    /// Makes one with that UUID and label.
    ///
    /// # Errors
    ///
    /// Where the UUID is none.
    pub(crate) fn new(options: &Options) -> Result<Self, Failure> {
        Ok(Self { uuid: options.number()?, label: options.label.clone().unwrap_or_default() })
    }

    fn header(&self, size: u64) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let last = u32::try_from(size / PAGE - 1).unwrap_or(u32::MAX);
        let parts: [(usize, &[u8]); 5] = [
            (0, &1_u32.to_le_bytes()),
            (4, &last.to_le_bytes()),
            (12, &self.uuid.to_be_bytes()),
            (28, self.label.as_bytes()),
            (4096 - MAGIC.len() - INFO, MAGIC),
        ];
        for (at, bytes) in parts {
            page[INFO + at..][..bytes.len()].copy_from_slice(bytes);
        }
        page
    }
}

impl FileSystem for Swap {
    fn content(&self) -> u64 {
        0
    }

    fn smallest(&self, spare: u64) -> Result<u64, Failure> {
        Ok(spare.next_multiple_of(STEP).max(STEP))
    }

    fn fits(&self, size: u64) -> bool {
        // As mkswap(8) has it.
        size >= 10 * PAGE
    }

    fn largest(&self) -> u64 {
        PAGE << 32
    }

    fn write(&self, to: &Region<'_>, _tree: &Tree) -> Result<(), Failure> {
        to.write(0, &self.header(to.size))
    }
}
