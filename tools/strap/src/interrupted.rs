//! Transactions that were interrupted, and their repair.
//!
//! libalpm (`commit_single_pkg`) removes the old package's record, makes the new one's directory, extracts the files,
//! writes `desc`, then `files`, then its line in the log, and runs its scriptlet. A record without `desc` counts as installed all
//! the same: the next pacman says that it cannot open the file, leaves the package as it is, half of it missing, and exits 0
//! (6.0.2). So what is incomplete is removed from the database, and then installed again.

use package::db::Entry;
use package::version::vercmp;
use package::{localdb, mtree};
use pacman::OutputEvent;
use pacman::english::log::{self, Before, Event};
use pacman::records::{self, LOCAL, if_exists, names_in};
use rootfs::root::BENEATH;
use rootfs::{Inside, Place, Root};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The packages of an interrupted transaction that are installed again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InterruptedTransaction {
    /// Without a record by now: the one that was being installed. It is installed as if it had never been there, with its
    /// post_install.
    pub(crate) lost: BTreeSet<String>,
    /// With a record: their scriptlets or their last files may be missing.
    pub(crate) incomplete: BTreeSet<String>,
}

/// What the log says of an interrupted transaction.
#[derive(Debug)]
pub(crate) struct Logged {
    /// The packages that it had installed.
    unfinished: BTreeSet<String>,
    /// All installed packages: versions by name.
    installed: BTreeMap<String, String>,
    /// The package whose post_install may not have run to its end.
    last: Option<String>,
}

impl Logged {
    /// Returns the packages of the interrupted transaction that no repository offers in that version or a newer one, and that
    /// are not `given`: they were installed from files, which nobody has now.
    pub(crate) fn without_source(&self, given: &[&str], offers: &[(String, Entry)]) -> Vec<&str> {
        let mut offered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (_, entry) in offers {
            offered.entry(&entry.name).or_default().push(&entry.version);
        }
        let is_offered = |name: &str| {
            let logged = self.installed.get(name);
            let is_new = |version: &&str| logged.is_none_or(|logged| vercmp(version, logged) != Ordering::Less);
            offered.get(name).is_some_and(|versions| versions.iter().any(is_new))
        };
        let names = self.unfinished.iter().map(String::as_str);
        names.filter(|name| !given.contains(name) && !is_offered(name)).collect()
    }
}

/// Looks for a transaction that was interrupted. `killed` says that pacman left its lock: it holds that until the last hook has
/// run, which is after the log says that the transaction is complete.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) fn find(root: &Root, killed: bool) -> Result<Option<Logged>, Failure> {
    let events: Vec<Event> = log::events(&records::log(root)?).collect();
    Ok(unfinished(&events, killed).map(|unfinished| Logged {
        unfinished,
        installed: installed(&events),
        last: last_installed(&events),
    }))
}

/// Returns what a transaction had installed that was started and not completed. Where pacman was `killed`, the last one counts
/// even if it says that it is complete.
fn unfinished(events: &[Event], killed: bool) -> Option<BTreeSet<String>> {
    let mut open: Option<BTreeSet<String>> = None;
    let mut complete = false;
    for event in events {
        match (event, &mut open) {
            // A transaction that comes after an interrupted one repairs it only by being completed.
            (Event::TransactionStarted, _) => {
                if complete {
                    open = None;
                }
                open.get_or_insert_default();
                complete = false;
            }
            (Event::TransactionCompleted, _) => complete = true,
            (Event::Installed { name, .. }, Some(names)) => drop(names.insert(name.clone())),
            (Event::Removed(name), Some(names)) => drop(names.remove(name)),
            _ => {}
        }
    }
    open.filter(|_| killed || !complete)
}

/// Returns the package whose post_install may not have run to its end: the log ends with its installation, as libalpm
/// writes that line just before. Installing it again as it is would run its post_upgrade.
fn last_installed(events: &[Event]) -> Option<String> {
    let printed = |event: &&Event| matches!(event, Event::ScriptletOutput(_));
    match events.iter().rev().find(|event| !printed(event)) {
        Some(Event::Installed { name, before: Before::Absent, .. }) => Some(name.clone()),
        _ => None,
    }
}

/// Returns what is installed, as events of the log have it: versions by name.
pub(crate) fn installed(events: &[Event]) -> BTreeMap<String, String> {
    let mut installed = BTreeMap::new();
    for event in events {
        match event {
            Event::Installed { name, version, .. } => drop(installed.insert(name.clone(), version.clone())),
            Event::Removed(name) => drop(installed.remove(name)),
            _ => {}
        }
    }
    installed
}

