//! Whose fault it is: a server's, so that the next one is asked, or our own, so that nobody is.

use stage::{Code, Failure};

/// Why one server did not give what it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) reason: String,
    /// Whether the same server is worth another try.
    pub(crate) again: bool,
    /// What mends it, where that is not said of every fault of its code.
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            again: false,
            hint: None,
        }
    }

    pub(crate) fn again(mut self) -> Self {
        self.again = true;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns how much it matters beside the faults of other servers: what is wrong before what may go away, and that
    /// before what is not there.
    pub(crate) fn weight(&self) -> u8 {
        match self.code {
            Code::NotVerified => 3,
            Code::Network => 2,
            Code::NotFound => 0,
            _ => 1,
        }
    }
}

/// Why a download ended.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// The server failed: ask the next one.
    Server(Fault),
    /// We failed, or were told to stop.
    Own(Failure),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Server(fault)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Own(failure)
    }
}
