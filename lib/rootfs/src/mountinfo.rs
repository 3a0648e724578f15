//! `/proc/self/mountinfo`, parsed. See proc_pid_mountinfo(5).
//!
//! Paths come from roots that an attacker may have written, so they are bytes and not text, and no function here recurses.

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use stage::{Code, Doing, Failure};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id. The kernel reuses it once the mount is gone.
    pub id: u64,
    /// The id of the mount that it is mounted on. Of the topmost, it is its own or one that is not listed.
    pub parent: u64,
    /// The device: major, minor.
    pub dev: (u32, u32),
    /// Where it is mounted, as this process sees it.
    pub target: PathBuf,
    /// Whether mounts below it appear in other mounts too, maybe in other namespaces.
    pub shared: bool,
    /// The file system, as `tmpfs` or `fuse.sshfs`.
    pub fstype: String,
    /// What is mounted: a device, or any word. May be empty.
    pub source: OsString,
}

/// Returns whether a directory is the root of the mount that it is seen on, as far as the kernel says (Linux 5.8). It is at `path`
/// below `at`, or `at` itself where that is empty.
///
/// # Errors
///
/// As statx(2).
pub fn is_mount_root(at: impl AsFd, path: &Path) -> Result<bool, Errno> {
    let stat = statx(at, path, AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Reads what is mounted in this mount namespace.
///
/// # Errors
///
/// When `/proc` is not mounted, or its text does not have the form of proc(5).
pub fn read() -> Result<Vec<Mount>, Failure> {
    let path = "/proc/self/mountinfo";
    let doing = || format!("reading '{path}'");
    let text = std::fs::read(path).doing(Code::Os, doing)?;
    parse(&text).doing(Code::Os, doing)
}

/// Parses the text of a mountinfo file.
///
/// # Errors
///
/// The number of the first invalid line, and what is wrong with it.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, String> {
    text.split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(i, line)| parse_line(line).map_err(|why| format!("line {}: {why}", i + 1)))
        .collect()
}

/// Parses `36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    // One blank separates two fields: an empty source looks like two blanks.
    let mut fields = line.split(|&b| b == b' ');
    let mut next = || fields.next().ok_or("it ends too early");
    let id = number(next()?).ok_or("the id is not a number")?;
    let parent = number(next()?).ok_or("the parent's id is not a number")?;
    let dev = device(next()?).ok_or("the device is not MAJOR:MINOR")?;
    let _root = next()?;
    let target = next()?;
    // The mark of a name that is gone. No path of the kernel has '//' in it.
    let target = target.strip_suffix(b"//deleted").unwrap_or(target);
    let target = PathBuf::from(decode(target));
    let _options = next()?;
    let mut shared = false;
    loop {
        match next()? {
            b"-" => break,
            field => shared |= field.starts_with(b"shared:"),
        }
    }
    Ok(Mount {
        id,
        parent,
        dev,
        target,
        shared,
        fstype: decode(next()?).to_string_lossy().into_owned(),
        source: decode(next()?),
    })
}

/// Parses a decimal number of the kernel's.
pub(crate) fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    // parse() accepts a sign, which the kernel never writes.
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|&b| b == b':')?;
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

