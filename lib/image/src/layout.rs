//! Which partitions an image has, what is in them, and what lies between them: the layout file of `mkdisk --layout`.
//!
//! ```toml
//! table = "gpt"                # or "hybrid", "mbr" or "none": one file system without a table
//! sector = 512                 # or 4096
//!
//! [[blob]]                     # bytes at an offset, outside of all partitions: what a board's ROM loads
//! file = "idbloader.img"       # relative to this file; or in_root = "/usr/lib/…", a file of the root
//! offset = "32K"               # 0 with an MBR: its boot code, and what is behind the table
//!
//! [[partition]]
//! name = "boot"                # at most 36 characters
//! type = "esp"                 # one of TYPES, "root" for the architecture's own, or a GUID
//! offset = "16M"               # left out: behind the partition before, at a whole MiB
//! size = "256M"                # or "auto": what is in it and headroom; the last one may have "rest"
//! filesystem = "vfat"          # or another type; or file = "…" or in_root = "…" for bytes; none of them: nothing
//! options = ["noatime"]         # of the line in fstab(5)
//! compress = "zstd"            # of btrfs, as its subvolumes = { "@" = "/", "@home" = "/home" }
//! at = "/boot"                 # what is below this directory of the root goes in there, and is not in the root's own
//! ```
//!
//! A layout is read strictly: an unknown key, a partition over another or over a table is refused, since a board that does
//! not boot says nothing about why. `configure --fstab` reads it too, to know which file systems there will be.

mod file;
mod subvolumes;
#[cfg(test)]
mod tests;

use crate::board::Board;
use crate::disk::{self, Geometry};
use crate::host::HostKind;
use crate::ids::Ids;
pub use crate::kind::FileSystemKind;
use crate::size;
pub(crate) use file::from_root;
use stage::{Code, Failure, members, quote};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
pub use subvolumes::Subvolume;

/// Bytes in the smallest sector: what offsets and sizes are whole numbers of, at least.
pub const SECTOR: u64 = 512;

/// What partitions are aligned to where a layout does not say otherwise, in bytes.
pub const ALIGNMENT: u64 = 1 << 20;

/// Where swap is mounted, in the words of fstab(5).
pub const SWAP_AT: &str = "none";

/// Types that have a name, and their GUIDs (UEFI 2.10, 5.3.3; the Discoverable Partitions Specification; for `reserved`
/// and `boot-loader`, `sfdisk --label gpt --list-types`).
pub const TYPES: [(&str, &str); 11] = [
    ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("xbootldr", "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    ("bios-boot", "21686148-6449-6e6f-744e-656564454649"),
    ("linux", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("reserved", "8da63339-0007-60c0-c436-083ac8230908"),
    ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
    ("srv", "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
    ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    ("tmp", "7ec6f557-3bc5-4aca-b293-16ef5df639d1"),
    ("swap", SWAP_TYPE),
    ("data", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
];

/// The GUID of `swap`.
const SWAP_TYPE: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";

/// The types of root partitions by ELF's number for the architecture (Discoverable Partitions Specification): firmware and
/// systemd-gpt-auto-generator(8) find the root by it.
const ROOTS: [(u16, &str); 6] = [
    (62, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    (3, "44479540-f297-41b2-9af7-d131d5f0458a"),
    (183, "b921b045-1df0-41c3-af44-4c6f280d3fae"),
    (40, "69dad710-2ce4-4e3c-b16c-21a1d49abed3"),
    (243, "72ec70a6-cf74-40e6-bd49-4bda08e8f224"),
    (258, "77055800-792c-4f94-b39a-98c91b762bb6"),
];

/// Attributes of a partition that have a name, and their bits (UEFI 2.10, 5.3.3; Discoverable Partitions Specification).
pub const ATTRIBUTES: [(&str, u32); 5] =
    [("required", 0), ("legacy-boot", 2), ("grow-file-system", 59), ("read-only", 60), ("no-auto", 63)];

/// A disk's partitions and blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The table.
    pub geometry: Geometry,
    /// The partitions, in their order on the disk.
    pub partitions: Vec<Partition>,
    /// What lies outside of them.
    pub blobs: Vec<Blob>,
    /// The board that it is for.
    pub board: Option<Board>,
    /// For files of the root, what to do where one is missing.
    pub hints: BTreeMap<String, String>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name (`PARTLABEL`): no other has it.
    pub name: String,
    /// The GUID of its type, in lower case; or the type of an MBR, such as `0x0c`.
    pub kind: String,
    /// Where it begins, in bytes; `None` means behind the one before.
    pub offset: Option<u64>,
    /// How long it is.
    pub size: Size,
    /// With [`Size::Auto`] and [`Size::Rest`] no shorter than this, in bytes.
    pub minimum: u64,
    /// Its attributes, as the bits of the table.
    pub attributes: u64,
    /// Its GUID (`PARTUUID`), where the layout says one.
    pub uuid: Option<String>,
    /// Whether the MBR of a hybrid has it, too.
    pub in_mbr: bool,
    /// The options of its line in fstab(5); none for those of the file system.
    pub options: Vec<String>,
    /// How its files are compressed, which btrfs can.
    pub compress: Option<String>,
    /// Its subvolumes, the default one first.
    pub subvolumes: Vec<Subvolume>,
    /// What is in it.
    pub content: Content,
}

/// How long a partition is.
#[derive(Clone, Copy, Debug, serde::Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Size {
    /// As long as what is in it, and headroom.
    Auto,
    /// What is left of the disk; of a disk that is as large as what is in it, as [`Size::Auto`].
    Rest,
    /// That many bytes.
    Bytes(u64),
}

/// What is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// The bytes of a file.
    File(Source),
    /// A file system.
    FileSystem {
        /// Of which type.
        kind: FileSystemKind,
        /// Where in the root it is mounted, as an absolute path; `None` for one that is empty.
        at: Option<String>,
        /// Its label.
        label: Option<String>,
    },
}

/// Bytes at an offset of the disk, outside of all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What `--blob` calls it.
    pub name: Option<String>,
    /// What they are.
    pub source: Source,
    /// Where they begin, in bytes.
    pub offset: u64,
}

/// A file that bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Of the host.
    Host(PathBuf),
    /// Of the root: a path below it, without a slash at its beginning.
    Root(String),
}

