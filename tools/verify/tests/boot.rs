//! Whether an image can boot, by the built program and a small root: what it prints, and what the document says.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};
use std::process::Command;
use strapline_tests::bootable::{Bootable, RELEASE, ROOT};
use strapline_tests::small::{self, Ran};

/// A root with the document of a mkdisk that has made an image of it.
fn lab() -> Bootable {
    let mut lab = Bootable::new();
    let conf = lab.path().join("strict.conf");
    std::fs::write(&conf, "[options]\n").unwrap();
    lab.document["config"] = json!({"strict": conf, "loose": conf, "cache": lab.path().join("cache")});
    lab.document["disks"] = json!([{"file": "/x/disk.img", "size": 1, "partitions": [
        {"name": "root", "type": "t", "uuid": "c0", "start": 0, "size": 1, "filesystem": {"type": "ext4", "uuid": ROOT}, "at": "/"},
        {"name": "boot", "type": "t", "uuid": "b0", "start": 0, "size": 1,
            "filesystem": {"type": "vfat", "uuid": "1A2B-3C4D"}, "at": "/boot"},
    ], "boot": [{"file": "boot/extlinux/extlinux.conf", "kernel": "boot/Image", "initramfs": ["boot/initramfs-linux.img"],
        "cmdline": format!("root=UUID={ROOT} rw")}]}]);
    lab
}

fn verify(lab: &Bootable, args: &[&str]) -> Ran {
    let mut command = Command::new(small::program(env!("CARGO_BIN_EXE_verify")));
    command.args(["--no-signatures", "--no-files"]).args(args);
    lab.run(&mut command)
}

fn found(ran: &Ran) -> &Value {
    &ran.document["verify"]["boot"][0]
}

#[test]
fn an_image_boots_from_what_has_its_drivers() {
    let lab = lab();
    let ran = verify(&lab, &["--boot"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(found(&ran), &json!({"disk": "/x/disk.img", "entries": 1, "buses": []}));
    // One driver is built in, and the kernel has no other.
    let no_driver = "'/boot/Image' is Linux 6.1.0-1-test, which has no driver 'virtio_blk' (for virtio)";
    let no_module = "'/boot/initramfs-linux.img' has no module 'nvme' (for nvme)";
    let ran = verify(&lab, &["--boot", "--for", "virtio,nvme"]);
    ran.failed("not-verified", &format!("verifying that '/x/disk.img' boots: {no_driver}"));
    assert_eq!(
        found(&ran),
        &json!({"disk": "/x/disk.img", "entries": 1, "buses": [], "wrong": [no_driver, no_module]})
    );
    assert!(
        ran.stderr.contains("MODULES+=(nvme)") || ran.stderr.contains("strap a kernel that has it"),
        "{}",
        ran.stderr
    );
    let builtin = "kernel/virtio_pci.ko\nkernel/virtio_blk.ko\n";
    lab.put(&format!("usr/lib/modules/{RELEASE}/modules.builtin"), builtin.as_bytes());
    let ran = verify(&lab, &["--boot", "--for", "virtio,nvme"]);
    ran.failed("not-verified", &format!("verifying that '/x/disk.img' boots: {no_module}"));
    assert_eq!(found(&ran)["buses"], json!(["virtio"]));
    assert!(ran.stderr.contains("verify: hint: ") && ran.stderr.contains("MODULES+=(nvme)"), "{}", ran.stderr);
    lab.initramfs(&["ext4", "jbd2", "nvme"], RELEASE);
    let ran = verify(&lab, &["--boot", "--for", "virtio,nvme"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(found(&ran)["buses"], json!(["virtio", "nvme"]));
    assert!(ran.stderr.contains("'/x/disk.img' has what it needs to boot from virtio, nvme"), "{}", ran.stderr);
}

#[test]
fn the_drivers_of_a_unified_image_are_checked() {
    let mut lab = lab();
    let path = "boot/EFI/Linux/x.efi";
    let make = |modules: &[&str], lab: &Bootable| {
        lab.initramfs(modules, RELEASE);
        let read = |path: &str| std::fs::read(lab.root(path)).unwrap();
        let (kernel, initramfs) = (read("boot/Image"), read("boot/initramfs-linux.img"));
        lab.unified(path, &[(".osrel", b"ID=x\n"), (".linux", &kernel), (".initrd", &initramfs)]);
        std::fs::remove_file(lab.root("boot/initramfs-linux.img")).unwrap();
    };
    let cmdline = format!("root=UUID={ROOT} rw");
    lab.document["disks"][0]["boot"] = json!([{"file": path, "kernel": path, "initramfs": [path], "cmdline": cmdline}]);
    make(&["ext4", "jbd2"], &lab);
    let ran = verify(&lab, &["--boot"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let line = "'/boot/EFI/Linux/x.efi' has no module 'nvme' (for nvme)";
    verify(&lab, &["--boot", "--for", "nvme"]).failed("not-verified", line);
    make(&["ext4", "jbd2", "nvme"], &lab);
    let ran = verify(&lab, &["--boot", "--for", "nvme"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn an_mbr_has_no_names_of_partitions() {
    let mut lab = lab();
    lab.put("etc/fstab", b"");
    lab.document["disks"][0]["boot"][0]["cmdline"] = json!("root=PARTLABEL=root rw");
    assert_eq!(verify(&lab, &["--boot"]).status, 0);
    lab.document["disks"][0]["table"] = json!("mbr");
    let line = "'/boot/extlinux/extlinux.conf' has root=PARTLABEL=root, and the root of the image has no PARTLABEL";
    verify(&lab, &["--boot"]).failed("not-verified", line);
}

#[test]
fn what_is_not_known_is_not_proven() {
    let mut lab = lab();
    lab.put("boot/Image", b"kernel");
    let ran = verify(&lab, &["--boot", "--for", "virtio"]);
    let line = "the drivers of '/boot/Image' are not checked: it is a kernel in no known format";
    ran.failed("not-verified", line);
    assert_eq!(found(&ran), &json!({"disk": "/x/disk.img", "entries": 1, "buses": [], "unproven": [line]}));
    lab.document["disks"][0].as_object_mut().unwrap().remove("boot");
    verify(&lab, &["--boot"]).failed("not-verified", "no boot loader's configuration that is known starts a kernel");
    lab.document.as_object_mut().unwrap().remove("disks");
    verify(&lab, &["--boot"]).failed("bad-document", "disks");
    verify(&lab, &["--for", "virtio"]).failed("usage", "--boot");
    verify(&lab, &[]).failed("usage", "leave nothing to verify");
}
