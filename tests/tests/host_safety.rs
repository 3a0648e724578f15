//! What is the host's stays as it is: its own gpg-agent, its mounts, its processes, its locks; through whole pipelines,
//! through daemons that a root leaves running, and through Ctrl-C.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};
use strapline_tests::trial::PATIENCE;
use strapline_tests::{Answer, Lab, Mirror, Neighbours, Server, Who, lab};

/// Leaves a process behind that has its standard output closed and ends on SIGTERM, then ends itself.
const LEAVE: &str = "bash -c '(exec 3<> <(:) >/dev/null 2>&1; read -t 1000 -u 3 line) & exit 0'";

/// The same, but this one must be killed.
const LEAVE_STUBBORN: &str = "bash -c '(trap \"\" TERM HUP INT; exec 3<> <(:) >/dev/null 2>&1; \
     while :; do read -t 1000 -u 3 line; done) & exit 0'";

fn wait(fds: &mut [PollFd<'_>], time: Duration) -> bool {
    poll(fds, Some(&Timespec::try_from(time).unwrap())).unwrap() > 0
}

/// The pipe up to the keyring, and its root's packages.
fn pipe(mirror: &Mirror, server: &Server, options: &str, packages: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "mkroot root {options} --arch x86_64 --distro {p} \
         | fetch-pacman --server {url}/archlinuxcn/x86_64 --cache-dir $PWD/cache \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring | strap {packages}",
        p = preset.display()
    )
}

#[track_caller]
fn nothing_is_left(lab: &Lab, neighbours: Option<&Neighbours>) {
    let begin = Instant::now();
    loop {
        let mut left = lab::processes_below(lab.path());
        left.retain(|p| !neighbours.is_some_and(|n| n.has(p)));
        if left.is_empty() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "processes are left: {left:#?}");
        wait(&mut [], Duration::from_millis(1));
    }
    let root = lab.path().join("root");
    let mounts = lab::Host::look().mounts_below(&root);
    assert_eq!(mounts, Vec::<String>::new());
}

// -- Bystanders -------------------------------------------------------------------------------------------------------

fn a_whole_pipe_and_what_its_root_leaves_running(who: Who) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let pipe = pipe(&mirror, &server, "", "filesystem bash gnupg");
    let ran = lab.sh(&format!("{pipe} | tee root.json | enter -- {LEAVE} | reap | unmount"));
    assert_eq!(ran.succeeded()["mode"], mode(who));
    nothing_is_left(&lab, Some(&neighbours));
    neighbours.unharmed("after the pipe");
    // A real agent, for the root's own keyring, that has begun its work: it takes its sockets along.
    let agent = "bash -c 'cd /etc/pacman.d/gnupg && gpg-agent --homedir $PWD --daemon && \
                 gpg-connect-agent --homedir $PWD --no-autostart /bye'";
    for command in [LEAVE, agent, LEAVE_STUBBORN] {
        let begin = Instant::now();
        let ran = lab.sh(&format!("enter --state root.json -- {command}"));
        assert_eq!(ran.status, 0, "{command}: {ran:?}");
        assert!(begin.elapsed() < PATIENCE, "{command} took {:?}", begin.elapsed());
        nothing_is_left(&lab, Some(&neighbours));
        neighbours.unharmed(command);
    }
    let sockets = lab.sh("find root -type s");
    assert_eq!(sockets.stdout, "", "sockets are left");
    for undo in ["reap --new root", "unmount --new root"] {
        assert_eq!(lab.sh(undo).status, 0, "{undo}");
        neighbours.unharmed(undo);
    }
    neighbours.unharmed("at the end");
}

fn mode(who: Who) -> &'static str {
    match who {
        Who::Root => "root",
        _ => "user",
    }
}

#[test]
fn a_whole_pipe_as_root_touches_nothing_of_the_hosts() {
    a_whole_pipe_and_what_its_root_leaves_running(Who::Root);
}

