//! File systems that are written to later, and so are made as large as their partition: btrfs and xfs.

use super::unpacked::Unpacked;
use super::{HostKind, command, copy, find, lend, refuse, run};
use crate::filesystem::{FileSystem, Options, Region, STEP};
use crate::node::{Node, total};
use crate::size;
use crate::tree::Tree;
use rootfs::session::environment;
use stage::{Code, Doing, Failure, Progress, child};
use std::fs::File;

/// The first release of xfsprogs whose mkfs.xfs fills a file system from a directory, and copies files of any size of blocks right.
const XFSPROGS: (u32, u32) = (6, 19);

/// The smallest file system that mkfs.xfs makes, in bytes, and what it has beside files: its log, and headers.
const XFS_LEAST: u64 = 300 << 20;
const XFS_OWN: u64 = 96 << 20;

/// Bytes in a block of xfs.
const BLOCK: u64 = 4096;

/// A file system that is to be made.
pub(crate) struct Writable {
    kind: HostKind,
    image: File,
    options: Options,
    directory: Unpacked,
    content: u64,
    least: u64,
}

impl Writable {
    pub(crate) fn new(
        kind: HostKind,
        nodes: &[Node],
        options: Options,
        tree: &Tree,
        image: File,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        refuse::all(kind, nodes, &options)?;
        let directory = Unpacked::new(nodes, &options, tree, progress)?;
        let mut made = Self { kind, image, options, content: total(nodes), directory, least: 0 };
        made.least = match kind {
            HostKind::Xfs => xfs_least(nodes),
            // How much it needs only mkfs knows: it makes a file as large as that.
            _ => made.make(0)?,
        };
        made.least = made.least.next_multiple_of(STEP);
        Ok(made)
    }

    /// Makes it in a file of `size` bytes, and returns how large that is then.
    fn make(&self, size: u64) -> Result<u64, Failure> {
        let doing = || "writing the image";
        self.image.set_len(0).doing(Code::Os, doing)?;
        self.image.set_len(size).doing(Code::Os, doing)?;
        let program = self.kind.program().0;
        let mut command = command(program, &self.options)?;
        let Options { uuid, label, sector, compress, subvolumes, .. } = &self.options;
        if self.kind == HostKind::Xfs {
            // Numbers that would be drawn by chance.
            command.env("DETERMINISTIC_SEED", "1");
            command.args(["-q", "-f", "-K", "-m", &format!("uuid={uuid}"), "-s", &format!("size={sector}")]);
            // Inodes have a quarter of the space and no more, unless this says that they may have all of it.
            command.args(["-i", "maxpct=0"]);
            command.args(label.iter().flat_map(|label| ["-L", label.as_str()]));
            command.arg("-p").arg(self.directory.path());
        } else {
            command.args(["--quiet", "--force", "--nodiscard", "--uuid", uuid]);
            command.args(label.iter().flat_map(|label| ["--label", label.as_str()]));
            command.args(compress.iter().flat_map(|how| ["--compress", how.as_str()]));
            // The first is what is mounted where nobody names one.
            for (name, kind) in subvolumes.iter().zip(["default"].into_iter().chain(std::iter::repeat("rw"))) {
                command.args(["--subvol", &format!("{kind}:{name}")]);
            }
            command.arg("--rootdir").arg(self.directory.path());
        }
        command.arg(lend(&self.image)?);
        run(program, command)?;
        Ok(self.image.metadata().doing(Code::Os, doing)?.len())
    }
}

impl FileSystem for Writable {
    fn content(&self) -> u64 {
        self.content
    }

    fn smallest(&self, spare: u64) -> Result<u64, Failure> {
        Ok(self.least.saturating_add(spare).next_multiple_of(STEP))
    }

    fn fits(&self, size: u64) -> bool {
        size >= self.least
    }

    fn largest(&self) -> u64 {
        size::LARGEST
    }

