//! One process, and how it uses the root.
//!
//! A link of `/proc` has a text and a target. The text is a name, which may lead to another directory by now: one that was
//! mounted over that of the process, or made after that was removed. So the target is opened, and each directory from there
//! up is compared with the root by device and inode number: this proves that a process lives there. The text is only used
//! as a cheap filter for working directories and open files. A file has no way up: it is there when its name leads to it
//! now, or when it is on a mount that is seen there. A process that only has such a file open is reported, and never ended.

use super::proc::{Seen, is_below, look_at, numbers, open_dir, open_path, read_at};
use super::scan::Scanner;
use super::text::{self, Stat, mapped, path_below, socket_inode};
use super::{KEYRING, Occupant, Use, UseKind, agents};
use crate::user;
use rustix::fs::{CWD, readlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How many uses of one process are kept.
const USES: usize = 16;

/// A process.
pub(super) struct Process<'a> {
    scanner: &'a Scanner,
    pid: i32,
    /// Its directory of `/proc`.
    dir: OwnedFd,
    stat: Stat,
    /// Its root directory, if we may see it.
    root: Option<Seen>,
    uses: Vec<Use>,
    lives: bool,
    elsewhere: bool,
    /// Whether it is in our mount namespace, once known.
    here: Option<bool>,
    /// Whether we may not look at parts of it.
    pub(super) denied: bool,
    /// An error that has nothing to do with the process: see [`is_ours`].
    failed: Option<Errno>,
}

impl<'a> Process<'a> {
    /// Looks at the process. Returns `None` for a kernel thread and a zombie, which use nothing.
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
            // The first thread may end before the others. Then only those show what the process has.
            let Some(thread) = living_thread(&dir)? else {
                return Ok(None);
            };
            dir = thread;
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

    /// Returns the process, if it uses the root.
    ///
    /// # Errors
    ///
    /// The system call's; see [`is_gone`].
    pub(super) fn occupant(self, spared: bool) -> Result<Option<Occupant>, Errno> {
        if self.uses.is_empty() {
            return Ok(None);
        }
        let Some(uid) = text::uid(&read_at(&self.dir, "status")?) else {
            return Ok(None);
        };
        Ok(Some(Occupant {
            pid: self.pid,
            start_time: self.stat.start_time,
            uid,
            user: user::name_of(&self.scanner.passwd, uid).unwrap_or_else(|| uid.to_string()),
            lives: self.lives && !spared,
            spared: self.lives && spared,
            elsewhere: self.elsewhere && !self.lives,
            uses: self.uses,
            comm: self.stat.comm,
        }))
    }

    /// Finds every use, the most important ones first.
    fn find_uses(&mut self) {
        self.root();
        for (name, kind) in [("cwd", UseKind::Cwd), ("exe", UseKind::Exe)] {
            if let Some(path) = self.link(name) {
                self.add(kind, path);
            }
        }
        let serves_keyring = self.descriptors();
        if agents::is_agent(&self.stat.comm) {
            self.agent(serves_keyring);
        }
        if self.stat.threads > 1 {
            self.threads();
        }
        self.maps();
        self.uses.truncate(USES);
    }

    /// Looks at the root directory.
    fn root(&mut self) {
        let opened = open_path(&self.dir, "root").and_then(|root| Ok((look_at(&root, "")?, root)));
        let Some((seen, root)) = self.noted(opened) else {
            return;
        };
        self.root = Some(seen);
        if self.root == self.scanner.own_root && seen.id != self.scanner.id {
            return;
        }
        match is_below(&root, self.scanner.id, &self.scanner.parents) {
            Ok(true) => {
                self.lives = true;
                let path = self.text_below("root").filter(|_| seen.id != self.scanner.id);
                self.add(UseKind::Root, path.unwrap_or_else(|| self.scanner.root.clone()));
            }
            Ok(false) => {}
            Err(e) => {
                if let Some(path) = self.text_below("root") {
                    self.add(UseKind::Root, path);
                }
                self.noted::<()>(Err(e));
            }
        }
    }

    /// Returns the text of a link, if that is at or below the root.
    fn text_below(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.noted(readlinkat(&self.dir, name, Vec::new()))?;
        path_below(text.as_bytes(), &self.scanner.root)
    }

    /// Follows a link whose text is at or below the root. Returns the text, unless it leads to another place of that name.
    fn link(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.text_below(name)?;
        let seen = self.noted(look_at(&self.dir, name))?;
        let here = match seen.mount {
            Some(mount) => self.scanner.parents.contains_key(&mount),
            None => self.is_here(),
        };
        let leads_there = match open_path(&self.dir, name) {
            Ok(directory) => is_below(&directory, self.scanner.id, &self.scanner.parents),
            Err(Errno::NOTDIR) => Ok(self.is_file_there(&path, seen, here)),
            Err(e) => Err(e),
        };
        // What we may not look at is reported.
        if !self.noted(leads_there).unwrap_or(true) {
            return None;
        }
        self.elsewhere |= !here;
        Some(path)
    }

    /// Returns whether a file with a name below the root is there: its name leads to it now, or, when the name is gone, it
    /// is on a mount that is seen there.
    fn is_file_there(&self, path: &Path, seen: Seen, here: bool) -> bool {
        if look_at(CWD, path).is_ok_and(|now| now.id == seen.id) {
            return true;
        }
        match seen.mount.filter(|_| here) {
            Some(mount) => self.scanner.visible.contains(&mount),
            None => self.scanner.devices.contains(&seen.id.dev),
        }
    }

