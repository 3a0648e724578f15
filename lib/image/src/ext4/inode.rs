//! An inode of 256 bytes (kernel: `ext4/inodes.rst`), and the extents that say where its blocks are (`ext4/ifork.rst`).

use super::allocate::{Allocator, Run};
use super::checksum::chain;
use super::geometry::{BLOCK, INODE};
use crate::bytes::Fields;

/// Bytes behind an inode's own fields, which end with the project's id.
pub(crate) const BEHIND: usize = INODE as usize - 160;

/// Bytes of the field that has a file's blocks, a short link's target or a device's number.
pub(crate) const FORK: usize = 60;

/// Flag: the field has extents.
pub(crate) const EXTENTS: u32 = 0x8_0000;

/// Bytes of an extent, and of the header before them.
const EXTENT: usize = 12;

/// Extents in an inode, and in a block with its checksum at the end.
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK as usize - EXTENT) / EXTENT;

/// What is in an inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    /// Type and permissions.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) links: u16,
    /// All blocks that belong to it.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    pub(crate) fork: Vec<u8>,
    /// The block of its attributes, or 0.
    pub(crate) attributes: u64,
    /// Seconds since 1970: last modified, and made.
    pub(crate) mtime: i64,
    pub(crate) made: i64,
    /// The bytes after the fields.
    pub(crate) behind: Vec<u8>,
}

/// Returns what an inode's checksums begin with.
pub(crate) fn seed(seed: u32, number: u32) -> u32 {
    chain(chain(seed, &number.to_le_bytes()), &[0; 4])
}

impl Inode {
    /// Encodes it as inode `number`. `seed` is the file system's.
    pub(crate) fn encode(&self, number: u32, seed: u32) -> [u8; INODE as usize] {
        let mut raw = [0; INODE as usize];
        raw.le16(0x00, self.mode.into());
        raw.le16(0x02, u64::from(self.uid));
        raw.le32(0x04, self.size);
        let (mtime, mtime_high) = time(self.mtime);
        let (made, made_high) = time(self.made);
        for at in [0x08, 0x0c, 0x10] {
            raw.le32(at, mtime);
        }
        raw.le16(0x18, u64::from(self.gid));
        raw.le16(0x1a, self.links.into());
        // In sectors of 512 bytes.
        let sectors = self.blocks * (BLOCK / 512);
        raw.le32(0x1c, sectors);
        raw.le32(0x20, self.flags.into());
        raw.put(0x28, &self.fork);
        raw.le32(0x68, self.attributes);
        raw.le32(0x6c, self.size >> 32);
        raw.le16(0x74, sectors >> 32);
        raw.le16(0x78, u64::from(self.uid >> 16));
        raw.le16(0x7a, u64::from(self.gid >> 16));
        raw.le16(0x80, 32); // bytes of the fields from here on
        for at in [0x84, 0x88, 0x8c] {
            raw.le32(at, mtime_high);
        }
        raw.le32(0x90, made);
        raw.le32(0x94, made_high);
        raw.put(INODE as usize - BEHIND, &self.behind);
        let sum = chain(self::seed(seed, number), &raw);
        raw.le16(0x7c, u64::from(sum));
        raw.le16(0x82, u64::from(sum >> 16));
        raw
    }
}

/// Splits a time into the low 32 bits of its seconds and the field with the two bits that are above those.
fn time(seconds: i64) -> (u64, u64) {
    let low = seconds as u32;
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low.into(), (epoch & 3).cast_unsigned())
}

/// Blocks of a file, from its block `first` on. What lies between two of these is a hole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) run: Run,
}

/// Where a file's blocks are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extents {
    pub(crate) list: Vec<Extent>,
    /// The blocks of the tree of extents, where there are more than an inode holds: the leaves, then what is above them.
    pub(crate) tree: Vec<u64>,
}

impl Extents {
    /// Takes blocks for the pieces of a file, each its first block and how many, and those that say where they are. `None`
    /// where there is no room.
    pub(crate) fn take(allocator: &mut Allocator, pieces: &[(u64, u64)]) -> Option<Self> {
        let mut list = Vec::new();
        for (first, count) in pieces {
            let mut first = *first;
            for run in allocator.take(*count)? {
                list.push(Extent { first, run });
                first += run.length;
            }
        }
        let (mut tree, mut count) = (Vec::new(), list.len());
        while count > IN_INODE {
            count = count.div_ceil(IN_BLOCK);
            for _ in 0..count {
                tree.push(allocator.one()?);
            }
        }
        Some(Self { list, tree })
    }

