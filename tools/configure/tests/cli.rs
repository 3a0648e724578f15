//! The built program, on a small root of its own: what it prints, what it writes, and that it writes nothing where
//! something is wrong. What runs programs of a root is in the pipeline's tests, with a real one.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use strapline_tests::small::Ran;
use tempfile::TempDir;

const HASH: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN ann@home";

/// What is in the root, as path and text.
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0::/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n"),
    ("etc/shadow", "root::14871::::::\nann:!:14871::::::\n"),
    ("etc/group", "root:x:0:\nwheel:x:998:\nusers:x:984:\nann:x:1000:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/fstab", "# <file system> <dir> <type> <options> <dump> <pass>\n"),
    ("etc/machine-id", "c76a6edd320a46d487d5bbbcb87f8dcf\n"),
    ("etc/locale.gen", "#en_US.UTF-8 UTF-8  \n"),
    ("etc/pacman.conf", "[core]\nInclude = /etc/pacman.d/mirrorlist\n"),
    ("etc/pacman.d/mirrorlist", "Server = http://old.example.org/$repo\n"),
    ("etc/resolv.conf", "# Resolver configuration file.\n"),
    ("etc/sudoers", "@includedir /etc/sudoers.d\n"),
    ("usr/share/zoneinfo/Europe/Berlin", "TZif2..."),
    ("usr/share/zoneinfo/leapseconds", "# a list\n"),
    ("usr/share/i18n/SUPPORTED", "en_US.UTF-8 UTF-8\n"),
    ("usr/share/kbd/keymaps/i386/qwertz/de-latin1.map.gz", ""),
    ("usr/lib/systemd/systemd-resolved", ""),
    ("usr/bin/bash", ""),
    ("usr/bin/rm", ""),
    ("usr/bin/cp", ""),
    ("usr/bin/chown", ""),
    ("usr/bin/chmod", ""),
    ("usr/share/notes", ""),
];

struct Ground {
    directory: TempDir,
    root: PathBuf,
    document: Value,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("root");
        for below in ["var/lib/pacman", "proc", "home/ann", "root", "run", "etc/sudoers.d"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        for (path, text) in FILES {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        for (path, mode) in [
            ("etc/shadow", 0o600),
            ("etc/machine-id", 0o444),
            ("usr/bin/bash", 0o755),
            ("usr/bin/rm", 0o755),
            ("usr/bin/cp", 0o755),
            ("usr/bin/chown", 0o755),
            ("usr/bin/chmod", 0o755),
            ("usr/lib/systemd/systemd-resolved", 0o755),
        ] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("usr/bin", root.join("bin")).unwrap();
        let document = json!({"strapline": 1, "root": root, "arch": "aarch64", "mode": "root", "mounts": [],
            "binfmt": {"kind": "native"}, "distro": "archlinuxarm"});
        Self { directory, root, document }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_configure"))
            .args(args)
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = self.document.to_string();
        // One that refuses its command line may not read to the end.
        drop(child.stdin.take().unwrap().write_all(text.as_bytes()));
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// Runs it, sees it succeed, and takes its document for the next run.
    fn works(&mut self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.document.get("error"), None);
        self.document = ran.document;
        self.document["configured"].clone()
    }

    /// Runs it, and sees it refuse with this status and these words, and write nothing.
    #[track_caller]
    fn refuses(&self, args: &[&str], code: &str, says: &str) -> Ran {
        let before = picture(&self.root);
        let ran = self.run(args);
        let error = &ran.document["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!(error["code"], code, "{args:?}: {}", ran.stderr);
        assert_eq!(error["exit"], ran.status);
        assert!(message.contains(says), "{args:?}: {message}");
        assert!(ran.stderr.starts_with(&format!("configure: {message}\n")), "{}", ran.stderr);
        assert_eq!(ran.document.get("configured"), None);
        assert_eq!(picture(&self.root), before, "{args:?}");
        ran
    }

    fn text(&self, below: &str) -> String {
        fs::read_to_string(self.root.join(below)).unwrap()
    }
}

/// What is at a path: its type and mode, when it was changed, and what is in it.
type Thing = (PathBuf, u32, (i64, i64), Vec<u8>);

/// All there is in a directory.
fn picture(at: &Path) -> Vec<Thing> {
    let mut found = Vec::new();
    let mut left = vec![at.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        found.push((path, meta.mode(), (meta.mtime(), meta.mtime_nsec()), content));
    }
    found.sort();
    found
}

#[test]
fn by_default_root_is_locked_and_the_machine_id_goes() {
    let mut ground = Ground::new();
    let configured = ground.works(&[]);
    assert_eq!(ground.text("etc/shadow"), "root:!*:14871::::::\nann:!:14871::::::\n");
    assert_eq!(ground.text("etc/machine-id"), "");
    let mode = |below: &str| ground.root.join(below).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("etc/shadow"), mode("etc/machine-id")), (0o600, 0o444));
    assert_eq!(
        configured,
        json!({"root": "locked", "changed": {"machine_id": ["/etc/machine-id"], "users": ["/etc/shadow"]}})
    );
}

