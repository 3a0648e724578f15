//! Decompression of kernels, modules and initramfs: each compression that the kernel knows but LZO, found by its first bytes.
//!
//! A stream is decompressed to its end and no further: another may follow it in an initramfs.

use std::io::{self, BufRead, Read};
use xz2::stream::Stream;

/// The most that is read of one file, before and after it is decompressed, in bytes.
pub(super) const LIMIT: u64 = 2 << 30;

/// The most memory that .xz and .lzma may ask for, in bytes; `xz -9` needs 65 MiB.
const MEMORY: u64 = 256 << 20;

/// The largest window of zstd that the kernel decompresses, as a power of two.
const WINDOW: u32 = 27;

/// How much is read at a time, in bytes.
const BUFFER: usize = 1 << 16;

/// A buffered stream whose next bytes can be looked at.
pub(super) struct Input<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    left: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), at: 0, left: LIMIT }
    }

    /// Returns the next `n` bytes, or fewer at the end.
    pub(super) fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.at < n && self.refill()? > 0 {}
        let end = self.buffer.len().min(self.at + n);
        Ok(&self.buffer[self.at..end])
    }

    /// Skips zeros; returns whether something follows.
    pub(super) fn skip_zeros(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.fill_buf()?;
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            let (is_end, is_over) = (bytes.is_empty(), zeros < bytes.len());
            self.consume(zeros);
            if is_end || is_over {
                return Ok(is_over);
            }
        }
    }

    /// Reads more behind what is there.
    fn refill(&mut self) -> io::Result<usize> {
        // Here, and not below: a small input may decompress to a large one.
        stage::signal::check().map_err(io::Error::other)?;
        self.buffer.drain(..self.at);
        self.at = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + BUFFER, 0);
        let read = self.from.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + read.as_ref().copied().unwrap_or(0));
        let n = read?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| damaged("it has more than 2 GiB"))?;
        Ok(n)
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.refill()?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

/// Returns an error that says what is wrong with the content.
pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Returns a decompressor of the stream that comes next; `None` where its first bytes are of no compression.
pub(super) fn decoder<'a, R: Read>(input: &'a mut Input<R>) -> io::Result<Option<Box<dyn Read + 'a>>> {
    let head = input.peek(6)?.to_owned();
    Ok(Some(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = Stream::new_stream_decoder(MEMORY, 0)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(input, stream))
        }
        [0x5d, 0, 0, ..] => {
            let stream = Stream::new_lzma_decoder(MEMORY)?;
            Box::new(xz2::bufread::XzDecoder::new_stream(input, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
            decoder.window_log_max(WINDOW)?;
            Box::new(decoder)
        }
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::BzDecoder::new(input)),
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            input.consume(4);
            Box::new(Lz4 { input, block: Vec::new(), at: 0 })
        }
        [0x89, b'L', b'Z', b'O', ..] => return Err(damaged("it is compressed by lzop, which is not supported")),
        _ => return Ok(None),
    }))
}

/// The legacy format of lz4(1), which the kernel reads: blocks, each with its length before it, until one of length 0, the
/// end, or something else.
struct Lz4<'a, R> {
    input: &'a mut Input<R>,
    block: Vec<u8>,
    at: usize,
}

/// How much a block has, decompressed, in bytes; the longest that it can be when it is compressed.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_LONGEST: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;

impl<R: Read> Read for Lz4<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            let length = match *self.input.peek(4)? {
                [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
                _ => 0,
            };
            if length == 0 || length > LZ4_LONGEST {
                return Ok(0);
            }
            self.input.consume(4);
            let mut compressed = vec![0; length];
            self.input.read_exact(&mut compressed)?;
            self.block = lz4_flex::block::decompress(&compressed, LZ4_BLOCK).map_err(|e| damaged(&e.to_string()))?;
            self.at = 0;
        }
        let n = (&self.block[self.at..]).read(buffer)?;
        self.at += n;
        Ok(n)
    }
}
