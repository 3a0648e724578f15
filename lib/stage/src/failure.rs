//! Why a stage failed: for the user (stderr), the shell (exit status) and the next stage (the document).
//!
//! The exit statuses are those of sysexits(3) that a caller can act on. They must not collide with 1 and 2, which
//! programs and shells use for everything.

use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt::Display;
use std::io;

/// What kind of failure it is: a stable word, and the exit status that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The command line is wrong.
    Usage,
    /// stdin is not a usable document; nothing was changed.
    BadDocument,
    /// It could not be done.
    Failed,
    /// A program that we ran failed.
    ChildFailed,
    /// A hash or a signature is wrong, or cannot be checked.
    NotVerified,
    /// Something is not there.
    NotFound,
    /// A system call failed.
    Os,
    /// The document could not be written; the work is undone.
    Output,
    /// In use. May be temporary.
    Busy,
    /// The network or a server failed. May be temporary.
    Network,
    /// A program that we ran made no progress and was killed. May be temporary.
    Hung,
    /// Needs root, a range of subordinate ids or a capability.
    Permission,
    /// A signal asked us to stop.
    Interrupted,
}

impl Code {
    /// Every code, for tables in tests and man pages.
    pub const ALL: [Self; 13] = [
        Self::Usage,
        Self::BadDocument,
        Self::Failed,
        Self::ChildFailed,
        Self::NotVerified,
        Self::NotFound,
        Self::Os,
        Self::Output,
        Self::Busy,
        Self::Network,
        Self::Hung,
        Self::Permission,
        Self::Interrupted,
    ];

    /// Returns the word that stands in `error.code`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::BadDocument => "bad-document",
            Self::Failed => "failed",
            Self::ChildFailed => "child-failed",
            Self::NotVerified => "not-verified",
            Self::NotFound => "not-found",
            Self::Os => "os",
            Self::Output => "output",
            Self::Busy => "busy",
            Self::Network => "network",
            Self::Hung => "hung",
            Self::Permission => "permission",
            Self::Interrupted => "interrupted",
        }
    }

    /// Returns the exit status: `EX_USAGE`, `EX_DATAERR`, `EX_UNAVAILABLE`, `EX_OSERR`, `EX_IOERR`, `EX_TEMPFAIL` and
    /// `EX_NOPERM` of sysexits(3), and 128 + SIGINT for a signal, as a shell says it.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::BadDocument => 65,
            Self::Failed | Self::ChildFailed | Self::NotVerified | Self::NotFound => 69,
            Self::Os => 71,
            Self::Output => 74,
            Self::Busy | Self::Network | Self::Hung => 75,
            Self::Permission => 77,
            Self::Interrupted => 130,
        }
    }
}

/// What a failure comes from, for callers that act on it. The message is for people: no code reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// A server answered, and does not have the file: HTTP 404 or 410, or for `file://` no such file.
    NotOnServer,
    /// A server requires a login, or denies access: HTTP 401, 403 or 407.
    Unauthorized,
    /// A server's TLS certificate is not accepted.
    Certificate,
    /// A file system is full.
    NoSpace,
    /// A package has a file that is there already, and that no package owns.
    FileExists,
    /// The keyring lacks the signing key, or does not trust it: a newer keyring package may.
    OldKeyring,
    /// The kernel refused for a reason that `doctor` finds; the hint says no more than that.
    SeeDoctor,
    /// A system call failed with this error number, as of errno(3).
    System(i32),
}

/// A failure: one line that a person can act on, the code a program can, and, where there is one, the fix. It passes from
/// process to process as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub code: Code,
    /// What failed and why, from the outside in, without the program's name.
    pub message: String,
    /// How to fix it: a command where there is one.
    pub hint: Option<String>,
    /// What it comes from.
    pub cause: Option<Cause>,
}

impl Failure {
    /// Returns a failure of this kind with this message.
    pub fn new(code: Code, message: impl Display) -> Self {
        Self { code, message: message.to_string(), hint: None, cause: None }
    }

    /// Returns the failure of a system call: what was being done, and the error, whose number becomes the cause.
    pub fn system<E: Display + 'static>(code: Code, doing: impl Display, error: E) -> Self {
        Self { cause: error_number(&error).map(Cause::System), ..Self::new(code, format!("{doing}: {error}")) }
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Sets what it comes from.
    #[must_use]
    pub fn cause(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Returns the failure inside an error that [`io::Error::other`] made of one.
    ///
    /// # Errors
    ///
    /// The error itself when there is none in it.
    pub fn of_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// Puts before the message what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Adds to an error what was being done.
pub trait Doing<T> {
    /// Turns an error into a [`Failure`] with the message `doing what 'path': reason`. Of a system call, the error number
    /// becomes the cause.
    ///
    /// # Errors
    ///
    /// When `self` is an error.
    fn doing<D: Display>(self, code: Code, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: Display + 'static> Doing<T> for Result<T, E> {
    fn doing<D: Display>(self, code: Code, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|e| Failure::system(code, what(), e))
    }
}

fn error_number(error: &dyn Any) -> Option<i32> {
    let of_io = error.downcast_ref::<io::Error>().map(io::Error::raw_os_error);
    let of_nix = || Some(*error.downcast_ref::<nix::errno::Errno>()? as i32);
    let of_rustix = || Some(error.downcast_ref::<rustix::io::Errno>()?.raw_os_error());
    of_io.unwrap_or_else(|| of_nix().or_else(of_rustix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_word_and_an_exit_status() {
        let mut words: Vec<_> = Code::ALL.iter().map(|c| c.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!([64, 65, 69, 71, 74, 75, 77, 130].contains(&code.exit()));
            assert_eq!(serde_json::to_value(code).unwrap(), code.word());
        }
    }

    #[test]
    fn the_error_number_of_a_system_call_is_kept() {
        let cause = |result: Result<(), Failure>| result.unwrap_err().cause;
        let number = nix::libc::ENOSPC;
        let system = Some(Cause::System(number));
        let io = || Err(io::Error::from_raw_os_error(number));
        assert_eq!(cause(io().doing(Code::Os, || "")), system);
        let nix = Err(nix::errno::Errno::from_raw(number));
        assert_eq!(cause(nix.doing(Code::Os, || "")), system);
        let rustix = Err(rustix::io::Errno::from_raw_os_error(number));
        assert_eq!(cause(rustix.doing(Code::Os, || "")), system);
        assert_eq!(cause(Err("text").doing(Code::Os, || "")), None);
    }

    #[test]
    fn messages_read_from_the_outside_in() {
        let inner: Result<(), _> = Err("No such file or directory");
        let failure = inner.doing(Code::Os, || "opening '/x'").unwrap_err();
        assert_eq!(
            failure.while_doing("reading the plan").message,
            "reading the plan: opening '/x': No such file or directory"
        );
    }
}
