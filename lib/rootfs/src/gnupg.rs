//! GnuPG homes for programs of the host: keys and trust as data, and our own configuration.
//!
//! gpg *runs* programs that its configuration names (`photo-viewer`, `agent-program`, `keyboxd-program` ...), and every caller
//! of gpg makes it read the configuration in its home, also pacman through GPGME. So a program of the host never gets a home
//! that a root or a mirror could have written to. It gets a tmpfs that ends with the namespaces, with copies of the few
//! files that hold keys and trust, and the gpg.conf below. The host's own `/etc/gnupg` is covered by an empty directory: a
//! `use-keyboxd` there would make gpg look for keys elsewhere, even with `--no-options`.

use crate::occupants::proc::open_path;
use crate::root;
use rustix::fs::{AtFlags, CWD, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use stage::{Code, Doing, Failure, quote};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The files of a home that hold keys and trust.
pub const FILES: [&str; 3] = ["pubring.gpg", "pubring.kbx", "trustdb.gpg"];

/// The largest of them that is read, in bytes: a hundred times Arch Linux's.
const LIMIT: u64 = 256 << 20;

/// The gpg.conf(5) of every home that a program of the host uses: gpg starts, asks and fetches nothing.
pub const CONFIGURATION: &str = "no-greeting\n\
    no-permission-warning\n\
    lock-never\n\
    no-autostart\n\
    no-auto-key-retrieve\n";

/// The system-wide configuration of gpg.
const HOST: &str = "/etc/gnupg";

/// Reads the keys and the trust from a home that is open as `directory`. Missing files are left out; a symbolic link or
/// another type of file is an error.
///
/// # Errors
///
/// As [`root::read`].
pub fn read_keys(directory: BorrowedFd<'_>) -> Result<Vec<(&'static str, Vec<u8>)>, Errno> {
    let mut files = Vec::new();
    for name in FILES {
        match root::read(directory, name, LIMIT) {
            Ok(bytes) => files.push((name, bytes)),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(files)
}

/// Returns whether a home has keys that [`read_keys`] does not read: those in the database of keyboxd, which gpg uses if the
/// home's common.conf has `use-keyboxd`.
#[must_use]
pub fn has_database(directory: BorrowedFd<'_>) -> bool {
    statat(directory, "public-keys.d", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Returns whether there is a key in files that [`read_keys`] returned. An empty keybox has a header of 32 bytes.
#[must_use]
pub fn has_keys(files: &[(&'static str, Vec<u8>)]) -> bool {
    files.iter().any(|(name, bytes)| match *name {
        "pubring.gpg" => !bytes.is_empty(),
        "pubring.kbx" => bytes.len() > 32,
        _ => false,
    })
}

/// Makes the directory `home`, which must not exist, with these files and [`CONFIGURATION`].
///
/// # Errors
///
/// [`Code::Os`] when it cannot be written.
pub fn lay_out<B: AsRef<[u8]>>(home: &Path, files: &[(&str, B)]) -> Result<(), Failure> {
    DirBuilder::new().mode(0o700).create(home).doing(Code::Os, || format!("making {}", quote(home)))?;
    fill(home, files)
}

/// Writes a home into an empty directory.
fn fill<B: AsRef<[u8]>>(home: &Path, files: &[(&str, B)]) -> Result<(), Failure> {
    let write = |name: &str, bytes: &[u8]| {
        let path = home.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(bytes)).doing(Code::Os, || format!("writing {}", quote(&path)))
    };
    for (name, bytes) in files {
        write(name, bytes.as_ref())?;
    }
    write("gpg.conf", CONFIGURATION.as_bytes())
}

/// Mounts an empty tmpfs over a directory, in our namespaces.
///
/// # Errors
///
/// [`Code::Permission`] when it cannot be mounted.
fn mount_tmpfs(at: &Path) -> Result<(), Failure> {
    mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, Some(c"mode=0700"))
        .doing(Code::Permission, || format!("mounting a tmpfs on {}, inside", quote(at)))
}

/// The directory for homes where nothing can be mounted, and this is an entry: set once in its process.
static SCRATCH: OnceLock<PathBuf> = OnceLock::new();

/// Makes this process, an entry in mode `chroot`, use a directory of its own where a tmpfs would be mounted.
pub(crate) fn use_scratch(directory: &Path) {
    SCRATCH.get_or_init(|| directory.join("k"));
}

/// Mounts a tmpfs for scratch homes and trees, inside ([`crate::Place::Host`]): it ends with the entry, and nobody else sees it.
/// Returns a path on it. The path is short, since the path of an agent's socket below it may have 108 bytes (unix(7)). It may cover a
/// directory of the host's: open what is below that before.
///
/// # Errors
///
/// When it cannot be mounted.
pub fn mount_scratch() -> Result<&'static Path, Failure> {
    if let Some(path) = SCRATCH.get() {
        return Ok(path);
    }
    hide_host_configuration()?;
    mount_tmpfs(Path::new("/run"))?;
    Ok(Path::new("/run/k"))
}

/// Covers the system-wide configuration of gpg, in our namespaces.
///
/// # Errors
///
/// As [`mount_tmpfs`].
pub(crate) fn hide_host_configuration() -> Result<(), Failure> {
    Some(Path::new(HOST)).filter(|host| host.is_dir()).map_or(Ok(()), mount_tmpfs)
}

/// Makes the directory of a home if there is none: pacman 7.1 fails without its GPGDir.
///
/// # Errors
///
/// When it cannot be made.
pub(crate) fn make(home: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(home) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).doing(Code::Failed, || format!("making {}", quote(home)))
        }
        _ => Ok(()),
    }
}

/// Covers a home of the host by a tmpfs with copies of its keys and its trust, in our namespaces: programs there cannot
/// change it, and read no configuration but ours.
///
/// # Errors
///
/// When it cannot be read or mounted.
pub(crate) fn cover(home: &Path) -> Result<(), Failure> {
    let files = read_home(home)?;
    mount_tmpfs(home)?;
    fill(home, &files)
}

/// Makes a copy of a home of the host, with its keys and its trust, where none can be covered.
///
/// # Errors
///
/// When it cannot be read or written.
pub(crate) fn copy(home: &Path, to: &Path) -> Result<(), Failure> {
    lay_out(to, &read_home(home)?)
}

fn read_home(home: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let doing = || format!("copying the keyring {}", quote(home));
    let directory = open_path(CWD, home).doing(Code::Os, doing)?;
    read_keys(directory.as_fd()).doing(Code::Failed, doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_keys_and_trust_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        for name in ["pubring.kbx", "trustdb.gpg", "gpg.conf", "common.conf", "x"] {
            fs::write(from.join(name), name).unwrap();
        }
        fs::create_dir(from.join("private-keys-v1.d")).unwrap();
        let open = fs::File::open(&from).unwrap();
        let files = read_keys(open.as_fd()).unwrap();
        let home = dir.path().join("home");
        lay_out(&home, &files).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["gpg.conf", "pubring.kbx", "trustdb.gpg"]);
        assert_eq!(fs::read_to_string(home.join("gpg.conf")).unwrap(), CONFIGURATION);

        fs::remove_file(from.join("trustdb.gpg")).unwrap();
        symlink("/etc/passwd", from.join("trustdb.gpg")).unwrap();
        assert_eq!(read_keys(open.as_fd()), Err(Errno::LOOP));
        fs::remove_file(from.join("trustdb.gpg")).unwrap();
        nix::unistd::mkfifo(&from.join("trustdb.gpg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_keys(open.as_fd()), Err(Errno::INVAL));
    }
}
