//! The rules against the host's systemd-tmpfiles(8), which applies them to a tree: what it makes of each file is what we
//! say that it makes. Names in ACLs are ids here: with `--root` systemd-tmpfiles looks them up on the host.

use super::*;
use rustix::fs::{Mode, OFlags, open};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1001:1001::/:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nutmp:x:997:\nadm:x:999:\nwheel:x:998:\n";
const MACHINE: &str = "0123456789abcdef0123456789abcdef";

/// The tree: paths, their kinds and their modes.
const TREE: &[(&str, Kind, u32)] = &[
    ("srv", Kind::Directory, 0o755),
    ("srv/a", Kind::Directory, 0o700),
    ("srv/a/.hidden", Kind::File, 0o644),
    ("srv/a/b", Kind::Directory, 0o2755),
    ("srv/a/b/one.log", Kind::File, 0o640),
    ("srv/a/b/two.log", Kind::File, 0o4755),
    ("srv/a/b/three", Kind::File, 0o400),
    ("srv/a/link", Kind::Link, 0o777),
    ("srv/c d", Kind::Directory, 0o1777),
    ("srv/c d/x", Kind::File, 0o600),
    ("srv/0123456789abcdef0123456789abcdef", Kind::Directory, 0o755),
    ("srv/100%", Kind::File, 0o644),
    ("usr", Kind::Directory, 0o755),
    ("usr/tool", Kind::File, 0o755),
    ("var", Kind::Directory, 0o755),
    ("var/log", Kind::Directory, 0o755),
    ("var/log/journal", Kind::Directory, 0o2755),
];

/// A root with that tree in it.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for below in ["etc", "usr/lib/tmpfiles.d", "etc/tmpfiles.d", "run/tmpfiles.d"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        let text = [("passwd", PASSWD), ("group", GROUP), ("machine-id", MACHINE)];
        for (name, text) in text {
            fs::write(dir.path().join("etc").join(name), text).unwrap();
        }
        for (path, kind, mode) in TREE {
            let path = dir.path().join(path);
            match kind {
                Kind::Directory => fs::create_dir_all(&path).unwrap(),
                Kind::Link => symlink("b", &path).unwrap(),
                _ => fs::write(&path, "x").unwrap(),
            }
            if *kind != Kind::Link {
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        Self(dir)
    }

    fn states(&self) -> Vec<State> {
        TREE.iter().map(|(path, kind, _)| state(&self.0.path().join(path), *kind)).collect()
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.path().join(path), text).unwrap();
    }

    /// Has systemd-tmpfiles do what the rules say. It says what it does not understand, and goes on.
    fn apply(&self, boot: bool) -> String {
        let mut command = Command::new("systemd-tmpfiles");
        command.arg("--create").arg(format!("--root={}", self.0.path().display()));
        if boot {
            command.arg("--boot");
        }
        let out = command.output().unwrap();
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

fn state(path: &Path, kind: Kind) -> State {
    let meta = path.symlink_metadata().unwrap();
    let mut state = State { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), ..State::default() };
    if kind != Kind::Link {
        let file = open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        state.acl = Acl::read(&file, acl::ACCESS).unwrap();
        state.default_acl = Acl::read(&file, acl::DEFAULT).unwrap();
    }
    state
}

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned(), package: 0, for_all: true }
}

fn rules(files: &[File]) -> Rules {
    Rules::read(files, &Names::of(PASSWD, GROUP), Some(MACHINE))
}

/// Compares what comes of `files` with what systemd-tmpfiles makes of them, once and again, and at boot. Returns how many
/// files they change.
#[track_caller]
fn compare(files: &[File]) -> usize {
    let rules = rules(files);
    let mut changed = 0;
    for (boot, first) in [(false, 0), (true, 4)] {
        let tree = Tree::new();
        for file in files {
            tree.write(&file.path, &file.text);
        }
        let before = tree.states();
        for again in 0..2 {
            let said = tree.apply(boot);
            for (((path, kind, _), before), after) in TREE.iter().zip(&before).zip(tree.states()) {
                let results = rules.results(0, path, *kind, before);
                assert_eq!(
                    results[first + again],
                    after,
                    "'{path}', run {again}, boot {boot}, before {before:?}, by:\n{files:#?}\n{said}"
                );
                changed += usize::from(*before != after);
            }
        }
    }
    changed
}

