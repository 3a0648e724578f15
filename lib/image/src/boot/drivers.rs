//! Whether the drivers from the firmware to the root are in the kernel or in the initramfs.

use super::files::Files;
use super::initramfs::Initramfs;
use super::modules::Need;
use super::prove::{Finding, Kernel, Place, initramfs, show};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use stage::Failure;
use stage::members::BootEntry;
use std::collections::BTreeSet;

/// How a machine reaches its disk.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Serialize, ValueEnum)]
pub enum Bus {
    /// A disk of a virtual machine.
    Virtio,
    /// NVMe on PCI Express.
    Nvme,
    /// A card or eMMC at an SD host controller on PCI.
    Sdhci,
    /// A USB disk at an xHCI controller on PCI.
    Usb,
    /// A SATA disk at an AHCI controller on PCI.
    Ahci,
}

impl Bus {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Nvme => "nvme",
            Self::Sdhci => "sdhci",
            Self::Usb => "usb",
            Self::Ahci => "ahci",
        }
    }

    /// Returns the drivers between PCI and the disk.
    fn drivers(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => &["virtio_pci", "virtio_blk"],
            Self::Nvme => &["nvme"],
            Self::Sdhci => &["sdhci_pci", "mmc_block"],
            // A disk that can do UAS has no other driver where the kernel has this one (usb_storage's uas-detect.h).
            Self::Usb => &["xhci_pci", "usb_storage", "sd_mod", "uas"],
            Self::Ahci => &["ahci", "sd_mod"],
        }
    }
}

/// Drivers that a kernel may be built without.
const OPTIONAL: [&str; 1] = ["uas"];

/// Programs that make an initramfs, the call that makes it, and how a module is added to it.
pub const MAKERS: [(&str, &str, &str); 4] = [
    ("mkinitcpio", "mkinitcpio -P", "MODULES+=(NAME) into /etc/mkinitcpio.conf.d/modules.conf"),
    ("dracut", "dracut --regenerate-all --force", "add_drivers+=\" NAME \" into /etc/dracut.conf.d/modules.conf"),
    ("booster", "booster build --force --universal FILE", "'modules_force_load: NAME' into /etc/booster.yaml"),
    ("update-initramfs", "update-initramfs -u -k all", "NAME into /etc/initramfs-tools/modules"),
];

fn maker(files: &Files<'_>) -> Option<(&'static str, &'static str)> {
    let is_there =
        |name: &str| ["usr/bin", "usr/sbin"].iter().any(|place| files.find(&format!("{place}/{name}")).is_some());
    MAKERS.iter().find(|(name, ..)| is_there(name)).map(|(_, call, add)| (*call, *add))
}

/// Returns how to make the initramfs again.
pub(super) fn make_again(files: &Files<'_>) -> String {
    match maker(files) {
        Some((call, _)) => format!("make it again: 'enter -- {call}'"),
        None => "make it again".to_owned(),
    }
}

/// Checks the drivers of one entry.
///
/// # Errors
///
/// When a file cannot be read.
pub(super) fn check(
    entry: &BootEntry,
    kernel: &Kernel,
    root: &Place,
    buses: &[Bus],
    files: &Files<'_>,
) -> Result<Vec<Finding>, Failure> {
    let of_buses = buses.iter().flat_map(|bus| bus.drivers().iter().map(|driver| (Some(*bus), *driver)));
    let drivers = [(None, root.kind.as_str())].into_iter().chain(of_buses);
    let needs: Vec<_> = drivers.map(|(bus, driver)| (bus, driver, kernel.modules.needs(driver))).collect();
    let wanted: BTreeSet<&str> =
        needs.iter().flat_map(|(_, _, needs)| needs.iter().flat_map(names).map(String::as_str)).collect();
    let with = match entry.initramfs.last() {
        None => None,
        Some(_) => match initramfs(entry, files, &|name| wanted.contains(name))? {
            Ok(found) => Some(found),
            Err(finding) => return Ok(vec![finding]),
        },
    };
    if let Some(finding) = with.as_ref().and_then(|with| whole(entry, with, &kernel.release, files)) {
        return Ok(vec![finding]);
    }
    let mut found = Vec::new();
    for (bus, driver, needs) in &needs {
        let mut missing: Vec<&Need> = needs.iter().filter(|need| is_missing(need, driver, with.as_ref())).collect();
        // What a driver depends on comes with it.
        if let Some(own) = missing.iter().position(|need| names(need) == [*driver]) {
            missing = vec![missing[own]];
        }
        found.extend(missing.into_iter().map(|need| {
            let (message, hint) = say(entry, kernel, driver, need, files);
            let of = bus.map_or_else(String::new, |bus| format!(" (for {})", bus.name()));
            Finding { bus: *bus, ..Finding::wrong(message + &of, hint) }
        }));
    }
    Ok(found)
}

/// Returns whether neither the kernel nor the initramfs has what a driver needs.
fn is_missing(need: &Need, driver: &str, with: Option<&Initramfs>) -> bool {
    let is_there = |name: &String| with.is_some_and(|with| with.modules.contains_key(name));
    match need {
        Need::NoDriver => !OPTIONAL.contains(&driver),
        need => !names(need).iter().any(is_there),
    }
}

fn names(need: &Need) -> &[String] {
    match need {
        Need::Module { name, .. } => std::slice::from_ref(name),
        Need::OneOf { names, .. } => names,
        Need::NoDriver => &[],
    }
}

/// Checks that it is an initramfs, and of this kernel.
fn whole(entry: &BootEntry, found: &Initramfs, release: &str, files: &Files<'_>) -> Option<Finding> {
    let path = show(entry.initramfs.last()?);
    if !found.has_init {
        return Some(Finding::wrong(format!("{path} has no /init: it is no initramfs"), make_again(files)));
    }
    let of_modules = found.modules.values().flatten().find(|other| *other != release);
    let of_directories = found.releases.iter().next().filter(|_| !found.releases.contains(release));
    let other = of_directories.or(of_modules)?;
    let other = stage::message::escape(other);
    let message = format!("{path} is for Linux {other}, and {} is Linux {release}", show(&entry.kernel));
    Some(Finding::wrong(message, make_again(files)))
}

/// Returns what a missing need is, and how to get it.
fn say(entry: &BootEntry, kernel: &Kernel, driver: &str, need: &Need, files: &Files<'_>) -> (String, String) {
    let image = show(&entry.kernel);
    let (name, by) = match need {
        Need::NoDriver => {
            let message = format!("{image} is Linux {}, which has no driver '{driver}'", kernel.release);
            return (message, "strap a kernel that has it".to_owned());
        }
        Need::Module { name, by } => (name.clone(), by),
        Need::OneOf { names, by } => (names.join("' or '"), by),
    };
    let of = if name == *by { String::new() } else { format!(", which '{by}' needs") };
    let Some(path) = entry.initramfs.last() else {
        let message = format!("{image} has no initramfs, and the driver '{name}'{of} is a module");
        return (message, "put 'strap mkinitcpio' before the kernel".to_owned());
    };
    let hint = match (maker(files), names(need)) {
        (Some((call, add)), [name, ..]) => {
            let add = add.replace("NAME", name);
            format!("strap it without --initramfs host, or write {add}, and make it again: 'enter -- {call}'")
        }
        _ => "make an initramfs that has it".to_owned(),
    };
    (format!("{} has no module '{name}'{of}", show(path)), hint)
}
