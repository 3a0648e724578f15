//! The identity of a directory, which survives a reboot: `root_id` in the document.
//!
//! A device number is valid only while the file system is mounted. These are stored in the file system itself: its UUID, the
//! directory's handle (name_to_handle_at(2), the inode number and a generation) and its birth time (statx(2),
//! `stx_btime`). No program can copy them: a copy made by cp(1), tar(1) or a snapshot is another directory.
//!
//! Not every file system has each of them, so each is compared only if both sides have it.

use crate::sys;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use stage::members::Identity;
use std::os::fd::BorrowedFd;

/// `EXT4_SUPER_MAGIC` and `BTRFS_SUPER_MAGIC`: for these, statfs(2) returns an id that is made from the UUID. For others it
/// is made from the device number.
const ID_IS_OF_UUID: [i64; 2] = [0xef53, 0x9123_683e];

/// Returns the identity of a directory.
pub(crate) fn of(directory: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let stat = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let birth = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some(stat.stx_btime);
    Ok(Identity {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        fs: file_system(directory)?,
        handle: sys::handle(directory).map(|(kind, bytes)| format!("{kind}:{}", hex(&bytes))),
        birth: birth.map(|time| format!("{}.{:09}", time.tv_sec, time.tv_nsec)),
    })
}

/// Returns the file system's own id, if it has one that survives its mount.
fn file_system(directory: BorrowedFd<'_>) -> Result<Option<String>, Errno> {
    let (kind, id) = sys::file_system_id(directory)?;
    if ID_IS_OF_UUID.contains(&kind) {
        return Ok(Some(hex(&id)));
    }
    let opened = crate::root::open_below(directory, "", OFlags::RDONLY | OFlags::DIRECTORY);
    Ok(opened.ok().and_then(|d| sys::file_system_uuid(&d)).map(|id| hex(&id)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn of(path: &std::path::Path) -> Identity {
        let file = std::fs::File::open(path).unwrap();
        super::of(file.as_fd()).unwrap()
    }

    #[test]
    fn a_directory_is_itself_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        let first = of(&a);
        assert!(first.is(&of(&a)));
        std::fs::rename(&a, &b).unwrap();
        assert!(first.is(&of(&b)), "its name is no part of it");
        std::fs::create_dir(&a).unwrap();
        assert!(!first.is(&of(&a)));
        std::fs::remove_dir(&b).unwrap();
        std::fs::remove_dir(&a).unwrap();
        std::fs::create_dir(&a).unwrap();
        assert!(!first.is(&of(&a)), "the inode number may be given away again");
    }

    #[test]
    fn what_both_have_is_compared() {
        let text = |value: &str| Some(value.to_owned());
        let full = Identity { dev: 1, ino: 2, fs: text("f"), handle: text("1:aa"), birth: text("3.000000004") };
        let old = Identity { fs: None, handle: None, birth: None, ..full.clone() };
        let with = |change: &dyn Fn(&mut Identity)| {
            let mut other = full.clone();
            change(&mut other);
            other
        };
        assert!(old.is(&full), "a document of an earlier version");
        assert!(!old.is(&with(&|o| o.dev = 9)) && !old.is(&with(&|o| o.ino = 9)));
        assert!(full.is(&with(&|o| o.dev = 9)), "mounted again");
        assert!(full.is(&with(&|o| (o.dev, o.ino) = (9, 9))), "overlayfs gives other numbers");
        assert!(full.is(&with(&|o| (o.dev, o.fs) = (9, None))));
        assert!(full.is(&with(&|o| (o.dev, o.handle) = (9, None))));
        for change in [
            &(|o: &mut Identity| o.fs = text("g")) as &dyn Fn(&mut Identity),
            &|o| o.handle = text("1:ab"),
            &|o| o.birth = text("3.000000005"),
            &|o| (o.handle, o.ino) = (None, 9),
            &|o| (o.fs, o.birth, o.dev) = (None, None, 9),
        ] {
            assert!(!full.is(&with(change)));
        }
    }
}
