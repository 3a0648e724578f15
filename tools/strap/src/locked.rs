//! `--locked`: installs exactly what the document of a finished root says, or nothing.
//!
//! pacman downloads by databases that are made of the lock ([`database`]), the SHA-256 of each archive is compared with the
//! lock's, and then pacman installs the archives as files. Nothing is resolved again: dependencies were resolved when the lock was
//! made, and pacman refuses archives that do not fit each other all the same.

mod compared;
mod lock;

use crate::database;
use crate::local;

pub(crate) use lock::{Locked, read};
use package::db::{self, decode_signature};
use pacman::conf::{self, Conf, Signatures};
use pacman::operation::{Action, Refresh};
use pacman::scratch::Scratch;
use pacman::{Operation, Origin, Pacman, Transaction, first_few, origin, signature_pair};
use stage::members::Package;
use stage::{Cause, Code, Doing, Failure, Unit, message, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How many packages a line names.
const NAMES: usize = 5;

/// What all failures were doing.
const DOING: &str = "installing what is locked";

/// The repositories of a lock: databases that have the wanted packages, and configurations.
#[derive(Debug)]
pub(crate) struct LockedRepository<'a> {
    pacman: Pacman<'a>,
    pub(crate) wanted: Vec<&'a Locked>,
    /// The repositories whose packages need no signature.
    unsigned: BTreeSet<String>,
    /// Those whose packages need none.
    optional: BTreeSet<String>,
    scratch: Scratch,
}

impl<'a> LockedRepository<'a> {
    /// Returns the repositories that have `wanted`.
    ///
    /// # Errors
    ///
    /// When the configuration lacks a repository of the lock's, or the root cannot be identified.
    pub(crate) fn new(pacman: &Pacman<'a>, wanted: Vec<&'a Locked>) -> Result<Self, Failure> {
        if let Some(one) = wanted.iter().find(|one| !one.is_file() && !pacman.repos.contains(&one.planned.repo)) {
            let message = format!(
                "{DOING}: {} is of the repository {}, which {} does not have",
                quote(&one.planned.name),
                quote(&one.planned.repo),
                quote(&pacman.config)
            );
            return Err(Failure::new(Code::NotFound, message)
                .hint("write it with the mkconf options that the lock was made with"));
        }
        let conf = Conf::read(&pacman.config)?;
        let repos = |level| -> BTreeSet<String> {
            let is_of = |repo: &&String| pacman.verifies && conf.signatures(repo) == level;
            pacman.repos.iter().filter(is_of).cloned().collect()
        };
        let (unsigned, optional) = (repos(Signatures::Never), repos(Signatures::Optional));
        Ok(Self { scratch: Scratch::of(pacman, "locked")?, pacman: pacman.clone(), wanted, unsigned, optional })
    }

    fn make(&self) -> Result<(), Failure> {
        let strict = stage::file::read_text(&self.pacman.config)?;
        let path = |_: &str| format!("{}/", self.scratch.path().display());
        // Our own databases are not signed. To install, archives are verified as any package is.
        let level = |level: &str| match Signatures::of(level) {
            Signatures::Never => "Never".to_owned(),
            Signatures::Optional
                if level.split_whitespace().any(|word| word.trim_start_matches("Package") == "Optional") =>
            {
                "Optional DatabaseNever".to_owned()
            }
            _ => "Required DatabaseNever".to_owned(),
        };
        let verified = conf::changed(&strict, &[("DBPath", &path), ("SigLevel", &level)]);
        let download = conf::changed(&strict, &[("DBPath", &path), ("SigLevel", &|_| "Never".to_owned())]);
        // The level is one for all files. A signature that is there must be good at both.
        let level = if self.has_unsigned() { "Optional" } else { "Required" };
        let install = conf::changed(&strict, &[("LocalFileSigLevel", &|_| level.to_owned())]);
        let files = [("verified.conf", verified), ("download.conf", download), ("install.conf", install)];
        let mut files: Vec<_> = files.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect();
        for repo in &self.pacman.repos {
            let entries: Vec<_> =
                self.wanted.iter().filter(|one| one.planned.repo == *repo).map(|one| entry(one)).collect();
            let doing = || format!("making a database of {}", quote(repo));
            files.push((format!("sync/{repo}.db"), database::of(&entries).doing(Code::Os, doing)?));
        }
        self.scratch.make(&files)
    }

