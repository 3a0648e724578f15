//! One entry into the root, for every tool.
//!
//! ```text
//! tool ── clone(new mount, PID [, user] namespaces) ── init (PID 1) ── fork ── command
//! ```
//!
//! The tool writes the id maps and waits. Init mounts the plan, runs the command, reaps what it leaves, asks that to end
//! (TERM, at most two seconds) and goes; the kernel then kills the rest and takes the mounts away. Whatever kills the
//! tool kills init: it has a parent-death signal, and it sees its control pipe close. So SIGKILL of the tool at any
//! moment leaves no process and no mount.
//!
//! As root the mounts are made first and the user namespace, which is only there to have a binfmt table of its own,
//! comes after them: it maps every id to itself, and what root may mount stays mountable.

use crate::plan::Mount;
use crate::root::RootId;
use crate::sys::{self, Cloned};
use crate::{Arch, Binfmt, IdMap, Root, attach, binfmt, idmap, mountinfo, probe};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Code, Document, Doing, Failure, quote, signal};
use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long what a command left running is given to end before the kernel kills it.
const GRACE: Duration = Duration::from_secs(2);

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the host's file system and the plan mounted below the root: for programs of the host, such as pacman.
    Host,
    /// Chrooted into the root.
    Root,
}

/// A command to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program: an absolute path, or for [`Place::Root`] also a name to look up in the environment's `PATH`.
    pub program: &'a OsStr,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub place: Place,
    /// Where it starts, for [`Place::Root`]: an absolute path in the root. `/` by default.
    pub directory: Option<&'a str>,
    /// As whom it runs, as ids inside: user, group, supplementary groups. Root by default.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Whether it gets our stdin, stdout and stderr, and the terminal's keys; else `/dev/null` and our stderr.
    pub terminal: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It could not be run at all.
    NotRun(Errno),
}

impl Ended {
    /// Returns the exit status that says so, as env(1) and chroot(1) do: 127 not found, 126 not runnable, 128 + signal.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => u8::try_from(status & 0xff).unwrap_or(1),
            Self::Signalled(signal) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(255),
            Self::NotRun(Errno::NOENT | Errno::NOTDIR) => 127,
            Self::NotRun(_) => 126,
        }
    }

    /// Returns how it ended in words, for a message.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Exited(status) => format!("exit status {status}"),
            Self::Signalled(n) => match Signal::try_from(n) {
                Ok(name) => format!("killed by signal {n} ({name})"),
                Err(_) => format!("killed by signal {n}"),
            },
            Self::NotRun(e) => e.to_string(),
        }
    }
}

/// What there is to know to be inside a root.
#[derive(Debug)]
pub struct Inside {
    root: Root,
    id: RootId,
    mounts: Vec<Mount>,
    idmap: Option<IdMap>,
    handler: Option<(Arch, Binfmt)>,
}

impl Inside {
    /// Reads it from the document, and checks that it is ours to use.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where a member is missing, [`Code::Permission`] where the document is another user's.
    pub fn of(document: &Document) -> Result<Self, Failure> {
        let root = Root::of(document)?;
        let mode: String = document.need("mode", "mkroot")?;
        let mounts: Vec<Mount> = document.need("mounts", "mkroot")?;
        let binfmt: Binfmt = document.need("binfmt", "mkroot")?;
        let arch: String = document.need("arch", "mkroot")?;
        let idmap: Option<IdMap> = document.view("idmap")?;
        let handler = if binfmt.is_private() {
            Some((Arch::named(&arch)?, binfmt))
        } else {
            None
        };
        let me = rustix::process::geteuid().as_raw();
        let idmap = match (mode.as_str(), me, idmap) {
            ("user", me, Some(map)) if map.is_of(me) => Some(map),
            ("user", _, _) => {
                return Err(Failure::new(
                    Code::Permission,
                    format!("entering {}: it is another user's root", quote(root.path())),
                )
                .hint("run this as the user that ran mkroot"));
            }
            (_, 0, _) => None,
            (_, _, _) => {
                return Err(Failure::new(
                    Code::Permission,
                    format!("entering {}: it was made by root", quote(root.path())),
                )
                .hint("run this with sudo"));
            }
        };
        Self::new(root, mounts, idmap, handler)
    }

