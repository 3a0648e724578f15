//! Package files: those in the directory of the repository, and those that are copied there.

use package::desc::Described;
use package::digest::Sha256Reader;
use package::{db, name};
use rootfs::file;
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use stage::members::{Config, Package};
use stage::{Code, Common, Context, Doing, Failure, Unit, quote};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The longest signature that pacman accepts, in bytes (libalpm's sync.c).
const SIGNATURE: u64 = 16 << 10;

/// A package file, as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    pub(super) path: PathBuf,
    /// Its name.
    pub(super) file: String,
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) package: Described,
    /// Its `files` in a database.
    pub(super) files: String,
}

impl Archive {
    fn read(path: &Path, file: &str) -> Result<Self, Failure> {
        let doing = || format!("reading the package {}", quote(path));
        let opened = stage::file::open(path).map_err(|e| {
            let is_absent = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput);
            Failure::system(if is_absent { Code::Usage } else { Code::Failed }, doing(), e)
        })?;
        let mut reader = Sha256Reader::new(opened);
        let (package, files) = Described::with_files(&mut reader).doing(Code::Failed, doing)?;
        reader.drain().doing(Code::Failed, doing)?;
        let size = reader.count();
        Ok(Self { path: path.to_owned(), file: file.to_owned(), size, sha256: reader.finish(), package, files })
    }
}

/// Returns the package files in a directory.
///
/// # Errors
///
/// When one cannot be read.
pub(super) fn of_directory(context: &Context, directory: &Path) -> Result<Vec<Archive>, Failure> {
    let doing = || format!("listing {}", quote(directory));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).doing(Code::Failed, doing)? {
        let name = entry.doing(Code::Failed, doing)?.file_name();
        names.extend(name.to_str().filter(|name| name::is_package_file(name)).map(str::to_owned));
    }
    names.sort();
    read_all(context, &names, |name| Archive::read(&directory.join(name), name))
}

/// Reads package files, and shows how far that is.
///
/// # Errors
///
/// When one cannot be read.
pub(super) fn read_all<T>(
    context: &Context,
    all: &[T],
    read: impl Fn(&T) -> Result<Archive, Failure>,
) -> Result<Vec<Archive>, Failure> {
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let progress = context.progress("hashing", Unit::Packages, Some(all.len() as u64));
    all.iter().map(|one| read(one).inspect(|_| progress.advance(1))).collect()
}

/// A package file that is to be copied.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: String,
    signature: Option<Vec<u8>>,
    /// What a document says of it.
    receipt: Option<Package>,
}

impl Source {
    /// Returns the package file at a path, with its signature beside it.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it is not that of a package file.
    pub(super) fn of_path(path: &Path) -> Result<Self, Failure> {
        let file = path.file_name().and_then(|name| name.to_str()).filter(|name| name::is_package_file(name));
        let Some(file) = file else {
            let why = "this is not the name of a package file, NAME.pkg.tar.zst";
            return Err(Failure::new(Code::Usage, format!("adding {}: {why}", quote(path))));
        };
        let signature = read_signature(&PathBuf::from(format!("{}.sig", path.display())))?;
        Ok(Self { path: path.to_owned(), file: file.to_owned(), signature, receipt: None })
    }

    pub(super) fn read(&self) -> Result<Archive, Failure> {
        Archive::read(&self.path, &self.file)
    }

    /// Refuses what is not what a document says, and what nobody verified and would be signed.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] in these cases.
    pub(super) fn check(&self, archive: &Archive, signs: bool) -> Result<(), Failure> {
        let Some(receipt) = &self.receipt else { return Ok(()) };
        if receipt.sha256.as_ref() != Some(&archive.sha256) {
            let why = format!("adding {}: it is another archive than was installed", quote(&self.path));
            return Err(Failure::new(Code::NotVerified, why).hint("keep the package cache with the document"));
        }
        let is_known = receipt.verified || receipt.repo.as_deref() == Some(Package::UNSIGNED);
        if signs && self.signature.is_none() && !is_known {
            let why = format!("signing {}: nobody verified it when it was installed", quote(&self.path));
            return Err(Failure::new(Code::NotVerified, why)
                .hint("install it without --loose; or name its file, if you know what it is"));
        }
        Ok(())
    }

