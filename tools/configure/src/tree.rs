//! The root as a program in it sees it: what is read, and what is written and remembered as changed.
//!
//! The work is done inside, so that owners are right for an ordinary user too. That alone keeps nothing in where it has to be
//! a chroot(2): in a hostile root a file may be a symbolic link into `/proc`, and from there to the host. So all that is
//! written is opened beneath the root's descriptor and over no symbolic link, and what is only looked at over links that
//! stay in the root.

use rootfs::file::replace;
use rootfs::root::{open_below, open_within, read};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat,
    openat, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The longest file that is read: more than any configuration, and than a list of users.
const LIMIT: u64 = 16 << 20;

/// A root, and what was changed in it.
#[derive(Debug)]
pub(crate) struct Tree {
    fd: OwnedFd,
    /// The root's path on the host, for messages.
    shown: PathBuf,
    changed: RefCell<Vec<String>>,
}

/// Mode and owners of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The permission bits.
    pub(crate) mode: u32,
    /// User and group.
    pub(crate) owner: (u32, u32),
}

impl Attributes {
    fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
        }
    }
}

impl Tree {
    /// Opens the directory that is the root by now; `shown` is what the host calls it.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(crate) fn open(at: &Path, shown: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, at, flags, Mode::empty())
            .doing(Code::Os, || format!("opening {}", quote(shown)))?;
        Ok(Self {
            fd,
            shown: shown.to_owned(),
            changed: RefCell::default(),
        })
    }

    /// Returns how a path below the root stands in a message.
    pub(crate) fn quote(&self, path: &str) -> String {
        quote(self.shown.join(path))
    }

    /// Returns what was changed since it was asked last, as paths in the root, in order.
    pub(crate) fn take_changed(&self) -> Vec<String> {
        let mut changed = std::mem::take(&mut *self.changed.borrow_mut());
        changed.sort();
        changed.dedup();
        changed
    }

    /// Remembers that what is at this path was changed.
    pub(crate) fn note(&self, path: &str) {
        self.changed.borrow_mut().push(format!("/{path}"));
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where it is no plain file, or cannot be read.
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
    /// As [`Tree::read`], and where it is not UTF-8: it is to be written again, and nothing may get lost.
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.read(path)?.unwrap_or_default();
        String::from_utf8(bytes).doing(Code::Failed, || format!("reading {}", self.quote(path)))
    }

    /// Reads a file that packages brought, over links that stay in the root; `None` where there is none.
    pub(crate) fn look(&self, path: &str) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_within(self.fd.as_fd(), path, flags).ok()?;
        let stat = fstat(&file).ok()?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let mut file = std::io::Read::take(std::fs::File::from(file), LIMIT);
        std::io::Read::read_to_end(&mut file, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Returns what a path leads to, over links that stay in the root; `None` where that is nothing.
    pub(crate) fn stat(&self, path: &str) -> Option<Stat> {
        let found = open_within(self.fd.as_fd(), path, OFlags::PATH).ok()?;
        fstat(&found).ok()
    }

    /// Returns whether a path leads to a file that may be run.
    pub(crate) fn is_program(&self, path: &str) -> bool {
        self.stat(path).is_some_and(|stat| {
            FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_mode & 0o111 != 0
        })
    }

    /// Returns whether the root has a program of this name, where those that we run are looked for.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        ["usr/local/bin", "usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .any(|directory| self.is_program(&format!("{directory}/{name}")))
    }

    /// Returns the names in a directory that packages brought, and whether each is a directory; none where there is none.
    pub(crate) fn names(&self, path: &str) -> Vec<(String, bool)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Ok(directory) = open_within(self.fd.as_fd(), path, flags) else {
            return Vec::new();
        };
        let entries = Dir::read_from(&directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.file_name().to_str().ok()?;
                let directory = entry.file_type() == FileType::Directory;
                (!matches!(name, "." | "..")).then(|| (name.to_owned(), directory))
            })
            .collect();
        names.sort();
        names
    }

    /// Returns mode and owners of what is at a path; `None` where nothing is.
    ///
    /// # Errors
    ///
    /// When it cannot be looked at.
    pub(crate) fn attributes(&self, path: &str) -> Result<Option<Attributes>, Failure> {
        match open_below(self.fd.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => fstat(&found)
                .map(|stat| Some(Attributes::of(&stat)))
                .map_err(|e| self.refused("looking at", path, e)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.refused("looking at", path, e)),
        }
    }

    /// Returns where a symbolic link leads; `None` where there is none at that path.
    pub(crate) fn target(&self, path: &str) -> Option<String> {
        let (parent, name) = split(path);
        let parent = open_below(self.fd.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let target = readlinkat(&parent, name, Vec::new()).ok()?;
        target.into_string().ok()
    }

    /// Makes a file be this, whole or not at all. One that is there keeps its mode and owners; one that is not gets this mode
    /// and is root's. One that is this already is left alone, and so is its time.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or what is there is no plain file.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        if self.read(path)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        let there = self.attributes(path)?;
        let attributes = there.unwrap_or(Attributes {
            mode,
            owner: (0, 0),
        });
        self.put(path, bytes, attributes)?;
        self.note(path);
        Ok(())
    }

    /// Writes a file with these attributes, and does not remember that.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn put(
        &self,
        path: &str,
        bytes: &[u8],
        Attributes { mode, owner }: Attributes,
    ) -> Result<(), Failure> {
        let (parent, name) = self.parent(path)?;
        // Our own files are our own already: a test that is not root may not give files away, and need not.
        let us = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let owner = (owner != us).then_some(owner);
        replace(parent.as_fd(), name, bytes, mode, owner).map_err(|e| {
            let error = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            self.refused("writing", path, error)
        })
    }

    /// Makes a symbolic link lead there, in place of whatever file or link was at that path.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn link(&self, path: &str, target: &str) -> Result<(), Failure> {
        if self.target(path).as_deref() == Some(target) {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        let beside = rootfs::file::temporary_name(name);
        let made = match unlinkat(&parent, &beside, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => symlinkat(target, &parent, &beside)
                .and_then(|()| renameat(&parent, &beside, &parent, name)),
            Err(e) => Err(e),
        };
        made.map_err(|e| self.refused("linking", path, e))?;
        self.note(path);
        Ok(())
    }

    /// Removes a file, where there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub(crate) fn remove(&self, path: &str) -> Result<(), Failure> {
        let (parent, name) = split(path);
        let parent = match open_below(self.fd.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            parent => parent.map_err(|e| self.refused("removing", path, e))?,
        };
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => self.note(path),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(self.refused("removing", path, e)),
        }
        Ok(())
    }

    /// Makes a directory with this mode and these owners, where there is none, and remembers that. One that is there stays as
    /// it is.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or something else is there.
    pub(crate) fn directory(&self, path: &str, attributes: Attributes) -> Result<(), Failure> {
        if self.make_directory(path, attributes)? {
            self.note(path);
        }
        Ok(())
    }

    /// Makes a directory as [`Tree::directory`] does, and says whether there was none.
    ///
    /// # Errors
    ///
    /// As [`Tree::directory`].
    pub(crate) fn make_directory(
        &self,
        path: &str,
        Attributes { mode, owner }: Attributes,
    ) -> Result<bool, Failure> {
        let refused = |e| self.refused("making", path, e);
        let (parent, name) = self.parent(path)?;
        let made = match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(refused(e)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open_below(self.fd.as_fd(), path, flags).map_err(refused)?;
        if !made {
            return Ok(false);
        }
        let stat = fstat(&directory).map_err(refused)?;
        if (stat.st_uid, stat.st_gid) != owner {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            fchown(&directory, Some(uid), Some(gid)).map_err(refused)?;
        }
        fchmod(&directory, Mode::from_raw_mode(mode)).map_err(refused)?;
        Ok(true)
    }

    /// Gives a file or directory another name in the same directory, where nothing has that name.
    ///
    /// # Errors
    ///
    /// When it cannot be renamed.
    pub(crate) fn rename(&self, path: &str, name: &str) -> Result<(), Failure> {
        let (parent, old) = self.parent(path)?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&parent, old, &parent, name, flags)
            .map_err(|e| self.refused("renaming", path, e))
    }

    /// Returns whether there is anything at a path, a dangling link too.
    pub(crate) fn is_there(&self, path: &str) -> bool {
        let (parent, name) = split(path);
        open_below(self.fd.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)
            .is_ok_and(|parent| statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), Failure> {
        let (parent, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = open_below(self.fd.as_fd(), parent, flags)
            .map_err(|e| self.refused("opening", parent, e))?;
        Ok((parent, name))
    }

    fn refused(&self, doing: &str, path: &str, error: Errno) -> Failure {
        let doing = format!("{doing} {}", self.quote(path));
        match error {
            Errno::LOOP | Errno::XDEV => Failure::new(
                Code::Failed,
                format!("{doing}: it is, or is behind, a symbolic link, which is not followed"),
            ),
            Errno::INVAL => Failure::new(Code::Failed, format!("{doing}: it is no plain file")),
            Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::FBIG => {
                Failure::new(Code::Failed, format!("{doing}: {error}"))
            }
            Errno::NOENT => Failure::new(Code::NotFound, format!("{doing}: {error}")),
            error => Failure::new(Code::Os, format!("{doing}: {error}")),
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
    fn what_is_the_same_already_is_left_alone() {
        let (_guard, tree) = tree(&[("etc/a", "x")]);
        tree.write("etc/a", b"x", 0o644).unwrap();
        assert_eq!(tree.take_changed(), Vec::<String>::new());
        tree.write("etc/a", b"y", 0o644).unwrap();
        tree.link("etc/l", "a").unwrap();
        tree.link("etc/l", "a").unwrap();
        assert_eq!(tree.take_changed(), ["/etc/a", "/etc/l"]);
        assert_eq!(tree.text("etc/l").unwrap_err().code, Code::Failed);
        tree.link("etc/l", "b").unwrap();
        assert_eq!(tree.target("etc/l").unwrap(), "b");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (guard, tree) = tree(&[("etc/hosts", "x"), ("out/hosts", "theirs")]);
        let out = guard.path().join("out");
        symlink(&out, guard.path().join("etc/pacman.d")).unwrap();
        symlink(out.join("hosts"), guard.path().join("etc/link")).unwrap();
        for path in ["etc/pacman.d/hosts", "etc/pacman.d/new", "etc/link"] {
            let failure = tree.write(path, b"ours", 0o644).unwrap_err();
            assert!(failure.message.contains("symbolic link"), "{failure}");
            assert!(failure.message.contains("'/r/etc/"), "{failure}");
        }
        tree.link("etc/pacman.d/hosts", "x").unwrap_err();
        tree.remove("etc/pacman.d/hosts").unwrap_err();
        assert_eq!(
            std::fs::read_to_string(out.join("hosts")).unwrap(),
            "theirs"
        );
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn what_is_looked_at_may_be_behind_links_that_stay_in_the_root() {
        let (guard, tree) = tree(&[("usr/bin/bash", "#!")]);
        symlink("usr/bin", guard.path().join("bin")).unwrap();
        symlink("/usr/bin/bash", guard.path().join("usr/bin/sh")).unwrap();
        assert_eq!(tree.look("bin/sh").unwrap(), b"#!");
        symlink(
            "../../../../../etc/passwd",
            guard.path().join("usr/bin/out"),
        )
        .unwrap();
        assert_eq!(tree.look("usr/bin/out"), None);
    }
}
