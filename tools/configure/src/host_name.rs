//! `--hostname`: hostname(5), and a line in hosts(5) that lets the machine find itself by its name.

use crate::item::{Item, Site};
use crate::text::joined;
use stage::Failure;

const NAME: &str = "etc/hostname";
const HOSTS: &str = "etc/hosts";

/// How a line of ours in hosts(5) ends, and how it begins.
const OURS: &str = "# configure";
const ADDRESS: &str = "127.0.1.1";

/// What hosts(5) has at least.
const LOCAL: [&str; 2] = ["127.0.0.1 localhost", "::1 localhost"];

/// The longest name that Linux allows, in bytes (`HOST_NAME_MAX`).
const LONGEST: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct HostName(pub(crate) String);

impl HostName {
    /// Parses a host name of hostname(7): labels of letters, digits and hyphens.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        if name.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes"));
        }
        for label in name.split('.') {
            let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            let why = match label {
                "" => "an empty label",
                label if label.len() > 63 => "a label is longer than 63 bytes",
                label if !label.bytes().all(fine) => "only letters, digits, '-' and '.' are allowed",
                label if label.starts_with('-') || label.ends_with('-') => "a label begins or ends with '-'",
                _ => continue,
            };
            return Err(why.into());
        }
        // As the resolver reads addresses (inet_aton(3)): also '0x7f.1'. No top-level domain is a number.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("it ends with a number, as an address does".into());
        }
        match name {
            "localhost" => Err("that is every machine's name".into()),
            _ => Ok(Self(name.to_owned())),
        }
    }
}

impl Item for HostName {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.tree.text(NAME)?;
        site.tree.text(HOSTS).map(drop)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let tree = &mut site.tree;
        tree.write(NAME, &format!("{}\n", self.0), 0o644)?;
        let text = with_host(&tree.text(HOSTS)?, &self.0);
        tree.write(HOSTS, &text, 0o644)
    }
}

/// Returns a hosts(5) that has the name, in a line of ours unless another line has it.
fn with_host(text: &str, name: &str) -> String {
    let is_ours = |line: &str| line.starts_with(ADDRESS) && line.ends_with(OURS);
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_ours(line)).collect();
    if lines.is_empty() {
        lines.extend(LOCAL);
    }
    let has_name = |line: &&str| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1).any(|word| word == name)
    };
    if lines.iter().any(has_name) {
        return joined(&lines);
    }
    // The short name is an alias of the full one: the first is what `hostname --fqdn` prints.
    let names = match name.split_once('.') {
        Some((short, _)) => format!("{name} {short}"),
        None => name.to_owned(),
    };
    let ours = format!("{ADDRESS} {names} {OURS}");
    let place = text.lines().position(is_ours).unwrap_or(lines.len());
    lines.insert(place.min(lines.len()), &ours);
    joined(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_hostname_7() {
        for good in ["a", "alarm", "Pi-4", "db1.example.org", "7up", &"a".repeat(63)] {
            HostName::parse(good).unwrap();
        }
        let long = format!("{}.{}", "a".repeat(40), "b".repeat(40));
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "a_b",
            "a b",
            "a\n",
            "ü",
            "a/b",
            "localhost",
            "127.0.0.1",
            "10.1",
            "42",
            "0x7f.0x1",
            "host.0",
            &"a".repeat(64),
            &long,
        ] {
            HostName::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn hosts_gets_one_line_of_ours_and_keeps_the_others() {
        let local = "127.0.0.1 localhost\n::1 localhost\n";
        let a = with_host(local, "a");
        assert_eq!(a, format!("{local}127.0.1.1 a # configure\n"));
        assert_eq!(with_host(&a, "a"), a);
        let more = format!("{a}10.0.0.9 nas\n");
        assert_eq!(
            with_host(&more, "b.example.org"),
            format!("{local}127.0.1.1 b.example.org b # configure\n10.0.0.9 nas\n")
        );
        assert_eq!(with_host(&more, "nas"), format!("{local}10.0.0.9 nas\n"));
        assert_eq!(with_host("", "a"), a);
    }
}
