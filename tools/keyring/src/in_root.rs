//! `--in-root`: the root's own pacman-key builds the keyring, inside, as it would on a running system.
//!
//! Slower, and under an emulator much slower; for a distribution whose pacman-key does what nobody else's does, and to
//! compare. What counts as trusted is the same, and so is the judgement at the end, by the root's own gpg.

use crate::home;
use crate::listing::{self, Summary};
use crate::program::{args, output, run};
use crate::trust::Ring;
use rootfs::session::environment;
use rootfs::{Inside, Job, Place};
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
pub(crate) fn build(context: &Context, inside: &Inside, ring: &Ring) -> Result<Summary, Failure> {
    let built = populate(context, inside, ring);
    let listed = built.and_then(|()| list(context, inside));
    // The agents ended with the namespaces; one that had to be killed leaves its sockets, and tar(1) would warn of them.
    home::remove_sockets(inside.root()).doing(Code::Os, || {
        let path = inside.root().path().join(home::AT);
        format!("removing stale sockets in {}", quote(path))
    })?;
    let (public, secret) = listed?;
    for key in listing::marginal(ring, &public) {
        context.warn(format_args!(
            "{key} is only marginally valid, so packages signed by it are refused"
        ));
    }
    listing::judge(ring, &public, &secret)
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

fn list(
    context: &Context,
    inside: &Inside,
) -> Result<(Vec<listing::Key>, Vec<listing::Key>), Failure> {
    let ask = |what: &str| -> Result<Vec<listing::Key>, Failure> {
        let list = args(&[
            "--homedir",
            GPGDIR,
            "--no-permission-warning",
            "--batch",
            "--no-tty",
            "--quiet",
            "--no-auto-check-trustdb",
            // stdout and stderr come to us in one pipe: messages could land within a line.
            "--logger-file",
            "/dev/null",
            "--with-colons",
            what,
        ]);
        output(
            context,
            inside,
            &job("gpg", list),
            "listing the keyring with",
        )
        .map(|text| listing::parse(&text))
    };
    Ok((ask("--list-keys")?, ask("--list-secret-keys")?))
}

fn job<'a>(program: &'a str, args: Vec<OsString>) -> Job<'a> {
    Job {
        program: OsStr::new(program),
        args,
        env: environment(),
        place: Place::Root,
        user: None,
        terminal: false,
    }
}
