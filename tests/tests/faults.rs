//! What can go wrong with which system call. A fault is one that the kernel may answer with, by the call's man page or by
//! what is below it (a full disk, a broken one, a limit).

use crate::supervisor::Call;
use nix::errno::Errno;

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails with this error, and does nothing.
    Error(Errno),
    /// Its process is killed before it.
    Kill,
    /// The tool is killed before it, and the call, another process's, happens.
    KillTool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(errno) => write!(f, "{errno:?}"),
            Self::Kill => write!(f, "SIGKILL"),
            Self::KillTool => write!(f, "SIGKILL of the tool"),
        }
    }
}

/// Which argument says what a call is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// A path.
    Path(usize),
    /// A descriptor.
    Descriptor(usize),
    /// None does.
    None,
}

/// A kind of call, with what it fails with.
struct Kind {
    subject: Subject,
    names: &'static [&'static str],
    errors: &'static [Errno],
}

use Errno::{EAGAIN, EBUSY, EINTR, EIO, EMFILE, ENOLCK, ENOMEM, ENOSPC, EPERM};
use Subject::{Descriptor, Path};

/// Every call that changes something, takes a descriptor, or waits.
const KINDS: &[Kind] = &[
    Kind {
        subject: Path(1),
        names: &["openat", "openat2"],
        // ENOSPC where it makes a file: see `errors`.
        errors: &[EMFILE, EIO, EINTR],
    },
    Kind { subject: Path(0), names: &["open", "creat"], errors: &[EMFILE, EIO, EINTR] },
    Kind { subject: Path(1), names: &["mkdirat", "mknodat"], errors: &[ENOSPC, EIO] },
    Kind { subject: Path(0), names: &["mkdir", "mknod", "link", "symlink", "rename"], errors: &[ENOSPC, EIO] },
    Kind { subject: Path(3), names: &["linkat", "renameat", "renameat2"], errors: &[ENOSPC, EIO] },
    Kind { subject: Path(2), names: &["symlinkat"], errors: &[ENOSPC, EIO] },
    Kind { subject: Path(1), names: &["unlinkat", "fchmodat", "fchmodat2", "fchownat", "utimensat"], errors: &[EIO] },
    Kind { subject: Path(0), names: &["unlink", "rmdir", "chmod", "chown", "lchown", "truncate"], errors: &[EIO] },
    Kind {
        subject: Descriptor(0),
        names: &["fchmod", "fchown", "ftruncate", "fallocate", "getdents64"],
        errors: &[EIO],
    },
    Kind { subject: Descriptor(0), names: &["fsync", "fdatasync", "syncfs"], errors: &[EIO] },
    Kind {
        subject: Descriptor(0),
        names: &["write", "pwrite64", "writev", "sendto", "sendmsg"],
        errors: &[ENOSPC, EIO, EINTR],
    },
    Kind { subject: Descriptor(0), names: &["read", "pread64", "readv", "recvfrom", "recvmsg"], errors: &[EIO, EINTR] },
    Kind { subject: Descriptor(2), names: &["copy_file_range"], errors: &[ENOSPC, EIO] },
    Kind { subject: Descriptor(0), names: &["sendfile"], errors: &[ENOSPC, EIO] },
    Kind { subject: Path(1), names: &["mount", "open_tree"], errors: &[ENOMEM, EPERM] },
    Kind { subject: Path(0), names: &["umount2"], errors: &[ENOMEM, EBUSY] },
    Kind { subject: Path(0), names: &["fsopen"], errors: &[ENOMEM, EMFILE] },
    Kind { subject: Descriptor(0), names: &["fsmount", "fsconfig", "mount_setattr", "fchdir"], errors: &[ENOMEM] },
    Kind { subject: Descriptor(2), names: &["move_mount"], errors: &[ENOMEM] },
    Kind { subject: Path(0), names: &["chroot", "chdir", "execve", "pivot_root"], errors: &[ENOMEM, EIO] },
    Kind { subject: Path(1), names: &["execveat"], errors: &[ENOMEM, EIO] },
    Kind { subject: Subject::None, names: &["clone", "clone3", "fork", "vfork", "unshare"], errors: &[ENOMEM, EAGAIN] },
    Kind { subject: Descriptor(0), names: &["setns"], errors: &[ENOMEM] },
    Kind { subject: Subject::None, names: &["setresuid", "setresgid", "setgroups", "setsid"], errors: &[EPERM] },
    Kind { subject: Descriptor(0), names: &["pidfd_send_signal"], errors: &[EPERM] },
    Kind { subject: Subject::None, names: &["kill", "tgkill"], errors: &[EPERM] },
    Kind { subject: Path(0), names: &["setxattr", "lsetxattr"], errors: &[ENOSPC] },
    Kind { subject: Descriptor(0), names: &["fsetxattr"], errors: &[ENOSPC] },
    Kind { subject: Descriptor(0), names: &["flock"], errors: &[ENOLCK, EINTR] },
    Kind {
        subject: Subject::None,
        names: &[
            "socket",
            "socketpair",
            "pipe2",
            "signalfd4",
            "eventfd2",
            "epoll_create1",
            "inotify_init1",
            "memfd_create",
            "pidfd_open",
        ],
        errors: &[EMFILE, ENOMEM],
    },
    Kind { subject: Descriptor(0), names: &["dup", "dup2", "dup3"], errors: &[EMFILE] },
    Kind { subject: Descriptor(0), names: &["connect", "accept4", "bind"], errors: &[ENOMEM, EINTR] },
    Kind { subject: Subject::None, names: &["poll", "ppoll", "wait4", "waitid", "epoll_wait"], errors: &[EINTR] },
];

/// Returns the names of all calls.
pub(crate) fn calls() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.names).copied()
}

fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.names.contains(&name))
}

/// Returns which argument of a call says what it is about.
pub(crate) fn subject(name: &str) -> Subject {
    kind(name).map_or(Subject::None, |kind| kind.subject)
}

/// Returns what can go wrong with a call.
pub(crate) fn of(call: &Call) -> Vec<Fault> {
    let name = call.key.name.as_str();
    // What is said on stderr is the one thing that is not known where it cannot be said.
    if call.what.ends_with("/.trial/err") || call.what == "/dev/null" {
        return Vec::new();
    }
    let mut faults: Vec<_> = errors(call).into_iter().map(Fault::Error).collect();
    // Between two changes it makes no difference when one is killed.
    if !["read", "pread64", "readv", "getdents64", "poll", "ppoll"].contains(&name) {
        faults.push(Fault::Kill);
        if !call.first {
            faults.push(Fault::KillTool);
        }
    }
    faults
}

fn errors(call: &Call) -> Vec<Errno> {
    let name = call.key.name.as_str();
    let mut errors = kind(name).map_or(Vec::new(), |kind| kind.errors.to_vec());
    let flags = match name {
        "openat" => call.args[2],
        "open" => call.args[1],
        _ => 0,
    };
    if flags & 0o100 != 0 {
        errors.push(ENOSPC);
    }
    // No disk is below a pipe.
    if ["pipe:", "socket:", "anon_inode:"].iter().any(|kind| call.what.starts_with(kind)) {
        errors.retain(|e| ![ENOSPC, EIO].contains(e));
    }
    // A counter that is far from full takes a number at once.
    if call.what.starts_with("anon_inode:") {
        errors.retain(|e| *e != EINTR);
    }
    errors
}
