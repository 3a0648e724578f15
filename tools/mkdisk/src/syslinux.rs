//! SYSLINUX for a PC with BIOS: the host's syslinux(1) writes its loader into the FAT file system of `/boot`, in the image.

use crate::arrange::Arrangement;
use crate::plan::{Plan, mounted_at};
use crate::program;
use image::Layout;
use image::layout::SECTOR;
use rootfs::file;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::process::geteuid;
use stage::{Code, Doing, Failure, child, quote};
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

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

/// The directory in which syslinux makes a file for mtools, which it leaves there where it fails: beside the output, so that a
/// run that is killed leaves it where the next one takes it over.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    /// Nobody else uses it.
    _lock: OwnedFd,
}

impl Scratch {
    fn beside(output: &Path) -> Result<Self, Failure> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let path = output.with_file_name(format!(".{name}.syslinux"));
        let doing = || format!("making {}", quote(&path));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e).doing(Code::Os, doing),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = open(&path, flags, Mode::empty()).doing(Code::Os, doing)?;
        if fstat(&lock).doing(Code::Os, doing)?.st_uid != geteuid().as_raw() {
            return Err(Failure::new(Code::Permission, format!("{}: it is another user's", doing())));
        }
        if !file::lock_if_free(&lock).doing(Code::Os, doing)? {
            return Err(Failure::new(Code::Busy, format!("{}: another run works in it", doing()))
                .hint("wait until it has ended, and try again"));
        }
        empty(&path).doing(Code::Os, doing)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is taken over by the next run.
        empty(&self.path).and_then(|()| std::fs::remove_dir(&self.path)).unwrap_or_default();
    }
}

/// Removes the files in a directory.
fn empty(directory: &Path) -> std::io::Result<()> {
    std::fs::read_dir(directory)?.try_for_each(|entry| std::fs::remove_file(entry?.path()))
}

/// Installs the loader, beside its configuration. `output` is what the image is called when it is finished.
///
/// # Errors
///
/// [`Code::ChildFailed`] where syslinux fails.
pub(crate) fn install(image: &File, output: &Path, plan: &Plan<'_>, disk: &Arrangement) -> Result<(), Failure> {
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
    let scratch = Scratch::beside(output)?;
    command.env("TMPDIR", &scratch.path);
    program::run("syslinux", &mut command)?;
    // It writes the boot sector, but not the copy that fsck.fat(8) compares it with.
    let doing = || "copying the boot sector of '/boot'";
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, place.start).doing(Code::Os, doing)?;
    let copy = u64::from(u16::from_le_bytes([sector[50], sector[51]]));
    image.write_all_at(&sector, place.start + copy * 512).doing(Code::Os, doing)
}
