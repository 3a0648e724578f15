//! The host's gpg as the judge of signatures.
//!
//! gpg is what pacman asks, through GPGME, so gpg's verdict is pacman's. gpg *runs* what a home's configuration names, so
//! it works in a scratch home ([`rootfs::gnupg`]): keys and trust are copied as data, the configuration is ours, and secret
//! keys stay where they are.

use super::listing::{self, Certificate, Keys};
use rootfs::gnupg;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, child, quote};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// pacman's keyring below a root, which is for the programs of the root.
pub const AT: &str = "etc/pacman.d/gnupg";

/// The host's gpg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpg {
    program: PathBuf,
    version: (u32, u32, u32),
}

/// Finds gpg in the caller's `PATH`; `None` where there is none.
fn search() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        // A link is followed now: inside, the link may be hidden (NixOS has it in /run).
        .filter_map(|directory| directory.join("gpg").canonicalize().ok())
        .find(is_program)
}

/// The environment of a program of the host that starts gpg by itself, as pacman does: what is found there is the gpg that
/// [`Gpg::find`] finds, also where that is in no directory that every host has (Nix, Guix, /opt).
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    environment_of(search().as_deref())
}

/// [`environment`], for a gpg that was found already.
fn environment_of(program: Option<&Path>) -> Vec<(OsString, OsString)> {
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
            Failure::new(
                Code::NotFound,
                format!("looking for gpg on this host: {why}"),
            )
            .hint("sudo apt-get install gnupg (pacman -S gnupg, dnf install gnupg2)")
        };
        let program = search().ok_or_else(|| missing("there is none in PATH"))?;
        let mut command = child::command(&program);
        // Without a home of the caller's, of whose options gpg would complain on our stderr.
        command.args(["--version", "--homedir", "/nonexistent"]);
        rootfs::die_with_us(&mut command);
        let out = child::output(&mut command)?;
        let version = version(&String::from_utf8_lossy(&out.stdout))
            .ok_or_else(|| missing(&format!("{} does not say its version", quote(&program))))?;
        if version < (2, 1, 0) {
            return Err(missing("it is older than 2.1"));
        }
        Ok(Self { program, version })
    }

    /// Returns its version.
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// Returns a command of gpg that has no home yet, in the environment that programs of the host get.
    #[must_use]
    pub fn without_home(&self) -> Command {
        let mut command = child::command(&self.program);
        command
            .env_clear()
            .envs(environment_of(Some(&self.program)));
        command
    }

    /// Returns a command of gpg in a home that [`rootfs::gnupg::lay_out`] made. Nobody is there to be asked.
    #[must_use]
    pub fn command(&self, home: &Path) -> Command {
        let mut command = self.without_home();
        command.arg("--homedir").arg(home);
        command.args(["--no-options", "--no-permission-warning", "--lock-never"]);
        command.args(["--batch", "--no-tty", "--quiet", "--pinentry-mode=cancel"]);
        command
    }
}

/// Returns the version in `gpg (GnuPG) 2.2.40`, the first line of what gpg says.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.lines().next()?.split_whitespace().nth(2)?;
    let mut numbers = word.split(['.', '-']).map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Makes room for a scratch home, inside ([`rootfs::Place::Host`]): a tmpfs that ends with the namespaces and that nobody else
/// sees, over a directory of the host's. Returns a path on it that is as short as can be, since an agent's socket below it
/// may have 108 bytes (unix(7)). What is below that directory is to be opened before.
///
/// # Errors
///
/// When it cannot be mounted.
pub fn scratch() -> Result<&'static Path, Failure> {
    gnupg::hide_host_configuration()?;
    gnupg::mount_tmpfs(Path::new("/run"))?;
    Ok(Path::new("/run/k"))
}

/// A file of the home that `keyring` fills beside a root: the SHA-256 of the secret keys and the fingerprints that are the
/// root's own, one a line.
pub const OWN: &str = "own-keys";

/// Another one: the names of the keys that are valid though no pinned key vouches for them, one a line.
pub const EXTENDED: &str = "extended-keys";

/// The longest of both, in bytes.
const LIST: u64 = 1 << 20;

/// A home that is kept, open: its keys and its trust are read before [`scratch`] covers what may be above it.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    files: Vec<(&'static str, Vec<u8>)>,
    own: Vec<String>,
    extended: Vec<String>,
}

