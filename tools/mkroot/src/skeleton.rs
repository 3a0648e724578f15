//! The directories that must be there before the first package: data, and how they are made.
//!
//! libalpm never mends a directory that exists: it warns, and leaves the mode. So each is made with the mode that Arch's
//! `filesystem` package gives it, whatever the umask, and made below a descriptor, so that a symbolic link that lies in
//! the way leads nowhere. What a directory inherits from the one that it is made in goes for the same reason: a default
//! ACL and a set-gid group would be handed on to every file of every package. Flags of chattr(1), such as compression, are
//! inherited too, and stay: they change no right, and no archive has them.

use rootfs::Root;
use rootfs::root::open_below;
use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, Uid, fchmod, fchown, flistxattr, fremovexattr, fstat, fstatfs,
    mkdirat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Failure, quote};
use std::os::fd::{AsFd, OwnedFd};

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

/// Makes what is missing, and returns what was made, parents first. What is there is mended as long as no package is
/// installed; after that it is the packages' own.
///
/// # Errors
///
/// At the first directory that cannot be made. What was made before is removed again.
pub(crate) fn make(root: &Root, owner: (u32, u32)) -> Result<Vec<&'static str>, Failure> {
    copy_up(root).map_err(|e| explain(root, "", e))?;
    let installed = has_packages(root);
    let mut made = Vec::new();
    for (path, mode) in DIRECTORIES {
        let result = make_one(root, path, *mode, owner, installed);
        match result {
            Ok(true) => made.push(*path),
            Ok(false) => {}
            Err(e) => {
                remove(root, &made);
                return Err(explain(root, path, e));
            }
        }
    }
    Ok(made)
}

/// Overlayfs makes a directory of a lower layer anew when something in it is written first, and it is another one then: now, so
/// that the document means the new one. Where nothing can be written, it stays as it is.
fn copy_up(root: &Root) -> Result<(), Errno> {
    const OVERLAYFS: u64 = 0x794c_7630;
    let directory = open_below(root.as_fd(), "", OFlags::RDONLY | OFlags::DIRECTORY)?;
    if fstatfs(&directory)?.f_type as u64 != OVERLAYFS {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode & 0o7777);
    match fchmod(&directory, mode) {
        Err(Errno::ROFS) => Ok(()),
        result => result,
    }
}

/// Makes or mends one directory; says whether it was made.
fn make_one(
    root: &Root,
    path: &str,
    mode: u32,
    (uid, gid): (u32, u32),
    installed: bool,
) -> Result<bool, Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = open_below(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let made = match name {
        "" => false,
        name => match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e),
        },
    };
    let directory = open_below(root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if made || !installed {
        let stat = fstat(&directory)?;
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            fchown(
                &directory,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
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
fn remove_attributes(directory: &OwnedFd) -> Result<(), Errno> {
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

/// Removes the directories that [`make`] made, where they are still empty.
pub(crate) fn remove(root: &Root, made: &[&str]) {
    for path in made.iter().rev() {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Ok(parent) = open_below(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY) {
            // rmdir(2) cannot remove what has content, so nothing of anybody else's goes. What stays is an empty
            // directory, which the next run takes over.
            unlinkat(&parent, name, AtFlags::REMOVEDIR).unwrap_or(());
        }
    }
}

/// Returns whether packages are installed in the root.
pub(crate) fn has_packages(root: &Root) -> bool {
    root.open_below("var/lib/pacman/local", OFlags::PATH | OFlags::DIRECTORY)
        .is_ok()
}

/// Returns whether a directory that has content is a root that a pipeline began, and not somebody's home.
pub(crate) fn looks_like_a_root(root: &Root) -> bool {
    root.open_below("var/lib/pacman", OFlags::PATH | OFlags::DIRECTORY)
        .is_ok()
        || has_only_ours(root, "").unwrap_or(false)
}

/// Returns whether below `at` there is nothing but empty directories of the skeleton: a run of ours was killed there.
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
        // What is no directory cannot be opened as one, and says so.
        if !DIRECTORIES.iter().any(|(ours, _)| *ours == path) || !has_only_ours(root, &path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn explain(root: &Root, path: &str, error: Errno) -> Failure {
    let what = format!("making {}", quote(root.path().join(path)));
    match error {
        Errno::LOOP | Errno::NOTDIR => Failure::new(
            Code::Failed,
            format!("{what}: it is no plain directory, but a symbolic link or a file"),
        )
        .hint("remove it, or choose another directory: nothing is followed out of a root"),
        Errno::PERM | Errno::ACCESS => Failure::new(Code::Permission, format!("{what}: {error}"))
            .hint("the root and all in it must be its builder's own: choose a directory that is yours, or use sudo"),
        error => Failure::new(Code::Os, format!("{what}: {error}")),
    }
}
