//! What a pacman.conf(5) that `mkconf` wrote says, as far as it is wanted here.

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

#[cfg(test)]
mod tests {
    use super::*;

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
