//! Partition tables and boards: images of small roots, read back with other people's programs.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use image::board::{self, Proof};
use image::layout::{Layout, Source};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::small::{self, Ran, tool};
use tempfile::TempDir;

struct Lab {
    directory: TempDir,
    document: Value,
}

impl Lab {
    /// A root with a kernel, of an architecture.
    fn new(arch: &str) -> Self {
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let path = directory.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(path.join("var/lib/pacman/local")).unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!(meta.uid(), 0, "these tests make namespaces as root: run 'make test'");
        let document = json!({
            "strapline": 1,
            "root": path,
            "root_id": {"dev": meta.dev(), "ino": meta.ino()},
            "arch": arch,
            "distro": "archlinuxarm",
            "mode": "root",
            "mounts": rootfs::plan::api(false),
            "binfmt": {"kind": "native"},
        });
        let lab = Self { directory, document };
        lab.put("root/etc/os-release", b"NAME=\"Arch Linux ARM\"\n");
        lab.put("root/boot/Image", b"kernel");
        lab.put("root/boot/initramfs-linux.img", b"initramfs");
        lab
    }

    fn at(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(below)
    }

    /// Writes a file in the laboratory, with the directories above it.
    fn put(&self, below: &str, bytes: &[u8]) {
        let path = self.at(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_mkdisk")));
        small::prepare(command.args(args), &self.at(""));
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        Ran::of(&small::start(&mut command, &self.document).wait_with_output().unwrap())
    }

    /// Makes `disk.img` and returns its record.
    #[track_caller]
    fn disk(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["-o", "disk.img"], args].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.document["disks"][0].clone()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: &str, line: &str, hint: &str) {
        let before = small::names(&self.at(""));
        let ran = self.run(&[&["-o", "disk.img"], args].concat());
        ran.failed(code, line);
        assert!(ran.stderr.contains(&format!("mkdisk: hint: {hint}")), "{hint}: {}", ran.stderr);
        assert_eq!(small::names(&self.at("")), before);
    }

    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(self.at("disk.img")).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// Copies a partition out of the image.
    fn partition(&self, disk: &Value, name: &str) -> String {
        let partition = named(disk, name);
        let path = self.at(&format!("{name}.part"));
        let (start, size) = (number(partition, "start"), number(partition, "size"));
        let to = format!("of={}", path.display());
        let from = format!("if={}", self.at("disk.img").display());
        let [skip, count] = [format!("skip={start}"), format!("count={size}")];
        tool("dd", &[&from, &to, "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none", &skip, &count]);
        path.to_str().unwrap().to_owned()
    }
}

fn named<'a>(disk: &'a Value, name: &str) -> &'a Value {
    disk["partitions"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// Compares the record of a disk with what sfdisk(8) reads.
fn compare(disk: &Value, device: &Path) -> Value {
    let table: Value = serde_json::from_str(&tool("sfdisk", &["--json", device.to_str().unwrap()])).unwrap();
    let table = table["partitiontable"].clone();
    let sector = number(&table, "sectorsize");
    let partitions = disk["partitions"].as_array().unwrap();
    let found = table["partitions"].as_array().unwrap();
    assert_eq!(found.len(), partitions.len());
    for (n, (known, found)) in partitions.iter().zip(found).enumerate() {
        assert_eq!(number(found, "start") * sector, number(known, "start"));
        assert_eq!(number(found, "size") * sector, number(known, "size"));
        let kind = found["type"].as_str().unwrap().to_ascii_lowercase();
        assert_eq!(kind.trim_start_matches('0'), known["type"].as_str().unwrap().trim_start_matches('0'));
        // The kernel's PARTUUID.
        let uuid = match found.get("uuid") {
            Some(uuid) => uuid.as_str().unwrap().to_ascii_lowercase(),
            None => format!("{}-{:02x}", table["id"].as_str().unwrap().trim_start_matches("0x"), n + 1),
        };
        assert_eq!(uuid, known["uuid"].as_str().unwrap());
    }
    table
}

/// The bytes of a blob: no two places of it are the same.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n % 251) as u8 | 1).collect()
}

