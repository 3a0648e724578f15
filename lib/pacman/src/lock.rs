//! One writer in a root at a time, and a lock that dies with its holder.
//!
//! pacman's own lock, `db.lck`, is a file that stays when pacman is killed, and then stops every later run. So we hold a
//! lock of the kernel's on the database directory (flock(2)); while it is ours, a `db.lck` can only be a stranger's, who
//! is then found in the root, or a dead pacman's, and goes.

use crate::records::{LOCAL, names_in};
use rootfs::{Root, occupants};
use rustix::fs::{AtFlags, FlockOperation, OFlags, flock, renameat, unlinkat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote};
use std::os::fd::OwnedFd;

/// pacman's database directory, below the root.
const DATABASE: &str = "var/lib/pacman";

/// The lock, held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _directory: OwnedFd,
    /// Whether a pacman that was killed had left its own lock: it was somewhere between the download and the last hook.
    pub stale: bool,
}

/// What a stale `db.lck` becomes where it is not this run that repairs: the next one that installs must still learn of it.
const KILLED: &str = "db.lck.killed";

/// What the lock is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To download: what a killed pacman left half installed stays for another to repair.
    Download,
    /// To install, and to repair first what a killed pacman left.
    Install,
}

/// Takes the lock.
///
/// # Errors
///
/// [`Code::Busy`] when another tool, or a pacman, works on the root.
pub fn take(root: &Root, context: &Context, purpose: Purpose) -> Result<Lock, Failure> {
    let path = root.path().join(DATABASE);
    let directory = root
        .open_below(DATABASE, OFlags::RDONLY | OFlags::DIRECTORY)
        .doing(Code::NotFound, || format!("opening {}", quote(&path)))
        .map_err(|f| f.hint("make the skeleton with mkroot"))?;
    let busy = |who: String| {
        Failure::new(Code::Busy, format!("locking {}: {who}", quote(&path)))
            .hint("wait until it has ended, and try again")
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(busy("another tool works on this root".into())),
        Err(e) => return Err(e).doing(Code::Os, || format!("locking {}", quote(&path))),
    }
    let there = |name: &str| {
        let path = format!("{DATABASE}/{name}");
        root.open_below(&path, OFlags::PATH | OFlags::NOFOLLOW)
            .is_ok()
    };
    let locked = there("db.lck");
    let stale = locked || there(KILLED);
    let doing = || format!("removing {}", quote(path.join("db.lck")));
    if locked {
        let scan = occupants::find(root.path(), root.id()?)?;
        if let Some(user) = scan.occupants.first() {
            return Err(busy(format!("{} {} {}", user.pid, user.comm, user.how())));
        }
        // Where nothing is installed, nothing can be half installed.
        if names_in(root, LOCAL)?.is_empty() {
            unlinkat(&directory, "db.lck", AtFlags::empty()).doing(Code::Os, doing)?;
        } else {
            renameat(&directory, "db.lck", &directory, KILLED).doing(Code::Os, doing)?;
        }
        context.warn(format_args!(
            "removed the lock {} of a pacman that is no more",
            quote(path.join("db.lck"))
        ));
    }
    if there(KILLED) && purpose == Purpose::Install {
        unlinkat(&directory, KILLED, AtFlags::empty()).doing(Code::Os, doing)?;
    }
    Ok(Lock {
        _directory: directory,
        stale,
    })
}
