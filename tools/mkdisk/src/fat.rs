//! A FAT32 file system: what it can hold, how large it must be, and writing it, whole and once.
//!
//! The fatfs crate was tried first. 0.3.6, its last release, gives `.` and `..` long names, which fsck.fat(8) mends in every
//! directory, and the top directory as `..` a number that it must not have. Written once, FAT is simple: each file is one
//! chain of clusters that lie behind each other, in the order of the paths, so the image is a function of what is in it. The
//! format is that of Microsoft's "FAT32 File System Specification" 1.03.
//!
//! FAT has names and bytes, no owners, links or devices: what would not be the same after it went through FAT is refused,
//! with its path.

use crate::content::{Item, What, show, split_path};
use stage::{Code, Doing, Failure};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

const SECTOR: u64 = 512;

/// The sizes of clusters that are tried, the largest first.
const CLUSTERS: [u64; 4] = [4096, 2048, 1024, 512];

/// With fewer clusters it would be FAT16 (Microsoft's FAT specification, 3.5), which firmware need not read from a disk.
/// Some more, since programs disagree by a few.
const FEWEST: u64 = 65_525 + 16;

/// Sectors before the tables, as mkfs.fat(8) has them.
const RESERVED: u64 = 32;

/// The largest file system, in bytes: clusters of 4 KiB are numbered by 28 bits.
pub(crate) const LARGEST_SYSTEM: u64 = 0x0fff_fff4 * 4096;

/// The largest directory, in bytes: its entries are numbered by 16 bits.
const MOST: u64 = 65_536 * 32;

/// The largest file, in bytes.
const LARGEST: u64 = u32::MAX as u64;

/// Refuses what FAT cannot hold. `at` is where the file system is mounted.
pub(crate) fn check(items: &[Item], at: &str) -> Result<(), Failure> {
    // By what FAT takes for the same name.
    let mut names: HashMap<String, &[u8]> = HashMap::new();
    for item in items {
        if let Err(why) = fits(item) {
            return Err(refused(at, &item.path, &why));
        }
        if let Some(other) = names.insert(folded(&item.path), &item.path) {
            let other = show(at, other);
            let why = format!("its name differs from that of {other} in case only");
            return Err(refused(at, &item.path, &why));
        }
    }
    let mut directories: Vec<_> = directories(items).into_iter().collect();
    directories.sort_unstable();
    match directories.into_iter().find(|(_, bytes)| *bytes > MOST) {
        Some((path, _)) => {
            let why = "it has more names than a directory of 2 MiB holds, which is FAT's largest";
            Err(refused(at, path, why))
        }
        None => Ok(()),
    }
}

/// Returns what FAT takes for the same name, whatever the case.
fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_uppercase()
}

fn refused(at: &str, path: &[u8], why: &str) -> Failure {
    let path = show(at, path);
    Failure::new(
        Code::Failed,
        format!("putting {path} into a FAT file system: {why}"),
    )
    .hint(format!(
        "remove it from the root, or give a layout in which {} is on ext4",
        stage::quote(at)
    ))
}

fn fits(item: &Item) -> Result<(), String> {
    let what = match &item.what {
        What::Directory => "",
        What::File(size, _) if *size > LARGEST => "a file that is larger than 4 GiB",
        What::File(..) => "",
        What::Link(_) => "another name of a file, a hard link",
        What::Symlink(_) => "a symbolic link",
        What::Fifo => "a fifo",
        What::Character(..) | What::Block(..) => "a device",
    };
    if !what.is_empty() {
        return Err(format!("it is {what}, which FAT does not have"));
    }
    if (item.uid, item.gid) != (0, 0) {
        return Err(format!(
            "it belongs to {}:{}, and FAT has no owners",
            item.uid, item.gid
        ));
    }
    if item.mode & 0o6000 != 0 {
        return Err("it has set-uid or set-gid, which FAT does not have".to_owned());
    }
    if let Some((name, _)) = item.xattrs.first() {
        return Err(format!(
            "it has the extended attribute '{}', and FAT has none",
            String::from_utf8_lossy(name).escape_default()
        ));
    }
    let name = item.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let Ok(name) = std::str::from_utf8(name) else {
        return Err("its name is not UTF-8".to_owned());
    };
    if let Some(c) = name
        .chars()
        .find(|c| c.is_control() || "\"*:<>?\\|".contains(*c))
    {
        return Err(format!("its name has '{}' in it", c.escape_default()));
    }
    if name.ends_with(['.', ' ']) || name.starts_with(' ') || name.encode_utf16().count() > 255 {
        return Err("FAT has no place for its name".to_owned());
    }
    Ok(())
}

