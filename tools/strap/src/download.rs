//! Downloads what a transaction needs.
//!
//! Two thirds of a pacman's time are gpg's, three processes a package, and the pacman that installs verifies each package
//! right before it is extracted. So the one that downloads verifies databases only. At such a level it downloads no signatures
//! (libalpm's sync.c, 6.0 to 7.1), and the one that installs would then fetch each package again. So they are downloaded as files of
//! a repository, by databases that name them.
//!
//! Where anything differs from that, a download that verifies decides. Where the cache has all packages, there is none.

use crate::database;
use package::db::Entry;
use pacman::conf::{Conf, Signatures, changed};
use pacman::operation::Refresh;
use pacman::scratch::Scratch;
use pacman::{Cached, Operation, Pacman, Planned};
use stage::{Code, Doing, Failure, quote};

/// A download of packages of the repositories.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub(crate) pacman: &'a Pacman<'a>,
    pub(crate) operation: Operation<'a>,
    /// What was in the cache before.
    pub(crate) before: Cached,
}

impl Download<'_> {
    /// Has pacman download and verify them.
    ///
    /// # Errors
    ///
    /// As [`Pacman::download`].
    pub(crate) fn verified(&self, targets: &[String]) -> Result<(), Failure> {
        self.pacman.download_since(&self.before, self.operation, targets).map(drop)
    }

    /// Returns whether it helps to download them again after this failure.
    pub(crate) fn helps_again(&self, failure: &Failure) -> bool {
        self.pacman.helps_again(failure, &self.before)
    }

    /// Asks pacman what they are.
    ///
    /// # Errors
    ///
    /// As [`Pacman::preview`].
    pub(crate) fn preview(&self, targets: &[String]) -> Result<Vec<Planned>, Failure> {
        self.pacman.preview(self.operation, targets)
    }

    /// Has pacman download them, and their signatures, and verify none. Returns what they are.
    ///
    /// # Errors
    ///
    /// As [`Pacman::download`].
    pub(crate) fn unverified(&self, targets: &[String]) -> Result<Vec<Planned>, Failure> {
        if self.pacman.verifies {
            let scratch = Scratch::of(self.pacman, "download")?;
            let done = self.quick(&scratch, targets);
            // The first failure is the one to report; what stays is removed by the next run.
            let cleared = scratch.clear();
            let done = done?;
            cleared?;
            if let Some(planned) = done {
                return Ok(planned);
            }
        }
        self.verified(targets)?;
        self.preview(targets)
    }

    /// Returns what is to be installed where the cache has all of it, or nothing is. A pacman that is to download it would only compare
    /// hashes, as the one that installs does. `None` where there is something to download.
    fn all_cached(&self, targets: &[String]) -> Result<Option<Vec<Planned>>, Failure> {
        // It costs a cold cache nothing.
        if !targets.iter().all(|target| is_likely_in(&self.before, target)) {
            return Ok(None);
        }
        if self.operation.refresh != Refresh::No {
            self.pacman.refresh()?;
        }
        // What pacman cannot do, the download reports.
        let Ok(planned) = self.pacman.resolve(self.operation, targets) else { return Ok(None) };
        let is_there = |planned: &Planned| planned.download == 0 && self.pacman.cache.join(&planned.file).is_file();
        Ok(planned.iter().all(is_there).then_some(planned))
    }

    /// Does that; `None` where it takes a download that verifies.
    fn quick(&self, scratch: &Scratch, targets: &[String]) -> Result<Option<Vec<Planned>>, Failure> {
        let pacman = self.pacman;
        let strict = stage::file::read_text(&pacman.config)?;
        let planned = match self.all_cached(targets)? {
            Some(planned) => planned,
            None => {
                let packages = changed(&strict, &[("SigLevel", &database::without_packages)]);
                scratch.make(&[("packages.conf".to_owned(), packages.into_bytes())])?;
                if !pacman.download_unverified(&scratch.path().join("packages.conf"), self.operation, targets)? {
                    return Ok(None);
                }
                self.preview(targets)?
            }
        };
        let conf = Conf::read(&pacman.config)?;
        let levels = planned.iter().map(|planned| conf.signatures(&planned.repo));
        // Which of them have a signature only a server knows.
        if levels.clone().any(|level| level == Signatures::Optional) {
            return Ok(None);
        }
        let signed = planned.iter().zip(levels).filter(|(_, level)| *level == Signatures::Required);
        let is_absent = |planned: &&Planned| !pacman.cache.join(format!("{}.sig", planned.file)).exists();
        let absent: Vec<&Planned> = signed.map(|(planned, _)| planned).filter(is_absent).collect();
        if absent.is_empty() {
            return Ok(Some(planned));
        }
        if pacman.offline {
            return Ok(None);
        }
        let path = |_: &str| format!("{}/", scratch.path().display());
        let signatures = changed(&strict, &[("DBPath", &path), ("SigLevel", &|_| "Never".to_owned())]);
        let mut files = vec![("signatures.conf".to_owned(), signatures.into_bytes())];
        for repo in &pacman.repos {
            let entries: Vec<Entry> =
                absent.iter().filter(|planned| planned.repo == *repo).map(|planned| signature(planned)).collect();
            let doing = || format!("making a database of {}", quote(repo));
            files.push((format!("sync/{repo}.db"), database::of(&entries).doing(Code::Os, doing)?));
        }
        scratch.make(&files)?;
        let targets: Vec<String> = absent.iter().map(|one| format!("{}/{}", one.repo, one.name)).collect();
        let done = pacman.download_quietly(&scratch.path().join("signatures.conf"), &targets)?;
        Ok(done.then_some(planned))
    }
}

/// Returns whether the cache has an archive that may be this target's.
fn is_likely_in(cached: &Cached, target: &str) -> bool {
    let name = target.rsplit('/').next().unwrap_or(target);
    cached.has_prefix(&format!("{name}-"))
}

/// Returns the entry of a database whose file is a package's signature.
fn signature(planned: &Planned) -> Entry {
    Entry {
        name: planned.name.clone(),
        version: planned.version.clone(),
        filename: format!("{}.sig", planned.file),
        // The most that pacman takes of a server, as for a signature of its own (libalpm's sync.c).
        csize: Some(16 << 10),
        ..Entry::default()
    }
}
