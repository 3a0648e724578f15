//! `--from`: a root that begins with what an archive has: one of `pack`, or a distribution's own.
//!
//! The archive is checked before anything is written. It is unpacked beside the root, in `ROOT.strapline/root.new`, and gets the
//! root's name when all of it is there: so a root is whole, or is not there. What a killed run left goes when the next begins.

mod extract;
mod proof;

use extract::{Extract, Extracted};
use proof::Proof;
use rootfs::file::replace;
use rootfs::mountinfo::is_mount_root;
use rootfs::{IdMap, Inside, Place, Root, remove};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::document::beside;
use stage::members::{Arch, Base as Record, Distro, Identity, Overlays, Package, TreeFile, VerifiedPackage};
use stage::{Code, Context, Document, Doing, Failure, Unit, quote};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the archive is called until it is whole.
const DRAFT: &str = "root.new";

/// The name of a [`Mark`], beside the root.
const MARK: &str = "unpacked.json";

/// The options.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Begin with what FILE has, a tar archive of 'pack' or of a distribution
    #[arg(long = "from", value_name = "FILE", requires = "proof")]
    archive: Option<PathBuf>,

    #[command(flatten)]
    proof: proof::Options,

    /// The archive's detached signature [default: the archive's name with .sig]
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,

    /// The root is in DIR of the archive, such as root.x86_64
    #[arg(long, value_name = "DIR", requires = "archive")]
    prefix: Option<String>,
}

/// A root to begin with, checked.
pub(crate) struct Base {
    proof: Proof,
    prefix: Vec<u8>,
    root: PathBuf,
    idmap: Option<IdMap>,
    chroot: bool,
    /// How many entries a run that was killed before it wrote its document had unpacked already.
    there: Option<u64>,
}

/// What lies beside a root from before it has its name: a run that is killed then has not written a document.
#[derive(Deserialize, Serialize)]
struct Mark {
    base: Record,
    prefix: Vec<u8>,
    root_id: Identity,
}

/// A root that was unpacked by this run.
#[derive(Debug)]
pub(crate) struct Unpacked {
    root: PathBuf,
    idmap: Option<IdMap>,
    /// Whether `ROOT.strapline` was made for it.
    made: bool,
}

impl From {
    /// Checks the archive and the place of the root. None where there is no archive to begin with.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where the archive is not the right one; [`Code::Failed`] where something is at the root's place.
    pub(crate) fn plan(
        &self,
        context: &Context,
        document: &Document,
        root: &Path,
        chroot: bool,
    ) -> Result<Option<Base>, Failure> {
        let Some(archive) = &self.archive else { return Ok(None) };
        let doing = || format!("unpacking {} to {}", quote(archive), quote(root));
        if document.root().is_some() {
            return Err(Failure::new(Code::Usage, format!("{}: the document has a root already", doing()))
                .hint("begin a new document with --new"));
        }
        let prefix = self.prefix.as_deref().unwrap_or_default().trim_start_matches("./").trim_matches('/');
        if prefix.split('/').any(|name| matches!(name, "." | "..")) {
            return Err(Failure::new(Code::Usage, format!("reading '--prefix {prefix}': '.' or '..' in it")));
        }
        let is_empty = match std::fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) if e.kind() == ErrorKind::NotFound => true,
            Err(e) => return Err(e).doing(Code::Failed, doing),
        };
        if is_empty && is_mount_root(CWD, root).unwrap_or(false) {
            return Err(mount_point(Failure::new(Code::Failed, format!("{}: it is a mount point", doing()))));
        }
        let mark = if is_empty { None } else { Mark::of(root)? };
        if !is_empty && mark.is_none() {
            return Err(Failure::new(Code::Failed, format!("{}: it is not empty", doing())).hint(format!(
                "leave --from out to go on with what is in it, or remove it with 'unmount --remove {}'",
                root.display()
            )));
        }
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let idmap = if me.0 == 0 { None } else { Some(rootfs::idmap::of_user(me.0, me.1)?) };
        let proof = self.proof.check(context, archive, self.signature.as_deref())?;
        let prefix = prefix.as_bytes().to_vec();
        let is_this = |mark: &Mark| (&mark.base.sha256, &mark.prefix) == (&proof.sha256, &prefix);
        let there = match mark {
            Some(mark) if !is_this(&mark) => {
                return Err(Failure::new(Code::Failed, format!("{}: another archive was unpacked there", doing()))
                    .hint(format!("remove it with 'unmount --remove {}'", root.display())));
            }
            mark => mark.map(|mark| mark.base.entries),
        };
        Ok(Some(Base { proof, prefix, root: root.to_owned(), idmap, chroot, there }))
    }
}

