//! The program: extracted from its package, tried, and put in place.

use crate::cache;
use crate::draft::Draft;
use crate::verify::Verified;
use nix::errno::Errno;

use package::archive::extract_member;
use package::digest::Sha256Reader;
use stage::{Cause, Code, Context, Doing, Failure, child, quote};
use std::env::consts::ARCH;
use std::fmt::Display;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More than a static pacman has: it is 11 MB.
const LIMIT: u64 = 256 << 20;

/// How long a program may take to print its version. An emulated one takes a second.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that runs, and prints that it is pacman.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) sha256: String,
    /// Whether there was nothing at its path before.
    pub(crate) new: bool,
}

/// Extracts a member of a verified package to `to`, after a try whether it runs. `trial` is a directory to try it in.
pub(crate) fn extract(
    context: &Context,
    mut verified: Verified,
    member: &str,
    to: &Path,
    trial: &Path,
) -> Result<Program, Failure> {
    let failed = |e: std::io::Error| explain_write_error(&e, to);
    let dir = to.parent().unwrap_or(Path::new("/"));
    let mut draft = Draft::new_in(dir).map_err(failed)?;
    verified.file.rewind().doing(Code::Os, || "reading the package")?;
    extract_member(&mut verified.file, member, &mut draft.file, LIMIT).map_err(|e| match e {
        package::Error::Write { source, .. } => failed(source),
        package::Error::NotFound { .. } => {
            Failure::new(Code::NotFound, e).hint("name the file of the package that is pacman with --member PATH")
        }
        _ => Failure::new(Code::Failed, e),
    })?;
    // It is from a `Verified`: from here on it may run.
    let draft = draft.into_executable().map_err(failed)?;
    let sha256 = sha256_of(&draft.file).map_err(failed)?;
    let version = version(context, &draft.path(), to)?;
    check_names(&draft.path(), to, Some(trial))?;

    let new = std::fs::symlink_metadata(to).is_err();
    draft.persist(to).map_err(failed)?;
    File::open(dir).and_then(|dir| dir.sync_all()).doing(Code::Os, || format!("writing directory {}", quote(dir)))?;
    Ok(Program { path: to.to_owned(), version, sha256, new })
}

/// Returns the program at `to` if it is the one that was extracted from this package before. File names were tried then, so
/// only its version is asked for again.
pub(crate) fn reuse(context: &Context, _: &Verified, to: &Path, sha256: &str) -> Result<Option<Program>, Failure> {
    let hash = || {
        let file = cache::open(to).ok()?;
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.permissions().mode() & 0o7777 != 0o755 {
            return None;
        }
        rootfs::file::claim(&file).ok()?;
        sha256_of(file).ok()
    };
    if hash().as_deref() != Some(sha256) {
        return Ok(None);
    }
    Ok(Some(Program { path: to.to_owned(), version: version(context, to, to)?, sha256: sha256.to_owned(), new: false }))
}

fn sha256_of(file: impl Read) -> std::io::Result<String> {
    let mut hash = Sha256Reader::new(file);
    hash.drain()?;
    Ok(hash.finish())
}

/// Checks a pacman that is already installed.
pub(crate) fn inspect(context: &Context, path: &Path) -> Result<Program, Failure> {
    let doing = || format!("using {}", quote(path));
    let fail = |code, why: &dyn Display| Failure::new(code, format!("{}: {why}", doing()));
    let file = stage::file::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => fail(Code::NotFound, &e).hint(
            "install your distribution's pacman (on Debian: apt install pacman-package-manager), or leave out --use to fetch one",
        ),
        ErrorKind::InvalidInput => fail(Code::Failed, &e),
        _ => fail(Code::Os, &e),
    })?;
    let mode = file.metadata().doing(Code::Os, doing)?.permissions().mode();
    if mode & 0o111 == 0 {
        let hint = format!("if it is a pacman that you trust: chmod +x {}", quote(path));
        return Err(fail(Code::Failed, &"it is not executable").hint(hint));
    }
    let sha256 = sha256_of(file).doing(Code::Os, doing)?;
    let version = version(context, path, path)?;
    check_names(path, path, None)?;
    Ok(Program { path: path.to_owned(), version, sha256, new: false })
}

