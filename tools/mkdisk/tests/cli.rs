//! The built program on small roots: what it takes and refuses, what it writes and how it ends. Images are looked at with
//! other people's programs.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use strapline_tests::small::{self, Ran, tool};
use tempfile::TempDir;

const M: u64 = 1 << 20;

struct Lab {
    directory: TempDir,
    document: Value,
}

impl Lab {
    /// A root of a board with a kernel, a file or two, and no more.
    fn new() -> Self {
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let root = directory.path().canonicalize().unwrap().join("root");
        for below in ["etc/pacman.d", "boot", "proc", "tmp", "var/lib/pacman/local", "usr/bin"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::write(root.join("etc/os-release"), "NAME=\"Arch Linux ARM\"\n").unwrap();
        fs::write(root.join("etc/hostname"), "alarm\n").unwrap();
        fs::write(root.join("boot/Image"), "kernel").unwrap();
        fs::write(root.join("boot/initramfs-linux.img"), "initramfs").unwrap();
        let meta = root.metadata().unwrap();
        assert_eq!(meta.uid(), 0, "these tests make namespaces as root: run 'make test'");
        let document = json!({
            "strapline": 1,
            "root": root,
            "root_id": {"dev": meta.dev(), "ino": meta.ino()},
            "arch": "aarch64",
            "distro": "archlinuxarm",
            "mode": "root",
            "mounts": rootfs::plan::api(false),
            "binfmt": {"kind": "native"},
        });
        Self { directory, document }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    fn at(&self, below: &str) -> PathBuf {
        self.path().join(below)
    }

    fn root(&self, below: &str) -> PathBuf {
        self.path().join("root").join(below)
    }

    /// Writes a file in the laboratory, with the directories above it.
    fn put(&self, below: &str, text: &str) {
        let path = self.at(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_mkdisk")));
        command.args(args);
        small::prepare(&mut command, &self.path());
        command
    }

    fn start(&self, command: &mut Command, document: &Value) -> Child {
        small::start(command, document)
    }

    fn finish(&self, command: &mut Command, document: &Value) -> Ran {
        let child = self.start(command, document);
        Ran::of(&child.wait_with_output().unwrap())
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.finish(&mut self.command(args), &self.document)
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.document.get("error"), None);
        ran.document
    }

    /// Checks that it fails so, and leaves nothing.
    #[track_caller]
    fn bad(&self, args: &[&str], code: &str, line: &str) -> Ran {
        let before = self.names();
        let ran = self.run(args);
        ran.failed(code, line);
        assert_eq!(ran.document.get("disks"), None);
        assert_eq!(self.names(), before);
        ran
    }

    fn names(&self) -> Vec<String> {
        small::names(&self.path())
    }

    /// Copies a partition out of an image and returns its path.
    fn partition(&self, image: &str, document: &Value, n: usize) -> PathBuf {
        let partition = &document["disks"][0]["partitions"][n];
        let (start, size) = (partition["start"].as_u64().unwrap(), partition["size"].as_u64().unwrap());
        let (from, path) = (File::open(self.at(image)).unwrap(), self.at(&format!("partition{n}")));
        let to = File::create(&path).unwrap();
        to.set_len(size).unwrap();
        let mut bytes = vec![0; 1 << 16];
        let zeros = bytes.clone();
        for at in (0..size).step_by(bytes.len()) {
            let n = usize::try_from(size - at).unwrap().min(zeros.len());
            from.read_exact_at(&mut bytes[..n], start + at).unwrap();
            if bytes != zeros {
                to.write_all_at(&bytes[..n], at).unwrap();
            }
        }
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_board_s_image_is_what_the_document_says() {
    let lab = Lab::new();
    let document = lab.good(&["-o", "disk.img"]);
    let image = lab.at("disk.img");
    let disk = &document["disks"][0];
    assert_eq!(disk["file"], text(&image));
    assert_eq!(disk["size"], image.metadata().unwrap().len());
    let sum = tool("sha256sum", &[text(&image)]);
    assert!(sum.starts_with(disk["sha256"].as_str().unwrap()));
    let said = tool("sgdisk", &["--verify", text(&image)]);
    assert!(said.contains("No problems found"), "{said}");
    let [boot, root] = [0, 1].map(|n| disk["partitions"][n].clone());
    assert_eq!(
        (&boot["name"], &boot["at"], &boot["start"], &boot["size"]),
        (&json!("boot"), &json!("/boot"), &json!(M), &json!(256 * M))
    );
    assert_eq!((&root["name"], &root["at"], &root["start"]), (&json!("root"), &json!("/"), &json!(257 * M)));
    for (n, partition) in [&boot, &root].into_iter().enumerate() {
        let said = tool("sgdisk", &["--info", &(n + 1).to_string(), text(&image)]);
        let lower = said.to_lowercase();
        for part in [
            format!("partition guid code: {}", partition["type"].as_str().unwrap()),
            format!("partition unique guid: {}", partition["uuid"].as_str().unwrap()),
            format!("partition name: '{}'", partition["name"].as_str().unwrap()),
            format!("first sector: {} ", partition["start"].as_u64().unwrap() / 512),
        ] {
            assert!(lower.contains(&part), "{part}: {said}");
        }
    }
    let flags = |n: &str| tool("sgdisk", &["--info", n, text(&image)]);
    assert!(flags("1").contains("Attribute flags: 0000000000000004"));
    assert!(flags("2").contains("Attribute flags: 0800000000000000"));

    let fat = lab.partition("disk.img", &document, 0);
    tool("fsck.vfat", &["-n", text(&fat)]);
    let conf = tool("mtype", &["-i", text(&fat), "::extlinux/extlinux.conf"]);
    let uuid = root["filesystem"]["uuid"].as_str().unwrap();
    assert!(conf.contains("menu label Arch Linux ARM (linux)"), "{conf}");
    assert!(conf.ends_with(&format!("  initrd /initramfs-linux.img\n  append root=UUID={uuid} rw\n")), "{conf}");
    let ext4 = lab.partition("disk.img", &document, 1);
    tool("e2fsck", &["-fn", text(&ext4)]);
    let said = tool("debugfs", &["-R", "cat /etc/hostname", text(&ext4)]);
    assert!(said.ends_with("alarm\n"), "{said}");
    let said = tool("debugfs", &["-R", "ls /boot", text(&ext4)]);
    assert!(!said.contains("Image"), "{said}");
}

#[test]
fn the_bytes_depend_on_the_root_and_the_date() {
    let lab = Lab::new();
    let make = |name: &str, date: Option<&str>| {
        let mut command = lab.command(&["-o", name]);
        if let Some(date) = date {
            command.env("SOURCE_DATE_EPOCH", date);
        }
        let ran = lab.finish(&mut command, &lab.document);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.document["disks"][0]["sha256"].as_str().unwrap().to_owned()
    };
    let first = make("a.img", Some("1000000000"));
    assert_eq!(make("b.img", Some("1000000000")), first);
    let others = [make("c.img", Some("1000000001")), make("d.img", None), make("e.img", None)];
    for (n, other) in others.iter().enumerate() {
        assert!(*other != first && !others[..n].contains(other));
    }
    fs::write(lab.root("etc/hostname"), "other\n").unwrap();
    assert_ne!(make("f.img", Some("1000000000")), first);
    let mut command = lab.command(&["-o", "g.img"]);
    command.env("SOURCE_DATE_EPOCH", "yesterday");
    lab.finish(&mut command, &lab.document).failed("usage", "SOURCE_DATE_EPOCH");
}

#[test]
fn a_size_that_is_too_small_is_refused_with_one_that_does() {
    let lab = Lab::new();
    let noise: String = (0..3_000_000_u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for n in 0..20 {
        lab.put(&format!("root/usr/bin/file{n}"), &noise);
    }
    let ran = lab.bad(&["-o", "a.img", "--size", "290M"], "failed", "arranging the disk: a size of 290M is too small");
    let hint = ran.document["error"]["hint"].as_str().unwrap().to_owned();
    let size = hint.strip_prefix("--size ").unwrap().split(',').next().unwrap();
    let document = lab.good(&["-o", "a.img", "--size", size]);
    tool("e2fsck", &["-fn", text(&lab.partition("a.img", &document, 1))]);
    let number: u64 = size.strip_suffix('M').unwrap().parse().unwrap();
    assert_eq!(document["disks"][0]["size"], number * M);
    lab.finish(&mut lab.command(&["-o", "b.img", "--size", &format!("{}M", number - 1)]), &lab.document)
        .failed("failed", &format!("{size} would do"));
    let ran = lab.finish(&mut lab.command(&["-o", "b.img", "--boot", "1M"]), &lab.document);
    ran.failed("failed", "partition 'boot' of 1M is too small for what is in it: 33M would do");
    let document = lab.good(&["-o", "b.img", "--boot", "33M", "--headroom", "0"]);
    tool("fsck.vfat", &["-n", text(&lab.partition("b.img", &document, 0))]);
    tool("e2fsck", &["-fn", text(&lab.partition("b.img", &document, 1))]);
    // FAT32 has no numbers for more clusters.
    for (boot, size) in [("1T", "2T"), ("2T", "3T"), ("7T", "8T")] {
        lab.finish(&mut lab.command(&["-o", "d.img", "--boot", boot, "--size", size]), &lab.document)
            .failed("failed", &format!("partition 'boot' of {boot} is too large for its file system"));
    }
    let roomy = lab.good(&["-o", "c.img", "--headroom", "300M"]);
    let size = |document: &Value| document["disks"][0]["partitions"][1]["size"].as_u64().unwrap();
    assert!(size(&roomy) >= size(&document) + 299 * M, "{roomy}");
}

#[test]
fn a_layout_with_blobs_and_more_partitions() {
    let lab = Lab::new();
    lab.put("boards/idbloader.img", "RKNS-first");
    lab.put("root/usr/lib/u-boot.itb", "second");
    lab.put("root/home/u/file", "mine");
    lab.put("root/efi/x", "x");
    lab.put(
        "boards/layout.toml",
        "[[blob]]\nfile='idbloader.img'\noffset='32K'\n[[blob]]\nin_root='/usr/lib/u-boot.itb'\noffset='8M'\n\
         [[partition]]\nname='raw'\ntype='reserved'\noffset='12M'\nsize='auto'\nfile='idbloader.img'\n\
         [[partition]]\nname='esp'\ntype='esp'\noffset='16M'\nsize='40M'\nfilesystem='vfat'\nat='/efi'\nlabel='ESP'\n\
         [[partition]]\nname='empty'\ntype='linux'\nsize='8M'\nfilesystem='ext4'\n\
         [[partition]]\nname='home'\ntype='home'\nsize='auto'\nfilesystem='ext4'\nat='/home'\nlabel='home'\n\
         [[partition]]\nname='root'\ntype='root'\nuuid='AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE'\nsize='rest'\nfilesystem='ext4'\nat='/'\n",
    );
    let document = lab.good(&["-o", "disk.img", "--layout", "boards/layout.toml"]);
    let image = lab.at("disk.img");
    let said = tool("sgdisk", &["--verify", text(&image)]);
    assert!(said.contains("No problems found"), "{said}");
    let file = File::open(&image).unwrap();
    let read = |at: u64, n: usize| {
        let mut bytes = vec![0; n];
        file.read_exact_at(&mut bytes, at).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    assert_eq!(read(32 << 10, 11), "RKNS-first\0");
    assert_eq!(read(8 << 20, 7), "second\0");
    assert_eq!(read(12 << 20, 10), "RKNS-first");
    let esp = lab.partition("disk.img", &document, 1);
    tool("fsck.vfat", &["-n", text(&esp)]);
    assert_eq!(tool("mtype", &["-i", text(&esp), "::x"]), "x");
    for n in 2..5 {
        tool("e2fsck", &["-fn", text(&lab.partition("disk.img", &document, n))]);
    }
    let home = lab.partition("disk.img", &document, 3);
    assert!(tool("debugfs", &["-R", "cat /u/file", text(&home)]).ends_with("mine"));
    assert!(tool("dumpe2fs", &["-h", text(&home)]).contains("volume name:   home"));
    let root = lab.partition("disk.img", &document, 4);
    assert!(!tool("debugfs", &["-R", "ls /home", text(&root)]).contains('u'));
    // Where /boot is the root's own, paths say so.
    let conf = tool("debugfs", &["-R", "cat /boot/extlinux/extlinux.conf", text(&root)]);
    assert!(conf.contains("linux /boot/Image\n"), "{conf}");
    let partitions = &document["disks"][0]["partitions"];
    assert_eq!(partitions[4]["uuid"], "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee");
    assert_eq!(partitions[0].get("filesystem"), None);
    assert_eq!(partitions[2].get("at"), None);
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let lab = Lab::new();
    lab.put("blob", &"x".repeat(2 << 20));
    lab.put("root/usr/link-target", "x");
    symlink("link-target", lab.root("usr/link")).unwrap();
    symlink("usr", lab.root("linked")).unwrap();
    let root = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";
    for (layout, code, line) in [
        ("[[partition", "usage", "reading the layout 'l.toml': line 1: "),
        ("", "usage", "there is no root"),
        (&format!("{root}typo='x'"), "usage", "unknown field `typo`"),
        (&format!("[[blob]]\nfile='none'\noffset='1M'\n{root}"), "not-found", "opening 'none', which the layout names"),
        (&format!("[[blob]]\nfile='.'\noffset='1M'\n{root}"), "failed", "opening '.', which the layout names: "),
        (&format!("[[blob]]\nfile='/dev/zero'\noffset='1M'\n{root}"), "failed", "regular file"),
        (
            &format!("[[blob]]\nfile='blob'\noffset='32K'\n{root}"),
            "failed",
            "overlaps partition 'root', which begins at 1M",
        ),
        (&format!("[[blob]]\nin_root='/none'\noffset='32K'\n{root}"), "not-found", "looking for '/none' of the root"),
        (
            &format!("[[blob]]\nin_root='/usr/link'\noffset='32K'\n{root}"),
            "not-found",
            "looking for '/usr/link' of the root",
        ),
        (
            &format!("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\nfile='blob'\n{root}"),
            "failed",
            "partition 'a' of 1M is too small for what is in it: 2M would do",
        ),
        (
            &format!("[[partition]]\nname='a'\ntype='linux'\nsize='auto'\nfilesystem='ext4'\nat='/linked'\n{root}"),
            "failed",
            "is not a directory",
        ),
        (
            &format!("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\nfilesystem='vfat'\nat='/srv'\n{root}"),
            "failed",
            "33M would do",
        ),
    ] {
        lab.put("l.toml", layout);
        lab.bad(&["-o", "disk.img", "--layout", "l.toml", "--bootloader", "none"], code, line);
    }
    lab.bad(&["-o", "disk.img", "--layout", "none.toml"], "usage", "reading 'none.toml': No such file");
    fs::create_dir(lab.at("dir.toml")).unwrap();
    lab.bad(&["-o", "disk.img", "--layout", "dir.toml"], "usage", "reading 'dir.toml'");
    lab.put("l.toml", root);
    lab.bad(
        &["-o", "disk.img", "--layout", "l.toml", "--boot", "1G"],
        "usage",
        "--boot is the size of the partition at /boot",
    );
}

#[test]
fn what_fat_cannot_hold_is_refused_with_its_path() {
    let lab = Lab::new();
    let refused = |why: &str| {
        lab.bad(&["-o", "disk.img"], "failed", why);
    };
    symlink("Image", lab.root("boot/vmlinuz")).unwrap();
    refused("adding '/boot/vmlinuz' to a FAT file system: it is a symbolic link");
    fs::remove_file(lab.root("boot/vmlinuz")).unwrap();
    lab.put("root/boot/IMAGE", "x");
    refused("in case only");
    fs::remove_file(lab.root("boot/IMAGE")).unwrap();
    lchown(lab.root("boot/Image"), Some(5), Some(5)).unwrap();
    refused("adding '/boot/Image' to a FAT file system: it belongs to 5:5");
    lchown(lab.root("boot/Image"), Some(0), Some(0)).unwrap();
    fs::hard_link(lab.root("boot/Image"), lab.root("boot/copy")).unwrap();
    refused("a hard link");
    fs::remove_file(lab.root("boot/copy")).unwrap();
    // A link from elsewhere is none on that partition: each has the file.
    fs::hard_link(lab.root("boot/Image"), lab.root("usr/Image")).unwrap();
    let document = lab.good(&["-o", "disk.img"]);
    let root = lab.partition("disk.img", &document, 1);
    assert!(tool("debugfs", &["-R", "cat /usr/Image", text(&root)]).ends_with("kernel"));
    let huge = File::create(lab.root("boot/huge")).unwrap();
    huge.set_len(1 << 32).unwrap();
    let ran = lab.run(&["-o", "other.img"]);
    ran.failed("failed", "'/boot/huge' to a FAT file system: it is a file that is larger than 4 GiB");
}

#[test]
fn names_that_are_hostile_come_out_as_they_are() {
    use std::os::unix::ffi::OsStrExt;
    let lab = Lab::new();
    let raw = std::ffi::OsStr::from_bytes(b"raw\xff\n\x1b[31m\"'$(x)");
    fs::write(lab.root("usr").join(raw), "raw").unwrap();
    fs::write(lab.root("usr").join("n".repeat(255)), "long").unwrap();
    symlink("../../../../etc/shadow", lab.root("usr/out")).unwrap();
    fs::set_permissions(lab.root("usr/bin"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::write(lab.root("etc/os-release"), "PRETTY_NAME=\"a\u{1b}[0m\"\n").unwrap();
    let document = lab.good(&["-o", "disk.img"]);
    let root = lab.partition("disk.img", &document, 1);
    tool("e2fsck", &["-fn", text(&root)]);
    let said = tool("debugfs", &["-R", "stat /usr/out", text(&root)]);
    assert!(said.contains("../../../../etc/shadow"), "{said}");
    let fat = lab.partition("disk.img", &document, 0);
    let conf = tool("mtype", &["-i", text(&fat), "::extlinux/extlinux.conf"]);
    assert!(conf.contains("menu label Linux (linux)"), "{conf}");
}

#[test]
fn what_is_to_boot_must_be_there() {
    let lab = Lab::new();
    fs::remove_file(lab.root("boot/initramfs-linux.img")).unwrap();
    lab.bad(&["-o", "disk.img"], "not-found", "looking for the initramfs of '/boot/Image' of the root: not found");
    let document = lab.good(&["-o", "disk.img", "--cmdline", "console=ttyS0", "--no-initramfs"]);
    let fat = lab.partition("disk.img", &document, 0);
    let conf = tool("mtype", &["-i", text(&fat), "::extlinux/extlinux.conf"]);
    let part = document["disks"][0]["partitions"][1]["uuid"].as_str().unwrap();
    assert!(conf.ends_with(&format!("append root=PARTUUID={part} rw rootwait console=ttyS0\n")), "{conf}");
    fs::remove_file(lab.at("disk.img")).unwrap();
    fs::remove_file(&fat).unwrap();
    lab.bad(
        &["-o", "disk.img", "--no-initramfs", "--bootloader", "systemd-boot"],
        "not-found",
        "the root has no '/usr/lib/systemd/boot/efi/systemd-bootaa64.efi'",
    );
    let no_dtb = ["-o", "disk.img", "--no-initramfs", "--dtb", "a.dtb"];
    lab.bad(&no_dtb, "not-found", "no kernel of the root has devicetrees");
    lab.put("root/usr/lib/systemd/boot/efi/systemd-bootaa64.efi", "MZ");
    let document = lab.good(&["-o", "disk.img", "--no-initramfs"]);
    let fat = lab.partition("disk.img", &document, 0);
    assert_eq!(tool("mtype", &["-i", text(&fat), "::EFI/BOOT/BOOTAA64.EFI"]), "MZ");
    let entry = tool("mtype", &["-i", text(&fat), "::loader/entries/linux.conf"]);
    assert!(entry.contains("linux /Image\n"), "{entry}");
    fs::remove_file(lab.root("boot/Image")).unwrap();
    lab.finish(&mut lab.command(&["-o", "x.img"]), &lab.document)
        .failed("not-found", "looking for a kernel in '/boot' of the root: not found");
    drop(lab.good(&["-o", "disk.img", "--bootloader", "none"]));
    // The root itself is as it was.
    assert_eq!(fs::read_dir(lab.root("boot")).unwrap().count(), 0);
}

#[test]
fn the_file_systems_of_the_document_are_made_or_refused() {
    let mut lab = Lab::new();
    let root = json!({"at": "/", "type": "ext4", "uuid": "4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab"});
    let boot = json!({"at": "/boot", "type": "vfat", "uuid": "1A2B-3C4D"});
    lab.document["filesystems"] = json!([root, boot]);
    let document = lab.good(&["-o", "disk.img"]);
    let said = tool("blkid", &["-p", "-o", "export", text(&lab.partition("disk.img", &document, 1))]);
    assert!(said.contains("UUID=4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab"), "{said}");
    let said = tool("blkid", &["-p", "-o", "export", text(&lab.partition("disk.img", &document, 0))]);
    assert!(said.contains("UUID=1A2B-3C4D"), "{said}");
    fs::remove_file(lab.at("disk.img")).unwrap();
    for (filesystems, code, line) in [
        (json!([root]), "failed", "the layout has a partition for '/boot', and fstab does not"),
        (json!([root, boot, {"at": "/home", "type": "ext4", "uuid": "x"}]), "failed", "'/home' is in fstab"),
        (
            json!([root, {"at": "/boot", "type": "ext4", "uuid": "x"}]),
            "failed",
            "'/boot' is ext4 in fstab and vfat in the layout",
        ),
        (json!([root, {"at": "/boot", "type": "vfat", "uuid": "x"}]), "bad-document", "'x' is not a FAT volume id"),
        (
            json!([{"at": "/", "type": "ext4", "uuid": "x", "grows": "0fc63daf-8483-4772-8e79-3d69d8477de4"}, boot]),
            "failed",
            "'/' grows as the last partition, of another type",
        ),
        (json!("x"), "bad-document", "filesystems"),
    ] {
        lab.document["filesystems"] = filesystems;
        lab.bad(&["-o", "disk.img"], code, line);
    }
}

#[test]
fn a_swap_partition_is_what_mkswap_makes() {
    let mut lab = Lab::new();
    let uuid = "4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab";
    let root = json!({"at": "/", "type": "ext4", "uuid": uuid.replace("4a7f", "5b8e")});
    lab.document["filesystems"] = json!([root, {"at": "none", "type": "swap", "uuid": uuid}]);
    let layout = "[[partition]]\nname='swap'\ntype='swap'\nlabel='more'\nsize='8M'\n\
                  [[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";
    lab.put("l.toml", layout);
    let document = lab.good(&["-o", "disk.img", "--layout", "l.toml"]);
    let partition = lab.partition("disk.img", &document, 0);
    let theirs = lab.at("theirs");
    fs::File::create(&theirs).unwrap().set_len(8 << 20).unwrap();
    tool("mkswap", &["--quiet", "--pagesize", "4096", "--uuid", uuid, "--label", "more", text(&theirs)]);
    assert!(fs::read(&partition).unwrap() == fs::read(&theirs).unwrap(), "the bytes differ");
    assert_eq!(document["disks"][0]["partitions"][0]["filesystem"], json!({"type": "swap", "uuid": uuid}));
    lab.document["filesystems"] = json!([root]);
    lab.bad(
        &["-o", "x.img", "--layout", "l.toml"],
        "failed",
        "the layout has a partition for 'none', and fstab does not",
    );
}

#[test]
fn what_is_no_place_for_an_image_is_refused() {
    let lab = Lab::new();
    let disk = lab.at("disk");
    // A number that no driver has: nothing is behind it.
    let device = rustix::fs::makedev(240, 255);
    rustix::fs::mknodat(rustix::fs::CWD, &disk, rustix::fs::FileType::BlockDevice, rustix::fs::Mode::RUSR, device)
        .unwrap();
    let ran = lab.bad(&["-o", "disk"], "usage", "writing 'disk': it is a disk, not a file");
    assert!(
        ran.stderr.contains("hint: write the image to a file, and that to the disk: 'dd if=FILE of=disk"),
        "{}",
        ran.stderr
    );
    lab.bad(&["-o", "-"], "usage", "stdout carries the document");
    lab.bad(&["-o", "root/x.img"], "usage", "the file is in the root");
    lab.bad(&["-o", "none/x.img"], "not-found", "writing 'none/x.img'");
    lab.bad(&["-o", "/dev/null"], "usage", "writing '/dev/null'");
    lab.bad(&[], "usage", "--output <FILE>");
    for (option, value, line) in [
        ("--size", "0", "a size cannot be 0"),
        ("--size", "1.5G", "is not a size"),
        ("--size", "9T", "is more than 8T"),
        ("--boot", "rest", "is not a size"),
        ("--headroom", "x%", "a share is a whole number of percent"),
        ("--bootloader", "grub", "invalid value 'grub'"),
        ("--cmdline", "a\nb", "control characters"),
        ("--cmdline", "root=/dev/sda2", "root= is set by mkdisk"),
        ("--dtb", "../x", "a path below the directory of devicetrees"),
        ("--exclude", "a[", "--exclude a["),
    ] {
        lab.bad(&["-o", "x.img", option, value], "usage", line);
    }
}

#[test]
fn a_name_that_says_no_format_is_refused() {
    let lab = Lab::new();
    for name in ["x.zst", "x.IMG.GZ", "x.raw.bz2", "x.iso", "root.tar", "root.tar.zst", "x.2026-11", ".img"] {
        let ran = lab.bad(&["-o", name], "usage", &format!("writing '{name}': its name does not say in which format"));
        let hint = ran.document["error"]["hint"].as_str().unwrap();
        assert!(hint.starts_with("end it with one of .img, .raw, .img.zst"), "{hint}");
    }
}

/// Each format gives the same disk back, and the document has the hash of the file.
#[test]
fn each_format_holds_the_same_disk() {
    let lab = Lab::new();
    fs::write(lab.root("usr/bin/program"), vec![7; 3 << 20]).unwrap();
    let at = |name: &str| lab.at(name).display().to_string();
    let make = |name: &str| {
        let ran = lab.finish(lab.command(&["-o", name]).env("SOURCE_DATE_EPOCH", "1700000000"), &lab.document);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.document
    };
    drop(make("plain.img"));
    let plain = fs::read(lab.at("plain.img")).unwrap();
    for (name, format, back) in [
        ("x.img.zst", "zst", "zstd -dqc x.img.zst > back"),
        ("x.img.xz", "xz", "xz -dc x.img.xz > back"),
        ("x.raw.gz", "gz", "gzip -dc x.raw.gz > back"),
        ("x.qcow2", "qcow2", "qemu-img convert -O raw x.qcow2 back"),
        ("x.vhdx", "vhdx", "qemu-img convert -O raw x.vhdx back"),
        ("x.vmdk", "vmdk", "qemu-img convert -O raw x.vmdk back"),
    ] {
        let document = make(name);
        let disk = document["disks"].as_array().unwrap().iter().find(|d| d["file"] == at(name)).unwrap();
        assert_eq!((&disk["format"], &disk["size"]), (&json!(format), &json!(plain.len())));
        let sum = tool("sha256sum", &[&at(name)]);
        assert_eq!(disk["sha256"], sum[..64], "{name}");
        tool("sh", &["-ec", &format!("cd {} && {back}", lab.at("").display())]);
        assert!(fs::read(lab.at("back")).unwrap() == plain, "{name}");
        fs::remove_file(lab.at("back")).unwrap();
        fs::remove_file(lab.at(name)).unwrap();
    }
}

/// What is in no file takes no room, neither in the image nor, where it is a file's hole, in its file system.
#[test]
fn holes_are_left_out_and_a_large_disk_is_made_at_once() {
    let lab = Lab::new();
    let stored = |name: &str| lab.at(name).metadata().unwrap().blocks() * 512;
    let hole = |name: &str, size: u64, pieces: &[u64]| {
        let file = File::create(lab.root(name)).unwrap();
        file.set_len(size).unwrap();
        for at in pieces {
            file.write_all_at(b"data", *at).unwrap();
        }
    };
    hole("usr/bin/first", 200 * M, &[199 * M + 77]);
    hole("usr/bin/last", 200 * M + 1, &[0]);
    hole("usr/bin/between", 300 * M, &[5, 40 * M, 40 * M + 9000, 299 * M]);
    hole("usr/bin/only", 200 * M, &[]);
    // FAT has no holes, and the zeros are there.
    hole("boot/between", 30 * M, &[5, 20 * M]);
    let document = lab.good(&["-o", "disk.img"]);
    // The boot partition has 256 MiB, and the rest is headroom.
    let size = document["disks"][0]["size"].as_u64().unwrap();
    assert!(size < 400 * M, "{size}");
    assert!(stored("disk.img") < 2 * M, "{}", stored("disk.img"));
    let ext4 = lab.partition("disk.img", &document, 1);
    tool("e2fsck", &["-fn", text(&ext4)]);
    for (name, blocks) in [("first", 8), ("last", 8), ("between", 40), ("only", 0)] {
        let said = tool("debugfs", &["-R", &format!("stat /usr/bin/{name}"), text(&ext4)]);
        assert!(said.contains(&format!("Blockcount: {blocks}\n")), "{name}: {said}");
    }
    // The kernel reads what the root has.
    let same = "mkdir at && mount -o loop,ro partition1 at && diff -r at/usr/bin root/usr/bin && umount at && rmdir at";
    tool("unshare", &["-m", "sh", "-c", &format!("cd \"$0\" && {same}"), text(&lab.path())]);

    let fat = lab.partition("disk.img", &document, 0);
    tool("mcopy", &["-i", text(&fat), "::between", text(&lab.at("copied"))]);
    assert!(fs::read(lab.at("copied")).unwrap() == fs::read(lab.root("boot/between")).unwrap());

    let document = lab.good(&["-o", "large.img", "--size", "64G"]);
    let disk = &document["disks"][0];
    assert_eq!((&disk["size"], disk.get("sha256")), (&json!(64u64 << 30), None));
    assert!(stored("large.img") < 16 * M, "{}", stored("large.img"));
    // What an earlier run said of the file does not stay.
    let ran = lab.finish(&mut lab.command(&["-o", "disk.img", "--size", "64G"]), &lab.good(&["-o", "disk.img"]));
    assert_eq!(ran.document["disks"][0].get("sha256"), None, "{}", ran.stderr);
    tool("sgdisk", &["--verify", text(&lab.at("large.img"))]);
}

/// Each file has what it had, by its name, whatever FAT calls it besides.
#[test]
fn short_names_of_fat_meet_no_file() {
    let lab = Lab::new();
    let names = ["A b", "AB~1", "c d", "cd~1", "EFGHIJ~1.TXT", "efghijklm.txt", "efghijkno.txt"];
    for name in names {
        lab.put(&format!("root/boot/{name}"), name);
        lab.put(&format!("root/boot/some where/{name}"), name);
    }
    lab.put("root/boot/SOMEWH~1", "no directory");
    let document = lab.good(&["-o", "disk.img"]);
    let fat = lab.partition("disk.img", &document, 0);
    tool("fsck.vfat", &["-n", text(&fat)]);
    for name in names {
        for path in [name.to_owned(), format!("some where/{name}")] {
            assert_eq!(tool("mtype", &["-i", text(&fat), &format!("::{path}")]), name, "{path}");
        }
    }
    let said = tool("mtype", &["-i", text(&fat), "::SOMEWH~1"]);
    assert_eq!(said, "no directory");
}

#[test]
fn a_directory_too_large_for_fat_is_named() {
    let lab = Lab::new();
    fs::create_dir(lab.root("boot/many")).unwrap();
    for n in 0..65_535 {
        fs::write(lab.root(&format!("boot/many/{n:X}")), "").unwrap();
    }
    lab.bad(&["-o", "disk.img"], "failed", "adding '/boot/many' to a FAT file system: it has more names than");
}

#[test]
fn a_secret_key_a_strap_and_a_killed_pacman_are_refused() {
    let lab = Lab::new();
    lab.put("root/etc/pacman.d/gnupg/private-keys-v1.d/A.key", "secret");
    lab.bad(&["-o", "disk.img"], "failed", "is the keyring's secret key");
    drop(lab.good(&["-o", "disk.img", "--keep-keyring"]));
    drop(lab.good(&["-o", "disk.img", "--exclude", "etc/pacman.d/gnupg"]));
    lab.put("root/etc/ssh/ssh_host_rsa_key", "secret");
    let ran = lab.run(&["-o", "disk.img", "--keep-keyring"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("same secret keys: 1 of them, such as 'etc/ssh/ssh_host_rsa_key'"), "{}", ran.stderr);
    fs::remove_file(lab.at("disk.img")).unwrap();
    let database = File::open(lab.root("var/lib/pacman")).unwrap();
    flock(&database, FlockOperation::LockExclusive).unwrap();
    lab.bad(&["-o", "disk.img", "--keep-keyring"], "busy", "locking ");
    // A child of another test may have the file open until it is another program.
    flock(&database, FlockOperation::Unlock).unwrap();
    lab.put("root/var/lib/pacman/db.lck", "");
    lab.bad(&["-o", "disk.img", "--keep-keyring"], "failed", "db.lck");
}

#[test]
fn a_second_run_replaces_its_own_record_only() {
    let lab = Lab::new();
    let mut document = lab.good(&["-o", "disk.img"]);
    document["disks"][0]["org.example"] = json!("kept");
    let other = json!({"file": "/other.img", "size": 1, "partitions": [], "org.x": 1});
    let disks = document["disks"].as_array_mut().unwrap();
    disks.push(other.clone());
    let ran = lab.finish(&mut lab.command(&["-o", "disk.img", "--boot", "64M"]), &document);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let disks = ran.document["disks"].as_array().unwrap();
    assert_eq!(disks.len(), 2);
    assert_eq!(disks[0]["org.example"], "kept");
    assert_eq!(disks[0]["partitions"][0]["size"], 64 * M);
    assert_eq!(disks[1], other);
}

#[test]
fn without_a_reader_the_image_is_removed_again() {
    let lab = Lab::new();
    let mut command = lab.command(&["-o", "disk.img"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let ran = lab.finish(&mut command, &lab.document);
    assert_eq!(ran.status, 74, "{}", ran.stderr);
    assert_eq!(lab.names(), ["root"]);
}

/// Whatever the moment: what had the name before has it still, and nothing else is there.
#[test]
fn a_run_that_is_interrupted_or_killed_leaves_nothing() {
    let lab = Lab::new();
    fs::write(lab.at("disk.img"), "before").unwrap();
    let noise: String = (0..30_000_000_u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    lab.put("root/usr/bin/large", &noise);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL] {
        let mut child = lab.start(&mut lab.command(&["-o", "disk.img"]), &lab.document);
        let files = PathBuf::from(format!("/proc/{}/fd", child.id()));
        // The image without a name is open: the work has begun.
        let begun = || {
            let open = fs::read_dir(&files).into_iter().flatten().flatten();
            let mut links = open.filter_map(|f| fs::read_link(f.path()).ok());
            links.any(|l| l.starts_with(lab.path()) && text(&l).ends_with("(deleted)"))
        };
        while !begun() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it began");
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(lab.names(), ["disk.img", "root"], "{signal:?}");
        assert_eq!(fs::read(lab.at("disk.img")).unwrap(), b"before", "{signal:?}");
        if signal != Signal::KILL {
            Ran::of(&out).failed("interrupted", "interrupted by a signal");
        }
    }
}

#[test]
fn a_signal_ends_it_also_where_most_of_the_disk_is_empty() {
    // The one is hashed, of the other the tables take their time.
    for size in ["4G", "3T"] {
        let lab = Lab::new();
        let mut command = lab.command(&["-o", "disk.img", "--size", size]);
        let mut child = lab.start(&mut command, &lab.document);
        let files = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let ready = || {
            let open = fs::read_dir(&files).into_iter().flatten().flatten();
            let mut sizes = open.filter_map(|f| f.path().metadata().ok());
            // The image has its whole length, or will have it soon.
            sizes.any(|m| m.is_file() && m.len() >= 4 << 30)
        };
        while !ready() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it began");
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let begin = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed().as_secs() > 20 {
                child.kill().unwrap();
                panic!("{size}: it reads on");
            }
            std::thread::yield_now();
        }
        let out = child.wait_with_output().unwrap();
        Ran::of(&out).failed("interrupted", "interrupted by a signal");
        assert_eq!(lab.names(), ["root"], "{size}");
    }
}
