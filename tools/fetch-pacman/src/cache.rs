//! The cache of packages, by their hash.
//!
//! * `packages-by-hash/SHA256.pkg`: a package, `SHA256.json`: its name and origin, and the hashes of the members that were
//!   extracted, and `SHA256.sig`: the signature that it was verified by.
//! * `pacman/SHA256/…`: the program of that package.
//! * `trial/`: a database and a package to try a pacman with.
//!
//! Nothing is trusted because it is here: a package's hash and signature are checked each time that it is used.

use crate::draft::Draft;
use nix::fcntl::OFlag;
use package::digest::{Sha256Reader, sha256_hex};
use package::version::vercmp;
use serde::{Deserialize, Serialize};
pub(crate) use stage::members::PacmanPackage as Origin;
use stage::{Code, Context, Doing, Failure, quote};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The largest signature that libalpm takes.
pub(crate) const LARGEST_SIGNATURE: u64 = 16 << 10;

/// The content of `SHA256.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Card {
    #[serde(flatten)]
    origin: Origin,
    /// Members that were extracted, and the SHA-256 of each.
    #[serde(default)]
    members: BTreeMap<String, String>,
}

/// A package whose hash is the expected one.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) file: File,
    /// Where it is not in the cache yet.
    draft: Option<Draft>,
}

/// The directory of a cache.
#[derive(Debug)]
pub(crate) struct Cache {
    top: PathBuf,
    packages: PathBuf,
}

impl Cache {
    /// Opens a cache, and makes its directories.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        for part in ["packages-by-hash", "pacman"] {
            make_dir(&dir.join(part))?;
        }
        let doing = || format!("opening cache {}", quote(dir));
        let mode = std::fs::metadata(dir).doing(Code::Os, doing)?.permissions().mode();
        // Between the check of a hash and the use of a file, anyone could put another there.
        if mode & 0o002 != 0 {
            let why = format!("using cache {}: anyone may write to it", quote(dir));
            return Err(Failure::new(Code::Permission, why).hint(format!("chmod o-w {}", quote(dir))));
        }
        let top = dir.canonicalize().doing(Code::Os, doing)?;
        // Paths in it end up in the document.
        if top.to_str().is_none() {
            return Err(Failure::new(Code::Usage, format!("using cache {}: the path is not UTF-8", quote(&top))));
        }
        let packages = top.join("packages-by-hash");
        Ok(Self { top, packages })
    }

    fn path(&self, sha256: &str, extension: &str) -> PathBuf {
        self.packages.join(format!("{sha256}.{extension}"))
    }

    /// Returns a directory of the cache, and makes it. It is never removed, so a killed run leaves nothing elsewhere.
    pub(crate) fn directory(&self, below: &str) -> Result<PathBuf, Failure> {
        let dir = self.top.join(below);
        make_dir(&dir)?;
        Ok(dir)
    }

    /// Returns the package with that hash. One that was damaged is removed.
    pub(crate) fn find(&self, context: &Context, sha256: &str) -> Result<Option<Package>, Failure> {
        let path = self.path(sha256, "pkg");
        let doing = || format!("reading {}", quote(&path));
        let file = match open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.doing(Code::Os, doing)?,
        };
        let mut hash = Sha256Reader::new(&file);
        hash.drain().doing(Code::Os, doing)?;
        if hash.finish() == sha256 {
            return Ok(Some(Package { file, draft: None }));
        }
        context.warn(format_args!("{} was damaged: removing it", quote(&path)));
        std::fs::remove_file(&path).doing(Code::Os, || format!("removing {}", quote(&path)))?;
        Ok(None)
    }

    /// Writes a package that was downloaded. It gets its name in the cache by [`Cache::keep`].
    pub(crate) fn add(&self, bytes: &[u8], sha256: &str) -> Result<Package, Failure> {
        let is = sha256_hex(bytes);
        if is != sha256 {
            let why = match package::decompress::reader(bytes) {
                Err(e) => e.to_string(),
                Ok(_) => format!("its SHA-256 is {is}, and should be {sha256}"),
            };
            return Err(Failure::new(Code::NotVerified, why));
        }
        let write = || {
            let mut draft = Draft::new_in(&self.packages)?;
            draft.file.write_all(bytes)?;
            draft.file.rewind()?;
            Ok(Package { file: draft.file.try_clone()?, draft: Some(draft) })
        };
        write().map_err(|e: io::Error| {
            let why = format!("writing in {}: {e}", quote(&self.packages));
            Failure::new(Code::Os, why).hint("make room, or choose another place with --cache-dir DIR")
        })
    }

    /// Keeps a package that was verified.
    pub(crate) fn keep(&self, package: Package, sha256: &str) -> Result<(), Failure> {
        let Some(draft) = package.draft else {
            return Ok(());
        };
        let path = self.path(sha256, "pkg");
        let kept = draft.file.sync_all().and_then(|()| draft.persist(&path));
        kept.doing(Code::Os, || format!("writing {}", quote(&path)))
    }

    fn card(&self, sha256: &str) -> Option<Card> {
        let text = std::fs::read(self.path(sha256, "json")).ok()?;
        let card: Card = serde_json::from_slice(&text).ok()?;
        (card.origin.sha256 == sha256).then_some(card)
    }

    /// Returns where a package in the cache came from.
    pub(crate) fn origin(&self, sha256: &str) -> Option<Origin> {
        Some(self.card(sha256)?.origin)
    }

    /// Returns the SHA-256 that a member of a package had when it was extracted.
    pub(crate) fn member(&self, sha256: &str, member: &str) -> Option<String> {
        self.card(sha256)?.members.remove(member)
    }

    /// Returns the newest package of that name and repository.
    pub(crate) fn newest(&self, repo: &str, name: &str) -> Result<Option<Origin>, Failure> {
        let doing = || format!("reading {}", quote(&self.packages));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.packages).doing(Code::Os, doing)? {
            let file = entry.doing(Code::Os, doing)?.file_name();
            let sha256 = file.to_str().and_then(|file| file.strip_suffix(".json"));
            let origin = sha256.and_then(|sha256| self.origin(sha256));
            found.extend(origin.filter(|o| o.repo == repo && o.name == name && self.path(&o.sha256, "pkg").is_file()));
        }
        Ok(found.into_iter().max_by(|a, b| vercmp(&a.version, &b.version)))
    }

    /// Records where a package in the cache came from, and the hash of a member.
    pub(crate) fn record(&self, origin: &Origin, member: Option<(&str, &str)>) -> Result<(), Failure> {
        let mut members = self.card(&origin.sha256).map(|card| card.members).unwrap_or_default();
        members.extend(member.map(|(member, sha256)| (member.to_owned(), sha256.to_owned())));
        let path = self.path(&origin.sha256, "json");
        let card = Card { origin: origin.clone(), members };
        let mut text = serde_json::to_vec(&card).doing(Code::Os, || format!("writing {}", quote(&path)))?;
        text.push(b'\n');
        self.write(&path, &text)
    }

    /// Returns the signature that a package in the cache was verified by.
    pub(crate) fn signature(&self, sha256: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.path(sha256, "sig");
        let mut bytes = Vec::new();
        match open(&path).and_then(|file| file.take(LARGEST_SIGNATURE).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(Code::Os, || format!("reading {}", quote(&path))),
        }
    }

    /// Keeps the signature that a package was verified by.
    pub(crate) fn keep_signature(&self, sha256: &str, signature: &[u8]) -> Result<(), Failure> {
        self.write(&self.path(sha256, "sig"), signature)
    }

    /// Replaces a small file beside the packages.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        Draft::new_in(&self.packages)
            .and_then(|mut draft| {
                draft.file.write_all(bytes)?;
                draft.persist(path)
            })
            .doing(Code::Os, || format!("writing {}", quote(path)))
    }
}

