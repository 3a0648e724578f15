//! What pacman refused, and why: its words name a package and not the reason, or a key and not the package.
//!
//! "Unknown trust" is what pacman 6 and 7 say of a key that expired, of one that too few masters signed and of one that
//! nobody did. So the files that it refused are looked at again, by the root's keyring ([`crate::diagnosis`]), and what is
//! said is the package, the key, what is the matter with it and what mends that. A clock that is wrong comes first: then
//! all the rest follows from it.

use crate::conf::Conf;
use crate::diagnosis::archive::Cache;
use crate::diagnosis::gpg::{self, Gpg, Home, Kept};
use crate::diagnosis::report::{Told, problems};
use crate::diagnosis::{self, Judge, Verdict};
use crate::english::{self, Mark, Trouble};
use crate::pair;
use crate::portal;
use crate::records::{self, SYNC};
use crate::run::{Pacman, Planned};
use package::db::Entry;
use package::pkginfo;
use rootfs::{Inside, Place, Root};
use rustix::fs::{AtFlags, Mode, OFlags, open, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Doing, Failure, message, quote};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Something that pacman refused, or that may be it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspect {
    /// The package, or the database of a repository.
    name: String,
    /// Its file's name, and where that is.
    file: String,
    place: Where,
    /// Its signature in the repository's database.
    offered: Option<Vec<u8>>,
}

/// Where a file is that pacman refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In the package cache.
    Cache,
    /// Among the root's repository databases.
    Sync,
}

/// The directories of both.
struct Places<'a> {
    root: &'a Root,
    cache: &'a Path,
}

impl Places<'_> {
    fn path(&self, place: Where) -> PathBuf {
        match place {
            Where::Cache => self.cache.to_owned(),
            Where::Sync => self.root.path().join(SYNC),
        }
    }

    fn open(&self, place: Where) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match place {
            Where::Cache => open(self.cache, flags, Mode::empty()),
            Where::Sync => self.root.open_below(SYNC, flags),
        }
    }

    /// Removes a file and its signature.
    fn remove(&self, context: &Context, place: Where, file: &str) {
        let shown = self.path(place);
        let gone = match self.open(place) {
            Ok(directory) => pair::remove_at(directory.as_fd(), &shown, file),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).doing(Code::Os, || format!("opening {}", quote(&shown))),
        };
        if let Err(failure) = gone {
            context.warn(failure.message);
        }
    }
}

/// What was found inside.
#[derive(Debug, Deserialize, Serialize)]
struct Found {
    /// In the order of the suspects.
    told: Vec<Told>,
    /// The newest key of the keyring: when it was made, and its name.
    newest: Option<(u64, String)>,
}

/// Says what it was that pacman refused, in place of `failure`, which has pacman's words: a web page, or, where pacman is
/// strict, a signature and what is wrong with it. And removes it: an archive, as pacman would have (see `ASK` in
/// [`crate::run`]), and also where a key is missing, or the next run would find it in the cache and refuse it again, whatever
/// the mirror has by then; and a database, also one that cannot be read, which pacman would not fetch again from a mirror whose
/// own is no newer. `asked` is what it was asked for: arguments and targets.
pub(crate) fn explain(
    pacman: &Pacman,
    context: &Context,
    inside: &Inside,
    asked: (&[&str], &[String]),
    marks: &[Mark],
    failure: Failure,
) -> Failure {
    let could_not = |why: Failure| {
        context.warn(format_args!("finding out why pacman refused it: {why}"));
    };
    let conf = match Conf::read(&pacman.config) {
        Ok(conf) => conf,
        Err(why) => {
            could_not(why);
            return failure;
        }
    };
    if let Some(page) = portal::explain(inside.root(), &conf, &corrupted(marks)) {
        return page;
    }
    let absent = match failure.code {
        Code::NotFound => absent(inside.root(), &conf.repos),
        _ => Vec::new(),
    };
    let failure = without_databases(&absent, failure);
    let Some(cache) = &conf.cache else {
        return failure;
    };
    let places = Places {
        root: inside.root(),
        cache,
    };
    // Where pacman has no gpg, it looked at nothing of what it names.
    let no_engine = |mark: &Mark| matches!(mark, Mark::Error(Trouble::NoEngine, _));
    let looked = !marks.iter().any(no_engine);
    let named = corrupted(marks).into_iter().filter(|_| looked);
    let mut no_good: Vec<_> = named.map(|file| (Where::Cache, file.to_owned())).collect();
    let mut said = failure;
    if let Some(keyring) = inside.gpgdir().filter(|_| pacman.verifies)
        && said.code == Code::NotVerified
    {
        match look(pacman, keyring, context, inside, asked, marks, &places) {
            Ok(looked) => {
                no_good = looked.no_good;
                said = looked.failure.unwrap_or(said);
            }
            Err(why) => {
                // What nobody examined is no finding, and stays where it is.
                no_good.clear();
                could_not(why);
            }
        }
    }
    let databases = absent.into_iter().chain(unreadable(&conf.repos, marks));
    no_good.extend(databases.map(|repo| (Where::Sync, format!("{repo}.db"))));
    for (place, file) in no_good {
        places.remove(context, place, &file);
    }
    said
}

