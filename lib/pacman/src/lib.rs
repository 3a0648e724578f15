//! Running pacman on a root, and reading what it says and what it keeps there: what `strap` and `keyring` have in common.
//!
//! pacman's exit status is 0 or 1, and its words are for people. Here its words become codes, so that a mirror that is
//! down and a signature that does not hold are not the same failure.

pub mod conf;
mod databases;
pub mod diagnosis;
mod download;
pub mod english;
pub mod fnmatch;
pub mod gpg;
pub mod locale;
pub mod lock;
pub mod mirror;
pub mod origin;
pub mod output;
pub mod pair;
mod parts;
pub mod patience;
mod places;
mod portal;
pub mod records;
mod refused;
pub mod run;
pub mod secret;
pub mod turn;
mod words;

pub use english::Mark;
pub use origin::Origin;
pub use patience::Patience;
pub use run::{Pacman, Planned};
