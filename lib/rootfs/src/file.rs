//! Replacing files atomically: a reader, also after a crash, sees the old file or the whole new one.

use crate::user;
use rustix::fs::{
    Access, AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid, access, accessat, fchmod, fchown, flock, fstat,
    linkat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Takes the exclusive lock on a directory. Returns whether it is ours, as it is where the file system has no locks.
///
/// # Errors
///
/// As flock(2).
pub fn lock_if_free(directory: impl AsFd) -> Result<bool, Errno> {
    match flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Refuses a directory in which another user could replace our files: programs that may run as root trust the configuration,
/// keyring or packages there.
///
/// # Errors
///
/// [`Code::Permission`] for a directory of another user, and for one that is writable by all and not sticky.
pub fn check_owner(directory: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let stat = fstat(directory).doing(Code::Os, || format!("reading the owner of {}", quote(path)))?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let anyone = mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX);
    let owner = stat.st_uid;
    let why = if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        format!("it belongs to user {owner}")
    } else if anyone {
        "anyone may write in it".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Permission, format!("writing in {}: {why}", quote(path))))
}

/// Refuses a directory that we may not write in: what a program makes there later would fail in its own words.
///
/// # Errors
///
/// [`Code::Permission`], with the owner.
pub fn check_writable(directory: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let flags = AtFlags::EACCESS;
    match accessat(directory, ".", Access::WRITE_OK | Access::EXEC_OK, flags) {
        Err(Errno::ACCESS) => {
            let owner = fstat(directory).map(|stat| stat.st_uid);
            let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
            let name = |uid| user::name_of(&passwd, uid).unwrap_or_else(|| uid.to_string());
            let whose = owner.map_or_else(|_| String::new(), |uid| format!("it belongs to user {}, and ", name(uid)));
            Err(Failure::new(Code::Permission, format!("writing in {}: {whose}we may not", quote(path))))
        }
        // Other failures have their own words when something is written.
        _ => Ok(()),
    }
}