    /// Looks at the descriptors, and returns whether one binds it to the root's keyring.
    fn descriptors(&mut self) -> bool {
        let mut serves = false;
        // The kernel keeps a socket's name as bind(2) got it: it is only valid with our root directory.
        let same_names = self.root.is_some() && self.root == self.scanner.own_root;
        let is_agent = agents::is_agent(&self.stat.comm);
        for n in self.numbers::<u32>("fd") {
            let link = format!("fd/{n}");
            let text = readlinkat(&self.dir, &link, Vec::new());
            let Some(text) = self.noted(text) else {
                continue;
            };
            let keyring = self.scanner.keyring.as_ref();
            if let Some(inode) = socket_inode(text.as_bytes()) {
                serves |= keyring.is_some_and(|k| k.sockets.contains(&inode));
                if same_names && let Some(path) = self.scanner.sockets.get(&inode) {
                    self.add_path(UseKind::Socket, path.clone());
                }
            } else if is_agent && text.as_bytes() == b"anon_inode:inotify" {
                serves |= keyring.is_some_and(|k| k.is_watched_by(&self.dir, n));
            } else if path_below(text.as_bytes(), &self.scanner.root).is_some()
                && let Some(path) = self.link(&link)
            {
                self.add(UseKind::Fd(n), path);
            }
        }
        serves
    }

    /// Decides whether an agent of GnuPG serves the root's keyring from outside. `proven`: it is bound to it. An agent in
    /// another mount namespace is reported only.
    fn agent(&mut self, proven: bool) {
        let Some(keyring) = &self.scanner.keyring else {
            return;
        };
        let cmdline = self.noted(read_at(&self.dir, "cmdline")).unwrap_or_default();
        if !proven && !keyring.is_named_by(&self.dir, &cmdline) {
            return;
        }
        let here = self.is_here();
        self.lives |= proven && here;
        // If we may not look, it is not claimed.
        self.elsewhere |= !here && look_at(&self.dir, "ns/mnt").is_ok();
        self.add(UseKind::Keyring, self.scanner.root.join(KEYRING));
    }

    /// Looks at threads that have directories of their own (`unshare(CLONE_FS)`).
    fn threads(&mut self) {
        for tid in self.numbers::<i32>("task") {
            for name in ["cwd", "root"] {
                if let Some(path) = self.link(&format!("task/{tid}/{name}")) {
                    self.add_path(UseKind::Thread(tid), path);
                }
            }
        }
    }

    /// Looks at mapped files, by the text alone: following `map_files` requires a capability.
    fn maps(&mut self) {
        let text = self.noted(read_at(&self.dir, "maps")).unwrap_or_default();
        for line in text.split(|&b| b == b'\n') {
            if let Some((device, inode, path)) = mapped(line)
                && let Some(path) = path_below(path, &self.scanner.root_in_maps)
                && !self.has(&path)
                && self.uses.len() < USES
            {
                let here = self.is_here();
                // Overlayfs may show the device number of a layer.
                let is_it = |now: Seen| now.id.ino == inode;
                if self.scanner.devices.contains(&device) || here && look_at(CWD, path.as_path()).is_ok_and(is_it) {
                    self.elsewhere |= !here;
                    self.add(UseKind::Map, path);
                }
            }
        }
    }

    fn add(&mut self, kind: UseKind, path: PathBuf) {
        self.uses.push(Use { kind, path });
    }

    /// Adds a use, unless another one of this path is known.
    fn add_path(&mut self, kind: UseKind, path: PathBuf) {
        if !self.has(&path) {
            self.add(kind, path);
        }
    }

    /// Returns whether a use of this path is known.
    fn has(&self, path: &Path) -> bool {
        self.uses.iter().any(|u| u.path == path)
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
        self.noted(numbers(&self.dir, name)).unwrap_or_default()
    }

    /// Returns the value, or notes why there is none. What has ended in the meantime is ignored.
    fn noted<T>(&mut self, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(seen) => return Some(seen),
            Err(e) if is_ours(e) => self.failed = Some(e),
            Err(e) => self.denied |= !is_gone(e),
        }
        None
    }
}

/// Returns whether an error of `/proc` means that the process, or this part of it, does not exist any more.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

/// Returns whether an error means that we ran out of a resource, or were interrupted. It has nothing to do with the process,
/// and ignoring it would hide processes.
pub(super) fn is_ours(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR)
}

/// Returns the value, or `None` for an error of the process; fails with one of ours.
pub(super) fn unless_ours<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(e) if is_ours(e) => Err(e),
        result => Ok(result.ok()),
    }
}

/// Opens the directory of a thread that still lives when the first one has ended.
fn living_thread(process: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    for tid in numbers::<u32>(process, "task")? {
        let looked = || {
            let thread = open_dir(process, &format!("task/{tid}"))?;
            Ok((read_at(&thread, "stat")?, thread))
        };
        if let Some((stat, thread)) = unless_ours(looked())?
            && Stat::parse(&stat).is_some_and(|s| !s.is_over())
        {
            return Ok(Some(thread));
        }
    }
    Ok(None)
}
