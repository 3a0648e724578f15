//! Programs of the root, run in it. A password goes to one on its stdin, never in its arguments.

use rootfs::session::environment;
use stage::{Code, Doing, Failure, child, quote};
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

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
        if self.quiet {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let out = finish(command, input, doing)?;
        if out.status.success() {
            return Ok(());
        }
        for bytes in [&out.stdout, &out.stderr] {
            // Where even this cannot be written, the line that follows cannot be either.
            std::io::stderr().write_all(bytes).unwrap_or(());
        }
        Err(Failure::new(
            Code::ChildFailed,
            format!(
                "{doing}: running {}: {}",
                quote(program),
                child::ended(out.status)
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
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let out = finish(command, input, doing)?;
        Ok((
            String::from_utf8_lossy(&out.stdout).into_owned(),
            out.status.code(),
        ))
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment());
    // There is no systemd to talk to, and systemctl(1) believes this.
    command.env("SYSTEMD_OFFLINE", "1");
    command
}

fn finish(mut command: Command, input: Option<&[u8]>, doing: &str) -> Result<Output, Failure> {
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
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // One that hangs up early says why with its exit status.
        pipe.write_all(input).unwrap_or(());
    }
    child
        .wait_with_output()
        .doing(Code::Os, || format!("{doing}: waiting for {program}"))
}
