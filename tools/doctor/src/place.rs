//! Where the root is to be: the directory, its filesystem, its mount, its space.

use crate::finding::Finding;
use crate::ids::shell;
use rootfs::mountinfo::{self, Mount};
use rustix::fs::{
    Access, AtFlags, CWD, StatVfs, StatVfsMountFlags, StatxFlags, access, statvfs, statx,
};
use stage::{Code, Doing, Failure, quote};
use std::path::{Path, PathBuf};

/// What is known of the place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The root's path, made absolute.
    pub(crate) path: PathBuf,
    /// Whether the user named it; else it is the current directory, in which a root would be made.
    pub(crate) named: bool,
    /// The nearest directory on the way to it that is there.
    pub(crate) nearest: PathBuf,
    /// What is at the path.
    pub(crate) kind: Kind,
    /// Whether we may make files in the nearest directory.
    pub(crate) writable: bool,
    /// The filesystem's kind and mount point, where the kernel says them.
    pub(crate) mount: Option<(String, PathBuf)>,
    /// How it is mounted.
    pub(crate) flags: StatVfsMountFlags,
    /// Bytes that are free for us.
    pub(crate) bytes: u64,
    /// Inodes that are free for us; none where the filesystem has no such limit.
    pub(crate) inodes: Option<u64>,
}

/// What is at the root's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// The directory that this program has as its root.
    HostRoot,
    /// Something else.
    Other,
    /// Nothing, in a directory that is there.
    New,
    /// Nothing, and the directory that it would be in is not there either.
    NoParent,
}

