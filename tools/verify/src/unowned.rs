//! What of a root that began with somebody's archive belongs to no package: nobody signed it.

use crate::files::Rules;
use pacman::gpg;
use rootfs::Root;
use rootfs::root::BENEATH;
use rustix::fs::{Dir, FileType, Mode, OFlags, openat2};
use rustix::io::Errno;
use stage::members::Unowned;
use stage::{Code, Doing, Failure, quote, signal};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// How many paths the document has.
const PATHS: usize = 100;

/// pacman's own records, which are compared in another way.
const RECORDS: &str = "var/lib/pacman";

/// Lists what is in the root and not `owned`, but for caches, logs and what else stays out of images. Of a directory without an
/// owner, what is in it is not listed.
///
/// # Errors
///
/// When a directory cannot be read.
pub(crate) fn find(root: &Root, owned: &BTreeSet<Vec<u8>>, rules: &Rules) -> Result<Unowned, Failure> {
    let transient = image::Rules::new(&[], &[], None)?;
    let mut paths = Vec::new();
    let mut left = vec![Vec::new()];
    while let Some(at) = left.pop() {
        signal::check()?;
        let doing = || format!("reading {}", quote(root.path().join(OsStr::from_bytes(&at))));
        let directory = match open(root, &at, OFlags::RDONLY) {
            // Gone since.
            Err(Errno::NOENT) => continue,
            directory => directory.doing(Code::Os, doing)?,
        };
        for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
            let entry = entry.doing(Code::Os, doing)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let slash: &[u8] = if at.is_empty() { b"" } else { b"/" };
            let path = [&*at, slash, name].concat();
            let text = String::from_utf8_lossy(&path).into_owned();
            let is_directory = match entry.file_type() {
                FileType::Unknown => open(root, &path, OFlags::PATH).is_ok(),
                kind => kind.is_dir(),
            };
            if transient.leaves_out(&path, is_directory) || rules.skips(&text) || [RECORDS, gpg::AT].contains(&&*text) {
                continue;
            }
            match (owned.contains(&path), is_directory) {
                (true, true) => left.push(path),
                (true, false) => {}
                (false, true) => paths.push(format!("{text}/")),
                (false, false) => paths.push(text),
            }
        }
    }
    paths.sort();
    let count = paths.len();
    paths.truncate(PATHS);
    Ok(Unowned { count, paths })
}

/// Opens a directory by its name, which need not be UTF-8.
fn open(root: &Root, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    openat2(root, path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacman::conf::NoExtract;

    #[test]
    fn what_belongs_to_no_package_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for (name, file) in [(&b"usr"[..], "own"), (b"caf\xe9", "evil"), (b"opt", "evil"), (b"var/log", "log")] {
            let at = directory.path().join(OsStr::from_bytes(name));
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join(file), "").unwrap();
        }
        let owned = [&b"usr"[..], b"usr/own", b"caf\xe9", b"var", b"var/log"].map(<[u8]>::to_vec).into();
        let rules = Rules::of(&[], false, NoExtract::default());
        let found = find(&Root::open(directory.path()).unwrap(), &owned, &rules).unwrap();
        assert_eq!((found.count, found.paths), (2, vec!["caf\u{fffd}/evil".to_owned(), "opt/".to_owned()]));
    }
}
