//! Signals × terminals × modes, on a real terminal: what comes of the document, the mounts, the locks and the exit status.
//!
//! The pipe is held where pacman runs a scriptlet that waits for ever, or where a tool waits for a server, a command or its own
//! work; the stages that undo read meanwhile. Nothing here depends on how fast this machine is: what is waited for is seen
//! in `/proc` or in a file, and what never ends is ended after [`LIMIT`].

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strapline_tests::lab::{Host, processes_below};
use strapline_tests::trial::{KILLED, LOCK};
use strapline_tests::{Answer, Lab, Mirror, Server, Who, screen};

/// What takes longer does not end.
const LIMIT: Duration = Duration::from_secs(60);

// -- A terminal -------------------------------------------------------------------------------------------------------

/// Who leads the terminal's session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leader {
    /// A shell with job control, as a person has: the pipe is a group of its own, in the foreground.
    Shell,
    /// A script: the pipe is of its group, and what ends it ends the session.
    Script,
}

/// A script that runs on a terminal of its own.
struct Terminal {
    master: Option<OwnedFd>,
    leader: Child,
}

impl Terminal {
    /// Starts `pipe` as the job of a leader on a new terminal. Its exit status goes to the file `status`.
    fn start(lab: &Lab, leader: Leader, pipe: &str) -> Self {
        let (master, slave) = screen::open(80);
        let (shell, script) = match leader {
            // A job that was stopped goes on when somebody says so.
            Leader::Shell => (
                "bash",
                format!("set -m; {pipe}; s=$?; while jobs %% >&2; do read -r go; fg >&2; s=$?; done; echo $s >status"),
            ),
            Leader::Script => ("dash", format!("{pipe}; echo $? >status")),
        };
        let leader = lab
            .command("setsid")
            .args(["--ctty", shell, "-c", &script])
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::from(slave))
            .spawn()
            .unwrap();
        Self { master: Some(master), leader }
    }

    /// Returns the group in the foreground.
    fn job(&self) -> Pid {
        rustix::termios::tcgetpgrp(self.master.as_ref().unwrap()).unwrap()
    }

    /// Presses a key.
    fn press(&self, key: u8) {
        let master = self.master.as_ref().unwrap();
        rustix::io::write(master, &[key]).unwrap();
    }
}

/// Where stat(5) of a process has its group and its session, behind its name.
const GROUP: usize = 2;
const SESSION: usize = 3;

/// Returns the processes of a group or session: pid and state.
fn members(of: usize, id: Pid) -> Vec<(i32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // "12 (strap) S 1 11 10 …"
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        let (pid, _) = head.split_once(" (").unwrap();
        let fields: Vec<_> = tail.split_ascii_whitespace().collect();
        if fields[of].parse() == Ok(id.as_raw_nonzero().get()) {
            let state = fields[0].chars().next().unwrap();
            found.push((pid.parse().unwrap(), state));
        }
    }
    found
}

/// Returns whether no process of the group has a signal yet to take.
fn settled(group: Pid) -> bool {
    members(GROUP, group).iter().all(|(pid, _)| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pending = |line: &&str| line.starts_with("SigPnd:") || line.starts_with("ShdPnd:");
        let mut lines = status.lines().filter(pending);
        lines.all(|line| line.ends_with("\t0000000000000000"))
    })
}

/// Looks until `so`; after [`LIMIT`] it never is.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < LIMIT, "{what}: never");
        rustix::event::poll(&mut [], Some(&Duration::from_millis(5).try_into().unwrap())).unwrap();
    }
}

// -- What happens to a pipe -------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// This key, so often, while pacman works.
    Key(u8, usize),
    /// This key, so often, while something else works.
    Keys(u8, usize),
    /// SIGTERM to timeout(1), which started the pipe.
    Timeout,
    /// ^Z, and later `fg`.
    Stop,
    /// The terminal's other side is closed.
    Close,
    /// The leader of the session is killed.
    LeaderDies,
    /// These signals to every process of the job, one after the other.
    Kill(&'static [Signal]),
}

