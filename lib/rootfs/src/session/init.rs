//! Init's side of an entry: PID 1 of the new namespace. It sets the namespaces up, runs the command, reaps, and ends what
//! the command left.

use super::wire::{Frame, GO, send};
use super::{Ids, Inside, Place, Work, certificates, command, explain_clone, leave};
use crate::occupants::proc::open_path;
use crate::plan::Mount;
use crate::{Arch, Binfmt, Root, attach, binfmt, gnupg, mountinfo, sys};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{self, WaitOptions, WaitStatus};
use stage::signal::{self, Wake, poll_readable};
use stage::{Cause, Code, Doing, Failure, quote};
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the processes that a command left may take to end on SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Init<'a> {
    pub(super) inside: &'a Inside,
    pub(super) ids: Ids<'a>,
    pub(super) control: PipeReader,
    pub(super) report: PipeWriter,
    pub(super) output: Option<OwnedFd>,
}

impl Init<'_> {
    /// The main function of PID 1. Returns its exit status, which is not used: the report has the result.
    pub(super) fn run(self, work: Work<'_>) -> u8 {
        match self.prepare(&work) {
            // The private binfmt table lasts as long as its descriptor.
            Ok((null, children, _table)) => self.serve(work, null.as_fd(), &children),
            Err(failure) => {
                send(&self.report, &Frame::Failed(failure));
                1
            }
        }
    }

    /// Separates us from the tool, and sets the namespaces up. Returns the host's `/dev/null`, what tells that a child has
    /// ended, and the private binfmt table.
    fn prepare(&self, work: &Work<'_>) -> Result<(OwnedFd, SignalFd, Option<OwnedFd>), Failure> {
        let doing = || "preparing the namespaces";
        let (foreground, place, lent) = match work {
            Work::Exec(job, _) => (job.terminal, job.place, &[][..]),
            Work::Call(place, lent, _) => (false, *place, *lent),
        };
        signal::detach();
        die_with_parent()?;
        reset_signals()?;
        let children = block_sigchld()?;
        let mut keep = vec![self.control.as_raw_fd(), self.report.as_raw_fd(), children.as_raw_fd()];
        keep.extend(self.output.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend(lent.iter().map(AsRawFd::as_raw_fd));
        sys::close_all_but(&keep);
        if !foreground {
            // A terminal's keys go to the tool, which decides what to forward.
            nix::unistd::setsid().doing(Code::Os, doing)?;
        }
        std::env::set_current_dir("/").doing(Code::Os, doing)?;
        self.ask(&Frame::Ready)?;
        if matches!(self.ids, Ids::Subordinate(_)) {
            nix::unistd::setgroups(&[]).doing(Code::Os, || "dropping the groups of the host")?;
            // Changing credentials clears the parent-death signal (PR_SET_PDEATHSIG(2const)).
            die_with_parent()?;
        }
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .doing(Code::Permission, || "making the mounts of the new namespace our own")
            .map_err(|failure| Failure { hint: attach::apparmor_hint().map(str::to_owned), ..failure })?;
        let null = command::null().doing(Code::Os, || "opening '/dev/null'")?;
        let of_the_host = matches!(work, Work::Exec(job, _) if job.place == Place::Host);
        let gpgdir = self.inside.gpgdir.as_deref().filter(|_| of_the_host);
        gpgdir.map_or(Ok(()), gnupg::make)?;
        let root = self.mount_plan(of_the_host)?;
        if of_the_host {
            gnupg::hide_host_configuration()?;
        }
        gpgdir.map_or(Ok(()), gnupg::cover)?;
        if let Work::Exec(_, Some(authorities)) = work {
            certificates::cover(authorities)?;
        }
        if self.inside.handler.is_some() && self.ids == Ids::Same {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS)
                .map_err(|e| explain_clone(Errno::from_raw_os_error(e as i32), Ids::Identity))?;
            die_with_parent()?;
            self.ask(&Frame::Map)?;
        }
        let handler = self.inside.handler.as_ref();
        let table = handler.map(|(arch, handler)| register(*arch, handler)).transpose()?;
        if place == Place::Root {
            // The new mount namespace is a copy: the open descriptor is of the old one.
            let root = if table.is_some() { self.open_root()? } else { root };
            leave::the_host(root.as_fd())?;
        }
        Ok((null, children, table))
    }

    /// Sends a frame to the tool, and waits for [`GO`]. If the pipe is closed, the tool is dead. Any other byte is a signal
    /// that asks us to stop, and there is no command yet that could get it.
    fn ask(&self, frame: &Frame) -> Result<(), Failure> {
        send(&self.report, frame);
        let mut word = [0];
        match (&self.control).read_exact(&mut word) {
            Ok(()) if word == [GO] => Ok(()),
            _ => sys::exit_now(1),
        }
    }

    /// Opens the root in our current namespace. The tool's descriptor is of another one.
    fn open_root(&self) -> Result<OwnedFd, Failure> {
        let root = Root::open(self.inside.root.path())?;
        if root.id()? != self.inside.id {
            let why = format!("opening the root {}: it was replaced in the meantime", quote(root.path()));
            return Err(Failure::new(Code::Failed, why));
        }
        root.as_fd().try_clone_to_owned().doing(Code::Os, || "opening the root")
    }

    /// Mounts the plan, except what `mkroot --host` has already mounted. `read_only`: makes everything else read-only.
    fn mount_plan(&self, read_only: bool) -> Result<OwnedFd, Failure> {
        let path = self.inside.root.path();
        let doing = || format!("binding {} on itself", quote(path));
        let mut below = self.open_root()?;
        let root = attach::private_copy(below.as_fd()).doing(Code::Os, doing)?;
        if read_only {
            self.protect_the_host()?;
            below = self.open_root()?;
        }
        attach::attach_tree(root.as_fd(), below.as_fd()).doing(Code::Os, doing)?;
        let live = mountinfo::read()?;
        let plan: Vec<Mount> =
            self.inside.mounts.iter().filter(|m| !live.iter().any(|l| l.target == path.join(&m.at))).cloned().collect();
        attach::attach_plan(root.as_fd(), path, &plan)?;
        Ok(root)
    }

    /// Makes all mounts here read-only except the package cache. The root is attached later, writable as it was.
    ///
    /// pacman opens its log, its databases and its keyring by paths, and so follows symbolic links that a root has there. It
    /// also extracts packages by paths. So this limits what it can write to, whatever the links are.
    fn protect_the_host(&self) -> Result<(), Failure> {
        // A cache in the root is writable like the root.
        let cache = self.inside.cache.as_deref().filter(|c| !c.starts_with(self.inside.root.path()));
        let copy = |cache| {
            let doing = || format!("opening the package cache {}", quote(cache));
            // pacman would make it, and no longer can.
            std::fs::create_dir_all(cache).doing(Code::Failed, doing)?;
            let directory = open_path(CWD, cache).doing(Code::Failed, doing)?;
            let copy = attach::private_copy(directory.as_fd()).doing(Code::Os, doing)?;
            Ok((cache, copy))
        };
        let copy = cache.map(copy).transpose()?;
        attach::make_read_only(Path::new("/")).doing(Code::Permission, || "making the host read-only, inside")?;
        if let Some((cache, copy)) = copy {
            let doing = || format!("binding {} on itself", quote(cache));
            let directory = open_path(CWD, cache).doing(Code::Os, doing)?;
            attach::attach_tree(copy.as_fd(), directory.as_fd()).doing(Code::Os, doing)?;
        }
        Ok(())
    }

    /// Runs the command, reaps, forwards signals, and reports how the command ended.
    fn serve(self, work: Work<'_>, null: BorrowedFd<'_>, children: &SignalFd) -> u8 {
        let begin = Instant::now();
        // SAFETY: init is a copy of a process with one thread.
        let pid = match unsafe { sys::clone(0) } {
            Ok(None) => {
                sys::exit_now(catch_unwind(AssertUnwindSafe(|| self.command(work, null))).unwrap_or(70));
            }
            Ok(Some(pid)) => process::Pid::from_raw(pid),
            Err(e) => {
                send(&self.report, &Frame::Failed(Failure::new(Code::Os, format!("starting a process: {e}"))));
                return 1;
            }
        };
        drop(self.output);
        let control = self.control.as_fd();
        let status = reap_until(pid, control, children, None);
        let seconds = begin.elapsed().as_secs_f64();
        // SIGTERM first, so that a gpg-agent removes its sockets; the kernel kills the rest.
        if kill(Pid::from_raw(-1), Signal::SIGTERM).is_ok() {
            reap_until(None, control, children, Some(Instant::now() + GRACE));
        }
        let exit = status.and_then(WaitStatus::exit_status);
        let signal = status.and_then(WaitStatus::terminating_signal);
        send(&self.report, &Frame::Ended(exit, signal, seconds));
        0
    }

    /// The child: executes the command, or runs the function.
    fn command(self, work: Work<'_>, null: BorrowedFd<'_>) -> u8 {
        drop(self.control);
        let output = self.output.as_ref().map(AsFd::as_fd);
        let terminal = matches!(&work, Work::Exec(job, _) if job.terminal);
        let function = matches!(&work, Work::Call(..));
        let pacman = matches!(&work, Work::Exec(job, _) if job.place == Place::Host);
        let setup = || -> std::io::Result<()> {
            SigSet::empty().thread_set_mask()?;
            if !terminal {
                command::stdio(null, output)?;
            }
            process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            if function {
                // Of a program that does not read its input; std resets this in children.
                ignore(Signal::SIGPIPE)?;
            }
            if function || pacman {
                // When a file size limit ends pacman, it leaves a half-extracted package, and its lock.
                ignore(Signal::SIGXFSZ)?;
            }
            Ok(())
        };
        if let Err(e) = setup() {
            send(&self.report, &Frame::Failed(Failure::new(Code::Os, format!("preparing the command: {e}"))));
            return 126;
        }
        match work {
            Work::Call(_, _, function) => {
                send(&self.report, &Frame::Returned(function()));
                0
            }
            Work::Exec(job, _) => {
                let errno = command::exec(job);
                send(&self.report, &Frame::NotRun(errno.raw_os_error()));
                126
            }
        }
    }
}

