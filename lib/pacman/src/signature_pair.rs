//! A file and its detached signature, `FILE.sig` beside it: one of them without the other, or with another's, is refused.

use rustix::fs::{AtFlags, Mode, OFlags, open, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Removes a file and its signature, as far as they are there.
///
/// # Errors
///
/// [`Code::Os`] where one of them cannot be removed; the other is gone by then all the same.
pub fn remove(directory: &Path, file: &str) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(directory, flags, Mode::empty())
        .doing(Code::Os, || format!("opening {}", quote(directory)))?;
    remove_at(opened.as_fd(), directory, file)
}

/// [`remove`], in a directory that is open; `shown` is its path.
pub(crate) fn remove_at(
    directory: BorrowedFd<'_>,
    shown: &Path,
    file: &str,
) -> Result<(), Failure> {
    let remove = |name: &str| match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).doing(Code::Os, || format!("removing {}", quote(shown.join(name)))),
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
