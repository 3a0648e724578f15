//! Which file a unix socket is bound to: unix_diag of sock_diag(7).
//!
//! `/proc/net/unix` has the name that bind(2) got. That name may lead to another file by now, or be of another mount
//! namespace; unix_diag identifies the file itself. Written by hand: no crate that we have speaks sock_diag(7).

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use rustix::net::{recv, send, socket_with};

/// A socket that listens, and the file that it is bound to.
pub(super) struct Bound {
    /// The socket's inode number, as in `socket:[12]`.
    pub(super) socket: u64,
    /// The lower half of the file's inode number.
    pub(super) ino: u32,
    /// The device of the file's file system, in the kernel's internal form.
    pub(super) dev: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_AND_DUMP: u16 = 0x301;
const AF_UNIX: u8 = 1;
const TCP_LISTEN: u8 = 10;
const UDIAG_SHOW_VFS: u32 = 2;
const UNIX_DIAG_VFS: u16 = 1;
/// Of `nlmsghdr`, `unix_diag_req` and `unix_diag_msg`, in bytes.
const HEADER: usize = 16;
const REQUEST: u32 = 40;
const MESSAGE: usize = 16;

/// Returns the sockets of this network namespace that listen on a file; none when the kernel lacks `CONFIG_UNIX_DIAG`.
///
/// # Errors
///
/// The system call's.
pub(super) fn listening() -> Result<Vec<Bound>, Errno> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = match socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol) {
        Err(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM) => {
            return Ok(Vec::new());
        }
        socket => socket?,
    };
    let mut request = Vec::new();
    request.extend(REQUEST.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_AND_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([AF_UNIX, 0, 0, 0]);
    request.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    request.extend([0; 4]);
    request.extend(UDIAG_SHOW_VFS.to_ne_bytes());
    request.extend([0; 8]);
    send(&socket, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, _) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            received => received?,
        };
        if length == 0 || !parse(&buffer[..length], &mut found) {
            return Ok(found);
        }
    }
}

/// Parses one datagram of messages. Returns whether more will come.
fn parse(mut text: &[u8], found: &mut Vec<Bound>) -> bool {
    while let (Some(length), Some(kind)) = (number(text, 0), short(text, 4)) {
        let length = length as usize;
        let Some(message) = text.get(HEADER..length).filter(|_| kind == SOCK_DIAG_BY_FAMILY) else {
            return !matches!(kind, NLMSG_ERROR | NLMSG_DONE) && length >= HEADER;
        };
        found.extend(bound(message));
        text = text.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// Parses one `unix_diag_msg` with its attributes.
fn bound(message: &[u8]) -> Option<Bound> {
    let socket = number(message, 4)?;
    let mut attributes = message.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (short(attributes, 0), short(attributes, 2)) {
        if kind == UNIX_DIAG_VFS {
            return Some(Bound { socket: u64::from(socket), ino: number(attributes, 4)?, dev: number(attributes, 8)? });
        }
        attributes = attributes.get(usize::from(length.max(4)).next_multiple_of(4)..)?;
    }
    None
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_is_known_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("S.x");
        let socket = UnixListener::bind(&path).unwrap();
        let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let meta = path.metadata().unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let all = listening().unwrap();
        let file = |inode| all.iter().find(|b| b.socket == inode).map(|b| u64::from(b.ino));
        assert_eq!(file(inode), Some(meta.ino() & 0xffff_ffff));
        let inode = rustix::fs::fstat(other.as_fd()).unwrap().st_ino;
        assert_ne!(file(inode), Some(meta.ino()));
        assert!(file(inode).is_some());
    }

    #[test]
    fn what_is_cut_off_neither_panics_nor_hangs() {
        let mut text = [0_u8; 64];
        for seed in 0..=255_u8 {
            for (i, byte) in text.iter_mut().enumerate() {
                *byte = seed.wrapping_mul(31).wrapping_add((i as u8).wrapping_mul(seed));
            }
            text[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            for end in 0..=text.len() {
                text[..4].copy_from_slice(&u32::from(seed % 64).to_ne_bytes());
                parse(&text[..end], &mut Vec::new());
                bound(&text[..end]);
            }
        }
    }
}
