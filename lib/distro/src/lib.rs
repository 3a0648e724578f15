//! Presets read and merged: what a distribution is, as data.
//!
//! Mirrors move, keys rotate and ports come and go; programs should not have to. A preset is one TOML file that says
//! which architectures a distribution has, where its repositories are and in which order, which keys may give trust,
//! and where a pacman for the host comes from. [`Preset::load`] reads one, by its name or from a file, checks every
//! value, and fills in what it [extends](#merging), so that the tools only look things up.
//!
//! # Merging
//!
//! `extends = "archlinux"` (a built-in name, or a file beside this one) starts from another preset:
//!
//! * `siglevel`, `snapshot` and `[pacman]` are the base's unless given;
//! * `keyring` lists are the base's and then the file's own: trust is added to, never silently replaced;
//! * the architectures are those the file names, or all of the base's where it names none. In each, `architecture`
//!   and `repos` are the base's unless given, and the order of `repos` is the order in the pacman.conf. A repository
//!   has the servers of its own table, else the `servers` of the architecture in the file, else what the base has
//!   for it.
//!
//! A preset with no `[pacman]` anywhere gets archlinuxcn's, which is the one that builds pacman-static.

mod builtin;
/// What a value may look like: also for what tools take on their command lines.
pub mod check;
mod file;

use file::File;
use serde::Deserialize;
use stage::message::meant;
use stage::{Code, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What every distribution of the family can bear, in full: see `check::strict_siglevel`.
pub const SIGLEVEL: &str = "Required DatabaseOptional";

/// Where a [`Preset`] with no `[pacman]` of its own takes it from.
const PACMAN_FROM: &str = "archlinuxcn";

/// More than anyone needs; a preset that extends itself must end.
const DEEPEST: usize = 8;

/// A distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name: lower-case, safe in a path.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// The `SigLevel` of `[options]`, in full; always strict.
    pub siglevel: String,
    /// How trust in its packages begins.
    pub keyring: Keyring,
    /// Where a static pacman for the host comes from.
    pub pacman: Source,
    arches: BTreeMap<String, Arch>,
    reference: String,
}

/// How trust in a distribution's packages begins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Keyring {
    /// The packages that bring the keys.
    #[serde(deserialize_with = "file::list::<file::Name, _>")]
    pub packages: Vec<String>,
    /// What `pacman-key --populate` takes: the names of the files in `usr/share/pacman/keyrings`.
    #[serde(deserialize_with = "file::list::<file::Name, _>")]
    pub populate: Vec<String>,
    /// The keys that may give trust. Empty where none is known: then the user has to name one.
    pub trusted: Vec<Pin>,
}

/// A key that is trusted because it is written here, not because a mirror says so.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// 40 hexadecimal digits, upper case.
    #[serde(deserialize_with = "file::one::<file::Fingerprint, _>")]
    pub fingerprint: String,
    /// Where it was read.
    #[serde(deserialize_with = "file::one::<file::Text, _>")]
    pub source: String,
    /// The day of that list: when it was published or, where that is not known, read.
    #[serde(deserialize_with = "file::one::<file::Date, _>")]
    pub date: String,
}

/// A distribution on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arch {
    /// What it is called in the preset and in a document.
    pub name: String,
    /// What stands in `Architecture =`, in order: `$arch` in a URL is the first.
    pub architecture: Vec<String>,
    /// The repositories, in order: pacman takes a package from the first that has it.
    pub repos: Vec<Repo>,
}

/// A repository.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Repo {
    /// Its name, which is also its section.
    #[serde(deserialize_with = "file::one::<file::RepoName, _>")]
    pub name: String,
    /// Where it is, best first; never empty. `$repo` and `$arch` are pacman's.
    #[serde(default, deserialize_with = "file::list::<file::Url, _>")]
    pub servers: Vec<String>,
    /// Its own `SigLevel`, where it is not that of `[options]`; always strict.
    #[serde(default, deserialize_with = "file::maybe::<file::SigLevel, _>")]
    pub siglevel: Option<String>,
    /// Where its past is: a server with `%Y`, `%m` and `%d` for the day. None where nobody keeps it.
    #[serde(default, deserialize_with = "file::maybe::<file::Snapshot, _>")]
    pub snapshot: Option<String>,
}

/// Where a static pacman comes from.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The repository's name, which is also that of its database.
    #[serde(deserialize_with = "file::one::<file::RepoName, _>")]
    pub repo: String,
    /// The package's exact name.
    #[serde(deserialize_with = "file::one::<file::Name, _>")]
    pub package: String,
    /// The one file of it that is needed.
    #[serde(deserialize_with = "file::one::<file::Member, _>")]
    pub member: String,
    /// The keys that may have signed the package.
    #[serde(default)]
    pub trusted: Vec<Pin>,
    #[serde(default)]
    arch: BTreeMap<file::ArchName, SourceArch>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct SourceArch {
    #[serde(deserialize_with = "file::list::<file::Url, _>")]
    servers: Vec<String>,
}