/// A root that has all that a board needs, but for the architecture's systemd-boot.
fn root_of(name: &str, layout: &Layout, arch: &str) -> Lab {
    let board = layout.board.as_ref().unwrap();
    let lab = Lab::new(arch);
    let length = if name == "pc-bios" { 440 } else { 300_000 };
    for path in layout.hints.keys() {
        lab.put(&format!("root/{path}"), &bytes(length));
    }
    if let Some(dtb) = &board.dtb {
        lab.put(&format!("root/boot/dtbs/{dtb}"), b"dtb");
    }
    for name in ["x64", "ia32", "aa64", "arm", "riscv64"] {
        lab.put(&format!("root/usr/lib/systemd/boot/efi/systemd-boot{name}.efi"), b"MZ");
    }
    lab
}

#[test]
fn each_board_is_read_back() {
    let arches = |layout: &Layout| layout.board.clone().unwrap().arch;
    let each = board::list()
        .unwrap()
        .into_iter()
        .flat_map(|(name, layout)| arches(&layout).into_iter().map(move |arch| (name, arch)));
    for (name, arch) in each {
        let layout = Layout::board(name, &arch).unwrap();
        let board = layout.board.as_ref().unwrap();
        assert_ne!(board.proof, Proof::Never, "{name} is read back here");
        let lab = root_of(name, &layout, &arch);
        let disk = lab.disk(&["--board", name]);
        let image = lab.at("disk.img");
        assert_eq!(disk["board"], *name);
        assert_eq!(disk.get("boot").is_none(), board.loader.as_deref() == Some("none"), "{name}: {disk}");
        if layout.geometry.has_gpt() {
            assert!(tool("sgdisk", &["--verify", image.to_str().unwrap()]).contains("No problems found"), "{name}");
        }
        if disk["table"] != "none" {
            compare(&disk, &image);
        }
        for blob in &layout.blobs {
            let Source::Root(path) = &blob.source else { panic!("{name}: {blob:?}") };
            let wanted = fs::read(lab.at("root").join(path)).unwrap();
            let found = lab.read(blob.offset, wanted.len());
            // The table of an MBR lies in a blob that begins at 0.
            let is_kept = |n: &usize| blob.offset > 0 || !(440..512).contains(n);
            let differs = (0..wanted.len()).find(|n| is_kept(n) && wanted[*n] != found[*n]);
            assert_eq!(differs, None, "{name}: {path}");
        }
        tool("e2fsck", &["-f", "-n", &lab.partition(&disk, "root")]);
        if layout.partitions.iter().any(|p| p.name == "boot") {
            let said = tool("fsck.vfat", &["-n", &lab.partition(&disk, "boot")]);
            assert_eq!(said.lines().count(), 2, "{name}: {said}");
        }
        for partition in layout.partitions.iter().filter(|p| matches!(p.content, image::layout::Content::File(_))) {
            let place = number(named(&disk, &partition.name), "start");
            assert_eq!(lab.read(place, 300_000), bytes(300_000), "{name}: {}", partition.name);
        }
    }
}

#[test]
fn what_a_board_boots_by_is_in_its_image() {
    let boards = board::list().unwrap();
    let of = |wanted: &str, args: &[&str], file: &str| {
        let (name, layout) = boards.iter().find(|(name, _)| *name == wanted).unwrap();
        let lab = root_of(name, layout, &layout.board.as_ref().unwrap().arch[0]);
        lab.put("root/boot/dtbs/rockchip/overlay/a.dtbo", b"overlay");
        lab.put("root/boot/kernel8.img", b"kernel8");
        lab.put("root/boot/config.txt", b"dtparam=audio=on\n");
        if wanted.starts_with("raspberrypi") {
            fs::remove_file(lab.at("root/boot/Image")).unwrap();
        }
        let disk = lab.disk(&[&["--board", name], args].concat());
        let boot = lab.partition(&disk, "boot");
        (tool("mtype", &["-i", &boot, &format!("::{file}")]), disk)
    };
    let args = ["--cmdline", "quiet", "--dtbo", "rockchip/overlay/a.dtbo"];
    let (conf, _) = of("orangepi-5", &args, "extlinux/extlinux.conf");
    let fdt = "  fdt /dtbs/rockchip/rk3588s-orangepi-5.dtb\n  fdtoverlays /dtbs/rockchip/overlay/a.dtbo\n";
    assert!(conf.contains(fdt) && conf.ends_with(" rw console=ttyS2,1500000 quiet\n"), "{conf}");
    let (conf, disk) = of("raspberrypi-3", &["--cmdline", "quiet"], "cmdline.txt");
    let uuid = named(&disk, "root")["uuid"].as_str().unwrap();
    assert_eq!(uuid.len(), 11);
    assert_eq!(conf, format!("root=PARTUUID={uuid} rw rootwait console=serial0,115200 console=tty1 quiet\n"));
    let (conf, _) = of("raspberrypi-4", &[], "config.txt");
    let added = "kernel=kernel8.img\narm_64bit=1\ninitramfs initramfs-linux.img followkernel\n";
    assert_eq!(conf, format!("dtparam=audio=on\n\n# Added by mkdisk.\n[all]\n{added}"));
    let (conf, disk) = of("pc-bios", &["--cmdline", "quiet"], "syslinux/syslinux.cfg");
    assert!(
        conf.contains("  linux /Image\n  initrd /initramfs-linux.img\n") && conf.ends_with(" rw quiet\n"),
        "{conf}"
    );
    // The same bytes again, though another program wrote some of them.
    let (_, again) = of("pc-bios", &["--cmdline", "quiet"], "syslinux/ldlinux.sys");
    assert_eq!(disk["sha256"], again["sha256"]);
}

