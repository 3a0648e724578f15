//! Signals that ask a stage to stop: all whose default is to end a process, but for those that say that it is broken.
//!
//! Ctrl-C reaches every stage of a pipeline at once, and the stage that holds the document must still hand it on. So
//! these signals do not kill: each raises a flag of its own and writes a byte to a pipe of ours. Work looks at [`interrupted`]
//! between steps, and whoever waits polls [`descriptor`] beside what it waits for. Stages that undo are asked in vain
//! ([`endure`]). What the caller ignores, as nohup(1) and a shell's background jobs do, stays ignored, by our children too;
//! they get the default of all else back on execve(2).

use crate::{Code, Doing, Failure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The signals that ask to stop: those that a terminal, a shell or a person sends, timers, and a limit that is reached.
/// Linux has two more that end a process and nobody sends.
const ASKING: [i32; 13] = [
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGXCPU,
    SIGIO,
    nix::libc::SIGPWR,
    nix::libc::SIGSTKFLT,
];

/// How often a person must say it until what we run is killed.
const INSISTENT: usize = 3;

static CAUGHT: OnceLock<Caught> = OnceLock::new();
static SEEN: Mutex<Vec<i32>> = Mutex::new(Vec::new());
static DETACHED: AtomicBool = AtomicBool::new(false);

/// What the handlers write to.
struct Caught {
    flags: Vec<(i32, Arc<AtomicBool>)>,
    pipe: UnixStream,
}

/// Catches all that asks to stop from now on. Called once, first thing in `main`.
///
/// # Errors
///
/// When no pipe can be made or no handler be installed.
pub fn catch() -> std::io::Result<()> {
    listen_to(&ASKING, &[])
}

/// Lets all that asks to stop pass without effect: for a stage that undoes.
///
/// # Errors
///
/// When no handler can be installed.
pub fn endure() -> std::io::Result<()> {
    listen_to(&[], &ASKING)
}

/// As [`catch`], but lets INT and QUIT pass without effect: for a tool whose command has the terminal, so that the
/// terminal's keys are the command's alone.
///
/// # Errors
///
/// As [`catch`].
pub fn catch_for_terminal() -> std::io::Result<()> {
    let keys = [SIGINT, SIGQUIT];
    let rest: Vec<_> = ASKING.into_iter().filter(|s| !keys.contains(s)).collect();
    listen_to(&rest, &keys)
}

/// What passes without effect has a handler and not `SIG_IGN`, which would be inherited across execve(2).
fn listen_to(asking: &[i32], in_vain: &[i32]) -> std::io::Result<()> {
    let ignored = ignored()?;
    let (pipe, theirs) = UnixStream::pair()?;
    pipe.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    // A write beyond the limit on files fails with EFBIG, as any other. Whose parent ignores SIGCHLD has no children to wait for.
    for signal in in_vain.iter().chain(&[SIGXFSZ, SIGCHLD]) {
        if *signal == SIGCHLD || !ignored(*signal) {
            signal_hook::flag::register(*signal, Arc::default())?;
        }
    }
    let mut flags = Vec::new();
    for signal in asking.iter().filter(|signal| !ignored(**signal)) {
        let flag = Arc::<AtomicBool>::default();
        // In this order: who is woken finds the flag.
        signal_hook::flag::register(*signal, Arc::clone(&flag))?;
        signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
        flags.push((*signal, flag));
    }
    // A second call keeps the first: its handlers stay installed.
    if !flags.is_empty() {
        drop(CAUGHT.set(Caught { flags, pipe }));
    }
    Ok(())
}

/// Returns what tells whether a signal was ignored when we were started. Only proc(5) says so without changing it.
fn ignored() -> std::io::Result<impl Fn(i32) -> bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.ok_or_else(|| std::io::Error::other("'/proc/self/status' has no SigIgn"))?;
    Ok(move |signal: i32| mask >> (signal - 1) & 1 == 1)
}

/// Stops listening: for a child made by fork(2), which shares the pipe with its parent and must not eat what is in it.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

fn caught() -> Option<&'static Caught> {
    CAUGHT.get().filter(|_| !DETACHED.load(Ordering::Relaxed))
}

/// Calls `f` with the signals that asked us to stop so far, in the order in which they were seen. The same one that came
/// twice between two looks is one. The pipe is left as it is: another thread may wait for it.
fn seen<T>(f: impl FnOnce(&[i32]) -> T) -> T {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Caught { flags, .. }) = caught() {
        let raised = flags
            .iter()
            .filter(|(_, f)| f.swap(false, Ordering::SeqCst));
        seen.extend(raised.map(|(signal, _)| *signal));
    }
    f(&seen)
}

/// Returns the signals that asked us to stop beyond the first `known`. Empties the pipe: for the one that waits on, though
/// it was asked to stop.
#[must_use]
pub fn beyond(known: usize) -> Vec<i32> {
    if let Some(Caught { pipe, .. }) = caught() {
        let (mut pipe, mut bytes) = (pipe, [0; 64]);
        // Before the flags: what comes in between is found now, and wakes once more.
        while match pipe.read(&mut bytes) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == ErrorKind::Interrupted,
        } {}
    }
    seen(|seen| seen.get(known..).unwrap_or_default().to_vec())
}

/// Returns whether somebody keeps asking: the same key or command for the third time. A terminal that closes sends several
/// signals at once, a limit that is reached one a second; these do not count.
#[must_use]
pub fn insisted() -> bool {
    let times = |which| move |seen: &[i32]| seen.iter().filter(|s| **s == which).count();
    let by_hand = [SIGINT, SIGQUIT, SIGTERM];
    by_hand.into_iter().any(|s| seen(times(s)) >= INSISTENT)
}

/// Returns whether a signal asked this stage to stop. Long work looks at it between its steps.
#[must_use]
pub fn interrupted() -> bool {
    seen(|seen| !seen.is_empty())
}

/// Returns a descriptor that is readable when a signal arrived since [`beyond`] was last asked, for poll(2).
#[must_use]
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    caught().map(|caught| caught.pipe.as_fd())
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

/// Reads, and gives up where a signal asks this stage to stop: for what may be large. The error is the failure, by
/// [`Failure::of_io`].
#[derive(Debug)]
pub struct Heeding<R>(pub R);

impl<R: Read> Read for Heeding<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        check().map_err(std::io::Error::other)?;
        self.0.read(buffer)
    }
}
