//! What stands in for the mounts where nothing can be mounted, in mode `chroot`.
//!
//! While programs of the root run, the few device nodes that they need are in the root's own `/dev`. Afterwards these and all
//! else that appeared in the places of the API file systems is removed, as it would be gone with mounts: `/dev`, `/run`, `/tmp`,
//! `/proc` and `/sys` are then as they were, and no image gets a device node or a left-over socket, but for what a program makes below a directory
//! that was there before.
//!
//! What was there before is recorded in the root's `/dev` before anything is made, and the record is removed last. So where all
//! of it was killed, the next tool knows what to remove. A lock on the root's `/dev` keeps two tools from removing what the
//! other one needs.

use crate::plan::{self, Mount};
use crate::root::{BENEATH, Root, open_below, read};
use crate::{hold, occupants, remove};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, major, makedev, minor, mkdirat,
    mknodat, openat, openat2, renameat, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::process::umask;
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where [`RECORD`] and the device nodes are.
const DEV: &str = "dev";

/// What was there before: each as `PLACE/NAME`, with a zero byte behind it.
const RECORD: &str = ".strapline-before";

/// The record, before it is complete.
const DRAFT: &str = ".strapline-before.new";

/// The longest record that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The numbers of device nodes (Documentation/admin-guide/devices.txt).
const NUMBERS: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// How many processes a message names.
const NAMED: usize = 3;

/// A lock, and what is removed at the end.
#[derive(Debug)]
pub(crate) struct StandIns {
    path: PathBuf,
    root: OwnedFd,
    /// The root's `/dev`, locked.
    dev: OwnedFd,
    before: BTreeSet<Vec<u8>>,
}

impl StandIns {
    /// Locks the root's `/dev`, records what is there, and makes the nodes of the plan.
    ///
    /// # Errors
    ///
    /// [`Code::Busy`] where another tool is in the root, [`Code::Permission`] where no node can be made or opened. Nothing
    /// is left then.
    pub(crate) fn make(root: BorrowedFd<'_>, path: &Path, mounts: &[Mount]) -> Result<Self, Failure> {
        let dev = lock(root, path, FlockOperation::NonBlockingLockExclusive)?;
        if is_left(root) {
            // The init that left it may have been ending when the tool looked.
            refuse_living(&Root::open(path)?)?;
        }
        let this = Self::locked(root, path, dev)?;
        let nodes = mounts.iter().filter(|mount| mount.at == DEV).flat_map(|mount| &mount.nodes);
        let made = this.write_record().and_then(|()| this.fill_dev(nodes));
        match made {
            Ok(()) => Ok(this),
            Err(failure) => {
                // The first failure is the one to report; the next tool tries again to remove what is left.
                this.remove().unwrap_or(());
                Err(failure)
            }
        }
    }

    /// Reads what was there before a tool that was killed, or else what is there now.
    fn locked(root: BorrowedFd<'_>, path: &Path, dev: OwnedFd) -> Result<Self, Failure> {
        let doing = || format!("reading {}", quote(path.join(DEV)));
        let root = root.try_clone_to_owned().doing(Code::Os, doing)?;
        let mut this = Self { path: path.to_owned(), root, dev, before: BTreeSet::new() };
        match read(this.dev.as_fd(), RECORD, LIMIT) {
            Ok(text) => this.before = text.split(|b| *b == 0).filter(|p| !p.is_empty()).map(<[u8]>::to_vec).collect(),
            Err(Errno::NOENT) => this.before = this.list()?.into_iter().map(|(_, name)| name).collect(),
            Err(e) => return Err(e).doing(Code::Failed, || format!("reading {}", quote(path.join(DEV).join(RECORD)))),
        }
        Ok(this)
    }

