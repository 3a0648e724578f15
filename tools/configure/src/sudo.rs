//! `--sudo`: members of wheel may become root with their password; `--nopasswd`: some may without one. By files of our own that
//! sudoers(5) includes; of two rules for a user the later file's counts.

use crate::item::{Item, Site, not_found};
use crate::records;
use crate::text::{joined, merge};
use crate::tree::Tree;
use stage::Failure;

const AT: &str = "etc/sudoers.d/10-wheel";
const SUDOERS: &str = "etc/sudoers";
const TEXT: &str = "# Written by configure(8) of strapline.\n%wheel ALL=(ALL:ALL) ALL\n";
const DOING: &str = "allowing sudo to wheel";

pub(crate) struct Sudo;

impl Item for Sudo {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        if !records::has(&site.tree.text("etc/group")?, "wheel") {
            site.need("sudo", "sudo", DOING)?;
            return Err(not_found(format!("{DOING}: the root has no group 'wheel'")));
        }
        check(site, AT, TEXT, DOING)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        site.tree.write(AT, TEXT, 0o440)
    }
}

const FREE_AT: &str = "etc/sudoers.d/20-nopasswd";
const FREE_DOING: &str = "allowing sudo without a password";

/// Who may use sudo without a password: users, and groups after a percent sign.
pub(crate) struct NoPasswd {
    pub(crate) names: Vec<String>,
    /// Users that this run makes, and groups after a percent sign.
    pub(crate) coming: Vec<String>,
}

impl NoPasswd {
    /// Returns what is there, with a line for each name.
    fn text(&self, tree: &Tree) -> Result<String, Failure> {
        let mut lines: Vec<String> = tree.text(FREE_AT)?.lines().map(str::to_owned).collect();
        let rules = self.names.iter().map(|name| format!("{name} ALL=(ALL:ALL) NOPASSWD: ALL"));
        merge(&mut lines, &["# Written by configure(8) of strapline.".to_owned()]);
        merge(&mut lines, &rules.collect::<Vec<_>>());
        Ok(joined(&lines))
    }
}

impl Item for NoPasswd {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        for asked in &self.names {
            let (kind, file, name) = match asked.strip_prefix('%') {
                Some(group) => ("group", "etc/group", group),
                None => ("user", "etc/passwd", asked.as_str()),
            };
            // A new user has a group of the same name.
            let is_coming = self.coming.iter().any(|coming| coming == asked || coming == name);
            if !is_coming && !records::has(&site.tree.text(file)?, name) {
                return Err(not_found(format!("{FREE_DOING}: the root has no {kind} '{name}'")));
            }
        }
        check(site, FREE_AT, &self.text(&site.tree)?, FREE_DOING)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let text = self.text(&site.tree)?;
        site.tree.write(FREE_AT, &text, 0o440)
    }
}

/// Checks that sudo is there, and would read this file.
fn check(site: &Site, at: &str, text: &str, doing: &str) -> Result<(), Failure> {
    let tree = &site.tree;
    site.need("sudo", "sudo", doing)?;
    if !includes(&tree.text(SUDOERS)?) {
        let path = tree.quote(SUDOERS);
        return Err(not_found(format!("{doing}: {path} does not include /etc/sudoers.d")));
    }
    tree.read(at)?;
    if tree.has_program("visudo") {
        site.run("visudo", &["-c", "-q", "-f", "-"], Some(text), doing)?;
    }
    Ok(())
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
