//! A file and its detached signature, `FILE.sig` beside it: one of them without the other, or with another's, is refused.

use crate::diagnosis::archive::Cache;
use crate::records::{SYNC, if_exists};
use rootfs::Root;
use rustix::fs::OFlags;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::path::Path;

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
    /// Opens one of them; `None` where it does not exist.
    pub(crate) fn open(&self, directory: Directory) -> Result<Option<Cache>, Failure> {
        let (path, opened) = match directory {
            Directory::Cache => (self.cache.to_owned(), Cache::at(self.cache)),
            Directory::Sync => {
                let path = self.root.path().join(SYNC);
                let opened = self.root.open_below(SYNC, OFlags::PATH | OFlags::DIRECTORY);
                (path.clone(), opened.map(|directory| Cache { directory, path }))
            }
        };
        if_exists(opened).doing(Code::Os, || format!("opening {}", quote(path)))
    }

    /// Opens a regular file in one of them, where there is one.
    pub(crate) fn file(&self, directory: Directory, name: &str) -> Option<File> {
        self.open(directory).ok()??.open(name).ok()?
    }

    /// Removes a file and its signature.
    pub(crate) fn remove(&self, context: &Context, directory: Directory, file: &str) {
        let opened = self.open(directory);
        if let Err(failure) = opened.and_then(|opened| opened.map_or(Ok(()), |opened| opened.remove(file))) {
            context.warn(failure.message);
        }
    }
}

/// Removes a file of the package cache and its signature, as far as they are there.
///
/// # Errors
///
/// As [`Cache::remove`], and where the cache cannot be opened.
pub fn remove(cache: &Path, file: &str) -> Result<(), Failure> {
    Cache::at(cache).doing(Code::Os, || format!("opening {}", quote(cache)))?.remove(file)
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
