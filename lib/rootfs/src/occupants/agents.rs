//! Agents of GnuPG that run outside of the root and serve the root's keyring.
//!
//! Such an agent has nothing open in the root, and yet its sockets keep the mount busy. Its name alone says nothing: the
//! user's own agents have the same. So it must be bound to this very keyring, by a socket that listens there, or by the
//! directory that it was started for.

use super::proc::{Seen, look_at};
use super::process::is_ours;
use crate::root::{RootId, open_below};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where pacman keeps its keyring, below a root.
pub const KEYRING: &str = "etc/pacman.d/gnupg";

/// The programs of GnuPG that stay and listen.
const AGENTS: [&str; 4] = ["gpg-agent", "dirmngr", "scdaemon", "keyboxd"];

/// Returns whether a process of this name may be an agent.
pub(super) fn is_agent(comm: &str) -> bool {
    AGENTS.contains(&comm)
}

/// Returns the root's keyring directory. Where it is a symbolic link, or cannot be reached, there is none.
///
/// # Errors
///
/// [`is_ours`]: then there may be one.
pub(super) fn keyring_of(root: &Path) -> Result<Option<RootId>, Errno> {
    let look = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty())?;
        let keyring = open_below(root.as_fd(), KEYRING, flags)?;
        Ok(look_at(&keyring, "")?.id)
    };
    match look() {
        Err(e) if is_ours(e) => Err(e),
        looked => Ok(looked.ok()),
    }
}

/// Returns whether an agent was started for this keyring: `--homedir` of its command line is that directory, as the
/// process whose directory of `/proc` is `process` sees it. `as_ours` says whether its absolute paths mean what ours do.
pub(super) fn was_started_for(
    keyring: RootId,
    process: &OwnedFd,
    cmdline: &[u8],
    as_ours: bool,
) -> bool {
    let leads_there = |seen: Result<Seen, _>| seen.is_ok_and(|seen| seen.id == keyring);
    match homedir(cmdline) {
        Some([]) | None => false,
        Some(path @ [b'/', ..]) => as_ours && leads_there(look_at(CWD, path)),
        Some(path) => leads_there(look_at(process, [b"cwd/", path].concat())),
    }
}

/// Returns the value of `--homedir`. GnuPG takes the last one.
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
        assert_eq!(keyring_of(&root), Ok(None));
        let keyring = root.join(KEYRING);
        std::fs::create_dir_all(&keyring).unwrap();
        let seen = look_at(CWD, keyring.as_path()).unwrap();
        assert_eq!(keyring_of(&root), Ok(Some(seen.id)));
        std::fs::remove_dir(&keyring).unwrap();
        std::os::unix::fs::symlink("/etc", &keyring).unwrap();
        assert_eq!(keyring_of(&root), Ok(None));
    }
}
