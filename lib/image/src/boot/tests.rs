//! What boots, by the names of the files of a root.

use super::*;

fn tree(names: &[&str]) -> Vec<Node> {
    let mut entries = vec![Node::new(b"boot", Kind::Directory)];
    for name in names {
        let kind = match name.strip_suffix('/') {
            Some(_) => Kind::Directory,
            None => Kind::File(Content::Text(b"x".to_vec())),
        };
        entries.push(Node::new(name.trim_end_matches('/').as_bytes(), kind));
    }
    entries
}

const WISH: Wish<'_> = Wish {
    loader: Loader::Auto,
    keep: true,
    cmdline: None,
    dtb: None,
    overlays: &[],
    config: None,
    existing: [None, None],
    no_initramfs: false,
    root: ["FS", "PART"],
    root_kind: FileSystemKind::Ext4,
    title: "Arch",
    time: 0,
};

fn planned(names: &[&str], arch: &str, wish: &Wish<'_>) -> Result<Booting, Failure> {
    let layout = Layout::standard(arch).unwrap();
    plan(&tree(names), &layout, Arch::named(arch).unwrap(), wish)
}

fn text(booting: &Booting, path: &str) -> String {
    let added = booting.added.iter().find(|a| a.path_text() == path);
    match added.map(|a| &a.kind) {
        Some(Kind::File(Content::Text(text))) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{path}: {other:?} in {booting:?}"),
    }
}

#[test]
fn a_board_gets_extlinux() {
    let names = ["boot/Image", "boot/Image.gz", "boot/initramfs-linux.img", "boot/dtbs/", "boot/dtbs/rockchip/a.dtb"];
    let wish = Wish { cmdline: Some("console=ttyS2"), ..WISH };
    let booting = planned(&names, "aarch64", &wish).unwrap();
    assert_eq!(
        text(&booting, EXTLINUX),
        "# Made by mkdisk.\ndefault linux\ntimeout 30\n\nlabel linux\n  menu label Arch (linux)\n  linux /Image\n  initrd \
         /initramfs-linux.img\n  fdtdir /dtbs\n  append root=UUID=FS rw console=ttyS2\n"
    );
    assert_eq!(booting.added.len(), 1);
    let wish = Wish { dtb: Some("rockchip/a.dtb"), ..WISH };
    let booting = planned(&names, "aarch64", &wish).unwrap();
    assert!(text(&booting, EXTLINUX).contains("  fdt /dtbs/rockchip/a.dtb\n"));
    let wish = Wish { dtb: Some("rockchip/b.dtb"), ..WISH };
    assert_eq!(planned(&names, "aarch64", &wish).unwrap_err().code, Code::NotFound);
}

#[test]
fn without_an_initramfs_the_kernel_finds_the_partition() {
    let failure = planned(&["boot/Image"], "aarch64", &WISH).unwrap_err();
    assert_eq!(failure.message, "looking for the initramfs of '/boot/Image' of the root: not found");
    let wish = Wish { no_initramfs: true, ..WISH };
    let booting = planned(&["boot/Image"], "aarch64", &wish).unwrap();
    assert!(text(&booting, EXTLINUX).ends_with("  append root=PARTUUID=PART rw rootwait\n"));
}

#[test]
fn the_kernel_is_told_the_type_of_another_root() {
    let names = ["boot/Image", "boot/initramfs-linux.img"];
    for (kind, id, line) in [
        (FileSystemKind::Btrfs, "FS", "append root=UUID=FS rootfstype=btrfs rw\n"),
        (FileSystemKind::Erofs, "FS", "append root=UUID=FS rootfstype=erofs ro\n"),
        (FileSystemKind::Squashfs, "", "append root=PARTUUID=PART rootfstype=squashfs ro\n"),
    ] {
        let wish = Wish { root_kind: kind, root: [id, "PART"], ..WISH };
        let booting = planned(&names, "aarch64", &wish).unwrap();
        assert!(text(&booting, EXTLINUX).ends_with(line), "{booting:?}");
    }
}