impl Layout {
    /// Returns the layout that is used where none is given: `/boot` as the EFI system partition, which boards' U-Boot reads
    /// as well, and the root behind it.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where the architecture is unknown.
    pub fn standard(arch: &str) -> Result<Self, Failure> {
        Self::parse("the standard layout", file::STANDARD, Path::new("/"), arch)
    }

    /// Reads a layout file, for a root of that architecture.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it cannot be read, or is not a layout.
    pub fn read(path: &Path, arch: &str) -> Result<Self, Failure> {
        let text = stage::file::read_text(path).map_err(|failure| Failure { code: Code::Usage, ..failure })?;
        let base = path.parent().unwrap_or(Path::new(""));
        Self::parse(&quote(path), &text, base, arch)
    }

    /// Returns the layout of a file or a board, or the standard one.
    ///
    /// # Errors
    ///
    /// As [`Layout::read`] and [`Layout::board`].
    pub fn of(file: Option<&Path>, board: Option<&str>, arch: &str) -> Result<Self, Failure> {
        match (file, board) {
            (_, Some(board)) => Self::board(board, arch),
            (Some(file), None) => Self::read(file, arch),
            (None, None) => Self::standard(arch),
        }
    }

    /// Reads the text of a layout file: `label` is its name in messages, and relative files are below `base`.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it is not a layout, or the architecture is unknown.
    pub fn parse(label: &str, text: &str, base: &Path, arch: &str) -> Result<Self, Failure> {
        let layout = Self::parse_any(label, text, base, arch)?;
        if layout.board.is_some() {
            let why = format!("reading the layout {label}: it is a board");
            return Err(Failure::new(Code::Usage, why).hint("give it with --board"));
        }
        Ok(layout)
    }

    /// Returns the file systems that fstab(5) has, with their partitions and types, the root's first and those in others behind
    /// those. Swap is at [`SWAP_AT`].
    #[must_use]
    pub fn file_systems(&self, ids: &Ids) -> Vec<(&Partition, FileSystemKind, members::FileSystem)> {
        let mut found: Vec<_> = self.partitions.iter().flat_map(|p| p.file_systems(ids)).collect();
        found.sort_by(|(.., a), (.., b)| a.at.cmp(&b.at));
        found
    }

