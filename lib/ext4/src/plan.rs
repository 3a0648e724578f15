//! Where everything goes, before anything is written; and writing it.

use crate::allocate::Allocator;
use crate::checksum::chain;
use crate::directory::{self, Entry};
use crate::field::{Fields, low32};
use crate::geometry::{ADDRESSES, DESCRIPTOR, FIRST_INODE, Geometry, INODE, PER_GROUP};
use crate::inode::{self, EXTENTS, Extent, Extents, FORK, Inode};
use crate::superblock::{self, Group, Totals};
use crate::tree::{Kind, Node, NodeId, Tree};
use crate::{BLOCK, xattr};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Inodes with a number of their own.
const ROOT: u32 = 2;
const RESIZE: u32 = 7;
pub(crate) const JOURNAL: u32 = 8;

/// Type and permissions of a file of the file system's own.
const OWN: u16 = 0o100_600;

/// Where the map of an inode without extents has its doubly indirect block.
const DOUBLE: usize = 4 * 13;

/// What a file system is made with, beside its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// What names are hashed with, once a directory is indexed.
    pub hash_seed: [u8; 16],
    /// Its label, of at most 16 bytes; empty for none.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub time: u64,
}

/// A file system that has its size and its places.
#[derive(Debug)]
pub struct Plan<'a> {
    tree: &'a Tree,
    options: &'a Options,
    shape: Geometry,
    allocator: Allocator,
    /// The inodes' numbers, by node.
    numbers: Vec<u32>,
    /// The nodes in the order of those numbers, from the first that is not reserved.
    order: Vec<usize>,
    places: Vec<Place>,
    /// The journal's blocks; `None` where the file system is too small for one.
    journal: Option<Extents>,
    /// The block that the inode for growing begins with.
    growth: u64,
    seed: u32,
}

/// Where a node is.
#[derive(Clone, Debug, Default)]
struct Place {
    data: Extents,
    attributes: u64,
}

/// The file system does not hold the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

/// Why writing failed.
#[derive(Debug)]
pub enum WriteError {
    /// A file could not be read.
    Reading(NodeId, io::Error),
    /// A file is longer or shorter than was said.
    Changed(NodeId),
    /// The image could not be written.
    Writing(io::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading(_, e) | Self::Writing(e) => e.fmt(f),
            Self::Changed(_) => f.write_str("it changed while it was read"),
        }
    }
}

impl std::error::Error for WriteError {}

impl<'a> Plan<'a> {
    /// Finds the places of a tree in a file system of at most `blocks` blocks.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] where it does not fit.
    pub fn new(tree: &'a Tree, options: &'a Options, blocks: u64) -> Result<Self, TooSmall> {
        let (numbers, order) = number(tree);
        let used = u64::from(FIRST_INODE) - 1 + order.len() as u64;
        // Blocks are numbered by 32 bits.
        let blocks = blocks.min(u64::from(u32::MAX));
        // A fifth more, so that a system that is full of small files can still make some.
        let shape = Geometry::new(blocks, used + used / 5).ok_or(TooSmall)?;
        let mut allocator = Allocator::new(shape);
        let growth = allocator.one().ok_or(TooSmall)?;
        let mut places = vec![Place::default(); tree.nodes.len()];
        // Directories together, so that looking for a name moves little; then what is in them.
        for directories in [true, false] {
            for node in std::iter::once(&0).chain(&order) {
                let file = &tree.nodes[*node];
                if (file.kind == Kind::Directory) == directories {
                    places[*node] = file.place(&mut allocator).ok_or(TooSmall)?;
                }
            }
        }
        let journal = take_journal(&mut allocator, shape.blocks)?;
        Ok(Self {
            tree,
            options,
            shape,
            allocator,
            numbers,
            order,
            places,
            journal,
            growth,
            seed: chain(!0, &options.uuid),
        })
    }

