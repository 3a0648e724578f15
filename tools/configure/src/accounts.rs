//! `--user` and what belongs to users: groups, shells, passwords, homes, ssh keys; and root, who is locked unless there is a
//! password.
//!
//! The root's own useradd(8) and usermod(8) decide: ids, groups and defaults are those of its login.defs. But they
//! change six files one after the other, and a kill between two leaves half a user and lock files. So they
//! work on a copy (`--prefix`), and the result is put in place here, each file atomically, shadow(5) first and passwd(5)
//! last. A user without a record in passwd(5) does not exist yet; a record in shadow(5) without one is left by a run that
//! was killed, and is made again.

use crate::args::Args;
use crate::home;
use crate::item::{Item, Site, lacks, not_found};
use crate::keys;
use crate::records::{self, CHANGED, PASSWORD};
use crate::secret::Secret;
use crate::text::{joined, merge};
use crate::tree::{ROOT, Tree};
use image::epoch;
use rootfs::user::{User, lookup};
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeMap;
use std::path::Path;

const PASSWD: &str = "etc/passwd";
const SHADOW: &str = "etc/shadow";
const GROUP: &str = "etc/group";
const GSHADOW: &str = "etc/gshadow";

/// What useradd(8) changes, in the order in which it is put in place, and the mode of a new file.
const FILES: [(&str, u32); 6] =
    [(SHADOW, 0o600), (GSHADOW, 0o600), (GROUP, 0o644), ("etc/subuid", 0o644), ("etc/subgid", 0o644), (PASSWD, 0o644)];

/// What it reads besides.
const SETTINGS: [&str; 3] = ["etc/login.defs", "etc/default/useradd", "etc/shells"];

/// Where the copy is, on a tmpfs that ends with this run: below the root, and as a path of its programs.
const COPY: &str = "run/configure";
const PREFIX: &str = "/run/configure";

/// A password that no hash matches, and that `passwd --unlock` does not turn into an empty one.
const LOCKED: &str = "!*";

const DOING: &str = "configuring users";

/// What was asked for a user.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Whether the user is made where it does not exist.
    pub(crate) make: bool,
    /// Groups that the user becomes a member of.
    pub(crate) groups: Vec<String>,
    pub(crate) shell: Option<String>,
    pub(crate) secret: Option<Secret>,
    /// Lines of authorized_keys.
    pub(crate) keys: Vec<String>,
}

/// Everything about users.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// By name.
    pub(crate) users: BTreeMap<String, Account>,
    /// Groups that are made where they do not exist, and the id of each.
    pub(crate) groups: BTreeMap<String, Option<u32>>,
    /// When passwords change, in days since 1970. 0 would ask for a new one at once (shadow(5)).
    today: u64,
}

/// The texts of [`FILES`].
type Texts = BTreeMap<&'static str, String>;

impl Accounts {
    /// Collects it from the command line, and reads the files of passwords and keys.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where a file is invalid, or a user has two shells or passwords.
    pub(crate) fn of(args: &Args) -> Result<Self, Failure> {
        let date = epoch::of_environment()?.unwrap_or_else(epoch::now);
        let mut accounts = Self { today: (date / 86_400).max(1), ..Self::default() };
        let two = |option: &str, name: &str| {
            Failure::new(Code::Usage, format!("{option}: given twice for the user '{name}'"))
        };
        for (name, gid) in &args.group {
            if accounts.groups.insert(name.clone(), *gid).is_some_and(|other| other != *gid) {
                return Err(Failure::new(Code::Usage, format!("--group: two ids for the group '{name}'")));
            }
        }
        for (name, groups) in &args.user {
            let account = accounts.user(name);
            account.make = true;
            merge(&mut account.groups, groups);
        }
        for (name, shell) in &args.shell {
            if accounts.user(name).shell.replace(shell.clone()).is_some() {
                return Err(two("--shell", name));
            }
        }
        for (files, parse) in [
            (&args.password_file, Secret::plain as fn(&str) -> _),
            (&args.password_hash_file, Secret::hash as fn(&str) -> _),
        ] {
            for (name, file) in files {
                if accounts.user(name).secret.replace(read_file(file, parse)?).is_some() {
                    return Err(two("--password-file", name));
                }
            }
        }
        for (name, file) in &args.ssh_key {
            let keys = read_file(file, keys::parse)?;
            merge(&mut accounts.user(name).keys, &keys);
        }
        Ok(accounts)
    }

