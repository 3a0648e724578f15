//! What boots: which kernels the root has, and the configuration of a boot loader for them. It goes into the image only.
//!
//! Two loaders are known. U-Boot and others read extlinux.conf (The Boot Loader Interface of syslinux; U-Boot's
//! doc/develop/distro.rst); UEFI starts systemd-boot, which reads entries (the UAPI group's Boot Loader Specification, type 1).
//! Which file is a kernel goes by the names that Arch's packages use.

use crate::content::is_below;
use clap::ValueEnum;
use image::kind::FileSystemKind;
use image::layout::Layout;
use image::{Content, Kind, Node};
use rootfs::Arch;
use stage::{Code, Failure};
use std::collections::{HashMap, HashSet};

/// Which boot loader is to be configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Loader {
    /// What the architecture boots by.
    #[default]
    Auto,
    /// extlinux.conf.
    Extlinux,
    /// systemd-boot and its entries.
    SystemdBoot,
    /// None.
    None,
}

/// What the entries say.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) loader: Loader,
    /// What is added to the kernel's command line.
    pub(crate) cmdline: Option<&'a str>,
    /// The devicetree, as a path below the directory of devicetrees.
    pub(crate) dtb: Option<&'a str>,
    /// Whether a kernel may be without an initramfs.
    pub(crate) no_initramfs: bool,
    /// The UUID of the root's file system, and of its partition.
    pub(crate) root: [&'a str; 2],
    /// The system's name.
    pub(crate) title: &'a str,
    /// The date of what is added, in seconds since 1970.
    pub(crate) time: i64,
}

/// What is added, and what there is to say about it.
#[derive(Debug, Default)]
pub(crate) struct Booting {
    /// Files with paths of the root.
    pub(crate) added: Vec<Node>,
    pub(crate) notes: Vec<String>,
}

/// A kernel, with what belongs to it: names in `/boot`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kernel {
    /// What its package is called, such as `linux-lts`.
    name: String,
    file: String,
    initramfs: Option<String>,
    fallback: Option<String>,
    /// The directory of its devicetrees.
    dtbs: Option<String>,
}

const ENTRIES: &str = "boot/loader/entries";
const EXTLINUX: &str = "boot/extlinux/extlinux.conf";

/// What mkinitcpio and dracut, booster, and others call an initramfs: before and after the kernel's name.
const INITRAMFS: [(&str, &str); 5] =
    [("initramfs-", ".img"), ("booster-", ".img"), ("initrd-", ""), ("initrd-", ".img"), ("initrd.img-", "")];

/// Names of kernels that do not say which one they are, the best for boot loaders first.
const PLAIN: [&str; 4] = ["Image", "zImage", "vmlinuz", "Image.gz"];

/// Works out what to add to the tree.
///
/// # Errors
///
/// [`Code::NotFound`] where there is no kernel or no boot loader; [`Code::Failed`] where the layout does not permit one.
pub(crate) fn plan(nodes: &[Node], layout: &Layout, arch: Arch, wish: &Wish<'_>) -> Result<Booting, Failure> {
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
        Loader::SystemdBoot | Loader::None => (false, true),
    };
    let auto = wish.loader == Loader::Auto;
    // What somebody put there is meant so, unless the command line says otherwise.
    let keep_extlinux = auto && tree.file(EXTLINUX).is_some();
    let is_entry = |path: &&str| path.strip_prefix(ENTRIES).is_some_and(|rest| rest.starts_with('/'));
    let keep_entries = auto && tree.files.keys().any(is_entry);
    let all_kept = (!with_extlinux || keep_extlinux) && (!with_systemd || keep_entries);
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
    let bare = kernels.iter().find(|kernel| kernel.initramfs.is_none());
    if let Some(kernel) = bare.filter(|_| !all_kept && !wish.no_initramfs) {
        let why = format!("looking for the initramfs of '/boot/{}' of the root: not found", kernel.file);
        return Err(Failure::new(Code::NotFound, why).hint(
            "put 'strap mkinitcpio' before the kernel, or give --no-initramfs if the kernel has the drivers of its disk",
        ));
    }
    if let Some(dtb) = wish.dtb {
        tree.check_dtb(&kernels, dtb)?;
    }
    let entries = entries(&kernels, wish);
    if with_extlinux {
        if keep_extlinux {
            booting.notes.push(format!("'/{EXTLINUX}' of the root is kept"));
        } else {
            let prefix = if tree.mounted().any(|(_, _, at)| at == "/boot") { "" } else { "/boot" };
            let text = extlinux(&entries, prefix, wish);
            booting.add(EXTLINUX, Content::Text(text.into()), wish);
        }
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
            systemd_boot(&entries, &tree, wish, &mut booting);
        }
    }
    if let Some(kernel) = kernels.first().filter(|_| !all_kept) {
        let which = root_argument(kernel, wish);
        let has = if kernel.initramfs.is_some() { "an" } else { "no" };
        booting.notes.push(format!("'/boot/{}' boots with {which}: it has {has} initramfs", kernel.file));
    }
    Ok(booting)
}

impl Booting {
    fn add(&mut self, path: &str, content: Content, wish: &Wish<'_>) {
        let node = Node::new(path.as_bytes(), Kind::File(content));
        self.added.push(Node { mtime: wish.time, ..node });
    }
}

