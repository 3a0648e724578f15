//! What boots: which kernels the root has, and the configuration of a boot loader for them. It goes into the image only.
//!
//! U-Boot and others read extlinux.conf (The Boot Loader Interface of syslinux; U-Boot's doc/develop/distro.rst), as SYSLINUX
//! does under another name; UEFI starts systemd-boot, which reads entries (the UAPI group's Boot Loader Specification, type 1);
//! the firmware of a Raspberry Pi has two files of its own.
//! Which file is a kernel goes by the names that Arch's packages use.

mod drivers;
mod files;
mod initramfs;
mod kernels;
mod loader;
mod menu;
mod modules;
mod prove;
mod raspberrypi;
mod release;
mod root;
#[cfg(test)]
mod tests;
mod unified;
mod unpack;
mod words;

pub use drivers::{Bus, MAKERS};
pub use prove::{Finding, Place, Subject};
pub use words::{check_cmdline, check_dtb, title};

use crate::kind::FileSystemKind;
use crate::layout::Layout;
use crate::{Content, Kind, Node};
use clap::ValueEnum;
use kernels::{Kernel, Tree};
use menu::MenuEntry;
use rootfs::Arch;
use stage::{Code, Failure};

/// Which boot loader is to be configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Loader {
    /// What the architecture boots by.
    #[default]
    Auto,
    /// extlinux.conf.
    Extlinux,
    /// systemd-boot and its entries.
    SystemdBoot,
    /// config.txt and cmdline.txt, for the firmware of a Raspberry Pi.
    #[value(name = "raspberrypi")]
    RaspberryPi,
    /// syslinux.cfg, for a PC with BIOS.
    Syslinux,
    /// None.
    None,
}

impl Loader {
    /// Returns whether it reads this file of a root, a [`stage::members::BootEntry::file`]. What starts by [`Loader::Auto`] is the
    /// firmware's choice.
    #[must_use]
    pub fn reads(self, file: &str) -> bool {
        match self {
            Self::Auto => true,
            Self::Extlinux => file == EXTLINUX,
            Self::SystemdBoot => file.contains("loader/entries/") || file.ends_with(".efi"),
            Self::RaspberryPi => file == raspberrypi::CONFIG,
            Self::Syslinux => file == SYSLINUX,
            Self::None => false,
        }
    }
}

