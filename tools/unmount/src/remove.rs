//! Deleting a root, for `--remove`: never over a mount, never by way of a symbolic link, and only where nothing uses it.

use crate::busy;
use rootfs::root::{BENEATH, open_below};
use rootfs::{Inside, Place, Root, idmap, mountinfo, occupants};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use stage::document::BESIDE;
use stage::members::IdMap;
use stage::{Code, Document, Doing, Failure, quote};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How deep the walk goes: a descriptor a level. What lies deeper is moved up first.
const DEPTH: usize = 200;

/// How many programs that use the root a message names.
const NAMED: usize = 3;

/// What every root has, and hardly anything else.
const RECORDS: &str = "var/lib/pacman";

/// Fails unless `root` is a root that may be deleted: no mount point, and with pacman's records.
///
/// # Errors
///
/// [`Code::Failed`] where it is not; [`Code::Permission`] where it is another user's.
pub(crate) fn check(root: &Root) -> Result<(), Failure> {
    let doing = || format!("deleting {}", quote(root.path()));
    if mountinfo::read()?.iter().any(|mount| mount.target == root.path()) {
        return Err(Failure::new(Code::Failed, format!("{}: it is a mount point", doing()))
            .hint("unmount it, or delete what is in it by hand"));
    }
    let owner = fstat(root.as_fd()).doing(Code::Os, doing)?.st_uid;
    let me = geteuid().as_raw();
    if me != 0 && me != owner {
        return Err(Failure::new(Code::Permission, format!("{}: it belongs to user {owner}", doing()))
            .hint("run this as that user, or with sudo"));
    }
    match open_below(root.as_fd(), RECORDS, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(Code::Failed, format!("{}: it is not a root: it has no '{RECORDS}'", doing()))
            .hint("delete it by hand")),
    }
}

/// Deletes a root on which nothing is mounted any more, and the directory of its configuration beside it.
///
/// # Errors
///
/// [`Code::Busy`] where a mount is left or a process uses it; else that of the first file that cannot be deleted.
pub(crate) fn remove(path: &Path, document: &Document) -> Result<(), Failure> {
    let root = Root::open(path)?;
    check(&root)?;
    refuse_use(&root)?;
    let clear = |root: BorrowedFd<'_>| {
        let directory = open_below(root, "", OFlags::RDONLY | OFlags::DIRECTORY);
        empty(&directory.doing(Code::Os, || format!("opening {}", quote(path)))?, path)
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
    std::fs::remove_dir(path).doing(Code::Permission, || format!("deleting {}", quote(path)))?;
    remove_configuration(path)
}

/// Fails where anything is mounted below the root, or a process uses it.
fn refuse_use(root: &Root) -> Result<(), Failure> {
    let path = root.path();
    let refuse = |why: String| Failure::new(Code::Busy, format!("deleting {}: {why}", quote(path)));
    if let Some(mount) = mountinfo::below(&mountinfo::read()?, path).first() {
        let hint = format!("'unmount --new {}' unmounts all", path.display());
        return Err(refuse(format!("{} is mounted", quote(&mount.target))).hint(hint));
    }
    let scan = occupants::find(path, root.id()?)?;
    let others = scan.occupants.iter().take(NAMED).map(|o| format!("{o} {}", o.how()));
    let users: Vec<_> = busy::ours(path).into_iter().chain(others).collect();
    if !users.is_empty() {
        let hint = format!("end it, or run 'reap {}' and this again", path.display());
        return Err(refuse(format!("it is in use: {}", users.join("; "))).hint(hint));
    }
    Ok(())
}

/// Deletes `ROOT.strapline`, where `mkconf` and `keyring` keep what is of the root and not in it.
fn remove_configuration(root: &Path) -> Result<(), Failure> {
    let mut path = root.as_os_str().to_owned();
    path.push(BESIDE);
    let path = PathBuf::from(path);
    let opening = || format!("opening {}", quote(&path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(rustix::fs::CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).doing(Code::Os, opening),
        Ok(directory) => {
            empty(&directory, &path)?;
            std::fs::remove_dir(&path).doing(Code::Os, || format!("deleting {}", quote(&path)))
        }
    }
}

/// Deletes all that is in a directory.
fn empty(directory: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let mut moved = 0;
    // What was too deep is at the top afterwards.
    while clear(directory, directory, path, 0, &mut moved).map_err(|(at, e)| match e {
        Errno::XDEV => Failure::new(Code::Busy, format!("deleting {}: it is a mount point", quote(at))),
        e => Failure::system(Code::Os, format!("deleting {}", quote(at)), e),
    })? {}
    Ok(())
}

/// Deletes what is in a directory, which is `depth` levels below `top`. Returns whether something was moved to `top`.
fn clear(
    top: &OwnedFd,
    directory: &OwnedFd,
    path: &Path,
    depth: usize,
    moved: &mut u64,
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
        if depth == DEPTH {
            *moved += 1;
            let new = CString::new(format!(".deep-{moved}")).unwrap_or_default();
            renameat(directory, name, top, new.as_c_str()).map_err(fail)?;
            again = true;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = openat2(directory, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV).map_err(fail)?;
        again |= clear(top, &below, &at, depth + 1, moved)?;
        unlinkat(directory, name, AtFlags::REMOVEDIR).map_err(fail)?;
    }
    Ok(again)
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
