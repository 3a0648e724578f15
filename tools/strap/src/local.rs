//! Package files of the command line: paths and URLs, installed in one transaction with packages of the repositories.
//!
//! pacman cannot do both at once (`-S` and `-U`). So the files are copied to the package cache, and two repositories are made
//! of them, which come before all others of the configuration: one whose packages must be signed, as any other's, and one of those
//! that the command line says are not. The configuration and the databases are there only while this program runs; the archives
//! stay in the cache, where `--locked`, `--offline` and `verify` find them.

use crate::database;
use package::db::{self, Entry};
use package::dbtar;
use package::desc::{self, Described};
use package::digest::Sha256Reader;
use package::name;
use pacman::conf;
use pacman::operation::Refresh;
use pacman::scratch::Scratch;
use pacman::{Operation, Pacman, cache_lock, databases, signature_pair};
use rootfs::Root;
use stage::members::Package;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The longest signature that is read, in bytes: gpg's have a few hundred.
const SIGNATURE: u64 = 1 << 20;

/// A package file that is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it was given.
    pub(crate) given: String,
    source: Source,
    /// Its name.
    file: String,
    /// Whether it must be signed.
    signed: bool,
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Path(PathBuf),
    /// The URL of its directory.
    Url(String),
}

/// Returns whether a target is a file, by its look: to pacman, no package has such a name.
pub(crate) fn is_file(text: &str) -> bool {
    text.starts_with(['.', '/']) || text.contains("://") || text.contains(".pkg.tar")
}

impl Target {
    /// Reads a path or a URL.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it is not that of a package file.
    pub(crate) fn parse(text: &str, signed: bool) -> Result<Self, Failure> {
        let refuse = |why: &str| Failure::new(Code::Usage, format!("installing {}: {why}", quote(text)));
        let (directory, file) = text.rsplit_once('/').map_or((None, text), |(directory, file)| (Some(directory), file));
        if !name::is_package_file(file) {
            return Err(refuse("this is not the name of a package file, NAME.pkg.tar.zst"));
        }
        let source = match (text.split_once("://"), directory) {
            (None, _) => Source::Path(text.into()),
            (Some(("file", path)), _) if path.starts_with('/') => Source::Path(path.into()),
            (Some(("http" | "https", _)), Some(directory))
                if directory.bytes().all(|b| b.is_ascii_graphic() && !b"$\"\\".contains(&b)) =>
            {
                Source::Url(directory.to_owned())
            }
            (Some(("http" | "https" | "file", _)), _) => return Err(refuse("invalid URL")),
            _ => return Err(refuse("only URLs with https, http and file are fetched")),
        };
        Ok(Self { given: text.to_owned(), source, file: file.to_owned(), signed })
    }
}

/// A package file in the cache.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) file: String,
    pub(crate) package: Described,
    pub(crate) sha256: String,
    /// Its URL, or its absolute path.
    pub(crate) origin: String,
    size: u64,
    signature: Option<String>,
    signed: bool,
}

impl Local {
    fn repo(&self) -> &'static str {
        if self.signed { Package::LOCAL } else { Package::UNSIGNED }
    }

    /// Returns what pacman is told to install.
    pub(crate) fn target(&self) -> String {
        format!("{}/{}", self.repo(), self.package.name)
    }
}

/// The repositories of the command line's files.
#[derive(Debug)]
pub(crate) struct LocalRepository<'a> {
    root: &'a Root,
    scratch: Scratch,
    /// Whether neither the cache nor the root is changed.
    plan_only: bool,
    pub(crate) packages: Vec<Local>,
    /// The databases that are not in the root, where it is not changed.
    pub(crate) databases: Vec<(String, Vec<u8>)>,
}

impl<'a> LocalRepository<'a> {
    /// Returns the repositories, still empty.
    ///
    /// # Errors
    ///
    /// When the root cannot be identified.
    pub(crate) fn new(pacman: &Pacman<'a>, plan_only: bool) -> Result<Self, Failure> {
        let (root, scratch) = (pacman.inside.root(), Scratch::of(pacman, "files")?);
        Ok(Self { root, scratch, plan_only, packages: Vec::new(), databases: Vec::new() })
    }

