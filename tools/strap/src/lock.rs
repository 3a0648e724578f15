//! One writer in a root at a time, and a lock that dies with its holder.
//!
//! pacman's own lock, `db.lck`, is a file that stays when pacman is killed, and then stops every later run. So we hold a
//! lock of the kernel's on the database directory (flock(2)); while it is ours, a `db.lck` can only be a stranger's, who
//! is then found in the root, or a dead pacman's, and goes.

use rootfs::{Root, occupants};
use rustix::fs::{AtFlags, FlockOperation, OFlags, flock, unlinkat};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, quote};
use std::os::fd::OwnedFd;

/// pacman's database directory, below the root.
const DATABASE: &str = "var/lib/pacman";

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: OwnedFd,
    /// Whether a pacman that was killed had left its own lock: it was somewhere between the download and the last hook.
    pub(crate) stale: bool,
}

/// Takes the lock.
///
/// # Errors
///
/// [`Code::Busy`] when another tool, or a pacman, works on the root.
pub(crate) fn take(root: &Root, context: &Context) -> Result<Lock, Failure> {
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
        Err(Errno::WOULDBLOCK) => return Err(busy("another strap works on this root".into())),
        Err(e) => return Err(e).doing(Code::Os, || format!("locking {}", quote(&path))),
    }
    let stale = root
        .open_below("var/lib/pacman/db.lck", OFlags::PATH | OFlags::NOFOLLOW)
        .is_ok();
    if stale {
        let scan = occupants::find(root.path(), root.id()?)?;
        if let Some(user) = scan.occupants.first() {
            return Err(busy(format!("{} {} {}", user.pid, user.comm, user.how())));
        }
        unlinkat(&directory, "db.lck", AtFlags::empty()).doing(Code::Os, || {
            format!("removing {}", quote(path.join("db.lck")))
        })?;
        context.warn(format_args!(
            "removed the lock {} of a pacman that is no more",
            quote(path.join("db.lck"))
        ));
    }
    Ok(Lock {
        _directory: directory,
        stale,
    })
}