/// Makes or replaces the file `name` in a directory, with this mode, whatever the umask is, and this owner (user, group) if
/// it is not us. A symbolic link of that name is replaced, not followed.
///
/// The file has no name until it is complete and on the disk, so nothing is left if we are killed. A name that exists cannot
/// be given to it, so then it gets a temporary one and is renamed; the temporary name is fixed, so that the next run removes
/// the file of a run that was killed at this moment.
///
/// # Errors
///
/// When it cannot be written. The old file is then still there.
pub fn replace(
    directory: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> std::io::Result<()> {
    replace_with(directory, name, mode, owner, |file| file.write_all(bytes))
}

/// Makes or replaces a file as [`replace`] does, with what `fill` writes into it.
///
/// # Errors
///
/// As [`replace`], and that of `fill`.
pub fn replace_with(
    directory: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    owner: Option<(u32, u32)>,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let temporary = temporary_name(name);
    match unlinkat(directory, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let (file, named) = create(directory, &temporary)?;
    let written = || -> std::io::Result<()> {
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let mut file = File::from(file);
        fill(&mut file)?;
        // After fchown(2) and write(2), which clear set-id bits.
        fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        if !named {
            let from = format!("/proc/self/fd/{}", file.as_raw_fd());
            let give = |name: &str| linkat(CWD, &from, directory, name, AtFlags::SYMLINK_FOLLOW);
            match give(name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => give(&temporary)?,
                Err(error) => return Err(error.into()),
            }
        }
        renameat(directory, &temporary, directory, name)?;
        Ok(())
    };
    written().inspect_err(|_| unlinkat(directory, &temporary, AtFlags::empty()).unwrap_or_default())
}

/// Makes `name` in a directory a symbolic link to `target`. A file or link of that name is replaced.
///
/// # Errors
///
/// When the link cannot be made. The old file is then still there.
pub fn replace_link(directory: BorrowedFd<'_>, name: &str, target: &str) -> Result<(), Errno> {
    let temporary = temporary_name(name);
    match unlinkat(directory, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    symlinkat(target, directory, &temporary)?;
    renameat(directory, &temporary, directory, name)
}

/// A file that this run has made, which can be removed again unless another run has replaced it or claimed it by [`claim`].
#[derive(Debug)]
pub struct Placed {
    directory: OwnedFd,
    name: OsString,
    version: Version,
}

/// The device, the inode number, and the time of the last change of the inode (inode(7)).
type Version = (u64, u64, i64, i64);

impl Placed {
    /// Returns the file that has this name now.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn of(directory: OwnedFd, name: impl Into<OsString>) -> Result<Self, Errno> {
        let name = name.into();
        let version = Self::version(&directory, &name)?;
        Ok(Self { directory, name, version })
    }

    fn version(directory: &OwnedFd, name: &OsStr) -> Result<Version, Errno> {
        let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        #[allow(clippy::cast_possible_wrap, reason = "nanoseconds are few")]
        let nanoseconds = is.st_ctime_nsec as i64;
        Ok((is.st_dev, is.st_ino, is.st_ctime, nanoseconds))
    }

    /// Returns its directory and its name, if no other run has replaced or claimed it.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn still(&self) -> Result<Option<(BorrowedFd<'_>, &OsStr)>, Errno> {
        match Self::version(&self.directory, &self.name) {
            Ok(now) if now == self.version => Ok(Some((self.directory.as_fd(), &self.name))),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes it if the document of this stage cannot be written.
    pub fn remove_on_undo(self, context: &Context, path: &Path) {
        let path = quote(path);
        context.on_undo(move |context| {
            if let Err(e) = self.remove() {
                context.warn(format_args!("removing {path}: {e}"));
            }
        });
    }

    /// Removes it, if no other run has replaced or claimed it.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn remove(&self) -> Result<(), Errno> {
        match self.still()? {
            Some((directory, name)) => unlinkat(directory, name, AtFlags::empty()),
            None => Ok(()),
        }
    }
}

/// Claims a file that already has the right content: the run that made it does not remove it any more. Only the time of its
/// last change is modified.
///
/// # Errors
///
/// The system call's.
pub fn claim(file: impl AsFd) -> Result<(), Errno> {
    let mode = fstat(&file)?.st_mode & 0o7777;
    match fchmod(&file, Mode::from_raw_mode(mode)) {
        // Without write permission it is not ours.
        Err(Errno::PERM | Errno::ROFS) => Ok(()),
        result => result,
    }
}

/// Returns the temporary name of a new file.
#[must_use]
pub fn temporary_name(name: &str) -> String {
    format!(".{name}.new")
}

/// Makes a file to write to. Returns whether it already has a name.
fn create(directory: BorrowedFd<'_>, temporary: &str) -> Result<(OwnedFd, bool), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // A file without a name gets one through /proc, which must be mounted.
    if access("/proc/self/fd", Access::EXISTS).is_ok() {
        match openat(directory, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => return Ok((file, false)),
            // Not every file system supports files without a name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    Ok((openat(directory, temporary, flags, mode)?, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_and_nothing_is_followed_or_left() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        let at = dir.path().join("a");
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "theirs").unwrap();
        std::fs::write(dir.path().join(".a.new"), "left by a run that was killed").unwrap();
        for (before, mode) in [("nothing", 0o440), ("file", 0o644), ("link", 0o600)] {
            if before == "link" {
                std::fs::remove_file(&at).unwrap();
                symlink(&outside, &at).unwrap();
            }
            replace(fd.as_fd(), "a", before.as_bytes(), mode, None).unwrap();
            let meta = std::fs::symlink_metadata(&at).unwrap();
            assert!(meta.is_file());
            assert_eq!(meta.permissions().mode() & 0o7777, mode);
            assert_eq!(std::fs::read_to_string(&at).unwrap(), before);
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