    /// Returns the smallest number of blocks, a multiple of `step`, that holds the tree and leaves `spare` blocks free.
    /// `None` where no number of 32 bits does.
    #[must_use]
    pub fn smallest(tree: &Tree, options: &Options, spare: u64, step: u64) -> Option<u64> {
        let fits = |steps: u64| {
            Plan::new(tree, options, steps * step).is_ok_and(|plan| plan.free_blocks() >= spare)
        };
        let mut high = 1;
        while !fits(high) {
            high *= 2;
            if high * step > u64::from(u32::MAX) {
                return None;
            }
        }
        let mut low = high / 2;
        while low + 1 < high {
            let middle = low.midpoint(high);
            if fits(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(high * step)
    }

    /// Returns how many blocks are free.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.allocator.free()
    }

    /// Returns how many blocks it has: a last group that would be all tables is left off.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.shape.blocks
    }

    /// Writes it into a file, from byte `base` on, where there must be nothing but zeros. `open` gives what is in a file.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not as long as was said, or the image cannot be written.
    pub fn write<R: Read + Seek>(
        &self,
        file: &File,
        base: u64,
        mut open: impl FnMut(NodeId) -> io::Result<R>,
    ) -> Result<(), WriteError> {
        let out = Out { file, base };
        let mut table = Inodes::new(self);
        for node in std::iter::once(0).chain(self.order.iter().copied()) {
            self.write_node(node, &out, &mut table)
                .map_err(WriteError::Writing)?;
        }
        self.write_own(&out, &mut table)
            .map_err(WriteError::Writing)?;
        self.write_groups(&out, &table)
            .map_err(WriteError::Writing)?;
        for node in &self.order {
            if let Kind::File(size) = self.tree.nodes[*node].kind
                && size > 0
            {
                let id = NodeId(*node);
                let mut content = open(id).map_err(|e| WriteError::Reading(id, e))?;
                self.write_content(id, size, &mut content, &out)?;
            }
        }
        Ok(())
    }

