//! What was downloaded before, by what it is and not by what it is called.
//!
//! * `packages-by-hash/SHA256.pkg`: a whole package, `SHA256.json`: what it is, where it came from, and what the members
//!   of it that were extracted hash to, and `SHA256.sig`: the signature that it was verified by.
//! * `pacman/SHA256/…`: the program of that package.
//! * `trial/`: a database and a package to try a pacman with.
//!
//! Nothing in here is believed because it is here: a package is hashed, and its signature checked, each time that it is
//! used.

use crate::draft::Draft;
use nix::fcntl::OFlag;
use package::{digest::Sha256Reader, version::vercmp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
pub(crate) use stage::members::PacmanPackage as Origin;
use stage::{Code, Context, Doing, Failure, quote};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The largest signature that libalpm takes.
pub(crate) const LARGEST_SIGNATURE: u64 = 16 << 10;

/// What is in `SHA256.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Card {
    #[serde(flatten)]
    origin: Origin,
    /// Members that were extracted, and the SHA-256 of each.
    #[serde(default)]
    members: BTreeMap<String, String>,
}

/// Bytes that are all there, and what they hash to. What they should hash to is for [`crate::verify`] to say.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) file: File,
    pub(crate) sha256: String,
}

/// The directory of a cache.
#[derive(Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// Opens a cache, and makes what is missing of it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        for part in ["packages-by-hash", "pacman"] {
            make(&dir.join(part))?;
        }
        let mode = std::fs::metadata(dir)
            .doing(Code::Os, || format!("looking at cache {}", quote(dir)))?
            .permissions()
            .mode();
        // Between the check of a hash and the use of a file, anyone could put another there.
        if mode & 0o002 != 0 {
            let why = format!("using cache {}: anyone may write to it", quote(dir));
            return Err(
                Failure::new(Code::Permission, why).hint(format!("chmod o-w {}", quote(dir)))
            );
        }
        let dir = dir
            .canonicalize()
            .doing(Code::Os, || format!("looking for cache {}", quote(dir)))?;
        // Paths in it end up in the document.
        if dir.to_str().is_none() {
            let why = format!("using cache {}: the path is not UTF-8", quote(&dir));
            return Err(Failure::new(Code::Usage, why));
        }
        Ok(Self(dir))
    }

    fn package(&self, sha256: &str) -> PathBuf {
        self.0
            .join("packages-by-hash")
            .join(format!("{sha256}.pkg"))
    }

    fn origin(&self, sha256: &str) -> PathBuf {
        self.0
            .join("packages-by-hash")
            .join(format!("{sha256}.json"))
    }

    /// Returns where the program of a package goes by default.
    pub(crate) fn program(&self, sha256: &str, name: &str) -> Result<PathBuf, Failure> {
        let dir = self.0.join("pacman").join(sha256);
        make(&dir)?;
        Ok(dir.join(name))
    }

    /// Returns a directory where a program is tried. It stays: a run that is killed leaves nothing elsewhere.
    pub(crate) fn trial(&self) -> Result<PathBuf, Failure> {
        let dir = self.0.join("trial");
        make(&dir)?;
        Ok(dir)
    }

    /// Returns the package of that hash, if it is there and still is what it was. One that is not is removed.
    pub(crate) fn find(&self, context: &Context, sha256: &str) -> Result<Option<Whole>, Failure> {
        let path = self.package(sha256);
        let doing = || format!("reading {}", quote(&path));
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path);
        let mut file = match file {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing(Code::Os, doing)?,
        };
        let mut hash = Sha256Reader::new(&mut file);
        hash.drain().doing(Code::Os, doing)?;
        let is = hash.finish();
        if is != sha256 {
            context.warn(format_args!(
                "{} was damaged: it is not used, and removed",
                quote(&path)
            ));
            std::fs::remove_file(&path).doing(Code::Os, || format!("removing {}", quote(&path)))?;
            return Ok(None);
        }
        Ok(Some(Whole { file, sha256: is }))
    }

    fn card(&self, sha256: &str) -> Option<Card> {
        let text = std::fs::read(self.origin(sha256)).ok()?;
        let card: Card = serde_json::from_slice(&text).ok()?;
        (card.origin.sha256 == sha256).then_some(card)
    }

    /// Returns where a package in the cache came from.
    pub(crate) fn origin_of(&self, sha256: &str) -> Option<Origin> {
        Some(self.card(sha256)?.origin)
    }

    /// Returns the SHA-256 that a member of a package had when it was extracted.
    pub(crate) fn member(&self, sha256: &str, member: &str) -> Option<String> {
        self.card(sha256)?.members.remove(member)
    }

    /// Returns the newest package of that name and repository.
    pub(crate) fn newest(&self, repo: &str, name: &str) -> Result<Option<Origin>, Failure> {
        let dir = self.0.join("packages-by-hash");
        let doing = || format!("reading {}", quote(&dir));
        let mut best: Option<Origin> = None;
        for entry in std::fs::read_dir(&dir).doing(Code::Os, doing)? {
            let file = entry.doing(Code::Os, doing)?.file_name();
            let origin = file
                .to_str()
                .and_then(|file| file.strip_suffix(".json"))
                .and_then(|sha256| self.origin_of(sha256))
                .filter(|o| o.repo == repo && o.name == name && self.package(&o.sha256).is_file());
            if let Some(origin) = origin
                && best
                    .as_ref()
                    .is_none_or(|best| vercmp(&origin.version, &best.version).is_gt())
            {
                best = Some(origin);
            }
        }
        Ok(best)
    }

    /// Notes where a package in the cache came from, and what a member of it hashes to.
    pub(crate) fn note(
        &self,
        origin: &Origin,
        member: Option<(&str, &str)>,
    ) -> Result<(), Failure> {
        let path = self.origin(&origin.sha256);
        let doing = || format!("writing {}", quote(&path));
        let mut members = self
            .card(&origin.sha256)
            .map_or_else(BTreeMap::new, |card| card.members);
        if let Some((member, is)) = member {
            members.insert(member.to_owned(), is.to_owned());
        }
        let origin = origin.clone();
        let mut text = serde_json::to_vec(&Card { origin, members }).doing(Code::Os, doing)?;
        text.push(b'\n');
        self.write(&path, &text)
    }

    fn signature_path(&self, sha256: &str) -> PathBuf {
        self.0
            .join("packages-by-hash")
            .join(format!("{sha256}.sig"))
    }

    /// Returns the signature that a package in the cache was verified by, if there is one.
    pub(crate) fn signature(&self, sha256: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.signature_path(sha256);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path);
        let mut bytes = Vec::new();
        match file.and_then(|file| file.take(LARGEST_SIGNATURE).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(Code::Os, || format!("reading {}", quote(&path))),
        }
    }

    /// Keeps the signature that a package was verified by.
    pub(crate) fn sign(&self, sha256: &str, signature: &[u8]) -> Result<(), Failure> {
        self.write(&self.signature_path(sha256), signature)
    }

    /// Writes a small file beside the packages, as a whole.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let doing = || format!("writing {}", quote(path));
        let dir = self.0.join("packages-by-hash");
        // Without a name until it is whole: a run that is killed leaves nothing of it.
        let draft = Draft::new_in(&dir).doing(Code::Os, doing)?;
        draft.file().write_all(bytes).doing(Code::Os, doing)?;
        draft.put(path).doing(Code::Os, doing)
    }

    /// Begins a download. Nothing of it stays if it is not kept.
    pub(crate) fn download(&self) -> Result<Download, Failure> {
        let dir = self.0.join("packages-by-hash");
        let draft =
            Draft::new_in(&dir).doing(Code::Os, || format!("writing in {}", quote(&dir)))?;
        Ok(Download {
            dir,
            draft,
            hash: Sha256::new(),
        })
    }

    /// Makes a package of a download, which must be the whole of it.
    pub(crate) fn keep(&self, download: Download, sha256: &str) -> Result<(), Failure> {
        let path = self.package(sha256);
        let doing = || format!("writing {}", quote(&path));
        download.draft.file().sync_all().doing(Code::Os, doing)?;
        download.draft.put(&path).doing(Code::Os, doing)
    }
}

