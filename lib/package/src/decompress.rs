//! Choosing the decompressor by what the bytes are, never by what the file is called.
//!
//! `core.db` has no suffix that tells, mirrors serve a `.tar.gz` name with other content, and a
//! captive portal serves a web page under any name with status 200.

use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::{self, Cursor, Read};
use xz2::read::XzDecoder;
use xz2::stream::{CONCATENATED, Stream};

/// The largest zstd window, as a power of two: 128 MiB, what zstd itself accepts without `--long`,
/// and what `--ultra -22` needs.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The most memory a .xz may ask for. `xz -9` needs 65 MiB to decompress; a header can ask for 4 GiB.
const XZ_MEMORY: u64 = 256 << 20;

/// How much of the input is looked at: one tar header.
const PEEK: usize = 512;

/// How much of something that is no archive is quoted.
const QUOTED: usize = 32;

/// What an archive is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// gzip, the default of repo-add(8).
    Gzip,
    /// xz, what Arch Linux ARM's packages are.
    Xz,
    /// Zstandard, what Arch Linux's packages are.
    Zstd,
    /// Not compressed.
    Tar,
}

impl Format {
    /// Returns the format of input that begins so, if it is one. A tar needs its first 512 bytes.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or a skippable frame before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => is_tar(head).then_some(Self::Tar),
        }
    }
}

/// Returns whether that is the first block of a tar: `ustar`, a V7 header whose checksum is right,
/// or the end marker of an empty archive.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..PEEK) else {
        return false;
    };
    if &block[257..262] == b"ustar" || block.iter().all(|b| *b == 0) {
        return true;
    }
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|b| u32::from(*b))
        .sum();
    let header = tar::Header::from_byte_slice(block);
    header.cksum().is_ok_and(|cksum| cksum == sum + 8 * 32)
}

/// Returns a reader of what is in `input` once it is decompressed.
///
/// Reads ahead: what is left in `input` afterwards is less than what was not needed. Give a
/// `&mut R` to go on with the rest, as [`Sha256Reader::drain`](crate::digest::Sha256Reader::drain)
/// does. Concatenated streams are read as one. Input that ends early is an error of the reader that
/// is returned, as long as it is read to its end.
///
/// # Errors
///
/// When reading fails, and when the input is empty or no archive.
pub fn reader<'a, R: Read + 'a>(mut input: R) -> Result<Box<dyn Read + 'a>> {
    let doing = "reading archive";
    let mut head = Vec::with_capacity(PEEK);
    (&mut input)
        .take(PEEK as u64)
        .read_to_end(&mut head)
        .map_err(|e| Error::read(doing, e))?;
    if head.is_empty() {
        return Err(Error::Empty);
    }
    let Some(format) = Format::of(&head) else {
        let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
        let begins = line[..line.len().min(QUOTED)].to_vec();
        return Err(Error::NotAnArchive { begins });
    };
    let input = Cursor::new(head).chain(input);
    Ok(match format {
        Format::Gzip => Box::new(MultiGzDecoder::new(input)),
        Format::Xz => {
            // What XzDecoder::new_multi_decoder does, but with a limit.
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
                .map_err(|e| Error::read(doing, io::Error::from(e)))?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        Format::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::new(input).map_err(|e| Error::read(doing, e))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG)
                .map_err(|e| Error::read(doing, e))?;
            Box::new(decoder)
        }
        Format::Tar => Box::new(input),
    })
}
