//! Who uses a root, who lives in it, and how those who live there are ended.
//!
//! pacman-key and the scriptlets of packages leave daemons behind: most often a gpg-agent, which keeps every mount of
//! the root busy. Ending them by name ends the user's own too, and under an emulator the name of the program is the
//! emulator's. So a process is known by where it lives.
//!
//! # Who lives in a root
//!
//! A process lives in a root when one of these holds:
//!
//! 1. Its root directory is the root: the device and inode number of `/proc/PID/root`, by stat(2) through the link, are
//!    the root's. This holds in every mount namespace.
//! 2. Its root directory is below the root: the text of the link says so, and the mount that it is on
//!    (`STATX_MNT_ID`) is one of our own mount namespace, so that the text means what it says.
//! 3. It is an agent of GnuPG that runs outside of the root and serves the root's keyring: its name is `gpg-agent`,
//!    `dirmngr`, `scdaemon` or `keyboxd`, and it listens on a unix socket that is bound in `ROOT/etc/pacman.d/gnupg`, or
//!    was started with `--homedir` of that directory, by device and inode number. Such an agent has nothing open in the
//!    root, and yet its sockets keep the mount busy.
//!
//! Who merely uses a path there, by a working directory, an open file, a mapped file, a bound socket, does not live
//! there: it may be the user's editor. It is named, and never ended. We ourselves, our ancestors, PID 1 and kernel
//! threads never live in a root; zombies are not there at all, since they hold nothing.

use crate::mountinfo;
use crate::root::{Root, RootId, open_below};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stage::{Code, Document, Doing, Failure, quote};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where pacman keeps its keyring, below a root.
pub const KEYRING: &str = "etc/pacman.d/gnupg";

/// The programs of GnuPG that stay and listen.
const AGENTS: [&str; 4] = ["gpg-agent", "dirmngr", "scdaemon", "keyboxd"];

/// How many uses of one process are kept: a message has no room for more.
const USES: usize = 16;

/// How long the kernel may take to end a process that got SIGKILL: one that sleeps in a driver may take for ever.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How a process uses a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Its root directory.
    Root(PathBuf),
    /// Its working directory.
    Cwd(PathBuf),
    /// The program that it runs.
    Exe(PathBuf),
    /// An open descriptor.
    Fd(u32, PathBuf),
    /// A file that is mapped into its memory.
    Map(PathBuf),
    /// The working or root directory of one of its threads, which has its own.
    Thread(i32, PathBuf),
    /// A unix socket that is bound to a name there.
    Socket(PathBuf),
    /// It is an agent that was started for the keyring there.
    Keyring(PathBuf),
}

impl Use {
    /// Returns the path that is used.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Root(path)
            | Self::Cwd(path)
            | Self::Exe(path)
            | Self::Fd(_, path)
            | Self::Map(path)
            | Self::Thread(_, path)
            | Self::Socket(path)
            | Self::Keyring(path) => path,
        }
    }
}

impl Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = quote(self.path());
        match self {
            Self::Root(_) => write!(f, "has its root directory at {path}"),
            Self::Cwd(_) => write!(f, "has its working directory at {path}"),
            Self::Exe(_) => write!(f, "runs {path}"),
            Self::Fd(n, _) => write!(f, "has {path} open as descriptor {n}"),
            Self::Map(_) => write!(f, "has {path} mapped"),
            Self::Thread(tid, _) => write!(f, "has a thread {tid} with its directory at {path}"),
            Self::Socket(_) => write!(f, "has a socket bound at {path}"),
            Self::Keyring(_) => write!(f, "serves the keyring at {path}"),
        }
    }
}

/// A process that uses a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since the system did: with the pid, what tells it from all others.
    pub start_time: u64,
    /// Its name, as the kernel has it: at most 15 bytes, and the emulated program's under an emulator.
    pub comm: String,
    /// Its effective user id.
    pub uid: u32,
    /// That user's name in `/etc/passwd`, or the number.
    pub user: String,
    /// Its arguments.
    pub cmdline: Vec<String>,
    /// How it uses the root.
    pub uses: Vec<Use>,
    /// Whether it lives there; see the module's documentation for the rule.
    pub lives: bool,
    /// Whether it would live there, but is spared: it is PID 1 or an ancestor of ours.
    pub spared: bool,
    /// Whether it is in another mount namespace, and holds a copy of a mount of ours.
    pub elsewhere: bool,
}

impl Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (user {})", self.pid, self.comm, self.user)
    }
}

impl Occupant {
    /// Returns how it uses the root, in words: the first use, which is the most telling.
    #[must_use]
    pub fn how(&self) -> String {
        let mut how = self.uses.first().map_or_else(String::new, Use::to_string);
        if self.elsewhere {
            how.push_str(" in another mount namespace");
        }
        how
    }
}

/// What one look at all processes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The processes that use the root, by pid.
    pub occupants: Vec<Occupant>,
    /// How many processes the kernel did not let us look at: those of other users, unless we are root.
    pub unreadable: usize,
}

