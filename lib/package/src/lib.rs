//! Formats that a mirror serves, read as hostile input: repository databases, package archives, versions.
//!
//! Nothing here opens a file, uses a network or runs a program: a caller passes a reader or bytes and gets owned values or
//! an [`Error`]. Whoever controls a mirror (or the plain-HTTP way to it) chooses every byte, so every parser has a limit,
//! checks names before it returns them, and treats input that ends early as an error. What is read can be trusted only as
//! far as the hash or signature that the caller compares afterwards.
//!
//! What libalpm reads, this reads; where two parsers could see two different things in the same bytes, this refuses.

pub mod archive;
pub mod db;
pub mod dbtar;
pub mod decompress;
pub mod desc;
pub mod digest;
mod error;
pub mod localdb;
pub mod member;
pub mod mtree;
pub mod name;
pub mod page;
pub mod pkginfo;
pub mod relations;
mod sections;
mod tape;
#[cfg(test)]
mod tests;
pub mod version;

pub use error::{Error, Result};