    /// Puts it together from parts: for the tool that makes them. `idmap` is for an ordinary user; `handler` for a
    /// private binfmt table.
    ///
    /// # Errors
    ///
    /// When the root cannot be looked at.
    pub fn new(
        root: Root,
        mounts: Vec<Mount>,
        idmap: Option<IdMap>,
        handler: Option<(Arch, Binfmt)>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            id: root.id()?,
            root,
            mounts,
            idmap,
            handler,
        })
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Adds a mount to the plan, for this entry only.
    pub fn also_mount(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }

    /// Runs a command. `output`, where there is one, is given what it prints on stdout and stderr, through `tty` if that
    /// is a terminal's other side; else our stderr is.
    ///
    /// # Errors
    ///
    /// When the root cannot be entered, or a signal asked us to stop. How the command ended is no error.
    pub fn run(
        &self,
        job: &Job<'_>,
        output: Option<Output<'_>>,
    ) -> Result<(Ended, Duration), Failure> {
        let (ended, time, _) = self.enter(Work::Exec(job), output)?;
        if signal::interrupted() && !job.terminal {
            return Err(signal::interruption());
        }
        Ok((ended, time))
    }

    /// Runs a function inside, as root there, in a process of its own, and returns what it returns.
    ///
    /// # Errors
    ///
    /// The function's, and as [`Inside::run`].
    pub fn call(
        &self,
        place: Place,
        work: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<Vec<u8>, Failure> {
        let (ended, _, result) = self.enter(Work::Call(place, Box::new(work)), None)?;
        if result.is_empty() {
            signal::check()?;
            return Err(Failure::new(
                Code::Os,
                format!(
                    "working inside {}: {}",
                    quote(self.root.path()),
                    ended.words()
                ),
            ));
        }
        match serde_json::from_slice(&result) {
            Ok(Frame::Result(bytes)) => Ok(bytes),
            Ok(Frame::Failed(told)) => Err(told.failure()),
            _ => Err(Failure::new(
                Code::Os,
                "working inside: an answer that makes no sense",
            )),
        }
    }

    /// Proves that programs of the root's architecture run inside, by running one.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where they do not, with the reason.
    pub fn probe(&self, arch: Arch) -> Result<(), Failure> {
        let Some(program) = probe::program(arch) else {
            return Ok(());
        };
        self.call(Place::Root, move || run_probe(arch, &program))
            .map(|_| ())
    }

    /// Makes the namespaces, and waits until all is over.
    fn enter(
        &self,
        work: Work<'_>,
        output: Option<Output<'_>>,
    ) -> Result<(Ended, Duration, Vec<u8>), Failure> {
        let doing = || format!("entering {}", quote(self.root.path()));
        need_one_thread()?;
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing(Code::Os, doing);
        let (control_theirs, control) = pipe()?;
        let (report, report_theirs) = pipe()?;
        let (result, result_theirs) = pipe()?;
        let (sink, written) = match output {
            Some(Output { sink, from, into }) => (Some((sink, from)), Some(into)),
            None => (None, None),
        };
        let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
        if self.idmap.is_some() {
            flags |= libc::CLONE_NEWUSER;
        }
        // SAFETY: need_one_thread() has looked.
        match unsafe { sys::clone(flags) } {
            Err(e) => Err(explain_clone(e, self.idmap.is_some()).while_doing(doing())),
            Ok(Cloned::Child) => {
                let init = Init {
                    inside: self,
                    control: control_theirs,
                    report: report_theirs,
                    result: result_theirs,
                    output: written,
                };
                let status = catch_unwind(AssertUnwindSafe(|| init.live(work))).unwrap_or(70);
                sys::exit_now(status)
            }
            Ok(Cloned::Parent(pid)) => {
                drop((control_theirs, report_theirs, result_theirs, written));
                let mut watch = Watch {
                    inside: self,
                    pid,
                    control: Some(control),
                    told: None,
                    result: Vec::new(),
                    foreground: matches!(&work, Work::Exec(job) if job.terminal),
                };
                let seen = watch.until_the_end(report, result, sink);
                // Closing the control pipe ends init, where it still lives.
                watch.control = None;
                let status = wait_for(pid);
                seen.map_err(|f| f.while_doing(doing()))?;
                watch.conclude(status).map_err(|f| f.while_doing(doing()))
            }
        }
    }
}

