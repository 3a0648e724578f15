//! Where the root will be: the directory, its file system, its mount, its space.

use crate::finding::Finding;
use crate::ids::shell;
use rootfs::mountinfo::{self, Mount};
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, StatxFlags, access, statvfs, statx};
use stage::{Code, Doing, Failure, quote};
use std::path::{Path, PathBuf};

/// What is known of the place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The root's absolute path.
    pub(crate) path: PathBuf,
    /// Whether the user named it; else it is the current directory, in which a root would be made.
    pub(crate) named: bool,
    /// The nearest existing directory on the way to it.
    pub(crate) nearest: PathBuf,
    pub(crate) kind: Kind,
    /// Whether we may make files in the nearest directory.
    pub(crate) writable: bool,
    /// The file system's type and mount point, where the kernel reports them.
    pub(crate) mount: Option<(String, PathBuf)>,
    pub(crate) flags: StatVfsMountFlags,
    /// Bytes that are free for us.
    pub(crate) bytes: u64,
    /// Inodes that are free for us; none where the file system has no limit, as Btrfs, which reports 0 of 0.
    pub(crate) inodes: Option<u64>,
}

/// What is at the root's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// The root directory of this program.
    HostRoot,
    /// Not a directory.
    Other,
    /// Nothing, in a directory that exists.
    New,
    /// Nothing, in a directory that does not exist either.
    NoParent,
}

