//! `--key`: a public key in a file, whose fingerprint is a pin because the user gave the file.

use crate::Session;
use crate::trust::RingFiles;
use pacman::gpg::listing::Keys;
use pacman::gpg::{self, Home};
use stage::members::OwnKey;
use stage::{Code, Doing, Failure, quote};
use std::path::PathBuf;

/// The longest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A key, as gpg exports it again.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(crate) struct KeyFile {
    pub(crate) fingerprint: String,
    /// In ASCII armour.
    key: String,
}

impl KeyFile {
    /// Returns it as a ring that says of itself whom it trusts.
    pub(crate) fn ring(&self) -> RingFiles {
        RingFiles {
            name: self.fingerprint.clone(),
            keys: self.key.clone().into(),
            trusted: Some(format!("{}:4:\n", self.fingerprint).into()),
            revoked: None,
        }
    }

    /// Returns what the document has of it.
    pub(crate) fn record(&self) -> OwnKey {
        OwnKey { fingerprint: self.fingerprint.clone(), key: self.key.clone() }
    }
}

/// Reads the files.
///
/// # Errors
///
/// When one cannot be read, or is not one public key that gpg takes.
pub(crate) fn read(session: Session<'_>, paths: &[PathBuf]) -> Result<Vec<KeyFile>, Failure> {
    let mut keys: Vec<KeyFile> = Vec::new();
    for path in paths {
        let doing = || format!("reading the key {}", quote(path));
        let file = stage::file::open(path).doing(Code::Usage, doing)?;
        let bytes = stage::file::read_to_limit(file, LIMIT).doing(Code::Usage, doing)?;
        let key = session.inside.call(rootfs::Place::Host, &[], || one(session, &bytes));
        let key = key.map_err(|failure| failure.while_doing(doing()))?;
        if keys.iter().all(|known| known.fingerprint != key.fingerprint) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Has gpg read the one key in `bytes`, in a scratch home.
fn one(session: Session<'_>, bytes: &[u8]) -> Result<KeyFile, Failure> {
    let scratch = gpg::mount_scratch()?;
    let home = Home::create::<&[u8]>(session.gpg, scratch, &[])?;
    let file = scratch.with_extension("key");
    std::fs::write(&file, bytes).doing(Code::Os, || format!("writing {}", quote(&file)))?;
    let file = file.to_string_lossy();
    let wrong = |why: String, hint: &str| Failure::new(Code::Usage, why).hint(hint);
    let export = "export it with 'gpg --export --armor FINGERPRINT > FILE'";
    let shown = home.run(&["--with-colons", "--import-options=show-only", "--import", &file])?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    if text.lines().any(|line| line.starts_with("sec:")) {
        return Err(wrong("it has a secret key, which is for nobody but its owner".to_owned(), export));
    }
    let listed = Keys::parse(text.as_bytes()).list;
    let [key] = &listed[..] else {
        return Err(match listed.len() {
            0 => wrong(format!("there is no OpenPGP key in it: gpg: {}", shown.error), export),
            n => wrong(format!("there are {n} keys in it"), "give each key in a file of its own"),
        });
    };
    home.run(&["--import", &file])?;
    let exported = home.run(&["--armor", "--export-options=export-minimal", "--export", "--", &key.fingerprint])?;
    let key_text = String::from_utf8_lossy(&exported.stdout).into_owned();
    if key_text.is_empty() {
        let why = format!("gpg does not take {}: it has no name that it signed itself", key.fingerprint);
        return Err(wrong(why, export));
    }
    Ok(KeyFile { fingerprint: key.fingerprint.clone(), key: key_text })
}
