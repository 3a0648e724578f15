//! The mounts of a pipeline on the host: `host` in the document, written by `mkroot --host`, removed by `unmount`.
//!
//! A mount belongs to this pipeline only if the document has the unique number that the kernel gave it. A path does not tell
//! who mounted there.

use crate::{mountinfo, sys};
use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;
use stage::members::{Host, HostMount};
use stage::{Code, Document, Doing, Failure};
use std::collections::HashSet;
use std::os::fd::BorrowedFd;

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8).
const MNT_ID_UNIQUE: u32 = 0x4000;

/// Returns the boot id of this system.
///
/// # Errors
///
/// When it cannot be read.
pub fn boot_id() -> Result<String, Failure> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).doing(Code::Os, || format!("reading '{path}'"))?;
    Ok(text.trim().to_owned())
}

/// Returns the mount that a file is on, as one at this place.
///
/// # Errors
///
/// [`Code::Os`] when statx(2) fails.
pub fn mount_of(file: BorrowedFd<'_>, at: &str) -> Result<HostMount, Failure> {
    let doing = || "reading a mount's id";
    let ask = |flag: StatxFlags| {
        let stat = statx(file, "", AtFlags::EMPTY_PATH, flag).doing(Code::Os, doing)?;
        Ok((stat.stx_mask & flag.bits() != 0).then_some(stat.stx_mnt_id))
    };
    let id: Option<u64> = ask(StatxFlags::from_bits_retain(MNT_ID_UNIQUE))?;
    Ok(HostMount { at: at.to_owned(), id: id.map(|id| id.to_string()), number: ask(StatxFlags::MNT_ID)? })
}

/// Returns the current numbers in mountinfo of the mounts that the document claims.
///
/// # Errors
///
/// When the mounts cannot be read.
pub fn claimed(document: &Document) -> Result<HashSet<u64>, Failure> {
    let live: Host = document.get().unwrap_or_default();
    let mut claimed = HashSet::new();
    if live.mounts.is_empty() || live.boot_id != boot_id()? {
        return Ok(claimed);
    }
    let root = document.need_root()?;
    let all = mountinfo::read()?;
    for mount in live.mounts {
        let by_number = || {
            let target = root.join(&mount.at);
            let is_it = |m: &&mountinfo::Mount| Some(m.id) == mount.number && m.target == target;
            all.iter().find(is_it).map(|m| m.id)
        };
        claimed.extend(match mount.id.as_deref().map(str::parse) {
            Some(Ok(id)) => match sys::mount_with_unique_id(id) {
                // Forbidden in a container.
                Err(Errno::NOSYS | Errno::PERM) => by_number(),
                number => number.doing(Code::Os, || format!("looking for the mount {id}"))?,
            },
            Some(Err(_)) => None,
            None => by_number(),
        });
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::members::Root;
    use std::os::fd::AsFd;

    #[test]
    fn a_mount_is_claimed_by_its_id_and_of_this_boot_only() {
        let file = std::fs::File::open("/").unwrap();
        let mount = mount_of(file.as_fd(), "").unwrap();
        let number = mount.number.unwrap();
        let claims = |boot_id: &str, mount: &HostMount| {
            let mut document = Document::new();
            document.write(&Root("/srv/target".into()));
            let live = Host { boot_id: boot_id.to_owned(), mounts: vec![mount.clone()] };
            document.write(&live);
            claimed(&document).unwrap().into_iter().collect::<Vec<_>>()
        };
        let boot = boot_id().unwrap();
        let known = mount.id.is_some();
        assert_eq!(claims(&boot, &mount), if known { vec![number] } else { vec![] });
        let none: [u64; 0] = [];
        assert_eq!(claims("another", &mount), none);
        let by_number = HostMount { id: None, ..mount.clone() };
        assert_eq!(claims(&boot, &by_number), none, "it is not mounted at that place");
        let gone = HostMount { id: Some(u64::MAX.to_string()), ..mount.clone() };
        let bad = HostMount { id: Some("x".into()), ..mount };
        assert_eq!((claims(&boot, &gone), claims(&boot, &bad)), (vec![], vec![]));
        assert_eq!(claimed(&Document::new()).unwrap(), HashSet::new());
    }
}