    fn user(&mut self, name: &str) -> &mut Account {
        self.users.entry(name.to_owned()).or_default()
    }
}

/// Reads a file of the command line.
fn read_file<T>(file: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    let code = Code::Usage;
    let text = stage::file::read_text(file).map_err(|failure| Failure { code, ..failure })?;
    parse(&text).doing(code, || format!("reading {}", quote(file)))
}

impl Item for Accounts {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let tree = &site.tree;
        let texts = read(tree)?;
        let [passwd, group, shadow] = [&texts[PASSWD], &texts[GROUP], &texts[SHADOW]];
        if passwd.is_empty() && !(self.users.is_empty() && self.groups.is_empty()) {
            let message = format!("reading {}: there is none", tree.quote(PASSWD));
            return Err(lacks(message, "base"));
        }
        for (name, gid) in &self.groups {
            let other = records::field(group, name, 2).map(str::to_owned);
            if let (Some(other), Some(gid)) = (other, gid)
                && other != gid.to_string()
            {
                return Err(Failure::new(Code::Failed, format!("making the group '{name}': it has the id {other}")));
            }
        }
        for (name, account) in &self.users {
            account.check(name, tree, &texts, &self.groups)?;
            let half = records::has(shadow, name);
            if account.make && !records::has(passwd, name) && records::has(group, name) && !half {
                let message = format!("adding the user '{name}': there is a group of this name already");
                return Err(Failure::new(Code::Failed, message).hint("choose another name"));
            }
        }
        // A device or a fifo there would block useradd(8) for ever.
        for path in SETTINGS {
            tree.read(path)?;
        }
        let commands = self.commands(&texts);
        for command in &commands {
            site.need(&command[0], "shadow", DOING)?;
        }
        let is_plain = |a: &Account| matches!(a.secret, Some(Secret::Plain(_)));
        if self.users.values().any(is_plain) {
            site.need("chpasswd", "shadow", DOING)?;
        }
        if !commands.is_empty() || self.users.values().any(|a| a.make) {
            for program in ["rm", "cp", "chown", "chmod"] {
                site.need(program, "coreutils", DOING)?;
            }
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let mut texts = read(&site.tree)?;
        let commands = self.commands(&texts);
        if !commands.is_empty() {
            let edited = self.edit(site, &texts, &commands);
            // The tmpfs ends with this run, but not in mode host.
            let removed = remove_copy(site);
            texts = edited?;
            removed?;
        }
        self.set_hashes(&mut texts);
        lock_root(&mut texts);
        for (path, mode) in FILES {
            if !texts[path].is_empty() || site.tree.exists(path) {
                site.tree.write(path, &texts[path], mode)?;
            }
        }
        // Others without a password are the packages' or the user's own doing, but nobody should be surprised.
        for name in records::names(&texts[SHADOW]) {
            if records::field(&texts[SHADOW], name, PASSWORD) == Some("") {
                site.warnings.push(format!("the user '{name}' has an empty password"));
            }
        }
        for (name, account) in &self.users {
            let user = lookup(&texts[PASSWD], &texts[GROUP], name);
            if let Some(user) = user.as_ref().filter(|_| account.make) {
                home::make(site, user)?;
            }
            if let Some(Secret::Plain(password)) = &account.secret {
                set_password(site, name, password)?;
            }
            if let Some(user) = user.filter(|_| !account.keys.is_empty()) {
                authorize(&mut site.tree, &user, &account.keys)?;
            }
        }
        Ok(())
    }
}

