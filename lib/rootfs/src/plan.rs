//! The mount plan: what is mounted for programs inside the root.
//!
//! The options are those of arch-chroot(8). The main difference: `/dev` is a tmpfs with bound nodes, never the host's devtmpfs,
//! which exists once for the whole machine: a file made in the root's `/dev` would appear in the host's.

use stage::document::plain_below;
pub use stage::members::Mount;
use stage::{Code, Failure};
use std::path::Path;

/// To what the content of a mount belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The kernel: an API file system, or a temporary tmpfs.
    Kernel,
    /// The host: a bound directory or file of it.
    Host,
    /// The root: a file system of its own, such as a `/boot` on a partition.
    Root,
}

impl Owner {
    /// Returns to what the content of a mount belongs. Only what belongs to the root is compared or copied.
    #[must_use]
    pub fn of(mount: &Mount) -> Self {
        match &*mount.kind {
            _ if api(false).iter().any(|m| m.at == mount.at) => Self::Kernel,
            "bind" | "rbind" => Self::Host,
            _ => Self::Root,
        }
    }
}

/// The device nodes that programs in a root need; nothing that reaches the host's hardware.
pub const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The links of `/dev`: name and target. mkinitcpio's hooks read `/dev/stdin`; bash's `<( )` needs `/dev/fd`.
pub const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Returns the API file systems in the order of mounting. `rootless` is for a user namespace, where a new sysfs would need
/// its own network namespace (user_namespaces(7)), so the host's is bound.
#[must_use]
pub fn api(rootless: bool) -> Vec<Mount> {
    let sys = Mount::new("sys", if rootless { "rbind" } else { "sysfs" }, &["nosuid", "noexec", "nodev", "ro"]);
    vec![
        Mount::new("proc", "proc", &["nosuid", "noexec", "nodev"]),
        Mount { source: rootless.then(|| "/sys".to_owned()), ..sys },
        Mount {
            nodes: NODES.iter().map(|n| (*n).to_owned()).collect(),
            ..Mount::new("dev", "tmpfs", &["nosuid", "noexec", "mode=0755"])
        },
        // gid 5 is tty in Arch's filesystem package, as in Debian's.
        Mount::new("dev/pts", "devpts", &["nosuid", "noexec", "mode=0620", "gid=5", "ptmxmode=0666"]),
        Mount::new("dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        Mount::new("run", "tmpfs", &["nosuid", "nodev", "mode=0755"]),
        Mount::new("tmp", "tmpfs", &["nosuid", "nodev", "strictatime", "mode=1777"]),
    ]
}

/// The kind of a place where nothing is mounted: what programs make there is removed when they have ended.
pub const NONE: &str = "none";

/// Returns the plan of mode `chroot`: where the API file systems would be. Only device nodes are made in their place.
#[must_use]
pub fn chroot() -> Vec<Mount> {
    let places = api(false).into_iter().filter(|mount| !mount.at.contains('/'));
    places.map(|mount| Mount { nodes: mount.nodes, ..Mount::new(&mount.at, NONE, &[]) }).collect()
}

/// Returns whether a plan is that of mode `chroot`.
#[must_use]
pub fn is_chroot(plan: &[Mount]) -> bool {
    plan.iter().any(|mount| mount.kind == NONE)
}

/// Parses `SRC:AT`, the value of a `--bind` option.
///
/// # Errors
///
/// [`Code::Usage`] when it is not of that form, or SRC is not there.
pub fn bind(text: &str) -> Result<Mount, Failure> {
    let usage = |why: String| Failure::new(Code::Usage, format!("reading '--bind {text}': {why}"));
    let (source, at) = text.split_once(':').ok_or_else(|| usage("not of the form SRC:AT".into()))?;
    let at = place(at).map_err(usage)?;
    let source = Path::new(source).canonicalize().map_err(|e| usage(format!("'{source}': {e}")))?;
    let kind = if source.is_dir() { "rbind" } else { "bind" };
    let source = source.to_str().ok_or_else(|| usage("the path is not UTF-8".into()))?;
    Ok(Mount { source: Some(source.to_owned()), ..Mount::new(&at, kind, &[]) })
}

/// Returns a mount point in the form of the plan: relative, and not the root itself.
///
/// # Errors
///
/// The reason, for a message.
pub fn place(at: &str) -> Result<String, String> {
    let at = at.trim_matches('/');
    plain_below(at)?;
    if at.is_empty() {
        return Err("AT is the root itself: mount it yourself, and give its mount point as DIR".into());
    }
    match at.split('/').next() {
        Some(hidden @ ("proc" | "sys")) => Err(format!("AT is in the root's /{hidden}, which is the kernel's")),
        _ => Ok(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_in_an_order_that_works() {
        let at: Vec<_> = api(false).into_iter().map(|m| m.at).collect();
        assert_eq!(at, ["proc", "sys", "dev", "dev/pts", "dev/shm", "run", "tmp"]);
    }

    #[test]
    fn without_mounts_there_are_places_and_nodes() {
        let plan = chroot();
        let at: Vec<_> = plan.iter().map(|m| m.at.as_str()).collect();
        assert_eq!(at, ["proc", "sys", "dev", "run", "tmp"]);
        assert!(plan.iter().all(|m| m.kind == NONE && m.options.is_empty() && Owner::of(m) == Owner::Kernel));
        assert_eq!(plan[2].nodes, NODES);
    }

    #[test]
    fn every_mount_has_an_owner() {
        for rootless in [false, true] {
            assert!(api(rootless).iter().all(|m| Owner::of(m) == Owner::Kernel));
        }
        assert_eq!(Owner::of(&Mount::new("srv", "rbind", &[])), Owner::Host);
        assert_eq!(Owner::of(&Mount::new("boot", "vfat", &[])), Owner::Root);
    }

    #[test]
    fn nothing_of_the_host_is_writable_or_a_devtmpfs() {
        for rootless in [false, true] {
            for mount in api(rootless) {
                assert_ne!(mount.kind, "devtmpfs");
                assert!(mount.source.is_none() || mount.options.contains(&"ro".to_owned()));
                assert!(mount.options.contains(&"nosuid".to_owned()), "{}", mount.at);
            }
        }
    }
}
