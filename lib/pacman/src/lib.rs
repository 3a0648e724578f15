//! Running pacman on a root, and reading what it prints and what it keeps there: what `strap`, `keyring` and `verify` have in
//! common.
//!
//! pacman's exit status is 0 or 1, and its messages are for people. Here they become codes, so that a mirror that is down and a
//! signature that is not valid are not the same failure.

pub mod cache_lock;
mod captive_portal;
pub mod conf;
pub mod databases;
pub mod diagnosis;
pub mod english;
mod error_text;
pub mod fnmatch;
pub mod gpg;
pub mod locale;
pub mod lock;
mod mirror;
pub mod operation;
pub mod origin;
pub mod output;
mod partial_downloads;
mod phases;
mod preflight;
pub mod private;
pub mod publishers;
pub mod records;
pub mod removals;
pub mod run;
pub mod scratch;
pub mod secret;
pub mod signature_pair;
mod signature_report;
pub mod timeout;

pub use english::OutputEvent;
pub use error_text::{and_more, count, first_few};
pub use mirror::Cached;
pub use operation::Operation;
pub use origin::{Origin, Transaction};
pub use run::{Pacman, Planned};
pub use timeout::Timeout;
