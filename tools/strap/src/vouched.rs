//! Which keys may sign packages of which repository: [`pacman::publishers`], for a transaction.

use pacman::Transaction;
use pacman::publishers::Vouchers;
use stage::members::{Config, Keyring};
use stage::{Document, Failure};

/// The configuration, and the keys for its repositories.
#[derive(Debug)]
pub(crate) struct Vouched {
    config: Config,
    vouchers: Vouchers,
}

impl Vouched {
    /// Reads what `mkconf` and `keyring` recorded.
    ///
    /// # Errors
    ///
    /// As [`Vouchers::of`].
    pub(crate) fn of(document: &Document, config: &Config) -> Result<Self, Failure> {
        let keyring: Option<Keyring> = document.get();
        Ok(Self { config: config.clone(), vouchers: Vouchers::of(config, keyring.as_ref())? })
    }

    /// Returns whether nothing is to be checked.
    pub(crate) fn is_empty(&self) -> bool {
        self.vouchers.is_empty()
    }

    /// Checks the packages that pacman is to install, which are in the cache.
    ///
    /// # Errors
    ///
    /// As [`Vouchers::check`] and [`pacman::Pacman::preview_all`].
    pub(crate) fn check(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        if self.vouchers.is_empty() {
            return Ok(());
        }
        let Transaction { pacman, operation, targets, planned } = transaction;
        // What the receipt leaves out as odd is installed all the same.
        let all = if operation.is_sync() { pacman.preview_all(*operation, targets)? } else { planned.clone() };
        self.vouchers.check(pacman.inside, &self.config, &all)
    }
}