impl Event {
    fn happen(self, terminal: &mut Terminal, lab: &Lab) {
        let job = terminal.job();
        match self {
            Self::Key(key, times) => {
                for _ in 0..times {
                    terminal.press(key);
                    // pacman says so when it has the signal; before that, the same one twice is one.
                    let said = || fs::read_to_string(lab.path().join("err.strap")).unwrap();
                    until("interrupting pacman", || said().contains("Interrupt signal received"));
                }
            }
            Self::Keys(key, times) => {
                for _ in 0..times {
                    terminal.press(key);
                    until("taking a signal", || settled(job));
                }
            }
            // The job's first process.
            Self::Timeout => kill_process(job, Signal::TERM).unwrap(),
            Self::Stop => {
                terminal.press(b'Z' - b'@');
                let stopped = |job| {
                    let members = members(GROUP, job);
                    !members.is_empty() && members.iter().all(|(_, state)| *state == 'T')
                };
                until("stopping", || stopped(job));
                terminal.press(b'\n');
                until("going on", || !stopped(job));
            }
            Self::Close => drop(terminal.master.take()),
            Self::LeaderDies => {
                kill_process(Pid::from_child(&terminal.leader), Signal::KILL).unwrap();
            }
            Self::Kill(signals) => {
                for signal in signals {
                    // Where the first ended all, there is nobody for the second.
                    kill_process_group(job, *signal).unwrap_or_default();
                    until("taking a signal", || settled(job));
                }
            }
        }
    }
}

/// Waits until nothing of the pipe runs any more, and returns its exit status, where a leader lived to see it, and its
/// document.
#[track_caller]
fn end(lab: &Lab, mut terminal: Terminal, what: &str) -> (Option<i32>, Value) {
    // Those that undo are in no directory of the laboratory.
    let session = Pid::from_child(&terminal.leader);
    until(what, || {
        terminal.leader.try_wait().unwrap();
        members(SESSION, session).is_empty() && processes_below(lab.path()).is_empty()
    });
    let status = fs::read_to_string(lab.path().join("status")).ok();
    let text = fs::read_to_string(lab.path().join("doc.json")).unwrap_or_default();
    let document = serde_json::from_str(&text);
    let document = document.unwrap_or_else(|e| panic!("{what}: no document ({e}): «{text}»"));
    (status.map(|s| s.trim().parse().unwrap()), document)
}

/// Checks what is left: no mount, no lock of pacman's.
#[track_caller]
fn nothing_is_left(lab: &Lab, what: &str) {
    let mounts = Host::look().mounts_below(lab.path());
    assert_eq!(mounts, Vec::<String>::new(), "{what}: mounts");
    for lock in [LOCK, KILLED] {
        assert!(!lab.path().join(lock).exists(), "{what}: '{lock}' is left");
    }
}

// -- pacman at work ---------------------------------------------------------------------------------------------------

const INT: u8 = b'C' - b'@';
const QUIT: u8 = b'\\' - b'@';

/// The table: who leads, what happens, and whether the pipe is interrupted or succeeds.
const TABLE: &[(Leader, Event, bool)] = &[
    (Leader::Shell, Event::Key(INT, 1), true),
    (Leader::Shell, Event::Key(INT, 2), true),
    (Leader::Script, Event::Key(INT, 1), true),
    (Leader::Shell, Event::Key(QUIT, 1), true),
    (Leader::Shell, Event::Stop, false),
    (Leader::Shell, Event::Close, true),
    (Leader::Script, Event::Close, true),
    (Leader::Shell, Event::LeaderDies, true),
    (Leader::Shell, Event::Kill(&[Signal::INT, Signal::HUP, Signal::TERM]), true),
    (Leader::Shell, Event::Kill(&[Signal::TERM]), true),
    (Leader::Shell, Event::Kill(&[Signal::HUP, Signal::HUP, Signal::HUP]), true),
    (Leader::Shell, Event::Kill(&[Signal::QUIT]), true),
    (Leader::Shell, Event::Kill(&[Signal::USR1]), true),
    (Leader::Shell, Event::Kill(&[Signal::USR2]), true),
    (Leader::Shell, Event::Kill(&[Signal::XCPU, Signal::XCPU, Signal::XCPU]), true),
    (Leader::Shell, Event::Kill(&[Signal::ALARM]), true),
    (Leader::Shell, Event::Kill(&[Signal::PIPE]), false),
];

