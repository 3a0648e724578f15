//! Why a mount is busy, in words.

use crate::place::MountPoint;
use rootfs::mountinfo::Mount;
use rootfs::occupants;
use rootfs::root::RootId;
use stage::{Code, Failure, quote};
use std::path::Path;

/// How many reasons a message has.
const REASONS: usize = 5;

/// What keeps a mount busy and is in no list of the kernel.
const UNSEEN: &str = "by whom cannot be seen: a socket that was bound by a relative name, or a descriptor in flight";

/// Returns what uses a mount, in words. `None` if nothing can be found.
///
/// # Errors
///
/// When `/proc` cannot be read.
pub(crate) fn why(mount: &Mount, place: &MountPoint) -> Result<Option<String>, Failure> {
    let mut reasons = ours(&mount.target);
    let mut unreadable = 0;
    // A mount whose server is gone has no identity, and one that is gone itself has no users.
    if let Ok(stat) = place.stat() {
        let id = RootId { dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino };
        let scan = occupants::find(&mount.target, id)?;
        reasons.extend(scan.occupants.iter().map(|o| format!("{o} {}", o.how())));
        unreadable = scan.unreadable;
    }
    reasons.extend(occupants::kernel_users(&mount.target));
    if reasons.is_empty() && unreadable > 0 {
        let unreadable = occupants::unreadable(unreadable);
        reasons.push(format!("by whom cannot be seen: {unreadable}"));
    }
    let more = reasons.len().saturating_sub(REASONS);
    reasons.truncate(REASONS);
    if more > 0 {
        reasons.push(format!("{more} more"));
    }
    Ok(Some(reasons.join("; ")).filter(|why| !why.is_empty()))
}

/// Returns which of our streams is there: a receipt that is written below the root keeps it mounted.
pub(crate) fn ours(target: &Path) -> Vec<String> {
    let streams = [(0, "standard input"), (1, "standard output"), (2, "standard error")];
    let used = |&(n, _): &(i32, &str)| {
        std::fs::read_link(format!("/proc/self/fd/{n}")).is_ok_and(|path| path.starts_with(target))
    };
    let used = streams.iter().filter(|stream| used(stream));
    used.map(|(_, name)| format!("this program's {name} is there")).collect()
}

/// Returns the failure of a mount that is in use.
pub(crate) fn failure(root: &Path, mount: &Mount, why: Option<String>) -> Failure {
    let why = why.unwrap_or_else(|| UNSEEN.to_owned());
    let root = root.display();
    Failure::new(Code::Busy, format!("unmounting {}: it is in use: {why}", quote(&mount.target)))
        .hint(format!("end it, or run 'reap {root}' and then 'unmount {root}' again"))
}
