//! Files of the host that a document names: a program, a configuration, an archive in the cache.
//!
//! The document is untrusted input, and a path in it may lead to a fifo that nobody writes, or to a device that never
//! ends. So such a file is opened without waiting for anybody, must be a regular one, and is read up to a limit.

use crate::{Code, Doing, Failure, quote};
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest configuration that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Opens a regular file to read. Symbolic links are followed: it is a path of the host.
///
/// # Errors
///
/// The system call's; [`ErrorKind::InvalidInput`] where it is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a device can do something, as rewinding a tape: what it is is asked first, and again of what was opened.
    let regular = |meta: std::fs::Metadata| match meta.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    };
    regular(path.metadata()?)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    regular(file.metadata()?)?;
    Ok(file)
}

/// Reads a configuration file, of at most 1 MiB.
///
/// # Errors
///
/// [`Code::NotFound`] where there is none, else [`Code::Failed`].
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let doing = || format!("reading {}", quote(path));
    let file = open(path).map_err(|e| {
        let code = match e.kind() {
            ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        Failure::new(code, format!("{}: {e}", doing()))
    })?;
    let mut text = String::new();
    file.take(LONGEST + 1)
        .read_to_string(&mut text)
        .doing(Code::Failed, doing)?;
    if text.len() as u64 > LONGEST {
        return Err(Failure::new(
            Code::Failed,
            format!("{}: it is longer than {LONGEST} bytes", doing()),
        ));
    }
    Ok(text)
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
        File::create(path("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert_eq!(read_text(&path("file")).unwrap(), "text");
        assert_eq!(read_text(&path("link")).unwrap(), "text");
        for (name, code, why) in [
            ("fifo", Code::Failed, "it is no regular file"),
            (".", Code::Failed, "it is no regular file"),
            ("/dev/zero", Code::Failed, "it is no regular file"),
            ("sparse", Code::Failed, "it is longer than 1048576 bytes"),
            ("none", Code::NotFound, "No such file"),
        ] {
            let failure = read_text(&path(name)).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(why), "{failure}");
        }
    }
}
