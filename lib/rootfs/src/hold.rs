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

/// A holder of another PID namespace.
const UNSEEN: &str = "a process that cannot be seen from here";

/// How long one that undoes waits for another, in milliseconds.
const PATIENCE: u16 = if cfg!(test) { 1_000 } else { 60_000 };

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
        let Some(holders) = holders(&root)? else {
            return Err(busy(root, UNSEEN.into(), None));
        };
        if want == Want::Alone && holders.iter().any(|h| !h.alone) {
            return Err(named(root, &holders));
        }
        for holder in &holders {
            let Some(process) = process_of(root, holder)? else {
                continue;
            };
            if !wait_for(&process, want).map_err(|f| f.while_doing(doing()))? {
                let pid = holder.pid;
                return Err(busy(root, describe(pid), Some(pid.to_string())));
            }
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

/// Returns a descriptor of the process that holds the lock. None where it does no more: its pid may be another's by now.
///
/// # Errors
///
/// [`Code::Busy`] where it has ended, and left the lock to a process that it started.
fn process_of(root: &Root, holder: &Holder) -> Result<Option<OwnedFd>, Failure> {
    let pid = Pid::from_raw(holder.pid).ok_or(Errno::SRCH);
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let still = holders(root)?.unwrap_or_default().contains(holder);
    match process {
        _ if !still => Ok(None),
        Ok(process) => Ok(Some(process)),
        Err(Errno::SRCH) => {
            let who = format!(
                "a process that process {}, which has ended, started",
                holder.pid
            );
            Err(busy(root, who, None))
        }
        Err(e) => Err(e).doing(Code::Os, || "waiting for its holder"),
    }
}

/// Waits until one that undoes has ended, and returns whether it has. One that undoes is not stopped by a signal: it gives up
/// after [`PATIENCE`], since the holder may be anybody.
fn wait_for(process: &OwnedFd, want: Want) -> Result<bool, Failure> {
    loop {
        let stop = signal::descriptor().filter(|_| want == Want::Share);
        let mut fds = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        fds.extend(stop.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let limit = match want {
            Want::Alone => PollTimeout::from(PATIENCE),
            Want::Share => PollTimeout::NONE,
        };
        match poll(&mut fds, limit) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(Code::Os, || "waiting for its holder"),
        }
        if fds.first().and_then(PollFd::any) == Some(true) {
            return Ok(true);
        }
        if want == Want::Share {
            signal::check()?;
        }
    }
}

/// Returns, in words, who holds a lock of the kernel's on this directory.
#[must_use]
pub fn who(directory: &OwnedFd) -> String {
    match holders(directory) {
        Ok(Some(holders)) if !holders.is_empty() => names(holders.iter().map(|h| h.pid)),
        _ => UNSEEN.to_owned(),
    }
}

/// Returns who holds the lock, by `/proc/locks`. None where somebody does whom it does not show: a process of another PID
/// namespace. An empty list means that it is free again.
fn holders(directory: &impl AsFd) -> Result<Option<Vec<Holder>>, Failure> {
    let text =
        std::fs::read_to_string("/proc/locks").doing(Code::Os, || "reading '/proc/locks'")?;
    let (dev, ino) = locked_as(directory)?;
    let found = parse(&text, dev, ino);
    if found.is_empty() {
        // Nobody any more, or nobody that is shown.
        let again = open_below(directory.as_fd(), "", OFlags::RDONLY | OFlags::DIRECTORY);
        let free = again.is_ok_and(|d| flock(&d, FlockOperation::NonBlockingLockShared).is_ok());
        return Ok(free.then(Vec::new));
    }
    Ok(Some(found))
}

/// Returns the device and inode number by which `/proc/locks` has a directory: the device is the file system's own, which
/// stat(2) does not show for btrfs.
fn locked_as(directory: &impl AsFd) -> Result<((u32, u32), u64), Failure> {
    let doing = || "looking for the holder of a lock";
    let want = StatxFlags::INO | StatxFlags::MNT_ID;
    let seen = statx(directory, "", AtFlags::EMPTY_PATH, want).doing(Code::Os, doing)?;
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
    let pids: Vec<_> = working.iter().map(i32::to_string).collect();
    busy(root, names(working.into_iter()), Some(pids.join(" ")))
}

/// Returns the first few processes, for a message.
fn names(pids: impl ExactSizeIterator<Item = i32>) -> String {
    let more = pids.len().saturating_sub(NAMED);
    let mut names: Vec<_> = pids.take(NAMED).map(describe).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
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
    fn a_strangers_lock_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut stranger = std::process::Command::new("flock")
            .args([".", "sh", "-c", "echo; exec cat"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = std::io::BufReader::new(stranger.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut String::new()).unwrap();
        let failure = take(&root(dir.path()), Want::Alone).unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        let who = format!("{} flock", stranger.id());
        assert!(failure.message.contains(&who), "{failure}");
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
        take(&root(dir.path()), Want::Alone).unwrap();
    }

    #[test]
    fn a_lock_whose_taker_has_ended_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        // flock(1) is killed, and what it started has the lock still.
        let mut script = std::process::Command::new("sh")
            .args(["-c", "exec flock . sh -c 'echo; exec cat'"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = std::io::BufReader::new(script.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut String::new()).unwrap();
        let stdin = script.stdin.take().unwrap();
        script.kill().unwrap();
        script.wait().unwrap();
        // In a namespace of pids `/proc/locks` leaves out who is not in it, and who has ended is in none. The first one's number
        // is PROC_PID_INIT_INO of linux/proc_ns.h.
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let who = match namespace.to_str() {
            Some("pid:[4026531836]") => {
                format!("that process {}, which has ended, started", script.id())
            }
            _ => UNSEEN.to_owned(),
        };
        for want in [Want::Share, Want::Alone] {
            let failure = take(&root(dir.path()), want).unwrap_err();
            assert_eq!(failure.code, Code::Busy);
            assert!(failure.message.contains(&who), "{failure}");
        }
        drop(stdin);
        // It ends, and gives back the lock after its output: this waits for it.
        let directory = std::fs::File::open(dir.path()).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        drop(directory);
        take(&root(dir.path()), Want::Alone).unwrap();
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
