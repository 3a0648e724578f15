//! Reading a tree, outside: what is in it, with the hash of each file.

use super::owners::{self, Line, Listed};
use crate::Mount;
use crate::plan::Owner;
use crate::root::open_below;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, flistxattr, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use stage::document::plain_below;
use stage::signal::Heeding;
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many entries a tree may have: each is an object in the document.
const MOST: usize = 20_000;

/// The longest name: a new file has one with five bytes more until it is complete.
const LONGEST: usize = 250;

/// The end of the name of the list of owners, beside the tree.
const OWNERS: &str = ".owners";

/// What a tree may not bring, with all below it, and who does instead.
const REFUSED: [(&str, &str); 6] = [
    ("etc/passwd", "packages add users to it, and 'configure --user' does"),
    ("etc/group", "packages add groups to it, and 'configure --group' does"),
    ("etc/shadow", "packages add users to it, and 'configure --password-hash-file' sets a password"),
    ("etc/gshadow", "packages add groups to it"),
    ("etc/pacman.d/gnupg", "'keyring' builds it"),
    ("var/lib/pacman", "it is pacman's own record"),
];

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Directory,
    /// A file with this SHA-256 and this size.
    File {
        sha256: String,
        size: u64,
        executable: bool,
    },
    /// A symbolic link to this.
    Link(String),
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) content: Content,
    pub(super) listed: Listed,
}

/// A tree, read.
#[derive(Debug)]
pub struct Source {
    /// As on the command line.
    pub(super) name: String,
    directory: OwnedFd,
    /// By their paths below the root, parents first.
    pub(super) entries: BTreeMap<String, Entry>,
}

