//! What init and the command tell the tool: one JSON value a line, over a pipe.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Cause, Code, Failure};
use std::os::fd::BorrowedFd;

/// What the tool tells init: to go on. Any other byte is the number of a signal that it hands on.
pub(super) const GO: u8 = 0xff;

/// What init and the command tell the tool, one JSON value a line.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Frame {
    /// Init's parent-death signal is set; in a user namespace its maps are wanted now.
    Ready,
    /// Init has made a user namespace and wants the identity map.
    Map,
    /// Something failed before the command ran.
    Failed(Told),
    /// execve(2) failed with this error number.
    NotRun(i32),
    /// The command ended: exit status or signal, and seconds.
    Ended(Option<i32>, Option<i32>, f64),
    /// What a called function returned.
    Result(Vec<u8>),
}

/// A failure on its way from process to process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Told {
    code: String,
    message: String,
    hint: Option<String>,
    cause: Option<Cause>,
}

impl Told {
    pub(super) fn of(failure: Failure) -> Self {
        Self {
            code: failure.code.word().to_owned(),
            message: failure.message,
            hint: failure.hint,
            cause: failure.cause,
        }
    }

    pub(super) fn failure(self) -> Failure {
        let code = Code::ALL.into_iter().find(|c| c.word() == self.code);
        Failure {
            code: code.unwrap_or(Code::Os),
            message: self.message,
            hint: self.hint,
            cause: self.cause,
        }
    }
}

pub(super) fn tell(to: BorrowedFd<'_>, frame: &Frame) {
    let mut line = serde_json::to_vec(frame).unwrap_or_default();
    line.push(b'\n');
    // A tool that does not read any more is dead, and we are about to be.
    write_all(to, &line).unwrap_or(());
}

pub(super) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
