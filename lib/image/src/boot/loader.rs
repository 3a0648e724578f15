//! What boot loaders are told, read back: extlinux.conf, syslinux.cfg, the entries of systemd-boot and the unified kernel images
//! that it finds by itself, and a Raspberry Pi's config.txt with its cmdline.txt; those of the root and our own alike.

use super::files::{Files, LONGEST_CONFIGURATION};
use super::prove::{Finding, Place, show};
use super::raspberrypi::{CMDLINE, CONFIG};
use super::{EXTLINUX, SYSLINUX, unified};
use crate::node::is_below;
use stage::Failure;
use stage::members::BootEntry;
use std::collections::BTreeSet;

/// Returns every entry that starts a kernel, with paths of the root.
///
/// # Errors
///
/// When a file cannot be read. `places` are the file systems of the image.
pub(super) fn entries(files: &Files<'_>, places: &[Place]) -> Result<Vec<BootEntry>, Failure> {
    let mut found = Vec::new();
    for path in [EXTLINUX, SYSLINUX] {
        let point = point(places, path);
        found.extend(extlinux(path, &Menu::read(files, path, point)?.text, point));
    }
    found.extend(raspberry_pi(&files.configuration(CONFIG)?, &files.configuration(CMDLINE)?, point(places, CONFIG)));
    // systemd-boot looks on the EFI system partition and on the one for more kernels.
    let fat = places.iter().filter(|place| place.is_fat()).map(Place::below_root);
    for top in fat.chain(["boot"]).collect::<BTreeSet<_>>() {
        for path in files.below(&in_root(top, "loader/entries")).into_iter().filter(|path| path.ends_with(".conf")) {
            found.extend(systemd_boot(path, &files.configuration(path)?, point(places, path)));
        }
        for path in files.below(&in_root(top, "EFI/Linux")).into_iter().filter(|path| path.ends_with(".efi")) {
            found.push(unified::entry(path, files)?);
        }
    }
    Ok(found)
}

/// Returns what is wrong with the files that menus include.
///
/// # Errors
///
/// As [`entries`].
pub(super) fn included(files: &Files<'_>, places: &[Place]) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    for path in [EXTLINUX, SYSLINUX] {
        found.extend(Menu::read(files, path, point(places, path))?.found);
    }
    Ok(found)
}

/// Returns the mount point of the file system that has a path, without a slash at its beginning.
fn point<'a>(places: &'a [Place], path: &str) -> &'a str {
    let points = places.iter().map(Place::below_root);
    points.filter(|point| is_below(point, path.as_bytes())).max_by_key(|point| point.len()).unwrap_or_default()
}

/// Returns a path of the file system at `point` as one of the root.
fn in_root(point: &str, path: &str) -> String {
    let parts = point.split('/').chain(path.split('/')).filter(|part| !part.is_empty() && *part != ".");
    let mut all = Vec::new();
    for part in parts {
        match part {
            ".." => all.truncate(all.len().saturating_sub(1)),
            part => all.push(part),
        }
    }
    all.join("/")
}

/// Splits a line into its first word and the rest.
fn split(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once([' ', '\t']).map_or((line, ""), |(key, value)| (key, value.trim()))
}

/// How many files one menu may include. U-Boot and SYSLINUX have a limit of 16 below each other.
const INCLUDED: usize = 64;

/// extlinux.conf or syslinux.cfg, with the files that it includes in the places of the lines that include them.
#[derive(Debug, Default)]
struct Menu {
    text: String,
    /// How many lines include a file.
    included: usize,
    /// What is wrong with the files that it includes.
    found: Vec<Finding>,
}

impl Menu {
    fn read(files: &Files<'_>, path: &str, point: &str) -> Result<Self, Failure> {
        let mut menu = Self::default();
        menu.add(files, path, path, point)?;
        Ok(menu)
    }

