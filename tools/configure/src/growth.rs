//! `--fstab`: the last partition takes the rest of a larger disk when the machine boots, by systemd-repart(8), and its file
//! system grows with it, by systemd-growfs(8), for which fstab(5) has `x-systemd.growfs`.
//!
//! The layout says so: the size `rest`, and the attribute `grow-file-system`. systemd-repart finds a partition by its type, and
//! makes one where the disk has none: so mkdisk(8) compares the type with its layout's. By default it discards what lies
//! in no partition, such as the boot loader of a board: a drop-in of its unit forbids that.

use crate::item::{Item, Site};
use crate::tree::ROOT;
use image::layout::{Layout, Partition, Size};
use stage::Failure;

const REPART: &str = "usr/bin/systemd-repart";
const GROWFS: &str = "usr/lib/systemd/systemd-growfs";

/// Where definitions are (repart.d(5)).
const DEFINITIONS: [&str; 3] = ["etc/repart.d", "usr/local/lib/repart.d", "usr/lib/repart.d"];

/// What the names of our definitions begin with.
const OURS: &str = "50-configure-";

const DROP_IN: &str = "etc/systemd/system/systemd-repart.service.d";
const NAME: &str = "50-configure.conf";
const KEEP_BOOT_LOADER: &str = "\
# Written by configure(8) of strapline.
# What lies in no partition may be a boot loader.
[Service]
ExecStart=
ExecStart=/usr/bin/systemd-repart --dry-run=no --discard=no
";

/// The partition that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Growing {
    /// Where it is mounted.
    pub(crate) at: String,
    /// The GUID of its type.
    pub(crate) kind: String,
    /// How many partitions before it have the same type.
    alike: usize,
}

impl Growing {
    /// Returns the partition of a layout that grows; `None` where none does.
    pub(crate) fn of(layout: &Layout) -> Option<Self> {
        let (last, before) = layout.partitions.split_last()?;
        let (_, at) = last.mounted().filter(|_| last.size == Size::Rest && last.grows())?;
        let alike = before.iter().filter(|p: &&Partition| p.kind == last.kind).count();
        Some(Self { at: at.to_owned(), kind: last.kind.clone(), alike })
    }

    /// Returns the definitions, by the names of their files. systemd-repart takes partitions of one type in their order on the
    /// disk: those before the one that grows have to be named, too.
    fn definitions(&self) -> Vec<(String, String)> {
        let of = |n| {
            let fixed = if n < self.alike { "Weight=0\nSizeMinBytes=4K\n" } else { "" };
            let head = "# Written by configure(8) of strapline.\n[Partition]\n";
            (format!("{OURS}{n:03}.conf"), format!("{head}Type={}\n{fixed}", self.kind))
        };
        (0..=self.alike).map(of).collect()
    }
}

/// What grows, for the item `growth`: `None` removes what an earlier run wrote.
pub(crate) struct Growth(pub(crate) Option<Growing>);

impl Growth {
    /// Returns the definitions to write; none where the root cannot grow, with a warning, or has definitions of its own.
    fn possible(&self, site: &mut Site) -> Vec<(String, String)> {
        let Some(growing) = &self.0 else { return Vec::new() };
        let at = &growing.at;
        if let Some(missing) = [REPART, GROWFS].into_iter().find(|program| !site.tree.is_program(program)) {
            let program = missing.rsplit('/').next().unwrap_or(missing);
            site.warnings.push(format!("'{at}' will not grow on a larger disk: the root has no {program}"));
            return Vec::new();
        }
        if let Some(path) = foreign(site) {
            let path = site.tree.quote(&path);
            site.warnings.push(format!("whether '{at}' grows on a larger disk is for {path} to say: nothing is added"));
            return Vec::new();
        }
        growing.definitions()
    }
}

/// Returns a definition that is not ours.
fn foreign(site: &Site) -> Option<String> {
    let names = |at| site.tree.names(at).into_iter().map(move |(name, _)| format!("{at}/{name}"));
    let ours = format!("{}/{OURS}", DEFINITIONS[0]);
    DEFINITIONS.into_iter().flat_map(names).find(|path| path.ends_with(".conf") && !path.starts_with(&ours))
}

impl Item for Growth {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let definition = format!("{}/{OURS}000.conf", DEFINITIONS[0]);
        [format!("{DROP_IN}/{NAME}"), definition].iter().try_for_each(|path| site.tree.read(path).map(drop))
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let wanted = self.possible(site);
        let tree = &mut site.tree;
        let directory = DEFINITIONS[0];
        // One that is left of an earlier layout would make a partition.
        for (name, _) in tree.names(directory) {
            if name.starts_with(OURS) && !wanted.iter().any(|(known, _)| *known == name) {
                tree.remove(&format!("{directory}/{name}"))?;
            }
        }
        if wanted.is_empty() {
            return tree.remove(&format!("{DROP_IN}/{NAME}"));
        }
        for directory in ["etc/systemd", "etc/systemd/system", DROP_IN, directory] {
            if tree.make_directory(directory, 0o755, ROOT)? {
                tree.mark_changed(directory);
            }
        }
        // First: without it the others must not be there.
        tree.write(&format!("{DROP_IN}/{NAME}"), KEEP_BOOT_LOADER, 0o644)?;
        for (name, text) in wanted {
            tree.write(&format!("{directory}/{name}"), &text, 0o644)?;
        }
        site.grows.extend(self.0.iter().map(|growing| growing.at.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn growing(text: &str) -> Option<Growing> {
        Growing::of(&Layout::parse("'x'", text, Path::new("/"), "x86_64").unwrap())
    }

    const ROOT: &str = "[[partition]]\nname='r'\ntype='linux'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";

    #[test]
    fn the_last_partition_grows_where_the_layout_says_so() {
        let attribute = "attributes=['grow-file-system']\n";
        assert_eq!(growing(ROOT), None);
        let root = growing(&format!("{ROOT}{attribute}")).unwrap();
        assert_eq!((root.at.as_str(), root.alike), ("/", 0));
        assert_eq!(growing(&format!("{ROOT}{attribute}").replace("rest", "auto")), None);
        let fat = format!(
            "{}[[partition]]\nname='d'\ntype='data'\nsize='rest'\nfilesystem='vfat'\nat='/d'\n{attribute}",
            ROOT.replace("rest", "auto")
        );
        assert_eq!(growing(&fat), None, "systemd-growfs cannot");
        assert_eq!(Growing::of(&Layout::standard("aarch64").unwrap()).unwrap().at, "/");
    }

    #[test]
    fn partitions_of_the_same_type_before_it_keep_their_size() {
        let before = ROOT.replace("'r'", "'h'").replace("'/'", "'/h'").replace("rest", "1G");
        let home = growing(&format!("{before}{ROOT}attributes=['grow-file-system']\n")).unwrap();
        let [(first, fixed), (last, grows)] = &home.definitions()[..] else { panic!("{home:?}") };
        assert!(first < last && fixed.contains("Weight=0\n") && !grows.contains("Weight"), "{fixed}{grows}");
    }
}
