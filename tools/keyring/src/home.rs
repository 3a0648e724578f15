//! pacman's GnuPG home in a root: what is in it, and how a new one takes its place.
//!
//! What is there was written by whoever had the root, and gpg *runs* what a home's configuration names (`agent-program`
//! in gpg.conf, `pinentry-program` in gpg-agent.conf). So the configuration is text to us, which is kept and completed,
//! and never a file that a program of the host reads; only keys and trust go to the host's gpg.

use rootfs::Root;
use rootfs::root::{BENEATH, open_below};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, fsync, mkdirat, openat,
    openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Where it is, below the root.
pub(crate) const AT: &str = "etc/pacman.d/gnupg";

/// Where the new one is until it takes its place, below the root. It is there only while this program runs, or after it
/// was killed.
pub(crate) const BESIDE: &str = "etc/pacman.d/gnupg.new";

const PARENT: &str = "etc/pacman.d";
const NAME: &str = "gnupg";
const NEW: &str = "gnupg.new";
/// Where the old one waits on a file system that cannot exchange two names.
const OLD: &str = "gnupg.old";

/// The most that a home may have: many times what any has, and few enough to be held in memory.
const BYTES: u64 = 256 << 20;
const FILES: usize = 4096;
const DEPTH: usize = 3;

/// What gpg works with, and the mode that pacman-key gives it: a file's name, or a directory and what its files end in.
const KEYS: [(&str, &str, u32); 7] = [
    ("", "pubring.gpg", 0o644),
    ("", "pubring.kbx", 0o644),
    ("", "trustdb.gpg", 0o644),
    ("", "secring.gpg", 0o600),
    // gpg's own mark that secring.gpg needs no migration.
    ("", ".gpg-v21-migrated", 0o644),
    ("private-keys-v1.d/", ".key", 0o600),
    ("openpgp-revocs.d/", ".rev", 0o600),
];

/// What pacman-key --init puts in gpg.conf. `no-self-sigs-only` is known since gpg 2.2.17.
const GPG_CONF: [&str; 6] = [
    "no-greeting",
    "no-permission-warning",
    "lock-never",
    "keyserver-options timeout=10",
    "keyserver-options import-clean",
    "keyserver-options no-self-sigs-only",
];

/// What it puts in gpg-agent.conf.
const AGENT_CONF: [&str; 1] = ["disable-scdaemon"];

/// The files of a home: path, content and mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home {
    files: BTreeMap<String, (Vec<u8>, u32)>,
    /// Paths of the old home that are not kept, for a warning.
    pub(crate) skipped: Vec<String>,
}