/// Returns how many bytes each directory has.
fn directories(items: &[Item]) -> HashMap<&[u8], u64> {
    let mut bytes: HashMap<&[u8], u64> = HashMap::new();
    for item in items {
        // The directory itself: '.' and '..', and in the top one a label.
        if item.what == What::Directory {
            *bytes.entry(&item.path).or_default() += if item.path.is_empty() { 32 } else { 64 };
        }
        if !item.path.is_empty() {
            let (above, name) = split_path(&item.path);
            let name = String::from_utf8_lossy(name);
            // One entry, and as many as the long name needs.
            let long = match itself(&name) {
                Some(_) => 0,
                None => name.encode_utf16().count().div_ceil(13) as u64,
            };
            *bytes.entry(above).or_default() += 32 * (1 + long);
        }
    }
    bytes
}

/// Returns how many clusters of that size the items need.
fn clusters(items: &[Item], cluster: u64) -> u64 {
    let files = items.iter().map(|item| match item.what {
        What::File(size, _) => size.div_ceil(cluster),
        _ => 0,
    });
    let directories = directories(items);
    let directories = directories.values().map(|b| b.div_ceil(cluster).max(1));
    files.sum::<u64>() + directories.sum::<u64>()
}

/// Returns the sectors of each of the two tables: four bytes for each cluster and for two more. They are a multiple of eight,
/// so that clusters begin at whole blocks of a flash memory.
fn table(sectors: u64, cluster: u64) -> u64 {
    let most = sectors / (cluster / SECTOR) + 2;
    (most * 4).div_ceil(SECTOR).next_multiple_of(8)
}

/// Returns how many clusters of that size a partition has; `None` where it has no room for any.
fn capacity(size: u64, cluster: u64) -> Option<u64> {
    let sectors = size / SECTOR;
    let data = sectors.checked_sub(RESERVED + 2 * table(sectors, cluster))?;
    Some(data / (cluster / SECTOR))
}

/// Returns the size of clusters for a partition of `size` bytes; `None` where the items do not fit, or it is too small for
/// FAT32.
pub(crate) fn cluster_for(items: &[Item], size: u64) -> Option<u64> {
    CLUSTERS.into_iter().find(|cluster| {
        capacity(size, *cluster)
            .is_some_and(|has| has >= FEWEST && has >= clusters(items, *cluster))
    })
}

/// Returns the smallest size, a multiple of `step`, that holds the items and leaves `spare` bytes.
pub(crate) fn smallest(items: &[Item], spare: u64, step: u64) -> u64 {
    let of = |cluster: u64| {
        let need = (clusters(items, cluster) + spare.div_ceil(cluster)).max(FEWEST);
        let mut size = (need * cluster).next_multiple_of(step);
        while capacity(size, cluster).is_none_or(|has| has < need) {
            size += step;
        }
        size
    };
    CLUSTERS.into_iter().map(of).min().unwrap_or(u64::MAX)
}

/// What a volume is called.
#[derive(Debug)]
pub(crate) struct Volume<'a> {
    pub(crate) serial: u32,
    pub(crate) label: Option<&'a str>,
    /// When it was made, in seconds since 1970.
    pub(crate) time: i64,
}

