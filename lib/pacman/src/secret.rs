//! The secret key of a root's keyring, which no image may contain.
//!
//! pacman-key makes each machine a key of its own, signs the distribution's masters with it, and has gpg trust what it
//! signed. Whoever has that key can sign any other key on every machine that trusts it: an image that was published with
//! one gave it to everybody (CVSS 7.1, dreemurrs-embedded/Pine64-Arch#186). So the tools that make images check for it.

use rootfs::Root;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, statat};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};

/// Where pacman's GnuPG home may be, below the root: its own place, and those where `keyring` or a first boot leaves one that is
/// interrupted.
const HOMES: [&str; 4] =
    ["etc/pacman.d/gnupg", "etc/pacman.d/gnupg.new", "etc/pacman.d/gnupg.old", "etc/pacman.d/.gnupg.first-boot"];

/// The directory of a home where gpg since 2.1 keeps one file a key.
pub const PRIVATE: &str = "private-keys-v1.d";

/// Returns the files that hold a secret key of the root's keyring, as paths below the root, in order.
///
/// # Errors
///
/// When a home cannot be read: then it may have one.
pub fn keys(root: &Root) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for home in HOMES {
        // A ring of secret keys of gpg before 2.1, or gpg's backup of one.
        find(root, home, |name| matches!(name, "secring.gpg" | "secring.gpg~"), &mut found)?;
        find(root, &format!("{home}/{PRIVATE}"), |_| true, &mut found)?;
    }
    found.sort_unstable();
    Ok(found)
}

/// Refuses a root whose keyring has a secret key in what an image takes from it. `doing` is what is being done, as
/// `packing '/srv/target'`.
///
/// # Errors
///
/// [`Code::Failed`] where it has one, with a hint; and as [`keys`].
pub fn refuse_in_image(root: &Root, doing: &str, leaves_out: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let keys = keys(root).map_err(|f| f.while_doing(doing))?;
    let Some(first) = keys.iter().find(|key| !leaves_out(key)) else {
        return Ok(());
    };
    let path = quote(root.path().join(first));
    let message = format!("{doing}: {path} is the keyring's secret key, and whoever gets the image would have it");
    Err(Failure::new(Code::Failed, message).hint(
        "put 'keyring --strip' before this, and 'configure --first-boot-keyring' for a machine that boots; or give \
         --keep-keyring",
    ))
}

/// Adds the files of a directory below the root that have something in them and a name that `wanted` takes.
fn find(root: &Root, at: &str, wanted: impl Fn(&str) -> bool, found: &mut Vec<String>) -> Result<(), Failure> {
    let doing = || format!("looking for secret keys in {}", quote(root.path().join(at)));
    let directory = match root.open_below(at, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        result => result.doing(Code::Os, doing)?,
    };
    for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
        let entry = entry.doing(Code::Os, doing)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if matches!(&*text, "." | "..") || !wanted(&text) {
            continue;
        }
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).doing(Code::Os, doing)?;
        // pacman-key makes an empty secring.gpg for a gpg that keeps its keys elsewhere.
        let empty = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0;
        if !empty {
            found.push(format!("{at}/{text}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        (directory, root)
    }

    #[test]
    fn a_secret_key_is_found_wherever_a_home_is_or_was() {
        let (_guard, root) = root();
        assert_eq!(keys(&root).unwrap(), Vec::<String>::new());
        refuse_in_image(&root, "packing", |_| false).unwrap();
        let expected = [
            "etc/pacman.d/gnupg.new/private-keys-v1.d/B.key~",
            "etc/pacman.d/gnupg/private-keys-v1.d/A.key",
            "etc/pacman.d/gnupg/secring.gpg~",
        ];
        let empty = ["etc/pacman.d/gnupg/secring.gpg", "etc/pacman.d/gnupg.old/pubring.gpg"];
        for (at, text) in expected.map(|at| (at, "x")).into_iter().chain(empty.map(|at| (at, ""))) {
            let path = root.path().join(at);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(keys(&root).unwrap(), expected);
        let failure = refuse_in_image(&root, "packing '/x'", |_| false).unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.starts_with("packing '/x': "), "{failure}");
    }

    #[test]
    fn what_cannot_be_looked_into_is_no_clean_bill() {
        let (_guard, root) = root();
        std::fs::create_dir_all(root.path().join("etc/pacman.d")).unwrap();
        symlink("/tmp", root.path().join("etc/pacman.d/gnupg")).unwrap();
        keys(&root).unwrap_err();
        refuse_in_image(&root, "packing", |_| false).unwrap_err();
    }
}
