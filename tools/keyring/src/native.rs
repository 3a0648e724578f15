//! The default: the host's gpg builds the keyring, in namespaces of our own, and the root gets the finished files.
//!
//! gpg works in a scratch home of two letters, on a tmpfs that nobody else sees: an agent's socket may have a path of 108
//! bytes and a root's own is often longer, and what gpg leaves (backups, locks, sockets, the agent itself) ends with the
//! namespaces. The files reach the root when all of them are there and judged.

use crate::engine::{Engine, Gpg};
use crate::home::{self, Home};
use crate::listing::{self, Summary};
use crate::trust::Ring;
use rootfs::{Inside, Place, Root};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Document, Doing, Failure, quote};
use std::path::Path;
use std::time::{Duration, Instant};

/// The directory that the tmpfs covers, inside only; the host's own is not touched.
const TMPFS: &str = "/run";
/// The scratch home on it.
const SCRATCH: &str = "/run/k";

/// What the work inside says of itself.
#[derive(Debug, Deserialize, Serialize)]
struct Built {
    /// Whether there was no keyring before.
    made: bool,
    /// What was built.
    summary: Summary,
    /// What a person should know.
    warnings: Vec<String>,
    /// How long gpg worked, in seconds.
    seconds: f64,
}

/// Builds the keyring of the root; says whether there was none before.
///
/// # Errors
///
/// When gpg fails, or what it built is not what was to be built. The root then has the keyring it had.
pub(crate) fn build(
    context: &Context,
    document: &Document,
    inside: &Inside,
    ring: &Ring,
) -> Result<(bool, Summary), Failure> {
    let gpg = Gpg::find()?;
    let result = inside.call(Place::Host, || work(document, ring, &gpg));
    let bytes = result.inspect_err(|_| home::sweep(inside.root()))?;
    let built: Built =
        serde_json::from_slice(&bytes).doing(Code::Os, || "reading what was done inside")?;
    for warning in &built.warnings {
        context.warn(warning);
    }
    context.waited(Duration::try_from_secs_f64(built.seconds).unwrap_or_default());
    Ok((built.made, built.summary))
}

/// The work inside.
fn work(document: &Document, ring: &Ring, gpg: &Gpg) -> Result<Vec<u8>, Failure> {
    // Opened before the tmpfs is there: the root may be below what that covers.
    let root = Root::of(document)?;
    let mut home = Home::read(&root)?;
    let made = home.is_empty();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", TMPFS, "tmpfs", flags, Some(c"mode=0700")).doing(Code::Permission, || {
        format!("mounting a tmpfs on '{TMPFS}', inside")
    })?;
    let scratch = Path::new(SCRATCH);
    let doing = || format!("laying out the keyring in {}", quote(scratch));
    home.lay_out(scratch).doing(Code::Os, doing)?;
    let begin = Instant::now();
    gpg.build(ring, scratch)?;
    let (public, secret) = gpg.list(scratch)?;
    let seconds = begin.elapsed().as_secs_f64();
    let summary = listing::judge(ring, &public, &secret)?;
    let warnings = warnings(ring, &home, &public, &secret);
    home.take_over(scratch, gpg.version)
        .doing(Code::Os, doing)?;
    if !home.has_keys() {
        return Err(Failure::new(
            Code::Failed,
            "building the keyring: the host's gpg keeps the keys where no pacman looks",
        )
        .hint("remove use-keyboxd from '/etc/gnupg/common.conf', or use --in-root"));
    }
    home.publish(&root)?;
    let built = Built {
        made,
        summary,
        warnings,
        seconds,
    };
    serde_json::to_vec(&built).doing(Code::Os, || "saying what was done")
}

fn warnings(
    ring: &Ring,
    home: &Home,
    public: &[listing::Key],
    secret: &[listing::Key],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in &home.skipped {
        warnings.push(format!(
            "'{}/{path}' is no regular file: it is not kept",
            home::AT
        ));
    }
    for key in listing::strangers(ring, public, secret) {
        warnings.push(format!(
            "{key} was in the keyring before and gives trust, though it is not pinned"
        ));
    }
    for key in listing::marginal(ring, public) {
        warnings.push(format!(
            "{key} is only marginally valid, so packages signed by it are refused; --trust {key} would take it as it is"
        ));
    }
    warnings
}
