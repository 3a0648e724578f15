//! The files of a keyring, and how a new keyring replaces the one that is there.
//!
//! There are two of each keyring. One is below the root, `etc/pacman.d/gnupg`, for the programs of the root: pacman there
//! finds it, and pacman-key there can add to it. The other one is the document's `config.gpgdir`, a directory of the host
//! beside the root: pacman and gpg of the host verify by it, and no program of the root writes to it. What lies in the root
//! is never read back as trust, but with `--extend`.

use package::digest::sha256_hex;
use pacman::diagnosis::gpg::{EXTENDED, OWN};
use rootfs::Root;
use rootfs::gnupg;
use rootfs::root::{self, BENEATH};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fstat, fsync,
    mkdirat, openat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where it is below the root.
pub(crate) const AT: &str = "etc/pacman.d/gnupg";

const PARENT: &str = "etc/pacman.d";
const NAME: &str = "gnupg";

/// Where a keyring of the root's that this pipeline did not build is kept, in the same directory.
const SET_ASIDE: &str = "gnupg.set-aside";

/// The longest list beside the root, and the longest secret key, in bytes.
const SHORT: u64 = 1 << 20;

/// How deep a directory is that we remove: what is deeper is none of gpg's.
const DEPTH: usize = 4;

/// The directory of secret keys, and what their names end in.
const PRIVATE: &str = "private-keys-v1.d/";
const KEY: &str = ".key";

/// What gpg works with, and the mode that pacman-key gives it: a file's name, or a directory and what its files end in.
const KEYS: [(&str, &str, u32); 7] = [
    ("", "pubring.gpg", 0o644),
    ("", "pubring.kbx", 0o644),
    ("", "trustdb.gpg", 0o644),
    ("", "secring.gpg", 0o600),
    // gpg's own mark that secring.gpg needs no migration.
    ("", ".gpg-v21-migrated", 0o644),
    (PRIVATE, KEY, 0o600),
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
const AGENT_CONF: &str = "disable-scdaemon\n";

/// The files of a keyring: path, content and mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home {
    files: BTreeMap<String, (Vec<u8>, u32)>,
}

impl Home {
    /// Returns a keyring without keys: the configuration that pacman-key writes, for this gpg.
    pub(crate) fn without_keys(gpg: Option<(u32, u32, u32)>) -> Self {
        let old = gpg.is_some_and(|version| version < (2, 2, 17));
        let options = &GPG_CONF[..GPG_CONF.len() - usize::from(old)];
        let mut home = Self::default();
        home.add("gpg.conf", (options.join("\n") + "\n").into_bytes(), 0o644);
        home.add("gpg-agent.conf", AGENT_CONF.into(), 0o644);
        home
    }