/// What is given each piece of a command's output.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// Where a command's output goes.
pub struct Output<'a> {
    /// What is given each piece of it.
    pub sink: Sink<'a>,
    /// The side that we read.
    pub from: OwnedFd,
    /// The side that the command writes.
    pub into: OwnedFd,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// A function to run inside.
type Call<'a> = Box<dyn FnOnce() -> Result<Vec<u8>, Failure> + 'a>;

/// What is done inside.
enum Work<'a> {
    Exec(&'a Job<'a>),
    Call(Place, Call<'a>),
}

/// What init and the command tell the tool, one JSON value a line.
#[derive(Debug, Deserialize, Serialize)]
enum Frame {
    /// Init's parent-death signal is set; in a user namespace its maps are wanted now.
    Ready,
    /// Init has made a user namespace and wants the identity map.
    Map,
    /// Something failed before the command ran.
    Failed(Told),
    /// execve(2) failed with this error number.
    NotRun(i32),
    /// The command ended: exit status or signal, and seconds.
    Ended(Option<i32>, Option<i32>, f64),
    /// What a called function returned.
    Result(Vec<u8>),
}

/// A failure on its way from process to process.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    code: String,
    message: String,
    hint: Option<String>,
}

impl Told {
    fn of(failure: Failure) -> Self {
        Self {
            code: failure.code.word().to_owned(),
            message: failure.message,
            hint: failure.hint,
        }
    }

    fn failure(self) -> Failure {
        let code = Code::ALL.into_iter().find(|c| c.word() == self.code);
        Failure {
            code: code.unwrap_or(Code::Os),
            message: self.message,
            hint: self.hint,
        }
    }
}

fn tell(to: BorrowedFd<'_>, frame: &Frame) {
    let mut line = serde_json::to_vec(frame).unwrap_or_default();
    line.push(b'\n');
    // A tool that does not read any more is dead, and we are about to be.
    write_all(to, &line).unwrap_or(());
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------------
// The tool's side.

/// What the tool knows of an entry while it waits.
struct Watch<'a> {
    inside: &'a Inside,
    pid: i32,
    control: Option<OwnedFd>,
    told: Option<Frame>,
    result: Vec<u8>,
    foreground: bool,
}

impl Watch<'_> {
    /// Serves init until it has closed everything: maps, signals, output, results.
    fn until_the_end(
        &mut self,
        report: OwnedFd,
        result: OwnedFd,
        sink: Option<(Sink<'_>, OwnedFd)>,
    ) -> Result<(), Failure> {
        let (mut sink, from) = match sink {
            Some((sink, from)) => (Some(sink), Some(from)),
            None => (None, None),
        };
        let mut open = [Some(report), Some(result), from];
        let mut lines = Vec::new();
        let mut signals = signal::count();
        let mut buffer = vec![0; 1 << 16];
        while open.iter().any(Option::is_some) {
            let ready = wait_readable(&open)?;
            self.pass_signals(&mut signals);
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
        Ok(())
    }

    /// Hands signals on: the first as INT, which pacman takes as "finish this package", the next as TERM, then KILL.
    fn pass_signals(&mut self, seen: &mut usize) {
        let now = signal::count();
        while *seen < now {
            *seen += 1;
            let byte = if self.foreground {
                b't'
            } else {
                b"itk"[(*seen - 1).min(2)]
            };
            if let Some(control) = &self.control {
                // Init that is gone needs no signal.
                write_all(control.as_fd(), &[byte]).unwrap_or(());
            }
        }
    }

    fn answer(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::Ready => {
                if let Some(map) = &self.inside.idmap {
                    map.write(self.pid)?;
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
            Some(control) => {
                write_all(control.as_fd(), b"g").doing(Code::Os, || "speaking to init")
            }
            None => Ok(()),
        }
    }

    /// Says how it went, from what init told and how it ended.
    fn conclude(
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

/// Waits until one of `open` can be read or a signal has come.
fn wait_readable(open: &[Option<OwnedFd>; 3]) -> Result<[bool; 3], Failure> {
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
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {
            for (fd, i) in fds.iter().zip(which) {
                ready[i] = fd.any().unwrap_or(true);
            }
            Ok(ready)
        }
        Err(nix::errno::Errno::EINTR) => Ok(ready),
        Err(e) => Err(e).doing(Code::Os, || "waiting for what runs inside"),
    }
}

fn wait_for(pid: i32) -> Result<WaitStatus, Failure> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return result.doing(Code::Os, || "waiting for the namespace to end"),
        }
    }
}

