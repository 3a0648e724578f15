//! `--locked`: installs just what the document of a finished root says, or nothing.
//!
//! pacman downloads by databases that are made of the lock ([`database`]), each archive's SHA-256 is compared with the
//! lock's, and then pacman installs the archives as files. Nothing is resolved anew: what depends on what was resolved when
//! the lock was made, and pacman refuses archives that do not fit each other all the same.

mod database;
mod lock;

use database::For;
pub(crate) use lock::{Locked, read};
use package::digest::Sha256Reader;
use pacman::conf::Conf;
use pacman::mirror::is_gone;
use pacman::signature_pair;
use pacman::{Origin, Pacman, Planned};
use rootfs::{Inside, Root};
use stage::members::Package;
use stage::{Code, Context, Doing, Failure, message, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How many packages a line names.
const NAMES: usize = 5;

/// Where pacman works by a lock: in the package cache, which is all of the host that it may write, by a name that follows
/// from the root. It is there only while this program runs, or after it was killed.
#[derive(Debug)]
pub(crate) struct LockedRepository {
    path: PathBuf,
}

impl LockedRepository {
    /// Makes it: databases that have `wanted`, and the two configurations.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or the configuration lacks a repository of the lock's.
    pub(crate) fn make(
        root: &Root,
        strict: &Path,
        cache: &Path,
        wanted: &[&Locked],
    ) -> Result<Self, Failure> {
        let text = stage::file::read_text(strict)?;
        let repositories = Conf::read(strict)?.repos;
        if let Some(one) = wanted.iter().find(|one| !repositories.contains(&one.repo)) {
            return Err(Failure::new(
                Code::NotFound,
                format!(
                    "installing what is locked: {} is of the repository {}, which {} does not have",
                    quote(&one.package.name),
                    quote(&one.repo),
                    quote(strict)
                ),
            )
            .hint("write it with the mkconf options that the lock was made with"));
        }
        let id = root.id()?;
        let path = cache.join(format!("locked-{}-{}", id.dev, id.ino));
        let workshop = Self { path };
        workshop.clear()?;
        let doing = || format!("making {}", quote(&workshop.path));
        let made = workshop.fill(&text, &repositories, wanted);
        made.doing(Code::Os, doing)?;
        Ok(workshop)
    }

    fn fill(
        &self,
        strict: &str,
        repositories: &[String],
        wanted: &[&Locked],
    ) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.path)?;
        for directory in ["sync", "local"] {
            std::fs::create_dir(self.path.join(directory))?;
        }
        for repo in repositories {
            let file = self.path.join("sync").join(format!("{repo}.db"));
            std::fs::write(file, database::of(repo, wanted)?)?;
        }
        let path = self.path.to_string_lossy();
        for (file, purpose) in [
            ("download.conf", For::Download(&path)),
            ("install.conf", For::Install),
        ] {
            std::fs::write(
                self.path.join(file),
                database::configuration(strict, purpose),
            )?;
        }
        Ok(())
    }

    /// Returns a pacman that goes by one of its configurations.
    fn pacman(&self, like: &Pacman, file: &str) -> Pacman {
        Pacman {
            config: self.path.join(file),
            ..like.clone()
        }
    }

    /// Returns the pacman that installs archives of the lock, and their paths.
    pub(crate) fn installing(
        &self,
        like: &Pacman,
        cache: &Path,
        wanted: &[&Locked],
    ) -> (Pacman, Vec<String>) {
        let path = |one: &&Locked| cache.join(&one.file).to_string_lossy().into_owned();
        let paths = wanted.iter().map(path).collect();
        (self.pacman(like, "install.conf"), paths)
    }

    /// Removes it, by the names of what is made here, and of what pacman makes.
    ///
    /// # Errors
    ///
    /// When something else is in it.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        let doing = || format!("removing {}", quote(&self.path));
        let gone = |result: std::io::Result<()>| match result {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        };
        for directory in ["sync", "local", ""] {
            let directory = self.path.join(directory);
            let entries = match std::fs::read_dir(&directory) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                entries => entries.doing(Code::Os, doing)?,
            };
            for entry in entries {
                let entry = entry.doing(Code::Os, doing)?;
                if entry.file_type().is_ok_and(|t| !t.is_dir()) {
                    gone(std::fs::remove_file(entry.path())).doing(Code::Os, doing)?;
                }
            }
            gone(std::fs::remove_dir(&directory)).doing(Code::Os, doing)?;
        }
        Ok(())
    }
}

