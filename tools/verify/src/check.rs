//! The work inside: checks each package's archive against the keyring, and its files against the mtree of that archive.
//!
//! A root's own records prove nothing: who changed a file could change pacman's record of it as well. So where an
//! archive's signature is valid, its own `.MTREE` and `.PKGINFO` are the reference, and the record in the root is a file
//! that is compared like any other.

use crate::Plan;
use crate::files::{self, Compared, Files, Rules, is_absent, is_other};
use crate::installed::{LIMIT, Subject};
use crate::unowned;
use package::archive::extract_present;
use package::digest::sha256_hex;
use package::mtree;
use package::pkginfo::{self, PkgInfo};
use pacman::diagnosis::archive::{self, Cache};
use pacman::diagnosis::{Diagnosis, Verdict, Verifier};
use pacman::gpg::listing::Key;
use pacman::gpg::{self, Home, PublicFiles, StoredKeyring};
use pacman::records::LOCAL;
use rootfs::{Root, gnupg};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use stage::members::Unowned;
use stage::{Code, Context, Document, Doing, Failure, Progress, Unit, quote};
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The limit for the members of an archive that are read, in bytes.
const HEAD: u64 = 64 << 20;

/// What was found, in the order of the packages.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Found {
    pub(crate) packages: Vec<Checked>,
    /// What gives trust, beside the root or in it, and is by no pinned key: keys that are valid, and what cannot be read.
    pub(crate) strangers: Vec<String>,
    /// What was found of the files that trees brought, where files were compared.
    pub(crate) tree: Option<Files>,
    /// What belongs to no package, where that is asked.
    pub(crate) unowned: Option<Unowned>,
    /// How long the checks took.
    pub(crate) seconds: f64,
}

/// What was found of a package.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    pub(crate) signature: Option<Diagnosis>,
    pub(crate) files: Option<Files>,
    /// Why its files could not be compared.
    pub(crate) unknown: Option<String>,
}

/// Makes all checks.
///
/// # Errors
///
/// When the keyring or the cache cannot be used. What is found wrong is no error.
pub(crate) fn work(
    context: &Context,
    document: &Document,
    plan: &Plan,
    subjects: &[Subject],
) -> Result<Found, Failure> {
    let begin = Instant::now();
    // Opened before the tmpfs is there: both may be below what that covers.
    let root = Root::of(document)?;
    let cache = match Cache::at(&plan.config.cache) {
        Err(e) if is_absent(e) => None,
        cache => Some(cache.doing(Code::Os, || format!("opening the package cache {}", quote(&plan.config.cache)))?),
    };
    let mut found = Found::default();
    let home = match &plan.gpg {
        Some(program) => {
            let stored = StoredKeyring::read(&plan.config.gpgdir())?;
            let (in_root, has_database) = read_keyring_in_root(&root)?;
            let scratch = gpg::mount_scratch()?;
            let home = Home::create(program, scratch, &stored.files)?;
            let keys = home.keys()?;
            let mut strangers = stored.extended.clone();
            if !in_root.is_empty() && in_root != stored.files {
                let scratch = scratch.with_extension("root");
                match Home::create(program, &scratch, &in_root)?.keys() {
                    Ok(theirs) => {
                        let valid = theirs.strangers(&keys, &stored.own);
                        strangers.extend(valid.into_iter().map(Key::name));
                    }
                    // An invalid keyring in the root does not prevent the check of packages.
                    Err(failure) if matches!(failure.code, Code::ChildFailed | Code::Failed) => {
                        let why = failure.message;
                        found.strangers.push(format!("the root's is invalid: {why}"));
                    }
                    Err(failure) => return Err(failure),
                }
            }
            let is_valid = |key: &String| format!("{key} is valid, and by no pinned key");
            found.strangers.extend(strangers.iter().map(is_valid));
            if has_database {
                found.strangers.push(DATABASE.to_owned());
            }
            Some((home, keys))
        }
        None => None,
    };
    let verifier = home.as_ref().map(|(home, keys)| Verifier { home, keys });
    let progress = context.progress("verifying", Unit::Packages, Some(subjects.len() as u64));
    let checker = Checker { plan, subjects, root: &root, cache, verifier, progress };
    let (mut packages, mut compared): (Vec<_>, Vec<_>) = checker.check_all()?.into_iter().unzip();
    files::decide_pending(&root, &mut compared);
    if let Some(rules) = plan.rules.as_ref().filter(|_| plan.has_base) {
        let owned = compared.iter().flat_map(|one| one.paths.iter().cloned()).collect();
        found.unowned = Some(unowned::find(&root, &owned, rules)?);
    }
    for (checked, compared) in packages.iter_mut().zip(compared) {
        if let Some(files) = &mut checked.files {
            *files = compared.files;
        }
    }
    found.packages = packages;
    if let Some(rules) = &plan.rules {
        found.tree = (!plan.tree.is_empty()).then(|| files::compare_tree(&root, &plan.tree, rules));
    }
    found.seconds = begin.elapsed().as_secs_f64();
    Ok(found)
}

