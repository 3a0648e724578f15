//! The keys to check a signature with: those of the repository's keyring package, or of the user's files.
//!
//! Keys alone give no trust: the keyring package's own signature could only be checked with the keys in it. A key counts if its
//! fingerprint is pinned, see [`crate::verify`].

use package::archive::extract_members;
use pacman::gpg::Gpg;
use pacman::gpg::detached::KEYS_LIMIT;
pub(crate) use pacman::gpg::detached::{Keyring, find_gpg};
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::File;
use std::io::Seek;

/// A hint where the repository's keyring package does not help.
pub(crate) const OTHER_KEYS: &str = "give the key that signs the package with --keyring FILE, or take the package by its \
                                     hash alone with --unsigned";

/// A hint where the signature is missing or not good.
pub(crate) const UNSIGNED: &str = "name another --server URL, or take the package by its hash alone with --unsigned";

/// Returns the name of the package with a repository's keys.
pub(crate) fn package_name(repo: &str) -> String {
    format!("{repo}-keyring")
}

/// Reads the keys in a repository's keyring package.
pub(crate) fn from_package(context: &Context, gpg: &Gpg, mut file: &File, repo: &str) -> Result<Keyring, Failure> {
    let fail = |why: String| Failure::new(Code::NotVerified, why).hint(OTHER_KEYS);
    let member = format!("usr/share/pacman/keyrings/{repo}.gpg");
    file.rewind().doing(Code::Os, || "reading the keyring package")?;
    let mut members = extract_members(file, &[&member], KEYS_LIMIT).map_err(|e| fail(e.to_string()))?;
    let bytes = members.remove(&member).unwrap_or_default();
    let name = format!("package {}", quote(package_name(repo)));
    let keyring = Keyring::from_bytes(context, gpg, &bytes, name)?;
    keyring.map_err(|why| fail(format!("no keys in its member '{member}': {why}")))
}
