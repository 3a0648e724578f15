//! System calls that none of our crates wraps.

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::collections::BTreeMap;
use std::ffi::{CString, NulError, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// Marks every descriptor above stderr close-on-exec, so that no child inherits those that our caller left open: make's
/// jobserver, a lock, the log pipe of a CI. Called at the start of `main` of a tool that runs programs.
pub fn seal_descriptors() {
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC (Linux 5.11) changes flags only: no descriptor is closed that
    // Rust code may own. Without it, children inherit more than they should, and nothing breaks.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// `PER_LINUX32` of personality(2).
const LINUX32: libc::c_ulong = 8;

/// Has uname(2) name the machine of 32-bit programs to us and to what we start, as setarch(8) does: what build scripts and
/// pacman's `Architecture = auto` ask for.
pub(crate) fn use_uname32() -> Result<(), Errno> {
    // SAFETY: it takes a number, and changes what the kernel tells this process and its children.
    if unsafe { libc::personality(LINUX32) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Has a static program look hosts up in `/etc/hosts` and by DNS only. nsswitch.conf(5) may name modules, which glibc would
/// load from the host, and those are of the host's glibc, not ours: a static program dies there. Called before threads start.
pub fn resolve_without_modules() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: both are strings that end with a zero byte, and no other thread looks anything up yet. Without it, the
        // host's own order holds.
        unsafe {
            __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr());
        }
    }
}

/// Makes the program that this command starts die with us, also when we are killed (`PR_SET_PDEATHSIG` of prctl(2)). For
/// programs on the host, outside of our namespaces. The arguments and the environment must be set before, and what else is to be
/// done before the program begins.
///
/// A program that is given by its path is run by execve(2), not execvp(3), which would run a file that the kernel cannot
/// run as a shell script.
pub fn die_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let us = rustix::process::getpid();
    let image = Image::of(command);
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // We may have died before the call.
        if rustix::process::getppid() != Some(us) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        match &image {
            Some(image) => Err(image.exec()),
            None => Ok(()),
        }
    };
    // SAFETY: between fork and exec only system calls are made: nothing is allocated, no lock is taken.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Has the program that this command starts inherit these files, under the numbers that they have here. They are closed with the
/// command. To be called before [`die_with_us`].
pub fn inherit(command: &mut std::process::Command, files: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let before_exec =
        move || files.iter().try_for_each(|file| Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?));
    // SAFETY: between fork and exec only system calls are made: nothing is allocated, no lock is taken.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Arguments of execve(2), made before the fork.
struct Image {
    /// What the pointers point to.
    _text: [Vec<CString>; 2],
    /// The program, and its arguments.
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are into `_text`, whose strings are never changed and live as long as they do.
unsafe impl Send for Image {}
// SAFETY: as above; nothing can be changed through a shared reference.
unsafe impl Sync for Image {}

impl Image {
    /// Returns the arguments for a command, if that gives the program by its path.
    fn of(command: &std::process::Command) -> Option<Self> {
        if !command.get_program().as_bytes().contains(&b'/') {
            return None;
        }
        let mut variables: BTreeMap<_, _> = std::env::vars_os().collect();
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => variables.insert(key.to_owned(), value.to_owned()),
                None => variables.remove(key),
            };
        }
        let (args, env) = strings(command.get_program(), command.get_args(), &variables).ok()?;
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect();
        Some(Self { args: pointers(&args), env: pointers(&env), _text: [args, env] })
    }

    /// Calls execve(2). Returns only when that fails.
    fn exec(&self) -> std::io::Error {
        // SAFETY: both arrays end with a null pointer, and all the others are to C strings that live in `_text`.
        unsafe {
            libc::execve(self.args[0], self.args.as_ptr(), self.env.as_ptr());
        }
        std::io::Error::last_os_error()
    }
}

/// Returns the arguments, the program first, and the environment as execve(2) takes them.
pub(crate) fn strings<'a, T: AsRef<OsStr> + 'a>(
    program: &'a OsStr,
    args: impl IntoIterator<Item = &'a OsStr>,
    env: impl IntoIterator<Item = (&'a T, &'a T)>,
) -> Result<(Vec<CString>, Vec<CString>), NulError> {
    let args = std::iter::once(program).chain(args).map(|arg| CString::new(arg.as_bytes()));
    let variable = |(key, value): (&T, &T)| [key.as_ref().as_bytes(), b"=", value.as_ref().as_bytes()].concat();
    let env = env.into_iter().map(|pair| CString::new(variable(pair)));
    Ok((args.collect::<Result<_, _>>()?, env.collect::<Result<_, _>>()?))
}

/// Closes every descriptor above stderr except those in `keep`. Only for the child of a clone(2), which owns no others.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<_> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: called in a freshly cloned child, where the caller names every descriptor it still uses.
            unsafe {
                libc::syscall(libc::SYS_close_range, from, fd - 1, 0 as libc::c_uint);
            }
        }
        from = fd.saturating_add(1).max(from);
    }
}

/// clone(2) like fork(2), with namespaces. Returns the pid of the child, and `None` in the child.
///
/// # Safety
///
/// The process must have one thread: the child has a copy of this one only, and a lock that another thread held would stay
/// locked there.
pub(crate) unsafe fn clone(flags: libc::c_int) -> Result<Option<libc::pid_t>, Errno> {
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child has a copy of our memory. The raw call is
    // used because glibc's fork(3) takes no namespace flags; with one thread there are no locks to hand over.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        0 => Ok(None),
        -1 => Err(last_errno()),
        pid => Ok(Some(pid as libc::pid_t)),
    }
}