/// Returns, in words, that this many processes could not be looked at.
#[must_use]
pub fn unreadable(count: usize) -> String {
    match count {
        1 => "1 process could not be looked at".to_owned(),
        n => format!("{n} processes could not be looked at"),
    }
}

impl Scan {
    /// Returns those that live in the root.
    pub fn living(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.iter().filter(|o| o.lives)
    }

    /// Returns those that only use it.
    pub fn in_the_way(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.iter().filter(|o| !o.lives)
    }
}

/// Opens the root that an undoing tool is to work on: the document's, or `dir`, which must then be the same directory.
///
/// `None` means that there is nothing to undo: a stage before this one failed before it made a root.
///
/// # Errors
///
/// [`Code::Usage`] where the two differ, or where it is the root of the host; [`Code::NotFound`] where it is not there;
/// else as [`Root::of`].
pub fn subject(document: &Document, dir: Option<&Path>) -> Result<Option<Root>, Failure> {
    let named = dir.map(open_named).transpose()?;
    if document.root().is_none() {
        return match named {
            None if document.failed().is_some() => Ok(None),
            None if document.get("steps").is_none() => Err(Failure::new(
                Code::Usage,
                "finding the root: there is neither a document nor DIR",
            )),
            None => Err(document
                .need_root()
                .err()
                .unwrap_or_else(|| Failure::new(Code::BadDocument, "finding the root"))),
            some => Ok(some),
        };
    }
    let meant = match Root::of(document) {
        Err(f) if f.code == Code::NotFound && named.is_none() && document.failed().is_some() => {
            return Ok(None);
        }
        result => not_the_hosts(result.map_err(without_mkroot)?)?,
    };
    match named {
        Some(named) if named.id()? != meant.id()? => Err(Failure::new(
            Code::Usage,
            format!(
                "{} is not {}, the root that the document means",
                quote(named.path()),
                quote(meant.path())
            ),
        )
        .hint("leave DIR out, or give --new to work from DIR alone")),
        _ => Ok(Some(meant)),
    }
}

/// Opens the directory that the command line names. The user may name it by a symbolic link; a document may not.
fn open_named(dir: &Path) -> Result<Root, Failure> {
    let doing = || format!("opening the root {}", quote(dir));
    let path = dir.canonicalize().map_err(|e| {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Code::NotFound,
            std::io::ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Os,
        };
        Failure::new(code, format!("{}: {e}", doing()))
    })?;
    not_the_hosts(Root::open(&path).map_err(without_mkroot)?)
}

/// A hint to make a root is no help to who wants it gone.
fn without_mkroot(mut failure: Failure) -> Failure {
    if failure.code == Code::NotFound {
        failure.hint = None;
    }
    failure
}

/// Refuses the root of PID 1: in a container that has the host's `/` bound somewhere and shares its processes, all of
/// the host would live there. [`Root::open`] refuses our own.
fn not_the_hosts(root: Root) -> Result<Root, Failure> {
    let id = root.id()?;
    // Where it cannot be read we are an ordinary user, who has no such power.
    match look_at(CWD, "/proc/1/root", false) {
        Ok(first) if id_of(&first) == id => Err(Failure::new(
            Code::Usage,
            format!(
                "opening the root {}: it is the root of PID 1",
                quote(root.path())
            ),
        )),
        _ => Ok(root),
    }
}

/// Looks at all processes, and returns those that use `root`: a canonical path, which `id` is the identity of.
///
/// Processes that end meanwhile are no error.
///
/// # Errors
///
/// [`Code::Os`] when `/proc` is not there, or is that of another PID namespace.
pub fn find(root: &Path, id: RootId) -> Result<Scan, Failure> {
    Scanner::new(root, id)?.scan()
}

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
        if scanner.is_still(&occupant) {
            held.push((occupant, fd));
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
    Ok(outcome)
}

/// A process, and the descriptor that no other process can get.
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

/// What keeps a mount busy though no process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A loop device that is backed by a file there.
    Loop {
        /// The device, as `loop3`.
        device: String,
        /// The file.
        file: PathBuf,
    },
    /// A handler of binfmt_misc with the flag F, whose interpreter the kernel keeps open.
    Handler {
        /// The handler's name.
        name: String,
        /// The interpreter.
        interpreter: PathBuf,
    },
    /// A file that is swapped to.
    Swap(PathBuf),
}

impl Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop { device, file } => {
                write!(f, "the loop device /dev/{device} has {}", quote(file))
            }
            Self::Handler { name, interpreter } => write!(
                f,
                "the binfmt_misc handler {} of the host has {} open",
                quote(name),
                quote(interpreter)
            ),
            Self::Swap(file) => write!(f, "the kernel swaps to {}", quote(file)),
        }
    }
}

