//! The alphabets of what becomes a file name, an argument or part of a URL.
//!
//! PKGBUILD(5): a package name is made of alphanumerics and any of `@ . _ + -`, and does not start
//! with a hyphen or a dot. libalpm does not check again, so a hostile database could name `../../x`
//! or `--help`.
//!
//! Versions and file names are wider than what makepkg makes: repositories have versions such as `.1-1`
//! or `1é-1`, which pacman 6.0 to 7.1 install. What they may not have is what leads to another
//! directory, drives a terminal or ends a word.

/// The longest name that a file system takes.
const LONGEST: usize = 255;

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.starts_with(['-', '.'])
}

/// Returns whether that is a package name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    is_file_name(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-".contains(&b))
}

/// Returns whether `c` can stand in a word on a terminal: no space, no control character, nothing that
/// changes the order in which others are read.
fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || !c.is_ascii() && !c.is_whitespace() && c.escape_debug().count() == 1
}

/// Returns whether that is a full version, `[epoch:]pkgver[-pkgrel]`.
#[must_use]
pub fn is_version(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.chars().all(|c| is_visible(c) && c != '/')
}

/// Returns whether that is an architecture, such as `any` or `x86_64_v3`.
#[must_use]
pub fn is_arch(text: &str) -> bool {
    is_file_name(text) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Returns whether that is the name of a file in a mirror's directory: one component, not hidden,
/// not to be taken for an option.
#[must_use]
pub fn is_filename(text: &str) -> bool {
    is_file_name(text) && text.chars().all(|c| is_visible(c) && !"/\\".contains(c))
}

/// How a package file may end (makepkg.conf(5), `PKGEXT`), after `.pkg.tar`.
const COMPRESSIONS: [&str; 10] = ["", ".gz", ".bz2", ".xz", ".zst", ".lrz", ".lzo", ".lz4", ".lz", ".Z"];

/// Returns whether that is the name of a package file, `NAME.pkg.tar.zst`.
#[must_use]
pub fn is_package_file(text: &str) -> bool {
    let end = text.rsplit_once(".pkg.tar").map(|(_, end)| end);
    is_filename(text) && end.is_some_and(|end| COMPRESSIONS.contains(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["bash", "gtk2+extra", "lib32-glibc", "r8168", "a@b_c.d", "R"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "-bash", ".bash", "a/b", "..", "a b", "a\n", "a\u{1b}", "ä", "a:b", "a'b", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn versions() {
        for good in ["5.2.15-2", "1:1.0.r3.gabc+1-1", "2~rc1-1", "20240419-2", "1", ".1-1", "1\u{e9}-1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1/2", "1 2", "1\t", "1\u{7f}", "1\u{202e}", "1\u{a0}", "1\u{9b}"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn arches() {
        for good in ["any", "x86_64", "aarch64", "x86_64_v3"] {
            assert!(is_arch(good), "{good}");
        }
        for bad in ["", "a b", "../x", "a/b", "-x"] {
            assert!(!is_arch(bad), "{bad}");
        }
    }

    #[test]
    fn filenames() {
        for good in ["bash-5.2.15-2-aarch64.pkg.tar.xz", "x-1:2-1-any.pkg.tar.zst", "x-1\u{e9}-1-any.pkg.tar.zst"] {
            assert!(is_filename(good), "{good}");
        }
        for bad in ["", ".x", "..", "a/b", "/a", "-o", "a\nb", "a\u{0}b", "a b", "a\\b"] {
            assert!(!is_filename(bad), "{bad}");
        }
    }

    #[test]
    fn package_files() {
        for (name, is) in [("a.pkg.tar", true), ("a.pkg.tar.zst", true), ("a.pkg.tar.zst.sig", false), ("a.zst", false)]
        {
            assert_eq!(is_package_file(name), is, "{name}");
        }
        assert!(!is_package_file(".a.pkg.tar.zst"));
    }
}
