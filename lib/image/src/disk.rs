//! The partition table of a disk: which kinds there are, which bytes of the disk each takes, and what it calls a partition.

use crate::ids::{Ids, parse_uuid};
use crate::kind::FileSystemKind;
use crate::layout::{Content, Layout, Partition, Size};
use serde::Deserialize;
use std::ops::Range;

/// A kind of partition table.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// A GPT, and the MBR that protects it (UEFI 2.10, 5).
    #[default]
    Gpt,
    /// A GPT, and an MBR that has some of its partitions too, for firmware that reads no GPT.
    Hybrid,
    /// An MBR with four primary partitions.
    Mbr,
    /// None: the disk is one file system.
    None,
}

impl Table {
    /// Returns its name in a layout.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Hybrid => "hybrid",
            Self::Mbr => "mbr",
            Self::None => "none",
        }
    }
}

/// What the boot code at the beginning of a disk may have, in bytes: the disk's number and the four entries of an MBR follow.
pub const BOOT_CODE: u64 = 440;

/// Where an MBR ends, in bytes, whatever the size of a sector.
pub const MBR: u64 = 512;

/// How long the 128 entries of a GPT are, in bytes.
pub const ENTRIES: u64 = 128 * 128;

/// The sectors of an MBR's number of 32 bits.
pub const MBR_SECTORS: u64 = u32::MAX as u64;

/// The MBR's types of partitions, by the GUID of a GPT's. 0x83 is all that Linux has.
const MBR_TYPES: [(&str, u8); 10] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", 0xef), // esp (UEFI 2.10, 5.2.2)
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", 0xea), // xbootldr (Boot Loader Specification)
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", 0x83), // linux
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", 0x83), // home
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", 0x83), // srv
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", 0x83), // var
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", 0x83), // tmp
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", 0x82), // swap
    ("8da63339-0007-60c0-c436-083ac8230908", 0xda), // reserved: no file system
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", 0x07), // data
];

/// The attribute that extlinux and U-Boot look for. In an MBR it is the active partition.
const LEGACY_BOOT: u64 = 1 << 2;

/// A table, and the sectors that it counts in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Which kind it is.
    pub table: Table,
    /// Bytes in a sector: 512 or 4096.
    pub sector: u64,
    /// Where the entries of a GPT begin, in bytes, if not behind its header.
    pub entries: Option<u64>,
    /// The disk's id, where the layout says one: a GUID, or the eight hexadecimal digits of an MBR's number.
    pub id: Option<String>,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { table: Table::Gpt, sector: 512, entries: None, id: None }
    }
}

impl Geometry {
    /// Returns whether there is a GPT.
    #[must_use]
    pub fn has_gpt(&self) -> bool {
        matches!(self.table, Table::Gpt | Table::Hybrid)
    }

    /// Returns the ranges of bytes at the beginning of the disk that the table takes. The boot code before them is free.
    #[must_use]
    pub fn taken(&self) -> Vec<Range<u64>> {
        match self.table {
            Table::None => Vec::new(),
            Table::Mbr => one(BOOT_CODE..MBR),
            Table::Gpt | Table::Hybrid => {
                let header = 2 * self.sector;
                match self.entries {
                    Some(entries) if entries != header => vec![BOOT_CODE..header, entries..entries + ENTRIES],
                    _ => one(BOOT_CODE..header + ENTRIES),
                }
            }
        }
    }

