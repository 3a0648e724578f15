//! A FAT32 file system: what it can hold, how large it must be, and writing it, whole and once.
//!
//! By hand, since the fatfs crate gives `.` and `..` long names, which fsck.fat(8) repairs in every directory, and the top
//! directory as `..` a number that it must not have (0.3.6, its last release). This goes when a release does not. mkfs.fat(8)
//! makes an empty file system only, and mcopy(1) takes no dates and modes of a tree that is not on the disk. Written once, FAT is simple: each file is one
//! chain of clusters that lie behind each other, in the order of the paths, so the image is a function of what is in it. The
//! format is that of Microsoft's "FAT32 File System Specification" 1.03.
//!
//! FAT has names and bytes, no owners, links or devices: what would not be the same after it went through FAT is refused,
//! with its path.

use crate::bytes::Fields;
use crate::epoch;
use crate::filesystem::{FileSystem, Options, Region, STEP};
use crate::node::{Kind, Node, total};
use crate::tree::Tree;
use stage::{Code, Failure, date};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// The sizes of clusters that are tried, the largest first. None is smaller than a sector.
const CLUSTERS: [u64; 4] = [4096, 2048, 1024, 512];

/// With fewer clusters it would be FAT16 (Microsoft's FAT specification, 3.5), which firmware need not read from a disk.
/// Some more, since programs disagree by a few.
const FEWEST: u64 = 65_525 + 16;

/// Sectors before the tables, as mkfs.fat(8) has them.
const RESERVED: u64 = 32;

/// The largest directory, in bytes: its entries are numbered by 16 bits.
const MOST: u64 = 65_536 * 32;

/// The largest file, in bytes.
const LARGEST: u64 = u32::MAX as u64;

/// A FAT32 file system, all but its size.
#[derive(Debug)]
pub(crate) struct Fat {
    options: Options,
    nodes: Vec<Node>,
    /// How many bytes each node has, a directory by its entries.
    sizes: Vec<u64>,
}

impl Fat {
    /// Makes a file system of nodes: the top first, and each directory before what is in it.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with the path of what FAT cannot hold.
    pub(crate) fn new(nodes: Vec<Node>, options: Options) -> Result<Self, Failure> {
        let refused = |path: &[u8], why: &str| {
            let (path, at) = (options.show(path), stage::quote(&options.at));
            Failure::new(Code::Failed, format!("adding {path} to a FAT file system: {why}"))
                .hint(format!("remove it from the root, or give a layout in which {at} is on ext4"))
        };
        // By what FAT takes for the same name.
        let mut names: HashMap<String, &[u8]> = HashMap::new();
        for node in &nodes {
            check(node).map_err(|why| refused(&node.path, &why))?;
            if let Some(other) = names.insert(folded(&node.path), &node.path) {
                let why = format!("its name differs from that of {} in case only", options.show(other));
                return Err(refused(&node.path, &why));
            }
        }
        let bytes = directories(&nodes);
        if let Some((path, _)) = bytes.iter().filter(|(_, bytes)| **bytes > MOST).min() {
            return Err(refused(path, "it has more names than a directory of 2 MiB holds, which is FAT's largest"));
        }
        let sizes = nodes.iter().map(|node| bytes.get(&*node.path).copied().unwrap_or_else(|| node.size())).collect();
        Ok(Self { options, nodes, sizes })
    }

    /// Returns how many clusters of that size the nodes need.
    fn clusters(&self, cluster: u64) -> u64 {
        self.sizes.iter().map(|size| size.div_ceil(cluster)).sum()
    }

    /// Returns the size of clusters for a partition of `size` bytes; `None` where the nodes do not fit, or it is too small
    /// for FAT32.
    fn cluster_for(&self, size: u64) -> Option<u64> {
        let holds = |cluster: &u64| {
            let has = capacity(size, *cluster, self.options.sector);
            has.is_some_and(|has| has >= FEWEST.max(self.clusters(*cluster)))
        };
        self.cluster_sizes().find(holds)
    }

    fn cluster_sizes(&self) -> impl Iterator<Item = u64> + use<> {
        let sector = self.options.sector;
        CLUSTERS.into_iter().filter(move |cluster| *cluster >= sector)
    }
}

