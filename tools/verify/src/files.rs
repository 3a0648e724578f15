//! Compares the files of a package with its mtree, as `pacman -Qkk` does, but by their content and not by their times.
//!
//! Content is compared at once. An owner, a mode or an ACL that differs is decided when all packages were read: another
//! package may have the same directory, and packages' rules of tmpfiles.d(5) may set another value.
//!
//! The work is done inside, where owners are the root's own ids, and nothing of the plan is mounted over the root. Paths
//! are resolved in the root, as a program there would see them, and never lead out of it.

use crate::acl::{self, Acl};
use crate::names::Names;
use crate::tmpfiles::{self, State};
use package::digest::{PIECE, Sha256Reader, sha256_hex};
use package::mtree::{Entry, Kind};
use pacman::conf::NoExtract;
use rootfs::plan::Owner;
use rootfs::root::Siblings;
use rootfs::{Mount, Root};
use rustix::fs::{FileType, OFlags, Stat, fstatfs, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::members::{ChangedFile as Change, TreeFile};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// What was found of a package's files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Files {
    /// Those that differ from the package.
    pub(crate) changed: Vec<Change>,
    /// Those that do not exist.
    pub(crate) missing: Vec<String>,
    /// Configuration files that were changed.
    pub(crate) configuration: Vec<String>,
    /// Those that could not be read, and why not.
    pub(crate) unread: Vec<Change>,
}

impl Files {
    /// Returns the word that stands in the document.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self { changed, .. } if !changed.is_empty() => "changed",
            Self { missing, .. } if !missing.is_empty() => "missing",
            Self { unread, .. } if !unread.is_empty() => "unread",
            _ => "intact",
        }
    }

    pub(crate) fn add_changed(&mut self, path: String, what: &str) {
        self.changed.push(Change { path, what: what.to_owned() });
    }

    pub(crate) fn add_unread(&mut self, path: String, why: Errno) {
        self.unread.push(Change { path, what: why.to_string() });
    }
}

/// Paths that are not compared.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Covered by a mount, with all that is below them.
    covered: Vec<String>,
    /// Mount points of file systems of the root: what is below them is compared.
    points: Vec<String>,
    /// Never extracted.
    noextract: NoExtract,
    /// What trees brought: it is compared with the document, and not with a package that has the same path.
    laid: BTreeSet<String>,
}

impl Rules {
    /// Returns the rules for a root with this plan. `live` says that the plan is mounted on the host.
    pub(crate) fn of(mounts: &[Mount], live: bool, noextract: NoExtract) -> Self {
        let mut rules = Self { noextract, ..Self::default() };
        for mount in mounts {
            match Owner::of(mount) {
                Owner::Kernel if !live => {}
                Owner::Kernel | Owner::Host => rules.covered.push(mount.at.clone()),
                Owner::Root => rules.points.push(mount.at.clone()),
            }
        }
        rules
    }

    /// Leaves out what trees brought.
    pub(crate) fn without(mut self, tree: &[TreeFile]) -> Self {
        self.laid = tree.iter().map(|file| file.path.clone()).collect();
        self
    }

    /// Returns whether what is at `path` is not compared with a package.
    pub(crate) fn skips(&self, path: &str) -> bool {
        let at_or_below =
            |at: &String| path.strip_prefix(at.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.covered.iter().any(at_or_below) || self.points.iter().any(|at| at == path) || self.laid.contains(path)
    }
}

/// Returns whether an error says that there is no such file.
pub(crate) fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR)
}

/// Returns whether an error says that a file is missing, or not a regular file of a sensible length. Every other error says
/// that it could not be read.
pub(crate) fn is_other(error: Errno) -> bool {
    is_absent(error) || matches!(error, Errno::INVAL | Errno::FBIG | Errno::LOOP | Errno::NXIO | Errno::XDEV)
}

