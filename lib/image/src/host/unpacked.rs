//! The tree as a directory, for a mkfs that reads one. The root itself is not what goes into an image: files stay out, others are
//! rewritten or added, and times are clamped. So tar(1) of the host unpacks the tree into a tmpfs of our own mount namespace,
//! which ends with us, and what it made is read back and compared.

use crate::filesystem::Options;
use crate::host::{TAR, check, command};
use crate::node::{Kind, Node, Xattr};
use crate::rules::Rules;
use crate::size;
use crate::stream::Source;
use crate::tree::Tree;
use rootfs::gnupg::mount_scratch;
use stage::{Code, Doing, Failure, Progress, child, quote};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory with the tree of a file system.
pub(super) struct Unpacked {
    path: PathBuf,
    latest: u64,
}

impl Unpacked {
    /// Unpacks a tree.
    ///
    /// # Errors
    ///
    /// When there is no room for it, or tar(1) cannot unpack it as it is.
    pub(super) fn new(nodes: &[Node], options: &Options, tree: &Tree, progress: &Progress) -> Result<Self, Failure> {
        let path = directory()?;
        let doing = || format!("unpacking '{}'", stage::message::escape(&options.at));
        check_room(&path, nodes).map_err(|f| f.while_doing(doing()))?;
        let program = TAR.0;
        let mut tar = command(program, options)?;
        tar.args(["--extract", "--file=-", "--numeric-owner", "--same-permissions", "--same-owner", "--acls"]);
        tar.args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"]).arg(&path);
        rootfs::die_with_us(&mut tar);
        let source = Source { tree, nodes, progress, writing: "writing the archive for tar", sparse: true };
        let out = child::fed(&mut tar, |mut out| source.stream(&mut out))?;
        check(program, &out).map_err(|f| f.while_doing(doing()))?;
        let everything = Rules::new(&[], &["**".to_owned()], None)?;
        let found = Tree::of_directory(&path)?.walk(&everything)?;
        compare(nodes, &found.nodes, options)?;
        let latest = nodes.iter().map(|node| node.mtime).max().unwrap_or_default();
        Ok(Self { path, latest: u64::try_from(latest).unwrap_or_default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the latest time of a file, in seconds since 1970.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }
}

/// Returns a new directory.
fn directory() -> Result<PathBuf, Failure> {
    static SCRATCH: OnceLock<Result<&'static Path, Failure>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let scratch = SCRATCH.get_or_init(mount_scratch).clone()?;
    let path = scratch.with_file_name(format!("tree{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&path).doing(Code::Os, || format!("making {}", quote(&path)))?;
    Ok(path)
}

/// A tmpfs is memory: what does not fit is said before it is filled.
fn check_room(path: &Path, nodes: &[Node]) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(path).doing(Code::Os, || format!("looking for room on {}", quote(path)))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = nodes.iter().map(|node| node.size().next_multiple_of(4096)).fold(0, u64::saturating_add);
    if needed <= free {
        return Ok(());
    }
    let [needed, free] = [needed, free].map(|bytes| size::show(bytes >> 20 << 20));
    Err(Failure::new(Code::Failed, format!("it needs {needed} of memory, and {free} are free for it"))
        .hint("use ext4 or squashfs, which need no memory for it"))
}

/// All of a file that must be the same: what it is, the first of its names, mode, owner, group, time and extended attributes.
type Facts<'a> = (String, &'a [u8], u32, u32, u32, i64, &'a [Xattr]);

/// What the facts are called, in their order.
const FACTS: [&str; 7] = ["type or content", "hard links", "mode", "owner", "group", "time", "extended attributes"];

fn facts(nodes: &[Node]) -> BTreeMap<&[u8], Facts<'_>> {
    let first_of = |n: usize| if let Kind::HardLink(first) = nodes[n].kind { first } else { n };
    let mut names: HashMap<usize, &[u8]> = HashMap::new();
    for (n, node) in nodes.iter().enumerate() {
        let name = names.entry(first_of(n)).or_insert(&node.path);
        *name = (*name).min(&node.path);
    }
    let of = |n: usize| {
        let first = first_of(n);
        // Another name has all that the first has.
        let node = &nodes[first];
        let what = match &node.kind {
            Kind::File(content) => format!("file of {} bytes", content.size()),
            other => format!("{other:?}"),
        };
        (what, names[&first], node.mode, node.uid, node.gid, node.mtime, &*node.xattrs)
    };
    nodes.iter().enumerate().map(|(n, node)| (&*node.path, of(n))).collect()
}

/// Compares what there is with what there should be.
///
/// # Errors
///
/// [`Code::Failed`] with the path of the first file that differs, and in what.
fn compare(wanted: &[Node], found: &[Node], options: &Options) -> Result<(), Failure> {
    let (wanted, found) = (facts(wanted), facts(found));
    let path = wanted.keys().chain(found.keys()).find(|path| wanted.get(*path) != found.get(*path));
    let Some(path) = path else { return Ok(()) };
    let what = match (wanted.get(path), found.get(path)) {
        (Some(a), Some(b)) => {
            let same = [a.0 == b.0, a.1 == b.1, a.2 == b.2, a.3 == b.3, a.4 == b.4, a.5 == b.5, a.6 == b.6];
            let differs = same.iter().position(|same| !same).unwrap_or_default();
            format!("another {}", FACTS[differs])
        }
        (Some(_), None) => "nothing of that name".to_owned(),
        _ => "a file too many".to_owned(),
    };
    let doing = format!("unpacking {} into a tmpfs", options.show(path));
    Err(Failure::new(Code::Failed, format!("{doing}: tar made {what}")).hint(
        "a tmpfs has user.* attributes from Linux 6.6 on; use ext4 or squashfs, or leave the file out with --exclude",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Content;

    #[test]
    fn what_differs_is_named() {
        let options = Options { at: "/".into(), ..Options::default() };
        let text = |path: &[u8]| Node::new(path, Kind::File(Content::Text(b"abc".to_vec())));
        let wanted = [text(b"b"), Node::new(b"a", Kind::HardLink(0)), Node::new(b"c", Kind::Symlink(b"x".to_vec()))];
        // Another of its names is the first.
        let same = [text(b"a"), Node::new(b"b", Kind::HardLink(0)), wanted[2].clone()];
        compare(&wanted, &same, &options).unwrap();
        let with = |change: &dyn Fn(&mut Vec<Node>)| {
            let mut nodes = same.to_vec();
            change(&mut nodes);
            compare(&wanted, &nodes, &options).unwrap_err().message
        };
        for (message, change) in [
            (
                "'/c' into a tmpfs: tar made nothing of that name",
                &(|n: &mut Vec<Node>| n.truncate(2)) as &dyn Fn(&mut _),
            ),
            ("'/d' into a tmpfs: tar made a file too many", &|n: &mut Vec<Node>| n.push(text(b"d"))),
            ("'/b' into a tmpfs: tar made another hard links", &|n: &mut Vec<Node>| n[1] = text(b"b")),
            ("'/c' into a tmpfs: tar made another type or content", &|n: &mut Vec<Node>| {
                n[2].kind = Kind::Symlink(b"y".to_vec())
            }),
            ("'/c' into a tmpfs: tar made another owner", &|n: &mut Vec<Node>| n[2].uid = 1),
            ("'/c' into a tmpfs: tar made another time", &|n: &mut Vec<Node>| n[2].mtime = 1),
            ("'/a' into a tmpfs: tar made another extended attributes", &|n: &mut Vec<Node>| {
                n[0].xattrs = vec![(vec![1], vec![])]
            }),
        ] {
            assert_eq!(with(change), format!("unpacking {message}"));
        }
    }
}
