//! Programs that a stage runs on the host, outside of the root.
//!
//! stdin and stdout belong to the protocol, so a child gets `/dev/null` for the first and a pipe or our stderr for the
//! second. Programs inside the root are run by `lib/rootfs` instead.

use crate::signal::{self, Wake};
use crate::{Code, Doing, Failure};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsStr;
use std::io::{ErrorKind, PipeReader, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
}

/// How many bytes of a child's output are kept: more than any program that we ask prints.
const LIMIT: u64 = 16 << 20;

/// Returns the path of a program in an absolute directory of `PATH`. A link is followed: inside the namespaces it may be hidden
/// (NixOS has it in /run).
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH")?;
    let mut directories = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    directories.find_map(|directory| directory.join(program).canonicalize().ok().filter(is_program))
}

/// Returns a command with stdin from `/dev/null` and the messages of the C locale. The caller sets its stdout.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

/// Runs a program to its end and returns what it printed on stdout; its stderr is ours. A signal that asks us to stop kills
/// it, so that no child outlives us.
///
/// # Errors
///
/// When it cannot be run, or a signal stopped us. The caller checks the exit status.
pub fn output(command: &mut Command) -> Result<Output, Failure> {
    run(command, Io::default())
}

/// Runs a program as [`output`] does, while another thread runs `feed`. The command is dropped when the program has begun, so that
/// only the program holds the ends of pipes that it inherits: what `feed` writes to them fails when the program has ended.
///
/// # Errors
///
/// As [`output`], and when there can be no other thread: then the program is killed.
pub fn output_fed(mut command: Command, feed: impl FnOnce() + Send) -> Result<Output, Failure> {
    let running = Running::start(&mut command, Io::default())?;
    drop(command);
    std::thread::scope(|scope| {
        let feed = || {
            // Inside, it is not ignored. With it, nothing can be fed.
            if SigSet::from(Signal::SIGPIPE).thread_block().is_ok() {
                feed();
            }
        };
        let feeder = std::thread::Builder::new().spawn_scoped(scope, feed);
        running.end(Io::default(), feeder.map(drop).doing(Code::Os, || "making a thread"))
    })
}

/// Runs a program as [`output`] does, with `input`, which must fit into a pipe (64 KiB), on its stdin. What it prints on stderr is returned
/// among what it prints on stdout, and with `show` it is also copied to our stderr.
///
/// # Errors
///
/// As [`output`].
pub fn transcript(command: &mut Command, input: Option<&[u8]>, show: bool) -> Result<Output, Failure> {
    let io = Io { input, stderr: true, show, limit: None };
    run(command, io)
}

/// Runs a program that reads what `feed` writes to its stdin, of any length. What it prints on stdout and stderr is returned.
///
/// # Errors
///
/// As [`output`], and what `feed` returns; a program that fails before all is written is none of them.
pub fn fed(command: &mut Command, feed: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<Output, Failure> {
    let io = Io { stderr: true, ..Io::default() };
    command.stdin(Stdio::piped());
    let Running { name, mut child, mut stdout } = Running::start(command, io)?;
    let mut to = Fed { stdin: child.stdin.take(), broken: false };
    let (fed, printed) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| collect(&mut stdout, &name, io));
        let fed = feed(&mut to);
        if fed.is_err() && !to.broken {
            // It must not take what it has for all. Kill fails only when it has ended.
            drop(child.kill());
        }
        to.stdin = None;
        let died = |_| Err(Failure::new(Code::Os, format!("reading what {name} prints: a thread died")));
        (fed, reader.join().unwrap_or_else(died))
    });
    if printed.is_err() {
        drop(child.kill());
    }
    let status = child.wait().doing(Code::Os, || format!("waiting for {name}"))?;
    match fed {
        // Of one that ended before, its status says more than the broken pipe.
        Err(failure) if !to.broken || status.success() => Err(failure),
        _ => Ok(Output { status, stdout: printed? }),
    }
}

/// The stdin of a program that is fed.
struct Fed {
    stdin: Option<ChildStdin>,
    /// Whether the program has closed it.
    broken: bool,
}

impl Write for Fed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = self.stdin.as_mut().map_or(Err(ErrorKind::BrokenPipe.into()), |stdin| stdin.write(bytes));
        self.broken |= result.as_ref().is_err_and(|e| e.kind() == ErrorKind::BrokenPipe);
        result
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a program reads, and what becomes of what it prints.
#[derive(Clone, Copy, Default)]
struct Io<'a> {
    input: Option<&'a [u8]>,
    /// Whether its stderr is collected, too.
    stderr: bool,
    /// Whether what is collected is copied to our stderr.
    show: bool,
    /// How long it may print nothing.
    limit: Option<Duration>,
}

/// Runs a program as [`output`] does, and kills it when it prints nothing for `limit`.
///
/// # Errors
///
/// As [`output`], and [`Code::Hung`].
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output, Failure> {
    let io = Io { limit: Some(limit), ..Io::default() };
    run(command, io)
}

fn run(command: &mut Command, io: Io<'_>) -> Result<Output, Failure> {
    Running::start(command, io)?.end(io, Ok(()))
}

/// A program that runs.
struct Running {
    name: String,
    child: Child,
    stdout: PipeReader,
}

