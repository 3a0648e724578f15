//! mkdisk: make a disk image of a root, that boots, without mounting anything and without root.
//!
//! The image is a function of the root, the layout and the date: the walk over the root is sorted and is `pack`'s own, the file
//! systems are written whole by this workspace's own code (lib/ext4, `fat.rs`), and ids come from the date where there is one.
//! So two roots made from the same packages give the same image, byte for byte. How large things must be is measured before
//! anything is written.
//!
//! `plan.rs` has what is asked for, `boot.rs` what boots, `content.rs` which file goes where, `filling.rs` how much room that needs,
//! `arrange.rs` which partition goes where, `work.rs` puts it together inside the root's namespaces.

mod arrange;
mod boot;
mod content;
mod fat;
mod filling;
mod plan;
mod table;
mod work;

use boot::Loader;
use clap::Parser;
use image::ids::Ids;
use image::layout::{Content, Layout, Source};
use image::tree::Points;
use image::{Output, Rules, epoch, size, sparse};
use pacman::{lock, secret};
use plan::{Given, Headroom, Plan};
use rootfs::{Arch, Inside, Place, Root};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use work::{Done, HostFile, Task};

/// Make a disk image of a root: a partition table, and file systems that are
/// filled without mounting them
///
/// The image has a boot partition (FAT32) and a root partition (ext4), or those of a layout file, and a boot loader's
/// configuration. Under SOURCE_DATE_EPOCH it comes out the same each time.
#[derive(Debug, Parser)]
#[command(name = "mkdisk", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap base linux-aarch64 | configure --fstab | keyring --strip \\\n    | mkdisk -o alarm.img --layout orange-pi-5.toml | reap | unmount"
)]
struct Args {
    /// Write the image to FILE
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Make the disk that large, with the root in what is left; auto makes it
    /// as large as what is in it and the headroom
    #[arg(long, value_name = "SIZE|auto", default_value = "auto")]
    size: Given,

    /// Make the partition at /boot that large [default: the layout's]
    #[arg(long, value_name = "SIZE|auto")]
    boot: Option<Given>,

    /// Leave that much free where a size is auto [default: 10% of what is in it,
    /// and 64M]
    #[arg(long, value_name = "SIZE|PERCENT%")]
    headroom: Option<Headroom>,

    /// Read partitions and blobs from FILE [default: /boot on FAT32, / on ext4]
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,

    /// Configure this boot loader; auto means what the architecture boots by
    #[arg(long, value_name = "NAME", default_value = "auto")]
    bootloader: Loader,

    /// Add TEXT to the kernel's command line
    #[arg(long, value_name = "TEXT", value_parser = boot::check_cmdline)]
    cmdline: Option<String>,

    /// Boot with that devicetree: a path below the kernel's own, as
    /// rockchip/rk3588s-orangepi-5.dtb
    #[arg(long, value_name = "PATH", value_parser = boot::check_dtb)]
    dtb: Option<String>,

    /// Leave out what matches; ** is any number of directories
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,

    /// Take along what would be left out, such as logs
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,

