//! The lock: what a finished document says that was installed, read as the order to install just that.
//!
//! A signature says who made a package, and every package that a distribution ever signed has a valid one: a mirror that
//! offers an old one, with a known vulnerability, passes. A lock says which one, by its SHA-256.

use package::digest::is_sha256;
use package::{db, name};
use pacman::Planned;
use stage::members::Package;
use stage::{Code, Document, Doing, Failure, quote};
use std::collections::BTreeSet;
use std::path::Path;

/// A package that is to be installed, and the archive that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locked {
    /// Its repository, name, version and archive.
    pub(crate) planned: Planned,
    /// The SHA-256 of its archive, in lower-case hex.
    pub(crate) sha256: String,
    /// The signature of its archive, in Base64.
    pub(crate) pgpsig: Option<String>,
    /// Whether it was explicitly installed.
    pub(crate) explicit: bool,
    /// Where the archive was from, if the command line gave it as a file.
    pub(crate) origin: Option<String>,
}

impl Locked {
    /// Returns whether the command line gave it as a file: no server of the configuration has it.
    pub(crate) fn is_file(&self) -> bool {
        Package::is_own(&self.planned.repo)
    }

    /// Returns whether the command line said that it is not signed.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.planned.repo == Package::UNSIGNED
    }
}

/// What to do where the archives are not known.
const UNKNOWN: &str = "a document that was begun again over an old root is not a lock: give the one that the root was made with, or \
                       make a new root and keep its document";

/// Reads a lock for a root of this architecture.
///
/// # Errors
///
/// [`Code::Usage`] where there is no such file, or it is not a lock for this root; [`Code::BadDocument`] where it is not a
/// document.
pub(crate) fn read(path: &Path, arch: &str) -> Result<Vec<Locked>, Failure> {
    let doing = || format!("reading the lock {}", quote(path));
    let text = std::fs::read(path).doing(Code::Usage, doing)?;
    let document = Document::parse(&text, &quote(path))?;
    let unfit = |why: String| Failure::new(Code::Usage, format!("{}: {why}", doing()));
    if let Some(tool) = document.failed_tool() {
        return Err(unfit(format!("its root was not finished: {tool} failed")));
    }
    match document.arch() {
        Some(of) if of == arch => {}
        Some(of) => return Err(unfit(format!("it is for {of}, and the root is for {arch}"))),
        None => return Err(unfit("it does not say for which architecture it is".into())),
    }
    let packages: Vec<Package> = document.get().unwrap_or_default();
    if packages.is_empty() {
        return Err(unfit("it has no packages".into()).hint("give the document of a finished root"));
    }
    let mut names = BTreeSet::new();
    let mut locked = Vec::new();
    for package in packages {
        let shown = quote(&package.name);
        if !names.insert(package.name.clone()) {
            return Err(unfit(format!("{shown} is in it twice")));
        }
        locked.push(check(package, |why| unfit(format!("{shown}: {why}")))?);
    }
    Ok(locked)
}

/// Takes a package whose every text is valid: they become names of files and texts of a database.
fn check(package: Package, unfit: impl Fn(String) -> Failure) -> Result<Locked, Failure> {
    let invalid = |what: &str, value: &str| Err(unfit(format!("invalid {what}: {}", quote(value))));
    let check = |what: &str, value: Option<&String>, is_valid: fn(&str) -> bool| match value {
        Some(value) if is_valid(value) => Ok(value.clone()),
        Some(value) => invalid(what, value),
        None => {
            let why = format!("it does not say its {what}: no run that this document knows of installed it");
            Err(unfit(why).hint(UNKNOWN))
        }
    };
    if let Some(signature) = &package.pgpsig {
        check("signature", Some(signature), |text| db::decode_signature(text).is_some())?;
    }
    check("architecture", Some(&package.arch), name::is_arch)?;
    Ok(Locked {
        planned: Planned {
            name: check("name", Some(&package.name), name::is_name)?,
            version: check("version", Some(&package.version), name::is_version)?,
            repo: check("repository", package.repo.as_ref(), name::is_name)?,
            file: check("file", package.file.as_ref(), name::is_filename)?,
            download: 0,
        },
        sha256: check("SHA-256", package.sha256.as_ref(), is_sha256)?.to_ascii_lowercase(),
        explicit: package.reason.as_deref() != Some("dependency"),
        pgpsig: package.pgpsig,
        origin: package.origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HASH: &str = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    fn package() -> Value {
        json!({"name": "a", "version": "1:2-1", "arch": "any", "repo": "core", "file": "a-1:2-1-any.pkg.tar.zst",
               "sha256": HASH, "verified": true})
    }

    fn lock(document: &Value) -> Result<Vec<Locked>, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), document.to_string()).unwrap();
        read(file.path(), "aarch64")
    }

    #[test]
    fn a_finished_document_is_a_lock() {
        let locked = lock(&json!({"strapline": 1, "arch": "aarch64", "packages": [package()]})).unwrap();
        assert_eq!(locked.len(), 1);
        assert_eq!((locked[0].planned.repo.as_str(), locked[0].sha256.as_str()), ("core", &*HASH.to_lowercase()));
    }

    #[test]
    fn what_is_no_lock_for_this_root_is_refused() {
        let with = |key: &str, value: Value| {
            let mut package = package();
            package[key] = value;
            json!({"strapline": 1, "arch": "aarch64", "packages": [package]})
        };
        let without = |key: &str| {
            let mut package = package();
            package.as_object_mut().unwrap().remove(key);
            json!({"strapline": 1, "arch": "aarch64", "packages": [package]})
        };
        for (document, why) in [
            (json!({"strapline": 1, "arch": "x86_64", "packages": [package()]}), "it is for x86_64, and the root"),
            (json!({"strapline": 1, "packages": [package()]}), "for which architecture"),
            (json!({"strapline": 1, "arch": "aarch64"}), "it has no packages"),
            (json!({"strapline": 1, "arch": "aarch64", "packages": [package(), package()]}), "'a' is in it twice"),
            (without("sha256"), "'a': it does not say its SHA-256"),
            (without("repo"), "'a': it does not say its repository"),
            (with("file", "../a".into()), "'a': invalid file: '../a'"),
            (with("sha256", "00".into()), "'a': invalid SHA-256: '00'"),
            (with("name", "-a".into()), "'-a': invalid name"),
            (with("version", "1\n%NAME%".into()), "invalid version"),
            (with("pgpsig", "no".into()), "invalid signature"),
        ] {
            let failure = lock(&document).unwrap_err();
            assert!(failure.message.contains(why), "{failure}");
            assert_eq!(failure.code, Code::Usage, "{failure}");
            let is_unknown = why.contains("does not say its");
            assert_eq!(failure.hint.as_deref() == Some(UNKNOWN), is_unknown, "{failure}");
        }
        let failed = json!({"strapline": 1, "arch": "aarch64", "packages": [package()],
            "error": {"tool": "strap", "code": "failed", "message": "m", "exit": 69, "also": []}});
        assert!(lock(&failed).unwrap_err().message.ends_with("its root was not finished: strap failed"));
        assert_eq!(read(Path::new("/no/such"), "x").unwrap_err().code, Code::Usage);
    }
}
