//! Signals that ask a stage to stop: those whose default action ends a process, except those that report a defect.
//!
//! Ctrl-C reaches every stage of a pipeline at once, and the stage that holds the document must still hand it on. So
//! these signals do not kill: each raises a flag of its own and writes a byte to a pipe of ours. Work calls [`check`]
//! between its steps and waits with [`poll_readable`]. Stages that undo are not stopped ([`endure`]). A signal that the
//! caller ignores, as nohup(1) and background jobs of a shell do, stays ignored, also in our children; all others get
//! their default action back on execve(2).

use crate::{Code, Doing, Failure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The signals that ask to stop: those of terminals, shells, users, timers and resource limits, and two more of Linux that
/// end a process and that nobody sends.
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

/// How often the same request must come until the program that we run is killed.
const INSISTENT: usize = 3;

static CAUGHT: OnceLock<Caught> = OnceLock::new();
static SEEN: Mutex<Vec<i32>> = Mutex::new(Vec::new());
static DETACHED: AtomicBool = AtomicBool::new(false);

/// What the handlers write to.
struct Caught {
    flags: Vec<(i32, Arc<AtomicBool>)>,
    pipe: UnixStream,
}

/// Catches all signals that ask to stop. Called once, at the start of `main`.
///
/// # Errors
///
/// When a pipe cannot be made or a handler cannot be installed.
pub fn catch() -> io::Result<()> {
    catch_all_but(&[])
}

/// As [`catch`], but gives INT and QUIT no effect: for a tool whose command has the terminal, so that the terminal's keys
/// go to the command alone.
///
/// # Errors
///
/// As [`catch`].
pub fn catch_for_terminal() -> io::Result<()> {
    catch_all_but(&[SIGINT, SIGQUIT])
}

/// Gives all signals that ask to stop no effect: for a stage that undoes.
///
/// # Errors
///
/// When a handler cannot be installed.
pub fn endure() -> io::Result<()> {
    make_ineffective(&ASKING, &ignored()?)
}

fn catch_all_but(ineffective: &[i32]) -> io::Result<()> {
    let ignored = ignored()?;
    make_ineffective(ineffective, &ignored)?;
    let (pipe, theirs) = UnixStream::pair()?;
    pipe.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let mut flags = Vec::new();
    for signal in ASKING {
        if ineffective.contains(&signal) || ignored(signal) {
            continue;
        }
        let flag = Arc::<AtomicBool>::default();
        // In this order: whoever the pipe wakes finds the flag set.
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
        flags.push((signal, flag));
    }
    // Without a handler the pipe has no other end, and would wake for ever. A second call keeps the first one's handlers.
    if !flags.is_empty() {
        drop(CAUGHT.set(Caught { flags, pipe }));
    }
    Ok(())
}

/// Installs a handler that does nothing, and not `SIG_IGN`, which would be inherited across execve(2). Two more signals
/// always get one: a write beyond the file size limit fails with EFBIG, as any other write, and a parent that ignores
/// SIGCHLD could not wait for its children.
fn make_ineffective(signals: &[i32], ignored: &impl Fn(i32) -> bool) -> io::Result<()> {
    for signal in signals.iter().chain(&[SIGXFSZ, SIGCHLD]) {
        if *signal == SIGCHLD || !ignored(*signal) {
            signal_hook::flag::register(*signal, Arc::default())?;
        }
    }
    Ok(())
}

/// Returns a function that says whether a signal was ignored when this program started. Only proc(5) tells without
/// changing it.
fn ignored() -> io::Result<impl Fn(i32) -> bool> {
    // It says no size: with this room one read has it all.
    let mut status = Vec::with_capacity(8 << 10);
    std::fs::File::open("/proc/self/status")?.take(1 << 20).read_to_end(&mut status)?;
    let mask = String::from_utf8_lossy(&status).lines().find_map(|l| Some(l.strip_prefix("SigIgn:")?.to_owned()));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.ok_or_else(|| io::Error::other("'/proc/self/status' has no SigIgn"))?;
    Ok(move |signal: i32| mask >> (signal - 1) & 1 == 1)
}

/// Stops listening: for a child of fork(2), which shares the pipe with its parent and must not read from it.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

fn caught() -> Option<&'static Caught> {
    CAUGHT.get().filter(|_| !DETACHED.load(Ordering::Relaxed))
}

