//! What all stages of a strapline pipeline have in common.
//!
//! A stage reads one JSON document to its end, does one thing, and writes one document in any case: on success, on
//! failure, on a usage error and on a signal. `strapline-document(5)` is the normative text of the protocol.
//!
//! Code moves into this crate when a second tool needs it.

pub mod child;
pub mod complete;
pub mod date;
pub mod document;
pub mod failure;
pub mod file;
pub mod members;
pub mod message;
mod path;
pub mod progress;
pub mod run;
pub mod signal;
mod strict;

pub use document::Document;
pub use failure::{Cause, Code, Doing, Failure};
pub use message::quote;
pub use progress::{Progress, Unit};
pub use run::{Common, Context, Kind, Stage, main};

/// The tools, in the order in which a pipeline has them.
pub const TOOLS: [&str; 13] = [
    "doctor",
    "mkroot",
    "fetch-pacman",
    "mkconf",
    "keyring",
    "strap",
    "configure",
    "verify",
    "pack",
    "mkdisk",
    "enter",
    "reap",
    "unmount",
];
