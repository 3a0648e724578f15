//! Running programs and functions inside a root: the one way in, for every tool.
//!
//! ```text
//! tool ── clone(new mount, PID [, user] namespaces) ── init (PID 1) ── fork ── command
//! ```
//!
//! The tool writes the id maps and waits. Init mounts the plan, runs the command, reaps, ends the processes that the command
//! left (TERM, at most two seconds) and exits; the kernel then kills the rest and removes the mounts. When the tool dies,
//! so does init: it has a parent-death signal, and its control pipe is closed. So SIGKILL of the tool at any moment leaves
//! no process and no mount.
//!
//! As root, the mounts are made first. The user namespace, which is only needed for a private binfmt table, comes after
//! them and maps every id to itself, so that root may mount as before. If root may not mount, as in a container, the
//! user namespace comes first, in which it may.
//!
//! Programs of the root get the root as the whole file system of the namespace; see `leave.rs`.
//!
//! In mode `chroot` there are no namespaces: see `descendants.rs` and [`crate::stand_in`] for what is done in their place.

mod certificates;
mod command;
mod descendants;
mod directory;
mod init;
mod leave;
mod watch;
mod watchdog;
mod wire;

use crate::plan::{self, Mount, Owner};
use crate::root::RootId;
use crate::{Arch, Binfmt, IdMap, Root, attach, kernel, probe, stand_in, sys};
use certificates::Authorities;
pub use directory::choose_handler;
use init::Init;
use nix::sys::wait::WaitStatus;
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};
use stage::members::{Config, Mode};
use stage::{Cause, Code, Context, Document, Doing, Failure, child, quote, signal};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use watch::{Forward, Outcome, Watch};
use watchdog::Watchdog;

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the host's file system and the plan mounted below the root: for programs of the host, such as pacman. All but
    /// the root and the package cache is read-only for them, since a symbolic link in the root may lead to files of the
    /// host.
    Host,
    /// In the root, without the host's file system: for programs of the root.
    Root,
}

/// A command to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program: an absolute path, or for [`Place::Root`] also a name to look up in `PATH` of the environment.
    pub program: &'a OsStr,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub place: Place,
    /// The ids inside that it runs with: user, group, supplementary groups. Root by default.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Whether it gets our stdin, stdout and stderr, and the terminal's keys. If not, it gets `/dev/null` and our stderr.
    pub terminal: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It could not be run.
    NotRun(Errno),
}

impl Ended {
    /// Returns an exit status as of env(1) and chroot(1): 127 not found, 126 not runnable, 128 + signal.
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
            Self::Exited(status) => child::ended(ExitStatus::from_raw(status << 8)),
            Self::Signalled(signal) => child::ended(ExitStatus::from_raw(signal)),
            Self::NotRun(e) => e.to_string(),
        }
    }
}

/// A root with all that is needed to run programs inside it.
#[derive(Debug)]
pub struct Inside {
    root: Root,
    id: RootId,
    mounts: Vec<Mount>,
    idmap: Option<IdMap>,
    handler: Option<(Arch, Binfmt)>,
    /// Whether uname(2) names the machine of 32-bit programs, which the kernel itself runs.
    uname32: bool,
    /// Whether there are no namespaces, and no mounts.
    chroot: bool,
    /// The tool, and the time without progress after which its commands are killed.
    watched: Option<Watchdog>,
    /// The package cache, which programs of the host may write to.
    cache: Option<PathBuf>,
    /// The GnuPG home of which programs of the host get a copy, at the same path.
    gpgdir: Option<PathBuf>,
}

impl Inside {
    /// Reads it from the document, and checks that we may use it.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] when a member is missing, [`Code::Permission`] when the root is another user's.
    pub fn of(document: &Document) -> Result<Self, Failure> {
        let root = Root::of(document)?;
        let mode: Mode = document.need()?;
        let mounts: Vec<Mount> = document.need()?;
        let binfmt: Binfmt = document.need()?;
        let arch = Arch::of_document(document)?;
        let handler = binfmt.is_private().then_some((arch, binfmt));
        let idmap = whose(document)?;
        let config = document.get::<Config>();
        let chroot = mode == Mode::Chroot;
        // Whatever mode the root is entered in now: only root's can have left something.
        if idmap.is_none() {
            stand_in::remove_left(&root)?;
        }
        Ok(Self {
            chroot,
            uname32: arch.is_half_of(Arch::host()?),
            gpgdir: config.as_ref().map(Config::gpgdir),
            cache: config.map(|c| c.cache),
            ..Self::new(root, mounts, idmap, handler)?
        })
    }

