//! The tool's side of an entry: it writes the id maps, forwards signals and output, and returns how the entry ended.

use super::wire::{Frame, GO, write_all};
use super::{Ended, Ids, Sink, Watchdog};
use crate::idmap;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stage::signal::{self, Wake, poll_readable};
use stage::{Code, Doing, Failure};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The state of an entry while the tool waits.
pub(super) struct Watch<'a> {
    pub(super) ids: Ids<'a>,
    pub(super) pid: i32,
    pub(super) control: Option<OwnedFd>,
    pub(super) told: Option<Frame>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// The same: it has a terminal with a user, and decides itself.
    Same,
    /// HUP and INT, or TERM instead of those that dump core into the root; KILL when the user insists.
    Ending,
    /// pacman: INT, on which it finishes the package; any other except HUP would end it in the middle of one. KILL when the
    /// user insists.
    Interrupt,
}

/// A pipe from inside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Frames of init and the command.
    Report,
    /// What a command prints.
    Output,
}

impl Watch<'_> {
    /// Serves init until all pipes are closed: maps, signals, output. Returns the watchdog's failure when there is
    /// no progress; the processes inside then still live.
    pub(super) fn until_the_end(
        &mut self,
        report: OwnedFd,
        sink: Option<(Sink<'_>, OwnedFd)>,
        mut watchdog: Option<Watchdog>,
    ) -> Result<Option<Failure>, Failure> {
        let mut open = vec![(Source::Report, report)];
        let mut sink = sink.map(|(sink, from)| {
            open.push((Source::Output, from));
            sink
        });
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
                let (source, fd) = &open[i];
                let n = match rustix::io::read(fd, &mut buffer) {
                    Ok(n) => n,
                    Err(Errno::INTR) => continue,
                    // The other side of a pseudo-terminal is closed (pty(7)).
                    Err(Errno::IO) if *source == Source::Output => 0,
                    Err(e) => return Err(e).doing(Code::Os, || "reading from inside"),
                };
                let bytes = &buffer[..n];
                match (source, &mut sink) {
                    _ if n == 0 => drop(open.remove(i)),
                    (Source::Report, _) => {
                        lines.extend_from_slice(bytes);
                        whole |= bytes.contains(&b'\n');
                    }
                    (Source::Output, Some(sink)) => sink(bytes),
                    (Source::Output, None) => {}
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
            if let (Some(control), Ok(byte)) = (&self.control, u8::try_from(signal)) {
                // If init is gone, it needs no signal.
                write_all(control.as_fd(), &[byte]).unwrap_or(());
            }
        }
    }

    fn answer(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::Ready => {
                match self.ids {
                    Ids::Same => {}
                    Ids::Identity => idmap::write_identity(self.pid)?,
                    Ids::Subordinate(map) => idmap::write(map, self.pid)?,
                }
                self.go()
            }
            Frame::Map => {
                idmap::write_identity(self.pid)?;
                self.go()
            }
            // A command that could not be run also ends, and a failure comes before an end: the first frame counts.
            frame => {
                self.told.get_or_insert(frame);
                Ok(())
            }
        }
    }

    fn go(&self) -> Result<(), Failure> {
        match &self.control {
            Some(control) => write_all(control.as_fd(), &[GO]).or_else(|e| {
                // Init ends at once when a signal is forwarded before it may continue.
                signal::check()?;
                Err(e).doing(Code::Os, || "writing to init")
            }),
            None => Ok(()),
        }
    }

    /// Returns how the entry ended and what a function returned, from what init reported and its status.
    pub(super) fn conclude(self, status: Result<WaitStatus, Failure>) -> Result<Outcome, Failure> {
        let ended = |ended, time| Outcome { ended, time, returned: None };
        match self.told {
            Some(Frame::Failed(failure)) => Err(failure),
            Some(Frame::NotRun(errno)) => {
                let errno = Errno::from_raw_os_error(errno);
                Ok(ended(Ended::NotRun(errno), Duration::ZERO))
            }
            Some(Frame::Returned(result)) => {
                Ok(Outcome { returned: Some(result), ..ended(Ended::Exited(0), Duration::ZERO) })
            }
            Some(Frame::Ended(exit, by, seconds)) => {
                let how = match (exit, by) {
                    (Some(exit), _) => Ended::Exited(exit),
                    (None, by) => Ended::Signalled(by.unwrap_or(libc::SIGKILL)),
                };
                Ok(ended(how, Duration::try_from_secs_f64(seconds).unwrap_or_default()))
            }
            _ => {
                signal::check()?;
                let message = format!("PID 1 of the namespace ended too early ({:?})", status?);
                Err(Failure::new(Code::Os, message))
            }
        }
    }
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
        let init = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(init, PidfdFlags::empty())?;
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        loop {
            match poll_readable(&[pidfd.as_fd()], Some(KILL_WAIT), Wake::Never)? {
                None => return Ok(false),
                Some(ready) if ready[0] => return Ok(true),
                Some(_) => {}
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
