//! One process, and how it uses the root.
//!
//! A link of `/proc` has a text and a target. The target, by device and inode number, is the truth, but says nothing
//! about what is below what; the text does, but means something to us only where it is of our own mount namespace. So
//! the text is asked first, since that is cheap, and believed only where the target is on a mount of ours.

use super::proc::{Seen, look_at, numbers, open_dir, read_at};
use super::scan::Scanner;
use super::text::{self, Stat, mapped, path_below, socket_inode};
use super::{KEYRING, Occupant, Use, agents};
use rustix::fs::{CWD, readlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How many uses of one process are kept: a message has no room for more.
const USES: usize = 16;

/// One process that is looked at.
pub(super) struct Process<'a> {
    scanner: &'a Scanner,
    pid: i32,
    /// Its directory of `/proc`.
    dir: OwnedFd,
    stat: Stat,
    /// Its root directory, where we may see it.
    root: Option<Seen>,
    uses: Vec<Use>,
    lives: bool,
    elsewhere: bool,
    /// Whether it is in our mount namespace, once that was asked.
    here: Option<bool>,
    denied: bool,
    /// What kept us from looking that is no fault of its: see [`is_ours`].
    failed: Option<Errno>,
}

impl<'a> Process<'a> {
    /// Looks at the process. `None` for what uses nothing: a thread of the kernel's, or a zombie.
    ///
    /// # Errors
    ///
    /// The system call's; see [`is_gone`].
    pub(super) fn look(scanner: &'a Scanner, pid: i32) -> Result<Option<Self>, Errno> {
        let mut dir = open_dir(CWD, &format!("/proc/{pid}"))?;
        let Some(stat) = Stat::parse(&read_at(&dir, "stat")?) else {
            return Ok(None);
        };
        if stat.is_of_kernel() {
            return Ok(None);
        }
        if stat.is_over() {
            // The first thread may end before the others, and what the process has is seen only by one of those then.
            match living_thread(&dir, &stat)? {
                Some(thread) => dir = thread,
                None => return Ok(None),
            }
        }
        let mut process = Self {
            scanner,
            pid,
            dir,
            stat,
            root: None,
            uses: Vec::new(),
            lives: false,
            elsewhere: false,
            here: None,
            denied: false,
            failed: None,
        };
        process.find_uses();
        process.failed.map_or(Ok(Some(process)), Err)
    }

    /// Returns whether there are parts that we may not look at.
    pub(super) fn is_denied(&self) -> bool {
        self.denied
    }

    /// Returns the process where it uses the root.
    ///
    /// # Errors
    ///
    /// The system call's; see [`is_gone`].
    pub(super) fn occupant(mut self, spared: bool) -> Result<Option<Occupant>, Errno> {
        if self.uses.is_empty() {
            return Ok(None);
        }
        let Some(uid) = text::uid(&read_at(&self.dir, "status")?) else {
            return Ok(None);
        };
        let cmdline = self.cmdline();
        let arguments = cmdline.split(|&b| b == 0);
        Ok(Some(Occupant {
            pid: self.pid,
            start_time: self.stat.start_time,
            uid,
            user: uid.to_string(),
            cmdline: arguments
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
            lives: self.lives && !spared,
            spared: self.lives && spared,
            elsewhere: self.elsewhere && !self.lives,
            uses: self.uses,
            comm: self.stat.comm,
        }))
    }

    /// Finds every use. The first ones are the most telling.
    fn find_uses(&mut self) {
        self.root();
        if let Some((path, _)) = self.link("cwd") {
            self.uses.push(Use::Cwd(path));
        }
        if let Some((path, _)) = self.link("exe") {
            self.uses.push(Use::Exe(path));
        }
        let listens_in_keyring = self.descriptors();
        if agents::is_agent(&self.stat.comm) {
            self.agent(listens_in_keyring);
        }
        if self.stat.threads > 1 {
            self.threads();
        }
        self.maps();
        self.uses.truncate(USES);
    }

    /// Looks at the root directory.
    fn root(&mut self) {
        let seen = look_at(&self.dir, "root");
        self.root = self.noted(seen);
        let Some(root) = self.root else {
            return;
        };
        if root.id == self.scanner.id {
            self.lives = true;
            self.uses.push(Use::Root(self.scanner.root.clone()));
        } else if self.root != self.scanner.own_root
            && let Some((path, here)) = self.link("root")
        {
            self.lives = here;
            self.uses.push(Use::Root(path));
        }
    }

    /// Follows a link where its text says that it leads to the root. Returns where to, and whether that is on a mount of
    /// our own mount namespace; else it is on one of another, of a filesystem that is mounted at the root.
    fn link(&mut self, name: &str) -> Option<(PathBuf, bool)> {
        let text = readlinkat(&self.dir, name, Vec::new());
        let text = self.noted(text)?;
        let path = path_below(text.as_bytes(), &self.scanner.root)?;
        // In another mount namespace the same text may mean another directory.
        let seen = look_at(&self.dir, name);
        let seen = self.noted(seen)?;
        let here = match seen.mount {
            Some(mount) => self.scanner.mounts.contains(&mount),
            None => self.is_here(),
        };
        if !here && !self.scanner.devices.contains(&seen.id.dev) {
            return None;
        }
        self.elsewhere |= !here;
        Some((path, here))
    }