    /// Lists what is in all places, each as `PLACE/NAME` and with its place.
    fn list(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        let mut list = Vec::new();
        for place in PLACES {
            let doing = || format!("reading {}", quote(self.path.join(place)));
            let Some(directory) = self.open(place)? else { continue };
            for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
                let entry = entry.doing(Code::Os, doing)?;
                let name = entry.file_name().to_bytes();
                let ours = place == DEV && [RECORD.as_bytes(), DRAFT.as_bytes()].contains(&name);
                if !ours && !matches!(name, b"." | b"..") {
                    list.push((place, [place.as_bytes(), b"/", name].concat()));
                }
            }
        }
        Ok(list)
    }

    /// Opens a place; `None` where the root has none.
    fn open(&self, place: &str) -> Result<Option<OwnedFd>, Failure> {
        match open_here(self.root.as_fd(), place, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(Some).map_err(|e| explain_place(&self.path.join(place), e)),
        }
    }

    fn write_record(&self) -> Result<(), Failure> {
        let text: Vec<u8> = self.before.iter().flat_map(|name| [&name[..], b"\0"].concat()).collect();
        // What has that name by now may be anything that a root brings, a device node among them.
        self.remove_own(c".strapline-before.new")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = || -> std::io::Result<()> {
            let mut file = File::from(openat(&self.dev, DRAFT, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&text)?;
            file.sync_all()?;
            Ok(renameat(&self.dev, DRAFT, &self.dev, RECORD)?)
        };
        write().doing(Code::Failed, || format!("writing {}", quote(self.path.join(DEV).join(RECORD))))
    }

    /// Makes the nodes, and the links and directories that are beside them.
    fn fill_dev<'a>(&self, nodes: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
        // The modes are those that are asked for.
        let before = umask(Mode::empty());
        let exists = |result| if result == Err(Errno::EXIST) { Ok(()) } else { result };
        let fill = || {
            for node in nodes {
                let path = self.path.join(DEV).join(node);
                make_node(self.dev.as_fd(), node).map_err(|e| explain_node(&path, e))?;
            }
            plan::LINKS
                .iter()
                .try_for_each(|(name, target)| exists(symlinkat(*target, &self.dev, *name)))
                .and_then(|()| exists(mkdirat(&self.dev, "shm", Mode::from_raw_mode(0o1777))))
                .doing(Code::Failed, || format!("filling {}", quote(self.path.join(DEV))))
        };
        let filled = fill();
        umask(before);
        filled
    }

    /// Removes what was not there before, and checks that nothing of it is left.
    ///
    /// # Errors
    ///
    /// At the first entry that cannot be removed; [`Code::Busy`] where something still makes new ones.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        for (place, entry) in self.appeared()? {
            let name = entry.get(place.len() + 1..).unwrap_or_default();
            let name = CString::new(name).doing(Code::Os, || "reading a directory")?;
            if let Some(directory) = self.open(place)? {
                remove::entry(&directory, &name, &self.path.join(OsStr::from_bytes(&entry)))?;
            }
        }
        if let Some((_, entry)) = self.appeared()?.first() {
            let path = self.path.join(OsStr::from_bytes(entry));
            return Err(Failure::new(Code::Busy, format!("deleting {}: it is made again", quote(path)))
                .hint(format!("end what makes it with 'reap {}'", self.path.display())));
        }
        self.remove_own(c".strapline-before.new")?;
        self.remove_own(c".strapline-before")
    }

    /// Removes [`DRAFT`] or [`RECORD`], whatever it is.
    fn remove_own(&self, name: &CStr) -> Result<(), Failure> {
        let path = self.path.join(DEV).join(OsStr::from_bytes(name.to_bytes()));
        match statat(&self.dev, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).doing(Code::Os, || format!("deleting {}", quote(&path))),
            Ok(_) => remove::entry(&self.dev, name, &path),
        }
    }

    /// Returns what is there now and was not before.
    fn appeared(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        let mut list = self.list()?;
        list.retain(|(_, entry)| !self.before.contains(entry));
        Ok(list)
    }
}

/// The places of the API file systems.
const PLACES: [&str; 5] = ["proc", "sys", DEV, "run", "tmp"];

/// Takes the lock for a tool that reads the root and runs nothing in it: until this is dropped, no device nodes are there.
///
/// # Errors
///
/// [`Code::Busy`] where another tool runs programs in it.
pub(crate) fn share(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    lock(root, path, FlockOperation::NonBlockingLockShared)
}

/// Opens what is in the root and on its own file system: what is mounted there is somebody else's, and nothing of it is removed.
fn open_here(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH | ResolveFlags::NO_XDEV)
}

fn lock(root: BorrowedFd<'_>, path: &Path, operation: FlockOperation) -> Result<OwnedFd, Failure> {
    let at = path.join(DEV);
    let dev = open_here(root, DEV, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| explain_place(&at, e))?;
    match flock(&dev, operation) {
        Ok(()) => Ok(dev),
        Err(Errno::WOULDBLOCK) => {
            let who = hold::describe_holders(&dev);
            Err(Failure::new(Code::Busy, format!("entering {}: in use by {who}", quote(path)))
                .hint("in mode chroot a root has one tool at a time: wait until that has ended, and try again"))
        }
        Err(e) => Err(e).doing(Code::Os, || format!("locking {}", quote(at))),
    }
}

