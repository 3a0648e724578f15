//! Which file goes into which file system.
//!
//! The tree of the root is one; a disk has several file systems, each with what is below its mount point. The mount point
//! itself stays in the one around it, empty, and is the top of the one that is mounted there. What boots is added here: it
//! exists in the image only.

use image::node::is_below;
use image::{Kind, Node};
use stage::{Code, Failure};
use std::collections::HashMap;

/// Splits a tree by mount points, absolute paths: the nodes of each, the top first and each directory before what is in it.
/// `added` are files with paths of the root; `now` is the date of the directories that they need.
///
/// # Errors
///
/// [`Code::Failed`] where something else has the name of a directory or file that is needed.
pub(crate) fn split(nodes: &[Node], added: &[Node], points: &[&str], now: i64) -> Result<Vec<Vec<Node>>, Failure> {
    let mut all = Split {
        points: points.iter().map(|p| p.trim_start_matches('/')).collect(),
        nodes: vec![Vec::new(); points.len()],
        index: vec![HashMap::new(); points.len()],
        now,
    };
    // What a file of the tree became, by file system: its other names lead there.
    let mut became: HashMap<(usize, usize), usize> = HashMap::new();
    for (n, node) in nodes.iter().enumerate() {
        all.check_point(node)?;
        for place in all.places_of(&node.path, node.kind == Kind::Directory) {
            let first = match node.kind {
                Kind::HardLink(first) => first,
                _ => n,
            };
            let kind = match became.get(&(place, first)) {
                Some(index) => Kind::HardLink(*index),
                None => nodes[first].kind.clone(),
            };
            let index = all.put(place, Node { kind, ..node.clone() });
            became.entry((place, first)).or_insert(index);
        }
    }
    for point in all.points.clone() {
        all.make_directories(point.as_bytes())?;
    }
    for file in added {
        all.add(file)?;
    }
    Ok(all.nodes)
}

struct Split<'a> {
    /// The mount points, without a slash at their beginning.
    points: Vec<&'a str>,
    nodes: Vec<Vec<Node>>,
    /// Where in those each path is.
    index: Vec<HashMap<Vec<u8>, usize>>,
    now: i64,
}

impl Split<'_> {
    /// A mount point must be a directory.
    fn check_point(&self, node: &Node) -> Result<(), Failure> {
        let is_point = self.points.iter().any(|p| p.as_bytes() == node.path);
        if !is_point || node.kind == Kind::Directory {
            return Ok(());
        }
        let path = stage::quote(format!("/{}", node.path_text()));
        let why = format!("putting {path} of the root on its own partition: it is not a directory");
        Err(Failure::new(Code::Failed, why).hint("give a layout that mounts nothing there"))
    }

    /// Returns the file systems that a path is in: two for a mount point.
    fn places_of(&self, path: &[u8], directory: bool) -> Vec<usize> {
        let deepest = |strictly: bool| {
            let points = self.points.iter().enumerate();
            points
                .filter(|(_, p)| is_below(p, path) && !(strictly && p.as_bytes() == path))
                .max_by_key(|(_, p)| p.len())
                .map(|(n, _)| n)
        };
        let mut places: Vec<usize> = deepest(true).into_iter().collect();
        places.extend(deepest(false).filter(|n| directory && !places.contains(n)));
        places
    }

    /// Returns a path of the root as that file system has it.
    fn below(&self, place: usize, path: &[u8]) -> Vec<u8> {
        let rest = &path[self.points[place].len()..];
        rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
    }

    /// Puts a node with a path of the root into a file system, in the place of one that is there.
    fn put(&mut self, place: usize, mut node: Node) -> usize {
        node.path = self.below(place, &node.path);
        let nodes = &mut self.nodes[place];
        let index = *self.index[place].entry(node.path.clone()).or_insert(nodes.len());
        if index < nodes.len() {
            nodes[index] = node;
        } else {
            nodes.push(node);
        }
        index
    }

    /// Makes the directories of a path, and the path itself, where they are not there.
    fn make_directories(&mut self, path: &[u8]) -> Result<(), Failure> {
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends = slashes.map(|(n, _)| n).chain([path.len()]);
        for end in [0].into_iter().chain(ends) {
            let path = &path[..end];
            for place in self.places_of(path, true) {
                match self.get(place, path).map(|node| &node.kind) {
                    Some(Kind::Directory) => {}
                    Some(_) => return Err(not_added(path)),
                    None => {
                        let mtime = self.now;
                        let node = Node::new(path, Kind::Directory);
                        self.put(place, Node { mtime, ..node });
                    }
                }
            }
        }
        Ok(())
    }

    fn get(&self, place: usize, path: &[u8]) -> Option<&Node> {
        let index = self.index[place].get(&self.below(place, path))?;
        self.nodes[place].get(*index)
    }

    /// Adds a file, in the place of one that is there.
    fn add(&mut self, file: &Node) -> Result<(), Failure> {
        self.make_directories(file.split_path().0)?;
        for place in self.places_of(&file.path, false) {
            match self.get(place, &file.path).map(|node| &node.kind) {
                None | Some(Kind::File(_)) => self.put(place, file.clone()),
                Some(_) => return Err(not_added(&file.path)),
            };
        }
        Ok(())
    }
}