#[test]
fn a_second_run_changes_nothing() {
    let mut ground = Ground::new();
    let hash = ground.file("hash", &format!("{HASH}\n"));
    let key = ground.file("key.pub", &format!("# mine\n{KEY}\n"));
    let hash = format!("ann:{hash}");
    let key = format!("ann:{key}");
    let args = [
        "--hostname",
        "alarm",
        "--timezone",
        "Europe/Berlin",
        "--keymap",
        "de-latin1",
        "--user",
        "ann",
        "--password-hash-file",
        &hash,
        "--ssh-key",
        &key,
        "--fstab",
        "--mirror",
        "http://mirror.archlinuxarm.org/$arch/$repo",
        "--resolv-conf",
        "resolved",
        "--locale",
        "C",
        "--shell",
        "ann:/bin/bash",
    ];
    let configured = ground.works(&args);
    assert_eq!(ground.text("etc/hostname"), "alarm\n");
    assert!(ground.text("etc/hosts").ends_with("::1 localhost\n127.0.1.1 alarm # configure\n"));
    let link = |below: &str| fs::read_link(ground.root.join(below)).unwrap();
    assert_eq!(link("etc/localtime"), Path::new("../usr/share/zoneinfo/Europe/Berlin"));
    assert_eq!(link("etc/resolv.conf"), Path::new("../run/systemd/resolve/stub-resolv.conf"));
    assert_eq!(ground.text("etc/vconsole.conf"), "KEYMAP=de-latin1\n");
    assert_eq!(ground.text("etc/locale.conf"), "LANG=C\n");
    assert!(
        ground.text("etc/pacman.d/mirrorlist").ends_with("\nServer = http://mirror.archlinuxarm.org/$arch/$repo\n")
    );
    assert!(ground.text("etc/shadow").contains(&format!("ann:{HASH}:")));
    let keys = ground.root.join("home/ann/.ssh/authorized_keys");
    assert_eq!(fs::read_to_string(&keys).unwrap(), format!("{KEY}\n"));
    let meta = keys.metadata().unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (1000, 0o600));
    let meta = keys.parent().unwrap().metadata().unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (1000, 0o700));
    let uuids: Vec<_> = ground.document["filesystems"].as_array().unwrap().iter().map(|f| f["uuid"].clone()).collect();
    let fstab = ground.text("etc/fstab");
    for uuid in &uuids {
        assert!(fstab.contains(&format!("\nUUID={} /", uuid.as_str().unwrap())), "{fstab}");
    }
    assert_eq!(configured["users"], json!([{"name": "ann", "shell": "/bin/bash", "password": true, "ssh_key": true}]));
    assert_eq!(configured["changed"]["hostname"], json!(["/etc/hostname", "/etc/hosts"]));
    let text = ground.document.to_string();
    assert!(!text.contains("$6$") && !text.contains("AAAA"), "{text}");

    let before = picture(&ground.root);
    let first = ground.document.clone();
    let configured = ground.works(&args);
    assert_eq!(picture(&ground.root), before);
    assert_eq!(configured["changed"], json!({}));
    // Nor with the document that the first run had read: the UUIDs are those of the file.
    for member in ["configured", "filesystems"] {
        ground.document.as_object_mut().unwrap().remove(member);
    }
    let configured = ground.works(&args);
    assert_eq!(picture(&ground.root), before);
    assert_eq!(configured["changed"], json!({}));
    assert_eq!(ground.document["filesystems"], first["filesystems"]);
}

