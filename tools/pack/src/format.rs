//! The formats, and what tells which one is meant.

use clap::ValueEnum;
use image::compress::Compression;
use image::host::HostKind;
use stage::{Code, Failure, quote};
use std::path::Path;

/// A format: a tar archive, and how it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Not compressed
    #[value(name = "tar")]
    Tar,
    /// Compressed by Zstandard (RFC 8878)
    #[value(name = "tar.zst")]
    Zstd,
    /// Compressed by LZMA2
    #[value(name = "tar.xz")]
    Xz,
    /// Compressed by DEFLATE (RFC 1952)
    #[value(name = "tar.gz")]
    Gzip,
    /// As tar.gz, for the Windows Subsystem for Linux
    #[value(name = "wsl")]
    Wsl,
    /// An image of the Open Container Initiative, in its layout, as one tar
    #[value(name = "oci")]
    Oci,
    /// A squashfs file system
    #[value(name = "squashfs")]
    Squashfs,
    /// An EROFS file system
    #[value(name = "erofs")]
    Erofs,
}

/// What names end with, and the format that they mean.
const SUFFIXES: [(&str, Format); 10] = [
    (".tar", Format::Tar),
    (".tar.zst", Format::Zstd),
    (".tzst", Format::Zstd),
    (".tar.xz", Format::Xz),
    (".txz", Format::Xz),
    (".tar.gz", Format::Gzip),
    (".tgz", Format::Gzip),
    (".wsl", Format::Wsl),
    (".squashfs", Format::Squashfs),
    (".erofs", Format::Erofs),
];

impl Format {
    /// Returns the format that a file's name ends with.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it ends with none.
    pub(crate) fn of_name(path: &Path) -> Result<Self, Failure> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = SUFFIXES.iter().find(|(end, _)| name.ends_with(end));
        found.map(|(_, format)| *format).ok_or_else(|| {
            let message = format!("writing {}: its name does not say in which format", quote(path));
            Failure::new(Code::Usage, message)
                .hint("end it with .tar, .tar.zst, .tar.xz, .tar.gz, .wsl, .squashfs or .erofs, or give --format")
        })
    }

    /// Returns its name, as the command line and the document have it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns which file system it is, which a program of the host makes; `None` for an archive.
    pub(crate) fn file_system(self) -> Option<HostKind> {
        match self {
            Self::Squashfs => Some(HostKind::Squashfs),
            Self::Erofs => Some(HostKind::Erofs),
            _ => None,
        }
    }

    /// Returns how it is compressed. Of an OCI image a layer is, as every program can that takes such images.
    pub(crate) fn compression(self) -> Option<Compression> {
        match self {
            Self::Tar | Self::Squashfs | Self::Erofs => None,
            Self::Zstd => Some(Compression::Zstd),
            Self::Xz => Some(Compression::Xz),
            Self::Gzip | Self::Wsl | Self::Oci => Some(Compression::Gzip),
        }
    }

    /// Returns the level to compress with: the one asked for, or the format's own program's.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where the format has no such level.
    pub(crate) fn level(self, asked: Option<u32>) -> Result<u32, Failure> {
        let Some(asked) = asked else {
            return Ok(self.compression().map_or(0, Compression::default_level));
        };
        let why = match self.compression().map(Compression::levels) {
            Some(levels) if levels.contains(&asked) => return Ok(asked),
            Some(levels) => format!("has the levels {} to {}", levels.start(), levels.end()),
            None if self.file_system().is_some() => "has no levels".to_owned(),
            None => "is not compressed".to_owned(),
        };
        Err(Failure::new(Code::Usage, format!("reading '--level {asked}': {} {why}", self.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_format() {
        for (name, format) in [
            ("a.tar", Some(Format::Tar)),
            ("a.b.tar.zst", Some(Format::Zstd)),
            ("a.tar.xz", Some(Format::Xz)),
            ("a.txz", Some(Format::Xz)),
            ("a.tgz", Some(Format::Gzip)),
            ("a.wsl", Some(Format::Wsl)),
            ("a.squashfs", Some(Format::Squashfs)),
            ("a.erofs", Some(Format::Erofs)),
            ("a.zst", None),
            ("a", None),
            ("a.tar/b", None),
            ("a.TAR", None),
        ] {
            assert_eq!(Format::of_name(Path::new(name)).ok(), format, "{name}");
        }
    }

    #[test]
    fn a_level_is_one_of_the_formats() {
        for (format, asked, level) in [
            (Format::Tar, None, Some(0)),
            (Format::Tar, Some(1), None),
            (Format::Zstd, None, Some(3)),
            (Format::Zstd, Some(19), Some(19)),
            (Format::Zstd, Some(20), None),
            (Format::Zstd, Some(0), None),
            (Format::Xz, Some(0), Some(0)),
            (Format::Xz, Some(10), None),
            (Format::Gzip, Some(9), Some(9)),
            (Format::Gzip, Some(0), None),
            (Format::Wsl, None, Some(6)),
            (Format::Erofs, None, Some(0)),
            (Format::Squashfs, Some(1), None),
        ] {
            assert_eq!(format.level(asked).ok(), level, "{format:?} {asked:?}");
        }
    }
}
