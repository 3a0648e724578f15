//! The work inside: each package's archive against the keyring, and its files against the mtree of that archive.
//!
//! What a root says of itself proves nothing: who changed a file could change pacman's record of it as well. So where an
//! archive's signature holds, its own `.MTREE` and `.PKGINFO` are the measure, and the record in the root is a file that
//! is compared like any other.

use crate::files::{self, Compared, Files, Rules, is_absent, is_other};
use crate::installed::{LIMIT, Subject};
use package::archive::extract_members;
use package::digest::sha256_hex;
use package::mtree;
use pacman::diagnosis::archive::{self, Cache};
use pacman::diagnosis::gpg::{self, Gpg, Home, Kept};
use pacman::diagnosis::listing::{Key, Keys};
use pacman::diagnosis::report::Told;
use pacman::diagnosis::{Diagnosis, Judge, Verdict};
use pacman::records::LOCAL;
use rootfs::{Root, gnupg};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use stage::{Code, Document, Doing, Failure, quote};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The most that the few members of an archive have that are read.
const HEAD: u64 = 64 << 20;

/// What is to be checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) document: &'a Document,
    pub(crate) subjects: &'a [Subject],
    /// The package cache.
    pub(crate) cache: &'a Path,
    /// The host's gpg, where signatures are checked.
    pub(crate) gpg: Option<&'a Gpg>,
    /// What files are compared by, where they are.
    pub(crate) rules: Option<&'a Rules>,
    /// The keyring beside the root.
    pub(crate) gpgdir: &'a Path,
}

/// What was found, in the order of the packages.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Found {
    pub(crate) packages: Vec<Checked>,
    /// What gives trust, beside the root or in it, and is by no pinned key: keys that are valid, and what cannot be read.
    pub(crate) strangers: Vec<String>,
    /// How long that took.
    pub(crate) seconds: f64,
}

/// What was found of a package.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    pub(crate) signature: Option<Told>,
    pub(crate) files: Option<Files>,
    /// Why its files could not be compared.
    pub(crate) unknown: Option<String>,
}

/// Does it, and returns [`Found`] as JSON.
///
/// # Errors
///
/// When the keyring or the cache cannot be used. What is found wrong is no error.
pub(crate) fn work(task: Task<'_>) -> Result<Found, Failure> {
    let begin = Instant::now();
    // Opened before the tmpfs is there: both may be below what that covers.
    let root = Root::of(task.document)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cache = match openat(CWD, task.cache, flags, Mode::empty()) {
        Ok(cache) => Some(cache),
        Err(e) if is_absent(e) => None,
        Err(e) => {
            return Err(e).doing(Code::Os, || {
                format!("opening the package cache {}", quote(task.cache))
            });
        }
    };
    let mut found = Found::default();
    let home = match task.gpg {
        Some(program) => {
            let kept = Kept::read(task.gpgdir)?;
            let in_root = read_keyring_in_root(&root)?;
            let scratch = gpg::scratch()?;
            let home = Home::lay_out(program, kept.files(), scratch)?;
            let keys = home.keys()?;
            let mut strangers = kept.extended().to_vec();
            if !in_root.files.is_empty() && in_root.files != kept.files() {
                let scratch = scratch.with_extension("root");
                match Home::lay_out(program, &in_root.files, &scratch)?.keys() {
                    Ok(theirs) => {
                        let valid = theirs.strangers(&keys, kept.own());
                        strangers.extend(valid.into_iter().map(Key::name));
                    }
                    // What the root has made of it keeps nobody from looking at the packages.
                    Err(failure) if matches!(failure.code, Code::ChildFailed | Code::Failed) => {
                        let why = failure.message;
                        found.strangers.push(format!("the root's is none: {why}"));
                    }
                    Err(failure) => return Err(failure),
                }
            }
            let is_valid = |key: &String| format!("{key} is valid, and by no pinned key");
            found.strangers.extend(strangers.iter().map(is_valid));
            if in_root.has_database {
                found.strangers.push(DATABASE.to_owned());
            }
            Some((home, keys))
        }
        None => None,
    };
    let checker = Checker {
        task,
        root: &root,
        cache: cache.as_ref(),
        home: home.as_ref().map(|(home, keys)| (home, keys)),
    };
    let all = checker.all()?;
    let speaks: Vec<bool> = all.iter().map(|one| one.speaks).collect();
    let (mut packages, mut compared): (Vec<_>, Vec<_>) = all
        .into_iter()
        .map(|one| (one.checked, one.compared))
        .unzip();
    files::settle(&root, &mut compared, |n| speaks[n]);
    for (checked, compared) in packages.iter_mut().zip(compared) {
        if let Some(files) = &mut checked.files {
            *files = compared.files;
        }
    }
    found.packages = packages;
    found.seconds = begin.elapsed().as_secs_f64();
    Ok(found)
}

