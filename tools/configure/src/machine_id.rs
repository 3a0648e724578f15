//! machine-id(5): an image must not have one, since every machine that is made from it would have the same.
//!
//! The scriptlet of the systemd package makes one. It is emptied, and not removed, nor set to `uninitialized`: those two
//! mean "first boot" (machine-id(5), First Boot Semantics), and then systemd enables what presets name beside the units that
//! were asked for, and systemd-firstboot(1) prompts on the console for what is not configured, where a board without a
//! screen waits for ever. With an empty file a machine gets an id of its own as well, and writes it down.

use crate::item::{Item, Site};
use rustix::fs::FileType;
use stage::Failure;

const AT: &str = "etc/machine-id";

/// D-Bus' own, which should be a link to the other: tmpfiles of the package make it again.
const DBUS: &str = "var/lib/dbus/machine-id";

pub(crate) struct MachineId;

impl Item for MachineId {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.tree.read(AT).map(drop)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let tree = &mut site.tree;
        // Where there is no systemd yet, its package will make one.
        if tree.exists(AT) || tree.is_program("usr/lib/systemd/systemd") {
            tree.write(AT, "", 0o444)?;
        }
        let is_file = |s: &rustix::fs::Stat| FileType::from_raw_mode(s.st_mode).is_file();
        if tree.stat(DBUS).as_ref().is_some_and(is_file) && tree.link_target(DBUS).is_none() {
            tree.remove(DBUS)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn ids_are_removed_and_links_are_kept() {
        let (guard, tree) = tree(&[(AT, "c76a6edd320a46d487d5bbbcb87f8dcf\n"), (DBUS, "c76a\n")]);
        let mut site = Site::of(tree, true);
        MachineId.apply(&mut site).unwrap();
        assert_eq!(site.tree.take_changed(), ["/etc/machine-id", "/var/lib/dbus/machine-id"]);
        assert_eq!(site.tree.text(AT).unwrap(), "");
        std::os::unix::fs::symlink("/etc/machine-id", guard.path().join(DBUS)).unwrap();
        MachineId.apply(&mut site).unwrap();
        assert_eq!(site.tree.take_changed(), Vec::<String>::new());
        assert!(site.tree.exists(DBUS));
    }
}