/// Refuses a program that skips or renames files with names that are not ASCII. `name` is its path in messages, `trial` a
/// directory to try it in.
fn check_names(program: &Path, name: &Path, trial: Option<&Path>) -> Result<(), Failure> {
    if pacman::locale::reads_all_names(program, trial)? != Some(false) {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, format!("using {}: it leaves out files whose names are not ASCII", quote(name)))
        .hint("where it is linked to glibc, this host lacks the locale C.UTF-8: 'doctor' says what installs it"))
}

/// Runs a program for its version. `name` is its path in messages.
fn version(context: &Context, program: &Path, name: &Path) -> Result<String, Failure> {
    let begin = Instant::now();
    let mut command = child::command(program);
    command.arg("--version");
    rootfs::die_with_us(&mut command);
    let output = child::output_within(&mut command, VERSION_TIMEOUT);
    context.waited(begin.elapsed());
    let doing = format!("running {} --version", quote(name));
    let fail = |code, why: &dyn Display| Failure::new(code, format!("{doing}: {why}"));
    let output = output.map_err(|failure| match (failure.code, failure.cause) {
        (Code::Interrupted, _) => failure,
        (Code::Hung, _) => fail(Code::Hung, &format!("nothing happened for {} s", VERSION_TIMEOUT.as_secs())),
        // Not the failure's own message, which names a temporary file.
        (_, Some(Cause::System(number))) => {
            let error = std::io::Error::from_raw_os_error(number);
            let failure = fail(Code::ChildFailed, &error);
            match Errno::from_raw(number) {
                Errno::EACCES => failure.hint("is the file system mounted noexec? then put it elsewhere with -o FILE"),
                Errno::ENOEXEC => failure.hint(format!("it is not a program of this host, which is {ARCH}")),
                _ => failure,
            }
        }
        _ => failure.while_doing(&doing),
    })?;
    if !output.status.success() {
        return Err(fail(Code::ChildFailed, &child::ended(output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = parse_banner(&text) else {
        let why = match text.trim().lines().next() {
            None => "it printed nothing".to_owned(),
            Some(line) => {
                let line: String = line.trim().chars().take(80).collect();
                format!("not a pacman: it printed '{line}'")
            }
        };
        return Err(fail(Code::ChildFailed, &why));
    };
    Ok(version.to_owned())
}

/// Returns the version in pacman's banner: `Pacman v6.0.2 - libalpm v13.0.2`, drawn beside a picture.
fn parse_banner(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Pacman v")?;
    let (version, rest) = rest.split_once(' ')?;
    let known = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    let good = version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(known);
    (good && rest.starts_with("- libalpm v")).then_some(version)
}

fn explain_write_error(error: &std::io::Error, to: &Path) -> Failure {
    let failed = |code| Failure::new(code, format!("writing {}: {error}", quote(to)));
    match error.kind() {
        ErrorKind::PermissionDenied => failed(Code::Permission),
        ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => {
            failed(Code::Os).hint("make room, or put it elsewhere with -o FILE")
        }
        _ => failed(Code::Os),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_banner() {
        let banner_of = |version: &str| {
            format!("\n .--.                  Pacman v{version} - libalpm v13.0.2\n/ _.-' .-.  Copyright (C)\n")
        };
        for version in ["6.0.2", "7.1.0.r9.g54d9411", "7.1.0", "7.0.0.r6.gc685ae6-1", "6.1.0+git"] {
            assert_eq!(parse_banner(&banner_of(version)), Some(version));
        }
        for text in [
            "",
            "pacman 6.0.2",
            "Pacman v6.0.2",
            "Pacman v - libalpm v13",
            "Pacman vx - libalpm v13",
            "Pacman v6.0.2\u{1b}[2J - libalpm v13",
            "Pacman v6.0.2 of someone",
        ] {
            assert_eq!(parse_banner(text), None, "{text:?}");
        }
    }
}