/// Returns what of the lock is still to be installed: also what is there in that version and nobody knows from which archive.
///
/// # Errors
///
/// [`Code::Failed`] where the root has a package that the lock has not, or has another version or build of.
pub(crate) fn missing<'a>(
    locked: &'a [Locked],
    installed: &[Package],
) -> Result<Vec<&'a Locked>, Failure> {
    let by_name: BTreeMap<&str, &Locked> = locked
        .iter()
        .map(|one| (one.package.name.as_str(), one))
        .collect();
    let (mut wrong, mut there) = (Vec::new(), BTreeSet::new());
    for package in installed {
        let name = quote(&package.name);
        match (by_name.get(package.name.as_str()), &package.sha256) {
            (None, _) => wrong.push(format!("{name} {} is not locked", package.version)),
            (Some(one), _) if one.package.version != package.version => {
                wrong.push(format!(
                    "{name} is {} and locked is {}",
                    package.version, one.package.version
                ));
            }
            (Some(one), Some(is)) if one.sha256 != *is => {
                let version = &package.version;
                wrong.push(format!(
                    "{name} {version} is another build than the locked one"
                ));
            }
            (Some(_), Some(_)) => {
                there.insert(package.name.as_str());
            }
            (Some(_), None) => {}
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!(
                "installing what is locked: the root has something else: {}",
                list(&wrong)
            ),
        )
        .hint("begin with a new root"));
    }
    let wanted = |one: &&Locked| !there.contains(one.package.name.as_str());
    Ok(locked.iter().filter(wanted).collect())
}

/// Fills the cache with the archives of the lock, and compares each with it.
///
/// # Errors
///
/// At the end, with the names of all that are not to be had, or are something else.
pub(crate) fn fetch(
    context: &Context,
    pacman: &Pacman,
    inside: &Inside,
    workshop: &LockedRepository,
    cache: &Path,
    wanted: &[&Locked],
) -> Result<(), Failure> {
    // What lies there by the name of another would be taken for it.
    for one in wanted {
        if !pacman.offline && compare(cache, one)? == Compared::Differs {
            context.warn(format_args!(
                "{} in the cache is another than the locked one, and is fetched again",
                quote(&one.file)
            ));
            signature_pair::remove(cache, &one.file)?;
        }
    }
    let targets: Vec<String> = wanted
        .iter()
        .map(|one| format!("{}/{}", one.repo, one.package.name))
        .collect();
    let args = ["-Sw", "--noconfirm", "-dd"];
    // Offline what is absent is named below.
    let downloaded = match pacman.offline {
        true => Ok(Vec::new()),
        false => workshop
            .pacman(pacman, "download.conf")
            .download(context, inside, cache, &args, &targets),
    };
    let mut absent = Vec::new();
    let mut differ = Vec::new();
    for one in wanted {
        let shown = format!("{} {}", quote(&one.package.name), one.package.version);
        match compare(cache, one)? {
            Compared::Same => sign(cache, one)?,
            Compared::Absent => absent.push(shown),
            Compared::Differs => {
                // Offline there is no other, and who wants this one may have to go far for it.
                if !pacman.offline {
                    signature_pair::remove(cache, &one.file)?;
                }
                differ.push(shown);
            }
        }
    }
    let source = if pacman.offline { "cache" } else { "mirror" };
    outcome(source, &absent, &differ, downloaded.err())
}

/// Says how fetching ended: what the `source` has in the place of the locked one, what is not there, and pacman's own failure
/// where there is one.
fn outcome(
    source: &str,
    absent: &[String],
    differ: &[String],
    failure: Option<Failure>,
) -> Result<(), Failure> {
    const DOING: &str = "installing what is locked";
    let because = |what: String| match &failure {
        Some(failure) => format!("{DOING}: {what}: {}", failure.message),
        None => format!("{DOING}: {what}"),
    };
    // What pacman refused has left the cache by now.
    let refused = failure
        .as_ref()
        .is_some_and(|f| f.code == Code::NotVerified);
    let differ = if refused && differ.is_empty() {
        absent
    } else {
        differ
    };
    if !differ.is_empty() {
        let what = format!("the {source} has another archive of {}", list(differ));
        return Err(
            Failure::new(Code::NotVerified, because(what)).hint(match source {
                "cache" => "nothing was installed; without --offline the locked one is fetched",
                _ => "nothing was installed; try another mirror: mkconf --server URL",
            }),
        );
    }
    if !absent.is_empty() {
        // That a server has it no more does not go away; that it does not answer may.
        let code = match &failure {
            Some(failure) if !is_gone(failure) => failure.code,
            _ => Code::NotFound,
        };
        let what = format!("not to be had: {}", list(absent));
        return Err(Failure::new(code, because(what)).hint(
            "nothing was installed; a cache that has them (mkconf --cache-dir), or a mirror that keeps old packages \
             (mkconf --snapshot, --server)",
        ));
    }
    failure.map_or(Ok(()), Err)
}

