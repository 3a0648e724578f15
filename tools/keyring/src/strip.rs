//! `--strip`: removes from a root's keyring what no image may contain.
//!
//! The keyring's own secret key is that of one machine: whoever has it can sign any key, and every machine with the same
//! keyring trusts that. Without it the rest is worth nothing to a machine that makes its own at first boot (pacman-key(8),
//! `--init` and `--populate`, from the keyring package that it has; no network). A container has no first boot: there the
//! public keys and the trust in them may stay, and packages can still be verified.

use crate::home::{KeyringFiles, Place, Which};
use clap::ValueEnum;
use pacman::{gpg, secret};
use rootfs::Root;
use stage::members::Keyring;
use stage::{Code, Document, Failure, quote};

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strip {
    /// All keys, and the trust in them: the machine makes a keyring of its own
    All,
    /// The secret key only: packages can still be verified, no key can be added
    Secret,
}

impl Strip {
    /// Removes it, and checks that no secret key is left. Keyrings that were set aside are removed, too. Returns whether there
    /// was anything.
    ///
    /// # Errors
    ///
    /// When the keyring cannot be read or written; then it is unchanged.
    pub(crate) fn apply(self, root: &Root) -> Result<bool, Failure> {
        let place = match Place::in_root(root) {
            Err(failure) if failure.code == Code::NotFound => return Ok(false),
            place => place?,
        };
        let secrets = !secret::keys(root)?.is_empty();
        let public = place.read_public(Which::Present)?;
        let has_keys = secrets || (self == Self::All && !public.is_empty());
        if place.is_there() {
            let mut files = KeyringFiles::without_keys(None);
            if self == Self::Secret {
                files.add_public(public);
            }
            place.write_new(&files)?;
            place.replace()?;
        }
        place.remove_unfinished()?;
        place.remove_set_aside()?;
        match secret::keys(root)?.first() {
            None => Ok(has_keys),
            Some(path) => {
                let path = quote(root.path().join(path));
                let message = format!("stripping the keyring: {path} is still there");
                Err(Failure::new(Code::Failed, message))
            }
        }
    }

    /// Records it in the document.
    pub(crate) fn record(self, document: &mut Document, root: &Root) {
        let known: Option<Keyring> = document.get();
        let mut keyring = known.unwrap_or_else(|| Keyring { dir: root.path().join(gpg::AT), ..Keyring::default() });
        let word = match self {
            Self::All => {
                keyring.trusted.clear();
                "all"
            }
            Self::Secret => "secret",
        };
        keyring.stripped = Some(word.to_owned());
        document.write(&keyring);
    }
}
