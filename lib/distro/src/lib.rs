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
//! * the architectures are those the file names, or all of the base's where it names none. In each, `architecture`
//!   and `repos` are the base's unless given, and the order of `repos` is the order in the pacman.conf. A repository
//!   has the servers of its own table, else the `servers` of the architecture in the file, else what the base has
//!   for it. `add` adds repositories, each `before` or `after` another one, or last. `from` makes an architecture of
//!   another one of the base.
//!
//! # Overlays
//!
//! A preset that has `add` can be laid over any other ([`Preset::with_overlays`], or a list in `extends`, the distribution
//! first): what it adds is taken, and what it extends is not.
//!
//! Each preset that brings repositories of its own is a [`Publisher`], whose keys are for these repositories and no others,
//! unless it says so (`vouches_for`). A file without repositories of its own adds its keys to the distribution's.
//!
//! A preset with no `[pacman]` anywhere gets archlinuxcn's, which is the one that builds pacman-static.

mod builtin;
/// What a value may look like: also for what tools take on their command lines.
pub mod check;
mod file;
mod lay;

pub use lay::position;

use file::File;
use lay::Layer;
use serde::Deserialize;
use stage::members::Overlays;
use stage::message::meant;
use stage::{Code, Document, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    /// How trust in its packages begins: that of all publishers.
    pub keyring: Keyring,
    /// Whose its repositories are: first the distribution, then what is laid over it, in order.
    pub publishers: Vec<Publisher>,
    /// The day on which somebody saw that it works, online.
    pub seen_online: Option<String>,
    /// Where a static pacman for the host comes from.
    pub pacman: Source,
    arches: BTreeMap<String, Arch>,
    reference: String,
    overlays: Vec<String>,
}

/// Who publishes repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The name of the preset.
    pub name: String,
    /// By which keys.
    pub keyring: Keyring,
}

/// A built-in preset, for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// The architectures of the distribution.
    pub arches: Vec<String>,
    /// The architectures that it can be laid over another preset for.
    pub overlay: Vec<String>,
    /// The day on which somebody saw that it works, online.
    pub seen_online: Option<String>,
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
    /// The repositories of others that these keys may sign packages of; `*` is all.
    #[serde(deserialize_with = "file::list::<file::RepoOrAll, _>")]
    pub vouches_for: Vec<String>,
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
    /// The machine of uname(2), where the preset says it.
    pub machine: Option<String>,
    /// What the processor must have: flags of /proc/cpuinfo.
    pub cpu: Vec<String>,
    /// The architecture of its base that it was made of.
    pub from: Option<String>,
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
    /// Its own `SigLevel`, where it is not that of `[options]`; of its `Never` and `Optional` see
    /// [`check::repo_siglevel`].
    #[serde(default, deserialize_with = "file::maybe::<file::SigLevel, _>")]
    pub siglevel: Option<String>,
    /// Where its past is: a server with `%Y`, `%m` and `%d` for the day. None where nobody keeps it.
    #[serde(default, deserialize_with = "file::maybe::<file::Snapshot, _>")]
    pub snapshot: Option<String>,
    /// Of what `add` adds: the repository that it comes before.
    #[serde(default, deserialize_with = "file::maybe::<file::RepoName, _>")]
    pub before: Option<String>,
    /// Of what `add` adds: the repository that it comes after.
    #[serde(default, deserialize_with = "file::maybe::<file::RepoName, _>")]
    pub after: Option<String>,
    /// The name of its publisher.
    #[serde(skip)]
    pub publisher: String,
}

impl Repo {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            servers: Vec::new(),
            siglevel: None,
            snapshot: None,
            before: None,
            after: None,
            publisher: String::new(),
        }
    }
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

/// A preset that was found and not parsed yet.
struct Found {
    /// What messages call it.
    label: String,
    /// What finds it again from any directory.
    reference: String,
    text: String,
    /// The directory of the file.
    beside: Option<PathBuf>,
}

