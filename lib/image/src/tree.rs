//! The tree of a root as an image gets it: every entry, in an order that is always the same, with the root's own ids.
//!
//! It is read inside (`Inside::bare`, then `Inside::call`): there ids are the root's own also for an ordinary user, and the
//! kernel gives file capabilities as a machine will want them (version 2 of capabilities(7)). The tree is a detached copy of
//! the root's mount, without what is mounted below it, so no API filesystem of the plan or the host is ever seen; file
//! systems of the root's own, such as a `/boot`, are joined to it.
//!
//! What a root holds is hostile: names are bytes, no link is followed, a fifo or a device is never opened.

use crate::attribute;
use crate::node::{Content, Kind, Node, RootFile, Seen, Xattr};
use crate::reader::{Reader, SHORTEST};
use crate::rewrite;
use crate::rules::Rules;
use rootfs::plan::Owner;
use rootfs::{Inside, Root, attach, mountinfo};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, fstat, lgetxattr, llistxattr,
    major, minor, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote, signal};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How paths are resolved: never out of the tree, never over a link, never into another mount.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The largest file that is rewritten: more than any that there is a rule for.
const REWRITE_LIMIT: u64 = 16 << 20;

/// The longest path that the kernel takes, in bytes (`PATH_MAX`, less its NUL).
const LONGEST_PATH: usize = 4095;

/// The id that the kernel shows where an id map has none (user_namespaces(7)). It is also the root's own `nobody`.
const OVERFLOW: u32 = 65_534;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// The nodes: the root first, each directory before what is in it, the names of a directory in the order of their
    /// bytes.
    pub nodes: Vec<Node>,
    /// Sockets, which no image can hold, by their paths below the root.
    pub sockets: Vec<Vec<u8>>,
}

/// What must be known of the plan before the tree is opened, looked up outside.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Where file systems of the root's own are, below it.
    pub own: Vec<String>,
    /// Where something of the host's is bound: there the image has what the root itself has.
    pub bound: Vec<String>,
    /// Whether nothing is mounted below the root, and nothing can be: the directory itself is read.
    pub unmounted: bool,
}

impl Points {
    /// Reads them from the plan, and refuses what is mounted below the root and is not in the plan: nobody could say whether
    /// it belongs to the image.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with the place where something else is mounted.
    pub fn of(inside: &Inside) -> Result<Self, Failure> {
        let mut points = Self { unmounted: inside.is_chroot(), ..Self::default() };
        for mount in inside.mounts() {
            match Owner::of(mount) {
                Owner::Root => points.own.push(mount.at.clone()),
                Owner::Host => points.bound.push(mount.at.clone()),
                Owner::Kernel => {}
            }
        }
        let root = inside.root().path();
        for live in mountinfo::read()? {
            let Ok(below) = live.target.strip_prefix(root) else {
                continue;
            };
            // A mount below a file system of the root's own is not of the plan, either.
            let planned = |mount: &rootfs::Mount| match Owner::of(mount) {
                Owner::Root => below == Path::new(&mount.at),
                Owner::Kernel | Owner::Host => below.starts_with(&mount.at),
            };
            let planned = !points.unmounted && inside.mounts().iter().any(planned);
            if !below.as_os_str().is_empty() && !planned {
                let (root, at) = (quote(root), quote(&live.target));
                let why = format!("reading the mounts below {root}: {at} is not in the mount plan");
                return Err(Failure::new(Code::Failed, why).hint(
                    "unmount it, or make the root with 'mkroot --device' or '--bind', which put it into the plan",
                ));
            }
        }
        Ok(points)
    }
}

/// The tree of a root, open. Made and used inside.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// The file systems of its own, by where they are.
    points: Vec<(Vec<u8>, OwnedFd)>,
}