    /// Returns the first byte that partitions can have.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.taken().last().map_or(0, |range| range.end.next_multiple_of(self.sector))
    }

    /// Returns how long the table's second copy at the end of the disk is, in bytes.
    #[must_use]
    pub fn last(&self) -> u64 {
        if self.has_gpt() { ENTRIES + self.sector } else { 0 }
    }

    /// Returns which bytes of something of `size` bytes at `offset` are written: all, but those of one that begins with an
    /// MBR's boot code and goes on behind its table, which ROMs of Amlogic's load.
    #[must_use]
    pub fn written(&self, offset: u64, size: u64) -> Vec<Range<u64>> {
        if self.table == Table::Mbr && offset == 0 && size > BOOT_CODE {
            return vec![0..BOOT_CODE, MBR.min(size)..size];
        }
        one(0..size)
    }

    /// Returns the id of the disk: a GUID, or an MBR's number; `None` without a table.
    #[must_use]
    pub fn disk_id(&self, ids: &Ids) -> Option<String> {
        match self.table {
            Table::None => None,
            Table::Gpt | Table::Hybrid => Some(self.id.clone().unwrap_or_else(|| ids.uuid("disk"))),
            Table::Mbr => Some(self.id.clone().unwrap_or_else(|| format!("{:08x}", mbr_number(ids)))),
        }
    }

    /// Checks what is only wrong together.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !matches!(self.sector, 512 | 4096) {
            return Err(format!("sector is {}: it must be 512 or 4096", self.sector));
        }
        if let Some(entries) = self.entries {
            if !self.has_gpt() {
                return Err("entries are those of a GPT, and the table is none".to_owned());
            }
            if entries < 2 * self.sector || !entries.is_multiple_of(self.sector) {
                return Err(format!("entries must be at {} or a sector behind it", 2 * self.sector));
            }
        }
        Ok(())
    }

    /// Checks the id of a disk, and returns it as we write it.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with it.
    pub(crate) fn check_id(&self, text: &str) -> Result<String, String> {
        match self.table {
            Table::None => Err("a disk without a table has no id".to_owned()),
            Table::Gpt | Table::Hybrid => parse_uuid(text),
            Table::Mbr => {
                let hex = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit()) && text != "00000000";
                let refused =
                    || format!("'{}' is not the id of an MBR: eight hexadecimal digits", text.escape_default());
                hex.then(|| text.to_ascii_lowercase()).ok_or_else(refused)
            }
        }
    }
}

/// Returns a list of one range.
fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

/// Returns the number of a disk with an MBR. 0 would be none.
fn mbr_number(ids: &Ids) -> u32 {
    let [a, b, c, d, ..] = ids.bytes("disk");
    u32::from_le_bytes([a, b, c, d]).max(1)
}

