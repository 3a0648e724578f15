//! Databases for pacman, made for one run.
//!
//! pacman knows how to download a file of a repository: from which servers, in which order, how to continue a partial one. It looks
//! files up in the databases of repositories, so it gets databases that have what is wanted and nothing else.

use package::db::Entry;
use package::dbtar;

/// Returns the database of a repository: a tar of `NAME-VERSION/desc` (alpm-repo-desc(5)), not compressed, which libalpm
/// reads as well. It has no dependencies: nothing is resolved by it.
///
/// # Errors
///
/// When a name cannot be that of a file in a tar.
pub(crate) fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> std::io::Result<Vec<u8>> {
    dbtar::of(entries.into_iter().map(|entry| (format!("{}-{}/desc", entry.name, entry.version), desc(entry))))
}

fn desc(entry: &Entry) -> String {
    let csize = entry.csize.map(|size| size.to_string());
    let pairs = [
        ("FILENAME", Some(&entry.filename)),
        ("NAME", Some(&entry.name)),
        ("VERSION", Some(&entry.version)),
        ("CSIZE", csize.as_ref()),
        ("SHA256SUM", entry.sha256.as_ref()),
        ("PGPSIG", entry.pgpsig.as_ref()),
    ];
    let known = pairs.into_iter().filter_map(|(key, value)| Some((key, value?)));
    known.map(|(key, value)| format!("%{key}%\n{value}\n\n")).collect()
}

/// Returns the level of signatures that asks for those of databases as `level` does, and for none of packages.
pub(crate) fn without_packages(level: &str) -> String {
    let of_databases = level.split_whitespace().filter_map(|word| match word {
        word if word.starts_with("Package") => None,
        word if word.starts_with("Database") => Some(word.to_owned()),
        word => Some(format!("Database{word}")),
    });
    of_databases.chain(["PackageNever".to_owned()]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::db;

    const STRICT: &str = "# x\n[options]\nDBPath = /r/var/lib/pacman/\nSigLevel = Required DatabaseOptional\n\
                          LocalFileSigLevel = Optional\n\n[core]\nSigLevel = Required\nServer = http://h/$repo\n\n[extra]\n";

    #[test]
    fn a_database_has_what_is_wanted() {
        let entry = |name: &str, pgpsig: Option<&str>| Entry {
            name: name.into(),
            version: "1-1".into(),
            filename: format!("{name}-1-1-any.pkg.tar.zst"),
            sha256: Some("0".repeat(64)),
            pgpsig: pgpsig.map(str::to_owned),
            ..Entry::default()
        };
        let entries = [entry("a", Some("Zm8=")), entry("b", None)];
        let bytes = of(&entries).unwrap();
        assert_eq!(db::read(&bytes[..], db::Limits::default()).unwrap().entries, entries);
        // pacman wants one of every repository, also of those that have nothing.
        assert!(db::read(&of(&[]).unwrap()[..], db::Limits::default()).unwrap().entries.is_empty());
    }

    #[test]
    fn configurations() {
        use pacman::conf::changed as configuration;
        let never = |_: &str| "Never".to_owned();
        let download = configuration(STRICT, &[("DBPath", &|_| "/x/locked/".to_owned()), ("SigLevel", &never)]);
        assert_eq!(
            download,
            "# x\n[options]\nDBPath = /x/locked/\nSigLevel = Never\nLocalFileSigLevel = Optional\n\n\
             [core]\nSigLevel = Never\nServer = http://h/$repo\n\n[extra]\n"
        );
        let install = configuration(STRICT, &[("LocalFileSigLevel", &|_| "Required".to_owned())]);
        assert_eq!(install, STRICT.replace("Level = Optional", "Level = Required"));
    }

    #[test]
    fn a_level_keeps_what_it_says_of_databases() {
        for (level, without) in [
            ("Required DatabaseOptional", "DatabaseRequired DatabaseOptional PackageNever"),
            ("Required", "DatabaseRequired PackageNever"),
            ("PackageRequired DatabaseNever", "DatabaseNever PackageNever"),
            ("Optional TrustAll PackageTrustedOnly", "DatabaseOptional DatabaseTrustAll PackageNever"),
        ] {
            assert_eq!(without_packages(level), without);
        }
    }
}
