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
//! comes after them: it maps every id to itself, and what root may mount stays mountable. Root that may not mount, such
//! as a container's, has the user namespace first, in which it may.
//!
//! What runs of the root's own gets the root as the whole file system of the namespace; see `leave.rs`.

mod certificates;
mod command;
mod init;
mod leave;
mod watch;
mod watchdog;
mod wire;

use crate::plan::{Mount, Owner};
use crate::root::RootId;
use crate::sys::{self, Cloned};
use crate::{Arch, Binfmt, IdMap, Root, attach, probe};
use certificates::Authorities;
use init::Init;
use nix::sys::signal::Signal;
use rustix::io::Errno;
use stage::members::{Config, Mode};
use stage::{Cause, Code, Context, Document, Doing, Failure, quote, signal};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::{Heed, Watch};
use watchdog::Watchdog;
use wire::Frame;

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the host's file system and the plan mounted below the root: for programs of the host, such as pacman. Where one
    /// is run, all but the root and the package cache is mounted read-only: a symbolic link in the root leads it to the
    /// host's files, too.
    Host,
    /// In the root, and with nothing else of the host's file system: for programs of the root.
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
    /// The tool, and how long a command of it may make no progress.
    watched: Option<(&'static str, Duration)>,
    /// What a program of the host may write besides the root: the package cache.
    cache: Option<PathBuf>,
    /// The GnuPG home that a program of the host is given a copy of, at the same path.
    gpgdir: Option<PathBuf>,
}

impl Inside {
    /// Reads it from the document, and checks that it is ours to use.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where a member is missing, [`Code::Permission`] where the document is another user's.
    pub fn of(document: &Document) -> Result<Self, Failure> {
        let root = Root::of(document)?;
        let mode: Mode = document.need()?;
        let mounts: Vec<Mount> = document.need()?;
        let binfmt: Binfmt = document.need()?;
        let arch = document.need_arch()?;
        let handler = if binfmt.is_private() {
            Some((Arch::named(arch)?, binfmt))
        } else {
            None
        };
        let me = rustix::process::geteuid().as_raw();
        let idmap = match (mode, me, document.get::<IdMap>()) {
            (Mode::User, me, Some(map)) if map.is_of(me) => Some(map),
            (Mode::User, _, _) => {
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
        let config = document.get::<Config>();
        Ok(Self {
            gpgdir: config.as_ref().map(Config::gpgdir),
            cache: config.map(|c| c.cache),
            ..Self::new(root, mounts, idmap, handler)?
        })
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
            watched: None,
            cache: None,
            gpgdir: None,
        })
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Returns the plan's mounts.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Leaves of the plan only the file systems of the root's own: for tools that look at the root or copy it, and run
    /// nothing of it. What the API filesystems would cover is then seen.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.mounts.retain(|m| Owner::of(m) == Owner::Root);
        self.handler = None;
        self
    }

    /// Gives programs of the host another GnuPG home than the document's.
    #[must_use]
    pub fn with_gpgdir(mut self, gpgdir: PathBuf) -> Self {
        self.gpgdir = Some(gpgdir);
        self
    }

    /// Returns the GnuPG home that programs of the host are given a copy of; `None` where the document has no `config`.
    #[must_use]
    pub fn gpgdir(&self) -> Option<&Path> {
        self.gpgdir.as_deref()
    }

    /// Adds a mount to the plan, for this entry only.
    pub fn also_mount(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }

    /// Has every command from now on ended that makes no progress for `limit`, and every function that works in the root's
    /// place; zero is no limit. A command that has the terminal waits for a person, and is left alone.
    pub fn watch(&mut self, context: &Context, limit: Duration) {
        self.watched = (!limit.is_zero()).then_some((context.tool, limit));
    }

    /// Runs a command. `output`, where there is one, is given what it prints on stdout and stderr, through `tty` if that
    /// is a terminal's other side; else our stderr is.
    ///
    /// # Errors
    ///
    /// When the root cannot be entered, or a signal asked us to stop; [`Code::Hung`] when [`Inside::watch`] was asked for and
    /// the command made no progress. How it ended is no error.
    pub fn run(
        &self,
        job: &Job<'_>,
        output: Option<Output<'_>>,
    ) -> Result<(Ended, Duration), Failure> {
        // One that came before is not handed on to the command, which would run to its end.
        signal::check()?;
        let watchdog = self.watchdog().filter(|_| !job.terminal);
        let work = Work::Exec(job, certificates::wanted(job)?);
        let (ended, time, _) = self.enter(work, output, watchdog)?;
        if signal::interrupted() && !job.terminal {
            return Err(signal::interruption());
        }
        Ok((ended, time))
    }

