//! The built program: what it prints, what it makes, and what it leaves as it was.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};
use strapline_tests::ground::Ground;
use strapline_tests::lab::{SUBIDS, UID};

const MKROOT: &str = env!("CARGO_BIN_EXE_mkroot");

fn ground() -> Ground {
    Ground::new(MKROOT, false)
}

fn users_ground() -> Ground {
    Ground::new(MKROOT, true)
}

/// This host's architecture, and one that it has to emulate, in pacman's words.
fn arches() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("aarch64", "riscv64"),
        _ => ("x86_64", "aarch64"),
    }
}

/// Everything below a directory: path, mode with the file's kind, owner.
fn tree(dir: &Path) -> Vec<(String, u32, u32, u32)> {
    fn walk(top: &Path, at: &Path, into: &mut Vec<(String, u32, u32, u32)>) {
        let meta = at.symlink_metadata().unwrap();
        let path = at.strip_prefix(top).unwrap().display().to_string();
        into.push((path, meta.mode(), meta.uid(), meta.gid()));
        if meta.is_dir() {
            for entry in fs::read_dir(at).unwrap() {
                walk(top, &entry.unwrap().path(), into);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

/// The skeleton as Arch's `filesystem` has it.
fn skeleton(owner: u32) -> Vec<(String, u32, u32, u32)> {
    [
        ("", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("etc/pacman.d", 0o755),
        ("proc", 0o555),
        ("root", 0o750),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("var/cache", 0o755),
        ("var/cache/pacman", 0o755),
        ("var/cache/pacman/pkg", 0o755),
        ("var/lib", 0o755),
        ("var/lib/pacman", 0o755),
        ("var/log", 0o755),
        ("var/tmp", 0o1777),
    ]
    .map(|(path, mode)| (path.to_owned(), 0o040_000 | mode, owner, owner))
    .to_vec()
}

/// The document without its steps, and the names of those.
fn without_steps(mut document: Value) -> (Value, Vec<String>) {
    let steps = document.as_object_mut().unwrap().remove("steps").unwrap();
    let names = steps.as_array().unwrap().iter();
    let names = names.map(|s| s["tool"].as_str().unwrap().to_owned());
    (document, names.collect())
}

fn plan(rootless: bool) -> Value {
    let sys = if rootless {
        json!({"at": "sys", "type": "rbind", "source": "/sys", "options": ["nosuid", "noexec", "nodev", "ro"]})
    } else {
        json!({"at": "sys", "type": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]})
    };
    json!([
        {"at": "proc", "type": "proc", "options": ["nosuid", "noexec", "nodev"]},
        sys,
        {"at": "dev", "type": "tmpfs", "options": ["nosuid", "noexec", "mode=0755"],
            "nodes": ["null", "zero", "full", "random", "urandom", "tty"]},
        {"at": "dev/pts", "type": "devpts",
            "options": ["nosuid", "noexec", "mode=0620", "gid=5", "ptmxmode=0666"]},
        {"at": "dev/shm", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
        {"at": "run", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=0755"]},
        {"at": "tmp", "type": "tmpfs", "options": ["nosuid", "nodev", "strictatime", "mode=1777"]}
    ])
}

// -- The skeleton and the document ------------------------------------------------------------------------------------

#[test]
fn the_modes_are_archs_whatever_the_umask() {
    for (ground, owner) in [(ground(), 0), (users_ground(), UID)] {
        for umask in ["000", "077"] {
            let root = format!("root-{umask}");
            ground.sh(&format!("umask {umask}; mkroot --new {root}")).done();
            assert_eq!(tree(&ground.path(&root)), skeleton(owner), "umask {umask}");
        }
    }
}

#[test]
fn the_document_says_what_is_planned() {
    let (native, foreign) = arches();
    for (ground, rootless) in [(ground(), false), (users_ground(), true)] {
        for arch in [native, foreign] {
            let document = ground.mkroot(&format!("--arch {arch}"));
            let root = ground.path("root");
            let meta = fs::metadata(&root).unwrap();
            let (mut document, steps) = without_steps(document);
            assert_eq!(steps, ["mkroot"]);
            // What of these there is depends on the file system that the test is on.
            let id = document["root_id"].as_object_mut().unwrap();
            id.retain(|member, _| !["fs", "handle", "birth"].contains(&member.as_str()));
            let mut expected = json!({
                "strapline": 1,
                "root": root,
                "root_id": {"dev": meta.dev(), "ino": meta.ino()},
                "arch": arch,
                "mode": if rootless { "user" } else { "root" },
                "mounts": plan(rootless),
                "binfmt": {"kind": "native"},
            });
            let distro = match arch {
                "x86_64" => "archlinux",
                "aarch64" => "archlinuxarm",
                _ => "archriscv",
            };
            expected["distro"] = distro.into();
            if rootless {
                let map = json!([[0, UID, 1], [1, SUBIDS, 65_535]]);
                expected["idmap"] = json!({"uid": map, "gid": map});
            }
            if arch != native {
                let interpreter = &document["binfmt"]["interpreter"];
                let file = interpreter.as_str().expect("this test needs qemu-user-static");
                assert!(Path::new(file).is_file(), "{file}");
                expected["binfmt"] = json!({"kind": "private", "interpreter": interpreter, "flags": "OCPF"});
            }
            assert_eq!(document, expected);
        }
    }
}

#[test]
fn an_emulator_is_found_in_path_or_named() {
    let (native, foreign) = arches();
    for ground in [ground(), users_ground()] {
        let known = ground.mkroot(&format!("--arch {foreign}"))["binfmt"]["interpreter"].as_str().unwrap().to_owned();
        let qemu = format!("qemu-{foreign}-static");
        ground
            .sh(&format!(
                "mkdir elsewhere; cp {known} elsewhere/{qemu}; cp {known} mine; echo '#!/bin/sh' > text; mkroot --new x"
            ))
            .done();
        let file = |name: &str| ground.path(name).to_str().unwrap().to_owned();
        // The directories of PATH come first.
        let found = ground.sh(&format!("PATH=$PWD/elsewhere:$PATH mkroot --new root --arch {foreign}")).done();
        assert_eq!(found["binfmt"]["interpreter"], file(&format!("elsewhere/{qemu}")).as_str());
        let named = ground.mkroot(&format!("--arch {foreign} --emulator ./mine"));
        assert_eq!(named["binfmt"]["interpreter"], file("mine").as_str());
        assert_eq!(named["binfmt"]["kind"], "private");
        for (options, code, message) in [
            (
                format!("--arch {foreign} --emulator text"),
                "usage",
                "using the emulator 'text': it is not a statically linked program".to_owned(),
            ),
            (
                format!("--arch {foreign} --emulator none"),
                "not-found",
                "using the emulator 'none': No such file or directory (os error 2)".to_owned(),
            ),
            (
                format!("--arch {native} --emulator mine"),
                "usage",
                format!("using the emulator 'mine': this host runs programs of {native} itself"),
            ),
        ] {
            let ran = ground.sh(&format!("mkroot --new other {options}"));
            let error = ran.document()["error"].clone();
            assert_eq!((&error["code"], &error["message"]), (&code.into(), &message.into()));
            assert!(!ground.path("other").exists(), "{options}");
        }
    }
}

#[test]
fn a_second_run_changes_nothing() {
    for ground in [ground(), users_ground()] {
        let (first, _) = without_steps(ground.mkroot(""));
        let before = tree(&ground.path("root"));
        let again = ground.sh("mkroot --state root.json root").done();
        let (again, steps) = without_steps(again);
        assert_eq!(steps, ["mkroot", "mkroot"]);
        assert_eq!(again, first);
        let (anew, _) = without_steps(ground.mkroot(""));
        assert_eq!(anew, first);
        assert_eq!(tree(&ground.path("root")), before);
    }
}

#[test]
fn what_others_put_into_the_document_stays() {
    let ground = ground();
    let input = r#"{"strapline":1,"org.example":{"a":[1]},"binfmt":{"org.x":2,"kind":"private","flags":"OCPF"},"idmap":{"uid":[],"gid":[]}}"#;
    let document = ground.run(MKROOT, &["root"], input).done();
    assert_eq!(document["org.example"], json!({"a": [1]}));
    assert_eq!(document["binfmt"], json!({"org.x": 2, "kind": "native"}));
    assert_eq!(document.get("idmap"), None, "root has none");
}

#[test]
fn an_empty_directory_of_somebody_else_becomes_the_roots() {
    let ground = ground();
    fs::create_dir(ground.path("root")).unwrap();
    chown(ground.path("root"), Some(1234), Some(1234)).unwrap();
    ground.mkroot("");
    assert_eq!(tree(&ground.path("root")), skeleton(0));
}

#[test]
fn what_packages_made_of_the_skeleton_stays() {
    let ground = ground();
    ground.mkroot("");
    let changed = ground.sh("mkdir root/var/lib/pacman/local; chmod 711 root/root; chown 7:8 root/var/log");
    assert_eq!(changed.status, 0);
    let before = tree(&ground.path("root"));
    ground.mkroot("");
    assert_eq!(tree(&ground.path("root")), before);
}

// -- What is refused --------------------------------------------------------------------------------------------------

#[test]
fn what_cannot_be_a_root_is_refused_and_left_alone() {
    let ground = ground();
    let at = |below: &str| ground.at(below);
    let out = ground.sh("mkdir full; touch full/x file; ln -s full link");
    assert_eq!(out.status, 0);
    let full = format!("making '{}': it is not empty and not a root", at("full"));
    let file = format!("making '{}': it exists and is not a directory", at("file"));
    let choose = "choose a new or an empty directory";
    for (dir, status, code, lines) in [
        ("/", 64, "usage", &["making '/': it is the host's own root"][..]),
        (
            "no/such",
            69,
            "not-found",
            &[
                "making 'no/such': its parent 'no': No such file or directory (os error 2)",
                "make it with 'mkdir -p no'",
            ],
        ),
        ("full", 69, "failed", &[&full, choose]),
        ("link", 69, "failed", &[&full, choose]),
        ("file", 69, "failed", &[&file, choose]),
    ] {
        ground.run(MKROOT, &["--new", dir], "").refused("mkroot", status, code, lines);
    }
    let left = ground.sh("find . -mindepth 1 | sort").stdout;
    assert_eq!(left, "./file\n./full\n./full/x\n./link\n");
}

#[test]
fn a_link_in_the_skeletons_place_is_not_followed() {
    let ground = ground();
    ground.mkroot("");
    let out = ground.sh("mkdir outside; rmdir root/proc; ln -s ../outside root/proc; chmod 700 outside");
    assert_eq!(out.status, 0);
    let at = ground.at("root/proc");
    ground.run(MKROOT, &["--new", "root"], "").refused(
        "mkroot",
        69,
        "failed",
        &[&format!("making '{at}': it is a symbolic link or a file"), "remove it, or choose another directory"],
    );
    assert_eq!(fs::metadata(ground.path("outside")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn senseless_arguments_are_refused_first() {
    let ground = ground();
    let bind = |what: &str, why: &str| format!("reading '--bind {what}': {why}");
    let dots = "the path is absolute where it must not be, or has '.', '..' or '//'";
    let itself = "AT is the root itself: mount it yourself, and give its mount point as DIR";
    let losetup = "attach an image to one with 'losetup --find --show FILE'";
    let arches = "one of x86_64, x86_64_v3, aarch64, armv7h, armv6h, i686, pentium4, i486, riscv64, loong64";
    let cases: &[(&[&str], Vec<String>)] = &[
        (&["--bind", "x"], vec![bind("x", "not of the form SRC:AT")]),
        (&["--bind", "/etc:../x"], vec![bind("/etc:../x", dots)]),
        (&["--bind", "/etc:a/../../x"], vec![bind("/etc:a/../../x", dots)]),
        (&["--bind", "/etc:a//x"], vec![bind("/etc:a//x", dots)]),
        (&["--bind", "/etc:/"], vec![bind("/etc:/", itself)]),
        (&["--bind", "/etc:"], vec![bind("/etc:", itself)]),
        (&["--bind", "/no/such:x"], vec![bind("/no/such:x", "'/no/such': No such file or directory (os error 2)")]),
        (&["--device", "x"], vec!["reading '--device x': not of the form DEV:AT[:FSTYPE[:OPTIONS]]".into()]),
        (
            &["--device", "/no/such:boot"],
            vec!["reading '--device /no/such:boot': '/no/such': No such file or directory (os error 2)".into()],
        ),
        (
            &["--device", "/dev/null:boot"],
            vec!["reading '--device /dev/null:boot': not a block device".into(), losetup.into()],
        ),
        (
            &["--device", "/etc/passwd:boot"],
            vec!["reading '--device /etc/passwd:boot': not a block device".into(), losetup.into()],
        ),
        (&["--arch", "sparc"], vec!["unknown architecture 'sparc'".into(), arches.into()]),
        (
            &["--distro", "archlinux", "--arch", "riscv64"],
            vec!["Arch Linux has no architecture 'riscv64'".into(), "it has x86_64".into()],
        ),
    ];
    for (args, lines) in cases {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        ground.run(MKROOT, &[&["--new", "root"], *args].concat(), "").refused("mkroot", 64, "usage", &lines);
        assert!(!ground.path("root").exists(), "{args:?}");
    }
    let other = format!("making '{}': the document's root is '/elsewhere'", ground.at("root"));
    ground.run(MKROOT, &["root"], r#"{"strapline":1,"root":"/elsewhere"}"#).refused("mkroot", 64, "usage", &[&other]);
    assert!(!ground.path("root").exists());
}

#[test]
fn what_only_root_may_do_is_refused_to_a_user() {
    let ground = users_ground();
    for (args, doing, flag) in [
        (&["--host"][..], "mounting", "--host"),
        (&["--device", "/dev/loop0:boot"], "mounting", "--device"),
        (&["--chroot"], "changing the root directory", "--chroot"),
    ] {
        ground.run(MKROOT, &[&["--new", "root"], args].concat(), "").refused(
            "mkroot",
            77,
            "permission",
            &[&format!("{doing} for {flag}: only root can do that"), &format!("use sudo, or leave {flag} out")],
        );
    }
    assert!(!ground.path("root").exists());
}

#[test]
fn a_user_without_subordinate_ids_is_refused_with_the_cure() {
    let ground = users_ground();
    fs::write(ground.path(".etc/subuid"), "strapper:1900000000:1000\n").unwrap();
    ground.run(MKROOT, &["--new", "root"], "").refused(
        "mkroot",
        77,
        "permission",
        &[
            "looking for subordinate ids of 'strapper' in '/etc/subuid': no range of 65535 or more, without which the \
             owners of files would be wrong",
            "run 'sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 strapper', or run the pipeline as root",

        ],
    );
    assert!(!ground.path("root").exists());
}

// -- Undo -------------------------------------------------------------------------------------------------------------

#[test]
fn a_document_that_cannot_be_handed_on_undoes_the_root() {
    let full = "mkroot: writing the document on stdout: No space left on device (os error 28)\n";
    for ground in [ground(), users_ground()] {
        let ran = ground.sh("mkdir source; mkroot --new root --bind source:srv/a/b >/dev/full");
        assert_eq!((ran.status, ran.stderr.as_str()), (74, full));
        assert!(!ground.path("root").exists());
        // A directory that was there stays, as empty as it was; and a root that was there stays whole.
        let ran = ground.sh("mkdir root; mkroot --new root >/dev/full");
        assert_eq!((ran.status, ran.stderr.as_str()), (74, full));
        assert_eq!(ground.sh("ls -A root").stdout, "");
        ground.mkroot("");
        let before = tree(&ground.path("root"));
        let ran = ground.sh("mkroot --new root >/dev/full");
        assert_eq!((ran.status, ran.stderr.as_str()), (74, full));
        assert_eq!(tree(&ground.path("root")), before);
    }
}

// -- Trees ------------------------------------------------------------------------------------------------------------

/// Makes a tree, with a list of owners.
const TREE: &str = "mkdir -p t/etc/new t/srv; echo x > t/etc/new/file; ln -s /dev/null t/srv/link; printf '#!/bin/sh\n' > t/srv/run; \
                    chmod 700 t/srv/run; echo 'z /etc/new/file 0600 7 8' > t.owners; ";

#[test]
fn a_tree_is_laid_with_owners_for_anybody() {
    for (ground, owners) in [(ground(), [0, 7, 8]), (users_ground(), [UID, SUBIDS + 6, SUBIDS + 7])] {
        ground.sh(TREE);
        let document = ground.mkroot("--tree t");
        let made =
            ground.sh("cd root; stat -c '%n %a %u %g' etc/new etc/new/file srv srv/run; readlink srv/link").stdout;
        let [root, user, group] = owners;
        assert_eq!(
            made,
            format!(
                "etc/new 755 {root} {root}\netc/new/file 600 {user} {group}\nsrv 755 {root} {root}\nsrv/run 755 {root} {root}\n/dev/null\n"
            )
        );
        let tree = document["tree"].as_array().unwrap();
        let paths: Vec<_> = tree.iter().map(|file| file["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["etc", "etc/new", "etc/new/file", "srv", "srv/link", "srv/run"]);
        let file = json!({"path": "etc/new/file", "type": "file", "mode": "0600", "uid": 7, "gid": 8, "size": 2, "from": "t", "tool": "mkroot",
            "sha256": "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"});
        assert_eq!(tree[2], file);
        // Again, and with a link in the way, which leads out.
        let before = self::tree(&ground.path("root"));
        assert_eq!(ground.mkroot("--tree t")["tree"], document["tree"]);
        assert_eq!(self::tree(&ground.path("root")), before);
        ground.sh("mkdir -p out; mv root/srv out; ln -s ../out/srv root/srv; rm out/srv/run");
        let ran = ground.sh("mkroot --new root --tree t");
        let at = ground.at("root/srv");
        let why = "it is, or is behind, a symbolic link of the root, which is not followed";
        ran.refused(
            "mkroot",
            69,
            "failed",
            &[
                &format!("laying the tree 't': '{at}': {why}"),
                "put it where that link leads, as in 'usr/bin' and not in 'bin'",
            ],
        );
        assert!(!ground.path("out/srv/run").exists());
        ground.nothing_is_left();
    }
}

#[test]
fn a_tree_that_cannot_be_laid_is_refused_first() {
    for ground in [ground(), users_ground()] {
        for (script, status, code, line) in [
            ("mkdir -p t/run/x", 64, "usage", "'run/x': 'run' is a mount of the plan"),
            ("mkdir -p t/etc; echo > t/etc/shadow", 64, "usage", "'etc/shadow': packages add users to it"),
            ("mkdir t; mkfifo t/x", 64, "usage", "'x': it is a device, a fifo or a socket"),
            ("mkdir t; echo x > t.owners", 64, "usage", "line 1: not of the form"),
            ("mkdir -p t/x; echo 'z /x - ann -' > t.owners", 69, "not-found", "the root has no user 'ann'"),
            ("true", 69, "not-found", "reading the tree 't': No such file"),
            ("mkdir t; echo > t/etc", 69, "failed", "'etc': it is a directory in the root"),
        ] {
            let ran = ground.sh(&format!("rm -rf t t.owners; {script}; mkroot --new root --tree t"));
            assert_eq!((ran.status, ran.document()["error"]["code"].as_str()), (status, Some(code)), "{}", ran.stderr);
            assert!(ran.stderr.contains(line.trim_start_matches("'etc'")), "{line}: {}", ran.stderr);
            assert!(!ground.path("root").exists(), "{line}");
        }
    }
}

#[test]
fn a_tree_is_undone_with_the_root() {
    for ground in [ground(), users_ground()] {
        ground.sh(TREE);
        let ran = ground.sh("mkroot --new root --tree t >/dev/full");
        assert_eq!(ran.status, 74, "{}", ran.stderr);
        assert!(!ground.path("root").exists(), "{}", ground.sh("find root").stdout);
        // What an earlier run laid stays.
        ground.mkroot("--tree t");
        let before = tree(&ground.path("root"));
        assert_eq!(ground.sh("mkroot --new root --tree t >/dev/full").status, 74);
        assert_eq!(tree(&ground.path("root")), before);
        // What nobody could put back is not replaced.
        let theirs = ground.sh("f=root/srv/run; echo theirs >$f; mkroot --new root --tree t; s=$?; cat $f; exit $s");
        assert_eq!(theirs.status, 69, "{}", theirs.stderr);
        assert!(theirs.stderr.contains("another file is there, which no tree brought"), "{}", theirs.stderr);
        assert!(theirs.stdout.ends_with("theirs\n"), "{}", theirs.stdout);
    }
}

// -- Binds and devices ------------------------------------------------------------------------------------------------

#[test]
fn binds_come_last_and_their_places_are_made() {
    for ground in [ground(), users_ground()] {
        let out = ground.sh("mkdir source; echo 1 >source/file; ln -s source link");
        assert_eq!(out.status, 0);
        let document = ground.mkroot("--bind link:/srv/a/b/ --bind source/file:srv/c --bind source:tmp/d");
        let mounts = document["mounts"].as_array().unwrap();
        let source = ground.at("source");
        assert_eq!(
            mounts[7..],
            [
                json!({"at": "srv/a/b", "type": "rbind", "source": source}),
                json!({"at": "srv/c", "type": "bind", "source": format!("{source}/file")}),
                json!({"at": "tmp/d", "type": "rbind", "source": source}),
            ]
        );
        let made = ground.sh("cd root; stat -c '%A %n' srv srv/a srv/a/b srv/c").stdout;
        assert_eq!(made, "drwxr-xr-x srv\ndrwxr-xr-x srv/a\ndrwxr-xr-x srv/a/b\n-rw-r--r-- srv/c\n");
        assert!(!ground.path("root/tmp/d").exists(), "that one is on the tmpfs");
        ground.furnish(&["cat"]);
        ground.beside("enter");
        let ran = ground.sh("enter --state root.json -- cat /srv/a/b/file /srv/c /tmp/d/file");
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "1\n1\n1\n"), "{ran:?}");
        ground.nothing_is_left();
    }
}

#[test]
fn a_bind_on_a_link_of_the_root_is_refused() {
    let ground = ground();
    ground.mkroot("");
    symlink("/etc", ground.path("root/srv")).unwrap();
    let (root, at) = (ground.at("root"), ground.at("root/srv"));
    ground.run(MKROOT, &["--new", "root", "--bind", "/var:srv"], "").refused(
        "mkroot",
        69,
        "failed",
        &[
            &format!(
                "entering '{root}': mounting '/var' (rbind) on '{at}': a part of the path is not a directory, but \
                     a symbolic link or a file"
            ),
            "look at what the root has there, and remove it if it does not belong there",
        ],
    );
    let too_many = "Too many levels of symbolic links (os error 40)";
    ground.run(MKROOT, &["--new", "root", "--bind", "/var:srv/x"], "").refused(
        "mkroot",
        69,
        "failed",
        &[&format!("making the mount point '{at}/x': {too_many}")],
    );
    ground.nothing_is_left();
}

/// A loop device of ours. It is detached when this goes.
struct Loop(String);

impl Loop {
    fn on(ground: &Ground, image: &str) -> Self {
        let ran = ground.run("/sbin/losetup", &["--find", "--show", image], "");
        assert_eq!(ran.status, 0, "this test needs loop devices: {ran:?}");
        Self(ran.stdout.trim().to_owned())
    }

    fn is_attached(&self) -> bool {
        let name = self.0.rsplit('/').next().unwrap();
        Path::new("/sys/block").join(name).join("loop/backing_file").exists()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("/sbin/losetup").args(["--detach", &self.0]).status();
        if !std::thread::panicking() {
            assert!(detached.unwrap().success());
            assert!(!self.is_attached(), "{} is still in use", self.0);
        }
    }
}

#[test]
fn a_device_is_mounted_and_free_afterwards() {
    let ground = ground();
    ground.beside("enter");
    let made = ground.sh("mkdir files; echo hello >files/hello
         truncate -s 4M image blank && mkfs.ext4 -q -d files image");
    assert_eq!(made.status, 0, "{made:?}");
    {
        let (device, blank) = (Loop::on(&ground, "image"), Loop::on(&ground, "blank"));
        let document = ground.mkroot(&format!("--device {}:boot", device.0));
        assert_eq!(document["mounts"][7], json!({"at": "boot", "type": "ext4", "source": device.0}));
        ground.furnish(&["cat", "sync"]);
        let ran = ground.sh("enter --state root.json -- sh -c 'cat /boot/hello; echo back >/boot/back'");
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "hello\n"), "{ran:?}");
        assert!(!ground.path("root/boot/hello").exists());
        ground.nothing_is_left();
        // The kind and the options as they are given; what is mounted read-only cannot be written.
        let document = ground.mkroot(&format!("--device {}:boot:ext4:ro,noatime", device.0));
        assert_eq!(document["mounts"][7]["options"], json!(["ro", "noatime"]));
        let ran = ground.sh("enter --state root.json -- sh -c 'cat /boot/back; echo no >/boot/no'");
        assert_eq!((ran.status, ran.stdout.as_str()), (2, "back\n"), "{ran:?}");
        assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
        ground.nothing_is_left();
        ground.run(MKROOT, &["--new", "other", "--device", &format!("{}:boot", blank.0)], "").refused(
            "mkroot",
            69,
            "failed",
            &[&format!("looking for a file system on '{}': none found", blank.0), "give it: --device DEV:AT:FSTYPE"],
        );
        assert!(!ground.path("other").exists());
        // A file system that is not the one: the mount fails where mkroot tries the plan, and nothing stays.
        let ran = ground.run(MKROOT, &["--new", "other", "--device", &format!("{}:boot:ext4", blank.0)], "");
        assert_eq!(ran.status, 71, "{ran:?}");
        assert!(
            ran.stderr.contains(&format!("mounting '{}' (ext4) on '{}'", blank.0, ground.at("other/boot"))),
            "{ran:?}"
        );
        assert!(!ground.path("other").exists());
    }
    let attached = ground.sh("losetup --associated image; losetup --associated blank").stdout;
    assert_eq!(attached, "");
}

// -- Mounts on the host -----------------------------------------------------------------------------------------------

#[test]
fn mounts_on_the_host_are_made_once() {
    let out = run(r#"
        cp /proc/self/mountinfo before
        "$mkroot" --new root --host >first.json
        cut -d' ' -f5 /proc/self/mountinfo | grep "^$PWD/root" >mounts
        cp /proc/self/mountinfo mounted
        "$mkroot" --state first.json root --host >second.json
        "$mkroot" --new root --host >third.json
        cmp mounted /proc/self/mountinfo
        umount root/tmp
        cp /proc/self/mountinfo half
        status=0; "$mkroot" --new root --host >half.json 2>half.err || status=$?
        test $status = 75
        cmp half /proc/self/mountinfo
        umount --recursive root
        cmp before /proc/self/mountinfo
        cat first.json second.json third.json half.json
        echo "$PWD"; cat mounts half.err
    "#);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines = text.lines();
    let mut document = || serde_json::from_str::<Value>(lines.next().unwrap()).unwrap();
    let (first, second, third, half) = (document(), document(), document(), document());
    let dir = lines.next().unwrap();
    let rest: Vec<_> = lines.collect();
    let root = format!("{dir}/root");
    let nodes = ["null", "zero", "full", "random", "urandom", "tty"].map(|n| format!("/dev/{n}"));
    let mut expected = vec![root.clone()];
    for at in ["proc", "sys", "dev"] {
        expected.push(format!("{root}/{at}"));
    }
    expected.extend(nodes.iter().map(|n| format!("{root}{n}")));
    for at in ["dev/pts", "dev/shm", "run", "tmp"] {
        expected.push(format!("{root}/{at}"));
    }
    assert_eq!(rest[..expected.len()], expected);
    assert_eq!(
        rest[expected.len()..],
        [
            format!("mkroot: mounting below '{root}': 6 of 7 are mounted"),
            format!("mkroot: hint: take them down with 'unmount {root}' first"),
        ]
    );
    assert_eq!(half["error"]["code"], "busy");
    assert_eq!(first["mode"], "host");
    let live = &first["host"];
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(live["boot_id"], boot_id.trim());
    let mounts = live["mounts"].as_array().unwrap();
    let at: Vec<_> = mounts.iter().map(|m| m["at"].as_str().unwrap()).collect();
    assert_eq!(at, ["", "proc", "sys", "dev", "dev/pts", "dev/shm", "run", "tmp"]);
    let mut ids: Vec<u64> = mounts.iter().map(|m| m["id"].as_str().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "each mount has an id of its own");
    assert_eq!(&second["host"], live);
    assert_eq!(third.get("host"), None, "what another run mounted is not its own");
}

/// Runs a script as root in a new mount namespace, in an empty directory; `$mkroot` is the program.
fn run(script: &str) -> Output {
    let ground = tempfile::tempdir().unwrap();
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .env("mkroot", env!("CARGO_BIN_EXE_mkroot"))
        .current_dir(ground.path())
        .output()
        .unwrap()
}

#[test]
fn undoing_leaves_what_the_user_mounted_at_the_root() {
    let out = run(r#"
        mkdir root
        for propagation in private shared; do
            mount -t tmpfs users root; mount --make-$propagation root
            cp /proc/self/mountinfo before
            status=0; "$mkroot" --new root --host > /dev/full 2> /dev/null || status=$?
            test $status = 74
            cmp before /proc/self/mountinfo
            test -z "$(ls -A root)"
            "$mkroot" --new root --host > /dev/null
            test "$(grep -c " $PWD/root/proc " /proc/self/mountinfo)" = 1
            umount --recursive --lazy root; umount --recursive --lazy root
        done
    "#);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn in_a_chroot_the_mounts_are_made_in_the_chroot() {
    let out = run(r#"
        mkdir jail root
        mount --rbind / jail; mount --make-rprivate jail
        chroot jail sh -ec 'cd "$1"; "$mkroot" --new root --host > /dev/null' sh "$PWD"
        grep -q " $PWD/jail$PWD/root/proc " /proc/self/mountinfo
        ! grep " $PWD/root/proc " /proc/self/mountinfo >&2
    "#);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_failed_mount_point_leaves_none_of_the_others() {
    let out = run(r#"
        mkdir root source; ln -s /nowhere root/opt; mkdir -p root/var/lib/pacman
        find root | sort > before
        status=0
        "$mkroot" --new root --bind source:srv/a/b --bind source:srv/x/y --bind source:opt/z > failed.json || status=$?
        test $status = 69
        find root | sort > after
        cmp before after
    "#);
    assert!(out.status.success(), "{out:?}");
}

/// What only a preset knows is run as its machine's; and what the processor lacks is named.
#[test]
fn an_architecture_is_the_presets_to_define() {
    let (native, _) = arches();
    for ground in [ground(), users_ground()] {
        let preset = |cpu: &str| {
            let text = format!(
                "name = \"mine\"\ntitle = \"Mine\"\n[arch.super_v9]\nmachine = \"{native}\"\ncpu = [{cpu}]\n\
                 servers = [\"http://h/\"]\nrepos = [\"core\"]\n[arch.unknown_v9]\nservers = [\"http://h/\"]\nrepos = [\"core\"]\n"
            );
            format!("printf '%s' '{text}' > mine.toml; mkroot --new root --distro ./mine.toml --arch ")
        };
        let document = ground.sh(&format!("{}super_v9", preset(""))).done();
        assert_eq!((&document["arch"], &document["machine"]), (&json!("super_v9"), &json!(native)));
        assert_eq!(document["binfmt"]["kind"], "native");
        let ran = ground.sh(&format!("{}super_v9", preset("\"warp_drive\"")));
        let warning = "mkroot: warning: this processor lacks warp_drive, which super_v9 needs: programs of the root may not run here\n";
        assert_eq!((ran.status, ran.stderr.as_str()), (0, warning));
        let ran = ground.sh(&format!("{}unknown_v9", preset("")));
        assert_eq!(ran.status, 64);
        assert!(ran.stderr.starts_with("mkroot: unknown architecture 'unknown_v9'\n"), "{}", ran.stderr);
        // Known names need no machine in the document.
        assert_eq!(ground.mkroot("").get("machine"), None);
    }
}
