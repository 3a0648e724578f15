//! Asking `/proc` about one process: always below a descriptor of its directory.
//!
//! The descriptor stays with the process: once that has ended, every look through it fails, whoever has the pid by then.
//! A path that begins at `/proc/PID` would lead to the next one.

use crate::root::RootId;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The file itself.
    pub(super) id: RootId,
    /// The id of the mount that it is seen on. Linux says so since 5.8.
    pub(super) mount: Option<u64>,
}

/// Asks what a path leads to, without waiting for a server that may be gone. The empty path is the descriptor itself.
pub(super) fn look_at(at: impl AsFd, path: impl rustix::path::Arg) -> Result<Seen, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(at, path, flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let given = StatxFlags::from_bits_retain(stat.stx_mask);
    Ok(Seen {
        id: RootId {
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
        },
        mount: given
            .contains(StatxFlags::MNT_ID)
            .then_some(stat.stx_mnt_id),
    })
}

/// Opens a directory to look at what is in it.
pub(crate) fn open_dir(at: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// Returns the names in a directory that are numbers: processes, threads, descriptors.
pub(crate) fn numbers<T: FromStr>(at: impl AsFd, path: &str) -> Result<Vec<T>, Errno> {
    let mut numbers = Vec::new();
    for entry in Dir::new(open_dir(at, path)?)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        numbers.extend(name.and_then(|n| n.parse::<T>().ok()));
    }
    Ok(numbers)
}

/// Reads a file. Its size is not known before, and a call of read(2) costs more here than a buffer.
pub(crate) fn read_at(at: impl AsFd, path: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = vec![0; 1 << 13];
    let mut length = 0;
    loop {
        match rustix::io::read(&file, &mut text[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        // `stat` is one line that comes in one piece.
        if path == "stat" {
            break;
        }
        if text.len() - length < 1 << 12 {
            text.resize(2 * text.len(), 0);
        }
    }
    text.truncate(length);
    Ok(text)
}