#[test]
fn runs_add_up_in_the_document() {
    let mut ground = Ground::new();
    ground.works(&["--hostname", "a", "--locale", "C"]);
    let configured = ground.works(&["--hostname", "b", "--locale", "POSIX"]);
    assert_eq!(configured["hostname"], "b");
    assert_eq!(configured["locales"], json!(["POSIX", "C"]));
    assert_eq!(ground.text("etc/hosts").matches("127.0.1.1").count(), 1);
}

#[test]
fn a_hash_for_root_is_a_password_and_unlocks() {
    let mut ground = Ground::new();
    let hash = format!("root:{}", ground.file("hash", HASH));
    let configured = ground.works(&["--password-hash-file", &hash]);
    assert_eq!(configured["root"], "password");
    assert!(ground.text("etc/shadow").starts_with(&format!("root:{HASH}:")));
}

#[test]
fn the_date_of_the_image_is_that_of_its_passwords() {
    let ground = Ground::new();
    let state = ground.file("doc.json", &ground.document.to_string());
    let hash = format!("ann:{}", ground.file("hash", HASH));
    let run = |date: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_configure"))
            .args(["--password-hash-file", &hash, "--state", &state])
            .env("SOURCE_DATE_EPOCH", date)
            .output()
            .unwrap();
        out.status.code().unwrap()
    };
    assert_eq!(run("yesterday"), 64);
    assert!(!ground.text("etc/shadow").contains(HASH));
    assert_eq!(run("1700000000"), 0);
    assert!(ground.text("etc/shadow").contains(&format!("ann:{HASH}:19675:")));
}

#[test]
fn the_same_date_and_name_give_the_same_uuids() {
    let uuids = |name: &str| {
        let ground = Ground::new();
        let state = ground.file("doc.json", &ground.document.to_string());
        let out = Command::new(env!("CARGO_BIN_EXE_configure"))
            .args(["--fstab", "--hostname", name, "--state", &state])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(document.get("error"), None);
        document["filesystems"].to_string()
    };
    assert_eq!(uuids("a"), uuids("a"));
    assert_ne!(uuids("a"), uuids("b"));
}

#[test]
fn a_layout_says_which_file_systems_there_are() {
    let mut ground = Ground::new();
    let layout =
        ground.file("layout.toml", "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n");
    let configured = ground.works(&["--fstab", "--layout", &layout]);
    assert_eq!(configured["fstab"], json!(["/"]));
    assert!(!ground.text("etc/fstab").contains("vfat"));
    // A board's are those that mkdisk makes of it.
    let mut bare = Ground::new();
    let configured = bare.works(&["--fstab", "--board", "asahi"]);
    assert_eq!(configured["fstab"], json!(["/"]));
    let configured = Ground::new().works(&["--fstab", "--board", "raspberrypi-4"]);
    assert_eq!(configured["fstab"], json!(["/", "/boot"]));
    let ran = Ground::new().refuses(&["--fstab", "--board", "rpi4"], "usage", "there is no board 'rpi4'");
    assert!(ran.stderr.contains("hint: did you mean 'raspberrypi-4'?"), "{}", ran.stderr);
    Ground::new().refuses(&["--fstab", "--board", "visionfive-2"], "usage", "it is riscv64, and the root is");
    ground.document["filesystems"][0]["uuid"] = json!("nonsense");
    let ran = ground.run(&["--fstab", "--layout", &layout]);
    assert_eq!(ran.document["error"]["code"], "bad-document");
}

