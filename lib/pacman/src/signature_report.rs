//! Which file pacman refused, and why: its messages name a package and not the reason, or a key and not the package.
//!
//! pacman 6 and 7 say "unknown trust" of a key that expired, of one that too few masters signed and of one that nobody signed.
//! So the files that it refused are checked again, with the root's keyring ([`crate::diagnosis`]), and the message names the
//! package, the key, what is wrong with it and what to do. A wrong clock comes first: it causes all the others.

use crate::captive_portal;
use crate::diagnosis::archive;
use crate::diagnosis::report::problems;
use crate::diagnosis::{self, Diagnosis, Verdict, Verifier};
use crate::english::{self, OutputEvent, Trouble};
use crate::error_text::and_more;
use crate::gpg::{self, Gpg, Home, StoredKeyring};
use crate::operation::Operation;
use crate::records::{self, SYNC};
use crate::run::{Pacman, Planned};
use crate::signature_pair::{Directories, Directory};
use package::db::Entry;
use package::pkginfo;
use rootfs::{Place, Root};
use rustix::fs::{AtFlags, OFlags, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Failure, quote};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that pacman refused, or may have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspect {
    /// The package, or the database of a repository.
    name: String,
    file: String,
    directory: Directory,
    /// Its signature in the repository's database.
    offered: Option<Vec<u8>>,
}

impl Suspect {
    fn new(directory: Directory, file: &str) -> Self {
        Self { name: file.to_owned(), file: file.to_owned(), directory, offered: None }
    }

    fn of(entry: &Entry) -> Self {
        let (name, offered) = (entry.name.clone(), entry.signature());
        Self { name, offered, ..Self::new(Directory::Cache, &entry.filename) }
    }
}

/// What was found inside.
#[derive(Debug, Deserialize, Serialize)]
struct Found {
    /// In the order of the suspects.
    told: Vec<Diagnosis>,
    /// The newest key of the keyring: when it was made, and its name.
    newest: Option<(u64, String)>,
}

/// Files, each in its directory.
type Files = Vec<(Directory, String)>;

/// Returns why pacman refused a file, in place of `failure`, which has pacman's words: a web page, or, where pacman verifies, a
/// signature and what is wrong with it. The file is removed: an archive, as pacman would have, and also where a key is missing,
/// or the next run would find it in the cache and refuse it again, whatever the mirror has by then; and a database, also one that
/// cannot be read, which pacman would not download again from a mirror whose own is no newer.
pub(crate) fn explain(
    pacman: &Pacman<'_>,
    operation: Operation<'_>,
    targets: &[String],
    events: &[OutputEvent],
    mut failure: Failure,
) -> Failure {
    let (context, root) = (pacman.context, pacman.inside.root());
    let places = Directories { root, cache: pacman.cache };
    let named = corrupted(events);
    if let Some(page) = captive_portal::explain(context, &places, &pacman.repos, &named) {
        return page;
    }
    let mut databases = unreadable(&pacman.repos, events);
    if failure.code == Code::NotFound {
        let absent = absent(root, &pacman.repos);
        failure = without_databases(&absent, failure);
        databases.extend(absent);
    }
    // Where pacman has no gpg, it has checked nothing of what it names.
    let no_engine = |event: &OutputEvent| matches!(event, OutputEvent::Error(Trouble::NoEngine, _));
    let mut refused = if events.iter().any(no_engine) { Files::new() } else { in_cache(&named) };
    if let Some(keyring) = pacman.inside.gpgdir().filter(|_| pacman.verifies)
        && failure.code == Code::NotVerified
    {
        match examine(pacman, keyring, operation, targets, events, &places) {
            Ok((files, reason)) => {
                refused = files;
                failure = reason.unwrap_or(failure);
            }
            Err(why) => {
                // What was not checked is not removed.
                refused.clear();
                context.warn(format_args!("finding out why pacman refused it: {why}"));
            }
        }
    }
    refused.extend(databases.into_iter().map(|repo| (Directory::Sync, format!("{repo}.db"))));
    for (directory, file) in refused {
        places.remove(context, directory, &file);
    }
    failure
}

fn in_cache(files: &[&str]) -> Files {
    let files = files.iter().map(|file| (Directory::Cache, (*file).to_owned()));
    files.collect()
}

/// Returns whether pacman had signatures to check. Where the mirror has none for a file that is new in the cache, its own
/// message says enough.
fn is_about_signatures(events: &[OutputEvent]) -> bool {
    events.iter().any(|event| match event {
        OutputEvent::Corrupted(_) => true,
        OutputEvent::Error(trouble, _) => (Trouble::UnknownTrust..=Trouble::PackageSignature).contains(trouble),
        _ => false,
    })
}

