//! Where everything goes, before anything is written; and writing it.

use super::allocate::Allocator;
use super::checksum::chain;
use super::directory::{self, Entry};
use super::files::{Ext4, File, LINKS};
use super::geometry::{ADDRESSES, BLOCK, DESCRIPTOR, FIRST_INODE, Geometry, INODE, JOURNAL, PER_GROUP};
use super::inode::{self, EXTENTS, Extent, Extents, FORK, Inode};
use super::superblock::{self, Group, Totals};
use super::xattr;
use crate::bytes::Fields;
use crate::filesystem::Region;
use crate::node::{Kind, Node};
use crate::tree::Tree;
use stage::Failure;

/// The inode that keeps blocks for more descriptors.
const RESIZE: u32 = 7;

/// Type and permissions of a file of the file system's own.
const OWN: u16 = 0o100_600;

/// Where the map of an inode without extents has its doubly indirect block.
const DOUBLE: usize = 4 * 13;

/// The places of all files, for one size.
#[derive(Debug)]
pub(super) struct Plan {
    shape: Geometry,
    pub(super) allocator: Allocator,
    /// By node.
    places: Vec<Place>,
    /// The journal's blocks; `None` where the file system is too small for one.
    journal: Option<Extents>,
    /// The block that the inode for growing begins with.
    growth: u64,
}

/// Where a node is.
#[derive(Clone, Debug, Default)]
struct Place {
    data: Extents,
    /// The block of its attributes, or 0.
    attributes: u64,
}

impl Plan {
    /// Finds the places in a file system of at most `blocks` blocks; `None` where it does not hold the files.
    pub(super) fn new(fs: &Ext4, blocks: u64) -> Option<Self> {
        let used = u64::from(FIRST_INODE) - 1 + fs.order.len() as u64;
        let blocks = blocks.min(u64::from(u32::MAX));
        // A fifth more, so that a system that is full of small files can still make some.
        let shape = Geometry::new(blocks, used + used / 5)?;
        let mut allocator = Allocator::new(shape);
        let growth = allocator.one()?;
        let mut places = vec![Place::default(); fs.nodes.len()];
        // Directories together, so that looking for a name moves little; then what is in them.
        for directories in [true, false] {
            for (n, _, file) in fs.in_order().filter(|(_, node, _)| (node.kind == Kind::Directory) == directories) {
                places[n].data = Extents::take(&mut allocator, &file.pieces)?;
                if file.xattrs.block.is_some() {
                    places[n].attributes = allocator.one()?;
                }
            }
        }
        let journal = take_journal(&mut allocator, shape.blocks)?;
        Some(Self { shape, allocator, places, journal, growth })
    }
}

/// A file system that is being written.
pub(super) struct Disk<'a> {
    fs: &'a Ext4,
    plan: &'a Plan,
    to: &'a Region<'a>,
    uuid: [u8; 16],
    /// What its checksums begin with.
    seed: u32,
}

impl<'a> Disk<'a> {
    pub(super) fn new(fs: &'a Ext4, plan: &'a Plan, to: &'a Region<'a>) -> Result<Self, Failure> {
        let uuid = fs.options.number()?.to_be_bytes();
        Ok(Self { fs, plan, to, uuid, seed: chain(!0, &uuid) })
    }

    /// Writes it all. The tree has what is in the files.
    pub(super) fn write(&self, tree: &Tree) -> Result<(), Failure> {
        for (n, node, file) in self.fs.in_order() {
            self.write_node(node, file, &self.plan.places[n])?;
        }
        self.write_own()?;
        self.write_groups()?;
        for (n, node, file) in self.fs.in_order().filter(|(_, node, _)| node.size() > 0) {
            let content = tree.open_content(node)?;
            for Extent { first, run } in &self.plan.places[n].data.list {
                let begin = first * BLOCK;
                let end = file.size.min(begin + run.length * BLOCK);
                self.to.copy(&content, begin..end, run.begin * BLOCK)?;
            }
            content.check_unchanged()?;
        }
        Ok(())
    }

    fn put(&self, block: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write(block * BLOCK, bytes)
    }

    fn put_inode(&self, number: u32, inode: &Inode) -> Result<(), Failure> {
        let (group, index) = self.plan.shape.place(number);
        let at = self.plan.shape.inodes(group).start * BLOCK + index * INODE;
        self.to.write(at, &inode.encode(number, self.seed))
    }

