//! The judges of what this library writes: e2fsck(8), debugfs(8), resize2fs(8), and the kernel where it may be asked.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use ext4::{BLOCK, Kind, Meta, NodeId, Options, Plan, Tree};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const OPTIONS: fn() -> Options = || Options {
    uuid: *b"0123456789abcdef",
    hash_seed: *b"fedcba9876543210",
    label: "judged".to_owned(),
    time: 1_700_000_000,
};

/// Offsets and lengths.
type Pieces = &'static [(u64, u64)];

/// Files with holes: at each end, between pieces that meet in a block, nothing else, and more than fit into an inode.
const SPARSE: [(&str, usize, Pieces); 5] = [
    ("hole-first", 300_000, &[(200_000, 100_000)]),
    ("hole-last", 300_001, &[(0, 4097)]),
    (
        "hole-between",
        300_000,
        &[(0, 10), (8000, 300), (8400, 1), (299_999, 1)],
    ),
    ("hole-only", 300_000, &[]),
    (
        "holes",
        300_000,
        &[
            (1, 1),
            (10_000, 1),
            (50_000, 1),
            (90_000, 1),
            (130_000, 1),
            (170_000, 1),
        ],
    ),
];

/// A tree, and what is in its files.
struct Sample {
    tree: Tree,
    content: HashMap<NodeId, Vec<u8>>,
}

fn meta(permissions: u16) -> Meta {
    Meta {
        permissions,
        uid: 70_000,
        gid: 12,
        mtime: 1_600_000_000,
        xattrs: Vec::new(),
    }
}

/// Bytes that differ from block to block.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 % 251) as u8).collect()
}

impl Sample {
    fn new() -> Self {
        let tree = Tree::new(Meta {
            permissions: 0o755,
            ..Meta::default()
        });
        Self {
            tree: tree.unwrap(),
            content: HashMap::new(),
        }
    }

    fn file(&mut self, parent: NodeId, name: &str, meta: Meta, content: Vec<u8>) -> NodeId {
        let size = content.len() as u64;
        let node = self
            .tree
            .add(parent, name.as_bytes(), meta, Kind::File(size))
            .unwrap();
        self.content.insert(node, content);
        node
    }

    /// A file that has data at these offsets, each of these many bytes, and holes around it.
    fn sparse(&mut self, parent: NodeId, name: &str, size: usize, pieces: &[(u64, u64)]) -> NodeId {
        let mut content = vec![0; size];
        for (at, length) in pieces {
            content[*at as usize..(at + length) as usize].fill(b'x');
        }
        let node = self.file(parent, name, meta(0o644), content);
        self.tree.set_data(node, pieces);
        node
    }

    fn other(&mut self, parent: NodeId, name: &str, kind: Kind) -> NodeId {
        self.tree
            .add(parent, name.as_bytes(), meta(0o755), kind)
            .unwrap()
    }