impl Preset {
    /// Read the preset of that name, or the file where the value has a `/` in it or ends in `.toml`.
    ///
    /// # Errors
    /// No such preset; a file that cannot be read; a file that is not a preset, with its line and key.
    pub fn load(name_or_path: &str) -> Result<Self, Failure> {
        Self::merge(&Found::find(name_or_path, None)?, 0)
    }

    /// Read a preset, and lay others over it, in order.
    ///
    /// # Errors
    /// As [`Preset::load`]; one that adds nothing, or nothing for an architecture that the others have; two that add a
    /// repository of the same name.
    pub fn with_overlays(name_or_path: &str, overlays: &[String]) -> Result<Self, Failure> {
        let base = Self::load(name_or_path);
        overlays.iter().fold(base, |base, overlay| base?.lay(&Found::find(overlay, None)?))
    }

    /// Read the preset that a document names, with the overlays that it names.
    ///
    /// # Errors
    /// As [`Preset::with_overlays`].
    pub fn of(document: &Document) -> Result<Option<Self>, Failure> {
        let overlays: Overlays = document.get().unwrap_or_default();
        document.distro().map(|distro| Self::with_overlays(distro, &overlays.0)).transpose()
    }

    /// What finds a preset again from any directory: its name, or the file's absolute path.
    ///
    /// # Errors
    /// There is none of that name, or no such file.
    pub fn resolve(name_or_path: &str) -> Result<String, Failure> {
        Found::find(name_or_path, None).map(|found| found.reference)
    }

    /// Read a preset from its text; `label` is what messages call it. What it extends is built in, or beside the
    /// working directory.
    ///
    /// # Errors
    /// As [`Preset::load`].
    pub fn parse(label: &str, text: &str) -> Result<Self, Failure> {
        let found = Found { label: label.to_owned(), reference: label.to_owned(), text: text.to_owned(), beside: None };
        Self::merge(&found, 0)
    }