/// A root with packages, a package whose scriptlet waits, and a document that strap goes on from.
struct Bench {
    lab: Lab,
    /// A directory of the root, by the mount that is below those of the pipe: what is opened by it keeps none of them busy.
    var: File,
    server: Server,
    /// Whether the server says nothing any more.
    silent: Arc<AtomicBool>,
    mkroot: String,
}

impl Bench {
    fn new(who: Who, options: &str) -> Self {
        let lab = Lab::new(who);
        let mirror = Mirror::of("x86_64").tampered(&lab.path().join("m"), "scriptlet-waits");
        let silent = Arc::<AtomicBool>::default();
        let says_nothing = Arc::clone(&silent);
        let server = Server::lying(&mirror.www(), move |_| match says_nothing.load(Ordering::Relaxed) {
            true => Answer::Silence,
            false => Answer::Serve,
        });
        let (preset, url) = (mirror.preset(), server.url());
        let mkroot = format!("mkroot root --arch x86_64 --distro {}", preset.display());
        let ran = lab.sh(&format!(
            "{mkroot} | fetch-pacman --use /usr/bin/pacman \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring | strap bash coreutils | reap | unmount | tee ready.json"
        ));
        drop(ran.succeeded());
        Self {
            var: File::open(lab.path().join("root/var")).unwrap(),
            lab,
            server,
            silent,
            mkroot: format!("{mkroot} {options}"),
        }
    }

    /// Returns the pipe. Those that undo say on the terminal what they do.
    fn pipe(&self) -> String {
        let Self { mkroot, .. } = self;
        format!(
            "{mkroot} --state ready.json 2>err.mkroot | strap waits 2>err.strap \
             | reap | unmount >doc.json"
        )
    }

    /// Starts the pipe, and waits until the scriptlet does.
    fn start(&self, leader: Leader, pipe: &str) -> (Terminal, File) {
        let gone = "rm -rf status doc.json root/var/gate root/var/waits.done root/usr/share/waits \
                    root/var/lib/pacman/local/waits-1-1";
        // As root of this machine: in a user's root they are of other ids.
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", gone]).current_dir(self.lab.path());
        assert!(command.status().unwrap().success());
        let mut terminal = Terminal::start(&self.lab, leader, pipe);
        until("the scriptlet", || {
            let err = || fs::read_to_string(self.lab.path().join("err.strap")).unwrap_or_default();
            assert_eq!(terminal.leader.try_wait().unwrap(), None, "{}", err());
            self.lab.path().join("root/var/gate").exists()
        });
        (terminal, self.gate())
    }

    /// Waits until somebody inside reads from the gate, and returns what opens it. Before that, a shell that has just made it
    /// waits for mkfifo(1), and takes no SIGINT.
    fn gate(&self) -> File {
        let mut opened = None;
        until("reading from the gate", || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            opened = openat(&self.var, "gate", flags, Mode::empty()).ok();
            opened.is_some()
        });
        opened.unwrap().into()
    }

    /// Checks what came of it.
    #[track_caller]
    fn check(&self, terminal: Terminal, interrupted: bool, leader_lives: bool, what: &str) {
        let exit = leader_lives.then_some(if interrupted { 130 } else { 0 });
        let document = self.check_tool("strap", terminal, interrupted, exit, what);
        let list = |member: &str, key: &str| -> Vec<String> {
            let list = document[member].as_array().into_iter().flatten();
            let words = list.filter_map(|one| one[key].as_str());
            words.map(str::to_owned).collect()
        };
        for name in ["bash", "waits"] {
            assert!(list("packages", "name").contains(&name.to_owned()), "{what}: no {name}");
        }
    }

    /// Checks what came of a pipe of this tool and those that undo, and returns its document. `exit` is its exit status, where
    /// somebody lived to see it.
    #[track_caller]
    fn check_tool(&self, tool: &str, terminal: Terminal, interrupted: bool, exit: Option<i32>, what: &str) -> Value {
        let (status, document) = end(&self.lab, terminal, what);
        let error = &document["error"];
        let is = (&error["tool"], &error["code"], &error["exit"]);
        let should = match interrupted {
            true => (&json!(tool), &json!("interrupted"), &json!(130)),
            false => (&Value::Null, &Value::Null, &Value::Null),
        };
        assert_eq!(is, should, "{what}: {error}");
        assert_eq!(status, exit, "{what}");
        let steps = document["steps"].as_array().into_iter().flatten();
        let steps: Vec<_> = steps.filter_map(|step| step["tool"].as_str()).collect();
        assert!(steps.ends_with(&[tool, "reap", "unmount"]), "{what}: {steps:?}");
        nothing_is_left(&self.lab, what);
        document
    }
}

