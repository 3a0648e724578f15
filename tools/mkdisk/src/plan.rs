//! What the command line and the document ask for, checked; nothing is touched.

use crate::Args;
use crate::boards::Boot;
use image::ids::Ids;
use image::layout::{Layout, Partition, Size, Subvolume};
use image::tree::Points;
use image::{Rules, size};
use rootfs::Arch;
use stage::members::FileSystem;
use stage::{Code, Document, Doing, Failure};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;

/// What is left free where a size follows from what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headroom {
    /// Of what is in it, in percent.
    percent: u64,
    /// And that many bytes.
    bytes: u64,
}

impl Default for Headroom {
    fn default() -> Self {
        Self { percent: 10, bytes: 64 << 20 }
    }
}

impl Headroom {
    /// Returns how much that is, for so much content, in bytes.
    pub(crate) fn of(self, content: u64) -> u64 {
        content / 100 * self.percent + self.bytes
    }
}

impl FromStr for Headroom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return Ok(Self { percent: 0, bytes: size::parse(text)? });
        };
        let digits = percent.bytes().all(|b| b.is_ascii_digit());
        let percent = percent.parse().ok().filter(|p| digits && *p <= 1000);
        let percent = percent.ok_or("a share is a whole number of percent, up to 1000%")?;
        Ok(Self { percent, bytes: 0 })
    }
}

/// What is to be made.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) args: &'a Args,
    pub(crate) layout: Layout,
    pub(crate) ids: Ids,
    /// The UUID of each partition's file system, by partition.
    pub(crate) file_systems: Vec<String>,
    /// The date of what is made, in seconds since 1970.
    pub(crate) time: u64,
    pub(crate) points: Points,
    pub(crate) rules: Rules,
    /// The files of the host that the layout names, open, with their sizes.
    pub(crate) files: BTreeMap<PathBuf, (File, u64)>,
    pub(crate) arch: Arch,
    /// The system's name.
    pub(crate) title: String,
    pub(crate) boot: Boot,
}

/// Changes the size of the partition that is mounted at `/boot`.
///
/// # Errors
///
/// [`Code::Usage`] where there is none.
pub(crate) fn resize_boot(layout: &mut Layout, boot: Option<Size>) -> Result<(), Failure> {
    let Some(boot) = boot else { return Ok(()) };
    let Some(partition) = layout.partitions.iter_mut().find(|p| mounted_at(p, "/boot")) else {
        return Err(Failure::new(Code::Usage, "--boot is the size of the partition at /boot, and the layout has none"));
    };
    partition.size = boot;
    if let Size::Bytes(_) = boot {
        partition.minimum = 0;
    }
    Ok(())
}

/// Returns the UUIDs of the partitions' file systems: those of the document, which are in the root's fstab, or new ones.
///
/// # Errors
///
/// [`Code::Failed`] where the document means other file systems than the layout.
pub(crate) fn file_systems(document: &Document, layout: &Layout, ids: &Ids) -> Result<Vec<String>, Failure> {
    const DOING: &str = "comparing the layout with the root's fstab";
    let made = |p: &Partition| p.file_system_id(ids);
    let Some(recorded) = document.get::<Vec<FileSystem>>() else {
        return Ok(layout.partitions.iter().map(made).collect());
    };
    let differs = |what: String| {
        Failure::new(Code::Failed, format!("{DOING}: {what}"))
            .hint("give 'configure --fstab' and mkdisk the same --board or --layout, or leave --fstab out")
    };
    for known in &recorded {
        if !layout.partitions.iter().any(|p| p.points_in_fstab().contains(&known.at.as_str())) {
            let at = stage::message::escape(&known.at);
            return Err(differs(format!("'{at}' is in fstab, and the layout has no partition for it")));
        }
    }
    let mut found = Vec::new();
    for partition in &layout.partitions {
        let Some((kind, at)) = partition.in_fstab() else {
            found.push(made(partition));
            continue;
        };
        let Some(known) = recorded.iter().find(|f| f.at == at) else {
            return Err(differs(format!("the layout has a partition for '{at}', and fstab does not")));
        };
        if known.kind != kind.name() {
            let in_fstab = stage::message::escape(&known.kind);
            return Err(differs(format!("'{at}' is {in_fstab} in fstab and {} in the layout", kind.name())));
        }
        check_subvolumes(partition, known, &recorded).map_err(differs)?;
        let is_last = layout.partitions.last() == Some(partition);
        if known.grows.as_ref().is_some_and(|kind| !(is_last && *kind == partition.kind)) {
            return Err(differs(format!("'{at}' grows as the last partition, of another type")));
        }
        let id = kind.check_id(&known.uuid).doing(Code::BadDocument, || "reading the document: filesystems")?;
        found.push(id);
    }
    Ok(found)
}