impl Home {
    /// Reads what the root has: nothing, where there is no home yet.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is larger than any home.
    pub(crate) fn read(root: &Root) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match root.open_below(AT, flags) {
            // An exchange that was cut off in the middle: see `put_in_place`.
            Err(Errno::NOENT) => root.open_below(&format!("{PARENT}/{OLD}"), flags),
            result => result,
        };
        let path = quote(root.path().join(AT));
        let directory = match opened {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(Self::default()),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Failure::new(
                    Code::Failed,
                    format!("opening {path}: it is no plain directory"),
                )
                .hint("remove it: nothing is followed out of a root"));
            }
            Err(e) => return Err(e).doing(Code::Os, || format!("opening {path}")),
        };
        let mut home = Self::default();
        home.read_below(&directory, "", 0)
            .doing(Code::Os, || format!("reading {path}"))?;
        Ok(home)
    }

    /// Returns whether there was anything to keep.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Drops all but gpg's configuration: keys, trust, and what gpg noted of signatures that it saw.
    pub(crate) fn keep_configuration(&mut self) {
        let is_configuration = |path: &str| path.ends_with(".conf") && !path.contains('/');
        self.files.retain(|path, _| is_configuration(path));
    }

    /// Drops the secret keys, and what is of use with them only.
    pub(crate) fn drop_secrets(&mut self) {
        let is_secret = |path: &str| {
            path == "secring.gpg"
                || path.starts_with("private-keys-v1.d/")
                || path.starts_with("openpgp-revocs.d/")
        };
        self.files.retain(|path, _| !is_secret(path));
    }

    /// Returns the files that gpg works with.
    pub(crate) fn keys(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files.iter();
        files
            .filter(|(path, _)| mode_of_key(path).is_some())
            .map(|(path, (bytes, _))| (path.clone(), bytes.clone()))
            .collect()
    }

    fn read_below(&mut self, directory: &OwnedFd, at: &str, depth: usize) -> Result<(), Errno> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = match entry.file_name().to_str() {
                Ok("." | "..") => continue,
                Ok(name) => name,
                Err(_) => {
                    self.skipped
                        .push(format!("{at}{}", entry.file_name().to_string_lossy()));
                    continue;
                }
            };
            let path = format!("{at}{name}");
            if is_left_over(name) || entry.file_type() == FileType::Socket {
                continue;
            }
            // To open a device is to use it.
            if !matches!(
                entry.file_type(),
                FileType::RegularFile | FileType::Directory | FileType::Unknown
            ) {
                self.skipped.push(path);
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
            let file = match openat2(
                directory,
                name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                BENEATH,
            ) {
                Ok(file) => file,
                Err(Errno::LOOP | Errno::NXIO) => {
                    self.skipped.push(path);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let stat = fstat(&file)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEPTH => {
                    self.read_below(&file, &format!("{path}/"), depth + 1)?;
                }
                FileType::RegularFile => self.read_file(path, file, stat.st_mode & 0o777)?,
                _ => self.skipped.push(path),
            }
        }
        Ok(())
    }

    fn read_file(&mut self, path: String, file: OwnedFd, mode: u32) -> Result<(), Errno> {
        let have: u64 = self
            .files
            .values()
            .map(|(bytes, _)| bytes.len() as u64)
            .sum();
        let mut bytes = Vec::new();
        File::from(file)
            .take((BYTES - have.min(BYTES)) + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        if have + bytes.len() as u64 > BYTES || self.files.len() >= FILES {
            return Err(Errno::FBIG);
        }
        self.files.insert(path, (bytes, mode));
        Ok(())
    }

    /// Makes the scratch home that gpg works in: the keys and the trust, and no configuration.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn lay_out(&self, scratch: &Path) -> std::io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(scratch)?;
        // pacman-key makes these two first, and so gpg takes pubring.gpg for its ring and not a pubring.kbx.
        for name in ["pubring.gpg", "secring.gpg"] {
            File::create(scratch.join(name))?;
        }
        for (path, (bytes, _)) in &self.files {
            if mode_of_key(path).is_none() {
                continue;
            }
            let to = scratch.join(path);
            if let Some(directory) = to.parent().filter(|d| !d.is_dir()) {
                builder.create(directory)?;
            }
            let mut file = std::fs::OpenOptions::new();
            file.write(true).create(true).truncate(true).mode(0o600);
            file.open(&to)?.write_all(bytes)?;
        }
        Ok(())
    }

    /// Takes over what gpg made of the scratch home, and completes the configuration.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn take_over(
        &mut self,
        scratch: &Path,
        gpg: Option<(u32, u32, u32)>,
    ) -> std::io::Result<()> {
        let mut files = BTreeMap::new();
        for directory in ["", "private-keys-v1.d/", "openpgp-revocs.d/"] {
            let entries = match std::fs::read_dir(scratch.join(directory)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let path = format!("{directory}{}", entry.file_name().to_string_lossy());
                if mode_of_key(&path).is_some() && entry.file_type()?.is_file() {
                    files.insert(path, std::fs::read(entry.path())?);
                }
            }
        }
        self.fill(files, gpg);
        Ok(())
    }

    /// Takes these for the files that gpg works with, and completes the configuration. Without a gpg here, the one that
    /// is to come is no old one.
    pub(crate) fn fill(&mut self, files: BTreeMap<String, Vec<u8>>, gpg: Option<(u32, u32, u32)>) {
        self.files.retain(|path, _| mode_of_key(path).is_none());
        for (path, bytes) in files {
            if let Some(mode) = mode_of_key(&path) {
                self.files.insert(path, (bytes, mode));
            }
        }
        let old = gpg.is_some_and(|version| version < (2, 2, 17));
        self.complete("gpg.conf", &GPG_CONF[..GPG_CONF.len() - usize::from(old)]);
        self.complete("gpg-agent.conf", &AGENT_CONF);
    }

    /// Returns whether there are keys in it. A gpg since 2.4 that is told to use keyboxd keeps them elsewhere, where no
    /// pacman looks.
    pub(crate) fn has_keys(&self) -> bool {
        let full = |name| {
            self.files
                .get(name)
                .is_some_and(|(bytes, _)| !bytes.is_empty())
        };
        full("pubring.gpg") || full("pubring.kbx")
    }

    fn complete(&mut self, name: &str, options: &[&str]) {
        let (text, mode) = self.files.entry(name.to_owned()).or_default();
        for option in options {
            add_option(text, option);
        }
        *mode = 0o644;
    }

    /// Writes the home to disk, at [`BESIDE`].
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn write_beside(&self, root: &Root) -> Result<(), Failure> {
        let path = root.path().join(BESIDE);
        let parent = root
            .open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY)
            .doing(Code::NotFound, || {
                format!("opening {}", quote(root.path().join(PARENT)))
            })
            .map_err(|f| f.hint("mkroot makes it"))?;
        remove(parent.as_fd(), NEW).doing(Code::Os, || format!("removing {}", quote(&path)))?;
        self.write(parent.as_fd())
            .doing(Code::Os, || format!("writing {}", quote(&path)))
    }

    fn write(&self, parent: BorrowedFd<'_>) -> Result<(), Errno> {
        let directory = |name: &str, within: BorrowedFd<'_>| {
            mkdirat(within, name, Mode::from_raw_mode(0o700))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(within, name, flags, Mode::empty())
        };
        let top = directory(NEW, parent)?;
        let mut made: BTreeSet<&str> = BTreeSet::new();
        let mut open = Vec::new();
        for (path, (bytes, mode)) in &self.files {
            let (below, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut end = 0;
            while end < below.len() {
                end = below[end + 1..]
                    .find('/')
                    .map_or(below.len(), |n| n + end + 1);
                let part = &below[..end];
                if made.insert(part) {
                    let (up, name) = part.rsplit_once('/').unwrap_or(("", part));
                    let up = open_below(top.as_fd(), up, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    open.push(directory(name, up.as_fd())?);
                }
            }
            let within = open_below(top.as_fd(), below, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = openat(
                &within,
                name,
                flags | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o600),
            )?;
            let mut file = File::from(file);
            file.write_all(bytes)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            fchmod(&file, Mode::from_raw_mode(*mode))?;
            open.push(OwnedFd::from(file));
        }
        fchmod(&top, Mode::from_raw_mode(0o755))?;
        open.push(top);
        // All are written before the first is synced: one commit of the journal does for most of them.
        open.iter().try_for_each(fsync)
    }
}

