//! What a pacman that was killed left of the package that it worked on.
//!
//! libalpm (`commit_single_pkg`) removes the old package's record, makes the new one's directory, extracts the files,
//! writes `desc`, then `files`, then its line in the log, and runs its scriptlet. A record without `desc` counts as installed all the same: the
//! next pacman says that it cannot open the file, leaves the package as it is, half of it missing, and exits 0 (6.0.2).

use package::localdb;
use pacman::OutputEvent;
use pacman::records::{LOCAL, names_in};
use rootfs::Root;
use rustix::fs::{AtFlags, OFlags, renameat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The packages that are not what the log, or their record, says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InterruptedTransaction {
    /// Without a record by now: the one that was being installed. It is installed anew, with its post_install.
    pub(crate) lost: BTreeSet<String>,
    /// With a whole record that pacman did not live to log: its end may be missing, and its scriptlet did not run.
    pub(crate) doubtful: BTreeSet<String>,
}

/// Finds them, and removes the records that are not whole, and that of `interrupted`, whose post_install may not have run to
/// its end. `logged` is what is installed as the log has it, by name.
///
/// # Errors
///
/// When a record cannot be read or removed.
pub(crate) fn clear(
    root: &Root,
    logged: &BTreeMap<String, String>,
    interrupted: Option<&str>,
) -> Result<InterruptedTransaction, Failure> {
    let mut torn = InterruptedTransaction::default();
    let mut whole = BTreeSet::new();
    for record in names_in(root, LOCAL)? {
        // `ALPM_DB_VERSION` is no record.
        let Some((name, version)) = split(&record) else {
            continue;
        };
        if !is_whole(root, &record) || interrupted == Some(name) {
            remove(root, &record).doing(Code::Os, || {
                format!("removing {}", quote(root.path().join(LOCAL).join(&record)))
            })?;
            torn.lost.insert(name.to_owned());
            continue;
        }
        whole.insert(name.to_owned());
        if logged.get(name).map(String::as_str) != Some(version) {
            torn.doubtful.insert(name.to_owned());
        }
    }
    // Killed after the old record had gone and before the new one was there.
    torn.lost.extend(logged.keys().cloned());
    torn.lost.retain(|name| !whole.contains(name));
    Ok(torn)
}

/// The longest configuration file that is looked at.
const LONGEST: u64 = 16 << 20;

/// Puts configuration files right that pacman died in the middle of: to the pacman that installs them again they look
/// like changed ones, so it keeps them and writes its own beside, as `FILE.pacnew`. A file that is nothing but the
/// beginning of the new one was never anybody's.
///
/// # Errors
///
/// When a file cannot be put in its place.
pub(crate) fn mend(root: &Root, marks: &[OutputEvent]) -> Result<(), Failure> {
    for mark in marks {
        let OutputEvent::SavedBeside(file) = mark else {
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
            let mended = root
                .open_below(parent, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|parent| renameat(&parent, format!("{name}.pacnew"), &parent, name));
            mended.doing(Code::Os, || format!("mending {}", quote(file)))?;
        }
    }
    Ok(())
}

/// Returns the names of the packages that have a record.
///
/// # Errors
///
/// When the database cannot be read.
pub(crate) fn names(root: &Root) -> Result<BTreeSet<String>, Failure> {
    let records = names_in(root, LOCAL)?;
    let names = records.iter().filter_map(|record| split(record));
    Ok(names.map(|(name, _)| name.to_owned()).collect())
}

/// Splits `NAME-VERSION-RELEASE`.
fn split(record: &str) -> Option<(&str, &str)> {
    let (rest, _release) = record.rsplit_once('-')?;
    let (name, _version) = rest.rsplit_once('-')?;
    Some((name, &record[name.len() + 1..]))
}

fn is_whole(root: &Root, record: &str) -> bool {
    let read = |file: &str| root.read(&format!("{LOCAL}/{record}/{file}"), 64 << 20);
    // Nothing but `files` comes after `desc`, so where that is, `desc` is whole.
    let described = read("desc").is_ok_and(|text| localdb::desc(&text).is_ok());
    described && read("files").is_ok()
}

/// Removes a record: a directory of plain files.
fn remove(root: &Root, record: &str) -> Result<(), Errno> {
    let at = format!("{LOCAL}/{record}");
    let directory = root.open_below(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for file in ["desc", "files", "install", "mtree", "changelog"] {
        match unlinkat(&directory, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    let local = root.open_below(LOCAL, OFlags::RDONLY | OFlags::DIRECTORY)?;
    unlinkat(&local, record, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        let files = [
            ("torn", "ab", "abcd"),
            ("edited", "xb", "abcd"),
            ("same", "ab", "ab"),
        ];
        let marks = files.map(|(name, old, new)| {
            let file = path.join("etc").join(name);
            fs::write(&file, old).unwrap();
            fs::write(file.with_extension("pacnew"), new).unwrap();
            OutputEvent::SavedBeside(file.to_str().unwrap().to_owned())
        });
        mend(&Root::open(&path).unwrap(), &marks).unwrap();
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
        let logged = [
            ("bash", "5-1"),
            ("gawk", "5-1"),
            ("zlib", "1-1"),
            ("sed", "4-1"),
        ];
        let logged = logged.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let torn = clear(
            &Root::open(&path).unwrap(),
            &BTreeMap::from(logged),
            Some("gawk"),
        )
        .unwrap();
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(
            torn,
            InterruptedTransaction {
                lost: set(&["gawk", "glibc", "nano", "zlib"]),
                doubtful: set(&["sed", "vim"]),
            }
        );
        let mut left: Vec<_> = fs::read_dir(&local)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["ALPM_DB_VERSION", "bash-5-1", "sed-4-2", "vim-9-1"]);
    }
}
