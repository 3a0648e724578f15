//! A file that is written and tried out before anyone sees it.
//!
//! It has no name until it is put in place, so whatever ends this program, SIGKILL too, takes it away. Where the file
//! system cannot do that (NFS, FUSE), it is a hidden file beside its destination instead.

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use std::fs::{File, Permissions};
use std::io::Result;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// How hidden files are called, before they are put in place.
const PREFIX: &str = ".pacman-";

/// A file that only its owner can read and write, and nobody can run.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    name: Option<TempPath>,
}

/// A file that can be run, and not be written any more.
#[derive(Debug)]
pub(crate) struct Runnable {
    file: File,
    name: Option<TempPath>,
}

impl Draft {
    /// Makes an empty one in a directory.
    pub(crate) fn new_in(dir: &Path) -> Result<Self> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        if let Ok(fd) = open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            return Ok(Self {
                file: fd.into(),
                name: None,
            });
        }
        // Also where the directory is not there or not ours: this says why.
        let (file, name) = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(dir)?
            .into_parts();
        Ok(Self {
            file,
            name: Some(name),
        })
    }

    /// Returns the file, to be written.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Puts it in place, over what is there.
    pub(crate) fn put(self, to: &Path) -> Result<()> {
        put(&self.file, self.name, to)
    }

    /// Puts everything on the disk and makes it executable.
    pub(crate) fn runnable(self) -> Result<Runnable> {
        self.file.set_permissions(Permissions::from_mode(0o755))?;
        self.file.sync_all()?;
        // execve(2) fails with ETXTBSY as long as someone could write to it: the writing end closes here.
        Ok(Runnable {
            file: File::open(handle(&self.file))?,
            name: self.name,
        })
    }
}

impl Runnable {
    /// Returns a path that runs it, as long as this is there.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.to_path_buf(),
            None => handle(&self.file),
        }
    }

    /// Puts it in place, over what is there.
    pub(crate) fn put(self, to: &Path) -> Result<()> {
        put(&self.file, self.name, to)
    }
}

/// Gives a file its name, over what has it.
fn put(file: &File, name: Option<TempPath>, to: &Path) -> Result<()> {
    if let Some(name) = name {
        return name.persist(to).map_err(|e| e.error);
    }
    if link(file, to).is_ok() {
        return Ok(());
    }
    // link(2) does not replace: a name for the moment, and rename(2), which does.
    let dir = to.parent().unwrap_or(Path::new("/"));
    let (_, name) = tempfile::Builder::new()
        .prefix(PREFIX)
        .make_in(dir, |path| link(file, path))?
        .into_parts();
    name.persist(to).map_err(|e| e.error)
}

/// Returns a path of an open file. It names this process, so that it also holds in a child: the interpreter of a script
/// opens the script again.
fn handle(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Gives a file a name, if nothing has it.
fn link(file: &File, to: &Path) -> Result<()> {
    let cwd = nix::fcntl::AT_FDCWD;
    nix::unistd::linkat(cwd, &handle(file), cwd, to, AtFlags::AT_SYMLINK_FOLLOW)?;
    Ok(())
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
        Draft {
            file,
            name: Some(name),
        }
    }

    fn count(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn it_runs_before_it_is_in_place_and_replaces_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x");
        for old in [false, true] {
            for named in [false, true] {
                if old {
                    std::fs::write(&to, "old").unwrap();
                } else {
                    drop(std::fs::remove_file(&to));
                }
                let draft = draft(dir.path(), named);
                let mode = draft.file().metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                draft
                    .file()
                    .write_all(b"#!/bin/sh\necho it runs\n")
                    .unwrap();
                let runnable = draft.runnable().unwrap();
                let said = Command::new(runnable.path()).output().unwrap();
                assert_eq!(said.stdout, b"it runs\n");
                runnable.put(&to).unwrap();
                assert_eq!(Command::new(&to).output().unwrap().stdout, b"it runs\n");
                assert_eq!(count(dir.path()), 1);
            }
        }
    }

    #[test]
    fn it_goes_when_it_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        for named in [false, true] {
            drop(draft(dir.path(), named).runnable().unwrap());
        }
        assert_eq!(count(dir.path()), 0);
        assert!(Draft::new_in(&dir.path().join("no")).is_err());
    }
}
