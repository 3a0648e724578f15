//! What keeps an image from booting, found before it is written: roots that are damaged in one way each.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use strapline_tests::bootable::{Bootable, RELEASE, ROOT};
use strapline_tests::small::{self, Ran};

fn mkdisk(lab: &Bootable, args: &[&str]) -> Ran {
    let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_mkdisk")));
    command.args(["-o", "disk.img"]).args(args);
    lab.run(&mut command)
}

/// Cuts a file off in its middle.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Returns a good extlinux.conf with one more line.
fn entry(line: &str) -> String {
    format!("{line}\nlabel a\nlinux /Image\ninitrd /initramfs-linux.img\nappend root=UUID={ROOT}\n")
}

type Damage = fn(&Bootable);

/// What is damaged, and the line that says so.
const DAMAGES: [(Damage, &str); 15] = [
    (|lab| lab.initramfs(&["jbd2"], RELEASE), "'/boot/initramfs-linux.img' has no module 'ext4'"),
    (|lab| lab.initramfs(&["ext4"], RELEASE), "'/boot/initramfs-linux.img' has no module 'jbd2', which 'ext4' needs"),
    (
        |lab| {
            let modules = "kernel/ext4.ko: kernel/jbd2.ko\nkernel/jbd2.ko:\nkernel/crc32c_generic.ko:\n";
            lab.put(&format!("usr/lib/modules/{RELEASE}/modules.dep"), modules.as_bytes());
            lab.put(&format!("usr/lib/modules/{RELEASE}/modules.alias"), b"alias crc32c crc32c_generic\n");
        },
        "'/boot/initramfs-linux.img' has no module 'crc32c_generic', which 'ext4' needs",
    ),
    (
        |lab| {
            lab.put(
                "boot/extlinux/extlinux.conf",
                b"label a\nlinux /Image\ninitrd /initramfs-linux.img\nappend root=UUID=b\n",
            )
        },
        "'/boot/extlinux/extlinux.conf' has root=UUID=b, and the root of the image is UUID=4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab",
    ),
    (
        |lab| fs::remove_file(lab.root("boot/initramfs-linux.img")).unwrap(),
        "looking for the initramfs of '/boot/Image' of the root: not found",
    ),
    (|lab| lab.put("boot/initramfs-linux.img", b""), "'/boot/initramfs-linux.img' cannot be unpacked: it is empty"),
    (|lab| cut(&lab.root("boot/initramfs-linux.img")), "'/boot/initramfs-linux.img' cannot be unpacked: "),
    (
        |lab| lab.initramfs(&["ext4", "jbd2"], "6.1.0-2-test"),
        "'/boot/initramfs-linux.img' is for Linux 6.1.0-2-test, and '/boot/Image' is Linux 6.1.0-1-test",
    ),
    (
        |lab| lab.put("etc/fstab", b"UUID=b / ext4 rw 0 1\n"),
        "'/etc/fstab' mounts UUID=b at '/', and the image has UUID=4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab there",
    ),
    (
        |lab| lab.put("boot/extlinux/extlinux.conf", b"label a\nlinux /zImage\nappend root=UUID=b\n"),
        "'/boot/extlinux/extlinux.conf' names '/boot/zImage', which does not exist",
    ),
    (
        |lab| {
            let conf = format!(
                "label a\nlinux /Image\nfdt /dtbs/b.dtb\ninitrd /initramfs-linux.img\nappend root=UUID={ROOT}\n"
            );
            lab.put("boot/extlinux/extlinux.conf", conf.as_bytes());
        },
        "'/boot/extlinux/extlinux.conf' names '/boot/dtbs/b.dtb', which does not exist",
    ),
    (
        |lab| lab.put("boot/extlinux/extlinux.conf", entry("include more.conf").as_bytes()),
        "'/boot/extlinux/extlinux.conf' includes '/boot/extlinux/more.conf', which does not exist",
    ),
    (
        |lab| {
            lab.put("boot/extlinux/extlinux.conf", entry("MENU INCLUDE /more/a.conf Title").as_bytes());
            lab.put("boot/more/a.conf", b"include b.conf\n");
            lab.put("boot/extlinux/b.conf", b"label b\nlinux /zImage\nappend root=UUID=b\n");
        },
        "'/boot/extlinux/extlinux.conf' names '/boot/zImage', which does not exist",
    ),
    (
        |lab| fs::rename(lab.root(&format!("usr/lib/modules/{RELEASE}")), lab.root("usr/lib/modules/6.2")).unwrap(),
        "'/boot/Image' is Linux 6.1.0-1-test, and the root has no '/usr/lib/modules/6.1.0-1-test'",
    ),
    (
        |lab| fs::remove_file(lab.root(&format!("usr/lib/modules/{RELEASE}/modules.dep"))).unwrap(),
        "'/usr/lib/modules/6.1.0-1-test' has no modules.dep, so no module is found",
    ),
];

