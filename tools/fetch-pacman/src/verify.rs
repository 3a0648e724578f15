//! The step between "all bytes are here" and "this may run".
//!
//! Only [`package`] makes a [`Verified`], and only of a [`Verified`] does [`crate::program`] make an executable file. So
//! whatever is to be asked of a package before it runs is asked here.

use crate::cache::Whole;
use stage::{Code, Failure, quote};
use std::fs::File;

/// A package that may be used, and by what its origin was checked.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The package, open at an unknown place.
    pub(crate) file: File,
    /// The word for `pacman.trust`.
    pub(crate) trust: &'static str,
}

/// Checks a whole package against what it should hash to.
pub(crate) fn package(whole: Whole, sha256: &str) -> Result<Verified, Failure> {
    if whole.sha256 != sha256 {
        return Err(Failure::new(
            Code::NotVerified,
            format!(
                "checking package {}: {}",
                quote(&whole.path),
                differs(&whole.sha256, sha256)
            ),
        ));
    }
    Ok(Verified {
        file: whole.file,
        trust: "hash",
    })
}

/// Returns what is wrong with a hash, in words.
pub(crate) fn differs(is: &str, should: &str) -> String {
    format!("its SHA-256 is {is}, and should be {should}")
}