    /// Makes it from its parts. `idmap` is for an ordinary user, `handler` for a private binfmt table. With the plan of mode
    /// `chroot` it is entered that way.
    ///
    /// # Errors
    ///
    /// When the root cannot be identified.
    pub fn new(
        root: Root,
        mounts: Vec<Mount>,
        idmap: Option<IdMap>,
        handler: Option<(Arch, Binfmt)>,
    ) -> Result<Self, Failure> {
        let chroot = plan::is_chroot(&mounts);
        Ok(Self {
            id: root.id()?,
            root,
            mounts,
            idmap,
            handler,
            uname32: false,
            chroot,
            watched: None,
            cache: None,
            gpgdir: None,
        })
    }

    /// Returns whether it is entered by chroot(2) alone, without namespaces and mounts.
    #[must_use]
    pub fn is_chroot(&self) -> bool {
        self.chroot
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

    /// Keeps only the root's own file systems of the plan: for tools that read the root and run nothing of it, and need to
    /// see what the API file systems would cover.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.mounts.retain(|m| Owner::of(m) == Owner::Root);
        self.handler = None;
        self
    }

    /// Sets another GnuPG home for programs of the host than the document's.
    #[must_use]
    pub fn with_gpgdir(mut self, gpgdir: PathBuf) -> Self {
        self.gpgdir = Some(gpgdir);
        self
    }

    /// Returns the GnuPG home of which programs of the host get a copy; `None` if the document has no `config`.
    #[must_use]
    pub fn gpgdir(&self) -> Option<&Path> {
        self.gpgdir.as_deref()
    }

    /// Adds a mount to the plan, not in the document.
    pub fn also_mount(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }

    /// Kills from now on each command that makes no progress for `limit`, and each function at [`Place::Root`]. Zero means no
    /// limit. A command that has the terminal waits for a user, and is not killed.
    pub fn watch(&mut self, context: &Context, limit: Duration) {
        self.watched = (!limit.is_zero()).then(|| Watchdog::new(context.tool, limit));
    }

    /// Runs a command. `output` gets what it prints on stdout and stderr; without it, our stderr does.
    ///
    /// # Errors
    ///
    /// When the root cannot be entered, or a signal asked us to stop; [`Code::Hung`] when [`Inside::watch`] was called and
    /// the command made no progress. A command that fails is not an error.
    pub fn run(&self, job: &Job<'_>, output: Option<Output<'_>>) -> Result<(Ended, Duration), Failure> {
        // A signal that came before is not forwarded to the command, which would run to its end.
        signal::check()?;
        let watchdog = self.watched.filter(|_| !job.terminal);
        let work = Work::Exec(job, certificates::of_environment(job)?);
        let outcome = self.enter(work, output, watchdog).map_err(kernel::explain)?;
        if signal::interrupted() && !job.terminal {
            return Err(signal::interruption());
        }
        Ok((outcome.ended, outcome.time))
    }

    /// Runs a function inside, as root there, in a process of its own, and returns its value or its failure, both of which
    /// pass between the processes as JSON. `keep` are descriptors of ours that the function uses, such as a file of the
    /// user outside; all others are closed there.
    ///
    /// # Errors
    ///
    /// The function's, and as [`Inside::run`]; [`Code::Hung`] only at [`Place::Root`].
    pub fn call<T: Serialize + DeserializeOwned>(
        &self,
        place: Place,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // As in run(): a signal that came before is not forwarded.
        signal::check()?;
        // A function there runs programs of the root.
        let watchdog = self.watched.filter(|_| place == Place::Root);
        let doing = || format!("working inside {}", quote(self.root.path()));
        let call = Work::Call(place, keep, Box::new(|| serde_json::to_string(&work()).unwrap_or_default()));
        let outcome = self.enter(call, None, watchdog).map_err(|f| match f.code {
            Code::Hung => f.while_doing(doing()),
            _ => kernel::explain(f),
        })?;
        match outcome.returned {
            Some(result) => serde_json::from_str(&result).doing(Code::Os, doing)?,
            None => {
                signal::check()?;
                Err(Failure::new(Code::Os, outcome.ended.words()).while_doing(doing()))
            }
        }
    }

    /// Proves that programs of the root's architecture run inside, by running one.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] when they do not, with the reason.
    pub fn probe(&self, arch: Arch) -> Result<(), Failure> {
        let Some(program) = probe::program(arch) else {
            return Ok(());
        };
        self.call(Place::Root, &[], || command::run_probe(arch, &program))
    }

