//! The repositories' databases, kept beside the packages that they name.
//!
//! They lie in the root, so a new root has none, and with a cache full of packages could still not be filled without a
//! server. So what was fetched is copied to the package cache too, and `--offline` takes it from there.

use crate::records::{SYNC, if_exists};
use package::digest::sha256_hex;
use rootfs::Root;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use stage::members::Package;
use stage::{Code, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where they are kept, in the package cache.
const KEPT: &str = "databases";

/// The largest one that is copied: more than any distribution has.
const LIMIT: u64 = 256 << 20;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies the root's databases to the cache.
///
/// # Errors
///
/// When one cannot be copied.
pub(crate) fn keep(root: &Root, cache: &Path, repos: &[String]) -> Result<(), Failure> {
    if repos.is_empty() {
        return Ok(());
    }
    let at = cache.join(KEPT);
    let doing = || format!("keeping the databases in {}", quote(&at));
    let from = root.open_below(SYNC, DIRECTORY);
    let from = from.doing(Code::Os, doing)?;
    make_directory(CWD, &at).doing(Code::Os, doing)?;
    let to = open(&at, DIRECTORY, Mode::empty()).doing(Code::Os, doing)?;
    // Those that are made here are of one run.
    for name in repos.iter().filter(|repo| !Package::is_own(repo)).flat_map(|repo| files(repo)) {
        copy(&from, &to, &name).doing(Code::Os, doing)?;
    }
    Ok(())
}

/// Copies the databases that the root lacks from the cache.
///
/// # Errors
///
/// [`Code::NotFound`] where one is in neither.
pub(crate) fn restore(root: &Root, cache: &Path, repos: &[String]) -> Result<(), Failure> {
    let at = cache.join(KEPT);
    let kept = open(&at, DIRECTORY, Mode::empty());
    for repo in repos {
        let [database, signature] = files(repo);
        let below = format!("{SYNC}/{database}");
        if root.open_below(&below, OFlags::PATH).is_ok() {
            continue;
        }
        let path = root.path().join(below);
        let copied = || -> io::Result<bool> {
            let Ok(kept) = &kept else { return Ok(false) };
            make_directory(root.open_below("var/lib/pacman", DIRECTORY)?, "sync")?;
            let sync = root.open_below(SYNC, DIRECTORY)?;
            // The signature first: a database without it would be taken for one that has none.
            copy(kept, &sync, &signature)?;
            copy(kept, &sync, &database)
        };
        if !copied().doing(Code::Os, || format!("making {}", quote(&path)))? {
            let message =
                format!("looking for the database {}: it is not there, and not in {}", quote(path), quote(at));
            return Err(Failure::new(Code::NotFound, message).hint(ONLINE));
        }
    }
    Ok(())
}

/// Returns a repository's kept database and its signature, by their paths in pacman's directory.
pub(crate) fn kept(cache: &Path, repo: &str) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let file = stage::file::open(&cache.join(KEPT).join(&name)).ok()?;
        Some((format!("sync/{name}"), stage::file::read_to_limit(file, LIMIT).ok()?))
    };
    files(repo).into_iter().filter_map(read).collect()
}

/// Returns the SHA-256 of the repositories' databases in the root, in hex; `None` where one cannot be read. From equal ones pacman
/// takes the same packages.
#[must_use]
pub fn hashes(root: &Root, repos: &[String]) -> Option<Vec<String>> {
    let hash = |repo: &String| root.read(&format!("{SYNC}/{repo}.db"), LIMIT).map(sha256_hex).ok();
    repos.iter().map(hash).collect()
}

/// Writes the database of a repository that is made here into the root, where pacman reads it.
///
/// # Errors
///
/// When it cannot be written.
pub fn put(root: &Root, repo: &str, bytes: &[u8]) -> Result<(), Failure> {
    let name = format!("{repo}.db");
    let put = || -> io::Result<()> {
        make_directory(root.open_below("var/lib/pacman", DIRECTORY)?, "sync")?;
        let sync = root.open_below(SYNC, DIRECTORY)?;
        let mut draft = create(&sync, &name)?;
        draft.write_all(bytes)?;
        publish(&sync, &name)
    };
    put().doing(Code::Os, || format!("writing {}", quote(root.path().join(SYNC).join(&name))))
}

