//! Typed views of the members that more than one tool reads. `strapline-document(5)` has the table of who writes what.
//!
//! A view never carries unknown members: [`crate::Document::record`] merges a view into what is there, so that what we
//! do not know survives.

use crate::{Code, Doing, Failure, file, quote};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use std::path::PathBuf;

/// `pacman`: the pacman program to use. Written by `fetch-pacman`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Pacman {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its version, as `pacman --version` says it, without the `v`.
    pub version: String,
    /// SHA-256 of the program, in hex.
    pub sha256: String,
    /// What its origin was checked by: `signature` (of a pinned key), `sha256` (of the command line), `hash` (the
    /// repository's own, where that was permitted), `host` (a program of this host).
    pub trust: String,
}

impl Pacman {
    /// Checks that the program is still the one that the document means: that may have been written yesterday.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where it is gone, [`Code::NotVerified`] where it is another program.
    pub fn check(&self) -> Result<(), Failure> {
        let doing = || format!("checking {}", quote(&self.path));
        let again = "run fetch-pacman again";
        let mut file = file::open(&self.path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Failure::new(Code::NotFound, format!("{}: {e}", doing())).hint(again)
            }
            _ => Failure::new(Code::Failed, format!("{}: {e}", doing())),
        })?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).doing(Code::Os, doing)?;
        let is = format!("{:x}", hash.finalize());
        if !is.eq_ignore_ascii_case(&self.sha256) {
            return Err(Failure::new(
                Code::NotVerified,
                format!(
                    "{}: it is not the program that the document means: its SHA-256 is {is}, not {}",
                    doing(),
                    self.sha256
                ),
            )
            .hint(format!("it was replaced since: {again}")));
        }
        Ok(())
    }
}

/// `config`: the pacman.conf(5) files. Written by `mkconf`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Absolute path of the file that verifies every package.
    pub strict: PathBuf,
    /// Absolute path of the file that verifies none.
    pub loose: PathBuf,
    /// Absolute path of the package cache.
    pub cache: PathBuf,
    /// Absolute path of the GnuPG home that packages are verified by: a directory of the host, which `keyring` fills.
    /// Documents of before 0.2 have none, see [`Config::gpgdir`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpgdir: Option<PathBuf>,
}

impl Config {
    /// Returns the GnuPG home that packages are verified by, which is beside the configuration where the document does not
    /// say.
    #[must_use]
    pub fn gpgdir(&self) -> PathBuf {
        let beside = || self.strict.with_file_name("gnupg");
        self.gpgdir.clone().unwrap_or_else(beside)
    }
}

/// `keyring`: pacman's keyring in the root. Written by `keyring`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Keyring {
    /// Absolute path of the GnuPG home directory.
    pub dir: PathBuf,
    /// The rings that were populated.
    pub populated: Vec<String>,
    /// The fingerprints that give trust, in upper-case hex.
    pub trusted: Vec<String>,
    /// The keys that are valid in it and by none of those: the root's own keyring was extended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended: Vec<String>,
    /// What was taken out of it again: `all` keys, or the `secret` one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripped: Option<String>,
}

/// `strap`: how packages got into the root. Written by `strap`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Strap {
    /// Whether a transaction verified nothing.
    pub loose: bool,
}

/// An element of `packages`: a package that is installed. Written by `strap`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, `[epoch:]pkgver-pkgrel`.
    pub version: String,
    /// Its architecture: pacman's word, or `any`.
    pub arch: String,
    /// The repository that it was installed from. This and the next three only as far as they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The file name of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of the archive that was installed, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The archive's detached signature, in Base64 (RFC 4648) as a repository's database has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgpsig: Option<String>,
    /// Why it is installed: `explicit`, somebody asked for it, or `dependency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether pacman checked a signature of it before it was installed (`%VALIDATION%` of the local database).
    pub verified: bool,
}

/// An element of `steps`: one tool's run. Written by the run loop of every stage.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Step {
    /// The tool's name.
    pub tool: String,
    /// The tool's version.
    pub version: String,
    /// When its work began: seconds since 1970-01-01 UTC.
    pub started: f64,
    /// How long it worked, in seconds; waiting for its input does not count.
    pub seconds: f64,
    /// How much of that it waited for pacman or another program that does the work, in seconds.
    pub child_seconds: f64,
}
