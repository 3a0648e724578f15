//! The files of a package against what its mtree says of them, as `pacman -Qkk` does it, but by their content and not by
//! their times.
//!
//! The work is done inside, where owners are the root's own ids, and nothing of the plan is mounted over the root. Paths
//! are resolved in the root, as a program there would see them, and never out of it.

use package::digest::Sha256Reader;
use package::mtree::{Entry, Kind};
use rootfs::plan::Owner;
use rootfs::root::open_within;
use rootfs::{Mount, Root};
use rustix::fs::{FileType, OFlags, Stat, fstat, fstatfs, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// What was found of a package's files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Files {
    /// Those that are not what was installed.
    pub(crate) changed: Vec<Change>,
    /// Those that are not there.
    pub(crate) missing: Vec<String>,
    /// Those that are there to be changed, and were.
    pub(crate) configuration: Vec<String>,
    /// Those that could not be read, and why not. Nobody knows what they are.
    pub(crate) unread: Vec<Change>,
}

/// A file that is not what was installed, or of which that is not known.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// Its path below the root.
    pub(crate) path: String,
    /// What is different: `type`, `content`, `size`, `target`, `mode`, `owner`, `group`, or why it could not be read.
    pub(crate) what: String,
}

impl Files {
    /// Returns the word that stands in the document.
    pub(crate) fn word(&self) -> &'static str {
        match (
            self.changed.is_empty(),
            self.missing.is_empty(),
            self.unread.is_empty(),
        ) {
            (true, true, true) => "intact",
            (true, true, false) => "unread",
            (true, false, _) => "missing",
            (false, _, _) => "changed",
        }
    }

    /// Adds one that could not be read.
    pub(crate) fn add_unread(&mut self, path: String, why: Errno) {
        let what = why.to_string();
        self.unread.push(Change { path, what });
    }
}

/// Which paths are no package's business any more.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Covered by a mount, they and what is below them.
    covered: Vec<String>,
    /// Covered by a file system of their own: what is below them is the root's.
    points: Vec<String>,
    /// Never extracted: patterns of pacman.conf(5), `NoExtract`.
    noextract: Vec<String>,
    /// Directories that systemd-tmpfiles gives an owner and a mode.
    tmpfiles: BTreeSet<String>,
    /// Those that it gives an ACL.
    acls: BTreeSet<String>,
}

impl Rules {
    /// Returns the rules for a root with this plan. `live` says that the plan is mounted on the host.
    pub(crate) fn of(mounts: &[Mount], live: bool) -> Self {
        let mut rules = Self::default();
        for mount in mounts {
            match mount.owner() {
                Owner::Kernel if !live => {}
                Owner::Kernel | Owner::Host => rules.covered.push(mount.at.clone()),
                Owner::Root => rules.points.push(mount.at.clone()),
            }
        }
        rules
    }

    /// Adds the `NoExtract` patterns of a pacman.conf(5).
    pub(crate) fn add_config(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            if key.trim() == "NoExtract" {
                let patterns = value.split_whitespace().map(str::to_owned);
                self.noextract.extend(patterns);
            }
        }
    }

    /// Adds what the tmpfiles.d(5) of the root's packages say of directories.
    pub(crate) fn add_tmpfiles(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_whitespace();
            if let (Some(kind), Some(path)) = (words.next(), words.next())
                && kind.starts_with(['d', 'D', 'e', 'v', 'q', 'Q', 'z', 'Z', 'm'])
            {
                self.tmpfiles.insert(path.trim_matches('/').to_owned());
            } else if let Some(path) = tmpfiles_acl(line) {
                self.acls.insert(path.trim_matches('/').to_owned());
            }
        }
    }

    fn skips(&self, path: &str) -> bool {
        let at_or_below = |at: &String| {
            path.strip_prefix(at.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.covered.iter().any(at_or_below) || self.points.iter().any(|at| at == path)
    }

    /// Returns whether pacman was told not to extract that. As in libalpm, the last pattern that matches decides, and
    /// `!` takes one back.
    fn not_extracted(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.noextract {
            match pattern.strip_prefix('!') {
                Some(inverted) if matches(inverted.as_bytes(), path.as_bytes()) => matched = false,
                None if matches(pattern.as_bytes(), path.as_bytes()) => matched = true,
                _ => {}
            }
        }
        matched
    }
}

/// Compares a text with a pattern of fnmatch(3) without flags: `*` and `?` match a slash too.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it took.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return true,
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) if t < text.len() => one(&pattern[p..], text[t]),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, taken))) if taken < text.len() => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one byte with what stands at the beginning of a pattern; returns the length of that.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let single = |literal: u8, length| (literal == byte).then_some(length);
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => single(*literal, 2),
        [b'[', rest @ ..] => {
            let negated = matches!(rest.first(), Some(b'!' | b'^'));
            let set = &rest[usize::from(negated)..];
            // A bracket that comes first is one of the set.
            let Some(end) = set.iter().skip(1).position(|b| *b == b']').map(|n| n + 1) else {
                return single(b'[', 1);
            };
            let mut found = false;
            let mut at = 0;
            while at < end {
                if at + 2 < end && set[at + 1] == b'-' {
                    found |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= set[at] == byte;
                    at += 1;
                }
            }
            (found != negated).then_some(1 + usize::from(negated) + end + 1)
        }
        [literal, ..] => single(*literal, 1),
        [] => None,
    }
}