#[test]
fn each_table_is_what_others_read() {
    let lab = Lab::new("aarch64");
    let boot = "[[partition]]\nname='boot'\ntype='data'\nattributes=['legacy-boot']\nsize='300M'\nfilesystem='vfat'\nat='/boot'\n";
    let root = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";
    let with = |text: &str| {
        lab.put("l.toml", text.as_bytes());
        lab.disk(&["--layout", "l.toml"])
    };
    let image = lab.at("disk.img");
    let path = image.to_str().unwrap();

    let disk = with(&format!("table='mbr'\nid='Cafe0123'\n{boot}{root}"));
    assert_eq!((&disk["table"], disk.get("sector")), (&json!("mbr"), None));
    let table = compare(&disk, &image);
    assert_eq!((&table["label"], &table["id"]), (&json!("dos"), &json!("0xcafe0123")));
    assert_eq!((&table["partitions"][0]["bootable"], &table["partitions"][0]["type"]), (&json!(true), &json!("c")));
    assert_eq!(named(&disk, "root")["uuid"], "cafe0123-02");
    assert!(tool("blkid", &["-p", "-o", "export", path]).contains("PTUUID=cafe0123\nPTTYPE=dos"));

    let disk = with(&format!("table='hybrid'\n{}in_mbr=true\n{root}", boot));
    assert_eq!(compare(&disk, &image)["label"], "gpt");
    assert!(tool("sgdisk", &["--verify", path]).contains("No problems found"));
    let said = tool("sgdisk", &["--print-mbr", path]);
    assert!(said.contains("0x0C") && said.contains("0xEE"), "{said}");
    let dos: Value = serde_json::from_str(&tool("sfdisk", &["--json", "--label-nested", "dos", path])).unwrap();
    let found = &dos["partitiontable"]["partitions"];
    assert_eq!((&found[0]["type"], &found[0]["start"], &found[1]["start"]), (&json!("c"), &json!(2048), &json!(1)));

    // A ROM loads from where the entries would be.
    lab.put("spl", &bytes(600_000));
    let moved = "entries='1M'\nstart='2M'\n[[blob]]\nfile='spl'\noffset='8K'\n";
    let disk = with(&format!("{moved}{boot}{root}"));
    compare(&disk, &image);
    assert!(tool("sgdisk", &["--verify", path]).contains("No problems found"));
    assert_eq!(lab.read(8192, 600_000), bytes(600_000));

    let disk = with(&format!("table='none'\n{}", root.replace("'rest'", "'auto'")));
    let said = tool("blkid", &["-p", "-o", "export", path]);
    let uuid = disk["partitions"][0]["filesystem"]["uuid"].as_str().unwrap();
    assert!(said.contains(&format!("UUID={uuid}")) && said.contains("TYPE=ext4") && !said.contains("PTTYPE"), "{said}");
    tool("e2fsck", &["-f", "-n", path]);
    assert_eq!(disk["partitions"][0].get("uuid"), None);
    assert_eq!((number(&disk["partitions"][0], "start"), &disk["partitions"][0]["size"]), (0, &disk["size"]));
}

/// A loop device with sectors of 4096 bytes, as long as it is looked at.
struct Loop(String);

