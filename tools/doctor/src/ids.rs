//! Subordinate ids (subuid(5)), and the two set-uid programs that map them: an ordinary user needs both, root needs none.

use crate::finding::Finding;
use crate::release::{Need, Release};
use rootfs::IdMap;
use rootfs::idmap::{self, NEEDED};
use stage::{Failure, quote};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user who runs doctor.
pub(crate) struct User {
    pub(crate) uid: u32,
    /// Its name, where passwd(5) has one.
    pub(crate) name: Option<String>,
    /// The first and the last id of a range that is free.
    pub(crate) free: (u64, u64),
    /// The files of ranges that are not there.
    pub(crate) missing: Vec<&'static str>,
}

impl User {
    pub(crate) fn read(uid: u32) -> Self {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let name = rootfs::user::name_of(&passwd, uid);
        Self { uid, name, free: idmap::free_range(), missing: idmap::missing_files() }
    }
}

/// Checks the ranges. `None` in the map stands for root, which needs none.
pub(crate) fn subuid(map: &Result<Option<IdMap>, Failure>, user: &User, release: &Release) -> Finding {
    let sudo = release.sudo;
    let add_to = |who: &str| idmap::adding(sudo, user.free, &user.missing, who);
    let uid = user.uid;
    match (map, &user.name) {
        (Ok(None), _) => Finding::ok("not needed by root"),
        (Ok(Some(map)), Some(_)) => {
            let range = |ids: &[[u64; 3]]| {
                ids.iter().find(|m| m[0] == 1).map_or_else(String::new, |m| format!("{}-{}", m[1], m[1] + m[2] - 1))
            };
            Finding::ok(format!("users {}, groups {}", range(&map.uid), range(&map.gid)))
        }
        (Err(failure), _) if uid == 0 => Finding::fail(&failure.message)
            .why("without them the owners of files are wrong, although pacman exits 0")
            .fix(failure.hint.clone().unwrap_or_default()),
        (Err(_), Some(name)) => Finding::fail(format!(
            "'{name}' has no range of {NEEDED} ids in both of '/etc/subuid' and '/etc/subgid'"
        ))
        .why(
            "without a range for users and one for groups the owners of files are wrong, although pacman exits 0. Root \
             needs none",
        )
        .fix(add_to(&shell(name))),
        (_, None) => Finding::fail(format!("user {uid} has no name in '/etc/passwd'"))
            .why("newuidmap maps ids only for a user with a name, and with ranges of its own")
            .fix(format!("{sudo}useradd --uid {uid} user{uid} && {}", add_to(&format!("user{uid}")))),
    }
}

/// Returns a word as it stands in a shell command.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A program that has to run with more rights than its caller's.
pub(crate) struct Helper {
    pub(crate) name: &'static str,
    /// Where it is, and whether its file gives it the rights.
    pub(crate) found: Option<(PathBuf, bool)>,
}

impl Helper {
    /// Looks for both programs in `PATH`.
    pub(crate) fn find() -> [Self; 2] {
        ["newuidmap", "newgidmap"].map(|name| {
            let found = find_in_path(name);
            Self { name, found: found.map(|path| (path.clone(), may_raise(&path))) }
        })
    }
}

/// Returns where a program is, as a shell would find it.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(is_program)
}

/// Returns whether a program's file is set-uid root or has capabilities (as on Fedora and Arch).
fn may_raise(path: &Path) -> bool {
    const SET_UID: u32 = 0o4000;
    let set_uid = path.metadata().is_ok_and(|m| m.mode() & SET_UID != 0 && m.uid() == 0);
    let mut value = [0_u8; 64];
    set_uid || rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok()
}

