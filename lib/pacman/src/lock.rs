//! One writer in a root at a time, and a lock that ends with its holder.
//!
//! pacman's own lock, `db.lck`, is a file that stays when pacman is killed, and then stops every later run. So we hold a
//! lock of the kernel's on the database directory (flock(2)); while we hold it, a `db.lck` can only belong to a pacman that others
//! started, which is then found in the root, or to one that was killed, and is removed.

use crate::records::{LOCAL, if_exists, names_in};
use rootfs::occupants::{self, Use, UseKind};
use rootfs::{Root, hold};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote};
use std::os::fd::OwnedFd;

/// pacman's database directory, below the root.
const DATABASE: &str = "var/lib/pacman";

/// The lock, held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _directory: OwnedFd,
    /// Whether a pacman that was killed left its own lock: it was somewhere between the download and the last hook.
    pub stale: bool,
}

/// What a stale `db.lck` is renamed to: the next run that installs repairs the root.
const KILLED: &str = "db.lck.killed";

/// What the lock is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To download: what a killed pacman left incomplete stays for another run to repair.
    Download,
    /// To install, and to repair first what a killed pacman left.
    Install,
}

/// What libalpm makes first in the database of installed packages.
const VERSION: &str = "ALPM_DB_VERSION";

/// Takes the lock.
///
/// # Errors
///
/// [`Code::Busy`] when another tool, or a pacman, works on the root.
pub fn take(root: &Root, context: &Context, purpose: Purpose) -> Result<Lock, Failure> {
    let directory = flock_database(root, FlockOperation::NonBlockingLockExclusive)?;
    let lock = root.path().join(DATABASE).join("db.lck");
    let locked = is_there(root, "db.lck")?;
    let stale = locked || is_there(root, KILLED)?;
    let doing = || format!("removing {}", quote(&lock));
    if locked {
        let scan = occupants::find(root.path(), root.id()?)?;
        // A pacman has its lock open until it has ended, or runs in the root. A process that merely uses the root has no lock.
        let may_hold = |used: &Use| used.kind == UseKind::Root || used.path == lock;
        let mut others = scan.occupants.iter();
        if let Some(user) = others.find(|occupant| occupant.uses.iter().any(may_hold)) {
            return Err(busy(root, format_args!("{} {} {}", user.pid, user.comm, user.how())));
        }
        // Where nothing is installed, nothing can be incomplete.
        let removed = match names_in(root, LOCAL)?.iter().all(|name| name == VERSION) {
            true => unlinkat(&directory, "db.lck", AtFlags::empty()),
            false => renameat(&directory, "db.lck", &directory, KILLED),
        };
        removed.doing(Code::Os, doing)?;
        context.warn(format_args!("removed the stale lock {} of a pacman that was killed", quote(&lock)));
    }
    remove_empty_version(root)?;
    if purpose == Purpose::Install && is_there(root, KILLED)? {
        unlinkat(&directory, KILLED, AtFlags::empty()).doing(Code::Os, doing)?;
    }
    Ok(Lock { _directory: directory, stale })
}

/// Takes a share of the lock, for a tool that only reads: several may, and none that installs.
///
/// # Errors
///
/// [`Code::Busy`] when a tool that installs works on the root.
pub fn share(root: &Root) -> Result<OwnedFd, Failure> {
    flock_database(root, FlockOperation::NonBlockingLockShared)
}

fn flock_database(root: &Root, operation: FlockOperation) -> Result<OwnedFd, Failure> {
    let directory = open(root)?;
    match flock(&directory, operation) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => {
            let who = hold::describe_holders(&directory);
            Err(busy(root, format_args!("another tool works on this root: {who}")))
        }
        Err(e) => Err(e).doing(Code::Os, || locking(root)),
    }
}

fn locking(root: &Root) -> String {
    format!("locking {}", quote(root.path().join(DATABASE)))
}

fn busy(root: &Root, who: std::fmt::Arguments<'_>) -> Failure {
    Failure::new(Code::Busy, format!("{}: {who}", locking(root))).hint("wait until it has ended, and try again")
}

/// Refuses a root in which a pacman was killed, or works without our lock: what it installed may be incomplete. For a tool that
/// copies the root, under a share of the lock.
///
/// # Errors
///
/// [`Code::Failed`], with what repairs it.
pub fn refuse_unfinished(root: &Root, doing: &str) -> Result<(), Failure> {
    for name in ["db.lck", KILLED] {
        if is_there(root, name)? {
            let path = quote(root.path().join(DATABASE).join(name));
            let message = format!("{doing}: {path} exists: a pacman works in the root, or was killed there");
            let hint = "run strap again: it repairs what a killed pacman left";
            return Err(Failure::new(Code::Failed, message).hint(hint));
        }
    }
    Ok(())
}

