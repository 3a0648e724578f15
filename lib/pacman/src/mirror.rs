//! A run of pacman that needs a mirror: one that is out of step with itself, and none at all (`--offline`).

use crate::conf::Conf;
use crate::databases::{self, ONLINE};
use crate::english::{OutputEvent, Refusal};
use crate::run::{Beside, Pacman};
use crate::{partial_downloads, records};
use rootfs::Inside;
use stage::{Cause, Code, Context, Failure, message, quote};
use std::path::Path;

impl Pacman {
    /// Runs it inside the root's namespaces with `args` (pacman(8), the operation first) and `targets`; returns what its output
    /// said. `what` completes "running pacman to".
    ///
    /// It is run once more where that mends it: where a package is gone from the mirror that its databases still name, they
    /// are fetched anew; where the beginning of a download cannot be gone on with, it is removed.
    ///
    /// # Errors
    ///
    /// When pacman fails: with its own words, and the code that fits them. [`Code::Hung`] when it makes no progress,
    /// [`Code::NotFound`] where it is [`Pacman::offline`] and a file is missing.
    pub fn run(
        &self,
        context: &Context,
        inside: &Inside,
        what: &str,
        args: &[&str],
        targets: &[String],
    ) -> Result<Vec<OutputEvent>, Failure> {
        self.run_beside(context, inside, what, args, targets, &|| {})
    }

    /// [`Pacman::run`], and `beside` while pacman runs.
    pub(crate) fn run_beside(
        &self,
        context: &Context,
        inside: &Inside,
        what: &str,
        args: &[&str],
        targets: &[String],
        beside: Beside<'_>,
    ) -> Result<Vec<OutputEvent>, Failure> {
        let conf = Conf::read(&self.config)?;
        let (operation, rest) = args.split_first().unwrap_or((&"-S", &[]));
        let with = |operation: &str| -> Result<Vec<OutputEvent>, (Vec<OutputEvent>, Failure)> {
            let args: Vec<&str> = [operation]
                .into_iter()
                .chain(rest.iter().copied())
                .collect();
            self.once(context, inside, what, &args, targets, beside)
        };
        let (refreshes, downloads) = (operation.contains('y'), operation.contains('w'));
        if self.offline {
            if operation.starts_with("-S") {
                databases::restore(inside.root(), &conf)?;
            }
            if downloads {
                self.need_files(context, inside, &conf, args, targets)?;
            }
            return with(&operation.replace('y', "")).map_err(|(_, failure)| failure);
        }
        tidy(context, inside, downloads, &conf);
        let mut ran = with(operation);
        if let Err((marks, _)) = &ran
            && refreshes
            && let Some(file) = gone(marks)
        {
            context.warn(format_args!(
                "'{}' is not on the mirror, whose database names it: fetching the databases anew",
                message::escape(file)
            ));
            ran = with(&operation.replacen('y', "yy", 1));
        }
        // Not where the disk is full: it still is.
        if matches!(&ran, Err((_, failure)) if failure.cause != Some(Cause::NoSpace))
            && tidy(context, inside, downloads, &conf)
        {
            ran = with(operation);
        }
        let marks = ran.map_err(|(marks, failure)| match gone(&marks) {
            Some(file) => {
                out_of_step(file, refreshes).while_doing(format_args!("running pacman to {what}"))
            }
            None => failure,
        })?;
        // What is not kept is missed only by a later --offline, which says so.
        if refreshes && let Err(failure) = databases::keep(inside.root(), &conf) {
            context.warn(failure);
        }
        Ok(marks)
    }

    /// Looks whether all that is to be installed is in the cache, so that pacman will ask no server for it.
    fn need_files(
        &self,
        context: &Context,
        inside: &Inside,
        conf: &Conf,
        args: &[&str],
        targets: &[String],
    ) -> Result<(), Failure> {
        let Some(cache) = &conf.cache else {
            return Ok(());
        };
        let mut missing = Vec::new();
        // Of what it cannot resolve pacman says nothing here; the run itself will.
        for planned in self.preview(context, inside, args, targets)? {
            let there = |file: &str| cache.join(file).is_file();
            let signature = format!("{}.sig", planned.file);
            if !there(&planned.file) {
                missing.push(planned.file);
            } else if self.verifies && !there(&signature) {
                // pacman fetches it also where the database has it.
                missing.push(signature);
            }
        }
        match missing.split_first() {
            None => Ok(()),
            Some((first, rest)) => Err(not_cached(cache, first, rest.len())),
        }
    }
}

/// Removes what an earlier run left in the cache and a download cannot go on with; says whether there was something.
fn tidy(context: &Context, inside: &Inside, downloads: bool, conf: &Conf) -> bool {
    if !downloads {
        return false;
    }
    // Without databases, which are about to be fetched, there is nothing to compare with.
    let offered = records::offered(inside.root(), &conf.repos).unwrap_or_default();
    let removed = partial_downloads::remove(conf, &offered.entries);
    for name in &removed {
        context.warn(format_args!(
            "'{}' is what an interrupted run left in the cache: it is fetched anew",
            message::escape(name)
        ));
    }
    !removed.is_empty()
}

fn not_cached(cache: &Path, first: &str, more: usize) -> Failure {
    let more = match more {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    Failure::new(
        Code::NotFound,
        format!(
            "looking for '{}'{more} in {}: it is not there, and no server is asked",
            message::escape(first),
            quote(cache)
        ),
    )
    .hint(ONLINE)
}

/// Returns the package that the mirror does not have: 404, or for `file://` no such file. A signature is another matter.
fn gone(marks: &[OutputEvent]) -> Option<&str> {
    marks.iter().find_map(|mark| {
        let OutputEvent::NotRetrieved(lost) = mark else {
            return None;
        };
        let file = lost.file.as_str();
        let is_package = file.contains(".pkg.tar") && !file.ends_with(".sig");
        (is_package && lost.why == Refusal::NotThere).then_some(file)
    })
}

/// Returns whether a failure is that a server answered, and has a file no more: that does not go away.
#[must_use]
pub fn is_gone(failure: &Failure) -> bool {
    failure.cause == Some(Cause::NotOnServer)
}

/// Says that a mirror has not what its databases name.
fn out_of_step(file: &str, refreshed: bool) -> Failure {
    let file = message::escape(file);
    if refreshed {
        return Failure::new(
            Code::Network,
            format!("the mirror has no '{file}', which its database names, also after fetching that anew"),
        )
        .cause(Cause::NotOnServer)
        .hint("it is being brought up to date, or is broken: try later, or add another with mkconf --server URL");
    }
    Failure::new(
        Code::Network,
        format!("the mirror has no '{file}', which the database in the root names"),
    )
    .cause(Cause::NotOnServer)
    .hint("that is older than the mirror: have it refreshed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::english;

    #[test]
    fn a_package_that_is_gone_and_what_only_looks_like_it() {
        let gone = |text: &str| {
            let marks: Vec<_> = english::read(&format!("error: {text}"))
                .into_iter()
                .collect();
            gone(&marks).map(str::to_owned)
        };
        let file = "nano-7-1-any.pkg.tar.zst";
        let lost =
            |file: &str, why: &str| format!("failed retrieving file '{file}' from h : {why}");
        let status = "The requested URL returned error: 404";
        assert_eq!(gone(&lost(file, status)).as_deref(), Some(file));
        assert_eq!(
            gone(&lost(file, "Couldn't open file /x")).as_deref(),
            Some(file)
        );
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
