//! Running pacman: where, with whose eyes on its output, and what an exit status other than 0 means.

use crate::output::{self, Mark, Reader, Show};
use rootfs::session::{Output, environment};
use rootfs::{Ended, Inside, Job, Place};
use stage::{Code, Context, Doing, Failure, message};
use std::ffi::OsString;
use std::path::PathBuf;

/// The pacman to run, and with which configuration.
#[derive(Debug)]
pub struct Pacman {
    /// The program.
    pub program: PathBuf,
    /// The pacman.conf(5).
    pub config: PathBuf,
}

impl Pacman {
    /// Runs it inside the root's namespaces with `args` (pacman(8)) and `targets`; returns what its output said. `what`
    /// completes "running pacman to".
    ///
    /// # Errors
    ///
    /// When pacman fails: with its own words, and the code that fits them.
    pub fn run(
        &self,
        context: &Context,
        inside: &Inside,
        what: &str,
        args: &[&str],
        targets: &[String],
    ) -> Result<Vec<Mark>, Failure> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        // Bars are for a person who waits for a download; lines keep the order of what failed and why.
        let show = Show::on_stderr(context.quiet);
        if what != DOWNLOAD || show != Show::Raw {
            args.push("--noprogressbar".into());
        }
        args.extend(["--config".into(), self.config.clone().into(), "--".into()]);
        args.extend(targets.iter().map(OsString::from));
        let job = Job {
            program: self.program.as_os_str(),
            args,
            env: environment(),
            place: Place::Host,
            user: None,
            terminal: false,
        };
        let (from, into) = output::terminal().doing(Code::Os, || "making a terminal for pacman")?;
        let mut reader = Reader::new(show);
        let mut sink = |bytes: &[u8]| reader.take(bytes);
        let output = Output {
            sink: &mut sink,
            from,
            into,
        };
        let (ended, time) = inside.run(&job, Some(output))?;
        context.waited(time);
        let marks = reader.finish(ended != Ended::Exited(0));
        match ended {
            Ended::Exited(0) => Ok(marks),
            ended => {
                Err(explain(&marks, ended).while_doing(format_args!("running pacman to {what}")))
            }
        }
    }
}

/// What [`Pacman::run`] calls a run that only downloads.
pub const DOWNLOAD: &str = "download";

/// Finds the code for pacman's failure in its words; its exit status is 1 for all of them.
fn explain(marks: &[Mark], ended: Ended) -> Failure {
    const WORDS: &[(&str, Code, Option<&str>)] = &[
        (
            "(PGP signature)",
            Code::NotVerified,
            Some("its signature does not hold: nothing was installed"),
        ),
        (
            "unknown trust",
            Code::NotVerified,
            Some("the key is in the keyring but not trusted: a newer keyring package may mend it"),
        ),
        (
            "required key missing",
            Code::NotVerified,
            Some("the signing key is missing or expired: a newer keyring package may mend it"),
        ),
        (
            "key \"",
            Code::NotVerified,
            Some("the key that signed it may not be used: a newer keyring package may mend it"),
        ),
        (
            "keyring is not writable",
            Code::NotVerified,
            Some("put 'keyring' before 'strap'"),
        ),
        (
            "invalid or corrupted",
            Code::NotVerified,
            Some(
                "the mirror sent something else than its database promises: try again, or another mirror",
            ),
        ),
        // A database that is a web page: then every package of it is "not found".
        (
            "Unrecognized archive format",
            Code::Network,
            Some("try again, or another mirror: mkconf --server URL"),
        ),
        (
            "target not found",
            Code::NotFound,
            Some("look at the spelling, and at the repositories of mkconf"),
        ),
        (
            "No space left",
            Code::Failed,
            Some("free some space and run the same pipe again: it goes on where it stopped"),
        ),
        // libarchive's words for a file that could not be written whole; the reason gets lost in pacman (6.0.2).
        (
            "(Write failed)",
            Code::Failed,
            Some(
                "the disk may be full: free some space and run the same pipe again: it goes on where it stopped",
            ),
        ),
        (
            "exists in filesystem",
            Code::Failed,
            Some("a file is there that no package owns: remove it, or begin with a new root"),
        ),
        (
            "failed retrieving file",
            Code::Network,
            Some("try again, or another mirror: mkconf --server URL"),
        ),
        (
            "failed to synchronize",
            Code::Network,
            Some("try again, or another mirror: mkconf --server URL"),
        ),
        (
            "failed to update",
            Code::Network,
            Some("try again, or another mirror: mkconf --server URL"),
        ),
        ("unable to lock database", Code::Busy, None),
    ];
    let errors: Vec<&str> = marks
        .iter()
        .filter_map(|m| match m {
            Mark::Error(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let said = WORDS
        .iter()
        .find(|(words, ..)| errors.iter().any(|e| e.contains(words)));
    let (code, hint) = said.map_or((Code::ChildFailed, None), |(_, code, hint)| (*code, *hint));
    let line = said
        .and_then(|(words, ..)| errors.iter().find(|e| e.contains(words)))
        .or(errors.last());
    let message = match line {
        Some(line) => format!("{}: {}", ended.words(), message::escape(line)),
        None => ended.words(),
    };
    let failure = Failure::new(code, message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pacmans_words_become_codes() {
        for (words, code) in [
            (
                "failed to commit transaction (invalid or corrupted package (PGP signature))",
                Code::NotVerified,
            ),
            (
                "nano: signature from \"X\" is unknown trust",
                Code::NotVerified,
            ),
            ("target not found: nono", Code::NotFound),
            (
                "could not open file /r/core.db: Unrecognized archive format",
                Code::Network,
            ),
            (
                "failed retrieving file 'core.db' from h : Connection refused",
                Code::Network,
            ),
            ("could not extract /r/usr/x (Write failed)", Code::Failed),
            ("problem occurred while installing x", Code::ChildFailed),
        ] {
            let failure = explain(&[Mark::Error(words.into())], Ended::Exited(1));
            assert_eq!(failure.code, code, "{words}");
            assert_eq!(failure.message, format!("exit status 1: {words}"));
        }
        assert_eq!(
            explain(&[], Ended::Signalled(9)).message,
            "killed by signal 9 (SIGKILL)"
        );
    }
}