    fn has_unsigned(&self) -> bool {
        self.wanted.iter().any(|one| self.is_unsigned(one))
    }

    /// Returns whether the command line, or the configuration of its repository, says that it needs no signature.
    fn is_unsigned(&self, one: &Locked) -> bool {
        let repo = &one.planned.repo;
        one.is_unsigned() || self.unsigned.contains(repo) || (self.optional.contains(repo) && one.pgpsig.is_none())
    }

    /// Returns a pacman with one of these configurations.
    fn pacman(&self, file: &str) -> Pacman<'a> {
        Pacman { config: self.scratch.path().join(file), ..self.pacman.clone() }
    }

    /// Fills the cache with the wanted archives and their signatures. pacman verifies them only if it `verifies`.
    fn fetch(&self, verifies: bool) -> Option<Failure> {
        let of_servers = self.wanted.iter().filter(|one| !one.is_file());
        let targets: Vec<String> = of_servers.map(|one| format!("{}/{}", one.planned.repo, one.planned.name)).collect();
        if targets.is_empty() {
            return None;
        }
        let config = if verifies { "verified.conf" } else { "download.conf" };
        let pacman = Pacman { verifies, ..self.pacman(config) };
        pacman.download(Operation::download_targets(Refresh::No), &targets).err()
    }

    /// Fills the cache with the wanted archives, and compares each with the lock. pacman verifies their signatures, too, if it
    /// `verifies`, and where the lock lacks one, which is then downloaded.
    ///
    /// # Errors
    ///
    /// At the end, with the names of all that are not available, or are another archive.
    pub(crate) fn download(&self, verifies: bool) -> Result<(), Failure> {
        self.make()?;
        let (cache, offline) = (self.pacman.cache, self.pacman.offline);
        // What is there by the name of another would be taken for it.
        for one in &self.wanted {
            if !offline && is_locked(cache, one)? == Some(false) {
                self.pacman.context.warn(format_args!(
                    "{} in the cache is another archive than the locked one, and is downloaded again",
                    quote(&one.planned.file)
                ));
                signature_pair::remove(cache, &one.planned.file)?;
            }
        }
        for one in self.wanted.iter().filter(|_| !offline) {
            if let Some(origin) = one.origin.as_ref().filter(|_| one.is_file())
                && is_locked(cache, one)?.is_none()
            {
                local::restore(&self.pacman, origin, &one.planned.file)?;
            }
        }
        let lacks = |one: &&Locked| one.pgpsig.is_none() && !one.is_file() && !self.is_unsigned(one);
        let verifies = verifies || self.wanted.iter().any(lacks);
        // Offline what is absent is named below.
        let failure = if offline { None } else { self.fetch(verifies) };
        let (mut absent, mut differ) = (Vec::new(), Vec::new());
        let progress = self.pacman.context.progress("hashing", Unit::Packages, Some(self.wanted.len() as u64));
        for one in &self.wanted {
            progress.advance(1);
            let shown = format!("{} {}", quote(&one.planned.name), one.planned.version);
            match is_locked(cache, one)? {
                Some(true) => {
                    // One that nobody asks for may be of a key that pacman does not know.
                    if !self.is_unsigned(one) {
                        write_signature(cache, one)?;
                    }
                    // Where others have none, pacman would take it without.
                    if self.has_unsigned() && !self.is_unsigned(one) && !signature_of(cache, one).exists() {
                        absent.push(format!("the signature of {shown}"));
                    }
                }
                None => absent.push(shown),
                Some(false) => {
                    // Offline there is no other, and this one may be hard to get.
                    if !offline {
                        signature_pair::remove(cache, &one.planned.file)?;
                    }
                    differ.push(shown);
                }
            }
        }
        outcome(if offline { "cache" } else { "mirror" }, &absent, &differ, failure)
    }

    /// Returns the transaction that installs the archives.
    pub(crate) fn transaction(&self, overwrite: bool) -> Transaction<'a> {
        let path = |one: &&Locked| self.pacman.cache.join(&one.planned.file).to_string_lossy().into_owned();
        Transaction {
            pacman: self.pacman("install.conf"),
            operation: Operation { action: Action::InstallFiles, overwrite, asdeps: true, ..Operation::default() },
            targets: self.wanted.iter().map(path).collect(),
            planned: self.wanted.iter().map(|one| one.planned.clone()).collect(),
        }
    }

    /// Fails where what pacman installed is not what was locked: somebody changed the cache after it was compared.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`], with the names.
    pub(crate) fn check(&self, origins: &[Origin]) -> Result<(), Failure> {
        let hashes = origins.iter().rev().map(|origin| (&origin.planned.name, origin.sha256.as_ref()));
        let hashes: BTreeMap<_, _> = hashes.collect();
        let differs = |one: &&&Locked| hashes.get(&one.planned.name).copied().flatten() != Some(&one.sha256);
        let differ = self.wanted.iter().filter(differs);
        let differ: Vec<String> = differ.map(|one| quote(&one.planned.name)).collect();
        if differ.is_empty() {
            return Ok(());
        }
        let message = format!("{DOING}: the cache was changed while it was installed: {}", list(&differ));
        Err(Failure::new(Code::NotVerified, message).hint("begin with a new root"))
    }

    /// Writes into pacman's records of packages without a signature that their SHA-256 was compared, as it was, with the lock's.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written.
    pub(crate) fn record_comparison(&self) -> Result<(), Failure> {
        let root = self.pacman.inside.root();
        self.wanted.iter().filter(|one| self.is_unsigned(one)).try_for_each(|one| compared::record(root, &one.planned))
    }

    /// Finds out why pacman refused to install one of the archives: it says so of a package of a repository only.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let refused = failure.code == Code::NotVerified && !self.pacman.offline;
        refused.then(|| self.fetch(true)).flatten().unwrap_or(failure)
    }

    /// Removes what was made.
    ///
    /// # Errors
    ///
    /// As [`Scratch::clear`].
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        self.scratch.clear()
    }
}

