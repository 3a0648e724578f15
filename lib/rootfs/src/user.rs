//! Users and groups, read from the text of passwd(5) and group(5): those of a root from its own files. The C library is not
//! asked: it may load modules and ask servers.

use crate::Root;
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};

/// A user of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: u32,
    /// The id of its primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Its home directory, as the root's passwd(5) has it.
    pub home: String,
    /// Its shell, as there.
    pub shell: String,
}

/// The longest passwd(5) or group(5) that is read.
const LIMIT: u64 = 16 << 20;

/// Looks a user up in the root, by name or by number.
///
/// # Errors
///
/// [`Code::NotFound`] when the root has no such user, or its files cannot be read.
pub fn find(root: &Root, wanted: &str) -> Result<User, Failure> {
    let doing = |file: &str| format!("reading {}", quote(root.path().join(file)));
    let passwd = root.read("etc/passwd", LIMIT).doing(Code::NotFound, || doing("etc/passwd"))?;
    let group = match root.read("etc/group", LIMIT) {
        // Only the user's own group. A file that is there and cannot be read would hide groups.
        Err(Errno::NOENT) => Vec::new(),
        group => group.doing(Code::NotFound, || doing("etc/group"))?,
    };
    lookup(&String::from_utf8_lossy(&passwd), &String::from_utf8_lossy(&group), wanted).ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            format!("looking for the user {}: {} has none", quote(wanted), quote(root.path().join("etc/passwd"))),
        )
    })
}

/// Returns the name of a user, by the text of passwd(5).
#[must_use]
pub fn name_of(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

/// Returns the id of a group, by the text of group(5).
#[must_use]
pub fn group(text: &str, name: &str) -> Option<u32> {
    let mut records = text.lines().map(|line| line.split(':'));
    records.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?)
}

/// Looks a user up in the texts of passwd(5) and group(5), by name or by number.
#[must_use]
pub fn lookup(passwd: &str, group: &str, wanted: &str) -> Option<User> {
    let mut user = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else {
            return None;
        };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == wanted || wanted.parse() == Ok(uid)).then(|| User {
            name: name.to_owned(),
            uid,
            gid,
            groups: vec![gid],
            home: home.to_owned(),
            shell: shell.to_owned(),
        })
    })?;
    for line in group.lines() {
        let fields: Vec<_> = line.split(':').collect();
        if let [_, _, gid, members] = fields[..]
            && let Ok(gid) = gid.parse()
            && members.split(',').any(|m| m == user.name)
            && !user.groups.contains(&gid)
        {
            user.groups.push(gid);
        }
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users() {
        let passwd = b"root:x:0:0::/:/bin/sh\nann:x:7:7\n:x:8:8\nbad\n";
        assert_eq!(name_of(passwd, 7).as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, 8), None);
        assert_eq!(name_of(passwd, 9), None);
    }

    #[test]
    fn groups_that_cannot_be_read_are_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let root = Root::open(&path).unwrap();
        std::fs::create_dir(path.join("etc")).unwrap();
        std::fs::write(path.join("etc/passwd"), "ann:x:7:7::/:/bin/sh\n").unwrap();
        assert_eq!(find(&root, "ann").unwrap().groups, [7]);
        std::os::unix::fs::symlink("passwd", path.join("etc/group")).unwrap();
        let failure = find(&root, "ann").unwrap_err();
        assert!(failure.message.contains("etc/group'"), "{failure}");
    }

    #[test]
    fn users_and_their_groups_come_from_the_roots_files() {
        let passwd = "root:x:0:0::/root:/bin/bash\nbroken:x\nann:x:1000:1000:A,B:/home/ann:/bin/sh\n";
        let group = "root:x:0:\nwheel:x:998:bob,ann\nann:x:1000:ann\nvideo:x:985:anna\n";
        let ann = lookup(passwd, group, "ann").unwrap();
        assert_eq!((ann.uid, ann.gid, ann.groups.as_slice()), (1000, 1000, &[1000, 998][..]));
        assert_eq!(lookup(passwd, group, "1000"), Some(ann));
        assert_eq!(lookup(passwd, group, "eve"), None);
        assert_eq!(lookup(passwd, group, "broken"), None);
    }
}
