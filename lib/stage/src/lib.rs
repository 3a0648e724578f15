//! What makes a program a stage of a strapline pipeline.
//!
//! A stage reads one JSON document to its end, does one thing, and hands on one document, whatever happens: on
//! success, on failure, on a usage error and on a signal. This crate holds what is the same in all of them, so that
//! a tool's `main.rs` says only what the tool is. The normative text of the protocol is `strapline-document(5)`.
//!
//! A thing moves in here when a second tool needs it and both need the same thing.

pub mod child;
pub mod date;
pub mod document;
pub mod failure;
pub mod file;
pub mod members;
pub mod message;
mod path;
pub mod run;
pub mod signal;

pub use document::Document;
pub use failure::{Cause, Code, Doing, Failure};
pub use message::quote;
pub use run::{Common, Context, Kind, Stage, main};
