//! Programs of the root, run in it. A password goes to one on its stdin, never in its arguments.

use rootfs::session::environment;
use stage::{Code, Doing, Failure, child, quote};
use std::io::{ErrorKind, PipeReader, Read, Write, pipe};
use std::process::{Command, ExitStatus, Stdio};

/// Runs programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs {
    /// Whether what they print is only wanted when they fail.
    pub(crate) quiet: bool,
}

impl Programs {
    /// Runs a program that is to do something; `doing` is what, as `generating the locales`. What it prints goes to stderr.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where the root has no such program, [`Code::ChildFailed`] when it fails.
    pub(crate) fn run(
        self,
        program: &str,
        args: &[&str],
        input: Option<&[u8]>,
        doing: &str,
    ) -> Result<(), Failure> {
        let mut command = command(program, args);
        let printed = match self.quiet {
            true => Some(capture(&mut command, doing)?),
            false => None,
        };
        let (status, text) = finish(command, input, printed, doing)?;
        if status.success() {
            return Ok(());
        }
        // Where even this cannot be written, the line that follows cannot be either.
        std::io::stderr().write_all(&text).unwrap_or(());
        Err(Failure::new(
            Code::ChildFailed,
            format!(
                "{doing}: running {}: {}",
                quote(program),
                child::ended(status)
            ),
        ))
    }

    /// Runs a program that is asked something, and returns what it prints on stdout, and its exit status.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub(crate) fn ask(
        self,
        program: &str,
        args: &[&str],
        input: Option<&[u8]>,
        doing: &str,
    ) -> Result<(String, Option<i32>), Failure> {
        let mut command = command(program, args);
        let printed = capture(&mut command, doing)?;
        command.stderr(Stdio::null());
        let (status, text) = finish(command, input, Some(printed), doing)?;
        Ok((String::from_utf8_lossy(&text).into_owned(), status.code()))
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment());
    // There is no systemd to talk to, and systemctl(1) believes this.
    command.env("SYSTEMD_OFFLINE", "1");
    command
}

/// Has what a program prints on stdout and stderr come to us.
fn capture(command: &mut Command, doing: &str) -> Result<PipeReader, Failure> {
    let making = || format!("{doing}: making a pipe");
    let (ours, out) = pipe().doing(Code::Os, making)?;
    let err = out.try_clone().doing(Code::Os, making)?;
    command.stdout(out).stderr(err);
    Ok(ours)
}

/// Runs a program to its end; returns how it ended, and what it printed, where that comes to us.
fn finish(
    mut command: Command,
    input: Option<&[u8]>,
    printed: Option<PipeReader>,
    doing: &str,
) -> Result<(ExitStatus, Vec<u8>), Failure> {
    let program = quote(command.get_program());
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.spawn().map_err(|e| {
        let code = match e.kind() {
            ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        Failure::new(code, format!("{doing}: running {program}: {e}"))
    })?;
    // It has our copies of the pipe's other side.
    drop(command);
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // One that hangs up early says why with its exit status.
        pipe.write_all(input).unwrap_or(());
    }
    let mut text = Vec::new();
    if let Some(printed) = printed {
        let read = printed.take(child::LIMIT + 1).read_to_end(&mut text);
        read.doing(Code::Os, || {
            format!("{doing}: reading what {program} prints")
        })?;
    }
    let endless = text.len() as u64 > child::LIMIT;
    if endless {
        // It may have ended meanwhile.
        child.kill().unwrap_or(());
    }
    let status = child
        .wait()
        .doing(Code::Os, || format!("{doing}: waiting for {program}"))?;
    if endless {
        let what = format!(
            "{doing}: {program} printed more than {} bytes",
            child::LIMIT
        );
        return Err(Failure::new(Code::ChildFailed, what));
    }
    Ok((status, text))
}
