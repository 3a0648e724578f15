//! Completion of command lines in shells, from the same definitions as `--help`.
//!
//! With `STRAPLINE_COMPLETE=SHELL` in the environment a tool prints what the shell has to run, or what a word may be, and ends: see
//! clap_complete. `strapline completions SHELL` puts those of all tools together.

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

/// The variable that a shell sets to complete a command line. clap_complete's own name, `COMPLETE`, may be anybody's.
pub const VARIABLE: &str = "STRAPLINE_COMPLETE";

/// Answers a shell that completes a command line, and ends the program. Returns where no shell asks.
pub fn answer<S: CommandFactory>() {
    CompleteEnv::with_factory(S::command).var(VARIABLE).complete();
}

/// Returns the completion of a value that is one of some names, or anything else.
#[must_use]
pub fn names<I: Iterator<Item = &'static str> + 'static>(names: fn() -> I) -> ArgValueCandidates {
    ArgValueCandidates::new(move || names().map(CompletionCandidate::new).collect())
}
