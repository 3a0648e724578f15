//! Walking through a tar, member by member, with limits.
//!
//! The tar crate's own handling of extension headers is not used: it reads them into memory
//! whatever their size, and splits them at newlines, which binary extended attributes (the
//! capabilities of real packages) contain. So the crate reads the raw members, and this the
//! extensions: long names, and the records of pax. It may go when the crate has limits and parses such headers.

use crate::{Error, Result, decompress};

use std::io::{self, Read};
use std::ops::ControlFlow;
use tar::EntryType;

/// The largest extension header. A path has at most 4096 bytes, an extended attribute 64 KiB.
const EXTENSION: u64 = 1 << 20;

/// A member's header.
#[derive(Debug)]
pub(crate) struct Head {
    /// Its path, without a leading `./`.
    pub(crate) path: Vec<u8>,
    /// Its type.
    pub(crate) kind: EntryType,
    /// The size of its data in the archive.
    pub(crate) size: u64,
    /// Whether its data is a map and pieces instead of the file.
    pub(crate) sparse: bool,
    /// Its block, for what only [`crate::member`] reads.
    pub(crate) block: tar::Header,
    /// The target of a link, where the block has no room for it.
    pub(crate) target: Option<Vec<u8>>,
    /// The records of its pax header but for path, target and size, in order.
    pub(crate) records: Vec<Record>,
}

/// A key and a value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

impl Head {
    /// Returns the path for a message.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Removes `./` from the beginning of a path.
pub(crate) fn normal(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    path
}

/// A reader that stops at a limit, and tells the end from the limit.
struct Meter<R> {
    inner: R,
    left: u64,
    at_end: bool,
    over: bool,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.at_end |= n == 0 && !buf.is_empty();
        let left = self.left.checked_sub(n as u64);
        self.over |= left.is_none();
        self.left = left.ok_or_else(|| io::Error::other("too large"))?;
        Ok(n)
    }
}

/// What the extension headers say of the member that follows them.
#[derive(Default)]
struct Extensions {
    pax: bool,
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    sparse_name: Option<Vec<u8>>,
    records: Vec<Record>,
}

/// Calls `visit` with each member and its data, until it breaks or the archive ends.
///
/// Where it ends, the end marker must be there, and the rest is read, so that the checksums of the
/// compression are compared: an archive that was cut off is an error wherever it was cut.
pub(crate) fn walk(
    doing: &str,
    input: impl Read,
    total: u64,
    mut visit: impl FnMut(&Head, &mut dyn Read) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let meter = Meter { inner: decompress::reader(input)?, left: total, at_end: false, over: false };
    let mut archive = tar::Archive::new(meter);
    let flow = visit_members(doing, &mut archive, &mut visit);
    let mut rest = archive.into_inner();
    let result = flow.and_then(|flow| match flow {
        ControlFlow::Break(()) => Ok(()),
        // The tar crate takes the end of the input for the end of the archive. If it read the marker
        // instead, it has not reached the end of the input yet.
        ControlFlow::Continue(()) if rest.at_end => Err(Error::ended(doing)),
        ControlFlow::Continue(()) => io::copy(&mut rest, &mut io::sink()).map(drop).map_err(|e| Error::read(doing, e)),
    });
    match result {
        Err(_) if rest.over => Err(Error::too_large(doing, "bytes decompressed", total)),
        result => result,
    }
}

fn visit_members(
    doing: &str,
    archive: &mut tar::Archive<impl Read>,
    visit: &mut impl FnMut(&Head, &mut dyn Read) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    let read = |e| Error::read(doing, e);
    let extension = |data: &mut dyn Read, size| read_body(doing, "bytes of extension header", data, size, EXTENSION);
    let mut pending = None;
    for entry in archive.entries().map_err(read)?.raw(true) {
        let mut entry = entry.map_err(read)?;
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(read)?;
        match kind {
            EntryType::XHeader => {
                let extensions: &mut Extensions = pending.get_or_insert_default();
                if std::mem::replace(&mut extensions.pax, true) {
                    return Err(Error::malformed(doing, "two pax headers for one member"));
                }
                parse_pax(doing, &extension(&mut entry, size)?, extensions)?;
                continue;
            }
            EntryType::GNULongName | EntryType::GNULongLink => {
                let data = extension(&mut entry, size)?;
                let name = data.split(|b| *b == 0).next().unwrap_or_default().to_vec();
                let extensions: &mut Extensions = pending.get_or_insert_default();
                match kind {
                    EntryType::GNULongName => set(doing, "path", &mut extensions.path, name)?,
                    _ => set(doing, "target", &mut extensions.target, name)?,
                }
                continue;
            }
            // It has a comment.
            EntryType::XGlobalHeader => continue,
            // More headers may follow this one, which only a reader of this type would skip.
            EntryType::GNUSparse => return Err(Error::malformed(doing, "a sparse member of GNU's old format")),
            _ => {}
        }
        let extensions = pending.take().unwrap_or_default();
        let sparse = extensions.sparse || extensions.sparse_name.is_some();
        let path = match extensions.sparse_name.or(extensions.path) {
            Some(path) => path,
            None => entry.header().path_bytes().into_owned(),
        };
        let block = entry.header().clone();
        let (target, records) = (extensions.target, extensions.records);
        let head = Head { path: normal(&path).to_vec(), kind, size, sparse, block, target, records };
        let refuse = |why: &str| Err(Error::malformed(doing, format!("member '{}': {why}", head.shown())));
        if head.path.contains(&0) {
            return refuse("a NUL in its path");
        }
        // Parsers disagree on which of two sizes counts, hence on where the next member begins.
        // A pax size is needed above 8 GiB only.
        if extensions.size.is_some_and(|pax| pax != size) {
            return refuse("two sizes");
        }
        // And on whether these have data.
        if size != 0 && matches!(kind, Link | Symlink | Char | Block | Directory | Fifo) {
            return refuse("data where there can be none");
        }
        if visit(&head, &mut entry)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    if pending.is_some() {
        return Err(Error::malformed(doing, "an extension header without a member"));
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads a member's data into memory.
pub(crate) fn read_body(
    doing: &str,
    what: &'static str,
    data: &mut dyn Read,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>> {
    if size > limit {
        return Err(Error::too_large(doing, what, limit));
    }
    // The size is only a claim: memory grows with the data.
    let mut out = Vec::new();
    let read = data.take(size).read_to_end(&mut out);
    match read.map_err(|e| Error::read(doing, e))? as u64 == size {
        true => Ok(out),
        false => Err(Error::ended(doing)),
    }
}

fn set<T>(doing: &str, what: &str, slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::malformed(doing, format!("a member with two of {what}"))),
    }
}

/// Parses a pax header: records `LENGTH KEY=VALUE\n`, the length that of the whole record.
fn parse_pax(doing: &str, mut data: &[u8], into: &mut Extensions) -> Result<()> {
    let bad = || Error::malformed(doing, "a malformed pax header");
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = number(&data[..space]).ok_or_else(bad)?;
        let record = data.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
        data = &data[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => set(doing, "path", &mut into.path, value.to_vec())?,
            b"linkpath" => set(doing, "target", &mut into.target, value.to_vec())?,
            b"size" => set(doing, "size", &mut into.size, number(value).ok_or_else(bad)?)?,
            // The path is then one for programs that do not know sparse files.
            b"GNU.sparse.name" => set(doing, "path", &mut into.sparse_name, value.to_vec())?,
            _ => {
                into.sparse |= key.starts_with(b"GNU.sparse.");
                into.records.push((key.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Parses digits, and nothing but digits.
pub(crate) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}
