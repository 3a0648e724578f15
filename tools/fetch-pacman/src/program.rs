//! The program itself: out of its package, proven to run, and put in place.

use crate::draft::Draft;
use crate::verify::Verified;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use package::archive::extract_member;
use package::digest::Sha256Reader;
use sha2::{Digest, Sha256};
use stage::{Cause, Code, Context, Doing, Failure, child, quote};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More than a static pacman has: it is 11 MB.
const LIMIT: u64 = 256 << 20;

/// How long a program may take to say its version. An emulated one takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs, and says that it is pacman.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) sha256: String,
    /// Whether there was nothing at its path before.
    pub(crate) new: bool,
}

/// Takes the one member out of a verified package and puts it at `to`, once it has shown that it runs.
pub(crate) fn place(
    context: &Context,
    mut verified: Verified,
    member: &str,
    to: &Path,
    trial: &Path,
) -> Result<Program, Failure> {
    let failed = |e: std::io::Error| write_failure(&e, to);
    // In the same directory, so that it can be put in place as one, and not executable.
    let dir = to.parent().unwrap_or(Path::new("/"));
    let draft = Draft::new_in(dir).map_err(failed)?;
    verified
        .file
        .seek(SeekFrom::Start(0))
        .doing(Code::Os, || "reading the package")?;
    let mut out = Hashed {
        file: draft.file(),
        hash: Sha256::new(),
    };
    extract_member(&mut verified.file, member, &mut out, LIMIT).map_err(|e| match e {
        package::Error::Write { source, .. } => failed(source),
        package::Error::NotFound { .. } => Failure::new(Code::NotFound, e)
            .hint("name the file of the package that is pacman with --member PATH"),
        _ => Failure::new(Code::Failed, e),
    })?;
    let sha256 = format!("{:x}", out.hash.finalize());

    // The package's hash was compared before there was a `Verified`: from here on the file may run.
    let runnable = draft.runnable().map_err(failed)?;
    let version = version(context, &runnable.path(), to)?;
    check_names(&runnable.path(), to, Some(trial))?;

    let new = std::fs::symlink_metadata(to).is_err();
    runnable.put(to).map_err(failed)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .doing(Code::Os, || format!("writing directory {}", quote(dir)))?;
    Ok(Program {
        path: to.to_owned(),
        version,
        sha256,
        new,
    })
}

/// Returns the program at `to` if it is the one that was extracted from this package before, and still runs.
pub(crate) fn same(
    context: &Context,
    _: &Verified,
    to: &Path,
    sha256: &str,
    trial: &Path,
) -> Result<Option<Program>, Failure> {
    let is = || {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(flags.bits())
            .open(to)
            .ok()?;
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.permissions().mode() & 0o7777 != 0o755 {
            return None;
        }
        rootfs::file::claim(&file).ok()?;
        let mut hash = Sha256Reader::new(file);
        hash.drain().ok()?;
        Some(hash.finish())
    };
    if is().as_deref() != Some(sha256) {
        return Ok(None);
    }
    let version = version(context, to, to)?;
    check_names(to, to, Some(trial))?;
    Ok(Some(Program {
        path: to.to_owned(),
        version,
        sha256: sha256.to_owned(),
        new: false,
    }))
}

/// Looks at a pacman that is already there.
pub(crate) fn inspect(context: &Context, path: &Path) -> Result<Program, Failure> {
    let doing = || format!("using {}", quote(path));
    let fail = |code, why: &str| Failure::new(code, format!("{}: {why}", doing()));
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => fail(Code::NotFound, &e.to_string()).hint(
            "install your distribution's pacman (on Debian: apt install pacman-package-manager), or leave out --use to fetch one",
        ),
        _ => fail(Code::Os, &e.to_string()),
    })?;
    if !meta.is_file() {
        return Err(fail(Code::Failed, "not a regular file"));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(fail(Code::Failed, "it is not executable").hint(format!(
            "if it is a pacman that you trust: chmod +x {}",
            quote(path)
        )));
    }
    let file = File::open(path).doing(Code::Os, doing)?;
    let mut hash = Sha256Reader::new(file);
    hash.drain().doing(Code::Os, doing)?;
    let version = version(context, path, path)?;
    check_names(path, path, None)?;
    Ok(Program {
        path: path.to_owned(),
        version,
        sha256: hash.finish(),
        new: false,
    })
}