const DATABASE: &str = "the root's has keys in a database of keyboxd's ('public-keys.d'), which only that reads";

/// Reads the keyring that the root's own pacman uses: its keys and its trust, nothing where there are no keys, and whether it
/// has others in a database.
fn read_keyring_in_root(root: &Root) -> Result<(PublicFiles, bool), Failure> {
    let doing = || format!("reading {}", quote(root.path().join(gpg::AT)));
    let directory = match root.open_below(gpg::AT, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(e) if is_absent(e) => return Ok((Vec::new(), false)),
        directory => directory.doing(Code::Failed, doing)?,
    };
    let mut files = gnupg::read_keys(directory.as_fd()).doing(Code::Failed, doing)?;
    if !gnupg::has_keys(&files) {
        files.clear();
    }
    Ok((files, gnupg::has_database(directory.as_fd())))
}

struct Checker<'a> {
    plan: &'a Plan,
    subjects: &'a [Subject],
    root: &'a Root,
    cache: Option<Cache>,
    verifier: Option<Verifier<'a>>,
    progress: Progress,
}

/// Packages that no thread has taken. The largest are taken first, so that no thread is left alone with one.
struct Queue {
    /// Their numbers, and about how much work they are, in bytes.
    packages: VecDeque<(usize, u64)>,
    /// How much work all of them are.
    left: u64,
}

impl Queue {
    fn of(subjects: &[Subject]) -> Self {
        let mut packages: Vec<_> = subjects.iter().map(work_of).enumerate().collect();
        packages.sort_by_key(|(_, work)| Reverse(*work));
        Self { left: packages.iter().map(|(_, work)| work).sum(), packages: packages.into() }
    }

    /// Takes the packages that one of so many threads checks next: its part of what is left, or one; none where none is left.
    fn take(&mut self, threads: u64) -> Vec<usize> {
        let share = self.left / threads;
        let mut taken = Vec::new();
        let mut work = 0;
        while let Some((n, more)) = self.packages.front().copied() {
            if !taken.is_empty() && (taken.len() == TOGETHER || work + more > share) {
                break;
            }
            self.packages.pop_front();
            taken.push(n);
            work += more;
        }
        self.left -= work;
        taken
    }
}

/// The most packages that a thread takes at a time: gpg checks them together, and has each open.
const TOGETHER: usize = 20;

/// Returns about how much work a package is, in bytes.
fn work_of(subject: &Subject) -> u64 {
    // A small one takes as long as so much of a large one.
    const LEAST: u64 = 500_000;
    // A record may say anything.
    subject.known.size.unwrap_or_default().min(1 << 40) + LEAST
}

/// What was found of an archive's signature, and the archive where that is good.
type Signed = (Diagnosis, Option<File>);

/// The members of an archive that describe the package.
struct Head {
    mtree: Option<Vec<u8>>,
    info: PkgInfo,
}