    /// Returns how many blocks of the file there are.
    pub(crate) fn data(&self) -> u64 {
        self.list.iter().map(|e| e.run.length).sum()
    }

    /// Returns how many blocks it is about, with its own.
    pub(crate) fn blocks(&self) -> u64 {
        self.data() + self.tree.len() as u64
    }

    /// Returns the field of the inode, and the blocks with their numbers. `seed` is the inode's.
    pub(crate) fn encode(&self, seed: u32) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
        let (mut level, mut depth) = (self.list.iter().map(extent).collect::<Vec<_>>(), 0);
        let (mut numbers, mut blocks) = (self.tree.iter(), Vec::new());
        while level.len() > IN_INODE {
            let mut above = Vec::new();
            for (entries, at) in level.chunks(IN_BLOCK).zip(&mut numbers) {
                let mut block = vec![0; BLOCK as usize];
                fill(&mut block, IN_BLOCK, entries, depth);
                let end = EXTENT * (IN_BLOCK + 1);
                let sum = chain(seed, &block[..end]);
                block.le32(end, sum.into());
                blocks.push((*at, block));
                // The file's block that it begins with, and where it is.
                let mut entry = [0; EXTENT];
                entry.put(0, &entries[0][..4]);
                entry.le32(4, *at);
                entry.le16(8, *at >> 32);
                above.push(entry);
            }
            (level, depth) = (above, depth + 1);
        }
        let mut fork = vec![0; FORK];
        fill(&mut fork, IN_INODE, &level, depth);
        (fork, blocks)
    }
}

fn extent(extent: &Extent) -> [u8; EXTENT] {
    let Extent { first, run } = extent;
    let mut raw = [0; EXTENT];
    raw.le32(0, *first);
    raw.le16(4, run.length);
    raw.le16(6, run.begin >> 32);
    raw.le32(8, run.begin);
    raw
}

/// Puts a header and its entries into a table that has room for `most`.
fn fill(table: &mut [u8], most: usize, entries: &[[u8; EXTENT]], depth: u16) {
    table.le16(0, 0xf30a);
    table.le16(2, entries.len() as u64);
    table.le16(4, most as u64);
    table.le16(6, depth.into());
    for (n, entry) in entries.iter().enumerate() {
        table.put(EXTENT * (n + 1), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext4::geometry::Geometry;

    #[test]
    fn times_beyond_32_bits_have_two_more() {
        // Kernel: ext4/inodes.rst, "Inode Timestamps".
        assert_eq!(time(0), (0, 0));
        assert_eq!(time(-1), (0xffff_ffff, 0));
        assert_eq!(time(0x7fff_ffff), (0x7fff_ffff, 0));
        assert_eq!(time(0x8000_0000), (0x8000_0000, 1));
        assert_eq!(time(0x1_8000_0000), (0x8000_0000, 2));
        assert_eq!(time(4_354_819_199), (59_851_903, 1));
    }

    #[test]
    fn more_than_four_extents_get_a_tree() {
        let shape = Geometry::new(40 * 32768, 100).unwrap();
        let mut all = Allocator::new(shape);
        let small = Extents::take(&mut all, &[(0, 4 * 30000)]).unwrap();
        assert!(small.tree.is_empty() && small.blocks() == 120_000);
        let large = Extents::take(&mut all, &[(0, 20 * 32768)]).unwrap();
        assert_eq!(large.tree.len(), 1);
        let (fork, blocks) = large.encode(0);
        assert_eq!((fork.len(), blocks.len()), (FORK, 1));
        assert_eq!(blocks[0].0, large.tree[0]);
        // Every other block is a hole: 5000 extents, in 15 leaves, below one more.
        let pieces: Vec<_> = (0..5000).map(|n| (2 * n + 1, 1)).collect();
        let holes = Extents::take(&mut all, &pieces).unwrap();
        assert_eq!((holes.data(), holes.blocks()), (5000, 5016));
        let (fork, blocks) = holes.encode(0);
        assert_eq!((fork[2], fork[6], blocks.len()), (1, 2, 16));
        assert_eq!(fork[12], 1, "the first block is a hole");
    }
}
