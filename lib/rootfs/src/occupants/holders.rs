//! What keeps a mount busy though no process does: the kernel itself has a file open.
//!
//! No scan of processes finds these, and `umount` says no more than "target is busy".

use super::text::path_below;
use crate::mountinfo::decode;
use stage::quote;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What keeps a mount busy though no process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A loop device that is backed by a file there.
    Loop {
        /// The device, as `loop3`.
        device: String,
        /// The file.
        file: PathBuf,
    },
    /// A handler of binfmt_misc with the flag F, whose interpreter the kernel keeps open.
    Handler {
        /// The handler's name.
        name: String,
        /// The interpreter.
        interpreter: PathBuf,
    },
    /// A file that is swapped to.
    Swap(PathBuf),
}

impl Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop { device, file } => {
                write!(f, "the loop device /dev/{device} has {}", quote(file))
            }
            Self::Handler { name, interpreter } => write!(
                f,
                "the binfmt_misc handler {} of the host has {} open",
                quote(name),
                quote(interpreter)
            ),
            Self::Swap(file) => write!(f, "the kernel swaps to {}", quote(file)),
        }
    }
}

/// Returns what keeps `root` busy though no process does. What cannot be read is not there: these are optional parts of
/// the kernel.
#[must_use]
pub fn holders(root: &Path) -> Vec<Holder> {
    let mut found = loops(root);
    found.extend(handlers(root));
    found.extend(swaps(root));
    found
}

fn loops(root: &Path) -> Vec<Holder> {
    let one = |(device, text): (OsString, Vec<u8>)| {
        Some(Holder::Loop {
            device: device.to_string_lossy().into_owned(),
            file: path_below(text.trim_ascii_end(), root)?,
        })
    };
    let files = files("/sys/block", "loop/backing_file");
    files.into_iter().filter_map(one).collect()
}

fn handlers(root: &Path) -> Vec<Holder> {
    let one = |(name, text): (OsString, Vec<u8>)| {
        Some(Holder::Handler {
            name: name.to_string_lossy().into_owned(),
            interpreter: path_below(interpreter_kept_open(&text)?, root)?,
        })
    };
    let files = files("/proc/sys/fs/binfmt_misc", "");
    files.into_iter().filter_map(one).collect()
}

fn swaps(root: &Path) -> Vec<Holder> {
    let text = std::fs::read("/proc/swaps").unwrap_or_default();
    swap_files(&text, root)
        .into_iter()
        .map(Holder::Swap)
        .collect()
}

/// Parses `/proc/swaps`: the files at or below `root`. A blank in a name is an octal escape.
fn swap_files(text: &[u8], root: &Path) -> Vec<PathBuf> {
    let names = text
        .split(|&b| b == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|&b| b == b' ' || b == b'\t').next());
    names
        .filter_map(|name| path_below(decode(name).as_bytes(), root))
        .collect()
}

/// Returns what is in the file `below` each entry of a directory, with the entry's name. Empty means the entry itself.
fn files(dir: &str, below: &str) -> Vec<(OsString, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let path = if below.is_empty() {
                entry.path()
            } else {
                entry.path().join(below)
            };
            Some((entry.file_name(), std::fs::read(path).ok()?))
        })
        .collect();
    files.sort();
    files
}

/// Returns the interpreter of a binfmt_misc handler that has the flag F.
fn interpreter_kept_open(text: &[u8]) -> Option<&[u8]> {
    let field = |key: &[u8]| {
        text.split(|&b| b == b'\n')
            .find_map(|line| line.strip_prefix(key))
    };
    field(b"flags: ")?
        .contains(&b'F')
        .then_some(field(b"interpreter ")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_file_below_a_path_with_a_blank_is_found() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /srv/my\\040root/swap\\040file                  file\t\t8\t\t0\t\t-2\n\
            /srv/my\\011root/swap file\t8\t0\t-3\n\
            /dev/vda2 partition\t8\t0\t-3\n\
            /srv/my\\040root/gone\\040(deleted) file\t8\t0\t-4\n";
        let found = |root: &str| swap_files(text, Path::new(root));
        let expected = ["/srv/my root/swap file", "/srv/my root/gone (deleted)"].map(PathBuf::from);
        assert_eq!(found("/srv/my root"), expected);
        assert_eq!(
            found("/srv/my\troot"),
            [PathBuf::from("/srv/my\troot/swap")]
        );
        assert_eq!(found("/srv/my"), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn only_a_handler_with_the_flag_f_keeps_its_interpreter_open() {
        let kept = b"enabled\ninterpreter /t/qemu\nflags: OCF\noffset 0\n";
        assert_eq!(interpreter_kept_open(kept), Some(&b"/t/qemu"[..]));
        let opened_anew = b"interpreter /t/q\nflags: OC\n";
        assert_eq!(interpreter_kept_open(opened_anew), None);
        assert_eq!(interpreter_kept_open(b"enabled\n"), None);
    }
}
