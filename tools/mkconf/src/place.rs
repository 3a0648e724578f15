//! What mkconf makes on disk: directories and two files, and how they are taken back.
//!
//! Below the root, paths are resolved from its descriptor and over no symbolic link: what is in a root is not ours to
//! trust. Modes are given in full and do not depend on the umask, because pacman never mends a directory that exists.

use rootfs::Root;
use rootfs::file::{Placed, check_owner, check_writable, claim, replace};
use rootfs::root::open_below;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Below the root: what pacman wants to be there, with Arch's modes. pacman 7.1 resolves GPGDir and HookDir with
/// realpath(3) when it reads the file, and fails where one is missing; pacman of any version loses its log without
/// var/log.
pub(crate) const IN_ROOT: [&str; 8] =
    ["etc", "etc/pacman.d", "etc/pacman.d/gnupg", "etc/pacman.d/hooks", "var", "var/lib", "var/lib/pacman", "var/log"];

/// The mode of all of them, and of the others.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// How a directory that was just made is opened, to set its mode.
const NEW: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a file that may be anything is opened to read it.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A pacman.conf is for everybody to read.
const MODE: u32 = 0o644;

/// More than a pacman.conf ever was.
const LONGEST: u64 = 1 << 20;

/// What was made, in order, so that it can be taken back.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<Thing>);

#[derive(Debug)]
enum Thing {
    /// A directory, by its parent and its name.
    Directory(OwnedFd, String),
    /// A file, and what was there before.
    File(Placed, Option<Vec<u8>>),
}

impl Made {
    /// Takes back what was made, last first. A directory that is in use by now stays, and all where another run has made a
    /// file its own; what cannot be taken back does no harm, and this runs when there is an error to report already.
    pub(crate) fn undo(self) {
        for thing in self.0.into_iter().rev() {
            match thing {
                Thing::Directory(parent, name) => {
                    unlinkat(&parent, &name, AtFlags::REMOVEDIR).unwrap_or_default();
                }
                Thing::File(file, before) => match (file.still(), before) {
                    (Ok(Some(_)), None) => file.remove().unwrap_or_default(),
                    (Ok(Some((parent, name))), Some(before)) => {
                        replace(parent, &name.to_string_lossy(), &before, MODE, None).unwrap_or_default();
                    }
                    _ => return,
                },
            }
        }
    }

    /// Makes the directories below the root that are not there.
    ///
    /// # Errors
    ///
    /// When one cannot be made, or leads out of the root.
    pub(crate) fn in_root(&mut self, root: &Root) -> Result<(), Failure> {
        let owner = fstat(root).doing(Code::Os, || format!("reading the owner of {}", quote(root.path())))?;
        for below in IN_ROOT {
            let at = root.path().join(below);
            let (parent, name) = below.rsplit_once('/').unwrap_or(("", below));
            let directory = OFlags::RDONLY | OFlags::DIRECTORY;
            let parent = root.open_below(parent, directory).map_err(|error| refused("opening", &at, error))?;
            match mkdirat(&parent, name, DIRECTORY) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    // There, but is it a directory, and not a link to one?
                    open_below(parent.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY)
                        .map_err(|error| refused("opening", &at, error))?;
                    continue;
                }
                Err(error) => return Err(refused("making the directory", &at, error)),
            }
            let made = open_below(parent.as_fd(), name, directory);
            self.0.push(Thing::Directory(parent, name.to_owned()));
            let made = made.map_err(|error| refused("opening", &at, error))?;
            fchmod(&made, DIRECTORY).map_err(|error| refused("setting the mode of", &at, error))?;
            // Who makes a user's root as root must not leave directories in it that the user's root does not own.
            let is = fstat(&made).map_err(|error| refused("reading the owner of", &at, error))?;
            if (is.st_uid, is.st_gid) != (owner.st_uid, owner.st_gid) {
                let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
                fchown(&made, Some(uid), Some(gid))
                    .map_err(|error| refused("giving to the root's owner", &at, error))?;
            }
        }
        Ok(())
    }

    /// Makes a directory outside of the root, and what leads to it, and opens it.
    ///
    /// # Errors
    ///
    /// When it cannot be made or is no directory.
    pub(crate) fn directory(&mut self, path: &Path, option: &str) -> Result<OwnedFd, Failure> {
        let failed = |at: &Path, error| {
            refused("making the directory", at, error).hint(format!("give another place with {option} DIR"))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = PathBuf::from("/");
        let mut here = open("/", flags, Mode::empty()).map_err(|error| failed(&at, error))?;
        for part in path.components().skip(1) {
            let name = part.as_os_str().to_string_lossy().into_owned();
            at.push(&name);
            // The last part must be the directory itself: a link that someone else put there leads elsewhere.
            let flags = if at == path { flags | OFlags::NOFOLLOW } else { flags };
            let next = match openat(&here, &name, flags, Mode::empty()) {
                Err(Errno::NOENT) => match mkdirat(&here, &name, DIRECTORY) {
                    Ok(()) => {
                        let next = openat(&here, &name, NEW, Mode::empty())
                            .and_then(|new| fchmod(&new, DIRECTORY).map(|()| new));
                        self.0.push(Thing::Directory(here, name));
                        next
                    }
                    // Another run with the same cache made it since: it is that run's to remove.
                    Err(Errno::EXIST) => openat(&here, &name, flags, Mode::empty()),
                    Err(error) => Err(error),
                },
                next => next,
            };
            here = next.map_err(|error| failed(&at, error))?;
        }
        Ok(here)
    }

    /// Writes a file whole: a reader sees what was there before, or all of the new. What is the same already stays, and is this
    /// run's, too: no other that undoes takes it away.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn file(&mut self, directory: &OwnedFd, path: &Path, text: &str) -> Result<(), Failure> {
        let doing = || format!("writing {}", quote(path));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = read(directory, &name).doing(Code::Os, || format!("reading {}", quote(path)))?;
        if before.as_deref() == Some(text.as_bytes()) {
            return openat(directory, &name, READ, Mode::empty()).and_then(claim).doing(Code::Os, doing);
        }
        let parent = directory.try_clone().doing(Code::Os, doing)?;
        replace(directory.as_fd(), &name, text.as_bytes(), MODE, None).doing(Code::Os, doing)?;
        let file = Placed::of(parent, name).doing(Code::Os, doing)?;
        self.0.push(Thing::File(file, before));
        Ok(())
    }
}

