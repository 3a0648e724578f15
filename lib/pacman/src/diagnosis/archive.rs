//! The signatures of one archive in the package cache.

use super::{Diagnosis, Verdict, Verifier};
use crate::gpg::together::Signed;
use crate::records::if_exists;
use package::digest::Sha256Reader;
use rustix::fs::{AtFlags, Mode, OFlags, open, openat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The longest signature that is read: gpg's have a few hundred bytes each.
const SIGNATURE: u64 = 1 << 20;

/// A directory of files with signatures, open, with its path for messages.
#[derive(Debug)]
pub struct Cache {
    /// The directory.
    pub directory: OwnedFd,
    /// Where it is.
    pub path: PathBuf,
}

impl Cache {
    /// Opens a directory of the host.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn at(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// Removes a file and its signature, as far as they are there.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] where one of them cannot be removed; the other is removed all the same.
    pub fn remove(&self, file: &str) -> Result<(), Failure> {
        let remove = |name: &str| {
            let removed = if_exists(unlinkat(&self.directory, name, AtFlags::empty())).map(drop);
            removed.doing(Code::Os, || format!("removing {}", quote(self.path.join(name))))
        };
        let first = remove(file);
        first.and(remove(&format!("{file}.sig")))
    }

    /// Opens a regular file in it; `None` where there is none. Nothing else is opened: opening a device may use it, and opening
    /// a fifo may wait.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(&self, name: &str) -> Result<Option<File>, Failure> {
        let doing = || format!("opening {}", quote(self.path.join(name)));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            // No device is behind it, nobody listens on it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(None),
            file => File::from(file.doing(Code::Os, doing)?),
        };
        let kind = file.metadata().doing(Code::Os, doing)?;
        Ok(kind.is_file().then_some(file))
    }

    /// Reads the signature beside an archive.
    ///
    /// # Errors
    ///
    /// As [`Cache::open`], and when it cannot be read.
    pub fn signature(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let name = format!("{name}.sig");
        let Some(file) = self.open(&name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(SIGNATURE)
            .read_to_end(&mut bytes)
            .doing(Code::Os, || format!("reading {}", quote(self.path.join(name))))?;
        Ok(Some(bytes))
    }

    /// Checks the signatures of the archive `name`: that beside it, and `offered`, that in the repository's database. One
    /// good one is enough; then the archive is returned, too. A file that cannot be read is [`Verdict::Unreadable`], which
    /// proves nothing against the package.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run.
    pub fn check(
        &self,
        verifier: &Verifier<'_>,
        name: &str,
        offered: Option<&Vec<u8>>,
    ) -> Result<(Diagnosis, Option<File>), Failure> {
        let opened = self.open(name).and_then(|file| Ok((file, self.signature(name)?)));
        let (file, beside) = match opened {
            Ok((Some(file), beside)) => (file, beside),
            Ok((None, _)) => return Ok((no_archive(), None)),
            Err(failure) => return Ok((unreadable(failure.message), None)),
        };
        let mut signatures: Vec<&Vec<u8>> = beside.iter().chain(offered).collect();
        signatures.dedup();
        let mut first = None;
        for signature in signatures {
            let data = match from_beginning(&file) {
                Ok(data) => data,
                Err(e) => return Ok((unreadable(e), None)),
            };
            let diagnosis = verifier.diagnose(&verifier.home.verify(signature, data)?);
            if diagnosis.is_valid() {
                return Ok((diagnosis, Some(file)));
            }
            first.get_or_insert(diagnosis);
        }
        let diagnosis = first.unwrap_or_else(no_signature);
        // gpg also reports data that it could not read as bad.
        if diagnosis.verdict == Verdict::Bad
            && let Err(e) = from_beginning(&file).and_then(|mut data| std::io::copy(&mut data, &mut std::io::sink()))
        {
            return Ok((unreadable(e), None));
        }
        Ok((diagnosis, None))
    }

    /// Checks the signatures of several archives, as [`Cache::check`] does of each: a name, and what is offered. It runs gpg less
    /// often, and has all of them open.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run.
    pub fn check_all(
        &self,
        verifier: &Verifier<'_>,
        wanted: &[(&str, Option<&Vec<u8>>)],
    ) -> Result<Vec<(Diagnosis, Option<File>)>, Failure> {
        let mut valid: Vec<Option<(Diagnosis, File)>> = wanted.iter().map(|_| None).collect();
        let mut group = Vec::new();
        for (n, (name, offered)) in wanted.iter().enumerate() {
            // What cannot be opened is reported below.
            let opened = self.open(name).and_then(|file| Ok((file, self.signature(name)?)));
            let Ok((Some(file), beside)) = opened else { continue };
            if let Some(signature) = beside.or_else(|| offered.cloned()) {
                group.push((n, file, signature));
            }
        }
        check_group(verifier, group, &mut valid)?;
        let all = wanted.iter().zip(valid);
        all.map(|((name, offered), valid)| match valid {
            Some((diagnosis, file)) => Ok((diagnosis, Some(file))),
            None => self.check(verifier, name, *offered),
        })
        .collect()
    }

    /// Compares the archive `name`, which need not be signed, with the SHA-256 of the one that was installed. Where it is that,
    /// it is returned, too.
    #[must_use]
    pub fn check_hash(&self, name: &str, sha256: &str) -> (Diagnosis, Option<File>) {
        let file = match self.open(name) {
            Ok(Some(file)) => file,
            Ok(None) => return (no_archive(), None),
            Err(failure) => return (unreadable(failure.message), None),
        };
        let hash = from_beginning(&file).and_then(|data| {
            let mut reader = Sha256Reader::new(data);
            reader.drain()?;
            Ok(reader.finish())
        });
        match hash {
            Err(e) => (unreadable(e), None),
            Ok(is) if is == sha256 => {
                let none =
                    Diagnosis { verdict: Verdict::Unsigned, key: None, created: None, why: String::new(), hint: None };
                (none, from_beginning(&file).ok())
            }
            Ok(_) => {
                let why = "the archive in the cache is another than the one that was installed, which was not signed";
                (Diagnosis::without_key(Verdict::Bad, why, "install it again with strap --unsigned"), None)
            }
        }
    }
}

