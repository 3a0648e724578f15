//! Reading a layout file: what may be in it, and what of it is wrong by itself.

use super::subvolumes;
use super::{
    ATTRIBUTES, Blob, Content, FileSystemKind, Layout, Partition, ROOTS, SECTOR, SWAP_TYPE, Size, Source, TYPES,
};
use crate::board::{self, BoardTable, Needed};
use crate::disk::{self, Geometry, Table};
use crate::ids::parse_uuid;
use crate::size;
use rootfs::Arch;
use serde::Deserialize;
use stage::document::plain_absolute;
use stage::{Code, Failure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

impl Layout {
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
}

/// Boots by UEFI and on boards whose U-Boot looks for extlinux.conf: that takes the partition with `legacy-boot`.
pub(super) const STANDARD: &str = r#"
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
    compress: Option<String>,
    #[serde(default)]
    subvolumes: BTreeMap<String, String>,
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
        let subvolumes = subvolumes::check(self.filesystem, at.as_deref(), self.compress.as_deref(), self.subvolumes)?;
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
            compress: self.compress,
            subvolumes,
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
pub(super) fn mount_point(at: String) -> Result<String, String> {
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
