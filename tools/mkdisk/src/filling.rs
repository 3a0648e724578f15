//! What goes into one partition, and how much room it needs.

use crate::arrange::Need;
use crate::content::{Item, What, show, split_path};
use crate::fat;
use crate::plan::Headroom;
use ext4::NodeId;
use image::layout::{ALIGNMENT, Source};
use image::sparse::Piece;
use stage::{Code, Failure};
use std::collections::HashMap;

/// Blocks that ext4 is measured by.
const STEP: u64 = ALIGNMENT / ext4::BLOCK;

/// What a partition gets.
pub(crate) enum Filling {
    Nothing,
    /// The bytes of a file, and how many those are.
    Bytes(Source, u64),
    /// A FAT file system: where it is mounted, and what is in it.
    Fat(String, Vec<Item>),
    Ext4(Ext4),
}

/// An ext4 file system, all but its size.
pub(crate) struct Ext4 {
    /// Where it is mounted.
    pub(crate) at: String,
    pub(crate) tree: ext4::Tree,
    pub(crate) options: ext4::Options,
    pub(crate) items: Vec<Item>,
    /// Which item a node is.
    pub(crate) item_of: HashMap<NodeId, usize>,
    /// How many bytes all files have, without their holes.
    content: u64,
}

impl Ext4 {
    /// Makes the tree of a file system that is mounted at `at`. The top comes first in `items`, and each directory before what
    /// is in it. `data` gives the pieces of a file that has holes.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with the path of what ext4 has no place for; those of `data`.
    pub(crate) fn new(
        at: String,
        options: ext4::Options,
        items: Vec<Item>,
        data: impl Fn(&Item) -> Result<Option<Vec<Piece>>, Failure>,
    ) -> Result<Self, Failure> {
        let refused = |item: &Item, why: &dyn std::fmt::Display| {
            let path = show(&at, &item.path);
            let why = format!("{why}, which it has no place for");
            Failure::new(
                Code::Failed,
                format!("putting {path} into an ext4 file system: {why}"),
            )
        };
        let top = items.first().map(meta).unwrap_or_default();
        let mut tree = ext4::Tree::new(top).map_err(|e| refused(&items[0], &e))?;
        let mut directories: HashMap<&[u8], NodeId> = HashMap::from([(&b""[..], tree.root())]);
        let mut nodes = vec![tree.root()];
        let (mut item_of, mut content) = (HashMap::new(), 0);
        for (n, item) in items.iter().enumerate().skip(1) {
            let (above, name) = split_path(&item.path);
            let above = directories.get(above);
            let above = *above.ok_or_else(|| refused(item, &"a file without its directory"))?;
            let added = match &item.what {
                What::Link(first) => tree
                    .link(above, name, nodes[*first])
                    .map(|()| nodes[*first]),
                what => tree.add(above, name, meta(item), kind(what)),
            };
            let node = added.map_err(|e| refused(item, &e))?;
            item_of.entry(node).or_insert(n);
            content += match data(item)? {
                Some(pieces) => {
                    tree.set_data(node, &pieces);
                    pieces.iter().map(|(_, length)| length).sum()
                }
                None => size(item),
            };
            if item.what == What::Directory {
                directories.insert(&item.path, node);
            }
            nodes.push(node);
        }
        drop(directories);
        Ok(Self {
            at,
            tree,
            options,
            items,
            item_of,
            content,
        })
    }
}

impl Filling {
    /// Returns how many bytes all files have.
    pub(crate) fn content(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(_, size) => *size,
            Self::Fat(_, items) => items.iter().map(size).sum(),
            Self::Ext4(ext4) => ext4.content,
        }
    }

    /// Returns how large the partition called `name` must be for it.
    pub(crate) fn need(&self, headroom: Headroom, name: &str) -> Result<Need, Failure> {
        let spare = headroom.of(self.content());
        let step = ALIGNMENT;
        Ok(match self {
            Self::Nothing => Need::default(),
            Self::Bytes(_, size) => Need {
                least: *size,
                roomy: *size,
            },
            Self::Fat(_, items) => Need {
                least: fat::smallest(items, 0, step),
                roomy: fat::smallest(items, spare, step),
            },
            Self::Ext4(ext4) => {
                let of = |spare: u64| {
                    ext4::Plan::smallest(
                        &ext4.tree,
                        &ext4.options,
                        spare.div_ceil(ext4::BLOCK),
                        STEP,
                    )
                    .map(|blocks| blocks * ext4::BLOCK)
                    .ok_or_else(|| {
                        Failure::new(
                            Code::Failed,
                            format!("measuring partition '{name}': it would be larger than 16 TiB"),
                        )
                    })
                };
                Need {
                    least: of(0)?,
                    roomy: of(spare)?,
                }
            }
        })
    }

    /// Returns whether a partition of that size holds it.
    pub(crate) fn fits(&self, size: u64) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bytes(_, length) => *length <= size,
            Self::Fat(_, items) => fat::cluster_for(items, size).is_some(),
            Self::Ext4(ext4) => {
                ext4::Plan::new(&ext4.tree, &ext4.options, size / ext4::BLOCK).is_ok()
            }
        }
    }
}

fn size(item: &Item) -> u64 {
    match item.what {
        What::File(size, _) => size,
        _ => 0,
    }
}

fn meta(item: &Item) -> ext4::Meta {
    ext4::Meta {
        permissions: u16::try_from(item.mode & 0o7777).unwrap_or_default(),
        uid: item.uid,
        gid: item.gid,
        mtime: item.mtime,
        xattrs: item.xattrs.clone(),
    }
}

fn kind(what: &What) -> ext4::Kind {
    match what {
        What::Directory => ext4::Kind::Directory,
        What::File(size, _) => ext4::Kind::File(*size),
        What::Symlink(target) => ext4::Kind::Symlink(target.clone()),
        What::Character(major, minor) => ext4::Kind::CharacterDevice(*major, *minor),
        What::Block(major, minor) => ext4::Kind::BlockDevice(*major, *minor),
        // A link is a name of another node.
        What::Fifo | What::Link(_) => ext4::Kind::Fifo,
    }
}
