//! SHA-256 of what is read.

use sha2::{Digest, Sha256};
use stage::signal::Heeding;
use std::io::{self, Read};

/// How much is read at a time, in bytes: fewer calls, and it still fits in a processor's cache.
pub const PIECE: usize = 128 << 10;

/// A reader that hashes what is read through it.
///
/// One pass is enough: hash below the decompressor, [`drain`](Self::drain) what the decompressor did not read, compare
/// [`finish`](Self::finish), and only then use the result.
#[derive(Debug)]
pub struct Sha256Reader<R> {
    inner: Heeding<R>,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Sha256Reader<R> {
    /// Returns a reader that hashes what it reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner: Heeding(inner), hash: Sha256::new(), bytes: 0 }
    }

    /// Reads to the end, and returns how many bytes that were.
    ///
    /// There is no limit: put a [`Read::take`] below where the sender may never end.
    ///
    /// # Errors
    ///
    /// When reading fails, and when a signal asks this process to stop.
    pub fn drain(&mut self) -> io::Result<u64> {
        self.drain_by(&mut vec![0; PIECE], u64::MAX)
    }

    /// [`Sha256Reader::drain`], of one of many regular files: by a buffer of the caller's, and without a call that only says that
    /// this is the end. `size` is the size of the file: a read that ends there and had room for more was the last.
    ///
    /// # Errors
    ///
    /// As [`Sha256Reader::drain`].
    pub fn drain_by(&mut self, buffer: &mut [u8], size: u64) -> io::Result<u64> {
        let before = self.bytes;
        loop {
            match self.read(buffer) {
                Ok(n) if n == 0 || (n < buffer.len() && self.bytes == size) => return Ok(self.bytes - before),
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
        }
    }

    /// Returns how many bytes have passed.
    pub fn count(&self) -> u64 {
        self.bytes
    }

    /// Returns the hash of all that has passed, in lower-case hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        format!("{:x}", self.hash.finalize())
    }
}

impl<R: Read> Read for Sha256Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Returns the SHA-256 of these bytes, in lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Returns whether that is a SHA-256 in hexadecimal, of either case.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn known_hashes() {
        assert_eq!(sha256_hex(""), EMPTY);
        assert_eq!(sha256_hex("abc"), ABC);
        assert_eq!(Sha256Reader::new(io::empty()).finish(), EMPTY);
    }

    #[test]
    fn partly_read_then_drained() {
        let mut reader = Sha256Reader::new(&b"abc"[..]);
        let mut one = [0];
        reader.read_exact(&mut one).unwrap();
        assert_eq!(reader.count(), 1);
        assert_eq!(reader.drain().unwrap(), 2);
        assert_eq!(reader.count(), 3);
        assert_eq!(reader.finish(), ABC);
    }

    #[test]
    fn a_file_is_read_no_further_than_its_end() {
        struct Counted<'a>(&'a [u8], usize);
        impl Read for Counted<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 += 1;
                self.0.read(buffer)
            }
        }
        // What was written since is read, too; and where a read fills the buffer, there may be more.
        for (size, calls) in [(3, 2), (2, 3), (9, 3)] {
            let mut file = Counted(b"abc", 0);
            let mut reader = Sha256Reader::new(&mut file);
            assert_eq!(reader.drain_by(&mut [0; 2], size).unwrap(), 3);
            assert_eq!(reader.finish(), ABC);
            assert_eq!(file.1, calls, "{size}");
        }
    }

    #[test]
    fn what_is_a_hash() {
        assert!(is_sha256(EMPTY));
        assert!(is_sha256(&ABC.to_uppercase()));
        for bad in ["", &ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g")] {
            assert!(!is_sha256(bad), "{bad}");
        }
        assert!(!is_sha256(&"é".repeat(32)));
    }
}