/// Writes the file system at byte `base` of the image, where there are only zeros. `copy` writes what is in a file to an offset of
/// the image.
///
/// # Errors
///
/// Those of `copy`, and when the image cannot be written.
pub(crate) fn write<'a>(
    items: &'a [Item],
    at: &str,
    volume: &Volume<'_>,
    (image, base, size): (&File, u64, u64),
    mut copy: impl FnMut(&'a Item, u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let doing = || format!("writing the FAT file system of {}", stage::quote(at));
    let full = || Failure::new(Code::Failed, format!("{}: it is full", doing()));
    let cluster = cluster_for(items, size).ok_or_else(full)?;
    let places = Places::new(items, volume, size, cluster);
    let put = |offset: u64, bytes: &[u8]| {
        image
            .write_all_at(bytes, base + offset)
            .doing(Code::Os, doing)
    };
    let boot = places.boot_sector(volume, base);
    let info = places.info_sector();
    for copy in [0, 6] {
        put(copy * SECTOR, &boot)?;
        put((copy + 1) * SECTOR, &info)?;
    }
    let table = places.table();
    for copy in 0..2 {
        put((RESERVED + copy * places.table_sectors) * SECTOR, &table)?;
    }
    for (n, item) in items.iter().enumerate() {
        let offset = places.offset(places.first[n]);
        match &item.what {
            What::File(0, _) => {}
            What::File(..) => {
                let doing = || format!("writing {}", show(at, &item.path));
                copy(item, base + offset).map_err(|e| e.while_doing(doing()))?;
            }
            _ => put(offset, &places.directory(items, n, volume))?,
        }
    }
    Ok(())
}

/// Where everything is.
struct Places<'a> {
    sectors: u64,
    cluster: u64,
    table_sectors: u64,
    /// The first cluster of each item, or 0 where it has none.
    first: Vec<u64>,
    /// How many clusters each has.
    count: Vec<u64>,
    /// What is in each directory, by index.
    below: HashMap<&'a [u8], Vec<usize>>,
    index: HashMap<&'a [u8], usize>,
    /// The first cluster that is free.
    next: u64,
}

impl<'a> Places<'a> {
    /// The items fit: see [`cluster_for`].
    fn new(items: &'a [Item], volume: &Volume<'_>, size: u64, cluster: u64) -> Self {
        let mut below: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut index = HashMap::new();
        for (n, item) in items.iter().enumerate() {
            index.insert(item.path.as_slice(), n);
            if !item.path.is_empty() {
                below.entry(split_path(&item.path).0).or_default().push(n);
            }
        }
        let sectors = size / SECTOR;
        let mut places = Self {
            sectors,
            cluster,
            table_sectors: table(sectors, cluster),
            first: vec![0; items.len()],
            count: vec![0; items.len()],
            below,
            index,
            next: 2,
        };
        for (n, item) in items.iter().enumerate() {
            let bytes = match item.what {
                What::File(size, _) => size,
                _ => places.directory(items, n, volume).len() as u64,
            };
            places.count[n] = bytes.div_ceil(cluster);
            places.first[n] = if bytes == 0 { 0 } else { places.next };
            places.next += places.count[n];
        }
        places
    }

    /// Returns where a cluster is, in bytes.
    fn offset(&self, cluster: u64) -> u64 {
        let data = (RESERVED + 2 * self.table_sectors) * SECTOR;
        data + cluster.saturating_sub(2) * self.cluster
    }

    fn boot_sector(&self, volume: &Volume<'_>, base: u64) -> Vec<u8> {
        let mut raw = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\xeb\x58\x90mkdisk  ");
        put(11, &le16(SECTOR));
        put(13, &le16(self.cluster / SECTOR)[..1]);
        put(14, &le16(RESERVED));
        put(16, &[2]); // tables
        put(21, &[0xf8]); // a fixed disk
        put(24, &le16(63)); // a geometry, which nobody asks for any more
        put(26, &le16(255));
        put(28, &le32(base / SECTOR)); // sectors before the partition
        put(32, &le32(self.sectors));
        put(36, &le32(self.table_sectors));
        put(44, &le32(2)); // the top directory's cluster
        put(48, &le16(1)); // the information sector
        put(50, &le16(6)); // the copy of this sector
        put(64, &[0x80, 0, 0x29]);
        put(67, &volume.serial.to_le_bytes());
        put(71, &label(volume.label.unwrap_or("NO NAME")));
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        raw
    }

