//! Making mounts and attaching them, by descriptor and never by path: fsopen(2), open_tree(2), move_mount(2)
//! (Linux 5.2), mount_setattr(2) (Linux 5.12).
//!
//! A mount is made detached with all its options and then attached to a directory that was resolved beneath the root,
//! so there is no moment in which a path can be exchanged for a symbolic link.

use crate::plan::{LINKS, Mount};
use crate::root::open_below;
use crate::sys::mount_setattr;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use stage::document::is_name;
use stage::{Cause, Code, Failure, quote};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Makes every mount of the plan below `root`, which is the mount that the tree grows on.
///
/// # Errors
///
/// At the first mount that cannot be made, with its place, kind and the reason. What was attached before it stays: the
/// caller's namespace takes it away.
pub fn attach_plan(root: BorrowedFd<'_>, path: &Path, plan: &[Mount]) -> Result<(), Failure> {
    for mount in plan {
        attach(root, mount).map_err(|e| explain(path, mount, e))?;
    }
    Ok(())
}

/// Says which mount failed, and the cause where it is a known one.
fn explain(root: &Path, mount: &Mount, error: Errno) -> Failure {
    let at = quote(root.join(&mount.at));
    let what = match &mount.source {
        Some(source) => format!("mounting {} ({}) on {at}", quote(source), mount.kind),
        None => format!("mounting {} on {at}", mount.kind),
    };
    let message = format!("{what}: {error}");
    match error {
        Errno::LOOP | Errno::NOTDIR => Failure::new(
            Code::Failed,
            format!("{what}: a part of the path is no plain directory, but a symbolic link or a file"),
        )
        .hint("look at what the root has there, and remove it if it does not belong there"),
        Errno::NOENT => Failure::new(Code::NotFound, message)
            .hint(format!("make the skeleton with 'mkroot {}'", root.display())),
        Errno::PERM | Errno::ACCESS => match apparmor_hint() {
            Some(hint) => Failure::new(Code::Permission, message).hint(hint),
            None => Failure::new(Code::Permission, message).cause(Cause::SeeDoctor).hint(
                "where a container or a security module forbids mounts, 'doctor' says which and how to permit them",
            ),
        },
        _ => Failure::new(Code::Os, message),
    }
}

/// Returns the AppArmor profile that we are held to, such as docker's `docker-default`, which forbids mounts also to who
/// has the capability for it. None where there is no AppArmor, or it only watches.
#[must_use]
pub fn apparmor_profile() -> Option<String> {
    // With several security modules the first is AppArmor's own, since Linux 5.8.
    ["apparmor/current", "current"].iter().find_map(|name| {
        let text = std::fs::read_to_string(format!("/proc/self/attr/{name}")).ok()?;
        enforced(&text)
    })
}

/// Returns the name in `NAME (enforce)` (apparmor(7), `/proc/PID/attr/current`). Ubuntu's profile for user namespaces is
/// none of a container's: it comes with the namespace, and its switch is what mends it.
fn enforced(text: &str) -> Option<String> {
    let name = text.trim_matches(['\n', '\0']).strip_suffix(" (enforce)")?;
    (name != "unprivileged_userns").then(|| name.to_owned())
}

/// What AppArmor forbids here, where it is known. Ubuntu 23.10 and later let an ordinary program make a user namespace,
/// but take its capabilities away; a container's profile forbids mounts.
pub(crate) fn apparmor_hint() -> Option<&'static str> {
    if apparmor_profile().is_some() {
        return Some(
            "an AppArmor profile holds us: run the container with --security-opt apparmor=unconfined",
        );
    }
    let switch = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let on = std::fs::read_to_string(switch).is_ok_and(|s| s.trim() == "1");
    on.then_some(
        "AppArmor restricts user namespaces here: run 'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', \
         or run the pipeline as root",
    )
}

/// The option of a bind that goes on a symbolic link, where there is one, and hides it: mount(8)'s.
pub const ON_A_LINK: &str = "X-mount.nocanonicalize=target";