/// clone(2) copies one thread: with more, a lock could stay locked for ever in the copy.
fn need_one_thread() -> Result<(), Failure> {
    let tasks =
        std::fs::read_dir("/proc/self/task").doing(Code::Os, || "reading '/proc/self/task'")?;
    match tasks.count() {
        1 => Ok(()),
        n => Err(Failure::new(
            Code::Os,
            format!("making namespaces: this program has {n} threads, and must have one"),
        )),
    }
}

/// Says why namespaces cannot be made, and what permits them.
fn explain_clone(error: Errno, user: bool) -> Failure {
    let failure = Failure::new(Code::Permission, format!("making namespaces: {error}"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = status
        .lines()
        .any(|l| l.split_whitespace().eq(["Seccomp:", "2"]));
    match error {
        Errno::NOSPC => failure.hint(
            "a limit is used up or 0: see 'sysctl user.max_user_namespaces user.max_mnt_namespaces user.max_pid_namespaces'",
        ),
        Errno::PERM if seccomp => failure.hint(
            "this container forbids namespaces: run it with --security-opt seccomp=unconfined",
        ),
        Errno::PERM if user => failure.hint(
            attach::apparmor_hint()
                .unwrap_or("user namespaces are forbidden here, or we are in a chroot: 'doctor' says more; root needs none"),
        ),
        Errno::PERM => failure.hint("root without the capability SYS_ADMIN: run the pipeline as an ordinary user"),
        error => Failure::new(Code::Os, format!("making namespaces: {error}")),
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Init's side: PID 1 of the new namespace.

struct Init<'a> {
    inside: &'a Inside,
    control: OwnedFd,
    report: OwnedFd,
    result: OwnedFd,
    output: Option<OwnedFd>,
}

impl Init<'_> {
    /// The life of PID 1. Returns the exit status, which nobody looks at: the report says it all.
    fn live(self, work: Work<'_>) -> u8 {
        match self.prepare(&work) {
            Ok(prepared) => self.serve(work, &prepared),
            Err(failure) => {
                tell(self.report.as_fd(), &Frame::Failed(Told::of(failure)));
                1
            }
        }
    }

    /// Cuts what ties us to the tool, and makes the namespaces what they are to be.
    fn prepare(&self, work: &Work<'_>) -> Result<Prepared, Failure> {
        let doing = || "preparing the namespaces";
        let foreground = matches!(work, Work::Exec(job) if job.terminal);
        signal::detach();
        die_with_parent()?;
        reset_signals()?;
        let children = block_sigchld()?;
        let mut keep = vec![
            self.control.as_raw_fd(),
            self.report.as_raw_fd(),
            self.result.as_raw_fd(),
            children.as_raw_fd(),
        ];
        keep.extend(self.output.as_ref().map(AsRawFd::as_raw_fd));
        sys::close_all_but(&keep);
        if !foreground {
            // A terminal's keys go to the tool, which hands them on as it sees fit.
            nix::unistd::setsid().doing(Code::Os, doing)?;
        }
        std::env::set_current_dir("/").doing(Code::Os, doing)?;
        self.ask(&Frame::Ready)?;
        if self.inside.idmap.is_some() {
            drop_groups()?;
            // Changing credentials clears the parent-death signal (PR_SET_PDEATHSIG(2const)).
            die_with_parent()?;
        }
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::DOWNSTREAM
                | rustix::mount::MountPropagationFlags::REC,
        )
        .doing(
            Code::Permission,
            || "making the mounts of the new namespace our own",
        )
        .map_err(|f| match attach::apparmor_hint() {
            Some(hint) => f.hint(hint),
            None => f,
        })?;
        let root = self.mount_plan()?;
        if self.inside.handler.is_some() && self.inside.idmap.is_none() {
            nix::sched::unshare(
                nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS,
            )
            .map_err(|e| explain_clone(Errno::from_raw_os_error(e as i32), true))?;
            die_with_parent()?;
            self.ask(&Frame::Map)?;
        }
        let table = match &self.inside.handler {
            Some((arch, handler)) => Some(register(*arch, handler)?),
            None => None,
        };
        // A new mount namespace is a copy: what was open is of the old one.
        let root = if table.is_some() {
            self.open_root()?
        } else {
            root
        };
        Ok(Prepared {
            root,
            children,
            _table: table,
        })
    }

    /// Tells the tool, and waits for its word. No word: the tool is dead.
    fn ask(&self, frame: &Frame) -> Result<(), Failure> {
        tell(self.report.as_fd(), frame);
        let mut word = [0];
        loop {
            match rustix::io::read(&self.control, &mut word) {
                Err(Errno::INTR) => {}
                Ok(1) if word == *b"g" => return Ok(()),
                Ok(1) => {}
                _ => sys::exit_now(1),
            }
        }
    }

    /// Opens the root in the namespace that we are in now. The tool's descriptor is of another one.
    fn open_root(&self) -> Result<OwnedFd, Failure> {
        let root = Root::open(self.inside.root.path())?;
        if root.id()? != self.inside.id {
            return Err(Failure::new(
                Code::Failed,
                format!(
                    "opening the root {}: it was replaced meanwhile",
                    quote(root.path())
                ),
            ));
        }
        root.as_fd()
            .try_clone_to_owned()
            .doing(Code::Os, || "opening the root")
    }

    /// Mounts the plan, but for what `mkroot --host` has mounted already.
    fn mount_plan(&self) -> Result<OwnedFd, Failure> {
        let path = self.inside.root.path();
        let below = self.open_root()?;
        let root = attach::bind_on_itself(below.as_fd())
            .doing(Code::Os, || format!("binding {} on itself", quote(path)))?;
        let live = mountinfo::read()?;
        let plan: Vec<Mount> = self
            .inside
            .mounts
            .iter()
            .filter(|m| !live.iter().any(|l| l.target == path.join(&m.at)))
            .cloned()
            .collect();
        attach::attach_plan(root.as_fd(), path, &plan)?;
        Ok(root)
    }

    /// Runs the command, reaps, passes signals on, and says how it ended.
    fn serve(self, work: Work<'_>, prepared: &Prepared) -> u8 {
        let begin = Instant::now();
        // SAFETY: init is a copy of a process with one thread.
        let pid = match unsafe { sys::fork() } {
            Ok(Cloned::Child) => {
                let run = || self.command(work, prepared);
                sys::exit_now(catch_unwind(AssertUnwindSafe(run)).unwrap_or(70));
            }
            Ok(Cloned::Parent(pid)) => pid,
            Err(e) => {
                let failure = Failure::new(Code::Os, format!("starting a process: {e}"));
                tell(self.report.as_fd(), &Frame::Failed(Told::of(failure)));
                return 1;
            }
        };
        let Self {
            control,
            report,
            result,
            output,
            ..
        } = self;
        drop((result, output));
        let status = reap_until(pid, control.as_fd(), &prepared.children, None);
        let seconds = begin.elapsed().as_secs_f64();
        // What is left is asked to end, so that a gpg-agent takes its sockets along; then the kernel kills it.
        if kill(Pid::from_raw(-1), Signal::SIGTERM).is_ok() {
            reap_until(
                -1,
                control.as_fd(),
                &prepared.children,
                Some(Instant::now() + GRACE),
            );
        }
        let frame = match status {
            Some(WaitStatus::Exited(_, exit)) => Frame::Ended(Some(exit), None, seconds),
            Some(WaitStatus::Signaled(_, by, _)) => Frame::Ended(None, Some(by as i32), seconds),
            _ => Frame::Ended(None, None, seconds),
        };
        tell(report.as_fd(), &frame);
        0
    }

    /// The child: becomes the command, or runs the function.
    fn command(self, work: Work<'_>, prepared: &Prepared) -> u8 {
        let Self {
            control,
            report,
            result,
            output,
            ..
        } = self;
        drop(control);
        let (place, terminal) = match &work {
            Work::Exec(job) => (job.place, job.terminal),
            Work::Call(place, _) => (*place, false),
        };
        let setup = || -> Result<(), Errno> {
            SigSet::empty()
                .thread_set_mask()
                .map_err(|e| Errno::from_raw_os_error(e as i32))?;
            if !terminal {
                stdio(output.as_ref().map(AsFd::as_fd))?;
            }
            if place == Place::Root {
                rustix::process::fchdir(&prepared.root)?;
                rustix::process::chroot(".")?;
                rustix::process::chdir("/")?;
            }
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            Ok(())
        };
        if let Err(e) = setup() {
            let failure = Failure::new(Code::Os, format!("preparing the command: {e}"));
            tell(report.as_fd(), &Frame::Failed(Told::of(failure)));
            return 126;
        }
        match work {
            Work::Call(_, function) => {
                let frame = match function() {
                    Ok(bytes) => Frame::Result(bytes),
                    Err(failure) => Frame::Failed(Told::of(failure)),
                };
                tell(result.as_fd(), &frame);
                0
            }
            Work::Exec(job) => {
                drop((result, output));
                let errno = exec(job);
                tell(report.as_fd(), &Frame::NotRun(errno.raw_os_error()));
                126
            }
        }
    }
}

/// What init holds while the command runs.
#[derive(Debug)]
struct Prepared {
    root: OwnedFd,
    children: SignalFd,
    /// The private binfmt table: it lives as long as this.
    _table: Option<OwnedFd>,
}

fn register(arch: Arch, handler: &Binfmt) -> Result<OwnedFd, Failure> {
    let interpreter = handler.interpreter.as_deref().unwrap_or(Path::new(""));
    let flags = handler.flags.as_deref().unwrap_or("OCPF");
    binfmt::register(arch, interpreter, flags).map_err(|e| {
        let failure = Failure::new(
            Code::Failed,
            format!(
                "registering {} for programs of {}: {e}",
                quote(interpreter),
                arch.name
            ),
        );
        match e {
            Errno::NOENT => failure.hint("run mkroot again: the emulator that it found is gone"),
            _ => failure
                .hint("a table of one's own needs Linux 6.7; 'doctor' says how to use the host's"),
        }
    })
}

fn die_with_parent() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .doing(Code::Os, || "asking to die with the tool")
}

