//! Holes of files: where they are, so that they are not read, and which of them an archive has.
//!
//! For an archive the file system says only whether a file has holes; where they are is found in the content, since a file
//! system with other blocks has other holes for the same file, and the archive must be the same.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is looked at for zeros, in bytes: the usual block of file systems.
const BLOCK: u64 = 4096;

/// The shortest hole that an archive has. Many programs have a block or two of zeros in them, and are not sparse.
const SHORTEST: u64 = 16 * BLOCK;

/// A piece of a file that has data: offset and length.
pub(crate) type Piece = (u64, u64);

/// Returns where the file system has data of a file, in order: all else reads as zeros.
///
/// # Errors
///
/// When the file cannot be looked at. That it became shorter is seen when it is stored.
pub(crate) fn extents(file: &File, size: u64) -> io::Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(begin))?.min(size);
        if begin >= end {
            break;
        }
        pieces.push((begin, end - begin));
        at = end;
    }
    Ok(pieces)
}

/// Returns what of a file is stored as a sparse one, in order; `None` where it is to be stored whole.
///
/// # Errors
///
/// When the file cannot be read.
pub(crate) fn data(file: &File, size: u64) -> io::Result<Option<Vec<Piece>>> {
    let extents = extents(file, size)?;
    if size < SHORTEST || extents == [(0, size)] {
        return Ok(None);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for (begin, length) in extents {
        look(
            file,
            begin / BLOCK * BLOCK,
            begin + length,
            size,
            &mut pieces,
        )?;
    }
    let full: u64 = pieces.iter().map(|(_, length)| length).sum();
    Ok((full < size).then_some(pieces))
}

/// Adds the blocks from `at` to `end` that are not all zeros.
fn look(file: &File, mut at: u64, end: u64, size: u64, pieces: &mut Vec<Piece>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    while at < end {
        let most = usize::try_from(size - at).unwrap_or(usize::MAX);
        let piece = buffer.len().min(most);
        file.read_exact_at(&mut buffer[..piece], at)?;
        for block in buffer[..piece].chunks(BLOCK as usize) {
            if at < end && block.iter().any(|b| *b != 0) {
                add(pieces, at, block.len() as u64);
            }
            at += BLOCK;
        }
    }
    // What follows the last piece may be too short to be a hole.
    if let Some(last) = pieces.last_mut()
        && size - (last.0 + last.1) < SHORTEST
    {
        last.1 = size - last.0;
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

    fn file(size: u64, data: &[(u64, u64)]) -> (tempfile::NamedTempFile, u64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for (at, length) in data {
            let bytes = vec![1; *length as usize];
            file.as_file().write_all_at(&bytes, *at).unwrap();
        }
        (file, size)
    }

    #[track_caller]
    fn check(size: u64, written: &[(u64, u64)], expected: Option<&[Piece]>) {
        let (file, size) = file(size, written);
        let file = File::open(file.path()).unwrap();
        assert_eq!(data(&file, size).unwrap().as_deref(), expected);
    }

    const M: u64 = 1 << 20;

    #[test]
    fn holes_are_found_where_they_are_long_enough() {
        check(8 * M, &[], Some(&[]));
        check(8 * M, &[(0, 8 * M)], None);
        check(
            8 * M,
            &[(M, 10), (3 * M + 5, 1)],
            Some(&[(M, 4096), (3 * M, 4096)]),
        );
        check(
            8 * M,
            &[(M, 4096), (M + 8192, 4096)],
            Some(&[(M, 3 * 4096)]),
        );
        check(8 * M, &[(4096, 1)], Some(&[(0, 8192)]));
        check(8 * M - 1, &[(8 * M - 2, 1)], Some(&[(8 * M - 4096, 4095)]));
        check(8 * M, &[(0, 8 * M - 8192)], None);
        check(1000, &[], None);
    }

    #[test]
    fn holes_at_either_end_are_no_extents() {
        let (file, size) = file(8 * M, &[(M, 1 << 16), (3 * M, 1 << 16)]);
        let found = extents(file.as_file(), size).unwrap();
        assert_eq!(found, [(M, 1 << 16), (3 * M, 1 << 16)]);
        assert_eq!(extents(file.as_file(), M).unwrap(), []);
    }

    #[test]
    fn zeros_on_the_disk_are_holes_where_the_file_has_others() {
        let (file, size) = file(8 * M, &[]);
        file.as_file()
            .write_all_at(&vec![0; M as usize], M)
            .unwrap();
        file.as_file().write_all_at(b"x", 4 * M).unwrap();
        let file = File::open(file.path()).unwrap();
        assert_eq!(data(&file, size).unwrap(), Some(vec![(4 * M, 4096)]));
    }
}
