//! The host's gpg, which judges signatures as it does for pacman.
//!
//! It runs without a home: keys and signature are files in memory, the home that it is told of is not there, and it
//! writes nothing. So there is nothing to clean up, whatever ends it or us, and no agent is started.
//!
//! The keys come from a mirror. Whose they are is shown by a fingerprint, but not that they have not expired: that the
//! owner says in a signature, in the same ring. gpg makes it easy to take the owner's word out of it, twice:
//!
//! * It keeps notes in a ring of which signatures it found good, and believes them. Who writes the ring can forge both.
//!   Hence `--no-sig-cache`; and [`Gpg::clean`] lets gpg import the ring, which drops the notes, what does not hold, and
//!   the armor where there is one.
//! * Debian's gpg 2.4 takes a key that says nothing of itself for one that lasts for ever. Hence
//!   `--no-allow-non-selfsigned-uid`.

use crate::status::{self, Finding};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pacman::diagnosis::gpg;
use stage::{Code, Context, Doing, Failure, child};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// What every call begins with. `/nonexistent` is what Debian calls a home that must not be there; gpg makes none that
/// it was told of.
const ALWAYS: [&str; 14] = [
    "--no-options",
    "--homedir",
    "/nonexistent",
    "--batch",
    "--no-tty",
    "--quiet",
    "--no-autostart",
    "--no-auto-check-trustdb",
    "--no-auto-key-retrieve",
    "--trust-model=always",
    "--lock-never",
    "--no-sig-cache",
    "--no-allow-non-selfsigned-uid",
    "--no-default-keyring",
];

/// gpg of this host.
#[derive(Clone, Debug)]
pub(crate) struct Gpg(gpg::Gpg);

/// What gpg says of a file and its signature.
#[derive(Debug)]
pub(crate) struct Report {
    /// What it says of each signature, in order.
    pub(crate) findings: Vec<Finding>,
    /// What it complains of without a signature to which it belongs, where it does.
    pub(crate) complaint: Option<String>,
}

impl Gpg {
    /// Finds gpg in `PATH`, and tries it on an empty ring. Since 2.3 it reads the host's common.conf whatever it is told: that
    /// may have it look for keys elsewhere, and then a good package seems to be signed by nobody.
    pub(crate) fn find(context: &Context) -> Result<Self, Failure> {
        let gpg = Self(gpg::Gpg::find()?);
        let empty = memory(&[])?;
        let mut command = gpg.command(&empty);
        command.arg("--list-keys");
        let ran = run(context, command)?;
        if ran.good {
            return Ok(gpg);
        }
        let message = format!("trying gpg on an empty ring: {}", ran.complaint);
        Err(Failure::new(Code::ChildFailed, message).hint(
            "a 'use-keyboxd' or an unknown option in the host's '/etc/gnupg/common.conf' does that: take it out",
        ))
    }

    /// Returns the keys of a ring as they can be given to [`Gpg::verify`], or why there are none.
    pub(crate) fn clean(
        &self,
        context: &Context,
        ring: &[u8],
    ) -> Result<Result<Vec<u8>, String>, Failure> {
        let (input, empty) = (memory(ring)?, memory(&[])?);
        let mut command = self.command(&empty);
        // Who signed a key does not matter here, and looking for misplaced signatures takes half of the time.
        command
            .args(["--import-options=import-export,no-repair-keys", "--import"])
            .stdin(input);
        let ran = run(context, command)?;
        // One key that is no good is no reason to do without the others.
        Ok(match ran.stdout.is_empty() {
            false => Ok(ran.stdout),
            true => Err(ran.complaint),
        })
    }

    /// Returns what gpg says of a file and a detached signature of it. The keys are those of [`Gpg::clean`].
    pub(crate) fn verify(
        &self,
        context: &Context,
        keys: &[u8],
        signature: &[u8],
        file: &File,
    ) -> Result<Report, Failure> {
        let (keys, signature) = (memory(keys)?, memory(signature)?);
        let mut command = self.command(&keys);
        command.args(["--status-fd=1", "--verify"]);
        command.args([handle(&signature), handle(file)]);
        let ran = run(context, command)?;
        let findings = status::parse(&String::from_utf8_lossy(&ran.stdout));
        let all_good = findings.iter().all(Finding::is_good);
        let complaint = match findings.is_empty() {
            true => Some(format!("it is none: {}", ran.complaint)),
            false if all_good && !ran.good => Some(ran.complaint),
            false => None,
        };
        Ok(Report {
            findings,
            complaint,
        })
    }

    fn command(&self, keyring: &File) -> Command {
        let mut command = self.0.without_home();
        command.args(ALWAYS).arg("--keyring").arg(handle(keyring));
        command
    }
}

/// How gpg ended.
struct Ran {
    good: bool,
    stdout: Vec<u8>,
    /// The first complaint of what it told people.
    complaint: String,
}

/// Runs gpg. Its words for people go into memory and never where its status goes: there they could pass for it.
fn run(context: &Context, mut command: Command) -> Result<Ran, Failure> {
    let mut words = memory(&[])?;
    command.stderr(words.try_clone().doing(Code::Os, || "running gpg")?);
    let begin = Instant::now();
    rootfs::die_with_us(&mut command);
    let output = child::output(&mut command);
    context.waited(begin.elapsed());
    let output = output?;
    let mut text = Vec::new();
    words
        .seek(SeekFrom::Start(0))
        .and_then(|_| words.take(1 << 16).read_to_end(&mut text))
        .doing(Code::Os, || "reading what gpg says")?;
    let text = String::from_utf8_lossy(&text);
    // The first one says what is wrong, those after it what that means.
    let line = text
        .lines()
        .find(|line| line.starts_with("gpg: ") && !line.starts_with("gpg: WARNING"));
    let ended = child::ended(output.status);
    let complaint = match line {
        Some(line) => line.chars().take(200).collect(),
        None => format!("gpg: {ended}"),
    };
    if output.status.code().is_none() {
        return Err(Failure::new(
            Code::ChildFailed,
            format!("running gpg: {ended}"),
        ));
    }
    Ok(Ran {
        good: output.status.success(),
        stdout: output.stdout,
        complaint,
    })
}

/// Returns a file that is nowhere, with these bytes, at its beginning.
fn memory(bytes: &[u8]) -> Result<File, Failure> {
    let doing = || "making a file in memory for gpg";
    let fd = memfd_create(c"fetch-pacman", MFdFlags::MFD_CLOEXEC).doing(Code::Os, doing)?;
    let mut file = File::from(fd);
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .doing(Code::Os, doing)?;
    Ok(file)
}

/// Returns a path of an open file that holds in a child too.
fn handle(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
