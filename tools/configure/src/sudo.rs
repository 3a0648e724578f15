//! `--sudo`: members of wheel may become root with their password, by a file of our own that sudoers(5) includes.

use crate::records;
use crate::step::{Site, Step};
use stage::{Code, Failure};

const AT: &str = "etc/sudoers.d/10-wheel";
const SUDOERS: &str = "etc/sudoers";
const TEXT: &str = "# Written by configure(8) of strapline.\n%wheel ALL=(ALL:ALL) ALL\n";

#[derive(Debug)]
pub(crate) struct Sudo;

impl Step for Sudo {
    fn name(&self) -> &'static str {
        "sudo"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, programs, .. } = site;
        let doing = "letting wheel use sudo";
        let missing = |what: String| Failure::new(Code::NotFound, format!("{doing}: {what}"));
        if !tree.has_program("sudo") {
            return Err(missing("the root has no sudo".into()).hint("strap sudo first"));
        }
        if !records::has(&tree.text("etc/group")?, "wheel") {
            return Err(missing("the root has no group 'wheel'".into()));
        }
        if !includes(&tree.text(SUDOERS)?) {
            let path = tree.quote(SUDOERS);
            return Err(missing(format!("{path} does not include /etc/sudoers.d")));
        }
        tree.read(AT)?;
        if tree.has_program("visudo") {
            let args = ["-c", "-q", "-f", "-"];
            programs.run("visudo", &args, Some(TEXT.as_bytes()), doing)?;
        }
        Ok(())
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        site.tree.write(AT, TEXT.as_bytes(), 0o440)
    }
}

/// Returns whether a sudoers(5) includes the directory; its older word for that looks like a comment.
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
        assert!(!includes(
            "# @includedir /etc/sudoers.d\n#includedir /etc/other\n"
        ));
    }
}