/// Returns the archives that pacman named as corrupted: their file names only. Whatever else is in pacman's output may be a
/// scriptlet's, and a path from there is never opened, let alone removed.
fn corrupted(events: &[OutputEvent]) -> Vec<&str> {
    let files = events.iter().filter_map(|event| match event {
        OutputEvent::Corrupted(path) => Path::new(path).file_name()?.to_str(),
        _ => None,
    });
    files.filter(|file| package::name::is_filename(file)).collect()
}

/// Checks the signatures of what pacman may have refused. Returns the files that are refused, and the reason, if it is a
/// signature.
fn examine(
    pacman: &Pacman<'_>,
    keyring: &Path,
    operation: Operation<'_>,
    targets: &[String],
    events: &[OutputEvent],
    places: &Directories<'_>,
) -> Result<(Files, Option<Failure>), Failure> {
    let mut suspects = databases(places.root, events)?;
    // A database that is refused is not read: it is what is checked.
    let offered = if suspects.is_empty() { records::offered(places.root, &pacman.repos)?.entries } else { Vec::new() };
    let named = corrupted(events);
    let entries: Vec<&Entry> = offered.iter().map(|(_, entry)| entry).collect();
    if suspects.is_empty() {
        suspects = archives(&named, &entries);
    }
    if suspects.is_empty() {
        // A key that is missing: pacman does not say of which package.
        suspects = of_transaction(&pacman.preview(operation, targets)?, &offered);
    }
    let gpg = Gpg::find()?;
    let check = || check_inside(&gpg, keyring, places, &suspects);
    let found = pacman.inside.call(Place::Host, &[], check)?;
    let told = suspects.iter().zip(&found.told);
    let (valid, refused): (Vec<_>, Vec<_>) = told.partition(|(_, told)| told.is_valid());
    if refused.is_empty()
        && let Some((file, failure)) = find_disguised(&suspects, &entries, places)
    {
        return Ok((vec![(Directory::Cache, file)], Some(failure)));
    }
    // What pacman named leaves the cache whatever we find of it, or the next run would meet it again.
    let mut files = in_cache(&named);
    files.extend(refused.iter().map(|(s, _)| (s.directory, s.file.clone())));
    let reason = reason(pacman.context, &suspects, &found, &entries);
    let reason = reason.filter(|_| is_about_signatures(events));
    let mut valid = valid.iter().map(|(suspect, _)| suspect);
    let other = valid.find(|suspect| named.contains(&suspect.file.as_str()));
    // It is validly signed, by the signature beside it, and pacman uses the one of the repository's database: a package that was
    // built again under the same version, and a cache that has the old one.
    let another_build = other.map(|suspect| {
        let name = quote(&suspect.name);
        let message =
            format!("checking {name}: it is another build of that version than the repository's database means");
        Failure::new(Code::NotVerified, message).hint(REMOVED)
    });
    Ok((files, reason.or(another_build)))
}

/// Finds an archive that is another package than its entry in the database says. pacman says of such a one "invalid or
/// corrupted package" and no more, and only when it is to be installed: its signature is valid.
fn find_disguised(suspects: &[Suspect], entries: &[&Entry], places: &Directories<'_>) -> Option<(String, Failure)> {
    suspects.iter().find_map(|suspect| {
        let entry = entries.iter().find(|e| e.filename == suspect.file)?;
        // One that cannot be read is corrupted, as pacman says, whose word is then the last.
        let file = places.file(Directory::Cache, &suspect.file)?;
        let is = pkginfo::of_archive(file).ok()?;
        if (&is.name, &is.version) == (&entry.name, &entry.version) {
            return None;
        }
        let message = format!(
            "checking {0}: it is package {1} {2}, validly signed, and should be {0} {3}",
            quote(&entry.name),
            quote(&is.name),
            is.version,
            entry.version
        );
        let failure = Failure::new(Code::NotVerified, message).hint(REMOVED);
        Some((suspect.file.clone(), failure))
    })
}

