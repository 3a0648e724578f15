//! The tool's side of an entry: it writes the id maps, forwards signals and output, and returns how the entry ended.

use super::wire::{Frame, GO};
use super::{Ended, Ids, Sink, Watchdog};
use crate::idmap;
use crate::occupants::proc::open_pidfd;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use stage::signal::{self, Wake, poll_readable};
use stage::{Code, Doing, Failure};
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The state of an entry while the tool waits.
pub(super) struct Watch<'a> {
    pub(super) ids: Ids<'a>,
    pub(super) pid: i32,
    pub(super) control: PipeWriter,
    pub(super) told: Option<Frame>,
    /// What could not be removed.
    pub(super) left: Option<Failure>,
    pub(super) forward: Forward,
}

/// How an entry ended.
pub(super) struct Outcome {
    pub(super) ended: Ended,
    pub(super) time: Duration,
    /// What a function returned, as JSON.
    pub(super) returned: Option<String>,
}

/// Which signal a command gets when one asks us to stop.
pub(super) enum Forward {
    /// The same: it has a terminal with a user, and decides itself.
    Same,
    /// HUP and INT, or TERM instead of those that dump core into the root; KILL when the user insists.
    Ending,
    /// pacman: INT, on which it finishes the package; any other except HUP would end it in the middle of one. KILL when the
    /// user insists.
    Interrupt,
}