impl Tree {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`Code::Permission`] where the mount cannot be copied: an ordinary user may not see below what root has mounted.
    pub fn open(root: &Root, points: &Points) -> Result<Self, Failure> {
        let show = |at: &str| quote(root.path().join(at));
        let clone = |fd: BorrowedFd<'_>, at: &str| {
            if points.unmounted {
                return fd.try_clone_to_owned().doing(Code::Os, || format!("opening {}", show(at)));
            }
            attach::clone_tree(fd, "", false).map_err(|e| {
                let why = format!("copying the mount of {}: {e}", show(at));
                let failure = Failure::new(Code::Permission, why);
                match e {
                    Errno::INVAL => failure.hint("unmount what root mounted there: see findmnt"),
                    _ => failure,
                }
            })
        };
        let mut own = Vec::new();
        for at in &points.own {
            let opened = root.open_below(at, OFlags::PATH | OFlags::DIRECTORY);
            let fd = opened.doing(Code::Os, || format!("opening {}", show(at)))?;
            own.push((at.clone().into_bytes(), clone(fd.as_fd(), at)?));
        }
        // The innermost first.
        own.sort_by_key(|(at, _)| std::cmp::Reverse(at.len()));
        Ok(Self { path: root.path().to_owned(), root: clone(root.as_fd(), "")?, points: own })
    }

    /// Opens a directory of our own, as it is.
    pub(crate) fn of_directory(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).doing(Code::Os, || format!("opening {}", quote(path)))?;
        Ok(Self { path: path.to_owned(), root, points: Vec::new() })
    }

    /// Lists what goes into the image.
    ///
    /// The process's working directory is changed: extended attributes of what cannot be opened are read by name.
    ///
    /// # Errors
    ///
    /// At the first entry that cannot be read, or cannot be in an image; and when a signal asked us to stop.
    pub fn walk(&self, rules: &Rules) -> Result<Found, Failure> {
        let mut nodes = Vec::new();
        let keep = |node, _: &[u8]| {
            nodes.push(node);
            Ok(())
        };
        let sockets = self.each(rules, keep)?;
        Ok(Found { nodes, sockets })
    }

    /// Gives `visit` each node that [`Tree::walk`] lists, as it is found, and for another name of an earlier node the path of that.
    /// Only what is left of the directories on the way is in memory, and the files that have more names. Returns the sockets.
    ///
    /// # Errors
    ///
    /// As [`Tree::walk`], and those of `visit`.
    pub fn each(
        &self,
        rules: &Rules,
        mut visit: impl FnMut(Node, &[u8]) -> Result<(), Failure>,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        // All threads of a process have one working directory.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (sockets, names) = (Vec::new(), HashMap::new());
        let mut walk = Walk { tree: self, rules, sockets, count: 0, names, buffer: vec![0; 1 << 16] };
        walk.all(&mut visit)?;
        rustix::process::chdir("/").doing(Code::Os, || "changing to '/'")?;
        Ok(walk.sockets)
    }

    /// Opens the content of a node, which is empty where that is not a regular file.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened, or is not the file any more that was seen.
    pub fn open_content<'a>(&self, node: &'a Node) -> Result<Reader<'a>, Failure> {
        match &node.kind {
            Kind::File(Content::Text(text)) => Ok(Reader::of_text(text)),
            Kind::File(Content::Root(file)) => {
                let doing = format!("reading {}", self.show(&file.path));
                let open = self.open_file(&file.path).doing(Code::Os, || &doing)?;
                Reader::of_seen(open, file.seen, doing)
            }
            _ => Ok(Reader::of_text(&[])),
        }
    }

    /// Returns an entry's path as it stands in a message.
    #[must_use]
    pub fn show(&self, path: &[u8]) -> String {
        quote(self.path.join(OsStr::from_bytes(path)))
    }

    /// Opens what is at `path`, on the file system that it is on.
    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let point = self.points.iter().find_map(|(at, fd)| match path.strip_prefix(at.as_slice())? {
            rest @ [] | [b'/', rest @ ..] => Some((fd, rest)),
            _ => None,
        });
        let (fd, rest) = point.unwrap_or((&self.root, path));
        let rest = if rest.is_empty() { b"." } else { rest };
        openat2(fd, rest, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
    }

    fn open_file(&self, path: &[u8]) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        // Without leaving a trace in the root, where its owner is ours.
        match self.open_at(path, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.open_at(path, flags),
            result => result,
        }
        .map(File::from)
    }
}

/// A file by its device and inode numbers.
type FileId = (u64, u64);

/// What gets each node, and the path of what that is another name of.
type Visit<'a> = dyn FnMut(Node, &[u8]) -> Result<(), Failure> + 'a;

