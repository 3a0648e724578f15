//! Databases and configurations for pacman, made of a lock.
//!
//! pacman knows how to download a package: from which servers, in which order, how to continue a partial file, whose signature.
//! It looks packages up in the databases of repositories, so it gets databases that have what is locked and nothing else.

use super::lock::Locked;
use package::db::decode_signature;
use std::fmt::Write;

/// Returns the database of a repository: a tar of `NAME-VERSION/desc` (alpm-repo-desc(5)), not compressed, which libalpm
/// reads as well. It has no dependencies: nothing is resolved by it.
///
/// # Errors
///
/// When a name is too long for a tar.
pub(super) fn of(repo: &str, locked: &[&Locked]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for one in locked.iter().filter(|one| one.planned.repo == repo) {
        let text = desc(one);
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let path = format!("{}-{}/desc", one.planned.name, one.planned.version);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    tar.into_inner()
}

fn desc(one: &Locked) -> String {
    let mut text = String::new();
    let planned = &one.planned;
    let pairs = [
        ("FILENAME", Some(&planned.file)),
        ("NAME", Some(&planned.name)),
        ("VERSION", Some(&planned.version)),
        ("SHA256SUM", Some(&one.sha256)),
        ("PGPSIG", one.pgpsig.as_ref()),
        ("ARCH", Some(&one.arch)),
    ];
    for (key, value) in pairs {
        if let Some(value) = value {
            write!(text, "%{key}%\n{value}\n\n").unwrap_or(());
        }
    }
    text
}

/// Returns the bytes of a locked package's signature, where the lock has it.
pub(super) fn signature(one: &Locked) -> Option<Vec<u8>> {
    decode_signature(one.pgpsig.as_deref()?)
}

/// What a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For<'a> {
    /// To download, with our own databases at this path: they are not signed, and the archives are compared afterwards.
    Download(&'a str),
    /// To install archives by their paths: they are verified as any package is.
    Install,
}

/// Changes a strict configuration of mkconf for that purpose.
pub(super) fn configuration(strict: &str, purpose: For<'_>) -> String {
    let mut text = String::new();
    for line in strict.lines() {
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        match (key, purpose) {
            ("DBPath", For::Download(path)) => writeln!(text, "DBPath = {path}/"),
            ("SigLevel", For::Download(_)) => writeln!(text, "SigLevel = Required DatabaseNever"),
            ("LocalFileSigLevel", For::Install) => writeln!(text, "LocalFileSigLevel = Required"),
            _ => writeln!(text, "{line}"),
        }
        .unwrap_or(());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::db;
    use pacman::Planned;

    const STRICT: &str = "# x\n[options]\nDBPath = /r/var/lib/pacman/\nSigLevel = Required DatabaseOptional\n\
                          LocalFileSigLevel = Optional\n\n[core]\nSigLevel = Required\nServer = http://h/$repo\n\n[extra]\n";

    fn locked(name: &str, repo: &str, pgpsig: Option<&str>) -> Locked {
        Locked {
            planned: Planned {
                repo: repo.into(),
                name: name.into(),
                version: "1-1".into(),
                file: format!("{name}-1-1-any.pkg.tar.zst"),
            },
            arch: "any".into(),
            sha256: "0".repeat(64),
            pgpsig: pgpsig.map(str::to_owned),
            explicit: true,
        }
    }

    #[test]
    fn a_database_has_what_is_locked_of_its_repository() {
        let all = [locked("a", "core", Some("Zm8=")), locked("b", "core", None), locked("c", "extra", None)];
        let all: Vec<&Locked> = all.iter().collect();
        let bytes = of("core", &all).unwrap();
        let entries = db::read(&bytes[..], db::Limits::default()).unwrap().entries;
        let read: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.filename.as_str(), e.signature())).collect();
        assert_eq!(read, [("a", "a-1-1-any.pkg.tar.zst", Some(b"fo".to_vec())), ("b", "b-1-1-any.pkg.tar.zst", None)]);
        // pacman wants one of every repository, also of those that have nothing.
        assert!(db::read(&of("aur", &all).unwrap()[..], db::Limits::default()).unwrap().entries.is_empty());
    }

    #[test]
    fn configurations() {
        let download = configuration(STRICT, For::Download("/x/locked"));
        assert_eq!(
            download,
            "# x\n[options]\nDBPath = /x/locked/\nSigLevel = Required DatabaseNever\nLocalFileSigLevel = Optional\n\n\
             [core]\nSigLevel = Required DatabaseNever\nServer = http://h/$repo\n\n[extra]\n"
        );
        let install = configuration(STRICT, For::Install);
        assert_eq!(install, STRICT.replace("Level = Optional", "Level = Required"));
    }
}