    /// All kinds of files, and the sizes at which something changes.
    fn of_everything() -> Self {
        let mut all = Self::new();
        let root = all.tree.root();
        let usr = all.other(root, "usr", Kind::Directory);
        for (n, size) in [0, 1, 4095, 4096, 4097, 3 << 20].into_iter().enumerate() {
            all.file(usr, &format!("file{n}"), meta(0o644), bytes(size));
        }
        let mut holes = bytes(64 << 10);
        holes[8192..40960].fill(0);
        all.file(usr, "zeros-inside", meta(0o600), holes);
        all.file(usr, "empty-inside", meta(0o600), vec![0; 50_000]);
        for (name, size, pieces) in SPARSE {
            all.sparse(usr, name, size, pieces);
        }
        let many = all.other(usr, "many", Kind::Directory);
        for n in 0..1500 {
            all.file(
                many,
                &format!("a-rather-long-name-{n:05}"),
                meta(0o644),
                bytes(n % 3),
            );
        }
        for n in 0..300 {
            all.other(many, &format!("directory{n}"), Kind::Directory);
        }
        let program = all.file(usr, "sudo", meta(0o4755), b"#!/bin/sh\n".to_vec());
        all.tree.link(many, b"sudoedit", program).unwrap();
        all.tree.link(root, b"visudo", program).unwrap();
        for length in [1, 59, 60, 61, 4095] {
            let target = "t".repeat(length).into_bytes();
            all.other(root, &format!("link{length}"), Kind::Symlink(target));
        }
        all.other(root, "null", Kind::CharacterDevice(1, 3));
        all.other(root, "large", Kind::CharacterDevice(1000, 70_000));
        all.other(root, "loop0", Kind::BlockDevice(7, 0));
        all.other(root, "fifo", Kind::Fifo);
        all.other(root, "socket", Kind::Socket);
        all.other(root, &"n".repeat(255), Kind::Directory);
        let with = |xattrs: &[(&str, Vec<u8>)]| Meta {
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.clone()))
                .collect(),
            ..meta(0o755)
        };
        let capability = vec![
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        all.file(
            usr,
            "ping",
            with(&[("security.capability", capability)]),
            bytes(9),
        );
        // user::rwx, user:1000:r--, group::r-x, mask::r-x, other::r-x
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (1u16, 7u16, !0u32),
            (2, 4, 1000),
            (4, 5, !0),
            (16, 5, !0),
            (32, 5, !0),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        let attributes = [
            ("system.posix_acl_access", acl),
            ("user.long", bytes(1000)),
            ("user.empty", Vec::new()),
            ("user.a", b"1".to_vec()),
        ];
        all.file(usr, "attributes", with(&attributes), bytes(5000));
        all
    }

    fn write(&self, path: &Path, blocks: u64) {
        let options = OPTIONS();
        let plan = Plan::new(&self.tree, &options, blocks).unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(blocks * BLOCK).unwrap();
        plan.write(&file, 0, |node| Ok(Cursor::new(&self.content[&node])))
            .unwrap();
    }

    fn smallest(&self, spare: u64) -> u64 {
        Plan::smallest(&self.tree, &OPTIONS(), spare, 256).unwrap()
    }
}

/// Runs a judge, and returns what it says. Fails where that is not success.
fn run(program: &str, args: &[&str], path: &Path) -> String {
    let path_of_tools = "/usr/sbin:/sbin:/usr/bin:/bin";
    let output = Command::new(program)
        .args(args)
        .arg(path)
        .env("PATH", path_of_tools)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: install e2fsprogs"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{said}",
        output.status
    );
    said
}

