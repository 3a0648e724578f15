//! What is installed, from pacman's own records in the root, and which archive in the cache each package came from.

use package::{db, localdb};
use pacman::records::{LOCAL, names_in, offered};
use rootfs::Root;
use rustix::io::Errno;
use stage::members::Package;
use stage::{Code, Context, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The longest record that is read.
pub(crate) const LIMIT: u64 = 256 << 20;

/// An installed package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    /// The name of its record's directory.
    pub(crate) record: String,
    /// Whether pacman checked a signature when it was installed.
    pub(crate) verified: bool,
    /// When it was built, in seconds since 1970.
    pub(crate) built: u64,
    /// The files that pacman treats as configuration, as the record says.
    pub(crate) backup: Vec<String>,
    /// Which archive it was installed from, as the document says; nothing where that does not.
    pub(crate) repo: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) sha256: Option<String>,
    /// The repository that an archive of this version can be fetched from, and its name there.
    pub(crate) offered: Option<(String, String)>,
    /// The signature that the document has, or else the repository's database.
    pub(crate) offered_signature: Option<Vec<u8>>,
    /// The archive's name, where it is in the cache.
    pub(crate) archive: Option<String>,
    /// Whether there is a signature beside it.
    pub(crate) signature: bool,
}

/// What the root's database says.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    /// The packages, by name.
    pub(crate) subjects: Vec<Subject>,
    /// Records that say nothing of their packages, and why: pacman was killed over one, or it cannot be read.
    pub(crate) torn: Vec<(String, String)>,
}

/// Reads it. `recorded` is what the document says of the packages, `repos` are the repositories of the configuration.
///
/// # Errors
///
/// When a database cannot be read or makes no sense.
pub(crate) fn read(
    context: &Context,
    root: &Root,
    recorded: &[Package],
    repos: &[String],
) -> Result<Installed, Failure> {
    let offers = offered(root, repos)?;
    for odd in &offers.odd {
        context.warn(odd);
    }
    let mut by_name = BTreeMap::new();
    for (repo, entry) in &offers.entries {
        let key = (entry.name.as_str(), entry.version.as_str());
        by_name.entry(key).or_insert((repo, entry));
    }
    let mut installed = Installed::default();
    for record in names_in(root, LOCAL)? {
        if record == "ALPM_DB_VERSION" {
            continue;
        }
        let path = |file: &str| format!("{LOCAL}/{record}/{file}");
        let read = |file: &str| match root.read(&path(file), LIMIT) {
            Ok(text) => Ok(text),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err("its record is cut off: pacman ended over it".to_owned())
            }
            Err(e) => Err(format!(
                "its record has a '{file}' that cannot be read: {e}"
            )),
        };
        let known = read("desc").and_then(|desc| {
            let known =
                localdb::desc(&desc).map_err(|e| format!("its record makes no sense: {e}"))?;
            Ok((desc, read("files")?, known))
        });
        let (desc, files, known) = match known {
            Ok(known) => known,
            Err(why) => {
                installed.torn.push((record, why));
                continue;
            }
        };
        let recorded = recorded
            .iter()
            .find(|p| (&p.name, &p.version) == (&known.name, &known.version));
        let offer = by_name.get(&(known.name.as_str(), known.version.as_str()));
        let signature = recorded.and_then(|p| db::decode_signature(p.pgpsig.as_deref()?));
        installed.subjects.push(Subject {
            arch: known.arch.unwrap_or_else(|| "any".to_owned()),
            verified: known.validation.iter().any(|v| v == "pgp"),
            built: section(&desc, "BUILDDATE")
                .first()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            backup: section(&files, "BACKUP")
                .iter()
                .filter_map(|line| Some(line.split_once('\t')?.0.to_owned()))
                .collect(),
            repo: recorded.and_then(|p| p.repo.clone()),
            file: recorded.and_then(|p| p.file.clone()),
            sha256: recorded.and_then(|p| p.sha256.clone()),
            offered: offer.map(|(repo, entry)| ((*repo).clone(), entry.filename.clone())),
            offered_signature: signature.or_else(|| offer?.1.signature()),
            name: known.name,
            version: known.version,
            record,
            archive: None,
            signature: false,
        });
    }
    installed.subjects.sort_by(|a, b| a.name.cmp(&b.name));
    installed.torn.sort();
    Ok(installed)
}

/// Returns the values of one key of a record.
fn section(text: &[u8], key: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let head = format!("%{key}%");
    let lines = text.lines().skip_while(|line| *line != head).skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Finds the archives in the cache. There may be none yet.
///
/// # Errors
///
/// When the cache cannot be read.
pub(crate) fn find_archives(subjects: &mut [Subject], cache: &Path) -> Result<(), Failure> {
    let doing = || format!("reading the package cache {}", quote(cache));
    let mut names = BTreeSet::new();
    match std::fs::read_dir(cache) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.doing(Code::Os, doing)?;
                names.extend(entry.file_name().into_string());
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).doing(Code::Failed, doing),
    }
    for subject in subjects {
        subject.archive = archive(subject, &names);
        subject.signature = subject
            .archive
            .as_ref()
            .is_some_and(|file| names.contains(&format!("{file}.sig")));
    }
    Ok(())
}

/// Finds a package's archive among the names in the cache: as the document calls it, as the repository does, or as makepkg.
fn archive(subject: &Subject, names: &BTreeSet<String>) -> Option<String> {
    let offered = subject.offered.as_ref().map(|(_, file)| file);
    let known = subject.file.iter().chain(offered);
    if let Some(file) = known.into_iter().find(|file| names.contains(*file)) {
        return Some(file.clone());
    }
    let stem = format!(
        "{}-{}-{}.pkg.tar",
        subject.name, subject.version, subject.arch
    );
    let mut named = names.range(stem.clone()..);
    let found = named.find(|name| !name.ends_with(".sig") && !name.ends_with(".part"));
    found
        .filter(|name| {
            name.strip_prefix(&stem)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_a_record() {
        let text = b"%FILES%\netc/\n\n%BACKUP%\netc/a\t0\netc/b c\t1\n\n%X%\n1\n";
        assert_eq!(section(text, "BACKUP"), ["etc/a\t0", "etc/b c\t1"]);
        assert_eq!(section(text, "NONE"), Vec::<String>::new());
        assert_eq!(section(b"\xff\n%X%", "X"), Vec::<String>::new());
    }

    #[test]
    fn the_archive_of_a_package() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let subject = Subject {
            name: "x".into(),
            version: "1:2-1".into(),
            arch: "any".into(),
            ..Subject::default()
        };
        let zst = "x-1:2-1-any.pkg.tar.zst";
        for (list, found) in [
            (
                &[
                    "x-1:2-1-any.pkg.tar.zst.sig",
                    zst,
                    "x-1:2-10-any.pkg.tar.xz",
                ][..],
                Some(zst),
            ),
            (&["x-1:2-1-any.pkg.tar.zst.part"], None),
            (&["x-1:2-1-any.pkg.tarball"], None),
            (&["y-1:2-1-any.pkg.tar.zst"], None),
        ] {
            assert_eq!(archive(&subject, &names(list)).as_deref(), found);
        }
        let offered = Subject {
            file: Some("renamed".into()),
            ..subject
        };
        assert_eq!(
            archive(&offered, &names(&[zst, "renamed"])).as_deref(),
            Some("renamed")
        );
    }
}
