//! What is installed and what is offered, from pacman's own records in the root: the local database, and the databases of the
//! repositories that a configuration names.

use crate::run::Planned;
use package::localdb::{self, Reason};
use package::relations::Relations;
use package::{db, name};
use rootfs::Root;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;
use stage::members::Package;
use stage::{Code, Doing, Failure, message, quote};
use std::collections::{BTreeMap, HashSet};

/// The database of installed packages, below the root.
pub const LOCAL: &str = "var/lib/pacman/local";
/// The databases of the repositories, below the root.
pub(crate) const SYNC: &str = "var/lib/pacman/sync";

/// The longest record or database that is read: more than any distribution has.
const LIMIT: u64 = 256 << 20;

/// pacman's log, below the root.
pub(crate) const LOG: &str = "var/log/pacman.log";

/// The longest log that is read.
const LOG_LIMIT: u64 = 64 << 20;

/// Returns the text of pacman's log; an empty one where there is none.
///
/// # Errors
///
/// When it cannot be read.
pub fn log(root: &Root) -> Result<Vec<u8>, Failure> {
    let log = if_exists(root.read(LOG, LOG_LIMIT));
    Ok(log.doing(Code::Failed, || format!("reading {}", quote(root.path().join(LOG))))?.unwrap_or_default())
}

/// Returns what a system call returned; `None` where there is no such file.
///
/// # Errors
///
/// Every other error.
pub fn if_exists<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// An installed package, as the local database has it.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The package. Which archive it came from is not on record there, so that is left out.
    pub package: Package,
    /// The name of its directory in [`LOCAL`].
    pub record: String,
    /// When it was installed, in seconds since 1970.
    pub time: Option<u64>,
    /// The repository that it came from, where this pacman writes that down.
    pub repo: Option<String>,
    /// What it is to others.
    pub relations: Relations,
}

/// Returns the installed packages by name; none where there is no database yet. A record that cannot be parsed does not
/// hide the others: it is the second value.
///
/// # Errors
///
/// When the database cannot be read.
pub fn installed(root: &Root) -> Result<(Vec<Installed>, Option<Failure>), Failure> {
    let (mut packages, mut odd) = (Vec::new(), None);
    for record in names_in(root, LOCAL)? {
        let path = format!("{LOCAL}/{record}/desc");
        let doing = || format!("reading {}", quote(root.path().join(&path)));
        let text = match root.read(&path, LIMIT) {
            // `ALPM_DB_VERSION`, or what a pacman that was killed left behind.
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            text => text.doing(Code::Failed, doing)?,
        };
        let known = match localdb::desc(&text).doing(Code::Failed, doing) {
            Ok(known) => known,
            Err(failure) => {
                odd.get_or_insert(failure);
                continue;
            }
        };
        packages.push(Installed {
            package: Package {
                arch: known.arch.unwrap_or_else(|| "any".to_owned()),
                reason: Some(if known.reason == Reason::Explicit { "explicit" } else { "dependency" }.to_owned()),
                verified: known.validation.iter().any(|v| v == "pgp"),
                name: known.name,
                version: known.version,
                ..Package::default()
            },
            record,
            time: known.install_date,
            repo: known.repo,
            relations: known.relations,
        });
    }
    packages.sort_by(|a, b| a.package.name.cmp(&b.package.name));
    Ok((packages, odd))
}

/// What repositories offer, as their databases in the root say.
#[derive(Debug, Default)]
pub struct Offers {
    /// Repository and entry, in the order of the repositories.
    pub entries: Vec<(String, db::Entry)>,
    /// The entries that were left out, each with its database and the reason: text for a warning.
    pub odd: Vec<String>,
}

/// Returns what these repositories offer: those of a configuration, in its order, which is the order in which pacman looks
/// for a package. A database in the root that is of none of them is a left-over, and is not read.
///
/// # Errors
///
/// When a database cannot be read or parsed.
pub fn offered(root: &Root, repos: &[String]) -> Result<Offers, Failure> {
    read_offers(root, repos, |_| true)
}

/// Returns what these repositories offer of some packages, given by name and version. Of Arch's 15 000 that takes half as long as
/// [`offered`], and little memory.
///
/// # Errors
///
/// As [`offered`].
pub fn offered_of<'a>(
    root: &Root,
    repos: &[String],
    packages: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Offers, Failure> {
    let directories: HashSet<_> = packages.map(|(name, version)| db::directory(name, version).into_bytes()).collect();
    read_offers(root, repos, |directory| directories.contains(directory))
}

fn read_offers(root: &Root, repos: &[String], wanted: impl Fn(&[u8]) -> bool) -> Result<Offers, Failure> {
    let mut offers = Offers::default();
    for repo in repos.iter().filter(|repo| name::is_name(repo)) {
        let path = format!("{SYNC}/{repo}.db");
        let doing = || format!("reading {}", quote(root.path().join(&path)));
        let Some(bytes) = if_exists(root.read(&path, LIMIT)).doing(Code::Failed, doing)? else {
            continue;
        };
        let database = db::read_some(bytes.as_slice(), db::Limits::default(), &wanted).doing(Code::Failed, doing)?;
        let odd = database.odd.iter();
        offers.odd.extend(odd.map(|odd| format!("'{}.db': {odd}: it is left out", message::escape(repo))));
        let entries = database.entries.into_iter();
        offers.entries.extend(entries.map(|entry| (repo.clone(), entry)));
    }
    Ok(offers)
}

/// Entries of databases, to be found by what pacman prints of a package.
#[derive(Debug)]
pub(crate) struct Index<'a>(BTreeMap<[&'a str; 4], &'a db::Entry>);

impl<'a> Index<'a> {
    /// Returns the index of what repositories offer. Of entries that are alike, it has the first.
    pub(crate) fn of(entries: &'a [(String, db::Entry)]) -> Self {
        let mut index = BTreeMap::new();
        for (repo, entry) in entries {
            index.entry([repo, &entry.name, &entry.version, &entry.filename].map(String::as_str)).or_insert(entry);
        }
        Self(index)
    }

    /// Returns the entry of a package that pacman would install.
    pub(crate) fn find(&self, planned: &Planned) -> Option<&'a db::Entry> {
        let Planned { repo, name, version, file, .. } = planned;
        self.0.get(&[repo, name, version, file].map(String::as_str)).copied()
    }
}

/// Returns the names in a directory below the root; none where there is no such directory.
pub fn names_in(root: &Root, below: &str) -> Result<Vec<String>, Failure> {
    let doing = || format!("reading {}", quote(root.path().join(below)));
    let directory = if_exists(root.open_below(below, OFlags::RDONLY | OFlags::DIRECTORY)).doing(Code::Failed, doing)?;
    let mut names = Vec::new();
    let Some(directory) = directory else {
        return Ok(names);
    };
    for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
        let entry = entry.doing(Code::Os, doing)?;
        if let Ok(name) = entry.file_name().to_str()
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
