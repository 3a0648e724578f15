//! Filling the package cache, which outlives the mirror that it was filled from.
//!
//! A cache is kept between runs and shared between roots. What one mirror sent can lie in it by the name of what another
//! one has: a broken download, or what was refused when it was to be installed. It is removed when it is met, and pacman
//! fails, though all that is asked for could be had. So it is asked again.

use crate::cache_lock;
use crate::english::OutputEvent;
use crate::run::{DOWNLOAD, Pacman};
use rootfs::Inside;
use stage::{Code, Context, Failure, quote};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

impl Pacman {
    /// Runs pacman to fill the cache at `cache`, as [`Pacman::run`] does, and once more where it failed because of what
    /// was in the cache before, which it has then removed. What was fetched in this run and does not hold is not asked
    /// for again.
    ///
    /// # Errors
    ///
    /// As [`Pacman::run`], and [`cache_lock::take`].
    pub fn download(
        &self,
        context: &Context,
        inside: &Inside,
        cache: &Path,
        args: &[&str],
        targets: &[String],
    ) -> Result<Vec<OutputEvent>, Failure> {
        let _turn = cache_lock::take(context, cache)?;
        let before = names(cache);
        let result = self.run(context, inside, DOWNLOAD, args, targets);
        let Err(failure) = &result else { return result };
        let after = names(cache);
        let Some(removed) = before.difference(&after).next() else {
            return result;
        };
        if failure.code != Code::NotVerified {
            return result;
        }
        context.warn(format_args!(
            "{}: {} was in the cache before and is fetched again",
            failure.message,
            quote(cache.join(removed))
        ));
        self.run(context, inside, DOWNLOAD, args, targets)
    }
}

/// Returns the names in a directory; none where it cannot be read, as pacman will then say itself.
fn names(directory: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.file_name()).collect()
}
