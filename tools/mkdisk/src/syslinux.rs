//! SYSLINUX for a PC with BIOS: the host's syslinux(1) writes its loader into the FAT file system of `/boot`, in the image.

use crate::arrange::Arrangement;
use crate::plan::{Plan, mounted_at};
use crate::program;
use image::Layout;
use image::layout::SECTOR;
use stage::{Code, Doing, Failure, child};
use std::fs::File;
use std::os::unix::fs::FileExt;

const DOING: &str = "making a disk that boots by BIOS";

/// Fails where a program is missing, or the layout is not for it.
///
/// # Errors
///
/// [`Code::NotFound`] and [`Code::Usage`].
pub(crate) fn check(layout: &Layout) -> Result<(), Failure> {
    // It copies its loader with mtools.
    if let Some(missing) = ["syslinux", "mcopy"].into_iter().find(|program| child::find(program).is_none()) {
        return Err(Failure::new(Code::NotFound, format!("{DOING}: {missing} is not installed"))
            .hint("install it (Debian: syslinux and mtools), or give --bootloader none"));
    }
    if layout.geometry.sector != SECTOR {
        return Err(Failure::new(Code::Usage, format!("{DOING}: SYSLINUX needs sectors of {SECTOR} bytes"))
            .hint("leave sector out of the layout"));
    }
    Ok(())
}

/// Installs the loader, beside its configuration.
///
/// # Errors
///
/// [`Code::ChildFailed`] where syslinux fails.
pub(crate) fn install(image: &File, plan: &Plan<'_>, disk: &Arrangement) -> Result<(), Failure> {
    let partitions = plan.layout.partitions.iter().zip(&disk.partitions);
    let boot = partitions.into_iter().find(|(partition, _)| mounted_at(partition, "/boot"));
    let Some((_, place)) = boot else {
        return Err(Failure::new(Code::Usage, format!("{DOING}: nothing is mounted at '/boot'")));
    };
    let mut command = child::command("syslinux");
    // Its mtools date the files by the epoch.
    let path = program::name_of(image);
    let offset = place.start.to_string();
    command.args(["--directory", "syslinux", "--offset", &offset, "--install", &path]);
    command.env("SOURCE_DATE_EPOCH", plan.time.to_string()).env("TZ", "UTC");
    // It leaves a file there where it fails.
    let scratch = tempfile::tempdir().doing(Code::Os, || "making a directory for syslinux")?;
    command.env("TMPDIR", scratch.path());
    program::run("syslinux", &mut command)?;
    // It writes the boot sector, but not the copy that fsck.fat(8) compares it with.
    let doing = || "copying the boot sector of '/boot'";
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, place.start).doing(Code::Os, doing)?;
    let copy = u64::from(u16::from_le_bytes([sector[50], sector[51]]));
    image.write_all_at(&sector, place.start + copy * 512).doing(Code::Os, doing)
}
