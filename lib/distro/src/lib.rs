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

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use file::File;

/// What every distribution of the family can bear, in full: see `check::strict_siglevel`.
pub const SIGLEVEL: &str = "Required DatabaseOptional";

/// Where a [`Preset`] with no `[pacman]` of its own takes it from.
const PACMAN_FROM: &str = "archlinuxcn";

/// More than anyone needs; a preset that extends itself must end.
const DEEPEST: usize = 8;

/// The longest preset that is read, in bytes; the longest of ours has some thousands.
const LONGEST: u64 = 1 << 20;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// The packages that bring the keys.
    pub packages: Vec<String>,
    /// What `pacman-key --populate` takes: the names of the files in `usr/share/pacman/keyrings`.
    pub populate: Vec<String>,
    /// The keys that may give trust. Empty where none is known: then the user has to name one.
    pub trusted: Vec<Pin>,
}

/// A key that is trusted because it is written here, not because a mirror says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// 40 hexadecimal digits, upper case.
    pub fingerprint: String,
    /// Where it was read.
    pub source: String,
    /// The day of that list: when it was published or, where that is not known, read.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Its name, which is also its section.
    pub name: String,
    /// Where it is, best first; never empty. `$repo` and `$arch` are pacman's.
    pub servers: Vec<String>,
    /// Its own `SigLevel`, where it is not that of `[options]`; always strict.
    pub siglevel: Option<String>,
    /// Where its past is: a server with `%Y`, `%m` and `%d` for the day. None where nobody keeps it.
    pub snapshot: Option<String>,
}

/// Where a static pacman comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The repository's name, which is also that of its database.
    pub repo: String,
    /// The package's exact name.
    pub package: String,
    /// The one file of it that is needed.
    pub member: String,
    /// The keys that may have signed the package.
    pub trusted: Vec<Pin>,
    servers: BTreeMap<String, Vec<String>>,
}

/// Why there is no preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of mistake it is.
    pub kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// What kind of mistake an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such preset, or no such architecture in it.
    Unknown,
    /// The file could not be read.
    Unreadable,
    /// The file does not say what a preset has to say.
    Malformed,
}

impl Error {
    pub(crate) fn malformed(message: String) -> Self {
        Self {
            kind: ErrorKind::Malformed,
            message,
            hint: None,
        }
    }

    fn unknown(message: String, hint: String) -> Self {
        Self {
            kind: ErrorKind::Unknown,
            message,
            hint: Some(hint),
        }
    }

    /// What the reader can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Preset {
    /// Read the preset of that name, or the file where the value has a `/` in it or ends in `.toml`.
    ///
    /// # Errors
    /// No such preset; a file that cannot be read; a file that is not a preset, with its line and key.
    pub fn load(name_or_path: &str) -> Result<Self, Error> {
        Self::load_at(name_or_path, None, 0)
    }

