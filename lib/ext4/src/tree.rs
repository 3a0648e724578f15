//! What goes into the file system: names, owners, modes, and how long each file is; not what is in it.

use crate::{BLOCK, xattr};
use std::collections::BTreeMap;
use std::fmt;

/// A file of a tree, by number: the root is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

/// What every file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions with set-uid, set-gid and sticky bit: the low twelve bits of `st_mode`.
    pub permissions: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last modified, in seconds since 1970. Access and change have the same time.
    pub mtime: i64,
    /// Extended attributes, by their names with namespaces, as llistxattr(2) has them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What kind of file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file of that many bytes.
    File(u64),
    /// A symbolic link to that.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    CharacterDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
}

/// Why something cannot be in an ext4 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
    pub(crate) links: u32,
    /// The attributes as they are on the disk.
    pub(crate) xattrs: xattr::Encoded,
    /// Of a directory: what is in it, by name.
    pub(crate) entries: BTreeMap<Vec<u8>, usize>,
    /// Of a directory: the one that it is in.
    pub(crate) parent: usize,
    /// Of a file with holes: the blocks that have data, each the first one and how many.
    pub(crate) pieces: Option<Vec<(u64, u64)>>,
}

/// A tree of files.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
}

/// The largest file, in bytes: its blocks are numbered by 32 bits.
const LARGEST: u64 = (1 << 44) - BLOCK;

/// More names than this no file can have (the kernel's `EXT4_LINK_MAX`).
const LINKS: u32 = 65000;

impl Tree {
    /// Returns a tree with nothing but its root directory, and `lost+found` in that.
    ///
    /// # Errors
    ///
    /// When the root's attributes have no place.
    pub fn new(root: Meta) -> Result<Self, Unfit> {
        let lost = Meta {
            permissions: 0o700,
            mtime: root.mtime,
            ..Meta::default()
        };
        let mut tree = Self { nodes: Vec::new() };
        tree.push(root, Kind::Directory, 0)?;
        tree.add(NodeId(0), b"lost+found", lost, Kind::Directory)?;
        Ok(tree)
    }

    /// Returns the root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Adds a file to a directory.
    ///
    /// # Errors
    ///
    /// When ext4 has no place for it: a name, target or attribute that is too long, or a name that is there already.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: Meta,
        kind: Kind,
    ) -> Result<NodeId, Unfit> {
        self.check_name(parent, name)?;
        let node = self.push(meta, kind, parent.0)?;
        self.nodes[parent.0].entries.insert(name.to_owned(), node.0);
        Ok(node)
    }

    /// Gives a file that is there another name.
    ///
    /// # Errors
    ///
    /// When it is a directory, has too many names, or that name is there already.
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Unfit> {
        self.check_name(parent, name)?;
        let file = &mut self.nodes[node.0];
        if file.kind == Kind::Directory {
            return Err(Unfit("a directory has one name only".to_owned()));
        }
        if file.links == LINKS {
            return Err(Unfit(format!("more than {LINKS} names for one file")));
        }
        file.links += 1;
        self.nodes[parent.0].entries.insert(name.to_owned(), node.0);
        Ok(())
    }

    /// Makes holes of all but these pieces of a file, which are in order: each its offset and length, in bytes.
    pub fn set_data(&mut self, file: NodeId, pieces: &[(u64, u64)]) {
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for (at, length) in pieces {
            let (first, end) = (at / BLOCK, (at + length).div_ceil(BLOCK));
            match blocks.last_mut() {
                // Two that meet, or are in one block.
                Some((begin, count)) if first <= *begin + *count => *count = end - *begin,
                _ => blocks.push((first, end - first)),
            }
        }
        self.nodes[file.0].pieces = Some(blocks);
    }

    fn check_name(&self, parent: NodeId, name: &[u8]) -> Result<(), Unfit> {
        let what = if name.is_empty() || name == b"." || name == b".." {
            "no name of a file"
        } else if name.iter().any(|b| matches!(b, b'/' | 0)) {
            "a name with '/' or NUL in it"
        } else if name.len() > 255 {
            "a name of more than 255 bytes"
        } else if self.nodes[parent.0].kind != Kind::Directory {
            "a file in what is no directory"
        } else if self.nodes[parent.0].entries.contains_key(name) {
            "the same name twice"
        } else {
            return Ok(());
        };
        Err(Unfit(what.to_owned()))
    }

    fn push(&mut self, meta: Meta, kind: Kind, parent: usize) -> Result<NodeId, Unfit> {
        match &kind {
            // With its NUL it must fit into a block.
            Kind::Symlink(target) if target.is_empty() || target.len() as u64 >= BLOCK => {
                return Err(Unfit(
                    "a link to nothing, or to more than 4095 bytes".to_owned(),
                ));
            }
            Kind::File(size) if *size > LARGEST => {
                return Err(Unfit("a file of 16 TiB or more".to_owned()));
            }
            Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor)
                if *major >= 1 << 12 || *minor >= 1 << 20 =>
            {
                return Err(Unfit(
                    "a device number of more than 12 and 20 bits".to_owned(),
                ));
            }
            _ => {}
        }
        // Seconds of 34 bits, counted from 1901 (kernel: ext4/inodes.rst, "Inode Timestamps").
        if !(-(1 << 31)..(1 << 34) - (1 << 31)).contains(&meta.mtime) {
            return Err(Unfit("a date before 1901 or after 2446".to_owned()));
        }
        self.nodes.push(Node {
            xattrs: xattr::encode(&meta.xattrs)?,
            meta,
            kind,
            links: 1,
            entries: BTreeMap::new(),
            parent,
            pieces: None,
        });
        Ok(NodeId(self.nodes.len() - 1))
    }
}

