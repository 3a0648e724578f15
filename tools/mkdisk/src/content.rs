//! Which file goes into which file system.
//!
//! The tree of the root is one; a disk has several file systems, each with what is below its mount point. The mount point
//! itself stays in the one around it, empty, and is the top of the one that is mounted there. What boots is added here: it
//! exists in the image only.

use image::{Entry, Kind, Xattr};
use stage::{Code, Failure};
use std::collections::HashMap;

/// A file of one file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Its path below the file system's top; empty for that.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    /// Permissions, and set-uid, set-gid and sticky bit.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<Xattr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    /// A regular file: its size, and where its bytes come from.
    File(u64, Body),
    /// Another name of the item with that index.
    Link(usize),
    Symlink(Vec<u8>),
    Fifo,
    Character(u32, u32),
    Block(u32, u32),
}

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The entry of the root's tree with that index.
    Root(usize),
    /// A text of ours.
    Made(Vec<u8>),
}

/// A file that is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    /// Its path below the root.
    pub(crate) path: String,
    pub(crate) body: Body,
    pub(crate) size: u64,
}

/// Splits a tree by mount points, absolute paths: the items of each, in the order of their paths. `now` is the date of what
/// is added.
pub(crate) fn split(
    entries: &[Entry],
    added: &[Added],
    points: &[String],
    now: i64,
) -> Result<Vec<Vec<Item>>, Failure> {
    let mut all = Split {
        points: points.iter().map(|p| p.trim_start_matches('/')).collect(),
        items: vec![Vec::new(); points.len()],
        places: vec![HashMap::new(); points.len()],
        now,
    };
    // What an entry of the tree became, by file system: links lead there.
    let mut became: HashMap<(usize, usize), usize> = HashMap::new();
    for (n, entry) in entries.iter().enumerate() {
        all.check_point(entry)?;
        for place in all.places_of(&entry.path, entry.kind == Kind::Directory) {
            let first = if let Kind::HardLink(first) = entry.kind {
                first
            } else {
                n
            };
            let what = match became.get(&(place, first)) {
                Some(item) => What::Link(*item),
                None => what(entries, first),
            };
            let item = Item {
                path: below(all.points[place], &entry.path).to_vec(),
                what,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
            };
            let index = all.put(place, item);
            became.entry((place, first)).or_insert(index);
        }
    }
    for point in points {
        all.directories(point.trim_start_matches('/').as_bytes())?;
    }
    for file in added {
        all.add(file)?;
    }
    Ok(all.items)
}

fn what(entries: &[Entry], n: usize) -> What {
    match &entries[n].kind {
        Kind::Directory => What::Directory,
        Kind::File { size, .. } => What::File(*size, Body::Root(n)),
        // A link leads to an earlier entry that is none.
        Kind::HardLink(first) => What::Link(*first),
        Kind::Symlink(target) => What::Symlink(target.clone()),
        Kind::Fifo => What::Fifo,
        Kind::Character(major, minor) => What::Character(*major, *minor),
        Kind::Block(major, minor) => What::Block(*major, *minor),
    }
}

struct Split<'a> {
    /// The mount points, without a slash at their beginning.
    points: Vec<&'a str>,
    items: Vec<Vec<Item>>,
    /// Where in those each path is.
    places: Vec<HashMap<Vec<u8>, usize>>,
    now: i64,
}

impl Split<'_> {
    /// What is mounted on must be a directory.
    fn check_point(&self, entry: &Entry) -> Result<(), Failure> {
        let is_point = self.points.iter().any(|p| p.as_bytes() == entry.path);
        if is_point && entry.kind != Kind::Directory {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(Failure::new(
                Code::Failed,
                format!(
                    "putting '/{path}' of the root on a partition of its own: it is no directory"
                ),
            )
            .hint("give a layout that mounts nothing there"));
        }
        Ok(())
    }

    /// Returns the file systems that a path is in: two for a mount point.
    fn places_of(&self, path: &[u8], directory: bool) -> Vec<usize> {
        let holds = |p: &&str| is_below(p, path);
        let deepest = |strictly: bool| {
            self.points
                .iter()
                .enumerate()
                .filter(|(_, p)| holds(p) && !(strictly && p.as_bytes() == path))
                .max_by_key(|(_, p)| p.len())
                .map(|(n, _)| n)
        };
        let mut places: Vec<usize> = deepest(true).into_iter().collect();
        if let Some(own) = deepest(false).filter(|n| directory && !places.contains(n)) {
            places.push(own);
        }
        places
    }

    fn put(&mut self, place: usize, item: Item) -> usize {
        let index = self.items[place].len();
        self.places[place].insert(item.path.clone(), index);
        self.items[place].push(item);
        index
    }

    /// Makes the directories of a path, and the path itself, where they are not there.
    fn directories(&mut self, path: &[u8]) -> Result<(), Failure> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let mut paths: Vec<&[u8]> = vec![b""];
        paths.extend(ends.map(|(n, _)| &path[..n]));
        if !path.is_empty() {
            paths.push(path);
        }
        for path in paths {
            for place in self.places_of(path, true) {
                let below = below(self.points[place], path).to_vec();
                match self.places[place].get(&below) {
                    Some(n) if self.items[place][*n].what == What::Directory => {}
                    Some(_) => return Err(in_the_way(path)),
                    None => {
                        let item = made(below, What::Directory, 0o755, self.now);
                        self.put(place, item);
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &Added) -> Result<(), Failure> {
        let path = file.path.as_bytes();
        if let Some((above, _)) = file.path.rsplit_once('/') {
            self.directories(above.as_bytes())?;
        }
        for place in self.places_of(path, false) {
            let below = below(self.points[place], path).to_vec();
            let what = What::File(file.size, file.body.clone());
            let item = made(below, what, 0o644, self.now);
            match self.places[place].get(&item.path) {
                None => {
                    self.put(place, item);
                }
                Some(n) if matches!(self.items[place][*n].what, What::File(..)) => {
                    let n = *n;
                    self.items[place][n] = item;
                }
                Some(_) => return Err(in_the_way(path)),
            }
        }
        Ok(())
    }
}

/// Splits a path into its directory and its name.
pub(crate) fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(n) => (&path[..n], &path[n + 1..]),
        None => (&[], path),
    }
}

