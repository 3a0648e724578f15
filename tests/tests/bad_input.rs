//! What a user, a host, a mirror or an attacker can get wrong: each time the exit status, the line, the document, and a
//! host that is as it was.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use strapline_tests::{Answer, Lab, Mirror, Ran, Request, Server, Who, lab, tier};

/// The pipe up to where packages come in.
const BEGIN: &str = "mkroot root --distro ./preset.toml | fetch-pacman --cache-dir fetched -o pacman \
                     | mkconf --cache-dir packages";

/// Packages that make a root in which a command runs.
const PACKAGES: &str = "filesystem bash coreutils";

/// Writes a preset that names this server and no other.
fn preset(lab: &Lab, url: &str) {
    let text = fs::read_to_string(Mirror::of("x86_64").preset()).expect("a preset");
    let text = text.replace("http://127.0.0.1:8765", url);
    fs::write(lab.path().join("preset.toml"), text).expect("our own directory");
}

/// Serves the mirror to a laboratory.
fn serve(lab: &Lab) -> Server {
    serve_lies(lab, |_| Answer::Serve)
}

fn serve_lies(lab: &Lab, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    let server = Server::lying(&Mirror::of("x86_64").www(), decide);
    preset(lab, server.url());
    server
}

/// Checks a failure: the exit status of its code, the line on stderr, the hint after it, and that the document says the
/// same. Returns the document.
#[track_caller]
fn failed(ran: &Ran, tool: &str, code: &str, message: &str, hint: &str) -> Value {
    let exit = match code {
        "usage" => 64,
        "bad-document" => 65,
        "failed" | "child-failed" | "not-verified" | "not-found" => 69,
        "os" => 71,
        "busy" | "network" => 75,
        "permission" => 77,
        _ => panic!("no code {code}"),
    };
    assert_eq!(ran.status, exit, "{}\n{}", ran.stderr, ran.stdout);
    let document = ran.document();
    let error = &document["error"];
    let said = ["tool", "code", "message"].map(|key| error[key].as_str().unwrap_or_default());
    assert_eq!(said, [tool, code, message], "{}", ran.stderr);
    assert_eq!(error["exit"], exit);
    assert_eq!(error["hint"].as_str().unwrap_or_default(), hint);
    let lines: Vec<_> = ran.stderr.lines().collect();
    let line = format!("{tool}: {message}");
    let at = lines.iter().position(|l| *l == line);
    let at = at.unwrap_or_else(|| panic!("no line «{line}» in:\n{}", ran.stderr));
    if !hint.is_empty() {
        assert_eq!(lines.get(at + 1), Some(&&*format!("{tool}: hint: {hint}")));
    }
    document
}

/// Returns the message and the hint of a failure, where not every word of them matters.
fn said(ran: &Ran) -> (String, String) {
    let error = &ran.document()["error"];
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (text("message"), text("hint"))
}

/// Runs cases at the same time: most of them wait for something.
fn at_once<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// What there is in a directory, and how: path, type and mode, owner, and when it was changed.
fn picture(dir: &Path) -> Vec<(PathBuf, u32, u32, i64)> {
    let mut picture = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory").flatten();
            left.extend(entries.map(|e| e.path()));
        }
        picture.push((path, meta.mode(), meta.uid(), meta.mtime_nsec()));
    }
    picture.sort();
    picture
}

// ---------------------------------------------------------------------------------------------------------------------
// Roots that are none, or that are traps.

#[test]
fn a_skeleton_that_leads_out_of_the_root() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    let outside = lab.path().join("outside");
    for below in ["pacman", "pts", "lib/pacman"] {
        fs::create_dir_all(outside.join(below)).expect("our own directory");
    }
    fs::write(outside.join("passwd"), "theirs").expect("our own directory");
    let untouched = picture(&outside);
    let mut number = 0;
    for place in [
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "root",
        "etc",
        "etc/pacman.d",
        "var/log",
        "var/cache",
        "var/cache/pacman/pkg",
        "var",
        "var/lib",
        "var/lib/pacman",
    ] {
        let up = "../".repeat(place.split('/').count());
        for what in ["relative", "absolute", "dangling", "root", "file", "fifo", "socket"] {
            number += 1;
            let root = lab.path().join(format!("root{number}"));
            let at = root.join(place);
            // A root that a pipeline began, as far as there is room for one.
            let parent = at.parent().expect("it has one");
            fs::create_dir_all(parent).expect("our own directory");
            if !"var/lib/pacman".starts_with(place) {
                fs::create_dir_all(root.join("var/lib/pacman")).expect("our own directory");
            }
            match what {
                "relative" => symlink(format!("{up}outside"), &at).expect("our own directory"),
                "absolute" => symlink(&outside, &at).expect("our own directory"),
                "dangling" => symlink(outside.join("new"), &at).expect("our own directory"),
                "root" => symlink("/", &at).expect("our own directory"),
                "file" => fs::write(&at, "").expect("our own directory"),
                "fifo" => nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).expect("a fifo"),
                _ => drop(UnixListener::bind(&at).expect("a socket")),
            }
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("our own");
            let before = picture(&root);
            for host in ["", "--host"] {
                let name = root.file_name().expect("a name").display();
                let ran = lab.sh(&format!("mkroot {name} {host} --distro ./preset.toml"));
                let (message, hint) = if "var/lib/pacman".starts_with(place) {
                    (
                        format!("making '{}': it is not empty and not a root", root.display()),
                        "choose a new or an empty directory",
                    )
                } else {
                    (
                        format!("making '{}': it is a symbolic link or a file", at.display()),
                        "remove it, or choose another directory",
                    )
                };
                let document = failed(&ran, "mkroot", "failed", &message, hint);
                assert_eq!(document.get("root"), None, "{document}");
                assert_eq!(picture(&outside), untouched, "{place} {what} {host}");
                let names = |p: &[(PathBuf, u32, u32, i64)]| p.iter().map(|e| (e.0.clone(), e.1)).collect::<Vec<_>>();
                assert_eq!(names(&picture(&root)), names(&before), "{place} {what} {host}");
                let mounts = lab::Host::look().mounts_below(lab.path());
                assert_eq!(mounts, Vec::<String>::new(), "{place} {what} {host}");
            }
        }
    }
}

