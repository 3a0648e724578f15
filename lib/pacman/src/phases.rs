//! The phases of a run of pacman as progress, one after the other: what it downloads, checks, installs and runs.

use crate::english::progress::{Step, step};
use crate::error_text::count;
use stage::{Context, Progress, Unit};
use std::collections::BTreeSet;

const DATABASES: &str = "downloading databases";
const DOWNLOAD: &str = "downloading";
const PREPARE: &str = "preparing";
const INSTALL: &str = "installing";
const HOOKS: &str = "running hooks";

/// How far a run of pacman is.
#[derive(Debug)]
pub(crate) struct Phases<'a> {
    pub(crate) context: &'a Context,
    /// How many databases there are.
    repos: usize,
    /// How many packages are to be installed or removed, and how many bytes to be downloaded.
    planned: Option<u64>,
    size: Option<u64>,
    /// The databases that are there.
    complete: BTreeSet<String>,
    /// How many packages are downloaded, and installed or removed.
    downloaded: u64,
    begun: u64,
    /// Whether pacman said how many bytes of all files are there.
    has_sum: bool,
    /// Whether hooks are what has a number now.
    hooks: bool,
    now: Option<Phase>,
}

#[derive(Debug)]
struct Phase {
    name: &'static str,
    /// What is counted, where that differs within it.
    of: String,
    total: Option<u64>,
    progress: Progress,
}

impl Phase {
    /// Ends it: pacman went on, so all was done.
    fn complete(self) {
        if let Some(total) = self.total {
            self.progress.set(total);
        }
    }
}

impl<'a> Phases<'a> {
    /// Returns those of a run with so many databases.
    pub(crate) fn new(context: &'a Context, repos: usize) -> Self {
        Self {
            context,
            repos,
            planned: None,
            size: None,
            complete: BTreeSet::new(),
            downloaded: 0,
            begun: 0,
            has_sum: false,
            hooks: false,
            now: None,
        }
    }

    /// Takes a line of output, and returns whether progress says all that is in it.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        let Some(step) = step(line) else { return false };
        match step {
            Step::Planned(number) => {
                self.planned = Some(number);
                return false;
            }
            Step::Size(bytes) => {
                // Rounded down to nothing, it is not known.
                self.size = Some(bytes).filter(|bytes| *bytes > 0);
                return false;
            }
            Step::File(name, bytes, complete) => return self.file(name, bytes, complete),
            Step::Hook(..) if !self.hooks => return false,
            Step::Databases => drop(self.phase(DATABASES, "", Unit::Databases, Some(self.repos as u64))),
            Step::Resolve => drop(self.phase(PREPARE, "", Unit::Packages, None)),
            Step::Download => drop(self.phase(DOWNLOAD, "", Unit::Bytes, self.size)),
            Step::Files(_, of, bytes) => {
                (self.downloaded, self.has_sum) = (of, true);
                self.phase(DOWNLOAD, "", Unit::Bytes, self.size).set(bytes);
            }
            Step::Check(what, None) => self.phase(PREPARE, "", Unit::Packages, None).item(&what),
            Step::Check(what, Some((done, of))) => {
                let progress = self.phase(PREPARE, &what, Unit::Packages, Some(of));
                progress.item(&what);
                progress.set(done);
            }
            Step::Begin => {
                self.hooks = false;
                drop(self.phase(INSTALL, "", Unit::Packages, self.planned));
            }
            Step::Package(name) => {
                let before = self.begun;
                self.begun += 1;
                let progress = self.phase(INSTALL, "", Unit::Packages, self.planned);
                progress.item(&name);
                progress.set(before);
            }
            Step::Hooks => self.hooks = true,
            Step::Hook(number, of, name) => {
                let progress = self.phase(HOOKS, "", Unit::Hooks, Some(of));
                progress.item(&name);
                progress.set(number.saturating_sub(1));
            }
        }
        true
    }

    /// Takes what is said of a file that is downloaded; at another time it is somebody else's line.
    fn file(&mut self, name: String, bytes: u64, complete: bool) -> bool {
        let Some(now) = &self.now else { return false };
        if ![DATABASES, DOWNLOAD].contains(&now.name) {
            return false;
        }
        // A bar may have no room for the whole of it, which stood there before.
        if !name.ends_with("...") {
            now.progress.item(&name);
        }
        if now.name == DATABASES {
            self.complete.extend(complete.then_some(name));
            now.progress.set(self.complete.len() as u64);
        } else if !self.has_sum && bytes > 0 {
            self.downloaded = 1;
            now.progress.set(bytes);
        }
        true
    }

    /// Returns the phase of this name, and begins it where it is not the present one.
    fn phase(&mut self, name: &'static str, of: &str, unit: Unit, total: Option<u64>) -> Progress {
        let is_now = |now: &Phase| (now.name, now.of.as_str(), now.total) == (name, of, total);
        if !self.now.as_ref().is_some_and(is_now) {
            // Before the next begins.
            if let Some(before) = self.now.take() {
                before.complete();
            }
            let progress = self.context.progress(name, unit, total);
            self.now = Some(Phase { name, of: of.to_owned(), total, progress });
        }
        self.now.as_ref().map_or_else(Progress::hidden, |now| now.progress.clone())
    }

    /// Ends the last phase, and returns what was done.
    pub(crate) fn finish(mut self, failed: bool) -> Option<String> {
        match self.now.take() {
            Some(now) if !failed => now.complete(),
            now => drop(now),
        }
        let done = [("downloaded", self.downloaded), ("installed", self.begun)];
        let done = done.into_iter().filter(|(_, number)| *number > 0 && !failed);
        let done: Vec<String> = done
            .map(|(verb, number)| format!("{verb} {}", count(usize::try_from(number).unwrap_or(usize::MAX), "package")))
            .collect();
        Some(done.join(", ")).filter(|text| !text.is_empty())
    }
}