/// Calls `f` with the signals that have asked us to stop, in the order in which they were seen. One that came twice
/// between two calls counts once. The pipe is not read: another thread may wait for it.
fn seen<T>(f: impl FnOnce(&[i32]) -> T) -> T {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Caught { flags, .. }) = caught() {
        let raised = flags.iter().filter(|(_, f)| f.swap(false, Ordering::SeqCst));
        seen.extend(raised.map(|(signal, _)| *signal));
    }
    f(&seen)
}

/// Returns the signals that asked us to stop after the first `known`, and empties the pipe: for a caller that goes on
/// waiting although it was asked to stop.
#[must_use]
pub fn beyond(known: usize) -> Vec<i32> {
    if let Some(Caught { pipe, .. }) = caught() {
        let (mut pipe, mut bytes) = (pipe, [0; 64]);
        // Before the flags: a signal that comes in between is found now, and wakes the caller once more.
        while match pipe.read(&mut bytes) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == ErrorKind::Interrupted,
        } {}
    }
    seen(|seen| seen.get(known..).unwrap_or_default().to_vec())
}

/// Returns whether the same key or command asked for the third time. A terminal that closes sends several signals at once,
/// and a resource limit sends one each second; these do not count.
#[must_use]
pub fn insisted() -> bool {
    let times = |which| move |seen: &[i32]| seen.iter().filter(|s| **s == which).count();
    let by_hand = [SIGINT, SIGQUIT, SIGTERM];
    by_hand.into_iter().any(|s| seen(times(s)) >= INSISTENT)
}

/// Returns whether a signal asked this stage to stop.
#[must_use]
pub fn interrupted() -> bool {
    seen(|seen| !seen.is_empty())
}

/// What ends the waiting of [`poll_readable`] besides its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A signal that asks this stage to stop. It wakes until [`beyond`] has been called; the caller decides what follows.
    OnSignal,
    /// Nothing.
    Never,
}

/// Waits until one of the descriptors is readable or closed, at most `timeout`, and returns which are. Returns `None`
/// when the time is over. When a system call was interrupted, none may be.
///
/// # Errors
///
/// The error of poll(2).
pub fn poll_readable(
    descriptors: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
    wake: Wake,
) -> io::Result<Option<Vec<bool>>> {
    let signals = caught().filter(|_| wake == Wake::OnSignal);
    let signals = signals.map(|caught| caught.pipe.as_fd());
    let mut fds: Vec<_> =
        descriptors.iter().copied().chain(signals).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // Rounded up to a millisecond, the unit of poll(2): rounded down, the last one would spin.
    let timeout = timeout.map_or(PollTimeout::NONE, |time| {
        let time = time.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(0) => return Ok(None),
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    let readable = fds.iter().take(descriptors.len());
    Ok(Some(readable.map(|fd| fd.any() != Some(false)).collect()))
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

/// Waits that long, or until a signal asks this stage to stop.
///
/// # Errors
///
/// [`Code::Interrupted`] on a signal.
pub fn wait(time: Duration) -> Result<(), Failure> {
    poll_readable(&[], Some(time), Wake::OnSignal).doing(Code::Os, || "waiting")?;
    check()
}

/// Returns the failure of a stage that a signal asked to stop.
#[must_use]
pub fn interruption() -> Failure {
    Failure::new(Code::Interrupted, "interrupted by a signal")
}

/// A reader that fails when a signal asks this stage to stop: for data that may be large. [`Failure::of_io`] returns the
/// failure that the error carries.
#[derive(Debug)]
pub struct Heeding<R>(pub R);

impl<R: Read> Read for Heeding<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check().map_err(io::Error::other)?;
        self.0.read(buffer)
    }
}