    /// Brings these files into the cache, and returns a pacman that has them as packages of its first repositories.
    ///
    /// # Errors
    ///
    /// When a file is not to be had, is not a package, or has no signature and must have one.
    pub(crate) fn add(&mut self, pacman: &Pacman<'a>, targets: &[Target]) -> Result<Pacman<'a>, Failure> {
        if targets.is_empty() {
            return Ok(pacman.clone());
        }
        let strict = stage::file::read_text(&pacman.config)?;
        fetch(pacman, &self.scratch, &strict, targets)?;
        // Another run may copy the same file.
        let lock = cache_lock::take(pacman.context, pacman.cache)?;
        for target in targets {
            let doing = |failure: Failure| failure.while_doing(format_args!("installing {}", quote(&target.given)));
            let local = self.import(pacman, target).map_err(doing)?;
            let is_same = |other: &&Local| other.file == local.file || other.package.name == local.package.name;
            if let Some(other) = self.packages.iter().find(is_same) {
                let (name, other) = (quote(&local.package.name), quote(&other.origin));
                let why = format!("installing {}: {other} is package {name}, too", quote(&target.given));
                return Err(Failure::new(Code::Usage, why));
            }
            self.packages.push(local);
        }
        drop(lock);
        let (options, repos) = split(&strict);
        let mut config = options.to_owned();
        for (repo, level) in
            [(Package::LOCAL, "Required DatabaseNever"), (Package::UNSIGNED, "PackageNever DatabaseNever")]
        {
            let database = self.database(repo)?;
            match self.plan_only {
                true => self.databases.push((repo.to_owned(), database)),
                false => databases::put(self.root, repo, &database)?,
            }
            // No server has the database, and the packages are in the cache.
            let cache = pacman.cache.display();
            config += &format!("[{repo}]\nUsage = Search Install Upgrade\nServer = file://{cache}\n");
            config += &if pacman.verifies { format!("SigLevel = {level}\n\n") } else { "\n".to_owned() };
        }
        config += repos;
        self.scratch.make(&[("files.conf".to_owned(), config.into_bytes())])?;
        let mut repos = [Package::LOCAL, Package::UNSIGNED].map(str::to_owned).to_vec();
        repos.extend(pacman.repos.iter().cloned());
        Ok(Pacman { config: self.scratch.path().join("files.conf"), repos, ..pacman.clone() })
    }

    /// Copies a file and its signature to the cache.
    fn import(&self, pacman: &Pacman<'_>, target: &Target) -> Result<Local, Failure> {
        let file = target.file.clone();
        let fetched = self.scratch.path().join("files").join(&file);
        let (from, origin) = match &target.source {
            Source::Path(path) => (path.clone(), std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            // Offline the cache may have it from an earlier run.
            Source::Url(_) if pacman.offline => (pacman.cache.join(&file), target.given.clone().into()),
            Source::Url(_) => (fetched, target.given.clone().into()),
        };
        let origin = origin.to_str().ok_or_else(|| Failure::new(Code::Usage, "its path is not UTF-8"))?.to_owned();
        if matches!(target.source, Source::Url(_)) && pacman.offline && !from.exists() {
            let why = format!("it is not in the cache, {}, and no server is contacted", quote(&from));
            return Err(
                Failure::new(Code::NotFound, why).hint("run the same once without --offline, or with --download-only")
            );
        }
        // Before another archive of that name is replaced.
        drop(open(&from)?);
        let signature = read_signature(&from, pacman, target)?;
        let Copied { package, size, sha256 } = match self.plan_only {
            true => describe(&from)?,
            false => copy(pacman.context, &from, pacman.cache, &file)?,
        };
        if !self.plan_only {
            place_signature(signature.as_deref(), &pacman.cache.join(&file))?;
        }
        let signature = signature.map(|bytes| db::encode_signature(&bytes));
        // A server may answer with any other package that a key of the keyring has signed.
        if matches!(target.source, Source::Url(_)) && target.signed && !is_named(&file, &package) {
            if !self.plan_only {
                signature_pair::remove(pacman.cache, &file)?;
            }
            let (name, version) = (quote(&package.name), &package.version);
            let why = format!("the server sent the package {name} {version}, which is not of that name");
            return Err(Failure::new(Code::NotVerified, why).hint("nothing was installed; try another server"));
        }
        Ok(Local { file, package, sha256, origin, size, signature, signed: target.signed })
    }

    fn database(&self, repo: &str) -> Result<Vec<u8>, Failure> {
        let of_repo = self.packages.iter().filter(|local| local.repo() == repo);
        let entries = of_repo.map(|local| {
            let Local { file, sha256, size, signature, .. } = local;
            let file = desc::File { name: file, size: *size, sha256, signature: signature.as_deref() };
            (format!("{}-{}/desc", local.package.name, local.package.version), local.package.desc(&file))
        });
        dbtar::of(entries).doing(Code::Os, || format!("making a database of {}", quote(repo)))
    }

    /// Removes what was made, but for the archives.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        let cleared = self.scratch.clear();
        for repo in [Package::LOCAL, Package::UNSIGNED] {
            databases::remove(self.root, repo)?;
        }
        cleared
    }
}

/// Returns whether a file has the name that makepkg(8) gives the package: `NAME-VERSION-ARCH.pkg.tar.zst`.
fn is_named(file: &str, package: &Described) -> bool {
    let file = file.replace("%3A", ":").replace("%3a", ":");
    let rest = file.strip_prefix(&format!("{}-{}-", package.name, package.version));
    rest.is_some_and(|rest| rest.split_once(".pkg.tar").is_some_and(|(arch, _)| !arch.contains('-')))
}

/// Splits a configuration of mkconf at its first repository.
fn split(config: &str) -> (&str, &str) {
    let mut at = 0;
    for line in config.split_inclusive('\n') {
        if line.starts_with('[') && line.trim() != "[options]" {
            break;
        }
        at += line.len();
    }
    config.split_at(at)
}

/// Has pacman fetch what has a URL into the scratch directory: by databases that name these files, of repositories whose servers
/// are their directories.
fn fetch(pacman: &Pacman<'_>, scratch: &Scratch, strict: &str, targets: &[Target]) -> Result<(), Failure> {
    let remote = targets.iter().filter_map(|target| match &target.source {
        Source::Url(directory) => Some((directory, target)),
        Source::Path(_) => None,
    });
    let remote: Vec<(&String, &Target)> = remote.collect();
    if remote.is_empty() || pacman.offline {
        return Ok(());
    }
    let path = |_: &str| format!("{}/", scratch.path().display());
    let cache = scratch.path().join("files");
    let into = |_: &str| format!("{}/", cache.display());
    let never = |_: &str| "Never".to_owned();
    let options = split(strict).0;
    let mut config = conf::changed(options, &[("DBPath", &path), ("CacheDir", &into), ("SigLevel", &never)]);
    let mut files = Vec::new();
    let (mut packages, mut signatures) = (Vec::new(), Vec::new());
    for (number, (directory, target)) in remote.iter().enumerate() {
        let repo = format!("url-{number}");
        config += &format!("\n[{repo}]\nServer = {directory}\n");
        let (name, version) = name_and_version(&target.file);
        let signature = format!("{name}.sig");
        let entry = |name: &str, filename: String| Entry {
            name: name.to_owned(),
            version: version.clone(),
            filename,
            ..Entry::default()
        };
        let entries = [entry(name, target.file.clone()), entry(&signature, format!("{}.sig", target.file))];
        files
            .push((format!("sync/{repo}.db"), database::of(&entries).doing(Code::Os, || format!("making {repo}.db"))?));
        packages.push(format!("{repo}/{name}"));
        if target.signed {
            signatures.push(format!("{repo}/{signature}"));
        }
    }
    files.push(("url.conf".to_owned(), config.into_bytes()));
    scratch.make(&files)?;
    let config = scratch.path().join("url.conf");
    let pacman = Pacman { config: config.clone(), repos: Vec::new(), cache: &cache, verifies: false, ..pacman.clone() };
    pacman.download(Operation::download_targets(Refresh::No), &packages)?;
    for signature in &signatures {
        // Where there is none, that is said of the package.
        pacman.download_quietly(&config, std::slice::from_ref(signature))?;
    }
    Ok(())
}

/// Returns what people see of a package file while it is fetched: its name and version, as makepkg names files.
fn name_and_version(file: &str) -> (&str, String) {
    let stem = file.rsplit_once(".pkg.tar").map_or(file, |(stem, _)| stem);
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    match parts[..] {
        [_, release, version, name] if name::is_name(name) && name::is_version(version) => {
            (name, format!("{version}-{release}"))
        }
        _ => ("file", "0-0".to_owned()),
    }
}

/// A file that was copied to the cache.
struct Copied {
    package: Described,
    size: u64,
    sha256: String,
}

fn open(path: &Path) -> Result<File, Failure> {
    stage::file::open(path).map_err(|e| {
        let is_absent = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput);
        Failure::new(if is_absent { Code::Usage } else { Code::Failed }, e)
    })
}

