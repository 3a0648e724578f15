//! Compression with all cores, whose output depends on the input and the level only: not on how many cores there are.
//!
//! That is so since each format is cut into pieces of a size that the level decides: zstd's jobs, xz's blocks, our gzip's
//! blocks. With one core they are cut as well.

use crate::format::Format;
use crate::gzip::Gzip;
use std::io::{self, Write};
use xz2::stream::{Check, MtStreamBuilder};
use xz2::write::XzEncoder;

/// Compresses what `fill` writes into `out`, as a file of this format, and returns `out`. `level` is one that the format has.
///
/// # Errors
///
/// Those of `fill`; when a library cannot, for want of memory or threads, or `out` takes no more.
pub(crate) fn compress<W: Write>(
    mut out: W,
    format: Format,
    level: u32,
    threads: usize,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<W> {
    let threads = threads.max(1);
    let workers = u32::try_from(threads).unwrap_or(1);
    match format {
        Format::Tar => fill(&mut out).map(|()| out),
        Format::Zstd => {
            let mut encoder = zstd::Encoder::new(out, i32::try_from(level).unwrap_or(0))?;
            encoder.include_checksum(true)?;
            // Also for one: without workers the output is another one (zstd.h, ZSTD_c_nbWorkers).
            encoder.multithread(workers)?;
            fill(&mut encoder)?;
            encoder.finish()
        }
        Format::Xz => {
            let mut builder = MtStreamBuilder::new();
            builder.threads(workers).preset(level).check(Check::Crc64);
            // Three dictionaries, or 1 MiB where that is more: liblzma's own choice (lzma/container.h, lzma_mt).
            builder.block_size(0);
            let mut encoder = XzEncoder::new_stream(out, builder.encoder()?);
            fill(&mut encoder)?;
            encoder.finish()
        }
        // A layer: what every program takes that takes such images.
        Format::Gzip | Format::Oci => {
            let mut encoder = Gzip::new(out, level, threads)?;
            fill(&mut encoder)?;
            encoder.finish()
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
        compress(Vec::new(), format, level, threads, |out| out.write_all(text)).unwrap()
    }

    #[test]
    fn every_format_is_the_same_with_any_threads() {
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