/// Gives up the handlers that we have as a copy of the tool: they would write into the tool's pipe.
fn reset_signals() -> Result<(), Failure> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
    ] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { sigaction(signal, &default) }.doing(Code::Os, || "resetting signals")?;
    }
    Ok(())
}

fn block_sigchld() -> Result<SignalFd, Failure> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block().doing(Code::Os, || "blocking SIGCHLD")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .doing(Code::Os, || "watching for SIGCHLD")
}

fn drop_groups() -> Result<(), Failure> {
    nix::unistd::setgroups(&[]).doing(Code::Os, || "giving up the groups of the host")
}

/// Connects stdin to `/dev/null`, and stdout and stderr to `output` or both to stderr.
fn stdio(output: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )?;
    rustix::stdio::dup2_stdin(&null)?;
    match output {
        Some(fd) => {
            rustix::stdio::dup2_stdout(fd)?;
            rustix::stdio::dup2_stderr(fd)
        }
        None => rustix::stdio::dup2_stdout(rustix::stdio::stderr()),
    }
}

/// Reaps children and obeys the control pipe until `pid` has ended (-1: until none is left), or it is `deadline`.
fn reap_until(
    pid: i32,
    control: BorrowedFd<'_>,
    children: &SignalFd,
    deadline: Option<Instant>,
) -> Option<WaitStatus> {
    loop {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) if status.pid() == Some(Pid::from_raw(pid)) => return Some(status),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                // ECHILD: nothing is left.
                Err(_) => return None,
            }
        }
        let timeout = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return None,
            Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut fds = [
            PollFd::new(control, PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, timeout).is_err() {
            continue;
        }
        if fds[0].any().unwrap_or(true) {
            obey(control);
        }
        while matches!(children.read_signal(), Ok(Some(_))) {}
    }
}

