//! Making and attaching mounts, by descriptor and never by path: fsopen(2), open_tree(2), move_mount(2) (Linux 5.2),
//! mount_setattr(2) (Linux 5.12).
//!
//! A mount is made detached with all its options and then attached to a directory that was opened beneath the root, so
//! there is no moment at which a path can be replaced by a symbolic link.

use crate::occupants::proc::open_path;
use crate::plan::{LINKS, Mount};
use crate::root::open_below;
use crate::sys::mount_setattr;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use stage::document::is_name;
use stage::{Cause, Code, Failure, quote};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Makes every mount of the plan below `root`, the root of a mount.
///
/// # Errors
///
/// At the first mount that cannot be made. Those before it stay, until the caller's namespace ends.
pub fn attach_plan(root: BorrowedFd<'_>, path: &Path, plan: &[Mount]) -> Result<(), Failure> {
    for mount in plan {
        attach(root, mount).map_err(|e| explain(path, mount, e))?;
    }
    Ok(())
}

/// Returns the failure of a mount, with the cause if that is known.
fn explain(root: &Path, mount: &Mount, error: Errno) -> Failure {
    let at = quote(root.join(&mount.at));
    let what = match &mount.source {
        Some(source) => format!("mounting {} ({}) on {at}", quote(source), mount.kind),
        None => format!("mounting {} on {at}", mount.kind),
    };
    let fail = |code| Failure::new(code, format!("{what}: {error}"));
    match error {
        Errno::LOOP | Errno::NOTDIR => Failure::new(
            Code::Failed,
            format!("{what}: a part of the path is not a directory, but a symbolic link or a file"),
        )
        .hint("look at what the root has there, and remove it if it does not belong there"),
        Errno::NOENT => fail(Code::NotFound).hint(format!("make the skeleton with 'mkroot {}'", root.display())),
        Errno::PERM | Errno::ACCESS => match apparmor_hint() {
            Some(hint) => fail(Code::Permission).hint(hint),
            None => fail(Code::Permission).cause(Cause::SeeDoctor).hint(
                "where a container or a security module forbids mounts, 'doctor' says which and how to permit them",
            ),
        },
        _ => Failure::system(Code::Os, what, error),
    }
}

/// Returns the AppArmor profile that confines us, such as docker's `docker-default`, which forbids mounts even with the
/// capability for them. `None` without AppArmor, and in complain mode.
#[must_use]
pub fn apparmor_profile() -> Option<String> {
    // With several security modules, the first file is AppArmor's own (Linux 5.8).
    let profile = |name: &&str| enforced(&std::fs::read_to_string(format!("/proc/self/attr/{name}")).ok()?);
    ["apparmor/current", "current"].iter().find_map(profile)
}

/// Returns the name in `NAME (enforce)` (apparmor(7), `/proc/PID/attr/current`). Ubuntu's profile for user namespaces is
/// excluded: it comes with the namespace, and a sysctl turns it off.
fn enforced(text: &str) -> Option<String> {
    let name = text.trim_matches(['\n', '\0']).strip_suffix(" (enforce)")?;
    (name != "unprivileged_userns").then(|| name.to_owned())
}

/// Returns how to permit what AppArmor forbids. Ubuntu 23.10 and later let an ordinary program make a user namespace, but
/// remove its capabilities; the profile of a container forbids mounts.
pub(crate) fn apparmor_hint() -> Option<&'static str> {
    if apparmor_profile().is_some() {
        return Some(
            "an AppArmor profile confines this program: run the container with --security-opt apparmor=unconfined",
        );
    }
    let switch = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let on = std::fs::read_to_string(switch).is_ok_and(|s| s.trim() == "1");
    on.then_some(
        "AppArmor restricts user namespaces here: run 'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', \
         or run the pipeline as root",
    )
}

/// The option of mount(8) for a bind that does not follow a symbolic link at its mount point, but hides it.
pub const ON_A_LINK: &str = "X-mount.nocanonicalize=target";

fn attach(root: BorrowedFd<'_>, mount: &Mount) -> Result<(), Errno> {
    // A bind may be of a file (a device node, resolv.conf); all other mounts go on a directory.
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
    let (attributes, settings) = sort_options(&mount.options);
    let source = mount.source.as_deref().unwrap_or("");
    let tree = match mount.kind.as_str() {
        "bind" => bind(source, false, attributes)?,
        "rbind" => bind(source, true, attributes)?,
        "proc" | "sysfs" => match make_file_system(mount, attributes, &settings) {
            // A container that masks parts of its /proc may not have a new one (mount_namespaces(7), "locked"), and a
            // user namespace without a network namespace of its own may not have a new sysfs.
            Err(Errno::PERM | Errno::BUSY) if mount.kind == "proc" => bind("/proc", true, attributes)?,
            Err(Errno::PERM | Errno::BUSY) => bind("/sys", true, attributes)?,
            result => result?,
        },
        _ => make_file_system(mount, attributes, &settings)?,
    };
    attach_tree(tree.as_fd(), target.as_fd())?;
    // Only in a new tmpfs, never in a directory of the host that a document may name.
    if mount.kind == "tmpfs" && !mount.nodes.is_empty() {
        fill_dev(tree.as_fd(), &mount.nodes)?;
    }
    Ok(())
}