/// Returns whether pacman had signatures to judge. Where the mirror has none for a file that is new in the cache, its own
/// words say enough.
fn is_about_signatures(marks: &[Mark]) -> bool {
    marks.iter().any(|mark| match mark {
        Mark::Corrupted(_) => true,
        Mark::Error(trouble, _) => trouble.is_about_signatures(),
        _ => false,
    })
}

/// Returns the archives that pacman named as corrupted: their file names only. Whatever else is in pacman's output may be a
/// scriptlet's, and a path from there is nothing to be opened, let alone removed.
fn corrupted(marks: &[Mark]) -> Vec<&str> {
    let files = marks.iter().filter_map(|mark| match mark {
        Mark::Corrupted(path) => Path::new(path).file_name()?.to_str(),
        _ => None,
    });
    files
        .filter(|file| package::name::is_filename(file))
        .collect()
}

/// What [`look`] found.
struct Looked {
    /// What to say; nothing, where no signature is at fault.
    failure: Option<Failure>,
    /// The files that are refused.
    no_good: Vec<(Where, String)>,
}

fn look(
    pacman: &Pacman,
    keyring: &Path,
    context: &Context,
    inside: &Inside,
    (args, targets): (&[&str], &[String]),
    marks: &[Mark],
    places: &Places<'_>,
) -> Result<Looked, Failure> {
    let mut suspects = databases(places.root, marks)?;
    // A database that is refused is not read: it is what is looked at.
    let offered = if suspects.is_empty() {
        records::offered(places.root, &Conf::read(&pacman.config)?.repos)?.entries
    } else {
        Vec::new()
    };
    let entries: Vec<&Entry> = offered.iter().map(|(_, entry)| entry).collect();
    if suspects.is_empty() {
        suspects = archives(&corrupted(marks), &entries);
    }
    if suspects.is_empty() {
        // A key that is missing: pacman does not say of which package.
        let list = pacman.preview(context, inside, args, targets)?;
        suspects = of_transaction(&list, &offered);
    }
    let gpg = Gpg::find()?;
    let found = inside.call(Place::Host, &[], || work(&gpg, keyring, places, &suspects))?;
    let told = suspects.iter().zip(&found.told);
    let (valid, refused): (Vec<_>, Vec<_>) = told.partition(|(_, told)| told.is_valid());
    let mut no_good: Vec<_> = refused
        .iter()
        .map(|(s, _)| (s.place, s.file.clone()))
        .collect();
    if no_good.is_empty()
        && let Some((file, failure)) = disguised(&suspects, &entries, places)
    {
        return Ok(Looked {
            failure: Some(failure),
            no_good: vec![(Where::Cache, file)],
        });
    }
    let failure = judge(context, &suspects, &found, &entries);
    let failure = failure.filter(|_| is_about_signatures(marks));
    // What pacman named leaves the cache whatever we find of it, or the next run would meet it again.
    let named = corrupted(marks);
    let mut others = valid.iter().map(|(suspect, _)| suspect);
    let other = others.find(|suspect| named.contains(&suspect.file.as_str()));
    no_good.extend(named.iter().map(|file| (Where::Cache, (*file).to_owned())));
    Ok(Looked {
        no_good,
        failure: failure.or_else(|| other.map(|suspect| another_build(suspect))),
    })
}

