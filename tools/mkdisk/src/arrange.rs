//! Where each partition and blob is: from the layout, and from sizes that were measured.

use image::disk::{BOOT_CODE, MBR, MBR_SECTORS, Table};
use image::layout::{ALIGNMENT, Layout, Partition, Size};
use image::size::show;
use serde::{Deserialize, Serialize};
use stage::{Code, Failure};

/// How large something must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// The smallest size that holds what is in it, in bytes.
    pub(crate) least: u64,
    /// The same with headroom.
    pub(crate) roomy: u64,
}

/// A partition's place, in bytes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// A disk.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Arrangement {
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// Its partitions' places, in their order.
    pub(crate) partitions: Vec<Place>,
}

/// Arranges a disk of `size` bytes, or as large as it must be. `needs` is what the partitions need, `blobs` how long the
/// blobs are. Whether a file system of that size holds its files is for the file system.
///
/// # Errors
///
/// [`Code::Failed`] where a size is too small, with the number that would do; where two things overlap.
pub(crate) fn arrange(
    layout: &Layout,
    size: Option<u64>,
    needs: &[Need],
    blobs: &[u64],
) -> Result<Arrangement, Failure> {
    let geometry = &layout.geometry;
    let (first, last, sector) = (geometry.first(), geometry.last(), geometry.sector);
    let mut partitions: Vec<Place> = Vec::new();
    let mut end = first;
    let mut before = "the partition table".to_owned();
    // The least that the disk must be, were its rest as small as it can be.
    let mut least = first;
    for (partition, need) in layout.partitions.iter().zip(needs) {
        let name = &partition.name;
        let start = partition.offset.unwrap_or_else(|| end.next_multiple_of(ALIGNMENT));
        if start < end {
            let (start, end) = (show(start), show(end));
            let why = format!("partition '{name}' begins at {start}, and {before} ends at {end}");
            return Err(refused(why).hint("move it in the layout, or make what is before it smaller"));
        }
        let smallest = need.least.max(partition.minimum).max(sector);
        let bytes = match (partition.size, size) {
            (Size::Bytes(bytes), _) if bytes < need.least => {
                return Err(too_small(name, bytes, need.least));
            }
            (Size::Bytes(bytes), _) => bytes,
            (Size::Auto, _) | (Size::Rest, None) => whole(need.roomy.max(smallest)),
            (Size::Rest, Some(disk)) => (disk.saturating_sub(last) / 4096 * 4096).saturating_sub(start),
        };
        least = match partition.size {
            Size::Rest => start + whole(smallest),
            _ => start + bytes,
        };
        end = start + bytes;
        before = format!("partition '{name}'");
        partitions.push(Place { start, size: bytes });
    }
    for (blob, length) in layout.blobs.iter().zip(blobs) {
        end = end.max(blob.offset + length);
        least = least.max(blob.offset + length);
    }
    let least = whole(least + last);
    let size = size.unwrap_or(whole(end + last));
    if size < least {
        let (size, least) = (show(size), show(least));
        let why = format!("a size of {size} is too small for what is in it: {least} would do");
        let hint = format!("--size {least}, or --size auto, which leaves room");
        return Err(refused(why).hint(hint));
    }
    if size % sector != 0 {
        let (size, would) = (show(size), show(whole(size)));
        let why = format!("a size of {size} is not a multiple of the sectors of {sector} bytes");
        return Err(refused(why).hint(format!("--size {would}")));
    }
    check_numbers(layout, &partitions)?;
    check_blobs(layout, blobs, &partitions)?;
    Ok(Arrangement { size, partitions })
}

/// Says that a partition is too small.
pub(crate) fn too_small(name: &str, bytes: u64, least: u64) -> Failure {
    let (size, least) = (show(bytes), show(whole(least)));
    refused(format!(
        "partition '{name}' of {size} is too small for what is in it: {least} would do"
    ))
    .hint(format!(
        "give it {least} or more (--boot for /boot, --size for the disk, size in a layout), or \"auto\", which leaves room"
    ))
}

