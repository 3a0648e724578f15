//! The contract of `enter`: whose exit status, input and output it has, as whom and with what around it a command runs.
//!
//! The root is made of this host's own `/usr`, bound by the document's plan, so the programs inside are real ones.

#![allow(clippy::unwrap_used, reason = "a helper of tests that fails is a test that fails")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use strapline_tests::Ran;
use strapline_tests::ground::Ground;

struct Lab {
    dir: tempfile::TempDir,
    document: Value,
}

impl Lab {
    fn new() -> Self {
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        assert_eq!(uid, 0, "these tests make namespaces as root: run 'make test'");
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let root = top.join("root");
        for below in ["dev", "proc", "sys", "run", "tmp", "usr", "etc", "mnt"] {
            std::fs::create_dir_all(root.join(below)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n";
        std::fs::write(root.join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nwheel:x:998:ann\nann:x:1000:\n").unwrap();
        std::fs::write(root.join("etc/resolv.conf"), "# the root's own\n").unwrap();
        let mut mounts = serde_json::to_value(rootfs::plan::api(false)).unwrap();
        let usr = json!({"at": "usr", "type": "rbind", "source": "/usr", "options": ["ro"]});
        mounts.as_array_mut().unwrap().push(usr);
        let document = json!({
            "strapline": 1,
            "root": root,
            "arch": "x86_64",
            "mode": "root",
            "mounts": mounts,
            "binfmt": {"kind": "native"},
        });
        std::fs::write(top.join("state.json"), document.to_string()).unwrap();
        Self { dir, document }
    }

    fn top(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    /// `enter --state state.json ARGS`
    fn alone(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enter"));
        command.arg("--state").arg(self.top().join("state.json")).args(args);
        command.env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        command
    }

    /// Runs it as a stage, with the document on stdin.
    fn stage(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enter"));
        command.args(args).env_remove("RUST_BACKTRACE");
        feed(&mut command, &self.document.to_string())
    }
}

fn feed(command: &mut Command, text: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it, and returns what the command printed.
#[track_caller]
fn prints(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(&output.stdout).trim_end().to_owned()
}

#[test]
fn a_directory_that_cannot_be_entered() {
    let lab = Lab::new();
    let enter = |directory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enter"));
        command.args([directory, "true"]).current_dir(lab.top()).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr).replace(lab.top().to_str().unwrap(), "TOP"))
    };
    // Nothing but a shell says what a root's architecture is.
    let (status, said) = enter("./root");
    assert_eq!(status, Some(125));
    let missing = "No such file or directory (os error 2)\n";
    assert_eq!(said, format!("enter: entering './root': reading 'TOP/root/usr/bin/bash': {missing}"));
    let shell = lab.top().join("root/usr/bin/bash");
    fs::create_dir(lab.top().join("root/usr/bin")).unwrap();
    // What is not a regular file is not read, nor waited for.
    rustix::fs::mknodat(rustix::fs::CWD, &shell, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    assert!(enter("./root").1.ends_with("/usr/bin/bash': Invalid argument (os error 22)\n"));
    fs::remove_file(&shell).unwrap();
    fs::write(&shell, "#!/bin/true, and no program").unwrap();
    let (status, said) = enter("./root");
    assert_eq!(status, Some(125));
    assert!(said.ends_with("no program of an architecture that is known\n"), "{said}");
    std::os::unix::fs::chown(lab.top().join("root"), Some(1000), None).unwrap();
    let (status, said) = enter("./root");
    assert_eq!(status, Some(125));
    assert!(said.starts_with("enter: entering './root': it belongs to user 1000\nenter: hint: "), "{said}");
    assert_eq!(enter("/").0, Some(125));
    let (status, said) = enter("./nothing");
    assert_eq!(status, Some(125));
    assert_eq!(said, format!("enter: entering './nothing': {missing}"));
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let lab = Lab::new();
    for (args, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program"], 127),
        (&["/no/such"], 127),
        (&["/etc/passwd"], 126),
        (&["--user", "eve", "true"], 125),
        (&["--bogus"], 125),
    ] {
        let output = lab.alone(args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
        let said = text(&output.stderr);
        assert_eq!(said.is_empty(), !(125..=127).contains(&status), "{args:?}: {said}");
        assert!(said.is_empty() || said.starts_with("enter: "), "{said}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_enter"));
    let output = command.args(["--state", "/no/such", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).starts_with("enter: opening the document '/no/such': No such file"));
}

#[test]
fn alone_it_has_the_callers_input_and_output() {
    let lab = Lab::new();
    let output = feed(&mut lab.alone(&["sh", "-c", "cat; echo err >&2"]), "in\n");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("in\n".into(), "err\n".into()));
}

#[test]
fn in_a_pipe_the_output_goes_to_stderr() {
    let lab = Lab::new();
    let output = lab.stage(&["sh", "-c", "echo out; cat; echo err >&2"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "out\nerr\n");
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = document.as_object_mut().unwrap().remove("steps").unwrap();
    assert_eq!(steps[0]["tool"], "enter");
    assert_eq!(document, lab.document);
    let output = lab.stage(&["sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(text(&output.stderr), "enter: running 'sh' in the root: exit status 3\n");
}

#[test]
fn the_command_is_in_the_root_with_the_plan_around_it() {
    let lab = Lab::new();
    let script = "pwd; ls -di / | cut -d' ' -f1; echo $$; stat -f -c %T /proc /run /tmp; test -c /dev/null && echo node; \
                  test -e /dev/kmsg || echo no more";
    let said = prints(&mut lab.alone(&["sh", "-c", script]));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines[0], lines[2]), ("/", "2"), "PID 1 is ours: {said}");
    assert_eq!(lines[3..], ["proc", "tmpfs", "tmpfs", "node", "no more"]);
    let root = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(lab.top().join("root")).unwrap());
    assert_eq!(lines[1], root.to_string());
    // Nothing of it is there afterwards.
    assert!(lab.top().join("root/dev").read_dir().unwrap().next().is_none());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*lab.top().to_string_lossy()));
}

#[test]
fn the_environment_is_new_and_has_no_descriptor() {
    let lab = Lab::new();
    let mut command = Command::new("sh");
    let enter = lab.alone(&["sh", "-c", "env | sort; ls /proc/self/fd | tr '\\n' ' '"]);
    command.args(["-c", "exec 7</etc/passwd 9</; exec \"$@\"", "sh"]).arg(enter.get_program()).args(enter.get_args());
    command.env("SECRET", "leak").env("TERM", "dumb").env("LD_PRELOAD_X", "y").stdin(Stdio::null());
    let said = prints(&mut command);
    assert!(!said.contains("SECRET") && !said.contains("LD_PRELOAD_X"), "{said}");
    for line in ["HOME=/root", "LANG=C.UTF-8", "SYSTEMD_OFFLINE=1", "TERM=dumb"] {
        assert!(said.lines().any(|l| l == line), "{line} in {said}");
    }
    // ls has the directory itself open.
    assert_eq!(said.lines().last().unwrap().trim(), "0 1 2 3");
}

#[test]
fn users_are_the_roots_own() {
    let lab = Lab::new();
    let script = "id -u; id -g; id -G; echo $HOME $USER";
    let said = prints(&mut lab.alone(&["--user", "ann", "sh", "-c", script]));
    assert_eq!(said, "1000\n1000\n1000 998\n/tmp ann");
    let output = lab.stage(&["--user", "eve", "true"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).starts_with("enter: looking for the user 'eve': "));
}

#[test]
fn binds_and_name_servers_are_for_this_command_only() {
    let lab = Lab::new();
    let source = lab.top().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "here\n").unwrap();
    for at in ["/mnt", "mnt", "run/made"] {
        let bind = format!("{}:{at}", source.display());
        let file = format!("/{}/file", at.trim_start_matches('/'));
        assert_eq!(prints(&mut lab.alone(&["--bind", &bind, "cat", &file])), "here");
    }
    assert!(!lab.top().join("root/mnt/file").exists());
    for (bind, status, reason) in [
        ("no-colon".to_owned(), 125, "not of the form SRC:AT"),
        (format!("{}:../x", source.display()), 125, "'..'"),
        (format!("{}:none", source.display()), 125, "No such file or directory"),
        ("/no/such:mnt".to_owned(), 125, "No such file or directory"),
    ] {
        let output = lab.alone(&["--bind", &bind, "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{bind}");
        assert!(text(&output.stderr).contains(reason), "{bind}: {output:?}");
    }
    if Path::new("/etc/resolv.conf").canonicalize().is_ok_and(|f| f.is_file()) {
        let hosts = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(prints(&mut lab.alone(&["cat", "/etc/resolv.conf"])), hosts.trim_end());
    }
    let own = std::fs::read_to_string(lab.top().join("root/etc/resolv.conf")).unwrap();
    assert_eq!(own, "# the root's own\n");
}

#[test]
fn a_terminal_is_kept_where_there_is_one() {
    let lab = Lab::new();
    let state = lab.top().join("state.json");
    let line = format!(
        "{} --state {} sh -c 'test -t 0 && test -t 1 && test -t 2 && echo yes'",
        env!("CARGO_BIN_EXE_enter"),
        state.display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script(1) is missing: apt-get install bsdutils");
    assert_eq!(text(&output.stdout).trim(), "yes", "{output:?}");
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let lab = Lab::new();
    // The daemon holds the pipe open: only when it has ended does the pipe end.
    let output = lab.alone(&["sh", "-c", "setsid sleep 1000 & echo started"]).output().unwrap();
    assert_eq!(text(&output.stdout), "started\n");
    let mut child = lab.alone(&["sh", "-c", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

// -- As root and as an ordinary user, in a root that mkroot made ------------------------------------------------------

const ENTER: &str = env!("CARGO_BIN_EXE_enter");

/// A root that has these programs beside a shell, and its document in `root.json`.
fn ground(user: bool, programs: &[&str]) -> Ground {
    let ground = Ground::new(ENTER, user);
    ground.mkroot("");
    ground.furnish(programs);
    ground
}

fn grounds(programs: &[&str]) -> [Ground; 2] {
    [false, true].map(|user| ground(user, programs))
}

/// Two ways to start it.
trait Enter {
    fn enter(&self, args: &[&str]) -> Ran;
    fn pipe(&self, args: &[&str]) -> Ran;
}

impl Enter for Ground {
    fn enter(&self, args: &[&str]) -> Ran {
        self.run(ENTER, &[&["--state", "root.json"], args].concat(), "")
    }

    fn pipe(&self, args: &[&str]) -> Ran {
        let document = fs::read_to_string(self.path("root.json")).unwrap();
        self.run(ENTER, args, &document)
    }
}

fn ran(status: i32, out: &str, err: &str) -> Ran {
    Ran { status, stdout: out.to_owned(), stderr: err.to_owned() }
}

#[test]
fn a_user_is_told_the_same_as_root() {
    for ground in grounds(&["cat", "id", "ls", "stat"]) {
        for status in [0, 1, 64, 125, 126, 127, 255] {
            let exit = format!("exit {status}");
            assert_eq!(ground.enter(&["sh", "-c", &exit]), ran(status, "", ""));
        }
        for (signal, status) in [("KILL", 137), ("TERM", 143), ("INT", 130), ("SEGV", 139)] {
            let kill = format!("kill -{signal} $$");
            assert_eq!(ground.enter(&["--", "sh", "-c", &kill]), ran(status, "", ""));
        }
        for (command, status, why) in [
            ("nosuch", 127, "No such file or directory (os error 2)"),
            ("/etc/passwd", 126, "Permission denied (os error 13)"),
            ("/etc", 126, "Permission denied (os error 13)"),
        ] {
            let line = format!("enter: running '{command}' in the root: {why}\n");
            assert_eq!(ground.enter(&[command]), ran(status, "", &line));
        }
        let input = ["--state", "root.json", "sh", "-c", "cat; echo two >&2"];
        assert_eq!(ground.run(ENTER, &input, "one\n"), ran(0, "one\n", "two\n"));
        let ids = "echo $(id -u) $(id -g) $(id -G)";
        for (user, ids_are) in [("root", "0 0 0"), ("ann", "1000 1000 1000 998"), ("1000", "1000 1000 1000 998")] {
            let is = ground.enter(&["--user", user, "sh", "-c", ids]);
            assert_eq!(is, ran(0, &format!("{ids_are}\n"), ""));
        }
        let kinds = ["stat", "-f", "-c", "%n %T", "/proc", "/dev", "/dev/pts", "/run", "/tmp"];
        assert_eq!(ground.enter(&kinds).stdout, "/proc proc\n/dev tmpfs\n/dev/pts devpts\n/run tmpfs\n/tmp tmpfs\n");
        let write = "echo x >/tmp/x; echo x >/dev/x; echo mine >/etc/mine; umask; ! echo x >/sys/kernel/profiling";
        let wrote = ground.enter(&["sh", "-c", write]);
        assert_eq!((wrote.status, wrote.stdout.as_str()), (0, "0022\n"), "{wrote:?}");
        assert!(wrote.stderr.contains("Read-only file system"), "{wrote:?}");
        for (file, is_there) in [("tmp/x", false), ("dev/x", false), ("etc/mine", true)] {
            assert_eq!(ground.path("root").join(file).exists(), is_there, "{file}");
        }
        ground.nothing_is_left();
    }
}

#[test]
fn in_a_pipe_a_failure_is_in_the_document() {
    for ground in grounds(&["cat"]) {
        for (args, code, line) in [
            (&["sh", "-c", "exit 3"][..], "child-failed", "running 'sh' in the root: exit status 3"),
            (
                &["--", "sh", "-c", "kill -9 $$"],
                "child-failed",
                "running 'sh' in the root: killed by signal 9 (SIGKILL)",
            ),
            (&["nosuch"], "not-found", "running 'nosuch' in the root: No such file or directory (os error 2)"),
        ] {
            ground.pipe(args).refused("enter", 69, code, &[line]);
        }
        let usage = "unexpected argument '--no-such' found";
        let hint = "see 'enter --help'";
        let refused = ground.pipe(&["--no-such"]);
        refused.refused("enter", 64, "usage", &[usage, hint]);
        // The command's own arguments are not ours, and no input is no input.
        let bound = ground.pipe(&["--bind", "root.json:tmp/x", "--", "cat", "/tmp/x", "-"]);
        let text = fs::read_to_string(ground.path("root.json")).unwrap();
        assert_eq!((bound.status, &bound.stderr), (0, &text));
        let mut document = bound.document();
        let steps = document["steps"].as_array_mut().unwrap();
        assert_eq!(steps.pop().unwrap()["tool"], "enter");
        assert_eq!(document, serde_json::from_str::<Value>(&text).unwrap());
        let own = ground.pipe(&["--", "sh", "-c", "echo $*", "sh", "--state", "x"]);
        assert_eq!((own.status, own.stderr.as_str()), (0, "--state x\n"));
        ground.nothing_is_left();
    }
}

#[test]
fn a_failed_document_is_entered_alone_only() {
    let ground = ground(false, &[]);
    let text = fs::read_to_string(ground.path("root.json")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["error"] = json!({"tool": "strap", "code": "failed", "message": "m", "exit": 69, "also": []});
    fs::write(ground.path("root.json"), document.to_string()).unwrap();
    let warning = "enter: warning: the document records that strap failed\n";
    assert_eq!(ground.enter(&["sh", "-c", "exit 7"]), ran(7, "", warning));
    let passed = ground.pipe(&["sh", "-c", "echo never"]);
    assert_eq!(passed, ran(69, &document.to_string(), ""));
}

#[test]
fn a_root_that_is_anothers_or_another_is_not_entered() {
    let (roots, users) = (ground(false, &[]), ground(true, &[]));
    for (from, to, lines) in [
        (
            &roots,
            &users,
            "it was made by root\nenter: hint: run this with sudo, too, and all tools after it: mkroot was run as root",
        ),
        (&users, &roots, "it is another user's root\nenter: hint: run this as the user that ran mkroot"),
    ] {
        fs::copy(from.path("root.json"), to.path("theirs.json")).unwrap();
        let line = format!("enter: entering '{}': {lines}\n", from.at("root"));
        let args = ["--state", "theirs.json", "sh"];
        assert_eq!(to.run(ENTER, &args, ""), ran(125, "", &line));
    }
    assert_eq!(roots.sh("mv root away; mkdir root").status, 0);
    let line = format!(
        "enter: opening the root '{}': it is an empty directory, and not the one that the document means\n\
         enter: hint: mount the file system that the root is on; if it is gone, begin again with mkroot\n",
        roots.at("root")
    );
    assert_eq!(roots.enter(&["sh"]), ran(125, "", &line));
}

#[test]
fn the_hosts_name_servers_hide_the_roots() {
    let hosts = fs::read_to_string("/etc/resolv.conf").unwrap();
    for ground in grounds(&["cat"]) {
        let root = ground.path("root");
        let file = root.join("etc/resolv.conf");
        let state = || {
            let list = "cd root && find . -printf '%p %i %m %l %s %TY%Tj%TT\\n' | sort && cat etc/resolv.conf; true";
            Ran::of(Command::new("sh").args(["-c", list]).current_dir(ground.path("")), "").stdout
        };
        fs::write(root.join("etc/motd"), "linked\n").unwrap();
        fs::write(&file, "own\n").unwrap();
        for target in [
            "",
            "/run/systemd/resolve/stub-resolv.conf",
            "../run/systemd/resolve/stub-resolv.conf",
            "/run/NetworkManager/resolv.conf",
            "/nowhere/at/all",
            "motd",
            "/etc",
            "resolv.conf",
            "../../../../../../../../etc/shadow",
        ] {
            if !target.is_empty() {
                fs::remove_file(&file).unwrap();
                symlink(target, &file).unwrap();
            }
            let before = state();
            assert_eq!(ground.enter(&["cat", "/etc/resolv.conf"]), ran(0, &hosts, ""), "{target}");
            let write = ground.enter(&["sh", "-c", "echo bad >/etc/resolv.conf"]);
            assert!(write.stderr.contains("Read-only file system"), "{target}: {write:?}");
            assert_eq!(state(), before, "{target}");
        }
        ground.nothing_is_left();
    }
}

#[test]
fn without_a_resolv_conf_there_are_no_name_servers() {
    for ground in grounds(&["cat"]) {
        let file = ground.path("root/etc/resolv.conf");
        let none = |why: &str| {
            let line = format!("enter: the command has no name servers of the host: {why}\n");
            assert_eq!(ground.enter(&["sh", "-c", "exit 3"]), ran(3, "", &line));
        };
        fs::remove_file(&file).unwrap();
        none(&format!(
            "looking for '{}' of the root, to mount over: No such file or directory (os error 2)",
            file.display()
        ));
        assert!(!file.exists(), "none is made");
        fs::create_dir(&file).unwrap();
        none(&format!("'{}' is neither a file nor a link", file.display()));
        // No link is followed on the way.
        fs::rename(ground.path("root/etc"), ground.path("root/other")).unwrap();
        symlink("other", ground.path("root/etc")).unwrap();
        none(&format!(
            "looking for '{}' of the root, to mount over: Too many levels of symbolic links (os error 40)",
            file.display()
        ));
    }
}

#[test]
fn daemons_and_the_stubborn_end_and_hold_no_lock() {
    for ground in grounds(&["mkfifo", "setsid", "sleep"]) {
        for leave in [
            "sleep 1000 & exit 4",
            // These two say when they are so far.
            "mkfifo /tmp/f; setsid sh -c '(sleep 1000 &) & echo >/tmp/f' & read -r x </tmp/f; exit 4",
            "mkfifo /tmp/f; setsid sh -c 'trap \"\" TERM HUP INT; echo >/tmp/f; sleep 1000' & \
             read -r x </tmp/f; exit 4",
        ] {
            let begin = std::time::Instant::now();
            let mut command = ground.command("/bin/sh");
            command.args([
                "-c",
                "exec 9>lock; flock -n 9 || exit 1
                 enter --state root.json -- sh -c \"$0\"; status=$?
                 exec 9>&-; flock -n lock true || exit 2; exit $status",
                leave,
            ]);
            assert_eq!(Ran::of(&mut command, ""), ran(4, "", ""), "{leave}");
            assert!(begin.elapsed() < strapline_tests::trial::PATIENCE, "{leave}: {:?}", begin.elapsed());
            ground.nothing_is_left();
        }
    }
}

#[test]
fn a_signal_ends_the_command_and_all_that_it_began() {
    for ground in grounds(&["setsid", "sleep"]) {
        for (alone, signal, status) in [
            (true, Signal::TERM, 143),
            (true, Signal::HUP, 129),
            (true, Signal::KILL, 137),
            (false, Signal::INT, 130),
            (false, Signal::TERM, 130),
            (false, Signal::KILL, 137),
        ] {
            let mut command = ground.command(ENTER);
            if alone {
                command.args(["--state", "root.json"]).stdin(Stdio::null());
            } else {
                command.stdin(fs::File::open(ground.path("root.json")).unwrap());
            }
            let script = "setsid sleep 1000 & echo ready; exec sleep 1000";
            let mut child =
                command.args(["--", "sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let mut err = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            let ready = if alone { out.read_line(&mut line) } else { err.read_line(&mut line) };
            assert_eq!((ready.unwrap(), line.as_str()), (6, "ready\n"));
            kill_process(Pid::from_child(&child), signal).unwrap();
            let ended = child.wait().unwrap();
            let is = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap());
            assert_eq!(is, status, "{signal:?}, alone: {alone}");
            ground.nothing_is_left();
            let (mut rest, mut said) = (String::new(), String::new());
            out.read_to_string(&mut rest).unwrap();
            err.read_to_string(&mut said).unwrap();
            if alone || signal == Signal::KILL {
                assert_eq!((rest.as_str(), said.as_str()), ("", ""));
            } else {
                let document: Value = serde_json::from_str(&rest).unwrap();
                assert_eq!(document["error"]["code"], "interrupted");
                assert_eq!(said, "enter: interrupted by a signal\n");
            }
        }
    }
}
