//! `--fstab`: the lines of fstab(5) for the file systems that the plan mounts, or that `mkdisk` will make.
//!
//! Our lines are between two of ours, so that the next run finds them, and nobody else's are touched.

use crate::step::{Site, Step};
use image::epoch;
use image::ids::Ids;
use image::layout::{FileSystem, FileSystemKind, Layout};
use rootfs::{Mount, Root, mountinfo};
use stage::{Code, Document, Doing, Failure, quote};
use std::path::{Path, PathBuf};

const AT: &str = "etc/fstab";
const BEGIN: &str = "# configure: begin";
const END: &str = "# configure: end";

/// The longest fstab(5) that is read here.
const LIMIT: u64 = 1 << 20;

/// Which file systems there will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Those of the plan that are on devices.
    Devices(Vec<Mount>),
    /// Those of a layout: of this file, or the standard one.
    Layout(Option<PathBuf>),
}

impl Source {
    /// Returns where file systems come from: a layout that was given, else devices of the plan, else the standard layout.
    pub(crate) fn of(layout: Option<&Path>, mounts: &[Mount]) -> Self {
        let on_devices: Vec<Mount> = mounts.iter().filter(|m| is_device(m)).cloned().collect();
        match layout {
            Some(file) => Self::Layout(Some(file.to_owned())),
            None if on_devices.is_empty() => Self::Layout(None),
            None => Self::Devices(on_devices),
        }
    }
}

fn is_device(mount: &Mount) -> bool {
    let source = mount.source.as_deref().unwrap_or_default();
    source.starts_with("/dev/") && !matches!(mount.kind.as_str(), "bind" | "rbind")
}

/// A line of fstab(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    source: String,
    at: String,
    kind: String,
    options: String,
}

impl Entry {
    fn line(&self) -> String {
        // The root is checked first, and what is checked by a journal not at all (fsck(8)).
        let pass = match (self.at.as_str(), self.kind.as_str()) {
            (_, "btrfs" | "xfs" | "f2fs" | "swap") => 0,
            ("/", _) => 1,
            _ => 2,
        };
        let [source, at, kind, options] =
            [&self.source, &self.at, &self.kind, &self.options].map(|word| escape(word));
        format!("{source} {at} {kind} {options} 0 {pass}")
    }
}

/// White space in a field is written as its octal number (fstab(5)).
fn escape(word: &str) -> String {
    let escape = |c: char| match c {
        ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", u32::from(c)),
        c => c.to_string(),
    };
    word.chars().map(escape).collect()
}

/// Lines that are to be in fstab(5).
#[derive(Debug)]
pub(crate) struct Fstab {
    entries: Vec<Entry>,
    /// The file systems that `mkdisk` makes, for the document.
    pub(crate) planned: Vec<FileSystem>,
}

impl Fstab {
    /// Returns the mount points.
    pub(crate) fn places(&self) -> Vec<String> {
        self.entries.iter().map(|e| e.at.clone()).collect()
    }

    /// Finds out which UUIDs the file systems have or will have. `salt` tells the image from others of its date.
    ///
    /// # Errors
    ///
    /// When a layout cannot be read, or the document has ids that are none.
    pub(crate) fn find(
        source: &Source,
        document: &Document,
        root: &Root,
        salt: &str,
        mut warn: impl FnMut(String),
    ) -> Result<Self, Failure> {
        let layout = match source {
            Source::Devices(mounts) => {
                let mut mounts = mounts.clone();
                mounts.extend(root_device(root)?);
                mounts.sort_by(|a, b| a.at.cmp(&b.at));
                let entries: Result<_, _> =
                    mounts.iter().map(|m| of_device(m, &mut warn)).collect();
                return Ok(Self {
                    entries: entries?,
                    planned: Vec::new(),
                });
            }
            Source::Layout(file) => {
                let arch: String = document.need("arch", "mkroot")?;
                match file {
                    Some(file) => Layout::read(file, &arch)?,
                    None => Layout::standard(&arch)?,
                }
            }
        };
        let mut planned = layout.file_systems(&Ids::new(epoch::of_environment()?, salt)?);
        let text = match root.read(AT, LIMIT) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Whether it can be written is checked later; without it there is nothing that was said.
            Err(_) => String::new(),
        };
        // What was said once stays so, or an image that is made already would not find its file systems.
        let said: Vec<FileSystem> = document.view("filesystems")?.unwrap_or_default();
        for file_system in &mut planned {
            let same = |f: &&FileSystem| f.at == file_system.at && f.kind == file_system.kind;
            if let Some(said) = said.iter().find(same) {
                file_system.uuid = said
                    .kind
                    .check_id(&said.uuid)
                    .doing(Code::BadDocument, || {
                        format!("reading \"filesystems\" of the document: {}", said.at)
                    })?;
            } else if let Some(uuid) = uuid_in(&text, file_system) {
                file_system.uuid = uuid;
            }
        }
        Ok(Self {
            entries: planned.iter().map(of_planned).collect(),
            planned,
        })
    }
}

