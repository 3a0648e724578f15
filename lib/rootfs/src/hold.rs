//! Whose a root is at the moment: locks of the kernel's (flock(2)) on its directory.
//!
//! Every tool that works on a root holds a share of the lock while it does; `reap` and `unmount` take it alone. So who
//! undoes never undoes what a living tool has begun, whichever pipeline that is of: it is refused, and told who has it.
//! Two pipelines that install are kept apart by another lock, on pacman's database.
//!
//! A lock dies with its holder: no process that a tool starts inherits the descriptor.

use crate::mountinfo;
use crate::occupants::text::{Stat, user_name};
use crate::root::{Root, open_below};
use crate::sys::mount_setattr;
use crate::{attach, occupants};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, FlockOperation, OFlags, StatxFlags, flock, statx};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stage::{Code, Doing, Failure, quote, signal};
use std::os::fd::{AsFd, OwnedFd};

/// How many holders a message names.
const NAMED: usize = 3;

/// What a root's lock is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// To work on the root beside others.
    Share,
    /// To undo.
    Alone,
}

/// One who holds the lock.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    alone: bool,
}

/// Takes the lock on a root's directory.
///
/// Who undoes is waited for: it does not take long. Who works is not waited for by one that undoes.
///
/// # Errors
///
/// [`Code::Busy`] where a tool works on the root, with its process; [`Code::Interrupted`] when a signal asks one that
/// wants a share to stop while it waits.
pub(crate) fn take(root: &Root, want: Want) -> Result<OwnedFd, Failure> {
    let doing = || format!("locking the root {}", quote(root.path()));
    let directory = open(root, want).map_err(|e| {
        let code = match e {
            Errno::ACCESS | Errno::PERM => Code::Permission,
            _ => Code::Os,
        };
        Failure::new(code, format!("{}: {e}", doing()))
    })?;
    let operation = match want {
        Want::Share => FlockOperation::NonBlockingLockShared,
        Want::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match flock(&directory, operation) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        let Some(holders) = holders(root)? else {
            return Err(busy(
                root,
                "a process that cannot be seen from here".into(),
                None,
            ));
        };
        if want == Want::Alone && holders.iter().any(|h| !h.alone) {
            return Err(named(root, &holders));
        }
        for holder in &holders {
            wait_for(holder.pid, want).map_err(|f| f.while_doing(doing()))?;
        }
    }
}

/// Opens the directory to lock it. One that undoes must keep no mount busy: a detached copy of the mount leads to the same
/// directory, and is on no mount of ours. Who may not make one may not unmount anything either.
fn open(root: &Root, want: Want) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if want == Want::Alone
        && let Ok(copy) = attach::clone_tree(root.as_fd(), "", false)
        && mount_setattr(copy.as_fd(), 0, libc::MS_PRIVATE, false).is_ok()
    {
        return open_below(copy.as_fd(), "", flags);
    }
    open_below(root.as_fd(), "", flags)
}

/// Waits until one that undoes has ended.
fn wait_for(pid: i32, want: Want) -> Result<(), Failure> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(()),
        Err(e) => return Err(e).doing(Code::Os, || "waiting for its holder"),
    };
    loop {
        // One that undoes is not stopped by a signal.
        let stop = signal::descriptor().filter(|_| want == Want::Share);
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(stop.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(Code::Os, || "waiting for its holder"),
        }
        if fds.first().and_then(PollFd::any) == Some(true) {
            return Ok(());
        }
        if want == Want::Share {
            signal::check()?;
        }
    }
}

/// Returns who holds the lock, by `/proc/locks`. None where somebody does whom it does not show: a process of another PID
/// namespace. An empty list means that it is free again.
fn holders(root: &Root) -> Result<Option<Vec<Holder>>, Failure> {
    let text =
        std::fs::read_to_string("/proc/locks").doing(Code::Os, || "reading '/proc/locks'")?;
    let (dev, ino) = locked_as(root)?;
    let found = parse(&text, dev, ino);
    if found.is_empty() {
        // Nobody any more, or nobody that is shown.
        let directory = open_below(root.as_fd(), "", OFlags::RDONLY | OFlags::DIRECTORY);
        let free =
            directory.is_ok_and(|d| flock(&d, FlockOperation::NonBlockingLockShared).is_ok());
        return Ok(free.then(Vec::new));
    }
    Ok(Some(found))
}