/// Does what the tool says: `i`, `t`, `k` for INT, TERM and KILL to everything here. Silence means that it is dead.
fn obey(control: BorrowedFd<'_>) {
    let mut bytes = [0; 16];
    let n = match rustix::io::read(control, &mut bytes) {
        Ok(0) => sys::exit_now(1),
        Ok(n) => n,
        Err(_) => return,
    };
    for byte in &bytes[..n] {
        let signal = match byte {
            b'i' => Signal::SIGINT,
            b't' => Signal::SIGTERM,
            _ => Signal::SIGKILL,
        };
        // ESRCH: everything has ended by itself.
        kill(Pid::from_raw(-1), signal).unwrap_or(());
    }
}

/// Becomes the command. Returns only with the reason why not.
fn exec(job: &Job<'_>) -> Errno {
    let errno = |e: nix::errno::Errno| Errno::from_raw_os_error(e as i32);
    if let Some((uid, gid, groups)) = &job.user {
        let groups: Vec<_> = groups
            .iter()
            .map(|g| nix::unistd::Gid::from_raw(*g))
            .collect();
        let change = nix::unistd::setgroups(&groups)
            .and_then(|()| nix::unistd::setresgid((*gid).into(), (*gid).into(), (*gid).into()))
            .and_then(|()| nix::unistd::setresuid((*uid).into(), (*uid).into(), (*uid).into()));
        if let Err(e) = change {
            return errno(e);
        }
    }
    if let Some(directory) = job.directory
        && let Err(e) = rustix::process::chdir(directory)
    {
        return e;
    }
    let Some((args, env)) = strings(job) else {
        return Errno::INVAL;
    };
    let mut worst = Errno::NOENT;
    for candidate in candidates(job) {
        let Err(e) = nix::unistd::execve(&candidate, &args, &env);
        // As execvp(3): a file that may not be run is remembered, and the search goes on.
        match errno(e) {
            Errno::NOENT | Errno::NOTDIR => {}
            e => worst = e,
        }
    }
    worst
}