impl Checker<'_> {
    /// Checks all packages with as many threads as there are processors: gpg hashes archives while we hash files.
    fn check_all(&self) -> Result<Vec<(Checked, Compared)>, Failure> {
        let queue = Mutex::new(Queue::of(self.subjects));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let worker = || -> Result<Vec<_>, Failure> {
            let mut done = Vec::new();
            loop {
                let numbers = queue.lock().unwrap_or_else(PoisonError::into_inner).take(threads as u64);
                let Some(first) = numbers.first() else {
                    return Ok(done);
                };
                self.progress.item(&self.subjects[*first].known.name);
                let subjects: Vec<_> = numbers.iter().map(|n| &self.subjects[*n]).collect();
                let signed = self.check_signatures(&subjects)?;
                for ((n, subject), signed) in numbers.into_iter().zip(subjects).zip(signed) {
                    self.progress.item(&subject.known.name);
                    done.push((n, self.check(subject, signed)));
                    self.progress.advance(1);
                }
            }
        };
        let mut all = std::thread::scope(|scope| {
            // Where a limit on threads is reached there are fewer, or only this one.
            let others: Vec<_> =
                (1..threads).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, worker).ok()).collect();
            let mut all = worker()?;
            for other in others {
                let died = |_| Failure::new(Code::Os, "checking packages: a thread died");
                all.extend(other.join().map_err(died)??);
            }
            Ok(all)
        })?;
        all.sort_by_key(|(n, _)| *n);
        Ok(all.into_iter().map(|(_, result)| result).collect())
    }

    /// Checks the archives of packages, and returns those that are what they should be; `None` where signatures are not checked.
    fn check_signatures(&self, subjects: &[&Subject]) -> Result<Vec<Option<Signed>>, Failure> {
        let Some(verifier) = &self.verifier else {
            return Ok(subjects.iter().map(|_| None).collect());
        };
        let Some(cache) = &self.cache else {
            return Ok(subjects.iter().map(|_| Some((archive::no_archive(), None))).collect());
        };
        let signed = subjects.iter().copied().filter(|subject| subject.unsigned().is_none());
        let wanted: Vec<_> = signed
            .filter_map(|subject| Some((subject.archive.as_deref()?, subject.offered_signature.as_ref())))
            .collect();
        let mut checked = cache.check_all(verifier, &wanted)?.into_iter();
        let all = subjects.iter().map(|subject| match (&subject.archive, subject.unsigned()) {
            (None, _) => Some((archive::no_archive(), None)),
            (Some(name), Some(sha256)) => Some(cache.check_hash(name, sha256)),
            (Some(_), None) => checked.next(),
        });
        Ok(all.collect())
    }

    fn check(&self, subject: &Subject, signed: Option<Signed>) -> (Checked, Compared) {
        let mut checked = Checked::default();
        let mut compared = Compared::default();
        let mut trusted = self.verifier.is_none();
        let mut head = None;
        if let Some((mut diagnosis, archive)) = signed {
            let refusal = subject.repo().zip(diagnosis.key.as_deref()).filter(|_| diagnosis.is_valid());
            let refusal = refusal.and_then(|(repo, key)| self.plan.vouchers.refusal(repo, key));
            if let Some(why) = &refusal {
                let (verdict, why, hint) = (Verdict::OtherPublisher, why.clone(), Some(PUBLISHER.to_owned()));
                diagnosis = Diagnosis { verdict, why, hint, ..diagnosis };
            }
            match archive.filter(|_| refusal.is_none()).map(|archive| read_head(archive, subject)) {
                Some(Ok(read)) => {
                    trusted = read.mtree.is_some();
                    head = Some(read);
                }
                Some(Err((verdict, why, hint))) => {
                    diagnosis = Diagnosis { verdict, why, hint: Some(hint.to_owned()), ..diagnosis };
                }
                None => {}
            }
            checked.signature = Some(diagnosis);
        }
        if let Some(rules) = &self.plan.rules {
            match self.compare_files(subject, head, rules) {
                Ok(files) => {
                    checked.files = Some(Files::default());
                    compared = files;
                }
                Err(why) => checked.unknown = Some(why),
            }
        }
        compared.trusted = trusted;
        (checked, compared)
    }

    /// Compares the files of a package. The error says why there is nothing to compare them with.
    fn compare_files(&self, subject: &Subject, head: Option<Head>, rules: &Rules) -> Result<Compared, String> {
        let at = |file: &str| format!("{LOCAL}/{}/{file}", subject.record);
        let record = self.root.read(&at("mtree"), LIMIT);
        // Of pacman's record.
        let mut own = Files::default();
        let mut backup: BTreeSet<String> = subject.backup.iter().cloned().collect();
        let bytes = match (head, record) {
            (Some(Head { mtree: Some(signed), info }), record) => {
                backup = info.backup.into_iter().collect();
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
                return Ok(Compared { files: own, ..Compared::default() });
            }
            (_, Err(e)) => return Err(format!("it has no mtree to compare its files with: {e}")),
        };
        let Ok(mut entries) = mtree::read(&bytes) else {
            own.add_changed(at("mtree"), "unreadable");
            return Ok(Compared { files: own, ..Compared::default() });
        };
        // The scriptlet runs again when the package is upgraded or removed.
        let scriptlet = entries.iter().find(|entry| entry.path == b".INSTALL");
        match (scriptlet, self.root.read(&at("install"), LIMIT)) {
            (Some(entry), Ok(text)) if entry.sha256 == Some(sha256_hex(&text)) => {}
            (None, Err(e)) if is_absent(e) => {}
            (_, Err(e)) if !is_other(e) => own.add_unread(at("install"), e),
            _ => own.add_changed(at("install"), "content"),
        }
        // Members of the package that are not installed: `.PKGINFO`, `.INSTALL`, `.CHANGELOG`.
        entries.retain(|entry| !entry.path.starts_with(b"."));
        let mut compared = files::compare(self.root, &entries, &backup, rules);
        if self.plan.has_base {
            compared.paths = entries.into_iter().map(|entry| entry.path).collect();
        }
        compared.files.changed.extend(own.changed);
        compared.files.unread.extend(own.unread);
        Ok(compared)
    }
}