/// Lets the home that was written beside the root's take its place in one step: whatever kills us, the root has the old
/// one or the new one.
///
/// # Errors
///
/// The system call's; then the old one is still there, by one of its names.
pub(crate) fn take_place(root: &Root) -> Result<(), Failure> {
    root.open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY)
        .and_then(|parent| put_in_place(parent.as_fd()))
        .doing(Code::Os, || {
            format!("writing {}", quote(root.path().join(AT)))
        })
}

/// Gives the new home its name, and removes the old one.
fn put_in_place(parent: BorrowedFd<'_>) -> Result<(), Errno> {
    match renameat_with(parent, NEW, parent, NAME, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => renameat_with(parent, NEW, parent, NAME, RenameFlags::NOREPLACE)?,
        // Not every file system can exchange: between the two calls the old one is found by its other name.
        Err(Errno::INVAL | Errno::NOSYS) => {
            remove(parent, OLD)?;
            match renameat_with(parent, NAME, parent, OLD, RenameFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            renameat_with(parent, NEW, parent, NAME, RenameFlags::empty())?;
        }
        Err(e) => return Err(e),
    }
    fsync(parent)?;
    remove(parent, NEW)?;
    remove(parent, OLD)
}

/// Removes what a run that was cut off left beside the home.
pub(crate) fn sweep(root: &Root) {
    if let Ok(parent) = root.open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY) {
        // What stays is removed by the next run, which needs the name.
        remove(parent.as_fd(), NEW).unwrap_or(());
    }
}

/// Removes what runs that were cut off left beside the home, also the old one where there is no new one.
///
/// # Errors
///
/// When that cannot be removed.
pub(crate) fn remove_beside(root: &Root) -> Result<(), Failure> {
    let parent = match root.open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.doing(Code::Os, || {
            format!("opening {}", quote(root.path().join(PARENT)))
        })?,
    };
    for name in [NEW, OLD] {
        remove(parent.as_fd(), name).doing(Code::Os, || {
            format!("removing {}", quote(root.path().join(PARENT).join(name)))
        })?;
    }
    Ok(())
}

/// Returns whether the root has something where its home is to be.
pub(crate) fn is_there(root: &Root) -> bool {
    !matches!(root.open_below(AT, OFlags::PATH), Err(Errno::NOENT))
}

/// Removes a home that was made in this run, where there was none before.
///
/// # Errors
///
/// The system call's.
pub(crate) fn unmake(root: &Root) -> Result<(), Errno> {
    let parent = root.open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY)?;
    remove(parent.as_fd(), NAME)
}

