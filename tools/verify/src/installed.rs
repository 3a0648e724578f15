//! The installed packages, from pacman's own records in the root, and the archive in the cache that each came from.

use package::{db, localdb};
use pacman::records::{LOCAL, names_in, offered_of};
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
    /// What its record says.
    pub(crate) known: localdb::Installed,
    /// The name of its record's directory.
    pub(crate) record: String,
    /// The configuration files, from the record.
    pub(crate) backup: Vec<String>,
    /// What the document says of it, where it has that.
    pub(crate) recorded: Option<Package>,
    /// Whether packages of its repository need no signature.
    pub(crate) of_unsigned: bool,
    /// The repository that an archive of this version can be fetched from, and its name there, where that was looked for.
    pub(crate) offered: Option<(String, String)>,
    /// The signature in the document, or else in the repository's database, where that was read.
    pub(crate) offered_signature: Option<Vec<u8>>,
    /// The archive's name, where it is in the cache.
    pub(crate) archive: Option<String>,
    /// Whether there is a signature beside it.
    pub(crate) signature: bool,
}

impl Subject {
    pub(crate) fn arch(&self) -> &str {
        self.known.arch.as_deref().unwrap_or("any")
    }

    /// Returns the repository that it is from, as far as that is known.
    pub(crate) fn repo(&self) -> Option<&str> {
        let recorded = self.recorded.as_ref().and_then(|package| package.repo.as_deref());
        recorded.or_else(|| self.offered.as_ref().map(|(repo, _)| repo.as_str()))
    }

    /// Returns whether it was given to `strap` as a file: no server has it.
    pub(crate) fn is_file(&self) -> bool {
        let repo = self.recorded.as_ref().and_then(|package| package.repo.as_deref());
        repo.is_some_and(Package::is_own)
    }

    /// Returns whether the document says where it is from, and its signature or SHA-256, and the archive is in the cache.
    fn is_known(&self) -> bool {
        let has_repo = self.recorded.as_ref().is_some_and(|package| package.repo.is_some());
        let is_signed = self.offered_signature.is_some() || self.unsigned().is_some();
        has_repo && is_signed && self.archive.is_some()
    }

    /// Returns the SHA-256 of a package that was said not to be signed, by itself or with its repository.
    pub(crate) fn unsigned(&self) -> Option<&str> {
        let package = self.recorded.as_ref()?;
        let is_unsigned = self.of_unsigned || package.repo.as_deref() == Some(Package::UNSIGNED);
        package.sha256.as_deref().filter(|_| is_unsigned)
    }
}

/// Invalid records, and why: pacman was killed while writing one, or it cannot be read.
pub(crate) type Torn = Vec<(String, String)>;

/// Reads the root's database of installed packages: the packages, by name, and the invalid records. `recorded` are the packages
/// of the document.
///
/// # Errors
///
/// When the database cannot be read.
pub(crate) fn read(root: &Root, recorded: &[Package]) -> Result<(Vec<Subject>, Torn), Failure> {
    let recorded: BTreeMap<_, _> = recorded.iter().rev().map(|one| ((&one.name, &one.version), one)).collect();
    let (mut subjects, mut torn) = (Vec::new(), Vec::new());
    for record in names_in(root, LOCAL)? {
        if record == "ALPM_DB_VERSION" {
            continue;
        }
        let (known, files) = match read_record(root, &record) {
            Ok(known) => known,
            Err(why) => {
                torn.push((record, why));
                continue;
            }
        };
        let recorded = recorded.get(&(&known.name, &known.version)).copied();
        subjects.push(Subject {
            of_unsigned: false,
            backup: localdb::backup(&files),
            recorded: recorded.cloned(),
            offered: None,
            offered_signature: recorded.and_then(|p| db::decode_signature(p.pgpsig.as_deref()?)),
            known,
            record,
            archive: None,
            signature: false,
        });
    }
    subjects.sort_by(|a: &Subject, b| a.known.name.cmp(&b.known.name));
    torn.sort();
    Ok((subjects, torn))
}