#[test]
fn what_the_root_does_not_have_is_refused_first() {
    let ground = Ground::new();
    let good = ["--hostname", "alarm", "--fstab"];
    for (args, says) in [
        (&["--timezone", "Europe/Berlim"][..], "looking for the time zone 'Europe/Berlim': no zone at '"),
        (&["--timezone", "leapseconds"], "looking for the time zone 'leapseconds'"),
        (&["--timezone", "Europe"], "looking for the time zone 'Europe'"),
        (&["--keymap", "dvorak"], "looking for the keymap 'dvorak'"),
        (&["--locale", "xx_XX.UTF-8"], "looking for the locale 'xx_XX.UTF-8'"),
        (&["--locale", "en_US.UTF-8"], "the root has no locale-gen"),
        (&["--user", "ann:wheel,nosuch"], "looking for the group 'nosuch'"),
        (&["--user", "ann:wheel"], "configuring users: the root has no usermod"),
        (&["--user", "bob"], "configuring users: the root has no useradd"),
        (&["--user", "ann", "--shell", "ann:/bin/fish"], "looking for the shell of 'ann'"),
        (&["--shell", "ann:/usr/share/notes"], "is not a program"),
        (&["--shell", "bob:/bin/bash"], "looking for the user 'bob'"),
        (&["--sudo"], "the root has no sudo"),
        (&["--enable", "sshd"], "the root has no systemctl"),
        (&["--first-boot-keyring"], "making a keyring at first boot: the root has no systemd"),
    ] {
        ground.refuses(&[args, &good].concat(), "not-found", says);
    }
    // What only clap or the plan sees: a wrong command line.
    for (args, says) in [
        (&["--hostname", "a b"][..], "invalid value 'a b' for '--hostname <NAME>': "),
        (&["--layout", "x"], "--fstab"),
        (&["--board", "asahi"], "--fstab"),
        (&["--fstab", "--board", "asahi", "--layout", "x"], "cannot be used with"),
        (&["--mirror", "http://m.example.org/"], "no $repo in it"),
        (&["--password-file", "ann:/no/such"], "reading '/no/such': No such file"),
    ] {
        ground.refuses(args, "usage", says);
    }
}

#[test]
fn what_is_in_the_way_is_refused_first() {
    let ground = Ground::new();
    ground.refuses(
        &["--user", "users", "--hostname", "a"],
        "failed",
        "adding the user 'users': there is a group of this name",
    );
    fs::write(ground.root.join("etc/fstab"), "/dev/sda1 / ext4 rw 0 1\n").unwrap();
    let ran = ground.refuses(&["--hostname", "a", "--fstab"], "failed", "another line mounts '/'");
    assert!(ran.stderr.contains("configure: hint: remove that line"), "{}", ran.stderr);
    fs::write(ground.root.join("etc/pacman.conf"), "[core]\nServer = x\n").unwrap();
    let mirror = ["--mirror", "http://m.example.org/$repo", "--hostname", "a"];
    ground.refuses(&mirror, "not-found", "does not include /etc/pacman.d/mirrorlist");
}

