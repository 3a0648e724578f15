//! Signals × terminals × modes, on a real terminal: what comes of the document, the mounts, the locks and the exit status.
//!
//! The pipe is held where pacman runs a scriptlet that waits for ever, or where a tool waits for a server, a command or its own
//! work; the stages that undo read meanwhile. Nothing here depends on how fast this machine is: what is waited for is seen
//! in `/proc` or in a file, and what never ends is ended after [`LIMIT`].

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use strapline_tests::lab::{Host, processes_below};
use strapline_tests::trial::{KILLED, LOCK};
use strapline_tests::{Lab, Mirror, Server, Who};

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
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut options = File::options();
        options.read(true).write(true);
        let slave = options
            .custom_flags(nix::libc::O_NOCTTY)
            .open(name.to_str().unwrap())
            .unwrap();
        let (shell, script) = match leader {
            // A job that was stopped goes on when somebody says so.
            Leader::Shell => (
                "bash",
                format!(
                    "set -m; {pipe}; s=$?; while jobs %% >&2; do read -r go; fg >&2; s=$?; done; echo $s >status"
                ),
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
        Self {
            master: Some(master),
            leader,
        }
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
    /// This key, so often.
    Key(u8, usize),
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
                    until("interrupting pacman", || {
                        said().contains("Interrupt signal received")
                    });
                }
            }
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
    (
        Leader::Shell,
        Event::Kill(&[Signal::INT, Signal::HUP, Signal::TERM]),
        true,
    ),
    (Leader::Shell, Event::Kill(&[Signal::TERM]), true),
    (
        Leader::Shell,
        Event::Kill(&[Signal::HUP, Signal::HUP, Signal::HUP]),
        true,
    ),
    (Leader::Shell, Event::Kill(&[Signal::QUIT]), true),
    (Leader::Shell, Event::Kill(&[Signal::USR1]), true),
    (Leader::Shell, Event::Kill(&[Signal::USR2]), true),
    (
        Leader::Shell,
        Event::Kill(&[Signal::XCPU, Signal::XCPU, Signal::XCPU]),
        true,
    ),
    (Leader::Shell, Event::Kill(&[Signal::ALARM]), true),
    (Leader::Shell, Event::Kill(&[Signal::PIPE]), false),
];

/// A root with packages, a package whose scriptlet waits, and a document that strap goes on from.
struct Bench {
    lab: Lab,
    /// A directory of the root, by the mount that is below those of the pipe: what is opened by it keeps none of them busy.
    var: File,
    _server: Server,
    mkroot: String,
}

impl Bench {
    fn new(who: Who, options: &str) -> Self {
        let lab = Lab::new(who);
        let mirror = Mirror::of("x86_64").tampered(&lab.path().join("m"), "scriptlet-waits");
        let server = Server::of(&mirror.www());
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
            _server: server,
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
        let (status, document) = end(&self.lab, terminal, what);
        let error = &document["error"];
        let is = (&error["tool"], &error["code"], &error["exit"]);
        let (should, exit) = match interrupted {
            true => (
                (&json!("strap"), &json!("interrupted"), &json!(130)),
                Some(130),
            ),
            false => ((&Value::Null, &Value::Null, &Value::Null), Some(0)),
        };
        assert_eq!(is, should, "{what}: {error}");
        assert_eq!(status, exit.filter(|_| leader_lives), "{what}");
        let list = |member: &str, key: &str| -> Vec<String> {
            let list = document[member].as_array().into_iter().flatten();
            let words = list.filter_map(|one| one[key].as_str());
            words.map(str::to_owned).collect()
        };
        let steps = list("steps", "tool");
        assert!(
            steps.ends_with(&["strap", "reap", "unmount"].map(str::to_owned)),
            "{what}: {steps:?}"
        );
        for name in ["bash", "waits"] {
            assert!(
                list("packages", "name").contains(&name.to_owned()),
                "{what}: no {name}"
            );
        }
        nothing_is_left(&self.lab, what);
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
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        TABLE.len(),
        wrong.join("\n")
    );
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
        let ran = self.lab.sh(
            "[ ! -e root/proc/self ] || unmount --new root >&2; rm -f root/var/lib/pacman/db.lck*",
        );
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
        let background = format!(
            "trap : INT QUIT; {{ {}; }} & while kill -0 $!; do wait $!; done",
            bench.pipe()
        );
        for (leader, pipe, event) in [
            (Leader::Shell, nohup, HUP),
            (Leader::Script, background, KEYS),
        ] {
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
            let ran = bench.lab.sh(&format!(
                "(ulimit -f 0; exec env --default-signal=XFSZ {command}) | reap | unmount"
            ));
            let document = ran.document();
            let tool = command.split(' ').next();
            assert_eq!(document["error"]["tool"].as_str(), tool, "{who:?}: {ran:?}");
            assert_eq!(document["error"]["exit"], ran.status, "{who:?}: {ran:?}");
            assert!(!ran.stdout.contains("SIGXFSZ"), "{who:?}: {ran:?}");
            nothing_is_left(&bench.lab, command);
        }
        // The document itself goes to a file that may not hold it.
        let ran = bench
            .lab
            .sh("ulimit -f 1; exec env --default-signal=XFSZ reap --state ready.json >part.json");
        assert_eq!(ran.status, 74, "{who:?}: {ran:?}");
    }
}
