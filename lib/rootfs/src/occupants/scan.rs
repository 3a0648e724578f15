//! A look at all processes, and what is the same for all of them: the root, our mounts, the bound sockets.

use super::proc::{Seen, look_at, numbers, read_at};
use super::process::{Process, is_gone, is_ours};
use super::text::{self, Stat, escape_newlines, user_name};
use super::{Occupant, Scan, agents};
use crate::mountinfo;
use crate::root::RootId;
use rustix::fs::CWD;
use rustix::io::Errno;
use stage::{Code, Doing, Failure};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What processes are looked at with. It is as old as its making: each scan wants a new one.
pub(super) struct Scanner {
    pub(super) root: PathBuf,
    /// `root` as it stands in `maps`.
    pub(super) root_in_maps: PathBuf,
    pub(super) id: RootId,
    /// The root's keyring, where there is one.
    pub(super) keyring: Option<agents::Home>,
    /// The ids of our mounts.
    pub(super) mounts: HashSet<u64>,
    /// The mount that each of them is on.
    pub(super) parents: HashMap<u64, u64>,
    /// Those of them that are at or below the root and not hidden, and the one that the root is on.
    pub(super) visible: HashSet<u64>,
    /// The devices of these, and the root's own.
    pub(super) devices: HashSet<u64>,
    /// Bound unix sockets with a name at or below the root, by inode: the name, and whether it listens.
    pub(super) sockets: HashMap<u64, (PathBuf, bool)>,
    /// Our own root directory, to know whose absolute paths mean what ours do.
    pub(super) own_root: Option<Seen>,
    /// Our own mount namespace.
    pub(super) own_namespace: Option<Seen>,
    own_pid: i32,
    /// PID 1 and our ancestors: they never live in a root.
    spared: HashSet<i32>,
}

/// What a look at one process found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The process, where it uses the root.
    pub(super) occupant: Option<Occupant>,
    /// Whether the kernel did not let us look, or not at all of it.
    pub(super) unreadable: bool,
}

impl Scanner {
    pub(super) fn new(root: &Path, id: RootId) -> Result<Self, Failure> {
        let own_pid = rustix::process::getpid().as_raw_nonzero().get();
        let said = std::fs::read_link("/proc/self").doing(Code::Os, || "reading '/proc/self'")?;
        if said.as_os_str() != own_pid.to_string().as_str() {
            return Err(Failure::new(
                Code::Os,
                "looking at processes: '/proc' is that of another PID namespace",
            )
            .hint("mount it anew: mount -t proc proc /proc"));
        }
        let mounts = mountinfo::read()?;
        let own = look_at(CWD, root).ok().and_then(|seen| seen.mount);
        let grown = mountinfo::grown_on(&mounts, &own.into_iter().collect());
        let is_visible = |m: &&mountinfo::Mount| {
            Some(m.id) == own || grown.contains(&m.id) && mountinfo::is_at_or_below(&m.target, root)
        };
        let visible: HashSet<u64> = mounts.iter().filter(is_visible).map(|m| m.id).collect();
        let mut devices: HashSet<u64> = mounts
            .iter()
            .filter(|m| visible.contains(&m.id))
            .map(|m| rustix::fs::makedev(m.dev.0, m.dev.1))
            .collect();
        devices.insert(id.dev);
        // Without /proc/net/unix the kernel has no unix sockets, or shows us none.
        let sockets = match std::fs::read("/proc/net/unix") {
            Err(e) if Errno::from_io_error(&e).is_some_and(is_ours) => {
                return Err(e).doing(Code::Os, || "reading '/proc/net/unix'");
            }
            sockets => sockets.unwrap_or_default(),
        };
        Ok(Self {
            root: root.to_owned(),
            root_in_maps: escape_newlines(root),
            id,
            keyring: agents::Home::of(root, &mounts)
                .doing(Code::Os, || "looking for the keyring of the root")?,
            mounts: mounts.iter().map(|m| m.id).collect(),
            parents: mounts.iter().map(|m| (m.id, m.parent)).collect(),
            visible,
            devices,
            sockets: text::sockets(&sockets, root),
            own_root: look_at(CWD, "/").ok(),
            own_namespace: look_at(CWD, "/proc/self/ns/mnt").ok(),
            own_pid,
            spared: spared()?,
        })
    }

    pub(super) fn scan(&self) -> Result<Scan, Failure> {
        let mut pids: Vec<i32> =
            numbers(CWD, "/proc").doing(Code::Os, || "looking at processes in '/proc'")?;
        pids.sort_unstable();
        let mut scan = Scan::default();
        for pid in pids {
            let look = self.examine(pid)?;
            scan.occupants.extend(look.occupant);
            scan.unreadable += usize::from(look.unreadable);
        }
        if !scan.occupants.is_empty() {
            let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
            for occupant in &mut scan.occupants {
                if let Some(name) = user_name(&passwd, occupant.uid) {
                    occupant.user = name;
                }
            }
        }
        Ok(scan)
    }

