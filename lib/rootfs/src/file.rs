//! A file that is replaced whole: a reader, also one after a crash, sees what was there before or all of the new.

use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, Uid, access, fchmod, fchown, fstat, linkat, openat,
    renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Refuses a directory in which another user could replace our files: a configuration, a keyring or a package there is
/// believed by programs that may run as root.
///
/// # Errors
///
/// [`Code::Permission`] where it is another user's, or where everybody may write to it (a sticky directory is as good as
/// one's own).
pub fn check_owner(directory: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let stat =
        fstat(directory).doing(Code::Os, || format!("reading the owner of {}", quote(path)))?;
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
    let message = format!("writing in {}: {why}", quote(path));
    Err(Failure::new(Code::Permission, message))
}

/// Replaces the file `name` in a directory, or makes it, with this mode whatever the umask, and these owners (user, group)
/// where they are not to be our own. What lay there is not followed.
///
/// It is written without a name, and so is gone when we are; it gets one when it is whole and on the disk. A name that is
/// taken cannot be given, so there it stands beside for a moment and is renamed over; that name is fixed, so that what a run
/// left that was killed in this moment is taken away by the next.
///
/// # Errors
///
/// When it cannot be written. What was there before is there still.
pub fn replace(
    directory: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> std::io::Result<()> {
    let beside = beside(name);
    match unlinkat(directory, &beside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let (file, named) = begin(directory, &beside)?;
    let written = || -> std::io::Result<()> {
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // Behind fchown(2), which takes set-id bits away.
        fchmod(&file, Mode::from_raw_mode(mode))?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        if !named {
            let from = format!("/proc/self/fd/{}", file.as_raw_fd());
            let give = |name: &str| linkat(CWD, &from, directory, name, AtFlags::SYMLINK_FOLLOW);
            match give(name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => give(&beside)?,
                Err(error) => return Err(error.into()),
            }
        }
        renameat(directory, &beside, directory, name)?;
        Ok(())
    };
    written().inspect_err(|_| unlinkat(directory, &beside, AtFlags::empty()).unwrap_or_default())
}

/// Makes `name` in a directory a symbolic link to `target`, in place of a file or link of that name.
///
/// # Errors
///
/// The system call's. What was there before is there still.
pub fn replace_link(directory: BorrowedFd<'_>, name: &str, target: &str) -> Result<(), Errno> {
    let beside = beside(name);
    match unlinkat(directory, &beside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    symlinkat(target, directory, &beside)?;
    renameat(directory, &beside, directory, name)
}

/// A file that got its name by this run, to be taken away again: as long as no other run has put another one in its place, or
/// made it its own by [`claim`].
#[derive(Debug)]
pub struct Placed {
    directory: OwnedFd,
    name: OsString,
    seen: Seen,
}

/// The device, the inode number, and when the inode was last changed (inode(7)).
type Seen = (u64, u64, i64, i64);

impl Placed {
    /// Returns the file that has this name now.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn of(directory: OwnedFd, name: impl Into<OsString>) -> Result<Self, Errno> {
        let name = name.into();
        let seen = Self::look(&directory, &name)?;
        Ok(Self {
            directory,
            name,
            seen,
        })
    }

    fn look(directory: &OwnedFd, name: &OsStr) -> Result<Seen, Errno> {
        let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        #[allow(clippy::cast_possible_wrap, reason = "nanoseconds are few")]
        let nanoseconds = is.st_ctime_nsec as i64;
        Ok((is.st_dev, is.st_ino, is.st_ctime, nanoseconds))
    }

    /// Returns its directory and its name, where it is this run's alone still.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn still(&self) -> Result<Option<(BorrowedFd<'_>, &OsStr)>, Errno> {
        match Self::look(&self.directory, &self.name) {
            Ok(now) if now == self.seen => Ok(Some((self.directory.as_fd(), &self.name))),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes it, where it is this run's alone still.
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

/// Makes a file, which is as it should be and so stays, this run's too: whoever made it does not take it away any more.
/// Nothing but the time of its last change is another after that.
///
/// # Errors
///
/// The system call's.
pub fn claim(file: impl AsFd) -> Result<(), Errno> {
    let mode = fstat(&file)?.st_mode & 0o7777;
    match fchmod(&file, Mode::from_raw_mode(mode)) {
        // Who may not write to it has not made it.
        Err(Errno::PERM | Errno::ROFS) => Ok(()),
        result => result,
    }
}

/// Returns the name that `name` has while it is not yet in its place.
#[must_use]
pub fn beside(name: &str) -> String {
    format!(".{name}.new")
}

/// Opens a file to write, and says whether it has a name already.
fn begin(directory: BorrowedFd<'_>, beside: &str) -> Result<(OwnedFd, bool), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // A file without a name gets one by way of /proc, which a root has only where the plan mounts it.
    if access("/proc/self/fd", Access::EXISTS).is_ok() {
        match openat(directory, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => return Ok((file, false)),
            // Not every file system has files without a name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    Ok((openat(directory, beside, flags, mode)?, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_followed_or_left() {
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
