//! Whether a pacman can read file names that are not ASCII.
//!
//! libarchive converts the names in an archive to the locale. Programs get `LC_ALL=C.UTF-8` from us; a pacman that is linked to
//! glibc needs that locale from the host. If the host lacks it, pacman stops extracting a package at the first such name, prints
//! nothing and exits 0. A static one with musl needs no locale. So it is tested, with a package in which nothing else can fail.

use stage::{Code, Doing, Failure, child};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// How long a program may take. An emulated one takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns whether `program` reads such a name; `None` if it does not read that package without such a name either. It works in
/// `directory`, and leaves its files there; without one, in a temporary directory.
///
/// # Errors
///
/// When it cannot be tested.
pub fn reads_all_names(program: &Path, directory: Option<&Path>) -> Result<Option<bool>, Failure> {
    let mut temporary = None;
    let directory = match directory {
        Some(directory) => directory,
        None => temporary.insert(tempfile::tempdir().doing(Code::Os, MAKING)?).path(),
    };
    // The database is made here: one that pacman was killed while making is empty, and then no pacman reads anything.
    let local = directory.join("local");
    std::fs::create_dir_all(&local).doing(Code::Os, MAKING)?;
    keep(&local, "ALPM_DB_VERSION", b"9\n")?;
    let reads = |name| reads(program, directory, name);
    Ok(match reads(NAME)? {
        true => Some(true),
        false if reads("cafe")? => Some(false),
        false => None,
    })
}

/// A name that is not ASCII.
const NAME: &str = "caf\u{e9}";

const MAKING: fn() -> &'static str = || "making a package to test pacman with";

/// Writes a file, unless it is there and has these bytes.
fn keep(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let opened = File::open(directory).doing(Code::Os, MAKING)?;
    let there = rootfs::root::read(opened.as_fd(), name, bytes.len() as u64);
    if there.is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    rootfs::file::replace(opened.as_fd(), name, bytes, 0o644, None).doing(Code::Os, MAKING)
}

/// Returns whether it lists the one file of a package that has this name.
fn reads(program: &Path, directory: &Path, name: &str) -> Result<bool, Failure> {
    let file = format!("{}-1-1-any.pkg.tar", if name.is_ascii() { "ascii" } else { "other" });
    keep(directory, &file, &package(name).doing(Code::Os, MAKING)?)?;
    let mut command = child::command(program);
    command.env("LC_ALL", "C.UTF-8").stderr(Stdio::null());
    command.args(["--config", "/dev/null"]);
    for option in ["--root", "--dbpath", "--gpgdir"] {
        command.arg(option).arg(directory);
    }
    command.arg("-Qlp").arg(directory.join(file));
    rootfs::die_with_us(&mut command);
    let output = child::output_within(&mut command, PATIENCE)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let listed = text.lines().any(|line| line.ends_with(&format!("/{name}")));
    Ok(output.status.success() && listed)
}

/// Returns a package without an `.MTREE`, so that pacman reads the archive's own names. The name is in a header of pax(5), as
/// makepkg writes one that is not ASCII: libarchive takes that for UTF-8.
fn package(name: &str) -> std::io::Result<Vec<u8>> {
    fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, text: &str) -> std::io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes())
    }
    let mut tar = tar::Builder::new(Vec::new());
    let info = "pkgname = try\npkgver = 1-1\narch = any\n";
    add(&mut tar, ".PKGINFO", info)?;
    tar.append_pax_extensions([("path", name.as_bytes())])?;
    add(&mut tar, "name", "")?;
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ascii_need_a_locale() {
        let host = Path::new("/usr/bin/pacman");
        assert_eq!(reads_all_names(host, None).unwrap(), Some(true));
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            // By another process: a file that a child of another test still has open for writing cannot be run.
            let command = format!("printf '{text}' > {0}; chmod +x {0}", path.display());
            let ran = std::process::Command::new("sh").args(["-c", &command]).status();
            assert!(ran.unwrap().success());
            path
        };
        let without = script("without", "#!/bin/sh\\nexport LC_ALL=none.UTF-8\\nexec /usr/bin/pacman \"$@\"\\n");
        assert_eq!(reads_all_names(&without, None).unwrap(), Some(false));
        // pacman was killed while it made the database, in a directory that is used again.
        let kept = dir.path().join("kept");
        std::fs::create_dir_all(kept.join("local")).unwrap();
        for left in ["", "9"] {
            std::fs::write(kept.join("local/ALPM_DB_VERSION"), left).unwrap();
            assert_eq!(reads_all_names(&without, Some(&kept)).unwrap(), Some(false), "{left:?}");
        }
        assert_eq!(reads_all_names(host, Some(&kept)).unwrap(), Some(true));
        let other = script("other", "#!/bin/sh\\nexit 0\\n");
        assert_eq!(reads_all_names(&other, None).unwrap(), None);
    }
}
