//! Mode `chroot`, where a container permits no namespaces: the root is the same as elsewhere, and nothing is left in it, whatever
//! is killed. `containers.rs` does it in a real `docker build`.

use serde_json::json;
use std::fs;
use std::path::Path;
use strapline_tests::trial::tree;
use strapline_tests::{Lab, Mirror, Ran, Who, lab, top};

/// Runs a script in docker's default restrictions.
fn contained(lab: &Lab, script: &str) -> Ran {
    contained_in(lab, "docker", script)
}

/// Runs a script in such restrictions.
fn contained_in(lab: &Lab, shape: &str, script: &str) -> Ran {
    let mut command = lab.command("python3");
    command.arg(top().join("tests/container.py")).args([shape, "sh", "-c", script]);
    lab::run(&mut command)
}

/// The pipe to a root that has a shell.
fn pipe(mirror: &Mirror, root: &str, options: &str) -> String {
    format!(
        "mkroot {root} {options} --quiet --arch x86_64 --distro {preset} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server 'file://{www}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring --quiet | strap --quiet filesystem bash coreutils shadow util-linux | configure --quiet --hostname x --user ann \
         | reap --quiet | unmount --quiet",
        preset = mirror.preset().display(),
        www = mirror.www().display(),
    )
}

/// Makes the root with a shell, and its receipt.
fn made() -> Lab {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let ran = contained(&lab, &pipe(&mirror, "root", "--chroot"));
    drop(ran.succeeded());
    fs::write(lab.path().join("receipt.json"), ran.stdout).expect("our own directory");
    lab
}

/// The names in the places of the API file systems, as paths.
fn in_places(lab: &Lab) -> Vec<String> {
    let mut found = Vec::new();
    for place in ["dev", "proc", "run", "sys", "tmp"] {
        for entry in fs::read_dir(lab.path().join("root").join(place)).expect("a directory") {
            found.push(format!("{place}/{}", entry.expect("an entry").file_name().display()));
        }
    }
    found.sort();
    found
}

/// Checks that nothing of a program is left.
#[track_caller]
fn nothing_is_left(lab: &Lab) {
    assert_eq!(in_places(lab), [""; 0]);
    assert_eq!(lab::processes_below(lab.path()), [""; 0]);
}

#[test]
fn the_root_is_that_of_mode_root() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let ran = contained(&lab, &pipe(&mirror, "root", "--chroot"));
    let receipt = ran.succeeded();
    assert_eq!(receipt["mode"], "chroot");
    let nodes = json!(["null", "zero", "full", "random", "urandom", "tty"]);
    let none = |at: &str| json!({"at": at, "type": "none"});
    let dev = json!({"at": "dev", "type": "none", "nodes": nodes});
    assert_eq!(receipt["mounts"], json!([none("proc"), none("sys"), dev, none("run"), none("tmp")]));
    // One sentence says what is lost, also with --quiet.
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", ran.stderr);
    assert!(lines[0].starts_with("mkroot: warning: mode chroot: programs of the root have no /proc"), "{}", lines[0]);
    nothing_is_left(&lab);
    drop(lab.sh(&pipe(&mirror, "other", "")).succeeded());
    let [ours, theirs] = ["root", "other"].map(|root| {
        let mut tree = tree(&lab.path().join(root));
        // It has the times of this run, and the path of the root.
        tree.remove(Path::new("var/log/pacman.log")).expect("a log");
        tree
    });
    assert!(ours.len() > 1000, "{}", ours.len());
    assert_eq!(ours, theirs);

    fs::write(lab.path().join("receipt.json"), ran.stdout).expect("our own directory");
    let script = "verify --quiet --state receipt.json > verified.json && keyring --quiet --strip=secret --state receipt.json \
                  | pack --quiet -o a.tar > packed.json && tar -tf a.tar | grep -E '^(./)?(dev|proc|run|sys|tmp)/'";
    let ran = contained(&lab, script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let names: Vec<_> = ran.stdout.lines().map(|name| name.trim_start_matches("./")).collect();
    assert_eq!(names, ["dev/", "proc/", "run/", "sys/", "tmp/"]);
}

#[test]
fn a_root_is_as_it_was_after_each_program() {
    let lab = made();
    what_a_program_leaves_is_ended_and_removed(&lab);
    a_second_tool_waits_its_turn(&lab);
    what_stands_in_the_place_of_a_node_is_named(&lab);
    what_needs_namespaces_is_refused(&lab);
}

#[test]
fn a_root_is_as_it_was_whoever_is_killed() {
    let lab = made();
    nothing_is_left_when_the_tool_is_killed(&lab);
    a_killed_init_is_replaced_by_its_tool(&lab);
    the_next_tool_finds_what_was_left(&lab);
    unmount_removes_what_was_left(&lab);
}

