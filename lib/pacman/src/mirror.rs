//! A run of pacman that needs a mirror: one that is out of step with itself, and none at all (`--offline`).
//!
//! A cache outlives the mirror that it was filled from, and is shared between roots. What one mirror sent can lie in it by the
//! name of what another one has: a broken download, or a package that is refused when it is installed. It is removed when it is
//! met, and pacman fails, though all that is asked for could be downloaded. So it is asked again.

use crate::conf::{Conf, Signatures};
use crate::databases::{self, ONLINE};
use crate::english::{OutputEvent, Refusal};
use crate::error_text::and_more;
use crate::operation::{Action, Operation, Refresh};
use crate::run::{Beside, Pacman, Ran};
use crate::{cache_lock, partial_downloads, records, signature_report};
use rootfs::Ended;
use stage::{Cause, Code, Failure, message, quote};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The names of the files in a package cache.
#[derive(Clone, Debug)]
pub struct Cached(BTreeSet<OsString>);

impl Cached {
    /// Returns whether the name of a file in it begins so.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.0.iter().any(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    }

    /// Leaves these files and their signatures out: no server has them.
    #[must_use]
    pub fn without(mut self, files: &[String]) -> Self {
        for file in files {
            self.0.remove(OsStr::new(file));
            self.0.remove(OsStr::new(&format!("{file}.sig")));
        }
        self
    }
}