/// Returns a path of a file system that is mounted at `at`, as it stands in a message.
pub(crate) fn show(at: &str, path: &[u8]) -> String {
    let at = at.trim_end_matches('/');
    stage::quote(format!("{at}/{}", String::from_utf8_lossy(path)))
}

/// Returns the top directory of a file system with nothing in it.
pub(crate) fn top(now: i64) -> Item {
    made(Vec::new(), What::Directory, 0o755, now)
}

fn made(path: Vec<u8>, what: What, mode: u32, mtime: i64) -> Item {
    Item {
        path,
        what,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

fn in_the_way(path: &[u8]) -> Failure {
    let path = String::from_utf8_lossy(path).into_owned();
    Failure::new(
        Code::Failed,
        format!(
            "adding to '/{path}' of the root: something else is there, and nothing is followed"
        ),
    )
}

/// Returns whether a path is at or below a mount point.
pub(crate) fn is_below(point: &str, path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(point.as_bytes()) else {
        return false;
    };
    point.is_empty() || rest.is_empty() || rest.starts_with(b"/")
}

/// Returns what is behind the mount point.
fn below<'a>(point: &str, path: &'a [u8]) -> &'a [u8] {
    let rest = &path[point.len()..];
    rest.strip_prefix(b"/").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tree() -> Vec<Entry> {
        let file = |size| Kind::File { size, mended: None };
        [
            ("", Kind::Directory),
            ("boot", Kind::Directory),
            ("boot/Image", file(3)),
            ("boot/linked", Kind::HardLink(2)),
            ("bootstrap", file(1)),
            ("home", Kind::Directory),
            ("home/u", Kind::Directory),
            ("usr", Kind::Directory),
            ("usr/copy", Kind::HardLink(2)),
            ("usr/copy2", Kind::HardLink(2)),
            ("usr/link", Kind::Symlink(b"x".to_vec())),
        ]
        .map(|(path, kind)| Entry::unseen(path.as_bytes(), kind))
        .to_vec()
    }

    fn split_at(points: &[&str], added: &[Added]) -> Vec<BTreeMap<String, What>> {
        let points: Vec<String> = points.iter().map(|p| (*p).to_owned()).collect();
        let items = split(&tree(), added, &points, 9).unwrap();
        items
            .into_iter()
            .map(|items| {
                items
                    .into_iter()
                    .map(|i| (String::from_utf8(i.path).unwrap(), i.what))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn each_file_is_in_the_file_system_that_is_mounted_there() {
        let split = split_at(&["/boot", "/", "/efi/x"], &[]);
        let names = |n: usize| split[n].keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(0), ["", "Image", "linked"]);
        assert_eq!(
            names(1),
            [
                "",
                "boot",
                "bootstrap",
                "efi",
                "efi/x",
                "home",
                "home/u",
                "usr",
                "usr/copy",
                "usr/copy2",
                "usr/link"
            ]
        );
        assert_eq!(names(2), [""]);
        assert_eq!(split[0]["linked"], What::Link(1));
        // The first of the names that are left is the file, and the others lead to it.
        assert_eq!(split[1]["usr/copy"], What::File(3, Body::Root(2)));
        assert!(matches!(split[1]["usr/copy2"], What::Link(_)));
        assert_eq!(split[1]["boot"], What::Directory);
    }

    #[test]
    fn what_is_added_replaces_files_and_nothing_else() {
        let added = |path: &str| Added {
            path: path.to_owned(),
            body: Body::Made(b"new".to_vec()),
            size: 3,
        };
        let split_ok = split_at(&["/", "/boot"], &[added("boot/a/b/c"), added("boot/Image")]);
        assert_eq!(split_ok[1]["a/b"], What::Directory);
        assert_eq!(
            split_ok[1]["Image"],
            What::File(3, Body::Made(b"new".to_vec()))
        );
        let root = ["/".to_owned()];
        for path in ["boot/Image/x", "usr/link", "usr/link/x", "home"] {
            split(&tree(), &[added(path)], &root, 9).unwrap_err();
        }
    }

    #[test]
    fn nothing_is_mounted_on_what_is_no_directory() {
        for point in ["/usr/link", "/boot/Image", "/boot/Image/x"] {
            let points = ["/".to_owned(), point.to_owned()];
            split(&tree(), &[], &points, 9).unwrap_err();
        }
    }
}