const DATABASE: &str =
    "the root's has keys in a database of keyboxd's ('public-keys.d'), which only that reads";

/// The keyring that the root's own pacman goes by.
#[derive(Default)]
struct InRoot {
    /// Its keys and its trust; nothing where there are no keys.
    files: Vec<(&'static str, Vec<u8>)>,
    /// Whether it has others.
    has_database: bool,
}

/// Reads the keyring that the root's own pacman goes by.
fn read_keyring_in_root(root: &Root) -> Result<InRoot, Failure> {
    let doing = || format!("reading {}", quote(root.path().join(gpg::AT)));
    let directory = match root.open_below(gpg::AT, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(e) if is_absent(e) => return Ok(InRoot::default()),
        Err(e) => return Err(e).doing(Code::Failed, doing),
    };
    let mut files = gnupg::read_keys(directory.as_fd()).doing(Code::Failed, doing)?;
    if !gnupg::has_keys(&files) {
        files.clear();
    }
    Ok(InRoot {
        files,
        has_database: gnupg::has_database(directory.as_fd()),
    })
}

struct Checker<'a> {
    task: Task<'a>,
    root: &'a Root,
    cache: Option<&'a OwnedFd>,
    home: Option<(&'a Home<'a>, &'a Keys)>,
}

/// What an archive says of itself.
struct Head {
    mtree: Option<Vec<u8>>,
    backup: BTreeSet<String>,
    /// Name and version.
    is: (String, String),
}

impl Checker<'_> {
    /// Checks all packages, as many at a time as there are processors: gpg hashes one archive while we hash files.
    fn all(&self) -> Result<Vec<One>, Failure> {
        let next = AtomicUsize::new(0);
        let subjects = self.task.subjects;
        let mut results = Vec::new();
        results.resize_with(subjects.len(), One::default);
        let results = Mutex::new(results);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let worker = || -> Result<(), Failure> {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(subject) = subjects.get(n) else {
                    return Ok(());
                };
                let one = self.one(subject)?;
                results.lock().unwrap_or_else(PoisonError::into_inner)[n] = one;
            }
        };
        std::thread::scope(|scope| {
            // Where a limit on threads is reached, fewer do it, and this one alone if need be.
            let others: Vec<_> = (1..threads)
                .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, worker).ok())
                .collect();
            let own = worker();
            let joined = others.into_iter().try_for_each(|worker| {
                let died = || Failure::new(Code::Os, "checking packages: a thread died");
                worker.join().map_err(|_| died())?
            });
            own.and(joined)
        })?;
        Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn one(&self, subject: &Subject) -> Result<One, Failure> {
        let mut one = One {
            speaks: self.home.is_none(),
            ..One::default()
        };
        let mut head = None;
        if let Some((home, keys)) = self.home {
            let judge = Judge { home, keys };
            let (mut diagnosis, archive) = self.signature(subject, &judge)?;
            if let (Verdict::Valid, Some(archive)) = (&diagnosis.verdict, archive) {
                match read_head(archive) {
                    Ok(read) if read.is == (subject.name.clone(), subject.version.clone()) => {
                        one.speaks = read.mtree.is_some();
                        head = Some(read);
                    }
                    Ok(read) => {
                        let (name, version) = read.is;
                        diagnosis.verdict = Verdict::Bad;
                        diagnosis.why =
                            format!("it is another package's: that of '{name}' {version}");
                        diagnosis.hint = Some(OTHER.to_owned());
                    }
                    Err(Unread::Archive(why)) => {
                        diagnosis.verdict = Verdict::Unreadable;
                        diagnosis.why = format!(
                            "its archive is validly signed and cannot be read here, so its files were compared with the \
                             root's own record of it: {why}"
                        );
                        diagnosis.hint = Some(FORMATS.to_owned());
                    }
                    Err(Unread::Disk(why)) => {
                        diagnosis.verdict = Verdict::Unreadable;
                        diagnosis.why = format!("its archive cannot be read here: {why}");
                        diagnosis.hint = Some(DISK.to_owned());
                    }
                }
            }
            one.checked.signature = Some(diagnosis.into());
        }
        if let Some(rules) = self.task.rules {
            match self.files(subject, head, rules) {
                Ok(compared) => {
                    one.checked.files = Some(Files::default());
                    one.compared = compared;
                }
                Err(why) => one.checked.unknown = Some(why),
            }
        }
        Ok(one)
    }

    /// Checks the signatures of a package's archive.
    fn signature(
        &self,
        subject: &Subject,
        judge: &Judge<'_>,
    ) -> Result<(Diagnosis, Option<File>), Failure> {
        let (Some(directory), Some(name)) = (self.cache, &subject.archive) else {
            return Ok((archive::no_archive(), None));
        };
        let cache = Cache {
            directory: directory.as_fd(),
            path: self.task.cache,
        };
        cache.judge(judge, name, subject.offered_signature.as_ref())
    }

    /// Compares the files of a package; says why, where there is nothing to compare them with.
    fn files(
        &self,
        subject: &Subject,
        head: Option<Head>,
        rules: &Rules,
    ) -> Result<Compared, String> {
        let at = |file: &str| format!("{LOCAL}/{}/{file}", subject.record);
        let record = self.root.read(&at("mtree"), LIMIT);
        // Of pacman's record.
        let mut own = Files::default();
        let mut backup: BTreeSet<String> = subject.backup.iter().cloned().collect();
        let bytes = match (head, record) {
            (
                Some(Head {
                    mtree: Some(signed),
                    backup: listed,
                    ..
                }),
                record,
            ) => {
                backup = listed;
                match record {
                    Ok(record) if record == signed => {}
                    Ok(_) => own.add_changed(at("mtree"), "content"),
                    Err(e) if is_other(e) => own.add_changed(at("mtree"), "gone or no file"),
                    Err(e) => own.add_unread(at("mtree"), e),
                }
                signed
            }
            (_, Ok(record)) => record,
            (_, Err(e)) if !is_other(e) => {
                own.add_unread(at("mtree"), e);
                return Ok(Compared::of(own));
            }
            (_, Err(e)) => return Err(format!("it has no mtree to compare its files with: {e}")),
        };
        let Ok(entries) = mtree::read(&bytes) else {
            own.add_changed(at("mtree"), "unreadable");
            return Ok(Compared::of(own));
        };
        // The scriptlet runs again when the package is upgraded or removed.
        let scriptlet = entries.iter().find(|entry| entry.path == b".INSTALL");
        match (scriptlet, self.root.read(&at("install"), LIMIT)) {
            (Some(entry), Ok(text)) if entry.sha256 == Some(sha256_hex(&text)) => {}
            (None, Err(e)) if is_absent(e) => {}
            (_, Err(e)) if !is_other(e) => own.add_unread(at("install"), e),
            _ => own.add_changed(at("install"), "content"),
        }
        let mut compared = files::compare(self.root, &entries, &backup, rules);
        compared.files.changed.extend(own.changed);
        compared.files.unread.extend(own.unread);
        Ok(compared)
    }
}