impl Account {
    /// Checks that what the user needs is in the root.
    fn check(
        &self,
        name: &str,
        tree: &Tree,
        texts: &Texts,
        coming: &BTreeMap<String, Option<u32>>,
    ) -> Result<(), Failure> {
        let [passwd, group] = [&texts[PASSWD], &texts[GROUP]];
        if let Some(missing) = self.groups.iter().find(|g| !records::has(group, g) && !coming.contains_key(*g)) {
            return Err(not_found(format!("looking for the group '{missing}': {} has none", tree.quote(GROUP))));
        }
        let shell = self.shell.as_ref().map(|s| s.trim_start_matches('/'));
        if let Some(shell) = shell.filter(|shell| !tree.is_program(shell)) {
            let shell = tree.quote(shell);
            return Err(not_found(format!("looking for the shell of '{name}': {shell} is not a program")));
        }
        if !self.make && !records::has(passwd, name) {
            let message = format!("looking for the user '{name}': {} has none", tree.quote(PASSWD));
            return Err(not_found(message).hint(format!("add --user {name}")));
        }
        match lookup(passwd, group, name) {
            Some(user) if !self.keys.is_empty() => home::path(&user).map(drop),
            _ => Ok(()),
        }
    }
}

impl Accounts {
    /// Returns the commands that make groups, and make and change users; none where nothing is missing.
    fn commands(&self, texts: &Texts) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        let [passwd, group] = [&texts[PASSWD], &texts[GROUP]];
        for (name, gid) in self.groups.iter().filter(|(name, _)| !records::has(group, name)) {
            let gid = gid.map(|gid| ["--gid".to_owned(), gid.to_string()]);
            let mut words = vec!["groupadd".to_owned(), "--prefix".to_owned(), PREFIX.to_owned()];
            words.extend(gid.into_iter().flatten());
            words.extend(["--".to_owned(), name.clone()]);
            commands.push(words);
        }
        for (name, account) in &self.users {
            let existing = lookup(passwd, group, name);
            let mut words = match &existing {
                None => vec!["useradd", "--prefix", PREFIX, "--no-create-home", "--user-group"],
                Some(_) => vec!["usermod", "--prefix", PREFIX],
            };
            let bare = words.len();
            let groups = account.groups.iter().map(String::as_str);
            let missing = groups.filter(|of| !records::is_member(group, of, name)).collect::<Vec<_>>().join(",");
            if !missing.is_empty() {
                words.extend(existing.as_ref().map(|_| "--append"));
                words.extend(["--groups", &missing]);
            }
            if let Some(shell) = &account.shell
                && existing.as_ref().is_none_or(|user| user.shell != *shell)
            {
                words.extend(["--shell", shell]);
            }
            if existing.is_none() || words.len() > bare {
                words.extend(["--", name]);
                commands.push(words.into_iter().map(str::to_owned).collect());
            }
        }
        commands
    }

    /// Runs the commands on a copy of the files, and returns the result.
    fn edit(&self, site: &Site, texts: &Texts, commands: &[Vec<String>]) -> Result<Texts, Failure> {
        let tree = &site.tree;
        remove_copy(site)?;
        for directory in ["", "/etc", "/etc/default"] {
            tree.make_directory(&format!("{COPY}{directory}"), 0o700, ROOT)?;
        }
        let mut texts = texts.clone();
        for name in self.users.keys() {
            // Left by a run that was killed; check() refuses a group that is somebody else's.
            if !records::has(&texts[PASSWD], name) && records::has(&texts[SHADOW], name) {
                for text in texts.values_mut() {
                    *text = records::without(text, name);
                }
            }
        }
        for name in self.groups.keys() {
            if records::has(&texts[GROUP], name) {
                continue;
            }
            // Likewise.
            let text = texts.entry(GSHADOW).or_default();
            *text = records::without(text, name);
        }
        let copy = |path: &str, bytes: &[u8]| tree.replace(&format!("{COPY}/{path}"), bytes, 0o600, ROOT);
        for (path, text) in &texts {
            if !text.is_empty() || tree.exists(path) {
                copy(path, text.as_bytes())?;
            }
        }
        for path in SETTINGS {
            if let Some(bytes) = tree.read_linked(path) {
                copy(path, &bytes)?;
            }
        }
        for command in commands {
            let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
            let name = args.last().copied().unwrap_or_default();
            let kind = if command[0] == "groupadd" { "group" } else { "user" };
            site.run(&command[0], &args, None, &format!("making the {kind} '{name}'"))?;
        }
        let result = |(path, _)| Ok((path, tree.text(&format!("{COPY}/{path}"))?));
        FILES.into_iter().map(result).collect()
    }

    /// Puts hashes that were given into shadow(5).
    fn set_hashes(&self, texts: &mut Texts) {
        let today = self.today.to_string();
        for (name, account) in &self.users {
            if let Some(Secret::Hash(hash)) = &account.secret
                && records::field(&texts[SHADOW], name, PASSWORD) != Some(hash)
            {
                set_hash(texts, name, hash);
                set_field(texts, SHADOW, name, CHANGED, &today);
            }
        }
    }
}