#[test]
fn a_whole_pipe_as_a_user_touches_nothing_of_the_hosts() {
    a_whole_pipe_and_what_its_root_leaves_running(Who::User);
}

#[test]
fn a_pipe_with_mounts_on_the_host_takes_down_its_own() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let neighbours = Neighbours::beside(lab.path());
    let pipe = pipe(&mirror, &server, "--host", "filesystem bash gnupg");
    let ran = lab.sh(&format!("{pipe} | enter -- {LEAVE} >live.json"));
    assert_eq!(ran.status, 0, "{ran:?}");
    // The user's own chroot, as the shell procedure of strapline(7) has it, and an agent of the root's keyring in it.
    let ran = lab.sh(&format!("chroot root {LEAVE} && chroot root gpg-agent --homedir /etc/pacman.d/gnupg --daemon"));
    assert_eq!(ran.status, 0, "{ran:?}");
    let mut living = lab::processes_below(&lab.path().join("root"));
    living.retain(|line| !neighbours.has(line));
    assert_eq!(living.len(), 2, "{living:#?}");
    neighbours.unharmed("at the end");
    let ran = lab.sh("reap --state live.json | unmount");
    let document = ran.succeeded();
    let ended = document["reap"]["ended"].as_array().unwrap();
    let mut names: Vec<_> = ended.iter().map(|e| e["program"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["bash", "gpg-agent"]);
    nothing_is_left(&lab, Some(&neighbours));
    neighbours.unharmed("at the end");
    assert_eq!(lab.sh("find root -type s").stdout, "", "sockets are left");
    neighbours.unharmed("at the end");
}

// -- Ctrl-C -----------------------------------------------------------------------------------------------------------

/// A terminal's Ctrl-C goes to every process of the pipe at once, while pacman waits for a server.
fn interrupted_in_the_middle_of_a_download(who: Who) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::lying(&mirror.www(), |request| {
        let package = request.path.contains("/bash-") && !request.path.ends_with(".sig");
        if package { Answer::Stall(10_000) } else { Answer::Serve }
    });
    let neighbours = Neighbours::beside(lab.path());
    let pipe = pipe(&mirror, &server, "", "filesystem bash");
    // The shell outlives it, as an interactive one does; what it runs has the signal's default again.
    let script = format!("trap : INT; {pipe} 2>err | reap 2>>undo | unmount >end.json 2>>undo; echo $? >status");
    let mut shell = lab.command("sh").args(["-c", &script]).process_group(0).spawn().unwrap();
    let pid = Pid::from_child(&shell);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let begin = Instant::now();
    while !server.requests().iter().any(|r| r.path.contains("/bash-")) {
        assert!(!wait(&mut fds, Duration::from_millis(5)), "it ended before it downloaded");
        assert!(begin.elapsed() < PATIENCE, "no download");
    }
    let begin = Instant::now();
    kill_process_group(pid, Signal::INT).unwrap();
    let ended = wait(&mut fds, PATIENCE);
    let took = begin.elapsed();
    if !ended {
        kill_process_group(pid, Signal::KILL).unwrap();
    }
    shell.wait().unwrap();
    assert!(ended, "after Ctrl-C it still runs");
    let read = |name: &str| fs::read_to_string(lab.path().join(name)).unwrap();
    assert_eq!(read("status"), "130\n", "{}", read("err"));
    let document: Value = serde_json::from_str(&read("end.json")).unwrap();
    assert_eq!(document["error"]["tool"], "strap", "{document}");
    assert_eq!(document["error"]["code"], "interrupted");
    assert_eq!(document["error"]["exit"], 130);
    let tools: Vec<_> = document["steps"].as_array().unwrap().iter().map(|s| s["tool"].as_str().unwrap()).collect();
    assert!(tools.ends_with(&["strap", "reap", "unmount"]), "{tools:?}");
    assert!(read("err").lines().any(|l| l == "strap: interrupted by a signal"), "{}", read("err"));
    nothing_is_left(&lab, Some(&neighbours));
    neighbours.unharmed("at the end");
    // And from there it goes on.
    let honest = Server::of(&mirror.www());
    let url = honest.url();
    let ran = lab.sh(&format!("mkconf --state end.json --server '{url}/$arch/$repo' --cache-dir $PWD/packages"));
    assert_eq!(ran.status, 130, "a failed document passes: {ran:?}");
    neighbours.unharmed("at the end");
    eprintln!("{who:?}: all had ended {took:?} after Ctrl-C");
}

