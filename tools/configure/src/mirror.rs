//! `--mirror`: the root's own mirror list, which its pacman.conf(5) includes.

use crate::step::{Site, Step};
use stage::{Code, Failure};

const LIST: &str = "etc/pacman.d/mirrorlist";
const CONF: &str = "etc/pacman.conf";

#[derive(Debug)]
pub(crate) struct Mirrors(pub(crate) Vec<String>);

impl Step for Mirrors {
    fn name(&self) -> &'static str {
        "mirrors"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, .. } = site;
        tree.read(LIST)?;
        if includes(&tree.text(CONF)?) {
            return Ok(());
        }
        let failure = Failure::new(
            Code::NotFound,
            format!(
                "setting the mirror: {} does not include /{LIST}",
                tree.quote(CONF)
            ),
        );
        Err(match tree.is_there(CONF) {
            true => failure.hint("name the servers there yourself"),
            false => failure.hint("strap pacman first"),
        })
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let servers: String = self
            .0
            .iter()
            .map(|url| format!("Server = {url}\n"))
            .collect();
        let text = format!("# Written by configure(8) of strapline.\n{servers}");
        site.tree.write(LIST, text.as_bytes(), 0o644)
    }
}

/// Checks a server as pacman.conf(5) has them.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn check(url: &str) -> Result<(), String> {
    distro::check::url(url)?;
    // One list is for all repositories. In a shell's double quotes `$repo` is a variable, and empty.
    if url.contains("$repo") {
        return Ok(());
    }
    Err("it has no $repo in it: give it in single quotes, as 'https://mirror.example.org/$arch/$repo'".into())
}

fn includes(conf: &str) -> bool {
    conf.lines().any(|line| {
        line.split_once('=').is_some_and(|(key, value)| {
            key.trim() == "Include" && value.trim() == format!("/{LIST}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_repository_in_it() {
        check("https://mirror.example.org/$arch/$repo").unwrap();
        check("file:///srv/$repo/os/$arch").unwrap();
        for bad in [
            "",
            "mirror.example.org/$repo",
            "https://m.example.org/",
            "https:///$repo",
            "https://m/$repo x",
        ] {
            check(bad).unwrap_err();
        }
    }

    #[test]
    fn an_include_that_is_commented_out_is_none() {
        assert!(includes("[core]\n Include=/etc/pacman.d/mirrorlist\n"));
        assert!(!includes("[core]\n#Include = /etc/pacman.d/mirrorlist\n"));
        assert!(!includes("[core]\nInclude = /etc/pacman.d/other\n"));
    }
}
