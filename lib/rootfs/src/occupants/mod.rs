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
//! 1. Its root directory is the root or below it: `/proc/PID/root` is opened, and it or a directory above it has the
//!    root's device and inode number. This holds in every mount namespace, and whatever the names are.
//! 2. It is an agent of GnuPG in our own mount namespace that serves the root's keyring from outside of the root: its name
//!    is `gpg-agent`, `dirmngr`, `scdaemon` or `keyboxd`, and it listens on a socket whose file is in
//!    `ROOT/etc/pacman.d/gnupg`, or watches that directory, by device and inode number. Such an agent has nothing open in
//!    the root, and yet its sockets keep the mount busy.
//!
//! A path's text proves nothing: an older chroot in a directory that a mount hides now has the same, and so has a process
//! in a directory that was removed and made again. What cannot be proven is named, and never ended.
//!
//! Who merely uses a path there, by a working directory, an open file, a mapped file, a bound socket, does not live
//! there: it may be the user's editor. It is named, and never ended. We ourselves, our ancestors, PID 1 and kernel
//! threads never live in a root; zombies are not there at all, since they hold nothing.
//!
//! [`find()`] looks and judges, [`end()`] ends, [`holders()`] says what is in the way and no process, and [`subject()`]
//! which root all of that is about.

mod agents;
mod diag;
mod end;
#[cfg(test)]
mod ground;
mod holders;
pub(crate) mod proc;
mod process;
mod scan;
mod subject;
pub(crate) mod text;

pub use agents::KEYRING;
pub use end::{Outcome, end};
pub use holders::{Holder, holders};
pub use subject::subject;

use crate::root::RootId;
use scan::Scanner;
use stage::{Failure, quote};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

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

/// Looks at all processes, and returns those that use `root`: a canonical path, which `id` is the identity of.
///
/// Processes that end meanwhile are no error.
///
/// # Errors
///
/// [`stage::Code::Os`] when `/proc` is not there, or is that of another PID namespace.
pub fn find(root: &Path, id: RootId) -> Result<Scan, Failure> {
    Scanner::new(root, id)?.scan()
}
