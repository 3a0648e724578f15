//! Which keys may sign packages of which repository: [`pacman::publishers`], for a transaction.

use pacman::Planned;
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

    /// Checks the packages that pacman is to install, which are in the cache.
    ///
    /// # Errors
    ///
    /// As [`Vouchers::check`].
    pub(crate) fn check(&self, inside: &rootfs::Inside, planned: &[Planned]) -> Result<(), Failure> {
        self.vouchers.check(inside, &self.config, planned)
    }
}
