//! What a pacman.conf(5) that `mkconf` wrote says, as far as it is needed here.

use crate::fnmatch::matches;
use stage::Failure;
use std::path::Path;

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The repositories, in order.
    pub repos: Vec<String>,
    /// The files that are not extracted.
    pub noextract: NoExtract,
}

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`stage::Code::NotFound`] where there is no such file; when it cannot be read.
    pub fn read(config: &Path) -> Result<Self, Failure> {
        let text = stage::file::read_text(config)?;
        let section = |line: &str| {
            let name = line.trim().strip_prefix('[')?.strip_suffix(']')?;
            (name != "options").then(|| name.to_owned())
        };
        Ok(Self { repos: text.lines().filter_map(section).collect(), noextract: NoExtract::of(&text) })
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
        let decide = |pattern: &String| {
            let inverted = pattern.strip_prefix('!');
            matches(inverted.unwrap_or(pattern).as_bytes(), path).then_some(inverted.is_none())
        };
        self.0.iter().rev().find_map(decide).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let text = "[options]\nNoExtract = usr/share/locale/* !usr/share/locale/de/*\nNoExtract=x\n";
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
    fn the_repositories_are_the_sections_but_the_options() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[options]\nNoExtract = x\n[core]\nServer = x\n[extra]\n").unwrap();
        let conf = Conf::read(file.path()).unwrap();
        assert_eq!(conf.repos, ["core", "extra"]);
        assert!(conf.noextract.has(b"x"));
    }
}
