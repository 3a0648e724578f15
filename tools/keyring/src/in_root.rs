//! `--in-root`: the root's own pacman-key builds the keyring, inside, as it would on a running system.
//!
//! Slower, and under an emulator much slower; for a distribution whose pacman-key does what nobody else's does, and to
//! compare. What counts as trusted is the same. The root's programs are not believed: the keyring that packages are verified by
//! is the one that the host's gpg built, and what they made is checked by that.

use crate::home::{self, Place};
use crate::program::{args, run};
use crate::trust::Ring;
use rootfs::session::environment;
use rootfs::{Inside, Job};
use stage::{Code, Context, Doing, Failure, quote};
use std::ffi::{OsStr, OsString};

/// The keyring as the root sees it.
const GPGDIR: &str = "/etc/pacman.d/gnupg";

/// Sets the owner trust that pacman-key has no word for. Its arguments are fingerprints; pacman-key is a bash script
/// that calls gpg, so both are there.
const OWNER_TRUST: &str = "printf '%s:4:\\n' \"$@\" \
    | gpg --homedir /etc/pacman.d/gnupg --no-permission-warning --batch --quiet --import-ownertrust \
    && pacman-key --gpgdir /etc/pacman.d/gnupg --updatedb";

/// Builds the keyring.
///
/// # Errors
///
/// When the root has no pacman-key, when it fails, or when the keyring is not what was to be built.
pub(crate) fn build(context: &Context, inside: &Inside, ring: &Ring) -> Result<(), Failure> {
    let built = populate(context, inside, ring);
    // The agents ended with the namespaces; one that had to be killed leaves its sockets, and tar(1) would warn of them.
    let place = Place::in_root(inside.root())?;
    place.remove_sockets().doing(Code::Os, || {
        let path = inside.root().path().join(home::AT);
        format!("removing stale sockets in {}", quote(path))
    })?;
    built
}

fn populate(context: &Context, inside: &Inside, ring: &Ring) -> Result<(), Failure> {
    pacman_key(context, inside, &["--init"])?;
    let names = ring.keys.iter().map(|(name, _)| name.as_str());
    let populate: Vec<&str> = ["--populate"].into_iter().chain(names).collect();
    pacman_key(context, inside, &populate)?;
    if ring.asked.is_empty() {
        return Ok(());
    }
    let keys = ring.asked.iter().map(String::as_str);
    let sign: Vec<&str> = ["--lsign-key"].into_iter().chain(keys.clone()).collect();
    pacman_key(context, inside, &sign)?;
    let shell = ["-c", OWNER_TRUST, "bash"].into_iter().chain(keys);
    let shell: Vec<&str> = shell.collect();
    run(
        context,
        inside,
        &job("bash", args(&shell)),
        "setting owner trust with",
    )
}

fn pacman_key(context: &Context, inside: &Inside, arguments: &[&str]) -> Result<(), Failure> {
    let mut list = args(&["--gpgdir", GPGDIR]);
    list.extend(args(arguments));
    let doing = format!(
        "populating the keyring of {} ({})",
        quote(inside.root().path()),
        arguments[0]
    );
    let job = job("pacman-key", list);
    run(context, inside, &job, &format!("{doing}: running")).map_err(|failure| match failure.code {
        Code::NotFound => failure.hint(
            "the root needs pacman and gnupg first: leave --in-root out, or strap --loose them",
        ),
        _ => failure,
    })
}

fn job<'a>(program: &'a str, args: Vec<OsString>) -> Job<'a> {
    Job {
        program: OsStr::new(program),
        args,
        env: environment(),
        place: rootfs::Place::Root,
        user: None,
        terminal: false,
    }
}