/// Says that an archive is validly signed, by the signature beside it, and pacman goes by the one of the repository's database:
/// a package that was built again under the same version, and a cache that has the old one.
fn another_build(suspect: &Suspect) -> Failure {
    let name = quote(&suspect.name);
    Failure::new(
        Code::NotVerified,
        format!("checking {name}: it is another build of that version than the repository's database means"),
    )
    .hint(REMOVED)
}

/// Finds an archive that is another package than its entry in the database says. pacman says of such a one "invalid or
/// corrupted package" and no more, and only when it is to be installed: its signature holds.
fn disguised(
    suspects: &[Suspect],
    entries: &[&Entry],
    places: &Places<'_>,
) -> Option<(String, Failure)> {
    let directory = places.open(Where::Cache).ok()?;
    let cache = Cache {
        directory: directory.as_fd(),
        path: places.cache,
    };
    suspects.iter().find_map(|suspect| {
        let entry = entries.iter().find(|e| e.filename == suspect.file)?;
        // One that cannot be read is damaged, as pacman says, whose word is then the last.
        let is = pkginfo::of_archive(cache.open(&suspect.file).ok()??).ok()?;
        if (&is.name, &is.version) == (&entry.name, &entry.version) {
            return None;
        }
        let message = format!(
            "checking {}: it is package {} {}, validly signed, and should be {} {}",
            quote(&entry.name),
            quote(&is.name),
            is.version,
            quote(&entry.name),
            entry.version
        );
        let failure = Failure::new(Code::NotVerified, message).hint(REMOVED);
        Some((suspect.file.clone(), failure))
    })
}

/// Returns the signed databases, where pacman refused one of them: `failed to synchronize all databases (invalid or corrupted
/// database (PGP signature))`, `database 'core' is not valid (…)`.
fn databases(root: &Root, marks: &[Mark]) -> Result<Vec<Suspect>, Failure> {
    let refused = marks
        .iter()
        .any(|mark| matches!(mark, Mark::Error(trouble, _) if trouble.is_about_a_database()));
    if !refused {
        return Ok(Vec::new());
    }
    let names = records::names_in(root, SYNC)?;
    let signed = names.iter().filter_map(|name| name.strip_suffix(".db.sig"));
    let suspects = signed.map(|repo| Suspect {
        name: format!("{repo}.db"),
        file: format!("{repo}.db"),
        place: Where::Sync,
        offered: None,
    });
    Ok(suspects.collect())
}

/// Returns the repositories whose databases pacman could not read.
fn unreadable<'a>(repos: &'a [String], marks: &[Mark]) -> Vec<&'a String> {
    let is_named = |repo: &&String| {
        marks.iter().any(|mark| {
            matches!(mark, Mark::Error(Trouble::DatabaseUnreadable, text)
                if english::unreadable(text) == Some(repo.as_str()))
        })
    };
    repos.iter().filter(is_named).collect()
}

/// Returns the repositories that the root has no database of, or an empty file: pacman goes on without them, and to it an empty
/// file is a database without packages.
fn absent<'a>(root: &Root, repos: &'a [String]) -> Vec<&'a String> {
    let sync = root.open_below(SYNC, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC);
    let is_absent = |repo: &&String| {
        let look = |directory: &OwnedFd| {
            statat(directory, format!("{repo}.db"), AtFlags::SYMLINK_NOFOLLOW)
        };
        match sync.as_ref().map_err(|e| *e).and_then(look) {
            Ok(found) => found.st_size == 0,
            Err(e) => e == Errno::NOENT,
        }
    };
    repos.iter().filter(is_absent).collect()
}

