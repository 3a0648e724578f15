//! Trials: an empty root in a directory of its own, entered as every tool of a pipeline enters one.
//!
//! In containers and under security modules the kernel's settings do not say what works, so all that can be tried is tried,
//! in namespaces that end with the trial. On the host there is one directory for temporary files, which is removed: where
//! doctor is killed, by the next one.

use rootfs::{Arch, Binfmt, IdMap, Inside, Mount, Root, plan};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fs::{DirBuilder, read_dir, remove_dir};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The fix where a trial could not be made.
pub(crate) const AGAIN: &str = "fix that, and run doctor again";

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Worked,
    Failed(Failure),
    /// It was not tried, and why not.
    Not(String),
}

impl From<Result<(), Failure>> for Tried {
    fn from(result: Result<(), Failure>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Worked)
    }
}

/// What was tried.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    /// A native program in new namespaces.
    pub(crate) native: Tried,
    /// A program of the target's architecture with a private handler.
    pub(crate) private: Tried,
    /// The same by what the host has: its handler, or its processor.
    pub(crate) host: Tried,
    /// Without namespaces, by chroot(2), where root has none: a program of the target's architecture by what the host has.
    pub(crate) chroot: Tried,
}

impl Trials {
    /// Tries everything. `idmap` is the id map of the root, or why there is none.
    pub(crate) fn run(
        host: Arch,
        target: Arch,
        interpreter: Option<&Path>,
        idmap: &Result<Option<IdMap>, Failure>,
    ) -> Self {
        let Ok(idmap) = idmap else {
            return Self::none("it needs subordinate ids first");
        };
        let root = match EmptyRoot::make() {
            Ok(root) => root,
            Err(failure) => return Self::none(&failure.message),
        };
        let api = plan::api(idmap.is_some());
        let native = Tried::from(root.run(host, &api, idmap, None));
        let mut trials = Self::none(match native {
            Tried::Worked => "programs of this architecture are native here",
            _ => "it needs namespaces first",
        });
        if native == Tried::Worked && !target.is_native_on(host) {
            trials.private = match interpreter {
                None => Tried::Not("it needs an emulator first".to_owned()),
                Some(path) => root.run(target, &api, idmap, Some((target, Binfmt::private(path.to_owned())))).into(),
            };
            trials.host = root.run(target, &api, idmap, None).into();
        }
        if native != Tried::Worked && idmap.is_none() {
            trials.chroot = root.run(target, &plan::chroot(), idmap, None).into();
        }
        Self { native, ..trials }
    }

    /// Returns that nothing was tried, and why.
    pub(crate) fn none(why: &str) -> Self {
        let not = || Tried::Not(why.to_owned());
        Self { native: not(), private: not(), host: not(), chroot: not() }
    }
}

/// The directories that the plan mounts on.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// What the name of an empty root begins with.
const PREFIX: &str = "strapline-doctor-";

/// How often a directory is made again, where another doctor removed it before it was locked.
const ATTEMPTS: usize = 8;

/// An empty root on the host, removed when dropped.
struct EmptyRoot {
    path: PathBuf,
    /// Locked as long as it is in use.
    _lock: OwnedFd,
}

impl EmptyRoot {
    /// Makes it in the directory for temporary files, or in another one: the first may be full or not writable.
    fn make() -> Result<Self, Failure> {
        let make_in = |parent: &str| Self::make_in(Path::new(parent)).ok();
        Self::make_in(&std::env::temp_dir())
            .or_else(|failure| make_in("/var/tmp").or_else(|| make_in("/dev/shm")).ok_or(failure))
    }

    fn make_in(parent: &Path) -> Result<Self, Failure> {
        let doing = || format!("making a temporary directory in {}", quote(parent));
        // A root is opened without following symbolic links.
        let parent = parent.canonicalize().doing(Code::Os, doing)?;
        remove_leftovers(&parent);
        let root = Self::make_locked(&parent).doing(Code::Os, doing)?;
        for name in MOUNT_POINTS {
            DirBuilder::new().mode(0o700).create(root.path.join(name)).doing(Code::Os, doing)?;
        }
        Ok(root)
    }

    /// Makes the directory, with a name that nobody can guess, and locks it, so that no other doctor removes it.
    fn make_locked(parent: &Path) -> std::io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let temporary = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let Ok(lock) = open_locked(temporary.path()) else {
                continue;
            };
            let named = statat(CWD, temporary.path(), AtFlags::SYMLINK_NOFOLLOW)?;
            if named.st_ino == fstat(&lock)?.st_ino {
                // It is removed directory by directory, never with all that is below it.
                let path = temporary.keep();
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(Errno::BUSY.into())
    }

    fn run(
        &self,
        arch: Arch,
        mounts: &[Mount],
        idmap: &Option<IdMap>,
        handler: Option<(Arch, Binfmt)>,
    ) -> Result<(), Failure> {
        Inside::new(Root::open(&self.path)?, mounts.to_owned(), idmap.clone(), handler)?.probe(arch)
    }
}

/// Opens a directory and locks it.
fn open_locked(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Removes what a killed doctor of this user left: nobody holds its lock. Only empty directories are removed, and what
/// cannot be removed stays.
fn remove_leftovers(parent: &Path) {
    for entry in read_dir(parent).into_iter().flatten().flatten() {
        let me = rustix::process::geteuid().as_raw();
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(directory) = open_locked(&entry.path())
            && fstat(&directory).is_ok_and(|stat| stat.st_uid == me)
        {
            for name in MOUNT_POINTS {
                unlinkat(&directory, name, AtFlags::REMOVEDIR).unwrap_or(());
            }
            remove_dir(entry.path()).unwrap_or(());
        }
    }
}

impl Drop for EmptyRoot {
    fn drop(&mut self) {
        // Tried twice; after that it is left to the next doctor.
        for _ in 0..2 {
            for name in MOUNT_POINTS {
                remove_dir(self.path.join(name)).unwrap_or(());
            }
            if remove_dir(&self.path).is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_killed_doctor_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let names = || {
            let entries = read_dir(place.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
            names.sort();
            names
        };
        let in_use = EmptyRoot::make_in(place.path()).unwrap();
        let left = place.path().join("strapline-doctor-killed");
        for name in MOUNT_POINTS {
            std::fs::create_dir_all(left.join(name)).unwrap();
        }
        let others = place.path().join("strapline-doctor-with-a-file");
        std::fs::create_dir(&others).unwrap();
        std::fs::write(others.join("file"), "").unwrap();
        remove_leftovers(place.path());
        let mut expected = vec![in_use.path.canonicalize().unwrap(), others.clone()];
        expected.sort();
        assert_eq!(names(), expected);
        drop(in_use);
        assert_eq!(names(), [others]);
    }
}