/// Reads what package a file is, and leaves it where it is.
fn describe(from: &Path) -> Result<Copied, Failure> {
    let mut reader = Sha256Reader::new(open(from)?);
    let package = Described::of_archive(&mut reader).map_err(|e| Failure::new(Code::Failed, e))?;
    let size = reader.drain().map(|_| reader.count()).doing(Code::Failed, || format!("reading {}", quote(from)))?;
    Ok(Copied { package, size, sha256: reader.finish() })
}

/// Copies a package file to the cache, and reads what package the copy is. What is there by its name is replaced.
fn copy(context: &Context, from: &Path, cache: &Path, file: &str) -> Result<Copied, Failure> {
    let opened = open(from)?;
    let at = cache.join(file);
    let draft = cache.join(format!(".{file}.part"));
    let write = || -> io::Result<(String, u64)> {
        let mut out = File::create(&draft)?;
        let mut reader = Sha256Reader::new(opened);
        let size = io::copy(&mut reader, &mut out)?;
        out.flush()?;
        Ok((reader.finish(), size))
    };
    let result = write().doing(Code::Os, || format!("copying it to {}", quote(&at))).and_then(|(sha256, size)| {
        let read = stage::file::open(&draft).doing(Code::Os, || format!("opening {}", quote(&draft)))?;
        let package = Described::of_archive(read).map_err(|e| Failure::new(Code::Failed, e))?;
        Ok(Copied { package, size, sha256 })
    });
    let copied = match result {
        Ok(copied) => copied,
        Err(failure) => {
            // The failure that led here is the one to report.
            drop(std::fs::remove_file(&draft));
            return Err(failure);
        }
    };
    let before = pacman::origin::sha256(&at).ok();
    if before.is_some_and(|before| before != copied.sha256) {
        context.warn(format_args!("{} in the cache was another archive, and is replaced", quote(file)));
    }
    std::fs::rename(&draft, &at).doing(Code::Os, || format!("renaming {}", quote(&draft)))?;
    Ok(copied)
}

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sig", path.display()))
}

