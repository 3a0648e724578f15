//! What is known of a root that has packages: its architecture and its distribution, which take precedence over the
//! host's, and its owner.

use package::localdb;
use rootfs::{Arch, IdMap, Root};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, fstat, statat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where pacman keeps what is installed.
const LOCAL: &str = "var/lib/pacman/local";

/// The longest file of a package's record and os-release(5) that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// `ID` of os-release(5), and the presets for it. A preset whose name is the id needs no line.
const DISTRIBUTIONS: [(&str, &[&str]); 3] = [
    ("arch", &["archlinux", "archriscv", "loongarchlinux"]),
    ("archarm", &["archlinuxarm"]),
    ("arch32", &["archlinux32"]),
];

/// What is known of a root with packages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    /// The architectures of its packages, as pacman names them, without `any`.
    arches: Vec<String>,
    /// `ID` of its os-release(5).
    os: Option<String>,
}

impl Existing {
    /// Reads the packages and os-release(5). None where there is no root at `path`, or no package in it.
    ///
    /// # Errors
    ///
    /// When the package database cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        if !path.is_dir() {
            return Ok(None);
        }
        let root = Root::open(path)?;
        let doing = |below: &str| format!("reading {}", quote(path.join(below)));
        let local = match root.open_below(LOCAL, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            local => local.doing(Code::Permission, || doing(LOCAL))?,
        };
        let mut arches = BTreeSet::new();
        let mut packages = 0;
        for entry in Dir::read_from(&local).doing(Code::Os, || doing(LOCAL))? {
            let entry = entry.doing(Code::Os, || doing(LOCAL))?;
            // Not in `ALPM_DB_VERSION`, nor in a record that a killed pacman left incomplete.
            if let Ok(name) = entry.file_name().to_str()
                && let Ok(text) = root.read(&format!("{LOCAL}/{name}/desc"), LIMIT)
            {
                packages += 1;
                let arch = localdb::desc(&text).ok().and_then(|desc| desc.arch);
                arches.extend(arch.filter(|arch| arch != "any"));
            }
        }
        let release = root.read("usr/lib/os-release", LIMIT).unwrap_or_default();
        let os = id(&String::from_utf8_lossy(&release));
        Ok((packages > 0).then_some(Self { arches: arches.into_iter().collect(), os }))
    }

    /// Returns the root's architecture: that of its packages.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where that cannot be told.
    pub(crate) fn arch(&self, root: &Path) -> Result<Option<Arch>, Failure> {
        let known: Vec<_> = self.known_arches().collect();
        match (&known[..], self.arches.is_empty()) {
            ([first, rest @ ..], _) if rest.iter().all(|arch| arch == first) => Ok(Some(*first)),
            (_, true) => Ok(None),
            _ => {
                let doing = format!("looking for the architecture of {}", quote(root));
                Err(self.other_arch(&doing).hint("give --arch"))
            }
        }
    }

    /// Refuses an architecture that the root has no package of.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`], with the architecture that it has.
    pub(crate) fn check_arch(&self, root: &Path, asked: Arch) -> Result<(), Failure> {
        // A name that we do not know may mean the same architecture.
        let unknown = self.known_arches().next().is_none();
        if unknown || self.arches.iter().any(|arch| level(arch) == asked.name) {
            return Ok(());
        }
        let doing = format!("making {} for {}", quote(root), asked.name);
        Err(self.other_arch(&doing).hint("leave --arch out, or choose another directory"))
    }

    /// Returns those of the packages' architectures that we know.
    fn known_arches(&self) -> impl Iterator<Item = Arch> {
        self.arches.iter().filter_map(|arch: &String| Arch::named(level(arch)).ok())
    }

    fn other_arch(&self, doing: &str) -> Failure {
        Failure::new(Code::Usage, format!("{doing}: its packages are of {}", self.arches.join(", ")))
    }

    /// Returns the presets that fit the root's os-release(5). None where it has none.
    pub(crate) fn distributions(&self) -> Option<Vec<&str>> {
        let os = self.os.as_deref()?;
        let known = DISTRIBUTIONS.iter().find(|(id, _)| *id == os);
        let presets = known.map_or_else(|| vec![os], |(_, presets)| presets.to_vec());
        Some(distro::Preset::names().filter(|name| presets.contains(name)).collect())
    }

    /// Refuses a built-in preset where the root's os-release(5) is that of another one.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`], with the distribution that the root is.
    pub(crate) fn check_distribution(&self, root: &Path, asked: &str) -> Result<(), Failure> {
        let has_id = DISTRIBUTIONS.iter().any(|(_, names)| names.contains(&asked));
        match self.distributions() {
            Some(fit) if has_id && !fit.is_empty() && !fit.contains(&asked) => {
                let (root, fit) = (quote(root), fit.join(" or "));
                let message = format!("making {root} for {asked}: it is {fit}");
                Err(Failure::new(Code::Usage, message).hint("leave --distro out, or choose another directory"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the failure of a root for which there is no preset.
    pub(crate) fn unknown(&self, root: &Path) -> Failure {
        let os = self.os.as_deref().unwrap_or_default();
        Failure::new(Code::Usage, format!("looking for the distribution of {}: no preset for '{os}'", quote(root)))
            .hint("give --distro NAME or --distro FILE.toml")
    }
}

/// Returns an architecture without its level, as in `x86_64_v3`.
fn level(arch: &str) -> &str {
    match arch.rsplit_once("_v") {
        Some((base, level)) if level.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => arch,
    }
}

/// Returns `ID` of an os-release(5).
fn id(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("ID="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    stage::document::is_word(value).then(|| value.to_owned())
}

/// Refuses a root with packages that belongs to another user, or whose files have ids that are not in this user's map:
/// pacman would work on it, and the owners of files would be wrong.
///
/// # Errors
///
/// [`Code::Permission`], with the file and what to do.
pub(crate) fn check_owner(root: &Root, idmap: Option<&IdMap>, me: u32) -> Result<(), Failure> {
    let stat = fstat(root.as_fd()).doing(Code::Os, || format!("reading {}", quote(root.path())))?;
    if stat.st_uid != me {
        return Err(other_owner(root, root.path(), stat.st_uid, "user"));
    }
    idmap.map_or(Ok(()), |map| check_ids(root, stat.st_dev, map))
}

/// Checks every file of the root, without crossing mounts.
fn check_ids(root: &Root, device: u64, map: &IdMap) -> Result<(), Failure> {
    let doing = |below: &str| format!("reading {}", quote(root.path().join(below)));
    let has = |map: &[[u64; 3]], id: u32| {
        let is_in = |[_, first, count]: &[u64; 3]| (*first..first.saturating_add(*count)).contains(&u64::from(id));
        map.iter().any(is_in)
    };
    let mut todo = vec![String::new()];
    while let Some(at) = todo.pop() {
        let directory: OwnedFd = match root.open_below(&at, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            // Readable only for an id of the root. Its own owner has been checked.
            Err(Errno::ACCESS | Errno::NOENT | Errno::XDEV) => continue,
            Err(e) => return Err(e).doing(Code::Os, || doing(&at)),
        };
        for entry in Dir::read_from(&directory).doing(Code::Os, || doing(&at))? {
            let entry = entry.doing(Code::Os, || doing(&at))?;
            let below = match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => continue,
                Ok(name) if at.is_empty() => name.to_owned(),
                Ok(name) => format!("{at}/{name}"),
            };
            let stat: Stat = match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.doing(Code::Os, || doing(&below))?,
            };
            if stat.st_dev != device {
                continue;
            }
            for (ids, id, kind) in [(&map.uid, stat.st_uid, "user"), (&map.gid, stat.st_gid, "group")] {
                if !has(ids, id) {
                    return Err(other_owner(root, &root.path().join(&below), id, kind));
                }
            }
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                todo.push(below);
            }
        }
    }
    Ok(())
}

/// Returns the failure of a root with a file of an id that is not this user's.
fn other_owner(root: &Root, file: &Path, id: u32, kind: &str) -> Failure {
    let path = root.path();
    let message = format!(
        "making {}: {} belongs to {kind} {id}: the root was made by another user, or with other subordinate ids",
        quote(path),
        quote(file)
    );
    Failure::new(Code::Permission, message).hint(format!(
        "use it as the user that made it, with the same ids in /etc/subuid and /etc/subgid; to move it to other ids, 'pack' \
         it as that user and unpack that; to remove it, 'sudo unmount --remove {}'",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A root with these packages, as `name` and `arch`.
    fn root(packages: &[(&str, &str)], os: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, arch) in packages {
            let at = dir.path().join(LOCAL).join(format!("{name}-1-1"));
            fs::create_dir_all(&at).unwrap();
            let desc = format!("%NAME%\n{name}\n\n%VERSION%\n1-1\n\n%ARCH%\n{arch}\n");
            fs::write(at.join("desc"), desc).unwrap();
        }
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        fs::write(dir.path().join("usr/lib/os-release"), os).unwrap();
        dir
    }

    fn read(dir: &tempfile::TempDir) -> Option<Existing> {
        Existing::read(&dir.path().canonicalize().unwrap()).unwrap()
    }

    #[test]
    fn a_root_says_what_it_is() {
        let at = Path::new("/r");
        assert_eq!(read(&root(&[], "ID=arch\n")), None);
        let any = read(&root(&[("a", "any")], "")).unwrap();
        assert_eq!((any.arch(at).unwrap(), any.distributions()), (None, None));
        let arm = read(&root(&[("a", "any"), ("b", "aarch64")], "NAME=x\nID=\"archarm\"\n")).unwrap();
        assert_eq!(arm.arch(at).unwrap(), Some(Arch::named("aarch64").unwrap()));
        assert_eq!(arm.distributions().unwrap(), ["archlinuxarm"]);
        arm.check_arch(at, Arch::named("aarch64").unwrap()).unwrap();
        let failure = arm.check_arch(at, Arch::named("x86_64").unwrap()).unwrap_err();
        assert!(failure.message.ends_with("its packages are of aarch64"), "{failure}");
        arm.check_distribution(at, "archlinuxarm").unwrap();
        arm.check_distribution(at, "/p/mine.toml").unwrap();
        assert_eq!(arm.check_distribution(at, "archlinux").unwrap_err().code, Code::Usage);
        let fast = read(&root(&[("a", "x86_64_v3"), ("b", "x86_64")], "ID=cachyos\n")).unwrap();
        assert_eq!(fast.arch(at).unwrap(), Some(Arch::named("x86_64").unwrap()));
        assert_eq!(fast.distributions().unwrap(), ["cachyos"]);
        let mixed = read(&root(&[("a", "x86_64"), ("b", "aarch64")], "ID=mine\n")).unwrap();
        assert_eq!(mixed.arch(at).unwrap_err().code, Code::Usage);
        assert_eq!(mixed.distributions().unwrap(), [""; 0]);
    }

    #[test]
    fn every_file_must_have_an_id_of_the_map() {
        let dir = root(&[("a", "any")], "");
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        let me = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let map = |first: u64| IdMap {
            uid: vec![[0, u64::from(me), 1], [1, first, 10]],
            gid: vec![[0, u64::from(group), 1], [1, first, 10]],
        };
        check_owner(&root, Some(&map(500_000)), me).unwrap();
        assert_eq!(check_owner(&root, None, me + 1).unwrap_err().code, Code::Permission);
        let file = path.join("usr/lib/os-release");
        std::os::unix::fs::chown(&file, None, Some(500_009)).unwrap();
        check_owner(&root, Some(&map(500_000)), me).unwrap();
        let failure = check_owner(&root, Some(&map(600_000)), me).unwrap_err();
        assert!(failure.message.contains("usr/lib/os-release' belongs to group 500009"), "{failure}");
    }
}