/// Removes the records that are incomplete, and that of the package whose post_install was interrupted, after it has set the
/// modes that pacman did not live to set. `inside` enters the root with nothing mounted over it.
///
/// # Errors
///
/// When a record cannot be read or removed, or a mode cannot be set.
pub(crate) fn clear(inside: &Inside, logged: Logged) -> Result<InterruptedTransaction, Failure> {
    let root = inside.root();
    let mut complete = BTreeMap::new();
    let mut lost = BTreeSet::new();
    for record in names_in(root, LOCAL)? {
        // `ALPM_DB_VERSION` is no record.
        let Some((name, version)) = split(&record) else {
            continue;
        };
        let is_complete = is_complete(root, &record);
        if is_complete && logged.last.as_deref() != Some(name) {
            complete.insert(name.to_owned(), version.to_owned());
            continue;
        }
        if !is_complete {
            restore_modes(inside, &record)?;
        }
        remove(root, &record)
            .doing(Code::Os, || format!("removing {}", quote(root.path().join(LOCAL).join(&record))))?;
        lost.insert(name.to_owned());
    }
    // pacman may have been killed after it had removed the old record and before it made the new one.
    lost.extend(logged.installed.keys().cloned());
    lost.retain(|name| !complete.contains_key(name));
    // A complete record that pacman did not live to log: the scriptlet did not run.
    let unlogged = complete.iter().filter(|(name, version)| logged.installed.get(*name) != Some(version));
    let mut incomplete = logged.unfinished;
    incomplete.extend(unlogged.map(|(name, _)| name.clone()));
    incomplete.retain(|name| !lost.contains(name));
    Ok(InterruptedTransaction { lost, incomplete })
}

/// The longest file that is read: a configuration file, or an mtree.
const LONGEST: u64 = 16 << 20;

/// Sets the owners and modes of files and directories that pacman was extracting when it was killed. libarchive makes a file as
/// root's, with the permissions of the package alone, and a directory so that it can write there; the mode that the package has
/// (1777, 0555) it sets when the whole package is extracted. pacman changes neither of what it finds when it installs the
/// package again. What is not as libarchive makes it is not changed: somebody else made it so.
fn restore_modes(inside: &Inside, record: &str) -> Result<(), Failure> {
    let root = inside.root();
    // It is extracted first: without a complete one there are no files.
    let bytes = root.read(&format!("{LOCAL}/{record}/mtree"), LONGEST).ok();
    let Some(entries) = bytes.and_then(|bytes| mtree::read(&bytes).ok()) else {
        return Ok(());
    };
    let restore = || {
        let root = Root::open(root.path())?;
        for entry in &entries {
            restore_mode(&root, entry).doing(Code::Os, || {
                let path = String::from_utf8_lossy(&entry.path);
                format!("setting the mode of {}", quote(root.path().join(&*path)))
            })?;
        }
        Ok(())
    };
    inside.call(Place::Host, &[], restore)
}

fn restore_mode(root: &Root, entry: &mtree::Entry) -> Result<(), Errno> {
    let (Some(mode), Some(uid), Some(gid)) = (entry.mode, entry.uid, entry.gid) else {
        return Ok(());
    };
    let (kind, made) = match entry.kind {
        mtree::Kind::Directory => (FileType::Directory, (mode | 0o700) & 0o775),
        mtree::Kind::File => (FileType::RegularFile, mode & 0o777),
        _ => return Ok(()),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = entry.path.as_slice();
    let opened = match openat2(root, path, flags, Mode::empty(), BENEATH) {
        // Not extracted yet, or no file.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            return Ok(());
        }
        opened => opened?,
    };
    let is = fstat(&opened)?;
    let (owner, is_mode) = ((is.st_uid, is.st_gid), is.st_mode & 0o7777);
    // Of a file with more names, one may be outside of the root.
    let is_ours = FileType::from_raw_mode(is.st_mode) == kind
        && (kind == FileType::Directory || is.st_nlink == 1)
        && [(0, 0), (uid, gid)].contains(&owner)
        && [made, made & !0o022].contains(&is_mode);
    if !is_ours || (owner, is_mode) == ((uid, gid), mode) {
        return Ok(());
    }
    fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(&opened, Mode::from_raw_mode(mode))
}

