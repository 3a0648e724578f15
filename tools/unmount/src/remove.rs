//! Deleting a root, for `--remove`: never over a mount, never by way of a symbolic link, and only where nothing uses it.

use crate::busy;
use rootfs::root::{BENEATH, RootId, open_below};
use rootfs::{Inside, Place, Root, idmap, mountinfo, occupants};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fstat, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use stage::document::beside;
use stage::members::IdMap;
use stage::{Code, Document, Doing, Failure, quote};
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How deep the walk goes: two descriptors a level. What lies deeper is moved up first.
const DEPTH: usize = 100;

/// How many programs that use the root a message names.
const NAMED: usize = 3;

/// What every root has, and hardly anything else: pacman's records. They go last, so that a run that was killed can go on.
const RECORDS: [&str; 3] = ["var", "lib", "pacman"];

/// Fails unless `root` is a root that may be deleted: the caller's, and with pacman's records.
///
/// # Errors
///
/// [`Code::Failed`] where it is not; [`Code::Permission`] where it is another user's.
pub(crate) fn check(root: &Root) -> Result<(), Failure> {
    let doing = || format!("deleting {}", quote(root.path()));
    let owner = fstat(root.as_fd()).doing(Code::Os, doing)?.st_uid;
    let me = geteuid().as_raw();
    if me != 0 && me != owner {
        return Err(Failure::new(Code::Permission, format!("{}: it belongs to user {owner}", doing()))
            .hint("run this as that user, or with sudo"));
    }
    let records = RECORDS.join("/");
    match open_below(root.as_fd(), &records, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(Code::Failed, format!("{}: it is not a root: it has no '{records}'", doing()))
            .hint("delete it by hand")),
    }
}

/// Fails where the root itself is a mount point.
///
/// # Errors
///
/// [`Code::Failed`] where it is.
pub(crate) fn refuse_mount_point(root: &Path) -> Result<(), Failure> {
    if mountinfo::read()?.iter().any(|mount| mount.target == root) {
        return Err(Failure::new(Code::Failed, format!("deleting {}: it is a mount point", quote(root)))
            .hint("unmount it, or delete what is in it by hand"));
    }
    Ok(())
}

/// Deletes a root on which nothing is mounted any more, and first the directory of its configuration beside it. `id` is that of
/// the root which was checked.
///
/// # Errors
///
/// [`Code::Busy`] where a mount is left or a process uses it; else that of the first file that cannot be deleted.
pub(crate) fn remove(path: &Path, id: RootId, document: &Document) -> Result<(), Failure> {
    refuse_mount_point(path)?;
    let root = Root::open(path)?;
    if root.id()? != id {
        return Err(Failure::new(Code::Failed, format!("deleting {}: it is another directory by now", quote(path))));
    }
    check(&root)?;
    let beside = beside(path);
    refuse_use(&root, &beside)?;
    remove_configuration(&beside)?;
    let clear = |root: BorrowedFd<'_>| {
        let directory = open_below(root, "", OFlags::RDONLY | OFlags::DIRECTORY);
        let directory = directory.doing(Code::Os, || format!("opening {}", quote(path)))?;
        empty(&directory, path, &RECORDS)?;
        empty(&directory, path, &[])
    };
    match geteuid().as_raw() {
        0 => clear(root.as_fd())?,
        me => {
            // Most files belong to subordinate ids, which are ours only in a user namespace.
            let map = document.get::<IdMap>().filter(|map| map.is_of(me));
            let map = map.map_or_else(|| idmap::of_user(me, getegid().as_raw()), Ok)?;
            let inside = Inside::new(Root::open(path)?, Vec::new(), Some(map), None)?;
            inside.call(Place::Host, &[root.as_fd()], || clear(root.as_fd()))?;
        }
    }
    std::fs::remove_dir(path).doing(Code::Permission, || format!("deleting {}", quote(path)))
}

/// Fails where anything is mounted below the root or at or below what is beside it, or a process or the kernel uses the root.
fn refuse_use(root: &Root, beside: &Path) -> Result<(), Failure> {
    let path = root.path();
    let refuse = |why: String| Failure::new(Code::Busy, format!("deleting {}: {why}", quote(path)));
    let mounts = mountinfo::read()?;
    for directory in [path, beside] {
        if let Some(mount) = mountinfo::below(&mounts, directory).first() {
            let hint = format!("'unmount --new {}' unmounts all", directory.display());
            return Err(refuse(format!("{} is mounted", quote(&mount.target))).hint(hint));
        }
    }
    let scan = occupants::find(path, root.id()?)?;
    let others = scan.occupants.iter().take(NAMED).map(|o| format!("{o} {}", o.how()));
    let users: Vec<_> = busy::ours(path).into_iter().chain(others).chain(occupants::kernel_users(path)).collect();
    if !users.is_empty() {
        let hint = format!("end it, or run 'reap {}' and this again", path.display());
        return Err(refuse(format!("it is in use: {}", users.join("; "))).hint(hint));
    }
    Ok(())
}

/// Deletes `ROOT.strapline`, where `mkconf` and `keyring` keep what is of the root and not in it.
fn remove_configuration(path: &Path) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).doing(Code::Os, || format!("opening {}", quote(path))),
        Ok(directory) => {
            empty(&directory, path, &[])?;
            std::fs::remove_dir(path).doing(Code::Os, || format!("deleting {}", quote(path)))
        }
    }
}

/// Deletes all that is in a directory, but for the path `keep` in it and what lies below that.
fn empty(directory: &OwnedFd, path: &Path, keep: &[&str]) -> Result<(), Failure> {
    let mut walk = Walk { top: directory, moved: 0 };
    // What was too deep is at the top afterwards.
    while walk.clear(directory, path, 0, keep).map_err(|(at, e)| match e {
        Errno::XDEV => Failure::new(Code::Busy, format!("deleting {}: it is a mount point", quote(at))),
        e => Failure::system(Code::Os, format!("deleting {}", quote(at)), e),
    })? {}
    Ok(())
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