impl Place {
    /// Looks at the place. Without `root` it is the current directory.
    ///
    /// # Errors
    ///
    /// When the current directory is gone, or the filesystem does not answer.
    pub(crate) fn look(root: Option<&Path>) -> Result<Self, Failure> {
        let here = std::env::current_dir().doing(Code::Os, || "finding the current directory")?;
        let path = root.map_or_else(|| here.clone(), |root| here.join(root));
        let there = path.ancestors().find(|p| p.exists()).unwrap_or(&here);
        let doing = || format!("looking at {}", quote(there));
        let steps = path.components().count() - there.components().count();
        let full = there.canonicalize().doing(Code::Os, doing)?;
        let kind = match steps {
            0 if full == Path::new("/") => Kind::HostRoot,
            0 if full.is_dir() => Kind::Directory,
            0 => Kind::Other,
            1 if full.is_dir() => Kind::New,
            _ => Kind::NoParent,
        };
        let stat = statvfs(&full).doing(Code::Os, doing)?;
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        Ok(Self {
            path: if steps == 0 {
                full.clone()
            } else {
                full.join(rest)
            },
            named: root.is_some(),
            kind,
            writable: access(&full, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            mount: mount_of(&full).map(|m| (m.fstype, m.target)),
            flags: stat.f_flag,
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: inodes(&stat),
            nearest: full,
        })
    }

    /// Returns the command that mounts it anew with an option.
    fn remount(&self, option: &str, sudo: &str) -> String {
        let target = self.mount.as_ref().map_or(&*self.nearest, |(_, t)| t);
        format!(
            "{sudo}mount -o remount,{option} {}",
            shell(&target.to_string_lossy())
        )
    }
}

/// Returns the free inodes, where there is a limit: Btrfs says that there are 0 of 0.
fn inodes(stat: &StatVfs) -> Option<u64> {
    (stat.f_files > 0).then_some(stat.f_favail)
}

/// Finds the mount that a directory is on: by its id (Linux 5.8), else by the longest path.
fn mount_of(dir: &Path) -> Option<Mount> {
    let all = mountinfo::read().ok()?;
    let id = statx(CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID)
        .ok()
        .filter(|s| s.stx_mask & StatxFlags::MNT_ID.bits() != 0)
        .map(|s| s.stx_mnt_id);
    let by_id = all.iter().position(|m| Some(m.id) == id);
    let by_path = || {
        let below = all
            .iter()
            .enumerate()
            .filter(|(_, m)| dir.starts_with(&m.target));
        below
            .max_by_key(|(_, m)| m.target.components().count())
            .map(|(i, _)| i)
    };
    let index = by_id.or_else(by_path)?;
    all.into_iter().nth(index)
}

/// A longer path than this has no room for the sockets of gpg-agent below it (unix(7)): then gpg cannot be started
/// there, and says so with status 0.
const LONG: usize = 67;

/// Judges the directory.
pub(crate) fn directory(place: &Place, sudo: &str) -> Finding {
    const NAME: &str = "directory";
    let at = quote(&place.path);
    if !place.named {
        if place.writable {
            return Finding::ok(
                NAME,
                format!("{at}, the current one; --root looks at another"),
            );
        }
        return Finding::warn(NAME, format!("{at}: we may not make files here"))
            .why("a root is made in a directory of its builder's own")
            .fix("name the directory of the root with --root DIR");
    }
    let text = place.path.to_str();
    if text.is_none_or(|t| t.chars().any(char::is_control)) {
        return Finding::fail(
            NAME,
            format!("{at}: not UTF-8, or with a control character"),
        )
        .why("it could not be written down in the document")
        .fix("choose another name");
    }
    let length = place.path.as_os_str().len();
    let name = shell(&place.path.to_string_lossy());
    match place.kind {
        Kind::HostRoot => Finding::fail(NAME, format!("{at}: the host's own root"))
            .why("a pipeline never works on the system that it runs on")
            .fix("choose another directory"),
        Kind::Other => Finding::fail(NAME, format!("{at}: not a directory"))
            .why("the root is made in a directory")
            .fix("choose another name"),
        Kind::NoParent => {
            let parent = place.path.parent().unwrap_or(&place.path);
            Finding::fail(NAME, format!("{at}: {} is not there", quote(parent)))
                .why("the root's directory is made where its parent is")
                .fix(format!("mkdir -p {}", shell(&parent.to_string_lossy())))
        }
        Kind::Directory | Kind::New if !place.writable => {
            let whose = quote(&place.nearest);
            Finding::fail(NAME, format!("{at}: we may not make files in {whose}"))
                .why("a root and all in it must be its builder's own")
                .fix(format!("{sudo}install -d -o \"$(id -u)\" -g \"$(id -g)\" {name}"))
        }
        Kind::Directory | Kind::New if length > LONG => Finding::ok(
            NAME,
            format!("{at}, a long path ({length} characters, more than {LONG})"),
        )
        .why(
            "below a long path there is no room for the names of gpg-agent's sockets; 'keyring' works without an agent, \
             but a pacman-key of one's own outside of the root does not",
        ),
        Kind::Directory => Finding::ok(NAME, format!("{at}, is there")),
        Kind::New => Finding::ok(NAME, format!("{at}, can be made")),
    }
}

/// Judges whether the filesystem can hold a root.
pub(crate) fn filesystem(place: &Place) -> Finding {
    const NAME: &str = "filesystem";
    let Some((kind, target)) = &place.mount else {
        return Finding::warn(NAME, "unknown")
            .why("what cannot hold owners and modes cannot hold a root")
            .fix("run doctor outside of any chroot, with /proc mounted");
    };
    let found = format!("{kind}, mounted on {}", quote(target));
    match kind.as_str() {
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" | "hfs" | "hfsplus" | "9p"
        | "cifs" | "smb3" | "drvfs" | "vboxsf" => Finding::fail(NAME, found)
            .why("it does not hold owners, modes and links as a root needs them")
            .fix("choose a directory on ext4, XFS, Btrfs or tmpfs"),
        // What containers without root have as their own root; it does hold them.
        "fuse.fuse-overlayfs" => Finding::ok(NAME, found),
        kind if kind.starts_with("fuse.") => Finding::fail(NAME, found)
            .why("few such file systems hold owners, and most are closed to root")
            .fix("choose a directory on ext4, XFS, Btrfs or tmpfs"),
        "nfs" | "nfs4" => Finding::warn(NAME, found)
            .why("a server that squashes root gives every file to nobody")
            .fix("choose a directory on a local disk, or export it with no_root_squash"),
        _ => Finding::ok(NAME, found),
    }
}

/// Judges how the filesystem is mounted.
pub(crate) fn mount_options(place: &Place, sudo: &str) -> Finding {
    const NAME: &str = "mount-options";
    let named: Vec<_> = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
    ]
    .into_iter()
    .filter(|(flag, _)| place.flags.contains(*flag))
    .map(|(_, name)| name)
    .collect();
    if named.is_empty() {
        return Finding::ok(NAME, "none that matters");
    }
    let found = named.join(", ");
    let has = |name| named.contains(&name);
    if has("ro") {
        Finding::fail(NAME, found)
            .why("nothing can be written there")
            .fix(place.remount("rw", sudo))
    } else if has("noexec") {
        Finding::fail(NAME, found)
            .why(
                "programs of the root could not run: pacman would exit 0 with every scriptlet failed. Or choose another \
                 directory",
            )
            .fix(place.remount("exec", sudo))
    } else if has("nosuid") {
        Finding::warn(NAME, found)
            .why(
                "set-uid programs in the root, such as sudo, work for nobody but root; what is packed or booted from it \
                 is right",
            )
            .fix(place.remount("suid", sudo))
    } else {
        Finding::ok(NAME, found).why("a root has a /dev of its own, so this does no harm")
    }
}

