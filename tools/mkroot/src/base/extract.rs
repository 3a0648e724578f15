//! Unpacking an archive into an empty directory, inside, where owners are the root's own also for an ordinary user.
//!
//! What an archive says is hostile. Each name is opened beneath the root, over no symbolic link ([`rootfs::root`]), and nothing
//! that is there is replaced: a member with the name of another one is refused.

use image::{acl, attribute};
use package::digest::Sha256Reader;
use package::member::{self, Kind, Member, Piece};
use rootfs::Root;
use rootfs::root::BENEATH;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, lsetxattr, mkdirat, mknodat, openat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Code, Doing, Failure, Progress, quote, signal};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read at a time, in bytes.
const BUFFER: usize = 1 << 18;

/// How many zeros are a hole, at least: a block of most file systems.
const SHORTEST_HOLE: usize = 4096;

/// The longest value that the kernel takes (`XATTR_SIZE_MAX`).
const LONGEST_ATTRIBUTE: usize = 1 << 16;

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// What is unpacked.
pub(crate) struct Extract<'a> {
    pub(crate) archive: &'a File,
    /// Its path, for messages.
    pub(crate) path: &'a Path,
    /// The directory of the archive that is the root; empty for its top.
    pub(crate) prefix: &'a [u8],
    pub(crate) progress: &'a Progress,
}

/// What was unpacked.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Extracted {
    /// The SHA-256 of the archive, in hex.
    pub(crate) sha256: String,
    /// How many members.
    pub(crate) entries: u64,
    /// How many device nodes were left out.
    pub(crate) devices: u64,
    /// The mode of the root itself.
    pub(crate) mode: u32,
    /// A directory of the archive that looks like the root, where its top does not.
    pub(crate) other_root: Option<String>,
}