#[test]
fn a_root_that_becomes_a_trap_later_is_not_entered() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    let outside = lab.path().join("outside");
    fs::create_dir_all(outside.join("pts")).expect("our own directory");
    let ran = lab.sh("mkroot root --distro ./preset.toml");
    fs::write(lab.path().join("root.json"), ran.succeeded().to_string()).expect("a file");
    let untouched = picture(&outside);
    for place in ["proc", "sys", "dev", "run", "tmp"] {
        let at = lab.path().join("root").join(place);
        fs::remove_dir(&at).expect("it is empty");
        symlink(&outside, &at).expect("our own directory");
        let ran = lab.sh("enter true < root.json");
        assert_eq!(ran.status, 69, "{ran:?}");
        let error = &ran.document()["error"];
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(&*format!("'{}'", at.display())), "{message}");
        assert_eq!(picture(&outside), untouched, "{place}");
        fs::remove_file(&at).expect("our own link");
        fs::create_dir(&at).expect("our own directory");
    }
}

#[test]
fn a_directory_that_can_be_no_root_is_refused() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    let here = lab.path().display().to_string();
    fs::create_dir(lab.path().join("home")).expect("our own directory");
    fs::write(lab.path().join("home/.bashrc"), "").expect("our own directory");
    fs::write(lab.path().join("file"), "").expect("our own directory");
    symlink("home", lab.path().join("link")).expect("our own directory");
    let before = picture(lab.path());
    let content = |name: &str| {
        (
            "failed",
            format!("making '{here}{name}': it is not empty and not a root"),
            "choose a new or an empty directory",
        )
    };
    for (dir, (code, message, hint)) in [
        ("/", ("usage", "making '/': it is the host's own root".to_owned(), "")),
        ("/proc/self/root", ("usage", "making '/proc/self/root': it is the host's own root".to_owned(), "")),
        ("../../..", ("usage", "making '../../..': it is the host's own root".to_owned(), "")),
        (
            "/usr",
            (
                "failed",
                "making '/usr': it is not empty and not a root".to_owned(),
                "choose a new or an empty directory",
            ),
        ),
        (".", content("")),
        ("home", content("/home")),
        ("link", content("/home")),
        ("home/..", content("")),
        (
            "file",
            (
                "failed",
                format!("making '{here}/file': it exists and is not a directory"),
                "choose a new or an empty directory",
            ),
        ),
        (
            "no/such/root",
            (
                "not-found",
                "making 'no/such/root': its parent 'no/such': No such file or directory (os error 2)".to_owned(),
                "make it with 'mkdir -p no/such'",
            ),
        ),
        ("file/root", ("not-found", "making 'file/root': its parent 'file': not a directory".to_owned(), "")),
        ("'a\nb'", ("usage", "making 'a\\nb': the path has a control character".to_owned(), "")),
        ("\"$(printf 'a\\377b')\"", ("usage", "making 'a\u{fffd}b': the path is not UTF-8".to_owned(), "")),
        ("''", ("usage", "a value is required for '<DIR>' but none was supplied".to_owned(), "see 'mkroot --help'")),
    ] {
        for host in ["", "--host"] {
            let ran = lab.sh(&format!("mkroot {dir} {host} --distro ./preset.toml"));
            let document = failed(&ran, "mkroot", code, &message, hint);
            assert_eq!(document.get("root"), None, "{document}");
        }
        // The directory itself is as it was, and nothing is new in it.
        assert_eq!(picture(lab.path()), before, "{dir}");
    }
}

