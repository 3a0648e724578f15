//! `--fstab`: the lines of fstab(5) for the file systems that the plan mounts, or that `mkdisk` will make.
//!
//! They are between two comments, so that the next run finds them, and other lines stay.

use crate::growth::Growing;
use crate::item::{Item, Site};
use crate::text::joined;
use image::epoch;
use image::ids::Ids;
use image::layout::{FileSystemKind, Layout, Partition, SWAP_AT};
use rootfs::{Mount, Root, mountinfo};
use stage::members::FileSystem;
use stage::{Code, Context, Document, Doing, Failure, quote};
use std::path::Path;

const AT: &str = "etc/fstab";
const BEGIN: &str = "# configure: begin";
const END: &str = "# configure: end";

/// The longest fstab(5) that is read here.
const LIMIT: u64 = 1 << 20;

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
        // The root is checked first, and what has a journal or snapshots, or is read-only, not at all (fsck(8)).
        let pass = match (self.at.as_str(), self.kind.as_str()) {
            (_, "btrfs" | "xfs" | "f2fs" | "erofs" | "squashfs" | "swap") => 0,
            ("/", _) => 1,
            _ => 2,
        };
        let [source, at, kind, options] = [&self.source, &self.at, &self.kind, &self.options].map(|word| escape(word));
        format!("{source} {at} {kind} {options} 0 {pass}")
    }

    fn of_file_system(kind: FileSystemKind, file_system: &FileSystem, partition: &Partition) -> Self {
        let given = &partition.options;
        let access = if kind.is_read_only() { "ro" } else { "rw" };
        let mut options = match (kind, given.is_empty()) {
            (FileSystemKind::Swap, true) => vec!["defaults"],
            (FileSystemKind::Swap, false) => Vec::new(),
            (_, true) => vec![access, "relatime"],
            (_, false) => vec![access],
        };
        options.extend(given.iter().map(String::as_str));
        let masks = ["umask=", "fmask=", "dmask="];
        // FAT has no owners: what a boot loader keeps there, as its random seed, is root's.
        if kind == FileSystemKind::Vfat && !given.iter().any(|o| masks.iter().any(|mask| o.starts_with(mask))) {
            options.push("umask=0077");
        }
        let FileSystem { at, kind, uuid, subvolume, .. } = file_system;
        let subvolume = subvolume.as_ref().map(|name| format!("subvol=/{name}"));
        options.extend(subvolume.as_deref());
        if partition.grows() && partition.mounted().is_some_and(|(_, own)| own == at) {
            options.push("x-systemd.growfs");
        }
        let source = if uuid.is_empty() { format!("PARTLABEL={}", partition.name) } else { format!("UUID={uuid}") };
        Self { source, at: at.clone(), kind: kind.clone(), options: options.join(",") }
    }

    fn of_device(mount: &Mount, context: &Context) -> Result<Self, Failure> {
        let device = mount.source.as_deref().unwrap_or_default();
        let uuid = uuid_of(device)?;
        if uuid.is_none() {
            context.warn(format_args!("blkid finds no UUID on {}, so fstab has its name on this host", quote(device)));
        }
        let options = match mount.options.is_empty() {
            true => "rw,relatime".to_owned(),
            false => mount.options.join(","),
        };
        Ok(Self {
            source: uuid.map_or(device.to_owned(), |uuid| format!("UUID={uuid}")),
            at: format!("/{}", mount.at),
            kind: mount.kind.clone(),
            options,
        })
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

/// Lines of fstab(5).
#[derive(Debug)]
pub(crate) struct Fstab {
    entries: Vec<Entry>,
    /// The file systems that `mkdisk` makes, for the document.
    pub(crate) planned: Vec<FileSystem>,
    /// Which of them is to grow on a larger disk.
    pub(crate) growing: Option<Growing>,
}

impl Fstab {
    /// Returns the mount points.
    pub(crate) fn mount_points(&self) -> Vec<String> {
        self.entries.iter().map(|e| e.at.clone()).filter(|at| at != SWAP_AT).collect()
    }

    /// Finds the UUIDs of the file systems: those of a layout or a board that is given, else of the plan's devices, else of the
    /// standard layout. `salt` tells the image from others of its date.
    ///
    /// # Errors
    ///
    /// When a layout cannot be read, or the document has invalid ids.
    pub(crate) fn find(
        (layout, board): (Option<&Path>, Option<&str>),
        context: &Context,
        document: &Document,
        root: &Root,
        salt: &str,
    ) -> Result<Self, Failure> {
        let mounts: Vec<Mount> = document.need()?;
        let mut devices = devices(mounts);
        if layout.is_none() && board.is_none() && !devices.is_empty() {
            devices.extend(root_device(root)?);
            devices.sort_by(|a, b| a.at.cmp(&b.at));
            let entries = devices.iter().map(|m| Entry::of_device(m, context));
            let entries = entries.collect::<Result<_, _>>()?;
            return Ok(Self { entries, planned: Vec::new(), growing: None });
        }
        let arch = rootfs::arch::Arch::of_document(document)?.name;
        let layout = Layout::of(layout, board, arch)?;
        let mut found = Self { entries: Vec::new(), planned: Vec::new(), growing: Growing::of(&layout) };
        // Whether it can be written is checked later; without it there are no earlier UUIDs.
        let text = root.read(AT, LIMIT).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // UUIDs of an earlier run stay, or an image that is made already would not find its file systems.
        let recorded: Vec<FileSystem> = document.get().unwrap_or_default();
        for (partition, kind, mut file_system) in layout.file_systems(&Ids::new(epoch::of_environment()?, salt)?) {
            // Subvolumes have the UUID of the file system that they are in.
            let own = partition.in_fstab().map_or(SWAP_AT, |(_, at)| at);
            let same = |f: &&FileSystem| f.at == own && f.kind == file_system.kind;
            if let Some(known) = recorded.iter().find(same) {
                let doing = || format!("reading \"filesystems\" of the document: {}", known.at);
                file_system.uuid = kind.check_id(&known.uuid).doing(Code::BadDocument, doing)?;
            } else if let Some(uuid) = uuid_in(&text, kind, own) {
                file_system.uuid = uuid;
            }
            found.entries.push(Entry::of_file_system(kind, &file_system, partition));
            found.planned.push(file_system);
        }
        Ok(found)
    }
}

impl Item for Fstab {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let text = site.tree.text(AT)?;
        let (before, _, after) = parts(&text);
        for line in before.iter().chain(&after) {
            let mut fields = line.split_whitespace();
            let is_entry = fields.next().is_some_and(|s| !s.starts_with('#'));
            if let Some(at) = fields.next().filter(|_| is_entry)
                && self.entries.iter().any(|e| e.at != SWAP_AT && escape(&e.at) == at)
            {
                let file = site.tree.quote(AT);
                let message = format!("writing {file}: another line mounts '{at}'");
                return Err(Failure::new(Code::Failed, message).hint("remove that line, or leave --fstab out"));
            }
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let text = with_block(&site.tree.text(AT)?, &self.entries);
        site.tree.write(AT, &text, 0o644)
    }
}

/// Returns the mounts of devices.
fn devices(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.retain(|mount| {
        let source = mount.source.as_deref().unwrap_or_default();
        source.starts_with("/dev/") && !matches!(mount.kind.as_str(), "bind" | "rbind")
    });
    mounts
}

/// Returns the device that is mounted at the root itself.
fn root_device(root: &Root) -> Result<Vec<Mount>, Failure> {
    let mounts = mountinfo::read()?.into_iter().rev();
    let mount = mounts.filter(|m| m.target == root.path()).take(1).map(|m| Mount {
        at: String::new(),
        kind: m.fstype,
        source: m.source.into_string().ok(),
        options: Vec::new(),
        nodes: Vec::new(),
    });
    Ok(devices(mount.collect()))
}

/// Asks blkid(8) of the host; `None` where it finds none, or may not read the device.
fn uuid_of(device: &str) -> Result<Option<String>, Failure> {
    let mut command = stage::child::command("blkid");
    // By probing: not from the cache of the host, which would also be written.
    command.args(["--probe", "--output", "value", "--match-tag", "UUID", "--", device]);
    rootfs::die_with_us(&mut command);
    let out = stage::child::output(&mut command)?;
    let uuid = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    Ok((out.status.success() && !uuid.is_empty()).then_some(uuid))
}

/// Splits a text into what is before our lines, ours, and what is after them.
fn parts(text: &str) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let lines: Vec<&str> = text.lines().collect();
    let begin = lines.iter().position(|l| *l == BEGIN).unwrap_or(lines.len());
    match lines[begin..].iter().position(|l| *l == END) {
        Some(n) => (lines[..begin].into(), lines[begin + 1..begin + n].into(), lines[begin + n + 1..].into()),
        None => (lines, Vec::new(), Vec::new()),
    }
}