/// Returns the device and inode number by which `/proc/locks` has the root: the device is the file system's own, which
/// stat(2) does not show for btrfs.
fn locked_as(root: &Root) -> Result<((u32, u32), u64), Failure> {
    let doing = || format!("reading what {} is", quote(root.path()));
    let want = StatxFlags::INO | StatxFlags::MNT_ID;
    let seen = statx(root.as_fd(), "", AtFlags::EMPTY_PATH, want).doing(Code::Os, doing)?;
    let mounts = mountinfo::read()?;
    let mount = mounts.iter().find(|m| m.id == seen.stx_mnt_id);
    let dev = mount.map_or((seen.stx_dev_major, seen.stx_dev_minor), |m| m.dev);
    Ok((dev, seen.stx_ino))
}

/// Parses `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`. Who waits has a `->` more.
fn parse(text: &str, dev: (u32, u32), ino: u64) -> Vec<Holder> {
    let place = format!("{:02x}:{:02x}:{ino}", dev.0, dev.1);
    let one = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, kind, pid, at, ..] if at == place => Some(Holder {
                pid: pid.parse().ok()?,
                alone: kind == "WRITE",
            }),
            _ => None,
        }
    };
    text.lines().filter_map(one).collect()
}

/// Returns the failure that names those who work on the root.
fn named(root: &Root, holders: &[Holder]) -> Failure {
    let working: Vec<_> = holders.iter().filter(|h| !h.alone).map(|h| h.pid).collect();
    let mut names: Vec<_> = working
        .iter()
        .take(NAMED)
        .map(|pid| describe(*pid))
        .collect();
    if working.len() > NAMED {
        names.push(format!("{} more", working.len() - NAMED));
    }
    let pids: Vec<_> = working.iter().map(i32::to_string).collect();
    busy(root, names.join(", "), Some(pids.join(" ")))
}

fn busy(root: &Root, who: String, pids: Option<String>) -> Failure {
    let failure = Failure::new(
        Code::Busy,
        format!("locking the root {}: in use by {who}", quote(root.path())),
    );
    match pids {
        Some(pids) => failure.hint(format!(
            "wait until it has ended, or end it with 'kill {pids}', and try again"
        )),
        None => failure.hint("wait until it has ended, and try again"),
    }
}

/// Returns a process for a message, as in `12 strap (user ann)`.
fn describe(pid: i32) -> String {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let comm = Stat::parse(&read("stat")).map_or_else(|| "?".to_owned(), |stat| stat.comm);
    let Some(uid) = occupants::text::uid(&read("status")) else {
        return format!("{pid} {comm}");
    };
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let user = user_name(&passwd, uid).unwrap_or_else(|| uid.to_string());
    format!("{pid} {comm} (user {user})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn root(path: &Path) -> Root {
        Root::open(&path.canonicalize().unwrap()).unwrap()
    }

    #[test]
    fn who_undoes_is_refused_while_one_works_and_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let shares = [Want::Share, Want::Share].map(|w| take(&root(dir.path()), w).unwrap());
        let failure = take(&root(dir.path()), Want::Alone).unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        let pid = std::process::id();
        assert!(
            failure.message.contains(&format!("in use by {pid} ")),
            "{failure}"
        );
        assert!(
            failure
                .hint
                .unwrap()
                .contains(&format!("'kill {pid} {pid}'"))
        );
        drop(shares);
        drop(take(&root(dir.path()), Want::Alone).unwrap());
    }

    #[test]
    fn only_locks_of_this_directory_that_are_held() {
        let text = "1: FLOCK  ADVISORY  READ 12 fe:00:77 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 13 fe:00:77 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF\n\
                    3: -> FLOCK  ADVISORY  WRITE 15 fe:00:77 0 EOF\n\
                    4: FLOCK  ADVISORY  READ 16 fe:01:77 0 EOF\n\
                    5: FLOCK  ADVISORY  READ 17 fe:00:777 0 EOF\njunk\n";
        let holder = |pid, alone| Holder { pid, alone };
        assert_eq!(
            parse(text, (0xfe, 0), 77),
            [holder(12, false), holder(14, true)]
        );
    }
}
