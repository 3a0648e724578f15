//! The file that the image becomes, which its name says: the raw image, or one that is compressed, or one for virtual machines,
//! which qemu-img(1) makes.

use crate::program;
use image::compress::Compression;
use image::reader::Reader;
use stage::{Code, Context, Doing, Failure, Unit, child, quote};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A format of a disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The image as it is.
    Raw,
    /// The image, compressed.
    Compressed(Compression),
    /// What qemu-img calls by this name.
    Converted(&'static str),
}

/// What names end with. A name without a dot is a raw image.
const ENDS: [(&str, Format); 11] = [
    (".img", Format::Raw),
    (".raw", Format::Raw),
    (".img.zst", Format::Compressed(Compression::Zstd)),
    (".img.xz", Format::Compressed(Compression::Xz)),
    (".img.gz", Format::Compressed(Compression::Gzip)),
    (".raw.zst", Format::Compressed(Compression::Zstd)),
    (".raw.xz", Format::Compressed(Compression::Xz)),
    (".raw.gz", Format::Compressed(Compression::Gzip)),
    (".qcow2", Format::Converted("qcow2")),
    (".vhdx", Format::Converted("vhdx")),
    (".vmdk", Format::Converted("vmdk")),
];

impl Format {
    /// Returns the format that the name of a file says.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it says none that is made.
    pub(crate) fn of_name(path: &Path) -> Result<Self, Failure> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let known = ENDS.iter().find(|(end, _)| name.len() > end.len() && name.ends_with(end));
        match known {
            Some((_, format)) => Ok(*format),
            None if !name.contains('.') => Ok(Self::Raw),
            None => {
                let ends: Vec<_> = ENDS.iter().map(|(end, _)| *end).collect();
                let message = format!("writing {}: its name does not say in which format", quote(path));
                Err(Failure::new(Code::Usage, message).hint(format!("end it with one of {}", ends.join(", "))))
            }
        }
    }

    /// Returns the name of it in the document; none for a raw image.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Raw => None,
            Self::Compressed(Compression::Zstd) => Some("zst"),
            Self::Compressed(Compression::Xz) => Some("xz"),
            Self::Compressed(Compression::Gzip) => Some("gz"),
            Self::Converted(name) => Some(name),
        }
    }

    /// Fails where the program that makes it is missing.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`].
    pub(crate) fn check(self) -> Result<(), Failure> {
        let Self::Converted(name) = self else {
            return Ok(());
        };
        match child::find("qemu-img") {
            Some(_) => Ok(()),
            None => Err(Failure::new(Code::NotFound, format!("making a {name} image: qemu-img is not installed"))
                .hint("install it (Debian: qemu-utils), or write a raw image: '-o FILE.img'")),
        }
    }

    /// Writes the raw image `from` to `to` in this format. Both are at their beginning.
    ///
    /// # Errors
    ///
    /// When one cannot be read or the other be written, and on a signal; [`Code::ChildFailed`] where qemu-img fails.
    pub(crate) fn convert(self, context: &Context, from: &File, to: &File) -> Result<(), Failure> {
        let doing = "writing the image";
        let clone = |file: &File| file.try_clone().doing(Code::Os, || doing);
        match self {
            Self::Raw => Ok(()),
            Self::Compressed(compression) => {
                let reader = Reader::of_file(clone(from)?, "reading the image".to_owned())?;
                let progress = context.progress("compressing", Unit::Bytes, Some(reader.size()));
                let copy = |out: &mut dyn Write| {
                    let put = |bytes: &[u8]| {
                        progress.advance(bytes.len() as u64);
                        out.write_all(bytes).doing(Code::Os, || doing)
                    };
                    reader.copy_with_zeros(0..reader.size(), put).map_err(io::Error::other)
                };
                let written = compression.compress(to, compression.default_level(), copy);
                let failed = |e| Failure::of_io(e).unwrap_or_else(|e| Failure::system(Code::Os, doing, e));
                written.map(drop).map_err(failed)
            }
            Self::Converted(name) => {
                let mut command = child::command("qemu-img");
                command.args(["convert", "-q", "-f", "raw", "-O", name]);
                program::run("qemu-img", command.args([program::name_of(from), program::name_of(to)]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_format() {
        for (name, format) in [
            ("a.img", Some(None)),
            ("disk", Some(None)),
            ("a.b.raw", Some(None)),
            ("a.img.zst", Some(Some("zst"))),
            ("a.img.xz", Some(Some("xz"))),
            ("a.raw.gz", Some(Some("gz"))),
            ("a.qcow2", Some(Some("qcow2"))),
            ("a.vhdx", Some(Some("vhdx"))),
            ("a.zst", None),
            ("a.tar.zst", None),
            ("a.iso", None),
            (".img", None),
            ("a.IMG", None),
        ] {
            let path = Path::new("/x").join(name);
            let found = Format::of_name(&path);
            assert_eq!(found.as_ref().ok().map(|format| format.name()), format, "{name}");
        }
    }
}
