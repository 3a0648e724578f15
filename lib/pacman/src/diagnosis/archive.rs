//! The signatures of one archive in the package cache.

use super::{Diagnosis, Judge, Verdict};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// The longest signature that is read: gpg's have a few hundred bytes each.
const SIGNATURE: u64 = 1 << 20;

/// A directory of archives, open, with its path for messages.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// Where it is.
    pub path: &'a Path,
}

impl Cache<'_> {
    /// Opens a plain file in it. What else may lie there under that name is not opened: a device would be used by that, and
    /// a fifo would not answer.
    ///
    /// # Errors
    ///
    /// When it is there, and nobody can say what it is. That it is not there is no error.
    pub fn open(&self, name: &str) -> Result<Option<File>, Failure> {
        let doing = || format!("opening {}", quote(self.path.join(name)));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // No device is behind it, nobody listens on it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                return Ok(None);
            }
            Err(e) => return Err(e).doing(Code::Os, doing),
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
            .doing(Code::Os, || {
                format!("reading {}", quote(self.path.join(name)))
            })?;
        Ok(Some(bytes))
    }

    /// Checks the signatures of the archive `name`: that beside it, and `offered`, that in the repository's database. One
    /// that holds is enough. Returns the archive too, where one does. A file that cannot be read is
    /// [`Verdict::Unreadable`]: it is no finding against the package.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run. What gpg finds is no error.
    pub fn judge(
        &self,
        judge: &Judge<'_>,
        name: &str,
        offered: Option<&Vec<u8>>,
    ) -> Result<(Diagnosis, Option<File>), Failure> {
        let opened = self
            .open(name)
            .and_then(|file| Ok((file, self.signature(name)?)));
        let (file, beside) = match opened {
            Ok((Some(file), beside)) => (file, beside),
            Ok((None, _)) => return Ok((no_archive(), None)),
            Err(failure) => return Ok((unreadable(&failure.message), None)),
        };
        let mut signatures: Vec<&Vec<u8>> = beside.iter().chain(offered).collect();
        signatures.dedup();
        let mut first = None;
        for signature in signatures {
            let data = match file
                .try_clone()
                .and_then(|mut data| data.rewind().map(|()| data))
            {
                Ok(data) => data,
                Err(e) => return Ok((unreadable(&e.to_string()), None)),
            };
            let diagnosis = judge.diagnose(&judge.home.verify(signature, data)?);
            if diagnosis.verdict == Verdict::Valid {
                return Ok((diagnosis, Some(file)));
            }
            first.get_or_insert(diagnosis);
        }
        let diagnosis = first.unwrap_or_else(no_signature);
        // gpg does not tell data that it could not read from data that was altered.
        if diagnosis.verdict == Verdict::Bad
            && let Err(e) = read_through(&file)
        {
            return Ok((unreadable(&e.to_string()), None));
        }
        Ok((diagnosis, None))
    }
}

fn read_through(mut file: &File) -> std::io::Result<u64> {
    file.rewind()?;
    std::io::copy(&mut file, &mut std::io::sink())
}

/// What is said of a package whose archive or signature is there and cannot be read.
fn unreadable(why: &str) -> Diagnosis {
    Diagnosis::without(
        Verdict::Unreadable,
        format!("its archive cannot be read here: {why}"),
        "dmesg says what the disk answered; verify again when that is mended",
    )
}

/// What is said of a package whose archive is not there.
#[must_use]
pub fn no_archive() -> Diagnosis {
    Diagnosis::without(
        Verdict::NoArchive,
        "its archive is not in the cache, and no repository has that version any more",
        "bring it up to date with strap, or put its archive and signature into the cache",
    )
}

fn no_signature() -> Diagnosis {
    Diagnosis::without(
        Verdict::Missing,
        "its archive has no signature, neither beside it in the cache nor in a repository's database",
        "where the repository has one, 'pacman -Sw' with the strict configuration fetches it",
    )
}