    /// Returns whether the process that has this pid now is still that one, and still lives in the root.
    pub(super) fn is_still(&self, occupant: &Occupant) -> Result<bool, Failure> {
        let now = self.examine(occupant.pid)?.occupant;
        Ok(now.is_some_and(|now| now.lives && now.start_time == occupant.start_time))
    }

    /// Looks at one process.
    pub(super) fn examine(&self, pid: i32) -> Result<Look, Failure> {
        if pid == self.own_pid {
            return Ok(Look::default());
        }
        // Whoever is spared cannot spoil the proof that nobody lives there.
        let spared = self.spared.contains(&pid);
        let looked = Process::look(self, pid).and_then(|process| match process {
            Some(process) => Ok(Look {
                unreadable: process.is_denied() && !spared,
                occupant: process.occupant(spared)?,
            }),
            None => Ok(Look::default()),
        });
        match looked {
            Ok(look) => Ok(look),
            // What was not seen for that reason may well live there.
            Err(e) if is_ours(e) => Err(e).doing(Code::Os, || format!("looking at process {pid}")),
            Err(e) => Ok(Look {
                unreadable: !is_gone(e) && !spared,
                occupant: None,
            }),
        }
    }
}

/// Returns PID 1 and our ancestors.
fn spared() -> Result<HashSet<i32>, Failure> {
    let mut spared = HashSet::from([1]);
    let mut pid = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
    while pid > 0 && spared.insert(pid) {
        let stat = match read_at(CWD, &format!("/proc/{pid}/stat")) {
            Err(e) if is_ours(e) => {
                return Err(e).doing(Code::Os, || format!("reading '/proc/{pid}/stat'"));
            }
            stat => stat.ok(),
        };
        pid = stat.and_then(|t| Stat::parse(&t)).map_or(0, |s| s.parent);
    }
    Ok(spared)
}

#[cfg(test)]
mod tests {
    use super::super::ground::{id, start};
    use super::super::{Use, find};
    use super::*;
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_uses_a_path_is_found_and_does_not_live_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("x")).unwrap();
        let child = start(&root.join("x"), "exec 5>file; rm file");
        let scan = find(&root, id(&root)).unwrap();
        let pids: Vec<_> = scan.occupants.iter().map(|o| o.pid).collect();
        assert_eq!(pids, [child.pid()]);
        let found = &scan.occupants[0];
        assert!(!found.lives && !found.elsewhere);
        assert_eq!(found.comm, "cat");
        assert_eq!(found.cmdline, ["cat"]);
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(
            found.uses,
            [
                Use::Cwd(root.join("x")),
                Use::Fd(5, root.join("x/file (deleted)")),
            ]
        );
        assert_eq!(
            found.how(),
            format!("has its working directory at '{}/x'", root.display())
        );
        // A directory whose name only begins the same is another one.
        let other = root.with_extension("other");
        std::fs::create_dir(&other).unwrap();
        let scan = find(&other, id(&other)).unwrap();
        std::fs::remove_dir(&other).unwrap();
        assert_eq!(scan.occupants, []);
    }

    #[test]
    fn we_ourselves_are_not_named_and_our_ancestors_do_not_live_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let _ours = File::create(root.join("ours")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let scan = find(&root, id(&root)).unwrap();
        assert!(
            scan.occupants
                .iter()
                .all(|o| o.pid.unsigned_abs() != std::process::id())
        );
        let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        for pid in [1, parent] {
            let look = scanner.examine(pid).unwrap();
            assert!(!look.unreadable);
            if let Some(occupant) = look.occupant {
                assert!(!occupant.lives, "{occupant}");
            }
        }
    }

    #[test]
    fn a_zombie_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mut child = start(&root, "true");
        child.end_but_do_not_reap();
        let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
        let look = scanner.examine(child.pid()).unwrap();
        assert!(look.occupant.is_none() && !look.unreadable);
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let place = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
        // SAFETY: the child goes on with one thread, and starts another that has what pthread_create(3) takes. glibc
        // keeps malloc usable after its fork(3), and nothing else of ours is touched.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: a constant of ours, and two system calls. The second ends this thread alone.
            unsafe {
                libc::chdir(place.as_ptr());
                drop(std::thread::spawn(|| {
                    loop {
                        std::thread::park()
                    }
                }));
                libc::syscall(libc::SYS_exit, 0);
            }
        }
        let scanner = Scanner::new(&root, id(Path::new("/"))).unwrap();
        let stat = || {
            let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
            Stat::parse(&text).unwrap()
        };
        while !stat().is_over() {
            std::thread::yield_now();
        }
        let look = scanner.examine(pid).unwrap();
        // SAFETY: the child that was forked above.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        let occupant = look.occupant.unwrap();
        assert!(occupant.lives);
        assert!(occupant.uses.contains(&Use::Cwd(root)), "{occupant:?}");
    }
}
