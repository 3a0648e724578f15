//! Looking at all processes, and what is needed for each: the root, our mounts, the bound sockets.

use super::proc::{Seen, check_numbers, look_at, numbers, read_at};
use super::process::{Process, is_gone, is_ours, unless_ours};
use super::text::{self, Stat, escape_newlines};
use super::{Occupant, Scan, agents};
use crate::mountinfo;
use crate::root::RootId;
use rustix::fs::CWD;
use stage::{Code, Doing, Failure};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What is needed to look at processes. It describes one moment: each scan makes a new one.
pub(super) struct Scanner {
    pub(super) root: PathBuf,
    /// `root` as it stands in `maps`.
    pub(super) root_in_maps: PathBuf,
    pub(super) id: RootId,
    /// The root's keyring, where there is one.
    pub(super) keyring: Option<agents::Home>,
    /// Our mounts, and the mount that each of them is on.
    pub(super) parents: HashMap<u64, u64>,
    /// Those of them that are at or below the root and not hidden, and the one that the root is on.
    pub(super) visible: HashSet<u64>,
    /// The devices of these, and the root's own.
    pub(super) devices: HashSet<u64>,
    /// The names of bound unix sockets at or below the root, by inode.
    pub(super) sockets: HashMap<u64, PathBuf>,
    /// Our own root directory: processes with the same one mean the same by an absolute path.
    pub(super) own_root: Option<Seen>,
    /// Our own mount namespace.
    pub(super) own_namespace: Option<Seen>,
    /// passwd(5) of the host.
    pub(super) passwd: Vec<u8>,
    own_pid: i32,
    /// PID 1 and our ancestors: they never live in a root.
    spared: HashSet<i32>,
}

/// The result of looking at one process.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The process, if it uses the root.
    pub(super) occupant: Option<Occupant>,
    /// Whether we were not permitted to look at all of it.
    pub(super) unreadable: bool,
}

impl Scanner {
    pub(super) fn new(root: &Path, id: RootId) -> Result<Self, Failure> {
        let own_pid = check_numbers()?;
        let mounts = mountinfo::read()?;
        let own = look_at(CWD, root).ok().and_then(|seen| seen.mount);
        let grown = mountinfo::with_descendants(&mounts, &own.into_iter().collect());
        let is_visible =
            |m: &&mountinfo::Mount| Some(m.id) == own || grown.contains(&m.id) && m.target.starts_with(root);
        let visible: HashSet<u64> = mounts.iter().filter(is_visible).map(|m| m.id).collect();
        let mut devices: HashSet<u64> =
            mounts.iter().filter(|m| visible.contains(&m.id)).map(|m| rustix::fs::makedev(m.dev.0, m.dev.1)).collect();
        devices.insert(id.dev);
        // Without /proc/net/unix the kernel has no unix sockets, or does not show them.
        let sockets = unless_ours(read_at(CWD, "/proc/net/unix"));
        let sockets = sockets.doing(Code::Os, || "reading '/proc/net/unix'")?.unwrap_or_default();
        Ok(Self {
            root: root.to_owned(),
            root_in_maps: escape_newlines(root),
            id,
            keyring: agents::Home::of(root, &mounts).doing(Code::Os, || "looking for the keyring of the root")?,
            parents: mounts.iter().map(|m| (m.id, m.parent)).collect(),
            visible,
            devices,
            sockets: text::sockets(&sockets, root),
            own_root: look_at(CWD, "/").ok(),
            own_namespace: look_at(CWD, "/proc/self/ns/mnt").ok(),
            passwd: std::fs::read("/etc/passwd").unwrap_or_default(),
            own_pid,
            spared: spared()?,
        })
    }

    pub(super) fn scan(&self) -> Result<Scan, Failure> {
        let mut pids: Vec<i32> = numbers(CWD, "/proc").doing(Code::Os, || "looking at processes in '/proc'")?;
        pids.sort_unstable();
        let mut scan = Scan::default();
        for pid in pids {
            let look = self.examine(pid)?;
            scan.occupants.extend(look.occupant);
            scan.unreadable += usize::from(look.unreadable);
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
        // A spared process never lives there, so it does not matter that we may not look at it.
        let spared = self.spared.contains(&pid);
        let looked = Process::look(self, pid).and_then(|process| match process {
            Some(process) => Ok(Look { unreadable: process.denied && !spared, occupant: process.occupant(spared)? }),
            None => Ok(Look::default()),
        });
        match looked {
            Ok(look) => Ok(look),
            // A process that was not seen for this reason may live there.
            Err(e) if is_ours(e) => Err(e).doing(Code::Os, || format!("looking at process {pid}")),
            Err(e) => Ok(Look { unreadable: !is_gone(e) && !spared, occupant: None }),
        }
    }
}

/// Returns PID 1 and our ancestors.
fn spared() -> Result<HashSet<i32>, Failure> {
    let mut spared = HashSet::from([1]);
    let mut pid = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
    while pid > 0 && spared.insert(pid) {
        let path = format!("/proc/{pid}/stat");
        let stat = unless_ours(read_at(CWD, &path)).doing(Code::Os, || format!("reading '{path}'"))?;
        pid = stat.and_then(|t| Stat::parse(&t)).map_or(0, |s| s.parent);
    }
    Ok(spared)
}
