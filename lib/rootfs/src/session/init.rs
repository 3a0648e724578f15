//! Init's side of an entry: PID 1 of the new namespace. It sets the namespaces up, runs the command, reaps, and ends what
//! the command left.
//!
//! In mode `chroot` it is an ordinary child of the tool, and does by hand what the kernel does otherwise: see
//! [`super::descendants`] and [`crate::stand_in`]. When the tool dies, it ends all of them, cleans up and ends.

use super::descendants::{Family, describe};
use super::wire::{Frame, GO, send};
use super::{Ids, Inside, Place, Work, certificates, command, explain_clone, leave};
use crate::occupants::proc::open_path;
use crate::plan::{self, Mount};
use crate::stand_in::{self, Scratch, StandIns};
use crate::{Arch, Binfmt, Root, attach, binfmt, gnupg, mountinfo, sys};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{self, WaitOptions, WaitStatus};
use stage::signal::{self, Wake, poll_readable};
use stage::{Cause, Code, Doing, Failure, quote};
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the processes that a command left may take to end on SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// How long they may take to end on SIGKILL: one that sleeps in a driver may never end.
const KILL_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Init<'a> {
    pub(super) inside: &'a Inside,
    pub(super) ids: Ids<'a>,
    pub(super) control: PipeReader,
    pub(super) report: PipeWriter,
    pub(super) output: Option<OwnedFd>,
}

/// What a command needs, and what is removed when all have ended.
struct Ready {
    /// The host's `/dev/null`.
    null: OwnedFd,
    /// What tells that a child has ended.
    children: SignalFd,
    /// The private binfmt table, which lasts as long as its descriptor.
    _table: Option<OwnedFd>,
    without: Option<Without>,
}

/// What mode `chroot` has in place of namespaces.
struct Without {
    root: OwnedFd,
    stand_ins: Option<StandIns>,
    /// The lock, where there are no stand-ins.
    _lock: Option<OwnedFd>,
    scratch: Option<Scratch>,
    /// The GnuPG home of the document, and a copy of it.
    home: Option<(PathBuf, PathBuf)>,
}

