//! One node of the tree as a member of an archive: its ustar header, and the pax records for what that cannot hold (pax(1)
//! of POSIX; `SCHILY.*` of star(5); `GNU.sparse.*` of GNU tar's manual, "PAX Format, Version 1.0").
//!
//! Owners are numbers only: names would be looked up on the machine that unpacks. Times are whole seconds, as packages have
//! them.

use crate::acl;
use crate::node::{Kind, Node};
use crate::reader::Piece;
use std::io;
use tar::{EntryType, Header};

/// The longest name, link target, and prefix of a name of ustar, in bytes.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// The largest numbers of ustar: 7 octal digits for an id, 11 for a size or a time.
const LARGEST_ID: u32 = 0o7_777_777;
const LARGEST: u64 = 0o77_777_777_777;

/// The longest records that Go's archive/tar (`maxSpecialFileSize`) and libarchive read.
const LARGEST_EXTENSION: usize = 1 << 20;

/// What tar(1) writes for `=` and `%` in a name of an attribute, and reads as that; others take it as it is.
const ESCAPES: [&str; 2] = ["%3D", "%25"];

/// How long a block of an archive is, in bytes.
pub const BLOCK: usize = 512;

/// What the member is called that has the records of the next one: by programs that do not know pax(1), and unpack it as a
/// file. It must have a name: busybox takes a header without one for the end.
const EXTENSION: &[u8] = b"PaxHeaders/next";

/// A member, without its content.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) header: Header,
    records: Vec<(String, Vec<u8>)>,
    /// The map of a sparse file, which its content begins with.
    pub(crate) map: Vec<u8>,
}

impl Member {
    /// Returns a node as a member. `first` is the path of what a hard link is another name of, `pieces` what a sparse file
    /// has.
    ///
    /// # Errors
    ///
    /// When an extended attribute is one that no archive can hold.
    pub(crate) fn of(node: &Node, first: &[u8], pieces: Option<&[Piece]>) -> io::Result<Self> {
        let mut member = Self { header: Header::new_ustar(), records: Vec::new(), map: Vec::new() };
        member.header.set_mode(node.mode);
        member.set_ids(node.uid, node.gid);
        member.set_time(node.mtime);
        member.set_kind(node, first)?;
        let size = node.size();
        match pieces {
            Some(pieces) => member.set_sparse(&node.path, size, pieces),
            None => {
                member.set_path(&name(node));
                member.set_size(size);
            }
        }
        // A hard link has what it is a link to.
        if !matches!(node.kind, Kind::HardLink(_)) {
            for (name, value) in &node.xattrs {
                member.set_xattr(name, value)?;
            }
        }
        member.finish();
        Ok(member)
    }

