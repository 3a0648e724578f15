//! Whether an image can boot: what the boot loader is told is there and of this image, and every driver from the firmware to
//! the root is in the kernel or in the initramfs.
//!
//! It is read, not run. So what only a machine shows, such as a board's clocks and regulators, is never said to be proven.

use super::drivers::{self, Bus};
use super::files::Files;
use super::initramfs::Initramfs;
use super::modules::Modules;
use super::release::{self, Image};
use super::{loader, root, unified};
use crate::disk::Table;
use crate::ids::Ids;
use crate::kind::FileSystemKind;
use crate::layout::Layout;
use crate::{Node, Tree};
use serde::{Deserialize, Serialize};
use stage::members::{BootEntry, Disk};
use stage::{Code, Failure, quote};
use std::collections::{HashMap, HashSet};

/// A partition whose file system is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where in the root.
    pub at: String,
    /// The type of the file system.
    pub kind: String,
    /// The UUID of the file system; empty where it has none.
    pub uuid: String,
    /// What the kernel calls the partition; empty where there is no partition table.
    pub part_uuid: String,
    /// The name of the partition; empty where the table has none.
    pub part_label: String,
}

impl Place {
    pub(super) fn is_fat(&self) -> bool {
        self.kind == FileSystemKind::Vfat.name()
    }

    /// Returns the mount point without a slash at its beginning, which is nothing for the root.
    pub(super) fn below_root(&self) -> &str {
        self.at.trim_start_matches('/')
    }

    /// Returns those of the partition `n` of a layout, from 0 on, with the UUID of its file system.
    #[must_use]
    pub fn of_layout(layout: &Layout, n: usize, ids: &Ids, uuid: &str) -> Vec<Self> {
        let partition = &layout.partitions[n];
        let Some((kind, _)) = partition.mounted() else { return Vec::new() };
        let has_names = layout.geometry.has_gpt();
        let of = |at: &str| Self {
            at: at.to_owned(),
            kind: kind.name().to_owned(),
            uuid: uuid.to_owned(),
            part_uuid: layout.partition_id(n, ids).unwrap_or_default(),
            part_label: if has_names { partition.name.clone() } else { String::new() },
        };
        partition.mount_points().into_iter().map(of).collect()
    }

    /// Returns those of a disk in the document.
    pub fn of_record(disk: &Disk) -> impl Iterator<Item = Self> + '_ {
        let without_names = [Table::Mbr, Table::None].map(Table::name);
        let has_names = !disk.table.as_deref().is_some_and(|table| without_names.contains(&table));
        let mounted = disk.partitions.iter().filter_map(|p| Some((p, p.filesystem.as_ref()?, p.at.as_ref()?)));
        mounted.flat_map(move |(partition, file_system, at)| {
            let others = file_system.subvolumes.values().filter(move |other| *other != at);
            [at].into_iter().chain(others).map(move |at| Self {
                at: at.clone(),
                kind: file_system.kind.clone(),
                uuid: file_system.uuid.clone(),
                part_uuid: partition.uuid.clone().unwrap_or_default(),
                part_label: if has_names { partition.name.clone() } else { String::new() },
            })
        })
    }
}

/// Something that keeps an image from booting, or that could not be found out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    /// Whether it is known that it does not boot so.
    pub is_wrong: bool,
    /// The bus that it is about; `None` where it is about all machines.
    pub bus: Option<Bus>,
    /// What it is: a clause for a message.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

impl Finding {
    /// Returns it as a failure: what was being done is `doing`.
    #[must_use]
    pub fn failure(&self, code: Code, doing: &str) -> Failure {
        let failure = Failure::new(code, format!("{doing}: {}", self.message));
        if self.hint.is_empty() { failure } else { failure.hint(&self.hint) }
    }

    pub(super) fn wrong(message: String, hint: impl Into<String>) -> Self {
        Self { is_wrong: true, bus: None, message, hint: hint.into() }
    }

    pub(super) fn unproven(message: String) -> Self {
        Self { is_wrong: false, bus: None, message, hint: String::new() }
    }
}

/// An image: the files of a root, those that are added to it, and its file systems.
#[derive(Debug)]
pub struct Subject<'a> {
    files: Files<'a>,
    places: Vec<Place>,
}

impl<'a> Subject<'a> {
    /// Returns the image of a root whose files are `nodes`, with the files that only the image has, `added`, and the file
    /// systems that are mounted, `places`.
    #[must_use]
    pub fn new(tree: &'a Tree, nodes: &'a [Node], added: &'a [Node], places: Vec<Place>) -> Self {
        let fat: Vec<_> = places.iter().filter(|place| place.is_fat()).map(Place::below_root).collect();
        Self { files: Files::new(tree, nodes, added, &fat), places }
    }