/// Checks that fstab mounts the subvolumes that the layout has; `known` is the file system at the partition's own mount point.
fn check_subvolumes(partition: &Partition, known: &FileSystem, recorded: &[FileSystem]) -> Result<(), String> {
    for Subvolume { name, at } in &partition.subvolumes {
        let is_it = |f: &FileSystem| f.at == *at && f.uuid == known.uuid && f.subvolume.as_ref() == Some(name);
        if !recorded.iter().any(is_it) {
            return Err(format!("the layout has the subvolume '{name}' at '{at}', and fstab does not"));
        }
    }
    match &known.subvolume {
        Some(name) if partition.subvolumes.is_empty() => {
            let [at, name] = [&known.at, name].map(|text| stage::message::escape(text));
            Err(format!("'{at}' is the subvolume '{name}' in fstab, and the layout has none"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn mounted_at(partition: &Partition, point: &str) -> bool {
    partition.mounted().is_some_and(|(_, at)| at == point)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        let text = format!("{{\"strapline\":1,{text}}}");
        Document::parse(text.as_bytes(), "a test").unwrap()
    }

    fn of(text: &str) -> Result<Vec<String>, Failure> {
        let layout = Layout::standard("aarch64").unwrap();
        file_systems(&document(text), &layout, &Ids::new(Some(1), "").unwrap())
    }

    const ROOT: &str = r#"{"at":"/","type":"ext4","uuid":"4A7F9A4E-0D1B-4A2C-8C3D-0123456789AB"}"#;

    #[test]
    fn the_documents_file_systems_are_made() {
        let boot = r#"{"at":"/boot","type":"vfat","uuid":"1a2b-3C4D"}"#;
        let found = of(&format!("\"filesystems\":[{ROOT},{boot}]")).unwrap();
        assert_eq!(found, ["1A2B-3C4D", "4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab"]);
        let made = of("\"x\":1").unwrap();
        assert_eq!((made[0].len(), made[1].len()), (9, 36));
        assert_eq!(made, of("\"x\":1").unwrap());
    }

    #[test]
    fn what_contradicts_the_layout_is_refused() {
        for (text, code) in [
            (format!("[{ROOT}]"), Code::Failed),
            (format!("[{ROOT},{{\"at\":\"/boot\",\"type\":\"ext4\",\"uuid\":\"1A2B-3C4D\"}}]"), Code::Failed),
            (format!("[{ROOT},{{\"at\":\"/efi\",\"type\":\"vfat\",\"uuid\":\"1A2B-3C4D\"}}]"), Code::Failed),
            (format!("[{ROOT},{{\"at\":\"/boot\",\"type\":\"vfat\",\"uuid\":\"x\"}}]"), Code::BadDocument),
            (
                format!(
                    "[{},{{\"at\":\"/boot\",\"type\":\"vfat\",\"uuid\":\"1A2B-3C4D\"}}]",
                    ROOT.replace('}', ",\"grows\":\"x\"}")
                ),
                Code::Failed,
            ),
            (format!("[{ROOT},{{\"at\":\"/boot\",\"type\":\"btrfs\",\"uuid\":\"x\"}}]"), Code::Failed),
        ] {
            let failure = of(&format!("\"filesystems\":{text}")).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
        }
    }

    #[test]
    fn subvolumes_are_those_of_fstab() {
        let layout = |subvolumes: &str| {
            let text = format!(
                "[[partition]]\nname='r'\ntype='root'\nsize='rest'\nfilesystem='btrfs'\nat='/'\n\
                 subvolumes={{{subvolumes}}}\n"
            );
            Layout::parse("x", &text, std::path::Path::new("/"), "aarch64").unwrap()
        };
        let of = |subvolumes: &str, recorded: &str| {
            let document = document(&format!("\"filesystems\":[{recorded}]"));
            file_systems(&document, &layout(subvolumes), &Ids::new(Some(1), "").unwrap()).map_err(|f| f.message)
        };
        let record = |at: &str, more: &str, id: &str| {
            format!("{{\"at\":\"{at}\",\"type\":\"btrfs\"{more},\"uuid\":\"{id}a7f9a4e-0d1b-4a2c-8c3d-0123456789ab\"}}")
        };
        let root = record("/", ",\"subvolume\":\"@\"", "4");
        let with = |home: String| format!("{root},{home}");
        let both = "'@'='/','@home'='/home'";
        let found = of(both, &with(record("/home", ",\"subvolume\":\"@home\"", "4"))).unwrap();
        assert_eq!(found, ["4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab"]);
        for (subvolumes, recorded, why) in [
            (both, root.clone(), "has the subvolume '@home' at '/home', and fstab does not"),
            (both, with(record("/home", ",\"subvolume\":\"@x\"", "4")), "has the subvolume '@home' at '/home'"),
            (both, with(record("/home", ",\"subvolume\":\"@home\"", "5")), "has the subvolume '@home' at '/home'"),
            ("", root.clone(), "'/' is the subvolume '@' in fstab, and the layout has none"),
            ("'@'='/'", with(record("/home", "", "4")), "'/home' is in fstab, and the layout has no partition for it"),
        ] {
            let message = of(subvolumes, &recorded).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn headroom_is_a_share_or_a_size() {
        let of = |text: &str| text.parse::<Headroom>().map(|h| h.of(1000 << 20));
        assert_eq!(of("20%"), Ok(200 << 20));
        assert_eq!(of("0"), Ok(0));
        assert_eq!(of("512M"), Ok(512 << 20));
        for bad in ["", "%", "-1%", "+1%", "1001%", "1.5%", "x"] {
            of(bad).unwrap_err();
        }
        assert_eq!(Headroom::default().of(1000 << 20), 164 << 20);
    }

    #[test]
    fn boot_may_have_another_size() {
        let mut layout = Layout::standard("x86_64").unwrap();
        resize_boot(&mut layout, Some(Size::Bytes(64 << 20))).unwrap();
        assert_eq!(layout.partitions[0].size, Size::Bytes(64 << 20));
        layout.partitions.remove(0);
        resize_boot(&mut layout, None).unwrap();
        resize_boot(&mut layout, Some(Size::Auto)).unwrap_err();
    }
}