/// Returns the packages of the lock that somebody asked for.
pub(crate) fn explicit(locked: &[Locked]) -> Vec<String> {
    let asked = locked
        .iter()
        .filter(|one| one.package.reason.as_deref() != Some("dependency"));
    asked.map(|one| one.package.name.clone()).collect()
}

/// Returns what pacman is going to install.
pub(crate) fn planned(wanted: &[&Locked]) -> Vec<Planned> {
    let planned = wanted.iter().map(|one| Planned {
        repo: one.repo.clone(),
        name: one.package.name.clone(),
        version: one.package.version.clone(),
        file: one.file.clone(),
    });
    planned.collect()
}

/// Fails where what pacman installed is not what was locked: somebody changed the cache after it was compared.
///
/// # Errors
///
/// [`Code::NotVerified`], with the names.
pub(crate) fn prove(wanted: &[&Locked], origins: &[Origin]) -> Result<(), Failure> {
    let differs = |one: &&&Locked| {
        let origin = origins.iter().find(|o| o.planned.name == one.package.name);
        let is = origin.and_then(|origin| origin.sha256.as_ref());
        is != Some(&one.sha256)
    };
    let differ: Vec<String> = wanted
        .iter()
        .filter(differs)
        .map(|one| quote(&one.package.name))
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    let message = format!(
        "installing what is locked: the cache was changed while it was installed: {}",
        list(&differ)
    );
    Err(Failure::new(Code::NotVerified, message).hint("begin with a new root"))
}

/// Whether the cache has an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// The locked one.
    Same,
    /// None of that name.
    Absent,
    /// Another one of that name.
    Differs,
}

fn compare(cache: &Path, one: &Locked) -> Result<Compared, Failure> {
    let path = cache.join(&one.file);
    let doing = || format!("reading {}", quote(&path));
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Compared::Absent),
        file => file.doing(Code::Failed, doing)?,
    };
    let mut reader = Sha256Reader::new(file);
    reader.drain().doing(Code::Os, doing)?;
    Ok(match reader.finish() == one.sha256 {
        true => Compared::Same,
        false => Compared::Differs,
    })
}

/// Puts the signature of the lock beside an archive that has none: pacman takes an archive's from there only.
fn sign(cache: &Path, one: &Locked) -> Result<(), Failure> {
    let path = cache.join(format!("{}.sig", one.file));
    let Some(signature) = database::signature(one).filter(|_| !path.exists()) else {
        return Ok(());
    };
    std::fs::write(&path, signature).doing(Code::Os, || format!("writing {}", quote(&path)))
}

