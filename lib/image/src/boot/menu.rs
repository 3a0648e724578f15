//! The boot loader's menu, as extlinux.conf and as entries of systemd-boot.

use super::kernels::{Kernel, Tree};
use super::{Booting, ENTRIES, Wish};
use crate::Content;
use crate::kind::FileSystemKind;

/// A kernel by itself knows partitions, and only an initramfs looks into them for file systems.
pub(super) fn root_argument(kernel: &Kernel, wish: &Wish<'_>) -> String {
    match kernel.initramfs {
        // squashfs has none.
        Some(_) if !wish.root[0].is_empty() => format!("root=UUID={}", wish.root[0]),
        _ => format!("root=PARTUUID={}", wish.root[1]),
    }
}

fn cmdline(kernel: &Kernel, wish: &Wish<'_>) -> String {
    // Cards and disks that take a while to be there.
    let wait = if kernel.initramfs.is_none() { " rootwait" } else { "" };
    let more = wish.cmdline.map(|c| format!(" {c}")).unwrap_or_default();
    format!("{}{}{wait}{more}", root_argument(kernel, wish), root_options(wish))
}

/// Returns how the root is mounted, with a blank before each word. What type it has, the kernel or an initramfs would have to
/// find out by trying.
pub(super) fn root_options(wish: &Wish<'_>) -> String {
    let kind = match wish.root_kind {
        FileSystemKind::Ext4 => String::new(),
        other => format!(" rootfstype={}", other.name()),
    };
    let mode = if wish.root_kind.is_read_only() { "ro" } else { "rw" };
    format!("{kind} {mode}")
}

/// A line of the boot loader's menu.
pub(super) struct MenuEntry<'a> {
    name: String,
    title: String,
    kernel: &'a Kernel,
    initramfs: Option<&'a str>,
}

/// Returns what the menu has: each kernel, and where it has one, its fallback initramfs.
pub(super) fn entries<'a>(kernels: &'a [Kernel], wish: &Wish<'_>) -> Vec<MenuEntry<'a>> {
    let mut entries = Vec::new();
    for kernel in kernels {
        let (name, initramfs) = (&kernel.name, kernel.initramfs.as_deref());
        let title = format!("{} ({name})", wish.title);
        entries.push(MenuEntry { name: name.clone(), title, kernel, initramfs });
        if initramfs.is_some() && kernel.fallback.is_some() {
            let title = format!("{} ({name}, fallback initramfs)", wish.title);
            let initramfs = kernel.fallback.as_deref();
            entries.push(MenuEntry { name: format!("{name}-fallback"), title, kernel, initramfs });
        }
    }
    entries
}

/// Returns extlinux.conf. Paths are of the partition that it is on.
///
/// `prefix` is what comes before a name in `/boot` there.
pub(super) fn extlinux(entries: &[MenuEntry<'_>], prefix: &str, wish: &Wish<'_>) -> String {
    let default = &entries[0].name;
    let mut text = format!("# Made by mkdisk.\ndefault {default}\ntimeout 30\n");
    for MenuEntry { name, title, kernel, initramfs } in entries {
        let file = &kernel.file;
        text += &format!("\nlabel {name}\n  menu label {title}\n  linux {prefix}/{file}\n");
        if let Some(initramfs) = initramfs {
            text += &format!("  initrd {prefix}/{initramfs}\n");
        }
        match (&kernel.dtbs, wish.dtb) {
            (Some(dtbs), Some(dtb)) => text += &format!("  fdt {prefix}/{dtbs}/{dtb}\n"),
            (Some(dtbs), None) => text += &format!("  fdtdir {prefix}/{dtbs}\n"),
            (None, _) => {}
        }
        if let Some(dtbs) = kernel.dtbs.as_ref().filter(|_| !wish.overlays.is_empty()) {
            let paths = wish.overlays.iter().map(|overlay| format!(" {prefix}/{dtbs}/{overlay}"));
            text += &format!("  fdtoverlays{}\n", paths.collect::<String>());
        }
        text += &format!("  append {}\n", cmdline(kernel, wish));
    }
    text
}

/// Adds loader.conf, where the root has none, and the entries.
pub(super) fn systemd_boot(entries: &[MenuEntry<'_>], tree: &Tree<'_>, wish: &Wish<'_>, booting: &mut Booting) {
    // The loader's own configuration is on the partition that it starts from.
    let esp = tree.mounted().find(|(kind, _, _)| *kind == "esp");
    let esp = esp.map_or("boot", |(_, _, at)| at.trim_start_matches('/'));
    let conf = format!("{esp}/loader/loader.conf");
    if tree.file(&conf).is_none() {
        let default = entries.first().map(|entry| format!("default {}.conf\n", entry.name)).unwrap_or_default();
        let text = format!("# Made by mkdisk.\n{default}timeout 3\n");
        booting.add(&conf, Content::Text(text.into()), wish);
    }
    // What a processor of x86 gets before anything else.
    let mut microcode = vec!["amd-ucode.img", "intel-ucode.img"];
    microcode.retain(|name| tree.file(&format!("boot/{name}")).is_some());
    for MenuEntry { name, title, kernel, initramfs } in entries {
        let file = &kernel.file;
        let mut text = format!("# Made by mkdisk.\ntitle {title}\nsort-key {name}\nlinux /{file}\n");
        for image in microcode.iter().chain(initramfs) {
            text += &format!("initrd /{image}\n");
        }
        if let (Some(dtbs), Some(dtb)) = (&kernel.dtbs, wish.dtb) {
            text += &format!("devicetree /{dtbs}/{dtb}\n");
        }
        text += &format!("options {}\n", cmdline(kernel, wish));
        let path = format!("{ENTRIES}/{name}.conf");
        booting.add(&path, Content::Text(text.into()), wish);
    }
}