/// Decodes the kernel's escapes: a backslash and three octal digits for a blank, a tab, a newline and a backslash, and
/// for `#` in a source. fstab(5) has the same.
#[must_use]
pub fn decode(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after.get(..3) {
            Some(&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) if byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &after[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Returns these mounts and those that are mounted on them, directly or not.
#[must_use]
pub fn with_descendants(mounts: &[Mount], these: &HashSet<u64>) -> HashSet<u64> {
    let tree = Tree::new(mounts);
    let mut found = HashSet::new();
    let mut todo: Vec<u64> = these.iter().copied().collect();
    while let Some(id) = todo.pop() {
        if found.insert(id) {
            todo.extend(tree.children(Some(id)).iter().map(|&i| tree.mounts[i].id));
        }
    }
    found
}

/// Returns the mounts at or below `root`, an absolute path without symbolic links, in an order in which they can be
/// unmounted: children before parents, and a mount that hides another one before that.
///
/// The order follows from the ids of the parents. The order of the list means nothing: a moved mount keeps its place, and
/// ids are reused. Mounts at such a path in a tree that another mount above `root` hides are not at `root`, but in a
/// directory that had its name before: they are left out.
#[must_use]
pub fn below<'a>(mounts: &'a [Mount], root: &Path) -> Vec<&'a Mount> {
    let tree = Tree::new(mounts);
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    // (mount, whether its children are already in `order`); the last one is next.
    let mut stack: Vec<(usize, bool)> = Vec::new();
    push_children(&tree, tree.holding(root), root, &mut stack);
    while let Some((i, expanded)) = stack.pop() {
        if expanded {
            order.push(&mounts[i]);
        } else if seen.insert(i) {
            stack.push((i, true));
            push_children(&tree, Some(mounts[i].id), root, &mut stack);
        }
    }
    order
}

/// Puts the mounts on `parent` that are at or below `root` on the stack, so that they come off in the order in which they
/// can be unmounted.
fn push_children(tree: &Tree<'_>, parent: Option<u64>, root: &Path, stack: &mut Vec<(usize, bool)>) {
    let mut children: Vec<usize> =
        tree.children(parent).iter().copied().filter(|&i| tree.mounts[i].target.starts_with(root)).collect();
    // Of two mounts on the same one, the one with the shorter path hides the other: it was made later, or else the other
    // would be on it. It must come off first, so it goes on the stack last.
    children.sort_by_key(|&i| (std::cmp::Reverse(tree.mounts[i].target.components().count()), i));
    stack.extend(children.into_iter().map(|i| (i, false)));
}

/// The mounts by the mount that they are on.
struct Tree<'a> {
    mounts: &'a [Mount],
    /// By the parent's id; `None` stands for a parent that is not listed.
    children: HashMap<Option<u64>, Vec<usize>>,
}

impl<'a> Tree<'a> {
    fn new(mounts: &'a [Mount]) -> Self {
        let ids: HashSet<u64> = mounts.iter().map(|m| m.id).collect();
        let mut children: HashMap<Option<u64>, Vec<usize>> = HashMap::new();
        for (i, mount) in mounts.iter().enumerate() {
            let listed = mount.parent != mount.id && ids.contains(&mount.parent);
            children.entry(listed.then_some(mount.parent)).or_default().push(i);
        }
        Self { mounts, children }
    }

    fn children(&self, parent: Option<u64>) -> &[usize] {
        self.children.get(&parent).map_or(&[], Vec::as_slice)
    }

    /// Returns the mount with the directory that `root`, or what is mounted there, is in, by walking down from `/` as a path
    /// lookup does. In a chroot that is not a mount point it may be one that is not listed.
    fn holding(&self, root: &Path) -> Option<u64> {
        let mut at = None;
        let mut path = PathBuf::new();
        let mut seen = HashSet::new();
        for component in root.components() {
            // A mount on the last component is at `root` itself.
            if !matches!(component, Component::RootDir) || !path.as_os_str().is_empty() {
                at = self.top(at, &path, &mut seen);
            }
            path.push(component);
        }
        at
    }

