//! Where a mount is, by a descriptor: a path that cannot lead out of the root.
//!
//! What a root contains is not ours to trust. With `dev -> /` in it, `umount ROOT/dev/pts` is the host's `/dev/pts`. So
//! the directory that holds the mount point is opened beneath the root without following any link, and umount2(2) gets
//! the last name below that descriptor, with `UMOUNT_NOFOLLOW`.

use rootfs::mountinfo::Mount;
use rootfs::root::BENEATH;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use stage::{Code, Failure};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory that holds a mount point, and the mount point's name in it.
#[derive(Debug)]
pub(crate) struct Place {
    holds: OwnedFd,
    name: OsString,
}

impl Place {
    /// Opens the place of a mount at or below `root`. `None` means that there is no such directory now: what it was in
    /// is unmounted, or hidden.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where its path leads over a symbolic link: then it is hidden, and what is at the path is not it.
    pub(crate) fn of(root: &Path, mount: &Mount) -> Result<Option<Self>, Failure> {
        let Some((holds, name)) = mount.target.parent().zip(mount.target.file_name()) else {
            return Err(Failure::new(Code::Usage, "it is the host's own root"));
        };
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let holds = match holds.strip_prefix(root) {
            // The root itself: its directory is outside, where the host's owner may be trusted, but not a link.
            Err(_) => open(CWD, holds, strict),
            Ok(below) => open(CWD, root, strict)
                .and_then(|root| open(root.as_fd(), &Path::new(".").join(below), BENEATH)),
        };
        match holds {
            Ok(holds) => Ok(Some(Self {
                holds,
                name: name.to_owned(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => Err(Failure::new(
                Code::Failed,
                "the path to it leads over a symbolic link",
            )),
            Err(e @ Errno::ACCESS) => Err(Failure::new(Code::Permission, e)),
            Err(e) => Err(Failure::new(Code::Os, e)),
        }
    }

    /// Asks what is there now: the root of the topmost mount.
    pub(crate) fn look(&self) -> Result<Statx, Errno> {
        statx(
            &self.holds,
            self.name.as_os_str(),
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC,
            StatxFlags::INO | StatxFlags::MNT_ID,
        )
    }

    /// Returns whether the topmost mount there is this one. A mount whose server is gone cannot be asked, and kernels
    /// before 5.8 do not say.
    pub(crate) fn is(&self, mount: &Mount) -> bool {
        match self.look() {
            Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => {
                stat.stx_mnt_id == mount.id
            }
            Ok(_) => true,
            Err(e) => !matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
        }
    }

    /// Unmounts the topmost mount there.
    pub(crate) fn unmount(&self, flags: UnmountFlags) -> Result<(), Errno> {
        let holds = format!("/proc/self/fd/{}", self.holds.as_raw_fd());
        let path: PathBuf = Path::new(&holds).join(&self.name);
        unmount(path, flags | UnmountFlags::NOFOLLOW)
    }
}

fn open(at: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(at, path, flags, Mode::empty(), resolve)
}