impl FileSystem for Fat {
    fn content(&self) -> u64 {
        total(&self.nodes)
    }

    fn smallest(&self, spare: u64) -> Result<u64, Failure> {
        let of = |cluster: u64| {
            let need = (self.clusters(cluster) + spare.div_ceil(cluster)).max(FEWEST);
            let mut size = (need * cluster).next_multiple_of(STEP);
            while capacity(size, cluster, self.options.sector).is_none_or(|has| has < need) {
                size += STEP;
            }
            size
        };
        Ok(self.cluster_sizes().map(of).min().unwrap_or(u64::MAX))
    }

    fn fits(&self, size: u64) -> bool {
        self.cluster_for(size).is_some()
    }

    fn largest(&self) -> u64 {
        // Clusters of 4 KiB are numbered by 28 bits.
        0x0fff_fff4 * 4096
    }

    fn write(&self, to: &Region<'_>, tree: &Tree) -> Result<(), Failure> {
        let cluster = self.cluster_for(to.size).ok_or_else(|| Failure::new(Code::Failed, "the file system is full"))?;
        let places = Places::new(self, to.size, cluster);
        let boot = places.boot_sector(to.start)?;
        let info = places.info_sector();
        let sector = self.options.sector;
        for copy in [0, 6] {
            to.write(copy * sector, &boot)?;
            to.write((copy + 1) * sector, &info)?;
        }
        let table = places.table();
        for copy in 0..2 {
            to.write((RESERVED + copy * places.table_sectors) * sector, &table)?;
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let offset = places.offset(places.first[n]);
            if node.kind == Kind::Directory {
                to.write(offset, &places.directory(n))?;
            } else {
                let content = tree.open_content(node)?;
                to.copy(&content, 0..content.size(), offset)?;
                content.check_unchanged()?;
            }
        }
        Ok(())
    }
}

/// Returns what FAT takes for the same name, whatever the case.
fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_uppercase()
}

/// Checks that FAT can hold a node, or says why not.
fn check(node: &Node) -> Result<(), String> {
    let what = match &node.kind {
        Kind::File(content) if content.size() > LARGEST => "a file that is larger than 4 GiB",
        Kind::Directory | Kind::File(_) => "",
        Kind::HardLink(_) => "another name of a file, a hard link",
        Kind::Symlink(_) => "a symbolic link",
        Kind::Fifo => "a fifo",
        Kind::Character(..) | Kind::Block(..) => "a device",
    };
    if !what.is_empty() {
        return Err(format!("it is {what}, which FAT does not have"));
    }
    if (node.uid, node.gid) != (0, 0) {
        return Err(format!("it belongs to {}:{}, and FAT has no owners", node.uid, node.gid));
    }
    if node.mode & 0o6000 != 0 {
        return Err("it has set-uid or set-gid, which FAT does not have".to_owned());
    }
    if let Some((name, _)) = node.xattrs.first() {
        let name = String::from_utf8_lossy(name);
        return Err(format!("it has the extended attribute '{}', and FAT has none", name.escape_default()));
    }
    let Ok(name) = std::str::from_utf8(node.split_path().1) else {
        return Err("its name is not UTF-8".to_owned());
    };
    if let Some(c) = name.chars().find(|c| c.is_control() || "\"*:<>?\\|".contains(*c)) {
        return Err(format!("its name has '{}' in it", c.escape_default()));
    }
    if name.ends_with(['.', ' ']) || name.starts_with(' ') || name.encode_utf16().count() > 255 {
        return Err(
            "its name begins with a space, ends with a space or a dot, or is longer than 255 characters".to_owned()
        );
    }
    Ok(())
}

/// Returns how many bytes each directory has.
fn directories(nodes: &[Node]) -> HashMap<&[u8], u64> {
    let mut bytes: HashMap<&[u8], u64> = HashMap::new();
    for node in nodes {
        // The directory itself: '.' and '..', and in the top one a label.
        if node.kind == Kind::Directory {
            *bytes.entry(&node.path).or_default() += if node.path.is_empty() { 32 } else { 64 };
        }
        if !node.path.is_empty() {
            let (above, name) = node.split_path();
            let name = String::from_utf8_lossy(name);
            // One entry, and as many as the long name needs.
            let long = if short_form(&name).is_some() { 0 } else { name.encode_utf16().count().div_ceil(13) };
            *bytes.entry(above).or_default() += 32 * (1 + long as u64);
        }
    }
    bytes
}