impl Kept {
    /// Reads the keys and the trust of a home that `keyring` filled.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where there are no keys, and when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let none = || {
            let message = format!(
                "looking for the keyring {}: there is none, so nothing can be verified",
                quote(path)
            );
            Failure::new(Code::NotVerified, message).hint("put 'keyring' before this tool")
        };
        let doing = || format!("reading the keyring {}", quote(path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory: OwnedFd = match openat(CWD, path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Err(none()),
            Err(e) => return Err(e).doing(Code::Failed, doing),
        };
        let files = gnupg::read_keys(directory.as_fd()).doing(Code::Failed, doing)?;
        if !gnupg::has_keys(&files) {
            return Err(none());
        }
        let lines = |name: &str| -> Result<Vec<String>, Failure> {
            let bytes = match rootfs::root::read(directory.as_fd(), name, LIST) {
                Err(Errno::NOENT) => Vec::new(),
                read => read.doing(Code::Failed, doing)?,
            };
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.lines().map(str::to_owned).collect())
        };
        Ok(Self {
            own: lines(OWN)?,
            extended: lines(EXTENDED)?,
            path: path.to_owned(),
            files,
        })
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the SHA-256 of the secret keys and the fingerprints that are the root's own.
    #[must_use]
    pub fn own(&self) -> &[String] {
        &self.own
    }

    /// Returns the names of the keys that are valid though no pinned key vouches for them.
    #[must_use]
    pub fn extended(&self) -> &[String] {
        &self.extended
    }

    /// Returns its files: name and content.
    #[must_use]
    pub fn files(&self) -> &[(&'static str, Vec<u8>)] {
        &self.files
    }
}

/// A scratch home with public keys and trust. It is made inside, on a file system that ends with the namespaces.
#[derive(Debug)]
pub struct Home<'a> {
    gpg: &'a Gpg,
    path: PathBuf,
    next: AtomicUsize,
}

impl<'a> Home<'a> {
    /// Lays out these files at `scratch`, a directory that is not there yet.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn lay_out(
        gpg: &'a Gpg,
        files: &[(&'static str, Vec<u8>)],
        scratch: &Path,
    ) -> Result<Self, Failure> {
        gnupg::lay_out(scratch, files)?;
        Ok(Self {
            gpg,
            path: scratch.to_owned(),
            next: AtomicUsize::new(0),
        })
    }

    /// Returns gpg's version.
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.gpg.version
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.gpg.command(&self.path);
        command.arg("--logger-file=/dev/null").args(args);
        command
    }

    /// Lists the keys. Where the time has come for it (a key expired since), gpg computes the trust anew first, as it
    /// does for pacman.
    ///
    /// # Errors
    ///
    /// When gpg fails, or sees no key.
    pub fn keys(&self) -> Result<Keys, Failure> {
        let doing = || "listing the keys of the keyring";
        let out = child::output(&mut self.command(&["--with-colons", "--list-keys"]))?;
        if !out.status.success() {
            let why = child::ended(out.status);
            return Err(Failure::new(
                Code::ChildFailed,
                format!("{}: gpg: {why}", doing()),
            ));
        }
        let keys = Keys::parse(&out.stdout);
        if keys.list.is_empty() {
            return Err(
                Failure::new(Code::Failed, format!("{}: gpg finds none in it", doing()))
                    .hint("run 'keyring' again, which makes it from nothing"),
            );
        }
        Ok(keys)
    }

    /// Returns the signatures on a key; none where gpg cannot say.
    #[must_use]
    pub fn certificates(&self, fingerprint: &str) -> Vec<Certificate> {
        let args = [
            "--no-auto-check-trustdb",
            "--with-colons",
            "--check-signatures",
            "--",
            fingerprint,
        ];
        let out = child::output(&mut self.command(&args));
        out.map(|out| listing::certificates(&out.stdout))
            .unwrap_or_default()
    }

    /// Checks a detached signature of what `data` holds. Several threads may do so at a time.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run. What it finds is no error.
    pub fn verify(&self, signature: &[u8], data: File) -> Result<Vec<Signature>, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.path.join(format!("{number}.sig"));
        write(&file, signature)?;
        let path = file.to_string_lossy();
        let args = [
            "--no-auto-check-trustdb",
            "--status-fd=1",
            "--verify",
            "--",
            &path,
            "-",
        ];
        let out = child::output(self.command(&args).stdin(data))?;
        std::fs::remove_file(&file).doing(Code::Os, || format!("removing {}", quote(&file)))?;
        Ok(status(&String::from_utf8_lossy(&out.stdout)))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .doing(Code::Os, || format!("writing {}", quote(path)))
}

/// One signature of a signature file, as gpg sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Who made it: a fingerprint, or a long key id where that is all that there is.
    pub key: String,
    /// What gpg finds.
    pub state: State,
}

/// What gpg finds of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is of this data.
    Good(Good),
    /// It is not of this data, or cannot be checked.
    Bad,
    /// The key is not there.
    NoKey,
    /// It is of this data, but expired then.
    Expired(Option<u64>),
    /// It is of this data; its key expired.
    KeyExpired,
    /// It is of this data; its key is revoked.
    KeyRevoked,
}

