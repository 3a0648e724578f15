//! One preset as it stands in its file, before it is merged with what it extends.
//!
//! Unknown keys are errors: a preset says who is trusted, and `fingerprnt` must not mean "nobody". Values are checked
//! as they are read, because only then does the parser know the line.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::{Error, check};

/// Types that are a string for everyone but the parser.
macro_rules! checked {
    ($($name:ident = $check:path;)*) => {$(
        #[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
        #[serde(try_from = "String")]
        pub(crate) struct $name(pub(crate) String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(value: String) -> Result<Self, String> {
                $check(&value)?;
                Ok(Self(value))
            }
        }
    )*};
}

checked! {
    ArchName = check::arch;
    Date = check::date;
    Fingerprint = check::fingerprint;
    Member = check::member;
    Name = check::name;
    RepoName = check::repo;
    SigLevel = check::siglevel;
    Snapshot = check::snapshot;
    Text = check::text;
    Url = check::url;
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) name: Name,
    pub(crate) title: Text,
    pub(crate) extends: Option<Text>,
    pub(crate) siglevel: Option<SigLevel>,
    pub(crate) snapshot: Option<Snapshot>,
    #[serde(default)]
    pub(crate) keyring: Keyring,
    #[serde(default)]
    pub(crate) arch: BTreeMap<ArchName, Arch>,
    pub(crate) pacman: Option<Source>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyring {
    #[serde(default)]
    pub(crate) packages: Vec<Name>,
    #[serde(default)]
    pub(crate) populate: Vec<Name>,
    #[serde(default)]
    pub(crate) trusted: Vec<Pin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) source: Text,
    pub(crate) date: Date,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arch {
    pub(crate) architecture: Option<Vec<ArchName>>,
    #[serde(default)]
    pub(crate) servers: Vec<Url>,
    pub(crate) repos: Option<Vec<Repo>>,
}

/// A repository: its name alone, or a table where it differs from the others.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) name: RepoName,
    pub(crate) servers: Vec<Url>,
    pub(crate) siglevel: Option<SigLevel>,
    pub(crate) snapshot: Option<Snapshot>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepoTable {
    name: RepoName,
    #[serde(default)]
    servers: Vec<Url>,
    siglevel: Option<SigLevel>,
    snapshot: Option<Snapshot>,
}

// By hand: an untagged enum would answer every mistake with "data did not match any variant".
impl<'de> Deserialize<'de> for Repo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Repo;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a repository, or a table with its name")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Repo, E> {
                let name = RepoName::try_from(value.to_owned()).map_err(E::custom)?;
                Ok(Repo {
                    name,
                    servers: Vec::new(),
                    siglevel: None,
                    snapshot: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Repo, A::Error> {
                let RepoTable {
                    name,
                    servers,
                    siglevel,
                    snapshot,
                } = RepoTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Repo {
                    name,
                    servers,
                    siglevel,
                    snapshot,
                })
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) repo: RepoName,
    pub(crate) package: Name,
    pub(crate) member: Member,
    #[serde(default)]
    pub(crate) arch: BTreeMap<ArchName, SourceArch>,
    #[serde(default)]
    pub(crate) trusted: Vec<Pin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceArch {
    pub(crate) servers: Vec<Url>,
}

impl File {
    /// Read one file; `label` is what messages call it.
    pub(crate) fn parse(label: &str, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            malformed(label, text, at, error.message())
        })
    }
}

/// "FILE line N: KEY: what is wrong", in one line.
pub(crate) fn malformed(label: &str, text: &str, at: usize, what: &str) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count();
    let lines: Vec<&str> = text.lines().collect();
    let what = what.trim().replace('\n', ", ");
    let key = lines
        .iter()
        .take(number + 1)
        .rev()
        .find_map(|line| key(line));
    // What a whole file lacks is no fault of its first line.
    let nowhere = at == 0 && what.starts_with("missing field");
    let key = match key {
        Some(key) if !nowhere && !what.contains(&format!("`{key}`")) => format!("{key}: "),
        _ => String::new(),
    };
    Error::malformed(format!("preset '{label}' line {}: {key}{what}", number + 1))
}

/// The key that a line sets, or the table that it opens.
fn key(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.starts_with('[') {
        return line.ends_with(']').then_some(line);
    }
    let key = line.split_once('=')?.0.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"".contains(c);
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}