/// Refuses a program that leaves out files, or names them otherwise. `name` is what it will be called, `trial` a directory where it
/// is tried.
fn check_names(program: &Path, name: &Path, trial: Option<&Path>) -> Result<(), Failure> {
    match pacman::locale::reads_all_names(program, trial)? {
        Some(false) => Err(Failure::new(
            Code::Failed,
            format!("using {}: it leaves out files whose names are not ASCII", quote(name)),
        )
        .hint("where it is linked to glibc, this host lacks the locale C.UTF-8: 'doctor' says what installs it")),
        _ => Ok(()),
    }
}

/// Asks a program for its version. `name` is what it will be called.
fn version(context: &Context, program: &Path, name: &Path) -> Result<String, Failure> {
    let begin = Instant::now();
    let mut command = child::command(program);
    command.arg("--version");
    rootfs::die_with_us(&mut command);
    let output = child::output_within(&mut command, PATIENCE);
    context.waited(begin.elapsed());
    let doing = || format!("running {} --version", quote(name));
    let output = output.map_err(|failure| match failure.code {
        Code::Interrupted => failure,
        Code::Hung => {
            let why = format!("nothing happened for {} s", PATIENCE.as_secs());
            Failure::new(Code::Hung, format!("{}: {why}", doing()))
        }
        _ => {
            let Some(Cause::System(number)) = failure.cause else {
                return failure.while_doing(doing());
            };
            // Said anew: the path of a temporary file helps nobody.
            let error = std::io::Error::from_raw_os_error(number);
            let failure = Failure::new(Code::ChildFailed, format!("{}: {error}", doing()));
            match Errno::from_raw(number) {
                Errno::EACCES => failure
                    .hint("is the file system mounted noexec? then put it elsewhere with -o FILE"),
                Errno::ENOEXEC => failure.hint(format!(
                    "it is not a program of this host, which is {}",
                    std::env::consts::ARCH
                )),
                _ => failure,
            }
        }
    })?;
    let fail = |why: String| Failure::new(Code::ChildFailed, format!("{}: {why}", doing()));
    if !output.status.success() {
        return Err(fail(child::ended(output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if text.trim().is_empty() {
        return Err(fail("it printed nothing".into()));
    }
    banner(&text).map(str::to_owned).ok_or_else(|| {
        let line = text
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        let line: String = line.trim().chars().take(80).collect();
        fail(format!("no pacman: it printed '{line}'"))
    })
}

/// Returns the version in pacman's banner: `Pacman v6.0.2 - libalpm v13.0.2`, drawn beside a picture.
fn banner(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Pacman v")?;
    let (version, rest) = rest.split_once(' ')?;
    let known = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    let good = version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(known);
    (good && rest.starts_with("- libalpm v")).then_some(version)
}

fn write_failure(error: &std::io::Error, to: &Path) -> Failure {
    let code = match error.kind() {
        ErrorKind::PermissionDenied => Code::Permission,
        _ => Code::Os,
    };
    let failure = Failure::new(code, format!("writing {}: {error}", quote(to)));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => {
            failure.hint("make room, or put it elsewhere with -o FILE")
        }
        _ => failure,
    }
}

/// A file, and the hash of what is written to it.
struct Hashed<'a> {
    file: &'a File,
    hash: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_banner() {
        let banner_of = |version: &str| {
            format!(
                "\n .--.                  Pacman v{version} - libalpm v13.0.2\n/ _.-' .-.  Copyright (C)\n"
            )
        };
        for version in [
            "6.0.2",
            "7.1.0.r9.g54d9411",
            "7.1.0",
            "7.0.0.r6.gc685ae6-1",
            "6.1.0+git",
        ] {
            assert_eq!(banner(&banner_of(version)), Some(version));
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
            assert_eq!(banner(text), None, "{text:?}");
        }
    }
}