/// The root's files, by their paths.
struct Tree<'a> {
    layout: &'a Layout,
    files: HashMap<&'a str, &'a Content>,
    directories: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn new(nodes: &'a [Node], layout: &'a Layout) -> Self {
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

    fn file(&self, path: &str) -> Option<&'a Content> {
        self.files.get(path).copied()
    }

    /// Returns the mounted file systems: their types of partition, their own types, and where.
    fn mounted(&self) -> impl Iterator<Item = (&'a str, FileSystemKind, &'a str)> + use<'a> {
        let partitions = self.layout.partitions.iter();
        partitions.filter_map(|p| {
            let (kind, at) = p.mounted()?;
            Some((p.type_name(), kind, at))
        })
    }

    /// Returns systemd-boot's program, and where it is to be.
    fn efi(&self, arch: Arch) -> Result<(Content, [String; 2]), Failure> {
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
    fn unified_images(&self) -> usize {
        let places: Vec<_> = self.mounted().filter(|(kind, ..)| matches!(*kind, "esp" | "xbootldr")).collect();
        let is_unified = |path: &&&str| {
            let (place, name) = path.rsplit_once('/').unwrap_or_default();
            let is_place = |(_, _, at): &(_, _, &str)| place == format!("{at}/EFI/Linux").trim_start_matches('/');
            name.ends_with(".efi") && places.iter().any(is_place)
        };
        self.files.keys().filter(is_unified).count()
    }

    /// Returns the kernels of `/boot`, Arch's default one first.
    fn kernels(&self) -> Vec<Kernel> {
        let names = self.files.keys().filter_map(|p| p.strip_prefix("boot/"));
        let names: Vec<&str> = names.filter(|name| is_name(name)).collect();
        let named = names.iter().filter_map(|name| {
            let package = name.strip_prefix("vmlinuz-")?;
            (!package.is_empty()).then(|| self.kernel(package, name))
        });
        let mut kernels: Vec<Kernel> = named.collect();
        // A file without the name of a package is of the one that has the initramfs.
        if !kernels.iter().any(|k| k.name == "linux") {
            let plain = PLAIN.into_iter().find(|name| names.contains(name));
            kernels.extend(plain.map(|name| self.kernel("linux", name)));
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

    /// Checks that a kernel has that devicetree.
    fn check_dtb(&self, kernels: &[Kernel], dtb: &str) -> Result<(), Failure> {
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

/// Returns whether nothing in a name ends a word, a line or a path.
fn is_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

/// A kernel by itself knows partitions, and only an initramfs looks into them for file systems.
fn root_argument(kernel: &Kernel, wish: &Wish<'_>) -> String {
    match kernel.initramfs {
        Some(_) => format!("root=UUID={}", wish.root[0]),
        None => format!("root=PARTUUID={}", wish.root[1]),
    }
}

fn cmdline(kernel: &Kernel, wish: &Wish<'_>) -> String {
    // Cards and disks that take a while to be there.
    let wait = if kernel.initramfs.is_none() { " rootwait" } else { "" };
    let more = wish.cmdline.map(|c| format!(" {c}")).unwrap_or_default();
    format!("{} rw{wait}{more}", root_argument(kernel, wish))
}

/// A line of the boot loader's menu.
struct MenuEntry<'a> {
    name: String,
    title: String,
    kernel: &'a Kernel,
    initramfs: Option<&'a str>,
}

/// Returns what the menu has: each kernel, and where it has one, its fallback initramfs.
fn entries<'a>(kernels: &'a [Kernel], wish: &Wish<'_>) -> Vec<MenuEntry<'a>> {
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
fn extlinux(entries: &[MenuEntry<'_>], prefix: &str, wish: &Wish<'_>) -> String {
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
        text += &format!("  append {}\n", cmdline(kernel, wish));
    }
    text
}

/// Adds loader.conf, where the root has none, and the entries.
fn systemd_boot(entries: &[MenuEntry<'_>], tree: &Tree<'_>, wish: &Wish<'_>, booting: &mut Booting) {
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

/// Returns the system's name out of the text of os-release(5), or `Linux`. It stands in lines of a configuration.
pub(crate) fn title(os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
        let plain = line.trim().trim_matches(['"', '\'']);
        let fit = |c: char| !c.is_control() && !"\\\"'`$".contains(c);
        (!plain.is_empty() && plain.len() <= 60 && plain.chars().all(fit)).then(|| plain.to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned())
}

/// Checks what is added to the kernel's command line.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub(crate) fn check_cmdline(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("control characters are not allowed".to_owned());
    }
    if text.split_whitespace().any(|word| word.starts_with("root=")) {
        return Err("root= is set by mkdisk".to_owned());
    }
    // COMMAND_LINE_SIZE of most architectures, less what we say.
    if text.len() > 1800 {
        return Err("the command line is longer than 2048 bytes".to_owned());
    }
    Ok(text.trim().to_owned())
}

/// Checks the path of a devicetree.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub(crate) fn check_dtb(text: &str) -> Result<String, String> {
    let fine = |part: &str| is_name(part) && !part.is_empty() && !part.starts_with('.');
    if text.split('/').all(fine) {
        return Ok(text.to_owned());
    }
    Err("not a path below the directory of devicetrees, such as rockchip/rk3588s-orangepi-5.dtb".to_owned())
}

#[cfg(test)]
mod tests {
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
        cmdline: None,
        dtb: None,
        no_initramfs: false,
        root: ["FS", "PART"],
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
        let names =
            ["boot/Image", "boot/Image.gz", "boot/initramfs-linux.img", "boot/dtbs/", "boot/dtbs/rockchip/a.dtb"];
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
        let wish = Wish { loader: Loader::Extlinux, no_initramfs: true, ..WISH };
        text(&planned(&names, "aarch64", &wish).unwrap(), EXTLINUX);
    }

    #[test]
    fn no_kernel_is_an_error_but_where_nothing_is_to_boot() {
        for names in [&[][..], &["boot/vmlinuz-"], &["boot/vmlinuz-a b"], &["boot/x/Image"]] {
            assert_eq!(planned(names, "aarch64", &WISH).unwrap_err().code, Code::NotFound);
            let wish = Wish { loader: Loader::None, ..WISH };
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
}
