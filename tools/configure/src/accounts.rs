//! `--user` and what belongs to users: groups, shells, passwords, homes, keys of ssh; and root, who is locked unless a
//! password was asked for.
//!
//! The root's own useradd(8) and usermod(8) decide: ids, groups and defaults are its login.defs' and not ours. But they
//! change six files one after the other, and one that is killed between two leaves half a user and its lock files. So they
//! work on a copy (`--prefix`), and what came out is put in place here, each file whole, shadow(5) first and passwd(5) last.
//! A user without a record in passwd(5) is none yet; one who has a record in shadow(5) all the same is what a run left that
//! was killed, and is made again.

use crate::home;
use crate::records::{self, CHANGED, PASSWORD};
use crate::secret::Secret;
use crate::step::{Site, Step};
use crate::text::joined;
use crate::tree::{Attributes, Tree};
use rootfs::user::{User, lookup};
use stage::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};

const PASSWD: &str = "etc/passwd";
const SHADOW: &str = "etc/shadow";
const GROUP: &str = "etc/group";

/// What useradd(8) changes, in the order in which it is put in place, and the mode of a file that was not there.
const FILES: [(&str, u32); 6] = [
    (SHADOW, 0o600),
    ("etc/gshadow", 0o600),
    (GROUP, 0o644),
    ("etc/subuid", 0o644),
    ("etc/subgid", 0o644),
    (PASSWD, 0o644),
];

/// What it reads besides.
const SETTINGS: [&str; 3] = ["etc/login.defs", "etc/default/useradd", "etc/shells"];

/// Where the copy is: on a tmpfs that ends with us. Below the root, and as programs in it say it.
const COPY: &str = "run/configure";
const PREFIX: &str = "/run/configure";

/// A password that nothing hashes to, and that `passwd --unlock` does not turn into an empty one.
const LOCKED: &str = "!*";

/// What is to become of users.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// Users that there are to be, with groups that they are to be members of.
    pub(crate) users: Vec<(String, Vec<String>)>,
    /// By user.
    pub(crate) shells: BTreeMap<String, String>,
    /// By user.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Lines of authorized_keys, by user.
    pub(crate) keys: BTreeMap<String, Vec<String>>,
    /// When passwords change, in days since 1970. 0 would ask for a new one at once (shadow(5)).
    pub(crate) today: u64,
}

/// The texts of [`FILES`].
type Texts = BTreeMap<&'static str, String>;

impl Step for Accounts {
    fn name(&self) -> &'static str {
        "users"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let tree = &site.tree;
        let texts = read(tree)?;
        let [passwd, group] = [&texts[PASSWD], &texts[GROUP]];
        if passwd.is_empty() && !self.names().is_empty() {
            return Err(
                not_found(format!("reading {}: there is none", tree.quote(PASSWD)))
                    .hint("strap base first"),
            );
        }
        for (name, groups) in &self.users {
            if let Some(missing) = groups.iter().find(|g| !records::has(group, g)) {
                return Err(not_found(format!(
                    "looking for the group '{missing}': {} has none",
                    tree.quote(GROUP)
                )));
            }
            let half = records::has(&texts[SHADOW], name);
            if !records::has(passwd, name) && records::has(group, name) && !half {
                return Err(Failure::new(
                    Code::Failed,
                    format!("adding the user '{name}': there is a group of this name that is not the user's"),
                )
                .hint("choose another name"));
            }
        }
        for (name, shell) in &self.shells {
            if !tree.is_program(shell.trim_start_matches('/')) {
                return Err(not_found(format!(
                    "looking for the shell of '{name}': {} is no program of the root",
                    tree.quote(shell.trim_start_matches('/'))
                )));
            }
        }
        for name in self.names() {
            let asked = self.users.iter().any(|(user, _)| user == name);
            if !asked && !records::has(passwd, name) {
                return Err(not_found(format!(
                    "looking for the user '{name}': {} has none",
                    tree.quote(PASSWD)
                ))
                .hint(format!("add --user {name}")));
            }
        }
        let commands = self.commands(&texts);
        // A device or a fifo there would keep useradd(8) for ever.
        for path in SETTINGS {
            tree.read(path)?;
        }
        for command in &commands {
            need_program(tree, &command[0], "shadow")?;
        }
        if self.secrets.values().any(|s| matches!(s, Secret::Plain(_))) {
            need_program(tree, "chpasswd", "shadow")?;
        }
        if !commands.is_empty() || !self.users.is_empty() {
            for program in ["rm", "cp", "chown", "chmod"] {
                need_program(tree, program, "coreutils")?;
            }
        }
        for name in self.keys.keys() {
            if let Some(user) = lookup(passwd, group, name) {
                home::path(&user)?;
            }
        }
        Ok(())
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let Site { tree, .. } = site;
        let mut texts = read(tree)?;
        let commands = self.commands(&texts);
        if !commands.is_empty() {
            let edited = self.edit(site, &texts, &commands);
            // The tmpfs goes with us; in mode host it is the root's for longer.
            let removed = remove_copy(site);
            texts = edited?;
            removed?;
        }
        self.passwords(&mut texts);
        lock_root(&mut texts);
        for (path, mode) in FILES {
            if !texts[path].is_empty() || tree.is_there(path) {
                tree.write(path, texts[path].as_bytes(), mode)?;
            }
        }
        warn_of_empty(site, &texts);
        let user = |name: &str| lookup(&texts[PASSWD], &texts[GROUP], name);
        for user in self.users.iter().filter_map(|(name, _)| user(name)) {
            home::make(site, &user)?;
        }
        for (name, secret) in &self.secrets {
            if let Secret::Plain(password) = secret {
                set_password(site, name, password)?;
            }
        }
        for (name, keys) in &self.keys {
            if let Some(user) = user(name) {
                authorize(tree, &user, keys)?;
            }
        }
        Ok(())
    }
}

