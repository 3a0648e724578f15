//! Running a program inside: pacman of the host, or what the root has.

use rootfs::session::Output;
use rootfs::{Ended, Inside, Job};
use rustix::pipe::{PipeFlags, pipe_with};
use stage::{Code, Context, Doing, Failure, quote};
use std::ffi::OsString;
use std::io::Write;

/// Returns an argument list.
pub(crate) fn args(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

/// Runs a program and returns all that it prints, also what it says on stderr.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn output(
    context: &Context,
    inside: &Inside,
    job: &Job<'_>,
    doing: &str,
) -> Result<Vec<u8>, Failure> {
    let mut printed = Vec::new();
    let mut keep = |bytes: &[u8]| printed.extend_from_slice(bytes);
    let (from, into) = pipe_with(PipeFlags::CLOEXEC).doing(Code::Os, || "making a pipe")?;
    let output = Output {
        sink: &mut keep,
        from,
        into,
    };
    let ran = inside.run(job, Some(output));
    if !matches!(ran, Ok((ended, _)) if ended.status() == 0) {
        // Where even this cannot be written, the line that follows cannot be either.
        std::io::stderr().write_all(&printed).unwrap_or(());
    }
    let (ended, time) = ran.map_err(|failure| hung(failure, job, doing))?;
    context.waited(time);
    if ended.status() == 0 {
        return Ok(printed);
    }
    Err(explain(ended, job, doing))
}

/// Runs a program. What it prints goes to stderr: with `--quiet` only when it failed.
///
/// # Errors
///
/// [`Code::ChildFailed`] when it fails, [`Code::NotFound`] where there is no such program.
pub(crate) fn run(
    context: &Context,
    inside: &Inside,
    job: &Job<'_>,
    doing: &str,
) -> Result<(), Failure> {
    if context.quiet {
        return output(context, inside, job, doing).map(drop);
    }
    let ran = inside.run(job, None);
    let (ended, time) = ran.map_err(|failure| hung(failure, job, doing))?;
    context.waited(time);
    if ended.status() == 0 {
        return Ok(());
    }
    Err(explain(ended, job, doing))
}

/// Says what it was that made no progress.
fn hung(failure: Failure, job: &Job<'_>, doing: &str) -> Failure {
    match failure.code {
        Code::Hung => failure.while_doing(format_args!("{doing} {}", quote(job.program))),
        _ => failure,
    }
}

fn explain(ended: Ended, job: &Job<'_>, doing: &str) -> Failure {
    let message = format!("{doing} {}: {}", quote(job.program), ended.words());
    match ended {
        Ended::NotRun(_) if ended.status() == 127 => Failure::new(Code::NotFound, message),
        _ => Failure::new(Code::ChildFailed, message),
    }
}