#[test]
fn a_directory_where_nothing_can_run_is_refused() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    fs::create_dir(lab.path().join("m")).expect("our own directory");
    let mounted = |script: &str| {
        lab.sh(&format!("unshare --mount --propagation private sh -c 'mount -t tmpfs -o noexec t m; {script}'"))
    };
    for dir in ["m", "m/new"] {
        for host in ["", "--host"] {
            let ran = mounted(&format!(
                "mkroot {dir} {host} --distro ./preset.toml; status=$?; ls -A m >&2; ls -d m >/dev/null; exit $status"
            ));
            let message = format!(
                "looking at '{}': its file system is mounted noexec, so scriptlets could not run",
                lab.path().join(dir).display()
            );
            let hint = "choose another directory, or remount the file system with exec";
            failed(&ran, "mkroot", "failed", &message, hint);
            assert_eq!(ran.stderr.lines().count(), 2, "left in it: {}", ran.stderr);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Architectures and users.

#[test]
fn an_architecture_that_cannot_be_is_refused() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    for (arch, message, hint) in [
        ("z80", "unknown architecture 'z80'", "one of x86_64, "),
        ("../x", "unknown architecture '../x'", "one of x86_64, "),
        ("arm64", "unknown architecture 'arm64'", "did you mean 'aarch64'? one of x86_64, "),
        ("riscv64", "Arch Linux (test mirror) has no architecture 'riscv64'", "it has x86_64"),
    ] {
        let ran = lab.sh(&format!("mkroot root --arch {arch} --distro ./preset.toml"));
        let (_, whole) = said(&ran);
        assert!(whole.starts_with(hint), "{whole}");
        failed(&ran, "mkroot", "usage", message, &whole);
    }
    let ran = lab.sh("mkroot root --distro nosuch");
    let (_, hint) = said(&ran);
    assert!(hint.contains("archlinuxarm"), "{hint}");
    failed(&ran, "mkroot", "usage", "there is no preset 'nosuch'", &hint);
    assert!(!lab.path().join("root").exists());
}

#[test]
fn a_mistyped_option_on_a_terminal_is_two_lines() {
    let lab = Lab::new(Who::Root);
    let two = "mkroot: unexpected argument '--ach' found\nmkroot: hint: did you mean '--arch'? See 'mkroot --help'\n";
    let ran = lab.sh("TERM=dumb script -qec 'mkroot root --ach aarch64' /dev/null < /dev/null");
    assert_eq!((ran.status, ran.stdout.replace('\r', "")), (64, two.to_owned()), "{ran:?}");
    // In a pipe a document comes with them, for the stages behind.
    let ran = lab.sh("mkroot root --ach aarch64 | cat");
    assert_eq!(ran.stderr, two);
    assert!(ran.stdout.starts_with("{\"strapline\":1,\"error\":{\"tool\":\"mkroot\",\"code\":\"usage\","), "{ran:?}");
}

#[test]
fn a_foreign_architecture_without_an_emulator() {
    // One that this host has no handler of its own for: then only the emulators would do, and those are hidden.
    let handlers = "/proc/sys/fs/binfmt_misc";
    let (arch, qemu) = [("aarch64", "aarch64"), ("riscv64", "riscv64"), ("loong64", "loongarch64")]
        .into_iter()
        .find(|(_, qemu)| !Path::new(handlers).join(format!("qemu-{qemu}")).exists())
        .expect("a host without a handler for every architecture");
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        let hidden = format!(
            "for f in /usr/bin/qemu-{qemu} /usr/local/bin/qemu-{qemu}; do for f in $f $f-static; do \
               [ ! -e $f ] || mount --bind /dev/null $f; done; done"
        );
        let script = format!("mkdir there && mkroot there --arch {arch}; s=$?; mkroot new --arch {arch} >&2; exit $s");
        let ran = match who {
            Who::Root => lab.sh(&format!("unshare --mount --propagation private sh -c '{hidden}; {script}'")),
            // In a user namespace of its own it may not hide anything: so the emulators are hidden before it is entered.
            _ => {
                let command = lab.command("sh");
                let mut hide = std::process::Command::new("unshare");
                hide.args(["--mount", "--propagation", "private", "sh", "-c"]);
                hide.arg(format!("{hidden}; exec \"$@\"")).arg("sh");
                hide.arg(command.get_program()).args(command.get_args());
                hide.args(["-c", &script]).current_dir(lab.path());
                hide.env_clear();
                for (key, value) in std::env::vars_os() {
                    hide.env(key, value);
                }
                for (key, value) in command.get_envs() {
                    match value {
                        Some(value) => hide.env(key, value),
                        None => hide.env_remove(key),
                    };
                }
                lab::run(hide.stdin(std::process::Stdio::null()))
            }
        };
        let hint = format!(
            "install an emulator: 'sudo apt-get install qemu-user-static' (Debian 12, Ubuntu), 'sudo apt-get install \
             qemu-user' (Debian 13 and later); see 'doctor --arch {arch}'"
        );
        let message = format!("running a program of {arch} inside the root: Exec format error (os error 8)");
        failed(&ran, "mkroot", "failed", &message, &hint);
        assert!(!lab.path().join("new").exists(), "what was made is undone");
        let there = fs::read_dir(lab.path().join("there")).expect("it was there before");
        assert_eq!(there.count(), 0);
    }
}

#[test]
fn a_user_without_subordinate_ids_is_told_how_to_get_some() {
    let lab = Lab::new(Who::Poor);
    let ran = lab.sh("mkroot root --distro archlinux");
    failed(
        &ran,
        "mkroot",
        "permission",
        "looking for subordinate ids of 'strapper' in '/etc/subuid': no range of 65535 or more, without which the owners \
         of files would be wrong",
        "run 'sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 strapper', or run the pipeline as root",
    );
    assert!(!lab.path().join("root").exists());
    let ran = lab.sh("mkroot root --host");
    failed(&ran, "mkroot", "permission", "mounting for --host: only root can do that", "use sudo, or leave --host out");
    let ran = lab.sh("mkroot /usr/root");
    assert_eq!(ran.status, 77, "{ran:?}");
}

#[test]
fn the_root_of_another_user_is_not_entered() {
    for (maker, other, why, hint) in [
        (Who::User, Who::Root, "it is another user's root", "run this as the user that ran mkroot"),
        (
            Who::Root,
            Who::User,
            "it was made by root",
            "run this with sudo, too, and all tools after it: mkroot was run as root",
        ),
    ] {
        let (lab, stranger) = (Lab::new(maker), Lab::new(other));
        let _server = serve(&lab);
        let made = lab.sh(BEGIN);
        let _begun = made.succeeded();
        fs::write(stranger.path().join("begun.json"), &made.stdout).expect("a file");
        let before = picture(&lab.path().join("root"));
        for tool in ["keyring", "strap filesystem", "configure --hostname a", "enter true"] {
            let ran = stranger.sh(&format!("{tool} < begun.json"));
            let name = tool.split(' ').next().expect("a name");
            let message = format!("entering '{}/root': {why}", lab.path().display());
            failed(&ran, name, "permission", &message, hint);
        }
        assert_eq!(picture(&lab.path().join("root")), before);
    }
}

#[test]
fn sudo_on_the_first_tool_only_is_named() {
    let (lab, user) = (Lab::new(Who::Root), Lab::new(Who::User));
    let made = lab.sh("mkroot root --quiet --arch $(uname -m) --distro archlinux");
    drop(made.succeeded());
    fs::write(user.path().join("begun.json"), &made.stdout).expect("a file");
    let ran = user.sh("fetch-pacman --quiet --use /usr/bin/pacman < begun.json | mkconf");
    failed(
        &ran,
        "mkconf",
        "permission",
        &format!("entering '{}/root': it was made by root", lab.path().display()),
        "run this with sudo, too, and all tools after it: mkroot was run as root",
    );
}