impl Accounts {
    /// Returns everybody whom something is asked for.
    fn names(&self) -> BTreeSet<&str> {
        let users = self.users.iter().map(|(name, _)| name);
        users
            .chain(self.shells.keys())
            .chain(self.secrets.keys())
            .chain(self.keys.keys())
            .map(String::as_str)
            .collect()
    }

    /// Returns the commands that make users what they are to be; none where they are.
    fn commands(&self, texts: &Texts) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        let [passwd, group] = [&texts[PASSWD], &texts[GROUP]];
        for name in self.names() {
            let asked = self.users.iter().find(|(user, _)| user == name);
            let there = lookup(passwd, group, name);
            let mut words: Vec<&str> = match &there {
                None => vec![
                    "useradd",
                    "--prefix",
                    PREFIX,
                    "--no-create-home",
                    "--user-group",
                ],
                Some(_) => vec!["usermod", "--prefix", PREFIX],
            };
            let bare = words.len();
            let missing = asked.into_iter().flat_map(|(_, groups)| groups);
            let missing: Vec<&str> = missing
                .filter(|of| !records::is_member(group, of, name))
                .map(String::as_str)
                .collect();
            let missing = missing.join(",");
            if !missing.is_empty() {
                if there.is_some() {
                    words.push("--append");
                }
                words.extend(["--groups", &missing]);
            }
            if let Some(shell) = self.shells.get(name)
                && there.as_ref().is_none_or(|user| user.shell != *shell)
            {
                words.extend(["--shell", shell]);
            }
            if there.is_none() || words.len() > bare {
                words.extend(["--", name]);
                commands.push(words.into_iter().map(str::to_owned).collect());
            }
        }
        commands
    }

    /// Runs the commands on a copy of the files, and returns what became of them.
    fn edit(&self, site: &Site, texts: &Texts, commands: &[Vec<String>]) -> Result<Texts, Failure> {
        let Site { tree, programs, .. } = site;
        remove_copy(site)?;
        let ours = |mode| Attributes {
            mode,
            owner: (0, 0),
        };
        for directory in ["", "/etc", "/etc/default"] {
            tree.make_directory(&format!("{COPY}{directory}"), ours(0o700))?;
        }
        let mut texts = texts.clone();
        for name in self.names() {
            // What a run left that was killed; check() has seen to it that nobody else's group has this name.
            if !records::has(&texts[PASSWD], name) && records::has(&texts[SHADOW], name) {
                for text in texts.values_mut() {
                    *text = records::without(text, name);
                }
            }
        }
        for (path, text) in &texts {
            if !text.is_empty() || tree.is_there(path) {
                tree.put(&format!("{COPY}/{path}"), text.as_bytes(), ours(0o600))?;
            }
        }
        for path in SETTINGS {
            if let Some(bytes) = tree.look(path) {
                tree.put(&format!("{COPY}/{path}"), &bytes, ours(0o600))?;
            }
        }
        for command in commands {
            let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
            let name = args.last().copied().unwrap_or_default();
            programs.run(
                &command[0],
                &args,
                None,
                &format!("making the user '{name}'"),
            )?;
        }
        let copy = |(path, _)| Ok((path, tree.text(&format!("{COPY}/{path}"))?));
        FILES.into_iter().map(copy).collect()
    }

    /// Puts hashes that were given into shadow(5).
    fn passwords(&self, texts: &mut Texts) {
        let today = self.today.to_string();
        for (name, secret) in &self.secrets {
            let Secret::Hash(hash) = secret else { continue };
            if records::field(&texts[SHADOW], name, PASSWORD) != Some(hash) {
                set_hash(texts, name, hash);
                edit(texts, SHADOW, |t| {
                    records::with_field(t, name, CHANGED, &today)
                });
            }
        }
    }
}

