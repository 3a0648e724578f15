//! Finding out by doing: an empty root in a directory of its own, entered as every tool of a pipeline enters one.
//!
//! What the kernel's settings promise and what it does differ in containers and under security modules, so nothing is
//! believed that can be tried. All of it happens in namespaces that end with the trial; what is on the host for a
//! moment is one directory for temporary files, and that is removed: where doctor is killed, by the next one.

use rootfs::{Arch, Binfmt, IdMap, Inside, Root, plan};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fs::{DirBuilder, read_dir, remove_dir};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What to do about a trial that could not be made.
pub(crate) const AGAIN: &str = "mend that, and run doctor again";

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    /// It works.
    Worked,
    /// It does not, and what failed.
    Failed(Failure),
    /// It was not tried, and why not.
    Not(String),
}

impl Tried {
    /// Returns whether it was seen to work.
    pub(crate) fn worked(&self) -> bool {
        *self == Self::Worked
    }

    fn of(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Worked,
            Err(failure) => Self::Failed(failure),
        }
    }
}

/// What was tried.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    /// A native program in namespaces of our own.
    pub(crate) native: Tried,
    /// A program of the target's architecture with a handler of our own.
    pub(crate) private: Tried,
    /// The same by what the host has: its handler, or its processor.
    pub(crate) host: Tried,
}

impl Trials {
    /// Tries it all. `idmap` is what stands for the ids of the root, or why there is nothing that could.
    pub(crate) fn run(
        host: Arch,
        target: Arch,
        interpreter: Option<&Path>,
        idmap: &Result<Option<IdMap>, Failure>,
    ) -> Self {
        let Ok(idmap) = idmap else {
            return Self::none("it needs subordinate ids first");
        };
        let ground = match Ground::make() {
            Ok(ground) => ground,
            Err(failure) => {
                return Self::none(&failure.message);
            }
        };
        let native = Tried::of(ground.run(host, idmap, None));
        if !native.worked() {
            return Self {
                native,
                ..Self::none("it needs namespaces first")
            };
        }
        if target.is_native_on(host) {
            return Self {
                native,
                ..Self::none("programs of this architecture are the kernel's own")
            };
        }
        let private = match interpreter {
            None => Tried::Not("it needs an emulator first".to_owned()),
            Some(path) => {
                let handler = Binfmt::private(path.to_owned());
                Tried::of(ground.run(target, idmap, Some((target, handler))))
            }
        };
        let host = Tried::of(ground.run(target, idmap, None));
        Self {
            native,
            private,
            host,
        }
    }

    fn none(why: &str) -> Self {
        Self {
            native: Tried::Not(why.to_owned()),
            private: Tried::Not(why.to_owned()),
            host: Tried::Not(why.to_owned()),
        }
    }
}

/// The directories that the plan mounts on.
const SKELETON: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// An empty root on the host, removed when it goes.
#[derive(Debug)]
struct Ground {
    path: PathBuf,
    /// Locked as long as it is in use.
    _lock: OwnedFd,
}

/// What its name begins with.
const PREFIX: &str = "strapline-doctor-";

/// How often another one is made where somebody took it for a dead one's before it was locked.
const ATTEMPTS: usize = 8;

impl Ground {
    /// Makes it where temporary files go, or where there is another place for them: one may be full or not ours.
    fn make() -> Result<Self, Failure> {
        let first = std::env::temp_dir();
        let mut reason = None;
        for place in [&*first, Path::new("/var/tmp"), Path::new("/dev/shm")] {
            match Self::make_in(place) {
                Ok(ground) => return Ok(ground),
                Err(failure) => reason = reason.or(Some(failure)),
            }
        }
        Err(reason.unwrap_or_else(|| Failure::new(Code::Os, "making a temporary directory")))
    }

    fn make_in(place: &Path) -> Result<Self, Failure> {
        let doing = || format!("making a temporary directory in {}", quote(place));
        // A root is opened without following symbolic links.
        let place = place.canonicalize().doing(Code::Os, doing)?;
        // No name that a neighbour could guess and take first; and it is removed by us, directory by directory, never
        // with all that is below it.
        clear(&place);
        let ground = Self::lock_one(&place).doing(Code::Os, doing)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        for name in SKELETON {
            builder
                .create(ground.path.join(name))
                .doing(Code::Os, doing)?;
        }
        Ok(ground)
    }

    /// Makes the directory and locks it, so that nobody takes it for a dead one's.
    fn lock_one(place: &Path) -> std::io::Result<Self> {
        for _ in 0..ATTEMPTS {
            // It removes itself but for the last line.
            let temporary = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
            let Ok(directory) = open(temporary.path()) else {
                continue;
            };
            let locked = flock(&directory, FlockOperation::NonBlockingLockExclusive);
            let named = statat(CWD, temporary.path(), AtFlags::SYMLINK_NOFOLLOW);
            if locked.is_ok() && named?.st_ino == fstat(&directory)?.st_ino {
                return Ok(Self {
                    path: temporary.keep(),
                    _lock: directory,
                });
            }
        }
        Err(Errno::BUSY.into())
    }

    fn run(
        &self,
        arch: Arch,
        idmap: &Option<IdMap>,
        handler: Option<(Arch, Binfmt)>,
    ) -> Result<(), Failure> {
        let root = Root::open(&self.path)?;
        Inside::new(root, plan::api(idmap.is_some()), idmap.clone(), handler)?.probe(arch)
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// Removes what a doctor of ours left that was killed: nobody holds its lock. Only empty directories go; what cannot be removed
/// stays, as it keeps nobody from anything.
fn clear(place: &Path) {
    for entry in read_dir(place).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(directory) = open(&entry.path()) else {
            continue;
        };
        let me = rustix::process::geteuid().as_raw();
        if fstat(&directory).is_ok_and(|stat| stat.st_uid == me)
            && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            for name in SKELETON {
                unlinkat(&directory, name, AtFlags::REMOVEDIR).unwrap_or(());
            }
            remove_dir(entry.path()).unwrap_or(());
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Nothing was written in it but on mounts that are gone: what cannot be removed is not there, or a disk failed.
        // Then once more, and after that it is for the next doctor.
        for _ in 0..2 {
            for name in SKELETON {
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
    fn what_a_killed_one_left_goes_and_what_is_in_use_stays() {
        let place = tempfile::tempdir().unwrap();
        let names = || {
            let entries = read_dir(place.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
            names.sort();
            names
        };
        let in_use = Ground::make_in(place.path()).unwrap();
        let left = place.path().join("strapline-doctor-killed");
        for name in SKELETON {
            std::fs::create_dir_all(left.join(name)).unwrap();
        }
        let others = place.path().join("strapline-doctor-with-a-file");
        std::fs::create_dir(&others).unwrap();
        std::fs::write(others.join("file"), "").unwrap();
        clear(place.path());
        let mut expected = vec![in_use.path.canonicalize().unwrap(), others.clone()];
        expected.sort();
        assert_eq!(names(), expected);
        drop(in_use);
        assert_eq!(names(), [others]);
    }
}