    /// Returns what gpg made in its scratch home, with the configuration that pacman-key writes.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn of_scratch(scratch: &Path, gpg: (u32, u32, u32)) -> std::io::Result<Self> {
        let mut home = Self::without_keys(Some(gpg));
        for directory in ["", PRIVATE, "openpgp-revocs.d/"] {
            let entries = match std::fs::read_dir(scratch.join(directory)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let path = format!("{directory}{}", entry.file_name().to_string_lossy());
                if let Some(mode) = mode_of(&path).filter(|_| entry.path().is_file()) {
                    home.add(&path, std::fs::read(entry.path())?, mode);
                }
            }
        }
        Ok(home)
    }

    /// Returns the keyring that goes beside the root: the public keys, the trust, and what is known of both.
    pub(crate) fn beside_root(
        files: &[(&'static str, Vec<u8>)],
        own: &BTreeSet<String>,
        extended: &[String],
    ) -> Self {
        let lines = |list: &mut dyn Iterator<Item = &String>| -> Vec<u8> {
            list.map(|line| format!("{line}\n"))
                .collect::<String>()
                .into()
        };
        let mut home = Self::default();
        home.add("gpg.conf", gnupg::CONFIGURATION.into(), 0o644);
        home.add(OWN, lines(&mut own.iter()), 0o644);
        if !extended.is_empty() {
            home.add(EXTENDED, lines(&mut extended.iter()), 0o644);
        }
        for (name, bytes) in files {
            home.add(name, bytes.clone(), 0o644);
        }
        home
    }

    /// Adds the public keys and the trust of another keyring.
    pub(crate) fn add_public(&mut self, files: Vec<(&'static str, Vec<u8>)>) {
        for (name, bytes) in files {
            self.add(name, bytes, 0o644);
        }
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.files.insert(path.to_owned(), (bytes, mode));
    }

    fn write(&self, parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let directory = |within: BorrowedFd<'_>, name: &str| {
            mkdirat(within, name, Mode::from_raw_mode(0o700))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(within, name, flags, Mode::empty())
        };
        let top = directory(parent, name)?;
        let mut below: BTreeMap<&str, OwnedFd> = BTreeMap::new();
        let mut open = Vec::new();
        for (path, (bytes, mode)) in &self.files {
            let (at, name) = path.rsplit_once('/').unwrap_or(("", path));
            if !at.is_empty() && !below.contains_key(at) {
                below.insert(at, directory(top.as_fd(), at)?);
            }
            let within = below.get(at).unwrap_or(&top);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let flags = flags | OFlags::CLOEXEC;
            let file = openat(within, name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            file.write_all(bytes)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            fchmod(&file, Mode::from_raw_mode(*mode))?;
            open.push(OwnedFd::from(file));
        }
        fchmod(&top, Mode::from_raw_mode(0o755))?;
        open.extend(below.into_values());
        open.push(top);
        // All are written before the first is synced: one commit of the journal does for most of them.
        open.iter().try_for_each(fsync)
    }
}

/// Where a keyring is or goes: a directory, and a name in it.
#[derive(Debug)]
pub(crate) struct Place {
    parent: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Place {
    /// Opens the place below the root.
    ///
    /// # Errors
    ///
    /// [`Code::NotFound`] where the root has no `etc/pacman.d`; a link there is not followed.
    pub(crate) fn in_root(root: &Root) -> Result<Self, Failure> {
        let path = root.path().join(AT);
        let doing = || format!("opening {}", quote(root.path().join(PARENT)));
        let parent = root
            .open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY)
            .doing(Code::NotFound, doing)
            .map_err(|failure| failure.hint("mkroot makes it"))?;
        let place = Self {
            parent,
            path,
            name: NAME.to_owned(),
        };
        match place.kind(NAME) {
            Err(Errno::NOENT) | Ok(FileType::Directory) => Ok(place),
            Ok(_) => Err(Failure::new(
                Code::Failed,
                format!("opening {}: it is not a directory", quote(&place.path)),
            )
            .hint("remove it: no link is followed out of a root")),
            Err(e) => Err(e).doing(Code::Os, || format!("opening {}", quote(&place.path))),
        }
    }

    /// Opens the place beside the root, and makes its directory where there is none.
    ///
    /// # Errors
    ///
    /// [`Code::Permission`] where that is another user's, or everybody may write to it.
    pub(crate) fn beside_root(gpgdir: &Path) -> Result<Self, Failure> {
        let directory = gpgdir.parent().unwrap_or(Path::new("/"));
        let doing = || format!("opening {}", quote(directory));
        match std::fs::create_dir(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).doing(Code::Failed, || format!("making {}", quote(directory)));
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = openat(CWD, directory, flags, Mode::empty()).doing(Code::Failed, doing)?;
        rootfs::file::check_owner(parent.as_fd(), directory)?;
        let name = gpgdir.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            parent,
            path: gpgdir.to_owned(),
            name: name.into_owned(),
        })
    }

    /// Returns where the new keyring lies before [`Place::replace`].
    pub(crate) fn new_path(&self) -> PathBuf {
        self.path.with_file_name(self.new_name())
    }

    fn new_name(&self) -> String {
        format!("{}.new", self.name)
    }

    fn old_name(&self) -> String {
        format!("{}.old", self.name)
    }

    fn kind(&self, name: &str) -> Result<FileType, Errno> {
        let stat = statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// Returns whether there is a keyring.
    pub(crate) fn is_there(&self) -> bool {
        self.kind(&self.name).is_ok()
    }

    /// Returns whether there is nothing in the keyring, as in one that mkroot or mkconf made.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn is_empty(&self) -> Result<bool, Failure> {
        let entries = self.open(&self.name).and_then(|directory| {
            let mut entries = Dir::read_from(&directory)?;
            let is_entry = |entry: &Result<rustix::fs::DirEntry, Errno>| {
                !matches!(entry, Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b".."))
            };
            entries.find(is_entry).transpose()
        });
        entries
            .map(|entry| entry.is_none())
            .doing(Code::Failed, || format!("reading {}", quote(&self.path)))
    }

    /// Reads the public keys and the trust, as [`gnupg::read_keys`]; nothing where there is no keyring.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub(crate) fn read_public(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        self.read_public_of(&self.name)
    }

    /// [`Place::read_public`], of a keyring that is to be extended.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where its keys are in a database of keyboxd's.
    pub(crate) fn read_to_extend(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        let has_database = |directory: OwnedFd| gnupg::has_database(directory.as_fd());
        if self.open(&self.name).is_ok_and(has_database) {
            let message = format!(
                "extending the keyring {}: keys in it are in a database of keyboxd's ('public-keys.d'), which only that reads",
                quote(&self.path)
            );
            return Err(Failure::new(Code::Failed, message).hint(
                "leave --extend out, and name the keys that are to be trusted with --trust",
            ));
        }
        self.read_public()
    }

    /// [`Place::read_public`] of the new keyring.
    ///
    /// # Errors
    ///
    /// As [`Place::read_public`].
    pub(crate) fn read_new_public(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        self.read_public_of(&self.new_name())
    }

    fn read_public_of(&self, name: &str) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        let doing = || {
            format!(
                "reading the keyring {}",
                quote(self.path.with_file_name(name))
            )
        };
        match self.open(name) {
            Ok(directory) => gnupg::read_keys(directory.as_fd()).doing(Code::Failed, doing),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(e) => Err(e).doing(Code::Failed, doing),
        }
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.parent, name, flags, Mode::empty(), BENEATH)
    }

    /// Returns the SHA-256 of the secret keys of the keyring at `name`: which machine's it is.
    fn secret_keys_of(&self, name: &str) -> Result<BTreeSet<String>, Errno> {
        let mut hashes = BTreeSet::new();
        let directory = match self.open(&format!("{name}/{}", PRIVATE.trim_end_matches('/'))) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(hashes),
            Err(e) => return Err(e),
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if entry.file_name().to_bytes().ends_with(KEY.as_bytes()) {
                let name = entry.file_name().to_str().map_err(|_| Errno::INVAL)?;
                let bytes = root::read(directory.as_fd(), name, SHORT)?;
                hashes.insert(sha256_hex(&bytes));
            }
        }
        Ok(hashes)
    }

    /// Returns the SHA-256 of the secret keys of the new keyring.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub(crate) fn new_secret_keys(&self) -> Result<BTreeSet<String>, Failure> {
        self.secret_keys_of(&self.new_name())
            .doing(Code::Os, || format!("reading {}", quote(self.new_path())))
    }

    /// Returns the SHA-256 of the secret keys of the keyring that is there; none where they cannot be read, as those of a
    /// keyring that is not ours may be.
    pub(crate) fn secret_keys(&self) -> BTreeSet<String> {
        self.secret_keys_of(&self.name).unwrap_or_default()
    }

    /// Returns what the keyring beside the root has noted of the root's own keys: see [`OWN`].
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub(crate) fn known_own_keys(&self) -> Result<BTreeSet<String>, Failure> {
        let doing = || format!("reading {}", quote(self.path.join(OWN)));
        let bytes = root::read(self.parent.as_fd(), &format!("{}/{OWN}", self.name), SHORT);
        match bytes {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes)
                .lines()
                .map(str::to_owned)
                .collect()),
            Err(Errno::NOENT) => Ok(BTreeSet::new()),
            Err(e) => Err(e).doing(Code::Failed, doing),
        }
    }

    /// Writes the new keyring beside the old one.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn write_new(&self, home: &Home) -> Result<(), Failure> {
        let name = self.new_name();
        remove(self.parent.as_fd(), &name)
            .doing(Code::Os, || format!("removing {}", quote(self.new_path())))?;
        home.write(self.parent.as_fd(), &name)
            .doing(Code::Os, || format!("writing {}", quote(self.new_path())))
    }

    /// Lets the new keyring take its place in one step: whatever kills us, the old one is there or the new one.
    ///
    /// # Errors
    ///
    /// The system call's; then the old one is still there.
    pub(crate) fn replace(&self) -> Result<(), Failure> {
        self.exchange()
            .doing(Code::Os, || format!("writing {}", quote(&self.path)))
    }

    fn exchange(&self) -> Result<(), Errno> {
        let (parent, name) = (self.parent.as_fd(), self.name.as_str());
        let (new, old) = (self.new_name(), self.old_name());
        let rename = |from: &str, to: &str, flags| renameat_with(parent, from, parent, to, flags);
        match rename(&new, name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::NOENT) => rename(&new, name, RenameFlags::NOREPLACE)?,
            // Not every file system can exchange two names, and overlayfs exchanges no directory of a lower layer; nor does it
            // rename one, so the old one is removed there.
            Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                remove(parent, &old)?;
                match rename(name, &old, RenameFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::XDEV) => remove(parent, name)?,
                    Err(e) => return Err(e),
                }
                rename(&new, name, RenameFlags::empty())?;
            }
            Err(e) => return Err(e),
        }
        fsync(parent)?;
        remove(parent, &new)?;
        remove(parent, &old)
    }

    /// Removes the new keyring again, and what a run that was killed left.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub(crate) fn remove_new(&self) -> Result<(), Failure> {
        for name in [self.new_name(), self.old_name()] {
            remove(self.parent.as_fd(), &name).doing(Code::Os, || {
                format!("removing {}", quote(self.path.with_file_name(&name)))
            })?;
        }
        Ok(())
    }

    /// Removes the keyring.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        remove(self.parent.as_fd(), &self.name)
            .doing(Code::Os, || format!("removing {}", quote(&self.path)))
    }

    /// Removes what was set aside, with the secret keys in it.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub(crate) fn remove_set_aside(&self) -> Result<(), Failure> {
        for name in set_aside_names() {
            remove(self.parent.as_fd(), &name).doing(Code::Os, || {
                format!("removing {}", quote(self.path.with_file_name(&name)))
            })?;
        }
        Ok(())
    }

    /// Moves the keyring out of the way, and returns where it is now.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where all names for that are taken; the system call's.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, Failure> {
        for name in set_aside_names() {
            let to = self.path.with_file_name(&name);
            let (parent, flags) = (&self.parent, RenameFlags::NOREPLACE);
            let renamed = match renameat_with(parent, &self.name, parent, &name, flags) {
                // Overlayfs renames no directory of a lower layer.
                Err(Errno::XDEV) => move_each(parent.as_fd(), &self.name, &name),
                renamed => renamed,
            };
            match renamed {
                Ok(()) => return Ok(to),
                Err(Errno::EXIST) => {}
                Err(e) => {
                    return Err(e).doing(Code::Os, || {
                        format!("moving {} to {}", quote(&self.path), quote(&to))
                    });
                }
            }
        }
        Err(Failure::new(
            Code::Failed,
            format!(
                "moving {} out of the way: {} keyrings were set aside already",
                quote(&self.path),
                SET_ASIDES
            ),
        )
        .hint("look through what is there, and remove what nobody needs"))
    }

    /// Removes the sockets that a killed agent left, and nothing else.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub(crate) fn remove_sockets(&self) -> Result<(), Errno> {
        let home = match self.open(&self.name) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        for entry in Dir::read_from(&home)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b"S.") {
                let stat = statat(&home, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                    unlinkat(&home, name, AtFlags::empty())?;
                }
            }
        }
        Ok(())
    }
}

