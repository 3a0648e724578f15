//! Agents of GnuPG that run outside of the root and serve the root's keyring.
//!
//! Such an agent has nothing open in the root, but its sockets keep the mount busy. Its name proves nothing: the user's own
//! agents have the same. So it must be bound to this very keyring: by a socket that listens on a file there, or by the
//! watch that gpg-agent has on its home. The directory on its command line is a name, which may have led elsewhere when it
//! was started: an agent with no more than that is reported, and not ended.

use super::diag;
use super::proc::{Seen, look_at, open_dir, open_path, read_at};
use super::process::unless_ours;
use crate::mountinfo::Mount;
use crate::root::{RootId, open_below, open_within};
use rustix::fs::{AtFlags, CWD, Dir, FileType, OFlags, statat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where pacman keeps its keyring, below a root.
pub const KEYRING: &str = "etc/pacman.d/gnupg";

/// The daemons of GnuPG.
const AGENTS: [&str; 4] = ["gpg-agent", "dirmngr", "scdaemon", "keyboxd"];

/// Returns whether a process of this name may be an agent.
pub(super) fn is_agent(comm: &str) -> bool {
    AGENTS.contains(&comm)
}

/// The root's keyring, as agents are bound to it.
pub(super) struct Home {
    pub(super) id: RootId,
    /// The device of its file system, as unix_diag has it.
    dev: u32,
    /// The inode numbers of the sockets that listen on a file in it.
    pub(super) sockets: HashSet<u64>,
}

impl Home {
    /// Looks at the root's keyring. Returns `None` when it is a symbolic link, or cannot be opened.
    ///
    /// # Errors
    ///
    /// Those that [`unless_ours`] returns: then there may be one.
    pub(super) fn of(root: &Path, mounts: &[Mount]) -> Result<Option<Self>, Errno> {
        unless_ours(Self::look(root, mounts))
    }

    fn look(root: &Path, mounts: &[Mount]) -> Result<Self, Errno> {
        let root = open_path(CWD, root)?;
        let keyring = open_below(root.as_fd(), KEYRING, OFlags::PATH | OFlags::DIRECTORY)?;
        let seen = look_at(&keyring, "")?;
        let (major, minor) = seen.device(mounts);
        // The kernel's internal form.
        let dev = major << 20 | minor;
        // Without permission to read it, no agent can be proven to serve it.
        let files = unless_ours(open_dir(&keyring, ".").and_then(|d| sockets_in(&d)))?.unwrap_or_default();
        let mut sockets = HashSet::new();
        if !files.is_empty() {
            let here = diag::listening()?.into_iter().filter(|b| b.dev == dev && files.contains(&b.ino));
            sockets.extend(here.map(|b| b.socket));
        }
        Ok(Self { id: seen.id, dev, sockets })
    }

    /// Returns whether an agent was started for this keyring: `--homedir` of its command line leads there, as seen by the
    /// process whose directory of `/proc` is `process`.
    pub(super) fn is_named_by(&self, process: &OwnedFd, cmdline: &[u8]) -> bool {
        let leads_there = |seen: Result<Seen, _>| seen.is_ok_and(|seen| seen.id == self.id);
        match homedir(cmdline) {
            Some([]) | None => false,
            Some(path @ [b'/', ..]) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let within = open_path(process, "root").and_then(|root| open_within(root.as_fd(), path, flags));
                leads_there(within.and_then(|home| look_at(&home, "")))
                    // If we may not see its root, it is likely ours, and we may not end the process either.
                    || leads_there(look_at(CWD, path)) && look_at(process, "root").is_err()
            }
            Some(path) => leads_there(look_at(process, [b"cwd/", path].concat())),
        }
    }

    /// Returns whether a descriptor of a process watches this directory: gpg-agent ends when its home is removed. See
    /// proc_pid_fdinfo(5).
    pub(super) fn is_watched_by(&self, process: &OwnedFd, descriptor: u32) -> bool {
        let text = read_at(process, &format!("fdinfo/{descriptor}")).unwrap_or_default();
        let is_it = |line: &str| {
            let field = |key: &str| {
                let word = line.split(' ').find_map(|word| word.strip_prefix(key))?;
                u64::from_str_radix(word, 16).ok()
            };
            line.starts_with("inotify ")
                && field("ino:") == Some(self.id.ino)
                && field("sdev:") == Some(u64::from(self.dev))
        };
        String::from_utf8_lossy(&text).lines().any(is_it)
    }
}

/// Returns the lower halves of the inode numbers of the sockets in a directory.
fn sockets_in(directory: &OwnedFd) -> Result<HashSet<u32>, Errno> {
    let mut found = HashSet::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let stat = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
        if let Ok(stat) = stat
            && FileType::from_raw_mode(stat.st_mode) == FileType::Socket
        {
            // unix_diag has no more of it.
            found.insert(stat.st_ino as u32);
        }
    }
    Ok(found)
}

/// Returns the value of the last `--homedir`, which is the one that GnuPG uses.
fn homedir(cmdline: &[u8]) -> Option<&[u8]> {
    let mut arguments = cmdline.split(|&b| b == 0);
    let mut homedir = None;
    while let Some(argument) = arguments.next() {
        if argument == b"--homedir" {
            homedir = arguments.next();
        } else if let Some(value) = argument.strip_prefix(b"--homedir=") {
            homedir = Some(value);
        }
    }
    homedir
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_on_an_agents_command_line() {
        for (cmdline, expected) in [
            ("gpg-agent\0--homedir\0/t/k\0--daemon", Some("/t/k")),
            ("dirmngr\0--homedir=k", Some("k")),
            ("dirmngr\0--homedir=a\0--homedir\0b", Some("b")),
            ("dirmngr\0--homedir=", Some("")),
            ("gpg-agent\0--homedir", None),
            ("gpg-agent\0--homedirs\0/t", None),
            ("", None),
        ] {
            let expected = expected.map(str::as_bytes);
            assert_eq!(homedir(cmdline.as_bytes()), expected, "{cmdline}");
        }
    }

    #[test]
    fn a_keyring_that_is_a_link_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let id = || Home::of(&root, &[]).unwrap().map(|home| home.id);
        assert_eq!(id(), None);
        let keyring = root.join(KEYRING);
        std::fs::create_dir_all(&keyring).unwrap();
        let seen = look_at(CWD, keyring.as_path()).unwrap();
        assert_eq!(id(), Some(seen.id));
        std::fs::remove_dir(&keyring).unwrap();
        std::os::unix::fs::symlink("/etc", &keyring).unwrap();
        assert_eq!(id(), None);
    }
}