    /// Read a preset from its text; `label` is what messages call it. What it extends is built in, or beside the
    /// working directory.
    ///
    /// # Errors
    /// As [`Preset::load`].
    pub fn parse(label: &str, text: &str) -> Result<Self, Error> {
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
    pub fn arch(&self, arch: &str) -> Result<&Arch, Error> {
        self.arches.get(arch).ok_or_else(|| {
            Error::unknown(
                format!(
                    "{} has no architecture '{}'",
                    self.title,
                    arch.escape_default()
                ),
                format!("it has {}", list(self.arches())),
            )
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

    fn load_at(wanted: &str, beside: Option<&Path>, depth: usize) -> Result<Self, Error> {
        if !wanted.contains('/') && !wanted.ends_with(".toml") {
            let Some(text) = builtin::find(wanted) else {
                return Err(Error::unknown(
                    format!("there is no preset '{}'", wanted.escape_default()),
                    format!(
                        "there are {}; a file is named with a / or .toml",
                        list(Self::names())
                    ),
                ));
            };
            return Self::merge(wanted, wanted.to_owned(), text, None, depth);
        }
        let path = beside.map_or_else(|| wanted.into(), |directory| directory.join(wanted));
        let label = path.to_string_lossy();
        let unreadable = |error: &dyn fmt::Display| Error {
            kind: ErrorKind::Unreadable,
            message: format!("reading preset '{}': {error}", label.escape_default()),
            hint: None,
        };
        let text = read(&path).map_err(|error| unreadable(&error))?;
        let absolute = std::path::absolute(&path).map_err(|error| unreadable(&error))?;
        let reference = absolute
            .to_str()
            .ok_or_else(|| unreadable(&"the path is not UTF-8"))?
            .to_owned();
        Self::merge(&label, reference, &text, path.parent(), depth)
    }

    /// Parse one file and lay it over what it extends.
    fn merge(
        label: &str,
        reference: String,
        text: &str,
        beside: Option<&Path>,
        depth: usize,
    ) -> Result<Self, Error> {
        let file = File::parse(label, text)?;
        // A mistake that only shows when everything is read is reported where the words in question stand.
        let wrong = |words: &str, what: String| {
            let at = text.rfind(words).unwrap_or(0);
            file::malformed(label, text, at, &what)
        };
        let base = match &file.extends {
            None => None,
            Some(_) if depth == DEEPEST => {
                return Err(wrong(
                    "extends",
                    "it extends itself, or too many others".to_owned(),
                ));
            }
            Some(wanted) => {
                let base = Self::load_at(&wanted.0, beside, depth + 1);
                Some(base.map_err(|error| match error.kind {
                    ErrorKind::Malformed => error,
                    _ => Error {
                        message: wrong("extends", error.message).message,
                        ..error
                    },
                })?)
            }
        };

        let siglevel = match (&file.siglevel, &base) {
            (Some(own), _) => own.0.clone(),
            (None, Some(base)) => base.siglevel.clone(),
            (None, None) => SIGLEVEL.to_owned(),
        };
        check::strict_siglevel(None, &siglevel).map_err(|what| wrong("siglevel", what))?;

        let own = pins(file.keyring.trusted, &wrong)?;
        let mut keyring = base
            .as_ref()
            .map(|base| base.keyring.clone())
            .unwrap_or_default();
        extend(
            &mut keyring.packages,
            file.keyring.packages.into_iter().map(|name| name.0),
        );
        extend(
            &mut keyring.populate,
            file.keyring.populate.into_iter().map(|name| name.0),
        );
        for pin in own {
            if keyring
                .trusted
                .iter()
                .all(|known| known.fingerprint != pin.fingerprint)
            {
                keyring.trusted.push(pin);
            }
        }

        let pacman = match (file.pacman, &base) {
            (Some(own), _) => source(own, &wrong)?,
            (None, Some(base)) => base.pacman.clone(),
            (None, None) => usual_pacman()?,
        };

        let snapshot = file.snapshot.map(|snapshot| snapshot.0);
        let mut arches = BTreeMap::new();
        for (name, own) in file.arch {
            let under = base.as_ref().and_then(|base| base.arches.get(&name.0));
            let key = format!("[arch.{}]", name.0);
            let arch = merge_arch(name.0, own, under, snapshot.as_deref())
                .map_err(|what| wrong(&key, what))?;
            for repo in &arch.repos {
                if let Some(own) = &repo.siglevel {
                    check::strict_siglevel(Some(&siglevel), own).map_err(|what| {
                        wrong(&key, format!("repository '{}': {what}", repo.name))
                    })?;
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

        let (name, title) = (file.name.0, file.title.0);
        Ok(Self {
            name,
            title,
            siglevel,
            keyring,
            pacman,
            arches,
            reference,
        })
    }
}

impl Source {
    /// The servers that have it for hosts of one architecture, best first.
    ///
    /// # Errors
    /// It is not built for that architecture; the message lists those it is built for.
    pub fn servers(&self, arch: &str) -> Result<&[String], Error> {
        self.servers.get(arch).map(Vec::as_slice).ok_or_else(|| {
            Error::unknown(
                format!(
                    "'{}' of {} is not built for '{}'",
                    self.package,
                    self.repo,
                    arch.escape_default()
                ),
                format!(
                    "it is built for {}",
                    list(self.servers.keys().map(String::as_str))
                ),
            )
        })
    }
}

/// Read a preset's file. A document names it, too, so that it may be a fifo or a device: those never end.
fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, why);
    if !path.metadata()?.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(LONGEST + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(refuse(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

/// Only the `[pacman]` of that preset is read: the preset itself extends one that comes here for its pacman.
fn usual_pacman() -> Result<Source, Error> {
    let text = builtin::find(PACMAN_FROM).unwrap_or_default();
    let wrong = |_: &str, what: String| Error::malformed(format!("preset '{PACMAN_FROM}': {what}"));
    let own = File::parse(PACMAN_FROM, text)?.pacman;
    source(
        own.ok_or_else(|| wrong("", "there is no [pacman]".to_owned()))?,
        &wrong,
    )
}

fn merge_arch(
    name: String,
    own: file::Arch,
    base: Option<&Arch>,
    snapshot: Option<&str>,
) -> Result<Arch, String> {
    let architecture = match (own.architecture, base) {
        (Some(own), _) => own.into_iter().map(|name| name.0).collect(),
        (None, Some(base)) => base.architecture.clone(),
        (None, None) => vec![name.clone()],
    };
    if architecture.is_empty() {
        return Err("architecture is empty".to_owned());
    }
    let servers: Vec<String> = own.servers.into_iter().map(|url| url.0).collect();

    let Some(listed) = own.repos else {
        let mut repos = base
            .map(|base| base.repos.clone())
            .ok_or("repos is missing")?;
        for repo in repos.iter_mut().filter(|_| !servers.is_empty()) {
            repo.servers.clone_from(&servers);
        }
        return Ok(Arch {
            name,
            architecture,
            repos,
        });
    };
    let mut repos: Vec<Repo> = Vec::new();
    for repo in listed {
        let under = base.and_then(|base| base.repos.iter().find(|known| known.name == repo.name.0));
        let at: Vec<String> = if !repo.servers.is_empty() {
            repo.servers.into_iter().map(|url| url.0).collect()
        } else if !servers.is_empty() {
            servers.clone()
        } else {
            under.map(|under| under.servers.clone()).unwrap_or_default()
        };
        if at.is_empty() {
            return Err(format!("repository '{}' has no servers", repo.name.0));
        }
        if repos.iter().any(|known| known.name == repo.name.0) {
            return Err(format!("repository '{}' is listed twice", repo.name.0));
        }
        repos.push(Repo {
            name: repo.name.0,
            servers: at,
            siglevel: repo
                .siglevel
                .map(|own| own.0)
                .or_else(|| under.and_then(|under| under.siglevel.clone())),
            snapshot: repo
                .snapshot
                .map(|own| own.0)
                .or_else(|| snapshot.map(str::to_owned))
                .or_else(|| under.and_then(|under| under.snapshot.clone())),
        });
    }
    if repos.is_empty() {
        return Err("repos is empty".to_owned());
    }
    Ok(Arch {
        name,
        architecture,
        repos,
    })
}

fn source(own: file::Source, wrong: &dyn Fn(&str, String) -> Error) -> Result<Source, Error> {
    let mut servers = BTreeMap::new();
    for (arch, at) in own.arch {
        let at: Vec<String> = at.servers.into_iter().map(|url| url.0).collect();
        if at.is_empty() {
            return Err(wrong(
                &format!("[pacman.arch.{}]", arch.0),
                "servers is empty".to_owned(),
            ));
        }
        servers.insert(arch.0, at);
    }
    if servers.is_empty() {
        return Err(wrong(
            "[pacman]",
            "there is no [pacman.arch.NAME]".to_owned(),
        ));
    }
    Ok(Source {
        repo: own.repo.0,
        package: own.package.0,
        member: own.member.0,
        trusted: pins(own.trusted, wrong)?,
        servers,
    })
}

fn pins(listed: Vec<file::Pin>, wrong: &dyn Fn(&str, String) -> Error) -> Result<Vec<Pin>, Error> {
    let mut pins: Vec<Pin> = Vec::new();
    for pin in listed {
        let pin = Pin {
            fingerprint: pin.fingerprint.0,
            source: pin.source.0,
            date: pin.date.0,
        };
        if pins
            .iter()
            .any(|known| known.fingerprint == pin.fingerprint)
        {
            return Err(wrong(
                &pin.fingerprint,
                format!("{} is listed twice", pin.fingerprint),
            ));
        }
        pins.push(pin);
    }
    Ok(pins)
}

fn extend(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
