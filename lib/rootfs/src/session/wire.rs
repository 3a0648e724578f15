//! Messages between the tool and init, over pipes.

use serde::{Deserialize, Serialize};
use stage::Failure;
use std::io::{PipeWriter, Write};

/// What the tool writes to let init continue. Any other byte is the number of a signal to forward.
pub(super) const GO: u8 = 0xff;

/// What init and the command write, one JSON value a line.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Frame {
    /// Init has set its parent-death signal. In a user namespace it now needs its id maps.
    Ready,
    /// Init has made a user namespace and needs the identity map.
    Map,
    /// Something failed before the command ran.
    Failed(Failure),
    /// execve(2) failed with this error number.
    NotRun(i32),
    /// What a function returned: a `Result<T, Failure>` as JSON.
    Returned(String),
    /// Not all that was left in the root is removed.
    Left(Failure),
    /// The command or function ended: exit status or signal, and seconds.
    Ended(Option<i32>, Option<i32>, f64),
}

pub(super) fn send(mut to: &PipeWriter, frame: &Frame) {
    let mut line = serde_json::to_vec(frame).unwrap_or_default();
    line.push(b'\n');
    // If the tool no longer reads, it is dead, and the parent-death signal ends us.
    to.write_all(&line).unwrap_or(());
}
