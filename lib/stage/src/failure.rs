//! Why a stage failed: for the user (stderr), the shell (exit status) and the next stage (the document).
//!
//! The exit statuses are the few of sysexits(3) that a caller can act on. Ours crosses several processes, so it must
//! not collide with 1 and 2, which children and shells use for everything. The reason itself lives in the message.

use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::io;

/// What kind of failure it is: a stable word, and the exit status that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command line is wrong.
    Usage,
    /// stdin is not a document that we can use; nothing was touched.
    BadDocument,
    /// It could not be done.
    Failed,
    /// A program that we ran failed.
    ChildFailed,
    /// A hash or a signature does not hold, or cannot be checked.
    NotVerified,
    /// What was asked for is not there.
    NotFound,
    /// A system call failed.
    Os,
    /// The document could not be handed on; what was done is undone.
    Output,
    /// In use: may go away.
    Busy,
    /// The network or a server failed: may go away.
    Network,
    /// A program that we ran did nothing any more, and was ended: may go away.
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

/// What a failure comes from, where a caller decides by it. The message is for people: no program logic reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// A server answered, and does not have the file: HTTP 404 or 410, or for `file://` no such file.
    NotOnServer,
    /// A server wants a login, or does not serve us: HTTP 401, 403 or 407.
    Unauthorized,
    /// A server's TLS certificate is not accepted.
    Certificate,
    /// A file system is full.
    NoSpace,
    /// The keyring does not have the key that signed, or it does not vouch for it: a newer keyring package may.
    OldKeyring,
    /// The kernel refused for a reason that `doctor` finds out; the hint says no more than that.
    SeeDoctor,
    /// A system call failed with this error number, as of errno(3).
    System(i32),
}

/// A failure: one line that a person can act on, the code a program can, and, where there is one, the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub code: Code,
    /// What failed and why, from the outside in, without the program's name.
    pub message: String,
    /// What mends it: a command where there is one.
    pub hint: Option<String>,
    /// What it comes from, where a caller decides by it.
    pub cause: Option<Cause>,
}

impl Failure {
    /// Returns a failure of that kind with that message.
    pub fn new(code: Code, message: impl Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
            cause: None,
        }
    }

    /// Adds what mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says what it comes from.
    #[must_use]
    pub fn cause(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Returns the failure that an error of std::io carries, as put there by [`io::Error::other`].
    ///
    /// # Errors
    ///
    /// The error itself, where it carries none.
    pub fn of_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// Puts what was being done before the message.
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

/// Adds what was being done to an error.
pub trait Doing<T> {
    /// Turns an error into a [`Failure`] that says what was being done, as `doing what 'path': reason`.
    ///
    /// # Errors
    ///
    /// When `self` is an error.
    fn doing<D: Display>(self, code: Code, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing<D: Display>(self, code: Code, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(code, format!("{}: {e}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_word_of_its_own_and_an_exit_status_of_the_table() {
        let mut words: Vec<_> = Code::ALL.iter().map(|c| c.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!([64, 65, 69, 71, 74, 75, 77, 130].contains(&code.exit()));
        }
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