impl Running {
    fn start(command: &mut Command, io: Io<'_>) -> Result<Self, Failure> {
        let name = crate::quote(command.get_program());
        let (stdout, write) = pipe().doing(Code::Os, || format!("making a pipe for {name}"))?;
        if io.stderr {
            let write = write.try_clone();
            command.stderr(write.doing(Code::Os, || format!("making a pipe for {name}"))?);
        }
        if io.input.is_some() {
            command.stdin(Stdio::piped());
        }
        let spawned = command.stdout(write).spawn();
        // The command has our copies of the pipe's other end.
        command.stdout(Stdio::null());
        if io.stderr {
            command.stderr(Stdio::null());
        }
        let child = spawned.doing(Code::Failed, || format!("running {name}"))?;
        Ok(Self { name, child, stdout })
    }

    /// Waits for its end, unless what goes beside it has failed.
    fn end(mut self, io: Io<'_>, beside: Result<(), Failure>) -> Result<Output, Failure> {
        let Self { name, child, stdout } = &mut self;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), io.input) {
            // A program that does not read it says why with its exit status.
            drop(stdin.write_all(input));
        }
        let result = beside.and_then(|()| collect(stdout, name, io));
        if result.is_err() {
            // The first error is the one to report, and kill fails only when the child has ended.
            drop(child.kill());
        }
        let status = child.wait().doing(Code::Os, || format!("waiting for {name}"))?;
        Ok(Output { status, stdout: result? })
    }
}

/// Reads what a child prints to its end. Fails when a signal asks us to stop, and when nothing comes for the limit.
fn collect(pipe: &mut PipeReader, name: &str, io: Io<'_>) -> Result<Vec<u8>, Failure> {
    let mut stdout = Vec::new();
    let mut buffer = [0; 1 << 14];
    loop {
        let ready = signal::poll_readable(&[pipe.as_fd()], io.limit, Wake::OnSignal)
            .doing(Code::Os, || format!("waiting for {name}"))?;
        let Some(ready) = ready else {
            let limit = io.limit.unwrap_or_default().as_secs_f64();
            let why = format!("running {name}: nothing happened for {limit} s");
            return Err(Failure::new(Code::Hung, why));
        };
        signal::check()?;
        if !ready[0] {
            continue;
        }
        let n = pipe.read(&mut buffer).doing(Code::Os, || format!("reading what {name} prints"))?;
        if n == 0 {
            return Ok(stdout);
        }
        stdout.extend_from_slice(&buffer[..n]);
        if io.show {
            drop(std::io::stderr().write_all(&buffer[..n]));
        }
        if stdout.len() as u64 > LIMIT {
            return Err(Failure::new(
                Code::ChildFailed,
                format!("reading what {name} prints: more than {LIMIT} bytes"),
            ));
        }
    }
}

/// Returns how a program ended, in words: `exit status 1`, `killed by signal 9 (SIGKILL)`.
#[must_use]
pub fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(name) => format!("killed by signal {number} ({name})"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_no_input_and_its_output_comes_back() {
        let out = output(command("sh").args(["-c", "cat; echo $LC_ALL; exit 3"])).unwrap();
        assert_eq!(out.stdout, b"C\n");
        assert_eq!(ended(out.status), "exit status 3");
    }

    #[test]
    fn a_transcript_has_both_outputs() {
        let mut shell = command("sh");
        shell.args(["-c", "cat; echo err >&2; echo out"]);
        let out = transcript(&mut shell, Some(b"in\n"), false).unwrap();
        assert_eq!(out.stdout, b"in\nerr\nout\n");
        let none = transcript(command("cat").stdin(Stdio::null()), None, false);
        assert_eq!(none.unwrap().stdout, b"");
        // One that does not read its input, and one that prints without end.
        let lazy = transcript(&mut command("true"), Some(&[0; 1 << 20]), false);
        assert!(lazy.unwrap().status.success());
        let failure = transcript(&mut command("yes"), None, false).unwrap_err();
        assert_eq!(failure.code, Code::ChildFailed);
    }

    #[test]
    fn a_program_is_fed() {
        let mut shell = command("sh");
        shell.args(["-c", "wc -c; echo err >&2"]);
        let much = |to: &mut dyn Write| to.write_all(&[0; 1 << 20]).doing(Code::Os, || "writing");
        assert_eq!(fed(&mut shell, much).unwrap().stdout, b"1048576\nerr\n");
        // One that gives up says so itself.
        let mut lazy = command("sh");
        lazy.args(["-c", "exec <&-; echo no; exit 3"]);
        let out = fed(&mut lazy, much).unwrap();
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(3), &b"no\n"[..]));
        let mut killed = command("sh");
        killed.args(["-c", "kill -9 $$"]);
        assert_eq!(ended(fed(&mut killed, much).unwrap().status), "killed by signal 9 (SIGKILL)");
        // One that is not given all of it never sees the end.
        let mut shell = command("sh");
        shell.args(["-c", "cat > /dev/null; echo end"]);
        let failure = fed(&mut shell, |_| Err(Failure::new(Code::Failed, "changed"))).unwrap_err();
        assert_eq!(failure.message, "changed");
    }

    #[test]
    fn what_waits_for_ever_is_ended() {
        let limit = Duration::from_millis(50);
        let failure = output_within(command("sleep").arg("infinity"), limit).unwrap_err();
        assert_eq!(failure.code, Code::Hung);
        assert_eq!(failure.message, "running 'sleep': nothing happened for 0.05 s");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let failure = output(&mut command("/no/such")).unwrap_err();
        assert!(failure.message.starts_with("running '/no/such': No such file"));
    }

    #[test]
    fn death_by_signal_is_said_in_words() {
        let out = output(command("sh").args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!(ended(out.status), "killed by signal 9 (SIGKILL)");
    }
}