    /// Writes a node's inode and all of its blocks that are no file's content.
    fn write_node(&self, n: usize, out: &Out<'_>, table: &mut Inodes<'_>) -> io::Result<()> {
        let (node, place, number) = (&self.tree.nodes[n], &self.places[n], self.numbers[n]);
        let seed = inode::seed(self.seed, number);
        let mut inode = Inode {
            mode: node.mode(),
            uid: node.meta.uid,
            gid: node.meta.gid,
            size: node.size(),
            links: node.links(self.tree),
            blocks: place.data.blocks() + u64::from(place.attributes != 0),
            flags: 0,
            fork: vec![0; FORK],
            attributes: place.attributes,
            mtime: node.meta.mtime,
            made: self.options.time.cast_signed(),
            behind: node.xattrs.inline.clone(),
        };
        match &node.kind {
            Kind::Directory | Kind::File(_) => self.map(&place.data, &mut inode, seed, out)?,
            Kind::Symlink(target) if target.len() < FORK => inode.fork.put(0, target),
            Kind::Symlink(target) => {
                self.map(&place.data, &mut inode, seed, out)?;
                out.write(place.data.list[0].run.begin, target)?;
            }
            Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                device(&mut inode.fork, *major, *minor);
            }
            Kind::Fifo | Kind::Socket => {}
        }
        if node.kind == Kind::Directory {
            let names = self.directory(n, seed, node.size() / BLOCK);
            let mut rest = &names[..];
            for Extent { run, .. } in &place.data.list {
                let (now, later) = rest.split_at(usize_of(run.length * BLOCK));
                out.write(run.begin, now)?;
                rest = later;
            }
        }
        if let Some(block) = &node.xattrs.block {
            let mut block = block.clone();
            xattr::seal(&mut block, self.seed, place.attributes);
            out.write(place.attributes, &block)?;
        }
        table.record(number, &inode, out)
    }

    /// Puts the map of a file's blocks into its inode.
    fn map(&self, data: &Extents, inode: &mut Inode, seed: u32, out: &Out<'_>) -> io::Result<()> {
        let (fork, blocks) = data.encode(seed);
        inode.flags = EXTENTS;
        inode.fork = fork;
        for (at, block) in blocks {
            out.write(at, &block)?;
        }
        Ok(())
    }

    fn directory(&self, n: usize, seed: u32, count: u64) -> Vec<u8> {
        let node = &self.tree.nodes[n];
        let own = [(&b"."[..], n), (b"..", node.parent)];
        let names = node
            .entries
            .iter()
            .map(|(name, below)| (name.as_slice(), *below));
        let entries: Vec<Entry<'_>> = own
            .into_iter()
            .chain(names)
            .map(|(name, below)| Entry {
                inode: self.numbers[below],
                name,
                kind: &self.tree.nodes[below].kind,
            })
            .collect();
        directory::encode(&entries, count, seed)
    }

    /// Writes what belongs to no node: the journal, and the inode that keeps blocks for more descriptors.
    fn write_own(&self, out: &Out<'_>, table: &mut Inodes<'_>) -> io::Result<()> {
        let own = Inode {
            mode: OWN,
            links: 1,
            mtime: self.options.time.cast_signed(),
            made: self.options.time.cast_signed(),
            fork: vec![0; FORK],
            ..Inode::default()
        };
        for number in (1..FIRST_INODE).filter(|n| ![ROOT, RESIZE, JOURNAL].contains(n)) {
            table.reserve(number);
        }
        if let Some(journal) = &self.journal {
            let count = journal.data();
            let mut inode = Inode {
                size: count * BLOCK,
                blocks: journal.blocks(),
                ..own.clone()
            };
            self.map(journal, &mut inode, inode::seed(self.seed, JOURNAL), out)?;
            out.write(journal.list[0].run.begin, &superblock::journal(count))?;
            table.record(JOURNAL, &inode, out)?;
        } else {
            table.reserve(JOURNAL);
        }
        self.write_growth(own, out, table)
    }

    /// The inode for growing has the blocks behind each copy of the descriptors. Its doubly indirect block names those of
    /// the first copy, and each of them those of the others at its place (kernel: `fs/ext4/resize.c`, `reserve_backup_gdb`).
    fn write_growth(&self, own: Inode, out: &Out<'_>, table: &mut Inodes<'_>) -> io::Result<()> {
        let Geometry {
            descriptor_blocks,
            reserved,
            ..
        } = self.shape;
        let mut named = vec![0; usize_of(BLOCK)];
        for n in 0..reserved {
            let at = 1 + descriptor_blocks + n;
            named.le32(usize_of((descriptor_blocks + n) % ADDRESSES * 4), low32(at));
            let mut others = vec![0; usize_of(BLOCK)];
            for (i, group) in self.shape.backups().enumerate() {
                others.le32(4 * i, low32(self.shape.begin(group) + at));
            }
            out.write(at, &others)?;
        }
        out.write(self.growth, &named)?;
        let copies = 1 + self.shape.backups().count() as u64;
        let mut inode = Inode {
            size: (12 + ADDRESSES + ADDRESSES * ADDRESSES) * BLOCK,
            blocks: 1 + reserved * copies,
            ..own
        };
        inode.fork.le32(DOUBLE, low32(self.growth));
        table.record(RESIZE, &inode, out)
    }

    /// Writes bitmaps, descriptors and superblocks.
    fn write_groups(&self, out: &Out<'_>, table: &Inodes<'_>) -> io::Result<()> {
        let shape = &self.shape;
        let mut descriptors = Vec::with_capacity(usize_of(shape.groups * DESCRIPTOR));
        let mut totals = Totals {
            free_blocks: 0,
            free_inodes: 0,
            journal: self.journal.as_ref().map(|j| {
                (
                    j.encode(inode::seed(self.seed, JOURNAL)).0,
                    j.data() * BLOCK,
                )
            }),
        };
        for number in 0..shape.groups {
            let count = shape.end(number) - shape.begin(number);
            let before = shape.data(number).start - shape.begin(number);
            let used = before + self.allocator.used(number);
            let inodes = table.used(number);
            let bitmaps = [bitmap(used, count), bitmap(inodes, shape.inodes_per_group)];
            let mut sums = [0; 2];
            for (n, (bits, of)) in bitmaps
                .iter()
                .zip([PER_GROUP, shape.inodes_per_group])
                .enumerate()
            {
                sums[n] = chain(self.seed, &bits[..usize_of(of / 8)]);
                out.write(shape.bitmaps(number) + n as u64, bits)?;
            }
            let group = Group {
                free_blocks: count - used,
                free_inodes: shape.inodes_per_group - inodes,
                directories: table.directories[usize_of(number)],
                unused: shape.inodes_per_group - inodes,
                bitmaps: sums,
            };
            totals.free_blocks += group.free_blocks;
            totals.free_inodes += group.free_inodes;
            descriptors.extend(group.encode(shape, number, self.seed));
        }
        for number in std::iter::once(0).chain(shape.backups()) {
            let superblock = superblock::encode(shape, self.options, &totals, number);
            let begin = shape.begin(number);
            // The first one lies behind what a boot loader may have there.
            let at = if number == 0 { 1024 } else { 0 };
            out.write_at(begin * BLOCK + at, &superblock)?;
            out.write(begin + 1, &descriptors)?;
        }
        Ok(())
    }

    fn write_content(
        &self,
        id: NodeId,
        size: u64,
        content: &mut (impl Read + Seek),
        out: &Out<'_>,
    ) -> Result<(), WriteError> {
        let mut buffer = vec![0; 1 << 20];
        let reading = |e| WriteError::Reading(id, e);
        // How far the content is read.
        let mut read = 0;
        for Extent { first, run } in &self.places[id.0].data.list {
            let begin = first * BLOCK;
            if begin != read {
                content.seek(SeekFrom::Start(begin)).map_err(reading)?;
            }
            read = size.min(begin + run.length * BLOCK);
            let (mut at, mut room) = (run.begin * BLOCK, read.saturating_sub(begin));
            while room > 0 {
                let want = usize_of(room).min(buffer.len());
                let piece = &mut buffer[..want];
                content.read_exact(piece).map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => WriteError::Changed(id),
                    _ => reading(e),
                })?;
                out.write_at(at, piece).map_err(WriteError::Writing)?;
                at += want as u64;
                room -= want as u64;
            }
        }
        if read != size {
            content.seek(SeekFrom::Start(size)).map_err(reading)?;
        }
        // One byte more would be another file than the one that was measured.
        match content.read(&mut buffer[..1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(WriteError::Changed(id)),
            Err(e) => Err(reading(e)),
        }
    }
}