fn with_block(text: &str, entries: &[Entry]) -> String {
    let (before, _, after) = parts(text);
    let ours: Vec<String> = entries.iter().map(Entry::line).collect();
    let ours = ours.iter().map(String::as_str);
    let lines = before.into_iter().chain([BEGIN]).chain(ours).chain([END]).chain(after);
    joined(&lines.collect::<Vec<_>>())
}

/// Returns the UUID that our own lines have for a file system.
fn uuid_in(text: &str, kind: FileSystemKind, at: &str) -> Option<String> {
    parts(text).1.iter().find_map(|line| {
        let mut fields = line.split_whitespace();
        let uuid = fields.next()?.strip_prefix("UUID=")?;
        let same = fields.next()? == escape(at) && fields.next()? == kind.name();
        kind.check_id(uuid).ok().filter(|_| same)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(at: &str, kind: FileSystemKind, uuid: &str) -> FileSystem {
        FileSystem { at: at.into(), kind: kind.name().into(), uuid: uuid.into(), subvolume: None, grows: None }
    }

    /// The partitions of the standard layout: that at /boot, and the root's.
    fn partitions() -> [Partition; 2] {
        Layout::standard("x86_64").unwrap().partitions.try_into().unwrap()
    }

    #[test]
    fn our_lines_are_between_comments_and_others_are_kept() {
        let root = planned("/", FileSystemKind::Ext4, "3335002d-56ca-8154-a907-7caebb1d31d3");
        let boot = planned("/boot", FileSystemKind::Vfat, "1A2B-3C4D");
        let (ext4, vfat) = (FileSystemKind::Ext4, FileSystemKind::Vfat);
        let [esp, last] = partitions();
        let entries = [Entry::of_file_system(ext4, &root, &last), Entry::of_file_system(vfat, &boot, &esp)];
        let text = with_block("# fstab\n", &entries);
        assert_eq!(
            text,
            "# fstab\n# configure: begin\n\
             UUID=3335002d-56ca-8154-a907-7caebb1d31d3 / ext4 rw,relatime,x-systemd.growfs 0 1\n\
             UUID=1A2B-3C4D /boot vfat rw,relatime,umask=0077 0 2\n# configure: end\n"
        );
        assert_eq!(with_block(&text, &entries), text);
        let more = format!("{text}tmpfs /x tmpfs rw 0 0\n");
        assert_eq!(with_block(&more, &entries), more);
        assert_eq!(uuid_in(&more, vfat, "/boot").unwrap(), "1A2B-3C4D");
        assert_eq!(uuid_in(&more, ext4, "/boot"), None);
        assert_eq!(uuid_in("UUID=1A2B-3C4D /boot vfat x 0 2\n", vfat, "/boot"), None);
    }

    #[test]
    fn options_of_the_layout_are_in_the_line() {
        let [mut esp, mut last] = partitions();
        last.options = vec!["noatime".into(), "commit=60".into()];
        let line = |kind: FileSystemKind, at, partition: &Partition| {
            Entry::of_file_system(kind, &planned(at, kind, "1A2B-3C4D"), partition).options
        };
        assert_eq!(line(FileSystemKind::Ext4, "/", &last), "rw,noatime,commit=60,x-systemd.growfs");
        esp.options = vec!["noatime".into()];
        assert_eq!(line(FileSystemKind::Vfat, "/boot", &esp), "rw,noatime,umask=0077");
        assert_eq!(line(FileSystemKind::Swap, SWAP_AT, &esp), "noatime");
        esp.options.clear();
        assert_eq!(line(FileSystemKind::Swap, SWAP_AT, &esp), "defaults");
        esp.options = vec!["fmask=0133".into()];
        assert_eq!(line(FileSystemKind::Vfat, "/boot", &esp), "rw,fmask=0133");
    }

    #[test]
    fn a_read_only_file_system_is_mounted_so() {
        let (erofs, squashfs) = (FileSystemKind::Erofs, FileSystemKind::Squashfs);
        let [mut esp, _] = partitions();
        esp.name = "my usr".into();
        let line = |kind, system| Entry::of_file_system(kind, &system, &esp).line();
        let root = planned("/", erofs, "3335002d-56ca-8154-a907-7caebb1d31d3");
        assert_eq!(line(erofs, root), "UUID=3335002d-56ca-8154-a907-7caebb1d31d3 / erofs ro,relatime 0 0");
        assert_eq!(line(squashfs, planned("/usr", squashfs, "")), "PARTLABEL=my\\040usr /usr squashfs ro,relatime 0 0");
    }

    #[test]
    fn each_subvolume_has_a_line() {
        let text = "[[partition]]\nname='r'\ntype='root'\nsize='rest'\nfilesystem='btrfs'\nat='/'\n\
                    attributes=['grow-file-system']\noptions=['noatime']\nsubvolumes={'@home'='/home','@'='/'}\n";
        let layout = Layout::parse("x", text, Path::new("/"), "x86_64").unwrap();
        let found = layout.file_systems(&Ids::new(Some(1), "x").unwrap());
        let lines = found.iter().map(|(p, kind, system)| Entry::of_file_system(*kind, system, p).line());
        let uuid = &found[0].2.uuid;
        let expected = [
            format!("UUID={uuid} / btrfs rw,noatime,subvol=/@,x-systemd.growfs 0 0"),
            format!("UUID={uuid} /home btrfs rw,noatime,subvol=/@home 0 0"),
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn white_space_in_a_field_is_escaped() {
        let entry = Entry { source: "/dev/a b".into(), at: "/x\ny".into(), kind: "ext4".into(), options: "rw".into() };
        assert_eq!(entry.line(), "/dev/a\\040b /x\\012y ext4 rw 0 2");
    }

    #[test]
    fn bound_directories_are_no_devices() {
        let mount = |kind: &str, source: &str| Mount {
            at: "boot".into(),
            kind: kind.into(),
            source: Some(source.into()),
            options: vec![],
            nodes: vec![],
        };
        let plan = [mount("rbind", "/dev/shm"), mount("vfat", "/dev/loop0p1"), mount("bind", "/srv")];
        assert_eq!(devices(plan.to_vec()), [plan[1].clone()]);
    }
}
