//! What e2fsck(8), debugfs(8), resize2fs(8) and the kernel say of the file systems.

use super::Ext4;
use super::geometry::BLOCK;
use super::plan::Plan;
use crate::filesystem::{FileSystem, Options, Region};
use crate::node::{Content, Kind, Node};
use crate::rules::Rules;
use crate::tree::Tree;
use stage::Progress;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

fn options() -> Options {
    Options {
        at: "/".to_owned(),
        uuid: "30313233-3435-3637-3839-616263646566".to_owned(),
        seed: *b"fedcba9876543210",
        label: Some("judged".to_owned()),
        time: 1_700_000_000,
        sector: 512,
        ..Options::default()
    }
}

/// Offsets and lengths.
type Pieces = &'static [(u64, u64)];

/// Files with holes: at each end, between pieces that meet in a block, nothing else, and more than fit into an inode.
const SPARSE: [(&str, usize, Pieces); 5] = [
    ("hole-first", 300_000, &[(200_000, 100_000)]),
    ("hole-last", 300_001, &[(0, 4097)]),
    ("hole-between", 300_000, &[(0, 10), (8000, 300), (8400, 1), (299_999, 1)]),
    ("hole-only", 300_000, &[]),
    ("holes", 900_000, &[(1, 1), (100_000, 1), (250_000, 1), (400_000, 1), (550_000, 1), (700_000, 1)]),
];

/// A tree, and the directory that has its files with holes.
struct Sample {
    nodes: Vec<Node>,
    directory: tempfile::TempDir,
}

fn node(path: &str, mode: u32, kind: Kind) -> Node {
    Node { mode, uid: 70_000, gid: 12, mtime: 1_600_000_000, ..Node::new(path.as_bytes(), kind) }
}

/// Bytes that differ from block to block.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 % 251) as u8).collect()
}

/// What is in a file that has data at these offsets, each of these many bytes, and holes around it.
fn sparse_bytes(size: usize, pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut content = vec![0; size];
    for (at, length) in pieces {
        content[*at as usize..(at + length) as usize].fill(b'x');
    }
    content
}

impl Sample {
    fn new() -> Self {
        Self { nodes: vec![Node::new(b"", Kind::Directory)], directory: tempfile::tempdir_in("/var/tmp").unwrap() }
    }

    fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> &mut Node {
        let kind = Kind::File(Content::Text(content));
        self.nodes.push(node(path, mode, kind));
        self.nodes.last_mut().unwrap()
    }

    fn sparse(&mut self, path: &str, size: usize, pieces: &[(u64, u64)]) {
        let name = path.replace('/', "_");
        let file = File::create(self.directory.path().join(&name)).unwrap();
        file.set_len(size as u64).unwrap();
        for (at, length) in pieces {
            file.write_all_at(&vec![b'x'; *length as usize], *at).unwrap();
        }
        let rules = Rules::new(&[], &[], None).unwrap();
        let found = self.tree().walk(&rules).unwrap().nodes;
        let found = found.into_iter().find(|n| n.path == name.as_bytes());
        self.nodes.push(node(path, 0o644, found.unwrap().kind));
    }

    fn other(&mut self, path: &str, kind: Kind) -> usize {
        self.nodes.push(node(path, 0o755, kind));
        self.nodes.len() - 1
    }

