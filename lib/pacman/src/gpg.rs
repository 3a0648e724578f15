//! The host's gpg, which alone decides on signatures and trust.
//!
//! pacman asks gpg too, through GPGME, so gpg's verdict is pacman's. gpg *runs* programs that the configuration in its home
//! names, so it works in a scratch home ([`rootfs::gnupg`]): keys and trust are copied as data, the configuration is ours, and
//! secret keys stay where they are.

pub mod detached;
pub mod listing;
pub mod sign;
pub mod status;
pub mod together;

use crate::records::if_exists;
use listing::{Certificate, Keys};
use rootfs::gnupg;
pub use rootfs::gnupg::mount_scratch;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, child, quote};
use status::Signature;
use std::borrow::BorrowMut;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// pacman's keyring below a root, which is for the programs of the root.
pub const AT: &str = "etc/pacman.d/gnupg";

/// The host's gpg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpg {
    program: PathBuf,
    /// Its version.
    pub version: (u32, u32, u32),
}

/// Returns the environment of a program of the host that starts gpg by itself, as pacman does. It finds the same gpg as
/// [`Gpg::find`], also where that is in no standard directory (Nix, Guix, /opt).
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    environment_with(child::find("gpg").as_deref())
}

fn environment_with(program: Option<&Path>) -> Vec<(OsString, OsString)> {
    let mut environment = rootfs::session::environment();
    if let Some(directory) = program.and_then(Path::parent) {
        for (_, value) in environment.iter_mut().filter(|(key, _)| key == "PATH") {
            let mut path = directory.as_os_str().to_owned();
            path.push(":");
            path.push(&value);
            *value = path;
        }
    }
    environment
}

impl Gpg {
    /// Finds gpg on the host.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where there is none, or one from before 2.1.
    pub fn find() -> Result<Self, Failure> {
        let missing = |why: &str| {
            Failure::new(Code::NotFound, format!("looking for gpg on this host: {why}"))
                .hint("sudo apt-get install gnupg (pacman -S gnupg, dnf install gnupg2)")
        };
        let program = child::find("gpg").ok_or_else(|| missing("there is none in PATH"))?;
        let mut command = child::command(&program);
        // Not the caller's home: gpg would complain of options in it on our stderr.
        command.args(["--version", "--homedir", "/nonexistent"]);
        rootfs::die_with_us(&mut command);
        let out = child::output(&mut command)?;
        let version = parse_version(&String::from_utf8_lossy(&out.stdout))
            .ok_or_else(|| missing(&format!("{} does not say its version", quote(&program))))?;
        if version < (2, 1, 0) {
            return Err(missing("it is older than 2.1"));
        }
        Ok(Self { program, version })
    }

    /// Returns a command of gpg with this home and no options of its user's. Nothing is asked, and nothing is locked.
    #[must_use]
    pub fn command(&self, home: &Path) -> Command {
        let mut command = child::command(&self.program);
        command.env_clear().envs(environment_with(Some(&self.program)));
        command.arg("--homedir").arg(home).args([
            "--no-options",
            "--no-permission-warning",
            "--lock-never",
            "--batch",
            "--no-tty",
            "--quiet",
            "--pinentry-mode=cancel",
        ]);
        command
    }
}

/// Returns the version in `gpg (GnuPG) 2.2.40`, the first line that gpg prints.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.lines().next()?.split_whitespace().nth(2)?;
    let mut numbers = word.split(['.', '-']).map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// How a run of gpg ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// What it printed on stdout.
    pub stdout: Vec<u8>,
    /// The first error that it printed on stderr, without `gpg:`; else how it ended.
    pub error: String,
}

impl Output {
    /// Returns what it printed on stdout.
    ///
    /// # Errors
    ///
    /// [`Code::ChildFailed`] where it did not exit with 0.
    pub fn succeeded(self, doing: &str) -> Result<Vec<u8>, Failure> {
        if self.success { Ok(self.stdout) } else { Err(failure(doing, &self.error)) }
    }
}