impl Step for Fstab {
    fn name(&self) -> &'static str {
        "fstab"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let text = site.tree.text(AT)?;
        let (before, _, after) = parts(&text);
        for line in before.iter().chain(&after) {
            let mut fields = line.split_whitespace();
            let comment = fields.next().is_none_or(|source| source.starts_with('#'));
            let at = fields.next().filter(|_| !comment);
            if let Some(at) = at
                && self.entries.iter().any(|e| escape(&e.at) == at)
            {
                return Err(Failure::new(
                    Code::Failed,
                    format!(
                        "writing {}: somebody else's line mounts '{at}'",
                        site.tree.quote(AT)
                    ),
                )
                .hint("remove that line, or leave --fstab out"));
            }
        }
        Ok(())
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let text = with_block(&site.tree.text(AT)?, &self.entries);
        site.tree.write(AT, text.as_bytes(), 0o644)
    }
}

fn of_planned(file_system: &FileSystem) -> Entry {
    let options = match file_system.kind {
        FileSystemKind::Ext4 => "rw,relatime",
        // FAT has no owners: what a boot loader keeps there, as its random seed, is root's.
        FileSystemKind::Vfat => "rw,relatime,umask=0077",
    };
    Entry {
        source: format!("UUID={}", file_system.uuid),
        at: file_system.at.clone(),
        kind: file_system.kind.name().to_owned(),
        options: options.to_owned(),
    }
}

fn of_device(mount: &Mount, warn: &mut impl FnMut(String)) -> Result<Entry, Failure> {
    let device = mount.source.as_deref().unwrap_or_default();
    let source = match uuid_of(device)? {
        Some(uuid) => format!("UUID={uuid}"),
        None => {
            warn(format!(
                "blkid finds no UUID on {}, so fstab has the name that it has here",
                quote(device)
            ));
            device.to_owned()
        }
    };
    let options = match mount.options.join(",") {
        options if options.is_empty() => "rw,relatime".to_owned(),
        options => options,
    };
    Ok(Entry {
        source,
        at: format!("/{}", mount.at),
        kind: mount.kind.clone(),
        options,
    })
}

/// Returns the device that the root itself is on, where the root is a mount point of it.
fn root_device(root: &Root) -> Result<Option<Mount>, Failure> {
    let mounts = mountinfo::read()?;
    let mount = mounts.into_iter().rev().find(|m| m.target == root.path());
    Ok(mount.and_then(|m| {
        let mount = Mount {
            at: String::new(),
            kind: m.fstype,
            source: m.source.into_string().ok(),
            options: Vec::new(),
            nodes: Vec::new(),
        };
        is_device(&mount).then_some(mount)
    }))
}

/// Asks blkid(8) of the host; `None` where it does not know, or may not look.
fn uuid_of(device: &str) -> Result<Option<String>, Failure> {
    let mut command = stage::child::command("blkid");
    // By probing, and not from the cache of the host, which would be written, too.
    command.args([
        "--probe",
        "--output",
        "value",
        "--match-tag",
        "UUID",
        "--",
        device,
    ]);
    rootfs::die_with_us(&mut command);
    let out = stage::child::output(&mut command)?;
    let uuid = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    Ok((out.status.success() && !uuid.is_empty()).then_some(uuid))
}