impl Node {
    /// Returns how many links the inode has: a directory's are its name, its `.` and the `..` in those below. More than
    /// 65000 are written as 1, "unknown" (`dir_nlink`).
    pub(crate) fn links(&self, tree: &Tree) -> u16 {
        let mut links = u64::from(self.links);
        if self.kind == Kind::Directory {
            let below = self.entries.values();
            let directories = below.filter(|n| tree.nodes[**n].kind == Kind::Directory);
            links = 2 + directories.count() as u64;
        }
        u16::try_from(links)
            .ok()
            .filter(|links| u32::from(*links) <= LINKS || self.kind != Kind::Directory)
            .unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ext4_has_no_place_for_is_refused() {
        let mut tree = Tree::new(Meta::default()).unwrap();
        let root = tree.root();
        let mut add = |name: &[u8], kind| tree.add(root, name, Meta::default(), kind);
        let file = add(b"a", Kind::File(1)).unwrap();
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"a\0b",
            &[b'x'; 256],
            b"a",
            b"lost+found",
        ] {
            add(name, Kind::Fifo).unwrap_err();
        }
        add(&[b'x'; 255], Kind::Fifo).unwrap();
        add(b"l", Kind::Symlink(vec![b'x'; 4095])).unwrap();
        for kind in [
            Kind::Symlink(Vec::new()),
            Kind::Symlink(vec![b'x'; 4096]),
            Kind::File(u64::MAX),
            Kind::CharacterDevice(4096, 0),
            Kind::BlockDevice(0, 1 << 20),
        ] {
            add(b"m", kind).unwrap_err();
        }
        tree.add(file, b"x", Meta::default(), Kind::Fifo)
            .unwrap_err();
        tree.link(root, b"b", file).unwrap();
        tree.link(root, b"b", file).unwrap_err();
        tree.link(root, b"r", root).unwrap_err();
        assert_eq!(tree.nodes[file.0].links(&tree), 2);
        assert_eq!(tree.nodes[0].links(&tree), 3);
        for mtime in [-(1 << 31) - 1, 1 << 34, i64::MIN, i64::MAX] {
            let meta = Meta {
                mtime,
                ..Meta::default()
            };
            tree.add(root, b"t", meta, Kind::Fifo).unwrap_err();
        }
    }

    #[test]
    fn a_directory_with_too_many_links_says_that_it_does_not_know() {
        let mut tree = Tree::new(Meta::default()).unwrap();
        for n in 0..65000 {
            let name = n.to_string();
            tree.add(
                tree.root(),
                name.as_bytes(),
                Meta::default(),
                Kind::Directory,
            )
            .unwrap();
        }
        assert_eq!(tree.nodes[0].links(&tree), 1);
    }
}