    /// Returns the partitions whose file systems programs of the host make, by their numbers from 0 on.
    pub fn host_kinds(&self) -> impl Iterator<Item = (usize, HostKind)> + '_ {
        self.partitions.iter().enumerate().filter_map(|(n, partition)| match &partition.content {
            Content::FileSystem { kind, .. } => Some((n, kind.host()?)),
            _ => None,
        })
    }

    /// Checks what is only wrong together.
    fn check(&self) -> Result<(), String> {
        // First: each partition is compared with all before it.
        let most = if self.geometry.has_gpt() { 128 } else { 4 };
        if self.partitions.len() > most {
            return Err(format!("a partition table has room for {most} partitions"));
        }
        for (n, partition) in self.partitions.iter().enumerate() {
            let name = &partition.name;
            let wrong = |what: &str| Err(format!("partition '{name}': {what}"));
            let before = &self.partitions[..n];
            if before.iter().any(|p| p.name == *name) {
                return Err(format!("two partitions have the name '{name}'"));
            }
            if partition.uuid.is_some() && before.iter().any(|p| p.uuid == partition.uuid) {
                return wrong("another partition has its uuid");
            }
            if partition.size == Size::Rest && n + 1 != self.partitions.len() {
                return wrong("only the last partition can have the rest of the disk");
            }
            let is_taken = |point: &&str| before.iter().any(|p| p.points_in_fstab().contains(point));
            if let Some(point) = partition.points_in_fstab().into_iter().find(is_taken) {
                if point == SWAP_AT {
                    return wrong("another partition is swap");
                }
                return wrong(&format!("another partition is mounted at '{point}'"));
            }
        }
        if !self.partitions.iter().any(|p| p.points_in_fstab().contains(&"/")) {
            return Err("no partition has at = \"/\": there is no root".to_owned());
        }
        self.check_table()?;
        self.check_places()
    }

    /// Checks offsets as far as they are known: sizes that are measured are checked when they have been.
    fn check_places(&self) -> Result<(), String> {
        let mut end = self.geometry.first();
        let mut before = "the partition table";
        for partition in &self.partitions {
            let Partition { name, offset, .. } = partition;
            let begin = offset.unwrap_or_else(|| end.next_multiple_of(ALIGNMENT));
            if begin < end {
                let (begin, end) = (size::show(begin), size::show(end));
                return Err(format!("partition '{name}': its offset {begin} is before the end of {before}, {end}"));
            }
            end = begin + partition.least();
            before = name;
        }
        for blob in &self.blobs {
            let offset = blob.offset;
            // At 0 there is boot code: what more there may be is seen when its length is.
            let in_table = self.geometry.taken().into_iter().find(|range| range.contains(&offset));
            let in_code = offset > 0 && offset < disk::BOOT_CODE;
            let covers = |p: &&Partition| p.offset.is_some_and(|begin| (begin..begin + p.least()).contains(&offset));
            let place = match (in_table, self.partitions.iter().find(covers)) {
                (Some(range), _) => format!("the partition table, which ends at {}", size::show(range.end)),
                (None, Some(partition)) => format!("partition '{}'", partition.name),
                (None, None) if in_code => "the boot code, which begins at 0".to_owned(),
                (None, None) => continue,
            };
            let (source, offset) = (blob.source.show(), size::show(offset));
            return Err(format!("blob '{source}': its offset {offset} is in {place}"));
        }
        Ok(())
    }
}

impl Partition {
    /// Returns the type of its file system and where that is mounted, where it is.
    #[must_use]
    pub fn mounted(&self) -> Option<(FileSystemKind, &str)> {
        match &self.content {
            Content::FileSystem { kind, at, .. } => Some((*kind, at.as_deref()?)),
            _ => None,
        }
    }

    /// Returns whether only its name tells its file system from others.
    pub(crate) fn has_no_id(&self) -> bool {
        self.mounted().is_some_and(|(kind, _)| kind == FileSystemKind::Squashfs)
    }

    /// Returns the type of its file system and where fstab(5) has it: where it is mounted, or [`SWAP_AT`].
    #[must_use]
    pub fn in_fstab(&self) -> Option<(FileSystemKind, &str)> {
        match self.content {
            Content::FileSystem { kind: FileSystemKind::Swap, .. } => Some((FileSystemKind::Swap, SWAP_AT)),
            _ => self.mounted(),
        }
    }

    /// Returns whether the layout asks that the file system grows with the partition, and it can.
    #[must_use]
    pub fn grows(&self) -> bool {
        let asked = |(name, bit): &(&str, u32)| *name == "grow-file-system" && self.attributes & 1 << bit != 0;
        ATTRIBUTES.iter().any(asked) && self.mounted().is_some_and(|(kind, _)| kind.grows())
    }

    /// Returns the least size that it has, in bytes, before anything is measured.
    pub(crate) fn least(&self) -> u64 {
        match self.size {
            Size::Bytes(bytes) => bytes,
            Size::Auto | Size::Rest => SECTOR,
        }
    }

    /// Returns the UUID of the file system in it: the same for the same mount point, or, where it has none, name.
    #[must_use]
    pub fn file_system_id(&self, ids: &Ids) -> String {
        let (kind, at) = match &self.content {
            Content::FileSystem { kind, at, .. } => (*kind, at.as_ref().unwrap_or(&self.name)),
            _ => (FileSystemKind::Ext4, &self.name),
        };
        kind.new_uuid(ids, &format!("file system {at}"))
    }

    /// Returns its GUID: the layout's, or one that belongs to its name.
    #[must_use]
    pub fn id(&self, ids: &Ids) -> String {
        match &self.uuid {
            Some(uuid) => uuid.clone(),
            None => ids.uuid(&format!("partition {}", self.name)),
        }
    }

    /// Returns the name of its type, or its GUID where that has none. A root partition's is `root`.
    #[must_use]
    pub fn type_name(&self) -> &str {
        match TYPES.iter().find(|(_, guid)| *guid == self.kind) {
            Some((name, _)) => name,
            None if ROOTS.iter().any(|(_, guid)| *guid == self.kind) => "root",
            None => &self.kind,
        }
    }
}

impl Source {
    /// Returns it for a message.
    #[must_use]
    pub fn show(&self) -> String {
        match self {
            Self::Host(path) => path.display().to_string(),
            Self::Root(path) => format!("/{path} of the root"),
        }
    }
}