/// Returns the entry of a database that has a package. It has no hash: archives are compared with the lock here.
fn entry(one: &Locked) -> db::Entry {
    let planned = &one.planned;
    db::Entry {
        name: planned.name.clone(),
        version: planned.version.clone(),
        filename: planned.file.clone(),
        pgpsig: one.pgpsig.clone(),
        ..db::Entry::default()
    }
}

/// Returns what of the lock is still to be installed: what is not there, what is there in that version and nobody knows from which
/// archive, and what is `incomplete`.
///
/// # Errors
///
/// [`Code::Failed`] where the root has a package that the lock does not have, or has another version or build of.
pub(crate) fn missing<'a>(
    locked: &'a [Locked],
    installed: &[Package],
    incomplete: &BTreeSet<String>,
) -> Result<Vec<&'a Locked>, Failure> {
    let by_name: BTreeMap<&str, &Locked> = locked.iter().map(|one| (one.planned.name.as_str(), one)).collect();
    let (mut wrong, mut there) = (Vec::new(), BTreeSet::new());
    for Package { name, version, sha256, .. } in installed {
        let shown = quote(name);
        match (by_name.get(name.as_str()), sha256) {
            (None, _) => wrong.push(format!("{shown} {version} is not locked")),
            (Some(one), _) if one.planned.version != *version => {
                let locked = &one.planned.version;
                wrong.push(format!("{shown} is {version} and locked is {locked}"));
            }
            (Some(one), Some(is)) if one.sha256 != *is => {
                wrong.push(format!("{shown} {version} is another build than the locked one"));
            }
            (Some(_), Some(_)) => drop(there.insert(name)),
            (Some(_), None) => {}
        }
    }
    if !wrong.is_empty() {
        let message = format!("{DOING}: the root has something else: {}", list(&wrong));
        return Err(Failure::new(Code::Failed, message).hint("begin with a new root"));
    }
    let wanted = |one: &&Locked| {
        let name = &one.planned.name;
        !there.contains(name) || incomplete.contains(name)
    };
    Ok(locked.iter().filter(wanted).collect())
}