    fn write(&self, to: &Region<'_>, _tree: &Tree) -> Result<(), Failure> {
        let made = self.make(to.size)?;
        if made > to.size {
            let (program, made, size) = (self.kind.program().0, size::show(made), size::show(to.size));
            let why = format!("making a {} file system of {size}: {program} made one of {made}", self.kind.name());
            return Err(Failure::new(Code::Failed, why));
        }
        copy(&self.image, made, to)
    }
}

/// Returns how large an xfs must be for its files, in bytes, rather too much than too little: mkfs.xfs does not say it.
fn xfs_least(nodes: &[Node]) -> u64 {
    // Names are in the directory and in the file, and what is too long for an inode has blocks of its own.
    let of = |node: &Node| {
        let names = 4 * node.split_path().1.len() as u64;
        let attributes: u64 = node.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
        let own = if names + attributes > 512 { 2 * BLOCK } else { 0 };
        node.size().next_multiple_of(BLOCK) + 1024 + names + (attributes + own).next_multiple_of(BLOCK)
    };
    let files = nodes.iter().map(of).fold(0, u64::saturating_add);
    (files.saturating_add(files / 32)).saturating_add(XFS_OWN).max(XFS_LEAST)
}

/// Fails where the program is too old for it, or does not know an option.
///
/// # Errors
///
/// [`Code::NotFound`] with the release that is needed.
pub(super) fn check(kind: HostKind, wanted: &[&str]) -> Result<(), Failure> {
    let (program, package) = kind.program();
    let old = |what: &str, why: String, release: &str| -> Result<(), Failure> {
        let why = format!("making a {} file system{what}: {program} {why}", kind.name());
        Err(Failure::new(Code::NotFound, why).hint(format!("install {package} {release} or later")))
    };
    if kind == HostKind::Xfs {
        let said = said(program, "-V")?;
        return match version(&said) {
            Some(found) if found >= XFSPROGS => Ok(()),
            Some((major, minor)) => {
                let why = format!("{major}.{minor} fills none from a directory, or not rightly");
                old("", why, &format!("{}.{}", XFSPROGS.0, XFSPROGS.1))
            }
            None => old("", "does not say its version".to_owned(), &format!("{}.{}", XFSPROGS.0, XFSPROGS.1)),
        };
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let help = said(program, "--help")?;
    match wanted.iter().find(|option| !help.contains(**option)) {
        None => Ok(()),
        Some(option) => old(&format!(" with '{option}'"), "has no such option".to_owned(), "6.14"),
    }
}

/// Returns what a program prints.
fn said(program: &str, option: &str) -> Result<String, Failure> {
    let path =
        find(program).ok_or_else(|| Failure::new(Code::NotFound, format!("running {program}: not installed")))?;
    let mut command = child::command(path);
    command.env_clear().envs(environment()).env("LC_ALL", "C").arg(option);
    rootfs::die_with_us(&mut command);
    Ok(String::from_utf8_lossy(&child::transcript(&mut command, None, false)?.stdout).into_owned())
}

/// Returns the first two numbers of a version: "mkfs.xfs version 6.13.0".
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_once("version ")?.1.split('.');
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((number(numbers.next()?)?, number(numbers.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Kind;

    #[test]
    fn versions_of_mkfs_xfs_are_read() {
        assert_eq!(version("mkfs.xfs version 6.13.0\n"), Some((6, 13)));
        assert_eq!(version("mkfs.xfs version 7.2\n"), Some((7, 2)));
        for bad in ["", "mkfs.xfs version", "version x.y", "version 7"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_xfs_has_room_for_names_and_attributes() {
        let many = |name: &[u8]| vec![Node::new(name, Kind::Fifo); 1 << 15];
        assert_eq!(xfs_least(&many(b"a")), XFS_LEAST);
        assert!(xfs_least(&many(&[b'a'; 255])) > XFS_LEAST + (100 << 20));
    }
}