    /// Returns the member that has the records, where there are any: its header and its content.
    ///
    /// # Errors
    ///
    /// When there is more than programs read.
    pub(crate) fn extension(&self) -> io::Result<Option<(Header, Vec<u8>)>> {
        let mut text = Vec::new();
        for (key, value) in &self.records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.extend(format!("{length} {key}=").into_bytes());
            text.extend(value);
            text.push(b'\n');
        }
        if text.len() > LARGEST_EXTENSION {
            return Err(io::Error::other(
                "its extended attributes are more than the 1 MiB that docker and bsdtar read of a file",
            ));
        }
        let header = header(EXTENSION, EntryType::XHeader, 0, text.len() as u64);
        Ok((!text.is_empty()).then_some((header, text)))
    }

    fn record(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.records.push((key.into(), value.into()));
    }

    fn set_ids(&mut self, uid: u32, gid: u32) {
        self.header.set_uid(u64::from(uid));
        self.header.set_gid(u64::from(gid));
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > LARGEST_ID {
                self.record(key, id.to_string());
            }
        }
    }

    fn set_time(&mut self, seconds: i64) {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds <= LARGEST => self.header.set_mtime(seconds),
            _ => {
                self.header.set_mtime(0);
                self.record("mtime", seconds.to_string());
            }
        }
    }

    fn set_size(&mut self, size: u64) {
        self.header.set_size(size);
        if size > LARGEST {
            self.record("size", size.to_string());
        }
    }

    fn set_kind(&mut self, node: &Node, first: &[u8]) -> io::Result<()> {
        let kind = match &node.kind {
            Kind::Directory => EntryType::Directory,
            Kind::File(_) => EntryType::Regular,
            Kind::HardLink(_) => EntryType::Link,
            Kind::Symlink(_) => EntryType::Symlink,
            Kind::Fifo => EntryType::Fifo,
            Kind::Character(..) => EntryType::Char,
            Kind::Block(..) => EntryType::Block,
        };
        self.header.set_entry_type(kind);
        match &node.kind {
            Kind::HardLink(_) => self.set_target(first),
            Kind::Symlink(target) => self.set_target(target),
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                self.header.set_device_major(*major)?;
                self.header.set_device_minor(*minor)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn set_path(&mut self, path: &[u8]) {
        let (prefix, name) = split(path).unwrap_or_else(|| {
            self.record("path", path);
            (&path[..0], &path[..NAME])
        });
        self.header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if let Some(ustar) = self.header.as_ustar_mut() {
            ustar.prefix[..prefix.len()].copy_from_slice(prefix);
        }
    }

    fn set_target(&mut self, target: &[u8]) {
        let short = &target[..target.len().min(NAME)];
        self.header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
        if target.len() > NAME {
            self.record("linkpath", target);
        }
    }

    /// Makes it a sparse file: its content is the map and then the pieces, and its true name and size are in records, so
    /// that a program that does not know the format unpacks an incomplete file to `GNUSparseFile.0`.
    fn set_sparse(&mut self, path: &[u8], size: u64, pieces: &[Piece]) {
        // The end, where a hole is the last.
        let end = pieces.last().is_none_or(|(at, length)| at + length != size).then_some((size, 0));
        let pieces: Vec<_> = pieces.iter().copied().chain(end).collect();
        let mut map = format!("{}\n", pieces.len()).into_bytes();
        for (at, length) in &pieces {
            map.extend(format!("{at}\n{length}\n").into_bytes());
        }
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        self.record("GNU.sparse.major", "1");
        self.record("GNU.sparse.minor", "0");
        self.record("GNU.sparse.name", path);
        self.record("GNU.sparse.realsize", size.to_string());
        let slash = path.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        let (above, name) = path.split_at(slash);
        self.set_path(&[above, b"GNUSparseFile.0/", name].concat());
        self.set_size(map.len() as u64 + stored);
        self.map = map;
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let key = match name {
            b"system.posix_acl_access" => Some("SCHILY.acl.access"),
            b"system.posix_acl_default" => Some("SCHILY.acl.default"),
            _ => None,
        };
        if let Some(key) = key {
            let text = acl::text(value)
                .ok_or_else(|| io::Error::other("it has an access control list that makes no sense"))?;
            // For tar(1) and bsdtar(1). What follows is for docker and podman, which know only attributes: without it they would
            // give the group what is the mask.
            self.record(key, text);
        }
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.contains('=') && !ESCAPES.iter().any(|e| name.contains(e)))
            .ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                io::Error::other(format!(
                    "it has the extended attribute '{name}', whose name programs read in different ways"
                ))
            })?;
        self.record(format!("SCHILY.xattr.{name}"), value);
        Ok(())
    }

    fn finish(&mut self) {
        let names = ["path", "linkpath", "GNU.sparse.name"];
        let raw =
            |(key, value): &(String, Vec<u8>)| names.contains(&key.as_str()) && std::str::from_utf8(value).is_err();
        if self.records.iter().any(raw) {
            // Names are bytes, which pax(1) permits when it is said.
            self.records.insert(0, ("hdrcharset".to_owned(), b"BINARY".to_vec()));
        }
        self.header.set_cksum();
    }
}

