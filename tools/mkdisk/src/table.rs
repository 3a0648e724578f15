//! The partition table: a GPT with its second copy at the end, and the MBR that protects it (UEFI 2.10, 5).

use crate::arrange::Arrangement;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use image::ids::Ids;
use image::layout::{Layout, SECTOR};
use stage::{Code, Doing, Failure};
use std::collections::BTreeMap;
use std::fs::File;
use uuid::Uuid;

/// Writes it into the image, which has its size already.
pub(crate) fn write(image: &File, layout: &Layout, places: &Arrangement, ids: &Ids) -> Result<(), Failure> {
    let doing = || "writing the partition table";
    let uuid = |text: &str| Uuid::parse_str(text).doing(Code::Os, doing);
    let mut partitions = BTreeMap::new();
    for ((n, partition), place) in (1..).zip(&layout.partitions).zip(&places.partitions) {
        let entry = Partition {
            part_type_guid: Type { guid: uuid(&partition.kind)?, os: OperatingSystem::None },
            part_guid: uuid(&partition.id(ids))?,
            first_lba: place.start / SECTOR,
            last_lba: (place.start + place.size) / SECTOR - 1,
            flags: partition.attributes,
            name: partition.name.clone(),
        };
        partitions.insert(n, entry);
    }
    // All of the disk, as far as 32 bits go.
    let sectors = u32::try_from(places.size / SECTOR - 1).unwrap_or(u32::MAX);
    let mut device = image;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut device).doing(Code::Os, doing)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .create_from_device(device, Some(uuid(&ids.uuid("disk"))?))
        .doing(Code::Os, doing)?;
    table.update_partitions(partitions).doing(Code::Os, doing)?;
    table.write().doing(Code::Os, doing)?;
    Ok(())
}