/// The comparison of a package's files, and what can be decided only when all packages are compared.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) files: Files,
    /// Files and directories whose owner, mode or ACL differs from the mtree.
    pub(crate) pending: Vec<Pending>,
    /// Directories that match the mtree.
    pub(crate) directories: Vec<String>,
    /// Files with tmpfiles.d(5) rules that match the mtree, and their hashes.
    pub(crate) rules: Vec<(String, String)>,
    /// The paths of all its files, where that is asked.
    pub(crate) paths: Vec<Vec<u8>>,
    /// Whether the package's records count for other packages' files: if it is validly signed, or signatures are not checked.
    pub(crate) trusted: bool,
}

/// A file whose owner, mode or ACL differs from the mtree.
#[derive(Debug)]
pub(crate) struct Pending {
    path: String,
    kind: Kind,
    is: State,
    expected: State,
    /// Whether it is a configuration file.
    is_backup: bool,
}

/// Compares the files of a package. `backup` are its configuration files.
pub(crate) fn compare(root: &Root, entries: &[Entry], backup: &BTreeSet<String>, rules: &Rules) -> Compared {
    let mut compared = Compared::default();
    let files = &mut compared.files;
    let mut buffer = vec![0; PIECE];
    let mut siblings = Siblings::new(root.as_fd());
    for entry in entries {
        let path: Cow<'_, str> = String::from_utf8_lossy(&entry.path);
        if rules.skips(&path) {
            continue;
        }
        let found = match compare_file(&mut siblings, entry, &mut buffer) {
            Ok(found) => found,
            Err(e) if is_absent(e) => {
                // libalpm has a slash at the end of a directory, so `usr/share/doc/*` is that of itself too.
                let mut name = path.to_string();
                if entry.kind == Kind::Directory {
                    name.push('/');
                }
                if !rules.noextract.has(name.as_bytes()) {
                    files.missing.push(path.into_owned());
                }
                continue;
            }
            // No package brings links that lead in a circle.
            Err(Errno::LOOP) => (Some("a loop of links"), None),
            Err(e) => {
                files.add_unread(path.into_owned(), e);
                continue;
            }
        };
        let is_backup = backup.contains(&*path);
        let (content, state) = found;
        match content {
            Some(_) if is_backup => files.configuration.push(path.to_string()),
            Some(what) => {
                files.add_changed(path.into_owned(), what);
                continue;
            }
            None => {}
        }
        if let Some((is, expected)) = state {
            compared.pending.push(Pending { path: path.into_owned(), kind: entry.kind, is, expected, is_backup });
        } else if entry.kind == Kind::Directory {
            compared.directories.push(path.into_owned());
        } else if content.is_none()
            && let Some(hash) = &entry.sha256
            && is_rules(&path)
        {
            compared.rules.push((path.into_owned(), hash.clone()));
        }
    }
    compared
}

/// Compares what trees brought with what the document has of it.
pub(crate) fn compare_tree(root: &Root, tree: &[TreeFile], rules: &Rules) -> Files {
    let entry = |file: &TreeFile| Entry {
        path: file.path.clone().into_bytes(),
        kind: match file.kind.as_str() {
            "file" => Kind::File,
            "directory" => Kind::Directory,
            "link" => Kind::Link,
            _ => Kind::Other,
        },
        mode: file.mode(),
        uid: Some(file.uid),
        gid: Some(file.gid),
        size: file.size,
        sha256: file.sha256.clone(),
        link: file.target.clone().map(String::into_bytes),
    };
    let entries: Vec<Entry> = tree.iter().map(entry).collect();
    let (covered, points) = (rules.covered.clone(), rules.points.clone());
    let mut compared = compare(root, &entries, &BTreeSet::new(), &Rules { covered, points, ..Rules::default() });
    for pending in compared.pending {
        let what = differences(&pending.is, &pending.expected).first().copied();
        compared.files.add_changed(pending.path, what.unwrap_or("mode"));
    }
    compared.files
}