fn not_added(path: &[u8]) -> Failure {
    let path = stage::quote(format!("/{}", String::from_utf8_lossy(path)));
    Failure::new(
        Code::Failed,
        format!("adding {path} to the root: a file of another type has that name, and no link is followed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Content;
    use std::collections::BTreeMap;

    fn text(text: &str) -> Kind {
        Kind::File(Content::Text(text.into()))
    }

    fn tree() -> Vec<Node> {
        [
            ("", Kind::Directory),
            ("boot", Kind::Directory),
            ("boot/Image", text("abc")),
            ("boot/linked", Kind::HardLink(2)),
            ("bootstrap", text("a")),
            ("home", Kind::Directory),
            ("home/u", Kind::Directory),
            ("usr", Kind::Directory),
            ("usr/copy", Kind::HardLink(2)),
            ("usr/copy2", Kind::HardLink(2)),
            ("usr/link", Kind::Symlink(b"x".to_vec())),
        ]
        .map(|(path, kind)| Node::new(path.as_bytes(), kind))
        .to_vec()
    }

    fn split_at(points: &[&str], added: &[Node]) -> Vec<BTreeMap<String, Kind>> {
        let split = split(&tree(), added, points, 9).unwrap();
        let kinds = |nodes: Vec<Node>| {
            let nodes = nodes.into_iter();
            nodes.map(|n| (n.path_text(), n.kind)).collect()
        };
        split.into_iter().map(kinds).collect()
    }

    #[test]
    fn each_file_is_in_the_file_system_that_is_mounted_there() {
        let split = split_at(&["/boot", "/", "/efi/x"], &[]);
        let names = |n: usize| split[n].keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(0), ["", "Image", "linked"]);
        assert_eq!(
            names(1),
            ["", "boot", "bootstrap", "efi", "efi/x", "home", "home/u", "usr", "usr/copy", "usr/copy2", "usr/link"]
        );
        assert_eq!(names(2), [""]);
        assert_eq!(split[0]["linked"], Kind::HardLink(1));
        // The first of the names that are left is the file, and the others lead to it.
        assert_eq!(split[1]["usr/copy"], text("abc"));
        assert!(matches!(split[1]["usr/copy2"], Kind::HardLink(_)));
        assert_eq!(split[1]["boot"], Kind::Directory);
    }

    #[test]
    fn what_is_added_replaces_files_and_nothing_else() {
        let added = |path: &str| Node::new(path.as_bytes(), text("new"));
        let split_ok = split_at(&["/", "/boot"], &[added("boot/a/b/c"), added("boot/Image")]);
        assert_eq!(split_ok[1]["a/b"], Kind::Directory);
        assert_eq!(split_ok[1]["Image"], text("new"));
        for path in ["boot/Image/x", "usr/link", "usr/link/x", "home"] {
            split(&tree(), &[added(path)], &["/"], 9).unwrap_err();
        }
    }

    #[test]
    fn nothing_is_mounted_on_what_is_no_directory() {
        for point in ["/usr/link", "/boot/Image", "/boot/Image/x"] {
            split(&tree(), &[], &["/", point], 9).unwrap_err();
        }
    }
}
