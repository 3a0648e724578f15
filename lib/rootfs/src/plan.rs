//! The mount plan: what is mounted for programs inside the root.
//!
//! The options are those of arch-chroot(8). The main difference: `/dev` is a tmpfs with bound nodes, never the host's devtmpfs,
//! which exists once for the whole machine: a file made in the root's `/dev` would appear in the host's.

use serde::{Deserialize, Serialize};
use stage::document::plain_below;
use stage::{Code, Failure};
use std::path::Path;

/// One mount of the plan: an element of `mounts` in the document.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where, relative to the root. Empty for the root itself.
    pub at: String,
    /// The kind: a filesystem's name, `bind` (one mount) or `rbind` (with what is mounted below it).
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted: an absolute path of the host for binds, a device for filesystems that need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Options as of mount(8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// For a private `/dev`: the device nodes of the host that are bound into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

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

impl Mount {
    /// Returns to what its content belongs. Only what belongs to the root is compared or copied.
    #[must_use]
    pub fn owner(&self) -> Owner {
        if api(false).iter().any(|m| m.at == self.at) {
            Owner::Kernel
        } else if matches!(&*self.kind, "bind" | "rbind") {
            Owner::Host
        } else {
            Owner::Root
        }
    }

    fn api(at: &str, kind: &str, options: &[&str]) -> Self {
        Self {
            at: at.to_owned(),
            kind: kind.to_owned(),
            source: None,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            nodes: Vec::new(),
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
    let sys = if rootless {
        Mount {
            source: Some("/sys".to_owned()),
            ..Mount::api("sys", "rbind", &["nosuid", "noexec", "nodev", "ro"])
        }
    } else {
        Mount::api("sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        Mount::api("proc", "proc", &["nosuid", "noexec", "nodev"]),
        sys,
        Mount {
            nodes: NODES.iter().map(|n| (*n).to_owned()).collect(),
            ..Mount::api("dev", "tmpfs", &["nosuid", "noexec", "mode=0755"])
        },
        // gid 5 is tty in Arch's filesystem package, as in Debian's.
        Mount::api(
            "dev/pts",
            "devpts",
            &["nosuid", "noexec", "mode=0620", "gid=5", "ptmxmode=0666"],
        ),
        Mount::api("dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        Mount::api("run", "tmpfs", &["nosuid", "nodev", "mode=0755"]),
        Mount::api(
            "tmp",
            "tmpfs",
            &["nosuid", "nodev", "strictatime", "mode=1777"],
        ),
    ]
}

/// Parses `SRC:AT`, the value of a `--bind` option.
///
/// # Errors
///
/// [`Code::Usage`] when it is not of that form, or SRC is not there.
pub fn bind(text: &str) -> Result<Mount, Failure> {
    let usage = |why: String| Failure::new(Code::Usage, format!("reading '--bind {text}': {why}"));
    let form = || usage("not of the form SRC:AT".into());
    let (source, at) = text.split_once(':').ok_or_else(form)?;
    let at = place(at).map_err(usage)?;
    let source = Path::new(source)
        .canonicalize()
        .map_err(|e| usage(format!("'{source}': {e}")))?;
    let kind = if source.is_dir() { "rbind" } else { "bind" };
    let source = source
        .to_str()
        .ok_or_else(|| usage("the path is not UTF-8".into()))?;
    Ok(Mount {
        source: Some(source.to_owned()),
        ..Mount::api(&at, kind, &[])
    })
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
        return Err(
            "AT is the root itself: mount it yourself, and give its mount point as DIR".into(),
        );
    }
    for hidden in ["proc", "sys"] {
        if at == hidden || at.starts_with(&format!("{hidden}/")) {
            return Err(format!(
                "AT is in the root's /{hidden}, which is the kernel's"
            ));
        }
    }
    Ok(at.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_in_an_order_that_works() {
        let at: Vec<_> = api(false).into_iter().map(|m| m.at).collect();
        assert_eq!(
            at,
            ["proc", "sys", "dev", "dev/pts", "dev/shm", "run", "tmp"]
        );
    }

    #[test]
    fn every_mount_has_an_owner() {
        for rootless in [false, true] {
            assert!(api(rootless).iter().all(|m| m.owner() == Owner::Kernel));
        }
        assert_eq!(Mount::api("srv", "rbind", &[]).owner(), Owner::Host);
        assert_eq!(Mount::api("boot", "vfat", &[]).owner(), Owner::Root);
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