    /// Returns what the boot loaders' configurations start.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn entries(&self) -> Result<Vec<BootEntry>, Failure> {
        loader::entries(&self.files, &self.places)
    }

    /// Checks that every entry boots from these buses. Without one, what does not depend on a bus is checked.
    ///
    /// # Errors
    ///
    /// When a file cannot be read. What is found wrong is no error.
    pub fn prove(&self, entries: &[BootEntry], buses: &[Bus]) -> Result<Vec<Finding>, Failure> {
        let files = &self.files;
        let mut found = root::fstab(&files.configuration("etc/fstab")?, &self.places);
        found.extend(loader::included(files, &self.places)?);
        if entries.is_empty() {
            found.push(Finding::unproven("no boot loader's configuration that is known starts a kernel".to_owned()));
        }
        let Some(root) = self.places.iter().find(|place| place.at == "/") else {
            found.push(Finding::unproven("the image has no root".to_owned()));
            return Ok(found);
        };
        let mut kernels = HashMap::new();
        let mut done = HashSet::new();
        for entry in entries {
            found.extend(root::argument(entry, &self.places));
            let mut faults = missing_files(entry, files);
            if faults.is_empty() {
                faults.extend(unified::check(entry, files)?);
            }
            let is_wrong = faults.iter().any(|finding| finding.is_wrong);
            found.extend(faults);
            if is_wrong {
                continue;
            }
            // Entries may differ in their command lines only.
            if !done.insert((&entry.kernel, &entry.initramfs)) {
                continue;
            }
            if !kernels.contains_key(&entry.kernel) {
                kernels.insert(&entry.kernel, kernel(&entry.kernel, files)?);
            }
            match &kernels[&entry.kernel] {
                Ok(kernel) => found.extend(drivers::check(entry, kernel, root, buses, files)?),
                Err(finding) => found.push(finding.clone()),
            }
        }
        let mut all = HashSet::new();
        found.retain(|finding| all.insert(finding.clone()));
        Ok(found)
    }
}

/// Returns a path of the root as it stands in messages.
pub(super) fn show(path: &str) -> String {
    quote(format!("/{path}"))
}

/// Names the files of an entry that do not exist.
fn missing_files(entry: &BootEntry, files: &Files<'_>) -> Vec<Finding> {
    let devicetree = entry.devicetree.as_ref();
    let named = [&entry.kernel].into_iter().chain(&entry.initramfs).chain(devicetree);
    let is_there = |path: &String| match path.strip_suffix('/') {
        Some(directory) => files.is_directory(directory),
        None => files.find(path).is_some(),
    };
    let missing = named.filter(|path| !is_there(path)).map(|path| {
        let message = format!("{} names {}, which does not exist", show(&entry.file), show(path));
        let hint = "strap the package that has it, or correct that file; mkdisk writes its own with --bootloader NAME";
        Finding::wrong(message, hint)
    });
    missing.collect()
}

/// A kernel that was recognised.
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) modules: Modules,
}

/// Reads a kernel and its modules' names.
fn kernel(path: &str, files: &Files<'_>) -> Result<Result<Kernel, Finding>, Failure> {
    let Some(node) = files.find(path) else {
        return Ok(Err(Finding::unproven(format!("{} does not exist", show(path)))));
    };
    let why = match files.read(node, |reader| release::read(unified::section(reader, ".linux")?))? {
        Ok(Image::Release(release)) => return with_modules(path, release, files),
        Ok(Image::Silent) => "it does not say its release",
        Ok(Image::Unknown) => "it is a kernel in no known format",
        Err(why) => {
            let message = format!("{} cannot be unpacked: {why}", show(path));
            return Ok(Err(Finding::wrong(message, "strap the kernel's package again")));
        }
    };
    Ok(Err(Finding::unproven(format!("the drivers of {} are not checked: {why}", show(path)))))
}

fn with_modules(path: &str, release: String, files: &Files<'_>) -> Result<Result<Kernel, Finding>, Failure> {
    let directory = format!("usr/lib/modules/{release}");
    Ok(match Modules::read(files, &release)? {
        None => Err(Finding::wrong(
            format!("{} is Linux {release}, and the root has no {}", show(path), show(&directory)),
            "strap the kernel's package again: the kernel and its modules are of one version",
        )),
        Some(modules) if modules.are_unlisted() => Err(Finding::wrong(
            format!("{} has no modules.dep, so no module is found", show(&directory)),
            format!("make it: 'enter -- depmod {release}'"),
        )),
        Some(modules) => Ok(Kernel { release, modules }),
    })
}

/// Reads what an entry unpacks.
pub(super) fn initramfs(
    entry: &BootEntry,
    files: &Files<'_>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Result<Initramfs, Finding>, Failure> {
    let mut all = Initramfs::default();
    for path in &entry.initramfs {
        let Some(node) = files.find(path) else { continue };
        if let Err(why) = files.read(node, |reader| all.read(unified::section(reader, ".initrd")?, wanted))? {
            let message = format!("{} cannot be unpacked: {why}", show(path));
            return Ok(Err(Finding::wrong(message, drivers::make_again(files))));
        }
    }
    Ok(Ok(all))
}
