//! Paths and names as a document may have them: in their plainest form, so that nobody reads them in another way.

use std::path::{Component, Path};

/// Returns why `path` is not an absolute path in its plainest form.
///
/// # Errors
///
/// The reason, for a message.
pub fn plain_absolute(path: &str) -> Result<(), String> {
    if path == "/" {
        return Ok(());
    }
    match path.strip_prefix('/') {
        Some(below) => plain_below(below),
        None => Err("the path is not absolute".into()),
    }
}

/// Returns why `path` is not a relative path that stays below where it starts. The empty path is the start itself.
///
/// # Errors
///
/// The reason, for a message.
pub fn plain_below(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character".into());
    }
    let normal = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !normal || path.ends_with('/') || path.contains("//") || path.split('/').any(|c| c == ".") {
        return Err("the path is absolute where it must not be, or has '.', '..' or '//'".into());
    }
    Ok(())
}

/// Returns whether `text` names an entry of a directory, and not the way to another one.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && plain_below(text).is_ok()
}

/// Returns whether `text` is a word of letters, digits, `_` and `-`.
#[must_use]
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() < 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths() {
        for good in ["/", "/srv", "/srv/a b", "/srv/..a"] {
            assert_eq!(plain_absolute(good), Ok(()), "{good}");
        }
        for bad in ["", "srv", "/srv/..", "/..", "/srv//x", "/srv/.", "/srv/", "/a\u{7f}"] {
            assert!(plain_absolute(bad).is_err(), "{bad}");
        }
        assert_eq!(plain_below(""), Ok(()));
        for (name, good) in [("null", true), ("", false), (".", false), ("..", false)] {
            assert_eq!(is_name(name), good, "{name}");
        }
        assert!(!is_name("../null") && !is_name("pts/ptmx") && !is_name("/null"));
    }
}
