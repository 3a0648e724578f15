//! The files of the file system: what each has on the disk, before any block has its place.

use super::geometry::{BLOCK, FIRST_INODE};
use super::{directory, inode, xattr};
use crate::filesystem::Options;
use crate::node::{Content, Kind, Node};
use crate::tree::Tree;
use stage::{Code, Failure};
use std::collections::{BTreeMap, HashMap};

/// The inode of the top directory.
const ROOT: u32 = 2;

/// The largest file system and the largest file, in bytes: blocks are numbered by 32 bits.
pub(super) const LARGEST: u64 = (1 << 44) - BLOCK;

/// The most names of a file (the kernel's `EXT4_LINK_MAX`).
pub(super) const LINKS: u32 = 65000;

/// An ext4 file system, all but its size.
#[derive(Debug)]
pub(crate) struct Ext4 {
    pub(super) options: Options,
    pub(super) nodes: Vec<Node>,
    /// What each node has on the disk. Hard links have nothing.
    pub(super) files: Vec<File>,
    /// The nodes in the order of their inodes, from the first that is not reserved.
    pub(super) order: Vec<usize>,
    /// How many bytes all files have, without their holes.
    pub(super) content: u64,
}

/// What a node has on the disk.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The number of its inode.
    pub(super) number: u32,
    /// How many links the inode has: a directory's are its name, its `.` and the `..` in those below.
    pub(super) links: u32,
    /// What stat(2) says.
    pub(super) size: u64,
    pub(super) xattrs: xattr::Encoded,
    /// Of a directory: what is in it, by name.
    pub(super) names: BTreeMap<Vec<u8>, usize>,
    /// Of a directory: the one that it is in.
    pub(super) parent: usize,
    /// The blocks that have data: the first one and how many.
    pub(super) pieces: Vec<(u64, u64)>,
}

impl Ext4 {
    /// Makes a file system of nodes: the top first, and each directory before what is in it. `lost+found` is added.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with the path of what ext4 cannot hold; when the holes of a file cannot be read.
    pub(crate) fn new(mut nodes: Vec<Node>, options: Options, tree: &Tree) -> Result<Self, Failure> {
        let time = nodes.first().map_or(0, |top| top.mtime);
        nodes.push(Node { mode: 0o700, mtime: time, ..Node::new(b"lost+found", Kind::Directory) });
        let refused = |node: &Node, why: &str| {
            let path = options.show(&node.path);
            Failure::new(Code::Failed, format!("adding {path} to an ext4 file system: {why}"))
        };
        let mut files: Vec<File> = Vec::with_capacity(nodes.len());
        let mut directories: HashMap<&[u8], usize> = HashMap::from([(&b""[..], 0)]);
        let mut content = 0;
        for (n, node) in nodes.iter().enumerate() {
            let mut file = File::of(node).map_err(|why| refused(node, &why))?;
            content += file.set_blocks(node, tree)?;
            let (above, name) = node.split_path();
            file.parent = *directories.get(above).ok_or_else(|| refused(node, "its directory is missing"))?;
            let parent = file.parent;
            files.push(file);
            if n == 0 {
                continue;
            }
            let mut target = n;
            match node.kind {
                Kind::HardLink(first) => {
                    target = first;
                    files[first].links += 1;
                    if files[first].links > LINKS {
                        return Err(refused(node, "a file cannot have more than 65000 names"));
                    }
                }
                Kind::Directory => {
                    directories.insert(&node.path, n);
                    files[parent].links += 1;
                }
                _ => {}
            }
            if files[parent].names.insert(name.to_owned(), target).is_some() {
                return Err(refused(node, "the name is used twice"));
            }
        }
        for n in directories.into_values() {
            let blocks = directory::blocks(files[n].names.keys().map(Vec::as_slice));
            files[n].size = blocks * BLOCK;
            files[n].pieces = vec![(0, blocks)];
        }
        let order = number(&mut files);
        Ok(Self { options, nodes, files, order, content })
    }

    /// Returns the nodes that have an inode, by their numbers.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, &Node, &File)> {
        let order = std::iter::once(&0).chain(&self.order);
        order.map(|n| (*n, &self.nodes[*n], &self.files[*n]))
    }
}

impl File {
    /// Returns what a node has on the disk, without its blocks, or why ext4 cannot hold it.
    fn of(node: &Node) -> Result<Self, String> {
        let why = match &node.kind {
            // With its NUL it must fit into a block.
            Kind::Symlink(target) if target.is_empty() || target.len() as u64 >= BLOCK => {
                "the link's target is empty or longer than 4095 bytes"
            }
            Kind::File(content) if content.size() > LARGEST => "a file cannot have 16 TiB or more",
            Kind::Character(major, minor) | Kind::Block(major, minor) if *major >= 1 << 12 || *minor >= 1 << 20 => {
                "a device number has at most 12 and 20 bits"
            }
            _ if node.split_path().1.len() > 255 => "a name cannot have more than 255 bytes",
            // Seconds of 34 bits, counted from 1901 (kernel: ext4/inodes.rst, "Inode Timestamps").
            _ if !(-(1 << 31)..(1 << 34) - (1 << 31)).contains(&node.mtime) => {
                "a date cannot be before 1901 or after 2446"
            }
            _ => "",
        };
        if !why.is_empty() {
            return Err(why.to_owned());
        }
        Ok(Self {
            links: if node.kind == Kind::Directory { 2 } else { 1 },
            size: match &node.kind {
                Kind::Symlink(target) => target.len() as u64,
                _ => node.size(),
            },
            xattrs: xattr::encode(&node.xattrs)?,
            ..Self::default()
        })
    }

    /// Finds the blocks of a node that is not a directory. Returns how many bytes of content they have.
    fn set_blocks(&mut self, node: &Node, tree: &Tree) -> Result<u64, Failure> {
        let data = match &node.kind {
            Kind::File(Content::Root(file)) if file.sparse => tree.open_content(node)?.data()?,
            Kind::Symlink(target) if target.len() < inode::FORK => return Ok(0),
            _ => None,
        };
        let mut content = 0;
        for (at, length) in data.unwrap_or_else(|| vec![(0, self.size)]) {
            content += length;
            let (first, end) = (at / BLOCK, (at + length).div_ceil(BLOCK));
            match self.pieces.last_mut() {
                // Two that meet, or are in one block.
                Some((begin, count)) if first <= *begin + *count => *count = end - *begin,
                _ => self.pieces.push((first, end - first)),
            }
        }
        Ok(content.min(node.size()))
    }
}

/// Numbers the files in the order of their paths: names are sorted, and what is in a directory comes behind it. `lost+found` has
/// the first number. Returns the nodes in that order, without the top.
fn number(files: &mut [File]) -> Vec<usize> {
    let lost = files.len() - 1;
    files[0].number = ROOT;
    let mut order = Vec::with_capacity(files.len());
    let mut stack: Vec<usize> = files[0].names.values().rev().copied().collect();
    stack.push(lost);
    while let Some(n) = stack.pop() {
        if files[n].number == 0 {
            files[n].number = FIRST_INODE + u32::try_from(order.len()).unwrap_or(u32::MAX - FIRST_INODE);
            order.push(n);
            stack.extend(files[n].names.values().rev());
        }
    }
    order
}