    /// The names of the presets that are built in, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        builtin::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The presets that are built in, in order.
    ///
    /// # Errors
    /// When one cannot be parsed.
    pub fn summaries() -> Result<Vec<Summary>, Failure> {
        let summary = |(name, text): &(&str, &str)| {
            let file = File::parse(name, text)?;
            let overlay = file.arch.iter().filter(|(_, arch)| !arch.add.is_empty()).map(|(name, _)| name.0.clone());
            let overlay = overlay.collect();
            let arches = match file.is_overlay() {
                true => Vec::new(),
                false => Self::load(name)?.arches.into_keys().collect(),
            };
            Ok(Summary { name: file.name, title: file.title, arches, overlay, seen_online: file.seen_online })
        };
        builtin::PRESETS.iter().map(summary).collect()
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

    /// What [`Preset::with_overlays`] takes beside it.
    #[must_use]
    pub fn overlays(&self) -> &[String] {
        &self.overlays
    }

    /// Load what a file extends: the first, with the others laid over it.
    fn base(found: &Found, extends: &[String], depth: usize) -> Result<Option<Self>, Failure> {
        let Some((first, overlays)) = extends.split_first() else {
            return Ok(None);
        };
        if depth == DEEPEST {
            return Err(found.wrong("extends", "it extends itself, or too many others"));
        }
        let beside = found.beside.as_deref();
        let base = Found::find(first, beside).and_then(|first| Self::merge(&first, depth + 1));
        let base = overlays.iter().fold(base, |base, overlay| base?.lay(&Found::find(overlay, beside)?));
        base.map(Some).map_err(|failure| match failure.code {
            Code::Failed => failure,
            _ => Failure { message: found.wrong("extends", &failure.message).message, ..failure },
        })
    }

    /// Parse one file and lay it over what it extends.
    fn merge(found: &Found, depth: usize) -> Result<Self, Failure> {
        let file = File::parse(&found.label, &found.text)?;
        if file.is_overlay() {
            return Err(Failure::new(Code::Usage, format!("'{}' is an overlay, and no distribution", file.name))
                .hint(format!("lay it over one: --distro NAME --overlay {}", found.reference)));
        }
        // A mistake that only shows when everything is read is reported where the words in question stand.
        let wrong = |words: &str, what: String| found.wrong(words, &what);
        let base = Self::base(found, &file.extends.0, depth)?;
        let publisher = publisher_of(&file, base.as_ref().map_or(&[], |base| &base.publishers));
        let siglevel = file.siglevel.or_else(|| Some(base.as_ref()?.siglevel.clone()));
        let siglevel = siglevel.unwrap_or_else(|| SIGLEVEL.to_owned());
        check::strict_siglevel(None, &siglevel).map_err(|what| wrong("siglevel", what))?;
        check_pins(&file.keyring.trusted, &wrong)?;
        let pacman = match (file.pacman, &base) {
            (Some(own), _) => check_source(own, &wrong)?,
            (None, Some(base)) => base.pacman.clone(),
            (None, None) => usual_pacman()?,
        };
        let (publishers, under) = base.map_or_else(Default::default, |base| (base.publishers, base.arches));
        let layer = Layer { base: under, publisher: &publisher, snapshot: file.snapshot.as_ref() };
        let mut arches = BTreeMap::new();
        for (file::ArchName(name), own) in file.arch {
            // What is for laying over other distributions.
            if own.repos.is_none() && own.from.is_none() && !own.add.is_empty() && !layer.base.contains_key(&name) {
                continue;
            }
            let arch = layer.merge(&name, own).map_err(|what| wrong(&format!("[arch.{name}]"), what))?;
            arches.insert(name, arch);
        }
        if arches.is_empty() {
            arches = layer.base;
        }
        if arches.is_empty() {
            return Err(wrong("name", "there is no [arch.NAME] in it".to_owned()));
        }
        let mut preset = Self {
            name: file.name.clone(),
            title: file.title,
            siglevel,
            keyring: Keyring::default(),
            publishers,
            seen_online: file.seen_online,
            pacman,
            arches,
            reference: found.reference.clone(),
            overlays: Vec::new(),
        };
        preset.complete(Publisher { name: file.name, keyring: file.keyring }, &wrong)?;
        Ok(preset)
    }

    /// Lay the repositories and keys of another preset over this one.
    fn lay(mut self, found: &Found) -> Result<Self, Failure> {
        let file = File::parse(&found.label, &found.text)?;
        let wrong = |words: &str, what: String| found.wrong(words, &what);
        if file.arch.values().all(|arch| arch.add.is_empty()) {
            let message = format!("laying '{}' over '{}': it adds no repositories", file.name, self.name);
            return Err(Failure::new(Code::Usage, message)
                .hint("an overlay lists its own repositories in 'add' of [arch.NAME], and not in 'repos'"));
        }
        check_pins(&file.keyring.trusted, &wrong)?;
        let has = list(self.arches());
        let publisher = publisher_of(&file, &self.publishers);
        let base = std::mem::take(&mut self.arches);
        let layer = Layer { base, publisher: &publisher, snapshot: file.snapshot.as_ref() };
        if self.publishers.iter().any(|known| known.name == file.name) {
            let what = format!("laying '{}' over '{}': it is there already", file.name, self.name);
            return Err(Failure::new(Code::Usage, what).hint("name it once"));
        }
        let adds = list(file.arch.iter().filter(|(_, arch)| !arch.add.is_empty()).map(|(name, _)| name.0.as_str()));
        self.arches = layer.lay(file.arch).map_err(|(words, what)| wrong(&words, what))?;
        if self.arches.is_empty() {
            let message = format!("laying '{}' over '{}': it is for {adds}, which is for {has}", file.name, self.name);
            return Err(Failure::new(Code::Usage, message).hint("choose another overlay, or another distribution"));
        }
        self.overlays.push(found.reference.clone());
        self.title = format!("{} + {}", self.title, file.name);
        self.name = format!("{}+{}", self.name, file.name);
        self.complete(Publisher { name: file.name, keyring: file.keyring }, &wrong)?;
        Ok(self)
    }

    /// Add the publisher of what a file brought, and check what only shows when all is there.
    fn complete(&mut self, publisher: Publisher, wrong: &dyn Fn(&str, String) -> Failure) -> Result<(), Failure> {
        for arch in self.arches.values() {
            for repo in &arch.repos {
                if let Some(own) = &repo.siglevel {
                    let what = check::repo_siglevel(&self.siglevel, own);
                    let say = |what| {
                        let of_arch = format!("[arch.{}]", arch.name);
                        wrong(&of_arch, format!("repository '{}': {what}", repo.name))
                    };
                    what.map_err(say)?;
                }
            }
        }
        self.check_vouching(&publisher.keyring).map_err(|what| wrong("vouches_for", what))?;
        self.add_publisher(publisher).map_err(|what| wrong("name", what))?;
        self.keyring = Keyring::default();
        for publisher in &self.publishers {
            self.keyring.extend(publisher.keyring.clone());
        }
        Ok(())
    }
}

impl Found {
    /// Look for a preset: a built-in one, or a file, beside another where that is given.
    fn find(wanted: &str, beside: Option<&Path>) -> Result<Self, Failure> {
        if !wanted.contains('/') && !wanted.ends_with(".toml") {
            let Some(text) = builtin::find(wanted) else {
                let hint = format!(
                    "{}there are {}; a file is named with a / or .toml",
                    meant(wanted, &ELSEWHERE, Preset::names()),
                    list(Preset::names())
                );
                return Err(Failure::new(Code::NotFound, format!("there is no preset '{}'", wanted.escape_default()))
                    .hint(hint));
            };
            return Ok(Self {
                label: wanted.to_owned(),
                reference: wanted.to_owned(),
                text: text.to_owned(),
                beside: None,
            });
        }
        let path = beside.map_or_else(|| wanted.into(), |directory| directory.join(wanted));
        let label = path.to_string_lossy().into_owned();
        let doing = || format!("reading {}", quote(&path));
        let text = stage::file::read_text(&path).map_err(|failure| Failure { code: Code::Os, ..failure })?;
        let absolute = std::path::absolute(&path).doing(Code::Os, doing)?;
        let reference = absolute.to_str().ok_or("the path is not UTF-8");
        let reference = reference.doing(Code::Os, doing)?.to_owned();
        Ok(Self { label, reference, text, beside: path.parent().map(Path::to_owned) })
    }

    /// A mistake, with the line where these words stand.
    fn wrong(&self, words: &str, what: &str) -> Failure {
        file::malformed(&self.label, &self.text, self.text.rfind(words).unwrap_or(0), what)
    }
}

impl File {
    /// Whether it has nothing that a distribution could be made of.
    fn is_overlay(&self) -> bool {
        let mut arches = self.arch.values();
        self.extends.0.is_empty() && !self.arch.is_empty() && arches.all(|a| a.repos.is_none() && !a.add.is_empty())
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

/// Whose a file's own repositories are: one without keys of its own has them signed by the distribution.
fn publisher_of(file: &File, publishers: &[Publisher]) -> String {
    match publishers.first() {
        Some(first) if file.keyring == Keyring::default() => first.name.clone(),
        _ => file.name.clone(),
    }
}

/// Only the `[pacman]` of that preset is read: the preset itself extends one that comes here for its pacman.
fn usual_pacman() -> Result<Source, Failure> {
    let text = builtin::find(PACMAN_FROM).unwrap_or_default();
    let own = File::parse(PACMAN_FROM, text)?.pacman;
    own.ok_or_else(|| Failure::new(Code::Failed, format!("preset '{PACMAN_FROM}': no [pacman]")))
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