/// Returns the header of a member of root's own, with a name of at most 100 bytes.
#[must_use]
pub fn header(name: &[u8], kind: EntryType, mtime: u64, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Returns a node's name in the archive: a directory's ends with a slash, and the root is `./`.
fn name(node: &Node) -> Vec<u8> {
    let mut name = node.path.clone();
    if name.is_empty() {
        name.push(b'.');
    }
    if node.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

/// Splits a name into ustar's prefix and name, at a slash that neither of them has; `None` where it is too long.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME {
        return Some((&path[..0], path));
    }
    // The first slash after which the name is short enough, and is one: a directory's last byte is a slash, too.
    let from = path.len() - NAME - 1;
    let slash = path[from..path.len() - 1].iter().position(|b| *b == b'/')? + from;
    (slash > 0 && slash <= PREFIX).then(|| (&path[..slash], &path[slash + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_own_length() {
        for length in [1, 2, 88, 89, 90, 91, 985, 986, 987, 988, 989, 9_980, 9_990] {
            let mut member = Member { header: Header::new_ustar(), records: Vec::new(), map: Vec::new() };
            assert!(member.extension().unwrap().is_none());
            member.record("path", vec![b'x'; length]);
            let (header, text) = member.extension().unwrap().unwrap();
            assert_eq!(header.size().unwrap(), text.len() as u64);
            let mut extensions = tar::PaxExtensions::new(&text);
            let extension = extensions.next().unwrap().unwrap();
            assert_eq!(extension.key().unwrap(), "path");
            assert_eq!(extension.value_bytes().len(), length);
            assert!(extensions.next().is_none());
        }
    }

    #[test]
    fn records_are_no_longer_than_programs_read() {
        let mut node = Node::new(b"x", Kind::Fifo);
        for (length, fits) in [(1 << 19, true), ((1 << 19) + 1, false)] {
            // With their own lengths and names they are 1 MiB.
            let value = vec![b'v'; length - "524288 SCHILY.xattr.user.a=\n".len()];
            node.xattrs = vec![(b"user.a".to_vec(), value.clone()), (b"user.b".to_vec(), value)];
            let member = Member::of(&node, b"", None).unwrap();
            assert_eq!(member.extension().is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn an_ambiguous_attribute_is_refused() {
        for (name, fits) in [
            (&b"user.a"[..], true),
            (b"user.a%", true),
            (b"user.a%2d", true),
            (b"user.a=b", false),
            (b"user.a%3Db", false),
            (b"user.a%25", false),
            (b"user.\xff", false),
        ] {
            let mut node = Node::new(b"x", Kind::Fifo);
            node.xattrs = vec![(name.to_vec(), Vec::new())];
            assert_eq!(Member::of(&node, b"", None).is_ok(), fits, "{name:?}");
        }
    }

    #[test]
    fn a_name_is_split_where_both_parts_fit() {
        let long = |a: usize, b: usize| [vec![b'a'; a], vec![b'b'; b]].join(&b'/');
        assert_eq!(split(&[b'x'; 100]).unwrap().1.len(), 100);
        assert_eq!(split(&[b'x'; 101]), None);
        for (a, b, fits) in [(155, 100, true), (156, 100, false), (155, 101, false), (1, 100, true)] {
            let path = long(a, b);
            let parts = split(&path);
            assert_eq!(parts.is_some(), fits, "{a} {b}");
            if let Some((prefix, name)) = parts {
                assert_eq!([prefix, name].join(&b'/'), path);
            }
        }
        // The last slash of a directory is not a place to split.
        assert_eq!(split(&[long(50, 99), vec![b'/']].concat()).map(|p| p.1.len()), Some(100));
        assert_eq!(split(&[&[b'x'; 101][..], b"/"].concat()), None);
    }
}
