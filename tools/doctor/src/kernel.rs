//! The kernel's version, and what follows from it.

use crate::finding::Finding;

/// Returns the first two numbers of a version.
pub(crate) fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// The system calls that entering a root makes, and the version that introduced each.
#[rustfmt::skip]
const NEEDED: [((u32, u32), &str); 3] = [
    ((5, 2), "the mount calls fsopen(2), open_tree(2) and move_mount(2)"),
    ((5, 6), "openat2(2)"),
    ((5, 12), "mount_setattr(2)"),
];

/// The version that introduced a binfmt_misc table for each user namespace.
pub(crate) const PRIVATE_TABLE: (u32, u32) = (6, 7);

/// Checks the version. `works` says that a root could be entered: a distribution may have backported what its version lacks.
pub(crate) fn kernel(release: &str, foreign: bool, works: bool) -> Finding {
    let have = version(release);
    let found = format!("Linux {release}");
    match NEEDED.iter().find(|(since, _)| have < *since) {
        Some(((major, minor), _)) if works => {
            Finding::ok(format!("{found}, which has the system calls of Linux {major}.{minor}"))
        }
        Some(((major, minor), call)) => Finding::fail(found)
            .why(format!(
                "entering a root needs {call}, new in Linux {major}.{minor}; Linux 5.12 has all that is needed"
            ))
            .fix("install a newer kernel of this distribution and boot it, or use a newer host"),
        None if foreign && have < PRIVATE_TABLE => Finding::ok(format!("{found}, without private binfmt_misc tables"))
            .why("foreign programs need the host's handler; since Linux 6.7 a private one will do"),
        None => Finding::ok(found),
    }
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
            ("5.15.0", false, Status::Ok, "the host's handler"),
            ("6.1.0", true, Status::Ok, "the host's handler"),
            ("6.7.0", true, Status::Ok, ""),
        ] {
            let finding = kernel(release, true, works);
            assert_eq!(finding.status, status, "{release}");
            assert!(finding.why.unwrap_or_default().contains(text), "{release}: {text}");
        }
        assert_eq!(kernel("5.15.0", false, true).why, None);
    }
}