fn table(who: Who, options: &str) {
    let bench = Bench::new(who, options);
    let mut wrong = Vec::new();
    for &(leader, event, interrupted) in TABLE {
        let what = format!("{who:?} {options}: {leader:?}, {event:?}");
        let row = std::panic::AssertUnwindSafe(|| {
            let (mut terminal, mut gate) = bench.start(leader, &bench.pipe());
            event.happen(&mut terminal, &bench.lab);
            if !interrupted {
                gate.write_all(b"\n").unwrap();
            }
            let gone = [Event::Close, Event::LeaderDies].contains(&event);
            let lives = leader == Leader::Shell && !gone;
            bench.check(terminal, interrupted, lives, &what);
        });
        if let Err(why) = std::panic::catch_unwind(row) {
            let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
            wrong.push(why);
            bench.clear();
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), TABLE.len(), wrong.join("\n"));
}

impl Bench {
    /// Takes away what a row that went wrong has left, so that it says nothing of the next one.
    fn clear(&self) {
        for process in processes_below(self.lab.path()) {
            let pid = process.split(' ').next().unwrap().parse().unwrap();
            // It may have ended meanwhile.
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap_or_default();
        }
        until("an end", || processes_below(self.lab.path()).is_empty());
        let ran = self.lab.sh("[ ! -e root/proc/self ] || unmount --new root >&2; rm -f root/var/lib/pacman/db.lck*");
        assert_eq!(ran.status, 0, "{ran:?}");
    }
}

#[test]
fn with_mounts_on_the_host() {
    table(Who::Root, "--host");
}

#[test]
fn as_root() {
    table(Who::Root, "");
}

#[test]
fn as_a_user() {
    table(Who::User, "");
}

// -- Every other tool that makes, at its work -------------------------------------------------------------------------

/// What holds a tool, and how that is seen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hold {
    /// A program of the root reads from the gate.
    Gate,
    /// The server says nothing: it was asked.
    Server,
    /// Much to do: it has a file open that is as long.
    Work(u64),
}

/// Each tool with the command that is held, and what it would have made.
const HELD: &[(&str, &str, Hold, &str)] = &[
    ("fetch-pacman", "--server $URL/archlinuxcn/x86_64 --cache-dir $PWD/fetched -o pacman", Hold::Server, "pacman"),
    ("keyring", "", Hold::Server, "root.strapline/gnupg.new"),
    ("configure", "--locale de_DE.UTF-8", Hold::Gate, "root/etc/locale.conf"),
    ("enter", "-- sh -c 'read -r line </var/gate; touch /var/done'", Hold::Gate, "root/var/done"),
    ("verify", "", Hold::Server, "packages/bash.part"),
    ("pack", "-o root.tar --keep-keyring", Hold::Work(HOLE), "root.tar"),
    ("mkdisk", "-o disk.img --size 3T --keep-keyring --bootloader none", Hold::Work(1 << 40), "disk.img"),
];

/// The length of a file of the root that is one hole.
const HOLE: u64 = 60 << 30;

