//! Programs of the host that work on an image. Ours has no name yet, and they open it by one.

use stage::{Code, Failure, child};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Returns a name of an open file, for as long as it is open here.
pub(crate) fn name_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Runs a program to its end; it dies with us.
///
/// # Errors
///
/// [`Code::ChildFailed`] where it fails, and what [`child::output`] returns.
pub(crate) fn run(program: &str, command: &mut Command) -> Result<(), Failure> {
    rootfs::die_with_us(command);
    let ran = child::output(command)?;
    if ran.status.success() {
        return Ok(());
    }
    Err(Failure::new(Code::ChildFailed, format!("running {program}: {}", child::ended(ran.status))))
}