#[test]
fn every_kind_of_rule_does_what_systemd_does() {
    for (lines, any) in [
        ("z /usr/tool 2755 root utmp - -", true),
        ("m /usr/tool 0700 ann - - -", true),
        ("z /srv/a/b/*.log 0600 bob adm", true),
        ("z /srv/a/* 0700 - -", true),
        ("z /srv/*/*/two.* - ann -", true),
        ("z /srv/a/[bl]* 0711 1001 997", true),
        ("z /srv/a/b/{one,two}.log 0604 - -", true),
        ("Z /srv/a 0750 ann utmp", true),
        ("Z /srv/a ~0775 - -", true),
        ("Z /srv ~2750 root adm", true),
        ("z /srv/a/b/two.log ~6777", true),
        ("z /srv/a/b :0700 :ann :utmp", false),
        ("z /srv/a/b ~:0700 - utmp", true),
        ("z /srv/a/b - - -", false),
        ("d /srv/a 0755 - -", true),
        ("d /srv/a - ann -", true),
        ("d /srv/a", false),
        ("D /srv/a 0701 - utmp", true),
        ("e /srv/* 0701 - utmp", true),
        ("v /srv/a 0703", true),
        ("q /srv/a 0703", true),
        ("Q /srv/a 0703", true),
        ("d /usr/tool 0700 - -", false),
        ("f /usr/tool 0710 bob -", true),
        ("f /srv/a 0710 bob -", false),
        ("F /usr/tool 0710 bob -", true),
        ("f+ /usr/tool 0711 bob - - -", true),
        ("L /srv/a/link - ann - - b", true),
        ("C /usr/tool 0700 bob - - /srv/100%%", true),
        ("d! /srv/a 0755 - -", true),
        ("z! /usr/tool 0700", true),
        ("z- /usr/tool 0700", true),
        ("d= /srv/a 0711", true),
        ("z \"/srv/c d\" 0700", true),
        ("z '/srv/c d/x' 0644", true),
        ("z /srv/c\\ d 0755", true),
        ("z /srv/c\\sd 0755", false),
        ("z \"/srv/c\\ d\" 0755", true),
        ("z /srv/100%% 0600", true),
        ("z /srv/%m 0700 - utmp", true),
        ("z %S 0700", false),
        ("z /srv//a/ 0711", true),
        ("z srv/a 0711", false),
        ("z /srv/a 0799", false),
        ("z /srv/a 77777", false),
        ("z /srv/a 0711 nobody-there -", false),
        ("z /srv/a 0711 - nobody-there", false),
        ("y /srv/a 0711", false),
        ("# z /srv/a 0711\n\n  z /srv/a 0710 ann", true),
        // The first that makes a path counts; those that change it all do.
        ("d /srv/a 0711 - -\nd /srv/a 0722 - -", true),
        ("z /srv/a 0711 - -\nz /srv/a 0700 ann -", true),
        ("z /srv/a 0711\nd /srv/a 0755 bob -", true),
        ("Z /srv/a 0711\nz /srv/a/b 0700 ann utmp\nd /srv/a 0701", true),
        ("z /srv/a/b 0700\nZ /srv/a 0711", true),
        ("z /srv/*/b 0700\nZ /srv 0711", true),
        ("a /srv/a/b/one.log - - - - user:1001:rw", true),
        ("a+ /srv/a/b/one.log - - - - u:1001:rw,group:999:r--", true),
        ("a+ /srv/a/b/one.log - - - - u:1001:rw\na+ /srv/a/b/one.log - - - - g:999:rw-", true),
        ("a /srv/a/b - - - - default:user:1002:rwx", true),
        ("A /srv/a - - - - u:1002:rx,d:g:999:r-x", true),
        ("A+ /srv/a - - - - m::r,u:1001:rwx", true),
        ("a /usr/tool - - - - u::rw,g::r,o::-", true),
        ("a /usr/tool - - - - u:nobody-there:rw", false),
        ("z /srv/a/b/one.log 0604\na+ /srv/a/b/one.log - - - - u:1001:rwx", true),
        (
            "z /var/log/journal 2755 root adm - -\na+ /var/log/journal - - - - d:group::r-x,d:group:999:r-x,d:group:998:r-x\n\
             a+ /var/log/journal - - - - group::r-x,group:999:r-x,group:998:r-x",
            true,
        ),
    ] {
        let changed = compare(&[file("usr/lib/tmpfiles.d/x.conf", &format!("{lines}\n"))]);
        assert_eq!(changed > 0, any, "{lines}");
    }
}

