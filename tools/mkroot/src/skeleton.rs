//! The directories that must exist before the first package is installed.
//!
//! libalpm does not change the mode of a directory that exists; it only warns. So each is made with the mode that Arch's
//! `filesystem` package gives it, whatever the umask, and below a descriptor, so that no symbolic link is followed. A
//! default ACL and a set-gid group that a directory inherits are removed: every file of every package would get them.
//! Flags of chattr(1), such as compression, stay: they change no permission, and no archive contains them.

use crate::extra::Point;
use rootfs::Root;
use rustix::fs::{Dir, Gid, Mode, OFlags, Uid, fchmod, fchown, flistxattr, fremovexattr, fstat, fstatfs, mkdirat};
use rustix::io::Errno;
use stage::{Code, Failure, quote};
use std::os::fd::OwnedFd;

/// What is made, parents first: path below the root and mode. `dev/pts` and the like are made on the mounts.
const DIRECTORIES: &[(&str, u32)] = &[
    ("", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/pacman.d", 0o755),
    ("proc", 0o555),
    ("root", 0o750),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/cache/pacman", 0o755),
    ("var/cache/pacman/pkg", 0o755),
    ("var/lib", 0o755),
    ("var/lib/pacman", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Makes what is missing, and adds to `made` what was. The modes and owners of existing directories are
/// corrected until a package is installed; after that they belong to the packages.
///
/// # Errors
///
/// At the first directory that cannot be made.
pub(crate) fn make(root: &Root, owner: (u32, u32), made: &mut Vec<Point>) -> Result<(), Failure> {
    copy_up(root).map_err(|e| failure(root, "", e))?;
    let installed = has_packages(root);
    for (path, mode) in DIRECTORIES {
        if make_one(root, path, *mode, owner, installed).map_err(|e| failure(root, path, e))? {
            made.push(Point { path: (*path).to_owned(), file: false });
        }
    }
    Ok(())
}

/// Overlayfs copies a directory of a lower layer up at the first change, and then it has another identity: do it now, so that
/// the document has the new one. On a read-only file system there is no change.
fn copy_up(root: &Root) -> Result<(), Errno> {
    const OVERLAYFS: u64 = 0x794c_7630;
    let directory = root.open_below("", OFlags::RDONLY | OFlags::DIRECTORY)?;
    match fstatfs(&directory)?.f_type as u64 {
        OVERLAYFS => rootfs::file::claim(&directory),
        _ => Ok(()),
    }
}

/// Makes or corrects one directory; returns whether it was made.
fn make_one(root: &Root, path: &str, mode: u32, (uid, gid): (u32, u32), installed: bool) -> Result<bool, Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = root.open_below(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let made = match name {
        "" => false,
        name => match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e),
        },
    };
    let directory = root.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if made || !installed {
        let stat = fstat(&directory)?;
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // Before the mode: with an ACL the mode's bits for the group are the ACL's mask.
        remove_attributes(&directory)?;
        if fstat(&directory)?.st_mode & 0o7777 != mode {
            fchmod(&directory, Mode::from_raw_mode(mode))?;
        }
    }
    Ok(made)
}

/// Removes the ACLs and the user's extended attributes of a directory. Those of a security module are the host's policy.
pub(crate) fn remove_attributes(directory: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0; 1 << 16];
    let length = match flistxattr(directory, &mut names[..]) {
        // The file system has none.
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|&b| b == 0) {
        if name.starts_with(b"system.posix_acl_") || name.starts_with(b"user.") {
            fremovexattr(directory, name)?;
        }
    }
    Ok(())
}

/// Returns whether packages are installed in the root.
pub(crate) fn has_packages(root: &Root) -> bool {
    root.open_below("var/lib/pacman/local", OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Returns whether a directory with content is a root that a pipeline began, and not, say, a home directory.
pub(crate) fn looks_like_a_root(root: &Root) -> bool {
    root.open_below("var/lib/pacman", OFlags::PATH | OFlags::DIRECTORY).is_ok()
        || has_only_ours(root, "").unwrap_or(false)
}

/// Returns whether below `at` there are only empty directories of the skeleton: an earlier run was killed.
fn has_only_ours(root: &Root, at: &str) -> Result<bool, Errno> {
    let directory = root.open_below(at, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let path = match entry.file_name().to_str() {
            Ok("." | "..") => continue,
            Ok(name) if at.is_empty() => name.to_owned(),
            Ok(name) => format!("{at}/{name}"),
            Err(_) => return Ok(false),
        };
        // Opening anything but a directory fails.
        if !DIRECTORIES.iter().any(|(ours, _)| *ours == path) || !has_only_ours(root, &path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn failure(root: &Root, path: &str, error: Errno) -> Failure {
    let what = format!("making {}", quote(root.path().join(path)));
    match error {
        Errno::LOOP | Errno::NOTDIR => Failure::new(Code::Failed, format!("{what}: it is a symbolic link or a file"))
            .hint("remove it, or choose another directory"),
        Errno::PERM | Errno::ACCESS => Failure::new(Code::Permission, format!("{what}: {error}"))
            .hint("you must own the root and its content: choose a directory that is yours, or use sudo"),
        error => Failure::new(Code::Os, format!("{what}: {error}")),
    }
}
