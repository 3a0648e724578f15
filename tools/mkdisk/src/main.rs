//! mkdisk: make a disk image of a root, that boots, without mounting anything and without root.
//!
//! The image is a function of the root, the layout and the date: the walk over the root is sorted and is `pack`'s own, the file
//! systems are written whole by lib/image, and ids come from the date where there is one.
//! So two roots made from the same packages give the same image, byte for byte. How large things must be is measured before
//! anything is written.
//!
//! `plan.rs` has what is asked for, `content.rs` which file goes where, `arrange.rs` which partition goes where; `work.rs` puts
//! it together inside the root's namespaces. What boots is in lib/image.

mod arrange;
mod boards;
mod content;
mod format;
mod plan;
mod program;
mod syslinux;
mod table;
mod work;

use boards::Boot;
use clap::Parser;
use format::Format;
use image::boot::{self, Loader};
use image::disk::Table;
use image::ids::Ids;
use image::layout::{Content, Layout, SECTOR, Size, Source};
use image::reader::Reader;
use image::tree::Points;
use image::{Output, Rules, epoch, size};
use pacman::{lock, secret};
use plan::{Headroom, Plan};
use rootfs::{Arch, Inside, Place, Root};

use sha2::{Digest, Sha256};
use stage::members::{Disk, DiskFileSystem, DiskPartition};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, Unit, quote};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use work::Done;

/// Make a disk image of a root: a partition table, and file systems that are
/// filled without mounting them
///
/// The image has a boot partition (FAT32) and a root partition (ext4), or those of a layout file, and the configuration of a
/// boot loader. With SOURCE_DATE_EPOCH set, the same packages give the same image.
#[derive(Debug, Parser)]
#[command(name = "mkdisk", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap base linux-aarch64 | configure --fstab | keyring --strip \\\n    | mkdisk -o alarm.img --board orangepi-5 | reap | unmount"
)]
struct Args {
    /// Write the image to FILE, which ends with .img, .img.zst, .img.xz, .img.gz,
    /// .qcow2, .vhdx or .vmdk
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Option<PathBuf>,

    /// Size of the disk; the root takes the rest of it. auto makes room for the
    /// files and the headroom
    #[arg(long, value_name = "SIZE|auto", default_value = "auto")]
    size: Size,

    /// Size of the partition at /boot [default: that of the layout]
    #[arg(long, value_name = "SIZE|auto")]
    boot: Option<Size>,

    /// Free space where a size is auto [default: 10% of the files, plus 64M]
    #[arg(long, value_name = "SIZE|PERCENT%")]
    headroom: Option<Headroom>,

    /// Read partitions and blobs from FILE [default: /boot on FAT32, / on ext4]
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,

    /// Make the disk of a board: its partitions, boot loaders, devicetree and
    /// console; NAME is one of --list-boards
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "layout")]
    board: Option<String>,

    /// Take the board's blob NAME from FILE, not from the root
    #[arg(long, value_name = "NAME=FILE", value_parser = boards::parse_blob)]
    blob: Vec<(String, PathBuf)>,

    /// List the boards, and how far an image for each was seen to work
    #[arg(long, exclusive = true)]
    list_boards: bool,

    /// Configure this boot loader; auto is the one of the architecture
    #[arg(long, value_name = "NAME", default_value = "auto")]
    bootloader: Loader,

    /// Add TEXT to the kernel's command line
    #[arg(long, value_name = "TEXT", value_parser = boot::check_cmdline)]
    cmdline: Option<String>,

    /// Boot with this devicetree: a path such as
    /// rockchip/rk3588s-orangepi-5.dtb
    #[arg(long, value_name = "PATH", value_parser = boot::check_dtb)]
    dtb: Option<String>,

    /// Apply this devicetree overlay, a path beside the devicetrees; on a Raspberry
    /// Pi its name
    #[arg(long, value_name = "PATH", value_parser = boot::check_dtb)]
    dtbo: Vec<String>,

    /// Accept a kernel without an initramfs: it has the drivers of its disk
    #[arg(long)]
    no_initramfs: bool,

    /// Do not check that the image can boot
    #[arg(long)]
    no_boot_check: bool,

    /// Leave out files that match GLOB; ** is any number of directories
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,

    /// Include files that match GLOB, even if a rule leaves them out
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,

    /// Accept a keyring with its secret key
    #[arg(long)]
    keep_keyring: bool,

    #[command(flatten)]
    common: Common,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let epoch = epoch::of_environment()?;
        let rules = Rules::new(&self.exclude, &self.include, epoch)?;
        let name = self.output.as_deref().unwrap_or(Path::new(""));
        let format = Format::of_name(name)?;
        format.check()?;
        check_output(name)?;
        let inside = Inside::of(document)?.bare();
        let root = inside.root();
        let doing = format!("making a disk of {}", quote(root.path()));
        let _lock = lock::share(root)?;
        lock::refuse_unfinished(root, &doing)?;
        if !self.keep_keyring {
            secret::refuse_in_image(root, &doing, |key| rules.leaves_out_with_above(key))?;
        }
        let plan = self.plan(document, &inside, rules)?;
        for at in &plan.points.bound {
            context.note(format_args!("'{at}' is bound from the host, and left out"));
        }
        let output = Output::create(name, root)?;
        // Never finished: it is gone with us.
        let raw =
            (format != Format::Raw).then(|| Output::create(&output.path.with_extension("raw"), root)).transpose()?;
        let image = raw.as_ref().map_or(&output.file, |raw| &raw.file);
        let scratch = scratch_files(&plan.layout, &output)?;
        let mut lent = vec![image.as_fd()];
        lent.extend(plan.files.values().map(|(file, _)| file.as_fd()));
        lent.extend(scratch.iter().flatten().map(AsFd::as_fd));
        let done = inside.call(Place::Host, &lent, || work::work(context, &plan, document, image, &scratch))?;
        if plan.boot.loader == Loader::Syslinux {
            syslinux::install(image, &output.path, &plan, &done.disk)?;
        }
        format.convert(context, image, &output.file)?;
        let is_full = done.disk.size.saturating_sub(done.content) <= MOST_ZEROS || format != Format::Raw;
        let sha256 = if is_full { Some(sha256(context, &output.file)?) } else { None };
        stage::signal::check()?;
        let mut disk = disk(&output.path, sha256.as_deref(), &plan, &done);
        disk.format = format.name().map(str::to_owned);
        let path = output.path.clone();
        output.finish()?.remove_on_undo(context, name);
        record(document, disk);
        if let Some(key) = done.secrets.first() {
            let (n, key) = (done.secrets.len(), quote(key));
            context.warn(format_args!(
                "every machine that is made from it has the same secret keys: {n} of them, such as {key}"
            ));
        }
        for note in &done.notes {
            context.note(note);
        }
        context.note(summary(&path, &plan, &done));
        Ok(())
    }
}