/// Returns the failure of a gpg that did not do what it was run for.
#[must_use]
pub fn failure(doing: &str, why: &str) -> Failure {
    Failure::new(Code::ChildFailed, format!("{doing}: gpg: {why}"))
}

/// Runs gpg to its end. Its messages go into memory, and never where its status lines go: there they could pass for those.
///
/// # Errors
///
/// When it cannot be run, or is killed. An exit status other than 0 is no error.
pub fn run(command: &mut Command) -> Result<Output, Failure> {
    run_with(command, child::output)
}

/// Runs gpg as [`run`] does, with `output`, which runs the command.
fn run_with<C: BorrowMut<Command>>(
    mut command: C,
    output: impl FnOnce(C) -> Result<child::Output, Failure>,
) -> Result<Output, Failure> {
    let doing = || "running gpg";
    let mut messages = memory_file(&[])?;
    command.borrow_mut().stderr(messages.try_clone().doing(Code::Os, doing)?);
    rootfs::die_with_us(command.borrow_mut());
    let out = output(command)?;
    let ended = child::ended(out.status);
    if out.status.code().is_none() {
        return Err(Failure::new(Code::ChildFailed, format!("running gpg: {ended}")));
    }
    let mut text = Vec::new();
    messages.rewind().and_then(|()| messages.take(1 << 16).read_to_end(&mut text)).doing(Code::Os, doing)?;
    // The first error says what is wrong, the others what follows from it.
    let text = String::from_utf8_lossy(&text);
    let error = text
        .lines()
        .filter_map(|line| line.strip_prefix("gpg: "))
        .find(|line| !line.starts_with("WARNING"))
        .map_or(ended, |line| line.trim_end_matches('.').chars().take(200).collect());
    Ok(Output { success: out.status.success(), stdout: out.stdout, error })
}

/// Returns a file in memory with this content, at its beginning.
///
/// # Errors
///
/// The system call's.
pub fn memory_file(bytes: &[u8]) -> Result<File, Failure> {
    let doing = || "making a file in memory for gpg";
    let mut file = File::from(memfd_create("gpg", MemfdFlags::CLOEXEC).doing(Code::Os, doing)?);
    file.write_all(bytes).and_then(|()| file.rewind()).doing(Code::Os, doing)?;
    Ok(file)
}

/// A file of the home that `keyring` fills beside a root: the SHA-256 of the secret keys and the fingerprints that are the
/// root's own, one a line.
pub const OWN: &str = "own-keys";

/// Another one: the names of the keys that are valid though no pinned key certifies them, one a line.
pub const EXTENDED: &str = "extended-keys";

/// The longest of both, in bytes.
const LIST: u64 = 1 << 20;

/// Keys and trust: names and contents, as [`gnupg::read_keys`] returns them.
pub type PublicFiles = Vec<(&'static str, Vec<u8>)>;

/// The keyring beside a root, read before [`mount_scratch`] covers what may be above it.
#[derive(Debug)]
pub struct StoredKeyring {
    /// The files with keys and trust: name and content.
    pub files: PublicFiles,
    /// The SHA-256 of the secret keys and the fingerprints that are the root's own.
    pub own: Vec<String>,
    /// The names of the keys that are valid though no pinned key certifies them.
    pub extended: Vec<String>,
}

impl StoredKeyring {
    /// Reads the keys and the trust of a home that `keyring` filled.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where there are no keys, and when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let none = || {
            let message = format!("looking for the keyring {}: there is none, so nothing can be verified", quote(path));
            Failure::new(Code::NotVerified, message).hint("put 'keyring' before this tool")
        };
        let doing = || format!("reading the keyring {}", quote(path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = if_exists(openat(CWD, path, flags, Mode::empty())).doing(Code::Failed, doing)?;
        let directory = directory.ok_or_else(none)?;
        let files = gnupg::read_keys(directory.as_fd()).doing(Code::Failed, doing)?;
        if !gnupg::has_keys(&files) {
            return Err(none());
        }
        let lines = |name| read_lines(directory.as_fd(), name).doing(Code::Failed, doing);
        Ok(Self { own: lines(OWN)?, extended: lines(EXTENDED)?, files })
    }
}

/// Reads one of the lists [`OWN`] and [`EXTENDED`]; an empty one where there is none.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_lines(directory: BorrowedFd<'_>, name: &str) -> Result<Vec<String>, Errno> {
    let bytes = if_exists(rootfs::root::read(directory, name, LIST))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// A scratch home. It is made inside, on a file system that ends with the namespaces.
#[derive(Debug)]
pub struct Home<'a> {
    /// The gpg that works in it.
    pub gpg: &'a Gpg,
    /// Its directory.
    pub path: PathBuf,
}