    /// Make the image also of a root whose keyring has a secret key
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
        check_name(&self.output)?;
        check_output(&self.output)?;
        let inside = Inside::of(document)?.bare();
        let root = inside.root();
        let arch: String = document.need("arch", "mkroot")?;
        let arch = Arch::named(&arch)?;
        let plan = self.plan(document, root, arch, epoch)?;
        let doing = format!("making a disk of {}", quote(root.path()));
        let _lock = lock::share(root)?;
        lock::refuse_unfinished(root, &doing)?;
        if !self.keep_keyring {
            secret::refuse_in_image(root, &doing, |key| rules.leaves_out_with_above(key))?;
        }
        let points = Points::of(&inside)?;
        let files = open_files(&plan.layout)?;
        for at in &points.bound {
            context.note(format_args!("'{at}' is bound from the host, and stays out"));
        }
        let title = title(root)?;
        let output = Output::create(&self.output, root)?;
        let task = Task {
            document,
            plan: &plan,
            points: &points,
            rules: &rules,
            image: output.file(),
            files: &files,
            arch,
            title: &title,
            quiet: context.quiet,
        };
        let mut lent = vec![output.file().as_fd()];
        lent.extend(files.iter().map(|f| f.file.as_fd()));
        let done = inside.call(Place::Host, &lent, || work::work(&task))?;
        let sha256 = if done.size.saturating_sub(done.content) <= MOST_ZEROS {
            Some(sha256(output.file(), done.size)?)
        } else {
            None
        };
        stage::signal::check()?;
        let path = output.path().to_owned();
        output.finish()?.remove_on_undo(context, &self.output);
        record(document, &disk(&path, sha256.as_deref(), &plan, &done));
        if let Some(key) = done.secrets.first() {
            context.warn(format_args!(
                "every machine that is made of it has the same secret keys: {} of them, such as {}",
                done.secrets.len(),
                quote(key)
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
    fn plan(
        &self,
        document: &Document,
        root: &Root,
        arch: Arch,
        epoch: Option<u64>,
    ) -> Result<Plan, Failure> {
        let mut layout = match &self.layout {
            Some(path) => Layout::read(path, arch.name)?,
            None => Layout::standard(arch.name)?,
        };
        plan::resize_boot(&mut layout, self.boot)?;
        // Images of one day for different machines have different ids. All of it is the root's own: what the document says of
        // the distribution may be where a preset lies.
        let salt = format!("{} {} {}", title(root)?, arch.name, host_name(root)?);
        let ids = Ids::new(epoch, &salt)?;
        Ok(Plan {
            size: match self.size {
                Given::Auto => None,
                Given::Bytes(bytes) => Some(bytes),
            },
            headroom: self.headroom.unwrap_or_default(),
            loader: self.bootloader,
            cmdline: self.cmdline.clone(),
            dtb: self.dtb.clone(),
            file_systems: plan::file_systems(document, &layout, &ids)?,
            ids,
            layout,
            time: epoch.unwrap_or_else(now),
        })
    }
}

/// Refuses a name by which others take the image for what it is not, with the program that makes that of it.
fn check_name(path: &Path) -> Result<(), Failure> {
    let end = path.extension().unwrap_or_default().to_ascii_lowercase();
    let end = end.to_string_lossy();
    let plain = match path.file_stem().map(Path::new) {
        Some(stem) if stem.extension().is_some() => path.with_extension(""),
        _ => path.with_extension("img"),
    };
    let (image, file) = (plain.display(), path.display());
    let convert =
        |format: &str| format!(", and then 'qemu-img convert -O {format} {image} {file}'");
    let then = match &*end {
        "zst" | "zstd" => format!(", and then 'zstd {image}'"),
        "gz" => format!(", and then 'gzip {image}'"),
        "bz2" => format!(", and then 'bzip2 {image}'"),
        "xz" | "lz4" | "lzop" => format!(", and then '{end} {image}'"),
        "zip" => format!(", and then 'zip {file} {image}'"),
        "qcow" | "qcow2" | "vmdk" | "vdi" | "vhdx" => convert(&end),
        "vhd" | "vpc" => convert("vpc"),
        "iso" | "ova" | "wim" | "7z" | "rar" | "lzma" | "tar" | "tgz" | "txz" | "tzst" | "cpio"
        | "squashfs" | "erofs" => String::new(),
        _ => return Ok(()),
    };
    let why = format!(
        "writing {}: a raw disk image is no .{end} file",
        quote(path)
    );
    Err(Failure::new(Code::Usage, why).hint(format!("'-o {image}'{then}")))
}

/// A disk is not for us to write on: it may be the one that this machine runs from.
fn check_output(path: &Path) -> Result<(), Failure> {
    let kind = path.metadata().map(|m| m.file_type());
    if kind.is_ok_and(|k| k.is_block_device()) {
        let shown = path.display();
        return Err(Failure::new(
            Code::Usage,
            format!("writing {}: it is a disk, not a file", quote(path)),
        )
        .hint(format!(
            "write the image to a file, and that to the disk: 'dd if=FILE of={shown} bs=4M conv=fsync,sparse'"
        )));
    }
    Ok(())
}

/// Opens the host's files that the layout names, as the user that we are.
fn open_files(layout: &Layout) -> Result<Vec<HostFile>, Failure> {
    let in_partitions = layout.partitions.iter().filter_map(|p| match &p.content {
        Content::File(source) => Some(source),
        _ => None,
    });
    let blobs = layout.blobs.iter().map(|b| &b.source);
    let mut files: Vec<HostFile> = Vec::new();
    for source in in_partitions.chain(blobs) {
        let Source::Host(path) = source else { continue };
        if files.iter().any(|f| f.source == *source) {
            continue;
        }
        let doing = || format!("opening {}, which the layout names", quote(path));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty()).doing(Code::NotFound, doing)?;
        let stat = rustix::fs::fstat(&file).doing(Code::Os, doing)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Failure::new(
                Code::Failed,
                format!("{}: it is no plain file", doing()),
            ));
        }
        files.push(HostFile {
            source: source.clone(),
            file: file.into(),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
        });
    }
    Ok(files)
}