impl Extract<'_> {
    /// Unpacks all of it.
    ///
    /// # Errors
    ///
    /// At the first member that is refused or cannot be made; when the archive cannot be read or ends early.
    pub(crate) fn unpack_to(&self, root: &Root) -> Result<Extracted, Failure> {
        let doing = || format!("unpacking {}", quote(self.path));
        let top = root.open_below("", DIRECTORY).doing(Code::Os, doing)?;
        // What a set-gid directory and a default ACL above it gave it.
        fchown(&top, Some(Uid::ROOT), Some(Gid::ROOT)).doing(Code::Os, doing)?;
        crate::skeleton::remove_attributes(&top).doing(Code::Os, doing)?;
        let mut archive = self.archive;
        archive.seek(SeekFrom::Start(0)).doing(Code::Os, doing)?;
        let mut reader = Sha256Reader::new(Counted { inner: archive, progress: self.progress });
        let mut writer = Writer {
            root: top.as_fd(),
            above: (Vec::new(), top.try_clone().doing(Code::Os, doing)?),
            directories: BTreeMap::new(),
            buffer: vec![0; BUFFER],
            done: Extracted { mode: 0o755, ..Extracted::default() },
        };
        let mut failure = None;
        let walked = member::walk(&mut reader, |member, data| {
            let shown = String::from_utf8_lossy(&member.path).into_owned();
            let made = signal::check().and_then(|()| writer.member(member, self.prefix, data));
            match made {
                Ok(()) => ControlFlow::Continue(()),
                Err(f) => {
                    failure = Some(f.while_doing(format!("{}: member {}", doing(), quote(shown))));
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        walked.map_err(|e| Failure::new(Code::Failed, format!("{}: {e}", doing())))?;
        reader.drain().doing(Code::Os, doing)?;
        writer.finish_directories().map_err(|f| f.while_doing(doing()))?;
        if openat2(top.as_fd(), "usr", OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), BENEATH).is_ok() {
            writer.done.other_root = None;
        }
        Ok(Extracted { sha256: reader.finish(), ..writer.done })
    }
}

/// Shows how much of the archive is through.
pub(super) struct Counted<'a> {
    pub(super) inner: &'a File,
    pub(super) progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

struct Writer<'a> {
    root: BorrowedFd<'a>,
    /// The directory that the last member was in.
    above: (Vec<u8>, OwnedFd),
    /// The directories so far: their times change with what is made in them, which would get their default ACL. They have no
    /// other attributes here.
    directories: BTreeMap<Vec<u8>, Member>,
    buffer: Vec<u8>,
    done: Extracted,
}

impl Writer<'_> {
    fn member(&mut self, mut member: Member, prefix: &[u8], data: &mut dyn Read) -> Result<(), Failure> {
        if let Some(name) = member.path.strip_suffix(b"/usr").filter(|name| prefix.is_empty() && !name.contains(&b'/'))
        {
            self.done.other_root = Some(String::from_utf8_lossy(name).into_owned());
        }
        let Some(path) = below(&member.path, prefix) else { return Ok(()) };
        member.path = path;
        if let Kind::HardLink(target) = &member.kind {
            let target = below(target, prefix).ok_or_else(|| refused("a hard link to what is not in the root"))?;
            member.kind = Kind::HardLink(target);
        }
        if member.kind == Kind::Device {
            if !member.path.starts_with(b"dev/") {
                return Err(refused("a device node that is not below 'dev'"));
            }
            self.done.devices += 1;
            return Ok(());
        }
        self.attributes(&mut member)?;
        self.done.entries += 1;
        self.make(member, data)
    }

    /// Leaves of the extended attributes those that are the root's, with ACLs as the kernel takes them.
    fn attributes(&self, member: &mut Member) -> Result<(), Failure> {
        member.xattrs.retain(|name, _| attribute::is_kept(name));
        if member.xattrs.iter().any(|(name, value)| attribute::is_of_a_namespace(name, value)) {
            return Err(refused("it has file capabilities of another user namespace"));
        }
        for (name, text) in std::mem::take(&mut member.acls) {
            let value = acl::value(&text).ok_or_else(|| {
                refused("its access control list has a name without a number, or makes no sense")
                    .hint("write the archive with --numeric-owner")
            })?;
            member.xattrs.insert(name.as_bytes().to_vec(), value);
        }
        if member.xattrs.values().any(|value| value.len() > LONGEST_ATTRIBUTE) {
            return Err(refused("it has an extended attribute that is longer than 65536 bytes"));
        }
        Ok(())
    }

    fn make(&mut self, member: Member, data: &mut dyn Read) -> Result<(), Failure> {
        if member.path.is_empty() && (member.kind != Kind::Directory || (member.uid, member.gid) != (0, 0)) {
            return Err(refused("the root is no directory of user 0 and group 0"));
        }
        if member.kind == Kind::Directory {
            return self.directory(member).map_err(explain);
        }
        let (above, name) = split(&member.path);
        self.enter(above).map_err(explain)?;
        let parent = self.above.1.as_fd();
        let result = match &member.kind {
            Kind::File(size, pieces) => return file(parent, name, &member, *size, pieces, data, &mut self.buffer),
            Kind::HardLink(target) => self.link(target, name),
            Kind::Symlink(target) => {
                symlinkat(target.as_slice(), parent, name).and_then(|()| named(parent, name, &member))
            }
            // mknod(2) heeds the umask, and `named` sets the mode.
            _ => mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .and_then(|()| named(parent, name, &member)),
        };
        result.map_err(explain)
    }

    /// Opens the directory at a path, which is made where the archive does not have it.
    fn enter(&mut self, path: &[u8]) -> Result<(), Errno> {
        if self.above.0 == path {
            return Ok(());
        }
        let fd = match open(self.root, path, DIRECTORY) {
            Err(Errno::NOENT) => {
                let (above, name) = split(path);
                self.enter(above)?;
                mkdirat(&self.above.1, name, Mode::RWXU)?;
                let fd = open(self.above.1.as_fd(), name, DIRECTORY)?;
                own(fd.as_fd(), 0, 0, 0o755)?;
                fd
            }
            fd => fd?,
        };
        self.above = (path.to_vec(), fd);
        Ok(())
    }

    /// Makes a directory, or sets what a member says of one that is there.
    fn directory(&mut self, mut member: Member) -> Result<(), Errno> {
        let fd = if member.path.is_empty() {
            // Its mode stays so that nobody else comes in before it is whole.
            self.done.mode = member.mode;
            open(self.root, b"", DIRECTORY)?
        } else {
            let (above, name) = split(&member.path);
            self.enter(above)?;
            match mkdirat(&self.above.1, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            let fd = open(self.above.1.as_fd(), name, DIRECTORY)?;
            own(fd.as_fd(), member.uid, member.gid, member.mode)?;
            fd
        };
        let later = member.xattrs.remove_entry(DEFAULT_ACL);
        set_attributes(fd.as_fd(), &member)?;
        member.xattrs = later.into_iter().collect();
        self.directories.insert(member.path.clone(), member);
        Ok(())
    }

    /// Gives the file at `target` the name `name` in the directory of the last member.
    fn link(&mut self, target: &[u8], name: &[u8]) -> Result<(), Errno> {
        let (above, last) = split(target);
        let from = open(self.root, above, DIRECTORY)?;
        // A symbolic link is not followed, and a directory is refused by the kernel.
        linkat(&from, last, &self.above.1, name, AtFlags::empty())
    }

    /// Sets the attributes and the times of the directories, the innermost first.
    fn finish_directories(&mut self) -> Result<(), Failure> {
        for (path, member) in std::mem::take(&mut self.directories).into_iter().rev() {
            let fd = open(self.root, &path, DIRECTORY).and_then(|fd| {
                set_attributes(fd.as_fd(), &member)?;
                futimens(&fd, &times(&member))
            });
            fd.map_err(|e| explain(e).while_doing(format!("member {}", quote(&*String::from_utf8_lossy(&path)))))?;
        }
        Ok(())
    }
}

/// Returns the path below the directory of the archive that is the root; nothing for what is not in it.
fn below(path: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    if prefix.is_empty() {
        return Some(path.to_vec());
    }
    match path.strip_prefix(prefix)? {
        [] => Some(Vec::new()),
        [b'/', rest @ ..] => Some(rest.to_vec()),
        _ => None,
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(n) => (&path[..n], &path[n + 1..]),
        None => (b"", path),
    }
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

fn times(member: &Member) -> Timestamps {
    let (seconds, nanoseconds) = member.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

/// Sets the owners, and then the mode: changing owners removes set-uid.
fn own(fd: BorrowedFd<'_>, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(fd, Mode::from_raw_mode(mode))
}

fn set_attributes(fd: BorrowedFd<'_>, member: &Member) -> Result<(), Errno> {
    member.xattrs.iter().try_for_each(|(name, value)| fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()))
}

/// Makes a regular file, of which only the pieces are written.
fn file(
    parent: BorrowedFd<'_>,
    name: &[u8],
    member: &Member,
    size: u64,
    pieces: &[Piece],
    data: &mut dyn Read,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(explain)?);
    for (begin, length) in pieces {
        let (mut at, mut left) = (*begin, *length);
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match data.read(&mut buffer[..most]) {
                Ok(0) => return Err(refused("the archive ends in it")),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                n => n.map_err(|e| Failure::of_io(e).unwrap_or_else(|e| Failure::new(Code::Failed, e)))?,
            };
            // Holes may be in the archive as zeros.
            if n < SHORTEST_HOLE || buffer[..n].iter().any(|b| *b != 0) {
                file.write_all_at(&buffer[..n], at).map_err(|e| Failure::system(Code::Os, "writing it", e))?;
            }
            at += n as u64;
            left -= n as u64;
        }
    }
    file.set_len(size).map_err(|e| Failure::system(Code::Os, "writing it", e))?;
    let finish = || {
        own(file.as_fd(), member.uid, member.gid, member.mode)?;
        set_attributes(file.as_fd(), member)?;
        futimens(&file, &times(member))
    };
    finish().map_err(explain)
}