fn register(arch: Arch, handler: &Binfmt) -> Result<OwnedFd, Failure> {
    let interpreter = handler.interpreter.as_deref().unwrap_or(Path::new(""));
    let flags = handler.flags.as_deref().unwrap_or("OCPF");
    binfmt::register(arch, interpreter, flags).map_err(|e| {
        let failure = Failure::new(
            Code::Failed,
            format!("registering {} for programs of {}: {e}", quote(interpreter), arch.name),
        );
        match e {
            Errno::NOENT => failure.hint("run mkroot again: the emulator that it found is gone"),
            _ => failure
                .cause(Cause::SeeDoctor)
                .hint("a table of one's own needs Linux 6.7; 'doctor' says how to use the host's"),
        }
    })
}

fn die_with_parent() -> Result<(), Failure> {
    process::set_parent_process_death_signal(Some(process::Signal::KILL))
        .doing(Code::Os, || "asking to die with the tool")
}

/// Removes the handlers that we have as a copy of the tool: they would write to the tool's pipe. Signals that the tool's
/// caller ignores stay ignored; SIGPIPE, which Rust ignores, and SIGCHLD do not.
fn reset_signals() -> Result<(), Failure> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        let doing = || "resetting signals";
        // SAFETY: the default disposition runs no code of ours.
        let old = unsafe { sigaction(signal, &default) }.doing(Code::Os, doing)?;
        let ours = matches!(signal, Signal::SIGPIPE | Signal::SIGCHLD);
        if matches!(old.handler(), SigHandler::SigIgn) && !ours {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { sigaction(signal, &old) }.doing(Code::Os, doing)?;
        }
    }
    Ok(())
}

