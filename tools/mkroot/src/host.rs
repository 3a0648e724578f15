//! `--host`: the way of the shell procedure in strapline(7), real mounts on the host, for people who want to look around and use
//! their own chroot.
//!
//! The tree is built in a mount namespace of our own and attached to the host in one step, so that there is either all
//! of it or nothing, whenever we are killed. Where the root's file system is shared with other namespaces (as systemd has
//! it), a private bind of the root on itself comes first: else each of the mounts would appear in all of them.

use rootfs::{Mount, Root, attach, live, mountinfo};
use rustix::fs::OFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use stage::members::{Host, HostMount};
use stage::{Code, Doing, Failure, quote};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Mounts the plan on the host, or finds that it is mounted, and returns none; else the mounts that it made
/// at the root itself, the topmost last: the tree, and under it a private bind where that was needed.
///
/// # Errors
///
/// [`Code::Busy`] where only a part of it is mounted; nothing is mounted after a failure.
pub(crate) fn mount(root: &Root, plan: &[Mount]) -> Result<Option<Vec<HostMount>>, Failure> {
    let mut all = mountinfo::read()?;
    // What another mount hides is not mounted there.
    let top = live::mount_of(root.as_fd(), "")?;
    let seen = mountinfo::with_descendants(&all, &top.number.into_iter().collect());
    all.retain(|m| seen.contains(&m.id));
    let targets: Vec<_> = plan.iter().map(|m| root.path().join(&m.at)).collect();
    let there = targets.iter().filter(|t| all.iter().any(|m| m.target == **t)).count();
    if there == targets.len() && all.iter().any(|m| m.target == root.path()) {
        return Ok(None);
    }
    if there > 0 {
        return Err(Failure::new(
            Code::Busy,
            format!("mounting below {}: {there} of {} are mounted", quote(root.path()), targets.len()),
        )
        .hint(format!("take them down with 'unmount {}' first", root.path().display())));
    }
    let mut made = Vec::new();
    // Mounts that are made on a shared one appear in other namespaces.
    if all.iter().any(|m| Some(m.id) == top.number && m.shared) {
        let bind = bind_privately(root).doing(Code::Os, || format!("binding {} on itself", quote(root.path())))?;
        made.push(live::mount_of(bind.as_fd(), "")?);
    }
    let attached = build(root, plan).and_then(|tree| {
        let below = Root::open(root.path())?;
        let top = live::mount_of(tree.as_fd(), "")?;
        attach::attach_tree(tree.as_fd(), below.as_fd())
            .doing(Code::Os, || format!("attaching the mounts on {}", quote(root.path())))?;
        Ok(top)
    });
    match attached {
        Ok(top) => made.push(top),
        Err(failure) => {
            take_down(root.path(), &made)?;
            return Err(failure);
        }
    }
    Ok(Some(made))
}

/// Binds the root on itself, private. A mount that is attached below a shared one becomes shared by that
/// (mount_namespaces(7)), whatever it was before, so it is made private again once it is there.
fn bind_privately(root: &Root) -> Result<OwnedFd, rustix::io::Errno> {
    let bind = attach::bind_on_itself(root.as_fd())?;
    // By the descriptor: the mount that we made, and no other that has come over it.
    mount_change(
        format!("/proc/self/fd/{}", bind.as_raw_fd()),
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .inspect_err(|_| unmount(root.path(), UnmountFlags::DETACH).unwrap_or(()))?;
    Ok(bind)
}

/// Builds the tree in a namespace of our own and returns it detached.
///
/// A thread goes there, and does not come back: setns(2) into a mount namespace also changes the root directory to that
/// of the namespace, so that in a chroot the same paths would be the host's afterwards.
fn build(root: &Root, plan: &[Mount]) -> Result<OwnedFd, Failure> {
    let there = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .doing(Code::Permission, || "making a mount namespace")?;
        let doing = || format!("building the mounts of {}", quote(root.path()));
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).doing(Code::Os, doing)?;
        let here = Root::open(root.path())?;
        let top = attach::bind_on_itself(here.as_fd()).doing(Code::Os, doing)?;
        attach::attach_plan(top.as_fd(), root.path(), plan)?;
        attach::clone_tree(top.as_fd(), "", true).doing(Code::Os, doing)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, there)
            .doing(Code::Os, || "building the mounts: starting a thread")?;
        thread.join().unwrap_or_else(|_| Err(Failure::new(Code::Os, "building the mounts: a panic")))
    })
}

/// Takes down what [`mount`] made, with what is below it. It is detached at once, whoever looks at it: nobody was told of it
/// yet, and a detached file system is written out all the same.
///
/// # Errors
///
/// [`Code::Busy`] where another's mount has come over it, which stays; when umount2(2) fails.
pub(crate) fn take_down(root: &Path, made: &[HostMount]) -> Result<(), Failure> {
    let doing = || format!("unmounting {}", quote(root));
    for ours in made.iter().rev() {
        let top = Root::open(root)?;
        if live::mount_of(top.as_fd(), "")? != *ours {
            let message = format!("{}: another mount hides it", doing());
            return Err(
                Failure::new(Code::Busy, message).hint(format!("'unmount --new {}' takes all down", root.display()))
            );
        }
        unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).doing(Code::Os, doing)?;
    }
    Ok(())
}

/// Returns the record of what was mounted: what [`mount`] made at the root itself, and what is on it.
///
/// # Errors
///
/// When the kernel does not say.
pub(crate) fn record(root: &Root, plan: &[Mount], made: &[HostMount]) -> Result<Host, Failure> {
    let top = Root::open(root.path())?;
    let mut mounts = made.to_vec();
    for at in plan.iter().map(|m| m.at.as_str()) {
        let place =
            top.open_below(at, OFlags::PATH).doing(Code::Os, || format!("opening {}", quote(root.path().join(at))))?;
        mounts.push(live::mount_of(place.as_fd(), at)?);
    }
    Ok(Host { boot_id: live::boot_id()?, mounts })
}