fn set_field(texts: &mut Texts, path: &'static str, name: &str, number: usize, value: &str) {
    let text = texts.entry(path).or_default();
    *text = records::with_field(text, name, number, value);
}

/// Puts a hash into shadow(5), also for a user of passwd(5) without a record there.
fn set_hash(texts: &mut Texts, name: &str, hash: &str) {
    if !records::has(&texts[SHADOW], name) {
        *texts.entry(SHADOW).or_default() += &format!("{name}:!*:::::::\n");
    }
    set_field(texts, SHADOW, name, PASSWORD, hash);
    // In passwd(5), "x" is what sends login(1) to shadow(5); an empty field there would need no password at all.
    set_field(texts, PASSWD, name, PASSWORD, "x");
}

/// Locks root where anybody could log in as root without a password: so Arch's `filesystem` ships it.
fn lock_root(texts: &mut Texts) {
    let empty = |path| records::field(&texts[path], "root", PASSWORD) == Some("");
    if [PASSWD, SHADOW].into_iter().any(empty) {
        set_hash(texts, "root", LOCKED);
    }
}

/// Returns whether root has a password, for the document: `locked` or `password`; `None` where there is no root yet.
pub(crate) fn root(tree: &Tree) -> Result<Option<String>, Failure> {
    let texts = read(tree)?;
    let Some(in_passwd) = records::field(&texts[PASSWD], "root", PASSWORD) else {
        return Ok(None);
    };
    let hash = match in_passwd {
        "x" => records::field(&texts[SHADOW], "root", PASSWORD).unwrap_or(LOCKED),
        other => other,
    };
    let is_locked = hash.starts_with(['!', '*']);
    Ok(Some(if is_locked { "locked" } else { "password" }.to_owned()))
}

/// Returns the users who can log in at the console, and those who can over ssh, by the defaults of sshd_config(5): who has a
/// key, and who but root has a password. At the console, one who needs no password can, too.
pub(crate) fn who_can_log_in(tree: &Tree) -> Result<(Vec<String>, Vec<String>), Failure> {
    let texts = read(tree)?;
    let (passwd, shadow) = (&texts[PASSWD], &texts[SHADOW]);
    let (mut console, mut ssh) = (Vec::new(), Vec::new());
    for name in records::names(passwd) {
        let Some(user) = lookup(passwd, &texts[GROUP], name) else { continue };
        if NO_SHELLS.iter().any(|no| user.shell.ends_with(no)) {
            continue;
        }
        let hash = match records::field(passwd, name, PASSWORD) {
            Some("x") => records::field(shadow, name, PASSWORD).unwrap_or(LOCKED),
            other => other.unwrap_or(LOCKED),
        };
        let keys =
            home::path(&user).ok().and_then(|home| tree.read(&format!("{home}/.ssh/authorized_keys")).ok().flatten());
        let has_password = !hash.starts_with(['!', '*']);
        if has_password {
            console.push(name.to_owned());
        }
        if keys.is_some_and(|keys| !keys.is_empty()) || has_password && !hash.is_empty() && name != "root" {
            ssh.push(name.to_owned());
        }
    }
    Ok((console, ssh))
}