impl Layout {
    /// Checks that the table can hold what is said of the partitions: a layout with something that is not written down
    /// would say more than there is.
    pub(crate) fn check_table(&self) -> Result<(), String> {
        self.geometry.check()?;
        let table = self.geometry.table;
        for partition in &self.partitions {
            let wrong = |what: &str| Err(format!("partition '{}': {what}", partition.name));
            if partition.in_mbr && table != Table::Hybrid {
                return wrong("in_mbr is for a hybrid table");
            }
            if partition.in_mbr && partition.size == Size::Rest && partition.grows() {
                return wrong("it grows, and the MBR would have its old size: leave out in_mbr or grow-file-system");
            }
            match table {
                Table::Gpt | Table::Hybrid if mbr_byte(&partition.kind).is_some() => {
                    return wrong("a GPT has no such type: give a name or a GUID");
                }
                Table::Mbr if partition.uuid.is_some() => {
                    return wrong("an MBR has no GUIDs: give the id of the disk, and leave uuid out");
                }
                Table::Mbr if partition.attributes & !LEGACY_BOOT != 0 => {
                    return wrong("of the attributes an MBR has only legacy-boot, the active partition");
                }
                Table::None if partition.uuid.is_some() || partition.attributes != 0 => {
                    return wrong("without a table it has no uuid and no attributes");
                }
                Table::Mbr | Table::None if partition.has_no_id() => {
                    return wrong("squashfs has no UUID, and only a GPT has a name to mount it by");
                }
                _ => {}
            }
            if partition.in_mbr || table == Table::Mbr {
                partition.mbr_type().or_else(|what| wrong(&what).map(|()| 0))?;
            }
            let size = match partition.size {
                Size::Bytes(bytes) => Some(bytes),
                Size::Auto | Size::Rest => None,
            };
            for (key, bytes) in [("offset", partition.offset), ("size", size)] {
                if bytes.is_some_and(|bytes| !bytes.is_multiple_of(self.geometry.sector)) {
                    return wrong(&format!("its {key} is not a multiple of the sectors of {}", self.geometry.sector));
                }
            }
        }
        let in_mbr = self.partitions.iter().filter(|p| p.in_mbr).count();
        match table {
            Table::Hybrid if !(1..=3).contains(&in_mbr) => {
                Err("one to three partitions of a hybrid table have in_mbr = true".to_owned())
            }
            Table::None if self.partitions.len() != 1 || !self.blobs.is_empty() => {
                Err("without a table there is one partition, and no blob".to_owned())
            }
            Table::None if self.partitions[0].offset.is_some_and(|offset| offset != 0) => {
                Err("without a table the file system begins at 0".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Returns what the kernel calls a partition (`PARTUUID`); `None` without a table. `n` counts from 0.
    #[must_use]
    pub fn partition_id(&self, n: usize, ids: &Ids) -> Option<String> {
        match self.geometry.table {
            Table::None => None,
            Table::Gpt | Table::Hybrid => Some(self.partitions[n].id(ids)),
            Table::Mbr => Some(format!("{}-{:02x}", self.geometry.disk_id(ids)?, n + 1)),
        }
    }

    /// Returns the type of a partition as the table has it: a GUID, or two hexadecimal digits of an MBR; `None` without a
    /// table.
    #[must_use]
    pub fn partition_type(&self, n: usize) -> Option<String> {
        let partition = &self.partitions[n];
        match self.geometry.table {
            Table::None => None,
            Table::Gpt | Table::Hybrid => Some(partition.kind.clone()),
            Table::Mbr => partition.mbr_type().ok().map(|byte| format!("{byte:02x}")),
        }
    }
}

impl Partition {
    /// Returns its type in an MBR.
    ///
    /// # Errors
    ///
    /// A sentence that says that it has none.
    pub fn mbr_type(&self) -> Result<u8, String> {
        let file_system = match &self.content {
            Content::FileSystem { kind, .. } => Some(*kind),
            _ => None,
        };
        mbr_type(&self.kind, file_system, self.type_name() == "root")
    }

    /// Returns whether it has that attribute: the partition that is looked at first for what boots.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.attributes & LEGACY_BOOT != 0
    }
}

/// Returns the type of a partition in an MBR. `kind` is a GUID, or the type itself, such as `0x0c`.
///
/// # Errors
///
/// A sentence that says that it has none.
pub(crate) fn mbr_type(kind: &str, file_system: Option<FileSystemKind>, is_root: bool) -> Result<u8, String> {
    if let Some(byte) = mbr_byte(kind) {
        return Ok(byte);
    }
    match MBR_TYPES.iter().find(|(guid, _)| *guid == kind) {
        // FAT32 that is addressed by sectors.
        Some((_, 0x07)) if file_system == Some(FileSystemKind::Vfat) => Ok(0x0c),
        Some((_, byte)) => Ok(*byte),
        None if is_root => Ok(0x83),
        None => Err("an MBR has no such type: use esp, linux or data, or a number such as \"0x0c\"".to_owned()),
    }
}

/// Reads a type of an MBR, such as `0x0c`. Those of empty, extended and protecting entries are none.
pub(crate) fn mbr_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("0x").filter(|d| d.len() == 2 && !d.starts_with('+'))?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (!matches!(byte, 0x00 | 0x05 | 0x0f | 0x85 | 0xee)).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(table: Table, sector: u64, entries: Option<u64>) -> Geometry {
        Geometry { table, sector, entries, id: None }
    }

    #[test]
    fn a_table_takes_its_bytes_and_no_others() {
        for (geometry, taken, first, last) in [
            (of(Table::Gpt, 512, None), one(440..34 * 512), 34 * 512, 33 * 512),
            (of(Table::Gpt, 4096, None), one(440..6 * 4096), 6 * 4096, 5 * 4096),
            (
                of(Table::Gpt, 512, Some(1 << 20)),
                vec![440..1024, 1 << 20..(1 << 20) + 16384],
                (1 << 20) + 16384,
                33 * 512,
            ),
            (of(Table::Mbr, 512, None), one(440..512), 512, 0),
            (of(Table::Mbr, 4096, None), one(440..512), 4096, 0),
            (of(Table::None, 512, None), vec![], 0, 0),
        ] {
            assert_eq!((geometry.taken(), geometry.first(), geometry.last()), (taken, first, last), "{geometry:?}");
        }
    }

    #[test]
    fn only_the_bytes_of_an_mbr_are_left_out() {
        let mbr = of(Table::Mbr, 512, None);
        assert_eq!(mbr.written(0, 440), one(0..440));
        assert_eq!(mbr.written(0, 500), [0..440, 500..500]);
        assert_eq!(mbr.written(0, 1000), [0..440, 512..1000]);
        assert_eq!(mbr.written(512, 1000), one(0..1000));
        assert_eq!(of(Table::Gpt, 512, None).written(0, 440), one(0..440));
    }

    #[test]
    fn types_of_an_mbr() {
        let data = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
        assert_eq!(mbr_type(data, Some(FileSystemKind::Vfat), false), Ok(0x0c));
        assert_eq!(mbr_type(data, None, false), Ok(0x07));
        assert_eq!(mbr_type("0x0e", None, false), Ok(0x0e));
        assert_eq!(mbr_type("b921b045-1df0-41c3-af44-4c6f280d3fae", None, true), Ok(0x83));
        mbr_type("21686148-6449-6e6f-744e-656564454649", None, false).unwrap_err();
        for bad in ["0x", "0x00", "0xee", "0x05", "0x+1", "0x123", "12"] {
            assert_eq!(mbr_byte(bad), None, "{bad}");
        }
    }

    const ROOT: &str = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";

    fn parse(text: &str) -> Result<Layout, stage::Failure> {
        Layout::parse("'x'", text, std::path::Path::new("/"), "aarch64")
    }

    #[test]
    fn an_mbr_has_its_own_ids_and_types() {
        let ids = Ids::new(Some(1), "x").unwrap();
        let boot = "[[partition]]\nname='boot'\ntype='data'\nattributes=['legacy-boot']\nsize='40M'\nfilesystem='vfat'\nat='/boot'\n";
        let layout = parse(&format!("table='mbr'\nid='ABCD1234'\nstart='4M'\n{boot}{ROOT}")).unwrap();
        let of = |n| (layout.partition_id(n, &ids).unwrap(), layout.partition_type(n).unwrap());
        assert_eq!(of(0), ("abcd1234-01".to_owned(), "0c".to_owned()));
        assert_eq!(of(1), ("abcd1234-02".to_owned(), "83".to_owned()));
        assert_eq!((layout.partitions[0].offset, layout.partitions[0].is_active()), (Some(4 << 20), true));
        let bare = parse(&format!("table='none'\n{ROOT}")).unwrap();
        assert_eq!(
            (bare.partition_id(0, &ids), bare.partition_type(0), bare.geometry.disk_id(&ids)),
            (None, None, None)
        );
        let squashed = ROOT.replace("ext4", "squashfs");
        for table in ["mbr", "none"] {
            let said = parse(&format!("table='{table}'\n{squashed}")).unwrap_err().message;
            assert!(said.ends_with("squashfs has no UUID, and only a GPT has a name to mount it by"), "{said}");
        }
        let drawn = parse(&format!("table='mbr'\n{ROOT}")).unwrap();
        let id = drawn.partition_id(0, &ids).unwrap();
        assert!(id.len() == 11 && id.ends_with("-01") && id == drawn.partition_id(0, &ids).unwrap(), "{id}");
    }
}
