//! gzip with all cores, as pigz(1) does it: blocks of a fixed size, each compressed with the end of the one before as its
//! dictionary, joined to one member (RFC 1952). Not several members, which systemd-importd takes for the end of the file.
//!
//! The output depends on the input and the level, not on how many cores there are.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// How long a block is: pigz's. A longer one compresses little better, a shorter one keeps fewer cores busy.
const BLOCK: usize = 128 << 10;

/// How far DEFLATE looks back.
const WINDOW: usize = 32 << 10;

/// No name, no date, an unknown system: what the file holds says nothing of when and where it was made.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses what is written to it.
#[derive(Debug)]
pub(crate) struct Gzip<W: Write> {
    out: W,
    block: Vec<u8>,
    /// The end of the block before.
    dictionary: Vec<u8>,
    check: Crc,
    jobs: Sender<Job>,
    /// What is being compressed, in order.
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    /// How much of that there may be.
    most: usize,
}

/// A block to compress.
#[derive(Debug)]
struct Job {
    block: Vec<u8>,
    dictionary: Vec<u8>,
    last: bool,
    done: Sender<io::Result<Vec<u8>>>,
}

impl<W: Write> Gzip<W> {
    /// Begins a file. The threads end with it.
    pub(crate) fn new(mut out: W, level: u32, threads: usize) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().spawn(move || {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .recv();
                    let Ok(job) = next else { return };
                    let result = compress(&job, level);
                    // Nobody waits for it any more when writing failed.
                    job.done.send(result).unwrap_or_default();
                }
            })?;
        }
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK),
            dictionary: Vec::new(),
            check: Crc::new(),
            jobs,
            pending: VecDeque::new(),
            most: 2 * threads,
        })
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while !self.pending.is_empty() {
            self.write_first()?;
        }
        self.out.write_all(&self.check.sum().to_le_bytes())?;
        self.out.write_all(&self.check.amount().to_le_bytes())?;
        Ok(self.out)
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        if self.pending.len() >= self.most {
            self.write_first()?;
        }
        let block = mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.check.update(&block);
        let end = block[block.len().saturating_sub(WINDOW)..].to_vec();
        let (done, result) = channel();
        let job = Job {
            block,
            dictionary: mem::replace(&mut self.dictionary, end),
            last,
            done,
        };
        self.jobs.send(job).map_err(|_| died())?;
        self.pending.push_back(result);
        Ok(())
    }

    fn write_first(&mut self) -> io::Result<()> {
        let Some(first) = self.pending.pop_front() else {
            return Ok(());
        };
        let compressed = first.recv().map_err(|_| died())??;
        self.out.write_all(&compressed)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == BLOCK {
            self.submit(false)?;
        }
        Ok(n)
    }

    /// Blocks are of a fixed size: what is not one yet waits.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress(job: &Job, level: u32) -> io::Result<Vec<u8>> {
    let mut deflate = Compress::new(Compression::new(level), false);
    if !job.dictionary.is_empty() {
        deflate.set_dictionary(&job.dictionary)?;
    }
    let flush = if job.last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut out = Vec::with_capacity(job.block.len() + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate.compress_vec(&job.block[taken..], &mut out, flush)?;
        let all = deflate.total_in() == job.block.len() as u64;
        let done = match status {
            Status::StreamEnd => true,
            // With room left, all that there was is out (zlib.h, deflate()).
            _ => !job.last && all && out.len() < out.capacity(),
        };
        if done {
            return Ok(out);
        }
        out.reserve(BLOCK);
    }
}

fn died() -> io::Error {
    io::Error::other("a thread that compresses died")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Text that compresses somewhat, and the same each time.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
            b"aabcdefgh\n"[(state >> 16) as usize % 10]
        };
        (0..length).map(|_| next()).collect()
    }

    fn pack(text: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new(), 6, threads).unwrap();
        for piece in text.chunks(piece) {
            gzip.write_all(piece).unwrap();
        }
        gzip.finish().unwrap()
    }

    #[test]
    fn it_is_one_member_that_unpacks_to_the_same() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
            let text = text(length);
            let packed = pack(&text, 2, 1000);
            let mut out = Vec::new();
            // This decoder stops at the end of the first member.
            let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
            decoder.read_to_end(&mut out).unwrap();
            assert!(out == text, "{length}");
            assert!(decoder.into_inner().is_empty(), "{length}");
            assert!(length < BLOCK || packed.len() < length * 6 / 10);
        }
    }

    #[test]
    fn it_is_the_same_with_any_number_of_threads() {
        let text = text(9 * BLOCK + 100);
        let one = pack(&text, 1, 1 << 20);
        for threads in [2, 3, 8] {
            assert!(pack(&text, threads, 777) == one, "{threads}");
        }
    }

    #[test]
    fn what_cannot_be_compressed_is_whole() {
        let noise: Vec<u8> = (0..3 * BLOCK as u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        let packed = pack(&noise, 2, 4096);
        let mut out = Vec::new();
        flate2::bufread::GzDecoder::new(&packed[..])
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == noise);
    }
}
