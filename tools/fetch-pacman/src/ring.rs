//! The keys to check a signature with: the keyring package of the same repository, or files of the user's.
//!
//! They are material and no trust: nothing vouches for that package, whose own signature could only be checked with what
//! is in it. A key of it counts if its fingerprint is pinned, and [`crate::verify`] looks at nothing else of it.

use crate::fault::{Fault, Stop};
use crate::gpg::Gpg;
use package::archive::extract_members;
use stage::{Code, Context, Doing, Failure, quote};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The largest ring: Arch's, with 164 keys, has 2 MB.
const LARGEST: u64 = 16 << 20;

/// Keys, and where they are from.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    /// As gpg exports them.
    pub(crate) keys: Vec<u8>,
    /// What messages call it.
    pub(crate) name: String,
}

/// Returns the name of the package that has a repository's keys.
pub(crate) fn package(repo: &str) -> String {
    format!("{repo}-keyring")
}

impl Ring {
    /// Takes the ring out of a repository's keyring package.
    pub(crate) fn of_package(
        context: &Context,
        gpg: &Gpg,
        mut file: &File,
        repo: &str,
    ) -> Result<Self, Stop> {
        let fault = |why: String| Fault::new(Code::NotVerified, why).hint(INSTEAD);
        let member = format!("usr/share/pacman/keyrings/{repo}.gpg");
        file.seek(SeekFrom::Start(0))
            .doing(Code::Os, || "reading the keyring package")?;
        let mut found =
            extract_members(file, &[&member], LARGEST).map_err(|e| fault(e.to_string()))?;
        let bytes = found.remove(&member).unwrap_or_default();
        match gpg.clean(context, &bytes)? {
            Ok(keys) => Ok(Self {
                keys,
                name: format!("package {}", quote(package(repo))),
            }),
            Err(why) => Err(fault(format!("no keys in its member '{member}': {why}")).into()),
        }
    }

    /// Reads all keys of some files.
    pub(crate) fn of_files(
        context: &Context,
        gpg: &Gpg,
        paths: &[PathBuf],
    ) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        for path in paths {
            let doing = || format!("reading keyring {}", quote(path));
            let fail = |code, why: &str| Failure::new(code, format!("{}: {why}", doing()));
            let mut file = OpenOptions::new()
                .read(true)
                // A FIFO would wait for ever.
                .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
                .open(path)
                .map_err(|e| match e.kind() {
                    ErrorKind::NotFound => fail(Code::NotFound, &e.to_string()),
                    _ => fail(Code::Os, &e.to_string()),
                })?;
            if !file.metadata().doing(Code::Os, doing)?.is_file() {
                return Err(fail(Code::Failed, "not a regular file"));
            }
            let mut bytes = Vec::new();
            (&mut file)
                .take(LARGEST + 1)
                .read_to_end(&mut bytes)
                .doing(Code::Os, doing)?;
            if bytes.len() as u64 > LARGEST {
                return Err(fail(
                    Code::Failed,
                    &format!("larger than the {LARGEST} bytes that a keyring may have"),
                ));
            }
            let clean = gpg.clean(context, &bytes)?;
            keys.extend(clean.map_err(|why| {
                fail(Code::Failed, &format!("no keys in it: {why}"))
                    .hint("give one that 'gpg --export' writes, with --armor or without")
            })?);
        }
        let names: Vec<_> = paths.iter().map(quote).collect();
        Ok(Self {
            keys,
            name: names.join(", "),
        })
    }
}

/// What helps where the repository's keyring package does not.
pub(crate) const INSTEAD: &str = "give the key that signs the package with --keyring FILE, or take the package by its \
                                  hash alone with --unsigned";
