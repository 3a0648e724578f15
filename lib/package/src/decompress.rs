//! Choosing the decompressor by the content, never by the file name.
//!
//! `core.db` has no suffix for its format, mirrors serve a `.tar.gz` name with other content, and a
//! captive portal serves a web page under any name with status 200.

use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use stage::signal::Heeding;
use std::io::{BufReader, Cursor, Read};
use xz2::read::XzDecoder;
use xz2::stream::{CONCATENATED, Stream};

/// The largest zstd window, as a power of two: 128 MiB, the limit of zstd without `--long`, and what `--ultra -22` needs.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The most memory a .xz may ask for. `xz -9` needs 65 MiB to decompress; a header can ask for 4 GiB.
const XZ_MEMORY: u64 = 256 << 20;

/// How much of the input the format is found by: one tar header.
const PEEK: usize = 512;

/// How much of gzip is decompressed at a time, in bytes.
const PIECE: usize = 1 << 16;

/// How much of something else than an archive is quoted.
const QUOTED: usize = 32;

/// The compression of an archive.
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
    /// Returns the format of input that begins with `head`. A tar needs its first 512 bytes.
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
    let mut header = tar::Header::from_byte_slice(block).clone();
    let claimed = header.cksum();
    header.set_cksum();
    claimed.is_ok_and(|claimed| header.cksum().is_ok_and(|right| right == claimed))
}

/// Returns a reader of the decompressed content of `input`.
///
/// It reads ahead: what is left in `input` afterwards is less than what was not needed. Pass a
/// `&mut R` to go on with the rest, as [`Sha256Reader::drain`](crate::digest::Sha256Reader::drain)
/// does. Concatenated streams are read as one. Input that ends early is an error of the returned
/// reader, if that is read to its end, and so is a signal that asks this process to stop.
///
/// # Errors
///
/// When reading fails, and when the input is empty or not an archive.
pub fn reader<'a, R: Read + 'a>(mut input: R) -> Result<Box<dyn Read + 'a>> {
    let doing = "reading archive";
    let read = |e| Error::read(doing, e);
    let mut head = Vec::with_capacity(PEEK);
    let mut start = (&mut input).take(PEEK as u64);
    start.read_to_end(&mut head).map_err(read)?;
    let Some(format) = Format::of(&head) else {
        let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
        let begins = String::from_utf8_lossy(&line[..line.len().min(QUOTED)]);
        let reason = match head.is_empty() {
            true => "it is empty".to_owned(),
            false => format!("not an archive: it begins with '{begins}'"),
        };
        return Err(Error::malformed(doing, reason));
    };
    let input = Cursor::new(head).chain(input);
    let decoder: Box<dyn Read + 'a> = match format {
        // Asked for the few bytes of a tar's header, it would copy its window each time.
        Format::Gzip => Box::new(BufReader::with_capacity(PIECE, MultiGzDecoder::new(input))),
        Format::Xz => {
            // As XzDecoder::new_multi_decoder, but with a limit.
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED);
            Box::new(XzDecoder::new_stream(input, stream.map_err(|e| read(e.into()))?))
        }
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(input).map_err(read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(read)?;
            Box::new(decoder)
        }
        Format::Tar => Box::new(input),
    };
    // Here, and not below: a small input may decompress to a large one.
    Ok(Box::new(Heeding(decoder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{FORMATS, Tape, compress};
    use std::io;

    fn all(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        reader(input).unwrap().read_to_end(&mut out)?;
        Ok(out)
    }

    /// A reader that gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(1);
            self.0.read(&mut buf[..n])
        }
    }

    #[test]
    fn every_format_by_its_magic() {
        let tar = Tape::new().file("a", "data").done();
        for format in FORMATS {
            let input = compress(format, &tar);
            assert_eq!(Format::of(&input), Some(format));
            assert_eq!(all(&input).unwrap(), tar, "{format:?}");
            let mut slow = Vec::new();
            let mut reader = reader(Slow(&input)).unwrap();
            reader.read_to_end(&mut slow).unwrap();
            assert_eq!(slow, tar, "{format:?}");
        }
    }

    #[test]
    fn concatenated_streams_are_one() {
        let tar = Tape::new().file("a", "data").done();
        let (one, two) = tar.split_at(700);
        for format in FORMATS {
            let mut input = compress(format, one);
            input.extend(compress(format, two));
            assert_eq!(all(&input).unwrap(), tar, "{format:?}");
        }
    }

    #[test]
    fn cut_off_anywhere_is_an_error() {
        let tar = Tape::new().file("a", "data").done();
        for format in [Format::Gzip, Format::Xz, Format::Zstd] {
            let input = compress(format, &tar);
            for end in 6..input.len() {
                assert!(all(&input[..end]).is_err(), "{format:?} cut off at {end}");
            }
        }
    }

    #[test]
    fn not_an_archive() {
        let message = |input: &[u8]| reader(input).err().unwrap().to_string();
        assert_eq!(message(b""), "reading archive: it is empty");
        assert_eq!(
            message(b"<!DOCTYPE html>\n<html><title>Sign in</title>"),
            "reading archive: not an archive: it begins with '<!DOCTYPE html>'"
        );
        assert_eq!(
            message(b"\x1b[2J\x00\xffx"),
            "reading archive: not an archive: it begins with '\\u{1b}[2J\\0\u{fffd}x'"
        );
        for input in [&[b'x'; 512][..], &[b'x'; 5000], b"BZh9", b"\x1f", b"\0"] {
            assert!(message(input).contains("not an archive"));
        }
        // A tar that is cut off in its first header is not recognised, which is as good.
        let tar = Tape::new().file("a", "data").done();
        assert!(reader(&tar[..511]).is_err());
    }

    #[test]
    fn a_tar_from_before_ustar() {
        let mut header = tar::Header::new_old();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        assert_eq!(Format::of(header.as_bytes()), Some(Format::Tar));
    }

    #[test]
    fn an_error_below_is_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("connection reset"))
            }
        }
        assert_eq!(reader(Broken).err().unwrap().to_string(), "reading archive: connection reset");
    }

    #[test]
    fn a_zstd_window_has_a_limit() {
        // A frame with that window and one raw block, the last, of four bytes.
        let frame = |log: u8| {
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
            frame.extend([1 | 4 << 3, 0, 0]);
            frame.extend(b"data");
            frame
        };
        assert_eq!(all(&frame(27)).unwrap(), b"data");
        for log in [28, 31, 41] {
            assert!(all(&frame(log)).is_err(), "window of 2^{log}");
        }
    }

    #[test]
    fn xz_memory_has_a_limit() {
        let mut input = compress(Format::Xz, b"data");
        // The block header begins after the stream header: its size, flags, filter LZMA2, the size
        // of the properties, the dictionary's size; and it ends with a CRC.
        assert_eq!(input[14..16], [0x21, 1]);
        let end = 12 + (usize::from(input[12]) + 1) * 4;
        let mut with_dictionary = |bits: u8| {
            input[16] = bits;
            let mut crc = flate2::Crc::new();
            crc.update(&input[12..end - 4]);
            input[end - 4..end].copy_from_slice(&crc.sum().to_le_bytes());
            all(&input)
        };
        // 64 MiB, what -9 uses; then 512 MiB and 4 GiB.
        assert_eq!(with_dictionary(28).unwrap(), b"data");
        for bits in [34, 40] {
            assert!(with_dictionary(bits).is_err(), "{bits}");
        }
    }
}