/// Puts a hash into shadow(5), also for one who has no record there: who has one in passwd(5) gets it.
fn set_hash(texts: &mut Texts, name: &str, hash: &str) {
    if !records::has(&texts[SHADOW], name) {
        edit(texts, SHADOW, |text| format!("{text}{name}:!*:::::::\n"));
    }
    edit(texts, SHADOW, |text| {
        records::with_field(text, name, PASSWORD, hash)
    });
    // In passwd(5), "x" is what sends login(1) to shadow(5); an empty field there would need no password at all.
    edit(texts, PASSWD, |text| {
        records::with_field(text, name, PASSWORD, "x")
    });
}

/// Locks root where anybody could log in as root without a password: so Arch's `filesystem` ships it.
fn lock_root(texts: &mut Texts) {
    let open = [PASSWD, SHADOW]
        .iter()
        .any(|path| records::field(&texts[path], "root", PASSWORD) == Some(""));
    if open {
        set_hash(texts, "root", LOCKED);
    }
}

/// Says whether root has a password, for the document: `locked` or `password`; `None` where there is no root yet.
pub(crate) fn root(tree: &Tree) -> Result<Option<String>, Failure> {
    let texts = read(tree)?;
    let in_passwd = records::field(&texts[PASSWD], "root", PASSWORD);
    let hash = match in_passwd {
        Some("x") => records::field(&texts[SHADOW], "root", PASSWORD),
        other => other,
    };
    let word = |hash: &str| match hash {
        hash if hash.starts_with(['!', '*']) => "locked",
        _ => "password",
    };
    Ok(in_passwd.map(|_| hash.map_or("locked", word).to_owned()))
}

/// Others without a password are the packages' or the user's own doing, but nobody should be surprised.
fn warn_of_empty(site: &Site, texts: &Texts) {
    for name in records::names(&texts[SHADOW]) {
        if records::field(&texts[SHADOW], name, PASSWORD) == Some("") {
            site.warn(format!("the user '{name}' has an empty password"));
        }
    }
}

fn edit(texts: &mut Texts, path: &str, change: impl FnOnce(&str) -> String) {
    if let Some(text) = texts.get_mut(path) {
        *text = change(text);
    }
}

fn read(tree: &Tree) -> Result<Texts, Failure> {
    FILES
        .into_iter()
        .map(|(path, _)| Ok((path, tree.text(path)?)))
        .collect()
}

fn remove_copy(site: &Site) -> Result<(), Failure> {
    if !site.tree.is_there(COPY) {
        return Ok(());
    }
    let args = ["-rf", "--one-file-system", "--", PREFIX];
    site.programs
        .run("rm", &args, None, "removing the copy of the users' files")
}

/// Has the root hash a password, unless it is the user's already.
fn set_password(site: &Site, name: &str, password: &str) -> Result<(), Failure> {
    let doing = format!("setting the password of '{name}'");
    if site.tree.has_program("unix_chkpwd") {
        // PAM's own helper reads up to a NUL, and exits 0 where the password is right.
        let input = format!("{password}\0");
        let (_, status) = site.programs.ask(
            "unix_chkpwd",
            &[name, "nonull"],
            Some(input.as_bytes()),
            &doing,
        )?;
        if status == Some(0) {
            return Ok(());
        }
    }
    let input = format!("{name}:{password}\n");
    site.programs
        .run("chpasswd", &[], Some(input.as_bytes()), &doing)?;
    site.tree.note(SHADOW);
    Ok(())
}

/// Adds keys to a user's authorized_keys.
fn authorize(tree: &Tree, user: &User, keys: &[String]) -> Result<(), Failure> {
    let ours = |mode| Attributes {
        mode,
        owner: (user.uid, user.gid),
    };
    let directory = format!("{}/.ssh", home::path(user)?);
    tree.directory(&directory, ours(0o700))?;
    let path = format!("{directory}/authorized_keys");
    let text = tree.text(&path)?;
    let mut lines: Vec<&str> = text.lines().collect();
    for key in keys {
        if !lines.contains(&key.as_str()) {
            lines.push(key);
        }
    }
    let with = joined(&lines);
    if with != text {
        let attributes = tree.attributes(&path)?.unwrap_or(ours(0o600));
        tree.put(&path, with.as_bytes(), attributes)?;
        tree.note(&path);
    }
    Ok(())
}