impl Watch<'_> {
    /// Serves init until all pipes are closed: maps, signals, output. Returns the watchdog's failure when there is
    /// no progress; the processes inside then still live.
    pub(super) fn until_the_end(
        &mut self,
        report: PipeReader,
        sink: Option<(Sink<'_>, OwnedFd)>,
        mut watchdog: Option<Watchdog>,
    ) -> Result<Option<Failure>, Failure> {
        // Pipes from inside: frames of init and the command, and what a command prints, which has a sink.
        let mut open: Vec<(Option<Sink<'_>>, OwnedFd)> = vec![(None, report.into())];
        open.extend(sink.map(|(sink, from)| (Some(sink), from)));
        let mut lines = Vec::new();
        // The caller has checked that none came before.
        let mut signals = 0;
        let mut buffer = vec![0; 1 << 16];
        while !open.is_empty() {
            let fds: Vec<_> = open.iter().map(|(_, fd)| fd.as_fd()).collect();
            let tick = watchdog.as_ref().map(Watchdog::tick);
            let ready = poll_readable(&fds, tick, Wake::OnSignal).doing(Code::Os, || "waiting for what runs inside")?;
            self.forward_signals(&mut signals);
            match (&mut watchdog, &ready) {
                (Some(dog), Some(ready)) if ready.contains(&true) => dog.output(),
                (Some(dog), None) => {
                    if let Some(hung) = dog.waited(self.pid) {
                        return Ok(Some(hung));
                    }
                }
                _ => {}
            }
            let ready = ready.unwrap_or_default();
            let mut whole = false;
            // From the end, since a pipe that is closed is removed.
            for (i, _) in ready.iter().enumerate().rev().filter(|(_, is)| **is) {
                let (sink, fd) = &mut open[i];
                let n = match rustix::io::read(fd, &mut buffer) {
                    Ok(n) => n,
                    Err(Errno::INTR) => continue,
                    // The other side of a pseudo-terminal is closed (pty(7)).
                    Err(Errno::IO) if sink.is_some() => 0,
                    Err(e) => return Err(e).doing(Code::Os, || "reading from inside"),
                };
                let bytes = &buffer[..n];
                match sink {
                    _ if n == 0 => drop(open.remove(i)),
                    Some(sink) => sink(bytes),
                    None => {
                        lines.extend_from_slice(bytes);
                        whole |= bytes.contains(&b'\n');
                    }
                }
            }
            // A result may be long: its parts are not searched again and again.
            while let Some(end) = lines.iter().position(|b| whole && *b == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                let frame = serde_json::from_slice(&line).doing(Code::Os, || "reading from init")?;
                self.answer(frame)?;
            }
        }
        Ok(None)
    }

    fn forward_signals(&mut self, seen: &mut usize) {
        for signal in signal::beyond(*seen) {
            *seen += 1;
            let signal = match self.forward {
                Forward::Ending | Forward::Interrupt if signal::insisted() => libc::SIGKILL,
                Forward::Interrupt => libc::SIGINT,
                Forward::Ending if ![libc::SIGHUP, libc::SIGINT].contains(&signal) => libc::SIGTERM,
                Forward::Same | Forward::Ending => signal,
            };
            if let Ok(byte) = u8::try_from(signal) {
                // If init is gone, it needs no signal.
                self.control.write_all(&[byte]).unwrap_or(());
            }
        }
    }

    fn answer(&mut self, frame: Frame) -> Result<(), Failure> {
        match (frame, self.ids) {
            (Frame::Ready, Ids::Same) => {}
            (Frame::Ready, Ids::Subordinate(map)) => idmap::write(map, self.pid)?,
            (Frame::Left(failure), _) => {
                self.left = Some(failure);
                return Ok(());
            }
            (Frame::Ready, Ids::Identity) | (Frame::Map, _) => idmap::write_identity(self.pid)?,
            // A command that could not be run also ends, and a failure comes before an end: the first frame counts.
            (frame, _) => {
                self.told.get_or_insert(frame);
                return Ok(());
            }
        }
        self.control.write_all(&[GO]).or_else(|e| {
            // Init ends at once when a signal is forwarded before it may continue.
            signal::check()?;
            Err(e).doing(Code::Os, || "writing to init")
        })
    }
}

/// Returns how the entry ended and what a function returned, from what init reported and its status.
pub(super) fn conclude(told: Option<Frame>, status: Result<WaitStatus, Failure>) -> Result<Outcome, Failure> {
    let (ended, time, returned) = match told {
        Some(Frame::Failed(failure)) => return Err(failure),
        Some(Frame::NotRun(errno)) => (Ended::NotRun(Errno::from_raw_os_error(errno)), Duration::ZERO, None),
        Some(Frame::Returned(result)) => (Ended::Exited(0), Duration::ZERO, Some(result)),
        Some(Frame::Ended(exit, by, seconds)) => {
            let by_signal = || Ended::Signalled(by.unwrap_or(libc::SIGKILL));
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            (exit.map_or_else(by_signal, Ended::Exited), time, None)
        }
        _ => {
            signal::check()?;
            return Err(Failure::new(Code::Os, format!("init of the entry ended too early ({:?})", status?)));
        }
    };
    Ok(Outcome { ended, time, returned })
}

pub(super) fn wait_for(pid: i32) -> Result<WaitStatus, Failure> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return result.doing(Code::Os, || "waiting for the namespace to end"),
        }
    }
}

/// How long the kernel may take to end killed processes.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Kills an entry without progress: the kernel kills all processes inside with init. One that sleeps in the kernel and cannot
/// be woken survives that; then the message says so.
pub(super) fn kill(pid: i32, hung: Failure) -> Failure {
    let gone = || -> std::io::Result<bool> {
        let pidfd = open_pidfd(pid)?;
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        loop {
            let ready = poll_readable(&[pidfd.as_fd()], Some(KILL_WAIT), Wake::Never)?;
            if ready.as_deref() != Some(&[false]) {
                return Ok(ready.is_some());
            }
        }
    };
    let why = match gone() {
        Ok(true) => match wait_for(pid) {
            Ok(_) => return hung,
            Err(failure) => failure.message,
        },
        Ok(false) => format!("it still lives after {} s", KILL_WAIT.as_secs()),
        Err(e) => e.to_string(),
    };
    Failure { message: format!("{}; killing it: {why}", hung.message), ..hung }
}
