//! `--mirror`: the root's own mirror list, which its pacman.conf(5) includes.

use crate::item::{Item, Site, lacks, not_found};
use stage::Failure;

const LIST: &str = "etc/pacman.d/mirrorlist";
const CONF: &str = "etc/pacman.conf";

pub(crate) struct Mirrors(pub(crate) Vec<String>);

impl Item for Mirrors {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let tree = &site.tree;
        tree.read(LIST)?;
        if includes(&tree.text(CONF)?) {
            return Ok(());
        }
        let conf = tree.quote(CONF);
        let message = format!("setting the mirror: {conf} does not include /{LIST}");
        Err(match tree.exists(CONF) {
            true => not_found(message).hint("name the servers in that file yourself"),
            false => lacks(message, "pacman"),
        })
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let servers: String = self.0.iter().map(|url| format!("Server = {url}\n")).collect();
        let text = format!("# Written by configure(8) of strapline.\n{servers}");
        site.tree.write(LIST, &text, 0o644)
    }
}

/// Parses a server of pacman.conf(5).
pub(crate) fn parse(url: &str) -> Result<String, String> {
    distro::check::url(url)?;
    // One list is for all repositories. In a shell's double quotes `$repo` is a variable, and empty.
    match url.contains("$repo") {
        true => Ok(url.to_owned()),
        false => Err("no $repo in it: give it in single quotes, as 'https://mirror.example.org/$arch/$repo'".into()),
    }
}

fn includes(conf: &str) -> bool {
    conf.lines().any(|line| {
        line.split_once('=').is_some_and(|(key, value)| key.trim() == "Include" && value.trim() == format!("/{LIST}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_repository_in_it() {
        parse("https://mirror.example.org/$arch/$repo").unwrap();
        parse("file:///srv/$repo/os/$arch").unwrap();
        for bad in ["", "mirror.example.org/$repo", "https://m.example.org/", "https:///$repo", "https://m/$repo x"] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn a_commented_include_does_not_count() {
        assert!(includes("[core]\n Include=/etc/pacman.d/mirrorlist\n"));
        assert!(!includes("[core]\n#Include = /etc/pacman.d/mirrorlist\n"));
        assert!(!includes("[core]\nInclude = /etc/pacman.d/other\n"));
    }
}