#[test]
fn each_makers_name_of_an_initramfs_is_known() {
    for (kernel, initramfs) in [
        ("boot/vmlinuz-linux", "boot/initramfs-linux.img"),
        ("boot/vmlinuz-linux-lts", "boot/booster-linux-lts.img"),
        ("boot/vmlinuz-6.12.1-arch1-1", "boot/initramfs-6.12.1-arch1-1.img"),
        ("boot/vmlinuz-linux", "boot/initramfs-6.12.1-arch1-1.img"),
        ("boot/Image", "boot/initrd-6.12.1-arch1-1"),
        ("boot/vmlinuz-6.1.0-57-arm64", "boot/initrd.img-6.1.0-57-arm64"),
    ] {
        let names = [kernel, initramfs, "usr/lib/modules/", "usr/lib/modules/6.12.1-arch1-1/"];
        let booting = planned(&names, "aarch64", &WISH).unwrap();
        let line = format!("  initrd /{}\n", initramfs.strip_prefix("boot/").unwrap());
        assert!(text(&booting, EXTLINUX).contains(&line), "{kernel} {initramfs}");
    }
    // Of two kernels nobody knows which one has that version.
    let names = ["boot/vmlinuz-linux", "boot/vmlinuz-linux-lts", "boot/initramfs-6.1.img", "usr/lib/modules/6.1/"];
    assert_eq!(planned(&names, "aarch64", &WISH).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_second_name_of_a_kernel_is_not_another_one() {
    let names = ["boot/Image", "boot/vmlinuz-linux-aarch64", "boot/initramfs-linux-aarch64.img"];
    let booting = planned(&names, "aarch64", &WISH).unwrap();
    let menu = text(&booting, EXTLINUX);
    assert!(menu.contains("  linux /vmlinuz-linux-aarch64\n") && !menu.contains("Image"), "{menu}");
    // With an initramfs of its own it stays, and one of another size is another kernel, which lacks its initramfs.
    let booting = planned(&[&names[..], &["boot/initramfs-linux.img"]].concat(), "aarch64", &WISH).unwrap();
    assert!(text(&booting, EXTLINUX).contains("  linux /Image\n"));
    let mut nodes = tree(&names);
    nodes.iter_mut().find(|node| node.path == b"boot/Image").unwrap().kind =
        Kind::File(Content::Text(b"longer".to_vec()));
    let layout = Layout::standard("aarch64").unwrap();
    let failure = plan(&nodes, &layout, Arch::named("aarch64").unwrap(), &WISH).unwrap_err();
    assert_eq!(failure.message, "looking for the initramfs of '/boot/Image' of the root: not found");
}

#[test]
fn unified_images_need_no_kernel() {
    let names = ["boot/EFI/Linux/arch-linux.efi", "usr/lib/systemd/boot/efi/systemd-bootx64.efi"];
    let booting = planned(&names, "x86_64", &WISH).unwrap();
    assert_eq!(booting.notes, ["1 unified kernel images boot with their own command lines"]);
    assert!(booting.added.iter().all(|node| !node.path_text().contains("entries")), "{booting:?}");
}

#[test]
fn a_pc_gets_systemd_boot() {
    let names = [
        "boot/vmlinuz-linux",
        "boot/vmlinuz-linux-lts",
        "boot/initramfs-linux.img",
        "boot/initramfs-linux-fallback.img",
        "boot/intel-ucode.img",
        "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
    ];
    let booting = planned(&names, "x86_64", &Wish { no_initramfs: true, ..WISH }).unwrap();
    let paths: Vec<_> = booting.added.iter().map(Node::path_text).collect();
    assert_eq!(
        paths,
        [
            "boot/EFI/BOOT/BOOTX64.EFI",
            "boot/EFI/systemd/systemd-bootx64.efi",
            "boot/loader/loader.conf",
            "boot/loader/entries/linux.conf",
            "boot/loader/entries/linux-fallback.conf",
            "boot/loader/entries/linux-lts.conf"
        ]
    );
    assert_eq!(
        text(&booting, &paths[3]),
        "# Made by mkdisk.\ntitle Arch (linux)\nsort-key linux\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd \
         /initramfs-linux.img\noptions root=UUID=FS rw\n"
    );
    assert!(text(&booting, &paths[5]).ends_with("options root=PARTUUID=PART rw rootwait\n"));
    let failure = planned(&names[..5], "x86_64", &Wish { no_initramfs: true, ..WISH }).unwrap_err();
    assert_eq!(failure.code, Code::NotFound, "{failure}");
}

#[test]
fn what_the_root_has_is_kept_unless_asked() {
    let names = ["boot/Image", EXTLINUX];
    assert!(planned(&names, "aarch64", &WISH).unwrap().added.is_empty());
    let wish = Wish { loader: Loader::Extlinux, keep: false, no_initramfs: true, ..WISH };
    text(&planned(&names, "aarch64", &wish).unwrap(), EXTLINUX);
}

#[test]
fn no_kernel_is_an_error_but_where_nothing_is_to_boot() {
    for names in [&[][..], &["boot/vmlinuz-"], &["boot/vmlinuz-a b"], &["boot/x/Image"]] {
        assert_eq!(planned(names, "aarch64", &WISH).unwrap_err().code, Code::NotFound);
        let wish = Wish { loader: Loader::None, keep: false, ..WISH };
        assert!(planned(names, "aarch64", &wish).unwrap().added.is_empty());
    }
}

#[test]
fn titles_come_from_os_release_and_are_harmless() {
    assert_eq!(title("NAME=\"Arch Linux ARM\"\nID=archarm\n"), "Arch Linux ARM");
    assert_eq!(title("NAME=x\nPRETTY_NAME='Arch Linux'\n"), "Arch Linux");
    for bad in ["", "NAME=\n", "NAME=\"a\u{1b}[0m\"", "NAME=$(x)", "NAME=\"a\\\"b\""] {
        assert_eq!(title(bad), "Linux", "{bad}");
    }
}

#[test]
fn command_lines_and_paths_are_checked() {
    check_cmdline("console=ttyS0 quiet").unwrap();
    for bad in ["a\nb", "quiet root=/dev/sda1", &"x".repeat(2000)] {
        check_cmdline(bad).unwrap_err();
    }
    check_dtb("rockchip/a.dtb").unwrap();
    for bad in ["", "/a", "../a", "a//b", "a b", "a\n"] {
        check_dtb(bad).unwrap_err();
    }
}

#[test]
fn overlays_are_applied_to_the_devicetree() {
    let names = ["boot/Image", "boot/initramfs-linux.img", "boot/dtbs/", "boot/dtbs/a.dtb", "boot/dtbs/o/x.dtbo"];
    let overlays = ["o/x.dtbo".to_owned()];
    let wish = Wish { dtb: Some("a.dtb"), overlays: &overlays, ..WISH };
    let booting = planned(&names, "aarch64", &wish).unwrap();
    let conf = text(&booting, EXTLINUX);
    assert!(conf.contains("  fdt /dtbs/a.dtb\n  fdtoverlays /dtbs/o/x.dtbo\n  append "), "{conf}");
    let wish = Wish { overlays: &["o/y.dtbo".to_owned()], ..WISH };
    let failure = planned(&names, "aarch64", &wish).unwrap_err();
    assert!(failure.message.starts_with("looking for the devicetree 'o/y.dtbo'"), "{failure}");
    let names = [&names[..], &["usr/lib/systemd/boot/efi/systemd-bootaa64.efi"]].concat();
    let wish = Wish { loader: Loader::SystemdBoot, keep: false, overlays: &overlays, ..WISH };
    let failure = planned(&names, "aarch64", &wish).unwrap_err();
    assert!(failure.message.contains("applies no overlays"), "{failure}");
}

const PI: [&str; 4] =
    ["boot/kernel8.img", "boot/initramfs-linux.img", "boot/bcm2711-rpi-4-b.dtb", "boot/overlays/vc4-kms-v3d.dtbo"];

#[test]
fn a_raspberry_pi_gets_its_two_files() {
    let pi = Wish { loader: Loader::RaspberryPi, cmdline: Some("console=tty1 quiet"), ..WISH };
    let wish = Wish { config: Some("enable_uart=1\n"), ..pi };
    let booting = planned(&PI, "aarch64", &wish).unwrap();
    assert_eq!(
        text(&booting, "boot/config.txt"),
        "# Made by mkdisk.\nenable_uart=1\n\n# Added by mkdisk.\n[all]\nkernel=kernel8.img\narm_64bit=1\n\
         initramfs initramfs-linux.img followkernel\n"
    );
    assert_eq!(text(&booting, "boot/cmdline.txt"), "root=PARTUUID=PART rw rootwait console=tty1 quiet\n");
    assert_eq!(booting.added.len(), 2);
    // The root's own stay, but for the root.
    let config = "initramfs initramfs-linux.img followkernel\n[cm4]\narm_64bit=1\n[all]\nkernel=mine.img\n\n";
    let existing = [Some(config), Some("root=/dev/mmcblk0p2 rw rootwait console=tty1 fsck.repair=yes\n")];
    let overlays = ["vc4-kms-v3d".to_owned()];
    let wish = Wish { existing, dtb: Some("bcm2711-rpi-4-b.dtb"), overlays: &overlays, ..pi };
    let booting = planned(&PI, "aarch64", &wish).unwrap();
    let added = "arm_64bit=1\ndevice_tree=bcm2711-rpi-4-b.dtb\ndtoverlay=vc4-kms-v3d\n";
    let expected = format!("{}\n\n# Added by mkdisk.\n[all]\n{added}", config.trim_end());
    assert_eq!(text(&booting, "boot/config.txt"), expected);
    let cmdline = text(&booting, "boot/cmdline.txt");
    assert_eq!(cmdline, "root=PARTUUID=PART rw rootwait console=tty1 fsck.repair=yes quiet\n");
    // A root of another type.
    let wish = Wish { existing: [None, Some("rootfstype=ext4 rw")], root_kind: FileSystemKind::Erofs, ..pi };
    let booting = planned(&PI, "aarch64", &wish).unwrap();
    let expected = "root=PARTUUID=PART rootfstype=erofs ro rootwait console=tty1 quiet\n";
    assert_eq!(text(&booting, "boot/cmdline.txt"), expected);
    // 32 bits, and files that are not there.
    let booting = planned(&["boot/kernel7.img", "boot/initramfs-linux.img"], "armv7h", &pi).unwrap();
    assert!(text(&booting, "boot/config.txt").contains("kernel=kernel7.img\narm_64bit=0\n"));
    for wish in [Wish { dtb: Some("x.dtb"), ..pi.clone() }, Wish { overlays: &["x".to_owned()], ..pi.clone() }] {
        assert_eq!(planned(&PI, "aarch64", &wish).unwrap_err().code, Code::NotFound);
    }
    assert_eq!(planned(&["boot/x"], "aarch64", &pi).unwrap_err().code, Code::NotFound);
}

#[test]
fn syslinux_has_a_menu_of_its_own() {
    let wish = Wish { loader: Loader::Syslinux, ..WISH };
    let names = ["boot/vmlinuz-linux", "boot/initramfs-linux.img"];
    let kept = planned(&[&names[..], &[SYSLINUX]].concat(), "x86_64", &wish).unwrap();
    assert!(kept.added.is_empty() && kept.notes[0].ends_with("of the root is kept"), "{kept:?}");
    let booting = planned(&names, "x86_64", &wish).unwrap();
    let conf = text(&booting, SYSLINUX);
    assert!(conf.contains("\nlabel linux\n  menu label Arch (linux)\n  linux /vmlinuz-linux\n"), "{conf}");
    assert!(conf.ends_with("  append root=UUID=FS rw\n") && booting.added.len() == 1, "{conf}");
}

#[test]
fn without_a_table_no_partition_is_named() {
    let wish = Wish { root: ["FS", ""], no_initramfs: true, ..WISH };
    let failure = planned(&["boot/Image"], "aarch64", &wish).unwrap_err();
    assert!(failure.message.contains("no PARTUUID"), "{failure}");
    planned(&["boot/Image", "boot/initramfs-linux.img"], "aarch64", &wish).unwrap();
}

#[test]
fn u_boot_reads_no_subvolume() {
    let root = "[[partition]]\nname='r'\ntype='root'\nsize='rest'\nfilesystem='btrfs'\nat='/'\nsubvolumes={'@'='/'}\n";
    let boot = "[[partition]]\nname='b'\ntype='linux'\nsize='64M'\nfilesystem='ext4'\nat='/boot'\n";
    let of = |text: &str| {
        let layout = Layout::parse("x", text, std::path::Path::new("/"), "aarch64").unwrap();
        let nodes = tree(&["boot/Image", "boot/initramfs-linux.img"]);
        plan(&nodes, &layout, Arch::named("aarch64").unwrap(), &Wish { root_kind: FileSystemKind::Btrfs, ..WISH })
    };
    let failure = of(root).unwrap_err();
    assert!(failure.message.contains("'/boot' is in a subvolume"), "{failure}");
    let booting = of(&format!("{boot}{root}")).unwrap();
    assert!(text(&booting, EXTLINUX).contains("  linux /Image\n"), "{booting:?}");
}