/// An MBR counts sectors by 32 bits.
fn check_numbers(layout: &Layout, places: &[Place]) -> Result<(), Failure> {
    let is_mbr = layout.geometry.table == Table::Mbr;
    for (partition, place) in layout.partitions.iter().zip(places) {
        if (is_mbr || partition.in_mbr) && (place.start + place.size) / layout.geometry.sector > MBR_SECTORS {
            let most = show((MBR_SECTORS + 1) * layout.geometry.sector);
            let why = format!("partition '{}' ends behind {most}, where the numbers of an MBR end", partition.name);
            return Err(refused(why).hint("make it smaller, or give a layout with table = \"gpt\""));
        }
    }
    Ok(())
}

/// No blob may overlap the table, a partition or another blob.
fn check_blobs(layout: &Layout, blobs: &[u64], places: &[Place]) -> Result<(), Failure> {
    let of =
        |(p, place): (&Partition, &Place)| (format!("partition '{}'", p.name), place.start, place.start + place.size);
    let geometry = &layout.geometry;
    let tables = geometry.taken().into_iter().map(|range| ("the partition table".to_owned(), range.start, range.end));
    let mut taken: Vec<(String, u64, u64)> = tables.chain(layout.partitions.iter().zip(places).map(of)).collect();
    for (blob, length) in layout.blobs.iter().zip(blobs) {
        let name = format!("blob '{}'", blob.source.show());
        let (start, end) = (blob.offset, blob.offset + length);
        // Of one that is longer than an MBR, the bytes in the table are left out.
        let around = geometry.written(start, *length).len() > 1 && *length > MBR;
        let is_over = |(_, s, e): &&(String, u64, u64)| start < *e && *s < end && !(around && *s == BOOT_CODE);
        let over = taken.iter().find(is_over);
        if let Some((other, begin, _)) = over {
            let (start, begin) = (show(start), show(*begin));
            return Err(refused(format!(
                "{name} of {length} bytes at {start} overlaps {other}, which begins at {begin}"
            ))
            .hint("move one of them in the layout"));
        }
        taken.push((name, start, end));
    }
    Ok(())
}

fn refused(what: String) -> Failure {
    Failure::new(Code::Failed, format!("arranging the disk: {what}"))
}

