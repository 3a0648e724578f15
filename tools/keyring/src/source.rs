//! Where the rings come from: the keyring packages that are installed in the root, or else those that pacman downloads.

use crate::Session;
use crate::plan::Wanted;
use crate::trust::RingFiles;
use package::archive::extract_present;
use package::pkginfo;
use pacman::conf::Conf;
use pacman::operation::Refresh;
use pacman::publishers::Vouchers;
use pacman::{Operation, Pacman, Planned, cache_lock, databases, records, signature_pair};
use rootfs::Root;
use rustix::io::Errno;
use stage::members::{self, Config};
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::PathBuf;

/// Where a keyring package puts its files.
const DIRECTORY: &str = "usr/share/pacman/keyrings";

/// The largest ring and archive that are read. Arch's ring has 1.5 MB, its package 1.2 MB.
const RING: u64 = 64 << 20;
const ARCHIVE: u64 = 256 << 20;

/// What the names of a ring's files end in: keys, master keys, revoked keys.
const ENDS: [&str; 3] = [".gpg", "-trusted", "-revoked"];

fn path(name: &str, end: &str) -> String {
    format!("{DIRECTORY}/{name}{end}")
}

/// Reads the ring that is installed in the root; `None` where there is none.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn read_installed(root: &Root, name: &str) -> Result<Option<RingFiles>, Failure> {
    let read = |end: &str| match root.read(&path(name, end), RING) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).doing(Code::Failed, || format!("reading {}", quote(root.path().join(path(name, end))))),
    };
    let Some(keys) = read(".gpg")? else {
        return Ok(None);
    };
    Ok(Some(RingFiles { name: name.to_owned(), keys, trusted: read("-trusted")?, revoked: read("-revoked")? }))
}

/// Keyring packages in the cache, and the rings that were taken out of them.
#[derive(Debug)]
pub(crate) struct Fetched {
    wanted: Wanted,
    names: Vec<String>,
    taken: Taken,
    pub(crate) files: Vec<RingFiles>,
}

/// Archives that pacman took.
#[derive(Debug)]
struct Taken {
    /// Its cache.
    cache: PathBuf,
    planned: Vec<Planned>,
    /// By which databases, where that is known.
    databases: Option<Vec<String>>,
}

/// Downloads the keyring packages with pacman, and extracts the rings.
///
/// pacman checks no signatures here: there is no keyring yet. The packages are trusted no further than the pinned fingerprints
/// reach, and [`Fetched::verify`] checks them when there is a keyring.
///
/// # Errors
///
/// When pacman fails, or a ring is in none of the packages.
pub(crate) fn download(session: Session<'_>, wanted: &Wanted, names: Vec<String>) -> Result<Fetched, Failure> {
    let taken = pacman(session, wanted, None)?;
    let mut fetched = Fetched { wanted: wanted.clone(), names, taken, files: Vec::new() };
    let files = fetched.read(&fetched.taken);
    fetched.files = files.inspect_err(|_| fetched.remove(session.context))?;
    Ok(fetched)
}

/// Has pacman fetch the keyring packages, or verify those of `before` by the home of `inside`. Returns what it took: which
/// repository a package comes from is pacman's to decide, by the order of the configuration; but where there are overlays, a
/// publisher's keyring comes from its own repositories.
fn pacman(session: Session<'_>, wanted: &Wanted, before: Option<&Taken>) -> Result<Taken, Failure> {
    let Session { context, document, inside, offline, .. } = session;
    let program: members::Pacman = document.need()?;
    let config: Config = document.need()?;
    program.check()?;
    let verifies = before.is_some();
    let config_file = if verifies { config.strict } else { config.loose };
    let pacman = Pacman {
        context,
        inside,
        program: &program.path,
        repos: Conf::read(&config_file)?.repos,
        config: config_file,
        hook_dir: None,
        cache: &config.cache,
        verifies,
        offline,
    };
    // With the repositories' own, they have been asked for.
    let refresh = if wanted.repos.is_empty() { Refresh::Newer } else { Refresh::No };
    let operation = Operation::download_targets(refresh);
    let packages = &targets(&pacman, wanted)?;
    if verifies {
        // Its signatures may not be in the cache yet.
        let _lock = cache_lock::take(context, &config.cache)?;
        let ran = pacman.run(operation, packages);
        let doing = || format!("checking {} by the keys in it", packages.join(", "));
        ran.map_err(|failure| failure.while_doing(doing()))?;
    } else {
        pacman.download(operation, packages)?;
    }
    let databases = databases::hashes(inside.root(), &pacman.repos);
    let planned = match before.filter(|before| databases.is_some() && before.databases == databases) {
        Some(before) => before.planned.clone(),
        None => pacman.preview(operation, packages)?,
    };
    Ok(Taken { cache: config.cache.clone(), planned, databases })
}

/// Returns a publisher's keyring packages as pacman takes them.
fn targets(pacman: &Pacman<'_>, wanted: &Wanted) -> Result<Vec<String>, Failure> {
    if wanted.repos.is_empty() {
        return Ok(wanted.packages.clone());
    }
    pacman.refresh()?;
    let repos: Vec<String> = pacman.repos.iter().filter(|repo| wanted.repos.contains(repo)).cloned().collect();
    let offers = records::offered(pacman.inside.root(), &repos)?.entries;
    let target = |package: &String| match offers.iter().find(|(_, entry)| entry.name == *package) {
        Some((repo, _)) => Ok(format!("{repo}/{package}")),
        None => {
            let message = format!("looking for the package '{package}' in {}: it is not there", repos.join(", "));
            Err(Failure::new(Code::NotFound, message)
                .hint("name the package that has the keys of these repositories with --package"))
        }
    };
    wanted.packages.iter().map(target).collect()
}

