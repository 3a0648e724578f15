//! Parsers for what the kernel writes about processes. See proc(5).
//!
//! Names in it come from roots and programs that an attacker may have written, so it is bytes. Lines that do not have the
//! form of proc(5) are ignored.

use crate::mountinfo::number;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) comm: String,
    pub(crate) state: u8,
    pub(crate) parent: i32,
    flags: u64,
    /// CPU time of the process and of the children that it has waited for, in ticks of sysconf(_SC_CLK_TCK).
    pub(crate) ticks: u64,
    pub(super) threads: u64,
    pub(super) start_time: u64,
}

impl Stat {
    /// `PF_KTHREAD` of the kernel's `linux/sched.h`, the same since 2.6.
    const KERNEL_THREAD: u64 = 0x0020_0000;

    /// Parses the line. The name may have blanks and parentheses: it ends at the last parenthesis.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of proc_pid_stat(5) is the first here.
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            flags: number(9)?,
            ticks: (14..=17).map(number).sum::<Option<u64>>()?,
            threads: number(20)?,
            start_time: number(22)?,
        })
    }

    /// Returns whether this thread, the first one of its process, has ended. Others may still live.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Returns whether it is a kernel thread.
    pub(super) fn is_of_kernel(&self) -> bool {
        self.flags & Self::KERNEL_THREAD != 0
    }
}

/// Returns `text` as a path if that is at or below `root`. The kernel writes ` (deleted)` after a name that is gone.
pub(super) fn path_below(text: &[u8], root: &Path) -> Option<PathBuf> {
    let rest = text.strip_prefix(root.as_os_str().as_bytes())?;
    let below = rest.is_empty() || rest[0] == b'/' || rest == b" (deleted)";
    below.then(|| PathBuf::from(OsStr::from_bytes(text)))
}

/// Returns `path` as it stands in `maps`, where only a newline is written as an octal escape.
pub(super) fn escape_newlines(path: &Path) -> PathBuf {
    let parts: Vec<_> = path.as_os_str().as_bytes().split(|&b| b == b'\n').collect();
    PathBuf::from(OsStr::from_bytes(&parts.join(&b"\\012"[..])))
}

/// Returns the device, the inode number and the path of a line of `maps`: `7f… r-xp 00000000 fe:00 12 /x`.
pub(super) fn mapped(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let slash = line.iter().position(|&b| b == b'/')?;
    let mut fields = line.split(|&b| b == b' ').skip(3);
    let (device, inode) = (fields.next()?, fields.next()?);
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    Some((rustix::fs::makedev(hex(major)?, hex(minor)?), number(inode)?, &line[slash..]))
}

/// Returns the inode number of `socket:[123]`.
pub(super) fn socket_inode(text: &[u8]) -> Option<u64> {
    number(text.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

/// Parses `/proc/net/unix`: the names of bound sockets at or below `root`, by inode.
///
/// `0000000000000000: 00000002 00000000 00010000 0001 01 21512 /run/x` is the number, references, protocol, flags, type,
/// state, inode and name.
pub(super) fn sockets(text: &[u8], root: &Path) -> HashMap<u64, PathBuf> {
    let mut sockets = HashMap::new();
    for line in text.split(|&b| b == b'\n').skip(1) {
        let (mut field, mut rest) = (&b""[..], line);
        for _ in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&b| b == b' ');
            (field, rest) = rest.split_at(end.unwrap_or(rest.len()));
        }
        // One blank, then the name, which may have blanks. A socket without a name has neither.
        if let (Some(inode), Some(name)) = (number(field), rest.strip_prefix(b" "))
            && let Some(path) = path_below(name, root)
        {
            sockets.insert(inode, path);
        }
    }
    sockets
}

/// Returns the effective user id of the text of `/proc/PID/status`.
pub(crate) fn uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stat_line_is_read_whatever_the_process_calls_itself() {
        let tail = " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2 3";
        for name in ["sh", "a) R 1 (b", "", "x y\n", "((("] {
            let stat = Stat::parse(format!("42 ({name}){tail}").as_bytes()).unwrap();
            let expected = Stat {
                comm: name.into(),
                state: b'S',
                parent: 7,
                flags: 4_194_560,
                ticks: 5 + 6 + 7 + 8,
                threads: 3,
                start_time: 987_654,
            };
            assert_eq!(stat, expected);
            assert!(!stat.is_over() && !stat.is_of_kernel());
        }
        for bad in ["", "42", "42 (sh", "42 sh)", ")(", "42 (sh) S 1 2"] {
            assert_eq!(Stat::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn bound_sockets_below_the_root_and_no_others() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21512 /t/etc/S.gpg agent\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21513 /t/x\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21514\n\
            0000000000000000: 00000003 00000000 00000000 0001 03   515 @/t/x\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21516 /target/x\n\
            junk\n: x y z\n\xff\xff /t/x\n";
        let mut found: Vec<_> = sockets(text, Path::new("/t")).into_iter().collect();
        found.sort();
        assert_eq!(found, [(21512, "/t/etc/S.gpg agent".into()), (21513, "/t/x".into()),]);
    }

    #[test]
    fn a_path_is_below_by_components() {
        for (text, below) in [
            ("/t", true),
            ("/t/x", true),
            ("/t (deleted)", true),
            ("/t/x (deleted)", true),
            ("/target", false),
            ("/t (deleted)x", false),
            ("/", false),
            ("", false),
            ("socket:[1]", false),
        ] {
            let path = path_below(text.as_bytes(), Path::new("/t"));
            assert_eq!(path.is_some(), below, "{text}");
        }
    }

    #[test]
    fn small_texts_of_the_kernel() {
        assert_eq!(uid(b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t9\n"), Some(2));
        assert_eq!(uid(b"Uid:\t1\n"), None);
        let line = b"7f00-7f01 r-xp 00000000 fe:0a 12   /t/a b\\012 (deleted)";
        let path = &b"/t/a b\\012 (deleted)"[..];
        assert_eq!(mapped(line), Some((rustix::fs::makedev(0xfe, 0xa), 12, path)));
        assert_eq!(mapped(b"7f00-7f01 rw-p 00000000 00:00 0 [heap]"), None);
        assert_eq!(mapped(b"7f00-7f01 rw-p 00000000 0000 0 /t"), None);
        assert_eq!(mapped(b"/"), None);
        let escaped = escape_newlines(Path::new("/a\nb"));
        assert_eq!(escaped, Path::new("/a\\012b"));
        assert_eq!(socket_inode(b"socket:[12]"), Some(12));
        assert_eq!(socket_inode(b"pipe:[12]"), None);
    }
}
