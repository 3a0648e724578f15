//! One preset as it stands in its file, before it is merged with what it extends.
//!
//! Unknown keys are errors: a preset says who is trusted, and `fingerprnt` must not mean "nobody". Values are checked
//! as they are read, because only then does the parser know the line.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{Keyring, Repo, Source, check};
use stage::{Code, Failure};

/// Strings that are checked where the parser knows the line.
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

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    )*};
}

checked! {
    ArchName = check::arch;
    Date = check::date;
    Fingerprint = check::fingerprint;
    Flag = check::flag;
    Machine = check::arch;
    Member = check::member;
    Name = check::name;
    RepoName = check::repo;
    RepoOrAll = check::repo_or_all;
    SigLevel = check::siglevel;
    Snapshot = check::snapshot;
    Text = check::text;
    Url = check::url;
}

/// Reads a checked value.
pub(crate) fn one<'de, C, D>(deserializer: D) -> Result<String, D::Error>
where
    C: Deserialize<'de> + Into<String>,
    D: Deserializer<'de>,
{
    C::deserialize(deserializer).map(Into::into)
}

/// Reads a checked value that may be absent.
pub(crate) fn maybe<'de, C, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    C: Deserialize<'de> + Into<String>,
    D: Deserializer<'de>,
{
    one::<C, D>(deserializer).map(Some)
}

/// Reads a list of checked values.
pub(crate) fn list<'de, C, D>(deserializer: D) -> Result<Vec<String>, D::Error>
where
    C: Deserialize<'de> + Into<String>,
    D: Deserializer<'de>,
{
    Vec::<C>::deserialize(deserializer).map(|list| list.into_iter().map(Into::into).collect())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(deserialize_with = "one::<Name, _>")]
    pub(crate) name: String,
    #[serde(deserialize_with = "one::<Text, _>")]
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) extends: OneOrMore,
    #[serde(default, deserialize_with = "maybe::<SigLevel, _>")]
    pub(crate) siglevel: Option<String>,
    #[serde(default, deserialize_with = "maybe::<Snapshot, _>")]
    pub(crate) snapshot: Option<String>,
    #[serde(default, deserialize_with = "maybe::<Date, _>")]
    pub(crate) seen_online: Option<String>,
    #[serde(default)]
    pub(crate) keyring: Keyring,
    #[serde(default)]
    pub(crate) arch: BTreeMap<ArchName, Arch>,
    pub(crate) pacman: Option<Source>,
}

/// What a preset extends: one name, or a list, the distribution first.
#[derive(Debug, Default)]
pub(crate) struct OneOrMore(pub(crate) Vec<String>);

// By hand, as NameOrRepo.
impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a preset, or a list of names")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Vec<String>, E> {
                check::text(value).map_err(E::custom)?;
                Ok(vec![value.to_owned()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Vec<String>, A::Error> {
                let mut list = Vec::new();
                while let Some(Text(name)) = names.next_element()? {
                    list.push(name);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(Names).map(Self)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arch {
    /// The architecture of the base that this one is made of.
    pub(crate) from: Option<ArchName>,
    pub(crate) architecture: Option<Vec<ArchName>>,
    pub(crate) machine: Option<Machine>,
    pub(crate) cpu: Option<Vec<Flag>>,
    #[serde(default, deserialize_with = "list::<Url, _>")]
    pub(crate) servers: Vec<String>,
    pub(crate) repos: Option<Vec<NameOrRepo>>,
    /// What is laid over the base's.
    #[serde(default)]
    pub(crate) add: Vec<NameOrRepo>,
}

/// A repository: its name alone, or a table where it differs from the others.
#[derive(Clone, Debug)]
pub(crate) struct NameOrRepo(pub(crate) Repo);

// By hand: an untagged enum would answer every mistake with "data did not match any variant".
impl<'de> Deserialize<'de> for NameOrRepo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Repo;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a repository, or a table with its name")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Repo, E> {
                check::repo(value).map_err(E::custom)?;
                Ok(Repo::named(value))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Repo, A::Error> {
                Repo::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(NameOrTable).map(Self)
    }
}

impl File {
    /// Read one file; `label` is what messages call it.
    pub(crate) fn parse(label: &str, text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            malformed(label, text, at, error.message())
        })
    }
}

/// "FILE line N: KEY: what is wrong", in one line.
pub(crate) fn malformed(label: &str, text: &str, at: usize, what: &str) -> Failure {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count();
    let lines: Vec<&str> = text.lines().collect();
    let what = what.trim().replace('\n', ", ");
    let key = lines.iter().take(number + 1).rev().find_map(|line| key(line));
    // What a whole file lacks is no fault of its first line.
    let nowhere = at == 0 && what.starts_with("missing field");
    let key = match key {
        Some(key) if !nowhere && !what.contains(&format!("`{key}`")) => format!("{key}: "),
        _ => String::new(),
    };
    Failure::new(Code::Failed, format!("preset '{label}' line {}: {key}{what}", number + 1))
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