impl Loop {
    fn of(image: &Path, place: Option<(u64, u64)>) -> Self {
        let (offset, size) = place.unwrap_or_default();
        let [offset, size] = [format!("--offset={offset}"), format!("--sizelimit={size}")];
        let args = ["--find", "--show", "--read-only", "--sector-size=4096", &offset, &size, image.to_str().unwrap()];
        Self(tool("losetup", &args).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        tool("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn sectors_of_4096_bytes() {
    let lab = Lab::new("aarch64");
    lab.put("root/boot/dtbs/A long name of a file", &bytes(10_000));
    for table in ["gpt", "mbr"] {
        let text = format!(
            "table='{table}'\nsector=4096\n[[partition]]\nname='boot'\ntype='esp'\nsize='auto'\nfilesystem='vfat'\nat='/boot'\n\
             [[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n"
        );
        lab.put("l.toml", text.as_bytes());
        let disk = lab.disk(&["--layout", "l.toml"]);
        assert_eq!(number(&disk, "sector"), 4096);
        let whole = Loop::of(&lab.at("disk.img"), None);
        assert_eq!(number(&compare(&disk, Path::new(&whole.0)), "sectorsize"), 4096);
        let said = tool("fsck.vfat", &["-n", &lab.partition(&disk, "boot")]);
        assert_eq!(said.lines().count(), 2, "{said}");
        let found =
            Command::new("mtype").args(["-i", &lab.partition(&disk, "boot"), "::dtbs/A long name of a file"]).output();
        assert!(found.unwrap().stdout == bytes(10_000), "{table}");
        let root = named(&disk, "root");
        let device = Loop::of(&lab.at("disk.img"), Some((number(root, "start"), number(root, "size"))));
        let script = "mount -o ro \"$1\" /mnt && exec cat /mnt/etc/os-release";
        let found = tool("unshare", &["--mount", "--propagation", "private", "sh", "-ec", script, "sh", &device.0]);
        assert_eq!(found, "NAME=\"Arch Linux ARM\"\n");
    }
    lab.refused(
        &["--layout", "l.toml", "--size", "2147484160"],
        "failed",
        "not a multiple of the sectors of 4096",
        "--size 2049M",
    );
}

#[test]
fn what_does_not_fit_a_board_is_refused() {
    let lab = Lab::new("aarch64");
    lab.put("big", &bytes(5 << 20));
    lab.put("root/boot/u-boot.bin.sd.bin", b"x");
    let other = "there are asahi, efi, ";
    lab.refused(&["--board", "nope"], "usage", "there is no board 'nope'", other);
    lab.refused(&["--board", "rpi4"], "usage", "there is no board 'rpi4'", "did you mean 'raspberrypi-4'? there are");
    let why = "reading the board 'visionfive-2': it is riscv64, and the root is aarch64";
    lab.refused(&["--board", "visionfive-2"], "usage", why, "give another board");
    let why = "looking for '/boot/u-boot-rockchip.bin' of the root, which the layout names: there is no such file";
    lab.refused(
        &["--board", "rk3568"],
        "not-found",
        why,
        "put 'strap uboot-odroid-m1' before this, or give --blob u-boot=FILE",
    );
    let build = "build it (U-Boot, rock5b-rk3588_defconfig), and give --blob u-boot=FILE";
    let dtb = "rockchip/rk3588-rock-5b.dtb";
    lab.refused(
        &["--board", "rock-5b"],
        "not-found",
        &format!("looking for the devicetree '{dtb}'"),
        "give it as a path there",
    );
    lab.put(&format!("root/boot/dtbs/{dtb}"), b"dtb");
    lab.refused(&["--board", "rock-5b"], "not-found", why, build);
    let why = "looking for '/boot/start4.elf' of the root";
    lab.refused(&["--board", "raspberrypi-4"], "not-found", why, "put 'strap raspberrypi-bootloader' before this");
    let why = "blob 'big' of 5242880 bytes at 0 overlaps partition 'boot', which begins at 4M";
    lab.refused(&["--board", "odroid-n2", "--blob", "u-boot=big"], "failed", why, "move one of them");
    let board = "table='mbr'\nsector=4096\n[board]\ntitle='x'\narch=['aarch64']\nloader='syslinux'\n";
    lab.put("s.toml", board.as_bytes());
    let why = "making a disk that boots by BIOS: SYSLINUX needs sectors of 512 bytes";
    lab.refused(&["--board", "./s.toml"], "usage", why, "leave sector out");
    let why = "the layout has no blob 'spl'";
    lab.refused(&["--board", "odroid-n2", "--blob", "spl=big"], "usage", why, "it has u-boot");
    lab.put("b.toml", b"[[blob]]\nfile='big'\noffset='0'\n[board]\ntitle='x'\narch=['aarch64']\n");
    let why = "blob './big' of 5242880 bytes at 0 overlaps the partition table, which begins at 440";
    lab.refused(&["--board", "./b.toml"], "failed", why, "move one of them");
    lab.put("l.toml", b"[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n");
    lab.refused(
        &["--board", "l.toml"],
        "usage",
        "reading the board 'l.toml': it has no [board]",
        "give it with --layout",
    );
    lab.refused(&["--layout", "b.toml"], "usage", "reading the layout 'b.toml': it is a board", "give it with --board");
    lab.run(&["-o", "disk.img", "--board", "efi", "--layout", "l.toml"]).failed("usage", "cannot be used with");
}

/// SYSLINUX leaves its temporary file where mtools fail.
#[test]
fn a_syslinux_that_fails_leaves_nothing() {
    let (name, layout) = board::list().unwrap().into_iter().find(|(name, _)| *name == "pc-bios").unwrap();
    let lab = root_of(name, &layout, "x86_64");
    lab.put("bin/mcopy", b"#!/bin/sh\nexit 1\n");
    fs::set_permissions(lab.at("bin/mcopy"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(lab.at("tmp")).unwrap();
    let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_mkdisk")));
    small::prepare(command.args(["-o", "disk.img", "--board", name]), &lab.at(""));
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.at("bin").display());
    command.env("PATH", path).env("TMPDIR", lab.at("tmp"));
    let ran = Ran::of(&small::start(&mut command, &lab.document).wait_with_output().unwrap());
    ran.failed("child-failed", "running syslinux: ");
    assert_eq!(small::names(&lab.at("tmp")), [""; 0]);
    assert_eq!(small::names(&lab.at("")), ["bin", "root", "tmp"]);
}

/// What a run leaves that is killed meanwhile, the next one takes over.
#[test]
fn a_run_that_is_killed_in_syslinux() {
    let (name, layout) = board::list().unwrap().into_iter().find(|(name, _)| *name == "pc-bios").unwrap();
    let lab = root_of(name, &layout, "x86_64");
    // Of its ancestors it kills mkdisk: syslinux runs it by a shell, which may or may not be there by now. The second field is
    // the name, the fourth the parent.
    let script = b"#!/bin/sh\npid=$PPID\nwhile read -r _ name _ up _ < /proc/$pid/stat\ndo\n\
        if [ \"$name\" = '(mkdisk)' ]; then kill -9 $pid; exit 1; fi\npid=$up\ndone\nexit 1\n";
    lab.put("bin/mcopy", script);
    fs::set_permissions(lab.at("bin/mcopy"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(lab.at("tmp")).unwrap();
    let run = |path: &str| {
        let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_mkdisk")));
        small::prepare(command.args(["-o", "disk.img", "--board", name]), &lab.at(""));
        command.env("PATH", path).env("TMPDIR", lab.at("tmp"));
        small::start(&mut command, &lab.document).wait_with_output().unwrap()
    };
    let system = "/usr/sbin:/usr/bin:/sbin:/bin";
    let killed = run(&format!("{}:{system}", lab.at("bin").display()));
    assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
    assert!(lab.at(".disk.img.syslinux").exists());
    let ran = run(system);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(small::names(&lab.at("")), ["bin", "disk.img", "root", "tmp"]);
    assert_eq!(small::names(&lab.at("tmp")), [""; 0]);
}

/// `docs/boards.md` is made from the boards: `cargo run -p image --example boards > docs/boards.md`.
#[test]
fn the_boards_are_listed() {
    let out = Command::new(env!("CARGO_BIN_EXE_mkdisk")).arg("--list-boards").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.starts_with("NAME "), "{text}");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/boards.md")).unwrap();
    assert_eq!(text.lines().count(), 1 + board::names().count());
    for (name, layout) in board::list().unwrap() {
        let title = layout.board.unwrap().title;
        assert!(text.lines().any(|l| l.starts_with(name) && l.ends_with(&title)), "{text}");
    }
    assert_eq!(page, board::page(&board::list().unwrap()), "cargo run -p image --example boards > docs/boards.md");
}