/// Makes processes that end neither on a hangup nor on SIGTERM, in sessions of their own and with parents that have ended.
const STUBBORN: &str = "mkfifo /tmp/fifo; touch /run/x /tmp/y /dev/z /proc/p
    for i in 1 2 3; do (trap \"\" HUP TERM; setsid bash -c \"trap : HUP TERM; while :; do read < /tmp/fifo; done\" &); done
    (sleep 1000 &) ";

fn what_a_program_leaves_is_ended_and_removed(lab: &Lab) {
    fs::write(lab.path().join("root/tmp/mine"), "kept").expect("our own root");
    let script = format!(
        "enter --quiet --state receipt.json bash -c '{STUBBORN}; exit 3'; echo $?; ls /proc > all; grep -c ^[0-9] all"
    );
    let ran = contained(lab, &script);
    // The script and ls.
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("3\n2\n", ""));
    fs::remove_file(lab.path().join("all")).expect("our own file");
    assert_eq!(in_places(lab), ["tmp/mine"]);
    fs::remove_file(lab.path().join("root/tmp/mine")).expect("it is kept");
    nothing_is_left(lab);
}

/// Starts a program in the root, and waits until it runs. `$tool` is who entered, `$pid` the program, `$init` its parent.
const RUNNING: &str =
    "enter --quiet --state receipt.json bash -c 'sleep 1000 & echo $$ > /root/new; mv /root/new /root/pid; wait' &
    tool=$!
    until test -e root/root/pid; do kill -0 $tool || exit 9; done
    pid=$(cat root/root/pid); rm root/root/pid
    init=$(sed 's/.*) . //; s/ .*//' /proc/$pid/stat)
    test -c root/dev/null || exit 8
    ";