/// Returns the sectors of each of the two tables: four bytes for each cluster and for two more. They are a multiple of eight,
/// so that clusters begin at whole blocks of a flash memory.
fn table(sectors: u64, cluster: u64, sector: u64) -> u64 {
    let most = sectors / (cluster / sector) + 2;
    (most * 4).div_ceil(sector).next_multiple_of(8)
}

/// Returns how many clusters of that size a partition has; `None` where it has no room for any.
fn capacity(size: u64, cluster: u64, sector: u64) -> Option<u64> {
    let sectors = size / sector;
    let data = sectors.checked_sub(RESERVED + 2 * table(sectors, cluster, sector))?;
    Some(data / (cluster / sector))
}

/// Where everything is.
struct Places<'a> {
    fs: &'a Fat,
    sectors: u64,
    cluster: u64,
    table_sectors: u64,
    /// The first cluster of each node, or 0 where it has none.
    first: Vec<u64>,
    /// How many clusters each has.
    count: Vec<u64>,
    /// What is in each directory.
    below: HashMap<&'a [u8], Vec<usize>>,
    /// The first cluster of each directory but the top one, which is called 0 whatever it is.
    directories: HashMap<&'a [u8], u64>,
    /// The first cluster that is free.
    next: u64,
}

impl<'a> Places<'a> {
    /// The nodes fit: see [`Fat::cluster_for`].
    fn new(fs: &'a Fat, size: u64, cluster: u64) -> Self {
        let mut below: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (n, node) in fs.nodes.iter().enumerate() {
            if !node.path.is_empty() {
                below.entry(node.split_path().0).or_default().push(n);
            }
        }
        let sector = fs.options.sector;
        let sectors = size / sector;
        let mut places = Self {
            fs,
            sectors,
            cluster,
            table_sectors: table(sectors, cluster, sector),
            first: Vec::new(),
            count: Vec::new(),
            below,
            directories: HashMap::new(),
            next: 2,
        };
        for (node, size) in fs.nodes.iter().zip(&fs.sizes) {
            let count = size.div_ceil(cluster);
            let first = if count == 0 { 0 } else { places.next };
            if node.kind == Kind::Directory && !node.path.is_empty() {
                places.directories.insert(&node.path, first);
            }
            places.first.push(first);
            places.count.push(count);
            places.next += count;
        }
        places
    }

    /// Returns where a cluster is, in bytes.
    fn offset(&self, cluster: u64) -> u64 {
        let data = (RESERVED + 2 * self.table_sectors) * self.fs.options.sector;
        data + cluster.saturating_sub(2) * self.cluster
    }

    fn boot_sector(&self, start: u64) -> Result<Vec<u8>, Failure> {
        let options = &self.fs.options;
        let mut raw = vec![0; 512];
        raw.put(0, b"\xeb\x58\x90mkdisk  ");
        raw.le16(11, options.sector);
        raw.put(13, &[(self.cluster / options.sector) as u8]);
        raw.le16(14, RESERVED);
        raw.put(16, &[2]); // tables
        raw.put(21, &[0xf8]); // a fixed disk
        raw.le16(24, 63); // a geometry, which nobody asks for any more
        raw.le16(26, 255);
        raw.le32(28, (start / options.sector).min(u32::MAX.into())); // sectors before the partition
        raw.le32(32, self.sectors);
        raw.le32(36, self.table_sectors);
        raw.le32(44, 2); // the top directory's cluster
        raw.le16(48, 1); // the information sector
        raw.le16(50, 6); // the copy of this sector
        raw.put(64, &[0x80, 0, 0x29]);
        raw.le32(67, options.number()? as u64);
        raw.put(71, &label(options.label.as_deref().unwrap_or("NO NAME")));
        raw.put(82, b"FAT32   ");
        raw.put(510, &[0x55, 0xaa]);
        Ok(raw)
    }

    fn info_sector(&self) -> Vec<u8> {
        let all = (self.sectors - RESERVED - 2 * self.table_sectors) / (self.cluster / self.fs.options.sector);
        let mut raw = vec![0; 512];
        raw.put(0, b"RRaA");
        raw.put(484, b"rrAa");
        raw.le32(488, all + 2 - self.next);
        raw.le32(492, self.next);
        raw.put(510, &[0x55, 0xaa]);
        raw
    }