    /// Adds the lines of `path`; `top` is the file that includes it.
    fn add(&mut self, files: &Files<'_>, top: &str, path: &str, point: &str) -> Result<(), Failure> {
        let text = files.configuration(path)?;
        // A file may include itself: each line of it that starts a kernel is an entry.
        if (self.text.len() + text.len()) as u64 > LONGEST_CONFIGURATION {
            let message = format!("{} has more than 1 MiB with what it includes: not all is read", show(top));
            if self.found.iter().all(|finding| finding.message != message) {
                self.found.push(Finding::unproven(message));
            }
            return Ok(());
        }
        for line in text.lines() {
            let Some(name) = included_by(line) else {
                self.text.push_str(line);
                self.text.push('\n');
                continue;
            };
            self.included += 1;
            let named = named(top, point, name);
            if self.included > INCLUDED {
                // Of a thousand lines one finding.
                if self.included == INCLUDED + 1 {
                    let message = format!("{} includes more than {INCLUDED} files: not all are read", show(top));
                    self.found.push(Finding::unproven(message));
                }
            } else if files.find(&named).is_some() {
                self.add(files, top, &named, point)?;
            } else {
                let message = format!("{} includes {}, which does not exist", show(path), show(&named));
                let hint = "correct that file; mkdisk writes its own with --bootloader NAME";
                self.found.push(Finding::wrong(message, hint));
            }
        }
        Ok(())
    }
}

/// Returns the file that a line includes: `INCLUDE FILE` or `MENU INCLUDE FILE`; a tag may follow.
fn included_by(line: &str) -> Option<&str> {
    let (key, rest) = split(line);
    let (key, rest) = if key.eq_ignore_ascii_case("menu") { split(rest) } else { (key, rest) };
    key.eq_ignore_ascii_case("include").then(|| split(rest).0).filter(|name| !name.is_empty())
}

/// Returns the path that a menu means. One without a slash is beside the file.
fn named(file: &str, point: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => in_root(point, path),
        false => in_root(file.rsplit_once('/').map_or("", |(directory, _)| directory), path),
    }
}

/// Reads extlinux.conf, as U-Boot's boot/pxe_utils.c does, or syslinux.cfg.
fn extlinux(file: &str, text: &str, point: &str) -> Vec<BootEntry> {
    let mut found: Vec<BootEntry> = Vec::new();
    for (key, value) in text.lines().map(split) {
        let key = key.to_ascii_lowercase();
        if key == "label" {
            found.push(BootEntry { file: file.to_owned(), ..BootEntry::default() });
        }
        let Some(entry) = found.last_mut() else { continue };
        let path = |value: &str| named(file, point, value);
        match key.as_str() {
            "linux" | "kernel" => entry.kernel = path(value),
            "initrd" => entry.initramfs = value.split(',').map(path).collect(),
            "fdt" | "devicetree" => entry.devicetree = Some(path(value)),
            "fdtdir" | "devicetreedir" => entry.devicetree = Some(format!("{}/", path(value))),
            "append" => entry.cmdline = value.to_owned(),
            _ => {}
        }
    }
    // What SYSLINUX runs in the place of a kernel.
    let is_module = |kernel: &str| {
        let end = kernel.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
        end.is_some_and(|end| ["c32", "com", "bin", "bs", "bss", "0"].contains(&end.as_str()))
    };
    found.retain(|entry| !entry.kernel.is_empty() && (file != SYSLINUX || !is_module(&entry.kernel)));
    for entry in found.iter_mut().filter(|entry| file == SYSLINUX && entry.initramfs.is_empty()) {
        // Its older form.
        let images = entry.cmdline.split_whitespace().find_map(|word| word.strip_prefix("initrd="));
        let images = images.into_iter().flat_map(|names| names.split(','));
        entry.initramfs = images.map(|name| named(file, point, name)).collect();
    }
    found
}

/// Reads config.txt and cmdline.txt. Sections for some models are left out, and so is a kernel that the firmware chooses.
fn raspberry_pi(config: &str, cmdline: &str, point: &str) -> Option<BootEntry> {
    let mut entry = BootEntry { file: CONFIG.to_owned(), cmdline: cmdline.trim().to_owned(), ..BootEntry::default() };
    let mut is_for_all = true;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            is_for_all = line == "[all]";
        }
        if !is_for_all {
            continue;
        }
        match line.split_once(['=', ' ']) {
            Some(("kernel", name)) => entry.kernel = in_root(point, name.trim()),
            Some(("initramfs", names)) => {
                let names = names.split_whitespace().next().unwrap_or_default().split(',');
                entry.initramfs = names.map(|name| in_root(point, name)).collect();
            }
            Some(("device_tree", name)) => entry.devicetree = Some(in_root(point, name.trim())),
            _ => {}
        }
    }
    (!entry.kernel.is_empty()).then_some(entry)
}

