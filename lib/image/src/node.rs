//! A file as an image gets it: one type from the walk over a root to the archive or the file system that is written.

use rustix::fs::Stat;

/// An extended attribute: its name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its path below the top of the archive or the file system, without a slash at either end; empty for the top.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: the lowest 12 bits of `st_mode`.
    pub mode: u32,
    /// Its owner, as the root has it.
    pub uid: u32,
    /// Its group, as the root has it.
    pub gid: u32,
    /// When its content changed, in whole seconds since 1970.
    pub mtime: i64,
    /// Its extended attributes by name, sorted: `security.capability`, `user.*`, and ACLs as `system.posix_acl_*`, all as
    /// getxattr(2) gives them.
    pub xattrs: Vec<Xattr>,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// Another name of an earlier node, by its index. A directory has only one name.
    HardLink(usize),
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
}

/// What is in a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// This text.
    Text(Vec<u8>),
    /// What a file of the root has.
    Root(RootFile),
}

/// A regular file of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFile {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Its size, in bytes.
    pub size: u64,
    /// Whether it may have holes that count.
    pub sparse: bool,
    /// What it was when the root was walked.
    pub(crate) seen: Seen,
}

/// What tells whether a file is still the one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    dev: u64,
    ino: u64,
    size: i64,
    changed: (i64, i64),
}

impl Seen {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

impl Node {
    /// Returns a file of root's of the year 1970, which everybody may read.
    #[must_use]
    pub fn new(path: &[u8], kind: Kind) -> Self {
        Self {
            path: path.to_owned(),
            mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
            kind,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }
    }

    /// Returns the size of a regular file, in bytes, and 0 for all else.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.size(),
            _ => 0,
        }
    }

    /// Returns the path as text, for a message or the document.
    #[must_use]
    pub fn path_text(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Returns the path of its directory, and its name there.
    #[must_use]
    pub fn split_path(&self) -> (&[u8], &[u8]) {
        match self.path.iter().rposition(|b| *b == b'/') {
            Some(n) => (&self.path[..n], &self.path[n + 1..]),
            None => (&[], &self.path),
        }
    }
}

impl Content {
    /// Returns how long it is, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Root(file) => file.size,
        }
    }
}

/// Returns how long all files are together, in bytes. Holes may be as long as a root wants them, so this ends at the largest
/// number.
#[must_use]
pub fn total(nodes: &[Node]) -> u64 {
    nodes.iter().map(Node::size).fold(0, u64::saturating_add)
}

/// Returns whether a path is at or below a mount point.
#[must_use]
pub fn is_below(point: &str, path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(point.as_bytes()) else {
        return false;
    };
    point.is_empty() || rest.is_empty() || rest.starts_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_may_be_of_any_length() {
        let seen = Seen { dev: 0, ino: 0, size: 0, changed: (0, 0) };
        let file = RootFile { path: Vec::new(), size: 7 << 60, sparse: true, seen };
        let nodes = vec![Node::new(b"x", Kind::File(Content::Root(file))); 3];
        assert_eq!((total(&nodes), total(&nodes[1..])), (u64::MAX, 14 << 60));
    }
}