/// Removes the database of a repository that was made here, where there is one.
///
/// # Errors
///
/// When it cannot be removed.
pub fn remove(root: &Root, repo: &str) -> Result<(), Failure> {
    let name = format!("{repo}.db");
    let remove = || -> Result<(), Errno> {
        let Some(sync) = if_exists(root.open_below(SYNC, DIRECTORY))? else { return Ok(()) };
        if_exists(unlinkat(&sync, &name, AtFlags::empty())).map(drop)
    };
    remove().doing(Code::Os, || format!("removing {}", quote(root.path().join(SYNC).join(&name))))
}

fn make_directory(at: impl AsFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// What helps where a file is missing.
pub(crate) const ONLINE: &str = "run the same once without --offline, or with --download-only";

/// The names of a repository's files.
fn files(repo: &str) -> [String; 2] {
    [format!("{repo}.db"), format!("{repo}.db.sig")]
}

/// Copies a file with its time, by which pacman asks servers for newer ones; returns whether there is one. A copy of that size
/// and time stays as it is.
fn copy(from: &OwnedFd, to: &OwnedFd, name: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(source) = if_exists(openat(from, name, flags, Mode::empty()))?.map(File::from) else {
        return Ok(false);
    };
    let stamp = |file: &File| {
        let is = file.metadata()?;
        io::Result::Ok((is.len(), is.modified()?))
    };
    let (size, modified) = stamp(&source)?;
    let there = openat(to, name, flags, Mode::empty()).map(File::from);
    if there.is_ok_and(|there| stamp(&there).is_ok_and(|is| is == (size, modified))) {
        return Ok(true);
    }
    let mut draft = create(to, name)?;
    io::copy(&mut source.take(LIMIT), &mut draft)?;
    draft.set_modified(modified)?;
    draft.sync_all()?;
    publish(to, name)?;
    Ok(true)
}

/// Creates the file that [`publish`] gives its name.
fn create(to: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let draft = openat(to, format!(".{name}.part"), flags, mode)?;
    fchmod(&draft, mode)?;
    Ok(draft.into())
}

fn publish(to: &OwnedFd, name: &str) -> io::Result<()> {
    Ok(renameat(to, format!(".{name}.part"), to, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn kept_databases_come_back_with_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let sync = |root: &str| top.join(root).join(SYNC);
        fs::create_dir_all(sync("old")).unwrap();
        fs::create_dir_all(top.join("new/var/lib/pacman")).unwrap();
        fs::create_dir(top.join("cache")).unwrap();
        for (name, text) in [("core.db", "1"), ("extra.db", "2"), ("extra.db.sig", "s")] {
            fs::write(sync("old").join(name), text).unwrap();
        }
        let old = File::open(sync("old").join("core.db")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
        old.set_modified(time).unwrap();
        let (cache, repos) = (top.join("cache"), ["core".into(), "extra".into()]);
        let root = |name: &str| Root::open(&top.join(name)).unwrap();
        let failure = restore(&root("new"), &cache, &repos).unwrap_err();
        assert_eq!(failure.code, Code::NotFound);
        assert!(failure.message.contains("new/var/lib/pacman/sync/core.db'"));
        keep(&root("old"), &cache, &repos).unwrap();
        keep(&root("old"), &cache, &repos).unwrap();
        restore(&root("new"), &cache, &repos).unwrap();
        let read = |name: &str| fs::read_to_string(sync("new").join(name)).unwrap();
        assert_eq!([read("core.db"), read("extra.db"), read("extra.db.sig")], ["1", "2", "s"]);
        let meta = fs::metadata(sync("new").join("core.db")).unwrap();
        assert_eq!(meta.modified().unwrap(), time);
        fs::write(sync("new").join("core.db"), "newer").unwrap();
        restore(&root("new"), &cache, &repos).unwrap();
        assert_eq!(read("core.db"), "newer");
        let mut names: Vec<_> =
            fs::read_dir(top.join("cache").join(KEPT)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["core.db", "extra.db", "extra.db.sig"]);
    }
}
