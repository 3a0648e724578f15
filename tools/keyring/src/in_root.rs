//! `--in-root`: the root's own pacman-key builds the keyring, inside, as it would on a running system.
//!
//! Slower, and under an emulator much slower; for a distribution whose pacman-key differs from all others, and to compare. The
//! same keys are trusted. The root's programs are not: packages are verified by the keyring that the host's gpg built, and what
//! they made is checked by that.

use crate::home::Place;
use crate::trust::Ring;
use rootfs::session::{Output, environment};
use rootfs::{Ended, Inside, Job};
use rustix::pipe::{PipeFlags, pipe_with};
use stage::{Code, Context, Doing, Failure, quote};
use std::ffi::{OsStr, OsString};
use std::io::Write;

/// The keyring as the root sees it.
const GPGDIR: &str = "/etc/pacman.d/gnupg";

/// Sets marginal owner trust, for which pacman-key has no option. Its arguments are fingerprints; pacman-key is a bash script
/// that calls gpg, so both exist.
const OWNER_TRUST: &str = "printf '%s:4:\\n' \"$@\" \
    | gpg --homedir /etc/pacman.d/gnupg --no-permission-warning --batch --quiet --import-ownertrust \
    && pacman-key --gpgdir /etc/pacman.d/gnupg --updatedb";

/// Builds the keyring.
///
/// # Errors
///
/// When the root has no pacman-key, or it fails.
pub(crate) fn build(context: &Context, inside: &Inside, ring: &Ring) -> Result<(), Failure> {
    let built = populate(context, inside, ring);
    // The agents ended with the namespaces; one that was killed leaves its sockets, and tar(1) would warn of them.
    let place = Place::in_root(inside.root())?;
    place.remove_sockets().doing(Code::Os, || {
        let path = inside.root().path().join(pacman::gpg::AT);
        format!("removing stale sockets in {}", quote(path))
    })?;
    built
}

fn populate(context: &Context, inside: &Inside, ring: &Ring) -> Result<(), Failure> {
    pacman_key(context, inside, "--init", &[])?;
    let names: Vec<&str> = ring.keys.iter().map(|(name, _)| name.as_str()).collect();
    pacman_key(context, inside, "--populate", &names)?;
    if ring.asked.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = ring.asked.iter().map(String::as_str).collect();
    pacman_key(context, inside, "--lsign-key", &keys)?;
    let args = [&["-c", OWNER_TRUST, "bash"], &*keys].concat();
    run(context, inside, "bash", &args, "setting owner trust with")
}

fn pacman_key(context: &Context, inside: &Inside, operation: &str, targets: &[&str]) -> Result<(), Failure> {
    let args = [&["--gpgdir", GPGDIR, operation], targets].concat();
    let doing = format!("populating the keyring of {} ({operation}): running", quote(inside.root().path()));
    let hint = "the root needs pacman and gnupg first: leave --in-root out, or strap --loose them";
    run(context, inside, "pacman-key", &args, &doing)
        .map_err(|f| if f.code == Code::NotFound { f.hint(hint) } else { f })
}

/// Runs a program of the root. What it prints goes to stderr: with `--quiet` only when it failed.
fn run(context: &Context, inside: &Inside, program: &str, args: &[&str], doing: &str) -> Result<(), Failure> {
    let job = Job {
        program: OsStr::new(program),
        args: args.iter().map(OsString::from).collect(),
        env: environment(),
        place: rootfs::Place::Root,
        user: None,
        terminal: false,
    };
    let doing = format!("{doing} {}", quote(program));
    let mut printed = Vec::new();
    let mut keep = |bytes: &[u8]| printed.extend_from_slice(bytes);
    let output = if context.quiet {
        let (from, into) = pipe_with(PipeFlags::CLOEXEC).doing(Code::Os, || "making a pipe")?;
        Some(Output { sink: &mut keep, from, into })
    } else {
        None
    };
    let ran = inside.run(&job, output);
    if !matches!(ran, Ok((ended, _)) if ended.status() == 0) {
        // Where this cannot be written, the line that follows cannot be either.
        std::io::stderr().write_all(&printed).unwrap_or(());
    }
    let (ended, time) = ran.map_err(|f| if f.code == Code::Hung { f.while_doing(&doing) } else { f })?;
    context.waited(time);
    let code = match ended {
        _ if ended.status() == 0 => return Ok(()),
        Ended::NotRun(_) if ended.status() == 127 => Code::NotFound,
        _ => Code::ChildFailed,
    };
    Err(Failure::new(code, format!("{doing}: {}", ended.words())))
}
