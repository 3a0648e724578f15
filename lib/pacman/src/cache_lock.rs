//! One download at a time into a package cache.
//!
//! pacman downloads into `FILE.part` in the cache itself, and does not check whether another pacman does the same (libalpm's
//! dload.c, 6.0): a second one continues at the end that it sees, and both write into one file. The result is refused, so at
//! least one of them fails. Since 7.0 each has a directory of its own there, `download-XXXXXX`, until all of its files are whole.
//!
//! So whoever downloads holds a flock(2) on the cache, which ends with its holder; installing from the cache needs none. We wait
//! for it, as other runs work on other roots and will end.

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote, signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a cache may stay unchanged before the run that downloads into it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until no other run downloads into `cache`, and returns the lock, held as long as that lives. `None` where it cannot be
/// opened, which pacman reports, or is on a file system without locks.
///
/// # Errors
///
/// [`Code::Busy`] when another run holds it and makes no progress, [`Code::Interrupted`] on a signal.
pub fn take(context: &Context, cache: &Path) -> Result<Option<OwnedFd>, Failure> {
    wait_for(context, cache, PATIENCE)
}

fn wait_for(context: &Context, cache: &Path, patience: Duration) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let doing = || format!("locking {}", quote(cache));
    let directory = match openat(CWD, cache, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        directory => directory.doing(Code::Os, doing)?,
    };
    let mut watch = Watch::new(patience);
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(directory)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                context.warn(format_args!(
                    "{}: its file system has no locks: no other run may download there now",
                    doing()
                ));
                return Ok(None);
            }
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        if watch.seen.is_none() {
            context.note(format_args!("waiting for another run that downloads into {}", quote(cache)));
        }
        if watch.is_hung(Instant::now(), || sizes(cache)) {
            let why = format!(
                "{}: another run downloads there, and has made no progress for {} s",
                doing(),
                patience.as_secs()
            );
            return Err(Failure::new(Code::Busy, why)
                .hint("wait until it has ended, and try again; or give mkconf another --cache-dir"));
        }
        signal::wait(Duration::from_millis(100))?;
    }
}

/// Files by path and size: they change as long as a download makes progress.
type Sizes = Vec<(PathBuf, u64)>;

/// Whether the run that holds the lock makes progress. A cache has thousands of files, and many may wait: they are looked at a few
/// times while patience lasts, and not at each try.
#[derive(Debug)]
struct Watch {
    patience: Duration,
    /// What was there, and since when.
    seen: Option<(Sizes, Instant)>,
    looked: Option<Instant>,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self { patience, seen: None, looked: None }
    }

    /// Returns whether nothing has changed for too long.
    fn is_hung(&mut self, now: Instant, look: impl FnOnce() -> Sizes) -> bool {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < self.patience / 8) {
            return false;
        }
        self.looked = Some(now);
        let sizes = look();
        match &self.seen {
            Some((before, since)) if *before == sizes => now.duration_since(*since) >= self.patience,
            _ => {
                self.seen = Some((sizes, now));
                false
            }
        }
    }
}

/// Returns the files in the cache, and those in the directories of downloads.
fn sizes(cache: &Path) -> Sizes {
    let mut sizes = Sizes::new();
    let mut add = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let known = sizes.len();
        sizes.extend(entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))));
        sizes[known..].iter().map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    for path in add(cache) {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"download-")) {
            add(&path);
        }
    }
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_run_has_the_lock_and_it_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::new("strap", true);
        let short = Duration::from_millis(1);
        let first = take(&context, dir.path()).unwrap().unwrap();
        let failure = wait_for(&context, dir.path(), short).unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        assert!(failure.message.contains("another run downloads there"));
        drop(first);
        assert!(wait_for(&context, dir.path(), short).unwrap().is_some());
    }

    #[test]
    fn who_waits_seldom_looks_at_the_cache() {
        let (mut watch, begin) = (Watch::new(PATIENCE), Instant::now());
        let (mut looks, mut grown) = (0, 0);
        // A download that goes on for a quarter of an hour, and then hangs.
        let hung = (0..20_000_u32).find(|tenth| {
            let look = || {
                looks += 1;
                grown = u64::from(*tenth.min(&9000));
                vec![(PathBuf::from("x.part"), grown)]
            };
            watch.is_hung(begin + Duration::from_millis(100) * *tenth, look)
        });
        let hung = hung.map(|tenths| tenths / 10);
        assert!(hung.is_some_and(|seconds| (900 + 120..=900 + 150).contains(&seconds)), "{hung:?}");
        assert!(looks < 80, "{looks}");
    }

    #[test]
    fn a_run_that_waits_continues_when_the_lock_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let context = Context::new("strap", true);
        let first = take(&context, &path).unwrap().unwrap();
        let second = std::thread::spawn(move || take(&Context::new("strap", true), &path).map(|lock| lock.is_some()));
        assert!(!second.is_finished());
        drop(first);
        assert!(second.join().unwrap().unwrap());
    }

    #[test]
    fn a_download_in_a_directory_of_its_own_is_progress() {
        let dir = tempfile::tempdir().unwrap();
        let download = dir.path().join("download-a1B2c3");
        std::fs::create_dir(&download).unwrap();
        std::fs::write(download.join("x.part"), "1").unwrap();
        let before = sizes(dir.path());
        std::fs::write(download.join("x.part"), "12").unwrap();
        assert_ne!(sizes(dir.path()), before);
        assert_eq!(sizes(dir.path()).len(), 2);
    }

    #[test]
    fn a_missing_cache_is_left_to_pacman() {
        let context = Context::new("strap", true);
        assert!(take(&context, Path::new("/nowhere")).unwrap().is_none());
    }
}