#[test]
fn a_cache_of_root_is_refused_to_a_user() {
    let (lab, user) = (Lab::new(Who::Root), Lab::new(Who::User));
    let cache = lab.path().join("packages");
    fs::create_dir(&cache).expect("our own directory");
    let begin =
        "mkroot root --quiet --arch $(uname -m) --distro archlinux | fetch-pacman --quiet --use /usr/bin/pacman";
    let ran = user.sh(&format!("{begin} | mkconf --cache-dir {}", cache.display()));
    failed(
        &ran,
        "mkconf",
        "permission",
        &format!("writing in '{}': it belongs to user root, and we may not", cache.display()),
        "give a directory of your own with --cache-dir DIR",
    );
}

#[test]
fn messages_that_went_into_the_pipe_are_named() {
    let lab = Lab::new(Who::Root);
    let ran =
        lab.sh("{ mkroot root --arch $(uname -m) --distro archlinux; echo mkroot: warning >&2; } 2>&1 | enter true");
    failed(
        &ran,
        "enter",
        "bad-document",
        "reading the document on stdin: there are other lines beside the document",
        "leave '2>&1' out: messages are on stderr, and a pipe carries the document alone",
    );
}

#[test]
fn a_system_call_that_is_missing_is_named() {
    let lab = Lab::new(Who::Root);
    let made = lab.sh("mkroot root --quiet --arch $(uname -m) --distro archlinux");
    drop(made.succeeded());
    fs::write(lab.path().join("begun.json"), &made.stdout).expect("a file");
    for (call, version) in [("mount_setattr", "5.12"), ("fsopen", "5.2"), ("openat2", "5.6")] {
        let ran = lab.sh(&format!(
            "strace -f -qq -o /dev/null -e trace={call} -e inject={call}:error=ENOSYS configure --hostname x < begun.json"
        ));
        assert_eq!(ran.status, 71, "{call}: {}", ran.stderr);
        assert!(ran.stderr.contains("Function not implemented"), "{call}: {}", ran.stderr);
        let hint = format!("configure: hint: {call}(2) is missing, which Linux {version} has: use Linux 5.12 or later");
        assert!(ran.stderr.lines().any(|line| line.starts_with(&hint)), "{call}: {}", ran.stderr);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A document that is older than what it is about.

#[test]
fn a_root_that_was_replaced_or_removed_is_not_worked_on() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(BEGIN).succeeded();
    fs::write(lab.path().join("begun.json"), begun.to_string()).expect("a file");
    let here = lab.path().join("root");
    fs::rename(&here, lab.path().join("before")).expect("our own directory");
    let tools = [
        "mkconf --cache-dir packages",
        "keyring",
        "strap filesystem",
        "configure --hostname a",
        "enter true",
        "reap",
        "unmount",
    ];
    let opening = format!("opening the root '{}'", here.display());
    let not_found = format!("{opening}: No such file or directory (os error 2)");
    let another = format!("{opening}: it is an empty directory, and not the one that the document means");
    for (there, code, message) in [
        ("nothing", "not-found", &not_found),
        ("a directory", "failed", &another),
        ("a link", "failed", &format!("{opening}: a part of the path is a symbolic link")),
    ] {
        match there {
            "a directory" => fs::create_dir(&here).expect("our own directory"),
            "a link" => {
                fs::remove_dir(&here).expect("it is still empty");
                symlink("before", &here).expect("our own directory");
            }
            _ => {}
        }
        let before = picture(lab.path());
        for tool in tools {
            let ran = lab.sh(&format!("{tool} < begun.json"));
            let name = tool.split(' ').next().expect("a name");
            let after = failed(&ran, name, code, message, &said(&ran).1);
            assert_eq!(after["root_id"], begun["root_id"]);
            assert_eq!(after["pacman"], begun["pacman"]);
        }
        assert_eq!(picture(lab.path()), before, "{there}");
    }
}

#[test]
fn a_program_that_changed_since_it_was_fetched_is_not_run() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(&format!("{BEGIN} | keyring"));
    fs::write(lab.path().join("begun.json"), begun.succeeded().to_string()).expect("a file");
    let program = lab.path().join("pacman");
    let real = fs::read(&program).expect("a program");
    let (opening, meant) = (format!("'{}': ", program.display()), "it is not the program that the document means");
    for (content, code, why) in [
        // What runs would say so.
        (Some(&b"#!/bin/sh\ntouch ran; echo it ran >&2\n"[..]), "not-verified", meant),
        (Some(&[&real[..], b"\n"].concat()), "not-verified", meant),
        (Some(b""), "not-verified", meant),
        (None, "not-found", "No such file or directory (os error 2)"),
    ] {
        match content {
            Some(content) => fs::write(&program, content).expect("a file"),
            None => fs::remove_file(&program).expect("a file"),
        }
        for tool in ["keyring", "strap filesystem", "strap --loose filesystem"] {
            let ran = lab.sh(&format!("{tool} < begun.json"));
            let (message, hint) = said(&ran);
            assert!(message.contains(&format!("{opening}{why}")), "{message}");
            assert!(hint.contains("run fetch-pacman again"), "{hint}");
            let name = tool.split(' ').next().expect("a name");
            failed(&ran, name, code, &message, &hint);
        }
    }
    assert!(!lab.path().join("ran").exists() && !lab.path().join("root/usr").exists());
}

