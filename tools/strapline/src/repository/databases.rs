//! The databases of a repository, and their signatures.

use super::sources::{Archive, read_signature, remove_signature};
use package::db::{self, encode_signature};
use package::{dbtar, desc};
use pacman::gpg::{memory_file, sign::Signer};
use rootfs::file;
use stage::{Code, Doing, Failure, quote};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// The two databases, `NAME.db` last: with it the new packages are there.
const SUFFIXES: [&str; 2] = ["files", "db"];

/// Where signatures are, and who makes them.
pub(super) struct Signatures<'a> {
    pub(super) signer: Option<&'a Signer>,
    pub(super) directory: &'a File,
    pub(super) path: &'a Path,
}

impl Signatures<'_> {
    /// Refuses to leave a database that is signed without a signature.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with what to do.
    pub(super) fn check(&self, name: &str) -> Result<(), Failure> {
        for suffix in SUFFIXES {
            let at = self.path.join(format!("{name}.{suffix}.sig"));
            if self.signer.is_none() && at.exists() {
                let why = format!("making the repository {}: {} is signed, and would not be", quote(name), quote(&at));
                return Err(
                    Failure::new(Code::Failed, why).hint("give the key: --sign FINGERPRINT; or remove that file")
                );
            }
        }
        Ok(())
    }

    /// Returns the signature of a package: that beside it, or a new one.
    fn of(&self, archive: &Archive) -> Result<Option<Vec<u8>>, Failure> {
        let name = format!("{}.sig", archive.file);
        let found = read_signature(&self.path.join(&name))?;
        let (None, Some(signer)) = (&found, self.signer) else { return Ok(found) };
        let at = self.path.join(&archive.file);
        let doing = || format!("signing {}", quote(&at));
        let signature = signer.sign(stage::file::open(&at).doing(Code::Failed, doing)?)?;
        file::replace(self.directory.as_fd(), &name, &signature, 0o644, None).doing(Code::Os, doing)?;
        Ok(Some(signature))
    }

    /// Replaces a database, unless it has this content, and its signature. In between it has none, and never that of another one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let at = self.path.join(name);
        let doing = || format!("writing {}", quote(&at));
        let signature = self.signer.map(|signer| signer.sign(memory_file(bytes)?)).transpose()?;
        let beside = format!("{name}.sig");
        let there = stage::file::open(&at).and_then(|file| stage::file::read_to_limit(file, bytes.len() as u64));
        if there.ok().as_deref() != Some(bytes) {
            remove_signature(self.directory, &beside).doing(Code::Os, doing)?;
            file::replace(self.directory.as_fd(), name, bytes, 0o644, None).doing(Code::Os, doing)?;
        }
        let Some(signature) = signature else { return Ok(()) };
        file::replace(self.directory.as_fd(), &beside, &signature, 0o644, None).doing(Code::Os, doing)
    }
}

/// Writes the databases of these packages. What is there already, with the same content, stays.
///
/// # Errors
///
/// When a package or a database cannot be signed, or something cannot be written. The old database is then still there.
pub(super) fn write(name: &str, archives: &[Archive], signatures: &Signatures<'_>) -> Result<(), Failure> {
    let doing = || format!("making the repository {}", quote(name));
    let (mut descs, mut both) = (Vec::new(), Vec::new());
    for archive in archives {
        let signature = signatures.of(archive)?.map(|bytes| encode_signature(&bytes));
        let Archive { file, size, sha256, package, files, .. } = archive;
        let file = desc::File { name: file, size: *size, sha256, signature: signature.as_deref() };
        let (directory, text) = (db::directory(&package.name, &package.version), package.desc(&file));
        descs.push((format!("{directory}/desc"), text.clone()));
        both.push((format!("{directory}/desc"), text));
        both.push((format!("{directory}/files"), files.clone()));
    }
    for (suffix, members) in SUFFIXES.into_iter().zip([both, descs]) {
        let bytes = dbtar::compressed(members).doing(Code::Failed, doing)?;
        signatures.replace(&format!("{name}.{suffix}"), &bytes)?;
    }
    Ok(())
}