#[test]
fn a_root_that_leads_out_is_refused() {
    // In a chroot(2) an absolute link leads nowhere. This one does: to init's root, which may be the host's.
    let escape = |path: &Path| format!("/proc/1/root{}", path.canonicalize().unwrap().display());
    let proc = json!([{"at": "proc", "type": "proc", "options": ["nosuid", "noexec", "nodev"]}]);
    for place in ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/shadow", "etc/fstab", "etc"] {
        let mut ground = Ground::new();
        ground.document["mounts"] = proc.clone();
        let at = ground.root.join(place);
        let outside = ground.directory.path().join("outside");
        if place == "etc" {
            fs::rename(&at, &outside).unwrap();
        } else {
            drop(fs::remove_file(&at));
            fs::write(&outside, "theirs").unwrap();
        }
        symlink(escape(&outside), &at).unwrap();
        let before = picture(ground.directory.path());
        ground.refuses(&["--hostname", "a", "--fstab"], "failed", "symbolic link");
        assert_eq!(picture(ground.directory.path()), before, "{place}");
    }
    // A link where resolv.conf is to be is replaced, and not written through.
    let mut ground = Ground::new();
    ground.document["mounts"] = proc;
    let outside = ground.file("outside", "theirs");
    let at = ground.root.join("etc/resolv.conf");
    fs::remove_file(&at).unwrap();
    symlink(escape(Path::new(&outside)), &at).unwrap();
    ground.works(&["--resolv-conf", "9.9.9.9"]);
    assert!(ground.text("etc/resolv.conf").ends_with("nameserver 9.9.9.9\n"));
    assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");
    let ground = Ground::new();
    let outside = ground.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, ground.root.join("home/ann/.ssh")).unwrap();
    let key = format!("ann:{}", ground.file("key.pub", KEY));
    let ran = ground.run(&["--ssh-key", &key]);
    assert_eq!(ran.document["error"]["code"], "failed", "{}", ran.stderr);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn secrets_are_checked_and_never_shown() {
    let ground = Ground::new();
    for (option, text, says) in [
        ("--password-file", "geheim\nzwei\n", "more than one line"),
        ("--password-file", "", "it is empty"),
        ("--password-hash-file", "geheim\n", "it is not a hash"),
        ("--password-hash-file", "$1$geheim$geheim\n", "its method is too weak"),
        ("--ssh-key", "-----BEGIN OPENSSH PRIVATE KEY-----\ngeheim\n", "it is a private key"),
        ("--ssh-key", "geheim\n", "line 1 is not a public key"),
    ] {
        let file = format!("ann:{}", ground.file("secret", text));
        let ran = ground.refuses(&[option, &file], "usage", says);
        assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
        assert!(!ran.document.to_string().contains("geheim"));
    }
}

#[test]
fn an_account_with_an_empty_password_is_warned_of() {
    let mut ground = Ground::new();
    let path = ground.root.join("etc/shadow");
    fs::write(&path, "root:!:1::::::\nann::1::::::\n").unwrap();
    let ran = ground.run(&["--quiet"]);
    assert_eq!(ran.stderr, "configure: warning: the user 'ann' has an empty password\n");
    let hash = format!("ann:{}", ground.file("hash", HASH));
    let configured = ground.works(&["--password-hash-file", &hash]);
    assert_eq!(configured["root"], "locked");
}

#[test]
fn a_tool_that_works_on_the_root_is_waited_for() {
    let ground = Ground::new();
    let directory = fs::File::open(ground.root.join("var/lib/pacman")).unwrap();
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).unwrap();
    ground.refuses(&["--hostname", "a"], "busy", "another tool works on this root");
}

#[test]
fn what_a_killed_run_left_beside_is_taken_away() {
    let mut ground = Ground::new();
    fs::write(ground.root.join("etc/.hostname.new"), "half").unwrap();
    ground.works(&["--hostname", "a"]);
    assert!(!ground.root.join("etc/.hostname.new").exists());
}

/// Makes a tree beside the root, of these files, and returns its path.
fn tree(ground: &Ground, files: &[(&str, &str)]) -> String {
    let at = ground.directory.path().join("tree");
    for (path, text) in files {
        let path = at.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    at.to_string_lossy().into_owned()
}

#[test]
fn a_tree_is_laid_before_what_edits_it() {
    let mut ground = Ground::new();
    let at =
        tree(&ground, &[("etc/hosts", "127.0.0.1 mine\n"), ("opt/app/run", "#!/bin/sh\n"), ("etc/fstab", "# mine\n")]);
    ground.file("tree.owners", "Z /opt/app - ann wheel\n");
    let hash = |text: &str| json!(package_hash(text));
    let args = ["--tree", &at, "--hostname", "alarm"];
    let configured = ground.works(&args);
    assert_eq!(ground.text("etc/hosts"), "127.0.0.1 mine\n127.0.1.1 alarm # configure\n");
    let meta = ground.root.join("opt/app/run").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 998, 0o644));
    assert_eq!(configured["changed"]["tree"], json!(["/etc/fstab", "/etc/hosts", "/opt", "/opt/app", "/opt/app/run"]));
    let recorded = |ground: &Ground, path: &str| {
        let tree = ground.document["tree"].as_array().unwrap();
        tree.iter().find(|file| file["path"] == path).unwrap()["sha256"].clone()
    };
    assert_eq!(recorded(&ground, "etc/hosts"), hash(&ground.text("etc/hosts")));
    assert_eq!(recorded(&ground, "etc/fstab"), hash("# mine\n"));
    // What a later run edits is recorded, too; and what it does not, stays.
    ground.works(&["--hostname", "other"]);
    assert_eq!(recorded(&ground, "etc/hosts"), hash(&ground.text("etc/hosts")));
    assert_eq!(ground.document["tree"].as_array().unwrap().len(), 6);
}