/// Splits a text into what is before our lines, ours, and what is behind them.
fn parts(text: &str) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let lines: Vec<&str> = text.lines().collect();
    let begin = lines.iter().position(|l| *l == BEGIN);
    let end = begin.and_then(|begin| {
        let end = lines[begin..].iter().position(|l| *l == END)?;
        Some(begin + end)
    });
    match (begin, end) {
        (Some(begin), Some(end)) => (
            lines[..begin].to_vec(),
            lines[begin + 1..end].to_vec(),
            lines[end + 1..].to_vec(),
        ),
        _ => (lines, Vec::new(), Vec::new()),
    }
}

fn with_block(text: &str, entries: &[Entry]) -> String {
    let (before, _, after) = parts(text);
    let ours = entries.iter().map(Entry::line);
    let begin = std::iter::once(BEGIN.to_owned());
    let end = std::iter::once(END.to_owned());
    let lines: Vec<String> = before
        .into_iter()
        .map(str::to_owned)
        .chain(begin)
        .chain(ours)
        .chain(end)
        .chain(after.into_iter().map(str::to_owned))
        .collect();
    crate::text::joined(&lines)
}

/// Returns the UUID that our own lines have for a file system.
fn uuid_in(text: &str, file_system: &FileSystem) -> Option<String> {
    parts(text).1.iter().find_map(|line| {
        let mut fields = line.split_whitespace();
        let uuid = fields.next()?.strip_prefix("UUID=")?;
        let same =
            fields.next()? == escape(&file_system.at) && fields.next()? == file_system.kind.name();
        file_system.kind.check_id(uuid).ok().filter(|_| same)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(at: &str, kind: FileSystemKind, uuid: &str) -> FileSystem {
        FileSystem {
            at: at.into(),
            kind,
            uuid: uuid.into(),
        }
    }

    #[test]
    fn our_lines_are_between_ours_and_the_rest_is_kept() {
        let root = planned(
            "/",
            FileSystemKind::Ext4,
            "3335002d-56ca-8154-a907-7caebb1d31d3",
        );
        let boot = planned("/boot", FileSystemKind::Vfat, "1A2B-3C4D");
        let entries = [of_planned(&root), of_planned(&boot)];
        let text = with_block("# fstab\n", &entries);
        assert_eq!(
            text,
            "# fstab\n# configure: begin\n\
             UUID=3335002d-56ca-8154-a907-7caebb1d31d3 / ext4 rw,relatime 0 1\n\
             UUID=1A2B-3C4D /boot vfat rw,relatime,umask=0077 0 2\n# configure: end\n"
        );
        assert_eq!(with_block(&text, &entries), text);
        let more = format!("{text}tmpfs /x tmpfs rw 0 0\n");
        assert_eq!(with_block(&more, &entries), more);
        assert_eq!(uuid_in(&more, &boot).unwrap(), "1A2B-3C4D");
        assert_eq!(
            uuid_in(&more, &planned("/boot", FileSystemKind::Ext4, "")),
            None
        );
        assert_eq!(uuid_in("UUID=1A2B-3C4D /boot vfat x 0 2\n", &boot), None);
    }

    #[test]
    fn white_space_in_a_field_is_escaped() {
        let entry = Entry {
            source: "/dev/a b".into(),
            at: "/x\ny".into(),
            kind: "ext4".into(),
            options: "rw".into(),
        };
        assert_eq!(entry.line(), "/dev/a\\040b /x\\012y ext4 rw 0 2");
    }

    #[test]
    fn devices_of_the_plan_come_before_the_standard_layout() {
        let mount = |kind: &str, source: &str| Mount {
            at: "boot".into(),
            kind: kind.into(),
            source: Some(source.into()),
            options: vec![],
            nodes: vec![],
        };
        let plan = [
            mount("rbind", "/dev/shm"),
            mount("vfat", "/dev/loop0p1"),
            mount("bind", "/srv"),
        ];
        assert_eq!(
            Source::of(None, &plan),
            Source::Devices(vec![plan[1].clone()])
        );
        assert_eq!(Source::of(None, &plan[..1]), Source::Layout(None));
        let file = Path::new("/l.toml");
        assert_eq!(
            Source::of(Some(file), &plan),
            Source::Layout(Some(file.into()))
        );
    }
}
