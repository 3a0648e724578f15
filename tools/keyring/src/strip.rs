//! `--strip`: takes out of a root's keyring what no image may carry.
//!
//! The keyring's own secret key is that of one machine: whoever has it can sign any key, and every machine that has the same
//! keyring believes it. So it goes, and with it what is worth nothing without it, for a machine that makes its own at first
//! boot (pacman-key(8), `--init` and `--populate`, from the keyring package that it has; no network). A container has no
//! first boot: there the public keys and the trust in them may stay, and packages can still be verified.

use crate::home::{self, Home, Place};
use clap::ValueEnum;
use pacman::secret;
use rootfs::Root;
use stage::members::Keyring;
use stage::{Code, Document, Failure, quote};

/// What is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strip {
    /// All keys, and the trust in them: the machine makes a keyring of its own
    All,
    /// The secret key only: packages can still be verified, no key can be added
    Secret,
}

impl Strip {
    /// Returns its word, as it stands in the document.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Secret => "secret",
        }
    }

    /// Takes it out, and proves that no secret key is left. Returns whether there was anything. What was set aside goes, too: an
    /// image carries no keyring that nobody uses.
    ///
    /// # Errors
    ///
    /// When the keyring cannot be read or written; then it is as it was.
    pub(crate) fn apply(self, root: &Root) -> Result<bool, Failure> {
        let place = match Place::in_root(root) {
            Err(failure) if failure.code == Code::NotFound => return Ok(false),
            place => place?,
        };
        let secrets = !secret::keys(root)?.is_empty();
        let public = place.read_public()?;
        if place.is_there() {
            let mut home = Home::without_keys(None);
            if self == Self::Secret {
                home.add_public(public.clone());
            }
            place.write_new(&home).and_then(|()| place.replace())?;
        }
        place.remove_new()?;
        place.remove_set_aside()?;
        match secret::keys(root)?.first() {
            None => Ok(secrets || (self == Self::All && !public.is_empty())),
            Some(path) => Err(Failure::new(
                Code::Failed,
                format!(
                    "stripping the keyring: {} is still there",
                    quote(root.path().join(path))
                ),
            )),
        }
    }

    /// Writes it down in the document.
    pub(crate) fn record(self, document: &mut Document, root: &Root) -> Result<(), Failure> {
        let known: Option<Keyring> = document.get();
        let known = known.unwrap_or_else(|| Keyring {
            dir: root.path().join(home::AT),
            populated: Vec::new(),
            trusted: Vec::new(),
            extended: Vec::new(),
            stripped: None,
        });
        let keyring = Keyring {
            trusted: match self {
                Self::All => Vec::new(),
                Self::Secret => known.trusted,
            },
            stripped: Some(self.word().to_owned()),
            ..known
        };
        document.write(&keyring);
        Ok(())
    }
}
