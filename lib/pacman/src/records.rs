//! What is installed and what is offered, from pacman's own records in the root: the local database says what and how it was validated, the repository
//! databases from which archive.

use package::localdb::Reason;
use package::{db, localdb};
use rootfs::Root;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;
use stage::members::Package;
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeMap;

/// The database of installed packages, below the root.
pub const LOCAL: &str = "var/lib/pacman/local";
const SYNC: &str = "var/lib/pacman/sync";

/// The longest record or database that is read: more than any distribution has.
const LIMIT: u64 = 256 << 20;

/// Returns the installed packages by name; none where there is no database yet.
///
/// # Errors
///
/// When a database cannot be read or makes no sense.
pub fn packages(root: &Root) -> Result<Vec<Package>, Failure> {
    let offered = offered(root)?;
    let mut by_name = BTreeMap::new();
    for (repo, entry) in &offered {
        let key = (entry.name.as_str(), entry.version.as_str());
        by_name.entry(key).or_insert((repo, entry));
    }
    let mut packages = Vec::new();
    for name in names_in(root, LOCAL)? {
        let path = format!("{LOCAL}/{name}/desc");
        let text = match root.read(&path, LIMIT) {
            Ok(text) => text,
            // `ALPM_DB_VERSION`, or what a pacman that was killed left behind.
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(e) => {
                return Err(e).doing(Code::Failed, || {
                    format!("reading {}", quote(root.path().join(path)))
                });
            }
        };
        let known = localdb::desc(&text).doing(Code::Failed, || {
            format!("reading {}", quote(root.path().join(path)))
        })?;
        let archive = by_name.get(&(known.name.as_str(), known.version.as_str()));
        packages.push(Package {
            arch: known.arch.unwrap_or_else(|| "any".to_owned()),
            repo: archive.map(|(repo, _)| (*repo).clone()),
            file: archive.map(|(_, entry)| entry.filename.clone()),
            sha256: archive.and_then(|(_, entry)| entry.sha256.clone()),
            pgpsig: archive.and_then(|(_, entry)| entry.pgpsig.clone()),
            reason: Some(match known.reason {
                Reason::Explicit => "explicit".to_owned(),
                Reason::Dependency => "dependency".to_owned(),
            }),
            verified: known.validation.iter().any(|v| v == "pgp"),
            name: known.name,
            version: known.version,
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

/// Returns what the repositories offer, as their databases in the root say: repository and entry.
///
/// # Errors
///
/// When a database cannot be read or makes no sense.
pub fn offered(root: &Root) -> Result<Vec<(String, db::Entry)>, Failure> {
    let mut offers = Vec::new();
    for file in names_in(root, SYNC)? {
        let Some(repo) = file.strip_suffix(".db") else {
            continue;
        };
        let path = format!("{SYNC}/{file}");
        let doing = || format!("reading {}", quote(root.path().join(&path)));
        let bytes = root.read(&path, LIMIT).doing(Code::Failed, doing)?;
        let entries =
            db::read(bytes.as_slice(), db::Limits::default()).doing(Code::Failed, doing)?;
        offers.extend(entries.into_iter().map(|entry| (repo.to_owned(), entry)));
    }
    Ok(offers)
}

/// Returns the names in a directory below the root; none where there is no such directory.
pub fn names_in(root: &Root, below: &str) -> Result<Vec<String>, Failure> {
    let doing = || format!("reading {}", quote(root.path().join(below)));
    let directory = match root.open_below(below, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e).doing(Code::Failed, doing),
    };
    let mut names = Vec::new();
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
