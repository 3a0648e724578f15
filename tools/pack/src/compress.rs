//! Compression with all cores, whose output depends on the input and the level only: not on how many cores there are.
//!
//! That is so since each format is cut into pieces of a size that the level decides: zstd's jobs, xz's blocks, our gzip's
//! blocks. With one core they are cut as well.

use crate::format::Format;
use crate::gzip::Gzip;
use std::io::{self, Write};
use xz2::stream::{Check, MtStreamBuilder};
use xz2::write::XzEncoder;

/// Compresses what is written to it.
pub(crate) enum Encoder<W: Write> {
    Tar(W),
    Zstd(zstd::Encoder<'static, W>),
    Xz(XzEncoder<W>),
    Gzip(Gzip<W>),
}

impl<W: Write> Encoder<W> {
    /// Begins a file of this format. `level` is one that the format has.
    ///
    /// # Errors
    ///
    /// When a library cannot, for want of memory or threads, or `out` takes nothing.
    pub(crate) fn new(out: W, format: Format, level: u32, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let workers = u32::try_from(threads).unwrap_or(1);
        Ok(match format {
            Format::Tar => Self::Tar(out),
            Format::Zstd => {
                let mut encoder = zstd::Encoder::new(out, i32::try_from(level).unwrap_or(0))?;
                encoder.include_checksum(true)?;
                // Also for one: without workers the output is another one (zstd.h, ZSTD_c_nbWorkers).
                encoder.multithread(workers)?;
                Self::Zstd(encoder)
            }
            Format::Xz => {
                let mut builder = MtStreamBuilder::new();
                builder.threads(workers).preset(level).check(Check::Crc64);
                // Three dictionaries, or 1 MiB where that is more: liblzma's own choice (lzma/container.h, lzma_mt).
                builder.block_size(0);
                Self::Xz(XzEncoder::new_stream(out, builder.encoder()?))
            }
            // A layer: what every program takes that takes such images.
            Format::Gzip | Format::Oci => Self::Gzip(Gzip::new(out, level, threads)?),
        })
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// As when writing.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Tar(out) => Ok(out),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Xz(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tar(out) => out.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Xz(encoder) => encoder.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tar(out) => out.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Xz(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// More than one job or block of each format at its lowest level.
    fn text() -> Vec<u8> {
        let words = (0_u64..3_000_000).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
        words.flat_map(|n| [b'a' + (n % 7) as u8, (n >> 8) as u8 & 0x3f]).collect()
    }

    fn pack(text: &[u8], format: Format, threads: usize) -> Vec<u8> {
        let level = format.level((format != Format::Tar).then_some(1)).unwrap();
        let mut encoder = Encoder::new(Vec::new(), format, level, threads).unwrap();
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_format_is_the_same_with_any_number_of_threads_and_unpacks() {
        let text = text();
        for format in [Format::Tar, Format::Zstd, Format::Xz, Format::Gzip] {
            let one = pack(&text, format, 1);
            for threads in [2, 3] {
                assert!(pack(&text, format, threads) == one, "{format:?} {threads}");
            }
            let mut out = Vec::new();
            match format {
                Format::Tar => out.clone_from(&one),
                Format::Zstd => out = zstd::decode_all(&one[..]).unwrap(),
                Format::Xz => {
                    xz2::read::XzDecoder::new(&one[..]).read_to_end(&mut out).map(drop).unwrap();
                }
                Format::Gzip | Format::Oci => {
                    flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut out).map(drop).unwrap();
                }
            }
            assert!(out == text, "{format:?}");
        }
    }
}