/// Returns the signed databases, where pacman refused one of them: `failed to synchronize all databases (invalid or corrupted
/// database (PGP signature))`, `database 'core' is not valid (…)`.
fn databases(root: &Root, events: &[OutputEvent]) -> Result<Vec<Suspect>, Failure> {
    let is_refusal = |event: &OutputEvent| {
        matches!(event, OutputEvent::Error(Trouble::DatabaseSignature | Trouble::DatabaseDamaged, _))
    };
    if !events.iter().any(is_refusal) {
        return Ok(Vec::new());
    }
    let names = records::names_in(root, SYNC)?;
    let signed = names.iter().filter_map(|name| name.strip_suffix(".sig"));
    let databases = signed.filter(|name| name.ends_with(".db"));
    Ok(databases.map(|name| Suspect::new(Directory::Sync, name)).collect())
}

/// Returns the repositories whose databases pacman could not read.
fn unreadable<'a>(repos: &'a [String], events: &[OutputEvent]) -> Vec<&'a String> {
    let named = events.iter().filter_map(|event| match event {
        OutputEvent::Error(Trouble::DatabaseUnreadable, text) => english::unreadable(text),
        _ => None,
    });
    let named: Vec<&str> = named.collect();
    let is_named = |repo: &&String| named.contains(&repo.as_str());
    repos.iter().filter(is_named).collect()
}

/// Returns the repositories that the root has no database of, or an empty file: pacman goes on without them, and to it an empty
/// file is a database without packages.
fn absent<'a>(root: &Root, repos: &'a [String]) -> Vec<&'a String> {
    let is_absent = |repo: &&String| {
        let opened = root.open_below(&format!("{SYNC}/{repo}.db"), OFlags::PATH);
        let found = opened.and_then(|file| statat(&file, "", AtFlags::EMPTY_PATH));
        found.map_or_else(|e| e == Errno::NOENT, |found| found.st_size == 0)
    };
    repos.iter().filter(is_absent).collect()
}

/// Says which database is not there, where a package was not found.
fn without_databases(absent: &[&String], mut failure: Failure) -> Failure {
    let Some(repo) = absent.first() else {
        return failure;
    };
    failure.message += &format!("; the root has no database of the repository {}", quote(*repo));
    failure.hint("leave --no-refresh out; if it was not given, the mirror sent an empty file: try another mirror: mkconf --server URL")
}

/// Returns the archives that pacman named.
fn archives(files: &[&str], entries: &[&Entry]) -> Vec<Suspect> {
    let suspects = files.iter().map(|file| {
        let entry = entries.iter().find(|entry| entry.filename == *file);
        entry.map_or_else(|| Suspect::new(Directory::Cache, file), |entry| Suspect::of(entry))
    });
    suspects.collect()
}

/// Returns the archives of a whole transaction.
fn of_transaction(list: &[Planned], offered: &[(String, Entry)]) -> Vec<Suspect> {
    let entries = list.iter().filter_map(|planned| {
        let is_of = |(repo, entry): &&(String, Entry)| {
            (repo, &entry.name, &entry.filename) == (&planned.repo, &planned.name, &planned.file)
        };
        offered.iter().find(is_of)
    });
    entries.map(|(_, entry)| Suspect::of(entry)).collect()
}

/// Checks the signatures, inside: gpg's scratch home is on a file system that ends with the namespaces.
fn check_inside(
    program: &Gpg,
    keyring: &Path,
    places: &Directories<'_>,
    suspects: &[Suspect],
) -> Result<Found, Failure> {
    // Opened before the tmpfs is there, and by their paths in these namespaces: any of them may be below what that covers.
    let root = Root::open(places.root.path())?;
    let places = Directories { root: &root, ..*places };
    let open = |suspect: &Suspect| places.open(suspect.directory);
    let directories: Vec<_> = suspects.iter().map(open).collect();
    let stored = StoredKeyring::read(keyring)?;
    let home = Home::create(program, gpg::mount_scratch()?, &stored.files)?;
    let keys = home.keys()?;
    let verifier = Verifier { home: &home, keys: &keys };
    let mut told = Vec::new();
    for (suspect, directory) in suspects.iter().zip(&directories) {
        told.push(match directory {
            Ok(Some(cache)) => cache.check(&verifier, &suspect.file, suspect.offered.as_ref())?.0,
            _ => archive::no_archive(),
        });
    }
    let newest = keys.list.iter().max_by_key(|key| key.created);
    Ok(Found { told, newest: newest.map(|key| (key.created, key.fingerprint.clone())) })
}

