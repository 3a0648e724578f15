//! `strapline repository`: makes a repository of package files, as repo-add(8) does: `NAME.db` and `NAME.files`.
//!
//! The databases are made of the packages that are in the directory and of nothing else, so there is nothing to remove from them
//! and no lock to be left: each file is complete before it gets its name.

mod databases;
mod sources;

use clap::builder::PathBufValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use databases::Signatures;
use package::version::vercmp;
use pacman::gpg::sign::Signer;
use rootfs::file;
use sources::{Archive, Source};
use stage::{Code, Context, Doing, Failure, Unit, quote};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Returns the command line.
pub(crate) fn command() -> Command {
    let path = |name: &'static str| Arg::new(name).value_parser(PathBufValueParser::new());
    let database = path("DB").required(true).value_name("DIR/NAME.db");
    let packages = path("PKG").num_args(0..).action(ArgAction::Append);
    let from = path("from").long("from").value_name("RECEIPT");
    let sign = Arg::new("sign").long("sign").value_name("FINGERPRINT").value_parser(fingerprint);
    let gpgdir = path("gpgdir").long("gpgdir").value_name("DIR").requires("sign");
    Command::new("repository").about("Make a repository of package files, as repo-add does").args([
        database.help("The database to make, of all packages beside it"),
        packages.help("Package files that are copied there first, with their signatures"),
        from.help("Copy the packages of a document, too, from its package cache"),
        sign.help("Sign with this key: the databases, and packages that have no signature"),
        gpgdir.help("The home of gpg that has the secret key"),
    ])
}

fn fingerprint(text: &str) -> Result<String, String> {
    let text = text.to_ascii_uppercase();
    distro::check::fingerprint(&text).map(|()| text)
}

/// What is to be made.
struct Plan {
    directory: PathBuf,
    /// The name of the repository.
    name: String,
    /// The packages that are copied to the directory.
    sources: Vec<Source>,
    signer: Option<Signer>,
}

impl Plan {
    fn of(matches: &ArgMatches) -> Result<Self, Failure> {
        let path = |name: &str| matches.get_one::<PathBuf>(name);
        let database = path("DB").cloned().unwrap_or_default();
        let name = database.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".db"));
        let Some(name) = name.filter(|name| distro::check::repo(name).is_ok()) else {
            let why = format!("making the repository {}: this is no NAME.db", quote(&database));
            return Err(Failure::new(Code::Usage, why).hint("give the database, such as repo/mine.db"));
        };
        let directory = match database.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut sources = Vec::new();
        if let Some(receipt) = path("from") {
            sources = sources::of_receipt(receipt)?;
        }
        for path in matches.get_many::<PathBuf>("PKG").into_iter().flatten() {
            sources.push(Source::of_path(path)?);
        }
        let time = image::epoch::of_environment()?;
        let signer =
            matches.get_one::<String>("sign").map(|key| Signer::new(key, path("gpgdir").map(AsRef::as_ref), time));
        Ok(Self { name: name.to_owned(), directory, sources, signer: signer.transpose()? })
    }
}

/// Makes a repository, and returns what is to be printed.
///
/// # Errors
///
/// When a package cannot be read, two of them have one name and version, or something cannot be written or signed.
pub(crate) fn make(context: &Context, matches: &ArgMatches) -> Result<String, Failure> {
    let plan = Plan::of(matches)?;
    // Check: all is read before anything is written.
    let coming = sources::read_all(context, &plan.sources, Source::read)?;
    let directory = open(&plan.directory)?;
    let present = sources::of_directory(context, &plan.directory)?;
    let signatures = Signatures { signer: plan.signer.as_ref(), directory: &directory, path: &plan.directory };
    signatures.check(&plan.name)?;
    for (source, archive) in plan.sources.iter().zip(&coming) {
        source.check(archive, plan.signer.is_some())?;
    }
    let all = present.iter().chain(&coming).cloned().collect();
    let newest = newest(all)?;
    // Apply.
    let total = coming.len() as u64;
    let progress = (total > 0).then(|| context.progress("writing", Unit::Packages, Some(total)));
    for (source, archive) in plan.sources.iter().zip(&coming) {
        let is_there = present.iter().any(|there| there.file == archive.file);
        source.place(archive, is_there, &directory, &plan.directory)?;
        progress.iter().for_each(|progress| progress.advance(1));
    }
    drop(progress);
    databases::write(&plan.name, &newest, &signatures)?;
    let shown = quote(plan.directory.join(format!("{}.db", plan.name)));
    Ok(format!("{shown}: {}\n", pacman::count(newest.len(), "package")))
}