/// Returns how downloading ended: what the `source` has in place of the locked one, what is not there, and pacman's own failure
/// where there is one.
fn outcome(source: &str, absent: &[String], differ: &[String], failure: Option<Failure>) -> Result<(), Failure> {
    let because = |what: String| match &failure {
        Some(failure) => format!("{DOING}: {what}: {}", failure.message),
        None => format!("{DOING}: {what}"),
    };
    // What pacman refused is removed from the cache by now.
    let refused = failure.as_ref().is_some_and(|f| f.code == Code::NotVerified);
    let differ = if refused && differ.is_empty() { absent } else { differ };
    if !differ.is_empty() {
        let what = format!("the {source} has another archive of {}", list(differ));
        let hint = match source {
            "cache" => "nothing was installed; without --offline the locked one is downloaded",
            _ => "nothing was installed; try another mirror: mkconf --server URL",
        };
        return Err(Failure::new(Code::NotVerified, because(what)).hint(hint));
    }
    if !absent.is_empty() {
        // That a server does not have it any more does not go away; that it does not answer may.
        let code = match &failure {
            Some(failure) if failure.cause != Some(Cause::NotOnServer) => failure.code,
            _ => Code::NotFound,
        };
        let what = format!("not available: {}", list(absent));
        return Err(Failure::new(code, because(what)).hint(
            "nothing was installed; use a cache that has them (mkconf --cache-dir), or a mirror that keeps old packages \
             (mkconf --snapshot, --server)",
        ));
    }
    failure.map_or(Ok(()), Err)
}

/// Returns the packages of the lock that somebody asked for.
pub(crate) fn explicit(locked: &[Locked]) -> Vec<String> {
    let asked = locked.iter().filter(|one| one.explicit);
    asked.map(|one| one.planned.name.clone()).collect()
}

/// Returns whether the archive of that name in the cache is the locked one; `None` where there is none.
fn is_locked(cache: &Path, one: &Locked) -> Result<Option<bool>, Failure> {
    let path = cache.join(&one.planned.file);
    match origin::sha256(&path) {
        Ok(is) => Ok(Some(is == one.sha256)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).doing(Code::Failed, || format!("reading {}", quote(&path))),
    }
}

fn signature_of(cache: &Path, one: &Locked) -> PathBuf {
    cache.join(format!("{}.sig", one.planned.file))
}

/// Puts the signature of the lock beside an archive that has none: pacman reads an archive's from there only.
fn write_signature(cache: &Path, one: &Locked) -> Result<(), Failure> {
    let path = signature_of(cache, one);
    let signature = one.pgpsig.as_deref().and_then(decode_signature);
    let Some(signature) = signature.filter(|_| !path.exists()) else {
        return Ok(());
    };
    std::fs::write(&path, signature).doing(Code::Os, || format!("writing {}", quote(&path)))
}