fn attach(root: BorrowedFd<'_>, mount: &Mount) -> Result<(), Errno> {
    // What is bound may be a file (a device node, resolv.conf); every other mount goes on a directory.
    let kind = match &*mount.kind {
        "bind" if mount.options.iter().any(|o| o == ON_A_LINK) => OFlags::PATH | OFlags::NOFOLLOW,
        "bind" => OFlags::PATH,
        _ => OFlags::PATH | OFlags::DIRECTORY,
    };
    let target = match open_below(root, &mount.at, kind) {
        Err(Errno::NOENT) if is_on_our_own(&mount.at) => {
            make_path(root, &mount.at, is_file(mount), &mut Vec::new())?;
            open_below(root, &mount.at, kind)?
        }
        result => result?,
    };
    let options = Options::of(&mount.options);
    let tree = match mount.kind.as_str() {
        "bind" => bind(CWD, mount.source.as_deref().unwrap_or(""), false, &options)?,
        "rbind" => bind(CWD, mount.source.as_deref().unwrap_or(""), true, &options)?,
        "proc" | "sysfs" => match filesystem(mount, &options) {
            // A container that masks parts of its /proc may not have a new one (mount_namespaces(7), "locked"), and a
            // user namespace without a network namespace of its own may not have a new sysfs.
            Err(Errno::PERM | Errno::BUSY) => bind(CWD, host_twin(&mount.kind), true, &options)?,
            result => result?,
        },
        _ => filesystem(mount, &options)?,
    };
    put(tree.as_fd(), target.as_fd())?;
    // Never into a directory of the host's that a document may name: only what was made anew is furnished.
    if mount.kind == "tmpfs" && !mount.nodes.is_empty() {
        furnish_dev(tree.as_fd(), &mount.nodes)?;
    }
    Ok(())
}

/// Returns whether a place is on a file system that the plan makes anew each time, so that a mount point there is made
/// when it is mounted and leaves no trace in the root.
#[must_use]
pub fn is_on_our_own(at: &str) -> bool {
    ["dev/", "run/", "tmp/"]
        .iter()
        .any(|own| at.starts_with(own))
}

/// Returns whether a mount goes on a file: what it binds is no directory.
#[must_use]
pub fn is_file(mount: &Mount) -> bool {
    let directory = |source: &String| Path::new(source).is_dir();
    mount.kind == "bind" && !mount.source.as_ref().is_some_and(directory)
}