fn fsck(path: &Path) {
    let said = run("e2fsck", &["-f", "-n"], path);
    assert!(
        !said.contains("Fix?") && !said.contains("optimize"),
        "{said}"
    );
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
    for blocks in [
        smallest,
        2047,
        2048,
        4000,
        32_768,
        32_800,
        33_000,
        98_304,
        131_072 + 5000,
        330_000,
    ] {
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
    let options = OPTIONS();
    for spare in [0, 1000, 100_000] {
        let smallest = sample.smallest(spare);
        let plan = Plan::new(&sample.tree, &options, smallest).unwrap();
        assert!(plan.free_blocks() >= spare);
        let below = Plan::new(&sample.tree, &options, smallest - 256);
        assert!(below.is_err() || below.unwrap().free_blocks() < spare);
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
    assert!(
        blocks < 5 << 20,
        "{blocks} bytes are written, and zeros are not"
    );
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
        let output = Command::new("/usr/sbin/resize2fs")
            .args([text, size])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{size}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
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
    for part in [
        "Mode:  04755",
        "User: 70000",
        "Group:    12",
        "Links: 3",
        "Inode checksum: 0x",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("0x5f5e1000:00000000").count(), 3, "{said}");
    let said = run("debugfs", &["-R", "ea_list /usr/attributes"], &path);
    for part in [
        "user.long (1000)",
        "user.empty (0)",
        "user.a (1) = \"1\"",
        "system.posix_acl_access",
    ] {
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
fn a_file_that_changes_is_noticed() {
    let mut sample = Sample::new();
    let root = sample.tree.root();
    let node = sample.file(root, "file", meta(0o644), bytes(5000));
    let options = OPTIONS();
    let plan = Plan::new(&sample.tree, &options, 2000).unwrap();
    for length in [4999, 5001] {
        let file = tempfile::tempfile().unwrap();
        let error = plan.write(&file, 0, |_| Ok(Cursor::new(bytes(length))));
        assert!(
            matches!(error, Err(ext4::WriteError::Changed(n)) if n == node),
            "{length}"
        );
    }
    let file = tempfile::tempfile().unwrap();
    let fails = || std::io::Error::other("no");
    let error = plan.write::<File>(&file, 0, |_| Err(fails()));
    assert!(matches!(error, Err(ext4::WriteError::Reading(..))));
}

/// Nothing but zeros, so that it takes no room.
#[test]
fn a_file_over_many_groups_has_a_block_of_extents() {
    let (_guard, path) = scratch();
    let mut sample = Sample::new();
    let root = sample.tree.root();
    let size = 1_500_000_001;
    let node = sample
        .tree
        .add(root, b"large", meta(0o644), Kind::File(size))
        .unwrap();
    let options = OPTIONS();
    let blocks = sample.smallest(0);
    let plan = Plan::new(&sample.tree, &options, blocks).unwrap();
    let file = File::create(&path).unwrap();
    file.set_len(blocks * BLOCK).unwrap();
    plan.write(&file, 0, |n| {
        assert_eq!(n, node);
        let zeros = tempfile::tempfile()?;
        zeros.set_len(size)?;
        Ok(zeros)
    })
    .unwrap();
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
    let root = sample.tree.root();
    let size = 70 << 20;
    let pieces: Vec<_> = (0..4000).map(|n| (n * 16_384 + 5000, 5)).collect();
    let node = sample.sparse(root, "sparse", size, &pieces);
    let blocks = sample.smallest(0);
    assert!(blocks < 8000, "{blocks} blocks, without a hole");
    sample.write(&path, blocks);
    fsck(&path);
    let said = run("debugfs", &["-R", "stat /sparse"], &path);
    // 4000 of data, 12 leaves and one block above them.
    assert!(
        said.contains(&format!("Blockcount: {}", 4013 * 8)),
        "{said}"
    );
    let to = guard.path().join("dumped");
    run(
        "debugfs",
        &["-R", &format!("dump /sparse {}", to.display())],
        &path,
    );
    assert!(std::fs::read(&to).unwrap() == sample.content[&node]);
}

/// The kernel mounts the image in a namespace of its own and changes it, and what it leaves is clean. Only root can
/// ask it.
#[test]
fn the_kernel_mounts_it_and_finds_what_was_put_in() {
    assert!(
        rustix::process::geteuid().is_root(),
        "mounting an image needs root: run the tests as root"
    );
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
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([&path, &at, &out])
        .status()
        .unwrap();
    assert!(status.success());
    fsck(&path);
    let many = std::fs::read_dir(out.join("usr/many")).unwrap().count();
    assert_eq!(many, 1500 + 300 + 1);
    let stat = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    let sudo = stat("usr/sudo");
    assert_eq!(
        (sudo.mode() & 0o7777, sudo.uid(), sudo.gid()),
        (0o4755, 70_000, 12)
    );
    assert_eq!((sudo.nlink(), sudo.mtime()), (3, 1_600_000_000));
    assert_eq!(stat("visudo").ino(), sudo.ino());
    assert!(stat("fifo").file_type().is_fifo() && stat("socket").file_type().is_socket());
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
        let is = |n: usize| {
            pieces
                .iter()
                .any(|(at, length)| (*at..at + length).contains(&(n as u64)))
        };
        let expected: Vec<u8> = (0..size).map(|n| if is(n) { b'x' } else { 0 }).collect();
        assert!(read == expected, "{name}");
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
    assert_eq!(
        attribute("usr/attributes", "system.posix_acl_access").len(),
        4 + 5 * 8
    );
}