/// How far a key is trusted to be whose it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Good {
    /// Fully, or ultimately.
    Trusted,
    /// Marginally.
    Marginal,
    /// Not, or it is not known.
    Unknown,
}

/// Reads gpg's status lines (doc/DETAILS).
fn status(text: &str) -> Vec<Signature> {
    let mut signatures: Vec<Signature> = Vec::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("[GNUPG:] ") else {
            continue;
        };
        let words: Vec<&str> = line.split(' ').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or("");
        let state = match word(0) {
            "GOODSIG" => State::Good(Good::Unknown),
            "BADSIG" => State::Bad,
            "EXPSIG" => State::Expired(None),
            "EXPKEYSIG" => State::KeyExpired,
            "REVKEYSIG" => State::KeyRevoked,
            // 9: no public key.
            "ERRSIG" if word(6) == "9" => State::NoKey,
            "ERRSIG" => State::Bad,
            "VALIDSIG" => {
                if let Some(last) = signatures.last_mut() {
                    last.key = word(1).to_owned();
                    if last.state == State::Expired(None) {
                        last.state = State::Expired(word(4).parse().ok().filter(|on| *on > 0));
                    }
                }
                continue;
            }
            trust if trust.starts_with("TRUST_") => {
                let good = match trust {
                    "TRUST_FULLY" | "TRUST_ULTIMATE" => Good::Trusted,
                    "TRUST_MARGINAL" => Good::Marginal,
                    _ => Good::Unknown,
                };
                if let Some(last) = signatures.last_mut()
                    && matches!(last.state, State::Good(_))
                {
                    last.state = State::Good(good);
                }
                continue;
            }
            _ => continue,
        };
        // ERRSIG has the fingerprint in its last field, since 2.2.7; without one there is a dash.
        let key = match word(7) {
            fingerprint if word(0) == "ERRSIG" && fingerprint.len() >= 40 => fingerprint,
            _ => word(1),
        };
        signatures.push(Signature {
            key: key.to_owned(),
            state,
        });
    }
    signatures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_gpg() {
        assert_eq!(version("gpg (GnuPG) 2.2.40\nlib\n"), Some((2, 2, 40)));
        assert_eq!(version("gpg (GnuPG) 2.5.0-beta31"), Some((2, 5, 0)));
        for bad in ["", "gpg", "gpg (GnuPG) x.y"] {
            assert_eq!(version(bad), None);
        }
    }

    #[test]
    fn what_gpg_says_of_signatures() {
        const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let id = &A[24..];
        let table = [
            (
                format!(
                    "GOODSIG {id} x\n[GNUPG:] VALIDSIG {A} 2026-01-01 1 0 4 0 1 10 00 {A}\n[GNUPG:] TRUST_FULLY 0 pgp"
                ),
                A,
                State::Good(Good::Trusted),
            ),
            (
                format!("GOODSIG {id} x\n[GNUPG:] TRUST_MARGINAL 0 pgp"),
                id,
                State::Good(Good::Marginal),
            ),
            (
                format!("GOODSIG {id} x\n[GNUPG:] TRUST_UNDEFINED 0 pgp"),
                id,
                State::Good(Good::Unknown),
            ),
            (format!("BADSIG {id} x"), id, State::Bad),
            (
                format!("EXPKEYSIG {id} x\n[GNUPG:] TRUST_FULLY 0 pgp"),
                id,
                State::KeyExpired,
            ),
            (
                format!(
                    "EXPSIG {id} x\n[GNUPG:] VALIDSIG {A} 2026-01-01 1 1700000000 4 0 1 10 00 {A}"
                ),
                A,
                State::Expired(Some(1_700_000_000)),
            ),
            (format!("REVKEYSIG {id} x"), id, State::KeyRevoked),
            (
                format!("ERRSIG {id} 1 8 00 1795000000 9 {A}\n[GNUPG:] NO_PUBKEY {id}"),
                A,
                State::NoKey,
            ),
            (
                format!("ERRSIG {id} 1 8 00 1795000000 9 -"),
                id,
                State::NoKey,
            ),
            (format!("ERRSIG {id} 1 8 00 1795000000 4 -"), id, State::Bad),
        ];
        for (text, key, state) in table {
            let text = format!("gpg: x\n[GNUPG:] NEWSIG\n[GNUPG:] {text}\n");
            let expected = Signature {
                key: key.to_owned(),
                state,
            };
            assert_eq!(status(&text), [expected], "{text}");
        }
        assert_eq!(
            status("[GNUPG:] NODATA 4\n[GNUPG:] TRUST_FULLY\n[GNUPG:] \n"),
            []
        );
    }
}