/// Says which database is not there, where a package was not found.
fn without_databases(absent: &[&String], mut failure: Failure) -> Failure {
    let Some(repo) = absent.first() else {
        return failure;
    };
    failure.message += &format!(
        "; the root has no database of the repository {}",
        quote(*repo)
    );
    failure.hint("leave --no-refresh out; where it was, the mirror sent an empty file: try another mirror: mkconf --server URL")
}

/// Returns the archives that pacman named.
fn archives(files: &[&str], entries: &[&Entry]) -> Vec<Suspect> {
    let suspects = files.iter().map(|file| {
        let entry = entries.iter().find(|entry| entry.filename == *file);
        Suspect {
            name: entry.map_or_else(|| (*file).to_owned(), |entry| entry.name.clone()),
            file: (*file).to_owned(),
            place: Where::Cache,
            offered: entry.and_then(|entry| entry.signature()),
        }
    });
    suspects.collect()
}

/// Returns the archives of a whole transaction.
fn of_transaction(list: &[Planned], offered: &[(String, Entry)]) -> Vec<Suspect> {
    let entry = |planned: &Planned| {
        let is_of = |(repo, entry): &&(String, Entry)| {
            (repo, &entry.name, &entry.filename) == (&planned.repo, &planned.name, &planned.file)
        };
        offered.iter().find(is_of).map(|(_, entry)| entry)
    };
    let suspects = list.iter().filter_map(entry).map(|entry| Suspect {
        name: entry.name.clone(),
        file: entry.filename.clone(),
        place: Where::Cache,
        offered: entry.signature(),
    });
    suspects.collect()
}

/// Looks at the signatures, inside: gpg's scratch home is on a file system that ends with the namespaces.
fn work(
    program: &Gpg,
    keyring: &Path,
    places: &Places<'_>,
    suspects: &[Suspect],
) -> Result<Found, Failure> {
    // Opened before the tmpfs is there, and by their paths in these namespaces: any of them may be below what that covers.
    let places = Places {
        root: &Root::open(places.root.path())?,
        ..*places
    };
    let open = |suspect: &Suspect| places.open(suspect.place);
    let directories: Vec<_> = suspects.iter().map(open).collect();
    let kept = Kept::read(keyring)?;
    let home = Home::lay_out(program, kept.files(), gpg::scratch()?)?;
    let keys = home.keys()?;
    let judge = Judge {
        home: &home,
        keys: &keys,
    };
    let mut told = Vec::new();
    for (suspect, directory) in suspects.iter().zip(&directories) {
        let Ok(directory) = directory else {
            told.push(diagnosis::archive::no_archive().into());
            continue;
        };
        let cache = Cache {
            directory: directory.as_fd(),
            path: &places.path(suspect.place),
        };
        let (diagnosis, _) = cache.judge(&judge, &suspect.file, suspect.offered.as_ref())?;
        told.push(diagnosis.into());
    }
    let newest = keys.list.iter().max_by_key(|key| key.created);
    Ok(Found {
        told,
        newest: newest.map(|key| (key.created, key.fingerprint.clone())),
    })
}