/// Returns whether an error says that there is no such file.
pub(crate) fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR)
}

/// Returns whether an error says what is there: not there, not a file, longer than any is. Every other one says that it
/// could not be read.
pub(crate) fn is_other(error: Errno) -> bool {
    is_absent(error)
        || matches!(
            error,
            Errno::INVAL | Errno::FBIG | Errno::LOOP | Errno::NXIO | Errno::XDEV
        )
}

/// Compares the files of a package. `backup` are those that are there to be changed.
pub(crate) fn compare(
    root: &Root,
    entries: &[Entry],
    backup: &BTreeSet<String>,
    rules: &Rules,
) -> Files {
    let mut files = Files::default();
    for entry in entries {
        // What is of the package and not of the root: `.PKGINFO`, `.INSTALL`, `.CHANGELOG`.
        if entry.path.starts_with(b".") {
            continue;
        }
        let path: Cow<'_, str> = String::from_utf8_lossy(&entry.path);
        if rules.skips(&path) {
            continue;
        }
        let what = match look(root, entry) {
            Ok(Look::Same) => continue,
            Ok(Look::Differs(what)) => what,
            Err(e) if is_absent(e) => {
                // libalpm has a slash at the end of a directory, so `usr/share/doc/*` is that of itself too.
                let mut name = path.to_string();
                if entry.kind == Kind::Directory {
                    name.push('/');
                }
                if !rules.not_extracted(&name) {
                    files.missing.push(path.into_owned());
                }
                continue;
            }
            // No package brings links that lead in a circle.
            Err(Errno::LOOP) => "a loop of links".to_owned(),
            Err(e) => {
                files.add_unread(path.into_owned(), e);
                continue;
            }
        };
        let by_tmpfiles = entry.kind == Kind::Directory
            && matches!(&*what, "mode" | "owner" | "group")
            && rules.tmpfiles.contains(&*path);
        let by_tmpfiles = by_tmpfiles || what == ACL && rules.acls.contains(&*path);
        if backup.contains(&*path) || by_tmpfiles {
            files.configuration.push(path.into_owned());
        } else {
            files.changed.push(Change {
                path: path.into_owned(),
                what,
            });
        }
    }
    files
}

enum Look {
    Same,
    Differs(String),
}

fn look(root: &Root, entry: &Entry) -> Result<Look, Errno> {
    let open = |flags: OFlags| -> Result<OwnedFd, Errno> {
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&entry.path);
        open_within(root.as_fd(), path, flags | OFlags::NOFOLLOW)
    };
    let differs = |what: &str| Ok(Look::Differs(what.to_owned()));
    let here = open(OFlags::PATH)?;
    let stat = fstat(&here)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    if kind != entry.kind {
        return differs("type");
    }
    if kind == Kind::Link
        && let Some(link) = &entry.link
        && readlinkat(&here, "", Vec::new())?.as_bytes() != link
    {
        return differs("target");
    }
    if kind == Kind::File {
        if entry.size.is_some_and(|size| size != size_of(&stat)) {
            return differs("size");
        }
        let Some(expected) = &entry.sha256 else {
            return differs("no hash to compare with");
        };
        let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let mut reader = Sha256Reader::new(std::fs::File::from(file));
        reader
            .drain()
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        if reader.finish() != *expected {
            return differs("content");
        }
    }
    if matches!(kind, Kind::File | Kind::Directory)
        && has_acl(&open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?)
    {
        return differs(ACL);
    }
    let owner = |is: u32, was: Option<u32>| was.is_some_and(|was| was != is);
    let mode = |was: u32| was & 0o7777 != stat.st_mode & 0o7777;
    let what = if kind != Kind::Link && entry.mode.is_some_and(mode) {
        "mode"
    } else if owner(stat.st_uid, entry.uid) {
        "owner"
    } else if owner(stat.st_gid, entry.gid) {
        "group"
    } else {
        return Ok(Look::Same);
    };
    if has_no_owners(&here) {
        return Ok(Look::Same);
    }
    differs(what)
}