    /// Writes a node's inode and all of its blocks that are no file's content.
    fn write_node(&self, node: &Node, file: &File, place: &Place) -> Result<(), Failure> {
        let seed = inode::seed(self.seed, file.number);
        let mut inode = Inode {
            mode: mode(node),
            uid: node.uid,
            gid: node.gid,
            size: file.size,
            // More than 65000 of a directory are written as 1, "unknown" (`dir_nlink`).
            links: u16::try_from(file.links).ok().filter(|_| file.links <= LINKS).unwrap_or(1),
            blocks: place.data.blocks() + u64::from(place.attributes != 0),
            flags: 0,
            fork: vec![0; FORK],
            attributes: place.attributes,
            mtime: node.mtime,
            made: self.fs.options.time.cast_signed(),
            behind: file.xattrs.inline.clone(),
        };
        match &node.kind {
            Kind::Directory => {
                self.map(&place.data, &mut inode, seed)?;
                let names = self.directory(file, seed);
                let mut rest = &names[..];
                for Extent { run, .. } in &place.data.list {
                    let (now, later) = rest.split_at(usize_of(run.length * BLOCK));
                    self.put(run.begin, now)?;
                    rest = later;
                }
            }
            Kind::File(_) => self.map(&place.data, &mut inode, seed)?,
            Kind::Symlink(target) if target.len() < FORK => inode.fork.put(0, target),
            Kind::Symlink(target) => {
                self.map(&place.data, &mut inode, seed)?;
                self.put(place.data.list[0].run.begin, target)?;
            }
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                device(&mut inode.fork, (*major).into(), (*minor).into());
            }
            Kind::Fifo | Kind::HardLink(_) => {}
        }
        if let Some(block) = &file.xattrs.block {
            let mut block = block.clone();
            xattr::seal(&mut block, self.seed, place.attributes);
            self.put(place.attributes, &block)?;
        }
        self.put_inode(file.number, &inode)
    }

    /// Puts the map of a file's blocks into its inode.
    fn map(&self, data: &Extents, inode: &mut Inode, seed: u32) -> Result<(), Failure> {
        let (fork, blocks) = data.encode(seed);
        inode.flags = EXTENTS;
        inode.fork = fork;
        blocks.iter().try_for_each(|(at, block)| self.put(*at, block))
    }

    fn directory(&self, file: &File, seed: u32) -> Vec<u8> {
        let own = [(&b"."[..], file.number), (b"..", self.fs.files[file.parent].number)];
        let own = own.map(|(name, inode)| Entry { inode, name, kind: directory::DIRECTORY });
        let names = file.names.iter().map(|(name, n)| Entry {
            inode: self.fs.files[*n].number,
            name,
            kind: directory::type_of(&self.fs.nodes[*n].kind),
        });
        let entries: Vec<Entry<'_>> = own.into_iter().chain(names).collect();
        directory::encode(&entries, seed)
    }

    /// Writes what belongs to no node: the journal, and the inode that keeps blocks for more descriptors.
    fn write_own(&self) -> Result<(), Failure> {
        let own = Inode {
            mode: OWN,
            links: 1,
            mtime: self.fs.options.time.cast_signed(),
            made: self.fs.options.time.cast_signed(),
            fork: vec![0; FORK],
            ..Inode::default()
        };
        if let Some(journal) = &self.plan.journal {
            let count = journal.data();
            let mut inode = Inode { size: count * BLOCK, blocks: journal.blocks(), ..own.clone() };
            self.map(journal, &mut inode, inode::seed(self.seed, JOURNAL))?;
            self.put(journal.list[0].run.begin, &superblock::journal(count))?;
            self.put_inode(JOURNAL, &inode)?;
        }
        self.write_growth(own)
    }

    /// The inode for growing has the blocks behind each copy of the descriptors. Its doubly indirect block names those of
    /// the first copy, and each of them those of the others at its place (kernel: `fs/ext4/resize.c`, `reserve_backup_gdb`).
    fn write_growth(&self, own: Inode) -> Result<(), Failure> {
        let shape = self.plan.shape;
        let mut named = vec![0; usize_of(BLOCK)];
        for n in 0..shape.reserved {
            let at = 1 + shape.descriptor_blocks + n;
            named.le32(usize_of((shape.descriptor_blocks + n) % ADDRESSES * 4), at);
            let mut others = vec![0; usize_of(BLOCK)];
            for (i, group) in shape.backups().enumerate() {
                others.le32(4 * i, shape.begin(group) + at);
            }
            self.put(at, &others)?;
        }
        self.put(self.plan.growth, &named)?;
        let copies = 1 + shape.backups().count() as u64;
        let mut inode = Inode {
            size: (12 + ADDRESSES + ADDRESSES * ADDRESSES) * BLOCK,
            blocks: 1 + shape.reserved * copies,
            ..own
        };
        inode.fork.le32(DOUBLE, self.plan.growth);
        self.put_inode(RESIZE, &inode)
    }

    /// Writes bitmaps, descriptors and superblocks.
    fn write_groups(&self) -> Result<(), Failure> {
        let Plan { shape, allocator, .. } = self.plan;
        let mut descriptors = Vec::new();
        let mut totals = Totals {
            uuid: self.uuid,
            free_blocks: 0,
            free_inodes: 0,
            journal: self.plan.journal.as_ref().map(|j| {
                let (map, _) = j.encode(inode::seed(self.seed, JOURNAL));
                (map, j.data() * BLOCK)
            }),
        };
        let mut directories = vec![0; usize_of(shape.groups)];
        for (_, _, file) in self.fs.in_order().filter(|(_, node, _)| node.kind == Kind::Directory) {
            directories[usize_of(shape.place(file.number).0)] += 1;
        }
        let inodes = u64::from(FIRST_INODE) - 1 + self.fs.order.len() as u64;
        for number in 0..shape.groups {
            let count = shape.end(number) - shape.begin(number);
            let before = shape.data(number).start - shape.begin(number);
            let used = before + allocator.used(number);
            let per_group = shape.inodes_per_group;
            // The first ones of all.
            let inodes = inodes.saturating_sub(number * per_group).min(per_group);
            let bitmaps = [(bitmap(used, count), PER_GROUP), (bitmap(inodes, per_group), per_group)];
            let mut sums = [0; 2];
            for (n, (bits, of)) in bitmaps.iter().enumerate() {
                sums[n] = chain(self.seed, &bits[..usize_of(of / 8)]);
                self.put(shape.bitmaps(number) + n as u64, bits)?;
            }
            let group = Group {
                free_blocks: count - used,
                free_inodes: per_group - inodes,
                directories: directories[usize_of(number)],
                bitmaps: sums,
            };
            totals.free_blocks += group.free_blocks;
            totals.free_inodes += group.free_inodes;
            descriptors.extend(group.encode(shape, number, self.seed));
        }
        debug_assert_eq!(descriptors.len(), usize_of(shape.groups * DESCRIPTOR));
        for number in std::iter::once(0).chain(shape.backups()) {
            let superblock = superblock::encode(shape, &self.fs.options, &totals, number);
            let begin = shape.begin(number);
            // The first one leaves room for a boot loader.
            let at = if number == 0 { 1024 } else { 0 };
            self.to.write(begin * BLOCK + at, &superblock)?;
            self.put(begin + 1, &descriptors)?;
        }
        Ok(())
    }
}

