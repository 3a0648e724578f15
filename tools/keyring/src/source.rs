//! Where the rings come from: the keyring package that is installed in the root, or else one that pacman downloads.

use crate::trust::Files;
use package::archive::extract_members;
use package::pkginfo;
use pacman::conf::Conf;
use pacman::operation::Refresh;
use pacman::{Operation, Pacman, Planned, cache_lock};
use rootfs::{Inside, Root};
use rustix::io::Errno;
use stage::members::{self, Config};
use stage::{Code, Context, Document, Doing, Failure, quote};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// Where a keyring package puts its files.
const DIRECTORY: &str = "usr/share/pacman/keyrings";

/// The largest ring and archive that are read. Arch's ring has 1.5 MB, its package 1.2 MB.
const RING: u64 = 64 << 20;
const ARCHIVE: u64 = 256 << 20;

/// Reads the ring that is installed in the root; `None` where it is not.
///
/// # Errors
///
/// When it is there and cannot be read.
pub(crate) fn installed(root: &Root, name: &str) -> Result<Option<Files>, Failure> {
    let read = |end: &str| {
        let below = format!("{DIRECTORY}/{name}{end}");
        match root.read(&below, RING) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).doing(Code::Failed, || {
                format!("reading {}", quote(root.path().join(&below)))
            }),
        }
    };
    let Some(keys) = read(".gpg")? else {
        return Ok(None);
    };
    Ok(Some(Files {
        name: name.to_owned(),
        keys,
        trusted: read("-trusted")?,
        revoked: read("-revoked")?,
    }))
}

/// Keyring packages in the cache, and the rings that were taken out of them.
#[derive(Debug)]
pub(crate) struct Fetched {
    packages: Vec<String>,
    names: Vec<String>,
    cache: PathBuf,
    /// What pacman took for the packages.
    planned: Vec<Planned>,
    pub(crate) files: Vec<Files>,
    /// Whether no server may be asked.
    offline: bool,
}