/// Returns what keeps `root` busy though no process does. What cannot be read is not there: these are optional parts of
/// the kernel.
#[must_use]
pub fn holders(root: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    for device in names("/sys/block") {
        let file = Path::new("/sys/block")
            .join(&device)
            .join("loop/backing_file");
        if let Ok(text) = std::fs::read(file)
            && let Some(file) = path_below(text.trim_ascii_end(), root.as_os_str().as_bytes())
        {
            found.push(Holder::Loop {
                device: device.to_string_lossy().into_owned(),
                file,
            });
        }
    }
    let handlers = Path::new("/proc/sys/fs/binfmt_misc");
    for name in names(handlers) {
        if let Ok(text) = std::fs::read(handlers.join(&name))
            && let Some(interpreter) = interpreter_kept_open(&text)
            && let Some(interpreter) = path_below(interpreter, root.as_os_str().as_bytes())
        {
            found.push(Holder::Handler {
                name: name.to_string_lossy().into_owned(),
                interpreter,
            });
        }
    }
    let swaps = std::fs::read("/proc/swaps").unwrap_or_default();
    for line in swaps.split(|&b| b == b'\n') {
        let name = line.split(|&b| b == b' ' || b == b'\t').next();
        if let Some(file) = name.and_then(|n| path_below(n, root.as_os_str().as_bytes())) {
            found.push(Holder::Swap(file));
        }
    }
    found
}

fn names(dir: impl AsRef<Path>) -> Vec<std::ffi::OsString> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    names.sort();
    names
}

/// Returns the interpreter of a binfmt_misc handler that has the flag F.
fn interpreter_kept_open(text: &[u8]) -> Option<&[u8]> {
    let field = |key: &[u8]| {
        text.split(|&b| b == b'\n')
            .find_map(|line| line.strip_prefix(key))
    };
    field(b"flags: ")?
        .contains(&b'F')
        .then_some(field(b"interpreter ")?)
}

/// Returns `text` as a path where it is at or below `root`. The kernel writes ` (deleted)` after a name that is gone.
fn path_below(text: &[u8], root: &[u8]) -> Option<PathBuf> {
    let rest = text.strip_prefix(root)?;
    let below = rest.is_empty() || rest[0] == b'/' || rest == b" (deleted)";
    below.then(|| PathBuf::from(OsStr::from_bytes(text)))
}

/// The fields of `/proc/PID/stat` that we want.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: u8,
    parent: i32,
    flags: u64,
    threads: u64,
    start_time: u64,
}

impl Stat {
    /// `PF_KTHREAD` of the kernel's `linux/sched.h`, the same since 2.6.
    const KERNEL_THREAD: u64 = 0x0020_0000;

    /// Parses the line. The name may have blanks and parentheses, so its end is the last one.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of proc_pid_stat(5) is the first here.
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            flags: number(9)?,
            threads: number(20)?,
            start_time: number(22)?,
        })
    }

    /// Returns whether it has ended, and waits only to be asked how.
    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// What one look at one process found.
enum Look {
    /// It does not use the root, or has ended.
    Nothing,
    /// It uses the root. With it, whether there are parts that we may not look at.
    Occupant(Box<Occupant>, bool),
    /// The kernel does not let us look, and nothing else speaks for it.
    Unreadable,
}

/// How a link of a process leads to the root.
enum Leads {
    /// By a mount of our own mount namespace.
    Here(PathBuf),
    /// By a mount of another one, of a filesystem that is mounted at the root.
    Elsewhere(PathBuf),
}

/// A look at processes with what is the same for all of them.
struct Scanner {
    root: PathBuf,
    /// `root` as it stands in `maps`, which escapes a newline.
    root_in_maps: Vec<u8>,
    id: RootId,
    /// The root's keyring, where there is one.
    keyring: Option<RootId>,
    /// The ids of our mounts.
    mounts: HashSet<u64>,
    /// The devices of what is mounted at or below the root, and the root's own.
    devices: HashSet<u64>,
    /// Bound unix sockets with a name at or below the root, by inode: the name, and whether it listens.
    sockets: HashMap<u64, (PathBuf, bool)>,
    /// Our own root directory, to know whose absolute paths mean what ours do.
    own_root: Option<(RootId, u64)>,
    /// Our own mount namespace.
    own_namespace: Option<Vec<u8>>,
    own_pid: i32,
    /// PID 1 and our ancestors: they never live in a root.
    spared: HashSet<i32>,
}

impl Scanner {
    fn new(root: &Path, id: RootId) -> Result<Self, Failure> {
        let own_pid = rustix::process::getpid().as_raw_nonzero().get();
        let said = std::fs::read_link("/proc/self").doing(Code::Os, || "reading '/proc/self'")?;
        if said.as_os_str() != own_pid.to_string().as_str() {
            return Err(Failure::new(
                Code::Os,
                "looking at processes: '/proc' is that of another PID namespace",
            )
            .hint("mount it anew: mount -t proc proc /proc"));
        }
        let mounts = mountinfo::read()?;
        let mut devices: HashSet<u64> = mounts
            .iter()
            .filter(|m| mountinfo::is_at_or_below(&m.target, root))
            .map(|m| rustix::fs::makedev(m.dev.0, m.dev.1))
            .collect();
        devices.insert(id.dev);
        let bytes = root.as_os_str().as_bytes();
        // Without /proc/net/unix the kernel has no unix sockets, or shows us none.
        let sockets = parse_sockets(&std::fs::read("/proc/net/unix").unwrap_or_default(), bytes);
        let own_root = look_at(CWD, "/", true).ok();
        Ok(Self {
            root: root.to_owned(),
            root_in_maps: escape_newlines(bytes),
            id,
            keyring: keyring_of(root),
            mounts: mounts.iter().map(|m| m.id).collect(),
            devices,
            sockets,
            own_root: own_root.map(|s| (id_of(&s), s.stx_mnt_id)),
            own_namespace: readlinkat(CWD, "/proc/self/ns/mnt", Vec::new())
                .ok()
                .map(std::ffi::CString::into_bytes),
            own_pid,
            spared: spared(),
        })
    }

