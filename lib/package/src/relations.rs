//! What a package is to others: what it provides, what it excludes and what it replaces.

use crate::version::vercmp;
use std::cmp::Ordering;

/// These lists of a package, each as dependencies name packages: `NAME`, or with a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relations {
    /// `%PROVIDES%`
    pub provides: Vec<String>,
    /// `%CONFLICTS%`
    pub conflicts: Vec<String>,
    /// `%REPLACES%`
    pub replaces: Vec<String>,
}

impl Relations {
    /// Takes a value of a `desc`, where it is one of these lists; returns whether it is.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let list = match key {
            b"PROVIDES" => &mut self.provides,
            b"CONFLICTS" => &mut self.conflicts,
            b"REPLACES" => &mut self.replaces,
            _ => return false,
        };
        list.push(String::from_utf8_lossy(value).into_owned());
        true
    }

    /// Returns all of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.provides.iter().chain(&self.conflicts).chain(&self.replaces)
    }
}

/// Returns whether a dependency means a package, by its name or what it provides, as libalpm does (`_alpm_depcmp`). What is
/// provided without a version does not satisfy a dependency with one.
#[must_use]
pub fn is_meant(dependency: &str, name: &str, version: &str, provides: &[String]) -> bool {
    let provided = provides.iter().any(|provision| match provision.split_once('=') {
        Some((name, version)) => satisfies(dependency, name, version),
        None => dependency == provision,
    });
    provided || satisfies(dependency, name, version)
}

/// Returns whether a dependency names a package: `NAME`, or with a version after `<`, `<=`, `=`, `>=` or `>`.
#[must_use]
pub fn satisfies(dependency: &str, name: &str, version: &str) -> bool {
    let (wanted, rest) = dependency.split_at(dependency.find(['<', '=', '>']).unwrap_or(dependency.len()));
    let bound = rest.trim_start_matches(['<', '=', '>']);
    let fits = |order: Ordering| match &rest[..rest.len() - bound.len()] {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        ">" => order.is_gt(),
        _ => order.is_eq(),
    };
    wanted == name && (rest.is_empty() || fits(vercmp(version, bound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dependency_means() {
        for (dependency, is) in [
            ("a", true),
            ("b", false),
            ("a=1-1", true),
            ("a=1", true),
            ("a<2", true),
            ("a>=2", false),
            ("a>1-0", true),
            ("a<=0.9", false),
            ("c", true),
            ("c=1", false),
            ("d", true),
            ("d>=3", true),
            ("d<3", false),
        ] {
            let provides = ["c".to_owned(), "d=3".to_owned()];
            assert_eq!(is_meant(dependency, "a", "1-1", &provides), is, "{dependency}");
        }
    }
}
