//! Files of the host that a document or the command line names: a program, a configuration, an archive in the cache.
//!
//! The document is untrusted input: its paths may lead to a FIFO without a writer, or to a device without an end. So such
//! a file is opened without waiting, must be a regular file, and is read up to a limit.

use crate::{Code, Doing, Failure, quote};
use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest configuration that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Opens a regular file to read. Symbolic links are followed: it is a path of the host.
///
/// # Errors
///
/// The system call's; [`ErrorKind::InvalidInput`] when it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a device can have an effect, such as rewinding a tape: the type is checked before, and again after.
    let check = |meta: Metadata| match meta.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "is not a regular file")),
    };
    check(path.metadata()?)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

/// Reads to the end.
///
/// # Errors
///
/// The system call's; [`ErrorKind::FileTooLarge`] when there are more than `limit` bytes.
pub fn read_to_limit(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("is longer than {limit} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Reads a configuration file, of at most 1 MiB.
///
/// # Errors
///
/// [`Code::NotFound`] when there is none, else [`Code::Failed`].
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let doing = || format!("reading {}", quote(path));
    let bytes = open(path).and_then(|file| read_to_limit(file, LONGEST));
    let code = match &bytes {
        Err(e) if e.kind() == ErrorKind::NotFound => Code::NotFound,
        _ => Code::Failed,
    };
    String::from_utf8(bytes.doing(code, doing)?).doing(Code::Failed, doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;

    #[test]
    fn only_a_regular_file_of_some_length_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        File::create(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_text(&path("file")).unwrap(), "text");
        assert_eq!(read_text(&path("link")).unwrap(), "text");
        for (name, code, why) in [
            ("fifo", Code::Failed, "is not a regular file"),
            (".", Code::Failed, "is not a regular file"),
            ("/dev/zero", Code::Failed, "is not a regular file"),
            ("sparse", Code::Failed, "is longer than 1048576 bytes"),
            ("none", Code::NotFound, "No such file"),
        ] {
            let failure = read_text(&path(name)).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(why), "{failure}");
        }
    }
}
