//! Leaving the host's file system, before programs of the root run.
//!
//! chroot(2) does not confine root: another chroot leads out of it, and so does `/proc/1/root`. So init makes the root that of
//! the whole namespace by pivot_root(2), as container runtimes do, and unmounts the host's file system there: no path leads
//! to what is not mounted.
//!
//! Init is still a copy of the tool, and its `/proc/1/exe` leads to the program on the host, which its owner may write to. So
//! it is made undumpable: then following its links requires the right to trace processes outside (proc(5), ptrace(2)),
//! which root in a user namespace does not have.

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
    set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(Code::Os, || "making init undumpable")?;
    change_root(root).doing(Code::Os, || "leaving the host's file system")
}

/// Changes the root directory of this process, where there are no namespaces. This confines no one: root finds a way out.
///
/// # Errors
///
/// [`Code::Permission`] where chroot(2) is forbidden.
pub(super) fn by_chroot(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let change = || {
        fchdir(root)?;
        chroot(".")?;
        chdir("/")
    };
    change().map_err(|e: Errno| {
        let failure = Failure::system(Code::Permission, "changing the root directory", e);
        failure.hint("this needs the capability SYS_CHROOT: docker and podman give it by default")
    })
}

fn change_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    // If a user namespace came after the mounts, they are locked (mount_namespaces(7)), but a copy of them is not.
    fchdir(&attach::bind_on_itself(root)?)?;
    match pivot_root(".", ".") {
        // The old root is now below the new one. It is this namespace's copy, and is unmounted with the mounts on it.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The host runs from its initramfs (pivot_root(2)), or the filter of a container forbids the call: docker's does,
        // even when it permits mounts.
        Err(Errno::INVAL | Errno::PERM) => chroot(".")?,
        Err(e) => return Err(e),
    }
    chdir("/")
}