/// Finds where packages are from, and their archives in the cache. The databases of the repositories, which are large, are read
/// only for packages of which the document and the cache do not say all. `repos` are those of the configuration.
///
/// # Errors
///
/// When the cache cannot be read, or a database cannot be read or is invalid.
pub(crate) fn find_sources(
    context: &Context,
    root: &Root,
    repos: &[String],
    cache: &Path,
    subjects: &mut [Subject],
) -> Result<(), Failure> {
    find_archives(subjects, cache)?;
    let mut lacking = subjects.iter().filter(|subject| !subject.is_known()).peekable();
    if lacking.peek().is_none() {
        return Ok(());
    }
    let lacking = lacking.map(|subject| (subject.known.name.as_str(), subject.known.version.as_str()));
    let offers = offered_of(root, repos, lacking)?;
    for odd in &offers.odd {
        context.warn(odd);
    }
    let mut by_name = BTreeMap::new();
    for (repo, entry) in &offers.entries {
        by_name.entry((&entry.name, &entry.version)).or_insert((repo, entry));
    }
    for subject in subjects.iter_mut().filter(|subject| !subject.is_known()) {
        if let Some((repo, entry)) = by_name.get(&(&subject.known.name, &subject.known.version)) {
            subject.offered = Some(((*repo).clone(), entry.filename.clone()));
            subject.offered_signature = subject.offered_signature.take().or_else(|| entry.signature());
        }
    }
    find_archives(subjects, cache)
}

/// Reads the `desc` and `files` of a record.
fn read_record(root: &Root, record: &str) -> Result<(localdb::Installed, Vec<u8>), String> {
    let read = |file: &str| {
        let text = root.read(&format!("{LOCAL}/{record}/{file}"), LIMIT);
        text.map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => "its record is incomplete: pacman was killed".into(),
            e => format!("its record has a '{file}' that cannot be read: {e}"),
        })
    };
    let desc = read("desc")?;
    let known = localdb::desc(&desc).map_err(|e| format!("its record is invalid: {e}"))?;
    Ok((known, read("files")?))
}

/// Finds the archives in the cache, which may not exist yet.
///
/// # Errors
///
/// When the cache cannot be read.
pub(crate) fn find_archives(subjects: &mut [Subject], cache: &Path) -> Result<(), Failure> {
    let doing = || format!("reading the package cache {}", quote(cache));
    let mut names = BTreeSet::new();
    match std::fs::read_dir(cache) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.doing(Code::Failed, doing)? {
                names.extend(entry.doing(Code::Os, doing)?.file_name().into_string());
            }
        }
    }
    for subject in subjects {
        subject.archive = archive(subject, &names);
        let is_signed = |file: &String| names.contains(&format!("{file}.sig"));
        subject.signature = subject.archive.as_ref().is_some_and(is_signed);
    }
    Ok(())
}

/// Finds a package's archive among the names in the cache: by the name in the document, in the repository, or of makepkg.
fn archive(subject: &Subject, names: &BTreeSet<String>) -> Option<String> {
    let offered = subject.offered.as_ref().map(|(_, file)| file);
    let recorded = subject.recorded.iter().filter_map(|package| package.file.as_ref());
    if let Some(file) = recorded.chain(offered).find(|file| names.contains(*file)) {
        return Some(file.clone());
    }
    let stem = format!("{}-{}-{}.pkg.tar", subject.known.name, subject.known.version, subject.arch());
    let mut named = names.range(stem.clone()..);
    let found = named.find(|name| !name.ends_with(".sig") && !name.ends_with(".part"))?;
    let rest = found.strip_prefix(&stem)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| found.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_of_a_package() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let known = localdb::Installed { name: "x".into(), version: "1:2-1".into(), ..localdb::Installed::default() };
        let subject = Subject { known, ..Subject::default() };
        let zst = "x-1:2-1-any.pkg.tar.zst";
        for (list, found) in [
            (&["x-1:2-1-any.pkg.tar.zst.sig", zst, "x-1:2-10-any.pkg.tar.xz"][..], Some(zst)),
            (&["x-1:2-1-any.pkg.tar.zst.part"], None),
            (&["x-1:2-1-any.pkg.tarball"], None),
            (&["y-1:2-1-any.pkg.tar.zst"], None),
        ] {
            assert_eq!(archive(&subject, &names(list)).as_deref(), found);
        }
        let offered = Subject { offered: Some(("core".into(), "renamed".into())), ..subject };
        assert_eq!(archive(&offered, &names(&[zst, "renamed"])).as_deref(), Some("renamed"));
        let package =
            serde_json::from_str(r#"{"name":"x","version":"1:2-1","arch":"any","file":"other","verified":true}"#);
        let recorded = Subject { recorded: Some(package.unwrap()), ..offered };
        assert_eq!(archive(&recorded, &names(&["other", "renamed"])).as_deref(), Some("other"));
    }
}
