//! The root directory, held by a descriptor, and opening and reading files below it.
//!
//! The contents of a root are not trusted: with a symbolic link at `proc`, mount(8) would mount over the host's `/etc`. So
//! every path below the root is resolved from the descriptor by openat2(2) with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`
//! and `RESOLVE_NO_MAGICLINKS` (Linux 5.6).

use crate::occupants::proc::look_at;
use crate::{hold, identity, kernel};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat};
use rustix::io::Errno;
use stage::members::Identity;
use stage::{Code, Document, Doing, Failure, quote};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Identifies a file as long as its file system is mounted. A document has an [`Identity`], which lasts longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootId {
    /// The device number, as stat(2) has it.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
}

/// A root directory, open.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    /// Our lock, see [`crate::hold`].
    lock: Option<OwnedFd>,
}

/// The hint where QEMU's user mode runs a tool: 7.2 lacks openat2(2), and each has a thread of its own,
/// with which the kernel makes no user namespace.
pub(crate) const NOT_EMULATED: &str = "QEMU's user mode cannot run the tools: use those for this machine's own architecture, which \
    make roots of any, or a virtual machine; without QEMU, use Linux 5.12 or later";

/// How paths below a root are resolved.
pub const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Opens a root directory by its absolute path. No component may be a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] when there is none, [`Code::Usage`] for the root that we run in, also by another name. (In a chroot
    /// no path leads to what is above it.)
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let doing = || format!("opening the root {}", quote(path));
        let fd = openat2(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|e| match e {
            Errno::LOOP => Failure::new(Code::Failed, format!("{}: a part of the path is a symbolic link", doing()))
                .hint("name the directory that it leads to, and run mkroot again"),
            Errno::NOENT | Errno::NOTDIR => {
                Failure::system(Code::NotFound, doing(), e).hint(format!("make it with 'mkroot {}'", path.display()))
            }
            Errno::ACCESS => Failure::system(Code::Permission, doing(), e),
            e => kernel::explain(Failure::system(Code::Os, doing(), e)),
        })?;
        let root = Self { path: path.to_owned(), fd, lock: None };
        if root.id()? == look_at(CWD, "/").doing(Code::Os, || "identifying '/'")?.id {
            return Err(Failure::new(Code::Usage, format!("{}: it is the root that this program runs in", doing())));
        }
        Ok(root)
    }

    /// Opens the root of the document, checks that it is still the same directory, and takes a shared lock on it: until this
    /// is dropped, no tool undoes anything there.
    ///
    /// # Errors
    ///
    /// As [`Root::open`], and [`Code::Failed`] when the path leads to another directory by now.
    pub fn of(document: &Document) -> Result<Self, Failure> {
        Self::without_lock(document)?.shared()
    }

    /// Takes a shared lock: until this is dropped, no tool undoes anything there.
    ///
    /// # Errors
    ///
    /// [`Code::Interrupted`] on a signal while waiting for a tool that undoes.
    pub fn shared(mut self) -> Result<Self, Failure> {
        self.lock = Some(hold::lock(&self, hold::SHARED)?);
        Ok(self)
    }

    /// Takes the exclusive lock, to undo something. The descriptor that is returned holds it, and keeps no mount busy if we
    /// may unmount one.
    ///
    /// # Errors
    ///
    /// [`Code::Busy`] when a tool works on the root.
    pub fn lock_exclusive(&self) -> Result<OwnedFd, Failure> {
        hold::lock(self, hold::EXCLUSIVE)
    }

    /// Opens the root of the document, and checks that it is still the same directory.
    ///
    /// # Errors
    ///
    /// As [`Root::of`].
    pub(crate) fn without_lock(document: &Document) -> Result<Self, Failure> {
        let root = Self::open(document.need_root()?)?;
        if let Some(meant) = document.get::<Identity>()
            && !meant.is(&root.identity()?)
        {
            return Err(root.replaced());
        }
        Ok(root)
    }

    /// Returns the failure of a path that leads to another directory than the document's.
    fn replaced(&self) -> Failure {
        let doing = format!("opening the root {}", quote(&self.path));
        let empty = std::fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        let fail = |why| Failure::new(Code::Failed, format!("{doing}: it is {why} that the document means"));
        if empty {
            return fail("an empty directory, and not the one")
                .hint("mount the file system that the root is on; if it is gone, begin again with mkroot");
        }
        let why = "it was copied, restored or replaced";
        let path = self.path.display();
        fail("not the directory")
            .hint(format!("{why}: 'mkroot {path}' begins a new document for it, and keeps what is installed"))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's id.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] when fstat(2) fails.
    pub fn id(&self) -> Result<RootId, Failure> {
        Ok(look_at(&self.fd, "").doing(Code::Os, || self.identifying())?.id)
    }

    /// Returns the directory's identity, for a document.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] when a system call fails.
    pub fn identity(&self) -> Result<Identity, Failure> {
        identity::of(self.fd.as_fd()).doing(Code::Os, || self.identifying())
    }

    fn identifying(&self) -> String {
        format!("identifying {}", quote(&self.path))
    }

    /// Opens a path below the root, which must not lead out of it nor over a symbolic link.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn open_below(&self, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_below(self.fd.as_fd(), below, flags)
    }

    /// Reads a regular file below the root.
    ///
    /// # Errors
    ///
    /// The system call's, `EINVAL` for anything but a regular file, `EFBIG` for more than `limit` bytes.
    pub fn read(&self, below: &str, limit: u64) -> Result<Vec<u8>, Errno> {
        read(self.fd.as_fd(), below, limit)
    }

    /// Reads the first `length` bytes of a regular file below the root, or all where it is shorter.
    ///
    /// # Errors
    ///
    /// The system call's, `EINVAL` for anything but a regular file.
    pub fn read_start(&self, below: &str, length: u64) -> Result<Vec<u8>, Errno> {
        let mut start = Vec::new();
        let read = regular(self.open_below(below, TO_READ)?)?.take(length).read_to_end(&mut start);
        read.map(|_| start).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a path below the directory `root`; see [`Root::open_below`]. Empty means the directory itself.
///
/// # Errors
///
/// The system call's.
pub fn open_below(root: BorrowedFd<'_>, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if below.is_empty() { "." } else { below };
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

/// Opens a path as a program in the root would: symbolic links are followed, but do not lead out of the root. For reading
/// files of packages, which link to one another; never for writing.
///
/// # Errors
///
/// The system call's.
pub fn open_within(root: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), within)
}

