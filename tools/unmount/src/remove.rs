//! Deleting a root, for `--remove`: never over a mount, never by way of a symbolic link, and only where nothing uses it.

use crate::busy;
use rootfs::remove::empty;
use rootfs::root::{RootId, open_below};
use rootfs::{Inside, Place, Root, idmap, mountinfo, occupants};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use stage::document::beside;
use stage::members::IdMap;
use stage::{Code, Document, Doing, Failure, quote};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

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