/// Removes the sockets that a killed agent left in the root's home, and nothing else.
///
/// # Errors
///
/// The system call's.
pub(crate) fn remove_sockets(root: &Root) -> Result<(), Errno> {
    let home = match root.open_below(AT, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    for entry in Dir::read_from(&home)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(b"S.") {
            let stat = rustix::fs::statat(&home, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                unlinkat(&home, name, AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

/// Removes a directory of ours, by descriptors: no symbolic link is followed, and a mount point stops it.
fn remove(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    remove_at(
        parent,
        std::ffi::CString::new(name)
            .map_err(|_| Errno::INVAL)?
            .as_c_str(),
        DEPTH + 1,
    )
}

fn remove_at(parent: BorrowedFd<'_>, name: &std::ffi::CStr, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match openat2(parent, name, flags, Mode::empty(), BENEATH) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
        Err(e) => return Err(e),
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if depth == 0 {
            return Err(Errno::NOTEMPTY);
        }
        remove_at(directory.as_fd(), name, depth - 1)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Returns the mode of a file that gpg works with; `None` for what it has no business with here.
fn mode_of_key(path: &str) -> Option<u32> {
    KEYS.iter().find_map(|(directory, end, mode)| {
        let found = match path.strip_prefix(directory) {
            Some(name) if directory.is_empty() => name == *end,
            Some(name) => !name.contains('/') && name.ends_with(end),
            None => false,
        };
        found.then_some(*mode)
    })
}

/// Returns whether a file is what gpg leaves behind: backups, locks, sockets, the random seed of another machine.
fn is_left_over(name: &str) -> bool {
    name.ends_with('~')
        || name.ends_with(".lock")
        || name.starts_with(".#lk")
        || name.starts_with("S.")
        || name == "random_seed"
}

/// Adds a line unless the option is there, or is there behind a `#`: what pacman-key's `add_gpg_conf_option` does.
fn add_option(text: &mut Vec<u8>, option: &str) {
    let there = text.split(|b| *b == b'\n').any(|line| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '#');
        line.strip_prefix(option).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_whitespace())
        })
    });
    if there {
        return;
    }
    if text.last().is_some_and(|b| *b != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(option.as_bytes());
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A home with all that there can be of keys in it, beside one that a run left that was cut off.
    fn full() -> (tempfile::TempDir, Root) {
        let (guard, root) = root();
        for (at, text) in [
            ("gnupg/pubring.gpg", "p"),
            ("gnupg/pubring.gpg~", "p"),
            ("gnupg/trustdb.gpg", "t"),
            ("gnupg/tofu.db", "x"),
            ("gnupg/gpg.conf", "c"),
            ("gnupg/secring.gpg", "s"),
            ("gnupg/secring.gpg~", "s"),
            ("gnupg/private-keys-v1.d/A.key", "s"),
            ("gnupg/private-keys-v1.d/A.key~", "s"),
            ("gnupg/openpgp-revocs.d/A.rev", "r"),
            ("gnupg.new/private-keys-v1.d/B.key", "s"),
        ] {
            let path = root.path().join(PARENT).join(at);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (guard, root)
    }

    fn left(root: &Root) -> Vec<String> {
        let home = Home::read(root).unwrap();
        home.files.keys().cloned().collect()
    }

    #[test]
    fn a_stripped_home_has_no_secret_key_anywhere() {
        use crate::strip::Strip;
        for (strip, expected) in [
            (Strip::All, &["gpg.conf"][..]),
            (
                Strip::Secret,
                &["gpg.conf", "pubring.gpg", "tofu.db", "trustdb.gpg"],
            ),
        ] {
            let (_guard, root) = full();
            assert_eq!(pacman::secret::keys(&root).unwrap().len(), 5);
            assert!(strip.apply(&root).unwrap());
            assert_eq!(left(&root), expected);
            assert_eq!(pacman::secret::keys(&root).unwrap().len(), 0);
            let beside = root.path().join(PARENT).read_dir().unwrap().count();
            assert_eq!(beside, 1);
            // And again, there is nothing to do.
            assert!(!strip.apply(&root).unwrap());
            assert_eq!(left(&root), expected);
        }
        // A root that has no keyring at all.
        let (_guard, root) = root();
        assert!(!Strip::All.apply(&root).unwrap());
        assert!(!root.path().join(AT).exists());
    }

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(path.join(PARENT)).unwrap();
        let root = Root::open(&path).unwrap();
        (directory, root)
    }

    #[test]
    fn options_are_added_once_and_a_comment_counts() {
        let mut text = b"  # lock-never\nno-greetings\nkeyserver-options timeout=10 \nx".to_vec();
        for option in [
            "lock-never",
            "no-greeting",
            "keyserver-options timeout=10",
            "no-greeting",
        ] {
            add_option(&mut text, option);
        }
        let expected =
            "  # lock-never\nno-greetings\nkeyserver-options timeout=10 \nx\nno-greeting\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn what_is_there_is_kept_but_for_what_is_left_over() {
        let (_guard, root) = root();
        let at = root.path().join(AT);
        std::fs::create_dir_all(at.join("private-keys-v1.d")).unwrap();
        std::fs::create_dir_all(at.join("crls.d/deep")).unwrap();
        for name in [
            "pubring.gpg",
            "pubring.gpg~",
            "x.lock",
            "random_seed",
            "crls.d/deep/x",
            "private-keys-v1.d/A.key",
        ] {
            std::fs::write(at.join(name), name).unwrap();
        }
        std::fs::write(at.join("gpg.conf"), "agent-program /evil\n").unwrap();
        symlink("/etc/shadow", at.join("trustdb.gpg")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at.join("S.gpg-agent")).unwrap();
        let mut home = Home::read(&root).unwrap();
        assert_eq!(home.skipped, ["trustdb.gpg"]);
        let names: Vec<_> = home.files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "crls.d/deep/x",
                "gpg.conf",
                "private-keys-v1.d/A.key",
                "pubring.gpg"
            ]
        );

        assert_eq!(home.keys().len(), 2);

        // The host's gpg gets the keys, and no configuration.
        let scratch = root.path().join("k");
        home.lay_out(&scratch).unwrap();
        assert!(!scratch.join("gpg.conf").exists() && !scratch.join("crls.d").exists());
        assert_eq!(
            std::fs::read(scratch.join("pubring.gpg")).unwrap(),
            b"pubring.gpg"
        );
        std::fs::write(scratch.join("trustdb.gpg"), "trust").unwrap();
        std::fs::write(scratch.join("tofu.db"), "").unwrap();
        std::fs::remove_file(scratch.join("private-keys-v1.d/A.key")).unwrap();
        home.take_over(&scratch, Some((2, 2, 40))).unwrap();
        assert!(home.has_keys() && !Home::default().has_keys());
        home.write_beside(&root).unwrap();
        take_place(&root).unwrap();
        let names: Vec<_> = home.files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "crls.d/deep/x",
                "gpg-agent.conf",
                "gpg.conf",
                "pubring.gpg",
                "secring.gpg",
                "trustdb.gpg"
            ]
        );
        let conf = std::fs::read_to_string(at.join("gpg.conf")).unwrap();
        assert!(
            conf.starts_with("agent-program /evil\nno-greeting\n"),
            "{conf}"
        );
        let mode = |name: &str| at.join(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            [
                mode(""),
                mode("pubring.gpg"),
                mode("secring.gpg"),
                mode("crls.d")
            ],
            [0o755, 0o644, 0o600, 0o700]
        );
        assert!(!at.join("S.gpg-agent").exists() && !root.path().join(PARENT).join(NEW).exists());
        // And what was published is read back.
        assert_eq!(Home::read(&root).unwrap().files, home.files);
    }

    #[test]
    fn an_exchange_that_was_cut_off_is_found_again() {
        let (_guard, root) = root();
        let parent = root.path().join(PARENT);
        std::fs::create_dir_all(parent.join(OLD)).unwrap();
        std::fs::write(parent.join(OLD).join("pubring.gpg"), "old").unwrap();
        std::fs::create_dir_all(parent.join(NEW).join("a/b")).unwrap();
        let home = Home::read(&root).unwrap();
        assert!(home.files.contains_key("pubring.gpg"));
        home.write_beside(&root).unwrap();
        take_place(&root).unwrap();
        let left: Vec<_> = std::fs::read_dir(&parent)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [NAME]);
        unmake(&root).unwrap();
        assert!(Home::read(&root).unwrap().is_empty());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (_guard, root) = root();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "").unwrap();
        symlink(outside.path(), root.path().join(AT)).unwrap();
        let failure = Home::read(&root).unwrap_err();
        assert!(
            failure.message.ends_with("it is no plain directory"),
            "{failure}"
        );
        remove_sockets(&root).unwrap_err();
        unmake(&root).unwrap();
        assert!(outside.path().join("keep").exists());
    }
}