    fn info_sector(&self) -> Vec<u8> {
        let all = (self.sectors - RESERVED - 2 * self.table_sectors) / (self.cluster / SECTOR);
        let mut raw = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"RRaA");
        put(484, b"rrAa");
        put(488, &le32(all + 2 - self.next));
        put(492, &le32(self.next));
        put(510, &[0x55, 0xaa]);
        raw
    }

    /// Returns the table as far as it is in use.
    fn table(&self) -> Vec<u8> {
        const END: u64 = 0x0fff_ffff;
        let mut table = vec![0x0fff_fff8, END];
        for (first, count) in self.first.iter().zip(&self.count) {
            for n in 0..*count {
                table.push(if n + 1 == *count { END } else { first + n + 1 });
            }
        }
        table.into_iter().flat_map(le32).collect()
    }

    /// Returns the entries of a directory.
    fn directory(&self, items: &[Item], n: usize, volume: &Volume<'_>) -> Vec<u8> {
        let item = &items[n];
        let mut raw = Vec::new();
        if item.path.is_empty() {
            if let Some(text) = volume.label {
                raw.extend(entry(&label(text), 0x08, 0, 0, volume.time));
            }
        } else {
            // The top directory is called 0 here, whatever its cluster.
            let above = split_path(&item.path).0;
            let above = self.index.get(above).filter(|_| !above.is_empty());
            let above = above.map_or(0, |n| self.first[*n]);
            raw.extend(entry(b".          ", 0x10, self.first[n], 0, item.mtime));
            raw.extend(entry(b"..         ", 0x10, above, 0, item.mtime));
        }
        let below = self.below.get(item.path.as_slice());
        let below = || below.into_iter().flatten();
        let names = below().map(|n| split_path(&items[*n].path).1);
        let mut shorts = ShortNames::new(names);
        for below in below() {
            let (name, item) = (split_path(&items[*below].path).1, &items[*below]);
            let name = String::from_utf8_lossy(name);
            let short = shorts.of(&name);
            if itself(&name).is_none() {
                raw.extend(long_name(&name, &short));
            }
            let (kind, size) = match item.what {
                What::File(size, _) => (0x20, size),
                _ => (0x10, 0),
            };
            raw.extend(entry(&short, kind, self.first[*below], size, item.mtime));
        }
        if raw.is_empty() {
            raw.push(0);
        }
        raw.resize(
            raw.len()
                .next_multiple_of(usize::try_from(self.cluster).unwrap_or(512)),
            0,
        );
        raw
    }
}

/// Returns a directory's entry of 32 bytes.
fn entry(name: &[u8; 11], attributes: u8, cluster: u64, size: u64, time: i64) -> [u8; 32] {
    let (date, time) = date_time(time);
    let mut raw = [0; 32];
    let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(11, &[attributes]);
    for (time_at, date_at) in [(14, 16), (22, 24)] {
        put(time_at, &time.to_le_bytes());
        put(date_at, &date.to_le_bytes());
    }
    put(18, &date.to_le_bytes()); // last accessed
    put(20, &le16(cluster >> 16));
    put(26, &le16(cluster & 0xffff));
    put(28, &le32(size));
    raw
}

/// The names of eight and three characters of a directory. No two are the same, and none is what a file of it is called: FAT
/// looks for a name among both, whatever their case.
struct ShortNames {
    /// What has been given out, and what files are called, in upper case.
    taken: HashSet<String>,
    /// The number that was last tried for what names begin with.
    last: HashMap<(Vec<u8>, Vec<u8>), u32>,
}

impl ShortNames {
    fn new<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        Self {
            taken: names.map(folded).collect(),
            last: HashMap::new(),
        }
    }

    /// Returns a file's: its name where it is one, else one that no other file has.
    fn of(&mut self, name: &str) -> [u8; 11] {
        if let Some(short) = itself(name) {
            return short;
        }
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let simple = |text: &str, most: usize| -> Vec<u8> {
            let kept = text.bytes().filter(u8::is_ascii_alphanumeric);
            kept.map(|b| b.to_ascii_uppercase()).take(most).collect()
        };
        let (base, extension) = (simple(base, 6), simple(extension, 3));
        let n = self
            .last
            .entry((base.clone(), extension.clone()))
            .or_default();
        loop {
            *n += 1;
            let tail = format!("~{n}").into_bytes();
            let kept = base.len().min(8 - tail.len());
            let short = padded(&[&base[..kept], &tail].concat(), &extension);
            if self.taken.insert(shown(&short)) {
                return short;
            }
        }
    }
}