/// Downloads the keyring packages with pacman, and takes the rings out of them.
///
/// pacman runs without signatures here: there is no keyring yet to check one by. What the package brings is trusted no
/// further than the pinned fingerprints reach, and [`Fetched::prove`] makes up for it when there is one.
///
/// # Errors
///
/// When pacman fails, or a ring is in none of the packages.
pub(crate) fn download(
    context: &Context,
    document: &Document,
    inside: &Inside,
    packages: &[String],
    names: &[&str],
    offline: bool,
) -> Result<Fetched, Failure> {
    let (cache, planned) = pacman(context, document, inside, false, packages, offline)?;
    let mut fetched = Fetched {
        packages: packages.to_vec(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        cache,
        planned,
        files: Vec::new(),
        offline,
    };
    match fetched.read(&fetched.planned) {
        Ok(files) => fetched.files = files,
        Err(failure) => {
            fetched.forget(context);
            return Err(failure);
        }
    }
    Ok(fetched)
}

/// Has pacman fetch the keyring packages, and verify them by the home of `inside` where `verifies` says so. Returns where its
/// cache is, and what it took: which repository a package comes from is pacman's to decide, by the order of the configuration.
fn pacman(
    context: &Context,
    document: &Document,
    inside: &Inside,
    verifies: bool,
    packages: &[String],
    offline: bool,
) -> Result<(PathBuf, Vec<Planned>), Failure> {
    let program: members::Pacman = document.need("pacman", "fetch-pacman")?;
    let config: Config = document.need("config", "mkconf")?;
    program.check()?;
    let config_file = if verifies {
        config.strict
    } else {
        config.loose
    };
    let pacman = Pacman {
        context,
        inside,
        program: &program.path,
        repos: Conf::read(&config_file)?.repos,
        config: config_file,
        cache: &config.cache,
        verifies,
        offline,
    };
    let operation = Operation::download_targets(Refresh::Newer);
    if verifies {
        // Its signatures may not be in the cache yet.
        let _lock = cache_lock::take(context, &config.cache)?;
        let ran = pacman.run(operation, packages);
        let doing = || format!("checking {} by the keys in it", packages.join(", "));
        ran.map_err(|failure| failure.while_doing(doing()))?;
    } else {
        pacman.download(operation, packages)?;
    }
    let planned = pacman.preview(operation, packages)?;
    Ok((config.cache.clone(), planned))
}

impl Fetched {
    /// Has pacman check the packages by the keyring that was built of them, the home of `inside`, as strictly as every other
    /// package will be.
    ///
    /// That a keyring brings its own judge is no circle: who is believed was decided by pinned fingerprints alone. What is
    /// found here is what a mirror changed without a key that they vouch for, such as a list of revoked keys with a line
    /// less.
    ///
    /// # Errors
    ///
    /// When pacman does not take one of them, or has another than the one that the rings are from.
    pub(crate) fn prove(
        &self,
        context: &Context,
        document: &Document,
        inside: &Inside,
    ) -> Result<(), Failure> {
        // With the databases anew: where those must be signed, their signatures have not been fetched yet.
        let proven = pacman(
            context,
            document,
            inside,
            true,
            &self.packages,
            self.offline,
        );
        let (_, planned) = proven.map_err(|failure| match failure.code {
            Code::NotVerified => failure.hint(
                "it is not as its distribution signed it: try another mirror, with mkconf --server URL",
            ),
            _ => failure,
        })?;
        if self.read(&planned)? != self.files {
            return Err(Failure::new(
                Code::NotVerified,
                format!(
                    "reading {}: the mirror has another one than a moment ago",
                    self.packages.join(", ")
                ),
            )
            .hint("try again"));
        }
        Ok(())
    }

    /// Removes the archives from the cache, which other roots use too: pacman would find there what it did not fetch.
    pub(crate) fn forget(&self, context: &Context) {
        for planned in &self.planned {
            for end in ["", ".sig"] {
                let path = self.cache.join(format!("{}{end}", planned.file));
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        context.warn(format_args!("removing {}: {e}", quote(&path)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Takes the rings out of the archives.
    fn read(&self, planned: &[Planned]) -> Result<Vec<Files>, Failure> {
        let mut rings: Vec<Files> = Vec::new();
        for package in &self.packages {
            let left: Vec<&str> = self
                .names
                .iter()
                .map(String::as_str)
                .filter(|name| rings.iter().all(|r| r.name != *name))
                .collect();
            rings.extend(from_archive(planned, &self.cache, package, &left)?);
        }
        for name in &self.names {
            if rings.iter().all(|r| r.name != *name) {
                return Err(Failure::new(
                    Code::NotFound,
                    format!(
                        "looking for the ring '{name}': it is not in {}",
                        self.packages.join(", ")
                    ),
                )
                .hint(
                    "name the package that has it with --package, or another ring with --populate",
                ));
            }
        }
        Ok(rings)
    }
}

/// Takes the rings out of the package in the cache that pacman took. pacman has compared its hash with the database's.
fn from_archive(
    planned: &[Planned],
    cache: &Path,
    package: &str,
    names: &[&str],
) -> Result<Vec<Files>, Failure> {
    if let Some(planned) = planned.iter().find(|planned| planned.name == package) {
        let path = cache.join(&planned.file);
        let doing = || format!("reading {}", quote(&path));
        let mut file = stage::file::open(&path).doing(Code::Failed, doing)?;
        // What the database calls it proves nothing: it may be another, or an old one, that was validly signed.
        let is = pkginfo::of_archive(BufReader::new((&mut file).take(ARCHIVE)))
            .doing(Code::Failed, doing)?;
        if (&is.name, &is.version) != (&planned.name, &planned.version) {
            return Err(Failure::new(
                Code::NotVerified,
                format!(
                    "{}: it is package {} {}, and should be {} {}",
                    doing(),
                    quote(&is.name),
                    is.version,
                    quote(&planned.name),
                    planned.version
                ),
            )
            .hint("the mirror is not to be trusted: try another one, with mkconf --server URL"));
        }
        return extract(&mut file, names).doing(Code::Failed, doing);
    }
    Err(Failure::new(
        Code::NotFound,
        format!(
            "looking for the package '{package}' in {}: pacman did not put it there",
            quote(cache)
        ),
    ))
}

/// Takes the rings of these names out of an archive. Not every ring has every file.
fn extract(file: &mut File, names: &[&str]) -> Result<Vec<Files>, package::Error> {
    let path = |name: &str, end: &str| format!("{DIRECTORY}/{name}{end}");
    let mut wanted: Vec<String> = names
        .iter()
        .flat_map(|name| [".gpg", "-trusted", "-revoked"].map(|end| path(name, end)))
        .collect();
    let mut found = loop {
        let list: Vec<&str> = wanted.iter().map(String::as_str).collect();
        file.rewind().map_err(|source| package::Error::Read {
            doing: "reading package archive".into(),
            source,
        })?;
        match extract_members(BufReader::new((&mut *file).take(ARCHIVE)), &list, RING) {
            Err(package::Error::NotFound { members }) => wanted.retain(|w| !members.contains(w)),
            result => break result?,
        }
    };
    Ok(names
        .iter()
        .filter_map(|name| {
            Some(Files {
                name: (*name).to_owned(),
                keys: found.remove(&path(name, ".gpg"))?,
                trusted: found.remove(&path(name, "-trusted")),
                revoked: found.remove(&path(name, "-revoked")),
            })
        })
        .collect())
}
