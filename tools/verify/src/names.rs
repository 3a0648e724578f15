//! The ids of users and groups of the root, from its own passwd(5) and group(5).

use rootfs::Root;

/// The longest passwd(5) or group(5) that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The texts of passwd(5) and group(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    passwd: String,
    group: String,
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

    pub(crate) fn of(passwd: &str, group: &str) -> Self {
        let [passwd, group] = [passwd, group].map(str::to_owned);
        Self { passwd, group }
    }

    /// Returns the id of a user, given by name or number.
    pub(crate) fn user(&self, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| id(&self.passwd, name))
    }

    /// Returns the id of a group, given by name or number.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| id(&self.group, name))
    }
}

/// Returns the id in the first valid line of a name, as nss(5) does.
fn id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        fields.next().filter(|is| *is == name)?;
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let names = Names::of("ann:x:7:8::/:/bin/sh\nbroken\nann:x:9:9::/:\n", "utmp:x:997:\n");
        assert_eq!((names.user("ann"), names.group("utmp")), (Some(7), Some(997)));
        assert_eq!((names.user("12"), names.group("12")), (Some(12), Some(12)));
        assert_eq!((names.user("utmp"), names.group("ann")), (None, None));
        assert_eq!(names.user("broken"), None);
    }
}