impl Init<'_> {
    /// The main function of PID 1. Returns its exit status, which is not used: the report has the result.
    pub(super) fn run(self, work: Work<'_>) -> u8 {
        match self.prepare(&work) {
            Ok(ready) => self.serve(work, &ready),
            Err(failure) => {
                send(&self.report, &Frame::Failed(failure));
                1
            }
        }
    }

    fn family(&self) -> Family {
        if self.inside.chroot { Family::Descendants } else { Family::Namespace }
    }

    /// Separates us from the tool, and sets the namespaces up.
    fn prepare(&self, work: &Work<'_>) -> Result<Ready, Failure> {
        let children = self.separate(work)?;
        if self.inside.uname32 {
            sys::use_uname32().doing(Code::Os, || "setting the personality of 32-bit programs")?;
        }
        let null = command::null().doing(Code::Os, || "opening '/dev/null'")?;
        let (table, without) = match self.inside.chroot {
            true => (None, Some(self.prepare_without(work)?)),
            false => (self.prepare_namespaces(work)?, None),
        };
        Ok(Ready { null, children, _table: table, without })
    }

    /// Separates us from the tool. Returns what tells that a child has ended.
    fn separate(&self, work: &Work<'_>) -> Result<SignalFd, Failure> {
        let (foreground, lent) = match work {
            Work::Exec(job, _) => (job.terminal, &[][..]),
            Work::Call(_, lent, _) => (false, *lent),
        };
        signal::detach();
        if !self.inside.chroot {
            die_with_parent()?;
        }
        reset_signals()?;
        self.family().adopt()?;
        let children = self.block_signals()?;
        let mut keep = vec![self.control.as_raw_fd(), self.report.as_raw_fd(), children.as_raw_fd()];
        keep.extend(self.output.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend(lent.iter().map(AsRawFd::as_raw_fd));
        sys::close_all_but(&keep);
        let doing = || "leaving the tool's session and directory";
        if !foreground {
            // A terminal's keys go to the tool, which decides what to forward.
            nix::unistd::setsid().doing(Code::Os, doing)?;
        }
        std::env::set_current_dir("/").doing(Code::Os, doing)?;
        self.ask(&Frame::Ready)?;
        Ok(children)
    }

    /// Blocks SIGCHLD, and returns what tells that one came. PID 1 gets no other signal that would end it; without a PID
    /// namespace all are blocked, so that the terminal's keys do not end us before we have cleaned up.
    fn block_signals(&self) -> Result<SignalFd, Failure> {
        let set = SigSet::from(Signal::SIGCHLD);
        let blocked = if self.inside.chroot { SigSet::all() } else { set };
        blocked.thread_block().doing(Code::Os, || "blocking signals")?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(Code::Os, || "watching for SIGCHLD")
    }

    /// Sets the namespaces up. Returns the private binfmt table.
    fn prepare_namespaces(&self, work: &Work<'_>) -> Result<Option<OwnedFd>, Failure> {
        if matches!(self.ids, Ids::Subordinate(_)) {
            nix::unistd::setgroups(&[]).doing(Code::Os, || "dropping the groups of the host")?;
            // Changing credentials clears the parent-death signal (PR_SET_PDEATHSIG(2const)).
            die_with_parent()?;
        }
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .doing(Code::Permission, || "making the mounts of the new namespace our own")
            .map_err(|failure| Failure { hint: attach::apparmor_hint().map(str::to_owned), ..failure })?;
        let of_the_host = work.is_of_the_host();
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
        if work.place() == Place::Root {
            // The new mount namespace is a copy: the open descriptor is of the old one.
            let root = if table.is_some() { self.open_root()? } else { root };
            leave::the_host(root.as_fd())?;
        }
        Ok(table)
    }

    /// Prepares what mode `chroot` has in place of namespaces. A failure leaves nothing.
    fn prepare_without(&self, work: &Work<'_>) -> Result<Without, Failure> {
        let path = self.inside.root.path();
        if let Some(mount) = self.inside.mounts.iter().find(|mount| mount.kind != plan::NONE) {
            let what = quote(mount.source.as_ref().unwrap_or(&mount.kind));
            let at = quote(path.join(&mount.at));
            return Err(Failure::new(
                Code::Usage,
                format!("mounting {what} on {at}: in mode chroot nothing is mounted"),
            ));
        }
        if work.is_of_the_host() {
            certificates::refuse_others()?;
        }
        let root = self.open_root()?;
        let nothing_runs = self.inside.mounts.is_empty();
        let mut without = Without { root, stand_ins: None, _lock: None, scratch: None, home: None };
        if nothing_runs {
            without._lock = Some(stand_in::share(without.root.as_fd(), path)?);
        } else {
            without.stand_ins = Some(StandIns::make(without.root.as_fd(), path, &self.inside.mounts)?);
        }
        let made = if work.place() == Place::Host { self.make_scratch(work, &mut without) } else { Ok(()) };
        match made {
            Ok(()) => Ok(without),
            Err(failure) => {
                // The first failure is the one to report.
                without.remove().unwrap_or(());
                Err(failure)
            }
        }
    }

    /// Makes a directory for GnuPG homes, and for a command of the host a copy of that of the document.
    fn make_scratch(&self, work: &Work<'_>, without: &mut Without) -> Result<(), Failure> {
        let scratch = without.scratch.insert(Scratch::make()?);
        gnupg::use_scratch(scratch.path());
        if let Some(home) = self.inside.gpgdir.as_deref().filter(|_| work.is_of_the_host()) {
            gnupg::make(home)?;
            let copy = scratch.path().join("gpgdir");
            gnupg::copy(home, &copy)?;
            without.home = Some((home.to_owned(), copy));
        }
        Ok(())
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
    fn serve(self, work: Work<'_>, ready: &Ready) -> u8 {
        let begin = Instant::now();
        let family = self.family();
        // SAFETY: init is a copy of a process with one thread.
        let pid = match unsafe { sys::clone(0) } {
            Ok(None) => {
                sys::exit_now(catch_unwind(AssertUnwindSafe(|| self.command(work, ready))).unwrap_or(70));
            }
            Ok(Some(pid)) => process::Pid::from_raw(pid),
            Err(e) => {
                send(&self.report, &Frame::Failed(Failure::new(Code::Os, format!("starting a process: {e}"))));
                ready.remove().unwrap_or(());
                return 1;
            }
        };
        drop(self.output);
        let keeper = Keeper { control: self.control.as_fd(), children: &ready.children, family };
        let seen = keeper.reap_until(pid, None);
        let seconds = begin.elapsed().as_secs_f64();
        let left = keeper.end(matches!(seen, Seen::Deserted)).and_then(|()| ready.remove());
        if let Err(failure) = left {
            send(&self.report, &Frame::Left(failure));
        }
        let status = if let Seen::Ended(status) = seen { Some(status) } else { None };
        let exit = status.and_then(WaitStatus::exit_status);
        let signal = status.and_then(WaitStatus::terminating_signal);
        send(&self.report, &Frame::Ended(exit, signal, seconds));
        0
    }

    /// The child: executes the command, or runs the function.
    fn command(self, work: Work<'_>, ready: &Ready) -> u8 {
        drop(self.control);
        let output = self.output.as_ref().map(AsFd::as_fd);
        let terminal = matches!(&work, Work::Exec(job, _) if job.terminal);
        let function = matches!(&work, Work::Call(..));
        let pacman = work.is_of_the_host();
        let setup = || -> std::io::Result<()> {
            SigSet::empty().thread_set_mask()?;
            if !terminal {
                command::stdio(ready.null.as_fd(), output)?;
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
        let ready_to_run = setup().doing(Code::Os, || "preparing the command").and_then(|()| match &ready.without {
            Some(without) if work.place() == Place::Root => leave::by_chroot(without.root.as_fd()),
            _ => Ok(()),
        });
        if let Err(failure) = ready_to_run {
            send(&self.report, &Frame::Failed(failure));
            return 126;
        }
        match work {
            Work::Call(_, _, function) => {
                send(&self.report, &Frame::Returned(function()));
                0
            }
            Work::Exec(job, _) => {
                let home = ready.without.as_ref().and_then(|without| without.home.as_ref());
                let errno = command::exec(job, home);
                send(&self.report, &Frame::NotRun(errno.raw_os_error()));
                126
            }
        }
    }
}

impl Ready {
    /// Removes what the kernel does not remove by itself.
    fn remove(&self) -> Result<(), Failure> {
        self.without.as_ref().map_or(Ok(()), Without::remove)
    }
}

impl Without {
    fn remove(&self) -> Result<(), Failure> {
        let scratch = self.scratch.as_ref().map_or(Ok(()), Scratch::remove);
        self.stand_ins.as_ref().map_or(Ok(()), StandIns::remove).and(scratch)
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

/// Why init stopped waiting.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// The process has ended.
    Ended(WaitStatus),
    /// No process is left.
    NoneLeft,
    /// It is too late.
    Late,
    /// The tool is dead.
    Deserted,
}

/// Waits for processes, and passes signals on to them.
struct Keeper<'a> {
    control: BorrowedFd<'a>,
    children: &'a SignalFd,
    family: Family,
}

impl Keeper<'_> {
    /// Reaps children and obeys the control pipe until `pid` has ended (`None`: until none is left), at most until `deadline`.
    fn reap_until(&self, pid: Option<process::Pid>, deadline: Option<Instant>) -> Seen {
        loop {
            match self.reap(pid) {
                Some(seen) => return seen,
                None => match self.wait(deadline, true) {
                    None => {}
                    Some(seen) => return seen,
                },
            }
        }
    }

    /// Reaps all that have ended.
    fn reap(&self, pid: Option<process::Pid>) -> Option<Seen> {
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(None) => return None,
                Ok(Some((ended, status))) if Some(ended) == pid => return Some(Seen::Ended(status)),
                Ok(_) | Err(Errno::INTR) => {}
                // ECHILD: none is left.
                Err(_) => return Some(Seen::NoneLeft),
            }
        }
    }

    /// Waits until a child has ended; with `obey`, also for what the tool says.
    fn wait(&self, deadline: Option<Instant>, obey: bool) -> Option<Seen> {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Some(Seen::Late);
        }
        let fds = [self.children.as_fd(), self.control];
        let ready = poll_readable(&fds[..if obey { 2 } else { 1 }], left, Wake::Never).ok()?;
        if ready.is_some_and(|ready| ready.get(1) == Some(&true)) && !self.obey() {
            return Some(Seen::Deserted);
        }
        while matches!(self.children.read_signal(), Ok(Some(_))) {}
        None
    }

    /// Sends the signals that the tool forwards to all processes here. Returns whether the tool still lives: the pipe is closed
    /// when it is dead, and the kernel ends all of a PID namespace with its init.
    fn obey(&self) -> bool {
        let mut bytes = [0; 16];
        let n = match rustix::io::read(self.control, &mut bytes) {
            Ok(0) if self.family == Family::Namespace => sys::exit_now(1),
            Ok(0) => return false,
            Ok(n) => n,
            Err(_) => return true,
        };
        for byte in &bytes[..n] {
            if let Ok(signal) = Signal::try_from(i32::from(*byte)) {
                // A stopped process handles no signal.
                self.family.signal(&[signal, Signal::SIGCONT]);
            }
        }
        true
    }

    /// Ends what is left: SIGTERM first, so that a gpg-agent removes its sockets. What is left of a PID namespace then, the
    /// kernel kills. `at_once`: nobody waits for us any more.
    fn end(&self, at_once: bool) -> Result<(), Failure> {
        if !at_once {
            self.family.signal(&[Signal::SIGTERM]);
            self.reap_until(None, Some(Instant::now() + GRACE));
        }
        if self.family == Family::Namespace {
            return Ok(());
        }
        // The death of the last one that was found wakes us; what it has started until then is a child of ours.
        let deadline = Instant::now() + KILL_WAIT;
        while !matches!(self.reap(None), Some(Seen::NoneLeft)) {
            self.family.signal(&[Signal::SIGSTOP, Signal::SIGKILL]);
            if matches!(self.wait(Some(deadline), false), Some(Seen::Late)) {
                let why = format!("ending what was left in the root: {}: SIGKILL did not end them", describe());
                return Err(Failure::new(Code::Busy, why)
                    .hint("they wait in the kernel, for a disk or a server: ps -o pid,stat,wchan,args"));
            }
        }
        Ok(())
    }
}
