//! Taking members out of a package, `NAME-VERSION-ARCH.pkg.tar.*`, in one pass.
//!
//! What comes out is not yet to be trusted: the archive's hash or signature covers all of it, and
//! is known only when all of it has been read. Give a `&mut` of a
//! [`Sha256Reader`](crate::digest::Sha256Reader), drain it, compare, and then use the member.

use crate::tape::{self, Head};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use tar::EntryType;

const DOING: &str = "reading package archive";

/// The largest package, decompressed: it bounds the time that a small bomb can take. The largest of
/// Arch's packages have 5 to 6 GiB.
const TOTAL: u64 = 32 << 30;

const BUFFER: usize = 64 << 10;

/// What was extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its size.
    pub size: u64,
    /// Its permissions, such as `0o755`.
    pub mode: u32,
}

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
pub fn extract_member<W: Write + ?Sized>(
    archive: impl Read,
    member: &str,
    out: &mut W,
    limit: u64,
) -> Result<Member> {
    let wanted = tape::normal(member.as_bytes());
    let mut found = None;
    tape::walk(DOING, archive, TOTAL, |head, data| {
        if head.path != wanted {
            return Ok(ControlFlow::Continue(()));
        }
        check(head, limit)?;
        copy(head, data, out)?;
        found = Some(Member {
            size: head.size,
            mode: head.mode,
        });
        Ok(ControlFlow::Break(()))
    })?;
    found.ok_or_else(|| Error::NotFound {
        members: vec![member.to_owned()],
    })
}

/// Returns the contents of some small regular files of an archive, by the names that were given.
///
/// As [`extract_member`], for several. `limit` is that of all of them together.
///
/// # Errors
///
/// As [`extract_member`]; the error names every member that is missing.
pub fn extract_members(
    archive: impl Read,
    names: &[&str],
    limit: u64,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut missing: BTreeSet<&str> = names.iter().copied().collect();
    let mut found = BTreeMap::new();
    let mut left = limit;
    if missing.is_empty() {
        return Ok(found);
    }
    tape::walk(DOING, archive, TOTAL, |head, data| {
        let wanted: Vec<&str> = missing
            .iter()
            .copied()
            .filter(|name| tape::normal(name.as_bytes()) == head.path)
            .collect();
        if !wanted.is_empty() {
            check(head, left)?;
            left -= head.size;
            let bytes = tape::body(DOING, "bytes of member", data, head.size, head.size)?;
            for name in wanted {
                missing.remove(name);
                found.insert(name.to_owned(), bytes.clone());
            }
        }
        Ok(if missing.is_empty() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Error::NotFound {
        members: missing.into_iter().map(str::to_owned).collect(),
    })
}

/// Refuses what is not a regular file of that size.
fn check(head: &Head, limit: u64) -> Result<()> {
    let doing = || format!("{DOING}: member '{}'", head.shown());
    // makepkg tells bsdtar not to look for holes, so a sparse member is no package's.
    if head.kind != EntryType::Regular || head.sparse {
        let what = match head.kind {
            EntryType::Link => "a hard link",
            EntryType::Symlink => "a symbolic link",
            EntryType::Directory => "a directory",
            EntryType::Regular => "a sparse file",
            _ => "a special file",
        };
        let reason = format!("{what}, not a regular file");
        return Err(Error::malformed(doing(), reason));
    }
    if head.size > limit {
        return Err(Error::TooLarge {
            doing: doing(),
            what: "bytes",
            limit,
        });
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
        out.write_all(&buffer[..n]).map_err(|source| Error::Write {
            member: head.shown(),
            source,
        })?;
    }
    Ok(())
}
