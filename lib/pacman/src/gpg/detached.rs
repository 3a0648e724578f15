//! Checking a detached signature with keys that a file has, without a home.
//!
//! Keys alone give no trust: the caller decides whose signature counts.
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

use super::status::{self, Signature, State};
use super::{Gpg, Output, memory_file, run as run_gpg};
use stage::file::read_to_limit;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, ErrorKind, PipeWriter};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The largest file of keys that is read: Arch's, with 164 keys, has 2 MB.
pub const KEYS_LIMIT: u64 = 16 << 20;

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

/// Keys, and where they are from.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// As gpg exports them.
    keys: Vec<u8>,
    /// Its name in messages.
    pub name: String,
}

/// Finds gpg, and tries it on an empty keyring. Since 2.3 it always reads the host's common.conf: that may make it look for
/// keys elsewhere, and then it finds the key of no signature.
///
/// # Errors
///
/// As [`Gpg::find`], and [`Code::ChildFailed`] where it does not work.
pub fn find_gpg(context: &Context) -> Result<Gpg, Failure> {
    let gpg = Gpg::find()?;
    let empty = memory_file(&[])?;
    let out = run(context, command(&gpg, &empty).arg("--list-keys"))?;
    if out.success {
        return Ok(gpg);
    }
    Err(Failure::new(Code::ChildFailed, format!("trying gpg on an empty keyring: gpg: {}", out.error))
        .hint("'use-keyboxd' or an unknown option in the host's '/etc/gnupg/common.conf' causes this: remove it there"))
}

impl Keyring {
    /// Takes the keys that gpg accepts of some bytes, or says why there are none.
    ///
    /// # Errors
    ///
    /// When gpg cannot be run.
    pub fn from_bytes(
        context: &Context,
        gpg: &Gpg,
        bytes: &[u8],
        name: String,
    ) -> Result<Result<Self, String>, Failure> {
        Ok(import(context, gpg, bytes)?.map(|keys| Self { keys, name }))
    }

    /// Reads the keys in some files.
    ///
    /// # Errors
    ///
    /// When one cannot be read, or has no keys; when gpg cannot be run.
    pub fn from_files(context: &Context, gpg: &Gpg, paths: &[PathBuf]) -> Result<Self, Failure> {
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
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where it is no signature file; when gpg cannot be run.
    pub fn check(
        &self,
        context: &Context,
        gpg: &Gpg,
        signature: &[u8],
        file: &File,
    ) -> Result<Vec<Signature>, Failure> {
        let (keys, signature) = (memory_file(&self.keys)?, memory_file(signature)?);
        found(run(context, &mut verification(gpg, &keys, &signature, &path_of(file)))?)
    }

    /// Returns the signatures as [`Keyring::check`] does, of what `feed` writes to gpg: so the caller knows what was checked,
    /// though it is of a file that others may write to. What `feed` returns is returned, too: gpg may end before it.
    ///
    /// # Errors
    ///
    /// As [`Keyring::check`].
    pub fn check_fed<T: Send>(
        &self,
        context: &Context,
        gpg: &Gpg,
        signature: &[u8],
        feed: impl FnOnce(&mut PipeWriter) -> io::Result<T> + Send,
    ) -> Result<(Vec<Signature>, io::Result<T>), Failure> {
        let (keys, signature) = (memory_file(&self.keys)?, memory_file(signature)?);
        let (reader, mut writer) = io::pipe().doing(Code::Os, || "making a pipe for gpg")?;
        let mut command = verification(gpg, &keys, &signature, Path::new("-"));
        command.stdin(reader);
        let (out, fed) = std::thread::scope(|scope| {
            let feeder = scope.spawn(move || feed(&mut writer));
            let out = run(context, &mut command);
            // It has our copy of the other end of the pipe, without which nothing is written in vain.
            drop(command);
            (out, feeder.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())))
        });
        Ok((found(out?)?, fed))
    }
}

/// Returns what gpg found of the signatures in a file.
fn found(out: Output) -> Result<Vec<Signature>, Failure> {
    let signatures = status::parse(&String::from_utf8_lossy(&out.stdout));
    let is_good = |signature: &Signature| matches!(signature.state, State::Good(_));
    let what = match signatures.is_empty() {
        true => "not a signature: ",
        false if out.success || !signatures.iter().all(is_good) => return Ok(signatures),
        false => "",
    };
    let message = format!("its signature cannot be used: {what}gpg: {}", out.error);
    Err(Failure::new(Code::NotVerified, message))
}

/// Reads a file of keys.
fn read_keys(path: &Path) -> Result<Vec<u8>, Failure> {
    let doing = || format!("reading keyring {}", quote(path));
    let file = stage::file::open(path).map_err(|e| {
        let code = if e.kind() == ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
        Failure::new(code, format!("{}: {e}", doing()))
    })?;
    read_to_limit(file, KEYS_LIMIT).map_err(|e| match e.kind() {
        ErrorKind::FileTooLarge => Failure::new(Code::Failed, format!("{}: larger than {KEYS_LIMIT} bytes", doing())),
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

fn verification(gpg: &Gpg, keys: &File, signature: &File, data: &Path) -> Command {
    let mut command = command(gpg, keys);
    command.args(["--status-fd=1", "--verify"]).arg(path_of(signature)).arg(data);
    command
}

fn run(context: &Context, command: &mut Command) -> Result<Output, Failure> {
    let begin = Instant::now();
    let out = run_gpg(command);
    context.waited(begin.elapsed());
    out
}

/// Returns a path of an open file that is also valid in a child.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
