//! What every step of a run works with.

use pacman::gpg::Gpg;
use rootfs::Inside;
use stage::{Context, Document};

/// A run on the root of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session<'a> {
    pub(crate) context: &'a Context,
    pub(crate) document: &'a Document,
    pub(crate) inside: &'a Inside,
    pub(crate) gpg: &'a Gpg,
    /// Whether the network must not be used.
    pub(crate) offline: bool,
}