/// Returns the signature of a file where one is wanted and there.
fn read_signature(from: &Path, pacman: &Pacman<'_>, target: &Target) -> Result<Option<Vec<u8>>, Failure> {
    let source = beside(from);
    let mut bytes = Vec::new();
    let read = if target.signed { stage::file::open(&source) } else { Err(ErrorKind::NotFound.into()) };
    match read.and_then(|file| file.take(SIGNATURE).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && target.signed && pacman.verifies => {
            let given = quote(&target.given);
            return Err(Failure::new(
                Code::NotVerified,
                format!("there is no signature beside it, {}", quote(&source)),
            )
            .hint(format!("make one: gpg --detach-sign; or say that it has none: --unsigned {given}")));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).doing(Code::Failed, || format!("reading {}", quote(&source))),
    }
    Ok((target.signed && !bytes.is_empty()).then_some(bytes))
}

/// Puts the signature beside the copy of a file, or removes that of another one.
fn place_signature(signature: Option<&[u8]>, copy: &Path) -> Result<(), Failure> {
    let at = beside(copy);
    let placed = match signature {
        Some(bytes) => std::fs::write(&at, bytes),
        None => std::fs::remove_file(&at),
    };
    match placed {
        Err(e) if signature.is_some() || e.kind() != ErrorKind::NotFound => {
            Err(e).doing(Code::Os, || format!("writing {}", quote(&at)))
        }
        _ => Ok(()),
    }
}