#[test]
fn what_strap_needs_is_asked_for_by_its_tool() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(BEGIN).succeeded();
    let strap = |document: &Value, options: &str| {
        fs::write(lab.path().join("now.json"), document.to_string()).expect("a file");
        lab.sh(&format!("strap {options} {PACKAGES} < now.json"))
    };
    for (member, tool) in [
        ("root", "mkroot"),
        ("mode", "mkroot"),
        ("mounts", "mkroot"),
        ("binfmt", "mkroot"),
        ("arch", "mkroot"),
        ("pacman", "fetch-pacman"),
        ("config", "mkconf"),
    ] {
        let mut document = begun.clone();
        document.as_object_mut().expect("an object").shift_remove(member);
        let message = format!("reading the document: it has no \"{member}\"");
        let hint = format!("put '{tool}' before this tool in the pipeline");
        failed(&strap(&document, ""), "strap", "bad-document", &message, &hint);
    }
    let root = lab.path().join("root");
    let message = format!(
        "looking for the keyring '{}.strapline/gnupg': there is none, so nothing can be verified",
        root.display()
    );
    let hint = "put 'keyring' before this tool";
    failed(&strap(&begun, ""), "strap", "not-verified", &message, hint);
    for (options, name) in [("", "strict"), ("--loose", "loose")] {
        let file = lab.path().join(format!("root.strapline/pacman-{name}.conf"));
        fs::remove_file(&file).expect("mkconf made it");
        let message = format!("reading '{}': No such file or directory (os error 2)", file.display());
        let ran = strap(&begun, options);
        failed(&ran, "strap", "not-found", &message, "write it again with mkconf");
    }
    assert!(!root.join("usr").exists() && !root.join("var/lib/pacman/sync").exists());
}

// ---------------------------------------------------------------------------------------------------------------------
// Roots that are packed.

#[test]
fn what_leads_out_of_a_root_is_packed_as_it_is() {
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        preset(&lab, "http://127.0.0.1:1");
        fs::write(lab.path().join("outside"), "theirs").expect("our own directory");
        let ran = lab.sh(
            "mkroot root --distro ./preset.toml > begun.json && cd root && ln -s /etc/machine-id etc/machine-id \
             && ln -s ../../outside etc/shadow && mkdir -p var/lib/dbus && mkfifo var/lib/dbus/machine-id \
             && ln -s / usr",
        );
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let ran = lab.sh("SOURCE_DATE_EPOCH=1 pack -o a.tar < begun.json");
        drop(ran.succeeded());
        let list = lab.sh("tar -tvf a.tar | sed 's/^\\(.\\)[^:]*:[0-9]* /\\1 /'").stdout;
        for line in [
            "l etc/machine-id -> /etc/machine-id",
            "l etc/shadow -> ../../outside",
            "l usr -> /",
            "p var/lib/dbus/machine-id",
        ] {
            assert!(list.lines().any(|l| l == line), "{line}: {list}");
        }
    }
}