/// Returns whether a place is on a file system that the plan makes each time, so that a mount point there is made when it
/// is mounted and leaves no trace in the root.
#[must_use]
pub fn is_on_our_own(at: &str) -> bool {
    ["dev/", "run/", "tmp/"].iter().any(|own| at.starts_with(own))
}

/// Returns whether a mount goes on a file: a bind of something else than a directory.
#[must_use]
pub fn is_file(mount: &Mount) -> bool {
    let directory = |source: &String| Path::new(source).is_dir();
    mount.kind == "bind" && !mount.source.as_ref().is_some_and(directory)
}

/// Makes the directories that lead to `at`, and `at` itself as a `file` or a directory. `made` gets what was not there, also
/// when this fails.
///
/// # Errors
///
/// The system call's.
pub fn make_path(root: BorrowedFd<'_>, at: &str, file: bool, made: &mut Vec<String>) -> Result<(), Errno> {
    for (end, _) in at.match_indices('/').chain([(at.len(), "")]) {
        let here = &at[..end];
        let (parent, name) = here.rsplit_once('/').unwrap_or(("", here));
        let parent = open_below(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let result = if file && end == at.len() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        };
        match result {
            Ok(()) => made.push(here.to_owned()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Attaches a detached mount to a directory or file that is open.
///
/// # Errors
///
/// The system call's.
pub fn attach_tree(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Makes a detached mount of a file system.
fn make_file_system(mount: &Mount, attributes: MountAttrFlags, settings: &[&str]) -> Result<OwnedFd, Errno> {
    let context = fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    let source = mount.source.as_deref().unwrap_or(&mount.kind);
    fsconfig_set_string(context, "source", source)?;
    for setting in settings {
        match setting.split_once('=') {
            Some((key, value)) => match fsconfig_set_string(context, key, value) {
                // gid=5 when the id map has no 5: a terminal then belongs to whoever opens it.
                Err(Errno::INVAL) if key == "gid" => {}
                result => result?,
            },
            None => fsconfig_set_flag(context, *setting)?,
        }
    }
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a detached bind of a path of the host.
fn bind(path: &str, recursive: bool, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(CWD, path, recursive)?;
    // Slave: an unmount on the host takes effect here too, but not the other way round.
    mount_setattr(tree.as_fd(), attributes, libc::MS_SLAVE, recursive)?;
    Ok(tree)
}

/// Returns a detached copy of the mount at `path` from `dir` (open_tree(2)); with `recursive`, also of those below it.
///
/// # Errors
///
/// The system call's.
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
    attach_tree(tree.as_fd(), dir)?;
    Ok(tree)
}

/// Returns a detached copy of a directory's mount, from there down and with the mounts below it, private.
pub(crate) fn private_copy(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(dir, "", true)?;
    mount_setattr(tree.as_fd(), MountAttrFlags::empty(), libc::MS_PRIVATE, true)?;
    Ok(tree)
}

/// Makes a mount and those below it read-only. Device nodes and sockets stay usable.
pub(crate) fn make_read_only(path: &Path) -> Result<(), Errno> {
    mount_setattr(open_path(CWD, path)?.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, 0, true)
}

/// Fills a new `/dev`: bound nodes, links, and the directories that more is mounted on.
fn fill_dev(dev: BorrowedFd<'_>, nodes: &[String]) -> Result<(), Errno> {
    for node in nodes {
        // A name and not a path: a document must not reach outside of this `/dev`.
        if !is_name(node) {
            return Err(Errno::INVAL);
        }
        let file = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(openat(dev, &**node, file, Mode::from_raw_mode(0o666))?);
        let source = clone_tree(CWD, &format!("/dev/{node}"), false)?;
        let target = open_below(dev, node, OFlags::PATH | OFlags::NOFOLLOW)?;
        attach_tree(source.as_fd(), target.as_fd())?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)?;
    }
    for directory in ["pts", "shm"] {
        mkdirat(dev, directory, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Sorts options of mount(8) into those of the mount and those of the file system.
fn sort_options(options: &[String]) -> (MountAttrFlags, Vec<&str>) {
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
                settings.push(other);
                MountAttrFlags::empty()
            }
        };
    }
    (attributes, settings)
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
        let options = ["nosuid", "mode=0755", "ro", "newinstance"].map(str::to_owned);
        let (attributes, settings) = sort_options(&options);
        assert_eq!(attributes, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(settings, ["mode=0755", "newinstance"]);
    }
}