/// What differs where a file has an ACL: packages bring none, and a default one of the place that a root was made in is handed
/// on to every file.
const ACL: &str = "acl";

/// Returns the path of a tmpfiles.d(5) line that sets an ACL.
fn tmpfiles_acl(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words
        .next()?
        .starts_with(['a', 'A'])
        .then(|| words.next())?
}

/// Returns whether a file has an ACL of its own, or hands one on.
fn has_acl(file: &OwnedFd) -> bool {
    let has = |name: &str| {
        let read = rustix::fs::fgetxattr(file, name, &mut [0_u8; 64][..]);
        matches!(read, Ok(_) | Err(Errno::RANGE))
    };
    has("system.posix_acl_access") || has("system.posix_acl_default")
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Returns whether a file is on a file system that keeps no owners and modes, as a `/boot` of EFI is: FAT and exFAT.
fn has_no_owners(file: &OwnedFd) -> bool {
    const FAT_AND_EXFAT: [u32; 2] = [0x4d44, 0x2011_bab0];
    // A number of another type on every architecture.
    fstatfs(file).is_ok_and(|fs| FAT_AND_EXFAT.map(i128::from).contains(&fs.f_type.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::digest::sha256_hex;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn patterns_of_noextract() {
        for (pattern, text, is) in [
            ("usr/share/doc/*", "usr/share/doc/a/b", true),
            ("usr/share/doc/*", "usr/share/doc", false),
            ("*", "", true),
            ("*.?o", "lib/x.so", true),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybz", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                is,
                "{pattern} {text}"
            );
        }
        let mut rules = Rules::default();
        rules.add_config(
            "[options]\nNoExtract = usr/share/locale/* !usr/share/locale/de/*\nNoExtract=x\n",
        );
        assert!(rules.not_extracted("usr/share/locale/fr/y"));
        assert!(!rules.not_extracted("usr/share/locale/de/y"));
        assert!(rules.not_extracted("x"));
    }

    #[test]
    fn what_the_plan_covers_is_not_looked_at() {
        let mount = |at: &str, kind: &str| Mount {
            at: at.into(),
            kind: kind.into(),
            source: None,
            options: Vec::new(),
            nodes: Vec::new(),
        };
        let mounts = [
            mount("proc", "proc"),
            mount("run", "tmpfs"),
            mount("boot", "vfat"),
            mount("var/cache/pacman/pkg", "rbind"),
        ];
        let rules = Rules::of(&mounts, false);
        for (path, skipped) in [
            ("proc", false),
            ("boot", true),
            ("boot/vmlinuz", false),
            ("var/cache/pacman/pkg", true),
            ("var/cache/pacman/pkg/x", true),
            ("var/cache/pacman/pkgx", false),
        ] {
            assert_eq!(rules.skips(path), skipped, "{path}");
        }
        let rules = Rules::of(&mounts, true);
        assert!(rules.skips("proc") && rules.skips("run/x"));
    }

    #[test]
    fn each_difference_has_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("usr/lib")).unwrap();
        symlink("usr/lib", path.join("lib")).unwrap();
        symlink("/etc", path.join("out")).unwrap();
        for file in ["usr/lib/same", "usr/lib/other", "etc-config"] {
            fs::write(path.join(file), "data").unwrap();
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let me = path.metadata().unwrap();
        let entry = |at: &str, change: fn(&mut Entry)| {
            let mut entry = Entry {
                path: at.as_bytes().to_vec(),
                kind: Kind::File,
                mode: Some(0o644),
                uid: Some(me.uid()),
                gid: Some(me.gid()),
                size: Some(4),
                sha256: Some(sha256_hex("data")),
                link: None,
            };
            change(&mut entry);
            entry
        };
        let root = Root::open(&path).unwrap();
        let rules = Rules::default();
        let found = |entries: &[Entry]| {
            let backup = BTreeSet::from(["etc-config".to_owned()]);
            compare(&root, entries, &backup, &rules)
        };
        let same = |_: &mut Entry| {};
        // Through a link of the root, as a program there would go.
        let good = [
            entry("usr/lib/same", same),
            entry("lib/same", same),
            entry(".PKGINFO", same),
            entry("lib", |e| {
                e.kind = Kind::Link;
                e.link = Some(b"usr/lib".to_vec());
            }),
        ];
        assert_eq!(found(&good), Files::default());
        for (what, change) in [
            ("size", (|e| e.size = Some(5)) as fn(&mut Entry)),
            ("content", |e| e.sha256 = Some("00".into())),
            ("mode", |e| e.mode = Some(0o4644)),
            ("owner", |e| e.uid = Some(4_000_000)),
            ("group", |e| e.gid = Some(4_000_000)),
            ("type", |e| e.kind = Kind::Directory),
            ("no hash to compare with", |e| e.sha256 = None),
        ] {
            let files = found(&[entry("usr/lib/other", change)]);
            let change = Change {
                path: "usr/lib/other".into(),
                what: what.into(),
            };
            assert_eq!((files.word(), files.changed), ("changed", vec![change]));
        }
        let link = |e: &mut Entry| {
            e.kind = Kind::Link;
            e.link = Some(b"usr".to_vec());
        };
        assert_eq!(found(&[entry("lib", link)]).changed[0].what, "target");
        let config = found(&[entry("etc-config", |e| e.size = Some(5))]);
        assert_eq!(
            (config.word(), config.configuration),
            ("intact", vec!["etc-config".to_owned()])
        );
        // A link out of the root leads nowhere: there is no etc/passwd in it.
        let files = found(&[entry("out/passwd", same), entry("none", same)]);
        assert_eq!(
            (files.word(), files.missing),
            ("missing", vec!["out/passwd".to_owned(), "none".to_owned()])
        );
    }

    /// An ordinary user may not read a file of mode 0. Root may, so it becomes somebody else for that: in a thread of
    /// its own, as file system ids are each thread's.
    fn as_nobody(look: impl FnOnce() -> Files + Send) -> Files {
        std::thread::scope(|scope| {
            let nobody = || {
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
                look()
            };
            scope.spawn(nobody).join().unwrap()
        })
    }

    #[test]
    fn what_cannot_be_read_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut entries = Vec::new();
        for name in ["config", "program"] {
            fs::write(path.join(name), "data").unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o000)).unwrap();
            entries.push(Entry {
                path: name.into(),
                kind: Kind::File,
                mode: Some(0),
                size: Some(4),
                sha256: Some(sha256_hex("data")),
                ..Entry::default()
            });
        }
        let root = Root::open(&path).unwrap();
        let backup = BTreeSet::from(["config".to_owned()]);
        let files = as_nobody(|| compare(&root, &entries, &backup, &Rules::default()));
        let unread = |path: &str| Change {
            path: path.into(),
            what: Errno::ACCESS.to_string(),
        };
        assert_eq!(
            files,
            Files {
                unread: vec![unread("config"), unread("program")],
                ..Files::default()
            }
        );
        assert_eq!(files.word(), "unread");
    }

    #[test]
    fn what_was_never_extracted_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(&dir.path().canonicalize().unwrap()).unwrap();
        let entry = |path: &str, kind| Entry {
            path: path.as_bytes().to_vec(),
            kind,
            ..Entry::default()
        };
        let entries = [
            entry("usr/share/doc", Kind::Directory),
            entry("usr/share/doc/x", Kind::File),
            entry("usr/share/docs", Kind::Directory),
        ];
        let mut rules = Rules::default();
        rules.add_config("NoExtract = usr/share/doc/*\n");
        let files = compare(&root, &entries, &BTreeSet::new(), &rules);
        assert_eq!(files.missing, ["usr/share/docs"]);
    }

    #[test]
    fn directories_that_tmpfiles_changes_are_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("var/log/journal")).unwrap();
        let entry = Entry {
            path: b"var/log/journal".to_vec(),
            kind: Kind::Directory,
            mode: Some(0o7123),
            ..Entry::default()
        };
        let root = Root::open(&path).unwrap();
        let mut rules = Rules::default();
        let found =
            |rules: &Rules| compare(&root, std::slice::from_ref(&entry), &BTreeSet::new(), rules);
        assert_eq!(found(&rules).word(), "changed");
        rules.add_tmpfiles(b"# x\nz /var/log/journal 2755 root systemd-journal - -\n");
        assert_eq!(found(&rules).configuration, ["var/log/journal"]);
    }
}
