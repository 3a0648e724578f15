//! `--tree`: files of the builder's own, laid over the root before there are packages, for what configures their installation.
//!
//! pacman refuses a package with a file that is there already, so what packages have as well is for `configure --tree`, after
//! them.

use crate::extra::Point;
use rootfs::tree::{Laid, Overlay, Source};
use rootfs::{Inside, Place, Root};
use stage::members::TreeFile;
use stage::{Document, Failure};
use std::os::fd::{AsFd, BorrowedFd};

/// Lays trees over the root of the document, records them, and adds to `made` what was not there.
///
/// # Errors
///
/// As [`Overlay::check`], [`Overlay::missing`] and [`Overlay::lay`].
pub(crate) fn lay(trees: &[Source], document: &mut Document, made: &mut Vec<Point>) -> Result<(), Failure> {
    let before: Vec<TreeFile> = document.get().unwrap_or_default();
    let keep: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    // With the root's own file systems, as a /boot, and nothing else.
    let inside = Inside::of(document)?.bare();
    // Before anything is laid: a signal ends what is inside at once, and what it had laid by then is removed all the same.
    let missing = inside.call(Place::Host, &keep, || {
        let root = Root::of(document)?;
        let overlay = Overlay::of(trees, &before, root.as_fd(), root.path())?;
        overlay.check(|_, _| false)?;
        overlay.missing()
    })?;
    made.extend(missing.into_iter().map(|(path, directory)| Point { path, file: !directory }));
    let files = inside.call(Place::Host, &keep, || {
        let root = Root::of(document)?;
        let mut laid = Laid::default();
        Overlay::of(trees, &before, root.as_fd(), root.path())?.lay("mkroot", &mut laid)?;
        Ok(laid.files)
    })?;
    document.write(&files);
    Ok(())
}
