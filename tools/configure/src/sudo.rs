//! `--sudo`: members of wheel may become root with their password, by a file of our own that sudoers(5) includes.

use crate::item::{Item, Site, not_found};
use crate::records;
use stage::Failure;

const AT: &str = "etc/sudoers.d/10-wheel";
const SUDOERS: &str = "etc/sudoers";
const TEXT: &str = "# Written by configure(8) of strapline.\n%wheel ALL=(ALL:ALL) ALL\n";
const DOING: &str = "allowing sudo to wheel";

pub(crate) struct Sudo;

impl Item for Sudo {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let tree = &site.tree;
        site.need("sudo", "sudo", DOING)?;
        if !records::has(&tree.text("etc/group")?, "wheel") {
            return Err(not_found(format!("{DOING}: the root has no group 'wheel'")));
        }
        if !includes(&tree.text(SUDOERS)?) {
            let path = tree.quote(SUDOERS);
            return Err(not_found(format!("{DOING}: {path} does not include /etc/sudoers.d")));
        }
        tree.read(AT)?;
        if tree.has_program("visudo") {
            site.run("visudo", &["-c", "-q", "-f", "-"], Some(TEXT), DOING)?;
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        site.tree.write(AT, TEXT, 0o440)
    }
}

/// Returns whether a sudoers(5) includes the directory; the older word for that looks like a comment.
fn includes(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("@includedir" | "#includedir"))
            && words.next().map(|at| at.trim_end_matches('/')) == Some("/etc/sudoers.d")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_words_for_including_count() {
        assert!(includes("root ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n"));
        assert!(includes("#includedir /etc/sudoers.d/\n"));
        assert!(!includes("# @includedir /etc/sudoers.d\n#includedir /etc/other\n"));
    }
}