/// Opens a file that we made: not over a link, and without waiting.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Makes a directory and those above it.
fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|e| {
        let code = match e.kind() {
            ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Os,
        };
        Failure::new(code, format!("making directory {}: {e}", quote(dir)))
            .hint("choose another place with --cache-dir DIR")
    })
}

/// Returns the default directory of the cache.
pub(crate) fn default_dir(root: bool, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if root {
        return Ok("/var/cache/strapline".into());
    }
    // The XDG base directory specification: a relative path is invalid and ignored.
    let base = [xdg, home.map(|home| home.join(".cache"))].into_iter().flatten().find(|dir| dir.is_absolute());
    base.map(|base| base.join("strapline")).ok_or_else(|| {
        let why = "choosing a cache: neither XDG_CACHE_HOME nor HOME is set";
        Failure::new(Code::Usage, why).hint("give one with --cache-dir DIR")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cache_is_the_users_or_the_hosts() {
        let dir = |root, xdg: Option<&str>, home: Option<&str>| {
            default_dir(root, xdg.map(Into::into), home.map(Into::into)).ok()
        };
        assert_eq!(dir(true, Some("/x"), Some("/h")), Some("/var/cache/strapline".into()));
        assert_eq!(dir(false, Some("/x"), Some("/h")), Some("/x/strapline".into()));
        assert_eq!(dir(false, Some("x"), Some("/h")), Some("/h/.cache/strapline".into()));
        assert_eq!(dir(false, None, Some("")), None);
        assert_eq!(dir(false, None, None), None);
    }
}