/// Returns a name as a name of eight and three characters, where it is one.
fn itself(name: &str) -> Option<[u8; 11]> {
    let fits = |text: &str, most: usize| {
        let plain = |b: u8| {
            b.is_ascii_uppercase() || b.is_ascii_digit() || b"_-~!#$%&'()@^{}`".contains(&b)
        };
        text.len() <= most && text.bytes().all(plain)
    };
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let is_short = !base.is_empty() && fits(base, 8) && fits(extension, 3) && !name.ends_with('.');
    is_short.then(|| padded(base.as_bytes(), extension.as_bytes()))
}

fn padded(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// Returns a short name as it is shown where there is no long one.
fn shown(short: &[u8; 11]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match (text(&short[..8]), text(&short[8..])) {
        (base, extension) if extension.is_empty() => base,
        (base, extension) => format!("{base}.{extension}"),
    }
}

/// Returns the entries that have the long name of a file, which come before its own.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let sum = short
        .iter()
        .fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = units.len().div_ceil(13);
    // The end is marked where there is room, and the rest is filled.
    if units.len() < count * 13 {
        units.push(0);
        units.resize(count * 13, 0xffff);
    }
    let mut raw = Vec::new();
    for (n, units) in units.chunks(13).enumerate().rev() {
        let last = if n + 1 == count { 0x40 } else { 0 };
        let bytes: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
        raw.push(u8::try_from(n + 1).unwrap_or(0x3f) | last);
        raw.extend(&bytes[..10]);
        raw.extend([0x0f, 0, sum]);
        raw.extend(&bytes[10..22]);
        raw.extend([0, 0]);
        raw.extend(&bytes[22..]);
    }
    raw
}

fn label(text: &str) -> [u8; 11] {
    let mut padded = [b' '; 11];
    for (to, from) in padded.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    padded
}

fn le16(n: u64) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes()
}

fn le32(n: u64) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