fn package_hash(text: &str) -> String {
    let out = Command::new("sh").args(["-c", "printf %s \"$0\" | sha256sum", text]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_tree_in_the_way_or_of_nothing_is_refused() {
    let hostname = ["--hostname", "a"];
    for (files, list, code, says) in [
        (&[("etc/sudoers.d", "")][..], "", "failed", "it is a directory in the root"),
        (&[("bin/x", "")], "", "failed", "it is, or is behind, a symbolic link of the root"),
        (&[("etc/hosts/x", "")], "", "failed", "it is no directory in the root"),
        (&[("etc/x", "")], "z /etc/x - eve -\n", "not-found", "the root has no user 'eve'"),
        (&[("etc/x", "")], "z /etc/x - - nosuch\n", "not-found", "the root has no group 'nosuch'"),
        (&[("etc/x", "")], "z /etc/y - - -\n", "usage", "line 1: the tree has no '/etc/y'"),
        (&[("etc/passwd", "")], "", "usage", "'etc/passwd': packages add users to it"),
        (&[("var/lib/pacman/x", "")], "", "usage", "pacman's own record"),
    ] {
        let ground = Ground::new();
        let at = tree(&ground, files);
        if !list.is_empty() {
            fs::write(format!("{at}.owners"), list).unwrap();
        }
        ground.refuses(&[&["--tree", &at], &hostname[..]].concat(), code, says);
    }
    Ground::new().refuses(&["--tree", "/no/such", "--hostname", "a"], "not-found", "reading the tree '/no/such'");
}

#[test]
fn os_release_becomes_a_file_with_all_of_the_link() {
    let mut ground = Ground::new();
    ground.refuses(&["--os-release", "IMAGE_ID=a"], "not-found", "setting variables of os-release: no '");
    fs::write(ground.root.join("usr/lib/os-release"), "ID=arch\nVARIANT=\"x\"\n").unwrap();
    symlink("../usr/lib/os-release", ground.root.join("etc/os-release")).unwrap();
    let args = ["--os-release", "IMAGE_ID=own", "--os-release", "VARIANT=My own"];
    let configured = ground.works(&args);
    assert_eq!(ground.text("etc/os-release"), "ID=arch\nVARIANT=\"My own\"\nIMAGE_ID=own\n");
    assert_eq!(ground.text("usr/lib/os-release"), "ID=arch\nVARIANT=\"x\"\n");
    assert_eq!(configured["os_release"], json!({"IMAGE_ID": "own", "VARIANT": "My own"}));
    let file = &ground.document["tree"][0];
    assert_eq!(
        (&file["path"], &file["from"], &file["mode"]),
        (&json!("etc/os-release"), &json!("--os-release"), &json!("0644"))
    );
    let before = picture(&ground.root);
    assert_eq!(ground.works(&args)["changed"], json!({}));
    assert_eq!(picture(&ground.root), before);
}

#[test]
fn units_and_sudo_that_cannot_be_are_refused() {
    let ground = Ground::new();
    for (args, says) in [
        (&["--nopasswd", "ann"][..], "allowing sudo without a password: the root has no sudo"),
        (&["--nopasswd", "eve"], "the root has no user 'eve'"),
        (&["--nopasswd", "%eve"], "the root has no group 'eve'"),
        (&["--disable", "sshd"], "the root has no systemctl"),
        (&["--mask", "sshd"], "the root has no systemctl"),
        (&["--enable-global", "sshd"], "the root has no systemctl"),
        (&["--default-target", "graphical"], "the root has no systemctl"),
        (&["--group", "app"], "the root has no groupadd"),
    ] {
        ground.refuses(args, "not-found", says);
    }
    ground.refuses(&["--group", "wheel:5"], "failed", "making the group 'wheel': it has the id 998");
    ground.refuses(&["--group", "a:5", "--group", "a:6"], "usage", "two ids for the group 'a'");
    for other in ["--disable", "--mask"] {
        let says = format!("the unit 'sshd.service' is given to --enable and to {other}");
        ground.refuses(&["--enable", "sshd", other, "sshd.service"], "usage", &says);
    }
}

#[test]
fn a_network_is_configured_and_its_passphrase_is_not_shown() {
    let mut ground = Ground::new();
    let psk = ground.file("home.psk", "[Security]\nPassphrase=geheim-geheim\n");
    let own = ground.file("10-own.network", "[Match]\nName=eth7\n");
    for (value, says) in
        [("dhcp", "the root has no systemd-networkd"), (own.as_str(), "no systemd-networkd"), (&psk, "no iwd")]
    {
        ground.refuses(&["--network", value], "not-found", says);
    }
    let other = ground.file("x.netdev", "");
    ground.refuses(
        &["--network", &other, "--hostname", "a"],
        "usage",
        "neither 'dhcp' nor a name that ends in .network",
    );
    ground.refuses(&["--network", "/no/such.psk"], "usage", "reading '/no/such.psk': No such file");
    for program in ["usr/lib/systemd/systemd-networkd", "usr/lib/iwd/iwd"] {
        let at = ground.root.join(program);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, "").unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(ground.root.join("etc/systemd")).unwrap();
    let args = ["--network", "dhcp", "--network", &own, "--network", &psk];
    let configured = ground.works(&args);
    assert_eq!(configured["network"], json!(["dhcp", "10-own.network", "home.psk"]));
    assert!(ground.text("etc/systemd/network/20-wired.network").contains("[Match]\nType=ether\n"));
    assert_eq!(ground.text("etc/systemd/network/10-own.network"), "[Match]\nName=eth7\n");
    let mode = |path: &str| ground.root.join(path).metadata().unwrap().mode() & 0o777;
    assert_eq!((mode("var/lib/iwd"), mode("var/lib/iwd/home.psk")), (0o700, 0o600));
    assert!(!ground.document.to_string().contains("geheim"));
    assert_eq!(ground.works(&args)["changed"], json!({}));
}

/// Puts an empty program into the root.
fn program(ground: &Ground, path: &str) {
    let at = ground.root.join(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, "").unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_machine_that_nobody_can_log_in_to_is_named() {
    let mut ground = Ground::new();
    for grows in ["usr/bin/systemd-repart", "usr/lib/systemd/systemd-growfs"] {
        program(&ground, grows);
    }
    let warning = "configure: warning: nobody can log in: root is locked, and no user has a password or a key of ssh";
    assert!(ground.run(&["--quiet", "--fstab"]).stderr.starts_with(warning));
    let ran = ground.run(&["--quiet"]);
    assert_eq!((ran.stderr.as_str(), ran.document["configured"].get("login")), ("", None), "it is not for a disk");
    // With a key alone, all of ssh has to be there.
    let key = format!("ann:{}", ground.file("key.pub", KEY));
    let with_key = ["--quiet", "--fstab", "--ssh-key", &key];
    let says = |ground: &Ground, reasons: &str| {
        let line = "configure: warning: nobody can log in: at the console, no user has a password (--password-file); over ssh: ";
        assert_eq!(ground.run(&with_key).stderr, format!("{line}{reasons}\n"));
    };
    let no_network = "no network is configured (--network dhcp --enable systemd-networkd)";
    says(&ground, &format!("the root has no sshd ('strap openssh'); {no_network}"));
    program(&ground, "usr/bin/sshd");
    says(&ground, &format!("sshd is not enabled (--enable sshd); {no_network}"));
    let wants = ground.root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    symlink("/usr/lib/systemd/system/sshd.service", wants.join("sshd.service")).unwrap();
    says(&ground, no_network);
    symlink("/usr/lib/systemd/system/NetworkManager.service", wants.join("NetworkManager.service")).unwrap();
    assert_eq!(ground.run(&with_key).stderr, "");
    let configured = ground.works(&["--fstab", "--ssh-key", &key]);
    assert_eq!(configured["login"], json!({"ssh": ["ann"]}));
    // A password is for the console, too.
    fs::remove_file(wants.join("sshd.service")).unwrap();
    let hash = format!("ann:{}", ground.file("hash", HASH));
    let ran = ground.run(&["--fstab", "--password-hash-file", &hash]);
    assert!(ran.stderr.contains("configure: nobody can log in over ssh: sshd is not enabled"), "{}", ran.stderr);
    let login = json!({"console": ["ann"], "ssh": ["ann"], "missing": ["sshd-unit"]});
    assert_eq!(ran.document["configured"]["login"], login);
}

#[test]
fn the_root_grows_where_it_can_and_the_layout_says_so() {
    let mut ground = Ground::new();
    let ran = ground.run(&["--quiet", "--fstab"]);
    let warning = "configure: warning: '/' will not grow on a larger disk: the root has no systemd-repart\n";
    assert!(ran.stderr.ends_with(warning), "{}", ran.stderr);
    assert_eq!(ran.document["filesystems"][0].get("grows"), None);
    for grows in ["usr/bin/systemd-repart", "usr/lib/systemd/systemd-growfs"] {
        program(&ground, grows);
    }
    let configured = ground.works(&["--fstab"]);
    let definition = "etc/repart.d/50-configure-000.conf";
    let drop_in = "etc/systemd/system/systemd-repart.service.d/50-configure.conf";
    assert_eq!(ground.document["filesystems"][0]["grows"], "b921b045-1df0-41c3-af44-4c6f280d3fae");
    assert!(ground.text(definition).ends_with("[Partition]\nType=b921b045-1df0-41c3-af44-4c6f280d3fae\n"));
    // Else the boot loader of a board would be discarded.
    let command = "ExecStart=\nExecStart=/usr/bin/systemd-repart --dry-run=no --discard=no\n";
    assert!(ground.text(drop_in).ends_with(command));
    assert!(ground.text("etc/fstab").contains(" / ext4 rw,relatime,x-systemd.growfs 0 1\n"));
    assert!(configured["changed"]["growth"].to_string().contains(definition));
    assert_eq!(ground.works(&["--fstab"])["changed"], json!({}));
    // A definition of somebody else's decides alone.
    let own = ground.root.join("usr/lib/repart.d/10-root.conf");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "[Partition]\nType=root\n").unwrap();
    ground.works(&["--fstab"]);
    assert!(!ground.root.join(definition).exists() && !ground.root.join(drop_in).exists());
    assert_eq!(ground.document["filesystems"][0].get("grows"), None);
    fs::remove_file(own).unwrap();
    ground.works(&["--fstab"]);
    assert!(ground.root.join(definition).exists());
    // Nor does a layout without the attribute, and what was written for another one goes.
    let boot = "[[partition]]\nname='boot'\ntype='esp'\nsize='auto'\nfilesystem='vfat'\nat='/boot'\n";
    let root = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\noptions=['noatime']\n";
    let layout = ground.file("layout.toml", &format!("{boot}{root}"));
    ground.works(&["--fstab", "--layout", &layout]);
    assert!(!ground.root.join(definition).exists() && !ground.root.join(drop_in).exists());
    assert!(ground.text("etc/fstab").contains(" / ext4 rw,noatime 0 1\n"), "{}", ground.text("etc/fstab"));
}
