//! One download at a time into a package cache.
//!
//! pacman downloads into `FILE.part` in the cache itself, and looks for nobody who does the same (libalpm's dload.c, 6.0): a
//! second one goes on where it thinks that the first had ended, and both write into one file. What comes of that does
//! not hold, so at least one of them fails. Since 7.0 each has a directory of its own there, where it runs as another
//! user (`DownloadUser`), and only there.
//!
//! So whoever downloads holds a lock of the kernel's on the cache (flock(2)), which dies with its holder; installing from it
//! needs none. It is waited for, as others work on other roots and will be done.

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote, signal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long nothing may change in a cache before whoever downloads into it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// The turn, as long as this lives.
#[derive(Debug)]
pub struct CacheLock {
    _cache: OwnedFd,
}

/// Waits until nobody else downloads into `cache`. `None` where it cannot be opened or locked: then pacman says why it
/// cannot be used, or it is on a file system that knows no locks.
///
/// # Errors
///
/// [`Code::Busy`] when another has it and gets nowhere, [`Code::Interrupted`] on a signal.
pub fn take(context: &Context, cache: &Path) -> Result<Option<CacheLock>, Failure> {
    wait_for(context, cache, PATIENCE)
}

fn wait_for(
    context: &Context,
    cache: &Path,
    patience: Duration,
) -> Result<Option<CacheLock>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let doing = || format!("locking {}", quote(cache));
    let directory = match openat(CWD, cache, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        Err(e) => return Err(e).doing(Code::Os, doing),
    };
    let mut seen: Option<(Vec<(std::ffi::OsString, u64)>, Instant)> = None;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(CacheLock { _cache: directory })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                context.warn(format_args!(
                    "{}: its file system has no locks, so nobody else may download there now",
                    doing()
                ));
                return Ok(None);
            }
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        let now = sizes(cache);
        match &seen {
            Some((before, since)) if *before == now => {
                if since.elapsed() >= patience {
                    let why = format!(
                        "{}: another run downloads there, and nothing has come for {} s",
                        doing(),
                        patience.as_secs()
                    );
                    return Err(Failure::new(Code::Busy, why)
                        .hint("wait until it has ended, and try again; or give mkconf another --cache-dir"));
                }
            }
            _ => {
                if seen.is_none() {
                    context.note(format_args!(
                        "waiting for another run that downloads into {}",
                        quote(cache)
                    ));
                }
                seen = Some((now, Instant::now()));
            }
        }
        signal::wait(Duration::from_millis(100))?;
    }
}

/// Returns what is in the cache, by name and bytes: it changes as long as somebody gets somewhere.
fn sizes(cache: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let mut sizes: Vec<_> = entries
        .filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.len())))
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_one_at_a_time_and_ends_with_its_holder() {
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
    fn who_has_to_wait_goes_on_when_it_is_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let context = Context::new("strap", true);
        let first = take(&context, &path).unwrap().unwrap();
        let second = std::thread::spawn(move || {
            take(&Context::new("strap", true), &path).map(|turn| turn.is_some())
        });
        assert!(!second.is_finished());
        drop(first);
        assert!(second.join().unwrap().unwrap());
    }

    #[test]
    fn a_cache_that_is_not_there_is_for_pacman_to_speak_of() {
        let context = Context::new("strap", true);
        assert!(take(&context, Path::new("/nowhere")).unwrap().is_none());
    }
}
