//! What every file system is to `mkdisk`: something that says how large it must be, and writes itself into a partition.

use crate::reader::Reader;
use crate::tree::Tree;
use stage::{Code, Doing, Failure, Progress, quote};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A file system with its files, all but its size.
pub trait FileSystem {
    /// Returns how many bytes its files have, without the holes that it keeps.
    fn content(&self) -> u64;

    /// Returns the smallest size, in bytes and a multiple of [`STEP`], that holds the files and leaves `spare` bytes free.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where it would be larger than it can be.
    fn smallest(&self, spare: u64) -> Result<u64, Failure>;

    /// Returns whether a partition of that size holds it.
    fn fits(&self, size: u64) -> bool;

    /// Returns the largest size that it can have, in bytes.
    fn largest(&self) -> u64;

    /// Writes it. The tree has what is in its files.
    ///
    /// # Errors
    ///
    /// When the tree cannot be read or the image not be written.
    fn write(&self, to: &Region<'_>, tree: &Tree) -> Result<(), Failure>;
}

/// What sizes of file systems are multiples of, in bytes.
pub const STEP: u64 = 1 << 20;

/// What a file system is made with, beside its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where it is mounted, for messages.
    pub at: String,
    /// Its UUID or serial number, as blkid(8) shows it.
    pub uuid: String,
    /// Random bytes, for hashes of names.
    pub seed: [u8; 16],
    /// Its label.
    pub label: Option<String>,
    /// When it is made, in seconds since 1970.
    pub time: u64,
    /// Bytes in a sector of its disk.
    pub sector: u64,
    /// How mkfs.btrfs(8) compresses its files.
    pub compress: Option<String>,
    /// The names of its subvolumes, which are directories of the top, the default one first.
    pub subvolumes: Vec<String>,
}

impl Options {
    /// Returns a path of it as it stands in a message.
    #[must_use]
    pub fn show(&self, path: &[u8]) -> String {
        let at = self.at.trim_end_matches('/');
        quote(format!("{at}/{}", String::from_utf8_lossy(path)))
    }

    /// Returns the UUID as a number.
    pub(crate) fn number(&self) -> Result<u128, Failure> {
        u128::from_str_radix(&self.uuid.replace('-', ""), 16)
            .doing(Code::Usage, || format!("reading the UUID '{}'", self.uuid))
    }
}

/// A part of an image that is being written: only zeros so far.
#[derive(Debug)]
pub struct Region<'a> {
    /// The image.
    pub image: &'a File,
    /// Where it begins in the image, in bytes.
    pub start: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// What shows how much of the contents is written.
    pub progress: &'a Progress,
}

impl Region<'_> {
    /// Writes bytes from an offset of the region on. Blocks of zeros are left out.
    ///
    /// # Errors
    ///
    /// When the image cannot be written.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut from = 0;
        // Blocks that have something in them are written together.
        for (n, block) in bytes.chunks(ZEROS.len()).enumerate() {
            if *block == ZEROS[..block.len()] {
                let begin = n * ZEROS.len();
                self.write_all(at + from as u64, &bytes[from..begin])?;
                from = begin + block.len();
            }
        }
        self.write_all(at + from as u64, &bytes[from..])
    }

    fn write_all(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.image.write_all_at(bytes, self.start + at).doing(Code::Os, || "writing the image")
    }

    /// Copies a range of a file to an offset of the region.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or the image not be written, and on a signal.
    pub fn copy(&self, file: &Reader<'_>, range: Range<u64>, at: u64) -> Result<(), Failure> {
        file.copy(range.clone(), |offset, bytes| {
            self.progress.advance(bytes.len() as u64);
            self.write(at + offset - range.start, bytes)
        })
    }
}
