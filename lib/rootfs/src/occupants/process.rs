//! One process, and how it uses the root.
//!
//! A link of `/proc` has a text and a target. The text is a name: the directory that it means now may be another one, which
//! was mounted over that of the process, or made after it was removed. So the target is opened, and of a directory every one
//! above it is compared with the root by device and inode number: that is how a process is known to live there. The text
//! only says, since that is cheap, whether a working directory or an open file is worth a look. Of a file nothing leads
//! upwards: it is the one that its name leads to now, or on a mount that is seen there; who has no more than such a file
//! open is named, and never ended.

use super::proc::{Seen, is_below, look_at, numbers, open_dir, open_path, read_at};
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
        if let Some(path) = self.link("cwd") {
            self.uses.push(Use::Cwd(path));
        }
        if let Some(path) = self.link("exe") {
            self.uses.push(Use::Exe(path));
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
                let path = self
                    .text_below("root")
                    .filter(|_| seen.id != self.scanner.id);
                let path = path.unwrap_or_else(|| self.scanner.root.clone());
                self.uses.push(Use::Root(path));
            }
            Ok(false) => {}
            Err(e) => {
                let path = self.text_below("root");
                self.uses.extend(path.map(Use::Root));
                self.noted::<()>(Err(e));
            }
        }
    }

    /// Returns the text of a link where it says that it leads to the root, or below it.
    fn text_below(&mut self, name: &str) -> Option<PathBuf> {
        let text = readlinkat(&self.dir, name, Vec::new());
        let text = self.noted(text)?;
        path_below(text.as_bytes(), &self.scanner.root)
    }

    /// Follows a link where its text says that it leads to the root. Returns where to, unless that is another place of that
    /// name.
    fn link(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.text_below(name)?;
        let seen = look_at(&self.dir, name);
        let seen = self.noted(seen)?;
        let here = match seen.mount {
            Some(mount) => self.scanner.mounts.contains(&mount),
            None => self.is_here(),
        };
        let leads_there = match open_path(&self.dir, name) {
            Ok(directory) => is_below(&directory, self.scanner.id, &self.scanner.parents),
            Err(Errno::NOTDIR) => Ok(self.is_file_there(&path, seen, here)),
            Err(e) => Err(e),
        };
        // What we may not look at is named.
        if !self.noted(leads_there).unwrap_or(true) {
            return None;
        }
        self.elsewhere |= !here;
        Some(path)
    }

    /// Returns whether a file that has a name below the root is there: it is the one that the name leads to now, or, where
    /// its name is gone, on a mount that is seen there.
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
        // The kernel keeps a socket's name as bind(2) got it: it means something to us only with our root.
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
                if same_names
                    && let Some((path, _)) = self.scanner.sockets.get(&inode)
                    && !self.has(path)
                {
                    self.uses.push(Use::Socket(path.clone()));
                }
            } else if is_agent && text.as_bytes() == b"anon_inode:inotify" {
                serves |= keyring.is_some_and(|k| k.is_watched_by(&self.dir, n));
            } else if path_below(text.as_bytes(), &self.scanner.root).is_some()
                && let Some(path) = self.link(&link)
            {
                self.uses.push(Use::Fd(n, path));
            }
        }
        serves
    }

    /// Decides whether an agent of GnuPG serves the root's keyring from outside: `proven` says that it is bound to it. One
    /// in another mount namespace is another's, and is named.
    fn agent(&mut self, proven: bool) {
        let Some(keyring) = &self.scanner.keyring else {
            return;
        };
        let cmdline = self.cmdline();
        if !proven && !keyring.is_named_by(&self.dir, &cmdline) {
            return;
        }
        let here = self.is_here();
        self.lives |= proven && here;
        // Where we may not ask, it is not said.
        self.elsewhere |= !here && look_at(&self.dir, "ns/mnt").is_ok();
        let keyring = self.scanner.root.join(KEYRING);
        self.uses.push(Use::Keyring(keyring));
    }

    /// Looks at threads that have directories of their own (`unshare(CLONE_FS)`).
    fn threads(&mut self) {
        for tid in self.numbers::<i32>("task") {
            for name in ["cwd", "root"] {
                if let Some(path) = self.link(&format!("task/{tid}/{name}"))
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
            let Some((device, inode, path)) = mapped(line) else {
                continue;
            };
            let Some(path) = path_below(path, &self.scanner.root_in_maps) else {
                continue;
            };
            if self.has(&path) || self.uses.len() >= USES {
                continue;
            }
            let here = self.is_here();
            // Overlayfs may show the device of a layer.
            let is_it = |now: Seen| now.id.ino == inode;
            let there = self.scanner.devices.contains(&device)
                || here && look_at(CWD, path.as_path()).is_ok_and(is_it);
            if !there {
                continue;
            }
            self.elsewhere |= !here;
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