impl Place {
    /// Reads it. Without `root` it is the current directory.
    ///
    /// # Errors
    ///
    /// When the current directory is gone, or the file system does not answer.
    pub(crate) fn read(root: Option<&Path>) -> Result<Self, Failure> {
        let here = std::env::current_dir().doing(Code::Os, || "finding the current directory")?;
        let path = root.map_or_else(|| here.clone(), |root| here.join(root));
        let there = path.ancestors().find(|p| p.exists()).unwrap_or(&here);
        let doing = || format!("examining {}", quote(there));
        let nearest = there.canonicalize().doing(Code::Os, doing)?;
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        let kind = match rest.components().count() {
            0 if nearest == Path::new("/") => Kind::HostRoot,
            0 if nearest.is_dir() => Kind::Directory,
            0 => Kind::Other,
            1 if nearest.is_dir() => Kind::New,
            _ => Kind::NoParent,
        };
        let stat = statvfs(&nearest).doing(Code::Os, doing)?;
        Ok(Self {
            path: nearest.components().chain(rest.components()).collect(),
            named: root.is_some(),
            kind,
            writable: access(&nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            mount: mount_of(&nearest).map(|m| (m.fstype, m.target)),
            flags: stat.f_flag,
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: (stat.f_files > 0).then_some(stat.f_favail),
            nearest,
        })
    }

    /// Returns the mount point.
    fn target(&self) -> &Path {
        self.mount.as_ref().map_or(&self.nearest, |(_, t)| t)
    }
}

/// Returns the mount that a directory is on: by its id (Linux 5.8), else by the longest path.
fn mount_of(dir: &Path) -> Option<Mount> {
    let all = mountinfo::read().ok()?;
    let stat = statx(CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID).ok();
    let id = stat.filter(|s| s.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    let by_id = id.and_then(|s| all.iter().find(|m| m.id == s.stx_mnt_id));
    let above = all.iter().filter(|m| dir.starts_with(&m.target));
    let by_path = above.max_by_key(|m| m.target.components().count());
    by_id.or(by_path).cloned()
}

/// A longer path has no room for the sockets of gpg-agent below it (unix(7)): gpg cannot be started there, and reports that
/// with status 0.
const LONG: usize = 67;

pub(crate) fn directory(place: &Place, sudo: &str) -> Finding {
    let at = quote(&place.path);
    let length = place.path.as_os_str().len();
    let is_text = |text: &str| !text.chars().any(char::is_control);
    let fail = |found: &str, why: &str, fix: &str| Finding::fail(format!("{at}: {found}")).why(why).fix(fix);
    match place.kind {
        _ if !place.named && place.writable => Finding::ok(format!("{at}, the current one; --root names another")),
        _ if !place.named => Finding::warn(format!("{at}: we may not make files here"))
            .why("a root is made in a directory of its builder's own")
            .fix("name the directory of the root with --root DIR"),
        _ if !place.path.to_str().is_some_and(is_text) => {
            let found = "not UTF-8, or with a control character";
            fail(found, "it cannot be recorded in the document", "choose another name")
        }
        Kind::HostRoot => {
            let why = "a pipeline never works on the system that it runs on";
            fail("the host's own root", why, "choose another directory")
        }
        Kind::Other => fail("not a directory", "the root is made in a directory", "choose another name"),
        Kind::NoParent => {
            let parent = place.path.parent().unwrap_or(&place.path);
            let fix = format!("mkdir -p {}", shell(&parent.to_string_lossy()));
            let why = "the root's directory is made in an existing directory";
            fail(&format!("{} does not exist", quote(parent)), why, &fix)
        }
        _ if !place.writable => {
            let name = shell(&place.path.to_string_lossy());
            let fix = format!("{sudo}install -d -o \"$(id -u)\" -g \"$(id -g)\" {name}");
            let found = format!("we may not make files in {}", quote(&place.nearest));
            fail(&found, "a root and all in it must be its builder's own", &fix)
        }
        _ if length > LONG => Finding::ok(format!("{at}, a long path ({length} characters, more than {LONG})")).why(
            "a long path leaves no room for the names of gpg-agent's sockets; 'keyring' works without an agent, but \
             running pacman-key yourself outside of the root does not",
        ),
        Kind::Directory => Finding::ok(format!("{at}, exists")),
        Kind::New => Finding::ok(format!("{at}, can be made")),
    }
}

/// Checks whether the file system can hold a root.
pub(crate) fn filesystem(place: &Place) -> Finding {
    const ANOTHER: &str = "choose a directory on ext4, XFS, Btrfs or tmpfs";
    let Some((kind, target)) = &place.mount else {
        return Finding::warn("unknown")
            .why("a file system without owners and modes cannot hold a root")
            .fix("run doctor outside of any chroot, with /proc mounted");
    };
    let found = format!("{kind}, mounted on {}", quote(target));
    match kind.as_str() {
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" | "hfs" | "hfsplus" | "9p" | "cifs" | "smb3"
        | "drvfs" | "vboxsf" => {
            Finding::fail(found).why("it does not hold owners, modes and links as a root needs them").fix(ANOTHER)
        }
        // The root of containers without root; it does hold them.
        "fuse.fuse-overlayfs" => Finding::ok(found),
        kind if kind.starts_with("fuse.") => {
            Finding::fail(found).why("few such file systems hold owners, and most are closed to root").fix(ANOTHER)
        }
        "nfs" | "nfs4" => Finding::warn(found)
            .why("a server that squashes root gives every file to nobody")
            .fix("choose a directory on a local disk, or export it with no_root_squash"),
        _ => Finding::ok(found),
    }
}

pub(crate) fn mount_options(place: &Place, sudo: &str) -> Finding {
    use StatVfsMountFlags as F;
    let named = [(F::RDONLY, "ro"), (F::NOEXEC, "noexec"), (F::NOSUID, "nosuid"), (F::NODEV, "nodev")];
    let set = named.iter().filter(|(flag, _)| place.flags.contains(*flag));
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    let found = set.join(", ");
    let target = shell(&place.target().to_string_lossy());
    let remount = |option: &str| format!("{sudo}mount -o remount,{option} {target}");
    match set.first() {
        None => Finding::ok("none that matters"),
        Some(&"ro") => Finding::fail(found).why("nothing can be written there").fix(remount("rw")),
        Some(&"noexec") => Finding::fail(found)
            .why(
                "programs of the root cannot run: pacman exits 0 although every scriptlet failed. Or choose another \
                 directory",
            )
            .fix(remount("exec")),
        Some(&"nosuid") => Finding::warn(found)
            .why(
                "set-uid programs in the root, such as sudo, work only for root; an image that is packed or booted \
                 from it is correct",
            )
            .fix(remount("suid")),
        Some(_) => Finding::ok(found).why("a root has a /dev of its own, so this does no harm"),
    }
}

const MIB: u64 = 1 << 20;

/// Less than the first holds no root at all: 110 packages of a small base are 205 MB, and they are kept a second time. The
/// second is a base with a kernel, and its packages.
const BYTES: (u64, u64) = (512 * MIB, 2048 * MIB);

/// A base has about 30 000 files; with a kernel and its firmware it has more.
const INODES: (u64, u64) = (20_000, 100_000);

impl Place {
    /// Returns a finding that fails below the first limit and warns below the second.
    fn enough(&self, found: String, free: u64, (needed, wanted): (u64, u64), why: &str, how: &str) -> Finding {
        let finding = match free {
            free if free >= wanted => return Finding::ok(found),
            free if free >= needed => Finding::warn(found),
            _ => Finding::fail(found),
        };
        finding.why(why).fix(format!("{how} on {}, or choose another directory", quote(self.target())))
    }
}

pub(crate) fn space(place: &Place) -> Finding {
    let found = format!("{} MiB free", place.bytes / MIB);
    place.enough(found, place.bytes, BYTES, "a base system and its packages take 1 to 2 GiB", "free space")
}

pub(crate) fn inodes(place: &Place) -> Finding {
    const WHY: &str = "a base system has about 30000 files, and more with a kernel and firmware";
    let limited = |free| place.enough(format!("{free} free"), free, INODES, WHY, "remove files");
    place.inodes.map_or_else(|| Finding::ok("no limit"), limited)
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
        for finding in
            [directory(&place, ""), filesystem(&place), mount_options(&place, ""), space(&place), inodes(&place)]
        {
            assert_eq!(finding.status, Status::Ok, "{finding:?}");
        }
    }

    #[test]
    fn options_that_break_a_root_are_named() {
        use StatVfsMountFlags as F;
        for (flags, status, fix) in [
            (F::RDONLY | F::NOEXEC, Status::Fail, "sudo mount -o remount,rw '/mnt/a b'"),
            (F::NOEXEC | F::NOSUID, Status::Fail, "sudo mount -o remount,exec '/mnt/a b'"),
            (F::NOSUID | F::NODEV, Status::Warn, "sudo mount -o remount,suid '/mnt/a b'"),
            (F::NODEV | F::RELATIME, Status::Ok, ""),
        ] {
            let place = Place { flags, mount: Some(("tmpfs".into(), "/mnt/a b".into())), ..place() };
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
            let place = Place { mount: Some((kind.into(), "/".into())), ..place() };
            assert_eq!(filesystem(&place).status, status, "{kind}");
        }
        let place = Place { mount: None, ..place() };
        assert_eq!(filesystem(&place).status, Status::Warn);
    }

    #[test]
    fn little_space_warns_and_less_fails() {
        let with = |bytes, inodes| Place { bytes, inodes, ..place() };
        assert_eq!(space(&with(2047 * MIB, None)).status, Status::Warn);
        assert_eq!(space(&with(511 * MIB, None)).status, Status::Fail);
        assert_eq!(inodes(&with(0, None)).status, Status::Ok);
        assert_eq!(inodes(&with(0, Some(50_000))).status, Status::Warn);
        assert_eq!(inodes(&with(0, Some(10))).status, Status::Fail);
    }

    #[test]
    fn the_directory_must_be_one_that_a_root_can_be_made_in() {
        let with = |kind, writable, path: &str| Place { kind, writable, path: path.into(), ..place() };
        let long = "/srv/".to_owned() + &"x".repeat(80);
        for (place, status, text) in [
            (with(Kind::HostRoot, true, "/"), Status::Fail, "own root"),
            (with(Kind::Other, true, "/f"), Status::Fail, "not a directory"),
            (with(Kind::NoParent, true, "/a/b"), Status::Fail, "'/a' does not exist"),
            (with(Kind::New, false, "/srv/x"), Status::Fail, "in '/srv'"),
            (with(Kind::New, true, "/srv/\n"), Status::Fail, "control"),
            (with(Kind::New, true, &long), Status::Ok, "a long path (85"),
            (with(Kind::Directory, true, "/srv/x"), Status::Ok, "exists"),
        ] {
            let finding = directory(&place, "");
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(text), "{finding:?}");
        }
        let current = Place { named: false, writable: false, kind: Kind::HostRoot, ..place() };
        assert_eq!(directory(&current, "").status, Status::Warn);
    }

    #[test]
    fn a_missing_place_is_checked_by_its_nearest_parent() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let new = Place::read(Some(&base.join("target"))).unwrap();
        assert_eq!((new.kind, &new.nearest), (Kind::New, &base));
        assert_eq!(new.path, base.join("target"));
        let far = Place::read(Some(&base.join("a/b/c"))).unwrap();
        assert_eq!((far.kind, &far.nearest), (Kind::NoParent, &base));
        let there = Place::read(Some(&base)).unwrap();
        assert_eq!(there.kind, Kind::Directory);
        assert!(there.mount.is_some() && there.bytes > 0);
        assert_eq!(Place::read(Some(Path::new("/"))).unwrap().kind, Kind::HostRoot);
    }
}