impl Base {
    /// Unpacks it, and gives it the root's name. Returns what is to be taken back where this run fails later.
    ///
    /// # Errors
    ///
    /// When the archive is not one that can be unpacked, or another than the one that was checked; nothing is left then.
    pub(crate) fn unpack(&self, context: &Context, document: &mut Document) -> Result<Option<Unpacked>, Failure> {
        if let Some(entries) = self.there {
            self.record(document, &self.proof.record(entries))?;
            return Ok(None);
        }
        let draft = Draft::begin(&self.root, self.idmap.clone())?;
        let filled = self.fill(context, &draft).and_then(|extracted| {
            let record = self.proof.record(extracted.entries);
            draft.publish(
                &self.root,
                Mark { base: record.clone(), prefix: self.prefix.clone(), root_id: draft.identity()? },
            )?;
            Ok((extracted, record))
        });
        let (extracted, record) = match filled {
            Ok(filled) => filled,
            Err(failure) => {
                draft.remove().unwrap_or_else(|left| context.report(&left));
                return Err(failure);
            }
        };
        let unpacked = Unpacked { root: self.root.clone(), idmap: self.idmap.clone(), made: draft.made };
        let finished = set_mode(&self.root, extracted.mode).and_then(|()| self.record(document, &record));
        if let Err(failure) = finished {
            unpacked.remove().unwrap_or_else(|left| context.report(&left));
            return Err(failure);
        }
        if extracted.devices > 0 {
            context.note(format_args!(
                "{} below 'dev' left out: each entry makes its own",
                pacman::count(usize::try_from(extracted.devices).unwrap_or(usize::MAX), "device node")
            ));
        }
        context.note(format_args!("{}: {} entries", quote(&self.proof.path), extracted.entries));
        Ok(Some(unpacked))
    }

    fn fill(&self, context: &Context, draft: &Draft) -> Result<Extracted, Failure> {
        let progress = context.progress("unpacking", Unit::Bytes, Some(self.proof.size));
        let extract =
            Extract { archive: &self.proof.file, path: &self.proof.path, prefix: &self.prefix, progress: &progress };
        let begin = std::time::Instant::now();
        let unpack = || extract.unpack_to(&Root::open(&draft.path)?);
        // Without namespaces owners are the root's own here, too; and a root that has no /dev yet cannot be entered.
        let extracted = if self.chroot {
            unpack()?
        } else {
            let inside = Inside::new(Root::open(&draft.path)?, Vec::new(), self.idmap.clone(), None)?;
            inside.call(Place::Host, &[self.proof.file.as_fd()], unpack)?
        };
        context.waited(begin.elapsed());
        let doing = || format!("unpacking {}", quote(&self.proof.path));
        if extracted.sha256 != self.proof.sha256 {
            return Err(Failure::new(Code::NotVerified, format!("{}: the file changed while it was read", doing())));
        }
        if let Some(prefix) = &extracted.other_root {
            return Err(Failure::new(Code::Failed, format!("{}: the root is not at its top", doing()))
                .hint(format!("give --prefix {prefix}")));
        }
        if extracted.entries == 0 {
            let prefix = String::from_utf8_lossy(&self.prefix).into_owned();
            return Err(Failure::new(Code::Failed, format!("{}: nothing is in it below {}", doing(), quote(prefix))));
        }
        // Renaming a directory needs the permission to write to it.
        set_mode(&draft.path, extracted.mode | 0o200)?;
        Ok(extracted)
    }

