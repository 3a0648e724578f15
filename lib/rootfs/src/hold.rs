//! Locks of the kernel (flock(2)) on a root's directory.
//!
//! Every tool that works on a root holds a shared lock; `reap` and `unmount` take the exclusive one. So an undoing tool
//! never undoes what a running tool has begun, of whichever pipeline: it is refused, and names the tool that holds the lock.
//! Two pipelines that install are kept apart by another lock, on pacman's database.
//!
//! A lock ends with its holder: no process that a tool starts inherits the descriptor.

use crate::occupants::proc::{look_at, open_pidfd};
use crate::occupants::{shorten, text};
use crate::root::{Root, open_below};
use crate::sys::mount_setattr;
use crate::{attach, mountinfo, user};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use stage::signal::{self, Wake, poll_readable};
use stage::{Code, Doing, Failure, quote};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A holder in another PID namespace.
const UNSEEN: &str = "a process that cannot be seen from here";

/// How often `/proc/locks` is read for a lock that it does not show. It is read in parts, by the number of the entry: when one
/// before it goes away in between, an entry is skipped.
const READS: usize = 4;

/// How long an undoing tool waits for another one.
const TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// The lock of a tool that works on a root beside others.
pub(crate) const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;

/// The lock of a tool that undoes something.
pub(crate) const EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;

/// How many holders a message names.
const NAMED: usize = 3;

/// A process that holds the lock.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    exclusive: bool,
}

/// Takes the lock on a root's directory. Waits for an undoing tool, which does not take long. An undoing tool does not wait
/// for others.
///
/// # Errors
///
/// [`Code::Busy`] when a tool works on the root, with its process; [`Code::Interrupted`] when a signal asks a tool that
/// wants a shared lock to stop while it waits.
pub(crate) fn lock(root: &Root, mode: FlockOperation) -> Result<OwnedFd, Failure> {
    let doing = || format!("locking the root {}", quote(root.path()));
    let directory = open(root, mode).map_err(|e| match e {
        Errno::ACCESS | Errno::PERM => Failure::system(Code::Permission, doing(), e),
        _ => Failure::system(Code::Os, doing(), e),
    })?;
    loop {
        match flock(&directory, mode) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        let Some(holders) = holders(&root)? else {
            return Err(busy(root, UNSEEN, &[]));
        };
        let working: Vec<_> = holders.iter().filter(|h| !h.exclusive).map(|h| h.pid).collect();
        if mode == EXCLUSIVE && !working.is_empty() {
            return Err(busy(root, &describe(&working), &working));
        }
        for holder in &holders {
            if let Some(process) = process_of(root, holder)?
                && !wait_for(&process, mode).map_err(|f| f.while_doing(doing()))?
            {
                let pids = [holder.pid];
                return Err(busy(root, &describe(&pids), &pids));
            }
        }
    }
}

/// Opens the directory to lock it. An undoing tool must not keep a mount busy, so it opens the directory by a detached copy
/// of the mount. If that is not permitted, neither is unmounting.
fn open(root: &Root, mode: FlockOperation) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let none = MountAttrFlags::empty();
    if mode == EXCLUSIVE
        && let Ok(copy) = attach::clone_tree(root.as_fd(), "", false)
        && mount_setattr(copy.as_fd(), none, libc::MS_PRIVATE, false).is_ok()
    {
        return open_below(copy.as_fd(), "", flags);
    }
    open_below(root.as_fd(), "", flags)
}

/// Returns a descriptor of the process that holds the lock; `None` if it no longer does, since its pid may be reused.
///
/// # Errors
///
/// [`Code::Busy`] when it has ended and a process that it started has the lock.
fn process_of(root: &Root, holder: &Holder) -> Result<Option<OwnedFd>, Failure> {
    let process = open_pidfd(holder.pid);
    let still = holders(root)?.unwrap_or_default().contains(holder);
    match process {
        _ if !still => Ok(None),
        Ok(process) => Ok(Some(process)),
        Err(Errno::SRCH) => {
            Err(busy(root, &format!("a process that process {}, which has ended, started", holder.pid), &[]))
        }
        Err(e) => Err(e).doing(Code::Os, || "waiting for its holder"),
    }
}

/// Waits until an undoing tool has ended, and returns whether it has. Another undoing tool is not stopped by a signal: it
/// waits for [`TIMEOUT`], since the holder may be any process.
fn wait_for(process: &OwnedFd, mode: FlockOperation) -> Result<bool, Failure> {
    let (timeout, wake) = match mode {
        EXCLUSIVE => (Some(TIMEOUT), Wake::Never),
        _ => (None, Wake::OnSignal),
    };
    loop {
        let ready = poll_readable(&[process.as_fd()], timeout, wake).doing(Code::Os, || "waiting for its holder")?;
        match ready {
            None => return Ok(false),
            Some(ready) if ready[0] => return Ok(true),
            Some(_) if mode == EXCLUSIVE => {}
            Some(_) => signal::check()?,
        }
    }
}

