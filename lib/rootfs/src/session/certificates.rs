//! Private certificate authorities, for programs of the host that run inside.
//!
//! `SSL_CERT_FILE` names a file with certificates of authorities, or `SSL_CERT_DIR` directories of such files, as for OpenSSL
//! and other programs. pacman's libcurl ignores both and reads the file whose name was compiled in (seen with 6.0.2, 7.0.0
//! and 7.1.0). So that file is covered, in the namespace of the entry only: by the file that is named, or by one with the
//! content of the directories.

use super::{Job, Place};
use crate::attach::clone_tree;
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, mount_bind, move_mount, unmount};
use stage::{Code, Doing, Failure, quote};
use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

/// The longest file of authorities that is read, in bytes: ten times a distribution's.
const LIMIT: u64 = 4 << 20;

/// Where builds of libcurl look: Debian's, Arch's and pacman-static; Fedora's; openSUSE's.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Where a program gets its authorities from.
pub(super) enum Authorities {
    /// This file.
    File(PathBuf),
    /// This text: certificates in PEM (RFC 7468).
    Text(String),
}

/// Returns the authorities that the environment names, if any.
///
/// # Errors
///
/// When they are not there, or have no certificate: a program would silently use others.
pub(super) fn of_environment(job: &Job<'_>) -> Result<Option<Authorities>, Failure> {
    if job.place != Place::Host {
        return Ok(None);
    }
    let file = named(FILE, file)?;
    let Some(mut text) = named(DIR, in_directories)? else {
        return Ok(file.map(Authorities::File));
    };
    if let Some(file) = file {
        certificates(&file, &mut text).doing(Code::Failed, || doing(FILE, &file))?;
    }
    Ok(Some(Authorities::Text(text)))
}

/// Returns what a variable names, if it is set.
fn named<T>(variable: &str, find: impl Fn(&Path) -> Result<T, Failure>) -> Result<Option<T>, Failure> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.map(|value| find(Path::new(&value))).transpose()
}

fn doing(variable: &str, value: &Path) -> String {
    format!("using {variable} {}", quote(value))
}

fn file(value: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(value).doing(Code::Os, || doing(FILE, value))?;
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(Code::NotFound, format!("{}: there is no such file", doing(FILE, value))))
}

/// Returns the certificates in all files of the directories, which are separated by ':'. Each file is read once, although
/// `openssl rehash` gives it a second name.
fn in_directories(value: &Path) -> Result<String, Failure> {
    let (mut text, mut seen) = (String::new(), HashSet::new());
    for dir in std::env::split_paths(value) {
        let reading = || doing(DIR, &dir);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).doing(Code::NotFound, reading)? {
            paths.push(entry.doing(Code::Os, reading)?.path());
        }
        paths.sort();
        for path in paths {
            // Dangling links and FIFOs are ignored.
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_file()
                && seen.insert((meta.dev(), meta.ino()))
            {
                certificates(&path, &mut text)
                    .doing(Code::Failed, || format!("{}: reading {}", reading(), quote(&path)))?;
            }
        }
    }
    if text.is_empty() {
        let why = format!("{}: no file in it has a certificate", doing(DIR, value));
        return Err(Failure::new(Code::NotFound, why));
    }
    Ok(text)
}

/// Adds the certificates in a file, and nothing else, such as a key.
fn certificates(file: &Path, text: &mut String) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LIMIT).read_to_end(&mut bytes)?;
    let mut inside = false;
    for line in String::from_utf8_lossy(&bytes).lines() {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            text.push_str(line);
            text.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    Ok(())
}

/// Refuses other authorities than the host's own, where nothing can be mounted.
///
/// # Errors
///
/// [`Code::Usage`] with the variable that names them.
pub(super) fn refuse_others() -> Result<(), Failure> {
    let bundles: Vec<PathBuf> = BUNDLES.iter().filter_map(|bundle| fs::canonicalize(bundle).ok()).collect();
    let directories: Vec<&Path> = BUNDLES.iter().filter_map(|bundle| Path::new(bundle).parent()).collect();
    let check = |variable: &str, is_hosts: &dyn Fn(&Path) -> bool| {
        named(variable, |value| match std::env::split_paths(value).all(|path| is_hosts(&path)) {
            true => Ok(()),
            false => Err(Failure::new(
                Code::Usage,
                format!(
                    "{}: in mode chroot pacman reads the host's file, which cannot be covered",
                    doing(variable, value)
                ),
            )
            .hint(format!("add the certificates to the host's by update-ca-certificates(8), and unset {variable}"))),
        })
    };
    check(FILE, &|path| fs::canonicalize(path).is_ok_and(|path| bundles.contains(&path)))?;
    check(DIR, &|path| directories.contains(&path))?;
    Ok(())
}

/// Covers the host's authorities with these.
pub(super) fn cover(authorities: &Authorities) -> Result<(), Failure> {
    for bundle in BUNDLES.map(Path::new).into_iter().filter(|bundle| bundle.is_file()) {
        match authorities {
            Authorities::File(file) => mount_bind(file, bundle)
                .doing(Code::Os, || format!("{} in place of {}", doing(FILE, file), quote(bundle)))?,
            Authorities::Text(text) => {
                cover_with(text, bundle).doing(Code::Os, || format!("using {DIR} in place of {}", quote(bundle)))?
            }
        }
    }
    Ok(())
}

/// Covers a file with a text in memory: on a tmpfs, which is mounted on the directory of the file only until it is bound.
fn cover_with(text: &str, bundle: &Path) -> std::io::Result<()> {
    let dir = bundle.parent().unwrap_or(Path::new("/"));
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("authorities", dir, "tmpfs", flags, Some(c"mode=755"))?;
    let file = dir.join("authorities");
    let bound = fs::write(&file, text).and_then(|()| Ok(clone_tree(CWD, &file.to_string_lossy(), false)?));
    unmount(dir, UnmountFlags::empty())?;
    Ok(move_mount(bound?, "", CWD, bundle, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_of_the_directories_once_and_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = |of: &str| format!("-----BEGIN CERTIFICATE-----\n{of}\n-----END CERTIFICATE-----\n");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("1.pem"), format!("words\n{}", certificate("one"))).unwrap();
        fs::write(
            b.join("2.pem"),
            format!("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n{}", certificate("two")),
        )
        .unwrap();
        fs::write(b.join("README"), "none").unwrap();
        std::os::unix::fs::symlink("1.pem", a.join("0a0b0c0d.0")).unwrap();
        std::os::unix::fs::symlink("nowhere", a.join("00000000.0")).unwrap();
        rustix::fs::mknodat(CWD, a.join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let both = std::env::join_paths([&a, &b]).unwrap();
        let text = in_directories(Path::new(&both)).unwrap();
        assert_eq!(text, certificate("one") + &certificate("two"));
        fs::remove_file(b.join("2.pem")).unwrap();
        assert_eq!(in_directories(&b).unwrap_err().code, Code::NotFound);
        assert_eq!(in_directories(&b.join("none")).unwrap_err().code, Code::NotFound);
    }
}
