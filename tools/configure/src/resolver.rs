//! `--resolv-conf`: resolv.conf(5), as a link to what systemd-resolved keeps, or with name servers.
//!
//! Without the option the file stays the packages', but where systemd-resolved is enabled and there are no name servers.
//! systemd-resolved reads it where it is a file, and never overwrites it; a program that asks DNS itself finds resolved only by
//! the link, which no package makes.

use crate::item::{Item, Site, lacks};
use rootfs::Root;
use stage::Failure;
use std::net::IpAddr;

pub(crate) const AT: &str = "etc/resolv.conf";
const STUB: &str = "../run/systemd/resolve/stub-resolv.conf";
const PROGRAM: &str = "usr/lib/systemd/systemd-resolved";
pub(crate) const UNIT: &str = "systemd-resolved.service";

/// The longest file that is read here.
const LIMIT: u64 = 1 << 20;

/// resolv.conf(5) has no more (`MAXNS`).
const MOST: usize = 3;

/// Returns whether the root's file has name servers. A link, and what cannot be read, is for the item to see.
pub(crate) fn has_servers(root: &Root) -> bool {
    let text = root.read(AT, LIMIT).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().any(|line| line.trim_start().starts_with("nameserver"))
}

/// The content of resolv.conf(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// A link to the file of systemd-resolved.
    Resolved,
    /// A file with these name servers.
    Servers(Vec<IpAddr>),
}

impl Resolver {
    /// Parses the option's value.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "resolved" {
            return Ok(Self::Resolved);
        }
        let servers: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
        match servers {
            Ok(servers) if servers.len() <= MOST => Ok(Self::Servers(servers)),
            Ok(_) => Err(format!("more than {MOST} name servers")),
            Err(_) => Err("neither 'resolved' nor addresses with ',' between them".into()),
        }
    }

    /// Returns the option's value, for the document.
    pub(crate) fn words(&self) -> Vec<String> {
        match self {
            Self::Resolved => vec!["resolved".to_owned()],
            Self::Servers(servers) => servers.iter().map(IpAddr::to_string).collect(),
        }
    }
}

impl Item for Resolver {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        if *self != Self::Resolved || site.tree.is_program(PROGRAM) {
            return Ok(());
        }
        let message = "linking resolv.conf: the root has no systemd-resolved";
        Err(lacks(message, "systemd"))
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let tree = &mut site.tree;
        let Self::Servers(servers) = self else {
            return tree.link(AT, STUB);
        };
        // A link is not followed: what it leads to belongs to somebody else.
        if tree.link_target(AT).is_some() {
            tree.remove(AT)?;
        }
        let lines: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
        let text = format!("# Written by configure(8) of strapline.\n{lines}");
        tree.write(AT, &text, 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_or_addresses() {
        assert_eq!(Resolver::parse("resolved").unwrap(), Resolver::Resolved);
        let servers = Resolver::parse("9.9.9.9,2620:fe::fe").unwrap();
        assert_eq!(servers.words(), ["9.9.9.9", "2620:fe::fe"]);
        for bad in ["", "dns.example.org", "9.9.9", "9.9.9.9,", "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"] {
            Resolver::parse(bad).unwrap_err();
        }
    }
}
