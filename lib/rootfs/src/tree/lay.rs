//! Laying trees over a root, inside: all is checked before anything is written, each file is written atomically, and what is as
//! it should be is not written, so that the next run completes one that was killed.

use super::owners::Id;
use super::source::{Content, Entry, Source, hash};
use crate::file::{replace_link, replace_with, temporary_name};
use crate::root::{open_below, read};
use crate::user;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, chownat, fchmod, fchown, fstat, mkdirat, readlinkat,
    renameat_with,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use stage::members::TreeFile;
use stage::signal::Heeding;
use stage::{Code, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
const ITSELF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// The longest passwd(5) or group(5) that is read.
const LIMIT: u64 = 16 << 20;

/// Some trees, the later ones over the earlier ones, and the root that they are laid over.
#[derive(Debug)]
pub struct Overlay<'a> {
    entries: BTreeMap<&'a str, (&'a Source, &'a Entry)>,
    /// What earlier runs brought.
    before: &'a [TreeFile],
    root: BorrowedFd<'a>,
    /// The root's path on the host, for messages.
    host_path: &'a Path,
}

/// What was laid.
#[derive(Debug, Default)]
pub struct Laid {
    /// For the document: what earlier runs brought and this one did not is kept.
    pub files: Vec<TreeFile>,
    /// Paths below the root that were written.
    pub changed: Vec<String>,
}

/// A mode and its owners.
type State = (u32, u32, u32);

impl<'a> Overlay<'a> {
    /// Puts trees together.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where one has a directory in the place of another's file.
    pub fn of(
        sources: &'a [Source],
        before: &'a [TreeFile],
        root: BorrowedFd<'a>,
        host_path: &'a Path,
    ) -> Result<Self, Failure> {
        let mut entries = BTreeMap::new();
        for source in sources {
            for (path, entry) in &source.entries {
                let is_directory = |entry: &Entry| entry.content == Content::Directory;
                let other: Option<(&Source, &Entry)> = entries.insert(path.as_str(), (source, entry));
                if let Some((other, _)) = other.filter(|(_, other)| is_directory(other) != is_directory(entry)) {
                    let (one, two, path) = (quote(&source.name), quote(&other.name), quote(path));
                    let why = format!("{path} is a directory in one of them, and not in the other");
                    return Err(Failure::new(Code::Usage, format!("laying the trees {two} and {one}: {why}")));
                }
            }
        }
        Ok(Self { entries, before, root, host_path })
    }

    /// Checks that every file can be laid, and writes nothing. `coming` says which users and groups will be made before
    /// [`Overlay::lay`], by the word `user` or `group` and the name.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where another file is there, [`Code::NotFound`] where the root lacks a user or group.
    pub fn check(&self, coming: impl Fn(&str, &str) -> bool) -> Result<(), Failure> {
        self.check_names(&self.ids()?, coming)?;
        for (path, (source, entry)) in &self.entries {
            let found = self.find(path).map_err(|e| self.refused(source, path, e))?;
            let Some(stat) = found else { continue };
            let is = FileType::from_raw_mode(stat.st_mode);
            let why = match (&entry.content, is) {
                (Content::Directory, FileType::Directory) => continue,
                (Content::Directory, FileType::Symlink) => return Err(self.refused(source, path, Errno::LOOP)),
                (Content::Directory, _) => "it is no directory in the root",
                (_, FileType::RegularFile | FileType::Symlink) => continue,
                (_, FileType::Directory) => "it is a directory in the root",
                _ => "it is a device, a fifo or a socket in the root",
            };
            return Err(self.failure(source, path, Code::Failed, &why));
        }
        Ok(())
    }