/// Puts configuration files right that pacman was killed in the middle of: to the pacman that installs them again they look
/// changed, so it keeps them and writes its own beside, as `FILE.pacnew`. A file that is nothing but the beginning of the new one
/// has not been edited by anybody.
///
/// # Errors
///
/// When a file cannot be replaced.
pub(crate) fn restore_configuration(root: &Root, output: &[OutputEvent]) -> Result<(), Failure> {
    for event in output {
        let OutputEvent::SavedBeside(file) = event else {
            continue;
        };
        let below = Path::new(file).strip_prefix(root.path()).ok();
        let Some(below) = below.and_then(Path::to_str) else {
            continue;
        };
        let new = format!("{below}.pacnew");
        let (Ok(old), Ok(text)) = (root.read(below, LONGEST), root.read(&new, LONGEST)) else {
            continue;
        };
        if text.starts_with(&old) && old.len() < text.len() {
            let (parent, name) = below.rsplit_once('/').unwrap_or(("", below));
            let replaced = root
                .open_below(parent, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|parent| renameat(&parent, format!("{name}.pacnew"), &parent, name));
            replaced.doing(Code::Os, || format!("replacing {}", quote(file)))?;
        }
    }
    Ok(())
}

/// Splits `NAME-VERSION-RELEASE`.
fn split(record: &str) -> Option<(&str, &str)> {
    let (rest, _release) = record.rsplit_once('-')?;
    let (name, _version) = rest.rsplit_once('-')?;
    Some((name, &record[name.len() + 1..]))
}

fn is_complete(root: &Root, record: &str) -> bool {
    let read = |file: &str| root.read(&format!("{LOCAL}/{record}/{file}"), 64 << 20);
    // Nothing but `files` comes after `desc`, so where that is, `desc` is complete.
    let described = read("desc").is_ok_and(|text| localdb::desc(&text).is_ok());
    described && read("files").is_ok()
}

