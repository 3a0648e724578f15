//! Which kernels the root has, and what belongs to each, by the names of files.

use super::words::is_name;
use crate::kind::FileSystemKind;
use crate::layout::Layout;
use crate::node::is_below;
use crate::{Content, Kind, Node};
use rootfs::Arch;
use stage::{Code, Failure};
use std::collections::{HashMap, HashSet};

/// A kernel, with what belongs to it: names in `/boot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// What its package is called, such as `linux-lts`.
    pub(super) name: String,
    pub(super) file: String,
    pub(super) initramfs: Option<String>,
    pub(super) fallback: Option<String>,
    /// The directory of its devicetrees.
    pub(super) dtbs: Option<String>,
}

/// What mkinitcpio and dracut, booster, and others call an initramfs: before and after the kernel's name.
const INITRAMFS: [(&str, &str); 5] =
    [("initramfs-", ".img"), ("booster-", ".img"), ("initrd-", ""), ("initrd-", ".img"), ("initrd.img-", "")];

/// Names of kernels that do not say which one they are, the best for boot loaders first.
const PLAIN: [&str; 6] = ["Image", "zImage", "vmlinuz", "Image.gz", "kernel8.img", "kernel7.img"];

/// The root's files, by their paths.
pub(super) struct Tree<'a> {
    layout: &'a Layout,
    pub(super) files: HashMap<&'a str, &'a Content>,
    directories: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(nodes: &'a [Node], layout: &'a Layout) -> Self {
        let mut tree = Self { layout, files: HashMap::new(), directories: HashSet::new() };
        for node in nodes {
            let Ok(path) = std::str::from_utf8(&node.path) else {
                continue;
            };
            let first = match node.kind {
                Kind::HardLink(first) => &nodes[first],
                _ => node,
            };
            match &first.kind {
                Kind::Directory => tree.directories.extend([path]),
                Kind::File(content) => tree.files.extend([(path, content)]),
                _ => {}
            }
        }
        tree
    }

    pub(super) fn file(&self, path: &str) -> Option<&'a Content> {
        self.files.get(path).copied()
    }

    /// Returns the mounted file systems: their types of partition, their own types, and where.
    pub(super) fn mounted(&self) -> impl Iterator<Item = (&'a str, FileSystemKind, &'a str)> + use<'a> {
        let partitions = self.layout.partitions.iter();
        partitions.filter_map(|p| {
            let (kind, at) = p.mounted()?;
            Some((p.type_name(), kind, at))
        })
    }

    /// Returns systemd-boot's program, and where it is to be.
    pub(super) fn efi(&self, arch: Arch) -> Result<(Content, [String; 2]), Failure> {
        // What UEFI calls an architecture (UEFI 2.10, 3.5.1.1).
        let name = match arch.elf {
            62 => "x64",
            3 => "ia32",
            183 => "aa64",
            40 => "arm",
            243 => "riscv64",
            _ => "loongarch64",
        };
        let doing = format!("making a disk that boots by UEFI on {}", arch.name);
        let or = "give --bootloader extlinux or none";
        let layout = |why: &str| Failure::new(Code::Failed, format!("{doing}: {why}")).hint(or);
        let is_fat = |kind| kind == FileSystemKind::Vfat;
        let Some((_, _, esp)) = self.mounted().find(|(kind, system, _)| *kind == "esp" && is_fat(*system)) else {
            return Err(layout("the layout mounts no esp partition with vfat"));
        };
        let above = self.mounted().filter(|(_, _, at)| is_below(at.trim_start_matches('/'), b"boot"));
        let entries = above.max_by_key(|(_, _, at)| at.len());
        if !entries.is_some_and(|(kind, system, _)| is_fat(system) && matches!(kind, "esp" | "xbootldr")) {
            return Err(layout(
                "'/boot' is not on an esp or xbootldr partition with vfat, where systemd-boot looks for kernels",
            ));
        }
        let esp = esp.trim_start_matches('/');
        let from = format!("usr/lib/systemd/boot/efi/systemd-boot{name}.efi");
        let to = [
            format!("{esp}/EFI/BOOT/BOOT{}.EFI", name.to_ascii_uppercase()),
            format!("{esp}/EFI/systemd/systemd-boot{name}.efi"),
        ];
        let found = self.file(&from).or_else(|| self.file(&to[0]));
        let program = found.ok_or_else(|| {
            let why = format!("{doing}: the root has no '/{from}'");
            Failure::new(Code::NotFound, why).hint(format!("put 'strap systemd' before this, or {or}"))
        })?;
        Ok((program.clone(), to))
    }

    /// Returns how many unified kernel images systemd-boot finds by itself.
    pub(super) fn unified_images(&self) -> usize {
        let places: Vec<_> = self.mounted().filter(|(kind, ..)| matches!(*kind, "esp" | "xbootldr")).collect();
        let is_unified = |path: &&&str| {
            let (place, name) = path.rsplit_once('/').unwrap_or_default();
            let is_place = |(_, _, at): &(_, _, &str)| place == format!("{at}/EFI/Linux").trim_start_matches('/');
            name.ends_with(".efi") && places.iter().any(is_place)
        };
        self.files.keys().filter(is_unified).count()
    }

    /// Returns the kernels of `/boot`, Arch's default one first.
    pub(super) fn kernels(&self) -> Vec<Kernel> {
        let names = self.files.keys().filter_map(|p| p.strip_prefix("boot/"));
        let names: Vec<&str> = names.filter(|name| is_name(name)).collect();
        let named = names.iter().filter_map(|name| {
            let package = name.strip_prefix("vmlinuz-")?;
            (!package.is_empty()).then(|| self.kernel(package, name))
        });
        let mut kernels: Vec<Kernel> = named.collect();
        // A file without the name of a package is of the one that has the initramfs. Hooks of dracut leave it beside a copy that has
        // the name, as the initramfs has.
        if !kernels.iter().any(|k| k.name == "linux") {
            let size = |kernel: &Kernel| self.file(&format!("boot/{}", kernel.file)).map(Content::size);
            let is_copied = |plain: &Kernel| kernels.iter().any(|k| k.initramfs.is_some() && size(k) == size(plain));
            let plain = PLAIN.into_iter().find(|name| names.contains(name)).map(|name| self.kernel("linux", name));
            kernels.extend(plain.filter(|plain| plain.initramfs.is_some() || !is_copied(plain)));
        }
        if let ([kernel], [version]) = (kernels.as_mut_slice(), self.versions().as_slice()) {
            kernel.initramfs = kernel.initramfs.take().or_else(|| self.initramfs(version));
        }
        kernels.sort_by_key(|k| (k.name != "linux", k.name.clone()));
        kernels
    }

    fn kernel(&self, package: &str, file: &str) -> Kernel {
        let there = |name: String| {
            let path = format!("boot/{name}");
            self.file(&path).map(|_| name)
        };
        let dtbs = [format!("dtbs/{package}"), "dtbs".to_owned()];
        Kernel {
            name: package.to_owned(),
            file: file.to_owned(),
            initramfs: self.initramfs(package),
            fallback: there(format!("initramfs-{package}-fallback.img")),
            dtbs: dtbs.into_iter().find(|d| self.directories.contains(&*format!("boot/{d}"))),
        }
    }

    /// Returns the initramfs of that kernel or version.
    fn initramfs(&self, name: &str) -> Option<String> {
        let mut names = INITRAMFS.iter().map(|(before, after)| format!("{before}{name}{after}"));
        names.find(|name| self.file(&format!("boot/{name}")).is_some())
    }

    /// Returns the versions of kernels that have modules: what dracut calls an initramfs where nothing else says so.
    fn versions(&self) -> Vec<&'a str> {
        let below = self.directories.iter().filter_map(|path| path.strip_prefix("usr/lib/modules/"));
        below.filter(|name| !name.contains('/')).collect()
    }

    /// Checks that the boot loader finds `/boot` where it is when the system runs: U-Boot knows no subvolumes.
    pub(super) fn check_subvolumes(&self) -> Result<(), Failure> {
        let points = self.layout.partitions.iter().flat_map(|p| p.mount_points().into_iter().map(move |at| (p, at)));
        let above = points.filter(|(_, at)| is_below(at.trim_start_matches('/'), b"boot"));
        match above.max_by_key(|(_, at)| at.len()) {
            Some((partition, _)) if !partition.subvolumes.is_empty() => Err(Failure::new(
                Code::Failed,
                "configuring extlinux: '/boot' is in a subvolume, which U-Boot does not read",
            )
            .hint("give a layout with a partition at /boot")),
            _ => Ok(()),
        }
    }

    /// Checks that a kernel has that devicetree.
    pub(super) fn check_dtb(&self, kernels: &[Kernel], dtb: &str) -> Result<(), Failure> {
        let directories: Vec<_> = kernels.iter().filter_map(|k| k.dtbs.as_ref()).collect();
        if directories.iter().any(|directory| self.file(&format!("boot/{directory}/{dtb}")).is_some()) {
            return Ok(());
        }
        let places: Vec<_> = directories.iter().map(|directory| format!("'/boot/{directory}'")).collect();
        let why = match places.as_slice() {
            [] => "no kernel of the root has devicetrees".to_owned(),
            places => format!("it is not in {} of the root", places.join(" or ")),
        };
        let why = format!("looking for the devicetree '{dtb}': {why}");
        Err(Failure::new(Code::NotFound, why).hint("give it as a path there, as --dtb rockchip/rk3588s-orangepi-5.dtb"))
    }
}
