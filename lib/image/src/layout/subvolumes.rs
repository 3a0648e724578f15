//! The subvolumes of a btrfs, and how it is compressed: what only mkfs.btrfs(8) can make, and where it is mounted.

use super::{FileSystemKind, Partition};
use crate::ids::Ids;
use crate::node::is_below;
use crate::{Kind, Node};
use stage::members;
use std::collections::BTreeMap;

/// A subvolume: a directory of the top of a btrfs that is mounted by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subvolume {
    /// Its name.
    pub name: String,
    /// Where in the root it is mounted, as an absolute path.
    pub at: String,
}

/// How mkfs.btrfs compresses, and the highest level: 0 where there is none.
const ALGORITHMS: [(&str, u32); 3] = [("zstd", 15), ("zlib", 9), ("lzo", 0)];

/// The longest name of a file, in bytes.
const LONGEST: usize = 255;

/// Checks what a layout file says of them; the subvolume at the partition's own mount point comes first: it is the default.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub(super) fn check(
    kind: Option<FileSystemKind>,
    at: Option<&str>,
    compress: Option<&str>,
    subvolumes: BTreeMap<String, String>,
) -> Result<Vec<Subvolume>, String> {
    if compress.is_none() && subvolumes.is_empty() {
        return Ok(Vec::new());
    }
    let (Some(FileSystemKind::Btrfs), Some(at)) = (kind, at) else {
        return Err("compress and subvolumes need filesystem = \"btrfs\" and at".to_owned());
    };
    compress.map_or(Ok(()), check_compression)?;
    if subvolumes.is_empty() {
        return Ok(Vec::new());
    }
    let top = at.trim_start_matches('/');
    let mut found: Vec<Subvolume> = Vec::new();
    for (name, point) in subvolumes {
        let shown = name.escape_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._-".contains(c);
        if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(format!("a subvolume has the name '{shown}': use letters, digits, '@', '-', '_' and '.'"));
        }
        let point = super::file::mount_point(point).map_err(|why| format!("subvolume '{shown}': {why}"))?;
        if !is_below(top, point.trim_start_matches('/').as_bytes()) {
            return Err(format!("subvolume '{shown}': '{point}' is not below '{at}', where the partition is mounted"));
        }
        if found.iter().any(|other| other.at == point) {
            return Err(format!("two subvolumes are mounted at '{point}'"));
        }
        found.push(Subvolume { name, at: point });
    }
    found.sort_by(|a, b| (a.at != at, &a.at).cmp(&(b.at != at, &b.at)));
    match found.first() {
        Some(first) if first.at == at => Ok(found),
        _ => Err(format!("no subvolume is mounted at '{at}', as the partition is: add '@' = '{at}'")),
    }
}

fn check_compression(text: &str) -> Result<(), String> {
    let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
    let most = ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, most)| *most);
    let is_level =
        |text: &str, most| text.parse().is_ok_and(|n: u32| (1..=most).contains(&n) && !text.starts_with('+'));
    match (most, level) {
        (Some(_), None) => Ok(()),
        (Some(most), Some(level)) if is_level(level, most) => Ok(()),
        _ => Err(format!(
            "compress is '{}': use zstd, zstd:1 to zstd:15, zlib, zlib:1 to zlib:9, or lzo",
            text.escape_default()
        )),
    }
}

impl Partition {
    /// Returns where its file system is mounted in the root: at more than one place where it has subvolumes.
    #[must_use]
    pub fn mount_points(&self) -> Vec<&str> {
        match self.mounted() {
            Some(_) if !self.subvolumes.is_empty() => self.subvolumes.iter().map(|s| s.at.as_str()).collect(),
            mounted => mounted.map(|(_, at)| at).into_iter().collect(),
        }
    }

    /// Returns all places where fstab(5) has it, as [`Self::in_fstab`].
    #[must_use]
    pub fn points_in_fstab(&self) -> Vec<&str> {
        let swap = self.in_fstab().filter(|(kind, _)| *kind == FileSystemKind::Swap).map(|(_, at)| at);
        self.mount_points().into_iter().chain(swap).collect()
    }

    /// Returns what fstab(5) has of it: more than one file system where it has subvolumes.
    pub(super) fn file_systems(&self, ids: &Ids) -> Vec<(&Self, FileSystemKind, members::FileSystem)> {
        let Some((kind, at)) = self.in_fstab() else { return Vec::new() };
        let of = |at: &str, subvolume: Option<&Subvolume>| {
            let (kind_name, uuid) = (kind.name().to_owned(), self.file_system_id(ids));
            let subvolume = subvolume.map(|subvolume| subvolume.name.clone());
            let at = at.to_owned();
            (self, kind, members::FileSystem { at, kind: kind_name, uuid, subvolume, grows: None })
        };
        match self.subvolumes.is_empty() {
            true => vec![of(at, None)],
            false => self.subvolumes.iter().map(|subvolume| of(&subvolume.at, Some(subvolume))).collect(),
        }
    }

