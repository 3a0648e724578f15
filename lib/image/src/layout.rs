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
//! at = "/boot"                 # what is below this directory of the root goes in there, and is not in the root's own
//! ```
//!
//! A layout is read strictly: an unknown key, a partition over another or over a table is refused, since a board that does
//! not boot says nothing about why. `configure --fstab` reads it too, to know which file systems there will be.

use crate::board::{self, Board, BoardTable, Needed};
use crate::disk::{self, Geometry, Table};
use crate::host::HostKind;
use crate::ids::{Ids, parse_uuid};
pub use crate::kind::FileSystemKind;
use crate::size;
use rootfs::Arch;
use serde::Deserialize;
use stage::document::plain_absolute;
use stage::{Code, Failure, members, quote};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

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
    /// What is in it.
    pub content: Content,
}

/// How long a partition is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
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
        Self::parse("the standard layout", STANDARD, Path::new("/"), arch)
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

    /// Reads the text of a layout file or a board.
    pub(crate) fn parse_any(label: &str, text: &str, base: &Path, arch: &str) -> Result<Self, Failure> {
        let arch = Arch::named(arch)?;
        let wrong = |what: String| Failure::new(Code::Usage, format!("reading the layout {label}: {what}"));
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or("").matches('\n').count() + 1;
            let what = error.message().trim().replace('\n', ", ");
            wrong(format!("line {line}: {what}"))
        })?;
        file.check(base, arch).map_err(wrong)
    }

    /// Returns the file systems that fstab(5) has, with their partitions and types, the root's first and those in others behind
    /// those. Swap is at [`SWAP_AT`].
    #[must_use]
    pub fn file_systems(&self, ids: &Ids) -> Vec<(&Partition, FileSystemKind, members::FileSystem)> {
        let of = |p| {
            let (kind, at) = Partition::in_fstab(p)?;
            let (at, uuid) = (at.to_owned(), p.file_system_id(ids));
            Some((p, kind, members::FileSystem { at, kind: kind.name().to_owned(), uuid, grows: None }))
        };
        let mut found: Vec<_> = self.partitions.iter().filter_map(of).collect();
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
        fn at(partition: &Partition) -> Option<&str> {
            Some(partition.in_fstab()?.1)
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
            if let Some(point) = at(partition).filter(|point| before.iter().any(|p| at(p) == Some(point))) {
                if point == SWAP_AT {
                    return wrong("another partition is swap");
                }
                return wrong(&format!("another partition is mounted at '{point}'"));
            }
        }
        if !self.partitions.iter().any(|p| at(p) == Some("/")) {
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

/// Boots by UEFI and on boards whose U-Boot looks for extlinux.conf: that takes the partition with `legacy-boot`.
const STANDARD: &str = r#"
[[partition]]
name = "boot"
type = "esp"
attributes = ["legacy-boot"]
size = "auto"
minimum = "256M"
filesystem = "vfat"
at = "/boot"

[[partition]]
name = "root"
type = "root"
attributes = ["grow-file-system"]
size = "rest"
filesystem = "ext4"
at = "/"
"#;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    table: Table,
    sector: Option<u64>,
    entries: Option<Bytes>,
    id: Option<String>,
    /// Where the first partition begins.
    start: Option<Bytes>,
    #[serde(default)]
    partition: Vec<PartitionTable>,
    #[serde(default)]
    blob: Vec<BlobTable>,
    board: Option<BoardTable>,
    #[serde(default)]
    needs: Vec<Needed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionTable {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    uuid: Option<String>,
    offset: Option<Bytes>,
    size: Size,
    minimum: Option<Bytes>,
    #[serde(default)]
    attributes: Vec<String>,
    #[serde(default)]
    in_mbr: bool,
    filesystem: Option<FileSystemKind>,
    label: Option<String>,
    at: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    file: Option<PathBuf>,
    in_root: Option<String>,
    package: Option<String>,
    build: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlobTable {
    name: Option<String>,
    file: Option<PathBuf>,
    in_root: Option<String>,
    package: Option<String>,
    build: Option<String>,
    offset: Bytes,
}

/// A number of bytes that is a whole number of sectors.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Bytes(u64);

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = size::parse(&text)?;
        if bytes % SECTOR != 0 {
            return Err(format!("'{text}' is not a multiple of {SECTOR} bytes"));
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Size {
    type Err = String;

    /// Reads a size, or `auto`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match Bytes::try_from(text.to_owned())?.0 {
            0 => Err("a size cannot be 0".to_owned()),
            bytes => Ok(Self::Bytes(bytes)),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "rest" { Ok(Self::Rest) } else { text.parse() }
    }
}

impl File {
    fn check(self, base: &Path, arch: Arch) -> Result<Layout, String> {
        let entries = self.entries.map(|b| b.0);
        let mut geometry = Geometry { table: self.table, sector: self.sector.unwrap_or(SECTOR), entries, id: None };
        geometry.id = self.id.map(|id| geometry.check_id(&id)).transpose()?;
        let mut hints = BTreeMap::new();
        let mut board = None;
        let mut partitions = self.partition;
        if let Some(table) = self.board {
            board = Some(table.check(board::needs(&self.needs)?)?);
            if partitions.is_empty() {
                partitions = standard_partitions(geometry.table)?;
            }
        } else if !self.needs.is_empty() {
            return Err("needs are a board's: there is no [board]".to_owned());
        }
        let needs = self.needs.iter().map(|n| (Some(n.file.as_str()), board::hint(None, Some(&n.package), None)));
        let of_blobs = self.blob.iter().map(|b| {
            let hint = board::hint(b.name.as_deref(), b.package.as_deref(), b.build.as_deref());
            (b.in_root.as_deref(), hint)
        });
        let of_partitions = partitions
            .iter()
            .map(|p| (p.in_root.as_deref(), board::hint(Some(&p.name), p.package.as_deref(), p.build.as_deref())));
        for (path, hint) in needs.chain(of_blobs).chain(of_partitions) {
            if let (Some(path), Some(hint)) = (path, hint) {
                hints.insert(path.trim_start_matches('/').to_owned(), hint);
            }
        }
        let mut layout = Layout { geometry, partitions: Vec::new(), blobs: Vec::new(), board, hints };
        for p in partitions {
            let name = p.name.escape_default().to_string();
            layout.partitions.push(p.check(base, arch).map_err(|what| format!("partition '{name}': {what}"))?);
        }
        for b in self.blob {
            let source = source(base, b.file, b.in_root).map_err(|what| format!("blob: {what}"))?;
            layout.blobs.push(Blob {
                name: b.name,
                source: source.ok_or("blob: give file or in_root")?,
                offset: b.offset.0,
            });
        }
        if let (Some(Bytes(start)), Some(first)) = (self.start, layout.partitions.first_mut()) {
            first.offset = first.offset.or(Some(start));
        }
        layout.check()?;
        Ok(layout)
    }
}

impl PartitionTable {
    fn check(self, base: &Path, arch: Arch) -> Result<Partition, String> {
        // 36 UTF-16 units of a table's entry; a control character would be one in messages and in /dev/disk.
        if self.name.is_empty() || self.name.encode_utf16().count() > 36 {
            return Err("a name must have 1 to 36 characters".to_owned());
        }
        if self.name.chars().any(|c| c.is_control() || c == '/') {
            return Err("a name cannot have a control character or '/'".to_owned());
        }
        let source = source(base, self.file, self.in_root)?;
        let at = self.at.map(mount_point).transpose()?;
        let kind = type_guid(&self.kind, arch)?;
        let is_swap = kind == SWAP_TYPE && source.is_none();
        let filesystem = self.filesystem.or(is_swap.then_some(FileSystemKind::Swap));
        let content = match (filesystem, source) {
            (Some(_), Some(_)) => {
                return Err("a partition has a file system or the bytes of a file, not both".to_owned());
            }
            (None, _) if at.is_some() || self.label.is_some() => {
                return Err("at and label need filesystem".to_owned());
            }
            (None, source) => source.map_or(Content::Nothing, Content::File),
            (Some(kind), None) => {
                self.label.as_deref().map_or(Ok(()), |label| kind.check_label(label))?;
                Content::FileSystem { kind, at, label: self.label }
            }
        };
        let is_swap = matches!(content, Content::FileSystem { kind: FileSystemKind::Swap, .. });
        if is_swap && matches!(content, Content::FileSystem { at: Some(_), .. }) {
            return Err("swap has no mount point: leave at out".to_owned());
        }
        if matches!(&content, Content::FileSystem { kind, at: Some(at), .. } if at == "/" && !kind.holds_root()) {
            return Err("the file system type has no owners and links, so it cannot hold a root".to_owned());
        }
        if !self.options.is_empty() && !is_swap && !matches!(content, Content::FileSystem { at: Some(_), .. }) {
            return Err("options need filesystem and at".to_owned());
        }
        self.options.iter().try_for_each(|option| check_option(option))?;
        if (is_swap || matches!(content, Content::Nothing)) && self.size == Size::Auto {
            return Err("it is empty, so size cannot be \"auto\": give a size".to_owned());
        }
        if self.minimum.is_some() && matches!(self.size, Size::Bytes(_)) {
            return Err("minimum needs a size that is auto or rest".to_owned());
        }
        Ok(Partition {
            kind,
            name: self.name,
            in_mbr: self.in_mbr,
            uuid: self.uuid.as_deref().map(parse_uuid).transpose()?,
            options: self.options,
            offset: self.offset.map(|b| b.0),
            size: self.size,
            minimum: self.minimum.map_or(0, |b| b.0),
            attributes: attributes(&self.attributes)?,
            content,
        })
    }
}

fn source(base: &Path, file: Option<PathBuf>, in_root: Option<String>) -> Result<Option<Source>, String> {
    match (file, in_root) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err("give either file or in_root".to_owned()),
        (Some(file), None) if file.as_os_str().is_empty() => Err("file is empty".to_owned()),
        (Some(file), None) => Ok(Some(Source::Host(base.join(file)))),
        (None, Some(path)) => Ok(Some(Source::Root(from_root(&path)?))),
    }
}

/// Returns the path of a file of the root without the slash at its beginning.
pub(crate) fn from_root(path: &str) -> Result<String, String> {
    if plain_absolute(path).is_err() {
        return Err("in_root must be an absolute path without '.', '..' and '//'".to_owned());
    }
    let below = path.strip_prefix('/').filter(|below| !below.is_empty());
    below.map(str::to_owned).ok_or_else(|| "in_root must name a file".to_owned())
}

/// Returns the partitions of the standard layout, as far as a table has room for their attributes.
fn standard_partitions(table: Table) -> Result<Vec<PartitionTable>, String> {
    let mut file: File = toml::from_str(STANDARD).map_err(|error| error.to_string())?;
    if table == Table::Mbr {
        file.partition.iter_mut().for_each(|p| p.attributes.retain(|name| name == "legacy-boot"));
    }
    Ok(file.partition)
}

/// fstab(5) has these in a line, so there is no white space in them.
fn mount_point(at: String) -> Result<String, String> {
    if plain_absolute(&at).is_err() || at.chars().any(|c| c.is_whitespace() || "\\#\"".contains(c)) {
        return Err(format!(
            "at is '{}': it must be an absolute path without '.', '..', '//' and white space",
            at.escape_default()
        ));
    }
    Ok(at)
}

/// fstab(5) has them in a line, with a comma between two.
fn check_option(option: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_graphic() && !"\\#\"',".contains(c);
    match option.is_empty() || !option.chars().all(fine) {
        true => Err(format!(
            "the option '{}' is empty, or has a comma, a quote, '#', '\\' or white space in it",
            option.escape_default()
        )),
        false => Ok(()),
    }
}

fn type_guid(text: &str, arch: Arch) -> Result<String, String> {
    if text == "root" {
        let found = ROOTS.iter().find(|(elf, _)| *elf == arch.elf).map(|(_, guid)| (*guid).to_owned());
        return found.ok_or_else(|| format!("{} has no root partition type: use \"linux\"", arch.name));
    }
    match TYPES.iter().find(|(name, _)| *name == text) {
        Some((_, guid)) => Ok((*guid).to_owned()),
        None if disk::mbr_byte(text).is_some() => Ok(text.to_ascii_lowercase()),
        None => parse_uuid(text).map_err(|_| {
            let (text, names) = (text.escape_default(), TYPES.map(|(name, _)| name).join(", "));
            format!("'{text}' is not a partition type: give a GUID, or one of root, {names}")
        }),
    }
}

fn attributes(names: &[String]) -> Result<u64, String> {
    let mut bits = 0;
    for name in names {
        let Some((_, bit)) = ATTRIBUTES.iter().find(|(known, _)| known == name) else {
            let known = ATTRIBUTES.map(|(known, _)| known).join(", ");
            return Err(format!("'{}' is not an attribute: use {known}", name.escape_default()));
        };
        bits |= 1 << bit;
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";

    fn parse(text: &str) -> Result<Layout, Failure> {
        Layout::parse("'x'", text, Path::new("/layouts"), "aarch64")
    }

    fn refused(text: &str) -> String {
        let failure = parse(text).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        failure.message
    }

    #[test]
    fn every_architecture_has_a_standard_layout() {
        for arch in rootfs::arch::ALL {
            let layout = Layout::standard(arch.name).unwrap();
            let [boot, root] = &layout.partitions[..] else { panic!("{layout:?}") };
            assert_eq!((boot.type_name(), root.type_name()), ("esp", "root"));
            assert_eq!(root.attributes, 1 << 59);
        }
        let ids = Ids::new(Some(1), "x").unwrap();
        let layout = Layout::standard("aarch64").unwrap();
        let found = layout.file_systems(&ids);
        let [(_, ext4, root), (_, vfat, boot)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((root.at.as_str(), *ext4), ("/", FileSystemKind::Ext4));
        assert_eq!((boot.at.as_str(), *vfat), ("/boot", FileSystemKind::Vfat));
        for (_, kind, f) in &found {
            assert_eq!(kind.check_id(&f.uuid).unwrap(), f.uuid);
        }
    }

    #[test]
    fn a_board_s_layout_is_read() {
        let layout = parse(&format!(
            "[[blob]]\nfile='idbloader.img'\noffset='32K'\n[[blob]]\nin_root='/boot/u-boot.itb'\noffset='8M'\n\
             [[partition]]\nname='raw'\ntype='8DA63339-0007-60C0-C436-083AC8230908'\noffset='12M'\nsize='1M'\nfile='/x'\n\
             attributes=['required','no-auto']\n{ROOT}"
        ))
        .unwrap();
        assert_eq!(layout.blobs[0].source, Source::Host("/layouts/idbloader.img".into()));
        assert_eq!(layout.blobs[1].source, Source::Root("boot/u-boot.itb".into()));
        let raw = &layout.partitions[0];
        assert_eq!((raw.type_name(), raw.attributes), ("reserved", 1 | 1 << 63));
        assert_eq!(raw.content, Content::File(Source::Host("/x".into())));
        assert_eq!(raw.size, Size::Bytes(1 << 20));
    }

    #[test]
    fn a_partition_of_type_swap_is_swap() {
        let swap = "[[partition]]\nname='s'\ntype='swap'\nsize='8M'\noptions=['pri=5']\n";
        let layout = parse(&format!("{swap}{ROOT}")).unwrap();
        assert_eq!(layout.partitions[0].in_fstab(), Some((FileSystemKind::Swap, SWAP_AT)));
        assert_eq!(layout.partitions[0].mounted(), None);
        let found = layout.file_systems(&Ids::new(Some(1), "x").unwrap());
        assert_eq!(found.iter().map(|(.., f)| f.at.as_str()).collect::<Vec<_>>(), ["/", "none"]);
        let bytes = parse(&format!("{}file='x'\n{ROOT}", swap.replace("options=['pri=5']\n", ""))).unwrap();
        assert_eq!(bytes.partitions[0].in_fstab(), None, "the bytes of a file are what they are");
    }

    #[test]
    fn what_is_no_layout_is_refused_with_its_reason() {
        let add = |text: &str| format!("{ROOT}{text}\n");
        let before = |text: &str| format!("{text}\n{ROOT}");
        let cases = [
            (String::new(), "there is no root"),
            ("[[partition".to_owned(), "line 1: "),
            (add("sze='1M'"), "unknown field `sze`"),
            (before("[[partitions]]"), "unknown field `partitions`"),
            (add("offset='1000'"), "not a multiple of 512"),
            (add("offset='1K'"), "before the end of the partition table"),
            (add("offset='x'"), "is not a size"),
            (add("minimum='x'"), "is not a size"),
            (add("type='linux'"), "duplicate key"),
            (add("label='no spaces'"), "a label of ext4"),
            (add("attributes=['x']"), "is not an attribute"),
            (add("uuid='0'"), "is not a UUID"),
            (add("uuid='00000000-0000-0000-0000-000000000000'"), "is not a UUID"),
            (add("file='x'"), "the bytes of a file, not both"),
            (add(ROOT), "only the last partition"),
            (before(&ROOT.replace("rest", "4M")), "two partitions have the name"),
            (before(&ROOT.replace("rest", "4M").replace("'root'\nt", "'b'\nt")), "another partition is mounted at '/'"),
            (ROOT.replace("type='root'", "type='boot'"), "is not a partition type: give a GUID, or one of root, esp"),
            (ROOT.replace("ext4", "vfat"), "cannot hold a root"),
            (ROOT.replace("ext4", "ntfs"), "unknown variant `ntfs`"),
            (ROOT.replace("'/'", "'/x/../y'"), "must be an absolute path"),
            (ROOT.replace("'/'", "'/x y'"), "must be an absolute path"),
            (ROOT.replace("'/'", "'x'"), "must be an absolute path"),
            (ROOT.replace("name='root'", "name=''"), "1 to 36"),
            (ROOT.replace("name='root'", "name=\"a\\nb\""), "control character"),
            (add("options=['']"), "is empty, or has a comma"),
            (add("options=['noatime,ro']"), "is empty, or has a comma"),
            (add("options=['a b']"), "is empty, or has a comma"),
            (add("options=[\"a\\n/x\"]"), "is empty, or has a comma"),
            (before("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\noptions=['ro']"), "options need filesystem"),
            (ROOT.replace("rest", "0"), "cannot be 0"),
            (ROOT.replace("filesystem='ext4'\n", ""), "need filesystem"),
            (before("[[partition]]\nname='s'\ntype='swap'\nsize='auto'"), "give a size"),
            (before("[[partition]]\nname='s'\ntype='linux'\nsize='1M'\nfilesystem='swap'\nat='/s'"), "leave at out"),
            (
                before(
                    "[[partition]]\nname='s'\ntype='swap'\nsize='1M'\n[[partition]]\nname='t'\ntype='swap'\nsize='1M'",
                ),
                "partition 't': another partition is swap",
            ),
            (before("[[partition]]\nname='a'\ntype='linux'\nsize='auto'"), "give a size"),
            (before("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\nminimum='1M'"), "minimum needs"),
            (
                before(
                    "[[partition]]\nname='a'\ntype='linux'\nsize='1M'\noffset='2M'\n[[partition]]\nname='b'\ntype='linux'\nsize='1M'\noffset='2M'",
                ),
                "partition 'b': its offset 2M is before the end of a, 3M",
            ),
            (before("[[blob]]\noffset='1M'"), "give file or in_root"),
            (before("[[blob]]\nfile='x'\nin_root='/x'\noffset='1M'"), "either file or in_root"),
            (before("[[blob]]\nin_root='x'\noffset='1M'"), "absolute path"),
            (before("[[blob]]\nin_root='/../x'\noffset='1M'"), "absolute path"),
            (before("[[blob]]\nfile='x'\noffset='16K'"), "in the partition table, which ends at 17K"),
            (before("table='mbr'\n[[blob]]\nfile='x'\noffset='0'\n[[blob]]\nfile='x'\noffset='x'"), "is not a size"),
            (before("table='x'"), "unknown variant `x`, expected one of `gpt`, `hybrid`, `mbr`, `none`"),
            (before("sector=1024"), "sector is 1024: it must be 512 or 4096"),
            (before("sector=4096\nstart='1536'"), "its offset is not a multiple of the sectors of 4096"),
            (before("sector=4096\n[[blob]]\nfile='x'\noffset='20K'"), "in the partition table, which ends at 24K"),
            (before("entries='512'"), "entries must be at 1024 or"),
            (before("table='mbr'\nentries='1M'"), "entries are those of a GPT"),
            (before("entries='1M'\nstart='1M'"), "its offset 1M is before the end of the partition table, 1040K"),
            (before("id='1234abcd'"), "is not a UUID"),
            (before("table='mbr'\nid='00000000'"), "is not the id of an MBR: eight hexadecimal digits"),
            (before("table='none'\nid='00000001'"), "has no id"),
            (before("table='none'\nstart='1M'"), "the file system begins at 0"),
            (before("table='none'\n[[blob]]\nfile='x'\noffset='1M'"), "one partition, and no blob"),
            (before("table='hybrid'"), "one to three partitions of a hybrid table"),
            (add("in_mbr=true"), "in_mbr is for a hybrid table"),
            (format!("table='mbr'\n{ROOT}attributes=['grow-file-system']"), "only legacy-boot"),
            (format!("table='mbr'\n{ROOT}uuid='aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee'"), "an MBR has no GUIDs"),
            (format!("table='none'\n{ROOT}attributes=['legacy-boot']"), "no uuid and no attributes"),
            (ROOT.replace("type='root'", "type='0x83'"), "a GPT has no such type"),
            (ROOT.replace("type='root'", "type='0xee'"), "is not a partition type"),
            (format!("table='mbr'\n{}", ROOT.replace("type='root'", "type='bios-boot'")), "an MBR has no such type"),
            (
                format!(
                    "table='mbr'\n{}{ROOT}",
                    ["a", "b", "c", "d"]
                        .map(|n| format!("[[partition]]\nname='{n}'\ntype='linux'\nsize='1M'\n"))
                        .concat()
                ),
                "has room for 4 partitions",
            ),
            (format!("[[blob]]\nfile='x'\noffset='16M'\n{ROOT}offset='16M'\n"), "is in partition 'root'"),
        ];
        for (text, expected) in cases {
            let message = refused(&text);
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn ids_that_others_wrote_are_checked() {
        assert_eq!(FileSystemKind::Vfat.check_id("1a2b-3c4d").unwrap(), "1A2B-3C4D");
        for bad in ["", "1A2B3C4D", "1A2B-3C4", "1A2B-3C4G"] {
            FileSystemKind::Vfat.check_id(bad).unwrap_err();
        }
        FileSystemKind::Ext4.check_id("1A2B-3C4D").unwrap_err();
    }
}