impl Pacman<'_> {
    /// Runs it inside the root's namespaces; returns what its output said.
    ///
    /// It is run once more where that helps: where a package is gone from the mirror that its databases still name, they are
    /// downloaded again; where a partial download cannot be continued, it is removed.
    ///
    /// # Errors
    ///
    /// When pacman fails: with its own words, and the code that fits them. [`Code::Hung`] when it makes no progress,
    /// [`Code::NotFound`] where it is [`Pacman::offline`] and a file is missing.
    pub fn run(&self, operation: Operation<'_>, targets: &[String]) -> Result<Vec<OutputEvent>, Failure> {
        self.run_beside(operation, targets, &|| {})
    }

    /// Runs pacman to fill the cache, and once more where it failed because of what was in the cache before, which it has then
    /// removed. What was downloaded in this run and is refused is not asked for again.
    ///
    /// # Errors
    ///
    /// As [`Pacman::run`], and [`cache_lock::take`].
    pub fn download(&self, operation: Operation<'_>, targets: &[String]) -> Result<Vec<OutputEvent>, Failure> {
        self.download_since(&self.cached(), operation, targets)
    }

    /// [`Pacman::download`]; `before` is what was in the cache before this run.
    ///
    /// # Errors
    ///
    /// As [`Pacman::download`].
    pub fn download_since(
        &self,
        before: &Cached,
        operation: Operation<'_>,
        targets: &[String],
    ) -> Result<Vec<OutputEvent>, Failure> {
        let _lock = cache_lock::take(self.context, self.cache)?;
        let result = self.run(operation, targets);
        match &result {
            Err(failure) if self.helps_again(failure, before) => self.run(operation, targets),
            _ => result,
        }
    }

    /// Runs pacman to fill the cache by the configuration `config`, which verifies databases and no packages: that is left to the
    /// pacman that installs them. Returns whether the packages are there, as far as their databases tell; where one is not what
    /// its database says, or a database is refused, the file stays, for [`Pacman::download`] to judge.
    ///
    /// # Errors
    ///
    /// As [`Pacman::run`], and [`cache_lock::take`].
    pub fn download_unverified(
        &self,
        config: &Path,
        operation: Operation<'_>,
        targets: &[String],
    ) -> Result<bool, Failure> {
        let _lock = cache_lock::take(self.context, self.cache)?;
        let pacman = Self { config: config.to_owned(), ..self.clone() };
        match pacman.attempt(operation, targets, &|| {}, false) {
            Err(failure) if failure.code == Code::NotVerified => Ok(false),
            ran => ran.map(|_| true),
        }
    }

    /// Has pacman download the databases of its repositories that are newer, and keeps no copy of them in the cache.
    ///
    /// # Errors
    ///
    /// When pacman fails, with its own words.
    pub fn download_databases(&self) -> Result<(), Failure> {
        let operation = Operation { action: Action::Download, refresh: Refresh::Newer, ..Operation::default() };
        self.execute(operation, &[], &|| {}).map(drop).map_err(|(_, failure)| failure)
    }

    /// Returns what is in the cache.
    #[must_use]
    pub fn cached(&self) -> Cached {
        Cached(names(self.cache))
    }

    /// Returns whether it helps to download again: pacman refused what was in the cache `before`, and it has been removed.
    #[must_use]
    pub fn helps_again(&self, failure: &Failure, before: &Cached) -> bool {
        let after = names(self.cache);
        let Some(removed) = before.0.difference(&after).next().filter(|_| failure.code == Code::NotVerified) else {
            return false;
        };
        self.context.warn(format_args!(
            "{}: {} was in the cache before and is downloaded again",
            failure.message,
            quote(self.cache.join(removed))
        ));
        true
    }

    /// Downloads the repositories' databases where the servers have newer ones; offline, those that the root lacks are taken
    /// from the cache.
    ///
    /// # Errors
    ///
    /// As [`Pacman::run`]; offline, where one is not there.
    pub fn refresh(&self) -> Result<(), Failure> {
        if self.offline {
            return databases::restore(self.inside.root(), self.cache, &self.repos);
        }
        self.download(Operation::download_targets(Refresh::Newer), &[]).map(drop)
    }

    /// [`Pacman::run`], and `beside` while pacman runs.
    pub(crate) fn run_beside(
        &self,
        operation: Operation<'_>,
        targets: &[String],
        beside: Beside<'_>,
    ) -> Result<Vec<OutputEvent>, Failure> {
        self.attempt(operation, targets, beside, true)
    }

    /// [`Pacman::run_beside`]; where it does not `judge`, a file that pacman refuses is neither checked nor removed.
    fn attempt(
        &self,
        operation: Operation<'_>,
        targets: &[String],
        beside: Beside<'_>,
        judge: bool,
    ) -> Result<Vec<OutputEvent>, Failure> {
        let refresh = |refresh| Operation { refresh, ..operation };
        if self.offline {
            if operation.is_sync() {
                databases::restore(self.inside.root(), self.cache, &self.repos)?;
            }
            if operation.action == Action::Download {
                self.need_files(operation, targets)?;
            }
            let ran = self.once(refresh(Refresh::No), targets, beside, judge);
            return ran.map_err(|(_, failure)| failure);
        }
        let refreshes = operation.refresh != Refresh::No;
        // This reads the databases, which is slow where they are large. An archive that is too short has no .part: pacman refuses it, and
        // it is removed then.
        let downloads = operation.action == Action::Download;
        if downloads && partial_downloads::has_parts(&names(self.cache)) {
            self.remove_partial_downloads();
        }
        let mut ran = self.once(operation, targets, beside, judge);
        if let Err((events, _)) = &ran
            && refreshes
            && let Some(file) = missing_package(events)
        {
            self.context.warn(format_args!(
                "'{}' is not on the mirror, whose database names it: downloading the databases again",
                message::escape(file)
            ));
            ran = self.once(refresh(Refresh::All), targets, beside, judge);
        }
        // Not where the disk is full: it still is.
        if downloads
            && matches!(&ran, Err((_, failure)) if failure.cause != Some(Cause::NoSpace))
            && self.remove_partial_downloads()
        {
            ran = self.once(operation, targets, beside, judge);
        }
        let events = ran.map_err(|(events, failure)| match missing_package(&events) {
            Some(file) => {
                out_of_step(file, refreshes).while_doing(format_args!("running pacman to {}", operation.purpose()))
            }
            None => failure,
        })?;
        // A database that is not kept is needed only by a later --offline, which reports it.
        let keep = || databases::keep(self.inside.root(), self.cache, &self.repos);
        if refreshes && let Err(failure) = keep() {
            self.context.warn(failure);
        }
        Ok(events)
    }

    /// Runs it once, and finds out why pacman refused a file.
    fn once(&self, operation: Operation<'_>, targets: &[String], beside: Beside<'_>, judge: bool) -> Ran {
        self.execute(operation, targets, beside).map_err(|(events, failure)| {
            if !judge && failure.code == Code::NotVerified {
                return (events, failure);
            }
            let failure = signature_report::explain(self, operation, targets, &events, failure);
            (events, failure)
        })
    }

    /// Checks that all that is to be installed is in the cache, so that pacman will ask no server for it.
    fn need_files(&self, operation: Operation<'_>, targets: &[String]) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let conf = Conf::read(&self.config)?;
        // pacman does not report here what it cannot resolve; the run itself will.
        for planned in self.preview(operation, targets)? {
            let there = |file: &str| self.cache.join(file).is_file();
            let signature = format!("{}.sig", planned.file);
            if !there(&planned.file) {
                missing.push(planned.file);
            } else if conf.signatures(&planned.repo) != Signatures::Never && !there(&signature) {
                // pacman downloads it also where the database has it.
                missing.push(signature);
            }
        }
        let Some((first, rest)) = missing.split_first() else {
            return Ok(());
        };
        let message = format!(
            "looking for '{}'{} in {}: it is not there, and no server is contacted",
            message::escape(first),
            and_more(rest.len()),
            quote(self.cache)
        );
        Err(Failure::new(Code::NotFound, message).hint(ONLINE))
    }

    /// Fills the cache with files beside packages of the repositories: their signatures. `config` has databases that name these
    /// files. Nobody sees it: what a server does not have is for [`Pacman::download`] to report. Returns whether pacman succeeded.
    ///
    /// # Errors
    ///
    /// When pacman cannot be run, and [`cache_lock::take`].
    pub fn download_quietly(&self, config: &Path, targets: &[String]) -> Result<bool, Failure> {
        let _lock = cache_lock::take(self.context, self.cache)?;
        let pacman = Self { config: config.to_owned(), ..self.clone() };
        let operation = Operation::download_targets(Refresh::No);
        Ok(pacman.start(operation.ask(), operation.arguments(), targets, &mut |_| {})? == Ended::Exited(0))
    }

    /// Removes files that an earlier run left in the cache and that a download cannot continue; returns whether there were any.
    fn remove_partial_downloads(&self) -> bool {
        let there = names(self.cache);
        if there.is_empty() {
            return false;
        }
        // Without databases, which are about to be downloaded, there is nothing to compare with.
        let offered = records::offered(self.inside.root(), &self.repos).unwrap_or_default();
        let removed = partial_downloads::remove(self.cache, &there, &offered.entries);
        for name in &removed {
            self.context.warn(format_args!(
                "'{}' was left in the cache by an interrupted run: it is downloaded again",
                message::escape(name)
            ));
        }
        !removed.is_empty()
    }
}