/// Returns the root's host name; empty where it has none.
fn host_name(root: &Root) -> Result<String, Failure> {
    let text = said(root, "etc/hostname")?.unwrap_or_default();
    Ok(text.trim().to_owned())
}

/// Returns the system's name.
fn title(root: &Root) -> Result<String, Failure> {
    let text = match said(root, "etc/os-release")? {
        Some(text) => Some(text),
        None => said(root, "usr/lib/os-release")?,
    };
    Ok(boot::title(&text.unwrap_or_default()))
}

/// Returns what a short file of the root says, where it is one: a link or a device says nothing. What the disk does not give is a
/// failure: the image would be another one than it should be.
fn said(root: &Root, path: &str) -> Result<Option<String>, Failure> {
    use rustix::io::Errno;
    match root.read(path, 1 << 16) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NXIO
            | Errno::FBIG,
        ) => Ok(None),
        Err(e) => Err(e).doing(Code::Os, || {
            format!("reading {}", quote(root.path().join(path)))
        }),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The most bytes that are in no file and are hashed all the same. What is empty is zeros, and a hash has no shorter way through
/// them: of a large disk for a small root it would take longer than all else.
const MOST_ZEROS: u64 = 4 << 30;

/// Hashes a file of that size. Its holes are not read.
fn sha256(file: &File, size: u64) -> Result<String, Failure> {
    let reading = || "reading the image";
    let mut hash = Sha256::new();
    let (zeros, mut buffer) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    // The end is a piece of nothing, with a hole before it.
    let pieces = sparse::stored(file, size).doing(Code::Os, reading)?;
    for (begin, length) in pieces.into_iter().chain([(size, 0)]) {
        while at < begin + length {
            stage::signal::check()?;
            let end = if at < begin { begin } else { begin + length };
            let n = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            if at < begin {
                hash.update(&zeros[..n]);
            } else {
                let read = file.read_exact_at(&mut buffer[..n], at);
                read.doing(Code::Os, reading)?;
                hash.update(&buffer[..n]);
            }
            at += n as u64;
        }
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Returns the element of `disks`.
fn disk(path: &Path, sha256: Option<&str>, plan: &Plan, done: &Done) -> Value {
    let layout = &plan.layout;
    let partitions = layout.partitions.iter().zip(&done.partitions);
    let partitions: Vec<Value> = partitions
        .zip(&plan.file_systems)
        .map(|((partition, (start, size)), id)| {
            let mut value = json!({
                "name": partition.name,
                "type": partition.kind,
                "uuid": partition.id(&plan.ids),
                "start": start,
                "size": size,
            });
            if let Content::FileSystem { kind, at, .. } = &partition.content {
                value["filesystem"] = json!({"type": kind.name(), "uuid": id});
                if let Some(at) = at {
                    value["at"] = json!(at);
                }
            }
            value
        })
        .collect();
    let mut disk = json!({"file": path, "size": done.size, "partitions": partitions});
    if let Some(sha256) = sha256 {
        disk["sha256"] = json!(sha256);
    }
    disk
}

/// Puts it in the place of what an earlier run said of that file; what others said of it there stays.
fn record(document: &mut Document, disk: &Value) {
    let mut disks: Vec<Value> = match document.get("disks") {
        Some(Value::Array(disks)) => disks.clone(),
        _ => Vec::new(),
    };
    let is_it = |d: &Value| d.get("file") == disk.get("file");
    if !disks.iter().any(is_it) {
        disks.push(disk.clone());
    }
    // Of the old image, and the new one may have none.
    for known in disks.iter_mut().filter(|d| is_it(d)) {
        known.as_object_mut().map(|d| d.remove("sha256"));
    }
    document.remove("disks");
    document.record("disks", &disks);
    for known in disks.iter_mut().filter(|d| is_it(d)) {
        *known = disk.clone();
    }
    document.record("disks", &disks);
}

fn summary(path: &Path, plan: &Plan, done: &Done) -> String {
    let partitions = plan.layout.partitions.iter().zip(&done.partitions);
    let partitions: Vec<String> = partitions
        .map(|(p, (_, bytes))| format!("{} {}", p.name, size::show(*bytes)))
        .collect();
    format!(
        "{}: {} ({})",
        quote(path),
        size::show(done.size),
        partitions.join(", ")
    )
}

fn main() -> ExitCode {
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
        let failure = said(&root, &"x".repeat(300)).unwrap_err();
        assert_eq!(failure.code, Code::Os);
        assert!(failure.message.starts_with("reading '"), "{failure:?}");
    }
}