    fn scan(&self) -> Result<Scan, Failure> {
        let doing = || "looking at processes in '/proc'";
        let mut scan = Scan::default();
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").doing(Code::Os, doing)? {
            let name = entry.doing(Code::Os, doing)?.file_name();
            if let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        for pid in pids {
            match self.examine(pid) {
                Look::Nothing => {}
                Look::Occupant(occupant, whole) => {
                    scan.occupants.push(*occupant);
                    scan.unreadable += usize::from(!whole);
                }
                Look::Unreadable => scan.unreadable += 1,
            }
        }
        if !scan.occupants.is_empty() {
            let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
            for occupant in &mut scan.occupants {
                if let Some(name) = user_name(&passwd, occupant.uid) {
                    occupant.user = name;
                }
            }
        }
        Ok(scan)
    }

    /// Returns whether the process that has this pid now is still that one, and still lives in the root.
    fn is_still(&self, occupant: &Occupant) -> bool {
        match self.examine(occupant.pid) {
            Look::Occupant(now, _) => now.lives && now.start_time == occupant.start_time,
            _ => false,
        }
    }

    /// Looks at one process.
    fn examine(&self, pid: i32) -> Look {
        if pid == self.own_pid {
            return Look::Nothing;
        }
        // The descriptor stays with this process: once it has ended, every look through it fails, whoever has the pid.
        let Ok(dir) = open_dir(CWD, &format!("/proc/{pid}")) else {
            return Look::Nothing;
        };
        let Some(stat) = read_at(&dir, "stat").ok().and_then(|t| Stat::parse(&t)) else {
            return Look::Nothing;
        };
        if stat.is_over() || stat.flags & Stat::KERNEL_THREAD != 0 {
            return Look::Nothing;
        }
        let mut process = Process {
            scanner: self,
            dir,
            stat,
            uses: Vec::new(),
            lives: false,
            elsewhere: false,
            here: None,
            denied: false,
        };
        process.look();
        if process.uses.is_empty() {
            // Whoever is spared cannot spoil the proof that nobody lives there.
            return if process.denied && !self.spared.contains(&pid) {
                Look::Unreadable
            } else {
                Look::Nothing
            };
        }
        let uid = read_at(&process.dir, "status")
            .ok()
            .and_then(|t| uid_of(&t));
        let Some(uid) = uid else {
            // It has ended just now.
            return Look::Nothing;
        };
        let occupant = Occupant {
            pid,
            start_time: process.stat.start_time,
            uid,
            user: uid.to_string(),
            cmdline: process.arguments(),
            lives: process.lives && !self.spared.contains(&pid),
            spared: process.lives && self.spared.contains(&pid),
            elsewhere: process.elsewhere && !process.lives,
            uses: process.uses,
            comm: process.stat.comm,
        };
        Look::Occupant(Box::new(occupant), !process.denied)
    }
}

/// One process that is looked at.
struct Process<'a> {
    scanner: &'a Scanner,
    dir: OwnedFd,
    stat: Stat,
    uses: Vec<Use>,
    lives: bool,
    elsewhere: bool,
    /// Whether it is in our mount namespace, once that was asked.
    here: Option<bool>,
    denied: bool,
}

