//! What a program of the host would lose of a file, or get wrong: seen with those of Debian 12 and 13, by mounting what they made.

use super::HostKind;
use crate::filesystem::Options;
use crate::node::{Kind, Node};
use stage::{Code, Failure};
use std::ops::Range;

/// The times that an inode of xfs can have, in seconds since 1970.
const XFS_TIMES: Range<i64> = -(1 << 31)..16_299_260_424;

/// The names of extended attributes that squashfs can store begin with one of these.
const SQUASHFS: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];

/// Refuses the first file that the file system would not hold as it is.
///
/// # Errors
///
/// [`Code::Failed`] with its path.
pub(super) fn all(kind: HostKind, nodes: &[Node], options: &Options) -> Result<(), Failure> {
    for node in nodes {
        if let Some((what, hint)) = lost(kind, node) {
            let path = options.show(&node.path);
            let why = format!("making a {} file system: {path} has {what}, which it cannot hold", kind.name());
            return Err(Failure::new(Code::Failed, why).hint(hint));
        }
    }
    Ok(())
}

/// Returns what of a node is lost, and what helps.
fn lost(kind: HostKind, node: &Node) -> Option<(String, &'static str)> {
    const LEAVE_OUT: &str = "leave it out with --exclude, or use ext4";
    let attribute = |kept: &dyn Fn(&[u8]) -> bool| {
        let (name, _) = node.xattrs.iter().find(|(name, _)| !kept(name))?;
        let what = format!("the extended attribute '{}'", String::from_utf8_lossy(name));
        Some((
            what,
            "remove it ('setfacl -b' for an ACL, else 'setfattr -x'), leave the file out with --exclude, or use ext4",
        ))
    };
    match kind {
        HostKind::Squashfs if u32::try_from(node.mtime).is_err() => {
            Some(("a time before 1970 or after 2106".to_owned(), "change it with 'touch', or use ext4"))
        }
        HostKind::Squashfs => attribute(&|name| SQUASHFS.iter().any(|prefix| name.starts_with(prefix))),
        HostKind::Erofs if node.mtime < 0 => {
            Some(("a time before 1970".to_owned(), "change it with 'touch', or use ext4"))
        }
        HostKind::Erofs => None,
        // mkfs.btrfs makes nodes with the number 0:0 (6.2, 6.14), and a top of its own (6.2).
        HostKind::Btrfs if matches!(node.kind, Kind::Character(..) | Kind::Block(..)) => {
            Some(("a device number".to_owned(), LEAVE_OUT))
        }
        HostKind::Btrfs if node.path.is_empty() && (node.mode, node.uid, node.gid) != (0o755, 0, 0) => {
            Some(("another mode than 0755, or another owner than root,".to_owned(), "change that, or use ext4"))
        }
        HostKind::Btrfs if node.path.is_empty() => attribute(&|_| false),
        HostKind::Btrfs => None,
        // mkfs.xfs opens devices, writes ACLs as attributes of users (7.2), and its inodes have no other times.
        HostKind::Xfs if matches!(node.kind, Kind::Character(..) | Kind::Block(..)) => {
            Some(("a device number".to_owned(), LEAVE_OUT))
        }
        HostKind::Xfs if !XFS_TIMES.contains(&node.mtime) => {
            Some(("a time before 1901 or after 2486".to_owned(), "change it with 'touch', or use ext4"))
        }
        HostKind::Xfs => attribute(&|name| !name.starts_with(b"system.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Xattr;

    #[test]
    fn what_would_be_lost_is_known() {
        let with = |change: &dyn Fn(&mut Node)| {
            let mut node = Node::new(b"x", Kind::Fifo);
            change(&mut node);
            HostKind::ALL.map(|kind| lost(kind, &node).is_some())
        };
        let xattr = |name: &str| [(name.as_bytes().to_vec(), vec![1])].to_vec();
        assert_eq!(with(&|_| ()), [false; 4]);
        assert_eq!(with(&|n| n.xattrs = xattr("security.capability")), [false; 4]);
        assert_eq!(with(&|n| n.xattrs = xattr("system.posix_acl_access")), [true, false, false, true]);
        assert_eq!(with(&|n| n.mtime = -1), [true, true, false, false]);
        assert_eq!(with(&|n| n.mtime = 1 << 32), [true, false, false, false]);
        assert_eq!(with(&|n| n.mtime = 1 << 34), [true, false, false, true]);
        assert_eq!(with(&|n| n.kind = Kind::Character(1, 3)), [false, false, true, true]);
        let top = |mode, xattrs: &[Xattr]| {
            with(&|n| (n.path, n.kind, n.mode, n.xattrs) = (Vec::new(), Kind::Directory, mode, xattrs.to_vec()))
        };
        assert_eq!(top(0o755, &[]), [false; 4]);
        assert_eq!(top(0o750, &[]), [false, false, true, false]);
        assert_eq!(top(0o755, &xattr("user.a")), [false, false, true, false]);
    }
}
