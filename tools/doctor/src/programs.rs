//! Programs of the host that a pipeline runs: gpg, which checks signatures, and optionally pacman and what makes file systems.

use crate::finding::Finding;
use crate::ids::find_in_path;
use crate::kernel;
use crate::release::{Need, Release};
use image::host::HostKind;
use stage::{Failure, child, quote};
use std::path::PathBuf;
use std::process::Stdio;

/// A program of the host.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// What `--version` prints, or why it could not be run.
    pub(crate) says: Result<String, String>,
}

impl Program {
    /// Looks for a program in `PATH` and asks for its version.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let path = find_in_path(name)?;
        let mut command = child::command(&path);
        // It may complain about a home directory, which does not matter here.
        command.arg("--version").stderr(Stdio::null());
        rootfs::die_with_us(&mut command);
        let says = match child::output(&mut command) {
            Ok(out) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            Ok(out) => Err(child::ended(out.status)),
            Err(Failure { message, .. }) => Err(message),
        };
        Some(Self { path, says })
    }
}

/// Returns the first version in a text, as `2.2.40`: pacman prints a picture before it.
fn version(text: &str) -> Option<&str> {
    let number = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    let mut words = text.split_whitespace().map(|w| w.trim_start_matches('v'));
    words.find(|word| {
        let mut parts = word.split('.');
        parts.next().is_some_and(number) && parts.next().is_some_and(number)
    })
}

/// Returns the version of a program, and that with its path; or why it does not work.
fn working(program: Option<&Program>) -> Result<(&str, String), String> {
    let program = program.ok_or("not found")?;
    let at = quote(&program.path);
    let text = program.says.as_deref().map_err(|reason| format!("{at} does not run: {reason}"))?;
    let version = version(text).ok_or_else(|| format!("{at} prints no version"))?;
    Ok((version, format!("{version}, {at}")))
}

pub(crate) fn gpg(program: Option<&Program>, release: &Release) -> Finding {
    match working(program) {
        Err(found) => Finding::fail(found)
            .why("the host's gpg checks signatures: without it no package is accepted")
            .fix(release.install(Need::Gpg)),
        Ok((version, found)) if kernel::version(version) < (2, 4) => Finding::ok(found),
        Ok((_, found)) => Finding::ok(format!("{found}, rejects SHA-1")).why(
            "gpg 2.4 and later ignore certifications made with SHA-1, so a key that has no others is not trusted: \
             'keyring' then signs the pinned keys itself",
        ),
    }
}

pub(crate) fn agent(program: Option<&Program>, release: &Release) -> Finding {
    match working(program) {
        // Debian has it as a package of its own, and a pipeline can do without.
        Err(found) => Finding::warn(found)
            .why("using a secret key, as pacman-key --init in the root does, needs it; checking signatures does not")
            .fix(release.install(Need::Gpg)),
        Ok((_, found)) => Finding::ok(found),
    }
}

/// Reports the host's pacman. None is needed. `names` says whether it reads all names of files, where that is known.
pub(crate) fn pacman(program: Option<&Program>, names: Option<bool>, release: &Release) -> Finding {
    match working(program) {
        Err(_) => Finding::ok("none on the host: fetch-pacman gets one"),
        Ok((_, found)) if names == Some(false) => Finding::warn(format!(
            "{found}; without the locale C.UTF-8"
        ))
        .why(
            "a pacman that is linked to glibc silently leaves out files whose names are not ASCII where the host has \
             no such locale: fetch-pacman --use refuses it",
        )
        .fix(release.install(Need::Locale)),
        Ok((_, found)) => Finding::ok(format!("{found}; fetch-pacman --use accepts it")),
    }
}

/// Reports the programs that make file systems. None is needed.
pub(crate) fn mkfs(is_found: fn(HostKind) -> bool) -> Finding {
    let (found, missing): (Vec<_>, Vec<_>) = HostKind::ALL.into_iter().partition(|kind| is_found(*kind));
    let found: Vec<_> = found.iter().map(|kind| kind.program().0).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    if missing.is_empty() {
        return Finding::ok(found);
    }
    let missing: Vec<_> = missing.iter().map(|kind| kind.program()).collect();
    let missing: Vec<_> = missing.iter().map(|(program, package)| format!("{program} (Debian: {package})")).collect();
    Finding::ok(format!("{found}; not found: {}", missing.join(", ")))
        .why("mkdisk and pack make btrfs, erofs, squashfs and xfs by them; ext4 and FAT need no program")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    #[test]
    fn programs_that_make_file_systems_are_not_needed() {
        assert_eq!(mkfs(|_| true).found, "tar2sqfs, mkfs.erofs, mkfs.btrfs, mkfs.xfs");
        let finding = mkfs(|kind| kind == HostKind::Erofs);
        assert_eq!(finding.status, Status::Ok);
        let missing = "mkfs.erofs; not found: tar2sqfs (Debian: squashfs-tools-ng), mkfs.btrfs (Debian: btrfs-progs), \
                       mkfs.xfs (Debian: xfsprogs)";
        assert_eq!(finding.found, missing);
        assert!(mkfs(|_| false).found.starts_with("none; "));
    }

    fn program(says: Result<&str, &str>) -> Program {
        Program { path: "/usr/bin/x".into(), says: says.map(Into::into).map_err(Into::into) }
    }

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let pacman = "\n .--.                  Pacman v7.1.0 - libalpm v15.0.0\n/ _.-' .-.  .-.  .-.   Copyright";
        assert_eq!(version(pacman), Some("7.1.0"));
        assert_eq!(version("gpg (GnuPG) 2.2.40\nlibgcrypt 1.10.1\n"), Some("2.2.40"));
        assert_eq!(version("gpg (GnuPG) 2.5.0-beta1"), Some("2.5.0-beta1"));
        assert_eq!(version("hello"), None);
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
        assert_eq!(finding.fix.as_deref(), Some("sudo apt-get install --reinstall libc-bin"));
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