impl Process<'_> {
    /// Finds every use. The first ones are the most telling.
    fn look(&mut self) {
        let root = self.root();
        for (name, make) in [
            ("cwd", Use::Cwd as fn(PathBuf) -> Use),
            ("exe", Use::Exe as fn(PathBuf) -> Use),
        ] {
            if let Some(path) = self.link(name) {
                self.uses.push(make(path));
            }
        }
        let listens_for_keyring = self.descriptors(root);
        self.agent(listens_for_keyring, root);
        if self.stat.threads > 1 {
            self.threads();
        }
        self.maps();
        self.uses.truncate(USES);
    }

    /// Looks at the root directory, and returns what it is.
    fn root(&mut self) -> Option<(RootId, u64)> {
        let stat = match look_at(&self.dir, "root", false) {
            Ok(stat) => stat,
            Err(e) => {
                self.note_denied(e);
                return None;
            }
        };
        let id = id_of(&stat);
        if id == self.scanner.id {
            self.lives = true;
            self.uses.push(Use::Root(self.scanner.root.clone()));
        } else if self.scanner.own_root != Some((id, stat.stx_mnt_id))
            && let Some(leads) = self.leads("root")
        {
            match leads {
                Leads::Here(path) => {
                    self.lives = true;
                    self.uses.push(Use::Root(path));
                }
                Leads::Elsewhere(path) => {
                    self.elsewhere = true;
                    self.uses.push(Use::Root(path));
                }
            }
        }
        Some((id, stat.stx_mnt_id))
    }

    /// Follows a link where its text says that it leads to the root.
    fn link(&mut self, name: &str) -> Option<PathBuf> {
        match self.leads(name)? {
            Leads::Here(path) => Some(path),
            Leads::Elsewhere(path) => {
                self.elsewhere = true;
                Some(path)
            }
        }
    }

    fn leads(&mut self, name: &str) -> Option<Leads> {
        let text = match readlinkat(&self.dir, name, Vec::new()) {
            Ok(text) => text,
            Err(e) => {
                self.note_denied(e);
                return None;
            }
        };
        let path = path_below(text.as_bytes(), self.scanner.root.as_os_str().as_bytes())?;
        // In another mount namespace the same text may mean another directory.
        let stat = look_at(&self.dir, name, false).ok()?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        let here = if known {
            self.scanner.mounts.contains(&stat.stx_mnt_id)
        } else {
            self.is_here()
        };
        if here {
            Some(Leads::Here(path))
        } else if self.scanner.devices.contains(&id_of(&stat).dev) {
            Some(Leads::Elsewhere(path))
        } else {
            None
        }
    }

    /// Looks at the descriptors, and returns whether one listens in the root's keyring.
    fn descriptors(&mut self, root: Option<(RootId, u64)>) -> bool {
        let mut listens = false;
        // The kernel keeps a socket's name as bind(2) got it: it means something to us only with our root.
        let same_names = root.is_some() && root == self.scanner.own_root;
        let keyring = self.scanner.root.join(KEYRING);
        for name in self.entries("fd") {
            let link = format!("fd/{name}");
            let Ok(text) = readlinkat(&self.dir, &link, Vec::new()) else {
                continue;
            };
            let text = text.as_bytes();
            if let Some(inode) = socket_inode(text) {
                if let Some((path, listening)) = self.scanner.sockets.get(&inode)
                    && same_names
                {
                    listens |= *listening && path.starts_with(&keyring);
                    let one = Use::Socket(path.clone());
                    if !self.uses.contains(&one) {
                        self.uses.push(one);
                    }
                }
            } else if path_below(text, self.scanner.root.as_os_str().as_bytes()).is_some()
                && let Some(path) = self.link(&link)
            {
                self.uses
                    .push(Use::Fd(name.parse().unwrap_or_default(), path));
            }
        }
        listens
    }

    /// Decides whether it is an agent of GnuPG that serves the root's keyring from outside.
    fn agent(&mut self, listens: bool, root: Option<(RootId, u64)>) {
        if !AGENTS.contains(&self.stat.comm.as_str()) {
            return;
        }
        if self.started_for_keyring(root) {
            self.lives = true;
            self.uses
                .push(Use::Keyring(self.scanner.root.join(KEYRING)));
        }
        self.lives |= listens;
    }

    /// Returns whether `--homedir` of its command line is the root's keyring.
    fn started_for_keyring(&self, root: Option<(RootId, u64)>) -> bool {
        let Some(keyring) = self.scanner.keyring else {
            return false;
        };
        let arguments = self.raw_arguments();
        let mut arguments = arguments.split(|&b| b == 0);
        let mut homedir = None;
        while let Some(argument) = arguments.next() {
            if argument == b"--homedir" {
                homedir = arguments.next();
            } else if let Some(value) = argument.strip_prefix(b"--homedir=") {
                homedir = Some(value);
            }
        }
        let Some(homedir) = homedir.filter(|h| !h.is_empty()) else {
            return false;
        };
        let stat = if homedir[0] == b'/' {
            // An absolute path means what it means to us only where its root is ours. Where we may not see its root,
            // that is the likely case, and then we may not end it either.
            if root.is_some() && root != self.scanner.own_root {
                return false;
            }
            look_at(CWD, OsStr::from_bytes(homedir), false)
        } else {
            look_at(
                &self.dir,
                OsStr::from_bytes(&[b"cwd/", homedir].concat()),
                false,
            )
        };
        stat.is_ok_and(|s| id_of(&s) == keyring)
    }

    /// Looks at threads that have directories of their own (`unshare(CLONE_FS)`).
    fn threads(&mut self) {
        for tid in self.entries("task") {
            for name in ["cwd", "root"] {
                if let Some(path) = self.link(&format!("task/{tid}/{name}"))
                    && !self.uses.iter().any(|u| u.path() == path)
                {
                    self.uses
                        .push(Use::Thread(tid.parse().unwrap_or_default(), path));
                }
            }
        }
    }

    /// Looks at mapped files, by the text alone: to follow `map_files` takes a capability.
    fn maps(&mut self) {
        let text = match read_at(&self.dir, "maps") {
            Ok(text) => text,
            Err(e) => {
                self.note_denied(e);
                return;
            }
        };
        for line in text.split(|&b| b == b'\n') {
            let Some(slash) = line.iter().position(|&b| b == b'/') else {
                continue;
            };
            let Some(path) = path_below(&line[slash..], &self.scanner.root_in_maps) else {
                continue;
            };
            if self.uses.iter().any(|u| u.path() == path) || self.uses.len() >= USES {
                continue;
            }
            if !self.is_here() {
                if !self.maps_a_device_of_ours(line) {
                    continue;
                }
                self.elsewhere = true;
            }
            self.uses.push(Use::Map(path));
        }
    }

    /// Returns whether a line of `maps` is of a filesystem that is mounted at the root: `7f… r-xp 00000000 fe:00 12 /x`.
    fn maps_a_device_of_ours(&self, line: &[u8]) -> bool {
        let field = line.split(|&b| b == b' ').nth(3);
        let field = field.and_then(|f| std::str::from_utf8(f).ok());
        let Some((major, minor)) = field.and_then(|f| f.split_once(':')) else {
            return false;
        };
        match (
            u32::from_str_radix(major, 16),
            u32::from_str_radix(minor, 16),
        ) {
            (Ok(major), Ok(minor)) => {
                let device = rustix::fs::makedev(major, minor);
                self.scanner.devices.contains(&device)
            }
            _ => false,
        }
    }

    /// Returns whether it is in our mount namespace.
    fn is_here(&mut self) -> bool {
        if self.here.is_none() {
            let namespace = readlinkat(&self.dir, "ns/mnt", Vec::new()).ok();
            let namespace = namespace.map(std::ffi::CString::into_bytes);
            self.here = Some(namespace.is_some() && namespace == self.scanner.own_namespace);
        }
        self.here == Some(true)
    }

    /// Returns the names in one of its directories that are numbers.
    fn entries(&mut self, name: &str) -> Vec<String> {
        let entries = open_dir(&self.dir, name).and_then(Dir::new);
        match entries {
            Ok(entries) => entries
                .flatten()
                .filter_map(|e| Some(e.file_name().to_str().ok()?.to_owned()))
                .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
                .collect(),
            Err(e) => {
                self.note_denied(e);
                Vec::new()
            }
        }
    }

    fn arguments(&self) -> Vec<String> {
        self.raw_arguments()
            .split(|&b| b == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect()
    }

    /// Returns the command line, which the process may have rewritten to anything.
    fn raw_arguments(&self) -> Vec<u8> {
        let mut text = read_at(&self.dir, "cmdline").unwrap_or_default();
        while text.last() == Some(&0) {
            text.pop();
        }
        text
    }

    fn note_denied(&mut self, error: Errno) {
        self.denied |= matches!(error, Errno::ACCESS | Errno::PERM);
    }
}

