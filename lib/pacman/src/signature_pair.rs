//! A file and its detached signature, `FILE.sig` beside it: one of them without the other, or with another's, is refused.

use crate::diagnosis::archive::Cache;
use crate::records::SYNC;
use rootfs::Root;
use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory where pacman has files with signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    /// The package cache.
    Cache,
    /// The repository databases in the root.
    Sync,
}

/// Where these directories are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directories<'a> {
    pub(crate) root: &'a Root,
    pub(crate) cache: &'a Path,
}

impl Directories<'_> {
    pub(crate) fn path(&self, directory: Directory) -> PathBuf {
        match directory {
            Directory::Cache => self.cache.to_owned(),
            Directory::Sync => self.root.path().join(SYNC),
        }
    }

    pub(crate) fn open(&self, directory: Directory) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match directory {
            Directory::Cache => open(self.cache, flags, Mode::empty()),
            Directory::Sync => self.root.open_below(SYNC, flags),
        }
    }

    /// Opens a regular file in one of them, where there is one.
    pub(crate) fn file(&self, directory: Directory, name: &str) -> Option<File> {
        let opened = self.open(directory).ok()?;
        let cache = Cache { directory: opened.as_fd(), path: &self.path(directory) };
        cache.open(name).ok()?
    }

    /// Removes a file and its signature.
    pub(crate) fn remove(&self, context: &Context, directory: Directory, file: &str) {
        let path = self.path(directory);
        let removed = match self.open(directory) {
            Ok(opened) => remove_at(opened.as_fd(), &path, file),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).doing(Code::Os, || format!("opening {}", quote(&path))),
        };
        if let Err(failure) = removed {
            context.warn(failure.message);
        }
    }
}

/// Removes a file and its signature, as far as they are there.
///
/// # Errors
///
/// [`Code::Os`] where one of them cannot be removed; the other is removed all the same.
pub fn remove(directory: &Path, file: &str) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(directory, flags, Mode::empty()).doing(Code::Os, || format!("opening {}", quote(directory)))?;
    remove_at(opened.as_fd(), directory, file)
}

fn remove_at(directory: BorrowedFd<'_>, path: &Path, file: &str) -> Result<(), Failure> {
    let remove = |name: &str| match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).doing(Code::Os, || format!("removing {}", quote(path.join(name)))),
    };
    let first = remove(file);
    first.and(remove(&format!("{file}.sig")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_go_and_one_that_cannot_keeps_not_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "a.sig", "ab"] {
            std::fs::write(at(name), "x").unwrap();
        }
        remove(dir.path(), "a").unwrap();
        remove(dir.path(), "a").unwrap();
        assert!(!at("a").exists() && !at("a.sig").exists() && at("ab").exists());
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("a.sig"), "x").unwrap();
        let failure = remove(dir.path(), "a").unwrap_err();
        assert_eq!(failure.code, Code::Os);
        assert!(!at("a.sig").exists());
    }
}