#[test]
fn what_cannot_boot_is_not_written() {
    for (n, (damage, line)) in DAMAGES.into_iter().enumerate() {
        let lab = Bootable::new();
        damage(&lab);
        let ran = mkdisk(&lab, &[]);
        let is_missing = line.starts_with("looking");
        ran.failed(if is_missing { "not-found" } else { "failed" }, line);
        assert!(ran.stderr.contains("mkdisk: hint: "), "{}", ran.stderr);
        assert_eq!(small::names(lab.path()), ["root"], "{n}");
        // Who knows better has a way out.
        let ran = mkdisk(&lab, if is_missing { &["--no-initramfs", "--no-boot-check"] } else { &["--no-boot-check"] });
        assert_eq!(ran.status, 0, "{n}: {}", ran.stderr);
    }
}

#[test]
fn a_menu_that_includes_itself_has_an_end() {
    let lab = Bootable::new();
    lab.put("boot/extlinux/extlinux.conf", entry(&"include extlinux.conf\n".repeat(1000)).as_bytes());
    let ran = mkdisk(&lab, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("includes more than 64 files: not all are read"), "{}", ran.stderr);
    // Each line may be an entry, of which there is one for each time that it is read.
    let many = "label a\nlinux /x\n".repeat(50_000);
    lab.put("boot/extlinux/extlinux.conf", (entry("") + &many + "include extlinux.conf\n").as_bytes());
    let ran = mkdisk(&lab, &["--no-boot-check"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.document["disks"][0]["boot"].as_array().map(Vec::len), Some(50_001));
}

#[test]
fn the_menu_of_another_loader_does_not_matter() {
    let lab = Bootable::new();
    lab.put("boot/syslinux/syslinux.cfg", b"label a\nlinux /gone\n");
    mkdisk(&lab, &[]).failed("failed", "names '/boot/gone', which does not exist");
    let ran = mkdisk(&lab, &["--bootloader", "extlinux"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let boot = ran.document["disks"][0]["boot"].as_array().unwrap();
    assert!(boot.iter().all(|entry| entry["file"] == "boot/extlinux/extlinux.conf"), "{boot:?}");
}

#[test]
fn a_name_on_a_fat_has_no_case() {
    let lab = Bootable::new();
    lab.put("boot/extlinux/extlinux.conf", entry("").replace("/Image", "/IMAGE").as_bytes());
    let ran = mkdisk(&lab, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn what_boots_is_written_and_recorded() {
    let lab = Bootable::new();
    let ran = mkdisk(&lab, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let entry = json!([{
        "file": "boot/extlinux/extlinux.conf",
        "kernel": "boot/Image",
        "initramfs": ["boot/initramfs-linux.img"],
        "devicetree": "boot/dtbs/",
        "cmdline": format!("root=UUID={ROOT} rw"),
    }]);
    assert_eq!(ran.document["disks"][0]["boot"], entry);
    // Without an initramfs, a module is a driver too late.
    fs::remove_file(lab.root("boot/initramfs-linux.img")).unwrap();
    mkdisk(&lab, &["--no-initramfs"])
        .failed("failed", "'/boot/Image' has no initramfs, and the driver 'ext4' is a module");
    let builtin = "kernel/fs/ext4/ext4.ko\n";
    lab.put(&format!("usr/lib/modules/{RELEASE}/modules.builtin"), builtin.as_bytes());
    let ran = mkdisk(&lab, &["--no-initramfs"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // What is no kernel that is known here is said, and no more than that.
    lab.put("boot/Image", b"kernel");
    let ran = mkdisk(&lab, &["--no-initramfs"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let line = "the drivers of '/boot/Image' are not checked: it is a kernel in no known format";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
}

const UNIFIED: &str = "boot/EFI/Linux/x.efi";

/// Makes a unified kernel image of the root's kernel and initramfs, without one of its sections.
fn unified(lab: &Bootable, cmdline: &str, without: &str) {
    let read = |path: &str| fs::read(lab.root(path)).unwrap();
    let (kernel, initramfs) = (read("boot/Image"), read("boot/initramfs-linux.img"));
    let sections = [
        (".osrel", b"ID=arch\n".as_slice()),
        (".cmdline", cmdline.as_bytes()),
        (".linux", &kernel),
        (".initrd", &initramfs),
    ];
    let sections: Vec<_> = sections.into_iter().filter(|(name, _)| *name != without).collect();
    lab.unified(UNIFIED, &sections);
}

/// The entry of a kernel that kernel-install(8) has put on the partition.
fn installed(lab: &Bootable, root: &str) {
    let id = "0123456789abcdef0123456789abcdef";
    for (from, to) in [("boot/Image", "linux"), ("boot/initramfs-linux.img", "initrd")] {
        lab.put(&format!("boot/{id}/{RELEASE}/{to}"), &fs::read(lab.root(from)).unwrap());
    }
    let entry = format!(
        "# Boot Loader Specification type#1 entry\ntitle      Arch\nversion    {RELEASE}\nmachine-id {id}\noptions    root=UUID={root}\n\
         linux      /{id}/{RELEASE}/linux\ninitrd     /{id}/{RELEASE}/initrd\n"
    );
    lab.put(&format!("boot/loader/entries/{id}-{RELEASE}.conf"), entry.as_bytes());
}

/// What is damaged in a unified kernel image, or in what kernel-install(8) has put there, and the line that says so.
const DAMAGES_OF_OTHERS: [(Damage, &str); 10] = [
    (
        |lab| unified(lab, &format!("root=UUID={ROOT}"), ".initrd"),
        "'/boot/EFI/Linux/x.efi' has no initramfs, and the driver 'ext4' is a module",
    ),
    (
        |lab| unified(lab, "root=UUID=b rw", ""),
        "'/boot/EFI/Linux/x.efi' has root=UUID=b, and the root of the image is UUID=4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab",
    ),
    (
        |lab| {
            lab.initramfs(&["jbd2"], RELEASE);
            unified(lab, &format!("root=UUID={ROOT}"), "");
            lab.initramfs(&["ext4", "jbd2"], RELEASE);
        },
        "'/boot/EFI/Linux/x.efi' has no module 'ext4'",
    ),
    (
        |lab| {
            lab.initramfs(&["ext4", "jbd2"], "6.1.0-2-test");
            unified(lab, &format!("root=UUID={ROOT}"), "");
            lab.initramfs(&["ext4", "jbd2"], RELEASE);
        },
        "'/boot/EFI/Linux/x.efi' is for Linux 6.1.0-2-test",
    ),
    (
        |lab| unified(lab, &format!("root=UUID={ROOT}"), ".osrel"),
        "'/boot/EFI/Linux/x.efi' is no unified kernel image: it has no section .osrel",
    ),
    (
        |lab| unified(lab, &format!("root=UUID={ROOT}"), ".linux"),
        "'/boot/EFI/Linux/x.efi' is no unified kernel image: it has no section .linux",
    ),
    (
        |lab| {
            unified(lab, &format!("root=UUID={ROOT}"), "");
            cut(&lab.root(UNIFIED));
        },
        "'/boot/EFI/Linux/x.efi' is no unified kernel image: it is cut off",
    ),
    (|lab| lab.put(UNIFIED, &[b'x'; 1000]), "'/boot/EFI/Linux/x.efi' is no unified kernel image: it is no PE file"),
    (
        |lab| installed(lab, "b"),
        "'/boot/loader/entries/0123456789abcdef0123456789abcdef-6.1.0-1-test.conf' has root=UUID=b, and the root of the image is UUID=",
    ),
    (
        |lab| {
            installed(lab, ROOT);
            fs::remove_file(lab.root("boot/0123456789abcdef0123456789abcdef/6.1.0-1-test/initrd")).unwrap();
        },
        "names '/boot/0123456789abcdef0123456789abcdef/6.1.0-1-test/initrd', which does not exist",
    ),
];

#[test]
fn unified_images_and_others_entries_are_read() {
    for (damage, line) in DAMAGES_OF_OTHERS {
        let lab = Bootable::new();
        damage(&lab);
        mkdisk(&lab, &[]).failed("failed", line);
    }
    let lab = Bootable::new();
    unified(&lab, &format!("root=UUID={ROOT} quiet\n"), "");
    installed(&lab, ROOT);
    let ran = mkdisk(&lab, &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let boot = &ran.document["disks"][0]["boot"];
    assert_eq!(boot.as_array().map(Vec::len), Some(3), "{boot}");
    let entry = json!({"file": UNIFIED, "kernel": UNIFIED, "initramfs": [UNIFIED], "cmdline": format!("root=UUID={ROOT} quiet")});
    assert_eq!(boot[2], entry);
    assert_eq!(boot[1]["kernel"], "boot/0123456789abcdef0123456789abcdef/6.1.0-1-test/linux");
}

#[test]
fn partitions_have_the_names_of_their_table() {
    let lab = Bootable::new();
    let boot = "[[partition]]\nname='my boot'\ntype='esp'\nsize='64M'\nfilesystem='vfat'\nat='/boot'\n";
    let root = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";
    let fstab = format!("UUID={ROOT} / ext4\nPARTLABEL=my\\040boot /boot vfat\n");
    lab.put("etc/fstab", fstab.as_bytes());
    for (table, line) in [
        ("gpt'", ""),
        (
            "mbr'\nid='cafe0123'",
            "'/etc/fstab' mounts PARTLABEL=my\\040boot at '/boot', and the image has no PARTLABEL there",
        ),
    ] {
        fs::write(lab.path().join("l.toml"), format!("table='{table}\n{boot}{root}")).unwrap();
        let ran = mkdisk(&lab, &["--layout", "l.toml"]);
        assert!(ran.stderr.contains(line) && (ran.status == 0) == line.is_empty(), "{table}: {}", ran.stderr);
    }
    // A kernel that finds its root by the number of the disk.
    lab.put("etc/fstab", b"");
    let conf = |id: &str| format!("label a\nlinux /Image\ninitrd /initramfs-linux.img\nappend root=PARTUUID={id} rw\n");
    lab.put("boot/extlinux/extlinux.conf", conf("cafe0123-02").as_bytes());
    assert_eq!(mkdisk(&lab, &["--layout", "l.toml"]).status, 0);
    lab.put("boot/extlinux/extlinux.conf", conf("cafe0123-01").as_bytes());
    mkdisk(&lab, &["--layout", "l.toml"]).failed("failed", "and the root of the image is PARTUUID=cafe0123-02");
}

#[test]
fn a_menu_may_have_many_faults() {
    let lab = Bootable::new();
    let entry = |n: usize| format!("label {n}\nlinux /x{n}\nappend root=UUID={ROOT}\n");
    let menu = |n: usize| lab.put("boot/extlinux/extlinux.conf", (0..n).map(entry).collect::<String>().as_bytes());
    menu(10_000);
    let ran = mkdisk(&lab, &[]);
    ran.failed("failed", "names '/boot/x0', which does not exist");
    assert!(ran.stderr.contains("; and 9991 more\n") && ran.stderr.len() < 5000, "{}", ran.stderr);
    menu(20_000);
    mkdisk(&lab, &[]).failed("failed", "reading '/boot/extlinux/extlinux.conf' of the root: it has more than 1 MiB");
}