/// Checks a name by the rules of useradd(8).
///
/// # Errors
///
/// Why it is none.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !begins || !name.bytes().all(fine) {
        return Err(
            "it is not lower-case letters, digits, '_' and '-', of which a letter or '_' is first"
                .into(),
        );
    }
    if name.len() > 32 {
        return Err("it is longer than 32 bytes".into());
    }
    Ok(())
}

fn need_program(tree: &Tree, program: &str, package: &str) -> Result<(), Failure> {
    if tree.has_program(program) {
        return Ok(());
    }
    Err(
        not_found(format!("looking for {program}: the root has none"))
            .hint(format!("strap {package} first")),
    )
}

fn not_found(message: String) -> Failure {
    Failure::new(Code::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    fn texts(passwd: &str, shadow: &str, group: &str) -> Texts {
        let mut texts: Texts = FILES
            .into_iter()
            .map(|(path, _)| (path, String::new()))
            .collect();
        for (path, text) in [(PASSWD, passwd), (SHADOW, shadow), (GROUP, group)] {
            texts.insert(path, text.to_owned());
        }
        texts
    }

    #[test]
    fn root_is_locked_where_no_password_is_needed_and_only_there() {
        for (passwd, shadow, locked) in [
            ("root:x:0:0::/root:/bin/bash\n", "root::14871::::::\n", true),
            (
                "root::0:0::/root:/bin/bash\n",
                "root:$6$a$b:1::::::\n",
                true,
            ),
            (
                "root:x:0:0::/root:/bin/bash\n",
                "root:$6$a$b:1::::::\n",
                false,
            ),
            ("root:x:0:0::/root:/bin/bash\n", "root:!:1::::::\n", false),
            ("", "", false),
        ] {
            let mut texts = texts(passwd, shadow, "");
            let before = texts.clone();
            lock_root(&mut texts);
            assert_eq!(texts != before, locked, "{passwd}{shadow}");
            if locked {
                assert_eq!(
                    records::field(&texts[SHADOW], "root", PASSWORD),
                    Some(LOCKED)
                );
                assert_eq!(records::field(&texts[PASSWD], "root", PASSWORD), Some("x"));
            }
        }
    }

    #[test]
    fn only_what_is_missing_is_asked_of_useradd_and_usermod() {
        let passwd = "root:x:0:0::/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n";
        let texts = texts(passwd, "", "wheel:x:998:ann\nvideo:x:44:\nann:x:1000:\n");
        let mut accounts = Accounts {
            users: vec![("ann".into(), vec!["wheel".into()])],
            ..Accounts::default()
        };
        accounts.shells.insert("ann".into(), "/bin/bash".into());
        assert_eq!(accounts.commands(&texts), Vec::<Vec<String>>::new());
        accounts.users[0].1.push("video".into());
        accounts.users.push(("bob".into(), vec!["wheel".into()]));
        accounts.shells.insert("root".into(), "/bin/sh".into());
        let commands: Vec<String> = accounts
            .commands(&texts)
            .iter()
            .map(|c| c.join(" "))
            .collect();
        assert_eq!(
            commands,
            [
                "usermod --prefix /run/configure --append --groups video -- ann",
                "useradd --prefix /run/configure --no-create-home --user-group --groups wheel -- bob",
                "usermod --prefix /run/configure --shell /bin/sh -- root",
            ]
        );
    }

    #[test]
    fn what_root_is_is_said_in_a_word() {
        for (passwd, shadow, word) in [
            (
                "root:x:0:0::/root:/b\n",
                "root:!*:1::::::\n",
                Some("locked"),
            ),
            (
                "root:x:0:0::/root:/b\n",
                "root:$6$a$b:1::::::\n",
                Some("password"),
            ),
            ("root:x:0:0::/root:/b\n", "", Some("locked")),
            ("", "", None),
        ] {
            let (_guard, tree) = tree(&[(PASSWD, passwd), (SHADOW, shadow)]);
            assert_eq!(root(&tree).unwrap().as_deref(), word);
        }
    }

    #[test]
    fn names_by_the_rules_of_useradd() {
        for good in ["ann", "_x", "a-b_c9", &"a".repeat(32)] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            "Ann",
            "9a",
            "-a",
            "a b",
            "a:b",
            "a/b",
            "ann\n",
            "änn",
            &"a".repeat(33),
        ] {
            check_name(bad).unwrap_err();
        }
    }
}