fn nothing_is_left_when_the_tool_is_killed(lab: &Lab) {
    let script = format!("{RUNNING} kill -KILL $tool; while test -e /proc/$pid -o -e /proc/$init; do :; done");
    let ran = contained(lab, &script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    nothing_is_left(lab);
}

fn a_second_tool_waits_its_turn(lab: &Lab) {
    let script = format!(
        "{RUNNING} enter --quiet --state receipt.json true; echo $?; pack --quiet --state receipt.json -o a.tar \
                          --keep-keyring > packed.json; echo $?; kill $tool; wait $tool; echo $?"
    );
    let ran = contained(lab, &script);
    assert_eq!(ran.stdout, "125\n75\n143\n", "{}", ran.stderr);
    assert!(ran.stderr.contains("in use by"), "{}", ran.stderr);
    nothing_is_left(lab);
}

fn the_next_tool_finds_what_was_left(lab: &Lab) {
    // With both killed at once, nobody is there to clean up.
    let script = format!(
        "{RUNNING} kill -STOP $tool; kill -KILL $init $tool; wait $tool; while grep -qs '^State:.[^Z]' /proc/$init/status; do :; done; test -c root/dev/null && echo left
        enter --quiet --state receipt.json true; echo $?
        unmount --quiet --state receipt.json > unmounted.json; echo $?
        reap --state receipt.json > reaped.json; echo $?
        test -c root/dev/null && echo left
        enter --quiet --state receipt.json true; echo $?"
    );
    let ran = contained(lab, &script);
    assert_eq!(ran.stdout, "left\n125\n75\n0\nleft\n0\n", "{}", ran.stderr);
    let busy = "cleaning up '";
    assert!(ran.stderr.lines().any(|line| line.starts_with("enter: ") && line.contains(busy)), "{}", ran.stderr);
    assert!(ran.stderr.lines().any(|line| line.starts_with("reap: ended ")), "{}", ran.stderr);
    nothing_is_left(lab);
}

fn unmount_removes_what_was_left(lab: &Lab) {
    let script = format!(
        "{RUNNING} kill -STOP $tool; kill -KILL $init $tool $pid; wait $tool; while grep -qs '^State:.[^Z]' /proc/$init/status; do :; done; reap --quiet root > reaped.json
        test -c root/dev/null && unmount --quiet root > unmounted.json"
    );
    let ran = contained(lab, &script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    nothing_is_left(lab);
}

fn a_killed_init_is_replaced_by_its_tool(lab: &Lab) {
    // Init is stopped, or it would see the end of the others and end well itself.
    let script = format!(
        "{RUNNING} all=\"$pid $(pgrep -P $pid)\"; kill -STOP $init; kill -KILL $all
        for one in $all; do while grep -qs '^State:.[^Z]' /proc/$one/status; do :; done; done
        kill -KILL $init; wait $tool; echo $?"
    );
    let ran = contained(lab, &script);
    assert_eq!(ran.stdout, "125\n", "{}", ran.stderr);
    nothing_is_left(lab);
}

fn what_stands_in_the_place_of_a_node_is_named(lab: &Lab) {
    fs::write(lab.path().join("root/dev/null"), "").expect("our own root");
    let ran = contained(lab, "enter --quiet --state receipt.json true");
    let at = lab.path().join("root/dev/null");
    let expected = format!(
        "enter: entering '{}': making the device node '{at}': there is another file of that name\nenter: hint: remove it: rm {at}\n",
        lab.path().join("root").display(),
        at = at.display()
    );
    assert_eq!((ran.status, ran.stderr), (125, expected));
    assert_eq!(in_places(lab), ["dev/null"]);
    fs::remove_file(at).expect("it is there");
}

fn what_needs_namespaces_is_refused(lab: &Lab) {
    for (script, status, line) in [
        (
            "mkroot r --chroot --arch aarch64 --distro archlinuxarm --emulator /bin/true",
            64,
            "hint: leave --emulator out",
        ),
        ("mkroot r --chroot --arch aarch64 --distro archlinuxarm", 69, "handler with the flag F for aarch64"),
        ("enter --state receipt.json --bind /etc:mnt true", 125, "in mode chroot nothing is mounted"),
        (
            "SSL_CERT_FILE=/etc/passwd keyring --state receipt.json",
            64,
            "using SSL_CERT_FILE '/etc/passwd': in mode chroot pacman reads the host's file",
        ),
    ] {
        let ran = contained(lab, script);
        assert_eq!(ran.status, status, "{script}: {}", ran.stderr);
        assert!(ran.stderr.contains(line), "{script}: {}", ran.stderr);
    }
    assert!(!lab.path().join("r").exists());
    // With the numbers of another PID namespace, others than what was run would be ended.
    let ran = lab.sh("unshare --pid --fork --kill-child enter --quiet --state receipt.json true");
    assert_eq!(ran.status, 125, "{}", ran.stderr);
    assert!(ran.stderr.contains("'/proc' is that of another PID namespace"), "{}", ran.stderr);
    nothing_is_left(lab);
}

#[test]
fn a_hook_that_needs_proc_is_explained() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let ran = contained(&lab, &pipe(&mirror, "root", "--chroot").replace("bash coreutils shadow", "systemd"));
    ran.failed(69, "running the hook '30-systemd-tmpfiles.hook'");
    assert!(ran.stderr.contains("in mode chroot there is no /proc"), "{}", ran.stderr);
    nothing_is_left(&lab);
}

/// Registers QEMU in the table of a user namespace, which is the only one there as it is the machine's in a container. A user
/// namespace makes no device nodes: they are bound before.
const HANDLER: &str = r#"
    mkdir -p root/dev root/var/lib/pacman
    for node in null zero full random urandom tty; do touch root/dev/$node && mount --bind /dev/$node root/dev/$node || exit 9; done
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 9
    header='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    printf '%s' ":aarch64:M::$header::$(command -v qemu-aarch64-static || command -v qemu-aarch64):$flag" > /proc/sys/fs/binfmt_misc/register || exit 9
    "#;

#[test]
fn a_handler_of_the_machine_must_have_the_flag_f() {
    let lab = Lab::new(Who::Root);
    let mkroot = "mkroot root --chroot --quiet --arch aarch64 --distro archlinuxarm";
    let ran = contained_in(&lab, "podman-privileged", &format!("flag=F; {HANDLER} {mkroot}"));
    let document = ran.succeeded();
    assert_eq!((&document["mode"], &document["binfmt"]["kind"]), (&json!("chroot"), &json!("host")));
    let ran = contained_in(&lab, "podman-privileged", &format!("flag=; {HANDLER} {mkroot}"));
    ran.failed(69, "running a program of aarch64 inside the root: No such file or directory");
    assert!(ran.stderr.contains("handler with the flag F for aarch64"), "{}", ran.stderr);
}

/// A root may come from anywhere, and bring what has the name of our record.
#[test]
fn nothing_outside_of_the_root_is_written_or_emptied() {
    let lab = made();
    let prepare = "echo theirs > victim && mkdir -p mounted && echo theirs > mounted/file";
    assert_eq!(lab.sh(prepare).status, 0);
    let enter = "enter --quiet --state receipt.json true";
    for trick in [
        "ln victim root/dev/.strapline-before.new",
        "ln -s $PWD/victim root/dev/.strapline-before.new",
        "mkfifo root/dev/.strapline-before.new",
        "mkdir -p root/dev/.strapline-before.new/x",
        "mknod root/dev/.strapline-before.new c 1 3",
    ] {
        let ran = contained(&lab, &format!("{trick} && {enter}"));
        assert_eq!(ran.status, 0, "{trick}: {}", ran.stderr);
        assert_eq!(fs::read_to_string(lab.path().join("victim")).expect("a file"), "theirs\n", "{trick}");
        nothing_is_left(&lab);
    }
    // What is mounted on a place of the root is somebody else's; a record of a killed tool, or of a liar, changes nothing.
    for record in ["true", "touch root/dev/.strapline-before"] {
        let script = format!("{record}; mount --bind mounted root/tmp; {enter}; s=$?; ls root/tmp; exit $s");
        let mut command = lab.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let ran = lab::run(&mut command);
        assert!(ran.status != 0 && ran.stdout == "file\n", "{record}: {ran:?}");
        assert!(ran.stderr.contains("root/tmp': it is a mount point"), "{}", ran.stderr);
        assert!(lab.path().join("mounted/file").exists());
    }
}