impl Node {
    /// Takes the blocks that a node needs.
    fn place(&self, allocator: &mut Allocator) -> Option<Place> {
        let whole = match &self.kind {
            Kind::Symlink(target) if target.len() < FORK => 0,
            _ => self.size().div_ceil(BLOCK),
        };
        let data = match &self.pieces {
            Some(pieces) => Extents::take(allocator, pieces)?,
            None => Extents::take(allocator, &[(0, whole)])?,
        };
        let attributes = match &self.xattrs.block {
            Some(_) => allocator.one()?,
            None => 0,
        };
        Some(Place { data, attributes })
    }

    /// Returns what stat(2) says of its size.
    fn size(&self) -> u64 {
        match &self.kind {
            Kind::Directory => directory::blocks(self.entries.keys().map(Vec::as_slice)) * BLOCK,
            Kind::File(size) => *size,
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    fn mode(&self) -> u16 {
        let kind = match &self.kind {
            Kind::Fifo => 0o01,
            Kind::CharacterDevice(..) => 0o02,
            Kind::Directory => 0o04,
            Kind::BlockDevice(..) => 0o06,
            Kind::File(_) => 0o10,
            Kind::Symlink(_) => 0o12,
            Kind::Socket => 0o14,
        };
        kind << 12 | self.meta.permissions & 0o7777
    }
}

const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// The image, from where the file system begins.
struct Out<'a> {
    file: &'a File,
    base: u64,
}

impl Out<'_> {
    /// Writes from a block on.
    fn write(&self, block: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(block * BLOCK, bytes)
    }

