//! The modules of a kernel, by what depmod(8) and the kernel's build have written beside them.

use super::files::Files;
use super::initramfs::module_name;
use stage::Failure;
use std::collections::{BTreeMap, BTreeSet};

/// A kernel's modules.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// Built into the kernel.
    builtin: BTreeSet<String>,
    /// Those that are files, with what each depends on.
    files: BTreeMap<String, Vec<String>>,
    /// What is to be loaded before a module.
    before: BTreeMap<String, Vec<String>>,
    /// Other names without a wildcard, and the modules that have them.
    aliases: BTreeMap<String, Vec<String>>,
}

/// What must be in an initramfs for a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This module, which `by` needs.
    Module { name: String, by: String },
    /// One of these modules.
    OneOf { names: Vec<String>, by: String },
    /// The kernel has no such driver.
    NoDriver,
}

impl Modules {
    /// Reads them; `None` where there is no directory of them.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub(super) fn read(files: &Files<'_>, release: &str) -> Result<Option<Self>, Failure> {
        let directory = format!("usr/lib/modules/{release}");
        if !files.is_directory(&directory) {
            return Ok(None);
        }
        let text = |name: &str| files.text(&format!("{directory}/{name}"));
        Ok(Some(Self::parse(
            [&text("modules.builtin")?, &text("modules.builtin.modinfo")?],
            [&text("modules.dep")?, &text("modules.softdep")?, &text("modules.alias")?],
        )))
    }

    fn parse([builtin, builtin_info]: [&str; 2], [dependencies, soft, aliases]: [&str; 3]) -> Self {
        let mut modules = Self { builtin: builtin.lines().filter_map(module_name).collect(), ..Self::default() };
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().filter_map(module_name).collect();
            modules.files.extend(module_name(file).map(|name| (name, needs)));
        }
        for line in soft.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            modules.before.entry(plain(name)).or_default().extend(before.map(plain));
        }
        // "alias NAME MODULE", and for what is built in "MODULE.alias=NAME".
        let of_files = aliases.lines().filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '));
        let of_builtin = builtin_info.split('\0').filter_map(|info| {
            let (module, alias) = info.split_once(".alias=")?;
            Some((alias, module))
        });
        for (alias, module) in of_files.chain(of_builtin).filter(|(alias, _)| !alias.contains(['*', '?', '['])) {
            modules.aliases.entry(plain(alias)).or_default().push(plain(module));
        }
        modules
    }

    /// Returns whether depmod(8) has not listed them.
    pub(super) fn are_unlisted(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns what an initramfs must have for a module; nothing where it is built in.
    pub(super) fn needs(&self, module: &str) -> Vec<Need> {
        let mut needs = Vec::new();
        let mut seen = BTreeSet::new();
        let mut left = vec![(module.to_owned(), module.to_owned())];
        while let Some((name, by)) = left.pop() {
            if self.builtin.contains(&name) || !seen.insert(name.clone()) {
                continue;
            }
            let Some(depends) = self.files.get(&name) else {
                needs.push(Need::NoDriver);
                continue;
            };
            left.extend(depends.iter().map(|other| (other.clone(), name.clone())));
            for other in self.before.get(&name).into_iter().flatten() {
                match self.providers(other) {
                    Some(one) if one.len() == 1 => left.push((one[0].clone(), name.clone())),
                    Some(names) => needs.push(Need::OneOf { names, by: name.clone() }),
                    None => {}
                }
            }
            needs.push(Need::Module { name, by });
        }
        needs
    }

    /// Returns the modules that a name of a soft dependency stands for; `None` where it is built in, or nothing has it: the
    /// kernel does without. The generic one of several is the one that any processor can use.
    fn providers(&self, name: &str) -> Option<Vec<String>> {
        let is_builtin = |module: &String| self.builtin.contains(module);
        let name = name.to_owned();
        if is_builtin(&name) {
            return None;
        }
        if self.files.contains_key(&name) {
            return Some(vec![name]);
        }
        let all = self.aliases.get(&name)?;
        if all.iter().any(is_builtin) {
            return None;
        }
        let known: Vec<_> = all.iter().filter(|module| self.files.contains_key(*module)).cloned().collect();
        match known.iter().find(|module| module.ends_with("_generic")) {
            Some(generic) => Some(vec![generic.clone()]),
            None => Some(known).filter(|known| !known.is_empty()),
        }
    }
}

/// Returns a name as the kernel has it: `-` and `_` are the same to modprobe(8).
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, by: &str) -> Need {
        Need::Module { name: name.into(), by: by.into() }
    }

    fn modules() -> Modules {
        Modules::parse(
            ["kernel/drivers/scsi/sd_mod.ko\nkernel/lib/libcrc32c.ko\n", "crc16_x.alias=crc16\0sd_mod.license=GPL\0"],
            [
                "kernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2/jbd2.ko.zst kernel/fs/mbcache.ko.zst\nkernel/fs/jbd2/jbd2.ko.zst:\n\
                 kernel/fs/mbcache.ko.zst:\nkernel/crypto/crc32c_generic.ko.zst:\nkernel/arch/crc32c-intel.ko.zst:\n",
                "# Soft dependencies\nsoftdep ext4 pre: crc32c crc16 nothing post: later\n",
                "alias crc32c crc32c_generic\nalias crc32c crc32c_intel\nalias pci:v*d* x\n",
            ],
        )
    }

    #[test]
    fn what_a_driver_depends_on_is_needed() {
        let mut needs = modules().needs("ext4");
        needs.sort_by_key(|need| format!("{need:?}"));
        let expected = [
            module("crc32c_generic", "ext4"),
            module("ext4", "ext4"),
            module("jbd2", "ext4"),
            module("mbcache", "ext4"),
        ];
        assert_eq!(needs, expected);
        assert_eq!(modules().needs("sd_mod"), []);
        assert_eq!(modules().needs("nvme"), [Need::NoDriver]);
    }

    #[test]
    fn one_of_several_is_enough() {
        let mut modules = modules();
        modules.files.remove("crc32c_generic");
        modules.aliases.insert("crc32c".into(), vec!["jbd2".into(), "mbcache".into()]);
        let one = Need::OneOf { names: vec!["jbd2".into(), "mbcache".into()], by: "ext4".into() };
        assert!(modules.needs("ext4").contains(&one));
        modules.aliases.insert("crc32c".into(), vec!["jbd2".into(), "sd_mod".into()]);
        assert!(!modules.needs("ext4").iter().any(|need| matches!(need, Need::OneOf { .. })));
    }
}