/// Returns what is wrong: the clock, where it is, or the first problem with a signature; the others are warnings.
fn reason(context: &Context, suspects: &[Suspect], found: &Found, entries: &[&Entry]) -> Option<Failure> {
    let names = suspects.iter().map(|suspect| suspect.name.as_str());
    let problems = problems(names.zip(&found.told));
    let (first, rest) = problems.split_first()?;
    if let Some(failure) = clock(found, entries) {
        return Some(failure);
    }
    for problem in rest {
        context.warn(problem.line("checking"));
    }
    let line = first.line("checking") + &and_more(rest.len());
    let removed = first.word == Verdict::Bad.word();
    let hint = first.hint.clone().map(|hint| if removed { REMOVED.to_owned() } else { hint });
    Some(Failure { hint, ..Failure::new(Code::NotVerified, line) })
}

/// What to do about a file that is not what was signed: [`explain`] has removed it.
const REMOVED: &str =
    "nothing was installed; run it again, which downloads the file again, or try another mirror: mkconf --server URL";

/// Says that the clock is behind what is known to be past: a key that was made, a package that was built.
fn clock(found: &Found, entries: &[&Entry]) -> Option<Failure> {
    let made = found.newest.as_ref().map(|(time, key)| (*time, key.as_str()));
    let built = entries.iter().filter_map(|entry| Some((entry.built?, entry.name.as_str())));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    diagnosis::clock(now.unwrap_or_default().as_secs(), built, made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::english::{self, Trouble};

    fn error(text: &str) -> OutputEvent {
        english::read(&format!("error: {text}")).unwrap()
    }

    #[test]
    fn a_path_in_the_output_is_a_name_in_the_cache() {
        let event = |path: &str| OutputEvent::Corrupted(path.into());
        let events = [
            event("/etc/passwd"),
            event("/c/a-1-1-any.pkg.tar.zst"),
            event("/"),
            event("/c/.."),
            event("/c/b\nc"),
            OutputEvent::Error(Trouble::Other, "/c/d".into()),
        ];
        assert_eq!(corrupted(&events), ["passwd", "a-1-1-any.pkg.tar.zst"]);
        let entry = Entry { name: "a".into(), filename: "a-1-1-any.pkg.tar.zst".into(), ..Entry::default() };
        let found: Vec<_> =
            archives(&corrupted(&events), &[&entry]).into_iter().map(|s| (s.name, s.file, s.directory)).collect();
        let archive = "a-1-1-any.pkg.tar.zst";
        let expected = [("passwd", "passwd"), ("a", archive)]
            .map(|(name, file)| (name.to_owned(), file.to_owned(), Directory::Cache));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_signature_that_is_not_there_is_none_that_is_wrong() {
        for (text, expected) in [
            ("failed retrieving file 'a.sig' from h : The requested URL returned error: 404", false),
            ("failed to commit transaction (failed to retrieve some files)", false),
            ("failed to commit transaction (invalid or corrupted package (PGP signature))", true),
            ("nano: signature from \"X\" is unknown trust", true),
            ("required key missing from keyring", true),
        ] {
            assert_eq!(is_about_signatures(&[error(text)]), expected, "{text}");
        }
    }

    #[test]
    fn a_refused_database_has_the_signed_ones_checked() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(&directory.path().canonicalize().unwrap()).unwrap();
        let sync = root.path().join(SYNC);
        std::fs::create_dir_all(&sync).unwrap();
        for name in ["core.db", "core.db.sig", "extra.db", "extra.files"] {
            std::fs::write(sync.join(name), "").unwrap();
        }
        let refused = error("failed to synchronize all databases (invalid or corrupted database (PGP signature))");
        let files = |events: &[OutputEvent]| -> Vec<String> {
            let suspects = databases(&root, events).unwrap();
            suspects.into_iter().map(|s| s.file).collect()
        };
        assert_eq!(files(&[refused]), ["core.db"]);
        assert_eq!(files(&[error("target not found: x")]), [""; 0]);
    }

    #[test]
    fn a_bad_archive_is_removed_with_its_signature() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        for name in ["root/var/lib/pacman", "cache", "outside"] {
            std::fs::create_dir_all(top.join(name)).unwrap();
        }
        for name in ["cache/a", "cache/a.sig", "cache/b", "outside/core.db"] {
            std::fs::write(top.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(top.join("outside"), top.join("root").join(SYNC)).unwrap();
        let root = Root::open(&top.join("root")).unwrap();
        let places = Directories { root: &root, cache: &top.join("cache") };
        let context = Context::new("test", true);
        places.remove(&context, Directory::Cache, "a");
        places.remove(&context, Directory::Sync, "core.db");
        let there = |name: &str| top.join(name).exists();
        assert!(!there("cache/a") && !there("cache/a.sig"));
        assert!(there("cache/b") && there("outside/core.db"));
    }
}
