//! The partition table: a GPT with its second copy at the end, and the MBR that protects it (UEFI 2.10, 5); or an MBR, by hand,
//! since the gpt crate writes one that protects only.

use crate::arrange::{Arrangement, Place};
use gpt::disk::LogicalBlockSize;
use gpt::header::Header;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use image::disk::{BOOT_CODE, ENTRIES, MBR_SECTORS, Table};
use image::ids::Ids;
use image::layout::{Layout, Partition as Wanted};
use stage::{Code, Doing, Failure};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

const DOING: &str = "writing the partition table";

/// Writes it into the image, which has its size already.
pub(crate) fn write(image: &File, layout: &Layout, places: &Arrangement, ids: &Ids) -> Result<(), Failure> {
    let partitions = || layout.partitions.iter().zip(&places.partitions);
    match layout.geometry.table {
        Table::None => Ok(()),
        Table::Gpt => gpt(image, layout, places, ids),
        Table::Hybrid => {
            gpt(image, layout, places, ids)?;
            hybrid(image, layout, partitions().filter(|(p, _)| p.in_mbr))
        }
        Table::Mbr => {
            let sector = layout.geometry.sector;
            let entries: Result<Vec<_>, _> = partitions().map(|(p, place)| entry(p, *place, sector)).collect();
            let id = layout.geometry.disk_id(ids).unwrap_or_default();
            let number = u32::from_str_radix(&id, 16).doing(Code::Os, || DOING)?;
            image.write_all_at(&number.to_le_bytes(), BOOT_CODE).doing(Code::Os, || DOING)?;
            write_entries(image, &entries?)
        }
    }
}

/// An entry of an MBR: 16 bytes.
type Entry = [u8; 16];

/// Where the four entries of an MBR begin: behind the boot code and the number of the disk.
const MBR_ENTRIES: u64 = 446;

fn write_entries(image: &File, entries: &[Entry]) -> Result<(), Failure> {
    let mut bytes = entries.concat();
    bytes.resize(64, 0);
    bytes.extend([0x55, 0xaa]);
    image.write_all_at(&bytes, MBR_ENTRIES).doing(Code::Os, || DOING)
}

fn entry(partition: &Wanted, place: Place, sector: u64) -> Result<Entry, Failure> {
    let kind = partition.mbr_type().doing(Code::Usage, || DOING)?;
    Ok(raw_entry(partition.is_active(), kind, place.start / sector, place.size / sector))
}

/// The geometry of cylinders has no number for a sector behind 8 GiB, and nobody asks for it any more: the highest one it is.
fn raw_entry(active: bool, kind: u8, start: u64, sectors: u64) -> Entry {
    const BEHIND: [u8; 3] = [0xfe, 0xff, 0xff];
    let mut entry = [0; 16];
    entry[0] = if active { 0x80 } else { 0 };
    entry[1..4].copy_from_slice(&BEHIND);
    entry[4] = kind;
    entry[5..8].copy_from_slice(&BEHIND);
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    entry[8..12].copy_from_slice(&number(start));
    entry[12..16].copy_from_slice(&number(sectors));
    entry
}

/// Puts partitions into the MBR of a GPT. They come first, since there is firmware that looks at the first entry only; one
/// behind them protects the GPT up to the first partition, by which Linux knows that there is one.
fn hybrid<'a>(
    image: &File,
    layout: &Layout,
    partitions: impl Iterator<Item = (&'a Wanted, &'a Place)>,
) -> Result<(), Failure> {
    let sector = layout.geometry.sector;
    let mut entries = Vec::new();
    let mut first = MBR_SECTORS;
    for (partition, place) in partitions {
        entries.push(entry(partition, *place, sector)?);
        first = first.min(place.start / sector);
    }
    entries.push(raw_entry(false, 0xee, 1, first - 1));
    write_entries(image, &entries)
}

fn gpt(image: &File, layout: &Layout, places: &Arrangement, ids: &Ids) -> Result<(), Failure> {
    let doing = || DOING;
    let geometry = &layout.geometry;
    let sector = geometry.sector;
    let uuid = |text: &str| Uuid::parse_str(text).doing(Code::Os, doing);
    let mut partitions = BTreeMap::new();
    for ((n, partition), place) in (1..).zip(&layout.partitions).zip(&places.partitions) {
        let entry = Partition {
            part_type_guid: Type { guid: uuid(&partition.kind)?, os: OperatingSystem::None },
            part_guid: uuid(&partition.id(ids))?,
            first_lba: place.start / sector,
            last_lba: (place.start + place.size) / sector - 1,
            flags: partition.attributes,
            name: partition.name.clone(),
        };
        partitions.insert(n, entry);
    }
    // All of the disk, as far as 32 bits go.
    let sectors = u32::try_from(places.size / sector - 1).unwrap_or(u32::MAX);
    let block = if sector == 4096 { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 };
    let mut device = image;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut device).doing(Code::Os, doing)?;
    let id = geometry.disk_id(ids).unwrap_or_default();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(block)
        .create_from_device(device, Some(uuid(&id)?))
        .doing(Code::Os, doing)?;
    table.update_partitions(partitions).doing(Code::Os, doing)?;
    table.write_inplace().doing(Code::Os, doing)?;
    match geometry.entries {
        Some(at) => {
            let headers = [table.primary_header(), table.backup_header()].map(|header| header.cloned());
            let [first, second] = headers.map(|header| header.doing(Code::Os, doing));
            move_entries(image, [first?, second?], at, block)
        }
        None => Ok(()),
    }
}

/// Moves the entries of the first copy, for a board whose ROM loads from where they would be. Both headers say where
/// partitions can begin.
fn move_entries(image: &File, headers: [Header; 2], at: u64, block: LogicalBlockSize) -> Result<(), Failure> {
    let doing = || DOING;
    let sector: u64 = block.into();
    let [mut header, mut second] = headers;
    let mut entries = vec![0; ENTRIES as usize];
    image.read_exact_at(&mut entries, header.part_start * sector).doing(Code::Os, doing)?;
    image.write_all_at(&vec![0; entries.len()], header.part_start * sector).doing(Code::Os, doing)?;
    image.write_all_at(&entries, at).doing(Code::Os, doing)?;
    header.part_start = at / sector;
    header.first_usable = (at + ENTRIES) / sector;
    second.first_usable = header.first_usable;
    let mut device = image;
    header.write_primary(&mut device, block).doing(Code::Os, doing)?;
    second.write_backup(&mut device, block).doing(Code::Os, doing)?;
    Ok(())
}
