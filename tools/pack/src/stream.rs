//! The tree as a stream of tar members: headers, contents, and the end.

use crate::member::{BLOCK, Member};
use image::sparse::Piece;
use image::tree::Reader;
use image::{Content, Entry, Kind, Tree};
use indicatif::ProgressBar;
use stage::{Code, Doing, Failure, signal};
use std::io::{self, Read, Write};

/// What is streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) entries: &'a [Entry],
    /// What shows how much of the contents is through.
    pub(crate) bar: &'a ProgressBar,
    /// What is being done where writing fails, for a message.
    pub(crate) writing: &'a str,
    /// Whether holes are stored as holes, and not as zeros.
    pub(crate) sparse: bool,
}

impl Source<'_> {
    /// Writes all of it into `out`, up to the end of an archive.
    ///
    /// # Errors
    ///
    /// When the tree cannot be read, or `out` takes no more.
    pub(crate) fn stream(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut stream = Stream {
            source: self,
            out,
            buffer: vec![0; 1 << 18],
            holes: 0,
        };
        for entry in self.entries {
            stream.one(entry)?;
        }
        stream.put(&END)
    }
}

/// Two blocks of zeros, which end an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// How long the holes may be together that are written as zeros: a file of a byte must not keep us for days, or fill a disk
/// where it is unpacked.
const MOST_ZEROS: u64 = 64 << 30;

/// What a hole is written from.
static ZEROS: [u8; 1 << 18] = [0; 1 << 18];

/// Returns what fills the last block of a content of this length.
pub(crate) fn padding(length: u64) -> &'static [u8] {
    let over = (length % BLOCK as u64) as usize;
    &END[..(BLOCK - over) % BLOCK]
}

struct Stream<'a, W: Write> {
    source: Source<'a>,
    out: &'a mut W,
    buffer: Vec<u8>,
    /// How long the holes were so far.
    holes: u64,
}

impl<W: Write> Stream<'_, W> {
    fn one(&mut self, entry: &Entry) -> Result<(), Failure> {
        match self.source.tree.content(entry)? {
            Content::Text(text) => {
                self.begin_member(entry, None)?;
                self.put(text)?;
                self.pad(text.len() as u64)
            }
            Content::File(reader) => self.file(entry, reader),
        }
    }

    fn file(&mut self, entry: &Entry, mut reader: Reader) -> Result<(), Failure> {
        let Kind::File { size, .. } = entry.kind else {
            return Ok(());
        };
        let sparse = match self.source.sparse {
            true => reader.data(size)?,
            false => None,
        };
        self.begin_member(entry, sparse.as_deref())?;
        let dense = sparse.is_none();
        let pieces = match sparse {
            Some(pieces) => pieces,
            None => {
                image::sparse::stored(reader.file(), size).map_err(|e| self.reading(entry, &e))?
            }
        };
        let data: u64 = pieces.iter().map(|(_, length)| length).sum();
        self.holes = self.holes.saturating_add(size.saturating_sub(data));
        if dense && self.holes > MOST_ZEROS {
            let why =
                "with it there are more than 64 GiB of holes, which would be written as zeros";
            return Err(self
                .reading(entry, &io::Error::other(why))
                .hint("leave it out with --exclude, or keep holes with --sparse in an archive"));
        }
        let mut stored = 0;
        for (at, length) in pieces {
            if dense {
                self.zeros(at - stored)?;
                stored = at;
            }
            reader.seek(at).map_err(|e| self.reading(entry, &e))?;
            self.copy(entry, &mut reader, length)?;
            stored += length;
        }
        if dense {
            self.zeros(size - stored)?;
            stored = size;
        }
        reader.is_the_same()?;
        self.pad(stored)?;
        self.source.bar.inc(size);
        Ok(())
    }

    /// Writes what is in a hole, which is not read.
    fn zeros(&mut self, mut left: u64) -> Result<(), Failure> {
        while left > 0 {
            signal::check()?;
            let piece = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.put(&ZEROS[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn copy(&mut self, entry: &Entry, reader: &mut Reader, mut left: u64) -> Result<(), Failure> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let most = most.min(self.buffer.len());
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = reader.read(&mut buffer[..most]);
            self.buffer = buffer;
            let n = read.map_err(|e| self.reading(entry, &e))?;
            self.out
                .write_all(&self.buffer[..n])
                .doing(Code::Os, || self.source.writing)?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Writes a member up to where its content begins.
    fn begin_member(&mut self, entry: &Entry, pieces: Option<&[Piece]>) -> Result<(), Failure> {
        let first: &[u8] = match entry.kind {
            Kind::HardLink(first) => &self.source.entries[first].path,
            _ => &[],
        };
        let refuse = |e: io::Error| {
            self.reading(entry, &e).hint(
                "remove the attributes with 'setfattr -x', or leave the file out with --exclude",
            )
        };
        let member = Member::of(entry, first, pieces).map_err(refuse)?;
        if let Some((header, text)) = member.extension().map_err(refuse)? {
            self.put(header.as_bytes())?;
            self.put(&text)?;
            self.pad(text.len() as u64)?;
        }
        self.put(member.header.as_bytes())?;
        self.put(&member.map)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out
            .write_all(bytes)
            .doing(Code::Os, || self.source.writing)
    }

    /// Fills the last block of a content.
    fn pad(&mut self, length: u64) -> Result<(), Failure> {
        self.put(padding(length))
    }

    fn reading(&self, entry: &Entry, error: &io::Error) -> Failure {
        let show = self.source.tree.show(&entry.path);
        Failure::new(Code::Failed, format!("reading {show}: {error}"))
    }
}