/// Makes a directory and those above it.
fn make(dir: &Path) -> Result<(), Failure> {
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

/// A package on its way into the cache.
#[derive(Debug)]
pub(crate) struct Download {
    dir: PathBuf,
    draft: Draft,
    hash: Sha256,
}

impl Download {
    /// Adds to the end.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.draft.file().write_all(bytes);
        written.map_err(|e| {
            Failure::new(Code::Os, format!("writing in {}: {e}", quote(&self.dir)))
                .hint("make room, or choose another place with --cache-dir DIR")
        })?;
        self.hash.update(bytes);
        Ok(())
    }

    /// Returns it as a package that is not kept yet, at its beginning.
    pub(crate) fn whole(&self) -> Result<Whole, Failure> {
        let doing = || "reading a package that was downloaded";
        let mut file = self.draft.file().try_clone().doing(Code::Os, doing)?;
        file.rewind().doing(Code::Os, doing)?;
        Ok(Whole {
            file,
            sha256: format!("{:x}", self.hash.clone().finalize()),
        })
    }
}

/// Returns where the cache is when nobody says.
pub(crate) fn default_dir(
    root: bool,
    xdg: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Result<PathBuf, Failure> {
    if root {
        return Ok("/var/cache/strapline".into());
    }
    // The XDG base directory specification: a relative path is invalid and ignored.
    let base = xdg
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(home.filter(|dir| dir.is_absolute())?.join(".cache")));
    base.map(|base| base.join("strapline")).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "choosing a cache: neither XDG_CACHE_HOME nor HOME is set",
        )
        .hint("give one with --cache-dir DIR")
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
        assert_eq!(
            dir(true, Some("/x"), Some("/h")),
            Some("/var/cache/strapline".into())
        );
        assert_eq!(
            dir(false, Some("/x"), Some("/h")),
            Some("/x/strapline".into())
        );
        assert_eq!(
            dir(false, Some("x"), Some("/h")),
            Some("/h/.cache/strapline".into())
        );
        assert_eq!(dir(false, None, Some("")), None);
        assert_eq!(dir(false, None, None), None);
    }
}
