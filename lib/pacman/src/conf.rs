//! What a pacman.conf(5) that `mkconf` wrote says, as far as it is needed here.

use crate::fnmatch::matches;
use stage::Failure;
use std::collections::BTreeMap;
use std::path::Path;

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The repositories, in order.
    pub repos: Vec<String>,
    /// The files that are not extracted.
    pub noextract: NoExtract,
    /// Whether packages must be signed: of all repositories, and of those that say so themselves.
    signatures: (Signatures, BTreeMap<String, Signatures>),
}

/// Whether packages must be signed: what `SigLevel` of pacman.conf(5) says of packages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signatures {
    /// Signatures are not asked for.
    Never,
    /// A signature that is there must be good. This is pacman's default.
    #[default]
    Optional,
    /// There must be a good one.
    Required,
}

impl Signatures {
    /// Returns what a level says where nothing was said before.
    #[must_use]
    pub fn of(level: &str) -> Self {
        Self::default().then(level)
    }

    /// Returns what a level makes of this one: of each word the last counts.
    fn then(self, level: &str) -> Self {
        let of = |is: Self, word: &str| match word.strip_prefix("Package").unwrap_or(word) {
            "Never" => Self::Never,
            "Optional" => Self::Optional,
            "Required" => Self::Required,
            _ => is,
        };
        level.split_whitespace().fold(self, of)
    }
}

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`stage::Code::NotFound`] where there is no such file; when it cannot be read.
    pub fn read(config: &Path) -> Result<Self, Failure> {
        let text = stage::file::read_text(config)?;
        let mut conf = Self { noextract: NoExtract::of(&text), ..Self::default() };
        let mut section = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = (name != "options").then(|| name.to_owned());
                conf.repos.extend(section.clone());
            }
            let Some(("SigLevel", level)) = line.split_once('=').map(|(key, value)| (key.trim(), value)) else {
                continue;
            };
            let (all, own) = &mut conf.signatures;
            match &section {
                None => *all = all.then(level),
                Some(repo) => {
                    let before = own.get(repo).copied().unwrap_or(*all);
                    own.insert(repo.clone(), before.then(level));
                }
            }
        }
        Ok(conf)
    }

    /// Returns whether the packages of a repository must be signed.
    #[must_use]
    pub fn signatures(&self, repo: &str) -> Signatures {
        let (all, own) = &self.signatures;
        own.get(repo).copied().unwrap_or(*all)
    }
}

/// A key of pacman.conf(5), and what its value becomes.
pub type Change<'a> = (&'a str, &'a dyn Fn(&str) -> String);

/// Returns a strict configuration of mkconf with other values for some of its keys, in all of its sections.
#[must_use]
pub fn changed(strict: &str, values: &[Change<'_>]) -> String {
    let change = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        match values.iter().find(|(changed, _)| *changed == key.trim()) {
            Some((key, of)) => format!("{key} = {}\n", of(value.trim())),
            None => format!("{line}\n"),
        }
    };
    strict.lines().map(change).collect()
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

    #[test]
    fn a_repository_has_a_level_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[options]\nSigLevel = Required DatabaseOptional\nLocalFileSigLevel = Never\n[core]\nServer = x\n\
                    [own]\nSigLevel = PackageNever\n[other]\nSigLevel = Optional TrustAll\n[signed]\nSigLevel=DatabaseNever\n";
        std::fs::write(file.path(), text).unwrap();
        let conf = Conf::read(file.path()).unwrap();
        let levels = ["core", "own", "other", "signed"].map(|repo| conf.signatures(repo));
        assert_eq!(levels, [Signatures::Required, Signatures::Never, Signatures::Optional, Signatures::Required]);
        assert_eq!(Conf::default().signatures("core"), Signatures::Optional);
    }
}