const MIB: u64 = 1 << 20;

/// Less than this holds no root at all: 110 packages of a small base are 205 MB, and they are kept a second time.
const BYTES_NEEDED: u64 = 512 * MIB;

/// A base with a kernel, and the packages that it came from.
const BYTES_WANTED: u64 = 2048 * MIB;

/// Judges the space.
pub(crate) fn space(place: &Place) -> Finding {
    const NAME: &str = "space";
    let found = format!("{} MiB free", place.bytes / MIB);
    let finding = match place.bytes {
        BYTES_WANTED.. => return Finding::ok(NAME, found),
        BYTES_NEEDED.. => Finding::warn(NAME, found),
        _ => Finding::fail(NAME, found),
    };
    finding
        .why("a base system and its packages take 1 to 2 GiB")
        .fix(format!(
            "make space on {}, or choose another directory",
            quote(target(place))
        ))
}

/// A base has about 30 000 files.
const INODES_NEEDED: u64 = 20_000;

/// A base with a kernel and its firmware.
const INODES_WANTED: u64 = 100_000;

/// Judges the inodes.
pub(crate) fn inodes_free(place: &Place) -> Finding {
    const NAME: &str = "inodes";
    let Some(free) = place.inodes else {
        return Finding::ok(NAME, "no limit");
    };
    let found = format!("{free} free");
    let finding = match free {
        INODES_WANTED.. => return Finding::ok(NAME, found),
        INODES_NEEDED.. => Finding::warn(NAME, found),
        _ => Finding::fail(NAME, found),
    };
    finding
        .why("a base system has about 30000 files, and with a kernel and firmware more")
        .fix(format!(
            "remove files on {}, or choose another directory",
            quote(target(place))
        ))
}

