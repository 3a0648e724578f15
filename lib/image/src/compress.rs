//! Compression with all cores, whose output depends on the input and the level only: not on how many cores there are.
//!
//! That is so since each format is cut into pieces of a size that the level decides: zstd's jobs, xz's blocks, our gzip's
//! blocks. With one core they are cut as well.

mod gzip;

use gzip::Gzip;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use xz2::stream::{Check, MtStreamBuilder};
use xz2::write::XzEncoder;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard (RFC 8878).
    Zstd,
    /// LZMA2.
    Xz,
    /// DEFLATE (RFC 1952).
    Gzip,
}

impl Compression {
    /// Returns the level of its own program.
    #[must_use]
    pub fn default_level(self) -> u32 {
        match self {
            Self::Zstd => 3,
            Self::Xz | Self::Gzip => 6,
        }
    }

    /// Returns the levels that it has.
    #[must_use]
    pub fn levels(self) -> RangeInclusive<u32> {
        match self {
            // From 20 on more memory is needed to unpack than docker and others give it.
            Self::Zstd => 1..=19,
            Self::Xz => 0..=9,
            Self::Gzip => 1..=9,
        }
    }

    /// Compresses what `fill` writes into `out` with all processors, and returns `out`. `level` is one that it has.
    ///
    /// # Errors
    ///
    /// Those of `fill`; when a library cannot, for want of memory or threads, or `out` takes no more.
    pub fn compress<W: Write>(
        self,
        out: W,
        level: u32,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<W> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        self.compress_with(out, level, threads, fill)
    }

    fn compress_with<W: Write>(
        self,
        out: W,
        level: u32,
        threads: usize,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<W> {
        let workers = u32::try_from(threads).unwrap_or(1);
        match self {
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(out, i32::try_from(level).unwrap_or(0))?;
                encoder.include_checksum(true)?;
                // Also for one: without workers the output is another one (zstd.h, ZSTD_c_nbWorkers).
                encoder.multithread(workers)?;
                fill(&mut encoder)?;
                encoder.finish()
            }
            Self::Xz => {
                let mut builder = MtStreamBuilder::new();
                builder.threads(workers).preset(level).check(Check::Crc64);
                // Three dictionaries, or 1 MiB where that is more: liblzma's own choice (lzma/container.h, lzma_mt).
                builder.block_size(0);
                let mut encoder = XzEncoder::new_stream(out, builder.encoder()?);
                fill(&mut encoder)?;
                encoder.finish()
            }
            Self::Gzip => {
                let mut encoder = Gzip::new(out, level, threads)?;
                fill(&mut encoder)?;
                encoder.finish()
            }
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

    fn pack(text: &[u8], how: Compression, threads: usize) -> Vec<u8> {
        how.compress_with(Vec::new(), 1, threads, |out| out.write_all(text)).unwrap()
    }

    #[test]
    fn every_format_is_the_same_with_any_threads() {
        let text = text();
        for how in [Compression::Zstd, Compression::Xz, Compression::Gzip] {
            let one = pack(&text, how, 1);
            for threads in [2, 3] {
                assert!(pack(&text, how, threads) == one, "{how:?} {threads}");
            }
            let mut out = Vec::new();
            match how {
                Compression::Zstd => out = zstd::decode_all(&one[..]).unwrap(),
                Compression::Xz => drop(xz2::read::XzDecoder::new(&one[..]).read_to_end(&mut out).unwrap()),
                Compression::Gzip => drop(flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut out).unwrap()),
            }
            assert!(out == text, "{how:?}");
        }
    }
}