    /// Writes from a byte on, which must be a block's first for zeros to be left out well.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let is_zero = |block: &[u8]| *block == ZEROS[..block.len()];
        let mut from = 0;
        // Blocks that have something in them are written together.
        for (n, block) in bytes.chunks(usize_of(BLOCK)).enumerate() {
            let begin = n * usize_of(BLOCK);
            if is_zero(block) {
                self.piece(at, &bytes[..begin], from)?;
                from = begin + block.len();
            }
        }
        self.piece(at, bytes, from)
    }

    fn piece(&self, at: u64, bytes: &[u8], from: usize) -> io::Result<()> {
        match &bytes[from..] {
            [] => Ok(()),
            piece => self.file.write_all_at(piece, self.base + at + from as u64),
        }
    }
}

/// The inodes as they are written.
struct Inodes<'a> {
    plan: &'a Plan<'a>,
    /// Directories in each group.
    directories: Vec<u64>,
    /// The highest number so far: all before it are in use.
    highest: u32,
}

impl<'a> Inodes<'a> {
    fn new(plan: &'a Plan<'a>) -> Self {
        Self {
            directories: vec![0; usize_of(plan.shape.groups)],
            highest: 0,
            plan,
        }
    }

    fn record(&mut self, number: u32, inode: &Inode, out: &Out<'_>) -> io::Result<()> {
        let (group, index) = self.plan.shape.place(number);
        if inode.mode >> 12 == 0o04 {
            self.directories[usize_of(group)] += 1;
        }
        self.reserve(number);
        let at = self.plan.shape.inodes(group).start * BLOCK + index * INODE;
        out.file
            .write_all_at(&inode.encode(number, self.plan.seed), out.base + at)
    }

    /// An inode that is in use and has nothing in it.
    fn reserve(&mut self, number: u32) {
        self.highest = self.highest.max(number);
    }

    /// Returns how many inodes of a group are in use, which are its first ones.
    fn used(&self, group: u64) -> u64 {
        let per_group = self.plan.shape.inodes_per_group;
        u64::from(self.highest)
            .saturating_sub(group * per_group)
            .min(per_group)
    }
}

/// Numbers the files in the order of their paths: names are sorted, and what is in a directory comes behind it.
fn number(tree: &Tree) -> (Vec<u32>, Vec<usize>) {
    let mut numbers = vec![0; tree.nodes.len()];
    numbers[0] = ROOT;
    let mut order = Vec::with_capacity(tree.nodes.len());
    // lost+found has the first number that is free.
    let lost = tree.nodes[0].entries.get(&b"lost+found"[..]);
    let mut stack: Vec<usize> = tree.nodes[0].entries.values().rev().copied().collect();
    stack.extend(lost);
    while let Some(node) = stack.pop() {
        if numbers[node] != 0 {
            continue;
        }
        numbers[node] = FIRST_INODE + u32::try_from(order.len()).unwrap_or(u32::MAX - FIRST_INODE);
        order.push(node);
        stack.extend(tree.nodes[node].entries.values().rev());
    }
    (numbers, order)
}

/// Takes the journal's blocks: as many as the size is for, or, where only they do not fit, fewer, down to the fewest that the
/// kernel takes. So what fits into a size fits into every larger one. `None` where the file system is too small for any.
fn take_journal(allocator: &mut Allocator, blocks: u64) -> Result<Option<Extents>, TooSmall> {
    let mut count = journal_blocks(blocks);
    if count == 0 {
        return Ok(None);
    }
    while count >= SMALLEST_JOURNAL {
        let mut trial = allocator.clone();
        if let Some(journal) = Extents::take(&mut trial, &[(0, count)]) {
            *allocator = trial;
            return Ok(Some(journal));
        }
        count /= 2;
    }
    Err(TooSmall)
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
fn device(fork: &mut [u8], major: u32, minor: u32) {
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
