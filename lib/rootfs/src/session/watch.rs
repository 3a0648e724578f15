//! The tool's side of an entry: it writes the id maps, passes signals and output on, and says at the end how it went.

use super::wire::{Frame, GO, write_all};
use super::{Ended, Ids, Sink, Watchdog};
use crate::idmap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;
use stage::{Code, Doing, Failure, signal};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What the tool knows of an entry while it waits.
pub(super) struct Watch<'a> {
    pub(super) ids: Ids<'a>,
    pub(super) pid: i32,
    pub(super) control: Option<OwnedFd>,
    pub(super) told: Option<Frame>,
    pub(super) result: Vec<u8>,
    pub(super) heed: Heed,
}

/// What a command makes of a signal that asks us to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// It has a terminal, and a person at it: it gets what comes, and what it does then is its own affair.
    Alone,
    /// It gets what comes, or TERM for what would have it dump its memory into the root; killed where somebody insists.
    Ends,
    /// pacman: it takes INT as "finish this package", and any other but HUP would end it in the middle of one. Killed where
    /// somebody insists.
    Finishes,
}

impl Watch<'_> {
    /// Serves init until it has closed everything: maps, signals, output, results. Returns a failure of the watchdog's
    /// where nothing happened any more; then all of it still lives.
    pub(super) fn until_the_end(
        &mut self,
        report: OwnedFd,
        result: OwnedFd,
        sink: Option<(Sink<'_>, OwnedFd)>,
        mut watchdog: Option<Watchdog>,
    ) -> Result<Option<Failure>, Failure> {
        let (mut sink, from) = match sink {
            Some((sink, from)) => (Some(sink), Some(from)),
            None => (None, None),
        };
        let mut open = [Some(report), Some(result), from];
        let mut lines = Vec::new();
        // None had come when the entry began: who enters has looked.
        let mut signals = 0;
        let mut buffer = vec![0; 1 << 16];
        while open.iter().any(Option::is_some) {
            let ready = wait_readable(&open, watchdog.as_ref().map(Watchdog::tick))?;
            self.pass_signals(&mut signals);
            match (&mut watchdog, ready) {
                (Some(dog), Some(ready)) if ready.contains(&true) => dog.output(),
                (Some(dog), None) => {
                    if let Some(hung) = dog.waited(self.pid) {
                        return Ok(Some(hung));
                    }
                }
                _ => {}
            }
            let ready = ready.unwrap_or_default();
            for (i, slot) in open.iter_mut().enumerate() {
                let Some(fd) = slot.as_ref().filter(|_| ready[i]) else {
                    continue;
                };
                let n = match rustix::io::read(fd, &mut buffer) {
                    Ok(n) => n,
                    Err(Errno::INTR) => continue,
                    // The other side of a pseudo-terminal is closed (pty(7)).
                    Err(Errno::IO) if i == 2 => 0,
                    Err(e) => return Err(e).doing(Code::Os, || "reading from inside"),
                };
                if n == 0 {
                    *slot = None;
                    continue;
                }
                match (i, &mut sink) {
                    (0, _) => lines.extend_from_slice(&buffer[..n]),
                    (1, _) => self.result.extend_from_slice(&buffer[..n]),
                    (_, Some(sink)) => sink(&buffer[..n]),
                    (_, None) => {}
                }
            }
            while let Some(end) = lines.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                let frame =
                    serde_json::from_slice(&line).doing(Code::Os, || "reading from init")?;
                self.answer(frame)?;
            }
        }
        Ok(None)
    }

    /// Hands signals on.
    fn pass_signals(&mut self, seen: &mut usize) {
        for signal in signal::beyond(*seen) {
            *seen += 1;
            let signal = match self.heed {
                Heed::Ends | Heed::Finishes if signal::insisted() => libc::SIGKILL,
                Heed::Finishes => libc::SIGINT,
                Heed::Ends if ![libc::SIGHUP, libc::SIGINT].contains(&signal) => libc::SIGTERM,
                Heed::Alone | Heed::Ends => signal,
            };
            if let (Some(control), Ok(byte)) = (&self.control, u8::try_from(signal)) {
                // Init that is gone needs no signal.
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
            // A command that could not be run also ends, and a failure comes before an end: the first word counts.
            frame => {
                self.told.get_or_insert(frame);
                Ok(())
            }
        }
    }

    fn go(&self) -> Result<(), Failure> {
        match &self.control {
            Some(control) => write_all(control.as_fd(), &[GO]).or_else(|e| {
                // Init ends at once when it is told of a signal before it is told to go on.
                signal::check()?;
                Err(e).doing(Code::Os, || "speaking to init")
            }),
            None => Ok(()),
        }
    }

    /// Says how it went, from what init told and how it ended.
    pub(super) fn conclude(
        self,
        status: Result<WaitStatus, Failure>,
    ) -> Result<(Ended, Duration, Vec<u8>), Failure> {
        match self.told {
            Some(Frame::Failed(told)) => Err(told.failure()),
            Some(Frame::NotRun(errno)) => Ok((
                Ended::NotRun(Errno::from_raw_os_error(errno)),
                Duration::ZERO,
                self.result,
            )),
            Some(Frame::Ended(exit, by, seconds)) => {
                let ended = match (exit, by) {
                    (Some(exit), _) => Ended::Exited(exit),
                    (None, by) => Ended::Signalled(by.unwrap_or(libc::SIGKILL)),
                };
                let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                Ok((ended, time, self.result))
            }
            _ => {
                signal::check()?;
                Err(Failure::new(
                    Code::Os,
                    format!(
                        "the first process of the namespace ended before its time ({:?})",
                        status?
                    ),
                ))
            }
        }
    }
}

/// Waits until one of `open` can be read or a signal has come. None where neither did in that time.
fn wait_readable(
    open: &[Option<OwnedFd>; 3],
    time: Option<Duration>,
) -> Result<Option<[bool; 3]>, Failure> {
    let mut ready = [false; 3];
    let mut fds = Vec::new();
    let mut which = Vec::new();
    for (i, fd) in open.iter().enumerate() {
        if let Some(fd) = fd {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            which.push(i);
        }
    }
    if let Some(fd) = signal::descriptor() {
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    }
    let timeout = time.map_or(PollTimeout::NONE, |time| {
        PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(0) => Ok(None),
        Ok(_) => {
            for (fd, i) in fds.iter().zip(which) {
                ready[i] = fd.any().unwrap_or(true);
            }
            Ok(Some(ready))
        }
        Err(nix::errno::Errno::EINTR) => Ok(Some(ready)),
        Err(e) => Err(e).doing(Code::Os, || "waiting for what runs inside"),
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

/// How long the kernel may take to end what was killed.
const DEATH: Duration = Duration::from_secs(10);

/// Ends an entry in which nothing happens any more: the kernel kills all that is inside with init. What sleeps in the
/// kernel and cannot be woken outlives that, and then it is said and not waited for.
pub(super) fn end(pid: i32, hung: Failure) -> Failure {
    let gone = || -> Result<bool, Errno> {
        let init = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())?;
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(DEATH).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut fds, timeout) {
                Ok(n) => return Ok(n > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Errno::from_raw_os_error(e as i32)),
            }
        }
    };
    let why = match gone() {
        Ok(true) => match wait_for(pid) {
            Ok(_) => return hung,
            Err(failure) => failure.message,
        },
        Ok(false) => format!("it lives on after {} s", DEATH.as_secs()),
        Err(e) => e.to_string(),
    };
    Failure {
        message: format!("{}; killing it: {why}", hung.message),
        ..hung
    }
}