    /// In mode `chroot`: reports what init could not end or remove, `left`; where init itself was killed, does its work.
    fn clean_up(&self, status: &Result<WaitStatus, Failure>, left: Option<Failure>) -> Result<(), Failure> {
        match (left, status) {
            (Some(failure), _) => Err(failure),
            (None, Ok(WaitStatus::Signaled(..))) if self.chroot => stand_in::remove_left(&self.root),
            _ => Ok(()),
        }
    }

    /// Makes the namespaces, and waits until they end.
    fn enter(
        &self,
        work: Work<'_>,
        output: Option<Output<'_>>,
        watchdog: Option<Watchdog>,
    ) -> Result<Outcome, Failure> {
        let doing = || format!("entering {}", quote(self.root.path()));
        need_one_thread()?;
        let pipe = || std::io::pipe().doing(Code::Os, doing);
        let (control_theirs, control) = pipe()?;
        let (report, report_theirs) = pipe()?;
        let (sink, written) = output.map(|output| ((output.sink, output.from), output.into)).unzip();
        let ids = match &self.idmap {
            Some(map) => Ids::Subordinate(map),
            None if self.chroot || may_mount() => Ids::Same,
            None => Ids::Identity,
        };
        let flags = match (self.chroot, ids) {
            (true, _) => 0,
            (false, Ids::Same) => libc::CLONE_NEWNS | libc::CLONE_NEWPID,
            (false, _) => libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUSER,
        };
        // SAFETY: need_one_thread() has looked.
        match unsafe { sys::clone(flags) } {
            Err(e) => Err(explain_clone(e, ids).while_doing(doing())),
            Ok(None) => {
                let init = Init { inside: self, ids, control: control_theirs, report: report_theirs, output: written };
                sys::exit_now(catch_unwind(AssertUnwindSafe(|| init.run(work))).unwrap_or(70))
            }
            Ok(Some(pid)) => {
                drop((control_theirs, report_theirs, written));
                let forward = match &work {
                    Work::Exec(job, _) if job.terminal => Forward::Same,
                    Work::Exec(job, _) if job.place == Place::Host => Forward::Interrupt,
                    _ => Forward::Ending,
                };
                let mut watch = Watch { ids, pid, control, told: None, left: None, forward };
                let seen = watch.until_the_end(report, sink, watchdog);
                // Closing the control pipe ends init if it still lives.
                drop(watch.control);
                let seen = match seen {
                    Ok(Some(hung)) if !self.chroot => return Err(watch::kill(pid, hung)),
                    seen => seen,
                };
                let status = watch::wait_for(pid);
                self.clean_up(&status, watch.left)?;
                match seen {
                    Ok(None) => watch::conclude(watch.told, status).map_err(|f| f.while_doing(doing())),
                    Ok(Some(hung)) => Err(hung),
                    // The first failure is the one to report.
                    Err(failure) => Err(failure.while_doing(doing())),
                }
            }
        }
    }
}

/// Checks that the document's root is ours, and returns its id map where we are an ordinary user.
///
/// # Errors
///
/// [`Code::Permission`] when another user made it: with sudo on the first tool of a pipe only, the others are another user's.
pub fn whose(document: &Document) -> Result<Option<IdMap>, Failure> {
    let refuse = |why: &str, hint: &str| {
        let root = quote(document.need_root()?);
        Err(Failure::new(Code::Permission, format!("entering {root}: {why}")).hint(hint))
    };
    match (document.need()?, rustix::process::geteuid().as_raw(), document.get::<IdMap>()) {
        (Mode::User, me, Some(map)) if map.is_of(me) => Ok(Some(map)),
        (Mode::User, _, _) => refuse("it is another user's root", "run this as the user that ran mkroot"),
        (_, 0, _) => Ok(None),
        _ => refuse("it was made by root", "run this with sudo, too, and all tools after it: mkroot was run as root"),
    }
}

/// Whether there is a user namespace from the beginning, and its id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids<'a> {
    /// No user namespace: we are root, and may mount.
    Same,
    /// Every id is mapped to itself: for root without the capability `SYS_ADMIN`, as in a container, which has it in a user
    /// namespace.
    Identity,
    /// An ordinary user's subordinate ids.
    Subordinate(&'a IdMap),
}

/// Returns whether we may mount and make namespaces without a user namespace (capabilities(7), `CAP_SYS_ADMIN`). If that
/// cannot be known, it is tried.
fn may_mount() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).map_or(true, |sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// A function that gets each piece of a command's output.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// Where a command's output goes.
pub struct Output<'a> {
    /// The function that gets each piece of it.
    pub sink: Sink<'a>,
    /// The side that we read.
    pub from: OwnedFd,
    /// The side that the command writes.
    pub into: OwnedFd,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("from", &self.from).finish_non_exhaustive()
    }
}