/// Shells of users who do not log in.
const NO_SHELLS: [&str; 2] = ["/nologin", "/false"];

fn read(tree: &Tree) -> Result<Texts, Failure> {
    let text = |(path, _)| Ok((path, tree.text(path)?));
    FILES.into_iter().map(text).collect()
}

fn remove_copy(site: &Site) -> Result<(), Failure> {
    if !site.tree.exists(COPY) {
        return Ok(());
    }
    let args = ["-rf", "--one-file-system", "--", PREFIX];
    site.run("rm", &args, None, "removing the copy of the users' files")
}

/// Lets the root hash a password, unless the user has it already.
fn set_password(site: &mut Site, name: &str, password: &str) -> Result<(), Failure> {
    let doing = format!("setting the password of '{name}'");
    // PAM's own helper reads up to a NUL.
    let input = format!("{password}\0");
    if site.tree.has_program("unix_chkpwd") && site.confirms("unix_chkpwd", &[name, "nonull"], &input, &doing)? {
        return Ok(());
    }
    let input = format!("{name}:{password}\n");
    site.run("chpasswd", &[], Some(&input), &doing)?;
    site.tree.mark_changed(SHADOW);
    Ok(())
}

/// Adds keys to a user's authorized_keys.
fn authorize(tree: &mut Tree, user: &User, keys: &[String]) -> Result<(), Failure> {
    let owner = (user.uid, user.gid);
    let directory = format!("{}/.ssh", home::path(user)?);
    if tree.make_directory(&directory, 0o700, owner)? {
        tree.mark_changed(&directory);
    }
    let path = format!("{directory}/authorized_keys");
    let mut lines: Vec<String> = tree.text(&path)?.lines().map(str::to_owned).collect();
    merge(&mut lines, keys);
    tree.write_as(&path, &joined(&lines), 0o600, owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    fn texts(passwd: &str, shadow: &str, group: &str) -> Texts {
        let mut texts: Texts = FILES.into_iter().map(|(path, _)| (path, String::new())).collect();
        for (path, text) in [(PASSWD, passwd), (SHADOW, shadow), (GROUP, group)] {
            texts.insert(path, text.to_owned());
        }
        texts
    }

    #[test]
    fn root_is_locked_where_no_password_is_needed() {
        for (passwd, shadow, locked) in [
            ("root:x:0:0::/root:/bin/bash\n", "root::14871::::::\n", true),
            ("root::0:0::/root:/bin/bash\n", "root:$6$a$b:1::::::\n", true),
            ("root:x:0:0::/root:/bin/bash\n", "root:$6$a$b:1::::::\n", false),
            ("root:x:0:0::/root:/bin/bash\n", "root:!:1::::::\n", false),
            ("", "", false),
        ] {
            let mut texts = texts(passwd, shadow, "");
            let before = texts.clone();
            lock_root(&mut texts);
            assert_eq!(texts != before, locked, "{passwd}{shadow}");
            if locked {
                assert_eq!(records::field(&texts[SHADOW], "root", PASSWORD), Some(LOCKED));
                assert_eq!(records::field(&texts[PASSWD], "root", PASSWORD), Some("x"));
            }
        }
    }

    #[test]
    fn only_what_is_missing_is_asked_of_useradd_and_usermod() {
        let passwd = "root:x:0:0::/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n";
        let texts = texts(passwd, "", "wheel:x:998:ann\nvideo:x:44:\nann:x:1000:\n");
        let mut accounts = Accounts::default();
        let ann = accounts.user("ann");
        ann.groups.push("wheel".into());
        ann.shell = Some("/bin/bash".into());
        assert_eq!(accounts.commands(&texts), Vec::<Vec<String>>::new());
        accounts.user("ann").groups.push("video".into());
        accounts.user("bob").groups.push("wheel".into());
        accounts.user("root").shell = Some("/bin/sh".into());
        accounts.groups = [("wheel".into(), None), ("app".into(), Some(77)), ("log".into(), None)].into();
        let commands: Vec<String> = accounts.commands(&texts).iter().map(|c| c.join(" ")).collect();
        assert_eq!(
            commands,
            [
                "groupadd --prefix /run/configure --gid 77 -- app",
                "groupadd --prefix /run/configure -- log",
                "usermod --prefix /run/configure --append --groups video -- ann",
                "useradd --prefix /run/configure --no-create-home --user-group --groups wheel -- bob",
                "usermod --prefix /run/configure --shell /bin/sh -- root",
            ]
        );
    }

    #[test]
    fn root_is_locked_or_has_a_password() {
        for (passwd, shadow, word) in [
            ("root:x:0:0::/root:/b\n", "root:!*:1::::::\n", Some("locked")),
            ("root:x:0:0::/root:/b\n", "root:$6$a$b:1::::::\n", Some("password")),
            ("root:x:0:0::/root:/b\n", "", Some("locked")),
            ("", "", None),
        ] {
            let (_guard, tree) = tree(&[(PASSWD, passwd), (SHADOW, shadow)]);
            assert_eq!(root(&tree).unwrap().as_deref(), word);
        }
    }

    #[test]
    fn who_has_a_password_or_a_key_can_log_in() {
        let key = [("home/a/.ssh/authorized_keys", "ssh-ed25519 A")];
        let two = "root:x:0:0::/root:/b\na:x:1:1::/home/a:/b\n";
        let root = "root:x:0:0::/root:/b\n";
        for (passwd, shadow, keys, console, ssh) in [
            (two, "root:!*:1::::::\na:!:1::::::\n", &[][..], "", ""),
            (two, "root:!*:1::::::\na:!:1::::::\n", &key, "", "a"),
            (two, "root:!*:1::::::\na:$6$a$b:1::::::\n", &[], "a", "a"),
            (&two.replace("/home/a:/b", "/home/a:/usr/bin/nologin"), "a:$6$a$b:1::::::\n", &key, "", ""),
            (root, "root::1::::::\n", &[], "root", ""),
            (root, "root:$6$a$b:1::::::\n", &[], "root", ""),
            (root, "", &[], "", ""),
            ("", "", &key, "", ""),
        ] {
            let files = [&[(PASSWD, passwd), (SHADOW, shadow)], keys].concat();
            let (_guard, tree) = tree(&files);
            let (at_console, over_ssh) = who_can_log_in(&tree).unwrap();
            assert_eq!((at_console.join(" "), over_ssh.join(" ")), (console.into(), ssh.into()), "{passwd}{shadow}");
        }
    }

    #[test]
    fn users_are_merged_and_have_one_shell_and_one_password() {
        let of = |args: &[&str]| {
            let args = std::iter::once(&"configure").chain(args);
            Accounts::of(&<Args as clap::Parser>::try_parse_from(args).unwrap())
        };
        let accounts = of(&["--user", "ann:wheel,video", "--user", "ann:wheel,audio", "--user", "bob"]);
        let users = accounts.unwrap().users;
        assert_eq!(users["ann"].groups, ["wheel", "video", "audio"]);
        assert!(users["bob"].make && users["bob"].groups.is_empty());
        let failure = of(&["--shell", "ann:/a", "--shell", "ann:/b"]).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        let twice = "--shell: given twice for the user 'ann'";
        assert_eq!(failure.message, twice);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "$6$a$b").unwrap();
        let of_ann = format!("ann:{}", file.path().display());
        let failure = of(&["--password-file", &of_ann, "--password-hash-file", &of_ann]);
        assert!(failure.unwrap_err().message.contains("given twice"));
    }
}
