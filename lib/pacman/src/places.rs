//! The places in a root that pacman opens by their paths, from the host.
//!
//! pacman itself is not in the root: only scriptlets and hooks are. So where a root has a symbolic link, pacman is led to
//! the host's file, and where it has a fifo for a log, pacman waits for ever. Nothing of the host can be written then
//! ([`rootfs::Place::Host`]), but a log that is not written is a failed scriptlet that is not seen: it is refused, with a
//! word about where.

use rootfs::Root;
use rustix::fs::{AtFlags, FileType, OFlags, statat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};

/// What is a directory, where it is there at all.
const DIRECTORIES: [&str; 6] = [
    "etc/pacman.d/gnupg",
    "etc/pacman.d/hooks",
    "usr/share/libalpm/hooks",
    "var/lib/pacman/local",
    "var/lib/pacman/sync",
    "var/log",
];

/// pacman's log.
const LOG: &str = "var/log/pacman.log";

/// Refuses a root that would lead pacman somewhere else.
///
/// # Errors
///
/// [`Code::Failed`] with the place and what mends it.
pub(crate) fn check(root: &Root) -> Result<(), Failure> {
    let files = [(LOG, FileType::RegularFile)];
    let all = DIRECTORIES.map(|at| (at, FileType::Directory));
    for (at, kind) in all.into_iter().chain(files) {
        let doing = || format!("looking at {}", quote(root.path().join(at)));
        let refuse = |why: &str| {
            let message = format!(
                "{}: {why}, and pacman would follow it out of the root",
                doing()
            );
            Err(Failure::new(Code::Failed, message).hint("remove it, and run again"))
        };
        let is = match root.open_below(at, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => statat(&found, "", AtFlags::EMPTY_PATH).doing(Code::Os, doing)?,
            Err(Errno::NOENT) => continue,
            Err(Errno::LOOP) => return refuse("a part of the path is a symbolic link"),
            Err(e) => return Err(e).doing(Code::Failed, doing),
        };
        match FileType::from_raw_mode(is.st_mode) {
            is if is == kind => {}
            FileType::Symlink => return refuse("it is a symbolic link"),
            _ => {
                let message = format!("{}: it is not what pacman has there", doing());
                return Err(Failure::new(Code::Failed, message).hint("remove it, and run again"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_leads_out_of_the_root_or_never_answers_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        assert_eq!(check(&root), Ok(()), "an empty root has nothing to follow");
        for at in DIRECTORIES {
            fs::create_dir_all(path.join(at)).unwrap();
        }
        fs::write(path.join(LOG), "").unwrap();
        assert_eq!(check(&root), Ok(()));
        let refused = |why: &str| {
            let failure = check(&root).unwrap_err();
            assert_eq!(failure.code, Code::Failed);
            assert!(failure.message.contains(why), "{failure}");
        };
        fs::remove_file(path.join(LOG)).unwrap();
        symlink("/nowhere", path.join(LOG)).unwrap();
        refused("pacman.log': it is a symbolic link");
        fs::remove_file(path.join(LOG)).unwrap();
        nix::unistd::mkfifo(&path.join(LOG), nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("pacman.log': it is not what pacman has there");
        fs::remove_file(path.join(LOG)).unwrap();
        for at in DIRECTORIES {
            fs::rename(path.join(at), path.join("away")).unwrap();
            symlink(path.join("away"), path.join(at)).unwrap();
            refused(&format!("{at}': it is a symbolic link"));
            fs::remove_file(path.join(at)).unwrap();
            fs::rename(path.join("away"), path.join(at)).unwrap();
        }
        fs::rename(path.join("etc"), path.join("away")).unwrap();
        symlink("away", path.join("etc")).unwrap();
        refused("a part of the path is a symbolic link");
    }
}
