//! Ending processes, and none but those that were meant.
//!
//! A pid is a number that the kernel gives away again. So each process is held by a pidfd, which stays with it, and only
//! then asked whether it is the one that was judged; the signal goes by the descriptor.

use super::Occupant;
use super::scan::Scanner;
use crate::root::RootId;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stage::{Code, Doing, Failure};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to end a process that got SIGKILL: one that sleeps in a driver may take for ever.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How the processes that were to end did.
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

/// Ends processes that live in the root: SIGTERM, at most `patience` for them to end, SIGSTOP and SIGKILL for the rest.
/// No patience means no SIGTERM.
///
/// Each is held by a pidfd and looked at again before the signal, so that a process that got the pid of one that has
/// ended is never hit, nor one that has left the root. SIGSTOP goes to all before SIGKILL goes to the first: of two
/// that start each other anew, none sees the other die.
///
/// A signal does not stop it. The caller looks again: what was started meanwhile may live there too.
///
/// # Errors
///
/// [`Code::Os`] when a system call fails.
pub fn end(
    root: &Path,
    id: RootId,
    living: Vec<Occupant>,
    patience: Duration,
) -> Result<Outcome, Failure> {
    let scanner = Scanner::new(root, id)?;
    let mut outcome = Outcome::default();
    let mut held = Vec::new();
    for occupant in living {
        let Some(pid) = Pid::from_raw(occupant.pid) else {
            continue;
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
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
            // There are more of them than descriptors: these first, and the caller looks again.
            Err(_) => break,
        }
    }
    if !patience.is_zero() {
        held = signal(held, Signal::TERM, &mut outcome)?;
        held = wait(held, patience, &mut outcome.ended)?;
    }
    held = signal(held, Signal::STOP, &mut outcome)?;
    held = signal(held, Signal::KILL, &mut outcome)?;
    held = wait(held, KILL_WAIT, &mut outcome.killed)?;
    outcome.stuck = held.into_iter().map(|(occupant, _)| occupant).collect();
    // In the order in which they began, which does not depend on which of them ended first.
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

/// Waits until all have ended, at most `patience`; returns those that have not.
fn wait(mut held: Held, patience: Duration, ended: &mut Vec<Occupant>) -> Result<Held, Failure> {
    let deadline = Instant::now() + patience;
    while !held.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        // Up to the next millisecond: poll(2) knows no less, and none at all would spin.
        let left = left.as_millis().saturating_add(u128::from(!left.is_zero()));
        let timeout = i32::try_from(left).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<_> = held
            .iter()
            .map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(0) => break,
            // A signal asks us to stop; an undoing tool goes on.
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(Code::Os, || "waiting for processes to end"),
        }
        // A pidfd is readable once the process and all of its threads have ended, also while it is a zombie.
        let over: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut over = over.into_iter();
        let (gone, rest): (Held, Held) = held
            .into_iter()
            .partition(|_| over.next().unwrap_or_default());
        ended.extend(gone.into_iter().map(|(occupant, _)| occupant));
        held = rest;
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::super::ground::{id, start};
    use super::*;

    /// A scan in which every process of this system lives in the root, so that one can be ended without a chroot.
    fn as_if_all_lived_there(root: &Path, pid: i32) -> (RootId, Occupant) {
        let id = id(Path::new("/"));
        let scanner = Scanner::new(root, id).unwrap();
        let occupant = scanner.examine(pid).unwrap().occupant.unwrap();
        assert!(occupant.lives);
        (id, occupant)
    }

    #[test]
    fn who_got_the_pid_of_one_that_has_ended_is_not_hit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mut child = start(&root, "true");
        let (everywhere, mut occupant) = as_if_all_lived_there(&root, child.pid());
        // The same process does not live in the true root: it has left since the scan, so to say.
        let patience = Duration::from_secs(5);
        let outcome = end(&root, id(&root), vec![occupant.clone()], patience).unwrap();
        assert_eq!(outcome, Outcome::default());
        assert!(child.is_alive());
        // Another process with this pid, that lives there too, and that nobody has judged.
        occupant.start_time -= 1;
        let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
        assert_eq!(outcome, Outcome::default());
        assert!(child.is_alive());
        // And the right one.
        occupant.start_time += 1;
        let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
        assert_eq!(outcome.ended, [occupant.clone()]);
        assert!(!child.is_alive());
        // One that is not there any more is no error.
        let outcome = end(&root, everywhere, vec![occupant], patience).unwrap();
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn who_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mut child = start(&root, "trap '' TERM");
        let (everywhere, occupant) = as_if_all_lived_there(&root, child.pid());
        let patience = Duration::from_millis(20);
        let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
        assert_eq!(outcome.killed, [occupant]);
        assert!(!child.is_alive());
    }
}