/// Returns whether that is a file with rules of tmpfiles.d(5).
fn is_rules(path: &str) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(directory, name)| name.ends_with(".conf") && tmpfiles::DIRECTORIES.contains(&directory))
}

/// Decides what is pending when all packages have been compared.
pub(crate) fn decide_pending(root: &Root, packages: &mut [Compared]) {
    if packages.iter().all(|c| c.pending.is_empty()) {
        return;
    }
    let rules = read_rules(root, packages);
    // pacman makes a directory of several packages once: it must be as one of them has it.
    let mut good: BTreeSet<String> = BTreeSet::new();
    let mut open = Vec::new();
    for (n, compared) in packages.iter_mut().enumerate() {
        if compared.trusted {
            good.extend(std::mem::take(&mut compared.directories));
        }
        for pending in std::mem::take(&mut compared.pending) {
            let results = rules.results(n, &pending.path, pending.kind, &pending.expected);
            if !results.contains(&pending.is) {
                open.push((n, pending, results));
            } else if pending.kind == Kind::Directory && compared.trusted {
                good.insert(pending.path);
            }
        }
    }
    for (n, pending, results) in open {
        let files = &mut packages[n].files;
        let mut expected = std::iter::once(&pending.expected).chain(&results);
        if pending.kind == Kind::Directory && good.contains(&pending.path) {
            continue;
        }
        if pending.is_backup && expected.any(|state| is_narrower(&pending.is, state)) {
            if !files.configuration.contains(&pending.path) {
                files.configuration.push(pending.path);
            }
            continue;
        }
        files.configuration.retain(|path| *path != pending.path);
        let expected = std::iter::once(&pending.expected).chain(&results);
        let differences = expected.map(|state| differences(&pending.is, state));
        let nearest = differences.min_by_key(Vec::len);
        let what = nearest.and_then(|list| list.first().copied());
        files.add_changed(pending.path, what.unwrap_or("mode"));
    }
}

/// Reads the rules in the files that match their packages.
fn read_rules(root: &Root, packages: &[Compared]) -> tmpfiles::Rules {
    let mut files = Vec::new();
    for (package, compared) in packages.iter().enumerate() {
        for (path, hash) in &compared.rules {
            // It was read before; a file that cannot be read now permits nothing.
            if let Ok(text) = root.read(path, RULES)
                && sha256_hex(&text) == *hash
            {
                files.push(tmpfiles::File {
                    path: path.clone(),
                    text: String::from_utf8_lossy(&text).into_owned(),
                    package,
                    for_all: compared.trusted,
                });
            }
        }
    }
    let machine = root.read("etc/machine-id", 4096).unwrap_or_default();
    let machine = String::from_utf8_lossy(&machine);
    let machine = Some(machine.trim()).filter(|id| id.len() == 32);
    tmpfiles::Rules::read(&files, &Names::read(root), machine)
}

/// The longest file with rules that is read, in bytes.
const RULES: u64 = 1 << 20;

/// Returns whether nobody has more access to a file in state `is` than in state `was`.
fn is_narrower(is: &State, was: &State) -> bool {
    let bits = |state: &State, shift: u32| state.mode >> shift & 7;
    // A new group was among the others before.
    let group = bits(was, if is.gid == was.gid { 3 } else { 0 });
    is.uid == was.uid
        && bits(is, 3) & !group == 0
        && is.mode & !was.mode & 0o7707 == 0
        && (is.gid == was.gid || is.mode & 0o2000 == 0)
        && (is.acl.is_none() || is.acl == was.acl)
}

/// Returns what is different, in the order in which it matters.
fn differences(is: &State, expected: &State) -> Vec<&'static str> {
    let acls = (&is.acl, &is.default_acl) != (&expected.acl, &expected.default_acl);
    let all = [
        ("mode", is.mode != expected.mode),
        ("owner", is.uid != expected.uid),
        ("group", is.gid != expected.gid),
        ("acl", acls),
    ];
    let different = all.into_iter().filter(|(_, differs)| *differs);
    different.map(|(what, _)| what).collect()
}