/// What is done inside.
enum Work<'a> {
    /// A command, and its certificate authorities if they are not the host's.
    Exec(&'a Job<'a>, Option<Authorities>),
    /// Where, with which descriptors of the tool, and a function, which returns a result as JSON.
    Call(Place, &'a [BorrowedFd<'a>], Box<dyn FnOnce() -> String + 'a>),
}

impl Work<'_> {
    fn place(&self) -> Place {
        match self {
            Self::Exec(job, _) => job.place,
            Self::Call(place, ..) => *place,
        }
    }

    /// Returns whether it is a command of the host, as pacman.
    fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Exec(job, _) if job.place == Place::Host)
    }
}

/// Fails when there is more than one thread: clone(2) copies one, and a lock of another one would stay locked in the copy. A
/// thread that was joined is listed until the kernel has removed it, which happens after the join: that is waited for, at
/// most a second.
fn need_one_thread() -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        match std::fs::read_dir("/proc/self/task").doing(Code::Os, || "reading '/proc/self/task'")?.count() {
            1 => return Ok(()),
            _ if begin.elapsed() < Duration::from_secs(1) => std::thread::yield_now(),
            n => {
                // None of the tools has a second one at this point.
                return Err(Failure::new(
                    Code::Os,
                    format!("making namespaces: this program has {n} threads, and must have one"),
                )
                .cause(Cause::SeeDoctor)
                .hint(crate::root::NOT_EMULATED));
            }
        }
    }
}

/// Returns the failure to make namespaces, with a hint how to permit them.
fn explain_clone(error: Errno, ids: Ids<'_>) -> Failure {
    let failure = Failure::new(Code::Permission, format!("making namespaces: {error}"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = status.lines().any(|l| l.split_whitespace().eq(["Seccomp:", "2"]));
    match error {
        Errno::NOSPC => failure.hint(
            "a limit is used up or 0: see 'sysctl user.max_user_namespaces user.max_mnt_namespaces user.max_pid_namespaces'",
        ),
        Errno::PERM if seccomp => failure.hint(
            format!("this container forbids namespaces: run it with --security-opt seccomp=unconfined{}", or_chroot()),
        ),
        Errno::PERM => match (attach::apparmor_hint(), ids) {
            (Some(hint), _) => failure.hint(format!("{hint}{}", or_chroot())),
            (None, Ids::Subordinate(_)) => failure.cause(Cause::SeeDoctor).hint(
                "user namespaces are forbidden here, or we are in a chroot: 'doctor' says more; root needs none",
            ),
            (None, _) => failure.hint(format!(
                "root here may neither mount nor make a user namespace: run the container with --privileged, or leave the chroot{}",
                or_chroot()
            )),
        },
        _ => Failure { code: Code::Os, ..failure },
    }
}

/// Returns what is added to the hint of where namespaces are forbidden: chroot(2) alone may be permitted.
#[must_use]
pub fn or_chroot() -> &'static str {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = CapabilitySet::SYS_CHROOT | CapabilitySet::MKNOD;
    match capabilities(None) {
        Ok(sets) if sets.effective.contains(needed) => {
            "; where that cannot be had, as in 'docker build', 'mkroot --chroot' needs no namespaces, and promises less"
        }
        _ => "",
    }
}

/// Returns the environment of programs inside: a few variables that are the same on every machine, the proxies and the
/// terminal of this one, and the date for reproducible results (for example of mkinitcpio).
///
/// The messages are English and the file names UTF-8: with `C`, libarchive cannot convert a name such as
/// `Főtanúsítvány.crt`, and pacman silently leaves out the rest of that package (seen with 6.0.2).
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    let fixed = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
    ];
    let proxies = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];
    let here = ["TERM", "NO_COLOR", "SOURCE_DATE_EPOCH"].into_iter().chain(proxies).map(str::to_owned);
    let here = here.chain(proxies.map(str::to_uppercase));
    let here = here.filter_map(|key| std::env::var_os(&key).map(|value| (key.into(), value)));
    fixed.map(|(key, value)| (key.into(), value.into())).into_iter().chain(here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_thread_is_an_emulators_and_the_hint_says_so() {
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || stopped.recv());
            let failure = need_one_thread().unwrap_err();
            assert!(failure.hint.unwrap().starts_with("QEMU's user mode cannot run the tools"));
            assert_eq!(failure.cause, Some(Cause::SeeDoctor));
            drop(stop);
        });
    }
}