const EVENTS: &[(Leader, Event)] = &[
    (Leader::Shell, Event::Keys(INT, 1)),
    (Leader::Shell, Event::Keys(INT, 2)),
    (Leader::Script, Event::Keys(INT, 1)),
    (Leader::Shell, Event::Close),
    (Leader::Shell, Event::LeaderDies),
    (Leader::Shell, Event::Kill(&[Signal::QUIT])),
    (Leader::Shell, Event::Kill(&[Signal::INT, Signal::HUP])),
    (Leader::Shell, Event::Timeout),
];

impl Bench {
    /// Lays out what holds the tools, in the root and beside it.
    fn prepare(&self) {
        let script = format!(
            "rm -rf packages fetched; mkdir -p root/etc; mkfifo -m 666 root/var/gate; truncate -s {HOLE} root/0; \
             echo '#de_DE.UTF-8 UTF-8' >root/etc/locale.gen; \
             printf '#!/bin/sh\nread -r line </var/gate\n' >root/usr/bin/locale-gen; chmod 755 root/usr/bin/locale-gen; \
             chown --reference=root root/0 root/var/gate root/etc root/etc/locale.gen root/usr/bin/locale-gen"
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", &script]).current_dir(self.lab.path());
        assert!(command.status().unwrap().success());
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Runs one cell of the table.
    fn hold(&self, (tool, args, hold, makes): (&str, &str, Hold, &str), (leader, event): (Leader, Event)) {
        let what = format!("{tool} {args}: {leader:?}, {event:?}");
        fs::remove_file(self.lab.path().join("status")).unwrap_or_default();
        let args = args.replace("$URL", self.server.url());
        let mut pipe = format!(
            "{} --state ready.json 2>err.mkroot | {tool} {args} 2>err.tool | reap | unmount >doc.json",
            self.mkroot
        );
        if event == Event::Timeout {
            fs::write(self.lab.path().join("pipe"), pipe).unwrap();
            pipe = "timeout 3600 sh pipe".to_owned();
        }
        let asked = self.server.requests().len();
        // Inside, there is no session of ours.
        let hole = self.lab.path().join("root/0").metadata().unwrap();
        let hole = (hole.dev(), hole.ino());
        let mut terminal = Terminal::start(&self.lab, leader, &pipe);
        let mut gate = None;
        until(&format!("{what}: its work"), || {
            let err = || fs::read_to_string(self.lab.path().join("err.tool")).unwrap_or_default();
            assert_eq!(terminal.leader.try_wait().unwrap(), None, "{what}: {}", err());
            match hold {
                Hold::Server => self.server.requests().len() > asked,
                Hold::Work(length) => is_open(length, hole, Pid::from_child(&terminal.leader)),
                Hold::Gate => {
                    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    gate = openat(&self.var, "gate", flags, Mode::empty()).ok();
                    gate.is_some()
                }
            }
        });
        event.happen(&mut terminal, &self.lab);
        let exit = match event {
            Event::Close | Event::LeaderDies => None,
            // timeout(1) sends it to the shell, too, whose status it then has.
            Event::Timeout => Some(128 + 15),
            _ => (leader == Leader::Shell).then_some(130),
        };
        self.check_tool(tool, terminal, true, exit, &what);
        drop(gate);
        assert!(!self.lab.path().join(makes).exists(), "{what}: '{makes}' is there");
    }
}

/// Returns whether a process has such a file open: one that is as long and is this one, or is open in this session.
fn is_open(length: u64, hole: (u64, u64), session: Pid) -> bool {
    let of_session = members(SESSION, session);
    let open = |entry: fs::DirEntry| {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            return false;
        };
        let ours = of_session.iter().any(|(member, _)| *member == pid);
        let files = fs::read_dir(entry.path().join("fd"));
        let metas = files.into_iter().flatten().flatten();
        let mut metas = metas.filter_map(|file| file.path().metadata().ok());
        metas.any(|m| m.is_file() && m.len() >= length && (ours || (m.dev(), m.ino()) == hole))
    };
    fs::read_dir("/proc").unwrap().flatten().any(open)
}

fn held(who: Who, options: &str) {
    let bench = Bench::new(who, options);
    bench.prepare();
    let mut wrong = Vec::new();
    // What is mounted on the host is not to go into a disk: mkdisk refuses it.
    let refused = |tool: &str| tool == "mkdisk" && options == "--host";
    for &row in HELD.iter().filter(|(tool, ..)| !refused(tool)) {
        for &event in EVENTS {
            let cell = std::panic::AssertUnwindSafe(|| bench.hold(row, event));
            if let Err(why) = std::panic::catch_unwind(cell) {
                wrong.push(why.downcast_ref::<String>().cloned().unwrap_or_default());
                bench.clear();
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_tool_with_mounts_on_the_host() {
    held(Who::Root, "--host");
}

#[test]
fn each_tool_as_root() {
    held(Who::Root, "");
}

#[test]
fn each_tool_as_a_user() {
    held(Who::User, "");
}

// -- What was ignored at the start ------------------------------------------------------------------------------------

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    const KEYS: Event = Event::Kill(&[Signal::INT, Signal::QUIT]);
    const HUP: Event = Event::Kill(&[Signal::HUP]);
    for who in [Who::Root, Who::User] {
        let bench = Bench::new(who, "");
        // nohup(1), and what a shell without job control does with its background jobs.
        let nohup = format!("nohup sh -c '{}' 2>err", bench.pipe());
        // Each signal ends one wait.
        let background = format!("trap : INT QUIT; {{ {}; }} & while kill -0 $!; do wait $!; done", bench.pipe());
        for (leader, pipe, event) in [(Leader::Shell, nohup, HUP), (Leader::Script, background, KEYS)] {
            let (mut terminal, mut gate) = bench.start(leader, &pipe);
            event.happen(&mut terminal, &bench.lab);
            gate.write_all(b"\n").unwrap();
            bench.check(terminal, false, true, &format!("{who:?}: {pipe}"));
        }
        // A command inherits it.
        let (lab, file) = (&bench.lab, |name: &str| bench.lab.path().join(name));
        fs::remove_file(file("status")).unwrap();
        let mut terminal = Terminal::start(
            lab,
            Leader::Shell,
            "nohup enter --state ready.json -- sh -c \
             'trap : TERM; read -r line </var/gate; kill -HUP $$; echo lives' >said",
        );
        let mut gate = bench.gate();
        HUP.happen(&mut terminal, lab);
        gate.write_all(b"\n").unwrap();
        until("ending", || terminal.leader.try_wait().unwrap().is_some());
        let read = |name: &str| fs::read_to_string(file(name)).unwrap();
        assert_eq!((&*read("said"), &*read("status")), ("lives\n", "0\n"));
    }
}

// -- A limit on files -------------------------------------------------------------------------------------------------

#[test]
fn a_limit_on_files_is_a_failed_write_and_no_end() {
    for who in [Who::Root, Who::User] {
        let bench = Bench::new(who, "");
        let new = bench.mkroot.replace(" root ", " new --new ");
        for command in [
            &*new,
            "keyring --state ready.json",
            "strap --state ready.json waits",
            "pack --state ready.json -o root.tar",
        ] {
            let ran =
                bench.lab.sh(&format!("(ulimit -f 0; exec env --default-signal=XFSZ {command}) | reap | unmount"));
            let document = ran.document();
            let tool = command.split(' ').next();
            assert_eq!(document["error"]["tool"].as_str(), tool, "{who:?}: {ran:?}");
            assert_eq!(document["error"]["exit"], ran.status, "{who:?}: {ran:?}");
            assert!(!ran.stdout.contains("SIGXFSZ"), "{who:?}: {ran:?}");
            nothing_is_left(&bench.lab, command);
        }
        // The document itself goes to a file that may not hold it.
        let ran = bench.lab.sh("ulimit -f 1; exec env --default-signal=XFSZ reap --state ready.json >part.json");
        assert_eq!(ran.status, 74, "{who:?}: {ran:?}");
    }
}