    /// All kinds of files, and the sizes at which something changes.
    fn of_everything() -> Self {
        let mut all = Self::new();
        all.other("usr", Kind::Directory);
        for (n, size) in [0, 1, 4095, 4096, 4097, 3 << 20].into_iter().enumerate() {
            all.file(&format!("usr/file{n}"), 0o644, bytes(size));
        }
        let mut holes = bytes(64 << 10);
        holes[8192..40960].fill(0);
        all.file("usr/zeros-inside", 0o600, holes);
        all.file("usr/empty-inside", 0o600, vec![0; 50_000]);
        for (name, size, pieces) in SPARSE {
            all.sparse(&format!("usr/{name}"), size, pieces);
        }
        all.other("usr/many", Kind::Directory);
        for n in 0..1500 {
            let path = format!("usr/many/a-rather-long-name-{n:05}");
            all.file(&path, 0o644, bytes(n % 3));
        }
        for n in 0..300 {
            all.other(&format!("usr/many/directory{n}"), Kind::Directory);
        }
        all.file("usr/sudo", 0o4755, b"#!/bin/sh\n".to_vec());
        let program = all.nodes.len() - 1;
        all.other("usr/many/sudoedit", Kind::HardLink(program));
        all.other("visudo", Kind::HardLink(program));
        for length in [1, 59, 60, 61, 4095] {
            let target = "t".repeat(length).into_bytes();
            all.other(&format!("link{length}"), Kind::Symlink(target));
        }
        all.other("null", Kind::Character(1, 3));
        all.other("large", Kind::Character(1000, 70_000));
        all.other("loop0", Kind::Block(7, 0));
        all.other("fifo", Kind::Fifo);
        all.other(&"n".repeat(255), Kind::Directory);
        let capability = vec![1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        all.file("usr/ping", 0o755, bytes(9)).xattrs = vec![(b"security.capability".to_vec(), capability)];
        // user::rwx, user:1000:r--, group::r-x, mask::r-x, other::r-x
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [(1u16, 7u16, !0u32), (2, 4, 1000), (4, 5, !0), (16, 5, !0), (32, 5, !0)] {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        all.file("usr/attributes", 0o755, bytes(5000)).xattrs = vec![
            (b"system.posix_acl_access".to_vec(), acl),
            (b"user.long".to_vec(), bytes(1000)),
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.a".to_vec(), b"1".to_vec()),
        ];
        all
    }

    fn tree(&self) -> Tree {
        crate::tree::tests::tree(self.directory.path())
    }

    fn ext4(&self) -> Ext4 {
        Ext4::new(self.nodes.clone(), options(), &self.tree()).unwrap()
    }

    fn write(&self, path: &Path, blocks: u64) {
        let file = File::create_new(path).unwrap();
        file.set_len(blocks * BLOCK).unwrap();
        let to = Region { image: &file, start: 0, size: blocks * BLOCK, progress: &Progress::hidden() };
        self.ext4().write(&to, &self.tree()).unwrap();
    }

    /// The smallest number of blocks that leaves so many.
    fn smallest(&self, spare: u64) -> u64 {
        self.ext4().smallest(spare * BLOCK).unwrap() / BLOCK
    }
}

/// Runs a program on the image, and returns what it says. Fails where that is not success.
fn run(program: &str, args: &[&str], path: &Path) -> String {
    let path_of_tools = "/usr/sbin:/sbin:/usr/bin:/bin";
    let output = Command::new(program)
        .args(args)
        .arg(path)
        .env("PATH", path_of_tools)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: install e2fsprogs"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program}: {}\n{said}", output.status);
    said
}

fn fsck(path: &Path) {
    let said = run("e2fsck", &["-f", "-n"], path);
    assert!(!said.contains("Fix?") && !said.contains("optimize"), "{said}");
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = directory.path().join("image");
    (directory, path)
}

#[test]
fn e2fsck_has_nothing_to_say_whatever_the_size() {
    let (_guard, path) = scratch();
    let sample = Sample::of_everything();
    let smallest = sample.smallest(0);
    // Without and with a journal, up to several groups, those with copies too, and a last group that is a stub.
    for blocks in [smallest, 2047, 2048, 4000, 32_768, 32_800, 33_000, 98_304, 131_072 + 5000, 330_000] {
        sample.write(&path, blocks.max(smallest));
        fsck(&path);
        std::fs::remove_file(&path).unwrap();
    }
    Sample::new().write(&path, 256);
    fsck(&path);
}

#[test]
fn the_smallest_size_is_the_smallest() {
    let sample = Sample::of_everything();
    let ext4 = sample.ext4();
    for spare in [0, 1000, 100_000] {
        let smallest = sample.smallest(spare);
        let plan = Plan::new(&ext4, smallest).unwrap();
        assert!(plan.allocator.free() >= spare);
        let below = Plan::new(&ext4, smallest - 256);
        assert!(below.is_none_or(|plan| plan.allocator.free() < spare));
    }
}

#[test]
fn the_image_depends_on_nothing_but_the_tree() {
    let (_guard, path) = scratch();
    let other = path.with_extension("other");
    Sample::of_everything().write(&path, 8000);
    Sample::of_everything().write(&other, 8000);
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&other).unwrap());
    let blocks = path.metadata().unwrap().blocks() * 512;
    assert!(blocks < 5 << 20, "{blocks} bytes are written, and zeros are not");
}

#[test]
fn resize2fs_makes_it_larger_and_smaller() {
    let (_guard, path) = scratch();
    Sample::of_everything().write(&path, 8000);
    for size in ["200M", "20G", "64M"] {
        let text = path.to_str().unwrap();
        if size != "64M" {
            run("truncate", &["-s", size], &path);
        }
        let output = Command::new("/usr/sbin/resize2fs").args([text, size]).output().unwrap();
        assert!(output.status.success(), "{size}: {}", String::from_utf8_lossy(&output.stderr));
        fsck(&path);
    }
}