/// Says what is wrong: the clock, where it is, or the first problem with a signature; the others are warnings.
fn judge(
    context: &Context,
    suspects: &[Suspect],
    found: &Found,
    entries: &[&Entry],
) -> Option<Failure> {
    let names = suspects.iter().map(|suspect| suspect.name.as_str());
    let problems = problems(names.zip(&found.told));
    let (first, rest) = problems.split_first()?;
    if let Some(failure) = clock(found, entries) {
        return Some(failure);
    }
    for problem in rest {
        context.warn(problem.line("checking"));
    }
    let more = match rest.len() {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let failure = Failure::new(
        Code::NotVerified,
        format!("{}{more}", first.line("checking")),
    );
    let removed = first.word == Verdict::Bad.word();
    Some(match &first.hint {
        Some(_) if removed => failure.hint(REMOVED),
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// What mends a file that is not what was signed: [`explain`] has removed it.
const REMOVED: &str = "nothing was installed; run it again, which fetches it again, or try another mirror: mkconf --server URL";

/// Says that the clock is behind what is known to be past: a key that was made, a package that was built.
fn clock(found: &Found, entries: &[&Entry]) -> Option<Failure> {
    let made = found.newest.as_ref();
    let made =
        made.map(|(time, key)| (*time, format!("the key {} was made", message::escape(key))));
    let built = entries.iter().filter_map(|entry| {
        let name = message::escape(&entry.name);
        Some((entry.built?, format!("'{name}' was built")))
    });
    let (time, what) = built.chain(made).max_by_key(|(time, _)| *time)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    diagnosis::clock(now.unwrap_or_default().as_secs(), (time, &what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::english::{self, Trouble};

    fn error(text: &str) -> Mark {
        english::read(&format!("error: {text}")).unwrap()
    }

    #[test]
    fn a_path_in_the_output_is_no_more_than_a_name_in_the_cache() {
        let mark = |path: &str| Mark::Corrupted(path.into());
        let marks = [
            mark("/etc/passwd"),
            mark("/c/a-1-1-any.pkg.tar.zst"),
            mark("/"),
            mark("/c/.."),
            mark("/c/b\nc"),
            Mark::Error(Trouble::Other, "/c/d".into()),
        ];
        assert_eq!(corrupted(&marks), ["passwd", "a-1-1-any.pkg.tar.zst"]);
        let entry = Entry {
            name: "a".into(),
            filename: "a-1-1-any.pkg.tar.zst".into(),
            ..Entry::default()
        };
        let found: Vec<_> = archives(&corrupted(&marks), &[&entry])
            .into_iter()
            .map(|s| (s.name, s.file, s.place))
            .collect();
        let archive = "a-1-1-any.pkg.tar.zst";
        let expected = [("passwd", "passwd"), ("a", archive)]
            .map(|(name, file)| (name.to_owned(), file.to_owned(), Where::Cache));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_signature_that_is_not_there_is_none_that_is_wrong() {
        for (text, expected) in [
            (
                "failed retrieving file 'a.sig' from h : The requested URL returned error: 404",
                false,
            ),
            (
                "failed to commit transaction (failed to retrieve some files)",
                false,
            ),
            (
                "failed to commit transaction (invalid or corrupted package (PGP signature))",
                true,
            ),
            ("nano: signature from \"X\" is unknown trust", true),
            ("required key missing from keyring", true),
        ] {
            assert_eq!(is_about_signatures(&[error(text)]), expected, "{text}");
        }
    }

    #[test]
    fn where_a_database_is_refused_the_signed_ones_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(&directory.path().canonicalize().unwrap()).unwrap();
        let sync = root.path().join(SYNC);
        std::fs::create_dir_all(&sync).unwrap();
        for name in ["core.db", "core.db.sig", "extra.db", "extra.files"] {
            std::fs::write(sync.join(name), "").unwrap();
        }
        let refused = error(
            "failed to synchronize all databases (invalid or corrupted database (PGP signature))",
        );
        let files = |marks: &[Mark]| -> Vec<String> {
            let suspects = databases(&root, marks).unwrap();
            suspects.into_iter().map(|s| s.file).collect()
        };
        assert_eq!(files(&[refused]), ["core.db"]);
        assert_eq!(files(&[error("target not found: x")]), [""; 0]);
    }

    #[test]
    fn what_is_no_good_is_removed_with_its_signature_and_nothing_is_followed() {
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
        let places = Places {
            root: &root,
            cache: &top.join("cache"),
        };
        let context = Context::new("test", true);
        places.remove(&context, Where::Cache, "a");
        places.remove(&context, Where::Sync, "core.db");
        let there = |name: &str| top.join(name).exists();
        assert!(!there("cache/a") && !there("cache/a.sig"));
        assert!(there("cache/b") && there("outside/core.db"));
    }
}
