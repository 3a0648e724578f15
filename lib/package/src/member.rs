//! The members of an archive of a whole root, as `pack`, tar(1) and bsdtar(1) write them: each with all that a file system
//! has of a file, checked.
//!
//! What programs read in different ways is refused: two values of one record, a path that leads out, a number that does not
//! fit. Owners are numbers; names of users are not looked at. A global pax header is passed over, as in packages.

use crate::tape::{self, Head, number};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use tar::EntryType;

const DOING: &str = "reading the archive";

/// The largest archive, decompressed: 1 TiB.
const TOTAL: u64 = 1 << 40;

/// The longest path, and target of a link, that the kernel takes, in bytes (`PATH_MAX`, less its NUL).
const LONGEST_PATH: usize = 4095;

/// The longest map of a sparse file, in bytes.
const MAP: u64 = 1 << 20;

/// The longest number in it, in digits.
const LONGEST_NUMBER: usize = 20;

const BLOCK: usize = 512;

/// How much of a path a message has.
const SHOWN: usize = 100;

/// A part of a file that has data: offset and length.
pub type Piece = (u64, u64);

/// Extended attributes by name, as getxattr(2) gives them.
pub type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// ACLs as text, by the name of the attribute that has them.
pub type Acls = BTreeMap<&'static str, Vec<u8>>;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path: relative, without a slash at either end, without `.` and `..`; empty for the top.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content changed: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Its extended attributes.
    pub xattrs: Attributes,
    /// Its ACLs, where they are not among [`Self::xattrs`].
    pub acls: Acls,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file: its size, and the parts that have data, in order; the rest is holes.
    File(u64, Vec<Piece>),
    /// Another name of the member with this path, which is as [`Member::path`].
    HardLink(Vec<u8>),
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A device.
    Device,
}

/// Calls `visit` with each member and what reads the data of its pieces, until it breaks or the archive ends. The data may
/// end early, which `visit` has to notice.
///
/// # Errors
///
/// When the archive cannot be read, ends early, or has a member that is refused.
pub fn walk(input: impl Read, mut visit: impl FnMut(Member, &mut dyn Read) -> ControlFlow<()>) -> Result<()> {
    tape::walk(DOING, input, TOTAL, |head, data| {
        let member = Member::of(head, data).map_err(|e| match e {
            Error::Malformed { reason, .. } if !reason.starts_with("member ") => {
                // The end of a long path is cut off, and not the reason.
                let shown: String = head.shown().chars().take(SHOWN).collect();
                Error::malformed(DOING, format!("member '{shown}': {reason}"))
            }
            e => e,
        })?;
        Ok(visit(member, data))
    })
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::malformed(DOING, why))
}

impl Member {
    fn of(head: &Head, data: &mut dyn Read) -> Result<Self> {
        let records = Records::of(head)?;
        let bad = |what: &str| Error::malformed(DOING, format!("an invalid {what}"));
        let id = |key: &str, block: std::io::Result<u64>| -> Result<u32> {
            let id = match records.get(key) {
                Some(digits) => number(digits),
                None => block.ok().and_then(|id| u32::try_from(id).ok()),
            };
            // The last one means "no change" to chown(2).
            id.filter(|id| *id != u32::MAX).ok_or_else(|| bad(key))
        };
        let mtime = match records.get("mtime") {
            Some(text) => time(text),
            None => head.block.mtime().ok().and_then(|mtime| Some((i64::try_from(mtime).ok()?, 0))),
        };
        let (xattrs, acls) = records.attributes();
        Ok(Self {
            path: plain(&head.path, head.kind == EntryType::Directory)?,
            kind: kind(head, &records, data)?,
            mode: head.block.mode().map_err(|_| bad("mode"))? & 0o7777,
            uid: id("uid", head.block.uid())?,
            gid: id("gid", head.block.gid())?,
            mtime: mtime.ok_or_else(|| bad("time"))?,
            xattrs,
            acls,
        })
    }
}

/// The records of a member's pax header, each key once.
struct Records<'a>(BTreeMap<&'a [u8], &'a [u8]>);

impl<'a> Records<'a> {
    fn of(head: &'a Head) -> Result<Self> {
        let mut records = BTreeMap::new();
        for (key, value) in &head.records {
            if records.insert(key.as_slice(), value.as_slice()).is_some() {
                return refuse("two records of one key");
            }
        }
        Ok(Self(records))
    }

    fn get(&self, key: &str) -> Option<&'a [u8]> {
        self.0.get(key.as_bytes()).copied()
    }

    /// Returns the extended attributes, and the ACLs that are there as text only.
    fn attributes(&self) -> (Attributes, Acls) {
        let named = self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, value)));
        let xattrs: Attributes = named.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let mut acls = Acls::new();
        for (key, name) in
            [("SCHILY.acl.access", "system.posix_acl_access"), ("SCHILY.acl.default", "system.posix_acl_default")]
        {
            if let Some(text) = self.get(key)
                && !xattrs.contains_key(name.as_bytes())
            {
                acls.insert(name, text.to_vec());
            }
        }
        (xattrs, acls)
    }
}