/// Returns, in words, which processes hold a lock of the kernel on this directory.
#[must_use]
pub fn describe_holders(directory: &OwnedFd) -> String {
    match holders(directory) {
        Ok(Some(holders)) if !holders.is_empty() => describe(&holders.iter().map(|h| h.pid).collect::<Vec<_>>()),
        _ => UNSEEN.to_owned(),
    }
}

/// Returns the holders of the lock, by `/proc/locks`. `None` if one is not shown: a process of another PID namespace. An
/// empty list means that the lock is free again.
fn holders(directory: &impl AsFd) -> Result<Option<Vec<Holder>>, Failure> {
    let seen = look_at(directory, "").doing(Code::Os, || "looking for the holder of a lock")?;
    let dev = seen.device(&mountinfo::read()?);
    for _ in 0..READS {
        let text = std::fs::read_to_string("/proc/locks").doing(Code::Os, || "reading '/proc/locks'")?;
        let found = parse(&text, dev, seen.id.ino);
        if !found.is_empty() {
            return Ok(Some(found));
        }
    }
    let again = open_below(directory.as_fd(), "", OFlags::RDONLY | OFlags::DIRECTORY);
    let free = again.is_ok_and(|d| flock(&d, FlockOperation::NonBlockingLockShared).is_ok());
    Ok(free.then(Vec::new))
}

/// Parses `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`. A waiting process has an additional `->`.
fn parse(text: &str, dev: (u32, u32), ino: u64) -> Vec<Holder> {
    let place = format!("{:02x}:{:02x}:{ino}", dev.0, dev.1);
    let one = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, kind, pid, at, ..] if at == place => {
                Some(Holder { pid: pid.parse().ok()?, exclusive: kind == "WRITE" })
            }
            _ => None,
        }
    };
    text.lines().filter_map(one).collect()
}

/// Returns the first few processes for a message, as in `12 strap (user ann), 13 pack (user ann)`.
fn describe(pids: &[i32]) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let one = |pid: &i32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let comm = text::Stat::parse(&read("stat")).map_or_else(|| "?".to_owned(), |stat| stat.comm);
        let user = |uid| user::name_of(&passwd, uid).unwrap_or_else(|| uid.to_string());
        let user = text::uid(&read("status")).map(|uid| format!(" (user {})", user(uid)));
        format!("{pid} {comm}{}", user.unwrap_or_default())
    };
    shorten(pids.iter().map(one), NAMED)
}

/// Returns the failure that names the holder, and how to end these processes.
fn busy(root: &Root, who: &str, pids: &[i32]) -> Failure {
    let root = quote(root.path());
    let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
    let kill = match pids[..] {
        [] => String::new(),
        _ => format!(", or end it with 'kill {}'", pids.join(" ")),
    };
    Failure::new(Code::Busy, format!("locking the root {root}: in use by {who}"))
        .hint(format!("wait until it has ended{kill}, and try again"))
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
        let shares = [SHARED, SHARED].map(|w| lock(&root(dir.path()), w).unwrap());
        let failure = lock(&root(dir.path()), EXCLUSIVE).unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        let pid = std::process::id();
        assert!(failure.message.contains(&format!("in use by {pid} ")), "{failure}");
        assert!(failure.hint.unwrap().contains(&format!("'kill {pid} {pid}'")));
        drop(shares);
        drop(lock(&root(dir.path()), EXCLUSIVE).unwrap());
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
        let failure = lock(&root(dir.path()), EXCLUSIVE).unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        let who = format!("{} flock", stranger.id());
        assert!(failure.message.contains(&who), "{failure}");
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
        lock(&root(dir.path()), EXCLUSIVE).unwrap();
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
        for want in [SHARED, EXCLUSIVE] {
            let failure = lock(&root(dir.path()), want).unwrap_err();
            assert_eq!(failure.code, Code::Busy);
            assert!(failure.message.contains(&who), "{failure}");
        }
        drop(stdin);
        // It ends, and gives back the lock after its output: this waits for it.
        let directory = std::fs::File::open(dir.path()).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        drop(directory);
        lock(&root(dir.path()), EXCLUSIVE).unwrap();
    }

    #[test]
    fn only_locks_of_this_directory_that_are_held() {
        let text = "1: FLOCK  ADVISORY  READ 12 fe:00:77 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 13 fe:00:77 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF\n\
                    3: -> FLOCK  ADVISORY  WRITE 15 fe:00:77 0 EOF\n\
                    4: FLOCK  ADVISORY  READ 16 fe:01:77 0 EOF\n\
                    5: FLOCK  ADVISORY  READ 17 fe:00:777 0 EOF\njunk\n";
        let holder = |pid, exclusive| Holder { pid, exclusive };
        assert_eq!(parse(text, (0xfe, 0), 77), [holder(12, false), holder(14, true)]);
    }
}