const FORMATS: &str = "verify reads archives with zstd, xz, gzip or no compression: install a build with one of these";
pub(crate) const DISK: &str = "dmesg has the disk's error; fix that, and verify again";
const PUBLISHER: &str = "do not use it, unless you know how it got there: strap would not install it";
const OTHER: &str = "remove it from the cache and run again: it is then fetched again";

/// Reads the members of an archive, whose signature has been checked. The error is a verdict, the reason and a hint.
fn read_head(mut archive: File, subject: &Subject) -> Result<Head, (Verdict, String, &'static str)> {
    let unreadable = |error: package::Error| match error {
        // An error of a decompressor has no number.
        package::Error::Read { source, .. } if source.raw_os_error().is_some() => {
            let why = format!("its archive cannot be read here: {source}");
            (Verdict::Unreadable, why, DISK)
        }
        other => {
            let why = format!(
                "its archive is validly signed and cannot be read here, so its files were compared with the root's own \
                 record of it: {other}"
            );
            (Verdict::Unreadable, why, FORMATS)
        }
    };
    let read = |source| package::Error::Read { doing: "reading package archive".into(), source };
    archive.rewind().map_err(read).map_err(unreadable)?;
    // makepkg before 4.1 made no mtree.
    let mut members = extract_present(BufReader::new(archive), &[".MTREE", ".PKGINFO"], HEAD).map_err(unreadable)?;
    let info = members.remove(".PKGINFO").ok_or(package::Error::NotFound { members: vec![".PKGINFO".to_owned()] });
    let info = info.and_then(|info| pkginfo::parse(&info)).map_err(unreadable)?;
    if (&info.name, &info.version) != (&subject.known.name, &subject.known.version) {
        let (name, version) = (&info.name, &info.version);
        let why = format!("it is another package's: that of '{name}' {version}");
        return Err((Verdict::Bad, why, OTHER));
    }
    Ok(Head { mtree: members.remove(".MTREE"), info })
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::localdb::Installed;

    #[test]
    fn threads_take_the_largest_packages_first_and_less_each_time() {
        let of = |size| Subject { known: Installed { size, ..Installed::default() }, ..Subject::default() };
        let sizes = [0, 40_000_000, 1_000, 10_000_000, u64::MAX, 20_000_000].map(Some);
        let subjects: Vec<_> = sizes.into_iter().chain([None; 30]).map(of).collect();
        let mut queue = Queue::of(&subjects);
        assert_eq!(queue.take(2), [4]);
        assert_eq!(queue.take(2), [1]);
        assert_eq!(queue.take(2), [5]);
        let rest: Vec<_> = std::iter::repeat_with(|| queue.take(1)).take_while(|some| !some.is_empty()).collect();
        assert_eq!(rest.iter().map(Vec::len).collect::<Vec<_>>(), [20, 13]);
        let mut all = rest.concat();
        all.sort_unstable();
        assert_eq!(all, [&[0, 2, 3][..], &(6..36).collect::<Vec<_>>()].concat());
        assert_eq!(queue.left, 0);
    }
}