impl Args {
    /// Decides what to make.
    fn plan(&self, document: &Document, inside: &Inside, rules: Rules) -> Result<Plan<'_>, Failure> {
        let (root, epoch) = (inside.root(), rules.epoch);
        let arch = Arch::of_document(document)?;
        let mut layout = Layout::of(self.layout.as_deref(), self.board.as_deref(), arch.name)?;
        for (name, file) in &self.blob {
            layout.replace(name, file)?;
        }
        plan::resize_boot(&mut layout, self.boot)?;
        let boot = Boot::of(self, &layout)?;
        if boot.loader == Loader::Syslinux {
            syslinux::check(&layout)?;
        }
        layout.host_kinds().try_for_each(|(n, kind)| kind.check(&layout.partitions[n].options_of_mkfs()))?;
        let title = title(root)?;
        // Images of one day for different machines have different ids. All of it is the root's own: what the document says of
        // the distribution may be where a preset lies.
        let salt = format!("{title} {} {}", arch.name, host_name(root)?);
        let ids = Ids::new(epoch, &salt)?;
        Ok(Plan {
            args: self,
            file_systems: plan::file_systems(document, &layout, &ids)?,
            ids,
            time: epoch.unwrap_or_else(epoch::now),
            points: Points::of(inside)?,
            files: open_files(&layout)?,
            boot,
            layout,
            rules,
            arch,
            title,
        })
    }
}

/// A disk is not for us to write on: it may be the one that this machine runs from.
fn check_output(path: &Path) -> Result<(), Failure> {
    if !path.metadata().is_ok_and(|m| m.file_type().is_block_device()) {
        return Ok(());
    }
    let dd = format!("'dd if=FILE of={} bs=4M conv=fsync'", path.display());
    Err(Failure::new(Code::Usage, format!("writing {}: it is a disk, not a file", quote(path)))
        .hint(format!("write the image to a file, and that to the disk: {dd}")))
}

/// Opens the host's files that the layout names, as the user that we are.
fn open_files(layout: &Layout) -> Result<BTreeMap<PathBuf, (File, u64)>, Failure> {
    let in_partitions = layout.partitions.iter().filter_map(|p| match &p.content {
        Content::File(source) => Some(source),
        _ => None,
    });
    let blobs = layout.blobs.iter().map(|b| &b.source);
    let mut files = BTreeMap::new();
    for source in in_partitions.chain(blobs) {
        let Source::Host(path) = source else { continue };
        if files.contains_key(path) {
            continue;
        }
        let doing = || format!("opening {}, which the layout names", quote(path));
        let file = stage::file::open(path).map_err(|e| {
            let code = if e.kind() == ErrorKind::InvalidInput { Code::Failed } else { Code::NotFound };
            Failure::new(code, format!("{}: {e}", doing()))
        })?;
        let size = file.metadata().doing(Code::Os, doing)?.len();
        files.insert(path.clone(), (file, size));
    }
    Ok(files)
}

/// Makes the files for the programs that make file systems, by partition.
fn scratch_files(layout: &Layout, output: &Output) -> Result<Vec<Option<File>>, Failure> {
    let mut files: Vec<_> = layout.partitions.iter().map(|_| None).collect();
    for (n, _) in layout.host_kinds() {
        files[n] = Some(output.scratch()?);
    }
    Ok(files)
}