/// Returns a date and a time as FAT has them: from 1980 to 2107, in steps of two seconds, and of no time zone; ours are UTC.
fn date_time(seconds: i64) -> (u16, u16) {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_199;
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date, counted from March of year 0 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let date = (year - 1980) << 9 | month << 5 | day;
    let (hours, minutes, twos) = (second / 3600, second / 60 % 60, second % 60 / 2);
    let time = hours << 11 | minutes << 5 | twos;
    let small = |n: i64| u16::try_from(n).unwrap_or_default();
    (small(date), small(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Body;
    use std::io::Read;
    use std::process::Command;

    fn item(path: &str, what: What) -> Item {
        Item {
            path: path.as_bytes().to_vec(),
            what,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            xattrs: Vec::new(),
        }
    }

    fn file(path: &str, size: u64) -> Item {
        item(path, What::File(size, Body::Made(Vec::new())))
    }

    fn sample() -> Vec<Item> {
        let mut items = vec![item("", What::Directory), item("dtbs", What::Directory)];
        items.extend(
            (0..300).map(|n| file(&format!("dtbs/rather-long-name-of-a-board-{n}.dtb"), n * 40)),
        );
        items.push(file("Image", 5_000_000));
        items.push(file("UPPER.TXT", 0));
        items.push(file("initramfs-linux.img", 1 << 20));
        items
    }

    /// Writes them; each file has its path in it, and sevens.
    fn written(items: &[Item], size: u64) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        image.as_file().set_len(size).unwrap();
        let volume = Volume {
            serial: 0x1a2b_3c4d,
            label: Some("BOOT"),
            time: 1_700_000_000,
        };
        let place = (image.as_file(), 0, size);
        write(items, "/boot", &volume, place, |item, offset| {
            let What::File(size, _) = item.what else {
                panic!("{item:?}");
            };
            let mut content = Vec::new();
            item.path
                .chain(std::io::repeat(7))
                .take(size)
                .read_to_end(&mut content)
                .unwrap();
            image
                .as_file()
                .write_all_at(&content, offset)
                .doing(Code::Os, || "")
        })
        .unwrap();
        image
    }

    #[test]
    fn fsck_and_mtools_find_what_was_put_in_at_the_smallest_size() {
        let items = sample();
        for spare in [0, 200 << 20] {
            let size = smallest(&items, spare, 1 << 20);
            assert!(cluster_for(&items, size).is_some());
            let image = written(&items, size);
            fsck(&image);
            let out = Command::new("mdir")
                .args(["-/", "-b", "-i"])
                .arg(image.path())
                .arg("::")
                .output();
            let out = out.expect("mdir: install mtools");
            let names = String::from_utf8_lossy(&out.stdout);
            assert_eq!(names.lines().count(), 304, "{names}");
            assert!(names.contains("::/initramfs-linux.img"), "{names}");
        }
    }

    /// Runs one of mtools on an image, and returns what it says.
    fn mtools(program: &str, image: &tempfile::NamedTempFile, path: &str) -> Vec<u8> {
        let mut command = Command::new(program);
        let out = command
            .arg("-i")
            .arg(image.path())
            .arg(format!("::{path}"))
            .output();
        let out = out.expect("install mtools");
        assert!(out.status.success(), "{program} {path}: {out:?}");
        out.stdout
    }

    fn fsck(image: &tempfile::NamedTempFile) {
        let out = Command::new("/usr/sbin/fsck.vfat")
            .arg("-n")
            .arg(image.path())
            .output();
        let out = out.expect("fsck.vfat: install dosfstools");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.lines().count() == 2, "{said}");
    }

    #[test]
    fn each_file_is_found_by_its_name_whatever_the_others_are_called() {
        let mut names: Vec<String> = [
            "A b",
            "AB~1",
            "ab~2",
            "Ab+",
            "BOOT",
            "long name.img",
            "LONGNA~1.IMG",
            "LONGNA~2.img",
            "longname.img",
            "~1",
            "+",
            ".x",
            "~1.X",
            "EDIT~9",
            "e di t",
            "e d it",
            "ed i t",
            "e.d.it",
        ]
        .map(str::to_owned)
        .into();
        // Names of few letters and many tildes, so that they often meet.
        let parts = [
            "A", "b", "~1", "~2", "~", "+", " ", ".", "C", "\u{e9}", "abcdef",
        ];
        let mut random = 1u64;
        let mut next = |most: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % most
        };
        for _ in 0..300 {
            let count = 1 + next(5);
            names.push((0..count).map(|_| parts[next(parts.len())]).collect());
        }
        let mut items = vec![item("", What::Directory), item("A b~1", What::Directory)];
        for name in &names {
            for path in [name.clone(), format!("A b~1/{name}")] {
                let size = path.len() as u64;
                items.push(file(&path, size));
                if check(&items, "/boot").is_err() {
                    items.pop();
                }
            }
        }
        assert!(items.len() > 300, "{}", items.len());
        let image = written(&items, smallest(&items, 0, 1 << 20));
        fsck(&image);
        for item in items.iter().filter(|i| i.what != What::Directory) {
            let path = std::str::from_utf8(&item.path).unwrap();
            assert_eq!(mtools("mtype", &image, path), item.path, "{path}");
        }
    }

    #[test]
    fn a_directory_of_more_than_fat_has_is_refused() {
        // With '.' and '..' it has 65536 entries: as many as there can be. Long names have two.
        let mut items = vec![item("", What::Directory), item("D", What::Directory)];
        items.extend((0..65_530).map(|n| file(&format!("D/{n:X}"), 0)));
        items.extend([file("D/x", 0), file("D/y", 0)]);
        check(&items, "/boot").unwrap();
        let image = written(&items, smallest(&items, 0, 1 << 20));
        fsck(&image);
        let said = mtools("mdir", &image, "D");
        assert!(String::from_utf8_lossy(&said).contains("65534 files"));
        for more in [file("D/Z", 0), file("D/z", 0), item("D/Z", What::Directory)] {
            items.push(more);
            let failure = check(&items, "/boot").unwrap_err();
            let begins = "putting '/boot/D' into a FAT file system: it has more names than";
            assert!(failure.message.starts_with(begins), "{failure}");
            items.pop();
        }
        // The top has no '.' and '..', and may have a label.
        let mut items = vec![item("", What::Directory)];
        items.extend((0..65_535).map(|n| file(&format!("{n:X}"), 0)));
        check(&items, "/boot").unwrap();
        items.push(file("Z", 0));
        check(&items, "/boot").unwrap_err();
    }

    #[test]
    fn the_image_depends_on_nothing_but_what_is_in_it() {
        let items = sample();
        let size = smallest(&items, 0, 1 << 20);
        let read = || std::fs::read(written(&items, size).path()).unwrap();
        assert!(read() == read());
    }

    #[test]
    fn what_is_full_to_the_last_cluster_fits() {
        let size = 40 << 20;
        for cluster in CLUSTERS {
            let Some(has) = capacity(size, cluster).filter(|has| *has >= FEWEST) else {
                continue;
            };
            let full = [item("", What::Directory), file("x", (has - 1) * cluster)];
            assert_eq!(clusters(&full, cluster), has);
            written(&full, size);
            let more = [
                item("", What::Directory),
                file("x", (has - 1) * cluster + 1),
            ];
            assert_eq!(cluster_for(&more, size), None);
        }
    }

    #[test]
    fn what_fat_cannot_hold_is_refused() {
        let owned = |uid, mode, xattrs| Item {
            uid,
            mode,
            xattrs,
            ..file("x", 1)
        };
        for (bad, why) in [
            (item("l", What::Symlink(b"x".to_vec())), "a symbolic link"),
            (item("l", What::Link(0)), "a hard link"),
            (item("l", What::Fifo), "a fifo"),
            (item("l", What::Block(1, 1)), "a device"),
            (file("large", 1 << 32), "larger than 4 GiB"),
            (owned(5, 0, Vec::new()), "belongs to 5:0"),
            (owned(0, 0o4755, Vec::new()), "set-uid"),
            (
                owned(0, 0, vec![(b"user.x".to_vec(), Vec::new())]),
                "'user.x'",
            ),
            (file("a/b:c", 1), "':' in it"),
            (file("a\nb", 1), "in it"),
            (file("a.", 1), "no place"),
            (file("a ", 1), "no place"),
            (file("IMAGE", 1), "in case only"),
        ] {
            let items = [item("", What::Directory), file("Image", 1), bad];
            let failure = check(&items, "/boot").unwrap_err();
            assert!(failure.message.contains(why), "{failure}");
            assert!(failure.message.starts_with("putting '/boot/"), "{failure}");
        }
        check(&sample(), "/boot").unwrap();
    }

    #[test]
    fn dates_are_utc_and_within_what_fat_has() {
        let of = |seconds| {
            let (date, time) = date_time(seconds);
            let date = ((date >> 9) + 1980, date >> 5 & 15, date & 31);
            (date, (time >> 11, time >> 5 & 63, (time & 31) * 2))
        };
        assert_eq!(of(0), ((1980, 1, 1), (0, 0, 0)));
        assert_eq!(of(951_827_696), ((2000, 2, 29), (12, 34, 56)));
        assert_eq!(of(1_700_000_000), ((2023, 11, 14), (22, 13, 20)));
        assert_eq!(of(i64::MAX), ((2107, 12, 31), (23, 59, 58)));
    }

    #[test]
    fn short_names_are_unique_and_no_file_s_name() {
        let names = [
            "IMAGE",
            "UPPER.TXT",
            "Image.gz",
            "initramfs-linux.img",
            "initramfs-linux-fallback.img",
            ".x",
            "\u{fc}\u{fc}",
            "a.tar.gz",
            "A b",
            "AB~1",
            "x y",
            "xy~1",
            "x+y",
            "XY~3",
        ];
        let mut shorts = ShortNames::new(names.iter().map(|n| n.as_bytes()));
        let of = names.map(|name| shown(&shorts.of(name)));
        let expected = [
            "IMAGE",
            "UPPER.TXT",
            "IMAGE~1.GZ",
            "INITRA~1.IMG",
            "INITRA~2.IMG",
            "~1.X",
            "~1",
            "ATAR~1.GZ",
            "AB~2",
            "AB~1",
            "XY~2",
            "XY1~1",
            "XY~4",
            "XY~3",
        ];
        assert_eq!(of, expected);
    }
}