/// Returns the names in a directory; none where it cannot be read, which pacman reports.
fn names(directory: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.file_name()).collect()
}

/// Returns the package that the mirror does not have: 404, or for `file://` no such file. A signature is another matter.
fn missing_package(events: &[OutputEvent]) -> Option<&str> {
    events.iter().find_map(|event| {
        let OutputEvent::NotRetrieved(lost) = event else {
            return None;
        };
        let file = lost.file.as_str();
        let is_package = file.contains(".pkg.tar") && !file.ends_with(".sig");
        (is_package && lost.why == Refusal::NotThere).then_some(file)
    })
}

/// Returns the failure of a mirror that does not have what its databases name.
fn out_of_step(file: &str, refreshed: bool) -> Failure {
    let file = message::escape(file);
    let (message, hint) = match refreshed {
        true => (
            format!("the mirror has no '{file}', which its database names, also after downloading that again"),
            "it is being updated, or is broken: try later, or add another with mkconf --server URL",
        ),
        false => (
            format!("the mirror has no '{file}', which the database in the root names"),
            "the database is older than the mirror: run strap without --no-refresh",
        ),
    };
    Failure::new(Code::Network, message).cause(Cause::NotOnServer).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::english;

    #[test]
    fn a_package_that_is_gone_and_what_only_looks_like_it() {
        let gone = |text: &str| {
            let events = Vec::from_iter(english::read(&format!("error: {text}")));
            missing_package(&events).map(str::to_owned)
        };
        let file = "nano-7-1-any.pkg.tar.zst";
        let lost = |file: &str, why: &str| format!("failed retrieving file '{file}' from h : {why}");
        let status = "The requested URL returned error: 404";
        assert_eq!(gone(&lost(file, status)).as_deref(), Some(file));
        assert_eq!(gone(&lost(file, "Couldn't open file /x")).as_deref(), Some(file));
        for other in [
            lost(&format!("{file}.sig"), status),
            lost("core.db", status),
            lost(file, "Connection refused"),
            "target not found: nano".into(),
        ] {
            assert_eq!(gone(&other), None, "{other}");
        }
    }
}
