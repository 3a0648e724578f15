//! `--tree`: files of the builder's own, laid over the root before there are packages, for what configures their installation.
//!
//! pacman refuses a package with a file that is there already, so what packages have as well is for `configure --tree`, after
//! them.

use crate::extra::Point;
use rootfs::tree::{Laid, Overlay, Source};
use rootfs::{Inside, Place, Root};
use serde::{Deserialize, Serialize};
use stage::members::TreeFile;
use stage::{Document, Failure};
use std::os::fd::{AsFd, BorrowedFd};

/// The result of the work inside: what was laid, and why it ended early.
#[derive(Deserialize, Serialize)]
struct Done {
    files: Vec<TreeFile>,
    made: Vec<(String, bool)>,
    failure: Option<Failure>,
}

/// Lays trees over the root of the document, records them, and adds to `made` what was not there.
///
/// # Errors
///
/// As [`Overlay::check`] and [`Overlay::lay`].
pub(crate) fn lay(trees: &[Source], document: &mut Document, made: &mut Vec<Point>) -> Result<(), Failure> {
    let before: Vec<TreeFile> = document.get().unwrap_or_default();
    let keep: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    // With the root's own file systems, as a /boot, and nothing else.
    let done = Inside::of(document)?.bare().call(Place::Host, &keep, || {
        let root = Root::of(document)?;
        let overlay = Overlay::of(trees, &before, root.as_fd(), root.path())?;
        overlay.check(|_, _| false)?;
        let mut laid = Laid::default();
        let failure = overlay.lay("mkroot", &mut laid).err();
        Ok(Done { files: laid.files, made: laid.made, failure })
    })?;
    made.extend(done.made.into_iter().map(|(path, directory)| Point { path, file: !directory }));
    match done.failure {
        Some(failure) => Err(failure),
        None => {
            document.write(&done.files);
            Ok(())
        }
    }
}