/// Makes the directories that lead to `at` and `at` itself, as a `file` or a directory; `made` gets what was not there,
/// also when the rest of it cannot be made.
///
/// # Errors
///
/// The system call's.
pub fn make_path(
    root: BorrowedFd<'_>,
    at: &str,
    file: bool,
    made: &mut Vec<String>,
) -> Result<(), Errno> {
    let mut here = String::new();
    let parts: Vec<_> = at.split('/').collect();
    for (i, part) in parts.iter().enumerate() {
        let parent = open_below(root, &here, OFlags::PATH | OFlags::DIRECTORY)?;
        if !here.is_empty() {
            here.push('/');
        }
        here.push_str(part);
        let result = if file && i + 1 == parts.len() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&parent, *part, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(&parent, *part, Mode::from_raw_mode(0o755))
        };
        match result {
            Ok(()) => made.push(here.clone()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Returns where the host has its own mount of an API filesystem.
fn host_twin(kind: &str) -> &'static str {
    if kind == "proc" { "/proc" } else { "/sys" }
}

/// Attaches a detached mount to a directory or file that is open.
fn put(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Makes a detached mount of a filesystem.
fn filesystem(mount: &Mount, options: &Options) -> Result<OwnedFd, Errno> {
    let context = fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(
        context,
        "source",
        mount.source.as_deref().unwrap_or(&mount.kind),
    )?;
    for (key, value) in &options.settings {
        match value {
            Some(value) => match fsconfig_set_string(context, key.as_str(), value.as_str()) {
                // gid=5 where the id map has no 5: tty then belongs to whoever opens it.
                Err(Errno::INVAL) if key == "gid" => {}
                result => result?,
            },
            None => fsconfig_set_flag(context, key.as_str())?,
        }
    }
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)
}

/// Makes a detached bind of what is at `path` from `dir`.
///
/// # Errors
///
/// The system call's.
fn bind(
    dir: BorrowedFd<'_>,
    path: &str,
    recursive: bool,
    options: &Options,
) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(dir, path, recursive)?;
    let set = u64::from(options.attributes.bits());
    // Slave, so that what the host unmounts later is unmounted here too; never the other way.
    mount_setattr(tree.as_fd(), set, libc::MS_SLAVE, recursive)?;
    Ok(tree)
}

/// open_tree(2) of what is at `path` from `dir`: a detached copy of the mount, and with `recursive` of those below it.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

/// Binds a directory on itself, with what is mounted below it, private. Returns the mount's root.
///
/// # Errors
///
/// The system call's.
pub fn bind_on_itself(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let tree = private_copy(dir)?;
    put(tree.as_fd(), dir)?;
    Ok(tree)
}

/// Returns a detached copy of the mount that a directory is on, from there on and with what is mounted below, private.
pub(crate) fn private_copy(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(dir, "", true)?;
    mount_setattr(tree.as_fd(), 0, libc::MS_PRIVATE, true)?;
    Ok(tree)
}

/// Makes a mount, and all that is mounted below it, read-only. Device nodes and sockets stay usable.
pub(crate) fn make_read_only(path: &Path) -> Result<(), Errno> {
    let mount = directory(path)?;
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    mount_setattr(mount.as_fd(), set, 0, true)
}

/// Opens a directory of the host, to mount on it.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// Attaches a detached tree on a directory; for the tools that mount on the host.
///
/// # Errors
///
/// The system call's.
pub fn attach_tree(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<(), Errno> {
    put(tree, dir)
}

/// Furnishes a `/dev` of our own: bound nodes, links, and the directories that more is mounted on.
fn furnish_dev(dev: BorrowedFd<'_>, nodes: &[String]) -> Result<(), Errno> {
    for node in nodes {
        // A name and no path: what a document says must not be made outside of this `/dev`.
        if !is_name(node) {
            return Err(Errno::INVAL);
        }
        let file =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(openat(
            dev,
            node.as_str(),
            file,
            Mode::from_raw_mode(0o666),
        )?);
        let source = clone_tree(CWD, &format!("/dev/{node}"), false)?;
        let target = openat(
            dev,
            node.as_str(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        put(source.as_fd(), target.as_fd())?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)?;
    }
    for directory in ["pts", "shm"] {
        mkdirat(dev, directory, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Options of mount(8), sorted into what belongs to the mount and what to the filesystem.
#[derive(Debug)]
struct Options {
    attributes: MountAttrFlags,
    settings: Vec<(String, Option<String>)>,
}

impl Options {
    fn of(options: &[String]) -> Self {
        let mut attributes = MountAttrFlags::empty();
        let mut settings = Vec::new();
        for option in options {
            attributes |= match option.as_str() {
                "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
                "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
                "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
                "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                "rw" | "relatime" | "defaults" => MountAttrFlags::empty(),
                other => {
                    settings.push(match other.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (other.to_owned(), None),
                    });
                    MountAttrFlags::empty()
                }
            };
        }
        Self {
            attributes,
            settings,
        }
    }
}

/// Returns whether programs may be run from the filesystem that `fd` is on (statvfs(3), `ST_NOEXEC`).
///
/// # Errors
///
/// The system call's.
pub fn is_noexec(fd: impl AsFd) -> Result<bool, Errno> {
    let flags = rustix::fs::fstatvfs(fd)?.f_flag;
    Ok(flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Returns the id of the mount that `path` from `dir` is on, where the kernel gives one that is never used again
/// (`STATX_MNT_ID_UNIQUE`, Linux 6.8).
///
/// # Errors
///
/// The system call's.
pub fn unique_mount_id(dir: BorrowedFd<'_>, path: &str) -> Result<Option<u64>, Errno> {
    const MNT_ID_UNIQUE: u32 = 0x4000;
    let flags = rustix::fs::StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let found = rustix::fs::statx(
        dir,
        path,
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        flags,
    )?;
    Ok((found.stx_mask & MNT_ID_UNIQUE != 0).then_some(found.stx_mnt_id))
}

/// Returns the number by which [`crate::mountinfo`] has the mount with this unique id (Linux 6.8). None where it is not
/// mounted in this namespace.
///
/// # Errors
///
/// The system call's.
pub fn mount_with_unique_id(id: u64) -> Result<Option<u64>, Errno> {
    crate::sys::mount_with_unique_id(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_only_watches_or_is_ubuntus_own_is_none() {
        let held = |text| enforced(text).unwrap_or_default();
        assert_eq!(held("docker-default (enforce)\n"), "docker-default");
        for text in [
            "unconfined\n",
            "docker-default (complain)\n",
            "unprivileged_userns (enforce)\n",
            "system_u:system_r:container_t:s0\0",
            "",
        ] {
            assert_eq!(enforced(text), None, "{text}");
        }
    }

    #[test]
    fn options_are_the_mounts_or_the_filesystems() {
        let options = Options::of(&["nosuid", "mode=0755", "ro", "newinstance"].map(str::to_owned));
        assert_eq!(
            options.attributes,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_RDONLY
        );
        assert_eq!(
            options.settings,
            [
                ("mode".to_owned(), Some("0755".to_owned())),
                ("newinstance".to_owned(), None)
            ]
        );
    }
}
