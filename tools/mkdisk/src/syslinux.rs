//! SYSLINUX for a PC with BIOS: the host's syslinux(1) writes its loader into the FAT file system of `/boot`, in the image.

use crate::arrange::Arrangement;
use crate::plan::{Plan, mounted_at};
use stage::{Code, Doing, Failure, child};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Fails where the program is missing.
///
/// # Errors
///
/// [`Code::NotFound`].
pub(crate) fn check() -> Result<(), Failure> {
    match child::find("syslinux") {
        Some(_) => Ok(()),
        None => Err(Failure::new(Code::NotFound, "making a disk that boots by BIOS: syslinux is not installed")
            .hint("install it (Debian: syslinux and mtools), or give --bootloader none")),
    }
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
        return Err(Failure::new(Code::Usage, "making a disk that boots by BIOS: nothing is mounted at '/boot'"));
    };
    let mut command = child::command("syslinux");
    // It opens the image by a name, and ours has none yet. Its mtools date the files by the epoch.
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    let offset = place.start.to_string();
    command.args(["--directory", "syslinux", "--offset", &offset, "--install", &path]);
    command.env("SOURCE_DATE_EPOCH", plan.time.to_string()).env("TZ", "UTC");
    rootfs::die_with_us(&mut command);
    let ran = child::output(&mut command)?;
    if !ran.status.success() {
        return Err(Failure::new(Code::ChildFailed, format!("running syslinux: {}", child::ended(ran.status))));
    }
    // It writes the boot sector, but not the copy that fsck.fat(8) compares it with.
    let doing = || "copying the boot sector of '/boot'";
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, place.start).doing(Code::Os, doing)?;
    let copy = u64::from(u16::from_le_bytes([sector[50], sector[51]]));
    image.write_all_at(&sector, place.start + copy * 512).doing(Code::Os, doing)
}