    /// Looks at the descriptors, and returns whether one listens in the root's keyring.
    fn descriptors(&mut self) -> bool {
        let mut listens = false;
        // The kernel keeps a socket's name as bind(2) got it: it means something to us only with our root.
        let same_names = self.root.is_some() && self.root == self.scanner.own_root;
        let keyring = self.scanner.root.join(KEYRING);
        for n in self.numbers::<u32>("fd") {
            let link = format!("fd/{n}");
            let text = readlinkat(&self.dir, &link, Vec::new());
            let Some(text) = self.noted(text) else {
                continue;
            };
            if let Some(inode) = socket_inode(text.as_bytes()) {
                if same_names && let Some((path, listening)) = self.scanner.sockets.get(&inode) {
                    listens |= *listening && path.starts_with(&keyring);
                    if !self.has(path) {
                        self.uses.push(Use::Socket(path.clone()));
                    }
                }
            } else if path_below(text.as_bytes(), &self.scanner.root).is_some()
                && let Some((path, _)) = self.link(&link)
            {
                self.uses.push(Use::Fd(n, path));
            }
        }
        listens
    }

    /// Decides whether an agent of GnuPG serves the root's keyring from outside.
    fn agent(&mut self, listens_in_keyring: bool) {
        self.lives |= listens_in_keyring;
        // Where we may not see its root, it is likely ours, and then we may not end it either.
        let as_ours = self.root.is_none() || self.root == self.scanner.own_root;
        if let Some(keyring) = self.scanner.keyring
            && let cmdline = self.cmdline()
            && agents::was_started_for(keyring, &self.dir, &cmdline, as_ours)
        {
            self.lives = true;
            let keyring = self.scanner.root.join(KEYRING);
            self.uses.push(Use::Keyring(keyring));
        }
    }

    /// Looks at threads that have directories of their own (`unshare(CLONE_FS)`).
    fn threads(&mut self) {
        for tid in self.numbers::<i32>("task") {
            for name in ["cwd", "root"] {
                if let Some((path, _)) = self.link(&format!("task/{tid}/{name}"))
                    && !self.has(&path)
                {
                    self.uses.push(Use::Thread(tid, path));
                }
            }
        }
    }

    /// Looks at mapped files, by the text alone: to follow `map_files` takes a capability.
    fn maps(&mut self) {
        let text = read_at(&self.dir, "maps");
        let text = self.noted(text).unwrap_or_default();
        for line in text.split(|&b| b == b'\n') {
            let Some((device, path)) = mapped(line) else {
                continue;
            };
            let Some(path) = path_below(path, &self.scanner.root_in_maps) else {
                continue;
            };
            if self.has(&path) || self.uses.len() >= USES {
                continue;
            }
            if !self.is_here() {
                if !self.scanner.devices.contains(&device) {
                    continue;
                }
                self.elsewhere = true;
            }
            self.uses.push(Use::Map(path));
        }
    }

    /// Returns whether a use of this path is known.
    fn has(&self, path: &Path) -> bool {
        self.uses.iter().any(|u| u.path() == path)
    }

    /// Returns whether it is in our mount namespace.
    fn is_here(&mut self) -> bool {
        *self.here.get_or_insert_with(|| {
            let namespace = look_at(&self.dir, "ns/mnt").ok();
            namespace.is_some() && namespace == self.scanner.own_namespace
        })
    }

    /// Returns the names in one of its directories that are numbers.
    fn numbers<T: FromStr>(&mut self, name: &str) -> Vec<T> {
        let numbers = numbers(&self.dir, name);
        self.noted(numbers).unwrap_or_default()
    }

    /// Returns the command line, which the process may have rewritten to anything.
    fn cmdline(&mut self) -> Vec<u8> {
        let text = read_at(&self.dir, "cmdline");
        let mut text = self.noted(text).unwrap_or_default();
        while text.last() == Some(&0) {
            text.pop();
        }
        text
    }

    /// Returns what was seen, and keeps in mind that something was not. What is gone is not there to be seen.
    fn noted<T>(&mut self, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(seen) => return Some(seen),
            Err(e) if is_ours(e) => self.failed = Some(e),
            Err(e) => self.denied |= !is_gone(e),
        }
        None
    }
}

/// Returns whether an error of `/proc` says that the process, or the part of it, is not there, or not any more.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

/// Returns whether an error says that we ran out of something, or were interrupted: the process has nothing to do with it, and
/// who goes on would have seen less than there is.
pub(super) fn is_ours(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR
    )
}

/// Opens the directory of a thread that lives on after the first one has ended.
fn living_thread(process: &OwnedFd, stat: &Stat) -> Result<Option<OwnedFd>, Errno> {
    if stat.threads < 2 {
        return Ok(None);
    }
    for tid in numbers::<u32>(process, "task")? {
        let looked = || {
            let thread = open_dir(process, &format!("task/{tid}"))?;
            let stat = read_at(&thread, "stat")?;
            Ok((thread, stat))
        };
        match looked() {
            Ok((thread, stat)) if Stat::parse(&stat).is_some_and(|s| !s.is_over()) => {
                return Ok(Some(thread));
            }
            Err(e) if is_ours(e) => return Err(e),
            _ => {}
        }
    }
    Ok(None)
}
