//! Programs of the host that a pipeline runs: gpg, which judges signatures, and where it likes pacman.

use crate::finding::Finding;
use crate::ids::find_in_path;
use crate::release::{Need, Release};
use stage::{Failure, child, quote};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A program of the host, and the version that it says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What `--version` prints; why it could not be run.
    pub(crate) says: Result<String, String>,
}

impl Program {
    /// Looks for a program in `PATH` and asks for its version.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let path = find_in_path(name)?;
        let mut command = child::command(&path);
        // It may complain about a home directory that is of no interest here.
        command.arg("--version").stderr(Stdio::null());
        rootfs::die_with_us(&mut command);
        let says = match child::output(&mut command) {
            Ok(out) if out.status.success() => {
                Ok(String::from_utf8_lossy(&out.stdout).into_owned())
            }
            Ok(out) => Err(child::ended(out.status)),
            Err(Failure { message, .. }) => Err(message),
        };
        Some(Self { path, says })
    }
}

/// Returns the first version in a text, as `2.2.40`: pacman puts a picture before it.
fn version(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        let mut parts = word.split('.');
        let number = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        (number(parts.next()?) && number(parts.next()?)).then_some(word)
    })
}

/// Returns the first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// What a program that is needed says of itself, or the finding that it does not work.
fn needed<'a>(
    name: &'static str,
    program: Option<&'a Program>,
    why: &str,
    install: String,
) -> Result<(&'a Path, &'a str), Finding> {
    let Some(program) = program else {
        return Err(Finding::fail(name, "not found").why(why).fix(install));
    };
    let at = quote(&program.path);
    match &program.says {
        Err(reason) => Err(Finding::fail(name, format!("{at} does not run: {reason}"))
            .why(why)
            .fix(install)),
        Ok(text) => match version(text) {
            Some(version) => Ok((&program.path, version)),
            None => Err(Finding::fail(name, format!("{at} says no version"))
                .why(why)
                .fix(install)),
        },
    }
}

/// Judges gpg.
pub(crate) fn gpg(program: Option<&Program>, release: &Release) -> Finding {
    const NAME: &str = "gpg";
    let why = "signatures are checked by the host's gpg: without it no package would be taken";
    match needed(NAME, program, why, release.install(Need::Gpg)) {
        Err(finding) => finding,
        Ok((path, version)) => {
            let found = format!("{version}, {}", quote(path));
            if numbers(version) < (2, 4) {
                return Finding::ok(NAME, found);
            }
            Finding::ok(NAME, format!("{found}, rejects SHA-1")).why(
                "from 2.4 on gpg does not count certifications made with SHA-1, so a key that only such ones vouch for \
                 is not trusted: 'keyring' then signs the pinned keys itself",
            )
        }
    }
}

/// Judges gpg-agent.
pub(crate) fn agent(program: Option<&Program>, release: &Release) -> Finding {
    const NAME: &str = "gpg-agent";
    let why = "what has a secret key, such as a root's own pacman-key --init, needs it; checking signatures does not";
    match needed(NAME, program, why, release.install(Need::Agent)) {
        // Debian has it as a package of its own, and a pipeline can do without.
        Err(finding) => Finding {
            status: crate::finding::Status::Warn,
            ..finding
        },
        Ok((path, version)) => Finding::ok(NAME, format!("{version}, {}", quote(path))),
    }
}

/// Says which pacman the host has. It needs none. `names` says whether it reads all names of files, where that is known.
pub(crate) fn pacman(program: Option<&Program>, names: Option<bool>, release: &Release) -> Finding {
    const NAME: &str = "pacman";
    match needed(NAME, program, "", String::new()) {
        Err(_) => Finding::ok(NAME, "none of the host's: fetch-pacman gets one"),
        Ok((path, version)) if names == Some(false) => {
            let found = format!("{version}, {}; without the locale C.UTF-8", quote(path));
            Finding::warn(NAME, found)
                .why(
                    "a pacman that is linked to glibc leaves out files whose names are not ASCII where the host has no \
                     such locale, and says nothing: fetch-pacman --use refuses it",
                )
                .fix(release.install(Need::Locale))
        }
        Ok((path, version)) => Finding::ok(
            NAME,
            format!("{version}, {}; fetch-pacman --use takes it", quote(path)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn program(says: Result<&str, &str>) -> Program {
        Program {
            path: "/usr/bin/x".into(),
            says: says.map(Into::into).map_err(Into::into),
        }
    }

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let pacman = "\n .--.                  Pacman v7.1.0 - libalpm v15.0.0\n/ _.-' .-.  .-.  .-.   Copyright";
        assert_eq!(version(pacman), Some("7.1.0"));
        assert_eq!(
            version("gpg (GnuPG) 2.2.40\nlibgcrypt 1.10.1\n"),
            Some("2.2.40")
        );
        assert_eq!(version("gpg (GnuPG) 2.5.0-beta1"), Some("2.5.0-beta1"));
        assert_eq!(version("hello"), None);
        assert_eq!(numbers("2.5.0-beta1"), (2, 5));
    }

    #[test]
    fn gpg_is_needed_and_the_agent_and_pacman_are_not() {
        let release = Release::parse("ID=debian\nVERSION_ID=12\n", false);
        let finding = gpg(None, &release);
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.fix.unwrap(), "sudo apt-get install gnupg");
        assert_eq!(agent(None, &release).status, Status::Warn);
        assert_eq!(pacman(None, None, &release).status, Status::Ok);
        let own = program(Ok("Pacman v6.0.2"));
        assert_eq!(pacman(Some(&own), Some(true), &release).status, Status::Ok);
        let finding = pacman(Some(&own), Some(false), &release);
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(
            finding.fix.as_deref(),
            Some("sudo apt-get install --reinstall libc-bin")
        );
        let broken = program(Err("exit status 127"));
        let finding = gpg(Some(&broken), &release);
        assert_eq!(finding.found, "'/usr/bin/x' does not run: exit status 127");
        let silent = program(Ok(""));
        assert_eq!(gpg(Some(&silent), &release).status, Status::Fail);
    }

    #[test]
    fn a_gpg_that_rejects_sha1_is_noted() {
        let release = Release::parse("", false);
        let old = program(Ok("gpg (GnuPG) 2.2.40"));
        assert_eq!(gpg(Some(&old), &release).why, None);
        let new = program(Ok("gpg (GnuPG) 2.4.7"));
        let finding = gpg(Some(&new), &release);
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.why.unwrap().contains("SHA-1"));
    }
}