/// debugfs reads it without the kernel, as anybody.
#[test]
fn debugfs_finds_every_byte_and_attribute() {
    let (guard, path) = scratch();
    let sample = Sample::of_everything();
    sample.write(&path, 8000);
    let to = guard.path().join("dumped");
    for (name, expected) in [("file5", bytes(3 << 20)), ("sudo", b"#!/bin/sh\n".to_vec())] {
        let command = format!("dump /usr/{name} {}", to.display());
        run("debugfs", &["-R", &command], &path);
        assert!(std::fs::read(&to).unwrap() == expected, "{name}");
    }
    let said = run("debugfs", &["-R", "stat /usr/sudo"], &path);
    for part in ["Mode:  04755", "User: 70000", "Group:    12", "Links: 3", "Inode checksum: 0x"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("0x5f5e1000:00000000").count(), 3, "{said}");
    let said = run("debugfs", &["-R", "ea_list /usr/attributes"], &path);
    for part in ["user.long (1000)", "user.empty (0)", "user.a (1) = \"1\"", "system.posix_acl_access"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = run("debugfs", &["-R", "ea_list /usr/ping"], &path);
    assert!(said.contains("security.capability (20)"), "{said}");
    let said = run("debugfs", &["-R", "stat /large"], &path);
    assert!(said.contains("1000:70000"), "{said}");
    let said = run("debugfs", &["-R", "stat /link61"], &path);
    assert!(said.contains("Size: 61"), "{said}");
}

#[test]
fn what_ext4_cannot_hold_is_refused() {
    let long = "x".repeat(256);
    for bad in [
        node(&long, 0, Kind::Fifo),
        node("usr", 0, Kind::Fifo),
        node("lost+found", 0, Kind::Fifo),
        node("fifo/x", 0, Kind::Fifo),
        node("m", 0, Kind::Symlink(Vec::new())),
        node("m", 0, Kind::Symlink(vec![b'x'; 4096])),
        node("m", 0, Kind::Character(4096, 0)),
        node("m", 0, Kind::Block(0, 1 << 20)),
    ] {
        let mut sample = Sample::new();
        sample.other("usr", Kind::Directory);
        sample.other("fifo", Kind::Fifo);
        sample.nodes.push(bad);
        Ext4::new(sample.nodes.clone(), options(), &sample.tree()).unwrap_err();
    }
    for mtime in [-(1 << 31) - 1, 1 << 34, i64::MIN, i64::MAX] {
        let mut sample = Sample::new();
        sample.nodes[0].mtime = mtime;
        Ext4::new(sample.nodes.clone(), options(), &sample.tree()).unwrap_err();
    }
}

#[test]
fn a_file_has_at_most_65000_names() {
    let mut sample = Sample::new();
    let first = sample.other("0", Kind::Fifo);
    for n in 1..65_000 {
        sample.other(&n.to_string(), Kind::HardLink(first));
    }
    sample.ext4();
    sample.other("65000", Kind::HardLink(first));
    Ext4::new(sample.nodes.clone(), options(), &sample.tree()).unwrap_err();
}

#[test]
fn a_directory_with_too_many_links_has_one() {
    let (_guard, path) = scratch();
    let mut sample = Sample::new();
    for n in 0..65_000 {
        sample.other(&n.to_string(), Kind::Directory);
    }
    sample.write(&path, sample.smallest(0));
    let said = run("debugfs", &["-R", "stat /"], &path);
    assert!(said.contains("Links: 1 "), "{said}");
}

#[test]
fn a_file_that_changes_is_noticed() {
    let mut sample = Sample::new();
    sample.sparse("file", 100_000, &[(0, 5)]);
    let ext4 = sample.ext4();
    std::fs::write(sample.directory.path().join("file"), "other").unwrap();
    let file = tempfile::tempfile().unwrap();
    let to = Region { image: &file, start: 0, size: 2000 * BLOCK, progress: &Progress::hidden() };
    let message = ext4.write(&to, &sample.tree()).unwrap_err().message;
    assert!(message.ends_with("the file changed while it was read"), "{message}");
}

/// Nothing but zeros, so that it takes no room.
#[test]
fn a_file_over_many_groups_has_a_block_of_extents() {
    let (_guard, path) = scratch();
    let mut sample = Sample::new();
    sample.sparse("large", 1_500_000_001, &[]);
    let Kind::File(Content::Root(file)) = &mut sample.nodes[1].kind else {
        panic!("no file");
    };
    // Its holes are not kept.
    file.sparse = false;
    sample.write(&path, sample.smallest(0));
    fsck(&path);
    let said = run("debugfs", &["-R", "stat /large"], &path);
    assert!(said.contains("(ETB0)"), "{said}");
    assert!(path.metadata().unwrap().blocks() < 10_000);
}

/// 4000 pieces of a file: a tree of extents with two levels.
#[test]
fn a_file_with_thousands_of_holes_takes_no_blocks_for_them() {
    let (guard, path) = scratch();
    let mut sample = Sample::new();
    let size = 300 << 20;
    let pieces: Vec<_> = (0..4000).map(|n| (n * 73_728 + 5000, 5)).collect();
    sample.sparse("sparse", size, &pieces);
    let blocks = sample.smallest(0);
    assert!(blocks < 8000, "{blocks} blocks, without a hole");
    sample.write(&path, blocks);
    fsck(&path);
    let said = run("debugfs", &["-R", "stat /sparse"], &path);
    // 4001 of data, as the first piece begins near the start of the file; 12 leaves and one block above them.
    assert!(said.contains(&format!("Blockcount: {}", 4014 * 8)), "{}", said.lines().take(5).collect::<String>());
    let to = guard.path().join("dumped");
    run("debugfs", &["-R", &format!("dump /sparse {}", to.display())], &path);
    assert!(std::fs::read(&to).unwrap() == sparse_bytes(size, &pieces));
}

/// The kernel mounts the image in a namespace of its own and changes it, and what it leaves is clean. Only root can
/// ask it.
#[test]
fn the_kernel_mounts_it_and_finds_what_was_put_in() {
    assert!(rustix::process::geteuid().is_root(), "mounting an image needs root: run the tests as root");
    let (guard, path) = scratch();
    let sample = Sample::of_everything();
    sample.write(&path, 16_000);
    let at = guard.path().join("mounted");
    let out = guard.path().join("out");
    for directory in [&at, &out] {
        std::fs::create_dir(directory).unwrap();
    }
    // The copy is looked at afterwards: the mount is seen by nobody but the shell, and goes with it.
    let script = "set -e; mount -o loop \"$1\" \"$2\"; cp -a \"$2\"/. \"$3\"; touch \"$2/usr/many/new\"; \
                  rm -r \"$2/usr/many/directory1\"; mkdir \"$2/new\"; umount \"$2\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([&path, &at, &out])
        .status()
        .unwrap();
    assert!(status.success());
    fsck(&path);
    let many = std::fs::read_dir(out.join("usr/many")).unwrap().count();
    assert_eq!(many, 1500 + 300 + 1);
    let stat = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    let sudo = stat("usr/sudo");
    assert_eq!((sudo.mode() & 0o7777, sudo.uid(), sudo.gid()), (0o4755, 70_000, 12));
    assert_eq!((sudo.nlink(), sudo.mtime()), (3, 1_600_000_000));
    assert_eq!(stat("visudo").ino(), sudo.ino());
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(stat("large").rdev(), rustix::fs::makedev(1000, 70_000));
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    for length in [1, 59, 60, 61, 4095] {
        let target = std::fs::read_link(out.join(format!("link{length}"))).unwrap();
        assert_eq!(target.as_os_str().len(), length);
    }
    for (n, size) in [0, 1, 4095, 4096, 4097, 3 << 20].into_iter().enumerate() {
        let mut read = Vec::new();
        let mut file = File::open(out.join(format!("usr/file{n}"))).unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes(size), "file{n}");
    }
    for (name, size, pieces) in SPARSE {
        let read = std::fs::read(out.join("usr").join(name)).unwrap();
        assert!(read == sparse_bytes(size, pieces), "{name}");
    }
    let attribute = |file: &str, name: &str| {
        let mut value = vec![0; 4096];
        let n = rustix::fs::getxattr(out.join(file), name, &mut value).unwrap();
        value.truncate(n);
        value
    };
    assert_eq!(attribute("usr/ping", "security.capability").len(), 20);
    assert_eq!(attribute("usr/attributes", "user.long"), bytes(1000));
    assert_eq!(attribute("usr/attributes", "user.empty"), b"");
    assert_eq!(attribute("usr/attributes", "system.posix_acl_access").len(), 4 + 5 * 8);
}