/// Returns the first few of a list, for a line, and how many more there are.
fn list(all: &[String]) -> String {
    let all: Vec<String> = all.iter().map(|text| message::escape(text)).collect();
    first_few(&all, NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::package;
    use pacman::Planned;
    use rootfs::{Inside, Root};
    use stage::Context;

    fn locked(name: &str, version: &str) -> Locked {
        Locked {
            planned: Planned {
                repo: "core".into(),
                name: name.into(),
                version: version.into(),
                file: format!("{name}-{version}-any.pkg.tar.zst"),
                download: 0,
            },
            // Of nothing.
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
            pgpsig: Some("Zm8=".into()),
            explicit: name != "b",
            origin: None,
        }
    }

    #[test]
    fn what_the_root_has_must_be_locked_too() {
        let lock = [locked("a", "1-1"), locked("b", "1-1")];
        let has = |list: &[(&str, &str)]| -> Vec<Package> { list.iter().map(|(n, v)| package(n, v)).collect() };
        let none = BTreeSet::new();
        let names = |of: Vec<&Locked>| -> Vec<String> { of.iter().map(|one| one.planned.name.clone()).collect() };
        assert_eq!(names(missing(&lock, &[], &none).unwrap()), ["a", "b"]);
        // Of what nobody knows from which archive it is, the locked one is installed.
        assert_eq!(names(missing(&lock, &has(&[("a", "1-1")]), &none).unwrap()), ["a", "b"]);
        let built = |hash: &str| {
            let mut list = has(&[("a", "1-1")]);
            list[0].sha256 = Some(hash.to_owned());
            list
        };
        assert_eq!(names(missing(&lock, &built(&lock[0].sha256), &none).unwrap()), ["b"]);
        let failure = missing(&lock, &built("00"), &none).unwrap_err();
        assert!(failure.message.ends_with("'a' 1-1 is another build than the locked one"), "{failure}");
        let failure = missing(&lock, &has(&[("a", "2-1"), ("c", "1-1")]), &none).unwrap_err();
        assert!(
            failure.message.ends_with("something else: 'a' is 2-1 and locked is 1-1, 'c' 1-1 is not locked"),
            "{failure}"
        );
        assert_eq!(explicit(&lock), ["a"]);
    }

    #[test]
    fn archives_are_compared_with_the_lock_by_hash() {
        let cache = tempfile::tempdir().unwrap();
        let one = locked("a", "1-1");
        let at = |end: &str| cache.path().join(format!("{}{end}", one.planned.file));
        assert_eq!(is_locked(cache.path(), &one).unwrap(), None);
        std::fs::write(at(""), "").unwrap();
        assert_eq!(is_locked(cache.path(), &one).unwrap(), Some(true));
        write_signature(cache.path(), &one).unwrap();
        assert_eq!(std::fs::read(at(".sig")).unwrap(), b"fo");
        std::fs::write(at(""), "x").unwrap();
        assert_eq!(is_locked(cache.path(), &one).unwrap(), Some(false));
    }

    #[test]
    fn each_outcome_says_what_it_is_about() {
        let nano: &[String] = &["'nano' 1-1".to_owned()];
        let none: &[String] = &[];
        let failed = |code, text: &str| Some(Failure::new(code, text));
        assert_eq!(outcome("mirror", none, none, None), Ok(()));
        for (absent, differ, failure, code, words) in [
            (nano, none, None, Code::NotFound, "not available: 'nano' 1-1"),
            (
                nano,
                none,
                failed(Code::Network, "x: error: 404").map(|f| f.cause(Cause::NotOnServer)),
                Code::NotFound,
                "'nano' 1-1: x: error: 404",
            ),
            (nano, none, failed(Code::Network, "refused"), Code::Network, "not available: 'nano' 1-1: refused"),
            (nano, none, failed(Code::NotVerified, "bad"), Code::NotVerified, "another archive of 'nano' 1-1: bad"),
            (none, nano, None, Code::NotVerified, "another archive of 'nano' 1-1"),
            (none, none, failed(Code::Busy, "later"), Code::Busy, "later"),
        ] {
            let failure = outcome("mirror", absent, differ, failure).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.ends_with(words), "{failure}");
        }
    }

    #[test]
    fn the_repository_has_all_databases_and_goes() {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("pacman-strict.conf");
        std::fs::write(&config, "[options]\nDBPath = /x/\n[core]\n[extra]\n").unwrap();
        let root = Root::open(&place.path().canonicalize().unwrap()).unwrap();
        let inside = Inside::new(root, Vec::new(), None, None).unwrap();
        let mut pacman = Pacman {
            context: &Context::new("strap", true),
            inside: &inside,
            program: Path::new("/none"),
            config,
            repos: vec!["core".into(), "extra".into()],
            hook_dir: None,
            cache: &place.path().join("cache"),
            verifies: true,
            offline: false,
        };
        let lock = [locked("a", "1-1")];
        let repository = LockedRepository::new(&pacman, lock.iter().collect()).unwrap();
        repository.make().unwrap();
        for name in ["sync/core.db", "sync/extra.db", "local", "download.conf", "install.conf"] {
            assert!(repository.scratch.path().join(name).exists(), "{name}");
        }
        // What pacman makes there, and a run that was killed.
        std::fs::write(repository.scratch.path().join("local/ALPM_DB_VERSION"), "9").unwrap();
        repository.make().unwrap();
        repository.clear().unwrap();
        assert!(!repository.scratch.path().exists());
        pacman.repos = vec!["aur".into()];
        let failure = LockedRepository::new(&pacman, lock.iter().collect()).unwrap_err();
        let message = "'a' is of the repository 'core', which ";
        assert!(failure.message.contains(message), "{failure}");
        assert_eq!(failure.code, Code::NotFound);
    }
}
