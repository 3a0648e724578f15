//! machine-id(5): an image must not carry one, since every machine that is made from it would be the same to others.
//!
//! The scriptlet of the systemd package has made one. It is emptied, and not removed, nor set to `uninitialized`: those two
//! mean "first boot" (machine-id(5), First Boot Semantics), and then systemd enables what presets name beside what was asked
//! for here, and systemd-firstboot(1) asks on the console for what is not configured, where a board without a screen waits
//! for ever. With an empty file a machine gets an id of its own all the same, and writes it down.

use crate::step::{Site, Step};
use rustix::fs::FileType;
use stage::Failure;

const AT: &str = "etc/machine-id";

/// D-Bus' own, which is to be a link to the other: tmpfiles of the package make it again.
const DBUS: &str = "var/lib/dbus/machine-id";

#[derive(Debug)]
pub(crate) struct MachineId;

impl Step for MachineId {
    fn name(&self) -> &'static str {
        "machine_id"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.tree.read(AT).map(drop)
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, .. } = site;
        // Where there is no systemd yet, its package will make one.
        if tree.is_there(AT) || tree.is_program("usr/lib/systemd/systemd") {
            tree.write(AT, b"", 0o444)?;
        }
        let dbus = tree.stat(DBUS);
        let own = dbus.is_some_and(|s| FileType::from_raw_mode(s.st_mode).is_file());
        if own && tree.target(DBUS).is_none() {
            tree.remove(DBUS)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Programs;
    use crate::tree::tests::tree;

    #[test]
    fn ids_go_and_files_of_links_stay() {
        let (guard, tree) = tree(&[(AT, "c76a6edd320a46d487d5bbbcb87f8dcf\n"), (DBUS, "c76a\n")]);
        let site = Site {
            tree,
            programs: Programs { quiet: true },
            warnings: Default::default(),
        };
        MachineId.apply(&site).unwrap();
        assert_eq!(
            site.tree.take_changed(),
            ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        );
        assert_eq!(site.tree.text(AT).unwrap(), "");
        std::os::unix::fs::symlink("/etc/machine-id", guard.path().join(DBUS)).unwrap();
        MachineId.apply(&site).unwrap();
        assert_eq!(site.tree.take_changed(), Vec::<String>::new());
        assert!(site.tree.is_there(DBUS));
    }
}