/// Brings a file into the cache again that a lock has, from where it came from. What cannot be had is a warning: the lock says
/// what it means.
pub(crate) fn restore(pacman: &Pacman<'_>, origin: &str, file: &str) -> Result<(), Failure> {
    let target = match Target::parse(origin, false) {
        Ok(target) if target.file == file => target,
        _ => return Ok(()),
    };
    let scratch = Scratch::of(pacman, "files")?;
    let strict = stage::file::read_text(&pacman.config)?;
    let bring = || -> Result<(), Failure> {
        fetch(pacman, &scratch, &strict, std::slice::from_ref(&target))?;
        let from = match &target.source {
            Source::Path(path) => path.clone(),
            Source::Url(_) => scratch.path().join("files").join(file),
        };
        let _lock = cache_lock::take(pacman.context, pacman.cache)?;
        signature_pair::remove(pacman.cache, file)?;
        copy(pacman.context, &from, pacman.cache, file).map(drop)
    };
    let brought = bring();
    scratch.clear()?;
    match brought {
        Err(failure) if failure.code == Code::Interrupted => Err(failure),
        Err(failure) => {
            pacman.context.warn(failure.while_doing(format_args!("fetching {}", quote(origin))).message);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_urls_are_told_from_names() {
        for (text, is) in [
            ("bash", false),
            ("core/bash", false),
            ("./x", true),
            ("a-1-1-any.pkg.tar.zst", true),
            ("https://h/a", true),
        ] {
            assert_eq!(is_file(text), is, "{text}");
        }
        let url = |text: &str| Source::Url(text.to_owned());
        for (text, source) in [
            ("./d/a-1-1-any.pkg.tar.zst", Source::Path("./d/a-1-1-any.pkg.tar.zst".into())),
            ("a-1-1-any.pkg.tar", Source::Path("a-1-1-any.pkg.tar".into())),
            ("file:///d/a-1-1-any.pkg.tar.xz", Source::Path("/d/a-1-1-any.pkg.tar.xz".into())),
            ("https://h:8/d/a-1-1-any.pkg.tar.gz", url("https://h:8/d")),
        ] {
            let target = Target::parse(text, true).unwrap();
            assert_eq!(target.source, source, "{text}");
        }
        for text in [
            "./a",
            "/",
            "./a.pkg.tar.exe",
            "./a-1-1-any.pkg.tar.zst.sig",
            "ftp://h/a-1-1-any.pkg.tar.zst",
            "https://h/$arch/a-1-1-any.pkg.tar.zst",
            "https://h/a b/a-1-1-any.pkg.tar.zst",
            "https://h/a-1-1-any.pkg.tar.zst?x=1",
            "file://h/a-1-1-any.pkg.tar.zst",
            "./-a.pkg.tar.zst",
        ] {
            assert_eq!(Target::parse(text, true).unwrap_err().code, Code::Usage, "{text}");
        }
    }

    #[test]
    fn a_file_is_shown_as_what_it_says_it_is() {
        for (file, shown) in [
            ("a-b-1:2-3-any.pkg.tar.zst", ("a-b", "1:2-3")),
            ("a.pkg.tar", ("file", "0-0")),
            ("-1-1-any.pkg.tar", ("file", "0-0")),
        ] {
            let (name, version) = name_and_version(file);
            assert_eq!((name, version.as_str()), shown);
        }
    }

    #[test]
    fn own_repositories_come_before_all_others() {
        let config = "# x\n\n[options]\nRootDir = /r\n\n[core]\nServer = x\n";
        assert_eq!(split(config), ("# x\n\n[options]\nRootDir = /r\n\n", "[core]\nServer = x\n"));
        assert_eq!(split("[options]\n"), ("[options]\n", ""));
    }
}
