//! Signals that ask a stage to stop: INT, TERM and HUP.
//!
//! Ctrl-C reaches every stage of a pipeline at once, and the stage that holds the document must still hand it on. So
//! these signals do not kill: each writes a byte to a pipe of our own. Work looks at [`interrupted`] between steps, and
//! whoever waits polls [`descriptor`] beside what it waits for. Children get the default dispositions back on
//! execve(2), so a terminal's ^C ends pacman, and the stage reports it.

use crate::{Code, Doing, Failure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

static PIPE: OnceLock<UnixStream> = OnceLock::new();
static SEEN: AtomicUsize = AtomicUsize::new(0);
static DETACHED: AtomicBool = AtomicBool::new(false);

/// Catches INT, TERM and HUP from now on. Called once, first thing in `main`.
///
/// # Errors
///
/// When no pipe can be made or no handler be installed.
pub fn catch() -> std::io::Result<()> {
    listen_to(&[SIGINT, SIGTERM, SIGHUP])
}

/// Catches TERM and HUP, and lets INT and QUIT pass without effect: for a tool whose command has the terminal, so that
/// the terminal's keys are the command's alone. The dispositions are handlers and not `SIG_IGN`, which would be
/// inherited across execve(2).
///
/// # Errors
///
/// As [`catch`].
pub fn catch_for_terminal() -> std::io::Result<()> {
    for signal in [SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    listen_to(&[SIGTERM, SIGHUP])
}

fn listen_to(signals: &[i32]) -> std::io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
    }
    // A second call keeps the first pipe: its handlers stay installed.
    drop(PIPE.set(ours));
    Ok(())
}

/// Stops listening: for a child made by fork(2), which shares the pipe with its parent and must not eat what is in it.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

/// Returns how many signals asked us to stop so far.
#[must_use]
pub fn count() -> usize {
    if let Some(mut pipe) = PIPE.get().filter(|_| !DETACHED.load(Ordering::Relaxed)) {
        let mut bytes = [0; 64];
        loop {
            match pipe.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => {
                    SEEN.fetch_add(n, Ordering::Relaxed);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
    SEEN.load(Ordering::Relaxed)
}

/// Returns whether a signal asked this stage to stop. Long work looks at it between its steps.
#[must_use]
pub fn interrupted() -> bool {
    count() > 0
}

/// Returns a descriptor that is readable when a signal arrived since [`count`] was last asked, for poll(2).
#[must_use]
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    let pipe = PIPE.get().filter(|_| !DETACHED.load(Ordering::Relaxed));
    pipe.map(AsFd::as_fd)
}

/// Fails when a signal asked this stage to stop.
///
/// # Errors
///
/// [`Code::Interrupted`] when it did.
pub fn check() -> Result<(), Failure> {
    if interrupted() {
        return Err(interruption());
    }
    Ok(())
}

/// Waits that long, or until a signal asks this stage to stop: between two looks at what somebody else does.
///
/// # Errors
///
/// [`Code::Interrupted`] on a signal.
pub fn wait(time: Duration) -> Result<(), Failure> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<_> = descriptor()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .into_iter()
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => check(),
        Err(e) => Err(e).doing(Code::Os, || "waiting"),
    }
}

/// Returns the failure that says that a signal ended the work.
#[must_use]
pub fn interruption() -> Failure {
    Failure::new(Code::Interrupted, "interrupted by a signal")
}