impl<'a> Home<'a> {
    /// Makes the directory `path`, which must not exist, with these files and our configuration.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create<B: AsRef<[u8]>>(gpg: &'a Gpg, path: &Path, files: &[(&str, B)]) -> Result<Self, Failure> {
        gnupg::lay_out(path, files)?;
        Ok(Self { gpg, path: path.to_owned() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.gpg.command(&self.path);
        command.args(args);
        command
    }

    /// Runs gpg in it. The trust database is left as it is.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn run(&self, args: &[&str]) -> Result<Output, Failure> {
        run(self.command(&["--no-auto-check-trustdb"]).args(args))
    }

    /// Lists keys: `what` is gpg's command for that. Where it is time for that (a key expired since), gpg updates the trust
    /// database first, as it does for pacman.
    ///
    /// # Errors
    ///
    /// When gpg fails.
    pub fn list(&self, what: &str) -> Result<Keys, Failure> {
        let out = run(&mut self.command(&["--with-colons", what]))?;
        Ok(Keys::parse(&out.succeeded("listing the keys of the keyring")?))
    }

    /// Lists the public keys.
    ///
    /// # Errors
    ///
    /// As [`Home::list`], and when there is none.
    pub fn keys(&self) -> Result<Keys, Failure> {
        let keys = self.list("--list-keys")?;
        if keys.list.is_empty() {
            let message = "listing the keys of the keyring: gpg finds none in it";
            return Err(Failure::new(Code::Failed, message).hint("run 'keyring' again: it builds a new one"));
        }
        Ok(keys)
    }

    /// Returns the certificates of a key; none where gpg cannot check them.
    #[must_use]
    pub fn certificates(&self, fingerprint: &str) -> Vec<Certificate> {
        let out = self.run(&["--with-colons", "--check-signatures", "--", fingerprint]);
        out.map(|out| listing::certificates(&out.stdout)).unwrap_or_default()
    }

    /// Checks a detached signature of what `data` holds. Several threads may do so at a time.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run. What it finds is no error.
    pub fn verify(&self, signature: &[u8], data: File) -> Result<Vec<Signature>, Failure> {
        let doing = || format!("writing a signature in {}", quote(&self.path));
        let mut file = tempfile::NamedTempFile::new_in(&self.path).doing(Code::Os, doing)?;
        file.write_all(signature).doing(Code::Os, doing)?;
        let mut command = self.command(&["--no-auto-check-trustdb", "--status-fd=1", "--verify"]);
        command.arg("--").arg(file.path()).arg("-").stdin(data);
        let out = run(&mut command)?;
        Ok(status::parse(&String::from_utf8_lossy(&out.stdout)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_gpg() {
        assert_eq!(parse_version("gpg (GnuPG) 2.2.40\nlib\n"), Some((2, 2, 40)));
        assert_eq!(parse_version("gpg (GnuPG) 2.5.0-beta31"), Some((2, 5, 0)));
        for bad in ["", "gpg", "gpg (GnuPG) x.y"] {
            assert_eq!(parse_version(bad), None);
        }
    }
}