struct Walk<'a> {
    tree: &'a Tree,
    rules: &'a Rules,
    sockets: Vec<Vec<u8>>,
    /// How many nodes there were so far.
    count: usize,
    /// The index and the path of the first name of each file that has more than one.
    names: HashMap<FileId, (usize, Vec<u8>)>,
    /// As long as the longest list or value of extended attributes (xattr(7)).
    buffer: Vec<u8>,
}

/// Where extended attributes are read: of what is open, or by a name in the working directory.
#[derive(Clone, Copy)]
enum Bearer<'a> {
    Open(BorrowedFd<'a>),
    Named(&'a CStr),
}

impl Walk<'_> {
    /// Goes through the directories without recursion: how deep they are is the root's choice.
    fn all(&mut self, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let top = self.directory(Vec::new())?;
        // Of each directory on the way what is left of it, the last first.
        let mut left = vec![vec![(top, None)]];
        while let Some(list) = left.last_mut() {
            let Some((mut node, id)) = list.pop() else {
                left.pop();
                continue;
            };
            signal::check()?;
            let below = match node.kind {
                Kind::Directory => Some(self.children(&node.path)?),
                _ => None,
            };
            // One that has been seen under another name is a link to that.
            let count = self.count;
            self.count += 1;
            let first = id.map(|id| &*self.names.entry(id).or_insert_with(|| (count, node.path.clone())));
            let first = first.filter(|(first, _)| *first != count);
            if let Some((first, _)) = first {
                node.kind = Kind::HardLink(*first);
            }
            visit(node, first.map_or(&[], |(_, path)| path))?;
            left.extend(below);
        }
        Ok(())
    }

    /// Returns what is in a directory and goes into the image, the last first, each with its id where it has more names.
    fn children(&mut self, above: &[u8]) -> Result<Vec<(Node, Option<FileId>)>, Failure> {
        let reading = || format!("reading {}", self.tree.show(above));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.tree.open_at(above, flags).doing(Code::Os, reading)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).doing(Code::Os, reading)? {
            let name = entry.doing(Code::Os, reading)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        rustix::process::fchdir(&fd).doing(Code::Os, reading)?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut children = Vec::new();
        for name in names {
            let mut path = above.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            children.extend(self.child(fd.as_fd(), &name, path)?);
        }
        Ok(children)
    }

    /// Returns one of a directory's, unless it stays out.
    fn child(
        &mut self,
        above: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
    ) -> Result<Option<(Node, Option<FileId>)>, Failure> {
        let reading = |path: &[u8]| format!("reading {}", self.tree.show(path));
        let stat = statat(above, name, AtFlags::SYMLINK_NOFOLLOW).doing(Code::Os, || reading(&path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.rules.leaves_out(&path, kind.is_dir()) {
            return Ok(None);
        }
        if path.len() > LONGEST_PATH {
            let begins = path.split(|b| *b == b'/').next().unwrap_or(&path);
            let why = "the path of a file in it is longer than 4095 bytes, so no program can open it";
            return Err(Failure::new(Code::Failed, format!("{}: {why}", reading(begins)))
                .hint("remove it, or leave it out with --exclude"));
        }
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let kind = match kind {
            FileType::Directory => return Ok(Some((self.directory(path)?, None))),
            FileType::Socket => {
                self.sockets.push(path);
                return Ok(None);
            }
            FileType::RegularFile => Kind::File(self.file(&path, &stat)?),
            FileType::Symlink => {
                let target = readlinkat(above, name, Vec::new()).doing(Code::Os, || reading(&path))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::Character(device.0, device.1),
            FileType::BlockDevice => Kind::Block(device.0, device.1),
            _ => return Err(Failure::new(Code::Failed, format!("{}: unsupported file type", reading(&path)))),
        };
        // A file whose text is replaced is a file of its own in the image.
        let is_rewritten = matches!(kind, Kind::File(Content::Text(_)));
        let id = (stat.st_nlink > 1 && !is_rewritten).then_some((stat.st_dev, stat.st_ino));
        let node = self.node(path, kind, &stat, Bearer::Named(name))?;
        Ok(Some((node, id)))
    }

    /// Returns a directory, on a file system of its own as that has it.
    fn directory(&mut self, path: Vec<u8>) -> Result<Node, Failure> {
        let reading = || format!("reading {}", self.tree.show(&path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.tree.open_at(&path, flags).doing(Code::Os, reading)?;
        let stat = fstat(&fd).doing(Code::Os, reading)?;
        self.node(path, Kind::Directory, &stat, Bearer::Open(fd.as_fd()))
    }

    /// Returns a regular file's content, which in an image may be another text.
    fn file(&self, path: &[u8], stat: &Stat) -> Result<Content, Failure> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let root = || RootFile { path: path.to_owned(), size, sparse: size >= SHORTEST, seen: Seen::of(stat) };
        let rule = rewrite::rule_for(path, self.rules.epoch);
        let rule = rule.filter(|_| size <= REWRITE_LIMIT && !self.rules.asks_for(path));
        let Some(rule) = rule else {
            return Ok(Content::Root(root()));
        };
        let doing = || format!("reading {}", self.tree.show(path));
        let file = self.tree.open_file(path).doing(Code::Os, doing)?;
        let mut text = Vec::new();
        file.take(REWRITE_LIMIT).read_to_end(&mut text).doing(Code::Os, doing)?;
        let new = rule.apply(&text, self.rules.epoch);
        Ok(new.map_or_else(|| Content::Root(root()), Content::Text))
    }

    fn node(&mut self, path: Vec<u8>, kind: Kind, stat: &Stat, bearer: Bearer<'_>) -> Result<Node, Failure> {
        if stat.st_uid == OVERFLOW && matches!(kind, Kind::Directory | Kind::File(_)) {
            self.check_owner(&path)?;
        }
        Ok(Node {
            xattrs: self.xattrs(&path, bearer)?,
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: self.rules.clamp(stat.st_mtime),
        })
    }

    /// Refuses what belongs to an id of the host that the id map does not have, such as what root copied into an ordinary
    /// user's root: the kernel shows it as nobody's, and so would the image. Only an owner whom the map has may be read
    /// without a trace (`O_NOATIME` of open(2)).
    fn check_owner(&self, path: &[u8]) -> Result<(), Failure> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOATIME;
        match self.tree.open_at(path, flags) {
            Err(Errno::PERM | Errno::ACCESS) => {
                let show = self.tree.show(path);
                let why = format!("reading {show}: its owner is not in the id map of the root");
                let hint = "give it to the user that made the root: 'sudo chown $(id -u):$(id -g)";
                Err(Failure::new(Code::Failed, why).hint(format!("{hint} {show}'")))
            }
            Err(e) => Err(e).doing(Code::Os, || format!("reading {}", self.tree.show(path))),
            Ok(_) => Ok(()),
        }
    }

    /// Returns the extended attributes that are the root's business, sorted.
    fn xattrs(&mut self, path: &[u8], bearer: Bearer<'_>) -> Result<Vec<Xattr>, Failure> {
        let show = || self.tree.show(path);
        let doing = || format!("reading the extended attributes of {}", show());
        let listed = match bearer {
            Bearer::Open(fd) => flistxattr(fd, &mut *self.buffer),
            Bearer::Named(name) => llistxattr(name, &mut *self.buffer),
        };
        let length = match listed {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            result => result.doing(Code::Os, doing)?,
        };
        let names = self.buffer[..length].split_inclusive(|b| *b == 0);
        let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
        let mut names: Vec<_> = names.filter(|name| attribute::is_kept(name.to_bytes())).map(CStr::to_owned).collect();
        names.sort_unstable();
        let mut found = Vec::new();
        for name in names {
            let read = match bearer {
                Bearer::Open(fd) => fgetxattr(fd, &name, &mut *self.buffer),
                Bearer::Named(file) => lgetxattr(file, &name, &mut *self.buffer),
            };
            let foreign = || {
                let why = "it has file capabilities of another user namespace, which have no effect";
                Failure::new(Code::Failed, format!("{}: {why}", doing()))
                    .hint("set them again with 'enter ... setcap', or install the package again")
            };
            let length = match read {
                Err(Errno::OVERFLOW) => return Err(foreign()),
                result => result.doing(Code::Os, doing)?,
            };
            let value = self.buffer[..length].to_vec();
            if attribute::is_of_a_namespace(name.as_bytes(), &value) {
                return Err(foreign());
            }
            found.push((name.into_bytes(), value));
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod tests;