/// Removes what tools left in the root that were killed with everything that they ran, if there is something.
///
/// # Errors
///
/// [`Code::Busy`] where a process lives in the root; when something cannot be removed.
pub fn remove_left(root: &Root) -> Result<(), Failure> {
    if !is_left(root.as_fd()) {
        return Ok(());
    }
    // Else a tool is in the root now, and removes it.
    let Ok(dev) = lock(root.as_fd(), root.path(), FlockOperation::NonBlockingLockExclusive) else {
        return Ok(());
    };
    refuse_living(root)?;
    let removed = StandIns::locked(root.as_fd(), root.path(), dev)?.remove();
    removed.map_err(|failure| failure.while_doing(cleaning_up(root)))
}

/// Returns whether there is a record.
fn is_left(root: BorrowedFd<'_>) -> bool {
    open_here(root, &format!("{DEV}/{RECORD}"), OFlags::PATH | OFlags::NOFOLLOW).is_ok()
}

fn cleaning_up(root: &Root) -> String {
    format!("cleaning up {} after a tool that was killed", quote(root.path()))
}

/// Fails where a process lives in the root: what it needs is not removed.
fn refuse_living(root: &Root) -> Result<(), Failure> {
    let scan = occupants::find(root.path(), root.id()?)?;
    if scan.living().next().is_none() {
        return Ok(());
    }
    let names: Vec<_> = scan.living().map(|occupant| format!("{occupant} lives there")).collect();
    let names = occupants::shorten(names.into_iter(), NAMED);
    Err(Failure::new(Code::Busy, format!("{}: {names}", cleaning_up(root)))
        .hint(format!("end it with 'reap {}', and try again", root.path().display())))
}

/// Makes a node, if it is not there, and checks that it is that device and can be opened.
fn make_node(dev: BorrowedFd<'_>, node: &str) -> Result<(), Errno> {
    let (_, major_number, minor_number) = NUMBERS.into_iter().find(|(name, ..)| *name == node).ok_or(Errno::INVAL)?;
    let device = makedev(major_number, minor_number);
    match mknodat(dev, node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let stat = fstat(open_below(dev, node, OFlags::PATH | OFlags::NOFOLLOW)?)?;
    let is = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (major_number, minor_number);
    if !is {
        return Err(Errno::EXIST);
    }
    match open_below(dev, node, OFlags::RDONLY | OFlags::NOCTTY) {
        // Without a controlling terminal there is nothing behind /dev/tty.
        Ok(_) | Err(Errno::NXIO) => Ok(()),
        Err(e) => Err(e),
    }
}

fn explain_node(path: &Path, error: Errno) -> Failure {
    let doing = format!("making the device node {}", quote(path));
    match error {
        Errno::PERM => Failure::system(Code::Permission, doing, error)
            .hint("this needs the capability MKNOD, which docker gives and podman does not: --cap-add MKNOD"),
        Errno::ACCESS => Failure::system(Code::Permission, doing, error)
            .hint("its file system is mounted nodev: choose a directory on another one"),
        Errno::EXIST => Failure::new(Code::Failed, format!("{doing}: there is another file of that name"))
            .hint(format!("remove it: rm {}", path.display())),
        _ => Failure::system(Code::Failed, doing, error),
    }
}

fn explain_place(path: &Path, error: Errno) -> Failure {
    let doing = format!("opening {}", quote(path));
    match error {
        Errno::NOENT => Failure::system(Code::NotFound, doing, error).hint("mkroot makes it"),
        Errno::XDEV => Failure::new(Code::Failed, format!("{doing}: it is a mount point"))
            .hint(format!("unmount it: umount {}", path.display())),
        Errno::LOOP | Errno::NOTDIR => Failure::new(Code::Failed, format!("{doing}: it is not a directory"))
            .hint("remove it: no link is followed out of a root"),
        _ => Failure::system(Code::Os, doing, error),
    }
}

/// The directories for files of one entry, the first that can be used: in memory, if possible.
const SCRATCH: [&CStr; 3] = [c"/dev/shm/strapline-XXXXXX", c"/run/strapline-XXXXXX", c"/tmp/strapline-XXXXXX"];

/// A directory of ours alone, for what would be on a tmpfs of the namespaces. Its path is short.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// When none can be made.
    pub(crate) fn make() -> Result<Self, Failure> {
        let mut tried = Err(nix::errno::Errno::ENOENT);
        for template in SCRATCH {
            tried = nix::unistd::mkdtemp(template);
            if let Ok(path) = tried {
                return Ok(Self(path));
            }
        }
        tried.map(Self).doing(Code::Os, || "making a temporary directory")
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// As [`remove::empty`].
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let doing = || format!("deleting {}", quote(&self.0));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.0, flags, Mode::empty()).doing(Code::Os, doing)?;
        remove::empty(&directory, &self.0, &[])?;
        std::fs::remove_dir(&self.0).doing(Code::Os, doing)
    }
}
