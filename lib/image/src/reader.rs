//! Reading the content of a file: in order, with its holes, and only as long as it does not change.
//!
//! The file system says whether a file has holes; where they are is found in the content, since a file system with other
//! blocks has other holes for the same file, and the image must be the same.

use crate::node::Seen;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, signal};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What is looked at for zeros, in bytes: the usual block of file systems.
const BLOCK: u64 = 4096;

/// The shortest hole that an image has. Many programs have a block or two of zeros in them, and are not sparse. How much room a file
/// takes does not tell whether it has one: the file system may have set more aside than it is long.
pub(crate) const SHORTEST: u64 = 16 * BLOCK;

/// How much is read at a time, in bytes.
const BUFFER: u64 = 1 << 18;

static ZEROS: [u8; BUFFER as usize] = [0; BUFFER as usize];

thread_local! {
    /// What is read into: clearing another one for each file takes longer than reading most of them.
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A part of a file: offset and length.
pub type Piece = (u64, u64);

/// Reads a file that must not change meanwhile, or a text.
#[derive(Debug)]
pub struct Reader<'a> {
    source: Source<'a>,
    size: u64,
    /// What is being done, for messages.
    doing: String,
}

#[derive(Debug)]
enum Source<'a> {
    Text(&'a [u8]),
    File(File, Seen),
}

impl<'a> Reader<'a> {
    /// Returns a reader of a file as it is now; `doing` stands in messages.
    ///
    /// # Errors
    ///
    /// fstat(2)'s.
    pub fn of_file(file: File, doing: String) -> Result<Self, Failure> {
        let stat = fstat(&file).doing(Code::Os, || &doing)?;
        Ok(Self {
            source: Source::File(file, Seen::of(&stat)),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            doing,
        })
    }

    /// Returns a reader of a file that was seen before.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where it is another one, or changed.
    pub(crate) fn of_seen(file: File, seen: Seen, doing: String) -> Result<Self, Failure> {
        let reader = Self::of_file(file, doing)?;
        match reader.source {
            Source::File(_, now) if now == seen => Ok(reader),
            _ => Err(reader.changed()),
        }
    }

    /// Returns a reader of a text.
    #[must_use]
    pub fn of_text(text: &'a [u8]) -> Self {
        Self { source: Source::Text(text), size: text.len() as u64, doing: String::new() }
    }

    /// Returns how long it is, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks at the end that the file is still what it was at the beginning: otherwise an image has half of each.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where it changed.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        let Source::File(file, seen) = &self.source else {
            return Ok(());
        };
        let stat = fstat(file).doing(Code::Os, || &self.doing)?;
        if Seen::of(&stat) == *seen { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Failure {
        Failure::new(Code::Failed, format!("{}: the file changed while it was read", self.doing))
            .hint("end the programs that work in the root ('reap' lists them), and try again")
    }

    /// Returns the parts of a range that the file system has stored, in order: all of it where that does not tell. The rest
    /// reads as zeros.
    ///
    /// # Errors
    ///
    /// lseek(2)'s.
    pub fn stored(&self, range: Range<u64>) -> Result<Vec<Piece>, Failure> {
        let doing = || &self.doing;
        let whole = vec![(range.start, range.end - range.start)];
        let Source::File(file, _) = &self.source else { return Ok(whole) };
        if self.size < SHORTEST {
            return Ok(whole);
        }
        let (mut pieces, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let begin = match seek(file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(whole),
                result => result.doing(Code::Os, doing)?,
            };
            at = seek(file, SeekFrom::Hole(begin)).doing(Code::Os, doing)?.min(range.end);
            if begin >= at {
                break;
            }
            pieces.push((begin, at - begin));
        }
        Ok(pieces)
    }

    /// Returns the parts of the file that have data, in order; `None` where the file is to be stored whole.
    ///
    /// # Errors
    ///
    /// When it cannot be read, and on a signal.
    pub fn data(&self) -> Result<Option<Vec<Piece>>, Failure> {
        let size = self.size;
        if size < SHORTEST {
            return Ok(None);
        }
        let stored = self.stored(0..size)?;
        if stored == [(0, size)] {
            return Ok(None);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (begin, length) in stored {
            let end = (begin + length).next_multiple_of(BLOCK).min(size);
            self.read(begin / BLOCK * BLOCK..end, |mut at, bytes| {
                for block in bytes.chunks(BLOCK as usize) {
                    if block.iter().any(|b| *b != 0) {
                        add(&mut pieces, at, block.len() as u64);
                    }
                    at += BLOCK;
                }
                Ok(())
            })?;
        }
        // What follows the last piece may be too short to be a hole.
        if let Some((begin, length)) = pieces.last_mut()
            && size - (*begin + *length) < SHORTEST
        {
            *length = size - *begin;
        }
        let full: u64 = pieces.iter().map(|(_, length)| length).sum();
        Ok((full < size).then_some(pieces))
    }

    /// Passes what is stored of a range to `put`, in order, each time with its offset in the file. What is left out is zeros.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is shorter, and on a signal; those of `put`.
    pub fn copy(
        &self,
        range: Range<u64>,
        mut put: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for (begin, length) in self.stored(range)? {
            self.read(begin..begin + length, &mut put)?;
        }
        Ok(())
    }

    /// Passes all of a range to `put`, in order. Holes are not read.
    ///
    /// # Errors
    ///
    /// Those of [`Self::copy`].
    pub fn copy_with_zeros(
        &self,
        range: Range<u64>,
        mut put: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut at = range.start;
        self.copy(range.clone(), |offset, bytes| {
            put_zeros(&mut put, offset - at)?;
            at = offset + bytes.len() as u64;
            put(bytes)
        })?;
        put_zeros(&mut put, range.end - at)
    }

    /// Returns it as a stream, from its beginning. An error of the stream carries the [`Failure`].
    #[must_use]
    pub fn stream(&self) -> Stream<'_> {
        self.part(0..self.size)
    }

    /// Returns a range of it as a stream, which ends where the file does.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Stream<'_> {
        let [at, end] = [range.start, range.end].map(|at| at.min(self.size));
        Stream { reader: self, at, end: end.max(at) }
    }

    /// Reads all of a range.
    fn read(&self, range: Range<u64>, mut put: impl FnMut(u64, &[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let file = match &self.source {
            Source::Text(text) => return put(range.start, &text[range.start as usize..range.end as usize]),
            Source::File(file, _) => file,
        };
        // A reader that `put` uses finds none, and makes another one.
        let mut buffer = BYTES.take();
        buffer.resize(BUFFER as usize, 0);
        let mut at = range.start;
        while at < range.end {
            signal::check()?;
            let n = (range.end - at).min(BUFFER) as usize;
            file.read_exact_at(&mut buffer[..n], at).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => self.changed(),
                _ => Failure::new(Code::Os, format!("{}: {e}", self.doing)),
            })?;
            put(at, &buffer[..n])?;
            at += n as u64;
        }
        BYTES.set(buffer);
        Ok(())
    }
}

