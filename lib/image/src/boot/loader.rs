//! What boot loaders are told, read back: extlinux.conf and the entries of systemd-boot, those of the root and our own alike.

use super::files::Files;
use super::{ENTRIES, EXTLINUX};
use crate::node::is_below;
use stage::Failure;
use stage::members::BootEntry;

/// Returns every entry that starts a kernel, with paths of the root.
///
/// # Errors
///
/// When a file cannot be read. `points` are the mount points of the image.
pub(super) fn entries(files: &Files<'_>, points: &[&str]) -> Result<Vec<BootEntry>, Failure> {
    let mut found = extlinux(&files.text(EXTLINUX)?, point(points, EXTLINUX));
    for path in files.below(ENTRIES).into_iter().filter(|path| path.ends_with(".conf")) {
        found.extend(systemd_boot(path, &files.text(path)?, point(points, path)));
    }
    Ok(found)
}

/// Returns the mount point of the file system that has a path, without a slash at its beginning.
fn point<'a>(points: &[&'a str], path: &str) -> &'a str {
    let points = points.iter().map(|point| point.trim_start_matches('/'));
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

/// Reads extlinux.conf, as U-Boot's boot/pxe_utils.c does.
fn extlinux(text: &str, point: &str) -> Vec<BootEntry> {
    let mut found: Vec<BootEntry> = Vec::new();
    for (key, value) in text.lines().map(split) {
        let key = key.to_ascii_lowercase();
        if key == "label" {
            found.push(BootEntry { file: EXTLINUX.to_owned(), ..BootEntry::default() });
        }
        let Some(entry) = found.last_mut() else { continue };
        let directory = EXTLINUX.rsplit_once('/').map_or("", |(directory, _)| directory);
        // A path without a slash is beside the file.
        let path = |value: &str| match value.starts_with('/') {
            true => in_root(point, value),
            false => in_root(directory, value),
        };
        match key.as_str() {
            "linux" | "kernel" => entry.kernel = path(value),
            "initrd" => entry.initramfs = value.split(',').map(path).collect(),
            "fdt" | "devicetree" => entry.devicetree = Some(path(value)),
            "fdtdir" | "devicetreedir" => entry.devicetree = Some(format!("{}/", path(value))),
            "append" => entry.cmdline = value.to_owned(),
            _ => {}
        }
    }
    found.retain(|entry| !entry.kernel.is_empty());
    found
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
        assert_eq!(extlinux(conf, "boot"), expected);
        assert_eq!(extlinux(&conf.replace(" /", " /boot/"), ""), expected);
    }

    #[test]
    fn an_entry_may_have_several_lines_of_each() {
        let text = "title X\nlinux /Image\ninitrd /u.img\ninitrd\t/a.img\noptions root=UUID=1\noptions rw\n";
        let name = "boot/loader/entries/x.conf";
        assert_eq!(systemd_boot(name, text, "boot"), Some(entry(name, &["boot/u.img", "boot/a.img"], None)));
        assert_eq!(systemd_boot(name, "title X\nefi /x.efi\n", "boot"), None);
    }
}