/// Returns the argument and environment vectors; `None` where one has a NUL.
fn strings(job: &Job<'_>) -> Option<(Vec<CString>, Vec<CString>)> {
    let args = std::iter::once(job.program).chain(job.args.iter().map(OsString::as_os_str));
    let args: Option<Vec<_>> = args.map(|a| CString::new(a.as_bytes()).ok()).collect();
    let env: Option<Vec<_>> = job
        .env
        .iter()
        .map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    Some((args?, env?))
}

/// Returns the paths to try: the program itself if it has a slash, else its name in each directory of `PATH`.
fn candidates(job: &Job<'_>) -> Vec<CString> {
    let name = job.program.as_bytes();
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = job.env.iter().find(|(key, _)| key == "PATH");
    let path = path.map_or(&b"/usr/bin"[..], |(_, value)| value.as_bytes());
    path.split(|b| *b == b':')
        .filter_map(|dir| CString::new([dir, b"/", name].concat()).ok())
        .collect()
}

/// Runs the probe program, chrooted.
fn run_probe(arch: Arch, program: &[u8]) -> Result<Vec<u8>, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = format!("/tmp/.strapline-probe-{}", std::process::id());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .doing(Code::Os, || format!("making '{path}' in the root"))?;
    file.write_all(program)
        .doing(Code::Os, || format!("writing '{path}' in the root"))?;
    drop(file);
    let ran = std::process::Command::new(&path).status();
    std::fs::remove_file(&path).doing(Code::Os, || format!("removing '{path}' in the root"))?;
    let why = match ran {
        Ok(status) if status.code() == Some(probe::STATUS) => return Ok(vec![]),
        Ok(status) => stage::child::ended(status),
        Err(e) => e.to_string(),
    };
    Err(Failure::new(
        Code::Failed,
        format!("running a program of {} inside the root: {why}", arch.name),
    ))
}

/// The environment that programs inside get: the little that is the same on every machine, and the proxies and terminal
/// of this one.
///
/// The messages are English and the file names UTF-8. Under plain `C`, libarchive cannot convert a name such as
/// `Főtanúsítvány.crt`, and pacman then silently leaves out the rest of that package (seen with 6.0.2).
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin",
        ),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
    ]
    .map(|(key, value)| (key.into(), value.into()))
    .to_vec();
    for key in [
        "TERM",
        "NO_COLOR",
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "FTP_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
    ] {
        if let Some(value) = std::env::var_os(key) {
            env.push((key.into(), value));
        }
    }
    env
}
