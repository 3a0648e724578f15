//! Where the packages of a transaction come from: pacman prints that before it installs, and the archives are hashed while it
//! installs.
//!
//! A name and a version do not say which archive was installed: two repositories may offer both, and one repository may build
//! the same version again. So pacman is asked, with the arguments that it is then run with, and what is recorded is the hash
//! of the file that lay in the cache from before pacman opened it until it had ended.

use crate::english::OutputEvent;
use crate::operation::Operation;
use crate::records::{self, Index};
use crate::run::{Pacman, Planned};
use package::db;
use package::digest::Sha256Reader;
use rootfs::Root;
use stage::{Failure, quote};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

/// The longest detached signature that is read, in bytes: gpg's have a few hundred.
const SIGNATURE: u64 = 1 << 20;

/// What a transaction may have installed, and from which archive. What could not be found out is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What pacman was going to install.
    pub planned: Planned,
    /// SHA-256 of its archive, in hex.
    pub sha256: Option<String>,
    /// The signature in the repository's database, in Base64: pacman uses it if there is one.
    pub offered: Option<String>,
    /// The signature beside the archive, in Base64.
    pub beside: Option<String>,
}

/// What pacman is to install from the cache.
#[derive(Debug)]
pub struct Transaction<'a> {
    /// The pacman that installs it.
    pub pacman: Pacman<'a>,
    /// How.
    pub operation: Operation<'a>,
    /// What pacman is given.
    pub targets: Vec<String>,
    /// The packages that these are.
    pub planned: Vec<Planned>,
}

impl Transaction<'_> {
    /// Has pacman install it, as [`Pacman::run`] does. Returns also what the archives are: of a transaction that failed too, as it
    /// may have installed some of them by then.
    pub fn install(&self) -> (Vec<Origin>, Result<Vec<OutputEvent>, Failure>) {
        let Self { pacman, operation, targets, planned } = self;
        // What is installed by path has no database that pacman would ask.
        let is_used = |repo: &&String| planned.iter().any(|planned| planned.repo == **repo);
        let repos = pacman.repos.iter().filter(is_used).filter(|_| operation.is_sync());
        let repos: Vec<String> = repos.cloned().collect();
        // What changes if a file is replaced, or written to.
        let stamp_of = |planned: &Planned| {
            let is = std::fs::metadata(pacman.cache.join(&planned.file)).ok()?;
            Some((is.dev(), is.ino(), is.len(), is.mtime(), is.mtime_nsec()))
        };
        let before: Vec<_> = planned.iter().map(stamp_of).collect();
        let (root, cache) = (pacman.inside.root(), pacman.cache);
        let traced = OnceLock::new();
        // Once: only a download is tried again.
        let trace = || drop(traced.set(trace(root, cache, &repos, planned)));
        let result = pacman.run_beside(*operation, targets, &trace);
        let (mut origins, warnings) = traced.into_inner().unwrap_or_default();
        for warning in warnings {
            pacman.context.warn(warning);
        }
        for (origin, before) in origins.iter_mut().zip(before) {
            // Another run that shares the cache may have put another build there meanwhile.
            if before.is_none() || stamp_of(&origin.planned) != before {
                (origin.sha256, origin.beside) = (None, None);
            }
        }
        (origins, result)
    }
}

/// Finds out what the archives are. Returns warnings, too.
fn trace(root: &Root, cache: &Path, repos: &[String], planned: &[Planned]) -> (Vec<Origin>, Vec<String>) {
    let mut warnings = Vec::new();
    let packages = planned.iter().map(|one| (one.name.as_str(), one.version.as_str()));
    let offers = records::offered_of(root, repos, packages).unwrap_or_else(|failure| {
        warnings.push(failure.to_string());
        records::Offers::default()
    });
    warnings.extend(offers.odd);
    let mut known = |path: &Path, result: io::Result<String>| {
        if let Err(e) = &result
            && e.kind() != ErrorKind::NotFound
        {
            warnings.push(format!("reading {}: {e}: it is left out of the record", quote(path)));
        }
        result.ok()
    };
    let index = Index::of(&offers.entries);
    let origins = planned.iter().map(|planned| {
        let offer = index.find(planned);
        let path = cache.join(&planned.file);
        let beside = cache.join(format!("{}.sig", planned.file));
        Origin {
            planned: planned.clone(),
            sha256: known(&path, sha256(&path)),
            offered: offer.and_then(|entry| entry.pgpsig.clone()),
            beside: known(&beside, signature(&beside)),
        }
    });
    (origins.collect(), warnings)
}

/// Returns the SHA-256 of a file, in lower-case hex. It ends early where a signal asks us to stop.
///
/// # Errors
///
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut reader = Sha256Reader::new(stage::file::open(path)?);
    reader.drain()?;
    Ok(reader.finish())
}

fn signature(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    stage::file::open(path)?.take(SIGNATURE).read_to_end(&mut bytes)?;
    Ok(db::encode_signature(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::SYNC;

    fn desc(name: &str, signature: &str) -> String {
        format!("%FILENAME%\n{name}-1-1-any.pkg.tar\n\n%NAME%\n{name}\n\n%VERSION%\n1-1\n\n%PGPSIG%\n{signature}\n")
    }

    fn database(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            let path = format!("{name}-1-1/desc");
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn an_origin_is_pacmans_repository_and_the_cached_file() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let sync = top.join("root").join(SYNC);
        std::fs::create_dir_all(&sync).unwrap();
        for (repo, signature) in [("a", "AAAA"), ("b", "BBBB"), ("left-over", "CCCC")] {
            let text = desc("x", signature);
            // Of one that is not installed nothing is said.
            let entries = [("x", text.as_str()), ("odd", ""), ("other", "")];
            std::fs::write(sync.join(format!("{repo}.db")), database(&entries)).unwrap();
        }
        std::fs::write(top.join("x-1-1-any.pkg.tar"), "abc").unwrap();
        std::fs::write(top.join("x-1-1-any.pkg.tar.sig"), "f").unwrap();
        let planned = |repo: &str, name: &str| Planned {
            repo: repo.into(),
            name: name.into(),
            version: "1-1".into(),
            file: format!("{name}-1-1-any.pkg.tar"),
            download: 0,
        };
        let root = Root::open(&top.join("root")).unwrap();
        let repos = ["a".to_owned(), "b".to_owned()];
        let list = ["b", "left-over"].map(|repo| planned(repo, "x"));
        let list = [list[0].clone(), list[1].clone(), planned("a", "odd")];
        let (origins, warnings) = trace(&root, &top, &repos, &list);
        assert_eq!(warnings.len(), 2, "{:?}", warnings);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let is: Vec<_> =
            origins.iter().map(|o| (o.sha256.as_deref(), o.offered.as_deref(), o.beside.as_deref())).collect();
        assert_eq!(is, [(Some(abc), Some("BBBB"), Some("Zg==")), (Some(abc), None, Some("Zg==")), (None, None, None),]);

        assert!(warnings[0].starts_with("'a.db': entry 'odd-1-1': no %NAME%"));
    }
}
