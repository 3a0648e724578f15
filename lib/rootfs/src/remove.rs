//! Deleting directories with all that is in them: never over a mount, and never by way of a symbolic link.

use crate::root::BENEATH;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, unlinkat};
use rustix::io::Errno;
use stage::{Code, Failure, quote};
use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How deep the walk goes: two descriptors a level. What lies deeper is moved up first.
const DEPTH: usize = 100;

/// Deletes all that is in a directory, but for the path `keep` in it and what lies below that.
///
/// # Errors
///
/// [`Code::Busy`] at a mount point; else that of the first file that cannot be deleted.
pub fn empty(directory: &OwnedFd, path: &Path, keep: &[&str]) -> Result<(), Failure> {
    let mut walk = Walk { top: directory, moved: 0 };
    // What was too deep is at the top afterwards.
    while walk.clear(directory, path, 0, keep).map_err(|(at, e)| explain(&at, e))? {}
    Ok(())
}

/// Deletes the entry `name` of a directory, with all that is in it. `path` is that of the entry, for a message.
///
/// # Errors
///
/// As [`empty`].
pub(crate) fn entry(directory: &OwnedFd, name: &CStr, path: &Path) -> Result<(), Failure> {
    let removed = match is_directory(directory, name, FileType::Unknown) {
        Ok(true) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat2(directory, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV);
            empty(&opened.map_err(|e| explain(path, e))?, path, &[])?;
            unlinkat(directory, name, AtFlags::REMOVEDIR)
        }
        Ok(false) => unlinkat(directory, name, AtFlags::empty()),
        Err(e) => Err(e),
    };
    removed.map_err(|e| explain(path, e))
}

fn explain(at: &Path, error: Errno) -> Failure {
    match error {
        // Of unlinkat(2), openat2(2).
        Errno::BUSY | Errno::XDEV => Failure::new(Code::Busy, format!("deleting {}: it is a mount point", quote(at))),
        e => Failure::system(Code::Os, format!("deleting {}", quote(at)), e),
    }
}

struct Walk<'a> {
    top: &'a OwnedFd,
    /// How many directories were moved to `top`.
    moved: u64,
}

impl Walk<'_> {
    /// Deletes what is in a directory, which is `depth` levels below `top`, but for `keep`. Returns whether something was moved.
    fn clear(
        &mut self,
        directory: &OwnedFd,
        path: &Path,
        depth: usize,
        keep: &[&str],
    ) -> Result<bool, (PathBuf, Errno)> {
        let mut again = false;
        for entry in Dir::read_from(directory).map_err(|e| (path.to_owned(), e))? {
            let entry = entry.map_err(|e| (path.to_owned(), e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let at = path.join(OsStr::from_bytes(name.to_bytes()));
            let fail = |e| (at.clone(), e);
            if !is_directory(directory, name, entry.file_type()).map_err(fail)? {
                unlinkat(directory, name, AtFlags::empty()).map_err(fail)?;
                continue;
            }
            let below_keep = match keep {
                [first, rest @ ..] if name.to_bytes() == first.as_bytes() => Some(rest),
                _ => None,
            };
            if below_keep.is_some_and(<[_]>::is_empty) {
                continue;
            }
            if depth == DEPTH {
                self.move_up(directory, name).map_err(fail)?;
                again = true;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below =
                openat2(directory, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV).map_err(fail)?;
            again |= self.clear(&below, &at, depth + 1, below_keep.unwrap_or_default())?;
            if below_keep.is_none() {
                unlinkat(directory, name, AtFlags::REMOVEDIR).map_err(fail)?;
            }
        }
        Ok(again)
    }

    /// Moves a directory to the top, by a name that is free.
    fn move_up(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let new = format!(".deep-{}", self.moved);
            match renameat_with(directory, name, self.top, &new, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => return result,
            }
        }
    }
}

fn is_directory(directory: &OwnedFd, name: &CStr, kind: FileType) -> Result<bool, Errno> {
    match kind {
        FileType::Unknown => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
        }
        kind => Ok(kind.is_dir()),
    }
}
