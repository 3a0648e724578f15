//! Which processes use a root, which of them live in it, and how those are ended.
//!
//! pacman-key and scriptlets of packages leave daemons behind: most often a gpg-agent, which keeps every mount of the root
//! busy. Ending them by name would also end the user's own, and under an emulator the name of the program is that of the
//! emulator. So a process is identified by its directories.
//!
//! # Which processes live in a root
//!
//! A process lives in a root when one of these holds:
//!
//! 1. Its root directory is the root or below it: `/proc/PID/root` is opened, and it or a directory above it has the
//!    root's device and inode number. This holds in every mount namespace, and whatever the names are.
//! 2. It is an agent of GnuPG in our own mount namespace that serves the root's keyring from outside of the root: its name
//!    is `gpg-agent`, `dirmngr`, `scdaemon` or `keyboxd`, and it listens on a socket whose file is in
//!    `ROOT/etc/pacman.d/gnupg`, or watches that directory, by device and inode number. Such an agent has nothing open in
//!    the root, but its sockets keep the mount busy.
//!
//! The text of a path proves nothing: an older chroot in a directory that a mount hides now has the same path, and so has a
//! process in a directory that was removed and made again. What cannot be proven is reported, and never ended.
//!
//! A process that only uses a path there, by a working directory, an open file, a mapped file or a bound socket, does not
//! live there: it may be the user's editor. It is reported, and never ended. This process, its ancestors, PID 1 and kernel
//! threads never live in a root. Zombies are ignored: they hold nothing.
//!
//! [`find()`] looks, [`end()`] ends, [`kernel_users()`] returns what keeps a root busy and is not a process, and
//! [`subject()`] returns the root that an undoing tool works on.

mod agents;
mod diag;
mod end;
mod holders;
pub(crate) mod proc;
mod process;
mod scan;
mod subject;
#[cfg(test)]
mod tests;
pub(crate) mod text;

pub use agents::KEYRING;
pub use end::{Outcome, end};
pub use holders::kernel_users;
pub use subject::subject;

use crate::root::RootId;
use scan::Scanner;
use stage::{Failure, quote};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

/// A use of a root by a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// How it is used.
    pub kind: UseKind,
    /// The path that is used.
    pub path: PathBuf,
}

/// How a process uses a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseKind {
    /// Its root directory.
    Root,
    /// Its working directory.
    Cwd,
    /// The program that it runs.
    Exe,
    /// An open descriptor.
    Fd(u32),
    /// A file that is mapped into its memory.
    Map,
    /// The working or root directory of a thread that has its own.
    Thread(i32),
    /// A unix socket that is bound to a name there.
    Socket,
    /// It is an agent that was started for the keyring there.
    Keyring,
}

impl Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = quote(&self.path);
        match self.kind {
            UseKind::Root => write!(f, "has its root directory at {path}"),
            UseKind::Cwd => write!(f, "has its working directory at {path}"),
            UseKind::Exe => write!(f, "runs {path}"),
            UseKind::Fd(n) => write!(f, "has {path} open as descriptor {n}"),
            UseKind::Map => write!(f, "has {path} mapped"),
            UseKind::Thread(tid) => write!(f, "has a thread {tid} with its directory at {path}"),
            UseKind::Socket => write!(f, "has a socket bound at {path}"),
            UseKind::Keyring => write!(f, "serves the keyring at {path}"),
        }
    }
}

/// A process that uses a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot. With the pid, this identifies it.
    pub start_time: u64,
    /// Its name, as the kernel has it: at most 15 bytes. Under an emulator, that of the emulated program.
    pub comm: String,
    /// Its effective user id.
    pub uid: u32,
    /// That user's name in `/etc/passwd`, or the number.
    pub user: String,
    /// How it uses the root.
    pub uses: Vec<Use>,
    /// Whether it lives there, as defined at the top of this module.
    pub lives: bool,
    /// Whether it is never ended although its root directory is there: it is PID 1 or an ancestor of ours.
    pub spared: bool,
    /// Whether it is in another mount namespace, and holds a copy of one of our mounts.
    pub elsewhere: bool,
}

impl Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (user {})", self.pid, self.comm, self.user)
    }
}

impl Occupant {
    /// Returns how it uses the root, in words: the first use, which is the most important one.
    #[must_use]
    pub fn how(&self) -> String {
        let mut how = self.uses.first().map_or_else(String::new, Use::to_string);
        if self.elsewhere {
            how.push_str(" in another mount namespace");
        }
        how
    }
}

/// The result of looking at all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The processes that use the root, by pid.
    pub occupants: Vec<Occupant>,
    /// How many processes we were not permitted to look at: those of other users, unless we are root.
    pub unreadable: usize,
}

/// Returns a message about processes that could not be looked at.
#[must_use]
pub fn unreadable(count: usize) -> String {
    match count {
        1 => "1 process could not be looked at".to_owned(),
        n => format!("{n} processes could not be looked at"),
    }
}

/// Returns the first few names, and how many more there are, for a message.
pub fn shorten(names: impl ExactSizeIterator<Item = String>, limit: usize) -> String {
    let more = names.len().saturating_sub(limit);
    let more = (more > 0).then(|| format!("{more} more"));
    names.take(limit).chain(more).collect::<Vec<_>>().join(", ")
}

impl Scan {
    /// Returns those that live in the root.
    pub fn living(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.iter().filter(|o| o.lives)
    }

    /// Returns those that use it and live elsewhere.
    pub fn others(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.iter().filter(|o| !o.lives)
    }
}

/// Looks at all processes, and returns those that use `root`, a canonical path. `id` is the identity of that directory.
/// Processes that end in the meantime are ignored.
///
/// # Errors
///
/// [`stage::Code::Os`] when `/proc` is not mounted, or is that of another PID namespace.
pub fn find(root: &Path, id: RootId) -> Result<Scan, Failure> {
    Scanner::new(root, id)?.scan()
}