    /// Records what the root began with, and what the receipt says of it.
    fn record(&self, document: &mut Document, record: &Record) -> Result<(), Failure> {
        document.write(record);
        let Some(receipt) = &self.proof.receipt else { return Ok(()) };
        if let Some(arch) = receipt.get::<Arch>() {
            document.write(&arch);
        }
        if let Some(distro) = receipt.get::<Distro>() {
            document.write(&distro);
            document.write(&receipt.get::<Overlays>().unwrap_or_default());
        }
        // What was laid, installed or removed after the archive was written is not of this root.
        let root = Root::open(&self.root)?;
        let mut tree: Vec<TreeFile> = receipt.get().unwrap_or_default();
        tree.retain(|file| is_of_kind(&root, file));
        if !tree.is_empty() {
            document.write(&tree);
        }
        let (installed, _) = pacman::records::installed(&root)?;
        let is_there = |name: &str, version: &str| {
            installed.iter().any(|one| (one.package.name.as_str(), one.package.version.as_str()) == (name, version))
        };
        let mut packages: Vec<Package> = receipt.get().unwrap_or_default();
        packages.retain(|package| is_there(&package.name, &package.version));
        let mut verified: Vec<VerifiedPackage> = receipt.get().unwrap_or_default();
        verified.retain(|package| is_there(&package.name, &package.version));
        if !packages.is_empty() {
            document.write(&packages);
            document.write(&verified);
        }
        Ok(())
    }
}

/// Returns whether the root has what a tree brought. Its content an ordinary user may be unable to read: `verify` compares that.
fn is_of_kind(root: &Root, file: &TreeFile) -> bool {
    let found = root.open_below(&file.path, OFlags::PATH | OFlags::NOFOLLOW).and_then(fstat);
    found.is_ok_and(|stat| match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => file.kind == "file",
        FileType::Directory => file.kind == "directory",
        FileType::Symlink => file.kind == "link",
        _ => false,
    })
}

impl Unpacked {
    /// Takes the root away again.
    ///
    /// # Errors
    ///
    /// When it cannot be deleted.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        clear(&self.root, self.idmap.clone())?;
        Mark::remove(&self.root)?;
        remove_made(self.made, &beside(&self.root));
        Ok(())
    }
}

impl Mark {
    fn path(root: &Path) -> PathBuf {
        beside(root).join(MARK)
    }

    /// Reads that of a root which no tool has worked on since: nothing else lies beside the root.
    fn of(root: &Path) -> Result<Option<Self>, Failure> {
        let above = beside(root);
        let names: std::io::Result<Vec<_>> =
            std::fs::read_dir(&above).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        match names.as_deref() {
            Ok([only]) if only == MARK => {}
            _ => return Ok(None),
        }
        rootfs::file::check_owner(open_beside(&above)?.as_fd(), &above)?;
        let mark: Option<Self> = serde_json::from_str(&stage::file::read_text(&Self::path(root))?).ok();
        let now = Root::open(root)?.identity()?;
        Ok(mark.filter(|mark| mark.root_id.is(&now)))
    }

    fn remove(root: &Path) -> Result<(), Failure> {
        let path = Self::path(root);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).doing(Code::Os, || format!("deleting {}", quote(&path)))
            }
            _ => Ok(()),
        }
    }
}

/// A root in the making.
struct Draft {
    path: PathBuf,
    idmap: Option<IdMap>,
    /// `ROOT.strapline`.
    above: OwnedFd,
    /// Whether that was made for it.
    made: bool,
    /// Locked until it has the root's name, or is gone.
    _lock: Root,
}