impl Source {
    /// Reads a tree, and the list of owners beside it where there is one.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where there is no such directory, [`Code::Usage`] where something in it cannot be laid over a root,
    /// or its list is invalid; [`Code::Permission`] or [`Code::Os`] where it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let doing = || format!("reading the tree {}", quote(path));
        let name = path.to_str().filter(|name| !name.chars().any(char::is_control));
        let name =
            name.ok_or_else(|| Failure::new(Code::Usage, format!("{}: the path is not plain UTF-8", doing())))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty()).map_err(|e| failure(e, doing()))?;
        let mut tree = Self { name: name.to_owned(), directory, entries: BTreeMap::new() };
        tree.walk()?;
        let full = path.canonicalize().doing(Code::Os, doing)?;
        let mut list = full.into_os_string();
        list.push(OWNERS);
        tree.apply_list(Path::new(&list))?;
        Ok(tree)
    }

    /// Refuses what would be laid below a mount of the plan, where it would not be in the root, or on the host.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] with the first such path.
    pub fn check_mounts(&self, mounts: &[Mount]) -> Result<(), Failure> {
        for mount in mounts.iter().filter(|mount| Owner::of(mount) != Owner::Root && !mount.at.is_empty()) {
            let below = |path: &&String| path.strip_prefix(&mount.at).is_some_and(|rest| rest.starts_with('/'));
            if let Some(path) = self.entries.keys().find(below) {
                let why = format!("'{}' is a mount of the plan, and what is below it is not in the root", mount.at);
                return Err(self.refuse(path, &why));
            }
        }
        Ok(())
    }

    /// Returns the paths of its files, below the root.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Opens a file of the tree.
    pub(super) fn open(&self, path: &str) -> Result<File, Errno> {
        // It may be a fifo by now.
        open(self.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map(File::from)
    }

    fn refuse(&self, path: &str, why: &str) -> Failure {
        Failure::new(Code::Usage, format!("reading the tree {}: {}: {why}", quote(&self.name), quote(path)))
    }

    /// Reads what is in the directory and below.
    fn walk(&mut self) -> Result<(), Failure> {
        let doing = |tree: &Self, path: &str| format!("reading {}", quote(PathBuf::from(&tree.name).join(path)));
        let mut left = vec![String::new()];
        while let Some(at) = left.pop() {
            let directory = open(self.as_fd(), &at, OFlags::RDONLY | OFlags::DIRECTORY);
            let directory = directory.map_err(|e| failure(e, doing(self, &at)))?;
            let entries = Dir::read_from(&directory).map_err(|e| failure(e, doing(self, &at)))?;
            for entry in entries {
                let entry = entry.map_err(|e| failure(e, doing(self, &at)))?;
                let name = match entry.file_name().to_str() {
                    Ok("." | "..") => continue,
                    Ok(name) if plain_below(name).is_ok() => name,
                    _ => {
                        let shown = entry.file_name().to_string_lossy().into_owned();
                        return Err(self.refuse(&format!("{at}/{shown}"), "the name is not plain UTF-8"));
                    }
                };
                let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
                if name.len() > LONGEST {
                    return Err(self.refuse(&path, &format!("the name is longer than {LONGEST} bytes")));
                }
                stage::signal::check()?;
                let read = self.read_entry(directory.as_fd(), name, &path);
                let content = read.map_err(|e| failure(e, doing(self, &path)))??;
                if content == Content::Directory {
                    left.push(path.clone());
                }
                self.check_path(&path, &content)?;
                self.entries.insert(path, Entry { content, listed: Listed::default() });
                if self.entries.len() > MOST {
                    let what = format!("reading the tree {}: it has more than {MOST} entries", quote(&self.name));
                    return Err(Failure::new(Code::Usage, what).hint("make a package of it, or more than one tree"));
                }
            }
        }
        Ok(())
    }

    /// Reads an entry. The inner failure is of what cannot be laid over a root.
    fn read_entry(&self, directory: BorrowedFd<'_>, name: &str, path: &str) -> Result<Result<Content, Failure>, Errno> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new())?;
                return Ok(match target.into_string() {
                    Ok(target) if !target.chars().any(char::is_control) => Ok(Content::Link(target)),
                    _ => Err(self.refuse(path, "where the link leads is not plain UTF-8")),
                });
            }
            FileType::Directory => {
                let file = open(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                (file, Content::Directory)
            }
            FileType::RegularFile => {
                let file = open(directory, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
                    return Ok(Err(self.refuse(path, "it was replaced while it was read")));
                }
                let (sha256, size) = hash(File::from(file.try_clone().map_err(|e| errno(&e))?))?;
                (file, Content::File { sha256, size, executable: stat.st_mode & 0o100 != 0 })
            }
            _ => {
                let why = "it is a device, a fifo or a socket, and a tree has files, directories and symbolic links";
                return Ok(Err(self.refuse(path, why)));
            }
        };
        Ok(match attribute(&content.0)? {
            None => Ok(content.1),
            Some(name) => {
                let why = format!("it has the extended attribute '{name}', which would be lost");
                let hint = format!("remove it: setfacl --remove-all, or setfattr --remove={name}");
                Err(self.refuse(path, &why).hint(hint))
            }
        })
    }

    fn check_path(&self, path: &str, content: &Content) -> Result<(), Failure> {
        let of = |(refused, _): &&(&str, &str)| {
            path.strip_prefix(refused).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match REFUSED.iter().find(of) {
            // pacman's own, without content.
            Some((refused, _)) if *refused == path && *content == Content::Directory => Ok(()),
            Some((_, why)) => Err(self.refuse(path, why)),
            None => Ok(()),
        }
    }

    /// Reads the list of owners, where there is one.
    fn apply_list(&mut self, list: &Path) -> Result<(), Failure> {
        let text = match list.symlink_metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            _ => stage::file::read_text(list).map_err(|failure| Failure { code: Code::Usage, ..failure })?,
        };
        let doing = || format!("reading {}", quote(list));
        let lines: Vec<Line> = owners::parse(&text).doing(Code::Usage, doing)?;
        if let Some(line) = lines.iter().find(|line| !self.entries.keys().any(|path| line.is_for(path))) {
            let (number, path) = (line.number, quote(format!("/{}", line.path)));
            let why = format!("line {number}: the tree has no {path}");
            return Err(Failure::new(Code::Usage, format!("{}: {why}", doing())));
        }
        for (path, entry) in &mut self.entries {
            entry.listed = owners::of(&lines, path);
            if matches!(entry.content, Content::Link(_)) {
                entry.listed.mode = None;
            }
        }
        Ok(())
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Opens a path below the tree, over no symbolic link.
fn open(tree: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_below(tree, path, flags)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Returns the SHA-256 of a file, in hex, and its size.
pub(super) fn hash(file: File) -> Result<(String, u64), Errno> {
    let mut hash = Sha256::new();
    let size = std::io::copy(&mut Heeding(file), &mut hash).map_err(|e| errno(&e))?;
    Ok((format!("{:x}", hash.finalize()), size))
}

/// Returns an extended attribute that would be lost. Those of a security module are the host's policy.
fn attribute(file: &OwnedFd) -> Result<Option<String>, Errno> {
    let mut names = vec![0; 1 << 16];
    let length = match flistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(None),
        length => length?,
    };
    let lost = ["user.", "system.posix_acl_", "security.capability"];
    let mut names = names[..length].split(|&b| b == 0).map(String::from_utf8_lossy);
    Ok(names.find(|name| lost.iter().any(|begin| name.starts_with(begin))).map(|name| stage::message::escape(&name)))
}

fn failure(error: Errno, doing: String) -> Failure {
    let code = match error {
        Errno::NOENT | Errno::NOTDIR => Code::NotFound,
        Errno::ACCESS | Errno::PERM => Code::Permission,
        _ => Code::Os,
    };
    Failure::system(code, doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A tree of these files.
    fn tree(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        fs::create_dir(&path).unwrap();
        for file in files {
            let at = path.join(file);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, "text").unwrap();
        }
        (dir, path)
    }

    #[test]
    fn a_tree_is_read_with_the_list_beside_it() {
        let (dir, path) = tree(&["etc/a", "usr/bin/b"]);
        symlink("/dev/null", path.join("etc/c")).unwrap();
        fs::set_permissions(path.join("usr/bin/b"), fs::Permissions::from_mode(0o6700)).unwrap();
        fs::write(dir.path().join("tree.owners"), "z /etc/a 0600 7 -\nZ /etc - - 8\n").unwrap();
        let tree = Source::read(&path).unwrap();
        let names: Vec<_> = tree.paths().collect();
        assert_eq!(names, ["etc", "etc/a", "etc/c", "usr", "usr/bin", "usr/bin/b"]);
        let is = |path: &str| tree.entries[path].content.clone();
        assert_eq!(is("etc/c"), Content::Link("/dev/null".into()));
        assert!(matches!(is("usr/bin/b"), Content::File { executable: true, .. }));
        assert!(
            matches!(is("etc/a"), Content::File { executable: false, size: 4, sha256 } if sha256.starts_with("982d9e3e"))
        );
        let number = |n| Some(owners::Id::Number(n));
        let listed = Listed { mode: Some(0o600), user: number(7), group: number(8) };
        assert_eq!(tree.entries["etc/a"].listed, listed);
        assert_eq!(tree.entries["usr"].listed, Listed::default());
    }

    #[test]
    fn what_cannot_be_laid_is_refused_with_the_reason() {
        let bad = |files: &[&str], list: &str, change: &dyn Fn(&Path), why: &str| {
            let (dir, path) = tree(files);
            change(&path);
            if !list.is_empty() {
                fs::write(dir.path().join("tree.owners"), list).unwrap();
            }
            let failure = Source::read(&path).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{failure}");
            assert!(failure.message.contains(why), "{why}: {failure}");
        };
        let fifo = |path: &Path| nix::unistd::mkfifo(&path.join("x"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        bad(&[], "", &fifo, "'x': it is a device, a fifo or a socket");
        let set = |path: &Path| {
            let file = File::open(path.join("a")).unwrap();
            rustix::fs::fsetxattr(&file, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        };
        bad(&["a"], "", &set, "'a': it has the extended attribute 'user.note'");
        bad(&["etc/shadow"], "", &|_| {}, "'etc/shadow': packages add users to it");
        bad(&["var/lib/pacman/local/x"], "", &|_| {}, "it is pacman's own record");
        bad(&["a\nb"], "", &|_| {}, "the name is not plain UTF-8");
        bad(&[&"n".repeat(251)], "", &|_| {}, "longer than 250 bytes");
        bad(&["a"], "z /b 0644 0 0\n", &|_| {}, "line 1: the tree has no '/b'");
        bad(&["a"], "x\n", &|_| {}, "line 1: not of the form");
        bad(&[], "", &|path| symlink("a\nb", path.join("l")).unwrap(), "where the link leads");
        let missing = Source::read(Path::new("/no/such")).unwrap_err();
        assert_eq!(missing.code, Code::NotFound, "{missing}");
        let (_dir, path) = tree(&["file"]);
        assert_eq!(Source::read(&path.join("file")).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn nothing_is_laid_below_a_mount_of_the_plan() {
        let (_dir, path) = tree(&["run/x", "runner"]);
        let tree = Source::read(&path).unwrap();
        let failure = tree.check_mounts(&crate::plan::api(false)).unwrap_err();
        assert!(failure.message.contains("'run/x': 'run' is a mount of the plan"), "{failure}");
        tree.check_mounts(&[Mount::new("boot", "vfat", &[])]).unwrap();
    }
}