/// Whole mebibytes.
fn whole(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::disk::Geometry;
    use image::layout::{Blob, Source};

    const M: u64 = 1 << 20;

    fn standard() -> Layout {
        Layout::standard("aarch64").unwrap()
    }

    fn needs() -> [Need; 2] {
        [Need { least: 40 * M, roomy: 50 * M }, Need { least: 500 * M + 1, roomy: 600 * M }]
    }

    #[test]
    fn a_disk_is_as_large_as_it_must_be() {
        let found = arrange(&standard(), None, &needs(), &[]).unwrap();
        assert_eq!(found.partitions, [Place { start: M, size: 256 * M }, Place { start: 257 * M, size: 600 * M }]);
        assert_eq!(found.size, 858 * M);
    }

    #[test]
    fn the_root_has_the_rest_up_to_the_second_table() {
        let found = arrange(&standard(), Some(2 << 30), &needs(), &[]).unwrap();
        let root = found.partitions[1];
        const LAST: u64 = 33 * 512;
        assert!(root.start + root.size <= (2 << 30) - LAST);
        assert_eq!(root.size % 4096, 0);
        assert!(root.start + root.size > (2 << 30) - LAST - 4096);
    }

    #[test]
    fn what_is_too_small_is_refused_with_what_would_do() {
        let failure = arrange(&standard(), Some(700 * M), &needs(), &[]).unwrap_err();
        assert!(failure.message.ends_with("a size of 700M is too small for what is in it: 759M would do"), "{failure}");
        arrange(&standard(), Some(759 * M), &needs(), &[]).unwrap();
        let mut layout = standard();
        layout.partitions[0].size = Size::Bytes(39 * M);
        let failure = arrange(&layout, None, &needs(), &[]).unwrap_err();
        assert!(
            failure.message.contains("partition 'boot' of 39M is too small for what is in it: 40M would do"),
            "{failure}"
        );
    }

    #[test]
    fn blobs_have_a_place_of_their_own() {
        let mut layout = standard();
        let blob = |offset| Blob { name: None, source: Source::Host("x".into()), offset };
        layout.blobs = vec![blob(32 << 10), blob(64 << 10)];
        arrange(&layout, None, &needs(), &[32 << 10, 900 << 10]).unwrap();
        for (lengths, what) in [
            ([(32 << 10) + 1, 1], "overlaps blob 'x'"),
            ([1, 960 << 10], ""),
            ([1, (960 << 10) + 1], "overlaps partition 'boot'"),
        ] {
            match arrange(&layout, None, &needs(), &lengths) {
                Ok(_) => assert_eq!(what, ""),
                Err(failure) => assert!(!what.is_empty() && failure.message.contains(what), "{failure}"),
            }
        }
        // Behind all partitions, a disk is made larger for it.
        layout.blobs = vec![blob(2 << 30)];
        let found = arrange(&layout, None, &needs(), &[M]).unwrap();
        assert_eq!(found.size, (2 << 30) + 2 * M);
        arrange(&layout, Some(2 << 30), &needs(), &[M]).unwrap_err();
    }

    #[test]
    fn the_table_keeps_its_bytes() {
        let with = |table, entries, offset| {
            let mut layout = standard();
            layout.geometry = Geometry { table, entries, ..Geometry::default() };
            layout.blobs = vec![Blob { name: None, source: Source::Host("x".into()), offset }];
            layout.partitions[0].offset = Some(2 * M);
            layout
        };
        let try_at = |layout: &Layout, length| match arrange(layout, None, &needs(), &[length]) {
            Ok(_) => String::new(),
            Err(failure) => failure.message,
        };
        // Boot code, and what a ROM loads around the table of an MBR.
        for (table, entries, offset, length, what) in [
            (Table::Gpt, None, 0, 440, ""),
            (Table::Gpt, None, 0, 441, "of 441 bytes at 0 overlaps the partition table, which begins at 440"),
            (Table::Mbr, None, 0, 440, ""),
            (Table::Mbr, None, 0, 500, "overlaps the partition table"),
            (Table::Mbr, None, 0, M, ""),
            (Table::Mbr, None, 0, 3 * M, "overlaps partition 'boot'"),
            (Table::Gpt, Some(M), 8192, M - 8192, ""),
            (Table::Gpt, Some(M), 8192, M - 8191, "overlaps the partition table, which begins at 1M"),
        ] {
            let said = try_at(&with(table, entries, offset), length);
            assert!(said.is_empty() == what.is_empty() && said.contains(what), "{what}: {said}");
        }
    }

    #[test]
    fn an_mbr_ends_where_its_numbers_do() {
        let mut layout = standard();
        layout.geometry.table = Table::Mbr;
        let failure = arrange(&layout, Some(3 << 40), &needs(), &[]).unwrap_err();
        assert!(failure.message.contains("partition 'root' ends behind 2T"), "{failure}");
        layout.geometry.sector = 4096;
        arrange(&layout, Some(3 << 40), &needs(), &[]).unwrap();
        let failure = arrange(&layout, Some((3 << 40) + 512), &needs(), &[]).unwrap_err();
        assert!(failure.message.contains("not a multiple of the sectors of 4096"), "{failure}");
    }

    #[test]
    fn partitions_that_grew_into_the_next_are_refused() {
        let mut layout = standard();
        layout.partitions[1].offset = Some(100 * M);
        let failure = arrange(&layout, None, &needs(), &[]).unwrap_err();
        assert!(failure.message.contains("'root' begins at 100M, and partition 'boot' ends at 257M"), "{failure}");
    }
}
