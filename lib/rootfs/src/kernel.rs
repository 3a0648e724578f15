//! System calls that the kernel lacks: "Function not implemented" says neither which nor what to do.

use crate::root::NOT_EMULATED;
use crate::sys;
use stage::{Cause, Failure};

/// The system calls of ours that came last, and the Linux that has them.
const NEEDED: [(&str, libc::c_long, &str); 8] = [
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, "5.1"),
    ("open_tree", libc::SYS_open_tree, "5.2"),
    ("move_mount", libc::SYS_move_mount, "5.2"),
    ("fsopen", libc::SYS_fsopen, "5.2"),
    ("fsmount", libc::SYS_fsmount, "5.2"),
    ("pidfd_open", libc::SYS_pidfd_open, "5.3"),
    ("openat2", libc::SYS_openat2, "5.6"),
    ("mount_setattr", libc::SYS_mount_setattr, "5.12"),
];

/// Adds a hint to the failure of a system call that is not there (`ENOSYS`): its name, and the Linux that has it.
#[must_use]
pub(crate) fn explain(failure: Failure) -> Failure {
    if failure.cause != Some(Cause::System(libc::ENOSYS)) {
        return failure;
    }
    let emulated = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1);
    // The last one: an older kernel lacks all that came later, too.
    let missing = NEEDED.iter().rev().find(|(_, number, _)| sys::is_missing(*number));
    match missing {
        Some((name, _, version)) if !emulated => failure.hint(format!(
            "{name}(2) is missing, which Linux {version} has: use Linux 5.12 or later, which has all that the tools need; in a \
             container, a newer container program, whose filter knows it; 'doctor' says more"
        )),
        _ => failure.hint(NOT_EMULATED),
    }
}