/// Checks archives with one gpg. Those whose signature is valid go to their places in `valid`.
fn check_group(
    verifier: &Verifier<'_>,
    group: Vec<(usize, File, Vec<u8>)>,
    valid: &mut [Option<(Diagnosis, File)>],
) -> Result<(), Failure> {
    let signed: Vec<Signed<'_>> = group.iter().map(|(_, data, signature)| Signed { signature, data }).collect();
    let found = verifier.home.verify_together(&signed)?;
    for ((n, file, _), found) in group.into_iter().zip(found) {
        let diagnosis = found.map(|signature| verifier.diagnose(&[signature])).filter(Diagnosis::is_valid);
        valid[n] = diagnosis.map(|diagnosis| (diagnosis, file));
    }
    Ok(())
}

fn from_beginning(file: &File) -> std::io::Result<File> {
    let mut data = file.try_clone()?;
    data.rewind()?;
    Ok(data)
}

/// Returns the diagnosis of a package whose archive or signature cannot be read.
fn unreadable(why: impl Display) -> Diagnosis {
    Diagnosis::without_key(
        Verdict::Unreadable,
        format!("its archive cannot be read here: {why}"),
        "see dmesg for errors of the disk; then verify again",
    )
}

/// Returns the diagnosis of a package without an archive.
#[must_use]
pub fn no_archive() -> Diagnosis {
    Diagnosis::without_key(
        Verdict::NoArchive,
        "its archive is not in the cache, and no repository has that version any more",
        "update it with strap, or copy its archive and signature to the cache",
    )
}

fn no_signature() -> Diagnosis {
    Diagnosis::without_key(
        Verdict::Missing,
        "its archive has no signature, neither beside it in the cache nor in a repository's database",
        "if the repository has one, 'pacman -Sw' with the strict configuration downloads it",
    )
}