    /// Returns the options of mkfs.btrfs(8) that it takes to make the file system.
    #[must_use]
    pub fn options_of_mkfs(&self) -> Vec<&'static str> {
        let subvolumes = (!self.subvolumes.is_empty()).then_some("--subvol");
        subvolumes.into_iter().chain(self.compress.as_ref().map(|_| "--compress")).collect()
    }

    /// Puts the trees of its mount points, in their order, together to that of the file system.
    ///
    /// `mtime` is the date of the directory that they are in.
    #[must_use]
    pub fn join(&self, mut trees: Vec<Vec<Node>>, mtime: i64) -> Vec<Node> {
        if self.subvolumes.is_empty() {
            return trees.pop().unwrap_or_default();
        }
        let mut all = vec![Node { mtime, ..Node::new(b"", Kind::Directory) }];
        for (subvolume, tree) in self.subvolumes.iter().zip(trees) {
            let first = all.len();
            all.extend(tree.into_iter().map(|mut node| {
                let slash: &[u8] = if node.path.is_empty() { b"" } else { b"/" };
                node.path = [subvolume.name.as_bytes(), slash, &node.path].concat();
                if let Kind::HardLink(n) = &mut node.kind {
                    *n += first;
                }
                node
            }));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;
    use std::path::Path;

    fn parse(more: &str) -> Result<Layout, String> {
        let text = format!(
            "[[partition]]\nname='b'\ntype='esp'\nsize='64M'\nfilesystem='vfat'\nat='/boot'\n\
             [[partition]]\nname='r'\ntype='root'\nsize='rest'\nfilesystem='btrfs'\nat='/'\n{more}"
        );
        Layout::parse("'x'", &text, Path::new("/"), "aarch64").map_err(|failure| failure.message)
    }

    #[test]
    fn the_first_subvolume_is_the_default() {
        let layout = parse("compress='zstd:9'\n[partition.subvolumes]\n'@home'='/home'\n'@'='/'\n'@log'='/var/log'\n");
        let root = &layout.unwrap().partitions[1];
        assert_eq!(root.mount_points(), ["/", "/home", "/var/log"]);
        assert_eq!((root.subvolumes[0].name.as_str(), root.compress.as_deref()), ("@", Some("zstd:9")));
        assert_eq!(root.options_of_mkfs(), ["--subvol", "--compress"]);
        let plain = parse("").unwrap();
        assert_eq!((plain.partitions[1].mount_points(), plain.partitions[1].options_of_mkfs()), (vec!["/"], vec![]));
        assert_eq!(plain.partitions[0].mount_points(), ["/boot"]);
    }

    #[test]
    fn what_mkfs_cannot_make_is_refused() {
        let at = |text: &str| parse(&format!("[partition.subvolumes]\n{text}\n")).unwrap_err();
        for (said, why) in [
            (parse("compress='zstd:16'\n").unwrap_err(), "compress is 'zstd:16'"),
            (parse("compress='lzo:1'\n").unwrap_err(), "compress is 'lzo:1'"),
            (parse("compress='xz'\n").unwrap_err(), "compress is 'xz'"),
            (at("'@home'='/home'"), "no subvolume is mounted at '/'"),
            (at("'@'='/'\n'a/b'='/home'"), "a subvolume has the name 'a/b'"),
            (at("'@'='/'\n'..'='/home'"), "a subvolume has the name '..'"),
            (at("'@'='/'\n'x'='home'"), "subvolume 'x': at is 'home'"),
            (at("'@'='/'\n'x'='/home'\n'y'='/home'"), "two subvolumes are mounted at '/home'"),
            (at("'@'='/'\n'x'='/boot'"), "partition 'r': another partition is mounted at '/boot'"),
        ] {
            assert!(said.contains(why), "{why}: {said}");
        }
        let vfat = "[[partition]]\nname='b'\ntype='esp'\nsize='64M'\nfilesystem='vfat'\nat='/boot'\ncompress='zstd'\n";
        let failure = Layout::parse("'x'", vfat, Path::new("/"), "aarch64").unwrap_err();
        assert!(failure.message.contains("need filesystem = \"btrfs\" and at"), "{failure}");
    }

    #[test]
    fn the_tree_of_each_is_below_its_name() {
        let layout = parse("[partition.subvolumes]\n'@'='/'\n'@home'='/home'\n").unwrap();
        let tree = |names: &[&str]| -> Vec<Node> {
            let node = |name: &&str| match name.strip_prefix('=') {
                Some(name) => Node::new(name.as_bytes(), Kind::HardLink(1)),
                None => Node::new(name.as_bytes(), if name.is_empty() { Kind::Directory } else { Kind::Fifo }),
            };
            names.iter().map(node).collect()
        };
        let all = layout.partitions[1].join(vec![tree(&["", "a"]), tree(&["", "b", "=c"])], 5);
        let paths: Vec<_> = all.iter().map(Node::path_text).collect();
        assert_eq!(paths, ["", "@", "@/a", "@home", "@home/b", "@home/c"]);
        assert_eq!((all[0].mtime, &all[5].kind), (5, &Kind::HardLink(4)));
        assert_eq!(layout.partitions[0].join(vec![tree(&["", "a"])], 5).len(), 2);
    }
}