fn target(place: &Place) -> &Path {
    place.mount.as_ref().map_or(&place.nearest, |(_, t)| t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn place() -> Place {
        Place {
            path: "/srv/target".into(),
            named: true,
            nearest: "/srv".into(),
            kind: Kind::New,
            writable: true,
            mount: Some(("ext4".into(), "/".into())),
            flags: StatVfsMountFlags::empty(),
            bytes: 1 << 40,
            inodes: Some(1 << 30),
        }
    }

    #[test]
    fn a_plain_place_is_good() {
        let place = place();
        for finding in [
            directory(&place, ""),
            filesystem(&place),
            mount_options(&place, ""),
            space(&place),
            inodes_free(&place),
        ] {
            assert_eq!(finding.status, Status::Ok, "{finding:?}");
        }
    }

    #[test]
    fn options_that_break_a_root_are_named() {
        use StatVfsMountFlags as F;
        for (flags, status, fix) in [
            (
                F::RDONLY | F::NOEXEC,
                Status::Fail,
                "sudo mount -o remount,rw '/mnt/a b'",
            ),
            (
                F::NOEXEC | F::NOSUID,
                Status::Fail,
                "sudo mount -o remount,exec '/mnt/a b'",
            ),
            (
                F::NOSUID | F::NODEV,
                Status::Warn,
                "sudo mount -o remount,suid '/mnt/a b'",
            ),
            (F::NODEV | F::RELATIME, Status::Ok, ""),
        ] {
            let place = Place {
                flags,
                mount: Some(("tmpfs".into(), "/mnt/a b".into())),
                ..place()
            };
            let finding = mount_options(&place, "sudo ");
            assert_eq!(finding.status, status, "{flags:?}");
            assert_eq!(finding.fix.unwrap_or_default(), fix);
        }
    }

    #[test]
    fn filesystems_without_owners_are_refused() {
        for (kind, status) in [
            ("vfat", Status::Fail),
            ("exfat", Status::Fail),
            ("ntfs3", Status::Fail),
            ("9p", Status::Fail),
            ("fuse.sshfs", Status::Fail),
            ("fuse.fuse-overlayfs", Status::Ok),
            ("nfs4", Status::Warn),
            ("overlay", Status::Ok),
            ("btrfs", Status::Ok),
        ] {
            let place = Place {
                mount: Some((kind.into(), "/".into())),
                ..place()
            };
            assert_eq!(filesystem(&place).status, status, "{kind}");
        }
        let place = Place {
            mount: None,
            ..place()
        };
        assert_eq!(filesystem(&place).status, Status::Warn);
    }

    #[test]
    fn little_space_warns_and_less_fails() {
        let with = |bytes, inodes| Place {
            bytes,
            inodes,
            ..place()
        };
        assert_eq!(space(&with(2047 * MIB, None)).status, Status::Warn);
        assert_eq!(space(&with(511 * MIB, None)).status, Status::Fail);
        assert_eq!(inodes_free(&with(0, None)).status, Status::Ok);
        assert_eq!(inodes_free(&with(0, Some(50_000))).status, Status::Warn);
        assert_eq!(inodes_free(&with(0, Some(10))).status, Status::Fail);
    }

    #[test]
    fn the_directory_must_be_one_that_a_root_can_be_made_in() {
        let with = |kind, writable, path: &str| Place {
            kind,
            writable,
            path: path.into(),
            ..place()
        };
        let long = "/srv/".to_owned() + &"x".repeat(80);
        for (place, status, text) in [
            (with(Kind::HostRoot, true, "/"), Status::Fail, "own root"),
            (
                with(Kind::Other, true, "/f"),
                Status::Fail,
                "not a directory",
            ),
            (
                with(Kind::NoParent, true, "/a/b"),
                Status::Fail,
                "'/a' is not there",
            ),
            (with(Kind::New, false, "/srv/x"), Status::Fail, "in '/srv'"),
            (with(Kind::New, true, "/srv/\n"), Status::Fail, "control"),
            (with(Kind::New, true, &long), Status::Ok, "a long path (85"),
            (
                with(Kind::Directory, true, "/srv/x"),
                Status::Ok,
                "is there",
            ),
        ] {
            let finding = directory(&place, "");
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(text), "{finding:?}");
        }
        let current = Place {
            named: false,
            writable: false,
            kind: Kind::HostRoot,
            ..place()
        };
        assert_eq!(directory(&current, "").status, Status::Warn);
    }

    #[test]
    fn a_place_that_is_not_there_is_judged_by_what_is_above_it() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let new = Place::look(Some(&base.join("target"))).unwrap();
        assert_eq!((new.kind, &new.nearest), (Kind::New, &base));
        assert_eq!(new.path, base.join("target"));
        let far = Place::look(Some(&base.join("a/b/c"))).unwrap();
        assert_eq!((far.kind, &far.nearest), (Kind::NoParent, &base));
        let there = Place::look(Some(&base)).unwrap();
        assert_eq!(there.kind, Kind::Directory);
        assert!(there.mount.is_some() && there.bytes > 0);
        assert_eq!(
            Place::look(Some(Path::new("/"))).unwrap().kind,
            Kind::HostRoot
        );
    }
}
