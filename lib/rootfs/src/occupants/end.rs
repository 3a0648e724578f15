//! Ending processes, and no others.
//!
//! The kernel reuses pids. So each process is held by a pidfd, which stays with it, and then checked to be the one that
//! was found; the signal is sent by the descriptor.

use super::Occupant;
use super::proc::open_pidfd;
use super::scan::Scanner;
use crate::root::RootId;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use stage::signal::{Wake, poll_readable};
use stage::{Code, Doing, Failure};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for the end of a process that got SIGKILL: one that sleeps in a driver may never end.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// What became of the processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Ended on SIGTERM.
    pub ended: Vec<Occupant>,
    /// Ended by SIGKILL.
    pub killed: Vec<Occupant>,
    /// Those that we may not signal.
    pub denied: Vec<Occupant>,
    /// Those that even SIGKILL did not end in time.
    pub stuck: Vec<Occupant>,
}

/// Ends processes that live in the root: SIGTERM, at most `timeout` for them to end, then SIGSTOP and SIGKILL for the
/// rest. Without a timeout there is no SIGTERM.
///
/// Each is held by a pidfd and looked at again before the signal, so that neither a process that got the pid of an ended
/// one nor one that has left the root is hit. SIGSTOP goes to all before SIGKILL goes to the first: of two processes that
/// restart each other, none sees the other die.
///
/// A signal does not stop this. The caller scans again: a process that was started in the meantime may live there too.
///
/// # Errors
///
/// [`Code::Os`] when a system call fails.
pub fn end(root: &Path, id: RootId, living: Vec<Occupant>, timeout: Duration) -> Result<Outcome, Failure> {
    let scanner = Scanner::new(root, id)?;
    let mut outcome = Outcome::default();
    let mut held = Vec::new();
    for occupant in living {
        let fd = match open_pidfd(occupant.pid) {
            Ok(fd) => fd,
            // It has ended by itself.
            Err(Errno::SRCH) => continue,
            Err(e) => return Err(e).doing(Code::Os, || format!("holding process {occupant}")),
        };
        // From here on the pidfd is this one process; only now does it help to ask whether it is the right one.
        match scanner.is_still(&occupant) {
            Ok(true) => held.push((occupant, fd)),
            Ok(false) => {}
            Err(failure) if held.is_empty() => return Err(failure),
            // We ran out of descriptors: these first, and the caller scans again.
            Err(_) => break,
        }
    }
    if !timeout.is_zero() {
        held = signal(held, Signal::TERM, &mut outcome)?;
        held = wait(held, timeout, &mut outcome.ended)?;
    }
    held = signal(held, Signal::STOP, &mut outcome)?;
    held = signal(held, Signal::KILL, &mut outcome)?;
    held = wait(held, KILL_WAIT, &mut outcome.killed)?;
    outcome.stuck = held.into_iter().map(|(occupant, _)| occupant).collect();
    // In the order of their start, which does not depend on the order in which they ended.
    for list in [&mut outcome.ended, &mut outcome.killed] {
        list.sort_by_key(|occupant| (occupant.start_time, occupant.pid));
    }
    Ok(outcome)
}

/// Processes, each with the descriptor that no other process can get.
type Held = Vec<(Occupant, OwnedFd)>;

/// Sends a signal to each, and returns those that got it.
fn signal(held: Held, signal: Signal, outcome: &mut Outcome) -> Result<Held, Failure> {
    let mut got = Vec::new();
    for (occupant, fd) in held {
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => got.push((occupant, fd)),
            Err(Errno::SRCH) => outcome.ended.push(occupant),
            Err(Errno::PERM) => outcome.denied.push(occupant),
            Err(e) => return Err(e).doing(Code::Os, || format!("ending process {occupant}")),
        }
    }
    Ok(got)
}

/// Waits until all have ended, at most `timeout`; returns those that have not.
fn wait(mut held: Held, timeout: Duration, ended: &mut Vec<Occupant>) -> Result<Held, Failure> {
    let deadline = Instant::now() + timeout;
    while !held.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let fds: Vec<_> = held.iter().map(|(_, fd)| fd.as_fd()).collect();
        // A pidfd is readable once the process and all of its threads have ended, also while it is a zombie.
        let over = poll_readable(&fds, Some(left), Wake::Never).doing(Code::Os, || "waiting for processes to end")?;
        let Some(over) = over else {
            break;
        };
        let mut over = over.into_iter();
        let (gone, rest): (Held, Held) = held.into_iter().partition(|_| over.next().unwrap_or_default());
        ended.extend(gone.into_iter().map(|(occupant, _)| occupant));
        held = rest;
    }
    Ok(held)
}
