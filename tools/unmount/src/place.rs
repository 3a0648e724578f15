//! A mount point by a descriptor, so that its path cannot lead out of the root.
//!
//! The contents of a root are not trusted. With `dev -> /` in it, `umount ROOT/dev/pts` is the host's `/dev/pts`. So the
//! directory that contains the mount point is opened beneath the root without following any symbolic link, and umount2(2)
//! gets the last name below that descriptor, with `UMOUNT_NOFOLLOW`.

use rootfs::mountinfo::Mount;
use rootfs::root::BENEATH;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use stage::{Code, Failure};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory that contains a mount point, and the mount point's name in it.
#[derive(Debug)]
pub(crate) struct MountPoint {
    directory: OwnedFd,
    name: OsString,
}

impl MountPoint {
    /// Opens the mount point of a mount at or below `root`. `None` means that there is no such directory now: it is unmounted,
    /// or hidden.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] when the path leads over a symbolic link: then the mount is hidden, and something else is at the path.
    pub(crate) fn of(root: &Path, mount: &Mount) -> Result<Option<Self>, Failure> {
        let Some((directory, name)) = mount.target.parent().zip(mount.target.file_name()) else {
            return Err(Failure::new(Code::Usage, "it is the host's own root"));
        };
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let directory = match directory.strip_prefix(root) {
            // The root itself: its directory is outside, and trusted, but symbolic links are not followed.
            Err(_) => open(CWD, directory, strict),
            Ok(below) => {
                open(CWD, root, strict).and_then(|root| open(root.as_fd(), &Path::new(".").join(below), BENEATH))
            }
        };
        match directory {
            Ok(directory) => Ok(Some(Self { directory, name: name.to_owned() })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => {
                Err(Failure::new(Code::Failed, "the path to it leads over a symbolic link"))
            }
            Err(e @ Errno::ACCESS) => Err(Failure::new(Code::Permission, e)),
            Err(e) => Err(Failure::new(Code::Os, e)),
        }
    }

    /// Returns the status of what is there now: the root of the topmost mount.
    pub(crate) fn stat(&self) -> Result<Statx, Errno> {
        statx(
            &self.directory,
            self.name.as_os_str(),
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC,
            StatxFlags::INO | StatxFlags::MNT_ID,
        )
    }

    /// Returns whether the topmost mount there is this one, or may be: of a mount whose server is gone, and before Linux 5.8,
    /// that cannot be known.
    pub(crate) fn is(&self, mount: &Mount) -> bool {
        match self.stat() {
            Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => stat.stx_mnt_id == mount.id,
            Ok(_) => true,
            Err(e) => !matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
        }
    }

    /// Unmounts the topmost mount there.
    pub(crate) fn unmount(&self, flags: UnmountFlags) -> Result<(), Errno> {
        let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let path: PathBuf = Path::new(&directory).join(&self.name);
        unmount(path, flags | UnmountFlags::NOFOLLOW)
    }
}

fn open(at: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(at, path, flags, Mode::empty(), resolve)
}
