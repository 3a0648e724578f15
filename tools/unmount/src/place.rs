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
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory that holds a mount point, and the mount point's name in it.
#[derive(Debug)]
pub(crate) struct Place {
    holds: OwnedFd,
    name: OsString,
}

impl Place {
    /// Opens the place of a mount at or below `root`.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where its path leads over a symbolic link: then it is hidden, and what is at the path is not it.
    pub(crate) fn of(root: &Path, mount: &Mount) -> Result<Self, Failure> {
        let Some((holds, name)) = mount.target.parent().zip(mount.target.file_name()) else {
            return Err(Failure::new(Code::Usage, "it is the host's own root"));
        };
        let open = |at: Option<&OwnedFd>, path: &Path, resolve| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match at {
                Some(at) => openat2(at, path, flags, Mode::empty(), resolve),
                None => openat2(CWD, path, flags, Mode::empty(), resolve),
            }
        };
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let holds = match holds.strip_prefix(root) {
            // The root itself: its directory is outside, where the host's owner may be trusted, but not a link.
            Err(_) => open(None, holds, strict),
            Ok(below) => open(None, root, strict).and_then(|root| {
                let below = if below.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    below
                };
                open(Some(&root), below, BENEATH)
            }),
        };
        let holds = holds.map_err(|e| match e {
            Errno::LOOP | Errno::XDEV => {
                Failure::new(Code::Failed, "the path to it leads over a symbolic link")
            }
            Errno::ACCESS => Failure::new(Code::Permission, e),
            e => Failure::new(Code::Os, e),
        })?;
        Ok(Self {
            holds,
            name: name.to_owned(),
        })
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