    /// Copies it into a directory, unless it is there, and its signature.
    ///
    /// # Errors
    ///
    /// When something cannot be written, or it is not what was read before.
    pub(super) fn place(&self, archive: &Archive, is_there: bool, to: &File, path: &Path) -> Result<(), Failure> {
        let at = path.join(&self.file);
        let doing = || format!("copying {} to {}", quote(&self.path), quote(&at));
        let name = format!("{}.sig", self.file);
        if !is_there {
            // Of a file that was there once.
            remove_signature(to, &name).doing(Code::Os, doing)?;
            let mut reader = Sha256Reader::new(stage::file::open(&self.path).doing(Code::Failed, doing)?);
            let copy = |out: &mut File| {
                io::copy(&mut reader, out)?;
                match reader.finish() == archive.sha256 {
                    true => Ok(()),
                    false => Err(io::Error::other("it was changed meanwhile")),
                }
            };
            file::replace_with(to.as_fd(), &self.file, 0o644, None, copy).doing(Code::Os, doing)?;
        }
        let Some(signature) = &self.signature else { return Ok(()) };
        if read_signature(&path.join(&name))?.as_ref() == Some(signature) {
            return Ok(());
        }
        file::replace(to.as_fd(), &name, signature, 0o644, None).doing(Code::Os, doing)
    }
}

/// Removes a detached signature, where there is one.
pub(super) fn remove_signature(directory: &File, name: &str) -> rustix::io::Result<()> {
    unlinkat(directory, name, AtFlags::empty()).or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(e) })
}

/// Returns the packages of a document, from its package cache.
///
/// # Errors
///
/// When the document does not know the archive of a package.
pub(super) fn of_receipt(path: &Path) -> Result<Vec<Source>, Failure> {
    let document = stage::run::read_state(&Common { state: Some(path.to_owned()), ..Common::default() })?;
    let config: Config = document.need()?;
    let packages: Vec<Package> = document.get().unwrap_or_default();
    let doing = || format!("taking the packages of {}", quote(path));
    if packages.is_empty() {
        let why = format!("{}: it has none", doing());
        return Err(Failure::new(Code::BadDocument, why).hint("give the document of a finished root"));
    }
    let mut sources = Vec::new();
    for package in packages {
        let file = package.file.clone().filter(|file| name::is_package_file(file));
        let (Some(file), Some(_)) = (file, &package.sha256) else {
            let why = format!("{}: it does not know the archive of {}", doing(), quote(&package.name));
            return Err(Failure::new(Code::NotFound, why).hint("give the document of the run that installed it"));
        };
        let path = config.cache.join(&file);
        // The signature that was checked; an older document has none.
        let signature = match package.pgpsig.as_deref().and_then(db::decode_signature) {
            None if package.repo.as_deref() != Some(Package::UNSIGNED) => {
                read_signature(&PathBuf::from(format!("{}.sig", path.display())))?
            }
            signature => signature,
        };
        sources.push(Source { path, file, signature, receipt: Some(package) });
    }
    let mut absent = sources.iter().filter(|source| !source.path.exists());
    if let Some(first) = absent.next() {
        let more = pacman::and_more(absent.count());
        let why = format!("{}: {}{more} is not in the package cache", doing(), quote(&first.path));
        return Err(Failure::new(Code::NotFound, why)
            .hint(format!("install from the document once more, which fetches it: strap --locked {}", quote(path))));
    }
    Ok(sources)
}

/// Returns a detached signature, where there is one.
///
/// # Errors
///
/// When pacman could not use it.
pub(super) fn read_signature(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let doing = || format!("reading the signature {}", quote(path));
    let bytes = match stage::file::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.and_then(|file| stage::file::read_to_limit(file, SIGNATURE)).doing(Code::Failed, doing)?,
    };
    // The first bit of every OpenPGP packet is set.
    if bytes.first().is_none_or(|byte| byte & 0x80 == 0) {
        let why = format!("{}: it is not a signature, or it is armoured, which pacman does not read", doing());
        return Err(Failure::new(Code::Failed, why).hint("gpg --dearmor makes one of an armoured one"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_of_an_earlier_file_goes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = "a-1-1-any.pkg.tar";
        let beside = to.path().join(format!("{file}.sig"));
        std::fs::write(from.path().join(file), "new").unwrap();
        std::fs::write(&beside, b"\x88old").unwrap();
        let source = Source::of_path(&from.path().join(file)).unwrap();
        let sha256 = package::digest::sha256_hex("new");
        let archive = Archive { file: file.to_owned(), sha256, ..Archive::default() };
        let directory = File::open(to.path()).unwrap();
        source.place(&archive, false, &directory, to.path()).unwrap();
        assert!(!beside.exists() && to.path().join(file).exists());
        // That of the file that is there stays.
        std::fs::write(&beside, b"\x88good").unwrap();
        source.place(&archive, true, &directory, to.path()).unwrap();
        assert!(beside.exists());
    }
}
