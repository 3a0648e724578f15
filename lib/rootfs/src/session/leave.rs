//! Leaving the host's file system, where all that runs is the root's own.
//!
//! chroot(2) is no boundary for who is root inside: another chroot leads out of it, and so does `/proc/1/root`. So init gives
//! the whole namespace the root by pivot_root(2), as container runtimes do, and takes the host's file system out of it: what
//! is not mounted there cannot be reached by any path.
//!
//! Init is still a copy of the tool, of which `/proc/1/exe` is the program on the host, that its owner may write. It is made
//! undumpable: then its links can only be followed by who may trace processes outside (proc(5), ptrace(2)), which root in
//! a user namespace may not.

use crate::attach;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{DumpableBehavior, chdir, chroot, fchdir, pivot_root, set_dumpable_behavior};
use stage::{Code, Doing, Failure};
use std::os::fd::BorrowedFd;

/// Makes `root`, which is the root of a mount, the `/` of this process and its namespace.
///
/// # Errors
///
/// The system calls'.
pub(super) fn the_host(root: BorrowedFd<'_>) -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(Code::Os, || "closing init to the programs inside")?;
    change_root(root).doing(Code::Os, || "leaving the host's file system")
}

fn change_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    // Where a user namespace came after the mounts, those are locked (mount_namespaces(7)), but a copy of them is not.
    fchdir(&attach::bind_on_itself(root)?)?;
    match pivot_root(".", ".") {
        // The host's is below the root now. It has mounts on it, and goes with them: it is this namespace's copy.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The host runs from its initramfs (pivot_root(2)), or a container's filter forbids the call: docker's does so also
        // where it permits mounts.
        Err(Errno::INVAL | Errno::PERM) => chroot(".")?,
        Err(e) => return Err(e),
    }
    chdir("/")
}