/// What others call some of the presets.
const ELSEWHERE: [(&str, &str); 4] =
    [("alarm", "archlinuxarm"), ("archarm", "archlinuxarm"), ("arch", "archlinux"), ("arch32", "archlinux32")];

impl Preset {
    /// Read the preset of that name, or the file where the value has a `/` in it or ends in `.toml`.
    ///
    /// # Errors
    /// No such preset; a file that cannot be read; a file that is not a preset, with its line and key.
    pub fn load(name_or_path: &str) -> Result<Self, Failure> {
        Self::load_at(name_or_path, None, 0)
    }

    /// Read a preset from its text; `label` is what messages call it. What it extends is built in, or beside the
    /// working directory.
    ///
    /// # Errors
    /// As [`Preset::load`].
    pub fn parse(label: &str, text: &str) -> Result<Self, Failure> {
        Self::merge(label, label.to_owned(), text, None, 0)
    }

    /// The names of the presets that are built in, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        builtin::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The distribution on one architecture.
    ///
    /// # Errors
    /// It has no such architecture; the message lists those it has.
    pub fn arch(&self, arch: &str) -> Result<&Arch, Failure> {
        self.arches.get(arch).ok_or_else(|| {
            Failure::new(Code::NotFound, format!("{} has no architecture '{}'", self.title, arch.escape_default()))
                .hint(format!("it has {}", list(self.arches())))
        })
    }

    /// The names of the architectures it has, in order.
    pub fn arches(&self) -> impl Iterator<Item = &str> {
        self.arches.keys().map(String::as_str)
    }

    /// What [`Preset::load`] takes to find this preset again from any directory: its name, or the file's absolute
    /// path. It is what a document's `distro` holds.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn load_at(wanted: &str, beside: Option<&Path>, depth: usize) -> Result<Self, Failure> {
        if !wanted.contains('/') && !wanted.ends_with(".toml") {
            let Some(text) = builtin::find(wanted) else {
                let hint = format!(
                    "{}there are {}; a file is named with a / or .toml",
                    meant(wanted, &ELSEWHERE, Self::names()),
                    list(Self::names())
                );
                return Err(Failure::new(Code::NotFound, format!("there is no preset '{}'", wanted.escape_default()))
                    .hint(hint));
            };
            return Self::merge(wanted, wanted.to_owned(), text, None, depth);
        }
        let path = beside.map_or_else(|| wanted.into(), |directory| directory.join(wanted));
        let label = path.to_string_lossy();
        let doing = || format!("reading {}", quote(&path));
        let text = stage::file::read_text(&path).map_err(|failure| Failure { code: Code::Os, ..failure })?;
        let absolute = std::path::absolute(&path).doing(Code::Os, doing)?;
        let reference = absolute.to_str().ok_or("the path is not UTF-8");
        let reference = reference.doing(Code::Os, doing)?.to_owned();
        Self::merge(&label, reference, &text, path.parent(), depth)
    }

    /// Parse one file and lay it over what it extends.
    fn merge(label: &str, reference: String, text: &str, beside: Option<&Path>, depth: usize) -> Result<Self, Failure> {
        let file = File::parse(label, text)?;
        // A mistake that only shows when everything is read is reported where the words in question stand.
        let wrong = |words: &str, what: String| {
            let at = text.rfind(words).unwrap_or(0);
            file::malformed(label, text, at, &what)
        };
        let base = match &file.extends {
            None => None,
            Some(_) if depth == DEEPEST => {
                let what = "it extends itself, or too many others";
                return Err(wrong("extends", what.to_owned()));
            }
            Some(wanted) => {
                let base = Self::load_at(wanted, beside, depth + 1);
                Some(base.map_err(|failure| match failure.code {
                    Code::Failed => failure,
                    _ => Failure { message: wrong("extends", failure.message).message, ..failure },
                })?)
            }
        };
        let of_base = base.as_ref();

        let siglevel = file.siglevel.or_else(|| Some(of_base?.siglevel.clone()));
        let siglevel = siglevel.unwrap_or_else(|| SIGLEVEL.to_owned());
        check::strict_siglevel(None, &siglevel).map_err(|what| wrong("siglevel", what))?;

        check_pins(&file.keyring.trusted, &wrong)?;
        let mut keyring = of_base.map_or_else(Keyring::default, |base| base.keyring.clone());
        let same = |a: &Pin, b: &Pin| a.fingerprint == b.fingerprint;
        extend(&mut keyring.packages, file.keyring.packages, String::eq);
        extend(&mut keyring.populate, file.keyring.populate, String::eq);
        extend(&mut keyring.trusted, file.keyring.trusted, same);

        let pacman = match (file.pacman, of_base) {
            (Some(own), _) => check_source(own, &wrong)?,
            (None, Some(base)) => base.pacman.clone(),
            (None, None) => usual_pacman()?,
        };

        let mut arches = BTreeMap::new();
        for (name, own) in file.arch {
            let under = of_base.and_then(|base| base.arches.get(&name.0));
            let key = format!("[arch.{}]", name.0);
            let arch = merge_arch(name.0, own, under, file.snapshot.as_ref()).map_err(|what| wrong(&key, what))?;
            for repo in &arch.repos {
                if let Some(own) = &repo.siglevel {
                    check::strict_siglevel(Some(&siglevel), own)
                        .map_err(|what| wrong(&key, format!("repository '{}': {what}", repo.name)))?;
                }
            }
            arches.insert(arch.name.clone(), arch);
        }
        if arches.is_empty() {
            arches = base.map(|base| base.arches).unwrap_or_default();
        }
        if arches.is_empty() {
            return Err(wrong("name", "there is no [arch.NAME] in it".to_owned()));
        }

        Ok(Self { name: file.name, title: file.title, siglevel, keyring, pacman, arches, reference })
    }
}