    /// Checks that no file would be replaced that no tree brought, since that could not be undone, and returns what is missing:
    /// paths, each with whether it is a directory, parents first.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where one would be replaced; when the root cannot be read.
    pub fn missing(&self) -> Result<Vec<(String, bool)>, Failure> {
        let mut missing = Vec::new();
        for (path, (source, entry)) in &self.entries {
            let found = self.find(path).map_err(|e| self.refused(source, path, e))?;
            let Some(stat) = found else {
                missing.push(((*path).to_owned(), entry.content == Content::Directory));
                continue;
            };
            let same = match &entry.content {
                Content::Directory => Ok(true),
                Content::File { sha256, size, .. } => {
                    let as_long =
                        FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size.cast_unsigned() == *size;
                    if as_long { self.hash(path).map(|hash| hash == *sha256) } else { Ok(false) }
                }
                Content::Link(target) => Ok(self.leads_to(path, target)),
            };
            let same = same.map_err(|e| self.refused(source, path, e))?;
            if !same && !self.before.iter().any(|file| file.path == *path) {
                return Err(self
                    .failure(source, path, Code::Failed, &"another file is there, which no tree brought")
                    .hint("lay it with 'configure --tree', which replaces files"));
            }
        }
        Ok(missing)
    }

    fn leads_to(&self, path: &str, target: &str) -> bool {
        let link = self.parent(path).and_then(|(parent, name)| readlinkat(&parent, name, Vec::new()));
        link.is_ok_and(|to| to.to_bytes() == target.as_bytes())
    }

