//! The superblock (kernel: `ext4/super.rst`), the group descriptors (`ext4/group_descr.rst`) and the journal's first block
//! (`ext4/journal.rst`).

use super::checksum::chain;
use super::geometry::{BLOCK, FIRST_INODE, Geometry, PER_GROUP};
use super::inode::FORK;
use crate::bytes::Fields;
use crate::filesystem::Options;

/// `has_journal`: left out where there is no room for one.
const HAS_JOURNAL: u64 = 0x4;
/// `ext_attr`, `resize_inode`, `dir_index`.
const COMPATIBLE: u64 = 0x8 | 0x10 | 0x20;
/// `filetype`, `extents`.
const INCOMPATIBLE: u64 = 0x2 | 0x40;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
const READ_ONLY: u64 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// What of all blocks only root may use, in percent, as mke2fs(8) has it.
const RESERVED: u64 = 5;

/// What the superblock says beside what the shape and the options do.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) uuid: [u8; 16],
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    /// The journal's block map and its size, which are kept here as a copy; `None` where there is no journal.
    pub(crate) journal: Option<(Vec<u8>, u64)>,
}

/// Returns the 1024 bytes of the superblock, as the copy in `group` has it.
pub(crate) fn encode(shape: &Geometry, options: &Options, totals: &Totals, group: u64) -> Vec<u8> {
    let mut sb = vec![0; 1024];
    let time = options.time;
    sb.le32(0x00, shape.groups * shape.inodes_per_group);
    sb.le32(0x04, shape.blocks);
    sb.le32(0x08, shape.blocks * RESERVED / 100);
    sb.le32(0x0c, totals.free_blocks);
    sb.le32(0x10, totals.free_inodes);
    sb.le32(0x18, 2); // blocks of 1 KiB << 2
    sb.le32(0x1c, 2); // clusters are blocks
    sb.le32(0x20, PER_GROUP);
    sb.le32(0x24, PER_GROUP);
    sb.le32(0x28, shape.inodes_per_group);
    sb.le32(0x30, time); // written
    sb.le16(0x36, 0xffff); // checked after no number of mounts
    sb.le16(0x38, 0xef53);
    sb.le16(0x3a, 1); // clean
    sb.le16(0x3c, 1); // on errors: go on
    sb.le32(0x40, time); // checked
    sb.le32(0x4c, 1); // revision
    sb.le32(0x54, FIRST_INODE.into());
    sb.le16(0x58, super::geometry::INODE);
    sb.le16(0x5a, group);
    sb.le32(0x5c, COMPATIBLE | if totals.journal.is_some() { HAS_JOURNAL } else { 0 });
    sb.le32(0x60, INCOMPATIBLE);
    sb.le32(0x64, READ_ONLY);
    sb.put(0x68, &totals.uuid);
    sb.put(0x78, options.label.as_deref().unwrap_or_default().as_bytes());
    sb.le16(0xce, shape.reserved);
    sb.put(0xec, &options.seed);
    sb.put(0xfc, &[1]); // names are hashed by half MD4
    if let Some((map, size)) = &totals.journal {
        sb.le32(0xe0, super::geometry::JOURNAL.into());
        sb.put(0xfd, &[1]); // the copy below is one of an inode's blocks
        sb.put(0x10c, map);
        sb.le32(0x10c + FORK, *size >> 32);
        sb.le32(0x110 + FORK, *size);
    }
    sb.le32(0x100, 0x4 | 0x8); // mounted with user_xattr and acl
    sb.le32(0x108, time); // made
    sb.le16(0x15c, 32); // fields that every inode has, and new ones get
    sb.le16(0x15e, 32);
    sb.le32(0x160, 1); // hashes are of signed characters
    sb.put(0x175, &[1]); // checksums are CRC32C
    // Dates beyond 32 bits: written, made, checked.
    let high = u8::try_from(options.time >> 32 & 0xff).unwrap_or_default();
    sb.put(0x274, &[high, 0, high, high]);
    let sum = chain(!0, &sb[..0x3fc]);
    sb.le32(0x3fc, sum.into());
    sb
}

/// What is in a group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    pub(crate) directories: u64,
    /// Checksums of the two bitmaps.
    pub(crate) bitmaps: [u32; 2],
}

impl Group {
    /// Returns the descriptor of group number `number`. `seed` is the file system's.
    pub(crate) fn encode(&self, shape: &Geometry, number: u64, seed: u32) -> [u8; 32] {
        let mut raw = [0; 32];
        let bitmaps = shape.bitmaps(number);
        raw.le32(0x00, bitmaps);
        raw.le32(0x04, bitmaps + 1);
        raw.le32(0x08, shape.inodes(number).start);
        raw.le16(0x0c, self.free_blocks);
        raw.le16(0x0e, self.free_inodes);
        raw.le16(0x10, self.directories);
        raw.le16(0x12, 4); // the inodes' blocks are zeroed
        raw.le16(0x18, u64::from(self.bitmaps[0]));
        raw.le16(0x1a, u64::from(self.bitmaps[1]));
        raw.le16(0x1c, self.free_inodes);
        let sum = chain(chain(seed, &number.to_le_bytes()[..4]), &raw);
        raw.le16(0x1e, u64::from(sum));
        raw
    }
}

/// Returns the first block of a journal of so many blocks: one with nothing in it.
pub(crate) fn journal(blocks: u64) -> Vec<u8> {
    let mut raw = vec![0; BLOCK as usize];
    raw.be32(0x00, 0xc03b_3998);
    raw.be32(0x04, 4); // a superblock of version 2
    raw.be32(0x0c, BLOCK);
    raw.be32(0x10, blocks);
    raw.be32(0x14, 1); // the first block of the log
    raw.be32(0x18, 1); // the first transaction
    raw.be32(0x40, 1); // users
    raw
}
