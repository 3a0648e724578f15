//! The last process of an entry: it executes the command, or runs a function of the tool.

use super::Job;
use crate::{Arch, probe, sys};
use rustix::io::Errno;
use stage::{Code, Doing, Failure};
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Opens the host's `/dev/null`: that of a root may be any file.
pub(super) fn null() -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags, open};
    open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Connects stdin to `null`, and stdout and stderr to `output` or both to stderr.
pub(super) fn stdio(null: BorrowedFd<'_>, output: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    rustix::stdio::dup2_stdin(null)?;
    if let Some(fd) = output {
        rustix::stdio::dup2_stderr(fd)?;
    }
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())
}

/// Executes the command. Returns only when that fails. `home`: an argument that is the first path becomes the second.
pub(super) fn exec(job: &Job<'_>, home: Option<&(PathBuf, PathBuf)>) -> Errno {
    let errno = |e: nix::errno::Errno| Errno::from_raw_os_error(e as i32);
    if let Some((uid, gid, groups)) = &job.user {
        let groups: Vec<_> = groups.iter().map(|g| nix::unistd::Gid::from_raw(*g)).collect();
        let change = nix::unistd::setgroups(&groups)
            .and_then(|()| nix::unistd::setresgid((*gid).into(), (*gid).into(), (*gid).into()))
            .and_then(|()| nix::unistd::setresuid((*uid).into(), (*uid).into(), (*uid).into()));
        if let Err(e) = change {
            return errno(e);
        }
    }
    let env = job.env.iter().map(|(key, value)| (key, value));
    let argument = |arg: &'_ OsString| match home {
        Some((path, copy)) if arg == path => copy.clone().into_os_string(),
        _ => arg.clone(),
    };
    let args: Vec<OsString> = job.args.iter().map(argument).collect();
    let Ok((args, env)) = sys::strings(job.program, args.iter().map(OsString::as_os_str), env) else {
        return Errno::INVAL;
    };
    let mut worst = Errno::NOENT;
    for candidate in candidates(job) {
        let Err(e) = nix::unistd::execve(&candidate, &args, &env);
        // As execvp(3): continue after a file that may not be run, but report that.
        match errno(e) {
            Errno::NOENT | Errno::NOTDIR => {}
            e => worst = e,
        }
    }
    worst
}

/// Returns the paths to try: the program itself if it has a slash, else its name in each directory of `PATH`.
fn candidates(job: &Job<'_>) -> Vec<CString> {
    let name = job.program.as_bytes();
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = job.env.iter().find(|(key, _)| key == "PATH");
    let path = path.map_or(&b"/usr/bin"[..], |(_, value)| value.as_bytes());
    path.split(|b| *b == b':').filter_map(|dir| CString::new([dir, b"/", name].concat()).ok()).collect()
}

/// Runs the probe program.
pub(super) fn run_probe(arch: Arch, program: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = format!("/tmp/.strapline-probe-{}", std::process::id());
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .and_then(|mut file| file.write_all(program))
        .doing(Code::Os, || format!("writing '{path}' in the root"))?;
    let ran = std::process::Command::new(&path).status();
    std::fs::remove_file(&path).doing(Code::Os, || format!("removing '{path}' in the root"))?;
    let why = match ran {
        Ok(status) if status.code() == Some(probe::STATUS) => return Ok(()),
        Ok(status) => stage::child::ended(status),
        Err(e) => e.to_string(),
    };
    Err(Failure::new(Code::Failed, format!("running a program of {} inside the root: {why}", arch.name)))
}
