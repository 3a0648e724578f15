//! The ids of users and groups of the root, from its own passwd(5) and group(5).

use rootfs::Root;
use std::collections::BTreeMap;

/// The longest passwd(5) or group(5) that is read.
const LIMIT: u64 = 16 << 20;

/// Ids by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Names {
    /// Reads them. A file that cannot be read has no names: a rule with a name then permits nothing.
    pub(crate) fn read(root: &Root) -> Self {
        let text = |path| {
            let text = root.read(path, LIMIT).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        Self::of(&text("etc/passwd"), &text("etc/group"))
    }

    /// Parses the texts of passwd(5) and group(5). As for nss(5), the first line of a name counts.
    pub(crate) fn of(passwd: &str, group: &str) -> Self {
        let ids = |text: &str| {
            let mut ids = BTreeMap::new();
            for line in text.lines() {
                let mut fields = line.split(':');
                if let (Some(name), _, Some(id)) = (fields.next(), fields.next(), fields.next())
                    && let Ok(id) = id.parse()
                {
                    ids.entry(name.to_owned()).or_insert(id);
                }
            }
            ids
        };
        Self {
            users: ids(passwd),
            groups: ids(group),
        }
    }

    /// Returns the id of a user, given by name or number.
    pub(crate) fn user(&self, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| self.users.get(name).copied())
    }

    /// Returns the id of a group, given by name or number.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| self.groups.get(name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let names = Names::of(
            "ann:x:7:8::/:/bin/sh\nbroken\nann:x:9:9::/:\n",
            "utmp:x:997:\n",
        );
        assert_eq!(
            (names.user("ann"), names.group("utmp")),
            (Some(7), Some(997))
        );
        assert_eq!((names.user("12"), names.group("12")), (Some(12), Some(12)));
        assert_eq!((names.user("utmp"), names.group("ann")), (None, None));
        assert_eq!(names.user("broken"), None);
    }
}