/// The content of a [`Reader`], or a part of it, in order.
#[derive(Debug)]
pub struct Stream<'a> {
    reader: &'a Reader<'a>,
    at: u64,
    end: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (self.end - self.at).min(buffer.len() as u64) as usize;
        let (begin, end) = (self.at, self.at + n as u64);
        let put = |at: u64, bytes: &[u8]| {
            let offset = (at - begin) as usize;
            buffer[offset..offset + bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        self.reader.read(begin..end, put).map_err(io::Error::other)?;
        self.at = end;
        Ok(n)
    }
}

fn put_zeros(put: &mut impl FnMut(&[u8]) -> Result<(), Failure>, mut left: u64) -> Result<(), Failure> {
    while left > 0 {
        signal::check()?;
        let n = left.min(BUFFER);
        put(&ZEROS[..n as usize])?;
        left -= n;
    }
    Ok(())
}

/// Adds a block, to the piece before it where the hole between them would be too short.
fn add(pieces: &mut Vec<Piece>, at: u64, length: u64) {
    match pieces.last_mut() {
        Some((begin, full)) if at < *begin + *full + SHORTEST => *full = at + length - *begin,
        None if at < SHORTEST => pieces.push((0, at + length)),
        _ => pieces.push((at, length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, data: &[(u64, u64)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for (at, length) in data {
            let bytes = vec![1; *length as usize];
            file.as_file().write_all_at(&bytes, *at).unwrap();
        }
        file
    }

    fn reader(file: &tempfile::NamedTempFile) -> Reader<'static> {
        Reader::of_file(file.reopen().unwrap(), "reading it".to_owned()).unwrap()
    }

    #[track_caller]
    fn check(size: u64, written: &[(u64, u64)], expected: Option<&[Piece]>) {
        let file = file(size, written);
        assert_eq!(reader(&file).data().unwrap().as_deref(), expected);
        let mut all = Vec::new();
        let put = |bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        reader(&file).copy_with_zeros(7..size, put).unwrap();
        assert!(all == std::fs::read(file.path()).unwrap()[7..]);
    }

    const M: u64 = 1 << 20;

    #[test]
    fn holes_are_found_where_they_are_long_enough() {
        check(8 * M, &[], Some(&[]));
        check(8 * M, &[(0, 8 * M)], None);
        check(8 * M, &[(M, 10), (3 * M + 5, 1)], Some(&[(M, 4096), (3 * M, 4096)]));
        check(8 * M, &[(M, 4096), (M + 8192, 4096)], Some(&[(M, 3 * 4096)]));
        check(8 * M, &[(4096, 1)], Some(&[(0, 8192)]));
        check(8 * M - 1, &[(8 * M - 2, 1)], Some(&[(8 * M - 4096, 4095)]));
        check(8 * M, &[(0, 8 * M - 8192)], None);
        check(1000, &[], None);
    }

    #[test]
    fn zeros_on_the_disk_are_holes_where_the_file_has_others() {
        let file = file(8 * M, &[]);
        let zeros = vec![0; M as usize];
        file.as_file().write_all_at(&zeros, M).unwrap();
        file.as_file().write_all_at(b"x", 4 * M).unwrap();
        assert_eq!(reader(&file).data().unwrap(), Some(vec![(4 * M, 4096)]));
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let file = file(10_000, &[(0, 10_000)]);
        let reader = reader(&file);
        reader.check_unchanged().unwrap();
        file.as_file().set_len(9_999).unwrap();
        for result in [reader.check_unchanged(), reader.read(0..10_000, |_, _| Ok(()))] {
            let message = result.unwrap_err().message;
            assert_eq!(message, "reading it: the file changed while it was read");
        }
    }
}