/// Sets what a member says of what cannot be opened, by its name in a directory that only we write to.
fn named(parent: BorrowedFd<'_>, name: &[u8], member: &Member) -> Result<(), Errno> {
    let owners = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
    chownat(parent, name, owners.0, owners.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if member.kind == Kind::Fifo {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
    }
    if !member.xattrs.is_empty() {
        rustix::process::fchdir(parent)?;
        for (attribute, value) in &member.xattrs {
            lsetxattr(OsStr::from_bytes(name), attribute.as_slice(), value, XattrFlags::empty())?;
        }
        rustix::process::chdir("/")?;
    }
    utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)
}

fn refused(why: &str) -> Failure {
    Failure::new(Code::Failed, why)
}

fn explain(error: Errno) -> Failure {
    match error {
        Errno::EXIST => refused("it is in the archive twice"),
        Errno::LOOP | Errno::NOTDIR => {
            refused("a directory above it, or it, is a symbolic link or a file in the archive")
        }
        Errno::XDEV => refused("it leads out of the root"),
        Errno::NOENT => refused("it is a link to what does not come before it"),
        Errno::INVAL => refused("its owner is not in the id map, or its access control list is not valid"),
        Errno::OPNOTSUPP => refused("the file system does not keep its extended attributes")
            .hint("choose a directory on another file system"),
        e => Failure::system(Code::Os, "making it", e),
    }
}