impl Fetched {
    /// Has pacman check the packages by the keyring that was built from them, the home that `session` has inside, as strictly as all other
    /// packages later.
    ///
    /// That a package is checked by its own keys is no circle: the pinned fingerprints alone decide which keys are trusted. It
    /// finds what a mirror changed without one of these keys, such as a list of revoked keys with a line less.
    ///
    /// # Errors
    ///
    /// When pacman refuses one of them, or takes another one than before; when one is signed by another publisher.
    pub(crate) fn verify(&self, session: Session<'_>, publishers: &[members::Publisher]) -> Result<(), Failure> {
        // With -y again: where databases must be signed, their signatures have not been downloaded yet.
        let packages = &self.wanted.packages;
        let hint = "it is not as its distribution signed it: try another mirror, with mkconf --server URL";
        let taken = pacman(session, &self.wanted, Some(&self.taken))
            .map_err(|f| if f.code == Code::NotVerified { f.hint(hint) } else { f })?;
        if self.read(&taken)? != self.files {
            let message = format!("reading {}: the mirror has another one than a moment ago", packages.join(", "));
            return Err(Failure::new(Code::NotVerified, message).hint("try again"));
        }
        let config: Config = session.document.need()?;
        if publishers.is_empty() || config.repositories.is_empty() {
            return Ok(());
        }
        let keyring = members::Keyring { publishers: publishers.to_vec(), ..members::Keyring::default() };
        let vouchers = Vouchers::of(&config, Some(&keyring))?;
        vouchers.check(session.inside, &config, &taken.planned)
    }

    /// Removes the archives from the cache, which other roots use too.
    pub(crate) fn remove(&self, context: &Context) {
        for planned in &self.taken.planned {
            if let Err(failure) = signature_pair::remove(&self.taken.cache, &planned.file) {
                context.warn(failure);
            }
        }
    }

    /// Reads the rings in the archives. The first package that has one counts.
    fn read(&self, taken: &Taken) -> Result<Vec<RingFiles>, Failure> {
        let mut rings: Vec<RingFiles> = Vec::new();
        let mut missing: Vec<&str> = self.names.iter().map(String::as_str).collect();
        for package in &self.wanted.packages {
            rings.extend(read_archive(taken, package, &missing)?);
            missing.retain(|name| rings.iter().all(|ring| ring.name != *name));
        }
        if let Some(name) = missing.first() {
            let packages = self.wanted.packages.join(", ");
            let message = format!("looking for the ring '{name}': it is not in {packages}");
            return Err(Failure::new(Code::NotFound, message)
                .hint("name the package that has it with --package, or another ring with --populate"));
        }
        Ok(rings)
    }
}

/// Reads the rings in the archive that pacman took. pacman has compared its hash with the database's.
fn read_archive(taken: &Taken, package: &str, names: &[&str]) -> Result<Vec<RingFiles>, Failure> {
    let Taken { cache, planned, .. } = taken;
    let Some(planned) = planned.iter().find(|planned| planned.name == package) else {
        let message = format!("looking for the package '{package}' in {}: pacman did not put it there", quote(cache));
        return Err(Failure::new(Code::NotFound, message));
    };
    let path = cache.join(&planned.file);
    let doing = || format!("reading {}", quote(&path));
    let mut file = stage::file::open(&path).doing(Code::Failed, doing)?;
    // The name in the database proves nothing: it may be another, or an old one, that was validly signed.
    let is = pkginfo::of_archive(BufReader::new((&mut file).take(ARCHIVE))).doing(Code::Failed, doing)?;
    if (&is.name, &is.version) != (&planned.name, &planned.version) {
        let message = format!(
            "{}: it is package {} {}, and should be {} {}",
            doing(),
            quote(&is.name),
            is.version,
            quote(&planned.name),
            planned.version
        );
        return Err(Failure::new(Code::NotVerified, message)
            .hint("the mirror is not to be trusted: try another one, with mkconf --server URL"));
    }
    extract(&mut file, names).doing(Code::Failed, doing)
}

/// Extracts the rings of these names. Not every ring has every file.
fn extract(file: &mut File, names: &[&str]) -> Result<Vec<RingFiles>, package::Error> {
    let paths: Vec<String> = names.iter().flat_map(|name| ENDS.map(|end| path(name, end))).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    file.rewind().map_err(|source| package::Error::Read { doing: "reading package archive".into(), source })?;
    let mut found = extract_present(BufReader::new(file.take(ARCHIVE)), &paths, RING)?;
    let rings = names.iter().filter_map(|name| {
        Some(RingFiles {
            name: (*name).to_owned(),
            keys: found.remove(&path(name, ".gpg"))?,
            trusted: found.remove(&path(name, "-trusted")),
            revoked: found.remove(&path(name, "-revoked")),
        })
    });
    Ok(rings.collect())
}
