//! The keys to check a signature with: those of the repository's keyring package, or of the user's files.
//!
//! Keys alone give no trust: the keyring package's own signature could only be checked with the keys in it. A key counts if its
//! fingerprint is pinned, see [`crate::verify`].
//!
//! gpg runs without a home: keys and signature are files in memory, the home that it is given does not exist, and it writes
//! nothing. So there is nothing to clean up, whatever ends it or us, and no agent is started.
//!
//! A fingerprint shows whose key it is, but not that it has not expired: the owner says that in a signature, in the same
//! keyring. A mirror could remove that, in two ways:
//!
//! * gpg notes in a keyring which signatures it found good, and believes the notes, which can be forged. Hence
//!   `--no-sig-cache`; and gpg imports the keys first, which drops the notes, signatures that are not good, and armor.
//! * Debian's gpg 2.4 takes a key without self-signatures for one that never expires. Hence
//!   `--no-allow-non-selfsigned-uid`.

use nix::unistd::getpid;
use package::archive::extract_members;
use pacman::gpg::status::{self, Signature, State};
use pacman::gpg::{self, Gpg, memory_file};
use stage::file::read_to_limit;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::io::{ErrorKind, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The largest keyring: Arch's, with 164 keys, has 2 MB.
const LIMIT: u64 = 16 << 20;

/// What every call has, besides the options of [`Gpg::command`].
const OPTIONS: [&str; 7] = [
    "--no-autostart",
    "--no-auto-check-trustdb",
    "--no-auto-key-retrieve",
    "--trust-model=always",
    "--no-sig-cache",
    "--no-allow-non-selfsigned-uid",
    "--no-default-keyring",
];

/// A hint where the repository's keyring package does not help.
pub(crate) const OTHER_KEYS: &str = "give the key that signs the package with --keyring FILE, or take the package by its \
                                     hash alone with --unsigned";

/// A hint where the signature is missing or not good.
pub(crate) const UNSIGNED: &str = "name another --server URL, or take the package by its hash alone with --unsigned";

/// Keys, and where they are from.
#[derive(Clone, Debug)]
pub(crate) struct Keyring {
    /// As gpg exports them.
    keys: Vec<u8>,
    /// Its name in messages.
    pub(crate) name: String,
}

/// Finds gpg, and tries it on an empty keyring. Since 2.3 it always reads the host's common.conf: that may make it look for
/// keys elsewhere, and then it finds the key of no signature.
pub(crate) fn find_gpg(context: &Context) -> Result<Gpg, Failure> {
    let gpg = Gpg::find()?;
    let empty = memory_file(&[])?;
    let out = run(context, command(&gpg, &empty).arg("--list-keys"))?;
    if out.success {
        return Ok(gpg);
    }
    Err(Failure::new(Code::ChildFailed, format!("trying gpg on an empty keyring: gpg: {}", out.error))
        .hint("'use-keyboxd' or an unknown option in the host's '/etc/gnupg/common.conf' causes this: remove it there"))
}

/// Returns the name of the package with a repository's keys.
pub(crate) fn package_name(repo: &str) -> String {
    format!("{repo}-keyring")
}

impl Keyring {
    /// Reads the keys in a repository's keyring package.
    pub(crate) fn from_package(context: &Context, gpg: &Gpg, mut file: &File, repo: &str) -> Result<Self, Failure> {
        let fail = |why: String| Failure::new(Code::NotVerified, why).hint(OTHER_KEYS);
        let member = format!("usr/share/pacman/keyrings/{repo}.gpg");
        file.rewind().doing(Code::Os, || "reading the keyring package")?;
        let mut members = extract_members(file, &[&member], LIMIT).map_err(|e| fail(e.to_string()))?;
        let bytes = members.remove(&member).unwrap_or_default();
        let keys =
            import(context, gpg, &bytes)?.map_err(|why| fail(format!("no keys in its member '{member}': {why}")))?;
        Ok(Self { keys, name: format!("package {}", quote(package_name(repo))) })
    }

    /// Reads the keys in some files.
    pub(crate) fn from_files(context: &Context, gpg: &Gpg, paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        for path in paths {
            let bytes = read_keys(path)?;
            let imported = import(context, gpg, &bytes)?.map_err(|why| {
                let message = format!("reading keyring {}: no keys in it: {why}", quote(path));
                Failure::new(Code::Failed, message).hint("give one that 'gpg --export' writes, with --armor or without")
            });
            keys.extend(imported?);
        }
        Ok(Self { keys, name: paths.iter().map(quote).collect::<Vec<_>>().join(", ") })
    }

    /// Returns the signatures in a detached signature file, which must be nothing else.
    pub(crate) fn check(
        &self,
        context: &Context,
        gpg: &Gpg,
        signature: &[u8],
        file: &File,
    ) -> Result<Vec<Signature>, Failure> {
        let (keys, signature) = (memory_file(&self.keys)?, memory_file(signature)?);
        let mut command = command(gpg, &keys);
        command.args(["--status-fd=1", "--verify"]);
        command.args([path_of(&signature), path_of(file)]);
        let out = run(context, &mut command)?;
        let signatures = status::parse(&String::from_utf8_lossy(&out.stdout));
        let is_good = |signature: &Signature| matches!(signature.state, State::Good(_));
        let what = match signatures.is_empty() {
            true => "not a signature: ",
            false if out.success || !signatures.iter().all(is_good) => return Ok(signatures),
            false => "",
        };
        let message = format!("its signature cannot be used: {what}gpg: {}", out.error);
        Err(Failure::new(Code::NotVerified, message).hint(UNSIGNED))
    }
}

/// Reads a file of keys.
fn read_keys(path: &Path) -> Result<Vec<u8>, Failure> {
    let doing = || format!("reading keyring {}", quote(path));
    let file = stage::file::open(path).map_err(|e| {
        let code = if e.kind() == ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
        Failure::new(code, format!("{}: {e}", doing()))
    })?;
    read_to_limit(file, LIMIT).map_err(|e| match e.kind() {
        ErrorKind::FileTooLarge => Failure::new(Code::Failed, format!("{}: larger than {LIMIT} bytes", doing())),
        _ => Failure::system(Code::Os, doing(), e),
    })
}

/// Returns the keys that gpg accepts, as it exports them, or why there are none.
fn import(context: &Context, gpg: &Gpg, keys: &[u8]) -> Result<Result<Vec<u8>, String>, Failure> {
    let (input, empty) = (memory_file(keys)?, memory_file(&[])?);
    let mut command = command(gpg, &empty);
    // Repairing keys, by a search for misplaced signatures, takes half of the time.
    command.args(["--import-options=import-export,no-repair-keys", "--import"]).stdin(input);
    let out = run(context, &mut command)?;
    // One invalid key is no reason to do without the others.
    Ok(if out.stdout.is_empty() { Err(format!("gpg: {}", out.error)) } else { Ok(out.stdout) })
}

fn command(gpg: &Gpg, keyring: &File) -> Command {
    // Debian's name of a home that must not exist; gpg does not make one that it is given.
    let mut command = gpg.command(Path::new("/nonexistent"));
    command.args(OPTIONS).arg("--keyring").arg(path_of(keyring));
    command
}

fn run(context: &Context, command: &mut Command) -> Result<gpg::Output, Failure> {
    let begin = Instant::now();
    let out = gpg::run(command);
    context.waited(begin.elapsed());
    out
}

/// Returns a path of an open file that is also valid in a child.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", getpid(), file.as_raw_fd()).into()
}