/// Returns the root's keyring directory. Where it is a symbolic link, or cannot be reached, there is none.
fn keyring_of(root: &Path) -> Option<RootId> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = openat(CWD, root, flags | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let keyring = open_below(root.as_fd(), KEYRING, flags).ok()?;
    let stat = rustix::fs::fstat(&keyring).ok()?;
    Some(RootId {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

/// Returns PID 1 and our ancestors.
fn spared() -> HashSet<i32> {
    let mut spared = HashSet::from([1]);
    let mut pid = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
    while pid > 0 && spared.insert(pid) {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok();
        pid = stat.and_then(|t| Stat::parse(&t)).map_or(0, |s| s.parent);
    }
    spared
}

fn open_dir(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

/// Reads a file of `/proc`. Its size is not known before, and a call of read(2) costs more here than a buffer.
fn read_at(dir: &OwnedFd, name: &str) -> Result<Vec<u8>, Errno> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = vec![0; 1 << 13];
    let mut length = 0;
    loop {
        match rustix::io::read(&file, &mut text[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        // `stat` is one line that comes in one piece.
        if name == "stat" {
            break;
        }
        if text.len() - length < 1 << 12 {
            text.resize(2 * text.len(), 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

/// Asks what a path leads to, without waiting for a server that may be gone.
fn look_at(at: impl AsFd, name: impl rustix::path::Arg, nofollow: bool) -> Result<Statx, Errno> {
    let mut flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    if nofollow {
        flags |= AtFlags::SYMLINK_NOFOLLOW;
    }
    statx(
        at,
        name,
        flags,
        StatxFlags::INO | StatxFlags::TYPE | StatxFlags::MNT_ID,
    )
}

fn id_of(stat: &Statx) -> RootId {
    RootId {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
    }
}

/// `maps` writes a newline in a name as an octal escape, and nothing else.
fn escape_newlines(path: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = path.split(|&b| b == b'\n').collect();
    parts.join(&b"\\012"[..])
}

/// Returns the inode number of `socket:[123]`.
fn socket_inode(text: &[u8]) -> Option<u64> {
    let number = text.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Parses `/proc/net/unix`: the bound sockets with a name at or below `root`, by inode.
///
/// `0000000000000000: 00000002 00000000 00010000 0001 01 21512 /run/x` is the number, references, protocol, flags
/// (0x10000 for one that listens), type, state, inode and name.
fn parse_sockets(text: &[u8], root: &[u8]) -> HashMap<u64, (PathBuf, bool)> {
    let mut sockets = HashMap::new();
    for line in text.split(|&b| b == b'\n').skip(1) {
        let mut fields = [&b""[..]; 7];
        let mut rest = line;
        for field in &mut fields {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&b| b == b' ');
            (*field, rest) = rest.split_at(end.unwrap_or(rest.len()));
        }
        let field = |n: usize| std::str::from_utf8(fields[n]).ok();
        let flags = field(3).and_then(|f| u32::from_str_radix(f, 16).ok());
        let inode = field(6).and_then(|f| f.parse().ok());
        // One blank, then the name, which may have blanks. A socket without a name has neither.
        if let (Some(flags), Some(inode), Some(name)) = (flags, inode, rest.strip_prefix(b" "))
            && let Some(path) = path_below(name, root)
        {
            sockets.insert(inode, (path, flags & 0x10000 != 0));
        }
    }
    sockets
}

/// Returns the effective user id of the text of `/proc/PID/status`.
fn uid_of(text: &[u8]) -> Option<u32> {
    let line = text
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:"))?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns a user's name by the text of a passwd(5) file. getpwuid(3) would load modules and ask servers.
fn user_name(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    /// A process that a test started, and that ends with the test.
    struct Started(Child);

    impl Started {
        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        fn is_alive(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    /// Starts a shell that runs the script, and then becomes a cat: what comes back through it says that it has.
    fn start(dir: &Path, script: &str) -> Started {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{script}; exec cat")])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Started(child)
    }

    fn id(path: &Path) -> RootId {
        let stat = path.metadata().unwrap();
        RootId {
            dev: stat.dev(),
            ino: stat.ino(),
        }
    }

    fn canonical(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().canonicalize().unwrap()
    }

    /// A scan in which every process of this system lives in the root, so that one can be ended without a chroot.
    fn as_if_all_lived_there(root: &Path, pid: i32) -> (RootId, Occupant) {
        let id = id(Path::new("/"));
        let scanner = Scanner::new(root, id).unwrap();
        let Look::Occupant(occupant, _) = scanner.examine(pid) else {
            panic!("process {pid} is not there");
        };
        assert!(occupant.lives);
        (id, *occupant)
    }

    #[test]
    fn the_stat_line_is_read_whatever_the_process_calls_itself() {
        let tail = " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2 3";
        for name in ["sh", "a) R 1 (b", "", "x y\n", "((("] {
            let stat = Stat::parse(format!("42 ({name}){tail}").as_bytes()).unwrap();
            let expected = Stat {
                comm: name.into(),
                state: b'S',
                parent: 7,
                flags: 4_194_560,
                threads: 3,
                start_time: 987_654,
            };
            assert_eq!(stat, expected);
        }
        for bad in ["", "42", "42 (sh", "42 sh)", ")(", "42 (sh) S 1 2"] {
            assert_eq!(Stat::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn bound_sockets_below_the_root_and_no_others() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21512 /t/etc/S.gpg agent\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21513 /t/x\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21514\n\
            0000000000000000: 00000003 00000000 00000000 0001 03   515 @/t/x\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21516 /target/x\n\
            junk\n: x y z\n\xff\xff /t/x\n";
        let mut found: Vec<_> = parse_sockets(text, b"/t").into_iter().collect();
        found.sort();
        assert_eq!(
            found,
            [
                (21512, ("/t/etc/S.gpg agent".into(), true)),
                (21513, ("/t/x".into(), false)),
            ]
        );
    }

    #[test]
    fn a_path_is_below_by_components() {
        for (text, below) in [
            ("/t", true),
            ("/t/x", true),
            ("/t (deleted)", true),
            ("/t/x (deleted)", true),
            ("/target", false),
            ("/t (deleted)x", false),
            ("/", false),
            ("", false),
            ("socket:[1]", false),
        ] {
            assert_eq!(
                path_below(text.as_bytes(), b"/t").is_some(),
                below,
                "{text}"
            );
        }
    }

    #[test]
    fn small_texts_of_the_kernel() {
        assert_eq!(uid_of(b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t9\n"), Some(2));
        assert_eq!(uid_of(b"Uid:\t1\n"), None);
        let passwd = b"root:x:0:0::/:/bin/sh\nann:x:7:7\n:x:8:8\nbad\n";
        assert_eq!(user_name(passwd, 7).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 8), None);
        assert_eq!(user_name(passwd, 9), None);
        let kept = b"enabled\ninterpreter /t/qemu\nflags: OCF\noffset 0\n";
        assert_eq!(interpreter_kept_open(kept), Some(&b"/t/qemu"[..]));
        assert_eq!(
            interpreter_kept_open(b"interpreter /t/q\nflags: OC\n"),
            None
        );
        assert_eq!(interpreter_kept_open(b"enabled\n"), None);
        assert_eq!(escape_newlines(b"/a\nb"), b"/a\\012b");
        assert_eq!(socket_inode(b"socket:[12]"), Some(12));
        assert_eq!(socket_inode(b"pipe:[12]"), None);
    }

    #[test]
    fn who_uses_a_path_is_found_and_does_not_live_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = canonical(&dir);
        std::fs::create_dir(root.join("x")).unwrap();
        let child = start(&root.join("x"), "exec 5>file; rm file");
        let scan = find(&root, id(&root)).unwrap();
        let pids: Vec<_> = scan.occupants.iter().map(|o| o.pid).collect();
        assert_eq!(pids, [child.pid()]);
        let found = &scan.occupants[0];
        assert!(!found.lives && !found.elsewhere);
        assert_eq!(found.comm, "cat");
        assert_eq!(found.cmdline, ["cat"]);
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(
            found.uses,
            [
                Use::Cwd(root.join("x")),
                Use::Fd(5, root.join("x/file (deleted)")),
            ]
        );
        assert_eq!(
            found.how(),
            format!("has its working directory at '{}/x'", root.display())
        );
        // A directory whose name only begins the same is another one.
        let other = root.with_extension("other");
        std::fs::create_dir(&other).unwrap();
        let scan = find(&other, id(&other)).unwrap();
        std::fs::remove_dir(&other).unwrap();
        assert_eq!(scan.occupants, []);
    }

    #[test]
    fn we_ourselves_are_not_named_and_our_ancestors_do_not_live_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = canonical(&dir);
        let _ours = File::create(root.join("ours")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let scan = find(&root, id(&root)).unwrap();
        assert!(
            scan.occupants
                .iter()
                .all(|o| o.pid.unsigned_abs() != std::process::id())
        );
        let scan = Scanner::new(&root, id(Path::new("/"))).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        for pid in [1, parent] {
            match scan.examine(pid) {
                Look::Occupant(occupant, _) => assert!(!occupant.lives, "{occupant}"),
                Look::Nothing | Look::Unreadable => {}
            }
        }
    }

    #[test]
    fn a_zombie_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = canonical(&dir);
        let mut child = start(&root, "true");
        drop(child.0.stdin.take());
        let pid = nix::unistd::Pid::from_raw(child.pid());
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(pid),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
        assert!(matches!(scanner.examine(child.pid()), Look::Nothing));
    }

    #[test]
    fn who_got_the_pid_of_one_that_has_ended_is_not_hit() {
        let dir = tempfile::tempdir().unwrap();
        let root = canonical(&dir);
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
        let root = canonical(&dir);
        let mut child = start(&root, "trap '' TERM");
        let (everywhere, occupant) = as_if_all_lived_there(&root, child.pid());
        let patience = Duration::from_millis(20);
        let outcome = end(&root, everywhere, vec![occupant.clone()], patience).unwrap();
        assert_eq!(outcome.killed, [occupant]);
        assert!(!child.is_alive());
    }

    #[test]
    fn the_root_that_an_undoing_tool_means() {
        let dir = tempfile::tempdir().unwrap();
        let root = canonical(&dir);
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        std::fs::create_dir(root.join("other")).unwrap();
        let document = |text: String| Document::parse(text.as_bytes(), "stdin").unwrap();
        let path = root.display();
        let plain = document(format!("{{\"strapline\":1,\"root\":\"{path}\"}}"));
        let nothing = Document::new();
        let failed = document("{\"strapline\":1,\"error\":{\"exit\":69}}".into());
        let gone = document(format!(
            "{{\"strapline\":1,\"root\":\"{path}/gone\",\"error\":{{\"exit\":69}}}}"
        ));
        let other = document(format!(
            "{{\"strapline\":1,\"root\":\"{path}\",\"root_id\":{{\"dev\":1,\"ino\":1}}}}"
        ));
        let path_of = |document: &Document, dir: Option<&Path>| {
            subject(document, dir).map(|r| r.map(|r| r.path().to_owned()))
        };
        let link = root.join("link");
        assert_eq!(path_of(&plain, None), Ok(Some(root.clone())));
        assert_eq!(path_of(&plain, Some(&link)), Ok(Some(root.clone())));
        assert_eq!(path_of(&nothing, Some(&link)), Ok(Some(root.clone())));
        assert_eq!(path_of(&failed, Some(&root)), Ok(Some(root.clone())));
        assert_eq!(path_of(&failed, None), Ok(None));
        assert_eq!(path_of(&gone, None), Ok(None));
        for (document, dir, code) in [
            (&nothing, None, Code::Usage),
            (&nothing, Some("/".into()), Code::Usage),
            (&nothing, Some("/proc/../proc/..".into()), Code::Usage),
            (&nothing, Some(root.join("gone")), Code::NotFound),
            (&plain, Some(root.join("other")), Code::Usage),
            (&other, None, Code::Failed),
        ] {
            let failure = path_of(document, dir.as_deref()).unwrap_err();
            assert_eq!(failure.code, code, "{dir:?}: {failure}");
        }
    }
}
