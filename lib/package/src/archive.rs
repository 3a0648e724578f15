//! Extracting members of a package, `NAME-VERSION-ARCH.pkg.tar.*`, in one pass.
//!
//! What is extracted cannot be trusted yet: the archive's hash or signature covers all of it, and
//! is known only when all of it has been read. Pass a `&mut` of a
//! [`Sha256Reader`](crate::digest::Sha256Reader), drain it, compare, and then use the member.

use crate::tape::{self, Head};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use tar::EntryType;

const DOING: &str = "reading package archive";

/// The largest package, decompressed: it bounds the time that a decompression bomb takes. The largest of
/// Arch's packages have 5 to 6 GiB.
const TOTAL: u64 = 32 << 30;

const BUFFER: usize = 64 << 10;

/// Writes one regular file of an archive to `out`.
///
/// The path must be exactly `member`, but for a leading `./` of either. The first member of that
/// path counts. Nothing is decompressed after it; the caller that lent `archive` as `&mut R` can
/// read the rest of the compressed bytes, to compare the hash of the whole.
///
/// # Errors
///
/// When reading or writing fails, the archive is malformed, ends early or has no such member, or
/// the member is not a regular file or larger than `limit`. Part of it may then be written.
pub fn extract_member<W: Write + ?Sized>(archive: impl Read, member: &str, out: &mut W, limit: u64) -> Result<()> {
    let wanted = tape::normal(member.as_bytes());
    let mut found = false;
    tape::walk(DOING, archive, TOTAL, |head, data| {
        if head.path != wanted {
            return Ok(ControlFlow::Continue(()));
        }
        check(head, limit)?;
        copy(head, data, out)?;
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    match found {
        true => Ok(()),
        false => Err(Error::NotFound { members: vec![member.to_owned()] }),
    }
}

/// Returns the contents of some small regular files of an archive, by the names that were given.
///
/// As [`extract_member`], for several. `limit` is that of all of them together.
///
/// # Errors
///
/// As [`extract_member`]; the error names every member that is missing.
pub fn extract_members(archive: impl Read, names: &[&str], limit: u64) -> Result<BTreeMap<String, Vec<u8>>> {
    let found = extract_present(archive, names, limit)?;
    let missing = names.iter().filter(|name| !found.contains_key(**name));
    let members: Vec<_> = missing.map(|name| (*name).to_owned()).collect();
    if members.is_empty() { Ok(found) } else { Err(Error::NotFound { members }) }
}

/// [`extract_members`], of those that the archive has.
///
/// # Errors
///
/// As [`extract_members`], but for members that are missing.
pub fn extract_present(archive: impl Read, names: &[&str], limit: u64) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut missing: BTreeSet<&str> = names.iter().copied().collect();
    let mut found = BTreeMap::new();
    let mut left = limit;
    if missing.is_empty() {
        return Ok(found);
    }
    tape::walk(DOING, archive, TOTAL, |head, data| {
        let is_wanted = |name: &&&str| tape::normal(name.as_bytes()) == head.path;
        let wanted: Vec<&str> = missing.iter().filter(is_wanted).copied().collect();
        if !wanted.is_empty() {
            check(head, left)?;
            left -= head.size;
            let bytes = tape::read_body(DOING, "bytes", data, head.size, head.size)?;
            for name in wanted {
                missing.remove(name);
                found.insert(name.to_owned(), bytes.clone());
            }
        }
        Ok(match missing.is_empty() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    Ok(found)
}

/// The longest list of members, in bytes: that of a package with a million files.
const LIST: u64 = 256 << 20;

/// Returns a small regular file of an archive, and the names of all members, without a leading `./`; those of directories end with
/// a slash.
///
/// # Errors
///
/// As [`extract_member`].
pub fn list(archive: impl Read, member: &str, limit: u64) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let (mut found, mut names, mut left) = (None, Vec::new(), LIST);
    tape::walk(DOING, archive, TOTAL, |head, data| {
        if head.path == member.as_bytes() && found.is_none() {
            check(head, limit)?;
            found = Some(tape::read_body(DOING, "bytes", data, head.size, limit)?);
        }
        let mut name = head.path.clone();
        if head.kind == EntryType::Directory && !name.is_empty() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        left =
            left.checked_sub(name.len() as u64 + 1).ok_or_else(|| Error::too_large(DOING, "bytes of names", LIST))?;
        names.extend((!name.is_empty()).then_some(name));
        Ok(ControlFlow::Continue(()))
    })?;
    let found = found.ok_or_else(|| Error::NotFound { members: vec![member.to_owned()] })?;
    Ok((found, names))
}

/// Refuses a member that is not a regular file, or larger than `limit`.
fn check(head: &Head, limit: u64) -> Result<()> {
    let doing = || format!("{DOING}: member '{}'", head.shown());
    // makepkg writes no sparse members.
    if head.kind != EntryType::Regular || head.sparse {
        let what = match head.kind {
            EntryType::Link => "a hard link",
            EntryType::Symlink => "a symbolic link",
            EntryType::Directory => "a directory",
            EntryType::Regular => "a sparse file",
            _ => "a special file",
        };
        return Err(Error::malformed(&doing(), format!("{what}, not a regular file")));
    }
    if head.size > limit {
        return Err(Error::too_large(&doing(), "bytes", limit));
    }
    Ok(())
}

fn copy<W: Write + ?Sized>(head: &Head, data: &mut dyn Read, out: &mut W) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut left = head.size;
    while left > 0 {
        let n = match data.read(&mut buffer) {
            Ok(0) => return Err(Error::ended(DOING)),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::read(DOING, e)),
        };
        left -= n as u64;
        out.write_all(&buffer[..n]).map_err(|source| Error::Write { member: head.shown(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::Format;
    use crate::digest::{Sha256Reader, sha256_hex};
    use crate::tests::{FORMATS, Random, Tape, compress};
    use std::io;

    const MEMBER: &str = "usr/bin/pacman-static";
    const BIG: u64 = 1 << 20;

    fn package() -> Vec<u8> {
        Tape::new()
            .file(".PKGINFO", "pkgname = x\n")
            .member(EntryType::Directory, "usr/bin/", 0, b"")
            .pax(&[("SCHILY.xattr.security.capability", b"\x01\n=\0\n")])
            .file(MEMBER, program())
            .file("usr/lib/after", "after")
            .done()
    }

    /// What does not compress, so that cutting off cuts data off.
    fn program() -> Vec<u8> {
        let mut random = Random(7);
        (0..700).map(|_| random.below(256) as u8).collect()
    }

    fn extract(archive: &[u8], member: &str) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        extract_member(archive, member, &mut out, BIG).map(|()| out)
    }

    fn message(archive: Vec<u8>) -> String {
        extract(&archive, MEMBER).unwrap_err().to_string()
    }

    #[test]
    fn one_member_of_every_format() {
        for format in FORMATS {
            let archive = compress(format, &package());
            assert_eq!(extract(&archive, MEMBER).unwrap(), program());
            assert_eq!(extract(&archive, "./usr/lib/after").unwrap(), b"after");
        }
    }

    #[test]
    fn the_rest_can_be_hashed() {
        for format in FORMATS {
            let mut archive = compress(format, &package());
            // More than any buffer, and nothing that would decompress.
            archive.extend(vec![0xaa; 1 << 20]);
            let mut reader = Sha256Reader::new(&archive[..]);
            let mut out = Vec::new();
            extract_member(&mut reader, MEMBER, &mut out, BIG).unwrap();
            assert!(reader.count() < archive.len() as u64);
            reader.drain().unwrap();
            assert_eq!(reader.count(), archive.len() as u64);
            assert_eq!(reader.finish(), sha256_hex(&archive));
        }
    }

    #[test]
    fn several_members() {
        let names = ["./.PKGINFO", "usr/lib/after"];
        let found = extract_members(&package()[..], &names, BIG).unwrap();
        assert_eq!(found["./.PKGINFO"], b"pkgname = x\n");
        assert_eq!(found["usr/lib/after"], b"after");
        assert_eq!(found.len(), 2);
        assert!(extract_members(io::empty(), &[], 0).unwrap().is_empty());
        let missing = extract_members(&package()[..], &["a", "usr/lib/after", "b"], BIG);
        assert_eq!(missing.unwrap_err().to_string(), "reading package archive: no member 'a', 'b'");
        // The limit is that of both.
        assert!(extract_members(&package()[..], &names, 17).is_ok());
        assert!(extract_members(&package()[..], &names, 16).is_err());
    }

    #[test]
    fn a_list_of_the_members() {
        let tar = Tape::new().file("./.PKGINFO", "1").member(EntryType::Directory, "usr", 0, b"").file("usr/a", "a");
        let (info, names) = list(&tar.file(".PKGINFO", "2").done()[..], ".PKGINFO", 1).unwrap();
        assert_eq!(info, b"1");
        assert_eq!(names, [&b".PKGINFO"[..], b"usr/", b"usr/a", b".PKGINFO"]);
        assert!(list(&package()[..], ".PKGINFO", 1).is_err());
        let none = list(&Tape::new().file("a", "a").done()[..], ".PKGINFO", 1).unwrap_err();
        assert_eq!(none.to_string(), "reading package archive: no member '.PKGINFO'");
    }

    #[test]
    fn only_the_exact_path_counts() {
        let paths = [
            "../usr/bin/pacman-static",
            "/usr/bin/pacman-static",
            "usr/bin/../bin/pacman-static",
            "usr//bin/pacman-static",
            "usr/bin/pacman-static/",
            "usr/bin/Pacman-static",
            "x/usr/bin/pacman-static",
        ];
        let tape = paths.iter().fold(Tape::new(), |t, p| t.file(p, "evil"));
        assert_eq!(message(tape.done()), "reading package archive: no member 'usr/bin/pacman-static'");
    }

    #[test]
    fn the_first_of_two_counts() {
        let tar = Tape::new().file(MEMBER, "1").file(MEMBER, "2").done();
        assert_eq!(extract(&tar, MEMBER).unwrap(), b"1");
        // Also if it cannot be had: nobody else would take the second.
        let tar = Tape::new().member(EntryType::Symlink, MEMBER, 0, b"").file(MEMBER, "2").done();
        assert_eq!(
            message(tar),
            "reading package archive: member 'usr/bin/pacman-static': a symbolic link, not a \
             regular file"
        );
    }

    #[test]
    fn only_regular_files() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
            EntryType::Continuous,
        ] {
            let text = message(Tape::new().member(kind, MEMBER, 0, b"").done());
            assert!(text.ends_with("not a regular file"), "{kind:?}: {text}");
        }
    }

    #[test]
    fn long_paths() {
        let long = format!("usr/{}/x", "d".repeat(300));
        let name = format!("{long}\0");
        let gnu = Tape::new().member(EntryType::GNULongName, "././@LongLink", 307, name.as_bytes()).file("cut", "gnu");
        assert_eq!(extract(&gnu.done(), &long).unwrap(), b"gnu");
        let pax = Tape::new().pax(&[("path", long.as_bytes())]);
        assert_eq!(extract(&pax.file("cut", "pax").done(), &long).unwrap(), b"pax");
    }

    #[test]
    fn refused_archives() {
        let pax = |key, value: &'static [u8]| Tape::new().pax(&[(key, value)]);
        let huge = 1 << 40;
        let table = [
            // Two sizes, one of which hides a member from one parser.
            (pax("size", b"0").file(MEMBER, "data"), "two sizes"),
            (pax("size", b"9").file("other", "data"), "two sizes"),
            (pax("size", b"-1").file(MEMBER, "x"), "malformed pax header"),
            (pax("size", b"+1").file(MEMBER, "x"), "malformed pax header"),
            // Sparse files of both formats.
            (pax("GNU.sparse.major", b"1").file(MEMBER, "data"), "a sparse file, not a regular file"),
            (
                pax("GNU.sparse.name", MEMBER.as_bytes()).file("GNUSparseFile.0/x", "data"),
                "a sparse file, not a regular file",
            ),
            (Tape::new().member(EntryType::GNUSparse, "other", 0, b""), "a sparse member"),
            // Data that only some parsers see.
            (Tape::new().member(EntryType::Symlink, "other", 4, b"data"), "data where there can be none"),
            // Headers that do not fit in memory, or are none.
            (Tape::new().member(EntryType::XHeader, "x", huge, b""), "more than 1048576 bytes of extension header"),
            (Tape::new().member(EntryType::GNULongName, "x", huge, b""), "more than 1048576 bytes of extension header"),
            (Tape::new().member(EntryType::XHeader, "x", 6, b"99 a=b"), "malformed pax header"),
            (Tape::new().member(EntryType::XHeader, "x", 6, b"2 a=b\n"), "malformed pax header"),
            (Tape::new().member(EntryType::XHeader, "x", 6, b"0 a=b\n"), "malformed pax header"),
            (Tape::new().member(EntryType::XHeader, "x", 4, b"a=b\n"), "malformed pax header"),
            (pax("path", b"a").pax(&[("path", b"b")]).file("c", ""), "two pax headers"),
            (pax("path", b"a").member(EntryType::GNULongName, "x", 2, b"b\0").file("c", ""), "two of path"),
            (pax("path", b"usr/bin\0/x").file("c", ""), "a NUL in its path"),
            (pax("path", b"a"), "an extension header without a member"),
        ];
        for (tape, reason) in table {
            let text = message(tape.done());
            assert!(text.contains(reason), "{text} should say {reason}");
            assert!(text.starts_with("reading package archive"), "{text}");
        }
    }

    #[test]
    fn limits() {
        let mut out = Vec::new();
        let tar = package();
        let e = extract_member(&tar[..], MEMBER, &mut out, 699).unwrap_err();
        assert_eq!(e.to_string(), "reading package archive: member 'usr/bin/pacman-static': more than 699 bytes");
        assert!(out.is_empty());
        assert!(extract_member(&tar[..], MEMBER, &mut out, 700).is_ok());
        // A size is only a claim.
        let tar = Tape::new().member(EntryType::Regular, MEMBER, 1 << 60, b"x");
        let e = extract_member(&tar.done()[..], MEMBER, &mut out, u64::MAX).unwrap_err();
        assert!(e.to_string().ends_with("the input ended early"), "{e}");
        let tar = Tape::new().member(EntryType::Regular, MEMBER, u64::MAX, b"x");
        assert!(extract_member(&tar.done()[..], MEMBER, &mut out, u64::MAX).is_err());
    }

    #[test]
    fn cut_off_anywhere() {
        for format in FORMATS {
            let archive = compress(format, &package());
            for end in 0..archive.len() {
                let cut = &archive[..end];
                // What came out complete came out right; all of it only if it was there.
                match extract(cut, MEMBER) {
                    Ok(data) => assert_eq!(data, program()),
                    Err(Error::NotFound { .. }) => panic!("{format:?} cut off at {end}: no member"),
                    Err(_) => {}
                }
                if let Ok(found) = extract_members(cut, &[MEMBER], BIG) {
                    assert_eq!(found[MEMBER], program(), "{format:?} cut off at {end}");
                }
                // The end marker of a tar has two blocks; one is enough.
                let marked = format == Format::Tar && end >= archive.len() - 512;
                match extract(cut, "missing").unwrap_err() {
                    Error::NotFound { .. } => assert!(marked, "{format:?} cut off at {end}"),
                    _ => assert!(!marked, "{format:?} cut off at {end}"),
                }
            }
        }
    }

    #[test]
    fn cut_off_between_members() {
        // A whole stream, and a tar that ends at a block, but without its end marker.
        for format in FORMATS {
            let archive = compress(format, &Tape::new().file("a", "a").cut());
            let e = extract(&archive, "b").unwrap_err();
            assert!(e.to_string().ends_with("the input ended early"), "{e}");
        }
    }

    #[test]
    fn altered_anywhere_never_panics() {
        for format in FORMATS {
            let archive = compress(format, &package());
            let mut random = Random(3);
            for at in 0..archive.len() {
                let mut altered = archive.clone();
                altered[at] ^= 1 << random.below(8);
                let _result = extract(&altered, MEMBER);
                let _result = extract_members(&altered[..], &["missing"], BIG);
            }
        }
    }

    #[test]
    fn a_full_disk() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("no space left"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(
            extract_member(&package()[..], MEMBER, &mut Full, BIG).unwrap_err().to_string(),
            "writing member 'usr/bin/pacman-static': no space left"
        );
    }
}