/// Returns the first few of a list, for a line, and how many more there are.
fn list(all: &[String]) -> String {
    let shown: Vec<String> = all
        .iter()
        .take(NAMES)
        .map(|text| message::escape(text))
        .collect();
    match all.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        n => format!("{} and {n} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Cause;

    fn locked(name: &str, version: &str) -> Locked {
        Locked {
            package: Package {
                name: name.into(),
                version: version.into(),
                arch: "any".into(),
                repo: None,
                file: None,
                sha256: None,
                pgpsig: Some("Zm8=".into()),
                reason: (name == "b").then(|| "dependency".into()),
                verified: true,
            },
            repo: "core".into(),
            file: format!("{name}-{version}-any.pkg.tar.zst"),
            // Of nothing.
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
        }
    }

    #[test]
    fn what_the_root_has_must_be_locked_too() {
        let lock = [locked("a", "1-1"), locked("b", "1-1")];
        let has = |list: &[(&str, &str)]| -> Vec<Package> {
            list.iter().map(|(n, v)| locked(n, v).package).collect()
        };
        let names = |of: Vec<&Locked>| -> Vec<String> {
            of.iter().map(|one| one.package.name.clone()).collect()
        };
        assert_eq!(names(missing(&lock, &[]).unwrap()), ["a", "b"]);
        // Of what nobody knows from which archive it is, the locked one is installed.
        assert_eq!(
            names(missing(&lock, &has(&[("a", "1-1")])).unwrap()),
            ["a", "b"]
        );
        let built = |hash: &str| {
            let mut list = has(&[("a", "1-1")]);
            list[0].sha256 = Some(hash.to_owned());
            list
        };
        assert_eq!(
            names(missing(&lock, &built(&lock[0].sha256)).unwrap()),
            ["b"]
        );
        let failure = missing(&lock, &built("00")).unwrap_err();
        assert!(
            failure
                .message
                .ends_with("'a' 1-1 is another build than the locked one"),
            "{failure}"
        );
        let failure = missing(&lock, &has(&[("a", "2-1"), ("c", "1-1")])).unwrap_err();
        assert!(
            failure
                .message
                .ends_with("something else: 'a' is 2-1 and locked is 1-1, 'c' 1-1 is not locked"),
            "{failure}"
        );
        assert_eq!(explicit(&lock), ["a"]);
    }

    #[test]
    fn archives_are_compared_by_their_hash_and_get_the_signature_of_the_lock() {
        let cache = tempfile::tempdir().unwrap();
        let one = locked("a", "1-1");
        let at = |end: &str| cache.path().join(format!("{}{end}", one.file));
        assert_eq!(compare(cache.path(), &one).unwrap(), Compared::Absent);
        std::fs::write(at(""), "").unwrap();
        assert_eq!(compare(cache.path(), &one).unwrap(), Compared::Same);
        sign(cache.path(), &one).unwrap();
        assert_eq!(std::fs::read(at(".sig")).unwrap(), b"fo");
        std::fs::write(at(""), "x").unwrap();
        assert_eq!(compare(cache.path(), &one).unwrap(), Compared::Differs);
    }

    #[test]
    fn each_outcome_says_what_it_is_about() {
        let nano: &[String] = &["'nano' 1-1".to_owned()];
        let none: &[String] = &[];
        let failed = |code, text: &str| Some(Failure::new(code, text));
        assert_eq!(outcome("mirror", none, none, None), Ok(()));
        for (absent, differ, failure, code, words) in [
            (
                nano,
                none,
                None,
                Code::NotFound,
                "not to be had: 'nano' 1-1",
            ),
            (
                nano,
                none,
                failed(Code::Network, "x: error: 404").map(|f| f.cause(Cause::NotOnServer)),
                Code::NotFound,
                "'nano' 1-1: x: error: 404",
            ),
            (
                nano,
                none,
                failed(Code::Network, "refused"),
                Code::Network,
                "not to be had: 'nano' 1-1: refused",
            ),
            (
                nano,
                none,
                failed(Code::NotVerified, "bad"),
                Code::NotVerified,
                "another archive of 'nano' 1-1: bad",
            ),
            (
                none,
                nano,
                None,
                Code::NotVerified,
                "another archive of 'nano' 1-1",
            ),
            (none, none, failed(Code::Busy, "later"), Code::Busy, "later"),
        ] {
            let failure = outcome("mirror", absent, differ, failure).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.ends_with(words), "{failure}");
        }
    }

    #[test]
    fn a_workshop_is_made_and_removed_and_has_databases_of_all_repositories() {
        let place = tempfile::tempdir().unwrap();
        let strict = place.path().join("pacman-strict.conf");
        std::fs::write(&strict, "[options]\nDBPath = /x/\n[core]\n[extra]\n").unwrap();
        let lock = [locked("a", "1-1")];
        let all: Vec<&Locked> = lock.iter().collect();
        let root = Root::open(&place.path().canonicalize().unwrap()).unwrap();
        let cache = place.path().join("cache");
        let workshop = LockedRepository::make(&root, &strict, &cache, &all).unwrap();
        for name in [
            "sync/core.db",
            "sync/extra.db",
            "local",
            "download.conf",
            "install.conf",
        ] {
            assert!(workshop.path.join(name).exists(), "{name}");
        }
        // What pacman makes there, and a run that was killed.
        std::fs::write(workshop.path.join("local/ALPM_DB_VERSION"), "9").unwrap();
        let again = LockedRepository::make(&root, &strict, &cache, &all).unwrap();
        again.clear().unwrap();
        assert!(!again.path.exists());
        std::fs::write(&strict, "[options]\n[aur]\n").unwrap();
        let failure = LockedRepository::make(&root, &strict, &cache, &all).unwrap_err();
        assert!(
            failure
                .message
                .contains("'a' is of the repository 'core', which "),
            "{failure}"
        );
        assert_eq!(failure.code, Code::NotFound);
    }
}