/// Checks a path, and returns it without what says nothing.
fn plain(path: &[u8], directory: bool) -> Result<Vec<u8>> {
    let path = if path == b"." { b"" } else { path };
    let stem = path.strip_suffix(b"/").unwrap_or(path);
    if stem.len() != path.len() && !directory {
        return refuse("it is no directory, and its name ends with a slash");
    }
    if stem.is_empty() && directory {
        return Ok(Vec::new());
    }
    if stem.len() > LONGEST_PATH {
        return refuse("its path is longer than 4095 bytes");
    }
    if stem.starts_with(b"/") {
        return refuse("its path is absolute");
    }
    if stem.split(|b| *b == b'/').any(|name| matches!(name, b"" | b"." | b"..")) {
        return refuse("its path is empty, or has '.' or '..' in it");
    }
    Ok(stem.to_vec())
}

fn kind(head: &Head, records: &Records<'_>, data: &mut dyn Read) -> Result<Kind> {
    let target = || {
        let target = head.target.clone().or_else(|| head.block.link_name_bytes().map(|name| name.into_owned()));
        let target = target.unwrap_or_default();
        if target.is_empty() || target.len() > LONGEST_PATH || target.contains(&0) {
            return refuse("a link that leads nowhere");
        }
        Ok(target)
    };
    match head.kind {
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Regular if head.sparse => {
            let (size, pieces) = sparse(head, records, data)?;
            Ok(Kind::File(size, pieces))
        }
        EntryType::Regular => {
            let all = (head.size > 0).then_some((0, head.size));
            Ok(Kind::File(head.size, all.into_iter().collect()))
        }
        EntryType::Link => Ok(Kind::HardLink(plain(tape::normal(&target()?), false)?)),
        EntryType::Symlink => Ok(Kind::Symlink(target()?)),
        EntryType::Fifo => Ok(Kind::Fifo),
        EntryType::Char | EntryType::Block => Ok(Kind::Device),
        _ => refuse("a member of an unknown type"),
    }
}

/// Reads the map of a sparse file (GNU tar's manual, "PAX Format, Version 1.0"): its size, and its pieces.
fn sparse(head: &Head, records: &Records<'_>, data: &mut dyn Read) -> Result<(u64, Vec<Piece>)> {
    let bad = || Error::malformed(DOING, "a malformed map of a sparse file");
    let version = ["GNU.sparse.major", "GNU.sparse.minor"].map(|key| records.get(key));
    if version != [Some(&b"1"[..]), Some(b"0")] {
        return refuse("a sparse file of another format than 1.0 of GNU tar");
    }
    let size: u64 = records.get("GNU.sparse.realsize").and_then(number).ok_or_else(bad)?;
    let (mut map, mut numbers) = (Vec::new(), Vec::<u64>::new());
    let wanted = |numbers: &[u64]| numbers.first().map_or(1, |count| count.saturating_mul(2).saturating_add(1));
    let mut at = 0;
    while (numbers.len() as u64) < wanted(&numbers) {
        match map[at..].iter().position(|b| *b == b'\n') {
            Some(end) => {
                numbers.push(number(&map[at..at + end]).ok_or_else(bad)?);
                at += end + 1;
            }
            // What is begun there is searched again, so it must be short.
            None if map.len() - at > LONGEST_NUMBER => return Err(bad()),
            None if map.len() as u64 + BLOCK as u64 > MAP.min(head.size) => return Err(bad()),
            None => map.extend(tape::read_body(DOING, "bytes of map", data, BLOCK as u64, BLOCK as u64)?),
        }
    }
    let mut left = head.size - map.len() as u64;
    let (mut end, mut pieces) = (0, Vec::new());
    for piece in numbers[1..].chunks_exact(2) {
        let (begin, length) = (piece[0], piece[1]);
        left = left.checked_sub(length).ok_or_else(bad)?;
        let next = begin.checked_add(length).filter(|next| begin >= end && *next <= size).ok_or_else(bad)?;
        if length > 0 {
            pieces.push((begin, length));
        }
        end = next;
    }
    if left == 0 { Ok((size, pieces)) } else { Err(bad()) }
}