/// Refuses a directory in which another user could replace what we write there or what pacman takes from there: pacman,
/// which may run as root, believes it.
///
/// # Errors
///
/// As [`rootfs::file::check_owner`], with the option that names another.
pub(crate) fn ours(directory: &OwnedFd, path: &Path, option: &str) -> Result<(), Failure> {
    check_owner(directory.as_fd(), path)
        .and_then(|()| check_writable(directory.as_fd(), path))
        .map_err(|failure| failure.hint(format!("give a directory of your own with {option} DIR")))
}

/// Refuses a package cache to which anyone may write: between the look at a signature and the unpacking, the owner of an
/// archive could put something else in it. That the directory is sticky changes nothing, since what lies there already may
/// be anyone's.
///
/// # Errors
///
/// [`Code::Permission`] where anyone may write there.
pub(crate) fn closed(cache: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let stat = fstat(cache).doing(Code::Os, || format!("reading the mode of {}", quote(path)))?;
    if !Mode::from_raw_mode(stat.st_mode & 0o7777).contains(Mode::WOTH) {
        return Ok(());
    }
    Err(Failure::new(Code::Permission, format!("using the package cache {}: anyone may write to it", quote(path)))
        .hint(format!("run 'chmod o-w {}', or give another place with --cache-dir DIR", path.display())))
}

fn refused(doing: &str, at: &Path, error: Errno) -> Failure {
    let message = format!("{doing} {}: {error}", quote(at));
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Failure::new(Code::Failed, message)
            .hint("a part of it is a symbolic link or no directory: it is not followed"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Failure::new(Code::Permission, message),
        _ => Failure::new(Code::Os, message),
    }
}

fn read(directory: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    match rootfs::root::read(directory.as_fd(), name, LONGEST) {
        Ok(text) => Ok(Some(text)),
        // Anything but a regular file is replaced, not followed and not kept.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::INVAL | Errno::FBIG) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Barrier;

    use super::{Made, Thing};

    /// Two runs begin at once with a cache that is not there: both get it, and one of them made it.
    #[test]
    fn two_runs_make_the_same_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let together = Barrier::new(2);
        for round in 0..500 {
            let path = scratch.path().join(format!("{round}/packages"));
            let run = || {
                let mut made = Made::default();
                together.wait();
                let directory = made.directory(&path, "--cache-dir").unwrap();
                let inode = rustix::fs::fstat(directory.as_fd()).unwrap().st_ino;
                let packages =
                    made.0.iter().filter(|thing| matches!(thing, Thing::Directory(_, name) if name == "packages"));
                (inode, packages.count())
            };
            let (a, b) = std::thread::scope(|scope| {
                let other = scope.spawn(run);
                (run(), other.join().unwrap())
            });
            assert_eq!(a.0, b.0, "the same directory");
            assert_eq!(a.1 + b.1, 1, "made once");
        }
    }
}