#[test]
fn a_root_whose_keyring_leads_out_of_it_is_not_packed() {
    let lab = Lab::new(Who::Root);
    preset(&lab, "http://127.0.0.1:1");
    for (number, place, message) in [
        (1, "etc/pacman.d/gnupg", "looking for secret keys in "),
        (2, "etc/pacman.d", "looking for secret keys in "),
        (3, "var/lib/pacman", "opening "),
    ] {
        let root = format!("root{number}");
        drop(lab.sh(&format!("mkroot {root} --distro ./preset.toml > {root}.json; cat {root}.json")).succeeded());
        let ran = lab.sh(&format!("rm -rf {root}/{place} && mkdir -p out && ln -s $PWD/out {root}/{place}"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let ran = lab.sh(&format!("pack -o a.tar < {root}.json"));
        let (said, _) = said(&ran);
        assert!(said.contains(message) && said.contains(place), "{said}");
        assert!([69, 71].contains(&ran.status), "{}", ran.stderr);
        assert!(!lab.path().join("a.tar").exists());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Roots that become disks.

#[test]
fn a_boot_directory_that_leads_out_of_a_root() {
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        preset(&lab, "http://127.0.0.1:1");
        let outside = lab.path().join("outside");
        drop(lab.sh("mkdir outside && echo theirs > outside/Image && mkroot root --distro ./preset.toml > begun.json; cat begun.json").succeeded());
        let untouched = picture(&outside);
        let hint = "give a layout that mounts nothing there";
        for what in ["ln -s $PWD/outside", "ln -s ../outside", "ln -s /", "mkfifo", "touch"] {
            let ran = lab.sh(&format!("rm -rf root/boot && {what} root/boot"));
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            let ran = lab.sh("mkdisk -o disk.img --bootloader none < begun.json");
            let message = "putting '/boot' of the root on its own partition: it is not a directory";
            failed(&ran, "mkdisk", "failed", message, hint);
        }
        // Below it, links are refused as what they are, and the loader's files are not written through them.
        let refuse = |script: &str, message: &str| {
            let ran =
                lab.sh(&format!("rm -rf root/boot && mkdir root/boot && echo k > root/boot/vmlinuz-linux && echo i > root/boot/initramfs-linux.img && {script}"));
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            let ran = lab.sh("mkdisk -o disk.img --bootloader extlinux < begun.json");
            assert_eq!(ran.status, 69, "{}", ran.stderr);
            assert!(said(&ran).0.contains(message), "{}", ran.stderr);
        };
        refuse(
            "ln -s $PWD/outside root/boot/extlinux",
            "adding '/boot/extlinux' to the root: a file of another type has that name",
        );
        refuse("ln -s $PWD/outside/Image root/boot/x", "adding '/boot/x' to a FAT file system: it is a symbolic link");
        refuse(
            "mkdir -p root/boot/extlinux/extlinux.conf",
            "adding '/boot/extlinux/extlinux.conf' to the root: a file of another type has that name",
        );
        assert_eq!(picture(&outside), untouched);
        assert!(!lab.path().join("disk.img").exists());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Package names.

#[test]
fn a_package_that_is_an_option_or_nowhere_is_refused() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(&format!("{BEGIN} | keyring"));
    fs::write(lab.path().join("begun.json"), begun.succeeded().to_string()).expect("a file");
    let see = "see 'strap --help'";
    for (words, message, hint) in [
        ("--root=/", "unexpected argument '--root' found", see),
        ("bash --overwrite", "a value is required for '--overwrite <GLOB>' but none was supplied", see),
        ("bash --dbonly", "unexpected argument '--dbonly' found", see),
        ("-Syu", "unexpected argument '-S' found", see),
        ("-- -Syu", "installing '-Syu': invalid package name", ""),
        ("bash -- --root=/", "installing '--root=/': invalid package name", ""),
        ("''", "installing '': invalid package name", ""),
        ("'$(id)'", "installing '$(id)': invalid package name", ""),
        ("'bash\nnano'", "installing 'bash\\nnano': invalid package name", ""),
        ("--no-refresh", "--no-refresh upgrades only what is named, and no package is", ""),
    ] {
        let ran = lab.sh(&format!("strap {words} < begun.json"));
        let document = failed(&ran, "strap", "usage", message, hint);
        assert!(document["root"].is_string());
    }
    assert!(!lab.path().join("root/usr").exists());
    let ran = lab.sh("strap bash no-such-package < begun.json | reap | unmount");
    let document = failed(
        &ran,
        "strap",
        "not-found",
        "running pacman to download: exit status 1: target not found: no-such-package",
        "check the spelling, and the repositories of mkconf",
    );
    assert_eq!(document["unmount"]["left"], json!([]));
    assert!(!lab.path().join("root/usr/bin").exists(), "half of it is installed");
}

// ---------------------------------------------------------------------------------------------------------------------
// Servers.

/// What a server does wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// There is none.
    Unreachable,
    /// It has no such file.
    Missing,
    /// It hangs up in the middle.
    Truncated,
    /// It sends a web page and says that all is well.
    Html,
    /// It sends the client round in a circle.
    Loop,
    /// It sends half and falls silent.
    Stalled,
}

impl Lie {
    fn answer(self, request: &Request) -> Answer {
        match self {
            Self::Unreachable => Answer::Serve,
            Self::Missing => Answer::Status(404, "<html>not found</html>"),
            Self::Truncated => Answer::Truncate(100),
            Self::Html => Answer::Lie(b"<html><body>Please log in</body></html>".to_vec()),
            Self::Loop => Answer::Redirect(request.path.clone()),
            Self::Stalled => Answer::Stall(100),
        }
    }

    /// Serves a laboratory, lying about the files whose path ends like this. Returns the server's URL.
    fn serve(self, lab: &Lab, about: &'static str) -> String {
        if matches!(self, Self::Unreachable) {
            // Port 1 is tcpmux's (RFC 1078), which nobody serves any more.
            let url = "http://127.0.0.1:1";
            preset(lab, url);
            return url.to_owned();
        }
        let server = serve_lies(
            lab,
            move |request| {
                if request.path.ends_with(about) { self.answer(request) } else { Answer::Serve }
            },
        );
        server.url().to_owned()
    }
}

#[test]
fn what_a_server_does_wrong_to_fetch_pacman_is_named() {
    let database = "archlinuxcn.db";
    let package = "pacman-static-6.0.2-10-x86_64.pkg.tar.zst";
    let page = "a web page came in its place";
    let broke = "the connection broke after 100 bytes: end of file before message length reached";
    let silent = "the connection broke after 100 bytes: nothing came for 5 s";
    let circle = "redirected more than 10 times";
    let missing = "HTTP status 404 Not Found";
    let cases = [
        (Lie::Unreachable, database, "network", "Connection refused (os error 111)"),
        (Lie::Missing, database, "not-found", missing),
        (Lie::Missing, package, "not-found", missing),
        (Lie::Truncated, database, "network", broke),
        (Lie::Truncated, package, "network", broke),
        (Lie::Html, database, "network", page),
        (Lie::Html, package, "network", page),
        (Lie::Loop, database, "network", circle),
        (Lie::Loop, package, "network", circle),
        (Lie::Stalled, database, "network", silent),
        (Lie::Stalled, package, "network", silent),
    ];
    at_once(&tier::sample(cases, 3, 0).collect::<Vec<_>>(), |&(lie, about, code, why)| {
        let lab = Lab::new(Who::Root);
        let url = lie.serve(&lab, about);
        // An honest server may be slow, where the machine is.
        let patience = if matches!(lie, Lie::Stalled) { "--timeout 5" } else { "" };
        let ran = lab.sh(&format!(
            "mkroot root --distro ./preset.toml | fetch-pacman {patience} --cache-dir fetched -o pacman \
             | mkconf --cache-dir packages | keyring | strap filesystem | reap | unmount"
        ));
        let message = format!("fetching '{url}/archlinuxcn/x86_64/{about}': {why}");
        let hint = match code {
            _ if why == page => package::page::HINT,
            "network" => "try again, or name another --server URL",
            "not-found" => "see --server, --repo and --package",
            "not-verified" => {
                "nothing of it was run; name another --server URL, or try again when the mirror has settled"
            }
            _ => "",
        };
        let document = failed(&ran, "fetch-pacman", code, &message, hint);
        assert_eq!(document.get("pacman"), None, "{lie:?}");
        assert_eq!(document["unmount"]["left"], json!([]), "{lie:?}");
        let made = lab.sh("find . -name 'pacman*' -perm /111 -type f");
        assert_eq!(made.stdout, "", "{lie:?}: a program is there");
        assert!(!lab.path().join("root.strapline").exists());
    });
}

#[test]
fn what_a_server_does_wrong_to_pacman_is_named() {
    // Small, and needs no other.
    const FILE: &str = "filesystem-2025.01.01-1-any.pkg.tar.xz";
    const SIGNATURE: &str = "filesystem-2025.01.01-1-any.pkg.tar.xz.sig";
    let www = Mirror::of("x86_64").www().join("x86_64/core");
    let rest = |file: &str| {
        let meta = fs::metadata(www.join(file)).expect("the mirror has it");
        format!("transfer closed with {} bytes remaining to read", meta.len() - 100)
    };
    let missing = "The requested URL returned error: 404".to_owned();
    let circle = "Maximum (10) redirects followed".to_owned();
    let nobody = "Failed to connect to 127.0.0.1 port 1 after 0 ms: Couldn't connect to server";
    let lost = |file: &str, why: &str| format!("failed retrieving file '{file}' from HOST : {why}");
    let page = |file: &str| format!("fetching '{file}': a web page came in its place");
    let gone = format!("the mirror has no '{FILE}', which its database names, also after downloading that again");
    let cases = [
        (Lie::Unreachable, "core.db", "network", lost("core.db", nobody)),
        (Lie::Missing, "core.db", "network", lost("core.db", &missing)),
        (Lie::Truncated, "core.db", "network", lost("core.db", &rest("core.db"))),
        (Lie::Loop, "core.db", "network", lost("core.db", &circle)),
        (Lie::Html, "core.db", "network", page("core.db")),
        (Lie::Missing, FILE, "network", gone),
        (Lie::Truncated, FILE, "network", lost(FILE, &rest(FILE))),
        (Lie::Loop, FILE, "network", lost(FILE, &circle)),
        (Lie::Html, FILE, "network", page(FILE)),
        (Lie::Missing, SIGNATURE, "not-verified", format!("the mirror has no signature for '{FILE}'")),
        (Lie::Truncated, SIGNATURE, "network", lost(SIGNATURE, &rest(SIGNATURE))),
    ];
    at_once(&tier::sample(cases, 3, 1).collect::<Vec<_>>(), |(lie, about, code, why)| {
        let lab = Lab::new(Who::Root);
        let honest = serve(&lab);
        let begun = lab.sh(&format!("{BEGIN} | keyring")).succeeded();
        fs::write(lab.path().join("begun.json"), begun.to_string()).expect("a file");
        drop(honest);
        let url = lie.serve(&lab, about);
        let again = "mkconf --cache-dir packages < begun.json";
        let ran = lab.sh(&format!("{again} | strap filesystem | reap | unmount"));
        let host = url.trim_start_matches("http://");
        let again_or_another = "try again, or another mirror: mkconf --server URL";
        let (what, hint) = match (*code, *lie) {
            (_, Lie::Html) => ("", package::page::HINT),
            (_, Lie::Missing) if *about == FILE => (
                "running pacman to download: ",
                "it is being updated, or is broken: try later, or add another with mkconf --server URL",
            ),
            ("network", _) => ("running pacman to download: exit status 1: ", again_or_another),
            _ => ("running pacman to download: ", "nothing was installed; try another mirror: mkconf --server URL"),
        };
        // Both databases are asked for at once: either may be the first that fails.
        let plain = |text: &str| {
            // How many milliseconds curl tried is the machine's.
            let mut parts = text.split(" port 1 after ").map(str::to_owned);
            let mut plain = parts.next().unwrap_or_default();
            for part in parts {
                let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
                plain += &format!(" port 1 after 0{rest}");
            }
            plain.replace("'extra.db'", "'core.db'")
        };
        let (stderr, stdout) = (plain(&ran.stderr), plain(&ran.stdout));
        let ran = Ran { stderr, stdout, ..ran };
        let message =
            format!("{what}{}", why.replace("HOST", host).replace("ROOT", &lab.path().join("root").to_string_lossy()));
        let document = failed(&ran, "strap", code, &message, hint);
        assert_eq!(document.get("packages"), None);
        assert_eq!(document["unmount"]["left"], json!([]));
        assert!(!lab.path().join("root/usr").exists(), "{lie:?}: something is installed");
        // Nothing is spoilt: the same pipe with an honest server goes through.
        let _honest = serve(&lab);
        let ran = lab.sh(&format!("{again} | strap filesystem | reap | unmount"));
        assert!(ran.succeeded()["packages"].is_array(), "{lie:?}");
    });
}

#[test]
fn a_web_page_in_the_place_of_a_signature() {
    let lab = Lab::new(Who::Root);
    let _url = Lie::Html.serve(&lab, ".pkg.tar.xz.sig");
    let ran = lab.sh(&format!("{BEGIN} | keyring | strap filesystem"));
    // The mirror's database has every signature in it (%PGPSIG%), and pacman goes by that.
    let packages = ran.succeeded()["packages"].clone();
    let packages = packages.as_array().expect("packages");
    assert!(packages.iter().all(|p| p["verified"] == true), "{packages:?}");
}

#[test]
fn what_a_server_does_wrong_to_the_keyring_is_named() {
    const PACKAGE: &str = "archlinux-keyring-20240419-1-any.pkg.tar.xz";
    let cases = [
        (Lie::Unreachable, "core.db"),
        (Lie::Missing, "core.db"),
        (Lie::Truncated, "core.db"),
        (Lie::Loop, "core.db"),
        (Lie::Html, "core.db"),
        (Lie::Missing, PACKAGE),
        (Lie::Truncated, PACKAGE),
        (Lie::Loop, PACKAGE),
        (Lie::Html, PACKAGE),
    ];
    at_once(&tier::sample(cases, 3, 2).collect::<Vec<_>>(), |&(lie, about)| {
        let lab = Lab::new(Who::Root);
        let honest = serve(&lab);
        let begun = lab.sh(BEGIN).succeeded();
        fs::write(lab.path().join("begun.json"), begun.to_string()).expect("a file");
        drop(honest);
        let _url = lie.serve(&lab, about);
        let again = "mkconf --cache-dir packages < begun.json";
        let ran = lab.sh(&format!("{again} | keyring | strap bash | reap | unmount"));
        // What strap says of the same lie: the words are its test's.
        let (message, hint) = said(&ran);
        let document = failed(&ran, "keyring", "network", &message, &hint);
        let begins = match (lie, about) {
            (Lie::Html, _) => "fetching '",
            (Lie::Missing, PACKAGE) => "running pacman to download: the mirror has no '",
            _ => "running pacman to download: exit status 1: ",
        };
        assert!(message.starts_with(begins), "{message}");
        assert!(hint.contains("another"), "{hint}");
        assert_eq!(document.get("keyring"), None);
        let home = lab.path().join("root/etc/pacman.d/gnupg");
        assert_eq!(fs::read_dir(home).expect("mkconf made it").count(), 0, "{lie:?}");
        let _honest = serve(&lab);
        let ran = lab.sh(&format!("{again} | keyring"));
        assert!(ran.succeeded()["keyring"].is_object(), "{lie:?}");
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// The host.

#[test]
fn a_full_disk_is_said_and_the_same_pipe_goes_on() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    fs::create_dir(lab.path().join("root")).expect("our own directory");
    let ran = lab.sh(&format!(
        "exec unshare --mount --propagation private sh -c '
           mount -t tmpfs -o size=20m t root
           {BEGIN} | keyring | strap {PACKAGES} >full.json; echo \"full: $?\" >&2
           mount -o remount,size=200m root
           {BEGIN} | keyring | strap {PACKAGES} | reap >done.json; status=$?
           ./pacman --config root.strapline/pacman-strict.conf -Qk >&2
           cat done.json; exit $status'"
    ));
    let full = ran.stderr.find("full: 69\n").expect("the first pipe failed");
    let (first, second) = ran.stderr.split_at(full);
    let line = first.lines().find(|l| l.starts_with("strap: running pacman to install: exit status 1: "));
    assert!(line.is_some_and(|l| l.ends_with(" (Write failed)") || l.contains("No space left")), "{first}");
    assert!(first.contains("strap: hint: ") && first.contains(": it goes on where it stopped\n"));
    assert!(second.contains("strap: warning: an earlier transaction was interrupted: "), "{second}");
    let document = ran.succeeded();
    let names: Vec<_> = document["packages"].as_array().expect("packages").iter().collect();
    assert!(names.iter().any(|p| p["name"] == "glibc") && names.iter().all(|p| p["verified"] == true));
    let kept = second.lines().filter(|l| l.ends_with(" 0 missing files")).count();
    assert_eq!(kept, names.len(), "{second}");
}

#[test]
fn without_gpg_keyring_says_what_to_install() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(BEGIN).succeeded();
    fs::write(lab.path().join("begun.json"), begun.to_string()).expect("a file");
    let without = "PATH=$(dirname $(command -v keyring))";
    let ran = lab.sh(&format!("{without} keyring < begun.json"));
    let document = failed(
        &ran,
        "keyring",
        "not-found",
        "looking for gpg on this host: there is none in PATH",
        "sudo apt-get install gnupg (pacman -S gnupg, dnf install gnupg2)",
    );
    assert_eq!(document.get("keyring"), None);
    let home = lab.path().join("root/etc/pacman.d/gnupg");
    assert_eq!(fs::read_dir(home).expect("mkconf made it").count(), 0);
}

#[test]
fn two_straps_do_not_work_on_one_root_and_a_dead_lock_goes() {
    let lab = Lab::new(Who::Root);
    let _server = serve(&lab);
    let begun = lab.sh(&format!("{BEGIN} | keyring"));
    fs::write(lab.path().join("begun.json"), begun.succeeded().to_string()).expect("a file");
    let database = lab.path().join("root/var/lib/pacman");
    let ran = lab.sh(&format!("echo $$ >pid; exec flock root/var/lib/pacman sh -c 'strap {PACKAGES} < begun.json'"));
    let holder = fs::read_to_string(lab.path().join("pid")).expect("our own file");
    let message = format!(
        "locking '{}': another tool works on this root: {} flock (user root)",
        database.display(),
        holder.trim()
    );
    let hint = "wait until it has ended, and try again";
    failed(&ran, "strap", "busy", &message, hint);
    assert!(!lab.path().join("root/usr").exists());
    // A lock that a killed pacman left, and nobody who could hold it.
    fs::write(database.join("db.lck"), "").expect("a file");
    let ran = lab.sh(&format!("strap {PACKAGES} < begun.json"));
    let _done = ran.succeeded();
    let warning =
        format!("strap: warning: removed the stale lock '{}/db.lck' of a pacman that was killed", database.display());
    assert!(ran.stderr.lines().any(|l| l == warning), "{}", ran.stderr);
    assert!(!database.join("db.lck").exists());
    // A lock of a pacman that the user runs in the root is not ours to take.
    fs::write(lab.path().join("done.json"), &ran.stdout).expect("a file");
    fs::write(database.join("db.lck"), "").expect("a file");
    let ran = lab.sh("mkfifo root/hold; chroot root /usr/bin/bash -c 'read x < /hold' & \
         while [ \"$(readlink /proc/$!/exe)\" != $PWD/root/usr/bin/bash ]; do :; done; \
         strap coreutils < done.json; status=$?; echo >root/hold; wait; rm root/hold; exit $status");
    let error = ran.document()["error"].clone();
    assert_eq!((ran.status, &error["code"]), (75, &json!("busy")), "{ran:?}");
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.starts_with(&format!("locking '{}': ", database.display())) && message.contains(" bash "),
        "{message}"
    );
    assert!(database.join("db.lck").exists());
}
