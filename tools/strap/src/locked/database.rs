//! Databases and configurations for pacman, made of a lock.
//!
//! pacman knows how to download a package: from which servers, in which order, how to continue a partial file, whose signature.
//! It looks packages up in the databases of repositories, so it gets databases that have what is locked and nothing else.

use super::lock::Locked;

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
    let planned = &one.planned;
    let pairs = [
        ("FILENAME", Some(&planned.file)),
        ("NAME", Some(&planned.name)),
        ("VERSION", Some(&planned.version)),
        ("SHA256SUM", Some(&one.sha256)),
        ("PGPSIG", one.pgpsig.as_ref()),
        ("ARCH", Some(&one.arch)),
    ];
    let known = pairs.into_iter().filter_map(|(key, value)| Some((key, value?)));
    known.map(|(key, value)| format!("%{key}%\n{value}\n\n")).collect()
}

/// Returns a strict configuration of mkconf with other values for some of its keys.
pub(super) fn configuration(strict: &str, values: &[(&str, &str)]) -> String {
    let change = |line: &str| {
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        match values.iter().find(|(changed, _)| *changed == key) {
            Some((_, value)) => format!("{key} = {value}\n"),
            None => format!("{line}\n"),
        }
    };
    strict.lines().map(change).collect()
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
        let download = configuration(STRICT, &[("DBPath", "/x/locked/"), ("SigLevel", "Required DatabaseNever")]);
        assert_eq!(
            download,
            "# x\n[options]\nDBPath = /x/locked/\nSigLevel = Required DatabaseNever\nLocalFileSigLevel = Optional\n\n\
             [core]\nSigLevel = Required DatabaseNever\nServer = http://h/$repo\n\n[extra]\n"
        );
        let install = configuration(STRICT, &[("LocalFileSigLevel", "Required")]);
        assert_eq!(install, STRICT.replace("Level = Optional", "Level = Required"));
    }
}