/// Marks the last transaction for repair by the next run that installs, as if its pacman had been killed: it says that it is
/// complete, and is not.
///
/// # Errors
///
/// When the mark cannot be written.
pub fn mark_incomplete(root: &Root) -> Result<(), Failure> {
    let doing = || format!("making {}", quote(root.path().join(DATABASE).join(KILLED)));
    let directory = open(root)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&directory, KILLED, flags, Mode::from_raw_mode(0o644)).doing(Code::Os, doing)?;
    fsync(&file).and_then(|()| fsync(&directory)).doing(Code::Os, doing)
}

/// Returns whether this name exists in the database directory.
fn is_there(root: &Root, name: &str) -> Result<bool, Failure> {
    let below = format!("{DATABASE}/{name}");
    let opened = if_exists(root.open_below(&below, OFlags::PATH | OFlags::NOFOLLOW));
    Ok(opened.doing(Code::Os, || format!("opening {}", quote(root.path().join(below))))?.is_some())
}

/// Opens the database directory.
fn open(root: &Root) -> Result<OwnedFd, Failure> {
    let path = root.path().join(DATABASE);
    root.open_below(DATABASE, OFlags::RDONLY | OFlags::DIRECTORY)
        .doing(Code::NotFound, || format!("opening {}", quote(&path)))
        .map_err(|f| f.hint("make the skeleton with mkroot"))
}

/// Removes the database's version file if it is empty, as pacman was killed before it wrote it: every later one would say
/// "database is incorrect version" and end. libalpm makes it again if there is nothing else.
fn remove_empty_version(root: &Root) -> Result<(), Failure> {
    let doing = || format!("removing {}", quote(root.path().join(LOCAL).join(VERSION)));
    let empty = root.read(&format!("{LOCAL}/{VERSION}"), 64).is_ok_and(|text| text.is_empty());
    if !empty || names_in(root, LOCAL)? != [VERSION] {
        return Ok(());
    }
    root.open_below(LOCAL, OFlags::RDONLY | OFlags::DIRECTORY)
        .and_then(|local| unlinkat(&local, VERSION, AtFlags::empty()))
        .doing(Code::Os, doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A process that another test starts has a copy of our descriptors until it has called execve(2).
    fn take_free(root: &Root, purpose: Purpose) -> Lock {
        loop {
            match take(root, &Context::new("strap", true), purpose) {
                Err(busy) if busy.code == Code::Busy => std::thread::yield_now(),
                taken => return taken.unwrap(),
            }
        }
    }

    #[test]
    fn an_empty_version_is_removed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let local = path.join(LOCAL);
        fs::create_dir_all(&local).unwrap();
        let root = Root::open(&path).unwrap();
        let left = |text: &str| {
            fs::write(local.join(VERSION), text).unwrap();
            drop(take_free(&root, Purpose::Download));
            local.join(VERSION).exists()
        };
        assert!(left("9\n"));
        assert!(!left(""));
        fs::create_dir(local.join("bash-5-1")).unwrap();
        assert!(left(""), "where there are packages, it is not ours to remove");
    }

    #[test]
    fn readers_share_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join(LOCAL)).unwrap();
        let root = Root::open(&path).unwrap();
        let context = Context::new("strap", true);
        let shares = [share(&root).unwrap(), share(&root).unwrap()];
        let busy = take(&root, &context, Purpose::Download).unwrap_err();
        assert_eq!(busy.code, Code::Busy);
        drop(shares);
        let taken = take_free(&root, Purpose::Download);
        assert_eq!(share(&root).unwrap_err().code, Code::Busy);
        drop(taken);
        refuse_unfinished(&root, "packing").unwrap();
        for name in ["db.lck", KILLED] {
            let lock = path.join(DATABASE).join(name);
            fs::write(&lock, "").unwrap();
            refuse_unfinished(&root, "packing").unwrap_err();
            fs::remove_file(lock).unwrap();
        }
    }

    #[test]
    fn the_next_run_that_installs_repairs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let local = path.join(LOCAL);
        fs::create_dir_all(&local).unwrap();
        fs::write(local.join(VERSION), "9\n").unwrap();
        let root = Root::open(&path).unwrap();
        let lock = path.join(DATABASE).join("db.lck");
        let stale = |purpose| take_free(&root, purpose).stale;
        fs::write(&lock, "").unwrap();
        assert!(stale(Purpose::Download));
        assert!(!stale(Purpose::Install), "nothing could be incomplete");
        fs::create_dir(local.join("bash-5-1")).unwrap();
        fs::write(&lock, "").unwrap();
        assert!(stale(Purpose::Download) && stale(Purpose::Download));
        assert!(stale(Purpose::Install) && !stale(Purpose::Install));
        assert!(!lock.exists() && !path.join(DATABASE).join(KILLED).exists());
    }
}
