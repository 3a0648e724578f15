//! Which block of a group is what.
//!
//! A group is 32768 blocks, as many as one block of a bitmap has bits. It begins, in some groups, with a copy of the
//! superblock, of all group descriptors and the blocks reserved for more of these; then come its two bitmaps and its part
//! of the inodes; the rest is for files.

use std::ops::Range;

/// Bytes in a block.
pub(crate) const BLOCK: u64 = 4096;

/// Blocks in a group.
pub(crate) const PER_GROUP: u64 = 8 * BLOCK;

/// Bytes of a group's descriptor, and of an inode.
pub(crate) const DESCRIPTOR: u64 = 32;
pub(crate) const INODE: u64 = 256;

/// The first inode that is not reserved: `lost+found`.
pub(crate) const FIRST_INODE: u32 = 11;

/// The inode of the journal.
pub(crate) const JOURNAL: u32 = 8;

/// Block numbers in a block.
pub(crate) const ADDRESSES: u64 = BLOCK / 4;

/// Bytes of the image that there is one inode for, as mke2fs.conf(5) has it (`inode_ratio`).
const RATIO: u64 = 16384;

/// A last group with fewer blocks than this for files is left off, as mke2fs(8) does.
const FEWEST: u64 = 50;

/// The shape of a file system of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Its blocks.
    pub(crate) blocks: u64,
    /// Its groups.
    pub(crate) groups: u64,
    /// Inodes in each group.
    pub(crate) inodes_per_group: u64,
    /// Blocks of all group descriptors.
    pub(crate) descriptor_blocks: u64,
    /// Blocks reserved for more descriptors, behind those.
    pub(crate) reserved: u64,
}

impl Geometry {
    /// Returns the shape for at most `blocks` blocks and at least `inodes` inodes; `None` where that is too small.
    pub(crate) fn new(blocks: u64, inodes: u64) -> Option<Self> {
        let shape = Self::of_all(blocks, inodes)?;
        let last = shape.groups - 1;
        if shape.data(last).count() as u64 >= FEWEST {
            return Some(shape);
        }
        if last == 0 {
            return None;
        }
        Self::of_all(last * PER_GROUP, inodes)
    }

    fn of_all(blocks: u64, inodes: u64) -> Option<Self> {
        let groups = blocks.div_ceil(PER_GROUP);
        let inodes_per_group =
            (blocks * BLOCK / RATIO).max(inodes).div_ceil(groups.max(1)).next_multiple_of(BLOCK / INODE);
        // As many as a block of a bitmap has bits.
        if groups == 0 || inodes_per_group > 8 * BLOCK {
            return None;
        }
        let per_block = BLOCK / DESCRIPTOR;
        let descriptor_blocks = groups.div_ceil(per_block);
        // Room to grow a thousandfold, but not beyond 32-bit numbers of blocks, as mke2fs(8).
        let most = (blocks * 1024).min(u64::from(u32::MAX));
        let reserved = most.div_ceil(PER_GROUP).div_ceil(per_block) - descriptor_blocks;
        Some(Self { blocks, groups, inodes_per_group, descriptor_blocks, reserved: reserved.min(ADDRESSES) })
    }

    /// Returns the first block of a group.
    pub(crate) fn begin(&self, group: u64) -> u64 {
        group * PER_GROUP
    }

    /// Returns the block behind a group's last.
    pub(crate) fn end(&self, group: u64) -> u64 {
        (self.begin(group) + PER_GROUP).min(self.blocks)
    }

    /// Returns the groups other than the first that have copies of the superblock and the descriptors.
    pub(crate) fn backups(&self) -> impl Iterator<Item = u64> + '_ {
        (1..self.groups).filter(|g| has_copy(*g))
    }

    /// Returns the block of a group's bitmap of blocks; that of its inodes is the next one.
    pub(crate) fn bitmaps(&self, group: u64) -> u64 {
        let copy = if has_copy(group) { 1 + self.descriptor_blocks + self.reserved } else { 0 };
        self.begin(group) + copy
    }

    /// Returns the blocks of a group's inodes.
    pub(crate) fn inodes(&self, group: u64) -> Range<u64> {
        let begin = self.bitmaps(group) + 2;
        begin..begin + self.inodes_per_group * INODE / BLOCK
    }

    /// Returns the blocks of a group that are for files.
    pub(crate) fn data(&self, group: u64) -> Range<u64> {
        self.inodes(group).end..self.end(group)
    }

    /// Returns the group of an inode, and its place in there.
    pub(crate) fn place(&self, inode: u32) -> (u64, u64) {
        let index = u64::from(inode) - 1;
        (index / self.inodes_per_group, index % self.inodes_per_group)
    }
}

/// Copies are in groups 0 and 1 and in those whose numbers are powers of 3, 5 and 7 (`sparse_super`).
pub(crate) fn has_copy(group: u64) -> bool {
    let is_power = |base: u64| {
        let mut n = group;
        while n > 1 && n.is_multiple_of(base) {
            n /= base;
        }
        n == 1
    };
    group < 2 || [3, 5, 7].into_iter().any(is_power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_where_the_kernel_looks_for_them() {
        let with: Vec<u64> = (0..130).filter(|g| has_copy(*g)).collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn groups_do_not_overlap_and_a_stub_is_left_off() {
        for blocks in [200, 2048, 32768, 32769, 33000, 70000, 1_000_000, 1 << 31] {
            let shape = Geometry::new(blocks, 100).unwrap();
            assert!(shape.blocks <= blocks);
            assert!(shape.data(shape.groups - 1).count() as u64 >= FEWEST);
            for group in 0..shape.groups.min(300) {
                assert!(shape.begin(group) <= shape.bitmaps(group));
                assert!(shape.data(group).start < shape.end(group));
            }
        }
        assert_eq!(Geometry::new(32769, 100).unwrap().blocks, 32768);
        assert_eq!(Geometry::new(0, 0), None);
        assert_eq!(Geometry::new(54, 12), None);
        assert_eq!(Geometry::new(32768, 40000), None, "a bitmap has 32768 bits");
    }
}
