//! What is to be done, checked.

use crate::format::Format;
use image::tree::Points;
use image::{Output, Rules};
use rootfs::Inside;
use std::os::fd::OwnedFd;

/// What is to be done, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) inside: Inside,
    pub(crate) format: Format,
    pub(crate) level: u32,
    /// What an image is called.
    pub(crate) name: String,
    /// Whether holes are stored as holes.
    pub(crate) sparse: bool,
    /// Whether a bar shows how far it is.
    pub(crate) bar: bool,
    pub(crate) rules: Rules,
    pub(crate) points: Points,
    pub(crate) output: Output,
    /// Nobody else works on the root meanwhile.
    #[expect(dead_code, reason = "it is held")]
    pub(crate) lock: OwnedFd,
}
