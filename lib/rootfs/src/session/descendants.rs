//! Who is signalled and reaped when an entry ends: all processes of the PID namespace, or in mode `chroot`, which has none, all
//! descendants of init.
//!
//! Init is then a child subreaper (PR_SET_CHILD_SUBREAPER(2const)): a descendant whose parent has ended becomes a child of init,
//! also a daemon. So there is none left when init has no child, and that the kernel says (`ECHILD` of wait(2)). Which processes
//! are descendants is read from `/proc`, and each is signalled by a pidfd, never by its name or its group.

use super::watchdog::{Process, tree_of};
use crate::occupants::proc::{check_numbers, open_pidfd, read_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{getpid, pidfd_send_signal, set_child_subreaper};
use stage::{Code, Doing, Failure};
use std::fmt::Write;
use std::os::fd::OwnedFd;

/// The processes below init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// All of our PID namespace.
    Namespace,
    /// Our descendants.
    Descendants,
}

impl Family {
    /// Makes us the reaper of our descendants; PID 1 is it already.
    ///
    /// # Errors
    ///
    /// The system call's; as [`check_numbers`], as without it others than our descendants would be found.
    pub(super) fn adopt(self) -> Result<(), Failure> {
        if self == Self::Descendants {
            check_numbers()?;
            set_child_subreaper(Some(getpid())).doing(Code::Os, || "becoming a child subreaper")?;
        }
        Ok(())
    }

    /// Sends signals to each process, one after the other. Those that have ended in the meantime get none.
    pub(super) fn signal(self, signals: &[Signal]) {
        match self {
            // Anywhere else, -1 would be all processes of the machine.
            Self::Namespace if getpid().as_raw_nonzero().get() == 1 => {
                for signal in signals {
                    // ESRCH: all have ended.
                    kill(Pid::from_raw(-1), *signal).unwrap_or(());
                }
            }
            Self::Namespace => {}
            Self::Descendants => {
                let held: Vec<_> = descendants().iter().filter_map(hold).collect();
                // Each signal to all first: of two that restart each other, none sees the other one killed.
                for signal in signals {
                    for process in &held {
                        let signal = rustix::process::Signal::from_named_raw(*signal as i32);
                        signal.map_or(Ok(()), |signal| pidfd_send_signal(process, signal)).unwrap_or(());
                    }
                }
            }
        }
    }
}

fn descendants() -> Vec<Process> {
    // Checked again, as another /proc may have been mounted since.
    check_numbers().map(tree_of).unwrap_or_default()
}

/// Returns a descriptor of a process that was found, unless it has ended.
fn hold(process: &Process) -> Option<OwnedFd> {
    let pidfd = open_pidfd(process.pid).ok()?;
    // Its directory is this one process: as long as that can be read, no other one has the pid.
    read_at(&process.dir, "stat").is_ok().then_some(pidfd)
}

/// Returns the descendants in words, for a message.
pub(super) fn describe() -> String {
    descendants().iter().fold(String::new(), |mut text, process| {
        let begin = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        write!(text, "{begin}{} {}", process.pid, process.stat.comm).unwrap_or(());
        text
    })
}
