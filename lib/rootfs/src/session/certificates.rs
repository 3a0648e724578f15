//! A private certificate authority, for programs of the host that run inside.
//!
//! Who has a mirror with a certificate of their own names the authority in `SSL_CERT_FILE`, as OpenSSL and much else has it.
//! pacman's libcurl does not: it reads the file whose name was compiled in, whatever the environment says (seen with 6.0.2,
//! 7.0.0 and 7.1.0). So that file is covered, in the namespace of the entry alone.

use super::{Job, Place};
use rustix::mount::mount_bind;
use stage::{Code, Doing, Failure, quote};
use std::path::{Path, PathBuf};

const VARIABLE: &str = "SSL_CERT_FILE";

/// Where builds of libcurl look: Debian's, Arch's and pacman-static; Fedora's; openSUSE's.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Returns the file that a program is to take its authorities from, where the user named one.
///
/// # Errors
///
/// When there is no such file: a program would verify by others without a word.
pub(super) fn wanted(job: &Job<'_>) -> Result<Option<PathBuf>, Failure> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let Some(named) = named.filter(|_| job.place == Place::Host) else {
        return Ok(None);
    };
    let doing = || format!("using {VARIABLE} {}", quote(&named));
    let path = std::path::absolute(&named).doing(Code::Os, doing)?;
    if !path.is_file() {
        return Err(Failure::new(
            Code::NotFound,
            format!("{}: there is no such file", doing()),
        ));
    }
    Ok(Some(path))
}

/// Covers the host's authorities with those.
pub(super) fn cover(file: &Path) -> Result<(), Failure> {
    for bundle in BUNDLES.iter().filter(|path| Path::new(path).is_file()) {
        mount_bind(file, *bundle).doing(Code::Os, || {
            format!("using {VARIABLE} {} in place of '{bundle}'", quote(file))
        })?;
    }
    Ok(())
}