/// Removes a record: a directory of plain files.
fn remove(root: &Root, record: &str) -> Result<(), Errno> {
    let at = format!("{LOCAL}/{record}");
    let directory = root.open_below(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for file in ["desc", "files", "install", "mtree", "changelog"] {
        if_exists(unlinkat(&directory, file, AtFlags::empty()))?;
    }
    let local = root.open_below(LOCAL, OFlags::RDONLY | OFlags::DIRECTORY)?;
    unlinkat(&local, record, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{LOG, events};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    #[test]
    fn a_package_that_no_repository_has_is_not_installed_again() {
        let installed = [("hello", "2-1"), ("bash", "5-1"), ("sed", "4-1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let unfinished = ["bash", "hello"].map(str::to_owned).into();
        let logged = Logged { unfinished, installed: installed.into(), last: None };
        let offer = |name: &str, version: &str| {
            ("core".to_owned(), Entry { name: name.to_owned(), version: version.to_owned(), ..Entry::default() })
        };
        let offers = [offer("bash", "5-2"), offer("hello", "1-1")];
        assert_eq!(logged.without_source(&[], &offers), ["hello"]);
        assert_eq!(logged.without_source(&["hello"], &offers), [""; 0]);
    }

    #[test]
    fn only_what_was_left_half_made_gets_the_packages_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        let mtree = b"#mtree\n/set type=dir uid=0 gid=7\n./tmp mode=1777\n./empty mode=555\n./http mode=750\n\
            ./admin mode=755\n./wide mode=777\n./suid type=file mode=4755\n./linked type=file mode=4755\n./absent mode=700\n";
        for (name, made, owner, expected) in [
            ("tmp", 0o755, 0, (0o1777, 7)),
            ("empty", 0o755, 0, (0o555, 7)),
            ("http", 0o750, 0, (0o750, 7)),
            // Not as libarchive makes it: somebody else did that.
            ("admin", 0o700, 0, (0o700, 0)),
            ("wide", 0o755, 9, (0o755, 9)),
            ("suid", 0o755, 0, (0o4755, 7)),
            ("linked", 0o755, 0, (0o755, 0)),
        ] {
            let at = path.join(name);
            match name {
                "suid" | "linked" => fs::write(&at, "").unwrap(),
                _ => fs::create_dir(&at).unwrap(),
            }
            fs::set_permissions(&at, fs::Permissions::from_mode(made)).unwrap();
            chown(&at, Some(0), Some(owner)).unwrap();
            if name == "linked" {
                fs::hard_link(&at, path.join("other")).unwrap();
            }
            for entry in mtree::parse(mtree).unwrap() {
                restore_mode(&root, &entry).unwrap();
            }
            let is = fs::symlink_metadata(&at).unwrap();
            assert_eq!((is.mode() & 0o7777, is.gid()), expected, "{name}");
        }
    }

    #[test]
    fn a_record_says_its_name_and_version() {
        assert_eq!(split("glibc-2.36-1"), Some(("glibc", "2.36-1")));
        assert_eq!(split("libattr1-1:2.5.1-1"), Some(("libattr1", "1:2.5.1-1")));
        assert_eq!(split("gcc-libs-12.2-1"), Some(("gcc-libs", "12.2-1")));
        assert_eq!(split("ALPM_DB_VERSION"), None);
    }

    #[test]
    fn only_the_beginning_of_the_new_file_gives_way_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir(path.join("etc")).unwrap();
        let files = [("torn", "ab", "abcd"), ("edited", "xb", "abcd"), ("same", "ab", "ab")];
        let output = files.map(|(name, old, new)| {
            let file = path.join("etc").join(name);
            fs::write(&file, old).unwrap();
            fs::write(file.with_extension("pacnew"), new).unwrap();
            OutputEvent::SavedBeside(file.to_str().unwrap().to_owned())
        });
        restore_configuration(&Root::open(&path).unwrap(), &output).unwrap();
        let read = |name: &str| fs::read_to_string(path.join("etc").join(name)).unwrap();
        assert_eq!((read("torn"), read("edited")), ("abcd".into(), "xb".into()));
        assert!(!path.join("etc/torn.pacnew").exists() && path.join("etc/edited.pacnew").exists());
    }

    #[test]
    fn records_that_are_not_whole_go_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let local = path.join(LOCAL);
        for (record, files) in [
            ("bash-5-1", &["desc", "files", "mtree"][..]),
            ("gawk-5-1", &["desc", "files", "mtree", "install"]),
            ("glibc-2-1", &["mtree", "install"]),
            ("nano-7-1", &["desc"]),
            ("vim-9-1", &["desc", "files"]),
            ("sed-4-2", &["desc", "files"]),
        ] {
            fs::create_dir_all(local.join(record)).unwrap();
            let (name, version) = split(record).unwrap();
            let text = format!("%NAME%\n{name}\n\n%VERSION%\n{version}\n\n");
            for file in files {
                fs::write(local.join(record).join(file), &text).unwrap();
            }
        }
        fs::write(local.join("ALPM_DB_VERSION"), "9\n").unwrap();
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let logged = [("bash", "5-1"), ("gawk", "5-1"), ("zlib", "1-1"), ("sed", "4-1")];
        let logged = logged.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let logged =
            Logged { unfinished: set(&["gawk", "bash"]), installed: BTreeMap::from(logged), last: Some("gawk".into()) };
        let inside = Inside::new(Root::open(&path).unwrap(), Vec::new(), None, None).unwrap();
        let expected = InterruptedTransaction {
            lost: set(&["gawk", "glibc", "nano", "zlib"]),
            incomplete: set(&["bash", "sed", "vim"]),
        };
        assert_eq!(clear(&inside, logged).unwrap(), expected);
        let mut left: Vec<_> =
            fs::read_dir(&local).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["ALPM_DB_VERSION", "bash-5-1", "sed-4-2", "vim-9-1"]);
    }

    #[test]
    fn an_interrupted_transaction_is_known_until_one_completes() {
        let unfinished = |log: &str, killed| super::unfinished(&events(log), killed);
        let names = Some(["bash", "glibc", "nano"].map(str::to_owned).into());
        assert_eq!(unfinished(LOG, false), names);
        let done = format!("{LOG}[x] [ALPM] transaction completed\n");
        assert_eq!(unfinished(&done, false), None);
        assert_eq!(unfinished(&done, true), names);
        let again = format!("{done}[x] [ALPM] transaction started\n");
        assert_eq!(unfinished(&again, false), Some(BTreeSet::new()));
        assert_eq!(unfinished("", true), None);
        let older = "[x] [ALPM] transaction started\n[x] [ALPM] downgraded nano (8-1 -> 7-1)\n";
        let nano = Some(BTreeSet::from(["nano".to_owned()]));
        assert_eq!(unfinished(older, false), nano);
    }

    #[test]
    fn only_the_last_may_be_interrupted_in_post_install() {
        let nano = Some("nano".to_owned());
        assert_eq!(last_installed(&events(LOG)), nano);
        let words = format!("{LOG}[x] [ALPM-SCRIPTLET] working\n");
        assert_eq!(last_installed(&events(&words)), nano);
        for then in ["running '20-a.hook'...", "transaction completed", "upgraded vim (1-1 -> 2-1)"] {
            let log = format!("{LOG}[x] [ALPM] {then}\n");
            assert_eq!(last_installed(&events(&log)), None, "{then}");
        }
        assert_eq!(last_installed(&[]), None);
    }

    #[test]
    fn the_log_says_what_is_installed() {
        let log = "\
[x] [ALPM] installed bash (5-1)
[x] [ALPM] installed nano (7-1)
[x] [ALPM] installed vim (9-1)
[x] [ALPM] upgraded nano (7-1 -> 1:8-2)
[x] [ALPM] reinstalled bash (5-1)
[x] [ALPM] removed vim (9-1)
";
        let expected = [("bash", "5-1"), ("nano", "1:8-2")];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(installed(&events(log)), BTreeMap::from(expected));
    }
}
