//! Reading `/proc` of one process, always below a descriptor of its directory.
//!
//! The descriptor stays with the process: once that has ended, every call with it fails. A path that begins with `/proc/PID`
//! would lead to the next process with that pid.

use crate::mountinfo::{Mount, is_mount_root};
use crate::root::RootId;
use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatxFlags, major, minor, openat, openat2, readlinkat, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stage::{Code, Doing, Failure};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

/// The file that a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The file itself.
    pub(crate) id: RootId,
    /// The id of the mount that it is seen on (Linux 5.8).
    pub(crate) mount: Option<u64>,
}

impl Seen {
    /// Returns the device of the file system, which for btrfs stat(2) does not show.
    pub(crate) fn device(&self, mounts: &[Mount]) -> (u32, u32) {
        let mount = mounts.iter().find(|m| Some(m.id) == self.mount);
        mount.map_or((major(self.id.dev), minor(self.id.dev)), |mount| mount.dev)
    }
}

/// Returns what a path leads to, without waiting for a file server. The empty path is the descriptor itself.
pub(crate) fn look_at(at: impl AsFd, path: impl Arg) -> Result<Seen, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(at, path, flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let given = StatxFlags::from_bits_retain(stat.stx_mask);
    Ok(Seen {
        id: RootId { dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino },
        mount: given.contains(StatxFlags::MNT_ID).then_some(stat.stx_mnt_id),
    })
}

/// The deepest directory: a path has no more bytes.
const DEPTH: usize = 4096;

/// Returns whether a directory is at or below another one, by following `..`. That crosses mounts, of any mount namespace,
/// and ends at the root of that namespace, or at ours. `parents` has the mount that each of ours is on.
///
/// `..` leads to what is mounted over the directory above, which is another directory. So it is only compared where it is
/// known to be the same.
///
/// # Errors
///
/// The system call's; `EXDEV` when it cannot be known.
pub(super) fn is_below(directory: &OwnedFd, above: RootId, parents: &HashMap<u64, u64>) -> Result<bool, Errno> {
    let mut seen = look_at(directory, "")?;
    let mut at = directory.try_clone().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let (mut compare, mut known) = (true, true);
    for _ in 0..DEPTH {
        if compare && seen.id == above {
            return Ok(true);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (up, crossed) = match openat2(&at, "..", flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Ok(up) => (up, false),
            Err(Errno::XDEV) => (open_path(&at, "..")?, true),
            Err(e) => return Err(e),
        };
        let next = look_at(&up, "")?;
        if next == seen {
            return if known { Ok(false) } else { Err(Errno::XDEV) };
        }
        compare = !crossed || leads_straight(&at, seen, &up, next, parents)?;
        // The directory above, which another mount covers, may be the one that we look for.
        known &= compare || next.id != above || seen.id.dev != above.dev && !is_mount_root(&at, Path::new(""))?;
        (at, seen) = (up, next);
    }
    Err(Errno::NAMETOOLONG)
}

/// Returns whether `up`, on another mount than `at`, is the directory above it, and not what is mounted over that.
fn leads_straight(
    at: &OwnedFd,
    seen: Seen,
    up: &OwnedFd,
    next: Seen,
    parents: &HashMap<u64, u64>,
) -> Result<bool, Errno> {
    if is_mount_root(at, Path::new(""))? {
        let parent = seen.mount.and_then(|mount| parents.get(&mount));
        return Ok(parent.is_some() && parent == next.mount.as_ref());
    }
    // A bind of a directory on itself is the same one: it has the same below it.
    let text = readlinkat(CWD, format!("/proc/self/fd/{}", at.as_raw_fd()), Vec::new())?;
    let name = text.as_bytes().rsplit(|&b| b == b'/').next();
    let name = name.filter(|name| !name.is_empty());
    Ok(name.is_some_and(|name| look_at(up, name).is_ok_and(|now| now.id == seen.id)))
}

/// Checks that the numbers in `/proc` are those of our PID namespace, and returns ours: a process with the same number in another
/// one is another process.
///
/// # Errors
///
/// [`Code::Os`] when `/proc` is not mounted, or is that of another PID namespace.
pub(crate) fn check_numbers() -> Result<i32, Failure> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let link = std::fs::read_link("/proc/self").doing(Code::Os, || "reading '/proc/self'")?;
    if link.as_os_str() == own.to_string().as_str() {
        return Ok(own);
    }
    Err(Failure::new(Code::Os, "looking at processes: '/proc' is that of another PID namespace")
        .hint("mount that of this one: mount -t proc proc /proc"))
}

/// Opens a directory with `O_PATH`.
pub(crate) fn open_path(at: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory to read it.
pub(crate) fn open_dir(at: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Returns the names in a directory that are numbers: processes, threads, descriptors.
pub(crate) fn numbers<T: FromStr>(at: impl AsFd, path: &str) -> Result<Vec<T>, Errno> {
    let mut numbers = Vec::new();
    for entry in Dir::new(open_dir(at, path)?)? {
        let entry = entry?;
        numbers.extend(entry.file_name().to_str().ok().and_then(|n| n.parse::<T>().ok()));
    }
    Ok(numbers)
}

/// Opens a descriptor that stays with the process that has this pid now.
pub(crate) fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())
}

/// Reads a file of `/proc`, whose size is unknown, with few calls of read(2).
pub(crate) fn read_at(at: impl AsFd, path: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(1 << 13);
    // Not of the file itself, which would first ask for its size.
    let read = File::from(file).take(u64::MAX).read_to_end(&mut text);
    read.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(text)
}