/// Opens the directory, made where there is none, and locks it as long as the file lives.
fn open(path: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(path).doing(Code::Failed, || format!("making the directory {}", quote(path)))?;
    let directory = File::open(path).doing(Code::Failed, || format!("opening {}", quote(path)))?;
    if !file::lock_if_free(&directory).doing(Code::Os, || format!("locking {}", quote(path)))? {
        return Err(Failure::new(Code::Busy, format!("locking {}: another run makes a repository there", quote(path)))
            .hint("wait until it has ended, and try again"));
    }
    Ok(directory)
}

/// Returns the newest version of each package, by name. The same file may be there twice, in the directory and as a source.
fn newest(archives: Vec<Archive>) -> Result<Vec<Archive>, Failure> {
    let mut files: BTreeMap<String, Archive> = BTreeMap::new();
    for archive in archives {
        match files.get(&archive.file) {
            Some(other) if other.sha256 != archive.sha256 => return Err(refuse(other, &archive)),
            Some(_) => {}
            None => drop(files.insert(archive.file.clone(), archive)),
        }
    }
    let mut named: BTreeMap<String, Vec<Archive>> = BTreeMap::new();
    for archive in files.into_values() {
        named.entry(archive.package.name.clone()).or_default().push(archive);
    }
    let mut all = Vec::new();
    for versions in named.into_values() {
        let order = |a: &Archive, b: &Archive| vercmp(&a.package.version, &b.package.version);
        let Some(newest) = versions.iter().max_by(|a, b| order(a, b)) else { continue };
        let is_same = |other: &&Archive| other.file != newest.file && order(other, newest) == Ordering::Equal;
        if let Some(other) = versions.iter().find(is_same) {
            return Err(refuse(other, newest));
        }
        all.push(newest.clone());
    }
    Ok(all)
}

/// Returns the failure of two files that are the same version of a package.
fn refuse(one: &Archive, two: &Archive) -> Failure {
    let (name, version) = (quote(&two.package.name), &two.package.version);
    let why = format!("adding {}: it is another file of {name} {version} than {}", quote(&two.path), quote(&one.path));
    Failure::new(Code::Failed, why).hint("build it with a higher pkgrel; or remove the one that is not wanted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::desc::Described;

    fn archive(file: &str, version: &str, sha256: &str) -> Archive {
        let mut package = Described::default();
        (package.name, package.version) = ("a".to_owned(), version.to_owned());
        Archive { path: file.into(), file: file.to_owned(), sha256: sha256.to_owned(), package, ..Archive::default() }
    }

    #[test]
    fn the_newest_version_counts() {
        let all = vec![archive("9", "1-9", "x"), archive("10", "1-10", "y"), archive("9", "1-9", "x")];
        let files: Vec<String> = newest(all).unwrap().into_iter().map(|archive| archive.file).collect();
        assert_eq!(files, ["10"]);
    }

    #[test]
    fn two_files_of_one_version_are_refused() {
        for (one, two) in [
            (archive("a", "1-1", "x"), archive("a", "1-1", "y")),
            (archive("a.xz", "1-1", "x"), archive("a.zst", "1-1", "y")),
            (archive("a.xz", "1.0-1", "x"), archive("a.zst", "1.00-1", "y")),
            (archive("a.xz", "1.0-1", "x"), archive("a.zst", "1.0", "y")),
        ] {
            let failure = newest(vec![one, two, archive("old", "0-1", "z")]).unwrap_err();
            assert!(failure.message.contains("another file of 'a'"), "{failure}");
        }
        let old = vec![archive("a", "1-1", "x"), archive("b", "1-1", "y"), archive("c", "2-1", "z")];
        assert_eq!(newest(old).unwrap().len(), 1);
    }
}
