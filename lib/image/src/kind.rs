//! The types of file systems that can be made. Another one needs a variant, its rows here, and a [`FileSystem`].

use crate::ext4::Ext4;
use crate::fat::Fat;
use crate::filesystem::{FileSystem, Options};
use crate::ids::{self, Ids};
use crate::node::Node;
use crate::swap::Swap;
use crate::tree::Tree;
use serde::{Deserialize, Serialize};
use stage::Failure;

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
}

impl FileSystemKind {
    /// Makes a file system of this type of nodes: the top first, and each directory before what is in it.
    ///
    /// # Errors
    ///
    /// [`stage::Code::Failed`] with the path of what it cannot hold; when the tree cannot be read.
    pub fn make(self, nodes: Vec<Node>, options: Options, tree: &Tree) -> Result<Box<dyn FileSystem>, Failure> {
        Ok(match self {
            Self::Ext4 => Box::new(Ext4::new(nodes, options, tree)?),
            Self::Vfat => Box::new(Fat::new(nodes, options)?),
            Self::Swap => Box::new(Swap::new(&options)?),
        })
    }

    /// Returns its name, as mount(8) has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
        }
    }

    /// Returns a UUID for a file system of that name, as blkid(8) shows it.
    #[must_use]
    pub fn new_uuid(self, ids: &Ids, name: &str) -> String {
        match self {
            Self::Ext4 | Self::Swap => ids.uuid(name),
            Self::Vfat => ids.fat_serial(name),
        }
    }

    /// Checks a UUID that someone else wrote down, and returns it as we write it.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with it.
    pub fn check_id(self, text: &str) -> Result<String, String> {
        match self {
            Self::Ext4 | Self::Swap => ids::parse_uuid(text),
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
        };
        if (1..=longest).contains(&text.len()) && text.chars().all(fine) {
            return Ok(());
        }
        Err(format!("a label of {} has at most {what}", self.name()))
    }

    /// Returns whether systemd-growfs(8) can make it larger while it is mounted.
    #[must_use]
    pub fn grows(self) -> bool {
        self == Self::Ext4
    }

    /// Returns whether it holds owners, modes and links, and so can be the root's.
    #[must_use]
    pub fn holds_root(self) -> bool {
        self == Self::Ext4
    }
}