/// What was found of a package, and what is to be decided when all have been compared.
#[derive(Debug, Default)]
struct One {
    checked: Checked,
    compared: Compared,
    /// Whether what it says counts for other packages' files: what is known to be signed does, and all where nobody asked.
    speaks: bool,
}

const FORMATS: &str =
    "zstd, xz, gzip and none are read here: install a build of it that is packed with one of these";
const DISK: &str = "dmesg says what the disk answered; verify again when that is mended";
const OTHER: &str = "remove it from the cache and run again: it is then fetched again";

/// Why an archive was not read.
enum Unread {
    /// It is none.
    Archive(String),
    /// The system call's.
    Disk(std::io::Error),
}

impl From<package::Error> for Unread {
    fn from(error: package::Error) -> Self {
        match error {
            // What a decompressor says has no number.
            package::Error::Read { source, .. } if source.raw_os_error().is_some() => {
                Self::Disk(source)
            }
            other => Self::Archive(other.to_string()),
        }
    }
}

/// Reads what an archive says of itself. Its signature has been checked.
fn read_head(mut archive: File) -> Result<Head, Unread> {
    let mut extract = |names: &[&str]| {
        archive.rewind().map_err(Unread::Disk)?;
        Ok::<_, Unread>(extract_members(BufReader::new(&archive), names, HEAD))
    };
    let mut members = match extract(&[".MTREE", ".PKGINFO"])? {
        // What makepkg of before 4.1 made has none.
        Err(package::Error::NotFound { members }) if members == [".MTREE"] => {
            extract(&[".PKGINFO"])?
        }
        other => other,
    }?;
    let info = members.remove(".PKGINFO").unwrap_or_default();
    let info = String::from_utf8_lossy(&info);
    let values = |key: &str| -> Vec<String> {
        let pairs = info.lines().filter_map(|line| line.split_once('='));
        pairs
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    let one = |key: &str| values(key).into_iter().next().unwrap_or_default();
    Ok(Head {
        mtree: members.remove(".MTREE"),
        backup: values("backup").into_iter().collect(),
        is: (one("pkgname"), one("pkgver")),
    })
}
