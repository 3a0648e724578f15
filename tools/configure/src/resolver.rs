//! `--resolv-conf`: resolv.conf(5), as a link to what systemd-resolved keeps, or with name servers.
//!
//! Without the option the file stays the packages'. systemd-resolved reads it where it is a file, and overwrites it never; a
//! program that asks DNS itself finds resolved only by the link, which no package makes.

use crate::step::{Site, Step};
use stage::{Code, Failure};
use std::net::IpAddr;

const AT: &str = "etc/resolv.conf";
const STUB: &str = "../run/systemd/resolve/stub-resolv.conf";
const PROGRAM: &str = "usr/lib/systemd/systemd-resolved";

/// More than these resolv.conf(5) does not read (`MAXNS`).
const MOST: usize = 3;

/// What resolv.conf(5) is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// A link to the file of systemd-resolved.
    Resolved,
    /// A file with these name servers.
    Servers(Vec<IpAddr>),
}

impl Resolver {
    /// Reads the option's value.
    ///
    /// # Errors
    ///
    /// Why it makes no sense.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "resolved" {
            return Ok(Self::Resolved);
        }
        let servers: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
        match servers {
            Ok(servers) if servers.len() <= MOST => Ok(Self::Servers(servers)),
            Ok(_) => Err(format!("no more than {MOST} name servers are asked")),
            Err(_) => Err("it is neither 'resolved' nor addresses with ',' between them".into()),
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

impl Step for Resolver {
    fn name(&self) -> &'static str {
        "resolv_conf"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        if *self != Self::Resolved || site.tree.is_program(PROGRAM) {
            return Ok(());
        }
        Err(Failure::new(
            Code::NotFound,
            "linking resolv.conf: the root has no systemd-resolved",
        )
        .hint("strap systemd first, or give addresses of name servers"))
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let Self::Servers(servers) = self else {
            return site.tree.link(AT, STUB);
        };
        // A link is somebody's, and what it leads to is not ours to write.
        if site.tree.target(AT).is_some() {
            site.tree.remove(AT)?;
        }
        let lines: String = servers
            .iter()
            .map(|s| format!("nameserver {s}\n"))
            .collect();
        let text = format!("# Written by configure(8) of strapline.\n{lines}");
        site.tree.write(AT, text.as_bytes(), 0o644)
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
        for bad in [
            "",
            "dns.example.org",
            "9.9.9",
            "9.9.9.9,",
            "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4",
        ] {
            Resolver::parse(bad).unwrap_err();
        }
    }
}
