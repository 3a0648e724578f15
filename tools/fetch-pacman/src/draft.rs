//! A file that is written, and tried out, before it has its name.
//!
//! Whatever ends this program, SIGKILL too, removes it. Where the file system has no files without a name (NFS, FUSE), it is a
//! hidden file beside its destination instead.

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use std::fs::{File, Permissions};
use std::io::Result;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// The prefix of hidden files.
const PREFIX: &str = ".pacman-";

/// A file that only its owner can read and write, until it is made executable.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) file: File,
    name: Option<TempPath>,
}

impl Draft {
    /// Makes an empty one in a directory.
    pub(crate) fn new_in(dir: &Path) -> Result<Self> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        if let Ok(fd) = open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            return Ok(Self { file: fd.into(), name: None });
        }
        // Also where the directory does not exist or is not ours: the error says so.
        let (file, name) = tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)?.into_parts();
        Ok(Self { file, name: Some(name) })
    }

    /// Syncs it, and makes it executable and read-only: execve(2) fails with ETXTBSY as long as someone could write to it.
    pub(crate) fn into_executable(self) -> Result<Self> {
        self.file.set_permissions(Permissions::from_mode(0o755))?;
        self.file.sync_all()?;
        let file = File::open(self.path())?;
        Ok(Self { file, ..self })
    }

    /// Returns a path of it, as long as this exists. It names this process, so that it is also valid in a child: the
    /// interpreter of a script opens the script again.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.to_path_buf(),
            None => format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into(),
        }
    }

    /// Gives it its name, and replaces the file that has it.
    pub(crate) fn persist(mut self, to: &Path) -> Result<()> {
        let name = match self.name.take() {
            Some(name) => name,
            None if self.link(to).is_ok() => return Ok(()),
            // link(2) does not replace: a name for the moment, and rename(2), which does.
            None => {
                let dir = to.parent().unwrap_or(Path::new("/"));
                tempfile::Builder::new().prefix(PREFIX).make_in(dir, |path| self.link(path))?.into_temp_path()
            }
        };
        name.persist(to).map_err(|e| e.error)
    }

    /// Gives it a name that nothing has.
    fn link(&self, to: &Path) -> Result<()> {
        let cwd = nix::fcntl::AT_FDCWD;
        nix::unistd::linkat(cwd, &self.path(), cwd, to, AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    /// Returns one of either kind.
    fn draft(dir: &Path, named: bool) -> Draft {
        if !named {
            return Draft::new_in(dir).unwrap();
        }
        let (file, name) = tempfile::NamedTempFile::new_in(dir).unwrap().into_parts();
        let name = Some(name);
        Draft { file, name }
    }

    fn count(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn it_runs_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x");
        for old in [false, true] {
            for named in [false, true] {
                if old {
                    std::fs::write(&to, "old").unwrap();
                } else {
                    drop(std::fs::remove_file(&to));
                }
                let mut draft = draft(dir.path(), named);
                let mode = draft.file.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                draft.file.write_all(b"#!/bin/sh\necho it runs\n").unwrap();
                let draft = draft.into_executable().unwrap();
                let output = Command::new(draft.path()).output().unwrap();
                assert_eq!(output.stdout, b"it runs\n");
                draft.persist(&to).unwrap();
                assert_eq!(Command::new(&to).output().unwrap().stdout, b"it runs\n");
                assert_eq!(count(dir.path()), 1);
            }
        }
    }

    #[test]
    fn it_is_removed_when_it_gets_no_name() {
        let dir = tempfile::tempdir().unwrap();
        for named in [false, true] {
            drop(draft(dir.path(), named).into_executable().unwrap());
        }
        assert_eq!(count(dir.path()), 0);
        assert!(Draft::new_in(&dir.path().join("no")).is_err());
    }
}
