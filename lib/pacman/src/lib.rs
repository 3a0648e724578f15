//! Running pacman on a root, and reading what it says and what it keeps there: what `strap` and `keyring` have in common.
//!
//! pacman's exit status is 0 or 1, and its words are for people. Here its words become codes, so that a mirror that is
//! down and a signature that does not hold are not the same failure.

pub mod cache_lock;
mod captive_portal;
pub mod conf;
mod databases;
pub mod diagnosis;
mod download;
pub mod english;
mod error_text;
pub mod fnmatch;
pub mod locale;
pub mod lock;
pub mod mirror;
pub mod origin;
pub mod output;
mod partial_downloads;
mod preflight;
pub mod records;
pub mod run;
pub mod secret;
pub mod signature_pair;
mod signature_report;
pub mod timeout;

pub use english::OutputEvent;
pub use origin::Origin;
pub use run::{Pacman, Planned};
pub use timeout::Timeout;