/// Checks the programs that map ids.
pub(crate) fn newuidmap(root: bool, helpers: &[Helper], release: &Release) -> Finding {
    if root {
        return Finding::ok("not needed by root");
    }
    let missing: Vec<_> = helpers.iter().filter(|h| h.found.is_none()).map(|h| h.name).collect();
    if !missing.is_empty() {
        return Finding::fail(format!("not found: {}", missing.join(", ")))
            .why("only these set-uid programs may map a user's subordinate ids. Root needs none")
            .fix(release.install(Need::Uidmap));
    }
    let found: Vec<_> = helpers.iter().filter_map(|h| h.found.as_ref()).collect();
    let words: Vec<_> = found.iter().map(|(p, _)| shell(&p.to_string_lossy())).collect();
    match found.iter().find(|(_, raised)| !raised) {
        Some((path, _)) => Finding::fail(format!("{} is not set-uid root", quote(path)))
            .why("without that it may not map ids; some container images strip it")
            .fix(format!("{}chmod u+s {}", release.sudo, words.join(" "))),
        None => Finding::ok(found.first().map_or_else(String::new, |(path, _)| quote(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;
    use stage::Code;

    fn release() -> Release {
        Release::parse("ID=debian\nVERSION_ID=12\n", false)
    }

    fn missing() -> Result<Option<IdMap>, Failure> {
        Err(Failure::new(Code::Permission, "looking for ids: no range"))
    }

    #[test]
    fn the_command_gives_this_user_a_range_that_is_free() {
        let user = User { uid: 1001, name: Some("ann".into()), free: (165_536, 231_071), missing: Vec::new() };
        let finding = subuid(&missing(), &user, &release());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.found.starts_with("'ann' has no range of 65535 ids"));
        assert_eq!(finding.fix.unwrap(), "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann");
        let bare = User { missing: vec!["/etc/subuid", "/etc/subgid"], name: user.name.clone(), ..user };
        assert_eq!(
            subuid(&missing(), &bare, &release()).fix.unwrap(),
            "sudo touch /etc/subuid /etc/subgid && sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann"
        );
        let nameless = User { name: None, ..user };
        let finding = subuid(&missing(), &nameless, &release());
        assert_eq!(finding.found, "user 1001 has no name in '/etc/passwd'");
        let fix = finding.fix.unwrap();
        assert!(fix.starts_with("sudo useradd --uid 1001 user1001 && sudo usermod --add-subuids"));
    }

    #[test]
    fn ranges_are_shown_and_root_needs_none() {
        let user = User { uid: 1001, name: Some("ann".into()), free: (0, 0), missing: Vec::new() };
        let map =
            IdMap { uid: vec![[0, 1001, 1], [1, 100_000, 65_535]], gid: vec![[0, 1001, 1], [1, 200_000, 65_535]] };
        let finding = subuid(&Ok(Some(map)), &user, &release());
        assert_eq!(finding.found, "users 100000-165534, groups 200000-265534");
        assert_eq!(subuid(&Ok(None), &user, &release()).status, Status::Ok);
    }

    #[test]
    fn the_helpers_must_be_there_and_set_uid() {
        let helper = |name, found: Option<bool>| Helper {
            name,
            found: found.map(|raised| (PathBuf::from("/usr/bin").join(name), raised)),
        };
        let judge = |a, b| newuidmap(false, &[helper("newuidmap", a), helper("newgidmap", b)], &release());
        assert_eq!(judge(Some(true), Some(true)).status, Status::Ok);
        let finding = judge(None, Some(true));
        assert_eq!(finding.found, "not found: newuidmap");
        assert_eq!(finding.fix.unwrap(), "sudo apt-get install uidmap");
        let finding = judge(Some(true), Some(false));
        assert_eq!(finding.found, "'/usr/bin/newgidmap' is not set-uid root");
        assert_eq!(finding.fix.unwrap(), "sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap");
        assert_eq!(newuidmap(true, &[helper("newuidmap", None)], &release()).status, Status::Ok);
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(shell("/a/b-c"), "/a/b-c");
        assert_eq!(shell("a b'c"), "'a b'\\''c'");
        assert_eq!(shell(""), "''");
    }
}
