//! Checks the files of a root that pacman opens by their paths, from the host.
//!
//! pacman itself is not in the root: only scriptlets and hooks are. So a symbolic link of the root leads pacman to the host's file,
//! at a fifo pacman waits for ever, and a device never ends. Nothing of the host can be written then ([`rootfs::Place::Host`]), but
//! what pacman reads would be the host's, and a log that is not written is a failed scriptlet that is not seen. Such a root is
//! refused before pacman runs.

use crate::records::{LOCAL, LOG, SYNC};
use rootfs::Root;
use rootfs::root::BENEATH;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Directories whose entries are files that pacman reads, or directories of such.
const DATABASES: [&str; 2] = [LOCAL, SYNC];

/// Directories whose entries are hooks.
const HOOKS: [&str; 2] = ["etc/pacman.d/hooks", "usr/share/libalpm/hooks"];

const OTHERS: [&str; 2] = ["etc/pacman.d/gnupg", "var/log"];

/// The longest record or database that pacman is given: more than any distribution has, in bytes.
const LONGEST: u64 = 1 << 30;

/// Refuses a root that would lead pacman somewhere else, or keep it for ever.
///
/// # Errors
///
/// [`Code::Failed`] with the path.
pub(crate) fn check(root: &Root) -> Result<(), Failure> {
    for at in OTHERS {
        directory(root, at)?;
    }
    let databases = DATABASES.map(|at| (at, Kind::Databases));
    for (at, files) in databases.into_iter().chain(HOOKS.map(|at| (at, Kind::Hooks))) {
        if let Some(opened) = directory(root, at)? {
            check_files(root, &opened, Path::new(at), files)?;
        }
    }
    check_log(root)
}

/// What the files of a directory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Files, and directories of [`Kind::Records`].
    Databases,
    /// Files; in deeper directories nothing is read.
    Records,
    /// The same, and links are allowed that stay in the root, or that disable a hook (alpm-hooks(5)).
    Hooks,
}

/// Opens a directory; `None` where there is none.
fn directory(root: &Root, at: &str) -> Result<Option<OwnedFd>, Failure> {
    let path = root.path().join(at);
    match root.open_below(at, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(refuse(&path, "a part of the path is a symbolic link")),
        Err(Errno::NOTDIR) => Err(refuse(&path, "it is not a directory")),
        Err(e) => Err(e).doing(Code::Failed, || doing(&path)),
    }
}

fn check_files(root: &Root, directory: &OwnedFd, at: &Path, files: Kind) -> Result<(), Failure> {
    let above = root.path().join(at);
    for entry in Dir::read_from(directory).doing(Code::Os, || doing(&above))? {
        let entry = entry.doing(Code::Os, || doing(&above))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = above.join(&*name.to_string_lossy());
        let is = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let is = is.doing(Code::Os, || doing(&path))?;
        match FileType::from_raw_mode(is.st_mode) {
            FileType::RegularFile if u64::try_from(is.st_size).is_ok_and(|n| n < LONGEST) => {}
            FileType::RegularFile => {
                return Err(refuse(&path, "it is larger than any that pacman has there"));
            }
            FileType::Directory if files == Kind::Databases => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let below = openat2(directory, name, flags, Mode::empty(), BENEATH);
                let below = below.doing(Code::Failed, || doing(&path))?;
                let at = at.join(&*name.to_string_lossy());
                check_files(root, &below, &at, Kind::Records)?;
            }
            FileType::Directory => {}
            FileType::Symlink if files == Kind::Hooks && is_harmless(root, directory, name, at) => {}
            kind => return Err(refuse(&path, words(kind))),
        }
    }
    Ok(())
}

/// Checks the log, which is written to: another name of the same file may be outside.
fn check_log(root: &Root) -> Result<(), Failure> {
    let path = root.path().join(LOG);
    let found = match root.open_below(LOG, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.doing(Code::Failed, || doing(&path))?,
    };
    let is = statat(&found, "", AtFlags::EMPTY_PATH).doing(Code::Os, || doing(&path))?;
    match FileType::from_raw_mode(is.st_mode) {
        FileType::RegularFile if is.st_nlink == 1 => Ok(()),
        FileType::RegularFile => {
            Err(refuse(&path, "it is a hard link, and what is written to it changes the other file, too"))
        }
        kind => Err(refuse(&path, words(kind))),
    }
}

fn doing(path: &Path) -> String {
    format!("checking {}", quote(path))
}

fn refuse(path: &Path, why: &str) -> Failure {
    let message = format!("{}: {why}", doing(path));
    Failure::new(Code::Failed, message).hint("pacman would leave the root, or not come back: remove it, and run again")
}

fn words(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "it is a symbolic link",
        FileType::Fifo => "it is a fifo",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device",
        FileType::Socket => "it is a socket",
        _ => "it is not a regular file",
    }
}

/// Returns whether a link of a hook is to `/dev/null`, which disables it, or to a file of the root by a path that leads there from
/// the host as well.
fn is_harmless(root: &Root, directory: &OwnedFd, name: &CStr, at: &Path) -> bool {
    let target = readlinkat(directory, name, Vec::new());
    if target.is_ok_and(|target| target.to_bytes() == b"/dev/null") {
        return true;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = at.join(&*name.to_string_lossy());
    openat2(root, path, flags, Mode::empty(), resolve)
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
        files.iter().for_each(|at| fs::write(path.join(at), "").unwrap());
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