/// Returns the root's host name; empty where it has none.
fn host_name(root: &Root) -> Result<String, Failure> {
    let text = read_short(root, "etc/hostname")?.unwrap_or_default();
    Ok(text.trim().to_owned())
}

/// Returns the system's name.
fn title(root: &Root) -> Result<String, Failure> {
    let text = match read_short(root, "etc/os-release")? {
        None => read_short(root, "usr/lib/os-release")?,
        text => text,
    };
    Ok(boot::title(&text.unwrap_or_default()))
}

/// Reads a short file of the root; `None` where there is none, or it is not a regular file or not short. A read error is a
/// failure, since the image would be wrong.
fn read_short(root: &Root, path: &str) -> Result<Option<String>, Failure> {
    use rustix::io::Errno as E;
    match root.read(path, 1 << 16) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(E::NOENT | E::NOTDIR | E::LOOP | E::XDEV | E::INVAL | E::NXIO | E::FBIG) => Ok(None),
        Err(e) => Err(e).doing(Code::Os, || format!("reading {}", quote(root.path().join(path)))),
    }
}

/// The most bytes that are in no file and are hashed all the same. What is empty is zeros, and a hash has no shorter way through
/// them: of a large disk for a small root it would take longer than all else.
const MOST_ZEROS: u64 = 4 << 30;

/// Returns a reader of the image.
fn reader(file: &File) -> Result<Reader<'static>, Failure> {
    let doing = "reading the image";
    Reader::of_file(file.try_clone().doing(Code::Os, || doing)?, doing.to_owned())
}

/// Hashes a file. Its holes are not read.
fn sha256(context: &Context, file: &File) -> Result<String, Failure> {
    let reader = reader(file)?;
    let progress = context.progress("hashing", Unit::Bytes, Some(reader.size()));
    let mut hash = Sha256::new();
    reader.copy_with_zeros(0..reader.size(), |bytes| {
        hash.update(bytes);
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    Ok(format!("{:x}", hash.finalize()))
}

/// Returns the record of the disk.
fn disk(path: &Path, sha256: Option<&str>, plan: &Plan<'_>, done: &Done) -> Disk {
    let layout = &plan.layout;
    let partitions = layout.partitions.iter().zip(&done.disk.partitions);
    let partitions = partitions.zip(&plan.file_systems).enumerate().map(|(n, ((partition, place), id))| {
        let (filesystem, at) = match &partition.content {
            Content::FileSystem { kind, at, .. } => {
                let subvolumes = partition.subvolumes.iter().map(|s| (s.name.clone(), s.at.clone())).collect();
                (Some(DiskFileSystem { kind: kind.name().to_owned(), uuid: id.clone(), subvolumes }), at.clone())
            }
            _ => (None, None),
        };
        DiskPartition {
            name: partition.name.clone(),
            kind: layout.partition_type(n),
            uuid: layout.partition_id(n, &plan.ids),
            start: place.start,
            size: place.size,
            filesystem,
            at,
        }
    });
    Disk {
        file: path.to_owned(),
        size: done.disk.size,
        partitions: partitions.collect(),
        table: (layout.geometry.table != Table::Gpt).then(|| layout.geometry.table.name().to_owned()),
        sector: (layout.geometry.sector != SECTOR).then_some(layout.geometry.sector),
        board: plan.boot.board.clone(),
        sha256: sha256.map(str::to_owned),
        format: None,
        boot: done.boot.clone(),
    }
}

/// Records a disk, in the place of an earlier one of that name.
fn record(document: &mut Document, disk: Disk) {
    let mut disks: Vec<Disk> = document.get().unwrap_or_default();
    match disks.iter_mut().find(|known| known.file == disk.file) {
        Some(known) => *known = disk,
        None => disks.push(disk),
    }
    document.write(&disks);
}

fn summary(path: &Path, plan: &Plan<'_>, done: &Done) -> String {
    let partitions = plan.layout.partitions.iter().zip(&done.disk.partitions);
    let partitions: Vec<_> = partitions.map(|(p, place)| format!("{} {}", p.name, size::show(place.size))).collect();
    format!("{}: {} ({})", quote(path), size::show(done.disk.size), partitions.join(", "))
}

fn main() -> ExitCode {
    stage::complete::answer::<Args>();
    if Args::try_parse().is_ok_and(|args| args.list_boards) {
        return boards::list();
    }
    rootfs::seal_descriptors();
    stage::main::<Args>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_root_says_of_itself_is_read_or_it_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        assert_eq!(host_name(&root).unwrap(), "");
        std::fs::create_dir(path.join("etc")).unwrap();
        std::fs::write(path.join("etc/hostname"), "alarm\n").unwrap();
        assert_eq!(host_name(&root).unwrap(), "alarm");
        std::fs::remove_file(path.join("etc/hostname")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", path.join("etc/hostname")).unwrap();
        assert_eq!(host_name(&root).unwrap(), "", "a link is not followed");
        // Longer than any name of a file: neither there nor not there.
        let failure = read_short(&root, &"x".repeat(300)).unwrap_err();
        assert_eq!(failure.code, Code::Os);
        assert!(failure.message.starts_with("reading '"), "{failure:?}");
    }
}