    /// Returns the table as far as it is in use.
    fn table(&self) -> Vec<u8> {
        const END: u64 = 0x0fff_ffff;
        let mut table = vec![0x0fff_fff8, END];
        for (first, count) in self.first.iter().zip(&self.count) {
            table.extend(first + 1..first + count);
            table.extend((*count > 0).then_some(END));
        }
        let bytes = |n: u64| n.to_le_bytes().into_iter().take(4);
        table.into_iter().flat_map(bytes).collect()
    }

    /// Returns the entries of a directory.
    fn directory(&self, n: usize) -> Vec<u8> {
        let (nodes, options) = (&self.fs.nodes, &self.fs.options);
        let node = &nodes[n];
        let mut raw = Vec::new();
        if node.path.is_empty() {
            if let Some(text) = &options.label {
                raw.extend(entry(&label(text), 0x08, 0, 0, options.time.cast_signed()));
            }
        } else {
            let above = self.directories.get(node.split_path().0).copied().unwrap_or(0);
            raw.extend(entry(b".          ", 0x10, self.first[n], 0, node.mtime));
            raw.extend(entry(b"..         ", 0x10, above, 0, node.mtime));
        }
        let below = self.below.get(node.path.as_slice()).map_or(&[][..], Vec::as_slice);
        let mut shorts = ShortNames::new(below.iter().map(|n| nodes[*n].split_path().1));
        for n in below {
            let node = &nodes[*n];
            let name = String::from_utf8_lossy(node.split_path().1);
            let short = shorts.of(&name);
            if short_form(&name).is_none() {
                raw.extend(long_name(&name, &short));
            }
            let kind = if node.kind == Kind::Directory { 0x10 } else { 0x20 };
            raw.extend(entry(&short, kind, self.first[*n], node.size(), node.mtime));
        }
        raw
    }
}

