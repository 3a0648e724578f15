//! The root as a program in it sees it: what is read, and what is written and recorded as changed.
//!
//! The work is done inside, so that owners are right for an ordinary user too. That alone is no confinement where inside is
//! a chroot(2): in a hostile root a file may be a symbolic link into `/proc`, and from there to the host. So all that is
//! written is opened beneath the root's descriptor and over no symbolic link, and what is only read may be behind links that
//! stay in the root.

use rootfs::file::{replace, replace_link};
use rootfs::root::{open_below, open_within, read, read_within};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat, openat,
    readlinkat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The longest file that is read: more than any configuration or list of users.
const LIMIT: u64 = 16 << 20;

/// How a directory is opened in which something is made, read, or only found.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// A root, and what was changed in it.
#[derive(Debug)]
pub(crate) struct Tree {
    fd: OwnedFd,
    /// The root's path on the host, for messages.
    host_path: PathBuf,
    changed: Vec<String>,
}

/// User and group of a file.
pub(crate) type Owner = (u32, u32);

/// The owner of what is nobody else's.
pub(crate) const ROOT: Owner = (0, 0);

impl Tree {
    /// Opens the directory that is the root now; `host_path` is its path on the host.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(crate) fn open(at: &Path, host_path: &Path) -> Result<Self, Failure> {
        let fd = openat(CWD, at, PATH | OFlags::CLOEXEC, Mode::empty())
            .doing(Code::Os, || format!("opening {}", quote(host_path)))?;
        Ok(Self { fd, host_path: host_path.to_owned(), changed: Vec::new() })
    }

    /// Returns the root's descriptor, and its path on the host, for messages.
    pub(crate) fn place(&self) -> (BorrowedFd<'_>, &Path) {
        (self.fd.as_fd(), &self.host_path)
    }

    /// Returns how a path below the root stands in a message.
    pub(crate) fn quote(&self, path: &str) -> String {
        quote(self.host_path.join(path))
    }

    /// Returns what was changed since the last call, as sorted paths in the root.
    pub(crate) fn take_changed(&mut self) -> Vec<String> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort();
        changed.dedup();
        changed
    }

    /// Records that what is at this path was changed.
    pub(crate) fn mark_changed(&mut self, path: &str) {
        self.changed.push(format!("/{path}"));
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where it is not a regular file, or cannot be read.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        match read(self.fd.as_fd(), path, LIMIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.refused("reading", path, e)),
        }
    }

    /// Reads a file of text; the empty text where there is none.
    ///
    /// # Errors
    ///
    /// As [`Tree::read`], and where it is not UTF-8: it will be written again, and nothing may get lost.
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.read(path)?.unwrap_or_default();
        String::from_utf8(bytes).doing(Code::Failed, || format!("reading {}", self.quote(path)))
    }

    /// Reads a file of a package, over links that stay in the root; `None` where it cannot be read.
    pub(crate) fn read_linked(&self, path: &str) -> Option<Vec<u8>> {
        read_within(self.fd.as_fd(), path, LIMIT).ok()
    }

    /// Returns what a path leads to, over links that stay in the root; `None` where that is nothing.
    pub(crate) fn stat(&self, path: &str) -> Option<Stat> {
        let found = open_within(self.fd.as_fd(), path, OFlags::PATH).ok()?;
        fstat(&found).ok()
    }

    /// Returns whether a path leads to a file that may be run.
    pub(crate) fn is_program(&self, path: &str) -> bool {
        self.stat(path).is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_mode & 0o111 != 0)
    }

    /// Returns whether the root has a program of this name, in the `PATH` of those that we run.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        ["usr/local/bin", "usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .any(|directory| self.is_program(&format!("{directory}/{name}")))
    }

    /// Returns the names in a directory of a package, and whether each is a directory; none where there is no such directory.
    pub(crate) fn names(&self, path: &str) -> Vec<(String, bool)> {
        let directory = open_within(self.fd.as_fd(), path, DIRECTORY);
        let entries = directory.and_then(Dir::read_from).into_iter().flatten();
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_str().ok()?;
            let directory = entry.file_type() == FileType::Directory;
            (!matches!(name, "." | "..")).then(|| (name.to_owned(), directory))
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Returns mode and owners of a file; `None` where there is none.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    pub(crate) fn attributes(&self, path: &str) -> Result<Option<(u32, Owner)>, Failure> {
        let found = open_below(self.fd.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW);
        match found.and_then(fstat) {
            Ok(stat) => Ok(Some((stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid)))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.refused("reading the mode of", path, e)),
        }
    }

    /// Returns where a symbolic link leads; `None` where there is none at that path.
    pub(crate) fn link_target(&self, path: &str) -> Option<String> {
        let link = open_below(self.fd.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW);
        let target = readlinkat(link.ok()?, "", Vec::new()).ok()?;
        target.into_string().ok()
    }

    /// Writes a file, whole or not at all. An existing one keeps its mode and owners; a new one is root's, with this mode.
    /// One that has this content already is not written, and keeps its time.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or what exists is not a regular file.
    pub(crate) fn write(&mut self, path: &str, text: &str, mode: u32) -> Result<(), Failure> {
        self.write_as(path, text, mode, ROOT)
    }

    /// Writes a file as [`Tree::write`] does; a new one gets this mode and these owners.
    pub(crate) fn write_as(&mut self, path: &str, text: &str, mode: u32, owner: Owner) -> Result<(), Failure> {
        if self.read(path)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        let (mode, owner) = self.attributes(path)?.unwrap_or((mode, owner));
        self.replace(path, text.as_bytes(), mode, owner)?;
        self.mark_changed(path);
        Ok(())
    }

    /// Replaces a file by one with this mode and these owners, and does not record that.
    pub(crate) fn replace(&self, path: &str, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Failure> {
        let (parent, name) = self.parent(path)?;
        // A test that is not root may not change owners, and need not.
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        replace(parent.as_fd(), name, bytes, mode, (owner != us).then_some(owner))
            .map_err(|e| self.refused("writing", path, Errno::from_io_error(&e).unwrap_or(Errno::IO)))
    }

    /// Makes a symbolic link to `target`, in place of a file or link at that path.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), Failure> {
        if self.link_target(path).as_deref() == Some(target) {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        replace_link(parent.as_fd(), name, target).map_err(|e| self.refused("linking", path, e))?;
        self.mark_changed(path);
        Ok(())
    }

    /// Removes a file, where there is one.
    pub(crate) fn remove(&mut self, path: &str) -> Result<(), Failure> {
        let (parent, name) = split(path);
        let parent = open_below(self.fd.as_fd(), parent, PATH);
        match parent.and_then(|parent| unlinkat(&parent, name, AtFlags::empty())) {
            Ok(()) => self.mark_changed(path),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(self.refused("removing", path, e)),
        }
        Ok(())
    }

    /// Makes a directory with this mode and these owners, and returns whether there was none. An existing one stays as it is.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or something else is there.
    pub(crate) fn make_directory(&self, path: &str, mode: u32, owner: Owner) -> Result<bool, Failure> {
        let refused = |e| self.refused("making", path, e);
        let (parent, name) = self.parent(path)?;
        let made = match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(refused(e)),
        };
        let directory = open_below(self.fd.as_fd(), path, DIRECTORY).map_err(refused)?;
        if !made {
            return Ok(false);
        }
        let stat = fstat(&directory).map_err(refused)?;
        if (stat.st_uid, stat.st_gid) != owner {
            fchown(&directory, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).map_err(refused)?;
        }
        fchmod(&directory, Mode::from_raw_mode(mode)).map_err(refused)?;
        Ok(true)
    }

    /// Gives a file or directory another name in the same directory, where nothing has that name.
    pub(crate) fn rename(&self, path: &str, name: &str) -> Result<(), Failure> {
        let (parent, old) = self.parent(path)?;
        renameat_with(&parent, old, &parent, name, RenameFlags::NOREPLACE)
            .map_err(|e| self.refused("renaming", path, e))
    }

    /// Returns whether there is anything at a path, a dangling link too.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.attributes(path).is_ok_and(|found| found.is_some())
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), Failure> {
        let (parent, name) = split(path);
        let parent = open_below(self.fd.as_fd(), parent, DIRECTORY).map_err(|e| self.refused("opening", parent, e))?;
        Ok((parent, name))
    }

    fn refused(&self, doing: &str, path: &str, error: Errno) -> Failure {
        let failed = |code, why: &dyn Display| Failure::new(code, format!("{doing} {}: {why}", self.quote(path)));
        match error {
            Errno::LOOP | Errno::XDEV => {
                failed(Code::Failed, &"it is, or is behind, a symbolic link, which is not followed")
            }
            Errno::INVAL => failed(Code::Failed, &"not a regular file"),
            Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::FBIG => failed(Code::Failed, &error),
            Errno::NOENT => failed(Code::NotFound, &error),
            error => failed(Code::Os, &error),
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A root of files that are these.
    pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::open(directory.path(), Path::new("/r")).unwrap();
        (directory, tree)
    }

    #[test]
    fn unchanged_files_are_not_written() {
        let (_guard, mut tree) = tree(&[("etc/a", "x")]);
        tree.write("etc/a", "x", 0o644).unwrap();
        assert_eq!(tree.take_changed(), Vec::<String>::new());
        tree.write("etc/a", "y", 0o644).unwrap();
        tree.link("etc/l", "a").unwrap();
        tree.link("etc/l", "a").unwrap();
        assert_eq!(tree.take_changed(), ["/etc/a", "/etc/l"]);
        assert_eq!(tree.text("etc/l").unwrap_err().code, Code::Failed);
        tree.link("etc/l", "b").unwrap();
        assert_eq!(tree.link_target("etc/l").unwrap(), "b");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (guard, mut tree) = tree(&[("etc/hosts", "x"), ("out/hosts", "theirs")]);
        let out = guard.path().join("out");
        symlink(&out, guard.path().join("etc/pacman.d")).unwrap();
        symlink(out.join("hosts"), guard.path().join("etc/link")).unwrap();
        for path in ["etc/pacman.d/hosts", "etc/pacman.d/new", "etc/link"] {
            let failure = tree.write(path, "ours", 0o644).unwrap_err();
            assert!(failure.message.contains("symbolic link"), "{failure}");
            assert!(failure.message.contains("'/r/etc/"), "{failure}");
        }
        tree.link("etc/pacman.d/hosts", "x").unwrap_err();
        tree.remove("etc/pacman.d/hosts").unwrap_err();
        assert_eq!(std::fs::read_to_string(out.join("hosts")).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn reading_follows_links_that_stay_in_the_root() {
        let (guard, tree) = tree(&[("usr/bin/bash", "#!")]);
        symlink("usr/bin", guard.path().join("bin")).unwrap();
        symlink("/usr/bin/bash", guard.path().join("usr/bin/sh")).unwrap();
        assert_eq!(tree.read_linked("bin/sh").unwrap(), b"#!");
        symlink("../../../../../etc/passwd", guard.path().join("usr/bin/out")).unwrap();
        assert_eq!(tree.read_linked("usr/bin/out"), None);
    }
}