    fn check_names(&self, ids: &Ids, coming: impl Fn(&str, &str) -> bool) -> Result<(), Failure> {
        for (path, (source, entry)) in &self.entries {
            let (user, group) = (&entry.listed.user, &entry.listed.group);
            for (kind, id, known) in [("user", user, ids.user(user)), ("group", group, ids.group(group))] {
                if let Some(Id::Name(name)) = id
                    && known.is_none()
                    && !coming(kind, name)
                {
                    let why = format!("the root has no {kind} '{name}'");
                    return Err(self.failure(source, path, Code::NotFound, &why).hint(
                        "users exist after 'strap' and 'configure --user': lay it with 'configure --tree', or give a number",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lays all of it. `tool` is recorded.
    ///
    /// # Errors
    ///
    /// At the first file that cannot be written; what came before it stays, and is in what `laid` has so far.
    pub fn lay(&self, tool: &str, laid: &mut Laid) -> Result<(), Failure> {
        let ids = self.ids()?;
        self.check_names(&ids, |_, _| false)?;
        // What this tool brought, was taken out of the tree and removed from the root is nobody's any more.
        let is_gone = |file: &&TreeFile| file.tool == tool && matches!(self.find(&file.path), Ok(None));
        let before = self.before.iter().filter(|file| !is_gone(file));
        let mut files: BTreeMap<String, TreeFile> = before.map(|file| (file.path.clone(), file.clone())).collect();
        for (path, (source, entry)) in &self.entries {
            stage::signal::check()?;
            let lay = self.lay_one(path, source, entry, &ids, laid);
            if let Some(file) = lay.map_err(|e| self.refused(source, path, e))? {
                // A directory stays the first tree's.
                let first = files.get(*path).filter(|first| first.kind == "directory" && first.kind == file.kind);
                let first = first.map(|first| (first.from.clone(), first.tool.clone()));
                let (from, tool) = first.unwrap_or_else(|| (source.name.clone(), tool.to_owned()));
                files.insert((*path).to_owned(), TreeFile { from, tool, ..file });
            }
        }
        laid.files = files.into_values().collect();
        Ok(())
    }

    /// Lays one entry, and returns what is recorded of it: nothing of a directory that was there and is
    /// not as a new one would be.
    fn lay_one(
        &self,
        path: &str,
        source: &Source,
        entry: &Entry,
        ids: &Ids,
        laid: &mut Laid,
    ) -> Result<Option<TreeFile>, Errno> {
        let found = self.find(path)?;
        let state = |stat: &Stat| (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let is = found.as_ref().map(state);
        let before = self.before.iter().find(|file| file.path == path);
        let brought = before.is_some();
        // Made by the rule for new files, which may give another mode when the tree has changed.
        let by_rule = before
            .is_some_and(|file| (file.uid, file.gid) == (0, 0) && matches!(file.mode(), None | Some(0o644 | 0o755)));
        let regular = found.as_ref().is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        let (mode, uid, gid) = match (&entry.content, is) {
            // Of a file that a package brought: its readers expect these, and a secret stays one.
            (Content::File { .. }, Some((mode, uid, gid))) if regular && !by_rule => (mode & 0o1777, uid, gid),
            (Content::Directory, Some(state)) => state,
            (Content::Directory | Content::File { executable: true, .. }, _) => (0o755, 0, 0),
            (Content::File { .. } | Content::Link(_), _) => (0o644, 0, 0),
        };
        let listed = &entry.listed;
        let is_listed = *listed != super::owners::Listed::default();
        let user = ids.user(&listed.user).unwrap_or(uid);
        let wanted = (listed.mode.unwrap_or(mode), user, ids.group(&listed.group).unwrap_or(gid));
        let written = match &entry.content {
            // One that is as a new one would be may be of a run that was killed.
            Content::Directory if is == Some(wanted) && !is_listed && !brought && wanted != (0o755, 0, 0) => {
                return Ok(None);
            }
            Content::Directory if is == Some(wanted) => false,
            Content::Directory => self.lay_directory(path, is.is_some(), wanted)?,
            Content::File { sha256, size, .. } => {
                // One of another size is not read: it may have no end.
                let as_long = found.as_ref().is_some_and(|stat| u64::try_from(stat.st_size) == Ok(*size));
                let same = regular && is == Some(wanted) && as_long && self.hash(path)? == *sha256;
                !same && self.lay_file(path, source, sha256, wanted)?
            }
            Content::Link(target) => self.lay_link(path, target, is, wanted)?,
        };
        if written {
            laid.changed.push(path.to_owned());
        }
        Ok(Some(record(path, &entry.content, wanted)))
    }

    /// Makes a directory, complete before it has its name, or sets the mode and owners of one.
    fn lay_directory(&self, path: &str, exists: bool, wanted: State) -> Result<bool, Errno> {
        let (parent, name) = self.parent(path)?;
        if exists {
            set(&open_below(self.root, path, DIRECTORY)?, wanted)?;
            return Ok(true);
        }
        let temporary = temporary_name(name);
        match mkdirat(&parent, &temporary, Mode::RWXU) {
            // Left by a run that was killed.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        set(&open_below(parent.as_fd(), &temporary, DIRECTORY)?, wanted)?;
        renameat_with(&parent, &temporary, &parent, name, RenameFlags::NOREPLACE)?;
        Ok(true)
    }

    fn lay_file(&self, path: &str, source: &Source, sha256: &str, (mode, uid, gid): State) -> Result<bool, Errno> {
        let (parent, name) = self.parent(path)?;
        let mut from = Heeding(source.open(path)?);
        // One that is copied and is another file by now is not the one in the document.
        let fill = |file: &mut File| {
            let is = copy(&mut from, file)?;
            if is == sha256 { Ok(()) } else { Err(io::Error::from_raw_os_error(Errno::STALE.raw_os_error())) }
        };
        replace_with(parent.as_fd(), name, mode, other_than_us(uid, gid), fill)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(true)
    }

    fn lay_link(&self, path: &str, target: &str, is: Option<State>, (_, uid, gid): State) -> Result<bool, Errno> {
        let (parent, name) = self.parent(path)?;
        let mut changed = false;
        let there =
            is.is_some() && readlinkat(&parent, name, Vec::new()).is_ok_and(|to| to.to_bytes() == target.as_bytes());
        if !there {
            replace_link(parent.as_fd(), name, target)?;
            changed = true;
        }
        let owners = if there { is.map(|(_, uid, gid)| (uid, gid)) } else { None };
        if owners != Some((uid, gid)) && (there || other_than_us(uid, gid).is_some()) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Returns what is at a path of the root; nothing where a directory above it is to be made.
    fn find(&self, path: &str) -> Result<Option<Stat>, Errno> {
        match open_below(self.root, path, ITSELF) {
            Ok(found) => fstat(&found).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn hash(&self, path: &str) -> Result<String, Errno> {
        let file = open_below(self.root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        Ok(hash(file.into())?.0)
    }

    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((open_below(self.root, parent, DIRECTORY)?, name))
    }

    /// Reads the root's users and groups; none where it has none yet.
    fn ids(&self) -> Result<Ids, Failure> {
        let text = |path: &str| match read(self.root, path, LIMIT) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(Errno::NOENT) => Ok(String::new()),
            Err(e) => Err(Failure::system(Code::Failed, format!("reading {}", quote(self.host_path.join(path))), e)),
        };
        Ok(Ids { passwd: text("etc/passwd")?, group: text("etc/group")? })
    }

    fn failure(&self, source: &Source, path: &str, code: Code, why: &dyn Display) -> Failure {
        let (tree, at) = (quote(&source.name), quote(self.host_path.join(path)));
        Failure::new(code, format!("laying the tree {tree}: {at}: {why}"))
    }

    fn refused(&self, source: &Source, path: &str, error: Errno) -> Failure {
        let failed = |why: &str| self.failure(source, path, Code::Failed, &why);
        match error {
            Errno::LOOP | Errno::XDEV => {
                failed("it is, or is behind, a symbolic link of the root, which is not followed")
                    .hint("put it where that link leads, as in 'usr/bin' and not in 'bin'")
            }
            Errno::NOTDIR => failed("it is behind what is no directory in the root"),
            Errno::ISDIR | Errno::EXIST => failed("something else is there"),
            Errno::STALE => failed("it was changed in the tree while it was copied"),
            error => Failure {
                cause: Some(stage::Cause::System(error.raw_os_error())),
                ..self.failure(source, path, Code::Os, &error)
            },
        }
    }
}

/// The root's passwd(5) and group(5).
struct Ids {
    passwd: String,
    group: String,
}

impl Ids {
    fn user(&self, id: &Option<Id>) -> Option<u32> {
        number(id, |name| user::lookup(&self.passwd, "", name).map(|user| user.uid))
    }

    fn group(&self, id: &Option<Id>) -> Option<u32> {
        number(id, |name| user::group(&self.group, name))
    }
}

fn number(id: &Option<Id>, of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    match id.as_ref()? {
        Id::Number(number) => Some(*number),
        // Before there are packages, too.
        Id::Name(name) if name == "root" => Some(0),
        Id::Name(name) => of(name),
    }
}

/// Returns owners that a new file of ours does not have. A test that is not root may not change them, and need not.
fn other_than_us(uid: u32, gid: u32) -> Option<(u32, u32)> {
    let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    ((uid, gid) != us).then_some((uid, gid))
}

fn set(directory: &OwnedFd, (mode, uid, gid): State) -> Result<(), Errno> {
    let stat = fstat(directory)?;
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        fchown(directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // After fchown(2), which clears set-id bits.
    fchmod(directory, Mode::from_raw_mode(mode))
}

/// Copies a file, and returns its SHA-256.
fn copy(from: &mut impl Read, to: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            n => {
                hash.update(&buffer[..n]);
                to.write_all(&buffer[..n])?;
            }
        }
    }
}

fn record(path: &str, content: &Content, (mode, uid, gid): State) -> TreeFile {
    let mode = Some(format!("{mode:04o}"));
    let file = TreeFile { path: path.to_owned(), uid, gid, ..TreeFile::default() };
    match content {
        Content::Directory => TreeFile { kind: "directory".into(), mode, ..file },
        Content::File { sha256, size, .. } => {
            let (size, sha256) = (Some(*size), Some(sha256.clone()));
            TreeFile { kind: "file".into(), mode, size, sha256, ..file }
        }
        Content::Link(target) => TreeFile { kind: "link".into(), target: Some(target.clone()), ..file },
    }
}

/// Returns the record of a file of root's that `tool` wrote itself, because of `from`.
#[must_use]
pub fn own_file(path: &str, bytes: &[u8], mode: u32, from: &str, tool: &str) -> TreeFile {
    let (sha256, size) = (format!("{:x}", Sha256::digest(bytes)), bytes.len() as u64);
    let content = Content::File { sha256, size, executable: false };
    TreeFile { from: from.to_owned(), tool: tool.to_owned(), ..record(path, &content, (mode, 0, 0)) }
}

/// Records those of the files again that another part of a tool has `changed`, by their paths below the root: what is no file or
/// link any more is left out.
///
/// # Errors
///
/// The system call's, with the path.
pub fn record_again(
    root: BorrowedFd<'_>,
    files: Vec<TreeFile>,
    changed: &BTreeSet<String>,
) -> Result<Vec<TreeFile>, (String, Errno)> {
    let again = |file: TreeFile| -> Result<Option<TreeFile>, (String, Errno)> {
        if file.kind == "directory" || !changed.contains(&file.path) {
            return Ok(Some(file));
        }
        let look = || -> Result<Option<TreeFile>, Errno> {
            let found = match open_below(root, &file.path, ITSELF) {
                Err(Errno::NOENT) => return Ok(None),
                found => found?,
            };
            let stat = fstat(&found)?;
            let content = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let file = open_below(root, &file.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                    let (sha256, size) = hash(file.into())?;
                    Content::File { sha256, size, executable: false }
                }
                FileType::Symlink => {
                    let target = readlinkat(&found, "", Vec::new())?;
                    Content::Link(target.into_string().map_err(|_| Errno::ILSEQ)?)
                }
                _ => return Ok(None),
            };
            let is = record(&file.path, &content, (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid));
            Ok(Some(TreeFile { from: file.from.clone(), tool: file.tool.clone(), ..is }))
        };
        look().map_err(|e| (file.path.clone(), e))
    };
    files.into_iter().filter_map(|file| again(file).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    struct Ground {
        _dir: tempfile::TempDir,
        tree: PathBuf,
        root: PathBuf,
    }

    fn ground(files: &[&str]) -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let (tree, root) = (dir.path().join("tree"), dir.path().join("root"));
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
        for file in files {
            let at = tree.join(file);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, "text").unwrap();
        }
        Ground { _dir: dir, tree, root }
    }

    impl Ground {
        fn lay(&self, before: &[TreeFile]) -> Result<Laid, Failure> {
            let sources = [Source::read(&self.tree).unwrap()];
            let root = File::open(&self.root).unwrap();
            let overlay = Overlay::of(&sources, before, root.as_fd(), Path::new("/r"))?;
            overlay.check(|_, _| false)?;
            let mut laid = Laid::default();
            overlay.lay("configure", &mut laid)?;
            Ok(laid)
        }

        fn mode(&self, path: &str) -> u32 {
            fs::symlink_metadata(self.root.join(path)).unwrap().mode() & 0o7777
        }
    }

    #[test]
    fn a_tree_is_laid_once_and_recorded() {
        let ground = ground(&["etc/new/a", "usr/bin/b", "etc/c"]);
        fs::set_permissions(ground.tree.join("usr/bin/b"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/dev/null", ground.tree.join("etc/d")).unwrap();
        // A file of a package keeps its mode, but for set-id bits; the directory keeps all.
        fs::write(ground.root.join("etc/c"), "theirs").unwrap();
        fs::set_permissions(ground.root.join("etc/c"), fs::Permissions::from_mode(0o4640)).unwrap();
        let laid = ground.lay(&[]).unwrap();
        assert_eq!(laid.changed, ["etc/c", "etc/d", "etc/new", "etc/new/a", "usr", "usr/bin", "usr/bin/b"]);
        for (path, mode) in
            [("etc", 0o711), ("etc/new", 0o755), ("etc/new/a", 0o644), ("usr/bin/b", 0o755), ("etc/c", 0o640)]
        {
            assert_eq!(ground.mode(path), mode, "{path}");
        }
        let recorded: Vec<_> =
            laid.files.iter().map(|file| (file.path.as_str(), file.kind.as_str(), file.mode())).collect();
        assert_eq!(
            recorded,
            [
                ("etc/c", "file", Some(0o640)),
                ("etc/d", "link", None),
                ("etc/new", "directory", Some(0o755)),
                ("etc/new/a", "file", Some(0o644)),
                ("usr", "directory", Some(0o755)),
                ("usr/bin", "directory", Some(0o755)),
                ("usr/bin/b", "file", Some(0o755)),
            ]
        );
        let again = ground.lay(&laid.files).unwrap();
        assert_eq!((again.changed, again.files), (Vec::new(), laid.files.clone()));
        // Without the document, too.
        let again = ground.lay(&[]).unwrap();
        assert_eq!((again.changed, again.files), (Vec::new(), laid.files.clone()));
        // What a killed run left is completed.
        fs::rename(ground.root.join("usr"), ground.root.join("was")).unwrap();
        fs::create_dir(ground.root.join(".usr.new")).unwrap();
        assert_eq!(ground.lay(&laid.files).unwrap().files, laid.files);
        assert_eq!(ground.mode("usr"), 0o755);
    }

    #[test]
    fn a_tree_that_changed_is_laid_again() {
        let ground = ground(&["etc/script", "etc/secret"]);
        let list = ground.tree.with_extension("owners");
        fs::write(&list, "z /etc/secret 0600 1 2\n").unwrap();
        let first = ground.lay(&[]).unwrap();
        fs::set_permissions(ground.tree.join("etc/script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&list, "z /etc/secret 4750 - 3\n").unwrap();
        let second = ground.lay(&first.files).unwrap();
        assert_eq!(second.changed, ["etc/script", "etc/secret"]);
        let of = |file: &TreeFile| (file.mode(), file.uid, file.gid);
        assert_eq!([&first, &second].map(|laid| of(&laid.files[1])), [(Some(0o600), 1, 2), (Some(0o4750), 1, 3)]);
        assert_eq!((ground.mode("etc/script"), ground.mode("etc/secret")), (0o755, 0o4750));
        // A directory that both have stays the first one's.
        let mut before = second.files.clone();
        before.push(TreeFile {
            kind: "directory".into(),
            path: "etc".into(),
            tool: "mkroot".into(),
            ..TreeFile::default()
        });
        let files = ground.lay(&before).unwrap().files;
        assert_eq!(
            files.iter().map(|file| file.tool.as_str()).collect::<Vec<_>>(),
            ["mkroot", "configure", "configure"]
        );
        // What is in the tree no more stays, in the root and in the document.
        fs::remove_file(ground.tree.join("etc/script")).unwrap();
        let third = ground.lay(&second.files).unwrap();
        assert_eq!((&third.changed, &third.files), (&Vec::new(), &second.files));
        // Where it was removed from both, it is in neither.
        fs::remove_file(ground.root.join("etc/script")).unwrap();
        assert_eq!(ground.lay(&third.files).unwrap().files, second.files[1..]);
    }

    #[test]
    fn the_later_tree_counts_and_names_must_be_there() {
        let (one, two) = (ground(&["etc/x", "srv/y"]), ground(&["etc/x"]));
        fs::write(two.tree.join("etc/x"), "other").unwrap();
        fs::write(two.tree.with_extension("owners"), "z /etc/x - ann -\n").unwrap();
        let sources = [&one, &two].map(|ground| Source::read(&ground.tree).unwrap());
        let root = File::open(&one.root).unwrap();
        let overlay = Overlay::of(&sources, &[], root.as_fd(), Path::new("/r")).unwrap();
        assert_eq!(overlay.check(|_, _| false).unwrap_err().code, Code::NotFound);
        overlay.check(|kind, name| (kind, name) == ("user", "ann")).unwrap();
        let mut laid = Laid::default();
        assert_eq!(overlay.lay("configure", &mut laid).unwrap_err().code, Code::NotFound);
        assert!(!one.root.join("srv").exists());
        fs::write(one.root.join("etc/passwd"), "ann:x:5:6::/:/bin/sh\n").unwrap();
        overlay.lay("configure", &mut laid).unwrap();
        assert_eq!(fs::read_to_string(one.root.join("etc/x")).unwrap(), "other");
        assert_eq!((laid.files[0].uid, laid.files[0].gid), (5, 0));
        assert_eq!(laid.files.iter().map(|file| &file.from).collect::<BTreeSet<_>>().len(), 2);
        let clash = [Source::read(&one.tree).unwrap(), Source::read(&ground(&["srv/y/z"]).tree).unwrap()];
        let failure = Overlay::of(&clash, &[], root.as_fd(), Path::new("/r")).unwrap_err();
        assert!(failure.message.ends_with("'srv/y' is a directory in one of them, and not in the other"), "{failure}");
    }

    #[test]
    fn what_is_in_the_way_is_refused_before_anything() {
        let refused = |change: &dyn Fn(&Path), why: &str| {
            let ground = ground(&["a/first", "etc/x/y"]);
            change(&ground.root);
            let failure = ground.lay(&[]).unwrap_err();
            assert!(failure.message.contains(why), "{why}: {failure}");
            assert!(failure.message.starts_with("laying the tree '"), "{failure}");
            assert!(!ground.root.join("a").exists());
        };
        refused(
            &|root| fs::create_dir_all(root.join("etc/x/y")).unwrap(),
            "'/r/etc/x/y': it is a directory in the root",
        );
        refused(&|root| fs::write(root.join("etc/x"), "").unwrap(), "'/r/etc/x': it is no directory");
        refused(
            &|root| symlink("/tmp", root.join("etc/x")).unwrap(),
            "'/r/etc/x': it is, or is behind, a symbolic link",
        );
        let fifo = |root: &Path| {
            fs::create_dir(root.join("etc/x")).unwrap();
            nix::unistd::mkfifo(&root.join("etc/x/y"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        };
        refused(&fifo, "'/r/etc/x/y': it is a device, a fifo or a socket");
        let ground = ground(&["etc/x"]);
        fs::write(ground.tree.with_extension("owners"), "z /etc/x - ann -\n").unwrap();
        let failure = ground.lay(&[]).unwrap_err();
        assert!(failure.message.ends_with("the root has no user 'ann'"), "{failure}");
        assert_eq!(failure.code, Code::NotFound);
    }

    #[test]
    fn a_file_over_a_link_replaces_the_link() {
        let ground = ground(&["etc/os-release"]);
        fs::write(ground.root.join("theirs"), "theirs").unwrap();
        symlink("../theirs", ground.root.join("etc/os-release")).unwrap();
        ground.lay(&[]).unwrap();
        assert_eq!(fs::read_to_string(ground.root.join("theirs")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(ground.root.join("etc/os-release")).unwrap(), "text");
        assert_eq!(ground.mode("etc/os-release"), 0o644);
    }

    #[test]
    fn what_another_step_edits_is_recorded_again() {
        let ground = ground(&["etc/hosts", "etc/gone"]);
        let laid = ground.lay(&[]).unwrap();
        fs::write(ground.root.join("etc/hosts"), "edited").unwrap();
        fs::remove_file(ground.root.join("etc/gone")).unwrap();
        let root = File::open(&ground.root).unwrap();
        let changed = ["etc/hosts", "etc/gone"].map(str::to_owned).into();
        let files = record_again(root.as_fd(), laid.files.clone(), &changed).unwrap();
        assert_eq!(files.len(), 1);
        assert_ne!(files[0].sha256, laid.files[1].sha256);
        assert_eq!(files[0].tool, "configure");
    }
}
