//! What a pacman.conf(5) that `mkconf` wrote says, as far as it is wanted here.

use crate::fnmatch::matches;
use stage::Failure;
use std::path::{Path, PathBuf};

/// As much of it as is wanted here.
#[derive(Debug, PartialEq, Eq)]
pub struct Conf {
    /// `CacheDir`; none where it is left to pacman.
    pub cache: Option<PathBuf>,
    /// The repositories, in order.
    pub repos: Vec<String>,
}

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(config: &Path) -> Result<Self, Failure> {
        let text = stage::file::read_text(config)?;
        let value = |line: &str| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "CacheDir").then(|| PathBuf::from(value.trim()))
        };
        let section = |line: &str| {
            let name = line.trim().strip_prefix('[')?.strip_suffix(']')?;
            (name != "options").then(|| name.to_owned())
        };
        Ok(Self {
            cache: text.lines().find_map(value),
            repos: text.lines().filter_map(section).collect(),
        })
    }
}

/// The files that pacman is told not to extract: `NoExtract` of pacman.conf(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoExtract(Vec<String>);

impl NoExtract {
    /// Reads the patterns of a configuration.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "NoExtract").then_some(value)
        });
        let patterns = values.flat_map(str::split_whitespace).map(str::to_owned);
        Self(patterns.collect())
    }

    /// Returns whether that is not extracted: a path below the root, of a directory with a slash at its end. As in libalpm,
    /// the last pattern that matches decides, and `!` takes one back.
    #[must_use]
    pub fn has(&self, path: &[u8]) -> bool {
        let mut matched = false;
        for pattern in &self.0 {
            match pattern.strip_prefix('!') {
                Some(inverted) if matches(inverted.as_bytes(), path) => matched = false,
                None if matches(pattern.as_bytes(), path) => matched = true,
                _ => {}
            }
        }
        matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let text =
            "[options]\nNoExtract = usr/share/locale/* !usr/share/locale/de/*\nNoExtract=x\n";
        let patterns = NoExtract::of(text);
        for (path, is) in [
            ("usr/share/locale/fr/y", true),
            ("usr/share/locale/", true),
            ("usr/share/locale/de/y", false),
            ("x", true),
            ("xy", false),
        ] {
            assert_eq!(patterns.has(path.as_bytes()), is, "{path}");
        }
    }

    #[test]
    fn the_cache_and_the_repositories_are_the_configurations() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = b"[options]\n# CacheDir = /no\nCacheDir = /c d/\n[core]\nServer = x\n[extra]\n";
        std::io::Write::write_all(&mut file, text).unwrap();
        let expected = Conf {
            cache: Some("/c d/".into()),
            repos: vec!["core".into(), "extra".into()],
        };
        assert_eq!(Conf::read(file.path()).unwrap(), expected);
        let empty = tempfile::NamedTempFile::new().unwrap();
        let empty = Conf::read(empty.path()).unwrap();
        assert_eq!((empty.cache, empty.repos.len()), (None, 0));
    }
}