#[test]
fn files_override_others_of_their_name() {
    let [low, middle, high] = ["usr/lib", "run", "etc"].map(|d| format!("{d}/tmpfiles.d/m.conf"));
    let line = |mode: &str| format!("d /srv/a {mode}\n");
    assert!(compare(&[file(&low, &line("0701")), file(&middle, &line("0702"))]) > 0);
    assert!(compare(&[file(&low, &line("0701")), file(&high, &line("0703"))]) > 0);
    assert!(compare(&[file(&middle, &line("0702")), file(&high, "")]) == 0);
    let later = "etc/tmpfiles.d/z.conf";
    assert!(compare(&[file(later, &line("0704")), file(&low, &line("0701"))]) > 0);
    assert!(compare(&[file(later, "z /usr/tool 700\n"), file(&low, "z /usr/tool 711\n")]) > 0);
    // Nothing but *.conf.
    assert!(compare(&[file("usr/lib/tmpfiles.d/x.conf", &line("0701"))]) > 0);
}

/// Rules at random, several at once.
#[test]
fn random_rules_do_what_systemd_does() {
    let mut seed: u64 = 20_261_129;
    let mut random = move |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % n
    };
    let mut changed = 0;
    for _ in 0..100 {
        let mut text = String::new();
        for _ in 0..=random(6) {
            let mut pick = |list: &[&'static str]| list[random(list.len())];
            let kind = pick(&["z", "Z", "m", "d", "D", "f", "a", "a+", "A", "A+", "z!", "Z!"]);
            let path = pick(&[
                "/srv",
                "/srv/a",
                "/srv/a/b",
                "/srv/*",
                "/srv/a/*",
                "/srv/a/b/*.log",
                "/srv/*/b",
                "/usr/tool",
                "/srv/a/link",
                "/srv/a/b/three",
                "'/srv/c d'",
                "/srv/%m",
                "/var/log/journal",
                "/srv/a/.*",
                "/srv/a/{b,.hidden}",
            ]);
            let mode = pick(&["-", "0755", "2750", "~0777", "~2750", ":0700", "4711", "0640", "1777"]);
            // Below the directory of a user systemd-tmpfiles does not touch what is another's.
            let user = pick(&["-", "root", "0", ":bob", "nobody-there"]);
            let group = pick(&["-", "root", "utmp", "999", ":adm"]);
            let argument = match kind.starts_with(['a', 'A']) {
                true => pick(&[
                    "u:1001:rwx",
                    "group:999:r-x,d:group:999:r-x",
                    "m::r,g:998:rw",
                    "u::rwx,g::r-x,o::r",
                    "d:u:1002:rwx",
                    "g:997:rw,u:1001:r",
                ]),
                false => "-",
            };
            text += &format!("{kind} {path} {mode} {user} {group} - {argument}\n");
        }
        changed += compare(&[file("usr/lib/tmpfiles.d/x.conf", &text)]);
    }
    assert!(changed > 1000, "{changed}");
}

/// With `--root` these are others.
#[test]
fn what_a_per_cent_sign_stands_for() {
    for (text, expanded) in [
        ("%L/journal", Some("/var/log/journal")),
        ("%C%S%t%T%V%h", Some("/var/cache/var/lib/run/tmp/var/tmp/root")),
        ("%u%g%U%G%%", Some("rootroot00%")),
        ("/x/%m", Some("/x/M")),
        ("/x/%b", None),
        ("/x/%v", None),
        ("%", None),
    ] {
        assert_eq!(expand(text, Some("M")).as_deref(), expanded, "{text}");
    }
    assert_eq!(expand("%m", None), None);
}

#[test]
fn whose_rule_it_is() {
    let own = File { package: 1, for_all: false, ..file("usr/lib/tmpfiles.d/x.conf", "z /usr/tool 2755 root utmp\n") };
    let rules = rules(&[own]);
    let before = State { mode: 0o755, ..State::default() };
    let gid = |package| rules.results(package, "usr/tool", Kind::File, &before)[0].gid;
    assert_eq!((gid(0), gid(1)), (0, 997));
}

#[test]
fn hostile_rules_are_only_text() {
    let many = "{a,b}".repeat(60);
    for line in [
        "z".to_owned(),
        "\u{1b}[2J".into(),
        "z \"/srv/a".into(),
        "z /srv/a\\".into(),
        "z /srv/%".into(),
        "z /srv/a 0755 root root - %".into(),
        format!("z /{many} 0777"),
        format!("z /srv/{} 0777", "*".repeat(5000)),
        format!("z /srv/{}{{ 0777", "}".repeat(5000)),
        "a /srv/a - - - - :::::,,,".into(),
    ] {
        let rules = rules(&[file("usr/lib/tmpfiles.d/x.conf", &line)]);
        let before = State::default();
        drop(rules.results(0, "srv/a/b", Kind::Directory, &before));
    }
}