    /// Returns the topmost of the mounts that are stacked at `path` on `at`.
    fn top(&self, mut at: Option<u64>, path: &Path, seen: &mut HashSet<u64>) -> Option<u64> {
        loop {
            let on_it = self.children(at).iter().map(|&i| &self.mounts[i]);
            // The kernel writes normal paths: comparing the bytes is faster than comparing components.
            match on_it.rev().find(|m| m.target.as_os_str() == path.as_os_str()) {
                Some(mount) if seen.insert(mount.id) => at = Some(mount.id),
                _ => return at,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn targets(text: &str, root: &str) -> Vec<String> {
        let mounts = parse(text.as_bytes()).unwrap();
        below(&mounts, Path::new(root)).iter().map(|m| format!("{} {}", m.id, m.target.display())).collect()
    }

    fn line(id: u64, parent: u64, target: &str) -> String {
        format!("{id} {parent} 0:{id} / {target} rw,relatime - tmpfs t rw\n")
    }

    fn table(rows: &[(u64, u64, &str)]) -> String {
        rows.iter().map(|&(i, p, t)| line(i, p, t)).collect()
    }

    #[test]
    fn every_field_is_read() {
        let text = b"36 35 98:12 /mnt1 /mnt/par\\040ent rw,noatime shared:7 master:1 unbindable - ext3 /dev/r\\043t rw,errors=continue\n";
        let mounts = parse(text).unwrap();
        assert_eq!(
            mounts,
            [Mount {
                id: 36,
                parent: 35,
                dev: (98, 12),
                target: "/mnt/par ent".into(),
                shared: true,
                fstype: "ext3".into(),
                source: "/dev/r#t".into(),
            }]
        );
    }

    #[test]
    fn escapes_become_bytes() {
        for (field, bytes) in [
            (&b"/a\\040b"[..], &b"/a b"[..]),
            (b"/a\\011b", b"/a\tb"),
            (b"/a\\012b", b"/a\nb"),
            (b"/a\\134040b", b"/a\\040b"),
            (b"/a\\377", b"/a\xff"),
            (b"/\xff\xfe", b"/\xff\xfe"),
            (b"/a\\", b"/a\\"),
            (b"/a\\04", b"/a\\04"),
            (b"/a\\0x0", b"/a\\0x0"),
            (b"/a\\477", b"/a\\477"),
            (b"", b""),
        ] {
            assert_eq!(decode(field).as_bytes(), bytes);
        }
    }

    #[test]
    fn empty_sources_and_blanks_in_options() {
        let mounts = parse(b"1 1 0:1 / / rw - tmpfs  rw,a b\n").unwrap();
        assert_eq!(mounts[0].source, "");
        assert!(!mounts[0].shared);
    }

    #[test]
    fn what_is_not_mountinfo_is_refused_with_its_line() {
        let good = line(1, 1, "/");
        for (bad, why) in [
            ("x 1 0:1 / / rw - t s rw", "line 2: the id is not a number"),
            ("+1 1 0:1 / / rw - t s rw", "the id is not a number"),
            ("1  0:1 / / rw - t s rw", "parent's id is not a number"),
            ("1 1 01 / / rw - t s rw", "not MAJOR:MINOR"),
            ("1 1 0: / / rw - t s rw", "not MAJOR:MINOR"),
            ("1 1 0:1 / / rw shared:1", "it ends too early"),
            ("1 1 0:1 / / rw - t", "it ends too early"),
            ("99999999999999999999 1 0:1 / / rw - t s", "not a number"),
        ] {
            let error = parse(format!("{good}{bad}\n").as_bytes()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn only_what_is_at_or_below_by_components() {
        let text =
            table(&[(1, 0, "/"), (2, 1, "/srv/t"), (3, 2, "/srv/t/proc"), (4, 1, "/srv/target"), (5, 1, "/proc")]);
        assert_eq!(targets(&text, "/srv/t"), ["3 /srv/t/proc", "2 /srv/t"]);
        assert_eq!(targets(&text, "/srv/target/x"), [""; 0]);
        assert_eq!(targets(&text, "/"), { ["5 /proc", "4 /srv/target", "3 /srv/t/proc", "2 /srv/t", "1 /",] });
    }

    #[test]
    fn children_go_before_parents_whatever_the_list_says() {
        // The ids are from a kernel that gave lower ones away again, and the list is upside down.
        let text = table(&[
            (7, 40, "/t/dev/pts/deep"),
            (40, 12, "/t/dev/pts"),
            (12, 30, "/t/dev"),
            (9, 30, "/t/proc"),
            (30, 1, "/t"),
            (1, 0, "/"),
        ]);
        assert_eq!(targets(&text, "/t"), { ["9 /t/proc", "7 /t/dev/pts/deep", "40 /t/dev/pts", "12 /t/dev", "30 /t"] });
    }

    #[test]
    fn stacked_mounts_come_off_from_the_top() {
        // The whole recipe twice: the second bind hides the first one's mounts.
        let text = table(&[
            (1, 0, "/"),
            (2, 1, "/t"),
            (3, 2, "/t/proc"),
            (4, 3, "/t/proc"),
            (5, 2, "/t"),
            (6, 5, "/t/proc"),
            (7, 6, "/t/proc"),
        ]);
        assert_eq!(targets(&text, "/t"), { ["7 /t/proc", "6 /t/proc", "5 /t", "4 /t/proc", "3 /t/proc", "2 /t",] });
    }

    #[test]
    fn what_hides_goes_before_what_it_hides() {
        // On a shared '/', the bind of the root on itself is a peer: each mount is below it too, hidden.
        let text = table(&[(1, 0, "/"), (2, 1, "/t"), (3, 2, "/t/dev"), (4, 1, "/t/dev"), (5, 1, "/t/dev/pts/x")]);
        assert_eq!(targets(&text, "/t"), { ["3 /t/dev", "2 /t", "4 /t/dev", "5 /t/dev/pts/x"] });
    }

    #[test]
    fn a_mount_that_is_hidden_from_above_is_not_at_the_root() {
        let text = table(&[(1, 0, "/"), (2, 1, "/srv"), (3, 2, "/srv/t/proc"), (4, 2, "/srv"), (5, 4, "/srv/t/proc")]);
        assert_eq!(targets(&text, "/srv/t"), ["5 /srv/t/proc"]);
    }

    #[test]
    fn a_chroot_has_no_mount_at_its_root() {
        let text = table(&[(5, 1, "/t"), (6, 5, "/t/proc"), (8, 1, "/proc")]);
        assert_eq!(targets(&text, "/t"), ["6 /t/proc", "5 /t"]);
        // And an initramfs's rootfs is its own parent, below the real one.
        let text = table(&[(1, 1, "/"), (2, 1, "/"), (3, 2, "/t")]);
        assert_eq!(targets(&text, "/t"), ["3 /t"]);
    }

    #[test]
    fn a_mount_point_whose_name_is_gone() {
        let text = line(1, 0, "/") + &line(2, 1, "/t/x//deleted");
        let mounts = parse(text.as_bytes()).unwrap();
        assert_eq!(mounts[1].target, Path::new("/t/x"));
        assert_eq!(targets(&text, "/t"), ["2 /t/x"]);
    }

    #[test]
    fn hostile_text_neither_panics_nor_hangs() {
        // A ring of parents, a mount twice, and a chain deeper than any stack of calls.
        let ring = table(&[(1, 2, "/t"), (2, 1, "/t"), (2, 1, "/t"), (3, 3, "/t")]);
        assert!(targets(&ring, "/t").len() <= 4);
        let chain: String = (1..200_000).map(|i| line(i, i - 1, "/t")).collect();
        assert_eq!(targets(&chain, "/t").len(), 199_999);
        // A generator of noise: xorshift, so that a failure can be had again.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let alphabet = b"0123456789 :/\\-\n,abdelt.\xff";
        for _ in 0..20_000 {
            let mut noise = b"1 0 0:1 / / rw - t s rw\n".to_vec();
            for _ in 0..40 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = usize::try_from(state >> 33).unwrap();
                let byte = alphabet[at % alphabet.len()];
                if state & 1 == 0 {
                    noise.push(byte);
                } else {
                    let len = noise.len();
                    noise[at % len] = byte;
                }
            }
            if let Ok(mounts) = parse(&noise) {
                assert!(below(&mounts, Path::new("/")).len() <= mounts.len());
            }
        }
    }

    #[test]
    fn this_system_can_be_read() {
        let mounts = read().unwrap();
        let all = below(&mounts, Path::new("/"));
        assert!(!all.is_empty());
        for (i, mount) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|m| m.id != mount.parent), "{mount:?}");
        }
    }
}