/// Sets the attributes of a mount, and of those below it where `recursive` (mount_setattr(2), Linux 5.12).
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    // SAFETY: a struct of integers, for which zero means "change nothing".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = u64::from(set.bits());
    attr.propagation = propagation;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a constant C string, and the struct is as long as
    // we say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Returns whether the kernel has no system call of this number, or a filter says so.
pub(crate) fn is_missing(number: libc::c_long) -> bool {
    let none: libc::c_long = -1;
    // SAFETY: every system call that this is asked about refuses descriptors, pointers and flags of -1, and does nothing.
    let result = unsafe { libc::syscall(number, none, none, none, none, none) };
    result == -1 && last_errno() == Errno::NOSYS
}

/// Ends this process at once, without the exit handlers of the parent.
pub(crate) fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Returns the type and the bytes of a directory's handle (name_to_handle_at(2)). `None` if its file system has none.
pub(crate) fn handle(directory: BorrowedFd<'_>) -> Option<(i32, Vec<u8>)> {
    /// A `file_handle` with room for the longest one, `MAX_HANDLE_SZ`.
    #[repr(C)]
    struct Handle {
        length: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; 128],
    }
    // Overlayfs returns a handle only if it need not be opened again (Linux 6.6).
    for flags in [libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH | libc::AT_HANDLE_FID] {
        let mut handle = Handle { length: 128, kind: 0, bytes: [0; 128] };
        let mut mount: libc::c_int = 0;
        // SAFETY: the descriptor is borrowed for the call, the path is a constant C string, the handle has the layout of
        // `file_handle` and the room that it says, and the kernel writes no more than that.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                directory.as_raw_fd(),
                c"".as_ptr(),
                &raw mut handle,
                &raw mut mount,
                flags,
            )
        };
        if result == 0 {
            let length = usize::try_from(handle.length).unwrap_or_default();
            return Some((handle.kind, handle.bytes.get(..length)?.to_vec()));
        }
    }
    None
}

/// Returns the type of a directory's file system (statfs(2), `f_type`), and the bytes of its id.
pub(crate) fn file_system_id(directory: BorrowedFd<'_>) -> Result<(i64, [u8; 8]), Errno> {
    let stat = nix::sys::statfs::fstatfs(directory).map_err(|e| Errno::from_raw_os_error(e as i32))?;
    // SAFETY: `fsid_t` is two integers of 32 bits without padding, which libc keeps to itself; every value of their bytes
    // is one of an array of bytes.
    let id = unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(stat.filesystem_id()) };
    Ok((stat.filesystem_type().0 as i64, id))
}

/// Returns a file system's UUID (`FS_IOC_GETFSUUID`, Linux 6.9), if it has one.
pub(crate) fn file_system_uuid(directory: &std::os::fd::OwnedFd) -> Option<Vec<u8>> {
    /// `fsuuid2` of linux/fs.h.
    #[repr(C)]
    struct Uuid {
        length: u8,
        bytes: [u8; 16],
    }
    /// `_IOR(0x15, 0, struct fsuuid2)`.
    const GET_UUID: u64 = 0x8011_1500;
    let mut uuid = Uuid { length: 0, bytes: [0; 16] };
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes one `fsuuid2`.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), GET_UUID as _, &raw mut uuid) };
    let bytes = uuid.bytes.get(..usize::from(uuid.length))?;
    (result == 0 && bytes.iter().any(|b| *b != 0)).then(|| bytes.to_vec())
}

/// Returns the number in `/proc/self/mountinfo` of the mount with a unique id (statmount(2), Linux 6.8). `None` if it is not
/// mounted in this namespace.
pub(crate) fn mount_with_unique_id(id: u64) -> Result<Option<u64>, Errno> {
    /// The same number on every architecture: it is newer than 424.
    const SYS_STATMOUNT: libc::c_long = 457;
    /// `STATMOUNT_MNT_BASIC`.
    const BASIC: u64 = 2;
    /// `mnt_id_req` of linux/mount.h, as its first version has it.
    #[repr(C)]
    struct Request {
        size: u32,
        spare: u32,
        id: u64,
        mask: u64,
    }
    /// The beginning of `statmount` of linux/mount.h, and room for the rest.
    #[repr(C)]
    struct Answer {
        head: [u8; 56],
        old_id: u32,
        old_parent: u32,
        rest: [u64; 64],
    }
    let request = Request { size: 24, spare: 0, id, mask: BASIC };
    let mut answer = Answer { head: [0; 56], old_id: 0, old_parent: 0, rest: [0; 64] };
    // SAFETY: the request is as long as it says, and the kernel writes no more than the length that we give it.
    let result = unsafe {
        libc::syscall(SYS_STATMOUNT, &raw const request, &raw mut answer, size_of::<Answer>(), 0 as libc::c_uint)
    };
    match result {
        0 => Ok(Some(u64::from(answer.old_id))),
        _ => match last_errno() {
            Errno::NOENT => Ok(None),
            e => Err(e),
        },
    }
}