/// What the entries say.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Which boot loader.
    pub loader: Loader,
    /// Whether a configuration stays that the root has.
    pub keep: bool,
    /// What is added to the kernel's command line.
    pub cmdline: Option<&'a str>,
    /// The devicetree, as a path below the directory of devicetrees.
    pub dtb: Option<&'a str>,
    /// Overlays, below the same directory; of a Raspberry Pi their names.
    pub overlays: &'a [String],
    /// Lines of config.txt, where the root has none.
    pub config: Option<&'a str>,
    /// The root's own config.txt and cmdline.txt.
    pub existing: [Option<&'a str>; 2],
    /// Whether a kernel may be without an initramfs.
    pub no_initramfs: bool,
    /// The UUID of the root's file system, and of its partition: empty where there is none.
    pub root: [&'a str; 2],
    /// The type of the root's file system.
    pub root_kind: FileSystemKind,
    /// The system's name.
    pub title: &'a str,
    /// The date of what is added, in seconds since 1970.
    pub time: i64,
}

/// What is added, and what there is to say about it.
#[derive(Debug, Default)]
pub struct Booting {
    /// Files with paths of the root.
    pub added: Vec<Node>,
    /// For people, a line each.
    pub notes: Vec<String>,
}

const ENTRIES: &str = "boot/loader/entries";
const EXTLINUX: &str = "boot/extlinux/extlinux.conf";
const SYSLINUX: &str = "boot/syslinux/syslinux.cfg";

/// The files whose text is [`Wish::existing`].
pub const EXISTING: [&str; 2] = [raspberrypi::CONFIG, raspberrypi::CMDLINE];

/// Works out what to add to the tree.
///
/// # Errors
///
/// [`Code::NotFound`] where there is no kernel or no boot loader; [`Code::Failed`] where the layout does not permit one.
pub fn plan(nodes: &[Node], layout: &Layout, arch: Arch, wish: &Wish<'_>) -> Result<Booting, Failure> {
    let mut booting = Booting::default();
    if wish.loader == Loader::None {
        return Ok(booting);
    }
    let tree = Tree::new(nodes, layout);
    let efi = tree.efi(arch);
    let x86 = matches!(arch.elf, 62 | 3);
    let (with_extlinux, with_systemd) = match wish.loader {
        Loader::Auto => (!x86, x86 || efi.is_ok()),
        Loader::Extlinux => (true, false),
        Loader::SystemdBoot => (false, true),
        Loader::RaspberryPi | Loader::Syslinux | Loader::None => (false, false),
    };
    // What somebody put there is meant so, unless the command line says otherwise.
    let keep_extlinux = wish.keep && tree.file(EXTLINUX).is_some();
    let is_entry = |path: &&str| path.strip_prefix(ENTRIES).is_some_and(|rest| rest.starts_with('/'));
    let keep_entries = wish.keep && tree.files.keys().any(is_entry);
    let all_kept =
        (with_extlinux || with_systemd) && (!with_extlinux || keep_extlinux) && (!with_systemd || keep_entries);
    let kernels = tree.kernels();
    // UEFI starts these without an entry.
    let unified = if with_systemd { tree.unified_images() } else { 0 };
    if unified > 0 {
        booting.notes.push(format!("{unified} unified kernel images boot with their own command lines"));
    }
    if kernels.is_empty() && !all_kept && (unified == 0 || with_extlinux) {
        let why = "looking for a kernel in '/boot' of the root: not found";
        let hint = "put 'strap linux' (or the kernel of your board) before this, or give --bootloader none";
        return Err(Failure::new(Code::NotFound, why).hint(hint));
    }
    if !all_kept {
        check_initramfs(&kernels, wish)?;
    }
    if let Some(kernel) = kernels.first().filter(|_| wish.loader == Loader::RaspberryPi) {
        raspberrypi::add(kernel, &tree, arch, wish, &mut booting)?;
        booting.notes.push(format!("'/boot/{}' boots with root=PARTUUID={}", kernel.file, wish.root[1]));
        return Ok(booting);
    }
    for dtb in wish.dtb.into_iter().chain(wish.overlays.iter().map(String::as_str)) {
        tree.check_dtb(&kernels, dtb)?;
    }
    if with_systemd && !with_extlinux && !wish.overlays.is_empty() {
        let why = "configuring systemd-boot: it applies no overlays to a devicetree";
        return Err(Failure::new(Code::Failed, why).hint("give --bootloader extlinux, or leave --dtbo out"));
    }
    let entries = menu::entries(&kernels, wish);
    if with_extlinux {
        add_extlinux(&entries, &tree, keep_extlinux, wish, &mut booting)?;
    }
    if wish.loader == Loader::Syslinux {
        add_syslinux(&entries, &tree, wish, &mut booting)?;
    }
    if with_systemd {
        let (program, targets) = efi?;
        for target in targets {
            if tree.file(&target).is_none() {
                booting.add(&target, program.clone(), wish);
            }
        }
        if keep_entries {
            booting.notes.push(format!("the entries in '/{ENTRIES}' of the root are kept"));
        } else {
            menu::systemd_boot(&entries, &tree, wish, &mut booting);
        }
    }
    if let Some(kernel) = kernels.first().filter(|_| !all_kept) {
        let which = menu::root_argument(kernel, wish);
        let has = if kernel.initramfs.is_some() { "an" } else { "no" };
        booting.notes.push(format!("'/boot/{}' boots with {which}: it has {has} initramfs", kernel.file));
    }
    Ok(booting)
}

/// Checks that each kernel finds its root.
fn check_initramfs(kernels: &[Kernel], wish: &Wish<'_>) -> Result<(), Failure> {
    let Some(kernel) = kernels.iter().find(|kernel| kernel.initramfs.is_none()) else {
        return Ok(());
    };
    if !wish.no_initramfs {
        let why = format!("looking for the initramfs of '/boot/{}' of the root: not found", kernel.file);
        return Err(Failure::new(Code::NotFound, why).hint(
            "put 'strap mkinitcpio' before the kernel, or give --no-initramfs if the kernel has the drivers of its disk",
        ));
    }
    if wish.root[1].is_empty() {
        let why =
            "naming the root to the kernel: without a partition table it has no PARTUUID, and there is no initramfs";
        return Err(Failure::new(Code::Failed, why).hint("put 'strap mkinitcpio' before the kernel"));
    }
    Ok(())
}

/// Adds extlinux.conf, unless that of the root is kept.
fn add_extlinux(
    entries: &[MenuEntry<'_>],
    tree: &Tree<'_>,
    is_kept: bool,
    wish: &Wish<'_>,
    booting: &mut Booting,
) -> Result<(), Failure> {
    tree.check_subvolumes()?;
    if is_kept {
        booting.notes.push(format!("'/{EXTLINUX}' of the root is kept"));
        return Ok(());
    }
    let prefix = if tree.mounted().any(|(_, _, at)| at == "/boot") { "" } else { "/boot" };
    booting.add(EXTLINUX, Content::Text(menu::extlinux(entries, prefix, wish).into()), wish);
    Ok(())
}

/// Adds the menu of SYSLINUX.
fn add_syslinux(
    entries: &[MenuEntry<'_>],
    tree: &Tree<'_>,
    wish: &Wish<'_>,
    booting: &mut Booting,
) -> Result<(), Failure> {
    if !tree.mounted().any(|(_, kind, at)| at == "/boot" && kind == FileSystemKind::Vfat) {
        let why = "making a disk that boots by BIOS: '/boot' is not on a partition with vfat";
        return Err(Failure::new(Code::Failed, why).hint("give a layout that has it there"));
    }
    if wish.keep && tree.file(SYSLINUX).is_some() {
        booting.notes.push(format!("'/{SYSLINUX}' of the root is kept"));
        return Ok(());
    }
    booting.add(SYSLINUX, Content::Text(menu::extlinux(entries, "", wish).into()), wish);
    Ok(())
}

impl Booting {
    fn add(&mut self, path: &str, content: Content, wish: &Wish<'_>) {
        let node = Node::new(path.as_bytes(), Kind::File(content));
        self.added.push(Node { mtime: wish.time, ..node });
    }
}