/// Parses a time of pax: seconds, with or without a fraction, of which nanoseconds count.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (minus, digits) = whole.strip_prefix('-').map_or((false, whole), |digits| (true, digits));
    let seconds: i64 = number(digits.as_bytes())?;
    if digits.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some(match (minus, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Tape;

    fn all(archive: &[u8]) -> Result<Vec<(Member, Vec<u8>)>> {
        let mut found = Vec::new();
        walk(archive, |member, data| {
            let mut content = Vec::new();
            data.read_to_end(&mut content).unwrap();
            found.push((member, content));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    #[track_caller]
    fn refused(tape: Tape, why: &str) {
        let message = all(&tape.done()).unwrap_err().to_string();
        assert!(message.starts_with("reading the archive: member '") && message.contains(why), "{message}");
    }

    fn empty(path: &str) -> Tape {
        Tape::new().file(path, "")
    }

    #[test]
    fn a_member_has_all_that_is_said_of_it() {
        let value = b"\x01\n=\0\n";
        let tape = Tape::new().member(EntryType::Directory, "./", 0, b"").pax(&[
            ("uid", b"3000000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.security.capability", value),
            ("SCHILY.acl.access", b"user::rwx"),
            ("SCHILY.acl.default", b"user::rwx"),
            ("SCHILY.xattr.system.posix_acl_default", b"binary"),
            ("LIBARCHIVE.creationtime", b"1"),
        ]);
        let found = all(&tape.file("./usr/x", "content").done()).unwrap();
        assert_eq!((&found[0].0.path[..], &found[0].0.kind), (&b""[..], &Kind::Directory));
        let (member, content) = &found[1];
        assert_eq!((&member.path[..], &content[..]), (&b"usr/x"[..], &b"content"[..]));
        assert_eq!(member.kind, Kind::File(7, vec![(0, 7)]));
        assert_eq!((member.mode, member.uid, member.gid), (0o755, 3_000_000_000, 0));
        assert_eq!(member.mtime, (-2, 750_000_000));
        assert_eq!(member.xattrs[&b"security.capability"[..]], value);
        assert_eq!(member.acls.keys().copied().collect::<Vec<_>>(), ["system.posix_acl_access"]);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for (path, why) in [
            ("/etc/x", "absolute"),
            ("../x", "'..'"),
            ("a/../../x", "'..'"),
            ("a//x", "empty"),
            ("a/./x", "'.'"),
            ("..", "'..'"),
            ("a/", "ends with a slash"),
            ("", "empty"),
        ] {
            refused(empty(path), why);
        }
        refused(Tape::new().pax(&[("linkpath", b"../x")]).member(EntryType::Link, "a", 0, b""), "'..'");
        refused(Tape::new().pax(&[("linkpath", b"/x")]).member(EntryType::Link, "a", 0, b""), "absolute");
        refused(Tape::new().member(EntryType::Symlink, "a", 0, b""), "leads nowhere");
        refused(Tape::new().pax(&[("path", &[b'x'; 4096])]).file("a", ""), "longer than 4095");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        refused(Tape::new().pax(&[("mtime", b"1"), ("mtime", b"2")]).file("a", ""), "two records");
        for (key, value) in
            [("uid", "4294967295"), ("gid", "4294967296"), ("uid", "-1"), ("mtime", "x"), ("mtime", "1.x")]
        {
            refused(Tape::new().pax(&[(key, value.as_bytes())]).file("a", ""), "an invalid");
        }
        refused(Tape::new().member(EntryType::new(b'V'), "a", 0, b""), "unknown type");
    }

    #[test]
    fn a_sparse_file_is_its_pieces() {
        let tape = |map: &str, size: &[u8]| {
            let mut data = map.as_bytes().to_vec();
            data.resize(BLOCK, 0);
            data.extend(b"abcde");
            Tape::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"real"),
                    ("GNU.sparse.realsize", size),
                ])
                .file("GNUSparseFile.0/real", data)
        };
        let found = all(&tape("3\n10\n2\n4096\n3\n9000\n0\n", b"9000").done()).unwrap();
        assert_eq!(found[0].0.path, b"real");
        assert_eq!(found[0].0.kind, Kind::File(9000, vec![(10, 2), (4096, 3)]));
        assert_eq!(found[0].1, b"abcde");
        for map in [
            "2\n10\n2\n11\n3\n",
            "2\n4096\n3\n10\n2\n",
            "1\n0\n4\n",
            "1\n0\n6\n",
            "1\n8999\n5\n",
            "1\n18446744073709551615\n5\n",
            "9999999999999999999999\n",
            "18446744073709551615\n1\n",
            "x\n",
            "",
        ] {
            refused(tape(map, b"9000"), "a malformed map");
        }
        refused(tape("0\n", b"x"), "a malformed map");
        let mut data = format!("{:0>600}\n0\n0\n", 1).into_bytes();
        data.resize(2 * BLOCK, 0);
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9000")];
        refused(Tape::new().pax(&records).file("a", data), "a malformed map");
        refused(Tape::new().pax(&[("GNU.sparse.map", b"0,1")]).file("a", "x"), "another format");
    }

    #[test]
    fn an_archive_that_was_cut_off_is_an_error() {
        assert!(all(&empty("a").cut()).is_err());
    }
}