#[test]
fn ctrl_c_as_root_ends_all_of_a_pipe() {
    interrupted_in_the_middle_of_a_download(Who::Root);
}

#[test]
fn ctrl_c_as_a_user_ends_all_of_a_pipe() {
    interrupted_in_the_middle_of_a_download(Who::User);
}

// -- Descriptors ------------------------------------------------------------------------------------------------------

#[test]
fn a_callers_lock_is_free_when_the_tool_has_ended() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let pipe = pipe(&mirror, &server, "--host", "filesystem bash");
    let ran = lab.sh(&format!(
        "set -e
         exec 9>lock; flock -n 9
         {pipe} | tee live.json | enter -- {LEAVE_STUBBORN} >/dev/null
         enter --state live.json -- bash -c 'echo /proc/self/fd/*' >fds
         exec 9>&-
         flock -n lock true || {{ echo held; fuser -v lock; exit 1; }} >&2
         unmount --new root >/dev/null"
    ));
    assert_eq!(ran.status, 0, "{ran:?}");
    // bash's own 3 is the directory that it reads.
    let fds = fs::read_to_string(lab.path().join("fds")).unwrap();
    assert_eq!(fds, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
    nothing_is_left(&lab, None);
}

// -- Propagation ------------------------------------------------------------------------------------------------------

/// systemd makes every mount shared, so what is mounted below one appears in all other namespaces, too.
#[test]
fn others_see_only_the_bare_bind_on_a_shared_mount() {
    let lab = Lab::new(Who::Root);
    let script = r#"
        set -e
        mkdir shared; mount --bind shared shared; mount --make-shared shared
        mkfifo ready hold
        unshare --mount --propagation unchanged sh -c 'echo $$ >ready; read -r line <hold' &
        read -r peer <ready
        look() {
            for who in self $peer; do
                cut -d' ' -f5 /proc/$who/mountinfo | grep "^$PWD/shared/root" | sort >$1.$who || :
            done
        }
        # Ours only: the copy of another test's mount goes when that test removes what it was mounted on.
        ours() { grep -F " $PWD" /proc/$1/mountinfo; }
        trap 'kill $peer' EXIT
        ours self >before; ours $peer >peer.before
        mkroot shared/root --host >live.json
        look mounted
        mkroot shared/root --host --state live.json >again.json
        look again
        unmount --quiet --state again.json >end.json
        look end
        ours self | cmp - before; ours $peer | cmp - peer.before
        mv mounted.$peer mounted.peer; mv again.$peer again.peer; mv end.$peer end.peer
        trap - EXIT; echo >hold; wait
    "#;
    let out =
        lab.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let read = |name: &str| {
        let text = fs::read_to_string(lab.path().join(name)).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let root = lab.path().join("shared/root").display().to_string();
    let mounted = read("mounted.self");
    assert!(mounted.len() >= 9, "{mounted:#?}");
    assert!(mounted.contains(&format!("{root}/dev/pts")), "{mounted:#?}");
    assert_eq!(read("mounted.peer"), std::slice::from_ref(&root));
    assert_eq!(read("again.self"), mounted, "a second run mounts nothing");
    assert_eq!(read("again.peer"), [root]);
    assert_eq!(read("end.self"), Vec::<String>::new());
    assert_eq!(read("end.peer"), Vec::<String>::new());
}
