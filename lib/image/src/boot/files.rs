//! The files of an image by their paths in the root: those of the tree, and those that are added.

use crate::node::is_below;
use crate::reader::Reader;
use crate::{Kind, Node, Tree};
use stage::{Code, Failure};
use std::collections::HashMap;
use std::io;

/// The longest text that is read, in bytes. `modules.alias` of a distribution's kernel has 2 MiB.
const LONGEST: u64 = 64 << 20;

/// The longest configuration that is read, in bytes: a line of it may be an entry.
pub(super) const LONGEST_CONFIGURATION: u64 = 1 << 20;

/// How many links are followed.
const LINKS: usize = 8;

#[derive(Debug)]
pub(super) struct Files<'a> {
    tree: &'a Tree,
    nodes: HashMap<&'a [u8], &'a Node>,
    /// The paths on a FAT, which has no case, by those in lower case.
    on_fat: HashMap<Vec<u8>, &'a [u8]>,
}

impl<'a> Files<'a> {
    /// `fat` are the mount points of the file systems that have no case, below the root.
    pub(super) fn new(tree: &'a Tree, nodes: &'a [Node], added: &'a [Node], fat: &[&str]) -> Self {
        let of_tree = nodes.iter().map(|node| match node.kind {
            Kind::HardLink(first) => (node.path.as_slice(), &nodes[first]),
            _ => (node.path.as_slice(), node),
        });
        let added = added.iter().map(|node| (node.path.as_slice(), node));
        let nodes: HashMap<&[u8], &Node> = of_tree.chain(added).collect();
        let on_fat = nodes.keys().filter(|path| fat.iter().any(|point| is_below(point, path)));
        let on_fat = on_fat.map(|path| (path.to_ascii_lowercase(), *path)).collect();
        Self { tree, nodes, on_fat }
    }

    /// Returns a regular file; a link in the place of the file is followed.
    pub(super) fn find(&self, path: &str) -> Option<&'a Node> {
        let mut path = path.as_bytes().to_owned();
        for _ in 0..LINKS {
            let other_case = || self.nodes.get(self.on_fat.get(&path.to_ascii_lowercase())?);
            let node = *self.nodes.get(path.as_slice()).or_else(other_case)?;
            let Kind::Symlink(target) = &node.kind else {
                return matches!(node.kind, Kind::File(_)).then_some(node);
            };
            path = join(&path, target);
        }
        None
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        self.nodes.get(path.as_bytes()).is_some_and(|node| node.kind == Kind::Directory)
    }

    /// Returns the paths of what is in a directory.
    pub(super) fn below(&self, directory: &str) -> Vec<&'a str> {
        let directory = directory.as_bytes();
        let paths = self.nodes.keys().filter(|path| {
            let rest = path.strip_prefix(directory).and_then(|rest| rest.strip_prefix(b"/"));
            rest.is_some_and(|name| !name.contains(&b'/'))
        });
        let mut paths: Vec<&str> = paths.filter_map(|path| std::str::from_utf8(path).ok()).collect();
        paths.sort_unstable();
        paths
    }

    /// Reads a file in a way of the caller's; the inner error says what is wrong with its content.
    ///
    /// # Errors
    ///
    /// When the disk fails, the file changed, or a signal came.
    pub(super) fn read<T>(
        &self,
        node: &Node,
        how: impl FnOnce(&Reader<'_>) -> io::Result<T>,
    ) -> Result<Result<T, String>, Failure> {
        let reader = self.tree.open_content(node)?;
        let said = match how(&reader).map_err(Failure::of_io) {
            Ok(found) => Ok(found),
            Err(Ok(failure)) => return Err(failure),
            Err(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err("it is cut off".to_owned()),
            Err(Err(e)) => Err(e.to_string()),
        };
        reader.check_unchanged()?;
        Ok(said)
    }

    /// Reads a text, which is empty where there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], and where it is too long.
    pub(super) fn text(&self, path: &str) -> Result<String, Failure> {
        self.text_of(path, LONGEST)
    }

    /// Reads what a boot loader or mount(8) reads, as [`Self::text`].
    ///
    /// # Errors
    ///
    /// As [`Self::text`].
    pub(super) fn configuration(&self, path: &str) -> Result<String, Failure> {
        self.text_of(path, LONGEST_CONFIGURATION)
    }

    fn text_of(&self, path: &str, longest: u64) -> Result<String, Failure> {
        let Some(node) = self.find(path) else { return Ok(String::new()) };
        if node.size() > longest {
            let (path, longest) = (stage::quote(format!("/{path}")), longest >> 20);
            return Err(Failure::new(
                Code::Failed,
                format!("reading {path} of the root: it has more than {longest} MiB"),
            ));
        }
        let read = self.read(node, |reader| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut reader.stream(), &mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })?;
        read.map_err(|why| Failure::new(Code::Failed, format!("reading {}: {why}", self.tree.show(path.as_bytes()))))
    }
}

/// Returns where a link at `path` leads, as a path of the root.
fn join(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    parts.pop();
    if target.starts_with(b"/") {
        parts.clear();
    }
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
