//! Trees of the builder's own files, laid over a root: what `mkroot --tree` and `configure --tree` have in common.
//!
//! A tree is read and hashed outside ([`Source::read`]), and checked and laid inside ([`Overlay`]), where owners are the root's own
//! ids for an ordinary user too. It holds files, directories and symbolic links. What it says of a file is its content and whether
//! it may be executed: owners, and any other mode, are of a list beside it ([`owners`]), since those of a working copy are
//! whatever a checkout and a umask made of them.

mod lay;
pub mod owners;
mod source;

pub use lay::{Laid, Overlay, own_file, record_again};
pub use source::Source;