    /// Runs a function inside, as root there, in a process of its own, and returns what it returns.
    ///
    /// # Errors
    ///
    /// The function's, and as [`Inside::run`]; [`Code::Hung`] only at [`Place::Root`].
    pub fn call(
        &self,
        place: Place,
        work: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<Vec<u8>, Failure> {
        self.call_with(place, &[], work)
    }

    /// [`Inside::call`], for a function that uses descriptors of ours, such as a file that is written from inside and
    /// belongs to the user outside. All others are closed there.
    ///
    /// # Errors
    ///
    /// As [`Inside::call`].
    pub fn call_with(
        &self,
        place: Place,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<Vec<u8>, Failure> {
        // As in run(): one that came before is not handed on.
        signal::check()?;
        // Who works there runs programs of the root.
        let watchdog = self.watchdog().filter(|_| place == Place::Root);
        let call = Work::Call(place, keep, Box::new(work));
        let doing = || format!("working inside {}", quote(self.root.path()));
        let told = self.enter(call, None, watchdog).map_err(|f| match f.code {
            Code::Hung => f.while_doing(doing()),
            _ => f,
        });
        let (ended, _, result) = told?;
        if result.is_empty() {
            signal::check()?;
            return Err(Failure::new(
                Code::Os,
                format!("{}: {}", doing(), ended.words()),
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

    fn watchdog(&self) -> Option<Watchdog> {
        let (tool, limit) = self.watched?;
        Some(Watchdog::new(tool, limit))
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
        self.call(Place::Root, move || command::run_probe(arch, &program))
            .map(|_| ())
    }

    /// Makes the namespaces, and waits until all is over.
    fn enter(
        &self,
        work: Work<'_>,
        output: Option<Output<'_>>,
        watchdog: Option<Watchdog>,
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
        let ids = match &self.idmap {
            Some(map) => Ids::Subordinate(map),
            None if may_mount() => Ids::Same,
            None => Ids::Identity,
        };
        let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
        if ids != Ids::Same {
            flags |= libc::CLONE_NEWUSER;
        }
        // SAFETY: need_one_thread() has looked.
        match unsafe { sys::clone(flags) } {
            Err(e) => Err(explain_clone(e, ids).while_doing(doing())),
            Ok(Cloned::Child) => {
                let init = Init {
                    inside: self,
                    ids,
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
                let heed = match &work {
                    Work::Exec(job, _) if job.terminal => Heed::Alone,
                    Work::Exec(job, _) if job.place == Place::Host => Heed::Finishes,
                    _ => Heed::Ends,
                };
                let mut watch = Watch {
                    ids,
                    pid,
                    control: Some(control),
                    told: None,
                    result: Vec::new(),
                    heed,
                };
                let seen = watch.until_the_end(report, result, sink, watchdog);
                // Closing the control pipe ends init, where it still lives.
                watch.control = None;
                match seen {
                    Ok(Some(hung)) => Err(watch::end(pid, hung)),
                    Ok(None) => watch
                        .conclude(watch::wait_for(pid))
                        .map_err(|f| f.while_doing(doing())),
                    Err(failure) => {
                        // The first failure is the one to report.
                        drop(watch::wait_for(pid));
                        Err(failure.while_doing(doing()))
                    }
                }
            }
        }
    }
}

/// Whether the namespaces begin with one for users, and what ids there are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids<'a> {
    /// No user namespace: we are root, and may mount.
    Same,
    /// Every id is itself. For root without the capability `SYS_ADMIN`, as in a container, which has it in a user
    /// namespace of its own.
    Identity,
    /// An ordinary user's subordinate ids.
    Subordinate(&'a IdMap),
}

/// Returns whether we may mount and make namespaces as we are (capabilities(7), `CAP_SYS_ADMIN`). Where the kernel does
/// not say, trying will.
fn may_mount() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).map_or(true, |sets| {
        sets.effective.contains(CapabilitySet::SYS_ADMIN)
    })
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
    /// A command, and where its certificate authorities are, where that is not the host's file.
    Exec(&'a Job<'a>, Option<Authorities>),
    /// Where, with which descriptors of the tool's, and what.
    Call(Place, &'a [BorrowedFd<'a>], Call<'a>),
}

impl Work<'_> {
    fn place(&self) -> Place {
        match self {
            Self::Exec(job, _) => job.place,
            Self::Call(place, ..) => *place,
        }
    }
}

/// clone(2) copies one thread: with more, a lock could stay locked for ever in the copy. A thread that was joined runs
/// nothing any more, and is on the list until the kernel has taken it off, which is after it told who waited: that is waited
/// for, for at most a second.
fn need_one_thread() -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        let tasks =
            std::fs::read_dir("/proc/self/task").doing(Code::Os, || "reading '/proc/self/task'")?;
        match tasks.count() {
            1 => return Ok(()),
            _ if begin.elapsed() < Duration::from_secs(1) => std::thread::yield_now(),
            n => {
                return Err(Failure::new(
                    Code::Os,
                    format!("making namespaces: this program has {n} threads, and must have one"),
                ));
            }
        }
    }
}

/// Says why namespaces cannot be made, and what permits them.
fn explain_clone(error: Errno, ids: Ids<'_>) -> Failure {
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
        Errno::PERM => match (attach::apparmor_hint(), ids) {
            (Some(hint), _) => failure.hint(hint),
            (None, Ids::Subordinate(_)) => failure.cause(Cause::SeeDoctor).hint(
                "user namespaces are forbidden here, or we are in a chroot: 'doctor' says more; root needs none",
            ),
            (None, _) => failure.hint(
                "root here may neither mount nor make a user namespace: run the container with --privileged, or leave the chroot",
            ),
        },
        error => Failure::new(Code::Os, format!("making namespaces: {error}")),
    }
}

/// The environment that programs inside get: the little that is the same on every machine, the proxies and terminal of this
/// one, and the date of what is to come out the same each time (mkinitcpio, among others, goes by it).
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
        "SOURCE_DATE_EPOCH",
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