/// Reads an entry of the Boot Loader Specification, type 1.
fn systemd_boot(file: &str, text: &str, point: &str) -> Option<BootEntry> {
    let mut entry = BootEntry { file: file.to_owned(), ..BootEntry::default() };
    for (key, value) in text.lines().map(split) {
        match key {
            "linux" => entry.kernel = in_root(point, value),
            "initrd" => entry.initramfs.push(in_root(point, value)),
            "devicetree" => entry.devicetree = Some(in_root(point, value)),
            "options" => entry.cmdline = format!("{} {value}", entry.cmdline).trim().to_owned(),
            _ => {}
        }
    }
    (!entry.kernel.is_empty()).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(file: &str, initramfs: &[&str], devicetree: Option<&str>) -> BootEntry {
        BootEntry {
            file: file.into(),
            kernel: "boot/Image".into(),
            initramfs: initramfs.iter().map(|path| (*path).to_owned()).collect(),
            devicetree: devicetree.map(str::to_owned),
            cmdline: "root=UUID=1 rw".into(),
        }
    }

    #[test]
    fn paths_are_those_of_the_partition() {
        let conf = "default x\nlabel x\n menu label X\n  LINUX /Image\n initrd /a.img\n fdtdir /dtbs\n append  root=UUID=1 rw\n\
                    label y\n kernel ../Image\n fdt ../dtbs/a.dtb\n append root=UUID=1 rw\nlabel local\n localboot 1\n";
        let expected =
            [entry(EXTLINUX, &["boot/a.img"], Some("boot/dtbs/")), entry(EXTLINUX, &[], Some("boot/dtbs/a.dtb"))];
        assert_eq!(extlinux(EXTLINUX, conf, "boot"), expected);
        assert_eq!(extlinux(EXTLINUX, &conf.replace(" /", " /boot/"), ""), expected);
    }

    #[test]
    fn syslinux_has_an_older_form_and_programs() {
        let conf = "label x\nkernel /Image\nappend initrd=/u.img,a.img root=UUID=1 rw\nlabel y\nkernel poweroff.c32\n";
        let found = extlinux(SYSLINUX, conf, "boot");
        let images: Vec<_> = found.iter().map(|entry| (entry.kernel.as_str(), entry.initramfs.join(" "))).collect();
        let beside = SYSLINUX.rsplit_once('/').unwrap().0;
        assert_eq!(images, [("boot/Image", format!("boot/u.img {beside}/a.img"))]);
        assert!(extlinux(EXTLINUX, conf, "boot")[0].initramfs.is_empty());
    }

    #[test]
    fn a_raspberry_pi_has_two_files() {
        let conf = "[pi5]\nkernel=other\n[all]\ndtoverlay=a\nkernel=Image\ninitramfs a.img followkernel\n\
                    device_tree=dtbs/a.dtb\n[pi3]\nkernel=another\n";
        let expected = entry(CONFIG, &["boot/a.img"], Some("boot/dtbs/a.dtb"));
        assert_eq!(raspberry_pi(conf, "root=UUID=1 rw\n", "boot"), Some(expected));
        assert_eq!(raspberry_pi("arm_64bit=1\n", "root=UUID=1 rw\n", "boot"), None);
    }

    #[test]
    fn an_entry_may_have_several_lines_of_each() {
        let text = "title X\nlinux /Image\ninitrd /u.img\ninitrd\t/a.img\noptions root=UUID=1\noptions rw\n";
        let name = "boot/loader/entries/x.conf";
        assert_eq!(systemd_boot(name, text, "boot"), Some(entry(name, &["boot/u.img", "boot/a.img"], None)));
        assert_eq!(systemd_boot(name, "title X\nefi /x.efi\n", "boot"), None);
    }
}