/// Files that are looked at one after the other as by [`open_within`], none of them through a link at its own name. Where several
/// in a row are in one directory, as a package lists them, that is resolved once.
#[derive(Debug)]
pub struct Siblings<'a> {
    root: BorrowedFd<'a>,
    /// The directory of the last one, and its path.
    directory: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Siblings<'a> {
    /// Returns one that has no directory open yet.
    #[must_use]
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, directory: None }
    }

    /// Opens the file at a path that is relative to the root.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn open(&mut self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.parent(path)? {
            Some((directory, name)) => openat(directory, name, flags, Mode::empty()),
            None => open_within(self.root, path, flags),
        }
    }

    /// Returns what the file at a path is.
    ///
    /// # Errors
    ///
    /// As [`Siblings::open`].
    pub fn stat(&mut self, path: &[u8]) -> Result<Stat, Errno> {
        match self.parent(path)? {
            Some((directory, name)) => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW),
            None => open_within(self.root, path, OFlags::PATH | OFlags::NOFOLLOW).and_then(fstat),
        }
    }

    /// Returns the directory of a file, and its name there; `None` where a path has no such name.
    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<Option<(&OwnedFd, &'p [u8])>, Errno> {
        let slash = path.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0);
        let split = slash.map(|slash| (&path[..slash], &path[slash + 1..]));
        let Some((parent, name)) = split.filter(|(_, name)| !matches!(*name, b"" | b"." | b"..")) else {
            return Ok(None);
        };
        let (at, directory) = match self.directory.take().filter(|(at, _)| at == parent) {
            Some(opened) => opened,
            None => (parent.to_vec(), open_within(self.root, parent, OFlags::PATH | OFlags::DIRECTORY)?),
        };
        let (_, directory) = self.directory.insert((at, directory));
        Ok(Some((directory, name)))
    }
}

/// Reads a regular file below `root`; see [`Root::read`].
///
/// # Errors
///
/// As [`Root::read`].
pub fn read(root: BorrowedFd<'_>, below: &str, limit: u64) -> Result<Vec<u8>, Errno> {
    read_regular(open_below(root, below, TO_READ)?, limit)
}

/// Reads a regular file as [`Root::read`] does, at a path that [`open_within`] resolves.
///
/// # Errors
///
/// As [`Root::read`].
pub fn read_within(root: BorrowedFd<'_>, path: &str, limit: u64) -> Result<Vec<u8>, Errno> {
    read_regular(open_within(root, path, TO_READ)?, limit)
}

/// Flags to open a file that may be a FIFO or a device.
const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Reads an open file, as [`Root::read`] does.
fn read_regular(file: OwnedFd, limit: u64) -> Result<Vec<u8>, Errno> {
    stage::file::read_to_limit(regular(file)?, limit).map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => Errno::FBIG,
        _ => Errno::from_io_error(&e).unwrap_or(Errno::IO),
    })
}

/// Returns a file that is opened, where it is a regular one.
fn regular(file: OwnedFd) -> Result<File, Errno> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
        true => Ok(File::from(file)),
        false => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn siblings_are_what_their_paths_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for file in ["top", "a/x", "a/b/x", "a/b/y"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        for (target, link) in [("a/b", "l"), ("/a", "a/b/up"), ("../..", "a/b/out"), ("/etc", "etc"), ("l2", "l2")] {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let root = Root::open(&dir.path().canonicalize().unwrap()).unwrap();
        let mut siblings = Siblings::new(root.as_fd());
        let ino = |file: Result<OwnedFd, Errno>| file.and_then(fstat).map(|stat| stat.st_ino);
        // The last is empty.
        let paths = "top a a/x a/b a/b/x a/b/y a/b/none a/b/. a/b/.. a/b/../x a/b/x/z a/b/x l/x l a/b/up a/b/up/x a/b/out a/b/out/a/x \
                     a/b/out/../top etc etc/passwd l2/x none/x /a/x /top a/b/ .. ";
        for path in paths.split(' ') {
            let expected = ino(open_within(root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW));
            assert_eq!(siblings.stat(path.as_bytes()).map(|stat| stat.st_ino), expected, "{path}");
            assert_eq!(ino(siblings.open(path.as_bytes(), OFlags::PATH)), expected, "{path}");
        }
    }
}
