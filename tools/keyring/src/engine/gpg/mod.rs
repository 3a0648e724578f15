//! The reference engine: the host's gpg builds the keyring, in namespaces of our own, and the root gets the finished files.
//!
//! What the native engine makes is measured by this one, and a keyring that is there, of which gpg has seen more kinds
//! than we have, is completed by it.
//!
//! gpg works in a scratch home of two letters, on a tmpfs that nobody else sees: an agent's socket may have a path of 108
//! bytes and a root's own is often longer, and what gpg leaves (backups, locks, sockets, the agent itself) ends with the
//! namespaces. The files reach the root when all of them are there and judged.

mod calls;

use super::{Built, warnings};
use crate::home::Home;
use crate::listing;
use crate::trust::Ring;
pub(super) use calls::Gpg;
use rootfs::{Inside, Place, Root};
use stage::{Code, Document, Doing, Failure, quote};
use std::time::Instant;

/// Builds the keyring beside the one of the root.
///
/// # Errors
///
/// When gpg fails, or what it built is not what was to be built.
pub(super) fn build(document: &Document, inside: &Inside, ring: &Ring) -> Result<Built, Failure> {
    let gpg = Gpg::find()?;
    let bytes = inside.call(Place::Host, || work(document, ring, &gpg))?;
    serde_json::from_slice(&bytes).doing(Code::Os, || "reading what was done inside")
}

/// The work inside.
fn work(document: &Document, ring: &Ring, gpg: &Gpg) -> Result<Vec<u8>, Failure> {
    // Opened before the tmpfs is there: the root may be below what that covers.
    let root = Root::of(document)?;
    let mut home = Home::read(&root)?;
    let made = home.is_empty();
    let scratch = pacman::diagnosis::gpg::scratch()?;
    let doing = || format!("laying out the keyring in {}", quote(scratch));
    home.lay_out(scratch).doing(Code::Os, doing)?;
    let begin = Instant::now();
    gpg.build(ring, scratch)?;
    let (public, secret) = gpg.list(scratch)?;
    let seconds = begin.elapsed().as_secs_f64();
    let summary = listing::judge(ring, &public, &secret)?;
    let warnings = warnings(ring, &home, &public, &secret);
    home.take_over(scratch, Some(gpg.version))
        .doing(Code::Os, doing)?;
    if !home.has_keys() {
        return Err(Failure::new(
            Code::Failed,
            "building the keyring: the host's gpg keeps the keys where no pacman looks",
        )
        .hint("remove use-keyboxd from '/etc/gnupg/common.conf', or use --in-root"));
    }
    home.write_beside(&root)?;
    let built = Built {
        made,
        summary,
        warnings,
        seconds,
    };
    serde_json::to_vec(&built).doing(Code::Os, || "saying what was done")
}
