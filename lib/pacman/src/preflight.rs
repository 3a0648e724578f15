//! The places in a root that pacman opens by their paths, from the host.
//!
//! pacman itself is not in the root: only scriptlets and hooks are. So where a root has a symbolic link, pacman is led to
//! the host's file, where it has a fifo, pacman waits for ever, and a device never ends. Nothing of the host can be written
//! then ([`rootfs::Place::Host`]), but what pacman reads would be the host's, and a log that is not written is a failed
//! scriptlet that is not seen. Such a root is refused before pacman runs, with a word about where.

use crate::records::{LOCAL, SYNC};
use rootfs::Root;
use rootfs::root::BENEATH;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Directories whose entries are files that pacman reads, or directories of such.
const DATABASES: [&str; 2] = [LOCAL, SYNC];

/// Directories whose entries are hooks. Of those, a link to `/dev/null` is how one is disabled (alpm-hooks(5)).
const HOOKS: [&str; 2] = ["etc/pacman.d/hooks", "usr/share/libalpm/hooks"];

const OTHERS: [&str; 2] = ["etc/pacman.d/gnupg", "var/log"];

/// pacman's log.
const LOG: &str = "var/log/pacman.log";

/// The longest record or database that pacman is given: more than any distribution has, in bytes.
const LONGEST: u64 = 1 << 30;

/// Refuses a root that would lead pacman somewhere else, or keep it for ever.
///
/// # Errors
///
/// [`Code::Failed`] with the place.
pub(crate) fn check(root: &Root) -> Result<(), Failure> {
    for at in OTHERS {
        directory(root, at)?;
    }
    for at in DATABASES {
        let Some(opened) = directory(root, at)? else {
            continue;
        };
        let here = Place { root, at };
        here.each(opened.as_fd(), &mut |name, kind| match kind {
            FileType::Directory => {
                let below = open(opened.as_fd(), name).doing(Code::Failed, || here.doing(name))?;
                let inner = here.join(name);
                let inner = Place { root, at: &inner };
                // Deeper down, nothing is read.
                inner.each(below.as_fd(), &mut |name, kind| match kind {
                    FileType::Directory => Ok(()),
                    kind => inner.file(below.as_fd(), name, kind),
                })
            }
            kind => here.file(opened.as_fd(), name, kind),
        })?;
    }
    for at in HOOKS {
        let Some(opened) = directory(root, at)? else {
            continue;
        };
        let here = Place { root, at };
        here.each(opened.as_fd(), &mut |name, kind| match kind {
            FileType::Directory => Ok(()),
            FileType::Symlink if is_harmless(root, opened.as_fd(), name, &here) => Ok(()),
            kind => here.file(opened.as_fd(), name, kind),
        })?;
    }
    log(root)
}

/// Opens a directory; `None` where there is none.
fn directory(root: &Root, at: &str) -> Result<Option<OwnedFd>, Failure> {
    let here = Place { root, at };
    match root.open_below(at, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(here.refuse(c"", "a part of the path is a symbolic link")),
        Err(Errno::NOTDIR) => Err(here.refuse(c"", "it is no directory")),
        Err(e) => Err(e).doing(Code::Failed, || here.doing(c"")),
    }
}

/// Looks at the log, which is written to: another name of the same file may be outside.
fn log(root: &Root) -> Result<(), Failure> {
    let here = Place { root, at: LOG };
    let found = match root.open_below(LOG, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e).doing(Code::Failed, || here.doing(c"")),
    };
    let is = statat(&found, "", AtFlags::EMPTY_PATH).doing(Code::Os, || here.doing(c""))?;
    match FileType::from_raw_mode(is.st_mode) {
        FileType::RegularFile if is.st_nlink == 1 => Ok(()),
        FileType::RegularFile => Err(here.refuse(
            c"",
            "it is a hard link, and what is written to it changes the other file, too",
        )),
        kind => Err(here.refuse(c"", words(kind))),
    }
}

/// A place below a root, for messages.
struct Place<'a> {
    root: &'a Root,
    at: &'a str,
}