/// How a file differs from its mtree: in its content, and the found and the expected owner, mode and ACL, where these differ.
type Difference = (Option<&'static str>, Option<(State, State)>);

/// Compares a file with its mtree.
fn compare_file(siblings: &mut Siblings<'_>, entry: &Entry, buffer: &mut [u8]) -> Result<Difference, Errno> {
    let stat = siblings.stat(&entry.path)?;
    let mut open = |flags| siblings.open(&entry.path, flags);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    if kind != entry.kind {
        return Ok((Some("type"), None));
    }
    let mut content = None;
    let mut is = State { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, ..State::default() };
    // Links have no permissions of their own.
    let mode = entry.mode.filter(|_| kind != Kind::Link);
    let expected = State {
        mode: mode.map_or(is.mode, |mode| mode & 0o7777),
        uid: entry.uid.unwrap_or(is.uid),
        gid: entry.gid.unwrap_or(is.gid),
        ..State::default()
    };
    match kind {
        Kind::Link => {
            if let Some(link) = &entry.link
                && readlinkat(&open(OFlags::PATH)?, "", Vec::new())?.as_bytes() != link
            {
                content = Some("target");
            }
        }
        Kind::File => {
            let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            is.acl = Acl::read(&file, acl::ACCESS)?;
            content = compare_content(file, entry, &stat, buffer)?;
        }
        Kind::Directory => {
            match open(OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(directory) => {
                    is.acl = Acl::read(&directory, acl::ACCESS)?;
                    is.default_acl = Acl::read(&directory, acl::DEFAULT)?;
                }
                // It cannot be read because of the difference.
                Err(_) if is != expected => {}
                Err(e) => return Err(e),
            }
        }
        Kind::Other => {}
    }
    let same = is == expected || has_no_owners(&open(OFlags::PATH)?);
    Ok((content, (!same).then_some((is, expected))))
}

/// Returns what is different in the content of a file.
fn compare_content(
    file: OwnedFd,
    entry: &Entry,
    stat: &Stat,
    buffer: &mut [u8],
) -> Result<Option<&'static str>, Errno> {
    let size = u64::try_from(stat.st_size).ok();
    if entry.size.is_some() && entry.size != size {
        return Ok(Some("size"));
    }
    let Some(expected) = &entry.sha256 else {
        return Ok(Some("no hash to compare with"));
    };
    let mut reader = Sha256Reader::new(std::fs::File::from(file));
    reader.drain_by(buffer, size.unwrap_or(u64::MAX)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok((reader.finish() != *expected).then_some("content"))
}

/// Returns whether a file is on a file system without owners and modes, FAT or exFAT, as an EFI `/boot`.
fn has_no_owners(file: &OwnedFd) -> bool {
    const FAT_AND_EXFAT: [u32; 2] = [0x4d44, 0x2011_bab0];
    // A number of another type on every architecture.
    fstatfs(file).is_ok_and(|fs| FAT_AND_EXFAT.map(i128::from).contains(&fs.f_type.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Compares, with nobody else there.
    fn files_of(root: &Root, entries: &[Entry], backup: &BTreeSet<String>, rules: &Rules) -> Files {
        let mut compared = [compare(root, entries, backup, rules)];
        compared[0].trusted = true;
        decide_pending(root, &mut compared);
        let [compared] = compared;
        compared.files
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
        let rules = Rules::of(&mounts, false, NoExtract::default());
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
        let rules = Rules::of(&mounts, true, NoExtract::default());
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
            files_of(&root, entries, &backup, &rules)
        };
        let same = |_: &mut Entry| {};
        // Through a link of the root, as a program there would go.
        let good = [
            entry("usr/lib/same", same),
            entry("lib/same", same),
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
            let change = Change { path: "usr/lib/other".into(), what: what.into() };
            assert_eq!((files.word(), files.changed), ("changed", vec![change]));
        }
        let link = |e: &mut Entry| {
            e.kind = Kind::Link;
            e.link = Some(b"usr".to_vec());
        };
        assert_eq!(found(&[entry("lib", link)]).changed[0].what, "target");
        let config = found(&[entry("etc-config", |e| e.size = Some(5))]);
        assert_eq!((config.word(), config.configuration), ("intact", vec!["etc-config".to_owned()]));
        // A link out of the root leads nowhere: there is no etc/passwd in it.
        let files = found(&[entry("out/passwd", same), entry("none", same)]);
        assert_eq!((files.word(), files.missing), ("missing", vec!["out/passwd".to_owned(), "none".to_owned()]));
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
        let files = as_nobody(|| files_of(&root, &entries, &backup, &Rules::default()));
        let unread = |path: &str| Change { path: path.into(), what: Errno::ACCESS.to_string() };
        assert_eq!(files, Files { unread: vec![unread("config"), unread("program")], ..Files::default() });
        assert_eq!(files.word(), "unread");
    }

    #[test]
    fn what_a_tree_brought_is_compared_with_the_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        for name in ["same", "content", "mode", ".dot"] {
            fs::write(path.join(name), "data").unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        symlink("/dev/null", path.join("link")).unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        fs::set_permissions(path.join("directory"), fs::Permissions::from_mode(0o755)).unwrap();
        let me = path.metadata().unwrap();
        let file = |path: &str, mode: &str, text: &str| TreeFile {
            path: path.into(),
            kind: "file".into(),
            mode: Some(mode.into()),
            uid: me.uid(),
            gid: me.gid(),
            sha256: Some(sha256_hex(text)),
            ..TreeFile::default()
        };
        let other = |path: &str, kind: &str| TreeFile { kind: kind.into(), sha256: None, ..file(path, "0755", "") };
        let link = |target: &str| TreeFile { target: Some(target.into()), mode: None, ..other("link", "link") };
        let tree = [
            file("same", "0644", "data"),
            file("content", "0644", "other"),
            file("mode", "4644", "data"),
            file(".dot", "0644", "other"),
            file("none", "0644", "data"),
            other("directory", "directory"),
            other("link", "file"),
            link("/dev/zero"),
        ];
        let root = Root::open(&path).unwrap();
        let files = compare_tree(&root, &tree, &Rules::default());
        let found: Vec<_> = files.changed.iter().map(|c| (c.path.as_str(), c.what.as_str())).collect();
        let expected =
            [("content", "content"), (".dot", "content"), ("link", "type"), ("link", "target"), ("mode", "mode")];
        assert_eq!((found.as_slice(), files.missing), (&expected[..], vec!["none".to_owned()]));
        assert_eq!(compare_tree(&root, &[link("/dev/null")], &Rules::default()), Files::default());
        // A package's file of the same path is not looked at.
        let entry = Entry { path: b"content".to_vec(), kind: Kind::Directory, ..Entry::default() };
        let rules = Rules::default().without(&tree);
        assert_eq!(files_of(&root, &[entry], &BTreeSet::new(), &rules), Files::default());
    }

    #[test]
    fn what_was_never_extracted_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(&dir.path().canonicalize().unwrap()).unwrap();
        let entry = |path: &str, kind| Entry { path: path.as_bytes().to_vec(), kind, ..Entry::default() };
        let entries = [
            entry("usr/share/doc", Kind::Directory),
            entry("usr/share/doc/x", Kind::File),
            entry("usr/share/docs", Kind::Directory),
        ];
        let rules = Rules { noextract: NoExtract::of("NoExtract = usr/share/doc/*\n"), ..Rules::default() };
        let files = files_of(&root, &entries, &BTreeSet::new(), &rules);
        assert_eq!(files.missing, ["usr/share/docs"]);
    }
}
