//! Reading what a mirror serves, as hostile input: repository databases, package archives, versions.
//!
//! Nothing here opens a file, speaks to a network or runs a program: a caller hands in a reader or
//! bytes and gets owned values or an [`Error`]. Whoever controls a mirror (or the plain-HTTP way
//! to it) chooses every byte, so every parser has a limit, checks names before it hands them out,
//! and treats input that ends early as an error. What is read is still only as good as the hash or
//! signature that the caller compares afterwards.
//!
//! pacman is the measure: what libalpm reads, this reads, and where two parsers could see two
//! different things in the same bytes, this refuses.

pub mod archive;
pub mod db;
pub mod decompress;
pub mod digest;
mod error;
pub mod localdb;
pub mod mtree;
pub mod name;
pub mod page;
pub mod pkginfo;
mod sections;
mod tape;
#[cfg(test)]
mod testing;
pub mod version;

pub use error::{Error, Result};
