//! The types of file systems that can be made. Another one needs a variant, its rows here, and a [`FileSystem`].

use crate::ext4::Ext4;
use crate::fat::Fat;
use crate::filesystem::{FileSystem, Options};
use crate::host::{HostKind, ReadOnly, Writable};
use crate::ids::{self, Ids};
use crate::node::Node;
use crate::swap::Swap;
use crate::tree::Tree;
use serde::{Deserialize, Serialize};
use stage::{Code, Failure, Progress};
use std::fs::File;

/// A type of file system.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystemKind {
    /// ext4.
    Ext4,
    /// FAT32: what firmware reads.
    Vfat,
    /// Swap space, which has no files.
    Swap,
    /// btrfs, by the host's mkfs.btrfs(8).
    Btrfs,
    /// EROFS, which is read-only, by the host's mkfs.erofs(1).
    Erofs,
    /// squashfs, which is read-only and has no UUID, by the host's tar2sqfs(1).
    Squashfs,
    /// XFS, by the host's mkfs.xfs(8).
    Xfs,
}

impl FileSystemKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ext4, Self::Vfat, Self::Swap, Self::Btrfs, Self::Erofs, Self::Squashfs, Self::Xfs];

    /// Makes a file system of this type of nodes: the top first, and each directory before what is in it. One that a program of
    /// the host makes needs `scratch`, an empty file, for it.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with the path of what it cannot hold; when the tree cannot be read; [`Code::ChildFailed`] where the
    /// program fails.
    pub fn make(
        self,
        nodes: Vec<Node>,
        options: Options,
        tree: &Tree,
        scratch: Option<File>,
        progress: &Progress,
    ) -> Result<Box<dyn FileSystem>, Failure> {
        let scratch = || scratch.ok_or_else(|| Failure::new(Code::Os, "making a file system: there is no file for it"));
        Ok(match (self, self.host()) {
            (Self::Ext4, _) => Box::new(Ext4::new(nodes, options, tree)?),
            (Self::Swap, _) => Box::new(Swap::new(&options)?),
            (_, Some(kind)) if self.is_read_only() => {
                Box::new(ReadOnly::new(kind, &nodes, &options, tree, scratch()?, progress)?)
            }
            (_, Some(kind)) => Box::new(Writable::new(kind, &nodes, options, tree, scratch()?, progress)?),
            (_, None) => Box::new(Fat::new(nodes, options)?),
        })
    }

    /// Returns how a program of the host makes it; `None` where we do.
    #[must_use]
    pub fn host(self) -> Option<HostKind> {
        match self {
            Self::Ext4 | Self::Vfat | Self::Swap => None,
            Self::Btrfs => Some(HostKind::Btrfs),
            Self::Erofs => Some(HostKind::Erofs),
            Self::Squashfs => Some(HostKind::Squashfs),
            Self::Xfs => Some(HostKind::Xfs),
        }
    }

    /// Returns whether nothing can be written to it once it is made.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        matches!(self, Self::Erofs | Self::Squashfs)
    }

    /// Returns its name, as mount(8) has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
            Self::Xfs => "xfs",
        }
    }

    /// Returns a UUID for a file system of that name, as blkid(8) shows it; empty where it has none.
    #[must_use]
    pub fn new_uuid(self, ids: &Ids, name: &str) -> String {
        match self {
            Self::Ext4 | Self::Btrfs | Self::Erofs | Self::Swap | Self::Xfs => ids.uuid(name),
            Self::Vfat => ids.fat_serial(name),
            Self::Squashfs => String::new(),
        }
    }

    /// Checks a UUID that someone else wrote down, and returns it as we write it.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with it.
    pub fn check_id(self, text: &str) -> Result<String, String> {
        match self {
            Self::Ext4 | Self::Btrfs | Self::Erofs | Self::Swap | Self::Xfs => ids::parse_uuid(text),
            Self::Squashfs if text.is_empty() => Ok(String::new()),
            Self::Squashfs => Err(format!("'{}': squashfs has no UUID", text.escape_default())),
            Self::Vfat => {
                let upper = text.to_ascii_uppercase();
                let hex = |t: &str| t.len() == 4 && t.bytes().all(|b| b.is_ascii_hexdigit());
                match upper.split_once('-') {
                    Some((a, b)) if hex(a) && hex(b) => Ok(upper),
                    _ => Err(format!("'{}' is not a FAT volume id such as 1A2B-3C4D", text.escape_default())),
                }
            }
        }
    }

    /// Checks a label.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with it.
    pub fn check_label(self, text: &str) -> Result<(), String> {
        let (longest, fine, what): (usize, fn(char) -> bool, _) = match self {
            Self::Ext4 | Self::Swap => (16, |c| c.is_ascii_graphic(), "16 letters, digits and punctuation characters"),
            Self::Vfat => (
                11,
                |c| c.is_ascii_uppercase() || c.is_ascii_digit() || "_-".contains(c),
                "11 capital letters, digits, '_' and '-'",
            ),
            Self::Btrfs => (255, |c| c.is_ascii_graphic(), "255 letters, digits and punctuation characters"),
            Self::Xfs => (12, |c| c.is_ascii_graphic(), "12 letters, digits and punctuation characters"),
            Self::Erofs | Self::Squashfs => return Err(format!("{} has no label", self.name())),
        };
        if (1..=longest).contains(&text.len()) && text.chars().all(fine) {
            return Ok(());
        }
        Err(format!("a label of {} has at most {what}", self.name()))
    }

    /// Returns whether systemd-growfs(8) can make it larger while it is mounted.
    #[must_use]
    pub fn grows(self) -> bool {
        matches!(self, Self::Ext4 | Self::Btrfs | Self::Xfs)
    }

    /// Returns whether it holds owners, modes and links, and so can be the root's.
    #[must_use]
    pub fn holds_root(self) -> bool {
        self != Self::Vfat
    }
}
