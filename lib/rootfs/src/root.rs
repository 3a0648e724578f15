//! The root directory, held by a descriptor, and paths below it that never leave it.
//!
//! What a root contains is not ours to trust: a symlink at `proc` made mount(8) mount over the host's `/etc`. So every
//! path below the root is resolved by openat2(2) with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_MAGICLINKS` (Linux 5.6), from the descriptor, never from the string.

use crate::hold::{self, Want};
use crate::identity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::members::Identity;
use stage::{Code, Document, Failure, quote};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Which file it is among those that there are now. The device number does not outlive a mount: for a document there is
/// [`Identity`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
    /// Our share of the lock, see [`crate::hold`].
    lock: Option<OwnedFd>,
}

/// How paths below a root are resolved.
pub const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    /// Opens a root directory by its absolute path. No component may be a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where there is none, [`Code::Usage`] where it is the root that we run in, also by another name.
    /// (In a chroot no path leads to what is above it.)
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
            Errno::LOOP => Failure::new(
                Code::Failed,
                format!("{}: a part of the path is a symbolic link", doing()),
            )
            .hint("name the directory that it leads to, and run mkroot again"),
            Errno::NOENT | Errno::NOTDIR => {
                Failure::new(Code::NotFound, format!("{}: {e}", doing()))
                    .hint(format!("make it with 'mkroot {}'", path.display()))
            }
            Errno::ACCESS => Failure::new(Code::Permission, format!("{}: {e}", doing())),
            e => Failure::new(Code::Os, format!("{}: {e}", doing())),
        })?;
        let root = Self {
            path: path.to_owned(),
            fd,
            lock: None,
        };
        if root.id()? == id_of_host()? {
            return Err(Failure::new(
                Code::Usage,
                format!("{}: it is the root that this program runs in", doing()),
            ));
        }
        Ok(root)
    }

    /// Opens the root that the document means, checks that it is still the same directory, and holds a share of its lock:
    /// until this is dropped, nobody undoes anything there.
    ///
    /// # Errors
    ///
    /// As [`Root::open`], and [`Code::Failed`] where the path means another directory by now.
    pub fn of(document: &Document) -> Result<Self, Failure> {
        Self::meant(document)?.shared()
    }

    /// Holds a share of the lock from now on: nobody undoes anything there.
    ///
    /// # Errors
    ///
    /// [`Code::Interrupted`] on a signal while somebody undoes.
    pub fn shared(mut self) -> Result<Self, Failure> {
        self.lock = Some(hold::take(&self, Want::Share)?);
        Ok(self)
    }

    /// Takes the lock to undo. What is returned holds it, and keeps no mount busy for who may unmount one.
    ///
    /// # Errors
    ///
    /// [`Code::Busy`] where a tool works on the root.
    pub fn lock_alone(&self) -> Result<OwnedFd, Failure> {
        hold::take(self, Want::Alone)
    }

    /// Opens the root that the document means, and checks that it is still the same directory.
    ///
    /// # Errors
    ///
    /// As [`Root::of`].
    pub(crate) fn meant(document: &Document) -> Result<Self, Failure> {
        let root = Self::open(document.need_root()?)?;
        if let Some(meant) = document.get::<Identity>()
            && !meant.is(&root.identity()?)
        {
            return Err(root.another());
        }
        Ok(root)
    }

    /// Returns the failure of a path that means another directory than the document does.
    fn another(&self) -> Failure {
        let doing = format!("opening the root {}", quote(&self.path));
        let empty = std::fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        if empty {
            return Failure::new(
                Code::Failed,
                format!("{doing}: it is an empty directory, and not the one that the document means"),
            )
            .hint("mount the file system that the root is on; where there is none any more, begin again with mkroot");
        }
        Failure::new(
            Code::Failed,
            format!("{doing}: it is not the directory that the document means"),
        )
        .hint(format!(
            "it was copied, restored or replaced: 'mkroot {}' begins a new document for it, and keeps what is installed",
            self.path.display()
        ))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's identity.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] when fstat(2) fails.
    pub fn id(&self) -> Result<RootId, Failure> {
        identity(self.fd.as_fd(), "").map_err(|e| {
            Failure::new(
                Code::Os,
                format!("reading what {} is: {e}", quote(&self.path)),
            )
        })
    }

    /// Returns what tells the directory from all others, for a document.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] when a system call fails.
    pub fn identity(&self) -> Result<Identity, Failure> {
        identity::of(self.fd.as_fd()).map_err(|e| {
            Failure::new(
                Code::Os,
                format!("reading what {} is: {e}", quote(&self.path)),
            )
        })
    }

    /// Opens what is at `below`, which must not lead out of the root nor over a symbolic link.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn open_below(&self, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_below(self.fd.as_fd(), below, flags)
    }

    /// Reads a regular file below the root, at most `limit` bytes of it. A fifo or a device that lies in its place is
    /// refused, not opened.
    ///
    /// # Errors
    ///
    /// The system call's, `EINVAL` for what is no regular file, `EFBIG` for what is too long.
    pub fn read(&self, below: &str, limit: u64) -> Result<Vec<u8>, Errno> {
        read(self.fd.as_fd(), below, limit)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens what is at `below` the directory `root`; see [`Root::open_below`]. Empty means the directory itself.
///
/// # Errors
///
/// The system call's.
pub fn open_below(root: BorrowedFd<'_>, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if below.is_empty() { "." } else { below };
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

/// Opens what is at `path` as a program in the root would find it: symbolic links are followed, and lead no further than
/// the root. For looking at what packages brought, which link to one another; never for what is written.
///
/// # Errors
///
/// The system call's.
pub fn open_within(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), within)
}

/// Reads a regular file below `root`; see [`Root::read`].
///
/// # Errors
///
/// As [`Root::read`].
pub fn read(root: BorrowedFd<'_>, below: &str, limit: u64) -> Result<Vec<u8>, Errno> {
    read_file(open_below(root, below, READ)?, limit)
}

/// Reads a regular file as [`Root::read`] does, at a path that [`open_within`] resolves.
///
/// # Errors
///
/// As [`Root::read`].
pub fn read_within(root: BorrowedFd<'_>, path: &str, limit: u64) -> Result<Vec<u8>, Errno> {
    read_file(open_within(root, path, READ)?, limit)
}

/// How a file is opened that may be a fifo or a device: without waiting for anybody.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

fn read_file(file: OwnedFd, limit: u64) -> Result<Vec<u8>, Errno> {
    use std::io::Read;
    let stat = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Errno::INVAL);
    }
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if text.len() as u64 > limit {
        return Err(Errno::FBIG);
    }
    Ok(text)
}

fn identity(fd: BorrowedFd<'_>, path: &str) -> Result<RootId, Errno> {
    let stat = statat(fd, path, AtFlags::EMPTY_PATH)?;
    Ok(RootId {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

fn id_of_host() -> Result<RootId, Failure> {
    identity(CWD, "/").map_err(|e| Failure::new(Code::Os, format!("reading what '/' is: {e}")))
}