impl Place<'_> {
    fn join(&self, name: &CStr) -> String {
        match name.to_bytes() {
            [] => self.at.to_owned(),
            name => format!("{}/{}", self.at, String::from_utf8_lossy(name)),
        }
    }

    fn path(&self, name: &CStr) -> PathBuf {
        self.root.path().join(self.join(name))
    }

    fn doing(&self, name: &CStr) -> String {
        format!("looking at {}", quote(self.path(name)))
    }

    fn refuse(&self, name: &CStr, why: &str) -> Failure {
        let message = format!("{}: {why}", self.doing(name));
        Failure::new(Code::Failed, message)
            .hint("pacman would not stay in the root, or not come back: remove it, and run again")
    }

    /// Calls `visit` with each name in a directory and what it is.
    fn each(
        &self,
        directory: BorrowedFd<'_>,
        visit: &mut dyn FnMut(&CStr, FileType) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for entry in Dir::read_from(directory).doing(Code::Os, || self.doing(c""))? {
            let entry = entry.doing(Code::Os, || self.doing(c""))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
                    let is = is.doing(Code::Os, || self.doing(name))?;
                    FileType::from_raw_mode(is.st_mode)
                }
                kind => kind,
            };
            visit(name, kind)?;
        }
        Ok(())
    }

    /// Refuses what is no regular file, or a giant.
    fn file(&self, directory: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<(), Failure> {
        if kind != FileType::RegularFile {
            return Err(self.refuse(name, words(kind)));
        }
        let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let is = is.doing(Code::Os, || self.doing(name))?;
        match u64::try_from(is.st_size) {
            Ok(0..LONGEST) => Ok(()),
            _ => Err(self.refuse(name, "it is larger than any that pacman has there")),
        }
    }
}

fn words(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "it is a symbolic link",
        FileType::Fifo => "it is a fifo",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device",
        FileType::Socket => "it is a socket",
        _ => "it is no regular file",
    }
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(directory, name, flags, Mode::empty(), BENEATH)
}

/// Returns whether a link of a hook is to `/dev/null`, or to a file of the root by a path that leads there from the host as
/// well.
fn is_harmless(root: &Root, directory: BorrowedFd<'_>, name: &CStr, here: &Place<'_>) -> bool {
    let target = readlinkat(directory, name, Vec::new());
    if target.is_ok_and(|target| target.to_bytes() == b"/dev/null") {
        return true;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, here.join(name), flags, Mode::empty(), resolve)
        .and_then(|found| statat(&found, "", AtFlags::EMPTY_PATH))
        .is_ok_and(|is| FileType::from_raw_mode(is.st_mode).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[track_caller]
    fn refused(root: &Root, why: &str) {
        let failure = check(root).unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.ends_with(why), "{failure}");
    }

    #[test]
    fn what_leads_out_of_the_root_or_never_ends_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        assert_eq!(check(&root), Ok(()), "an empty root has nothing to follow");
        let record = format!("{LOCAL}/bash-5-1");
        let all = || OTHERS.into_iter().chain(HOOKS).chain(DATABASES);
        all().for_each(|at| fs::create_dir_all(path.join(at)).unwrap());
        fs::create_dir(path.join(&record)).unwrap();
        let hook = |name: &str| format!("{}/{name}", HOOKS[0]);
        let files = [
            LOG.to_owned(),
            format!("{LOCAL}/ALPM_DB_VERSION"),
            format!("{SYNC}/core.db"),
            format!("{record}/desc"),
            hook("a.hook"),
        ];
        files
            .iter()
            .for_each(|at| fs::write(path.join(at), "").unwrap());
        symlink("/dev/null", path.join(hook("b.hook"))).unwrap();
        symlink("../../../usr/share/a.hook", path.join(hook("c.hook"))).unwrap();
        fs::write(path.join("usr/share/a.hook"), "").unwrap();
        assert_eq!(check(&root), Ok(()));

        let again = |at: &Path| {
            fs::remove_file(at).unwrap();
            fs::write(at, "").unwrap();
        };
        for at in &files {
            let at = path.join(at);
            let shown = at.display();
            fs::remove_file(&at).unwrap();
            symlink("/etc/passwd", &at).unwrap();
            refused(&root, &format!("{shown}': it is a symbolic link"));
            fs::remove_file(&at).unwrap();
            mkfifo(&at, Mode::S_IRWXU).unwrap();
            refused(&root, &format!("{shown}': it is a fifo"));
            again(&at);
        }
        let giant = path.join(&files[3]);
        fs::File::create(&giant).unwrap().set_len(LONGEST).unwrap();
        refused(&root, "it is larger than any that pacman has there");
        again(&giant);
        fs::hard_link(path.join(LOG), path.join("other")).unwrap();
        refused(&root, "changes the other file, too");
        again(&path.join(LOG));

        let away = path.join("away");
        for at in all() {
            fs::rename(path.join(at), &away).unwrap();
            symlink(&away, path.join(at)).unwrap();
            refused(&root, "a part of the path is a symbolic link");
            fs::remove_file(path.join(at)).unwrap();
            fs::rename(&away, path.join(at)).unwrap();
        }
        fs::rename(path.join("etc"), &away).unwrap();
        symlink("away", path.join("etc")).unwrap();
        refused(&root, "a part of the path is a symbolic link");
    }
}