impl Draft {
    /// Makes it, after deleting what a run that was killed left.
    fn begin(root: &Path, idmap: Option<IdMap>) -> Result<Self, Failure> {
        let above = beside(root);
        let path = above.join(DRAFT);
        let made = match mkdirat(CWD, &above, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => {
                return Err(Failure::system(Code::Permission, format!("making {}", quote(&above)), e)
                    .hint("choose a directory that you may write in, or use sudo"));
            }
        };
        let directory = open_beside(&above)?;
        rootfs::file::check_owner(directory.as_fd(), &above)?;
        if path.symlink_metadata().is_ok() {
            // Busy where the run that makes it still works.
            let _lock = Root::open(&path)?.lock_exclusive()?;
            clear(&path, idmap.clone())?;
        }
        mkdirat(&directory, DRAFT, Mode::RWXU).doing(Code::Permission, || format!("making {}", quote(&path)))?;
        let lock = Root::open(&path)?.shared()?;
        Ok(Self { path, idmap, made, above: directory, _lock: lock })
    }

    fn identity(&self) -> Result<Identity, Failure> {
        Root::open(&self.path)?.identity()
    }

    /// Gives it the root's name.
    fn publish(&self, root: &Path, mark: Mark) -> Result<(), Failure> {
        let doing = || format!("writing {}", quote(Mark::path(root)));
        let text = serde_json::to_string(&mark).doing(Code::Os, doing)?;
        replace(self.above.as_fd(), MARK, text.as_bytes(), 0o644, None).doing(Code::Os, doing)?;
        renameat(CWD, &self.path, CWD, root).map_err(|e| {
            let failure = Failure::system(Code::Failed, format!("making {}", quote(root)), e);
            // A kernel before 5.8 did not say so before.
            if matches!(e, Errno::BUSY | Errno::XDEV) { mount_point(failure) } else { failure }
        })
    }

    /// Deletes it, and `ROOT.strapline` where there was none.
    fn remove(&self) -> Result<(), Failure> {
        clear(&self.path, self.idmap.clone())?;
        unlinkat(&self.above, MARK, AtFlags::empty())
            .or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(e) })
            .doing(Code::Os, || format!("deleting {}", quote(self.path.with_file_name(MARK))))?;
        self.path.parent().into_iter().for_each(|above| remove_made(self.made, above));
        Ok(())
    }
}

/// What to do about a mount point, which cannot get a new directory's name.
fn mount_point(failure: Failure) -> Failure {
    failure.hint("a root that is unpacked takes the place of the directory: name one in the mount point")
}

fn open_beside(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).doing(Code::Failed, || format!("opening {}", quote(path)))
}

/// Sets the mode of a root itself.
fn set_mode(root: &Path, mode: u32) -> Result<(), Failure> {
    let top = Root::open(root)?.open_below("", OFlags::RDONLY | OFlags::DIRECTORY);
    let set = top.and_then(|top| fchmod(&top, Mode::from_raw_mode(mode)));
    set.doing(Code::Os, || format!("setting the mode of {}", quote(root)))
}

/// Removes `ROOT.strapline` where it was made for the root, unless another tool has put something there.
fn remove_made(made: bool, above: &Path) {
    if made {
        std::fs::remove_dir(above).unwrap_or(());
    }
}

/// Deletes a root with all that is in it: most files of an ordinary user's belong to subordinate ids.
fn clear(path: &Path, idmap: Option<IdMap>) -> Result<(), Failure> {
    let root = Root::open(path)?;
    let empty = |root: &Root| {
        let directory: OwnedFd = root
            .open_below("", OFlags::RDONLY | OFlags::DIRECTORY)
            .doing(Code::Os, || format!("opening {}", quote(path)))?;
        remove::empty(&directory, path, &[])
    };
    match idmap {
        None => empty(&root)?,
        Some(map) => {
            let inside = Inside::new(root, Vec::new(), Some(map), None)?;
            inside.call(Place::Host, &[], || empty(&Root::open(path)?))?;
        }
    }
    std::fs::remove_dir(path).doing(Code::Permission, || format!("deleting {}", quote(path)))
}
