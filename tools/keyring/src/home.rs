//! The files of a keyring, and how a new keyring replaces the present one.
//!
//! There are two of each keyring. One is below the root, `etc/pacman.d/gnupg`, for the programs of the root: pacman there
//! uses it, and pacman-key there can add to it. The other one is the document's `config.gpgdir`, a directory of the host
//! beside the root: pacman and gpg of the host verify by it, and no program of the root writes to it. Only with `--extend` is
//! the one in the root read as trust.

use package::digest::sha256_hex;
use pacman::gpg::{AT, EXTENDED, OWN, PublicFiles, read_lines};
use pacman::records::if_exists;
use pacman::secret::PRIVATE;
use rootfs::root::{self, BENEATH, open_below};
use rootfs::{Root, gnupg};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fstat, fsync, mkdirat, openat,
    openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use stage::{Code, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory of [`AT`], and the name in it.
const PARENT: &str = "etc/pacman.d";
const NAME: &str = "gnupg";

/// The name of a keyring that this pipeline did not build, in the same directory.
const SET_ASIDE: &str = "gnupg.set-aside";

/// How many keyrings can be set aside.
const SET_ASIDES: usize = 9;

/// The largest secret key, in bytes.
const LIMIT: u64 = 1 << 20;

/// How deep a directory is that we move or remove: gpg makes none that is deeper.
const DEPTH: usize = 4;

/// The files of gpg's home that the root gets, with the modes that pacman-key gives them. The last one is gpg's mark that
/// secring.gpg needs no migration.
const FILES: [(&str, u32); 4] =
    [("pubring.gpg", 0o644), ("trustdb.gpg", 0o644), ("secring.gpg", 0o600), (".gpg-v21-migrated", 0o644)];

/// The directories of gpg's home that the root gets, and what the names of their files end in.
const DIRECTORIES: [(&str, &str); 2] = [(PRIVATE, ".key"), ("openpgp-revocs.d", ".rev")];

/// The gpg.conf of pacman-key --init. gpg knows `no-self-sigs-only` since 2.2.17.
const GPG_CONF: [&str; 6] = [
    "no-greeting",
    "no-permission-warning",
    "lock-never",
    "keyserver-options timeout=10",
    "keyserver-options import-clean",
    "keyserver-options no-self-sigs-only",
];

/// Its gpg-agent.conf.
const AGENT_CONF: &str = "disable-scdaemon\n";

/// The files of a keyring: path, content and mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyringFiles(BTreeMap<String, (Vec<u8>, u32)>);

impl KeyringFiles {
    /// Returns a keyring without keys: the configuration that pacman-key writes, for this version of gpg.
    pub(crate) fn without_keys(gpg: Option<(u32, u32, u32)>) -> Self {
        let old = gpg.is_some_and(|version| version < (2, 2, 17));
        let options = &GPG_CONF[..GPG_CONF.len() - usize::from(old)];
        let mut files = Self::default();
        files.add("gpg.conf", (options.join("\n") + "\n").into_bytes(), 0o644);
        files.add("gpg-agent.conf", AGENT_CONF.into(), 0o644);
        files
    }

    /// Returns what gpg made in its scratch home, with the configuration that pacman-key writes.
    pub(crate) fn from_scratch(scratch: &Path, gpg: (u32, u32, u32)) -> std::io::Result<Self> {
        let mut files = Self::without_keys(Some(gpg));
        for (name, mode) in FILES {
            let path = scratch.join(name);
            if path.is_file() {
                files.add(name, std::fs::read(path)?, mode);
            }
        }
        for (directory, end) in DIRECTORIES {
            let path = scratch.join(directory);
            let entries = path.is_dir().then(|| std::fs::read_dir(path)).transpose()?;
            for entry in entries.into_iter().flatten() {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(end) {
                    let bytes = std::fs::read(entry.path())?;
                    files.add(&format!("{directory}/{name}"), bytes, 0o600);
                }
            }
        }
        Ok(files)
    }

    /// Returns the keyring beside the root: the public keys, the trust, and our lists.
    pub(crate) fn beside_root(public: PublicFiles, own: &BTreeSet<String>, extended: &[String]) -> Self {
        let mut files = Self::default();
        files.add("gpg.conf", gnupg::CONFIGURATION.into(), 0o644);
        let own: String = own.iter().map(|line| format!("{line}\n")).collect();
        files.add(OWN, own.into(), 0o644);
        if !extended.is_empty() {
            files.add(EXTENDED, (extended.join("\n") + "\n").into(), 0o644);
        }
        files.add_public(public);
        files
    }

    /// Adds the public keys and the trust of another keyring.
    pub(crate) fn add_public(&mut self, public: PublicFiles) {
        for (name, bytes) in public {
            self.add(name, bytes, 0o644);
        }
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.0.insert(path.to_owned(), (bytes, mode));
    }

    fn write(&self, parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let make_directory = |within: BorrowedFd<'_>, name: &str| {
            mkdirat(within, name, Mode::RWXU)?;
            open_below(within, name, OFlags::RDONLY | OFlags::DIRECTORY)
        };
        let top = make_directory(parent, name)?;
        let mut below: BTreeMap<&str, OwnedFd> = BTreeMap::new();
        let mut open = Vec::new();
        for (path, (bytes, mode)) in &self.0 {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            if !directory.is_empty() && !below.contains_key(directory) {
                below.insert(directory, make_directory(top.as_fd(), directory)?);
            }
            let within = below.get(directory).unwrap_or(&top);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(within, name, flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(file);
            file.write_all(bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            fchmod(&file, Mode::from_raw_mode(*mode))?;
            open.push(OwnedFd::from(file));
        }
        fchmod(&top, Mode::from_raw_mode(0o755))?;
        open.extend(below.into_values());
        open.push(top);
        // All are written before the first is synced: one commit of the journal is enough for most of them.
        open.iter().try_for_each(fsync)
    }
}

/// Which keyring at a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Present,
    /// The new one, before [`Place::replace`].
    New,
    /// The present one, while a new one replaces it in two steps.
    Old,
}

/// Where a keyring is: a directory, and a name in it.
#[derive(Debug)]
pub(crate) struct Place {
    parent: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Opens the place below the root. [`Code::NotFound`] where the root has no `etc/pacman.d`; a link there is not followed.
    pub(crate) fn in_root(root: &Root) -> Result<Self, Failure> {
        let path = root.path().join(AT);
        let parent = root
            .open_below(PARENT, OFlags::RDONLY | OFlags::DIRECTORY)
            .doing(Code::NotFound, || format!("opening {}", quote(root.path().join(PARENT))))
            .map_err(|failure| failure.hint("mkroot makes it"))?;
        let place = Self { parent, path };
        let stat = statat(&place.parent, NAME, AtFlags::SYMLINK_NOFOLLOW);
        let doing = || format!("opening {}", quote(&place.path));
        match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Err(Errno::NOENT) | Ok(FileType::Directory) => Ok(place),
            Ok(_) => Err(Failure::new(Code::Failed, format!("{}: it is not a directory", doing()))
                .hint("remove it: no link is followed out of a root")),
            Err(e) => Err(e).doing(Code::Os, doing),
        }
    }

    /// Opens the place beside the root, and makes its directory. [`Code::Permission`] where that is another user's, or
    /// everybody may write to it.
    pub(crate) fn beside_root(gpgdir: &Path) -> Result<Self, Failure> {
        let directory = gpgdir.parent().unwrap_or(Path::new("/"));
        match std::fs::create_dir(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).doing(Code::Failed, || format!("making {}", quote(directory)));
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = openat(CWD, directory, flags, Mode::empty())
            .doing(Code::Failed, || format!("opening {}", quote(directory)))?;
        rootfs::file::check_owner(parent.as_fd(), directory)?;
        Ok(Self { parent, path: gpgdir.to_owned() })
    }

    /// Returns the path of a keyring here.
    pub(crate) fn path(&self, which: Which) -> PathBuf {
        self.path.with_file_name(self.name(which))
    }

    fn name(&self, which: Which) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        match which {
            Which::Present => name.into_owned(),
            Which::New => format!("{name}.new"),
            Which::Old => format!("{name}.old"),
        }
    }

    /// Opens what is at `below` a keyring; `None` where it does not exist.
    fn open(&self, which: Which, below: &str) -> Result<Option<OwnedFd>, Errno> {
        let path = format!("{}/{below}", self.name(which));
        if_exists(open_below(self.parent.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY))
    }

    /// Returns whether there is a keyring.
    pub(crate) fn is_there(&self) -> bool {
        let name = self.name(Which::Present);
        statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Returns whether there is a keyring with a file in it; those that mkroot and mkconf make are empty.
    pub(crate) fn has_files(&self) -> Result<bool, Failure> {
        let names = |directory: Option<OwnedFd>| directory.map(|home| entries(&home)).transpose();
        let names = self.open(Which::Present, "").and_then(names);
        let names = names.doing(Code::Failed, || format!("reading {}", quote(&self.path)))?;
        Ok(names.is_some_and(|names| !names.is_empty()))
    }

    /// Reads the public keys and the trust, as [`gnupg::read_keys`]; nothing where there is no keyring.
    pub(crate) fn read_public(&self, which: Which) -> Result<PublicFiles, Failure> {
        let read = |directory: Option<OwnedFd>| directory.map(|home| gnupg::read_keys(home.as_fd())).transpose();
        let files = self.open(which, "").and_then(read);
        let doing = || format!("reading the keyring {}", quote(self.path(which)));
        Ok(files.doing(Code::Failed, doing)?.unwrap_or_default())
    }

    /// [`Place::read_public`], of a keyring that is to be extended. [`Code::Failed`] where its keys are in a database of
    /// keyboxd's.
    pub(crate) fn read_to_extend(&self) -> Result<PublicFiles, Failure> {
        if let Ok(Some(directory)) = self.open(Which::Present, "")
            && gnupg::has_database(directory.as_fd())
        {
            let message = format!(
                "extending the keyring {}: keys in it are in a database of keyboxd's ('public-keys.d'), which only that reads",
                quote(&self.path)
            );
            return Err(Failure::new(Code::Failed, message)
                .hint("leave --extend out, and name the keys that are to be trusted with --trust"));
        }
        self.read_public(Which::Present)
    }

    /// Returns the SHA-256 of the secret keys: they show which machine's keyring it is.
    pub(crate) fn secret_keys(&self, which: Which) -> Result<BTreeSet<String>, Failure> {
        let hashes = || -> Result<BTreeSet<String>, Errno> {
            let mut hashes = BTreeSet::new();
            if let Some(directory) = self.open(which, PRIVATE)? {
                for name in entries(&directory)? {
                    if name.to_bytes().ends_with(b".key") {
                        let name = name.to_str().map_err(|_| Errno::INVAL)?;
                        hashes.insert(sha256_hex(root::read(directory.as_fd(), name, LIMIT)?));
                    }
                }
            }
            Ok(hashes)
        };
        hashes().doing(Code::Os, || format!("reading {}", quote(self.path(which))))
    }

    /// Returns what the keyring beside the root has recorded of the root's own keys: see [`OWN`].
    pub(crate) fn known_own_keys(&self) -> Result<BTreeSet<String>, Failure> {
        let lines = read_lines(self.parent.as_fd(), &format!("{}/{OWN}", self.name(Which::Present)));
        let lines = lines.doing(Code::Failed, || format!("reading {}", quote(self.path.join(OWN))))?;
        Ok(lines.into_iter().collect())
    }

    /// Writes the new keyring beside the present one.
    pub(crate) fn write_new(&self, files: &KeyringFiles) -> Result<(), Failure> {
        let name = self.name(Which::New);
        self.remove([name.clone()])?;
        files.write(self.parent.as_fd(), &name).doing(Code::Os, || format!("writing {}", quote(self.path(Which::New))))
    }

    /// Replaces the present keyring by the new one, in one step where the file system can do that.
    pub(crate) fn replace(&self) -> Result<(), Failure> {
        self.exchange().doing(Code::Os, || format!("writing {}", quote(&self.path)))?;
        self.remove_unfinished()
    }

    fn exchange(&self) -> Result<(), Errno> {
        let parent = self.parent.as_fd();
        let [name, new, old] = [Which::Present, Which::New, Which::Old].map(|w| self.name(w));
        let rename = |from: &str, to: &str, flags| renameat_with(parent, from, parent, to, flags);
        match rename(&new, &name, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => rename(&new, &name, RenameFlags::NOREPLACE)?,
            // Not every file system can exchange two names, and overlayfs exchanges no directory of a lower layer; nor does it
            // rename one, so the present one is removed there.
            Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                remove_at(parent, &*old, DEPTH)?;
                match rename(&name, &old, RenameFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::XDEV) => remove_at(parent, &*name, DEPTH)?,
                    Err(e) => return Err(e),
                }
                rename(&new, &name, RenameFlags::empty())?;
            }
            exchanged => exchanged?,
        }
        fsync(parent)
    }

    /// Removes the new keyring, and what a killed run left.
    pub(crate) fn remove_unfinished(&self) -> Result<(), Failure> {
        self.remove([Which::New, Which::Old].map(|which| self.name(which)))
    }

    /// Removes the keyring.
    pub(crate) fn remove_present(&self) -> Result<(), Failure> {
        self.remove([self.name(Which::Present)])
    }

    /// Removes the keyrings that were set aside, with the secret keys in them.
    pub(crate) fn remove_set_aside(&self) -> Result<(), Failure> {
        self.remove(set_aside_names())
    }

    fn remove(&self, names: impl IntoIterator<Item = String>) -> Result<(), Failure> {
        names.into_iter().try_for_each(|name| {
            remove_at(self.parent.as_fd(), &*name, DEPTH)
                .doing(Code::Os, || format!("removing {}", quote(self.path.with_file_name(&name))))
        })
    }

    /// Renames the keyring to a free name beside it, and returns its path.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, Failure> {
        let (parent, from) = (self.parent.as_fd(), self.name(Which::Present));
        for name in set_aside_names() {
            let to = self.path.with_file_name(&name);
            let renamed = match renameat_with(parent, &from, parent, &name, RenameFlags::NOREPLACE) {
                // Overlayfs renames no directory of a lower layer.
                Err(Errno::XDEV) => move_at((parent, &*from), (parent, &*name), DEPTH),
                renamed => renamed,
            };
            match renamed {
                Ok(()) => return Ok(to),
                Err(Errno::EXIST) => {}
                Err(e) => {
                    let doing = || format!("moving {} to {}", quote(&self.path), quote(&to));
                    return Err(e).doing(Code::Os, doing);
                }
            }
        }
        let message = format!("setting {} aside: {SET_ASIDES} keyrings were set aside already", quote(&self.path));
        Err(Failure::new(Code::Failed, message).hint("remove those that nobody needs"))
    }

    /// Removes the sockets that a killed agent left.
    pub(crate) fn remove_sockets(&self) -> Result<(), Errno> {
        let Some(home) = self.open(Which::Present, "")? else {
            return Ok(());
        };
        for name in entries(&home)? {
            let stat = statat(&home, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
            if is_socket && name.to_bytes().starts_with(b"S.") {
                unlinkat(&home, &*name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn set_aside_names() -> impl Iterator<Item = String> {
    (1..=SET_ASIDES).map(|n| match n {
        1 => SET_ASIDE.to_owned(),
        n => format!("{SET_ASIDE}-{n}"),
    })
}

/// Returns the names in a directory.
fn entries(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let names = Dir::read_from(directory)?.map(|entry| Ok(entry?.file_name().to_owned()));
    let is_entry = |name: &Result<CString, Errno>| !matches!(name, Ok(name) if matches!(name.to_bytes(), b"." | b".."));
    names.filter(is_entry).collect()
}

fn open_directory(parent: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), BENEATH)
}

/// Moves a directory: makes a new one with its owner and mode, and moves its entries. Nothing may have the new name.
fn move_at<N: Arg + Copy>(from: (BorrowedFd<'_>, N), to: (BorrowedFd<'_>, N), depth: usize) -> Result<(), Errno> {
    let old = open_directory(from.0, from.1)?;
    mkdirat(to.0, to.1, Mode::RWXU)?;
    let new = open_directory(to.0, to.1)?;
    for name in entries(&old)? {
        match renameat_with(&old, &*name, &new, &*name, RenameFlags::NOREPLACE) {
            Err(Errno::XDEV) if depth > 0 => {
                move_at((old.as_fd(), &*name), (new.as_fd(), &*name), depth - 1)?;
            }
            renamed => renamed?,
        }
    }
    let stat = fstat(&old)?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(&new, Some(owner.0), Some(owner.1))?;
    fchmod(&new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    unlinkat(from.0, from.1, AtFlags::REMOVEDIR)
}

/// Removes a directory of a keyring, by descriptors: no symbolic link is followed, and a mount point stops it.
fn remove_at<N: Arg + Copy>(parent: BorrowedFd<'_>, name: N, depth: usize) -> Result<(), Errno> {
    let directory = match open_directory(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
        directory => directory?,
    };
    for name in entries(&directory)? {
        if depth == 0 {
            return Err(Errno::NOTEMPTY);
        }
        remove_at(directory.as_fd(), &*name, depth - 1)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
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
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
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
        let home = KeyringFiles::from_scratch(&scratch(guard.path()), (2, 2, 40)).unwrap();
        let place = Place::in_root(&root).unwrap();
        place.write_new(&home).unwrap();
        place.replace().unwrap();
        let at = root.path().join(AT);
        assert_eq!(
            names(&at),
            ["gpg-agent.conf", "gpg.conf", "private-keys-v1.d", "pubring.gpg", "secring.gpg", "trustdb.gpg"]
        );
        assert_eq!(names(&at.join(PRIVATE)), ["A.key"]);
        let conf = fs::read_to_string(at.join("gpg.conf")).unwrap();
        assert!(conf.starts_with("no-greeting\n") && conf.ends_with("no-self-sigs-only\n"));
        let mode = |name: &str| at.join(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(["", "pubring.gpg", "secring.gpg", "private-keys-v1.d"].map(mode), [0o755, 0o644, 0o600, 0o700]);
        let hash = BTreeSet::from([sha256_hex(b"private-keys-v1.d/A.key")]);
        assert_eq!(place.secret_keys(Which::Present).unwrap(), hash);
        // An old gpg fails over an option that it does not know.
        let old = KeyringFiles::without_keys(Some((2, 2, 12)));
        let conf = String::from_utf8(old.0["gpg.conf"].0.clone()).unwrap();
        assert!(!conf.contains("self-sigs-only"), "{conf}");
    }

    #[test]
    fn a_new_keyring_replaces_the_old_one() {
        let (guard, root) = root();
        let place = Place::in_root(&root).unwrap();
        let at = root.path().join(AT);
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("common.conf"), "use-keyboxd\n").unwrap();
        // What a run that was killed left, is no obstacle.
        fs::create_dir(root.path().join(PARENT).join("gnupg.new")).unwrap();
        fs::create_dir(root.path().join(PARENT).join("gnupg.old")).unwrap();
        let home = KeyringFiles::from_scratch(&scratch(guard.path()), (2, 4, 7)).unwrap();
        place.write_new(&home).unwrap();
        assert_eq!(place.secret_keys(Which::New).unwrap().len(), 1);
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
        assert_eq!(names(&root.path().join(PARENT)), [SET_ASIDE, "gnupg.set-aside-2"]);
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
        assert!(failure.message.ends_with("it is not a directory"), "{failure}");
        assert!(outside.path().join("keep").exists());
    }

    #[test]
    fn the_keyring_beside_the_root_has_keys_and_trust_only() {
        let dir = tempfile::tempdir().unwrap();
        let gpgdir = dir.path().canonicalize().unwrap().join("out/gnupg");
        let place = Place::beside_root(&gpgdir).unwrap();
        let own = BTreeSet::from(["aa".to_owned()]);
        let keys = vec![("pubring.gpg", b"keys".to_vec())];
        place.write_new(&KeyringFiles::beside_root(keys, &own, &["F".to_owned()])).unwrap();
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
