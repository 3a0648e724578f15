//! File systems that programs of the host make: squashfs, erofs, btrfs and xfs.
//!
//! tar2sqfs(1) reads the tree from a pipe, as an archive. A mkfs reads a directory, see `unpacked.rs`. What a program would lose
//! of a file is refused before it runs, by name (`refuse.rs`).
//!
//! The programs run inside, where ids are the root's own, and write to a file without a name, which the caller opened outside.
//! squashfs and erofs have the size of what is in them, so they are made first and copied to their partition. The others are made
//! as large as their partition (`writable.rs`).

mod refuse;
mod unpacked;
mod writable;

use crate::filesystem::{FileSystem, Options, Region, STEP};
use crate::node::Node;
use crate::reader::Reader;
use crate::size;
use crate::stream::Source;
use crate::tree::Tree;
use rootfs::session::environment;
use stage::{Code, Doing, Failure, Progress, child};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use unpacked::Unpacked;
pub(crate) use writable::Writable;

/// A file system that a program of the host makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// By tar2sqfs.
    Squashfs,
    /// By mkfs.erofs.
    Erofs,
    /// By mkfs.btrfs.
    Btrfs,
    /// By mkfs.xfs.
    Xfs,
}

/// Where mkfs programs are that are not in the `PATH` of an ordinary user.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The archive's program, and the Debian package that has it.
const TAR: (&str, &str) = ("tar", "tar");

impl HostKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Squashfs, Self::Erofs, Self::Btrfs, Self::Xfs];

    /// Returns the program that makes it, and the Debian package that has that.
    #[must_use]
    pub fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Squashfs => ("tar2sqfs", "squashfs-tools-ng"),
            Self::Erofs => ("mkfs.erofs", "erofs-utils"),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
            Self::Xfs => ("mkfs.xfs", "xfsprogs"),
        }
    }

    /// Returns the program's path, if it is installed.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        find(self.program().0)
    }

    /// Fails where a program is missing that makes it, or is too old for it or for `wanted`, options of the program.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] with the package that has it.
    pub fn check(self, wanted: &[&str]) -> Result<(), Failure> {
        let needed = if self == Self::Squashfs { vec![self.program()] } else { vec![self.program(), TAR] };
        match needed.into_iter().find(|(program, _)| find(program).is_none()) {
            None => writable::check(self, wanted),
            Some((program, package)) => Err(Failure::new(
                Code::NotFound,
                format!("making a {} file system: {program} is not installed", self.name()),
            )
            .hint(format!("install it (Debian: {package})"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
        }
    }
}

/// Returns the path of one of our programs. All are looked for at once: later a tmpfs may cover the directory that a link in `PATH`
/// leads through.
fn find(program: &str) -> Option<PathBuf> {
    static FOUND: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    let in_system = |name| SYSTEM.iter().find_map(|directory| Path::new(directory).join(name).canonicalize().ok());
    let find = |name| Some((name, child::find(name).or_else(|| in_system(name))?));
    let names = || HostKind::ALL.iter().map(|kind| kind.program().0).chain([TAR.0]);
    let found = FOUND.get_or_init(|| names().filter_map(find).collect());
    found.iter().find(|(name, _)| *name == program).map(|(_, path)| path.clone())
}

/// Returns a program with nothing of the caller's environment, and the newest date in the file system. What it makes of chance
/// and the clock comes from that.
fn command(program: &str, options: &Options) -> Result<Command, Failure> {
    let path =
        find(program).ok_or_else(|| Failure::new(Code::NotFound, format!("running {program}: it is not installed")))?;
    let mut command = child::command(path);
    command.env_clear().envs(environment()).env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", options.time.to_string());
    Ok(command)
}

/// Returns the name of an open file for a program that inherits it.
fn lend(file: &File) -> Result<String, Failure> {
    rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).doing(Code::Os, || "passing the image to a program")?;
    Ok(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Fails where a program did, with its last words.
fn check(program: &str, out: &child::Output) -> Result<(), Failure> {
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stdout);
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let last = if last.is_empty() { String::new() } else { format!(": {}", stage::message::escape(last)) };
    Err(Failure::new(Code::ChildFailed, format!("running {program}: {}{last}", child::ended(out.status))))
}

/// Runs a program to its end.
fn run(program: &str, mut command: Command) -> Result<(), Failure> {
    rootfs::die_with_us(&mut command);
    check(program, &child::transcript(&mut command, None, false)?)
}

/// Writes the file system into a file, which it then fills, and returns how large it is. The file is empty.
///
/// # Errors
///
/// [`Code::Failed`] with the path of what it cannot hold; [`Code::ChildFailed`] where the program fails; when the tree cannot
/// be read.
pub fn make_read_only(
    kind: HostKind,
    nodes: &[Node],
    options: &Options,
    tree: &Tree,
    into: &File,
    progress: &Progress,
) -> Result<u64, Failure> {
    refuse::all(kind, nodes, options)?;
    let program = kind.program().0;
    let mut command = command(program, options)?;
    let name = lend(into)?;
    if kind == HostKind::Squashfs {
        command.args(["--quiet", "--no-skip", "--force", "--compressor", "zstd", &name]);
        rootfs::die_with_us(&mut command);
        let source = Source { tree, nodes, progress, writing: "writing the archive for tar2sqfs", sparse: false };
        check(program, &child::fed(&mut command, |mut out| source.stream(&mut out))?)?;
    } else {
        let directory = Unpacked::new(nodes, options, tree, progress)?;
        // The date is the latest that is kept, so times stay as they are.
        command.env("SOURCE_DATE_EPOCH", directory.latest().max(options.time).to_string());
        command.args(["--quiet", "-zlz4hc", "-U", &options.uuid, &name]).arg(directory.path());
        run(program, command)?;
    }
    Ok(into.metadata().doing(Code::Os, || "reading the size of the image")?.len())
}

/// A file system that is made already, and cannot be another size.
pub(crate) struct ReadOnly {
    image: File,
    size: u64,
}

impl ReadOnly {
    pub(crate) fn new(
        kind: HostKind,
        nodes: &[Node],
        options: &Options,
        tree: &Tree,
        image: File,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        let size = make_read_only(kind, nodes, options, tree, &image, progress)?;
        Ok(Self { image, size })
    }
}

impl FileSystem for ReadOnly {
    fn content(&self) -> u64 {
        self.size
    }

    fn smallest(&self, _spare: u64) -> Result<u64, Failure> {
        Ok(self.size.next_multiple_of(STEP))
    }

    fn fits(&self, size: u64) -> bool {
        size >= self.size
    }

    fn largest(&self) -> u64 {
        size::LARGEST
    }

    fn write(&self, to: &Region<'_>, _tree: &Tree) -> Result<(), Failure> {
        copy(&self.image, self.size, to)
    }
}

/// Copies a file that a program made into a partition.
fn copy(image: &File, size: u64, to: &Region<'_>) -> Result<(), Failure> {
    let doing = "reading what the program made";
    let reader = Reader::of_file(image.try_clone().doing(Code::Os, || doing)?, doing.to_owned())?;
    to.copy(&reader, 0..size, 0)
}