/// How many keyrings can be set aside.
const SET_ASIDES: usize = 9;

fn set_aside_names() -> impl Iterator<Item = String> {
    (1..=SET_ASIDES).map(|n| match n {
        1 => SET_ASIDE.to_owned(),
        n => format!("{SET_ASIDE}-{n}"),
    })
}

/// Moves a directory by moving what is in it into a new one that has its owner and mode. Nothing may have the new name.
fn move_each(parent: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    let name = |name: &str| CString::new(name).map_err(|_| Errno::INVAL);
    move_at((parent, &name(from)?), (parent, &name(to)?), DEPTH)
}

type Entry<'a> = (BorrowedFd<'a>, &'a CStr);

fn move_at(from: Entry<'_>, to: Entry<'_>, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |(at, name): Entry<'_>| openat2(at, name, flags, Mode::empty(), BENEATH);
    let (old, stat) = open(from).and_then(|old| fstat(&old).map(|stat| (old, stat)))?;
    mkdirat(to.0, to.1, Mode::RWXU)?;
    let new = open(to)?;
    for entry in Dir::read_from(&old)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match renameat_with(&old, name, &new, name, RenameFlags::NOREPLACE) {
            Err(Errno::XDEV) if depth > 0 => {
                move_at((old.as_fd(), name), (new.as_fd(), name), depth - 1)?;
            }
            renamed => renamed?,
        }
    }
    fchown(
        &new,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(&new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    unlinkat(from.0, from.1, AtFlags::REMOVEDIR)
}

/// Removes a directory of a keyring, by descriptors: no symbolic link is followed, and a mount point stops it.
fn remove(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    remove_at(parent, &name, DEPTH)
}

fn remove_at(parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
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

/// Returns the mode of a file that gpg works with; `None` for any other.
fn mode_of(path: &str) -> Option<u32> {
    KEYS.iter().find_map(|(directory, end, mode)| {
        let found = match path.strip_prefix(directory) {
            Some(name) if directory.is_empty() => name == *end,
            Some(name) => !name.contains('/') && name.ends_with(end),
            None => false,
        };
        found.then_some(*mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join(PARENT)).unwrap();
        (dir, Root::open(&path).unwrap())
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn scratch(dir: &Path) -> PathBuf {
        let scratch = dir.join("scratch");
        fs::create_dir_all(scratch.join(PRIVATE)).unwrap();
        for name in [
            "pubring.gpg",
            "trustdb.gpg",
            "secring.gpg",
            "private-keys-v1.d/A.key",
            // None of these is for the root.
            "gpg.conf",
            "common.conf",
            "random_seed",
            "pubring.gpg~",
            "private-keys-v1.d/x",
        ] {
            fs::write(scratch.join(name), name).unwrap();
        }
        scratch
    }

    #[test]
    fn only_what_gpg_works_with_reaches_the_root() {
        let (guard, root) = root();
        let home = Home::of_scratch(&scratch(guard.path()), (2, 2, 40)).unwrap();
        let place = Place::in_root(&root).unwrap();
        place.write_new(&home).unwrap();
        place.replace().unwrap();
        let at = root.path().join(AT);
        assert_eq!(
            names(&at),
            [
                "gpg-agent.conf",
                "gpg.conf",
                "private-keys-v1.d",
                "pubring.gpg",
                "secring.gpg",
                "trustdb.gpg"
            ]
        );
        assert_eq!(names(&at.join(PRIVATE)), ["A.key"]);
        let conf = fs::read_to_string(at.join("gpg.conf")).unwrap();
        assert!(conf.starts_with("no-greeting\n") && conf.ends_with("no-self-sigs-only\n"));
        let mode = |name: &str| at.join(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            ["", "pubring.gpg", "secring.gpg", "private-keys-v1.d"].map(mode),
            [0o755, 0o644, 0o600, 0o700]
        );
        let hash = BTreeSet::from([sha256_hex(b"private-keys-v1.d/A.key")]);
        assert_eq!(place.secret_keys(), hash);
        // An old gpg fails over an option that it does not know.
        let old = Home::without_keys(Some((2, 2, 12)));
        let conf = String::from_utf8(old.files["gpg.conf"].0.clone()).unwrap();
        assert!(!conf.contains("self-sigs-only"), "{conf}");
    }

    #[test]
    fn a_new_keyring_replaces_the_old_one_with_all_that_was_in_it() {
        let (guard, root) = root();
        let place = Place::in_root(&root).unwrap();
        let at = root.path().join(AT);
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("common.conf"), "use-keyboxd\n").unwrap();
        // What a run that was killed left, is no obstacle.
        fs::create_dir(root.path().join(PARENT).join("gnupg.new")).unwrap();
        fs::create_dir(root.path().join(PARENT).join("gnupg.old")).unwrap();
        let home = Home::of_scratch(&scratch(guard.path()), (2, 4, 7)).unwrap();
        place.write_new(&home).unwrap();
        assert_eq!(place.new_secret_keys().unwrap().len(), 1);
        place.replace().unwrap();
        assert!(!at.join("common.conf").exists() && !at.join("a").exists());
        assert_eq!(names(&root.path().join(PARENT)), [NAME]);
    }

    #[test]
    fn what_is_set_aside_is_kept_as_it_is() {
        let (_guard, root) = root();
        let place = Place::in_root(&root).unwrap();
        for n in 1..=2 {
            fs::create_dir(root.path().join(AT)).unwrap();
            fs::write(root.path().join(AT).join("x"), n.to_string()).unwrap();
            let to = place.set_aside().unwrap();
            assert_eq!(fs::read_to_string(to.join("x")).unwrap(), n.to_string());
        }
        assert_eq!(
            names(&root.path().join(PARENT)),
            [SET_ASIDE, "gnupg.set-aside-2"]
        );
        place.remove_set_aside().unwrap();
        assert_eq!(names(&root.path().join(PARENT)), [""; 0]);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (_guard, root) = root();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), "").unwrap();
        symlink(outside.path(), root.path().join(AT)).unwrap();
        let failure = Place::in_root(&root).unwrap_err();
        assert!(
            failure.message.ends_with("it is not a directory"),
            "{failure}"
        );
        assert!(outside.path().join("keep").exists());
    }

    #[test]
    fn the_keyring_beside_the_root_has_no_secret_and_no_foreign_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let gpgdir = dir.path().canonicalize().unwrap().join("out/gnupg");
        let place = Place::beside_root(&gpgdir).unwrap();
        let own = BTreeSet::from(["aa".to_owned()]);
        let keys = [("pubring.gpg", b"keys".to_vec())];
        place
            .write_new(&Home::beside_root(&keys, &own, &["F".to_owned()]))
            .unwrap();
        place.replace().unwrap();
        assert_eq!(names(&gpgdir), [EXTENDED, "gpg.conf", OWN, "pubring.gpg"]);
        assert_eq!(place.known_own_keys().unwrap(), own);
        let conf = fs::read_to_string(gpgdir.join("gpg.conf")).unwrap();
        assert_eq!(conf, gnupg::CONFIGURATION);
        // Not where another user could replace it.
        let parent = gpgdir.parent().unwrap();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).unwrap();
        let failure = Place::beside_root(&gpgdir).unwrap_err();
        assert_eq!(failure.code, Code::Permission, "{failure}");
    }
}
