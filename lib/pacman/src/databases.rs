//! The repositories' databases, kept beside the packages that they name.
//!
//! They lie in the root, so a new root has none, and with a cache full of packages could still not be filled without a
//! server. So what was fetched is copied to the package cache too, and `--offline` takes it from there.

use crate::conf::Conf;
use crate::records::SYNC;
use rootfs::Root;
use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::fs::{fchmod, fstat, fsync, futimens, mkdirat, open, openat, renameat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where they are kept, in the package cache.
const KEPT: &str = "databases";

/// The largest one that is copied: more than any distribution has.
const LIMIT: u64 = 256 << 20;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Copies the root's databases to the cache.
///
/// # Errors
///
/// When one cannot be copied.
pub(crate) fn keep(root: &Root, conf: &Conf) -> Result<(), Failure> {
    let Some(cache) = conf.cache.as_ref().filter(|_| !conf.repos.is_empty()) else {
        return Ok(());
    };
    let at = cache.join(KEPT);
    let doing = || format!("keeping the databases in {}", quote(&at));
    let from = root.open_below(SYNC, DIRECTORY).doing(Code::Os, doing)?;
    match mkdirat(CWD, &at, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).doing(Code::Os, doing),
    }
    let to = open(&at, DIRECTORY, Mode::empty()).doing(Code::Os, doing)?;
    for name in conf.repos.iter().flat_map(|repo| files(repo)) {
        copy(&from, &to, &name).doing(Code::Os, doing)?;
    }
    Ok(())
}

/// Puts the databases that the root lacks into it, from the cache.
///
/// # Errors
///
/// [`Code::NotFound`] where one is in neither.
pub(crate) fn restore(root: &Root, conf: &Conf) -> Result<(), Failure> {
    let at = conf.cache.clone().unwrap_or_default().join(KEPT);
    let kept = open(&at, DIRECTORY, Mode::empty()).ok();
    for repo in &conf.repos {
        let [database, signature] = files(repo);
        let path = root.path().join(SYNC).join(&database);
        if root
            .open_below(&format!("{SYNC}/{database}"), OFlags::PATH)
            .is_ok()
        {
            continue;
        }
        let doing = || format!("making {}", quote(&path));
        let Some(kept) = &kept else {
            return Err(missing(path, at));
        };
        match mkdirat(
            root.open_below("var/lib/pacman", DIRECTORY)
                .doing(Code::Os, doing)?,
            "sync",
            Mode::from_raw_mode(0o755),
        ) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        let sync = root.open_below(SYNC, DIRECTORY).doing(Code::Os, doing)?;
        // The signature first: a database without it would be taken for one that has none.
        copy(kept, &sync, &signature).doing(Code::Os, doing)?;
        if !copy(kept, &sync, &database).doing(Code::Os, doing)? {
            return Err(missing(path, at));
        }
    }
    Ok(())
}

fn missing(path: PathBuf, cache: PathBuf) -> Failure {
    Failure::new(
        Code::NotFound,
        format!(
            "looking for the database {}: it is not there, and not in {}",
            quote(path),
            quote(cache)
        ),
    )
    .hint(ONLINE)
}

/// What helps where a file is missing.
pub(crate) const ONLINE: &str = "run the same once without --offline, or with --download-only";

/// The names of a repository's files.
fn files(repo: &str) -> [String; 2] {
    [format!("{repo}.db"), format!("{repo}.db.sig")]
}

/// Copies a file with its time, by which pacman asks servers for newer ones; says whether there is one. One that is there
/// and as old stays.
fn copy(from: &OwnedFd, to: &OwnedFd, name: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = match openat(from, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        source => source?,
    };
    let stat = fstat(&source)?;
    let same = |there: OwnedFd| {
        fstat(&there).is_ok_and(|s| (s.st_size, s.st_mtime) == (stat.st_size, stat.st_mtime))
    };
    if openat(to, name, flags, Mode::empty()).is_ok_and(same) {
        return Ok(true);
    }
    let part = format!(".{name}.part");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let mut draft = File::from(openat(to, &part, flags, mode)?);
    io::copy(&mut File::from(source).take(LIMIT), &mut draft)?;
    fchmod(&draft, mode)?;
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    futimens(
        &draft,
        &Timestamps {
            last_access: time(0, UTIME_OMIT),
            last_modification: time(stat.st_mtime, 0),
        },
    )?;
    fsync(&draft)?;
    renameat(to, &part, to, name)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_kept_comes_back_with_its_time_and_nothing_in_the_root_is_replaced() {
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
        let conf = Conf {
            cache: Some(top.join("cache")),
            repos: vec!["core".into(), "extra".into()],
        };
        let root = |name: &str| Root::open(&top.join(name)).unwrap();
        let failure = restore(&root("new"), &conf).unwrap_err();
        assert_eq!(failure.code, Code::NotFound);
        assert!(failure.message.contains("new/var/lib/pacman/sync/core.db'"));
        keep(&root("old"), &conf).unwrap();
        keep(&root("old"), &conf).unwrap();
        restore(&root("new"), &conf).unwrap();
        let read = |name: &str| fs::read_to_string(sync("new").join(name)).unwrap();
        assert_eq!(
            [read("core.db"), read("extra.db"), read("extra.db.sig")],
            ["1", "2", "s"]
        );
        let meta = fs::metadata(sync("new").join("core.db")).unwrap();
        assert_eq!(meta.modified().unwrap(), time);
        fs::write(sync("new").join("core.db"), "newer").unwrap();
        restore(&root("new"), &conf).unwrap();
        assert_eq!(read("core.db"), "newer");
        let mut names: Vec<_> = fs::read_dir(top.join("cache").join(KEPT))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["core.db", "extra.db", "extra.db.sig"]);
    }
}
