//! Archives made in memory, good ones and bad ones.

use crate::decompress::Format;
use std::io::Write;
use tar::{Builder, EntryType, Header};

pub(crate) const FORMATS: [Format; 4] = [Format::Gzip, Format::Xz, Format::Zstd, Format::Tar];

/// A tar in the making.
pub(crate) struct Tape(Builder<Vec<u8>>);

impl Tape {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a regular file.
    pub(crate) fn file(self, path: &str, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        self.member(EntryType::Regular, path, data.len() as u64, data)
    }

    /// Adds a member whose header says what the caller wants it to say.
    pub(crate) fn member(mut self, kind: EntryType, path: &str, size: u64, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        // Not set_path, which refuses the paths that are of interest here.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    /// Adds a pax header for the member that follows.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let records = records.iter().copied();
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    /// Returns the tar with its end marker.
    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    /// Returns the tar without an end marker.
    pub(crate) fn cut(self) -> Vec<u8> {
        let mut tar = self.done();
        tar.truncate(tar.len() - 1024);
        tar
    }
}

pub(crate) fn compress(format: Format, tar: &[u8]) -> Vec<u8> {
    match format {
        Format::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        Format::Xz => {
            let mut out = xz2::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(tar).unwrap();
            out.finish().unwrap()
        }
        Format::Zstd => zstd::stream::encode_all(tar, 1).unwrap(),
        Format::Tar => tar.to_vec(),
    }
}

/// Numbers that look random and are always the same (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}
