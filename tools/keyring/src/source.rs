//! Where the rings come from: the keyring package that is installed in the root, or else one that pacman downloads.

use crate::trust::Files;
use package::archive::extract_members;
use package::db::Entry;
use package::digest::Sha256Reader;
use package::version::vercmp;
use pacman::lock::{self, Purpose};
use pacman::run::DOWNLOAD;
use pacman::{Pacman, records};
use rootfs::{Inside, Root};
use rustix::io::Errno;
use stage::members::{self, Config};
use stage::{Code, Context, Document, Doing, Failure, quote};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

/// Where a keyring package puts its files.
const DIRECTORY: &str = "usr/share/pacman/keyrings";

/// The largest ring and archive that are read. Arch's ring has 1.5 MB, its package 1.2 MB.
const RING: u64 = 64 << 20;
const ARCHIVE: u64 = 256 << 20;

/// Reads the ring that is installed in the root; `None` where it is not.
///
/// # Errors
///
/// When it is there and cannot be read.
pub(crate) fn installed(root: &Root, name: &str) -> Result<Option<Files>, Failure> {
    let read = |end: &str| {
        let below = format!("{DIRECTORY}/{name}{end}");
        match root.read(&below, RING) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).doing(Code::Failed, || {
                format!("reading {}", quote(root.path().join(&below)))
            }),
        }
    };
    let Some(keys) = read(".gpg")? else {
        return Ok(None);
    };
    Ok(Some(Files {
        name: name.to_owned(),
        keys,
        trusted: read("-trusted")?,
        revoked: read("-revoked")?,
    }))
}

/// Downloads the keyring packages with pacman, and takes the rings out of them.
///
/// pacman runs without signatures here: there is no keyring yet to check one by. What the package brings is trusted no
/// further than the pinned fingerprints reach.
///
/// # Errors
///
/// When pacman fails, or a ring is in none of the packages.
pub(crate) fn download(
    context: &Context,
    document: &Document,
    inside: &Inside,
    packages: &[String],
    names: &[&str],
) -> Result<Vec<Files>, Failure> {
    let program: members::Pacman = document.need("pacman", "fetch-pacman")?;
    let config: Config = document.need("config", "mkconf")?;
    program.check()?;
    let pacman = Pacman {
        program: program.path,
        config: config.loose,
        strict: false,
    };
    let args = ["-Syw", "--noconfirm", "-dd"];
    let lock = lock::take(inside.root(), context, Purpose::Download)?;
    pacman.run(context, inside, DOWNLOAD, &args, packages)?;
    drop(lock);
    let offered = records::offered(inside.root())?;
    let entries: Vec<Entry> = offered.into_iter().map(|(_, entry)| entry).collect();
    let mut rings: Vec<Files> = Vec::new();
    for package in packages {
        let left: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| rings.iter().all(|r| r.name != *name))
            .collect();
        rings.extend(from_archive(&entries, &config.cache, package, &left)?);
    }
    for name in names {
        if rings.iter().all(|r| r.name != *name) {
            return Err(Failure::new(
                Code::NotFound,
                format!(
                    "looking for the ring '{name}': it is not in {}",
                    packages.join(", ")
                ),
            )
            .hint("name the package that has it with --package, or another ring with --populate"));
        }
    }
    Ok(rings)
}

/// Takes the rings out of a package in the cache. The package is the newest that a repository has; where pacman took
/// another, by the order of the repositories, the next one that is there.
fn from_archive(
    entries: &[Entry],
    cache: &Path,
    package: &str,
    names: &[&str],
) -> Result<Vec<Files>, Failure> {
    let mut offered: Vec<&Entry> = entries.iter().filter(|e| e.name == package).collect();
    offered.sort_by(|a, b| vercmp(&b.version, &a.version));
    for entry in offered {
        let path = cache.join(&entry.filename);
        let doing = || format!("reading {}", quote(&path));
        let mut file = match stage::file::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).doing(Code::Failed, doing),
        };
        if let Some(expected) = &entry.sha256 {
            let mut reader = Sha256Reader::new((&mut file).take(ARCHIVE));
            reader.drain().doing(Code::Os, doing)?;
            if reader.finish() != *expected {
                return Err(Failure::new(
                    Code::NotVerified,
                    format!("{}: its SHA-256 is not that of the database", doing()),
                )
                .hint("remove it from the cache and run again"));
            }
            file.rewind().doing(Code::Os, doing)?;
        }
        return extract(&mut file, names).doing(Code::Failed, doing);
    }
    Err(Failure::new(
        Code::NotFound,
        format!(
            "looking for the package '{package}' in {}: pacman did not put it there",
            quote(cache)
        ),
    ))
}

/// Takes the rings of these names out of an archive. Not every ring has every file.
fn extract(file: &mut File, names: &[&str]) -> Result<Vec<Files>, package::Error> {
    let path = |name: &str, end: &str| format!("{DIRECTORY}/{name}{end}");
    let mut wanted: Vec<String> = names
        .iter()
        .flat_map(|name| [".gpg", "-trusted", "-revoked"].map(|end| path(name, end)))
        .collect();
    let mut found = loop {
        let list: Vec<&str> = wanted.iter().map(String::as_str).collect();
        file.rewind().map_err(|source| package::Error::Read {
            doing: "reading package archive".into(),
            source,
        })?;
        match extract_members(BufReader::new((&mut *file).take(ARCHIVE)), &list, RING) {
            Err(package::Error::NotFound { members }) => wanted.retain(|w| !members.contains(w)),
            result => break result?,
        }
    };
    Ok(names
        .iter()
        .filter_map(|name| {
            Some(Files {
                name: (*name).to_owned(),
                keys: found.remove(&path(name, ".gpg"))?,
                trusted: found.remove(&path(name, "-trusted")),
                revoked: found.remove(&path(name, "-revoked")),
            })
        })
        .collect())
}
