//! The kernel's version, and what follows from it.

use crate::finding::Finding;

/// Returns major and minor of what uname(2) calls the release.
pub(crate) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// The calls that entering a root makes, and the version that brought each.
const NEEDED: [((u32, u32), &str); 3] = [
    (
        (5, 2),
        "the mount calls fsopen(2), open_tree(2) and move_mount(2)",
    ),
    ((5, 6), "openat2(2)"),
    ((5, 12), "mount_setattr(2)"),
];

/// The version that brought a binfmt_misc table to each user namespace.
pub(crate) const PRIVATE_TABLE: (u32, u32) = (6, 7);

/// Judges the version. `works` says that a root was entered all the same: a distribution's kernel may have what its
/// version says it has not.
pub(crate) fn kernel(release: &str, foreign: bool, works: bool) -> Finding {
    const NAME: &str = "kernel";
    let have = version(release);
    let found = format!("Linux {release}");
    let missing = NEEDED.iter().find(|(since, _)| have < *since);
    if let Some(((major, minor), call)) = missing {
        if works {
            return Finding::ok(
                NAME,
                format!("{found}, which has what Linux {major}.{minor} brought"),
            );
        }
        return Finding::fail(NAME, found)
            .why(format!(
                "a root is entered with {call}, which came with Linux {major}.{minor}; all that is needed is in \
                 Linux 5.12"
            ))
            .fix("install a newer kernel of this distribution and boot it, or use a newer host");
    }
    if foreign && have < PRIVATE_TABLE {
        return Finding::ok(NAME, format!("{found}, without private binfmt_misc tables")).why(
            "since Linux 6.7 a handler for foreign programs can be had without touching the host's table; before, \
             the host's must do",
        );
    }
    Finding::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    #[test]
    fn a_version_is_the_first_two_numbers() {
        assert_eq!(version("6.18.44-fc-v595"), (6, 18));
        assert_eq!(version("5.10.0-35-amd64"), (5, 10));
        assert_eq!(version("6.7+"), (6, 7));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn what_is_missing_is_named_with_its_version() {
        for (release, works, status, text) in [
            ("4.18.0", false, Status::Fail, "Linux 5.2"),
            ("5.4.0-200-generic", false, Status::Fail, "openat2(2)"),
            ("5.10.0-35-amd64", false, Status::Fail, "mount_setattr(2)"),
            ("5.10.0-35-amd64", true, Status::Ok, ""),
            ("5.15.0", false, Status::Ok, "the host's must do"),
            ("6.1.0", true, Status::Ok, "the host's must do"),
            ("6.7.0", true, Status::Ok, ""),
        ] {
            let finding = kernel(release, true, works);
            assert_eq!(finding.status, status, "{release}");
            assert!(
                finding.why.unwrap_or_default().contains(text),
                "{release}: {text}"
            );
        }
        assert_eq!(kernel("5.15.0", false, true).why, None);
    }
}