/// Returns a directory's entry of 32 bytes.
fn entry(name: &[u8; 11], attributes: u8, cluster: u64, size: u64, time: i64) -> [u8; 32] {
    let (date, time) = date_time(time);
    let mut raw = [0; 32];
    raw.put(0, name);
    raw.put(11, &[attributes]);
    for (time_at, date_at) in [(14, 16), (22, 24)] {
        raw.le16(time_at, time);
        raw.le16(date_at, date);
    }
    raw.le16(18, date); // last accessed
    raw.le16(20, cluster >> 16);
    raw.le16(26, cluster);
    raw.le32(28, size);
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
        Self { taken: names.map(folded).collect(), last: HashMap::new() }
    }

    /// Returns a file's: its name where it is one, else one that no other file has.
    fn of(&mut self, name: &str) -> [u8; 11] {
        if let Some(short) = short_form(name) {
            return short;
        }
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let simple = |text: &str, most: usize| -> Vec<u8> {
            let kept = text.bytes().filter(u8::is_ascii_alphanumeric);
            kept.map(|b| b.to_ascii_uppercase()).take(most).collect()
        };
        let (base, extension) = (simple(base, 6), simple(extension, 3));
        let n = self.last.entry((base.clone(), extension.clone())).or_default();
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
fn short_form(name: &str) -> Option<[u8; 11]> {
    let fits = |text: &str, most: usize| {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"_-~!#$%&'()@^{}`".contains(&b);
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
    format!("{}.{}", text(&short[..8]), text(&short[8..])).trim_end_matches('.').to_owned()
}

/// Returns the entries that have the long name of a file, which come before its own.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let sum = short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
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
    let (base, extension) = text.as_bytes().split_at(text.len().min(8));
    padded(base, extension)
}

/// Returns a date and a time as FAT has them: from 1980 to 2107, in steps of two seconds, and of no time zone; ours are UTC.
fn date_time(seconds: i64) -> (u64, u64) {
    const FIRST: i64 = 315_532_800;
    let text = date::time(seconds.clamp(FIRST, epoch::LAST.cast_signed()).cast_unsigned());
    let number = |range: Range<usize>| text[range].parse::<u64>().unwrap_or_default();
    let date = (number(0..4) - 1980) << 9 | number(5..7) << 5 | number(8..10);
    let time = number(11..13) << 11 | number(14..16) << 5 | (number(17..19) / 2);
    (date, time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Content, RootFile, Seen};
    use stage::Progress;
    use std::io::Read;
    use std::path::Path;
    use std::process::Command;

    fn node(path: &str, kind: Kind) -> Node {
        Node { mtime: 1_700_000_000, ..Node::new(path.as_bytes(), kind) }
    }

    /// A file that has its path in it, and sevens.
    fn file(path: &str, size: u64) -> Node {
        if size > 1 << 30 {
            let seen = Seen::of(&rustix::fs::stat("/").unwrap());
            let (path, sparse) = (path.into(), false);
            let root = RootFile { path, size, sparse, seen };
            return node("large", Kind::File(Content::Root(root)));
        }
        let mut text = Vec::new();
        let content = path.as_bytes().chain(std::io::repeat(7));
        content.take(size).read_to_end(&mut text).unwrap();
        node(path, Kind::File(Content::Text(text)))
    }

    fn fat(nodes: &[Node]) -> Fat {
        Fat::new(nodes.to_vec(), options()).unwrap()
    }

    fn options() -> Options {
        Options {
            at: "/boot".to_owned(),
            uuid: "1A2B-3C4D".to_owned(),
            seed: [0; 16],
            label: Some("BOOT".to_owned()),
            time: 1_700_000_000,
            sector: 512,
            ..Options::default()
        }
    }

    fn sample() -> Vec<Node> {
        let mut nodes = vec![node("", Kind::Directory), node("dtbs", Kind::Directory)];
        nodes.extend((0..300).map(|n| file(&format!("dtbs/rather-long-name-of-a-board-{n}.dtb"), n * 40)));
        nodes.push(file("Image", 5_000_000));
        nodes.push(file("UPPER.TXT", 0));
        nodes.push(file("initramfs-linux.img", 1 << 20));
        nodes
    }

    fn written(fat: &Fat, size: u64) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        image.as_file().set_len(size).unwrap();
        let to = Region { image: image.as_file(), start: 0, size, progress: &Progress::hidden() };
        fat.write(&to, &crate::tree::tests::tree(Path::new("/var/tmp"))).unwrap();
        image
    }

    #[test]
    fn fsck_and_mtools_find_what_was_put_in() {
        let nodes = sample();
        for spare in [0, 200 << 20] {
            let fat = fat(&nodes);
            let size = fat.smallest(spare).unwrap();
            assert!(fat.fits(size));
            let image = written(&fat, size);
            fsck(&image);
            let out = Command::new("mdir").args(["-/", "-b", "-i"]).arg(image.path()).arg("::").output();
            let out = out.expect("mdir: install mtools");
            let names = String::from_utf8_lossy(&out.stdout);
            assert_eq!(names.lines().count(), 304, "{names}");
            assert!(names.contains("::/initramfs-linux.img"), "{names}");
        }
    }

    /// Runs one of mtools on an image, and returns what it says.
    fn mtools(program: &str, image: &tempfile::NamedTempFile, path: &str) -> Vec<u8> {
        let mut command = Command::new(program);
        let out = command.arg("-i").arg(image.path()).arg(format!("::{path}")).output();
        let out = out.expect("install mtools");
        assert!(out.status.success(), "{program} {path}: {out:?}");
        out.stdout
    }

    fn fsck(image: &tempfile::NamedTempFile) {
        let out = Command::new("/usr/sbin/fsck.vfat").arg("-n").arg(image.path()).output();
        let out = out.expect("fsck.vfat: install dosfstools");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.lines().count() == 2, "{said}");
    }

    #[test]
    fn each_file_is_found_by_its_name() {
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
        let parts = ["A", "b", "~1", "~2", "~", "+", " ", ".", "C", "\u{e9}", "abcdef"];
        let mut random = 1u64;
        let mut next = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % most
        };
        for _ in 0..300 {
            let count = 1 + next(5);
            names.push((0..count).map(|_| parts[next(parts.len())]).collect());
        }
        let mut nodes = vec![node("", Kind::Directory), node("A b~1", Kind::Directory)];
        for name in &names {
            for path in [name.clone(), format!("A b~1/{name}")] {
                let size = path.len() as u64;
                nodes.push(file(&path, size));
                if Fat::new(nodes.clone(), options()).is_err() {
                    nodes.pop();
                }
            }
        }
        assert!(nodes.len() > 300, "{}", nodes.len());
        let fat = fat(&nodes);
        let image = written(&fat, fat.smallest(0).unwrap());
        fsck(&image);
        for node in nodes.iter().filter(|n| n.kind != Kind::Directory) {
            let path = std::str::from_utf8(&node.path).unwrap();
            assert_eq!(mtools("mtype", &image, path), node.path, "{path}");
        }
    }

    #[test]
    fn a_directory_of_more_than_fat_has_is_refused() {
        // With '.' and '..' it has 65536 entries: as many as there can be. Long names have two.
        let mut nodes = vec![node("", Kind::Directory), node("D", Kind::Directory)];
        nodes.extend((0..65_530).map(|n| file(&format!("D/{n:X}"), 0)));
        nodes.extend([file("D/x", 0), file("D/y", 0)]);
        let fat = fat(&nodes);
        let image = written(&fat, fat.smallest(0).unwrap());
        fsck(&image);
        let said = mtools("mdir", &image, "D");
        assert!(String::from_utf8_lossy(&said).contains("65534 files"));
        for more in [file("D/Z", 0), file("D/z", 0), node("D/Z", Kind::Directory)] {
            nodes.push(more);
            let failure = Fat::new(nodes.clone(), options()).unwrap_err();
            let begins = "adding '/boot/D' to a FAT file system: it has more names than";
            assert!(failure.message.starts_with(begins), "{failure}");
            nodes.pop();
        }
        // The top has no '.' and '..', and may have a label.
        let mut nodes = vec![node("", Kind::Directory)];
        nodes.extend((0..65_535).map(|n| file(&format!("{n:X}"), 0)));
        Fat::new(nodes.clone(), options()).unwrap();
        nodes.push(file("Z", 0));
        Fat::new(nodes.clone(), options()).unwrap_err();
    }

    #[test]
    fn the_image_depends_on_nothing_but_what_is_in_it() {
        let nodes = sample();
        let fat = fat(&nodes);
        let size = fat.smallest(0).unwrap();
        let read = || std::fs::read(written(&fat, size).path()).unwrap();
        assert!(read() == read());
    }

    #[test]
    fn what_is_full_to_the_last_cluster_fits() {
        let size = 40 << 20;
        for cluster in CLUSTERS {
            let Some(has) = capacity(size, cluster, 512).filter(|has| *has >= FEWEST) else {
                continue;
            };
            let full = fat(&[node("", Kind::Directory), file("x", (has - 1) * cluster)]);
            assert_eq!(full.clusters(cluster), has);
            written(&full, size);
            let more = [node("", Kind::Directory), file("x", (has - 1) * cluster + 1)];
            assert!(!fat(&more).fits(size));
        }
    }

    #[test]
    fn what_fat_cannot_hold_is_refused() {
        let owned = |uid, mode, xattrs| Node { uid, mode, xattrs, ..file("x", 1) };
        for (bad, why) in [
            (node("l", Kind::Symlink(b"x".to_vec())), "a symbolic link"),
            (node("l", Kind::HardLink(0)), "a hard link"),
            (node("l", Kind::Fifo), "a fifo"),
            (node("l", Kind::Block(1, 1)), "a device"),
            (file("large", 1 << 32), "larger than 4 GiB"),
            (owned(5, 0, Vec::new()), "belongs to 5:0"),
            (owned(0, 0o4755, Vec::new()), "set-uid"),
            (owned(0, 0, vec![(b"user.x".to_vec(), Vec::new())]), "'user.x'"),
            (file("a/b:c", 1), "':' in it"),
            (file("a\nb", 1), "in it"),
            (file("a.", 1), "a dot"),
            (file("a ", 1), "ends with a space"),
            (file("IMAGE", 1), "in case only"),
        ] {
            let nodes = vec![node("", Kind::Directory), file("Image", 1), bad];
            let failure = Fat::new(nodes.clone(), options()).unwrap_err();
            assert!(failure.message.contains(why), "{failure}");
            assert!(failure.message.starts_with("adding '/boot/"), "{failure}");
        }
        fat(&sample());
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