/// Returns type and permissions.
fn mode(node: &Node) -> u16 {
    let kind = match &node.kind {
        Kind::Fifo => 0o01,
        Kind::Character(..) => 0o02,
        Kind::Directory => 0o04,
        Kind::Block(..) => 0o06,
        Kind::File(_) | Kind::HardLink(_) => 0o10,
        Kind::Symlink(_) => 0o12,
    };
    kind << 12 | u16::try_from(node.mode & 0o7777).unwrap_or_default()
}

/// Takes the journal's blocks: as many as the size is for, or, where only they do not fit, fewer, down to the fewest that the
/// kernel takes. So what fits into a size fits into every larger one. `Some(None)` where the file system is too small for any,
/// `None` where there is no room.
fn take_journal(allocator: &mut Allocator, blocks: u64) -> Option<Option<Extents>> {
    let mut count = journal_blocks(blocks);
    if count == 0 {
        return Some(None);
    }
    while count >= SMALLEST_JOURNAL {
        let mut trial = allocator.clone();
        if let Some(journal) = Extents::take(&mut trial, &[(0, count)]) {
            *allocator = trial;
            return Some(Some(journal));
        }
        count /= 2;
    }
    None
}

/// The kernel's `JBD2_MIN_JOURNAL_BLOCKS`.
const SMALLEST_JOURNAL: u64 = 1024;

/// Returns how many blocks of journal a file system gets, as mke2fs(8) does (`ext2fs_default_journal_size`).
fn journal_blocks(blocks: u64) -> u64 {
    const SIZES: [(u64, u64); 8] = [
        (2048, 0),
        (32 << 10, 1 << 10),
        (256 << 10, 4 << 10),
        (512 << 10, 8 << 10),
        (4 << 20, 16 << 10),
        (8 << 20, 32 << 10),
        (16 << 20, 64 << 10),
        (32 << 20, 128 << 10),
    ];
    let found = SIZES.iter().find(|(below, _)| blocks < *below);
    found.map_or(256 << 10, |(_, size)| *size)
}

/// Returns a block of bits: the first `used` of `count` are set, and so are those behind them, up to the block's end.
fn bitmap(used: u64, count: u64) -> Vec<u8> {
    let mut bits = vec![0u8; usize_of(BLOCK)];
    for n in (0..used).chain(count..8 * BLOCK) {
        bits[usize_of(n / 8)] |= 1 << (n % 8);
    }
    bits
}

/// Puts a device's number into an inode: in the old form where it fits, as the kernel does.
fn device(fork: &mut [u8], major: u64, minor: u64) {
    if major < 256 && minor < 256 {
        fork.le32(0, major << 8 | minor);
    } else {
        fork.le32(4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
}

/// Sizes here are of memory that is there, or of one file's piece.
fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
