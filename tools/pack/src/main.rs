//! `pack` writes the root as a tar archive: the same bytes from the same root, whoever made it, wherever, and when.
//!
//! The tree is read inside, where owners and file capabilities are the root's own also for an ordinary user, and by the rules
//! that every image has (`lib/image`). The archive is written outside, as the user's file, and is there whole or not at all.

mod archive;
mod change;
mod format;
mod oci;

use archive::{WSL, Written};
use change::Change;
use clap::Parser;
use format::Format;
use image::filesystem::Options;
use image::ids::Ids;
use image::layout::SECTOR;
use image::tree::Points;
use image::{Output, Rules, epoch};
use pacman::{lock, secret};
use rootfs::{Inside, Place};
use stage::members::Archive;
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Write the root as a reproducible tar archive, or as an image
///
/// Caches, logs, sockets and files of one machine are left out. With SOURCE_DATE_EPOCH set, the same packages give the same
/// archive.
#[derive(Debug, Parser)]
#[command(name = "pack", version, help_expected = true, max_term_width = 80)]
#[command(after_help = "Example:\n  ... | strap base | keyring --strip | pack -o alarm.tar.zst | reap | unmount")]
struct Pack {
    /// Write the archive to FILE, which ends with .tar, .tar.zst, .tar.xz, .tar.gz,
    /// .wsl, .squashfs or .erofs
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Use this format, whatever the name of the file
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,

    /// Leave out files that match GLOB: usr/share/man, **/*.pyc
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,

    /// Include files that match GLOB, even if a rule leaves them out: var/log/**
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,

    /// Compression level: 1 to 19 for zst, 0 to 9 for xz, 1 to 9 for gz and oci
    #[arg(long, value_name = "N")]
    level: Option<u32>,

    /// Name of the image with --format oci: NAME or NAME:TAG [default: the distribution]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Set in an image what containers of it get, as an instruction of a
    /// Dockerfile: 'ENV A=b', 'CMD ["/usr/bin/bash", "-l"]', 'USER ann'
    #[arg(long, value_name = "INSTRUCTION")]
    change: Vec<Change>,

    /// Store holes of files as holes, which docker and busybox cannot unpack
    #[arg(long)]
    sparse: bool,

    /// Accept a keyring with its secret key
    #[arg(long)]
    keep_keyring: bool,

    #[command(flatten)]
    common: Common,
}

/// What is to be done, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) inside: Inside,
    pub(crate) format: Format,
    pub(crate) level: u32,
    /// What an image is called. Empty for other formats, as the grammar of names takes 27 ms to compile.
    pub(crate) name: String,
    /// What containers of an image get.
    pub(crate) changes: Vec<Change>,
    /// Whether holes are stored as holes.
    pub(crate) sparse: bool,
    /// What a file system is made with.
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) points: Points,
    pub(crate) output: Output,
    /// Nobody else works on the root meanwhile.
    #[expect(dead_code, reason = "it is held")]
    pub(crate) lock: OwnedFd,
}

impl Stage for Pack {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let plan = self.plan(document)?;
        for at in &plan.points.bound {
            context.note(format_args!("'{at}' is bound from the host, and left out"));
        }
        let begin = Instant::now();
        let keep = [plan.output.file.as_fd()];
        let written = plan.inside.call(Place::Host, &keep, || archive::work(context, &plan, document))?;
        context.waited(begin.elapsed());
        let path = plan.output.path.clone();
        plan.output.finish()?.remove_on_undo(context, &self.output);
        record(document, &path.to_string_lossy(), plan.format, &written);
        if let Some(text) = some(&written.sockets) {
            context.note(format_args!("sockets are left out: {text}"));
        }
        if let Some(text) = some(&written.secrets) {
            context.warn(format_args!("every machine that is made from it has the same secret key: {text}"));
        }
        if written.untold {
            context.warn(format_args!("the root has no '/{WSL}': 'wsl --install --from-file' needs --name"));
        }
        if let Some(text) = some(&written.marks) {
            context.warn(format_args!("'docker import' and 'podman import' lose files of the archive: {text}"));
        }
        context.note(format_args!("{}: {} entries, {} bytes", quote(&path), written.entries, written.size));
        Ok(())
    }
}

impl Pack {
    /// Decides what to do, and checks all that can be checked before.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        let inside = Inside::of(document)?;
        let root = inside.root();
        let output = Output::create(&self.output, root)?;
        let format = self.format.map_or_else(|| Format::of_name(&self.output), Ok)?;
        let level = format.level(self.level)?;
        let only = |option: &str, why: &str| Failure::new(Code::Usage, format!("reading '{option}': {why}"));
        let is_image = format == Format::Oci;
        if is_image && self.sparse {
            return Err(only("--sparse", "no program accepts it in the layer of an image"));
        }
        if !is_image && !self.change.is_empty() {
            return Err(only("--change", "only an image has a configuration").hint("give --format oci"));
        }
        if let Some(kind) = format.file_system() {
            if self.sparse {
                return Err(only("--sparse", "only an archive stores holes so"));
            }
            kind.check(&[])?;
        }
        if !is_image && self.name.is_some() {
            return Err(only("--name", "only an image has a name").hint("give --format oci"));
        }
        let name = match is_image {
            true => oci::name(self.name.as_deref(), document.distro())?,
            false => String::new(),
        };
        let rules = Rules::new(&self.exclude, &self.include, epoch::of_environment()?)?;
        let doing = format!("packing {}", quote(root.path()));
        let lock = lock::share(root)?;
        lock::refuse_unfinished(root, &doing)?;
        if !self.keep_keyring {
            secret::refuse_in_image(root, &doing, |key| rules.leaves_out_with_above(key))?;
        }
        let salt = format!("{} {}", document.distro().unwrap_or_default(), document.arch().unwrap_or_default());
        let options = Options {
            at: "/".to_owned(),
            uuid: Ids::new(rules.epoch, &salt)?.uuid("file system /"),
            time: rules.epoch.unwrap_or_else(epoch::now),
            sector: SECTOR,
            ..Options::default()
        };
        Ok(Plan {
            lock,
            options,
            points: Points::of(&inside)?,
            inside: inside.bare(),
            format,
            level,
            name,
            changes: self.change.clone(),
            sparse: self.sparse,
            rules,
            output,
        })
    }
}

/// Returns a list of paths in short, where there are any.
fn some(paths: &[String]) -> Option<String> {
    match paths {
        [] => None,
        [path] => Some(quote(path)),
        [path, rest @ ..] => Some(format!("{} and {} more", quote(path), rest.len())),
    }
}

/// Records an archive, in the place of an earlier one of that name.
fn record(document: &mut Document, file: &str, format: Format, written: &Written) {
    let mut archives: Vec<Archive> = document.get().unwrap_or_default();
    archives.retain(|archive| archive.file != file);
    archives.push(Archive {
        file: file.to_owned(),
        format: format.name().to_owned(),
        size: written.size,
        sha256: written.sha256.clone(),
        entries: written.entries,
    });
    // What others put beside an archive of that name stays: the elements are merged by their file.
    document.write(&archives);
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Pack>()
}

#[cfg(test)]
mod tests {
    use image::{rewrite, rules};

    #[test]
    fn the_page_has_every_rule() {
        let page = include_str!("../../../man/pack.8");
        let listed: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix(".It Pa ")).flat_map(|line| line.split(" , ")).collect();
        let left_out = rules::left_out().map(|(_, pattern)| pattern);
        let ruled: Vec<_> = left_out.chain(rewrite::REWRITTEN.iter().map(|m| m.path)).collect();
        assert_eq!(listed, ruled);
    }
}
