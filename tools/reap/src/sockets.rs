//! Sockets that an agent left in the root's keyring.
//!
//! An agent that ends by SIGKILL leaves its sockets, and they would be packed with the root. A socket is stale when
//! connect(2) is refused. That goes by the inode, whatever the name was when it was bound.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use rootfs::Root;
use rootfs::occupants::KEYRING;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, statat, unlinkat};
use stage::{Context, quote};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Removes the stale sockets, and returns their names. It is not a failure when one cannot be removed: no process lives in
/// the root, which is what was asked for.
pub(crate) fn remove_stale(context: &Context, root: &Root) -> Vec<String> {
    let place = root.path().join(KEYRING);
    let dir = match root.open_below(KEYRING, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        // No keyring, or a path that leads out of the root.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Vec::new();
        }
        Err(e) => {
            context.warn(format_args!("looking for stale sockets in {}: {e}", quote(&place)));
            return Vec::new();
        }
    };
    let mut removed = Vec::new();
    for name in stale(&dir, &place) {
        match unlinkat(&dir, name.as_str(), AtFlags::empty()) {
            Ok(()) => removed.push(name),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => {
                context.warn(format_args!("removing the stale socket {}: {e}", quote(place.join(&name))));
            }
        }
    }
    if !removed.is_empty() {
        context.note(format_args!("removed stale sockets in {}: {}", quote(&place), removed.join(" ")));
    }
    removed
}

/// Returns the names of the sockets `S.*` that no process has.
fn stale(dir: &OwnedFd, place: &Path) -> Vec<String> {
    let bound = std::fs::read("/proc/net/unix").unwrap_or_default();
    let mut names: Vec<String> = Dir::read_from(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str().ok()?.to_owned()))
        .filter(|name| name.starts_with("S."))
        .filter(|name| is_socket(dir, name) && !is_named(&bound, &place.join(name)))
        .filter(|name| is_refused(dir, name))
        .collect();
    names.sort();
    names
}

fn is_socket(dir: &OwnedFd, name: &str) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Socket)
}

/// Returns whether the kernel lists a socket that was bound by this name: one that does not listen also refuses
/// connections.
fn is_named(bound: &[u8], path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let name = [b" ", path.as_os_str().as_bytes()].concat();
    bound.split(|&b| b == b'\n').any(|line| line.ends_with(&name))
}

/// Returns whether connecting is refused. Sends nothing, and does not wait.
fn is_refused(dir: &OwnedFd, name: &str) -> bool {
    // By the descriptor, the path is short, and no symbolic link in it is followed.
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let connected = socket.and_then(|socket| connect(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?));
    connected == Err(Errno::ECONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn only_sockets_with_an_agents_name_that_nobody_has() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        let place = path.join(KEYRING);
        std::fs::create_dir_all(&place).unwrap();
        drop(UnixListener::bind(place.join("S.gpg-agent")).unwrap());
        drop(UnixListener::bind(place.join("S.gpg-agent.ssh")).unwrap());
        drop(UnixListener::bind(place.join("other")).unwrap());
        std::fs::write(place.join("S.file"), "").unwrap();
        std::os::unix::fs::symlink("other", place.join("S.link")).unwrap();
        let _listens = UnixListener::bind(place.join("S.dirmngr")).unwrap();
        let _bound = UnixDatagram::bind(place.join("S.bound")).unwrap();
        let context = Context::new("reap", true);
        let root = Root::open(&path).unwrap();
        assert_eq!(remove_stale(&context, &root), ["S.gpg-agent", "S.gpg-agent.ssh"]);
        let mut left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["S.bound", "S.dirmngr", "S.file", "S.link", "other"]);
        assert_eq!(remove_stale(&context, &root), [""; 0]);
    }

    #[test]
    fn a_keyring_that_is_a_link_out_of_the_root_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(path.join("etc/pacman.d")).unwrap();
        std::os::unix::fs::symlink(outside.path(), path.join(KEYRING)).unwrap();
        drop(UnixListener::bind(outside.path().join("S.gpg-agent")).unwrap());
        let context = Context::new("reap", true);
        assert_eq!(remove_stale(&context, &Root::open(&path).unwrap()), [""; 0]);
        assert!(outside.path().join("S.gpg-agent").exists());
    }
}