/// Makes a write that would raise this signal fail instead.
fn ignore(signal: Signal) -> nix::Result<()> {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.map(drop)
}

fn block_sigchld() -> Result<SignalFd, Failure> {
    let set = SigSet::from(Signal::SIGCHLD);
    set.thread_block().doing(Code::Os, || "blocking SIGCHLD")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(Code::Os, || "watching for SIGCHLD")
}

/// Reaps children and obeys the control pipe until `pid` has ended (`None`: until none is left), at most until `deadline`.
fn reap_until(
    pid: Option<process::Pid>,
    control: BorrowedFd<'_>,
    children: &SignalFd,
    deadline: Option<Instant>,
) -> Option<WaitStatus> {
    loop {
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(None) => break,
                Ok(Some((ended, status))) if Some(ended) == pid => return Some(status),
                Ok(_) | Err(Errno::INTR) => {}
                // ECHILD: none is left.
                Err(_) => return None,
            }
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return None;
        }
        match poll_readable(&[control, children.as_fd()], left, Wake::Never) {
            Ok(Some(ready)) if ready[0] => obey(control),
            Ok(_) => {}
            Err(_) => continue,
        }
        while matches!(children.read_signal(), Ok(Some(_))) {}
    }
}

/// Sends the signals that the tool forwards to all processes here. If the pipe is closed, the tool is dead.
fn obey(control: BorrowedFd<'_>) {
    let mut bytes = [0; 16];
    let n = match rustix::io::read(control, &mut bytes) {
        Ok(0) => sys::exit_now(1),
        Ok(n) => n,
        Err(_) => return,
    };
    for byte in &bytes[..n] {
        // A stopped process handles no signal. ESRCH: all have ended.
        for signal in [Signal::try_from(i32::from(*byte)), Ok(Signal::SIGCONT)] {
            signal.and_then(|s| kill(Pid::from_raw(-1), s)).unwrap_or(());
        }
    }
}