impl Source {
    /// The servers that have it for hosts of one architecture, best first.
    ///
    /// # Errors
    /// It is not built for that architecture; the message lists those it is built for.
    pub fn servers(&self, arch: &str) -> Result<&[String], Failure> {
        let of_arch = self.arch.iter().find(|(name, _)| name.0 == arch);
        of_arch.map(|(_, at)| &at.servers[..]).ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                format!("'{}' of {} is not built for '{}'", self.package, self.repo, arch.escape_default()),
            )
            .hint(format!("it is built for {}", list(self.arch.keys().map(|name| name.0.as_str()))))
        })
    }
}

/// Only the `[pacman]` of that preset is read: the preset itself extends one that comes here for its pacman.
fn usual_pacman() -> Result<Source, Failure> {
    let text = builtin::find(PACMAN_FROM).unwrap_or_default();
    let own = File::parse(PACMAN_FROM, text)?.pacman;
    own.ok_or_else(|| Failure::new(Code::Failed, format!("preset '{PACMAN_FROM}': no [pacman]")))
}

fn merge_arch(name: String, own: file::Arch, base: Option<&Arch>, snapshot: Option<&String>) -> Result<Arch, String> {
    let architecture = match (own.architecture, base) {
        (Some(own), _) => own.into_iter().map(|name| name.0).collect(),
        (None, Some(base)) => base.architecture.clone(),
        (None, None) => vec![name.clone()],
    };
    if architecture.is_empty() {
        return Err("architecture is empty".to_owned());
    }
    let mut repos: Vec<Repo> = Vec::new();
    match own.repos {
        None => {
            repos.clone_from(&base.ok_or("repos is missing")?.repos);
            for repo in repos.iter_mut().filter(|_| !own.servers.is_empty()) {
                repo.servers.clone_from(&own.servers);
            }
        }
        Some(listed) => {
            for file::NameOrRepo(mut repo) in listed {
                let same = |known: &&Repo| known.name == repo.name;
                let under = base.and_then(|base| base.repos.iter().find(same));
                if repos.iter().any(|known| same(&known)) {
                    return Err(format!("repository '{}' is listed twice", repo.name));
                }
                if repo.servers.is_empty() {
                    repo.servers.clone_from(&own.servers);
                }
                if let Some(under) = under {
                    if repo.servers.is_empty() {
                        repo.servers.clone_from(&under.servers);
                    }
                    repo.siglevel = repo.siglevel.or_else(|| under.siglevel.clone());
                }
                let of_base = || under.and_then(|under| under.snapshot.as_ref());
                repo.snapshot = repo.snapshot.or_else(|| snapshot.or_else(of_base).cloned());
                if repo.servers.is_empty() {
                    return Err(format!("repository '{}' has no servers", repo.name));
                }
                repos.push(repo);
            }
        }
    }
    if repos.is_empty() {
        return Err("repos is empty".to_owned());
    }
    Ok(Arch { name, architecture, repos })
}

/// Checks what a `[pacman]` table must have.
fn check_source(own: Source, wrong: &dyn Fn(&str, String) -> Failure) -> Result<Source, Failure> {
    if own.arch.is_empty() {
        let what = "there is no [pacman.arch.NAME]".to_owned();
        return Err(wrong("[pacman]", what));
    }
    if let Some((arch, _)) = own.arch.iter().find(|(_, at)| at.servers.is_empty()) {
        let table = format!("[pacman.arch.{}]", arch.0);
        return Err(wrong(&table, "servers is empty".to_owned()));
    }
    check_pins(&own.trusted, wrong)?;
    Ok(own)
}

/// Checks that no key is listed twice.
fn check_pins(pins: &[Pin], wrong: &dyn Fn(&str, String) -> Failure) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    match pins.iter().find(|pin| !seen.insert(&pin.fingerprint)) {
        Some(Pin { fingerprint, .. }) => Err(wrong(fingerprint, format!("{fingerprint} is listed twice"))),
        None => Ok(()),
    }
}

/// Appends what is not in the list yet.
fn extend<T>(list: &mut Vec<T>, more: Vec<T>, same: fn(&T, &T) -> bool) {
    for one in more {
        if !list.iter().any(|known| same(known, &one)) {
            list.push(one);
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
